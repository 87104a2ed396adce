//! The exact bytes that other programs rely on: names, order, `null`s.

use std::fmt::Debug;

use serde::de::DeserializeOwned;
use tumen_core::cluster::health::Status;

use super::*;

#[track_caller]
fn golden<T: Serialize + DeserializeOwned + PartialEq + Debug>(value: &T, json: &str) {
    assert_eq!(serde_json::to_string(value).unwrap(), json);
    assert_eq!(&serde_json::from_str::<T>(json).unwrap(), value);
}

fn partition_0() -> Partition {
    Partition {
        id: "partition-0".into(),
        primary_node: Some("node-1".into()),
        replica_nodes: vec!["node-2".into(), "node-3".into()],
        epoch: 4,
        lost: false,
    }
}

#[test]
fn partitions_are_listed_as_the_guide_shows_them() {
    golden(
        &Partitions { partitions: vec![partition_0()], count: 64 },
        r#"{"partitions":[{"id":"partition-0","primary_node":"node-1","replica_nodes":["node-2","node-3"],"epoch":4}],"count":64}"#,
    );
    golden(
        &Partition { primary_node: None, replica_nodes: vec![], ..partition_0() },
        r#"{"id":"partition-0","primary_node":null,"replica_nodes":[],"epoch":4}"#,
    );
    assert_eq!(Partitions::new(vec![partition_0()]).count, 1);
    // What is not lost says nothing of it.
    golden(
        &Partition { replica_nodes: vec![], lost: true, ..partition_0() },
        r#"{"id":"partition-0","primary_node":"node-1","replica_nodes":[],"epoch":4,"lost":true}"#,
    );
    let copy =
        CopyDetail { node: "node-1".into(), life: "a1".into(), state: "here".into(), sequence: Some(7) };
    let detail = PartitionDetail {
        partition: partition_0(),
        state: "opening".into(),
        waits_for: vec!["node-2".into()],
        revision: 1,
        high: 3,
        write_quorum: 2,
        seal_quorum: 2,
        copies: vec![copy.clone()],
    };
    golden(
        &detail,
        r#"{"id":"partition-0","primary_node":"node-1","replica_nodes":["node-2","node-3"],"epoch":4,"state":"opening","waits_for":["node-2"],"revision":1,"high":3,"write_quorum":2,"seal_quorum":2,"copies":[{"node":"node-1","life":"a1","state":"here","sequence":7}]}"#,
    );
    golden(
        &LossAccepted {
            partition: "partition-0".into(),
            version: 9,
            epoch: 5,
            survivors: vec![copy],
            given_up: vec![],
            empty: false,
            changed: true,
        },
        r#"{"partition":"partition-0","version":9,"epoch":5,"survivors":[{"node":"node-1","life":"a1","state":"here","sequence":7}],"given_up":[],"empty":false,"changed":true}"#,
    );
}

#[test]
fn a_ledger_is_told_with_its_sums() {
    use tumen_core::partitions::ledger::{Counts, Ending};
    use tumen_core::partitions::request::Failure;

    let mut ledger = Ledger::default();
    let mut counts = Counts::default();
    (0..4).for_each(|_| counts.accept());
    counts.end(Ending::Answered);
    counts.end(Ending::of_failure(&Failure::NotReady));
    counts.end(Ending::Expired);
    ledger.account_mut("partition-0".parse().unwrap()).observe(counts);
    let counts =
        r#"{"sent":4,"answered":1,"rejected":{"not_ready":1},"expired":1,"unknown":0,"open":1,"excess":0}"#;
    let account =
        format!(r#"{{"counts":{counts},"handovers":[],"handovers_total":0,"handovers_unbalanced":0}}"#);
    golden(
        &ledger,
        &format!(
            r#"{{"closed":false,"balanced":true,"total":{counts},"partitions":{{"partition-0":{account}}}}}"#
        ),
    );
}

#[test]
fn stats_are_counted_by_node() {
    let per = |counts: [u32; 3]| -> BTreeMap<String, u32> {
        ["node-1", "node-2", "node-3"].map(String::from).into_iter().zip(counts).collect()
    };
    golden(
        &PartitionStats {
            total_partitions: 16,
            partitions_per_node: per([5, 6, 5]),
            replicas_per_node: per([11, 10, 11]),
        },
        r#"{"total_partitions":16,"partitions_per_node":{"node-1":5,"node-2":6,"node-3":5},"replicas_per_node":{"node-1":11,"node-2":10,"node-3":11}}"#,
    );
}

#[test]
fn a_cluster_is_told_with_its_nodes() {
    let node = Node {
        name: "node-1".into(),
        state: "up".into(),
        votes: true,
        boot: "18f2a".into(),
        address: "127.0.0.1:7101".into(),
        http: Some("127.0.0.1:8101".into()),
        zone: None,
        weight: 100,
        services: vec!["kv".into()],
    };
    golden(
        &Cluster {
            name: "tumen".into(),
            id: Some("00000000000000ff".into()),
            version: 3,
            term: 1,
            leader: Some("node-1".into()),
            mode: "async".into(),
            nodes: vec![node],
        },
        r#"{"name":"tumen","id":"00000000000000ff","version":3,"term":1,"leader":"node-1","mode":"async","nodes":[{"name":"node-1","state":"up","votes":true,"boot":"18f2a","address":"127.0.0.1:7101","http":"127.0.0.1:8101","zone":null,"weight":100,"services":["kv"]}]}"#,
    );
}

#[test]
fn orders_and_their_answers() {
    golden(&Created { version: 1, count: 64, changed: true }, r#"{"version":1,"count":64,"changed":true}"#);
    golden(
        &Rebalanced { version: 7, moved: 12, lower_bound: 12, changed: true },
        r#"{"version":7,"moved":12,"lower_bound":12,"changed":true}"#,
    );
    let one =
        Move { partition: "partition-3".into(), from: vec!["a".into()], to: vec!["b".into(), "a".into()] };
    golden(
        &Plan { moves: vec![one], moved: 1, lower_bound: 1 },
        r#"{"moves":[{"partition":"partition-3","from":["a"],"to":["b","a"]}],"moved":1,"lower_bound":1}"#,
    );
    golden(&Drain { leave: true }, r#"{"leave":true}"#);
    golden(&Draining { version: 8 }, r#"{"version":8}"#);
    golden(&Ready { ready: true }, r#"{"ready":true}"#);
    golden(
        &Health { status: "alive".into(), name: "node-1".into(), boot: "1".into() },
        r#"{"status":"alive","name":"node-1","boot":"1"}"#,
    );
    assert_eq!(serde_json::from_str::<Drain>("{}").unwrap(), Drain { leave: false });
}

#[test]
fn an_error_says_whether_anything_changed() {
    golden(
        &ErrorBody::unchanged("no_quorum", "..."),
        r#"{"error":{"code":"no_quorum","message":"...","changed":false}}"#,
    );
    let unknown = Error { code: "timeout".into(), message: "no answer".into(), changed: None };
    golden(&unknown, r#"{"code":"timeout","message":"no answer","changed":null}"#);
    assert_eq!(unknown.to_string(), "timeout: no answer (whether anything was changed is not known)");
}

#[test]
fn copies_that_are_made_and_compared() {
    let copying = Copying {
        partition: "partition-3".into(),
        from: "node-1".into(),
        to: "node-2".into(),
        state: "copying".into(),
        bytes_done: 10,
        bytes_total: Some(40),
        age_ms: 7,
    };
    golden(
        &Moves { moves: vec![copying], count: 1, unreachable: vec!["node-3".into()] },
        r#"{"moves":[{"partition":"partition-3","from":"node-1","to":"node-2","state":"copying","bytes_done":10,"bytes_total":40,"age_ms":7}],"count":1,"unreachable":["node-3"]}"#,
    );
    let copy = ComparedCopy {
        node: "node-2".into(),
        state: Verdict::Unreachable,
        epoch: None,
        sequence: None,
        hash: None,
    };
    let one = Compared {
        id: "partition-3".into(),
        primary_node: "node-1".into(),
        epoch: 2,
        sequence: 17,
        hash: Some("00000000000000ff".into()),
        equal: false,
        copies: vec![copy],
    };
    golden(
        &FullSync { equal: false, differs: false, partitions: vec![one], unreachable: vec![] },
        r#"{"equal":false,"differs":false,"partitions":[{"id":"partition-3","primary_node":"node-1","epoch":2,"sequence":17,"hash":"00000000000000ff","equal":false,"copies":[{"node":"node-2","state":"unreachable","epoch":null,"sequence":null,"hash":null}]}],"unreachable":[]}"#,
    );
}

#[test]
fn events_carry_their_name_twice() {
    let all = [
        (
            Event::NodeUp { node: "node-1".into(), boot: "1".into(), rejoined: None },
            r#"{"event":"node_up","node":"node-1","boot":"1"}"#,
        ),
        (
            Event::NodeUp {
                node: "node-1".into(),
                boot: "2".into(),
                rejoined: Some(Rejoined {
                    away_ms: 5,
                    primaries_held: 1,
                    replicas_held: 0,
                    primaries: vec!["partition-0".into()],
                    replicas: vec![],
                }),
            },
            r#"{"event":"node_up","node":"node-1","boot":"2","rejoined":{"away_ms":5,"primaries_held":1,"replicas_held":0,"primaries":["partition-0"],"replicas":[]}}"#,
        ),
        (
            Event::NodeRemoved { node: "node-1".into(), boot: "1".into() },
            r#"{"event":"node_removed","node":"node-1","boot":"1"}"#,
        ),
        (
            Event::PartitionCopies {
                partition: "partition-0".into(),
                added: vec!["node-2".into()],
                removed: vec![],
                copies_from: vec!["node-1".into()],
                version: 2,
            },
            r#"{"event":"partition_copies","partition":"partition-0","added":["node-2"],"removed":[],"copies_from":["node-1"],"version":2}"#,
        ),
        (
            Event::RebalanceStarted {
                trigger: "node_up".into(),
                nodes: vec!["node-2".into()],
                moves: 3,
                version: 2,
            },
            r#"{"event":"rebalance_started","trigger":"node_up","nodes":["node-2"],"moves":3,"version":2}"#,
        ),
        (
            Event::RebalanceCompleted { trigger: "node_up".into(), moves: 3, version: 2, took_ms: 9 },
            r#"{"event":"rebalance_completed","trigger":"node_up","moves":3,"version":2,"took_ms":9}"#,
        ),
        (
            Event::ConfigUpdated { key: "feature".into(), version: 7, deleted: false },
            r#"{"event":"config_updated","key":"feature","version":7,"deleted":false}"#,
        ),
        (Event::ConfigMissed { count: 9 }, r#"{"event":"config_missed","count":9}"#),
        (
            Event::NodeDown { node: "node-1".into(), boot: "1".into(), reason: "lost".into() },
            r#"{"event":"node_down","node":"node-1","boot":"1","reason":"lost"}"#,
        ),
        (
            Event::Snapshot { version: 2, term: 1, leader: "node-1".into() },
            r#"{"event":"snapshot","version":2,"term":1,"leader":"node-1"}"#,
        ),
        (
            Event::PartitionMoved {
                partition: "partition-0".into(),
                from: None,
                to: Some("node-1".into()),
                epoch: 1,
                version: 2,
                copies_from: vec!["node-2".into()],
                reason: "balance".into(),
            },
            r#"{"event":"partition_moved","partition":"partition-0","from":null,"to":"node-1","epoch":1,"version":2,"copies_from":["node-2"],"reason":"balance"}"#,
        ),
        (
            Event::HandoverStarted {
                partition: "partition-0".into(),
                from: "node-1".into(),
                to: "node-2".into(),
                bytes: 5,
            },
            r#"{"event":"handover_started","partition":"partition-0","from":"node-1","to":"node-2","bytes":5}"#,
        ),
        (
            Event::HandoverFinished {
                partition: "partition-0".into(),
                from: "node-1".into(),
                to: "node-2".into(),
                bytes: 5,
                took_ms: 7,
                failed: None,
            },
            r#"{"event":"handover_finished","partition":"partition-0","from":"node-1","to":"node-2","bytes":5,"took_ms":7,"failed":null}"#,
        ),
        (
            Event::PartitionLost { partition: "partition-0".into(), epoch: 3 },
            r#"{"event":"partition_lost","partition":"partition-0","epoch":3}"#,
        ),
        (
            Event::PartitionFound { partition: "partition-0".into() },
            r#"{"event":"partition_found","partition":"partition-0"}"#,
        ),
        (
            Event::Health {
                node: None,
                status: Some(Status::Degraded),
                was: Some(Status::Healthy),
                reasons: vec!["node_lost".into()],
                cleared: vec![],
            },
            r#"{"event":"health","node":null,"status":"degraded","was":"healthy","reasons":["node_lost"],"cleared":[]}"#,
        ),
        (Event::Leader { leader: None, term: 4 }, r#"{"event":"leader","leader":null,"term":4}"#),
        (Event::Missed { count: 9 }, r#"{"event":"missed","count":9}"#),
        (
            Event::NameRegistered {
                name: "a".into(),
                node: "node-1".into(),
                boot: "a1".into(),
                actor: 3,
                fence: 7,
            },
            r#"{"event":"name_registered","name":"a","node":"node-1","boot":"a1","actor":3,"fence":7}"#,
        ),
        (
            Event::NameUpdated { name: "a".into(), fence: 7 },
            r#"{"event":"name_updated","name":"a","fence":7}"#,
        ),
        (
            Event::NameUnregistered {
                name: "a".into(),
                node: Some("node-1".into()),
                fence: 7,
                reason: "node down".into(),
            },
            r#"{"event":"name_unregistered","name":"a","node":"node-1","fence":7,"reason":"node down"}"#,
        ),
        (
            Event::ChildStarted {
                name: "a".into(),
                kind: "echo".into(),
                node: "node-1".into(),
                boot: "a1".into(),
                fence: 7,
            },
            r#"{"event":"child_started","name":"a","kind":"echo","node":"node-1","boot":"a1","fence":7}"#,
        ),
        (
            Event::ChildMoving { name: "a".into(), kind: "echo".into(), from: None, fence: 7 },
            r#"{"event":"child_moving","name":"a","kind":"echo","from":null,"fence":7}"#,
        ),
        (
            Event::ChildEnded {
                name: "a".into(),
                kind: "echo".into(),
                node: None,
                fence: 7,
                reason: "normal".into(),
                goes_on: false,
            },
            r#"{"event":"child_ended","name":"a","kind":"echo","node":null,"fence":7,"reason":"normal","goes_on":false}"#,
        ),
        (Event::NamesMissed { count: 9 }, r#"{"event":"names_missed","count":9}"#),
    ];
    for (event, json) in all {
        golden(&event, json);
        assert!(json.starts_with(&format!(r#"{{"event":"{}""#, event.name())));
    }
}

#[test]
fn a_newer_node_may_tell_more() {
    let told = r#"{"id":"partition-0","primary_node":null,"replica_nodes":[],"epoch":0,"members":3}"#;
    assert_eq!(serde_json::from_str::<Partition>(told).unwrap().epoch, 0);
}

#[test]
fn names_and_children_are_listed_with_where_they_run() {
    use tumen_core::names::placement::Placing;
    use tumen_core::supervision::Restart;

    let named = Registered {
        name: "shop/1".into(),
        kind: Some("echo".into()),
        node: "node-1".into(),
        boot: "a1".into(),
        actor: 3,
        fence: 7,
        value: String::new(),
    };
    golden(
        &Registry { names: vec![named], count: 1, more: false },
        r#"{"names":[{"name":"shop/1","kind":"echo","node":"node-1","boot":"a1","actor":3,"fence":7,"value":""}],"count":1,"more":false}"#,
    );
    let child = Child {
        name: "shop/1".into(),
        kind: "echo".into(),
        state: "waiting".into(),
        node: None,
        boot: None,
        fence: 7,
        restarts: 1,
        restart: Restart::Transient,
        restarts_max: 5,
        window_ms: 30_000,
        placing: Placing::UniformQuorum,
        value: "v".into(),
    };
    golden(
        &Children { children: vec![child], count: 1, more: true },
        r#"{"children":[{"name":"shop/1","kind":"echo","state":"waiting","node":null,"boot":null,"fence":7,"restarts":1,"restart":"transient","restarts_max":5,"window_ms":30000,"placing":"uniform_quorum","value":"v"}],"count":1,"more":true}"#,
    );
    let least = r#"{"name":"a","kind":"echo","args":null}"#;
    let start = StartChild {
        name: "a".into(),
        kind: "echo".into(),
        args: serde_json::Value::Null,
        restart: None,
        restarts_max: None,
        window_ms: None,
        placing: None,
        value: None,
    };
    golden(&start, least);
    assert_eq!(serde_json::from_str::<StartChild>(r#"{"name":"a","kind":"echo"}"#).unwrap(), start);
    golden(&Moving { name: "a".into(), from: None }, r#"{"name":"a","from":null}"#);
    let own = r#"{"name":"a","kind":"echo","args":null,"placing":"near-data"}"#;
    golden(&StartChild { placing: Some("near-data".parse().unwrap()), ..start }, own);
    let told = Meta { key: "schema".into(), number: 7, value: serde_json::json!({ "version": 2 }) };
    golden(
        &AllMeta { meta: vec![told], count: 1, more: false },
        r#"{"meta":[{"key":"schema","number":7,"value":{"version":2}}],"count":1,"more":false}"#,
    );
}
