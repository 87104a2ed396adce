//! How long something took, each time that it happened: counted in a few places, so that the memory is the same however often.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How many places have an upper end. One more is for what took longer than all of these.
pub const PLACES: usize = 14;

/// What a meter has counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Took {
    /// How many took so long, by the meter's places; the last one is for those that took longer.
    pub counts: [u64; PLACES + 1],
    /// All of it together, in microseconds.
    pub sum_us: u64,
}

/// Where it is counted how long something took. Nobody waits for it.
#[derive(Debug)]
pub struct Meter {
    up_to_us: &'static [u64; PLACES],
    counts: [AtomicU64; PLACES + 1],
    sum_us: AtomicU64,
}

impl Meter {
    /// A meter with these places: each is for what took so many microseconds at most, and longer than the one before.
    pub fn new(up_to_us: &'static [u64; PLACES]) -> Self {
        Self { up_to_us, counts: Default::default(), sum_us: AtomicU64::new(0) }
    }

    /// It took so long once more.
    pub fn note(&self, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let at = self.up_to_us.partition_point(|most| *most < us);
        self.counts[at].fetch_add(1, Ordering::Relaxed);
        self.sum_us.fetch_add(us, Ordering::Relaxed);
    }

    /// What was counted so far.
    pub fn read(&self) -> Took {
        let counts = self.counts.each_ref().map(|count| count.load(Ordering::Relaxed));
        Took { counts, sum_us: self.sum_us.load(Ordering::Relaxed) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_go_into_the_first_place_that_is_long_enough() {
        use crate::partitions::replication::phases::TOOK_US;
        let meter = Meter::new(&TOOK_US);
        for us in [0, 50, 51, 1_000_000, 1_000_001] {
            meter.note(Duration::from_micros(us));
        }
        let took = meter.read();
        assert_eq!((took.counts[0], took.counts[1], took.counts[13], took.counts[14]), (2, 1, 1, 1));
        assert_eq!(took.sum_us, 2_000_102);
    }
}
