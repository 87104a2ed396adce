//! A small world that drives the real [`Primary`] and [`LocalCopy`]: an adversary chooses every step.
//!
//! ```text
//!  messages    are kept for ever: one may arrive late, twice, out of order, or not at all
//!  processes   crash and come back as a new boot, with what their disk holds or with nothing; who takes no step is frozen
//!  disks       take one write after the other; what waits for one waits, and is lost in a crash
//!  consensus   is its contract: one register with the record, the primary's boot, and whose copies are wanted; a new epoch
//!              is committed once the former primary's lease is over, it released its epoch, or its process is gone
//! ```
//!
//! Whatever could be read at some moment counts as promised from then on, as does whatever could have been acknowledged.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use stateright::{Model, Property};
use tumen_core::cluster::snapshot::Mode;
use tumen_core::ids::{Epoch, Generation, Life, NodeName, PartitionId};
use tumen_core::partitions::fence::Fence;
use tumen_core::partitions::replication::wire::{Reply, Request, SnapshotHeader};
use tumen_core::partitions::replication::{
    Acks, Answer, Change, Config, CopyId, Entry, LocalCopy, Payload, Primary, Record, Saved, Write,
};
use tumen_core::{Moment, Revision};

use crate::mutant::Mutant;

/// What the log carries: a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Value(pub u16);

impl Payload for Value {
    fn weight(&self) -> usize {
        1
    }
}

/// Entries by their sequence.
pub type Contents = BTreeMap<u64, Entry<Value>>;

/// How often the adversary may do each thing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Budget {
    pub appends: u8,
    pub promotions: u8,
    /// Processes that end and begin anew.
    pub crashes: u8,
    /// Leases that run out while their node goes on.
    pub lapses: u8,
    pub releases: u8,
    /// The next wish for other copies is taken up.
    pub wishes: u8,
    /// Nodes that the plan does not hold for members any more.
    pub gone: u8,
    pub snapshots: u8,
    /// Times at which what was not answered is sent again.
    pub wakes: u8,
    /// Changes of the members that the voters take.
    pub changes: u8,
    /// Times at which an operator accepts that the partition is lost.
    pub losses: u8,
    /// Replies that come late, perhaps after a change of everything, perhaps twice, or never. The others come at once: it
    /// is the requests that wait.
    pub late: u8,
}

pub const NONE: Budget = Budget {
    appends: 0,
    promotions: 0,
    crashes: 0,
    lapses: 0,
    releases: 0,
    wishes: 0,
    gone: 0,
    snapshots: 0,
    wakes: 0,
    changes: 0,
    losses: 0,
    late: 0,
};

/// The bounds of the world, and the rule that is broken in it, if one is.
#[derive(Clone, Debug)]
pub struct World {
    pub nodes: u8,
    /// Who counts in the beginning, node 0 as primary. None: the partition never opened.
    pub members: u8,
    /// Whose copies are wanted, one wish after the other.
    pub wishes: Vec<Vec<u8>>,
    pub mode: Mode,
    pub acks: Acks,
    pub budget: Budget,
    /// Who may be made primary.
    pub heirs: Vec<u8>,
    /// Whose processes may end.
    pub mortals: Vec<u8>,
    /// Whether leases can be trusted. If not, reads can be old, and yet nothing that was acknowledged may be lost.
    pub leases: bool,
    /// Whose disks take their time. The others' writes are done at once.
    pub slow_disks: Vec<u8>,
    /// Whether the first epoch is open already.
    pub begun: bool,
    /// What has happened before the adversary begins. Of the messages until then only those are delivered that it says.
    pub prelude: Vec<Prelude>,
    /// Whether the mark is told when nothing else is.
    pub marks: bool,
    /// Whether any S members that are left are looked at after every step.
    pub survivors: bool,
    pub mutant: Mutant,
}

/// A step of what has happened before.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Prelude {
    Do(Action),
    /// All that is under way to this node, and what that brings about there.
    DeliverTo(u8),
    /// All that is under way anywhere, until nothing is new.
    Settle,
    /// What is under way is lost.
    Forget,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    Replica(Box<LocalCopy<Value>>),
    Primary(Box<Primary<Value>>),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Node {
    /// Which run of its process this is.
    pub run: u8,
    pub role: Role,
    /// What the snapshot holds, up to its position.
    pub snapshot: Contents,
    /// What is on disk, and the snapshot's bytes there.
    pub disk: Option<(Saved<Value>, Contents)>,
    /// Writes on their way to the disk.
    pub writes: VecDeque<(Write<Value>, Contents)>,
    /// Answers that wait for one, and to whom they go.
    pub waiting: Vec<(u8, Answer<Value>)>,
    pub lease: bool,
    /// The register as it was last heard of.
    pub known: u16,
    pub known_epoch: Epoch,
    /// The newest epoch that this run was primary of.
    pub named: Epoch,
    /// The epoch that it gave back.
    pub released: Option<Epoch>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Message {
    Request { to: u8, from: u8, request: Request<Value> },
    Reply { to: u8, reply: Reply<Value> },
    Snapshot { to: u8, from: u8, header: SnapshotHeader, contents: Contents },
    Ask { epoch: Epoch, revision: Revision, change: Change },
}

/// What the voters agreed on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Register {
    pub version: u16,
    pub record: Record,
    /// Which run of which node is primary.
    pub primary: (u8, u8),
    pub wish: u8,
    pub gone: BTreeSet<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    pub nodes: Vec<Node>,
    pub net: BTreeSet<Message>,
    pub register: Register,
    pub now: Moment,
    /// What was acknowledged or could be read, at some moment.
    pub promised: Contents,
    /// Who served under each epoch.
    pub served: BTreeMap<Epoch, (u8, u8)>,
    pub next_value: u16,
    pub left: Budget,
    /// A partition whose members all lost what was not on disk was opened with the rest.
    pub renewed: bool,
    /// What was promised, and given up with a loss that was accepted.
    pub given_up: Vec<(u64, Entry<Value>)>,
    /// How often a loss was accepted.
    pub accepted: u8,
    pub broken: Option<&'static str>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    Deliver(Message),
    /// The same, and the reply comes at any time after, or never.
    DeliverLate(Message),
    /// A node hears of the register as it is, and has a lease from then on.
    Learn(u8),
    /// A lease runs out by its holder's clock.
    Lapse(u8),
    /// The leader grants a lease again.
    Grant(u8),
    /// A client writes.
    Append(u8),
    /// The oldest write is on disk.
    Written(u8),
    Crash(u8),
    /// The voters name another primary.
    Promote(u8),
    /// The leader wants the epoch back.
    Release(u8),
    /// A release that waits for others too long is given all the same.
    GiveUp(u8),
    Wish,
    Gone(u8),
    SaveSnapshot(u8),
    /// Some time passes, and a node looks what was not answered.
    Wake(u8),
    /// A transfer in bulk breaks off.
    SnapshotFails(u8, u8),
    /// An operator accepts that the partition is lost, and the voters name this node primary of what is left.
    AcceptLoss(u8),
    /// The voters swap a member nobody asked to swap: only a mutant does.
    Swap(u8, u8),
}

pub const NOTHING_LOST: &str = "who answers has all that was ever promised";
pub const NOTHING_UNDONE: &str = "what was promised is never another entry later";
pub const ONE_PER_EPOCH: &str = "one run of one node serves under one epoch";
pub const SAME_PREFIX: &str = "two copies have the same where both know that it holds";
pub const ONE_ENTRY: &str = "two entries at one position are one";
pub const SURVIVES: &str = "any S of the members that are left have all that was promised";
pub const STAYS_LOST: &str = "what was given up is never told again";
pub const ALL: [&str; 7] =
    [NOTHING_LOST, NOTHING_UNDONE, ONE_PER_EPOCH, SAME_PREFIX, ONE_ENTRY, SURVIVES, STAYS_LOST];

pub fn name(at: u8) -> NodeName {
    NodeName::new(["a", "b", "c", "d", "e"][at as usize]).unwrap()
}

pub fn place(name: &NodeName) -> u8 {
    name.as_str().as_bytes()[0] - b'a'
}

pub fn partition() -> PartitionId {
    PartitionId::user(0)
}

pub fn fence(epoch: Epoch) -> Fence {
    Fence { generation: Generation::ZERO, epoch, partition: partition() }
}

pub fn copy_id(at: u8, life: u64) -> CopyId {
    CopyId { node: name(at), life: Life(life) }
}

impl Model for World {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![self.start()]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.broken.is_none() {
            self.offer(state, actions);
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        self.step(&mut state, &action)?;
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(ALL[0], |_: &Self, state: &State| state.broken != Some(ALL[0])),
            Property::always(ALL[1], |_: &Self, state: &State| state.broken != Some(ALL[1])),
            Property::always(ALL[2], |_: &Self, state: &State| state.broken != Some(ALL[2])),
            Property::always(ALL[3], |_: &Self, state: &State| state.broken != Some(ALL[3])),
            Property::always(ALL[4], |_: &Self, state: &State| state.broken != Some(ALL[4])),
            Property::always(ALL[5], |_: &Self, state: &State| state.broken != Some(ALL[5])),
            Property::always(ALL[6], |_: &Self, state: &State| state.broken != Some(ALL[6])),
        ]
    }
}

impl World {
    pub fn config(&self) -> Config {
        Config {
            mode: self.mode,
            window_entries: 8,
            pending_entries_max: 8,
            join_lag_entries: 8,
            tail_entries_max: 2,
            keep_entries: 0,
            retry_every: std::time::Duration::from_nanos(1),
            tell_every: std::time::Duration::from_nanos(1),
            ..Config::default()
        }
    }

    pub fn wanted(&self, register: &Register) -> Vec<NodeName> {
        self.wishes[register.wish as usize].iter().map(|at| name(*at)).collect()
    }

    pub fn blank(&self, at: u8, run: u8) -> Node {
        let copy = LocalCopy::new(partition(), copy_id(at, u64::from(run)), self.acks);
        Node {
            run,
            role: Role::Replica(Box::new(copy)),
            snapshot: Contents::new(),
            disk: None,
            writes: VecDeque::new(),
            waiting: Vec::new(),
            lease: false,
            known: 0,
            known_epoch: Epoch::ZERO,
            named: Epoch::ZERO,
            released: None,
        }
    }

    /// Node 0 serves epoch 1, and all members have its opening entry, as far as there are members.
    fn start(&self) -> State {
        let members: Vec<CopyId> = (0..self.members).map(|at| copy_id(at, 1)).collect();
        let high = u32::from(self.members);
        let record = Record { epoch: Epoch(1), revision: Revision::ZERO, members, high };
        let mut state = State {
            nodes: (0..self.nodes).map(|at| self.blank(at, 1)).collect(),
            net: BTreeSet::new(),
            register: Register { version: 1, record, primary: (0, 1), wish: 0, gone: BTreeSet::new() },
            now: Moment::ZERO,
            promised: Contents::new(),
            served: BTreeMap::new(),
            next_value: 1,
            left: Budget::default(),
            renewed: false,
            given_up: Vec::new(),
            accepted: 0,
            broken: None,
        };
        let plenty = u8::MAX;
        state.left = Budget { appends: plenty, promotions: plenty, crashes: plenty, lapses: plenty, ..NONE };
        state.left = Budget { wishes: plenty, changes: plenty, gone: plenty, ..state.left };
        self.step(&mut state, &Action::Learn(0));
        if self.begun {
            self.settle(&mut state);
        }
        for prelude in &self.prelude {
            match prelude {
                Prelude::Do(action) => {
                    self.step(&mut state, action).expect("what has happened could happen");
                }
                Prelude::DeliverTo(at) => {
                    for message in state.net.clone() {
                        if matches!(message, Message::Request { to, .. } if to == *at) {
                            self.step(&mut state, &Action::Deliver(message));
                        }
                    }
                }
                Prelude::Settle => self.settle(&mut state),
                Prelude::Forget => state.net.clear(),
            }
        }
        assert_eq!(state.broken, None, "nothing was broken before");
        state.left = self.budget;
        state
    }

    /// All is delivered until nothing is new; then the world forgets it.
    pub fn settle(&self, state: &mut State) {
        loop {
            let before = state.clone();
            for message in before.net.clone() {
                self.step(state, &Action::Deliver(message));
            }
            for at in 0..self.nodes {
                while !state.nodes[at as usize].writes.is_empty() {
                    self.step(state, &Action::Written(at));
                }
            }
            let primary = state.register.primary.0;
            if state.nodes[primary as usize].known < state.register.version {
                self.step(state, &Action::Learn(primary));
            }
            if before == *state {
                break;
            }
        }
        state.net.clear();
    }
}

impl Node {
    pub fn copy(&self) -> &LocalCopy<Value> {
        match &self.role {
            Role::Replica(copy) => copy,
            Role::Primary(primary) => primary.copy(),
        }
    }

    pub fn primary(&self) -> Option<&Primary<Value>> {
        match &self.role {
            Role::Replica(_) => None,
            Role::Primary(primary) => Some(primary),
        }
    }

    /// The entry at this place, in the log or in the snapshot.
    pub fn entry(&self, sequence: u64) -> Option<&Entry<Value>> {
        self.copy().entry(sequence).or_else(|| self.snapshot.get(&sequence))
    }

    /// Up to where an answer may rest on the log now, if one may leave and there is a lease.
    pub fn readable(&self, mutant: Mutant) -> Option<u64> {
        let primary = self.primary()?;
        if let Some(early) = mutant.readable(primary) {
            return Some(early);
        }
        primary.may_serve(primary.fence()).then(|| primary.mark())
    }
}
