//! Names and children through trouble: splits, freezes, and crashes at any moment of a start. A prober asks all the while:
//! it never hears an instance after it heard a later one.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends there")]

mod nodes;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use nodes::teller::{named_cluster, spec, start_named};
use nodes::{all_ready, until};
use tumen_actors::names::NameFailure;
use tumen_actors::node::Runtime;
use tumen_actors::partitions::delivery::Delivery;
use tumen_actors::partitions::router::CallOptions;
use tumen_actors::transport::simulated::{Weather, World};
use tumen_core::ids::NodeName;
use tumen_core::names::{ClaimNumber, Name};
use tumen_core::partitions::request::{Failure, MessageId};
use tumen_core::supervision::Restart;

const WITHIN: Duration = Duration::from_secs(40);

/// How many runs: some at each change, more where `TUMEN_TROUBLES` is set.
fn troubles(some: u64, more: u64) -> u64 {
    if std::env::var_os("TUMEN_TROUBLES").is_some() { more } else { some }
}

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn names_of(nodes: &[Runtime]) -> Vec<NodeName> {
    nodes.iter().map(|node| node.id().node.clone()).collect()
}

/// Asks for one instance again and again, from each of these nodes, and remembers who answered.
#[derive(Clone, Default)]
struct Prober {
    heard: Arc<Mutex<Vec<(String, u64)>>>,
}

impl Prober {
    fn start(nodes: &[Runtime], text: &'static str) -> (Self, Vec<tokio::task::AbortHandle>) {
        let prober = Self::default();
        let probes = nodes.iter().map(|node| {
            let (heard, node) = (Arc::clone(&prober.heard), node.clone());
            let probing = tokio::spawn(async move {
                loop {
                    let one = name(text);
                    let options = CallOptions { within: Duration::from_secs(1), ..CallOptions::default() };
                    let asked = node.names().call_with(&one, MessageId::of("tell"), Bytes::new(), options);
                    if let Ok(reply) = asked.await {
                        let reply = String::from_utf8(reply.to_vec()).unwrap();
                        let (node, rest) = reply.split_once(' ').unwrap();
                        let number = rest.split(' ').next().unwrap().parse().unwrap();
                        heard.lock().unwrap().push((node.to_owned(), number));
                    }
                    tokio::time::sleep(Duration::from_millis(17)).await;
                }
            });
            probing.abort_handle()
        });
        let probes = probes.collect();
        (prober, probes)
    }

    /// How many instances answered, each in its time.
    fn instances(&self) -> usize {
        let heard = self.heard.lock().unwrap();
        for pair in heard.windows(2) {
            assert!(pair[0].1 <= pair[1].1, "an instance answered after a later one: {pair:?}");
            assert!(pair[0].1 != pair[1].1 || pair[0].0 == pair[1].0, "one number, two nodes: {pair:?}");
        }
        heard.iter().map(|(_, number)| *number).collect::<BTreeSet<u64>>().len()
    }
}

#[tokio::test(start_paused = true)]
async fn a_frozen_holder_then_the_new_one_killed_always_exactly_one_and_it_comes_back() {
    for seed in 0..troubles(3, 20) {
        let world = World::new(300 + seed, Weather::default());
        let nodes = named_cluster(&world, 3).await;
        let found =
            nodes[0].names().start(&name("one"), spec("", Restart::Permanent), Bytes::new(), WITHIN).await;
        let first = found.unwrap();
        let (prober, probes) = Prober::start(&nodes, "one");
        tokio::time::sleep(Duration::from_millis(200 + 37 * seed)).await;
        world.freeze(&first.holder.node.node);
        // Three leases.
        tokio::time::sleep(Duration::from_millis(4500)).await;
        let others = nodes.iter().filter(|node| *node.id() != first.holder.node);
        let others: Vec<Runtime> = others.cloned().collect();
        until("it runs elsewhere", || {
            others[0].names().lookup(&name("one")).is_some_and(|it| it.number > first.number)
        })
        .await;
        world.thaw(&first.holder.node.node);
        until("the thawed node is back", || nodes.iter().all(|node| node.ready().is_ok())).await;
        let second = others[0].names().lookup(&name("one")).unwrap();
        // A process that is gone asks nothing.
        let asking = nodes.iter().zip(&probes).find(|(node, _)| *node.id() == second.holder.node);
        asking.unwrap().1.abort();
        world.crash(&second.holder.node);
        let left: Vec<&Runtime> = nodes.iter().filter(|node| *node.id() != second.holder.node).collect();
        let after = second.number.0;
        until("it comes back", || {
            prober.heard.lock().unwrap().last().is_some_and(|(_, number)| *number > after)
        })
        .await;
        for node in left {
            until("both know it", || {
                node.names().lookup(&name("one")).is_some_and(|it| it.number > second.number)
            })
            .await;
        }
        probes.iter().for_each(tokio::task::AbortHandle::abort);
        assert_eq!(prober.instances(), 3, "seed {seed}");
        world.end();
    }
}

/// Claims names on all nodes, cuts the last off, and looks at both sides.
async fn split(seed: u64, count: usize, cut_off: usize) {
    let world = World::new(seed, Weather::default());
    let nodes = named_cluster(&world, count).await;
    let mut holders = Vec::new();
    for node in &nodes {
        let me = node.id().to_string();
        holders
            .push(node.names().host(move |delivery: Delivery| delivery.answer(Ok(Bytes::from(me.clone())))));
    }
    let all: Vec<String> = (0..1000).map(|n| format!("name/{n}")).collect();
    let claims = all.iter().enumerate().map(|(n, text)| {
        let (node, holder) = (&nodes[n % count], &holders[n % count]);
        async move { node.names().claim(holder.actor, &name(text), Bytes::new(), WITHIN).await }
    });
    for claimed in futures_util::future::join_all(claims).await {
        claimed.unwrap();
    }
    let singleton =
        nodes[0].names().start(&name("one"), spec("", Restart::Permanent), Bytes::new(), WITHIN).await;
    singleton.unwrap();
    let (prober, probes) = Prober::start(&nodes, "one");
    let (majority, minority) = nodes.split_at(count - cut_off);
    world.cut(&names_of(majority), &names_of(minority));
    let lost: usize = (0..1000).filter(|n| n % count >= count - cut_off).count();
    for node in majority {
        let here = || node.names().table().count(b"name/", |_, _| true) == 1000 - lost;
        until("the majority knows who is left", here).await;
    }
    // The side with a quorum resolves all that is left to living actors, and what was lost can be claimed.
    let heir =
        majority[0].names().host(|delivery: Delivery| delivery.answer(Ok(Bytes::from_static(b"heir"))));
    for (n, text) in all.iter().enumerate().take(3 * count) {
        if n % count >= count - cut_off {
            majority[0].names().claim(heir.actor, &name(text), Bytes::new(), WITHIN).await.unwrap();
        }
        // Whoever claims sees it at once; another node does a moment later.
        until("the majority sees it", || majority[1].names().lookup(&name(text)).is_some()).await;
        let told = majority[1].names().call(&name(text), MessageId::of("who"), Bytes::new(), WITHIN).await;
        assert!(told.is_ok(), "{text}: {told:?}");
    }
    // The other side pauses: its holders answer nobody, and nothing can be claimed there.
    for node in minority {
        let holder = node.names().host(|delivery: Delivery| delivery.answer(Ok(Bytes::new())));
        let refused =
            node.names().claim(holder.actor, &name("new"), Bytes::new(), Duration::from_secs(3)).await;
        assert!(matches!(refused, Err(NameFailure::Call(_) | NameFailure::Refused(_))), "{refused:?}");
        let own = all.iter().enumerate().find(|(n, _)| nodes[n % count].id() == node.id()).unwrap().1;
        let within = Duration::from_secs(2);
        let told = node.names().call(&name(own), MessageId::of("who"), Bytes::new(), within).await;
        let told = told.map_err(nodes::of_call);
        assert!(matches!(told, Err(Failure::NoQuorum | Failure::NotReady)), "{told:?}");
    }
    world.heal_all();
    until("healed, all nodes know the same", || {
        let known: Vec<_> = nodes.iter().map(|node| node.names().select(b"name/", 2000)).collect();
        let unique = known[0].iter().map(|(name, _)| name.clone()).collect::<BTreeSet<_>>().len();
        unique == known[0].len() && known.iter().all(|it| *it == known[0])
    })
    .await;
    // What a node held that was cut off is free, and can be had again: a thousand, each once.
    until("the nodes are members again", || nodes.iter().all(|node| node.ready().is_ok())).await;
    let mut held = BTreeMap::new();
    for (n, text) in all.iter().enumerate() {
        let (node, holder) = (&nodes[n % count], &holders[n % count]);
        match node.names().claim(holder.actor, &name(text), Bytes::new(), WITHIN).await {
            Ok(_) => held.insert(text.clone(), holder.clone()),
            Err(NameFailure::Refused(_)) => held.insert(text.clone(), heir.clone()),
            Err(why) => panic!("{text}: {why}"),
        };
    }
    for (text, holder) in &held {
        for node in &nodes {
            until("all see the holder", || {
                node.names().lookup(&name(text)).is_some_and(|found| found.holder == *holder)
            })
            .await;
        }
    }
    assert_eq!(held.len(), 1000);
    probes.iter().for_each(tokio::task::AbortHandle::abort);
    assert!(prober.instances() <= 2);
}

#[tokio::test(start_paused = true)]
async fn a_split_of_three_and_one_never_shows_two_holders() {
    split(401, 4, 1).await;
}

#[tokio::test(start_paused = true)]
async fn a_split_of_three_and_two_never_shows_two_holders() {
    split(402, 5, 2).await;
}

/// A hundred starts at once from five nodes, and a node that dies in their midst: whoever got an instance got the same one,
/// or a later one after it, and in the end one runs and nothing else stands there.
#[tokio::test(start_paused = true)]
async fn a_crash_at_any_moment_of_a_start_leaves_one_instance_and_no_orphan() {
    for seed in 0..troubles(6, 24) {
        let world = World::new(500 + seed, Weather::default());
        let nodes = named_cluster(&world, 5).await;
        let directory = tumen_core::names::directory_of(&name("one"));
        let plan = nodes[0].plans().newest().unwrap();
        let primary = plan.primary_of(directory).unwrap().0.clone();
        // By turns the directory's primary, and another node: the first that is asked to run it may be among these.
        let victim = if seed % 2 == 0 { primary } else { nodes[(seed / 2) as usize % 5].id().clone() };
        let living: Vec<Runtime> = nodes.iter().filter(|node| *node.id() != victim).cloned().collect();
        let (prober, probes) = Prober::start(&living, "one");
        let starts = (0..100).map(|n| {
            let node = &living[n % 4];
            async move {
                node.names().start(&name("one"), spec("", Restart::Permanent), Bytes::new(), WITHIN).await
            }
        });
        let crash = async {
            tokio::time::sleep(Duration::from_micros(500 * seed)).await;
            world.crash(&victim);
        };
        let (ended, ()) = tokio::join!(futures_util::future::join_all(starts), crash);
        let mut numbers = BTreeSet::new();
        for got in ended {
            match got {
                Ok(found) => {
                    numbers.insert(found.number);
                }
                Err(NameFailure::Call(failure)) => {
                    assert!(failure.maybe_changed() || failure.is_safe_to_retry(), "{failure}");
                }
                Err(other) => panic!("seed {seed}: {other}"),
            }
        }
        assert!((1..=3).contains(&numbers.len()), "seed {seed}: {numbers:?}");
        let newest = *numbers.last().unwrap();
        until("it answers", || {
            prober.heard.lock().unwrap().last().is_some_and(|it| ClaimNumber(it.1) >= newest)
        })
        .await;
        for node in &living {
            until("all know one", || {
                let known = node.names().lookup(&name("one"));
                known.is_some_and(|it| it.holder.node != victim) && node.names().select(b"", 10).len() == 1
            })
            .await;
        }
        probes.iter().for_each(tokio::task::AbortHandle::abort);
        prober.instances();
        world.end();
    }
}

/// The same names, claimed and given back without end, while nodes come and go: no directory forgets anybody, nor keeps
/// anybody who is gone.
#[tokio::test(start_paused = true)]
async fn starts_and_stops_in_a_row_leave_no_residue() {
    let world = World::new(601, Weather::default());
    let mut nodes = named_cluster(&world, 3).await;
    for round in 0..6 {
        let holder = nodes[2].names().host(|delivery: Delivery| delivery.answer(Ok(Bytes::new())));
        for n in 0..20 {
            nodes[2]
                .names()
                .claim(holder.actor, &name(&format!("n/{n}")), Bytes::new(), WITHIN)
                .await
                .unwrap();
        }
        nodes[2].stop().await;
        until("its names are gone", || {
            nodes[..2].iter().all(|node| node.names().table().count(b"", |_, _| true) == 0)
        })
        .await;
        nodes[2] = start_named(&world, 3, &[1], 1).await;
        all_ready(&nodes).await;
        assert_eq!(nodes[2].names().table().count(b"", |_, _| true), 0, "round {round}");
    }
}

#[tokio::test(start_paused = true)]
async fn two_nodes_start_the_same_singleton_split_and_heal_and_one_remains_seen_from_both() {
    let world = World::new(602, Weather::default());
    let nodes = named_cluster(&world, 2).await;
    let start = |node: &Runtime| {
        let names = node.names().clone();
        async move { names.start(&name("one"), spec("", Restart::Permanent), Bytes::new(), WITHIN).await.unwrap() }
    };
    let (one, other) = tokio::join!(start(&nodes[0]), start(&nodes[1]));
    assert_eq!((one.number, &one.holder), (other.number, &other.holder));
    let (prober, probes) = Prober::start(&nodes, "one");
    world.cut(&names_of(&nodes[..1]), &names_of(&nodes[1..]));
    tokio::time::sleep(Duration::from_secs(20)).await;
    world.heal_all();
    until("both know the same one", || {
        let known: Vec<_> = nodes.iter().map(|node| node.names().lookup(&name("one"))).collect();
        known[0].is_some() && known[0] == known[1] && nodes.iter().all(|node| node.ready().is_ok())
    })
    .await;
    let after = nodes[0].names().lookup(&name("one")).unwrap();
    until("it answers", || {
        prober.heard.lock().unwrap().last().is_some_and(|(_, number)| *number == after.number.0)
    })
    .await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    probes.iter().for_each(tokio::task::AbortHandle::abort);
    assert!(prober.instances() <= 2);
    assert!(nodes.iter().all(|node| node.names().select(b"", 10).len() == 1));
}

#[tokio::test(start_paused = true)]
async fn who_waits_to_be_ready_waits_below_a_majority_and_goes_on_at_it() {
    let world = World::new(603, Weather::default());
    let nodes = named_cluster(&world, 3).await;
    let each = names_of(&nodes);
    world.cut(&each[..1], &each[1..]);
    world.cut(&each[1..2], &each[2..]);
    until("alone none is ready", || nodes.iter().all(|node| node.ready().is_err())).await;
    let holder = nodes[0].names().host(|delivery: Delivery| delivery.answer(Ok(Bytes::new())));
    let within = Duration::from_secs(3);
    assert!(nodes[0].names().claim(holder.actor, &name("x"), Bytes::new(), within).await.is_err());
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert!(nodes.iter().all(|node| node.ready().is_err()), "below a majority they stay so");
    world.heal(&each[..1], &each[1..2]);
    until("two of three are", || nodes[..2].iter().all(|node| node.ready().is_ok())).await;
    assert!(nodes[2].ready().is_err(), "the third is alone");
    nodes[0].names().claim(holder.actor, &name("x"), Bytes::new(), WITHIN).await.unwrap();
}
