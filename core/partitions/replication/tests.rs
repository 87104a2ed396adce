//! Stories of single copies and primaries. The whole is shown by `replication_model` and `replication_storm`.

use bytes::Bytes;

use super::wire::{Reply, Request, SnapshotHeader};
use super::*;
use crate::ids::{Epoch, Generation, Life, NodeName, PartitionId, Revision};
use crate::partitions::fence::Fence;
use crate::time::Moment;

const NOW: Moment = Moment::ZERO;

fn name(node: &str) -> NodeName {
    NodeName::new(node).unwrap()
}

fn id(node: &str, life: u64) -> CopyId {
    CopyId { node: name(node), life: Life(life) }
}

fn fence(epoch: u64) -> Fence {
    Fence { generation: Generation::ZERO, epoch: Epoch(epoch), partition: PartitionId::user(7) }
}

fn empty(node: &str, life: u64, acks: Acks) -> LocalCopy<Bytes> {
    LocalCopy::new(PartitionId::user(7), id(node, life), acks)
}

fn record(epoch: u64, members: &[(&str, u64)]) -> Record {
    let members: Vec<CopyId> = members.iter().map(|(node, life)| id(node, *life)).collect();
    let high = members.len() as u32;
    Record { epoch: Epoch(epoch), revision: Revision::ZERO, members, high }
}

fn named(config: Config, own: LocalCopy<Bytes>, record: Record) -> Primary<Bytes> {
    let wanted = record.members.iter().map(|copy| copy.node.clone()).collect();
    let fence = fence(record.epoch.0);
    Primary::new(NOW, config, fence, own, record, wanted, Vec::new()).0
}

fn sealed(by: CopyId, former: &[u64], epoch: u64, last: Position) -> Reply<Bytes> {
    let former = former.iter().map(|life| Life(*life)).collect();
    Reply::Sealed { fence: fence(epoch), by, former, last, mark: Position::ZERO }
}

fn acked(by: CopyId, epoch: u64, end: u64) -> Reply<Bytes> {
    Reply::Acked { fence: fence(epoch), by, end }
}

/// A primary of three that is open, and of whose log nobody else has more than the opening entry.
fn serving(config: Config) -> Primary<Bytes> {
    let own = empty("a", 1, Acks::WithoutDisk);
    let mut primary = named(config, own, record(1, &[("a", 1), ("b", 1), ("c", 1)]));
    primary.handle_reply(NOW, sealed(id("b", 1), &[], 1, Position::ZERO));
    assert_eq!(primary.phase(), Phase::Opening);
    assert!(primary.take_batch(NOW, &name("b"), 8, 1 << 20).is_some());
    let opened = primary.handle_reply(NOW, acked(id("b", 1), 1, 1));
    assert_eq!(opened, [Effect::Opened { opening: Position::new(Epoch(1), 1) }]);
    primary
}

fn data() -> Bytes {
    Bytes::from_static(b"x")
}

#[test]
fn an_append_shows_its_fence_when_it_is_made() {
    let mut primary = serving(Config::default());
    assert_eq!(primary.append(&fence(2), data()), Err(AppendError::Fenced(fence(1))));
    assert_eq!(primary.append(&fence(1), data()), Ok(Position::new(Epoch(1), 2)));
    let (answer, effects) =
        primary.handle_request(NOW, Request::Seal { fence: fence(2), counts: Some(Life(1)) });
    assert!(matches!(answer.reply, Reply::Sealed { last: Position { sequence: 2, .. }, .. }));
    assert_eq!(effects, [Effect::Deposed]);
    assert_eq!(primary.append(&fence(1), data()), Err(AppendError::Fenced(fence(2))));
    assert!(!primary.may_serve(&fence(1)));
}

#[test]
fn whoever_is_gone_is_dropped_in_a_hurry_only_where_nothing_holds_without_it() {
    let nodes = |names: &[&str]| names.iter().copied().map(name).collect::<Vec<_>>();
    let mut three = serving(Config::default());
    let (drop_b, drop_c) = (Change::Drop(id("b", 1)), Change::Drop(id("c", 1)));
    three.handle_plan(NOW, nodes(&["a", "b", "c"]), nodes(&["c"]));
    assert!(!three.waits_for(&drop_c), "two of three are there");
    assert!(three.waits_for(&Change::Swap(id("c", 1), id("d", 1))), "somebody joins");
    three.handle_plan(NOW, nodes(&["a", "b", "c"]), nodes(&["b", "c"]));
    assert!(three.waits_for(&drop_c));

    let own = empty("a", 1, Acks::WithoutDisk);
    let mut two = named(Config::default(), own, record(1, &[("a", 1), ("b", 1)]));
    two.handle_plan(NOW, nodes(&["a", "b"]), nodes(&["b"]));
    assert!(two.waits_for(&drop_b), "nothing is acknowledged until b is dropped");
}

#[test]
fn in_sync_the_mark_waits_for_w_and_in_async_it_does_not() {
    for (mode, mark) in [(Mode::Sync, 1), (Mode::Strong, 1), (Mode::Async, 3)] {
        let mut primary = serving(Config { mode, pending_entries_max: 2, ..Config::default() });
        for _ in 0..2 {
            primary.append(&fence(1), data()).unwrap();
        }
        primary.handle_appended(NOW);
        assert_eq!((primary.mark(), primary.held()), (mark, 1), "{mode}");
        // What async can lose is bounded, too.
        assert_eq!(primary.append(&fence(1), data()), Err(AppendError::Overloaded(2)));
        primary.handle_reply(NOW, acked(id("c", 1), 1, 3));
        assert_eq!(primary.held(), 1, "a copy that was never met does not count");
        primary.handle_reply(NOW, acked(id("b", 1), 1, 3));
        assert_eq!((primary.mark(), primary.held()), (3, 3));
    }
}

#[test]
fn one_copy_is_counted_once_and_only_in_its_life() {
    let mut primary = serving(Config::default());
    primary.append(&fence(1), data()).unwrap();
    primary.handle_reply(NOW, acked(id("b", 2), 1, 2));
    primary.handle_reply(NOW, acked(id("a", 1), 1, 2));
    assert_eq!(primary.mark(), 1);
    primary.handle_reply(NOW, acked(id("b", 1), 1, 9));
    assert_eq!(primary.mark(), 1, "nobody has what was never written");
}

#[test]
fn batches_keep_to_the_window_and_to_their_size() {
    let mut primary = serving(Config { window_entries: 3, ..Config::default() });
    for _ in 0..5 {
        primary.append(&fence(1), data()).unwrap();
    }
    let len = |request: Option<Request<Bytes>>| match request {
        Some(Request::Append { entries, .. }) => entries.len(),
        _ => 0,
    };
    let b = name("b");
    assert_eq!(primary.ready_peers().collect::<Vec<_>>(), [&b]);
    assert_eq!(len(primary.take_batch(NOW, &b, 8, 1)), 1, "one entry goes, however large");
    assert_eq!(len(primary.take_batch(NOW, &b, 8, 1 << 20)), 2);
    assert_eq!(primary.take_batch(NOW, &b, 8, 1 << 20), None);
    primary.handle_reply(NOW, acked(id("b", 1), 1, 4));
    assert_eq!(len(primary.take_batch(NOW, &b, 8, 1 << 20)), 2);
}

#[test]
fn a_release_waits_for_what_was_appended() {
    let mut primary = serving(Config::default());
    let last = primary.append(&fence(1), data()).unwrap();
    assert_eq!(primary.handle_release_asked(NOW), []);
    assert_eq!(primary.append(&fence(1), data()), Err(AppendError::NotServing(Phase::Releasing)));
    assert_eq!(primary.handle_reply(NOW, acked(id("b", 1), 1, 2)), [Effect::Released { last }]);
    assert!(!primary.may_serve(&fence(1)));
}

#[test]
fn a_copy_without_its_memory_leaves_the_partition_lost() {
    let own = empty("b", 1, Acks::WithoutDisk);
    let mut primary = named(Config::default(), own, record(2, &[("a", 1), ("b", 7)]));
    assert!(!primary.standing().is_lost(|_| true), "a may come back");
    assert!(primary.standing().is_lost(|node| *node == name("b")));
    primary.handle_reply(NOW, sealed(id("a", 2), &[], 2, Position::ZERO));
    assert_eq!(primary.phase(), Phase::Sealing);
    assert_eq!(primary.standing().gone, [id("a", 1), id("b", 7)]);
    assert!(primary.standing().is_lost(|_| true));
    // An operator says that the loss is accepted.
    let accepted = primary.record().with_loss_accepted(Vec::new()).unwrap();
    assert_eq!(primary.handle_record(NOW, accepted.clone()), [Effect::Deposed]);
    let (primary, effects) = Primary::new(
        NOW,
        Config::default(),
        fence(3),
        primary.into_copy(),
        accepted,
        vec![name("b")],
        Vec::new(),
    );
    let ask = Effect::Ask { epoch: Epoch(3), revision: Revision::ZERO, change: Change::Add(id("b", 1)) };
    assert_eq!((primary.phase(), effects), (Phase::Opening, vec![ask]));
}

#[test]
fn below_s_all_disks_together_open_a_partition_and_an_event_says_so() {
    let members = [("a", 1), ("b", 1), ("c", 1)];
    let mut disk = empty("a", 1, Acks::BeforeDisk);
    let write = disk.take_write().unwrap();
    let saved = Saved {
        id: write.id,
        former: write.former,
        sealed: write.sealed,
        mark: 0,
        snapshot: write.snapshot,
        start: write.start,
        entries: vec![Entry { epoch: Epoch(1), body: Body::Opening }],
    };
    let own = LocalCopy::restore(saved, Acks::BeforeDisk, false, Life(2));
    let mut primary = named(Config::default(), own, record(2, &members));
    let write = primary.take_write().unwrap();
    primary.handle_written(NOW, write.ticket);
    let at = |sequence| Position::new(Epoch(1), sequence);
    primary.handle_reply(NOW, sealed(id("b", 2), &[1], 2, at(2)));
    primary.handle_reply(NOW, sealed(id("c", 2), &[], 2, at(9)));
    assert_eq!(primary.phase(), Phase::Sealing, "c read no disk of the life that counted");
    let effects = primary.handle_reply(NOW, sealed(id("c", 3), &[1, 2], 2, at(1)));
    assert!(matches!(&effects[0], Effect::Renewing { lost } if lost.len() == 3));
    assert!(
        matches!(&effects[1], Effect::Send { to, request: Request::Fetch { .. } } if *to == name("b")),
        "the best of them is b's"
    );
}

#[test]
fn a_life_goes_on_where_nothing_that_was_said_can_be_missing() {
    let saved = || Saved::<Bytes> {
        id: id("a", 1),
        former: Vec::new(),
        sealed: fence(4),
        mark: 0,
        snapshot: Position::ZERO,
        start: Position::ZERO,
        entries: Vec::new(),
    };
    let life = |acks, in_good_order| {
        let copy = LocalCopy::restore(saved(), acks, in_good_order, Life(2));
        assert_eq!(*copy.sealed(), fence(4));
        (copy.id().life, copy.former().to_vec())
    };
    assert_eq!(life(Acks::AfterDisk, false), (Life(1), vec![]));
    assert_eq!(life(Acks::BeforeDisk, true), (Life(1), vec![]));
    assert_eq!(life(Acks::BeforeDisk, false), (Life(2), vec![Life(1)]));
}

#[test]
fn a_joining_copy_keeps_only_what_surely_holds_when_the_epoch_changes() {
    let entry = |epoch| Entry { epoch: Epoch(epoch), body: Body::Data(data()) };
    let append = |counts| Request::Append {
        fence: fence(1),
        to: Life(1),
        counts,
        prev: Position::ZERO,
        entries: vec![entry(1), entry(1)],
        mark: 1,
    };
    for (counts, left) in [(None, 1), (Some(Life(1)), 2)] {
        let mut copy = empty("d", 1, Acks::WithoutDisk);
        copy.handle_request(NOW, &Config::default(), append(None));
        let answer = copy.handle_request(NOW, &Config::default(), Request::Seal { fence: fence(2), counts });
        assert!(matches!(answer.reply, Reply::Sealed { last, .. } if last == Position::new(Epoch(1), left)));
        let late = copy.handle_request(NOW, &Config::default(), append(None));
        assert!(matches!(late.reply, Reply::Refused { sealed, .. } if sealed == fence(2)));
    }
}

#[test]
fn what_surely_holds_is_never_cut_off_by_entries() {
    let entry = |epoch| Entry { epoch: Epoch(epoch), body: Body::Data(data()) };
    let append = |epoch, entries, mark| Request::Append {
        fence: fence(epoch),
        to: Life(1),
        counts: Some(Life(1)),
        prev: Position::ZERO,
        entries,
        mark,
    };
    let mut copy = empty("b", 1, Acks::WithoutDisk);
    let config = Config::default();
    copy.handle_request(NOW, &config, append(1, vec![entry(1), entry(1)], 1));
    let answer = copy.handle_request(NOW, &config, append(2, vec![entry(2)], 0));
    assert!(matches!(answer.reply, Reply::Behind { .. }));
    let answer = copy.handle_request(NOW, &config, append(2, vec![entry(1), entry(2)], 0));
    assert!(matches!(answer.reply, Reply::Acked { end: 2, .. }));
    assert_eq!(copy.last(), Position::new(Epoch(2), 2));
    // Nor by what comes from nowhere: epochs that fall, or are newer than their writer's.
    let answer = copy.handle_request(NOW, &config, append(2, vec![entry(2), entry(1)], 0));
    assert!(matches!(answer.reply, Reply::Behind { .. }));
}

/// A copy that knows of two entries of epoch 1 that they surely hold.
fn with_two_that_hold(node: &str) -> LocalCopy<Bytes> {
    let mut copy = empty(node, 1, Acks::WithoutDisk);
    let entry = || Entry { epoch: Epoch(1), body: Body::Data(data()) };
    let append = Request::Append {
        fence: fence(1),
        to: Life(1),
        counts: Some(Life(1)),
        prev: Position::ZERO,
        entries: vec![entry(), entry()],
        mark: 2,
    };
    copy.handle_request(NOW, &Config::default(), append);
    copy
}

#[test]
fn an_older_state_never_replaces_what_surely_holds() {
    let mut copy = with_two_that_hold("b");
    let header = |position| SnapshotHeader { fence: fence(2), to: Life(1), counts: Some(Life(1)), position };
    // Of this log, further back: there is nothing to take over.
    let (installed, answer) = copy.handle_snapshot(header(Position::new(Epoch(1), 1)));
    assert!(!installed && matches!(answer.reply, Reply::Acked { end: 1, .. }), "{answer:?}");
    // Of another log, which ended before this one's last entry: however long it is.
    for sequence in [1, 2, 9] {
        let (installed, answer) = copy.handle_snapshot(header(Position::new(Epoch::ZERO, sequence)));
        assert!(!installed && matches!(answer.reply, Reply::Behind { .. }), "{answer:?}");
    }
    let hold = Position::new(Epoch(1), 2);
    assert_eq!((copy.last(), copy.mark_position()), (hold, hold));
    // Nor does one that an older primary sends.
    let older = SnapshotHeader { fence: fence(1), ..header(Position::new(Epoch(1), 9)) };
    let (installed, answer) = copy.handle_snapshot(older);
    assert!(!installed && matches!(answer.reply, Reply::Refused { .. }), "{answer:?}");
    let (installed, _) = copy.handle_snapshot(header(Position::new(Epoch(2), 3)));
    assert!(installed, "a newer one does");
}

#[test]
fn a_loss_is_accepted_with_the_copies_that_have_the_most_and_ends_the_epoch() {
    let own = with_two_that_hold("a");
    let members = [("a", 1), ("b", 1), ("c", 1), ("d", 1), ("e", 1)];
    let mut primary = named(Config::default(), own, record(2, &members));
    let alive = |node: &NodeName| ["a", "b", "c"].contains(&node.as_str());
    let refused = primary.handle_loss_accepted(|_| true).unwrap_err();
    assert!(matches!(refused, NotLost::Coming(coming) if coming.len() == 4));
    primary.handle_reply(NOW, sealed(id("b", 1), &[], 2, Position::new(Epoch(1), 1)));
    // Three would do, and c is there, and may be the third.
    assert!(matches!(primary.handle_loss_accepted(alive), Err(NotLost::Coming(_))));
    let one_more = |node: &NodeName| ["a", "b"].contains(&node.as_str());
    let (standing, effects) = primary.handle_loss_accepted(one_more).unwrap();
    assert_eq!(standing.survivors.len(), 2);
    assert_eq!(standing.heirs(), [id("a", 1)], "b has less, and follows");
    assert_eq!(effects, [Effect::Released { last: Position::new(Epoch(1), 2) }]);
    // What comes after that is too late.
    assert_eq!(primary.handle_reply(NOW, sealed(id("c", 1), &[], 2, Position::new(Epoch(1), 9))), []);
    assert_eq!(primary.handle_loss_accepted(one_more), Err(NotLost::Opens));
}

#[test]
fn who_is_there_and_said_nothing_yet_is_waited_for_before_a_loss_is_accepted() {
    let members = [("a", 1), ("b", 1), ("c", 1), ("d", 1), ("e", 1)];
    let mut primary = named(Config::default(), with_two_that_hold("a"), record(2, &members));
    let alive = |node: &NodeName| ["a", "b"].contains(&node.as_str());
    assert_eq!(primary.handle_loss_accepted(alive), Err(NotLost::Silent(vec![id("b", 1)])));
    primary.handle_reply(NOW, sealed(id("b", 2), &[], 2, Position::ZERO));
    let (standing, _) = primary.handle_loss_accepted(alive).unwrap();
    assert_eq!((standing.gone.clone(), standing.heirs()), (vec![id("b", 1)], vec![id("a", 1)]));
}

#[test]
fn a_copy_that_has_what_was_given_up_begins_anew_and_writes_nothing() {
    let over = |primary: &mut Primary<Bytes>| {
        assert_eq!(primary.phase(), Phase::Released);
        assert_eq!(primary.handle_wake(NOW + Config::default().retry_every), []);
        assert_eq!(primary.copy().last(), Position::new(Epoch(1), 2), "no entry of its own epoch");
    };
    // All of it was given up.
    let fresh = |record: Record, own| {
        let wanted = vec![name("a"), name("b")];
        let fence = fence(record.epoch.0);
        Primary::new(NOW, Config::default(), fence, own, record, wanted, Vec::new())
    };
    let (mut primary, effects) = fresh(record(2, &[]), with_two_that_hold("a"));
    assert!(effects.contains(&Effect::Discard), "{effects:?}");
    over(&mut primary);
    let (primary, _) = fresh(record(2, &[]), empty("a", 2, Acks::WithoutDisk));
    assert_eq!(primary.phase(), Phase::Opening, "a new life has nothing to give up");

    // Who is left has less, or went on otherwise.
    let (mut primary, _) = fresh(record(2, &[("b", 1)]), with_two_that_hold("a"));
    let effects = primary.handle_reply(NOW, sealed(id("b", 1), &[], 2, Position::new(Epoch(1), 1)));
    assert_eq!(effects, [Effect::Discard]);
    over(&mut primary);
    let (mut primary, _) = fresh(record(3, &[("b", 1)]), with_two_that_hold("a"));
    primary.handle_reply(NOW, sealed(id("b", 1), &[], 3, Position::new(Epoch(2), 2)));
    assert_eq!(primary.phase(), Phase::Adopting);
    let tail = Reply::Tail {
        fence: fence(3),
        by: id("b", 1),
        prev: Position::ZERO,
        entries: vec![
            Entry { epoch: Epoch(1), body: Body::Data(data()) },
            Entry { epoch: Epoch(2), body: Body::Opening },
        ],
    };
    assert_eq!(primary.handle_reply(NOW, tail), [Effect::Discard]);
    over(&mut primary);
}
