//! Replies that wait until what they rest on surely holds.

use std::collections::VecDeque;

use tumen_core::partitions::identity::Position;
use tumen_core::partitions::request::{Failure, Reply};

use crate::partitions::delivery::Delivery;

/// A reply, and the last entry of the log that its handler saw.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) rests_on: Position,
    pub(super) delivery: Delivery,
    pub(super) reply: Reply,
    /// Whether the handler changed something.
    pub(super) changed: bool,
}

/// The replies of one primary, in the order of what they rest on.
#[derive(Debug, Default)]
pub(super) struct HeldReplies(VecDeque<Held>);

impl HeldReplies {
    pub(super) fn push(&mut self, held: Held) {
        debug_assert!(
            self.0.back().is_none_or(|last| last.rests_on <= held.rests_on),
            "replies come in order"
        );
        self.0.push_back(held);
    }

    /// Takes out those that rest on nothing beyond the mark.
    pub(super) fn take_up_to(&mut self, mark: u64, into: &mut Vec<Held>) {
        while let Some(held) = self.0.pop_front_if(|held| held.rests_on.sequence <= mark) {
            into.push(held);
        }
    }

    /// Answers all of them that nobody knows whether it will hold.
    pub(super) fn give_up(&mut self) {
        for held in self.0.drain(..) {
            held.delivery.answer(Err(Failure::Fenced { changed: held.changed }));
        }
    }
}
