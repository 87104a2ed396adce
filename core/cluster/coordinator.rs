//! When to plan anew, and what must have stopped before a plan is committed. Only the Raft leader's acts.
//!
//! ```text
//!  news ─▶ who is lost? ─▶ promote at once ───────────────────────────────┐
//!          who leaves? who waits? (a window joins a burst) ─▶ strategy ─┐ ├─▶ commit ─▶ Announce
//!                                                                       ▼ │
//!                                         ask the present primaries to release what moves
//! ```
//!
//! A partition gets a new epoch only after its former primary released it, its lease surely ran out, or
//! its process is proven dead. A plan for the lost waits for nobody; a plan for joins, departures and balance
//! waits for releases, and gives up those that do not come.

mod planning;
mod roster;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use self::planning::{Move, Preview, certify_change, layout_of};
pub use self::roster::{Departure, WindowConfig};
use self::roster::{Roster, Window};
use crate::assignment::Strategy;
use crate::cluster::control::{Command, ControlState, Outcome};
use crate::cluster::lease::{self, Grantor, PlanId, Proposal, Release};
use crate::cluster::member::{Member, NodeInfo, Status};
use crate::cluster::plan::{Draft, Handover};
use crate::cluster::snapshot::Snapshot;
use crate::ids::{NodeBoot, NodeName, PartitionId, Term};
use crate::time::{Moment, UnixMillis};

/// How long after a proposal that did not come through the next one is made.
const PROPOSE_AGAIN: Duration = Duration::from_millis(20);

/// When partitions come into being.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Create {
    /// As soon as enough nodes are there.
    #[default]
    Auto,
    /// When somebody asks for it, and enough nodes are there.
    Manual,
}

/// When partitions move for the sake of balance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Rebalance {
    /// Whenever members come or go.
    #[default]
    Auto,
    /// When somebody asks for it. Lost primaries are replaced all the same.
    Manual,
}

/// Where a refused dial of a node's own address proves that its process is gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CrashProof {
    /// On loopback addresses only: elsewhere a firewall, or a service without endpoints, refuses for the living.
    #[default]
    Loopback,
    /// Everywhere: only where nothing but the node itself can answer at its address.
    Always,
    /// Nowhere: a crashed node's lease is waited out.
    Never,
}

impl CrashProof {
    /// Whether a refused dial of `address` (`host:port`) proves anything.
    pub fn holds_for(self, address: &str) -> bool {
        match self {
            Self::Always => true,
            Self::Never => false,
            Self::Loopback => {
                let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
                let host = host.trim_start_matches('[').trim_end_matches(']');
                host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
            }
        }
    }
}

/// What the coordinator needs to know beforehand.
#[derive(Clone, Debug)]
pub struct Config {
    /// How many nodes must be there before partitions come into being. Default 1.
    pub min_nodes: usize,
    /// When partitions come into being.
    pub create: Create,
    /// When partitions move for the sake of balance.
    pub rebalance: Rebalance,
    /// What a refused dial proves.
    pub crash_proof: CrashProof,
    /// How a burst of joins becomes one change.
    pub window: WindowConfig,
    /// How long a lost node's copies are waited for before they are made anew elsewhere. Default 30 s.
    pub rebuild_after: Duration,
    /// How long a primary that was asked for a release may take. Default 2 s; then the partition stays.
    pub release_within: Duration,
    /// Leases.
    pub lease: lease::Config,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            min_nodes: 1,
            create: Create::Auto,
            rebalance: Rebalance::Auto,
            crash_proof: CrashProof::Loopback,
            window: WindowConfig::default(),
            rebuild_after: Duration::from_secs(30),
            release_within: Duration::from_secs(2),
            lease: lease::Config::default(),
        }
    }
}

/// The present, on the steady clock for decisions and on the wall for people.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// What decisions go by.
    pub moment: Moment,
    /// What stands in the plan for people to read.
    pub unix: UnixMillis,
}

/// What the leader's actor is to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Answer a lease request.
    Answer(lease::Reply),
    /// Ask a primary to give partitions back. It answers within its next lease requests.
    AskRelease {
        /// Who serves them.
        to: NodeBoot,
        /// What it is to give back.
        partitions: Vec<Release>,
    },
    /// Dial a node's own address. Answered by [`Coordinator::handle_probed`].
    Probe {
        /// Whose.
        node: NodeBoot,
        /// Where.
        address: String,
    },
    /// Propose to Raft. Answered by [`Coordinator::handle_committed`].
    Commit(Command),
    /// Call [`Coordinator::handle_tick`] then, or before.
    WakeAt(Moment),
}

/// When a silent member was dialled, and how long to wait before it is dialled again.
#[derive(Clone, Copy, Debug)]
struct Probed {
    at: Moment,
    wait: Duration,
}

impl Probed {
    fn again_at(self) -> Moment {
        self.at + self.wait
    }
}

/// How soon a member is dialled again whose session ended, but who did not refuse the first dial. A dying process closes
/// its listener last, a little after its sessions, so that the first dial often comes too early. Doubles up to a
/// third of the lease.
const PROBE_AGAIN_AFTER: Duration = Duration::from_millis(2);

/// Why a request to the coordinator was not carried out. Nothing changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum AskError {
    /// Another node leads.
    #[error("this node does not lead the cluster: ask {}", .leader.as_ref().map_or("again later", |l| l.as_str()))]
    NotLeader {
        /// Who leads, if that is known.
        leader: Option<NodeName>,
    },
    /// Fewer nodes are there than `--min-nodes` wants.
    #[error("{present} of {wanted} nodes are there (--min-nodes {wanted}): {} more needed", .wanted - .present)]
    TooFewNodes {
        /// How many are there.
        present: usize,
        /// How many are wanted.
        wanted: usize,
    },
    /// There are no partitions yet.
    #[error("no partitions exist yet: create them first")]
    NoPlan,
    /// No member has this name.
    #[error("no member is named {0}")]
    NoSuchNode(NodeName),
    /// The strategy failed, or what it made was refused.
    #[error("the strategy {strategy:?} made no valid plan: {why}")]
    Strategy {
        /// The strategy's name.
        strategy: String,
        /// What is wrong.
        why: String,
    },
}

#[derive(Clone, Copy, Debug)]
struct Leading {
    term: Term,
    since: Moment,
    /// The first entry of this term has been applied: what is known is all that was ever committed.
    settled: bool,
}

/// A plan that waits for releases.
#[derive(Debug)]
struct Planned {
    draft: Draft,
    /// What must be given back, by whom.
    waiting: Vec<Handover>,
    asked_at: Moment,
    deadline: Moment,
}

/// The law of the leader. Other nodes keep one too, so that it knows the nodes when its turn comes.
pub struct Coordinator {
    me: NodeInfo,
    config: Config,
    strategies: Vec<Box<dyn Strategy>>,
    control: ControlState,
    roster: Roster,
    grantor: Grantor,
    leading: Option<Leading>,
    leader: Option<NodeName>,
    window: Window,
    planned: Option<Planned>,
    /// The version that was proposed and whose outcome is not known yet.
    committing: Option<(PlanId, Option<Proposal>)>,
    /// When a majority last confirmed this leader.
    ack: Option<Moment>,
    creation_asked: bool,
    rebalance_asked: bool,
    /// After a strategy failed or releases did not come, planning for balance rests until then.
    resting_until: Moment,
    /// After a proposal did not come through nothing is proposed until then, or a Raft that refuses at once
    /// would be asked without end.
    propose_from: Moment,
    probed: BTreeMap<NodeBoot, Probed>,
    last_error: Option<String>,
}

impl Coordinator {
    /// A coordinator that knows only its own node. `strategies` are the user's own, beside those in the box.
    pub fn new(me: NodeInfo, config: Config, strategies: Vec<Box<dyn Strategy>>) -> Self {
        let mut roster = Roster::default();
        if let Some(seen) = roster.learn(&me) {
            seen.connected = true;
        }
        let grantor = Grantor::new(config.lease);
        Self {
            me,
            config,
            strategies,
            control: ControlState::default(),
            roster,
            grantor,
            leading: None,
            leader: None,
            window: Window::default(),
            planned: None,
            committing: None,
            ack: None,
            creation_asked: false,
            rebalance_asked: false,
            resting_until: Moment::ZERO,
            propose_from: Moment::ZERO,
            probed: BTreeMap::new(),
            last_error: None,
        }
    }

    /// A session with a node's boot is open.
    pub fn handle_peer_up(&mut self, now: Now, info: &NodeInfo) -> Vec<Effect> {
        let newer = self.roster.get(info.name()).filter(|seen| seen.info.boot() < info.boot());
        // Whoever listens where the former boot listened is proof that the former boot listens no more, and
        // a node's listener closes last of all.
        let succeeded = newer
            .filter(|seen| {
                seen.info.address == info.address && self.config.crash_proof.holds_for(&info.address)
            })
            .map(|seen| seen.info.id.clone());
        if let Some(seen) = self.roster.learn(info) {
            seen.connected = true;
        }
        if let Some(former) = succeeded {
            self.handle_dead(&former);
        }
        self.decide(now)
    }

    /// The session with a node's boot ended. That alone proves nothing.
    pub fn handle_peer_down(&mut self, now: Now, id: &NodeBoot) -> Vec<Effect> {
        if let Some(seen) = self.roster.current(id) {
            seen.connected = false;
        }
        self.probed.remove(id);
        self.decide(now)
    }

    /// A node's own address was dialled: `refused` tells whether the dial was refused at once.
    pub fn handle_probed(&mut self, now: Now, id: &NodeBoot, refused: bool) -> Vec<Effect> {
        let seen = self.roster.get(&id.node).filter(|seen| seen.info.id == *id);
        let proven = seen.is_some_and(|s| !s.connected && self.config.crash_proof.holds_for(&s.info.address));
        if refused && proven {
            self.handle_dead(id);
        }
        self.decide(now)
    }

    fn handle_dead(&mut self, id: &NodeBoot) {
        self.roster.bury(id);
        self.grantor.handle_crash_proof(id.clone());
    }

    /// A new term's grantor is told of the deaths that were proven before it.
    fn bury_known_dead(&mut self) {
        let Some(snapshot) = self.control.snapshot.clone() else { return };
        for member in &snapshot.members {
            if self.roster.get(member.name()).is_some_and(|seen| seen.is_dead(member.info.boot())) {
                self.grantor.handle_crash_proof(member.id().clone());
            }
        }
    }

    /// Raft's leadership changed, or the leader's first entry was applied. Of the replicated state all that
    /// was applied by then is to be handed in before, through [`Self::handle_control`].
    pub fn handle_leadership(
        &mut self,
        now: Now,
        leader: Option<NodeName>,
        term: Term,
        settled: bool,
    ) -> Vec<Effect> {
        let i_lead = leader.as_ref() == Some(self.me.name());
        self.leader.clone_from(&leader);
        if !i_lead {
            self.grantor.handle_follows(leader);
            self.leading = None;
            self.planned = None;
            self.committing = None;
            return Vec::new();
        }
        if self.leading.is_none_or(|leading| leading.term != term) {
            self.leading = Some(Leading { term, since: now.moment, settled: false });
            self.planned = None;
            self.committing = None;
            self.ack = None;
            self.probed.clear();
            self.roster.start_term();
            self.grantor.handle_elected(now.moment, term);
            self.bury_known_dead();
        }
        if let Some(leading) = self.leading.as_mut().filter(|leading| settled && !leading.settled) {
            leading.settled = true;
            let newest = self.control.snapshot.as_deref().map_or(PlanId::ZERO, PlanId::from);
            self.grantor.handle_first_entry_applied(term, newest);
        }
        self.decide(now)
    }

    /// A majority of the voters confirmed this leader at some time after `stamp`.
    pub fn handle_quorum_ack(&mut self, now: Now, term: Term, stamp: Moment) -> Vec<Effect> {
        if self.leading.is_some_and(|leading| leading.term == term) {
            self.ack = self.ack.max(Some(stamp));
        }
        self.grantor.handle_quorum_ack(term, stamp);
        self.decide(now)
    }

    /// The replicated state was applied up to here.
    pub fn handle_control(&mut self, now: Now, control: &ControlState) -> Vec<Effect> {
        if control.version() < self.control.version() {
            return Vec::new();
        }
        self.control = control.clone();
        if self.committing.is_some_and(|(plan, _)| control.version() >= plan.version) {
            self.committing = None;
        }
        if let Some(snapshot) = self.control.snapshot.clone() {
            self.roster.note_statuses(now.moment, &snapshot.members);
            self.roster.forget_strangers(&snapshot.members);
            self.grantor.handle_applied(&snapshot);
        }
        self.decide(now)
    }

    /// Raft answered a proposal. `None`: the outcome is unknown, and the same may be proposed again, for
    /// a plan is taken only upon the version that it was made for.
    pub fn handle_committed(&mut self, now: Now, outcome: Option<&Outcome>) -> Vec<Effect> {
        let proposed = self.committing;
        match outcome {
            Some(Outcome::Published { .. }) => {}
            Some(Outcome::Conflict { .. } | Outcome::Invalid(_)) => {
                self.committing = None;
                self.last_error =
                    outcome.map(|outcome| format!("the proposed plan was refused: {outcome:?}"));
                if let Some(proposal) = proposed.and_then(|(_, proposal)| proposal) {
                    self.grantor.handle_dropped(proposal);
                }
                self.propose_from = now.moment + PROPOSE_AGAIN;
            }
            Some(Outcome::Nothing | Outcome::Founded | Outcome::AlreadyFounded { .. }) | None => {
                self.committing = None;
                self.propose_from = now.moment + PROPOSE_AGAIN;
            }
        }
        self.decide(now)
    }

    /// A node asks for its lease; a stranger thereby asks to be a member.
    pub fn handle_lease_request(&mut self, now: Now, request: &lease::Request) -> Vec<Effect> {
        if let Some(seen) = self.roster.current(&request.from) {
            seen.heard = Some(now.moment);
            seen.acted_on = request.acted_on;
        }
        let snapshot = self.control.snapshot.clone();
        let answered = self.grantor.handle_request(now.moment, request, snapshot.as_deref());
        let mut effects = vec![Effect::Answer(answered.reply)];
        effects.extend(self.decide(now));
        effects
    }

    /// A node announced how it goes, or an operator asked that it go.
    pub fn handle_departure(
        &mut self,
        now: Now,
        node: &NodeName,
        how: Departure,
    ) -> Result<Vec<Effect>, AskError> {
        self.check_leading()?;
        let member = self.control.snapshot.as_ref().and_then(|s| s.member(node.as_str()));
        let Some(id) = member.map(|member| member.id().clone()) else {
            return Err(AskError::NoSuchNode(node.clone()));
        };
        if let Some(seen) = self.roster.current(&id) {
            seen.departure = Some(how);
        }
        self.resting_until = now.moment;
        Ok(self.decide(now))
    }

    /// Somebody asks that partitions come into being. Where they exist already this changes nothing.
    pub fn handle_create_asked(&mut self, now: Now) -> Result<Vec<Effect>, AskError> {
        self.check_leading()?;
        if self.control.snapshot.is_none() {
            let present = self.present_members();
            let wanted = self.config.min_nodes;
            if present.len() < wanted {
                return Err(AskError::TooFewNodes { present: present.len(), wanted });
            }
            if let Some(founding) = self.control.founding.clone() {
                // Tried once here, so that a strategy that fails is answered and not only logged.
                self.first_snapshot(&founding, present, Term::ZERO, now.unix)?;
            }
            self.creation_asked = true;
            self.resting_until = now.moment;
        }
        Ok(self.decide(now))
    }

    /// Somebody asks for balance now.
    pub fn handle_rebalance_asked(&mut self, now: Now) -> Result<Vec<Effect>, AskError> {
        self.check_leading()?;
        let snapshot = self.control.snapshot.clone().ok_or(AskError::NoPlan)?;
        // Tried once here, so that a strategy that fails is answered and not only logged.
        self.balanced(&snapshot, snapshot.members.clone())?;
        self.rebalance_asked = true;
        self.resting_until = now.moment;
        Ok(self.decide(now))
    }

    /// Time has passed.
    pub fn handle_tick(&mut self, now: Now) -> Vec<Effect> {
        self.decide(now)
    }

    /// Whether nothing is being planned, waited for or committed: the plan in force is the one that is wanted.
    pub fn is_settled(&self) -> bool {
        self.planned.is_none() && self.committing.is_none() && !self.rebalance_asked && !self.window.is_open()
    }

    /// Why the last plan was not made, if one was not.
    pub fn last_error(&self) -> Option<&str> {
        self.last_error.as_deref()
    }

    /// The replicated state, as last applied here.
    pub const fn control(&self) -> &ControlState {
        &self.control
    }

    fn check_leading(&self) -> Result<(), AskError> {
        match self.leading {
            Some(_) => Ok(()),
            None => Err(AskError::NotLeader { leader: self.leader.clone() }),
        }
    }

    /// The one place where plans are made. Called after every piece of news.
    fn decide(&mut self, now: Now) -> Vec<Effect> {
        let Some(leading) = self.leading.filter(|leading| leading.settled) else { return Vec::new() };
        let mut effects = self.probe_the_silent(now.moment);
        if self.committing.is_none() && now.moment >= self.propose_from {
            match self.control.snapshot.clone() {
                None => effects.extend(self.create(now, leading)),
                // A leader that lost its majority cannot commit, and must take nobody for lost: it is the lost one.
                Some(_) if !self.has_quorum(now.moment) => {}
                Some(snapshot) => effects.extend(self.replan(now, leading, &snapshot)),
            }
        }
        effects.extend(self.next_wake(now.moment).map(Effect::WakeAt));
        effects
    }

    fn probe_the_silent(&mut self, now: Moment) -> Vec<Effect> {
        let Some(snapshot) = self.control.snapshot.clone() else { return Vec::new() };
        let silent: Vec<Member> = self.silent(&snapshot).cloned().collect();
        let mut effects = Vec::new();
        for member in silent {
            let last = self.probed.get(member.id());
            if last.is_some_and(|last| now < last.again_at()) {
                continue;
            }
            let longest = self.config.lease.length / 3;
            let wait = last.map_or(PROBE_AGAIN_AFTER, |last| last.wait * 2).min(longest);
            self.probed.insert(member.id().clone(), Probed { at: now, wait });
            effects.push(Effect::Probe { node: member.id().clone(), address: member.info.address.clone() });
        }
        effects
    }

    /// The members that may be gone, and of which a refused dial would prove it.
    fn silent<'a>(&'a self, snapshot: &'a Snapshot) -> impl Iterator<Item = &'a Member> {
        let others =
            snapshot.members.iter().filter(|m| m.status != Status::Lost && m.name() != self.me.name());
        others.filter(|member| {
            self.roster.get(member.name()).is_some_and(|seen| {
                let there = seen.connected && seen.info.id == *member.id();
                !there && !seen.is_dead(member.info.boot())
            }) && self.config.crash_proof.holds_for(&member.info.address)
        })
    }

    fn create(&mut self, now: Now, leading: Leading) -> Vec<Effect> {
        let Some(founding) = self.control.founding.clone() else { return Vec::new() };
        let wanted = self.config.create == Create::Auto || self.creation_asked;
        let present = self.present_members();
        if !wanted || present.len() < self.config.min_nodes || now.moment < self.resting_until {
            return Vec::new();
        }
        let snapshot = match self.first_snapshot(&founding, present, leading.term, now.unix) {
            Ok(snapshot) => snapshot,
            Err(error) => return self.rest(now.moment, &error),
        };
        self.creation_asked = false;
        self.commit(snapshot, None)
    }

    /// The nodes that are there, as members of a first plan.
    fn present_members(&self) -> Vec<Member> {
        let member = |seen: &roster::Seen| Member { info: seen.info.clone(), status: Status::Up };
        self.roster.present().map(member).collect()
    }

    fn rest(&mut self, now: Moment, error: &AskError) -> Vec<Effect> {
        self.last_error = Some(error.to_string());
        self.resting_until = now + Duration::from_secs(5);
        Vec::new()
    }

    fn replan(&mut self, now: Now, leading: Leading, snapshot: &Snapshot) -> Vec<Effect> {
        let statuses = self.statuses(now.moment, snapshot);
        if statuses.lost {
            // The lost ones' partitions wait for nobody else's.
            self.planned = None;
            return self.repair(now, leading, snapshot, statuses.members);
        }
        if self.planned.is_some() {
            return self.advance(now, leading, snapshot);
        }
        let effects = self.plan_change(now, leading, snapshot);
        if !effects.is_empty() || self.planned.is_some() {
            return effects;
        }
        // Whoever released a partition for a plan that was given up serves it again under a new epoch.
        if self.given_back(snapshot).is_empty() {
            return Vec::new();
        }
        self.repair(now, leading, snapshot, snapshot.members.clone())
    }

    fn has_quorum(&self, now: Moment) -> bool {
        self.ack.is_some_and(|ack| now < ack + self.config.lease.length)
    }

    fn given_back(&self, snapshot: &Snapshot) -> BTreeSet<PartitionId> {
        let standing: BTreeSet<(&NodeBoot, Release)> = self.grantor.standing_releases().collect();
        (snapshot.partitions())
            .filter(|(partition, assignment)| {
                let primary = snapshot.primary(assignment).map(Member::id);
                let epoch = assignment.epoch;
                primary.is_some_and(|id| standing.contains(&(id, Release { partition: *partition, epoch })))
            })
            .map(|(partition, _)| partition)
            .collect()
    }

    fn next_wake(&self, now: Moment) -> Option<Moment> {
        let members = self.control.snapshot.as_ref().map_or(&[][..], |snapshot| &snapshot.members);
        let ends = members.iter().filter(|m| m.status.may_serve());
        let ends = ends.filter_map(|member| self.grantor.lease_end(member.id()));
        let expiries = members.iter().filter_map(|member| self.expiry(member));
        let silent = self.control.snapshot.as_deref().into_iter().flat_map(|snapshot| self.silent(snapshot));
        let probes = silent.filter_map(|member| Some(self.probed.get(member.id())?.again_at()));
        let planned = self.planned.as_ref().map(|planned| planned.deadline);
        let rests = [self.propose_from, self.resting_until];
        (ends
            .chain(expiries)
            .chain(probes)
            .chain(planned)
            .chain(rests)
            .chain(self.window.closes(&self.config.window)))
        .filter(|at| *at > now)
        .min()
    }
}
