//! The nodes that still want copies, those that want most first.
//!
//! ```text
//!   room 3 │ c
//!   room 2 │ a f d      a pick starts at a hashed place of the topmost shelf and takes the first legal node;
//!   room 1 │ b          the node then stands one shelf lower
//! ```

use crate::assignment::balanced::board::Board;

/// Nodes below their target, on shelves by how far below.
pub(super) struct Roomy {
    shelves: Vec<Vec<u32>>,
    /// Where on its shelf each node stands.
    at: Vec<u32>,
    room: Vec<u32>,
    len: usize,
}

impl Roomy {
    pub(super) fn of(board: &Board<'_>) -> Self {
        let room: Vec<u32> =
            (board.target.iter().zip(&board.load)).map(|(t, l)| t.saturating_sub(*l)).collect();
        let top = room.iter().max().map_or(0, |room| *room as usize);
        let mut roomy = Self { shelves: vec![Vec::new(); top + 1], at: vec![0; room.len()], room, len: 0 };
        for node in 0..board.roster.len() {
            if roomy.room(node) > 0 {
                roomy.len += 1;
                roomy.shelve(node);
            }
        }
        roomy
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(super) fn room(&self, node: u32) -> u32 {
        self.room[node as usize]
    }

    /// The node with the most room that `fits`, looking at no more than `looks` nodes; `salt` decides between
    /// equals.
    pub(super) fn pick(
        &mut self,
        salt: u64,
        mut looks: usize,
        mut fits: impl FnMut(u32) -> bool,
    ) -> Option<u32> {
        while self.shelves.last().is_some_and(Vec::is_empty) {
            self.shelves.pop();
        }
        for shelf in self.shelves.iter().rev().filter(|shelf| !shelf.is_empty()) {
            let start = ((u128::from(salt) * shelf.len() as u128) >> 64) as usize;
            for node in shelf[start..].iter().chain(&shelf[..start]) {
                if fits(*node) {
                    return Some(*node);
                }
                looks -= 1;
                if looks == 0 {
                    return None;
                }
            }
        }
        None
    }

    /// Notes that a node got one of the copies that it wants.
    pub(super) fn take(&mut self, node: u32) {
        let shelf = &mut self.shelves[self.room[node as usize] as usize];
        let at = self.at[node as usize];
        shelf.swap_remove(at as usize);
        if let Some(moved) = shelf.get(at as usize) {
            self.at[*moved as usize] = at;
        }
        self.room[node as usize] -= 1;
        if self.room[node as usize] > 0 {
            self.shelve(node);
        } else {
            self.len -= 1;
        }
    }

    fn shelve(&mut self, node: u32) {
        let shelf = &mut self.shelves[self.room[node as usize] as usize];
        self.at[node as usize] = shelf.len() as u32;
        shelf.push(node);
    }
}
