//! Several nodes' parts side by side, with a network between them that the test is.

mod storm;

use std::collections::BTreeMap;

use super::*;
use crate::cluster::topics::Presence;
use crate::ids::Boot;

fn id(node: usize, boot: u64) -> NodeBoot {
    NodeBoot::new(NodeName::new(&format!("n{node}")).unwrap(), Boot(boot))
}

fn topic(name: &str) -> Topic {
    Topic::new(name).unwrap()
}

fn group(name: &str) -> Name {
    Name::new(name).unwrap()
}

const NOW: Moment = Moment::ZERO;

/// What one subscriber heard, as numbers that publishers count up.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Told {
    Said(NodeName, u64),
    Missed(NodeName, u64),
}

struct World {
    nodes: Vec<(NodeBoot, Exchange)>,
    config: Config,
    sessions: BTreeMap<(usize, usize), u64>,
    session: u64,
    /// Batches under way, oldest first.
    under_way: Vec<(usize, usize, NodeBoot, Arc<Batch>)>,
    resting: Vec<(usize, usize)>,
    told: BTreeMap<(usize, u64), Vec<Told>>,
    answers: Vec<(u64, NodeBoot, Option<u32>)>,
    subscribed: u64,
}

fn number(body: &Bytes) -> u64 {
    u64::from_le_bytes(body[..8].try_into().unwrap())
}

impl World {
    fn new(nodes: usize, config: &Config) -> Self {
        let nodes = (0..nodes).map(|n| (id(n, 1), Exchange::new(config.clone(), id(n, 1)))).collect();
        let mut world = Self {
            nodes,
            config: config.clone(),
            sessions: BTreeMap::new(),
            session: 0,
            under_way: Vec::new(),
            resting: Vec::new(),
            told: BTreeMap::new(),
            answers: Vec::new(),
            subscribed: 0,
        };
        world.meet_all();
        world
    }

    fn at(&self, name: &NodeName) -> usize {
        self.nodes.iter().position(|(id, _)| id.node == *name).unwrap()
    }

    fn run(&mut self, node: usize, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Deliver { to, event } => {
                    let told = match event {
                        Event::Said(said) => Told::Said(said.publisher.node.clone(), number(&said.body)),
                        Event::Missed { publisher, count } => Told::Missed(publisher.node, count),
                    };
                    self.told.entry((node, to.0)).or_default().push(told);
                }
                Effect::Ship(to) => {
                    if let Some(batch) = self.nodes[node].1.take_batch(NOW, &to) {
                        let (to, id) = (self.at(&to), self.nodes[node].0.clone());
                        self.under_way.push((node, to, id, batch));
                    }
                }
                Effect::RetryAfter(to, _) => {
                    let to = self.at(&to);
                    self.resting.push((node, to));
                }
                Effect::Told { ask, node, count } => self.answers.push((ask, node, count)),
            }
        }
    }

    fn up(&mut self, a: usize, b: usize) {
        let pair = (a.min(b), a.max(b));
        if a == b || self.sessions.contains_key(&pair) {
            return;
        }
        self.session += 1;
        self.sessions.insert(pair, self.session);
        for (one, other) in [(a, b), (b, a)] {
            let peer = self.nodes[other].0.clone();
            let effects = self.nodes[one].1.handle_session_up(&peer, self.session);
            self.run(one, effects);
        }
    }

    /// The session ends: what was under way is lost.
    fn down(&mut self, a: usize, b: usize) {
        let Some(session) = self.sessions.remove(&(a.min(b), a.max(b))) else { return };
        let between = |x: &(usize, usize, NodeBoot, Arc<Batch>)| (x.0, x.1) == (a, b) || (x.0, x.1) == (b, a);
        let lost: Vec<_> = self.under_way.extract_if(.., |it| between(it)).collect();
        for (one, other) in [(a, b), (b, a)] {
            let peer = self.nodes[other].0.clone();
            let effects = self.nodes[one].1.handle_session_down(&peer, session);
            self.run(one, effects);
        }
        for (from, to, _, batch) in lost {
            let to_name = self.nodes[to].0.node.clone();
            let effects = self.nodes[from].1.handle_failed(&to_name, batch.id(), true);
            self.run(from, effects);
        }
    }

    /// The node begins another life, which knows nothing.
    fn reboot(&mut self, node: usize) {
        for other in 0..self.nodes.len() {
            self.down(node, other);
        }
        let next = NodeBoot { boot: self.nodes[node].0.boot.next(), ..self.nodes[node].0.clone() };
        self.nodes[node] = (next.clone(), Exchange::new(self.config.clone(), next));
        self.resting.retain(|(from, _)| *from != node);
    }

    fn meet_all(&mut self) {
        for a in 0..self.nodes.len() {
            for b in 0..a {
                self.up(a, b);
            }
        }
    }

    /// The batch that has been under way longest between two nodes arrives, or its answer is lost, or it is not taken.
    fn step(&mut self, which: usize, fate: u8) {
        if self.under_way.is_empty() {
            return;
        }
        let (from, to, id, batch) = self.under_way.remove(which % self.under_way.len());
        let name = self.nodes[to].0.node.clone();
        let mut effects = Vec::new();
        if fate != 1 {
            let bytes: Vec<u8> = batch.pieces().flat_map(|piece| piece.iter().copied()).collect();
            let (answer, more) = self.nodes[to].1.handle_batch(&id, bytes.into()).unwrap();
            self.run(to, more);
            if fate == 0 {
                effects = self.nodes[from].1.handle_answered(&name, batch.id(), &answer);
            }
        }
        match fate {
            1 => effects = self.nodes[from].1.handle_failed(&name, batch.id(), false),
            2 => effects = self.nodes[from].1.handle_failed(&name, batch.id(), true),
            _ => {}
        }
        self.run(from, effects);
    }

    fn settle(&mut self) {
        loop {
            for (from, to) in std::mem::take(&mut self.resting) {
                let (to_name, id) = (self.nodes[to].0.node.clone(), self.nodes[from].0.clone());
                if let Some(batch) = self.nodes[from].1.handle_retry(NOW, &to_name) {
                    self.under_way.push((from, to, id, batch));
                }
            }
            if self.under_way.is_empty() && self.resting.is_empty() {
                return;
            }
            self.step(0, 0);
        }
    }

    fn subscribe(&mut self, node: usize, name: &str) -> u64 {
        self.subscribed += 1;
        let effects = self.nodes[node].1.handle_subscribe(SubscriberId(self.subscribed), &topic(name));
        self.run(node, effects);
        self.subscribed
    }

    fn unsubscribe(&mut self, node: usize, subscriber: u64) {
        let effects = self.nodes[node].1.handle_unsubscribe(SubscriberId(subscriber));
        self.run(node, effects);
    }

    fn say(&mut self, node: usize, name: &str, retain: bool, value: u64) -> Published {
        let body = Bytes::copy_from_slice(&value.to_le_bytes());
        let (published, effects) =
            self.nodes[node].1.handle_publish(&topic(name), retain, body, None).unwrap();
        self.run(node, effects);
        published
    }

    fn heard(&self, node: usize, subscriber: u64) -> Vec<Told> {
        self.told.get(&(node, subscriber)).cloned().unwrap_or_default()
    }
}

fn said(node: usize, value: u64) -> Told {
    Told::Said(id(node, 1).node, value)
}

fn missed(node: usize, count: u64) -> Told {
    Told::Missed(id(node, 1).node, count)
}

#[test]
fn only_nodes_that_listen_are_sent_to_and_all_who_listen_are_counted() {
    let mut world = World::new(4, &Config::default());
    let listeners =
        [(1, world.subscribe(1, "a")), (1, world.subscribe(1, "a")), (2, world.subscribe(2, "a"))];
    let own = world.subscribe(0, "a");
    let other = world.subscribe(3, "b");
    world.settle();
    let published = world.say(0, "a", false, 1);
    assert_eq!(published, Published { local: 1, remote: 3, nodes: 2, lost: 0 });
    assert_eq!(world.under_way.len(), 2, "the third listens to something else");
    world.settle();
    for (node, listener) in listeners.into_iter().chain([(0, own)]) {
        assert_eq!(world.heard(node, listener), [said(0, 1)]);
    }
    assert_eq!(world.heard(3, other), []);
    for (node, listener) in listeners {
        world.unsubscribe(node, listener);
    }
    world.settle();
    assert_eq!(world.say(0, "a", false, 2), Published { local: 1, ..Published::default() });
    assert!(world.under_way.is_empty());
    let body = Bytes::from_static(&[0; 8]);
    let (count, effects) = world.nodes[0].1.handle_publish_local(&topic("b"), body).unwrap();
    assert_eq!((count, effects.len()), (0, 0));
    assert_eq!(world.nodes[0].1.counts().published, 3);
}

#[test]
fn a_value_that_is_retained_comes_first_to_whoever_listens_later_and_once() {
    let mut world = World::new(2, &Config::default());
    world.say(0, "a", true, 1);
    world.say(0, "a", true, 2);
    world.say(0, "a", false, 3);
    let first = world.subscribe(1, "a");
    world.settle();
    let second = world.subscribe(1, "a");
    world.settle();
    world.say(0, "a", false, 4);
    world.settle();
    for listener in [first, second] {
        assert_eq!(world.heard(1, listener), [said(0, 2), said(0, 4)], "nothing is missed");
    }
    // A session that broke does not have it told twice, and what was said meanwhile is counted.
    world.down(0, 1);
    assert_eq!(world.say(0, "a", false, 5).remote, 0);
    let third = world.subscribe(1, "a");
    assert_eq!(world.heard(1, third), [said(0, 2)], "it is current here as long as its node is");
    world.up(0, 1);
    world.settle();
    assert_eq!(world.heard(1, first), [said(0, 2), said(0, 4), missed(0, 1)]);
    // Released, it is told to nobody any more; so if it was released while nobody could be told.
    world.down(0, 1);
    let effects = world.nodes[0].1.handle_release(&topic("a"));
    world.run(0, effects);
    world.up(0, 1);
    world.settle();
    let fourth = world.subscribe(1, "a");
    world.settle();
    assert_eq!(world.heard(1, fourth), []);
    // Who went away and is back hears the current value again.
    world.say(0, "a", true, 6);
    world.settle();
    world.unsubscribe(1, first);
    for listener in [second, third, fourth] {
        world.unsubscribe(1, listener);
    }
    let back = world.subscribe(1, "a");
    world.settle();
    assert_eq!(world.heard(1, back), [said(0, 6)]);
}

#[test]
fn what_a_node_retained_goes_with_it_and_another_life_of_it_counts_anew() {
    let mut world = World::new(3, &Config::default());
    let listener = world.subscribe(1, "a");
    world.settle();
    world.say(0, "a", true, 7);
    world.settle();
    world.down(0, 1);
    world.nodes[1].1.handle_view(|_| Presence::Alive);
    assert_eq!(world.nodes[1].1.topics().next().unwrap().retained_by, [id(0, 1).node]);
    world.nodes[1].1.handle_view(|_| Presence::Gone);
    assert_eq!(world.nodes[1].1.topics().next().unwrap().retained_by, []);
    // It was only away: what it said meanwhile is counted.
    world.say(0, "a", false, 8);
    world.up(0, 1);
    world.settle();
    assert_eq!(world.heard(1, listener), [said(0, 7), missed(0, 1)]);
    let late = world.subscribe(1, "a");
    assert_eq!(world.heard(1, late), [said(0, 7)], "and its value is current again");
    world.reboot(0);
    world.meet_all();
    world.settle();
    world.say(0, "a", false, 1);
    world.settle();
    assert_eq!(
        world.heard(1, listener),
        [said(0, 7), missed(0, 1), said(0, 1)],
        "a life that begins misses nothing"
    );
}

#[test]
fn members_are_known_everywhere_until_they_leave_or_their_node_goes() {
    let mut world = World::new(3, &Config::default());
    let crew = group("crew");
    for (node, actor) in [(0, 1), (1, 1), (1, 2), (2, 9)] {
        let (news, effects) = world.nodes[node].1.handle_join(&crew, actor);
        assert!(news);
        world.run(node, effects);
    }
    assert!(!world.nodes[1].1.handle_join(&crew, 2).0, "twice is once");
    world.settle();
    let holder = |node, actor| Holder { node: id(node, 1), actor };
    let members =
        |world: &World, node: usize| world.nodes[node].1.members(&crew).cloned().collect::<Vec<_>>();
    for node in 0..3 {
        assert_eq!(members(&world, node), [holder(0, 1), holder(1, 1), holder(1, 2), holder(2, 9)]);
    }
    let (news, effects) = world.nodes[1].1.handle_leave(&crew, 1);
    assert!(news && !world.nodes[1].1.handle_leave(&crew, 1).0);
    world.run(1, effects);
    world.settle();
    world.down(0, 2);
    assert_eq!(members(&world, 0), [holder(0, 1), holder(1, 2)]);
    assert_eq!(members(&world, 1), [holder(0, 1), holder(1, 2), holder(2, 9)]);
    world.reboot(2);
    world.meet_all();
    world.settle();
    assert_eq!(members(&world, 0), [holder(0, 1), holder(1, 2)], "another life has no members yet");
}

#[test]
fn a_node_that_takes_nothing_costs_so_much_and_no_more_and_hears_how_much_it_missed() {
    let config = Config { wait_at: 100, full_at: 400, ..Config::default() };
    let mut world = World::new(2, &config);
    let listener = world.subscribe(1, "a");
    world.settle();
    let sent = (1..=50).filter(|value| world.say(0, "a", false, *value).remote == 1).count();
    assert!((2..20).contains(&sent), "{sent}");
    let crowded = world.nodes[0].1.crowded_until(&topic("a"));
    assert_eq!(crowded, Some(NOW + config.stalled_after), "longer nobody waits for one that does not answer");
    assert_eq!(world.nodes[0].1.counts().lost as usize, 50 - sent);
    world.settle();
    let mut expected: Vec<Told> = (1..=sent as u64).map(|value| said(0, value)).collect();
    expected.push(missed(0, 50 - sent as u64));
    assert_eq!(world.heard(1, listener), expected);
    // A current value that found no room follows.
    for value in 51..=100 {
        world.say(0, "a", true, value);
    }
    world.settle();
    let heard = world.heard(1, listener);
    assert_eq!(heard.last(), Some(&said(0, 100)), "{heard:?}");
    assert!(matches!(heard[heard.len() - 2], Told::Missed(..)), "{heard:?}");
}

#[test]
fn whoever_asks_is_told_by_each_node_how_many_got_it_or_that_nobody_knows() {
    let mut world = World::new(4, &Config::default());
    for node in [1, 1, 2, 3] {
        world.subscribe(node, "a");
    }
    world.settle();
    let ask = |world: &mut World, number| {
        let body = Bytes::from_static(&[0; 8]);
        let told = world.nodes[0].1.handle_publish(&topic("a"), false, body, Some(number)).unwrap();
        world.run(0, told.1);
    };
    ask(&mut world, 7);
    world.down(0, 3);
    // One answer is lost: it is asked again, and heard once.
    world.step(0, 2);
    world.settle();
    world.answers.sort();
    assert_eq!(world.answers, [(7, id(1, 1), Some(2)), (7, id(2, 1), Some(1)), (7, id(3, 1), None)]);
    assert_eq!(world.told[&(1, 1)].len(), 1);
}

#[test]
fn what_is_old_changes_nothing() {
    let mut world = World::new(2, &Config::default());
    let (first, crew) = (world.subscribe(1, "a"), group("crew"));
    // A batch that is under way for long: the node listens.
    let (_, _, from, old) = world.under_way.pop().unwrap();
    let name = id(0, 1).node;
    let effects = world.nodes[1].1.handle_failed(&name, old.id(), true);
    world.run(1, effects);
    world.unsubscribe(1, first);
    let (_, effects) = world.nodes[1].1.handle_join(&crew, 4);
    world.run(1, effects);
    world.settle();
    let bytes: Vec<u8> = old.pieces().flat_map(|piece| piece.iter().copied()).collect();
    for from in [from, id(1, 0), id(5, 1)] {
        let (_, effects) = world.nodes[0].1.handle_batch(&from, bytes.clone().into()).unwrap();
        assert_eq!(effects, []);
    }
    assert_eq!(world.say(0, "a", false, 1).remote, 0, "it listens no more");
    assert_eq!(world.nodes[0].1.members(&crew).count(), 1);
    // Answers and failures of a batch that is none any more are no news either.
    assert_eq!(world.nodes[1].1.handle_answered(&name, old.id(), &[0]), []);
    assert_eq!(world.nodes[1].1.handle_failed(&name, old.id(), true), []);
    assert_eq!(world.nodes[1].1.handle_session_down(&id(0, 1), 999), []);
}

#[test]
fn bounds_are_kept_and_said() {
    let config = Config { retained_topics_max: 2, retained_bytes_max: 20, ..Config::default() };
    let mut law = Exchange::new(config, id(0, 1));
    let body = |len| Bytes::from(vec![0; len]);
    let too_long = law.handle_publish(&topic("a"), false, body(MESSAGE_LEN_MAX + 1), None);
    assert_eq!(too_long.unwrap_err(), PublishError::TooLong { len: MESSAGE_LEN_MAX + 1 });
    let mut retain = |name, len| law.handle_publish(&topic(name), true, body(len), None).map(drop);
    assert_eq!((retain("a", 8), retain("b", 8)), (Ok(()), Ok(())));
    let full = Err(PublishError::Full { topics: 2, bytes: 20 });
    assert_eq!((retain("c", 1), retain("a", 13), retain("a", 12)), (full, full, Ok(())));
    drop(law.handle_release(&topic("a")));
    assert!(law.handle_publish(&topic("c"), true, body(12), None).is_ok());
}
