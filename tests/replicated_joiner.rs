//! A node that joins where partitions have fewer copies than there are nodes: it ends with its own partitions and no others,
//! equal to what they were copied from, and what was written meanwhile is among it. A copy that is behind changes nothing.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends there")]

mod harness;
#[path = "history/wire.rs"]
#[allow(dead_code, unreachable_pub, reason = "this test takes of it what it needs")]
mod wire;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use harness::{Cluster, Options, PATIENCE, belief, check, wait_until};
use serde_json::Value as Json;
use wire::Wire;

/// So many times this is more than a log keeps: whoever begins is sent a whole state.
const LARGE_LEN: usize = 1 << 20;
const LARGE_WRITES: usize = 10;

/// Which nodes are to have copies of each partition, by name.
fn planned(cluster: &Cluster, asked: usize) -> BTreeMap<String, BTreeSet<usize>> {
    let shown = cluster.get(asked, "/partitions");
    let partitions = shown["partitions"].as_array().unwrap();
    let one =
        |one: &Json| (one["id"].as_str().unwrap().to_owned(), cluster.holders(one).into_iter().collect());
    partitions.iter().map(one).collect()
}

/// How many copies a node has, whatever it is to have.
fn held(cluster: &Cluster, number: usize) -> u64 {
    let kinds = ["tumen_partitions_led{", "tumen_partitions_opening{", "tumen_replicas{"];
    kinds.map(|kind| cluster.counted(number, kind)).iter().sum()
}

/// `POST path` at a node, which compares copies: what it found.
fn compared(cluster: &Cluster, asked: usize, path: &str) -> Json {
    let answer =
        Wire::new(&cluster.node(asked).http).ask(Duration::from_secs(60), "POST", path, "", b"").unwrap();
    let text = String::from_utf8_lossy(&answer.body).into_owned();
    assert_eq!(answer.status, 200, "{path}: {text}");
    serde_json::from_str(&text).unwrap()
}

/// Every node has its own partitions and no others, and each copy is equal to its primary's, at one place of their log.
fn check_copies(cluster: &Cluster, asked: usize) {
    let plan = planned(cluster, asked);
    for number in 0..cluster.len() {
        // What it holds is counted in all, those of the names too.
        let names = cluster.get(asked, "/partitions?group=names");
        let names = names["partitions"].as_array().unwrap().iter();
        let names = names.filter(|one| cluster.holders(one).contains(&number)).count();
        let planned = plan.values().filter(|holders| holders.contains(&number)).count() + names;
        let planned = planned as u64;
        wait_until("a node has its own copies only", PATIENCE, || {
            let held = held(cluster, number);
            check(held == planned, || format!("node {number} has {held} copies, and is to have {planned}"))
        });
    }
    let shown = compared(cluster, asked, "/partitions/full-sync");
    assert_eq!(shown["equal"], true, "{shown}");
    let partitions = shown["partitions"].as_array().unwrap();
    assert_eq!(partitions.len(), plan.len());
    for partition in partitions {
        let (hash, sequence) = (&partition["hash"], &partition["sequence"]);
        assert!(hash.is_string() && sequence.as_u64().unwrap() > 0, "{partition}");
        let copies = partition["copies"].as_array().unwrap();
        for copy in copies {
            assert_eq!((&copy["hash"], &copy["sequence"]), (hash, sequence), "{partition}");
        }
        let names = copies.iter().map(|copy| &copy["node"]).chain([&partition["primary_node"]]);
        let holders: BTreeSet<usize> = names.map(|name| cluster.number_of(name.as_str().unwrap())).collect();
        assert_eq!(holders, plan[partition["id"].as_str().unwrap()], "{partition}");
    }
}

/// Writes one key after the other, until it is told to stop: those that were acknowledged.
fn write_on(node: &str, name: &str, count: &AtomicUsize, stop: &AtomicBool) -> Vec<String> {
    let mut wire = Wire::new(node);
    let mut written = Vec::new();
    while !stop.load(Ordering::SeqCst) {
        let key = format!("{name}-{}", written.len());
        let put = wire.ask(Duration::from_secs(7), "PUT", &format!("/kv/{key}"), "", key.as_bytes());
        // It is written again where nobody knows: it is the same.
        if put.is_ok_and(|answer| matches!(answer.status, 201 | 204)) {
            written.push(key);
            count.fetch_add(1, Ordering::SeqCst);
        }
    }
    written
}

/// Tells those who write to stop, when it is dropped.
struct Stops<'a>(&'a AtomicBool);

impl Drop for Stops<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[test]
fn a_joiner_ends_with_its_own_partitions_as_they_are_while_writes_go_on() {
    let flags = ["--mode", "sync", "--partitions", "8", "--replication", "2"];
    let mut cluster = Cluster::start(3, Options::default().flags(&flags));
    let large = "x".repeat(LARGE_LEN);
    for key in cluster.key_of_each(0).keys() {
        (0..LARGE_WRITES).for_each(|_| cluster.put(0, key, &large));
    }
    let sent = |cluster: &Cluster| cluster.counted_everywhere("tumen_states_sent_total");
    let sent_before = sent(&cluster);

    let (count, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let (nodes, joiner) =
        ([0, 1, 2].map(|number| cluster.node(number).http.clone()), cluster.add(&[0, 1, 2]));
    let written: Vec<String> = thread::scope(|scope| {
        // Also where something is waited for in vain: nobody may write on for ever.
        let stops = Stops(&stop);
        let writing: Vec<_> = (nodes.iter().enumerate())
            .map(|(number, node)| {
                let (count, stop) = (&count, &stop);
                scope.spawn(move || write_on(node, &format!("meanwhile-{number}"), count, stop))
            })
            .collect();
        let wait_for_more = || {
            let before = count.load(Ordering::SeqCst);
            wait_until("more is written", PATIENCE, || {
                check(count.load(Ordering::SeqCst) >= before + 100, || "too little".to_owned())
            });
        };
        wait_for_more();
        cluster.launch(joiner);
        cluster.wait_until_balanced();
        wait_for_more();
        drop(stops);
        writing.into_iter().flat_map(|writes| writes.join().unwrap()).collect()
    });

    let plan = planned(&cluster, joiner);
    let (own, of_all) = (plan.values().filter(|holders| holders.contains(&joiner)).count(), plan.len());
    assert!(own > 0 && own < of_all, "the test shows nothing: {plan:?}");
    check_copies(&cluster, joiner);
    assert!(sent(&cluster) - sent_before >= own as u64, "whole states were sent");
    for key in &written {
        let read = wait_until("what was written is read", PATIENCE, || {
            let read = cluster.http.get(&cluster.node(joiner).http, &format!("/kv/{key}"))?;
            check(matches!(read.status, 200 | 404), || read.text()).map(|()| read)
        });
        assert_eq!((read.status, &read.text()), (200, key), "it was acknowledged");
    }
    eprintln!("{} writes went on; {own} of {of_all} partitions are the joiner's", written.len());
    belief::check(&cluster);
}

#[test]
fn a_copy_that_slept_through_a_write_never_brings_back_what_was_there_before() {
    let flags = ["--mode", "sync", "--partitions", "8", "--replication", "2"];
    let mut cluster = Cluster::start(4, Options::default().flags(&flags));
    let leader = cluster.leader(0);
    let keys = cluster.key_of_each(leader);
    keys.keys().for_each(|key| cluster.put(leader, key, "old"));
    // Whoever sleeps is a replica of some, and primary of others.
    let sleeps = (0..4).find(|number| *number != leader).unwrap();
    let old = keys.values().filter(|holders| holders[1] == sleeps).count();
    assert!(old > 0, "the test shows nothing: {keys:?}");
    cluster.freeze(sleeps);
    // Without it, once it does not count any more.
    keys.keys().for_each(|key| cluster.put(leader, key, "new"));
    cluster.thaw(sleeps);
    // It has the old values, and is asked to bring all copies up to date.
    wait_until("it is a member again", PATIENCE, || {
        let shown = cluster.try_get(sleeps, "/cluster")?;
        check(harness::up(&shown).len() == 4, || shown.to_string())
    });
    compared(&cluster, sleeps, "/partitions/full-sync");
    cluster.wait_until_settled();
    check_copies(&cluster, sleeps);
    for key in keys.keys() {
        for number in 0..4 {
            for query in ["", "?read=replica"] {
                let read = wait_until("it is read", PATIENCE, || {
                    let path = format!("/kv/{key}{query}");
                    let read = cluster.http.get(&cluster.node(number).http, &path)?;
                    check(read.status == 200, || read.text()).map(|()| read)
                });
                assert_eq!(read.text(), "new", "{key}{query} at {number}");
            }
        }
    }
    belief::check(&cluster);
}
