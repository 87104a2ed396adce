//! Key → partition, by hash or by range.

use std::fmt;

use serde::{Deserialize, Serialize};

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

impl fmt::Display for Partitioner {
    /// `hash`, or `range:0..10000`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hash => f.write_str("hash"),
            Self::Range { low, high } => write!(f, "range:{low}..{high}"),
        }
    }
}

/// The most partitions that a group may have.
pub const PARTITIONS_MAX: u32 = 65_536;
