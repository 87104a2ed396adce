//! What a map costs and how even it is, counted by code that shares nothing with the solver.
//!
//! A solver that grades itself would pass its own mistakes. So this starts again from the problem and the two
//! maps: its own numbering, its own shares ([`shares`]), its own proof that nothing cheaper exists ([`prices`]).

mod prices;
mod shares;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::assignment::certificate::shares::Shares;
use crate::assignment::{Layout, Problem};
use crate::ids::NodeName;

/// What a change from the previous map to a new one costs, and how even the new one is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    /// Copies that must be made: places in the new map that were not in the previous one.
    pub moved: u64,
    /// No map that keeps zones apart and gives every node its share moves fewer. An uneven map may.
    pub lower_bound: u64,
    /// Partitions that had a primary, and get another one.
    pub primary_changes: u64,
    /// No map with primaries as even changes fewer. It cannot always be reached together with the copies' bound.
    pub primary_bound: u64,
    /// Partitions that had copies, and get a primary that held none of them.
    pub cold_primaries: u64,
    /// Most primaries on a node, less the fewest, among nodes that may lead.
    pub imbalance_primaries: u32,
    /// Most copies on a node, less the fewest. Weights and zones make it large by necessity: see `off_share`.
    pub imbalance_copies: u32,
    /// Nodes that hold at least a copy more or less than their exact share by weight and zone.
    pub off_share: u32,
    /// Partitions with more copies in one zone than they must have.
    pub zone_violations: u32,
}

impl Certificate {
    /// Whether every node holds its share, zones are apart, and nothing was moved that did not have to be.
    pub const fn is_minimal(&self) -> bool {
        self.off_share == 0 && self.zone_violations == 0 && self.moved == self.lower_bound
    }
}

impl fmt::Display for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "moved {} (at least {})", self.moved, self.lower_bound)?;
        write!(f, ", primaries changed {} (at least {})", self.primary_changes, self.primary_bound)?;
        write!(f, ", {} of them cold", self.cold_primaries)?;
        write!(f, ", imbalance {} primaries / {} copies", self.imbalance_primaries, self.imbalance_copies)?;
        write!(f, ", {} nodes off their share, {} zone violations", self.off_share, self.zone_violations)
    }
}

/// Counts what `layout` costs as an answer to `problem`.
///
/// The layout should have passed [`check`](crate::assignment::check); a copy on a node that is not live counts as
/// moved if it is new, and for nobody's share.
pub fn certify(problem: &Problem<'_>, layout: &Layout) -> Certificate {
    let field = Field::of(problem);
    let new = field.read(problem, Some(layout));
    let old = field.read(problem, problem.previous);
    let shares = field.copy_shares();
    let moved = moved(problem, layout);
    let mut bound = shares.moves_at_least(&counts(&field, old.iter().flatten()));
    if moved > bound {
        bound = bound.max(prices::bound(&field, &shares, &old, &new));
    }
    let loads = counts(&field, new.iter().flatten());
    let off = |(node, load): (usize, &u32)| *load < shares.floor[node] || *load > shares.ceil(node);
    Certificate {
        moved,
        lower_bound: bound,
        imbalance_copies: spread(loads.iter().copied()),
        off_share: loads.iter().enumerate().filter(|load| off(*load)).count() as u32,
        zone_violations: field.zone_violations(&new),
        ..primaries(problem, &field, &loads, layout)
    }
}

/// Everything about primaries; the rest is left at nought.
fn primaries(problem: &Problem<'_>, field: &Field<'_>, loads: &[u32], layout: &Layout) -> Certificate {
    let mut certificate = Certificate::default();
    let (mut had, mut led) = (0, vec![0; field.names.len()]);
    for partition in 0..problem.partitions {
        let was = problem.previous.and_then(|previous| previous.primary(partition));
        let (Some(was), Some(is)) = (was, layout.primary(partition)) else { continue };
        had += 1;
        certificate.primary_changes += u64::from(was != is);
        certificate.cold_primaries += u64::from(!holds(problem.previous, partition, is));
        if let Some(node) = field.names.get(was) {
            led[*node] += 1;
        }
    }
    let caps: Vec<u32> =
        (field.may_lead.iter().zip(loads)).map(|(may, load)| if *may { *load } else { 0 }).collect();
    let shares = Shares::of_pool(&field.weights, &caps, u64::from(problem.partitions));
    certificate.primary_bound =
        (shares.moves_at_least(&led) + had).saturating_sub(u64::from(problem.partitions));
    let mut leads = vec![0; field.names.len()];
    for name in (0..problem.partitions).filter_map(|partition| layout.primary(partition)) {
        if let Some(node) = field.names.get(name) {
            leads[*node] += 1;
        }
    }
    let may_lead = leads.iter().zip(&field.may_lead).filter(|(_, may)| **may).map(|(led, _)| *led);
    certificate.imbalance_primaries = spread(may_lead);
    certificate
}

fn holds(layout: Option<&Layout>, partition: u32, node: &NodeName) -> bool {
    layout.is_some_and(|layout| layout.names(partition).any(|name| name == node))
}

/// Counted by names, not by numbers.
fn moved(problem: &Problem<'_>, layout: &Layout) -> u64 {
    (0..problem.partitions)
        .map(|p| layout.names(p).filter(|name| !holds(problem.previous, p, name)).count() as u64)
        .sum()
}

fn spread(counts: impl Iterator<Item = u32> + Clone) -> u32 {
    counts.clone().max().unwrap_or(0) - counts.min().unwrap_or(0)
}

fn counts<'a>(field: &Field<'_>, copies: impl Iterator<Item = &'a usize>) -> Vec<u32> {
    let mut counts = vec![0; field.names.len()];
    copies.for_each(|node| counts[*node] += 1);
    counts
}

/// The live nodes of a problem, by number.
struct Field<'a> {
    names: BTreeMap<&'a NodeName, usize>,
    weights: Vec<u32>,
    /// Every node's zone; a node without one has a zone of its own.
    zones: Vec<usize>,
    zone_sizes: Vec<u32>,
    may_lead: Vec<bool>,
    partitions: u32,
    copies: u32,
    zone_cap: u32,
}

impl<'a> Field<'a> {
    fn of(problem: &Problem<'a>) -> Self {
        let live: BTreeMap<&NodeName, _> =
            problem.nodes.iter().filter(|node| node.weight > 0).map(|node| (&node.name, node)).collect();
        let away: BTreeSet<&NodeName> = problem.copies_only.iter().collect();
        let copies = problem.replication.min(live.len() as u32);
        let (mut numbers, mut zones, mut zone_sizes) = (BTreeMap::new(), Vec::new(), Vec::new());
        for node in live.values() {
            let own = if node.zone.is_none() { Some(&node.name) } else { None };
            let zone = *numbers.entry((&node.zone, own)).or_insert(zone_sizes.len());
            if zone == zone_sizes.len() {
                zone_sizes.push(0);
            }
            zone_sizes[zone] += 1;
            zones.push(zone);
        }
        let room = |cap: u32| zone_sizes.iter().map(|size: &u32| u64::from(*size.min(&cap))).sum::<u64>();
        let mut zone_cap = 1;
        while room(zone_cap) < u64::from(copies) {
            zone_cap += 1;
        }
        Self {
            weights: live.values().map(|node| node.weight).collect(),
            may_lead: live.keys().map(|name| !away.contains(name)).collect(),
            names: live.keys().zip(0..).map(|(name, number)| (*name, number)).collect(),
            zones,
            zone_sizes,
            partitions: problem.partitions,
            copies,
            zone_cap,
        }
    }

    /// A map's rows as numbers of live nodes, each at most once.
    fn read(&self, problem: &Problem<'_>, layout: Option<&Layout>) -> Vec<Vec<usize>> {
        let numbers: Vec<Option<usize>> =
            layout.map_or(&[][..], Layout::nodes).iter().map(|name| self.names.get(name).copied()).collect();
        (0..problem.partitions)
            .map(|partition| {
                let mut row = Vec::new();
                for index in layout.map_or(&[][..], |layout| layout.row(partition)) {
                    if let Some(node) = numbers.get(*index as usize).copied().flatten()
                        && !row.contains(&node)
                    {
                        row.push(node);
                    }
                }
                row
            })
            .collect()
    }

    fn copy_shares(&self) -> Shares {
        let total = u64::from(self.partitions) * u64::from(self.copies);
        let zone_cap = u64::from(self.zone_cap) * u64::from(self.partitions);
        Shares::of_zones(&self.weights, self.partitions, &self.zones, zone_cap, total)
    }

    fn zone_violations(&self, rows: &[Vec<usize>]) -> u32 {
        let crowded = |row: &&Vec<usize>| {
            row.iter().any(|node| {
                let same = |other: &&usize| self.zones[**other] == self.zones[*node];
                row.iter().filter(same).count() > self.zone_cap as usize
            })
        };
        rows.iter().filter(crowded).count() as u32
    }
}
