use std::time::Duration;

use super::*;
use crate::ids::{GroupId, Kind};
use crate::names::placement::Placing;
use crate::supervision::Restart;

const DIRECTORY: PartitionId = PartitionId { group: GroupId::Names, index: 3 };

fn name() -> Name {
    Name::new("one").unwrap()
}

fn id(number: u64) -> InstanceId {
    InstanceId { directory: DIRECTORY, number: ClaimNumber(number) }
}

fn frame(epoch: u64, nth: u64, plan: u64, orders: Vec<Order>) -> Frame {
    let stamp = Stamp { epoch: Epoch(epoch), number: nth };
    Frame { directory: DIRECTORY, stamp, plan: Version(plan), orders }
}

fn start(number: u64) -> Order {
    let spec = Arc::new(Spec {
        kind: Kind::new("child").unwrap(),
        args: Bytes::new(),
        restart: Restart::Permanent,
        restarts_max: 5,
        window: Duration::from_secs(30),
        placing: Placing::Uniform,
    });
    Order::Start { name: name(), number: ClaimNumber(number), spec, handed: Bytes::new() }
}

fn stop(number: u64) -> Order {
    Order::Stop { name: name(), number: ClaimNumber(number), moves: true }
}

fn give(crew: &mut Crew, frame: Frame) -> Vec<Effect> {
    crew.handle_orders(frame, |_, actor| actor == 7)
}

fn tell(answer: Answer) -> Effect {
    Effect::Tell { directory: DIRECTORY, answer }
}

fn member() -> Crew {
    let mut crew = Crew::default();
    assert_eq!(crew.handle_membership(Version(1), true), []);
    crew
}

fn spawns(effects: &[Effect], number: u64) -> bool {
    matches!(effects, [Effect::Spawn { instance, .. }] if *instance == id(number))
}

#[test]
fn a_start_that_is_told_twice_is_one_and_both_times_answered_the_same() {
    let mut crew = member();
    assert!(spawns(&give(&mut crew, frame(1, 1, 1, vec![start(1)])), 1));
    assert_eq!(give(&mut crew, frame(1, 2, 1, vec![start(1)])), []);
    let started = Answer::Started { name: name(), number: ClaimNumber(1), actor: 7 };
    assert_eq!(crew.handle_started(id(1), 7), [tell(started.clone())]);
    assert_eq!(give(&mut crew, frame(1, 3, 1, vec![start(1)])), [tell(started)]);
    assert_eq!(crew.len(), 1);
}

#[test]
fn a_start_that_was_delayed_until_after_its_stop_is_ignored() {
    let mut crew = member();
    let ended = Answer::Ended { name: name(), number: ClaimNumber(1), exit: None, handed: None };
    assert_eq!(give(&mut crew, frame(1, 2, 1, vec![stop(1)])), [tell(ended)]);
    assert_eq!(give(&mut crew, frame(1, 1, 1, vec![start(1)])), []);
    // A former primary's, whatever it numbers it.
    assert_eq!(give(&mut crew, frame(0, 9, 1, vec![start(1)])), []);
}

#[test]
fn a_start_from_before_the_node_was_removed_and_came_back_is_ignored() {
    let mut crew = member();
    assert!(spawns(&give(&mut crew, frame(1, 1, 1, vec![start(1)])), 1));
    crew.handle_started(id(1), 7);
    let kill = Effect::Kill { instance: id(1), actor: 7, moves: false };
    assert_eq!(crew.handle_membership(Version(2), false), [kill]);
    assert_eq!(crew.handle_ended(id(1), Exit::Normal, None), [Effect::Cleared]);
    assert_eq!(crew.handle_membership(Version(4), true), []);
    // Its primary, the same as before, sent it while the node froze; since then another node was told to run it.
    assert_eq!(give(&mut crew, frame(1, 2, 1, vec![start(2)])), []);
    assert!(spawns(&give(&mut crew, frame(1, 3, 4, vec![start(5)])), 5));
}

#[test]
fn what_is_to_end_while_it_starts_ends_as_soon_as_it_runs() {
    let mut crew = member();
    give(&mut crew, frame(1, 1, 1, vec![start(1)]));
    assert_eq!(give(&mut crew, frame(1, 2, 1, vec![stop(1)])), []);
    let kill = Effect::Kill { instance: id(1), actor: 7, moves: true };
    assert_eq!(crew.handle_started(id(1), 7), [kill]);
    let handed = Some(Bytes::from_static(b"state"));
    let exit = Some(Exit::Normal);
    let ended = tell(Answer::Ended { name: name(), number: ClaimNumber(1), exit, handed: handed.clone() });
    assert_eq!(crew.handle_ended(id(1), Exit::Normal, handed), std::slice::from_ref(&ended));
    // It is said until it was heard.
    assert_eq!(crew.handle_tick(), [ended]);
    assert_eq!(give(&mut crew, frame(1, 3, 1, vec![Order::Forget { number: ClaimNumber(1) }])), []);
    assert_eq!(crew.handle_tick(), []);
    assert!(crew.is_empty());
}

#[test]
fn an_audit_finds_what_does_not_run_and_who_is_gone() {
    let mut crew = member();
    give(&mut crew, frame(1, 1, 1, vec![start(1)]));
    crew.handle_started(id(1), 7);
    let running = vec![(name(), ClaimNumber(1)), (name(), ClaimNumber(2))];
    let held = vec![(name(), 7), (name(), 8)];
    let told = give(&mut crew, frame(1, 2, 1, vec![Order::Audit { running, held }]));
    let ended = Answer::Ended { name: name(), number: ClaimNumber(2), exit: None, handed: None };
    let gone = Answer::Gone { name: name(), actor: 8 };
    assert_eq!(told, [tell(ended), tell(gone), tell(Answer::Audited)]);
}

#[test]
fn who_is_a_member_again_starts_nothing_before_what_ran_has_ended() {
    let mut crew = member();
    give(&mut crew, frame(1, 1, 1, vec![start(1)]));
    crew.handle_started(id(1), 7);
    let kill = Effect::Kill { instance: id(1), actor: 7, moves: false };
    assert_eq!(crew.handle_membership(Version(2), false), [kill]);
    assert_eq!(crew.handle_membership(Version(3), true), []);
    assert!(crew.is_clearing(), "the plan is not acted on yet");
    assert_eq!(give(&mut crew, frame(1, 2, 3, vec![start(2)])), [], "it is sent again");
    assert_eq!(crew.handle_ended(id(1), Exit::Normal, None), [Effect::Cleared]);
    assert!(!crew.is_clearing());
    assert_eq!(give(&mut crew, frame(1, 3, 2, vec![start(2)])), [], "sent by a plan before that");
    assert!(spawns(&give(&mut crew, frame(1, 4, 3, vec![start(2)])), 2));
}

#[test]
fn the_numbers_of_a_cluster_that_was_left_count_nothing_in_the_next() {
    let mut crew = member();
    give(&mut crew, frame(4, 9, 1, vec![start(1)]));
    crew.handle_started(id(1), 7);
    give(&mut crew, frame(4, 10, 1, vec![start(2)]));
    crew.handle_not_started(id(2), NotStarted::Ignored);
    let kill = Effect::Kill { instance: id(1), actor: 7, moves: false };
    assert_eq!(crew.handle_left(), [kill]);
    assert_eq!((crew.handle_left(), crew.handle_membership(Version(1), true)), (vec![], vec![]));
    assert!(crew.is_clearing());
    assert_eq!(crew.handle_ended(id(1), Exit::Normal, None), [Effect::Cleared]);
    // The same numbers as before, by another directory.
    assert!(spawns(&give(&mut crew, frame(1, 1, 1, vec![start(1)])), 1));
    assert!(spawns(&give(&mut crew, frame(1, 2, 1, vec![start(2)])), 2));
    let mut idle = member();
    assert_eq!(idle.handle_left(), [Effect::Cleared]);
}

#[test]
fn what_runs_as_its_node_goes_to_another_side_runs_on_and_is_adopted_or_ends() {
    for adopted in [true, false] {
        let mut crew = Crew::default();
        assert!(crew.handle_membership(Version(1), true).is_empty());
        crew.handle_orders(frame(1, 1, 1, vec![start(1)]), |_, _| true);
        crew.handle_started(id(1), 7);
        let effects = crew.handle_left_side();
        let [Effect::Rename { from, to }, Effect::Cleared] = &effects[..] else { panic!("{effects:?}") };
        assert_eq!((*from, crew.kept(&name())), (id(1), Some(7)));
        assert!(!crew.is_clearing(), "what runs on is not waited for");
        assert_eq!(crew.handle_adopted(&name(), DIRECTORY, ClaimNumber(9)), None, "no member yet");
        assert!(crew.handle_membership(Version(1), true).is_empty());
        if adopted {
            // The directory has it, and asks about it before whoever brought it along was answered.
            let audit = Order::Audit { running: vec![(name(), ClaimNumber(9))], held: Vec::new() };
            let effects = crew.handle_orders(frame(1, 1, 1, vec![audit]), |_, _| true);
            assert_eq!(effects[0], Effect::Rename { from: *to, to: id(9) });
            assert_eq!(effects.len(), 2, "it runs: {effects:?}");
            assert_eq!(crew.handle_adopted(&name(), DIRECTORY, ClaimNumber(9)), None, "once");
            assert_eq!(crew.running(), (1, 1));
            let kill = Effect::Kill { instance: id(9), actor: 7, moves: false };
            assert_eq!(crew.handle_outdated(id(9)), [kill]);
        } else {
            let kill = Effect::Kill { instance: *to, actor: 7, moves: false };
            assert_eq!(crew.handle_forsaken(&name()), Some(kill));
            assert!(crew.handle_ended(*to, Exit::Normal, None).is_empty(), "no directory waits for it");
        }
        assert_eq!(crew.kept(&name()), None);
    }
}

#[test]
fn one_that_ends_on_the_way_is_known_to_have_and_a_start_order_finds_one_that_runs() {
    let mut crew = Crew::default();
    crew.handle_membership(Version(1), true);
    crew.handle_orders(frame(1, 1, 1, vec![start(1)]), |_, _| true);
    crew.handle_started(id(1), 7);
    let lost = crew.handle_directory_lost(DIRECTORY);
    let [Effect::Rename { to, .. }] = lost[..] else { panic!("{lost:?}") };
    let started = crew.handle_orders(frame(2, 1, 1, vec![start(3)]), |_, _| true);
    assert_eq!(started[0], Effect::Rename { from: to, to: id(3) });
    assert!(
        matches!(&started[1], Effect::Tell { answer: Answer::Started { actor: 7, .. }, .. }),
        "{started:?}"
    );
    let lost = crew.handle_directory_lost(DIRECTORY);
    let [Effect::Rename { to, .. }] = lost[..] else { panic!("{lost:?}") };
    crew.handle_ended(to, Exit::Normal, None);
    assert_eq!(crew.kept(&name()), None);
}
