//! The lease as the hot path sees it: one number, compared with the clock; and whether anybody relies on what was answered.
//!
//! ```text
//!  nobody was answered ─┬─ an answer leaves ────▶ relied on: the cluster is not dropped
//!           ▲           └─ an elder cluster met ─▶ leaving: nothing is answered ─┐
//!           └──────────────── left: in another cluster from now on ◀────────────┘
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use tumen_core::Moment;
use tumen_core::partitions::request::Failure;

use super::belief::Belief;
use crate::clock::Clock;

/// How long a node may be without a lease before it says that it is cut off.
const CUT_OFF_AFTER: Duration = Duration::from_secs(1);

/// Nobody was answered in this node's cluster.
const NONE: u8 = 0;
/// Somebody was, or may have been.
const RELIED_ON: u8 = 1;
/// The node leaves its cluster: nobody is answered in it any more.
const LEAVING: u8 = 2;

/// Whether this node may answer at present. Cheap to clone; all clones see the same lease.
#[derive(Clone, Debug)]
pub struct Gate {
    until: Arc<AtomicU64>,
    reliance: Arc<AtomicU8>,
    /// Whether the node is on its way from one cluster to another, and has no lease in that yet.
    moves: Arc<AtomicBool>,
    made: Moment,
    clock: Clock,
    belief: Belief,
}

impl Gate {
    /// A gate that is closed until a lease opens it.
    pub fn closed(clock: Clock, belief: Belief) -> Self {
        Self {
            until: Arc::default(),
            reliance: Arc::default(),
            moves: Arc::default(),
            made: clock.now(),
            clock,
            belief,
        }
    }

    /// The lease's end, as the lease's law published it.
    pub fn publish(&self, until: Moment) {
        self.open_until(until);
        if until > Moment::ZERO && self.moves.load(Ordering::SeqCst) && !self.is_leaving() {
            self.moves.store(false, Ordering::SeqCst);
        }
        // It may have begun to leave meanwhile, and closed what was just opened again.
        if self.is_leaving() {
            self.open_until(Moment::ZERO);
        }
    }

    fn open_until(&self, until: Moment) {
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
        if self.moves.load(Ordering::SeqCst) {
            return Failure::NotReady;
        }
        let since = self.until().max(self.made);
        if self.clock.now().since(since) > CUT_OFF_AFTER { Failure::NoQuorum } else { Failure::NotReady }
    }

    /// A worker of this node is about to answer somebody, who relies on it from now on: its cluster is not dropped for another.
    /// `false`: it is being dropped already, and the answer must not leave.
    #[must_use = "where the cluster is being dropped nothing is answered"]
    pub fn rely(&self) -> bool {
        match self.reliance.load(Ordering::Relaxed) {
            RELIED_ON => true,
            _ => {
                let relied =
                    self.reliance.compare_exchange(NONE, RELIED_ON, Ordering::SeqCst, Ordering::SeqCst);
                matches!(relied, Ok(_) | Err(RELIED_ON))
            }
        }
    }

    /// Whether somebody relies on what this node answered in its cluster.
    pub fn is_relied_on(&self) -> bool {
        self.reliance.load(Ordering::SeqCst) == RELIED_ON
    }

    /// The node leaves its cluster, if nobody relies on it: it answers nobody before [`Self::handle_left`]. `false`: somebody
    /// does, or it leaves already.
    pub fn begin_leaving(&self) -> bool {
        let begun = self.reliance.compare_exchange(NONE, LEAVING, Ordering::SeqCst, Ordering::SeqCst);
        if begun.is_ok() {
            self.moves.store(true, Ordering::SeqCst);
            self.open_until(Moment::ZERO);
        }
        begun.is_ok()
    }

    /// The node leaves its cluster whoever relies on it, as where availability goes first. `false`: it leaves already.
    pub fn begin_leaving_anyhow(&self) -> bool {
        let begun = self.reliance.swap(LEAVING, Ordering::SeqCst) != LEAVING;
        if begun {
            self.moves.store(true, Ordering::SeqCst);
            self.open_until(Moment::ZERO);
        }
        begun
    }

    /// It stays, after all.
    pub fn stay(&self) {
        // It may not be leaving.
        let _ = self.reliance.compare_exchange(LEAVING, NONE, Ordering::SeqCst, Ordering::SeqCst);
    }

    /// Whether the node is about to leave its cluster.
    pub fn is_leaving(&self) -> bool {
        self.reliance.load(Ordering::SeqCst) == LEAVING
    }

    /// It has left: nobody was answered in the cluster that it will be in.
    pub fn handle_left(&self) {
        self.reliance.store(NONE, Ordering::SeqCst);
    }

    /// When the lease ends, as published last.
    pub fn until(&self) -> Moment {
        Moment::from_nanos(self.until.load(Ordering::SeqCst))
    }
}

#[cfg(test)]
mod tests {
    use tumen_core::ids::{Boot, NodeBoot, NodeName};

    use super::*;

    #[tokio::test]
    async fn of_an_answer_and_a_leave_the_first_stands() {
        let clock = Clock::tokio();
        let me = NodeBoot::new(NodeName::new("a").unwrap(), Boot(1));
        let gate = Gate::closed(clock, Belief::new(me, clock));
        let later = gate.now() + Duration::from_secs(9);
        gate.publish(later);
        assert!(gate.is_open() && !gate.is_relied_on());
        assert!(gate.begin_leaving() && !gate.begin_leaving(), "it leaves once");
        assert!(!gate.is_open() && !gate.rely() && !gate.is_relied_on());
        assert_eq!(gate.refusal(), Failure::NotReady, "it is soon in another cluster");
        gate.publish(later);
        assert!(!gate.is_open(), "a late grant of the cluster that is left opens nothing");
        gate.handle_left();
        gate.publish(later);
        assert!(gate.is_open() && gate.rely() && gate.rely());
        assert!(gate.is_relied_on() && !gate.begin_leaving() && gate.is_open());
    }
}
