//! Balanced: sticky, even to within one, zones apart, by weight, and it moves no more than it must.

mod augment;
mod board;
mod fill;
mod keep;
mod primaries;

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
        augment::augment(&mut board);
        let primaries = primaries::choose(&board);
        Ok(board.emit(&primaries))
    }
}
