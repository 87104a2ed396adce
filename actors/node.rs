//! One running node: everything wired together, and the handle by which it is held.
//!
//! ```text
//!  sessions ─▶ Membership ─▶ view                      questions ─▶ leader's AssignmentCoordinator
//!     │                                                                   │ plan, by majority
//!     ├─▶ LeaseKeeper ─▶ Gate                                             ▼
//!     └─▶ Consensus ─▶ leadership, state ─▶ Plans ─▶ PartitionManager ─▶ PartitionWorker × n
//!                                             └────▶ Router ◀─ calls
//! ```

mod acting;
mod announcing;
mod asking;
mod assembly;
mod configuring;
mod council;
mod events;
mod founding;
mod greeter;
mod health;
mod leading;
mod losses;
mod parts;
mod sessions;
mod settings;
mod sides;
mod stepping;
mod stopping;
mod supervision;
mod surroundings;
mod watching;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{broadcast, watch};
use tumen_core::cluster::asks::{Answer, Ask};
use tumen_core::cluster::configuration::{Expected, Json, Key, Written};
use tumen_core::cluster::member::NodeInfo;
use tumen_core::cluster::snapshot::Snapshot;
use tumen_core::cluster::voters;
use tumen_core::ids::{Epoch, NodeBoot, NodeName, PartitionId, Term};
use tumen_core::partitions::invariants;
use tumen_core::partitions::ledger::Ledger;
use tumen_core::partitions::replication::Report;

pub use self::asking::AskFailure;
pub use self::assembly::StartError;
pub use self::configuring::{ConfigFailure, ControlReport};
pub use self::events::Event;
use self::parts::Parts;
pub use self::settings::{Connect, Discover, MakeStrategies, Settings};
use crate::cluster::config_store::ConfigStore;
use crate::cluster::consensus::{Leadership, Metrics};
use crate::cluster::health_monitor::Health;
use crate::cluster::membership::{Members, Seeds};
use crate::cluster::plans::Plans;
use crate::cluster::pubsub::{Hub, Subscription};
use crate::exchange::Exchange;
use crate::names::Names;
use crate::node_supervisor::Ended;
use crate::partitions::merging::Merged;
use crate::partitions::meter::Took;
use crate::partitions::partition_manager::Progress;
use crate::partitions::{Gate, Kinds, ReadTable, ReplicaReads, Replication, Router};
use crate::transport::Transport;

/// One running node. Cheap to clone; the node runs until [`Runtime::stop`], not until the last clone is dropped.
#[derive(Clone)]
pub struct Runtime {
    parts: Arc<Parts>,
}

impl fmt::Debug for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Runtime({})", self.parts.id)
    }
}

/// Why a node does not serve yet. It goes on trying by itself.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotReady {
    /// The node has no plan.
    #[error("no plan is known: {0}")]
    NoPlan(String),
    /// The newest plan does not name this boot.
    #[error("this boot is not a member yet: {0}")]
    NotMember(String),
    /// The node has no lease.
    #[error("no lease, cut off from the majority: {0}")]
    NoLease(String),
    /// The node was not told yet how the cluster is configured.
    #[error("this node was not told yet how the cluster is configured")]
    NoConfiguration,
    /// It is to vote, and does not yet: until it does, the loss of another node may be one too many.
    #[error("this node does not vote yet")]
    NotVoting,
    /// Its partitions do not all run.
    #[error("{running} of {wanted} partitions run{}", .failing.as_ref().map(|why| format!(": {why}")).unwrap_or_default())]
    Starting {
        /// How many run.
        running: usize,
        /// How many should.
        wanted: usize,
        /// What the last worker that failed said.
        failing: Option<String>,
    },
    /// Copies do not all count yet: until they do, the loss of another node may be one too many.
    #[error("of {all} partitions with a copy here {whole} have all copies that they should")]
    Copying {
        /// How many partitions with a copy here have all that they should.
        whole: usize,
        /// How many partitions have a copy here.
        all: usize,
    },
    /// The node stops.
    #[error("this node is stopping")]
    Stopping,
}

impl Runtime {
    /// Starts a node that hosts these kinds of worker.
    ///
    /// # Errors
    /// See [`StartError`]; nothing runs then.
    pub async fn start(settings: Settings, kinds: Kinds) -> Result<Self, StartError> {
        Ok(Self { parts: assembly::start(settings, kinds).await? })
    }

    /// Which run of which node this is.
    pub fn id(&self) -> &NodeBoot {
        &self.parts.id
    }

    /// What this node says of itself.
    pub fn info(&self) -> &NodeInfo {
        &self.parts.info
    }

    /// The way to every worker.
    pub fn router(&self) -> &Router {
        &self.parts.router
    }

    /// The way to every copy, for reading.
    pub fn reads(&self) -> &ReplicaReads {
        &self.parts.reads
    }

    /// The copies that this node has.
    pub fn replication(&self) -> &Replication {
        &self.parts.replication
    }

    /// The names of the cluster.
    pub fn names(&self) -> &Names {
        &self.parts.names
    }

    /// The committed plans, as this node learns of them.
    pub fn plans(&self) -> &Plans {
        &self.parts.plans
    }

    /// The way to the other nodes.
    pub fn transport(&self) -> &Transport {
        &self.parts.transport
    }

    /// Who leads, as this node's own Raft knows it; only a voter's does.
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.parts.consensus().leadership()
    }

    /// Raft's figures on this node: who votes, among others.
    pub fn consensus(&self) -> watch::Receiver<Metrics> {
        self.parts.consensus().metrics()
    }

    /// Who leads, as far as this node was told.
    pub fn leader(&self) -> Option<NodeName> {
        self.parts.leader.borrow().1.clone()
    }

    /// The newest term of a leader that this node was told of.
    pub fn term(&self) -> Term {
        self.parts.leader.borrow().0.max(self.leadership().borrow().term)
    }

    /// The nodes that vote, as far as this node was told; in the midst of a change, those that are to vote after it.
    pub fn voting(&self) -> BTreeSet<NodeName> {
        self.parts.voting()
    }

    /// What is being served here.
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.parts.progress.subscribe()
    }

    /// `<partition, epoch, id>` → running worker, on this node.
    pub fn read_table(&self) -> &ReadTable {
        &self.parts.table
    }

    /// What became of the requests that came to this node's partitions since it was started.
    pub fn ledger(&self) -> Ledger {
        self.parts.table.books().ledger()
    }

    /// How long promotions took on this node since it was started.
    pub fn promotions(&self) -> Took {
        self.parts.table.promotions().read()
    }

    /// What became of states that were brought from another cluster, by this node or to it, since it was started.
    pub fn merged(&self) -> Merged {
        self.parts.table.merges().read()
    }

    /// What this node saw of the promises that must hold at every moment, since it was started.
    pub fn invariants(&self) -> invariants::Report {
        self.parts.witness.report()
    }

    /// Whether this node may answer.
    pub fn gate(&self) -> &Gate {
        &self.parts.gate
    }

    /// What happens from now on.
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.parts.events.subscribe()
    }

    /// Asks the leader, wherever it is.
    ///
    /// # Errors
    /// See [`AskFailure`].
    pub async fn ask(&self, ask: Ask, within: Duration) -> Result<Answer, AskFailure> {
        let leader = || self.leader();
        self.parts.asking.ask(&self.parts.transport, leader, ask, within).await
    }

    /// The partitions that are lost, as far as this node was told, and the epoch of each: too few of their copies are left.
    pub fn lost(&self) -> Arc<BTreeMap<PartitionId, Epoch>> {
        self.parts.losses.now()
    }

    /// Whether any partition is lost. Costs next to nothing.
    pub fn any_lost(&self) -> bool {
        self.parts.losses.any()
    }

    /// How a partition is, as its primary sees it. `None`: it has none, or that did not answer in time.
    pub async fn report(&self, partition: PartitionId, within: Duration) -> Option<Report> {
        let plan = self.parts.plans.newest()?;
        let (primary, _) = plan.primary_of(partition)?;
        let ask = Ask::Report { partition };
        match self.parts.asking.ask_node(&self.parts.transport, &primary.node, ask, within).await? {
            Ok(Answer::Report(report)) => report,
            _ => None,
        }
    }

    /// How the cluster is, as this node sees it.
    pub fn health(&self) -> &Health {
        &self.parts.health
    }

    /// The nodes held for alive by gossip. Always contains this one.
    pub fn members(&self) -> &Members {
        &self.parts.members
    }

    /// The cluster's own configuration, as this node has it.
    pub fn configuration(&self) -> &ConfigStore {
        &self.parts.configuration.store
    }

    /// Puts a value under a key of the cluster's own configuration, or removes it, if what is expected is there. Answers
    /// which change that was, once a majority of the voters has it and this node too.
    ///
    /// # Errors
    /// See [`ConfigFailure`]. After `NoQuorum` nothing changed, and nothing will by this.
    pub async fn configure(
        &self,
        key: Key,
        expected: Expected,
        value: Option<Json>,
        within: Duration,
    ) -> Result<Written, ConfigFailure> {
        self.parts.configure(key, expected, value, within).await
    }

    /// What is said on the topic `control` about these changes: see [`ControlReport`]. At most so many reports wait.
    pub fn control_reports(&self, queue_len_max: usize) -> Subscription {
        self.parts.control_reports(queue_len_max)
    }

    /// The users' own topics and groups.
    pub fn exchange(&self) -> &Exchange {
        &self.parts.exchange
    }

    /// The runtime's own topics: publish, retain, subscribe.
    pub fn hub(&self) -> &Hub {
        &self.parts.hub
    }

    /// Waits until the node's actors have ended: because it was stopped, or because one of them failed again and again, or
    /// consensus failed. Returns why, in the latter cases.
    pub async fn ended(&self) -> Option<String> {
        let ended = self.parts.actors_ended().await?;
        if let Some(why) = self.parts.failure.get() {
            return Some(why.clone());
        }
        match ended {
            Ended::Stopped { .. } => None,
            Ended::GaveUp(why) => Some(why.to_string()),
            Ended::Killed => Some("the node's supervisor was killed".to_owned()),
        }
    }

    /// A node is to be found at this address of a cluster port.
    pub fn node_up(&self, address: &str) {
        self.parts.transport.meet(address);
    }

    /// Looks for others at these addresses of cluster ports from now on, in place of those that it was told before, and
    /// wherever it discovers some. Nodes that are known stay known.
    pub fn set_seeds(&self, seeds: Vec<String>) {
        let former = self.parts.members.seeds();
        let refusing = if former.discover.is_some() { Vec::new() } else { seeds.clone() };
        self.parts.hope_anew(refusing);
        self.parts.members.set_seeds(Seeds { fixed: seeds, ..former });
    }

    /// A node is taken for gone: its session is ended. If it lives it comes back by itself.
    pub fn node_down(&self, node: &NodeName) {
        if *node == self.parts.id.node {
            return;
        }
        self.parts.members.node_down(node);
        let sessions = self.parts.transport.sessions();
        for session in sessions.iter().filter(|session| session.peer.node == *node) {
            self.parts.transport.disconnect(&session.peer);
        }
    }

    /// Whether this node serves all that it should.
    ///
    /// # Errors
    /// Why it does not.
    pub fn ready(&self) -> Result<(), NotReady> {
        let parts = &self.parts;
        let refusal =
            || parts.lease.refusal().map_or_else(|| "no answer yet".to_owned(), |why| why.to_string());
        if parts.stopping.is_cancelled() {
            return Err(NotReady::Stopping);
        }
        let Some(plan) = parts.plans.newest() else { return Err(NotReady::NoPlan(refusal())) };
        if plan.member(parts.id.node.as_str()).is_none_or(|member| *member.id() != parts.id) {
            return Err(NotReady::NotMember(refusal()));
        }
        if !parts.gate.is_open() {
            return Err(NotReady::NoLease(refusal()));
        }
        if !parts.configuration.is_told(plan.cluster) {
            return Err(NotReady::NoConfiguration);
        }
        if !self.votes_if_it_should(&plan) {
            return Err(NotReady::NotVoting);
        }
        let progress = parts.progress.borrow().clone();
        if progress.version < plan.version || !progress.is_whole() {
            let failing = progress.failing.values().next().cloned();
            return Err(NotReady::Starting { running: progress.running, wanted: progress.wanted, failing });
        }
        let (whole, all) = parts.replication.whole(&plan);
        if whole < all {
            return Err(NotReady::Copying { whole, all });
        }
        Ok(())
    }

    /// Whether this node votes, where all members of the plan should. Where only some should, it is the leader that
    /// picks them, and one that was lost is replaced by another that is there already.
    fn votes_if_it_should(&self, plan: &Snapshot) -> bool {
        let members = plan.members.len();
        if members == 1 || voters::wanted(members) < members {
            return true;
        }
        let consensus = self.parts.consensus();
        let metrics = consensus.metrics();
        let metrics = metrics.borrow();
        !metrics.joint && metrics.voters.contains_key(&consensus.life())
    }

    /// Stops in good order: hands over what this node serves and leads, gives its lease back, and ends. Within the
    /// stop deadline; what is not handed over by then others take over after it.
    pub async fn stop(&self) {
        stopping::stop(&self.parts).await;
    }
}
