//! What is written is what is read back; or it is said that it is not.

use std::path::Path;

use proptest::prelude::*;
use tumen_core::Moment;
use tumen_core::ids::{Generation, NodeName};
use tumen_core::partitions::replication::wire::{Request, SnapshotHeader};
use tumen_core::partitions::replication::{Config, LocalCopy};

use super::*;
use crate::clock::Clock;

const PARTITION: PartitionId = PartitionId::user(7);
const LIFE: Life = Life(1);

fn name() -> NodeName {
    NodeName::new("n1").unwrap()
}

fn copy() -> LocalCopy<Bytes> {
    LocalCopy::new(PARTITION, CopyId { node: name(), life: LIFE }, Acks::AfterDisk)
}

fn fence(epoch: u64) -> Fence {
    Fence { generation: Generation::ZERO, epoch: Epoch(epoch), partition: PARTITION }
}

fn entry(epoch: u64, byte: u8, len: usize) -> Entry<Bytes> {
    let body = if len == 0 { Body::Opening } else { Body::Data(Bytes::from(vec![byte; len])) };
    Entry { epoch: Epoch(epoch), body }
}

/// What may happen to a copy.
#[derive(Clone, Debug)]
enum Step {
    /// The primary sends entries that follow what stands so far from the copy's end.
    Append { back: u64, entries: Vec<(u8, usize)>, marks: u64 },
    /// Another primary takes over.
    NextEpoch,
    /// The state at the mark is written.
    Save { keep: u64 },
    /// A state beyond the log comes whole.
    Install { ahead: u64 },
    /// What waits is written.
    Write,
}

fn step() -> impl Strategy<Value = Step> {
    let lens = prop_oneof![8 => 1_usize..200, 1 => Just(0), 1 => Just(100_000)];
    let entries = proptest::collection::vec((any::<u8>(), lens), 0..6);
    prop_oneof![
        6 => (0_u64..4, entries, 0_u64..8).prop_map(|(back, entries, marks)| Step::Append { back, entries, marks }),
        1 => Just(Step::NextEpoch),
        1 => (0_u64..4).prop_map(|keep| Step::Save { keep }),
        1 => (1_u64..4).prop_map(|ahead| Step::Install { ahead }),
        4 => Just(Step::Write),
    ]
}

/// Takes the next write of the copy to the store, and says what it has to look like there from now on.
fn write(store: &Store, copy: &mut LocalCopy<Bytes>, kept: &mut Kept) -> Option<Saved<Bytes>> {
    let write = copy.take_write()?;
    let saved = Saved {
        id: write.id.clone(),
        former: write.former.clone(),
        sealed: write.sealed,
        mark: write.mark,
        snapshot: write.snapshot,
        start: write.start,
        entries: copy.entries().cloned().collect(),
    };
    store.write_blocking(&kept.put(PARTITION, write, Batch::new())).unwrap();
    Some(saved)
}

fn put_state(store: &Store, number: u64, bytes: &Bytes) -> StateRecord {
    let mut batch = Batch::new();
    for (chunk, at) in (0..bytes.len()).step_by(100).enumerate() {
        let part = bytes.slice(at..bytes.len().min(at + 100));
        batch = put_chunk(PARTITION, number, u32::try_from(chunk).unwrap(), part, batch);
    }
    store.write_blocking(&batch).unwrap();
    StateRecord { number, len: bytes.len() as u64 }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_copy_is_read_back_as_it_was_when_it_was_last_written(
        steps in proptest::collection::vec(step(), 1..60),
    ) {
        let store = Store::memory(&name(), &Clock::system());
        let (mut copy, mut kept, mut epoch, mut number) = (copy(), Kept::default(), 1, 0);
        let (mut wanted, mut state) = (None, None::<Bytes>);
        let config = Config::default();
        for step in steps {
            match step {
                Step::Append { back, entries, marks } => {
                    let prev = copy.last().sequence.saturating_sub(back).max(copy.mark_position().sequence);
                    let prev = match copy.entry(prev) {
                        Some(entry) => Position::new(entry.epoch, prev),
                        None => copy.start(),
                    };
                    let entries = entries.into_iter().map(|(byte, len)| entry(epoch, byte, len)).collect();
                    let mark = copy.mark_position().sequence + marks;
                    let request =
                        Request::Append { fence: fence(epoch), to: LIFE, counts: Some(LIFE), prev, entries, mark };
                    copy.handle_request(Moment::ZERO, &config, request);
                }
                Step::NextEpoch => epoch += 1,
                Step::Save { keep } => {
                    let bytes = Bytes::from(vec![number as u8; 250]);
                    number += 1;
                    let record = put_state(&store, number, &bytes);
                    let position = copy.mark_position();
                    if copy.handle_snapshot_saved(position, keep) {
                        kept.set_state(position, record);
                        state = Some(bytes);
                    } else {
                        kept.drop_state(record);
                    }
                }
                Step::Install { ahead } => {
                    let bytes = Bytes::from(vec![number as u8; 50]);
                    number += 1;
                    let record = put_state(&store, number, &bytes);
                    let position = Position::new(Epoch(epoch), copy.last().sequence + ahead);
                    let header = SnapshotHeader { fence: fence(epoch), to: LIFE, counts: Some(LIFE), position };
                    if copy.handle_snapshot(header).0 {
                        kept.set_state(position, record);
                        state = Some(bytes);
                    } else {
                        kept.drop_state(record);
                    }
                }
                Step::Write => {
                    if let Some(saved) = write(&store, &mut copy, &mut kept) {
                        wanted = Some((saved, state.clone()));
                    }
                    let Some((saved, state)) = &wanted else { continue };
                    let found = read(&store, PARTITION).unwrap().unwrap();
                    prop_assert_eq!(&found.saved, saved);
                    prop_assert_eq!(&found.state, state);
                    prop_assert_eq!(&found.kept.firsts, &kept.firsts);
                    prop_assert_eq!(found.kept.end, kept.end);
                    prop_assert_eq!(partitions(&store).unwrap(), [PARTITION]);
                }
            }
        }
        store.write_blocking(&forget(PARTITION, Batch::new())).unwrap();
        prop_assert!(read(&store, PARTITION).unwrap().is_none());
        prop_assert_eq!(partitions(&store).unwrap(), []);
    }
}

/// A file with one copy: a state in chunks, and a log in several records.
fn written(dir: &Path) -> Saved<Bytes> {
    let store = open(dir).unwrap();
    let (mut copy, mut kept) = (copy(), Kept::default());
    let config = Config::default();
    for sequence in 1..40_u8 {
        let last = copy.last();
        let entries = vec![entry(1, sequence, 300)];
        let mark = u64::from(sequence);
        let request =
            Request::Append { fence: fence(1), to: LIFE, counts: Some(LIFE), prev: last, entries, mark };
        copy.handle_request(Moment::ZERO, &config, request);
        if sequence == 20 {
            kept.set_state(copy.mark_position(), put_state(&store, 1, &Bytes::from(vec![200; 1000])));
            assert!(copy.handle_snapshot_saved(copy.mark_position(), 5));
        }
        write(&store, &mut copy, &mut kept).unwrap();
    }
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(store.close()).unwrap();
    let store = open(dir).unwrap();
    let found = read(&store, PARTITION).unwrap().unwrap();
    runtime.block_on(store.close()).unwrap();
    found.saved
}

fn open(dir: &Path) -> Result<Store, StoreError> {
    Store::open_copies(dir, &name(), &Clock::system())
}

#[test]
fn a_copy_with_a_byte_that_the_disk_changed_is_never_taken_for_whole() {
    let whole = tempfile::tempdir().unwrap();
    let saved = written(whole.path());
    assert_eq!((saved.start.sequence, saved.entries.len(), saved.snapshot.sequence), (15, 24, 20));
    let bytes = std::fs::read(whole.path().join(crate::store::COPIES_FILE_NAME)).unwrap();
    let mut told = 0;
    // In every entry and in the state, wherever the file holds them: the newest page has them, and older ones may.
    for byte in (16..40_u8).chain([200]) {
        let holds = |at: &usize| bytes[*at..].iter().take(80).all(|here| *here == byte);
        let places: Vec<usize> = (0..bytes.len() - 80).step_by(80).filter(holds).collect();
        for at in places.into_iter().rev().take(2) {
            let dir = tempfile::tempdir().unwrap();
            let mut changed = bytes.clone();
            changed[at + 40] ^= 0x10;
            std::fs::write(dir.path().join(crate::store::COPIES_FILE_NAME), &changed).unwrap();
            let Ok(store) = open(dir.path()) else { continue };
            match read(&store, PARTITION) {
                Ok(found) => assert_eq!(found.unwrap().saved, saved, "a page that counts no more was struck"),
                Err(ReadError::Damaged(_)) => told += 1,
                Err(other) => panic!("{other}"),
            }
        }
    }
    assert!(told >= 20, "{told}");
}

#[test]
fn a_copy_of_which_something_is_missing_is_never_taken_for_whole() {
    let missing: [(Space, Range<Vec<u8>>); 4] = [
        (Space::CopyLogs, log_key(PARTITION, 22)..log_key(PARTITION, 23)),
        (Space::CopyLogs, log_key(PARTITION, 39)..end_of(PARTITION)),
        (Space::CopyStates, chunk_key(PARTITION, 1, 3)..chunk_key(PARTITION, 1, 4)),
        (Space::Copies, copy_key(PARTITION).to_vec()..end_of(PARTITION)),
    ];
    for (space, keys) in missing {
        let dir = tempfile::tempdir().unwrap();
        written(dir.path());
        let store = open(dir.path()).unwrap();
        assert!(read(&store, PARTITION).unwrap().is_some());
        store.write_blocking(&Batch::new().remove(space, keys)).unwrap();
        assert!(matches!(read(&store, PARTITION), Err(ReadError::Damaged(Damage::Missing(_)))), "{space:?}");
    }
}
