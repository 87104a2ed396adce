//! Primaries that freeze and die with writes in flight: what was acknowledged is there, what was refused never is.
//!
//! `TUMEN_KILLS` says how often a primary is killed in each mode.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends there")]

mod harness;
mod history;

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use harness::{Cluster, Options, PATIENCE, belief, check, wait_until};
use history::wire::{Lost, Wire};
use history::{Load, now};
use tumen_core::history::Call;

fn options(mode: &str) -> Options {
    Options::default().flags(&["--mode", mode, "--partitions", "6"])
}

/// Waits until a node answers for a key, and says what.
fn read_surely(cluster: &Cluster, at: usize, key: &str) -> Option<String> {
    wait_until(&format!("{key} is read"), PATIENCE, || {
        let node = &cluster.node(at).http;
        let got = cluster.http.get_within(Duration::from_secs(8), node, &format!("/kv/{key}"))?;
        check(matches!(got.status, 200 | 404), || got.text())?;
        Ok::<_, String>((got.status == 200).then(|| got.text()))
    })
}

#[test]
fn a_primary_that_slept_changes_nothing_when_it_wakes() {
    let mut cluster = Cluster::start(3, options("sync"));
    let mut caught = 0;
    for (round, victim) in [cluster.leader(0), (cluster.leader(0) + 1) % 3].into_iter().enumerate() {
        // Keys of which it is primary.
        let keys: Vec<String> = (0..10_000)
            .map(|number| format!("frozen-{round}-{number}"))
            .filter(|key| {
                cluster.get(victim, &format!("/partitions/key?key={key}"))["primary_node"]
                    == cluster.node(victim).name
            })
            .take(3)
            .collect();
        let load =
            Load { clients: 9, keys: keys.clone(), think_max_us: 1_000, staying: (5, victim), seed: 77 };
        let (mut frozen, mut thawed) = (now(), now());
        let (history, told) = history::record(&mut cluster, &load, |cluster| {
            thread::sleep(Duration::from_millis(300));
            cluster.freeze(victim);
            frozen = now();
            // Others take over, and write.
            let other = cluster.awake()[0];
            for key in &keys {
                wait_until("another one is primary", PATIENCE, || {
                    let shown = cluster.try_get(other, &format!("/partitions/key?key={key}"))?;
                    check(shown["primary_node"] != cluster.node(victim).name, || shown.to_string())
                });
            }
            thread::sleep(Duration::from_millis(500));
            thawed = now();
            cluster.thaw(victim);
            thread::sleep(Duration::from_millis(700));
            cluster.wait_until_settled();
        });
        let writes = keys.iter().flat_map(|key| history.operations(key)).filter(|operation| {
            let sent = operation.called < frozen;
            let waits = operation.answer.as_ref().is_none_or(|(at, _)| *at > thawed);
            sent && waits && !matches!(operation.call, Call::Read)
        });
        caught += writes.count();
        let explained = history::explain(&history, 77);
        eprintln!("{explained:?}\n  {told}");
        belief::check(&cluster);
    }
    eprintln!("{caught} writes were in flight at a primary that froze");
    assert!(caught > 0, "no write was in flight: the test shows nothing");
}

/// One client's writes, one after the other, each to a key of its own.
struct Trail {
    prefix: String,
    acknowledged: u64,
    begun: u64,
}

impl Trail {
    fn key(&self, number: u64) -> String {
        format!("{}-{number}", self.prefix)
    }
}

/// Tells those who write to stop, when it is dropped.
struct Stops<'a>(&'a AtomicBool);

impl Drop for Stops<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Writes until it is told to stop, at whichever node answers. Counts itself once its first write is acknowledged.
fn write_on(trail: &mut Trail, nodes: &[String], writing: &AtomicUsize, stop: &AtomicBool) {
    let mut wires: Vec<Wire> = nodes.iter().map(|node| Wire::new(node)).collect();
    let mut at = 0;
    while !stop.load(Ordering::SeqCst) {
        let key = trail.key(trail.begun);
        trail.begun += 1;
        // Each has a key of its own: sent again it does no harm.
        while !stop.load(Ordering::SeqCst) {
            match wires[at].ask(Duration::from_secs(2), "PUT", &format!("/kv/{key}"), "", b"x") {
                Ok(answer) if matches!(answer.status, 201 | 204) => {
                    writing.fetch_add(usize::from(trail.acknowledged == 0), Ordering::SeqCst);
                    trail.acknowledged = trail.begun;
                    break;
                }
                Ok(_) | Err(Lost::Unsent | Lost::Sent(_)) => {
                    at = (at + 1) % wires.len();
                    thread::sleep(Duration::from_millis(2));
                }
            }
        }
    }
}

/// Kills primaries under load; says how many acknowledged writes each time cost.
fn kill_primaries(mode: &str, times: u64) -> Vec<u64> {
    let mut cluster = Cluster::start(3, options(mode));
    let nodes: Vec<String> = (0..3).map(|number| cluster.node(number).http.clone()).collect();
    let mut lost_by = Vec::new();
    let mut pauses = Vec::new();
    for time in 0..times {
        let victim = (time % 3) as usize;
        let name = cluster.node(victim).name.clone();
        let prefixes: Vec<String> = (0..10_000)
            .map(|number| format!("{mode}-{time}-{number}"))
            .filter(|prefix| {
                cluster.get(victim, &format!("/partitions/key?key={prefix}"))["primary_node"] == *name
            })
            .take(6)
            .collect();
        // Each trail's keys are in all partitions: of some of them the victim is primary.
        let trails: Vec<Mutex<Trail>> = (prefixes.iter())
            .map(|p| Mutex::new(Trail { prefix: p.clone(), acknowledged: 0, begun: 0 }))
            .collect();
        let (writing, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
        thread::scope(|scope| {
            // Also where something is waited for in vain: nobody may write on for ever.
            let _stops = Stops(&stop);
            for trail in &trails {
                let (nodes, writing, stop) = (&nodes, &writing, &stop);
                scope.spawn(move || write_on(&mut trail.lock().unwrap(), nodes, writing, stop));
            }
            wait_until("all write", PATIENCE, || {
                let writing = writing.load(Ordering::SeqCst);
                check(writing == trails.len(), || format!("{writing} do"))
            });
            thread::sleep(Duration::from_millis(150 + 37 * (time % 5)));
            cluster.kill9(victim);
            let begun = Instant::now();
            let survivor = cluster.awake()[0];
            cluster.put(survivor, &prefixes[0], "x");
            pauses.push(begun.elapsed());
        });
        let survivor = cluster.awake()[0];
        let mut lost = 0;
        let mut reader = Wire::new(&cluster.node(survivor).http);
        for trail in trails {
            let trail = trail.into_inner().unwrap();
            assert!(trail.acknowledged > 0, "nothing was written: the test shows nothing");
            // Whether the newest are there is what is in question; older ones are looked at here and there.
            for number in (0..trail.acknowledged).filter(|n| n + 300 >= trail.acknowledged || n % 10 == 0) {
                let key = trail.key(number);
                let there = match reader.ask(Duration::from_secs(6), "GET", &format!("/kv/{key}"), "", b"") {
                    Ok(answer) if answer.status == 200 => true,
                    Ok(answer) if answer.status == 404 => false,
                    _ => read_surely(&cluster, survivor, &key).is_some(),
                };
                lost += u64::from(!there);
            }
        }
        lost_by.push(lost);
        cluster.launch(victim);
        cluster.wait_until_settled();
    }
    belief::check(&cluster);
    pauses.sort_unstable();
    eprintln!("{mode}: {times} kills cost {lost_by:?} writes; writes again after {pauses:?}");
    lost_by
}

fn kills() -> u64 {
    std::env::var("TUMEN_KILLS").map_or(10, |text| text.parse().unwrap())
}

#[test]
fn sync_loses_nothing_however_often_primaries_die() {
    let lost = kill_primaries("sync", kills());
    assert!(lost.iter().all(|lost| *lost == 0), "{lost:?}");
}

#[test]
fn async_loses_the_last_of_what_was_written_at_most() {
    // Each client waits for one write at a time: what had not been shipped when the primary died is one of each, or
    // those of a few milliseconds where the copies were slow.
    let lost = kill_primaries("async", kills());
    assert!(lost.iter().all(|lost| *lost <= 100), "{lost:?}");
}
