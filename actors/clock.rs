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

/// A boot that never was before: wall-clock seconds above, chance below.
pub fn new_boot(clock: &Clock) -> Boot {
    Boot(stamped(clock))
}

/// A life that never was before.
pub fn new_life(clock: &Clock) -> Life {
    Life(stamped(clock))
}

fn stamped(clock: &Clock) -> u64 {
    ((clock.unix().0 / 1000) << 32) | (draw() & 0xffff_ffff)
}
