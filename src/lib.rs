//! Horde/OTP for Rust: an actor-cluster runtime that keeps a cluster's partitions, singletons and names alive.
//!
//! ```no_run
//! use tumen::prelude::*;
//!
//! #[derive(Serialize, Deserialize)]
//! struct Add { n: u32 }
//! impl Message for Add { type Reply = u32; }
//!
//! #[derive(Default)]
//! struct Counter { total: u32 }
//!
//! impl Worker for Counter {
//!     const KIND: &'static str = "counter";
//! }
//!
//! impl Handle<Add> for Counter {
//!     async fn handle(&mut self, add: Add, _: &mut Context<Self>) -> Result<u32> {
//!         self.total = self.total.checked_add(add.n).ok_or_else(|| Error::rejected("the counter is full"))?;
//!         Ok(self.total)
//!     }
//! }
//!
//! #[tokio::main]
//! async fn main() -> Result<()> {
//!     let node = Node::builder("shop", "node-1")
//!         .listen("127.0.0.1:7100")
//!         .partitions(64)
//!         .worker::<Counter>(|w| w.handles::<Add>())
//!         .start()
//!         .await?;
//!     node.ready().await?;
//!
//!     // Every node of the cluster finds the one worker that serves this key, and the calls come to it one by one.
//!     let total = node.call("user:1001", Add { n: 2 }).await?;
//!     assert_eq!(total, 2);
//!
//!     node.stop().await;
//!     Ok(())
//! }
//! ```
//!
//! ```text
//! worker   what you write: messages, workers, handlers        node     a running node: calls, partitions, orders, news
//! names    what you write: children, found by their names
//! error    the one error, and what to do next                 config   everything that can be set, from five sources
//! kv       a worker in the box: bytes by key                  http     what people and other programs ask a node
//! state    a cluster's state, carried from one to another
//! ```

mod bench;
mod children;
#[doc(hidden)]
pub mod cli;
pub mod config;
mod demo;
pub mod error;
pub mod http;
pub mod kv;
pub mod names;
pub mod node;
pub mod prelude;
pub mod state;
pub mod worker;

pub use error::{Error, Result};
/// What happens to a node and its cluster: see [`node::Builder::on_event`].
pub use http::shapes::Event;
pub use names::{Child, ChildContext, ChildError, ChildRef, ChildSpec, Hosted, Receive, Receives, RemoteRef};
pub use node::{
    AssignmentsUpdated, Builder, ChildCounts, ChildInfo, Comparison, ConfigEvent, ConfigValue, Created,
    FullSync, Gathered, Group, Heard, NameEvent, Node, Partition, PartitionStats, Placed, Rebalanced,
    Registered, ReplicaRead, Replicas, Reported, Sent, Subscription, Taken, Told, Topic, TopicSubscription,
};
/// For [`Node::host`]: actors of your own are ractor's, of this version.
pub use ractor;
/// For [`node::Builder::under`]: the actor of your own that a node is put under.
pub use ractor::ActorCell;
pub use state::ClusterState;
pub use tumen_actors::exchange::{Confirmed, Members};
pub use tumen_actors::node::{ConfigFailure, ControlReport};
pub use tumen_actors::partitions::router::{CallOptions, IdempotencyKey};
pub use tumen_core::assignment;
pub use tumen_core::cluster::asks::LossAccepted;
pub use tumen_core::cluster::configuration::Expected;
pub use tumen_core::cluster::coordinator::{CrashProof, Create, Rebalance};
/// What [`Node::health`] tells.
pub use tumen_core::cluster::health;
pub use tumen_core::cluster::sides::Consistency;
pub use tumen_core::cluster::snapshot::{Mode, Snapshot};
pub use tumen_core::cluster::topics::Overflow;
pub use tumen_core::exchange::{Published, TopicSeen};
pub use tumen_core::partitioner::Partitioner;
pub use tumen_core::partitions::equality;
pub use tumen_core::partitions::identity::Position;
pub use tumen_core::partitions::invariants::{Report as InvariantReport, Violation};
pub use tumen_core::partitions::ledger::Ledger;
pub use tumen_core::partitions::record::CopyId;
pub use tumen_core::partitions::request::Failure;
pub use tumen_core::{ConfigVersion, Epoch, NodeName, PartitionId, Version};
pub use worker::{Context, Handle, Handlers, Merge, Message, Place, Query, Replicated, Worker, WorkerError};
