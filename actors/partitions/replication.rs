//! The copies of partitions that this node has, and how those of one partition keep each other up to date.
//!
//! ```text
//!  PartitionManager ─ plans, lead, release ─▶ Replication ─ a Cell for each partition ─▶ LocalCopy, Primary (core)
//!  PartitionWorker ── begin, finish ────────▶     │
//!  other nodes ◀────── frames, snapshots ─────────┘ ─ steps ─▶ the leader
//! ```
//!
//! It belongs to the node, not to the actors that use it: a crashed worker, or manager, comes back to its copies, and so
//! to their lives.

mod cell;
mod held;
mod lane;
mod snapshots;
mod state;
mod worker;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::future::BoxFuture;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tumen_core::cluster::control::Step;
use tumen_core::cluster::member::Status;
use tumen_core::cluster::snapshot::{Assignment, Snapshot};
use tumen_core::ids::{Epoch, NodeName, PartitionId};
use tumen_core::partitions::fence::Fence;
use tumen_core::partitions::identity::Position;
use tumen_core::partitions::record::{CopyId, Record};
use tumen_core::partitions::replication::wire::{Reply as CopyReply, Request};
use tumen_core::partitions::replication::{Config, Phase};
use tumen_core::partitions::request::{Failure, MessageId, Reply};
use tumen_core::time::Moment;

use self::cell::{Cell, Out};
use self::lane::Lane;
use self::state::Makers;
pub use self::worker::Led;
use super::gate::Gate;
use super::host::Kinds;
use crate::clock::{self, Clock};
use crate::codec;
use crate::transport::{DATA_LEN_MAX, Incoming, LaneError, Serve, Service, Transport};

/// The most bytes of one partition's entries in a frame, and of all of them, about.
const BATCH_LEN_MAX: usize = 256 << 10;
const FRAME_LEN_MAX: usize = 1 << 20;
/// The most entries of one partition in a frame.
const BATCH_ENTRIES_MAX: usize = 4096;
/// How long a frame may take.
const FRAME_WITHIN: Duration = Duration::from_secs(2);
/// How long the leader may take over steps.
const STEPS_WITHIN: Duration = Duration::from_secs(5);
/// How long a released partition may wait for other copies before it is given back as it is.
const RELEASE_WITHIN: Duration = Duration::from_millis(1500);
/// How often it is looked for sessions that are too old.
const EXPIRE_EVERY: Duration = Duration::from_secs(1);

/// Asks the leader that other copies count: answers with what counts by then.
pub type AskSteps =
    Arc<dyn Fn(Vec<Step>, Duration) -> BoxFuture<'static, Vec<(PartitionId, Record)>> + Send + Sync>;

/// The copies that this node has. Cheap to clone.
#[derive(Clone)]
pub struct Replication {
    shared: Arc<Shared>,
}

struct Shared {
    me: NodeName,
    clock: Clock,
    gate: Gate,
    transport: Transport,
    config: Config,
    makers: Makers,
    cells: RwLock<BTreeMap<PartitionId, Arc<Cell>>>,
    lanes: Mutex<BTreeMap<NodeName, Arc<Lane>>>,
    steps: Mutex<BTreeMap<PartitionId, Step>>,
    stepped: Notify,
    stopping: CancellationToken,
}

impl std::fmt::Debug for Replication {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Replication").field("me", &self.shared.me).finish_non_exhaustive()
    }
}

/// One copy, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopyStatus {
    /// Whose.
    pub partition: PartitionId,
    /// How far this node is as primary, if it is to be.
    pub phase: Option<Phase>,
}

impl Replication {
    /// No copies yet. Other nodes are served from now on.
    pub fn new(
        me: NodeName,
        kinds: &Kinds,
        config: Config,
        clock: Clock,
        gate: Gate,
        transport: Transport,
    ) -> Self {
        let shared = Shared {
            me,
            clock,
            gate,
            transport,
            config,
            makers: Makers::of(kinds),
            cells: RwLock::default(),
            lanes: Mutex::default(),
            steps: Mutex::default(),
            stepped: Notify::new(),
            stopping: CancellationToken::new(),
        };
        let replication = Self { shared: Arc::new(shared) };
        let transport = &replication.shared.transport;
        transport.serve(Service::Replication, Arc::new(replication.clone()));
        transport.serve_bulk(Service::Handover, Arc::new(replication.clone()));
        replication
    }

    /// Whether any kind of worker here is replicated.
    pub fn is_used(&self) -> bool {
        !self.shared.makers.is_empty()
    }

    /// Starts what waits for time to pass, and asks the leader. Ends with [`Self::stop`].
    pub fn start(&self, ask: AskSteps) {
        if !self.is_used() {
            return;
        }
        let stopping = self.shared.stopping.clone();
        let ticking = self.clone();
        let waking = async move { ticking.run_wakes().await };
        tokio::spawn(stopping.clone().run_until_cancelled_owned(waking));
        let asking = self.clone();
        tokio::spawn(stopping.run_until_cancelled_owned(async move { asking.run_steps(ask).await }));
    }

    /// Ends all tasks.
    pub fn stop(&self) {
        self.shared.stopping.cancel();
    }

    fn now(&self) -> Moment {
        self.shared.clock.now()
    }

    fn cell(&self, partition: PartitionId) -> Option<Arc<Cell>> {
        self.shared.cells.read().unwrap_or_else(PoisonError::into_inner).get(&partition).cloned()
    }

    fn cells(&self) -> Vec<Arc<Cell>> {
        self.shared.cells.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// The partition's copy here, made if there is none.
    fn cell_or_new(&self, partition: PartitionId) -> Arc<Cell> {
        if let Some(cell) = self.cell(partition) {
            return cell;
        }
        let mut cells = self.shared.cells.write().unwrap_or_else(PoisonError::into_inner);
        let new = || {
            let id = CopyId { node: self.shared.me.clone(), life: clock::new_life(&self.shared.clock) };
            Arc::new(Cell::new(partition, id, self.shared.config.clone(), self.shared.makers.clone()))
        };
        Arc::clone(cells.entry(partition).or_insert_with(new))
    }

    /// A plan is in force. Says so to the primaries here, before anybody acts on the plan: one that was deposed lets
    /// nothing out any more.
    pub fn handle_plan(&self, plan: &Snapshot) {
        if !self.is_used() {
            return;
        }
        let now = self.now();
        let index = plan.member_index(self.shared.me.as_str()).map(|at| at as u32);
        for (partition, assignment) in plan.partitions() {
            let wanted = index.is_some_and(|me| assignment.copies.contains(&me));
            if !wanted && !assignment.is_in_sync(&self.shared.me) {
                // Neither wanted nor counted: nobody will ask for it again, or will find it empty.
                self.shared.cells.write().unwrap_or_else(PoisonError::into_inner).remove(&partition);
                continue;
            }
            let Some(cell) = self.cell(partition) else { continue };
            let mut out = Out::default();
            cell.handle_record(now, assignment.record(), &mut out);
            let (wanted, gone) = copies_of(plan, assignment);
            cell.handle_plan(now, wanted, gone, &mut out);
            self.perform(&cell, out);
        }
    }

    /// The node left its cluster: it has no copies any more.
    pub fn handle_left(&self) {
        let cells = std::mem::take(&mut *self.shared.cells.write().unwrap_or_else(PoisonError::into_inner));
        for cell in cells.into_values() {
            let fence = cell.standing().borrow().fence;
            if let Some(fence) = fence {
                cell.give_up(&fence, &mut Out::default());
            }
        }
    }

    /// This boot is primary of a partition from now on, by this plan.
    pub fn lead(&self, plan: &Snapshot, fence: Fence) {
        let Some(assignment) = plan.assignment(fence.partition).filter(|_| self.is_used()) else { return };
        let cell = self.cell_or_new(fence.partition);
        let (wanted, gone) = copies_of(plan, assignment);
        let mut out = Out::default();
        let mode = plan.group(fence.partition.group).map(|group| group.spec.mode).unwrap_or_default();
        cell.lead(self.now(), (fence, mode), assignment.record(), wanted, gone, &mut out);
        self.perform(&cell, out);
    }

    /// A partition that is to be given back and is not open yet never will be.
    pub fn stop_opening(&self, partition: PartitionId, epoch: Epoch) {
        let Some(cell) = self.cell(partition).filter(|_| self.is_used()) else { return };
        let standing = *cell.standing().borrow();
        if let Some(fence) = standing.fence.filter(|fence| fence.epoch == epoch)
            && standing.phase.is_some_and(|phase| phase < Phase::Serving)
        {
            let mut out = Out::default();
            cell.release(self.now(), &fence, &mut out);
            self.perform(&cell, out);
        }
    }

    /// Gives a partition back: waits a while until what was taken surely holds. Nothing is taken any more.
    pub async fn release(&self, partition: PartitionId, epoch: Epoch) {
        let Some(cell) = self.cell(partition).filter(|_| self.is_used()) else { return };
        let mut standing = cell.standing();
        let Some(fence) = standing.borrow().fence.filter(|fence| fence.epoch == epoch) else { return };
        let mut out = Out::default();
        cell.release(self.now(), &fence, &mut out);
        self.perform(&cell, out);
        let over = standing.wait_for(|standing| {
            standing.fence != Some(fence) || standing.phase.is_none_or(|phase| phase >= Phase::Released)
        });
        let _ = tokio::time::timeout(RELEASE_WITHIN, over).await;
        let mut out = Out::default();
        cell.give_up(&fence, &mut out);
        self.perform(&cell, out);
    }

    /// What surely holds here, answered by any copy: with its place in the log, and since when it is known that this was all.
    pub fn query(
        &self,
        partition: PartitionId,
        message: MessageId,
        body: Bytes,
    ) -> (Reply, Position, Option<Moment>) {
        match self.cell(partition) {
            Some(cell) => cell.query(message, body),
            None => {
                let why = format!("this node has no copy of {partition}");
                (Err(Failure::NoPartition(why)), Position::ZERO, None)
            }
        }
    }

    /// Of how many partitions with a copy on this node all copies count that should, as far as it knows; and how many such
    /// partitions there are. A copy on a node that is lost should not.
    pub fn whole(&self, plan: &Snapshot) -> (usize, usize) {
        let index = plan.member_index(self.shared.me.as_str()).map(|at| at as u32);
        let Some(index) = index.filter(|_| self.is_used()) else { return (0, 0) };
        let (mut whole, mut all) = (0, 0);
        for (partition, assignment) in plan.partitions() {
            let replicated = plan.group(partition.group).is_some_and(|group| group.spec.replicated);
            if !replicated || !assignment.copies.contains(&index) {
                continue;
            }
            let there = assignment.copies.iter().map(|at| &plan.members[*at as usize]);
            let there = there.filter(|member| member.status != Status::Lost);
            let nodes: Vec<NodeName> = there.map(|member| member.name().clone()).collect();
            all += 1;
            whole += usize::from(self.cell(partition).is_some_and(|cell| cell.counts(&nodes)));
        }
        (whole, all)
    }

    /// Every copy here.
    pub fn status(&self) -> Vec<CopyStatus> {
        let status =
            |cell: Arc<Cell>| CopyStatus { partition: cell.partition, phase: cell.standing().borrow().phase };
        self.cells().into_iter().map(status).collect()
    }

    /// Does what followed from something that happened to a copy.
    fn perform(&self, cell: &Arc<Cell>, out: Out) {
        let Out { sends, snapshots, steps, ready, replies, woken } = out;
        for (to, request) in sends {
            self.lane(&to).send(request);
        }
        for node in ready {
            self.lane(&node).ready(cell);
        }
        for (to, header, bytes) in snapshots {
            self.send_snapshot(cell, to, header, bytes);
        }
        if !steps.is_empty() {
            let mut waiting = self.shared.steps.lock().unwrap_or_else(PoisonError::into_inner);
            waiting.extend(steps.into_iter().map(|step| (step.partition, step)));
            drop(waiting);
            self.shared.stepped.notify_one();
        }
        for waiting in woken {
            // Whoever stopped waiting needs no answer.
            let _ = waiting.send(());
        }
        for held in replies {
            // The value first, the right to let it out after.
            if self.shared.gate.is_open() {
                self.shared.gate.note_answer();
                held.delivery.answer(held.reply);
            } else {
                held.delivery.answer(Err(Failure::Timeout { maybe_applied: held.changed }));
            }
        }
    }

    fn lane(&self, node: &NodeName) -> Arc<Lane> {
        let mut lanes = self.shared.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || {
            let lane = Arc::new(Lane::new(node.clone()));
            let (sending, sent) = (self.clone(), Arc::clone(&lane));
            let stopping = self.shared.stopping.clone();
            tokio::spawn(stopping.run_until_cancelled_owned(async move { sending.run_lane(&sent).await }));
            lane
        };
        Arc::clone(lanes.entry(node.clone()).or_insert_with(new))
    }

    /// Sends what gathers for one node.
    async fn run_lane(&self, lane: &Arc<Lane>) {
        loop {
            lane.woken().await;
            // Whoever is about to append more does so first: then it all travels together.
            tokio::task::yield_now().await;
            loop {
                let Ok(permit) = Arc::clone(&lane.frames).acquire_owned().await else { return };
                let (mut requests, ready) = lane.take();
                if requests.is_empty() && ready.is_empty() {
                    break;
                }
                let now = self.now();
                let mut len = 0;
                for (_, cell) in ready {
                    if len >= FRAME_LEN_MAX {
                        lane.ready(&cell);
                        continue;
                    }
                    let Some((request, more)) =
                        cell.take_batch(now, &lane.node, BATCH_ENTRIES_MAX, BATCH_LEN_MAX)
                    else {
                        continue;
                    };
                    if let Request::Append { entries, .. } = &request {
                        len += entries.iter().map(|entry| entry.weight()).sum::<usize>();
                    }
                    requests.push(request);
                    if more {
                        lane.ready(&cell);
                    }
                }
                if requests.is_empty() {
                    continue;
                }
                let answered = self.clone();
                let encode = |buffer: &mut BytesMut| {
                    codec::encode_body_into(&requests, buffer).expect("requests are bounded and encodable");
                };
                self.shared.transport.request(
                    &lane.node,
                    Service::Replication,
                    FRAME_WITHIN,
                    encode,
                    move |answer| {
                        drop(permit);
                        answered.handle_answers(answer);
                    },
                );
            }
        }
    }

    /// A frame is answered, or will not be: then the law sends again what it held.
    fn handle_answers(&self, answer: Result<Bytes, LaneError>) {
        let Ok(bytes) = answer else { return };
        let replies: Vec<CopyReply<Bytes>> = match codec::decode_body(&bytes) {
            Ok(replies) => replies,
            Err(error) => return tracing::warn!(%error, "what copies answered cannot be read"),
        };
        let now = self.now();
        for reply in replies {
            let Some(cell) = self.cell(reply.fence().partition) else { continue };
            let mut out = Out::default();
            cell.handle_reply(now, reply, &mut out);
            self.perform(&cell, out);
        }
    }

    async fn run_wakes(&self) {
        let mut ticks = tokio::time::interval(self.shared.config.retry_every);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut expired = self.now();
        loop {
            ticks.tick().await;
            let now = self.now();
            let expires = now.since(expired) >= EXPIRE_EVERY;
            for cell in self.cells() {
                let mut out = Out::default();
                cell.handle_wake(now, &mut out);
                if expires {
                    cell.expire(now, &mut out);
                }
                self.perform(&cell, out);
            }
            if expires {
                expired = now;
            }
        }
    }

    /// Takes steps to the leader, those of all partitions together.
    async fn run_steps(&self, ask: AskSteps) {
        loop {
            self.shared.stepped.notified().await;
            // Partitions that open together ask together.
            tokio::task::yield_now().await;
            let steps =
                std::mem::take(&mut *self.shared.steps.lock().unwrap_or_else(PoisonError::into_inner));
            if steps.is_empty() {
                continue;
            }
            tracing::trace!(?steps, "asking that other copies count");
            let records = ask(steps.into_values().collect(), STEPS_WITHIN).await;
            tracing::trace!(?records, "which copies count");
            let now = self.now();
            for (partition, record) in records {
                let Some(cell) = self.cell(partition) else { continue };
                let mut out = Out::default();
                cell.handle_record(now, record, &mut out);
                self.perform(&cell, out);
            }
        }
    }
}

/// Whose copies a plan wants, and which of those that count are on nodes that are lost: writes go on without them.
fn copies_of(plan: &Snapshot, assignment: &Assignment) -> (Vec<NodeName>, Vec<NodeName>) {
    let wanted = assignment.copies.iter().map(|at| plan.members[*at as usize].name().clone()).collect();
    let gone = assignment.members.iter().map(|copy| &copy.node);
    let there = |node: &&NodeName| plan.member(node.as_str()).is_some_and(|m| m.status != Status::Lost);
    let gone = gone.filter(|node| !there(node)).cloned().collect();
    (wanted, gone)
}

impl Serve for Replication {
    fn serve(&self, batch: &mut Vec<Incoming>) {
        for incoming in batch.drain(..) {
            let requests: Vec<Request<Bytes>> = match codec::decode_body(&incoming.body) {
                Ok(requests) if incoming.body.len() <= DATA_LEN_MAX => requests,
                Ok(_) => continue,
                Err(error) => {
                    tracing::warn!(from = %incoming.from(), %error, "what a primary sent cannot be read");
                    continue;
                }
            };
            let (now, from) = (self.now(), incoming.from().node.clone());
            let mut replies = Vec::with_capacity(requests.len());
            for request in requests {
                let cell = self.cell_or_new(request.fence().partition);
                let mut out = Out::default();
                replies.push(cell.handle_request(now, &from, request, &mut out).reply);
                self.perform(&cell, out);
            }
            incoming.reply.send_with(|buffer| {
                codec::encode_body_into(&replies, buffer).expect("answers are bounded and encodable");
            });
        }
    }
}
