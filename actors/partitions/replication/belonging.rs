//! Which cluster this node's copies belong to, what its groups promise, and which copies nobody needs any more.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use tumen_core::cluster::snapshot::{Mode, Snapshot};
use tumen_core::ids::{Generation, GroupId, PartitionId};
use tumen_core::partitions::fence::Fence;
use tumen_core::partitions::replication::Acks;

use super::Replication;
use super::cell::{self, Out};

/// No plan said yet of which generation this node is: it takes what comes.
pub(super) const ANY: u64 = u64::MAX;
/// It left its cluster, and is of none until the next plan.
const NONE: u64 = u64::MAX - 1;

impl Replication {
    /// When a copy acknowledges. Where the mode is not known yet, it promises the most.
    pub(super) fn acks_of(&self, group: GroupId) -> Acks {
        if self.shared.disk.is_none() {
            return Acks::WithoutDisk;
        }
        let modes = self.shared.modes.read().unwrap_or_else(PoisonError::into_inner);
        let of_log = |mode: &Mode| cell::acks_of(self.shared.makers.of(group).mode_of_log(*mode));
        modes.get(&group).map_or(Acks::AfterDisk, of_log)
    }

    /// Whether the copies that were read back are of the cluster that this node is in.
    pub(super) fn is_confirmed(&self) -> bool {
        self.shared.confirmed.load(Ordering::Acquire)
    }

    /// A plan says of which generation this node is.
    pub(super) fn handle_generation(&self, generation: Generation) {
        self.shared.generation.store(generation.0, Ordering::SeqCst);
    }

    /// This node left its cluster.
    pub(super) fn handle_generation_left(&self) {
        self.shared.generation.store(NONE, Ordering::SeqCst);
    }

    /// Whether whoever shows this fence is of this node's side of its cluster, as each side has a generation of its own.
    pub(super) fn is_of_this_side(&self, fence: &Fence) -> bool {
        let known = self.shared.generation.load(Ordering::SeqCst);
        known == ANY || known == fence.generation.0
    }

    /// A plan says which cluster this node is in. Copies of another cluster go.
    pub(super) fn handle_cluster(&self, plan: &Snapshot) {
        let Some(disk) = &self.shared.disk else { return };
        let mut known = self.shared.cluster.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(other) = known.filter(|known| *known != plan.cluster) {
            tracing::warn!(%other, ours = %plan.cluster, "this node's copies are of another cluster: they are forgotten");
            self.forget_all();
        }
        if known.replace(plan.cluster) != Some(plan.cluster) {
            disk.remember(plan.cluster);
        }
    }

    /// A plan says what its groups promise. From then on copies that were read back say what they have.
    pub(super) fn handle_modes(&self, plan: &Snapshot) {
        let modes = plan.groups.iter().map(|group| (group.id, group.spec.mode)).collect();
        *self.shared.modes.write().unwrap_or_else(PoisonError::into_inner) = modes;
        for cell in self.cells() {
            let Some(group) = plan.group(cell.partition.group) else { continue };
            let mut out = Out::default();
            cell.set_mode(group.spec.mode, &mut out);
            self.perform(&cell, out);
        }
        self.shared.confirmed.store(true, Ordering::Release);
    }

    /// A copy is no more, in memory and on disk.
    pub(super) fn forget(&self, partition: PartitionId) {
        let mut cells = self.shared.cells.write().unwrap_or_else(PoisonError::into_inner);
        let Some(cell) = cells.remove(&partition) else { return };
        let (mode, phases) = cell.take_count();
        self.keep_count(mode, &phases);
        cell.end_writes();
        if let Some(disk) = &self.shared.disk {
            // Before anybody can make another one.
            disk.forget(partition);
        }
    }

    pub(super) fn forget_all(&self) {
        for cell in self.cells() {
            let fence = cell.standing().borrow().fence;
            if let Some(fence) = fence {
                cell.give_up(&fence, &mut Out::default());
            }
            self.forget(cell.partition);
        }
    }

    /// Copies that nobody needs go, as soon as this node surely knows the newest plan: a node that was just started may
    /// be shown older ones first, by which copies that count by now did not yet.
    pub(super) fn forget_unneeded(&self) {
        if self.shared.disk.is_some() && !self.shared.gate.is_open() {
            return;
        }
        let mut unneeded = self.shared.unneeded.lock().unwrap_or_else(PoisonError::into_inner);
        for partition in unneeded.drain(..) {
            self.forget(partition);
        }
    }
}
