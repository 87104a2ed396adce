//! Each request takes effect once: stories, and storms of crashes, retries, duplicates and reordering.
#![allow(clippy::disallowed_methods, reason = "a test may be told by its environment how long to go on")]
#![allow(missing_docs)]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends there")]

#[path = "sessions/partition.rs"]
mod partition;
#[path = "sessions/storm.rs"]
mod storm;

use bytes::Bytes;
use partition::{Flaw, Job, Primary, Replica, Try, Work};
use storm::Storm;
use tumen_core::Moment;
use tumen_core::ids::Epoch;
use tumen_core::partitions::identity::{Identity, Keyed, Numbered, SessionId};
use tumen_core::partitions::request::{Failure, MessageId};
use tumen_core::partitions::session::Limits;
use tumen_core::partitions::session::client::Attempt;

const NOW: Moment = Moment::from_millis(1_000);

fn first_primary(flaw: Flaw) -> (Primary, SessionId) {
    let mut primary = Primary::adopt(flaw, Limits::default(), Epoch(1), Replica::default(), Vec::new());
    let session = primary.open(NOW, 7).unwrap();
    primary.advance_mark(usize::MAX);
    (primary, session)
}

fn request(session: SessionId, number: u64, job: u64, work: Work) -> Try {
    let identity = Identity::Numbered(Numbered { session, number, lowest: number });
    Try {
        job: Job { id: job, work },
        identity,
        epoch: Epoch(1),
        from: 0,
        attempt: Attempt(1),
        doubled: false,
    }
}

/// The primary takes one request in, runs its handler until it has committed, and stops there.
fn run_until_committed(primary: &mut Primary, request: &Try) {
    let epoch = primary.epoch();
    primary.enqueue(Try { epoch, ..request.clone() });
    primary.work(NOW);
}

fn a_handler_commits_and_the_primary_crashes_before_the_reply(flaw: Flaw) -> u64 {
    let (mut primary, session) = first_primary(flaw);
    let add = request(session, 1, 1, Work::Add);
    run_until_committed(&mut primary, &add);
    let mut primary = primary.crash(usize::MAX);
    run_until_committed(&mut primary, &add);
    primary.work(NOW);
    primary.advance_mark(usize::MAX);
    primary.total()
}

#[test]
fn a_handler_that_committed_and_did_not_answer_runs_again_from_nothing() {
    assert_eq!(a_handler_commits_and_the_primary_crashes_before_the_reply(Flaw::None), 1);
}

#[test]
fn logging_changes_before_the_reply_would_count_twice() {
    assert_eq!(a_handler_commits_and_the_primary_crashes_before_the_reply(Flaw::ChangesBeforeReply), 2);
}

/// Two compare-and-sets from 0, in one primary, each begun before the other has returned. How many were told that
/// they had succeeded.
fn two_compare_and_sets_interleave(flaw: Flaw) -> usize {
    let (mut primary, session) = first_primary(flaw);
    primary.enqueue(request(session, 1, 1, Work::Swap { from: 0, to: 1 }));
    primary.enqueue(request(session, 2, 2, Work::Swap { from: 0, to: 2 }));
    (0..6).for_each(|_| primary.work(NOW));
    primary.advance_mark(usize::MAX);
    let replies = primary.take_replies();
    assert_eq!(replies.len(), 2);
    replies.iter().filter(|(_, reply)| *reply == Ok(Bytes::from_static(b"yes"))).count()
}

#[test]
fn of_two_compare_and_sets_one_succeeds() {
    assert_eq!(two_compare_and_sets_interleave(Flaw::None), 1);
}

#[test]
fn handlers_that_interleave_at_a_commit_would_both_succeed() {
    assert_eq!(two_compare_and_sets_interleave(Flaw::Interleaved), 2);
}

#[test]
fn a_retry_after_a_lost_reply_gets_the_same_reply() {
    let (mut primary, session) = first_primary(Flaw::None);
    let add = request(session, 1, 1, Work::Add);
    run_until_committed(&mut primary, &add);
    primary.work(NOW);
    primary.advance_mark(usize::MAX);
    let first = primary.take_replies();
    let mut primary = primary.crash(0);
    run_until_committed(&mut primary, &add);
    primary.advance_mark(usize::MAX);
    assert_eq!(primary.take_replies()[0].1, first[0].1);
    assert_eq!(primary.total(), 1);
}

#[test]
fn steps_without_a_reply_are_in_doubt_for_ever() {
    let (mut primary, session) = first_primary(Flaw::None);
    let slow = request(session, 1, 1, Work::AddSlowly);
    run_until_committed(&mut primary, &slow);
    primary.advance_mark(usize::MAX);
    let mut primary = primary.crash(usize::MAX);
    for _ in 0..2 {
        run_until_committed(&mut primary, &slow);
        primary.advance_mark(usize::MAX);
        let in_doubt = Err(Failure::Timeout { maybe_applied: true });
        assert_eq!(primary.take_replies()[0].1, in_doubt);
    }
    assert_eq!(primary.total(), 1);
}

#[test]
fn a_key_answers_any_client_and_refuses_another_request() {
    let (mut primary, _) = first_primary(Flaw::None);
    let put = MessageId::of("put");
    let keyed = |body: &[u8]| Identity::Keyed(Keyed::new(b"key-1", put, body).unwrap());
    let of = |body: &[u8], from| Try {
        job: Job { id: 1, work: Work::Add },
        identity: keyed(body),
        epoch: Epoch(1),
        from,
        attempt: Attempt(1),
        doubled: false,
    };
    for request in [of(b"one", 0), of(b"one", 1), of(b"two", 1)] {
        primary.enqueue(request);
        primary.work(NOW);
        primary.work(NOW);
        primary.advance_mark(usize::MAX);
    }
    let replies = primary.take_replies();
    assert_eq!(replies[0].1, replies[1].1);
    assert!(matches!(replies[2].1, Err(Failure::Rejected(_))));
    assert_eq!(primary.total(), 1);
}

/// A compare-and-set arrives too early and fails; then it could succeed, and a second copy of it arrives. How often the
/// register was set although the caller was told "no".
fn a_failed_compare_and_set_arrives_again(flaw: Flaw) -> usize {
    let (mut primary, session) = first_primary(flaw);
    let early = request(session, 1, 1, Work::Swap { from: 1, to: 2 });
    let other = request(session, 2, 2, Work::Swap { from: 0, to: 1 });
    let Identity::Numbered(numbered) = other.identity else { unreachable!() };
    let other = Try { identity: Identity::Numbered(Numbered { lowest: 1, ..numbered }), ..other };
    for request in [early.clone(), other, early] {
        primary.enqueue(request);
        primary.work(NOW);
        primary.work(NOW);
        primary.advance_mark(usize::MAX);
    }
    assert_eq!(primary.take_replies()[0].1, Ok(Bytes::from_static(b"no")));
    primary.state().applied.keys().filter(|(job, _)| *job == 1).count()
}

#[test]
fn what_changed_nothing_is_not_run_again_under_one_epoch() {
    assert_eq!(a_failed_compare_and_set_arrives_again(Flaw::None), 0);
}

#[test]
fn what_changed_nothing_would_change_something_were_it_forgotten() {
    assert_eq!(a_failed_compare_and_set_arrives_again(Flaw::UnchangedForgotten), 1);
}

/// How many storms a test goes through, unless `SESSION_STORMS` says otherwise.
fn storms() -> u64 {
    std::env::var("SESSION_STORMS").ok().and_then(|n| n.parse().ok()).unwrap_or(60)
}

#[test]
fn storms_apply_nothing_twice_and_lose_no_answer() {
    let mut seen = storm::Seen::default();
    for seed in 0..storms() {
        match Storm::new(seed, Flaw::None).run(1500) {
            Ok(one) => seen.add(&one),
            Err(why) => panic!("seed {seed}: {why}"),
        }
    }
    // A storm in which nothing happens shows nothing.
    assert!(seen.answered > 3_000 && seen.crashes > 500 && seen.answered_again > 500, "{seen:?}");
    assert!(seen.expired > 20 && seen.in_doubt > 20 && seen.forgotten > 5, "{seen:?}");
    assert!(seen.joined > 100 && seen.overloaded > 3, "{seen:?}");
}

fn is_caught(flaw: Flaw) {
    let caught = (0..storms()).find_map(|seed| Storm::new(seed, flaw).run(1500).err());
    assert!(caught.is_some(), "{flaw:?} was not noticed");
}

#[test]
fn a_storm_notices_changes_logged_before_their_reply() {
    is_caught(Flaw::ChangesBeforeReply);
}

#[test]
fn a_storm_notices_handlers_that_interleave() {
    is_caught(Flaw::Interleaved);
}

#[test]
fn a_storm_notices_replies_that_leave_before_the_mark() {
    is_caught(Flaw::RepliesBeforeMark);
}

#[test]
fn a_storm_notices_keys_that_are_not_logged_when_nothing_changed() {
    is_caught(Flaw::UnchangedKeysUnlogged);
}
