//! The lease as the hot path sees it: one number, compared with the clock.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tumen_core::Moment;

use super::belief::Belief;
use crate::clock::Clock;

/// Whether this node may answer at present. Cheap to clone; all clones see the same lease.
#[derive(Clone, Debug)]
pub struct Gate {
    until: Arc<AtomicU64>,
    answered: Arc<AtomicBool>,
    clock: Clock,
    belief: Belief,
}

impl Gate {
    /// A gate that is closed until a lease opens it.
    pub fn closed(clock: Clock, belief: Belief) -> Self {
        Self { until: Arc::default(), answered: Arc::default(), clock, belief }
    }

    /// The lease's end, as the lease's law published it.
    pub fn publish(&self, until: Moment) {
        self.belief.leased(until);
        self.until.store(until.as_nanos(), Ordering::SeqCst);
    }

    /// Whether the lease is held now. Ask it *after* taking the value that is to leave the node: a process that
    /// froze in between finds it closed.
    pub fn is_open(&self) -> bool {
        self.clock.now().as_nanos() < self.until.load(Ordering::SeqCst)
    }

    /// A worker of this node answered somebody: from now on its cluster is not merely dropped for another.
    pub fn note_answer(&self) {
        if !self.has_answered() {
            self.answered.store(true, Ordering::SeqCst);
        }
    }

    /// Whether a worker of this node ever answered anybody.
    pub fn has_answered(&self) -> bool {
        self.answered.load(Ordering::Relaxed)
    }

    /// When the lease ends, as published last.
    pub fn until(&self) -> Moment {
        Moment::from_nanos(self.until.load(Ordering::SeqCst))
    }
}
