//! Names, supervised children and singletons: who holds which, and how that survives its node.
//!
//! ```text
//! name       any bytes that are not too many
//! claim      what stands under a name: a plain holder, or a child with its specification and stage
//! meta       what the whole cluster is told, under keys that are no names
//! directory  the replicated state of one partition of names, and what may be claimed in it
//! orders     what the directory's primary tells the nodes, until what runs is what stands there
//! crew       what one node runs for all directories: starts, stops, and reports
//! conflict   one name that two sides of a cluster gave to somebody each, and who keeps it
//! placement  which node is to run a child
//! placements those that a node has, its user's own among them
//! request    what is asked of a directory, and answered
//! line       in which order one node's messages reach whoever answers under a name
//! ```
//!
//! ```text
//!  start_child ─▶ Directory: Added ─held by W─▶ Orders: place ─▶ Ordered{node, number} ─held by W─▶ Start{number} ─▶ Crew
//!                              Running ◀─ Started{number} ◀──────────────── runs, once for each number ◀─┘
//!        node gone, or it ended  │
//!                                ▼
//!                             Waiting ─▶ the next number, perhaps elsewhere: only after the last one surely runs no more
//! ```
//!
//! One authority, the directory: a claim stands, held by a majority of its copies, *before* anything runs under it. So no
//! crash between two steps leaves an orphan, or starts a second instance.

use crate::cluster::snapshot::{GroupSpec, Mode};
use crate::ids::{GroupId, PartitionId};
use crate::partitioner::Partitioner;

pub mod claim;
pub mod conflict;
pub mod crew;
pub mod directory;
pub mod line;
pub mod meta;
pub mod name;
pub mod orders;
pub mod placement;
pub mod placements;
pub mod request;

pub use claim::{Child, Claim, ClaimNumber, Held, Holder, Reason, Spec, Stage};
pub use directory::Directory;
pub use meta::Meta;
pub use name::{Name, NameLenError};

/// How many partitions the names have, each with a directory of its own. The same in every cluster. Each costs every cluster a
/// promotion where its primary dies, and heartbeats where nothing happens: so no more than keep the nodes busy that hold them.
pub const DIRECTORIES: u32 = 16;

/// How many copies of each are wanted.
pub const DIRECTORY_COPIES: u32 = 3;

/// What all nodes agree on about the names' partitions, in a cluster of this mode. A name that was acknowledged is on a majority
/// of copies, on their disks too where the cluster's other data is.
pub fn group_spec(mode: Mode) -> GroupSpec {
    GroupSpec {
        partitions: DIRECTORIES,
        replication: DIRECTORY_COPIES,
        strategy: "balanced".to_owned(),
        mode: mode.max(Mode::Sync),
        partitioner: Partitioner::Hash,
        replicated: true,
    }
}

/// The directory that a name belongs to: by its hash, the same on every platform and for ever.
pub fn directory_of(name: &Name) -> PartitionId {
    directory_of_bytes(name.as_bytes())
}

/// The same for a name's bytes.
pub fn directory_of_bytes(name: &[u8]) -> PartitionId {
    // It fails where there are no partitions only.
    let index = Partitioner::Hash.partition_of(name, DIRECTORIES).unwrap_or_default();
    PartitionId { group: GroupId::Names, index }
}
