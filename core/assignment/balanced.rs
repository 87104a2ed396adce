//! Balanced: sticky, even to within one, zones apart, by weight, and it moves no more than it must.
//!
//! ```text
//!   keep ─▶ fill ─▶ steal ─▶ augment ─▶ settle ─┬─────────────▶ primaries ─▶ map
//!   old rows  holes   surplus   chains    circles  │ too far astray      ▲
//!                                                  └─▶ keep ─▶ replan ─┘
//! ```
//!
//! Each phase is a pure function of the board that the one before left: whole numbers only, every tie broken by
//! names, nothing bounded by time. Direct moves reach the bound in nearly every event, at once; chains and circles
//! mend what little they miss; a map that is far from its shares under zones is planned anew, as one flow.
//! [`certify`](crate::assignment::certify) proves each result with code of its own.
//!
//! Where promises compete, the earlier wins: distinct nodes, zones apart (at most the least possible number of copies
//! in one), shares by weight, least movement. Primaries come after that and move no copy: even within what the rows
//! allow, then as few cold as possible, then as few changes; with
//! [`warm_only`](crate::assignment::Problem::warm_only) warm comes first.
//!
//! Prior art: Garage's layout (max-flow), Kafka's sticky assignor, Riak's claim.

mod augment;
mod board;
mod exchange;
mod fill;
mod keep;
mod primaries;
mod replan;
mod roomy;
mod settle;
mod steal;

use crate::assignment::balanced::board::Board;
use crate::assignment::roster::Roster;
use crate::assignment::{AssignError, Layout, Problem, Strategy};

/// Chains after which planning anew is quicker than searching for one more.
const CHAINS_MAX: u64 = 32;

/// The default strategy.
#[derive(Clone, Copy, Debug, Default)]
pub struct Balanced;

impl Strategy for Balanced {
    fn name(&self) -> &str {
        "balanced"
    }

    fn assign(&self, problem: &Problem<'_>) -> Result<Layout, AssignError> {
        let roster = Roster::of(problem)?;
        let mut board = Board::new(&roster, problem);
        if !touch_up(&mut board, problem) {
            board = Board::new(&roster, problem);
            plan_anew(&mut board);
        }
        let primaries = primaries::choose(&board, problem);
        Ok(board.emit(&primaries))
    }
}

/// Direct moves, and what little mending they need. Says whether the result is the minimum for certain.
fn touch_up(board: &mut Board<'_>, problem: &Problem<'_>) -> bool {
    keep::keep(board);
    fill::fill(board);
    steal::steal(board, problem.warm_only);
    augment::augment(board, CHAINS_MAX) && settle::settle(board)
}

/// The minimum in one piece, without regard for who leads what.
fn plan_anew(board: &mut Board<'_>) {
    keep::keep(board);
    if !replan::replan(board) {
        // It would have taken too long; a legal map is better than none.
        board.aim();
        fill::fill(board);
        steal::steal(board, false);
        augment::augment(board, u64::MAX);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::assignment::{Candidate, certify, check};
    use crate::cluster::member::Zone;

    fn candidates(nodes: &[(u8, u32)]) -> Vec<Candidate> {
        (0..)
            .zip(nodes)
            .map(|(number, (zone, weight))| Candidate {
                zone: (*zone < 4).then(|| Zone(format!("z{zone}").into())),
                weight: *weight,
                ..Candidate::new(format!("n{number}").parse().unwrap())
            })
            .collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// Small problems never need it, so it is asked directly.
        #[test]
        fn planning_anew_finds_the_minimum_too(
            nodes in prop::collection::vec((0..6_u8, 1..5_u32), 1..9),
            rows in prop::collection::vec(prop::collection::vec(0..10_u32, 0..6), 0..14),
            partitions in 1..14_u32,
            replication in 1..5_u32,
        ) {
            let nodes = candidates(&nodes);
            let mut previous = Layout::new((0..10).map(|n| format!("n{n}").parse().unwrap()).collect());
            rows.iter().for_each(|row| previous.push_row(row));
            let problem = Problem::new(&nodes, partitions, replication).after(&previous);
            let roster = Roster::of(&problem).unwrap();
            let mut board = Board::new(&roster, &problem);
            plan_anew(&mut board);
            let layout = board.emit(&primaries::choose(&board, &problem));
            prop_assert_eq!(check(&problem, &layout), Ok(()));
            let certificate = certify(&problem, &layout);
            prop_assert!(certificate.is_minimal(), "{}", certificate);
        }
    }
}
