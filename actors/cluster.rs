//! How this node lives with the others.
//!
//! ```text
//! membership              runs gossip over the transport; shows who is there
//! consensus               openraft, where this node votes
//! pubsub                  topics, retained topics
//! config_store            the cluster's own configuration, as this node has it
//! plans                   the newest committed plan, from wherever it comes first
//! lease_keeper            asks for this node's lease, and opens and closes its gate
//! assignment_coordinator  makes the plans, while this node leads
//! health_monitor          how all of it is, looked at again and again
//! ```

pub mod assignment_coordinator;
pub mod config_store;
pub mod consensus;
pub mod health_monitor;
pub mod lease_keeper;
pub mod membership;
pub mod plans;
pub mod pubsub;
