//! Names, supervised children and singletons: who holds which, and how that survives its node.
//!
//! ```text
//! name       any bytes that are not too many
//! claim      what stands under a name: a plain holder, or a child with its specification and stage
//! directory  the replicated state of one partition of names, and what may be claimed in it
//! orders     what the directory's primary tells the nodes, until what runs is what stands there
//! crew       what one node runs for all directories: starts, stops, and reports
//! placement  which node is to run a child
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

pub mod claim;
pub mod crew;
pub mod directory;
pub mod name;
pub mod orders;
pub mod placement;

pub use claim::{Child, Claim, ClaimNumber, Held, Holder, Reason, Spec, Stage};
pub use directory::Directory;
pub use name::{Name, NameLenError};
