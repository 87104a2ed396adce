//! What the store keeps, what it refuses, and what it says then.

use std::os::unix::fs::PermissionsExt;

use proptest::prelude::*;

use super::*;

fn name() -> NodeName {
    NodeName::new("n1").unwrap()
}

fn open(dir: &Path) -> Result<Store, StoreError> {
    Store::open(dir, &name(), &Clock::system())
}

fn put(key: u8, value: &'static [u8]) -> Batch {
    Batch::new().put(Space::RaftLog, &[key], Bytes::from_static(value))
}

fn all(store: &Store) -> Vec<(Vec<u8>, Bytes)> {
    store.scan(Space::RaftLog, vec![]..vec![0xff; 9], usize::MAX).unwrap()
}

#[tokio::test]
async fn a_life_goes_on_over_crashes_and_restarts_and_a_boot_never_does() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).unwrap();
    let (life, first) = (store.life(), store.boot());
    assert_eq!(store.previous(), Previous::None);
    store.write(put(1, b"promised")).await.unwrap();
    drop(store);
    let store = reopen(dir.path()).await;
    assert_eq!((store.life(), store.previous()), (life, Previous::Crashed));
    assert!(store.boot() > first);
    assert_eq!(all(&store), [(vec![1], Bytes::from_static(b"promised"))]);
    store.close().await.unwrap();
    assert!(matches!(store.write(put(2, b"late")).await, Err(StoreError::Closed)));
    assert!(matches!(store.read(Space::RaftLog, &[1]), Err(StoreError::Closed)));
    let store = open(dir.path()).unwrap();
    assert_eq!((store.life(), store.previous()), (life, Previous::Clean));
    drop(store);
    std::fs::remove_file(dir.path().join(FILE_NAME)).unwrap();
    assert_ne!(reopen(dir.path()).await.life(), life, "bytes that are gone are a new life");
    assert_ne!(
        Store::memory(&name(), &Clock::system()).life(),
        Store::memory(&name(), &Clock::system()).life()
    );
}

/// A store that was dropped and not closed lets go of its file a moment later.
async fn reopen(dir: &Path) -> Store {
    for _ in 0..1000 {
        match open(dir) {
            Err(StoreError::Locked { .. }) => tokio::time::sleep(std::time::Duration::from_millis(5)).await,
            other => return other.unwrap(),
        }
    }
    panic!("the file stayed locked");
}

#[tokio::test]
async fn many_writers_share_transactions_and_none_is_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).unwrap();
    let writes = (0..200_u8).map(|key| {
        let store = store.clone();
        tokio::spawn(async move { store.write(put(key, b"x")).await })
    });
    for write in writes.collect::<Vec<_>>() {
        write.await.unwrap().unwrap();
    }
    assert_eq!(all(&store).len(), 200);
    store.close().await.unwrap();
    assert_eq!(all(&open(dir.path()).unwrap()).len(), 200);
}

#[tokio::test]
async fn what_is_written_soon_is_there_after_a_clean_stop() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).unwrap();
    store.write_soon(put(1, b"soon"));
    store.close().await.unwrap();
    assert_eq!(all(&open(dir.path()).unwrap()).len(), 1);
}

#[tokio::test]
async fn a_file_is_opened_once_and_by_its_own_node() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).unwrap();
    let error = open(dir.path()).unwrap_err();
    assert!(matches!(error, StoreError::Locked { .. }), "{error}");
    assert!(error.to_string().contains(&dir.path().display().to_string()));
    store.close().await.unwrap();
    let other = NodeName::new("n2").unwrap();
    let error = Store::open(dir.path(), &other, &Clock::system()).unwrap_err();
    assert!(matches!(error, StoreError::OtherNode { .. }), "{error}");
}

#[test]
fn a_directory_that_may_not_be_used_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a file");
    std::fs::write(&file, b"x").unwrap();
    let error = open(&file).unwrap_err();
    assert!(error.to_string().contains("a file"), "{error}");
    let closed = dir.path().join("closed");
    std::fs::create_dir(&closed).unwrap();
    std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(0o500)).unwrap();
    // Whoever may do everything is refused nothing.
    if let Err(error) = open(&closed) {
        assert!(matches!(error, StoreError::Permission { .. }), "{error}");
    }
    std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(0o700)).unwrap();
}

#[test]
fn a_file_that_is_none_of_ours_is_refused_and_left_alone() {
    for bytes in [b"hello, this is a letter".to_vec(), vec![0; 4096], vec![0xff; 100_000]] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE_NAME);
        std::fs::write(&path, &bytes).unwrap();
        let error = open(dir.path()).unwrap_err();
        assert!(matches!(error, StoreError::Damaged { .. }), "{error:?}");
        assert_eq!(std::fs::read(&path).unwrap(), bytes);
    }
}

/// A file with a hundred records, closed in good order.
async fn written(dir: &Path) -> Vec<(Vec<u8>, Bytes)> {
    let store = open(dir).unwrap();
    for key in 0..100_u8 {
        let value = Bytes::from(vec![key; 300]);
        store.write(Batch::new().put(Space::RaftLog, &[key], value)).await.unwrap();
    }
    let records = all(&store);
    store.close().await.unwrap();
    records
}

#[tokio::test]
async fn a_torn_file_is_found_out() {
    let whole = tempfile::tempdir().unwrap();
    let records = written(whole.path()).await;
    let bytes = std::fs::read(whole.path().join(FILE_NAME)).unwrap();
    for len in [bytes.len() - 1, bytes.len() / 2, bytes.len() / 4, 4096, 600, 100] {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(FILE_NAME), &bytes[..len]).unwrap();
        // Whatever still opens must still answer with what was written, or say that it cannot.
        let Ok(store) = open(dir.path()) else { continue };
        match store.scan(Space::RaftLog, vec![]..vec![0xff; 9], usize::MAX) {
            Ok(found) => assert_eq!(found, records, "torn at {len}"),
            Err(error) => assert!(matches!(error, StoreError::Damaged { .. } | StoreError::Failed { .. })),
        }
    }
}

#[tokio::test]
async fn a_byte_that_the_disk_changed_is_found_out() {
    let whole = tempfile::tempdir().unwrap();
    let records = written(whole.path()).await;
    let bytes = std::fs::read(whole.path().join(FILE_NAME)).unwrap();
    // Strike in the midst of a value, wherever the file holds it: the newest page has it, and older ones may.
    let mut struck = 0;
    for key in (9..100_u8).step_by(9) {
        let holds = |at: &usize| bytes[*at..].iter().take(100).all(|byte| *byte == key);
        let places: Vec<usize> = (0..bytes.len() - 100).step_by(100).filter(holds).collect();
        for at in places.into_iter().rev().take(6) {
            let dir = tempfile::tempdir().unwrap();
            let mut changed = bytes.clone();
            changed[at + 50] ^= 0x40;
            std::fs::write(dir.path().join(FILE_NAME), &changed).unwrap();
            struck += 1;
            let Ok(store) = open(dir.path()) else { continue };
            match store.read(Space::RaftLog, &[key]) {
                Ok(value) => {
                    assert_eq!(value, Some(records[key as usize].1.clone()), "an old page was struck");
                }
                Err(error) => assert!(matches!(error, StoreError::Damaged { .. }), "{error}"),
            }
        }
    }
    assert!(struck > 10);
}

/// A hundred records in a file as the disk has it when the process is killed, and the same file with one byte changed, once
/// for each place where a value lies.
async fn struck(opened: Result<Store, StoreError>) -> (Vec<(Vec<u8>, Bytes)>, Vec<Vec<u8>>) {
    let store = opened.unwrap();
    for key in 0..100_u8 {
        let value = Bytes::from(vec![key; 300]);
        store.write(Batch::new().put(Space::RaftLog, &[key], value)).await.unwrap();
    }
    let bytes = std::fs::read(store.path().unwrap()).unwrap();
    let mut all_struck = Vec::new();
    for key in (9..100_u8).step_by(9).chain([98, 99]) {
        let holds = |at: &usize| bytes[*at..].iter().take(100).all(|byte| *byte == key);
        for at in (0..bytes.len() - 100).step_by(100).filter(holds) {
            let mut changed = bytes.clone();
            changed[at + 50] ^= 0x40;
            all_struck.push(changed);
        }
    }
    (all(&store), all_struck)
}

#[tokio::test]
async fn what_was_promised_is_never_missing_unnoticed_where_the_disk_changed_a_byte_after_a_crash() {
    let dir = tempfile::tempdir().unwrap();
    let open = |dir: &Path| Store::open_copies(dir, &name(), &Clock::system());
    let (records, struck) = struck(open(dir.path())).await;
    let (mut torn, mut refused, mut whole) = (0, 0, 0);
    for (number, bytes) in struck.into_iter().enumerate() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(COPIES_FILE_NAME), bytes).unwrap();
        let Ok(store) = open(dir.path()) else {
            refused += 1;
            continue;
        };
        match store.previous() {
            Previous::RolledBack => torn += 1,
            Previous::Crashed => {
                assert_eq!(all(&store), records, "struck for the {number}th time");
                whole += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(torn > 0 && refused > 0 && whole > 0, "{torn} {refused} {whole}");
}

#[tokio::test]
async fn votes_are_never_taken_back_but_refused_and_their_file_stays_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let (records, struck) = struck(open(dir.path())).await;
    let (mut refused, mut whole) = (0, 0);
    for (number, bytes) in struck.into_iter().enumerate() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE_NAME);
        std::fs::write(&path, &bytes).unwrap();
        match open(dir.path()) {
            Ok(store) => {
                assert_eq!(store.previous(), Previous::Crashed);
                assert_eq!(all(&store), records, "struck for the {number}th time");
                whole += 1;
            }
            Err(error) => {
                assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
                // Whoever looks again finds the same, and not an older state that looks whole.
                assert!(matches!(open(dir.path()), Err(StoreError::Damaged { .. })));
                refused += 1;
            }
        }
    }
    assert!(refused > 0 && whole > 0, "{refused} {whole}");
}

#[tokio::test]
async fn a_file_whose_newest_state_is_torn_is_not_taken_back_by_whoever_reads_votes_in_it() {
    let dir = tempfile::tempdir().unwrap();
    // One that was written in one phase.
    let in_one =
        |dir: &Path| Store::open_with(dir, FILE_NAME, Commits::InOnePhase, &name(), &Clock::system());
    let (_, struck) = struck(in_one(dir.path())).await;
    let mut torn = 0;
    for bytes in struck {
        let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        for dir in &dirs {
            std::fs::write(dir.path().join(FILE_NAME), &bytes).unwrap();
        }
        let Ok(Previous::RolledBack) = in_one(dirs[0].path()).map(|store| store.previous()) else { continue };
        torn += 1;
        assert!(matches!(open(dirs[1].path()), Err(StoreError::Damaged { .. })));
        assert_eq!(std::fs::read(dirs[1].path().join(FILE_NAME)).unwrap(), bytes, "nothing was changed");
    }
    assert!(torn > 0);
}

#[tokio::test]
async fn every_record_is_looked_at_when_all_are() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).unwrap();
    for key in 0..5_u8 {
        let value = Bytes::from(vec![key; CHECKED_AT_ONCE / 2]);
        store.write(Batch::new().put(Space::RaftLog, &[key], value)).await.unwrap();
    }
    store.check(Space::RaftLog).unwrap();
    store.close().await.unwrap();
    let path = dir.path().join(FILE_NAME);
    let mut bytes = std::fs::read(&path).unwrap();
    let at = bytes.windows(1000).position(|run| run.iter().all(|byte| *byte == 3)).unwrap();
    bytes[at + 500] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let error = open(dir.path()).unwrap().check(Space::RaftLog).unwrap_err();
    assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
}

#[derive(Clone, Debug)]
enum Step {
    Put(u8, u8),
    Remove(u8, u8),
}

fn steps() -> impl Strategy<Value = Vec<Vec<Step>>> {
    let step = prop_oneof![
        3 => (0_u8..20, any::<u8>()).prop_map(|(key, value)| Step::Put(key, value)),
        1 => (0_u8..20, 0_u8..20).prop_map(|(from, to)| Step::Remove(from, to)),
    ];
    proptest::collection::vec(proptest::collection::vec(step, 0..6), 0..12)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn disk_and_memory_tell_the_same_story(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let dir = tempfile::tempdir().unwrap();
            let (disk, memory) = (open(dir.path()).unwrap(), Store::memory(&name(), &Clock::system()));
            for batch in steps {
                let fill = |batch: Batch, step: &Step| match step {
                    Step::Put(key, value) => batch.put(Space::RaftLog, &[*key], Bytes::from(vec![*value; 3])),
                    Step::Remove(from, to) => batch.remove(Space::RaftLog, vec![*from]..vec![*to]),
                };
                let batch = batch.iter().fold(Batch::new(), fill);
                memory.write(batch.clone()).await.unwrap();
                disk.write(batch).await.unwrap();
                assert_eq!(all(&disk), all(&memory));
                assert_eq!(disk.last(Space::RaftLog).unwrap(), memory.last(Space::RaftLog).unwrap());
                let few = |store: &Store| store.scan(Space::RaftLog, vec![3]..vec![12], 7).unwrap();
                assert_eq!(few(&disk), few(&memory));
                assert_eq!(disk.read(Space::RaftLog, &[5]).unwrap(), memory.read(Space::RaftLog, &[5]).unwrap());
                assert_eq!(disk.read(Space::Raft, &[5]).unwrap(), None);
            }
        });
    }
}
