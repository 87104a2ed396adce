//! The figures that the documentation promises, measured on this machine.
//!
//! ```text
//! route    a key to its partition, primary and epoch: time and allocations
//! assign   the strategies: time, movement beside what must move, balance
//! calls    from key and message to reply, between two processes, beside a bare RPC and plain ractor_cluster
//! failover from a node's death to the first answer for its keys; boot, memory, elections that nobody asked for
//! handover what moving partitions costs those who write to them, and how fast whole copies are made
//! config   setting a value for the whole cluster, beside the disk's fsync; reading one
//! names    registrations, lookups, how soon others see them, what a name weighs
//! children starts, and from a node's death to the first answer of its children
//! pubsub   messages to eight subscribers in other processes, beside the groups of ractor_cluster
//! write    kv puts by mode and copies, beside a bare RPC over as many hops and the disk's fsyncs; memory over millions
//! ```
//!
//! Figures of a shared machine jump: compare what stands in one run only.

pub(crate) mod assign;
pub(crate) mod calls;
pub(crate) mod children;
pub(crate) mod config;
pub(crate) mod failover;
pub(crate) mod handover;
pub(crate) mod names;
pub(crate) mod pubsub;
pub(crate) mod route;
pub(crate) mod write;
