//! What can be watched: the promises that hold at every moment, and the figures that say how the copies are.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends there")]

mod harness;

use harness::{Cluster, Options, PATIENCE, check, wait_until};

/// The samples of `GET /metrics` whose name and labels begin so, added up.
fn sum(cluster: &Cluster, number: usize, beginning: &str) -> u64 {
    let answer = cluster.http.get(&cluster.node(number).http, "/metrics").unwrap();
    assert_eq!(answer.status, 200);
    assert!(answer.content_type.as_deref().unwrap().starts_with("text/plain; version=0.0.4"));
    let text = answer.text();
    let found: Vec<&str> = text.lines().filter(|line| line.starts_with(beginning)).collect();
    assert!(!found.is_empty(), "no {beginning} in:\n{text}");
    found.iter().map(|line| line.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap()).sum()
}

/// Where an answer stands in its partition's log.
fn place(answer: &harness::http::Answer) -> (u64, u64) {
    let number = |name: &str| {
        answer.own.get(name).unwrap_or_else(|| panic!("no {name} in {answer:?}")).parse().unwrap()
    };
    (number("x-tumen-epoch"), number("x-tumen-sequence"))
}

#[test]
fn writes_and_reads_say_where_in_the_log_they_stand() {
    let cluster = Cluster::start(3, Options::default().flags(&["--mode", "sync", "--partitions", "3"]));
    cluster.put(0, "a", "1");
    let mut last = (0, 0);
    for number in [0, 1, 2, 0] {
        let node = &cluster.node(number).http;
        let written = place(&cluster.http.put(node, "/kv/a", format!("{number}")).unwrap());
        assert!(written > last, "{written:?} after {last:?}");
        let read = place(&cluster.http.get(node, "/kv/a").unwrap());
        assert!(read >= written, "read at {read:?} what was written at {written:?}");
        last = written;
    }
    // What is sent again stands where it stood.
    let keyed = |number: usize| {
        let answer = cluster.http.put_keyed(&cluster.node(number).http, "/kv/a", "once", "key-1").unwrap();
        assert_eq!(answer.status, 204);
        place(&answer)
    };
    let first = keyed(0);
    cluster.put(1, "a", "0");
    assert_eq!((keyed(1), keyed(2)), (first, first));
    last = place(&cluster.http.get(&cluster.node(2).http, "/kv/a").unwrap());
    // Copies get there.
    wait_until("a copy is as far", PATIENCE, || {
        let read = cluster.http.get(&cluster.node(1).http, "/kv/a?read=replica")?;
        let at = place(&read);
        check(at >= last && read.text() == "0", || format!("{at:?} with {}", read.text()))
    });
    harness::belief::check(&cluster);
}

fn everywhere(cluster: &Cluster, beginning: &str) -> u64 {
    (0..cluster.len()).map(|number| sum(cluster, number, beginning)).sum()
}

#[test]
fn a_strong_write_is_seen_in_all_three_phases_and_no_promise_is_broken() {
    let flags = ["--mode", "strong", "--partitions", "6", "--replication", "3"];
    let cluster = Cluster::start(3, Options::default().disks().flags(&flags));
    let phase = |phase: &str| format!("tumen_replication_entries_total{{mode=\"strong\",phase=\"{phase}\"}}");
    let count = |name: &str| everywhere(&cluster, &phase(name));
    let before = count("prepared");
    let (writes, begun) = (50, count("committed"));
    for number in 0..writes {
        cluster.put(number % 3, &format!("key-{number}"), "value");
    }
    // The mark is told by the next message, or soon without one.
    wait_until("every write went through all phases", PATIENCE, || {
        let (prepared, told, committed) = (count("prepared"), count("pre_committed"), count("committed"));
        let whole = prepared - before >= writes as u64 && told == prepared && committed == prepared;
        let applied = everywhere(&cluster, "tumen_replica_entries_total{mode=\"strong\"}");
        check(whole && applied >= 2 * (committed - begun), || {
            format!(
                "{before} to {prepared} prepared, {told} pre-committed, {committed} committed, {applied} by replicas"
            )
        })
    });
    assert_eq!(everywhere(&cluster, "tumen_replication_lag_entries{mode=\"strong\"}"), 0);
    assert!(everywhere(&cluster, "tumen_replication_prepare_seconds_count{mode=\"strong\"}") > 0);
    assert_eq!(
        count("prepared") + everywhere(&cluster, "tumen_replication_entries_total{mode=\"sync\""),
        count("prepared")
    );

    assert_eq!(everywhere(&cluster, "tumen_partitions_led{mode=\"strong\"}"), 6);
    assert_eq!(everywhere(&cluster, "tumen_replicas{mode=\"strong\"}"), 12);
    assert_eq!(everywhere(&cluster, "tumen_leader "), 1);
    assert_eq!(everywhere(&cluster, "tumen_lease_held "), 3);
    assert!(sum(&cluster, 0, "tumen_partition_imbalance ") <= 1);
    assert!(everywhere(&cluster, "tumen_requests_total{ending=\"answered\"") >= writes as u64);
    assert_eq!(everywhere(&cluster, "tumen_invariant_violations "), 0);
    for number in 0..3 {
        let shown = cluster.get(number, "/invariants");
        assert_eq!(shown["violations"], 0, "{shown}");
        for promise in ["one_primary", "version_monotone", "epoch_monotone", "copies_distinct"] {
            assert!(shown["invariants"][promise]["observations"].as_u64().unwrap() > 0, "{promise}: {shown}");
        }
    }
    harness::belief::check(&cluster);
}
