//! What a map costs and how even it is, counted by code that shares nothing with the solver.
//!
//! A solver that grades itself would pass its own mistakes. So this file starts again from the problem and the
//! two maps: names, not numbers of the solver's; its own shares; its own bounds.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::assignment::{Layout, Problem};
use crate::ids::NodeName;

/// What a change from the previous map to a new one costs, and how even the new one is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    /// Copies that must be made: places in the new map that were not in the previous one.
    pub moved: u64,
    /// No legal map that is as even moves fewer.
    pub lower_bound: u64,
    /// Partitions that had a primary, and get another one.
    pub primary_changes: u64,
    /// No map with primaries as even changes fewer. It cannot always be reached together with the copies' bound.
    pub primary_bound: u64,
    /// Partitions that had copies, and get a primary that held none of them.
    pub cold_primaries: u64,
    /// Most primaries on a node, less the fewest, among nodes that may lead.
    pub imbalance_primaries: u32,
    /// Most copies on a node, less the fewest. Weights and zones make it large by necessity.
    pub imbalance_copies: u32,
    /// Nodes that hold more than a copy more or less than their exact share.
    pub off_share: u32,
    /// Partitions with more copies in one zone than they must have.
    pub zone_violations: u32,
}

impl Certificate {
    /// Whether nothing was moved that did not have to be.
    pub const fn is_minimal(&self) -> bool {
        self.moved <= self.lower_bound
    }
}

impl fmt::Display for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "moved {} of at least {}", self.moved, self.lower_bound)?;
        write!(f, ", primaries changed {} of at least {}", self.primary_changes, self.primary_bound)?;
        write!(f, " ({} cold)", self.cold_primaries)?;
        write!(f, ", imbalance {} primaries / {} copies", self.imbalance_primaries, self.imbalance_copies)?;
        write!(f, ", {} nodes off their share, {} zone violations", self.off_share, self.zone_violations)
    }
}

/// Counts what `layout` costs as an answer to `problem`. The layout should have passed
/// [`check`](crate::assignment::check); copies on nodes that are not live count for no share.
pub fn certify(problem: &Problem<'_>, layout: &Layout) -> Certificate {
    let nodes: BTreeMap<&NodeName, usize> = {
        let mut live: Vec<_> = problem.nodes.iter().filter(|n| n.weight > 0).map(|n| &n.name).collect();
        live.sort();
        live.dedup();
        live.into_iter().zip(0..).collect()
    };
    let n = nodes.len() as u64;
    let mut certificate = Certificate::default();
    let empty = Layout::default();
    let previous = problem.previous.unwrap_or(&empty);
    let mut held = vec![0_u64; nodes.len()];
    let mut led = vec![0_u64; nodes.len()];
    for partition in 0..problem.partitions {
        let mut old: Vec<&NodeName> = previous.names(partition).collect();
        old.sort();
        old.dedup();
        for name in &old {
            if let Some(at) = nodes.get(name) {
                held[*at] += 1;
            }
        }
        if let Some(at) = previous.primary(partition).and_then(|name| nodes.get(name)) {
            led[*at] += 1;
        }
        certificate.moved +=
            layout.names(partition).filter(|name| old.binary_search(name).is_err()).count() as u64;
        if let (Some(was), Some(is)) = (previous.primary(partition), layout.primary(partition)) {
            certificate.primary_changes += u64::from(was != is);
            certificate.cold_primaries += u64::from(old.binary_search(&is).is_err());
        }
    }
    if n > 0 {
        let copies = u64::from(problem.replication).min(n);
        certificate.lower_bound = plain_bound(u64::from(problem.partitions) * copies, &held);
        certificate.primary_bound = plain_bound(u64::from(problem.partitions), &led);
    }
    let spread = |counts: &[u32]| counts.iter().max().unwrap_or(&0) - counts.iter().min().unwrap_or(&0);
    certificate.imbalance_copies = spread(&layout.copies_per_node());
    certificate.imbalance_primaries = spread(&layout.primaries_per_node());
    certificate
}

/// T − Σ min(a, q) − min(r, #{a > q}): equal weights, no zones.
fn plain_bound(total: u64, held: &[u64]) -> u64 {
    let (quotient, rest) = (total / held.len() as u64, total % held.len() as u64);
    let kept: u64 = held.iter().map(|a| *a.min(&quotient)).sum();
    total - kept - rest.min(held.iter().filter(|a| **a > quotient).count() as u64)
}
