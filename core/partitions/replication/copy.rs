//! One node's copy of a partition: takes what the newest primary sends, in order, and says only what it can keep.
//!
//! ```text
//!  Request ─▶ sealed by a newer fence? ─▶ Refused
//!             another life meant?      ─▶ Sealed, by the life that it is
//!             entry before not here?   ─▶ Behind
//!             otherwise ─▶ cut what differs, never up to the mark ─▶ take ─▶ Acked, once it is on disk if it is to be
//! ```
//!
//! What goes to disk gathers until [`LocalCopy::take_write`]: one write, and one fsync, for all that came in between. An
//! [`Answer`] says which write has to be on disk before it leaves.

mod writes;

use super::log::{Log, Payload};
use super::wire::{Reply, Request, SnapshotHeader};
use super::{Config, CopyId, Entry, Position};
use crate::ids::{Epoch, Generation, Life, PartitionId};
use crate::partitions::fence::Fence;
use crate::time::Moment;

use writes::Writes;
pub use writes::{Ticket, Write};

/// The most former lives that a copy remembers.
const FORMER_MAX: usize = 16;

/// The most bytes of entries before its newest snapshot that a copy keeps for others to catch up by.
const KEEP_LEN_MAX: usize = 4 << 20;

/// When a copy says that it has an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Acks {
    /// At once: there is no disk.
    WithoutDisk,
    /// At once; the disk follows. After a restart that did not end in good order the copy is a new life.
    BeforeDisk,
    /// Once it is on disk. A restart goes on with the same life.
    AfterDisk,
}

/// Send `reply` to the node that asked, once the write `after` is on disk.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Answer<E> {
    /// The write to wait for. None: leaves at once.
    pub after: Option<Ticket>,
    /// What to say.
    pub reply: Reply<E>,
}

/// What was read back from a disk.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Saved<E> {
    /// The copy as it was.
    pub id: CopyId,
    /// Lives that it had read the disk of.
    pub former: Vec<Life>,
    /// What it had sealed.
    pub sealed: Fence,
    /// What surely held.
    pub mark: u64,
    /// The newest snapshot.
    pub snapshot: Position,
    /// Where the log begins.
    pub start: Position,
    /// The entries behind it.
    pub entries: Vec<Entry<E>>,
}

/// One node's copy.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LocalCopy<E> {
    id: CopyId,
    former: Vec<Life>,
    acks: Acks,
    /// Acknowledges before the disk has it, once this write is on disk: it says so of the life.
    relaxes: Option<Ticket>,
    pub(super) log: Log<E>,
    /// All up to here surely holds.
    mark: u64,
    /// The newest state that was saved whole. At or behind the log's start, never beyond the mark.
    snapshot: Position,
    /// The newest fence that was shown.
    sealed: Fence,
    /// Up to here the log is that of the sealed epoch's primary. Zero: not known yet.
    matched: u64,
    /// When the primary last said how far all holds.
    heard: Option<Moment>,
    writes: Writes,
}

impl<E: Payload> LocalCopy<E> {
    /// An empty copy: a node that has none, or lost its bytes. Its life must never have been used before.
    pub fn new(partition: PartitionId, id: CopyId, acks: Acks) -> Self {
        let sealed = Fence { generation: Generation::ZERO, epoch: Epoch::ZERO, partition };
        Self {
            id,
            former: Vec::new(),
            acks,
            relaxes: None,
            log: Log::new(Position::ZERO),
            mark: 0,
            snapshot: Position::ZERO,
            sealed,
            matched: 0,
            heard: None,
            // The life itself has to be on disk before anything is said under it.
            writes: Writes { dirty: true, ..Writes::default() },
        }
    }

    /// A copy as it was read back from disk.
    ///
    /// `acks` are those of the last write. Its life goes on if it stopped in good order, or never said that it had what was
    /// not on disk. Otherwise it becomes `fresh`, a life never used before: what it said may be gone.
    pub fn restore(saved: Saved<E>, acks: Acks, in_good_order: bool, fresh: Life) -> Self {
        let mut log = Log::new(saved.start);
        saved.entries.into_iter().for_each(|entry| log.push(entry));
        let (mut id, mut former) = (saved.id, saved.former);
        if !in_good_order && acks != Acks::AfterDisk {
            former.push(std::mem::replace(&mut id.life, fresh));
            let more = former.len().saturating_sub(FORMER_MAX);
            former.drain(..more);
        }
        let end = log.end();
        Self {
            id,
            former,
            acks,
            relaxes: None,
            mark: saved.mark.clamp(log.start().sequence, end),
            log,
            snapshot: saved.snapshot,
            sealed: saved.sealed,
            matched: 0,
            heard: None,
            writes: Writes { taken: end, on_disk: end, dirty: true, ..Writes::default() },
        }
    }

    /// A primary asks.
    pub fn handle_request(&mut self, now: Moment, config: &Config, request: Request<E>) -> Answer<E> {
        let fence = *request.fence();
        let counts = match &request {
            Request::Seal { counts, .. } | Request::Append { counts, .. } => *counts,
            Request::Fetch { .. } => Some(self.id.life),
        };
        if let Err(sealed) = self.seal(fence, counts) {
            return self.answer_refused(fence, sealed);
        }
        match request {
            Request::Seal { .. } => self.answer_sealed(),
            Request::Append { to, .. } | Request::Fetch { to, .. } if to != self.id.life => {
                self.answer_sealed()
            }
            Request::Append { prev, entries, mark, .. } => {
                if self.accept(&fence, prev, entries).is_err() {
                    return self.answer_behind(prev);
                }
                self.learn_mark(now, mark);
                self.answer_acked()
            }
            Request::Fetch { asker, last, shared, .. } => self.answer_fetch(config, asker, last, shared),
        }
    }

    /// Whether a snapshot that is announced would be looked at: it is meant for this life, and nobody newer was here.
    pub fn would_look_at(&self, header: &SnapshotHeader) -> bool {
        header.to == self.id.life && !self.sealed.supersedes(&header.fence)
    }

    /// All bytes of a snapshot have come. Says whether they are the copy's state from now on, and what to answer: they
    /// have to be kept no later than with the write that the answer waits for.
    pub fn handle_snapshot(&mut self, header: SnapshotHeader) -> (bool, Answer<E>) {
        if let Err(sealed) = self.seal(header.fence, header.counts) {
            return (false, self.answer_refused(header.fence, sealed));
        }
        if header.to != self.id.life {
            return (false, self.answer_sealed());
        }
        match self.install(&header) {
            Ok(installed) => (installed, self.answer_acked()),
            Err(DoesNotFit) => (false, self.answer_behind(header.position)),
        }
    }

    /// The actor has saved the state at `position` as a snapshot: the log before it can go, but for `keep` entries of
    /// not too many bytes.
    /// Whether it was taken: what does not surely hold yet, or is older than the last one, is not.
    pub fn handle_snapshot_saved(&mut self, position: Position, keep: u64) -> bool {
        if position.sequence > self.mark || position <= self.snapshot || !self.log.holds(position) {
            return false;
        }
        self.snapshot = position;
        self.log
            .trim_to(position.sequence.saturating_sub(keep).max(self.log.reach_back(position, KEEP_LEN_MAX)));
        self.writes.dirty = true;
        true
    }

    /// Takes the promise of `fence`'s primary, or says which newer one was here.
    ///
    /// A copy that does not count keeps only what surely holds: nobody counted on the rest, and another primary may have
    /// written otherwise.
    pub(super) fn seal(&mut self, fence: Fence, counts: Option<Life>) -> Result<(), Fence> {
        if fence.partition != self.sealed.partition || self.sealed.supersedes(&fence) {
            return Err(self.sealed);
        }
        if fence.supersedes(&self.sealed) {
            if !counts.is_some_and(|life| life == self.id.life || self.former.contains(&life)) {
                self.truncate_after(self.mark);
            }
            self.sealed = fence;
            self.matched = 0;
            self.writes.dirty = true;
        }
        Ok(())
    }

    /// Takes entries that follow `prev`. The fence is compared here, where the bytes change.
    pub(super) fn accept(
        &mut self,
        fence: &Fence,
        prev: Position,
        entries: Vec<Entry<E>>,
    ) -> Result<(), DoesNotFit> {
        if *fence != self.sealed || !self.log.holds(prev) || !rises(prev.epoch, &entries, fence.epoch) {
            return Err(DoesNotFit);
        }
        let mut sequence = prev.sequence;
        for entry in entries {
            sequence += 1;
            match self.log.get(sequence) {
                Some(here) if here.epoch == entry.epoch => continue,
                // What surely holds is never cut off. Where a loss was accepted, a snapshot replaces it whole.
                Some(_) if sequence <= self.mark => return Err(DoesNotFit),
                Some(_) => self.truncate_after(sequence - 1),
                None => {}
            }
            self.log.push(entry);
        }
        self.matched = self.matched.max(sequence);
        Ok(())
    }

    /// Replaces log and state by a snapshot's, if that is newer than what surely holds here. `false`: its position is in the
    /// log already, and so the log is the primary's up to there.
    pub(super) fn install(&mut self, header: &SnapshotHeader) -> Result<bool, DoesNotFit> {
        let position = header.position;
        if header.fence != self.sealed {
            return Err(DoesNotFit);
        }
        let replaces = !self.log.holds(position);
        if replaces {
            if position <= self.mark_position() {
                return Err(DoesNotFit);
            }
            self.log = Log::new(position);
            self.mark = position.sequence;
            self.snapshot = position;
            self.writes.forget_after(0);
        }
        self.matched = self.matched.max(position.sequence);
        Ok(replaces)
    }

    /// The primary writes to its own log.
    pub(super) fn push(&mut self, entry: Entry<E>) {
        self.log.push(entry);
        self.matched = self.log.end();
    }

    pub(super) fn learn_mark(&mut self, now: Moment, mark: u64) {
        self.mark = self.mark.max(mark.min(self.matched));
        self.heard = Some(now);
    }

    fn truncate_after(&mut self, sequence: u64) {
        if sequence < self.log.end() {
            self.log.truncate_after(sequence);
            self.writes.forget_after(sequence);
        }
    }

    fn answer_sealed(&self) -> Answer<E> {
        let reply = Reply::Sealed {
            fence: self.sealed,
            by: self.id.clone(),
            former: self.former.clone(),
            last: self.log.last(),
            mark: self.mark_position(),
        };
        Answer { after: self.promised_by(), reply }
    }

    fn answer_acked(&self) -> Answer<E> {
        let after = self.kept_by();
        Answer { after, reply: Reply::Acked { fence: self.sealed, by: self.id.clone(), end: self.matched } }
    }

    fn answer_behind(&self, prev: Position) -> Answer<E> {
        let (fence, by) = (self.sealed, self.id.clone());
        let (last, mark) = (self.log.last(), self.mark_position());
        Answer { after: self.kept_by(), reply: Reply::Behind { fence, by, prev, last, mark } }
    }

    fn answer_refused(&self, fence: Fence, sealed: Fence) -> Answer<E> {
        Answer { after: None, reply: Reply::Refused { fence, by: self.id.clone(), sealed } }
    }

    fn answer_fetch(&self, config: &Config, asker: Life, last: Position, shared: Position) -> Answer<E> {
        let (fence, by) = (self.sealed, self.id.clone());
        let prev = [last, shared, Position::ZERO].into_iter().find(|prev| self.log.holds(*prev));
        let reply = match prev {
            Some(prev) => {
                let (entries_max, bytes_max) = (config.tail_entries_max, config.tail_bytes_max);
                let entries = self.log.batch(prev.sequence + 1, u64::MAX, entries_max, bytes_max);
                Reply::Tail { fence, by, prev, entries }
            }
            None => {
                let header =
                    SnapshotHeader { fence, to: asker, counts: Some(asker), position: self.snapshot };
                Reply::Snapshot { header, by }
            }
        };
        Answer { after: self.promised_by(), reply }
    }
}

impl<E> LocalCopy<E> {
    /// Which copy this is.
    pub const fn id(&self) -> &CopyId {
        &self.id
    }

    /// Lives whose disk it read, the newest last.
    pub fn former(&self) -> &[Life] {
        &self.former
    }

    /// When it says that it has something.
    pub const fn acks(&self) -> Acks {
        self.acks
    }

    /// The newest fence that was shown to it.
    pub const fn sealed(&self) -> &Fence {
        &self.sealed
    }

    /// The last entry of its log.
    pub fn last(&self) -> Position {
        self.log.last()
    }

    /// The last entry that surely holds. Apply up to here; in `async`, where nothing waits, up to [`Self::matched`].
    pub fn mark_position(&self) -> Position {
        self.log.position_at(self.mark).unwrap_or(self.log.start())
    }

    /// The last entry that the newest primary's log has too, as far as that is known: what surely holds, unless a loss was
    /// accepted, and once something came, that.
    pub(super) fn shared_position(&self) -> Position {
        let sequence = if self.matched > 0 { self.matched } else { self.mark };
        self.log.position_at(sequence).unwrap_or(self.log.start())
    }

    /// Up to which sequence the log is that of the newest primary. It falls when there is a newer one: what was applied
    /// beyond the mark and is not in the log any more has to be rebuilt from the snapshot.
    pub const fn matched(&self) -> u64 {
        self.matched
    }

    /// The newest snapshot.
    pub const fn snapshot(&self) -> Position {
        self.snapshot
    }

    /// Where the log begins: the last entry that was cut off.
    pub const fn start(&self) -> Position {
        self.log.start()
    }

    /// The entry with this sequence.
    pub fn entry(&self, sequence: u64) -> Option<&Entry<E>> {
        self.log.get(sequence)
    }

    /// Whether the log still has this entry: what was applied and is not here any more was undone.
    pub fn holds(&self, position: Position) -> bool {
        self.log.holds(position)
    }

    /// All entries that are here, behind [`Self::start`].
    pub fn entries(&self) -> impl Iterator<Item = &Entry<E>> {
        self.log.entries()
    }

    /// How many entries the log has.
    pub fn len(&self) -> usize {
        self.log.len()
    }

    /// Whether the log has no entries.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// When the primary last said how far all holds: what a read here is older than.
    pub const fn heard(&self) -> Option<Moment> {
        self.heard
    }

    /// Whether a snapshot is due: so many entries surely hold since the last one, or the log weighs twice what is kept of it
    /// and a good part of that is new. (A part, so that cutting it is no work that grows with what waits for other copies.)
    pub fn wants_snapshot(&self, config: &Config) -> bool {
        let new = self.mark.saturating_sub(self.snapshot.sequence);
        let heavy = self.log.weight() >= 2 * KEEP_LEN_MAX && new > 0 && 4 * new >= self.log.len() as u64;
        new >= config.snapshot_every_entries || heavy
    }
}

/// Entries that do not follow what is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DoesNotFit;

/// Whether epochs never fall, and none is newer than its writer's.
fn rises<E>(mut before: Epoch, entries: &[Entry<E>], newest: Epoch) -> bool {
    entries.iter().all(|entry| std::mem::replace(&mut before, entry.epoch) <= entry.epoch)
        && entries.last().is_none_or(|last| last.epoch <= newest)
}

#[cfg(test)]
mod tests;
