//! A node among others that it has to find, and in a supervision tree that is not its own.
//!
//! One test, for one node runs in a process at a time.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends there")]

mod harness;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use harness::{Cluster, Options, PATIENCE, ports, up, wait_until};
use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::sync::mpsc;
use tumen::prelude::*;

/// The top of somebody's own tree: it notes what it is told of its children.
struct Top;

impl Actor for Top {
    type Msg = ();
    type State = mpsc::UnboundedSender<&'static str>;
    type Arguments = Self::State;

    async fn pre_start(&self, _: ActorRef<()>, told: Self::State) -> Result<Self::State, ActorProcessingErr> {
        Ok(told)
    }

    async fn handle_supervisor_evt(
        &self,
        _: ActorRef<()>,
        event: SupervisionEvent,
        told: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        told.send(match event {
            SupervisionEvent::ActorStarted(_) => "started",
            SupervisionEvent::ActorTerminated(..) | SupervisionEvent::ActorFailed(..) => "ended",
            _ => "something else",
        })?;
        Ok(())
    }
}

async fn within<T>(what: &str, waiting: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("still waiting: {what}"))
}

fn members(cluster: &Cluster) -> Vec<String> {
    up(&cluster.get(0, "/cluster")).into_iter().map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_finds_others_and_lives_in_a_tree_of_somebody_elses() {
    let cluster = Cluster::start(1, Options::default().alone());
    let name = cluster.get(0, "/cluster")["name"].as_str().unwrap().to_owned();
    let address = cluster.node(0).listen.clone();
    let guest = |called: &str| Node::builder(&name, called).listen("127.0.0.1:0").kv();

    // What it discovers is empty at first: it waits, and founds nothing.
    let asked = Arc::new(AtomicU32::new(0));
    let (asking, found) = (Arc::clone(&asked), address.clone());
    let finder = guest("finder").discover(move || {
        let found = (asking.fetch_add(1, Ordering::SeqCst) > 1).then(|| found.clone());
        async move { found.into_iter().collect() }
    });
    let finder = finder.start().await.unwrap();
    within("the finder is ready", finder.ready()).await.unwrap();
    assert!(asked.load(Ordering::SeqCst) > 1);
    wait_until("both know each other", PATIENCE, || {
        let members = members(&cluster);
        harness::check(members == ["finder", "node-1"], || format!("{members:?}"))
    });
    finder.stop().await;

    // Nobody listens where it was told to look. Told better, it joins.
    let nobody = ports::listen().local_addr().unwrap().to_string();
    let lost = guest("lost").join([&nobody]).start().await.unwrap();
    assert!(tokio::time::timeout(Duration::from_millis(300), lost.ready()).await.is_err());
    let refused = lost.set_seeds(["no address"]).unwrap_err();
    assert!(refused.to_string().contains("no address"), "{refused}");
    lost.set_seeds([&address]).unwrap();
    within("the lost one is ready", lost.ready()).await.unwrap();
    lost.stop().await;

    // Under an actor of somebody's own, which hears of its end and starts it anew.
    let (told, mut tells) = mpsc::unbounded_channel();
    let (top, top_ended) = Actor::spawn(None, Top, told).await.unwrap();
    for round in ["killed", "stopped"] {
        let node = guest(round).join([&address]).under(top.get_cell()).start().await.unwrap();
        within("it is ready", node.ready()).await.unwrap();
        assert_eq!(within("the top hears", tells.recv()).await, Some("started"));
        let children = top.get_children();
        assert_eq!(children.len(), 1, "the node's supervisor is its only child");
        if round == "killed" {
            children[0].kill();
            assert!(within("it ends", node.ended()).await.is_err());
        }
        node.stop().await;
        assert_eq!(within("the top hears", tells.recv()).await, Some("ended"), "{round}");
    }
    // The node goes with the tree that it is in.
    let node = guest("third").join([&address]).under(top.get_cell()).start().await.unwrap();
    within("it is ready", node.ready()).await.unwrap();
    top.stop(None);
    top_ended.await.unwrap();
    within("it ends with the top", node.ended()).await.unwrap_err();
    node.stop().await;
}
