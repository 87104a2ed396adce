//! What this node runs for the directories, and the agents of those that it leads.
//!
//! ```text
//!  Orders ─▶ Crew (core) ─ Spawn, Kill ─▶ ChildActor × n      plan ─▶ DirectoryAgent × directories led here
//!  answers ◀────┘  ▲ started, ended ◀──────┘
//! ```
//!
//! The crew belongs to the node: an actor that crashed comes back to what it was told, though not to the children, which end
//! with it and are started again by their directories.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use ractor::{Actor, ActorId, ActorProcessingErr, ActorRef, SpawnErr, SupervisionEvent};
use tokio::task::JoinHandle;
use tumen_core::cluster::snapshot::Snapshot;
use tumen_core::ids::{GroupId, NodeBoot, PartitionId};
use tumen_core::names::crew::{Answer, Effect, Frame, InstanceId, NotStarted};
use tumen_core::names::{ClaimNumber, Name, Reason, directory_of};
use tumen_core::partitions::fence::Fence;
use tumen_core::supervision::Exit;

use super::Names;
use super::child::{ChildActor, ChildMsg, ChildPlace, Legacy, STOP_WITHIN};
use super::directory_agent::{DirectoryAgent, DirectoryAgentMsg};
use super::registry::Local;
use super::wire::Supervision;

/// How often what was not heard is said again.
const SAY_AGAIN_EVERY: Duration = Duration::from_millis(500);
/// About how long one message of answers is.
const ANSWERS_LEN: usize = 1 << 20;
/// How long after a failure an agent is started again.
const AGENT_AGAIN_AFTER: Duration = Duration::from_millis(100);

/// What the supervisor's mailbox takes.
#[derive(Debug)]
pub enum DistributedSupervisorMsg {
    /// A plan was committed.
    Plan(Arc<Snapshot>),
    /// This node left its cluster.
    Left,
    /// This directory begins anew with less than it had.
    DirectoryLost(PartitionId),
    /// The directory of a name has what runs on here under it.
    Adopted(Name, ClaimNumber),
    /// What runs on here under a name ends: another has that.
    Forsaken(Name, Reason),
    /// Another side of the cluster may have the names of some that run here.
    Look,
    /// A directory's primary tells this node what to run.
    Orders(Frame),
    /// A child did not start. A supervisor hears nothing of one that ends before it began.
    NotStarted(InstanceId, NotStarted),
    /// A child that was told to end has had its time.
    Overdue(InstanceId, ActorId),
    /// Some time has passed.
    Tick,
    /// An agent failed a while ago.
    AgentAgain,
}

impl ractor::Message for DistributedSupervisorMsg {}

/// The actor.
pub struct DistributedSupervisor {
    names: Names,
}

struct Instance {
    child: ActorRef<ChildMsg>,
    /// Its number on this run of the node.
    actor: u64,
    legacy: Legacy,
}

struct Agent {
    fence: Fence,
    actor: ActorRef<DirectoryAgentMsg>,
}

/// What it holds.
pub struct DistributedSupervisorState {
    plan: Option<Arc<Snapshot>>,
    instances: BTreeMap<InstanceId, Instance>,
    by_actor: BTreeMap<ActorId, InstanceId>,
    agents: BTreeMap<PartitionId, Agent>,
}

type Myself = ActorRef<DistributedSupervisorMsg>;

impl DistributedSupervisor {
    /// The supervisor of this node.
    pub const fn new(names: Names) -> Self {
        Self { names }
    }

    fn with_crew<T>(&self, act: impl FnOnce(&mut tumen_core::names::crew::Crew) -> T) -> T {
        act(&mut self.names.shared.crew.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn run(&self, myself: &Myself, state: &mut DistributedSupervisorState, effects: Vec<Effect>) {
        let mut answers: BTreeMap<PartitionId, Vec<Answer>> = BTreeMap::new();
        let mut effects = std::collections::VecDeque::from(effects);
        while let Some(effect) = effects.pop_front() {
            match effect {
                Effect::Spawn { instance, name, spec, handed } => {
                    let Some(start) = self.names.shared.kinds.get(&spec.kind) else {
                        let more =
                            self.with_crew(|crew| crew.handle_not_started(instance, NotStarted::NoSuchKind));
                        effects.extend(more);
                        continue;
                    };
                    let place = ChildPlace {
                        name,
                        number: instance.number,
                        node: self.names.shared.me.clone(),
                        args: spec.args.clone(),
                        handed,
                    };
                    self.spawn(myself, state, instance, place, start);
                }
                Effect::Kill { instance, moves, .. } => {
                    let Some(running) = state.instances.get(&instance) else { continue };
                    let reason = if moves { Reason::Moved } else { Reason::Normal };
                    self.names.shared.registry.forget(running.actor, reason);
                    // One that just ended has nothing to say.
                    drop(running.child.cast(ChildMsg::Stop { moves }));
                    let (id, myself) = (running.child.get_id(), myself.clone());
                    tokio::spawn(async move {
                        // It has as much again as its last words may take, for what it is in the middle of.
                        tokio::time::sleep(2 * STOP_WITHIN).await;
                        drop(myself.cast(DistributedSupervisorMsg::Overdue(instance, id)));
                    });
                }
                Effect::Tell { directory, answer } => answers.entry(directory).or_default().push(answer),
                Effect::Rename { .. } => drop(self.rename(state, vec![effect])),
                Effect::Cleared => {
                    if let Some(plan) = &state.plan {
                        self.names.note_acted(plan);
                    }
                }
            }
        }
        self.tell(answers);
    }

    /// Says these to whoever is primary of each directory, as far as this node knows. What is lost is said again.
    fn tell(&self, answers: BTreeMap<PartitionId, Vec<Answer>>) {
        let mut by_node: BTreeMap<NodeBoot, Vec<(PartitionId, Answer)>> = BTreeMap::new();
        let Some(cluster) = self.names.shared.plans.cluster() else { return };
        let table = self.names.shared.router.table();
        for (directory, said) in answers {
            if let Ok(located) = table.primary_of(directory) {
                let said = said.into_iter().map(|answer| (directory, answer));
                by_node.entry(located.primary.clone()).or_default().extend(said);
            }
        }
        drop(table);
        for (node, said) in by_node {
            let (mut some, mut len) = (Vec::new(), 0);
            for (directory, answer) in said {
                len += len_of(&answer);
                // What many children hand over at once would be more than one message may hold, and never be heard.
                if len > ANSWERS_LEN && !some.is_empty() {
                    let said = std::mem::take(&mut some);
                    self.names.send(&node, Supervision::Answers { cluster, said });
                    len = len_of(&answer);
                }
                match some.last_mut() {
                    Some((of, said)) if *of == directory => said.push(answer),
                    _ => some.push((directory, vec![answer])),
                }
            }
            self.names.send(&node, Supervision::Answers { cluster, said: some });
        }
    }

    fn spawn(
        &self,
        myself: &Myself,
        state: &mut DistributedSupervisorState,
        instance: InstanceId,
        place: ChildPlace,
        start: super::child::StartChild,
    ) {
        let (waiting, legacy) = (Arc::new(AtomicUsize::new(0)), Legacy::default());
        let not_started = Arc::new(Mutex::new(None));
        let child = ChildActor {
            gate: self.names.shared.gate.clone(),
            waiting: Arc::clone(&waiting),
            legacy: legacy.clone(),
            start,
            not_started: Arc::clone(&not_started),
        };
        // Instantly: a slow start of one child must not hold up the others.
        match ractor::ActorRuntime::spawn_linked_instant(None, child, place, myself.get_cell()) {
            Ok((child, started)) => {
                let actor = self.names.shared.registry.next_number();
                let local = Local::child(child.clone(), waiting, self.names.shared.clock.unix());
                self.names.shared.registry.add(actor, local);
                state.by_actor.insert(child.get_id(), instance);
                state.instances.insert(instance, Instance { child, actor, legacy });
                tokio::spawn(tell_not_started(myself.clone(), instance, started, not_started));
            }
            Err(error) => {
                let why = NotStarted::Failed(error.to_string());
                drop(myself.cast(DistributedSupervisorMsg::NotStarted(instance, why)));
            }
        }
    }

    fn forget(
        &self,
        state: &mut DistributedSupervisorState,
        instance: InstanceId,
        why: Reason,
    ) -> Option<Instance> {
        let running = state.instances.remove(&instance)?;
        state.by_actor.remove(&running.child.get_id());
        self.names.shared.registry.forget(running.actor, why);
        Some(running)
    }

    fn handle_ended(
        &self,
        myself: &Myself,
        state: &mut DistributedSupervisorState,
        actor: ActorId,
        exit: Exit,
    ) {
        if let Some(instance) = state.by_actor.get(&actor).copied() {
            let why = match &exit {
                Exit::Normal => Reason::Normal,
                Exit::Failed(why) => Reason::Crashed(why.clone()),
            };
            let handed = self.forget(state, instance, why).and_then(|running| running.legacy.take());
            let effects = self.with_crew(|crew| crew.handle_ended(instance, exit, handed));
            return self.run(myself, state, effects);
        }
        let agent = state.agents.iter().find(|(_, agent)| agent.actor.get_id() == actor);
        if let Some(directory) = agent.map(|(directory, _)| *directory) {
            if let Exit::Failed(why) = exit {
                tracing::warn!(%directory, %why, "a directory's agent failed; it is started again");
            }
            state.agents.remove(&directory);
            self.names.shared.agents.remove(&directory);
            drop(myself.send_after(AGENT_AGAIN_AFTER, || DistributedSupervisorMsg::AgentAgain));
        }
    }

    fn handle_plan(&self, myself: &Myself, state: &mut DistributedSupervisorState, plan: &Arc<Snapshot>) {
        if state.plan.as_ref().is_some_and(|known| known.version >= plan.version) {
            return;
        }
        state.plan = Some(Arc::clone(plan));
        let me = &self.names.shared.me;
        let serves = plan
            .member(me.node.as_str())
            .is_some_and(|member| member.id() == me && member.status.may_serve());
        self.names.shared.registry.set_open(serves);
        if serves {
            self.names.shared.bringing.handle_arrived();
        }
        let effects = self.with_crew(|crew| crew.handle_membership(plan.version, serves));
        let clears = self.with_crew(|crew| crew.is_clearing());
        self.run(myself, state, effects);
        // While what runs here has to end first, it is noted once it has.
        if !clears {
            self.names.note_acted(plan);
        }
        self.look_after_agents(myself, state);
    }

    /// All ends that runs here for the directories of the cluster that was left, and whoever watches is told why.
    fn handle_left(&self, myself: &Myself, state: &mut DistributedSupervisorState) {
        state.plan = None;
        self.names.shared.registry.set_open(false);
        for (directory, agent) in std::mem::take(&mut state.agents) {
            agent.actor.stop(None);
            self.names.shared.agents.remove(&directory);
        }
        let effects = if self.names.shared.sides {
            self.with_crew(|crew| crew.handle_left_side())
        } else {
            self.with_crew(|crew| crew.handle_left())
        };
        let effects = self.rename(state, effects);
        for (id, running) in &state.instances {
            if !self.with_crew(|crew| crew.is_kept(*id)) {
                self.names.shared.registry.forget(running.actor, Reason::Dropped);
            }
        }
        self.run(myself, state, effects);
    }

    /// Carries out those effects that say as what something is known from now on.
    fn rename(&self, state: &mut DistributedSupervisorState, effects: Vec<Effect>) -> Vec<Effect> {
        let mut carry_out = |effect: &Effect| {
            let Effect::Rename { from, to } = effect else { return false };
            if let Some(running) = state.instances.remove(from) {
                state.by_actor.insert(running.child.get_id(), *to);
                state.instances.insert(*to, running);
            }
            true
        };
        effects.into_iter().filter(|effect| !carry_out(effect)).collect()
    }

    /// Another has the name of something that runs here.
    fn handle_forsaken(
        &self,
        myself: &Myself,
        state: &mut DistributedSupervisorState,
        effects: Vec<Effect>,
        why: &Reason,
    ) {
        for effect in &effects {
            if let Effect::Kill { actor, .. } = effect {
                // Whoever watches it is told why before it ends.
                self.names.shared.registry.forget(*actor, why.clone());
            }
        }
        self.run(myself, state, effects);
    }

    /// Ends what runs here under numbers that are over: another side of the cluster has the name.
    fn look_for_outdated(&self, myself: &Myself, state: &mut DistributedSupervisorState) {
        let table = &self.names.shared.table;
        let outdated = |(name, id, _): (&Name, InstanceId, u64)| {
            Some((id, Reason::Conflict(table.after_claim(name, id.number)?)))
        };
        let outdated: Vec<_> = self.with_crew(|crew| crew.running_for().filter_map(outdated).collect());
        for (id, why) in outdated {
            let effects = self.with_crew(|crew| crew.handle_outdated(id));
            self.handle_forsaken(myself, state, effects, &why);
        }
    }

    /// Each directory that this boot is primary of has its agent; others have none here.
    fn look_after_agents(&self, myself: &Myself, state: &mut DistributedSupervisorState) {
        let Some(plan) = state.plan.clone() else { return };
        let me = &self.names.shared.me;
        let led = plan.partitions().filter_map(|(partition, assignment)| {
            let names = partition.group == GroupId::Names;
            let mine = names && plan.primary(assignment).is_some_and(|primary| primary.id() == me);
            mine.then(|| Fence { generation: plan.generation, partition, epoch: assignment.epoch })
        });
        let led: BTreeMap<PartitionId, Fence> = led.map(|fence| (fence.partition, fence)).collect();
        state.agents.retain(|directory, agent| {
            let stays = led.get(directory) == Some(&agent.fence);
            if stays {
                drop(agent.actor.cast(DirectoryAgentMsg::Plan(Arc::clone(&plan))));
            } else {
                agent.actor.stop(None);
                self.names.shared.agents.remove(directory);
            }
            stays
        });
        for (directory, fence) in led {
            if state.agents.contains_key(&directory) {
                continue;
            }
            let agent = DirectoryAgent::new(self.names.clone(), fence);
            let cell = myself.get_cell();
            match ractor::ActorRuntime::spawn_linked_instant(None, agent, Arc::clone(&plan), cell) {
                Ok((actor, _)) => {
                    self.names.shared.agents.insert(directory, actor.clone());
                    state.agents.insert(directory, Agent { fence, actor });
                }
                Err(error) => tracing::error!(%directory, %error, "a directory's agent cannot be spawned"),
            }
        }
    }
}

/// About how long an answer is.
fn len_of(answer: &Answer) -> usize {
    let name = |name: &Name| 64 + name.as_bytes().len();
    match answer {
        Answer::Started { name: of, .. } | Answer::Gone { name: of, .. } => name(of),
        Answer::NotStarted { name: of, why, .. } => name(of) + why.to_string().len(),
        Answer::Ended { name: of, exit, handed, .. } => {
            let why = match exit {
                Some(Exit::Failed(why)) => why.len(),
                Some(Exit::Normal) | None => 0,
            };
            name(of) + why + handed.as_ref().map_or(0, Bytes::len)
        }
        Answer::Audited => 16,
    }
}

/// Waits until a child has started, and tells its supervisor if it has not.
async fn tell_not_started<T>(
    supervisor: Myself,
    instance: InstanceId,
    started: JoinHandle<Result<T, SpawnErr>>,
    why: Arc<Mutex<Option<NotStarted>>>,
) {
    let text = match started.await {
        Ok(Ok(_)) => return,
        Ok(Err(error)) => error.to_string(),
        Err(error) => error.to_string(),
    };
    let why = why.lock().unwrap_or_else(PoisonError::into_inner).take();
    let why = why.unwrap_or(NotStarted::Failed(text));
    // Whoever supervised it may be gone by now.
    drop(supervisor.cast(DistributedSupervisorMsg::NotStarted(instance, why)));
}

impl Actor for DistributedSupervisor {
    type Msg = DistributedSupervisorMsg;
    type State = DistributedSupervisorState;
    type Arguments = ();

    async fn pre_start(&self, myself: Myself, (): ()) -> Result<Self::State, ActorProcessingErr> {
        // It ends with this actor.
        drop(myself.send_interval(SAY_AGAIN_EVERY, || DistributedSupervisorMsg::Tick));
        let mut state = DistributedSupervisorState {
            plan: None,
            instances: BTreeMap::new(),
            by_actor: BTreeMap::new(),
            agents: BTreeMap::new(),
        };
        self.names.shared.agents.clear();
        // What a former life of this actor ran ended with it.
        let failed = Exit::Failed("its supervisor failed".into());
        let left = self.with_crew(|crew| crew.instances());
        for instance in left {
            let effects = self.with_crew(|crew| crew.handle_ended(instance, failed.clone(), None));
            self.run(&myself, &mut state, effects);
        }
        Ok(state)
    }

    async fn handle(
        &self,
        myself: Myself,
        message: Self::Msg,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            DistributedSupervisorMsg::Plan(plan) => self.handle_plan(&myself, state, &plan),
            DistributedSupervisorMsg::Left => self.handle_left(&myself, state),
            DistributedSupervisorMsg::DirectoryLost(directory) => {
                let effects = self.with_crew(|crew| crew.handle_directory_lost(directory));
                self.run(&myself, state, effects);
            }
            DistributedSupervisorMsg::Adopted(name, number) => {
                let effect = self.with_crew(|crew| crew.handle_adopted(&name, directory_of(&name), number));
                self.run(&myself, state, effect.into_iter().collect());
            }
            DistributedSupervisorMsg::Forsaken(name, why) => {
                let effect = self.with_crew(|crew| crew.handle_forsaken(&name));
                self.handle_forsaken(&myself, state, effect.into_iter().collect(), &why);
            }
            DistributedSupervisorMsg::Look => self.look_for_outdated(&myself, state),
            DistributedSupervisorMsg::Orders(frame) => {
                let registry = &self.names.shared.registry;
                let effects = self
                    .with_crew(|crew| crew.handle_orders(frame, |name, actor| registry.holds(name, actor)));
                self.run(&myself, state, effects);
            }
            DistributedSupervisorMsg::NotStarted(instance, why) => {
                let reason = match &why {
                    NotStarted::Ignored => Reason::Ignored,
                    why => Reason::StartFailed(why.to_string()),
                };
                if let Some(running) = self.forget(state, instance, reason) {
                    running.child.kill();
                }
                let effects = self.with_crew(|crew| crew.handle_not_started(instance, why));
                self.run(&myself, state, effects);
            }
            DistributedSupervisorMsg::Overdue(instance, actor) => {
                let running = state.instances.get(&instance).filter(|it| it.child.get_id() == actor);
                if let Some(running) = running {
                    tracing::warn!("a child that was to end did not: it is killed");
                    running.child.kill();
                }
            }
            DistributedSupervisorMsg::Tick => {
                let effects = self.with_crew(|crew| crew.handle_tick());
                self.run(&myself, state, effects);
                if self.names.shared.sides {
                    self.look_for_outdated(&myself, state);
                }
            }
            DistributedSupervisorMsg::AgentAgain => self.look_after_agents(&myself, state),
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        myself: Myself,
        event: SupervisionEvent,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        match event {
            SupervisionEvent::ActorStarted(actor) => {
                let Some(instance) = state.by_actor.get(&actor.get_id()).copied() else { return Ok(()) };
                let Some(running) = state.instances.get(&instance) else { return Ok(()) };
                let number = running.actor;
                let effects = self.with_crew(|crew| crew.handle_started(instance, number));
                self.run(&myself, state, effects);
            }
            SupervisionEvent::ActorFailed(actor, why) => {
                self.handle_ended(&myself, state, actor.get_id(), Exit::Failed(why.to_string()));
            }
            SupervisionEvent::ActorTerminated(actor, _, reason) => {
                let exit = match reason.as_deref() {
                    Some(why @ ("killed" | "actor_task_cancelled")) => Exit::Failed(format!("it was {why}")),
                    Some(_) | None => Exit::Normal,
                };
                self.handle_ended(&myself, state, actor.get_id(), exit);
            }
            SupervisionEvent::ProcessGroupChanged(_) | SupervisionEvent::PidLifecycleEvent(_) => {}
        }
        Ok(())
    }
}
