use proptest::prelude::*;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::order::{Finding, explain};
use super::*;

type Op = Operation<u32>;

const EFFORT_MAX: u64 = 1_000_000;

fn ms(millis: u64) -> Moment {
    Moment::from_millis(millis)
}

fn op(from: u64, to: u64, call: Call<u32>, answer: Answer<u32>) -> Op {
    Operation::new(ms(from), call).answered(ms(to), answer).unwrap()
}

fn write(from: u64, to: u64, value: u32) -> Op {
    op(from, to, Call::Write(value), Answer::Done)
}

fn read(from: u64, to: u64, value: Option<u32>) -> Op {
    op(from, to, Call::Read, Answer::Value(value))
}

fn swap(from: u64, to: u64, old: u32, new: u32, swapped: bool) -> Op {
    op(from, to, Call::Swap { from: Some(old), to: Some(new) }, Answer::Swapped(swapped))
}

fn delete(from: u64, to: u64) -> Op {
    op(from, to, Call::Delete, Answer::Done)
}

fn is_explained(operations: &[Op]) -> bool {
    match explain(None, operations, EFFORT_MAX) {
        Ok(_) => true,
        Err(Finding::Contradiction { .. }) => false,
        Err(hard @ Finding::TooHard { .. }) => panic!("{hard}"),
    }
}

#[test]
fn concurrent_operations_may_take_either_order() {
    let two = [write(1, 5, 1), write(1, 5, 2)];
    for last in [1, 2] {
        assert!(is_explained(&[two[0].clone(), two[1].clone(), read(6, 7, Some(last))]));
    }
    assert!(!is_explained(&[write(1, 2, 1), write(3, 4, 2), read(5, 6, Some(1))]));
    // What ends at the moment at which another begins is concurrent to it: clocks have a grain.
    assert!(is_explained(&[write(1, 3, 1), write(3, 4, 2), read(5, 6, Some(1))]));
}

#[test]
fn a_stale_read_is_found() {
    assert!(!is_explained(&[write(1, 2, 1), read(3, 4, None)]));
    assert!(!is_explained(&[write(1, 2, 1), write(3, 9, 2), read(4, 5, Some(2)), read(6, 7, Some(1))]));
}

#[test]
fn a_lost_update_is_found() {
    let lost = [
        write(1, 2, 1),
        op(3, 4, Call::Swap { from: Some(1), to: Some(2) }, Answer::Swapped(true)),
        read(5, 6, Some(1)),
    ];
    assert!(!is_explained(&lost));
}

#[test]
fn a_compare_and_set_that_succeeds_twice_is_found() {
    assert!(!is_explained(&[write(1, 2, 1), swap(3, 9, 1, 2, true), swap(4, 8, 1, 3, true)]));
    assert!(is_explained(&[write(1, 2, 1), swap(3, 9, 1, 2, true), swap(4, 8, 1, 3, false)]));
}

#[test]
fn a_deleted_value_that_comes_back_is_found() {
    assert!(!is_explained(&[write(1, 2, 1), delete(3, 4), read(5, 6, None), read(7, 8, Some(1))]));
    let existed = |from, to, existed| op(from, to, Call::Delete, Answer::Existed(existed));
    assert!(!is_explained(&[write(1, 2, 1), existed(3, 4, true), existed(5, 6, true)]));
    assert!(is_explained(&[write(1, 2, 1), existed(3, 4, true), existed(5, 6, false)]));
}

#[test]
fn what_was_never_answered_may_happen_late_or_never_but_once() {
    let lost = Operation::new(ms(1), Call::Write(1));
    let later = [lost.clone(), write(2, 3, 2), read(4, 5, Some(2)), read(6, 7, Some(1))];
    assert!(is_explained(&later));
    let twice = [lost.clone(), read(4, 5, Some(1)), write(6, 7, 2), read(8, 9, Some(1))];
    assert!(!is_explained(&twice));
    assert!(is_explained(&[lost.clone(), read(4, 5, None)]));
    // Not before it was called.
    assert!(!is_explained(&[read(0, 0, Some(1)), lost]));
    // One that needs another one.
    let chain = [
        Operation::new(ms(1), Call::Swap { from: Some(1), to: Some(2) }),
        Operation::new(ms(1), Call::Write(1)),
        read(4, 5, Some(2)),
    ];
    assert!(is_explained(&chain));
    assert!(!is_explained(&[chain[0].clone(), chain[2].clone()]));
}

#[test]
fn a_history_says_which_key_and_what_could_not_come_next() {
    let mut history = History::new();
    for (key, wrong) in [("good", false), ("bad", true)] {
        let first = history.call(key, ms(1), Call::Write(1));
        history.answer(&first, ms(2), Answer::Done).unwrap();
        let refused = history.call(key, ms(2), Call::Write(9));
        history.refuse(&refused);
        assert_eq!(history.answer(&refused, ms(3), Answer::Done), Err(NoSuchAnswer));
        let read = history.call(key, ms(3), Call::Read);
        assert_eq!(history.answer(&read, ms(4), Answer::Done), Err(NoSuchAnswer));
        history.answer(&read, ms(4), Answer::Value(Some(if wrong { 9 } else { 1 }))).unwrap();
    }
    assert_eq!(history.len(), 4);
    let violation = history.check(EFFORT_MAX).unwrap_err();
    let blocked = vec![read(3, 4, Some(9))];
    let finding = Finding::Contradiction { placed: 0, blocked };
    assert_eq!(violation, Violation { key: "bad", finding });
    assert!(violation.to_string().contains("after 0 operations, none of these"), "{violation}");
}

/// Tries every order of every subset that must and may have happened.
fn brute_force(operations: &[Op], done: &mut Vec<bool>, state: Option<u32>) -> bool {
    if operations.iter().zip(&*done).all(|(o, done)| *done || o.answer.is_none()) {
        return true;
    }
    let waits = |o: &Op, done: &[bool]| {
        let before = |(other, done): (&Op, &bool)| {
            !*done && other.answer.as_ref().is_some_and(|(answered, _)| *answered < o.called)
        };
        operations.iter().zip(done).any(before)
    };
    for at in 0..operations.len() {
        let operation = &operations[at];
        if done[at] || waits(operation, done) {
            continue;
        }
        let answer = operation.answer.as_ref().map(|(_, answer)| answer);
        let Some(next) = carry_out(&operation.call, answer, state) else { continue };
        done[at] = true;
        let explained = brute_force(operations, done, next);
        done[at] = false;
        if explained {
            return true;
        }
    }
    false
}

/// The state after a call, if its answer is right.
#[expect(clippy::option_option, reason = "no state, and no value, are two things")]
fn carry_out(call: &Call<u32>, answer: Option<&Answer<u32>>, state: Option<u32>) -> Option<Option<u32>> {
    let (next, right) = match call {
        Call::Read => (state, Answer::Value(state)),
        Call::Write(value) => (Some(*value), Answer::Done),
        Call::Swap { from, to } if *from == state => (*to, Answer::Swapped(true)),
        Call::Swap { .. } => (state, Answer::Swapped(false)),
        Call::Delete => (None, Answer::Existed(state.is_some())),
    };
    let fits = |answer: &Answer<u32>| *answer == right || (*answer == Answer::Done && *call == Call::Delete);
    answer.is_none_or(fits).then_some(next)
}

fn calls() -> impl Strategy<Value = Call<u32>> {
    let value = || 1_u32..4;
    let maybe = || proptest::option::of(1_u32..4);
    prop_oneof![
        Just(Call::Read),
        value().prop_map(Call::Write),
        (maybe(), maybe()).prop_map(|(from, to)| Call::Swap { from, to }),
        Just(Call::Delete),
    ]
}

/// Any operations whatever, with answers that may be right or wrong.
fn anything() -> impl Strategy<Value = Vec<Op>> {
    let one = (calls(), 0_u64..12, 0_u64..6, 0_u32..4, any::<bool>(), 0..4).prop_map(
        |(call, called, took, value, yes, lost)| {
            let answer = match call {
                Call::Read => Answer::Value(Some(value).filter(|v| *v > 0)),
                Call::Write(_) => Answer::Done,
                Call::Swap { .. } => Answer::Swapped(yes),
                Call::Delete if value > 1 => Answer::Done,
                Call::Delete => Answer::Existed(yes),
            };
            let operation = Operation::new(ms(called), call);
            if lost == 0 { operation } else { operation.answered(ms(called + took), answer).unwrap() }
        },
    );
    proptest::collection::vec(one, 1..8)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, ..ProptestConfig::default() })]
    #[test]
    fn it_says_what_trying_everything_says(operations in anything()) {
        let wanted = brute_force(&operations, &mut vec![false; operations.len()], None);
        prop_assert_eq!(is_explained(&operations), wanted);
    }

    #[test]
    fn it_says_so_of_what_really_happened_too(seed: u64, wrong: bool) {
        let mut operations = happened(seed, Shape { callers: 4, operations: 8, lost: 20, values: 3 });
        if wrong {
            falsify(seed, &mut operations);
        }
        let wanted = brute_force(&operations, &mut vec![false; operations.len()], None);
        prop_assert!(wanted || wrong);
        prop_assert_eq!(is_explained(&operations), wanted);
    }
}

#[derive(Clone, Copy)]
struct Shape {
    callers: usize,
    operations: usize,
    /// How many of a hundred operations are never answered; half of these take effect.
    lost: u32,
    /// Values are 1 to this; with zero, every write has its own.
    values: u32,
}

/// What callers of a register are told that does everything at one instant.
fn happened(seed: u64, shape: Shape) -> Vec<Op> {
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut free = vec![0_u64; shape.callers];
    let mut planned = Vec::new();
    for at in 0..shape.operations {
        let caller = at % shape.callers;
        let called = free[caller] + rng.random_range(0..20);
        let instant = called + rng.random_range(0..50);
        let answered = instant + rng.random_range(0..50);
        let lost = rng.random_range(0..100) < shape.lost;
        // Who was not answered asks again before the call it gave up has taken effect.
        free[caller] = if lost { called + 10 } else { answered + 1 };
        let instant = if lost { called + rng.random_range(0..2000) } else { instant };
        planned.push((instant, at, called, answered, lost));
    }
    planned.sort_unstable();
    let (mut state, mut fresh) = (None, 0);
    let mut operations = Vec::new();
    for (_, _, called, answered, lost) in planned {
        fresh += 1;
        let value = if shape.values == 0 { fresh } else { rng.random_range(1..=shape.values) };
        let guess = if rng.random_range(0..3) == 0 { Some(rng.random_range(1..=value)) } else { state };
        let call = match rng.random_range(0..10) {
            0..4 => Call::Read,
            4..7 => Call::Write(value),
            7..9 => Call::Swap { from: guess, to: Some(value) },
            _ => Call::Delete,
        };
        let operation = Operation::new(ms(called), call.clone());
        let answer = match &call {
            Call::Read => Answer::Value(state),
            Call::Write(_) => Answer::Done,
            Call::Swap { from, .. } => Answer::Swapped(*from == state),
            Call::Delete => Answer::Existed(state.is_some()),
        };
        if !lost || rng.random_range(0..2) == 0 {
            state = carry_out(&call, None, state).unwrap();
        }
        operations.push(if lost { operation } else { operation.answered(ms(answered), answer).unwrap() });
    }
    operations
}

/// Changes one answer.
fn falsify(seed: u64, operations: &mut [Op]) {
    let mut rng = SmallRng::seed_from_u64(seed);
    let seen = operations.iter().filter_map(|o| match o.answer {
        Some((_, Answer::Value(value))) => Some(value),
        _ => None,
    });
    let seen: Vec<_> = seen.collect();
    let reads = operations.iter_mut().filter(|o| o.call == Call::Read && o.answer.is_some());
    let reads: Vec<_> = reads.collect();
    if reads.len() < 2 {
        return;
    }
    // In the middle, so that there is much before it and much after it.
    let middle = reads.len() / 2;
    let Some(read) = reads.into_iter().nth(middle) else { return };
    let old = seen[rng.random_range(0..seen.len() / 4 + 1)];
    read.answer.as_mut().unwrap().1 = Answer::Value(old);
}

#[test]
fn thousands_of_operations_on_one_key_are_explained() {
    for seed in 0..4 {
        for (callers, operations, values) in [(4, 4000, 0), (16, 4000, 0), (8, 2000, 5)] {
            let operations = happened(seed, Shape { callers, operations, lost: 3, values });
            let effort = explain(None, &operations, EFFORT_MAX);
            assert!(
                effort.is_ok(),
                "seed {seed}, {callers} callers, {values} values: {}",
                effort.unwrap_err()
            );
        }
    }
}

#[test]
fn one_wrong_answer_among_thousands_is_found() {
    for (seed, callers, operations) in
        [(0, 4, 4000), (0, 16, 400), (4, 12, 4000), (5, 16, 4000), (6, 12, 4000)]
    {
        let mut operations = happened(seed, Shape { callers, operations, lost: 3, values: 0 });
        falsify(seed, &mut operations);
        let found = explain(None, &operations, EFFORT_MAX);
        let is_found = matches!(found, Err(Finding::Contradiction { .. }));
        assert!(is_found, "seed {seed}, {callers} callers: {found:?}");
    }
}
