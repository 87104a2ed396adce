//! Rendezvous hashing: every node draws a number for every partition, and the best draws win.
//!
//! It needs no previous map and moves little, but no bound on imbalance holds: see `Balanced` for that.
//! With weights, the draw is `−log₂(hash) ÷ weight`, the least wins (Thaler and Ravishankar, 1998; the weighted
//! form by Schindelhauer and Schomaker). The logarithm is a table in whole numbers: a float would round
//! differently from one machine to another.

use crate::assignment::roster::{FREE, Roster, mix};
use crate::assignment::{AssignError, Layout, Problem, Strategy};

/// Highest random weight, with weights and zones.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rendezvous;

impl Strategy for Rendezvous {
    fn name(&self) -> &str {
        "rendezvous"
    }

    fn assign(&self, problem: &Problem<'_>) -> Result<Layout, AssignError> {
        let roster = Roster::of(problem)?;
        let hashes = roster.hashes();
        let wanted = roster.copies as usize;
        let equal = roster.nodes.windows(2).all(|pair| pair[0].weight == pair[1].weight);
        let mut best: Vec<(Draw, u32)> = Vec::with_capacity(wanted + 1);
        let mut row = Vec::with_capacity(wanted);
        Ok(roster.layout(problem.partitions, |partition, layout| {
            best.clear();
            let salt = mix(u64::from(partition), 2);
            let mut limit = NO_LIMIT;
            for (number, hash) in (0..).zip(&hashes) {
                let draw = mix(*hash, salt);
                // Equal weights leave the order of the draws as it is, and spare us the logarithm.
                let weight = if equal { 0 } else { roster.nodes[number as usize].weight };
                let Some(new) = Draw::below(limit, draw, weight) else { continue };
                take(&roster, &mut best, (new, number));
                limit = best.get(wanted - 1).map_or(NO_LIMIT, |(worst, _)| *worst);
            }
            row.clear();
            row.extend(best.iter().map(|(_, node)| *node));
            roster.promote(&mut row);
            layout.push_row(&row);
        }))
    }
}

/// Less is better.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Draw {
    cost: u64,
    draw: u64,
}

const NO_LIMIT: Draw = Draw { cost: u64::MAX, draw: u64::MAX };

impl Draw {
    /// A node's draw, if it is better than the limit; without a weight the draw decides alone.
    fn below(limit: Self, draw: u64, weight: u32) -> Option<Self> {
        let mut new = Self { cost: 0, draw: !draw };
        if weight > 0 {
            // 62 bits of integer and fraction. A product is quicker than the quotient that it spares most nodes.
            let log = neg_log2(draw) << 20;
            if u128::from(log) >= (u128::from(limit.cost) + 1) * u128::from(weight) {
                return None;
            }
            new.cost = log / u64::from(weight);
        }
        (new < limit).then_some(new)
    }
}

/// Keeps the best draws in order: no more than wanted, no more of one zone than may be.
fn take(roster: &Roster<'_>, best: &mut Vec<(Draw, u32)>, new: (Draw, u32)) {
    let at = best.partition_point(|held| *held < new);
    best.insert(at, new);
    let zone = |node: u32| roster.zones[node as usize];
    if zone(new.1) != FREE {
        let same = |held: &(Draw, u32)| zone(held.1) == zone(new.1);
        if best.iter().filter(|held| same(held)).count() > roster.zone_cap as usize
            && let Some(worst) = best.iter().rposition(same)
        {
            best.remove(worst);
        }
    }
    best.truncate(roster.copies as usize);
}

/// Steps of the table of logarithms, and the bits of a logarithm's fraction.
const STEPS_BITS: u32 = 8;
const FRACTION_BITS: u32 = 36;

/// −log₂(draw / 2⁶⁴) with [`FRACTION_BITS`] bits of fraction: a table with straight lines between its points,
/// off by less than 3 millionths, and never falling as the draw grows smaller.
fn neg_log2(draw: u64) -> u64 {
    let draw = draw.max(1);
    let zeros = draw.leading_zeros();
    // The mantissa in [1, 2), its leading bit cut off.
    let mantissa = (draw << zeros) << 1;
    let step = (mantissa >> (64 - STEPS_BITS)) as usize;
    let between = (mantissa << STEPS_BITS) >> 32;
    let (low, high) = (LOG2[step], LOG2[step + 1]);
    let log = low + (((high - low) * between) >> 32);
    (u64::from(zeros + 1) << FRACTION_BITS) - log
}

/// log₂(1 + i/256), with [`FRACTION_BITS`] bits of fraction.
static LOG2: [u64; (1 << STEPS_BITS) + 1] = log2_table();

const fn log2_table() -> [u64; (1 << STEPS_BITS) + 1] {
    let mut table = [0; (1 << STEPS_BITS) + 1];
    let mut step = 0;
    while step < 1 << STEPS_BITS {
        table[step] = log2_of((1 << 63) + ((step as u64) << (63 - STEPS_BITS)));
        step += 1;
    }
    table[1 << STEPS_BITS] = 1 << FRACTION_BITS;
    table
}

/// log₂(x / 2⁶³) of an x in [2⁶³, 2⁶⁴), bit by bit: squaring doubles the logarithm.
const fn log2_of(x: u64) -> u64 {
    let (mut x, mut log, mut bit) = (x, 0, 0);
    while bit < FRACTION_BITS {
        let square = (x as u128) * (x as u128);
        log <<= 1;
        if square >> 127 == 1 {
            log |= 1;
            x = (square >> 64) as u64;
        } else {
            x = (square >> 63) as u64;
        }
        bit += 1;
    }
    log
}
