//! What belongs to a node and outlives its actors, and what everybody may ask of it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use tokio::sync::{broadcast, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tumen_core::UnixMillis;
use tumen_core::cluster::coordinator::CrashProof;
use tumen_core::cluster::greeting::Belonging;
use tumen_core::cluster::member::NodeInfo;
use tumen_core::cluster::refusals::Refusals;
use tumen_core::ids::{ClusterId, NodeBoot, NodeName, Term};
use tumen_core::wire::CoordinatorFrame;

use super::acting::ActedOn;
use super::asking::Asking;
use super::configuring::Configuring;
use super::council::Council;
use super::events::Event;
use super::founding::Founder;
use super::greeter::Greeter;
use super::health::LastSaid;
use super::losses::Losses;
use super::sides::Sides;
use crate::clock::Clock;
use crate::cluster::assignment_coordinator::AssignmentCoordinatorMsg;
use crate::cluster::consensus;
use crate::cluster::health_monitor::Health;
use crate::cluster::lease_keeper::{Lease, LeaseKeeperMsg};
use crate::cluster::membership::Members;
use crate::cluster::plans::Plans;
use crate::cluster::pubsub::Hub;
use crate::codec;
use crate::exchange::Exchange;
use crate::names::Names;
use crate::node_supervisor::{Ended, NodeSupervisor};
use crate::partitions::partition_manager::{PartitionManagerMsg, Progress};
use crate::partitions::router::RouterMsg;
use crate::partitions::{Gate, ReadTable, ReplicaReads, Replication, Router, Witness};
use crate::port::Port;
use crate::transport::{Channel, Transport};

/// The most events that wait for a slow listener.
pub(super) const EVENTS_MAX: usize = 4096;

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
    pub(super) witness: Witness,
    pub(super) replication: Replication,
    pub(super) reads: ReplicaReads,
    pub(super) router: Router,
    pub(super) names: Names,
    pub(super) configuration: Arc<Configuring>,
    pub(super) acted_on: ActedOn,
    pub(super) progress: watch::Sender<Progress>,
    pub(super) council: ArcSwap<Council>,
    pub(super) connected: Mutex<BTreeSet<NodeBoot>>,
    /// Of these, the ones that belonged to a cluster when they greeted, and to which.
    pub(super) belonging: Mutex<BTreeMap<NodeBoot, Belonging>>,
    pub(super) sides: Sides,
    pub(super) members: Members,
    pub(super) hub: Hub,
    pub(super) exchange: Exchange,
    pub(super) supervisor: OnceLock<NodeSupervisor>,
    pub(super) ports: Ports,
    pub(super) asking: Asking,
    pub(super) leader: watch::Sender<(Term, Option<NodeName>)>,
    /// Who votes, as the leader of this term said.
    pub(super) voting: watch::Sender<(Term, BTreeSet<NodeName>)>,
    pub(super) events: broadcast::Sender<Event>,
    pub(super) tasks: TaskTracker,
    pub(super) stopping: CancellationToken,
    pub(super) stop_within: Duration,
    pub(super) rejoin_grace: Duration,
    pub(super) stop_begun: AtomicBool,
    /// Why this node cannot go on, if it cannot.
    pub(super) failure: OnceLock<String>,
    pub(super) consensus_settings: consensus::Settings,
    pub(super) data_dir: Option<PathBuf>,
    pub(super) crash_proof: CrashProof,
    /// The newest plan that is being pulled.
    pub(super) behind: AtomicU64,
    pub(super) greeter: Arc<Greeter>,
    pub(super) losses: Losses,
    pub(super) health: Health,
    pub(super) health_said: LastSaid,
    /// As what this node founds a cluster, if it may.
    pub(super) founder: Option<Founder>,
    /// Held while a plan is taken to those who act on it, and while these are told that this node has left its cluster: so that
    /// all of them hear of both in one order.
    pub(super) turn: Mutex<()>,
    /// Which seeds refuse this node.
    pub(super) refusals: Mutex<Refusals>,
}

impl Parts {
    /// Says that the node is to stop; `false` if it has been said before.
    pub(super) fn begin_stopping(&self) -> bool {
        !self.stop_begun.swap(true, Ordering::SeqCst)
    }

    /// Whether the node is stopping, or has stopped.
    pub(super) fn is_stopping(&self) -> bool {
        self.stop_begun.load(Ordering::SeqCst)
    }

    /// This node cannot go on: its actors end, and whoever waits for its end is told why. Others take over once its lease
    /// has run out.
    pub(super) async fn fail(&self, why: String) {
        tracing::error!(node = %self.id, why, "this node cannot go on, and ends");
        // The first reason is the one that counts.
        let _ = self.failure.set(why);
        self.table.close_all();
        self.stop_actors().await;
    }

    /// The cluster that this node belongs to, if it belongs to one.
    pub(super) fn belonging(&self) -> Option<Belonging> {
        self.greeter.belonging()
    }

    /// Whether this node belongs to a cluster, or carries the memory of one.
    pub(super) fn belongs_somewhere(&self) -> bool {
        let consensus = self.consensus();
        let remembers =
            consensus.state().borrow().state.founding.is_some() || consensus.metrics().borrow().running;
        remembers || self.plans.newest().is_some() || self.greeter.belonging().is_some()
    }

    /// This node founded a cluster.
    pub(super) fn founded(&self, id: ClusterId, at: UnixMillis) {
        *self.greeter.founded.lock().unwrap_or_else(PoisonError::into_inner) = Some((id, at));
    }

    /// Somebody else is a member of this node's cluster.
    pub(super) fn is_not_alone(&self) {
        *self.greeter.founded.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// See [`Self::turn`].
    pub(super) fn take_turn(&self) -> MutexGuard<'_, ()> {
        // It guards nothing but an order.
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// This node belongs to no cluster any more.
    pub(super) fn forget_cluster(&self) {
        *self.greeter.founded.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.plans.clear();
        self.configuration.forget();
        self.witness.left();
    }

    /// Who leads, and who votes, says somebody of another cluster from now on.
    pub(super) fn forget_leader(&self) {
        self.leader.send_replace((Term::ZERO, None));
        self.voting.send_replace((Term::ZERO, BTreeSet::new()));
    }

    /// Tells a new peer that this node leads, if it does. Leader and term are read together: a former leader that thaws
    /// has heard of its successor's term before it knows that it is deposed.
    pub(super) fn greet_as_leader(&self, node: &NodeName) {
        let news = self.consensus().leadership().borrow().clone();
        // Whoever leaves leads nobody of those that it is on its way to.
        if !news.first_entry_applied || self.gate.is_leaving() {
            return;
        }
        let cluster = self.consensus().cluster();
        let leads = CoordinatorFrame::Leads { cluster, leader: self.id.node.clone(), term: news.term };
        let (term, nodes) = self.voting.borrow().clone();
        let voting = (term == news.term).then_some(CoordinatorFrame::Voting { cluster, term, nodes });
        for frame in [Some(leads), voting].into_iter().flatten() {
            if let Err(error) = self.transport.cast(node, Channel::Coordinator, &codec::pack(&frame)) {
                tracing::debug!(to = %node, %error, "not sent");
            }
        }
    }

    /// This node's part in consensus.
    pub(super) fn consensus(&self) -> consensus::Handle {
        self.council.load().handle.clone()
    }

    /// Whether a session with this boot is open.
    pub(super) fn is_connected(&self, id: &NodeBoot) -> bool {
        self.connected.lock().unwrap_or_else(PoisonError::into_inner).contains(id)
    }

    /// Whether anybody who is connected belonged to a cluster when it greeted.
    pub(super) fn meets_members(&self) -> bool {
        !self.belonging.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    pub(super) fn note_belonging(&self, id: &NodeBoot, belongs: Option<Belonging>) {
        let mut belonging = self.belonging.lock().unwrap_or_else(PoisonError::into_inner);
        match belongs {
            Some(theirs) => belonging.insert(id.clone(), theirs),
            None => belonging.remove(id),
        };
    }

    /// Whether a node speaks for another cluster than this node's: it belonged to one when it greeted, and has not joined this
    /// one since. Who is about to leave its own listens to all.
    pub(super) fn is_of_another(&self, id: &NodeBoot) -> bool {
        let belonging = self.belonging.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(theirs) = belonging.get(id).map(|theirs| theirs.id) else { return false };
        drop(belonging);
        if self.sides.is_available() {
            // Each says so again and again.
            return self.belonging().is_some_and(|ours| ours.id != theirs);
        }
        let ours = self.belonging().map(|ours| ours.id).filter(|_| !self.gate.is_leaving());
        ours.is_some_and(|ours| ours != theirs) && !self.plans.newest().is_some_and(|plan| plan.names(id))
    }

    pub(super) fn note_session(&self, id: &NodeBoot, up: bool) {
        let mut connected = self.connected.lock().unwrap_or_else(PoisonError::into_inner);
        if up {
            connected.insert(id.clone())
        } else {
            connected.remove(id)
        };
    }

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

    /// The leader of this term says who votes. Whether that is news.
    pub(super) fn learn_voting(&self, term: Term, nodes: BTreeSet<NodeName>) -> bool {
        self.voting.send_if_modified(|known| {
            let news = term >= known.0 && *known != (term, nodes.clone());
            if news {
                *known = (term, nodes);
            }
            news
        })
    }

    /// Who votes, as far as this node knows: by the leader's word, or by its own log where it is newer than that.
    pub(super) fn voting(&self) -> BTreeSet<NodeName> {
        let (term, told) = self.voting.borrow().clone();
        let metrics = self.consensus().metrics();
        let own = metrics.borrow();
        if told.is_empty() || (own.running && own.term > term) {
            return own.voters.values().cloned().collect();
        }
        told
    }

    /// How the node's actors ended, once they have.
    pub(super) async fn actors_ended(&self) -> Option<Ended> {
        match self.supervisor.get() {
            Some(supervisor) => Some(supervisor.ended().await),
            None => None,
        }
    }

    /// Stops the actors, the last that was started first.
    pub(super) async fn stop_actors(&self) {
        if let Some(supervisor) = self.supervisor.get() {
            supervisor.stop().await;
        }
    }

    /// Somebody said who leads; the newest term is believed, and of two who lead in one term the later word: Raft lets the
    /// greater candidate of a term depose the lesser.
    pub(super) fn learn_leader(&self, leader: Option<&NodeName>, term: Term) {
        let news = self.leader.send_if_modified(|(known, who)| {
            let newer = term > *known || (term == *known && leader.is_some() && who.as_ref() != leader);
            if newer {
                *known = term;
                *who = leader.cloned();
            }
            newer
        });
        if news {
            self.tell(Event::Leader { leader: leader.cloned(), term });
        }
    }
}

/// Runs something until the node stops.
pub(super) fn until_stopping<W>(parts: &Parts, work: W) -> impl Future<Output = ()> + Send + use<W>
where
    W: Future<Output = ()> + Send + 'static,
{
    let stopping = parts.stopping.clone();
    async move {
        tokio::select! {
            () = stopping.cancelled() => {}
            () = work => {}
        }
    }
}
