//! Whole nodes for tests: what they host, how they are started, and how to wait for them.

// Every test file takes of this what it needs.
#![allow(dead_code, unreachable_pub, missing_docs)]

pub mod adder;
pub mod gatherer;
pub mod sides;
pub mod teller;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tumen_actors::clock::Clock;
use tumen_actors::cluster::consensus;
use tumen_actors::names::NameFailure;
use tumen_actors::names::child::ChildKinds;
use tumen_actors::names::conflicts::Resolver;
use tumen_actors::node::{Runtime, Settings};
use tumen_actors::partitions::replication::Pace;
use tumen_actors::partitions::router::CallOptions;
use tumen_actors::partitions::{Begin, Host, Hosted, Kinds, Place};
use tumen_actors::transport::simulated::World;
use tumen_actors::transport::{self, Cookie};
use tumen_core::cluster::coordinator;
use tumen_core::cluster::health;
use tumen_core::cluster::membership;
use tumen_core::cluster::sides::Consistency;
use tumen_core::cluster::snapshot::{GroupSpec, Mode};
use tumen_core::ids::{ClusterName, GroupId, Kind, NodeName};
use tumen_core::names::placements::Placements;
use tumen_core::partitioner::Partitioner;
use tumen_core::partitions::request::{Failure, MessageId, Reply};

/// Counts its messages, and says where it runs.
pub struct Counter {
    place: Place,
    count: u64,
}

impl Host for Counter {
    fn handle(&mut self, _: MessageId, body: Bytes) -> BoxFuture<'_, Reply> {
        Box::pin(async move {
            if body.as_ref() == b"panic" {
                panic!("told to");
            }
            if body.as_ref() == b"wait" {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            self.count += 1;
            Ok(Bytes::from(format!("{} {} {}", self.place.node, self.place.fence.epoch, self.count)))
        })
    }
}

pub fn message() -> MessageId {
    MessageId::of("count")
}

pub fn kinds() -> Kinds {
    let start = Arc::new(|place: Place| -> BoxFuture<'static, Result<Box<dyn Host>, String>> {
        Box::pin(async move { Ok(Box::new(Counter { place, count: 0 }) as Box<dyn Host>) })
    });
    let hosted = Hosted {
        kind: Kind::new("counter").expect("valid"),
        messages: vec![(message(), "count")],
        queries: Vec::new(),
        mode: None,
        merges: false,
        begin: Begin::Start(start),
    };
    Kinds::new(vec![hosted]).expect("valid")
}

pub fn settings(world: &World, n: usize, seeds: &[usize], min_nodes: usize) -> Settings {
    let world = world.clone();
    let spec = GroupSpec {
        partitions: 16,
        replication: 2,
        strategy: "balanced".into(),
        mode: Mode::Async,
        partitioner: Partitioner::Hash,
        replicated: false,
    };
    Settings {
        name: name(n),
        cluster: ClusterName::new("test").expect("valid"),
        address: format!("127.0.0.1:{}", 7000 + n),
        http: None,
        zone: None,
        weight: 100,
        supervisor: None,
        groups: vec![(GroupId::Users, spec)],
        seeds: seeds.iter().map(|n| format!("127.0.0.1:{}", 7000 + n)).collect(),
        discover: None,
        founds: seeds.is_empty(),
        bootstrap_expect: 1,
        consistency: Consistency::Majority,
        resolver: Resolver::default(),
        coordinator: coordinator::Config { min_nodes, ..coordinator::Config::default() },
        membership: membership::Config::default(),
        consensus: consensus::Settings::default(),
        data_dir: None,
        rejoin_grace: Duration::from_secs(60),
        stop_within: Duration::from_secs(5),
        pace: Pace::default(),
        strategies: Arc::new(Vec::new),
        children: ChildKinds::default(),
        placements: Placements::default(),
        clock: Clock::tokio(),
        health: health::Config::default(),
        connect: Box::new(move |greet| {
            Box::pin(async move { Ok(world.node(greet, Cookie::none(), transport::Settings::default())) })
        }),
    }
}

pub fn name(n: usize) -> NodeName {
    NodeName::new(&format!("node-{n}")).expect("valid")
}

/// `TUMEN_LOG=debug` shows what the nodes say.
pub fn show_logs() {
    if let Ok(filter) = std::env::var("TUMEN_LOG") {
        drop(tracing_subscriber::fmt().with_env_filter(filter).with_test_writer().try_init());
    }
}

pub async fn start(world: &World, n: usize, seeds: &[usize], min_nodes: usize) -> Runtime {
    Runtime::start(settings(world, n, seeds, min_nodes), kinds()).await.expect("valid")
}

/// Nodes with a replicated worker, of which each partition has three copies.
pub async fn replicated(world: &World, n: usize, mode: Mode) -> Vec<Runtime> {
    show_logs();
    let mut nodes = Vec::new();
    for at in 1..=n {
        let (seeds, min_nodes) = if at == 1 { (&[][..], n) } else { (&[1][..], 1) };
        nodes.push(start_replicated(world, at, seeds, min_nodes, mode).await);
    }
    all_ready(&nodes).await;
    // By then all copies count, which is no part of a plan.
    tokio::time::sleep(Duration::from_secs(3)).await;
    nodes
}

pub async fn start_replicated(
    world: &World,
    n: usize,
    seeds: &[usize],
    min_nodes: usize,
    mode: Mode,
) -> Runtime {
    let mut settings = settings(world, n, seeds, min_nodes);
    replicate(&mut settings, mode);
    Runtime::start(settings, adder::kinds()).await.expect("valid")
}

/// Three copies of each partition.
pub fn replicate(settings: &mut Settings, mode: Mode) {
    for (_, spec) in &mut settings.groups {
        (spec.replication, spec.mode, spec.replicated) = (3, mode, true);
    }
}

/// Waits until something is so; a minute of virtual time is plenty.
pub async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    for _ in 0..12_000 {
        if is_so() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("still not so: {what}");
}

pub async fn cluster(world: &World, n: usize) -> Vec<Runtime> {
    show_logs();
    let mut nodes = vec![start(world, 1, &[], n).await];
    for n in 2..=n {
        nodes.push(start(world, n, &[1], 1).await);
    }
    all_ready(&nodes).await;
    nodes
}

pub async fn all_ready(nodes: &[Runtime]) {
    until("all nodes are ready", || nodes.iter().all(|node| node.ready().is_ok())).await;
}

pub async fn three_vote(nodes: &[Runtime]) {
    let settled = |node: &Runtime| {
        let metrics = node.consensus().borrow().clone();
        metrics.voters.len() == 3 && !metrics.joint
    };
    until("three nodes vote", || nodes.iter().all(settled)).await;
}

/// The same where not all nodes vote.
pub async fn three_of_them_vote(nodes: &[Runtime]) {
    let settled = |node: &Runtime| node.voting().len() == 3;
    until("three nodes vote", || nodes.iter().all(settled)).await;
}

/// Why a call by name has no reply, where that is what a call by key could be told too.
pub fn of_call(why: NameFailure) -> Failure {
    match why {
        NameFailure::Call(failure) => failure,
        other => panic!("{other}"),
    }
}

pub async fn call(node: &Runtime, key: &str) -> Reply {
    let options = CallOptions { within: Duration::from_secs(10), idempotent: true, ..CallOptions::default() };
    node.router().call(key.as_bytes(), message(), Bytes::new(), options).await
}

pub async fn call_all(node: &Runtime) -> Vec<String> {
    let mut answers = Vec::new();
    for n in 0..50 {
        let reply =
            call(node, &format!("user:{n}")).await.unwrap_or_else(|error| panic!("user:{n}: {error}"));
        answers.push(String::from_utf8(reply.to_vec()).expect("valid"));
    }
    answers
}
