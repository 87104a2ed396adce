//! Publish and subscribe: what a node says on a topic, everybody who listens hears, in the order it was said.
//!
//! ```text
//!  publish ──▶ number it ──▶ own subscribers ─┐
//!                  └───────▶ all sessions ──▶ old or twice? drop · a gap? say so ──▶ their subscribers
//!  retain  ──▶ the same, and it is kept: on this node for new sessions, on all nodes for late subscribers
//! ```
//!
//! Order is per publisher and topic. Nothing is sent twice, and what is lost on the way (a session broke, a
//! link was full) is counted and told as [`Event::Missed`], except that a retained value is sent again, in its newest form,
//! until it is through.
//!
//! A retained value may have a *rank*, as a plan has its version: then the cluster has one current value on that
//! topic, the one with the highest rank, whoever said it; and no subscriber ever sees a rank go back.

mod keeping;
mod message;
mod packet;
mod queue;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use crate::ids::{NodeBoot, NodeName};
use crate::time::Moment;

pub use self::message::{
    Config, Keep, MESSAGE_LEN_MAX, Message, Presence, PublishError, SubscriberId, TOPIC_LEN_MAX, Topic,
};
use self::packet::Packet;
pub use self::packet::PacketError;
pub use self::queue::{Overflow, Pushed, Queue};

/// What a subscriber gets. `M` is a message as the lane has it that the topic is on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event<M = Message> {
    /// Something was said.
    Said(M),
    /// So many messages of `publisher` did not arrive here, before what comes next. Nothing that is retained on the control lane
    /// is counted.
    Missed {
        /// Whose messages.
        publisher: NodeBoot,
        /// How many.
        count: u64,
    },
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Hand `event` to a local subscriber.
    Deliver {
        /// Who gets it.
        to: SubscriberId,
        /// What it gets.
        event: Event,
    },
    /// Send `packet` to one node. If that fails, say so by [`Topics::handle_unsent`].
    Send {
        /// The node.
        to: NodeName,
        /// What it is about, for `handle_unsent`.
        topic: Option<Topic>,
        /// The bytes.
        packet: Bytes,
    },
    /// Send `packet` to all nodes with a session. For each that it fails for, say so by [`Topics::handle_unsent`].
    Broadcast {
        /// What it is about.
        topic: Topic,
        /// The bytes.
        packet: Bytes,
    },
    /// Call [`Topics::handle_timer`] then. It replaces the moment asked for before.
    WakeAt(Moment),
}

/// One node's part in publish and subscribe.
#[derive(Debug)]
pub struct Topics {
    config: Config,
    this: NodeBoot,
    /// Which life of this law within its node's run: numbers begin anew with each, and a later one is larger.
    life: u64,
    topics: BTreeMap<Topic, State>,
    subscribers: BTreeMap<SubscriberId, Topic>,
    /// The run and life of each other node that said something.
    publishers: BTreeMap<NodeName, (NodeBoot, u64)>,
    /// How much each node has retained, this one included.
    retained: BTreeMap<NodeName, Retained>,
    /// How many series of numbers this node has begun.
    series: u64,
    /// Nodes with a session, and the retained topics whose newest value they have not been sent.
    sessions: BTreeMap<NodeName, BTreeSet<Topic>>,
    wake: Option<Moment>,
}

/// What is known of one topic.
#[derive(Debug, Default)]
struct State {
    subscribers: BTreeSet<SubscriberId>,
    /// The series of this node's numbers here, and the last of them.
    said: (u64, u64),
    /// This node retained a value here and released it.
    released: bool,
    /// The current value of each node that has one, this one included.
    own: BTreeMap<NodeName, Message>,
    /// The current value of all.
    ranked: Option<Message>,
    /// The series and number of the last message of each other node.
    heard: BTreeMap<NodeName, (u64, u64)>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Retained {
    topics: usize,
    bytes: usize,
}

impl Topics {
    /// The part of the node `this`. Of several lives within one run of it the later has the larger `life`.
    pub fn new(config: Config, this: NodeBoot, life: u64) -> Self {
        Self {
            config,
            this,
            life,
            topics: BTreeMap::new(),
            subscribers: BTreeMap::new(),
            publishers: BTreeMap::new(),
            retained: BTreeMap::new(),
            series: 0,
            sessions: BTreeMap::new(),
            wake: None,
        }
    }

    /// This node says something to all.
    ///
    /// # Errors
    /// It is too long, retains too much, or was outranked.
    pub fn handle_publish(
        &mut self,
        topic: &Topic,
        keep: Keep,
        body: Bytes,
    ) -> Result<Vec<Effect>, PublishError> {
        self.check(topic, keep, &body)?;
        if self.topics.len() >= self.config.counted_max {
            self.lose_count();
        }
        let state = self.topics.entry(topic.clone()).or_default();
        if state.said.1 == 0 {
            self.series += 1;
            state.said.0 = self.series;
        }
        state.said.1 += 1;
        state.released &= keep == Keep::No;
        let message =
            Message { topic: topic.clone(), publisher: self.this.clone(), number: state.said.1, keep, body };
        let packet = packet::said(self.life, state.said.0, &message);
        let mut effects = vec![Effect::Broadcast { topic: topic.clone(), packet }];
        self.keep(&message);
        // Nobody is owed what everybody is sent now; `handle_unsent` says who is not.
        for owed in self.sessions.values_mut() {
            owed.remove(topic);
        }
        self.deliver(&mut effects, topic, &Event::Said(message));
        Ok(effects)
    }

    /// This node says something to its own subscribers only.
    ///
    /// # Errors
    /// It is too long.
    pub fn handle_publish_local(&mut self, topic: &Topic, body: Bytes) -> Result<Vec<Effect>, PublishError> {
        self.check(topic, Keep::No, &body)?;
        let (topic_, publisher) = (topic.clone(), self.this.clone());
        let message = Message { topic: topic_, publisher, number: 0, keep: Keep::No, body };
        let mut effects = Vec::new();
        self.deliver(&mut effects, topic, &Event::Said(message));
        Ok(effects)
    }

    /// This node's current value on `topic` is current no more: late subscribers get none. Those who listen are not told.
    /// A ranked value stays current with those who have it.
    pub fn handle_release(&mut self, topic: &Topic) -> Vec<Effect> {
        let this = self.this.clone();
        let mut effects = Vec::new();
        if self.topics.get(topic).and_then(|state| state.retained_by(&this)).is_some() {
            self.drop_value(&this.node, topic.as_str());
            if let Some(state) = self.topics.get_mut(topic) {
                state.released = true;
            }
            let packet = packet::released(self.life, topic);
            effects.push(Effect::Broadcast { topic: topic.clone(), packet });
        }
        self.tidy(topic.as_str());
        effects
    }

    /// A subscriber listens from now on. It gets the current values first: the ranked one, or each node's own.
    pub fn handle_subscribe(&mut self, subscriber: SubscriberId, topic: &Topic) -> Vec<Effect> {
        let state = self.topics.entry(topic.clone()).or_default();
        state.subscribers.insert(subscriber);
        self.subscribers.insert(subscriber, topic.clone());
        let current = state.own.values().chain(&state.ranked);
        current
            .map(|message| Effect::Deliver { to: subscriber, event: Event::Said(message.clone()) })
            .collect()
    }

    /// A subscriber listens no more.
    pub fn handle_unsubscribe(&mut self, subscriber: SubscriberId) {
        if let Some(topic) = self.subscribers.remove(&subscriber) {
            if let Some(state) = self.topics.get_mut(&topic) {
                state.subscribers.remove(&subscriber);
            }
            self.tidy(topic.as_str());
        }
    }

    /// A session with `peer` stands: it is sent what this node retains.
    pub fn handle_session_up(&mut self, peer: &NodeBoot) -> Vec<Effect> {
        let to = &peer.node;
        self.sessions.insert(to.clone(), BTreeSet::new());
        let begin = Effect::Send { to: to.clone(), topic: None, packet: packet::begin(self.life) };
        let retained = self.topics.iter().filter_map(|(topic, state)| {
            let message = state.retained_by(&self.this)?;
            let packet = packet::said(self.life, state.said.0, message);
            Some(Effect::Send { to: to.clone(), topic: Some(topic.clone()), packet })
        });
        std::iter::once(begin).chain(retained).collect()
    }

    /// The session with `peer` ended. What it retains stays current until [`Self::handle_view`] says that it is gone.
    pub fn handle_session_down(&mut self, peer: &NodeBoot) {
        self.sessions.remove(&peer.node);
    }

    /// All sessions are to be told anew: whoever told of them was started again.
    pub fn handle_sessions_lost(&mut self) {
        self.sessions.clear();
        self.wake = None;
    }

    /// What other nodes are there has changed, or a session ended. Whoever is neither held for alive nor has a session
    /// is gone, and its own current values with it, until it is back and sends them again. Whoever is not even known any more is
    /// forgotten.
    pub fn handle_view(&mut self, presence: impl Fn(&NodeName) -> Presence) {
        let without = |node: &&NodeName| !self.sessions.contains_key(*node);
        let gone: Vec<_> = self.publishers.keys().filter(without).cloned().collect();
        for node in gone {
            match presence(&node) {
                Presence::Alive => {}
                Presence::Gone => self.withdraw(&node),
                Presence::Unknown => self.forget(&node),
            }
        }
    }

    /// A packet came from `from`.
    ///
    /// # Errors
    /// It was dropped: it makes no sense, or its publisher retains too much. Nothing changed.
    pub fn handle_packet(&mut self, from: &NodeBoot, packet: &Bytes) -> Result<Vec<Effect>, PacketError> {
        if from.node == self.this.node {
            return Err(PacketError::Malformed("from a node of this one's name"));
        }
        match Packet::read(packet)? {
            Packet::Begin { life } => {
                self.meet(from, life);
                Ok(Vec::new())
            }
            Packet::Said { life, said } => {
                if !self.meet(from, life) {
                    return Ok(Vec::new());
                }
                self.hear(from, said)
            }
            Packet::Released { life, topic } => {
                if self.meet(from, life) {
                    self.drop_value(&from.node, topic);
                    self.tidy(topic);
                }
                Ok(Vec::new())
            }
        }
    }

    /// A packet could not be sent to `to`. What is retained is tried again soon, in its newest form.
    pub fn handle_unsent(&mut self, now: Moment, to: &NodeName, topic: &Topic) -> Vec<Effect> {
        let lasts = |state: &State| state.released || state.retained_by(&self.this).is_some();
        let owing = self.topics.get(topic).is_some_and(lasts);
        let Some(owed) = self.sessions.get_mut(to).filter(|_| owing) else { return Vec::new() };
        owed.insert(topic.clone());
        if self.wake.is_some() {
            return Vec::new();
        }
        let at = now + self.config.retry_every;
        self.wake = Some(at);
        vec![Effect::WakeAt(at)]
    }

    /// The moment of an [`Effect::WakeAt`] has come: what is owed is sent.
    pub fn handle_timer(&mut self, now: Moment) -> Vec<Effect> {
        if self.wake.is_none_or(|at| now < at) {
            return Vec::new();
        }
        self.wake = None;
        let mut effects = Vec::new();
        for (to, owed) in &mut self.sessions {
            for topic in std::mem::take(owed) {
                let Some(state) = self.topics.get(&topic) else { continue };
                let packet = match state.retained_by(&self.this) {
                    Some(message) => packet::said(self.life, state.said.0, message),
                    None if state.released => packet::released(self.life, &topic),
                    None => continue,
                };
                effects.push(Effect::Send { to: to.clone(), topic: Some(topic), packet });
            }
        }
        effects
    }

    /// The current values on a topic: each node's own, in the order of their names, then the ranked one.
    pub fn current(&self, topic: &Topic) -> impl Iterator<Item = &Message> {
        self.topics.get(topic).into_iter().flat_map(|state| state.own.values().chain(&state.ranked))
    }

    /// The nodes with a session, sorted: who gets an [`Effect::Broadcast`].
    pub fn peers(&self) -> impl Iterator<Item = &NodeName> {
        self.sessions.keys()
    }

    /// How many local subscribers a topic has.
    pub fn subscribers(&self, topic: &Topic) -> usize {
        self.topics.get(topic).map_or(0, |state| state.subscribers.len())
    }
}

impl State {
    /// Whether nobody listens and nothing is kept.
    fn is_idle(&self) -> bool {
        self.subscribers.is_empty() && self.own.is_empty() && self.ranked.is_none()
    }

    fn rank(&self) -> Option<u64> {
        match self.ranked.as_ref()?.keep {
            Keep::Ranked(rank) => Some(rank),
            Keep::No | Keep::Own => None,
        }
    }

    /// What `node` retains here.
    fn retained_by(&self, node: &NodeBoot) -> Option<&Message> {
        let ranked = self.ranked.as_ref().filter(|message| message.publisher == *node);
        ranked.or_else(|| self.own.get(&node.node))
    }
}

impl Retained {
    fn plus(self, message: &Message) -> Self {
        Self { topics: self.topics + 1, bytes: self.bytes + message.body.len() }
    }

    fn minus(self, message: &Message) -> Self {
        Self { topics: self.topics.saturating_sub(1), bytes: self.bytes.saturating_sub(message.body.len()) }
    }
}
