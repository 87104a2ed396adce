//! What became of each partition's requests on this node, counted as they end.
//!
//! ```text
//!  batch ─ accepted ─▶ open ─┬─ answered at once ─▶ counted by the batch, all together
//!                            └─ held for the log ─▶ counted by the delivery, when it is told
//! ```
//!
//! The law is [`tumen_core::partitions::ledger`]. Workers count without locks, and once for many messages.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use dashmap::DashMap;
use tumen_core::ids::{Epoch, PartitionId};
use tumen_core::partitions::ledger::{Account, Counts, Ending, Ledger};
use tumen_core::partitions::request::Failure;

/// The accounts of all partitions that this node has served since it was started. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Books {
    tallies: Arc<DashMap<PartitionId, Arc<Tally>>>,
}

/// One partition's account.
#[derive(Debug, Default)]
pub struct Tally {
    sent: AtomicU64,
    ended: [AtomicU64; Ending::COUNT],
    unknown: AtomicU64,
    account: Mutex<Account>,
}

impl Books {
    /// A partition's account.
    pub fn tally(&self, partition: PartitionId) -> Arc<Tally> {
        Arc::clone(&self.tallies.entry(partition).or_default())
    }

    /// All accounts as they are now.
    pub fn ledger(&self) -> Ledger {
        let mut ledger = Ledger::default();
        for tally in self.tallies.iter() {
            *ledger.account_mut(*tally.key()) = tally.account();
        }
        ledger
    }

    /// What became of the requests of each partition so far, by partition.
    pub fn counts(&self) -> Vec<(PartitionId, Counts)> {
        let mut counts: Vec<_> = self.tallies.iter().map(|tally| (*tally.key(), tally.counts())).collect();
        counts.sort_unstable_by_key(|(partition, _)| *partition);
        counts
    }
}

impl Tally {
    /// A request ended that was accepted before.
    pub fn end(&self, ending: Ending) {
        // Whoever sees the end sees the beginning: more endings than requests would be a fault.
        self.ended[ending.index()].fetch_add(1, Ordering::Release);
    }

    /// Whoever held an accepted request is gone.
    pub fn lose(&self) {
        self.unknown.fetch_add(1, Ordering::Relaxed);
        self.end(Ending::Expired);
    }

    /// How many came so far, and what became of them.
    pub fn counts(&self) -> Counts {
        let ended = self.ended.each_ref().map(|count| count.load(Ordering::Acquire));
        Counts::counted(self.sent.load(Ordering::Relaxed), ended, self.unknown.load(Ordering::Relaxed))
    }

    /// The partition begins to move away from this node.
    pub fn handle_handover_begun(&self, from: Epoch) {
        self.with_account(|account| account.handle_handover_begun(from));
    }

    /// It has moved away.
    pub fn handle_handover_ended(&self) {
        self.with_account(|account| account.handle_handover_ended(None));
    }

    fn account(&self) -> Account {
        self.with_account(|account| account.clone())
    }

    fn with_account<T>(&self, act: impl FnOnce(&mut Account) -> T) -> T {
        let mut account = self.account.lock().unwrap_or_else(PoisonError::into_inner);
        account.observe(self.counts());
        act(&mut account)
    }
}

/// Messages that a worker took together, and what became of them so far. Dropped, what is open is lost if it was begun,
/// and was not looked at otherwise.
#[derive(Debug)]
pub struct Batch {
    tally: Arc<Tally>,
    open: u64,
    ended: [u64; Ending::COUNT],
    begun: bool,
}

impl Batch {
    /// So many messages were taken.
    pub fn accept(tally: Arc<Tally>, count: usize) -> Self {
        tally.sent.fetch_add(count as u64, Ordering::Relaxed);
        Self { tally, open: count as u64, ended: [0; Ending::COUNT], begun: false }
    }

    /// One of them is being handled.
    pub const fn begin(&mut self) {
        self.begun = true;
    }

    /// It has ended.
    pub const fn end(&mut self, ending: Ending) {
        self.begun = false;
        self.open = self.open.saturating_sub(1);
        self.ended[ending.index()] += 1;
    }

    /// Somebody else will say how one of them ends.
    pub fn hand_on(&mut self) -> Arc<Tally> {
        self.open = self.open.saturating_sub(1);
        Arc::clone(&self.tally)
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        if self.open > 0 && self.begun {
            self.open -= 1;
            self.tally.lose();
        }
        self.ended[Ending::of_failure(&Failure::NotReady).index()] += self.open;
        for (total, count) in self.tally.ended.iter().zip(self.ended).filter(|(_, count)| *count > 0) {
            total.fetch_add(count, Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_message_of_a_batch_ends_once() {
        let books = Books::default();
        let partition = PartitionId::user(3);
        let mut batch = Batch::accept(books.tally(partition), 5);
        batch.begin();
        batch.end(Ending::Answered);
        let held = batch.hand_on();
        let total = books.ledger().total();
        assert_eq!((total.sent(), total.open()), (5, 5), "counted when the batch ends");
        batch.begin();
        drop(batch);
        let total = books.ledger().total();
        assert_eq!((total.answered(), total.expired(), total.unknown()), (1, 1, 1));
        assert_eq!((total.rejected_total(), total.open()), (2, 1), "two were not looked at");
        held.end(Ending::Expired);
        assert!(books.ledger().is_closed());

        let tally = books.tally(partition);
        tally.handle_handover_begun(Epoch(2));
        let mut batch = Batch::accept(Arc::clone(&tally), 1);
        batch.end(Ending::Answered);
        drop(batch);
        tally.handle_handover_ended();
        let ledger = books.ledger();
        let account = ledger.account(partition).unwrap();
        assert!(account.handovers_total() == 1 && account.is_balanced(), "{account:?}");
    }
}
