//! Those who wait for an answer, each with a deadline.

use crate::time::Moment;

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
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    const TICK: Duration = Duration::from_nanos(1 << TICK_BITS);

    fn at(millis: u64) -> Moment {
        Moment::from_millis(millis)
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
