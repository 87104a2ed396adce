//! Which node is to run a child.
//!
//! Rendezvous hashing, as for partitions, but for one name at a time: each node draws a number for the name, and the best
//! draw wins. So a name stays where it is when other nodes come and go.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::ids::{NameError, NodeBoot, PlacementName};
use crate::names::name::Name;
use crate::wire::StableHasher;

/// How a node is chosen. As text it is one word, such as `least_loaded`, or the name of a placement of one's own.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Placing {
    /// By the name: always the same one among the same nodes, and children spread evenly.
    #[default]
    Uniform,
    /// The same, and it moves when nodes come or go by which it belongs elsewhere; the others stay where they run.
    UniformActive,
    /// As `Uniform`, as long as more than half of all members are there.
    UniformQuorum,
    /// The one that runs the fewest children beside its weight.
    LeastLoaded,
    /// Any, by the number of the start.
    Random,
    /// By a placement of the user's own: the one of this name that the node has which leads the directory of the child's name.
    Own(PlacementName),
}

impl Placing {
    /// Those in the box.
    pub const BUILT_IN: [Self; 5] =
        [Self::Uniform, Self::UniformActive, Self::UniformQuorum, Self::LeastLoaded, Self::Random];

    /// The word for it.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Uniform => "uniform",
            Self::UniformActive => "uniform_active",
            Self::UniformQuorum => "uniform_quorum",
            Self::LeastLoaded => "least_loaded",
            Self::Random => "random",
            Self::Own(name) => name.as_str(),
        }
    }
}

impl fmt::Display for Placing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Placing {
    type Err = NameError;

    /// One of the box, or, by any other word, one of the user's own.
    fn from_str(word: &str) -> Result<Self, NameError> {
        match Self::BUILT_IN.into_iter().find(|it| it.as_str() == word) {
            Some(built_in) => Ok(built_in),
            None => PlacementName::new(word).map(Self::Own),
        }
    }
}

impl Serialize for Placing {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Placing {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A member that may be given children.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate<'a> {
    /// Which run of which node.
    pub node: &'a NodeBoot,
    /// Its share beside the others'. One of zero is given none, and is no candidate.
    pub weight: u32,
    /// How many children it has already, as far as this directory knows.
    pub children: usize,
}

/// What is known when a node is chosen.
#[derive(Clone, Copy, Debug)]
pub struct Choice<'a> {
    /// Whose node.
    pub name: &'a Name,
    /// The number of the start: chance, where chance is wanted.
    pub number: u64,
    /// Those who may be chosen, sorted by name. They host the child's kind. Where it failed or left last is not among them, as long as
    /// there are others.
    pub candidates: &'a [Candidate<'a>],
    /// How many members are there.
    pub there: usize,
    /// How many members there are in all.
    pub members: usize,
}

/// Chooses a node for a child. Users' own have a name by which a specification asks for them ([`Placing::Own`]).
///
/// It is asked on the node that leads the directory of the child's name, which may be any: all nodes should have it, and choose alike.
/// Nothing else happens in that directory meanwhile, so it must neither wait nor take long.
pub trait Placement: Send + Sync + 'static {
    /// The node's place among [`Choice::candidates`]; `None` where nobody should run it at present: it is asked again later.
    fn pick(&self, choice: &Choice<'_>) -> Option<usize>;
}

/// One of those in the box. Of the user's own this one knows nothing: see [`Placements`](super::placements::Placements).
impl Placement for Placing {
    fn pick(&self, choice: &Choice<'_>) -> Option<usize> {
        let weighty = || (0..).zip(choice.candidates).filter(|(_, candidate)| candidate.weight > 0);
        let quorum = 2 * choice.there > choice.members;
        match self {
            Self::Own(_) => None,
            Self::UniformQuorum if !quorum => None,
            Self::Uniform | Self::UniformActive | Self::UniformQuorum => {
                let best =
                    weighty().max_by_key(|(_, candidate)| (draw(choice.name, candidate), candidate.node));
                best.map(|(at, _)| at)
            }
            Self::LeastLoaded => {
                // Loads beside weights, without a fraction: a/v < b/w where a·w < b·v.
                let best = weighty().min_by(|(_, one), (_, other)| {
                    let load = |this: &Candidate<'_>, by: &Candidate<'_>| {
                        (this.children as u128 + 1) * u128::from(by.weight)
                    };
                    let loads = load(one, other).cmp(&load(other, one));
                    loads.then_with(|| draw(choice.name, other).cmp(&draw(choice.name, one)))
                });
                best.map(|(at, _)| at)
            }
            Self::Random => {
                let count = weighty().count() as u64;
                let mut hash = StableHasher::new();
                hash.write_u64(choice.number);
                let nth = hash.finish().checked_rem(count)?;
                weighty().nth(nth as usize).map(|(at, _)| at)
            }
        }
    }
}

/// A node's draw for a name. A node of weight w has w parts of a thousand drawn for it, or at least one: the best counts.
fn draw(name: &Name, candidate: &Candidate<'_>) -> u64 {
    // The best of n draws of one number each is distributed as the n-th root of one draw: but a few real draws are as
    // good, are exact on every machine, and cost a name's start nothing that matters.
    let draws = candidate.weight.div_ceil(25).clamp(1, 64);
    (0..draws).map(|nth| one_draw(name, candidate.node, nth)).max().unwrap_or(0)
}

fn one_draw(name: &Name, node: &NodeBoot, nth: u32) -> u64 {
    let mut hash = StableHasher::new();
    hash.write_u64(u64::from(nth));
    // By the node's name: a node that comes back gets what it had.
    hash.write_str(node.node.as_str());
    hash.write_u64(crate::wire::stable_hash(name.as_bytes()));
    hash.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{Boot, NodeName};

    fn nodes(count: u64) -> Vec<NodeBoot> {
        (0..count).map(|n| NodeBoot::new(NodeName::new(&format!("n{n}")).unwrap(), Boot(n + 1))).collect()
    }

    fn pick(
        placing: &Placing,
        name: &str,
        nodes: &[(&NodeBoot, u32, usize)],
        members: usize,
    ) -> Option<usize> {
        let candidates: Vec<Candidate<'_>> = nodes
            .iter()
            .map(|(node, weight, children)| Candidate { node, weight: *weight, children: *children })
            .collect();
        let name = Name::new(name).unwrap();
        let (there, number) = (nodes.len(), 7);
        placing.pick(&Choice { name: &name, number, candidates: &candidates, there, members })
    }

    #[test]
    fn ten_children_land_on_more_than_one_node_and_stay_when_another_one_goes() {
        let all = nodes(4);
        let four: Vec<_> = all.iter().map(|node| (node, 100, 0)).collect();
        let mut used = [0; 4];
        for child in 0..1000 {
            let name = format!("child-{child}");
            let at = pick(&Placing::Uniform, &name, &four, 4).unwrap();
            used[at] += 1;
            if at != 3 {
                assert_eq!(pick(&Placing::Uniform, &name, &four[..3], 4), Some(at));
            }
        }
        assert!(used.iter().all(|count| (180..320).contains(count)), "{used:?}");
    }

    #[test]
    fn a_witness_is_given_nothing_and_twice_the_weight_about_twice_as_many() {
        let all = nodes(3);
        let (mut used, weighed) = ([0; 3], [(&all[0], 0, 0), (&all[1], 100, 0), (&all[2], 200, 0)]);
        for child in 0..3000 {
            used[pick(&Placing::Uniform, &format!("child-{child}"), &weighed, 3).unwrap()] += 1;
        }
        assert_eq!(used[0], 0);
        assert!((1800..2200).contains(&used[2]), "{used:?}");
        assert_eq!(pick(&Placing::Random, "a", &weighed[..1], 3), None);
        assert!(pick(&Placing::Random, "a", &weighed, 3).is_some_and(|at| at > 0));
    }

    #[test]
    fn of_two_halves_exactly_one_may_place() {
        let all = nodes(5);
        let side = |range: std::ops::Range<usize>| {
            let side: Vec<_> = all[range].iter().map(|node| (node, 100, 0)).collect();
            pick(&Placing::UniformQuorum, "one", &side, 5)
        };
        assert!(side(0..3).is_some() && side(3..5).is_none());
        assert!(side(0..2).is_none() && side(2..5).is_some());
        assert_eq!(side(0..0), None);
    }

    #[test]
    fn the_least_loaded_is_so_beside_its_weight() {
        let all = nodes(2);
        assert_eq!(pick(&Placing::LeastLoaded, "a", &[(&all[0], 100, 3), (&all[1], 100, 1)], 2), Some(1));
        assert_eq!(pick(&Placing::LeastLoaded, "a", &[(&all[0], 400, 3), (&all[1], 100, 1)], 2), Some(0));
    }

    #[test]
    fn every_strategy_chooses_somebody_who_is_there_and_nobody_where_nobody_is() {
        let all = nodes(4);
        for placing in Placing::BUILT_IN {
            for there in 1..=4 {
                let some: Vec<_> = all[4 - there..].iter().map(|node| (node, 100, there)).collect();
                for child in 0..50 {
                    let at = pick(&placing, &format!("child-{child}"), &some, there);
                    assert!(at.is_some_and(|at| at < there), "{placing}: {at:?} of {there}");
                }
            }
            assert_eq!(pick(&placing, "a", &[], 4), None, "{placing}: nobody is there");
            assert_eq!(pick(&placing, "a", &[(&all[0], 0, 0)], 1), None, "nobody takes any");
        }
    }

    #[test]
    fn a_placing_is_one_word_and_any_other_word_is_one_of_the_users_own() {
        for placing in Placing::BUILT_IN {
            let word = serde_json::to_string(&placing).unwrap();
            assert_eq!(word, format!("\"{placing}\""));
            assert_eq!(serde_json::from_str::<Placing>(&word).unwrap(), placing);
        }
        let own = Placing::Own(PlacementName::new("near-data").unwrap());
        assert_eq!("near-data".parse(), Ok(own.clone()));
        assert_eq!("least_loaded".parse(), Ok(Placing::LeastLoaded));
        assert_eq!(bincode::deserialize::<Placing>(&bincode::serialize(&own).unwrap()).unwrap(), own);
        for bad in ["", "no spaces", "ünder"] {
            assert!(bad.parse::<Placing>().is_err(), "{bad}");
        }
    }
}
