//! What this node counts of names, for whoever looks after it.

use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};

use tumen_core::names::Reason;
use tumen_core::names::directory::{Change, News};

use super::Names;
use super::table::Step;

/// What was counted since the node started.
#[derive(Debug, Default)]
pub(super) struct Tallies {
    refused: AtomicU64,
    restarts: AtomicU64,
}

impl Tallies {
    /// A directory that is led here refused what it was asked for.
    pub(super) fn note_refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// One step of a directory that is led here.
    pub(super) fn note_step(&self, step: &Step) {
        let of_nodes = step.changes.iter().any(|change| matches!(change, Change::NodeGone { .. }));
        let failed = step.changes.iter().filter(
            |change| matches!(change, Change::Freed { reason, .. } if !matches!(reason, Reason::Moved)),
        );
        let left =
            |news: &&News| matches!(news, News::Unregistered { goes_on: true, reason: Reason::NodeDown, .. });
        let left = if of_nodes { step.news.iter().filter(left).count() } else { 0 };
        self.restarts.fetch_add((failed.count() + left) as u64, Ordering::Relaxed);
    }
}

/// Figures of one node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Names of the whole cluster, as this node knows them, children's included.
    pub known: usize,
    /// Names that actors of this node hold, or are about to; children's not included.
    pub held: usize,
    /// Children that run here.
    pub children: usize,
    /// Of these, how many are always started again.
    pub singletons: usize,
    /// Directories that are led here.
    pub directories: usize,
    /// How often a directory that was led here refused what it was asked for.
    pub refused: u64,
    /// How often a child of a directory that was led here was to be started again, for it failed, or its node went.
    pub restarts: u64,
}

impl Names {
    /// What there is to count here.
    pub fn figures(&self) -> Figures {
        let tallies = self.shared.table.tallies();
        let (children, singletons) = {
            let crew = self.shared.crew.lock().unwrap_or_else(PoisonError::into_inner);
            crew.running()
        };
        Figures {
            known: self.shared.table.len(),
            held: self.shared.registry.count(),
            children,
            singletons,
            directories: self.shared.agents.len(),
            refused: tallies.refused.load(Ordering::Relaxed),
            restarts: tallies.restarts.load(Ordering::Relaxed),
        }
    }
}
