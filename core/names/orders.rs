//! What the primary of a directory tells the nodes, until what runs is what stands in it.
//!
//! ```text
//!   stands there, held by W        told                      said                      logged
//!   Waiting                     ─▶ (a node is picked)                               ─▶ Ordered
//!   Starting ──────────────────▶ Start{number}, again ──▶  Started ─────────────────▶ Started
//!                                                           NotStarted ─────────────▶ Freed, or Released
//!   Running                                                 Ended ──────────────────▶ Freed, or Released
//!   ··· on a node that leaves, or where its name belongs no more ───────────────────▶ Stopping, to move
//!   Stopping ──────────────────▶ Stop{number}, again ───▶  Ended ──────────────────▶ Freed, or Released
//!   on a node that is gone      ────────────────────────────────────────────────────▶ NodeGone
//! ```
//!
//! It is handed the directory as W copies hold it, never what the primary's worker is ahead: a number that a new primary
//! might give again must not have been told to anybody. All that it remembers beside may be forgotten with its primary.

mod answers;
mod picking;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;
use std::time::Duration;

use crate::ids::{Epoch, Kind, NodeBoot, PartitionId, Version};
use crate::names::claim::{ClaimNumber, Held, Stage};
use crate::names::crew::{Frame, Order, Stamp};
use crate::names::directory::{Change, Directory};
use crate::names::name::Name;
use crate::names::placement::Placing;
use crate::names::placements::{Fault, Placements};
use crate::time::Moment;

/// How long things take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// How long an answer is waited for before an order is sent again. Default 200 ms.
    pub retry_every: Duration,
    /// How long a change that could not be logged rests. Default 20 ms: it may be refused at once, again and again, while the
    /// primary waits for its lease.
    pub log_again_after: Duration,
    /// How long a start may take until it is cancelled and another node tried. Default 30 s; longer than what a factory
    /// is given on its node, or that never says that it failed.
    pub start_within: Duration,
    /// The wait before a child that failed is started again. Default 10 ms. Each further one, up to `backoff_longest`,
    /// waits twice as long.
    pub backoff_first: Duration,
    /// The longest such wait. Default 5 s.
    pub backoff_longest: Duration,
    /// How many times a child that failed is started on the same node before another one is tried. Default 2.
    pub local_restarts: u32,
    /// The most orders in one frame, and the most names that a node is asked about in one. Default 1,024.
    pub frame_orders_max: usize,
    /// How long a child that never ran may wait for a node that can be chosen, and how often it is looked for one where a placement of
    /// the user's own chose nobody. Default 1 s: so long a plan may be on its way here that whoever asks knows already.
    pub choose_within: Duration,
    /// How often a node is asked whether all runs there that should: it finds what no news told of. Default 10 s.
    pub audit_every: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            retry_every: Duration::from_millis(200),
            log_again_after: Duration::from_millis(20),
            start_within: Duration::from_secs(30),
            backoff_first: Duration::from_millis(10),
            backoff_longest: Duration::from_secs(5),
            local_restarts: 2,
            frame_orders_max: 1024,
            choose_within: Duration::from_secs(1),
            audit_every: Duration::from_secs(10),
        }
    }
}

/// A member, as far as placing children goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberFacts {
    /// Which run of which node.
    pub node: NodeBoot,
    /// Its share beside the others'.
    pub weight: u32,
    /// The kinds of children that it has factories for, sorted.
    pub kinds: Vec<Kind>,
    /// Whether it may hold names and children.
    pub serves: bool,
    /// Whether it may be given more of them.
    pub takes: bool,
}

/// What the primary's actor is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Log this, in the order in which it is said. Once W copies hold it: [`Orders::handle_applied`]. Where it could not be logged:
    /// [`Orders::handle_not_logged`].
    Commit(Change),
    /// Send this. It may be lost: what is not answered is sent again.
    Send {
        /// To which run of which node.
        to: NodeBoot,
        /// What.
        frame: Frame,
    },
    /// Call [`Orders::handle_tick`] then, or before.
    WakeAt(Moment),
    /// Say that a child that ran already is placed by its name, for the placement that it asks for cannot be relied on.
    PlacedByName {
        /// Which child.
        name: Name,
        /// What is wrong with its placement.
        why: Fault,
    },
}

/// What is to be done about a child that does not run yet, or no more.
#[derive(Clone, Copy, Debug)]
struct Task {
    /// Since when its stage asks for that.
    since: Moment,
    /// Nothing is done before.
    due: Moment,
    /// A change is on its way to the log.
    logging: bool,
    /// No node could be chosen. It is looked again when it is due, or where members are others.
    idle: bool,
}

/// What is remembered of a child that failed.
#[derive(Clone, Debug, Default)]
struct Failures {
    at: VecDeque<Moment>,
    node: Option<NodeBoot>,
    in_a_row: u32,
    /// Where it ran until it moved away: it is to run elsewhere, if there is anywhere.
    moved_from: Option<NodeBoot>,
    /// Nodes that said that they cannot run it.
    unfit: BTreeSet<NodeBoot>,
}

/// How far a node was asked what runs there.
#[derive(Clone, Debug)]
struct Audit {
    /// When it is asked next.
    due: Moment,
    /// Up to which name it was asked, and has not answered.
    asked: Option<Name>,
    /// Up to which name it has answered.
    done: Option<Name>,
}

/// The law of a directory's primary, as far as it concerns what runs.
#[derive(Debug)]
pub struct Orders {
    directory: PartitionId,
    epoch: Epoch,
    plan: Version,
    config: Config,
    placements: Placements,
    stamps: u64,
    members: Vec<MemberFacts>,
    tasks: BTreeMap<Name, Task>,
    /// The same by when they are due.
    due: BTreeSet<(Moment, Name)>,
    /// What is said of a child whose stage rests, while its change is on its way to the log.
    logging: BTreeMap<Name, ClaimNumber>,
    failures: BTreeMap<Name, Failures>,
    audits: BTreeMap<NodeBoot, Audit>,
    /// Nodes of which it is on its way to the log that they are gone.
    leaving: BTreeSet<NodeBoot>,
    /// What stands on its own is not said again before: something could not be logged.
    rests_until: Moment,
    /// Whether something that belongs elsewhere was not logged.
    redistributes: bool,
}

impl Orders {
    /// The primary opened this epoch. `directory` is what W copies hold; whatever stands there is looked after from now on.
    /// `placements` are the node's.
    pub fn new(
        now: Moment,
        (id, epoch): (PartitionId, Epoch),
        config: Config,
        placements: Placements,
        directory: &Directory,
    ) -> Self {
        let mut orders = Self {
            directory: id,
            epoch,
            plan: Version::ZERO,
            config,
            placements,
            stamps: 0,
            members: Vec::new(),
            tasks: BTreeMap::new(),
            due: BTreeSet::new(),
            logging: BTreeMap::new(),
            failures: BTreeMap::new(),
            audits: BTreeMap::new(),
            leaving: BTreeSet::new(),
            rests_until: Moment::ZERO,
            redistributes: false,
        };
        for (name, _) in directory.iter().filter(|(_, claim)| claim.child().is_some()) {
            orders.look_at(now, directory, name);
        }
        orders.audit_all(now, directory);
        orders
    }

    /// The committed members, sorted by name, as of the newest plan. Nothing is done before the first, which must be the one
    /// that named this primary, or a later one: an older one would take nodes for gone that its predecessors gave children.
    pub fn handle_members(
        &mut self,
        now: Moment,
        directory: &Directory,
        plan: Version,
        members: Vec<MemberFacts>,
    ) -> Vec<Effect> {
        if plan <= self.plan {
            return Vec::new();
        }
        if plan > self.plan.next() {
            // In a plan between the two a member may have been removed that is back: it has ended all that it ran.
            self.audit_all(now, directory);
        }
        self.plan = plan;
        self.members = members;
        // Whoever waits for a node may have one now; nodes that could not may be others now.
        for failures in self.failures.values_mut() {
            failures.unfit.clear();
        }
        let waiting: Vec<Name> = directory.waiting().filter(|name| self.is_idle(name)).cloned().collect();
        waiting.iter().for_each(|name| self.look_at(now, directory, name));
        self.redistributes = true;
        self.handle_tick(now, directory)
    }

    /// W copies hold this change; `directory` has it.
    pub fn handle_applied(&mut self, now: Moment, directory: &Directory, change: &Change) -> Vec<Effect> {
        match change {
            Change::NodeGone { node } => {
                self.leaving.remove(node);
                self.audits.remove(node);
                let waiting: Vec<Name> = directory.waiting().cloned().collect();
                waiting.iter().for_each(|name| self.look_at(now, directory, name));
            }
            Change::Claimed { holder, .. } => self.audit_later(now, &holder.node),
            Change::Updated { .. }
            | Change::Clock { .. }
            | Change::MetaPut { .. }
            | Change::MetaRemoved { .. } => {}
            // Whoever ran it before finds that it is over by the number, and is told so where it says something.
            Change::Brought { brought, .. } => {
                self.audit_later(now, &brought.holder.node);
                self.logging.remove(&brought.name);
                self.failures.remove(&brought.name);
                self.drop_task(&brought.name);
            }
            Change::Released { name, .. } => {
                self.drop_task(name);
                self.logging.remove(name);
                self.failures.remove(name);
            }
            Change::Ordered { name, node, .. } => {
                self.audit_later(now, node);
                self.look_at(now, directory, name);
            }
            Change::Started { name, .. } => {
                if let Some(failures) = self.failures.get_mut(name) {
                    failures.moved_from = None;
                }
                self.look_at(now, directory, name);
            }
            Change::Added { name, .. } | Change::Stopping { name, .. } | Change::Freed { name, .. } => {
                self.look_at(now, directory, name);
            }
        }
        self.handle_tick(now, directory)
    }

    /// A change could not be logged: it is tried again, as long as there is cause to.
    pub fn handle_not_logged(&mut self, now: Moment, change: &Change) {
        let again = now + self.config.log_again_after;
        self.rests_until = again;
        self.redistributes |= matches!(change, Change::Stopping { moves: true, .. });
        match change {
            Change::NodeGone { node } => {
                self.leaving.remove(node);
            }
            // Nobody here has such things logged.
            Change::MetaPut { .. }
            | Change::MetaRemoved { .. }
            | Change::Clock { .. }
            | Change::Brought { .. } => {}
            Change::Claimed { name, .. }
            | Change::Updated { name, .. }
            | Change::Released { name, .. }
            | Change::Added { name, .. }
            | Change::Ordered { name, .. }
            | Change::Started { name, .. }
            | Change::Stopping { name, .. }
            | Change::Freed { name, .. } => {
                self.logging.remove(name);
                if let Some(task) = self.tasks.get(name).copied() {
                    self.put_task(name, Task { logging: false, due: again, ..task });
                }
            }
        }
    }

    /// Time has passed.
    pub fn handle_tick(&mut self, now: Moment, directory: &Directory) -> Vec<Effect> {
        let mut effects = Vec::new();
        if now >= self.rests_until {
            effects.extend(self.bury(directory));
            if std::mem::take(&mut self.redistributes) {
                effects.extend(self.redistribute(directory));
            }
            effects.extend(self.evacuate(directory));
        }
        let due = self.due.iter().take_while(|(due, _)| *due <= now).map(|(_, name)| name.clone());
        let due: Vec<Name> = due.collect();
        let mut frames: BTreeMap<NodeBoot, Vec<Order>> = BTreeMap::new();
        for name in due {
            self.pursue(now, directory, &name, &mut frames, &mut effects);
        }
        self.audit(now, directory, &mut frames);
        effects.extend(self.send(frames));
        let next =
            self.due.first().map(|(due, _)| *due).into_iter().chain(self.audits.values().map(|it| it.due));
        let next = next.chain([self.rests_until]);
        let next = next.filter(|due| *due > now && *due < Moment::MAX);
        effects.extend(next.min().map(Effect::WakeAt));
        effects
    }

    /// Members that are none any more: what they held is to be free.
    fn bury(&mut self, directory: &Directory) -> Vec<Effect> {
        if self.members.is_empty() {
            return Vec::new();
        }
        let gone = directory.nodes().filter(|node| !self.is_member(node) && !self.leaving.contains(*node));
        let gone: Vec<NodeBoot> = gone.cloned().collect();
        self.leaving.extend(gone.iter().cloned());
        gone.into_iter().map(|node| Effect::Commit(Change::NodeGone { node })).collect()
    }

    /// Nodes that are about to go: what runs there is to run elsewhere, as far as it can.
    fn evacuate(&mut self, directory: &Directory) -> Vec<Effect> {
        let leaving = self.members.iter().filter(|member| member.serves && !member.takes);
        let leaving: Vec<NodeBoot> = leaving.map(|member| member.node.clone()).collect();
        let mut effects = Vec::new();
        for node in leaving {
            for name in directory.on_node(&node) {
                effects.extend(self.move_away(directory, name, |_| true));
            }
        }
        effects
    }

    /// The members are others: whatever is to be where its name belongs moves there.
    fn redistribute(&mut self, directory: &Directory) -> Vec<Effect> {
        let mut effects = Vec::new();
        for (name, claim) in directory.iter() {
            let here = claim.child().filter(|child| child.spec.placing == Placing::UniformActive);
            if let Some(node) = here.and_then(|child| child.stage.node()) {
                effects.extend(self.move_away(directory, name, |wanted| wanted != node));
            }
        }
        effects
    }

    /// Moves a child that runs, or is about to, if there is a node for it and that one is meant.
    fn move_away(
        &mut self,
        directory: &Directory,
        name: &Name,
        meant: impl FnOnce(&NodeBoot) -> bool,
    ) -> Vec<Effect> {
        let Some(claim) = directory.get(name) else { return Vec::new() };
        let Some(change) = directory.judge_move(name) else { return Vec::new() };
        if self.logging.get(name) == Some(&claim.number) {
            return Vec::new();
        }
        let (picked, mut effects) = self.pick_anyhow(directory, name);
        if picked.is_some_and(|it| meant(&it)) {
            effects.extend(self.log(name.clone(), claim.number, change));
        }
        effects
    }

    /// Does what a child's stage asks for.
    fn pursue(
        &mut self,
        now: Moment,
        directory: &Directory,
        name: &Name,
        frames: &mut BTreeMap<NodeBoot, Vec<Order>>,
        effects: &mut Vec<Effect>,
    ) {
        let found = directory.get(name).and_then(|claim| Some((claim.number, claim.child()?)));
        let (Some((number, child)), Some(task)) = (found, self.tasks.get(name).copied()) else {
            return self.drop_task(name);
        };
        let serves = child.stage.node().is_some_and(|node| self.serves(node));
        let mut next = Task { due: now + self.config.retry_every, idle: false, ..task };
        match &child.stage {
            Stage::Waiting => match self.place(now, directory, name, task, effects) {
                Ok(change) => {
                    next.logging = true;
                    effects.push(Effect::Commit(change));
                }
                Err(due) => (next.idle, next.due) = (true, due),
            },
            Stage::Starting { .. } if serves && now.since(task.since) > self.config.start_within => {
                next.logging = true;
                let moves = true;
                effects.push(Effect::Commit(Change::Stopping { name: name.clone(), number, moves }));
            }
            Stage::Starting { node } if serves => {
                let (spec, handed) = (child.spec.clone(), child.handed.clone());
                let order = Order::Start { name: name.clone(), number, spec, handed };
                frames.entry(node.clone()).or_default().push(order);
            }
            Stage::Stopping { node, moves } if serves => {
                let order = Order::Stop { name: name.clone(), number, moves: *moves };
                frames.entry(node.clone()).or_default().push(order);
            }
            // Its node is gone, and about to be told so.
            Stage::Starting { .. } | Stage::Stopping { .. } => {}
            Stage::Running { .. } => return self.drop_task(name),
        }
        self.put_task(name, next);
    }

    fn put_task(&mut self, name: &Name, task: Task) {
        self.drop_task(name);
        if !task.logging {
            self.due.insert((task.due, name.clone()));
        }
        self.tasks.insert(name.clone(), task);
    }

    fn drop_task(&mut self, name: &Name) {
        if let Some(task) = self.tasks.remove(name) {
            self.due.remove(&(task.due, name.clone()));
        }
    }

    /// Whether a waiting child has nobody to run it, as far as was known when it was looked for one.
    fn is_idle(&self, name: &Name) -> bool {
        self.tasks.get(name).is_none_or(|task| task.idle)
    }

    /// Asks nodes what they still have of what stands here, some names at a time.
    fn audit(&mut self, now: Moment, directory: &Directory, frames: &mut BTreeMap<NodeBoot, Vec<Order>>) {
        self.audits.retain(|node, _| directory.count_on(node) > 0);
        let due = self.audits.iter().filter(|(_, audit)| audit.due <= now).map(|(node, _)| node.clone());
        for node in due.collect::<Vec<_>>() {
            if !self.serves(&node) {
                continue;
            }
            let Some(audit) = self.audits.get_mut(&node) else { continue };
            let from = audit.done.as_ref().map_or(Bound::Unbounded, |done| Bound::Excluded(done.clone()));
            let (mut running, mut held) = (Vec::new(), Vec::new());
            let mut last = None;
            for name in directory.on_node_from(&node, from).take(self.config.frame_orders_max.max(1)) {
                last = Some(name.clone());
                let Some(claim) = directory.get(name) else { continue };
                match (&claim.held, claim.holder()) {
                    (Held::Child(_), Some(_)) => running.push((name.clone(), claim.number)),
                    (Held::Plain(holder), _) => held.push((name.clone(), holder.actor)),
                    (Held::Child(_), None) => {}
                }
            }
            audit.asked = last;
            audit.due = now + self.config.retry_every;
            frames.entry(node).or_default().push(Order::Audit { running, held });
        }
    }

    /// A node has answered all that it was asked about: on to the next names, or it rests.
    fn handle_audited(&mut self, now: Moment, directory: &Directory, node: &NodeBoot) {
        let every = self.config.audit_every;
        let Some(audit) = self.audits.get_mut(node) else { return };
        audit.done = audit.asked.take();
        let from = audit.done.clone().map(Bound::Excluded);
        let more = from.is_some_and(|from| directory.on_node_from(node, from).next().is_some());
        audit.due = if more { now } else { now + every };
        if !more {
            audit.done = None;
        }
    }

    fn audit_all(&mut self, now: Moment, directory: &Directory) {
        let audit = |node: &NodeBoot| (node.clone(), Audit { due: now, asked: None, done: None });
        self.audits = directory.nodes().map(audit).collect();
    }

    fn audit_later(&mut self, now: Moment, node: &NodeBoot) {
        if !self.audits.contains_key(node) {
            let due = now + self.config.audit_every;
            self.audits.insert(node.clone(), Audit { due, asked: None, done: None });
        }
    }

    fn send(&mut self, frames: BTreeMap<NodeBoot, Vec<Order>>) -> Vec<Effect> {
        let mut effects = Vec::new();
        for (to, mut orders) in frames {
            while !orders.is_empty() {
                let rest = orders.split_off(orders.len().min(self.config.frame_orders_max.max(1)));
                self.stamps += 1;
                let stamp = Stamp { epoch: self.epoch, number: self.stamps };
                let frame = Frame { directory: self.directory, stamp, plan: self.plan, orders };
                effects.push(Effect::Send { to: to.clone(), frame });
                orders = rest;
            }
        }
        effects
    }

    /// What a child's stage asks for is looked at anew.
    fn look_at(&mut self, now: Moment, directory: &Directory, name: &Name) {
        self.logging.remove(name);
        let Some(child) = directory.get(name).and_then(|claim| claim.child()) else {
            return self.drop_task(name);
        };
        let due = match &child.stage {
            Stage::Waiting => now + self.failures.get(name).map_or(Duration::ZERO, |it| self.backoff(it)),
            Stage::Starting { .. } | Stage::Stopping { .. } => now,
            Stage::Running { .. } => return self.drop_task(name),
        };
        self.put_task(name, Task { since: now, due, logging: false, idle: false });
    }

    fn backoff(&self, failures: &Failures) -> Duration {
        let Some(doublings) = failures.in_a_row.checked_sub(1) else { return Duration::ZERO };
        self.config.backoff_first.saturating_mul(1 << doublings.min(20)).min(self.config.backoff_longest)
    }
}
