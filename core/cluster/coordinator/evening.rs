//! When a plan whose copies are being made is looked at again: primaries move to copies only once these count.
//!
//! ```text
//!  balanced plan ─▶ copies are made ─▶ steps: they count ─┬─ all of them ──────▶ look again ─▶ primaries move
//!                                                          └─ some, for a while ─▶ look again
//! ```

use std::time::Duration;

use crate::cluster::snapshot::Snapshot;
use crate::time::Moment;

/// How long the first copies that count wait for the others, so that one plan moves many primaries.
const GATHER: Duration = Duration::from_secs(1);

/// Whether primaries still wait for copies, and since when some of these count.
#[derive(Debug, Default)]
pub(super) struct Evening {
    wanted: bool,
    grown: Option<Moment>,
}

impl Evening {
    /// A plan is being made. One that balances is to be looked at again.
    pub(super) const fn handle_planned(&mut self, balancing: bool) {
        self.wanted |= balancing;
        self.grown = None;
    }

    /// Copies count that did not before, or a new leader looks for itself.
    pub(super) fn handle_grown(&mut self, now: Moment) {
        self.grown = self.grown.or(Some(now));
    }

    /// Whoever leads from now on goes on where the former leader was.
    pub(super) fn handle_elected(&mut self, now: Moment, balances: bool) {
        *self = Self { wanted: balances, grown: Some(now) };
    }

    /// Balance was asked for once: when all copies of that plan count, those that come to count later are no cause to
    /// look again.
    pub(super) fn end_once_settled(&mut self, snapshot: &Snapshot) {
        self.wanted = !self.is_settled(snapshot);
    }

    /// Whether it is time to look again.
    pub(super) fn is_due(&self, now: Moment, snapshot: &Snapshot) -> bool {
        self.wanted && self.grown.is_some_and(|since| now >= since + GATHER || is_complete(snapshot))
    }

    /// Whether nothing is waited for.
    pub(super) fn is_settled(&self, snapshot: &Snapshot) -> bool {
        !self.wanted || (self.grown.is_none() && is_complete(snapshot))
    }

    /// When it will be, if nothing happens before.
    pub(super) fn due_at(&self) -> Option<Moment> {
        self.grown.filter(|_| self.wanted).map(|since| since + GATHER)
    }
}

/// Whether every copy that is wanted of a member that is there counts.
fn is_complete(snapshot: &Snapshot) -> bool {
    snapshot.groups.iter().filter(|group| group.spec.replicated).all(|group| {
        group.assignments.iter().all(|assignment| {
            let wanted = assignment.copies.iter().map(|at| &snapshot.members[*at as usize]);
            wanted
                .filter(|member| member.status.may_serve())
                .all(|member| assignment.is_in_sync(member.name()))
        })
    })
}
