//! What goes to disk of a copy, and what waits for it.
//!
//! ```text
//!  changes ─ gather ─▶ take_write ─▶ under way ─▶ handle_written ─▶ whoever waited for that write, or an earlier one
//! ```

use std::collections::VecDeque;

use super::{Acks, LocalCopy};
use crate::ids::Life;
use crate::partitions::fence::Fence;
use crate::partitions::replication::log::Payload;
use crate::partitions::replication::{CopyId, Entry, Position};

/// Numbers a write. Each holds all that changed since the one before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// What is to go to disk as one: all of it or nothing.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Write<E> {
    /// Its number. Once it is on disk: [`LocalCopy::handle_written`].
    pub ticket: Ticket,
    /// The copy.
    pub id: CopyId,
    /// Lives that it read the disk of.
    pub former: Vec<Life>,
    /// When it says that it has an entry, from this write on: once it is on disk. To be told to [`LocalCopy::restore`].
    pub acks: Acks,
    /// What it sealed.
    pub sealed: Fence,
    /// What surely holds.
    pub mark: u64,
    /// The newest snapshot, whose bytes have to be on disk with this write or before it. State before it is not needed.
    pub snapshot: Position,
    /// Where the log begins. Forget the entries up to there.
    pub start: Position,
    /// Forget all entries behind this sequence, before those that follow are written.
    pub truncate_after: u64,
    /// Entries to write, the first one at `truncate_after + 1`.
    pub entries: Vec<Entry<E>>,
}

/// What has to go to disk, and what is on its way.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Writes {
    /// Up to here the log is in some write that was taken.
    pub(super) taken: u64,
    /// Something else changed that an answer depends on.
    pub(super) dirty: bool,
    pub(super) issued: Ticket,
    pub(super) written: Ticket,
    /// Writes under way, and the sequence up to which each holds the log.
    pub(super) under_way: VecDeque<(Ticket, u64)>,
    /// Up to here the log is on disk.
    pub(super) on_disk: u64,
}

impl Writes {
    /// What stands behind `sequence` was cut off. A write under way that holds it says nothing of what comes there next.
    pub(super) fn forget_after(&mut self, sequence: u64) {
        let ends = self.under_way.iter_mut().map(|(_, end)| end);
        for end in ends.chain([&mut self.taken, &mut self.on_disk]) {
            *end = (*end).min(sequence);
        }
        self.dirty = true;
    }
}

impl<E: Payload> LocalCopy<E> {
    /// What has to go to disk now, if anything has. Without a disk nothing has, ever.
    pub fn take_write(&mut self) -> Option<Write<E>> {
        if !self.has_writes() {
            return None;
        }
        let (end, start) = (self.log.end(), self.log.start());
        let truncate_after = self.writes.taken.max(start.sequence);
        let ticket = Ticket(self.writes.issued.0 + 1);
        self.writes.issued = ticket;
        self.writes.under_way.push_back((ticket, end));
        self.writes.taken = end;
        self.writes.dirty = false;
        Some(Write {
            ticket,
            id: self.id.clone(),
            former: self.former.clone(),
            acks: if self.relaxes.is_some() { Acks::BeforeDisk } else { self.acks },
            sealed: self.sealed,
            mark: self.mark,
            snapshot: self.snapshot,
            start,
            truncate_after,
            entries: self.log.batch(truncate_after + 1, end, usize::MAX, usize::MAX),
        })
    }

    /// This write, and all before it, are on disk.
    pub fn handle_written(&mut self, ticket: Ticket) {
        self.writes.written = self.writes.written.max(ticket);
        if self.relaxes.take_if(|relaxes| *relaxes <= ticket).is_some() {
            self.acks = Acks::BeforeDisk;
        }
        while let Some((_, end)) = self.writes.under_way.pop_front_if(|(under_way, _)| *under_way <= ticket) {
            self.writes.on_disk = end;
        }
    }

    /// Says from now on at another time that it has something; a copy without a disk never does otherwise.
    ///
    /// What acknowledges before its disk has it has to be known for that when it is read back, or a crash would go
    /// unnoticed: it does so only once that is on disk. The other way the next write has all that was acknowledged before.
    pub fn set_acks(&mut self, acks: Acks) {
        match (self.acks, acks) {
            (Acks::AfterDisk, Acks::BeforeDisk) if self.relaxes.is_none() => {
                self.writes.dirty = true;
                self.relaxes = self.settled_by();
            }
            (Acks::BeforeDisk, Acks::AfterDisk) => {
                self.writes.dirty = true;
                self.acks = acks;
            }
            // A write may be under way that says otherwise: the next one takes that back.
            (Acks::AfterDisk, Acks::AfterDisk) if self.relaxes.take().is_some() => self.writes.dirty = true,
            _ => {}
        }
    }

    /// Whether anything has to go to disk.
    pub fn has_writes(&self) -> bool {
        self.acks != Acks::WithoutDisk && (self.writes.dirty || self.writes.taken < self.log.end())
    }

    /// The write that has to be on disk for all that happened so far to be there.
    fn settled_by(&self) -> Option<Ticket> {
        match self.has_writes() {
            true => Some(Ticket(self.writes.issued.0 + 1)),
            false => Some(self.writes.issued).filter(|issued| *issued > self.writes.written),
        }
    }

    /// The write that a promise waits for: to take nothing older, or to have what somebody fetches.
    pub(in super::super) fn promised_by(&self) -> Option<Ticket> {
        self.settled_by().filter(|_| self.promises_after_disk())
    }

    /// The write that an answer to an entry waits for.
    pub(super) fn kept_by(&self) -> Option<Ticket> {
        self.settled_by().filter(|_| self.acks == Acks::AfterDisk)
    }
}

impl<E> LocalCopy<E> {
    /// Whether promises wait for the disk. A life that a crash ends promises nothing beyond the crash, so that once it is on
    /// disk that it is one, its promises do not.
    pub fn promises_after_disk(&self) -> bool {
        match self.acks {
            Acks::AfterDisk => true,
            Acks::BeforeDisk => self.writes.written == Ticket::default(),
            Acks::WithoutDisk => false,
        }
    }

    /// Up to which sequence the copy may be counted on: what it has, on disk where that is promised.
    pub(in super::super) fn held(&self) -> u64 {
        match self.acks {
            Acks::AfterDisk => self.writes.on_disk,
            Acks::BeforeDisk | Acks::WithoutDisk => self.log.end(),
        }
    }

    pub(in super::super) fn is_written(&self, ticket: Option<Ticket>) -> bool {
        ticket.is_none_or(|ticket| ticket <= self.writes.written)
    }
}
