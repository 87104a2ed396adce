//! The figures that the documentation promises, measured on this machine.
//!
//! ```text
//! route    a key to its partition, primary and epoch: time and allocations
//! assign   the strategies: time, movement beside what must move, balance
//! ```
//!
//! Figures of a shared machine jump: compare what stands in one run only.

pub(crate) mod assign;
pub(crate) mod route;
