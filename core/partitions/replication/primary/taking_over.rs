//! From being named to holding all that was ever acknowledged.

use serde::{Deserialize, Serialize};

use super::{Effect, Phase, Primary, Source};
use crate::ids::NodeName;
use crate::partitions::replication::log::{Body, Entry, Payload};
use crate::partitions::replication::peer::Peer;
use crate::partitions::replication::wire::Request;
use crate::partitions::replication::{CopyId, Position};
use crate::time::Moment;

/// How often a source of the best log is asked in vain before another one is looked for.
const FETCH_RETRIES_MAX: u8 = 10;

/// Who keeps a partition from opening, and what is left of those that count.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// How many members must take nothing older any more: S.
    pub needed: usize,
    /// How many do.
    pub sealed: usize,
    /// Members that have not answered, and whose node may still have them.
    pub awaited: Vec<CopyId>,
    /// Members that are gone: their node answered as another life.
    pub gone: Vec<CopyId>,
    /// What is left of the members, as the copies that they are now, each with its last entry: a member that sealed, or
    /// one that read the disk of a member whose life is over.
    pub survivors: Vec<(CopyId, Position)>,
}

/// Why nothing is given up of a partition. Nothing changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum NotLost {
    /// It is open, opens just now, or is given back.
    #[error("it is not lost: enough of its copies answered")]
    Opens,
    /// Enough of the members may still answer.
    #[error("it is not lost: enough of its copies are here, or may still answer: {}", list(.0))]
    Coming(Vec<CopyId>),
    /// It is lost, and yet somebody who is there has not said what it has.
    #[error("these copies are there and have not answered yet, wait for them: {}", list(.0))]
    Silent(Vec<CopyId>),
}

fn list(copies: &[CopyId]) -> String {
    copies.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

impl Standing {
    /// Whether the partition cannot open unless somebody who is not `alive` comes back: it is lost, and shown as such.
    /// It is never begun anew by itself.
    pub fn is_lost(&self, alive: impl Fn(&NodeName) -> bool) -> bool {
        let coming = self.awaited.iter().filter(|copy| alive(&copy.node)).count();
        self.sealed + coming < self.needed
    }

    /// Whether an operator may accept the loss: the partition is lost, and everybody who is alive has said what it has.
    ///
    /// # Errors
    /// Why it is not lost, or who is waited for.
    pub fn check_lost(&self, alive: impl Fn(&NodeName) -> bool) -> Result<(), NotLost> {
        let coming: Vec<CopyId> = self.awaited.iter().filter(|copy| alive(&copy.node)).cloned().collect();
        if !self.is_lost(&alive) {
            return Err(NotLost::Coming(coming));
        }
        if coming.is_empty() { Ok(()) } else { Err(NotLost::Silent(coming)) }
    }

    /// With which copies the partition goes on once its loss is accepted: those that have the most, sorted. All of them have
    /// the same then, so whichever of them are sealed next, nothing more is given up. The others follow them as joiners.
    pub fn heirs(&self) -> Vec<CopyId> {
        let most = self.survivors.iter().map(|(_, last)| *last).max();
        let has_most = |(_, last): &&(CopyId, Position)| Some(*last) == most;
        let mut heirs: Vec<CopyId> =
            self.survivors.iter().filter(has_most).map(|(copy, _)| copy.clone()).collect();
        heirs.sort();
        heirs
    }
}

impl<E: Payload> Primary<E> {
    /// Who keeps the partition from opening, while it is sealing.
    pub fn standing(&self) -> Standing {
        let needed = self.record.seal_quorum();
        let mut standing = Standing { needed, ..Standing::default() };
        for member in &self.record.members {
            standing.survivors.extend(self.report_of(member).map(|(last, copy)| (copy, last)));
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

    /// An operator accepts that the partition is lost: what is left of its members, and nothing else, is to be counted from
    /// the next epoch on. This one is given back at once, so that whoever answers after that is among them no more.
    ///
    /// # Errors
    /// Nothing is given up. Nothing changed.
    pub fn handle_loss_accepted(
        &mut self,
        alive: impl Fn(&NodeName) -> bool,
    ) -> Result<(Standing, Vec<Effect<E>>), NotLost> {
        if self.phase != Phase::Sealing || self.record.is_unopened() {
            return Err(NotLost::Opens);
        }
        let standing = self.standing();
        standing.check_lost(alive)?;
        Ok((standing, self.handle_given_up()))
    }

    /// Once S members take nothing older any more, the best of their logs has all that was ever acknowledged: W and S
    /// meet. The best is the one with the newest *last entry*, however short it is: what a newer epoch's primary wrote
    /// stands behind all that was acknowledged before, while a longer log may have gone on in an older epoch alone.
    pub(super) fn adopt_if_sealed(&mut self, now: Moment, effects: &mut Vec<Effect<E>>) {
        if self.phase != Phase::Sealing {
            return;
        }
        if self.record.is_unopened() {
            // Where all of it was given up, what this copy has of it is given up too.
            match self.own.mark_position() == Position::ZERO {
                true => self.phase = Phase::Adopting,
                false => self.discard(effects),
            }
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
        // What surely holds here, and with none of the members, was given up when a loss was accepted. Where all of their
        // lives were lost at once nobody gave it up: better here than nowhere.
        let more = self.own.mark_position() > last;
        if more && !self.renewing {
            return self.discard(effects);
        }
        self.phase = Phase::Adopting;
        // Whoever has that entry has all before it.
        if more || self.own.holds(last) {
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
            Err(_) if self.own.holds(prev) || prev == Position::ZERO => self.discard(effects),
            Err(_) => {}
        }
    }

    /// This copy has what the members gave up: it is none of them, and can never follow them. Its bytes go, and with them
    /// the epoch, under which nothing was written yet.
    pub(super) fn discard(&mut self, effects: &mut Vec<Effect<E>>) {
        if !self.is_over() {
            self.source = None;
            self.phase = Phase::Released;
            effects.push(Effect::Discard);
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
