//! Steal: nodes above their target hand copies to nodes below theirs, directly.
//!
//! Which copy goes matters for the primaries that are chosen later: a newcomer needs its share of them, and it
//! can only lead partitions that it holds. So it takes first what lets a role change hands without a detour.

use crate::assignment::balanced::board::Board;
use crate::assignment::balanced::roomy::Roomy;
use crate::assignment::quota::{Claim, Quota};
use crate::assignment::roster::{FREE, GONE, mix};

/// How many nodes are looked at for one that wants to lead, before the copy waits for a later pass.
const LEADER_LOOKS: usize = 64;

/// What a copy must be for a pass to take it from its node.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pass {
    /// The node leads the partition, and leads more than its share.
    Led,
    /// Another node leads it, and leads more than its share: its role can go to the thief, its copy stays.
    LedByOther,
    /// Another node leads it.
    NotLed,
    /// Whatever is left.
    Any,
}

/// Takes copies from surplus to deficit. What finds no legal pair is left to the next phase.
pub(super) fn steal(board: &mut Board<'_>, warm_only: bool) {
    let mut roomy = Roomy::of(board);
    if roomy.is_empty() {
        return;
    }
    let mut roles = Roles::of(board);
    haunt(board, &mut roomy, &mut roles);
    // A role that may not move with its copy would have to move twice.
    let passes = if warm_only {
        [Pass::LedByOther, Pass::NotLed, Pass::Led, Pass::Any]
    } else {
        [Pass::Led, Pass::LedByOther, Pass::NotLed, Pass::Any]
    };
    for node in 0..board.roster.len() {
        for pass in passes {
            if surplus(board, node) == 0 || roomy.is_empty() {
                break;
            }
            rob(board, &mut roomy, &mut roles, node, pass);
        }
    }
}

fn surplus(board: &Board<'_>, node: u32) -> u32 {
    board.load[node as usize].saturating_sub(board.target[node as usize])
}

/// Gives copies back to nodes that had them some time ago.
fn haunt(board: &mut Board<'_>, roomy: &mut Roomy, roles: &mut Roles) {
    for partition in 0..board.partitions {
        for at in 0..board.ghosts.row(partition).len() {
            let thief = board.ghosts.row(partition)[at];
            if roomy.room(thief) == 0 {
                continue;
            }
            let led = |node: u32| roles.primaries[partition as usize] == node && !roles.has_too_many(node);
            let victim = (board.row(partition).iter().copied())
                .filter(|node| surplus(board, *node) > 0 && board.is_legal_instead(partition, *node, thief))
                .max_by_key(|node| (!led(*node), surplus(board, *node)));
            if let Some(victim) = victim {
                board.replace(partition, victim, thief);
                roomy.take(thief);
                roles.pass_on(partition, victim, thief);
            }
        }
    }
}

/// Takes copies from one node, in the order of its partitions from a hashed place on.
fn rob(board: &mut Board<'_>, roomy: &mut Roomy, roles: &mut Roles, victim: u32, pass: Pass) {
    let mut held = std::mem::take(&mut board.held[victim as usize]);
    let hash = board.hashes[victim as usize];
    let start = ((u128::from(mix(hash, 3)) * held.len() as u128) >> 64) as usize;
    held.rotate_left(start);
    held.retain(|partition| !try_rob(board, roomy, roles, victim, *partition, pass));
    board.held[victim as usize] = held;
}

/// Whether a thief was found.
fn try_rob(
    board: &mut Board<'_>,
    roomy: &mut Roomy,
    roles: &mut Roles,
    victim: u32,
    partition: u32,
    pass: Pass,
) -> bool {
    if surplus(board, victim) == 0 || roomy.is_empty() {
        return false;
    }
    let primary = roles.primaries[partition as usize];
    let with_role = match pass {
        Pass::Led if primary == victim && roles.has_too_many(primary) => true,
        Pass::LedByOther if primary != victim && roles.has_too_many(primary) => true,
        Pass::NotLed if primary != victim => false,
        Pass::Any => false,
        Pass::Led | Pass::LedByOther | Pass::NotLed => return false,
    };
    if with_role && roles.wanted == 0 {
        return false;
    }
    let looks = if with_role { LEADER_LOOKS } else { usize::MAX };
    let fits = |thief: u32| {
        (!with_role || roles.has_too_few(thief)) && board.is_legal_instead(partition, victim, thief)
    };
    let salt = mix(board.hashes[victim as usize], u64::from(partition));
    let Some(thief) = roomy.pick(salt, looks, fits) else { return false };
    board.hand_over(partition, victim, thief);
    roomy.take(thief);
    roles.pass_on(partition, if with_role { primary } else { victim }, thief);
    true
}

/// Who leads what while copies change hands: a forecast, for the primaries are chosen afterwards.
struct Roles {
    primaries: Vec<u32>,
    led: Vec<u32>,
    target: Vec<u32>,
    /// How many more partitions the nodes below their target of primaries want to lead.
    wanted: u32,
}

impl Roles {
    fn of(board: &Board<'_>) -> Self {
        let mut led = vec![0; board.load.len()];
        let mut primaries = board.old.primaries.clone();
        for (partition, primary) in (0..).zip(&mut primaries) {
            if *primary != GONE && board.row(partition).contains(primary) {
                led[*primary as usize] += 1;
            } else {
                *primary = GONE;
            }
        }
        let claims: Vec<Claim> = (0..board.load.len())
            .map(|node| Claim {
                weight: if board.roster.may_lead[node] { board.roster.nodes[node].weight } else { 0 },
                cap: board.target[node],
                zone: FREE,
            })
            .collect();
        let target = Quota::fill(&claims, &[], u64::from(board.partitions)).round(&led);
        let wanted = target.iter().zip(&led).map(|(target, led)| target.saturating_sub(*led)).sum();
        Self { primaries, led, target, wanted }
    }

    fn has_too_many(&self, node: u32) -> bool {
        node != GONE && self.led[node as usize] > self.target[node as usize]
    }

    fn has_too_few(&self, node: u32) -> bool {
        self.led[node as usize] < self.target[node as usize]
    }

    /// The role goes from `from` to `to`, if `from` has it.
    fn pass_on(&mut self, partition: u32, from: u32, to: u32) {
        if self.primaries[partition as usize] == from && from != GONE {
            self.wanted -= u32::from(self.has_too_few(to));
            self.led[from as usize] -= 1;
            self.led[to as usize] += 1;
            self.wanted += u32::from(self.has_too_few(from));
            self.primaries[partition as usize] = to;
        }
    }
}
