use super::*;
use crate::cluster::member::NodeInfo;
use crate::cluster::snapshot::{Assignment, GroupPlan, GroupSpec, Mode};
use crate::ids::{Boot, ClusterId, ClusterName, GroupId, Term};
use crate::partitioner::Partitioner;
use crate::partitions::ledger::Ending;
use crate::time::UnixMillis;

fn name(node: &str) -> NodeName {
    NodeName::new(node).unwrap()
}

fn boot(node: &str, boot: u64) -> NodeBoot {
    NodeBoot::new(name(node), Boot(boot))
}

fn fence(epoch: u64) -> Fence {
    Fence { generation: Generation(0), epoch: Epoch(epoch), partition: PartitionId::user(0) }
}

fn during(from: u64, until: u64) -> Option<Interval> {
    Some(Interval { from: Moment::from_millis(from), until: Moment::from_millis(until) })
}

#[test]
fn two_boots_under_one_epoch_are_two_primaries() {
    let mut seen = Invariants::new();
    seen.handle_serving(fence(1), &boot("a", 1), None);
    seen.handle_serving(fence(1), &boot("a", 1), None);
    seen.handle_serving(fence(2), &boot("b", 1), None);
    assert_eq!(seen.violations(), 0);
    // A new boot that serves under its old epoch.
    seen.handle_serving(fence(2), &boot("b", 2), None);
    assert_eq!((seen.violations(), seen.observations(Invariant::OnePrimary)), (1, 4));
    assert_eq!(seen.seen()[0].seen, "partition-0@0.2 is served by b#1 and by b#2");
}

#[test]
fn two_boots_at_one_moment_are_two_primaries() {
    let mut seen = Invariants::new();
    seen.handle_serving(fence(1), &boot("a", 1), during(0, 100));
    seen.handle_serving(fence(1), &boot("a", 1), during(50, 200));
    seen.handle_serving(fence(2), &boot("b", 1), during(200, 300));
    assert_eq!(seen.violations(), 0);
    // It thawed, and believes in a lease that ended.
    seen.handle_serving(fence(1), &boot("a", 1), during(250, 260));
    assert_eq!(seen.violations_of(Invariant::OnePrimary), 1);
    assert!(seen.seen()[0].seen.ends_with("from 0.250s to 0.260s"), "{:?}", seen.seen());
}

#[test]
fn copies_are_distinct_enough_and_apart() {
    let (a, b, c, d) = (name("a"), name("b"), name("c"), name("d"));
    let (east, west) = (Zone("east".into()), Zone("west".into()));
    let holders = [
        Place { node: &a, zone: Some(&east) },
        Place { node: &b, zone: Some(&east) },
        Place { node: &c, zone: Some(&west) },
        Place { node: &d, zone: None },
    ];
    let look = |found: &[usize], wanted, at_rest| {
        let found: Vec<_> = found.iter().map(|at| holders[*at]).collect();
        let partition = PartitionId::user(1);
        let mut seen = Invariants::new();
        seen.handle_copies(&Copies {
            partition,
            found: &found,
            wanted,
            holders: &holders,
            by_zone: true,
            at_rest,
        });
        seen.seen().iter().map(|violation| violation.invariant).collect::<Vec<_>>()
    };
    assert_eq!(look(&[0, 2, 3], 3, true), []);
    assert_eq!(look(&[0, 1, 2, 3], 7, true), []);
    assert_eq!(look(&[0, 1, 2], 3, true), [Invariant::ZonesApart]);
    assert_eq!(look(&[0, 2], 3, true), [Invariant::CopiesAsWanted]);
    assert_eq!(look(&[0, 2], 3, false), []);
    assert_eq!(look(&[0, 0], 3, false), [Invariant::CopiesDistinct]);
}

fn plan(version: u64, epochs: &[u64], copies: &[u32]) -> Snapshot {
    let member = |node| {
        let info = NodeInfo {
            id: boot(node, 1),
            address: "127.0.0.1:1".into(),
            http: None,
            zone: None,
            weight: 100,
            services: vec![],
            protocol: 1,
        };
        Member { info, status: Status::Up }
    };
    let assignment =
        |epoch: &u64| Assignment { epoch: Epoch(*epoch), copies: copies.to_vec(), ..Assignment::default() };
    let spec = GroupSpec {
        partitions: epochs.len() as u32,
        replication: 2,
        strategy: "balanced".into(),
        mode: Mode::Sync,
        partitioner: Partitioner::Hash,
        replicated: false,
    };
    let assignments = epochs.iter().map(assignment).collect();
    Snapshot {
        cluster: ClusterId(1),
        name: ClusterName::new("test").unwrap(),
        generation: Generation::ZERO,
        version: Version(version),
        steps: version * 10,
        term: Term(1),
        leader: name("a"),
        members: vec![member("a"), member("b")],
        groups: vec![GroupPlan { id: GroupId::Users, spec, assignments }],
        computed_at: UnixMillis(0),
        hash: 0,
    }
    .sealed()
}

#[test]
fn versions_and_epochs_never_fall() {
    let mut seen = Invariants::new();
    let (a, b) = (name("a"), name("b"));
    seen.handle_plan(&a, &plan(1, &[1, 1], &[0, 1]), true);
    seen.handle_plan(&a, &plan(2, &[2, 1], &[0, 1]), true);
    // Another node is behind.
    seen.handle_plan(&b, &plan(1, &[1, 1], &[0, 1]), true);
    assert_eq!(seen.violations(), 0, "{:?}", seen.seen());
    seen.handle_plan(&a, &plan(1, &[1, 1], &[0, 1]), true);
    assert_eq!(seen.violations_of(Invariant::VersionMonotone), 1);
    assert_eq!(seen.violations_of(Invariant::EpochMonotone), 1);
    // Two plans with one number.
    seen.handle_plan(&b, &plan(2, &[1, 2], &[0, 1]), true);
    assert_eq!(seen.violations_of(Invariant::VersionMonotone), 2);
    seen.handle_plan(&b, &plan(3, &[2, 2], &[0]), true);
    assert_eq!(seen.violations_of(Invariant::CopiesAsWanted), 2);
}

#[test]
fn it_is_shown_with_every_promise_by_name() {
    let mut seen = Invariants::new();
    let mut counts = Counts::default();
    seen.handle_counts(PartitionId::user(0), &counts, true);
    let json = serde_json::to_value(&seen).unwrap();
    assert_eq!(json["violations"], 0);
    assert_eq!(json["invariants"]["ledger_closed"]["observations"], 1);
    assert_eq!(json["invariants"].as_object().unwrap().len(), Invariant::ALL.len());
    counts.end(Ending::Answered);
    counts.accept();
    for _ in 0..100 {
        seen.handle_counts(PartitionId::user(0), &counts, true);
    }
    assert_eq!((seen.violations(), seen.seen().len()), (200, VIOLATIONS_KEPT));
    let json = serde_json::to_value(&seen).unwrap();
    assert_eq!(json["seen"][0]["invariant"], "ledger_balanced");
}

#[test]
fn a_plan_and_who_serves_by_it_are_one_story() {
    let mut seen = Invariants::new();
    seen.handle_primaries(&plan(1, &[1, 1], &[0, 1]));
    seen.handle_serving(fence(1), &boot("a", 1), None);
    assert_eq!(seen.violations(), 0, "{:?}", seen.seen());
    // Another boot's word under the epoch that the plan gave to the first.
    seen.handle_serving(fence(1), &boot("b", 1), None);
    assert_eq!(seen.violations_of(Invariant::OnePrimary), 1);
    // Somebody has another plan of the same number.
    seen.handle_told(&name("b"), &plan(1, &[1, 1], &[0, 1]));
    assert_eq!(seen.violations_of(Invariant::VersionMonotone), 0);
    seen.handle_told(&name("b"), &plan(1, &[1, 2], &[0, 1]));
    assert_eq!(seen.violations_of(Invariant::VersionMonotone), 1);
    // In another cluster all numbers begin anew; what was wrong is not forgotten.
    seen.handle_moved();
    seen.handle_plan(&name("a"), &plan(1, &[1, 2], &[0, 1]), false);
    seen.handle_serving(fence(1), &boot("b", 1), None);
    assert_eq!(seen.violations(), 2);
}
