//! What a call carries from node to node, and how it can fail.

use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::ids::{Epoch, Generation, PartitionId, Version};
use crate::wire::stable_hash;

/// Names a message's type on the wire: XXH3-64 of its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MessageId(pub u64);

impl MessageId {
    /// The id of the message type with this name.
    pub fn of(name: &str) -> Self {
        Self(stable_hash(name.as_bytes()))
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// One call to one partition's worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// The generation in which the caller believes the cluster to be.
    pub generation: Generation,
    /// For which partition.
    pub partition: PartitionId,
    /// The epoch under which the caller believes it to be served there.
    pub epoch: Epoch,
    /// The message's type, which names the worker's kind too.
    pub message: MessageId,
    /// The message itself.
    pub body: Bytes,
}

/// The largest message, and the largest reply, in bytes.
pub const BODY_LEN_MAX: usize = 8 << 20;

/// Why a call has no reply. Each says what to do next, and whether anything may have changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Failure {
    /// The caller's plan is older than the receiver's. Nothing changed: catch up to `version`, ask again.
    #[error("the caller's plan is out of date, version {version} is in force: nothing changed, ask again")]
    Stale {
        /// The plan that the receiver knows.
        version: Version,
    },
    /// The receiver does not serve the partition yet, or is behind the caller. Nothing changed: ask again.
    #[error("the partition is not being served yet: nothing changed, ask again")]
    NotReady,
    /// The node has no lease: it is cut off from the majority. Nothing changed.
    #[error("this node is cut off from the majority of the cluster: nothing changed")]
    NoQuorum,
    /// The partition moved away while the call was under way.
    #[error("the partition moved away during the call{}", may_have(.changed))]
    Fenced {
        /// Whether the worker may have acted on the call.
        changed: bool,
    },
    /// A queue is full. Nothing changed: ask again later, or less.
    #[error("overloaded: nothing changed, ask again later")]
    Overloaded,
    /// No such partition, or nobody serves it.
    #[error("{0}")]
    NoPartition(String),
    /// No reply came in time.
    #[error("no reply within the deadline{}", may_have(.maybe_applied))]
    Timeout {
        /// Whether the worker may have acted on the call, or may still.
        maybe_applied: bool,
    },
    /// The worker refused. What it says is for the caller's eyes.
    #[error("refused: {0}")]
    Rejected(String),
    /// The worker panicked, or could not be started.
    #[error("the worker failed: {0}")]
    WorkerFailed(String),
}

fn may_have(changed: &bool) -> &'static str {
    if *changed { ": it may have been carried out" } else { ": nothing changed" }
}

impl Failure {
    /// Whether the same call may be sent again at once without being carried out twice.
    pub const fn is_safe_to_retry(&self) -> bool {
        matches!(self, Self::Stale { .. } | Self::NotReady | Self::Fenced { changed: false })
    }

    /// Whether anything may have changed.
    pub const fn maybe_changed(&self) -> bool {
        matches!(
            self,
            Self::Fenced { changed: true } | Self::Timeout { maybe_applied: true } | Self::WorkerFailed(_)
        )
    }

    /// The error's name for programs, as it stands in the HTTP interface.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Stale { .. } => "stale",
            Self::NotReady => "not_ready",
            Self::NoQuorum => "no_quorum",
            Self::Fenced { .. } => "fenced",
            Self::Overloaded => "overloaded",
            Self::NoPartition(_) => "no_partition",
            Self::Timeout { .. } => "timeout",
            Self::Rejected(_) => "rejected",
            Self::WorkerFailed(_) => "worker_failed",
        }
    }
}

/// What comes back.
pub type Reply = Result<Bytes, Failure>;
