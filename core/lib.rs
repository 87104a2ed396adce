//! The laws of tumen: every decision, as plain values. No async, no clock, no chance.
//!
//! What happened goes in, what is to be done comes out; time arrives as a [`Moment`], chance as a seed.
//! Each tower stands on the one below it:
//!
//! ```text
//! history       whether what callers were told can be explained by one order
//! wire          every value that crosses nodes, versioned
//! exchange      topics and groups of the users' own: who listens where, what is sent to whom
//! names         name · claim · directory · orders · crew      who holds which name, and what runs where under it
//! supervision   what to do about an actor that stopped
//! partitions    fence · routing · reconcile            which worker runs where, who may write
//! cluster       membership · lease · snapshot · coordinator · control · configuration · topics
//! assignment    balanced · rotation · consistent hash · rendezvous · certificate
//! partitioner   key → partition, by hash or by range
//! time · ids    newtypes
//! ```

pub mod assignment;
pub mod cluster;
pub mod exchange;
pub mod history;
pub mod ids;
pub mod names;
pub mod partitioner;
pub mod partitions;
pub mod supervision;
mod text;
pub mod time;
pub mod wire;

pub use ids::{
    Boot, ClusterId, ClusterName, ConfigVersion, Epoch, Generation, GroupId, Kind, Life, NodeBoot, NodeName,
    PartitionId, PlacementName, Revision, Term, Version,
};
pub use time::{Moment, UnixMillis};
