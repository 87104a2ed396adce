//! Where availability goes first: both sides of a split go on, and become one again.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends there")]

mod nodes;

use std::collections::BTreeSet;
use std::time::Duration;

use nodes::teller::named;
use nodes::{all_ready, call_all, kinds, until};
use tumen_actors::node::Runtime;
use tumen_actors::transport::simulated::{Weather, World};
use tumen_core::cluster::sides::Consistency;
use tumen_core::ids::NodeName;

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
