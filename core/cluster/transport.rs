//! The small laws of keeping in touch: when to dial again, how much may be under way, when silence is enough,
//! which of two connections stays, and who has waited too long.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::ids::NodeName;
use crate::time::Moment;

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
#[derive(Clone, Debug, PartialEq, Eq)]
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

/// A power of two of nanoseconds (8.4 ms): the grain of [`Waiting`]'s deadlines.
const TICK_BITS: u32 = 23;
/// How many ticks the wheel has: a turn takes 4.3 s. Later deadlines are passed over once a turn.
const WHEEL: usize = 512;
const NONE: u32 = u32::MAX;

/// Those who wait for an answer, each with a deadline: a slab, and a wheel of lists through it.
///
/// To add, to take and to expire one costs a few steps whatever their number, and memory is bounded by the most that ever
/// waited at once. Numbers are never used twice, so a late answer finds nobody.
#[derive(Debug)]
pub struct Waiting<T> {
    slots: Vec<Slot<T>>,
    free: u32,
    len: usize,
    wheel: Vec<u32>,
    turned_to: u64,
}

#[derive(Debug)]
struct Slot<T> {
    value: Option<T>,
    generation: u32,
    due: u64,
    before: u32,
    after: u32,
}

impl<T> Default for Waiting<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Waiting<T> {
    /// Nobody waits.
    pub fn new() -> Self {
        Self { slots: Vec::new(), free: NONE, len: 0, wheel: vec![NONE; WHEEL], turned_to: 0 }
    }

    /// How many wait.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether nobody waits.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds one who waits until `due`, and returns its number. It never waits less; up to two ticks (17 ms) more.
    ///
    /// # Panics
    /// If more than four billion wait at once.
    pub fn insert(&mut self, value: T, due: Moment) -> u64 {
        // A tick is over when the next one begins; and no deadline lies in a tick that was turned past.
        let due = ((due.as_nanos() >> TICK_BITS) + 1).max(self.turned_to + 1);
        let index = if self.free == NONE {
            let index = u32::try_from(self.slots.len()).expect("fewer than four billion wait");
            self.slots.push(Slot { value: None, generation: 0, due: 0, before: NONE, after: NONE });
            index
        } else {
            let index = self.free;
            self.free = self.slots[index as usize].after;
            index
        };
        let head = std::mem::replace(&mut self.wheel[Self::bucket(due)], index);
        if head != NONE {
            self.slots[head as usize].before = index;
        }
        let slot = &mut self.slots[index as usize];
        slot.value = Some(value);
        slot.due = due;
        slot.before = NONE;
        slot.after = head;
        self.len += 1;
        u64::from(slot.generation) << 32 | u64::from(index)
    }

    /// Takes the one with this number, if it still waits.
    pub fn take(&mut self, id: u64) -> Option<T> {
        let index = id as u32;
        let slot = self.slots.get(index as usize)?;
        if u64::from(slot.generation) != id >> 32 || slot.value.is_none() {
            return None;
        }
        self.remove(index)
    }

    /// Takes all whose deadline has passed, and appends them to `expired`.
    pub fn expire(&mut self, now: Moment, expired: &mut Vec<T>) {
        let now = now.as_nanos() >> TICK_BITS;
        if now <= self.turned_to {
            return;
        }
        // After a long pause one turn of the wheel visits everybody.
        let first = (self.turned_to + 1).max(now.saturating_sub(WHEEL as u64 - 1));
        self.turned_to = now;
        for tick in first..=now {
            let mut at = self.wheel[Self::bucket(tick)];
            while at != NONE {
                let slot = &self.slots[at as usize];
                let after = slot.after;
                if slot.due <= now {
                    expired.extend(self.remove(at));
                }
                at = after;
            }
        }
    }

    /// Takes everybody.
    pub fn drain(&mut self) -> Vec<T> {
        let all = self.slots.iter_mut().filter_map(|slot| slot.value.take()).collect();
        *self = Self { turned_to: self.turned_to, ..Self::new() };
        all
    }

    /// When it is worth calling [`Waiting::expire`] again: not after the first deadline has passed by more
    /// than a tick. `None` if nobody waits.
    pub fn next_due(&self) -> Option<Moment> {
        if self.is_empty() {
            return None;
        }
        let ticks = self.turned_to + 1..=self.turned_to + WHEEL as u64;
        let tick = ticks.into_iter().find(|tick| self.wheel[Self::bucket(*tick)] != NONE)?;
        Some(Moment::from_nanos(tick << TICK_BITS))
    }

    fn remove(&mut self, index: u32) -> Option<T> {
        let slot = &mut self.slots[index as usize];
        let value = slot.value.take();
        let (before, after, due) = (slot.before, slot.after, slot.due);
        slot.generation = slot.generation.wrapping_add(1);
        slot.after = self.free;
        self.free = index;
        self.len -= 1;
        if before == NONE {
            self.wheel[Self::bucket(due)] = after;
        } else {
            self.slots[before as usize].after = after;
        }
        if after != NONE {
            self.slots[after as usize].before = before;
        }
        value
    }

    const fn bucket(tick: u64) -> usize {
        tick as usize % WHEEL
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    const TICK: Duration = Duration::from_nanos(1 << TICK_BITS);

    fn at(millis: u64) -> Moment {
        Moment::from_millis(millis)
    }

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

    #[test]
    fn a_late_answer_finds_nobody() {
        let mut waiting = Waiting::new();
        let first = waiting.insert("first", at(10));
        let mut expired = Vec::new();
        waiting.expire(at(100), &mut expired);
        assert_eq!(expired, ["first"]);
        let second = waiting.insert("second", at(200));
        assert_ne!(first, second);
        assert_eq!(waiting.take(first), None);
        assert_eq!(waiting.take(second), Some("second"));
        assert_eq!(waiting.take(second), None);
        assert_eq!(waiting.next_due(), None);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Insert(u64),
        Take(usize),
        Pass(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0_u64..20_000).prop_map(Step::Insert),
            any::<usize>().prop_map(Step::Take),
            prop_oneof![0_u64..50, 0_u64..10_000].prop_map(Step::Pass),
        ]
    }

    proptest! {
        #[test]
        fn everybody_leaves_once_by_answer_or_by_deadline(steps in proptest::collection::vec(step(), 1..300)) {
            let mut waiting = Waiting::new();
            let mut model: BTreeMap<u64, (u32, Moment)> = BTreeMap::new();
            let (mut now, mut next) = (at(3_600_000), 0_u32);
            for step in steps {
                match step {
                    Step::Insert(wait) => {
                        let due = now + Duration::from_millis(wait);
                        let id = waiting.insert(next, due);
                        prop_assert!(model.insert(id, (next, due)).is_none());
                        next += 1;
                    }
                    Step::Take(which) => {
                        let Some(id) = model.keys().nth(which % model.len().max(1)).copied() else { continue };
                        let (value, _) = model.remove(&id).unwrap();
                        prop_assert_eq!(waiting.take(id), Some(value));
                    }
                    Step::Pass(millis) => {
                        now += Duration::from_millis(millis);
                        if waiting.next_due().is_some_and(|due| due > now) {
                            prop_assert!(model.values().all(|(_, due)| *due + TICK * 2 > now), "woken too late");
                        }
                        let mut expired = Vec::new();
                        waiting.expire(now, &mut expired);
                        for value in expired {
                            let id = *model.iter().find(|(_, (v, _))| *v == value).unwrap().0;
                            let (_, due) = model.remove(&id).unwrap();
                            prop_assert!(due <= now, "expired too early");
                        }
                        prop_assert!(model.values().all(|(_, due)| *due + TICK * 2 > now), "expired too late");
                    }
                }
                prop_assert_eq!(waiting.len(), model.len());
                prop_assert_eq!(waiting.next_due().is_none(), model.is_empty());
            }
            let mut left = waiting.drain();
            left.sort_unstable();
            let mut wanted: Vec<_> = model.values().map(|(value, _)| *value).collect();
            wanted.sort_unstable();
            prop_assert_eq!(left, wanted);
        }
    }
}
