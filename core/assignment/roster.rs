//! A problem made ready for a strategy: live nodes sorted by name and numbered, zones numbered, the cap per zone.

use std::collections::BTreeMap;

use crate::assignment::{AssignError, Candidate, Layout, Problem};
use crate::cluster::member::Zone;
use crate::ids::NodeName;
use crate::wire::stable_hash;

/// The number of a zone that can never be too full: all zones with no more nodes than [`Roster::zone_cap`].
/// Distinctness of copies alone keeps its promise, so the solver need not look at it.
pub(in crate::assignment) const FREE: u32 = u32::MAX;

/// The live nodes of a problem.
pub(in crate::assignment) struct Roster<'a> {
    /// Sorted by name, weight above zero. A node's number is its place here.
    pub(in crate::assignment) nodes: Vec<&'a Candidate>,
    /// How many copies each partition gets.
    pub(in crate::assignment) copies: u32,
    /// The most copies of one partition in one zone: the least number with which all copies find a place.
    pub(in crate::assignment) zone_cap: u32,
    /// Per node: its zone's number, or [`FREE`].
    pub(in crate::assignment) zones: Vec<u32>,
    /// How many numbered zones there are.
    pub(in crate::assignment) zone_count: u32,
    /// Per node: whether it may be primary.
    pub(in crate::assignment) may_lead: Vec<bool>,
}

impl<'a> Roster<'a> {
    pub(in crate::assignment) fn of(problem: &Problem<'a>) -> Result<Self, AssignError> {
        let nodes = problem.live()?;
        let copies = problem.copies();
        let mut members: BTreeMap<&Zone, Vec<usize>> = BTreeMap::new();
        let mut loners = 0;
        for (at, node) in nodes.iter().enumerate() {
            match &node.zone {
                Some(zone) => members.entry(zone).or_default().push(at),
                None => loners += 1,
            }
        }
        let room = |cap: usize| loners + members.values().map(|z| z.len().min(cap)).sum::<usize>();
        let zone_cap = (1..=copies.max(1)).find(|cap| room(*cap as usize) >= copies as usize).unwrap_or(1);
        let mut zones = vec![FREE; nodes.len()];
        let mut zone_count = 0;
        for members in members.values().filter(|members| members.len() > zone_cap as usize) {
            members.iter().for_each(|at| zones[*at] = zone_count);
            zone_count += 1;
        }
        let may_lead = nodes.iter().map(|node| !problem.copies_only.contains(&node.name)).collect();
        Ok(Self { nodes, copies, zone_cap, zones, zone_count, may_lead })
    }

    /// How many nodes there are.
    pub(in crate::assignment) fn len(&self) -> u32 {
        u32::try_from(self.nodes.len()).unwrap_or(u32::MAX)
    }

    /// The nodes' names.
    pub(in crate::assignment) fn names(&self) -> Vec<NodeName> {
        self.nodes.iter().map(|node| node.name.clone()).collect()
    }

    /// A hash for each node that depends on its name only: the same whoever else is there.
    pub(in crate::assignment) fn hashes(&self) -> Vec<u64> {
        self.nodes.iter().map(|node| stable_hash(node.name.as_str().as_bytes())).collect()
    }

    /// A layout over these nodes; `row` is called for each partition in order and pushes its row.
    /// Without nodes every row is empty.
    pub(in crate::assignment) fn layout(
        &self,
        partitions: u32,
        mut row: impl FnMut(u32, &mut Layout),
    ) -> Layout {
        let mut layout = Layout::new(self.names());
        layout.reserve(partitions as usize, self.copies as usize);
        for partition in 0..partitions {
            match self.nodes.is_empty() {
                true => layout.push_row(&[]),
                false => row(partition, &mut layout),
            }
        }
        layout
    }

    /// Puts the first node that may be primary in front; the others keep their order.
    pub(in crate::assignment) fn promote(&self, row: &mut [u32]) {
        if let Some(at) = row.iter().position(|node| self.may_lead[*node as usize]) {
            row[..=at].rotate_right(1);
        }
    }

    /// For each node of `layout`, its number here, or [`GONE`].
    pub(in crate::assignment) fn numbers_of(&self, layout: &Layout) -> Vec<u32> {
        let mut at = 0;
        let mut number = |name: &NodeName| {
            while at < self.nodes.len() && self.nodes[at].name < *name {
                at += 1;
            }
            let found = self.nodes.get(at).is_some_and(|node| node.name == *name);
            if found { u32::try_from(at).unwrap_or(GONE) } else { GONE }
        };
        layout.nodes().iter().map(&mut number).collect()
    }
}

/// The number of a node that is not live.
pub(in crate::assignment) const GONE: u32 = u32::MAX;

/// Mixes two numbers into one that looks random (the finaliser of SplitMix64): the same everywhere and for ever.
pub(in crate::assignment) const fn mix(a: u64, b: u64) -> u64 {
    let mut x = a ^ b.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}
