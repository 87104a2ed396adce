//! Histories of reads and writes, and whether they can be explained by one order.
//!
//! ```text
//! ann    ├── write 1 ──┤                  ├─ read 2 ─┤          explained by: write 1, write 2, read 2, read 2
//! ben         ├──── write 2 ────┤
//! cem                                ├────── read 2 ──────┤
//!        ─────────────────────────────────────────────────▶ time
//! ```
//!
//! A store is linearizable if each operation can be given one instant between its call and its answer, such that in the
//! order of these instants every answer is right (Herlihy and Wing, 1990). Keys are independent of each other, so each
//! is checked on its own. Record what callers asked and were told, and ask [`History::check`]:
//!
//! ```
//! use tumen_core::Moment;
//! use tumen_core::history::{Answer, Call, History};
//!
//! let at = Moment::from_millis;
//! let mut history = History::new();
//! let write = history.call("key", at(1), Call::Write(7));
//! history.answer(&write, at(3), Answer::Done)?;
//! let read = history.call("key", at(5), Call::Read);
//! history.answer(&read, at(6), Answer::Value(None))?;
//! assert!(history.check(1_000_000).is_err(), "an acknowledged write was not there");
//! # Ok::<(), tumen_core::history::NoSuchAnswer>(())
//! ```
//!
//! An operation that was never answered may have taken effect at any later time, or never.

use std::collections::BTreeMap;
use std::fmt;

use crate::time::Moment;

pub mod order;

/// What a caller asked of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call<V> {
    /// What is its value?
    Read,
    /// Set it to this.
    Write(V),
    /// Set it to `to`, if it is `from`. None: no value.
    Swap {
        /// What it must be.
        from: Option<V>,
        /// What it becomes.
        to: Option<V>,
    },
    /// Remove its value.
    Delete,
}

/// What a caller was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer<V> {
    /// To [`Call::Read`]: the value, or that there is none.
    Value(Option<V>),
    /// To [`Call::Write`] and [`Call::Delete`]: it was done.
    Done,
    /// To [`Call::Swap`]: whether it was done.
    Swapped(bool),
    /// To [`Call::Delete`]: whether there was a value.
    Existed(bool),
}

/// One call, and what became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation<V> {
    /// What was asked.
    pub call: Call<V>,
    /// When, at the latest moment before it was sent.
    pub called: Moment,
    /// What was answered and when, at the earliest moment after it came. None: nobody knows what became of it.
    pub answer: Option<(Moment, Answer<V>)>,
}

/// An answer that its call cannot have, or of a call that was answered or refused already. It was not recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the call was answered already, or cannot be answered like that: nothing was recorded")]
pub struct NoSuchAnswer;

impl<V> Operation<V> {
    /// A call that nobody has answered.
    pub const fn new(called: Moment, call: Call<V>) -> Self {
        Self { call, called, answer: None }
    }

    /// The same with an answer.
    pub fn answered(mut self, at: Moment, answer: Answer<V>) -> Result<Self, NoSuchAnswer> {
        let fits = matches!(
            (&self.call, &answer),
            (Call::Read, Answer::Value(_))
                | (Call::Write(_), Answer::Done)
                | (Call::Swap { .. }, Answer::Swapped(_))
                | (Call::Delete, Answer::Done | Answer::Existed(_))
        );
        if !fits || at < self.called || self.answer.is_some() {
            return Err(NoSuchAnswer);
        }
        self.answer = Some((at, answer));
        Ok(self)
    }
}

impl<V: fmt::Debug> fmt::Display for Operation<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}", self.called, self.call)?;
        match &self.answer {
            Some((at, answer)) => write!(f, " → {answer:?} {at}"),
            None => write!(f, " → never answered"),
        }
    }
}

/// Which call an answer belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallId<K> {
    key: K,
    at: usize,
}

/// What several callers asked of several keys, and were told. All on one clock.
#[derive(Clone, Debug)]
pub struct History<K, V> {
    /// None: the call certainly had no effect.
    keys: BTreeMap<K, Vec<Option<Operation<V>>>>,
}

impl<K, V> Default for History<K, V> {
    fn default() -> Self {
        Self { keys: BTreeMap::new() }
    }
}

/// What a history says that can be explained.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Explained {
    /// How many keys were looked at.
    pub keys: usize,
    /// How many operations on them.
    pub operations: usize,
    /// How many of these were never answered.
    pub unanswered: usize,
    /// How much work it was, in partial orders.
    pub effort: u64,
}

/// Why a history counts as not explained.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation<K, V> {
    /// On which key.
    pub key: K,
    /// What was found there.
    pub finding: order::Finding<V>,
}

impl<K: fmt::Debug, V: fmt::Debug> fmt::Display for Violation<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "key {:?}: {}", self.key, self.finding)
    }
}

impl<K: fmt::Debug, V: fmt::Debug> std::error::Error for Violation<K, V> {}

impl<K: Ord + Clone, V: Ord + Clone> History<K, V> {
    /// A history in which nothing happened: no key has a value.
    pub fn new() -> Self {
        Self::default()
    }

    /// A caller is about to ask. Without [`Self::answer`] or [`Self::refuse`], nobody knows what became of it.
    pub fn call(&mut self, key: K, at: Moment, call: Call<V>) -> CallId<K> {
        let operations = self.keys.entry(key.clone()).or_default();
        operations.push(Some(Operation::new(at, call)));
        CallId { key, at: operations.len() - 1 }
    }

    /// The caller was told.
    pub fn answer(&mut self, id: &CallId<K>, at: Moment, answer: Answer<V>) -> Result<(), NoSuchAnswer> {
        let slot = self.keys.get_mut(&id.key).and_then(|operations| operations.get_mut(id.at));
        let operation = slot.and_then(Option::as_mut).ok_or(NoSuchAnswer)?;
        *operation = operation.clone().answered(at, answer)?;
        Ok(())
    }

    /// The caller was told that nothing changed, and never will.
    pub fn refuse(&mut self, id: &CallId<K>) {
        let slot = self.keys.get_mut(&id.key).and_then(|operations| operations.get_mut(id.at));
        if let Some(slot) = slot.filter(|slot| slot.as_ref().is_some_and(|o| o.answer.is_none())) {
            *slot = None;
        }
    }

    /// Takes in what another recorder of the same clock saw.
    pub fn merge(&mut self, other: Self) {
        for (key, operations) in other.keys {
            self.keys.entry(key).or_default().extend(operations);
        }
    }

    /// How many operations were recorded.
    pub fn len(&self) -> usize {
        self.keys.values().flatten().flatten().count()
    }

    /// Whether nothing was recorded.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The operations on one key.
    pub fn operations(&self, key: &K) -> impl Iterator<Item = &Operation<V>> {
        self.keys.get(key).into_iter().flatten().flatten()
    }

    /// Whether the operations on every key can be explained by one order.
    ///
    /// `effort_max` bounds the work per key in partial orders looked at, at about 50 bytes of memory each: a million
    /// is ample for thousands of operations of a dozen callers. What takes more is reported, not passed over.
    pub fn check(&self, effort_max: u64) -> Result<Explained, Violation<K, V>> {
        let mut explained = Explained::default();
        for (key, operations) in &self.keys {
            let operations: Vec<_> = operations.iter().flatten().cloned().collect();
            let effort = order::explain(None, &operations, effort_max)
                .map_err(|finding| Violation { key: key.clone(), finding })?;
            explained.keys += 1;
            explained.operations += operations.len();
            explained.unanswered += operations.iter().filter(|o| o.answer.is_none()).count();
            explained.effort += effort;
        }
        Ok(explained)
    }
}

#[cfg(test)]
mod tests;
