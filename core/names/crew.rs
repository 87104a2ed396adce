//! What one node runs for all directories: each start that it is told of once, and nothing that it was told to end.
//!
//! ```text
//!  Orders{stamp, ··} ─ newer than the last from there? ─▶ Start ─▶ Spawn ─▶ Started
//!                          no: of another time, ignored   Stop  ─▶ Kill ──▶ Ended
//!                                                         Audit ─▶ whatever does not run here any more
//! ```
//!
//! An order carries the directory's epoch and a number that rises with each frame: a start that was delayed until after its
//! stop is ignored, and so is whatever a former primary still sends. So nothing has to be remembered of what was stopped.
//! It carries the plan by which it was sent, too: what was sent to a member that then was removed, and is one again by the
//! same boot, is ignored as well.

mod keeping;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::ids::{Epoch, PartitionId, Version};
use crate::names::claim::{ClaimNumber, Spec};
use crate::names::name::Name;
use crate::supervision::{Exit, Restart};

use self::keeping::{KEPT, Kept};

/// When a directory sent something: by its epoch, and in that by number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Stamp {
    /// Under which epoch its primary serves.
    pub epoch: Epoch,
    /// One more for each frame.
    pub number: u64,
}

/// What travels from a directory's primary to a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frame {
    /// Which directory.
    pub directory: PartitionId,
    /// When it was sent.
    pub stamp: Stamp,
    /// The newest plan that its sender knew: by it the node is a member.
    pub plan: Version,
    /// What the node is told.
    pub orders: Vec<Order>,
}

/// What a node is told. Sent again until it is answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Order {
    /// Run this. Answered by [`Answer::Started`] or [`Answer::NotStarted`].
    Start {
        /// Under which name.
        name: Name,
        /// Which start this is.
        number: ClaimNumber,
        /// What to run.
        spec: Arc<Spec>,
        /// What the last instance handed over.
        handed: Bytes,
    },
    /// End this, and never start it. Answered by [`Answer::Ended`].
    Stop {
        /// Under which name.
        name: Name,
        /// Which start.
        number: ClaimNumber,
        /// Whether it goes on elsewhere: then it may hand something over.
        moves: bool,
    },
    /// What was said of this start was heard, and need not be said again.
    Forget {
        /// Which start.
        number: ClaimNumber,
    },
    /// The directory believes that these run here, and that those actors hold these names: tell which do not. Answered by
    /// [`Answer::Audited`], after what is to be told.
    Audit {
        /// Starts.
        running: Vec<(Name, ClaimNumber)>,
        /// Names, with the numbers of their actors.
        held: Vec<(Name, u64)>,
    },
}

impl Order {
    /// The names of what is to run, or runs, on the node that is told.
    fn names(&self) -> Vec<(&Name, ClaimNumber)> {
        match self {
            Self::Start { name, number, .. } | Self::Stop { name, number, .. } => vec![(name, *number)],
            Self::Audit { running, .. } => running.iter().map(|(name, number)| (name, *number)).collect(),
            Self::Forget { .. } => Vec::new(),
        }
    }
}

/// What a node says of an order, or by itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// It runs.
    Started {
        /// Under which name.
        name: Name,
        /// Which start.
        number: ClaimNumber,
        /// Its actor.
        actor: u64,
    },
    /// It could not be started, and never will be under this number.
    NotStarted {
        /// Under which name.
        name: Name,
        /// Which start.
        number: ClaimNumber,
        /// Why.
        why: NotStarted,
    },
    /// It runs no more, and never will under this number.
    Ended {
        /// Under which name.
        name: Name,
        /// Which start.
        number: ClaimNumber,
        /// How. `None`: nothing is known of it here.
        exit: Option<Exit>,
        /// What it hands to the next instance.
        handed: Option<Bytes>,
    },
    /// The actor that held a name is gone.
    Gone {
        /// Which name.
        name: Name,
        /// Which actor.
        actor: u64,
    },
    /// All was looked at that was asked about.
    Audited,
}

/// Why an instance did not start.
#[derive(Clone, Debug, PartialEq, Eq, Hash, thiserror::Error, Serialize, Deserialize)]
pub enum NotStarted {
    /// No factory was registered for its kind on this node.
    #[error("no factory for its kind is registered there")]
    NoSuchKind,
    /// Its factory said that it is not to run. Nothing is tracked.
    #[error("its factory said that it is not to run")]
    Ignored,
    /// Its factory failed, or panicked.
    #[error("its factory failed: {0}")]
    Failed(String),
    /// Its factory did not return in time.
    #[error("its factory did not return in time")]
    TimedOut,
    /// The node runs as many as it may.
    #[error("the node runs as many children as it may")]
    Full,
}

/// What the node's actor is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Start an instance. Answered by [`Crew::handle_started`] or [`Crew::handle_not_started`].
    Spawn {
        /// Whose.
        instance: InstanceId,
        /// Under which name.
        name: Name,
        /// What to run.
        spec: Arc<Spec>,
        /// What the last instance handed over.
        handed: Bytes,
    },
    /// End an instance. Answered by [`Crew::handle_ended`].
    Kill {
        /// Which.
        instance: InstanceId,
        /// Its actor.
        actor: u64,
        /// Whether it goes on elsewhere: then it may hand something over.
        moves: bool,
    },
    /// Say this to whoever is primary of the directory.
    Tell {
        /// Which directory.
        directory: PartitionId,
        /// What.
        answer: Answer,
    },
    /// What is known as `from` is known as `to` from now on: it runs on.
    Rename {
        /// As what it was known.
        from: InstanceId,
        /// As what it is from now on.
        to: InstanceId,
    },
    /// What ran here when the node ceased to be a member, or left its cluster, has ended.
    Cleared,
}

/// One start, anywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InstanceId {
    /// Which directory ordered it.
    pub directory: PartitionId,
    /// Its number there.
    pub number: ClaimNumber,
}

/// The most instances on one node.
pub const INSTANCES_MAX: usize = 1 << 20;

#[derive(Clone, Debug)]
struct Instance {
    name: Name,
    restart: Restart,
    state: State,
}

#[derive(Clone, Debug)]
enum State {
    Starting {
        /// It is to be ended as soon as it runs; `Some(true)` where it moves.
        stop: Option<bool>,
    },
    Running {
        actor: u64,
    },
    Stopping,
    /// Told until the directory has heard it.
    Over(Answer),
}

/// The law of one node's children.
#[derive(Clone, Debug, Default)]
pub struct Crew {
    instances: BTreeMap<InstanceId, Instance>,
    /// What runs on without a directory, each under its name.
    kept: BTreeMap<Name, Kept>,
    kept_last: u64,
    newest: BTreeMap<PartitionId, Stamp>,
    /// By which plan this boot is a member that may serve; `None` where it is none.
    since: Option<Version>,
    /// By which plan this boot is a member again, as long as something from before it ceased to be one has not ended.
    again: Option<Version>,
}

impl Crew {
    /// A plan says whether this boot may serve. Where it may not, all ends that runs here, and nothing is started. Where it may
    /// again, nothing is started either before all of that has ended: see [`Self::is_clearing`].
    pub fn handle_membership(&mut self, plan: Version, serves: bool) -> Vec<Effect> {
        match (self.since, serves) {
            (None, true) if self.instances.is_empty() => self.since = Some(plan),
            (None, true) => {
                self.again.get_or_insert(plan);
            }
            (None, false) => self.again = None,
            (Some(_), true) => {}
            (Some(_), false) => return self.clear(),
        }
        Vec::new()
    }

    /// The node left its cluster for another one, whose directories number what they send anew: all ends that runs here.
    pub fn handle_left(&mut self) -> Vec<Effect> {
        self.newest.clear();
        self.again = None;
        if self.since.is_some() { self.clear() } else { Vec::new() }
    }

    /// Whether something runs yet that was to end because the node ceased to be a member. A plan is acted on only once it does
    /// not: by the next one the node may have its lease, and nothing from before may answer under that. [`Effect::Cleared`]
    /// says when.
    pub fn is_clearing(&self) -> bool {
        self.since.is_none() && !self.instances.is_empty()
    }

    fn clear(&mut self) -> Vec<Effect> {
        self.since = None;
        // Nobody will ask how these ended: to the directories the whole node is gone.
        self.instances.retain(|_, instance| !matches!(instance.state, State::Over(_)));
        let mut effects = Vec::new();
        for (id, instance) in &mut self.instances {
            instance.stop(*id, false, &mut effects);
        }
        effects.extend(self.cleared());
        effects
    }

    /// Orders came. `holds` says whether an actor of this node still is there and wants that name.
    pub fn handle_orders(&mut self, frame: Frame, holds: impl Fn(&Name, u64) -> bool) -> Vec<Effect> {
        let Frame { directory, stamp, plan, orders } = frame;
        let newest = self.newest.entry(directory).or_default();
        if stamp <= *newest || self.since.is_none_or(|since| plan < since) {
            return Vec::new();
        }
        *newest = stamp;
        let mut effects = Vec::new();
        for order in orders {
            // It knows already what runs on here.
            for (name, number) in order.names() {
                effects.extend(self.handle_adopted(name, directory, number));
            }
            match order {
                Order::Start { name, number, spec, handed } => {
                    let id = InstanceId { directory, number };
                    effects.extend(self.start(id, name, spec, handed));
                }
                Order::Stop { name, number, moves } => {
                    let id = InstanceId { directory, number };
                    match self.instances.get_mut(&id) {
                        Some(instance) => instance.stop(id, moves, &mut effects),
                        None => {
                            let answer = Answer::Ended { name, number, exit: None, handed: None };
                            effects.push(Effect::Tell { directory, answer });
                        }
                    }
                }
                Order::Forget { number } => {
                    let id = InstanceId { directory, number };
                    let over = |instance: &Instance| matches!(instance.state, State::Over(_));
                    if self.instances.get(&id).is_some_and(over) {
                        self.instances.remove(&id);
                    }
                }
                Order::Audit { running, held } => {
                    for (name, number) in running {
                        let known = self.instances.get(&InstanceId { directory, number });
                        let answer = match known.map(|instance| &instance.state) {
                            None => Answer::Ended { name, number, exit: None, handed: None },
                            Some(State::Over(answer)) => answer.clone(),
                            Some(State::Starting { .. } | State::Running { .. } | State::Stopping) => {
                                continue;
                            }
                        };
                        effects.push(Effect::Tell { directory, answer });
                    }
                    let gone = held.into_iter().filter(|(name, actor)| !holds(name, *actor));
                    effects.extend(gone.map(|(name, actor)| Effect::Tell {
                        directory,
                        answer: Answer::Gone { name, actor },
                    }));
                    effects.push(Effect::Tell { directory, answer: Answer::Audited });
                }
            }
        }
        effects
    }

    fn start(&mut self, id: InstanceId, name: Name, spec: Arc<Spec>, handed: Bytes) -> Option<Effect> {
        let (directory, number) = (id.directory, id.number);
        let tell = |answer| Some(Effect::Tell { directory, answer });
        if let Some(instance) = self.instances.get(&id) {
            return match &instance.state {
                State::Running { actor } => tell(Answer::Started { name, number, actor: *actor }),
                State::Over(answer) => tell(answer.clone()),
                State::Starting { .. } | State::Stopping => None,
            };
        }
        if self.instances.len() >= INSTANCES_MAX {
            return tell(Answer::NotStarted { name, number, why: NotStarted::Full });
        }
        let state = State::Starting { stop: None };
        self.instances.insert(id, Instance { name: name.clone(), restart: spec.restart, state });
        Some(Effect::Spawn { instance: id, name, spec, handed })
    }

    /// An instance runs.
    pub fn handle_started(&mut self, id: InstanceId, actor: u64) -> Vec<Effect> {
        let Some(instance) = self.instances.get_mut(&id) else { return Vec::new() };
        let State::Starting { stop } = instance.state else { return Vec::new() };
        instance.state = State::Running { actor };
        let mut effects = Vec::new();
        match stop {
            Some(moves) => instance.stop(id, moves, &mut effects),
            None => {
                let answer = Answer::Started { name: instance.name.clone(), number: id.number, actor };
                effects.push(Effect::Tell { directory: id.directory, answer });
            }
        }
        effects
    }

    /// An instance could not be started.
    pub fn handle_not_started(&mut self, id: InstanceId, why: NotStarted) -> Vec<Effect> {
        let Some(instance) = self.instances.get(&id) else { return Vec::new() };
        let answer = Answer::NotStarted { name: instance.name.clone(), number: id.number, why };
        self.end(id, answer)
    }

    /// An instance ended, by itself or because it was to.
    pub fn handle_ended(&mut self, id: InstanceId, exit: Exit, handed: Option<Bytes>) -> Vec<Effect> {
        if id.directory == KEPT {
            // Whoever brings it along finds that.
            self.kept.retain(|_, kept| kept.id != id);
            return Vec::new();
        }
        let Some(instance) = self.instances.get(&id) else { return Vec::new() };
        let answer =
            Answer::Ended { name: instance.name.clone(), number: id.number, exit: Some(exit), handed };
        self.end(id, answer)
    }

    fn end(&mut self, id: InstanceId, answer: Answer) -> Vec<Effect> {
        if self.since.is_none() {
            self.instances.remove(&id);
            return self.cleared().into_iter().collect();
        }
        if let Some(instance) = self.instances.get_mut(&id) {
            instance.state = State::Over(answer.clone());
        }
        vec![Effect::Tell { directory: id.directory, answer }]
    }

    /// Time has passed: says again what was not heard.
    pub fn handle_tick(&self) -> Vec<Effect> {
        let over = |(id, instance): (&InstanceId, &Instance)| match &instance.state {
            State::Over(answer) => Some(Effect::Tell { directory: id.directory, answer: answer.clone() }),
            State::Starting { .. } | State::Running { .. } | State::Stopping => None,
        };
        self.instances.iter().filter_map(over).collect()
    }

    /// What runs here, starts or ends.
    pub fn instances(&self) -> Vec<InstanceId> {
        let there = |(id, instance): (&InstanceId, &Instance)| {
            (!matches!(instance.state, State::Over(_))).then_some(*id)
        };
        let kept = self.kept.values().map(|kept| kept.id);
        self.instances.iter().filter_map(there).chain(kept).collect()
    }

    fn cleared(&mut self) -> Option<Effect> {
        let cleared = self.since.is_none() && self.instances.is_empty();
        cleared.then(|| {
            self.since = self.again.take();
            Effect::Cleared
        })
    }

    /// How many run, and how many of these are always started again.
    pub fn running(&self) -> (usize, usize) {
        let runs = |instance: &&Instance| matches!(instance.state, State::Running { .. });
        let singletons = |instance: &&Instance| instance.restart == Restart::Permanent;
        let running = || self.instances.values().filter(runs);
        (running().count(), running().filter(singletons).count())
    }

    /// How many instances there are, those that start or end included.
    pub fn len(&self) -> usize {
        let there = |instance: &&Instance| !matches!(instance.state, State::Over(_));
        self.instances.values().filter(there).count()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Instance {
    fn stop(&mut self, id: InstanceId, moves: bool, effects: &mut Vec<Effect>) {
        match &mut self.state {
            // To end is the last word; a move gives way to it.
            State::Starting { stop } => *stop = Some(stop.unwrap_or(true) && moves),
            State::Running { actor } => {
                effects.push(Effect::Kill { instance: id, actor: *actor, moves });
                self.state = State::Stopping;
            }
            State::Stopping => {}
            State::Over(answer) => {
                effects.push(Effect::Tell { directory: id.directory, answer: answer.clone() });
            }
        }
    }
}
