//! Many memberships in one seeded world: sessions, delays, losses, crashes and freezes in virtual time.
//!
//! A session is an ordered stream, as the transport's are. Whoever is to be dialled is dialled until it is
//! forgotten; a crash ends its sessions at once, a cut is noticed after `CUT_NOTICED`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::swim::Chance;
use super::{Config, Effect, Membership, State, View};
use crate::cluster::member::{NodeInfo, WEIGHT_DEFAULT};
use crate::ids::{Boot, NodeBoot, NodeName};
use crate::time::Moment;
use crate::wire::PROTOCOL;

/// How long after a cut both sides' sessions end.
pub(super) const CUT_NOTICED: Duration = Duration::from_secs(1);
const REDIAL: Duration = Duration::from_millis(200);

pub(super) fn name(at: usize) -> NodeName {
    NodeName::new(&format!("node-{at:04}")).unwrap()
}

pub(super) fn info(at: usize, boot: u64) -> NodeInfo {
    NodeInfo {
        id: NodeBoot::new(name(at), Boot(boot)),
        address: format!("10.0.{}.{}:7100", at / 256, at % 256),
        http: Some(format!("10.0.{}.{}:8100", at / 256, at % 256)),
        zone: None,
        weight: WEIGHT_DEFAULT,
        services: vec!["kv".into()],
        protocol: PROTOCOL,
    }
}

pub(super) struct World {
    pub(super) now: Moment,
    pub(super) config: Config,
    /// Of a thousand packets, so many are lost.
    pub(super) loss: u64,
    pub(super) packets: u64,
    chance: Chance,
    nodes: BTreeMap<usize, Node>,
    sessions: BTreeSet<(usize, usize)>,
    cuts: BTreeSet<(usize, usize)>,
    /// When the last packet of each direction arrives: streams keep their order.
    arrivals: BTreeMap<(usize, usize), Moment>,
    queue: BTreeMap<(Moment, u64), Event>,
    queued: u64,
    /// Each time that a node was first held for down: who held whom.
    pub(super) alarms: Vec<(Moment, usize, NodeBoot)>,
}

struct Node {
    law: Membership,
    boot: u64,
    dialled: BTreeSet<usize>,
    frozen_until: Moment,
    view: Arc<View>,
}

enum Event {
    Wake { node: usize, boot: u64 },
    Packet { from: usize, to: usize, boots: (u64, u64), packet: Bytes },
    Dial { from: usize, boot: u64, to: usize },
    Up { node: usize, boot: u64, peer: usize, peer_boot: u64 },
    Down { node: usize, peer: usize, peer_boot: u64 },
    CutNoticed { pair: (usize, usize) },
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            now: Moment::from_millis(3_600_000),
            config: Config::default(),
            loss: 0,
            packets: 0,
            chance: Chance(seed),
            nodes: BTreeMap::new(),
            sessions: BTreeSet::new(),
            cuts: BTreeSet::new(),
            arrivals: BTreeMap::new(),
            queue: BTreeMap::new(),
            queued: 0,
            alarms: Vec::new(),
        }
    }

    /// A process starts; it dials its seeds for ever.
    pub(super) fn start(&mut self, at: usize, boot: u64, seeds: &[usize]) {
        let seed = self.chance.draw();
        let (law, effects) =
            Membership::new(self.config.clone(), info(at, boot), None, seed, self.now).unwrap();
        let view = law.view().clone();
        assert_eq!(view.live_nodes(), [name(at)], "alone, and never empty");
        let node = Node { law, boot, dialled: BTreeSet::new(), frozen_until: Moment::ZERO, view };
        self.nodes.insert(at, node);
        self.run_effects(at, effects);
        seeds.iter().for_each(|seed| self.dial(at, *seed));
    }

    /// `kill -9`: the operating system closes its connections.
    pub(super) fn kill(&mut self, at: usize) {
        self.end_sessions_of(at);
        self.nodes.remove(&at);
    }

    fn end_sessions_of(&mut self, at: usize) {
        let pairs: Vec<_> = self.sessions.iter().filter(|(a, b)| *a == at || *b == at).copied().collect();
        pairs.into_iter().for_each(|pair| self.end_session(pair));
    }

    fn end_session(&mut self, (a, b): (usize, usize)) {
        if self.sessions.remove(&(a, b)) {
            for (node, peer) in [(a, b), (b, a)] {
                let peer_boot = self.boot(peer);
                let at = self.arrival(node, peer);
                self.push(at, Event::Down { node, peer, peer_boot });
            }
        }
    }

    pub(super) fn leave(&mut self, at: usize) {
        let effects = self.nodes.get_mut(&at).unwrap().law.handle_leave(self.now);
        self.run_effects(at, effects);
    }

    /// `SIGSTOP`, and `SIGCONT` later.
    pub(super) fn freeze(&mut self, at: usize, until: Moment) {
        self.nodes.get_mut(&at).unwrap().frozen_until = until;
    }

    pub(super) fn cut(&mut self, a: usize, b: usize) {
        let pair = (a.min(b), a.max(b));
        self.cuts.insert(pair);
        self.push(self.now + CUT_NOTICED, Event::CutNoticed { pair });
    }

    pub(super) fn heal(&mut self) {
        self.cuts.clear();
    }

    pub(super) fn law(&mut self, at: usize) -> &mut Membership {
        &mut self.nodes.get_mut(&at).unwrap().law
    }

    pub(super) fn effects(&mut self, at: usize, effects: Vec<Effect>) {
        self.run_effects(at, effects);
    }

    pub(super) fn view(&self, at: usize) -> &View {
        &self.nodes[&at].view
    }

    pub(super) fn sessions(&self) -> usize {
        self.sessions.len()
    }

    /// Whether each running node holds exactly the running nodes for alive, in their present runs.
    pub(super) fn converged(&self) -> bool {
        let running: Vec<_> =
            self.nodes.iter().map(|(at, node)| NodeBoot::new(name(*at), Boot(node.boot))).collect();
        self.nodes.values().all(|node| {
            let mut alive = node.view.alive().map(super::Seen::id);
            running.iter().all(|id| alive.next() == Some(id)) && alive.next().is_none()
        })
    }

    /// Runs until `done`, asked each millisecond, at most for `limit`; how long it took.
    pub(super) fn run_until(
        &mut self,
        limit: Duration,
        mut done: impl FnMut(&Self) -> bool,
    ) -> Option<Duration> {
        let start = self.now;
        while self.now.since(start) < limit {
            if done(self) {
                return Some(self.now.since(start));
            }
            self.run_for(Duration::from_millis(1));
        }
        None
    }

    pub(super) fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        while self.queue.first_key_value().is_some_and(|((at, _), _)| *at <= end) {
            self.step();
        }
        self.now = end;
    }

    fn step(&mut self) {
        let Some(((at, _), event)) = self.queue.pop_first() else { return };
        self.now = at;
        match event {
            Event::Wake { node, boot } => {
                if let Some(until) = self.frozen(node) {
                    return self.push(until, Event::Wake { node, boot });
                }
                self.tell(node, boot, Membership::handle_timer);
            }
            Event::Packet { from, to, boots, packet } => {
                if let Some(until) = self.frozen(to) {
                    return self.push(until, Event::Packet { from, to, boots, packet });
                }
                self.tell(to, boots.1, |law, now| {
                    // A session that ended meanwhile is the only reason to refuse.
                    law.handle_packet(now, &name(from), &packet).unwrap_or_default()
                });
            }
            Event::Dial { from, boot, to } => self.connect(from, boot, to),
            Event::Up { node, boot, peer, peer_boot } => {
                if let Some(until) = self.frozen(node) {
                    return self.push(until, Event::Up { node, boot, peer, peer_boot });
                }
                self.tell(node, boot, |law, now| law.handle_session_up(now, &info(peer, peer_boot)));
            }
            Event::Down { node, peer, peer_boot } => {
                if let Some(until) = self.frozen(node) {
                    return self.push(until, Event::Down { node, peer, peer_boot });
                }
                let gone = NodeBoot::new(name(peer), Boot(peer_boot));
                self.tell(node, self.boot(node), |law, now| law.handle_session_down(now, &gone));
            }
            Event::CutNoticed { pair } => {
                if self.cuts.contains(&pair) {
                    self.end_session(pair);
                }
            }
        }
    }

    fn tell(&mut self, at: usize, boot: u64, news: impl FnOnce(&mut Membership, Moment) -> Vec<Effect>) {
        let now = self.now;
        let Some(node) = self.nodes.get_mut(&at).filter(|node| node.boot == boot) else { return };
        let effects = news(&mut node.law, now);
        self.run_effects(at, effects);
    }

    fn run_effects(&mut self, at: usize, effects: Vec<Effect>) {
        let boot = self.boot(at);
        for effect in effects {
            match effect {
                Effect::Send { to, packet } => self.send(at, &to, packet),
                Effect::WakeAt(moment) => self.push(moment.max(self.now), Event::Wake { node: at, boot }),
                Effect::ViewChanged(view) => self.look(at, view),
                Effect::Dial { node, .. } => self.dial(at, number(&node)),
                Effect::Forget { node } => {
                    self.nodes.get_mut(&at).unwrap().dialled.remove(&number(&node));
                }
            }
        }
    }

    fn look(&mut self, at: usize, view: Arc<View>) {
        let node = self.nodes.get_mut(&at).unwrap();
        assert!(view.nodes.is_sorted_by(|a, b| a.name() < b.name()), "sorted and unique");
        assert!(view.is_alive(&NodeBoot::new(name(at), Boot(node.boot))), "always with itself");
        assert!(view.number > node.view.number);
        for seen in view.nodes.iter().filter(|seen| seen.state == State::Down) {
            if node.view.is_alive(seen.id()) {
                self.alarms.push((self.now, at, seen.id().clone()));
            }
        }
        node.view = view;
    }

    fn send(&mut self, from: usize, to: &NodeName, packet: Bytes) {
        let to = number(to);
        let pair = (from.min(to), from.max(to));
        if !self.sessions.contains(&pair) {
            return;
        }
        self.packets += 1;
        if self.cuts.contains(&pair) || self.chance.below(1000) < self.loss {
            return;
        }
        let (at, boots) = (self.arrival(from, to), (self.boot(from), self.boot(to)));
        self.push(at, Event::Packet { from, to, boots, packet });
    }

    fn arrival(&mut self, from: usize, to: usize) -> Moment {
        let delay = Duration::from_micros(200 + self.chance.below(2000));
        let last = self.arrivals.entry((from, to)).or_insert(Moment::ZERO);
        *last = (*last).max(self.now + delay);
        *last
    }

    fn dial(&mut self, from: usize, to: usize) {
        let boot = self.boot(from);
        if self.nodes.get_mut(&from).unwrap().dialled.insert(to) {
            self.push(self.now, Event::Dial { from, boot, to });
        }
    }

    fn connect(&mut self, from: usize, boot: u64, to: usize) {
        let wanted = |node: &Node| node.boot == boot && node.dialled.contains(&to);
        if !self.nodes.get(&from).is_some_and(wanted) {
            return;
        }
        let pair = (from.min(to), from.max(to));
        let reachable =
            !self.cuts.contains(&pair) && self.frozen(to).is_none() && self.frozen(from).is_none();
        if reachable && from != to && self.nodes.contains_key(&to) && self.sessions.insert(pair) {
            let peer_boot = self.boot(to);
            let here = self.arrival(to, from);
            self.push(here, Event::Up { node: from, boot, peer: to, peer_boot });
            let there = self.arrival(from, to);
            self.push(there, Event::Up { node: to, boot: peer_boot, peer: from, peer_boot: boot });
        }
        self.push(self.now + REDIAL, Event::Dial { from, boot, to });
    }

    fn frozen(&self, at: usize) -> Option<Moment> {
        self.nodes.get(&at).map(|node| node.frozen_until).filter(|until| *until > self.now)
    }

    fn boot(&self, at: usize) -> u64 {
        self.nodes.get(&at).map_or(0, |node| node.boot)
    }

    fn push(&mut self, at: Moment, event: Event) {
        self.queued += 1;
        self.queue.insert((at, self.queued), event);
    }
}

fn number(name: &NodeName) -> usize {
    name.as_str().trim_start_matches("node-").parse().unwrap()
}
