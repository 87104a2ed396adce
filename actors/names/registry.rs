//! The actors of this node that hold names or run as children: by number, each number given once.
//!
//! ```text
//!  claim ─▶ wants(name) ─▶ directory: Claimed ─▶ held        the actor ends ─▶ its names are given back
//!  message for a number ─▶ Local ─▶ its mailbox
//! ```

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use dashmap::DashMap;
use ractor::{Actor, ActorId, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::sync::{Notify, broadcast, watch};
use tumen_core::UnixMillis;
use tumen_core::cluster::snapshot::Snapshot;
use tumen_core::names::{Name, Reason};
use tumen_core::partitions::request::Failure;

use super::Names;
use super::child::{ChildMsg, MAILBOX_LEN_MAX};
use super::conflicts::Lost;
use super::tail::Tails;
use super::watching;
use crate::partitions::delivery::Delivery;

/// How long a name of an actor that is gone is given back for, before that is left to its directory, which asks now and then.
const RELEASE_WITHIN: Duration = Duration::from_secs(5);

/// How many actors that ended are remembered, for those who ask how.
const ENDS_MAX: usize = 1024;

/// Names of one actor, which may be many, and since when it wants each.
type Wants = HashMap<Name, UnixMillis, foldhash::fast::RandomState>;

/// How many names that an actor lost wait for whoever is to be told.
const LOSSES_MAX: usize = 1024;

/// Hands a message to an actor, or answers it.
type Deliver = Arc<dyn Fn(Delivery) + Send + Sync>;

/// One actor of this node.
#[derive(Clone)]
pub(super) struct Local {
    deliver: Deliver,
    /// The names that it holds, or is about to.
    wants: Arc<Mutex<Wants>>,
    /// Closed, or told why, once it has ended.
    ended: Arc<watch::Sender<Option<Reason>>>,
    /// Since when it is there.
    since: UnixMillis,
    /// The names that it loses to others, once somebody listens.
    losses: Arc<OnceLock<broadcast::Sender<Lost>>>,
}

impl Local {
    pub(super) fn new(deliver: Deliver, since: UnixMillis) -> Self {
        Self { deliver, wants: Arc::default(), ended: Arc::default(), since, losses: Arc::default() }
    }

    /// A child. `waiting` counts what its mailbox holds.
    pub(super) fn child(child: ActorRef<ChildMsg>, waiting: Arc<AtomicUsize>, since: UnixMillis) -> Self {
        let deliver: Deliver = Arc::new(move |delivery: Delivery| {
            if waiting.fetch_add(1, Ordering::Relaxed) >= MAILBOX_LEN_MAX {
                waiting.fetch_sub(1, Ordering::Relaxed);
                return delivery.answer(Err(Failure::Overloaded));
            }
            // One that just stopped drops it, and it answers for itself.
            drop(child.cast(ChildMsg::Deliver(delivery)));
        });
        Self::new(deliver, since)
    }

    fn wants(&self) -> MutexGuard<'_, Wants> {
        self.wants.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All actors of this node that others reach by name or number. Cheap to clone.
#[derive(Clone)]
pub(super) struct Registry {
    shared: Arc<Shared>,
}

struct Shared {
    actors: DashMap<u64, Local>,
    last: AtomicU64,
    /// How those ended that ended last.
    ends: Mutex<VecDeque<(u64, Reason)>>,
    /// Whether this boot may hold names, by the newest plan that it acted on.
    open: AtomicBool,
    /// Claims on their way.
    claiming: AtomicUsize,
    claimed: Notify,
}

/// A claim on its way.
pub(super) struct Claiming(Registry);

impl Drop for Claiming {
    fn drop(&mut self) {
        if self.0.shared.claiming.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.0.shared.claimed.notify_waiters();
        }
    }
}

impl Default for Registry {
    fn default() -> Self {
        Self {
            shared: Arc::new(Shared {
                actors: DashMap::new(),
                last: AtomicU64::new(0),
                ends: Mutex::default(),
                open: AtomicBool::new(false),
                claiming: AtomicUsize::new(0),
                claimed: Notify::new(),
            }),
        }
    }
}

impl Registry {
    pub(super) fn next_number(&self) -> u64 {
        self.shared.last.fetch_add(1, Ordering::Relaxed) + 1
    }

    pub(super) fn add(&self, actor: u64, local: Local) {
        self.shared.actors.insert(actor, local);
    }

    /// The actor takes no more messages. The names that it wanted.
    pub(super) fn forget(&self, actor: u64, why: Reason) -> Vec<Name> {
        let Some((_, local)) = self.shared.actors.remove(&actor) else { return Vec::new() };
        let mut ends = self.ends();
        if ends.len() >= ENDS_MAX {
            ends.pop_front();
        }
        ends.push_back((actor, why.clone()));
        drop(ends);
        local.ended.send_replace(Some(why));
        let wants = std::mem::take(&mut *local.wants());
        sorted(wants.into_keys())
    }

    fn ends(&self) -> MutexGuard<'_, VecDeque<(u64, Reason)>> {
        self.shared.ends.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until an actor has ended: why. `None`: there is none, and nobody remembers.
    pub(super) async fn ended(&self, actor: u64) -> Option<Reason> {
        let there = self.shared.actors.get(&actor).map(|local| local.ended.subscribe());
        if let Some(mut ended) = there {
            return ended.wait_for(Option::is_some).await.map_or(None, |reason| reason.clone());
        }
        self.ends().iter().find(|(ended, _)| *ended == actor).map(|(_, reason)| reason.clone())
    }

    /// Whether that actor is there and wants that name.
    pub(super) fn holds(&self, name: &Name, actor: u64) -> bool {
        self.shared.actors.get(&actor).is_some_and(|local| local.wants().contains_key(name))
    }

    /// How many names all actors hold, or are about to.
    pub(super) fn count(&self) -> usize {
        self.shared.actors.iter().map(|local| local.wants().len()).sum()
    }

    /// The names that an actor holds, or is about to, sorted.
    pub(super) fn names_of(&self, actor: u64) -> Vec<Name> {
        self.shared.actors.get(&actor).map(|local| sorted(local.wants().keys().cloned())).unwrap_or_default()
    }

    /// The actor wants a name: whether it did not before. `None`: there is no such actor.
    pub(super) fn want(&self, name: &Name, actor: u64, now: UnixMillis) -> Option<bool> {
        let local = self.shared.actors.get(&actor)?;
        let mut wants = local.wants();
        let newly = !wants.contains_key(name);
        wants.entry(name.clone()).or_insert(now);
        Some(newly)
    }

    /// Since when that actor wants that name, or, of a child, is there.
    pub(super) fn since(&self, name: &Name, actor: u64) -> UnixMillis {
        let local = self.shared.actors.get(&actor);
        local.map_or(UnixMillis(u64::MAX), |local| local.wants().get(name).copied().unwrap_or(local.since))
    }

    /// The actor wants a name no more, for another has it: whoever listens is told.
    pub(super) fn lose(&self, lost: &Lost, actor: u64) {
        let Some(local) = self.shared.actors.get(&actor) else { return };
        if local.wants().remove(&lost.name).is_some()
            && let Some(losses) = local.losses.get()
        {
            // Nobody may be listening any more.
            let _ = losses.send(lost.clone());
        }
    }

    /// The names that an actor loses to others from now on.
    pub(super) fn losses_of(&self, actor: u64) -> Option<broadcast::Receiver<Lost>> {
        let local = self.shared.actors.get(&actor)?;
        Some(local.losses.get_or_init(|| broadcast::Sender::new(LOSSES_MAX)).subscribe())
    }

    pub(super) fn want_no_more(&self, name: &Name, actor: u64) {
        if let Some(local) = self.shared.actors.get(&actor) {
            local.wants().remove(name);
        }
    }

    /// Hands a message to an actor; one that is not there changed nothing.
    pub(super) fn deliver(&self, actor: u64, delivery: Delivery) {
        match self.shared.actors.get(&actor).map(|local| Arc::clone(&local.deliver)) {
            Some(deliver) => deliver(delivery),
            None => delivery.answer(Err(Failure::Fenced { changed: false })),
        }
    }

    pub(super) fn set_open(&self, open: bool) {
        self.shared.open.store(open, Ordering::SeqCst);
    }

    /// A claim begins. `None`: this boot may hold no names at present.
    pub(super) fn begin_claim(&self) -> Option<Claiming> {
        self.shared.claiming.fetch_add(1, Ordering::SeqCst);
        let claiming = Claiming(self.clone());
        self.shared.open.load(Ordering::SeqCst).then_some(claiming)
    }

    /// Waits until no claim is on its way that began while this boot might hold names.
    pub(super) async fn claims_ended(&self) {
        loop {
            let ended = self.shared.claimed.notified();
            tokio::pin!(ended);
            ended.as_mut().enable();
            if self.shared.claiming.load(Ordering::SeqCst) == 0 {
                return;
            }
            ended.await;
        }
    }
}

fn sorted(names: impl Iterator<Item = Name>) -> Vec<Name> {
    let mut names: Vec<Name> = names.collect();
    names.sort();
    names
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry").field("actors", &self.shared.actors.len()).finish_non_exhaustive()
    }
}

/// What the registry's mailbox takes.
#[derive(Debug)]
pub enum RegistryMsg {
    /// A plan was committed.
    Plan(Arc<Snapshot>),
    /// This node left its cluster.
    Left,
    /// An actor of this node ended.
    Gone {
        /// Its number.
        actor: u64,
        /// Why.
        reason: Reason,
    },
    /// An actor of the user's own ended. How, this was told before, if anybody saw it.
    Unseen(ActorId),
    /// An actor may hold a name that it does not want.
    GiveBack {
        /// Its number.
        actor: u64,
        /// Which name.
        name: Name,
    },
}

impl ractor::Message for RegistryMsg {}

/// What the registry's actor holds.
#[derive(Debug, Default)]
pub struct RegistryState {
    tails: Tails,
}

/// The actor that follows directories of which this node has no copy, and gives back the names of actors that ended.
pub struct RegistryActor {
    names: Names,
}

impl RegistryActor {
    /// The actor of this node's registry.
    pub const fn new(names: Names) -> Self {
        Self { names }
    }

    fn handle_ended(&self, id: ActorId, reason: &Reason) {
        for actor in self.names.shared.watched.take(id) {
            self.handle_gone(actor, reason);
        }
    }

    fn handle_gone(&self, actor: u64, reason: &Reason) {
        for name in self.names.shared.registry.forget(actor, reason.clone()) {
            self.give_back(name, actor, reason.clone());
        }
    }

    fn give_back(&self, name: Name, actor: u64, reason: Reason) {
        let names = self.names.clone();
        tokio::spawn(async move {
            if let Err(why) = names.give_back(&name, actor, reason, RELEASE_WITHIN).await {
                tracing::debug!(%name, %why, "a name is not given back yet: its directory will ask");
            }
        });
    }
}

impl Actor for RegistryActor {
    type Msg = RegistryMsg;
    type State = RegistryState;
    type Arguments = ();

    async fn pre_start(
        &self,
        myself: ActorRef<Self::Msg>,
        (): (),
    ) -> Result<RegistryState, ActorProcessingErr> {
        for cell in self.names.shared.watched.cells() {
            myself.get_cell().monitor(cell);
        }
        Ok(RegistryState::default())
    }

    async fn handle(
        &self,
        _: ActorRef<Self::Msg>,
        message: Self::Msg,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            RegistryMsg::Plan(plan) => state.tails.handle_plan(&self.names, &plan),
            RegistryMsg::Left => state.tails.clear(),
            RegistryMsg::Gone { actor, reason } => self.handle_gone(actor, &reason),
            RegistryMsg::Unseen(id) => {
                let reason = Reason::Crashed("it is gone, and nobody saw how it ended".into());
                self.handle_ended(id, &reason);
            }
            RegistryMsg::GiveBack { actor, name } => self.give_back(name, actor, Reason::Normal),
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        _: ActorRef<Self::Msg>,
        event: SupervisionEvent,
        _: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        if let Some((id, reason)) = watching::end_of(event) {
            self.handle_ended(id, &reason);
        }
        Ok(())
    }
}
