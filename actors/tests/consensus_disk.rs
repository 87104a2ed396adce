//! Consensus on real disks and the real clock: what survives restarts, and how long an agreement takes.

#![allow(clippy::print_stdout, reason = "figures for people who ask for them")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends there")]

#[path = "consensus/world.rs"]
mod world;

use std::time::{Duration, Instant};

use bytes::Bytes;
use tumen_actors::clock::Clock;
use tumen_actors::store::{Batch, Space};
use tumen_core::cluster::control::Outcome;
use tumen_core::ids::{NodeName, Version};
use world::{World, founding, next_plan};

const ALL: [&str; 3] = ["n1", "n2", "n3"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_voter_that_restarts_with_its_disk_goes_on_as_the_same_voter() {
    let mut world = World::on_disk(Clock::system());
    world.found(&ALL).await;
    world.publish(&ALL).await;
    for (node, clean) in [("n2", true), ("n1", false)] {
        let life = world.handle(node).life();
        world.stop(node, clean).await;
        let rest: Vec<&str> = ALL.into_iter().filter(|other| *other != node).collect();
        world.publish(&rest).await;
        let handle = world.start(node).await;
        assert_eq!(handle.life(), life);
        let version = world.publish(&ALL).await;
        world.all_show(&ALL, version).await;
    }
    let leader = world.leader_among(&ALL).await;
    assert_eq!(world.handle(&leader).metrics().borrow().voters, world.seats(&ALL));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_restart_goes_on_from_the_same_version() {
    let mut world = World::on_disk(Clock::system());
    // So that a snapshot, a purged log and entries behind it are all part of what is read back.
    world.settings.snapshot_after = 16;
    world.found(&ALL).await;
    for _ in 0..40 {
        world.publish(&ALL).await;
    }
    world.all_show(&ALL, Version(40)).await;
    for node in ALL {
        world.stop(node, node == "n1").await;
    }
    world.start_all(&ALL).await;
    assert_eq!(world.publish(&ALL).await, Version(41));
    world.all_show(&ALL, Version(41)).await;
    for node in ALL {
        assert_eq!(world.handle(node).state().borrow().state.founding, Some(founding()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lone_voter_with_a_disk_leads_again_at_once() {
    let mut world = World::on_disk(Clock::system());
    world.found(&["n1"]).await;
    let version = world.publish(&["n1"]).await;
    world.stop("n1", false).await;
    let handle = world.start("n1").await;
    assert_eq!(world.publish(&["n1"]).await, version.next());
    assert!(handle.leadership().borrow().term.0 > 1, "a leader that restarts is elected anew");
}

/// Milliseconds at the median and at the 99th of a hundred.
fn quantiles(mut times: Vec<Duration>) -> (f64, f64) {
    times.sort();
    let at = |part: usize| times[(times.len() - 1) * part / 100].as_secs_f64() * 1e3;
    (at(50), at(99))
}

async fn commits(world: &World, count: usize) -> (f64, f64) {
    let leader = world.handle(&world.leader_among(&ALL).await);
    let mut times = Vec::new();
    for _ in 0..count {
        let command = next_plan(&leader);
        let before = Instant::now();
        let outcome = leader.commit(command, world.soon()).await;
        times.push(before.elapsed());
        assert!(matches!(outcome, Ok(Outcome::Published { .. })), "{outcome:?}");
    }
    quantiles(times)
}

/// Run it with `--release --nocapture` to see the figures.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agreements_are_quick_and_nobody_asks_for_an_election() {
    let mut disk = World::on_disk(Clock::system());
    disk.found(&ALL).await;
    let store = disk.nodes["n1"].store.clone();
    let mut writes = Vec::new();
    for index in 0..200_u32 {
        let batch = Batch::new().put(Space::Node, &index.to_be_bytes(), Bytes::from(vec![1; 300]));
        let before = Instant::now();
        store.write(batch).await.unwrap();
        writes.push(before.elapsed());
    }
    let (fsync, fsync_99) = quantiles(writes);
    let (on_disk, on_disk_99) = commits(&disk, 300).await;
    let mut memory = World::in_memory(Clock::system());
    memory.found(&ALL).await;
    let (in_memory, in_memory_99) = commits(&memory, 300).await;
    let elections = |world: &World| {
        let seen = |node| world.handle(node).metrics().borrow().elections;
        ALL.map(seen)
    };
    let silent = failover(&disk, false).await;
    let proven = failover(&memory, true).await;
    println!(
        "one write, fsynced: p50 {fsync:.2} ms, p99 {fsync_99:.2} ms\n\
         commit by three voters on one disk: p50 {on_disk:.2} ms, p99 {on_disk_99:.2} ms\n\
         commit by three voters in memory: p50 {in_memory:.2} ms, p99 {in_memory_99:.2} ms\n\
         a leader that fell silent was followed after {silent:.0?}, a proven crash after {proven:.0?}\n\
         leaders seen: {:?} on disk (two wanted), {:?} in memory (two wanted)",
        elections(&disk),
        elections(&memory),
    );
    assert!(on_disk < 1_000.0 && in_memory < 1_000.0);
}

/// From the cut to the next leader that a majority follows.
async fn failover(world: &World, proof: bool) -> Duration {
    let leader = world.leader_among(&ALL).await;
    let rest: Vec<&str> = ALL.into_iter().filter(|node| *node != leader).collect();
    world.cut_off(&leader);
    let before = Instant::now();
    if proof {
        for node in &rest {
            world.handle(node).leader_crashed(&NodeName::new(&leader).unwrap());
        }
    }
    world.leader_among(&rest).await;
    before.elapsed()
}
