//! One copy that is looked at beside others: it stops at one place of the log, until its state there was taken.
//!
//! ```text
//!  applying ─ hold ─▶ stops where it is ─ reach(at) ─▶ applies up to there ─▶ bytes taken ─▶ applying
//!                          └──────────── nobody came back in time ───────────────────────────▲
//! ```
//!
//! Only the state waits: the log goes on, and so do acknowledgements and the primary's workers.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tumen_core::ids::NodeName;
use tumen_core::partitions::equality::Found;
use tumen_core::partitions::fence::Fence;
use tumen_core::partitions::identity::Position;
use tumen_core::partitions::replication::Phase;
use tumen_core::partitions::replication::wire::SnapshotHeader;
use tumen_core::time::Moment;
use tumen_core::wire::stable_hash;

use super::{Cell, Out, Role};

/// Where a state stops, and until when.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hold {
    /// Nothing behind it is applied.
    pub(super) until: u64,
    /// Since when it may lag behind for it.
    pub(super) since: Moment,
    /// Then it is over, whoever comes.
    pub(super) expires: Moment,
}

/// How far a primary's copies are, for one who brings them up to date.
#[derive(Clone, Debug)]
pub(in super::super) struct Reach {
    /// The primary's.
    pub(in super::super) fence: Fence,
    /// Its log's end.
    pub(in super::super) end: u64,
    /// The other nodes that are to have copies, and up to where each surely has the log.
    pub(in super::super) copies: Vec<(NodeName, u64)>,
}

impl Cell {
    /// Applies what holds, and nothing more for so long. Says up to where; `None`: the copy is of no use.
    pub(in super::super) fn hold_state(
        &self,
        now: Moment,
        within: Duration,
        out: &mut Out,
    ) -> Option<Position> {
        self.with(out, |inner, _, _| {
            inner.hold = None;
            inner.apply_up_to_mark();
            let (until, expires) = (inner.applied.sequence, now + within);
            inner.hold = Some(Hold { until, since: now, expires });
            inner.broken.is_none().then_some(inner.applied)
        })
    }

    /// The state's hash at this place, which is where it is held or behind it. [`Found::Behind`]: not yet.
    pub(in super::super) fn hash_at(&self, now: Moment, at: Position, out: &mut Out) -> Found {
        let mut inner = self.lock();
        if inner.broken.is_some() {
            return Found::Missing;
        }
        let held = inner.hold.filter(|hold| now < hold.expires && inner.applied.sequence <= at.sequence);
        let Some(hold) = held else { return Found::Passed(inner.applied) };
        inner.hold = Some(Hold { until: at.sequence, ..hold });
        inner.apply_up_to_mark();
        if inner.applied != at {
            let here = inner.applied;
            // The same sequence of another epoch is another log.
            return if here.sequence < at.sequence { Found::Behind(here) } else { Found::Passed(here) };
        }
        let shared = Arc::clone(&inner.state);
        drop(inner);
        let state = shared.lock().unwrap_or_else(PoisonError::into_inner);
        let (applied, bytes) = (state.applied(), state.snapshot());
        drop(state);
        self.with(out, |inner, _, _| inner.hold = None);
        match bytes {
            Ok(bytes) if applied == at => Found::Hash(stable_hash(&bytes)),
            Ok(_) => Found::Passed(applied),
            Err(_) => Found::Missing,
        }
    }

    /// How far the copies are of what this node serves as primary.
    pub(in super::super) fn reach(&self) -> Option<Reach> {
        let inner = self.lock();
        let Role::Primary(lead) = &inner.role else { return None };
        let copies = lead.law.progress().map(|(node, acked)| (node.clone(), acked)).collect();
        let end = lead.law.copy().last().sequence;
        (lead.law.phase() == Phase::Serving).then(|| Reach { fence: *lead.law.fence(), end, copies })
    }

    /// Whether this node, as primary under this fence, still has a state to send to that one.
    pub(in super::super) fn sends_snapshot(&self, fence: &Fence, to: &NodeName) -> bool {
        match &self.lock().role {
            Role::Primary(lead) => lead.law.fence() == fence && lead.law.sends_snapshot_to(to),
            Role::Copy(_) | Role::Changing => false,
        }
    }

    /// Whether a state that is announced would be looked at.
    pub(in super::super) fn would_look_at(&self, header: &SnapshotHeader) -> bool {
        let inner = self.lock();
        inner.copy().would_look_at(header)
    }
}
