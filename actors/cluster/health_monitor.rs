//! Looks how the cluster is, again and again, and keeps the last assessment for who asks.
//!
//! ```text
//!  interval ─┐                      ┌─▶ Health: the last assessment, read without waiting
//!  a plan ───┼─▶ look ─▶ Monitor ───┤
//!  a loss ───┘          (core)      └─▶ each change, once: log, listeners
//! ```
//!
//! What was judged belongs to the node, not to this actor: one that crashed goes on where it was, and says nothing twice.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;
use tumen_core::Moment;
use tumen_core::cluster::health::{Assessment, Change, Config, Monitor, Seen, Told};
use tumen_core::cluster::snapshot::Snapshot;
use tumen_core::ids::{Epoch, NodeBoot, PartitionId};

use crate::clock::Clock;

/// How long to wait after news, so that what comes with it is seen together.
const TOGETHER: Duration = Duration::from_millis(50);

/// What a node knows, when it looks.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// The newest plan, if it knows any.
    pub plan: Option<Arc<Snapshot>>,
    /// Whether it knows who leads.
    pub led: bool,
    /// Whether it holds a lease.
    pub leased: bool,
    /// The boots that it has a session with.
    pub reached: BTreeSet<NodeBoot>,
    /// The partitions that are lost.
    pub lost: Arc<BTreeMap<PartitionId, Epoch>>,
    /// What primaries say of their partitions.
    pub told: BTreeMap<PartitionId, Told>,
    /// How many entries may wait for other copies.
    pub lag_limit: u64,
}

/// What a node knows at present. `None`: it stops, and is not to look any more.
pub type Look = Arc<dyn Fn() -> Option<Known> + Send + Sync>;

/// Hears of each change.
pub type Tell = Arc<dyn Fn(Change) + Send + Sync>;

/// When it was looked, and what was seen.
pub type Looked = (Moment, Arc<Assessment>);

/// The last assessment, shared between those who read it. Cheap to clone.
#[derive(Clone)]
pub struct Health {
    shared: Arc<Shared>,
}

struct Shared {
    me: NodeBoot,
    clock: Clock,
    config: Config,
    monitor: Mutex<Monitor>,
    last: watch::Sender<Option<Looked>>,
    news: Notify,
}

impl Health {
    /// Of a node that has not looked yet.
    pub fn new(me: NodeBoot, config: Config, clock: Clock) -> Self {
        let (monitor, last) = (Mutex::new(Monitor::new(config)), watch::Sender::default());
        Self { shared: Arc::new(Shared { me, clock, config, monitor, last, news: Notify::new() }) }
    }

    /// How everything was when this node looked last, and how long ago that was. `None`: it has not looked yet.
    pub fn last(&self) -> Option<(Arc<Assessment>, Duration)> {
        let (at, assessment) = self.shared.last.borrow().clone()?;
        Some((assessment, self.shared.clock.now().since(at)))
    }

    /// Each look, as it is done; only the last of them waits.
    pub fn looks(&self) -> watch::Receiver<Option<Looked>> {
        self.shared.last.subscribe()
    }

    /// How often it looks where nothing happens.
    pub fn interval(&self) -> Duration {
        self.shared.config.interval
    }

    /// Something happened: it is looked soon.
    pub fn look_soon(&self) {
        self.shared.news.notify_one();
    }

    /// Looks once. Answers what changed, and when to look again.
    fn look(&self, known: &Known) -> (Vec<Change>, Duration) {
        let now = self.shared.clock.now();
        let mut monitor = self.shared.monitor.lock().unwrap_or_else(PoisonError::into_inner);
        let (assessment, changes) = monitor.look(&Seen {
            now,
            me: &self.shared.me,
            plan: known.plan.as_deref(),
            led: known.led,
            leased: known.leased,
            reached: &known.reached,
            lost: &known.lost,
            told: &known.told,
            lag_limit: known.lag_limit,
        });
        self.shared.last.send_replace(Some((now, assessment)));
        (changes, monitor.next_look())
    }
}

impl fmt::Debug for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Health").field("config", &self.shared.config).finish_non_exhaustive()
    }
}

/// What the actor is told.
#[derive(Clone, Copy, Debug)]
pub enum HealthMonitorMsg {
    /// It is time to look.
    Look,
}

impl ractor::Message for HealthMonitorMsg {}

/// The actor.
pub struct HealthMonitor {
    health: Health,
    look: Look,
    tell: Tell,
}

impl HealthMonitor {
    /// Looks through `look`, keeps what it sees in `health`, and tells what changed.
    pub fn new(health: Health, look: Look, tell: Tell) -> Self {
        Self { health, look, tell }
    }

    /// One line in the log for each change: at error level where something is critical.
    fn say(change: &Change) {
        use tumen_core::cluster::health::Status;
        match (change, change.status()) {
            (_, Status::Critical) => tracing::error!(status = "critical", "{change}"),
            // What a node says of itself first is no news of trouble: it has only just begun.
            (Change::Cluster { from: None, .. }, status) => tracing::info!(%status, "{change}"),
            (_, Status::Degraded) => tracing::warn!(status = "degraded", "{change}"),
            (_, Status::Healthy) => tracing::info!(status = "healthy", "{change}"),
        }
    }
}

/// What the actor holds.
#[derive(Debug)]
pub struct HealthMonitorState {
    waking: Option<AbortHandle>,
    listening: AbortHandle,
}

impl Actor for HealthMonitor {
    type Msg = HealthMonitorMsg;
    type State = HealthMonitorState;
    type Arguments = ();

    async fn pre_start(
        &self,
        myself: ActorRef<HealthMonitorMsg>,
        (): (),
    ) -> Result<HealthMonitorState, ActorProcessingErr> {
        // The first look is at once.
        myself.cast(HealthMonitorMsg::Look)?;
        let health = self.health.clone();
        let listening = tokio::spawn(async move {
            loop {
                health.shared.news.notified().await;
                tokio::time::sleep(TOGETHER).await;
                if myself.cast(HealthMonitorMsg::Look).is_err() {
                    return;
                }
            }
        });
        Ok(HealthMonitorState { waking: None, listening: listening.abort_handle() })
    }

    async fn handle(
        &self,
        myself: ActorRef<HealthMonitorMsg>,
        HealthMonitorMsg::Look: HealthMonitorMsg,
        state: &mut HealthMonitorState,
    ) -> Result<(), ActorProcessingErr> {
        state.waking.take().inspect(AbortHandle::abort);
        let Some(known) = (self.look)() else { return Ok(()) };
        let (changes, again) = self.health.look(&known);
        for change in changes {
            Self::say(&change);
            (self.tell)(change);
        }
        let waking = tokio::spawn(async move {
            tokio::time::sleep(again).await;
            // If the actor has ended, the next one looks by itself.
            drop(myself.cast(HealthMonitorMsg::Look));
        });
        state.waking = Some(waking.abort_handle());
        Ok(())
    }

    async fn post_stop(
        &self,
        _myself: ActorRef<HealthMonitorMsg>,
        state: &mut HealthMonitorState,
    ) -> Result<(), ActorProcessingErr> {
        state.waking.take().inspect(AbortHandle::abort);
        state.listening.abort();
        Ok(())
    }
}
