//! Which worker runs where, and who may write.
//!
//! ```text
//! fence       what a writer must show
//! routing     key → partition, primary, epoch: the table that every node reads
//! reconcile   snapshot → what to start and stop here
//! request     what a call carries, and how it can fail
//! ```

pub mod fence;
pub mod reconcile;
pub mod record;
pub mod request;
pub mod routing;
