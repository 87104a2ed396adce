//! States that were kept in one cluster, and are brought into another one: on whole nodes, over the simulated network.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends there")]

mod nodes;

use std::time::Duration;

use bytes::Bytes;
use nodes::gatherer::{
    self, PANICS, PANICS_LATER, Set, UNWRITABLE, all, gather, gatherer, hermit, keep, number, set, size,
    written,
};
use nodes::{all_ready, name, replicate, settings, three_of_them_vote, until};
use tumen_actors::node::Runtime;
use tumen_actors::partitions::merging::{self, Merged};
use tumen_actors::partitions::router::{Brought, CallOptions};
use tumen_actors::transport::simulated::{Weather, World};
use tumen_core::cluster::snapshot::Mode;
use tumen_core::ids::{Kind, NodeName, PartitionId};
use tumen_core::partitions::request::{Failure, MessageId, Reply};

type State = (PartitionId, Kind, Bytes);

async fn cluster(world: &World, n: usize, mode: Mode) -> Vec<Runtime> {
    nodes::show_logs();
    let mut running = Vec::new();
    for at in 1..=n {
        let (seeds, min_nodes) = if at == 1 { (&[][..], n) } else { (&[1][..], 1) };
        let mut settings = settings(world, at, seeds, min_nodes);
        replicate(&mut settings, mode);
        settings.groups[0].1.partitions = 8;
        running.push(Runtime::start(settings, gatherer::kinds()).await.unwrap());
    }
    all_ready(&running).await;
    // By then all copies count, which is no part of a plan.
    tokio::time::sleep(Duration::from_secs(3)).await;
    running
}

async fn ask(node: &Runtime, partition: PartitionId, message: MessageId, body: &str) -> Reply {
    let options = CallOptions { within: Duration::from_secs(20), ..CallOptions::default() };
    node.router().call_partition(partition, message, Bytes::copy_from_slice(body.as_bytes()), options).await
}

async fn gathered(node: &Runtime, partition: PartitionId) -> Set {
    set(ask(node, partition, all(), "").await).unwrap()
}

fn on_copy(node: &Runtime, partition: PartitionId) -> Option<Set> {
    set(node.replication().query(partition, all(), Bytes::new()).0).ok()
}

fn count_of(node: &Runtime, partition: PartitionId) -> u64 {
    number(node.replication().query(partition, size(), Bytes::new()).0).unwrap_or(0)
}

fn primary_of(nodes: &[Runtime], partition: PartitionId) -> usize {
    let plan = nodes[0].plans().newest().unwrap();
    let primary = plan.primary(plan.assignment(partition).unwrap()).unwrap().name().clone();
    nodes.iter().position(|node| node.id().node == primary).unwrap()
}

fn partitions() -> impl Iterator<Item = PartitionId> {
    (0..8).map(PartitionId::user)
}

/// All copies have the same, by their hashes.
async fn assert_equal(nodes: &[Runtime]) {
    let names: Vec<NodeName> = nodes.iter().map(|node| node.id().node.clone()).collect();
    let (report, silent) = nodes[0].replication().full_sync_of(&names, None).await;
    assert_eq!((report.partitions.len(), silent), (8, vec![]));
    assert!(report.is_equal(), "{report:?}");
}

fn names(of: &str, count: usize) -> Set {
    (0..count).map(|n| format!("{of} {n}")).collect()
}

#[tokio::test(start_paused = true)]
async fn what_two_clusters_kept_is_one_in_the_end_while_requests_go_on() {
    for (seed, mode) in [(51, Mode::Async), (52, Mode::Sync)] {
        let (left, joined) =
            (World::new(seed, Weather::default()), World::new(seed + 10, Weather::default()));
        let (theirs, ours) = (cluster(&left, 3, mode).await, cluster(&joined, 3, mode).await);
        for partition in partitions().skip(1) {
            for n in 0..20 {
                ask(&theirs[0], partition, gather(), &format!("theirs {n}")).await.unwrap();
                ask(&ours[0], partition, gather(), &format!("both {n}")).await.unwrap();
                ask(&theirs[0], partition, gather(), &format!("both {n}")).await.unwrap();
                ask(&theirs[0], partition, keep(), "what does not merge").await.unwrap();
            }
        }
        let all_of_theirs: Set = names("theirs", 20).union(&names("both", 20)).cloned().collect();
        until("each copy applied all of it", || {
            partitions()
                .skip(1)
                .all(|p| theirs.iter().all(|node| on_copy(node, p) == Some(all_of_theirs.clone())))
        })
        .await;
        // Of every copy, whoever leads; nothing of the first partition, which is as it began.
        let mut states: Vec<Vec<State>> = Vec::new();
        for node in &theirs {
            let of_node = node.replication().states_to_bring().await;
            let of: Vec<_> = of_node.iter().map(|(partition, kind, _)| (*partition, kind.clone())).collect();
            assert_eq!(of, partitions().skip(1).map(|partition| (partition, gatherer())).collect::<Vec<_>>());
            states.push(of_node);
        }
        assert!(states.iter().all(|of_node| of_node == &states[0]), "copies of one state are written alike");

        // Each node brings its copies, to all primaries, while others write.
        let writing = async {
            for n in 0..100 {
                for partition in partitions() {
                    ask(&ours[n % 3], partition, gather(), &format!("ours {n}")).await.unwrap();
                }
            }
        };
        let bringing = futures_util::future::join_all(
            ours.iter().zip(states.clone()).map(|(node, states)| node.router().bring_states(states)),
        );
        let ((), brought) = tokio::join!(writing, bringing);
        assert!(brought.iter().all(|of_node| (of_node.taken, of_node.dropped) == (7, 0)), "{brought:?}");
        let changes: u64 = brought.iter().map(|of_node| of_node.changes).sum();
        assert_eq!(changes, 7 * 20, "what was there already is no change");
        let union: Set = all_of_theirs.union(&names("ours", 100)).cloned().collect();
        for partition in partitions() {
            let expected = if partition.index == 0 { names("ours", 100) } else { union.clone() };
            assert_eq!(gathered(&ours[1], partition).await, expected);
            until("the replicas have it", || {
                ours.iter().all(|node| on_copy(node, partition) == Some(expected.clone()))
            })
            .await;
        }
        assert_equal(&ours).await;

        // Once more: nothing changes, not even the log.
        let ends = async || {
            let report = ours[0].replication().full_sync_of(&[name(1), name(2), name(3)], None).await.0;
            report.partitions.iter().map(|of| (of.partition, of.position)).collect::<Vec<_>>()
        };
        let before = ends().await;
        let again = ours[2].router().bring_states(states.remove(0)).await;
        assert_eq!(again, Brought { taken: 7, changes: 0, dropped: 0 });
        assert_eq!(ends().await, before);
        let merged: Vec<Merged> = ours.iter().map(Runtime::merged).collect();
        assert_eq!(
            merged.iter().map(|of| (of.merged, of.changes)).fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1)),
            (28, 140)
        );
    }
}

/// Many small ones, and some that are large: more than one entry holds, by count and by length.
fn large() -> Set {
    let mut set = names("small", 70_000);
    set.extend(
        (0..40_u8).map(|n| format!("{n} {}", char::from(b'a' + n % 26).to_string().repeat(250 << 10))),
    );
    set
}

#[tokio::test(start_paused = true)]
async fn a_state_of_many_megabytes_comes_whole() {
    let world = World::new(53, Weather::default());
    let ours = cluster(&world, 3, Mode::Sync).await;
    let (partition, set) = (PartitionId::user(3), large());
    let state = written(&set);
    assert!(state.len() > 11 << 20, "more than a message may have");
    ask(&ours[0], partition, gather(), "ours").await.unwrap();
    let at = primary_of(&ours, partition);
    // From another node, and where it is served.
    let there = ours[(at + 1) % 3].router().bring_states(vec![(partition, gatherer(), state.clone())]).await;
    assert_eq!(there, Brought { taken: 1, changes: set.len() as u64, dropped: 0 });
    let here = ours[at].router().bring_states(vec![(partition, gatherer(), state)]).await;
    assert_eq!(here, Brought { taken: 1, changes: 0, dropped: 0 });
    let mut expected = set;
    expected.insert("ours".into());
    until("all copies have it", || {
        ours.iter().all(|node| count_of(node, partition) == expected.len() as u64)
    })
    .await;
    assert!(ours.iter().all(|node| on_copy(node, partition).as_ref() == Some(&expected)));
    assert_equal(&ours).await;
}

#[tokio::test(start_paused = true)]
async fn what_nobody_can_merge_is_dropped_and_counted_and_the_workers_go_on() {
    let world = World::new(54, Weather::default());
    let ours = cluster(&world, 3, Mode::Sync).await;
    let (partition, other) = (PartitionId::user(3), PartitionId::user(4));
    let at = primary_of(&ours, partition);
    let padding = "x".repeat(300 << 10);
    let of = |names: &[&str]| written(&names.iter().map(ToString::to_string).collect());
    let states = |panics: &str| {
        vec![
            (partition, gatherer(), of(&[panics, "lost"])),
            // The same of one that is large enough to be read elsewhere.
            (partition, gatherer(), of(&[panics, "lost", &padding])),
            (partition, gatherer(), Bytes::from_static(b"no set")),
            (partition, hermit(), of(&["not merged"])),
            (partition, Kind::new("unknown").unwrap(), of(&["nobody's"])),
            (PartitionId::user(8), gatherer(), of(&["nowhere"])),
            (other, gatherer(), of(&["taken"])),
        ]
    };
    ask(&ours[0], partition, gather(), "before").await.unwrap();
    let epoch = |nodes: &[Runtime]| nodes[0].plans().newest().unwrap().assignment(partition).unwrap().epoch;
    let before = epoch(&ours);
    for (node, panics) in [(at, PANICS), ((at + 1) % 3, PANICS)] {
        let brought = ours[node].router().bring_states(states(panics)).await;
        assert_eq!((brought.taken, brought.dropped), (1, 6), "{brought:?}");
    }
    let merged = ours[at].merged();
    assert_eq!(merged.dropped, 6, "two that panicked and one that cannot be read, twice: {merged:?}");
    assert_eq!((merged.brought, merged.refused), (1, 6));
    assert!(ours[at].progress().borrow().failing.is_empty(), "the worker was not started again");
    // One that panics where it is taken in has the worker begin anew; what is logged is whole.
    let brought =
        ours[at].router().bring_states(vec![(partition, gatherer(), of(&[PANICS_LATER, "first"]))]).await;
    assert_eq!((brought.taken, brought.dropped), (0, 1));
    ask(&ours[0], partition, gather(), "after").await.unwrap();
    let expected: Set = ["before", "after"].iter().map(ToString::to_string).collect();
    assert_eq!(gathered(&ours[2], partition).await, expected);
    assert_eq!(gathered(&ours[2], other).await, Set::from(["taken".to_owned()]));
    assert_eq!(epoch(&ours), before);
    assert_equal(&ours).await;

    // Nobody else can ask for it.
    let asked = ask(&ours[0], partition, merging::message(), "anything").await;
    assert!(matches!(asked, Err(Failure::Rejected(_))), "{asked:?}");
}

#[tokio::test(start_paused = true)]
async fn a_copy_that_cannot_write_its_state_is_left_out() {
    let world = World::new(55, Weather::default());
    let theirs = cluster(&world, 3, Mode::Async).await;
    ask(&theirs[0], PartitionId::user(1), gather(), UNWRITABLE).await.unwrap();
    ask(&theirs[0], PartitionId::user(2), gather(), "written").await.unwrap();
    for node in &theirs {
        until("it has both", || {
            (1..=2).all(|n| on_copy(node, PartitionId::user(n)).is_some_and(|set| set.len() == 1))
        })
        .await;
        let states = node.replication().states_to_bring().await;
        let expected = written(&Set::from(["written".to_owned()]));
        assert_eq!(states, [(PartitionId::user(2), gatherer(), expected)]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_primary_that_dies_in_the_midst_is_brought_the_rest() {
    for (seed, mode) in [(56, Mode::Sync), (57, Mode::Async)] {
        let world = World::new(seed, Weather::default());
        let mut ours = cluster(&world, 4, mode).await;
        three_of_them_vote(&ours).await;
        let (partition, set) = (PartitionId::user(5), large());
        let dying = ours.remove(primary_of(&ours, partition));
        let (router, state) = (ours[0].router().clone(), written(&set));
        let bringing =
            tokio::spawn(async move { router.bring_states(vec![(partition, gatherer(), state)]).await });
        match mode {
            // Nobody waits for other copies: it is on its way there, or being read.
            Mode::Async => tokio::time::sleep(Duration::from_millis(3)).await,
            Mode::Sync | Mode::Strong => {
                // Each part of it waits for another copy.
                while !ours.iter().any(|node| count_of(node, partition) > 1000) {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    assert!(!bringing.is_finished());
                }
            }
        }
        assert!(!bringing.is_finished());
        world.crash(dying.id());
        drop(dying);
        let brought = bringing.await.unwrap();
        assert_eq!((brought.taken, brought.dropped), (1, 0));
        let before = set.len() as u64 - brought.changes;
        assert!(mode == Mode::Async || before > 1000, "what was there is not changed again: {brought:?}");
        until("every copy has it", || ours.iter().all(|node| count_of(node, partition) == set.len() as u64))
            .await;
        assert_eq!(gathered(&ours[0], partition).await, set);
        assert_equal(&ours).await;
    }
}
