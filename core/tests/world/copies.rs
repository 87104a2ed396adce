//! Copies of partitions, played by their contract: a primary opens its partition once enough of those that count are
//! there, makes the copies that are wanted, and asks that they count.

use std::collections::BTreeMap;
use std::time::Duration;

use tumen_core::Moment;
use tumen_core::cluster::control::{Command, Outcome, Step};
use tumen_core::cluster::snapshot::{Assignment, Snapshot};
use tumen_core::ids::{Epoch, Life, NodeBoot, NodeName, PartitionId};
use tumen_core::partitions::record::{Change, CopyId};
use tumen_core::partitions::replication::{NotLost, Position, Standing};

use super::{News, World};

/// How often a node looks after the copies of what it serves.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(40);

/// Since when a node copies what to whom.
#[derive(Default)]
pub(super) struct Copying(BTreeMap<(PartitionId, CopyId), Moment>);

/// The copy of a boot: it has no disk, so its bytes live as long as it does.
fn copy_of(boot: &NodeBoot) -> CopyId {
    CopyId { node: boot.node.clone(), life: Life(boot.boot.0) }
}

impl World {
    fn is_running(&self, copy: &CopyId) -> bool {
        self.boot_of(&copy.node).is_some_and(|boot| copy_of(&boot) == *copy && !self.is_frozen(&boot))
    }

    pub(super) fn look_after_copies(&mut self, me: &NodeBoot) {
        self.post_in(me, LOOK_EVERY, News::Copy);
        let Some(plan) = self.control.snapshot.clone() else { return };
        let serving: Vec<_> = self.nodes[me].reconcile.serving().collect();
        let mut steps = Vec::new();
        for (partition, epoch) in serving {
            let Some(now) = plan.assignment(partition).filter(|a| a.epoch == epoch) else { continue };
            if let Some(change) = self.next_step(me, &plan, partition, now) {
                steps.push(Step { partition, epoch, revision: now.revision, change });
            }
        }
        if let Some(leader) = self.leader.clone().filter(|_| !steps.is_empty()) {
            self.send(&leader, News::AskSteps(steps));
        }
    }

    /// What the primary of a partition asks for next.
    fn next_step(
        &mut self,
        me: &NodeBoot,
        plan: &Snapshot,
        partition: PartitionId,
        assignment: &Assignment,
    ) -> Option<Change> {
        let (record, mine) = (assignment.record(), copy_of(me));
        if record.members.is_empty() {
            return Some(Change::Add(mine));
        }
        let there = record.members.iter().filter(|copy| self.is_running(copy)).count();
        if there < record.seal_quorum() {
            // It is lost, or waits for them: nobody may serve it.
            return None;
        }
        let wanted: Vec<CopyId> = (assignment.copies.iter())
            .filter_map(|at| self.boot_of(plan.members[*at as usize].name()))
            .map(|boot| copy_of(&boot))
            .collect();
        let missing = std::iter::once(&mine).chain(&wanted);
        let missing = missing.filter(|copy| !record.contains(copy) && self.is_running(copy)).cloned();
        for copy in missing.collect::<Vec<_>>() {
            let (now, pause) = (self.now, Duration::from_millis(u64::from(self.chance(150))));
            let copying = &mut self.nodes.get_mut(me).unwrap().copying.0;
            if now < *copying.entry((partition, copy.clone())).or_insert(now + pause) {
                continue;
            }
            // A node has one copy: its former life goes before anybody else's.
            let former = record.life_on(&copy.node).map(|life| CopyId { node: copy.node.clone(), life });
            let goes = || record.members.iter().find(|old| !wanted.contains(old) && **old != mine).cloned();
            return Some(match former.or_else(goes) {
                Some(old) => Change::Swap(old, copy),
                None => Change::Add(copy),
            });
        }
        let whole = wanted.iter().all(|copy| record.contains(copy));
        let goes = record.members.iter().find(|old| !wanted.contains(old) && **old != mine)?;
        let change = Change::Drop(goes.clone());
        (whole && record.changed(&change).is_ok()).then_some(change)
    }

    /// The partitions of which fewer copies are left than a new primary must hear.
    pub(crate) fn lost(&self) -> Vec<PartitionId> {
        let lost = |(partition, assignment): (PartitionId, &Assignment)| {
            let record = assignment.record();
            let there = record.members.iter().filter(|copy| self.is_running(copy)).count();
            (there < record.seal_quorum()).then_some(partition)
        };
        self.plan().partitions().filter_map(lost).collect()
    }

    /// A primary is asked to give a partition up for lost.
    pub(super) fn surrender(
        &mut self,
        me: &NodeBoot,
        leader: &NodeBoot,
        partition: PartitionId,
        epoch: Epoch,
    ) {
        let plan = self.control.snapshot.clone().unwrap();
        let serves = self.nodes[me].reconcile.serves(partition, epoch);
        let record = plan.assignment(partition).map(Assignment::record).unwrap_or_default();
        let mut standing = Standing { needed: record.seal_quorum(), ..Standing::default() };
        for member in record.members {
            let present = self.boot_of(&member.node);
            match present {
                Some(_) if self.is_running(&member) => {
                    standing.sealed += 1;
                    standing.survivors.push((member, Position::new(epoch, 1)));
                }
                Some(boot) if !self.is_frozen(&boot) => standing.gone.push(member),
                _ => standing.awaited.push(member),
            }
        }
        let alive = |node: &NodeName| plan.member(node.as_str()).is_some_and(|m| m.status.may_serve());
        let answer = match standing.check_lost(alive) {
            Ok(()) if serves => Ok(standing),
            Ok(()) => Err(NotLost::Opens),
            Err(why) => Err(why),
        };
        if answer.is_ok() {
            let effects = self.nodes.get_mut(me).unwrap().reconcile.handle_release_asked(partition, epoch);
            self.run_reconcile(me, effects);
        }
        self.send(leader, News::Surrendered(partition, epoch, answer));
    }

    pub(super) fn commit_steps(&mut self, me: &NodeBoot, command: &Command, leads: bool) {
        let lost = self.chance(1000) < self.unknown_outcomes;
        if leads && !lost {
            let outcome = self.control.apply(command);
            assert!(matches!(outcome, Outcome::Stepped(_)), "{outcome:?}");
            let control = self.control.clone();
            for id in self.alive().collect::<Vec<_>>() {
                self.send(&id, News::Control(control.clone()));
            }
        }
        let wait = Duration::from_millis(if lost { 300 } else { 2 });
        self.post_in(me, wait, News::Stepped);
    }

    /// A partition that changes hands goes to a copy that counts, as long as one is there that could lead.
    pub(super) fn check_promoted(&self, former: &Snapshot, plan: &Snapshot) {
        for (partition, assignment) in plan.partitions() {
            let replicated = plan.group(partition.group).is_some_and(|group| group.spec.replicated);
            let moved = former.assignment(partition).is_some_and(|old| old.epoch != assignment.epoch);
            let Some(primary) = plan.primary(assignment).filter(|_| replicated && moved) else { continue };
            if assignment.members.is_empty() || assignment.is_in_sync(primary.name()) {
                continue;
            }
            let better = assignment
                .members
                .iter()
                .find(|copy| plan.member(copy.node.as_str()).is_some_and(|member| member.status.may_lead()));
            assert_eq!(better, None, "at {}: {partition} goes to {}", self.now, primary.name());
        }
    }

    /// Whether exactly the copies that are wanted count.
    pub(crate) fn check_copies(&self) {
        for (partition, assignment) in self.plan().partitions() {
            let wanted = assignment.copies.iter().map(|at| self.plan().members[*at as usize].id());
            let mut wanted: Vec<CopyId> = wanted.map(copy_of).collect();
            wanted.sort();
            assert_eq!(assignment.members, wanted, "{partition}");
        }
    }

    /// How many partitions each running node is primary of: the fewest and the most.
    pub(crate) fn primaries(&self) -> (usize, usize) {
        let served = self.served();
        let count = |id: &NodeBoot| served.values().filter(|boot| *boot == id).count();
        let counts: Vec<usize> = self.running().iter().map(count).collect();
        (*counts.iter().min().unwrap(), *counts.iter().max().unwrap())
    }
}
