//! How each partition is: by what its primary says of it, else by the plan.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Seen;
use super::reason::{Lag, Reason, Status, Troubled};
use crate::cluster::snapshot::{Assignment, Snapshot};
use crate::ids::{Epoch, PartitionId};
use crate::partitions::replication::{CopyReport, CopyState, Report, State};

/// What a primary says of its partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// Under which epoch.
    pub epoch: Epoch,
    /// How far it is.
    pub state: State,
    /// How many of the copies that count are there.
    pub here: u32,
    /// By how many entries the copy that is there and lags most lags.
    pub behind: u64,
    /// How many entries fewer than W copies have.
    pub waiting: u64,
}

impl Told {
    /// What a report comes to.
    pub fn of(report: &Report) -> Self {
        let here = || report.copies.iter().filter(|copy| copy.state == CopyState::Here);
        let mut sequences: Vec<u64> = here().filter_map(|copy: &CopyReport| copy.sequence).collect();
        sequences.sort_unstable_by(|a, b| b.cmp(a));
        let last = sequences.first().copied().unwrap_or(0);
        // Where it is not open yet nothing of its own is under way.
        let open = matches!(report.state, State::Serving | State::Stalled);
        let lag = |of: Option<&u64>| of.map_or(0, |sequence| last - sequence);
        let quorum = report.write_quorum.checked_sub(1).and_then(|at| sequences.get(at));
        Self {
            epoch: report.record.epoch,
            state: report.state,
            here: u32::try_from(here().count()).unwrap_or(u32::MAX),
            behind: if open { lag(sequences.last()) } else { 0 },
            waiting: if open { lag(quorum) } else { 0 },
        }
    }

    /// Whether others would take the partition for the same without being told.
    pub fn is_as_planned(&self, plan: &Snapshot, partition: PartitionId, lag_limit: u64) -> bool {
        let expected = plan.assignment(partition).map_or(0, |assignment| expected(plan, assignment));
        self.state == State::Serving && self.here >= expected && self.behind < lag_limit / 4
    }
}

/// How far a partition is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Standing {
    /// It is served.
    Serving,
    /// It is on its way to another primary.
    Releasing,
    /// Its primary waits for other copies before it serves.
    Opening,
    /// It is served, and too few copies are there for a write.
    Stalled,
    /// Nobody is left to be its primary.
    Unserved,
    /// Too few copies are left to tell what was written.
    Lost,
}

impl Standing {
    /// Its name, for people and programs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Serving => "serving",
            Self::Releasing => "releasing",
            Self::Opening => "opening",
            Self::Stalled => "stalled",
            Self::Unserved => "unserved",
            Self::Lost => "lost",
        }
    }
}

/// One partition, as a node sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionHealth {
    /// Which.
    pub id: PartitionId,
    /// How far it is.
    pub standing: Standing,
    /// How many copies are wanted.
    pub total: u32,
    /// How many of them are to be on nodes that are there.
    pub planned: u32,
    /// How many of them count and are there.
    pub healthy: u32,
    /// By how many entries the copy that is there and lags most lags, as far as its primary said.
    pub behind: u64,
    /// How many entries fewer copies have than a write needs, as far as its primary said.
    pub waiting: u64,
}

impl PartitionHealth {
    /// How it is at this look.
    pub const fn status(&self) -> Status {
        match self.standing {
            Standing::Lost | Standing::Unserved | Standing::Stalled => Status::Critical,
            Standing::Opening => Status::Degraded,
            Standing::Serving | Standing::Releasing if self.healthy < self.total => Status::Degraded,
            Standing::Serving | Standing::Releasing => Status::Healthy,
        }
    }
}

/// How many copies a partition has if its primary says nothing else: those on nodes that may serve.
fn expected(plan: &Snapshot, assignment: &Assignment) -> u32 {
    let there = assignment.copies.iter().filter(|at| plan.members[**at as usize].status.may_serve());
    u32::try_from(there.count()).unwrap_or(u32::MAX)
}

/// Each partition of the plan.
pub(super) fn of(seen: &Seen<'_>) -> Vec<PartitionHealth> {
    let Some(plan) = seen.plan else { return Vec::new() };
    let wanted: BTreeMap<_, u32> =
        plan.groups.iter().map(|group| (group.id, group.spec.replication)).collect();
    let health = |(id, assignment): (PartitionId, &Assignment)| {
        let total = wanted.get(&id.group).copied().unwrap_or_default();
        let told = seen.told.get(&id).filter(|told| told.epoch == assignment.epoch);
        let planned = expected(plan, assignment).min(total);
        let there = told.map_or(planned, |told| told.here);
        let standing = match told.map(|told| told.state) {
            _ if seen.lost.get(&id) == Some(&assignment.epoch) => Standing::Lost,
            _ if plan.primary(assignment).is_none() => Standing::Unserved,
            Some(State::Lost) => Standing::Lost,
            Some(State::Opening) => Standing::Opening,
            Some(State::Stalled) => Standing::Stalled,
            Some(State::Releasing) => Standing::Releasing,
            Some(State::Serving) | None => Standing::Serving,
        };
        PartitionHealth {
            id,
            standing,
            total,
            planned,
            // A copy on its way beside those that are wanted is none too many.
            healthy: there.min(total),
            behind: told.map_or(0, |told| told.behind),
            waiting: told.map_or(0, |told| told.waiting),
        }
    };
    plan.partitions().map(health).collect()
}

/// What is wrong with the partitions. `stands` tells whether a reason of this code counts already.
pub(super) fn troubles(
    partitions: &[PartitionHealth],
    lag_limit: u64,
    stands: impl Fn(&'static str) -> bool,
) -> Vec<Reason> {
    let in_state = |standing| troubled(partitions, move |one| one.standing == standing);
    let mut found: Vec<Reason> = [
        in_state(Standing::Lost).map(Reason::PartitionsLost),
        in_state(Standing::Unserved).map(Reason::PartitionsUnserved),
        in_state(Standing::Stalled).map(Reason::PartitionsStalled),
        in_state(Standing::Opening).map(Reason::PartitionsOpening),
    ]
    .into_iter()
    .flatten()
    .collect();
    let wanted = partitions.iter().map(|one| u64::from(one.total)).sum();
    let missing = |one: &PartitionHealth| one.total - one.planned;
    let joining = |one: &PartitionHealth| one.planned.saturating_sub(one.healthy);
    if let Some((troubled, copies)) = lacking(partitions, missing) {
        found.push(Reason::CopiesMissing { troubled, copies, wanted });
    }
    if let Some((troubled, copies)) = lacking(partitions, joining) {
        found.push(Reason::CopiesJoining { troubled, copies, wanted });
    }
    // One that lags counts until it lags by half as much as would make it one that does.
    let half = |limit: u64, standing: bool| if standing { limit / 2 } else { limit };
    let behind = half(lag_limit / 2, stands("copies_behind"));
    found.extend(lag(partitions, |one| one.behind, behind, lag_limit).map(Reason::CopiesBehind));
    let waiting = half(lag_limit, stands("writes_refused"));
    found.extend(lag(partitions, |one| one.waiting, waiting, lag_limit).map(Reason::WritesRefused));
    found
}

fn troubled(partitions: &[PartitionHealth], is_so: impl Fn(&PartitionHealth) -> bool) -> Option<Troubled> {
    let mut so = partitions.iter().filter(|one| is_so(one));
    let first = so.next()?.id;
    Some(Troubled { partitions: 1 + so.count() as u64, first })
}

/// The partitions that lack copies in one way, and how many in all.
fn lacking(partitions: &[PartitionHealth], of: impl Fn(&PartitionHealth) -> u32) -> Option<(Troubled, u64)> {
    let troubled = troubled(partitions, |one| of(one) > 0)?;
    Some((troubled, partitions.iter().map(|one| u64::from(of(one))).sum()))
}

/// The partitions that lag by so much, and by how much the worst does.
fn lag(
    partitions: &[PartitionHealth],
    of: impl Fn(&PartitionHealth) -> u64,
    from: u64,
    limit: u64,
) -> Option<Lag> {
    let from = from.max(1);
    let worst = partitions.iter().filter(|one| of(one) >= from).max_by_key(|one| of(one))?;
    let count = partitions.iter().filter(|one| of(one) >= from).count() as u64;
    Some(Lag { troubled: Troubled { partitions: count, first: worst.id }, entries: of(worst), limit })
}
