//! What one other node is to be sent: one batch at a time, in order, within bounds.
//!
//! ```text
//!  announcements (what changed) ─┐
//!  messages, in order ───────────┼▶ batch ─▶ answered: the next one
//!  what is owed ─────────────────┘    └─────▶ not taken: the same again, later · nobody knows: a new stream, all anew
//! ```

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;

use crate::cluster::topics::Topic;
use crate::names::Name;
use crate::time::Moment;

/// What is announced: its present state is looked up when it is sent, so that however often it changed it is said once.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Key {
    Topic(Topic),
    Member(Name, u64),
}

/// One message on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Waiting {
    pub(super) bytes: Bytes,
    pub(super) ask: Option<u64>,
}

/// What goes to a node together.
#[derive(Debug, PartialEq, Eq)]
pub struct Batch {
    /// Which attempt to tell that node everything.
    pub(super) stream: u64,
    /// The how-manieth of it, from 0.
    pub(super) number: u64,
    /// Header and announcements.
    pub(super) head: Bytes,
    pub(super) messages: Vec<Waiting>,
}

impl Batch {
    /// Its bytes, piece by piece.
    pub fn pieces(&self) -> impl Iterator<Item = &Bytes> {
        std::iter::once(&self.head).chain(self.messages.iter().map(|message| &message.bytes))
    }

    /// Which batch it is, for whoever hears what became of it.
    pub const fn id(&self) -> (u64, u64) {
        (self.stream, self.number)
    }

    fn asks(&self) -> impl Iterator<Item = u64> {
        self.messages.iter().filter_map(|message| message.ask)
    }
}

#[derive(Debug)]
pub(super) struct Line {
    stream: u64,
    /// Of the next batch.
    number: u64,
    pub(super) changed: BTreeSet<Key>,
    messages: VecDeque<Waiting>,
    messages_len: usize,
    /// Topics on which the node is owed the present value, or to hear that there is none.
    pub(super) owed: BTreeSet<Topic>,
    under_way: Option<(Arc<Batch>, Moment)>,
    /// Nothing is sent before it is tried again.
    rests: bool,
    /// The node has to hear of the stream, even where there is nothing to tell.
    fresh: bool,
}

impl Line {
    /// A stream in which everything in `changed` is announced first.
    pub(super) fn new(stream: u64, changed: BTreeSet<Key>) -> Self {
        Self {
            stream,
            number: 0,
            changed,
            messages: VecDeque::new(),
            messages_len: 0,
            owed: BTreeSet::new(),
            under_way: None,
            rests: false,
            fresh: false,
        }
    }

    /// A message is to be sent, if there is room for it.
    pub(super) fn push(&mut self, bytes: Bytes, ask: Option<u64>, full_at: usize) -> bool {
        let has_room = self.messages_len + bytes.len() <= full_at;
        if has_room {
            self.messages_len += bytes.len();
            self.messages.push_back(Waiting { bytes, ask });
        }
        has_room
    }

    /// The same, whether there is room or not.
    pub(super) fn push_always(&mut self, bytes: Bytes) {
        self.push(bytes, None, usize::MAX);
    }

    /// How many bytes of messages wait.
    pub(super) const fn len(&self) -> usize {
        self.messages_len
    }

    /// Whether a batch can be taken now.
    pub(super) fn is_due(&self) -> bool {
        let idle = self.changed.is_empty() && self.messages.is_empty() && self.owed.is_empty();
        self.under_way.is_none() && !self.rests && (self.fresh || !idle)
    }

    /// Since when the node has a batch that it has not answered.
    pub(super) fn waits_since(&self) -> Option<Moment> {
        self.under_way.as_ref().map(|(_, sent)| *sent)
    }

    /// The next batch. Header and announcements come from the caller, for they are about what it knows.
    pub(super) fn take(
        &mut self,
        now: Moment,
        batch_len: usize,
        head: impl FnOnce(u64, u64, &mut BTreeSet<Key>) -> Bytes,
    ) -> Option<Arc<Batch>> {
        if !self.is_due() {
            return None;
        }
        self.fresh = false;
        let (stream, number) = (self.stream, self.number);
        let head = head(stream, number, &mut self.changed);
        let (mut len, mut messages) = (head.len(), Vec::new());
        while let Some(next) = self.messages.front() {
            if len + next.bytes.len() > batch_len && !messages.is_empty() {
                break;
            }
            len += next.bytes.len();
            self.messages_len -= next.bytes.len();
            messages.extend(self.messages.pop_front());
        }
        self.number += 1;
        let batch = Arc::new(Batch { stream, number, head, messages });
        self.under_way = Some((Arc::clone(&batch), now));
        Some(batch)
    }

    /// The batch was taken by the node. Those who asked of it, in order; `None`: that is old news.
    pub(super) fn handle_taken(&mut self, id: (u64, u64)) -> Option<Vec<u64>> {
        self.is_under_way(id).then(|| {
            let (batch, _) = self.under_way.take()?;
            Some(batch.asks().collect())
        })?
    }

    /// The node did not look at the batch. Whether it is to be sent again later; otherwise that is old news.
    pub(super) fn handle_not_taken(&mut self, id: (u64, u64)) -> bool {
        let is = self.is_under_way(id);
        self.rests |= is;
        is
    }

    /// It is tried again: with what was not taken, if that was it.
    pub(super) fn handle_retry(&mut self) -> Option<Arc<Batch>> {
        let rested = std::mem::take(&mut self.rests);
        self.under_way.as_ref().filter(|_| rested).map(|(batch, _)| Arc::clone(batch))
    }

    /// Nobody knows whether the batch was taken: everything is told anew, after a rest. What it held goes out once more; who
    /// heard it already recognises it by its number.
    pub(super) fn begin_anew(&mut self, stream: u64, all: BTreeSet<Key>) {
        (self.rests, self.fresh) = (true, true);
        if let Some((batch, _)) = self.under_way.take() {
            for message in batch.messages.iter().rev() {
                self.messages_len += message.bytes.len();
                self.messages.push_front(message.clone());
            }
        }
        (self.stream, self.number, self.changed) = (stream, 0, all);
    }

    /// Whether that is the batch that is under way.
    pub(super) fn is_under_way(&self, id: (u64, u64)) -> bool {
        self.under_way.as_ref().is_some_and(|(batch, _)| batch.id() == id)
    }

    /// All who asked of anything that has not been answered.
    pub(super) fn asks(&self) -> Vec<u64> {
        let under_way = self.under_way.iter().flat_map(|(batch, _)| batch.asks());
        under_way.chain(self.messages.iter().filter_map(|message| message.ask)).collect()
    }
}
