//! How many nodes act as one: who is there, who may serve, and which plan holds.
//!
//! ```text
//! greeting      what two nodes tell each other first, and why one refuses the other
//! member        what a node says of itself; what the cluster committed about it
//! snapshot      one committed plan: members, epochs, copies
//! membership    discovers and suspects (foca inside); decides nothing
//! lease         who may serve, and until when
//! coordinator   when to plan anew, and what must be released first
//! control       the replicated state and its commands
//! topics        publish and subscribe: retained values, order per publisher
//! ```

pub mod greeting;
pub mod member;
pub mod membership;
pub mod snapshot;
pub mod topics;
