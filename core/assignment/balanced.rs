//! Balanced: sticky, even to within one, zones apart, by weight, and it moves no more than it must.

mod augment;
mod board;
mod exchange;
mod fill;
mod keep;
mod primaries;
mod roomy;
mod settle;
mod steal;

use crate::assignment::balanced::board::Board;
use crate::assignment::roster::Roster;
use crate::assignment::{AssignError, Layout, Problem, Strategy};

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
        keep::keep(&mut board);
        fill::fill(&mut board);
        steal::steal(&mut board, problem.warm_only);
        augment::augment(&mut board);
        settle::settle(&mut board);
        let primaries = primaries::choose(&board, problem);
        Ok(board.emit(&primaries))
    }
}
