//! From a plan to what runs on this node: start what is missing, stop what is extra, leave the rest alone.
//!
//! ```text
//!            plan names this boot                  plan takes it away, or its release is asked for
//!  absent ─────────────────────────▶ serving(epoch) ─────────────────────────▶ stopping(epoch)
//!     ▲                                                                             │ stopped
//!     └─────────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! A newer plan that arrives while an older one is being carried out simply wins: what is wanted is replaced,
//! and the difference to what is there is taken anew.

use std::collections::BTreeMap;

use crate::cluster::snapshot::{Assignment, Snapshot};
use crate::ids::{Epoch, NodeBoot, PartitionId, Version};

/// What is to be done. Stops come before starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Let nothing of this partition's worker out from now on, then stop it. Answered by
    /// [`Reconcile::handle_stopped`].
    Stop {
        /// Which partition.
        partition: PartitionId,
        /// The epoch under which it runs.
        epoch: Epoch,
    },
    /// Start the partition's workers under this epoch.
    Start {
        /// Which partition.
        partition: PartitionId,
        /// The epoch under which it is to run.
        epoch: Epoch,
    },
    /// This boot will never again serve the partition under this epoch: tell the leader.
    Release {
        /// Which partition.
        partition: PartitionId,
        /// The epoch that is given back.
        epoch: Epoch,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Serving,
    Stopping { then_release: bool },
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    epoch: Epoch,
    state: State,
}

/// What runs on one boot of one node, and what its newest plan wants to run there.
#[derive(Debug)]
pub struct Reconcile {
    me: NodeBoot,
    version: Version,
    wanted: BTreeMap<PartitionId, Epoch>,
    slots: BTreeMap<PartitionId, Slot>,
    /// How many of the slots are serving: it is asked after every piece of news, and there may be many thousands.
    serving_len: usize,
    /// The newest epoch of each partition that this boot gave back: never served again by it.
    released: BTreeMap<PartitionId, Epoch>,
}

impl Reconcile {
    /// A boot that runs nothing yet, and was told of no plan.
    pub const fn new(me: NodeBoot) -> Self {
        Self {
            me,
            version: Version::ZERO,
            wanted: BTreeMap::new(),
            slots: BTreeMap::new(),
            serving_len: 0,
            released: BTreeMap::new(),
        }
    }

    /// The newest plan that was taken in.
    pub const fn version(&self) -> Version {
        self.version
    }

    /// What is being served now, or about to be.
    pub fn serving(&self) -> impl Iterator<Item = (PartitionId, Epoch)> {
        let serving = |slot: &Slot| slot.state == State::Serving;
        self.slots.iter().filter(move |(_, slot)| serving(slot)).map(|(id, slot)| (*id, slot.epoch))
    }

    /// Whether this partition is being served under this epoch, or about to be.
    pub fn serves(&self, partition: PartitionId, epoch: Epoch) -> bool {
        let serving = |slot: &Slot| slot.state == State::Serving && slot.epoch == epoch;
        self.slots.get(&partition).is_some_and(serving)
    }

    /// How many are being served now, or about to be.
    pub const fn serving_len(&self) -> usize {
        self.serving_len
    }

    /// Whether everything that the newest plan wants here is being served, and nothing else is there.
    pub fn is_settled(&self) -> bool {
        let wanted = self.wanted.iter().filter(|(id, epoch)| !self.is_released(**id, **epoch)).count();
        wanted == self.slots.len() && self.slots.values().all(|slot| slot.state == State::Serving)
    }

    /// A plan came. An older one than the newest known is old news, and changes nothing.
    pub fn handle_snapshot(&mut self, snapshot: &Snapshot) -> Vec<Effect> {
        if snapshot.version <= self.version {
            return Vec::new();
        }
        self.version = snapshot.version;
        self.wanted = local_assignments(&self.me, snapshot);
        // An epoch that was given back is forgotten once a newer one is seen: no plan can name it again.
        self.released.retain(|id, epoch| snapshot.assignment(*id).is_some_and(|a| a.epoch <= *epoch));
        let mut effects = self.stop_extra();
        effects.extend(self.start_missing());
        effects
    }

    /// This node left its cluster: all that it ran under that cluster's plans is to stop, and the next plan, of
    /// whatever version, is the first.
    pub fn handle_left(&mut self) -> Vec<Effect> {
        self.version = Version::ZERO;
        self.wanted.clear();
        self.released.clear();
        self.stop_extra()
    }

    /// Whether nothing runs, nor is about to end.
    pub fn is_idle(&self) -> bool {
        self.slots.is_empty()
    }

    /// The leader wants the partition back. It is released at once if nothing of it runs, and after its
    /// worker stopped if something does. Asking again changes nothing.
    pub fn handle_release_asked(&mut self, partition: PartitionId, epoch: Epoch) -> Vec<Effect> {
        if self.is_released(partition, epoch) {
            // The leader asks because it did not hear of the release: it is told again.
            let stopping = self.slots.get(&partition).is_some_and(|slot| slot.epoch <= epoch);
            return if stopping { Vec::new() } else { vec![Effect::Release { partition, epoch }] };
        }
        self.released.insert(partition, epoch);
        match self.slots.get_mut(&partition) {
            Some(slot) if slot.epoch <= epoch => {
                let stopping = matches!(slot.state, State::Stopping { .. });
                self.serving_len -= usize::from(!stopping);
                slot.state = State::Stopping { then_release: true };
                let stop = Effect::Stop { partition, epoch: slot.epoch };
                if stopping { Vec::new() } else { vec![stop] }
            }
            _ => vec![Effect::Release { partition, epoch }],
        }
    }

    /// A worker that was told to stop is gone.
    pub fn handle_stopped(&mut self, partition: PartitionId, epoch: Epoch) -> Vec<Effect> {
        let Some(slot) = self.slots.get(&partition).copied().filter(|slot| slot.epoch == epoch) else {
            return Vec::new();
        };
        let State::Stopping { then_release } = slot.state else { return Vec::new() };
        self.slots.remove(&partition);
        let mut effects = Vec::new();
        if then_release {
            let epoch = self.released.get(&partition).copied().unwrap_or(epoch);
            effects.push(Effect::Release { partition, epoch });
        }
        // The plan may want it again by now.
        if let Some(epoch) = self.wanted.get(&partition).copied() {
            effects.extend(self.start_if_missing(partition, epoch));
        }
        effects
    }

    fn is_released(&self, partition: PartitionId, epoch: Epoch) -> bool {
        self.released.get(&partition).is_some_and(|released| epoch <= *released)
    }

    fn stop_extra(&mut self) -> Vec<Effect> {
        let mut effects = Vec::new();
        for (partition, slot) in &mut self.slots {
            let kept = self.wanted.get(partition) == Some(&slot.epoch);
            if !kept && slot.state == State::Serving {
                slot.state = State::Stopping { then_release: false };
                self.serving_len -= 1;
                effects.push(Effect::Stop { partition: *partition, epoch: slot.epoch });
            }
        }
        effects
    }

    fn start_missing(&mut self) -> Vec<Effect> {
        let wanted = std::mem::take(&mut self.wanted);
        let start = |(partition, epoch): (&PartitionId, &Epoch)| self.start_if_missing(*partition, *epoch);
        let effects = wanted.iter().filter_map(start).collect();
        self.wanted = wanted;
        effects
    }

    fn start_if_missing(&mut self, partition: PartitionId, epoch: Epoch) -> Option<Effect> {
        // Where the former epoch's worker is still stopping, the new one starts after it.
        if self.slots.contains_key(&partition) || self.is_released(partition, epoch) {
            return None;
        }
        self.slots.insert(partition, Slot { epoch, state: State::Serving });
        self.serving_len += 1;
        Some(Effect::Start { partition, epoch })
    }
}

/// Which partitions a plan gives to this boot, and under which epoch each.
pub fn local_assignments(me: &NodeBoot, snapshot: &Snapshot) -> BTreeMap<PartitionId, Epoch> {
    let mine = |a: &Assignment| snapshot.primary(a).is_some_and(|primary| primary.id() == me);
    snapshot.partitions().filter(|(_, a)| mine(a)).map(|(id, a)| (id, a.epoch)).collect()
}

#[cfg(test)]
mod tests;
