//! Workers whose state can grow apart, in two clusters that do not hear each other, and come together again.
//!
//! ```text
//!  one side    {milk, tea} ─┐                     ┌─ merge(&self, other) ─▶ what is missing here, as changes ─▶ every copy
//!  other side  {milk, rye} ─┴─ they meet again ───┘
//! ```

use bytes::Bytes;

use super::Replicated;
use super::handlers::encode;

/// A replicated worker of which two states that grew apart can be made one, and nothing is lost. Said when it is registered:
/// `.replicated::<Carts>(|w| w.handles::<Add>().merges())`.
///
/// Where the two sides of a cluster that split both went on and meet again, the nodes of one side drop their copies and join the
/// other; what each of these copies held is brought to the partition's primary there, and merged.
///
/// # What merging must be
/// The same state may be brought by several nodes, more than once, in any order, and in part: a primary may die in the
/// midst. For all copies to come to the same in the end, and for nothing to be undone by what comes late, merging has to be the
/// *join of a semilattice*. Write `a ∪ b` for what `a` becomes by applying, in order, the changes that `a.merge(b)` gives. Then, for
/// all states that handlers and merging can bring about:
///
/// - commutative: `a ∪ b` equals `b ∪ a`: neither side is preferred;
/// - associative: `(a ∪ b) ∪ c` equals `a ∪ (b ∪ c)`: the order in which states come does not matter;
/// - idempotent in effect: `(a ∪ b) ∪ b` equals `a ∪ b`: what is there already is no change, and best gives none;
/// - each of the changes alone leaves a state that may be served, and after any number of them the rest can still be merged: many
///   changes are logged a part at a time. No handler runs in between, but queries see parts, and so does the next primary where this
///   one dies;
/// - [`Default`] adds nothing: a state that is as a new one begins is not brought.
///
/// Handlers, too, may only go up: what they change must be more than what was there, by the same order, or an older state that is
/// brought later undoes it. So a removal is kept as something that was added (a *tombstone*), a write carries what decides which of two is
/// newer, and ties are decided by what both sides see alike, never by which is `self`. Equal states are best written alike by
/// [`Replicated::snapshot`].
///
/// Grow-only sets, counters with one number for each node, and maps of which the last write wins are such states; a plain counter
/// is not, for `1 + 1` of two sides that both saw the first one is no `2`.
///
/// # Examples
/// A map of which the last write wins, with removals:
///
/// ```
/// # use std::collections::BTreeMap;
/// # use tumen::prelude::*;
/// /// When it was written, by the writer's clock, and what: the greater of two wins, so equal times are decided alike too.
/// type Written = (u64, Option<String>);
///
/// #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
/// struct Settings(BTreeMap<String, Written>);
///
/// impl Worker for Settings {
///     const KIND: &'static str = "settings";
/// }
///
/// impl Replicated for Settings {
///     type Change = (String, Written);
///
///     fn apply(&mut self, (key, written): Self::Change) {
///         self.0.insert(key, written);
///     }
/// }
///
/// impl Merge for Settings {
///     fn merge(&self, other: Self) -> Vec<Self::Change> {
///         // What is newer there than here, or not here at all.
///         other.0.into_iter().filter(|(key, theirs)| self.0.get(key).is_none_or(|ours| ours < theirs)).collect()
///     }
/// }
///
/// #[derive(Serialize, Deserialize)]
/// struct Put { key: String, value: Option<String>, at: u64 }
/// impl Message for Put { type Reply = bool; }
///
/// impl Handle<Put> for Settings {
///     async fn handle(&mut self, put: Put, cx: &mut Context<Self>) -> Result<bool> {
///         let written = (put.at, put.value);
///         // An older write changes nothing here either.
///         let wins = self.0.get(&put.key).is_none_or(|ours| *ours < written);
///         if wins {
///             cx.commit(self, (put.key, written))?;
///         }
///         Ok(wins)
///     }
/// }
///
/// Node::builder("shop", "node-1").replicated::<Settings>(|w| w.handles::<Put>().merges());
///
/// // What the rules above say:
/// fn join(mut one: Settings, other: &Settings) -> Settings {
///     one.merge(other.clone()).into_iter().for_each(|change| one.apply(change));
///     one
/// }
/// let of = |key: &str, at, value: Option<&str>| Settings([(key.into(), (at, value.map(Into::into)))].into());
/// let (a, b, c) = (of("color", 1, Some("red")), of("color", 2, None), of("size", 1, Some("XL")));
/// assert_eq!(join(a.clone(), &b), join(b.clone(), &a));
/// assert_eq!(join(join(a.clone(), &b), &c), join(a.clone(), &join(b.clone(), &c)));
/// assert_eq!(join(a.clone(), &b).merge(b), []);
/// ```
///
/// A set that only grows merges by what is missing: `other.0.difference(&self.0).cloned().collect()`.
pub trait Merge: Replicated {
    /// What must change here for this state to hold what the other one holds too. Nothing is changed by it: the changes are
    /// committed after, as if a handler had.
    ///
    /// It is called on the primary, between two handlers, and the partition's other messages to this kind of worker wait for it; of a large
    /// state on a thread where nobody else waits. A panic, here or while the other state is read, drops that state with an error in
    /// the log, and the worker goes on as it was. A change has at most 8 MiB.
    fn merge(&self, other: Self) -> Vec<Self::Change>;
}

/// A worker's [`Merge::merge`], from bytes to bytes.
pub(super) type PlanMerge<W> = fn(&W, &[u8]) -> Result<Vec<Bytes>, String>;

pub(super) fn plan_merge<W: Merge>(worker: &W, state: &[u8]) -> Result<Vec<Bytes>, String> {
    let other = W::restore(state).map_err(|why| format!("it cannot be read: {why}"))?;
    let changes = worker.merge(other);
    changes.iter().map(|change| encode(change).map_err(|why| format!("a change {why}"))).collect()
}
