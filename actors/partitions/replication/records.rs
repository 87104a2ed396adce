//! How one copy lies in the store: what it is, its log, and its state at one position of it.
//!
//! ```text
//!  Copies      partition                 ─▶ life, promise, mark, where log and state begin
//!  CopyLogs    partition · sequence      ─▶ entries one after the other, from that sequence on
//!  CopyStates  partition · number, chunk ─▶ part of a state; which number counts, the copy's record says
//! ```
//!
//! A record of the log holds what one write had. One that begins amid another's entries replaces what stands there and
//! behind: so a log that is cut is cut by the record that follows, or by the end that the copy's record names.

use std::collections::VecDeque;
use std::ops::Range;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};
use tumen_core::ids::{Epoch, GroupId, Life, PartitionId};
use tumen_core::partitions::fence::Fence;
use tumen_core::partitions::identity::Position;
use tumen_core::partitions::replication::{Acks, Body, CopyId, Entry, Saved, Write};

use crate::codec;
use crate::store::{Batch, Space, Store, StoreError};

/// The most bytes of one record, beside its first entry.
pub(super) const RECORD_LEN_MAX: usize = 256 << 10;
/// How much of a log is read at once.
const READ_LEN: usize = 4 << 20;
/// The most bytes of a copy's own record.
const COPY_LEN_MAX: usize = 64 << 10;
/// Marks an opening entry, where others have their length.
const OPENING: u32 = u32::MAX;

/// What a copy is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct CopyRecord {
    id: CopyId,
    former: Vec<Life>,
    /// Whether all that it ever said it had was on disk before.
    after_disk: bool,
    sealed: Fence,
    mark: u64,
    snapshot: Position,
    state: Option<StateRecord>,
    start: Position,
    end: u64,
}

/// Where the bytes of a state are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct StateRecord {
    /// Which of the states that were ever written for the partition.
    pub(super) number: u64,
    /// How many bytes it has.
    pub(super) len: u64,
}

/// Why a copy is not what was written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Damage {
    /// Bytes that nobody wrote.
    #[error("its record {0} was changed by the disk")]
    Changed(&'static str),
    /// Something is not there.
    #[error("part of its {0} is missing")]
    Missing(&'static str),
}

/// Why a copy was not read.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError {
    /// The disk lost it.
    #[error(transparent)]
    Damaged(#[from] Damage),
    /// The bytes are as they were written, but this program cannot read them.
    #[error("the copy of {0} on disk was written by another program: {1}")]
    Foreign(PartitionId, String),
    /// The disk failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What of a copy is in the store, or on its way there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Kept {
    /// Where each record of the log begins.
    firsts: VecDeque<u64>,
    /// The log's end.
    end: u64,
    /// The state that the copy's record names, and its position.
    state: Option<(Position, StateRecord)>,
    /// The state that the next write names, if it is of its snapshot.
    next: Option<(Position, StateRecord)>,
    /// Numbers of states that nobody needs.
    stale: Vec<u64>,
}

impl Kept {
    /// All bytes of a state at this position are in the store: the write that says so names it.
    pub(super) fn set_state(&mut self, position: Position, state: StateRecord) {
        let former = self.next.replace((position, state));
        self.stale.extend(former.map(|(_, state)| state.number));
    }

    /// Nobody will need the bytes of this state.
    pub(super) fn drop_state(&mut self, state: StateRecord) {
        self.stale.push(state.number);
    }

    /// The greatest number of a state.
    pub(super) fn newest(&self) -> u64 {
        let named = self.state.map(|(_, state)| state.number);
        self.stale.iter().copied().chain(named).max().unwrap_or(0)
    }

    /// How long the last state was.
    pub(super) fn state_len(&self) -> u64 {
        self.next.or(self.state).map_or(0, |(_, state)| state.len)
    }

    /// Puts one write of the law into a batch.
    pub(super) fn put(&mut self, partition: PartitionId, write: Write<Bytes>, mut batch: Batch) -> Batch {
        if write.truncate_after < self.end {
            let keys = log_key(partition, write.truncate_after + 1)..end_of(partition);
            batch = batch.remove(Space::CopyLogs, keys);
            while self.firsts.pop_back_if(|first| *first > write.truncate_after).is_some() {}
        }
        self.end = write.truncate_after;
        let mut record = BytesMut::new();
        let mut first = self.end + 1;
        for entry in &write.entries {
            if record.len() + entry.weight() > RECORD_LEN_MAX && !record.is_empty() {
                batch = self.put_log(partition, first, &mut record, batch);
                first = self.end + 1;
            }
            put_entry(&mut record, entry);
            self.end += 1;
        }
        if !record.is_empty() {
            batch = self.put_log(partition, first, &mut record, batch);
        }
        // What is before the log's start nobody needs, where the next record reaches back to it.
        let mut cut = false;
        while self.firsts.get(1).is_some_and(|second| *second <= write.start.sequence + 1) {
            self.firsts.pop_front();
            cut = true;
        }
        if let Some(first) = self.firsts.front().filter(|_| cut) {
            batch = batch.remove(Space::CopyLogs, log_key(partition, 0)..log_key(partition, *first));
        }
        if let Some(next) = self.next.take_if(|(position, _)| *position == write.snapshot) {
            let former = self.state.replace(next);
            self.stale.extend(former.map(|(_, state)| state.number));
        }
        for number in self.stale.drain(..) {
            batch = batch.remove(Space::CopyStates, states(partition, number));
        }
        let state = self.state.filter(|(position, _)| *position == write.snapshot).map(|(_, state)| state);
        debug_assert!(state.is_some() || write.snapshot == Position::ZERO, "a snapshot has bytes");
        let record = CopyRecord {
            id: write.id,
            former: write.former,
            after_disk: write.acks == Acks::AfterDisk,
            sealed: write.sealed,
            mark: write.mark,
            snapshot: write.snapshot,
            state,
            start: write.start,
            end: self.end,
        };
        batch.put(Space::Copies, &copy_key(partition), codec::encode(&record))
    }

    fn put_log(&mut self, partition: PartitionId, first: u64, record: &mut BytesMut, batch: Batch) -> Batch {
        self.firsts.push_back(first);
        batch.put(Space::CopyLogs, &log_key(partition, first), record.split().freeze())
    }
}

/// Forgets all of a copy.
pub(super) fn forget(partition: PartitionId, batch: Batch) -> Batch {
    let copy = copy_key(partition);
    let next = [&copy[..], &[0]].concat();
    batch
        .remove(Space::Copies, copy.to_vec()..next)
        .remove(Space::CopyLogs, log_key(partition, 0)..end_of(partition))
        .remove(Space::CopyStates, states(partition, 0).start..end_of(partition))
}

/// One part of a state.
pub(super) fn put_chunk(
    partition: PartitionId,
    number: u64,
    chunk: u32,
    bytes: Bytes,
    batch: Batch,
) -> Batch {
    batch.put(Space::CopyStates, &chunk_key(partition, number, chunk), bytes)
}

/// A copy as it was read back.
pub(super) struct Found {
    pub(super) saved: Saved<Bytes>,
    pub(super) acks: Acks,
    pub(super) kept: Kept,
    /// The state at the snapshot's position.
    pub(super) state: Option<Bytes>,
}

/// Reads one copy. `None`: nothing of it is there.
pub(super) fn read(store: &Store, partition: PartitionId) -> Result<Option<Found>, ReadError> {
    let key = copy_key(partition);
    let next = [&key[..], &[0]].concat();
    let found = store.scan_damaged(Space::Copies, key.to_vec()..next, usize::MAX)?;
    let record = match found.into_iter().next() {
        Some((_, Some(bytes))) => bytes,
        Some((_, None)) => return Err(Damage::Changed("of itself").into()),
        None => {
            let logs = log_key(partition, 0)..end_of(partition);
            let states = states(partition, 0).start..end_of(partition);
            let nothing = store.scan_damaged(Space::CopyLogs, logs, 0)?.is_empty()
                && store.scan_damaged(Space::CopyStates, states, 0)?.is_empty();
            return if nothing { Ok(None) } else { Err(Damage::Missing("records").into()) };
        }
    };
    let record: CopyRecord =
        codec::decode(&record, COPY_LEN_MAX).map_err(|why| ReadError::Foreign(partition, why.to_string()))?;
    let (entries, firsts) = read_log(store, partition, &record)?;
    let state = record.state.map(|state| read_state(store, partition, state)).transpose()?;
    if state.is_none() && record.snapshot != Position::ZERO {
        return Err(Damage::Missing("state").into());
    }
    let kept = Kept {
        firsts,
        end: record.end,
        state: record.state.map(|state| (record.snapshot, state)),
        next: None,
        stale: stale_states(store, partition, record.state)?,
    };
    let saved = Saved {
        id: record.id,
        former: record.former,
        sealed: record.sealed,
        mark: record.mark,
        snapshot: record.snapshot,
        start: record.start,
        entries,
    };
    let acks = if record.after_disk { Acks::AfterDisk } else { Acks::BeforeDisk };
    Ok(Some(Found { saved, acks, kept, state }))
}

/// All partitions of which anything is there.
pub(super) fn partitions(store: &Store) -> Result<Vec<PartitionId>, StoreError> {
    let mut all = Vec::new();
    for space in [Space::Copies, Space::CopyLogs, Space::CopyStates] {
        let mut from = Vec::new();
        loop {
            let found = store.scan_damaged(space, from..vec![u8::MAX; KEY_LEN], 0)?;
            let Some((key, _)) = found.into_iter().next() else { break };
            let partition = partition_of(&key);
            all.extend(partition);
            // A key that is none of ours is one that the disk changed.
            from = partition.map_or_else(|| [&key[..], &[0]].concat(), end_of);
        }
    }
    all.sort_unstable();
    all.dedup();
    Ok(all)
}

fn read_log(
    store: &Store,
    partition: PartitionId,
    record: &CopyRecord,
) -> Result<(Vec<Entry<Bytes>>, VecDeque<u64>), ReadError> {
    let start = record.start.sequence;
    let mut entries: Vec<Entry<Bytes>> = Vec::new();
    let mut firsts = VecDeque::new();
    let mut from = log_key(partition, 0);
    loop {
        let found = store.scan_damaged(Space::CopyLogs, from.clone()..end_of(partition), READ_LEN)?;
        let Some((last, _)) = found.last() else { break };
        from = [&last[..], &[0]].concat();
        for (key, bytes) in found {
            let mut bytes = bytes.ok_or(Damage::Changed("of its log"))?;
            let mut sequence = sequence_of(&key).ok_or(Damage::Changed("of its log"))?;
            let before = sequence.saturating_sub(1).saturating_sub(start);
            if before > entries.len() as u64 {
                return Err(Damage::Missing("log").into());
            }
            // It replaces what a former one has from there on.
            entries.truncate(usize::try_from(before).unwrap_or(usize::MAX));
            firsts.push_back(sequence);
            while bytes.has_remaining() {
                let foreign = || ReadError::Foreign(partition, "an entry of its log ends too early".into());
                let entry = take_entry(&mut bytes).ok_or_else(foreign)?;
                if sequence > start {
                    entries.push(entry);
                }
                sequence += 1;
            }
        }
    }
    let len = record.end.saturating_sub(start);
    if len > entries.len() as u64 {
        return Err(Damage::Missing("log").into());
    }
    entries.truncate(usize::try_from(len).unwrap_or(usize::MAX));
    Ok((entries, firsts))
}

fn read_state(store: &Store, partition: PartitionId, state: StateRecord) -> Result<Bytes, ReadError> {
    let len = usize::try_from(state.len).unwrap_or(usize::MAX);
    if len > codec::STATE_LEN_MAX {
        return Err(ReadError::Foreign(partition, format!("a state of {len} bytes")));
    }
    let mut bytes = BytesMut::with_capacity(len);
    let mut next = 0_u32;
    while bytes.len() < len {
        let keys = chunk_key(partition, state.number, next).to_vec()..states(partition, state.number).end;
        let found = store.scan_damaged(Space::CopyStates, keys, READ_LEN)?;
        if found.is_empty() {
            return Err(Damage::Missing("state").into());
        }
        for (key, chunk) in found {
            let chunk = chunk.ok_or(Damage::Changed("of its state"))?;
            if key != chunk_key(partition, state.number, next) || bytes.len() + chunk.len() > len {
                return Err(Damage::Missing("state").into());
            }
            bytes.put_slice(&chunk);
            next += 1;
        }
    }
    Ok(bytes.freeze())
}

/// States that were written, or begun, and never named.
fn stale_states(
    store: &Store,
    partition: PartitionId,
    named: Option<StateRecord>,
) -> Result<Vec<u64>, StoreError> {
    let mut stale = Vec::new();
    let mut from = states(partition, 0).start;
    loop {
        let found = store.scan_damaged(Space::CopyStates, from..end_of(partition), 0)?;
        let Some((key, _)) = found.into_iter().next() else { return Ok(stale) };
        let number = sequence_of(&key).unwrap_or(u64::MAX);
        if named.is_none_or(|named| named.number != number) {
            stale.push(number);
        }
        if number == u64::MAX {
            return Ok(stale);
        }
        from = states(partition, number).end;
    }
}

const KEY_LEN: usize = 5;

fn copy_key(partition: PartitionId) -> [u8; KEY_LEN] {
    let group = match partition.group {
        GroupId::Users => 0,
        GroupId::Names => 1,
    };
    let [a, b, c, d] = partition.index.to_be_bytes();
    [group, a, b, c, d]
}

fn partition_of(key: &[u8]) -> Option<PartitionId> {
    let (group, rest) = key.split_first()?;
    let group = match group {
        0 => GroupId::Users,
        1 => GroupId::Names,
        _ => return None,
    };
    let (index, _) = rest.split_first_chunk()?;
    Some(PartitionId { group, index: u32::from_be_bytes(*index) })
}

/// Behind all keys that begin with the partition's.
fn end_of(partition: PartitionId) -> Vec<u8> {
    let mut key = copy_key(partition).to_vec();
    key.extend([u8::MAX; 13]);
    key
}

fn log_key(partition: PartitionId, first: u64) -> Vec<u8> {
    [&copy_key(partition)[..], &first.to_be_bytes()].concat()
}

fn sequence_of(key: &[u8]) -> Option<u64> {
    let (sequence, _) = key.get(KEY_LEN..)?.split_first_chunk()?;
    Some(u64::from_be_bytes(*sequence))
}

fn chunk_key(partition: PartitionId, number: u64, chunk: u32) -> Vec<u8> {
    [&log_key(partition, number)[..], &chunk.to_be_bytes()].concat()
}

/// The keys of one state's chunks.
fn states(partition: PartitionId, number: u64) -> Range<Vec<u8>> {
    chunk_key(partition, number, 0)..chunk_key(partition, number.saturating_add(1), 0)
}

pub(super) fn put_entry(record: &mut BytesMut, entry: &Entry<Bytes>) {
    record.put_u64_le(entry.epoch.0);
    match &entry.body {
        Body::Opening => record.put_u32_le(OPENING),
        Body::Data(data) => {
            record.put_u32_le(u32::try_from(data.len()).expect("entries are shorter than frames"));
            record.put_slice(data);
        }
    }
}

pub(super) fn take_entry(record: &mut Bytes) -> Option<Entry<Bytes>> {
    let epoch = Epoch(record.try_get_u64_le().ok()?);
    let body = match record.try_get_u32_le().ok()? {
        OPENING => Body::Opening,
        len => {
            let len = len as usize;
            (len <= record.len()).then_some(())?;
            Body::Data(record.split_to(len))
        }
    };
    Some(Entry { epoch, body })
}

#[cfg(test)]
mod tests;
