use proptest::prelude::*;

use super::*;

const PATIENT: Patience = Patience { for_order: true, tries_again: true };
const HURRIED: Patience = Patience { for_order: false, tries_again: true };

fn to(number: u64) -> ClaimNumber {
    ClaimNumber(number)
}

fn message(item: u64) -> Waiting<u64> {
    Waiting { item, bytes: 10, due: Moment::from_millis(1000 + item), out_of_order: false }
}

fn sent(next: Next<u64>) -> (Pass, u64) {
    match next {
        Next::Send(pass, item) => (pass, item),
        other => panic!("not sent: {other:?}"),
    }
}

#[test]
fn who_waits_is_sent_in_order_before_whatever_comes_later() {
    let mut line = Line::default();
    let before = line.enter(to(1)).expect("nobody waits");
    assert!(!line.passed(before, true));
    assert!(line.wait(message(1)).expect("there is room").1, "somebody is to begin");
    assert!(!line.wait(message(2)).expect("there is room").1, "somebody looks after it already");
    assert!(line.enter(to(2)).is_none(), "others wait");
    line.wait(message(3)).expect("there is room");
    let mut order = Vec::new();
    for _ in 0..3 {
        let (pass, item) = sent(line.take(to(2), PATIENT));
        order.push(item);
        line.passed(pass, true);
    }
    assert_eq!(order, [1, 2, 3]);
    assert!(matches!(line.take(to(2), PATIENT), Next::Rest));
    assert!(line.enter(to(2)).is_some(), "nobody waits any more");
}

#[test]
fn what_came_back_stands_where_it_stood() {
    let mut line = Line::default();
    let passes: Vec<_> = (1..=3).map(|_| line.enter(to(1)).expect("nobody waits")).collect();
    let mut back: Vec<_> = passes.into_iter().zip(1..).collect();
    back.rotate_right(1);
    for (pass, item) in back {
        line.came_back(pass, message(item)).expect("it waits");
    }
    line.wait(message(4)).expect("it waits");
    assert!(matches!(line.take(to(1), Patience { tries_again: false, ..PATIENT }), Next::Later));
    // One of them tries whether they answer now.
    let (probe, first) = sent(line.take(to(1), PATIENT));
    assert_eq!(first, 1);
    assert!(matches!(line.take(to(1), PATIENT), Next::Later), "one at a time");
    line.passed(probe, true);
    let rest: Vec<_> = (0..3).map(|_| sent(line.take(to(1), PATIENT))).map(|(_, item)| item).collect();
    assert_eq!(rest, [2, 3, 4]);
}

#[test]
fn the_next_instance_is_sent_nothing_before_the_last_ones_messages_have_ended() {
    let mut line = Line::default();
    let first = line.enter(to(1)).expect("nobody waits");
    assert!(line.enter(to(2)).is_none(), "the first may come back");
    line.wait(message(2)).expect("it waits");
    assert!(matches!(line.take(to(2), PATIENT), Next::Later));
    line.came_back(first, message(1)).expect("it waits");
    assert_eq!(sent(line.take(to(2), PATIENT)).1, 1);
    assert_eq!(sent(line.take(to(2), PATIENT)).1, 2);
}

#[test]
fn what_was_overtaken_is_told_so() {
    let mut line = Line::default();
    let first = line.enter(to(1)).expect("nobody waits");
    let second = line.enter(to(1)).expect("nobody waits");
    line.passed(second, true);
    assert!(
        matches!(line.came_back(first, message(1)), Err((_, Refused::Overtaken))),
        "the second was carried out"
    );
    // Nobody knows what became of one on a node that hangs.
    let hangs = line.enter(to(1)).expect("nobody waits");
    line.wait(message(2)).expect("it waits");
    assert_eq!(sent(line.take(to(2), HURRIED)).1, 2);
    assert!(matches!(line.came_back(hangs, message(1)), Err((_, Refused::Overtaken))));
}

#[test]
fn a_message_that_does_no_harm_at_any_time_is_sent_again_all_the_same() {
    let mut line = Line::default();
    let first = line.enter(to(1)).expect("nobody waits");
    let second = line.enter(to(1)).expect("nobody waits");
    line.passed(second, true);
    line.came_back(first, Waiting { out_of_order: true, ..message(1) }).expect("it waits");
    assert_eq!(sent(line.take(to(1), PATIENT)).1, 1);
}

#[test]
fn a_full_line_refuses_the_next_and_keeps_the_others() {
    let mut line = Line::default();
    for item in 0..WAITING_MAX as u64 {
        line.wait(message(item)).expect("there is room");
    }
    assert!(matches!(line.wait(message(0)), Err((_, Refused::Full))));
    assert_eq!(line.len(), WAITING_MAX);
    let mut line = Line::default();
    line.wait(Waiting { bytes: WAITING_BYTES_MAX, ..message(1) }).expect("one of the greatest length fits");
    assert!(matches!(line.wait(Waiting { bytes: 1, ..message(2) }), Err((_, Refused::Full))));
    assert!(line.leave(1).is_some());
    line.wait(message(3)).expect("there is room again");
}

#[test]
fn each_has_its_own_deadline_and_all_are_told_when_the_name_is_free() {
    let mut line = Line::default();
    for item in [30, 10, 20] {
        line.wait(message(item)).expect("there is room");
    }
    assert_eq!(line.next_due(), Some(Moment::from_millis(1010)));
    assert_eq!(line.expire(Moment::from_millis(1010)), Some(10));
    assert_eq!(line.expire(Moment::from_millis(1010)), None);
    line.close();
    assert!(matches!(line.take(to(1), PATIENT), Next::Over));
    assert!(matches!(line.wait(message(1)), Err((_, Refused::Over))));
    assert_eq!(line.end(), [30, 20]);
    assert!(line.enter(to(1)).is_none());
}

/// What the world does to a line.
#[derive(Clone, Debug)]
enum Act {
    Comes,
    Ends { at: usize, carried_out: bool },
    ComesBack { at: usize },
    Takes { patient: bool },
    Moves,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        3 => Just(Act::Comes),
        3 => (any::<usize>(), any::<bool>()).prop_map(|(at, carried_out)| Act::Ends { at, carried_out }),
        3 => any::<usize>().prop_map(|at| Act::ComesBack { at }),
        3 => any::<bool>().prop_map(|patient| Act::Takes { patient }),
        1 => Just(Act::Moves),
    ]
}

proptest! {
    /// Whoever answers carries out what reaches them in the order in which it was sent to them, up to where they stop; the
    /// rest comes back, in any order. Then no message is carried out after a later one, none twice, and each either was, or
    /// waits, or was told.
    #[test]
    fn nothing_is_carried_out_after_a_later_one(acts in proptest::collection::vec(act(), 0..200)) {
        let mut line = Line::<u64>::default();
        let mut holder = to(1);
        let (mut came, mut told) = (0, BTreeSet::new());
        let mut done: Vec<u64> = Vec::new();
        // On their way: who, which. What is carried out is so in the order of sending, as on one connection.
        let mut under_way: Vec<(Pass, u64)> = Vec::new();
        for act in acts {
            match act {
                Act::Comes => {
                    came += 1;
                    match line.enter(holder) {
                        Some(pass) => under_way.push((pass, came)),
                        None => drop(line.wait(message(came)).expect("there is room")),
                    }
                }
                Act::Ends { at, carried_out } if !under_way.is_empty() => {
                    let at = at % under_way.len();
                    let earlier_there = under_way[..at].iter().any(|(pass, _)| pass.to == under_way[at].0.to);
                    if !earlier_there {
                        let (pass, item) = under_way.remove(at);
                        // The former holder ended before the next one began: what comes late of it was done before.
                        let now = carried_out && pass.to == holder;
                        if now {
                            done.push(item);
                        } else {
                            told.insert(item);
                        }
                        line.passed(pass, carried_out);
                    }
                }
                Act::ComesBack { at } if !under_way.is_empty() => {
                    let (pass, item) = under_way.remove(at % under_way.len());
                    if let Err((message, why)) = line.came_back(pass, message(item)) {
                        prop_assert_eq!(why, Refused::Overtaken);
                        told.insert(message.item);
                    }
                }
                Act::Takes { patient } => {
                    let patience = Patience { for_order: patient, tries_again: true };
                    match line.take(holder, patience) {
                        Next::Send(pass, item) => under_way.push((pass, item)),
                        Next::Overtaken(item) => drop(told.insert(item)),
                        Next::Later | Next::Rest => {}
                        Next::Over => prop_assert!(false, "it is not over"),
                    }
                }
                Act::Moves => {
                    // The former holder answers nobody any more: what is on its way to them comes back or is lost.
                    holder.0 += 1;
                    for (pass, item) in std::mem::take(&mut under_way) {
                        if item % 2 == 0 {
                            under_way.push((pass, item));
                        } else {
                            told.insert(item);
                            line.passed(pass, true);
                        }
                    }
                }
                Act::Ends { .. } | Act::ComesBack { .. } => {}
            }
            let stale = under_way.iter().filter(|(pass, _)| pass.to != holder).count();
            // Those of a former holder are not carried out any more: they come back at last.
            if stale > 3 {
                let at = under_way.iter().position(|(pass, _)| pass.to != holder).expect("there are");
                let (pass, item) = under_way.remove(at);
                if line.came_back(pass, message(item)).is_err() {
                    told.insert(item);
                }
            }
        }
        let on_their_way: BTreeSet<u64> = under_way.iter().map(|(_, item)| *item).collect();
        let in_line: BTreeSet<u64> = line.end().into_iter().collect();
        let all = done.len() + told.len() + on_their_way.len() + in_line.len();
        prop_assert_eq!(all as u64, came, "each once: {:?} {:?} {:?} {:?}", done, told, on_their_way, in_line);
        prop_assert!(done.is_sorted(), "{:?}", done);
    }
}
