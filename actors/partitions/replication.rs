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

mod answers;
mod asks;
mod belonging;
mod bringing;
mod cell;
pub mod compress;
mod disk;
mod encoding;
mod equality;
mod frames;
mod held;
mod keeping;
mod lane;
mod loading;
mod losses;
pub mod phases;
mod records;
mod snapshots;
mod state;
mod steps;
mod transfers;
mod worker;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::sync::{Semaphore, broadcast};
use tokio_util::sync::CancellationToken;
use tumen_core::cluster::control::Step;
use tumen_core::cluster::member;
use tumen_core::cluster::snapshot::{Assignment, Mode, Snapshot};
use tumen_core::ids::{ClusterId, Epoch, GroupId, NodeName, PartitionId};
use tumen_core::partitions::fence::Fence;
use tumen_core::partitions::identity::Position;
use tumen_core::partitions::record::{CopyId, Record};
use tumen_core::partitions::replication::{Config, Phase};
use tumen_core::partitions::request::{Failure, MessageId, Reply};
use tumen_core::time::Moment;

use self::asks::Answering;
use self::cell::{Cell, Heard, Out};
use self::compress::{Packed, Packing};
use self::disk::Disk;
use self::lane::Lane;
pub use self::loading::{Copies, LoadError};
use self::phases::{MODES, Phases, TOOK_US};
use self::state::MakersByGroup;
use self::steps::Steps;
use self::transfers::Transfers;
pub use self::transfers::{News, Pace};
pub use self::worker::{Handling, Led};
use super::delivery::Told;
use super::gate::Gate;
use super::host::KindsByGroup;
use super::meter::Meter;
use super::witness::Witness;
use crate::clock::{self, Clock};
use crate::transport::{Service, Transport};

/// How long a released partition may wait for other copies before it is given back as it is.
const RELEASE_WITHIN: Duration = Duration::from_millis(1500);
/// How often it is looked for sessions that are too old.
const EXPIRE_EVERY: Duration = Duration::from_secs(1);

/// Asks the leader that other copies count: answers with what counts by then.
pub type AskSteps =
    Arc<dyn Fn(Vec<Step>, Duration) -> BoxFuture<'static, Vec<(PartitionId, Record)>> + Send + Sync>;

/// Has the node's manager of partitions give an epoch back, that nobody here will serve under.
pub type GiveBack = Arc<dyn Fn(PartitionId, Epoch) + Send + Sync>;

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
    witness: Witness,
    config: Config,
    makers: MakersByGroup,
    cells: RwLock<BTreeMap<PartitionId, Arc<Cell>>>,
    disk: Option<Arc<Disk>>,
    /// The cluster whose copies these are, as far as that is known.
    cluster: Mutex<Option<ClusterId>>,
    /// Of which generation of its cluster this node is, as [`belonging`] keeps it.
    generation: AtomicU64,
    /// Whether a plan said so since the node started: before, copies that were read back say nothing.
    confirmed: AtomicBool,
    /// What an acknowledgement promises, by the newest plan.
    modes: RwLock<BTreeMap<GroupId, Mode>>,
    /// Copies that are neither wanted nor counted by the newest plan, and go once it surely is the newest.
    unneeded: Mutex<Vec<PartitionId>>,
    /// Copies that were not what was written on disk.
    rebuilt: u64,
    /// What copies that are no more here have counted, and those that promise something else now.
    counted: Mutex<BTreeMap<Mode, Phases>>,
    took: [Meter; MODES.len()],
    packed: Packed,
    lanes: Mutex<BTreeMap<NodeName, Arc<Lane>>>,
    steps: Steps,
    /// States on their way.
    transfers: Transfers,
    /// Turns of states that new primaries ask for, which wait for no others.
    urgent: Arc<Semaphore>,
    /// Held by whoever compares copies.
    comparing: tokio::sync::Mutex<()>,
    /// How many do, or wait for it.
    reports: AtomicU32,
    give_back: OnceLock<GiveBack>,
    stopping: CancellationToken,
}

impl std::fmt::Debug for Replication {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Replication").field("me", &self.shared.me).finish_non_exhaustive()
    }
}

/// The copies of this node, for people.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Each of them.
    pub copies: Vec<CopyStatus>,
    /// How many copies the disk had lost when the node started: they are made anew from the others.
    pub copies_rebuilt: u64,
    /// Why nothing is written any more, if nothing is.
    pub disk_failed: Option<String>,
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
    /// Goes on with these copies. Other nodes are served from now on.
    #[allow(clippy::too_many_arguments, reason = "each is another part of the node, and they are given once")]
    pub fn new(
        me: NodeName,
        kinds: &KindsByGroup,
        (config, pace): (Config, Pace),
        clock: Clock,
        (gate, witness): (Gate, Witness),
        transport: Transport,
        copies: Copies,
    ) -> Self {
        let Copies { disk, cells, cluster, rebuilt } = copies;
        let transfers = Transfers::new(clock.now(), me.clone(), pace);
        let urgent = Arc::new(Semaphore::new(pace.limits.from_node_max.max(1) as usize));
        let shared = Shared {
            me,
            clock,
            gate,
            transport,
            witness,
            config,
            makers: MakersByGroup::new(kinds),
            cells: RwLock::new(cells),
            disk: disk.map(Arc::new),
            cluster: Mutex::new(cluster),
            generation: AtomicU64::new(belonging::ANY),
            confirmed: AtomicBool::new(cluster.is_none()),
            modes: RwLock::default(),
            unneeded: Mutex::default(),
            rebuilt,
            counted: Mutex::default(),
            took: MODES.map(|_| Meter::new(&TOOK_US)),
            packed: Packed::default(),
            lanes: Mutex::default(),
            steps: Steps::default(),
            transfers,
            urgent,
            comparing: tokio::sync::Mutex::default(),
            reports: AtomicU32::new(0),
            give_back: OnceLock::new(),
            stopping: CancellationToken::new(),
        };
        let replication = Self { shared: Arc::new(shared) };
        let transport = &replication.shared.transport;
        transport.serve(Service::Replication, Arc::new(replication.clone()));
        transport.serve_bulk(Service::Handover, Arc::new(replication.clone()));
        transport.serve(Service::Handover, Arc::new(Answering::new(replication.clone())));
        replication
    }

    /// Whether any kind of worker here is replicated.
    pub fn is_used(&self) -> bool {
        !self.shared.makers.is_empty()
    }

    /// The same of one group.
    fn is_used_by(&self, group: GroupId) -> bool {
        !self.shared.makers.of(group).is_empty()
    }

    /// Starts what waits for time to pass, asks the leader, and gives epochs back. Ends with [`Self::stop`].
    pub fn start(&self, ask: AskSteps, give_back: GiveBack) {
        if !self.is_used() || self.shared.give_back.set(give_back).is_err() {
            return;
        }
        let stopping = self.shared.stopping.clone();
        let ticking = self.clone();
        let waking = async move { ticking.run_wakes().await };
        tokio::spawn(stopping.clone().run_until_cancelled_owned(waking));
        let asking = self.clone();
        let stepping = async move { asking.run_steps(ask).await };
        tokio::spawn(stopping.clone().run_until_cancelled_owned(stepping));
        if let Some(disk) = &self.shared.disk {
            let (writing, to) = (self.clone(), Arc::clone(disk));
            tokio::spawn(async move { writing.run_disk(to).await });
            let (states, to) = (self.clone(), Arc::clone(disk));
            tokio::spawn(stopping.run_until_cancelled_owned(async move { states.run_states(to).await }));
        }
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
            let (mut config, makers) =
                (self.shared.config.clone(), self.shared.makers.of(partition.group).clone());
            let modes = self.shared.modes.read().unwrap_or_else(PoisonError::into_inner);
            if let Some(mode) = modes.get(&partition.group) {
                config.mode = makers.mode_of_log(*mode);
            }
            drop(modes);
            config.tells_at_once = partition.group == GroupId::Names;
            Arc::new(Cell::new(partition, id, self.acks_of(partition.group), config, makers))
        };
        Arc::clone(cells.entry(partition).or_insert_with(new))
    }

    /// A plan is in force. Says so to the primaries here, before anybody acts on the plan: one that was deposed lets
    /// nothing out any more.
    pub fn handle_plan(&self, plan: &Snapshot) {
        if !self.is_used() {
            return;
        }
        self.handle_generation(plan.generation);
        self.handle_cluster(plan);
        let now = self.now();
        let mut unneeded = Vec::new();
        let index = plan.member_index(self.shared.me.as_str()).map(|at| at as u32);
        for (partition, assignment) in plan.partitions() {
            if !self.is_used_by(partition.group) {
                continue;
            }
            let wanted = index.is_some_and(|me| assignment.copies.contains(&me));
            if !wanted && !assignment.is_in_sync(&self.shared.me) {
                // Neither wanted nor counted: nobody will ask for it again, or will find it empty.
                unneeded.push(partition);
                continue;
            }
            let Some(cell) = self.cell(partition) else { continue };
            let mut out = Out::default();
            cell.handle_record(now, assignment.record(), &mut out);
            let (wanted, gone) = copies_of(plan, assignment);
            cell.handle_plan(now, wanted, gone, &mut out);
            self.perform(&cell, out);
        }
        let nodes = u32::try_from(plan.members.len()).unwrap_or(u32::MAX);
        self.begin_transfers(self.shared.transfers.handle_members(now, nodes));
        self.forget_transfers();
        self.handle_modes(plan);
        unneeded.retain(|partition| self.cell(*partition).is_some());
        *self.shared.unneeded.lock().unwrap_or_else(PoisonError::into_inner) = unneeded;
        self.forget_unneeded();
    }

    /// The node left its cluster: it has no copies any more.
    pub fn handle_left(&self) {
        // Whatever those that are left behind still send is of no concern here.
        self.handle_generation_left();
        self.forget_all();
        self.shared.steps.handle_left();
        *self.shared.cluster.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// This boot is primary of a partition from now on, by this plan.
    pub fn lead(&self, plan: &Snapshot, fence: Fence) {
        let used = self.is_used_by(fence.partition.group);
        let Some(assignment) = plan.assignment(fence.partition).filter(|_| used) else { return };
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

    /// What surely holds here, answered by any copy: with its place in the log, and how long ago it was known that this was
    /// all; `None` if it never was.
    pub fn query(
        &self,
        partition: PartitionId,
        message: MessageId,
        body: Bytes,
    ) -> (Reply, Position, Option<Duration>) {
        let Some(cell) = self.cell(partition) else {
            let why = format!("this node has no copy of {partition}");
            return (Err(Failure::NoPartition(why)), Position::ZERO, None);
        };
        let (reply, position, heard) = cell.query(self.now(), message, body);
        // The value first: a process that froze in between finds that it is old, or that it has no lease.
        let age = match heard {
            Heard::Leads if self.shared.gate.is_open() => Some(Duration::ZERO),
            Heard::Leads | Heard::Never => None,
            Heard::At(at) => Some(self.now().since(at)),
        };
        (reply, position, age)
    }

    /// Of how many partitions with a copy on this node all copies count that should, as far as it knows; and how many such
    /// partitions there are. A copy on a node that is lost should not; and one on a node that is away, and expected back with
    /// it, is not waited for: a primary that never met it cannot see that it counts.
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
            let there = there.filter(|there| there.status.may_serve());
            let nodes: Vec<NodeName> = there.map(|member| member.name().clone()).collect();
            all += 1;
            whole += usize::from(self.cell(partition).is_some_and(|cell| cell.counts(&nodes)));
        }
        (whole, all)
    }

    /// Every copy here, and how its disk is.
    pub fn status(&self) -> Status {
        let status =
            |cell: Arc<Cell>| CopyStatus { partition: cell.partition, phase: cell.standing().borrow().phase };
        let failed = self.shared.disk.as_ref().and_then(|disk| disk.failed());
        Status {
            copies: self.cells().into_iter().map(status).collect(),
            copies_rebuilt: self.shared.rebuilt,
            disk_failed: failed.map(ToString::to_string),
        }
    }

    /// What becomes of states on their way from this node and to it, from now on.
    pub fn transfers(&self) -> broadcast::Receiver<News> {
        self.shared.transfers.news()
    }

    /// How many bytes the states had that were sent from here, and how many were sent for them.
    pub fn packing(&self) -> Packing {
        self.shared.packed.read()
    }

    /// Does what followed from something that happened to a copy.
    fn perform(&self, cell: &Arc<Cell>, out: Out) {
        let Out {
            sends,
            snapshots,
            steps,
            ready,
            replies,
            woken,
            writes,
            writes_state,
            answers,
            heard,
            took,
            counted,
            discards,
        } = out;
        if let Some(disk) = &self.shared.disk {
            if let Some(hurried) = writes {
                disk.write(cell, hurried);
            }
            if writes_state {
                disk.write_state_of(cell);
            }
        }
        if let Some((mode, took)) = took {
            self.shared.took[mode as usize].note(took);
        }
        if let Some((mode, phases)) = counted {
            self.keep_count(mode, &phases);
        }
        if let Some((fence, boot)) = heard {
            self.shared.witness.heard(fence, &boot);
        }
        if let Some(fence) = discards {
            self.discard(cell, &fence);
        }
        for (slot, reply) in answers {
            slot.fill(reply);
        }
        for (to, request) in sends {
            self.lane(&to).send(request);
        }
        for node in ready {
            self.lane(&node).ready(cell);
        }
        for (to, header) in snapshots {
            self.send_snapshot(cell, to, header);
        }
        self.shared.steps.want(steps);
        for waiting in woken {
            // Whoever stopped waiting needs no answer.
            let _ = waiting.send(());
        }
        if replies.is_empty() {
            return;
        }
        // The values first, the right to let them out after: all of them held when the lease did, so one look at it is
        // enough, however long their way out takes. Who holds names or runs as a child claims anew where this node joins another
        // cluster: nobody has to rely on the directories of this one.
        let relies = cell.partition.group == GroupId::Users;
        if self.shared.gate.is_open() && (!relies || self.shared.gate.rely()) {
            for held in replies {
                held.delivery.tell(Told::resting(held.reply, held.rests_on));
            }
        } else {
            for held in replies {
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
                    self.give_back_again(&cell);
                }
                self.perform(&cell, out);
            }
            self.forget_unneeded();
            if expires {
                self.forget_transfers();
                expired = now;
            }
        }
    }
}

/// Whose copies a plan wants, and which nodes are gone: writes go on without their copies. Every node that is lost is among
/// them, whether its copy counts by this plan or not: one that was dropped would else be added again, as the last that was
/// heard of it is that it has everything.
fn copies_of(plan: &Snapshot, assignment: &Assignment) -> (Vec<NodeName>, Vec<NodeName>) {
    let wanted = assignment.copies.iter().map(|at| plan.members[*at as usize].name().clone()).collect();
    let lost = plan.members.iter().filter(|member| member.status == member::Status::Lost);
    let lost = lost.map(|member| member.name().clone());
    let strangers = assignment.members.iter().map(|copy| copy.node.clone());
    let strangers = strangers.filter(|node| plan.member(node.as_str()).is_none());
    (wanted, lost.chain(strangers).collect())
}
