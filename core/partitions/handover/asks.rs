//! What nodes ask each other about copies: whether a state may come, what is being copied, and what a copy holds.

use serde::{Deserialize, Serialize};

use super::Handover;
use crate::ids::PartitionId;
use crate::partitions::equality::{Found, Report};
use crate::partitions::identity::Position;
use crate::partitions::replication::wire::SnapshotHeader;

/// A question from node to node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ask {
    /// May this state come now? It is not even written down before. Answered by [`Answer::Admission`].
    Admit(SnapshotHeader),
    /// What is being copied, from you and to you? Answered by [`Answer::Moves`].
    Moves,
    /// Apply no more of this partition's log for a moment, and say where you are. Answered by [`Answer::Stands`].
    Hold(PartitionId),
    /// What is your state at this place of the partition's log? You were asked to hold before it. Answered by
    /// [`Answer::Found`].
    Hash {
        /// Which partition.
        partition: PartitionId,
        /// Where.
        at: Position,
    },
    /// Bring the copies of what you lead up to date, and compare them. Answered by [`Answer::Report`].
    FullSync,
    /// The same of one partition, if you lead it.
    Push(PartitionId),
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// Whether a state may come.
    Admission(Admission),
    /// What is being copied, from the node that answers and to it.
    Moves(Vec<Shown>),
    /// Up to where the log was applied; `None`: there is no copy here, or it is of no use.
    Stands(Option<Position>),
    /// What was found at the place that was asked for.
    Found(Found),
    /// Whether the copies are equal.
    Report(Report),
    /// Too much of this kind is asked for already. Nothing was done.
    Busy,
}

/// Whether a state may come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Admission {
    /// It may, soon: a place is kept for a few seconds.
    Welcome,
    /// As many come here already as may at once: ask again later.
    Busy,
    /// It would come in vain: the copy that it is for is no more, or a newer primary was here.
    Moot,
}

/// How far one copy is, as it is told from node to node: times are lengths, for clocks differ.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Shown {
    /// Which one.
    pub handover: Handover,
    /// Whether it waits for its turn.
    pub waits: bool,
    /// Milliseconds since it was asked for, or, on the receiving side, began.
    pub age_ms: u64,
    /// Bytes that have been sent, or have arrived.
    pub bytes_done: u64,
    /// Bytes in all; `None` while it waits, for the state is written down when its turn comes.
    pub bytes_total: Option<u64>,
}
