//! A small world that drives the real [`Holder`] and [`Grantor`]: an adversary chooses every step.
//!
//! ```text
//!  messages   are kept for ever: one may arrive late, twice, out of order, or not at all
//!  clocks     tick together, but one may lose or gain a tick in a lease; who takes no step is frozen
//!  consensus  is its contract: anybody may be elected at any time; a former leader is not told; a proposal
//!             is committed by its own term, or by the first entry of a later one, or never
//!  processes  crash and come back as a new boot that remembers nothing
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use stateright::{Model, Property};
use tumen_core::cluster::lease::{
    Answer, Config, Effect, Grantor, Holder, PlanId, Proposal, Release, Reply, Request,
};
use tumen_core::cluster::member::{Member, NodeInfo, Status};
use tumen_core::cluster::snapshot::{Assignment, GroupPlan, GroupSpec, Mode, Snapshot};
use tumen_core::partitioner::Partitioner;
use tumen_core::{
    Boot, ClusterId, ClusterName, Epoch, Generation, GroupId, Moment, NodeBoot, NodeName, PartitionId, Term,
    UnixMillis, Version,
};

use crate::mutant::Mutant;

/// A lease lasts three ticks.
pub const LENGTH: u64 = 3;

/// How often the adversary may do each thing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Budget {
    /// Ticks of the clocks.
    pub ticks: u8,
    /// Ticks that one node's clock misses, or has twice.
    pub drifts: u8,
    /// Requests sent.
    pub asks: u8,
    /// Grants made.
    pub grants: u8,
    /// Majorities that confirm a leader.
    pub acks: u8,
    pub elections: u8,
    pub proposals: u8,
    pub releases: u8,
    pub crashes: u8,
    /// Processes that stop in good order.
    pub stops: u8,
    /// Reads in two steps: take the value, check the lease.
    pub reads: u8,
}

impl Budget {
    /// `more` of everything that there is any of.
    pub fn wider(mut self, more: u8) -> Self {
        let Self {
            ticks,
            drifts: _,
            asks,
            grants,
            acks,
            elections,
            proposals,
            releases,
            crashes,
            stops,
            reads,
        } = &mut self;
        for allowed in [ticks, asks, grants, acks, elections, proposals, releases, crashes, stops, reads] {
            *allowed += if *allowed > 0 { more } else { 0 };
        }
        self
    }
}

/// The bounds of the world, and the rule that is broken in it, if one is.
#[derive(Clone, Debug)]
pub struct World {
    pub nodes: u8,
    pub partitions: u32,
    /// Who asks for leases, beside node 1's first one.
    pub askers: &'static [u8],
    pub budget: Budget,
    /// Whether a freeze may fall between the stamp and the quorum's confirmation.
    pub slow_acks: bool,
    /// Whether a leader may learn of a commit later than others.
    pub slow_applies: bool,
    /// Whether a calm period is tried from every state.
    pub heals: bool,
    pub mutant: Mutant,
}

/// A committed plan, or one that may be.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Plan {
    pub version: u64,
    /// Which run of each node is a member.
    pub members: Vec<u8>,
    /// The primary of each partition and its epoch.
    pub primaries: Vec<(u8, u64)>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Node {
    /// Which run of its process this really is, whatever it says.
    pub run: u8,
    pub clock: u64,
    pub holder: Holder,
    /// When each request was sent, and what was released: for the mutants that get that wrong.
    pub sent: BTreeMap<u64, u64>,
    pub told: BTreeSet<Release>,
    /// It has given its lease back, and only waits for its end.
    pub stopped: bool,
    /// The epoch under which it serves each partition.
    pub serving: Vec<Option<u64>>,
    /// The plan that it acted on.
    pub acted: u64,
    pub grantor: Grantor,
    /// The plan that its state machine has applied.
    pub applied: u64,
    /// A stamp that a majority has confirmed and the law was not told of.
    pub ack: Option<(Term, Moment)>,
    /// Its proposal whose outcome it does not know.
    pub proposed: Option<(u64, Proposal)>,
    /// A read under way: the partition, the epoch it was taken under, whether that was the newest then, and
    /// whether the lease was looked at already.
    pub reading: Option<Reading>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Reading {
    pub partition: usize,
    pub epoch: u64,
    pub fresh: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Message {
    Request(Request),
    Reply(Reply),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    pub nodes: Vec<Node>,
    pub net: BTreeSet<Message>,
    /// Every committed plan, from version 1.
    pub log: Vec<Plan>,
    /// What some leader proposed and nobody knows the outcome of, with its term.
    pub pending: Option<(u64, Plan)>,
    /// The newest term that anybody was elected for, and by whom.
    pub term: u64,
    pub leader: u8,
    /// The newest term whose first entry is committed.
    pub settled: u64,
    /// Runs that are over.
    pub dead: BTreeSet<(u8, u8)>,
    pub left: Budget,
    /// A read was answered with a value that was old when it was taken.
    pub stale_read: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// All clocks go on by one; the named one by `Some(0)` or `Some(2)`.
    Tick(Option<(u8, u64)>),
    /// The node's lease law wakes and asks.
    Ask(u8),
    /// The message reaches this node, and stays in the net.
    Deliver(Message, u8),
    /// A majority confirms the leader at this very instant.
    Ack(u8),
    /// The leader's process learns of it.
    AckSeen(u8),
    Elect(u8),
    /// The new leader's first entry is committed and applied: with the pending proposal before it, or without.
    FirstEntry {
        leader: u8,
        keeps: bool,
    },
    /// Give a partition to a node.
    Propose {
        leader: u8,
        partition: usize,
        to: u8,
    },
    Commit,
    /// The leader's state machine catches up.
    Apply(u8),
    /// The node acts on this plan; those in between it may have missed.
    Act(u8, u64),
    Release(u8, usize),
    /// Only a mutant does this.
    Unrelease(u8, usize),
    Crash(u8),
    /// The process stops serving and gives its lease back.
    Stop(u8),
    /// This leader learns that this run is over.
    Proof(u8, (u8, u8)),
    /// Take the value of a partition.
    Read(u8, usize),
    /// Look at the lease and answer.
    Answer(u8),
}

pub const ONE_PRIMARY: &str = "who would answer is the primary of the newest committed epoch";
pub const NEVER_TWO: &str = "never two would answer for one partition";
pub const FRESH_READS: &str = "no answered read is older than the newest committed epoch";
pub const HEALS: &str = "a calm period brings every partition back";

pub fn partition(at: usize) -> PartitionId {
    PartitionId::user(u32::try_from(at).unwrap())
}

fn name(node: u8) -> NodeName {
    static NAMES: OnceLock<Vec<NodeName>> = OnceLock::new();
    NAMES.get_or_init(|| (0..8).map(|n| NodeName::new(&format!("n{n}")).unwrap()).collect())[node as usize]
        .clone()
}

impl Model for World {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![self.start()]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        self.offer(state, actions);
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        self.step(&mut state, &action)?;
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut all = vec![
            Property::always(ONE_PRIMARY, Self::one_primary),
            Property::always(NEVER_TWO, Self::never_two),
            Property::always(FRESH_READS, |_: &Self, state: &State| !state.stale_read),
        ];
        if self.heals {
            all.push(Property::always(HEALS, |world: &Self, state: &State| world.heals(state.clone())));
        }
        all
    }
}

impl World {
    /// A holder that counts from the receipt does not know either how long a lease may be at most.
    fn holder(&self, node: u8, run: u8) -> Holder {
        let config = self.config();
        let far = Duration::from_nanos(100);
        let blind = self.mutant == Mutant::CountsFromReceipt;
        Holder::new(self.boot(node, run), if blind { Config { length: far, ..config } } else { config })
    }

    pub fn config(&self) -> Config {
        Config {
            length: Duration::from_nanos(LENGTH),
            drift_ppm: if self.mutant == Mutant::IgnoresDrift { 0 } else { 300_000 },
            election_timeout_max: Duration::from_nanos(1),
        }
    }

    /// The boot that a run of a node calls itself.
    pub fn boot(&self, node: u8, run: u8) -> NodeBoot {
        let run = if self.mutant == Mutant::RestartsUnderTheSameBoot { 1 } else { run };
        NodeBoot::new(name(node), Boot(run.into()))
    }

    /// Node 0 leads term 1 for a while, node 1 is primary of everything and holds a fresh lease.
    fn start(&self) -> State {
        let plan = Plan {
            version: 1,
            members: vec![1; self.nodes.into()],
            primaries: vec![(1, 1); self.partitions as usize],
        };
        let node = |at| Node {
            run: 1,
            clock: 10,
            holder: self.holder(at, 1),
            sent: BTreeMap::new(),
            told: BTreeSet::new(),
            stopped: false,
            serving: vec![None; self.partitions as usize],
            acted: 0,
            grantor: Grantor::new(self.config()),
            applied: 1,
            ack: None,
            proposed: None,
            reading: None,
        };
        let mut state = State {
            nodes: (0..self.nodes).map(node).collect(),
            net: BTreeSet::new(),
            log: vec![plan],
            pending: None,
            term: 1,
            leader: 0,
            settled: 1,
            dead: BTreeSet::new(),
            left: Budget { asks: 9, grants: 9, acks: 9, ..self.budget },
            stale_read: false,
        };
        let first = &mut state.nodes[0].grantor;
        first.handle_elected(Moment::from_nanos(1), Term(1));
        first.handle_first_entry_applied(
            Term(1),
            PlanId { generation: Generation::ZERO, version: Version(1) },
        );
        first.handle_quorum_ack(Term(1), Moment::from_nanos(10));
        for node in 0..self.nodes {
            self.step(&mut state, &Action::Act(node, 1));
        }
        self.step(&mut state, &Action::Ask(1));
        let request = state.net.pop_first().unwrap();
        self.step(&mut state, &Action::Deliver(request, 0));
        let reply = state.net.first().unwrap().clone();
        self.step(&mut state, &Action::Deliver(reply, 1));
        // The first grant may come again, even to a later boot.
        state.left = self.budget;
        assert!(state.nodes[1].holder.holds(Moment::from_nanos(10)));
        state
    }

    fn offer(&self, state: &State, actions: &mut Vec<Action>) {
        let left = state.left;
        if left.ticks > 0 {
            actions.push(Action::Tick(None));
            if left.drifts > 0 {
                for node in 0..self.nodes {
                    actions.extend([0, 2].map(|by| Action::Tick(Some((node, by)))));
                }
            }
        }
        if state.pending.is_some() {
            actions.push(Action::Commit);
        }
        for (at, node) in (0..).zip(&state.nodes) {
            let leads = node.grantor.term().is_some();
            let holds = node.holder.holds(node.now());
            if left.asks > 0 && self.askers.contains(&at) {
                actions.push(Action::Ask(at));
            }
            if left.stops > 0 && !node.stopped {
                actions.push(Action::Stop(at));
            }
            if left.elections > 0 {
                actions.push(Action::Elect(at));
            }
            if left.crashes > 0 {
                actions.push(Action::Crash(at));
            }
            if leads {
                if left.acks > 0 {
                    actions.push(Action::Ack(at));
                }
                if node.ack.is_some() {
                    actions.push(Action::AckSeen(at));
                }
                actions.push(Action::FirstEntry { leader: at, keeps: false });
                if state.pending.is_some() {
                    actions.push(Action::FirstEntry { leader: at, keeps: true });
                }
                if left.proposals > 0 && node.proposed.is_none() {
                    for partition in 0..self.partitions as usize {
                        actions.extend((0..self.nodes).map(|to| Action::Propose {
                            leader: at,
                            partition,
                            to,
                        }));
                    }
                }
                actions.extend(state.dead.iter().map(|dead| Action::Proof(at, *dead)));
            }
            if node.applied < state.newest() {
                actions.push(Action::Apply(at));
            }
            actions.extend((node.acted + 1..=state.newest()).map(|version| Action::Act(at, version)));
            for (partition, serving) in node.serving.iter().enumerate() {
                if serving.is_some() && left.releases > 0 {
                    actions.push(Action::Release(at, partition));
                }
                if serving.is_none() && self.mutant == Mutant::TakesReleasesBack {
                    actions.push(Action::Unrelease(at, partition));
                }
                if serving.is_some() && left.reads > 0 && node.reading.is_none() {
                    actions.push(Action::Read(at, partition));
                }
            }
            if node.reading.is_some() && (holds || self.mutant == Mutant::ChecksBeforeItReads) {
                actions.push(Action::Answer(at));
            }
        }
        for message in &state.net {
            match message {
                Message::Request(_) if left.grants > 0 => {
                    let leads = |at: &u8| state.nodes[*at as usize].grantor.term().is_some();
                    actions
                        .extend((0..self.nodes).filter(leads).map(|at| Action::Deliver(message.clone(), at)));
                }
                Message::Request(_) => {}
                Message::Reply(reply) => {
                    let to = (0..self.nodes).find(|at| name(*at) == reply.to.node).unwrap();
                    actions.push(Action::Deliver(message.clone(), to));
                }
            }
        }
    }

    /// Does one step, or finds that it cannot be done.
    pub fn step(&self, state: &mut State, action: &Action) -> Option<()> {
        match action {
            Action::Tick(drift) => {
                state.left.ticks -= 1;
                state.left.drifts -= u8::from(drift.is_some());
                for (at, node) in (0..).zip(&mut state.nodes) {
                    node.clock += drift.filter(|(slow, _)| *slow == at).map_or(1, |(_, by)| by);
                }
            }
            Action::Ask(at) => {
                let node = state.node(*at);
                let effects = match self.mutant {
                    // Its lease is long in its own eyes: asked as seldom as that allows, it proves nothing.
                    Mutant::CountsFromReceipt => node.holder.handle_released(node.now(), []),
                    _ => node.holder.handle_wake(node.now()),
                };
                self.send(state, *at, effects)?;
            }
            Action::Deliver(Message::Request(request), at) => self.answer(state, request, *at)?,
            Action::Deliver(Message::Reply(reply), at) => {
                let node = state.node(*at);
                let before = node.holder.clone();
                let reply = self.mutant.bend_reply(node, reply.clone(), self.boot(*at, node.run));
                node.holder.handle_reply(node.now(), reply);
                (node.holder != before).then_some(())?;
            }
            Action::Ack(at) => {
                let term = state.term;
                let node = state.node(*at);
                (node.grantor.term() == Some(Term(term))).then_some(())?;
                node.ack = Some((Term(term), node.now()));
                state.left.acks -= 1;
                if !self.slow_acks {
                    self.step(state, &Action::AckSeen(*at))?;
                }
            }
            Action::AckSeen(at) => {
                let node = state.node(*at);
                let (term, stamp) = node.ack.take()?;
                let stamp = self.mutant.bend_stamp(stamp, node.now());
                node.grantor.handle_quorum_ack(term, stamp);
            }
            Action::Elect(at) => {
                state.left.elections -= 1;
                state.term += 1;
                state.leader = *at;
                let term = Term(state.term);
                let node = state.node(*at);
                let since = self.mutant.bend_election(node.now());
                node.grantor.handle_elected(since, term);
                (node.ack, node.proposed) = (None, None);
                if self.mutant == Mutant::GrantsBeforeItsFirstEntry {
                    node.grantor.handle_first_entry_applied(term, node.applied_id());
                }
            }
            Action::FirstEntry { leader, keeps } => {
                let here = *leader == state.leader && state.settled < state.term;
                (here && state.nodes[*leader as usize].grantor.term() == Some(Term(state.term)))
                    .then_some(())?;
                state.settled = state.term;
                // Whatever was pending is in the log before this entry, or can never be committed.
                let kept = state.pending.take().filter(|_| *keeps);
                state.log.extend(kept.map(|(_, plan)| plan));
                let (newest, term) = (state.newest(), Term(state.term));
                let node = state.node(*leader);
                node.applied = newest;
                node.grantor.handle_first_entry_applied(term, node.applied_id());
            }
            Action::Propose { leader, partition, to } => self.propose(state, *leader, *partition, *to)?,
            Action::Commit => {
                let (term, _) = state.pending.as_ref()?;
                let proposer = state.nodes[state.leader as usize].grantor.term();
                (*term == state.term && proposer == Some(Term(*term))).then_some(())?;
                let (_, plan) = state.pending.take()?;
                state.log.push(plan);
                if !self.slow_applies {
                    self.step(state, &Action::Apply(state.leader))?;
                }
            }
            Action::Apply(at) => {
                let newest = state.log.last()?.clone();
                let node = state.node(*at);
                node.applied = newest.version;
                node.proposed = node.proposed.filter(|(version, _)| *version > newest.version);
                node.grantor.handle_applied(&self.snapshot(&newest));
            }
            Action::Act(at, version) => {
                let plan = state.log.get(usize::try_from(version - 1).ok()?)?.clone();
                self.act(state.node(*at), &plan);
            }
            Action::Release(at, at_partition) => {
                let node = state.node(*at);
                let epoch = Epoch(node.serving[*at_partition].take()?);
                let release = Release { partition: partition(*at_partition), epoch };
                let effects = node.holder.handle_released(node.now(), [release]);
                state.left.releases -= 1;
                state.left.asks = state.left.asks.max(1);
                self.send(state, *at, effects)?;
            }
            Action::Unrelease(at, at_partition) => {
                let node = state.node(*at);
                let given = node.holder.releases().find(|r| r.partition == partition(*at_partition))?;
                node.serving[*at_partition] = Some(given.epoch.0);
            }
            Action::Crash(at) => {
                state.left.crashes -= 1;
                let run = state.nodes[*at as usize].run;
                state.dead.insert((*at, run));
                let node = state.node(*at);
                *node = Node {
                    run: run + 1,
                    clock: node.clock,
                    holder: self.holder(*at, run + 1),
                    sent: BTreeMap::new(),
                    told: BTreeSet::new(),
                    stopped: false,
                    serving: vec![None; self.partitions as usize],
                    acted: 0,
                    grantor: Grantor::new(self.config()),
                    applied: node.applied,
                    ack: None,
                    proposed: None,
                    reading: None,
                };
            }
            Action::Stop(at) => {
                let node = state.node(*at);
                node.stopped = true;
                node.serving.fill(None);
                let effects = node.holder.handle_stopping(node.now());
                state.left.stops -= 1;
                state.left.asks = state.left.asks.max(1);
                self.send(state, *at, effects)?;
            }
            Action::Proof(at, (node, run)) => {
                let boot = self.boot(*node, *run);
                let grantor = &mut state.node(*at).grantor;
                let before = grantor.clone();
                grantor.handle_crash_proof(boot);
                (*grantor != before).then_some(())?;
            }
            Action::Read(at, partition) => {
                state.left.reads -= 1;
                let newest = state.log.last()?.primaries[*partition];
                let node = state.node(*at);
                let epoch = node.serving[*partition]?;
                let fresh = newest == (*at, epoch);
                if self.mutant == Mutant::ChecksBeforeItReads && !node.holder.holds(node.now()) {
                    return None;
                }
                node.reading = Some(Reading { partition: *partition, epoch, fresh });
            }
            Action::Answer(at) => {
                let newest = state.log.last()?.clone();
                let node = state.node(*at);
                let Reading { partition, epoch, fresh } = node.reading.take()?;
                // The mutant looked at the lease in the step before, and takes the value only now.
                let late = self.mutant == Mutant::ChecksBeforeItReads;
                let fresh = if late { newest.primaries[partition] == (*at, epoch) } else { fresh };
                (node.serving[partition] == Some(epoch)).then_some(())?;
                state.stale_read |= !fresh;
            }
        }
        Some(())
    }

    fn send(&self, state: &mut State, from: u8, effects: Vec<Effect>) -> Option<()> {
        let request = effects.into_iter().find_map(|effect| match effect {
            Effect::Ask { request, .. } => Some(request),
            Effect::Publish { .. } | Effect::Pause | Effect::Resume => None,
        })?;
        state.left.asks -= 1;
        if self.mutant == Mutant::CountsFromReceipt {
            let node = state.node(from);
            node.sent.insert(request.number, node.clock);
        }
        let request = self.mutant.bend_request(state.node(from), request);
        state.net.insert(Message::Request(request));
        Some(())
    }

    fn answer(&self, state: &mut State, request: &Request, at: u8) -> Option<()> {
        let plan = self.snapshot(&state.log[usize::try_from(state.nodes[at as usize].applied).unwrap() - 1]);
        let node = state.node(at);
        let before = node.grantor.clone();
        let request = self.mutant.bend_arrival(request.clone(), &plan);
        self.mutant.bend_ack(node);
        let answered = node.grantor.handle_request(node.now(), &request, Some(&plan));
        let changed = node.grantor != before;
        let granted = matches!(answered.reply.answer, Answer::Granted { .. });
        // A refusal tells the holder nothing that it could act on: it is lost.
        if granted {
            state.left.grants -= 1;
            state.net.insert(Message::Reply(answered.reply));
        }
        (granted || changed).then_some(())
    }

    fn propose(&self, state: &mut State, leader: u8, at: usize, to: u8) -> Option<()> {
        let node = &state.nodes[leader as usize];
        let previous = state.log[usize::try_from(node.applied).unwrap() - 1].clone();
        let mut next = previous.clone();
        next.version += 1;
        next.members[to as usize] = state.nodes[to as usize].run;
        for (partition, (primary, epoch)) in next.primaries.iter_mut().enumerate() {
            let replaced = next.members[*primary as usize] != previous.members[*primary as usize];
            if partition == at || replaced {
                (*primary, *epoch) = (to, *epoch + 1);
            }
        }
        let (old, new) = (self.snapshot(&previous), self.snapshot(&next));
        let node = state.node(leader);
        let proposal = node.grantor.handle_proposed(node.now(), &old, &new).ok()?;
        if self.mutant == Mutant::GrantsBeforeTheOutcome {
            node.grantor.handle_dropped(proposal);
        }
        node.proposed = Some((next.version, proposal));
        let term = node.grantor.term()?.0;
        state.left.proposals -= 1;
        // Behind another leader's first entry, a former leader's proposal has no chance.
        if state.settled <= term {
            state.pending = Some((term, next));
        }
        Some(())
    }

    /// What a partition manager does: stop what is not ours any more, tell the lease, start what is.
    fn act(&self, node: &mut Node, plan: &Plan) {
        let snapshot = self.snapshot(plan);
        for (at, serving) in node.serving.iter_mut().enumerate() {
            let duty = node.holder.duty(&snapshot, partition(at)).map(|epoch| epoch.0);
            let moved_back = duty.is_some() && serving.is_some();
            if !(moved_back && self.mutant == Mutant::MissesMovesAwayAndBack) {
                *serving = duty;
            }
        }
        node.acted = plan.version;
        node.reading = node.reading.filter(|reading| node.serving[reading.partition] == Some(reading.epoch));
        node.holder.handle_acted(node.now(), &snapshot);
    }

    fn one_primary(&self, state: &State) -> bool {
        let newest = state.log.last().unwrap();
        state.answering().all(|(at, partition, epoch)| {
            let (primary, current) = newest.primaries[partition];
            (primary, current, newest.members[at as usize]) == (at, epoch, state.nodes[at as usize].run)
        })
    }

    fn never_two(&self, state: &State) -> bool {
        let mut seen = BTreeSet::new();
        state.answering().all(|(_, partition, _)| seen.insert(partition))
    }

    /// The plan as the laws see it.
    pub fn snapshot(&self, plan: &Plan) -> Arc<Snapshot> {
        static CACHE: Mutex<BTreeMap<(bool, Plan), Arc<Snapshot>>> = Mutex::new(BTreeMap::new());
        let key = (self.mutant == Mutant::RestartsUnderTheSameBoot, plan.clone());
        let mut cache = CACHE.lock().unwrap();
        Arc::clone(cache.entry(key).or_insert_with(|| Arc::new(self.build(plan))))
    }

    fn build(&self, plan: &Plan) -> Snapshot {
        let member = |(at, run): (u8, &u8)| Member {
            info: NodeInfo {
                id: self.boot(at, *run),
                address: String::new(),
                http: None,
                zone: None,
                weight: 1,
                services: vec![],
                protocol: 1,
            },
            status: Status::Up,
        };
        let assignment = |(primary, epoch): &(u8, u64)| Assignment {
            epoch: Epoch(*epoch),
            copies: vec![u32::from(*primary)],
            ..Assignment::default()
        };
        Snapshot {
            cluster: ClusterId(1),
            name: ClusterName::new("c").unwrap(),
            generation: Generation::ZERO,
            version: Version(plan.version),
            term: Term::ZERO,
            leader: name(0),
            members: (0..).zip(&plan.members).map(member).collect(),
            groups: vec![GroupPlan {
                id: GroupId::Users,
                spec: GroupSpec {
                    partitions: self.partitions,
                    replication: 1,
                    strategy: String::new(),
                    mode: Mode::Async,
                    partitioner: Partitioner::Hash,
                },
                assignments: plan.primaries.iter().map(assignment).collect(),
            }],
            computed_at: UnixMillis(0),
            hash: 0,
        }
    }
}

impl State {
    pub fn newest(&self) -> u64 {
        self.log.len() as u64
    }

    pub fn node(&mut self, at: u8) -> &mut Node {
        &mut self.nodes[at as usize]
    }

    /// Who would answer at this instant for which partition, under which epoch. A frozen process counts: it
    /// may thaw now.
    pub fn answering(&self) -> impl Iterator<Item = (u8, usize, u64)> {
        let holding = (0..).zip(&self.nodes).filter(|(_, node): &(u8, &Node)| node.holder.holds(node.now()));
        holding.flat_map(|(at, node)| {
            let serving = node.serving.iter().enumerate();
            serving.filter_map(move |(partition, epoch)| Some((at, partition, (*epoch)?)))
        })
    }
}

impl Node {
    pub fn now(&self) -> Moment {
        Moment::from_nanos(self.clock)
    }

    fn applied_id(&self) -> PlanId {
        PlanId { generation: Generation::ZERO, version: Version(self.applied) }
    }
}
