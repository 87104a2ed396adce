//! The users' own topics and groups: who listens where, who is a member of what, and what is sent to whom.
//!
//! ```text
//!  subscribe, join ──▶ announced to each peer, once a session and at each change ──▶ the peer knows whom it reaches here
//!  publish ──▶ number it ──▶ own subscribers
//!                  └───────▶ the lines of those peers that listen ──▶ old or twice? drop · a gap? say so ──▶ theirs
//! ```
//!
//! Order is per publisher and topic. What is lost on the way (a session broke, a line was full) is counted, and told as
//! [`Event::Missed`] before what comes next. A current value that a node retains is told to whoever begins to listen.
//!
//! What a peer announced holds for one session: it is gone with the session, and told anew by the next one. A batch of a session
//! that is over, or of an attempt that was given up, changes nothing.

mod line;
mod message;
mod packet;
mod peers;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;

pub use self::line::Batch;
use self::line::{Key, Line};
pub use self::message::{Config, Counts, Effect, Event, Message, Published, TopicSeen};
use self::packet::How;
pub use self::packet::PacketError;
use crate::cluster::topics::{MESSAGE_LEN_MAX, PublishError, SubscriberId, Topic};
use crate::ids::{NodeBoot, NodeName};
use crate::names::{Holder, Name};
use crate::time::Moment;

/// One node's part.
#[derive(Debug)]
pub struct Exchange {
    config: Config,
    this: NodeBoot,
    topics: BTreeMap<Topic, State>,
    groups: BTreeMap<Name, BTreeSet<Holder>>,
    subscribers: BTreeMap<SubscriberId, Topic>,
    peers: BTreeMap<NodeName, Peer>,
    /// Which attempt to tell a peer everything is the next one. All peers share the count.
    streams: u64,
    /// How often this node began to listen to some topic.
    interests: u64,
    /// How often it began to count on some topic.
    series: u64,
    retained: (usize, usize),
    counts: Counts,
}

#[derive(Debug, Default)]
struct State {
    subscribers: Vec<SubscriberId>,
    /// Which of this node's interests this is.
    since: u64,
    /// Series, and number of the last message that this node said here.
    said: (u64, u64),
    /// This node's current value, and which message it was.
    own: Option<(Arc<Message>, u64)>,
    /// The peers that listen.
    listening: BTreeMap<NodeName, Listening>,
    /// Other nodes' current values.
    current: BTreeMap<NodeName, Current>,
    /// Up to where others were heard.
    heard: BTreeMap<NodeName, Heard>,
}

/// Another node's current value, and which of its messages that is.
#[derive(Debug)]
struct Current {
    value: Arc<Message>,
    said: (u64, u64),
}

#[derive(Debug)]
struct Listening {
    since: u64,
    count: u32,
}

#[derive(Debug)]
struct Heard {
    by: NodeBoot,
    series: u64,
    number: u64,
}

/// A node with a session.
#[derive(Debug)]
struct Peer {
    id: NodeBoot,
    session: u64,
    line: Line,
    /// The stream that comes from it, and which batch of that is the next.
    stream: u64,
    next: u64,
    topics: BTreeSet<Topic>,
    members: BTreeSet<(Name, u64)>,
}

impl State {
    fn is_idle(&self) -> bool {
        self.subscribers.is_empty() && self.own.is_none() && self.listening.is_empty()
    }

    /// What a node that begins to listen is told first.
    fn opening(&self, topic: &Topic) -> impl Iterator<Item = Bytes> {
        let how = How { retained: true, again: true, asks: false };
        let value = self.own.as_ref();
        let again = value
            .map(|(value, number)| packet::said(topic.as_str(), how, (self.said.0, *number), &value.body));
        again.into_iter().chain([packet::stand(topic.as_str(), value.is_some(), self.said)])
    }
}

impl Exchange {
    /// The part of the node `this`, which has said nothing yet.
    pub fn new(config: Config, this: NodeBoot) -> Self {
        Self {
            config,
            this,
            topics: BTreeMap::new(),
            groups: BTreeMap::new(),
            subscribers: BTreeMap::new(),
            peers: BTreeMap::new(),
            streams: 0,
            interests: 0,
            series: 0,
            retained: (0, 0),
            counts: Counts::default(),
        }
    }

    /// This node says something to all who listen. `retain`: it is this node's current value from now on. `ask`: each node
    /// that it goes to says to how many it handed it, as [`Effect::Told`] with this number.
    ///
    /// # Errors
    /// It is too long, or retains too much. Nothing was said.
    pub fn handle_publish(
        &mut self,
        topic: &Topic,
        retain: bool,
        body: Bytes,
        ask: Option<u64>,
    ) -> Result<(Published, Vec<Effect>), PublishError> {
        self.check(topic, retain, &body)?;
        if self.topics.len() >= self.config.counted_max && !self.topics.contains_key(topic) {
            self.topics.retain(|_, state| !state.is_idle());
        }
        self.counts.published += 1;
        // What a node is owed comes first, or it would be older than what it has.
        let owing = |(_, peer): &(&NodeName, &Peer)| !peer.line.owed.is_empty();
        let owing: Vec<NodeName> = self.peers.iter().filter(owing).map(|(node, _)| node.clone()).collect();
        owing.iter().for_each(|node| self.settle(node));
        let state = self.topics.entry(topic.clone()).or_default();
        if state.said.1 == 0 {
            self.series += 1;
            state.said.0 = self.series;
        }
        state.said.1 += 1;
        let mut published = Published { local: state.subscribers.len(), ..Published::default() };
        let mut effects = Vec::with_capacity(state.subscribers.len() + state.listening.len());
        if !state.listening.is_empty() {
            let how = How { retained: retain, asks: ask.is_some(), again: false };
            let entry = packet::said(topic.as_str(), how, state.said, &body);
            for (node, listening) in &state.listening {
                let Some(peer) = self.peers.get_mut(node) else { continue };
                let was_due = peer.line.is_due();
                let sent = !peer.line.owed.contains(topic)
                    && peer.line.push(entry.clone(), ask, self.config.full_at);
                if sent {
                    published.remote += listening.count as usize;
                    published.nodes += 1;
                } else {
                    published.lost += listening.count as usize;
                    self.counts.lost += 1;
                    // A current value follows once there is room, and else how far it was said.
                    peer.line.owed.insert(topic.clone());
                    let told = ask.map(|ask| Effect::Told { ask, node: peer.id.clone(), count: None });
                    effects.extend(told);
                }
                if !was_due && peer.line.is_due() {
                    effects.push(Effect::Ship(node.clone()));
                }
            }
        }
        if state.subscribers.is_empty() && !retain {
            return Ok((published, effects));
        }
        let publisher = self.this.clone();
        let message = Arc::new(Message { topic: topic.clone(), publisher, retained: retain, body });
        for to in &state.subscribers {
            effects.push(Effect::Deliver { to: *to, event: Event::Said(Arc::clone(&message)) });
        }
        self.counts.delivered += state.subscribers.len() as u64;
        if retain {
            let former = state.own.replace((Arc::clone(&message), state.said.1));
            self.retained.0 += usize::from(former.is_none());
            self.retained.1 += message.body.len();
            self.retained.1 -= former.map_or(0, |(former, _)| former.body.len());
        }
        Ok((published, effects))
    }

    /// This node says something to its own subscribers only.
    ///
    /// # Errors
    /// It is too long.
    pub fn handle_publish_local(
        &mut self,
        topic: &Topic,
        body: Bytes,
    ) -> Result<(usize, Vec<Effect>), PublishError> {
        self.check(topic, false, &body)?;
        self.counts.published += 1;
        let Some(state) = self.topics.get(topic) else { return Ok((0, Vec::new())) };
        let publisher = self.this.clone();
        let message = Arc::new(Message { topic: topic.clone(), publisher, retained: false, body });
        let deliver =
            |to: &SubscriberId| Effect::Deliver { to: *to, event: Event::Said(Arc::clone(&message)) };
        self.counts.delivered += state.subscribers.len() as u64;
        Ok((state.subscribers.len(), state.subscribers.iter().map(deliver).collect()))
    }

    fn check(&self, topic: &Topic, retain: bool, body: &Bytes) -> Result<(), PublishError> {
        if body.len() > MESSAGE_LEN_MAX {
            return Err(PublishError::TooLong { len: body.len() });
        }
        if retain {
            let former = self.topics.get(topic).and_then(|state| state.own.as_ref());
            let topics = self.retained.0 + usize::from(former.is_none());
            let bytes = self.retained.1 + body.len() - former.map_or(0, |(former, _)| former.body.len());
            let (topics_max, bytes_max) = (self.config.retained_topics_max, self.config.retained_bytes_max);
            if topics > topics_max || bytes > bytes_max {
                return Err(PublishError::Full { topics: topics_max, bytes: bytes_max });
            }
        }
        Ok(())
    }

    /// This node has no current value on `topic` any more: who listens later gets none. Those who listen are not told.
    pub fn handle_release(&mut self, topic: &Topic) -> Vec<Effect> {
        let Some(state) = self.topics.get_mut(topic) else { return Vec::new() };
        let Some((former, _)) = state.own.take() else { return Vec::new() };
        self.retained.0 -= 1;
        self.retained.1 -= former.body.len();
        let nodes: Vec<NodeName> = state.listening.keys().cloned().collect();
        self.owe(topic, &nodes)
    }

    /// These nodes are to hear how it stands with a topic.
    fn owe(&mut self, topic: &Topic, nodes: &[NodeName]) -> Vec<Effect> {
        let mut effects = Vec::new();
        for node in nodes {
            let Some(peer) = self.peers.get_mut(node) else { continue };
            let was_due = peer.line.is_due();
            peer.line.owed.insert(topic.clone());
            self.settle(node);
            if !was_due && self.peers.get(node).is_some_and(|peer| peer.line.is_due()) {
                effects.push(Effect::Ship(node.clone()));
            }
        }
        effects
    }

    /// What a node is owed takes its place among the messages, as far as there is room.
    fn settle(&mut self, node: &NodeName) {
        let Some(Peer { line, .. }) = self.peers.get_mut(node) else { return };
        while line.len() < self.config.wait_at
            && let Some(topic) = line.owed.pop_first()
        {
            if let Some(state) = self.topics.get(&topic).filter(|state| state.listening.contains_key(node)) {
                state.opening(&topic).for_each(|entry| line.push_always(entry));
            }
        }
    }

    /// Until when whoever publishes on `topic` is to wait, at most: until all nodes that listen have taken enough of what they
    /// are sent. One that has not answered for long is not waited for.
    pub fn crowded_until(&self, topic: &Topic) -> Option<Moment> {
        let listening = self.topics.get(topic)?.listening.keys();
        let lines = listening.filter_map(|node| self.peers.get(node)).map(|peer| &peer.line);
        let crowded = lines.filter(|line| line.len() > self.config.wait_at);
        crowded.filter_map(Line::waits_since).max().map(|since| since + self.config.stalled_after)
    }

    /// The runs of other nodes that listen to a topic, sorted.
    pub fn listeners(&self, topic: &Topic) -> Vec<NodeBoot> {
        let nodes = self.topics.get(topic).into_iter().flat_map(|state| state.listening.keys());
        nodes.filter_map(|node| Some(self.peers.get(node)?.id.clone())).collect()
    }

    /// A subscriber listens from now on. It gets the current values first, in the order of their nodes, this one's last.
    pub fn handle_subscribe(&mut self, subscriber: SubscriberId, topic: &Topic) -> Vec<Effect> {
        let state = self.topics.entry(topic.clone()).or_default();
        if state.subscribers.is_empty() {
            self.interests += 1;
            state.since = self.interests;
        }
        state.subscribers.push(subscriber);
        self.subscribers.insert(subscriber, topic.clone());
        let current = state.current.values().map(|it| &it.value);
        let current = current.chain(state.own.as_ref().map(|(own, _)| own));
        let mut effects: Vec<Effect> = current
            .map(|value| Effect::Deliver { to: subscriber, event: Event::Said(Arc::clone(value)) })
            .collect();
        self.counts.delivered += effects.len() as u64;
        self.announce(&Key::Topic(topic.clone()), &mut effects);
        effects
    }

    /// A subscriber listens no more.
    pub fn handle_unsubscribe(&mut self, subscriber: SubscriberId) -> Vec<Effect> {
        let mut effects = Vec::new();
        let Some(topic) = self.subscribers.remove(&subscriber) else { return effects };
        let Some(state) = self.topics.get_mut(&topic) else { return effects };
        state.subscribers.retain(|one| *one != subscriber);
        if state.subscribers.is_empty() {
            state.current.clear();
            state.heard.clear();
        }
        if state.is_idle() && state.said.1 == 0 {
            self.topics.remove(&topic);
        }
        self.announce(&Key::Topic(topic), &mut effects);
        effects
    }

    /// An actor of this node is a member of a group from now on. `false`: it was before.
    pub fn handle_join(&mut self, group: &Name, actor: u64) -> (bool, Vec<Effect>) {
        let holder = Holder { node: self.this.clone(), actor };
        let news = self.groups.entry(group.clone()).or_default().insert(holder);
        let mut effects = Vec::new();
        if news {
            self.announce(&Key::Member(group.clone(), actor), &mut effects);
        }
        (news, effects)
    }

    /// An actor of this node is a member of a group no more. `false`: it was none.
    pub fn handle_leave(&mut self, group: &Name, actor: u64) -> (bool, Vec<Effect>) {
        let holder = Holder { node: self.this.clone(), actor };
        let news = self.remove_member(group, &holder);
        let mut effects = Vec::new();
        if news {
            self.announce(&Key::Member(group.clone(), actor), &mut effects);
        }
        (news, effects)
    }

    fn remove_member(&mut self, group: &Name, holder: &Holder) -> bool {
        let Some(members) = self.groups.get_mut(group) else { return false };
        let was = members.remove(holder);
        if members.is_empty() {
            self.groups.remove(group);
        }
        was
    }

    fn announce(&mut self, key: &Key, effects: &mut Vec<Effect>) {
        for (node, peer) in &mut self.peers {
            let was_due = peer.line.is_due();
            peer.line.changed.insert(key.clone());
            if !was_due && peer.line.is_due() {
                effects.push(Effect::Ship(node.clone()));
            }
        }
    }

    /// How many subscribers a topic has on this node.
    pub fn subscribers(&self, topic: &Topic) -> usize {
        self.topics.get(topic).map_or(0, |state| state.subscribers.len())
    }

    /// The members of a group on all nodes with a session, sorted by node and number.
    pub fn members(&self, group: &Name) -> impl Iterator<Item = &Holder> {
        self.groups.get(group).into_iter().flatten()
    }

    /// The groups that have members, and how many, sorted.
    pub fn groups(&self) -> impl Iterator<Item = (&Name, &BTreeSet<Holder>)> {
        self.groups.iter()
    }

    /// The topics that anybody is known to listen to, or to retain a value on, sorted.
    pub fn topics(&self) -> impl Iterator<Item = TopicSeen> {
        self.topics.iter().filter_map(|(topic, state)| {
            if state.is_idle() {
                return None;
            }
            let mut retained_by: Vec<NodeName> = state.current.keys().cloned().collect();
            retained_by.extend(state.own.is_some().then(|| self.this.node.clone()));
            retained_by.sort();
            let remote = state.listening.iter().map(|(node, it)| (node.clone(), it.count)).collect();
            Some(TopicSeen { topic: topic.clone(), local: state.subscribers.len(), remote, retained_by })
        })
    }

    /// What was counted.
    pub const fn counts(&self) -> Counts {
        self.counts
    }
}
