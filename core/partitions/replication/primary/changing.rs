//! Which copies count: one change at a time, asked for only once the new members have what the old ones have.
//!
//! ```text
//!  decided: both quorums count ─▶ W of the new have the log up to the mark: asked ─▶ a newer record: known
//!      │ not wanted any more: forgotten            └─ again and again, for it may have come through ─┘
//! ```

use super::{Effect, Pending, Phase, Primary};
use crate::ids::NodeName;
use crate::partitions::replication::log::Payload;
use crate::partitions::replication::peer::{Peer, Stage};
use crate::partitions::replication::{Change, CopyId};
use crate::time::Moment;

impl<E: Payload> Primary<E> {
    pub(super) fn change_members(&mut self, now: Moment, effects: &mut Vec<Effect<E>>) {
        // Before the opening entry stands in the log, this node does not have what was acknowledged.
        if self.opening == 0 || self.is_over() || self.phase == Phase::Releasing {
            return;
        }
        if self.pending.is_none() && self.is_as_wanted() {
            return;
        }
        if self.pending.as_ref().is_none_or(|pending| pending.asked.is_none()) {
            self.decide();
        }
        let Some(pending) = &self.pending else { return };
        // Once it was asked it may come through at any time, so it is asked until it did: even if who was to count has
        // died since, for the next change can only follow this one.
        let due = match pending.asked {
            None => self.held_by(&pending.next) >= self.held.max(self.opening),
            Some(asked) => now.since(asked) >= self.config.retry_every,
        };
        if !due {
            return;
        }
        let (epoch, revision, change) = (self.record.epoch, self.record.revision, pending.change.clone());
        effects.push(Effect::Ask { epoch, revision, change });
        if let Some(pending) = &mut self.pending {
            pending.asked = Some(now);
        }
    }

    /// Whether anybody waits for this change. Not for one that is gone to be dropped, where W of the members are on nodes that
    /// have not gone, as far as is known here: appends come to hold all the same.
    pub fn waits_for(&self, change: &Change) -> bool {
        let present = self.record.members.iter().filter(|copy| !self.gone.contains(&copy.node));
        !matches!(change, Change::Drop(_)) || present.count() < self.record.write_quorum()
    }

    /// Decides on a change, or on another one as long as nobody was asked for it. From here on both quorums count, so
    /// that the new members reach the mark however fast the log grows.
    fn decide(&mut self) {
        self.pending = self.wanted_changes().into_iter().find_map(|change| {
            let next = self.record.changed(&change).ok()?;
            Some(Pending { change, next, asked: None })
        });
    }

    /// Whether exactly those count who should. Asked with every acknowledgement.
    fn is_as_wanted(&self) -> bool {
        let members = &self.record.members;
        let present = |copy: &CopyId| *copy == *self.own.id() || self.peer_of(copy).is_some();
        let wanted = |copy: &CopyId| self.wanted.contains(&copy.node) && !self.gone.contains(&copy.node);
        members.len() == self.wanted.len() && members.iter().all(|copy| wanted(copy) && present(copy))
    }

    /// What should change, the most wanted first.
    fn wanted_changes(&self) -> Vec<Change> {
        let record = &self.record;
        if record.is_unopened() {
            return vec![Change::Add(self.own.id().clone())];
        }
        if self.renewing {
            let all: Option<Vec<CopyId>> = record.members.iter().map(|member| self.now_of(member)).collect();
            return all.map(Change::Renew).into_iter().collect();
        }
        let mut changes = Vec::new();
        let (again, joiners): (Vec<CopyId>, Vec<CopyId>) =
            self.joiners().partition(|new| record.life_on(&new.node).is_some());
        // Several lives are over at once: swapped one by one, W of the new members might never have the mark, although
        // this primary has it and gave it to all of them.
        if again.len() > 1 {
            let now =
                |member: &CopyId| again.iter().find(|new| new.node == member.node).unwrap_or(member).clone();
            changes.push(Change::Renew(record.members.iter().map(now).collect()));
        }
        // A node whose life that counts is over: its present copy takes the place.
        for new in again {
            if let Some(life) = record.life_on(&new.node) {
                changes.push(Change::Swap(CopyId { node: new.node.clone(), life }, new));
            }
        }
        let others = || record.members.iter().filter(|member| member.node != self.own.id().node);
        let gone = others().find(|member| self.gone.contains(&member.node));
        let surplus = others().find(|member| !self.wanted.contains(&member.node));
        let enough = record.members.len() >= self.wanted.len();
        for new in joiners {
            match gone.or(surplus) {
                Some(old) if enough => changes.push(Change::Swap(old.clone(), new)),
                _ => changes.push(Change::Add(new)),
            }
        }
        changes.extend(gone.cloned().map(Change::Drop));
        let too_many = record.members.len() > self.wanted.len();
        changes.extend(surplus.filter(|_| too_many).cloned().map(Change::Retire));
        changes
    }

    /// Copies that are wanted, do not count, and have nearly all that the primary has.
    fn joiners(&self) -> impl Iterator<Item = CopyId> {
        let nearly = self.held.max(self.opening).saturating_sub(self.config.join_lag_entries);
        let ready =
            move |peer: &&Peer| peer.stage == Stage::Streaming && peer.acked > 0 && peer.acked >= nearly;
        let peers = self.peers.iter().filter(ready).filter_map(|peer| peer.id.as_ref());
        let joins = |copy: &&CopyId| self.may_join(&copy.node) && !self.record.contains(copy);
        std::iter::once(self.own.id()).chain(peers).filter(joins).cloned()
    }

    fn may_join(&self, node: &NodeName) -> bool {
        let is_member = self.record.life_on(node).is_some();
        (self.wanted.contains(node) || is_member) && !self.gone.contains(node)
    }

    /// The copy that is now where this member was, and read its disk.
    fn now_of(&self, member: &CopyId) -> Option<CopyId> {
        if member.node == self.own.id().node {
            return Some(self.own.id().clone());
        }
        self.peers.iter().find(|peer| peer.continues(member))?.id.clone()
    }
}
