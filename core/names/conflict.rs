//! One name that two sides of a cluster gave to somebody each, and who of the two keeps it.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::ids::{Kind, NodeBoot};
use crate::names::name::Name;
use crate::time::UnixMillis;

/// One of two who hold a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contender {
    /// On which run of which node it is; `None`: a child that runs nowhere at present.
    pub node: Option<NodeBoot>,
    /// The kind, of a child.
    pub kind: Option<Kind>,
    /// What it says of itself.
    pub value: Bytes,
    /// Since when it holds the name, by the clocks of its side, to about a tenth of a second: of a child, since when this instance
    /// runs.
    pub since: UnixMillis,
}

/// One name that two hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// Which.
    pub name: Name,
    /// Who holds it on the side that stays.
    pub here: Contender,
    /// Who held it on the side that joins.
    pub comes: Contender,
}

/// Who of the two keeps the name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Winner {
    /// Whoever holds it on the side that stays.
    Here,
    /// Whoever held it on the side that joins.
    Comes,
}

/// A rule in the box.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// Whoever has held the name for longer. Of two that have for as long: whoever holds it on the side that stays.
    #[default]
    Oldest,
    /// Whoever came to hold the name later. Of two that did at once: whoever holds it on the side that stays.
    Newest,
}

impl Rule {
    /// Who keeps the name.
    pub fn decide(self, conflict: &Conflict) -> Winner {
        let (here, comes) = (conflict.here.since, conflict.comes.since);
        let comes = match self {
            Self::Oldest => comes < here,
            Self::Newest => comes > here,
        };
        if comes { Winner::Comes } else { Winner::Here }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rules_look_at_who_came_first_and_prefer_whoever_stays() {
        let contender =
            |since| Contender { node: None, kind: None, value: Bytes::new(), since: UnixMillis(since) };
        let conflict = |here, comes| Conflict {
            name: Name::new("a").unwrap(),
            here: contender(here),
            comes: contender(comes),
        };
        let cases = [(1, 2, Winner::Here, Winner::Comes), (2, 1, Winner::Comes, Winner::Here)];
        for (here, comes, oldest, newest) in cases {
            assert_eq!(Rule::Oldest.decide(&conflict(here, comes)), oldest);
            assert_eq!(Rule::Newest.decide(&conflict(here, comes)), newest);
        }
        for rule in [Rule::Oldest, Rule::Newest] {
            assert_eq!(rule.decide(&conflict(3, 3)), Winner::Here);
        }
    }
}
