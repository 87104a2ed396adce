//! What is kept of what was said, for how long, and who hears of it.

use bytes::Bytes;

use super::packet::{PacketError, Said};
use super::{Effect, Event, Keep, MESSAGE_LEN_MAX, Message, PublishError, Retained, State, Topic, Topics};
use crate::ids::{NodeBoot, NodeName};

impl Topics {
    pub(super) fn check(&self, topic: &Topic, keep: Keep, body: &Bytes) -> Result<(), PublishError> {
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
    pub(super) fn meet(&mut self, from: &NodeBoot, life: u64) -> bool {
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

    pub(super) fn hear(&mut self, from: &NodeBoot, said: Said<'_>) -> Result<Vec<Effect>, PacketError> {
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
            let mut effects = Vec::new();
            // It was gone, its value with it, and it is back.
            if said.keep == Keep::Own && !state.own.contains_key(&from.node) {
                self.keep(&message);
                self.deliver(&mut effects, &topic, &Event::Said(message));
            }
            return Ok(effects);
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
    pub(super) fn keep(&mut self, message: &Message) -> bool {
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

    pub(super) fn deliver(&self, effects: &mut Vec<Effect>, topic: &Topic, event: &Event) {
        let listening = self.topics.get(topic).into_iter().flat_map(|state| &state.subscribers);
        effects.extend(listening.map(|to| Effect::Deliver { to: *to, event: event.clone() }));
    }

    /// A node is gone: its own current values are no more.
    pub(super) fn withdraw(&mut self, node: &NodeName) {
        let topics = self.topics_with(|state| state.own.contains_key(node));
        for topic in topics {
            let former = self.topics.get_mut(&topic).and_then(|state| state.own.remove(node));
            former.iter().for_each(|former| self.account(node, |retained| retained.minus(former)));
            self.tidy(topic.as_str());
        }
    }

    /// A node is known no more, or begins anew: its messages need no order either.
    pub(super) fn forget(&mut self, node: &NodeName) {
        if self.publishers.remove(node).is_none() {
            return;
        }
        self.withdraw(node);
        for topic in self.topics_with(|state| state.heard.contains_key(node)) {
            if let Some(state) = self.topics.get_mut(&topic) {
                state.heard.remove(node);
            }
            self.tidy(topic.as_str());
        }
    }

    fn topics_with(&self, has: impl Fn(&State) -> bool) -> Vec<Topic> {
        self.topics.iter().filter(|(_, state)| has(state)).map(|(topic, _)| topic.clone()).collect()
    }

    pub(super) fn drop_value(&mut self, node: &NodeName, topic: &str) {
        let Some(state) = self.topics.get_mut(topic) else { return };
        let ranked = state.ranked.take_if(|message| message.publisher.node == *node);
        let dropped = state.own.remove(node);
        dropped
            .iter()
            .chain(&ranked)
            .for_each(|former| self.account(node, |retained| retained.minus(former)));
    }

    /// Forgets a topic on which nobody listens, nothing is kept, and this node never said a word.
    pub(super) fn tidy(&mut self, topic: &str) {
        let Some(state) = self.topics.get_mut(topic) else { return };
        if state.is_idle() {
            state.heard.clear();
            if state.said.1 == 0 {
                self.topics.remove(topic);
            }
        }
    }

    pub(super) fn lose_count(&mut self) {
        self.topics.retain(|_, state| !state.is_idle());
    }
}
