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
    /// All members, each with the life that it has now. Asked for where several were lost at once while their primary
    /// lives, and has given them all; or where fewer than S of the lives that counted are left, and every last member has
    /// reported what its disk kept of them: what was acknowledged and not yet on disk may be missing then.
    Renew(Vec<CopyId>),
}

/// Why a step is none. Nothing changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum Illegal {
    /// Who should count counts already, or another life on its node does.
    #[error("{0} counts already, or another copy on its node does")]
    Counts(CopyId),
    /// Renewed are all members or none, and only their lives.
    #[error("renewed are all members or none, and only their lives")]
    NotTheSame,
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

/// Why a loss cannot be accepted so. Nothing changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoSuchLoss {
    /// A node has one copy.
    #[error("two survivors are on {0}")]
    Twice(NodeName),
    /// More than anybody could want.
    #[error("{0} survivors are too many")]
    TooMany(usize),
}

impl Record {
    /// How many members must hold an entry before it is acknowledged: W.
    pub fn write_quorum(&self) -> usize {
        (self.members.len() / 2 + 1).max((self.high as usize).div_ceil(2))
    }

    /// How many members a new primary must seal, so that it meets every acknowledged entry: S.
    pub fn seal_quorum(&self) -> usize {
        (self.members.len() + 1).saturating_sub(self.write_quorum())
    }

    /// Whether nothing was ever acknowledged in the partition, or an operator accepted that all of it is lost.
    pub const fn is_unopened(&self) -> bool {
        self.members.is_empty()
    }

    /// Which life of this node's copy counts.
    pub fn life_on(&self, node: &NodeName) -> Option<Life> {
        self.members.iter().find(|copy| copy.node == *node).map(|copy| copy.life)
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
            Change::Renew(copies) => next.renew(copies)?,
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

    /// The record under which the partition goes on with what these copies hold, by an operator's word: whatever else
    /// was acknowledged is given up. Without survivors it begins anew. A later epoch, so that nobody goes on by the former
    /// record.
    pub fn with_loss_accepted(&self, mut survivors: Vec<CopyId>) -> Result<Self, NoSuchLoss> {
        survivors.sort();
        if survivors.len() > MEMBERS_MAX {
            return Err(NoSuchLoss::TooMany(survivors.len()));
        }
        if let Some(pair) = survivors.windows(2).find(|pair| pair[0].node == pair[1].node) {
            return Err(NoSuchLoss::Twice(pair[0].node.clone()));
        }
        let high = survivors.len() as u32;
        Ok(Self { epoch: self.epoch.next(), revision: Revision::ZERO, members: survivors, high })
    }

    /// The record once an operator wants only so many copies, if that lowers how many must hold a write. The members stay,
    /// and go one by one.
    pub fn lowered(&self, copies: u32) -> Option<Self> {
        let high = self.high.min(copies).max(self.members.len() as u32);
        let revision = self.revision.next();
        (high < self.high).then(|| Self { high, revision, ..self.clone() })
    }

    /// The record under the next primary, whoever that is.
    #[must_use]
    pub fn with_next_epoch(&self) -> Self {
        Self { epoch: self.epoch.next(), revision: Revision::ZERO, ..self.clone() }
    }

    fn renew(&mut self, copies: &[CopyId]) -> Result<(), Illegal> {
        let mut renewed = copies.to_vec();
        renewed.sort();
        let nodes = |copies: &[CopyId]| copies.iter().map(|copy| copy.node.clone()).collect::<Vec<_>>();
        if renewed == self.members || nodes(&renewed) != nodes(&self.members) {
            return Err(Illegal::NotTheSame);
        }
        self.members = renewed;
        Ok(())
    }

    fn add(&mut self, copy: &CopyId) -> Result<(), Illegal> {
        if self.life_on(&copy.node).is_some() {
            return Err(Illegal::Counts(copy.clone()));
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn copy(node: &str, life: u64) -> CopyId {
        CopyId { node: NodeName::new(node).unwrap(), life: Life(life) }
    }

    fn grown(nodes: &[&str]) -> Record {
        let add = |record: Record, node: &&str| record.changed(&Change::Add(copy(node, 1))).unwrap();
        nodes.iter().fold(Record::default(), add)
    }

    #[test]
    fn quorums_are_those_of_the_design() {
        let quorums = |record: &Record| (record.write_quorum(), record.seal_quorum());
        assert_eq!(quorums(&grown(&["a"])), (1, 1));
        assert_eq!(quorums(&grown(&["a", "b"])), (2, 1));
        assert_eq!(quorums(&grown(&["a", "b", "c"])), (2, 2));
        assert_eq!(quorums(&grown(&["a", "b", "c", "d"])), (3, 2));
        assert_eq!(quorums(&grown(&["a", "b", "c", "d", "e"])), (3, 3));
    }

    #[test]
    fn every_write_quorum_meets_every_seal_quorum_and_is_a_majority_of_the_highest() {
        for high in 0..20_u32 {
            for len in 1..=high {
                let members = (0..len).map(|n| copy(&format!("n{n:02}"), 1)).collect();
                let record = Record { members, high, ..Record::default() };
                let (write, seal, len) = (record.write_quorum(), record.seal_quorum(), len as usize);
                assert!(write > len || write + seal == len + 1, "{record:?}");
                assert!(2 * write >= high as usize && 2 * write > len);
            }
        }
    }

    #[test]
    fn of_two_one_may_be_dropped_and_of_three_one() {
        let two = grown(&["a", "b"]).changed(&Change::Drop(copy("b", 1))).unwrap();
        assert_eq!((two.write_quorum(), two.high), (1, 2));
        let three = grown(&["a", "b", "c"]).changed(&Change::Drop(copy("b", 1))).unwrap();
        assert_eq!((three.write_quorum(), three.seal_quorum()), (2, 1));
        let too_few = Err(Illegal::TooFew { left: 1, needed: 2 });
        assert_eq!(three.changed(&Change::Drop(copy("c", 1))), too_few);
        assert_eq!(three.lowered(2).unwrap().changed(&Change::Drop(copy("c", 1))).unwrap().write_quorum(), 1);
        let left = three.changed(&Change::Retire(copy("c", 1))).unwrap();
        assert_eq!((left.high, left.write_quorum()), (2, 1));
    }

    #[test]
    fn a_node_counts_once_and_a_new_life_only_by_a_swap() {
        let two = grown(&["a", "b"]);
        assert_eq!(two.changed(&Change::Add(copy("b", 2))), Err(Illegal::Counts(copy("b", 2))));
        assert_eq!(two.changed(&Change::Drop(copy("b", 2))), Err(Illegal::Stranger(copy("b", 2))));
        let swapped = two.changed(&Change::Swap(copy("b", 1), copy("b", 2))).unwrap();
        assert_eq!(swapped.members, [copy("a", 1), copy("b", 2)]);
        assert_eq!(two.changed(&Change::Renew(vec![copy("a", 2)])), Err(Illegal::NotTheSame));
        let renewed = two.changed(&Change::Renew(vec![copy("b", 2), copy("a", 1)])).unwrap();
        assert_eq!((&renewed.members, renewed.revision), (&swapped.members, two.revision.next()));
    }

    #[test]
    fn an_accepted_loss_is_a_later_epoch_with_the_survivors() {
        let lost = grown(&["a", "b", "c"]).with_loss_accepted(vec![copy("c", 1)]).unwrap();
        assert_eq!((lost.epoch, lost.high, lost.write_quorum()), (Epoch(1), 1, 1));
        assert!(lost.with_loss_accepted(Vec::new()).unwrap().is_unopened());
        let twice = vec![copy("c", 1), copy("c", 2)];
        assert_eq!(lost.with_loss_accepted(twice), Err(NoSuchLoss::Twice(NodeName::new("c").unwrap())));
    }
}
