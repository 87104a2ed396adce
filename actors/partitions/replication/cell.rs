//! One partition's copy on this node: its log, its state, and, while it is primary, what waits for other copies.
//!
//! ```text
//!  from the primary ─▶ LocalCopy ─▶ mark ─▶ State                 a replica
//!  worker ─▶ Primary ─ append ─▶ LocalCopy ─▶ mark ─▶ State       the primary
//!               ▲ acks                          └──▶ replies that waited for it
//! ```
//!
//! All of it is behind one lock, which nobody holds while waiting for anything. What is to be done outside gathers in
//! [`Out`], and is done after.

mod counting;
mod holding;
mod inner;
mod leading;
mod saving;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{oneshot, watch};
use tumen_core::cluster::snapshot::Mode;
use tumen_core::ids::{Epoch, Life, NodeBoot, NodeName, PartitionId};
use tumen_core::partitions::fence::Fence;
use tumen_core::partitions::identity::Position;
use tumen_core::partitions::record::Record;
use tumen_core::partitions::replication::wire::{Reply as CopyReply, Request, SnapshotHeader};
use tumen_core::partitions::replication::{
    Acks, Answer, Config, CopyId, Effect, LocalCopy, NotLost, Phase, Primary, Report, Standing,
};
use tumen_core::partitions::request::{Failure, MessageId, Reply};
use tumen_core::partitions::session::desk::Desk;
use tumen_core::partitions::session::{Limits, Sessions};
use tumen_core::time::Moment;

use self::holding::Hold;
use super::answers::Slot;
use super::held::{Held, HeldReplies};
use super::keeping::Keeping;
use super::phases::{Phases, Reached};
use super::records::{Kept, StateRecord};
use super::state::{Broken, Makers, State};
use super::steps::Wanted;

/// What is to be done once the lock is free.
#[derive(Default)]
pub(super) struct Out {
    pub(super) sends: Vec<(NodeName, Request<Bytes>)>,
    pub(super) snapshots: Vec<(NodeName, SnapshotHeader)>,
    pub(super) steps: Vec<Wanted>,
    /// Nodes for which entries wait.
    pub(super) ready: Vec<NodeName>,
    /// Replies that may leave, if the node still has its lease.
    pub(super) replies: Vec<Held>,
    /// Who waited for what holds now.
    pub(super) woken: Vec<oneshot::Sender<()>>,
    /// Something has to go to disk; and whether anybody waits for it.
    pub(super) writes: Option<bool>,
    /// The state has to go to disk.
    pub(super) writes_state: bool,
    /// What this copy says is on disk.
    pub(super) answers: Vec<(Slot, CopyReply<Bytes>)>,
    /// Somebody speaks as the primary who was not heard last.
    pub(super) heard: Option<(Fence, NodeBoot)>,
    /// How long the first phase of an entry took.
    pub(super) took: Option<(Mode, Duration)>,
    /// What was counted before the mode changed.
    pub(super) counted: Option<(Mode, Phases)>,
    /// The copy has what was given up: it begins anew, and the epoch of this fence is given back.
    pub(super) discards: Option<Fence>,
}

/// When it was known that what surely holds here is all that does.
pub(super) enum Heard {
    /// Now, if the node has its lease: this is the primary.
    Leads,
    /// Then: the primary said so.
    At(Moment),
    /// Never.
    Never,
}

/// How far this node is as primary of a partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Led {
    pub(super) fence: Option<Fence>,
    pub(super) phase: Option<Phase>,
}

pub(super) struct Cell {
    pub(super) partition: PartitionId,
    inner: Mutex<Inner>,
    standing: watch::Sender<Led>,
}

struct Inner {
    role: Role,
    /// Shared with whoever writes it down: the log goes on meanwhile, and it follows after.
    state: Arc<Mutex<State>>,
    /// Up to where the state is known to be applied.
    applied: Position,
    /// Its place on disk, if there is one.
    keeping: Option<Keeping>,
    config: Config,
    makers: Makers,
    /// Which life of this node's copy counts, as a primary said last.
    counts: Option<Life>,
    /// Who spoke as the primary last, and under which fence.
    heard: Option<(Fence, NodeBoot)>,
    /// Why the state is of no use, if it is not.
    broken: Option<Broken>,
    /// Where the state stops, if it is to be looked at.
    hold: Option<Hold>,
    /// How many entries went through each phase here.
    phases: Phases,
    /// When somebody last said something that entries may have waited for.
    now: Moment,
    /// What [`Cell::standing`] shows.
    shown: Led,
}

enum Role {
    Copy(Box<LocalCopy<Bytes>>),
    Primary(Box<Lead>),
    /// In the middle of a change; never seen from outside the lock.
    Changing,
}

struct Lead {
    law: Primary<Bytes>,
    /// The group's. A kind may have another one, and the log is as sure as any of them wants it.
    mode: Mode,
    /// Since it is open: which requests were carried out, up to the log's end.
    sessions: Option<Sessions>,
    desk: Desk,
    held: HeldReplies,
    /// The disk failed: nothing is logged any more.
    is_closed: bool,
    /// Since it is open: up to where entries have come in each phase.
    reached: Option<Reached>,
    /// Replies that wait for nothing, until they are sent on.
    at_once: Vec<Held>,
    /// Who waits until the log holds up to somewhere.
    waits: Vec<(u64, oneshot::Sender<()>)>,
}

impl Lead {
    /// How far what they have surely holds, for copies to which nothing else goes.
    fn take_marks(&mut self, now: Moment) -> Vec<Effect<Bytes>> {
        let nodes: Vec<NodeName> = self.law.progress().map(|(node, _)| node.clone()).collect();
        let marks = nodes.into_iter().filter_map(|to| {
            let request = self.law.take_mark(now, &to)?;
            Some(Effect::Send { to, request })
        });
        marks.collect()
    }
}

impl Cell {
    /// An empty copy, under a life that was never used.
    pub(super) fn new(
        partition: PartitionId,
        id: CopyId,
        acks: Acks,
        config: Config,
        makers: Makers,
    ) -> Self {
        let keeping = (acks != Acks::WithoutDisk).then(Keeping::default);
        let state = State::new(makers.clone(), partition);
        Self::of(partition, LocalCopy::new(partition, id, acks), state, keeping, config, makers)
    }

    /// A copy that was read back from disk. The error says why its log cannot be applied.
    pub(super) fn restored(
        partition: PartitionId,
        copy: LocalCopy<Bytes>,
        state: State,
        kept: Kept,
        config: Config,
        makers: Makers,
    ) -> Result<Self, String> {
        let cell = Self::of(partition, copy, state, Some(Keeping::of(kept)), config, makers);
        let mut inner = cell.lock();
        inner.state.lock().unwrap_or_else(PoisonError::into_inner).announce();
        inner.apply_up_to_mark();
        let broken = inner.broken.clone();
        drop(inner);
        broken.map_or(Ok(cell), |why| Err(why.to_string()))
    }

    fn of(
        partition: PartitionId,
        copy: LocalCopy<Bytes>,
        state: State,
        keeping: Option<Keeping>,
        config: Config,
        makers: Makers,
    ) -> Self {
        let (applied, role) = (state.applied(), Role::Copy(Box::new(copy)));
        let state = Arc::new(Mutex::new(state));
        let inner = Inner {
            role,
            state,
            applied,
            keeping,
            config,
            makers,
            counts: None,
            heard: None,
            broken: None,
            hold: None,
            phases: Phases::default(),
            now: Moment::ZERO,
            shown: Led::default(),
        };
        Self { partition, inner: Mutex::new(inner), standing: watch::Sender::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the copies on these nodes count. A primary knows of all of them, another copy of itself only.
    pub(super) fn counts(&self, nodes: &[NodeName]) -> bool {
        let inner = self.lock();
        match &inner.role {
            Role::Primary(lead) => {
                let open = matches!(lead.law.phase(), Phase::Serving | Phase::Releasing);
                open && nodes.iter().all(|node| lead.law.counts(node))
            }
            Role::Copy(copy) => inner.counts == Some(copy.id().life),
            Role::Changing => false,
        }
    }

    /// How far this node is as primary, as it changes.
    pub(super) fn standing(&self) -> watch::Receiver<Led> {
        self.standing.subscribe()
    }

    fn show(&self, inner: &mut Inner) {
        let standing = match &inner.role {
            Role::Primary(lead) => Led { fence: Some(*lead.law.fence()), phase: Some(lead.law.phase()) },
            Role::Copy(_) | Role::Changing => Led::default(),
        };
        if std::mem::replace(&mut inner.shown, standing) != standing {
            self.standing.send_replace(standing);
        }
    }

    /// Runs something under the lock, and whatever follows from it.
    fn with<T>(
        &self,
        out: &mut Out,
        act: impl FnOnce(&mut Inner, &mut Vec<Effect<Bytes>>, &mut Out) -> T,
    ) -> T {
        let mut inner = self.lock();
        let mut effects = Vec::new();
        let result = act(&mut inner, &mut effects, out);
        inner.run(self.partition, effects, out);
        inner.settle(out);
        inner.count_phases(self.partition, out);
        self.show(&mut inner);
        result
    }

    /// Another node's primary asks this copy. `None`: there is nothing to say.
    pub(super) fn handle_request(
        &self,
        now: Moment,
        from: &NodeBoot,
        request: Request<Bytes>,
        out: &mut Out,
    ) -> Answer<Bytes> {
        self.with(out, |inner, effects, out| {
            let known = |(fence, boot): &(Fence, NodeBoot)| fence == request.fence() && boot == from;
            if !inner.heard.as_ref().is_some_and(known) {
                let heard = (*request.fence(), from.clone());
                inner.heard = Some(heard.clone());
                out.heard = Some(heard);
            }
            let said = match &request {
                Request::Seal { counts, .. } | Request::Append { counts, .. } => Some(*counts),
                Request::Fetch { .. } => None,
            };
            let mut answer = match &mut inner.role {
                Role::Copy(copy) => copy.handle_request(now, &inner.config, request),
                Role::Primary(lead) => {
                    let (answer, more) = lead.law.handle_request(now, request);
                    effects.extend(more);
                    answer
                }
                Role::Changing => unreachable!("seen from outside the lock"),
            };
            if let Some(counts) = said.filter(|_| !matches!(answer.reply, CopyReply::Refused { .. })) {
                inner.counts = counts;
            }
            if let CopyReply::Snapshot { header, .. } = &mut answer.reply {
                // What is here is newer than the last that was saved, and holds as surely.
                inner.apply_up_to_mark();
                header.position = inner.applied;
                out.snapshots.push((from.node.clone(), *header));
            }
            if answer.after.is_some() {
                out.writes = Some(true);
            }
            answer
        })
    }

    /// A copy answers the primary here.
    pub(super) fn handle_reply(&self, now: Moment, reply: CopyReply<Bytes>, out: &mut Out) {
        self.with(out, |inner, effects, _| {
            inner.now = now;
            if let Role::Primary(lead) = &mut inner.role {
                effects.extend(lead.law.handle_reply(now, reply));
                if inner.config.tells_at_once {
                    effects.extend(lead.take_marks(now));
                }
            }
        });
    }

    /// All bytes of a snapshot have come. What to answer its sender, if it sent it of its own.
    pub(super) fn handle_snapshot(
        &self,
        now: Moment,
        header: SnapshotHeader,
        bytes: Bytes,
        record: Option<StateRecord>,
        out: &mut Out,
    ) -> Result<Option<Answer<Bytes>>, Broken> {
        let makers = self.lock().makers.clone();
        let mut state = State::restore(makers, self.partition, bytes)?;
        if state.applied() != header.position {
            let why = format!("it is of {}, not {}", state.applied(), header.position);
            return Err(Broken::Snapshot(why));
        }
        self.with(out, |inner, effects, out| {
            let (installed, answer) = match &mut inner.role {
                Role::Copy(copy) => {
                    let (installed, answer) = copy.handle_snapshot(header);
                    (installed, Some(answer))
                }
                Role::Primary(lead) => {
                    let (installed, more) = lead.law.handle_snapshot(now, header);
                    effects.extend(more);
                    (installed, None)
                }
                Role::Changing => (false, None),
            };
            if installed {
                inner.applied = state.applied();
                state.announce();
                inner.state = Arc::new(Mutex::new(state));
                inner.broken = None;
            }
            if let (Some(keeping), Some(record)) = (&mut inner.keeping, record) {
                if installed {
                    keeping.begin_state();
                }
                keeping.handle_state(header.position, record, installed);
            }
            if answer.as_ref().is_some_and(|answer| answer.after.is_some()) {
                out.writes = Some(true);
            }
            Ok(answer)
        })
    }

    /// A snapshot that was to be sent to this node, under this fence, came to nothing.
    pub(super) fn handle_snapshot_failed(&self, now: Moment, fence: &Fence, node: &NodeName, out: &mut Out) {
        self.with(out, |inner, effects, _| {
            if let Role::Primary(lead) = &mut inner.role
                && lead.law.fence() == fence
            {
                effects.extend(lead.law.handle_snapshot_failed(now, node));
            }
        });
    }

    /// A plan, or the answer to a step, says which copies count.
    pub(super) fn handle_record(&self, now: Moment, record: Record, out: &mut Out) {
        self.with(out, |inner, effects, _| {
            if let Role::Primary(lead) = &mut inner.role {
                effects.extend(lead.law.handle_record(now, record));
            }
        });
    }

    /// A plan says who is to have copies, and who has gone.
    pub(super) fn handle_plan(&self, now: Moment, wanted: Vec<NodeName>, gone: Vec<NodeName>, out: &mut Out) {
        self.with(out, |inner, effects, _| {
            if let Role::Primary(lead) = &mut inner.role {
                effects.extend(lead.law.handle_plan(now, wanted, gone));
            }
        });
    }

    /// The plan says what an acknowledgement promises.
    pub(super) fn set_mode(&self, mode: Mode, out: &mut Out) {
        // A primary keeps to the mode that it began its epoch with.
        self.with(out, |inner, _, out| {
            if matches!(inner.role, Role::Copy(_)) {
                inner.set_mode(inner.makers.mode_of_log(mode), out);
            }
        });
    }

    /// Some time has passed.
    pub(super) fn handle_wake(&self, now: Moment, out: &mut Out) {
        self.with(out, |inner, effects, _| {
            inner.hold.take_if(|hold| hold.expires <= now);
            if let Role::Primary(lead) = &mut inner.role {
                effects.extend(lead.law.handle_wake(now));
                effects.extend(lead.take_marks(now));
            }
        });
    }

    /// A plan names this boot primary under `fence`.
    pub(super) fn lead(
        &self,
        now: Moment,
        (fence, mode): (Fence, Mode),
        record: Record,
        wanted: Vec<NodeName>,
        gone: Vec<NodeName>,
        out: &mut Out,
    ) {
        self.with(out, |inner, effects, out| {
            // Twice under one fence never: the second would write other entries at the same places.
            if matches!(&inner.role, Role::Primary(lead) if *lead.law.fence() == fence) {
                return;
            }
            inner.step_down();
            inner.set_mode(inner.makers.mode_of_log(mode), out);
            let Role::Copy(copy) = std::mem::replace(&mut inner.role, Role::Changing) else { return };
            let (law, more) = Primary::new(now, inner.config.clone(), fence, *copy, record, wanted, gone);
            let (desk, held) = (Desk::new(Limits::default()), HeldReplies::default());
            inner.role = Role::Primary(Box::new(Lead {
                law,
                sessions: None,
                desk,
                held,
                mode,
                reached: None,
                is_closed: inner.keeping.as_ref().is_some_and(Keeping::is_over),
                at_once: Vec::new(),
                waits: Vec::new(),
            }));
            effects.extend(more);
        });
    }

    /// The epoch is to be given back: nothing more is taken, and what was taken is waited for.
    pub(super) fn release(&self, now: Moment, fence: &Fence, out: &mut Out) {
        self.with(out, |inner, effects, _| {
            if let Role::Primary(lead) = &mut inner.role
                && lead.law.fence() == fence
            {
                effects.extend(lead.law.handle_release_asked(now));
            }
        });
    }

    /// The epoch is over here, whatever still waits. The copy goes on as a replica.
    pub(super) fn give_up(&self, fence: &Fence, out: &mut Out) {
        self.with(out, |inner, _, _| {
            if matches!(&inner.role, Role::Primary(lead) if lead.law.fence() == fence) {
                inner.step_down();
            }
        });
    }

    /// How the partition is, if this node is to be its primary, and only the nodes that are `alive` may answer.
    pub(super) fn report(&self, alive: impl Fn(&NodeName) -> bool) -> Option<Report> {
        match &self.lock().role {
            Role::Primary(lead) => Some(lead.law.report(alive)),
            Role::Copy(_) | Role::Changing => None,
        }
    }

    /// Gives the epoch back if the partition is lost, and says what is left of it.
    pub(super) fn surrender(
        &self,
        epoch: Epoch,
        alive: impl Fn(&NodeName) -> bool,
        out: &mut Out,
    ) -> Result<Standing, NotLost> {
        self.with(out, |inner, effects, _| {
            let Role::Primary(lead) = &mut inner.role else { return Err(NotLost::Opens) };
            if lead.law.fence().epoch != epoch {
                return Err(NotLost::Opens);
            }
            let (standing, more) = lead.law.handle_loss_accepted(alive)?;
            effects.extend(more);
            Ok(standing)
        })
    }

    /// The next entries for the copy on this node, and whether more wait.
    pub(super) fn take_batch(
        &self,
        now: Moment,
        node: &NodeName,
        entries_max: usize,
        bytes_max: usize,
    ) -> Option<(Request<Bytes>, bool)> {
        let mut inner = self.lock();
        let Role::Primary(lead) = &mut inner.role else { return None };
        let request = lead.law.take_batch(now, node, entries_max, bytes_max)?;
        let more = lead.law.ready_peers().any(|ready| ready == node);
        Some((request, more))
    }

    /// Answers a message that only reads from what surely holds here, and says when that was known to be all.
    pub(super) fn query(&self, now: Moment, message: MessageId, body: Bytes) -> (Reply, Position, Heard) {
        let inner = self.lock();
        let heard = match &inner.role {
            Role::Primary(lead) if lead.law.may_serve(lead.law.fence()) => Heard::Leads,
            // One that cannot open, for too few copies are left, has what it had before.
            Role::Primary(_) | Role::Copy(_) => {
                inner.copy().heard().map_or(Heard::Never, |at| Heard::At(at.min(now)))
            }
            Role::Changing => Heard::Never,
        };
        // What is held for a look may lag behind since then.
        let heard = match (inner.hold, heard) {
            (Some(hold), Heard::Leads) => Heard::At(hold.since),
            (Some(hold), Heard::At(at)) => Heard::At(at.min(hold.since)),
            (_, heard) => heard,
        };
        if let Some(why) = &inner.broken {
            return (Err(Failure::WorkerFailed(why.to_string())), inner.applied, heard);
        }
        let state = Arc::clone(&inner.state);
        drop(inner);
        let state = state.lock().unwrap_or_else(PoisonError::into_inner);
        (state.query(message, body), state.applied(), heard)
    }
}

/// When a copy with a disk acknowledges.
pub(super) const fn acks_of(mode: Mode) -> Acks {
    match mode {
        Mode::Strong => Acks::AfterDisk,
        Mode::Async | Mode::Sync => Acks::BeforeDisk,
    }
}

/// The place of the entry with this sequence.
fn position_of(copy: &LocalCopy<Bytes>, sequence: u64) -> Position {
    copy.entry(sequence).map_or_else(|| copy.start(), |entry| Position::new(entry.epoch, sequence))
}
