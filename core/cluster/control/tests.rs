//! The control state, told as stories and as storms of commands.

use proptest::prelude::*;

use super::*;
use crate::cluster::member::{Member, NodeInfo, Status};
use crate::cluster::snapshot::{Assignment, Mode};
use crate::ids::{Boot, Life, NodeBoot, NodeName, Revision, Term};
use crate::partitioner::Partitioner;
use crate::partitions::record::CopyId;

const PARTITIONS: u32 = 4;

fn spec(partitions: u32) -> GroupSpec {
    let strategy = "balanced".to_owned();
    GroupSpec {
        partitions,
        replication: 2,
        strategy,
        mode: Mode::Async,
        partitioner: Partitioner::Hash,
        replicated: false,
    }
}

fn founding(id: u64) -> Founding {
    Founding {
        id: ClusterId(id),
        name: ClusterName::new("shop").unwrap(),
        founded_at: UnixMillis(1),
        generation: Generation(1),
        groups: vec![(GroupId::Users, spec(PARTITIONS))],
    }
}

fn member(name: &str, boot: u64) -> Member {
    let id = NodeBoot::new(NodeName::new(name).unwrap(), Boot(boot));
    let (address, http, zone, services) = (format!("{name}:1"), None, None, Vec::new());
    let info = NodeInfo { id, address, http, zone, weight: 100, services, protocol: 1 };
    Member { info, status: Status::Up }
}

/// A first plan: every partition's primary is the first of two members.
fn first(id: u64) -> Snapshot {
    let epoch = Epoch(1);
    let assignment =
        Assignment { epoch, revision: Revision::ZERO, copies: vec![0, 1], ..Assignment::default() };
    Snapshot {
        cluster: ClusterId(id),
        name: ClusterName::new("shop").unwrap(),
        generation: Generation(1),
        version: Version(1),
        term: Term(1),
        leader: NodeName::new("a").unwrap(),
        members: vec![member("a", 1), member("b", 1)],
        groups: vec![GroupPlan {
            id: GroupId::Users,
            spec: spec(PARTITIONS),
            assignments: vec![assignment; PARTITIONS as usize],
        }],
        steps: 0,
        computed_at: UnixMillis(5),
        hash: 0,
    }
    .sealed()
}

/// The plan after `previous`: `moved` goes to its other copy.
fn after(previous: &Snapshot, moved: u32) -> Snapshot {
    let mut next = previous.clone();
    next.version = previous.version.next();
    let assignment = &mut next.groups[0].assignments[(moved % PARTITIONS) as usize];
    assignment.copies.reverse();
    assignment.epoch = assignment.epoch.next();
    next.sealed()
}

fn publish(based_on: u64, snapshot: Snapshot) -> Command {
    Command::Publish { based_on: Version(based_on), outline: Outline::of(snapshot) }
}

fn founded() -> ControlState {
    let mut state = ControlState::default();
    assert_eq!(state.apply(&Command::Found(founding(7))), Outcome::Founded);
    state
}

#[test]
fn a_cluster_is_founded_once() {
    let mut state = founded();
    let before = state.clone();
    assert_eq!(state.apply(&Command::Found(founding(8))), Outcome::AlreadyFounded { id: ClusterId(7) });
    assert_eq!(state, before);
}

#[test]
fn a_configuration_needs_a_founding_and_leaves_plans_alone() {
    use crate::cluster::configuration::{Expected, Json, Key, Refused, Write};
    use crate::ids::ConfigVersion;
    let write = |id, expected| {
        let (key, value) = (Key::new("feature").unwrap(), Some(Json::new("true").unwrap()));
        Command::Configure(Write { id, known: ConfigVersion::ZERO, key, expected, value })
    };
    let mut state = ControlState::default();
    assert_eq!(state.apply(&write(1, Expected::Anything)), Outcome::Invalid(Invalid::NotFounded));
    assert_eq!(state, ControlState::default());
    let mut state = founded();
    state.apply(&publish(0, first(7)));
    let before = state.clone();
    let written = Written { version: ConfigVersion(1), changed: true };
    assert_eq!(state.apply(&write(1, Expected::Nothing)), Outcome::Configured(Ok(written)));
    assert_eq!(state.apply(&write(1, Expected::Nothing)), Outcome::Configured(Ok(written)), "known again");
    let differs = Refused::Differs { found: Some(ConfigVersion(1)) };
    assert_eq!(state.apply(&write(2, Expected::Nothing)), Outcome::Configured(Err(differs)));
    assert_eq!((&state.snapshot, state.version()), (&before.snapshot, before.version()));
    assert_eq!(before.configuration.len(), 0, "who holds the state before sees it as it was");
    assert_eq!(state.configuration.get("feature").unwrap().value.as_str(), "true");
}

#[test]
fn a_cluster_begins_with_what_it_inherited_before_it_was_founded() {
    use crate::cluster::configuration::{Configuration, Expected, Json, Key, Write};
    use crate::ids::ConfigVersion;
    let mut former = Configuration::default();
    let write = |id, key: &str| {
        let (key, value) = (Key::new(key).unwrap(), Some(Json::new("true").unwrap()));
        Write { id, known: ConfigVersion(id - 1), key, expected: Expected::Anything, value }
    };
    for (id, key) in [(1, "a"), (2, "b"), (3, "a")] {
        former.write(&write(id, key)).unwrap();
    }
    let pieces = former.pieces(1);
    let mut state = ControlState::default();
    for piece in pieces.iter().chain(&pieces) {
        assert_eq!(state.apply(&Command::Inherit(piece.clone())), Outcome::Inherited);
    }
    assert_eq!(state.apply(&Command::Found(founding(7))), Outcome::Founded);
    assert!(state.configuration.under("").eq(former.under("")));
    let next = Written { version: ConfigVersion(4), changed: true };
    assert_eq!(state.apply(&Command::Configure(write(4, "b"))), Outcome::Configured(Ok(next)));
    let before = state.clone();
    let again = state.apply(&Command::Inherit(pieces[0].clone()));
    assert_eq!((again, &state), (Outcome::AlreadyFounded { id: ClusterId(7) }, &before));
}

#[test]
fn a_founding_names_the_users_partitions() {
    for groups in [
        vec![],
        vec![(GroupId::Names, spec(1))],
        vec![(GroupId::Names, spec(1)), (GroupId::Users, spec(1))],
        vec![(GroupId::Users, spec(0))],
    ] {
        let mut state = ControlState::default();
        let outcome = state.apply(&Command::Found(Founding { groups, ..founding(7) }));
        assert_eq!(outcome, Outcome::Invalid(Invalid::Groups));
        assert_eq!(state, ControlState::default());
    }
}

#[test]
fn plans_follow_each_other_and_the_slower_of_two_is_told() {
    let mut state = founded();
    assert_eq!(state.apply(&publish(0, first(7))), Outcome::Published { version: Version(1) });
    let (mine, yours) = (after(&first(7), 0), after(&first(7), 1));
    assert_eq!(state.apply(&publish(1, mine.clone())), Outcome::Published { version: Version(2) });
    assert_eq!(state.apply(&publish(1, yours)), Outcome::Conflict { version: Version(2) });
    assert_eq!(state.snapshot.as_deref(), Some(&mine));
}

#[test]
fn a_plan_without_a_founding_or_of_another_cluster_is_refused() {
    let mut state = ControlState::default();
    assert_eq!(state.apply(&publish(0, first(7))), Outcome::Invalid(Invalid::NotFounded));
    let mut state = founded();
    let mut refused = |snapshot: Snapshot| {
        let before = state.clone();
        let outcome = state.apply(&publish(0, snapshot));
        assert_eq!(state, before);
        matches!(outcome, Outcome::Invalid(Invalid::Unfit(_)))
    };
    assert!(refused(first(8)));
    assert!(refused(Snapshot { name: ClusterName::new("other").unwrap(), ..first(7) }.sealed()));
    assert!(refused(Snapshot { generation: Generation(2), ..first(7) }.sealed()));
    assert!(refused(Snapshot { version: Version(2), ..first(7) }.sealed()));
    let mut mode = first(7);
    mode.groups[0].spec.mode = Mode::Strong;
    assert!(refused(mode.sealed()));
    let mut epoch = first(7);
    epoch.groups[0].assignments[2].epoch = Epoch(u64::MAX);
    assert!(refused(epoch.sealed()));
}

#[test]
fn a_broken_plan_and_one_that_does_not_continue_are_refused() {
    let mut state = founded();
    let broken = Snapshot { hash: 1, ..first(7) };
    let outcome = state.apply(&publish(0, broken));
    assert_eq!(outcome, Outcome::Invalid(Invalid::Snapshot(snapshot::Invalid::Hash)));
    state.apply(&publish(0, first(7)));
    let mut same_epoch = after(&first(7), 0);
    same_epoch.groups[0].assignments[0].epoch = Epoch(1);
    let outcome = state.apply(&publish(1, same_epoch.sealed()));
    assert!(matches!(outcome, Outcome::Invalid(Invalid::Snapshot(snapshot::Invalid::Follows(_)))));
    assert_eq!(state.version(), Version(1));
}

/// Commands, most of them sensible, some late, some broken, in any order.
fn commands() -> impl Strategy<Value = Vec<(u8, u32)>> {
    proptest::collection::vec((0_u8..8, any::<u32>()), 0..40)
}

fn command(state: &ControlState, (kind, number): (u8, u32)) -> Command {
    let next = || state.snapshot.as_ref().map_or_else(|| first(7), |last| after(last, number));
    match kind {
        0 => Command::Found(founding(7 + u64::from(number % 2))),
        1 => publish(u64::from(number % 4), next()),
        2 => publish(state.version().0, first(7)),
        3 => publish(state.version().0, Snapshot { hash: 3, ..next() }),
        5 => Command::Step(vec![step(state, number)]),
        4 => publish(state.version().0, Snapshot { term: Term(u64::from(number % 3)), ..next() }.sealed()),
        _ => publish(state.version().0, next()),
    }
}

fn copy(number: u32) -> CopyId {
    CopyId {
        node: NodeName::new(["a", "b"][(number % 2) as usize]).unwrap(),
        life: Life(u64::from(number % 3)),
    }
}

fn step(state: &ControlState, number: u32) -> Step {
    let partition = PartitionId { group: GroupId::Users, index: number % 2 };
    let assignment = state.snapshot.as_ref().and_then(|plan| plan.assignment(partition));
    let (epoch, revision) = assignment.map(|a| (a.epoch, a.revision)).unwrap_or_default();
    let change = match number % 3 {
        0 => Change::Add(copy(number / 3)),
        1 => Change::Drop(copy(number / 3)),
        _ => Change::Swap(copy(number / 3), copy(number / 3 + 1)),
    };
    Step { partition, epoch, revision, change }
}

#[test]
fn steps_change_who_counts_within_a_plan_and_a_plan_made_before_them_is_made_again() {
    let mut state = ControlState::default();
    state.apply(&Command::Found(founding(7)));
    state.apply(&publish(0, first(7)));
    let plan = state.snapshot.clone().unwrap();
    let late = Snapshot { version: plan.version.next(), ..Snapshot::clone(&plan) }.sealed();
    let partition = PartitionId { group: GroupId::Users, index: 0 };
    let open = |epoch, revision| Step { partition, epoch, revision, change: Change::Add(copy(0)) };
    let outcome = state.apply(&Command::Step(vec![
        open(Epoch(1), Revision::ZERO),
        open(Epoch(1), Revision::ZERO),
        open(Epoch(9), Revision::ZERO),
        Step { partition: PartitionId { index: 7, ..partition }, ..open(Epoch(1), Revision::ZERO) },
    ]));
    let outdated = Err(StepRefused::Outdated { epoch: Epoch(1), revision: Revision(1) });
    let nowhere = Err(StepRefused::NoPartition(PartitionId { index: 7, ..partition }));
    assert_eq!(outcome, Outcome::Stepped(vec![Ok(()), outdated.clone(), outdated, nowhere]));
    let now = state.snapshot.clone().unwrap();
    assert_eq!((now.version, &now.assignment(partition).unwrap().members), (plan.version, &vec![copy(0)]));
    assert_eq!(now.validate(), Ok(()));
    assert_eq!(state.apply(&publish(1, late)), Outcome::Conflict { version: plan.version });
    let next = Snapshot { version: now.version.next(), ..Snapshot::clone(&now) }.sealed();
    assert_eq!(state.apply(&publish(1, next)), Outcome::Published { version: now.version.next() });
}

#[test]
fn versions_go_on_over_every_round_number_and_only_from_the_one_in_force() {
    for last in [1_000_000, (1 << 20) - 1, 1 << 20, u64::from(u32::MAX), u64::MAX - 3] {
        let mut state = founded();
        state.snapshot = Some(Arc::new(Snapshot { version: Version(last), ..first(7) }.sealed()));
        for based_on in [last, last + 1] {
            let next = after(&state.snapshot.clone().unwrap(), 0);
            assert_eq!(
                state.apply(&publish(based_on, next.clone())),
                Outcome::Published { version: Version(based_on + 1) }
            );
            // Sent again, it comes too late.
            assert_eq!(
                state.apply(&publish(based_on, next)),
                Outcome::Conflict { version: Version(based_on + 1) }
            );
        }
    }
}

#[test]
fn a_plan_is_proposed_without_who_counts_and_keeps_it() {
    let mut state = founded();
    state.apply(&publish(0, first(7)));
    let opened = |index| {
        let partition = PartitionId { group: GroupId::Users, index };
        Step { partition, epoch: Epoch(1), revision: Revision::ZERO, change: Change::Add(copy(0)) }
    };
    state.apply(&Command::Step(vec![opened(0), opened(1)]));
    let now = state.snapshot.clone().unwrap();
    // The first moves, so its revisions begin anew; the second does not.
    let mut next = after(&now, 0);
    next.groups[0].assignments[0].revision = Revision::ZERO;
    let next = next.sealed();
    let command = publish(1, next.clone());
    let bytes = bincode::serialize(&command).unwrap();
    let members = |plan: &Snapshot| plan.partitions().map(|(_, a)| a.members.len()).sum::<usize>();
    assert_eq!(members(&next), 2);
    assert!(bytes.len() < bincode::serialize(&next).unwrap().len(), "who counts is not sent");
    let read: Command = bincode::deserialize(&bytes).unwrap();
    assert_eq!(read, command);
    assert_eq!(state.apply(&read), Outcome::Published { version: Version(2) });
    assert_eq!(state.snapshot.as_deref(), Some(&next));
    // A plan that would change who counts is not the one that it says to be.
    let mut other = after(&next, 1);
    other.groups[0].assignments[1].revision = Revision::ZERO;
    other.groups[0].assignments[1].members = vec![copy(1)];
    let refused = Outcome::Invalid(Invalid::Snapshot(snapshot::Invalid::Hash));
    assert_eq!(state.apply(&publish(2, other.sealed())), refused);
    assert_eq!(state.snapshot.as_deref(), Some(&next));
}

proptest! {
    #[test]
    fn versions_rise_by_one_and_a_refusal_changes_nothing(steps in commands()) {
        let mut state = ControlState::default();
        let mut twin = ControlState::default();
        for step in steps {
            let command = command(&state, step);
            let before = state.clone();
            let outcome = state.apply(&command);
            prop_assert_eq!(&outcome, &twin.apply(&command), "deterministic");
            match outcome {
                Outcome::Founded => {
                    prop_assert_eq!(&before.founding, &None);
                    prop_assert!(state.founding.is_some());
                    prop_assert_eq!(&before.snapshot, &state.snapshot);
                }
                Outcome::Inherited => {
                    prop_assert_eq!((&before.founding, &before.snapshot), (&None, &state.snapshot));
                }
                Outcome::Stepped(outcomes) => {
                    prop_assert_eq!(before.version(), state.version());
                    prop_assert_eq!(outcomes.iter().any(Result::is_ok), before.snapshot != state.snapshot);
                }
                Outcome::Published { version } => {
                    prop_assert_eq!(version, before.version().next());
                    prop_assert_eq!(version, state.version());
                    prop_assert_eq!(&before.founding, &state.founding);
                    let snapshot = state.snapshot.clone().unwrap();
                    prop_assert!(snapshot.validate().is_ok());
                    if let Some(previous) = &before.snapshot {
                        prop_assert!(snapshot.validate_after(previous).is_ok());
                    }
                }
                Outcome::AlreadyFounded { .. } | Outcome::Conflict { .. } | Outcome::Invalid(_) => {
                    prop_assert_eq!(&before, &state);
                }
                Outcome::Nothing | Outcome::Configured(_) => {
                    prop_assert!(false, "every command is answered, and none of these configures");
                }
            }
        }
        let bytes = bincode::serialize(&state).unwrap();
        prop_assert_eq!(bincode::deserialize::<ControlState>(&bytes).unwrap(), state);
    }
}
