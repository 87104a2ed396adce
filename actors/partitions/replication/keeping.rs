//! What of one copy is on disk, what is on its way there, and who waits for it.

use std::collections::VecDeque;

use bytes::Bytes;
use tumen_core::ids::PartitionId;
use tumen_core::partitions::identity::Position;
use tumen_core::partitions::replication::wire::Reply as CopyReply;
use tumen_core::partitions::replication::{Ticket, Write};

use super::answers::Slot;
use super::records::{Kept, StateRecord};
use crate::store::Batch;

/// How long a log grows at least before the state is written again, in bytes and in entries.
const LOG_LEN_MIN: u64 = 4 << 20;
const LOG_ENTRIES_MIN: u64 = 16_384;
/// About what an entry takes beside its own bytes.
const ENTRY_HEAD_LEN: u64 = 64;

/// One copy's place on disk.
#[derive(Debug, Default)]
pub(super) struct Keeping {
    pub(super) kept: Kept,
    written: Ticket,
    /// The copy is among those that are to be written.
    pub(super) is_queued: bool,
    /// Its state is being written, or about to be.
    pub(super) writes_state: bool,
    /// Nothing more is written: the copy is no more, or the disk failed.
    is_over: bool,
    /// How many bytes the log has since the last state that was written.
    log_len: u64,
    /// Answers that wait for a write, in the order of what they wait for.
    waiting: VecDeque<(Ticket, Slot, CopyReply<Bytes>)>,
}

impl Keeping {
    pub(super) fn of(kept: Kept) -> Self {
        Self { kept, ..Self::default() }
    }

    /// Puts a write into a batch.
    pub(super) fn put(&mut self, partition: PartitionId, write: Write<Bytes>, batch: Batch) -> Batch {
        let grown: u64 = write.entries.iter().map(|entry| entry.weight() as u64 + ENTRY_HEAD_LEN).sum();
        self.log_len += grown;
        self.kept.put(partition, write, batch)
    }

    /// This write is on disk: takes out the answers that waited for it.
    pub(super) fn handle_written(&mut self, ticket: Ticket, into: &mut Vec<(Slot, CopyReply<Bytes>)>) {
        self.written = self.written.max(ticket);
        while let Some((_, slot, reply)) = self.waiting.pop_front_if(|(after, ..)| *after <= ticket) {
            into.push((slot, reply));
        }
    }

    /// Holds an answer back until a write is on disk; gives it back if it is already.
    pub(super) fn hold(
        &mut self,
        after: Ticket,
        slot: Slot,
        reply: CopyReply<Bytes>,
    ) -> Option<(Slot, CopyReply<Bytes>)> {
        if after <= self.written {
            return Some((slot, reply));
        }
        if !self.is_over {
            let at = self.waiting.partition_point(|(other, ..)| *other <= after);
            self.waiting.insert(at, (after, slot, reply));
        }
        None
    }

    /// Whether anybody waits for a write.
    pub(super) fn is_awaited(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Whether nothing more is written.
    pub(super) const fn is_over(&self) -> bool {
        self.is_over
    }

    /// Nothing more is written, and nobody is answered who waits for it.
    pub(super) fn end(&mut self) {
        self.is_over = true;
        self.waiting.clear();
    }

    /// Whether the state is to be written: the log since the last one is long, and no shorter than that was, so that
    /// the work is at most doubled.
    pub(super) fn wants_state(&self, entries: u64) -> bool {
        let long = self.log_len >= LOG_LEN_MIN || entries >= LOG_ENTRIES_MIN;
        long && !self.writes_state && !self.is_over && self.log_len >= self.kept.state_len()
    }

    /// The state is being taken: what is logged from now on is behind it.
    pub(super) fn begin_state(&mut self) {
        self.log_len = 0;
    }

    /// All bytes of a state are in the store. `taken` tells whether the law took it.
    pub(super) fn handle_state(&mut self, position: Position, state: StateRecord, taken: bool) {
        if taken {
            self.kept.set_state(position, state);
        } else {
            self.kept.drop_state(state);
        }
    }
}
