//! The plans themselves: who is a member, what a strategy makes of it, and what must be released first.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::roster::Departure;
use super::{AskError, Coordinator, Effect, Leading, Now, PROPOSE_AGAIN, Planned, REST, Rebalance};
use crate::assignment::{self, Candidate, Layout, Problem, Strategy, certificate};
use crate::cluster::control::{Command, Founding};
use crate::cluster::lease::{Proposal, Release};
use crate::cluster::member::{Member, NodeInfo, Status};
use crate::cluster::outline::Outline;
use crate::cluster::plan::{Draft, Handover, Row};
use crate::cluster::snapshot::{Assignment, GroupPlan, GroupSpec, Snapshot};
use crate::ids::{Epoch, GroupId, NodeBoot, NodeName, PartitionId, Revision, Term, Version};
use crate::partitions::record::CopyId;
use crate::time::{Moment, UnixMillis};

/// One partition's change between two plans.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Move {
    /// Which partition.
    pub partition: PartitionId,
    /// Its copies before, the primary first.
    pub from: Vec<NodeName>,
    /// Its copies after, the primary first.
    pub to: Vec<NodeName>,
}

/// What a change of members would do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Preview {
    /// Every partition of the users' group whose copies or primary would change.
    pub moves: Vec<Move>,
    /// What it would cost, and what it must cost at least.
    pub certificate: certificate::Certificate,
}

/// The member list as it should be now.
pub(super) struct Statuses {
    /// Losses only: this is to be committed at once, if anybody is lost.
    pub(super) members: Vec<Member>,
    /// Whether anybody is newly lost.
    pub(super) lost: bool,
}

impl Coordinator {
    /// The members with those marked that are surely gone.
    pub(super) fn statuses(&self, now: Moment, snapshot: &Snapshot) -> Statuses {
        let mut lost = false;
        let mark = |member: &Member| {
            let gone = member.status.may_serve() && self.is_gone(now, member);
            let stopping = matches!(self.departure(member), Some(Departure::Stop { .. }));
            let status = match (gone, stopping) {
                (false, _) => member.status,
                (true, true) => Status::Away,
                (true, false) => Status::Lost,
            };
            lost |= status != member.status;
            Member { info: member.info.clone(), status }
        };
        let members = snapshot.members.iter().map(mark).collect();
        Statuses { members, lost }
    }

    /// Whether a member's boot surely serves nothing any more: it is proven dead, or its lease surely ran out
    /// and it does not ask for another.
    fn is_gone(&self, now: Moment, member: &Member) -> bool {
        if member.name() == self.me.name() && *member.id() == self.me.id {
            return false;
        }
        let seen = self.roster.get(member.name());
        if seen.is_some_and(|seen| seen.is_dead(member.info.boot())) {
            return true;
        }
        let Some(leading) = self.leading else { return false };
        let same = seen.filter(|seen| seen.info.id == *member.id());
        let heard = same.and_then(|seen| seen.heard).unwrap_or(leading.since);
        let silent = now.since(heard) > self.config.lease.length;
        let stopping = matches!(self.departure(member), Some(Departure::Stop { .. }));
        (silent || stopping) && self.grantor.is_over(now, member.id())
    }

    fn departure(&self, member: &Member) -> Option<Departure> {
        let seen = self.roster.get(member.name())?;
        seen.departure.filter(|_| seen.info.id == *member.id())
    }

    /// When a member that is gone loses its place.
    pub(super) fn expiry(&self, member: &Member) -> Option<Moment> {
        let seen = self.roster.get(member.name())?;
        let since = seen.gone_since?;
        match member.status {
            Status::Up | Status::Leaving => None,
            Status::Lost => Some(since + self.config.rebuild_after),
            Status::Away => match seen.departure {
                Some(Departure::Stop { grace }) => Some(since + grace),
                _ => Some(since + self.config.rebuild_after),
            },
        }
    }

    /// Those who should be members and are not yet, or are again what they were.
    fn waiting(&self, now: Moment, snapshot: &Snapshot) -> Vec<NodeInfo> {
        let asks = |seen: &&super::roster::Seen| {
            let member = snapshot.member(seen.info.name().as_str());
            let recently = seen.heard.is_some_and(|at| now.since(at) <= self.config.lease.length);
            let me = seen.info.id == self.me.id;
            (recently || me)
                && seen.departure.is_none()
                && match member {
                    None => true,
                    // An older boot's place is taken once that boot surely serves nothing: until then the
                    // newcomer may be a second node of the same name.
                    Some(m) if m.info.boot() < seen.info.boot() => m.status != Status::Up,
                    // A node that thawed comes back once it has acted on the plan that deposed it.
                    Some(m) => {
                        m.status != Status::Up && seen.acted_on >= snapshot.into() && *m.id() == seen.info.id
                    }
                }
        };
        self.roster.present().filter(asks).map(|seen| seen.info.clone()).collect()
    }

    /// Plans for joins, returns, departures, expiries and balance, where there is cause to.
    pub(super) fn plan_change(&mut self, now: Now, leading: Leading, snapshot: &Snapshot) -> Vec<Effect> {
        if self.config.rebalance == Rebalance::Manual && !self.rebalance_asked {
            self.evening.end_once_settled(snapshot);
        }
        let waiting = self.waiting(now.moment, snapshot);
        let ids: Vec<NodeBoot> = waiting.iter().map(|info| info.id.clone()).collect();
        let closes = self.window.observe(now.moment, ids, &self.config.window);
        if now.moment < self.resting_until {
            return Vec::new();
        }
        let admitted = if closes.is_some_and(|at| at <= now.moment) { waiting } else { Vec::new() };
        let members = self.changed_members(now.moment, snapshot, admitted);
        let changed = members != snapshot.members;
        let evens = self.evening.is_due(now.moment, snapshot);
        let asked = self.rebalance_asked || evens;
        let balancing = asked || (changed && self.config.rebalance == Rebalance::Auto);
        if !changed && !asked {
            return Vec::new();
        }
        self.evening.handle_planned(balancing);
        let draft = if balancing {
            match self.balanced(snapshot, members) {
                Ok(draft) => draft,
                Err(error) => {
                    self.rebalance_asked = false;
                    return self.rest(now.moment, &error);
                }
            }
        } else {
            let mut draft = Draft::new(snapshot, members);
            draft.promote(snapshot, |_| true);
            draft
        };
        if draft.is_as(snapshot) {
            self.rebalance_asked = false;
            return Vec::new();
        }
        let waiting = self.still_serving(now.moment, draft.handovers(snapshot));
        let deadline = now.moment + self.config.release_within;
        self.planned = Some(Planned { draft, waiting, asked_at: now.moment, deadline });
        let mut effects = self.ask_releases();
        effects.extend(self.advance(now, leading, snapshot));
        effects
    }

    fn changed_members(&self, now: Moment, snapshot: &Snapshot, admitted: Vec<NodeInfo>) -> Vec<Member> {
        let names: BTreeSet<NodeName> = admitted.iter().map(|info| info.name().clone()).collect();
        let kept = snapshot.members.iter().filter(|m| !names.contains(m.name())).filter_map(|member| {
            let status = match (member.status, self.departure(member)) {
                (Status::Up, Some(_)) => Status::Leaving,
                (status, _) => status,
            };
            let expired = self.expiry(member).is_some_and(|at| at <= now);
            (!expired && !self.is_done(snapshot, member))
                .then(|| Member { info: member.info.clone(), status })
        });
        let admitted = admitted.into_iter().map(|info| Member { info, status: Status::Up });
        let mut members: Vec<Member> = kept.chain(admitted).collect();
        members.sort_by(|a, b| a.name().cmp(b.name()));
        members
    }

    fn is_leaving(&self, member: &Member) -> bool {
        matches!(self.departure(member), Some(Departure::Drain { leave: true }))
    }

    /// Whether a member that is to leave has given everything away.
    fn is_done(&self, snapshot: &Snapshot, member: &Member) -> bool {
        member.status == Status::Leaving && self.is_leaving(member) && holds_nothing(snapshot, member)
    }

    /// Whether this node leads, and this boot is of a member that is to leave and has given everything away. It gets no lease
    /// any more: only once that is over it is a member no more.
    pub(super) fn has_left(&self, snapshot: &Snapshot, boot: &NodeBoot) -> bool {
        let member = snapshot.member(boot.node.as_str()).filter(|member| member.id() == boot);
        self.leading.is_some_and(|leading| leading.settled)
            && member.is_some_and(|member| self.is_done(snapshot, member))
    }

    /// Of these handovers, the ones whose former primary may still be serving.
    fn still_serving(&self, now: Moment, handovers: Vec<Handover>) -> Vec<Handover> {
        let free = |h: &Handover| self.grantor.is_free(now, &h.from, h.partition, h.epoch);
        handovers.into_iter().filter(|handover| !free(handover)).collect()
    }

    fn ask_releases(&self) -> Vec<Effect> {
        let Some(planned) = &self.planned else { return Vec::new() };
        let mut effects: Vec<Effect> = Vec::new();
        let mut waiting: Vec<&Handover> = planned.waiting.iter().collect();
        waiting.sort_by(|a, b| a.from.cmp(&b.from));
        for handover in waiting {
            let release = Release { partition: handover.partition, epoch: handover.epoch };
            match effects.last_mut() {
                Some(Effect::AskRelease { to, partitions }) if *to == handover.from => {
                    partitions.push(release);
                }
                _ => {
                    effects.push(Effect::AskRelease { to: handover.from.clone(), partitions: vec![release] });
                }
            }
        }
        effects
    }

    /// Commits the plan that waits for releases, once they are there or will not come.
    pub(super) fn advance(&mut self, now: Now, leading: Leading, snapshot: &Snapshot) -> Vec<Effect> {
        let Some(mut planned) = self.planned.take() else { return Vec::new() };
        planned.waiting = self.still_serving(now.moment, planned.waiting);
        if !planned.waiting.is_empty() && now.moment < planned.deadline {
            self.planned = Some(planned);
            return Vec::new();
        }
        // While it waited, steps may have been taken: whom it was to make primary may count no more. Of what was given back
        // meanwhile the former primary then goes on, under another epoch.
        planned.draft.promote(snapshot, |_| true);
        let late = std::mem::take(&mut planned.waiting);
        if !late.is_empty() {
            late.iter().for_each(|handover| planned.draft.keep(snapshot, handover.partition));
            self.resting_until = now.moment + REST;
            let left = self.still_serving(now.moment, planned.draft.handovers(snapshot));
            if !left.is_empty() {
                // A node that goes must give its partitions back, and one that cannot loses its lease in time.
                planned.waiting = left;
                planned.deadline = now.moment + self.config.release_within;
                self.planned = Some(planned);
                return self.ask_releases();
            }
        }
        let asked_for = late.is_empty();
        self.window.close(now.moment);
        if asked_for {
            self.rebalance_asked = false;
        }
        let since = now.moment.since(planned.asked_at);
        debug_assert!(since <= Duration::from_secs(3600), "a plan waits for releases, not for ever");
        self.publish(now, leading, snapshot, &planned.draft)
    }

    /// Promotes copies where the primary is lost, and renews what was given back. Waits for nobody.
    pub(super) fn repair(
        &mut self,
        now: Now,
        leading: Leading,
        snapshot: &Snapshot,
        members: Vec<Member>,
    ) -> Vec<Effect> {
        let mut draft = Draft::new(snapshot, members);
        let continuing =
            |member: &Member| snapshot.member(member.name().as_str()).is_some_and(|m| m.id() == member.id());
        draft.promote(snapshot, continuing);
        let blocked = self.still_serving(now.moment, draft.handovers(snapshot));
        blocked.iter().for_each(|handover| draft.keep(snapshot, handover.partition));
        self.publish(now, leading, snapshot, &draft)
    }

    fn publish(&mut self, now: Now, leading: Leading, snapshot: &Snapshot, draft: &Draft) -> Vec<Effect> {
        let given_back = self.given_back(snapshot);
        let next = Snapshot {
            version: snapshot.version.next(),
            term: leading.term,
            leader: self.me.name().clone(),
            members: draft.members.clone(),
            groups: draft.groups(snapshot, &given_back),
            computed_at: now.unix,
            ..snapshot.clone()
        };
        let next = next.sealed();
        match self.grantor.handle_proposed(now.moment, snapshot, &next) {
            Ok(proposal) => self.commit(next, Some(proposal)),
            Err(held) => {
                // The grantor has the last word; what it holds back is tried again when something changes.
                self.last_error = Some(held.to_string());
                self.propose_from = now.moment + PROPOSE_AGAIN;
                Vec::new()
            }
        }
    }

    pub(super) fn commit(&mut self, snapshot: Snapshot, proposal: Option<Proposal>) -> Vec<Effect> {
        self.committing = Some(((&snapshot).into(), proposal));
        let based_on = self.control.version();
        vec![Effect::Commit(Command::Publish { based_on, outline: Outline::of(snapshot) })]
    }

    fn strategy(&self, name: &str) -> Result<StrategyRef<'_>, AskError> {
        if let Some(own) = self.strategies.iter().find(|strategy| strategy.name() == name) {
            return Ok(StrategyRef::Own(own.as_ref()));
        }
        let boxed = assignment::strategies::by_name(name);
        boxed
            .map(StrategyRef::Boxed)
            .map_err(|e| AskError::Strategy { strategy: name.to_owned(), why: e.to_string() })
    }

    /// What the group's strategy makes of these members, checked.
    fn layout(
        &self,
        spec: &GroupSpec,
        members: &[Member],
        previous: Option<&Layout>,
        in_sync: Option<&Layout>,
    ) -> Result<Layout, AskError> {
        let nodes = self.candidates(members);
        let copies_only: Vec<NodeName> =
            members.iter().filter(|m| !m.status.may_lead()).map(|m| m.name().clone()).collect();
        let mut problem = Problem::new(&nodes, spec.partitions, spec.replication);
        problem.previous = previous;
        problem.copies_only = &copies_only;
        problem.in_sync = in_sync;
        problem.warm_only = in_sync.is_some();
        let failed = |why: String| AskError::Strategy { strategy: spec.strategy.clone(), why };
        let layout =
            self.strategy(&spec.strategy)?.get().assign(&problem).map_err(|e| failed(e.to_string()))?;
        assignment::check(&problem, &layout).map_err(|e| failed(e.to_string()))?;
        Ok(layout)
    }

    fn candidates(&self, members: &[Member]) -> Vec<Candidate> {
        let candidate = |member: &Member| Candidate {
            name: member.name().clone(),
            zone: member.info.zone.clone(),
            weight: if self.is_leaving(member) { 0 } else { member.info.weight },
        };
        members.iter().map(candidate).collect()
    }

    /// The draft that the strategies make of these members.
    pub(super) fn balanced(&self, snapshot: &Snapshot, members: Vec<Member>) -> Result<Draft, AskError> {
        let mut draft = Draft::new(snapshot, members);
        for (at, group) in snapshot.groups.iter().enumerate() {
            let previous = layout_of(snapshot, group);
            let in_sync = group.spec.replicated.then(|| in_sync_of(snapshot, group));
            let layout = self.layout(&group.spec, &draft.members, Some(&previous), in_sync.as_ref())?;
            draft.rows[at] = rows_of(&layout);
        }
        draft.promote(snapshot, |_| true);
        Ok(draft)
    }

    pub(super) fn first_snapshot(
        &self,
        founding: &Founding,
        members: Vec<Member>,
        term: Term,
        unix: UnixMillis,
    ) -> Result<Snapshot, AskError> {
        let mut groups = Vec::new();
        for (id, spec) in &founding.groups {
            let layout = self.layout(spec, &members, None, None)?;
            let assignments = (0..spec.partitions).map(|p| first_assignment(&layout, p, &members)).collect();
            groups.push(GroupPlan { id: *id, spec: spec.clone(), assignments });
        }
        let snapshot = Snapshot {
            cluster: founding.id,
            name: founding.name.clone(),
            generation: founding.generation,
            version: Version::ZERO.next(),
            term,
            leader: self.me.name().clone(),
            members,
            groups,
            steps: 0,
            computed_at: unix,
            hash: 0,
        };
        Ok(snapshot.sealed())
    }

    /// What would move if `add` nodes of the default weight joined and those of `remove` left. Changes nothing.
    pub fn preview(&self, add: usize, remove: &[NodeName]) -> Result<Preview, AskError> {
        let snapshot = self.control.snapshot.as_ref().ok_or(AskError::NoPlan)?;
        if let Some(stranger) = remove.iter().find(|name| snapshot.member(name.as_str()).is_none()) {
            return Err(AskError::NoSuchNode(stranger.clone()));
        }
        let mut members: Vec<Member> = snapshot.members.clone();
        members.retain(|member| !remove.contains(member.name()));
        members.extend((1..).filter_map(|n| self.imagined(n, snapshot)).take(add));
        members.sort_by(|a, b| a.name().cmp(b.name()));
        let users = snapshot.users();
        let previous = layout_of(snapshot, users);
        let layout = self.layout(&users.spec, &members, Some(&previous), None)?;
        let nodes = self.candidates(&members);
        let problem = Problem::new(&nodes, users.spec.partitions, users.spec.replication).after(&previous);
        let moves = (0..users.spec.partitions).filter_map(|index| {
            let from: Vec<NodeName> = previous.names(index).cloned().collect();
            let to: Vec<NodeName> = layout.names(index).cloned().collect();
            (from != to).then_some(Move { partition: PartitionId { group: GroupId::Users, index }, from, to })
        });
        Ok(Preview { moves: moves.collect(), certificate: assignment::certify(&problem, &layout) })
    }

    fn imagined(&self, number: u32, snapshot: &Snapshot) -> Option<Member> {
        let name = NodeName::new(&format!("new-{number}")).ok()?;
        if snapshot.member(name.as_str()).is_some() {
            return None;
        }
        let id = NodeBoot::new(name, crate::ids::Boot::ZERO);
        let weight = crate::cluster::member::WEIGHT_DEFAULT;
        Some(Member { info: NodeInfo { id, weight, zone: None, ..self.me.clone() }, status: Status::Up })
    }
}

/// What a change cost: the certificate of one group's step from one plan to the next.
pub fn certify_change(
    previous: Option<&Snapshot>,
    next: &Snapshot,
    group: GroupId,
) -> Option<certificate::Certificate> {
    let plan = next.group(group)?;
    let nodes: Vec<Candidate> = (next.members.iter())
        .map(|m| Candidate { name: m.name().clone(), zone: m.info.zone.clone(), weight: m.info.weight })
        .collect();
    let copies_only: Vec<NodeName> =
        next.members.iter().filter(|m| !m.status.may_lead()).map(|m| m.name().clone()).collect();
    let before = previous.and_then(|snapshot| Some(layout_of(snapshot, snapshot.group(group)?)));
    let mut problem = Problem::new(&nodes, plan.spec.partitions, plan.spec.replication);
    problem.previous = before.as_ref();
    problem.copies_only = &copies_only;
    Some(assignment::certify(&problem, &layout_of(next, plan)))
}

enum StrategyRef<'a> {
    Own(&'a dyn Strategy),
    Boxed(Arc<dyn Strategy>),
}

impl StrategyRef<'_> {
    fn get(&self) -> &dyn Strategy {
        match self {
            Self::Own(own) => *own,
            Self::Boxed(boxed) => boxed.as_ref(),
        }
    }
}

fn holds_nothing(snapshot: &Snapshot, member: &Member) -> bool {
    let Some(index) = snapshot.member_index(member.name().as_str()) else { return true };
    let holds = |a: &Assignment| a.copies.contains(&(index as u32)) || a.is_in_sync(member.name());
    !snapshot.partitions().any(|(_, assignment)| holds(assignment))
}

/// One group of a plan as a layout over all its members.
pub fn layout_of(snapshot: &Snapshot, group: &GroupPlan) -> Layout {
    let mut layout = Layout::new(snapshot.members.iter().map(|member| member.name().clone()).collect());
    layout.reserve(group.assignments.len(), group.spec.replication as usize);
    group.assignments.iter().for_each(|assignment| layout.push_row(&assignment.copies));
    layout
}

/// Which members hold all of each partition's state. Where it never opened there is nothing to hold.
fn in_sync_of(snapshot: &Snapshot, group: &GroupPlan) -> Layout {
    let mut layout = Layout::new(snapshot.members.iter().map(|member| member.name().clone()).collect());
    layout.reserve(group.assignments.len(), group.spec.replication as usize);
    let everybody: Vec<u32> = (0..snapshot.members.len() as u32).collect();
    for assignment in &group.assignments {
        let index = |copy: &CopyId| Some(snapshot.member_index(copy.node.as_str())? as u32);
        match assignment.members.is_empty() {
            true => layout.push_row(&everybody),
            false => layout.push_row(&assignment.members.iter().filter_map(index).collect::<Vec<u32>>()),
        }
    }
    layout
}

fn rows_of(layout: &Layout) -> Vec<Row> {
    let names = layout.nodes();
    layout.rows().map(|row| row.iter().map(|at| names[*at as usize].clone()).collect()).collect()
}

fn first_assignment(layout: &Layout, partition: u32, members: &[Member]) -> Assignment {
    let index = |name: &NodeName| members.binary_search_by(|m| m.name().cmp(name)).ok().map(|at| at as u32);
    let copies: Vec<u32> = layout.names(partition).filter_map(index).collect();
    let epoch = if copies.is_empty() { Epoch::ZERO } else { Epoch::ZERO.next() };
    Assignment { epoch, revision: Revision::ZERO, copies, members: Vec::new(), high: 0 }
}
