//! Consensus: the voters agree, one after the other, on founding and plans. openraft does it; this actor owns it.
//!
//! ```text
//!                 commit ─ quorum_ack ─ set_voters ─ step_down
//!                                   │
//!  leader_crashed ──▶ Consensus ── Handle ◀── deliver(from, bytes) ◀── the other voters
//!  (a crash proof)     │ owns                        │
//!                      ├ Election (law) ─ stands ─▶ openraft ─▶ RaftPort::send ─▶ the other voters
//!                      ├ watch: leadership, state, acks, metrics
//!                      └ Store: vote, log, snapshot
//! ```
//!
//! A node that does not vote is idle: it has no openraft, and learns plans from others. It starts taking part when a
//! leader wants it as a voter, and after a restart if its store says that it did before.
//!
//! **A voter is the life of its store.** A node that lost its memory answers whoever calls its old life that this
//! life is gone, and never votes for it; the leader seats its new life instead.
//!
//! **Nothing here can hang.** openraft cut off from its majority still calls itself leader, and its calls never return:
//! so every function of [`Handle`] has a deadline, and only an [`Ack`] says that a majority follows. Acks carry this
//! node's boot-time clock, taken before the question.
//!
//! **What bounds a leader's replacement.** openraft 0.9 voters refuse every candidate for `election_timeout_max` (a
//! fixed leader lease) after the last word of the leader they know; it cannot be set apart from the election timeout,
//! and it binds [`Handle::step_down`] too. openraft's own timer would wait for that lease *and* a random election
//! timeout, and look only every 1.5 heartbeats: 450 to 675 ms by default. Its timer is off here, and
//! [`tumen_core::cluster::election`] stands a spread (a sixth) after the lease, once a majority misses the leader
//! too: 300 to 355 ms after the last heartbeat, so 225 to 355 ms after the crash.
//! A proof of the crash ([`Handle::leader_crashed`], said on each surviving voter) cuts that to a few round trips:
//! a voter that stands itself forgets the lease, and among candidates the greatest (term, life) that is up to date wins.
//! A proof on one voter alone gains nothing, since the others refuse it until the lease has run out.
//! What can be tuned safely: `heartbeat` and both timeouts, as long as [`Settings::check`] agrees and a lease stays
//! longer than twice `election_timeout_max`; agreement never depends on them. Failover without proof in 100 ms would
//! take `election_timeout_max` of 80 ms, heartbeats of 10 ms, and a machine on which neither a thread nor an fsync is ever
//! 60 ms late, or leaders fall for nothing.

mod exchange;
mod handle;
#[expect(clippy::result_large_err, reason = "openraft's errors are as large as they are")]
mod raft_network;
#[expect(clippy::result_large_err, reason = "openraft's errors are as large as they are")]
mod raft_store;
mod serve;
mod settings;
mod shared;
mod status;
mod types;
mod voting;
mod watching;

use std::sync::Arc;
use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::oneshot;
use tumen_core::cluster::election::{Effect, Election, Electorate};
use tumen_core::ids::{Life, NodeName};
use tumen_core::time::Moment;

pub use exchange::{MESSAGE_LEN_MAX, PortError, RaftPort, Refusal};
pub use handle::{COMMAND_LEN_MAX, Handle};
pub use settings::{Settings, SettingsError};
pub use status::{Ack, Applied, CommitError, Leadership, Metrics, NotReady};
pub use types::Seat;

use exchange::{Reply, Request};
use raft_store::{RaftLog, RaftMachine};
use types::{LogId, Raft, StoredMembership, Vote};
use watching::Task;

use crate::clock;

/// openraft is given so long to end.
const SHUTDOWN_MAX: Duration = Duration::from_secs(5);
/// A run before this one in the same process is given so long to let go of the store.
const CLAIM_MAX: Duration = Duration::from_secs(10);

/// The actor. Started with a [`Handle`], which outlives it.
#[derive(Debug)]
pub struct Consensus;

/// What the actor is told. Others use the functions of [`Handle`].
#[derive(Debug)]
pub enum ConsensusMsg {
    /// Take part from now on. `done` is told when openraft runs.
    Start {
        /// Who waits for it.
        done: Option<oneshot::Sender<()>>,
    },
    /// Take no part any more. `done` is told when openraft has ended.
    Retire {
        /// Who waits for it.
        done: oneshot::Sender<()>,
    },
    /// openraft's voters changed, whom this one voted for, or whether it leads.
    StandingChanged {
        /// Who decides.
        electorate: Electorate,
        /// Whether this node leads.
        leading: bool,
        /// Its vote.
        vote: Vote,
        /// Which node has which seat.
        membership: Arc<StoredMembership>,
    },
    /// Another voter wants to know whether it would get this one's vote.
    WouldVote {
        /// The asker's last entry.
        last: Option<LogId>,
        /// Where the answer goes.
        answer: oneshot::Sender<bool>,
    },
    /// Another voter would vote for this one.
    Answered {
        /// In which round it was asked.
        round: u64,
        /// Who says so.
        voter: Life,
    },
    /// The leader wants this voter to lead next.
    TakeOver,
    /// A node's process is gone, beyond doubt.
    LeaderCrashed {
        /// The node.
        node: NodeName,
    },
    /// Another voter has entries that this one lacks.
    Behind,
    /// Time passed.
    Tick,
    /// openraft gave up.
    Failed {
        /// Why.
        why: String,
    },
}

impl ractor::Message for ConsensusMsg {}

/// What the actor knows.
#[derive(Debug)]
pub struct ConsensusState {
    handle: Handle,
    myself: ActorRef<ConsensusMsg>,
    running: Option<Running>,
}

/// While this node takes part.
struct Running {
    raft: Arc<Raft>,
    election: Election,
    /// The last that was told.
    vote: Vote,
    membership: Arc<StoredMembership>,
    /// The next [`ConsensusMsg::Tick`], and when it comes.
    wake: Option<(Moment, Task)>,
    _tasks: Vec<Task>,
}

impl std::fmt::Debug for Running {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Running").field("election", &self.election).finish_non_exhaustive()
    }
}

impl Actor for Consensus {
    type Msg = ConsensusMsg;
    type State = ConsensusState;
    type Arguments = Handle;

    async fn pre_start(
        &self,
        myself: ActorRef<ConsensusMsg>,
        handle: Handle,
    ) -> Result<ConsensusState, ActorProcessingErr> {
        let mut state = ConsensusState { handle, myself: myself.clone(), running: None };
        // An actor that failed may have left openraft behind.
        state.stop().await;
        state.handle.attach(myself);
        if !RaftLog::is_pristine(&state.handle.shared.store)? {
            state.start().await?;
        }
        Ok(state)
    }

    async fn handle(
        &self,
        _myself: ActorRef<ConsensusMsg>,
        message: ConsensusMsg,
        state: &mut ConsensusState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            ConsensusMsg::Start { done } => {
                state.start().await?;
                // Whoever waited may have given up.
                let _ = done.map(|done| done.send(()));
            }
            ConsensusMsg::Retire { done } => {
                state.stop().await;
                let _ = done.send(());
            }
            ConsensusMsg::Failed { why } => return Err(state.give_up(why).await),
            other => state.handle_election(other),
        }
        Ok(())
    }

    async fn post_stop(
        &self,
        _myself: ActorRef<ConsensusMsg>,
        state: &mut ConsensusState,
    ) -> Result<(), ActorProcessingErr> {
        state.stop().await;
        Ok(())
    }
}

impl ConsensusState {
    /// Starts openraft, unless it runs.
    async fn start(&mut self) -> Result<(), ActorProcessingErr> {
        if self.running.is_some() {
            return Ok(());
        }
        let shared = Arc::clone(&self.handle.shared);
        let log = RaftLog::new(shared.store.clone(), Arc::clone(&shared.proposals));
        let mut log = tokio::time::timeout(CLAIM_MAX, log).await?;
        log.give_up_leadership().await?;
        let machine =
            RaftMachine::open(shared.store.clone(), shared.applied.clone())?.telling(shared.plans.clone());
        let life = shared.store.life();
        let raft = Raft::new(life.0, shared.settings.openraft(), shared.lines(), log, machine).await?;
        let raft = Arc::new(raft);
        shared.raft.store(Some(Arc::clone(&raft)));
        let tasks = vec![
            Task::spawn(watching::run_watch(Arc::clone(&shared), Arc::clone(&raft))),
            Task::spawn(watching::run_acks(Arc::clone(&shared), Arc::clone(&raft))),
            Task::spawn(watching::run_behind(Arc::clone(&shared))),
            Task::spawn(voting::run_finish(Arc::clone(&shared), Arc::clone(&raft))),
        ];
        let election = Election::new(shared.clock.now(), life, shared.settings.timing(), clock::draw());
        let (vote, membership) = (Vote::default(), Arc::default());
        self.running = Some(Running { raft, election, vote, membership, wake: None, _tasks: tasks });
        Ok(())
    }

    /// Ends openraft, if it runs.
    async fn stop(&mut self) {
        self.running = None;
        if let Some(raft) = self.handle.shared.raft.swap(None)
            && tokio::time::timeout(SHUTDOWN_MAX, raft.shutdown()).await.is_err()
        {
            tracing::warn!("openraft did not end in time; it ends when the disk answers it");
        }
        self.handle.shared.publish_idle();
    }

    async fn give_up(&mut self, why: String) -> ActorProcessingErr {
        tracing::error!(why, "consensus gave up on this node");
        self.handle.shared.metrics.send_modify(|shown| shown.failure = Some(why.clone()));
        self.stop().await;
        why.into()
    }

    /// News that the election law decides about.
    fn handle_election(&mut self, message: ConsensusMsg) {
        let shared = Arc::clone(&self.handle.shared);
        let Some(running) = &mut self.running else { return };
        let now = shared.clock.now();
        running.take_in_heard(shared.heard());
        let mut effect = None;
        match message {
            ConsensusMsg::StandingChanged { electorate, leading, vote, membership } => {
                running.membership = membership;
                running.election.handle_standing(now, electorate, leading);
                if vote.leader_id.node_id != self.handle.shared.store.life().0 && vote > running.vote {
                    running.election.handle_granted(now);
                }
                running.vote = vote;
            }
            ConsensusMsg::WouldVote { last, answer } => {
                let up_to_date = last >= running.last_log();
                // A leader that hands over wants to be replaced.
                let yields = shared.successor().is_some();
                let would = running.election.would_vote(now, up_to_date) || (yields && up_to_date);
                // The asker's deadline may have passed.
                let _ = answer.send(would);
            }
            ConsensusMsg::Answered { round, voter } => {
                effect = running.election.handle_answer(now, round, voter);
            }
            ConsensusMsg::TakeOver => running.election.handle_call(now),
            ConsensusMsg::LeaderCrashed { node } => {
                // Where another voter stood already, openraft knows of no leader, but the last one's crash is proven all the same.
                if shared.led_by.load().as_deref() == Some(&node) {
                    running.election.handle_proof(now);
                }
            }
            ConsensusMsg::Behind => running.election.handle_behind(now),
            ConsensusMsg::Tick => running.wake = None,
            ConsensusMsg::Start { .. } | ConsensusMsg::Retire { .. } | ConsensusMsg::Failed { .. } => {}
        }
        let effects = effect.into_iter().chain(running.election.handle_tick(now)).collect::<Vec<_>>();
        for effect in effects {
            self.run_effect(effect);
        }
        self.wake_in_time();
    }

    fn run_effect(&self, effect: Effect) {
        let Some(running) = &self.running else { return };
        match effect {
            Effect::Ask { round } => self.ask_the_others(running, round),
            Effect::Elect => {
                self.handle.shared.metrics.send_modify(|shown| shown.candidacies += 1);
                let raft = Arc::clone(&running.raft);
                tokio::spawn(async move { raft.trigger().elect().await });
            }
        }
    }

    fn ask_the_others(&self, running: &Running, round: u64) {
        let me = self.handle.life();
        let last = running.last_log();
        let membership = running.membership.membership();
        for voter in membership.voter_ids().filter(|life| *life != me.0) {
            let Some(node) = membership.get_node(&voter).and_then(|seat| seat.node.clone()) else { continue };
            let (shared, myself) = (Arc::clone(&self.handle.shared), self.myself.clone());
            tokio::spawn(async move {
                let (voter, deadline) = (Life(voter), shared.settings.election_timeout_min);
                let asked = shared.exchange.ask(&node, Some(voter), Request::WouldVote { last }, deadline);
                if let Ok(Reply::WouldVote(true)) = asked.await {
                    // The actor may have stopped in the meantime.
                    let _ = myself.cast(ConsensusMsg::Answered { round, voter });
                }
            });
        }
    }

    /// Has the law asked again when it wants to be.
    fn wake_in_time(&mut self) {
        let clock = self.handle.shared.clock;
        let Some(running) = &mut self.running else { return };
        let Some(at) = running.election.wake_at() else {
            running.wake = None;
            return;
        };
        if running.wake.as_ref().is_some_and(|(planned, _)| *planned <= at) {
            return;
        }
        let myself = self.myself.clone();
        let task = Task::spawn(async move {
            tokio::time::sleep(clock.until(at)).await;
            // The actor may have stopped in the meantime.
            let _ = myself.cast(ConsensusMsg::Tick);
        });
        running.wake = Some((at, task));
    }
}

impl Running {
    /// Leaders are heard more often than the law needs to know at once.
    fn take_in_heard(&mut self, heard: Moment) {
        if heard > self.election.heard() {
            self.election.handle_heard(heard);
        }
    }

    fn last_log(&self) -> Option<LogId> {
        self.raft.data_metrics().borrow().last_log
    }
}
