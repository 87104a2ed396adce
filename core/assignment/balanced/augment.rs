//! Augment: what found no direct place finds one by the shortest chain of replacements.
//!
//! ```text
//!   hole in p ──▶ a gives up q, takes p ──▶ b takes q          two copies made instead of one
//! ```
//!
//! Shares are such that a chain always exists: a fractional placement of them does (every node takes its share
//! divided by the number of partitions of each), and a flow with whole bounds has a whole solution.

use crate::assignment::balanced::board::Board;
use crate::assignment::roster::FREE;

/// Marks the start of a chain.
const START: u32 = u32::MAX;

/// Finds chains until every row is full and every node at its target, but no more than `most`. Says whether that was
/// enough.
pub(super) fn augment(board: &mut Board<'_>, most: u64) -> bool {
    let holes: u64 = (0..board.partitions).map(|partition| board.holes(partition) as u64).sum();
    let surplus = |node: usize| u64::from(board.load[node].saturating_sub(board.target[node]));
    if holes + (0..board.load.len()).map(surplus).sum::<u64>() > most {
        return false;
    }
    for partition in 0..board.partitions {
        for _ in 0..board.holes(partition) {
            let Some((chain, last)) = search(board, Some(partition), None) else { return false };
            apply(board, &chain, last);
        }
    }
    for node in 0..board.roster.len() {
        while board.load[node as usize] > board.target[node as usize] {
            let Some((chain, last)) = search(board, None, Some(node)) else { return false };
            apply(board, &chain, last);
        }
    }
    true
}

/// For each node reached, the partition that it takes and the node that gives it up.
type Chain = Vec<Option<(u32, u32)>>;

/// Nodes not yet reached, by zone; the last list is of those in no numbered zone.
struct Unreached(Vec<Vec<u32>>);

impl Unreached {
    /// Takes out all nodes of a zone that are not in `row`.
    fn take(&mut self, zone: usize, row: &[u32], mut each: impl FnMut(u32)) {
        self.0[zone].retain(|node| {
            let stays = row.contains(node);
            if !stays {
                each(*node);
            }
            stays
        });
    }
}

/// Breadth first from a hole or an overfull node to the nearest node below its target.
fn search(board: &Board<'_>, hole: Option<u32>, overfull: Option<u32>) -> Option<(Chain, u32)> {
    let zones = board.roster.zone_count as usize;
    let mut unreached = Unreached(vec![Vec::new(); zones + 1]);
    for (node, zone) in (0..).zip(&board.roster.zones) {
        unreached.0[if *zone == FREE { zones } else { *zone as usize }].push(node);
    }
    let mut chain: Chain = vec![None; board.load.len()];
    let mut asked = vec![false; board.partitions as usize];
    let mut queue = Vec::new();
    if let Some(node) = overfull {
        unreached.0.iter_mut().for_each(|list| list.retain(|other| *other != node));
        queue.push(node);
    }
    if let Some(partition) = hole {
        asked[partition as usize] = true;
        reach(board, partition, START, &mut unreached, &mut chain, &mut queue);
    }
    let mut at = 0;
    while at < queue.len() {
        let node = queue[at];
        at += 1;
        if board.load[node as usize] < board.target[node as usize] {
            return Some((chain, node));
        }
        for partition in &board.held[node as usize] {
            let zone = board.roster.zones[node as usize];
            if zone != FREE {
                unreached.take(zone as usize, board.row(*partition), |next| {
                    chain[next as usize] = Some((*partition, node));
                    queue.push(next);
                });
            }
            if !std::mem::replace(&mut asked[*partition as usize], true) {
                reach(board, *partition, node, &mut unreached, &mut chain, &mut queue);
            }
        }
    }
    None
}

/// Reaches every node that `partition` may take in addition to its row.
fn reach(
    board: &Board<'_>,
    partition: u32,
    from: u32,
    unreached: &mut Unreached,
    chain: &mut Chain,
    queue: &mut Vec<u32>,
) {
    for zone in 0..unreached.0.len() {
        let last = zone + 1 == unreached.0.len();
        if unreached.0[zone].is_empty()
            || (!last && board.in_zone(partition, zone as u32) >= board.roster.zone_cap)
        {
            continue;
        }
        unreached.take(zone, board.row(partition), |next| {
            chain[next as usize] = Some((partition, from));
            queue.push(next);
        });
    }
}

fn apply(board: &mut Board<'_>, chain: &Chain, last: u32) {
    let mut node = last;
    while let Some((partition, from)) = chain[node as usize] {
        if from == START {
            board.place(partition, node);
            return;
        }
        board.replace(partition, from, node);
        node = from;
    }
}
