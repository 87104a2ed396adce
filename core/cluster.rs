//! How many nodes act as one: who is there, who may serve, and which plan holds.
//!
//! ```text
//! greeting      what two nodes tell each other first, and why one refuses the other
//! sides         what becomes of the parts of a split cluster, where availability goes first
//! refusals      when a node that nobody takes in stops trying
//! member        what a node says of itself; what the cluster committed about it
//! plan          from one snapshot to the next: promotions, epochs, handovers
//! snapshot      one committed plan: members, epochs, copies
//! outline       a plan as it is proposed, without what only steps change
//! membership    discovers and suspects (foca inside); decides nothing
//! lease         who may serve, and until when
//! asks          what is asked of the leader
//! coordinator   when to plan anew, and what must be released first
//! control       the replicated state and its commands
//! configuration the cluster's own values, the same on every node
//! health        how all of it is, with reasons and numbers
//! voters        which nodes vote on it
//! election      when a voter stands to lead them
//! transport     when to dial again, how much may be under way, who has waited too long
//! topics        publish and subscribe: retained values, order per publisher
//! ```

pub mod asks;
pub mod configuration;
pub mod control;
pub mod coordinator;
pub mod election;
pub mod greeting;
pub mod health;
pub mod lease;
pub mod member;
pub mod membership;
pub mod outline;
pub mod plan;
pub mod refusals;
pub mod sides;
pub mod snapshot;
pub mod topics;
pub mod transport;
pub mod voters;
