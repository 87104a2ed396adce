//! States that one kind of worker had in two clusters, and that come together again in one of them: how they are asked to, and
//! what became of them.
//!
//! ```text
//!  a copy here ─ left its cluster ─▶ Replication::states_to_bring ─▶ Router::bring_states ─▶ the next cluster's primary
//!                                                                            ▲ not yet: tried again      │ plan_merge, make_change
//!                                                                            └───────────────────────────┤
//!                                                        its log ─▶ every copy there holds the union ◀───┘
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tumen_core::partitions::request::MessageId;

/// The name of the message by which a worker is asked to merge. No worker may handle one of this name, and none that comes from
/// outside is handed on.
pub const NAME: &str = "tumen.merge";

/// The same as a number.
pub fn message() -> MessageId {
    MessageId::of(NAME)
}

/// What became of states on this node, since it was started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Merged {
    /// States that this node brought, and that were taken.
    pub brought: u64,
    /// States that this node brought, and that nobody will ever take: each is told at error level.
    pub refused: u64,
    /// States that came to primaries here, and were merged.
    pub merged: u64,
    /// How many changes that took.
    pub changes: u64,
    /// States that came to primaries here, and were dropped: they cannot be read, or the worker's own code panicked at them.
    /// Each is told at error level.
    pub dropped: u64,
}

/// Where that is counted. Cheap to clone; all clones count together.
#[derive(Clone, Debug, Default)]
pub struct Merges(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    brought: AtomicU64,
    refused: AtomicU64,
    merged: AtomicU64,
    changes: AtomicU64,
    dropped: AtomicU64,
}

impl Merges {
    pub(super) fn note_brought(&self, taken: bool) {
        let count = if taken { &self.0.brought } else { &self.0.refused };
        count.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn note_merged(&self, changes: u64) {
        self.0.merged.fetch_add(1, Ordering::Relaxed);
        self.0.changes.fetch_add(changes, Ordering::Relaxed);
    }

    pub(super) fn note_dropped(&self) {
        self.0.dropped.fetch_add(1, Ordering::Relaxed);
    }

    /// What was counted so far.
    pub fn read(&self) -> Merged {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let Counts { brought, refused, merged, changes, dropped } = &*self.0;
        Merged {
            brought: read(brought),
            refused: read(refused),
            merged: read(merged),
            changes: read(changes),
            dropped: read(dropped),
        }
    }
}
