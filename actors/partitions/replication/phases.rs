//! The three phases that every entry goes through, seen from outside: counted always, and told to whoever traces.
//!
//! ```text
//!  append ─▶ prepared: W copies have logged it ─▶ pre-committed: another copy was told so ─▶ committed: applied here
//!      └──────────── took so long ───────────┘
//! ```
//!
//! A primary's own copy needs not be told, and may apply before the others hear of it. Counting is adding under a lock that
//! is held anyway; the time is taken of one entry of a partition at once, not of each.

use std::sync::PoisonError;
use std::time::Duration;

use tumen_core::cluster::snapshot::Mode;
use tumen_core::ids::{Epoch, PartitionId};
use tumen_core::time::Moment;

use super::Replication;
use crate::partitions::meter::{PLACES, Took};

/// How long the first phase took, in microseconds: up to each of these, and longer.
pub static TOOK_US: [u64; PLACES] =
    [50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000];

/// How many entries went through each phase.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Phases {
    /// By primaries here: logged by W copies; in `strong`, on their disks.
    pub prepared: u64,
    /// By primaries here: another copy was told that W have them.
    pub pre_committed: u64,
    /// Applied by copies here while they were primary.
    pub committed: u64,
    /// Applied by copies here while they were not.
    pub applied: u64,
}

impl Phases {
    /// These too.
    pub const fn add(&mut self, other: &Self) {
        self.prepared += other.prepared;
        self.pre_committed += other.pre_committed;
        self.committed += other.committed;
        self.applied += other.applied;
    }
}

/// Up to where a primary's entries have come in each phase. It begins behind the opening entry.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reached {
    prepared: u64,
    told: u64,
    committed: u64,
    /// An entry whose time is being taken, and since when.
    timed: Option<(u64, Moment)>,
}

impl Reached {
    pub(super) const fn at(opening: u64) -> Self {
        Self { prepared: opening, told: opening, committed: opening, timed: None }
    }

    /// An entry was appended: its time is taken, unless another's is.
    pub(super) fn handle_appended(&mut self, now: Moment, sequence: u64) {
        self.timed.get_or_insert((sequence, now));
    }

    /// So far it is now. Counts what is new, and says how long the timed entry took, if it is among it.
    pub(super) fn advance(
        &mut self,
        (partition, epoch, now): (PartitionId, Epoch, Moment),
        (held, told, applied): (u64, u64, u64),
        phases: &mut Phases,
    ) -> Option<Duration> {
        let epoch = epoch.0;
        if held > self.prepared {
            phases.prepared += held - self.prepared;
            tracing::trace!(target: "tumen::phases", %partition, epoch, after = self.prepared, sequence = held, "prepared");
            self.prepared = held;
        }
        if told > self.told {
            phases.pre_committed += told - self.told;
            tracing::trace!(target: "tumen::phases", %partition, epoch, after = self.told, sequence = told, "pre-committed");
            self.told = told;
        }
        if applied > self.committed {
            phases.committed += applied - self.committed;
            tracing::trace!(target: "tumen::phases", %partition, epoch, after = self.committed, sequence = applied, "committed");
            self.committed = applied;
        }
        let (_, since) = self.timed.take_if(|(sequence, _)| *sequence <= held)?;
        Some(now.since(since))
    }
}

/// What this node's copies come to, by what an acknowledgement of theirs promises.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// How many entries went through each phase, since the node was started.
    pub phases: Phases,
    /// How long the first phase took, of the entries that were looked at.
    pub took: Took,
    /// How many partitions are led from here, and are open.
    pub primaries: u64,
    /// How many other copies are here.
    pub replicas: u64,
    /// Of the partitions led from here: those that are not open yet.
    pub opening: u64,
    /// Copies here whose state is of no use.
    pub broken: u64,
    /// Entries of primaries here that W copies do not have yet. In `async`, what would be lost with this node.
    pub lag: u64,
    /// The most of them in one partition.
    pub lag_max: u64,
}

/// All modes, in the order in which they are shown.
pub const MODES: [Mode; 3] = [Mode::Async, Mode::Sync, Mode::Strong];

impl Replication {
    /// What the copies here come to, by mode, in the order of [`MODES`].
    pub fn figures(&self) -> [Figures; MODES.len()] {
        let mut figures = [Figures::default(); MODES.len()];
        for cell in self.cells() {
            cell.count(&mut figures);
        }
        let counted = self.shared.counted.lock().unwrap_or_else(PoisonError::into_inner);
        for (mode, phases) in &*counted {
            figures[*mode as usize].phases.add(phases);
        }
        for (figures, meter) in figures.iter_mut().zip(&self.shared.took) {
            figures.took = meter.read();
        }
        figures
    }

    /// How many entries of one partition may wait for W copies at most: further ones are refused as overloaded. In `async`,
    /// what a node can take along at most when it dies, of each partition that it leads.
    pub fn lag_max(&self) -> u64 {
        self.shared.config.pending_entries_max
    }

    /// What a copy counted is kept that counts for another mode from now on, or is no more.
    pub(super) fn keep_count(&self, mode: Mode, phases: &Phases) {
        let mut counted = self.shared.counted.lock().unwrap_or_else(PoisonError::into_inner);
        counted.entry(mode).or_default().add(phases);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_counted_once_in_each_phase_and_one_at_a_time_is_timed() {
        let at = |ms| (PartitionId::user(0), Epoch(1), Moment::from_millis(ms));
        let (mut reached, mut phases) = (Reached::at(1), Phases::default());
        reached.handle_appended(Moment::from_millis(10), 2);
        reached.handle_appended(Moment::from_millis(11), 3);
        assert_eq!(reached.advance(at(12), (1, 1, 1), &mut phases), None);
        assert_eq!(reached.advance(at(14), (3, 1, 3), &mut phases), Some(Duration::from_millis(4)));
        assert_eq!(reached.advance(at(15), (3, 3, 3), &mut phases), None);
        assert_eq!(phases, Phases { prepared: 2, pre_committed: 2, committed: 2, applied: 0 });
    }
}
