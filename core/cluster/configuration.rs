//! The cluster's own configuration: values under keys, the same on every node, changed in one order.
//!
//! ```text
//!            Write { key, expected, value }                          Change, numbered
//!  a node ─────────────────────────────────▶ the voters agree on it ─────────────────▶ every node follows
//!                                             │ judged by the state      1 2 3 · 5?     a gap: the changes since,
//!                                             └ Refused: nothing changed                or the whole
//! ```
//!
//! There is one version for all keys: the number of the last change. So the version is a place in the one order, whoever
//! reads it. A write is known again by its id, as long as the last changes are remembered: sent twice it is carried out once.

mod inherited;
mod watcher;

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use self::inherited::Inherited;
pub use self::watcher::{News, Watcher};
use crate::ids::ConfigVersion;

/// The most bytes that a key may have.
pub const KEY_LEN_MAX: usize = 255;
/// The most bytes that a value may have, as JSON.
pub const VALUE_LEN_MAX: usize = 64 << 10;
/// The most keys that there may be.
pub const KEYS_MAX: usize = 4096;
/// The most bytes that keys and values may have together, with [`ENTRY_COST`] for each.
pub const SIZE_MAX: u64 = 4 << 20;
/// What a key counts for beside its bytes and its value's.
pub const ENTRY_COST: u64 = 64;
/// The most changes that are kept for those who lag a little.
pub const CHANGES_MAX: usize = 1024;
/// The most bytes that these may have, counted as [`SIZE_MAX`] is.
pub const CHANGES_SIZE_MAX: u64 = 1 << 20;
/// So many of the last writes are known again by their ids.
pub const REMEMBERED_MAX: usize = 4096;

/// Under what a value is kept: 1 to [`KEY_LEN_MAX`] bytes of text without control characters. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Arc<str>);

/// A value, as JSON of at most [`VALUE_LEN_MAX`] bytes. Cheap to clone. Whoever makes one has seen to it that it is JSON.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Json(Arc<str>);

/// What makes no key, or no value. Nothing changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Invalid {
    /// The key is empty or too long.
    #[error("a key of the configuration has 1 to {KEY_LEN_MAX} bytes, this one has {0}")]
    KeyLen(usize),
    /// The key holds a character that does not show.
    #[error("a key of the configuration has no control characters, this one has {0:?}")]
    KeyCharacter(char),
    /// The value is too long.
    #[error("a value of the configuration has at most {VALUE_LEN_MAX} bytes as JSON, this one has {0}")]
    ValueLen(usize),
    /// The value is no JSON.
    #[error("the value is no JSON: {0}")]
    ValueJson(String),
    /// The value that is there is of another type than it was read as.
    #[error("the value under this key is not of the type that it is read as: {0}")]
    OtherType(String),
}

/// What has to be under a key for a write to be carried out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Expected {
    /// Whatever is there, or nothing.
    #[default]
    Anything,
    /// Nothing.
    Nothing,
    /// Some value.
    Something,
    /// The value that was written by this change.
    Version(ConfigVersion),
}

/// What somebody wants to be under a key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Write {
    /// By which it is known again if it is sent twice.
    pub id: u64,
    /// The version that its sender knew when it sent it first: if more changes came since than are remembered, nobody can
    /// tell whether it was carried out before, and it is refused.
    pub known: ConfigVersion,
    /// Under which key.
    pub key: Key,
    /// What has to be there.
    pub expected: Expected,
    /// What is to be there; `None`: nothing.
    pub value: Option<Json>,
}

/// A write that was carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Written {
    /// The change that it was; or where it changed nothing, for it deleted what was not there, the version at that time.
    pub version: ConfigVersion,
    /// Whether it changed anything, now or when it came first.
    pub changed: bool,
}

/// Why a write was not carried out. Nothing changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refused {
    /// Something else is under the key than was expected.
    #[error(
        "there is {} under this key, not what was expected: nothing changed. Read it, and decide anew",
        found.map_or_else(|| "nothing".to_owned(), |version| format!("a value of version {version}"))
    )]
    Differs {
        /// The version of what is there.
        found: Option<ConfigVersion>,
    },
    /// There are as many keys as there may be, or all of it is as large as it may be.
    #[error(
        "the configuration is full: at most {KEYS_MAX} keys with {SIZE_MAX} bytes in all: nothing changed. Delete what is \
         not needed any more"
    )]
    Full,
    /// The sender is so far behind that it cannot be told whether this write was carried out before.
    #[error(
        "too many changes came since: nothing changed by this, look at version {version} and decide anew"
    )]
    Outdated {
        /// The version by now.
        version: ConfigVersion,
    },
}

/// A value, and the change that put it there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The change.
    pub version: ConfigVersion,
    /// The value.
    pub value: Json,
}

/// One change. The changes of a cluster are numbered from 1, without gaps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Its number.
    pub version: ConfigVersion,
    /// The id of the write that it was.
    pub id: u64,
    /// Under which key.
    pub key: Key,
    /// What is there now; `None`: nothing.
    pub value: Option<Json>,
}

/// What a node that lags needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CatchUp {
    /// It does not lag.
    Nothing,
    /// These changes, in order.
    Changes(Vec<Change>),
    /// All there is: it lags by more than is kept.
    Whole(Arc<Configuration>),
}

/// What became of a change that was heard of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Followed {
    /// It is the next one, and was taken.
    Taken,
    /// It was known.
    Known,
    /// Others come between: nothing was taken.
    Gap,
}

/// All values, and the last changes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Configuration {
    version: ConfigVersion,
    entries: BTreeMap<Key, Entry>,
    size: u64,
    /// The last changes, the oldest first.
    changes: VecDeque<Change>,
    changes_size: u64,
    /// The ids of the last changes, the oldest first: these are more.
    remembered: VecDeque<u64>,
}

impl Configuration {
    /// The number of the last change; zero before the first.
    pub const fn version(&self) -> ConfigVersion {
        self.version
    }

    /// What is under a key.
    pub fn get(&self, key: &str) -> Option<&Entry> {
        self.entries.get(key)
    }

    /// All keys that begin so, in the order of their bytes, with their values.
    pub fn under<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a Key, &'a Entry)> {
        let from = (Bound::Included(prefix), Bound::Unbounded);
        self.entries.range::<str, _>(from).take_while(move |(key, _)| key.as_str().starts_with(prefix))
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// How many bytes they count for, of at most [`SIZE_MAX`].
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Carries out a write, if it may be. Every voter calls it with the same writes in the same order.
    ///
    /// # Errors
    /// See [`Refused`]; nothing changed.
    pub fn write(&mut self, write: &Write) -> Result<Written, Refused> {
        if let Some(version) = self.version_of(write.id) {
            return Ok(Written { version, changed: true });
        }
        if write.known < self.remembered_from() {
            return Err(Refused::Outdated { version: self.version });
        }
        let found = self.entries.get(&write.key).map(|entry| entry.version);
        let fits = match write.expected {
            Expected::Anything => true,
            Expected::Nothing => found.is_none(),
            Expected::Something => found.is_some(),
            Expected::Version(version) => found == Some(version),
        };
        if !fits {
            return Err(Refused::Differs { found });
        }
        if write.value.is_none() && found.is_none() {
            return Ok(Written { version: self.version, changed: false });
        }
        if !self.has_room_for(write) {
            return Err(Refused::Full);
        }
        let version = self.version.next();
        let (key, value) = (write.key.clone(), write.value.clone());
        self.take(Change { version, id: write.id, key, value });
        Ok(Written { version, changed: true })
    }

    /// Takes a change that was agreed on, if it is the next one.
    pub fn follow(&mut self, change: &Change) -> Followed {
        if change.version <= self.version {
            return Followed::Known;
        }
        if change.version != self.version.next() {
            return Followed::Gap;
        }
        self.take(change.clone());
        Followed::Taken
    }

    /// Which change a write was, if it is one of the last.
    pub fn version_of(&self, id: u64) -> Option<ConfigVersion> {
        let back = self.remembered.iter().rev().position(|known| *known == id)?;
        Some(ConfigVersion(self.version.0.saturating_sub(back as u64)))
    }

    /// The changes after `known`, in order. `None`: they are not kept any more.
    pub fn changes_since(&self, known: ConfigVersion) -> Option<impl Iterator<Item = &Change>> {
        let newer = self.version.0.saturating_sub(known.0);
        let skipped = (self.changes.len() as u64).checked_sub(newer)?;
        Some(self.changes.iter().skip(usize::try_from(skipped).ok()?))
    }

    /// What a node needs that knows `known`, and nothing after it.
    pub fn catch_up(this: &Arc<Self>, known: ConfigVersion) -> CatchUp {
        if known >= this.version {
            return CatchUp::Nothing;
        }
        let changes = this.changes_since(known).map(|changes| changes.cloned().collect());
        changes.map_or_else(|| CatchUp::Whole(Arc::clone(this)), CatchUp::Changes)
    }

    /// The change before the oldest that is kept.
    fn kept_after(&self) -> ConfigVersion {
        ConfigVersion(self.version.0.saturating_sub(self.changes.len() as u64))
    }

    /// Of the changes after this one all ids are remembered.
    fn remembered_from(&self) -> ConfigVersion {
        ConfigVersion(self.version.0.saturating_sub(self.remembered.len() as u64))
    }

    fn has_room_for(&self, write: &Write) -> bool {
        let Some(value) = &write.value else { return true };
        let former = self.entries.get(&write.key);
        let more = cost(&write.key, value);
        let less = former.map_or(0, |former| cost(&write.key, &former.value));
        let keys = self.entries.len() + usize::from(former.is_none());
        keys <= KEYS_MAX && self.size.saturating_sub(less) + more <= SIZE_MAX
    }

    fn take(&mut self, change: Change) {
        self.version = change.version;
        let former = match &change.value {
            Some(value) => {
                self.size += cost(&change.key, value);
                let entry = Entry { version: change.version, value: value.clone() };
                self.entries.insert(change.key.clone(), entry)
            }
            None => self.entries.remove(&change.key),
        };
        let less = former.map_or(0, |former| cost(&change.key, &former.value));
        self.size = self.size.saturating_sub(less);
        if self.remembered.len() >= REMEMBERED_MAX {
            self.remembered.pop_front();
        }
        self.remembered.push_back(change.id);
        self.changes_size += cost_of(&change);
        self.changes.push_back(change);
        while self.changes.len() > CHANGES_MAX || self.changes_size > CHANGES_SIZE_MAX {
            let Some(oldest) = self.changes.pop_front() else { break };
            self.changes_size = self.changes_size.saturating_sub(cost_of(&oldest));
        }
    }
}

fn cost(key: &Key, value: &Json) -> u64 {
    key.0.len() as u64 + value.0.len() as u64 + ENTRY_COST
}

fn cost_of(change: &Change) -> u64 {
    let value = change.value.as_ref().map_or(0, |value| value.0.len());
    change.key.0.len() as u64 + value as u64 + ENTRY_COST
}

impl Key {
    /// Checks and takes a key.
    ///
    /// # Errors
    /// It is empty, too long, or has control characters.
    pub fn new(key: &str) -> Result<Self, Invalid> {
        if !(1..=KEY_LEN_MAX).contains(&key.len()) {
            return Err(Invalid::KeyLen(key.len()));
        }
        if let Some(strange) = key.chars().find(|c| c.is_control()) {
            return Err(Invalid::KeyCharacter(strange));
        }
        Ok(Self(key.into()))
    }

    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Json {
    /// Takes a value that is known to be JSON.
    ///
    /// # Errors
    /// It is too long.
    pub fn new(json: &str) -> Result<Self, Invalid> {
        if json.len() > VALUE_LEN_MAX {
            return Err(Invalid::ValueLen(json.len()));
        }
        Ok(Self(json.into()))
    }

    /// The JSON as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

crate::text::text!(Key, "key of the configuration");
crate::text::text!(Json, "value of the configuration");

#[cfg(test)]
mod tests;
