//! From one plan to the next: epochs follow primaries, and a lost primary is replaced from its copies.

use std::collections::{BTreeMap, BTreeSet};

use crate::cluster::member::Member;
use crate::cluster::snapshot::{Assignment, GroupPlan, Snapshot};
use crate::ids::{Epoch, NodeBoot, NodeName, PartitionId, Revision};
use crate::partitions::record::CopyId;

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

/// Puts a name first, whether it was there or not.
fn put_first(row: &mut Row, name: NodeName) {
    match row.iter().position(|there| *there == name) {
        Some(at) => row[..=at].rotate_right(1),
        None => row.insert(0, name),
    }
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
    ///
    /// In a group whose workers are replicated only a copy that counts is promoted as long as one is there. A row whose
    /// first does not count yet keeps the primary that it has, beside its copies if need be, until it does.
    pub fn promote(&mut self, previous: &Snapshot, warm: impl Fn(&Member) -> bool) {
        let Self { members, rows } = self;
        let serving: Vec<&Member> = members.iter().filter(|m| m.status.may_lead()).collect();
        let find =
            |name: &NodeName| members.binary_search_by(|m| m.name().cmp(name)).ok().map(|at| &members[at]);
        let leads = |name: &NodeName| find(name).filter(|member| member.status.may_lead());
        for (group, rows) in previous.groups.iter().zip(rows) {
            let counts = |old: &Assignment, name: &NodeName| {
                !group.spec.replicated || old.members.is_empty() || old.is_in_sync(name)
            };
            let stays =
                |old: &Assignment, name: &NodeName| leads(name).is_some_and(&warm) && counts(old, name);
            let present = |old: &Assignment| previous.primary(old).map(|member| member.name().clone());
            for (row, old) in rows.iter_mut().zip(&group.assignments).filter(|_| group.spec.replicated) {
                let first = row.first().is_some_and(|name| stays(old, name));
                if let Some(present) = present(old).filter(|name| !first && stays(old, name)) {
                    put_first(row, present);
                }
            }
            let mut load: BTreeMap<&NodeName, u32> = serving.iter().map(|m| (m.name(), 0)).collect();
            for (row, old) in rows.iter().zip(&group.assignments) {
                let primary = row.first().filter(|name| stays(old, name));
                if let Some(count) = primary.and_then(|name| load.get_mut(name)) {
                    *count += 1;
                }
            }
            for (row, old) in rows.iter_mut().zip(&group.assignments) {
                if row.first().is_some_and(|name| stays(old, name)) {
                    continue;
                }
                let others = old.members.iter().map(|copy| &copy.node).filter(|_| group.spec.replicated);
                let best = (row.iter().chain(others).filter_map(leads))
                    .min_by_key(|m| {
                        (!counts(old, m.name()), !warm(m), m.info.weight == 0, load[m.name()], m.name())
                    })
                    .map(|member| member.name().clone());
                let counting = best.clone().filter(|name| counts(old, name));
                // A primary that leaves stays until another copy counts: nobody else has what it has.
                let leaving = || {
                    let serves = |name: &NodeName| find(name).is_some_and(|member| member.status.may_serve());
                    present(old).filter(|name| group.spec.replicated && serves(name) && counts(old, name))
                };
                // Nobody is left that has a copy. A witness (weight 0) holds nothing, even now.
                let stranger = || {
                    let others = serving.iter().filter(|m| m.info.weight > 0 && !row.contains(m.name()));
                    others.min_by_key(|m| (load[m.name()], m.name())).map(|member| member.name().clone())
                };
                let Some(first) = counting.or_else(leaving).or(best).or_else(stranger) else { continue };
                put_first(row, first);
                if let Some(count) = row.first().and_then(|primary| load.get_mut(primary)) {
                    *count += 1;
                }
            }
        }
    }

    /// Puts the node of one of these copies first in a partition's row, if one of them may lead and none is first.
    pub fn prefer(&mut self, partition: PartitionId, previous: &Snapshot, copies: &[CopyId]) {
        let Some(at) = previous.groups.iter().position(|group| group.id == partition.group) else { return };
        let Some(first) = self.rows[at].get(partition.index as usize).map(|row| row.first().cloned()) else {
            return;
        };
        if copies.iter().any(|copy| first.as_ref() == Some(&copy.node)) {
            return;
        }
        let leads =
            |copy: &&CopyId| self.member(copy.node.as_str()).is_some_and(|member| member.status.may_lead());
        if let Some(node) = copies.iter().find(leads).map(|copy| copy.node.clone()) {
            put_first(&mut self.rows[at][partition.index as usize], node);
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
                    let (members, high) = (old.members.clone(), old.high);
                    Assignment { epoch, revision, copies, members, high }
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
