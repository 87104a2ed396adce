//! The primary of one epoch: from being named to serving, and on until a newer fence or a release ends it.
//!
//! ```text
//!  Sealing ─S of the members sealed─▶ Adopting ─best log is here─▶ Opening ─W hold the opening─▶ Serving ─▶ Releasing ─▶ Released
//!     ▲                                  │ its source is gone                                        any ──▶ Deposed
//!     └──────────────────────────────────┘
//! ```
//!
//! One `Primary` is made for each epoch that names this boot, once: a second one would write other entries at the same
//! places. Where the actor that held it is lost, the epoch is released.

mod changing;
mod serving;
mod taking_over;

use std::time::Duration;

use super::copy::{Acks, Answer, LocalCopy, Ticket, Write};
use super::log::Payload;
use super::peer::{Peer, Stage};
use super::wire::{Reply, Request, SnapshotHeader};
use super::{Change, Config, CopyId, Position, Record};
use crate::ids::{Epoch, NodeName, Revision};
use crate::partitions::fence::Fence;
use crate::time::Moment;

pub use serving::AppendError;
pub use taking_over::{NotLost, Standing};

/// How far a primary is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// Waits for the members' promise to take nothing older.
    Sealing,
    /// Fetches what the best of them has.
    Adopting,
    /// Has all that was ever acknowledged, and waits until W members have it too.
    Opening,
    /// Takes appends; reads may be answered.
    Serving,
    /// Takes nothing more, and waits until all it took surely holds.
    Releasing,
    /// Gave the epoch back. This boot never serves under it again.
    Released,
    /// A newer fence was seen.
    Deposed,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Effect<E> {
    /// Send this to the copy on that node.
    Send {
        /// To whom.
        to: NodeName,
        /// What.
        request: Request<E>,
    },
    /// Send the newest snapshot to the copy on that node, in chunks. If that comes to nothing, say so by
    /// [`Primary::handle_snapshot_failed`].
    SendSnapshot {
        /// To whom.
        to: NodeName,
        /// What stands before it. If a newer one was saved since, send that, with its position.
        header: SnapshotHeader,
    },
    /// A copy lacks what no snapshot has yet: save one now. Answered by [`Primary::handle_snapshot_saved`].
    SaveSnapshot,
    /// Ask the coordinator for this change of the members. Answered by [`Primary::handle_record`] with whatever the
    /// record is by then, soon or much later; it is asked again until a newer record comes.
    Ask {
        /// The epoch that must be in force.
        epoch: Epoch,
        /// The revision that must be in force.
        revision: Revision,
        /// What is to change.
        change: Change,
    },
    /// The epoch is open: appends are taken from now on. The state to serve from is that of the whole log.
    Opened {
        /// The opening entry.
        opening: Position,
    },
    /// Every last member's life is gone, and each has reported what its disk kept: the partition opens with the best of it.
    /// What was acknowledged and not yet on disk may be missing. Tell people.
    Renewing {
        /// The members whose lives are gone.
        lost: Vec<CopyId>,
    },
    /// This node's own copy has what the members gave up, when a loss was accepted. Forget its bytes, in memory and on
    /// disk, begin it anew under a new life, and give the epoch back: this primary is over, and wrote nothing.
    Discard,
    /// All that was appended surely holds, and nothing more will be: the epoch is given back.
    Released {
        /// The log's last entry.
        last: Position,
    },
    /// A newer fence exists: nothing more leaves, the worker's state is dropped, and the copy goes on as a replica.
    Deposed,
}

/// Why a snapshot was not taken. Nothing changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the snapshot is older than the last one, or of what does not surely hold yet: save it later")]
pub struct SnapshotRefused;

/// A change that was decided on. From then on both quorums are needed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Pending {
    change: Change,
    next: Record,
    /// When it was last asked for. Once it was, only a newer record tells what became of it.
    asked: Option<Moment>,
}

/// Where the best log is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Source {
    id: CopyId,
    last: Position,
    asked: Moment,
    retries: u8,
}

/// The primary of one partition, under one epoch.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Primary<E> {
    config: Config,
    fence: Fence,
    phase: Phase,
    own: LocalCopy<E>,
    /// The own copy's promise is kept once this is on disk.
    own_sealed_by: Option<Ticket>,
    /// The newest committed record that was heard of.
    record: Record,
    pending: Option<Pending>,
    /// Whose copies the plan wants.
    wanted: Vec<NodeName>,
    /// Who has gone, by the committed plan.
    gone: Vec<NodeName>,
    peers: Vec<Peer>,
    source: Option<Source>,
    /// All last members' lives are gone; those that read their disks are to count instead.
    renewing: bool,
    /// The opening entry's sequence. Zero: there is none yet.
    opening: u64,
    /// W of the members surely have the log up to here.
    held: u64,
}

impl<E: Payload> Primary<E> {
    /// A plan names this boot primary. `record` is the partition's in that plan, `fence` of the same epoch; `wanted` are
    /// the nodes that are to have copies, `gone` those that the plan does not hold for members any more.
    pub fn new(
        now: Moment,
        config: Config,
        fence: Fence,
        own: LocalCopy<E>,
        record: Record,
        wanted: Vec<NodeName>,
        gone: Vec<NodeName>,
    ) -> (Self, Vec<Effect<E>>) {
        let mut primary = Self {
            config,
            fence,
            phase: Phase::Sealing,
            own,
            own_sealed_by: None,
            record,
            pending: None,
            wanted,
            gone,
            peers: Vec::new(),
            source: None,
            renewing: false,
            opening: 0,
            held: 0,
        };
        let mut effects = Vec::new();
        let counts = primary.record.life_on(&primary.own.id().node);
        let named = primary.record.epoch == fence.epoch && primary.own.seal(fence, counts).is_ok();
        if !named {
            primary.depose(&mut effects);
            return (primary, effects);
        }
        primary.own_sealed_by = primary.own.promised_by();
        primary.meet_peers();
        primary.greet(now, &mut effects);
        primary.go_on(now, &mut effects);
        (primary, effects)
    }

    /// A copy answers.
    pub fn handle_reply(&mut self, now: Moment, reply: Reply<E>) -> Vec<Effect<E>> {
        let mut effects = Vec::new();
        if *reply.fence() != self.fence || self.is_over() {
            return effects;
        }
        if let Reply::Refused { sealed, .. } = reply {
            if sealed.supersedes(&self.fence) {
                self.depose(&mut effects);
            }
            return effects;
        }
        let Some(at) = self.peers.iter().position(|peer| peer.node == reply.by().node) else {
            return effects;
        };
        let log = &self.own.log;
        let peer = &mut self.peers[at];
        // Whoever is another life than the one that was met says so by `Sealed`.
        let met = peer.id.as_ref() == Some(reply.by());
        match reply {
            Reply::Sealed { by, former, last, mark, .. } => {
                peer.meet(by, former, last, mark);
                self.catch_up(now, at, &mut effects);
            }
            Reply::Acked { end, .. } if met => {
                if !peer.acknowledge(end, log) {
                    return effects;
                }
                peer.sent = Some(now);
            }
            Reply::Behind { prev, last, mark, .. } if met => {
                if !peer.turn_back(prev, last, mark) {
                    return effects;
                }
                self.catch_up(now, at, &mut effects);
            }
            Reply::Tail { by, prev, entries, .. } if met => {
                self.adopt_tail(now, &by, prev, entries, &mut effects);
            }
            Reply::Acked { .. }
            | Reply::Behind { .. }
            | Reply::Tail { .. }
            | Reply::Snapshot { .. }
            | Reply::Refused { .. } => return effects,
        }
        self.go_on(now, &mut effects);
        effects
    }

    /// Another primary asks this node's copy. If it is a newer one, this epoch is over.
    pub fn handle_request(&mut self, now: Moment, request: Request<E>) -> (Answer<E>, Vec<Effect<E>>) {
        let mut effects = Vec::new();
        let answer = self.own.handle_request(now, &self.config, request);
        if *self.own.sealed() != self.fence {
            self.depose(&mut effects);
        }
        (answer, effects)
    }

    /// All bytes of a snapshot have come that was fetched. Says whether they are this copy's state from now on.
    pub fn handle_snapshot(&mut self, now: Moment, header: SnapshotHeader) -> (bool, Vec<Effect<E>>) {
        let mut effects = Vec::new();
        if self.phase != Phase::Adopting || self.source.is_none() || header.fence != self.fence {
            return (false, effects);
        }
        let Ok(installed) = self.own.install(&header) else {
            // The source lacks what surely holds here, although what it has is newer.
            self.discard(&mut effects);
            return (false, effects);
        };
        self.fetch(now, &mut effects);
        self.go_on(now, &mut effects);
        (installed, effects)
    }

    /// A write of the own copy, and all before it, are on disk.
    pub fn handle_written(&mut self, now: Moment, ticket: Ticket) -> Vec<Effect<E>> {
        let mut effects = Vec::new();
        self.own.handle_written(ticket);
        self.go_on(now, &mut effects);
        effects
    }

    /// The record as the voters have it: in a plan, or in an answer to a change that was asked for.
    pub fn handle_record(&mut self, now: Moment, record: Record) -> Vec<Effect<E>> {
        let mut effects = Vec::new();
        if self.is_over() {
            return effects;
        }
        if record.epoch > self.fence.epoch {
            self.depose(&mut effects);
        } else if (record.epoch, record.revision) > (self.record.epoch, self.record.revision) {
            // Whatever was asked for by the former revision has come to this, or to nothing for ever.
            self.pending = None;
            self.renewing = false;
            self.record = record;
            self.meet_peers();
            self.greet(now, &mut effects);
            // A copy learns at once that it counts.
            self.tell_all(now, &mut effects);
            self.go_on(now, &mut effects);
        }
        effects
    }

    /// Another plan, which leaves the partition here: who is to have copies, and who has gone.
    pub fn handle_plan(&mut self, now: Moment, wanted: Vec<NodeName>, gone: Vec<NodeName>) -> Vec<Effect<E>> {
        let mut effects = Vec::new();
        if !self.is_over() {
            (self.wanted, self.gone) = (wanted, gone);
            self.meet_peers();
            self.greet(now, &mut effects);
            // A node that came back may have another copy than before, and says so.
            self.tell_all(now, &mut effects);
            self.go_on(now, &mut effects);
        }
        effects
    }

    /// Some time has passed: what was not answered is sent again. Call it every [`Config::retry_every`].
    pub fn handle_wake(&mut self, now: Moment) -> Vec<Effect<E>> {
        let mut effects = Vec::new();
        if self.is_over() {
            return effects;
        }
        let retry_every = self.config.retry_every;
        for at in 0..self.peers.len() {
            let peer = &mut self.peers[at];
            if peer.stage == Stage::Streaming && peer.under_way() > 0 && peer.is_due(now, retry_every) {
                peer.go_back();
            }
            // Where what follows was cut off in the meantime, only a snapshot helps.
            let cut = self.opening > 0
                && peer.stage == Stage::Streaming
                && self.own.log.position_at(peer.next - 1).is_none();
            if cut || (self.opening > 0 && peer.sealed && peer.stage == Stage::Greeting) {
                self.catch_up(now, at, &mut effects);
            }
        }
        self.tell_idle(now, &mut effects);
        self.retry_source(now, &mut effects);
        self.greet(now, &mut effects);
        self.go_on(now, &mut effects);
        effects
    }

    /// Whether a snapshot is to go, or is on its way, to the copy on this node: a sender that waited for its turn asks once
    /// more.
    pub fn sends_snapshot_to(&self, node: &NodeName) -> bool {
        let sends = |peer: &Peer| peer.node == *node && matches!(peer.stage, Stage::Snapshot(_));
        !self.is_over() && self.peers.iter().any(sends)
    }

    /// What has to go to disk of the own copy, if anything has: all appends since the last time as one.
    pub fn take_write(&mut self) -> Option<Write<E>> {
        self.own.take_write()
    }

    /// Whether anything of the own copy has to go to disk.
    pub fn has_writes(&self) -> bool {
        self.own.has_writes()
    }

    /// The own copy says from now on at another time that it has something. See [`LocalCopy::set_acks`].
    pub fn set_acks(&mut self, acks: Acks) {
        self.own.set_acks(acks);
    }

    /// What a copy lacks: sends it the newest snapshot, or asks for one that it can use.
    fn catch_up(&mut self, now: Moment, at: usize, effects: &mut Vec<Effect<E>>) {
        let peer = &mut self.peers[at];
        if self.opening == 0 || matches!(peer.stage, Stage::Snapshot(_)) || peer.stream_from(&self.own.log) {
            return;
        }
        let (position, Some(id)) = (self.own.snapshot(), &peer.id) else { return };
        if position <= peer.mark {
            effects.push(Effect::SaveSnapshot);
            return;
        }
        let counts = self.record.life_on(&peer.node);
        let header = SnapshotHeader { fence: self.fence, to: id.life, counts, position };
        (peer.stage, peer.sent) = (Stage::Snapshot(position), Some(now));
        effects.push(Effect::SendSnapshot { to: peer.node.clone(), header });
    }

    /// Tells everybody the mark now, and with it whether they count, unless nobody is ever told unasked.
    fn tell_all(&mut self, now: Moment, effects: &mut Vec<Effect<E>>) {
        if self.config.tell_every < Duration::MAX {
            self.peers.iter_mut().for_each(|peer| peer.spoken = None);
            self.tell_idle(now, effects);
        }
    }

    /// Tells the mark to those to whom nothing else goes. One that began anew in the meantime answers as another life.
    fn tell_idle(&mut self, now: Moment, effects: &mut Vec<Effect<E>>) {
        if self.opening == 0 {
            return;
        }
        let (fence, held, tell_every) = (self.fence, self.held, self.config.tell_every);
        for peer in self.peers.iter_mut().filter(|peer| peer.is_idle(now, tell_every)) {
            let request = peer.append((now, fence), (&self.own.log, held), &self.record, (0, 0));
            let to = || peer.node.clone();
            effects.extend(request.map(|request| Effect::Send { to: to(), request }));
        }
    }

    /// Everybody who counts, is to count, or is asked to.
    fn meet_peers(&mut self) {
        let members = self.record.members.iter().chain(self.pending.iter().flat_map(|p| &p.next.members));
        let mut nodes: Vec<&NodeName> = members.map(|copy| &copy.node).chain(&self.wanted).collect();
        nodes.sort();
        nodes.dedup();
        nodes.retain(|node| **node != self.own.id().node);
        self.peers.retain(|peer| nodes.contains(&&peer.node));
        let new: Vec<Peer> = (nodes.into_iter())
            .filter(|node| !self.peers.iter().any(|peer| peer.node == **node))
            .map(|node| Peer::new(node.clone()))
            .collect();
        self.peers.extend(new);
    }

    /// Asks everybody to seal who has not yet, and was not asked just now.
    fn greet(&mut self, now: Moment, effects: &mut Vec<Effect<E>>) {
        let (fence, retry_every) = (self.fence, self.config.retry_every);
        for peer in self.peers.iter_mut().filter(|peer| !peer.sealed) {
            if peer.sent.is_none_or(|sent| now.since(sent) >= retry_every) {
                peer.sent = Some(now);
                let counts = self.record.life_on(&peer.node);
                effects
                    .push(Effect::Send { to: peer.node.clone(), request: Request::Seal { fence, counts } });
            }
        }
    }

    /// Takes every step that what is known now allows.
    fn go_on(&mut self, now: Moment, effects: &mut Vec<Effect<E>>) {
        self.adopt_if_sealed(now, effects);
        self.open_if_adopted(now, effects);
        self.raise_mark(now, effects);
        self.change_members(now, effects);
        // A change that needs nobody else's answer may be all that was waited for.
        self.release_if_drained(effects);
    }

    fn depose(&mut self, effects: &mut Vec<Effect<E>>) {
        if !self.is_over() {
            self.phase = Phase::Deposed;
            effects.push(Effect::Deposed);
        }
    }

    const fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Released | Phase::Deposed)
    }

    fn peer_of(&self, copy: &CopyId) -> Option<&Peer> {
        self.peers.iter().find(|peer| peer.id.as_ref() == Some(copy))
    }
}
