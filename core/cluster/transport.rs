//! The small laws of keeping in touch: when to dial again, how much may be under way, when silence is enough,
//! which of two connections stays. [`waiting`] knows who has waited too long, [`dialling`] whom to dial.

pub mod dialling;
pub mod waiting;

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::ids::NodeName;

/// How long to wait between attempts: twice as long after each, up to a limit, less a random part, so that many
/// who lost the same peer at once do not all come back at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backoff {
    /// The wait after the first failure. Default 10 ms.
    pub first: Duration,
    /// The longest wait. Default 1 s.
    pub longest: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { first: Duration::from_millis(10), longest: Duration::from_secs(1) }
    }
}

impl Backoff {
    /// The wait after `failures` failures in a row: at most a quarter shorter than the full one, by `chance`.
    pub fn delay(&self, failures: u32, chance: u64) -> Duration {
        let doublings = failures.saturating_sub(1).min(31);
        let full = self.first.saturating_mul(1 << doublings).min(self.longest);
        let quarter = u64::try_from(full.as_nanos() / 4).unwrap_or(u64::MAX);
        full - Duration::from_nanos(chance % quarter.saturating_add(1))
    }
}

/// How many bytes may be under way to a peer that confirms what it has taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    limit: u64,
    sent: u64,
    taken: u64,
}

impl Window {
    /// A window of `limit` bytes, all of it free.
    pub const fn new(limit: u64) -> Self {
        Self { limit, sent: 0, taken: 0 }
    }

    /// Takes room for `len` bytes; false, and nothing changed, if there is none.
    pub const fn reserve(&mut self, len: u64) -> bool {
        if self.under_way().saturating_add(len) > self.limit {
            return false;
        }
        self.sent += len;
        true
    }

    /// Hears that the peer has taken `total` bytes since the beginning. False if it cannot have: it never was sent
    /// so much, or it said more before.
    pub const fn handle_taken(&mut self, total: u64) -> bool {
        if total > self.sent || total < self.taken {
            return false;
        }
        self.taken = total;
        true
    }

    /// The bytes that are under way.
    pub const fn under_way(&self) -> u64 {
        self.sent - self.taken
    }
}

/// The other end of a [`Window`]: when to tell the sender how much was taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    every: u64,
    total: u64,
    told: u64,
}

impl Taken {
    /// Tells the sender after each quarter of `limit`, so that its window never closes while all is well.
    pub const fn new(limit: u64) -> Self {
        Self { every: limit / 4, total: 0, told: 0 }
    }

    /// Counts `len` bytes as taken; true if the sender should hear of it now.
    pub const fn take(&mut self, len: u64) -> bool {
        self.total = self.total.saturating_add(len);
        self.total - self.told > self.every
    }

    /// The bytes taken since the beginning, for the next message to the sender.
    pub const fn tell(&mut self) -> u64 {
        self.told = self.total;
        self.total
    }
}

/// Counts how long nothing was heard, in heartbeats.
///
/// In heartbeats and not in time: a process that was itself frozen wakes to a long silence that is its own, and must
/// read what waits for it before it judges others. It slept through its own heartbeats, so they do not count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Silence {
    heard: bool,
    silent: u32,
    limit: u32,
}

impl Silence {
    /// Silence is enough once it lasted `limit`, counted in heartbeats that are `every` apart.
    pub fn new(limit: Duration, every: Duration) -> Self {
        let beats = limit.as_nanos().div_ceil(every.as_nanos().max(1));
        Self { heard: false, silent: 0, limit: u32::try_from(beats).unwrap_or(u32::MAX).max(2) }
    }

    /// Something was heard.
    pub const fn handle_heard(&mut self) {
        self.heard = true;
    }

    /// One heartbeat's time has passed; true if that was the last one to wait for.
    pub const fn handle_beat(&mut self) -> bool {
        self.silent = if self.heard { 0 } else { self.silent.saturating_add(1) };
        self.heard = false;
        self.silent >= self.limit
    }
}

/// One connection between two nodes, as both of them see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connection {
    /// Who dialled it.
    pub dialler: NodeName,
    /// The number that its dialler drew for it.
    pub id: u64,
}

impl Connection {
    /// Whether this connection stays if the same two runs of the same two nodes also have `other`: both nodes
    /// decide alike, whatever they heard of first. What the smaller name dialled stays; of two by one dialler
    /// the one with the larger number.
    pub fn outranks(&self, other: &Self) -> bool {
        match self.dialler.cmp(&other.dialler) {
            std::cmp::Ordering::Less => true,
            std::cmp::Ordering::Greater => false,
            std::cmp::Ordering::Equal => self.id > other.id,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest() {
        let backoff = Backoff { first: Duration::from_millis(10), longest: Duration::from_millis(100) };
        let full: Vec<_> = (1..7).map(|failures| backoff.delay(failures, 0).as_millis()).collect();
        assert_eq!(full, [10, 20, 40, 80, 100, 100]);
        assert!((0..1000).all(|chance| backoff.delay(9, chance * 7_777_777) >= Duration::from_millis(75)));
        assert_eq!(backoff.delay(u32::MAX, 0), Duration::from_millis(100));
    }

    #[test]
    fn a_window_closes_and_opens_with_what_was_taken() {
        let mut window = Window::new(100);
        assert!(window.reserve(60));
        assert!(!window.reserve(41));
        assert!(window.reserve(40));
        assert!(window.handle_taken(60));
        assert_eq!(window.under_way(), 40);
        assert!(!window.handle_taken(59), "a peer never takes back what it took");
        assert!(!window.handle_taken(101), "a peer never takes what was not sent");
    }

    #[test]
    fn a_receiver_speaks_before_the_window_closes() {
        let mut taken = Taken::new(100);
        assert!(!taken.take(25));
        assert!(taken.take(1));
        assert_eq!(taken.tell(), 26);
        assert!(!taken.take(25));
    }

    #[test]
    fn silence_is_counted_in_heartbeats() {
        let mut silence = Silence::new(Duration::from_millis(750), Duration::from_millis(250));
        silence.handle_heard();
        assert!(!silence.handle_beat());
        assert!(!silence.handle_beat());
        assert!(!silence.handle_beat());
        assert!(silence.handle_beat());
    }

    #[test]
    fn both_nodes_keep_the_same_connection() {
        let by = |name: &str, id| Connection { dialler: NodeName::new(name).unwrap(), id };
        assert!(by("a", 1).outranks(&by("b", 2)));
        assert!(!by("b", 2).outranks(&by("a", 1)));
        assert!(by("a", 2).outranks(&by("a", 1)));
        assert!(!by("a", 1).outranks(&by("a", 1)));
    }
}
