//! What a writer must show: the right to write in one partition, for as long as no newer one exists.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::ids::{Epoch, Generation, PartitionId};

/// The right to write in one partition. Fences of one partition are ordered: the greater one wins, for ever.
///
/// Show it to resources outside of tumen too: one that remembers the greatest fence it saw, and refuses a
/// lesser one, is safe from a primary that slept through its own replacement. (The idea: Burrows' sequencers
/// in Chubby, 2006; Kleppmann's fencing tokens.)
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Fence {
    /// Raised only when an operator forces the cluster on without a quorum.
    pub generation: Generation,
    /// Raised each time the partition's primary changes.
    pub epoch: Epoch,
    /// Which partition. Fences of different partitions say nothing about each other.
    pub partition: PartitionId,
}

impl Fence {
    /// Whether a holder of `other` must give way to the holder of this one.
    pub fn supersedes(&self, other: &Self) -> bool {
        self.partition == other.partition && (self.generation, self.epoch) > (other.generation, other.epoch)
    }
}

impl fmt::Display for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}.{}", self.partition, self.generation, self.epoch)
    }
}
