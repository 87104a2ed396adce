//! The board that the phases play on: rows, loads, targets, and what each node holds.

use crate::assignment::quota::{Claim, Quota};
use crate::assignment::roster::{FREE, GONE, Roster};
use crate::assignment::{Layout, Problem};

/// What the previous map says about live nodes: rows of node numbers, each at most once, the primary first.
pub(super) struct Old {
    ends: Vec<u32>,
    copies: Vec<u32>,
    /// Per partition the live node that was primary, or [`GONE`].
    pub(super) primaries: Vec<u32>,
}

impl Old {
    fn of(roster: &Roster<'_>, layout: Option<&Layout>, partitions: u32) -> Self {
        let mut old =
            Self { ends: Vec::new(), copies: Vec::new(), primaries: vec![GONE; partitions as usize] };
        old.ends.reserve(partitions as usize);
        let Some(layout) = layout else {
            old.ends.resize(partitions as usize, 0);
            return old;
        };
        let numbers = roster.numbers_of(layout);
        let mut seen = vec![u32::MAX; roster.nodes.len()];
        for partition in 0..partitions {
            let row =
                || layout.row(partition).iter().filter_map(|index| numbers.get(*index as usize).copied());
            for node in row().filter(|node| *node != GONE) {
                if seen[node as usize] != partition {
                    seen[node as usize] = partition;
                    old.copies.push(node);
                }
            }
            old.primaries[partition as usize] = row().next().unwrap_or(GONE);
            old.ends.push(old.copies.len() as u32);
        }
        old
    }

    pub(super) fn row(&self, partition: u32) -> &[u32] {
        let start = if partition == 0 { 0 } else { self.ends[partition as usize - 1] };
        &self.copies[start as usize..self.ends[partition as usize] as usize]
    }
}

/// The map in the making.
pub(super) struct Board<'a> {
    pub(super) roster: &'a Roster<'a>,
    pub(super) partitions: u32,
    /// Copies per partition.
    pub(super) width: usize,
    pub(super) old: Old,
    /// Who held copies some time ago.
    pub(super) ghosts: Old,
    pub(super) hashes: Vec<u64>,
    pub(super) quota: Quota,
    /// Copies that each node should hold.
    pub(super) target: Vec<u32>,
    /// Copies that each node holds.
    pub(super) load: Vec<u32>,
    /// The partitions that each node holds, in no order.
    pub(super) held: Vec<Vec<u32>>,
    rows: Vec<u32>,
    lens: Vec<u32>,
}

impl<'a> Board<'a> {
    pub(super) fn new(roster: &'a Roster<'a>, problem: &Problem<'_>) -> Self {
        let (nodes, partitions) = (roster.nodes.len(), problem.partitions);
        let claims: Vec<Claim> = (roster.nodes.iter().zip(&roster.zones))
            .map(|(node, zone)| Claim { weight: node.weight, cap: partitions, zone: *zone })
            .collect();
        let zone_cap = u64::from(roster.zone_cap) * u64::from(partitions);
        let total = u64::from(partitions) * u64::from(roster.copies);
        let quota = Quota::fill(&claims, &vec![zone_cap; roster.zone_count as usize], total);
        let width = roster.copies as usize;
        Self {
            roster,
            partitions,
            width,
            old: Old::of(roster, problem.previous, partitions),
            ghosts: Old::of(roster, problem.ghosts, partitions),
            hashes: roster.hashes(),
            target: quota.floor.clone(),
            quota,
            load: vec![0; nodes],
            held: vec![Vec::new(); nodes],
            rows: vec![0; partitions as usize * width],
            lens: vec![0; partitions as usize],
        }
    }

    /// Another map's rows in this board's numbers.
    pub(super) fn read(&self, layout: &Layout) -> Old {
        Old::of(self.roster, Some(layout), self.partitions)
    }

    pub(super) fn row(&self, partition: u32) -> &[u32] {
        let start = partition as usize * self.width;
        &self.rows[start..start + self.lens[partition as usize] as usize]
    }

    /// How many copies of a partition are still without a place.
    pub(super) fn holes(&self, partition: u32) -> usize {
        self.width - self.lens[partition as usize] as usize
    }

    pub(super) fn in_zone(&self, partition: u32, zone: u32) -> u32 {
        self.row(partition).iter().filter(|node| self.roster.zones[**node as usize] == zone).count() as u32
    }

    /// Whether a partition with a copy to place may place it on this node.
    pub(super) fn is_legal(&self, partition: u32, node: u32) -> bool {
        let zone = self.roster.zones[node as usize];
        !self.row(partition).contains(&node)
            && (zone == FREE || self.in_zone(partition, zone) < self.roster.zone_cap)
    }

    /// The same, if the copy on `from` goes at the same time.
    pub(super) fn is_legal_instead(&self, partition: u32, from: u32, to: u32) -> bool {
        let zone = self.roster.zones[to as usize];
        !self.row(partition).contains(&to)
            && (zone == FREE
                || zone == self.roster.zones[from as usize]
                || self.in_zone(partition, zone) < self.roster.zone_cap)
    }

    pub(super) fn place(&mut self, partition: u32, node: u32) {
        let len = &mut self.lens[partition as usize];
        self.rows[partition as usize * self.width + *len as usize] = node;
        *len += 1;
        self.load[node as usize] += 1;
        self.held[node as usize].push(partition);
    }

    /// Puts `to` where `from` was.
    pub(super) fn replace(&mut self, partition: u32, from: u32, to: u32) {
        self.hand_over(partition, from, to);
        let held = &mut self.held[from as usize];
        if let Some(at) = held.iter().position(|held| *held == partition) {
            held.swap_remove(at);
        }
    }

    /// The same for a caller who strikes the partition from what `from` holds: one that hands over thousands
    /// would search that list as often.
    pub(super) fn hand_over(&mut self, partition: u32, from: u32, to: u32) {
        let start = partition as usize * self.width;
        let row = &mut self.rows[start..start + self.lens[partition as usize] as usize];
        if let Some(slot) = row.iter_mut().find(|node| **node == from) {
            *slot = to;
            self.load[from as usize] -= 1;
            self.load[to as usize] += 1;
            self.held[to as usize].push(partition);
        }
    }

    /// Fixes how much each node is to hold, in favour of those that hold it already.
    pub(super) fn aim(&mut self) {
        self.target = self.quota.round(&self.load);
    }

    /// The map: primary first, then members of the previous map in its order, then newcomers by name.
    pub(super) fn emit(&self, primaries: &[u32]) -> Layout {
        let mut row = Vec::with_capacity(self.width);
        self.roster.layout(self.partitions, |partition, layout| {
            let (members, primary) = (self.row(partition), primaries[partition as usize]);
            row.clear();
            row.push(primary);
            let old = self.old.row(partition);
            row.extend(old.iter().filter(|node| **node != primary && members.contains(node)));
            let kept = row.len();
            row.extend(members.iter().filter(|node| **node != primary && !old.contains(node)));
            row[kept..].sort_unstable();
            layout.push_row(&row);
        })
    }
}
