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

mod config;
mod evening;
mod losses;
mod planning;
mod probing;
mod requests;
mod roster;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

pub use self::config::{Config, CrashProof, Create, Rebalance};
use self::evening::Evening;
pub use self::losses::LossOutcome;
use self::losses::Losses;
pub use self::planning::{Move, Preview, certify_change, layout_of};
use self::probing::Probed;
pub use self::requests::AskError;
pub use self::roster::{Departure, WindowConfig};
use self::roster::{Roster, Window};
use crate::assignment::Strategy;
use crate::cluster::control::{Command, ControlState, Outcome, Step};
use crate::cluster::lease::{self, Grantor, PlanId, Proposal, Release};
use crate::cluster::member::{Member, NodeInfo, Status};
use crate::cluster::plan::{Draft, Handover};
use crate::cluster::snapshot::Snapshot;
use crate::ids::{Epoch, NodeBoot, NodeName, PartitionId, Term};
use crate::time::{Moment, UnixMillis};

/// The most steps in one command.
const STEPS_MAX: usize = 4096;
/// How long after a proposal that did not come through the next one is made.
const PROPOSE_AGAIN: Duration = Duration::from_millis(20);

/// How long planning rests after releases did not come, a strategy failed, or a plan was too large.
const REST: Duration = Duration::from_secs(5);

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
    /// Ask a primary to give a partition up for lost. Answered by [`Coordinator::handle_surrendered`].
    AskSurrender {
        /// Who should serve it.
        to: NodeBoot,
        /// Which partition.
        partition: PartitionId,
        /// The epoch that is to be given back.
        epoch: Epoch,
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
    evening: Evening,
    /// Asked for, and not proposed yet: one for each partition, the newest.
    steps: BTreeMap<PartitionId, Step>,
    /// Whether steps were proposed whose outcome is not known yet.
    stepping: bool,
    /// What an operator gives up for lost.
    losses: Losses,
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
            evening: Evening::default(),
            steps: BTreeMap::new(),
            stepping: false,
            losses: Losses::default(),
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
            self.creation_asked = false;
            self.steps.clear();
            self.stepping = false;
            self.losses.clear();
            return Vec::new();
        }
        if self.leading.is_none_or(|leading| leading.term != term) {
            self.leading = Some(Leading { term, since: now.moment, settled: false });
            self.planned = None;
            self.committing = None;
            self.steps.clear();
            self.stepping = false;
            self.losses.clear();
            self.evening.handle_elected(now.moment, self.config.rebalance == Rebalance::Auto);
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
        let order = |control: &ControlState| control.snapshot.as_ref().map(|snapshot| snapshot.order());
        let (known, news) = (order(&self.control), order(control));
        if news < known {
            return Vec::new();
        }
        if news > known && control.version() == self.control.version() {
            self.evening.handle_grown(now.moment);
        }
        self.control = control.clone();
        if self.committing.is_some_and(|(plan, _)| control.version() >= plan.version) {
            self.committing = None;
        }
        if let Some(snapshot) = self.control.snapshot.clone() {
            self.creation_asked = false;
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
        self.note_loss(outcome);
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
            Some(
                Outcome::Nothing
                | Outcome::Founded
                | Outcome::AlreadyFounded { .. }
                | Outcome::Stepped(_)
                | Outcome::Configured(_)
                | Outcome::Inherited,
            )
            | None => {
                self.committing = None;
                self.propose_from = now.moment + PROPOSE_AGAIN;
            }
        }
        self.decide(now)
    }

    /// Raft answered proposed steps, or did not in time. Whoever asked for them looks at what counts now.
    pub fn handle_stepped(&mut self, now: Now) -> Vec<Effect> {
        self.stepping = false;
        self.decide(now)
    }

    /// The proposal was never made: it has `len` bytes, and `max` is all that the voters can take at once. The next is
    /// tried after a rest, for members may have gone by then. Answers what to tell whoever asked for it.
    pub fn handle_too_long(&mut self, now: Now, len: usize, max: usize) -> (Vec<Effect>, AskError) {
        let error = AskError::PlanTooLong { len, max };
        if let Some(proposal) = self.committing.take().and_then(|(_, proposal)| proposal) {
            self.grantor.handle_dropped(proposal);
        }
        self.creation_asked = false;
        self.rebalance_asked = false;
        self.losses.clear();
        self.propose_from = now.moment + REST;
        self.last_error = Some(error.to_string());
        (self.decide(now), error)
    }

    /// A node asks for its lease; a stranger thereby asks to be a member.
    pub fn handle_lease_request(&mut self, now: Now, request: &lease::Request) -> Vec<Effect> {
        if let Some(seen) = self.roster.current(&request.from) {
            seen.heard = Some(now.moment);
            seen.acted_on = request.acted_on;
        }
        let snapshot = self.control.snapshot.clone();
        let answered = match snapshot.as_deref().filter(|plan| self.has_left(plan, &request.from)) {
            Some(plan) => self.grantor.handle_last_request(request, plan),
            None => self.grantor.handle_request(now.moment, request, snapshot.as_deref()),
        };
        let mut effects = vec![Effect::Answer(answered.reply)];
        effects.extend(self.decide(now));
        effects
    }

    /// Time has passed.
    pub fn handle_tick(&mut self, now: Now) -> Vec<Effect> {
        self.decide(now)
    }

    /// Whether nothing is being planned, waited for or committed: the plan in force is the one that is wanted.
    pub fn is_settled(&self) -> bool {
        let idle = self.planned.is_none() && self.committing.is_none() && !self.is_stepping();
        let copied = self.control.snapshot.as_ref().is_none_or(|s| self.evening.is_settled(s));
        idle && copied && !self.rebalance_asked && !self.window.is_open()
    }

    /// Whether steps are waiting, or under way.
    pub fn is_stepping(&self) -> bool {
        self.stepping || !self.steps.is_empty()
    }

    /// Why the last plan was not made, if one was not.
    pub fn last_error(&self) -> Option<&str> {
        self.last_error.as_deref()
    }

    /// The replicated state, as last applied here.
    pub const fn control(&self) -> &ControlState {
        &self.control
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
                Some(snapshot) => {
                    effects.extend(self.accept_loss(now, leading, &snapshot));
                    if self.committing.is_none() {
                        effects.extend(self.replan(now, leading, &snapshot));
                    }
                }
            }
        }
        // Steps wait for a plan that is on its way: they may be for epochs that it ends.
        if self.committing.is_none() && !self.stepping && !self.steps.is_empty() {
            self.stepping = true;
            let first: Vec<PartitionId> = self.steps.keys().copied().take(STEPS_MAX).collect();
            let steps = first.iter().filter_map(|partition| self.steps.remove(partition)).collect();
            effects.push(Effect::Commit(Command::Step(steps)));
        }
        effects.extend(self.next_wake(now.moment).map(Effect::WakeAt));
        effects
    }

    /// The first plan is made as soon as anybody is there, whatever was configured: partitions of the same were there before.
    pub fn begin_anyhow(&mut self) {
        (self.config.min_nodes, self.config.create) = (1, Create::Auto);
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
        self.commit(snapshot, None)
    }

    /// The nodes that are there, as members of a first plan.
    fn present_members(&self) -> Vec<Member> {
        let member = |seen: &roster::Seen| Member { info: seen.info.clone(), status: Status::Up };
        self.roster.present().map(member).collect()
    }

    fn rest(&mut self, now: Moment, error: &AskError) -> Vec<Effect> {
        self.last_error = Some(error.to_string());
        self.resting_until = now + REST;
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
                    && !self.losses.contains(*partition, epoch)
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
            .chain(self.losses.ends())
            .chain(self.evening.due_at())
            .chain(rests)
            .chain(self.window.closes(&self.config.window)))
        .filter(|at| *at > now)
        .min()
    }
}
