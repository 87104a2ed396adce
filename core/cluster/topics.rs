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

mod packet;
mod queue;

#[cfg(test)]
mod tests;

use std::borrow::Borrow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::ids::{NodeBoot, NodeName};
use crate::time::Moment;

pub use self::packet::PacketError;
use self::packet::{Packet, Said};
pub use self::queue::{Overflow, Pushed, Queue};

/// What messages are about. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Topic(Arc<str>);

/// The most bytes that a topic's name may have.
pub const TOPIC_LEN_MAX: usize = 255;

/// The most bytes that a message may have.
pub const MESSAGE_LEN_MAX: usize = (1 << 20) - 1024;

impl Topic {
    /// Takes a name of 1 to [`TOPIC_LEN_MAX`] bytes.
    ///
    /// # Errors
    /// It is empty, or longer.
    pub fn new(name: &str) -> Result<Self, PublishError> {
        if name.is_empty() || name.len() > TOPIC_LEN_MAX {
            return Err(PublishError::TopicName { len: name.len() });
        }
        Ok(Self(name.into()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for Topic {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// What was said on a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// About what.
    pub topic: Topic,
    /// By which run of which node.
    pub publisher: NodeBoot,
    /// The how-manieth of its publisher on its topic, from 1; 0 if it was said to this node only. It begins anew with
    /// the publisher, or where the publisher had nothing to say on this topic for very long.
    pub number: u64,
    /// Whether it is kept for late subscribers, and with which rank.
    pub keep: Keep,
    /// What.
    pub body: Bytes,
}

/// Whether a message is kept for those who come late.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Keep {
    /// No: who does not listen misses it.
    No,
    /// As its publisher's current value, until its next one, or until the publisher is gone: without a session, and
    /// not held for alive.
    Own,
    /// As the cluster's current value, until one with a higher rank, even if the publisher goes.
    Ranked(u64),
}

/// One local subscriber, numbered by whoever drives the law.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SubscriberId(pub u64);

/// What a subscriber gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Something was said.
    Said(Message),
    /// So many messages of `publisher` did not arrive here. Nothing that is retained is counted.
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

/// Why nothing was published. Nothing changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// The topic's name does not do.
    #[error("a topic's name has 1 to {TOPIC_LEN_MAX} bytes, not {len}")]
    TopicName {
        /// How many bytes it has.
        len: usize,
    },
    /// The message is too long.
    #[error("a message has at most {MESSAGE_LEN_MAX} bytes, not {len}: publish where to get it instead")]
    TooLong {
        /// How many bytes it has.
        len: usize,
    },
    /// This node retains as much as it may.
    #[error("at most {topics} topics with {bytes} bytes are retained by one node: release some")]
    Full {
        /// How many topics may be retained.
        topics: usize,
        /// How many bytes may be retained.
        bytes: usize,
    },
    /// A value with this rank or a higher one is current already.
    #[error("a value of rank {current} is current already: nothing older may follow it")]
    Outranked {
        /// The current value's rank.
        current: u64,
    },
}

/// The knobs of topics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The most topics that one publisher may retain values on. Default 1,024.
    pub retained_topics_max: usize,
    /// The most bytes that one publisher may retain in all. Default 64 MiB, at least [`MESSAGE_LEN_MAX`].
    pub retained_bytes_max: usize,
    /// The most topics that this node says something on before it loses count of those on which nothing is retained.
    /// Default 16,384. Others then take its next message there for a first one.
    pub counted_max: usize,
    /// How soon a retained value that could not be sent is tried again. Default 20 ms.
    pub retry_every: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            retained_topics_max: 1024,
            retained_bytes_max: 64 << 20,
            counted_max: 16_384,
            retry_every: Duration::from_millis(20),
        }
    }
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

    /// What other nodes are there has changed, or a session ended. Whoever is neither held for alive nor has a session
    /// is gone, and its own current values with it.
    pub fn handle_view(&mut self, is_alive: impl Fn(&NodeName) -> bool) {
        let gone = |node: &&NodeName| !self.sessions.contains_key(*node) && !is_alive(node);
        let gone: Vec<_> = self.publishers.keys().filter(gone).cloned().collect();
        gone.iter().for_each(|node| self.forget(node));
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

    /// How many local subscribers a topic has.
    pub fn subscribers(&self, topic: &Topic) -> usize {
        self.topics.get(topic).map_or(0, |state| state.subscribers.len())
    }
}

impl Topics {
    fn check(&self, topic: &Topic, keep: Keep, body: &Bytes) -> Result<(), PublishError> {
        if body.len() > MESSAGE_LEN_MAX {
            return Err(PublishError::TooLong { len: body.len() });
        }
        let state = self.topics.get(topic);
        if let (Keep::Ranked(rank), Some(current)) = (keep, state.and_then(State::rank))
            && rank <= current
        {
            return Err(PublishError::Outranked { current });
        }
        if keep != Keep::No && !self.fits(&self.this.node, topic.as_str(), body.len()) {
            let (topics, bytes) = (self.config.retained_topics_max, self.config.retained_bytes_max);
            return Err(PublishError::Full { topics, bytes });
        }
        Ok(())
    }

    /// Whether a node may retain so many bytes on a topic, in place of what it retains there now.
    fn fits(&self, publisher: &NodeName, topic: &str, len: usize) -> bool {
        let retained = self.retained.get(publisher).copied().unwrap_or_default();
        let here = self
            .topics
            .get(topic)
            .into_iter()
            .flat_map(|state| state.own.get(publisher).into_iter().chain(&state.ranked));
        let others =
            here.filter(|message| message.publisher.node == *publisher).fold(retained, Retained::minus);
        others.topics < self.config.retained_topics_max
            && others.bytes + len <= self.config.retained_bytes_max
    }

    /// Takes note of which life of `from` speaks; false if it is an old one.
    fn meet(&mut self, from: &NodeBoot, life: u64) -> bool {
        let known = self.publishers.get(&from.node).map(|(id, life)| (id.boot, *life));
        if known == Some((from.boot, life)) {
            return true;
        }
        if known.is_some_and(|known| known > (from.boot, life)) {
            return false;
        }
        // Whatever its former life said is over, and its numbers begin anew.
        self.forget(&from.node);
        self.publishers.insert(from.node.clone(), (from.clone(), life));
        true
    }

    fn hear(&mut self, from: &NodeBoot, said: Said<'_>) -> Result<Vec<Effect>, PacketError> {
        if said.keep != Keep::No && !self.fits(&from.node, said.topic, said.body.len()) {
            return Err(PacketError::RetainsTooMuch { publisher: from.clone() });
        }
        let known = self.topics.get_key_value(said.topic).map(|(topic, _)| topic.clone());
        let topic = match known {
            Some(topic) => topic,
            // Nobody listens, nothing is kept: no trace is left, however many topics there are.
            None if said.keep == Keep::No => return Ok(Vec::new()),
            None => Topic(said.topic.into()),
        };
        let state = self.topics.entry(topic.clone()).or_default();
        let last = state.heard.get(&from.node).copied();
        let (topic_, publisher) = (topic.clone(), from.clone());
        let message =
            Message { topic: topic_, publisher, number: said.number, keep: said.keep, body: said.body };
        if last.is_some_and(|last| (said.series, said.number) <= last) {
            return Ok(Vec::new());
        }
        state.heard.insert(from.node.clone(), (said.series, said.number));
        let missed = last.filter(|last| last.0 == said.series).map_or(0, |last| said.number - last.1 - 1);
        let mut effects = Vec::new();
        if missed > 0 && said.keep == Keep::No {
            let event = Event::Missed { publisher: from.clone(), count: missed };
            self.deliver(&mut effects, &topic, &event);
        }
        if self.keep(&message) {
            self.deliver(&mut effects, &topic, &Event::Said(message));
        }
        self.tidy(topic.as_str());
        Ok(effects)
    }

    /// Keeps a message if it is to be kept; false if it is older than what is kept already.
    fn keep(&mut self, message: &Message) -> bool {
        let node = &message.publisher.node;
        match message.keep {
            Keep::No => {}
            Keep::Own => {
                self.drop_value(node, message.topic.as_str());
                self.account(node, |retained| retained.plus(message));
                let state = self.topics.entry(message.topic.clone()).or_default();
                state.own.insert(node.clone(), message.clone());
            }
            Keep::Ranked(rank) => {
                let state = self.topics.entry(message.topic.clone()).or_default();
                if state.rank().is_some_and(|current| rank <= current) {
                    return false;
                }
                if let Some(former) = state.ranked.replace(message.clone()) {
                    self.account(&former.publisher.node, |retained| retained.minus(&former));
                }
                self.account(node, |retained| retained.plus(message));
            }
        }
        true
    }

    fn account(&mut self, node: &NodeName, change: impl FnOnce(Retained) -> Retained) {
        let retained = change(self.retained.get(node).copied().unwrap_or_default());
        if retained == Retained::default() {
            self.retained.remove(node);
        } else {
            self.retained.insert(node.clone(), retained);
        }
    }

    fn deliver(&self, effects: &mut Vec<Effect>, topic: &Topic, event: &Event) {
        let listening = self.topics.get(topic).into_iter().flat_map(|state| &state.subscribers);
        effects.extend(listening.map(|to| Effect::Deliver { to: *to, event: event.clone() }));
    }

    /// A node is gone, or begins anew: its own current values are no more, and its messages need no order.
    fn forget(&mut self, node: &NodeName) {
        if self.publishers.remove(node).is_none() {
            return;
        }
        let here = |state: &State| state.own.contains_key(node) || state.heard.contains_key(node);
        let topics: Vec<_> =
            self.topics.iter().filter(|(_, state)| here(state)).map(|(topic, _)| topic.clone()).collect();
        for topic in topics {
            if let Some(state) = self.topics.get_mut(&topic) {
                state.heard.remove(node);
                let former = state.own.remove(node);
                former.iter().for_each(|former| self.account(node, |retained| retained.minus(former)));
            }
            self.tidy(topic.as_str());
        }
    }

    fn drop_value(&mut self, node: &NodeName, topic: &str) {
        let Some(state) = self.topics.get_mut(topic) else { return };
        let ranked = state.ranked.take_if(|message| message.publisher.node == *node);
        let dropped = state.own.remove(node);
        dropped
            .iter()
            .chain(&ranked)
            .for_each(|former| self.account(node, |retained| retained.minus(former)));
    }

    /// Forgets a topic on which nobody listens, nothing is kept, and this node never said a word.
    fn tidy(&mut self, topic: &str) {
        let Some(state) = self.topics.get_mut(topic) else { return };
        if state.is_idle() {
            state.heard.clear();
            if state.said.1 == 0 {
                self.topics.remove(topic);
            }
        }
    }

    fn lose_count(&mut self) {
        self.topics.retain(|_, state| !state.is_idle());
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
