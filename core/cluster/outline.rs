//! A plan as it is proposed: without what only steps change.
//!
//! ```text
//!  Snapshot ─ of ─▶ Outline ─ Raft's messages and log ─▶ Outline ─ completed(the plan in force) ─▶ Snapshot
//!                   members, epochs, copies                        and which copies count, as it is in force
//! ```
//!
//! Which copies of a partition count takes a name and nine bytes for each, which is most of a large plan; and a proposal
//! may not change it. So every voter takes it from the plan in force. The hash is that of the whole plan: whoever
//! proposed it for another state of who counts finds it refused.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::cluster::snapshot::{Assignment, Snapshot};
use crate::ids::{Revision, Version};

/// A proposed plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outline(Arc<Snapshot>);

impl Outline {
    /// The outline of a plan that is sealed.
    pub fn of(mut snapshot: Snapshot) -> Self {
        let assignments = snapshot.groups.iter_mut().flat_map(|group| &mut group.assignments);
        assignments.for_each(|assignment| count(assignment, None));
        Self(Arc::new(snapshot))
    }

    /// The plan's version.
    pub fn version(&self) -> Version {
        self.0.version
    }

    /// After how many steps it was computed.
    pub fn steps(&self) -> u64 {
        self.0.steps
    }

    /// The whole plan, where `previous` is in force. Nothing says yet that it may follow it.
    pub fn completed(&self, previous: Option<&Snapshot>) -> Snapshot {
        let mut snapshot = Snapshot::clone(&self.0);
        for group in &mut snapshot.groups {
            let before = previous.and_then(|previous| previous.group(group.id));
            for (index, assignment) in group.assignments.iter_mut().enumerate() {
                count(assignment, before.and_then(|before| before.assignments.get(index)));
            }
        }
        snapshot
    }
}

/// What counts of a partition becomes what counted before; revisions begin anew with each epoch.
fn count(assignment: &mut Assignment, before: Option<&Assignment>) {
    let same_epoch = |before: &&Assignment| before.epoch == assignment.epoch;
    assignment.revision = before.filter(same_epoch).map_or(Revision::ZERO, |before| before.revision);
    assignment.members = before.map(|before| before.members.clone()).unwrap_or_default();
    assignment.high = before.map_or(0, |before| before.high);
}
