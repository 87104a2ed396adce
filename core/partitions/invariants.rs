//! The promises that must hold at every moment, looked at all the time: in tests, and in production.
//!
//! ```text
//! somebody serves  ─▶ one_primary        one boot for each partition and epoch; at one moment, one boot for each partition
//! a plan is known  ─▶ version_monotone   no plan follows a newer one, no two have one version
//!                  ─▶ epoch_monotone     no partition goes back to an older epoch, or an older revision of one
//! copies are known ─▶ copies_distinct    no node has two of one partition
//!                  ─▶ copies_as_wanted   as many as wanted, or as many as there are nodes for them
//!                  ─▶ zones_apart        in as many zones as there can be
//! requests ended   ─▶ ledger_balanced    none was lost, none ended twice
//!                  ─▶ ledger_closed      at rest, none is open
//! ```
//!
//! What is seen goes in; what is wrong is counted and named, with what was seen. Nothing here acts on it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;

use serde::{Deserialize, Serialize, Serializer};

use crate::cluster::member::{Member, Status, Zone};
use crate::cluster::snapshot::{Assignment, Snapshot};
use crate::ids::{Epoch, Generation, NodeBoot, NodeName, PartitionId, Revision, Version};
use crate::partitions::fence::Fence;
use crate::partitions::ledger::Counts;
use crate::time::Moment;

/// The violations that are kept in words; all are counted.
pub const VIOLATIONS_KEPT: usize = 64;

/// How many epochs of a partition, times of serving, and plans are remembered.
const REMEMBERED: usize = 16;

/// One of the promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Invariant {
    /// At most one boot serves a partition under one epoch, and at most one at one moment.
    OnePrimary,
    /// Nobody acts on a plan after a newer one, and a version has one plan.
    VersionMonotone,
    /// A partition's epoch never falls, nor its revision within one.
    EpochMonotone,
    /// A partition's copies are on different nodes.
    CopiesDistinct,
    /// A partition that is at rest has as many copies as are wanted, or as there are nodes that may hold one.
    CopiesAsWanted,
    /// A partition that is at rest has its copies in as many zones as it can.
    ZonesApart,
    /// No request was lost, and none ended twice.
    LedgerBalanced,
    /// With nobody asking, no request is open.
    LedgerClosed,
}

impl Invariant {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::OnePrimary,
        Self::VersionMonotone,
        Self::EpochMonotone,
        Self::CopiesDistinct,
        Self::CopiesAsWanted,
        Self::ZonesApart,
        Self::LedgerBalanced,
        Self::LedgerClosed,
    ];

    /// Its name for programs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::OnePrimary => "one_primary",
            Self::VersionMonotone => "version_monotone",
            Self::EpochMonotone => "epoch_monotone",
            Self::CopiesDistinct => "copies_distinct",
            Self::CopiesAsWanted => "copies_as_wanted",
            Self::ZonesApart => "zones_apart",
            Self::LedgerBalanced => "ledger_balanced",
            Self::LedgerClosed => "ledger_closed",
        }
    }
}

impl fmt::Display for Invariant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A promise that did not hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Violation {
    /// Which one.
    pub invariant: Invariant,
    /// What was seen, in words.
    pub seen: String,
}

/// From when to when a boot believed that it may serve, on a clock that all observed boots share. Boots on different
/// machines share none: leave it out there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interval {
    /// The first moment.
    pub from: Moment,
    /// The first moment after it.
    pub until: Moment,
}

impl Interval {
    fn overlaps(&self, other: &Self) -> bool {
        self.from < other.until && other.from < self.until
    }
}

/// Where a copy is, or may be. A node without a zone is a zone of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place<'a> {
    /// On which node.
    pub node: &'a NodeName,
    /// In which zone, if it was told one.
    pub zone: Option<&'a Zone>,
}

impl<'a> Place<'a> {
    fn of(member: &'a Member) -> Self {
        Self { node: member.name(), zone: member.info.zone.as_ref() }
    }

    fn zone(&self) -> (Option<&'a Zone>, Option<&'a NodeName>) {
        (self.zone, self.zone.is_none().then_some(self.node))
    }
}

/// The copies of one partition, and what they should be.
#[derive(Clone, Copy, Debug)]
pub struct Copies<'a> {
    /// Which partition.
    pub partition: PartitionId,
    /// Where there is one.
    pub found: &'a [Place<'a>],
    /// How many are wanted.
    pub wanted: u32,
    /// Where there may be one.
    pub holders: &'a [Place<'a>],
    /// Whether zones are kept apart.
    pub by_zone: bool,
    /// Whether no copy is on its way or waited for. Until then, only [`Invariant::CopiesDistinct`] is looked at.
    pub at_rest: bool,
}

/// How often a promise was looked at, and how often it did not hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// How often it was looked at.
    pub observations: u64,
    /// How often it did not hold.
    pub violations: u64,
}

/// What was seen so far, for people and programs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// How many violations there were. Zero, or there is a fault in this program.
    pub violations: u64,
    /// By name of the promise. A name that a reader does not know is a newer one's.
    pub invariants: BTreeMap<String, Tally>,
    /// The first [`VIOLATIONS_KEPT`] violations, in words.
    pub seen: Vec<Violation>,
}

#[derive(Clone, Debug, Default)]
struct Served {
    /// Who served under the newest terms.
    by: BTreeMap<(Generation, Epoch), NodeBoot>,
    /// When, the newest last.
    intervals: VecDeque<(NodeBoot, Interval)>,
}

/// Where a plan stands in the order of all: its generation, version, and how often steps were taken.
type Order = (Generation, Version, u64);

/// What one node was seen to act on.
#[derive(Clone, Debug, Default)]
struct Acted {
    plan: Order,
    epochs: BTreeMap<PartitionId, (Epoch, Revision)>,
}

/// What was seen so far, and what was wrong with it.
#[derive(Clone, Debug, Default)]
pub struct Invariants {
    tallies: [Tally; Invariant::ALL.len()],
    violations: Vec<Violation>,
    served: BTreeMap<PartitionId, Served>,
    acted: BTreeMap<NodeName, Acted>,
    /// The hashes of the newest plans.
    hashes: BTreeMap<Order, u64>,
}

impl Invariants {
    /// Nothing was seen.
    pub fn new() -> Self {
        Self::default()
    }

    /// `boot` serves a partition, or serves it still. `believed`: from when to when, if all boots share a clock.
    pub fn handle_serving(&mut self, fence: Fence, boot: &NodeBoot, believed: Option<Interval>) {
        let served = self.served.entry(fence.partition).or_default();
        let mut wrong = served.handle_term(fence, boot);
        if let Some(interval) = believed {
            wrong = wrong.or(served.handle_interval(fence.partition, boot, interval));
        }
        self.note(Invariant::OnePrimary, wrong);
    }

    /// `node` acts on a plan from now on. `at_rest`: no copy of it is on its way or waited for. Where workers have
    /// state, only the copies that count are looked at.
    pub fn handle_plan(&mut self, node: &NodeName, plan: &Snapshot, at_rest: bool) {
        self.look_at_version(node, plan);
        self.look_at_epochs(node, plan);
        self.handle_assignments(plan, at_rest);
    }

    /// Somebody looked where a plan has the copies of all partitions. `at_rest` as with [`Self::handle_plan`].
    pub fn handle_assignments(&mut self, plan: &Snapshot, at_rest: bool) {
        let at_rest = at_rest && plan.members.iter().all(|member| member.status == Status::Up);
        let may_hold = |member: &&Member| member.info.weight > 0 && member.status.may_lead();
        let holders: Vec<_> = plan.members.iter().filter(may_hold).map(Place::of).collect();
        for group in &plan.groups {
            let (wanted, by_zone) = (group.spec.replication, group.spec.strategy == "balanced");
            for (index, assignment) in (0..).zip(&group.assignments) {
                let partition = PartitionId { group: group.id, index };
                let counts = |place: &Place<'_>| !group.spec.replicated || assignment.is_in_sync(place.node);
                let copies = assignment.copies.iter().map(|at| Place::of(&plan.members[*at as usize]));
                let found: Vec<_> = copies.filter(counts).collect();
                self.handle_copies(&Copies {
                    partition,
                    found: &found,
                    wanted,
                    holders: &holders,
                    by_zone,
                    at_rest,
                });
            }
        }
    }

    /// Somebody was told of a plan, whether it acts on it or not: all plans of one number are one plan.
    pub fn handle_told(&mut self, node: &NodeName, plan: &Snapshot) {
        let wrong = self.other_of_its_number(node, plan);
        self.note(Invariant::VersionMonotone, wrong);
    }

    /// By this plan its primaries serve, each its partition: nobody else may under the same epoch.
    pub fn handle_primaries(&mut self, plan: &Snapshot) {
        let (generation, primaries) = (plan.generation, plan.partitions());
        for (partition, Assignment { epoch, .. }) in primaries {
            if let Some((boot, _)) = plan.primary_of(partition) {
                self.handle_serving(Fence { generation, partition, epoch: *epoch }, boot, None);
            }
        }
    }

    /// Whoever observes is of another cluster from now on: what it saw there is no measure for what it will see. What was
    /// wrong stays counted.
    pub fn handle_moved(&mut self) {
        self.served.clear();
        self.acted.clear();
        self.hashes.clear();
    }

    /// Somebody looked where the copies of a partition are.
    pub fn handle_copies(&mut self, copies: &Copies<'_>) {
        let Copies { partition, found, wanted, holders, by_zone, at_rest } = *copies;
        let nodes: BTreeSet<_> = found.iter().map(|place| place.node).collect();
        let twice = nodes.len() < found.len();
        self.note(
            Invariant::CopiesDistinct,
            twice.then(|| format!("{partition} has {} copies on {} nodes", found.len(), nodes.len())),
        );
        if !at_rest {
            return;
        }
        let due = (wanted as usize).min(holders.len());
        let other = nodes.len() != due;
        self.note(
            Invariant::CopiesAsWanted,
            other.then(|| {
                let (found, holders) = (nodes.len(), holders.len());
                format!("{partition} has {found} copies, not {due} (of {wanted} wanted, for {holders} nodes)")
            }),
        );
        if by_zone {
            let (crowd, least) = (most_in_one_zone(found), least_in_one_zone(holders, found.len()));
            let crowded = crowd > least;
            self.note(
                Invariant::ZonesApart,
                crowded
                    .then(|| format!("{partition} has {crowd} copies in one zone, where {least} would do")),
            );
        }
    }

    /// Somebody looked at what was counted of a partition's requests. `at_rest`: nobody asks anything.
    pub fn handle_counts(&mut self, partition: PartitionId, counts: &Counts, at_rest: bool) {
        let unbalanced = !counts.is_balanced();
        self.note(
            Invariant::LedgerBalanced,
            unbalanced.then(|| format!("{partition}: requests ended that were not open: {counts:?}")),
        );
        if at_rest {
            let open = counts.open();
            let what = || format!("{partition} has {open} open requests at rest");
            self.note(Invariant::LedgerClosed, (open > 0).then(what));
        }
    }

    /// How many violations there were. Zero, or there is a fault in this program.
    pub fn violations(&self) -> u64 {
        self.tallies.iter().map(|tally| tally.violations).sum()
    }

    /// How often a promise was looked at.
    pub const fn observations(&self, invariant: Invariant) -> u64 {
        self.tallies[invariant as usize].observations
    }

    /// How often a promise did not hold.
    pub const fn violations_of(&self, invariant: Invariant) -> u64 {
        self.tallies[invariant as usize].violations
    }

    /// The first [`VIOLATIONS_KEPT`] violations, in words.
    pub fn seen(&self) -> &[Violation] {
        &self.violations
    }

    fn look_at_version(&mut self, node: &NodeName, plan: &Snapshot) {
        let order = (plan.generation, plan.version, plan.steps);
        let acted = self.acted.entry(node.clone()).or_default();
        let former = std::mem::replace(&mut acted.plan, order);
        let wrong = if order < former {
            Some(format!("{node} acts on {} after {}", numbered(order), numbered(former)))
        } else {
            self.other_of_its_number(node, plan)
        };
        self.note(Invariant::VersionMonotone, wrong);
    }

    fn other_of_its_number(&mut self, node: &NodeName, plan: &Snapshot) -> Option<String> {
        let order = (plan.generation, plan.version, plan.steps);
        let hash = *self.hashes.entry(order).or_insert(plan.hash);
        while self.hashes.len() > REMEMBERED {
            self.hashes.pop_first();
        }
        let other = hash != plan.hash;
        other.then(|| format!("{} is {hash:016x}, and {:016x} for {node}", numbered(order), plan.hash))
    }

    fn look_at_epochs(&mut self, node: &NodeName, plan: &Snapshot) {
        let acted = self.acted.entry(node.clone()).or_default();
        let mut wrong = Vec::new();
        for (partition, assignment) in plan.partitions() {
            let (epoch, revision) = (assignment.epoch, assignment.revision);
            let former = acted.epochs.insert(partition, (epoch, revision)).unwrap_or_default();
            wrong.push(((epoch, revision) < former).then(|| {
                let (old_epoch, old_revision) = former;
                format!(
                    "{partition} has epoch {epoch}.{revision} after {old_epoch}.{old_revision} for {node}"
                )
            }));
        }
        wrong.into_iter().for_each(|wrong| self.note(Invariant::EpochMonotone, wrong));
    }

    /// What was seen so far, without what it is compared with.
    pub fn report(&self) -> Report {
        let tallies = Invariant::ALL.map(|one| (one.name().to_owned(), self.tallies[one as usize]));
        Report {
            violations: self.violations(),
            invariants: tallies.into_iter().collect(),
            seen: self.violations.clone(),
        }
    }

    fn note(&mut self, invariant: Invariant, wrong: Option<String>) {
        let tally = &mut self.tallies[invariant as usize];
        tally.observations += 1;
        let Some(seen) = wrong else { return };
        tally.violations += 1;
        if self.violations.len() < VIOLATIONS_KEPT {
            self.violations.push(Violation { invariant, seen });
        }
    }
}

impl Served {
    fn handle_term(&mut self, fence: Fence, boot: &NodeBoot) -> Option<String> {
        let other = self.by.entry((fence.generation, fence.epoch)).or_insert_with(|| boot.clone());
        let wrong = (other != boot).then(|| format!("{fence} is served by {other} and by {boot}"));
        while self.by.len() > REMEMBERED {
            self.by.pop_first();
        }
        wrong
    }

    fn handle_interval(&mut self, partition: PartitionId, boot: &NodeBoot, new: Interval) -> Option<String> {
        let clashes = |(other, at): &&(NodeBoot, Interval)| other != boot && at.overlaps(&new);
        let wrong = self.intervals.iter().find(clashes).map(|(other, at)| {
            let (from, until) = (at.from.max(new.from), at.until.min(new.until));
            format!("{partition} is served by {other} and by {boot} from {from} to {until}")
        });
        let goes_on = |(last, at): &&mut (NodeBoot, Interval)| {
            last == boot && at.from <= new.from && new.from <= at.until
        };
        match self.intervals.back_mut().filter(goes_on) {
            // A lease that is renewed.
            Some((_, at)) => at.until = at.until.max(new.until),
            None => self.intervals.push_back((boot.clone(), new)),
        }
        while self.intervals.len() > REMEMBERED {
            self.intervals.pop_front();
        }
        wrong
    }
}

/// Whether by this plan no copy is on its way: those that count are those that are wanted.
pub fn is_at_rest(plan: &Snapshot) -> bool {
    plan.groups.iter().filter(|group| group.spec.replicated).all(|group| {
        group.assignments.iter().all(|assignment| {
            let wanted = |node: &NodeName| {
                assignment.copies.iter().any(|at| plan.members[*at as usize].name() == node)
            };
            assignment.members.len() == assignment.copies.len()
                && assignment.members.iter().all(|copy| wanted(&copy.node))
        })
    })
}

fn zone_sizes(places: &[Place<'_>]) -> Vec<usize> {
    let mut sizes = BTreeMap::new();
    places.iter().for_each(|place| *sizes.entry(place.zone()).or_insert(0) += 1);
    sizes.into_values().collect()
}

fn most_in_one_zone(places: &[Place<'_>]) -> usize {
    zone_sizes(places).into_iter().max().unwrap_or(0)
}

/// The least that the fullest zone can have, when so many copies are spread over the nodes that may hold one.
fn least_in_one_zone(holders: &[Place<'_>], copies: usize) -> usize {
    let sizes = zone_sizes(holders);
    let room = |most: usize| sizes.iter().map(|size| most.min(*size)).sum::<usize>();
    (0..copies).find(|most| room(*most) >= copies).unwrap_or(copies)
}

fn numbered((generation, version, steps): Order) -> String {
    format!("plan {generation}.{version} step {steps}")
}

impl Serialize for Invariants {
    /// `{"violations": 0, "invariants": {"one_primary": {"observations": 7, "violations": 0}, …}, "seen": []}`
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.report().serialize(serializer)
    }
}

#[cfg(test)]
mod tests;
