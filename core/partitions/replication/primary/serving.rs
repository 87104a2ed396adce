//! The hot path: appends, batches, acknowledgements, the mark; and the end of it.

use super::{Effect, Phase, Primary, SnapshotRefused};
use crate::cluster::snapshot::Mode;
use crate::ids::NodeName;
use crate::partitions::fence::Fence;
use crate::partitions::record::MEMBERS_MAX;
use crate::partitions::replication::copy::LocalCopy;
use crate::partitions::replication::log::{Body, Entry, Payload};
use crate::partitions::replication::peer::{Peer, Stage};
use crate::partitions::replication::wire::Request;
use crate::partitions::replication::{CopyId, Position, Record};
use crate::time::Moment;

/// Why nothing was appended. Nothing changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// Another fence was shown than that which holds here.
    #[error("the fence shown is not {0}, which holds: nothing changed, find the primary anew")]
    Fenced(Fence),
    /// The epoch is not open yet, or over.
    #[error("the epoch is not open ({0:?}): nothing changed")]
    NotServing(Phase),
    /// Too many entries wait for other copies. Append again once the mark has moved.
    #[error("{0} entries wait for other copies already: nothing changed, try again later")]
    Overloaded(u64),
}

impl<E: Payload> Primary<E> {
    /// Writes to the log, and says where. A reply that rests on it leaves once [`Self::mark`] is there.
    ///
    /// Costs one entry in the log. After the last append of one go, [`Self::handle_appended`].
    pub fn append(&mut self, fence: &Fence, data: E) -> Result<Position, AppendError> {
        if *fence != self.fence || self.fence != *self.own.sealed() {
            return Err(AppendError::Fenced(*self.own.sealed()));
        }
        if self.phase != Phase::Serving {
            return Err(AppendError::NotServing(self.phase));
        }
        let pending = self.own.log.end() - self.held;
        if pending >= self.config.pending_entries_max {
            return Err(AppendError::Overloaded(pending));
        }
        self.own.push(Entry { epoch: self.fence.epoch, body: Body::Data(data) });
        Ok(Position::new(self.fence.epoch, self.own.log.end()))
    }

    /// The appends of one go are over: where no other copy is needed, the mark follows at once.
    pub fn handle_appended(&mut self, now: Moment) -> Vec<Effect<E>> {
        let mut effects = Vec::new();
        self.go_on(now, &mut effects);
        effects
    }

    /// The next entries for the copy on this node, if there are any and its window has room. They count as sent.
    pub fn take_batch(
        &mut self,
        now: Moment,
        node: &NodeName,
        entries_max: usize,
        bytes_max: usize,
    ) -> Option<Request<E>> {
        let (end, mark, window) = (self.own.log.end(), self.held, self.config.window_entries);
        let fence = self.streams().then_some(self.fence)?;
        let peer = self.peers.iter_mut().find(|peer| peer.node == *node)?;
        if !has_room(peer, end, window) {
            return None;
        }
        let room = usize::try_from(window - peer.under_way()).unwrap_or(usize::MAX);
        let limits = (entries_max.min(room), bytes_max);
        peer.append((now, fence), (&self.own.log, mark), &self.record, limits)
    }

    /// The mark alone for the copy on this node, if it was told less and no entries wait to be sent to it. Where more is
    /// appended soon, the mark may as well ride on that.
    pub fn take_mark(&mut self, now: Moment, node: &NodeName) -> Option<Request<E>> {
        let (end, mark) = (self.own.log.end(), self.held);
        let fence = self.streams().then_some(self.fence)?;
        let peer = self.peers.iter_mut().find(|peer| peer.node == *node)?;
        let tells = peer.lacks_mark(mark) && peer.next > end;
        (peer.stage == Stage::Streaming && tells).then_some(())?;
        peer.append((now, fence), (&self.own.log, mark), &self.record, (0, 0))
    }

    /// To whom something can be sent by [`Self::take_batch`].
    pub fn ready_peers(&self) -> impl Iterator<Item = &NodeName> {
        let (end, window, streams) = (self.own.log.end(), self.config.window_entries, self.streams());
        let ready = move |peer: &&Peer| streams && has_room(peer, end, window);
        self.peers.iter().filter(ready).map(|peer| &peer.node)
    }

    /// The actor has saved the state at `position` as a snapshot: others can be sent it, and the log before it is cut.
    pub fn handle_snapshot_saved(
        &mut self,
        now: Moment,
        position: Position,
    ) -> Result<Vec<Effect<E>>, SnapshotRefused> {
        if !self.own.handle_snapshot_saved(position, self.config.keep_entries) {
            return Err(SnapshotRefused);
        }
        Ok(self.handle_wake(now))
    }

    /// A snapshot could not be sent to this node, or was not answered: look anew what it needs.
    pub fn handle_snapshot_failed(&mut self, now: Moment, node: &NodeName) -> Vec<Effect<E>> {
        let mut effects = Vec::new();
        let over = self.is_over();
        let sent = |peer: &&mut Peer| peer.node == *node && matches!(peer.stage, Stage::Snapshot(_));
        if let Some(peer) = self.peers.iter_mut().find(sent).filter(|_| !over) {
            peer.stage = Stage::Greeting;
            peer.sealed = false;
            self.greet(now, &mut effects);
        }
        effects
    }

    /// The coordinator wants the epoch back: nothing more is appended, and once all that was surely holds,
    /// [`Effect::Released`] follows. What was never open has nothing to wait for.
    pub fn handle_release_asked(&mut self, now: Moment) -> Vec<Effect<E>> {
        if self.phase < Phase::Serving {
            return self.handle_given_up();
        }
        let mut effects = Vec::new();
        if self.phase == Phase::Serving {
            self.phase = Phase::Releasing;
            self.go_on(now, &mut effects);
        }
        effects
    }

    /// Gives the epoch back at once, whatever waits: who asked for that is told that nobody knows.
    pub fn handle_given_up(&mut self) -> Vec<Effect<E>> {
        if self.is_over() {
            return Vec::new();
        }
        self.phase = Phase::Released;
        vec![Effect::Released { last: self.own.last() }]
    }

    /// The end: the copy goes on as a replica, or under the next epoch.
    pub fn into_copy(self) -> LocalCopy<E> {
        self.own
    }

    /// The mark rises to what W members have: of both sets while it is not known which one counts. Never before the own
    /// epoch's opening entry is among it: what older epochs wrote surely holds only behind that.
    pub(super) fn raise_mark(&mut self, now: Moment, effects: &mut Vec<Effect<E>>) {
        if !self.streams() {
            return;
        }
        let next = self.pending.as_ref().map_or(u64::MAX, |pending| self.held_by(&pending.next));
        let held = self.held_by(&self.record).min(next);
        if held >= self.opening && held > self.held {
            self.held = held;
            self.own.learn_mark(now, held);
        }
        if self.phase == Phase::Opening && self.held >= self.opening {
            self.phase = Phase::Serving;
            let opening = Position::new(self.fence.epoch, self.opening);
            effects.push(Effect::Opened { opening });
        }
    }

    pub(super) fn release_if_drained(&mut self, effects: &mut Vec<Effect<E>>) {
        if self.phase == Phase::Releasing && self.held >= self.own.log.end() {
            effects.extend(self.handle_given_up());
        }
    }

    /// Up to where W of these members have the log.
    pub(super) fn held_by(&self, record: &Record) -> u64 {
        let mut held = [0; MEMBERS_MAX];
        let (len, quorum) = (record.members.len(), record.write_quorum());
        if quorum > len || len > MEMBERS_MAX {
            return 0;
        }
        for (at, member) in held.iter_mut().zip(&record.members) {
            *at = match member == self.own.id() {
                true => self.own.held(),
                false => self.peer_of(member).map_or(0, |peer| peer.acked),
            };
        }
        held[..len].sort_unstable();
        held[len - quorum]
    }

    fn streams(&self) -> bool {
        self.opening > 0 && !self.is_over()
    }
}

impl<E> Primary<E> {
    /// By which right it writes.
    pub const fn fence(&self) -> &Fence {
        &self.fence
    }

    /// How far it is.
    pub const fn phase(&self) -> Phase {
        self.phase
    }

    /// Whether a read may be answered under this fence, by a node that holds its lease: the value taken first, the lease
    /// looked at after. What the value rests on has to be at or before [`Self::mark`], as with a write.
    pub fn may_serve(&self, fence: &Fence) -> bool {
        let open = matches!(self.phase, Phase::Serving | Phase::Releasing);
        open && *fence == self.fence && self.fence == *self.own.sealed()
    }

    /// Up to which sequence a reply may rest on the log: what W members have, or in `async` what is here.
    pub fn mark(&self) -> u64 {
        match (self.config.mode, self.phase) {
            (Mode::Async, Phase::Serving | Phase::Releasing) => self.own.log.end(),
            (Mode::Async | Mode::Sync | Mode::Strong, _) => self.held,
        }
    }

    /// Up to which sequence W members have the log, whatever the mode promises. The rest is the lag.
    pub const fn held(&self) -> u64 {
        self.held
    }

    /// Up to which sequence another copy was told that W members have the log; where there is no other, all that they have.
    pub fn told(&self) -> u64 {
        self.peers.iter().map(Peer::told).max().unwrap_or(self.held).min(self.held)
    }

    /// The copy on this node.
    pub const fn copy(&self) -> &LocalCopy<E> {
        &self.own
    }

    /// The newest committed record that it knows.
    pub const fn record(&self) -> &Record {
        &self.record
    }

    /// Every other copy, and up to where it surely has the log.
    pub fn progress(&self) -> impl Iterator<Item = (&NodeName, u64)> {
        self.peers.iter().map(|peer| (&peer.node, peer.acked))
    }

    /// Up to where another copy surely has the log, if it was met.
    pub(in super::super) fn acked_by(&self, copy: &CopyId) -> Option<u64> {
        self.peers.iter().find(|peer| peer.id.as_ref() == Some(copy)).map(|peer| peer.acked)
    }

    /// Whether the copy that is on this node now counts, as far as is known here.
    pub fn counts(&self, node: &NodeName) -> bool {
        let present = |copy: &CopyId| {
            *copy == *self.own.id() || self.peers.iter().any(|peer| peer.id.as_ref() == Some(copy))
        };
        self.record.members.iter().any(|copy| copy.node == *node && present(copy))
    }

    /// Whether a change of members is under way.
    pub const fn is_changing(&self) -> bool {
        self.pending.is_some()
    }
}

fn has_room(peer: &Peer, end: u64, window: u64) -> bool {
    peer.stage == Stage::Streaming && peer.next <= end && peer.under_way() < window
}
