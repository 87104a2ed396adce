//! A subscriber's queue: bounded, with a stated way to overflow.

use std::collections::VecDeque;

/// What becomes of a subscriber that is slower than what it listens to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Overflow {
    /// The oldest item makes room. It is counted, and the subscriber hears how many it missed.
    #[default]
    DropOldest,
    /// The queue closes: the subscriber gets what is in it, and then its end.
    Close,
}

/// What became of an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Pushed {
    /// It waits in the queue.
    Stored,
    /// It waits in the queue, in place of the oldest.
    DroppedOldest,
    /// It was dropped: the queue is closed, now or before.
    Closed,
}

/// A bounded queue.
#[derive(Clone, Debug)]
pub struct Queue<T> {
    items: VecDeque<T>,
    len_max: usize,
    overflow: Overflow,
    missed: u64,
    closed: bool,
}

impl<T> Queue<T> {
    /// An empty queue of at most `len_max` items; at least one.
    pub fn new(len_max: usize, overflow: Overflow) -> Self {
        Self { items: VecDeque::new(), len_max: len_max.max(1), overflow, missed: 0, closed: false }
    }

    /// Puts an item at the end.
    pub fn push(&mut self, item: T) -> Pushed {
        if self.closed {
            return Pushed::Closed;
        }
        let full = self.items.len() == self.len_max;
        if full && self.overflow == Overflow::Close {
            self.closed = true;
            return Pushed::Closed;
        }
        if full {
            self.items.pop_front();
            self.missed += 1;
        }
        self.items.push_back(item);
        if full { Pushed::DroppedOldest } else { Pushed::Stored }
    }

    /// Takes the number of items that were dropped since it was last asked, which came before all that wait now.
    pub fn take_missed(&mut self) -> u64 {
        std::mem::take(&mut self.missed)
    }

    /// Takes the oldest item.
    pub fn pop(&mut self) -> Option<T> {
        self.items.pop_front()
    }

    /// Takes nothing more.
    pub fn close(&mut self) {
        self.closed = true;
    }

    /// Whether nothing more is taken.
    pub const fn is_closed(&self) -> bool {
        self.closed
    }

    /// How many items wait.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether no item waits.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_makes_room_and_is_counted() {
        let mut queue = Queue::new(2, Overflow::DropOldest);
        assert_eq!(
            [1, 2, 3, 4].map(|item| queue.push(item)),
            [Pushed::Stored, Pushed::Stored, Pushed::DroppedOldest, Pushed::DroppedOldest]
        );
        assert_eq!((queue.take_missed(), queue.take_missed()), (2, 0));
        assert_eq!((queue.pop(), queue.pop(), queue.pop()), (Some(3), Some(4), None));
    }

    #[test]
    fn a_queue_that_closes_keeps_what_it_has() {
        let mut queue = Queue::new(1, Overflow::Close);
        assert_eq!([1, 2].map(|item| queue.push(item)), [Pushed::Stored, Pushed::Closed]);
        assert_eq!(queue.pop(), Some(1));
        assert_eq!(queue.push(3), Pushed::Closed);
        assert!(queue.is_empty() && queue.is_closed());
    }
}
