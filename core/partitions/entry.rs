//! What one entry of a partition's log holds.
//!
//! All workers of a partition share its log, whatever their kind. What they write is opaque here: bytes, each piece with the
//! index of the kind that reads them back. An entry is applied whole or not at all.
//!
//! ```text
//! handler   commit(a) commit(b) ────────── returns         commit(c) durable() commit(d) ── returns
//! log                             Record{a, b, reply}            Step{c}           Record{d, reply}
//! ```

use bytes::Bytes;

use crate::partitions::identity::{Identity, Position, SessionId};
use crate::partitions::request::{BODY_LEN_MAX, Reply};

pub mod encoding;

/// The most changes of one entry.
pub const CHANGES_MAX: usize = 1 << 16;

/// The most bytes that the changes of one entry may have together.
pub const CHANGES_LEN_MAX: usize = 8 << 20;

/// The most sessions that one entry forgets, and the most whose answers it forgets.
pub const EXPIRED_MAX: usize = 1 << 10;

/// The largest entry, encoded, in bytes: the largest changes, the largest reply, and what stands before each.
pub const ENTRY_LEN_MAX: usize = CHANGES_LEN_MAX + CHANGES_MAX * 8 + BODY_LEN_MAX + 1024;

/// A worker's kind as its partition's log names it: the kind's place in the sorted list of the group's kinds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KindIndex(pub u16);

/// One change of one worker's state.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Change {
    /// Whose state.
    pub kind: KindIndex,
    /// What its `apply` reads back.
    pub bytes: Bytes,
}

/// The changes of one entry: never more than an entry can hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Changes {
    list: Vec<Change>,
    len: usize,
}

/// One commit too many, or too large, for one entry. It was not taken, and nothing before it was undone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a handler commits at most {CHANGES_MAX} changes of together {CHANGES_LEN_MAX} bytes: this one was not taken; \
     commit less, or make what is there durable first"
)]
pub struct TooManyChanges;

impl Changes {
    /// Takes one more change.
    pub fn push(&mut self, kind: KindIndex, bytes: Bytes) -> Result<(), TooManyChanges> {
        if !self.has_room(bytes.len()) {
            return Err(TooManyChanges);
        }
        self.len += bytes.len();
        self.list.push(Change { kind, bytes });
        Ok(())
    }

    /// Whether one more change of this length would be taken.
    pub const fn has_room(&self, len: usize) -> bool {
        self.list.len() < CHANGES_MAX && len <= CHANGES_LEN_MAX - self.len
    }

    /// The changes, in the order in which they were committed.
    pub fn as_slice(&self) -> &[Change] {
        &self.list
    }

    /// Whether nothing was committed.
    pub const fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// How many bytes the changes have together.
    pub const fn bytes_len(&self) -> usize {
        self.len
    }
}

impl<'a> IntoIterator for &'a Changes {
    type Item = &'a Change;
    type IntoIter = std::slice::Iter<'a, Change>;

    fn into_iter(self) -> Self::IntoIter {
        self.list.iter()
    }
}

/// What all copies are to forget, and forget alike: their clocks have no say in it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Expiry {
    /// Sessions that end. At most [`EXPIRED_MAX`].
    pub sessions: Vec<SessionId>,
    /// Sessions whose requests below a number are answered. At most [`EXPIRED_MAX`].
    pub answered: Vec<(SessionId, u64)>,
    /// Keys that were first seen here or before end. [`Position::ZERO`]: none.
    pub keys_through: Position,
}

impl Expiry {
    /// Whether nothing is to be forgotten.
    pub fn is_empty(&self) -> bool {
        self.sessions.is_empty() && self.answered.is_empty() && self.keys_through == Position::ZERO
    }
}

/// One entry of a partition's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A session opens; its number is this entry's place.
    Open {
        /// Chosen by the client at random, so that an opening that is asked for twice opens one session.
        nonce: u128,
    },
    /// Sessions, keys and answers are forgotten.
    Expire(Expiry),
    /// A handler waits for its changes to be durable, and has not answered yet. If no [`Self::Record`] follows, nobody
    /// will ever know how far the request came.
    Step {
        /// Which request.
        identity: Identity,
        /// What it changed since its last step.
        changes: Changes,
    },
    /// A request is answered.
    Record {
        /// Which request.
        identity: Identity,
        /// What it changed since its last step. Empty only if there was a step, or the request has a key.
        changes: Changes,
        /// What the handler returned. An error here is one of a handler that may have changed something.
        reply: Reply,
    },
    /// Changes that nobody can ask for again: of a hook such as `on_promote`, or of a request without identity.
    Changes(Changes),
}

impl Entry {
    /// The changes of the workers' states.
    pub fn changes(&self) -> &[Change] {
        match self {
            Self::Open { .. } | Self::Expire(_) => &[],
            Self::Step { changes, .. } | Self::Record { changes, .. } | Self::Changes(changes) => {
                changes.as_slice()
            }
        }
    }

    /// Which request it belongs to, if to any that can be known again.
    pub const fn identity(&self) -> Option<&Identity> {
        match self {
            Self::Step { identity, .. } | Self::Record { identity, .. } => Some(identity),
            Self::Open { .. } | Self::Expire(_) | Self::Changes(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_change_too_many_is_refused_and_leaves_the_others() {
        let mut changes = Changes::default();
        let half = Bytes::from(vec![0; CHANGES_LEN_MAX / 2]);
        changes.push(KindIndex(0), half.clone()).unwrap();
        changes.push(KindIndex(1), half).unwrap();
        assert_eq!(changes.push(KindIndex(0), Bytes::from_static(b"x")), Err(TooManyChanges));
        assert_eq!((changes.as_slice().len(), changes.bytes_len()), (2, CHANGES_LEN_MAX));

        let mut many = Changes::default();
        (0..CHANGES_MAX).for_each(|_| many.push(KindIndex(0), Bytes::new()).unwrap());
        assert_eq!(many.push(KindIndex(0), Bytes::new()), Err(TooManyChanges));
    }
}
