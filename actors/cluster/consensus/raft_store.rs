//! Raft's memory, kept in the node's [`Store`]: vote, log, and the control state with its snapshots.
//!
//! ```text
//! raft/vote       the vote                              fsynced before it is answered
//! raft-log/<index>  an entry                            fsynced before it is answered
//! raft/purged     the last entry that a snapshot replaced
//! raft/committed  how far the log was known to be agreed on        written soon: a hint after a restart
//! raft/snapshot   the control state up to some entry
//! ```
//!
//! The control state itself is in memory. After a restart it is the last snapshot and what is known to be agreed
//! on since; the rest follows when a leader is heard.

use std::collections::BTreeMap;
use std::io::{self, Cursor};
use std::ops::{Bound, Range, RangeBounds};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use openraft::storage::{LogFlushed, RaftLogStorage, RaftStateMachine};
use openraft::{
    AnyError, EntryPayload, LogState, OptionalSend, RaftLogReader, RaftSnapshotBuilder, Snapshot,
    SnapshotMeta, StorageIOError,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedMutexGuard, broadcast, watch};
use tumen_core::cluster::control::{ControlState, Outcome};
use tumen_core::cluster::snapshot::Snapshot as Plan;

use super::status::Applied;
use super::types::{
    Entry, LogId, Proposal, Seat, StorageError, StoredMembership, TypeConfig, Vote, command_of,
};
use crate::codec;
use crate::store::{Batch, Space, Store, StoreError};

const VOTE: &[u8] = b"vote";
const PURGED: &[u8] = b"purged";
const COMMITTED: &[u8] = b"committed";
const SNAPSHOT: &[u8] = b"snapshot";

/// Entries that are sent to a voter at once, in bytes, unless a single one has more.
const ENTRIES_SIZE_MAX: usize = 256 << 10;

/// Vote and log.
pub(crate) struct RaftLog {
    reader: LogReader,
    proposals: Arc<Proposals>,
    /// While this log is in use, nobody else works as this life's voter.
    _claim: OwnedMutexGuard<()>,
}

impl RaftLog {
    pub(crate) async fn new(store: Store, proposals: Arc<Proposals>) -> Self {
        let claim = store.claim_voter().await;
        Self { reader: LogReader { store }, proposals, _claim: claim }
    }

    fn store(&self) -> &Store {
        &self.reader.store
    }

    /// Whether this life ever took part in anything.
    pub(crate) fn is_pristine(store: &Store) -> Result<bool, StoreError> {
        Ok(store.read(Space::Raft, VOTE)?.is_none()
            && store.read(Space::Raft, SNAPSHOT)?.is_none()
            && store.last(Space::RaftLog)?.is_none())
    }

    /// Gives up a leadership that a run before this one held.
    ///
    /// openraft would take it up again in the same term, with entries in its log that were agreed on but that it
    /// does not know to be: its first reads would be old. As a candidate of the next term that nobody voted for,
    /// it has to win an election first, and its first own entry then stands behind all of them.
    pub(crate) async fn give_up_leadership(&mut self) -> Result<(), StorageError> {
        let life = self.store().life().0;
        match self.read_vote().await? {
            Some(vote) if vote.committed && vote.leader_id.node_id == life => {
                self.save_vote(&Vote::new(vote.leader_id.term + 1, life)).await
            }
            _ => Ok(()),
        }
    }
}

/// Which commands of this node's own callers reached the log: those may yet be agreed on, whoever leads next.
#[derive(Debug, Default)]
pub(crate) struct Proposals {
    watched: Mutex<BTreeMap<u64, bool>>,
}

impl Proposals {
    /// Watches for a proposal until the guard is dropped.
    pub(crate) fn watch(self: &Arc<Self>, id: u64) -> Watched {
        self.lock().insert(id, false);
        Watched { proposals: Arc::clone(self), id }
    }

    fn appended(&self, proposal: &Proposal) {
        if let Some(seen) = self.lock().get_mut(&proposal.id) {
            *seen = true;
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<u64, bool>> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One proposal that is watched for.
#[derive(Debug)]
pub(crate) struct Watched {
    proposals: Arc<Proposals>,
    id: u64,
}

impl Watched {
    /// Whether it reached this node's log.
    pub(crate) fn was_appended(&self) -> bool {
        self.proposals.lock().get(&self.id).copied().unwrap_or(false)
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.proposals.lock().remove(&self.id);
    }
}

/// Reads the log, for the voter itself and for those who send it to others.
#[derive(Clone)]
pub(crate) struct LogReader {
    store: Store,
}

impl LogReader {
    fn entries(&self, range: Range<Vec<u8>>, size_max: usize) -> Result<Vec<Entry>, StorageError> {
        let found = self.store.scan(Space::RaftLog, range, size_max).map_err(read_logs)?;
        found.iter().map(|(_, bytes)| decode(bytes).map_err(read_logs)).collect()
    }

    fn kept<T: DeserializeOwned>(&self, key: &[u8]) -> Result<Option<T>, StorageError> {
        let Some(bytes) = self.store.read(Space::Raft, key).map_err(read_logs)? else { return Ok(None) };
        decode(&bytes).map(Some).map_err(read_logs)
    }
}

impl RaftLogReader<TypeConfig> for LogReader {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + std::fmt::Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, StorageError> {
        self.entries(keys(&range), usize::MAX)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, StorageError> {
        self.entries(keys(&(start..end)), ENTRIES_SIZE_MAX)
    }
}

impl RaftLogReader<TypeConfig> for RaftLog {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + std::fmt::Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, StorageError> {
        self.reader.try_get_log_entries(range).await
    }
}

impl RaftLogStorage<TypeConfig> for RaftLog {
    type LogReader = LogReader;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, StorageError> {
        let last_purged_log_id: Option<LogId> = self.reader.kept(PURGED)?;
        let last = self.store().last(Space::RaftLog).map_err(read_logs)?;
        let last: Option<Entry> = last.map(|(_, bytes)| decode(&bytes)).transpose().map_err(read_logs)?;
        let last_log_id = last.map(|entry| entry.log_id).or(last_purged_log_id);
        Ok(LogState { last_purged_log_id, last_log_id })
    }

    async fn get_log_reader(&mut self) -> LogReader {
        self.reader.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), StorageError> {
        let write = |e| StorageIOError::write_vote(any(&e));
        let batch = Batch::new().put(Space::Raft, VOTE, encode(vote).map_err(write)?);
        Ok(self.store().write(batch).await.map_err(|e| StorageIOError::write_vote(AnyError::new(&e)))?)
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, StorageError> {
        self.reader.kept(VOTE)
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), StorageError> {
        if let Some(committed) = committed {
            self.store().write_soon(Batch::new().put(
                Space::Raft,
                COMMITTED,
                encode(&committed).map_err(write_logs)?,
            ));
        }
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, StorageError> {
        let committed: Option<LogId> = self.reader.kept(COMMITTED)?;
        // A crash may have kept the hint and lost entries that were never promised.
        let last = self.get_log_state().await?.last_log_id;
        Ok(committed.filter(|committed| Some(committed) <= last.as_ref()))
    }

    async fn append<I>(&mut self, entries: I, callback: LogFlushed<TypeConfig>) -> Result<(), StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut batch = Batch::new();
        for entry in entries {
            batch = batch.put(Space::RaftLog, &key(entry.log_id.index), encode(&entry).map_err(write_logs)?);
            if let EntryPayload::Normal(proposal) = &entry.payload {
                self.proposals.appended(proposal);
            }
        }
        let written = self.store().write(batch).await;
        callback.log_io_completed(written.map_err(io::Error::other));
        Ok(())
    }

    async fn truncate(&mut self, log_id: LogId) -> Result<(), StorageError> {
        let batch = Batch::new().remove(Space::RaftLog, keys(&(log_id.index..)));
        self.store().write(batch).await.map_err(write_logs)
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), StorageError> {
        let batch = Batch::new()
            .put(Space::Raft, PURGED, encode(&log_id).map_err(write_logs)?)
            .remove(Space::RaftLog, keys(&(..=log_id.index)));
        self.store().write(batch).await.map_err(write_logs)
    }
}

/// The control state, changed by agreed commands.
pub(crate) struct RaftMachine {
    store: Store,
    state: ControlState,
    last_applied: Option<LogId>,
    membership: StoredMembership,
    applied: watch::Sender<Applied>,
    /// Each plan that is put in force, for whoever must not miss one.
    plans: Option<broadcast::Sender<Arc<Plan>>>,
    /// Held by whoever replaces the snapshot, so that an older one never replaces a newer one.
    replacing: Arc<tokio::sync::Mutex<()>>,
}

/// A snapshot as it is kept.
#[derive(Serialize, Deserialize)]
struct Kept {
    meta: SnapshotMeta<u64, Seat>,
    #[serde(with = "serde_bytes")]
    data: Vec<u8>,
}

impl RaftMachine {
    /// The machine as the store's last snapshot has it.
    pub(crate) fn open(store: Store, applied: watch::Sender<Applied>) -> Result<Self, StorageError> {
        let mut machine = Self {
            store,
            state: ControlState::default(),
            last_applied: None,
            membership: StoredMembership::default(),
            applied,
            plans: None,
            replacing: Arc::default(),
        };
        if let Some(kept) = kept_snapshot(&machine.store)? {
            let state = decode(&kept.data).map_err(read_machine)?;
            machine.replace(state, &kept.meta);
        }
        Ok(machine)
    }

    /// The same, which also tells each plan that it puts in force.
    pub(crate) fn telling(self, plans: broadcast::Sender<Arc<Plan>>) -> Self {
        Self { plans: Some(plans), ..self }
    }

    fn replace(&mut self, state: ControlState, meta: &SnapshotMeta<u64, Seat>) {
        self.state = state;
        self.last_applied = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        self.publish();
    }

    fn publish(&self) {
        let applied = Applied { state: Arc::new(self.state.clone()), last: self.last_applied };
        // A run before this one in the same process may have shown more than the last snapshot has.
        self.applied.send_if_modified(|shown| {
            let newer = shown.last < applied.last;
            if newer {
                *shown = applied;
            }
            newer
        });
    }
}

impl RaftStateMachine<TypeConfig> for RaftMachine {
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), StorageError> {
        Ok((self.last_applied, self.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<Outcome>, StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut outcomes = Vec::new();
        for entry in entries {
            self.last_applied = Some(entry.log_id);
            if let EntryPayload::Membership(membership) = &entry.payload {
                self.membership = StoredMembership::new(Some(entry.log_id), membership.clone());
            }
            let outcome = command_of(&entry).map_or(Outcome::Nothing, |command| self.state.apply(command));
            if matches!(outcome, Outcome::Published { .. })
                && let (Some(plans), Some(plan)) = (&self.plans, &self.state.snapshot)
            {
                // Nobody may be listening.
                let _ = plans.send(Arc::clone(plan));
            }
            outcomes.push(outcome);
        }
        self.publish();
        Ok(outcomes)
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        SnapshotBuilder {
            store: self.store.clone(),
            state: self.state.clone(),
            last_log_id: self.last_applied,
            last_membership: self.membership.clone(),
            replacing: Arc::clone(&self.replacing),
        }
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<Cursor<Vec<u8>>>, StorageError> {
        Ok(Box::default())
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta<u64, Seat>,
        snapshot: Box<Cursor<Vec<u8>>>,
    ) -> Result<(), StorageError> {
        let kept = Kept { meta: meta.clone(), data: snapshot.into_inner() };
        let state = decode(&kept.data).map_err(read_machine)?;
        let replacing = self.replacing.lock().await;
        keep_snapshot(&self.store, &kept).await?;
        drop(replacing);
        self.replace(state, meta);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<TypeConfig>>, StorageError> {
        Ok(kept_snapshot(&self.store)?.map(Kept::into_snapshot))
    }
}

/// Makes a snapshot of the control state as it was when the builder was asked for.
pub(crate) struct SnapshotBuilder {
    store: Store,
    state: ControlState,
    last_log_id: Option<LogId>,
    last_membership: StoredMembership,
    replacing: Arc<tokio::sync::Mutex<()>>,
}

impl RaftSnapshotBuilder<TypeConfig> for SnapshotBuilder {
    async fn build_snapshot(&mut self) -> Result<Snapshot<TypeConfig>, StorageError> {
        let _replacing = self.replacing.lock().await;
        if let Some(newer) =
            kept_snapshot(&self.store)?.filter(|kept| kept.meta.last_log_id > self.last_log_id)
        {
            // A leader's snapshot came in the meantime; entries that ours lacks may be purged already.
            return Ok(newer.into_snapshot());
        }
        let index = self.last_log_id.map_or(0, |last| last.index);
        let meta = SnapshotMeta {
            last_log_id: self.last_log_id,
            last_membership: self.last_membership.clone(),
            snapshot_id: format!("{index}-{:016x}", crate::clock::draw()),
        };
        let kept = Kept { meta, data: encode(&self.state).map_err(write_machine)?.to_vec() };
        keep_snapshot(&self.store, &kept).await?;
        Ok(kept.into_snapshot())
    }
}

impl Kept {
    fn into_snapshot(self) -> Snapshot<TypeConfig> {
        Snapshot { meta: self.meta, snapshot: Box::new(Cursor::new(self.data)) }
    }
}

fn kept_snapshot(store: &Store) -> Result<Option<Kept>, StorageError> {
    let Some(bytes) = store.read(Space::Raft, SNAPSHOT).map_err(read_machine)? else { return Ok(None) };
    decode(&bytes).map(Some).map_err(read_machine)
}

async fn keep_snapshot(store: &Store, kept: &Kept) -> Result<(), StorageError> {
    let batch = Batch::new().put(Space::Raft, SNAPSHOT, encode(kept).map_err(write_machine)?);
    store.write(batch).await.map_err(write_machine)
}

fn key(index: u64) -> [u8; 8] {
    index.to_be_bytes()
}

/// The keys of a range of indices. An entry with the largest index of all will never be.
fn keys(range: &impl RangeBounds<u64>) -> Range<Vec<u8>> {
    let start = match range.start_bound() {
        Bound::Included(start) => *start,
        Bound::Excluded(before) => before.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(last) => last.saturating_add(1),
        Bound::Excluded(end) => *end,
        Bound::Unbounded => u64::MAX,
    };
    key(start).to_vec()..key(end).to_vec()
}

fn encode<T: Serialize>(value: &T) -> Result<Bytes, bincode::Error> {
    codec::try_pack(value, codec::FRAME_LEN_MAX)
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, codec::DecodeError> {
    codec::decode(bytes, usize::MAX)
}

fn any<E: std::error::Error + 'static>(error: &E) -> AnyError {
    AnyError::new(error)
}

fn read_logs<E: std::error::Error + 'static>(error: E) -> StorageError {
    StorageIOError::read_logs(any(&error)).into()
}

fn write_logs<E: std::error::Error + 'static>(error: E) -> StorageError {
    StorageIOError::write_logs(any(&error)).into()
}

fn read_machine<E: std::error::Error + 'static>(error: E) -> StorageError {
    StorageIOError::read_state_machine(any(&error)).into()
}

fn write_machine<E: std::error::Error + 'static>(error: E) -> StorageError {
    StorageIOError::write_state_machine(any(&error)).into()
}

#[cfg(test)]
mod tests;
