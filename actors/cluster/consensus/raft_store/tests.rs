//! openraft's own conformance suite, on disk and in memory; and what it does not ask.

use openraft::testing::{StoreBuilder, Suite};
use openraft::{CommittedLeaderId, Membership};
use tempfile::TempDir;
use tumen_core::cluster::control::Command;
use tumen_core::ids::NodeName;

use super::*;
use crate::clock::Clock;

struct OnDisk;
struct InMemory;

async fn parts(store: &Store) -> (RaftLog, RaftMachine) {
    let log = RaftLog::new(store.clone(), Arc::default()).await;
    let machine = RaftMachine::open(store.clone(), watch::channel(Applied::default()).0).unwrap();
    (log, machine)
}

fn on_disk(dir: &TempDir) -> Store {
    Store::open(dir.path(), &NodeName::new("n1").unwrap(), &Clock::system()).unwrap()
}

fn in_memory() -> Store {
    Store::memory(&NodeName::new("n1").unwrap(), &Clock::system())
}

impl StoreBuilder<TypeConfig, RaftLog, RaftMachine, TempDir> for OnDisk {
    async fn build(&self) -> Result<(TempDir, RaftLog, RaftMachine), StorageError> {
        let dir = tempfile::tempdir().unwrap();
        let (log, machine) = parts(&on_disk(&dir)).await;
        Ok((dir, log, machine))
    }
}

impl StoreBuilder<TypeConfig, RaftLog, RaftMachine, ()> for InMemory {
    async fn build(&self) -> Result<((), RaftLog, RaftMachine), StorageError> {
        let (log, machine) = parts(&in_memory()).await;
        Ok(((), log, machine))
    }
}

#[test]
fn openrafts_suite_passes_on_disk() {
    Suite::test_all(OnDisk).unwrap();
}

#[test]
fn openrafts_suite_passes_in_memory() {
    Suite::test_all(InMemory).unwrap();
}

fn blank(term: u64, index: u64) -> Entry {
    Entry { log_id: LogId::new(CommittedLeaderId::new(term, 7), index), payload: EntryPayload::Blank }
}

#[tokio::test]
async fn the_snapshot_and_the_vote_are_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let store = on_disk(&dir);
    let (mut log, mut machine) = parts(&store).await;
    log.save_vote(&Vote::new(3, 9)).await.unwrap();
    let members = Membership::new(vec![[7].into()], None);
    let entry = Entry { payload: EntryPayload::Membership(members.clone()), ..blank(1, 1) };
    machine.apply([blank(1, 0), entry]).await.unwrap();
    let built = machine.get_snapshot_builder().await.build_snapshot().await.unwrap();
    store.close().await.unwrap();
    drop((log, machine, store));
    let (mut log, mut machine) = parts(&on_disk(&dir)).await;
    assert_eq!(log.read_vote().await.unwrap(), Some(Vote::new(3, 9)));
    let (last, membership) = machine.applied_state().await.unwrap();
    assert_eq!(last, built.meta.last_log_id);
    assert_eq!(membership.membership(), &members);
    assert_eq!(machine.get_current_snapshot().await.unwrap().unwrap().meta, built.meta);
}

#[tokio::test]
async fn an_older_snapshot_never_replaces_a_newer_one() {
    let (_, mut machine) = parts(&in_memory()).await;
    machine.apply([blank(1, 0)]).await.unwrap();
    let mut old = machine.get_snapshot_builder().await;
    machine.apply([blank(1, 1)]).await.unwrap();
    let newer = machine.get_snapshot_builder().await.build_snapshot().await.unwrap();
    assert_eq!(old.build_snapshot().await.unwrap().meta, newer.meta);
    assert_eq!(machine.get_current_snapshot().await.unwrap().unwrap().meta, newer.meta);
}

#[tokio::test]
async fn a_leader_that_restarts_has_to_be_elected_again() {
    let store = in_memory();
    let (mut log, _) = parts(&store).await;
    let life = store.life().0;
    log.save_vote(&Vote::new_committed(4, life)).await.unwrap();
    log.give_up_leadership().await.unwrap();
    assert_eq!(log.read_vote().await.unwrap(), Some(Vote::new(5, life)));
    let others = Vote::new_committed(6, life ^ 1);
    log.save_vote(&others).await.unwrap();
    log.give_up_leadership().await.unwrap();
    assert_eq!(log.read_vote().await.unwrap(), Some(others));
}

#[tokio::test]
async fn only_one_works_as_a_life_s_voter_at_a_time() {
    let store = in_memory();
    let first = parts(&store).await;
    let second = parts(&store);
    tokio::pin!(second);
    assert!(futures_util::poll!(&mut second).is_pending());
    drop(first);
    second.await;
}

#[tokio::test]
async fn what_is_sent_at_once_is_bounded_and_never_nothing() {
    let (mut log, _) = parts(&in_memory()).await;
    let command = Arc::new(long_command());
    let entry = |index| Entry {
        payload: EntryPayload::Normal(Proposal { id: index, command: Arc::clone(&command) }),
        ..blank(1, index)
    };
    let mut batch = Batch::new();
    for index in 0..6 {
        batch = batch.put(Space::RaftLog, &key(index), encode(&entry(index)).unwrap());
    }
    log.store().write(batch).await.unwrap();
    assert_eq!(log.reader.limited_get_log_entries(2, 6).await.unwrap().len(), 2);
    assert_eq!(log.try_get_log_entries(0..6).await.unwrap().len(), 6);
}

/// A command of 100 KB.
fn long_command() -> Command {
    use tumen_core::cluster::control::Founding;
    use tumen_core::cluster::snapshot::GroupSpec;
    let spec = GroupSpec {
        partitions: 1,
        replication: 1,
        strategy: "x".repeat(100 << 10),
        mode: Default::default(),
        partitioner: Default::default(),
        replicated: false,
    };
    Command::Found(Founding {
        id: Default::default(),
        name: tumen_core::ClusterName::new("shop").unwrap(),
        founded_at: Default::default(),
        generation: Default::default(),
        groups: vec![(Default::default(), spec)],
    })
}

#[tokio::test]
async fn a_configuration_as_large_as_it_may_be_survives_a_restart() {
    use tumen_core::cluster::configuration::{Expected, Json, Key, VALUE_LEN_MAX, Write};
    let dir = tempfile::tempdir().unwrap();
    let store = on_disk(&dir);
    let (log, mut machine) = parts(&store).await;
    let found = Entry {
        payload: EntryPayload::Normal(Proposal { id: 0, command: Arc::new(long_command()) }),
        ..blank(1, 0)
    };
    machine.apply([found]).await.unwrap();
    let value = Json::new(&format!("\"{}\"", "x".repeat(VALUE_LEN_MAX - 2))).unwrap();
    let mut refused = 0;
    for index in 1..100 {
        let (key, value) = (Key::new(&format!("key/{index}")).unwrap(), Some(value.clone()));
        let known = machine.state.configuration.version();
        let write = Write { id: index, known, key, expected: Expected::Anything, value };
        let command = Arc::new(Command::Configure(write));
        let payload = EntryPayload::Normal(Proposal { id: index, command });
        let outcomes = machine.apply([Entry { payload, ..blank(1, index) }]).await.unwrap();
        refused += usize::from(matches!(outcomes[..], [Outcome::Configured(Err(_))]));
    }
    assert!(refused > 0, "it is full");
    let before = Arc::clone(&machine.state.configuration);
    machine.get_snapshot_builder().await.build_snapshot().await.unwrap();
    store.close().await.unwrap();
    drop((log, machine, store));
    let (_, machine) = parts(&on_disk(&dir)).await;
    assert_eq!(machine.state.configuration, before);
}
