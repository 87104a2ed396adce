//! Makes what runs here be what the newest plan wants to run here.
//!
//! ```text
//!  Plan ─▶ Reconcile ─▶ close seats ─▶ acted on ─▶ (lease counts) ─▶ stop the rest, start what is missing
//!  Ask  ─▶ Reconcile ─▶ close seat ─▶ worker gone ─▶ released ─▶ (leader hears of it)
//! ```
//!
//! A worker that fails is started again under the same epoch, with back-off; others do not notice.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use ractor::{Actor, ActorId, ActorProcessingErr, ActorRef, SpawnErr, SupervisionEvent};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tumen_core::cluster::lease::Release;
use tumen_core::cluster::snapshot::Snapshot;
use tumen_core::ids::{Epoch, NodeBoot, PartitionId, Version};
use tumen_core::partitions::entry::KindIndex;
use tumen_core::partitions::fence::Fence;
use tumen_core::partitions::reconcile::{Effect, Reconcile};

use super::gate::Gate;
use super::host::{KindsByGroup, Place};
use super::partition_worker::{PartitionWorker, PartitionWorkerMsg};
use super::promotions::Promotions;
use super::read_table::{Mailbox, ReadTable, Seat};
use super::replication::Replication;

/// How long a worker that was told to stop may take to end its present message, before it is cut off.
const STOP_WITHIN: Duration = Duration::from_secs(2);
/// How long workers may take for their last words before a planned move, the message that they are in the middle of
/// included. More than [`HAND_OVER_WITHIN`](super::partition_worker::HAND_OVER_WITHIN).
const LAST_WORD_WITHIN: Duration = Duration::from_secs(1);
/// The first wait before a failed worker is started again; it doubles up to [`RESTART_WAIT_MAX`].
const RESTART_WAIT: Duration = Duration::from_millis(20);
/// The longest wait before a failed worker is started again.
const RESTART_WAIT_MAX: Duration = Duration::from_secs(10);
/// A worker that ran for so long before it failed begins again with the shortest wait.
const RAN_WELL: Duration = Duration::from_secs(30);

/// Why something is to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    /// The leader asks for it back: until it is released, this node may still write.
    Asked,
    /// A plan, or the cluster that was left, took it away.
    Taken,
}

/// What the manager reports to whoever keeps the lease. Called on the manager's own time: be quick.
pub trait Reports: Send + Sync + 'static {
    /// Everything that `plan`, or any before it, took from this node lets nothing out any more.
    fn acted_on(&self, plan: &Arc<Snapshot>);
    /// These are not served by this boot any more, and never will be again under these epochs.
    fn released(&self, releases: Vec<Release>);
    /// The releases that no plan has answered yet: they outlive the manager, for a release is final.
    fn standing(&self) -> Vec<Release>;
}

/// What is being served, for people and for readiness.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// The newest plan that was acted on.
    pub version: Version,
    /// Partitions that this node is to serve by that plan.
    pub wanted: usize,
    /// Partitions of which every worker has started.
    pub running: usize,
    /// Workers that failed and wait to be started again, with the last failure.
    pub failing: BTreeMap<PartitionId, String>,
}

impl Progress {
    /// Whether everything wanted is running.
    pub const fn is_whole(&self) -> bool {
        self.wanted == self.running
    }
}

/// What the manager's mailbox takes.
#[derive(Debug)]
pub enum PartitionManagerMsg {
    /// A plan was committed. An older one than known is old news.
    Plan(Arc<Snapshot>),
    /// This node leaves its cluster. Answered once nothing runs here any more.
    Left(oneshot::Sender<()>),
    /// The leader wants these back.
    AskRelease(Vec<Release>),
    /// A seat's workers are gone.
    Stopped {
        /// Which partition.
        partition: PartitionId,
        /// Under which epoch it was served.
        epoch: Epoch,
    },
    /// A worker could not be started. A supervisor hears nothing of a child that ends before it began.
    NotStarted {
        /// Which one.
        actor: ActorId,
        /// Why.
        why: String,
    },
    /// A failed seat's wait is over: start its workers again, if it is still wanted.
    Restart {
        /// Which partition.
        partition: PartitionId,
        /// Under which epoch it is served.
        epoch: Epoch,
    },
}

impl ractor::Message for PartitionManagerMsg {}

/// One node's partitions. Supervises their workers.
pub struct PartitionManager {
    me: NodeBoot,
    kinds: KindsByGroup,
    table: ReadTable,
    gate: Gate,
    reports: Arc<dyn Reports>,
    progress: watch::Sender<Progress>,
    replication: Replication,
}

#[derive(Debug)]
struct Running {
    epoch: Epoch,
    seat: Option<Arc<Seat>>,
    /// The workers' actors, and whether each has started.
    workers: BTreeMap<ActorId, bool>,
    since: Instant,
    wait: Duration,
    /// When the plan came that named this boot, until it serves for the first time.
    named: Option<Instant>,
    /// Whether it is among [`PartitionManagerState::whole`].
    counted: bool,
}

impl Running {
    /// Whether every worker has started.
    fn is_whole(&self) -> bool {
        self.seat.is_some() && self.workers.values().all(|started| *started)
    }
}

/// What the manager knows. Lost with it, and rebuilt from the next plan.
#[derive(Debug)]
pub struct PartitionManagerState {
    law: Reconcile,
    plan: Option<Arc<Snapshot>>,
    /// When that came.
    planned: Instant,
    running: BTreeMap<PartitionId, Running>,
    by_actor: BTreeMap<ActorId, PartitionId>,
    failing: BTreeMap<PartitionId, String>,
    /// How many of `running` are whole: counted along, for there may be many thousands.
    whole: usize,
    /// Who waits until nothing runs here, for this node leaves its cluster.
    leaving: Option<oneshot::Sender<()>>,
}

impl PartitionManagerState {
    fn note_idle(&mut self) {
        if let Some(done) = self.leaving.take_if(|_| self.law.is_idle()) {
            // Nobody may wait any more.
            let _ = done.send(());
        }
    }

    /// Counts a partition anew whose workers changed. Says how long its promotion took, if that is over by now.
    fn recount(&mut self, partition: PartitionId) -> Option<Duration> {
        let running = self.running.get_mut(&partition)?;
        let whole = running.is_whole();
        if whole != std::mem::replace(&mut running.counted, whole) {
            if whole { self.whole += 1 } else { self.whole -= 1 }
        }
        running.named.take_if(|_| whole).map(|named| named.elapsed())
    }

    fn forget(&mut self, partition: PartitionId) -> Option<Running> {
        let running = self.running.remove(&partition)?;
        self.whole -= usize::from(running.counted);
        Some(running)
    }
}

impl PartitionManager {
    /// A manager for this boot, which shows what it does in `table` and `progress`.
    pub fn new(
        me: NodeBoot,
        kinds: KindsByGroup,
        table: ReadTable,
        gate: Gate,
        reports: Arc<dyn Reports>,
        progress: watch::Sender<Progress>,
        replication: Replication,
    ) -> Self {
        Self { me, kinds, table, gate, reports, progress, replication }
    }

    fn run(
        &self,
        myself: &ActorRef<PartitionManagerMsg>,
        state: &mut PartitionManagerState,
        effects: Vec<Effect>,
        why: Why,
    ) {
        let mut releases = Vec::new();
        for effect in effects {
            match effect {
                Effect::Stop { partition, epoch } => self.stop(myself, state, partition, epoch, why),
                Effect::Start { partition, epoch } => self.start(myself, state, partition, epoch),
                Effect::Release { partition, epoch } => releases.push(Release { partition, epoch }),
            }
        }
        if !releases.is_empty() {
            self.reports.released(releases);
        }
        self.show(state);
    }

    fn start(
        &self,
        myself: &ActorRef<PartitionManagerMsg>,
        state: &mut PartitionManagerState,
        partition: PartitionId,
        epoch: Epoch,
    ) {
        let Some(plan) = state.plan.clone() else { return };
        let name = plan.name_of(partition);
        let fence = Fence { generation: plan.generation, epoch, partition };
        let place = Place { fence, partition_name: name.into(), node: self.me.node.clone() };
        self.replication.lead(&plan, fence);
        let kinds = self.kinds.of(partition.group);
        let mut mailboxes = Vec::with_capacity(kinds.len());
        let mut workers = BTreeMap::new();
        let mut replicated = 0;
        for hosted in kinds.iter() {
            let index = KindIndex(replicated);
            replicated += u16::from(hosted.is_replicated());
            let waiting = Arc::new(AtomicUsize::new(0));
            let worker = PartitionWorker::new(
                hosted.clone(),
                Arc::clone(&waiting),
                self.gate.clone(),
                self.replication.clone(),
                index,
                self.table.merges().clone(),
            );
            // Instantly: a slow start of one worker must not hold up the others. Messages wait in its mailbox.
            match ractor::ActorRuntime::spawn_linked_instant(None, worker, place.clone(), myself.get_cell()) {
                Ok((actor, started)) => {
                    tokio::spawn(tell_not_started(myself.clone(), actor.get_id(), started));
                    workers.insert(actor.get_id(), false);
                    state.by_actor.insert(actor.get_id(), partition);
                    mailboxes.push(Mailbox::new(hosted.kind.clone(), actor, waiting));
                }
                Err(error) => {
                    tracing::error!(%partition, kind = %hosted.kind, %error, "a worker cannot be spawned");
                }
            }
        }
        let seat = Arc::new(Seat::new(fence, mailboxes, self.table.books().tally(partition)));
        for worker in seat.workers() {
            drop(worker.actor().cast(PartitionWorkerMsg::Sit(Arc::clone(&seat))));
        }
        self.table.open(Arc::clone(&seat));
        let (wait, named) = match state.forget(partition) {
            Some(running) => (running.wait, running.named),
            None => (RESTART_WAIT, Promotions::is_one(epoch).then_some(state.planned)),
        };
        let (seat, since) = (Some(seat), Instant::now());
        let running = Running { epoch, seat, workers, since, wait, named, counted: false };
        state.running.insert(partition, running);
        self.recount(state, partition);
    }

    fn recount(&self, state: &mut PartitionManagerState, partition: PartitionId) {
        if let Some(took) = state.recount(partition) {
            self.table.promotions().note(took);
        }
    }

    fn stop(
        &self,
        myself: &ActorRef<PartitionManagerMsg>,
        state: &mut PartitionManagerState,
        partition: PartitionId,
        epoch: Epoch,
        why: Why,
    ) {
        // Nothing leaves from here on, whatever the worker is in the middle of.
        let seat = self.table.close(partition, epoch);
        if let Some(running) = state.forget(partition) {
            running.workers.keys().for_each(|actor| {
                state.by_actor.remove(actor);
            });
        }
        state.failing.remove(&partition);
        self.replication.stop_opening(partition, epoch);
        let (myself, replication, table) = (myself.clone(), self.replication.clone(), self.table.clone());
        let tally = self.table.books().tally(partition);
        tally.handle_handover_begun(epoch);
        tokio::spawn(async move {
            let all_ended = match seat {
                Some(seat) => {
                    if why == Why::Asked {
                        hand_over(&seat).await;
                    }
                    end_workers(&seat).await
                }
                None => false,
            };
            // What was taken surely holds, and was answered, before another node goes on.
            replication.release(partition, epoch).await;
            tally.handle_handover_ended();
            drop(myself.cast(PartitionManagerMsg::Stopped { partition, epoch }));
            if all_ended {
                table.note_ended(partition, &tally).await;
            }
        });
    }

    /// A worker stopped without being told to: its seat's others go too, and all are started again later.
    fn handle_failure(
        &self,
        myself: &ActorRef<PartitionManagerMsg>,
        state: &mut PartitionManagerState,
        actor: ActorId,
        why: String,
    ) {
        let Some(partition) = state.by_actor.remove(&actor) else { return };
        let Some(running) = state.running.get_mut(&partition) else { return };
        let epoch = running.epoch;
        let wait = if running.since.elapsed() >= RAN_WELL { RESTART_WAIT } else { running.wait };
        running.wait = (wait * 2).min(RESTART_WAIT_MAX);
        tracing::warn!(%partition, %epoch, %why, "a worker failed; it is started again in {wait:?}");
        for other in std::mem::take(&mut running.workers).into_keys() {
            state.by_actor.remove(&other);
        }
        let seat = running.seat.take();
        self.recount(state, partition);
        self.table.close(partition, epoch);
        state.failing.insert(partition, why);
        let myself = myself.clone();
        tokio::spawn(async move {
            if let Some(seat) = seat {
                end_workers(&seat).await;
            }
            tokio::time::sleep(wait).await;
            drop(myself.cast(PartitionManagerMsg::Restart { partition, epoch }));
        });
        self.show(state);
    }

    fn handle_started(&self, state: &mut PartitionManagerState, actor: ActorId) {
        let Some(partition) = state.by_actor.get(&actor).copied() else { return };
        if let Some(running) = state.running.get_mut(&partition) {
            running.workers.insert(actor, true);
            if running.is_whole() {
                state.failing.remove(&partition);
            }
        }
        self.recount(state, partition);
        self.show(state);
    }

    fn show(&self, state: &PartitionManagerState) {
        let progress = Progress {
            version: state.law.version(),
            wanted: state.law.serving_len(),
            running: state.whole,
            failing: state.failing.clone(),
        };
        self.progress.send_if_modified(|shown| {
            let changed = *shown != progress;
            *shown = progress;
            changed
        });
    }
}

/// Has a seat's workers say their last words, all at once. One that hangs is cut off soon after.
async fn hand_over(seat: &Seat) {
    let said = seat.workers().iter().map(|worker| {
        let (done, said) = oneshot::channel();
        // One that just stopped has nothing to say.
        drop(worker.actor().cast(PartitionWorkerMsg::HandOver(done)));
        said
    });
    let all = futures_util::future::join_all(said);
    if tokio::time::timeout(LAST_WORD_WITHIN, all).await.is_err() {
        for worker in seat.workers() {
            worker.actor().kill();
        }
    }
}

/// Waits until a worker has started, and tells its manager if it has not.
async fn tell_not_started<T>(
    manager: ActorRef<PartitionManagerMsg>,
    actor: ActorId,
    started: JoinHandle<Result<T, SpawnErr>>,
) {
    let why = match started.await {
        Ok(Ok(_)) => return,
        Ok(Err(why)) => why.to_string(),
        Err(why) => why.to_string(),
    };
    // Whoever supervised it may be gone by now.
    drop(manager.cast(PartitionManagerMsg::NotStarted { actor, why }));
}

/// Ends a seat's workers: each may finish its present message, and is cut off if it takes too long. Says whether all of
/// them surely ended.
async fn end_workers(seat: &Seat) -> bool {
    let mut all_ended = true;
    for worker in seat.workers() {
        if worker.actor().stop_and_wait(None, Some(STOP_WITHIN)).await.is_err() {
            // It stopped already, or it hangs in a message.
            all_ended &= worker.actor().kill_and_wait(Some(STOP_WITHIN)).await.is_ok();
        }
    }
    all_ended
}

impl Actor for PartitionManager {
    type Msg = PartitionManagerMsg;
    type State = PartitionManagerState;
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<Self::Msg>, (): ()) -> Result<Self::State, ActorProcessingErr> {
        // What a former life of this actor left open has lost its supervisor.
        self.table.close_all();
        let mut law = Reconcile::new(self.me.clone());
        for Release { partition, epoch } in self.reports.standing() {
            law.handle_release_asked(partition, epoch);
        }
        Ok(PartitionManagerState {
            law,
            plan: None,
            planned: Instant::now(),
            running: BTreeMap::new(),
            by_actor: BTreeMap::new(),
            failing: BTreeMap::new(),
            whole: 0,
            leaving: None,
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<Self::Msg>,
        message: Self::Msg,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            PartitionManagerMsg::Plan(plan) => {
                let came = Instant::now();
                if state.plan.as_ref().is_none_or(|known| known.version < plan.version) {
                    self.replication.handle_plan(&plan);
                }
                let effects = state.law.handle_snapshot(&plan);
                if state.plan.as_ref().is_none_or(|known| known.version < plan.version) {
                    (state.plan, state.planned) = (Some(Arc::clone(&plan)), came);
                }
                self.run(&myself, state, effects, Why::Taken);
                self.reports.acted_on(&plan);
            }
            PartitionManagerMsg::Left(done) => {
                self.replication.handle_left();
                let effects = state.law.handle_left();
                (state.plan, state.leaving) = (None, Some(done));
                self.run(&myself, state, effects, Why::Taken);
                state.note_idle();
            }
            PartitionManagerMsg::AskRelease(releases) => {
                let effects = releases.into_iter().flat_map(|Release { partition, epoch }| {
                    state.law.handle_release_asked(partition, epoch)
                });
                let effects = effects.collect();
                self.run(&myself, state, effects, Why::Asked);
            }
            PartitionManagerMsg::Stopped { partition, epoch } => {
                let effects = state.law.handle_stopped(partition, epoch);
                self.run(&myself, state, effects, Why::Taken);
                state.note_idle();
            }
            PartitionManagerMsg::NotStarted { actor, why } => {
                self.handle_failure(&myself, state, actor, why);
            }
            PartitionManagerMsg::Restart { partition, epoch } => {
                let wanted = state.law.serves(partition, epoch);
                let waiting =
                    state.running.get(&partition).is_some_and(|r| r.epoch == epoch && r.seat.is_none());
                if wanted && waiting {
                    self.start(&myself, state, partition, epoch);
                    self.show(state);
                }
            }
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<Self::Msg>,
        event: SupervisionEvent,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        match event {
            SupervisionEvent::ActorStarted(actor) => self.handle_started(state, actor.get_id()),
            SupervisionEvent::ActorFailed(actor, why) => {
                self.handle_failure(&myself, state, actor.get_id(), why.to_string());
            }
            SupervisionEvent::ActorTerminated(actor, _, why) => {
                let why = why.unwrap_or_else(|| "it stopped by itself".to_owned());
                self.handle_failure(&myself, state, actor.get_id(), why);
            }
            SupervisionEvent::ProcessGroupChanged(_) | SupervisionEvent::PidLifecycleEvent(_) => {}
        }
        Ok(())
    }

    async fn post_stop(
        &self,
        _: ActorRef<Self::Msg>,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        let seats: Vec<Arc<Seat>> =
            state.running.values().filter_map(|running| running.seat.clone()).collect();
        self.table.close_all();
        for seat in seats {
            end_workers(&seat).await;
        }
        Ok(())
    }
}
