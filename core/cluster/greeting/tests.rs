use std::time::Duration;

use super::*;
use crate::ids::{Boot, GroupId, NodeBoot};
use crate::partitioner::Partitioner;

fn greeting(node: &str, boot: u64) -> Greeting {
    let spec = GroupSpec {
        partitions: 16,
        replication: 3,
        strategy: "balanced".into(),
        mode: Mode::Async,
        partitioner: Partitioner::Hash,
        replicated: true,
    };
    let info = NodeInfo {
        id: NodeBoot::new(NodeName::new(node).unwrap(), Boot(boot)),
        address: "127.0.0.1:1".into(),
        http: None,
        zone: None,
        weight: 100,
        services: vec!["cart".into()],
        protocol: 1,
    };
    Greeting {
        protocol: 1,
        cluster: ClusterName::new("prod").unwrap(),
        belongs: None,
        info,
        groups: vec![(GroupId::Users, spec)],
        modes: vec![(Kind::new("cart").unwrap(), Some(Mode::Sync)), (Kind::new("stock").unwrap(), None)],
        lease: lease::Config::default(),
        consistency: Consistency::Majority,
    }
}

#[test]
fn nodes_that_are_configured_alike_take_each_other() {
    let (a, b) = (greeting("a", 1), greeting("b", 1));
    assert_eq!((a.judge(&b), b.judge(&a)), (Ok(()), Ok(())));
}

#[test]
fn what_only_one_of_them_configures_is_no_difference() {
    let a = greeting("a", 1);
    let mut b = Greeting { groups: vec![], modes: vec![], ..greeting("b", 1) };
    assert_eq!((a.judge(&b), b.judge(&a)), (Ok(()), Ok(())));
    // What each of them is for itself need not be alike, and neither what it waits before it stands for election.
    b.info.weight = 0;
    b.info.services = vec!["mail".into()];
    b.modes = vec![(Kind::new("mail").unwrap(), Some(Mode::Strong))];
    b.lease.election_timeout_max *= 2;
    assert_eq!((a.judge(&b), b.judge(&a)), (Ok(()), Ok(())));
}

#[test]
fn every_setting_in_which_two_nodes_differ_is_named_with_both_values() {
    let (a, mut b) = (greeting("a", 1), greeting("b", 1));
    let spec = &mut b.groups[0].1;
    spec.partitions = 32;
    spec.replication = 2;
    spec.strategy = "rendezvous".into();
    spec.mode = Mode::Strong;
    spec.partitioner = Partitioner::Range { low: 0, high: 9999 };
    b.modes = vec![(Kind::new("cart").unwrap(), None), (Kind::new("stock").unwrap(), Some(Mode::Strong))];
    b.consistency = Consistency::Available;
    b.lease.length = Duration::from_secs(3);
    b.lease.drift_ppm = 50_000;
    let expected = [
        ("consistency", "majority", "available"),
        ("lease length", "1.5s", "3s"),
        ("lease drift", "100000", "50000"),
        ("partitions", "16", "32"),
        ("replication", "3", "2"),
        ("strategy", "balanced", "rendezvous"),
        ("mode", "async", "strong"),
        ("partitioner", "hash", "range:0..9999"),
        ("mode of cart", "sync", "the cluster's"),
        ("mode of stock", "the cluster's", "strong"),
    ];
    let named = |judged: Result<(), Refusal>| match judged {
        Err(Refusal::Spec(all)) => all.into_iter().map(|one| (one.setting, one.ours, one.theirs)).collect(),
        other => panic!("{other:?}"),
    };
    let found: Vec<(String, String, String)> = named(a.judge(&b));
    let found: Vec<_> =
        found.iter().map(|(setting, ours, theirs)| (&**setting, &**ours, &**theirs)).collect();
    assert_eq!(found, expected);
    // The other side says the same, from its own point of view.
    let theirs: Vec<(String, String, String)> = named(b.judge(&a));
    let theirs: Vec<_> =
        theirs.iter().map(|(setting, ours, theirs)| (&**setting, &**theirs, &**ours)).collect();
    assert_eq!(theirs, expected);

    let mut one = greeting("b", 1);
    one.groups[0].1.partitions = 32;
    one.lease.drift_ppm = 0;
    let refusal = a.judge(&one).unwrap_err();
    let said =
        "configured differently: lease drift is 100000 here and 0 there; partitions is 16 here and 32 there";
    assert_eq!(refusal.to_string(), said);
}

#[test]
fn a_stranger_and_a_namesake_are_refused_each_for_its_reason() {
    let us = greeting("a", 1);
    let newer = Greeting { protocol: 2, ..greeting("b", 1) };
    assert_eq!(us.judge(&newer), Err(Refusal::Protocol { ours: 1, theirs: 2 }));
    assert_eq!(newer.judge(&us), Err(Refusal::Protocol { ours: 2, theirs: 1 }));

    let test = ClusterName::new("test").unwrap();
    let other = Greeting { cluster: test.clone(), ..greeting("b", 1) };
    let refusal = Refusal::Cluster { ours: us.cluster.clone(), theirs: test };
    assert_eq!(us.judge(&other), Err(refusal));

    assert_eq!(us.judge(&us), Err(Refusal::Itself));
    for boot in [0, 2] {
        let taken = Refusal::NameTaken(NodeName::new("a").unwrap());
        assert_eq!(us.judge(&greeting("a", boot)), Err(taken));
    }
}

#[test]
fn of_several_reasons_the_one_that_explains_the_others_is_told() {
    let us = greeting("a", 1);
    let mut other = greeting("a", 2);
    other.groups[0].1.partitions = 32;
    assert!(matches!(us.judge(&other), Err(Refusal::NameTaken(_))));
    other.info.id = us.info.id.clone();
    assert_eq!(us.judge(&other), Err(Refusal::Itself));
    other.cluster = ClusterName::new("test").unwrap();
    assert!(matches!(us.judge(&other), Err(Refusal::Cluster { .. })));
    other.protocol = 2;
    assert!(matches!(us.judge(&other), Err(Refusal::Protocol { .. })));
}

fn belongs(id: u64, members: u32, acknowledged: bool) -> Option<Belonging> {
    let founded_at = UnixMillis(id);
    let (generation, version) = (Generation::ZERO, Version(1));
    Some(Belonging {
        id: ClusterId(id),
        founded_at,
        generation,
        version,
        members,
        stranded: false,
        acknowledged,
    })
}

#[test]
fn two_clusters_that_neither_can_drop_refuse_each_other() {
    let cases = [
        (belongs(1, 1, false), belongs(2, 1, false), Meeting::TheyYield),
        (belongs(1, 1, false), belongs(2, 1, true), Meeting::Yield),
        (belongs(1, 1, false), belongs(2, 3, false), Meeting::Yield),
        (belongs(1, 1, true), belongs(2, 1, true), Meeting::Conflict),
        (belongs(1, 2, false), belongs(2, 2, false), Meeting::Conflict),
        (belongs(1, 2, true), belongs(1, 2, false), Meeting::Together),
    ];
    for (ours, theirs, meeting) in cases {
        let opposite = match meeting {
            Meeting::Yield => Meeting::TheyYield,
            Meeting::TheyYield => Meeting::Yield,
            same => same,
        };
        let (a, b) = (ours.as_ref().unwrap(), theirs.as_ref().unwrap());
        assert_eq!((a.meet(b), b.meet(a)), (meeting, opposite));
        let name = ClusterName::new("prod").unwrap();
        let refused = |ours, theirs| match meeting {
            Meeting::Conflict => Err(Refusal::TwoClusters { name: name.clone(), ours, theirs }),
            _ => Ok(()),
        };
        let (ids, one) = ((a.id, b.id), Greeting { belongs: ours.clone(), ..greeting("a", 1) });
        let other = Greeting { belongs: theirs.clone(), ..greeting("b", 1) };
        assert_eq!(one.judge(&other), refused(ids.0, ids.1));
        assert_eq!(other.judge(&one), refused(ids.1, ids.0));
        // Who belongs to none yet is taken by either.
        assert_eq!(one.judge(&greeting("c", 1)), Ok(()));
    }
}
