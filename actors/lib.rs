//! The residents of tumen: everything that waits, sends, spawns, or reads a clock.
//!
//! ```text
//! Node  rest_for_one
//! ├ Storage
//! ├ Transport              listener owned by the root
//! ├ Membership
//! ├ Consensus              openraft, voters only · Lease
//! ├ PubSub
//! ├ Partitions rest_for_one    AssignmentCoordinator · PartitionManager ─ PartitionWorker × n · Router
//! ├ Names                  Registry · DistributedSupervisor ─ DirectoryAgent × n, ChildActor × n
//! ├ HealthMonitor
//! └ Doors      one_for_one     HTTP
//! ```
//!
//! Beside them, on the node's sessions: exchange, the users' own topics and groups, which waits for nobody.
//!
//! An actor names only actors that start before it; news travels back through ports that the earlier one publishes.

pub mod clock;
pub mod cluster;
pub mod codec;
pub mod exchange;
pub mod names;
pub mod node;
pub mod node_supervisor;
pub mod partitions;
pub mod port;
pub mod store;
pub mod subscription;
pub mod transport;
