//! What others do with consensus: functions that all have a deadline, and values that can be watched.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use openraft::error::{ClientWriteError, Fatal, InitializeError, RaftError};
use ractor::ActorRef;
use tokio::sync::{broadcast, oneshot, watch};
use tumen_core::cluster::configuration::Configuration;
use tumen_core::cluster::control::{Command, Founding, Outcome};
use tumen_core::cluster::snapshot::Snapshot;
use tumen_core::cluster::voters::Voters;
use tumen_core::ids::{ClusterId, Life, NodeName};
use tumen_core::time::Moment;

use super::exchange::{AskError, MESSAGE_LEN_MAX, RaftPort, Reply, Request};
use super::settings::{Settings, SettingsError};
use super::shared::Shared;
use super::status::{Ack, Applied, CommitError, Leadership, Metrics, NotReady};
use super::types::{Proposal, Raft, Seat};
use super::{ConsensusMsg, serve};
use crate::clock::Clock;
use crate::codec;
use crate::store::Store;

/// The most bytes that a command may have. What surrounds it in a message takes the rest.
pub const COMMAND_LEN_MAX: usize = MESSAGE_LEN_MAX - (16 << 10);

/// How much of what a cluster begins with goes into a command.
const PIECE_COST: u64 = 256 << 10;

/// Consensus, for the rest of the node. Cheap to clone. It belongs to the root: it outlives a restart of the actor, and
/// what can be watched in it goes on.
#[derive(Clone)]
pub struct Handle {
    pub(super) shared: Arc<Shared>,
}

impl std::fmt::Debug for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("consensus::Handle").field("life", &self.life()).finish_non_exhaustive()
    }
}

impl Handle {
    /// Consensus over this store and this port, not started yet: give it to [`super::Consensus`].
    pub fn new(
        settings: Settings,
        store: Store,
        port: Arc<dyn RaftPort>,
        clock: Clock,
    ) -> Result<Self, SettingsError> {
        settings.check()?;
        Ok(Self { shared: Arc::new(Shared::new(settings, store, port, clock)) })
    }

    /// The life that votes here, if it votes.
    pub fn life(&self) -> Life {
        self.shared.store.life()
    }

    /// Takes in what another node's port sent. Never waits. What makes no sense is dropped.
    pub fn deliver(&self, from: &NodeName, body: &[u8]) {
        serve::deliver(&self.shared, from, body);
    }

    /// Who leads.
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.shared.leadership.subscribe()
    }

    /// Which cluster it is that the voters agree on, once it is founded.
    pub fn cluster(&self) -> Option<ClusterId> {
        self.state().borrow().state.founding.as_ref().map(|founding| founding.id)
    }

    /// The control state as it is applied here.
    pub fn state(&self) -> watch::Receiver<Applied> {
        self.shared.applied.subscribe()
    }

    /// Each plan that is put in force from now on, in order. [`Self::state`] has the newest, also for who falls behind.
    pub fn plans(&self) -> broadcast::Receiver<Arc<Snapshot>> {
        self.shared.plans.subscribe()
    }

    /// The last moment at which a majority surely held this node for their leader; `None` while it does not lead.
    /// Renewed about every [`Settings::ack_every`], and on request by [`Self::quorum_ack`].
    pub fn acks(&self) -> watch::Receiver<Option<Ack>> {
        self.shared.acks.subscribe()
    }

    /// When a leader's word was last accepted here; zero before the first.
    pub fn heard(&self) -> Moment {
        self.shared.heard()
    }

    /// Figures, and who votes.
    pub fn metrics(&self) -> watch::Receiver<Metrics> {
        self.shared.metrics.subscribe()
    }

    /// Which life a node's store has, as the node itself says.
    pub async fn life_of(&self, node: &NodeName, deadline: Moment) -> Result<Life, NotReady> {
        if node == self.shared.store.node() {
            return Ok(self.life());
        }
        self.ask_life(node, None, false, deadline).await
    }

    /// Founds a cluster with this node and `others` as its first voters, and tells who they all are.
    ///
    /// The others must be reachable, and together with this node an odd number. Answered by
    /// [`Outcome::Founded`], or by [`Outcome::AlreadyFounded`], also after a restart in the middle of it.
    pub async fn found(
        &self,
        founding: Founding,
        inherited: &Configuration,
        others: &Voters,
        deadline: Moment,
    ) -> Result<Outcome, CommitError> {
        let mut voters = others.clone();
        voters.insert(self.life(), self.shared.store.node().clone());
        if voters.len().is_multiple_of(2) {
            return Err(CommitError::Even(voters.len()));
        }
        let raft = self.start(deadline).await?;
        self.prepare(others, deadline).await?;
        let seats: BTreeMap<u64, Seat> =
            voters.into_iter().map(|(life, node)| (life.0, Seat::of(node))).collect();
        let begun = |_| CommitError::Timeout { maybe_applied: true };
        match self.within(deadline, raft.initialize(seats)).await.map_err(begun)? {
            Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => {}
            Err(RaftError::APIError(InitializeError::NotInMembers(_)) | RaftError::Fatal(_)) => {
                return Err(CommitError::Stopped { maybe_applied: true });
            }
        }
        let mut leadership = self.leadership();
        let led = leadership.wait_for(|leadership| leadership.leader.is_some());
        let led = self.within(deadline, led).await.map_err(begun)?;
        led.map_err(|_| CommitError::Stopped { maybe_applied: true })?;
        for piece in inherited.pieces(PIECE_COST) {
            match self.commit(Command::Inherit(piece), deadline).await? {
                Outcome::Inherited => {}
                Outcome::AlreadyFounded { .. } => break,
                refused => return Ok(refused),
            }
        }
        self.commit(Command::Found(founding), deadline).await
    }

    /// Has a command agreed on by a majority, and tells what became of it.
    ///
    /// A leader that has not been heard by a majority for a while asks them first, so that what cannot be agreed on
    /// does not even begin, and the caller knows that nothing changed.
    pub async fn commit(&self, command: Command, deadline: Moment) -> Result<Outcome, CommitError> {
        let raft = self.leading()?;
        let len = codec::packed_len(&command);
        if len > COMMAND_LEN_MAX {
            return Err(CommitError::TooLong { len, max: COMMAND_LEN_MAX });
        }
        let turn = self.within(deadline, self.shared.committing.acquire()).await?;
        let _turn = turn.map_err(|_| CommitError::Stopped { maybe_applied: false })?;
        if !self.shared.is_ack_recent() {
            self.quorum_ack(deadline).await?;
        }
        let id = self.shared.next_proposal();
        let watched = self.shared.proposals.watch(id);
        let proposal = Proposal { id, command: Arc::new(command) };
        match self.within(deadline, raft.client_write(proposal)).await {
            Err(_) => Err(CommitError::Timeout { maybe_applied: true }),
            Ok(Ok(written)) => Ok(written.data),
            Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(elsewhere)))) => {
                // openraft says the same of a command that it never took, and of one that another leader's entries
                // pushed out of this log: that one may still stand in a third voter's, and win.
                if watched.was_appended() {
                    return Err(CommitError::Timeout { maybe_applied: true });
                }
                Err(CommitError::NotLeader { hint: elsewhere.leader_node.and_then(|seat| seat.node) })
            }
            Ok(Err(_)) => Err(CommitError::Stopped { maybe_applied: watched.was_appended() }),
        }
    }

    /// Makes sure that a majority holds this node for their leader, at a moment that is not before this call.
    ///
    /// # Errors
    /// None of them changes anything: [`CommitError::NotLeader`], [`CommitError::Timeout`].
    pub async fn quorum_ack(&self, deadline: Moment) -> Result<Ack, CommitError> {
        let wanted = self.shared.clock.now();
        let (mut acks, mut leadership) = (self.acks(), self.leadership());
        let acked = async {
            loop {
                self.leading()?;
                if let Some(ack) = acks.borrow_and_update().filter(|ack| ack.at >= wanted) {
                    return Ok(ack);
                }
                self.shared.ack_wanted.notify_one();
                let changed = tokio::select! {
                    changed = acks.changed() => changed,
                    changed = leadership.changed() => changed,
                };
                changed.map_err(|_| CommitError::Stopped { maybe_applied: false })?;
            }
        };
        self.within(deadline, acked).await?
    }

    /// Hands leadership over to another voter, which is to be up to date first. `Ok` once it leads.
    ///
    /// This node stops its heartbeats, so nothing is committed until the other leads: for about
    /// [`Settings::election_timeout_max`], since the voters refuse everybody for so long after a leader's word.
    /// On an error this node goes on leading, if nobody else does by then.
    pub async fn step_down(&self, successor: &NodeName, deadline: Moment) -> Result<(), CommitError> {
        let raft = self.leading()?;
        let not_ready = |why| CommitError::NotReady { node: successor.clone(), why };
        let voters = self.shared.metrics.borrow().voters.clone();
        let life = voters.iter().find(|(life, node)| *node == successor && **life != self.life());
        let life = *life.ok_or(not_ready(NotReady::NoVoter))?.0;
        let _yields = self.shared.yield_to(&raft, successor);
        let caught_up = self.caught_up(life);
        self.within(deadline, caught_up).await.map_err(|_| not_ready(NotReady::Behind))??;
        let asked = self.ask(successor, Some(life), Request::TakeOver, deadline).await;
        asked.map_err(|why| not_ready(why.into()))?;
        let mut leadership = self.leadership();
        let gone = leadership.wait_for(|leadership| !leadership.i_lead && leadership.leader.is_some());
        self.within(deadline, gone).await?.map_err(|_| CommitError::Stopped { maybe_applied: true })?;
        Ok(())
    }

    /// The leader's process is gone, beyond doubt: this voter stands at once, and does not wait for the leader's silence.
    /// Whoever knows of a crash should say so on every voter. A false alarm costs an election and no promise.
    pub fn leader_crashed(&self, node: &NodeName) {
        self.shared.cast(ConsensusMsg::LeaderCrashed { node: node.clone() });
    }

    /// Takes part from now on, as a learner that may be made a voter. It happens by itself when a leader writes.
    pub async fn become_voter(&self, deadline: Moment) -> Result<(), CommitError> {
        self.start(deadline).await.map(drop)
    }

    /// Takes no part any more. For a node that is no voter now; what its life voted stays in the store.
    pub async fn retire(&self, deadline: Moment) -> Result<(), CommitError> {
        let (done, retired) = oneshot::channel();
        self.shared.cast(ConsensusMsg::Retire { done });
        self.within(deadline, retired).await?.map_err(|_| CommitError::Stopped { maybe_applied: true })
    }

    /// openraft on this node, started if it was not.
    async fn start(&self, deadline: Moment) -> Result<Arc<Raft>, CommitError> {
        let started = self.within(deadline, self.shared.start()).await?;
        started.ok_or(CommitError::Stopped { maybe_applied: false })
    }

    /// openraft on this node, if it leads and is to go on.
    pub(super) fn leading(&self) -> Result<Arc<Raft>, CommitError> {
        let leadership = self.shared.leadership.borrow();
        if let Some(successor) = self.shared.successor() {
            return Err(CommitError::NotLeader { hint: Some(successor) });
        }
        match self.shared.raft.load_full() {
            Some(raft) if leadership.i_lead => Ok(raft),
            _ => Err(CommitError::NotLeader { hint: leadership.leader.clone() }),
        }
    }

    /// Has the nodes of these lives start taking part, and makes sure that they are who they should be.
    pub(super) async fn prepare(&self, voters: &Voters, deadline: Moment) -> Result<(), CommitError> {
        for (life, node) in voters {
            let ready = self.ask_life(node, Some(*life), true, deadline).await;
            ready.map_err(|why| CommitError::NotReady { node: node.clone(), why })?;
        }
        Ok(())
    }

    async fn ask_life(
        &self,
        node: &NodeName,
        life: Option<Life>,
        prepare: bool,
        deadline: Moment,
    ) -> Result<Life, NotReady> {
        match self.ask(node, life, Request::Life { prepare }, deadline).await? {
            Reply::Life(life) => Ok(life),
            _ => Err(NotReady::Silent),
        }
    }

    async fn ask(
        &self,
        node: &NodeName,
        life: Option<Life>,
        request: Request,
        deadline: Moment,
    ) -> Result<Reply, AskError> {
        self.shared.exchange.ask(node, life, request, self.shared.clock.until(deadline)).await
    }

    /// Waits until a voter or learner has every entry that this leader has now.
    pub(super) async fn caught_up(&self, life: Life) -> Result<(), CommitError> {
        let stopped = CommitError::Stopped { maybe_applied: false };
        let raft = self.shared.raft.load_full().ok_or(stopped.clone())?;
        let mut metrics = raft.metrics();
        let wanted = metrics.borrow().last_log_index;
        let reached = metrics.wait_for(|metrics| {
            let Some(replication) = &metrics.replication else { return true };
            replication.get(&life.0).is_some_and(|last| last.map(|last| last.index) >= wanted)
        });
        let leads = reached.await.map_err(|_| stopped)?.replication.is_some();
        if leads { Ok(()) } else { Err(CommitError::NotLeader { hint: None }) }
    }

    /// Waits for something until the deadline; after it nothing that waited for an answer is known.
    pub(super) async fn within<T>(
        &self,
        deadline: Moment,
        future: impl Future<Output = T>,
    ) -> Result<T, CommitError> {
        let left = self.shared.clock.until(deadline);
        if left == Duration::ZERO {
            return Err(CommitError::Timeout { maybe_applied: false });
        }
        tokio::time::timeout(left, future).await.map_err(|_| CommitError::Timeout { maybe_applied: false })
    }

    pub(super) fn attach(&self, actor: ActorRef<ConsensusMsg>) {
        self.shared.actor.store(Some(Arc::new(actor)));
    }
}

impl From<AskError> for NotReady {
    fn from(error: AskError) -> Self {
        match error {
            AskError::Refused(why) => Self::Refused(why),
            AskError::Port(_) | AskError::Timeout | AskError::Crowded | AskError::Unfit => Self::Silent,
        }
    }
}

/// What a change of voters that openraft refused or did not finish means to the caller.
pub(super) fn changed(error: RaftError<u64, ClientWriteError<u64, Seat>>) -> CommitError {
    match error {
        RaftError::APIError(ClientWriteError::ForwardToLeader(elsewhere)) => {
            CommitError::NotLeader { hint: elsewhere.leader_node.and_then(|seat| seat.node) }
        }
        // Another change is under way, or one that was interrupted is being finished.
        RaftError::APIError(ClientWriteError::ChangeMembershipError(_)) => {
            CommitError::Timeout { maybe_applied: false }
        }
        RaftError::Fatal(Fatal::Stopped | Fatal::Panicked | Fatal::StorageError(_)) => {
            CommitError::Stopped { maybe_applied: true }
        }
    }
}
