//! Whether the copies of a partition hold the same: their states are compared at one place of the log.
//!
//! ```text
//!  every copy holds ─▶ the furthest place that one of them applied ─▶ all of them apply up to there ─▶ hashes ─▶ verdicts
//! ```
//!
//! Two copies at one position came there by the same entries: their states must be the same, and so must the hashes of
//! their bytes. That takes a worker whose state is written the same wherever it is the same: a `BTreeMap` is, a `HashMap` is
//! not.

use serde::{Deserialize, Serialize};

use super::identity::Position;
use crate::ids::{NodeName, PartitionId};

/// What a copy has at the place that it was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Found {
    /// XXH3-64 of its state there.
    Hash(u64),
    /// It has not come there in time; it is here.
    Behind(Position),
    /// It was beyond it before it was asked; it is here. Compare once more.
    Passed(Position),
    /// There is no copy, or its state cannot be written.
    Missing,
}

/// How a copy compares with its primary's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The same state at the same position.
    Equal,
    /// Another state at the same position: one of them is wrong.
    Differs,
    /// It was not at the position in time. That says nothing of what it holds.
    Behind,
    /// Its node has no copy that could be compared.
    Missing,
    /// Its node did not answer.
    Unreachable,
}

/// One copy in a report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyReport {
    /// Whose.
    pub node: NodeName,
    /// How it compares.
    pub verdict: Verdict,
    /// Where it is, as far as is known.
    pub position: Option<Position>,
    /// The hash of its state there, if it is where the primary's was taken.
    pub hash: Option<u64>,
}

/// One partition in a report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionReport {
    /// Which.
    pub partition: PartitionId,
    /// Its primary, which compared.
    pub primary: NodeName,
    /// Where all copies were looked at.
    pub position: Position,
    /// XXH3-64 of the primary's own state there. `None`: it could not be taken, and nothing was compared.
    pub hash: Option<u64>,
    /// The other copies, by node.
    pub copies: Vec<CopyReport>,
}

/// What one node found of the partitions that it leads.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// By partition.
    pub partitions: Vec<PartitionReport>,
}

/// Where copies are compared that stand at these places: all of it surely holds, and none of them has to go back.
pub fn pick_position(stand: impl IntoIterator<Item = Position>) -> Option<Position> {
    stand.into_iter().max()
}

impl CopyReport {
    /// What was found of a copy, beside the primary's hash at `at`. `None`: its node did not answer.
    pub fn of(node: NodeName, at: Position, primary: Option<u64>, found: Option<Found>) -> Self {
        let (verdict, position, hash) = match found {
            Some(Found::Hash(hash)) if primary == Some(hash) => (Verdict::Equal, Some(at), Some(hash)),
            Some(Found::Hash(hash)) if primary.is_some() => (Verdict::Differs, Some(at), Some(hash)),
            // There is nothing to compare it with.
            Some(Found::Hash(hash)) => (Verdict::Behind, Some(at), Some(hash)),
            Some(Found::Behind(position) | Found::Passed(position)) => {
                (Verdict::Behind, Some(position), None)
            }
            Some(Found::Missing) => (Verdict::Missing, None, None),
            None => (Verdict::Unreachable, None, None),
        };
        Self { node, verdict, position, hash }
    }
}

impl PartitionReport {
    /// Whether every copy was compared, and is equal.
    pub fn is_equal(&self) -> bool {
        self.hash.is_some() && self.copies.iter().all(|copy| copy.verdict == Verdict::Equal)
    }

    /// Whether a copy holds something else than the primary, at the same position.
    pub fn differs(&self) -> bool {
        self.copies.iter().any(|copy| copy.verdict == Verdict::Differs)
    }
}

impl Report {
    /// Whether all copies of all partitions were compared, and are equal.
    pub fn is_equal(&self) -> bool {
        self.partitions.iter().all(PartitionReport::is_equal)
    }

    /// Takes in what another node found.
    pub fn merge(&mut self, other: Self) {
        self.partitions.extend(other.partitions);
        self.partitions.sort_by_key(|report| report.partition);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Epoch;

    fn at(sequence: u64) -> Position {
        Position::new(Epoch(3), sequence)
    }

    fn verdict(primary: Option<u64>, found: Option<Found>) -> Verdict {
        CopyReport::of(NodeName::new("b").unwrap(), at(7), primary, found).verdict
    }

    #[test]
    fn copies_are_compared_where_the_furthest_stands() {
        assert_eq!(pick_position([at(3), at(9), Position::new(Epoch(2), 40)]), Some(at(9)));
        assert_eq!(pick_position([]), None);
    }

    #[test]
    fn only_the_same_state_at_the_same_place_is_equal() {
        assert_eq!(verdict(Some(5), Some(Found::Hash(5))), Verdict::Equal);
        assert_eq!(verdict(Some(5), Some(Found::Hash(6))), Verdict::Differs);
        assert_eq!(verdict(None, Some(Found::Hash(6))), Verdict::Behind, "nothing to compare it with");
        assert_eq!(verdict(Some(5), Some(Found::Behind(at(2)))), Verdict::Behind);
        assert_eq!(verdict(Some(5), Some(Found::Missing)), Verdict::Missing);
        assert_eq!(verdict(Some(5), None), Verdict::Unreachable);
    }

    #[test]
    fn a_report_is_equal_only_where_everything_was_compared() {
        let copy = |found| CopyReport::of(NodeName::new("b").unwrap(), at(7), Some(5), found);
        let of = |copies, hash| PartitionReport {
            partition: PartitionId::user(1),
            primary: NodeName::new("a").unwrap(),
            position: at(7),
            hash,
            copies,
        };
        let equal = of(vec![copy(Some(Found::Hash(5)))], Some(5));
        assert!(equal.is_equal() && !equal.differs());
        let silent = of(vec![copy(Some(Found::Hash(5))), copy(None)], Some(5));
        assert!(!silent.is_equal() && !silent.differs());
        assert!(of(vec![copy(Some(Found::Hash(6)))], Some(5)).differs());
        assert!(!of(Vec::new(), None).is_equal());
        let mut report = Report { partitions: vec![equal.clone()] };
        report
            .merge(Report { partitions: vec![PartitionReport { partition: PartitionId::user(0), ..equal }] });
        assert!(report.is_equal());
        assert_eq!(report.partitions[0].partition, PartitionId::user(0));
    }
}
