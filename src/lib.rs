//! Horde/OTP for Rust: an actor-cluster runtime that keeps a cluster's partitions, singletons and names alive.

pub mod config;
pub mod http;
