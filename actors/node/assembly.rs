//! Wires one node together, in the order in which its parts stand on each other.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use ractor::Actor;
use tokio::sync::{broadcast, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tumen_core::cluster::asks::{Answer, Ask};
use tumen_core::cluster::control::{Command, Outcome};
use tumen_core::cluster::coordinator::Coordinator;
use tumen_core::cluster::greeting::{Belonging, Greeting};
use tumen_core::cluster::lease::{Release, Reply};
use tumen_core::cluster::member::NodeInfo;
use tumen_core::cluster::snapshot::Snapshot;
use tumen_core::ids::{NodeBoot, NodeName, Term, Version};
use tumen_core::wire::{CoordinatorFrame, LeaseFrame, PROTOCOL};

use super::asking::{self, Asking};
use super::events::Event;
use super::settings::Settings;
use crate::clock::{self, Clock};
use crate::cluster::assignment_coordinator::{AssignmentCoordinator, AssignmentCoordinatorMsg, Surroundings};
use crate::cluster::consensus::Consensus;
use crate::cluster::lease_keeper::{self, Lease, LeaseKeeper, LeaseKeeperMsg};
use crate::cluster::plans::Plans;
use crate::codec;
use crate::partitions::partition_manager::{PartitionManager, PartitionManagerMsg, Progress, Reports};
use crate::partitions::router::{RouterActor, RouterMsg};
use crate::partitions::{Gate, Kinds, ReadTable, Router};
use crate::port::Port;
use crate::store::Store;
use crate::transport::{self, Channel, Transport};

/// How long a plan may take to be pulled from another node.
const PULL_WITHIN: Duration = Duration::from_secs(2);
/// The most events that wait for a slow listener.
const EVENTS_MAX: usize = 4096;

/// Why a node did not start. Nothing of it runs.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// What must survive a restart cannot be read or written.
    #[error("{0}")]
    Store(String),
    /// The node has no way to others.
    #[error("{0}")]
    Transport(String),
    /// An actor did not start.
    #[error("{actor} did not start: {why}")]
    Actor {
        /// Which.
        actor: &'static str,
        /// Why.
        why: String,
    },
}

/// Where each actor is reached.
#[derive(Clone, Debug, Default)]
pub(super) struct Ports {
    pub(super) coordinator: Port<AssignmentCoordinatorMsg>,
    pub(super) manager: Port<PartitionManagerMsg>,
    pub(super) router: Port<RouterMsg>,
    pub(super) lease_keeper: Port<LeaseKeeperMsg>,
}

/// Everything that belongs to the node and outlives its actors.
pub(super) struct Parts {
    pub(super) id: NodeBoot,
    pub(super) info: NodeInfo,
    pub(super) clock: Clock,
    pub(super) transport: Transport,
    pub(super) plans: Plans,
    pub(super) gate: Gate,
    pub(super) lease: Lease,
    pub(super) table: ReadTable,
    pub(super) router: Router,
    pub(super) progress: watch::Sender<Progress>,
    pub(super) consensus: Consensus,
    pub(super) ports: Ports,
    pub(super) asking: Asking,
    pub(super) leader: watch::Sender<(Term, Option<NodeName>)>,
    pub(super) events: broadcast::Sender<Event>,
    pub(super) tasks: TaskTracker,
    pub(super) stopping: CancellationToken,
    behind: AtomicU64,
}

impl Parts {
    pub(super) fn tell(&self, event: Event) {
        // Nobody may be listening.
        drop(self.events.send(event));
    }

    /// Sends a small message to every peer.
    pub(super) fn cast_all(&self, channel: Channel, frame: &Bytes) {
        for session in self.transport.sessions() {
            if let Err(error) = self.transport.cast(&session.peer.node, channel, frame) {
                tracing::debug!(to = %session.peer, ?channel, %error, "not sent");
            }
        }
    }

    /// Tells every peer of a plan: whole where it is small, and where it is large by its version only.
    pub(super) fn announce(&self, plan: &Arc<Snapshot>) {
        self.cast_all(Channel::Sync, &announcement(plan));
    }

    /// Somebody said who leads; the newest term is believed.
    pub(super) fn learn_leader(&self, leader: Option<&NodeName>, term: Term) {
        self.leader.send_if_modified(|(known, who)| {
            let newer = term > *known || (term == *known && who.is_none() && leader.is_some());
            if newer {
                *known = term;
                *who = leader.cloned();
            }
            newer
        });
    }

    /// Pulls the newest plan from whoever may have it, one pull at a time.
    pub(super) fn catch_up(self: &Arc<Self>, version: Version) {
        if version <= self.plans.version() || self.behind.fetch_max(version.0, Ordering::SeqCst) >= version.0 {
            return;
        }
        let parts = Arc::clone(self);
        self.tasks.spawn(async move {
            parts.pull(version).await;
            parts.behind.store(0, Ordering::SeqCst);
        });
    }

    async fn pull(&self, version: Version) {
        let leader = self.leader.borrow().1.clone();
        let others = self.transport.sessions().into_iter().map(|session| session.peer.node);
        for node in leader.into_iter().chain(others).filter(|node| *node != self.id.node) {
            let deadline = tokio::time::Instant::now() + PULL_WITHIN;
            let ask = Ask::Pull { known: self.plans.version() };
            if let Ok(Ok(Answer::Newer(Some(plan)))) = asking::ask_there(&self.transport, &node, &ask, deadline).await {
                self.plans.take(plan);
            }
            if self.plans.version() >= version {
                return;
            }
        }
    }
}
