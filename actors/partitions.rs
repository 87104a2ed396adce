//! What runs on this node, and how every node reaches it.
//!
//! ```text
//!  snapshot ─▶ PartitionManager ─ start, stop ─▶ PartitionWorker ◀─ mailbox ─┐
//!     │                └─ opens and closes ─▶ ReadTable ◀─ lookup ───────────┤
//!     └──────▶ Router ─ swaps whole ─▶ RoutingTable ◀─ lookup ─ call(key) ───┘
//! ```
//!
//! The tables belong to the node, not to the actors that write them: an actor that crashed comes back to its table.

pub mod belief;
pub mod books;
pub mod delivery;
pub mod gate;
pub mod host;
pub mod machine;
pub mod merging;
pub mod meter;
pub mod partition_manager;
pub mod partition_worker;
pub mod promotions;
pub mod read_table;
pub mod replica_reads;
pub mod replication;
pub mod router;
pub mod witness;

pub use belief::Belief;
pub use books::Books;
pub use gate::Gate;
pub use host::{Begin, Host, Hosted, Kinds, KindsByGroup, Place};
pub use machine::{Journal, Machine};
pub use merging::Merges;
pub use partition_manager::PartitionManager;
pub use promotions::Promotions;
pub use read_table::ReadTable;
pub use replica_reads::{ReplicaReads, ReplicaReply};
pub use replication::Replication;
pub use router::Router;
pub use witness::Witness;
