//! Primaries: one of each row, evenly; as few of them cold as that allows, and then as few changes.
//!
//! No copy moves for it. If copies are even, primaries can be made even within *any* rows: give each member of a
//! row of R an R-th of the role; every node then leads its copies ÷ R, and a flow with whole bounds has a whole
//! solution. Where it cannot be (zones, nodes that only keep copies, members that are not in sync), the nodes that
//! lead too much or too little by necessity become a group of their own, and each group is as even as can be.

use crate::assignment::Problem;
use crate::assignment::balanced::board::Board;
use crate::assignment::balanced::exchange::{Exchange, Stuck};
use crate::assignment::quota::{Claim, Quota};
use crate::assignment::roster::{FREE, mix};

/// What it costs to have a primary that does not hold the state: more than all other changes together, of which
/// there are at most 65,536.
const COLD: i64 = 1 << 32;

/// What a member that may not lead costs.
pub(super) const FORBIDDEN: i64 = i64::MAX;

/// The place in a row of a partition that nobody leads yet.
const NOBODY: u8 = u8::MAX;

/// The primary of each partition.
pub(super) fn choose(board: &Board<'_>, problem: &Problem<'_>) -> Vec<u32> {
    if board.width == 0 {
        return Vec::new();
    }
    let mut ballot = Ballot::of(board, problem);
    // Each round but the last splits a group, so there are no more rounds than nodes.
    let places = loop {
        let (low, high) = ballot.bounds(board);
        let places = ballot.start(board, &high);
        let mut exchange = Exchange::new(board, &ballot.costs, places, &ballot.of_node, &low, &high);
        let stuck = exchange.run();
        let places = exchange.places;
        match stuck {
            Some(stuck) if ballot.groups < board.roster.len() => ballot.split(board, &places, &stuck),
            _ => break places,
        }
    };
    (0..).zip(places).map(|(partition, place)| board.row(partition)[usize::from(place)]).collect()
}

/// Who may lead what, and at what cost.
struct Ballot {
    /// Per row and place, or [`FORBIDDEN`].
    costs: Vec<i64>,
    /// Nodes and rows of a group settle their primaries among themselves.
    of_node: Vec<u32>,
    of_row: Vec<u32>,
    groups: u32,
}

impl Ballot {
    fn of(board: &Board<'_>, problem: &Problem<'_>) -> Self {
        let in_sync = problem.in_sync.map(|layout| board.read(layout));
        let may_lead = |node: &u32| board.roster.may_lead[*node as usize];
        let mut costs = Vec::with_capacity(board.partitions as usize * board.width);
        for partition in 0..board.partitions {
            let (row, old) = (board.row(partition), board.old.row(partition));
            let warm = |node: &u32| {
                old.contains(node)
                    && in_sync.as_ref().is_none_or(|synced| synced.row(partition).contains(node))
            };
            let somebody = row.iter().any(may_lead);
            let somebody_warm = problem.warm_only && row.iter().any(|node| may_lead(node) && warm(node));
            costs.extend(row.iter().map(|node| {
                let changed = i64::from(board.old.primaries[partition as usize] != *node);
                match warm(node) {
                    _ if somebody && !may_lead(node) => FORBIDDEN,
                    true => changed,
                    false if somebody_warm => FORBIDDEN,
                    false => COLD + changed,
                }
            }));
            costs.resize((partition as usize + 1) * board.width, FORBIDDEN);
        }
        let (nodes, rows) = (board.load.len(), board.partitions as usize);
        Self { costs, of_node: vec![0; nodes], of_row: vec![0; rows], groups: 1 }
    }

    fn row(&self, board: &Board<'_>, partition: u32) -> &[i64] {
        &self.costs[partition as usize * board.width..][..board.row(partition).len()]
    }

    /// How many partitions each node should lead at least and at most: its share of its group's by weight, never
    /// more than it could.
    fn bounds(&self, board: &Board<'_>) -> (Vec<u32>, Vec<u32>) {
        let mut could = vec![0; board.load.len()];
        let mut rows = vec![0_u64; self.groups as usize];
        for partition in 0..board.partitions {
            rows[self.of_row[partition as usize] as usize] += 1;
            for (node, cost) in board.row(partition).iter().zip(self.row(board, partition)) {
                could[*node as usize] += u32::from(*cost != FORBIDDEN);
            }
        }
        let (mut low, mut high) = (could.clone(), could.clone());
        for group in 0..self.groups {
            let members: Vec<usize> = (0..could.len()).filter(|node| self.of_node[*node] == group).collect();
            let claims: Vec<Claim> = (members.iter())
                .map(|node| Claim { weight: board.roster.nodes[*node].weight, cap: could[*node], zone: FREE })
                .collect();
            let quota = Quota::fill(&claims, &[], rows[group as usize]);
            for (at, node) in members.into_iter().enumerate() {
                (low[node], high[node]) = (quota.floor[at], quota.ceil[at]);
            }
        }
        (low, high)
    }

    /// Every partition with one of its cheapest primaries: the one it had, or else the one that leads least.
    fn start(&self, board: &Board<'_>, high: &[u32]) -> Vec<u8> {
        let mut led = vec![0_i64; board.load.len()];
        let mut places = vec![NOBODY; board.partitions as usize];
        for partition in 0..board.partitions {
            if let Some(place) = self.row(board, partition).iter().position(|cost| *cost == 0) {
                places[partition as usize] = place as u8;
                led[board.row(partition)[place] as usize] += 1;
            }
        }
        for partition in 0..board.partitions {
            if places[partition as usize] != NOBODY {
                continue;
            }
            let (row, costs) = (board.row(partition), self.row(board, partition));
            let least = costs.iter().min().copied().unwrap_or(FORBIDDEN);
            let place = (0..row.len()).filter(|place| costs[*place] == least).max_by_key(|place| {
                let node = row[*place] as usize;
                (i64::from(high[node]) - led[node], mix(board.hashes[node], u64::from(partition)))
            });
            let place = place.unwrap_or(0);
            places[partition as usize] = place as u8;
            led[row[place] as usize] += 1;
        }
        places
    }

    /// Makes a group of the nodes that lead too much by necessity, or of those that lead too little: whatever else
    /// is tried, no row leaves the former or enters the latter.
    fn split(&mut self, board: &Board<'_>, places: &[u8], stuck: &Stuck) {
        let before = self.groups;
        for group in (0..before).filter(|group| stuck.groups[*group as usize]) {
            let leaves = |node: usize| stuck.reached[node] != stuck.pivots[group as usize];
            for node in (0..self.of_node.len()).filter(|node| leaves(*node)) {
                if self.of_node[node] == group {
                    self.of_node[node] = self.groups;
                }
            }
            self.groups += 1;
        }
        for partition in 0..board.partitions {
            let (row, at) = (board.row(partition), partition as usize);
            self.of_row[at] = self.of_node[row[usize::from(places[at])] as usize];
            for (place, node) in row.iter().enumerate() {
                if self.of_node[*node as usize] != self.of_row[at] {
                    self.costs[at * board.width + place] = FORBIDDEN;
                }
            }
        }
    }
}
