//! One who wants to hear of every change under some keys: each once, in order, and of gaps that there were some.

use super::{Configuration, Entry, Json, Key};
use crate::ids::ConfigVersion;

/// What a watcher hears.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// A value is under a key, or none any more.
    Changed {
        /// By which change.
        version: ConfigVersion,
        /// Under which key.
        key: Key,
        /// The value; `None`: there is none any more.
        value: Option<Json>,
    },
    /// Before what comes next there were so many changes, of any keys, that are not kept any more: this watcher was too slow, or
    /// its node had been away. Of these only the values that still stand are told.
    Missed {
        /// How many.
        count: u64,
    },
}

/// Hears of the changes under keys that begin alike. It keeps its place only, so it holds up nobody.
#[derive(Clone, Debug)]
pub struct Watcher {
    prefix: String,
    /// The last change that it heard of, or that is none of its own. `None`: it is to hear first what is there.
    seen: Option<ConfigVersion>,
}

impl Watcher {
    /// A watcher that is to hear what is there first, in the order in which it came.
    pub const fn new(prefix: String) -> Self {
        Self { prefix, seen: None }
    }

    /// A watcher that knows all up to this change.
    pub const fn after(prefix: String, seen: ConfigVersion) -> Self {
        Self { prefix, seen: Some(seen) }
    }

    /// The last change that it heard of, or that is none of its own.
    pub fn seen(&self) -> ConfigVersion {
        self.seen.unwrap_or_default()
    }

    /// Another configuration took this one's place: it hears what is there as at first.
    pub const fn begin_anew(&mut self) {
        self.seen = None;
    }

    /// All that it is to hear by now, in order.
    pub fn hear(&mut self, now: &Configuration) -> Vec<News> {
        let Some(seen) = self.seen else {
            self.seen = Some(now.version);
            return self.standing(now, ConfigVersion::ZERO, now.version);
        };
        if seen >= now.version {
            return Vec::new();
        }
        let mut heard = Vec::new();
        let kept_after = now.kept_after().max(seen);
        if kept_after > seen {
            heard.push(News::Missed { count: kept_after.0 - seen.0 });
            heard.extend(self.standing(now, seen, kept_after));
        }
        let changes = now.changes_since(kept_after).into_iter().flatten();
        let own = changes.filter(|change| change.key.as_str().starts_with(&self.prefix));
        heard.extend(own.map(|change| News::Changed {
            version: change.version,
            key: change.key.clone(),
            value: change.value.clone(),
        }));
        self.seen = Some(now.version);
        heard
    }

    /// The values that changes after `from`, up to `to`, put where they are.
    fn standing(&self, now: &Configuration, from: ConfigVersion, to: ConfigVersion) -> Vec<News> {
        let mut standing: Vec<(&Key, &Entry)> = now
            .under(&self.prefix)
            .filter(|(_, entry)| entry.version > from && entry.version <= to)
            .collect();
        standing.sort_by_key(|(_, entry)| entry.version);
        let told = standing.into_iter().map(|(key, entry)| News::Changed {
            version: entry.version,
            key: key.clone(),
            value: Some(entry.value.clone()),
        });
        told.collect()
    }
}
