//! What one copy counts: entries in each phase, and what it lacks.

use tumen_core::cluster::snapshot::Mode;
use tumen_core::ids::PartitionId;
use tumen_core::partitions::replication::Phase;

use super::{Cell, Inner, Out, Role};
use crate::partitions::replication::phases::{Figures, MODES, Phases};

impl Cell {
    /// Adds this copy to the node's figures.
    pub(in super::super) fn count(&self, figures: &mut [Figures; MODES.len()]) {
        let inner = self.lock();
        let figures = &mut figures[inner.config.mode as usize];
        figures.phases.add(&inner.phases);
        figures.broken += u64::from(inner.broken.is_some());
        match &inner.role {
            Role::Primary(lead) if lead.law.phase() < Phase::Serving => figures.opening += 1,
            Role::Primary(lead) => {
                let lag = lead.law.copy().last().sequence.saturating_sub(lead.law.held());
                figures.primaries += 1;
                figures.lag += lag;
                figures.lag_max = figures.lag_max.max(lag);
            }
            Role::Copy(_) | Role::Changing => figures.replicas += 1,
        }
    }

    /// What it has counted, for good: it is no more.
    pub(in super::super) fn take_count(&self) -> (Mode, Phases) {
        let mut inner = self.lock();
        (inner.config.mode, std::mem::take(&mut inner.phases))
    }
}

impl Inner {
    /// A primary's entries came further, perhaps.
    pub(super) fn count_phases(&mut self, partition: PartitionId, out: &mut Out) {
        let Role::Primary(lead) = &mut self.role else { return };
        let Some(reached) = &mut lead.reached else { return };
        let epoch = lead.law.fence().epoch;
        let at = (lead.law.held(), lead.law.told(), self.applied.sequence);
        let took = reached.advance((partition, epoch, self.now), at, &mut self.phases);
        out.took = took.map(|took| (self.config.mode, took));
    }
}
