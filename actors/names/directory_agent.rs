//! Beside the primary of a directory: has the nodes run what stands in it.
//!
//! ```text
//!  NameTable ─ each step, held by W ─▶ Orders (core) ─ Send ──▶ DistributedSupervisor of a node ─ answers ─┐
//!  plans ─────────── members ────────▶    │   ▲──────────────────────────────────────────────────────────┘
//!                                         └ Commit ─▶ the directory's worker ─▶ log
//! ```

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::oneshot;
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tumen_core::Moment;
use tumen_core::cluster::snapshot::Snapshot;
use tumen_core::ids::{Kind, NodeBoot};
use tumen_core::names::Directory;
use tumen_core::names::crew::{Answer, Frame};
use tumen_core::names::directory::Change;
use tumen_core::names::orders::{Config, Effect, MemberFacts, Orders};
use tumen_core::partitions::fence::Fence;

use super::Names;
use super::directory_worker::{body_of, log_message};
use super::table::Step;
use super::wire::{Supervision, child_kind};
use crate::partitions::delivery::Delivery;

/// The most steps that wait. One that falls behind by more begins anew, with the directory as it is then.
const STEPS_MAX: usize = 65_536;
/// How many changes are logged together at most.
const CHANGES_MAX: usize = 256;
/// How long a change may be on its way to the log.
const LOG_WITHIN: Duration = Duration::from_secs(5);
/// The most orders in one frame: so many with the longest arguments fit into one message.
const FRAME_ORDERS_MAX: usize = 128;

/// What the agent's mailbox takes.
#[derive(Debug)]
pub enum DirectoryAgentMsg {
    /// The table here has come to this primary's epoch.
    Begin,
    /// One step that W copies hold.
    Step(Arc<Step>),
    /// Steps were lost.
    Behind,
    /// A newer plan.
    Plan(Arc<Snapshot>),
    /// A node says something.
    Answers(NodeBoot, Vec<Answer>),
    /// These changes could not be logged, or nobody knows.
    NotLogged(Vec<Change>),
    /// The time that the law asked to be woken at has come.
    Wake,
}

impl ractor::Message for DirectoryAgentMsg {}

/// The agent of one directory under one epoch.
pub struct DirectoryAgent {
    names: Names,
    fence: Fence,
}

/// What it holds.
pub struct DirectoryAgentState {
    plan: Arc<Snapshot>,
    /// Once it has begun: the law, and the directory as W copies hold it.
    led: Option<(Orders, Directory)>,
    waiting: Arc<AtomicUsize>,
    wake: Option<AbortHandle>,
}

impl DirectoryAgent {
    /// The agent of this partition's primary, which is this boot.
    pub const fn new(names: Names, fence: Fence) -> Self {
        Self { names, fence }
    }

    fn now(&self) -> Moment {
        self.names.shared.gate.now()
    }

    /// Begins with the directory as it is known here, which W copies hold.
    fn begin(&self, myself: &ActorRef<DirectoryAgentMsg>, state: &mut DirectoryAgentState) {
        let (to, waiting) = (myself.clone(), Arc::new(AtomicUsize::new(0)));
        state.waiting = Arc::clone(&waiting);
        let to = Following(to);
        let follower = move |step: &Arc<Step>| {
            let room = waiting.fetch_add(1, Ordering::Relaxed) < STEPS_MAX;
            if room && to.0.cast(DirectoryAgentMsg::Step(Arc::clone(step))).is_ok() {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            }
        };
        let followed = self.names.shared.table.follow(self.fence.partition, Box::new(follower));
        let Some((directory, position)) = followed else { return };
        if position.epoch != self.fence.epoch {
            tracing::debug!(partition = %self.fence.partition, "a newer primary is there");
            return myself.stop(None);
        }
        let directory = directory.indexed();
        let config = Config { frame_orders_max: FRAME_ORDERS_MAX, ..Config::default() };
        let now = self.now();
        let id = (self.fence.partition, self.fence.epoch);
        let placements = self.names.shared.placements.clone();
        let mut orders = Orders::new(now, id, config, placements, &directory);
        let facts = facts_of(&state.plan);
        let effects = orders.handle_members(now, &directory, state.plan.version, facts);
        state.led = Some((orders, directory));
        self.perform(myself, state, effects);
    }

    fn perform(
        &self,
        myself: &ActorRef<DirectoryAgentMsg>,
        state: &mut DirectoryAgentState,
        effects: Vec<Effect>,
    ) {
        let (mut changes, mut wake) = (Vec::new(), None);
        for effect in effects {
            match effect {
                Effect::Commit(change) => changes.push(change),
                Effect::Send { to, frame } => self.send(to, frame),
                Effect::WakeAt(at) => wake = Some(at),
                Effect::PlacedByName { name, why } => {
                    tracing::warn!(%name, %why, "a child that ran is placed by its name");
                }
            }
        }
        while !changes.is_empty() {
            let rest = changes.split_off(changes.len().min(CHANGES_MAX));
            self.log(myself, std::mem::replace(&mut changes, rest));
        }
        if let Some(at) = wake {
            state.wake.take().inspect(AbortHandle::abort);
            let (myself, wait) = (myself.clone(), self.names.shared.clock.until(at));
            let waking = tokio::spawn(async move {
                tokio::time::sleep(wait).await;
                drop(myself.cast(DirectoryAgentMsg::Wake));
            });
            state.wake = Some(waking.abort_handle());
        }
    }

    /// Sends orders to a node. They may be lost: what is not answered is sent again.
    fn send(&self, to: NodeBoot, frame: Frame) {
        let Some(cluster) = self.names.shared.plans.cluster() else { return };
        self.names.send(&to.clone(), Supervision::Orders { cluster, to, frame });
    }

    /// Has changes logged by the directory's worker, in the order in which they are given.
    fn log(&self, myself: &ActorRef<DirectoryAgentMsg>, changes: Vec<Change>) {
        let seat = self.names.shared.seats.seat(self.fence.partition);
        let seat = seat.filter(|seat| seat.fence() == self.fence && seat.is_open());
        let (done, answered) = oneshot::channel();
        let deadline = Instant::now() + LOG_WITHIN;
        let delivery = Delivery::local(log_message(), body_of(&changes), deadline, None, done);
        if let Some(mailbox) = seat.as_ref().and_then(|seat| seat.workers().first()) {
            // What there is no room for answers for itself.
            drop(mailbox.deliver(vec![delivery]));
        }
        let myself = myself.clone();
        tokio::spawn(async move {
            let answered = tokio::time::timeout_at(deadline, answered).await;
            if !matches!(answered, Ok(Ok(told)) if told.clone().into_reply().is_ok()) {
                drop(myself.cast(DirectoryAgentMsg::NotLogged(changes)));
            }
        });
    }
}

/// An agent that is told each step. Dropped, it is told that there will be no more.
struct Following(ActorRef<DirectoryAgentMsg>);

impl Drop for Following {
    fn drop(&mut self) {
        // It may have stopped.
        drop(self.0.cast(DirectoryAgentMsg::Behind));
    }
}

/// What a plan says about its members, as far as placing children goes.
fn facts_of(plan: &Snapshot) -> Vec<MemberFacts> {
    let facts = plan.members.iter().map(|member| {
        let mut kinds: Vec<Kind> = member.info.services.iter().filter_map(|it| child_kind(it)).collect();
        kinds.sort();
        MemberFacts {
            node: member.id().clone(),
            weight: member.info.weight,
            kinds,
            serves: member.status.may_serve(),
            takes: member.status.may_lead(),
        }
    });
    facts.collect()
}

impl Actor for DirectoryAgent {
    type Msg = DirectoryAgentMsg;
    type State = DirectoryAgentState;
    type Arguments = Arc<Snapshot>;

    async fn pre_start(
        &self,
        myself: ActorRef<Self::Msg>,
        plan: Arc<Snapshot>,
    ) -> Result<Self::State, ActorProcessingErr> {
        let positions = self.names.shared.table.positions(self.fence.partition);
        let mut positions = positions.ok_or("no such directory")?;
        let epoch = self.fence.epoch;
        tokio::spawn(async move {
            // The opening entry of this epoch is there: so W copies hold all that is.
            if positions.wait_for(|known| known.epoch >= epoch).await.is_ok() {
                drop(myself.cast(DirectoryAgentMsg::Begin));
            }
        });
        Ok(DirectoryAgentState { plan, led: None, waiting: Arc::default(), wake: None })
    }

    async fn handle(
        &self,
        myself: ActorRef<Self::Msg>,
        message: Self::Msg,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        let now = self.now();
        if let DirectoryAgentMsg::Plan(plan) = &message
            && plan.version > state.plan.version
        {
            state.plan = Arc::clone(plan);
        }
        if let DirectoryAgentMsg::Step(_) = &message {
            state.waiting.fetch_sub(1, Ordering::Relaxed);
        }
        let Some((orders, directory)) = &mut state.led else {
            if matches!(message, DirectoryAgentMsg::Begin) {
                self.begin(&myself, state);
            }
            return Ok(());
        };
        let effects = match message {
            DirectoryAgentMsg::Begin => Vec::new(),
            DirectoryAgentMsg::Step(step) => {
                let mut effects = Vec::new();
                self.names.shared.table.tallies().note_step(&step);
                for change in &step.changes {
                    directory.apply(change);
                    effects.extend(orders.handle_applied(now, directory, change));
                }
                effects
            }
            DirectoryAgentMsg::Behind => {
                state.led = None;
                drop(myself.cast(DirectoryAgentMsg::Begin));
                Vec::new()
            }
            DirectoryAgentMsg::Plan(_) => {
                let facts = facts_of(&state.plan);
                orders.handle_members(now, directory, state.plan.version, facts)
            }
            DirectoryAgentMsg::Answers(from, answers) => {
                let mut effects = Vec::new();
                for answer in answers {
                    effects.extend(orders.handle_answer(now, directory, &from, answer));
                }
                effects
            }
            DirectoryAgentMsg::NotLogged(changes) => {
                changes.iter().for_each(|change| orders.handle_not_logged(now, change));
                orders.handle_tick(now, directory)
            }
            DirectoryAgentMsg::Wake => orders.handle_tick(now, directory),
        };
        self.perform(&myself, state, effects);
        Ok(())
    }

    async fn post_stop(
        &self,
        _: ActorRef<Self::Msg>,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        state.wake.take().inspect(AbortHandle::abort);
        Ok(())
    }
}
