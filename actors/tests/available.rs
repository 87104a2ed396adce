//! Where availability goes first: both sides of a split go on, and become one again.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends there")]

mod nodes;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use nodes::teller::{named, spec};
use nodes::{all_ready, call_all, kinds, until};
use tumen_actors::node::Runtime;
use tumen_actors::partitions::delivery::Delivery;
use tumen_actors::transport::simulated::{Weather, World};
use tumen_core::cluster::sides::Consistency;
use tumen_core::ids::NodeName;
use tumen_core::names::directory::News;
use tumen_core::names::{Holder, Name, Reason};
use tumen_core::partitions::request::MessageId;
use tumen_core::supervision::Restart;

/// A node of a cluster in which availability goes first.
async fn start(world: &World, n: usize, seeds: &[usize], min_nodes: usize) -> Runtime {
    let mut settings = named(world, n, seeds, min_nodes);
    settings.consistency = Consistency::Available;
    Runtime::start(settings, kinds()).await.unwrap()
}

async fn cluster(world: &World, n: usize) -> Vec<Runtime> {
    nodes::show_logs();
    let mut nodes = vec![start(world, 1, &[], n).await];
    for at in 2..=n {
        nodes.push(start(world, at, &[1], 1).await);
    }
    all_ready(&nodes).await;
    nodes
}

fn names_of(nodes: &[Runtime]) -> Vec<NodeName> {
    nodes.iter().map(|node| node.id().node.clone()).collect()
}

/// Whether these are all members of one cluster, and nobody else is, and all serve.
fn are_one(nodes: &[Runtime]) -> bool {
    let plans: Vec<_> = nodes.iter().filter_map(|node| node.plans().newest()).collect();
    let same = plans.iter().map(|plan| (plan.cluster, plan.version)).collect::<BTreeSet<_>>().len() == 1;
    let serving = |plan: &tumen_core::cluster::snapshot::Snapshot| {
        plan.members.iter().filter(|member| member.status.may_serve()).count()
    };
    plans.len() == nodes.len()
        && same
        && plans.iter().all(|plan| serving(plan) == nodes.len())
        && nodes.iter().all(|node| node.ready().is_ok())
}

async fn become_one(nodes: &[Runtime]) {
    until("they are one cluster", || are_one(nodes)).await;
}

/// Whether all answers come from these nodes.
async fn answered_by(node: &Runtime, by: &[NodeName]) {
    let answers = call_all(node).await;
    let nodes: BTreeSet<&str> = answers.iter().map(|told| told.split(' ').next().unwrap()).collect();
    assert!(nodes.iter().all(|name| by.iter().any(|it| it.as_str() == *name)), "{nodes:?} {by:?}");
}

#[tokio::test(start_paused = true)]
async fn both_sides_of_a_split_serve_all_partitions_and_become_one_again() {
    for (seed, at, all) in [(1, 2, 4), (2, 3, 4), (3, 1, 4), (4, 2, 5), (5, 1, 2)] {
        let world = World::new(seed, Weather::default());
        let nodes = cluster(&world, all).await;
        let (some, others) = nodes.split_at(at);
        let sides = [names_of(some), names_of(others)];
        world.cut(&sides[0], &sides[1]);
        until("both sides are whole", || are_one(some) && are_one(others)).await;
        assert_ne!(some[0].plans().cluster(), others[0].plans().cluster());
        for (side, names) in [(some, &sides[0]), (others, &sides[1])] {
            for node in side {
                answered_by(node, names).await;
            }
        }
        world.heal_all();
        become_one(&nodes).await;
        for node in &nodes {
            answered_by(node, &names_of(&nodes)).await;
        }
        world.end();
    }
}

const WITHIN: Duration = Duration::from_secs(40);

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

async fn start_child(node: &Runtime, text: &str) -> Holder {
    let started = node.names().start(&name(text), spec("", Restart::Permanent), Bytes::new(), WITHIN).await;
    started.unwrap_or_else(|why| panic!("{text}: {why}")).holder
}

/// Who answers under a name: its node and number, and how often it was asked.
async fn ask(node: &Runtime, text: &str) -> (String, u64) {
    let told = node.names().call(&name(text), MessageId::of("tell"), Bytes::new(), WITHIN).await;
    let told = told.unwrap_or_else(|why| panic!("{text} from {}: {why}", node.id()));
    let told = String::from_utf8(told.to_vec()).unwrap();
    let (instance, count) = told.rsplit_once(' ').unwrap();
    (instance.to_owned(), count.parse().unwrap())
}

/// Whether this node knows of so many names that begin so, all of them held on these nodes.
fn holds(node: &Runtime, prefix: &str, count: usize, on: &[NodeName]) -> bool {
    let known = node.names().select(prefix.as_bytes(), 2 * count);
    let there = |holder: &Holder| on.contains(&holder.node.node);
    known.len() == count && known.iter().all(|(_, claim)| claim.holder().is_some_and(there))
}

#[tokio::test(start_paused = true)]
async fn split_in_halves_each_side_resolves_a_thousand_names_to_live_actors_and_healed_they_are_unique() {
    let world = World::new(11, Weather::default());
    let nodes = cluster(&world, 4).await;
    for n in 0..1_000 {
        start_child(&nodes[n % 4], &format!("n/{n}")).await;
    }
    let all = names_of(&nodes);
    until("all know all", || nodes.iter().all(|node| holds(node, "n/", 1_000, &all))).await;
    let before: Vec<(String, u64)> = {
        let mut before = Vec::new();
        for n in 0..1_000 {
            before.push(ask(&nodes[0], &format!("n/{n}")).await);
        }
        before
    };
    let (some, others) = nodes.split_at(2);
    let sides = [names_of(some), names_of(others)];
    world.cut(&sides[0], &sides[1]);
    until("both sides are whole", || are_one(some) && are_one(others)).await;
    for (side, names) in [(some, &sides[0]), (others, &sides[1])] {
        for node in side {
            until("each resolves all to its own side", || holds(node, "n/", 1_000, names)).await;
        }
        let mut gone_on = 0;
        for (n, (instance, count)) in before.iter().enumerate() {
            let now = ask(&side[n % 2], &format!("n/{n}")).await;
            let ran_here = names.iter().any(|name| instance.starts_with(&format!("{name} ")));
            if ran_here {
                assert_eq!((&now.0, now.1), (instance, count + 1), "what ran on this side runs on");
                gone_on += 1;
            }
        }
        assert!(gone_on > 100, "{gone_on}");
    }
    let mut news: Vec<_> = nodes.iter().map(|node| node.names().news()).collect();
    world.heal_all();
    become_one(&nodes).await;
    until("all agree", || {
        let first = nodes[0].names().select(b"n/", 2_000);
        let holder = |known: &[(Name, tumen_core::names::Claim)]| -> Vec<_> {
            known.iter().map(|(name, claim)| (name.clone(), claim.holder().cloned())).collect()
        };
        holds(&nodes[0], "n/", 1_000, &all)
            && nodes.iter().all(|node| holder(&node.names().select(b"n/", 2_000)) == holder(&first))
    })
    .await;
    // Of each name the instance that ran for longest is the one that remains: the one from before the split.
    for (n, (instance, count)) in before.iter().enumerate() {
        let now = ask(&nodes[n % 4], &format!("n/{n}")).await;
        assert_eq!((&now.0, now.1), (instance, count + 2), "n/{n}");
    }
    let mut told = BTreeSet::new();
    for heard in &mut news {
        while let Ok(piece) = heard.try_recv() {
            if let News::Unregistered { name, reason: Reason::Conflict(Some(_)), .. } = &*piece {
                told.insert(name.clone());
            }
        }
    }
    assert_eq!(told.len(), 1_000, "the loser of each name was told");
    world.end();
}
