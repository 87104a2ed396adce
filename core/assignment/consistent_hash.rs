//! A ring of virtual nodes: each partition goes to the next points of the ring, clockwise.
//!
//! It needs no previous map and moves little, but no bound on imbalance holds: see `Balanced` for that.

use crate::assignment::roster::{FREE, Roster, mix};
use crate::assignment::{AssignError, Layout, Problem, Strategy};
use crate::cluster::member::WEIGHT_DEFAULT;

/// The most points that one node may have; heavier clusters are scaled down by a power of two.
const POINTS_MAX: u64 = 4_096;

/// A ring with virtual nodes (Karger et al., 1997).
#[derive(Clone, Copy, Debug)]
pub struct ConsistentHash {
    /// Points of a node of the default weight. More give better balance and a slower start. Default 128.
    pub virtual_nodes: u32,
}

impl Default for ConsistentHash {
    fn default() -> Self {
        Self { virtual_nodes: 128 }
    }
}

impl Strategy for ConsistentHash {
    fn name(&self) -> &str {
        "consistent-hash"
    }

    fn assign(&self, problem: &Problem<'_>) -> Result<Layout, AssignError> {
        let roster = Roster::of(problem)?;
        let ring = self.ring(&roster);
        let mut in_zone = vec![0; roster.zone_count as usize];
        let mut row = Vec::with_capacity(roster.copies as usize);
        Ok(roster.layout(problem.partitions, |partition, layout| {
            row.clear();
            in_zone.fill(0);
            let start = ring.partition_point(|(point, _)| *point < mix(u64::from(partition), 1));
            for (_, node) in ring[start..].iter().chain(&ring[..start]) {
                if row.len() == roster.copies as usize {
                    break;
                }
                if row.contains(node) {
                    continue;
                }
                let zone = roster.zones[*node as usize];
                if zone != FREE {
                    if in_zone[zone as usize] == roster.zone_cap {
                        continue;
                    }
                    in_zone[zone as usize] += 1;
                }
                row.push(*node);
            }
            roster.promote(&mut row);
            layout.push_row(&row);
        }))
    }
}

impl ConsistentHash {
    /// All points with their nodes, in the ring's order.
    fn ring(self, roster: &Roster<'_>) -> Vec<(u64, u32)> {
        let points = |weight: u32| {
            u64::from(weight) * u64::from(self.virtual_nodes.max(1)) / u64::from(WEIGHT_DEFAULT)
        };
        // A power of two: it stays the same while nodes come and go, unless the heaviest changes a lot.
        let most = roster.nodes.iter().map(|node| points(node.weight)).max().unwrap_or(0);
        let shift = (0..64).find(|shift| most >> shift <= POINTS_MAX).unwrap_or(0);
        let mut ring = Vec::new();
        for ((node, number), hash) in roster.nodes.iter().zip(0..).zip(roster.hashes()) {
            let count = (points(node.weight) >> shift).max(1);
            ring.extend((0..count).map(|point| (mix(hash, point + 1), number)));
        }
        ring.sort_unstable();
        ring
    }
}
