//! The lease as the hot path sees it: one number, compared with the clock.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tumen_core::Moment;
use tumen_core::partitions::request::Failure;

use super::belief::Belief;
use crate::clock::Clock;

/// How long a node may be without a lease before it says that it is cut off.
const CUT_OFF_AFTER: Duration = Duration::from_secs(1);

/// Whether this node may answer at present. Cheap to clone; all clones see the same lease.
#[derive(Clone, Debug)]
pub struct Gate {
    until: Arc<AtomicU64>,
    answered: Arc<AtomicBool>,
    made: Moment,
    clock: Clock,
    belief: Belief,
}

impl Gate {
    /// A gate that is closed until a lease opens it.
    pub fn closed(clock: Clock, belief: Belief) -> Self {
        Self { until: Arc::default(), answered: Arc::default(), made: clock.now(), clock, belief }
    }

    /// The lease's end, as the lease's law published it.
    pub fn publish(&self, until: Moment) {
        self.belief.leased(until);
        self.until.store(until.as_nanos(), Ordering::SeqCst);
    }

    /// The present moment, for [`Self::is_open_at`].
    pub fn now(&self) -> Moment {
        self.clock.now()
    }

    /// Whether the lease is held at this moment.
    pub fn is_open_at(&self, now: Moment) -> bool {
        now.as_nanos() < self.until.load(Ordering::SeqCst)
    }

    /// Whether the lease is held now. Ask it *after* taking the value that is to leave the node: a process that
    /// froze in between finds it closed.
    pub fn is_open(&self) -> bool {
        self.is_open_at(self.now())
    }

    /// How a call is answered that finds the gate closed: that the node is cut off, or, as long as the lease may be on
    /// its way, as after a start or during an election, that it should be tried again. Nothing was changed either way.
    pub fn refusal(&self) -> Failure {
        let since = self.until().max(self.made);
        if self.clock.now().since(since) > CUT_OFF_AFTER { Failure::NoQuorum } else { Failure::NotReady }
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
