//! Primaries: one of each row, evenly, and as few changes as that allows.

use crate::assignment::balanced::board::Board;
use crate::assignment::quota::{Claim, Quota};
use crate::assignment::roster::FREE;

/// The primary of each partition.
pub(super) fn choose(board: &Board<'_>) -> Vec<u32> {
    if board.width == 0 {
        return Vec::new();
    }
    let nodes = board.load.len();
    let mut led = vec![0_u32; nodes];
    let mut primaries = board.old.primaries.clone();
    for (partition, primary) in (0..).zip(&mut primaries) {
        if !board.row(partition).contains(primary) {
            *primary = *board.row(partition).iter().min_by_key(|n| (led[**n as usize], **n)).unwrap_or(&0);
        }
        led[*primary as usize] += 1;
    }
    let claims: Vec<Claim> = (board.roster.nodes.iter().zip(&board.load))
        .map(|(node, load)| Claim { weight: node.weight, cap: *load, zone: FREE })
        .collect();
    let target = Quota::fill(&claims, &[], u64::from(board.partitions)).round(&led);
    for over in 0..nodes {
        while led[over] > target[over] {
            let mut chain: Vec<Option<(u32, usize)>> = vec![None; nodes];
            let mut queue = vec![over];
            let mut at = 0;
            let found = loop {
                let Some(node) = queue.get(at).copied() else { break None };
                at += 1;
                if led[node] < target[node] {
                    break Some(node);
                }
                for partition in board.held[node].iter().filter(|p| primaries[**p as usize] as usize == node)
                {
                    for next in board.row(*partition) {
                        if chain[*next as usize].is_none() && *next as usize != over {
                            chain[*next as usize] = Some((*partition, node));
                            queue.push(*next as usize);
                        }
                    }
                }
            };
            let Some(mut node) = found else { break };
            led[node] += 1;
            led[over] -= 1;
            while let Some((partition, from)) = chain[node] {
                primaries[partition as usize] = node as u32;
                node = from;
            }
        }
    }
    primaries
}
