//! The rules of DESIGN's "Workers and replication", broken one at a time, from outside of the law.
//!
//! The law itself knows no switches: a mutant bends what goes into it or comes out of it, exactly as an implementation
//! without the rule would.

use tumen_core::ids::{Epoch, Life};
use tumen_core::partitions::replication::wire::{Reply, Request};
use tumen_core::partitions::replication::{Phase, Position, Primary, Record};

use crate::world::{Node, Register, Value, copy_id, place};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mutant {
    /// The law as it is.
    None,
    /// A restarted copy that lost its memory is taken for its former self, in seals and acknowledgements.
    KeepsItsLifeWithoutItsBytes,
    /// A new epoch is committed while the former primary may still answer under its lease.
    PromotesOverALease,
    /// The longest log is adopted, whatever its last entry's epoch.
    AdoptsTheLongest,
    /// An adopted entry is served before W have it.
    ServesWhatItAdopted,
    /// The new primary seals among the copies that are wanted now, whether they ever counted or not.
    SealsAmongJoiners,
    /// The voters swap a member before the new primary holds the adopted log.
    SwapsBeforeAdoption,
    /// A lease returns to a thawed primary before the plan that deposed it.
    LeaseReturnsFirst,
    /// A new boot serves under its old epoch.
    ServesUnderItsOldEpoch,
    /// A copy takes entries whatever fence they come with.
    TakesAnyFence,
    /// A copy says that it has what is not on disk yet, and keeps its life.
    AnswersBeforeTheDisk,
    /// A change of members counts from when it was asked for.
    TakesTheChangeForGranted,
    /// Nobody names a newer epoch where one was given back.
    LeavesReleasesUnanswered,
}

impl Mutant {
    pub fn life(self, node: &Node, run: u8) -> Life {
        match self {
            Self::KeepsItsLifeWithoutItsBytes => node.copy().id().life,
            _ => Life(run.into()),
        }
    }

    /// What could be read early.
    pub fn readable(self, primary: &Primary<Value>) -> Option<u64> {
        (self == Self::ServesWhatItAdopted && primary.phase() == Phase::Opening)
            .then(|| primary.copy().last().sequence)
    }

    /// The record that a new primary takes for the committed one.
    pub fn bend_record(self, register: &Register, nodes: &[Node], wanted: &[u8]) -> Record {
        let mut record = register.record.clone();
        if self == Self::SealsAmongJoiners {
            record.members = wanted.iter().map(|at| nodes[*at as usize].copy().id().clone()).collect();
        }
        record
    }

    /// What a request looks like to the copy that it comes to.
    pub fn bend_request(self, node: &Node, mut request: Request<Value>) -> Request<Value> {
        if self == Self::TakesAnyFence
            && let Request::Append { fence, .. } = &mut request
        {
            *fence = (*fence).max(*node.copy().sealed());
        }
        request
    }

    /// What a reply looks like to the primary that it comes to.
    pub fn bend_reply(self, primary: &Primary<Value>, mut reply: Reply<Value>) -> Reply<Value> {
        match &mut reply {
            Reply::Sealed { last, .. }
                if self == Self::AdoptsTheLongest && last.sequence < primary.copy().last().sequence =>
            {
                *last = Position::new(Epoch::ZERO, last.sequence);
            }
            Reply::Acked { fence, .. } if self == Self::TakesAnyFence => *fence = *primary.fence(),
            _ => {}
        }
        reply
    }

    /// Whether a swap of members that nobody asked for is to be tried: who goes, who comes.
    pub fn swap(self, register: &Register, nodes: &[Node], (old, new): (u8, u8)) -> Option<Record> {
        let opened = nodes.iter().filter_map(Node::primary).any(|primary| {
            primary.fence().epoch == register.record.epoch && primary.phase() >= Phase::Opening
        });
        if self != Self::SwapsBeforeAdoption || opened {
            return None;
        }
        let old = register.record.members.iter().find(|copy| place(&copy.node) == old)?.clone();
        let new = copy_id(new, nodes[new as usize].copy().id().life.0);
        let change = tumen_core::partitions::replication::Change::Swap(old, new);
        register.record.changed(&change).ok()
    }
}
