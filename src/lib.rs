//! Horde/OTP for Rust: an actor-cluster runtime that keeps a cluster's partitions, singletons and names alive.

mod children;
#[doc(hidden)]
pub mod cli;
pub mod config;
mod demo;
pub mod error;
pub mod http;
pub mod kv;
pub mod prelude;
pub mod worker;

pub use error::{Error, Result};
pub use tumen_core::partitions::request::Failure;
pub use worker::{Context, Handle, Handlers, Message, Place, Worker, WorkerError};
