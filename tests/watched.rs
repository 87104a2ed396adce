//! What can be watched: the promises that hold at every moment, and the figures that say how the copies are.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends there")]

mod harness;

use std::collections::BTreeMap;
use std::time::Instant;

use harness::{Cluster, Options, PATIENCE, check, wait_until};
use serde_json::Value as Json;

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

/// How often a node traced that entries were prepared, pre-committed and committed; none ever before it was prepared.
fn traced(log: &str) -> [usize; 3] {
    let (mut lines, mut prepared) = ([0; 3], BTreeMap::new());
    for line in log.lines().filter(|line| line.contains("tumen::phases")) {
        // The last one may still be being written.
        let Ok(line) = serde_json::from_str::<Json>(line) else { continue };
        let place = (line["partition"].as_str().unwrap().to_owned(), line["epoch"].as_u64().unwrap());
        let sequence = line["sequence"].as_u64().unwrap();
        let phase = line["message"].as_str().unwrap();
        let at = ["prepared", "pre-committed", "committed"].iter().position(|name| *name == phase).unwrap();
        lines[at] += 1;
        if at == 0 {
            prepared.insert(place, sequence);
        } else {
            assert!(prepared.get(&place).is_some_and(|prepared| sequence <= *prepared), "{line}");
        }
    }
    lines
}

#[test]
fn a_strong_write_is_seen_in_all_three_phases_and_no_promise_is_broken() {
    let flags = ["--mode", "strong", "--partitions", "6", "--replication", "3"];
    let mut cluster = Cluster::prepare(3, Options::default().disks().flags(&flags));
    for number in 0..3 {
        let node = cluster.node_mut(number);
        node.forget_flags(&["--log-filter"]);
        node.flag(&["--log-filter", "warn,tumen::phases=trace,tumen::belief=trace,openraft=error"]);
    }
    cluster.start_all();
    cluster.wait_until_settled();
    let phase = |phase: &str| format!("tumen_replication_entries_total{{mode=\"strong\",phase=\"{phase}\"}}");
    let count = |name: &str| cluster.counted_everywhere(&phase(name));
    let before = count("prepared");
    let (writes, begun) = (50, count("committed"));
    for number in 0..writes {
        cluster.put(number % 3, &format!("key-{number}"), "value");
    }
    // The mark is told by the next message, or soon without one.
    wait_until("every write went through all phases", PATIENCE, || {
        let (prepared, told, committed) = (count("prepared"), count("pre_committed"), count("committed"));
        let whole = prepared - before >= writes as u64 && told == prepared && committed == prepared;
        let applied = cluster.counted_everywhere("tumen_replica_entries_total{mode=\"strong\"}");
        check(whole && applied >= 2 * (committed - begun), || {
            format!(
                "{before} to {prepared} prepared, {told} pre-committed, {committed} committed, {applied} by replicas"
            )
        })
    });
    assert_eq!(cluster.counted_everywhere("tumen_replication_lag_entries{mode=\"strong\"}"), 0);
    assert!(cluster.counted_everywhere("tumen_replication_prepare_seconds_count{mode=\"strong\"}") > 0);
    for number in 0..3 {
        let traced = traced(&cluster.node(number).log());
        assert!(traced.iter().all(|lines| *lines > 0), "prepared, pre-committed, committed: {traced:?}");
    }
    assert_eq!(
        count("prepared") + cluster.counted_everywhere("tumen_replication_entries_total{mode=\"sync\""),
        count("prepared")
    );

    // The users' own, and those of the names, each with two copies more.
    let all = 6 + u64::from(tumen_core::names::DIRECTORIES);
    assert_eq!(cluster.counted_everywhere("tumen_partitions_led{mode=\"strong\"}"), all);
    assert_eq!(cluster.counted_everywhere("tumen_replicas{mode=\"strong\"}"), 2 * all);
    assert_eq!(cluster.counted_everywhere("tumen_leader "), 1);
    assert_eq!(cluster.counted_everywhere("tumen_lease_held "), 3);
    assert!(cluster.counted(0, "tumen_partition_imbalance ") <= 1);
    assert!(cluster.counted_everywhere("tumen_requests_total{ending=\"answered\"") >= writes as u64);
    assert_eq!(cluster.counted_everywhere("tumen_invariant_violations "), 0);
    for number in 0..3 {
        let shown = cluster.get(number, "/invariants");
        assert_eq!(shown["violations"], 0, "{shown}");
        for promise in ["one_primary", "version_monotone", "epoch_monotone", "copies_distinct"] {
            assert!(shown["invariants"][promise]["observations"].as_u64().unwrap() > 0, "{promise}: {shown}");
        }
    }
    harness::belief::check(&cluster);
}

#[test]
fn whoever_takes_over_says_how_long_it_took() {
    let flags = ["--mode", "sync", "--partitions", "12", "--replication", "3"];
    let mut cluster = Cluster::start(3, Options::default().flags(&flags));
    let counts = |cluster: &Cluster| {
        [0, 1, 2].map(|number| match cluster.awake().contains(&number) {
            true => cluster.counted(number, "tumen_promotion_seconds_count"),
            false => 0,
        })
    };
    let primaries = |cluster: &Cluster, asked: usize| -> Vec<usize> {
        let shown = cluster.get(asked, "/partitions");
        let partitions = shown["partitions"].as_array().unwrap();
        partitions.iter().map(|partition| cluster.holders(partition)[0]).collect()
    };
    let victim = 2;
    let (before, led) = (counts(&cluster), primaries(&cluster, 0));
    let took = |cluster: &Cluster| {
        let sum = |number: usize| cluster.measured(number, "tumen_promotion_seconds_sum");
        sum(0) + sum(1)
    };
    let took_before = took(&cluster);
    let killed = Instant::now();
    cluster.kill9(victim);
    // Whoever serves what it did says so, and has counted it by then.
    for key in cluster.key_of_each(0).keys() {
        cluster.put(0, key, "1");
    }
    cluster.wait_until_settled();
    let (now, after) = (primaries(&cluster, 0), counts(&cluster));
    for number in [0, 1] {
        let took_over = led.iter().zip(&now).filter(|(was, is)| **was == victim && **is == number).count();
        assert!(took_over > 0, "{led:?} became {now:?}");
        let risen = after[number] - before[number];
        assert!(risen >= took_over as u64, "{number} took over {took_over} and counts {risen}");
    }
    let risen: u64 = (0..2).map(|number| after[number] - before[number]).sum();
    let took = took(&cluster) - took_before;
    eprintln!("{risen} promotions took {took:.4} s together");
    // Each of them began after the kill, and is over.
    assert!(took > 0.0 && took < risen as f64 * killed.elapsed().as_secs_f64(), "{took} s for {risen}");
}

#[test]
fn in_async_the_lag_is_shown_and_is_the_most_that_a_dead_primary_takes_along() {
    // Long leases: whoever freezes is still expected back.
    let flags = ["--mode", "async", "--partitions", "12", "--replication", "2"];
    let patient = ["--lease", "30s", "--stop-deadline", "60s"];
    let mut cluster = Cluster::start(3, Options::default().flags(&flags).flags(&patient));
    let leader = cluster.leader(0);
    let lag = |cluster: &Cluster| cluster.counted_everywhere("tumen_replication_lag_entries{mode=\"async\"}");
    let wait_for_rest = |cluster: &Cluster| {
        wait_until("copies have everything", PATIENCE, || {
            check(lag(cluster) == 0, || format!("{} entries are missing", lag(cluster)))
        });
    };
    wait_for_rest(&cluster);

    // Two copies: the one freezes, and the other goes on alone, as far as it may.
    let keys = cluster.key_of_each(leader);
    let apart = |copies: &&Vec<usize>| !copies.contains(&leader);
    let copies = keys.values().find(apart).expect("the other two share a partition").clone();
    let [primary, replica] = copies[..] else { panic!("{copies:?}") };
    cluster.freeze(replica);
    let holders = |key: &str| cluster.holders(&cluster.get(leader, &format!("/partitions/key?key={key}")));
    let keys = (0..10_000).map(|number| format!("lagging-{number}"));
    let written: Vec<String> = keys.filter(|key| holders(key) == copies).take(50).collect();
    written.iter().for_each(|key| cluster.put(leader, key, "1"));
    let [lagging, most] = ["lag_entries{", "lag_entries_max{"]
        .map(|name| cluster.counted(primary, &format!("tumen_replication_{name}mode=\"async\"}}")));
    let limit = cluster.counted(primary, "tumen_replication_lag_entries_limit");
    assert!(lagging >= written.len() as u64, "{lagging} entries lag of {} that were written", written.len());
    assert!(most <= lagging && most <= limit, "{most} in one partition, {lagging} in all, {limit} at most");

    cluster.kill9(primary);
    cluster.thaw(replica);
    let lost = written.iter().filter(|key| {
        wait_until(&format!("{key} is read"), PATIENCE, || {
            let got = cluster.http.get(&cluster.node(leader).http, &format!("/kv/{key}"))?;
            check(matches!(got.status, 200 | 404), || got.text()).map(|()| got.status == 404)
        })
    });
    let lost = lost.count() as u64;
    eprintln!("{lost} of {} were lost; {lagging} entries lagged", written.len());
    assert!(lost <= lagging, "{lost} were lost, and {lagging} lagged");
    wait_for_rest(&cluster);
    harness::belief::check(&cluster);
}
