//! Nodes of a simulated network with their membership, on tokio's paused clock, for tests.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ractor::{Actor, ActorRef};
use tumen_core::cluster::greeting::Greeting;
use tumen_core::cluster::member::NodeInfo;
use tumen_core::cluster::membership::Config;
use tumen_core::ids::{Boot, ClusterName, NodeBoot, NodeName};
use tumen_core::wire::PROTOCOL;

use super::{Members, Membership, MembershipMsg, Seeds};
use crate::clock::Clock;
use crate::transport::simulated::{Weather, World};
use crate::transport::{Cookie, Settings, Transport};

pub(crate) fn name(text: &str) -> NodeName {
    NodeName::new(text).unwrap()
}

pub(crate) fn address(node: &str) -> String {
    format!("{node}:7100")
}

fn info(node: &str, boot: u64) -> NodeInfo {
    NodeInfo {
        id: NodeBoot::new(name(node), Boot(boot)),
        address: address(node),
        http: None,
        zone: None,
        weight: 100,
        services: vec![],
        protocol: PROTOCOL,
    }
}

pub(crate) struct Lab {
    pub(crate) world: World,
    pub(crate) clock: Clock,
    pub(crate) nodes: BTreeMap<&'static str, Node>,
}

pub(crate) struct Node {
    pub(crate) id: NodeBoot,
    pub(crate) transport: Transport,
    pub(crate) members: Members,
    pub(crate) actor: ActorRef<MembershipMsg>,
}

impl Lab {
    pub(crate) fn new(seed: u64) -> Self {
        Self { world: World::new(seed, Weather::default()), clock: Clock::tokio(), nodes: BTreeMap::new() }
    }

    pub(crate) async fn start(&mut self, node: &'static str, boot: u64, seeds: Seeds) {
        let info = info(node, boot);
        let greeting = Greeting {
            modes: Vec::new(),
            protocol: PROTOCOL,
            cluster: ClusterName::new("lab").unwrap(),
            belongs: None,
            info: info.clone(),
            groups: vec![],
            lease: tumen_core::cluster::lease::Config::default(),
            consistency: tumen_core::cluster::sides::Consistency::Majority,
        };
        let greet = Arc::new(move || greeting.clone());
        let transport = self.world.node(greet, Cookie::none(), Settings::default());
        let id = info.id.clone();
        let members = Members::new(info, &self.clock, seeds);
        assert_eq!(members.live_nodes(), [name(node)], "itself, from the first moment");
        members.sessions().follow(&transport);
        let actor = self.spawn(&members, &transport).await;
        transport.start();
        self.nodes.insert(node, Node { id, transport, members, actor });
    }

    async fn spawn(&self, members: &Members, transport: &Transport) -> ActorRef<MembershipMsg> {
        let membership =
            Membership::new(Config::default(), members.clone(), transport.clone(), self.clock).unwrap();
        Membership::spawn(None, membership, ()).await.unwrap().0
    }

    /// The actor dies, and another takes its place.
    pub(crate) async fn restart_actor(&mut self, node: &'static str) {
        let it = &self.nodes[node];
        it.actor.kill_and_wait(None).await.unwrap();
        let actor = self.spawn(&it.members, &it.transport).await;
        self.nodes.get_mut(node).unwrap().actor = actor;
    }

    /// `kill -9` of the whole node.
    pub(crate) async fn kill(&mut self, node: &'static str) {
        let it = self.nodes.remove(node).unwrap();
        self.world.crash(&it.id);
        it.actor.kill_and_wait(None).await.unwrap();
    }

    pub(crate) fn members(&self, node: &str) -> &Members {
        &self.nodes[node].members
    }

    pub(crate) fn live(&self, node: &str) -> Vec<String> {
        self.members(node).live_nodes().iter().map(ToString::to_string).collect()
    }

    /// Waits until all these see exactly each other.
    pub(crate) async fn agree(&self, nodes: &[&str]) {
        for node in nodes {
            self.sees(node, nodes).await;
        }
    }

    /// Waits until `node` sees exactly these, at most for ten virtual seconds.
    pub(crate) async fn sees(&self, node: &str, nodes: &[&str]) {
        let mut views = self.members(node).subscribe();
        let alike =
            |view: &Arc<super::View>| view.alive().map(|seen| seen.name().as_str()).eq(nodes.iter().copied());
        let waiting = tokio::time::timeout(Duration::from_secs(10), views.wait_for(alike));
        assert!(waiting.await.is_ok(), "{node} sees {:?}, not {nodes:?}", self.live(node));
    }
}

pub(crate) async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let waiting = async {
        while !done() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(60), waiting).await.is_ok(), "not in time: {what}");
}
