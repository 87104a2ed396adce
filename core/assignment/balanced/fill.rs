//! Fill: each copy without a place goes to the node that wants copies most and may take it.

use crate::assignment::balanced::board::Board;
use crate::assignment::balanced::roomy::Roomy;
use crate::assignment::roster::mix;

/// Fills holes in the partitions' order. What finds no legal node is left to the next phases.
pub(super) fn fill(board: &mut Board<'_>) {
    let mut roomy = Roomy::of(board);
    for partition in 0..board.partitions {
        for _ in 0..board.holes(partition) {
            if roomy.is_empty() {
                return;
            }
            let salt = mix(u64::from(partition), board.holes(partition) as u64);
            let ghost = (board.ghosts.row(partition).iter().copied())
                .filter(|node| roomy.room(*node) > 0 && board.is_legal(partition, *node))
                .max_by_key(|node| roomy.room(*node));
            let legal = |node| board.is_legal(partition, node);
            let Some(node) = ghost.or_else(|| roomy.pick(salt, usize::MAX, legal)) else { break };
            board.place(partition, node);
            roomy.take(node);
        }
    }
}
