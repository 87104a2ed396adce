//! What the actor, its tasks and the handle share.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwapOption;
use openraft::{CommittedLeaderId, ServerState};
use ractor::ActorRef;
use tokio::sync::{Notify, Semaphore, broadcast, oneshot, watch};
use tumen_core::cluster::election::Electorate;
use tumen_core::cluster::snapshot::Snapshot;
use tumen_core::ids::{Life, NodeName, Term};
use tumen_core::time::Moment;

use super::ConsensusMsg;
use super::exchange::{Exchange, RaftPort};
use super::raft_network::RaftLines;
use super::raft_store::Proposals;
use super::settings::Settings;
use super::status::{Ack, Applied, Leadership, Metrics};
use super::types::{Raft, RaftMetrics, voters_of};
use crate::clock::{self, Clock};
use crate::store::Store;

/// Requests of other nodes that are worked on at once.
const SERVING_MAX: usize = 64;
/// Commands of this node that wait to be agreed on at once.
const COMMITTING_MAX: usize = 64;

/// The most plans that wait for somebody who wants each of them.
const PLANS_MAX: usize = 64;

pub(super) struct Shared {
    pub(super) settings: Settings,
    pub(super) store: Store,
    pub(super) clock: Clock,
    pub(super) exchange: Arc<Exchange>,
    pub(super) behind: Arc<Notify>,
    pub(super) proposals: Arc<Proposals>,
    /// `None`: this node takes no part.
    pub(super) raft: ArcSwapOption<Raft>,
    pub(super) actor: ArcSwapOption<ActorRef<ConsensusMsg>>,
    pub(super) applied: watch::Sender<Applied>,
    pub(super) plans: broadcast::Sender<Arc<Snapshot>>,
    pub(super) leadership: watch::Sender<Leadership>,
    pub(super) acks: watch::Sender<Option<Ack>>,
    pub(super) metrics: watch::Sender<Metrics>,
    pub(super) ack_wanted: Notify,
    pub(super) serving: Arc<Semaphore>,
    pub(super) committing: Semaphore,
    /// Held by whoever changes the voters.
    pub(super) changing: tokio::sync::Mutex<()>,
    /// When a leader's word was last accepted, in nanoseconds.
    heard: AtomicU64,
    successor: Mutex<Option<NodeName>>,
    /// The leader that was known last, also where openraft knows of none at present.
    pub(super) led_by: ArcSwapOption<NodeName>,
    proposal: AtomicU64,
}

impl Shared {
    pub(super) fn new(settings: Settings, store: Store, port: Arc<dyn RaftPort>, clock: Clock) -> Self {
        Self {
            settings,
            store,
            clock,
            exchange: Arc::new(Exchange::new(port)),
            behind: Arc::default(),
            proposals: Arc::default(),
            raft: ArcSwapOption::empty(),
            actor: ArcSwapOption::empty(),
            applied: watch::Sender::default(),
            plans: broadcast::Sender::new(PLANS_MAX),
            leadership: watch::Sender::default(),
            acks: watch::Sender::default(),
            metrics: watch::Sender::default(),
            ack_wanted: Notify::new(),
            serving: Arc::new(Semaphore::new(SERVING_MAX)),
            committing: Semaphore::new(COMMITTING_MAX),
            changing: tokio::sync::Mutex::default(),
            heard: AtomicU64::new(0),
            successor: Mutex::default(),
            led_by: ArcSwapOption::empty(),
            proposal: AtomicU64::new(clock::draw()),
        }
    }

    pub(super) fn lines(&self) -> RaftLines {
        RaftLines { exchange: Arc::clone(&self.exchange), behind: Arc::clone(&self.behind) }
    }

    /// Tells the actor something. Where there is none, nobody takes part either.
    pub(super) fn cast(&self, message: ConsensusMsg) {
        if let Some(actor) = self.actor.load_full()
            && let Err(error) = actor.cast(message)
        {
            tracing::debug!(%error, "consensus is stopping");
        }
    }

    /// openraft on this node, started if it was not; `None` if it cannot be started.
    pub(super) async fn start(&self) -> Option<Arc<Raft>> {
        if let Some(raft) = self.raft.load_full() {
            return Some(raft);
        }
        let (done, started) = oneshot::channel();
        self.cast(ConsensusMsg::Start { done: Some(done) });
        started.await.ok()?;
        self.raft.load_full()
    }

    pub(super) fn next_proposal(&self) -> u64 {
        self.proposal.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn leader_heard(&self) {
        self.heard.fetch_max(self.clock.now().as_nanos(), Ordering::Relaxed);
    }

    pub(super) fn heard(&self) -> Moment {
        Moment::from_nanos(self.heard.load(Ordering::Relaxed))
    }

    /// Whether a majority has held this node for their leader as lately as it does when all is well.
    pub(super) fn is_ack_recent(&self) -> bool {
        let recent = self.settings.ack_every * 2 + self.settings.heartbeat;
        self.acks.borrow().is_some_and(|ack| self.clock.now().since(ack.at) < recent)
    }

    /// The node that leadership is being handed to.
    pub(super) fn successor(&self) -> Option<NodeName> {
        self.successor.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Stops the heartbeats until the guard is dropped.
    pub(super) fn yield_to<'a>(&'a self, raft: &Arc<Raft>, node: &NodeName) -> Yields<'a> {
        self.set_successor(Some(node.clone()));
        raft.runtime_config().heartbeat(false);
        Yields { shared: self, raft: Arc::clone(raft) }
    }

    fn set_successor(&self, successor: Option<NodeName>) {
        let yielding = successor.is_some();
        *self.successor.lock().unwrap_or_else(PoisonError::into_inner) = successor;
        self.leadership.send_if_modified(|shown| {
            let yielding = yielding && shown.i_lead;
            std::mem::replace(&mut shown.yielding, yielding) != yielding
        });
    }

    /// Shows what openraft says of itself.
    pub(super) fn publish(&self, seen: &RaftMetrics) {
        let i_lead = seen.state == ServerState::Leader && seen.current_leader == Some(seen.id);
        let membership = seen.membership_config.membership();
        let seat = seen.current_leader.and_then(|life| membership.get_node(&life));
        let term = Term(seen.current_term);
        let mine = CommittedLeaderId::new(seen.current_term, seen.id);
        let leadership = Leadership {
            leader: seat.and_then(|seat| seat.node.clone()),
            term,
            i_lead,
            first_entry_applied: i_lead && seen.last_applied.is_some_and(|last| last.leader_id == mine),
            yielding: i_lead && self.successor().is_some(),
        };
        if !i_lead {
            self.forget_acks();
        }
        if let Some(leader) = &leadership.leader {
            self.led_by.store(Some(Arc::new(leader.clone())));
        }
        self.metrics.send_modify(|shown| {
            let before = self.leadership.borrow();
            let came = leadership.leader.is_some()
                && (&before.leader, before.term) != (&leadership.leader, leadership.term);
            shown.running = true;
            shown.elections += u64::from(came);
            shown.term = term;
            shown.last_log_index = seen.last_log_index;
            shown.last_applied = seen.last_applied.map(|last| last.index);
            shown.snapshot = seen.snapshot.map(|last| last.index);
            shown.voters = voters_of(membership);
            shown.joint = membership.get_joint_config().len() > 1;
            let replication = seen.replication.iter().flatten();
            shown.replication =
                replication.map(|(life, last)| (Life(*life), last.map(|last| last.index))).collect();
        });
        self.leadership.send_if_modified(|shown| {
            let changed = *shown != leadership;
            *shown = leadership;
            changed
        });
    }

    /// Shows that this node takes no part.
    pub(super) fn publish_idle(&self) {
        self.forget_acks();
        self.metrics.send_modify(|shown| shown.running = false);
        self.leadership
            .send_modify(|shown| *shown = Leadership { term: shown.term, ..Leadership::default() });
    }

    fn forget_acks(&self) {
        self.acks.send_if_modified(|ack| ack.take().is_some());
    }
}

/// Who decides, by openraft's membership.
pub(super) fn electorate(seen: &RaftMetrics) -> Electorate {
    let sets = seen.membership_config.membership().get_joint_config();
    let lives = |set: &BTreeSet<u64>| set.iter().copied().map(Life).collect();
    Electorate { sets: sets.iter().map(lives).collect() }
}

/// While it lives, this node leads without heartbeats and commits nothing.
pub(super) struct Yields<'a> {
    shared: &'a Shared,
    raft: Arc<Raft>,
}

impl Drop for Yields<'_> {
    fn drop(&mut self) {
        self.raft.runtime_config().heartbeat(true);
        self.shared.set_successor(None);
    }
}
