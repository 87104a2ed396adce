//! What a call carries from node to node, and how it can fail.

use std::fmt;

use bytes::{Buf, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use crate::ids::{Epoch, Generation, GroupId, PartitionId, Version};
use crate::partitions::fence::Fence;
use crate::partitions::identity::Identity;
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

/// What stands before the message in one call to one partition's worker: the fence that the caller believes
/// in, the message's type, which names the worker's kind too, and by what the call is known again, if by anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// By which right the receiver is believed to serve.
    pub fence: Fence,
    /// The message's type.
    pub message: MessageId,
    /// By what the receiver knows the call when it comes a second time. Kinds of workers that keep nothing do not ask.
    pub identity: Option<Identity>,
}

impl Header {
    /// How many bytes a header has, before the identity.
    pub const LEN: usize = 29;

    /// Set in the byte that says the group: an identity follows.
    const IDENTIFIED: u8 = 0x80;

    /// Appends the header as it stands on the wire: little-endian, without a length; fixed but for the identity.
    pub fn encode(&self, into: &mut BytesMut) {
        let mut bytes = [0; Self::LEN];
        bytes[..8].copy_from_slice(&self.fence.generation.0.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.fence.epoch.0.to_le_bytes());
        bytes[16] = self.fence.partition.group as u8;
        bytes[17..21].copy_from_slice(&self.fence.partition.index.to_le_bytes());
        bytes[21..].copy_from_slice(&self.message.0.to_le_bytes());
        match &self.identity {
            None => into.extend_from_slice(&bytes),
            Some(identity) => {
                bytes[16] |= Self::IDENTIFIED;
                into.extend_from_slice(&bytes);
                identity.encode(into);
            }
        }
    }

    /// Reads the header at the beginning of `bytes`, and takes it off. `None`: there is none.
    pub fn decode(bytes: &mut Bytes) -> Option<Self> {
        let fixed: &[u8; Self::LEN] = bytes.first_chunk()?;
        let number = |at: usize| Some(u64::from_le_bytes(fixed.get(at..at + 8)?.try_into().ok()?));
        let group = match fixed[16] & !Self::IDENTIFIED {
            0 => GroupId::Users,
            1 => GroupId::Names,
            _ => return None,
        };
        let identified = fixed[16] & Self::IDENTIFIED != 0;
        let index = u32::from_le_bytes(fixed[17..21].try_into().ok()?);
        let partition = PartitionId { group, index };
        let fence = Fence { generation: Generation(number(0)?), epoch: Epoch(number(8)?), partition };
        let message = MessageId(number(21)?);
        bytes.advance(Self::LEN);
        let identity = if identified { Some(Identity::decode(bytes).ok()?) } else { None };
        Some(Self { fence, message, identity })
    }
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::partitions::identity::{Keyed, Numbered, Position, SessionId};

    fn identity(number: u64, lowest: u64) -> [Option<Identity>; 3] {
        let session = SessionId(Position::new(Epoch(number ^ lowest), number));
        let (number, lowest) = (number.max(lowest), number.min(lowest));
        let keyed = Keyed::new(&number.to_be_bytes(), MessageId(lowest), b"body").unwrap();
        [None, Some(Identity::Numbered(Numbered { session, number, lowest })), Some(Identity::Keyed(keyed))]
    }

    proptest! {
        #[test]
        fn a_header_reads_back(generation: u64, epoch: u64, index: u32, names: bool, message: u64, a: u64, b: u64) {
            let group = if names { GroupId::Names } else { GroupId::Users };
            let partition = PartitionId { group, index };
            let fence = Fence { generation: Generation(generation), epoch: Epoch(epoch), partition };
            for identity in identity(a, b) {
                let header = Header { fence, message: MessageId(message), identity };
                let mut bytes = BytesMut::new();
                header.encode(&mut bytes);
                prop_assert_eq!(bytes.len() == Header::LEN, identity.is_none());
                bytes.extend_from_slice(b"body");
                let mut bytes = bytes.freeze();
                prop_assert_eq!(Header::decode(&mut bytes), Some(header));
                prop_assert_eq!(&bytes[..], b"body");
            }
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let whole = bytes.len() >= Header::LEN && bytes[16] < 2;
            let read = Header::decode(&mut Bytes::from(bytes)).is_some_and(|header| header.identity.is_none());
            prop_assert_eq!(read, whole);
        }
    }
}
