//! Consensus.

mod raft_store;
mod types;
