//! What concerns other nodes: their sessions, the batches that go to them, and those that come.

use std::collections::BTreeSet;
use std::ops::Bound;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::line::{Batch, Key, Line};
use super::packet::{self, Answer, Entry, HEADER_LEN, Said};
use super::{Current, Effect, Event, Exchange, Heard, Listening, Message, PacketError, Peer};
use crate::cluster::topics::{Presence, Topic};
use crate::ids::{NodeBoot, NodeName};
use crate::names::Holder;
use crate::time::Moment;

impl Exchange {
    /// A session with a run of a node stands. It is told of everything here.
    pub fn handle_session_up(&mut self, peer: &NodeBoot, session: u64) -> Vec<Effect> {
        let mut effects = self.end_session(&peer.node);
        let is_other = |heard: &Heard| heard.by != *peer;
        for state in self.topics.values_mut() {
            // Another run of the node knows nothing of what the former one retained.
            if state.heard.get(&peer.node).is_some_and(is_other) {
                state.heard.remove(&peer.node);
            }
            if state.current.get(&peer.node).is_some_and(|it| it.value.publisher != *peer) {
                state.current.remove(&peer.node);
            }
        }
        self.streams += 1;
        let line = Line::new(self.streams, self.everything());
        let told = Peer {
            id: peer.clone(),
            session,
            line,
            stream: 0,
            next: 0,
            topics: BTreeSet::new(),
            members: BTreeSet::new(),
        };
        let due = told.line.is_due();
        self.peers.insert(peer.node.clone(), told);
        effects.extend(due.then(|| Effect::Ship(peer.node.clone())));
        effects
    }

    /// A session ended: nobody is reached there any more, and what was announced is gone with it. What that node retains stays
    /// current until [`Self::handle_view`] says that it is gone.
    pub fn handle_session_down(&mut self, peer: &NodeBoot, session: u64) -> Vec<Effect> {
        let is = self.peers.get(&peer.node).is_some_and(|it| it.session == session && it.id == *peer);
        if is { self.end_session(&peer.node) } else { Vec::new() }
    }

    /// What other nodes are there has changed, or a session ended. Whoever has none and is not held for alive is gone, and its
    /// current values with it; how far it was heard is forgotten only once nothing is known of that run of it.
    pub fn handle_view(&mut self, presence: impl Fn(&NodeBoot) -> Presence) {
        let peers = &self.peers;
        let presence = |id: &NodeBoot| {
            if peers.get(&id.node).is_some_and(|peer| peer.id == *id) {
                Presence::Alive
            } else {
                presence(id)
            }
        };
        for state in self.topics.values_mut() {
            state.current.retain(|_, it| presence(&it.value.publisher) == Presence::Alive);
            state.heard.retain(|_, heard| presence(&heard.by) != Presence::Unknown);
        }
    }

    fn end_session(&mut self, node: &NodeName) -> Vec<Effect> {
        let Some(mut peer) = self.peers.remove(node) else { return Vec::new() };
        self.forget_announced(&mut peer);
        let told = |ask| Effect::Told { ask, node: peer.id.clone(), count: None };
        peer.line.asks().into_iter().map(told).collect()
    }

    /// Nobody is known any more to listen there, or to be a member there.
    fn forget_announced(&mut self, peer: &mut Peer) {
        for topic in std::mem::take(&mut peer.topics) {
            self.forget_listening(&topic, &peer.id.node);
        }
        for (group, actor) in std::mem::take(&mut peer.members) {
            self.remove_member(&group, &Holder { node: peer.id.clone(), actor });
        }
    }

    fn forget_listening(&mut self, topic: &Topic, node: &NodeName) {
        let Some(state) = self.topics.get_mut(topic) else { return };
        state.listening.remove(node);
        if state.is_idle() && state.said.1 == 0 {
            self.topics.remove(topic);
        }
    }

    /// All that is announced by this node.
    fn everything(&self) -> BTreeSet<Key> {
        let heard = self.topics.iter().filter(|(_, state)| !state.subscribers.is_empty());
        let topics = heard.map(|(topic, _)| Key::Topic(topic.clone()));
        let own = self.groups.iter().flat_map(|(group, members)| {
            let own = members.iter().filter(|member| member.node == self.this);
            own.map(|member| Key::Member(group.clone(), member.actor))
        });
        topics.chain(own).collect()
    }

    /// Takes the next batch for a node, if there is one and none is under way: it is to be sent now, and
    /// [`Self::handle_answered`] or [`Self::handle_failed`] told what became of it.
    pub fn take_batch(&mut self, now: Moment, to: &NodeName) -> Option<Arc<Batch>> {
        self.settle(to);
        let Self { peers, topics, groups, this, config, .. } = self;
        let line = &mut peers.get_mut(to)?.line;
        if !line.is_due() {
            return None;
        }
        line.take(now, config.batch_len, |stream, number, changed| {
            let mut head = BytesMut::with_capacity(HEADER_LEN);
            packet::put_header(&mut head, stream, number);
            while head.len() < config.batch_len
                && let Some(key) = changed.pop_first()
            {
                match key {
                    Key::Topic(topic) => {
                        let state = topics.get(&topic);
                        let count = state.map_or(0, |state| state.subscribers.len());
                        let since = state.map_or(0, |state| state.since);
                        let count = u32::try_from(count).unwrap_or(u32::MAX);
                        packet::put_listens(&mut head, topic.as_str(), since, count);
                    }
                    Key::Member(group, actor) => {
                        let holder = Holder { node: this.clone(), actor };
                        let present = groups.get(&group).is_some_and(|members| members.contains(&holder));
                        packet::put_member(&mut head, &group, actor, present);
                    }
                }
            }
            head.freeze()
        })
    }

    /// A node answered a batch.
    pub fn handle_answered(&mut self, to: &NodeName, batch: (u64, u64), answer: &[u8]) -> Vec<Effect> {
        let mut effects = Vec::new();
        let Some(peer) = self.peers.get_mut(to) else { return effects };
        match Answer::read(answer) {
            Answer::Taken(counts) => {
                let Some(asked) = peer.line.handle_taken(batch) else { return effects };
                let counts = counts.into_iter().map(Some).chain(std::iter::repeat(None));
                let told = |(ask, count)| Effect::Told { ask, node: peer.id.clone(), count };
                effects.extend(asked.into_iter().zip(counts).map(told));
                self.settle(to);
                let due = self.peers.get(to).is_some_and(|peer| peer.line.is_due());
                effects.extend(due.then(|| Effect::Ship(to.clone())));
            }
            Answer::Anew => self.begin_anew(to, batch, &mut effects),
        }
        effects
    }

    /// A batch has no answer. `maybe`: the node may have taken it all the same.
    pub fn handle_failed(&mut self, to: &NodeName, batch: (u64, u64), maybe: bool) -> Vec<Effect> {
        let mut effects = Vec::new();
        let Some(peer) = self.peers.get_mut(to) else { return effects };
        if maybe {
            self.begin_anew(to, batch, &mut effects);
        } else if peer.line.handle_not_taken(batch) {
            effects.push(Effect::RetryAfter(to.clone(), self.config.retry_after));
        }
        effects
    }

    /// The time of an [`Effect::RetryAfter`] has come: what is to be sent once more.
    pub fn handle_retry(&mut self, now: Moment, to: &NodeName) -> Option<Arc<Batch>> {
        let again = self.peers.get_mut(to)?.line.handle_retry();
        again.or_else(|| self.take_batch(now, to))
    }

    fn begin_anew(&mut self, to: &NodeName, batch: (u64, u64), effects: &mut Vec<Effect>) {
        let everything = self.everything();
        let Some(peer) = self.peers.get_mut(to).filter(|peer| peer.line.is_under_way(batch)) else { return };
        self.streams += 1;
        self.counts.restarts += 1;
        peer.line.begin_anew(self.streams, everything);
        // A node that understands nothing is not to keep both busy.
        effects.push(Effect::RetryAfter(to.clone(), self.config.retry_after));
    }

    /// A batch came from a node. What it is answered.
    ///
    /// # Errors
    /// It makes no sense: what stood before that counts. The sender begins anew.
    pub fn handle_batch(
        &mut self,
        from: &NodeBoot,
        mut batch: Bytes,
    ) -> Result<(Bytes, Vec<Effect>), PacketError> {
        let mut effects = Vec::new();
        let (stream, number) = packet::read_header(&mut batch)?;
        let Some(peer) = self.peers.get_mut(&from.node).filter(|peer| peer.id == *from) else {
            return Ok((Answer::Anew.write(), effects));
        };
        if stream < peer.stream || (stream == peer.stream && number < peer.next) {
            // It was given up meanwhile, or is here a second time.
            return Ok((Answer::Taken(Vec::new()).write(), effects));
        }
        if stream > peer.stream {
            if number != 0 {
                return Ok((Answer::Anew.write(), effects));
            }
            if let Some(mut peer) = self.peers.remove(&from.node) {
                self.forget_announced(&mut peer);
                (peer.stream, peer.next) = (stream, 0);
                self.peers.insert(from.node.clone(), peer);
            }
        }
        let Some(peer) = self.peers.get_mut(&from.node).filter(|peer| peer.next == number) else {
            return Ok((Answer::Anew.write(), effects));
        };
        peer.next += 1;
        let mut counts = Vec::new();
        while let Some(entry) = packet::read_entry(&mut batch)? {
            match entry {
                Entry::Listens { topic, since, count } => {
                    self.handle_listens(from, &topic, since, count, &mut effects);
                }
                Entry::Member { group, actor, present } => {
                    let holder = Holder { node: from.clone(), actor };
                    let Some(peer) = self.peers.get_mut(&from.node) else { continue };
                    if present {
                        peer.members.insert((group.clone(), actor));
                        self.groups.entry(group).or_default().insert(holder);
                    } else {
                        peer.members.remove(&(group.clone(), actor));
                        self.remove_member(&group, &holder);
                    }
                }
                Entry::Said(said) => {
                    let asks = said.asks;
                    let count = self.handle_said(from, &said, &mut effects)?;
                    counts.extend(asks.then(|| u32::try_from(count).unwrap_or(u32::MAX)));
                }
                Entry::Stand { topic, retains, series, number } => {
                    self.handle_stand(from, &topic, retains, (series, number), &mut effects);
                }
            }
        }
        Ok((Answer::Taken(counts).write(), effects))
    }

    fn handle_listens(
        &mut self,
        from: &NodeBoot,
        topic: &str,
        since: u64,
        count: u32,
        effects: &mut Vec<Effect>,
    ) {
        let node = &from.node;
        let (Ok(topic), Some(peer)) = (Topic::new(topic), self.peers.get_mut(node)) else { return };
        if count == 0 {
            peer.topics.remove(&topic);
            self.forget_listening(&topic, node);
            return;
        }
        peer.topics.insert(topic.clone());
        let listening = &mut self.topics.entry(topic.clone()).or_default().listening;
        let former = listening.insert(node.clone(), Listening { since, count });
        if former.is_none_or(|former| former.since != since) {
            effects.extend(self.owe(&topic, std::slice::from_ref(node)));
        }
    }

    /// Something was said elsewhere: how many here listen.
    fn handle_said(
        &mut self,
        from: &NodeBoot,
        said: &Said,
        effects: &mut Vec<Effect>,
    ) -> Result<usize, PacketError> {
        self.counts.received += 1;
        let name = said.topic().ok_or(PacketError("a topic's name"))?;
        let from_here = (Bound::Included(name), Bound::Unbounded);
        let Some((topic, state)) = self.topics.range_mut::<str, _>(from_here).next() else { return Ok(0) };
        if topic.as_str() != name || state.subscribers.is_empty() {
            return Ok(0);
        }
        let count = state.subscribers.len();
        let known = state.heard.get_mut(&from.node).filter(|it| it.by == *from && it.series == said.series);
        let missed = match known {
            Some(heard) if said.number <= heard.number => None,
            Some(heard) => Some(said.number - std::mem::replace(&mut heard.number, said.number) - 1),
            // What it says of its current value tells nothing of what it said since: that follows.
            None if said.again => Some(0),
            None => {
                let heard = Heard { by: from.clone(), series: said.series, number: said.number };
                state.heard.insert(from.node.clone(), heard);
                Some(0)
            }
        };
        // Heard before, it may still be what is current: its node was held for gone in between.
        if missed.is_none() && !said.retained {
            return Ok(count);
        }
        let message = Arc::new(Message {
            topic: topic.clone(),
            publisher: from.clone(),
            retained: said.retained,
            body: said.body(),
        });
        if said.retained {
            let known = state.current.get(&from.node);
            let said = (said.series, said.number);
            if known.is_none_or(|it| it.value.publisher != *from || it.said.0 != said.0 || it.said.1 < said.1)
            {
                state.current.insert(from.node.clone(), Current { value: Arc::clone(&message), said });
            }
        }
        let Some(missed) = missed else { return Ok(count) };
        for to in &state.subscribers {
            if missed > 0 {
                let event = Event::Missed { publisher: from.clone(), count: missed };
                effects.push(Effect::Deliver { to: *to, event });
            }
            effects.push(Effect::Deliver { to: *to, event: Event::Said(Arc::clone(&message)) });
        }
        self.counts.delivered += count as u64;
        self.counts.missed += missed;
        Ok(count)
    }

    /// A node says how far it has said something, and whether it retains a value.
    fn handle_stand(
        &mut self,
        from: &NodeBoot,
        topic: &str,
        retains: bool,
        (series, number): (u64, u64),
        effects: &mut Vec<Effect>,
    ) {
        let Some(state) = self.topics.get_mut(topic).filter(|state| !state.subscribers.is_empty()) else {
            return;
        };
        if !retains {
            state.current.remove(&from.node);
        }
        let known = state.heard.get_mut(&from.node).filter(|it| it.by == *from && it.series == series);
        let Some(heard) = known else {
            if number > 0 {
                state.heard.insert(from.node.clone(), Heard { by: from.clone(), series, number });
            }
            return;
        };
        let missed = number.saturating_sub(heard.number);
        if missed > 0 {
            heard.number = number;
            self.counts.missed += missed;
            let event = Event::Missed { publisher: from.clone(), count: missed };
            let deliver = |to: &_| Effect::Deliver { to: *to, event: event.clone() };
            effects.extend(state.subscribers.iter().map(deliver));
        }
    }
}
