//! Nodes of a cluster in which availability goes first.

use std::collections::BTreeSet;
use std::time::Duration;

use tumen_actors::node::Runtime;
use tumen_actors::transport::simulated::World;
use tumen_core::cluster::sides::Consistency;
use tumen_core::ids::NodeName;

use super::teller::named;
use super::{all_ready, kinds, until};

/// A node of a cluster in which availability goes first.
pub async fn start(world: &World, n: usize, seeds: &[usize], min_nodes: usize) -> Runtime {
    let mut settings = named(world, n, seeds, min_nodes);
    settings.consistency = Consistency::Available;
    Runtime::start(settings, kinds()).await.unwrap()
}

pub async fn cluster(world: &World, n: usize) -> Vec<Runtime> {
    super::show_logs();
    let mut nodes = vec![start(world, 1, &[], n).await];
    for at in 2..=n {
        nodes.push(start(world, at, &[1], 1).await);
    }
    all_ready(&nodes).await;
    nodes
}

pub fn names_of(nodes: &[Runtime]) -> Vec<NodeName> {
    nodes.iter().map(|node| node.id().node.clone()).collect()
}

/// Whether these are all members of one cluster, and nobody else is, and all serve.
pub fn are_one(nodes: &[Runtime]) -> bool {
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

pub async fn become_one(nodes: &[Runtime]) {
    let one = async { until("they are one cluster", || are_one(nodes)).await };
    if tokio::time::timeout(Duration::from_secs(50), one).await.is_err() {
        nodes.iter().for_each(show);
        panic!("they are not one cluster");
    }
}

/// For whoever looks for what went wrong.
#[expect(clippy::print_stderr, reason = "what is shown where a test fails")]
pub fn show(node: &Runtime) {
    let plan = node.plans().newest();
    let members = plan.as_ref().map(|plan| {
        let member = |it: &tumen_core::cluster::member::Member| format!("{} {:?}", it.name(), it.status);
        (plan.cluster, plan.version, plan.members.iter().map(member).collect::<Vec<_>>())
    });
    let leader = (node.leader(), node.term());
    let leaves = node.gate().is_leaving();
    eprintln!("{} {members:?} {:?} {leader:?} {:?} {leaves}", node.id(), node.ready(), node.lost());
}
