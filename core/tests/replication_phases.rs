//! A primary dies, freezes or is cut off after each phase of one write, with a replica down and without: whoever opens the
//! next epoch decides what became of the write, all copies that are there agree on it, and nothing that was acknowledged is
//! gone.
//!
//! ```text
//!  logged ─▶ on some ─▶ on W, not told ─▶ prepared ─▶ pre-committed ─▶ committed        the primary is gone after any of them
//!                                             └ may be acknowledged from here on
//! ```
//!
//! Each case is told step by step, so that it shows what it is about; `replication_model` has all orders of small worlds, and
//! `replication_storm` long ones. What must hold after every step is looked at here too.

#![allow(
    unreachable_pub,
    dead_code,
    clippy::unwrap_used,
    reason = "a test has no readers outside; its parts say what is theirs alone, and a panic is how it says no"
)]

#[path = "replication_model/calm.rs"]
mod calm;
#[path = "replication_model/check.rs"]
mod check;
#[path = "replication_model/mutant.rs"]
mod mutant;
#[path = "replication_model/step.rs"]
mod step;
#[path = "replication_model/world.rs"]
mod world;

use tumen_core::cluster::snapshot::Mode;
use tumen_core::partitions::replication::wire::Request;
use tumen_core::partitions::replication::{self as law, Acks, Body, Primary};

use mutant::Mutant;
use stateright::Model;
use world::{Action, Budget, Message, NONE, State, Value, World};

/// How far a write came before its primary died.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    /// The primary has appended it; nobody else has it.
    Appended,
    /// Other copies have it, and yet fewer than W in all.
    OnSome,
    /// W copies have it, and the primary was not told.
    OnEnough,
    /// The primary was told: it may have been acknowledged.
    Prepared,
    /// Another copy was told.
    PreCommitted,
    /// All copies that are there were told.
    Committed,
}

const PHASES: [Phase; 6] =
    [Phase::Appended, Phase::OnSome, Phase::OnEnough, Phase::Prepared, Phase::PreCommitted, Phase::Committed];

/// How the primary is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// Its process ended. What it had not written down is gone.
    Dies,
    /// It is frozen until its lease has run out, and goes on as if nothing had happened.
    Sleeps,
    /// It hears of nobody until its lease has run out, and writes on meanwhile.
    IsCutOff,
}

#[derive(Clone, Copy, Debug)]
struct Case {
    copies: u8,
    mode: Mode,
    acks: Acks,
    phase: Phase,
    /// A replica that hears nothing from before the write on, until the end.
    down: Option<u8>,
    heir: u8,
    fate: Fate,
}

/// The primary of the first epoch.
const FIRST: u8 = 0;

impl Case {
    fn all() -> Vec<Self> {
        let promises = [
            (Mode::Sync, Acks::WithoutDisk),
            (Mode::Sync, Acks::BeforeDisk),
            (Mode::Strong, Acks::AfterDisk),
        ];
        let mut all = Vec::new();
        for copies in [3, 5] {
            for (mode, acks) in promises {
                for phase in PHASES {
                    for down in std::iter::once(None).chain((1..copies).map(Some)) {
                        for heir in (1..copies).filter(|heir| Some(*heir) != down) {
                            for fate in [Fate::Dies, Fate::Sleeps, Fate::IsCutOff] {
                                all.push(Self { copies, mode, acks, phase, down, heir, fate });
                            }
                        }
                    }
                }
            }
        }
        // Of three two are W: nobody but the primary can have it before.
        all.retain(|case| case.phase != Phase::OnSome || case.copies > 3);
        all
    }

    fn world(&self) -> World {
        let plenty = u8::MAX;
        let budget = Budget {
            appends: plenty,
            promotions: plenty,
            crashes: plenty,
            lapses: plenty,
            wakes: plenty,
            changes: plenty,
            late: plenty,
            ..NONE
        };
        let all: Vec<u8> = (0..self.copies).collect();
        World {
            nodes: self.copies,
            members: self.copies,
            wishes: vec![all.clone()],
            mode: self.mode,
            acks: self.acks,
            budget,
            heirs: all.clone(),
            mortals: all.clone(),
            leases: true,
            slow_disks: all,
            begun: true,
            prelude: Vec::new(),
            marks: false,
            survivors: true,
            mutant: Mutant::None,
        }
    }

    /// The replicas that hear what is said.
    fn replicas(&self) -> Vec<u8> {
        (1..self.copies).filter(|at| Some(*at) != self.down).collect()
    }

    fn write_quorum(&self) -> usize {
        usize::from(self.copies) / 2 + 1
    }
}

/// One case as it goes on.
struct Story {
    case: Case,
    world: World,
    state: State,
}

impl Story {
    fn begin(case: Case) -> Self {
        let world = case.world();
        let state = world.init_states().remove(0);
        let mut story = Self { case, world, state };
        // One write that all of them know to hold.
        story.act(&Action::Append(FIRST));
        story.talk(&(0..case.copies).collect::<Vec<_>>(), FIRST);
        story
    }

    fn act(&mut self, action: &Action) {
        let done = self.world.step(&mut self.state, action);
        assert!(done.is_some(), "{:?}: {action:?} came to nothing", self.case);
        self.check();
    }

    fn check(&self) {
        assert_eq!(self.state.broken, None, "{:?}", self.case);
    }

    /// All that these say to each other arrives, and time passes, until nothing is new.
    fn talk(&mut self, awake: &[u8], primary: u8) {
        for _ in 0..4 {
            if self.primary(primary).is_some() {
                self.act(&Action::Wake(primary));
            }
            loop {
                let before = self.state.clone();
                let among = |message: &&Message| match message {
                    Message::Request { to, from, .. } | Message::Snapshot { to, from, .. } => {
                        awake.contains(to) && awake.contains(from)
                    }
                    Message::Reply { to, .. } => awake.contains(to),
                    Message::Ask { .. } => true,
                };
                for message in before.net.iter().filter(among) {
                    self.state.net.remove(message);
                    // What is old news changes nothing.
                    let _: Option<()> = self.world.step(&mut self.state, &Action::Deliver(message.clone()));
                    self.check();
                }
                for at in awake {
                    self.write_down(*at);
                    if self.state.nodes[usize::from(*at)].known < self.state.register.version {
                        self.act(&Action::Learn(*at));
                    }
                }
                if before == self.state {
                    break;
                }
            }
        }
    }

    /// What a node gave its disk is there.
    fn write_down(&mut self, at: u8) {
        while !self.state.nodes[usize::from(at)].writes.is_empty() {
            self.act(&Action::Written(at));
        }
    }

    /// What the first primary said to this copy arrives there; and its answer at the primary, or it is lost.
    fn tell(&mut self, to: u8, answer_arrives: bool) {
        let said = |message: &&Message| match message {
            Message::Request { to: at, from, request: Request::Append { .. } } => (*from, *at) == (FIRST, to),
            _ => false,
        };
        for message in self.state.net.clone().iter().filter(said) {
            self.state.net.remove(message);
            let before = self.state.net.len();
            let deliver = if answer_arrives { Action::Deliver } else { Action::DeliverLate };
            // An answer that waits for the disk is not on its way yet.
            let _: Option<()> = self.world.step(&mut self.state, &deliver(message.clone()));
            self.check();
            if !answer_arrives {
                let answers = |message: &Message| matches!(message, Message::Reply { .. });
                self.state.net.retain(|message| !answers(message));
                self.state.nodes[usize::from(to)].waiting.clear();
                assert_eq!(self.state.net.len(), before);
            }
        }
        self.write_down(to);
    }

    /// Writes, and goes on until that write is in the phase that the case is about. Says where it stands.
    fn write(&mut self) -> (u64, Value) {
        let (phase, replicas) = (self.case.phase, self.case.replicas());
        let value = Value(self.state.next_value);
        self.act(&Action::Append(FIRST));
        let sequence = self.primary(FIRST).unwrap().copy().last().sequence;
        let others = match phase {
            Phase::Appended => 0,
            Phase::OnSome => self.case.write_quorum() - 2,
            Phase::OnEnough | Phase::Prepared | Phase::PreCommitted | Phase::Committed => {
                self.case.write_quorum() - 1
            }
        };
        // In `strong` it is there once it is on disk, and the primary's own is no exception.
        if phase > Phase::Appended {
            self.write_down(FIRST);
        }
        for to in &replicas[..others] {
            self.tell(*to, phase != Phase::OnEnough);
        }
        self.state.net.clear();
        let held = self.primary(FIRST).unwrap().held() >= sequence;
        assert_eq!(held, phase >= Phase::Prepared, "{:?}", self.case);
        match phase {
            Phase::PreCommitted => {
                self.act(&Action::Wake(FIRST));
                self.tell(replicas[0], true);
                self.state.net.clear();
                let told = self.copy_knows(replicas[0], sequence);
                assert!(told && !replicas[1..].iter().any(|at| self.copy_knows(*at, sequence)));
            }
            Phase::Committed => {
                let awake: Vec<u8> = std::iter::once(FIRST).chain(replicas.clone()).collect();
                self.talk(&awake, FIRST);
                assert!(replicas.iter().all(|at| self.copy_knows(*at, sequence)), "{:?}", self.case);
            }
            Phase::Appended | Phase::OnSome | Phase::OnEnough | Phase::Prepared => {}
        }
        (sequence, value)
    }

    /// The primary is gone, and another one is named.
    fn fail_over(&mut self) {
        self.act(&match self.case.fate {
            Fate::Dies => Action::Crash(FIRST),
            Fate::Sleeps | Fate::IsCutOff => Action::Lapse(FIRST),
        });
        assert!(self.world.may_promote(&self.state), "{:?}", self.case);
        self.act(&Action::Promote(self.case.heir));
        self.act(&Action::Learn(self.case.heir));
        if self.case.fate == Fate::IsCutOff {
            self.act(&Action::Append(FIRST));
        }
    }

    fn primary(&self, at: u8) -> Option<&Primary<Value>> {
        self.state.nodes[usize::from(at)].primary()
    }

    fn serves(&self, at: u8) -> bool {
        self.primary(at).is_some_and(|primary| primary.phase() == law::Phase::Serving)
    }

    /// Whether a copy knows that everything up to here holds.
    fn copy_knows(&self, at: u8, sequence: u64) -> bool {
        self.state.nodes[usize::from(at)].copy().mark_position().sequence >= sequence
    }

    /// Whether a copy has this write, where it was written.
    fn has(&self, at: u8, (sequence, value): (u64, Value)) -> bool {
        let entry = self.state.nodes[usize::from(at)].entry(sequence);
        entry.is_some_and(|entry| entry.body == Body::Data(value))
    }

    /// All of these have the same, and know that it holds.
    fn check_agreement(&self, among: &[u8]) {
        let log = |at: u8| {
            let node = &self.state.nodes[usize::from(at)];
            let (last, mark) = (node.copy().last(), node.copy().mark_position());
            let entries: Vec<_> = (1..=last.sequence).map(|sequence| node.entry(sequence).cloned()).collect();
            (last, mark, entries)
        };
        let (last, mark, entries) = log(among[0]);
        assert!(last == mark && entries.iter().all(Option::is_some), "{:?}", self.case);
        for at in &among[1..] {
            assert_eq!(log(*at), (last, mark, entries.clone()), "{at} in {:?}", self.case);
        }
    }
}

/// Tells a case to its end. Whether the write is there then.
fn run(case: Case) -> bool {
    let mut story = Story::begin(case);
    let write = story.write();
    story.fail_over();
    let mut awake = case.replicas();
    let seals = story.state.register.record.seal_quorum();
    story.talk(&awake, case.heir);
    if awake.len() < seals {
        // Of three copies one is left: nobody can tell what was written, until another one is back.
        assert!(!story.serves(case.heir), "{case:?}");
        awake.extend(case.down);
        story.talk(&awake, case.heir);
    }
    assert!(story.serves(case.heir), "{case:?}");
    if case.fate == Fate::IsCutOff {
        // What it wrote comes too late, and it is told so.
        awake.iter().for_each(|at| story.tell(*at, true));
        assert!(story.primary(FIRST).is_none(), "{case:?}");
    }
    story.check_agreement(&awake);
    let kept = story.has(case.heir, write);
    let promised = story.state.promised.contains_key(&write.0);
    match case.phase {
        Phase::Appended => assert!(!kept, "{case:?}: nobody who is there ever had it"),
        // It depends on who was asked.
        Phase::OnSome => {}
        Phase::OnEnough => assert!(kept, "{case:?}: whoever is asked, one of them has it"),
        Phase::Prepared | Phase::PreCommitted | Phase::Committed => {
            assert!(kept && promised, "{case:?}: it may have been acknowledged");
        }
    }

    // The next write is committed, with as many copies as there are.
    let next = Value(story.state.next_value);
    story.act(&Action::Append(case.heir));
    let end = story.primary(case.heir).unwrap().copy().last().sequence;
    story.talk(&awake, case.heir);
    assert!(awake.iter().all(|at| story.copy_knows(*at, end) && story.has(*at, (end, next))), "{case:?}");

    // And all who were gone come back to the same.
    let healed = story.world.heals(&mut story.state);
    assert_eq!(healed, Ok(()), "{case:?}");
    let everybody: Vec<u8> = (0..case.copies).collect();
    story.talk(&everybody, case.heir);
    story.check_agreement(&everybody);
    assert_eq!(story.has(FIRST, write), kept, "{case:?}");
    kept
}

#[test]
fn all_copies_agree_whatever_phase_a_primary_is_gone_after() {
    let (mut cases, mut kept, mut dropped) = (0, 0, 0);
    for case in Case::all() {
        cases += 1;
        match run(case) {
            true => kept += 1,
            false => dropped += 1,
        }
    }
    eprintln!("{cases} cases: the write stayed in {kept}, and was dropped in {dropped}");
    assert!(kept > 0 && dropped > 0);
}

#[test]
fn a_write_on_w_copies_stays_whether_its_primary_knew_or_not() {
    let case = |heir| Case {
        copies: 3,
        mode: Mode::Strong,
        acks: Acks::AfterDisk,
        phase: Phase::OnEnough,
        down: None,
        heir,
        fate: Fate::Dies,
    };
    // The one that has it, and the one that has not: it asks the other.
    assert!(run(case(1)) && run(case(2)));
}

#[test]
fn with_one_of_three_copies_down_writes_are_committed() {
    for (mode, acks) in [(Mode::Sync, Acks::WithoutDisk), (Mode::Strong, Acks::AfterDisk)] {
        for down in [1, 2] {
            let (phase, heir, fate) = (Phase::Committed, 3 - down, Fate::Dies);
            let mut story = Story::begin(Case { copies: 3, mode, acks, phase, down: Some(down), heir, fate });
            let (first, _) = story.write();
            let (second, _) = story.write();
            assert!(story.state.promised.contains_key(&first) && story.state.promised.contains_key(&second));
            assert!(!story.copy_knows(down, first), "it is down");
        }
    }
}
