//! What goes to disk of this node's copies: the writes of all of them together, and their states beside.
//!
//! ```text
//!  partition 3 ─ dirty ─┐             ┌ batch ┐
//!  partition 7 ─ dirty ─┼─▶ take_write ┼ batch ┼─▶ one fsync ─▶ handle_written ─▶ answers that waited for it leave
//!  partition 9 ─ dirty ─┘             └ batch ┘
//!  partition 3 ─ log is long ─▶ state, in chunks ─▶ the next write names it, and the log is cut
//! ```

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Notify, Semaphore};
use tumen_core::ids::{ClusterId, PartitionId};
use tumen_core::partitions::replication::Ticket;

use super::Replication;
use super::cell::{Cell, Out};
use super::loading;
use super::records::{self, RECORD_LEN_MAX, StateRecord};
use crate::store::{Batch, Store, StoreError};

/// How many batches may be on their way to the disk: while one is being written, the next one gathers.
const BATCHES_MAX: usize = 2;
/// About the most bytes of one batch.
const BATCH_LEN_MAX: usize = 4 << 20;
/// How long writes may gather that nobody waits for.
const LINGER: Duration = Duration::from_millis(50);
/// How many bytes of a state go to the store at once.
const STATE_PART_LEN: usize = 1 << 20;

/// The way to this node's disk.
pub(super) struct Disk {
    pub(super) store: Store,
    queue: Mutex<Queue>,
    wake: Notify,
    hurry: Notify,
    states: Mutex<VecDeque<Arc<Cell>>>,
    states_wake: Notify,
    batches: Arc<Semaphore>,
    /// Whoever takes writes holds it until they are given to the store.
    writing: tokio::sync::Mutex<()>,
    /// The last state's number.
    numbers: AtomicU64,
    failed: OnceLock<StoreError>,
    failing: Notify,
}

#[derive(Default)]
struct Queue {
    /// Copies that something changed of.
    dirty: VecDeque<Arc<Cell>>,
    /// Copies that are no more.
    forgotten: Vec<PartitionId>,
    /// The cluster that they are of, if that is news.
    cluster: Option<ClusterId>,
    /// Whether anybody waits for any of it.
    hurried: bool,
}

impl Disk {
    /// `newest` is above the number of every state that is in the store.
    pub(super) fn new(store: Store, newest: u64) -> Self {
        Self {
            store,
            queue: Mutex::default(),
            wake: Notify::new(),
            hurry: Notify::new(),
            states: Mutex::default(),
            states_wake: Notify::new(),
            batches: Arc::new(Semaphore::new(BATCHES_MAX)),
            writing: tokio::sync::Mutex::default(),
            numbers: AtomicU64::new(newest),
            failed: OnceLock::new(),
            failing: Notify::new(),
        }
    }

    fn queue<T>(&self, act: impl FnOnce(&mut Queue) -> T) -> T {
        act(&mut self.queue.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Something changed of a copy that has to go to disk. `hurried` tells whether anybody waits for it.
    pub(super) fn write(&self, cell: &Arc<Cell>, hurried: bool) {
        let hurries = self.queue(|queue| {
            queue.dirty.push_back(Arc::clone(cell));
            hurried && !std::mem::replace(&mut queue.hurried, true)
        });
        self.wake.notify_one();
        if hurries {
            self.hurry.notify_one();
        }
    }

    /// A copy is no more. What is written of the partition from now on is another one's.
    pub(super) fn forget(&self, partition: PartitionId) {
        self.queue(|queue| queue.forgotten.push(partition));
        self.wake.notify_one();
    }

    /// All copies that are written from now on are of this cluster.
    pub(super) fn remember(&self, cluster: ClusterId) {
        self.queue(|queue| queue.cluster = Some(cluster));
        self.wake.notify_one();
    }

    /// A copy's log is so long that its state is to be written.
    pub(super) fn write_state_of(&self, cell: &Arc<Cell>) {
        self.states.lock().unwrap_or_else(PoisonError::into_inner).push_back(Arc::clone(cell));
        self.states_wake.notify_one();
    }

    /// Why nothing is written any more, if nothing is.
    pub(super) fn failed(&self) -> Option<&StoreError> {
        self.failed.get()
    }

    /// Writes the bytes of a state. They count once a copy's record names them.
    pub(super) async fn write_state(
        &self,
        partition: PartitionId,
        mut bytes: Bytes,
    ) -> Result<StateRecord, StoreError> {
        let number = self.numbers.fetch_add(1, Ordering::SeqCst) + 1;
        let state = StateRecord { number, len: bytes.len() as u64 };
        let mut chunk = 0;
        let mut written = None;
        while !bytes.is_empty() {
            let mut batch = Batch::new();
            while !bytes.is_empty() && batch.size() < STATE_PART_LEN {
                let part = bytes.split_to(bytes.len().min(RECORD_LEN_MAX));
                batch = records::put_chunk(partition, number, chunk, part, batch);
                chunk += 1;
            }
            // Others' writes are to come in between.
            written = Some(self.store.write(batch).await);
            if let Some(Err(error)) = written {
                return Err(error);
            }
        }
        drop(written);
        Ok(state)
    }

    /// All that waits, as one batch, with the copies and the writes that are in it.
    fn take(&self) -> (Batch, Vec<(Arc<Cell>, Ticket)>) {
        let Queue { mut dirty, forgotten, cluster, .. } = self.queue(std::mem::take);
        let forget = |batch, partition| records::forget(partition, batch);
        let mut batch = forgotten.into_iter().fold(Batch::new(), forget);
        if let Some(cluster) = cluster {
            batch = loading::put_cluster(cluster, batch);
        }
        let mut writes = Vec::with_capacity(dirty.len());
        while batch.size() < BATCH_LEN_MAX
            && let Some(cell) = dirty.pop_front()
        {
            let ticket;
            (batch, ticket) = cell.take_write(batch);
            writes.extend(ticket.map(|ticket| (cell, ticket)));
        }
        if !dirty.is_empty() {
            self.queue(|queue| {
                dirty.append(&mut queue.dirty);
                queue.dirty = dirty;
                queue.hurried = true;
            });
        }
        (batch, writes)
    }

    /// Waits until there is something to write.
    async fn woken(&self) {
        self.wake.notified().await;
        if !self.queue(|queue| queue.hurried) {
            drop(tokio::time::timeout(LINGER, self.hurry.notified()).await);
        }
        // Whoever is about to write does so first: then it all goes together.
        tokio::task::yield_now().await;
    }
}

impl Replication {
    /// Writes what changed of all copies, as long as the node runs.
    pub(super) async fn run_disk(&self, disk: Arc<Disk>) {
        let stopping = self.shared.stopping.clone();
        let _writing = disk.writing.lock().await;
        while stopping.run_until_cancelled(disk.woken()).await.is_some() {
            loop {
                let Ok(permit) = Arc::clone(&disk.batches).acquire_owned().await else { return };
                let (batch, writes) = disk.take();
                if batch.is_empty() {
                    break;
                }
                let written = disk.store.submit(batch).await;
                let (this, disk) = (self.clone(), Arc::clone(&disk));
                tokio::spawn(self.shared.stopping.clone().run_until_cancelled_owned(async move {
                    let result = written.done().await;
                    drop(permit);
                    match result {
                        Ok(()) => this.handle_written(writes),
                        Err(error) => this.handle_disk_failed(&disk, &error),
                    }
                }));
            }
        }
    }

    fn handle_written(&self, writes: Vec<(Arc<Cell>, Ticket)>) {
        let now = self.now();
        for (cell, ticket) in writes {
            let mut out = Out::default();
            cell.handle_written(now, ticket, &mut out);
            self.perform(&cell, out);
        }
    }

    /// Waits until the disk takes nothing any more, and says why. Nothing is promised from then on: whoever asked is told
    /// that nobody knows, or that nothing changed. What was promised is there for the next run, or is on other nodes.
    pub async fn disk_failed(&self) -> StoreError {
        let Some(disk) = &self.shared.disk else { return std::future::pending().await };
        loop {
            let failing = disk.failing.notified();
            if let Some(error) = disk.failed.get() {
                return error.clone();
            }
            failing.await;
        }
    }

    /// The disk takes nothing any more.
    pub(super) fn handle_disk_failed(&self, disk: &Disk, error: &StoreError) {
        if self.shared.stopping.is_cancelled() || disk.failed.set(error.clone()).is_err() {
            return;
        }
        tracing::error!(%error, "this node's copies cannot be written any more");
        for cell in self.cells() {
            cell.end_writes();
        }
        disk.failing.notify_waiters();
    }

    /// Writes the states of copies whose logs have grown long, one after the other: so no more than one is in memory.
    pub(super) async fn run_states(&self, disk: Arc<Disk>) {
        loop {
            let next = disk.states.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            let Some(cell) = next else {
                disk.states_wake.notified().await;
                continue;
            };
            self.write_state_of(&disk, &cell).await;
        }
    }

    async fn write_state_of(&self, disk: &Disk, cell: &Arc<Cell>) {
        let partition = cell.partition;
        cell.begin_state();
        let (position, bytes) = match self.state_of(cell).await {
            Ok(state) => state,
            Err(why) => {
                tracing::error!(%partition, %why, "a state cannot be written");
                return cell.handle_state_failed();
            }
        };
        let len = bytes.len();
        match disk.write_state(partition, bytes).await {
            Ok(state) => {
                tracing::debug!(%partition, %position, len, "wrote a state");
                let mut out = Out::default();
                cell.handle_state_written(self.now(), position, state, &mut out);
                self.perform(cell, out);
            }
            Err(error) => self.handle_disk_failed(disk, &error),
        }
    }

    /// Writes all that is not on disk yet, and ends the store in good order. Nobody may ask any more.
    pub async fn close(&self) {
        let Some(disk) = &self.shared.disk else { return };
        // Nothing that was taken of a copy may be lost on its way.
        let _written = disk.writing.lock().await;
        for cell in self.cells() {
            disk.write(&cell, false);
        }
        loop {
            let (batch, _) = disk.take();
            if batch.is_empty() {
                break;
            }
            if let Err(error) = disk.store.write(batch).await {
                // Without the last word the next run takes this one for a crash, which it then was.
                return tracing::error!(%error, "the copies could not be written to the end");
            }
        }
        if let Err(error) = disk.store.close().await {
            tracing::error!(%error, "the copies' file was not closed in good order");
        }
    }
}
