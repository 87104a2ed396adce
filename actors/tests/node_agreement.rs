//! What the parts of each node hold to be true after nodes came and went: the same, and the same as the plan.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends there")]

mod nodes;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures_util::future::BoxFuture;
use nodes::{call_all, cluster, message, name, settings, start, three_vote, until};
use tokio::time::Instant;
use tumen_actors::node::Runtime;
use tumen_actors::partitions::router::CallOptions;
use tumen_actors::partitions::{Begin, Host, Hosted, Kinds, Place};
use tumen_actors::transport::Service;
use tumen_actors::transport::simulated::{Weather, World};
use tumen_core::cluster::asks::Ask;
use tumen_core::cluster::coordinator::Departure;
use tumen_core::cluster::member::Status;
use tumen_core::cluster::snapshot::Snapshot;
use tumen_core::ids::{Epoch, Kind, NodeName, PartitionId, Version};
use tumen_core::partitions::fence::Fence;
use tumen_core::partitions::reconcile::local_assignments;
use tumen_core::partitions::request::{Header, MessageId, Reply};
use tumen_core::partitions::routing::RoutingTable;

/// How long a crash may take until every part of every survivor knows: a session that broke says so at once.
const CRASH_KNOWN_WITHIN: Duration = Duration::from_secs(2);
/// The same for a node that is merely silent: its lease has to run out.
const SILENCE_KNOWN_WITHIN: Duration = Duration::from_secs(5);

/// Says in what a node's parts differ: who lives, who is a member, who is routed to, and what runs here.
fn difference(node: &Runtime, alive: &BTreeSet<NodeName>) -> Option<String> {
    let plan = node.plans().newest()?;
    let live: BTreeSet<NodeName> = node.members().live_nodes().into_iter().collect();
    let up: BTreeSet<NodeName> = (plan.members.iter())
        .filter(|member| member.status == Status::Up)
        .map(|member| member.name().clone())
        .collect();
    let runs: Vec<(PartitionId, Epoch)> =
        node.read_table().entries().into_iter().map(|(partition, epoch, _)| (partition, epoch)).collect();
    let wanted: Vec<(PartitionId, Epoch)> = local_assignments(node.id(), &plan).into_iter().collect();
    let table = node.router().table();
    let routed: BTreeSet<NodeName> = (0..16)
        .filter_map(|index| Some(table.primary_of(PartitionId::user(index)).ok()?.primary.node.clone()))
        .collect();
    let me = &node.id().node;
    if live != *alive {
        return Some(format!("{me} holds {live:?} for alive, not {alive:?}"));
    }
    if up != *alive {
        return Some(format!("{me} has {up:?} for members, not {alive:?}"));
    }
    if table.version() != plan.version || !routed.is_subset(alive) {
        return Some(format!("{me} routes to {routed:?} by {}, not by {}", table.version(), plan.version));
    }
    (runs != wanted).then(|| format!("{me} runs {runs:?}, not {wanted:?}"))
}

/// Waits until all parts of these nodes hold the same, and are the only ones that live.
async fn until_they_agree(nodes: &[&Runtime]) {
    let alive: BTreeSet<NodeName> = nodes.iter().map(|node| node.id().node.clone()).collect();
    let mut last = String::new();
    for _ in 0..12_000 {
        let version = nodes[0].plans().newest().map(|plan| plan.version);
        let same = nodes.iter().all(|node| node.plans().newest().map(|plan| plan.version) == version);
        match nodes.iter().find_map(|node| difference(node, &alive)) {
            None if same && version.is_some() => return,
            None => last = "they know different plans".into(),
            Some(difference) => last = difference,
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("they do not agree: {last}");
}

/// Nodes whose worker of partition 0 cannot be started, and when that was tried.
fn failing_kinds(tries: &Arc<Mutex<Vec<Instant>>>) -> Kinds {
    let tries = Arc::clone(tries);
    let start = Arc::new(move |place: Place| -> BoxFuture<'static, Result<Box<dyn Host>, String>> {
        let fails = place.partition().index == 0;
        if fails {
            tries.lock().unwrap().push(Instant::now());
        }
        Box::pin(
            async move { if fails { Err("told to".into()) } else { Ok(Box::new(Silent) as Box<dyn Host>) } },
        )
    });
    let hosted = Hosted {
        kind: Kind::new("silent").unwrap(),
        messages: vec![(message(), "count")],
        queries: Vec::new(),
        mode: None,
        merges: false,
        begin: Begin::Start(start),
    };
    Kinds::new(vec![hosted]).unwrap()
}

struct Silent;

impl Host for Silent {
    fn handle(&mut self, _: MessageId, _: Bytes) -> BoxFuture<'_, Reply> {
        Box::pin(async { Ok(Bytes::new()) })
    }
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_cannot_start_is_tried_later_and_later_and_others_serve() {
    let world = World::new(36, Weather::default());
    let tries = Arc::default();
    let node = Runtime::start(settings(&world, 1, &[], 1), failing_kinds(&tries)).await.unwrap();
    until("all others serve", || node.read_table().entries().len() >= 15).await;
    tokio::time::sleep(Duration::from_secs(120)).await;
    let tries = tries.lock().unwrap().clone();
    let waits: Vec<Duration> = tries.windows(2).map(|pair| pair[1] - pair[0]).collect();
    // It doubles up to ten seconds, and goes on for ever: what is wrong may be mended outside.
    assert!(waits.len() > 15 && waits[0] < Duration::from_millis(100), "{waits:?}");
    assert!(waits.windows(2).all(|pair| pair[1] + Duration::from_millis(10) >= pair[0]), "{waits:?}");
    let last = *waits.last().unwrap();
    assert!((Duration::from_secs(5)..Duration::from_secs(12)).contains(&last), "{waits:?}");
    for n in 0..50 {
        let key = format!("user:{n}");
        if node.router().table().locate(key.as_bytes()).unwrap().partition.index != 0 {
            let options = CallOptions::default();
            node.router().call(key.as_bytes(), message(), Bytes::new(), options).await.unwrap();
        }
    }
}

fn all_but(nodes: &[Runtime], victim: usize) -> Vec<&Runtime> {
    nodes.iter().enumerate().filter(|(at, _)| *at != victim).map(|(_, node)| node).collect()
}

fn leader_of(nodes: &[Runtime]) -> usize {
    nodes.iter().position(|node| node.leader().as_ref() == Some(&node.id().node)).unwrap()
}

#[tokio::test(start_paused = true)]
async fn after_joins_a_crash_and_a_drain_all_parts_of_all_nodes_agree() {
    let world = World::new(31, Weather::default());
    let mut nodes = cluster(&world, 3).await;
    until_they_agree(&nodes.iter().collect::<Vec<_>>()).await;
    for n in 4..=5 {
        nodes.push(start(&world, n, &[1], 1).await);
        until_they_agree(&nodes.iter().collect::<Vec<_>>()).await;
    }
    let victim = (leader_of(&nodes) + 1) % nodes.len();
    world.crash(nodes[victim].id());
    let begun = Instant::now();
    until_they_agree(&all_but(&nodes, victim)).await;
    assert!(begun.elapsed() < CRASH_KNOWN_WITHIN, "{:?}", begun.elapsed());
    drop(nodes.remove(victim));

    let leader = leader_of(&nodes);
    let leaver = (leader + 1) % nodes.len();
    let ask = Ask::Depart { node: nodes[leaver].id().node.clone(), how: Departure::Drain { leave: false } };
    nodes[leader].ask(ask, Duration::from_secs(20)).await.unwrap();
    // It lives on, and is routed to by nobody.
    let drained = nodes[leaver].id().node.clone();
    until("nobody is routed to it, and nothing runs there", || {
        let routes_around = |node: &Runtime| {
            let table = node.router().table();
            (0..16).all(|at| table.primary_of(PartitionId::user(at)).is_ok_and(|l| l.primary.node != drained))
        };
        nodes.iter().all(routes_around) && nodes[leaver].read_table().entries().is_empty()
    })
    .await;
    for node in &nodes {
        assert_eq!(call_all(node).await.len(), 50);
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_node_is_gone_for_all_parts_within_its_lease_and_comes_back() {
    let world = World::new(32, Weather::default());
    let nodes = cluster(&world, 3).await;
    three_vote(&nodes).await;
    let victim = (leader_of(&nodes) + 1) % 3;
    world.freeze(&nodes[victim].id().node);
    let begun = Instant::now();
    until_they_agree(&all_but(&nodes, victim)).await;
    assert!(begun.elapsed() < SILENCE_KNOWN_WITHIN, "{:?}", begun.elapsed());
    world.thaw(&nodes[victim].id().node);
    until_they_agree(&nodes.iter().collect::<Vec<_>>()).await;
}

#[tokio::test(start_paused = true)]
async fn a_minority_of_two_publishes_nothing() {
    let world = World::new(33, Weather::default());
    let nodes = cluster(&world, 5).await;
    until("three vote", || nodes.iter().all(|node| node.voting().len() >= 3)).await;
    // The leader and one more are cut off from three, of which most of the voters are.
    let leader = leader_of(&nodes);
    let other = (0..5).find(|at| *at != leader).unwrap();
    let votes = |at: &usize| nodes[leader].voting().contains(&nodes[*at].id().node);
    let few = if votes(&other) && nodes[leader].voting().len() == 3 {
        [leader, (0..5).find(|at| *at != leader && !votes(at)).unwrap()]
    } else {
        [leader, other]
    };
    let named = |ats: &[usize]| ats.iter().map(|at| nodes[*at].id().node.clone()).collect::<Vec<_>>();
    let many: Vec<usize> = (0..5).filter(|at| !few.contains(at)).collect();
    let before = nodes[leader].plans().newest().unwrap().version;
    world.cut(&named(&few), &named(&many));
    until("the three go on", || {
        many.iter().all(|at| {
            let plan = nodes[*at].plans().newest().unwrap();
            let up = plan.members.iter().filter(|member| member.status == Status::Up).count();
            plan.version > before && up == 3 && nodes[*at].ready().is_ok()
        })
    })
    .await;
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_millis(500)).await;
        for at in few {
            assert_eq!(nodes[at].plans().newest().unwrap().version, before, "{}", name(at + 1));
        }
    }
    world.heal_all();
    until_they_agree(&nodes.iter().collect::<Vec<_>>()).await;
}

/// What a node answers to a call under this fence, as it stands on the wire.
async fn ask_under(from: &Runtime, to: &Runtime, fence: Fence) -> Bytes {
    let encode = |buffer: &mut BytesMut| {
        Header { fence, message: message(), identity: None }.encode(buffer);
        buffer.put_slice(b"");
    };
    let node = to.id().node.clone();
    from.transport().call(&node, Service::Partition, Duration::from_secs(5), encode).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn who_asks_under_an_older_epoch_is_told_which_plan_is_in_force() {
    let world = World::new(34, Weather::default());
    let nodes = cluster(&world, 2).await;
    let (fence, version) = {
        let table = nodes[0].router().table();
        let is_theirs = |p: &PartitionId| table.primary_of(*p).unwrap().primary == nodes[1].id();
        let theirs = (0..16).map(PartitionId::user).find(is_theirs).unwrap();
        (table.fence_of(theirs).unwrap(), table.version())
    };
    // <partition, epoch, id> of what runs: of this epoch and no other, there and nowhere else.
    let kind = Kind::new("counter").unwrap();
    let found =
        |node: &Runtime, epoch: u64| node.read_table().lookup(fence.partition, Epoch(epoch), &kind).is_some();
    assert!(found(&nodes[1], fence.epoch.0) && !found(&nodes[0], fence.epoch.0));
    assert!(!found(&nodes[1], fence.epoch.0 - 1) && !found(&nodes[1], fence.epoch.0 + 1));
    let older = Fence { epoch: Epoch(fence.epoch.0 - 1), ..fence };
    let mut answer = ask_under(&nodes[0], &nodes[1], older).await;
    // A failure, of the first kind that there is, with the plan that is in force.
    assert_eq!((answer.get_u8(), answer.get_u32_le(), answer.get_u64_le()), (1, 0, version.0));
    let reply = ask_under(&nodes[0], &nodes[1], fence).await;
    assert_eq!(reply.first(), Some(&0), "{reply:?}");
    // Of the second kind: whoever knows a newer epoch is to ask again once it has come here.
    let newer = Fence { epoch: Epoch(fence.epoch.0 + 1), ..fence };
    let mut answer = ask_under(&nodes[0], &nodes[1], newer).await;
    assert_eq!((answer.get_u8(), answer.get_u32_le()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn calls_find_their_way_without_asking_the_leader() {
    let world = World::new(35, Weather::default());
    let nodes = cluster(&world, 3).await;
    three_vote(&nodes).await;
    let leader = leader_of(&nodes);
    let [from, to] = [(leader + 1) % 3, (leader + 2) % 3].map(|at| &nodes[at]);
    world.freeze(&nodes[leader].id().node);
    let goes_there = |key: &String| {
        from.router().table().locate(key.as_bytes()).is_ok_and(|located| located.primary == to.id())
    };
    let keys: Vec<String> = (0..1_000).map(|n| format!("user:{n}")).filter(goes_there).collect();
    let begun = Instant::now();
    let calls = keys
        .iter()
        .map(|key| from.router().call(key.as_bytes(), message(), Bytes::new(), CallOptions::default()));
    for reply in futures_util::future::join_all(calls).await {
        reply.unwrap();
    }
    assert!(begun.elapsed() < Duration::from_millis(100), "{} in {:?}", keys.len(), begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn no_reader_ever_sees_half_of_two_tables() {
    let world = World::new(37, Weather::default());
    let nodes = cluster(&world, 1).await;
    let plan = Snapshot::clone(&nodes[0].plans().newest().unwrap());
    // In the plan of each version all epochs are that version's number.
    let table = |version: u64| {
        let mut plan = plan.clone();
        plan.version = Version(version);
        let assignments = plan.groups.iter_mut().flat_map(|group| &mut group.assignments);
        assignments.for_each(|assignment| assignment.epoch = Epoch(version));
        Arc::new(RoutingTable::new(&plan))
    };
    let tables: Vec<_> = (1..=50).map(table).collect();
    let (cell, over) = (ArcSwap::new(Arc::clone(&tables[0])), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let read = || {
            while !over.load(Ordering::Relaxed) {
                let table = cell.load();
                for index in 0..16 {
                    let fence = table.fence_of(PartitionId::user(index)).unwrap();
                    assert_eq!(fence.epoch.0, table.version().0, "of two tables");
                }
            }
        };
        let readers: Vec<_> = (0..2).map(|_| scope.spawn(read)).collect();
        for _ in 0..200 {
            for table in &tables {
                cell.store(Arc::clone(table));
            }
            std::thread::yield_now();
        }
        over.store(true, Ordering::Relaxed);
        for reader in readers {
            reader.join().unwrap();
        }
    });
}
