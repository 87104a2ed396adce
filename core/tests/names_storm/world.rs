//! One directory, its log and mark; some nodes with what they run; plans; and a network.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tumen_core::Moment;
use tumen_core::ids::{Boot, Epoch, GroupId, Kind, NodeBoot, NodeName, PartitionId, Version};
use tumen_core::names::claim::{Held, Holder, Reason, Spec, Stage};
use tumen_core::names::crew::{self, Answer, Crew, Frame, InstanceId, NotStarted, Stamp};
use tumen_core::names::directory::{Change, Directory};
use tumen_core::names::name::Name;
use tumen_core::names::orders::{self, Config, MemberFacts, Orders};
use tumen_core::names::placement::Placing;
use tumen_core::supervision::{Exit, Restart};

/// A rule that is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flaw {
    None,
    /// A node takes orders whenever they come.
    StampsIgnored,
    /// The primary tells what only it has.
    ToldBeforeHeld,
    /// A node that was removed comes back with what it ran.
    KeepsWhenRemoved,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    pub(crate) started: usize,
    pub(crate) failed: usize,
    pub(crate) crashes: usize,
    pub(crate) removed: usize,
    pub(crate) returned: usize,
    pub(crate) failovers: usize,
    pub(crate) cut_off: usize,
    pub(crate) moved: usize,
}

impl Seen {
    pub(crate) fn add(&mut self, other: &Self) {
        self.started += other.started;
        self.failed += other.failed;
        self.crashes += other.crashes;
        self.removed += other.removed;
        self.returned += other.returned;
        self.failovers += other.failovers;
        self.cut_off += other.cut_off;
        self.moved += other.moved;
    }
}

#[derive(Clone, Debug)]
struct Instance {
    name: Name,
    actor: Option<u64>,
    ending: bool,
}

struct Node {
    id: NodeBoot,
    crew: Crew,
    instances: BTreeMap<InstanceId, Instance>,
    /// Names that its actors hold, as far as they know.
    held: BTreeMap<Name, u64>,
    /// Whether what runs here may answer.
    leased: bool,
    frozen: bool,
    /// The newest plan that it knows.
    plan: Version,
    actors: u64,
}

#[derive(Clone)]
enum Message {
    Orders(NodeBoot, Frame),
    Answer(NodeBoot, Answer),
    /// A claim on its way: who, and for which actor.
    Claim(Holder, Name),
}

/// Everybody who believes to be primary: the last one is.
struct Primary {
    orders: Orders,
    /// How much of the log it knows to be held.
    held: Directory,
    held_len: usize,
}

pub(crate) struct World {
    rng: SmallRng,
    flaw: Flaw,
    now: Moment,
    epoch: Epoch,
    log: Vec<Change>,
    mark: usize,
    /// What the newest primary's worker has.
    working: Directory,
    primary: Option<Primary>,
    /// A primary that does not know that it is none any more: its mark stands still.
    former: Option<Primary>,
    nodes: Vec<Node>,
    boots: u64,
    plans: Vec<BTreeMap<NodeBoot, bool>>,
    network: Vec<Message>,
    wanted: BTreeMap<Name, Arc<Spec>>,
    seen: Seen,
}

const NODES: usize = 4;
const DIRECTORY: PartitionId = PartitionId { group: GroupId::Names, index: 0 };

fn kind() -> Kind {
    Kind::new("child").unwrap()
}

fn name(number: usize) -> Name {
    Name::new(format!("name-{number}")).unwrap()
}

fn config() -> Config {
    Config {
        audit_every: Duration::from_millis(1500),
        start_within: Duration::from_secs(3),
        ..Config::default()
    }
}

impl World {
    pub(crate) fn new(seed: u64, flaw: Flaw) -> Self {
        let mut world = Self {
            rng: SmallRng::seed_from_u64(seed),
            flaw,
            now: Moment::from_millis(1_000),
            epoch: Epoch::ZERO,
            log: Vec::new(),
            mark: 0,
            working: Directory::default(),
            primary: None,
            former: None,
            nodes: Vec::new(),
            boots: 0,
            plans: vec![BTreeMap::new()],
            network: Vec::new(),
            wanted: BTreeMap::new(),
            seen: Seen::default(),
        };
        for at in 0..NODES {
            let id = world.next_boot(at);
            world.nodes.push(Node {
                id,
                crew: Crew::default(),
                instances: BTreeMap::new(),
                held: BTreeMap::new(),
                leased: true,
                frozen: false,
                plan: Version::ZERO,
                actors: 0,
            });
        }
        let everybody = world.nodes.iter().map(|node| (node.id.clone(), true)).collect();
        world.plans.push(everybody);
        (0..NODES).for_each(|at| world.learn_plan(at));
        world.fail_over();
        world
    }

    fn next_boot(&mut self, at: usize) -> NodeBoot {
        self.boots += 1;
        NodeBoot::new(NodeName::new(&format!("n{at}")).unwrap(), Boot(self.boots))
    }

    pub(crate) fn run(mut self, steps: usize) -> Result<Seen, String> {
        for _ in 0..steps {
            self.step();
            self.check()?;
        }
        self.rest()?;
        Ok(self.seen)
    }

    fn chance(&mut self, of: u32) -> bool {
        self.rng.random_range(0..of) == 0
    }

    fn pick(&mut self) -> usize {
        self.rng.random_range(0..NODES)
    }

    fn step(&mut self) {
        self.now += Duration::from_millis(self.rng.random_range(0..60));
        match self.rng.random_range(0..100) {
            0..46 => self.deliver(),
            46..58 => self.advance_mark(),
            58..68 => self.tick(),
            68..76 => self.instance_goes_on(),
            76..82 => self.client_asks(),
            82..85 => self.freeze_or_thaw(),
            85..88 => self.remove_or_return(),
            88..90 => self.crash(),
            90..95 => {
                let at = self.pick();
                self.learn_plan(at);
            }
            95..98 => self.primary_learns_plan(),
            _ => self.fail_over(),
        }
    }

    // --- the directory's primary

    fn fail_over(&mut self) {
        self.seen.failovers += 1;
        // What is behind the mark may be lost, or not.
        let kept = self.rng.random_range(self.mark..=self.log.len());
        self.seen.cut_off += usize::from(kept < self.log.len());
        self.log.truncate(kept);
        self.epoch = self.epoch.next();
        self.working = replay(&self.log);
        // A new primary serves once W copies hold what it adopted.
        self.mark = kept;
        let held = self.working.clone();
        let orders = Orders::new(self.now, (DIRECTORY, self.epoch), config(), &held);
        let new = Primary { orders, held, held_len: kept };
        self.former = self.primary.replace(new);
        // A plan named it: it knows that one, and whatever its predecessors acted on.
        let plan = self.plans.last().unwrap().clone();
        self.plans.push(plan);
        self.primary_learns(self.plans.len() - 1);
    }

    fn primary_learns_plan(&mut self) {
        let newest = self.plans.len() - 1;
        let plan = if self.chance(3) { self.rng.random_range(1..=newest) } else { newest };
        self.primary_learns(plan);
    }

    fn primary_learns(&mut self, plan: usize) {
        let members = self.members(plan);
        let now = self.now;
        let primary = self.primary.as_mut().unwrap();
        let effects = primary.orders.handle_members(now, &primary.held, Version(plan as u64), members);
        self.perform(effects, false);
    }

    fn advance_mark(&mut self) {
        if self.flaw == Flaw::ToldBeforeHeld {
            // It is told all that the worker has, while the mark is where it is.
            self.tell_up_to(self.log.len());
        }
        if self.mark < self.log.len() {
            self.mark += 1;
            self.tell_up_to(self.mark);
        }
    }

    fn tell_up_to(&mut self, end: usize) {
        loop {
            let now = self.now;
            let primary = self.primary.as_mut().unwrap();
            if primary.held_len >= end {
                return;
            }
            let change = self.log[primary.held_len].clone();
            primary.held_len += 1;
            primary.held.apply(&change);
            let effects = primary.orders.handle_applied(now, &primary.held, &change);
            self.perform(effects, false);
        }
    }

    fn tick(&mut self) {
        let now = self.now;
        if self.chance(4) {
            // A former primary goes on, by what it knew.
            if let Some(mut former) = self.former.take() {
                let effects = former.orders.handle_tick(now, &former.held);
                self.former = Some(former);
                self.perform(effects, true);
            }
            return;
        }
        let primary = self.primary.as_mut().unwrap();
        let effects = primary.orders.handle_tick(now, &primary.held);
        self.perform(effects, false);
        let at = self.pick();
        if !self.nodes[at].frozen {
            let effects = self.nodes[at].crew.handle_tick();
            self.perform_crew(at, effects);
        }
    }

    fn perform(&mut self, effects: Vec<orders::Effect>, former: bool) {
        for effect in effects {
            match effect {
                orders::Effect::Commit(_) if former => {}
                orders::Effect::Commit(change) => {
                    if self.chance(12) {
                        let now = self.now;
                        self.primary.as_mut().unwrap().orders.handle_not_logged(now, &change);
                    } else {
                        self.append(change);
                    }
                }
                orders::Effect::Send { to, frame } => self.network.push(Message::Orders(to, frame)),
                orders::Effect::WakeAt(_) => {}
            }
        }
    }

    fn append(&mut self, change: Change) {
        self.seen.moved += usize::from(matches!(change, Change::Freed { reason: Reason::Moved, .. }));
        self.working.apply(&change);
        self.log.push(change);
    }

    // --- what is asked of it

    fn client_asks(&mut self) {
        let asked = self.rng.random_range(0..5);
        let (child, plain) = (name(asked), name(100 + asked));
        match self.rng.random_range(0..10) {
            0..5 => {
                let restart = [Restart::Permanent, Restart::Transient, Restart::Temporary][asked % 3];
                let all = [Placing::Uniform, Placing::LeastLoaded, Placing::Random, Placing::UniformActive];
                let placing = all[asked % 4];
                let spec = Arc::new(Spec {
                    kind: kind(),
                    args: Bytes::new(),
                    restart,
                    restarts_max: 1_000,
                    window: Duration::from_secs(30),
                    placing,
                });
                if let Ok(Some(change)) = self.working.judge_start(&child, &spec, &Bytes::new()) {
                    self.append(change);
                    self.wanted.insert(child, spec);
                }
            }
            5 => {
                if let Ok(Some(change)) = self.working.judge_terminate(&child) {
                    self.append(change);
                }
            }
            6 => {
                if let Some(change) = self.working.judge_move(&child) {
                    self.append(change);
                }
            }
            _ => {
                let at = self.pick();
                let node = &mut self.nodes[at];
                if node.leased && !node.frozen && !node.held.contains_key(&plain) {
                    node.actors += 1;
                    let holder = Holder { node: node.id.clone(), actor: node.actors };
                    self.network.push(Message::Claim(holder, plain));
                }
            }
        }
    }

    // --- the network

    fn deliver(&mut self) {
        if self.network.is_empty() {
            return;
        }
        let at = self.rng.random_range(0..self.network.len());
        let message = if self.chance(10) { self.network[at].clone() } else { self.network.swap_remove(at) };
        if self.chance(12) {
            return;
        }
        match message {
            Message::Orders(to, frame) => {
                let Some(at) = self.nodes.iter().position(|node| node.id == to && !node.frozen) else {
                    return;
                };
                self.give_orders(at, frame);
            }
            Message::Answer(from, answer) => {
                let now = self.now;
                let primary = self.primary.as_mut().unwrap();
                let effects = primary.orders.handle_answer(now, &primary.held, &from, answer);
                self.perform(effects, false);
            }
            Message::Claim(holder, name) => {
                let plan = self.plans.last().unwrap();
                let is_member = |node: &NodeBoot| plan.get(node) == Some(&true);
                let judged = self.working.judge_claim(&name, &holder, &Bytes::new(), is_member);
                if let Ok(changes) = judged {
                    changes.into_iter().for_each(|change| self.append(change));
                    // Told at once: an actor that is told late is as one that is asked late.
                    if let Some(node) = self.nodes.iter_mut().find(|node| node.id == holder.node) {
                        node.held.insert(name, holder.actor);
                    }
                }
            }
        }
    }

    fn give_orders(&mut self, at: usize, mut frame: Frame) {
        if self.flaw == Flaw::StampsIgnored {
            self.boots += 1;
            frame.stamp = Stamp { epoch: Epoch(u64::MAX), number: self.boots };
        }
        let node = &mut self.nodes[at];
        let held = node.held.clone();
        let effects = node.crew.handle_orders(frame, |name, actor| held.get(name) == Some(&actor));
        self.perform_crew(at, effects);
    }

    fn perform_crew(&mut self, at: usize, effects: Vec<crew::Effect>) {
        for effect in effects {
            let node = &mut self.nodes[at];
            match effect {
                crew::Effect::Spawn { instance, name, .. } => {
                    node.instances.insert(instance, Instance { name, actor: None, ending: false });
                }
                crew::Effect::Kill { instance, .. } => {
                    if let Some(instance) = node.instances.get_mut(&instance) {
                        instance.ending = true;
                    }
                }
                crew::Effect::Tell { answer, .. } => {
                    let from = node.id.clone();
                    self.network.push(Message::Answer(from, answer));
                }
                crew::Effect::Cleared => {}
            }
        }
    }

    // --- the nodes

    /// An instance starts, fails, or ends as it was told to.
    fn instance_goes_on(&mut self) {
        let at = self.pick();
        if self.nodes[at].frozen || self.nodes[at].instances.is_empty() {
            return;
        }
        let nth = self.rng.random_range(0..self.nodes[at].instances.len());
        let (id, instance) =
            self.nodes[at].instances.iter().nth(nth).map(|(id, i)| (*id, i.clone())).unwrap();
        let fails = self.chance(8);
        let node = &mut self.nodes[at];
        let effects = match (instance.actor, instance.ending) {
            (None, _) if fails => {
                node.instances.remove(&id);
                node.crew.handle_not_started(id, NotStarted::Failed("by chance".into()))
            }
            (None, _) => {
                node.actors += 1;
                let actor = node.actors;
                node.instances.get_mut(&id).unwrap().actor = Some(actor);
                self.seen.started += 1;
                node.crew.handle_started(id, actor)
            }
            (Some(_), true) => {
                node.instances.remove(&id);
                node.crew.handle_ended(id, Exit::Normal, Some(Bytes::from_static(b"state")))
            }
            (Some(_), false) if fails => {
                node.instances.remove(&id);
                self.seen.failed += 1;
                node.crew.handle_ended(id, Exit::Failed("by chance".into()), None)
            }
            (Some(_), false) => Vec::new(),
        };
        self.perform_crew(at, effects);
    }

    fn freeze_or_thaw(&mut self) {
        let at = self.pick();
        self.nodes[at].frozen = !self.nodes[at].frozen;
    }

    /// A frozen node loses its lease, and a plan removes it; or a node that ended all that it ran is a member again.
    fn remove_or_return(&mut self) {
        let at = self.pick();
        let mut plan = self.plans.last().unwrap().clone();
        let keeps = self.flaw == Flaw::KeepsWhenRemoved;
        let node = &mut self.nodes[at];
        if node.frozen && node.leased && plan.values().filter(|serves| **serves).count() > 1 {
            node.leased = false;
            plan.insert(node.id.clone(), false);
            self.plans.push(plan);
            self.seen.removed += 1;
        } else if !node.frozen && !node.leased && (plan.get(&node.id) != Some(&true)) {
            let acted = !plan.contains_key(&node.id) || node.plan.0 as usize == self.plans.len() - 1;
            if acted && (node.instances.is_empty() || keeps) {
                node.leased = true;
                plan.retain(|id, _| id.node != node.id.node);
                plan.insert(node.id.clone(), true);
                self.plans.push(plan);
                self.seen.returned += 1;
            }
        }
    }

    fn crash(&mut self) {
        let at = self.pick();
        let id = self.next_boot(at);
        let former = std::mem::replace(&mut self.nodes[at].id, id);
        let node = &mut self.nodes[at];
        node.crew = Crew::default();
        node.instances.clear();
        node.held.clear();
        (node.leased, node.frozen, node.plan) = (false, false, Version::ZERO);
        self.seen.crashes += 1;
        let mut plan = self.plans.last().unwrap().clone();
        if plan.insert(former, false) == Some(true) {
            self.plans.push(plan);
        }
    }

    fn learn_plan(&mut self, at: usize) {
        let newest = self.plans.len() - 1;
        let node = &mut self.nodes[at];
        if node.frozen || node.plan.0 as usize >= newest {
            return;
        }
        // Each plan between, in order, as the node's own log of them has it; what it skips it may not act on.
        let keeps = self.flaw == Flaw::KeepsWhenRemoved;
        let next = if keeps { newest } else { node.plan.0 as usize + 1 };
        node.plan = Version(next as u64);
        let serves = self.plans[next].get(&node.id) == Some(&true);
        if !serves && !keeps {
            node.held.clear();
        }
        if serves || !keeps {
            let effects = node.crew.handle_membership(Version(next as u64), serves);
            self.perform_crew(at, effects);
        }
    }

    // --- what must hold

    fn check(&self) -> Result<(), String> {
        let mut answering: BTreeMap<&Name, Vec<(&NodeBoot, InstanceId)>> = BTreeMap::new();
        for node in self.nodes.iter().filter(|node| node.leased) {
            for (id, instance) in node.instances.iter().filter(|(_, instance)| instance.actor.is_some()) {
                answering.entry(&instance.name).or_default().push((&node.id, *id));
            }
        }
        match answering.into_iter().find(|(_, instances)| instances.len() > 1) {
            Some((name, instances)) => Err(format!("{name} answers twice: {instances:?}")),
            None => Ok(()),
        }
    }

    /// Trouble ends: all nodes come back, nothing is lost any more, and time passes.
    fn rest(&mut self) -> Result<(), String> {
        self.former = None;
        for round in 0..4_000 {
            self.now += Duration::from_millis(50);
            for at in 0..NODES {
                self.nodes[at].frozen = false;
                (0..50).for_each(|_| self.learn_plan(at));
                let ids: Vec<InstanceId> = self.nodes[at].instances.keys().copied().collect();
                for id in ids {
                    let instance = self.nodes[at].instances[&id].clone();
                    let node = &mut self.nodes[at];
                    let effects = match (instance.actor, instance.ending) {
                        (None, _) => {
                            node.actors += 1;
                            let actor = node.actors;
                            node.instances.get_mut(&id).unwrap().actor = Some(actor);
                            node.crew.handle_started(id, actor)
                        }
                        (Some(_), true) => {
                            node.instances.remove(&id);
                            node.crew.handle_ended(id, Exit::Normal, None)
                        }
                        (Some(_), false) => Vec::new(),
                    };
                    self.perform_crew(at, effects);
                }
                let plan = self.plans.last().unwrap().clone();
                let node = &mut self.nodes[at];
                if plan.get(&node.id) != Some(&true) && node.instances.is_empty() {
                    let mut plan = plan;
                    node.leased = true;
                    plan.retain(|id, _| id.node != node.id.node);
                    plan.insert(node.id.clone(), true);
                    self.plans.push(plan);
                }
                let effects = self.nodes[at].crew.handle_tick();
                self.perform_crew(at, effects);
            }
            for message in std::mem::take(&mut self.network) {
                match message {
                    Message::Orders(to, frame) => {
                        if let Some(at) = self.nodes.iter().position(|node| node.id == to) {
                            self.give_orders(at, frame);
                        }
                    }
                    Message::Answer(from, answer) => {
                        let now = self.now;
                        let primary = self.primary.as_mut().unwrap();
                        let effects = primary.orders.handle_answer(now, &primary.held, &from, answer);
                        self.perform(effects, false);
                    }
                    Message::Claim(..) => {}
                }
                self.check()?;
            }
            let newest = self.plans.len() - 1;
            let (now, members) = (self.now, self.members(newest));
            let primary = self.primary.as_mut().unwrap();
            let effects = primary.orders.handle_members(now, &primary.held, Version(newest as u64), members);
            self.perform(effects, false);
            while self.mark < self.log.len() {
                self.mark += 1;
                self.tell_up_to(self.mark);
            }
            let primary = self.primary.as_mut().unwrap();
            let effects = primary.orders.handle_tick(now, &primary.held);
            self.perform(effects, false);
            self.check()?;
            if round % 40 == 39 && self.is_whole().is_ok() {
                return Ok(());
            }
        }
        self.is_whole()
    }

    fn is_whole(&self) -> Result<(), String> {
        let held = &self.primary.as_ref().unwrap().held;
        let mut running = 0;
        for (name, claim) in held.iter() {
            match &claim.held {
                Held::Child(child) => {
                    let Stage::Running { holder } = &child.stage else {
                        return Err(format!("{name} does not run: {claim:?}"));
                    };
                    let id = InstanceId { directory: DIRECTORY, number: claim.number };
                    let there = self.nodes.iter().find(|node| node.id == holder.node);
                    let there = there
                        .and_then(|node| node.instances.get(&id))
                        .ok_or_else(|| format!("{name} is said to run as {holder}, and does not"))?;
                    if there.actor != Some(holder.actor) {
                        return Err(format!("{name} is said to run as {holder}, and is {there:?}"));
                    }
                    let newest = self.plans.len() - 1;
                    let other = self.members(newest).iter().any(|it| it.takes);
                    if other && leaves(newest, &holder.node) {
                        return Err(format!("{name} runs on {holder}, which is about to go"));
                    }
                    running += 1;
                }
                Held::Plain(holder) => {
                    let node = self.nodes.iter().find(|node| node.id == holder.node);
                    if node.and_then(|node| node.held.get(name)) != Some(&holder.actor) {
                        return Err(format!("{name} is said to be held by {holder}, who does not"));
                    }
                }
            }
        }
        let all: usize = self.nodes.iter().map(|node| node.instances.len()).sum();
        if all != running {
            return Err(format!("{all} instances run, {running} should"));
        }
        if self.nodes.iter().any(|node| node.crew.len() != node.instances.len()) {
            return Err("a node counts other instances than it has".into());
        }
        Ok(())
    }
}

fn replay(log: &[Change]) -> Directory {
    let mut directory = Directory::default();
    for change in log {
        directory.apply(change);
    }
    directory
}

/// Whether a node is about to go by this plan: one of them by every third.
fn leaves(plan: usize, node: &NodeBoot) -> bool {
    plan.is_multiple_of(3) && node.node.as_str() == format!("n{}", plan / 3 % NODES)
}

impl World {
    fn members(&self, plan: usize) -> Vec<MemberFacts> {
        let facts = |(node, serves): (&NodeBoot, &bool)| MemberFacts {
            node: node.clone(),
            weight: 100,
            kinds: vec![kind()],
            serves: *serves,
            takes: *serves && !leaves(plan, node),
        };
        // A node's newest run is its member.
        let newest: BTreeMap<&NodeName, (&NodeBoot, &bool)> =
            self.plans[plan].iter().map(|(node, serves)| (&node.node, (node, serves))).collect();
        newest.into_values().map(facts).collect()
    }
}
