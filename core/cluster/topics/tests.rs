use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::ids::Boot;

fn id(at: usize, boot: u64) -> NodeBoot {
    NodeBoot::new(NodeName::new(&format!("node-{at}")).unwrap(), Boot(boot))
}

fn topic(name: &str) -> Topic {
    Topic::new(name).unwrap()
}

fn body(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

/// Some nodes, each with a session with each, whose packets arrive at once, except over links that are full.
struct Net {
    nodes: Vec<(NodeBoot, Topics)>,
    full: BTreeSet<(usize, usize)>,
    inbox: BTreeMap<(usize, SubscriberId), Vec<Event>>,
    wakes: BTreeSet<usize>,
    now: Moment,
}

impl Net {
    fn new(count: usize) -> Self {
        let node = |at| (id(at, 1), Topics::new(Config::default(), id(at, 1), 1));
        let nodes = (0..count).map(node).collect();
        let (full, inbox, wakes) = (BTreeSet::new(), BTreeMap::new(), BTreeSet::new());
        let mut net = Self { nodes, full, inbox, wakes, now: Moment::ZERO };
        for a in 0..count {
            (0..count).filter(|b| a != *b).for_each(|b| net.connect_one_way(a, b));
        }
        net
    }

    fn connect_one_way(&mut self, at: usize, peer: usize) {
        let peer = self.nodes[peer].0.clone();
        let effects = self.nodes[at].1.handle_session_up(&peer);
        self.run(at, effects);
    }

    fn disconnect(&mut self, a: usize, b: usize) {
        for (at, peer) in [(a, b), (b, a)] {
            let peer = self.nodes[peer].0.clone();
            self.nodes[at].1.handle_session_down(&peer);
        }
    }

    /// A node's pubsub, or its whole process, starts anew.
    fn restart(&mut self, at: usize, boot: u64, life: u64) {
        self.nodes[at] = (id(at, boot), Topics::new(Config::default(), id(at, boot), life));
        for peer in (0..self.nodes.len()).filter(|peer| *peer != at) {
            self.connect_one_way(at, peer);
        }
    }

    fn publish(&mut self, at: usize, on: &str, keep: Keep, text: &str) -> Result<(), PublishError> {
        let effects = self.nodes[at].1.handle_publish(&topic(on), keep, body(text))?;
        self.run(at, effects);
        Ok(())
    }

    fn subscribe(&mut self, at: usize, subscriber: u64, on: &str) {
        let effects = self.nodes[at].1.handle_subscribe(SubscriberId(subscriber), &topic(on));
        self.run(at, effects);
    }

    /// What a subscriber got since it was last asked: texts, and `~n` where n are missed.
    fn heard(&mut self, at: usize, subscriber: u64) -> Vec<String> {
        let events = self.inbox.remove(&(at, SubscriberId(subscriber))).unwrap_or_default();
        let text = |event: &Event| match event {
            Event::Said(message) => String::from_utf8(message.body.to_vec()).unwrap(),
            Event::Missed { count, .. } => format!("~{count}"),
        };
        events.iter().map(text).collect()
    }

    fn tick(&mut self) {
        self.now += Duration::from_millis(20);
        for at in std::mem::take(&mut self.wakes) {
            let effects = self.nodes[at].1.handle_timer(self.now);
            self.run(at, effects);
        }
    }

    fn run(&mut self, at: usize, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Deliver { to, event } => self.inbox.entry((at, to)).or_default().push(event),
                Effect::WakeAt(_) => drop(self.wakes.insert(at)),
                Effect::Send { to, topic, packet } => self.send(at, &to, topic.as_ref(), &packet),
                Effect::Broadcast { topic, packet } => {
                    let peers: Vec<_> = self.nodes[at].1.sessions.keys().cloned().collect();
                    peers.iter().for_each(|to| self.send(at, to, Some(&topic), &packet));
                }
            }
        }
    }

    fn send(&mut self, from: usize, to: &NodeName, topic: Option<&Topic>, packet: &Bytes) {
        let at = self.nodes.iter().position(|(id, _)| id.node == *to).unwrap();
        if self.full.contains(&(from, at)) {
            if let Some(topic) = topic {
                let effects = self.nodes[from].1.handle_unsent(self.now, to, topic);
                self.run(from, effects);
            }
            return;
        }
        let from = self.nodes[from].0.clone();
        let effects = self.nodes[at].1.handle_packet(&from, packet).unwrap();
        self.run(at, effects);
    }
}

#[test]
fn all_subscribers_hear_all_in_order_and_others_nothing() {
    let mut net = Net::new(3);
    net.subscribe(0, 1, "t");
    net.subscribe(1, 1, "t");
    net.subscribe(1, 2, "t");
    net.subscribe(2, 1, "other");
    for text in ["a", "b", "c"] {
        net.publish(0, "t", Keep::No, text).unwrap();
    }
    let local = net.nodes[1].1.handle_publish_local(&topic("t"), body("here")).unwrap();
    assert_eq!(local.len(), 2, "two subscribers here, and nobody else");
    for (at, subscriber) in [(0, 1), (1, 1), (1, 2)] {
        assert_eq!(net.heard(at, subscriber), ["a", "b", "c"]);
    }
    assert!(net.heard(2, 1).is_empty());
    net.nodes[1].1.handle_unsubscribe(SubscriberId(2));
    net.publish(2, "t", Keep::No, "d").unwrap();
    assert_eq!((net.heard(1, 1), net.heard(1, 2)), (vec!["d".to_owned()], vec![]));
    assert_eq!((net.nodes[1].1.subscribers(&topic("t")), net.nodes[2].1.subscribers(&topic("t"))), (1, 0));
}

#[test]
fn who_comes_late_gets_the_current_value_first_and_then_each_in_order() {
    let mut net = Net::new(2);
    net.publish(0, "t", Keep::Own, "old").unwrap();
    net.publish(0, "t", Keep::Own, "current").unwrap();
    net.subscribe(1, 1, "t");
    net.publish(0, "t", Keep::Own, "next").unwrap();
    net.publish(0, "t", Keep::No, "by the way").unwrap();
    assert_eq!(net.heard(1, 1), ["current", "next", "by the way"]);
    net.subscribe(1, 2, "t");
    assert_eq!(net.heard(1, 2), ["next"]);
    net.full.insert((0, 1));
    let effects = net.nodes[0].1.handle_release(&topic("t"));
    net.run(0, effects);
    net.full.clear();
    net.tick();
    net.subscribe(1, 3, "t");
    net.subscribe(0, 3, "t");
    assert!(net.heard(1, 3).is_empty() && net.heard(0, 3).is_empty());
}

#[test]
fn a_new_session_brings_what_the_other_retains() {
    let mut net = Net::new(2);
    net.subscribe(1, 1, "t");
    net.disconnect(0, 1);
    net.publish(0, "t", Keep::Own, "one").unwrap();
    net.publish(0, "t", Keep::Own, "two").unwrap();
    assert!(net.heard(1, 1).is_empty());
    net.connect_one_way(0, 1);
    assert_eq!(net.heard(1, 1), ["two"]);
    // The session breaks, and nothing was said meanwhile: nothing is heard twice.
    net.disconnect(0, 1);
    net.subscribe(1, 2, "t");
    net.connect_one_way(0, 1);
    assert_eq!((net.heard(1, 1), net.heard(1, 2)), (vec![], vec!["two".to_owned()]));
}

#[test]
fn what_is_lost_is_counted_and_what_is_retained_is_repaired() {
    let mut net = Net::new(2);
    net.subscribe(1, 1, "t");
    net.publish(0, "t", Keep::No, "a").unwrap();
    net.full.insert((0, 1));
    for text in ["b", "c"] {
        net.publish(0, "t", Keep::No, text).unwrap();
    }
    net.full.clear();
    net.publish(0, "t", Keep::No, "d").unwrap();
    assert_eq!(net.heard(1, 1), ["a", "~2", "d"]);

    net.full.insert((0, 1));
    for text in ["e", "f", "g"] {
        net.publish(0, "t", Keep::Own, text).unwrap();
    }
    net.tick();
    net.tick();
    assert!(net.heard(1, 1).is_empty());
    net.full.clear();
    net.tick();
    assert_eq!(net.heard(1, 1), ["g"], "the newest repairs all");
    net.tick();
    assert!(net.heard(1, 1).is_empty() && net.wakes.is_empty());
}

#[test]
fn old_news_and_doubles_are_dropped() {
    let mut a = Topics::new(Config::default(), id(0, 1), 1);
    let mut b = Topics::new(Config::default(), id(1, 1), 1);
    b.handle_subscribe(SubscriberId(1), &topic("t"));
    let say = |law: &mut Topics, text: &str| {
        let effects = law.handle_publish(&topic("t"), Keep::No, body(text)).unwrap();
        let [Effect::Broadcast { packet, .. }] = &effects[..] else { panic!("{effects:?}") };
        packet.clone()
    };
    let packets: Vec<_> = ["x", "y"].map(|text| say(&mut a, text)).into();
    assert_eq!(b.handle_packet(&id(0, 1), &packets[0]).unwrap().len(), 1);
    assert_eq!(b.handle_packet(&id(0, 1), &packets[0]).unwrap(), []);
    assert_eq!(b.handle_packet(&id(0, 1), &packets[1]).unwrap().len(), 1);
    assert_eq!(b.handle_packet(&id(0, 1), &packets[0]).unwrap(), []);
    // A new life numbers anew; its former life is not listened to any more.
    let mut a = Topics::new(Config::default(), id(0, 1), 2);
    assert_eq!(b.handle_packet(&id(0, 1), &say(&mut a, "z")).unwrap().len(), 1);
    assert_eq!(b.handle_packet(&id(0, 1), &packets[1]).unwrap(), []);
    assert!(b.handle_packet(&id(1, 7), &packets[1]).is_err(), "nobody else has this name");
}

#[test]
fn the_current_values_of_who_is_gone_are_gone() {
    let mut net = Net::new(3);
    net.publish(0, "t", Keep::Own, "zero").unwrap();
    net.publish(1, "t", Keep::Own, "one").unwrap();
    net.subscribe(2, 1, "t");
    assert_eq!(net.heard(2, 1), ["zero", "one"]);
    net.nodes[2].1.handle_view(|_| Presence::Gone);
    assert_eq!(net.nodes[2].1.current(&topic("t")).count(), 2, "they have sessions");
    net.disconnect(0, 2);
    net.nodes[2].1.handle_view(|_| Presence::Alive);
    assert_eq!(net.nodes[2].1.current(&topic("t")).count(), 2, "it is held for alive");
    net.nodes[2].1.handle_view(|_| Presence::Gone);
    assert_eq!(net.nodes[2].1.current(&topic("t")).count(), 1);
    assert!(!net.nodes[2].1.retained.contains_key(&id(0, 1).node));
    net.connect_one_way(0, 2);
    assert_eq!(net.heard(2, 1), ["zero"], "who is back is current again");
    net.disconnect(0, 2);
    net.nodes[2].1.handle_view(|_| Presence::Unknown);
    assert!(!net.nodes[2].1.publishers.contains_key(&id(0, 1).node));

    // A new run, or a new life in the same run, begins with nothing.
    net.restart(1, 1, 2);
    assert_eq!(net.nodes[2].1.current(&topic("t")).count(), 0);
    net.restart(0, 2, 1);
    net.publish(0, "t", Keep::Own, "anew").unwrap();
    assert_eq!(net.heard(2, 1), ["anew"]);
}

#[test]
fn the_cluster_has_one_ranked_value_and_it_never_goes_back() {
    let mut net = Net::new(3);
    (0..3).for_each(|at| net.subscribe(at, 1, "plans"));
    net.publish(0, "plans", Keep::Ranked(5), "v5 by 0").unwrap();
    net.disconnect(0, 2);
    net.publish(1, "plans", Keep::Ranked(6), "v6 by 1").unwrap();
    assert_eq!(
        net.publish(1, "plans", Keep::Ranked(6), "again"),
        Err(PublishError::Outranked { current: 6 })
    );
    assert_eq!(
        net.publish(0, "plans", Keep::Ranked(4), "behind"),
        Err(PublishError::Outranked { current: 6 })
    );
    assert_eq!(net.heard(2, 1), ["v5 by 0", "v6 by 1"]);
    assert_eq!(net.heard(0, 1), ["v5 by 0", "v6 by 1"]);
    // The former leader comes back with what it had, and nobody goes back to it.
    net.connect_one_way(0, 2);
    assert!(net.heard(2, 1).is_empty());
    net.subscribe(0, 2, "plans");
    assert_eq!(net.heard(0, 2), ["v6 by 1"]);
    // It outlives its publisher.
    net.disconnect(1, 2);
    net.nodes[2].1.handle_view(|_| Presence::Gone);
    net.subscribe(2, 2, "plans");
    assert_eq!(net.heard(2, 2), ["v6 by 1"]);
    net.nodes[1].1.handle_release(&topic("plans"));
    net.publish(0, "plans", Keep::Ranked(7), "v7 by 0").unwrap();
    assert_eq!(net.nodes[2].1.retained.len(), 1, "only who retains is accounted for");
}

#[test]
fn memory_is_bounded() {
    let config =
        Config { retained_topics_max: 2, retained_bytes_max: 10, counted_max: 100, ..Config::default() };
    let mut law = Topics::new(config.clone(), id(0, 1), 1);
    law.handle_publish(&topic("a"), Keep::Own, body("12345")).unwrap();
    let full = PublishError::Full { topics: 2, bytes: 10 };
    assert_eq!(law.handle_publish(&topic("b"), Keep::Ranked(1), body("123456")), Err(full));
    law.handle_publish(&topic("a"), Keep::Own, body("1234567890")).unwrap();
    law.handle_publish(&topic("a"), Keep::Own, body("")).unwrap();
    law.handle_publish(&topic("b"), Keep::Ranked(1), body("")).unwrap();
    assert_eq!(law.handle_publish(&topic("c"), Keep::Own, body("")), Err(full));
    law.handle_release(&topic("a"));
    law.handle_publish(&topic("c"), Keep::Own, body("")).unwrap();
    let long = body(&"x".repeat(MESSAGE_LEN_MAX + 1));
    let error = law.handle_publish(&topic("d"), Keep::No, long).unwrap_err();
    assert_eq!(error, PublishError::TooLong { len: MESSAGE_LEN_MAX + 1 });
    for at in 0..1000 {
        law.handle_publish(&topic(&at.to_string()), Keep::No, body("")).unwrap();
        assert!(law.topics.len() <= 101);
    }

    // What others retain is bounded too, and what they merely say leaves no trace.
    let mut other = Topics::new(config, id(1, 1), 1);
    for at in 0..10 {
        for keep in [Keep::No, Keep::Own, Keep::Ranked(1)] {
            let name = topic(&format!("{at}{keep:?}"));
            let message = Message { topic: name, publisher: id(0, 1), number: 1, keep, body: body("") };
            let refused = other.handle_packet(&id(0, 1), &packet::said(1, 1, &message)).is_err();
            assert_eq!(refused, keep != Keep::No && other.retained[&id(0, 1).node].topics == 2 && at > 0);
        }
    }
    assert_eq!(other.topics.len(), 2);
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80), kind in 0_u8..4) {
        let mut law = Topics::new(Config::default(), id(0, 1), 1);
        law.handle_subscribe(SubscriberId(1), &topic("t"));
        let _ = law.handle_packet(&id(1, 1), &bytes.clone().into());
        let _ = law.handle_packet(&id(1, 1), &[&[kind][..], &bytes].concat().into());
    }

    /// Whatever links are full when, and whichever sessions break: nobody hears anything twice or out of order, what is
    /// not retained is heard or counted, and once all is well everybody has everybody's newest value.
    #[test]
    fn order_holds_through_losses(steps in proptest::collection::vec((0_usize..3, 0_usize..3, 0_u8..6), 1..60)) {
        let mut net = Net::new(3);
        (0..3).for_each(|at| { net.subscribe(at, 1, "said"); net.subscribe(at, 2, "kept"); });
        let mut said = [0_u64; 3];
        for (a, b, step) in steps {
            match step {
                0 | 1 => {
                    said[a] += 1;
                    let text = said[a].to_string();
                    net.publish(a, "said", Keep::No, &text).unwrap();
                    net.publish(a, "kept", Keep::Own, &text).unwrap();
                }
                2 if a != b => drop(net.full.insert((a, b))),
                3 => drop(net.full.remove(&(a, b))),
                4 if a != b => net.disconnect(a, b),
                5 if a != b => { net.connect_one_way(a, b); net.connect_one_way(b, a); }
                _ => net.tick(),
            }
        }
        net.full.clear();
        for a in 0..3 {
            (0..3).filter(|b| a != *b).for_each(|b| net.connect_one_way(a, b));
        }
        (0..2).for_each(|_| net.tick());
        for at in 0..3 {
            let kept = net.inbox.remove(&(at, SubscriberId(2))).unwrap_or_default();
            let heard = net.inbox.remove(&(at, SubscriberId(1))).unwrap_or_default();
            for (publisher, said) in said.iter().enumerate() {
                let of = |event: &&Event| match event {
                    Event::Said(message) => message.publisher == id(publisher, 1),
                    Event::Missed { publisher: whose, .. } => *whose == id(publisher, 1),
                };
                let values = kept.iter().filter(of).map(|event| match event {
                    Event::Said(message) => String::from_utf8(message.body.to_vec()).unwrap().parse::<u64>().unwrap(),
                    Event::Missed { .. } => panic!("a retained value is never told missed"),
                });
                let values: Vec<_> = values.collect();
                prop_assert!(values.is_sorted_by(|a, b| a < b), "{values:?}");
                prop_assert_eq!(values.last().copied().unwrap_or(0), *said);
                let mut at_number = None;
                for event in heard.iter().filter(of) {
                    at_number = match (event, at_number) {
                        (Event::Said(message), None) => Some(message.number),
                        (Event::Said(message), Some(last)) => { prop_assert_eq!(message.number, last + 1); Some(last + 1) }
                        (Event::Missed { count, .. }, last) => Some(last.unwrap_or(0) + count),
                    };
                }
            }
        }
    }
}
