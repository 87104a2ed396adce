//! Key → partition, by hash or by range.
//!
//! ```text
//!   hash    XXH3-64 of the key  ──▶  upper 64 bits of hash × P        "user:1001" → partition-3
//!   range   low ├────┼────┼────┼────┤ high   P ranges in a row        "512"       → p-00500-00999
//! ```
//!
//! Both are fixed for ever: a key that changed its partition would lose its data. The hash is XXH3-64 (frozen
//! specification, seed 0, little-endian machines and others alike), and `hash × P >> 64` gives every partition
//! the same part of the 2⁶⁴ hashes, to within one; a remainder `hash % P` would need a division.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::ids::PartitionId;
use crate::wire::stable_hash;

/// The most partitions that a group may have.
pub const PARTITIONS_MAX: u32 = 65_536;

/// The fewest digits of a bound in a range partition's name.
const DIGITS_MIN: usize = 5;

/// How much of a bad key an error repeats.
const SHOWN_MAX: usize = 32;

/// How keys map to partitions. Fixed for a group's life.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Partitioner {
    /// By XXH3-64 of the key's bytes.
    #[default]
    Hash,
    /// By ranges of whole numbers `low..=high`, as a matchmaking queue wants.
    Range {
        /// The least key.
        low: u64,
        /// The greatest key; it belongs to the last partition.
        high: u64,
    },
}

/// Why a key has no partition. Nothing was changed; send another key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum KeyError {
    /// The group is partitioned by ranges, and the key is not a whole number in decimal digits.
    #[error("the key {0:?} is not a whole number of at most 64 bits, as keys of a range are")]
    InvalidRank(String),
    /// The number is outside of all ranges.
    #[error("the key {rank} is outside of {low}..{high}")]
    OutOfRange {
        /// The number.
        rank: u64,
        /// The least key.
        low: u64,
        /// The greatest key.
        high: u64,
    },
    /// There are no partitions to choose from.
    #[error("the group has no partitions")]
    NoPartition,
}

/// No partition has this name. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no partition {name:?}: expected {first} to {last}")]
pub struct UnknownPartition {
    /// The name that was asked for.
    pub name: String,
    /// The first partition's name.
    pub first: String,
    /// The last partition's name.
    pub last: String,
}

/// Why partitions and partitioner do not fit. Nothing was started; change the knob that is named.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PartitionerError {
    /// Too few or too many partitions.
    #[error("partitions is {0}, expected 1 to {PARTITIONS_MAX}")]
    Partitions(u32),
    /// The range's bounds are the wrong way round.
    #[error("partitioner is range:{low}..{high}, expected the lower bound first")]
    Reversed {
        /// The bound given first.
        low: u64,
        /// The bound given second.
        high: u64,
    },
    /// The range has fewer numbers than there are partitions.
    #[error(
        "partitioner is range:{low}..{high}, which has fewer than {partitions} numbers: widen it, or lower partitions"
    )]
    Narrow {
        /// The least key.
        low: u64,
        /// The greatest key.
        high: u64,
        /// How many partitions there are to be.
        partitions: u32,
    },
    /// The text names no partitioner.
    #[error("partitioner is {0:?}, expected \"hash\" or \"range:LOW..HIGH\" such as \"range:0..10000\"")]
    Unknown(String),
}

/// The partitions beside one of a range.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Neighbours {
    /// The partition of the numbers just below.
    pub below: Option<u32>,
    /// The partition of the numbers just above.
    pub above: Option<u32>,
}

impl Neighbours {
    /// Both, the lower one first.
    pub fn iter(self) -> impl Iterator<Item = u32> {
        self.below.into_iter().chain(self.above)
    }
}

impl Partitioner {
    /// Whether a group may have so many partitions of this kind. Everything else here takes that for granted,
    /// and gives a harmless answer where it does not hold.
    ///
    /// # Errors
    /// When there are no partitions, more than [`PARTITIONS_MAX`], or more than the range has numbers.
    pub fn validate(&self, partitions: u32) -> Result<(), PartitionerError> {
        if partitions == 0 || partitions > PARTITIONS_MAX {
            return Err(PartitionerError::Partitions(partitions));
        }
        let Self::Range { low, high } = *self else { return Ok(()) };
        if low > high {
            return Err(PartitionerError::Reversed { low, high });
        }
        if span(low, high) < u128::from(partitions) {
            return Err(PartitionerError::Narrow { low, high, partitions });
        }
        Ok(())
    }

    /// The index of the partition that a key belongs to, 0 to `partitions − 1`.
    ///
    /// An empty key is hashed like any other. A range takes decimal digits only: no sign, no spaces.
    ///
    /// # Errors
    /// For a range: the key is no whole number, or out of range. Without partitions: always.
    #[inline]
    pub fn partition_of(&self, key: &[u8], partitions: u32) -> Result<u32, KeyError> {
        match self {
            Self::Hash if partitions == 0 => Err(KeyError::NoPartition),
            Self::Hash => Ok(spread(stable_hash(key), partitions)),
            Self::Range { .. } => self.partition_of_rank(rank_of(key)?, partitions),
        }
    }

    /// The same for a number: the partition whose range holds it. By hash, the number's decimal digits are the
    /// key, so that both ways of asking agree.
    ///
    /// # Errors
    /// For a range: the number is out of range. Without partitions: always.
    pub fn partition_of_rank(&self, rank: u64, partitions: u32) -> Result<u32, KeyError> {
        if partitions == 0 {
            return Err(KeyError::NoPartition);
        }
        let Self::Range { low, high } = *self else {
            return self.partition_of(rank.to_string().as_bytes(), partitions);
        };
        if !(low..=high).contains(&rank) {
            return Err(KeyError::OutOfRange { rank, low, high });
        }
        // The last index whose start is not above the rank. The product fits into 81 bits.
        let (above, span) = (u128::from(rank - low) + 1, span(low, high));
        let index = (above * u128::from(partitions) - 1) / span;
        Ok(u32::try_from(index).unwrap_or(u32::MAX))
    }

    /// What the partition with this index is called: `partition-3`, or for a range its first and last number,
    /// `p-00500-00999`, with as many digits as the greatest key has and at least five.
    pub fn name(&self, index: u32, partitions: u32) -> String {
        let Self::Range { high, .. } = *self else { return PartitionId::user(index).to_string() };
        let digits = high.to_string().len().max(DIGITS_MIN);
        let (first, last) = self.range(index, partitions);
        format!("p-{first:0digits$}-{last:0digits$}")
    }

    /// The index of the partition of this name: exactly what [`Self::name`] writes.
    ///
    /// # Errors
    /// When no partition is called so; the error names the first and the last.
    pub fn parse_name(&self, name: &str, partitions: u32) -> Result<u32, UnknownPartition> {
        let index = match self {
            Self::Hash => name.parse().ok().map(|id: PartitionId| id.index),
            Self::Range { .. } => (name.strip_prefix("p-"))
                .and_then(|bounds| rank_of(bounds.split('-').next()?.as_bytes()).ok())
                .and_then(|first| self.partition_of_rank(first, partitions).ok()),
        };
        index.filter(|at| *at < partitions && self.name(*at, partitions) == name).ok_or_else(|| {
            UnknownPartition {
                name: name.to_owned(),
                first: self.name(0, partitions),
                last: self.name(partitions.saturating_sub(1), partitions),
            }
        })
    }

    /// The partitions of the numbers just below and just above this one's. Hashed partitions have none: keys
    /// that are near each other lie anywhere.
    pub fn adjacent(&self, index: u32, partitions: u32) -> Neighbours {
        match self {
            Self::Hash => Neighbours::default(),
            Self::Range { .. } if index >= partitions => Neighbours::default(),
            Self::Range { .. } => Neighbours {
                below: index.checked_sub(1),
                above: index.checked_add(1).filter(|above| *above < partitions),
            },
        }
    }

    /// The first and the last number of a partition; for a hash all there are.
    pub fn range(&self, index: u32, partitions: u32) -> (u64, u64) {
        let Self::Range { low, high } = *self else { return (0, u64::MAX) };
        // Starts are rounded down from equal steps: sizes differ by one at most, and the last one ends at `high`.
        let start = |index: u128| u128::from(low) + index * span(low, high) / u128::from(partitions.max(1));
        let last = start(u128::from(index) + 1).saturating_sub(1).min(u128::from(high));
        let first = start(u128::from(index)).min(u128::from(high));
        (u64::try_from(first).unwrap_or(high), u64::try_from(last).unwrap_or(high))
    }
}

/// Maps all hashes evenly to `0..partitions`: the upper half of the product.
#[inline]
fn spread(hash: u64, partitions: u32) -> u32 {
    ((u128::from(hash) * u128::from(partitions)) >> 64) as u32
}

/// How many numbers `low..=high` has.
fn span(low: u64, high: u64) -> u128 {
    u128::from(high.saturating_sub(low)) + 1
}

/// Reads decimal digits, without allocating unless they are none.
fn rank_of(key: &[u8]) -> Result<u64, KeyError> {
    let digits = key.iter().try_fold(0_u64, |rank, byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        rank.checked_mul(10)?.checked_add(digit)
    });
    digits.filter(|_| !key.is_empty()).ok_or_else(|| {
        let shown = String::from_utf8_lossy(&key[..key.len().min(SHOWN_MAX)]).into_owned();
        KeyError::InvalidRank(if key.len() > SHOWN_MAX { shown + "…" } else { shown })
    })
}

impl fmt::Display for Partitioner {
    /// `hash`, or `range:0..10000`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hash => f.write_str("hash"),
            Self::Range { low, high } => write!(f, "range:{low}..{high}"),
        }
    }
}

impl FromStr for Partitioner {
    type Err = PartitionerError;

    /// Reads what `Display` writes.
    fn from_str(text: &str) -> Result<Self, PartitionerError> {
        if text == "hash" {
            return Ok(Self::Hash);
        }
        let unknown = || PartitionerError::Unknown(text.to_owned());
        let (low, high) =
            text.strip_prefix("range:").and_then(|range| range.split_once("..")).ok_or_else(unknown)?;
        let bound = |text: &str| rank_of(text.as_bytes()).map_err(|_| unknown());
        let (low, high) = (bound(low)?, bound(high)?);
        if low > high {
            return Err(PartitionerError::Reversed { low, high });
        }
        Ok(Self::Range { low, high })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEED: Partitioner = Partitioner::Range { low: 0, high: 10_000 };

    #[test]
    fn twenty_partitions_of_a_range_are_named_as_ever() {
        let names: Vec<String> = (0..20).map(|index| SEED.name(index, 20)).collect();
        assert_eq!(
            (&*names[0], &*names[1], &*names[19]),
            ("p-00000-00499", "p-00500-00999", "p-09500-10000")
        );
        for (index, name) in (0..).zip(&names[..19]) {
            assert_eq!(*name, format!("p-{:05}-{:05}", index * 500, index * 500 + 499));
        }
        for (rank, index) in [(0, 0), (499, 0), (500, 1), (999, 1), (9_499, 18), (9_500, 19), (10_000, 19)] {
            assert_eq!(SEED.partition_of_rank(rank, 20), Ok(index), "{rank}");
            assert_eq!(SEED.partition_of(rank.to_string().as_bytes(), 20), Ok(index), "{rank}");
        }
    }

    #[test]
    fn a_key_outside_of_the_range_is_refused_with_the_reason() {
        let out = KeyError::OutOfRange { rank: 10_001, low: 0, high: 10_000 };
        assert_eq!(SEED.partition_of(b"10001", 20), Err(out));
        let low = Partitioner::Range { low: 5, high: 10 };
        assert!(matches!(low.partition_of(b"4", 2), Err(KeyError::OutOfRange { rank: 4, .. })));
        for bad in ["", "-1", "+1", " 1", "1.5", "abc", "18446744073709551616", "\u{0661}"] {
            assert_eq!(
                SEED.partition_of(bad.as_bytes(), 20),
                Err(KeyError::InvalidRank(bad.into())),
                "{bad}"
            );
        }
        let Err(KeyError::InvalidRank(shown)) = SEED.partition_of(&[b'x'; 1 << 20], 20) else { panic!() };
        assert!(shown.len() < 64);
        assert_eq!(SEED.partition_of(b"1", 0), Err(KeyError::NoPartition));
        assert_eq!(Partitioner::Hash.partition_of(b"1", 0), Err(KeyError::NoPartition));
    }

    #[test]
    fn ranges_follow_each_other_without_gap_and_differ_by_one_at_most() {
        for (low, high, partitions) in
            [(0, 9, 10), (0, 10, 10), (7, 105, 10), (0, u64::MAX, 3), (u64::MAX - 9, u64::MAX, 7)]
        {
            let range = Partitioner::Range { low, high };
            assert_eq!(range.validate(partitions), Ok(()));
            let (mut next, mut sizes) = (Some(low), Vec::new());
            for index in 0..partitions {
                let (first, last) = range.range(index, partitions);
                assert_eq!(Some(first), next);
                for rank in [first, last] {
                    assert_eq!(range.partition_of_rank(rank, partitions), Ok(index));
                }
                sizes.push(last - first);
                next = last.checked_add(1);
            }
            assert_eq!(next, high.checked_add(1));
            assert!(sizes.iter().max().unwrap() - sizes.iter().min().unwrap() <= 1);
        }
    }

    #[test]
    fn neighbours_exist_inside_a_range_only() {
        let beside = |index| SEED.adjacent(index, 20).iter().collect::<Vec<_>>();
        assert_eq!((beside(0), beside(7), beside(19)), (vec![1], vec![6, 8], vec![18]));
        assert_eq!((beside(20), beside(u32::MAX)), (vec![], vec![]));
        assert_eq!(SEED.adjacent(0, 1), Neighbours::default());
        assert_eq!(Partitioner::Hash.adjacent(3, 20), Neighbours::default());
    }

    #[test]
    fn names_read_back_exactly_what_they_print() {
        let wide = Partitioner::Range { low: 10, high: 123_456_789 };
        for partitioner in [Partitioner::Hash, SEED, wide] {
            for index in 0..20 {
                assert_eq!(partitioner.parse_name(&partitioner.name(index, 20), 20), Ok(index));
            }
            for bad in [
                "",
                "partition-20",
                "partition-01",
                "names-1",
                "p-0-499",
                "p-00000-00500",
                "p-00001-00499",
                "p-",
            ] {
                assert!(partitioner.parse_name(bad, 20).is_err(), "{bad}");
            }
        }
        let refused = SEED.parse_name("partition-3", 20).unwrap_err().to_string();
        assert!(refused.contains("p-00000-00499") && refused.contains("p-09500-10000"), "{refused}");
    }

    #[test]
    fn knobs_are_named_with_their_bounds() {
        let says =
            |partitioner: &Partitioner, partitions| partitioner.validate(partitions).unwrap_err().to_string();
        assert_eq!(says(&Partitioner::Hash, 0), "partitions is 0, expected 1 to 65536");
        assert_eq!(says(&Partitioner::Hash, 65_537), "partitions is 65537, expected 1 to 65536");
        let narrow = Partitioner::Range { low: 1, high: 19 };
        assert!(says(&narrow, 20).contains("fewer than 20 numbers"));
        assert_eq!(narrow.validate(19), Ok(()));
        assert!(says(&Partitioner::Range { low: 2, high: 1 }, 1).contains("lower bound first"));
    }

    #[test]
    fn partitioners_read_back_what_they_print() {
        for partitioner in [Partitioner::Hash, SEED, Partitioner::Range { low: 3, high: u64::MAX }] {
            assert_eq!(partitioner.to_string().parse(), Ok(partitioner));
        }
        for bad in [
            "",
            "Hash",
            "range",
            "range:",
            "range:1",
            "range:1..",
            "range:1..=2",
            "range:-1..2",
            "range:2..1",
        ] {
            assert!(bad.parse::<Partitioner>().is_err(), "{bad}");
        }
    }
}
