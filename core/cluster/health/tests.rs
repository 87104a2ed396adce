//! How a node judges what it sees, told as stories, and as storms in which no change is told twice.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::assignment::{Balanced, Candidate, Problem, Strategy as _};
use crate::cluster::member::{NodeInfo, WEIGHT_DEFAULT};
use crate::cluster::snapshot::{Assignment, GroupPlan, GroupSpec, Mode};
use crate::ids::{Boot, ClusterName, Generation, Life, Revision, Term};
use crate::partitioner::Partitioner;
use crate::partitions::record::{CopyId, Record};
use crate::partitions::replication::{CopyReport, CopyState, Report, State};
use crate::time::UnixMillis;

const LIMIT: u64 = 1_000;

fn at(seconds: u64) -> Moment {
    Moment::from_millis(seconds * 1_000)
}

fn boot(n: u64) -> NodeBoot {
    NodeBoot::new(NodeName::new(&format!("node-{n}")).unwrap(), Boot(n))
}

fn plan(statuses: &[Membership], replication: u32) -> Snapshot {
    let members: Vec<Member> = (1..)
        .zip(statuses)
        .map(|(n, status)| {
            let info = NodeInfo {
                id: boot(n),
                address: "127.0.0.1:7101".into(),
                http: None,
                zone: None,
                weight: WEIGHT_DEFAULT,
                services: Vec::new(),
                protocol: 1,
            };
            Member { info, status: *status }
        })
        .collect();
    let nodes: Vec<Candidate> = members.iter().map(|one| Candidate::new(one.name().clone())).collect();
    let layout = Balanced.assign(&Problem::new(&nodes, 12, replication)).unwrap();
    let mut assignments: Vec<Assignment> = (layout.rows())
        .map(|row| Assignment {
            epoch: Epoch(1),
            revision: Revision::ZERO,
            copies: row.to_vec(),
            ..Assignment::default()
        })
        .collect();
    // As a plan does: where the first may not serve, the next that may is promoted.
    for assignment in &mut assignments {
        assignment.copies.sort_by_key(|at| !members[*at as usize].status.may_serve());
    }
    let spec = GroupSpec {
        partitions: 12,
        replication,
        strategy: "balanced".into(),
        mode: Mode::Sync,
        partitioner: Partitioner::Hash,
        replicated: true,
    };
    Snapshot {
        cluster: ClusterId(7),
        name: ClusterName::new("shop").unwrap(),
        generation: Generation::ZERO,
        version: Version(3),
        steps: 0,
        term: Term(1),
        leader: NodeName::new("node-1").unwrap(),
        members,
        groups: vec![GroupPlan { id: GroupId::Users, spec, assignments }],
        computed_at: UnixMillis(0),
        hash: 0,
    }
    .sealed()
}

const UP: Membership = Membership::Up;

/// What `node-1` sees.
struct Scene {
    monitor: Monitor,
    plan: Option<Snapshot>,
    led: bool,
    leased: bool,
    reached: BTreeSet<NodeBoot>,
    lost: BTreeMap<PartitionId, Epoch>,
    told: BTreeMap<PartitionId, Told>,
}

impl Scene {
    fn of(statuses: &[Membership]) -> Self {
        Self {
            monitor: Monitor::new(Config::default()),
            plan: Some(plan(statuses, 3)),
            led: true,
            leased: true,
            reached: (2..=9).map(boot).collect(),
            lost: BTreeMap::new(),
            told: BTreeMap::new(),
        }
    }

    fn look(&mut self, now: Moment) -> (Arc<Assessment>, Vec<Change>) {
        let me = boot(1);
        self.monitor.look(&Seen {
            now,
            me: &me,
            plan: self.plan.as_ref(),
            led: self.led,
            leased: self.leased,
            reached: &self.reached,
            lost: &self.lost,
            told: &self.told,
            lag_limit: LIMIT,
        })
    }

    /// The status, and the codes of the reasons.
    fn codes(&mut self, now: Moment) -> (Status, Vec<&'static str>) {
        let (assessment, _) = self.look(now);
        (assessment.status, assessment.reasons.iter().map(Reason::code).collect())
    }
}

fn told(state: State, here: u32, behind: u64) -> Told {
    Told { epoch: Epoch(1), state, here, behind, waiting: 0 }
}

#[test]
fn three_nodes_that_have_everything_are_healthy() {
    let mut scene = Scene::of(&[UP; 3]);
    let (assessment, changes) = scene.look(at(0));
    assert_eq!((assessment.status, assessment.reasons.len()), (Status::Healthy, 0));
    assert_eq!(
        (assessment.tally(GroupId::Users), assessment.replicas(GroupId::Users)),
        ([12, 0, 0], (36, 36))
    );
    let [Change::Cluster { from: None, to: Status::Healthy, .. }] = &changes[..] else {
        panic!("{changes:?}")
    };
    assert_eq!(scene.look(at(10)).1, [], "nothing is told twice");
    let led: u64 = assessment.nodes.iter().map(|node| node.primaries).sum();
    let held: u64 = assessment.nodes.iter().map(|node| node.replicas).sum();
    assert_eq!((led, held), (12, 24));
}

#[test]
fn a_node_that_is_lost_is_critical_and_the_cluster_degraded_until_it_is_back() {
    let mut scene = Scene::of(&[UP; 3]);
    scene.look(at(0));
    scene.plan = Some(plan(&[UP, UP, Membership::Lost], 3));
    let (assessment, changes) = scene.look(at(1));
    assert_eq!(assessment.status, Status::Degraded);
    assert_eq!(
        assessment.reasons.iter().map(Reason::code).collect::<Vec<_>>(),
        ["copies_missing", "node_lost"]
    );
    assert_eq!(assessment.replicas(GroupId::Users), (24, 36));
    let [Change::Node { from: Status::Healthy, to: Some(Status::Critical), .. }, Change::Cluster { .. }] =
        &changes[..]
    else {
        panic!("{changes:?}")
    };
    assert_eq!(changes[0].to_string(), "node-3 is critical, it was healthy: node-3 is lost");
    assert_eq!(
        changes[1].to_string(),
        "the cluster is degraded, it was healthy: 12 of 36 copies are missing, of 12 partitions, partition-0 among them; \
         node-3 is lost"
    );
    assert_eq!(scene.look(at(2)).1, []);
    // It is forgotten with its reasons, and then there are too few nodes for three copies.
    scene.plan = Some(plan(&[UP, UP], 3));
    let (assessment, changes) = scene.look(at(3));
    assert_eq!(assessment.reasons.iter().map(Reason::code).collect::<Vec<_>>(), ["copies_missing"]);
    assert!(matches!(&changes[0], Change::Node { to: None, .. }), "{changes:?}");
    scene.plan = Some(plan(&[UP; 3], 3));
    assert_eq!(scene.codes(at(4)), (Status::Healthy, vec![]));
}

#[test]
fn what_comes_and_goes_has_to_stand_and_what_flaps_has_to_be_gone() {
    let mut scene = Scene::of(&[UP; 3]);
    scene.look(at(0));
    scene.reached.remove(&boot(2));
    assert_eq!(scene.codes(at(10)), (Status::Healthy, vec![]));
    assert_eq!(scene.monitor.next_look(), Duration::from_secs(1), "it is looked at sooner");
    assert_eq!(scene.codes(at(17)), (Status::Healthy, vec![]));
    assert_eq!(scene.codes(at(18)), (Status::Degraded, vec!["node_unreachable"]));
    assert_eq!(scene.monitor.next_look(), Duration::from_secs(10));
    // It is back for a moment.
    scene.reached.insert(boot(2));
    assert_eq!(scene.codes(at(20)), (Status::Degraded, vec!["node_unreachable"]));
    scene.reached.remove(&boot(2));
    assert_eq!(scene.codes(at(22)), (Status::Degraded, vec!["node_unreachable"]));
    scene.reached.insert(boot(2));
    assert_eq!(scene.codes(at(29)), (Status::Degraded, vec!["node_unreachable"]));
    assert_eq!(scene.codes(at(30)), (Status::Healthy, vec![]));
    // Seen once, and not the next time: it never counted.
    scene.reached.remove(&boot(2));
    scene.look(at(40));
    scene.reached.insert(boot(2));
    scene.look(at(45));
    scene.reached.remove(&boot(2));
    assert_eq!(scene.codes(at(50)), (Status::Healthy, vec![]), "its time begins anew");
}

#[test]
fn lost_and_unserved_partitions_are_critical_at_once() {
    let mut scene = Scene::of(&[UP; 3]);
    scene.look(at(0));
    scene.lost.insert(PartitionId::user(4), Epoch(1));
    let (assessment, changes) = scene.look(at(1));
    assert_eq!(assessment.status, Status::Critical);
    assert_eq!(assessment.partitions[4].standing, Standing::Lost);
    assert_eq!(assessment.tally(GroupId::Users), [11, 0, 1]);
    assert_eq!(changes.len(), 1);
    assert!(changes[0].to_string().contains("partition-4 is lost"), "{}", changes[0]);
    // Under an older epoch it was another one's loss.
    scene.lost.insert(PartitionId::user(4), Epoch(0));
    assert_eq!(scene.codes(at(2)), (Status::Healthy, vec![]));
    scene.plan = Some(plan(&[Membership::Lost; 3], 3));
    let (status, codes) = scene.codes(at(3));
    assert!(status == Status::Critical && codes.contains(&"partitions_unserved"), "{codes:?}");
}

#[test]
fn what_primaries_say_counts_under_their_epoch() {
    let mut scene = Scene::of(&[UP; 3]);
    scene.look(at(0));
    scene.told.insert(PartitionId::user(1), told(State::Opening, 1, 0));
    scene.told.insert(PartitionId::user(2), told(State::Stalled, 1, 0));
    scene.told.insert(PartitionId::user(3), Told { epoch: Epoch(9), ..told(State::Stalled, 0, 0) });
    let (assessment, changes) = scene.look(at(1));
    assert_eq!((assessment.status, changes.len()), (Status::Healthy, 0), "it may pass");
    assert_eq!(assessment.tally(GroupId::Users), [10, 1, 1], "and is shown");
    assert_eq!(
        scene.codes(at(9)),
        (Status::Critical, vec!["copies_joining", "partitions_opening", "partitions_stalled"])
    );
    scene.told.clear();
    assert_eq!(scene.codes(at(10)), (Status::Healthy, vec![]));
}

#[test]
fn lag_counts_from_half_of_what_may_wait_and_until_a_quarter() {
    let mut scene = Scene::of(&[UP; 3]);
    let mut lag = |now, behind| {
        scene.told.insert(PartitionId::user(5), told(State::Serving, 3, behind));
        scene.codes(at(now)).1
    };
    assert!(lag(0, 499).is_empty() && lag(10, 499).is_empty());
    assert!(lag(20, 500).is_empty());
    assert_eq!(lag(30, 700), ["copies_behind"]);
    assert_eq!(lag(40, 251), ["copies_behind"]);
    assert_eq!(lag(50, 251), ["copies_behind"]);
    assert_eq!(lag(55, 249), ["copies_behind"], "for a moment");
    assert!(lag(59, 249).is_empty());
    assert!(lag(70, 300).is_empty() && lag(80, 300).is_empty());
    scene.told.insert(PartitionId::user(5), Told { waiting: LIMIT, ..told(State::Serving, 3, 0) });
    scene.look(at(90));
    assert_eq!(scene.codes(at(100)), (Status::Critical, vec!["writes_refused"]));
}

#[test]
fn without_a_plan_a_lease_or_a_leader_the_node_says_so() {
    let mut scene = Scene::of(&[UP; 3]);
    let plan = scene.plan.take();
    assert_eq!(scene.codes(at(0)), (Status::Degraded, vec!["no_plan"]));
    scene.plan = plan;
    (scene.leased, scene.led) = (false, false);
    assert_eq!(scene.codes(at(1)), (Status::Healthy, vec![]), "the plan is another cluster's than none");
    let (assessment, changes) = scene.look(at(9));
    assert_eq!(assessment.status, Status::Critical);
    assert_eq!(assessment.reasons, [Reason::NoLeader, Reason::NoLease]);
    assert_eq!(assessment.nodes[0].status, Status::Critical);
    assert!(matches!(&changes[0], Change::Node { to: Some(Status::Critical), .. }), "{changes:?}");
    scene.plan = Some(plan_of_others());
    assert_eq!(scene.codes(at(10)).1[..1], ["copies_missing"], "another cluster's reasons are forgotten");
    scene.leased = true;
    assert!(scene.codes(at(11)).1.contains(&"not_member"));
}

/// Of another cluster, without `node-1`.
fn plan_of_others() -> Snapshot {
    let mut plan = plan(&[UP; 2], 3);
    plan.cluster = ClusterId(8);
    plan.members[0].info.id.boot = Boot(99);
    plan.sealed()
}

#[test]
fn evenness_is_judged_by_the_certificate_where_it_is_promised() {
    let even = Balance::of(&plan(&[UP; 4], 3))[0].1;
    assert_eq!((even.primary_moves, even.copy_moves, even.judged), (0, 0, true));
    let mut scene = Scene::of(&[UP; 4]);
    let crowded = scene.plan.as_mut().unwrap();
    for assignment in &mut crowded.groups[0].assignments {
        assignment.copies = vec![0, 1, 2];
    }
    *crowded = crowded.clone().sealed();
    let balance = Balance::of(crowded)[0].1;
    // Who has no copies yet can lead none: primaries follow them.
    assert_eq!((balance.primary_moves, balance.copy_moves), (8, 9), "{balance:?}");
    scene.look(at(0));
    assert_eq!(scene.codes(at(59)), (Status::Healthy, vec![]), "moves take their time");
    assert_eq!(scene.codes(at(60)), (Status::Degraded, vec!["copies_uneven", "primaries_uneven"]));
    scene.plan.as_mut().unwrap().groups[0].spec.strategy = "rendezvous".into();
    scene.plan = scene.plan.map(Snapshot::sealed);
    assert_eq!(scene.codes(at(61)), (Status::Healthy, vec![]), "nobody promised it");
    // Who is being drained holds nothing, and that is right.
    let mut scene = Scene::of(&[UP, UP, UP, Membership::Leaving]);
    for assignment in &mut scene.plan.as_mut().unwrap().groups[0].assignments {
        assignment.copies.retain(|at| *at != 3);
    }
    let leaving = plan(&[UP; 3], 3);
    scene.plan.as_mut().unwrap().groups = leaving.groups;
    scene.plan = scene.plan.map(Snapshot::sealed);
    scene.look(at(0));
    assert_eq!(scene.codes(at(100)), (Status::Healthy, vec![]));
}

#[test]
fn what_a_report_comes_to_is_told_only_where_the_plan_shows_otherwise() {
    let id = |n| CopyId { node: boot(n).node, life: Life(n) };
    let copy = |n, state, sequence| CopyReport { id: id(n), state, sequence };
    let members = vec![id(1), id(2), id(3)];
    let mut report = Report {
        state: State::Serving,
        record: Record { epoch: Epoch(1), revision: Revision::ZERO, members, high: 3 },
        write_quorum: 2,
        seal_quorum: 2,
        copies: vec![
            copy(1, CopyState::Here, Some(100)),
            copy(2, CopyState::Here, Some(90)),
            copy(3, CopyState::Here, Some(40)),
        ],
    };
    let plan = plan(&[UP; 3], 3);
    let whole = Told::of(&report);
    assert_eq!((whole.here, whole.behind, whole.waiting), (3, 60, 10));
    assert!(whole.is_as_planned(&plan, PartitionId::user(0), LIMIT));
    assert!(!whole.is_as_planned(&plan, PartitionId::user(0), 100), "it lags by more than a quarter");
    report.copies[2].state = CopyState::Away;
    let without = Told::of(&report);
    assert_eq!((without.here, without.behind), (2, 10));
    assert!(!without.is_as_planned(&plan, PartitionId::user(0), LIMIT));
}

#[derive(Clone, Debug)]
struct Look {
    after: u64,
    statuses: Vec<Membership>,
    led: bool,
    leased: bool,
    reached: BTreeSet<NodeBoot>,
    lost: Option<u32>,
    told: Option<(u32, Told)>,
}

fn looks() -> impl Strategy<Value = Look> {
    let status = prop_oneof![
        4 => Just(UP),
        1 => Just(Membership::Leaving),
        1 => Just(Membership::Away),
        1 => Just(Membership::Lost),
    ];
    let state = prop_oneof![Just(State::Serving), Just(State::Opening), Just(State::Stalled)];
    let told = (0..12_u32, state, 0..4_u32, 0..2_000_u64)
        .prop_map(|(at, state, here, behind)| (at, told(state, here, behind)));
    (
        0..15_u64,
        prop::collection::vec(status, 1..5),
        any::<(bool, bool)>(),
        prop::collection::btree_set((1..6_u64).prop_map(boot), 0..6),
        prop::option::weighted(0.2, 0..12_u32),
        prop::option::weighted(0.4, told),
    )
        .prop_map(|(after, statuses, (led, leased), reached, lost, told)| Look {
            after,
            statuses,
            led,
            leased,
            reached,
            lost,
            told,
        })
}

proptest! {
    /// Whoever hears only the changes knows at each moment what counts, and nothing is told twice.
    #[test]
    fn changes_tell_everything_once(looks in prop::collection::vec(looks(), 1..20)) {
        let mut scene = Scene::of(&[UP; 3]);
        let (mut now, mut known, mut status) = (0, BTreeSet::new(), None);
        let key = |reason: &Reason| (reason.code(), reason.node().cloned());
        for look in looks {
            now += look.after;
            scene.plan = Some(plan(&look.statuses, 3));
            (scene.led, scene.leased, scene.reached) = (look.led, look.leased, look.reached);
            scene.lost = look.lost.map(|at| (PartitionId::user(at), Epoch(1))).into_iter().collect();
            scene.told = look.told.map(|(at, told)| (PartitionId::user(at), told)).into_iter().collect();
            let (assessment, changes) = scene.look(at(now));
            for change in &changes {
                if let Change::Cluster { from, to, raised, cleared } = change {
                    prop_assert_eq!(*from, status);
                    for reason in cleared {
                        prop_assert!(known.remove(&key(reason)), "{} was not known", reason);
                    }
                    for reason in raised {
                        prop_assert!(known.insert(key(reason)), "{} is told twice", reason);
                    }
                    status = Some(*to);
                }
            }
            prop_assert_eq!(status, Some(assessment.status));
            prop_assert_eq!(&known, &assessment.reasons.iter().map(key).collect::<BTreeSet<_>>());
            let worst = assessment.reasons.iter().map(Reason::status).max().unwrap_or_default();
            prop_assert_eq!(assessment.status, worst);
            for one in &assessment.partitions {
                prop_assert!(one.healthy <= one.total && one.planned <= one.total);
            }
            prop_assert!(scene.look(at(now)).1.is_empty(), "the same look again is no news");
        }
    }
}
