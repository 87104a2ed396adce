//! Copies that are gone: with one of them down writes go on; with too many there is an honest error, and never an empty
//! beginning. A node that comes back without its memory is not taken for what it was.
//!
//! `TUMEN_AMNESIA` says how often a node comes back without its memory.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends there")]

mod harness;
mod history;

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use harness::{Cluster, Options, PATIENCE, check, wait_until};
use history::wire::Wire;

/// Longer than a node itself waits.
const WITHIN: Duration = Duration::from_secs(30);

/// Five nodes: with two of them gone the voters still have a majority, and what is missing are copies; which nobody makes
/// anew elsewhere meanwhile.
fn start(copies: &str) -> Cluster {
    let flags = ["--mode", "sync", "--partitions", "10", "--replication", copies, "--rebuild-after", "10m"];
    Cluster::start(5, Options::default().flags(&flags))
}

/// What a node says of a key: its value, or the code of an error after which nothing is changed.
///
/// # Panics
/// If it says that there is nothing, or something that it should not.
fn look(cluster: &Cluster, asked: usize, key: &str, values: &[&str]) -> Result<String, String> {
    let mut wire = Wire::new(&cluster.node(asked).http);
    let answer = wire.ask(WITHIN, "GET", &format!("/kv/{key}"), "", b"").map_err(|why| format!("{why:?}"))?;
    let text = String::from_utf8_lossy(&answer.body).into_owned();
    match answer.status {
        200 => {
            assert!(values.contains(&&*text), "{key} is {text:?}, not one of {values:?}");
            Ok(text)
        }
        503 | 504 => Err(text),
        // An acknowledged value is never taken for one that never was.
        status => panic!("{key} was written, and is answered {status} {text}"),
    }
}

/// Writes every key, each as soon as it can be written.
fn write_all(cluster: &Cluster, asked: usize, keys: &BTreeMap<String, Vec<usize>>, value: &str) -> Duration {
    let begun = Instant::now();
    keys.keys().for_each(|key| cluster.put(asked, key, value));
    begun.elapsed()
}

/// Whether fewer of these copies are left than must hold a write, or may tell what was written.
fn is_lost(copies: &[usize], gone: &[usize; 2]) -> bool {
    let left = copies.iter().filter(|copy| !gone.contains(copy)).count();
    left < if copies.len() == 2 { 1 } else { copies.len() / 2 + 1 }
}

/// Writes a key for which too few copies are left, and says what came of it. Nothing may be acknowledged.
fn write_in_vain(cluster: &Cluster, asked: usize, key: &str) -> String {
    let begun = Instant::now();
    let mut wire = Wire::new(&cluster.node(asked).http);
    let answer = wire.ask(WITHIN, "PUT", &format!("/kv/{key}"), "", b"vain").unwrap();
    let told: serde_json::Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    let code = told["error"]["code"].as_str().unwrap_or_default().to_owned();
    assert!(["not_ready", "no_quorum", "lost", "timeout"].contains(&&*code), "{} {told}", answer.status);
    format!("{code} (changed: {}) after {:?}", told["error"]["changed"], begun.elapsed())
}

fn two_gone(copies: &str) {
    let mut cluster = start(copies);
    let keys = cluster.key_of_each(0);
    write_all(&cluster, 0, &keys, "1");

    // One is gone: everything goes on.
    cluster.kill9(1);
    let pause = write_all(&cluster, 0, &keys, "2");
    eprintln!("R={copies}: all partitions were written to again {pause:?} after a copy was gone");
    // Half a minute it would be if a copy were waited for that is not coming back.
    assert!(pause < Duration::from_secs(20), "writes stopped for {pause:?}");
    cluster.launch(1);
    cluster.wait_until_settled();

    // Two are gone at once: where too few copies are left there is an error, and nothing else, ever.
    let now = cluster.key_of_each(0);
    let pairs = (0..5).flat_map(|one| (0..one).map(move |other| [other, one]));
    let lost_by = |gone: &[usize; 2]| now.values().filter(|copies| is_lost(copies, gone)).count();
    let gone = pairs.max_by_key(lost_by).unwrap();
    let asked = (0..5).find(|number| !gone.contains(number)).unwrap();
    let (lost, rest): (BTreeMap<_, _>, BTreeMap<_, _>) =
        now.into_iter().partition(|(_, copies)| is_lost(copies, &gone));
    assert!(!lost.is_empty() && !rest.is_empty(), "the test shows nothing: {lost:?}, {rest:?}");
    gone.into_iter().for_each(|number| cluster.freeze(number));
    gone.into_iter().for_each(|number| cluster.kill9(number));
    let pause = write_all(&cluster, asked, &rest, "3");
    let (goes, cannot) = (rest.len(), lost.len());
    eprintln!("R={copies}: {goes} partitions go on {pause:?} after two nodes were gone, {cannot} cannot");
    at_once(&lost, |key, copies| {
        // Where the primary is left it may still tell what surely was written.
        let read = look(&cluster, asked, key, &["2"]);
        if let Some(left) = copies.iter().find(|copy| !gone.contains(copy)) {
            let path = format!("/kv/{key}?read=replica");
            let old = cluster.http.get(&cluster.node(*left).http, &path).unwrap();
            assert_eq!(
                (old.status, old.text().as_str()),
                (200, "2"),
                "what a copy has it tells, with its age"
            );
            assert!(old.own.contains_key("x-tumen-age-ms"));
        }
        let written = write_in_vain(&cluster, asked, key);
        eprintln!("  {key} of {copies:?} without {gone:?}: {read:?}; {written}");
    });

    // They come back, and remember nothing.
    gone.into_iter().for_each(|number| cluster.launch(number));
    wait_until("they are members again", PATIENCE, || {
        let shown = cluster.try_get(asked, "/cluster")?;
        check(harness::up(&shown).len() == 5, || shown.to_string())
    });
    for key in rest.keys() {
        wait_until("what was acknowledged is there", PATIENCE, || look(&cluster, asked, key, &["3"]));
    }
    at_once(&lost, |key, copies| {
        // Where the primary was left, it has what was not acknowledged too, and may count it by now.
        let read = look(&cluster, asked, key, &["2", "vain"]);
        let none_left = copies.iter().all(|copy| gone.contains(copy));
        assert!(read.is_err() || !none_left, "{key} has no copy left, and is {read:?}");
        eprintln!("  {key} is {read:?} after they came back");
    });
}

/// Looks at all of them at once: each may take as long as a node waits.
fn at_once(keys: &BTreeMap<String, Vec<usize>>, look: impl Fn(&str, &[usize]) + Sync) {
    thread::scope(|scope| {
        for (key, copies) in keys {
            let look = &look;
            scope.spawn(move || look(key, copies));
        }
    });
}

#[test]
fn of_three_copies_one_may_be_gone_and_two_are_too_many() {
    two_gone("3");
}

#[test]
fn of_two_copies_one_may_be_gone_and_two_are_too_many() {
    two_gone("2");
}

#[test]
fn of_two_copies_the_one_that_lags_is_never_promoted() {
    let mut cluster = start("2");
    let asked = 4;
    let keys = cluster.key_of_each(asked);
    let (key, copies) = keys.iter().find(|(_, copies)| !copies.contains(&asked)).unwrap();
    let (primary, replica) = (copies[0], copies[1]);
    cluster.put(asked, key, "old");
    cluster.freeze(replica);
    // It does not count any more, and so does not hold up writes.
    cluster.put(asked, key, "new");
    cluster.kill9(primary);
    cluster.thaw(replica);
    wait_until("the other one is back", PATIENCE, || {
        let shown = cluster.try_get(asked, "/cluster")?;
        check(harness::up(&shown).len() == 4, || shown.to_string())
    });
    look(&cluster, asked, key, &["new"]).expect_err("it has the old value only");
    // Nor does it help that the other node comes back without its memory.
    cluster.launch(primary);
    wait_until("all are members again", PATIENCE, || {
        let shown = cluster.try_get(asked, "/cluster")?;
        check(harness::up(&shown).len() == 5, || shown.to_string())
    });
    look(&cluster, asked, key, &["new"]).expect_err("nobody has the new value");
}

#[test]
fn whoever_comes_back_without_its_memory_is_not_counted() {
    let times: u32 = std::env::var("TUMEN_AMNESIA").map_or(3, |text| text.parse().unwrap());
    let mut cluster = start("3");
    let mut refused = 0;
    for time in 0..times {
        // Somebody must be there who has none of the copies, to ask.
        let asked = (time % 5) as usize;
        let keys = cluster.key_of_each(asked);
        let Some((key, copies)) = keys.iter().find(|(_, copies)| !copies.contains(&asked)) else {
            panic!("{asked} has a copy of everything: {keys:?}")
        };
        let [primary, forgets, lags] = copies[..] else { panic!("{copies:?}") };
        let (old, new) = (format!("old-{time}"), format!("new-{time}"));
        cluster.put(asked, key, &old);
        // Two of three have the new value: one of them sleeps, and one forgets.
        cluster.freeze(lags);
        cluster.put(asked, key, &new);
        cluster.freeze(primary);
        cluster.restart(forgets);
        cluster.thaw(lags);
        wait_until("both are members again", PATIENCE, || {
            let shown = cluster.try_get(asked, "/cluster")?;
            check(harness::up(&shown).len() == 4, || shown.to_string())
        });
        // What is left is one that lags, and one that knows nothing.
        match look(&cluster, asked, key, &[&new]) {
            Ok(_) => {}
            Err(_) => refused += 1,
        }
        cluster.thaw(primary);
        let begun = Instant::now();
        wait_until("the value is there again", PATIENCE, || look(&cluster, asked, key, &[&new]));
        eprintln!("{time}: it was there again {:?} after the last one that had it was back", begun.elapsed());
        cluster.wait_until_settled();
    }
    assert_eq!(refused, times, "somebody who had it was asked: the test shows nothing");
}
