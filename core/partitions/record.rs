//! Which copies of a partition count: the part of its plan that its own primary changes, one step at a time.
//!
//! ```text
//!  revision   0        1        2          3             4
//!  members    ∅ ────▶ {A} ──▶ {A B} ──▶ {A B C} ─swap─▶ {A B D}
//!  high       0        1        2          3             3          W = max(⌊M/2⌋+1, ⌈high/2⌉)   S = M − W + 1
//! ```

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::ids::{Epoch, Life, NodeName, Revision};

/// One copy of a partition: bytes on a node, for as long as they remember.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct CopyId {
    /// The node that has it.
    pub node: NodeName,
    /// New whenever its bytes may be gone.
    pub life: Life,
}

impl fmt::Display for CopyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}", self.node, self.life)
    }
}

/// What the voters agreed on about the copies of one partition.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Record {
    /// The primary's epoch.
    pub epoch: Epoch,
    /// One more for each step in this epoch.
    pub revision: Revision,
    /// The copies that count, sorted. None: the partition never opened, and nothing was ever acknowledged in it.
    pub members: Vec<CopyId>,
    /// How many members it had at most. Only an operator, or a node that leaves in good order, lowers it.
    pub high: u32,
}

/// One step. Asked for by the epoch's primary, and taken if epoch and revision are still what it knew.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Change {
    /// This copy counts from now on. The first one of all opens the partition.
    Add(CopyId),
    /// This copy counts no more; as many as before are wanted.
    Drop(CopyId),
    /// The first counts no more, the second from now on.
    Swap(CopyId, CopyId),
    /// This copy leaves in good order: one less is wanted from now on.
    Retire(CopyId),
}

/// Why a step is none. Nothing changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum Illegal {
    /// Who should count counts already.
    #[error("{0} counts already")]
    Counts(CopyId),
    /// Who should go does not count.
    #[error("{0} does not count")]
    Stranger(CopyId),
    /// Fewer would be left than a majority of those that there were.
    #[error("{left} copies would be left, {needed} must hold a write")]
    TooFew {
        /// How many would be left.
        left: usize,
        /// How many must hold a write.
        needed: usize,
    },
    /// More than anybody could want.
    #[error("{0} copies are too many")]
    TooMany(usize),
}

/// The most members of one partition.
pub const MEMBERS_MAX: usize = 64;

impl Record {
    /// How many members must hold an entry before it is acknowledged: W.
    pub fn write_quorum(&self) -> usize {
        (self.members.len() / 2 + 1).max((self.high as usize).div_ceil(2))
    }

    /// How many members a new primary must seal, so that it meets every acknowledged entry: S.
    pub fn seal_quorum(&self) -> usize {
        (self.members.len() + 1).saturating_sub(self.write_quorum())
    }

    /// Whether this copy counts.
    pub fn contains(&self, copy: &CopyId) -> bool {
        self.members.binary_search(copy).is_ok()
    }

    /// The record after one step.
    pub fn changed(&self, change: &Change) -> Result<Self, Illegal> {
        let mut next = self.clone();
        match change {
            Change::Add(copy) => next.add(copy)?,
            Change::Drop(copy) => next.remove(copy)?,
            Change::Swap(old, new) => {
                next.remove(old)?;
                next.add(new)?;
            }
            Change::Retire(copy) => {
                next.remove(copy)?;
                next.high = next.high.saturating_sub(1).max(next.members.len() as u32);
            }
        }
        let (left, needed) = (next.members.len(), next.write_quorum());
        if left < needed {
            return Err(Illegal::TooFew { left, needed });
        }
        if left > MEMBERS_MAX {
            return Err(Illegal::TooMany(left));
        }
        next.high = next.high.max(left as u32);
        next.revision = self.revision.next();
        Ok(next)
    }

    fn add(&mut self, copy: &CopyId) -> Result<(), Illegal> {
        let at = self.members.binary_search(copy).err().ok_or_else(|| Illegal::Counts(copy.clone()))?;
        self.members.insert(at, copy.clone());
        Ok(())
    }

    fn remove(&mut self, copy: &CopyId) -> Result<(), Illegal> {
        let at = self.members.binary_search(copy).map_err(|_| Illegal::Stranger(copy.clone()))?;
        self.members.remove(at);
        Ok(())
    }
}
