//! A small world: the laws of several nodes over a seeded network on virtual time, with consensus played by its
//! contract (one committed state, one leader, unknown outcomes).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tumen_core::cluster::control::{Command, ControlState, Founding, Step};
use tumen_core::cluster::coordinator::{Config, Coordinator, Effect, Now};
use tumen_core::cluster::lease::{self, Holder, Release, Reply, Request};
use tumen_core::cluster::member::NodeInfo;
use tumen_core::cluster::snapshot::{GroupSpec, Mode, Snapshot};
use tumen_core::ids::*;
use tumen_core::partitioner::Partitioner;
use tumen_core::partitions::reconcile::{self, Reconcile};
use tumen_core::partitions::replication::{NotLost, Standing};
use tumen_core::{Moment, UnixMillis};

mod asks;
mod copies;

enum News {
    Request(Request),
    Reply(Reply),
    Plan(Arc<Snapshot>),
    AskRelease(Vec<Release>),
    /// The leader wants a partition given up for lost.
    AskSurrender(NodeBoot, PartitionId, Epoch),
    Surrendered(PartitionId, Epoch, Result<Standing, NotLost>),
    Stopped(PartitionId, Epoch),
    Wake,
    Tick,
    Probed(NodeBoot, bool),
    Committed(Option<tumen_core::cluster::control::Outcome>),
    Stepped,
    Control(ControlState),
    AskSteps(Vec<Step>),
    Copy,
    Ack(Term, Moment),
    PeerUp(NodeInfo),
    PeerDown(NodeBoot),
}

pub(crate) struct Node {
    pub(crate) info: NodeInfo,
    pub(crate) law: Coordinator,
    pub(crate) holder: Holder,
    pub(crate) reconcile: Reconcile,
    pub(crate) frozen_until: Option<Moment>,
    pub(crate) dead: bool,
    missed: Vec<News>,
    copying: copies::Copying,
}

pub(crate) struct World {
    pub(crate) now: Moment,
    rng: SmallRng,
    seq: u64,
    queue: BTreeMap<(Moment, u64), (NodeBoot, News)>,
    pub(crate) nodes: BTreeMap<NodeBoot, Node>,
    pub(crate) control: ControlState,
    pub(crate) leader: Option<NodeBoot>,
    pub(crate) term: Term,
    config: Config,
    boots: u64,
    /// How often in a thousand a proposal is committed and its outcome not told.
    pub(crate) unknown_outcomes: u32,
    pub(crate) plans: Vec<Arc<Snapshot>>,
}

pub(crate) fn name(n: usize) -> NodeName {
    NodeName::new(&format!("node-{n}")).unwrap()
}

impl World {
    pub(crate) fn new(seed: u64, partitions: u32, replication: u32, config: Config) -> Self {
        Self::with(seed, partitions, replication, false, config)
    }

    /// The same, with workers whose state is kept on all copies.
    pub(crate) fn replicated(seed: u64, partitions: u32, replication: u32, config: Config) -> Self {
        Self::with(seed, partitions, replication, true, config)
    }

    fn with(seed: u64, partitions: u32, replication: u32, replicated: bool, config: Config) -> Self {
        let spec = GroupSpec {
            partitions,
            replication,
            strategy: "balanced".into(),
            mode: Mode::Async,
            partitioner: Partitioner::Hash,
            replicated,
        };
        let founding = Founding {
            id: ClusterId(1),
            name: ClusterName::new("test").unwrap(),
            founded_at: UnixMillis(0),
            generation: Generation::ZERO,
            groups: vec![(GroupId::Users, spec)],
        };
        Self {
            now: Moment::from_millis(1_000_000),
            rng: SmallRng::seed_from_u64(seed),
            seq: 0,
            queue: BTreeMap::new(),
            nodes: BTreeMap::new(),
            control: ControlState { founding: Some(founding), ..ControlState::default() },
            leader: None,
            term: Term::ZERO,
            config,
            boots: 0,
            unknown_outcomes: 0,
            plans: Vec::new(),
        }
    }

    fn clock(&self) -> Now {
        Now { moment: self.now, unix: UnixMillis(self.now.as_nanos() / 1_000_000) }
    }

    fn post_in(&mut self, to: &NodeBoot, wait: Duration, news: News) {
        self.seq += 1;
        self.queue.insert((self.now + wait, self.seq), (to.clone(), news));
    }

    fn send(&mut self, to: &NodeBoot, news: News) {
        let wait = Duration::from_micros(self.rng.random_range(50..3000));
        self.post_in(to, wait, news);
    }

    /// The running boot of a node.
    pub(crate) fn boot_of(&self, node: &NodeName) -> Option<NodeBoot> {
        self.nodes
            .values()
            .filter(|n| !n.dead && n.info.name() == node)
            .map(|n| n.info.id.clone())
            .next_back()
    }

    pub(crate) fn start(&mut self, n: usize) -> NodeBoot {
        self.boots += 1;
        let info = NodeInfo {
            id: NodeBoot::new(name(n), Boot(self.boots)),
            address: format!("127.0.0.1:{}", 7000 + n),
            http: None,
            zone: None,
            weight: 100,
            services: vec![],
            protocol: 1,
        };
        let id = info.id.clone();
        let law = Coordinator::new(info.clone(), self.config.clone(), Vec::new());
        let holder = Holder::new(id.clone(), self.config.lease);
        let reconcile = Reconcile::new(id.clone());
        let node = Node {
            info: info.clone(),
            law,
            holder,
            reconcile,
            frozen_until: None,
            dead: false,
            missed: vec![],
            copying: copies::Copying::default(),
        };
        let others: Vec<NodeInfo> = self.nodes.values().filter(|n| !n.dead).map(|n| n.info.clone()).collect();
        self.nodes.insert(id.clone(), node);
        for other in others {
            self.send(&other.id, News::PeerUp(info.clone()));
            self.send(&id, News::PeerUp(other));
        }
        self.post_in(&id, Duration::from_millis(5), News::Wake);
        self.post_in(&id, copies::LOOK_EVERY, News::Copy);
        if let Some(plan) = self.control.snapshot.clone() {
            self.send(&id, News::Plan(plan));
        }
        id
    }

    pub(crate) fn kill(&mut self, id: &NodeBoot) {
        let Some(node) = self.nodes.get_mut(id) else { return };
        node.dead = true;
        if self.leader.as_ref() == Some(id) {
            self.leader = None;
        }
        let others: Vec<NodeBoot> = self.alive().filter(|other| other != id).collect();
        for other in others {
            self.send(&other, News::PeerDown(id.clone()));
        }
    }

    pub(crate) fn freeze(&mut self, id: &NodeBoot, lasts: Duration) {
        let until = self.now + lasts;
        if let Some(node) = self.nodes.get_mut(id) {
            node.frozen_until = Some(until);
            if self.leader.as_ref() == Some(id) {
                self.leader = None;
            }
        }
        self.post_in(id, lasts, News::Wake);
    }

    fn alive(&self) -> impl Iterator<Item = NodeBoot> {
        let alive: Vec<NodeBoot> =
            self.nodes.values().filter(|n| !n.dead).map(|n| n.info.id.clone()).collect();
        alive.into_iter()
    }

    pub(crate) fn is_frozen(&self, id: &NodeBoot) -> bool {
        self.nodes[id].frozen_until.is_some_and(|until| self.now < until)
    }

    /// An election: a running node that is not frozen wins, among those that the last plan knows if there is one.
    pub(crate) fn elect(&mut self) {
        let running: Vec<NodeBoot> = self.alive().filter(|id| !self.is_frozen(id)).collect();
        if running.is_empty() {
            return;
        }
        let winner = running[self.rng.random_range(0..running.len())].clone();
        self.lead(&winner);
    }

    pub(crate) fn lead(&mut self, winner: &NodeBoot) {
        self.term = self.term.next();
        self.leader = Some(winner.clone());
        let (now, term, control) = (self.clock(), self.term, self.control.clone());
        for id in self.alive().collect::<Vec<_>>() {
            let leader = Some(winner.node.clone());
            let node = self.nodes.get_mut(&id).unwrap();
            let mut effects = node.law.handle_control(now, &control);
            effects.extend(node.law.handle_leadership(now, leader, term, true));
            let asks = node.holder.handle_leader(now.moment, winner.node.clone());
            self.run(&id, effects);
            self.run_lease(&id, asks);
        }
        self.post_in(winner, Duration::from_millis(1), News::Ack(term, now.moment));
    }

    fn run(&mut self, me: &NodeBoot, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Answer(reply) => {
                    let to = reply.to.clone();
                    self.send(&to, News::Reply(reply));
                }
                Effect::AskRelease { to, partitions } => self.send(&to, News::AskRelease(partitions)),
                Effect::AskSurrender { to, partition, epoch } => {
                    self.send(&to, News::AskSurrender(me.clone(), partition, epoch));
                }
                Effect::Probe { node, .. } => {
                    let refused = !self.alive().any(|id| id.node == node.node);
                    self.send(me, News::Probed(node, refused));
                }
                Effect::WakeAt(at) => {
                    let wait = at.since(self.now);
                    self.post_in(me, wait + Duration::from_micros(1), News::Tick);
                }
                Effect::Commit(command) => self.commit(me, &command),
            }
        }
    }

    fn commit(&mut self, me: &NodeBoot, command: &Command) {
        let leads = self.leader.as_ref() == Some(me);
        if let Command::Step(_) = command {
            return self.commit_steps(me, command, leads);
        }
        if !leads {
            return self.send(me, News::Committed(None));
        }
        let lost = self.rng.random_range(0..1000) < self.unknown_outcomes;
        if lost && self.rng.random_bool(0.5) {
            return self.post_in(me, Duration::from_millis(300), News::Committed(None));
        }
        let before = self.control.version();
        let outcome = self.control.apply(command);
        if self.control.version() != before {
            let plan = self.control.snapshot.clone().unwrap();
            if let Some(former) = self.plans.last() {
                self.check_promoted(former, &plan);
            }
            self.plans.push(plan.clone());
            for id in self.alive().collect::<Vec<_>>() {
                self.send(&id, News::Plan(plan.clone()));
            }
        } else {
            assert!(
                matches!(outcome, tumen_core::cluster::control::Outcome::Conflict { .. }),
                "a leader proposed what is refused: {outcome:?}"
            );
        }
        self.send(me, News::Committed(if lost { None } else { Some(outcome) }));
    }

    fn run_lease(&mut self, me: &NodeBoot, effects: Vec<lease::Effect>) {
        for effect in effects {
            if let lease::Effect::Ask { to, request } = effect {
                let to = to.and_then(|to| self.boot_of(&to)).or_else(|| self.leader.clone());
                if let Some(to) = to {
                    self.send(&to, News::Request(request));
                }
            }
        }
        let at = self.nodes[me].holder.wake_at();
        let wait = at.since(self.now).max(Duration::from_millis(1));
        self.post_in(me, wait, News::Wake);
    }

    fn run_reconcile(&mut self, me: &NodeBoot, effects: Vec<reconcile::Effect>) {
        let now = self.now;
        let mut released = Vec::new();
        for effect in effects {
            match effect {
                reconcile::Effect::Stop { partition, epoch } => {
                    self.send(me, News::Stopped(partition, epoch));
                }
                reconcile::Effect::Start { .. } => {}
                reconcile::Effect::Release { partition, epoch } => {
                    released.push(Release { partition, epoch });
                }
            }
        }
        if !released.is_empty() {
            let asks = self.nodes.get_mut(me).unwrap().holder.handle_released(now, released);
            self.run_lease(me, asks);
        }
    }

    fn deliver(&mut self, to: &NodeBoot, news: News) {
        let now = self.clock();
        let moment = now.moment;
        let Some(node) = self.nodes.get_mut(to).filter(|node| !node.dead) else { return };
        if node.frozen_until.is_some_and(|until| moment < until) {
            node.missed.push(news);
            return;
        }
        if node.frozen_until.take().is_some() {
            for missed in std::mem::take(&mut node.missed) {
                self.deliver(to, missed);
            }
        }
        let node = self.nodes.get_mut(to).unwrap();
        match news {
            News::Request(request) => {
                let effects = node.law.handle_lease_request(now, &request);
                self.run(to, effects);
            }
            News::Reply(reply) => {
                let effects = node.holder.handle_reply(moment, reply);
                self.run_lease(to, effects);
            }
            News::Plan(plan) => {
                let control = ControlState { snapshot: Some(plan.clone()), ..self.control.clone() };
                let stops = node.reconcile.handle_snapshot(&plan);
                let acted = if node.reconcile.version() == plan.version {
                    node.holder.handle_acted(moment, &plan)
                } else {
                    Vec::new()
                };
                let effects = node.law.handle_control(now, &control);
                self.run_reconcile(to, stops);
                self.run_lease(to, acted);
                self.run(to, effects);
            }
            News::AskRelease(releases) => {
                for Release { partition, epoch } in releases {
                    let effects =
                        self.nodes.get_mut(to).unwrap().reconcile.handle_release_asked(partition, epoch);
                    self.run_reconcile(to, effects);
                }
            }
            News::AskSurrender(leader, partition, epoch) => self.surrender(to, &leader, partition, epoch),
            News::Surrendered(partition, epoch, answer) => {
                let effects = node.law.handle_surrendered(now, partition, epoch, Some(answer));
                self.run(to, effects);
            }
            News::Stopped(partition, epoch) => {
                let effects = node.reconcile.handle_stopped(partition, epoch);
                self.run_reconcile(to, effects);
            }
            News::Wake => {
                let effects = node.holder.handle_wake(moment);
                if !effects.is_empty() {
                    self.run_lease(to, effects);
                }
            }
            News::Tick => {
                let effects = node.law.handle_tick(now);
                self.run(to, effects);
            }
            News::Probed(id, refused) => {
                let effects = node.law.handle_probed(now, &id, refused);
                self.run(to, effects);
            }
            News::Committed(outcome) => {
                let effects = node.law.handle_committed(now, outcome.as_ref());
                self.run(to, effects);
            }
            News::Stepped => {
                let effects = node.law.handle_stepped(now);
                self.run(to, effects);
            }
            News::Control(control) => {
                let effects = node.law.handle_control(now, &control);
                self.run(to, effects);
            }
            News::AskSteps(steps) => {
                let effects = node.law.handle_steps_asked(now, steps);
                self.run(to, effects.unwrap_or_default());
            }
            News::Copy => self.look_after_copies(to),
            News::Ack(term, stamp) => {
                if self.leader.as_ref() == Some(to) && term == self.term {
                    let effects = node.law.handle_quorum_ack(now, term, stamp);
                    self.run(to, effects);
                    self.post_in(to, Duration::from_millis(150), News::Ack(term, moment));
                }
            }
            News::PeerUp(info) => {
                let effects = node.law.handle_peer_up(now, &info);
                self.run(to, effects);
            }
            News::PeerDown(id) => {
                let effects = node.law.handle_peer_down(now, &id);
                self.run(to, effects);
            }
        }
    }

    /// Lets time pass, and checks after each piece of news that nobody serves what another serves.
    pub(crate) fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(entry) = self.queue.first_entry() {
            if entry.key().0 > end {
                break;
            }
            let ((at, _), (to, news)) = entry.remove_entry();
            self.now = self.now.max(at);
            self.deliver(&to, news);
            self.check_one_primary();
        }
        self.now = end;
    }

    fn check_one_primary(&self) {
        let mut serving: BTreeMap<PartitionId, (&NodeBoot, Epoch)> = BTreeMap::new();
        for (id, node) in &self.nodes {
            // A frozen process answers nothing now, and checks its lease before it answers when it wakes.
            if node.dead || self.is_frozen(id) || !node.holder.holds(self.now) {
                continue;
            }
            for (partition, epoch) in node.reconcile.serving() {
                let other = serving.insert(partition, (id, epoch));
                assert!(
                    other.is_none(),
                    "at {}: {partition} is served by {id}@{epoch} and {other:?}",
                    self.now
                );
            }
        }
    }

    /// Which boot serves each partition at present, with a lease.
    pub(crate) fn served(&self) -> BTreeMap<PartitionId, NodeBoot> {
        let mut served = BTreeMap::new();
        for (id, node) in &self.nodes {
            if !node.dead && !self.is_frozen(id) && node.holder.holds(self.now) {
                served.extend(node.reconcile.serving().map(|(partition, _)| (partition, id.clone())));
            }
        }
        served
    }

    pub(crate) fn plan(&self) -> &Snapshot {
        self.control.snapshot.as_ref().expect("there is a plan")
    }

    pub(crate) fn chance(&mut self, below: u32) -> u32 {
        self.rng.random_range(0..below)
    }

    pub(crate) fn running(&self) -> BTreeSet<NodeBoot> {
        self.alive().filter(|id| !self.is_frozen(id)).collect()
    }
}
