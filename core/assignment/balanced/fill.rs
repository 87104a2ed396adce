//! Fill: each copy without a place goes to a node that has room and may take it.

use crate::assignment::balanced::board::Board;
use crate::assignment::roster::mix;

/// With more nodes than this that have room, only [`LOOKS`] of them are looked at for a copy.
const ALL_LOOKED_AT: usize = 64;
const LOOKS: usize = 16;

/// Fills holes in the partitions' order. What finds no legal node is left to the next phase.
pub(super) fn fill(board: &mut Board<'_>) {
    let mut roomy: Vec<u32> = (0..board.roster.len()).filter(|node| room(board, *node) > 0).collect();
    for partition in 0..board.partitions {
        for _ in 0..board.holes(partition) {
            let Some(at) = pick(board, &roomy, partition) else { break };
            let node = roomy[at];
            board.place(partition, node);
            if room(board, node) == 0 {
                roomy.remove(at);
            }
        }
    }
}

fn room(board: &Board<'_>, node: u32) -> u32 {
    board.target[node as usize].saturating_sub(board.load[node as usize])
}

/// The place in `roomy` of the legal node with the most room; a hash decides between equals.
fn pick(board: &Board<'_>, roomy: &[u32], partition: u32) -> Option<usize> {
    let salt = mix(u64::from(partition), board.holes(partition) as u64);
    let (start, looks) = match roomy.len() {
        0 => return None,
        few if few <= ALL_LOOKED_AT => (0, few),
        many => ((u128::from(salt) * many as u128 >> 64) as usize, LOOKS),
    };
    (0..roomy.len())
        .map(|step| (start + step) % roomy.len())
        .filter(|at| board.is_legal(partition, roomy[*at]))
        .take(looks)
        .max_by_key(|at| (room(board, roomy[*at]), mix(board.hashes[roomy[*at] as usize], salt)))
}
