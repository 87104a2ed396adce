//! Partitions that move as planned, and copies that are made: on whole nodes, over the simulated network.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends there")]

mod nodes;

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use nodes::adder::{self, HANDED_OVER, HANGS, add, count, number};
use nodes::{all_ready, replicate, replicated, settings, three_of_them_vote, until};
use tokio::sync::broadcast;
use tumen_actors::node::Runtime;
use tumen_actors::partitions::replication::{News, Pace};
use tumen_actors::partitions::router::CallOptions;
use tumen_actors::transport::simulated::{Weather, World};
use tumen_core::cluster::asks::{Answer, Ask};
use tumen_core::cluster::coordinator::Departure;
use tumen_core::cluster::snapshot::Mode;
use tumen_core::ids::PartitionId;
use tumen_core::partitions::equality::Verdict;
use tumen_core::partitions::handover::Limits;
use tumen_core::wire::stable_hash;

fn options() -> CallOptions {
    CallOptions { within: Duration::from_secs(20), ..CallOptions::default() }
}

async fn counted(node: &Runtime, partition: PartitionId, name: &str) -> u64 {
    let body = Bytes::copy_from_slice(name.as_bytes());
    number(node.router().call_partition(partition, count(), body, options()).await).unwrap()
}

async fn added(node: &Runtime, partition: PartitionId, name: &str) -> u64 {
    let body = Bytes::copy_from_slice(name.as_bytes());
    number(node.router().call_partition(partition, add(), body, options()).await).unwrap()
}

/// The partitions that this node is primary of.
fn led_by(node: &Runtime) -> Vec<PartitionId> {
    let plan = node.plans().newest().unwrap();
    let leads = |assignment| plan.primary(assignment).is_some_and(|member| member.id() == node.id());
    plan.partitions().filter(|(_, assignment)| leads(assignment)).map(|(partition, _)| partition).collect()
}

async fn drain(asked: &Runtime, node: &Runtime) {
    let how = Departure::Drain { leave: false };
    let ask = Ask::Depart { node: node.id().node.clone(), how };
    let answer = asked.ask(ask, Duration::from_secs(30)).await.unwrap();
    assert!(matches!(answer, Answer::Plan { .. }), "{answer:?}");
}

#[tokio::test(start_paused = true)]
async fn a_primary_has_the_last_word_before_it_hands_over_and_it_goes_along() {
    let world = World::new(31, Weather::default());
    let nodes = replicated(&world, 3, Mode::Sync).await;
    let moving = led_by(&nodes[1]);
    let staying: Vec<PartitionId> = led_by(&nodes[0]).into_iter().chain(led_by(&nodes[2])).collect();
    assert!(!moving.is_empty());
    // One of them hangs; it is moved all the same, with what it had said until then.
    added(&nodes[0], moving[0], HANGS).await;
    drain(&nodes[0], &nodes[1]).await;
    until("it leads nothing", || led_by(&nodes[1]).is_empty()).await;
    for partition in moving {
        assert_eq!(counted(&nodes[2], partition, HANDED_OVER).await, 1, "{partition}");
    }
    for partition in &staying {
        assert_eq!(counted(&nodes[2], *partition, HANDED_OVER).await, 0, "{partition} did not move");
    }
}

#[tokio::test(start_paused = true)]
async fn a_primary_that_dies_has_no_last_word() {
    let world = World::new(32, Weather::default());
    let nodes = replicated(&world, 4, Mode::Sync).await;
    three_of_them_vote(&nodes).await;
    let moved = led_by(&nodes[3]);
    world.crash(nodes[3].id());
    for partition in moved {
        assert_eq!(counted(&nodes[0], partition, HANDED_OVER).await, 0, "{partition}");
    }
}

/// So much that a copy that begins is sent the whole state, not the log: of each partition the log is cut.
async fn fill(node: &Runtime, partitions: &[PartitionId]) {
    // Letters without a pattern, for what has one goes as a few bytes.
    let letter = |at: usize| char::from(b'a' + (stable_hash(&at.to_le_bytes()) % 26) as u8);
    let name = |number: usize| (0..16 << 10).map(|at| letter(at + (number << 20))).collect::<String>();
    let names: Vec<String> = (0..8).map(name).collect();
    for partition in partitions {
        for number in 0..600 {
            added(node, *partition, &names[number % 8]).await;
        }
    }
}

/// Which partitions came whole.
fn note(heard: &mut broadcast::Receiver<News>, came: &mut BTreeSet<PartitionId>) {
    while let Ok(news) = heard.try_recv() {
        if let News::Finished { handover, bytes, failed: None, .. } = news {
            assert!(bytes > 100 << 10, "{bytes}");
            came.insert(handover.partition);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn whole_copies_wait_for_their_turn_are_shown_and_come_out_equal() {
    let world = World::new(33, Weather::default());
    let limits = Limits { from_node_max: 2, to_node_max: 1, total_max: 16 };
    let pace = Pace { limits, bytes_per_second: Some(64 << 10) };
    let mut nodes = Vec::new();
    let start = async |n: usize, seeds: &[usize], min_nodes: usize| {
        let mut settings = settings(&world, n, seeds, min_nodes);
        replicate(&mut settings, Mode::Sync);
        settings.groups[0].1.partitions = 4;
        settings.pace = pace;
        Runtime::start(settings, adder::kinds()).await.unwrap()
    };
    nodes.push(start(1, &[], 2).await);
    nodes.push(start(2, &[1], 1).await);
    all_ready(&nodes).await;
    let partitions: Vec<PartitionId> = [&nodes[0], &nodes[1]].into_iter().flat_map(led_by).collect();
    fill(&nodes[0], &partitions).await;

    nodes.push(start(3, &[1], 1).await);
    let mut heard = nodes[2].replication().transfers();
    let members: Vec<_> = nodes.iter().map(|node| node.id().node.clone()).collect();
    let (mut most, mut waited, mut came) = (0, false, BTreeSet::new());
    let begun = tokio::time::Instant::now();
    while nodes[2].ready().is_err() {
        let (shown, silent) = nodes[1].replication().moves(&members).await;
        assert!(silent.iter().all(|node| *node == members[2]), "{silent:?}");
        let copying = shown.iter().filter(|shown| !shown.waits);
        assert!(copying.clone().all(|shown| shown.handover.to == members[2]), "{shown:?}");
        // One that was sent whole may be answered while the next one begins.
        most = most.max(copying.filter(|shown| Some(shown.bytes_done) < shown.bytes_total).count());
        waited |= shown.iter().any(|shown| shown.waits);
        note(&mut heard, &mut came);
        assert!(begun.elapsed() < Duration::from_secs(600), "it is not ready: {:?}", nodes[2].ready());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    note(&mut heard, &mut came);
    assert_eq!(came.len(), partitions.len(), "each came whole");
    assert_eq!((most, waited), (1, true), "one comes at a time, and the others wait");
    // Each is some 130 KiB, and two nodes send 64 KiB a second each, after the first 16.
    assert!(begun.elapsed() > Duration::from_secs(partitions.len() as u64), "{:?}", begun.elapsed());

    until("primaries moved to it", || !led_by(&nodes[2]).is_empty()).await;
    let (report, silent) = nodes[0].replication().full_sync_of(&members, None).await;
    assert_eq!((report.partitions.len(), silent), (partitions.len(), vec![]));
    assert!(report.is_equal(), "{report:?}");
    assert!(report.partitions.iter().all(|of| of.copies.len() == 2 && of.position.sequence > 600));
    assert_eq!(nodes[0].replication().moves(&members).await.0, []);
}

#[tokio::test(start_paused = true)]
async fn copies_are_compared_while_writes_go_on_and_a_node_that_is_gone_is_said() {
    let world = World::new(34, Weather::default());
    let nodes = replicated(&world, 3, Mode::Sync).await;
    let led = led_by(&nodes[1]);
    let writing = async {
        for round in 0..200 {
            for partition in &led {
                added(&nodes[0], *partition, &format!("k:{}", round % 7)).await;
            }
        }
    };
    let comparing = async {
        let mut reports = Vec::new();
        for _ in 0..5 {
            reports.push(nodes[1].replication().full_sync(None).await.unwrap());
        }
        reports
    };
    let ((), reports) = tokio::join!(writing, comparing);
    let mut before = 0;
    for report in reports {
        assert_eq!(report.partitions.len(), led.len());
        assert!(report.is_equal(), "{report:?}");
        let sum = report.partitions.iter().map(|of| of.position.sequence).sum::<u64>();
        assert!(sum >= before);
        before = sum;
    }
    assert!(before > 0);
    // Copies apply on after they were looked at.
    let last = added(&nodes[0], led[0], "last").await;
    assert_eq!(last, 1);
    let name = Bytes::from_static(b"last");
    until("a replica has it", || {
        nodes.iter().all(|node| number(node.replication().query(led[0], count(), name.clone()).0) == Ok(1))
    })
    .await;

    world.crash(nodes[2].id());
    let report = nodes[1].replication().full_sync(Some(led[0])).await.unwrap();
    let states: Vec<Verdict> = report.partitions[0].copies.iter().map(|copy| copy.verdict).collect();
    assert!(states.contains(&Verdict::Equal) && !report.is_equal(), "{report:?}");
}
