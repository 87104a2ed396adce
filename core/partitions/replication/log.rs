//! One copy's log: entries one after the other behind the place where it was cut.
//!
//! ```text
//!   start            mark                     last
//!     │ 3.8 3.9 5.10  │  5.11 5.12 5.13 5.14   │        sequences run on through epochs; epochs never fall
//! ```

use std::collections::VecDeque;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::Position;
use crate::ids::Epoch;

/// What a log carries. Cloned for each copy that it is sent to: cheap, as [`Bytes`] are.
pub trait Payload: Clone {
    /// How many bytes it has on the wire, about.
    fn weight(&self) -> usize;
}

impl Payload for Bytes {
    fn weight(&self) -> usize {
        self.len()
    }
}

/// One entry. Its sequence is its place.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Entry<E> {
    /// The epoch whose primary wrote it.
    pub epoch: Epoch,
    /// What it says.
    pub body: Body<E>,
}

/// What an entry says.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Body<E> {
    /// A primary opened its epoch. Nothing to apply: it only makes what stands before it surely hold once it does itself.
    Opening,
    /// What a primary appended.
    Data(E),
}

impl<E: Payload> Entry<E> {
    /// How many bytes it has on the wire, about.
    pub fn weight(&self) -> usize {
        const HEAD: usize = 12;
        match &self.body {
            Body::Opening => HEAD,
            Body::Data(data) => HEAD + data.weight(),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Log<E> {
    /// The last entry that was cut off. [`Position::ZERO`]: none was.
    start: Position,
    entries: VecDeque<Entry<E>>,
    /// What all entries weigh.
    weight: usize,
}

impl<E> Log<E> {
    pub(super) const fn new(start: Position) -> Self {
        Self { start, entries: VecDeque::new(), weight: 0 }
    }

    /// Where it was cut.
    pub(super) const fn start(&self) -> Position {
        self.start
    }

    /// The last entry's sequence.
    pub(super) fn end(&self) -> u64 {
        self.start.sequence + self.entries.len() as u64
    }

    pub(super) fn last(&self) -> Position {
        let epoch = self.entries.back().map_or(self.start.epoch, |entry| entry.epoch);
        Position::new(epoch, self.end())
    }

    pub(super) fn get(&self, sequence: u64) -> Option<&Entry<E>> {
        let behind = sequence.checked_sub(self.start.sequence)?.checked_sub(1)?;
        self.entries.get(usize::try_from(behind).ok()?)
    }

    /// The place with this sequence, if the log reaches there.
    pub(super) fn position_at(&self, sequence: u64) -> Option<Position> {
        if sequence == self.start.sequence {
            return Some(self.start);
        }
        self.get(sequence).map(|entry| Position::new(entry.epoch, sequence))
    }

    /// Whether the entry at this place is in it, or was the last to be cut off.
    pub(super) fn holds(&self, position: Position) -> bool {
        self.position_at(position.sequence) == Some(position)
    }

    /// What all entries weigh, in bytes on the wire, about.
    pub(super) const fn weight(&self) -> usize {
        self.weight
    }

    /// How many entries are there.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = &Entry<E>> {
        self.entries.iter()
    }
}

impl<E: Payload> Log<E> {
    pub(super) fn push(&mut self, entry: Entry<E>) {
        self.weight += entry.weight();
        self.entries.push_back(entry);
    }

    /// Cuts off what stands behind `sequence`.
    pub(super) fn truncate_after(&mut self, sequence: u64) {
        let kept = sequence.saturating_sub(self.start.sequence);
        let kept = usize::try_from(kept).unwrap_or(usize::MAX);
        while self.entries.len() > kept
            && let Some(entry) = self.entries.pop_back()
        {
            self.weight -= entry.weight();
        }
    }

    /// Forgets what stands up to `sequence`, as far as it is here.
    pub(super) fn trim_to(&mut self, sequence: u64) {
        while self.start.sequence < sequence
            && let Some(entry) = self.entries.pop_front()
        {
            self.weight -= entry.weight();
            self.start = Position::new(entry.epoch, self.start.sequence + 1);
        }
    }

    /// Behind which sequence the entries up to `position` have at most so many bytes.
    pub(super) fn reach_back(&self, position: Position, bytes_max: usize) -> u64 {
        let len = position.sequence.saturating_sub(self.start.sequence);
        let len = usize::try_from(len).unwrap_or(usize::MAX).min(self.entries.len());
        let mut bytes = 0_usize;
        let fits = |entry: &&Entry<E>| {
            bytes = bytes.saturating_add(entry.weight());
            bytes <= bytes_max
        };
        position.sequence - self.entries.range(..len).rev().take_while(fits).count() as u64
    }

    /// Entries from `first` on, up to `last`: at most so many, and at most so many bytes beside the first.
    pub(super) fn batch(&self, first: u64, last: u64, entries_max: usize, bytes_max: usize) -> Vec<Entry<E>> {
        let Some(from) =
            first.checked_sub(self.start.sequence + 1).and_then(|from| usize::try_from(from).ok())
        else {
            return Vec::new();
        };
        let until = last.min(self.end()).saturating_sub(self.start.sequence);
        let until = usize::try_from(until).unwrap_or(usize::MAX).min(from.saturating_add(entries_max));
        if from >= until {
            return Vec::new();
        }
        let mut bytes = 0_usize;
        let fits = |entry: &&Entry<E>| {
            let first = bytes == 0;
            bytes = bytes.saturating_add(entry.weight());
            first || bytes <= bytes_max
        };
        self.entries.range(from..until).take_while(fits).cloned().collect()
    }
}
