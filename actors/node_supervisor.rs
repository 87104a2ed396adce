//! Starts a node's actors in order, restarts them as the law says, and stops them in reverse.
//!
//! ```text
//!  start ─▶ child 0 ─▶ child 1 ─▶ … ─▶ running
//!             exit ─▶ Supervisor (core) ─▶ let be │ stop the rest, wait, start again │ give up: all stop, and it fails
//!  stop  ─▶ … ─▶ child 1 ─▶ child 0, all within the deadline; who lingers is killed
//! ```
//!
//! A supervisor is an actor too, so one may be the child of another: when it gives up, its own supervisor decides.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use ractor::{Actor, ActorCell, ActorId, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::sync::{oneshot, watch};
use tokio::task::AbortHandle;
use tumen_core::supervision::{ChildId, Exit, GaveUp, Policy, PolicyError, Restart, Supervisor, Verdict};

use crate::clock::Clock;

/// How long a child that was killed may take to be gone, before it is left behind: only one that blocks its thread does.
const KILLED_WITHIN: Duration = Duration::from_secs(1);

/// Starts a child under the supervisor given, by `Actor::spawn_linked`, and returns once it runs.
pub type StartChild =
    Arc<dyn Fn(ActorCell) -> BoxFuture<'static, Result<ActorCell, ActorProcessingErr>> + Send + Sync>;

/// A child as its supervisor knows it.
#[derive(Clone)]
pub struct Child {
    name: String,
    restart: Restart,
    start: StartChild,
}

impl Child {
    /// A child that is always started again.
    pub fn new<F, Starting>(name: impl Into<String>, start: F) -> Self
    where
        F: Fn(ActorCell) -> Starting + Send + Sync + 'static,
        Starting: Future<Output = Result<ActorCell, ActorProcessingErr>> + Send + 'static,
    {
        let start = Arc::new(move |supervisor| -> BoxFuture<'static, _> { Box::pin(start(supervisor)) });
        Self { name: name.into(), restart: Restart::Permanent, start }
    }

    /// The same child, started again only when `restart` says so.
    #[must_use]
    pub fn restart(mut self, restart: Restart) -> Self {
        self.restart = restart;
        self
    }
}

impl fmt::Debug for Child {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Child")
            .field("name", &self.name)
            .field("restart", &self.restart)
            .finish_non_exhaustive()
    }
}

/// Why a supervisor did not start. Nothing runs.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Its policy contradicts itself.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// A child could not be started; those before it were stopped again.
    #[error("{child} did not start: {why}")]
    Child {
        /// The child.
        child: String,
        /// What it said.
        why: String,
    },
    /// The supervisor's own supervisor is stopping.
    #[error("the supervisor did not start: {0}")]
    Spawn(String),
}

/// How a supervisor ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It was asked to. These children had to be killed, for they were not done at the deadline.
    Stopped {
        /// The names of those killed.
        killed: Vec<String>,
    },
    /// It could not keep its children running, and stopped them all.
    GaveUp(GaveUp),
    /// It was killed, and its children with it.
    Killed,
}

/// A running supervisor. Cheap to clone; dropping it stops nothing.
#[derive(Clone, Debug)]
pub struct NodeSupervisor {
    actor: ActorRef<NodeSupervisorMsg>,
    ended: watch::Receiver<Option<Ended>>,
    stop_within: Duration,
}

impl NodeSupervisor {
    /// Starts a supervisor and its children, one after the other, and returns once all run.
    ///
    /// # Errors
    /// See [`StartError`]; what had been started is stopped again.
    pub async fn start(spec: Spec) -> Result<Self, StartError> {
        Self::start_under(None, spec).await
    }

    /// Starts it as a child of another supervisor.
    ///
    /// # Errors
    /// See [`StartError`]; what had been started is stopped again.
    pub async fn start_under(supervisor: Option<ActorCell>, spec: Spec) -> Result<Self, StartError> {
        let names = spec.children.iter().map(|child| (child.name.clone(), child.restart));
        let law = Supervisor::new(spec.policy, names)?;
        let (ended, ended_receiver) = watch::channel(None);
        let stop_within = spec.stop_within;
        let (refused, mut refusal) = oneshot::channel();
        let starting = Starting { spec, law, ended, refused };
        let spawned = match supervisor {
            Some(supervisor) => Actor::spawn_linked(None, NodeSupervisorActor, starting, supervisor).await,
            None => Actor::spawn(None, NodeSupervisorActor, starting).await,
        };
        match spawned {
            Ok((actor, _)) => Ok(Self { actor, ended: ended_receiver, stop_within }),
            Err(error) => Err(refusal.try_recv().unwrap_or_else(|_| StartError::Spawn(error.to_string()))),
        }
    }

    /// Stops all children in reverse order, within the spec's `stop_within`, and says how it ended. Asking twice is the
    /// same as once.
    pub async fn stop(&self) -> Ended {
        // If it has ended already, `ended` says how.
        drop(self.actor.cast(NodeSupervisorMsg::Stop { within: self.stop_within }));
        self.ended().await
    }

    /// Waits until it ends, for whatever reason.
    pub async fn ended(&self) -> Ended {
        let mut ended = self.ended.clone();
        let result = match ended.wait_for(Option::is_some).await {
            Ok(ended) => ended.clone(),
            Err(_) => None,
        };
        result.unwrap_or(Ended::Killed)
    }

    /// The supervisor as an actor, to be a child of another.
    pub fn cell(&self) -> ActorCell {
        self.actor.get_cell()
    }

    /// Each child's name and whether it runs, in start order.
    pub async fn children(&self) -> Vec<(String, Option<ActorId>)> {
        let (reply, answer) = oneshot::channel();
        drop(self.actor.cast(NodeSupervisorMsg::Children { reply }));
        answer.await.unwrap_or_default()
    }
}

/// What a supervisor is to run.
#[derive(Clone, Debug)]
pub struct Spec {
    /// Who is restarted with whom, how often, and after what wait.
    pub policy: Policy,
    /// The children, in start order.
    pub children: Vec<Child>,
    /// How long a child's start may take. Default 30 s. One that takes longer has failed.
    pub start_within: Duration,
    /// How long a stop of all of them may take, before those that are left are killed. Default 10 s.
    pub stop_within: Duration,
    /// What time it is.
    pub clock: Clock,
}

impl Spec {
    /// These children, in start order, with the default policy and deadlines.
    pub fn new(clock: Clock, children: Vec<Child>) -> Self {
        let (start_within, stop_within) = (Duration::from_secs(30), Duration::from_secs(10));
        Self { policy: Policy::default(), children, start_within, stop_within, clock }
    }
}

/// What a supervisor is asked.
pub enum NodeSupervisorMsg {
    /// Stop all, and end.
    Stop {
        /// Before those that are left are killed.
        within: Duration,
    },
    /// The back-off is over: start what waits. Old news, if another verdict came meanwhile.
    StartPending {
        /// The verdict that asked for it.
        verdict: u64,
    },
    /// Each child's name and whether it runs.
    Children {
        /// Where the answer goes.
        reply: oneshot::Sender<Vec<(String, Option<ActorId>)>>,
    },
}

impl ractor::Message for NodeSupervisorMsg {}

struct NodeSupervisorActor;

struct Starting {
    spec: Spec,
    law: Supervisor,
    ended: watch::Sender<Option<Ended>>,
    refused: oneshot::Sender<StartError>,
}

struct NodeSupervisorState {
    spec: Spec,
    law: Supervisor,
    running: BTreeMap<ChildId, ActorCell>,
    verdicts: u64,
    waiting: Option<AbortHandle>,
    ended: watch::Sender<Option<Ended>>,
}

impl Actor for NodeSupervisorActor {
    type Msg = NodeSupervisorMsg;
    type State = NodeSupervisorState;
    type Arguments = Starting;

    async fn pre_start(
        &self,
        myself: ActorRef<NodeSupervisorMsg>,
        starting: Starting,
    ) -> Result<NodeSupervisorState, ActorProcessingErr> {
        let Starting { spec, law, ended, refused } = starting;
        let mut state =
            NodeSupervisorState { spec, law, running: BTreeMap::new(), verdicts: 0, waiting: None, ended };
        for id in state.law.pending() {
            if let Err(why) = state.start_child(&myself, id).await {
                let child = state.law.name(id).to_owned();
                state.stop_all().await;
                // If nobody waits any more, the error below says the same.
                drop(refused.send(StartError::Child { child: child.clone(), why: why.clone() }));
                return Err(format!("{child} did not start: {why}").into());
            }
        }
        Ok(state)
    }

    async fn handle(
        &self,
        myself: ActorRef<NodeSupervisorMsg>,
        message: NodeSupervisorMsg,
        state: &mut NodeSupervisorState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            NodeSupervisorMsg::Stop { within } => {
                state.spec.stop_within = within;
                let killed = state.stop_all().await;
                state.ended.send_replace(Some(Ended::Stopped { killed }));
                myself.stop(None);
                Ok(())
            }
            NodeSupervisorMsg::StartPending { verdict } if verdict == state.verdicts => {
                state.start_pending(&myself).await
            }
            NodeSupervisorMsg::StartPending { .. } => Ok(()),
            NodeSupervisorMsg::Children { reply } => {
                // Whoever asked may have gone.
                drop(reply.send(state.children()));
                Ok(())
            }
        }
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<NodeSupervisorMsg>,
        event: SupervisionEvent,
        state: &mut NodeSupervisorState,
    ) -> Result<(), ActorProcessingErr> {
        let (actor, exit) = match event {
            SupervisionEvent::ActorFailed(actor, why) => (actor, Exit::Failed(why.to_string())),
            SupervisionEvent::ActorTerminated(actor, _, reason) => match reason.as_deref() {
                // Nobody in a node kills an actor that could be asked to stop.
                Some("killed" | "actor_task_cancelled") => (actor, Exit::Failed("it was killed".into())),
                Some(_) | None => (actor, Exit::Normal),
            },
            SupervisionEvent::ActorStarted(_)
            | SupervisionEvent::ProcessGroupChanged(_)
            | SupervisionEvent::PidLifecycleEvent(_) => return Ok(()),
        };
        // A child that was stopped on purpose is running no more when its end is heard of.
        let of = |(_, cell): &(&ChildId, &ActorCell)| cell.get_id() == actor.get_id();
        let Some(id) = state.running.iter().find(of).map(|(id, _)| *id) else { return Ok(()) };
        state.running.remove(&id);
        state.run_verdict(&myself, id, &exit).await
    }

    async fn post_stop(
        &self,
        _myself: ActorRef<NodeSupervisorMsg>,
        state: &mut NodeSupervisorState,
    ) -> Result<(), ActorProcessingErr> {
        // It was stopped as an actor, by its own supervisor: its children stop in order all the same.
        if state.ended.borrow().is_none() {
            let killed = state.stop_all().await;
            state.ended.send_replace(Some(Ended::Stopped { killed }));
        }
        Ok(())
    }
}

impl NodeSupervisorState {
    async fn run_verdict(
        &mut self,
        myself: &ActorRef<NodeSupervisorMsg>,
        id: ChildId,
        exit: &Exit,
    ) -> Result<(), ActorProcessingErr> {
        let child = self.law.name(id).to_owned();
        match self.law.handle_exit(self.spec.clock.now(), id, exit) {
            Verdict::LetBe => {
                tracing::info!(%child, %exit, "not restarted");
                Ok(())
            }
            Verdict::Restart { stop, at, start } => {
                let wait = self.spec.clock.until(at);
                tracing::warn!(%child, %exit, ?wait, restarting = start.len(), "restarting");
                self.stop_children(&stop).await;
                self.verdicts += 1;
                self.waiting.take().inspect(AbortHandle::abort);
                let (myself, verdict, clock) = (myself.clone(), self.verdicts, self.spec.clock);
                let waiting = tokio::spawn(async move {
                    tokio::time::sleep(clock.until(at)).await;
                    // If the supervisor has ended, nothing is to be started.
                    drop(myself.cast(NodeSupervisorMsg::StartPending { verdict }));
                });
                self.waiting = Some(waiting.abort_handle());
                Ok(())
            }
            Verdict::GiveUp { stop, why } => {
                tracing::error!(%why, "giving up");
                self.waiting.take().inspect(AbortHandle::abort);
                self.stop_children(&stop).await;
                self.ended.send_replace(Some(Ended::GaveUp(why.clone())));
                Err(Box::new(why))
            }
        }
    }

    async fn start_pending(
        &mut self,
        myself: &ActorRef<NodeSupervisorMsg>,
    ) -> Result<(), ActorProcessingErr> {
        for id in self.law.pending() {
            if let Err(why) = self.start_child(myself, id).await {
                // Those after it stay pending, and wait with it.
                return self.run_verdict(myself, id, &Exit::Failed(format!("it did not start: {why}"))).await;
            }
        }
        Ok(())
    }

    async fn start_child(&mut self, myself: &ActorRef<NodeSupervisorMsg>, id: ChildId) -> Result<(), String> {
        let Some(child) = self.spec.children.get(id.0) else { return Ok(()) };
        let within = self.spec.start_within;
        let starting = tokio::time::timeout(within, (child.start)(myself.get_cell()));
        let started = starting.await.map_err(|_| format!("not within {within:?}"))?;
        let cell = started.map_err(|error| error.to_string())?;
        tracing::debug!(child = %child.name, "started");
        self.running.insert(id, cell);
        self.law.handle_started(self.spec.clock.now(), id);
        Ok(())
    }

    async fn stop_all(&mut self) -> Vec<String> {
        self.waiting.take().inspect(AbortHandle::abort);
        let order = self.law.handle_stop();
        self.stop_children(&order).await
    }

    /// Stops these one after the other, all within `stop_within`, and says who had to be killed.
    async fn stop_children(&mut self, order: &[ChildId]) -> Vec<String> {
        let deadline = tokio::time::Instant::now() + self.spec.stop_within;
        let mut killed = Vec::new();
        for (at, id) in order.iter().enumerate() {
            let Some(cell) = self.running.remove(id) else { continue };
            // One that lingers leaves half of the time to those that come after it.
            let left = deadline.saturating_duration_since(tokio::time::Instant::now());
            let within = if at + 1 < order.len() { left / 2 } else { left };
            if tokio::time::timeout(within, stop_and_wait(&cell)).await.is_err() {
                let name = self.law.name(*id).to_owned();
                tracing::warn!(child = %name, "not done at the deadline: killed");
                cell.kill();
                if cell.wait(Some(KILLED_WITHIN)).await.is_err() {
                    tracing::error!(child = %name, "it blocks its thread, and is left behind");
                }
                killed.push(name);
            }
        }
        killed
    }

    fn children(&self) -> Vec<(String, Option<ActorId>)> {
        let child = |(at, child): (usize, &Child)| {
            let cell = self.running.get(&ChildId(at)).filter(|_| self.law.is_running(ChildId(at)));
            (child.name.clone(), cell.map(ActorCell::get_id))
        };
        self.spec.children.iter().enumerate().map(child).collect()
    }
}

async fn stop_and_wait(cell: &ActorCell) {
    // An actor that has ended already takes no more orders.
    if cell.stop_and_wait(None, None).await.is_err() {
        cell.wait(None).await.unwrap_or_default();
    }
}
