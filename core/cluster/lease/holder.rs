//! A node's own lease: asks for it, counts it from the right moment, and knows what it gave up.
//!
//! ```text
//!            grant, acted on `newest`
//!   paused ─────────────────────────────▶ holding ──┐ renewed every L/3
//!      ▲                                     │  ▲───┘
//!      └────────────── until ◀───────────────┘
//! ```

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Answer, Config, PlanId, Refusal, Release, Reply, Request};
use crate::cluster::snapshot::Snapshot;
use crate::ids::{Epoch, NodeBoot, NodeName, PartitionId, Term};
use crate::time::Moment;

/// The most requests that are remembered. At one every L/30 a whole lease's worth fits.
const ASKED_LEN_MAX: usize = 64;

/// What the node is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Send `request`. Its reply comes back through [`Holder::handle_reply`].
    Ask {
        /// To whom; `None`: whoever the node takes for the leader, or else any voter.
        to: Option<NodeName>,
        /// The request.
        request: Request,
    },
    /// Let what serves see the new end of the lease: it may answer strictly before `until`.
    Publish {
        /// The end of the lease.
        until: Moment,
    },
    /// The lease ran out: no reply and no effect may leave the node. Raft, gossip, acks and seals go on.
    Pause,
    /// The lease is back: go on with what is still this node's.
    Resume,
}

/// One boot's lease. Every node has one, the leader too, for as long as its process runs.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Holder {
    me: NodeBoot,
    config: Config,
    /// Whom the last news named as the leader.
    leader: Option<NodeName>,
    /// When each request was sent that may still be granted.
    asked: BTreeMap<u64, Moment>,
    last_number: u64,
    ask_at: Moment,
    /// The newest term that a grant came from.
    term: Term,
    acted_on: PlanId,
    /// Grants that count once the node has acted on their plan: until when each would last.
    waiting: BTreeMap<PlanId, Moment>,
    until: Moment,
    /// Releases that no plan has answered: the newest epoch given up of each partition.
    releases: BTreeMap<PartitionId, Epoch>,
    /// Some of them were noted since the last request left.
    untold: bool,
    returned: bool,
    paused: bool,
    refusal: Option<Refusal>,
}

impl Holder {
    /// The lease of a node that has just started: it holds none, is paused, and asks at once.
    pub fn new(me: NodeBoot, config: Config) -> Self {
        Self {
            me,
            config,
            leader: None,
            asked: BTreeMap::new(),
            last_number: 0,
            ask_at: Moment::ZERO,
            term: Term::ZERO,
            acted_on: PlanId::ZERO,
            waiting: BTreeMap::new(),
            until: Moment::ZERO,
            releases: BTreeMap::new(),
            untold: false,
            returned: false,
            paused: true,
            refusal: None,
        }
    }

    /// The moment named by [`Self::wake_at`] has come, or any other.
    pub fn handle_wake(&mut self, now: Moment) -> Vec<Effect> {
        let mut effects = self.settle(now, self.until);
        if now >= self.ask_at {
            effects.push(self.ask(now));
        }
        effects
    }

    /// Another node leads, or the same again: ask it at once.
    pub fn handle_leader(&mut self, now: Moment, leader: NodeName) -> Vec<Effect> {
        let mut effects = self.settle(now, self.until);
        if self.leader.as_ref() != Some(&leader) {
            self.leader = Some(leader);
            effects.push(self.ask(now));
        }
        effects
    }

    /// A reply came. One to another boot, to a number never sent, or from an older term is old news.
    pub fn handle_reply(&mut self, now: Moment, reply: Reply) -> Vec<Effect> {
        let before = self.until;
        if reply.to == self.me && !self.returned {
            match reply.answer {
                Answer::Granted { term, length, newest } => {
                    self.take_grant(now, reply.number, term, length, newest);
                }
                Answer::Refused(why) => self.take_refusal(now, reply.number, why),
            }
        }
        self.settle(now, before)
    }

    /// The node has acted on `plan`: whatever that plan, or any before it, took from it is stopped.
    ///
    /// Plans between the last one and this one may have been missed: epochs only rise, so a partition that
    /// moved away and back has another epoch, and what ran under the old one is to be stopped as well.
    pub fn handle_acted(&mut self, now: Moment, plan: &Snapshot) -> Vec<Effect> {
        let before = self.until;
        let acted_on = PlanId::from(plan);
        if acted_on > self.acted_on {
            let same_generation = acted_on.generation == self.acted_on.generation;
            self.acted_on = acted_on;
            self.releases.retain(|partition, released| {
                same_generation && plan.assignment(*partition).is_some_and(|now| now.epoch <= *released)
            });
            let later = self.waiting.split_off(&PlanId { version: acted_on.version.next(), ..acted_on });
            let counting = std::mem::replace(&mut self.waiting, later);
            if !self.returned {
                self.until = counting.into_values().fold(self.until, Moment::max);
            }
            if !self.holds(now) {
                // A leader that refused us for not having acted on this plan will not do so again.
                self.ask_at = self.ask_at.min(now);
            }
        }
        self.settle(now, before)
    }

    /// The node has stopped serving these partitions under these epochs, and says so for good.
    ///
    /// Stop first, then call this: the word leaves at once, and another node may serve a moment later.
    pub fn handle_released(
        &mut self,
        now: Moment,
        released: impl IntoIterator<Item = Release>,
    ) -> Vec<Effect> {
        self.note_released(now, released);
        self.handle_wake(now)
    }

    /// The same, where whoever stops the partitions is not who sends requests: takes the releases down at once,
    /// and wants [`Self::handle_wake`] now.
    ///
    /// Between the stop and this note nobody may come back who would serve the partition again. A message to
    /// the sender would leave a gap in which a restarted worker finds no release and serves on.
    pub fn note_released(&mut self, now: Moment, released: impl IntoIterator<Item = Release>) {
        for Release { partition, epoch } in released {
            let known = self.releases.entry(partition).or_insert(epoch);
            *known = epoch.max(*known);
        }
        self.ask_at = self.ask_at.min(now);
        self.untold = true;
    }

    /// The node leaves its cluster, with everything stopped, to join another: it holds nothing there and has
    /// heard of nothing. Its requests are numbered on, so that a late grant of the former leader grants nothing.
    pub fn handle_left(&mut self, now: Moment) -> Vec<Effect> {
        let before = self.until;
        let Self { last_number, paused, .. } = *self;
        *self = Self { last_number, paused, ..Self::new(self.me.clone(), self.config) };
        let mut effects = self.settle(now, before);
        effects.push(self.ask(now));
        effects
    }

    /// The process is about to end: everything is stopped, and the lease goes back, for good.
    pub fn handle_stopping(&mut self, now: Moment) -> Vec<Effect> {
        let before = self.until;
        self.returned = true;
        self.until = Moment::ZERO;
        self.waiting.clear();
        let mut effects = self.settle(now, before);
        effects.push(self.ask(now));
        effects
    }

    /// Whether the node may answer at `now`. Take the value first and ask this after.
    pub fn holds(&self, now: Moment) -> bool {
        now < self.until
    }

    /// The lease's end: the node may answer strictly before it. The hot path compares this one number.
    pub const fn until(&self) -> Moment {
        self.until
    }

    /// When [`Self::handle_wake`] is wanted next.
    pub fn wake_at(&self) -> Moment {
        if self.paused { self.ask_at } else { self.ask_at.min(self.until) }
    }

    /// The plan that the node has acted on.
    pub const fn acted_on(&self) -> PlanId {
        self.acted_on
    }

    /// Why the last request was refused, if it was: what a node that is not ready shows.
    pub const fn refusal(&self) -> Option<&Refusal> {
        self.refusal.as_ref()
    }

    /// The releases that no plan has answered yet.
    pub fn releases(&self) -> impl Iterator<Item = Release> {
        self.releases.iter().map(|(partition, epoch)| Release { partition: *partition, epoch: *epoch })
    }

    /// The epoch under which this boot is to serve `partition` by `plan`, if it is.
    ///
    /// Not if another node or another boot of this one is primary, nor if this boot gave that epoch up.
    /// What runs under any other epoch is to be stopped before [`Self::handle_acted`], even where this node
    /// is primary again.
    pub fn duty(&self, plan: &Snapshot, partition: PartitionId) -> Option<Epoch> {
        let (primary, epoch) = plan.primary_of(partition)?;
        let released = self.releases.get(&partition).is_some_and(|released| epoch <= *released)
            && plan.generation == self.acted_on.generation;
        (*primary == self.me && !released && !self.returned).then_some(epoch)
    }

    fn take_grant(&mut self, now: Moment, number: u64, term: Term, length: Duration, newest: PlanId) {
        if term < self.term {
            return;
        }
        let Some(sent) = self.asked.remove(&number) else { return };
        self.term = term;
        self.refusal = None;
        // From the moment of sending: the leader counts from the arrival, which is never before.
        let until = sent + length.min(self.config.length);
        if newest <= self.acted_on {
            self.until = self.until.max(until);
        } else {
            // The plan that we have not acted on may be the one that deposed us while we were frozen.
            self.waiting.retain(|_, until| now < *until);
            let known = self.waiting.entry(newest).or_insert(until);
            *known = until.max(*known);
        }
        let next = self.next_ask(now, sent, until);
        // What was released since that request left is told as soon as the node is woken for it.
        self.ask_at = if self.untold { self.ask_at.min(next) } else { next };
    }

    fn take_refusal(&mut self, now: Moment, number: u64, why: Refusal) {
        if number != self.last_number {
            return;
        }
        if let Refusal::NotLeader { leader } = &why {
            self.leader.clone_from(leader);
        }
        self.refusal = Some(why);
        self.ask_at = self.ask_at.min(now + self.config.retry_every());
    }

    fn ask(&mut self, now: Moment) -> Effect {
        let length = self.config.length;
        self.asked.retain(|_, sent| now < *sent + length);
        while self.asked.len() >= ASKED_LEN_MAX {
            self.asked.pop_first();
        }
        self.untold = false;
        self.last_number += 1;
        self.asked.insert(self.last_number, now);
        self.ask_at = self.next_ask(now, now, self.until);
        let request = Request {
            from: self.me.clone(),
            number: self.last_number,
            acted_on: self.acted_on,
            releases: self.releases().collect(),
            returned: self.returned,
        };
        Effect::Ask { to: self.leader.clone(), request }
    }

    /// With more than half a lease left there is time for the usual pace.
    fn next_ask(&self, now: Moment, sent: Moment, until: Moment) -> Moment {
        if until.since(now) > self.config.length / 2 {
            sent + self.config.renew_every()
        } else {
            now + self.config.retry_every()
        }
    }

    fn settle(&mut self, now: Moment, before: Moment) -> Vec<Effect> {
        let mut effects = Vec::new();
        if self.until != before {
            effects.push(Effect::Publish { until: self.until });
        }
        let paused = !self.holds(now);
        if paused != self.paused {
            self.paused = paused;
            effects.push(if paused { Effect::Pause } else { Effect::Resume });
        }
        effects
    }
}
