//! Stories of one copy and its disk.

use bytes::Bytes;

use super::*;
use crate::ids::NodeName;
use crate::partitions::replication::Body;

const LIFE: Life = Life(1);
const PARTITION: PartitionId = PartitionId::user(0);

fn new(acks: Acks) -> LocalCopy<Bytes> {
    LocalCopy::new(PARTITION, CopyId { node: NodeName::new("a").unwrap(), life: LIFE }, acks)
}

/// The next entry comes. What has to be on disk before it is acknowledged.
fn append(copy: &mut LocalCopy<Bytes>, len: usize) -> Option<Ticket> {
    let entries = vec![Entry { epoch: Epoch(1), body: Body::Data(Bytes::from(vec![0; len])) }];
    let fence = Fence { generation: Generation::ZERO, epoch: Epoch(1), partition: PARTITION };
    let prev = copy.last();
    let request =
        Request::Append { fence, to: LIFE, counts: Some(LIFE), prev, entries, mark: prev.sequence + 1 };
    let answer = copy.handle_request(Moment::ZERO, &Config::default(), request);
    assert!(matches!(answer.reply, Reply::Acked { .. }), "{answer:?}");
    answer.after
}

fn write(copy: &mut LocalCopy<Bytes>) -> Write<Bytes> {
    copy.take_write().unwrap()
}

#[test]
fn a_copy_acknowledges_before_the_disk_only_once_the_disk_says_so_of_it() {
    let mut copy = new(Acks::AfterDisk);
    let first = append(&mut copy, 1).unwrap();
    assert_eq!((write(&mut copy).acks, first), (Acks::AfterDisk, Ticket(1)));
    copy.set_acks(Acks::BeforeDisk);
    assert_eq!(append(&mut copy, 1), Some(Ticket(2)));
    assert_eq!(write(&mut copy).acks, Acks::BeforeDisk);
    copy.handle_written(Ticket(1));
    assert_eq!(append(&mut copy, 1), Some(Ticket(3)), "a crash now would go unnoticed");
    copy.handle_written(Ticket(2));
    assert_eq!((append(&mut copy, 1), copy.acks()), (None, Acks::BeforeDisk));
}

#[test]
fn what_was_acknowledged_before_is_in_the_write_from_which_a_copy_waits_for_its_disk() {
    let mut copy = new(Acks::BeforeDisk);
    assert_eq!(append(&mut copy, 1), None);
    copy.set_acks(Acks::AfterDisk);
    assert_eq!(copy.held(), 0, "nothing is on disk yet");
    let first = write(&mut copy);
    assert_eq!((first.acks, first.entries.len()), (Acks::AfterDisk, 1));
    copy.handle_written(first.ticket);
    assert_eq!(copy.held(), 1);
}

#[test]
fn a_promise_waits_for_the_disk_where_a_crash_would_leave_it_standing() {
    let seal = |copy: &mut LocalCopy<Bytes>, epoch| {
        let fence = Fence { generation: Generation::ZERO, epoch: Epoch(epoch), partition: PARTITION };
        let request = Request::Seal { fence, counts: Some(LIFE) };
        let answer = copy.handle_request(Moment::ZERO, &Config::default(), request);
        assert!(matches!(answer.reply, Reply::Sealed { .. }), "{answer:?}");
        answer.after
    };
    let mut copy = new(Acks::BeforeDisk);
    assert_eq!(seal(&mut copy, 1), Some(Ticket(1)), "nothing tells yet that a crash ends this life");
    let first = write(&mut copy).ticket;
    assert_eq!(seal(&mut copy, 2), Some(Ticket(2)), "nor while that is on its way");
    copy.handle_written(first);
    assert_eq!(seal(&mut copy, 3), None);
    assert_eq!(write(&mut copy).sealed.epoch, Epoch(3), "it is written all the same");

    let mut copy = new(Acks::AfterDisk);
    let first = write(&mut copy).ticket;
    copy.handle_written(first);
    assert_eq!(seal(&mut copy, 3), Some(Ticket(2)));
    let mut copy = new(Acks::WithoutDisk);
    assert_eq!(seal(&mut copy, 3), None);
}

#[test]
fn a_wish_that_was_taken_back_in_time_changes_nothing() {
    let mut copy = new(Acks::AfterDisk);
    copy.set_acks(Acks::BeforeDisk);
    let relaxed = write(&mut copy);
    copy.set_acks(Acks::AfterDisk);
    copy.handle_written(relaxed.ticket);
    assert_eq!((copy.acks(), write(&mut copy).acks), (Acks::AfterDisk, Acks::AfterDisk));
}

#[test]
fn a_log_of_large_entries_is_cut_early() {
    let mut copy = new(Acks::WithoutDisk);
    let due = |copy: &LocalCopy<Bytes>| copy.wants_snapshot(&Config::default());
    for _ in 0..7 {
        append(&mut copy, 1 << 20);
    }
    assert!(!due(&copy));
    append(&mut copy, 1 << 20);
    assert!(due(&copy));
    assert!(copy.handle_snapshot_saved(copy.last(), 4096));
    assert!(!due(&copy));
    append(&mut copy, 6 << 20);
    assert!(due(&copy), "one of three entries, and most of the bytes");
}

#[test]
fn what_is_kept_before_a_snapshot_is_bounded_in_entries_and_in_bytes() {
    for (len, kept) in [(1, 10), (1 << 20, 3)] {
        let mut copy = new(Acks::WithoutDisk);
        for _ in 0..20 {
            append(&mut copy, len);
        }
        assert!(copy.handle_snapshot_saved(copy.last(), 10));
        assert_eq!(copy.len(), kept);
    }
}
