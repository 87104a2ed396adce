//! Partitions of which too few copies are left, and copies that have what was given up with one.
//!
//! ```text
//!  sealing, and those who are there are too few ─▶ lost: told, until a member returns
//!                     │ accepted by an operator: the epoch is given back, and what is left is said
//!                     ▼
//!  next epoch, the survivors count ─▶ a copy with more than they have is asked to lead ─▶ it begins anew, as a new life
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;

use tumen_core::cluster::health::Told;
use tumen_core::cluster::member::Member;
use tumen_core::cluster::snapshot::Snapshot;
use tumen_core::ids::{Epoch, NodeName, PartitionId};
use tumen_core::partitions::fence::Fence;
use tumen_core::partitions::replication::{NotLost, Phase, Report, Standing, State};

use super::Replication;
use super::cell::{Cell, Out};

impl Replication {
    /// The partitions that are lost, as far as this node should serve them by this plan; each with its epoch. In order.
    pub fn lost(&self, plan: &Snapshot) -> Vec<(PartitionId, Epoch)> {
        let sealing = |cell: &Arc<Cell>| cell.standing().borrow().phase == Some(Phase::Sealing);
        let lost = |cell: Arc<Cell>| {
            let report = cell.report(alive_by(plan))?;
            (report.state == State::Lost).then_some((cell.partition, report.record.epoch))
        };
        self.cells().into_iter().filter(sealing).filter_map(lost).collect()
    }

    /// What this node's primaries say of their partitions, by this plan.
    pub fn told(&self, plan: &Snapshot) -> BTreeMap<PartitionId, Told> {
        let told = |cell: Arc<Cell>| Some((cell.partition, Told::of(&cell.report(alive_by(plan))?)));
        self.cells().into_iter().filter_map(told).collect()
    }

    /// How a partition is, if this node is its primary.
    pub fn report(&self, plan: &Snapshot, partition: PartitionId) -> Option<Report> {
        self.cell(partition)?.report(alive_by(plan))
    }

    /// An operator accepts that a partition is lost: its epoch is given back, and what is left of it is said.
    ///
    /// # Errors
    /// It is not lost, or is not led by this node under this epoch. Nothing changed.
    pub fn surrender(
        &self,
        plan: &Snapshot,
        partition: PartitionId,
        epoch: Epoch,
    ) -> Result<Standing, NotLost> {
        let cell = self.cell(partition).ok_or(NotLost::Opens)?;
        let mut out = Out::default();
        let surrendered = cell.surrender(epoch, alive_by(plan), &mut out);
        self.perform(&cell, out);
        let standing = surrendered?;
        tracing::warn!(%partition, %epoch, ?standing, "a lost partition is given up: what is left of it is to go on");
        self.give_back(partition, epoch);
        Ok(standing)
    }

    /// A copy has what was given up: its bytes go, and its epoch is given back. Whoever asks next meets a new life.
    pub(super) fn discard(&self, cell: &Arc<Cell>, fence: &Fence) {
        let partition = cell.partition;
        tracing::warn!(
            %partition, epoch = %fence.epoch,
            "this node's copy has what was given up when a loss was accepted: its bytes are forgotten, and it begins anew"
        );
        cell.give_up(fence, &mut Out::default());
        if self.cell(partition).is_some_and(|present| Arc::ptr_eq(&present, cell)) {
            self.forget(partition);
        }
        self.give_back(partition, fence.epoch);
    }

    /// Says again that an epoch is given back, where nobody took note: the manager may have failed just then.
    pub(super) fn give_back_again(&self, cell: &Cell) {
        let led = *cell.standing().borrow();
        if let (Some(fence), Some(Phase::Released)) = (led.fence, led.phase) {
            self.give_back(cell.partition, fence.epoch);
        }
    }

    fn give_back(&self, partition: PartitionId, epoch: Epoch) {
        if let Some(give_back) = self.shared.give_back.get() {
            give_back(partition, epoch);
        }
    }
}

/// Who may answer, by the committed plan: whoever has no lease any more does not.
fn alive_by(plan: &Snapshot) -> impl Fn(&NodeName) -> bool {
    move |node: &NodeName| plan.member(node.as_str()).is_some_and(|member: &Member| member.status.may_serve())
}
