//! Nodes with nothing but consensus, in one process, over links that can be cut.

// Each test binary uses a part of it.
#![allow(dead_code, missing_docs, unreachable_pub)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use ractor::{Actor, ActorRef};
use tokio::task::JoinHandle;
use tumen_actors::clock::Clock;
use tumen_actors::cluster::consensus::{
    CommitError, Consensus, ConsensusMsg, Handle, PortError, RaftPort, Settings,
};
use tumen_actors::store::{Store, StoreError};
use tumen_core::cluster::control::{Command, Founding, Outcome};
use tumen_core::cluster::outline::Outline;
use tumen_core::cluster::snapshot::{Assignment, GroupPlan, GroupSpec, Mode, Snapshot};
use tumen_core::cluster::voters::Voters;
use tumen_core::ids::{
    ClusterId, ClusterName, Epoch, Generation, GroupId, Life, NodeName, Revision, Term, Version,
};
use tumen_core::partitioner::Partitioner;
use tumen_core::time::{Moment, UnixMillis};

/// Long enough for whatever should happen, on a machine that has other things to do.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The links between all nodes.
#[derive(Default)]
pub struct Net {
    /// Whether messages take time.
    slow: AtomicBool,
    state: Mutex<NetState>,
}

#[derive(Default)]
struct NetState {
    handles: BTreeMap<NodeName, Handle>,
    cut: BTreeSet<(NodeName, NodeName)>,
}

impl Net {
    fn lock(&self) -> MutexGuard<'_, NetState> {
        self.state.lock().unwrap()
    }
}

struct Port {
    from: NodeName,
    net: Arc<Net>,
}

impl RaftPort for Port {
    fn send(&self, to: &NodeName, body: Bytes) -> Result<(), PortError> {
        let state = self.net.lock();
        let handle = state.handles.get(to).cloned().ok_or(PortError::Unreachable)?;
        if state.cut.contains(&(self.from.clone(), to.clone())) {
            return Ok(());
        }
        let (from, to, net) = (self.from.clone(), to.clone(), Arc::clone(&self.net));
        tokio::spawn(async move {
            // A timer of the real clock would take a millisecond and more.
            if net.slow.load(Ordering::Relaxed) {
                tokio::time::sleep(Duration::from_micros(100)).await;
            }
            // What is under way when a link is cut is lost with it.
            if !net.lock().cut.contains(&(from.clone(), to)) {
                handle.deliver(&from, &body);
            }
        });
        Ok(())
    }
}

/// One node.
pub struct Node {
    pub name: NodeName,
    pub store: Store,
    pub handle: Handle,
    actor: ActorRef<ConsensusMsg>,
    stopped: JoinHandle<()>,
}

/// All nodes, and the directory of those that have disks.
pub struct World {
    pub net: Arc<Net>,
    pub clock: Clock,
    pub settings: Settings,
    pub nodes: BTreeMap<String, Node>,
    disks: Option<tempfile::TempDir>,
}

impl World {
    /// On tokio's paused clock, where messages take a little time.
    pub fn simulated() -> Self {
        let world = Self::in_memory(Clock::tokio());
        world.net.slow.store(true, Ordering::Relaxed);
        world
    }

    pub fn in_memory(clock: Clock) -> Self {
        let (net, nodes) = Default::default();
        Self { net, clock, settings: Settings::default(), nodes, disks: None }
    }

    pub fn on_disk(clock: Clock) -> Self {
        let mut world = Self::in_memory(clock);
        world.disks = Some(tempfile::tempdir().unwrap());
        world
    }

    fn disk(&self, name: &str) -> Option<PathBuf> {
        Some(self.disks.as_ref()?.path().join(name))
    }

    /// Starts a node: with its disk, if there are disks; else without memory.
    pub async fn start(&mut self, name: &str) -> Handle {
        let node = NodeName::new(name).unwrap();
        let store = match self.disk(name) {
            Some(dir) => self.open(&dir, &node).await,
            None => Store::memory(&node, &self.clock),
        };
        self.start_with(store).await
    }

    /// A store that was dropped and not closed lets go of its file a moment later.
    async fn open(&self, dir: &Path, node: &NodeName) -> Store {
        let until = self.soon();
        loop {
            match Store::open(dir, node, &self.clock) {
                Err(StoreError::Locked { .. }) if self.clock.now() < until => {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                other => return other.unwrap(),
            }
        }
    }

    pub async fn start_all(&mut self, names: &[&str]) {
        for name in names {
            self.start(name).await;
        }
    }

    pub async fn start_with(&mut self, store: Store) -> Handle {
        let name = store.node().clone();
        let port = Port { from: name.clone(), net: Arc::clone(&self.net) };
        let handle = Handle::new(self.settings.clone(), store.clone(), Arc::new(port), self.clock).unwrap();
        let (actor, stopped) = Actor::spawn(None, Consensus, handle.clone()).await.unwrap();
        self.net.lock().handles.insert(name.clone(), handle.clone());
        let node = Node { name: name.clone(), store, handle: handle.clone(), actor, stopped };
        self.nodes.insert(name.as_str().to_owned(), node);
        handle
    }

    /// Stops a node; its store is closed in good order if `clean`. From outside both look like a crash.
    pub async fn stop(&mut self, name: &str, clean: bool) {
        let node = self.nodes.remove(name).unwrap();
        self.net.lock().handles.remove(&node.name);
        node.actor.stop(None);
        node.stopped.await.unwrap();
        if clean {
            node.store.close().await.unwrap();
        }
    }

    /// Cuts a node off from all others, and them from it.
    pub fn cut_off(&self, name: &str) {
        let node = NodeName::new(name).unwrap();
        let mut state = self.net.lock();
        let others: Vec<NodeName> = state.handles.keys().filter(|other| **other != node).cloned().collect();
        for other in others {
            state.cut.insert((node.clone(), other.clone()));
            state.cut.insert((other, node.clone()));
        }
    }

    pub fn heal(&self) {
        self.net.lock().cut.clear();
    }

    pub fn handle(&self, name: &str) -> Handle {
        self.nodes[name].handle.clone()
    }

    pub fn seats(&self, names: &[&str]) -> Voters {
        names.iter().map(|name| (self.handle(name).life(), NodeName::new(name).unwrap())).collect()
    }

    pub fn soon(&self) -> Moment {
        self.clock.now() + PATIENCE
    }

    /// Founds a cluster with these nodes as voters, the first being the founder.
    pub async fn found(&mut self, names: &[&str]) {
        self.start_all(names).await;
        let others = self.seats(&names[1..]);
        let outcome =
            self.handle(names[0]).found(founding(), &Default::default(), &others, self.soon()).await;
        assert_eq!(outcome, Ok(Outcome::Founded));
    }

    /// Waits for one of these nodes to lead with a majority behind it, and tells which.
    pub async fn leader_among(&self, names: &[&str]) -> String {
        let until = self.soon();
        while self.clock.now() < until {
            for name in names {
                let handle = self.handle(name);
                let led = handle.leadership().borrow().clone();
                let soon = self.clock.now() + Duration::from_millis(500);
                if led.i_lead && led.first_entry_applied && handle.quorum_ack(soon).await.is_ok() {
                    return (*name).to_owned();
                }
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("none of {names:?} leads: {:?}", self.told());
    }

    fn told(&self) -> Vec<String> {
        let tell = |(name, node): (&String, &Node)| {
            let (led, metrics) = (node.handle.leadership(), node.handle.metrics());
            format!("{name}: {:?} {:?}", led.borrow().clone(), metrics.borrow().clone())
        };
        self.nodes.iter().map(tell).collect()
    }

    /// Commits plans until one is taken, wherever the leader is, and returns its version.
    pub async fn publish(&self, names: &[&str]) -> Version {
        let until = self.soon();
        while self.clock.now() < until {
            let leader = self.handle(&self.leader_among(names).await);
            let next = next_plan(&leader);
            match leader.commit(next, self.soon()).await {
                Ok(Outcome::Published { version }) => return version,
                Ok(Outcome::Conflict { .. }) | Err(_) => {}
                Ok(other) => panic!("{other:?}"),
            }
        }
        panic!("nothing was published");
    }

    /// Waits until all of these nodes show this version.
    pub async fn all_show(&self, names: &[&str], version: Version) {
        for name in names {
            let mut state = self.handle(name).state();
            let shown = state.wait_for(|applied| applied.state.version() >= version);
            tokio::time::timeout(PATIENCE, shown).await.unwrap_or_else(|_| panic!("{name} is late")).unwrap();
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for node in self.nodes.values() {
            node.actor.stop(None);
        }
    }
}

/// Waits for a condition.
pub async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let waiting = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("never: {what}"));
}

fn spec() -> GroupSpec {
    let (strategy, mode, partitioner) = ("balanced".to_owned(), Mode::Async, Partitioner::Hash);
    GroupSpec { partitions: 4, replication: 1, strategy, mode, partitioner, replicated: false }
}

pub fn founding() -> Founding {
    Founding {
        id: ClusterId(7),
        name: ClusterName::new("shop").unwrap(),
        founded_at: UnixMillis(1),
        generation: Generation(1),
        groups: vec![(GroupId::Users, spec())],
    }
}

/// The plan after the one that this node shows. It has no members: nobody here looks at them.
pub fn next_plan(handle: &Handle) -> Command {
    let state = handle.state().borrow().state.clone();
    let assignment =
        Assignment { epoch: Epoch::ZERO, revision: Revision::ZERO, copies: vec![], ..Assignment::default() };
    let based_on = state.version();
    let snapshot = Snapshot {
        cluster: ClusterId(7),
        name: ClusterName::new("shop").unwrap(),
        generation: Generation(1),
        version: based_on.next(),
        term: Term(0),
        leader: NodeName::new("n1").unwrap(),
        members: vec![],
        groups: vec![GroupPlan { id: GroupId::Users, spec: spec(), assignments: vec![assignment; 4] }],
        steps: 0,
        computed_at: UnixMillis(5),
        hash: 0,
    };
    Command::Publish { based_on, outline: Outline::of(snapshot.sealed()) }
}

pub fn not_leader(result: &Result<Outcome, CommitError>) -> bool {
    matches!(result, Err(CommitError::NotLeader { .. }))
}

pub fn only(life: Life, node: &str) -> Voters {
    Voters::from([(life, NodeName::new(node).unwrap())])
}
