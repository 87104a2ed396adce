//! What a cluster begins with that goes on for another one: in pieces, each small enough to be agreed on at once.

use serde::{Deserialize, Serialize};

use super::{Configuration, Entry, KEYS_MAX, Key, SIZE_MAX, cost};
use crate::ids::ConfigVersion;

/// A piece of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inherited {
    /// The last change that all pieces together have in them: the next one is the one after it.
    pub version: ConfigVersion,
    /// Some of the values, each with the change that put it there.
    pub entries: Vec<(Key, Entry)>,
}

impl Configuration {
    /// All of it as a cluster begins with it: in pieces that cost at most this, or hold a single value. None where there is
    /// nothing. The changes that led here are not among it: whoever lags is given the whole.
    pub fn pieces(&self, cost_max: u64) -> Vec<Inherited> {
        let version = self.version;
        if version == ConfigVersion::ZERO {
            return Vec::new();
        }
        let (mut pieces, mut room) = (vec![Inherited { version, entries: Vec::new() }], cost_max);
        for (key, entry) in &self.entries {
            let costs = cost(key, &entry.value);
            let last = pieces.len() - 1;
            if costs > room && !pieces[last].entries.is_empty() {
                pieces.push(Inherited { version, entries: Vec::new() });
                room = cost_max;
            }
            room = room.saturating_sub(costs);
            if let Some(piece) = pieces.last_mut() {
                piece.entries.push((key.clone(), entry.clone()));
            }
        }
        pieces
    }

    /// Takes a piece of what the cluster begins with; once more, and nothing changes. Says whether there was room for it:
    /// otherwise nothing was taken.
    pub fn inherit(&mut self, piece: &Inherited) -> bool {
        let mut next = self.clone();
        for (key, entry) in &piece.entries {
            next.size += cost(key, &entry.value);
            if let Some(former) = next.entries.insert(key.clone(), entry.clone()) {
                next.size = next.size.saturating_sub(cost(key, &former.value));
            }
        }
        next.version = next.version.max(piece.version);
        let fits = next.entries.len() <= KEYS_MAX && next.size <= SIZE_MAX;
        if fits {
            *self = next;
        }
        fits
    }

    /// The keys whose values here are not those there: first those that are here, then those that are there only.
    pub fn differing<'a>(&'a self, there: &'a Self) -> impl Iterator<Item = &'a Key> {
        let mine = self.entries.iter();
        let mine =
            mine.filter(|(key, entry)| there.get(key.as_str()).map(|it| &it.value) != Some(&entry.value));
        let theirs = there.entries.keys().filter(|key| self.get(key.as_str()).is_none());
        mine.map(|(key, _)| key).chain(theirs)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{ENTRY_COST, Expected, Json, Refused, Write};
    use super::*;

    fn write(all: &mut Configuration, id: u64, key: &str, value: Option<&str>) -> Result<(), Refused> {
        let (key, value) = (Key::new(key).unwrap(), value.map(|value| Json::new(value).unwrap()));
        let write = Write { id, known: all.version(), key, expected: Expected::Anything, value };
        all.write(&write).map(drop)
    }

    fn filled() -> Configuration {
        let mut all = Configuration::default();
        for id in 1..=9 {
            write(&mut all, id, &format!("k{}", id % 7), Some(&id.to_string())).unwrap();
        }
        write(&mut all, 10, "k5", None).unwrap();
        all
    }

    #[test]
    fn a_cluster_that_begins_with_it_has_the_same_and_counts_on() {
        let all = filled();
        let pieces = all.pieces(2 * (ENTRY_COST + 3));
        assert_eq!(pieces.iter().map(|piece| piece.entries.len()).collect::<Vec<_>>(), [2, 2, 2]);
        let mut next = Configuration::default();
        for piece in pieces.iter().chain(&pieces[..2]) {
            assert!(next.inherit(piece));
        }
        assert_eq!((next.version(), next.size(), next.len()), (ConfigVersion(10), all.size(), 6));
        assert!(next.under("").eq(all.under("")));
        assert_eq!(next.differing(&all).count(), 0);
        write(&mut next, 11, "k1", Some("x")).unwrap();
        write(&mut next, 12, "k5", Some("x")).unwrap();
        write(&mut next, 13, "k6", None).unwrap();
        assert_eq!(next.version(), ConfigVersion(13));
        let differing = |one: &Configuration, other: &Configuration| {
            let mut keys: Vec<String> = one.differing(other).map(Key::to_string).collect();
            keys.sort();
            keys
        };
        assert_eq!(differing(&next, &all), ["k1", "k5", "k6"]);
        assert_eq!(differing(&all, &next), ["k1", "k5", "k6"]);
    }

    #[test]
    fn where_there_is_nothing_there_are_no_pieces_and_where_all_was_removed_it_counts_on() {
        assert_eq!(Configuration::default().pieces(1), []);
        let mut all = Configuration::default();
        write(&mut all, 1, "k", Some("1")).unwrap();
        write(&mut all, 2, "k", None).unwrap();
        let mut next = Configuration::default();
        assert!(all.pieces(1).iter().all(|piece| next.inherit(piece)));
        assert_eq!((next.version(), next.len()), (ConfigVersion(2), 0));
    }

    #[test]
    fn more_than_there_is_room_for_changes_nothing() {
        let entry = |n| {
            let value = Json::new("1").unwrap();
            (Key::new(&format!("k{n}")).unwrap(), Entry { version: ConfigVersion(n), value })
        };
        let entries = (0..=KEYS_MAX as u64).map(entry).collect();
        let mut all = filled();
        let before = all.clone();
        assert!(!all.inherit(&Inherited { version: ConfigVersion(5_000), entries }));
        assert_eq!(all, before);
    }
}
