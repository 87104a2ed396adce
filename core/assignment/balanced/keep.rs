//! Keep: what was there stays there, as far as rows and zones have room.

use std::cmp::Reverse;

use crate::assignment::balanced::board::Board;
use crate::assignment::roster::FREE;

/// Takes over the previous map's rows. Of a row that is too long, or has too many copies in a zone, the members
/// furthest above their share go first, and the primary last.
pub(super) fn keep(board: &mut Board<'_>) {
    let mut counts = vec![0_u32; board.load.len()];
    for partition in 0..board.partitions {
        board.old.row(partition).iter().for_each(|node| counts[*node as usize] += 1);
    }
    let aim = board.quota.round(&counts);
    let mut row = Vec::new();
    for partition in 0..board.partitions {
        row.clear();
        row.extend_from_slice(board.old.row(partition));
        let primary = board.old.primaries[partition as usize];
        while let Some(zone) = crowded(board, &row) {
            let above = |node: u32| i64::from(counts[node as usize]) - i64::from(aim[node as usize]);
            let evicted = (row.iter().copied())
                .filter(|node| zone.is_none_or(|zone| board.roster.zones[*node as usize] == zone))
                .max_by_key(|node| (above(*node), *node != primary, Reverse(*node)));
            let Some(evicted) = evicted else { break };
            counts[evicted as usize] -= 1;
            row.retain(|node| *node != evicted);
        }
        row.iter().for_each(|node| board.place(partition, *node));
    }
    board.aim();
}

/// Whether a row has too many members: in a zone (`Some(Some(zone))`), or in all (`Some(None)`).
fn crowded(board: &Board<'_>, row: &[u32]) -> Option<Option<u32>> {
    if board.roster.zone_count > 0 && row.len() > board.roster.zone_cap as usize {
        for (at, node) in row.iter().enumerate() {
            let zone = board.roster.zones[*node as usize];
            let same = |other: &&u32| board.roster.zones[**other as usize] == zone;
            if zone != FREE && row[at..].iter().filter(same).count() > board.roster.zone_cap as usize {
                return Some(Some(zone));
            }
        }
    }
    (row.len() > board.width).then_some(None)
}
