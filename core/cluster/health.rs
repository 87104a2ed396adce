//! How the cluster is, as one node knows it: healthy, degraded or critical, with reasons and numbers.
//!
//! ```text
//!  plan, leader, lease, sessions ─┐
//!  lost partitions ───────────────┼─ Seen ─▶ Monitor::look ─▶ Assessment    what is so
//!  what primaries say ────────────┘              └──────────▶ Change        what was not so before: each once
//! ```
//!
//! Numbers are what was seen at one look. A *reason* counts once it has stood for a while, where such things come and go by
//! themselves, and goes once it has been gone for a while, where it would flap; what the voters agreed on counts at once.
//! Nothing here acts on any of it.

mod balance;
mod change;
mod partitions;
mod reason;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use self::balance::Balance;
pub use self::change::Change;
pub use self::partitions::{PartitionHealth, Standing, Told};
use self::reason::Key;
pub use self::reason::{About, Lag, Reason, Status, Troubled};
use crate::cluster::member::{Member, Status as Membership};
use crate::cluster::snapshot::Snapshot;
use crate::ids::{ClusterId, Epoch, GroupId, NodeBoot, NodeName, PartitionId, Version};
use crate::time::Moment;

/// How often one looks, and what has to stand for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// How often it is looked. Default 10 s. What comes and goes by itself has to be seen for three quarters of it.
    pub interval: Duration,
    /// How long primaries or copies have to be uneven before that is a reason: moves take their time. Default 60 s.
    pub uneven_after: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self { interval: Duration::from_secs(10), uneven_after: Duration::from_secs(60) }
    }
}

impl Config {
    /// How long something that comes and goes has to stand. Less than the interval, so that two looks are enough.
    fn settled_after(&self) -> Duration {
        self.interval * 3 / 4
    }
}

/// The longest pause between two looks while something is about to count, or to count no more.
const LOOK_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// What one node knows at one look.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// When.
    pub now: Moment,
    /// Which run of which node looks.
    pub me: &'a NodeBoot,
    /// The newest plan, if it knows any.
    pub plan: Option<&'a Snapshot>,
    /// Whether it knows who leads.
    pub led: bool,
    /// Whether it holds a lease.
    pub leased: bool,
    /// The boots that it has a session with.
    pub reached: &'a BTreeSet<NodeBoot>,
    /// The partitions that are lost, and the epoch of each.
    pub lost: &'a BTreeMap<PartitionId, Epoch>,
    /// What primaries say of their partitions, where that is not what the plan shows.
    pub told: &'a BTreeMap<PartitionId, Told>,
    /// How many entries may wait for other copies.
    pub lag_limit: u64,
}

/// One member, as a node sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeHealth {
    /// Which run of which node.
    pub id: NodeBoot,
    /// How it is: critical where it is lost, or has no lease itself.
    pub status: Status,
    /// How the cluster holds it.
    pub membership: Membership,
    /// Why it is not healthy.
    pub reasons: Vec<Reason>,
    /// Of how many partitions it is primary.
    pub primaries: u64,
    /// Of how many it has another copy.
    pub replicas: u64,
}

/// How everything was at one look.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Assessment {
    /// The worst of the reasons.
    pub status: Status,
    /// What counts, sorted by what it is.
    pub reasons: Vec<Reason>,
    /// The plan that it is about; zero where none is known.
    pub version: Version,
    /// The members, by name.
    pub nodes: Vec<NodeHealth>,
    /// The partitions of all groups, in order.
    pub partitions: Vec<PartitionHealth>,
    /// How evenly each group is shared out.
    pub balance: Vec<(GroupId, Balance)>,
    /// How many entries may wait for other copies.
    pub lag_limit: u64,
}

impl Assessment {
    /// The worst of the reasons that are about this.
    pub fn status_of(&self, about: About) -> Status {
        let reasons = self.reasons.iter().filter(|reason| reason.about() == about);
        reasons.map(Reason::status).max().unwrap_or_default()
    }

    /// The partitions of one group, in order.
    pub fn partitions_of(&self, group: GroupId) -> impl Iterator<Item = &PartitionHealth> {
        self.partitions.iter().filter(move |partition| partition.id.group == group)
    }

    /// How many partitions of one group are healthy, degraded and critical.
    pub fn tally(&self, group: GroupId) -> [u64; 3] {
        let mut tally = [0; 3];
        self.partitions_of(group).for_each(|partition| tally[partition.status() as usize] += 1);
        tally
    }

    /// How many copies of one group count and are there, and how many are wanted.
    pub fn replicas(&self, group: GroupId) -> (u64, u64) {
        let counts = |one: &PartitionHealth| (u64::from(one.healthy), u64::from(one.total));
        let add = |(healthy, total): (u64, u64), one: &PartitionHealth| {
            let (more, of) = counts(one);
            (healthy + more, total + of)
        };
        self.partitions_of(group).fold((0, 0), add)
    }
}

/// A reason that was seen, whether it counts already or not.
#[derive(Clone, Debug)]
struct Stands {
    reason: Reason,
    /// Since when without a pause.
    since: Moment,
    /// When it was seen last.
    last: Moment,
    counts: bool,
}

/// Which plan a balance is of.
type Of = (ClusterId, u64);

/// Judges what one node sees, one look after the other.
#[derive(Clone, Debug)]
pub struct Monitor {
    config: Config,
    cluster: Option<ClusterId>,
    stands: BTreeMap<Key, Stands>,
    /// How even the plan of this hash is: counting that again for each look would be for nothing.
    balance: Option<(Of, Vec<(GroupId, Balance)>)>,
    last: Option<Arc<Assessment>>,
    /// When something that was seen is to be looked at again.
    restless: bool,
}

impl Monitor {
    /// One that has not looked yet.
    pub const fn new(config: Config) -> Self {
        let stands = BTreeMap::new();
        Self { config, cluster: None, stands, balance: None, last: None, restless: false }
    }

    /// Looks once. Answers how everything is, and what changed since the last look.
    pub fn look(&mut self, seen: &Seen<'_>) -> (Arc<Assessment>, Vec<Change>) {
        self.forget_what_is_gone(seen);
        let partitions = partitions::of(seen);
        let balance = self.balance_of(seen.plan);
        let mut found = who_is_missing(seen);
        found.extend(partitions::troubles(&partitions, seen.lag_limit, |code| self.stands_by(code)));
        found.extend(unevenness(&balance));
        self.note(seen.now, found);
        let reasons: Vec<Reason> =
            self.stands.values().filter(|one| one.counts).map(|one| one.reason.clone()).collect();
        let assessment = Arc::new(Assessment {
            status: reasons.iter().map(Reason::status).max().unwrap_or_default(),
            nodes: nodes(seen, &reasons),
            version: seen.plan.map_or(Version::ZERO, |plan| plan.version),
            partitions,
            balance,
            lag_limit: seen.lag_limit,
            reasons,
        });
        let changes = change::between(self.last.as_deref(), &assessment);
        self.last = Some(Arc::clone(&assessment));
        (assessment, changes)
    }

    /// How long until it is to be looked again.
    pub fn next_look(&self) -> Duration {
        if self.restless { self.config.interval.min(LOOK_AGAIN_AFTER) } else { self.config.interval }
    }

    /// What was seen of another cluster, or of nodes that are no members any more, says nothing of this one.
    fn forget_what_is_gone(&mut self, seen: &Seen<'_>) {
        let cluster = seen.plan.map(|plan| plan.cluster);
        if self.cluster != cluster {
            self.cluster = cluster;
            self.stands.clear();
        }
        let is_member = |name: &NodeName| seen.plan.is_some_and(|plan| plan.member(name.as_str()).is_some());
        self.stands.retain(|key, _| key.node.as_ref().is_none_or(is_member));
    }

    fn balance_of(&mut self, plan: Option<&Snapshot>) -> Vec<(GroupId, Balance)> {
        let Some(plan) = plan else { return Vec::new() };
        let of = (plan.cluster, plan.hash);
        match &self.balance {
            Some((known, balance)) if *known == of => balance.clone(),
            _ => {
                let balance = Balance::of(plan);
                self.balance = Some((of, balance.clone()));
                balance
            }
        }
    }

    fn stands_by(&self, code: &'static str) -> bool {
        self.stands.get(&Key { code, node: None }).is_some_and(|stands| stands.counts)
    }

    /// What was found at this look begins to stand, stands on, or falls.
    fn note(&mut self, now: Moment, found: Vec<Reason>) {
        for reason in found {
            let new = || Stands { reason: reason.clone(), since: now, last: now, counts: false };
            let stands = self.stands.entry(reason.key()).or_insert_with(new);
            (stands.reason, stands.last) = (reason, now);
            stands.counts |= now.since(stands.since) >= stands.reason.raised_after(&self.config);
        }
        let config = self.config;
        self.stands.retain(|_, one| {
            one.last == now || (one.counts && now.since(one.last) < one.reason.cleared_after(&config))
        });
        self.restless = self.stands.values().any(|one| !one.counts || one.last != now);
    }
}

/// What is wrong with this node, and with the members.
fn who_is_missing(seen: &Seen<'_>) -> Vec<Reason> {
    let Some(plan) = seen.plan else { return vec![Reason::NoPlan] };
    let mut found = Vec::new();
    let is_member = plan.member(seen.me.node.as_str()).is_some_and(|member| member.id() == seen.me);
    if !is_member {
        found.push(Reason::NotMember);
    } else if !seen.leased {
        found.push(Reason::NoLease);
    }
    if !seen.led {
        found.push(Reason::NoLeader);
    }
    for member in plan.members.iter().filter(|member| member.id() != seen.me) {
        let node = member.name().clone();
        match member.status {
            Membership::Lost => found.push(Reason::NodeLost { node }),
            Membership::Away => found.push(Reason::NodeAway { node }),
            Membership::Up | Membership::Leaving if !seen.reached.contains(member.id()) => {
                found.push(Reason::NodeUnreachable { node });
            }
            Membership::Up | Membership::Leaving => {}
        }
    }
    found
}

/// What is shared out unevenly, of the groups whose strategy promises otherwise.
fn unevenness(balance: &[(GroupId, Balance)]) -> Vec<Reason> {
    let judged = || balance.iter().map(|(_, balance)| balance).filter(|balance| balance.judged);
    let primaries = judged().map(|one| one.primary_moves).sum();
    let copies = judged().map(|one| one.copy_moves).sum();
    let zones = judged().map(|one| u64::from(one.zone_violations)).sum();
    let reasons = [
        (primaries, Reason::PrimariesUneven { moves: primaries }),
        (copies, Reason::CopiesUneven { moves: copies }),
        (zones, Reason::ZonesShared { partitions: zones }),
    ];
    reasons.into_iter().filter(|(count, _)| *count > 0).map(|(_, reason)| reason).collect()
}

/// Each member, with the reasons that are about it.
fn nodes(seen: &Seen<'_>, reasons: &[Reason]) -> Vec<NodeHealth> {
    let Some(plan) = seen.plan else { return Vec::new() };
    let mut counts = vec![(0, 0); plan.members.len()];
    for (_, assignment) in plan.partitions() {
        let served = plan.primary(assignment).is_some();
        for (place, at) in assignment.copies.iter().enumerate() {
            let (primaries, replicas) = &mut counts[*at as usize];
            if place == 0 && served { *primaries += 1 } else { *replicas += 1 }
        }
    }
    let node = |(member, (primaries, replicas)): (&Member, (u64, u64))| {
        let own = |reason: &&Reason| matches!(reason, Reason::NoLease) && member.id() == seen.me;
        let about = |reason: &&Reason| reason.node() == Some(member.name()) || own(reason);
        let reasons: Vec<Reason> = reasons.iter().filter(about).cloned().collect();
        let status = match member.status {
            Membership::Lost => Status::Critical,
            _ => reasons.iter().map(Reason::status).max().unwrap_or_default(),
        };
        let (id, membership) = (member.id().clone(), member.status);
        NodeHealth { id, status, membership, reasons, primaries, replicas }
    };
    plan.members.iter().zip(counts).map(node).collect()
}
