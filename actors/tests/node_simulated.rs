//! Whole nodes, actors and all, in one process: the simulated network on tokio's paused clock.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends there")]

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tumen_actors::clock::Clock;
use tumen_actors::cluster::consensus;
use tumen_actors::node::{Runtime, Settings};
use tumen_actors::partitions::router::CallOptions;
use tumen_actors::partitions::{Begin, Host, Hosted, Kinds, Place};
use tumen_actors::transport::simulated::{Weather, World};
use tumen_actors::transport::{self, Cookie};
use tumen_core::cluster::coordinator;
use tumen_core::cluster::membership;
use tumen_core::cluster::snapshot::{GroupSpec, Mode};
use tumen_core::ids::{ClusterName, GroupId, Kind, NodeName};
use tumen_core::partitioner::Partitioner;
use tumen_core::partitions::request::{Failure, MessageId, Reply};

/// Counts its messages, and says where it runs.
struct Counter {
    place: Place,
    count: u64,
}

impl Host for Counter {
    fn handle(&mut self, _: MessageId, body: Bytes) -> BoxFuture<'_, Reply> {
        Box::pin(async move {
            if body.as_ref() == b"panic" {
                panic!("told to");
            }
            self.count += 1;
            Ok(Bytes::from(format!("{} {} {}", self.place.node, self.place.fence.epoch, self.count)))
        })
    }
}

fn message() -> MessageId {
    MessageId::of("count")
}

fn kinds() -> Kinds {
    let start = Arc::new(|place: Place| -> BoxFuture<'static, Result<Box<dyn Host>, String>> {
        Box::pin(async move { Ok(Box::new(Counter { place, count: 0 }) as Box<dyn Host>) })
    });
    let hosted = Hosted {
        kind: Kind::new("counter").expect("valid"),
        messages: vec![(message(), "count")],
        begin: Begin::Start(start),
    };
    Kinds::new(vec![hosted]).expect("valid")
}

fn settings(world: &World, n: usize, seeds: &[usize], min_nodes: usize) -> Settings {
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
        groups: vec![(GroupId::Users, spec)],
        seeds: seeds.iter().map(|n| format!("127.0.0.1:{}", 7000 + n)).collect(),
        discover: None,
        founds: seeds.is_empty(),
        bootstrap_expect: 1,
        coordinator: coordinator::Config { min_nodes, ..coordinator::Config::default() },
        membership: membership::Config::default(),
        consensus: consensus::Settings::default(),
        data_dir: None,
        rejoin_grace: Duration::from_secs(60),
        stop_within: Duration::from_secs(5),
        strategies: Arc::new(Vec::new),
        clock: Clock::tokio(),
        connect: Box::new(move |greet| {
            Box::pin(async move { Ok(world.node(greet, Cookie::none(), transport::Settings::default())) })
        }),
    }
}

fn name(n: usize) -> NodeName {
    NodeName::new(&format!("node-{n}")).expect("valid")
}

/// `TUMEN_LOG=debug` shows what the nodes say.
fn show_logs() {
    if let Ok(filter) = std::env::var("TUMEN_LOG") {
        drop(tracing_subscriber::fmt().with_env_filter(filter).with_test_writer().try_init());
    }
}

async fn start(world: &World, n: usize, seeds: &[usize], min_nodes: usize) -> Runtime {
    Runtime::start(settings(world, n, seeds, min_nodes), kinds()).await.expect("valid")
}

/// Waits until something is so; a minute of virtual time is plenty.
async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    for _ in 0..12_000 {
        if is_so() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("still not so: {what}");
}

async fn cluster(world: &World, n: usize) -> Vec<Runtime> {
    show_logs();
    let mut nodes = vec![start(world, 1, &[], n).await];
    for n in 2..=n {
        nodes.push(start(world, n, &[1], 1).await);
    }
    all_ready(&nodes).await;
    nodes
}

async fn all_ready(nodes: &[Runtime]) {
    until("all nodes are ready", || nodes.iter().all(|node| node.ready().is_ok())).await;
}

async fn three_vote(nodes: &[Runtime]) {
    let settled = |node: &Runtime| {
        let metrics = node.consensus().borrow().clone();
        metrics.voters.len() == 3 && !metrics.joint
    };
    until("three nodes vote", || nodes.iter().all(settled)).await;
}

async fn call(node: &Runtime, key: &str) -> Reply {
    let options = CallOptions { within: Duration::from_secs(10), idempotent: true };
    node.router().call(key.as_bytes(), message(), Bytes::new(), options).await
}

async fn call_all(node: &Runtime) -> Vec<String> {
    let mut answers = Vec::new();
    for n in 0..50 {
        let reply =
            call(node, &format!("user:{n}")).await.unwrap_or_else(|error| panic!("user:{n}: {error}"));
        answers.push(String::from_utf8(reply.to_vec()).expect("valid"));
    }
    answers
}

#[tokio::test(start_paused = true)]
async fn one_node_serves_all_its_partitions() {
    let world = World::new(1, Weather::default());
    let nodes = cluster(&world, 1).await;
    assert_eq!(call_all(&nodes[0]).await.len(), 50);
    nodes[0].stop().await;
}

#[tokio::test(start_paused = true)]
async fn three_nodes_route_each_others_keys() {
    let world = World::new(2, Weather::default());
    let nodes = cluster(&world, 3).await;
    for node in &nodes {
        call_all(node).await;
    }
    let plan = nodes[0].plans().newest().unwrap();
    assert_eq!(plan.members.len(), 3);
    three_vote(&nodes).await;
    for node in &nodes {
        node.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_crashed_followers_partitions_are_answered_by_others() {
    let world = World::new(3, Weather::default());
    let nodes = cluster(&world, 3).await;
    three_vote(&nodes).await;
    let leader = nodes[0].leader().unwrap();
    let victim = nodes.iter().position(|node| node.id().node != leader).unwrap();
    let other = nodes.iter().position(|node| node.id().node == leader).unwrap();
    world.crash(nodes[victim].id());
    let began = tokio::time::Instant::now();
    call_all(&nodes[other]).await;
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_crashed_leaders_partitions_are_answered_by_others() {
    let world = World::new(4, Weather::default());
    let nodes = cluster(&world, 3).await;
    three_vote(&nodes).await;
    let leader = nodes[0].leader().unwrap();
    let victim = nodes.iter().position(|node| node.id().node == leader).unwrap();
    world.crash(nodes[victim].id());
    let began = tokio::time::Instant::now();
    call_all(&nodes[(victim + 1) % 3]).await;
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_panics_is_started_again_and_others_do_not_notice() {
    let world = World::new(5, Weather::default());
    let nodes = cluster(&world, 1).await;
    call_all(&nodes[0]).await;
    let options = CallOptions::default();
    let reply = nodes[0].router().call(b"user:1", message(), Bytes::from_static(b"panic"), options).await;
    assert!(matches!(reply, Err(Failure::WorkerFailed(_))), "{reply:?}");
    let again = call(&nodes[0], "user:1").await.unwrap();
    assert!(again.ends_with(b" 1"), "a fresh worker: {again:?}");
    let partition = |key: &str| nodes[0].router().table().locate(key.as_bytes()).unwrap().partition;
    let other =
        (0..50).map(|n| format!("user:{n}")).find(|key| partition(key) != partition("user:1")).unwrap();
    let count = call(&nodes[0], &other).await.unwrap();
    assert!(!count.ends_with(b" 1"), "another worker kept its state: {count:?}");
}

#[tokio::test(start_paused = true)]
async fn a_node_that_stops_hands_over_and_nothing_fails() {
    let world = World::new(6, Weather::default());
    let nodes = cluster(&world, 3).await;
    three_vote(&nodes).await;
    nodes[0].stop().await;
    call_all(&nodes[1]).await;
    until("two members", || nodes[1].plans().newest().is_some_and(|plan| plan.members.len() == 2)).await;
}

#[tokio::test(start_paused = true)]
async fn a_node_alone_yields_to_the_cluster_that_it_meets() {
    let world = World::new(7, Weather::default());
    let nodes = cluster(&world, 2).await;
    let lone = start(&world, 3, &[], 1).await;
    until("it founded its own", || lone.ready().is_ok()).await;
    lone.node_up("127.0.0.1:7001");
    let cluster = nodes[0].plans().cluster();
    until("it joined the other", || lone.plans().cluster() == cluster && lone.ready().is_ok()).await;
    call_all(&lone).await;
}
