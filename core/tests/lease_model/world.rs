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
use std::time::Duration;

use stateright::{Model, Property};
use tumen_core::cluster::lease::{Config, Grantor, Holder, PlanId, Proposal, Release, Reply, Request};
use tumen_core::{Boot, Generation, Moment, NodeBoot, Term, Version};

use crate::mutant::Mutant;
use crate::plan::{Plan, name};

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

    /// A process that has just started and remembers nothing but what Raft's log tells it.
    pub fn process(&self, at: u8, run: u8, clock: u64, applied: u64) -> Node {
        Node {
            run,
            clock,
            holder: self.holder(at, run),
            sent: BTreeMap::new(),
            told: BTreeSet::new(),
            stopped: false,
            serving: vec![None; self.partitions as usize],
            acted: 0,
            grantor: Grantor::new(self.config()),
            applied,
            ack: None,
            proposed: None,
            reading: None,
        }
    }

    /// Node 0 leads term 1 for a while, node 1 is primary of everything and holds a fresh lease.
    fn start(&self) -> State {
        let plan = Plan {
            version: 1,
            members: vec![1; self.nodes.into()],
            primaries: vec![(1, 1); self.partitions as usize],
        };
        let mut state = State {
            nodes: (0..self.nodes).map(|at| self.process(at, 1, 10, 1)).collect(),
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

    pub fn applied_id(&self) -> PlanId {
        PlanId { generation: Generation::ZERO, version: Version(self.applied) }
    }
}
