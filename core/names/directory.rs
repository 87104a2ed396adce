//! One partition of names: what stands in it, the same on every copy; and what may be claimed in it. Beside the names, in a space
//! of its own, what the whole cluster is told.
//!
//! ```text
//!  request ─ judge_* ─▶ Change ─ log ─▶ apply, on every copy and in every node's read table ─▶ News, for listeners
//!               └─▶ Refused, and nothing changed
//! ```

mod bringing;
mod index;
mod judging;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, btree_map};
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::ids::{Kind, NodeBoot};
use crate::names::claim::{Child, Claim, ClaimNumber, Held, Holder, Reason, Spec, Stage};
use crate::names::meta::Meta;
use crate::names::name::Name;
use crate::names::request::Brought;
use crate::time::UnixMillis;

pub use bringing::Bringing;
use index::Index;
pub use judging::{Refused, VALUE_LEN_MAX};

/// The most names in one directory. All directories hold 16 million.
pub const NAMES_MAX: usize = 1 << 20;

/// One step of a directory's log. Made by the `judge_*` functions, on the primary; applied everywhere.
///
/// Where it says a number, it applies to that claim only: what came in between makes it one that changes nothing.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Change {
    /// An actor holds a name that was free.
    Claimed {
        /// Which name.
        name: Name,
        /// Who.
        holder: Holder,
        /// What it says of itself.
        value: Bytes,
    },
    /// A holder says something else of itself.
    Updated {
        /// Which name.
        name: Name,
        /// Whose claim.
        number: ClaimNumber,
        /// What it says now.
        value: Bytes,
    },
    /// A name is free again.
    Released {
        /// Which name.
        name: Name,
        /// Whose claim it was.
        number: ClaimNumber,
        /// Why.
        reason: Reason,
    },
    /// A child is to run under a name that was free. It waits.
    Added {
        /// Which name.
        name: Name,
        /// What is to run.
        spec: Arc<Spec>,
        /// What is to be said of it.
        value: Bytes,
    },
    /// A node is to start a waiting child. It has a new number from here on.
    Ordered {
        /// Which name.
        name: Name,
        /// The number that it had.
        number: ClaimNumber,
        /// Which node.
        node: NodeBoot,
    },
    /// The node started it.
    Started {
        /// Which name.
        name: Name,
        /// Which start.
        number: ClaimNumber,
        /// Its actor on that node.
        actor: u64,
    },
    /// A child is to end, or to move.
    Stopping {
        /// Which name.
        name: Name,
        /// Which start.
        number: ClaimNumber,
        /// Whether it is to run elsewhere then.
        moves: bool,
    },
    /// Nobody runs the child any more; it waits for its next start.
    Freed {
        /// Which name.
        name: Name,
        /// Which start is over.
        number: ClaimNumber,
        /// Why.
        reason: Reason,
        /// What it gives to the next instance; nothing where it failed, and then that has what this one was given.
        handed: Option<Bytes>,
    },
    /// A node's run is no member any more: what it held is free, and its children wait, but for those that are temporary.
    NodeGone {
        /// Which.
        node: NodeBoot,
    },
    /// What comes after this is done at this time.
    Clock {
        /// When.
        at: UnixMillis,
    },
    /// Something that comes from another side of the cluster stands here. It has a new number from here on.
    Brought {
        /// What. Boxed: most changes are smaller.
        brought: Box<Brought>,
        /// Which claim it replaces; `None`: the name was free.
        in_place_of: Option<ClaimNumber>,
    },
    /// The cluster is told something under a key that is no name. It replaces what it was told before.
    MetaPut {
        /// Under which key.
        key: Name,
        /// What.
        value: Bytes,
    },
    /// The cluster is told nothing more under a key.
    MetaRemoved {
        /// Under which.
        key: Name,
        /// What it was told until then.
        number: ClaimNumber,
    },
}

/// What a change did, for those who listen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum News {
    /// Somebody answers under a name.
    Registered {
        /// Which name.
        name: Name,
        /// By which claim.
        number: ClaimNumber,
        /// Who.
        holder: Holder,
        /// The kind, of a child.
        kind: Option<Kind>,
    },
    /// A holder says something else of itself.
    Updated {
        /// Which name.
        name: Name,
        /// Whose claim.
        number: ClaimNumber,
    },
    /// Nobody answers under a name any more.
    Unregistered {
        /// Which name.
        name: Name,
        /// Whose claim it was.
        number: ClaimNumber,
        /// Who did, if anybody had answered.
        holder: Option<Holder>,
        /// The kind, of a child.
        kind: Option<Kind>,
        /// Why.
        reason: Reason,
        /// Whether somebody else is to, for the child goes on.
        goes_on: bool,
    },
}

/// The names of one partition.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(from = "Saved", into = "Saved")]
pub struct Directory {
    names: BTreeMap<Name, Claim>,
    /// The newest number that was given.
    last: ClaimNumber,
    meta: BTreeMap<Name, Meta>,
    /// The time, as far as it was told.
    clock: UnixMillis,
    /// For whoever asks by node, again and again: see [`Directory::indexed`].
    index: Option<Box<Index>>,
}

/// Whether the same stands in both.
impl PartialEq for Directory {
    fn eq(&self, other: &Self) -> bool {
        (&self.names, self.last, &self.meta, self.clock)
            == (&other.names, other.last, &other.meta, other.clock)
    }
}

impl Eq for Directory {}

/// A directory as bytes: what can be computed is not written.
#[derive(Serialize, Deserialize)]
struct Saved {
    names: BTreeMap<Name, Claim>,
    meta: BTreeMap<Name, Meta>,
    last: ClaimNumber,
    clock: UnixMillis,
}

impl From<Saved> for Directory {
    fn from(Saved { names, meta, last, clock }: Saved) -> Self {
        Self { names, last, meta, clock, index: None }
    }
}

impl From<Directory> for Saved {
    fn from(Directory { names, meta, last, clock, .. }: Directory) -> Self {
        Self { names, meta, last, clock }
    }
}

impl Directory {
    /// Takes one step. What does not fit what stands here changes nothing: the same on every copy.
    pub fn apply(&mut self, change: &Change) -> Vec<News> {
        match change {
            Change::Claimed { name, holder, value } => self.apply_claimed(name, holder, value),
            Change::Updated { name, number, value } => self.apply_updated(name, *number, value),
            Change::Released { name, number, reason } => self.apply_released(name, *number, reason.clone()),
            Change::Added { name, spec, value } => {
                if !self.names.contains_key(name) {
                    let number = self.next_number();
                    let child = Child {
                        spec: Arc::clone(spec),
                        stage: Stage::Waiting,
                        restarts: 0,
                        handed: Bytes::new(),
                    };
                    let (value, held) = (value.clone(), Held::Child(Box::new(child)));
                    self.put(name.clone(), Claim { number, value, held, since: self.clock });
                }
                Vec::new()
            }
            Change::Ordered { name, number, node } => {
                if self.child(name, *number).is_some_and(|child| child.stage == Stage::Waiting) {
                    let next = self.next_number();
                    self.alter(name, |number, child| {
                        *number = next;
                        child.stage = Stage::Starting { node: node.clone() };
                    });
                }
                Vec::new()
            }
            Change::Started { name, number, actor } => self.apply_started(name, *number, *actor),
            Change::Stopping { name, number, moves } => self.apply_stopping(name, *number, *moves),
            Change::Freed { name, number, reason, handed } => {
                self.apply_freed(name, *number, reason, handed.as_ref())
            }
            Change::NodeGone { node } => self.apply_node_gone(node),
            Change::Clock { at } => {
                self.clock = self.clock.max(*at);
                Vec::new()
            }
            Change::Brought { brought, in_place_of } => self.apply_brought(brought, *in_place_of),
            Change::MetaPut { key, value } => {
                let number = self.next_number();
                self.meta.insert(key.clone(), Meta { number, value: value.clone() });
                Vec::new()
            }
            Change::MetaRemoved { key, number } => {
                if self.meta.get(key).is_some_and(|meta| meta.number == *number) {
                    self.meta.remove(key);
                }
                Vec::new()
            }
        }
    }

    fn apply_claimed(&mut self, name: &Name, holder: &Holder, value: &Bytes) -> Vec<News> {
        let btree_map::Entry::Vacant(free) = self.names.entry(name.clone()) else { return Vec::new() };
        self.last.0 += 1;
        let number = self.last;
        let held = Held::Plain(holder.clone());
        let claim = Claim { number, value: value.clone(), held, since: self.clock };
        if let Some(index) = &mut self.index {
            index.add(name, &claim);
        }
        free.insert(claim);
        vec![News::Registered { name: name.clone(), number, holder: holder.clone(), kind: None }]
    }

    fn apply_updated(&mut self, name: &Name, number: ClaimNumber, value: &Bytes) -> Vec<News> {
        let Some(claim) = self.names.get_mut(name).filter(|claim| claim.number == number) else {
            return Vec::new();
        };
        claim.value = value.clone();
        vec![News::Updated { name: name.clone(), number }]
    }

    fn apply_released(&mut self, name: &Name, number: ClaimNumber, reason: Reason) -> Vec<News> {
        if self.names.get(name).is_none_or(|claim| claim.number != number) {
            return Vec::new();
        }
        let Some(claim) = self.take(name) else { return Vec::new() };
        let (holder, kind) = (claim.holder().cloned(), claim.kind().cloned());
        vec![News::Unregistered { name: name.clone(), number, holder, kind, reason, goes_on: false }]
    }

    fn apply_started(&mut self, name: &Name, number: ClaimNumber, actor: u64) -> Vec<News> {
        let Some(child) = self.child(name, number) else { return Vec::new() };
        let Stage::Starting { node } = &child.stage else { return Vec::new() };
        let kind = Some(child.spec.kind.clone());
        let holder = Holder { node: node.clone(), actor };
        self.alter(name, |_, child| child.stage = Stage::Running { holder: holder.clone() });
        if let Some(claim) = self.names.get_mut(name) {
            claim.since = self.clock;
        }
        vec![News::Registered { name: name.clone(), number, holder, kind }]
    }

    fn apply_stopping(&mut self, name: &Name, number: ClaimNumber, moves: bool) -> Vec<News> {
        let Some(child) = self.child(name, number) else { return Vec::new() };
        let (holder, node) = match &child.stage {
            // What waits has nothing to stop: it is released, or waits on.
            Stage::Waiting => return Vec::new(),
            Stage::Running { holder } => (Some(holder.clone()), holder.node.clone()),
            Stage::Starting { node } => (None, node.clone()),
            // To end is the last word; a move gives way to it.
            Stage::Stopping { moves: false, .. } => return Vec::new(),
            Stage::Stopping { node, .. } => (None, node.clone()),
        };
        let kind = Some(child.spec.kind.clone());
        self.alter(name, |_, child| child.stage = Stage::Stopping { node, moves });
        let reason = if moves { Reason::Moved } else { Reason::Normal };
        let told = holder.is_some();
        let news = News::Unregistered { name: name.clone(), number, holder, kind, reason, goes_on: moves };
        if told { vec![news] } else { Vec::new() }
    }

    fn apply_freed(
        &mut self,
        name: &Name,
        number: ClaimNumber,
        reason: &Reason,
        handed: Option<&Bytes>,
    ) -> Vec<News> {
        let Some(child) = self.child(name, number).filter(|child| child.stage != Stage::Waiting) else {
            return Vec::new();
        };
        let holder = match &child.stage {
            Stage::Running { holder } => Some(holder.clone()),
            Stage::Waiting | Stage::Starting { .. } | Stage::Stopping { .. } => None,
        };
        let kind = child.spec.kind.clone();
        self.alter(name, |_, child| {
            child.stage = Stage::Waiting;
            child.restarts = child.restarts.saturating_add(1);
            if let Some(handed) = handed {
                child.handed = handed.clone();
            }
        });
        let news = |holder| News::Unregistered {
            name: name.clone(),
            number,
            holder: Some(holder),
            kind: Some(kind),
            reason: reason.clone(),
            goes_on: true,
        };
        holder.map(news).into_iter().collect()
    }

    fn apply_node_gone(&mut self, node: &NodeBoot) -> Vec<News> {
        let mut news = Vec::new();
        let there: Vec<Name> = self.on_node(node).cloned().collect();
        for name in there {
            let Some(claim) = self.names.get(&name) else { continue };
            let number = claim.number;
            news.extend(match &claim.held {
                Held::Child(child) if goes_on_without_node(child) => {
                    self.apply_freed(&name, number, &Reason::NodeDown, None)
                }
                Held::Child(_) | Held::Plain(_) => self.apply_released(&name, number, Reason::NodeDown),
            });
        }
        news
    }

    fn next_number(&mut self) -> ClaimNumber {
        self.last.0 += 1;
        self.last
    }

    fn put(&mut self, name: Name, claim: Claim) {
        if let Some(index) = &mut self.index {
            index.add(&name, &claim);
        }
        self.names.insert(name, claim);
    }

    fn take(&mut self, name: &Name) -> Option<Claim> {
        let claim = self.names.remove(name)?;
        if let Some(index) = &mut self.index {
            index.remove(name, &claim);
        }
        Some(claim)
    }

    fn alter(&mut self, name: &Name, alter: impl FnOnce(&mut ClaimNumber, &mut Child)) {
        let Some(claim) = self.names.get_mut(name) else { return };
        if let Some(index) = &mut self.index {
            index.remove(name, claim);
        }
        if let Held::Child(child) = &mut claim.held {
            alter(&mut claim.number, child);
        }
        if let Some(index) = &mut self.index {
            index.add(name, claim);
        }
    }

    fn child(&self, name: &Name, number: ClaimNumber) -> Option<&Child> {
        self.names.get(name).filter(|claim| claim.number == number)?.child()
    }
}

/// Whether a child is started again where its node went: a temporary one is not, nor one that was to end.
pub fn goes_on_without_node(child: &Child) -> bool {
    let ends = matches!(child.stage, Stage::Stopping { moves: false, .. });
    child.spec.restart != crate::supervision::Restart::Temporary && !ends
}

impl Directory {
    /// What stands under a name.
    pub fn get(&self, name: &Name) -> Option<&Claim> {
        self.names.get(name)
    }

    /// A directory in which these claims stand and this is told, and which gave out numbers up to this one.
    pub fn of(
        claims: impl IntoIterator<Item = (Name, Claim)>,
        meta: impl IntoIterator<Item = (Name, Meta)>,
        last: ClaimNumber,
    ) -> Self {
        let (names, meta) = (claims.into_iter().collect(), meta.into_iter().collect());
        Saved { names, meta, last, clock: UnixMillis(0) }.into()
    }

    /// What the cluster is told under a key.
    pub fn meta(&self, key: &Name) -> Option<&Meta> {
        self.meta.get(key)
    }

    /// All that the cluster is told, by key.
    pub fn all_meta(&self) -> impl Iterator<Item = (&Name, &Meta)> {
        self.meta.iter()
    }

    /// How many names there are.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// All of it, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&Name, &Claim)> {
        self.names.iter()
    }

    /// The names that begin so, and what stands there, in order.
    pub fn with_prefix<'a>(&'a self, prefix: &'a [u8]) -> impl Iterator<Item = (&'a Name, &'a Claim)> {
        let from = (Bound::Included(prefix), Bound::Unbounded);
        self.names.range::<[u8], _>(from).take_while(move |(name, _)| name.as_bytes().starts_with(prefix))
    }

    /// The names under which something may run on a node, in order.
    pub fn on_node(&self, node: &NodeBoot) -> impl Iterator<Item = &Name> {
        self.on_node_from(node, Bound::Unbounded)
    }

    /// The same behind a name.
    pub fn on_node_from(&self, node: &NodeBoot, from: Bound<Name>) -> impl Iterator<Item = &Name> {
        let range = (from, Bound::Unbounded);
        let indexed = self.index.as_ref().and_then(|index| index.on_node(node));
        let indexed = indexed.map(|names| names.range(range.clone()));
        let all = self.index.is_none().then(|| self.names.range(range));
        let node = node.clone();
        let there = move |(name, claim): (_, &Claim)| (claim.node() == Some(&node)).then_some(name);
        indexed.into_iter().flatten().chain(all.into_iter().flatten().filter_map(there))
    }

    /// How many names that are.
    pub fn count_on(&self, node: &NodeBoot) -> usize {
        match &self.index {
            Some(index) => index.on_node(node).map_or(0, BTreeSet::len),
            None => self.on_node(node).count(),
        }
    }

    /// The nodes on which something may run, in order.
    pub fn nodes(&self) -> impl Iterator<Item = &NodeBoot> {
        let indexed = self.index.as_ref().map(|index| index.nodes());
        let all = || self.names.values().filter_map(Claim::node).collect::<BTreeSet<_>>();
        let all = self.index.is_none().then(all);
        indexed.into_iter().flatten().chain(all.into_iter().flatten())
    }

    /// Children that nobody was told to run, in order.
    pub fn waiting(&self) -> impl Iterator<Item = &Name> {
        let all = self.index.is_none().then_some(&self.names);
        let waits = |(name, claim): (_, &Claim)| claim.node().is_none().then_some(name);
        let indexed = self.index.as_ref().map(|index| index.waiting());
        indexed.into_iter().flatten().chain(all.into_iter().flatten().filter_map(waits))
    }

    /// The same directory, for whoever asks by node, again and again: that is no walk through all names then.
    #[must_use]
    pub fn indexed(mut self) -> Self {
        self.index = Some(Box::new(self.names.iter().collect()));
        self
    }

    /// The time, as far as the directory was told.
    pub const fn clock(&self) -> UnixMillis {
        self.clock
    }

    /// The newest number that was given.
    pub const fn last_number(&self) -> ClaimNumber {
        self.last
    }
}
