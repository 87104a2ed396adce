//! What the stories share, and those of settings and bytes.

mod grantor;
mod holder;

use std::time::Duration;

use super::*;
use crate::cluster::member::{Member, NodeInfo, Status};
use crate::cluster::snapshot::{Assignment, GroupPlan, GroupSpec, Mode};
use crate::ids::{Boot, ClusterId, ClusterName, GroupId};
use crate::partitioner::Partitioner;
use crate::time::{Moment, UnixMillis};

const P: PartitionId = PartitionId::user(0);

fn at(millis: u64) -> Moment {
    Moment::from_millis(10_000 + millis)
}

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn name(name: &str) -> NodeName {
    NodeName::new(name).unwrap()
}

fn boot(node: &str, boot: u64) -> NodeBoot {
    NodeBoot::new(name(node), Boot(boot))
}

fn plan_id(version: u64) -> PlanId {
    PlanId { generation: Generation::ZERO, version: Version(version) }
}

fn release(epoch: u64) -> Release {
    Release { partition: P, epoch: Epoch(epoch) }
}

/// A plan of one partition, whose members are `a` and `b` (and their boots), and whose primary is named.
fn plan(version: u64, members: [u64; 2], primary: &str, epoch: u64) -> Snapshot {
    let member = |node: &str, of: u64| Member {
        info: NodeInfo {
            id: boot(node, of),
            address: String::new(),
            http: None,
            zone: None,
            weight: 1,
            services: vec![],
            protocol: 1,
        },
        status: Status::Up,
    };
    let members = vec![member("a", members[0]), member("b", members[1])];
    let copies = members.iter().position(|m| m.name().as_str() == primary).map(|at| at as u32).into_iter();
    Snapshot {
        cluster: ClusterId(1),
        name: ClusterName::new("c").unwrap(),
        generation: Generation::ZERO,
        version: Version(version),
        term: Term(1),
        leader: name("a"),
        groups: vec![GroupPlan {
            id: GroupId::Users,
            spec: GroupSpec {
                partitions: 1,
                replication: 1,
                strategy: String::new(),
                mode: Mode::Async,
                partitioner: Partitioner::Hash,
                replicated: false,
            },
            assignments: vec![Assignment {
                epoch: Epoch(epoch),
                copies: copies.collect(),
                ..Assignment::default()
            }],
        }],
        members,
        steps: 0,
        computed_at: UnixMillis(0),
        hash: 0,
    }
}

/// The request among the effects.
fn asked(effects: &[Effect]) -> Request {
    let request = effects.iter().find_map(|effect| match effect {
        Effect::Ask { request, .. } => Some(request.clone()),
        Effect::Publish { .. } | Effect::Pause | Effect::Resume => None,
    });
    request.expect("it asks")
}

fn granted(request: &Request, term: u64, length: Duration, newest: u64) -> Reply {
    let answer = Answer::Granted { term: Term(term), length, newest: plan_id(newest) };
    Reply { to: request.from.clone(), number: request.number, answer }
}

fn refused(request: &Request, why: Refusal) -> Reply {
    Reply { to: request.from.clone(), number: request.number, answer: Answer::Refused(why) }
}

/// `b` has acted on plan 1, in which it is primary under epoch 1.
fn acted() -> Holder {
    let mut holder = Holder::new(boot("b", 1), Config::default());
    assert_eq!(holder.handle_acted(at(0), &plan(1, [1, 1], "b", 1)), []);
    holder
}

/// The same with a lease from 0 to 1.5 s.
fn holding() -> Holder {
    let mut holder = acted();
    let request = asked(&holder.handle_wake(at(0)));
    holder.handle_reply(at(1), granted(&request, 1, ms(1500), 1));
    assert!(holder.holds(at(1)));
    holder
}

/// `a` leads term 1 since long ago, plan 1 holds, and a majority has just confirmed it.
fn leading() -> Grantor {
    let mut grantor = Grantor::new(Config::default());
    grantor.handle_elected(Moment::from_millis(1), Term(1));
    grantor.handle_first_entry_applied(Term(1), plan_id(1));
    grantor.handle_quorum_ack(Term(1), at(0));
    grantor
}

fn request(from: NodeBoot, acted_on: u64) -> Request {
    Request { from, number: 1, acted_on: plan_id(acted_on), releases: vec![], returned: false }
}

fn answer(grantor: &mut Grantor, now: Moment, request: &Request, newest: &Snapshot) -> Answer {
    grantor.handle_request(now, request, Some(newest)).reply.answer
}

#[test]
fn settings_that_do_not_fit_are_refused_with_both_names() {
    assert_eq!(Config::default().validate(), Ok(()));
    let short = Config { length: ms(600), ..Config::default() };
    let error = short.validate().unwrap_err().to_string();
    for part in ["600ms", "election_timeout_max", "300ms"] {
        assert!(error.contains(part), "{error}");
    }
    assert!(Config { length: ms(601), ..Config::default() }.validate().is_ok());
    assert!(Config { length: Duration::MAX, ..Config::default() }.validate().is_err());
    assert!(Config { drift_ppm: DRIFT_PPM_MAX + 1, ..Config::default() }.validate().is_err());
    assert!(Config { election_timeout_max: Duration::MAX, ..Config::default() }.validate().is_err());
}

#[test]
fn drift_is_rounded_against_the_holder() {
    let config = Config { drift_ppm: 1, ..Config::default() };
    assert_eq!(config.with_drift(Duration::from_nanos(1)), Duration::from_nanos(2));
    assert_eq!(config.with_drift(ms(1000)), ms(1000) + Duration::from_micros(1));
    assert_eq!(config.with_drift(Duration::ZERO), Duration::ZERO);
}

#[test]
fn requests_and_replies_survive_their_bytes() {
    let ask = Request { releases: vec![release(3)], ..request(boot("b", 1), 7) };
    let bytes = bincode::serialize(&ask).unwrap();
    assert_eq!(bincode::deserialize::<Request>(&bytes).unwrap(), ask);
    for reply in [
        granted(&ask, 2, ms(1499), 7),
        refused(&ask, Refusal::NotLeader { leader: Some(name("a")) }),
        refused(&ask, Refusal::Ended { after: Some(plan_id(8)) }),
    ] {
        let bytes = bincode::serialize(&reply).unwrap();
        assert_eq!(bincode::deserialize::<Reply>(&bytes).unwrap(), reply);
    }
}
