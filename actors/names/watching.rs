//! How actors of the users' own end: seen by the registry's actor, which monitors each that is hosted.
//!
//! ```text
//!  host ─▶ Watched ◀─ ended so ─ the registry's actor ─▶ its names are given back, with the reason
//!             └─ ended, and nobody saw how ──────────────┘
//! ```

use std::fmt;
use std::sync::Arc;

use dashmap::DashMap;
use ractor::{ActorCell, ActorId, SupervisionEvent};
use tumen_core::names::Reason;

use super::Names;
use super::registry::RegistryMsg;

/// The actors that are watched, with the numbers under which each is hosted. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Watched {
    actors: Arc<DashMap<ActorId, (ActorCell, Vec<u64>)>>,
}

impl Watched {
    fn add(&self, cell: &ActorCell, actor: u64) {
        self.actors.entry(cell.get_id()).or_insert_with(|| (cell.clone(), Vec::new())).1.push(actor);
    }

    /// It ended: the numbers under which it was hosted.
    pub(super) fn take(&self, id: ActorId) -> Vec<u64> {
        self.actors.remove(&id).map(|(_, (_, actors))| actors).unwrap_or_default()
    }

    /// All that are watched.
    pub(super) fn cells(&self) -> Vec<ActorCell> {
        self.actors.iter().map(|entry| entry.value().0.clone()).collect()
    }
}

impl fmt::Debug for Watched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watched").field("actors", &self.actors.len()).finish()
    }
}

impl Names {
    /// Sees how an actor ends that is hosted under this number, until `over`: then its names are given back.
    pub fn watch(&self, cell: &ActorCell, actor: u64, over: impl Future<Output = ()> + Send + 'static) {
        self.shared.watched.add(cell, actor);
        if let Some(registry) = self.shared.ports.registry.current() {
            registry.get_cell().monitor(cell.clone());
        }
        let (names, cell) = (self.clone(), cell.clone());
        self.shared.runtime.spawn(async move {
            tokio::select! {
                _ = cell.wait(None) => {}
                () = over => {
                    names.shared.watched.take(cell.get_id());
                    return;
                }
            }
            // What the registry's actor saw of it came before this.
            names.shared.ports.registry.cast(RegistryMsg::Unseen(cell.get_id()));
        });
    }
}

/// How an actor ended, if that is what this says.
pub(super) fn end_of(event: SupervisionEvent) -> Option<(ActorId, Reason)> {
    match event {
        SupervisionEvent::ActorFailed(actor, why) => Some((actor.get_id(), Reason::Crashed(why.to_string()))),
        SupervisionEvent::ActorTerminated(actor, _, reason) => {
            let reason = match reason.as_deref() {
                Some(why @ ("killed" | "actor_task_cancelled")) => Reason::Crashed(format!("it was {why}")),
                Some(_) | None => Reason::Normal,
            };
            Some((actor.get_id(), reason))
        }
        SupervisionEvent::ActorStarted(_)
        | SupervisionEvent::ProcessGroupChanged(_)
        | SupervisionEvent::PidLifecycleEvent(_) => None,
    }
}
