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

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

use bytes::Bytes;
use tokio::sync::{oneshot, watch};
use tumen_core::cluster::control::Step;
use tumen_core::cluster::snapshot::Mode;
use tumen_core::ids::{Life, NodeName, PartitionId};
use tumen_core::partitions::entry::{Changes, Entry, KindIndex};
use tumen_core::partitions::fence::Fence;
use tumen_core::partitions::identity::{Identity, Position, SessionId};
use tumen_core::partitions::record::Record;
use tumen_core::partitions::replication::wire::{Reply as CopyReply, Request, SnapshotHeader};
use tumen_core::partitions::replication::{
    Acks, Answer, AppendError, Body, Config, CopyId, Effect, LocalCopy, Phase, Primary, Ticket,
};
use tumen_core::partitions::request::{Failure, MessageId, Reply};
use tumen_core::partitions::session::desk::Desk;
use tumen_core::partitions::session::{Limits, Sessions};
use tumen_core::time::Moment;

use super::answers::Slot;
use super::held::{Held, HeldReplies};
use super::keeping::Keeping;
use super::records::{Kept, StateRecord};
use super::state::{Broken, Makers, State};
use crate::partitions::delivery::{Delivery, Told};
use crate::partitions::machine::Machine;
use crate::store::Batch;

/// What is to be done once the lock is free.
#[derive(Default)]
pub(super) struct Out {
    pub(super) sends: Vec<(NodeName, Request<Bytes>)>,
    pub(super) snapshots: Vec<(NodeName, SnapshotHeader)>,
    pub(super) steps: Vec<Step>,
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
pub(super) struct Standing {
    pub(super) fence: Option<Fence>,
    pub(super) phase: Option<Phase>,
}

pub(super) struct Cell {
    pub(super) partition: PartitionId,
    inner: Mutex<Inner>,
    standing: watch::Sender<Standing>,
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
    /// Why the state is of no use, if it is not.
    broken: Option<Broken>,
}

enum Role {
    Copy(Box<LocalCopy<Bytes>>),
    Primary(Box<Lead>),
    /// In the middle of a change; never seen from outside the lock.
    Changing,
}

struct Lead {
    law: Primary<Bytes>,
    /// Since it is open: which requests were carried out, up to the log's end.
    sessions: Option<Sessions>,
    desk: Desk,
    held: HeldReplies,
    /// The disk failed: nothing is logged any more.
    is_closed: bool,
    /// Who waits until the log holds up to somewhere.
    waits: Vec<(u64, oneshot::Sender<()>)>,
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
        let state = State::new(makers.clone());
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
        let inner = Inner { role, state, applied, keeping, config, makers, counts: None, broken: None };
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
    pub(super) fn standing(&self) -> watch::Receiver<Standing> {
        self.standing.subscribe()
    }

    fn show(&self, inner: &Inner) {
        let standing = match &inner.role {
            Role::Primary(lead) => Standing { fence: Some(*lead.law.fence()), phase: Some(lead.law.phase()) },
            Role::Copy(_) | Role::Changing => Standing::default(),
        };
        self.standing.send_if_modified(|shown| std::mem::replace(shown, standing) != standing);
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
        self.show(&inner);
        result
    }

    /// Another node's primary asks this copy. `None`: there is nothing to say.
    pub(super) fn handle_request(
        &self,
        now: Moment,
        from: &NodeName,
        request: Request<Bytes>,
        out: &mut Out,
    ) -> Answer<Bytes> {
        self.with(out, |inner, effects, out| {
            let config = inner.config.clone();
            let said = match &request {
                Request::Seal { counts, .. } | Request::Append { counts, .. } => Some(*counts),
                Request::Fetch { .. } => None,
            };
            let mut answer = match &mut inner.role {
                Role::Copy(copy) => copy.handle_request(now, &config, request),
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
                out.snapshots.push((from.clone(), *header));
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
            if let Role::Primary(lead) = &mut inner.role {
                effects.extend(lead.law.handle_reply(now, reply));
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
        let state = State::restore(makers, bytes)?;
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

    /// A snapshot that was sent to this node came to nothing.
    pub(super) fn handle_snapshot_failed(&self, now: Moment, node: &NodeName, out: &mut Out) {
        self.with(out, |inner, effects, _| {
            if let Role::Primary(lead) = &mut inner.role {
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
        self.with(out, |inner, _, _| {
            if matches!(inner.role, Role::Copy(_)) {
                inner.set_mode(mode);
            }
        });
    }

    /// What has to go to disk is put into a batch.
    pub(super) fn take_write(&self, batch: Batch) -> (Batch, Option<Ticket>) {
        let mut inner = self.lock();
        let Inner { role, keeping: Some(keeping), .. } = &mut *inner else { return (batch, None) };
        keeping.is_queued = false;
        let write = match role {
            _ if keeping.is_over() => None,
            Role::Copy(copy) => copy.take_write(),
            Role::Primary(lead) => lead.law.take_write(),
            Role::Changing => None,
        };
        let Some(write) = write else { return (batch, None) };
        let ticket = write.ticket;
        (keeping.put(self.partition, write, batch), Some(ticket))
    }

    /// A write, and all before it, are on disk.
    pub(super) fn handle_written(&self, now: Moment, ticket: Ticket, out: &mut Out) {
        self.with(out, |inner, effects, out| {
            match &mut inner.role {
                Role::Copy(copy) => copy.handle_written(ticket),
                Role::Primary(lead) => effects.extend(lead.law.handle_written(now, ticket)),
                Role::Changing => {}
            }
            if let Some(keeping) = &mut inner.keeping {
                keeping.handle_written(ticket, &mut out.answers);
            }
        });
    }

    /// Holds an answer back until a write is on disk. Gives it back if it is there already.
    pub(super) fn hold(
        &self,
        after: Ticket,
        slot: Slot,
        reply: CopyReply<Bytes>,
    ) -> Option<(Slot, CopyReply<Bytes>)> {
        self.lock().keeping.as_mut()?.hold(after, slot, reply)
    }

    /// The state, as bytes, and its position. The log goes on meanwhile.
    pub(super) fn state(&self, out: &mut Out) -> Result<(Position, Bytes), Broken> {
        let mut inner = self.lock();
        inner.apply_up_to_mark();
        if let Some(why) = &inner.broken {
            return Err(why.clone());
        }
        let shared = Arc::clone(&inner.state);
        drop(inner);
        let state = shared.lock().unwrap_or_else(PoisonError::into_inner);
        let (applied, bytes) = (state.applied(), state.snapshot());
        drop(state);
        self.with(out, |inner, _, _| {
            let bytes = bytes.inspect_err(|why| inner.broken = Some(why.clone()))?;
            Ok((applied, bytes))
        })
    }

    /// The state is about to be taken, to be written to disk.
    pub(super) fn begin_state(&self) {
        if let Some(keeping) = &mut self.lock().keeping {
            keeping.begin_state();
        }
    }

    /// All bytes of the state at this position are on disk.
    pub(super) fn handle_state_written(
        &self,
        now: Moment,
        position: Position,
        state: StateRecord,
        out: &mut Out,
    ) {
        self.with(out, |inner, effects, _| {
            let keep = inner.config.keep_entries;
            let taken = match &mut inner.role {
                Role::Copy(copy) => copy.handle_snapshot_saved(position, keep),
                Role::Primary(lead) => match lead.law.handle_snapshot_saved(now, position) {
                    Ok(more) => {
                        effects.extend(more);
                        true
                    }
                    Err(_) => false,
                },
                Role::Changing => false,
            };
            if let Some(keeping) = &mut inner.keeping {
                keeping.writes_state = false;
                keeping.handle_state(position, state, taken);
            }
        });
    }

    /// The state could not be written: it is tried again when the log has grown once more.
    pub(super) fn handle_state_failed(&self) {
        if let Some(keeping) = &mut self.lock().keeping {
            keeping.writes_state = false;
        }
    }

    /// The disk takes nothing any more: nothing is logged from now on.
    pub(super) fn end_writes(&self) {
        let mut inner = self.lock();
        if let Some(keeping) = &mut inner.keeping {
            keeping.end();
        }
        if let Role::Primary(lead) = &mut inner.role {
            lead.is_closed = true;
        }
    }

    /// Some time has passed.
    pub(super) fn handle_wake(&self, now: Moment, out: &mut Out) {
        self.with(out, |inner, effects, _| {
            if let Role::Primary(lead) = &mut inner.role {
                effects.extend(lead.law.handle_wake(now));
                let nodes: Vec<NodeName> = lead.law.progress().map(|(node, _)| node.clone()).collect();
                for node in nodes {
                    let mark = lead.law.take_mark(now, &node);
                    effects.extend(mark.map(|request| Effect::Send { to: node, request }));
                }
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
        self.with(out, |inner, effects, _| {
            // Twice under one fence never: the second would write other entries at the same places.
            if matches!(&inner.role, Role::Primary(lead) if *lead.law.fence() == fence) {
                return;
            }
            inner.step_down();
            inner.set_mode(mode);
            let Role::Copy(copy) = std::mem::replace(&mut inner.role, Role::Changing) else { return };
            let (law, more) = Primary::new(now, inner.config.clone(), fence, *copy, record, wanted, gone);
            let (desk, held) = (Desk::new(Limits::default()), HeldReplies::default());
            inner.role = Role::Primary(Box::new(Lead {
                law,
                sessions: None,
                desk,
                held,
                is_closed: inner.keeping.as_ref().is_some_and(Keeping::is_over),
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

    /// A worker's state, up to the log's end: what a primary that opened its epoch begins with.
    pub(super) fn worker(&self, fence: &Fence, kind: KindIndex) -> Result<Box<dyn Machine>, Failure> {
        let inner = self.lock();
        let lead = inner.serving(fence)?;
        if let Some(why) = &inner.broken {
            return Err(Failure::WorkerFailed(why.to_string()));
        }
        let state = inner.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mut machine = state.fork(kind).map_err(|why| Failure::WorkerFailed(why.to_string()))?;
        let (copy, applied) = (lead.law.copy(), state.applied().sequence);
        for sequence in applied + 1..=copy.last().sequence {
            let Some(Body::Data(data)) = copy.entry(sequence).map(|entry| &entry.body) else { continue };
            let entry = Entry::decode(data.clone()).map_err(|why| Failure::WorkerFailed(why.to_string()))?;
            for change in entry.changes().iter().filter(|change| change.kind == kind) {
                machine.apply(&change.bytes).map_err(Failure::WorkerFailed)?;
            }
        }
        Ok(machine)
    }

    /// A request's turn has come: whether to run its handler.
    pub(super) fn begin(&self, now: Moment, fence: &Fence, identity: Option<&Identity>) -> Result<(), Told> {
        let mut inner = self.lock();
        let room = inner.config.pending_entries_max;
        let lead = inner.serving_mut(fence).map_err(|why| Told::Reply(Err(why)))?;
        if lead.law.copy().last().sequence - lead.law.held() >= room {
            return Err(Told::Reply(Err(Failure::Overloaded)));
        }
        let (Some(identity), Some(sessions)) = (identity, &lead.sessions) else { return Ok(()) };
        let mark = position_of(lead.law.copy(), lead.law.mark());
        match Told::of(lead.desk.check(now, sessions, mark, identity)) {
            None => Ok(()),
            Some(told) => Err(told),
        }
    }

    /// The handler will never return.
    pub(super) fn abandon(&self, fence: &Fence, identity: &Identity) {
        match &mut self.lock().role {
            Role::Primary(lead) if lead.law.fence() == fence => lead.desk.handle_abandoned(identity),
            Role::Primary(_) | Role::Copy(_) | Role::Changing => {}
        }
    }

    /// The handler returned: what it changed is logged with its reply, and the reply leaves once that surely holds.
    /// Gives the delivery back, with the reason, where nothing could be logged: the worker's state is ahead of the log then.
    pub(super) fn finish(
        &self,
        now: Moment,
        fence: &Fence,
        delivery: Delivery,
        (stepped, changes): (bool, Changes),
        reply: Reply,
        out: &mut Out,
    ) -> Result<(), Box<(Delivery, Failure)>> {
        self.with(out, |inner, effects, _| {
            let changed = !changes.is_empty();
            let lead = match inner.serving_mut(fence) {
                Ok(lead) => lead,
                Err(why) => return Err(Box::new((delivery, why))),
            };
            let identity = delivery.identity;
            let logged = match (&identity, &lead.sessions) {
                (Some(identity), Some(sessions)) => lead.desk.is_logged(sessions, identity, changed),
                _ => changed,
            };
            if logged {
                let entry = match identity {
                    Some(identity) => Entry::Record { identity, changes, reply: reply.clone() },
                    None => Entry::Changes(changes),
                };
                if let Err(why) = lead.append(fence, &entry) {
                    return Err(Box::new((delivery, why)));
                }
                effects.extend(lead.law.handle_appended(now));
                if let Some(identity) = &identity {
                    lead.desk.handle_logged(identity);
                }
            } else if let Some(identity) = &identity {
                lead.desk.handle_unchanged(lead.law.copy().last(), identity, &reply);
            }
            let rests_on = lead.law.copy().last().sequence;
            lead.held.push(Held { rests_on, delivery, reply, changed: logged || stepped });
            Ok(())
        })
    }

    /// Logs what a worker did outside of any request, or a step of one. Says up to where the log has to hold for it.
    pub(super) fn log(
        &self,
        now: Moment,
        fence: &Fence,
        entry: &Entry,
        out: &mut Out,
    ) -> Result<Position, Failure> {
        self.with(out, |inner, effects, _| {
            let lead = inner.serving_mut(fence)?;
            let position = lead.append(fence, entry)?;
            effects.extend(lead.law.handle_appended(now));
            Ok(position)
        })
    }

    /// Tells when all that was logged so far surely holds. It is dropped where that will not be known.
    pub(super) fn wait(&self, fence: &Fence, done: oneshot::Sender<()>, out: &mut Out) {
        self.with(out, |inner, _, _| {
            if let Ok(lead) = inner.serving_mut(fence) {
                lead.waits.push((lead.law.copy().last().sequence, done));
            }
        });
    }

    /// Opens a session for a client, or finds the one that was opened.
    pub(super) fn open_session(
        &self,
        now: Moment,
        fence: &Fence,
        nonce: u128,
        delivery: Delivery,
        encode: impl FnOnce(Position) -> Reply,
        out: &mut Out,
    ) {
        self.with(out, |inner, effects, _| {
            use tumen_core::partitions::session::desk::Opening;
            let lead = match inner.serving_mut(fence) {
                Ok(lead) => lead,
                Err(why) => return delivery.answer(Err(why)),
            };
            let Some(sessions) = &lead.sessions else { return delivery.answer(Err(Failure::NotReady)) };
            let (position, changed) = match lead.desk.check_open(now, sessions, nonce) {
                Opening::Overloaded => return delivery.answer(Err(Failure::Overloaded)),
                Opening::Held(id) => (id.0, false),
                Opening::Open => match lead.append(fence, &Entry::Open { nonce }) {
                    Ok(position) => (position, true),
                    Err(why) => return delivery.answer(Err(why)),
                },
            };
            if changed {
                effects.extend(lead.law.handle_appended(now));
            }
            let rests_on = lead.law.copy().last().sequence;
            lead.held.push(Held { rests_on, delivery, reply: encode(position), changed });
        });
    }

    /// A client says that it lives, and has its answers below `lowest`.
    pub(super) fn acknowledge(&self, now: Moment, fence: &Fence, session: SessionId, lowest: u64) {
        if let Ok(Lead { desk, sessions: Some(sessions), .. }) = self.lock().serving_mut(fence) {
            desk.handle_acknowledged(now, sessions, session, lowest);
        }
    }

    /// A client does not use a session any more.
    pub(super) fn end_session(&self, now: Moment, fence: &Fence, session: SessionId, out: &mut Out) {
        self.with(out, |inner, effects, _| {
            if let Ok(lead) = inner.serving_mut(fence)
                && let Some(sessions) = &lead.sessions
                && let Some(expiry) = lead.desk.handle_end(sessions, session)
                && lead.append(fence, &Entry::Expire(expiry)).is_ok()
            {
                effects.extend(lead.law.handle_appended(now));
            }
        });
    }

    /// Forgets sessions and keys that are too old.
    pub(super) fn expire(&self, now: Moment, out: &mut Out) {
        self.with(out, |inner, effects, _| {
            let Role::Primary(lead) = &mut inner.role else { return };
            let fence = *lead.law.fence();
            let Some(sessions) = lead.sessions.as_ref().filter(|_| lead.law.may_serve(&fence)) else {
                return;
            };
            if let Some(expiry) = lead.desk.plan_expiry(now, sessions)
                && lead.append(&fence, &Entry::Expire(expiry)).is_ok()
            {
                effects.extend(lead.law.handle_appended(now));
            }
        });
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
            Role::Primary(_) | Role::Changing => Heard::Never,
            Role::Copy(copy) => copy.heard().map_or(Heard::Never, |at| Heard::At(at.min(now))),
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

impl Lead {
    /// Appends an entry, and has the requests that were carried out know of it.
    fn append(&mut self, fence: &Fence, entry: &Entry) -> Result<Position, Failure> {
        if self.is_closed {
            // What the disk does not take is not begun.
            return Err(Failure::NotReady);
        }
        let position = self.law.append(fence, entry.to_bytes()).map_err(|why| match why {
            AppendError::Fenced(_) => Failure::Fenced { changed: false },
            AppendError::NotServing(_) => Failure::NotReady,
            AppendError::Overloaded(_) => Failure::Overloaded,
        })?;
        if let Some(sessions) = &mut self.sessions {
            sessions.apply(position, entry);
        }
        Ok(position)
    }
}

impl Inner {
    /// The primary under this fence, if it is open.
    fn serving(&self, fence: &Fence) -> Result<&Lead, Failure> {
        match &self.role {
            Role::Primary(lead) if lead.law.may_serve(fence) => Ok(lead),
            Role::Primary(lead) if lead.law.fence() == fence && lead.law.phase() < Phase::Serving => {
                Err(Failure::NotReady)
            }
            _ => Err(Failure::Fenced { changed: false }),
        }
    }

    fn serving_mut(&mut self, fence: &Fence) -> Result<&mut Lead, Failure> {
        self.serving(fence)?;
        match &mut self.role {
            Role::Primary(lead) => Ok(lead),
            Role::Copy(_) | Role::Changing => Err(Failure::Fenced { changed: false }),
        }
    }

    /// Is no primary any more.
    fn step_down(&mut self) {
        match std::mem::replace(&mut self.role, Role::Changing) {
            Role::Primary(mut lead) => {
                lead.held.give_up();
                self.role = Role::Copy(Box::new(lead.law.into_copy()));
            }
            role => self.role = role,
        }
    }

    fn copy(&self) -> &LocalCopy<Bytes> {
        match &self.role {
            Role::Copy(copy) => copy,
            Role::Primary(lead) => lead.law.copy(),
            Role::Changing => unreachable!("seen from outside the lock"),
        }
    }

    fn run(&mut self, partition: PartitionId, effects: Vec<Effect<Bytes>>, out: &mut Out) {
        let mut effects = std::collections::VecDeque::from(effects);
        while let Some(effect) = effects.pop_front() {
            match effect {
                Effect::Send { to, request } => out.sends.push((to, request)),
                Effect::SendSnapshot { to, header } => out.snapshots.push((to, header)),
                Effect::SaveSnapshot => match &mut self.keeping {
                    // It is saved once its bytes are on disk.
                    Some(keeping) => {
                        out.writes_state |= !std::mem::replace(&mut keeping.writes_state, true);
                    }
                    None => effects.extend(self.save_snapshot()),
                },
                Effect::Ask { epoch, revision, change } => {
                    out.steps.push(Step { partition, epoch, revision, change });
                }
                Effect::Opened { opening } => {
                    tracing::trace!(%partition, %opening, "opened");
                    self.handle_opened();
                }
                Effect::Renewing { lost } => {
                    tracing::warn!(%partition, ?lost, "opens with what the disks kept: what was not on any is lost");
                }
                Effect::Discard => {
                    tracing::warn!(%partition, "this copy has what was given up; it is begun anew");
                }
                Effect::Released { last } => tracing::trace!(%partition, %last, "given back"),
                Effect::Deposed => {
                    tracing::trace!(%partition, "a newer primary is there");
                    self.step_down();
                }
            }
        }
    }

    /// The log is complete: which requests were carried out is known up to its end.
    fn handle_opened(&mut self) {
        self.apply_up_to_mark();
        let Role::Primary(lead) = &mut self.role else { return };
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut sessions, applied) = (state.sessions().clone(), state.applied().sequence);
        drop(state);
        let copy = lead.law.copy();
        for sequence in applied + 1..=copy.last().sequence {
            let Some(at) = copy.entry(sequence) else { continue };
            if let Body::Data(data) = &at.body
                && let Ok(entry) = Entry::decode(data.clone())
            {
                sessions.apply(Position::new(at.epoch, sequence), &entry);
            }
        }
        lead.sessions = Some(sessions);
    }

    fn save_snapshot(&mut self) -> Vec<Effect<Bytes>> {
        self.apply_up_to_mark();
        let (now, applied) = (Moment::ZERO, self.applied);
        match &mut self.role {
            Role::Primary(lead) => lead.law.handle_snapshot_saved(now, applied).unwrap_or_default(),
            Role::Copy(_) | Role::Changing => Vec::new(),
        }
    }

    /// Applies what surely holds.
    fn apply_up_to_mark(&mut self) {
        if self.broken.is_some() {
            return;
        }
        let copy = match &self.role {
            Role::Copy(copy) => copy,
            Role::Primary(lead) => lead.law.copy(),
            Role::Changing => return,
        };
        let mark = copy.mark_position().sequence;
        if self.applied.sequence >= mark {
            return;
        }
        let mut state = match self.state.try_lock() {
            Ok(state) => state,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            // It is being written down, or read: it follows at the next occasion.
            Err(TryLockError::WouldBlock) => return,
        };
        for sequence in state.applied().sequence + 1..=mark {
            let Some(entry) = copy.entry(sequence) else { break };
            let data = match &entry.body {
                Body::Data(data) => Some(data),
                Body::Opening => None,
            };
            if let Err(why) = state.apply(Position::new(entry.epoch, sequence), data) {
                tracing::error!(%why, "a copy is broken");
                self.broken = Some(why);
                break;
            }
        }
        self.applied = state.applied();
    }

    /// What has to go to disk.
    fn keep(&mut self, out: &mut Out) {
        let (copy, opens) = match &self.role {
            Role::Copy(copy) => (&**copy, false),
            Role::Primary(lead) => (lead.law.copy(), lead.law.phase() < Phase::Serving),
            Role::Changing => return,
        };
        let Some(keeping) = self.keeping.as_mut().filter(|keeping| !keeping.is_over()) else { return };
        let hurried = opens || copy.acks() == Acks::AfterDisk || keeping.is_awaited() || out.writes.is_some();
        if copy.has_writes() && !std::mem::replace(&mut keeping.is_queued, true) {
            out.writes = Some(hurried);
        }
        let behind = copy.mark_position().sequence.saturating_sub(copy.snapshot().sequence);
        if keeping.wants_state(behind) {
            keeping.writes_state = true;
            out.writes_state = true;
        }
    }

    /// The group's mode says when a copy that has a disk acknowledges.
    fn set_mode(&mut self, mode: Mode) {
        self.config.mode = mode;
        if self.keeping.is_none() {
            return;
        }
        let acks = acks_of(mode);
        match &mut self.role {
            Role::Copy(copy) => copy.set_acks(acks),
            Role::Primary(lead) => lead.law.set_acks(acks),
            Role::Changing => {}
        }
    }

    /// What follows from anything that happened: state follows the mark, replies leave, the log is cut.
    fn settle(&mut self, out: &mut Out) {
        self.apply_up_to_mark();
        self.keep(out);
        let (applied, config) = (self.applied, self.config.clone());
        if self.keeping.is_none() && self.copy().wants_snapshot(&config) {
            match &mut self.role {
                Role::Copy(copy) => {
                    copy.handle_snapshot_saved(applied, config.keep_entries);
                }
                Role::Primary(_) | Role::Changing => {
                    let effects = self.save_snapshot();
                    debug_assert!(
                        effects.iter().all(|effect| matches!(effect, Effect::Send { .. })),
                        "{effects:?}"
                    );
                }
            }
        }
        if let Role::Primary(lead) = &mut self.role {
            let mark = lead.law.mark();
            lead.held.take_up_to(mark, &mut out.replies);
            let holds = |wait: &mut (u64, oneshot::Sender<()>)| wait.0 <= mark;
            out.woken.extend(lead.waits.extract_if(.., holds).map(|(_, done)| done));
            out.ready.extend(lead.law.ready_peers().cloned());
        }
    }
}
