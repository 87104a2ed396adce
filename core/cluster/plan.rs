//! From one plan to the next: epochs follow primaries, and a lost primary is replaced from its copies.

use std::collections::{BTreeMap, BTreeSet};

use crate::cluster::member::Member;
use crate::cluster::snapshot::{Assignment, GroupPlan, Snapshot};
use crate::ids::{Epoch, NodeBoot, NodeName, PartitionId, Revision};

/// The copies of one partition by name, the primary first.
pub type Row = Vec<NodeName>;

/// Which partitions change hands between two plans, and from whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handover {
    /// Which partition.
    pub partition: PartitionId,
    /// The boot that must have stopped serving before the new plan is committed.
    pub from: NodeBoot,
    /// The epoch under which it serves.
    pub epoch: Epoch,
    /// Who serves next, if anybody does.
    pub to: Option<NodeName>,
}

/// A plan in the making: members, and for each group the copies by name.
#[derive(Clone, Debug)]
pub struct Draft {
    /// Sorted by name.
    pub members: Vec<Member>,
    /// For each group of the former plan, in its order, one row per partition.
    pub rows: Vec<Vec<Row>>,
}

impl Draft {
    /// The plan as it stands, with other members. Copies on nodes that are no members any more are dropped.
    pub fn new(snapshot: &Snapshot, members: Vec<Member>) -> Self {
        let names: BTreeSet<&NodeName> = members.iter().map(Member::name).collect();
        let row = |a: &Assignment| {
            let all = a.copies.iter().map(|at| snapshot.members[*at as usize].name());
            all.filter(|name| names.contains(name)).cloned().collect()
        };
        let rows = snapshot.groups.iter().map(|group| group.assignments.iter().map(row).collect()).collect();
        Self { members, rows }
    }

    fn member(&self, name: &str) -> Option<&Member> {
        self.members.binary_search_by(|m| m.name().as_str().cmp(name)).ok().map(|at| &self.members[at])
    }

    fn may_serve(&self, name: &NodeName) -> bool {
        self.member(name.as_str()).is_some_and(|member| member.status.may_serve())
    }

    /// Puts a member that may lead first in every row that has one, and finds somebody for every row that has none.
    ///
    /// Rows whose primary may lead and is `warm` (kept running since the former plan) are left alone. Of
    /// another row's copies the one with the fewest primaries is promoted, warm ones before others; a row
    /// without any copy that may lead gets the member that has the fewest.
    pub fn promote(&mut self, warm: impl Fn(&Member) -> bool) {
        let Self { members, rows } = self;
        let serving: Vec<&Member> = members.iter().filter(|m| m.status.may_lead()).collect();
        let find = |name: &NodeName| members.binary_search_by(|m| m.name().cmp(name)).ok();
        let stays = |name: &NodeName| {
            find(name).is_some_and(|at| members[at].status.may_lead() && warm(&members[at]))
        };
        for group in rows {
            let mut load: BTreeMap<&NodeName, u32> = serving.iter().map(|m| (m.name(), 0)).collect();
            for primary in group.iter().filter_map(|row| row.first()).filter(|name| stays(name)) {
                if let Some(count) = load.get_mut(primary) {
                    *count += 1;
                }
            }
            for row in group.iter_mut().filter(|row| !row.first().is_some_and(stays)) {
                let promoted = (row.iter().enumerate())
                    .filter_map(|(at, name)| Some((at, &members[find(name)?])))
                    .filter(|(_, member)| member.status.may_lead())
                    .min_by_key(|(_, m)| (!warm(m), m.info.weight == 0, load[m.name()], m.name()));
                if let Some((at, _)) = promoted {
                    row[..=at].rotate_right(1);
                } else {
                    // Nobody is left that has a copy. A witness (weight 0) holds nothing, even now.
                    let stranger = serving.iter().filter(|m| m.info.weight > 0 && !row.contains(m.name()));
                    let Some(stranger) = stranger.min_by_key(|m| (load[m.name()], m.name())) else {
                        continue;
                    };
                    row.insert(0, stranger.name().clone());
                }
                if let Some(count) = row.first().and_then(|primary| load.get_mut(primary)) {
                    *count += 1;
                }
            }
        }
    }

    /// The groups of the plan that this draft becomes, with epochs that follow the primaries.
    ///
    /// `given_back` holds the partitions whose primary released its present epoch: they get a new epoch even
    /// where the primary stays, or they would be unserved for ever.
    pub fn groups(&self, previous: &Snapshot, given_back: &BTreeSet<PartitionId>) -> Vec<GroupPlan> {
        let index: BTreeMap<&NodeName, u32> = self.members.iter().map(Member::name).zip(0..).collect();
        let plan = |group: &GroupPlan, rows: &Vec<Row>| GroupPlan {
            id: group.id,
            spec: group.spec.clone(),
            assignments: (0..)
                .zip(group.assignments.iter().zip(rows))
                .map(|(partition, (old, row))| {
                    let partition = PartitionId { group: group.id, index: partition };
                    let copies: Vec<u32> = row.iter().filter_map(|name| index.get(name).copied()).collect();
                    let first = copies.first().map(|at| &self.members[*at as usize]);
                    let is = first.filter(|member| member.status.may_serve()).map(Member::id);
                    let was = previous.primary(old).map(Member::id);
                    let renewed = is.is_some() && (is != was || given_back.contains(&partition));
                    let epoch = if renewed { old.epoch.next() } else { old.epoch };
                    let revision = if renewed { Revision::ZERO } else { old.revision };
                    Assignment { epoch, revision, copies }
                })
                .collect(),
        };
        previous.groups.iter().zip(&self.rows).map(|(group, rows)| plan(group, rows)).collect()
    }

    /// Whether this draft is the plan in force, copy for copy.
    pub fn is_as(&self, snapshot: &Snapshot) -> bool {
        let same = |(group, rows): (&GroupPlan, &Vec<Row>)| {
            group.assignments.len() == rows.len()
                && group.assignments.iter().zip(rows).all(|(assignment, row)| {
                    let names = assignment.copies.iter().map(|at| snapshot.members[*at as usize].name());
                    names.eq(row)
                })
        };
        self.members == snapshot.members && snapshot.groups.iter().zip(&self.rows).all(same)
    }

    /// Which partitions this draft takes from the boot that serves them now.
    pub fn handovers(&self, previous: &Snapshot) -> Vec<Handover> {
        let rows = self.rows.iter().flatten();
        let changed = previous.partitions().zip(rows).filter_map(|((partition, old), row)| {
            let from = previous.primary(old)?.id();
            let to = row.first().filter(|name| self.may_serve(name));
            let stays = to.and_then(|name| self.member(name.as_str())).is_some_and(|m| m.id() == from);
            (!stays).then(|| Handover { partition, from: from.clone(), epoch: old.epoch, to: to.cloned() })
        });
        changed.collect()
    }

    /// Leaves one partition as it was, where its former primary is still a member that may serve.
    pub fn keep(&mut self, previous: &Snapshot, partition: PartitionId) {
        let at = previous.groups.iter().position(|group| group.id == partition.group);
        let Some((group, old)) = at.zip(previous.assignment(partition)) else { return };
        let names = old.copies.iter().map(|at| previous.members[*at as usize].name());
        let kept: Row = names.filter(|name| self.member(name.as_str()).is_some()).cloned().collect();
        if kept.first().is_some_and(|primary| self.may_serve(primary)) {
            self.rows[group][partition.index as usize] = kept;
        }
    }
}
