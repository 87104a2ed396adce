//! What runs on while its node goes from one side of its cluster to another, or its directory begins anew.
//!
//! ```text
//!  Running ─ left, or the directory is lost ─▶ kept, by name ─┬─ brought along, or ordered, or asked about ─▶ Running, under another number
//!                                                             ├─ another has the name ──────────────────────▶ ends
//!                                                             └─ ends by itself
//! ```

use super::{Crew, Effect, Instance, InstanceId, State};
use crate::ids::{GroupId, PartitionId};
use crate::names::claim::ClaimNumber;
use crate::names::name::Name;
use crate::supervision::Restart;

/// No directory: what runs on while its node goes from one side of its cluster to another is known under this.
pub(super) const KEPT: PartitionId = PartitionId { group: GroupId::Names, index: u32::MAX };

/// An instance that runs on without a directory.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    pub(super) id: InstanceId,
    pub(super) restart: Restart,
    pub(super) actor: u64,
}

impl Crew {
    /// The node leaves one side of its cluster for another. What runs here runs on, and is brought along: see [`Self::kept`].
    pub fn handle_left_side(&mut self) -> Vec<Effect> {
        let mut effects = Vec::new();
        if self.since.is_some() {
            let runs = |instance: &Instance| matches!(instance.state, State::Running { .. });
            let running: Vec<InstanceId> =
                self.instances.iter().filter(|(_, it)| runs(it)).map(|(id, _)| *id).collect();
            effects.extend(running.into_iter().filter_map(|id| self.keep(id)));
        }
        effects.extend(self.handle_left());
        effects
    }

    /// A directory begins anew with less than it had. What runs here for it runs on, and is brought along.
    pub fn handle_directory_lost(&mut self, directory: PartitionId) -> Vec<Effect> {
        let of_it = |id: &&InstanceId| id.directory == directory;
        let ids: Vec<InstanceId> = self.instances.keys().filter(of_it).copied().collect();
        ids.into_iter().filter_map(|id| self.keep(id)).collect()
    }

    fn keep(&mut self, from: InstanceId) -> Option<Effect> {
        let State::Running { actor } = self.instances.get(&from)?.state else { return None };
        let Instance { name, restart, .. } = self.instances.remove(&from)?;
        self.kept_last += 1;
        let to = InstanceId { directory: KEPT, number: ClaimNumber(self.kept_last) };
        self.kept.insert(name, Kept { id: to, restart, actor });
        Some(Effect::Rename { from, to })
    }

    /// The actor of what runs on under a name without a directory, if anything does.
    pub fn kept(&self, name: &Name) -> Option<u64> {
        self.kept.get(name).map(|kept| kept.actor)
    }

    /// Whether that runs on without a directory.
    pub fn is_kept(&self, id: InstanceId) -> bool {
        id.directory == KEPT
    }

    /// A directory has what runs on here under a name: under this number from now on.
    pub fn handle_adopted(
        &mut self,
        name: &Name,
        directory: PartitionId,
        number: ClaimNumber,
    ) -> Option<Effect> {
        self.since?;
        let Kept { id: from, restart, actor } = self.kept.remove(name)?;
        let to = InstanceId { directory, number };
        let state = State::Running { actor };
        self.instances.insert(to, Instance { name: name.clone(), restart, state });
        Some(Effect::Rename { from, to })
    }

    /// Something else has the name of what runs on here: it ends.
    pub fn handle_forsaken(&mut self, name: &Name) -> Option<Effect> {
        let Kept { id: instance, actor, .. } = self.kept.remove(name)?;
        Some(Effect::Kill { instance, actor, moves: false })
    }

    /// What runs here for a directory, each under its name and number.
    pub fn running_for(&self) -> impl Iterator<Item = (&Name, InstanceId, u64)> {
        self.instances.iter().filter_map(|(id, instance)| match instance.state {
            State::Running { actor } => Some((&instance.name, *id, actor)),
            State::Starting { .. } | State::Stopping | State::Over(_) => None,
        })
    }

    /// What was started under this number is over, whatever its node was told: a later one stands in the directory.
    pub fn handle_outdated(&mut self, id: InstanceId) -> Vec<Effect> {
        let mut effects = Vec::new();
        if let Some(instance) = self.instances.get_mut(&id) {
            instance.stop(id, false, &mut effects);
        }
        effects
    }
}
