//! The placements that a node has: those in the box, and its user's own, by name.
//!
//! ```text
//!  Placing ─┬─ in the box ──────────────────────────▶ a node, or none
//!           └─ Own(name) ─▶ the user's own ─▶ pick ─┬▶ a node, or none
//!                            └ there is none        └▶ it panicked, or chose what is not there ─▶ Fault
//! ```

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use crate::ids::PlacementName;
use crate::names::placement::{Choice, Placement, Placing};

/// The user's own placements. Cheap to clone.
#[derive(Clone, Default)]
pub struct Placements {
    own: Arc<BTreeMap<PlacementName, Arc<dyn Placement>>>,
}

/// A placement cannot be had under its name. The node does not start.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameTaken {
    /// One of those in the box has it.
    #[error("the placement {0} is one of tumen's own: give yours another name")]
    BuiltIn(PlacementName),
    /// It is given twice.
    #[error("the placement {0} is given twice: give one of them another name")]
    Twice(PlacementName),
}

/// Why a placement of the user's own chose no node, where it should have said so.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// There is none of that name on the node that was to ask it.
    #[error("the node that leads the directory of this name has no placement named {name} ({}): it is to be given to the builder of every node", list(.known))]
    Unknown {
        /// The name.
        name: PlacementName,
        /// Those that it has.
        known: Vec<PlacementName>,
    },
    /// It panicked.
    #[error("the placement {name} panicked: {why}")]
    Panicked {
        /// Its name.
        name: PlacementName,
        /// What it said.
        why: String,
    },
    /// It chose somebody who is not there.
    #[error("the placement {name} chose number {at}, counted from 0, of {count} nodes")]
    NotThere {
        /// Its name.
        name: PlacementName,
        /// What it chose.
        at: usize,
        /// How many there were to choose from.
        count: usize,
    },
}

fn list(known: &[PlacementName]) -> String {
    if known.is_empty() {
        return "it has none of its user's own".to_owned();
    }
    format!("it has {}", known.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))
}

impl Placements {
    /// These.
    ///
    /// # Errors
    /// One of them cannot be told from another one, or from one in the box.
    pub fn new(own: Vec<(PlacementName, Arc<dyn Placement>)>) -> Result<Self, NameTaken> {
        let mut by_name = BTreeMap::new();
        for (name, placement) in own {
            if Placing::BUILT_IN.iter().any(|it| it.as_str() == name.as_str()) {
                return Err(NameTaken::BuiltIn(name));
            }
            if by_name.insert(name.clone(), placement).is_some() {
                return Err(NameTaken::Twice(name));
            }
        }
        Ok(Self { own: Arc::new(by_name) })
    }

    /// Whom this placing chooses: the node's place among the candidates.
    ///
    /// # Errors
    /// One of the user's own is not there, or not to be relied on.
    pub fn pick(&self, placing: &Placing, choice: &Choice<'_>) -> Result<Option<usize>, Fault> {
        let Placing::Own(name) = placing else { return Ok(placing.pick(choice)) };
        let Some(own) = self.own.get(name) else {
            return Err(Fault::Unknown { name: name.clone(), known: self.own.keys().cloned().collect() });
        };
        let picked = catch_unwind(AssertUnwindSafe(|| own.pick(choice)));
        let picked = picked.map_err(|panic| Fault::Panicked { name: name.clone(), why: text_of(&*panic) })?;
        let count = choice.candidates.len();
        match picked {
            Some(at) if at >= count => Err(Fault::NotThere { name: name.clone(), at, count }),
            picked => Ok(picked),
        }
    }
}

/// What a panic said, cut to a length that can be passed on.
fn text_of(panic: &(dyn Any + Send)) -> String {
    const CHARS_MAX: usize = 256;
    let text = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("without a word");
    text.chars().take(CHARS_MAX).collect()
}

impl fmt::Debug for Placements {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.own.keys()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{Boot, NodeBoot, NodeName};
    use crate::names::name::Name;
    use crate::names::placement::Candidate;

    struct Chooses(Option<usize>);

    impl Placement for Chooses {
        fn pick(&self, choice: &Choice<'_>) -> Option<usize> {
            assert!(self.0 != Some(99), "told to by {}", choice.name);
            self.0
        }
    }

    fn named(name: &str) -> PlacementName {
        PlacementName::new(name).unwrap()
    }

    fn own(placements: &[(&str, Option<usize>)]) -> Result<Placements, NameTaken> {
        let one =
            |(name, at): &(&str, Option<usize>)| (named(name), Arc::new(Chooses(*at)) as Arc<dyn Placement>);
        Placements::new(placements.iter().map(one).collect())
    }

    #[test]
    fn a_users_own_is_asked_by_its_name_and_what_it_says_is_looked_at() {
        let nodes: Vec<NodeBoot> =
            ["a", "b"].map(|name| NodeBoot::new(NodeName::new(name).unwrap(), Boot(1))).into();
        let candidates: Vec<Candidate<'_>> =
            nodes.iter().map(|node| Candidate { node, weight: 100, children: 0 }).collect();
        let name = Name::new("child").unwrap();
        let choice = Choice { name: &name, number: 1, candidates: &candidates, there: 2, members: 2 };
        let placements =
            own(&[("last", Some(1)), ("none", None), ("far", Some(2)), ("wild", Some(99))]).unwrap();
        let pick = |name: &str| placements.pick(&name.parse().unwrap(), &choice);
        assert_eq!((pick("last"), pick("none")), (Ok(Some(1)), Ok(None)));
        assert!(matches!(pick("uniform"), Ok(Some(_))));
        assert_eq!(pick("far"), Err(Fault::NotThere { name: named("far"), at: 2, count: 2 }));
        assert_eq!(
            pick("wild"),
            Err(Fault::Panicked { name: named("wild"), why: "told to by child".into() })
        );
        let unknown = pick("near-data").unwrap_err().to_string();
        assert!(unknown.contains("no placement named near-data (it has far, last, none, wild)"), "{unknown}");
    }

    #[test]
    fn each_name_is_one_placements() {
        assert_eq!(own(&[("random", None)]).unwrap_err(), NameTaken::BuiltIn(named("random")));
        assert_eq!(own(&[("a", None), ("b", None), ("a", None)]).unwrap_err(), NameTaken::Twice(named("a")));
    }
}
