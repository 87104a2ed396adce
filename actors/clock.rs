//! Time and chance enter here, and nowhere else.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rand::RngCore;
use tumen_core::ids::{Boot, Life};
use tumen_core::{Moment, UnixMillis};

/// What time it is. Cheap to clone.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    source: Source,
}

#[derive(Clone, Copy, Debug)]
enum Source {
    /// The operating system's boot-time clock: it counts while the machine is suspended, so that a lease
    /// runs out over a suspend as it does for everybody else.
    System,
    /// tokio's clock, which tests pause and advance. Its origin is the moment the clock was made.
    Tokio(tokio::time::Instant),
}

impl Clock {
    /// The operating system's clock.
    pub const fn system() -> Self {
        Self { source: Source::System }
    }

    /// tokio's clock: virtual where a test paused it.
    pub fn tokio() -> Self {
        Self { source: Source::Tokio(tokio::time::Instant::now()) }
    }

    /// The present moment.
    pub fn now(&self) -> Moment {
        match self.source {
            Source::System => {
                let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
                let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
                let nanos = u64::try_from(time.tv_nsec).unwrap_or_default();
                Moment::from_nanos(seconds.saturating_mul(1_000_000_000).saturating_add(nanos))
            }
            // An hour ahead of zero, so that "a while ago" is never before the origin.
            Source::Tokio(origin) => Moment::ZERO + Duration::from_secs(3600) + origin.elapsed(),
        }
    }

    /// How long from now until `moment`; zero if it has passed.
    pub fn until(&self, moment: Moment) -> Duration {
        moment.since(self.now())
    }

    /// Wall-clock time, for people to read.
    pub fn unix(&self) -> UnixMillis {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        UnixMillis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }
}

/// A number that nobody else will draw.
pub fn draw() -> u64 {
    rand::rng().next_u64()
}

/// A boot that never was before: wall-clock milliseconds above, chance below. A process that is killed and started again
/// within the same second is to have the greater one, or it would pass for the older of the two.
pub fn new_boot(clock: &Clock) -> Boot {
    Boot((clock.unix().0 << BOOT_CHANCE_BITS) | (draw() & ((1 << BOOT_CHANCE_BITS) - 1)))
}

/// A life that never was before: wall-clock seconds above, chance below. Lives of different nodes are told apart by it
/// alone, so there is more chance in it; their order means nothing.
pub fn new_life(clock: &Clock) -> Life {
    Life(((clock.unix().0 / 1000) << 32) | (draw() & 0xffff_ffff))
}

/// Leaves 42 bits for milliseconds, which last until the year 2109.
const BOOT_CHANCE_BITS: u32 = 22;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_boot_is_the_greater() {
        let clock = Clock::system();
        let mut last = new_boot(&clock);
        for _ in 0..5 {
            let before = clock.unix();
            while clock.unix() == before {
                std::hint::spin_loop();
            }
            let next = new_boot(&clock);
            assert!(last < next);
            last = next;
        }
    }
}
