//! How much is copied at once, and how fast: moving partitions must not crowd out the work that they are for.
//!
//! ```text
//! asked ─▶ waiting, oldest first ──both nodes have room──▶ copying ──▶ finished
//!                                                            │ ▲
//!                                              Bucket: bytes └─┘ no sooner than the rate allows
//! ```
//!
//! [`Handovers`] says which copies may run, [`Bucket`] how many bytes may leave now. Both are plain numbers: the same
//! questions at the same moments have the same answers.

pub mod asks;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::ids::{NodeName, PartitionId};
use crate::time::Moment;

/// How many copies run at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Copies that leave one node. Default 2; at least 1.
    pub from_node_max: u32,
    /// Copies that come to one node. Default 2; at least 1.
    pub to_node_max: u32,
    /// Copies in the whole cluster. Default 16; at least 1.
    pub total_max: u32,
}

impl Limits {
    /// The limits of one node among so many. Nobody counts the copies of the whole cluster: each node takes its share of
    /// `total_max`, and at least one, so that together they keep to it as long as there are no more nodes than that.
    #[must_use]
    pub fn share_of(self, nodes: u32) -> Self {
        let share = (self.total_max / nodes.max(1)).max(1);
        Self { from_node_max: self.from_node_max.min(share), ..self }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self { from_node_max: 2, to_node_max: 2, total_max: 16 }
    }
}

/// How often a copy is passed over by younger ones, until its nodes are kept free for it.
const PASSED_MAX: u32 = 8;

/// One copy of one partition, from node to node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Handover {
    /// Which partition.
    pub partition: PartitionId,
    /// Who has it.
    pub from: NodeName,
    /// Who is to have it.
    pub to: NodeName,
}

/// How far one copy is, for people to see.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Which one.
    pub handover: Handover,
    /// When it was asked for.
    pub asked: Moment,
    /// When it began. None: it waits.
    pub began: Option<Moment>,
    /// Bytes that have arrived.
    pub bytes_done: u64,
    /// Bytes in all, as far as is known.
    pub bytes_total: Option<u64>,
}

impl Progress {
    /// How many of a hundred parts are done. None: not known.
    pub fn percent(&self) -> Option<u8> {
        let total = self.bytes_total?;
        let done = u128::from(self.bytes_done.min(total)) * 100;
        Some(done.checked_div(u128::from(total)).map_or(100, |percent| percent as u8))
    }
}

#[derive(Clone, Debug)]
struct Waiting {
    handover: Handover,
    asked: Moment,
    passed: u32,
}

/// Which copies run, and which wait.
///
/// The oldest that can run runs first. One whose nodes are busy does not hold up the others; but after eight of them it
/// has its turn: what comes later leaves its nodes free.
#[derive(Clone, Debug)]
pub struct Handovers {
    limits: Limits,
    waiting: VecDeque<Waiting>,
    running: BTreeMap<Handover, Progress>,
}

impl Handovers {
    /// Nothing is copied. Limits of zero count as one.
    pub fn new(limits: Limits) -> Self {
        let limits = Limits {
            from_node_max: limits.from_node_max.max(1),
            to_node_max: limits.to_node_max.max(1),
            total_max: limits.total_max.max(1),
        };
        Self { limits, waiting: VecDeque::new(), running: BTreeMap::new() }
    }

    /// A copy is wanted. Those that may begin now, the oldest first; one that was asked for already is not asked for
    /// twice.
    pub fn handle_asked(&mut self, now: Moment, handover: Handover) -> Vec<Handover> {
        if !self.running.contains_key(&handover) && !self.waiting.iter().any(|w| w.handover == handover) {
            self.waiting.push_back(Waiting { handover, asked: now, passed: 0 });
        }
        self.start(now)
    }

    /// So much of a copy has arrived by now, of so much, as far as is known.
    pub fn handle_progress(&mut self, handover: &Handover, bytes_done: u64, bytes_total: Option<u64>) {
        if let Some(progress) = self.running.get_mut(handover) {
            progress.bytes_done = progress.bytes_done.max(bytes_done);
            progress.bytes_total = bytes_total.or(progress.bytes_total);
        }
    }

    /// A copy is done, was given up, or is wanted no more. Those that may begin now.
    pub fn handle_ended(&mut self, now: Moment, handover: &Handover) -> Vec<Handover> {
        self.running.remove(handover);
        self.waiting.retain(|waiting| waiting.handover != *handover);
        self.start(now)
    }

    /// A node is gone, and all copies from and to it with it. Those that may begin now.
    pub fn handle_node_gone(&mut self, now: Moment, node: &NodeName) -> Vec<Handover> {
        let stays = |handover: &Handover| handover.from != *node && handover.to != *node;
        self.running.retain(|handover, _| stays(handover));
        self.waiting.retain(|waiting| stays(&waiting.handover));
        self.start(now)
    }

    /// Other limits hold from now on; what runs goes on. Those that may begin now.
    pub fn handle_limits(&mut self, now: Moment, limits: Limits) -> Vec<Handover> {
        self.limits = Self::new(limits).limits;
        self.start(now)
    }

    /// Whether this copy runs.
    pub fn is_running(&self, handover: &Handover) -> bool {
        self.running.contains_key(handover)
    }

    /// How many copies run.
    pub fn running_len(&self) -> usize {
        self.running.len()
    }

    /// How many copies wait.
    pub fn waiting_len(&self) -> usize {
        self.waiting.len()
    }

    /// How far all are: first those that run, then those that wait, in their order.
    pub fn progress(&self) -> impl Iterator<Item = Progress> {
        let waits = |waiting: &Waiting| Progress {
            handover: waiting.handover.clone(),
            asked: waiting.asked,
            began: None,
            bytes_done: 0,
            bytes_total: None,
        };
        self.running.values().cloned().chain(self.waiting.iter().map(waits))
    }

    fn start(&mut self, now: Moment) -> Vec<Handover> {
        let mut load = Load::of(self.running.keys());
        let mut started = Vec::new();
        let mut passed = Vec::new();
        for (at, waiting) in self.waiting.iter().enumerate() {
            if load.total + started.len() as u32 >= self.limits.total_max {
                break;
            }
            if load.has_room(&self.limits, &waiting.handover) {
                load.take(&waiting.handover);
                started.push(at);
            } else {
                passed.push((at, started.len()));
                // Its turn has come: what is younger leaves its nodes alone.
                if waiting.passed >= PASSED_MAX {
                    load.reserve(&self.limits, &waiting.handover);
                }
            }
        }
        for (at, before) in passed {
            self.waiting[at].passed += (started.len() - before) as u32;
        }
        let mut handovers = Vec::new();
        for at in started.into_iter().rev() {
            let Some(Waiting { handover, asked, .. }) = self.waiting.remove(at) else { continue };
            let progress = Progress {
                handover: handover.clone(),
                asked,
                began: Some(now),
                bytes_done: 0,
                bytes_total: None,
            };
            self.running.insert(handover.clone(), progress);
            handovers.push(handover);
        }
        handovers.reverse();
        handovers
    }
}

/// How many copies leave and reach each node.
struct Load {
    from: BTreeMap<NodeName, u32>,
    to: BTreeMap<NodeName, u32>,
    total: u32,
}

impl Load {
    fn of<'a>(running: impl Iterator<Item = &'a Handover>) -> Self {
        let mut load = Self { from: BTreeMap::new(), to: BTreeMap::new(), total: 0 };
        for handover in running {
            load.take(handover);
            load.total += 1;
        }
        load
    }

    fn take(&mut self, handover: &Handover) {
        *self.from.entry(handover.from.clone()).or_insert(0) += 1;
        *self.to.entry(handover.to.clone()).or_insert(0) += 1;
    }

    /// Counts the nodes of a copy that cannot run yet as full.
    fn reserve(&mut self, limits: &Limits, handover: &Handover) {
        self.from.insert(handover.from.clone(), limits.from_node_max);
        self.to.insert(handover.to.clone(), limits.to_node_max);
    }

    fn has_room(&self, limits: &Limits, handover: &Handover) -> bool {
        let of = |counts: &BTreeMap<NodeName, u32>, node| counts.get(node).copied().unwrap_or(0);
        of(&self.from, &handover.from) < limits.from_node_max
            && of(&self.to, &handover.to) < limits.to_node_max
    }
}

/// How many bytes may leave a node per second for copies: a token bucket, in whole bytes.
///
/// The rate holds over any time longer than a burst; what was not used for a while is not saved up beyond one.
#[derive(Clone, Debug)]
pub struct Bucket {
    /// None: as many as will go.
    bytes_per_second: Option<u64>,
    burst: u64,
    tokens: u64,
    /// What is left of a token: in bytes times nanoseconds per second.
    rest: u64,
    filled: Moment,
}

const NANOS: u128 = 1_000_000_000;

/// What a sender may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allowance {
    /// Send so many bytes now. They are taken off.
    Now(u64),
    /// Ask again then, and not before.
    At(Moment),
}

impl Bucket {
    /// A full bucket. `bytes_per_second`: none for no limit; zero counts as one. `burst`: the most that leaves at once, in
    /// bytes; at least 1.
    pub fn new(now: Moment, bytes_per_second: Option<u64>, burst: u64) -> Self {
        let burst = burst.max(1);
        let bytes_per_second = bytes_per_second.map(|rate| rate.max(1));
        Self { bytes_per_second, burst, tokens: burst, rest: 0, filled: now }
    }

    /// Another rate holds from now on.
    pub fn handle_rate(&mut self, now: Moment, bytes_per_second: Option<u64>) {
        self.fill(now);
        self.bytes_per_second = bytes_per_second.map(|rate| rate.max(1));
        self.rest = 0;
    }

    /// Somebody wants to send so many bytes; at least 1. The answer is as many as there are, once there are all that were
    /// wanted, or half a burst: else it says when there will be.
    pub fn take(&mut self, now: Moment, wanted: u64) -> Allowance {
        let Some(rate) = self.bytes_per_second else { return Allowance::Now(wanted) };
        self.fill(now);
        let enough = wanted.max(1).min(self.burst.div_ceil(2));
        if self.tokens >= enough {
            let taken = self.tokens.min(wanted.max(1));
            self.tokens -= taken;
            return Allowance::Now(taken);
        }
        let missing = u128::from(enough - self.tokens) * NANOS - u128::from(self.rest);
        let nanos = missing.div_ceil(u128::from(rate));
        Allowance::At(now + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)))
    }

    fn fill(&mut self, now: Moment) {
        let elapsed = now.since(self.filled).as_nanos();
        self.filled = self.filled.max(now);
        let Some(rate) = self.bytes_per_second else { return };
        let grown = elapsed * u128::from(rate) + u128::from(self.rest);
        let tokens = u128::from(self.tokens) + grown / NANOS;
        if tokens >= u128::from(self.burst) {
            (self.tokens, self.rest) = (self.burst, 0);
        } else {
            (self.tokens, self.rest) = (tokens as u64, (grown % NANOS) as u64);
        }
    }
}

#[cfg(test)]
mod tests;
