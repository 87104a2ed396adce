//! What becomes of the parts of a cluster that cannot reach each other, where availability goes before consistency.
//!
//! ```text
//!  majority    a side without a majority of the voters pauses until it can reach one          (the default)
//!  available   such a side goes on as a cluster of its own: the first of it founds one, the others join that;
//!              sides that meet again become one, node by node: each node of the lesser side leaves it and joins the other
//! ```
//!
//! Which side is the lesser is decided by what does not change while nodes go over: a side that serves nobody, then a node alone,
//! then the side that was founded in a later generation, and of two of one generation the one with the higher id. So the side
//! that kept the majority, if one did, is the one that stays.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::cluster::greeting::{Belonging, Meeting};
use crate::cluster::member::Status;
use crate::cluster::snapshot::Snapshot;
use crate::ids::{ClusterId, Generation, NodeBoot, NodeName};

/// What goes first where nodes cannot reach each other. The same on all nodes of a cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Consistency {
    /// There is one of each thing: a side without a majority of the voters pauses.
    #[default]
    Majority,
    /// All sides go on. What there is twice afterwards is merged, name by name.
    Available,
}

impl Consistency {
    /// Whether each side of a split goes on.
    pub const fn is_available(self) -> bool {
        matches!(self, Self::Available)
    }
}

impl fmt::Display for Consistency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Majority => "majority",
            Self::Available => "available",
        })
    }
}

impl Belonging {
    /// What becomes of a node of the side `self` that meets one of the side `theirs`. Both come to the same answer.
    pub fn meet_as_side(&self, theirs: &Self) -> Meeting {
        // What serves nobody has nothing to join, and one of them founds something sooner or later.
        if self.id == theirs.id || (self.stranded && theirs.stranded) {
            return Meeting::Together;
        }
        let rank = |side: &Self| (side.stranded, side.members <= 1, side.generation, side.id);
        if rank(self) < rank(theirs) { Meeting::TheyYield } else { Meeting::Yield }
    }
}

/// The generation of a side that founds itself: later than the one that it was of, and no other side's, so that what is sent by a fence
/// of another side is known by that. The upper half counts, the lower one is drawn with the side's id.
pub const fn next_generation(former: Generation, id: ClusterId) -> Generation {
    let (count, drawn) = ((former.0 >> 32) + 1, id.0 & 0xFFFF_FFFF);
    Generation((count << 32) | drawn)
}

/// Whether a plan takes from a node what the one before it gave it: its side took it for gone while it could not be reached.
pub fn is_evicted(me: &NodeBoot, before: Option<&Snapshot>, plan: &Snapshot) -> bool {
    let status = |plan: &Snapshot| {
        plan.member(me.node.as_str()).filter(|member| member.id() == me).map(|member| member.status)
    };
    before.and_then(status) == Some(Status::Up) && matches!(status(plan), None | Some(Status::Lost))
}

/// Another node, as one that looks around sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// Its name.
    pub name: NodeName,
    /// Which side it belongs to, if to any.
    pub belongs: Option<Belonging>,
}

/// What a node is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It serves, or is about to, or belongs nowhere.
    Fine,
    /// It has served nobody for long. Somebody else is to do something about it.
    Stranded,
    /// It founds a cluster of its own side.
    Found,
}

/// How long a node that serves nobody waits before it calls itself stranded, in looks around: two seconds of them.
pub const STRANDED_AFTER_LOOKS: u32 = 20;
/// How often it looks around, in milliseconds.
pub const LOOK_EVERY_MS: u64 = 100;
/// After how many looks the first of a side is not waited for any more.
const FIRST_WITHIN_LOOKS: u32 = 4 * STRANDED_AFTER_LOOKS;

/// The law of one node that looks around. It counts its own looks and not time: a process that was frozen has not been looking.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lookout {
    looks: u32,
}

impl Lookout {
    /// The node looks around. `serves`: it has its lease. `ours`: the side that it belongs to, if to any.
    pub fn look(
        &mut self,
        me: &NodeName,
        serves: bool,
        ours: Option<&Belonging>,
        neighbours: &[Neighbour],
    ) -> Verdict {
        if serves || ours.is_none() {
            self.looks = 0;
            return Verdict::Fine;
        }
        self.looks = self.looks.saturating_add(1);
        if self.looks < STRANDED_AFTER_LOOKS {
            return Verdict::Fine;
        }
        let mut sides = neighbours.iter().filter_map(|it| Some((&it.name, it.belongs.as_ref()?)));
        // Somebody serves: it takes this node in, or is joined.
        if sides.clone().any(|(_, side)| !side.stranded) {
            return Verdict::Stranded;
        }
        let first = sides.all(|(name, _)| me < name);
        if first || self.looks >= FIRST_WITHIN_LOOKS { Verdict::Found } else { Verdict::Stranded }
    }

    /// The node left its side for another: it begins to look anew.
    pub const fn handle_left(&mut self) {
        self.looks = 0;
    }
}

#[cfg(test)]
mod tests;
