//! Which worker runs where, and who may write.
//!
//! ```text
//! fence       what a writer must show
//! routing     key → partition, primary, epoch: the table that every node reads
//! reconcile   snapshot → what to start and stop here
//! request     what a call carries, and how it can fail
//! record      which copies of a partition count: committed
//! replication how a log is kept on them
//! identity    by what a request is known again
//! entry       what one entry of a partition's log holds
//! session     each request takes effect once, however often it is sent
//! handover    how many partitions are copied at once, and how fast
//! equality    whether the copies of a partition hold the same
//! ledger      every request accepted ends in exactly one way
//! invariants  the promises that must hold at every moment, looked at all the time
//! ```

pub mod entry;
pub mod equality;
pub mod fence;
pub mod handover;
pub mod identity;
pub mod invariants;
pub mod ledger;
#[cfg(test)]
mod plans;
pub mod reconcile;
pub mod record;
pub mod replication;
pub mod request;
pub mod routing;
pub mod session;
