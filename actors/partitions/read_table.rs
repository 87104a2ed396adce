//! Who serves here: `<partition, epoch, id>` → the running worker. Read without waiting, by every call.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use dashmap::DashMap;
use ractor::ActorRef;
use tumen_core::ids::{Epoch, Kind, PartitionId};
use tumen_core::partitions::fence::Fence;

use super::belief::Belief;
use super::books::{Books, Tally};
use super::delivery::Delivery;
use super::merging::Merges;
use super::partition_worker::PartitionWorkerMsg;
use super::promotions::Promotions;
use super::witness::Witness;

/// The most messages that wait for one worker. More are answered `Overloaded`.
pub const MAILBOX_LEN_MAX: usize = 16_384;

/// How long after the end of a partition's workers an answer may be on its way that nothing holds back any more.
const ANSWERS_WITHIN: Duration = Duration::from_secs(2);

/// One partition's place on this node under one epoch, with a worker of each kind.
#[derive(Debug)]
pub struct Seat {
    fence: Fence,
    open: AtomicBool,
    workers: Box<[Mailbox]>,
    tally: Arc<Tally>,
}

/// Where messages for one running worker go.
#[derive(Clone, Debug)]
pub struct Mailbox {
    /// The worker's kind: the `id` of `<partition, epoch, id>`.
    pub kind: Kind,
    actor: ActorRef<PartitionWorkerMsg>,
    waiting: Arc<AtomicUsize>,
}

impl Mailbox {
    /// The mailbox of a worker. `waiting` is shared with it: it counts down what it has taken out.
    pub const fn new(kind: Kind, actor: ActorRef<PartitionWorkerMsg>, waiting: Arc<AtomicUsize>) -> Self {
        Self { kind, actor, waiting }
    }

    /// How many messages wait.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// The worker's actor.
    pub const fn actor(&self) -> &ActorRef<PartitionWorkerMsg> {
        &self.actor
    }

    /// Hands over deliveries that came together. Those for which there is no room are given back.
    pub fn deliver(&self, mut batch: Vec<Delivery>) -> Vec<Delivery> {
        let room = MAILBOX_LEN_MAX.saturating_sub(self.waiting());
        let refused = if batch.len() > room { batch.split_off(room) } else { Vec::new() };
        if !batch.is_empty() {
            self.waiting.fetch_add(batch.len(), Ordering::Relaxed);
            // A worker that just stopped drops the batch, and each delivery answers for itself.
            drop(self.actor.cast(PartitionWorkerMsg::Deliver(batch)));
        }
        refused
    }
}

impl Seat {
    /// An open seat.
    pub fn new(fence: Fence, workers: Vec<Mailbox>, tally: Arc<Tally>) -> Self {
        Self { fence, open: AtomicBool::new(true), workers: workers.into(), tally }
    }

    /// Where it is counted what becomes of its messages.
    pub const fn tally(&self) -> &Arc<Tally> {
        &self.tally
    }

    /// The right to write that its workers hold, as long as the seat is open.
    pub const fn fence(&self) -> Fence {
        self.fence
    }

    /// From now on nothing leaves this seat, and nobody is let in.
    pub fn close(&self) {
        self.open.store(false, Ordering::SeqCst);
    }

    /// Whether the seat's workers may still answer.
    pub fn is_open(&self) -> bool {
        self.open.load(Ordering::SeqCst)
    }

    /// The workers, sorted by kind.
    pub fn workers(&self) -> &[Mailbox] {
        &self.workers
    }
}

/// All seats of this node. Cheap to clone; all clones see the same.
#[derive(Clone, Debug)]
pub struct ReadTable {
    seats: Arc<DashMap<PartitionId, Arc<Seat>>>,
    belief: Belief,
    books: Books,
    promotions: Promotions,
    merges: Merges,
    witness: Witness,
}

impl ReadTable {
    /// A table without seats.
    pub fn new(belief: Belief, witness: Witness) -> Self {
        let (books, promotions, merges) = (Books::default(), Promotions::default(), Merges::default());
        Self { seats: Arc::default(), belief, books, promotions, merges, witness }
    }

    /// What became of the messages of all seats, those that are gone included.
    pub const fn books(&self) -> &Books {
        &self.books
    }

    /// How long it took until seats served whose partitions had another primary before.
    pub const fn promotions(&self) -> &Promotions {
        &self.promotions
    }

    /// What became of states that were brought from another cluster.
    pub const fn merges(&self) -> &Merges {
        &self.merges
    }

    /// The seat of a partition, whatever its epoch.
    pub fn seat(&self, partition: PartitionId) -> Option<Arc<Seat>> {
        self.seats.get(&partition).map(|seat| Arc::clone(&seat))
    }

    /// The running worker `<partition, epoch, id>`. One of an older or a newer epoch is another worker.
    pub fn lookup(&self, partition: PartitionId, epoch: Epoch, kind: &Kind) -> Option<Mailbox> {
        let seat = self.seat(partition).filter(|seat| seat.fence.epoch == epoch && seat.is_open())?;
        seat.workers.iter().find(|worker| worker.kind == *kind).cloned()
    }

    /// Every open seat's partition, epoch and kinds, sorted.
    pub fn entries(&self) -> Vec<(PartitionId, Epoch, Kind)> {
        let mut entries: Vec<_> = (self.seats.iter())
            .filter(|seat| seat.is_open())
            .flat_map(|seat| {
                let (partition, epoch) = (*seat.key(), seat.fence.epoch);
                seat.workers.iter().map(|w| (partition, epoch, w.kind.clone())).collect::<Vec<_>>()
            })
            .collect();
        entries.sort();
        entries
    }

    /// Puts a seat in place.
    pub(super) fn open(&self, seat: Arc<Seat>) {
        self.belief.serving(seat.fence);
        self.witness.serves(seat.fence);
        if let Some(former) = self.seats.insert(seat.fence.partition, seat) {
            former.close();
            self.belief.stopped(former.fence);
        }
    }

    /// Closes the partition's seat of this epoch and takes it away.
    pub(super) fn close(&self, partition: PartitionId, epoch: Epoch) -> Option<Arc<Seat>> {
        let (_, seat) = self.seats.remove_if(&partition, |_, seat| seat.fence.epoch == epoch)?;
        seat.close();
        self.belief.stopped(seat.fence);
        Some(seat)
    }

    /// A partition's workers ended, all of them, and nothing of it waits. An answer that was taken from the log just before
    /// may be on its way, and is waited for.
    pub(super) async fn note_ended(&self, partition: PartitionId, tally: &Tally) {
        let counts = tally.counts();
        if counts.open() > 0 {
            tokio::time::sleep(ANSWERS_WITHIN).await;
        }
        let now = tally.counts();
        if now.sent() == counts.sent() && !self.seats.contains_key(&partition) {
            self.witness.ended(partition, now);
        }
    }

    /// Closes every seat: the node's last act before it gives its lease back.
    pub fn close_all(&self) {
        for seat in self.seats.iter() {
            seat.close();
            self.belief.stopped(seat.fence);
        }
        self.seats.clear();
    }
}
