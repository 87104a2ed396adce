//! From being named to holding all that was ever acknowledged.

use super::{Effect, Phase, Primary, Source};
use crate::ids::NodeName;
use crate::partitions::replication::log::{Body, Entry, Payload};
use crate::partitions::replication::peer::Peer;
use crate::partitions::replication::wire::Request;
use crate::partitions::replication::{CopyId, Position};
use crate::time::Moment;

/// How often a source of the best log is asked in vain before another one is looked for.
const FETCH_RETRIES_MAX: u8 = 10;

/// Who keeps a partition from opening.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// How many members must take nothing older any more: S.
    pub needed: usize,
    /// How many do.
    pub sealed: usize,
    /// Members that have not answered, and whose node may still have them.
    pub awaited: Vec<CopyId>,
    /// Members that are gone: their node answered as another life.
    pub gone: Vec<CopyId>,
}

impl Standing {
    /// Whether the partition cannot open unless somebody who is not `alive` comes back: it is lost, and shown as such.
    /// It is never begun anew by itself.
    pub fn is_lost(&self, alive: impl Fn(&NodeName) -> bool) -> bool {
        let coming = self.awaited.iter().filter(|copy| alive(&copy.node)).count();
        self.sealed + coming < self.needed
    }
}

impl<E: Payload> Primary<E> {
    /// Who keeps the partition from opening, while it is sealing.
    pub fn standing(&self) -> Standing {
        let needed = self.record.seal_quorum();
        let mut standing = Standing { needed, sealed: 0, awaited: Vec::new(), gone: Vec::new() };
        for member in &self.record.members {
            let replaces = |copy: &CopyId| copy.node == member.node && copy != member;
            if self.has_sealed(member) {
                standing.sealed += 1;
            } else if replaces(self.own.id()) || self.peers.iter().filter_map(|p| p.id.as_ref()).any(replaces)
            {
                standing.gone.push(member.clone());
            } else {
                standing.awaited.push(member.clone());
            }
        }
        standing
    }

    /// Once S members take nothing older any more, the best of their logs has all that was ever acknowledged: W and S
    /// meet. The best is the one with the newest *last entry*, however short it is: what a newer epoch's primary wrote
    /// stands behind all that was acknowledged before, while a longer log may have gone on in an older epoch alone.
    pub(super) fn adopt_if_sealed(&mut self, now: Moment, effects: &mut Vec<Effect<E>>) {
        if self.phase != Phase::Sealing {
            return;
        }
        if self.record.is_unopened() {
            self.phase = Phase::Adopting;
            return;
        }
        let members = &self.record.members;
        let sealed: Vec<&CopyId> = members.iter().filter(|member| self.has_sealed(member)).collect();
        let mut reports: Vec<_> = sealed.iter().filter_map(|member| self.report_of(member)).collect();
        if sealed.len() < self.record.seal_quorum() {
            // Below S only disks help: those of *all* last members, whatever their life is now.
            reports = members.iter().filter_map(|member| self.report_of(member)).collect();
            if reports.len() < members.len() {
                return;
            }
            let lost = members.iter().filter(|member| !self.has_sealed(member)).cloned().collect();
            self.renewing = true;
            effects.push(Effect::Renewing { lost });
        }
        let Some((last, id)) = reports.into_iter().max() else { return };
        self.phase = Phase::Adopting;
        // Whoever has that entry has all before it. What surely holds here and nowhere else was given up when a loss was
        // accepted: better here than nowhere.
        if self.own.holds(last) || self.own.mark_position() > last {
            return;
        }
        self.source = Some(Source { id, last, asked: now, retries: 0 });
        self.fetch(now, effects);
    }

    /// The own log is the best: an entry of the own epoch behind it, and it is this epoch's log.
    pub(super) fn open_if_adopted(&mut self, now: Moment, effects: &mut Vec<Effect<E>>) {
        if self.phase != Phase::Adopting || self.source.is_some() || !self.own.is_written(self.own_sealed_by)
        {
            return;
        }
        self.phase = Phase::Opening;
        self.own.push(Entry { epoch: self.fence.epoch, body: Body::Opening });
        self.opening = self.own.last().sequence;
        self.held = self.own.mark_position().sequence;
        for at in 0..self.peers.len() {
            if self.peers[at].sealed {
                self.catch_up(now, at, effects);
            }
        }
    }

    /// Asks the source for what follows.
    pub(super) fn fetch(&mut self, now: Moment, effects: &mut Vec<Effect<E>>) {
        let Some(source) = &mut self.source else { return };
        if self.own.holds(source.last) {
            self.source = None;
            return;
        }
        source.asked = now;
        let request = Request::Fetch {
            fence: self.fence,
            to: source.id.life,
            asker: self.own.id().life,
            last: self.own.last(),
            shared: self.own.shared_position(),
        };
        effects.push(Effect::Send { to: source.id.node.clone(), request });
    }

    /// Part of the best log came.
    pub(super) fn adopt_tail(
        &mut self,
        now: Moment,
        by: &CopyId,
        prev: Position,
        entries: Vec<Entry<E>>,
        effects: &mut Vec<Effect<E>>,
    ) {
        let Some(source) = self.source.as_mut().filter(|source| source.id == *by) else { return };
        let before = (self.own.last(), self.own.matched());
        match self.own.accept(&self.fence, prev, entries) {
            Ok(()) => {
                // An answer that came twice is no reason to ask twice.
                if (self.own.last(), self.own.matched()) != before || self.own.holds(source.last) {
                    source.retries = 0;
                    self.fetch(now, effects);
                }
            }
            // It fits here and then differs, or the source has all from the beginning and not what surely holds here.
            Err(_) if self.own.holds(prev) || prev == Position::ZERO => effects.push(Effect::Discard),
            Err(_) => {}
        }
    }

    /// The source has not answered: asks again, and looks for another one after a while.
    pub(super) fn retry_source(&mut self, now: Moment, effects: &mut Vec<Effect<E>>) {
        let Some(source) = &mut self.source else { return };
        let changed = |peer: &Peer| peer.node == source.id.node && peer.id.as_ref() != Some(&source.id);
        let changed = self.peers.iter().any(changed);
        if !changed && now.since(source.asked) < self.config.retry_every {
            return;
        }
        source.retries += 1;
        if !changed && source.retries < FETCH_RETRIES_MAX {
            self.fetch(now, effects);
            return;
        }
        // Any S of the members will do. This one has to promise anew before it is one of them.
        let gone = source.id.clone();
        self.source = None;
        self.renewing = false;
        self.phase = Phase::Sealing;
        if let Some(peer) = self.peers.iter_mut().find(|peer| peer.id.as_ref() == Some(&gone)) {
            peer.sealed = false;
        }
    }

    /// Whether this member, in the life that counts, takes nothing older any more.
    fn has_sealed(&self, member: &CopyId) -> bool {
        match member == self.own.id() {
            true => self.own.is_written(self.own_sealed_by),
            false => self.peer_of(member).is_some_and(|peer| peer.sealed),
        }
    }

    /// What this member's node has of it, and as which copy.
    fn report_of(&self, member: &CopyId) -> Option<(Position, CopyId)> {
        if member.node == self.own.id().node {
            let continues = member == self.own.id() || self.own.former().contains(&member.life);
            let reports = continues && self.own.is_written(self.own_sealed_by);
            return reports.then(|| (self.own.last(), self.own.id().clone()));
        }
        let peer = self.peers.iter().find(|peer| peer.sealed && peer.continues(member))?;
        Some((peer.last, peer.id.clone()?))
    }
}
