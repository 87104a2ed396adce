//! What a primary and the copies of its partition say to each other.
//!
//! Every message opens with the fence of the primary that asked; its partition says which copy is meant. Snapshots go in
//! chunks on a connection for bulk: the law sees their header once all of one has come.

use serde::{Deserialize, Serialize};

use super::{CopyId, Entry, Position};
use crate::ids::Life;
use crate::partitions::fence::Fence;

/// From a primary to one node's copy.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Request<E> {
    /// Take nothing from an older epoch any more, and say what you have. Answered by [`Reply::Sealed`].
    Seal {
        /// The new primary's.
        fence: Fence,
        /// The life of this node's copy that counts, if one does.
        counts: Option<Life>,
    },
    /// Take these entries. Answered by [`Reply::Acked`], or [`Reply::Behind`] where they do not fit.
    Append {
        /// The primary's, compared when the copy takes the entries.
        fence: Fence,
        /// Which life of the copy is meant.
        to: Life,
        /// The life of this node's copy that counts, if one does.
        counts: Option<Life>,
        /// Where the entry before the first of these stands.
        prev: Position,
        /// Entries one after the other. None: only the mark.
        entries: Vec<Entry<E>>,
        /// Up to which sequence all holds.
        mark: u64,
    },
    /// Say what comes after this in your log: the new primary's own is older. Answered by [`Reply::Tail`] or
    /// [`Reply::Snapshot`].
    Fetch {
        /// The new primary's.
        fence: Fence,
        /// Which life of the copy is meant.
        to: Life,
        /// The life of the asker's own copy.
        asker: Life,
        /// The last entry of the asker's log.
        last: Position,
        /// The last entry of it that the best log surely has too.
        shared: Position,
    },
}

/// From one node's copy to the primary that asked.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Reply<E> {
    /// Nothing older than `fence` is taken any more.
    Sealed {
        /// Whose request is answered.
        fence: Fence,
        /// Which copy answers.
        by: CopyId,
        /// Lives whose disk this copy read when it began, the newest last: what they had not written is missing.
        former: Vec<Life>,
        /// Its log's last entry.
        last: Position,
        /// The last that surely holds, as far as it knows.
        mark: Position,
    },
    /// The copy has everything of the primary's log up to here, on disk where that is promised.
    Acked {
        /// Whose request is answered.
        fence: Fence,
        /// Which copy answers.
        by: CopyId,
        /// The sequence of the last entry that surely is the primary's.
        end: u64,
    },
    /// What came does not fit behind what the copy has. Nothing changed.
    Behind {
        /// Whose request is answered.
        fence: Fence,
        /// Which copy answers.
        by: CopyId,
        /// What it should have followed, or the snapshot that did not fit.
        prev: Position,
        /// Its log's last entry.
        last: Position,
        /// The last that surely holds, as far as it knows.
        mark: Position,
    },
    /// A newer primary was here. Nothing changed, and nothing of the older one is taken any more.
    Refused {
        /// Whose request is answered.
        fence: Fence,
        /// Which copy answers.
        by: CopyId,
        /// The newer fence.
        sealed: Fence,
    },
    /// Part of the copy's log.
    Tail {
        /// Whose request is answered.
        fence: Fence,
        /// Which copy answers.
        by: CopyId,
        /// Where the entry before the first of these stands.
        prev: Position,
        /// Entries one after the other.
        entries: Vec<Entry<E>>,
    },
    /// The log was cut: its snapshot comes, in chunks.
    Snapshot {
        /// What comes.
        header: SnapshotHeader,
        /// Which copy answers.
        by: CopyId,
    },
}

impl<E> Request<E> {
    /// Whose request it is.
    pub const fn fence(&self) -> &Fence {
        match self {
            Self::Seal { fence, .. } | Self::Append { fence, .. } | Self::Fetch { fence, .. } => fence,
        }
    }
}

impl<E> Reply<E> {
    /// Whose request is answered.
    pub const fn fence(&self) -> &Fence {
        match self {
            Self::Sealed { fence, .. }
            | Self::Acked { fence, .. }
            | Self::Behind { fence, .. }
            | Self::Refused { fence, .. }
            | Self::Tail { fence, .. } => fence,
            Self::Snapshot { header, .. } => &header.fence,
        }
    }

    /// Which copy answers.
    pub const fn by(&self) -> &CopyId {
        match self {
            Self::Sealed { by, .. }
            | Self::Acked { by, .. }
            | Self::Behind { by, .. }
            | Self::Refused { by, .. }
            | Self::Tail { by, .. }
            | Self::Snapshot { by, .. } => by,
        }
    }
}

/// What stands before a snapshot's first chunk, and before each: a copy's whole state at one position.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SnapshotHeader {
    /// The primary's that sends it, or fetches it.
    pub fence: Fence,
    /// Which life of the receiver's copy is meant.
    pub to: Life,
    /// The life of the receiver's copy that counts, if one does.
    pub counts: Option<Life>,
    /// The last entry whose effect is in it. It surely holds.
    pub position: Position,
}

/// Some bytes of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotChunk {
    /// Which snapshot.
    pub header: SnapshotHeader,
    /// How many bytes it has in all.
    pub len: u64,
    /// Where these bytes belong, from its beginning.
    pub offset: u64,
    /// The bytes.
    #[serde(with = "serde_bytes")]
    pub bytes: Vec<u8>,
}

/// The most bytes of one chunk.
pub const CHUNK_LEN_MAX: usize = 256 << 10;
