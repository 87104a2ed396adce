use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;

use super::client::{Attempt, Effect, SessionClient, Ticket, TryEnd};
use super::desk::{Desk, Opening};
use super::*;
use crate::ids::Epoch;
use crate::partitions::entry::Changes;
use crate::partitions::request::MessageId;
use crate::time::Moment;

fn at(sequence: u64) -> Position {
    Position::new(Epoch(1), sequence)
}

fn seconds(seconds: u64) -> Moment {
    Moment::from_millis(seconds * 1000)
}

const fn numbered(session: SessionId, number: u64, lowest: u64) -> Identity {
    Identity::Numbered(Numbered { session, number, lowest })
}

fn keyed(key: u64) -> Identity {
    Identity::Keyed(Keyed::new(&key.to_be_bytes(), MessageId(1), b"").unwrap())
}

fn record(identity: Identity, reply: &'static [u8]) -> Entry {
    Entry::Record { identity, changes: Changes::default(), reply: Ok(Bytes::from_static(reply)) }
}

/// Sessions in which one was opened at 1, and so many of its requests recorded, each with the same reply.
fn with_records(count: u64, reply: &'static [u8]) -> (Sessions, SessionId) {
    let (mut sessions, session) = (Sessions::default(), SessionId(at(1)));
    sessions.apply(at(1), &Entry::Open { nonce: 5 });
    (1..=count).for_each(|n| sessions.apply(at(1 + n), &record(numbered(session, n, 1), reply)));
    (sessions, session)
}

const MARK: Position = Position { epoch: Epoch(9), sequence: 0 };

#[test]
fn a_reply_is_given_again_until_the_client_has_it() {
    let (mut sessions, session) = with_records(2, b"x");
    let limits = Limits::default();
    let check = |sessions: &Sessions, number| sessions.check(&limits, MARK, &numbered(session, number, 1));
    assert_eq!(check(&sessions, 1), Verdict::Answered { at: at(2), reply: Ok(Bytes::from_static(b"x")) });
    assert_eq!(sessions.check(&limits, at(1), &numbered(session, 1, 1)), Verdict::Running);
    assert_eq!(check(&sessions, 3), Verdict::Run);
    sessions.apply(at(4), &record(numbered(session, 3, 3), b"y"));
    assert_eq!(check(&sessions, 1), Verdict::Forgotten);
    assert_eq!(sessions.bytes_len(), Answer::OVERHEAD + 1);
    sessions.apply(at(5), &Entry::Expire(Expiry { sessions: vec![session], ..Expiry::default() }));
    assert_eq!(check(&sessions, 3), Verdict::Expired);
    assert_eq!(sessions.bytes_len(), 0);
}

#[test]
fn a_full_session_lets_only_its_lowest_request_in() {
    let (sessions, session) = with_records(10, &[0; 100]);
    let limits = Limits { session_bytes_max: 1000, window: 100, ..Limits::default() };
    let check = |number, lowest| sessions.check(&limits, MARK, &numbered(session, number, lowest));
    assert_eq!(check(11, 1), Verdict::Overloaded);
    assert_eq!(check(11, 11), Verdict::Run);
    // What the client has does not count, although the log does not say yet that it has it.
    assert_eq!(check(11, 7), Verdict::Run);
    assert_eq!(check(107, 7), Verdict::Overloaded);
    assert_eq!(check(106, 7), Verdict::Run);
    // A request that was answered is answered again, however full it is.
    assert!(matches!(check(3, 1), Verdict::Answered { .. }));
}

#[test]
fn an_opening_that_comes_twice_opens_one_session() {
    let mut desk = Desk::new(Limits { sessions_max: 1, ..Limits::default() });
    let mut sessions = Sessions::default();
    assert_eq!(desk.check_open(seconds(0), &sessions, 5), Opening::Open);
    sessions.apply(at(1), &Entry::Open { nonce: 5 });
    sessions.apply(at(2), &Entry::Open { nonce: 5 });
    assert_eq!(sessions.len(), 1);
    assert_eq!(desk.check_open(seconds(0), &sessions, 5), Opening::Held(SessionId(at(1))));
    assert_eq!(desk.check_open(seconds(0), &sessions, 6), Opening::Overloaded);
}

#[test]
fn silence_counts_from_when_this_primary_first_looked() {
    let (mut sessions, session) = with_records(1, b"x");
    let mut desk = Desk::new(Limits { idle: Duration::from_secs(10), ..Limits::default() });
    assert_eq!(desk.plan_expiry(seconds(1000), &sessions), None);
    assert_eq!(desk.plan_expiry(seconds(1009), &sessions), None);
    assert_eq!(desk.check(seconds(1009), &sessions, MARK, &numbered(session, 2, 1)), Verdict::Run);
    // Not while a request is being handled, however long that takes.
    assert_eq!(desk.plan_expiry(seconds(1100), &sessions), None);
    assert_eq!(desk.handle_end(&sessions, session), None);
    desk.handle_unchanged(at(2), &numbered(session, 2, 1), &Ok(Bytes::new()));
    let expiry = desk.plan_expiry(seconds(1100), &sessions).unwrap();
    assert_eq!(expiry.sessions, [session]);
    sessions.apply(at(9), &Entry::Expire(expiry));
    assert!(sessions.is_empty());
    assert_eq!(desk.plan_expiry(seconds(1101), &sessions), None);
}

#[test]
fn a_key_is_forgotten_after_its_age_and_not_before() {
    let limits = Limits { key_age: Duration::from_secs(160), ..Limits::default() };
    let (mut sessions, mut desk) = (Sessions::default(), Desk::new(limits));
    let mut born = BTreeMap::new();
    for second in 0..1000 {
        let now = seconds(second);
        if let Some(expiry) = desk.plan_expiry(now, &sessions) {
            sessions.apply(at(second * 2), &Entry::Expire(expiry));
        }
        if second < 500 {
            sessions.apply(at(second * 2 + 1), &record(keyed(second), b"x"));
            born.insert(second, now);
        }
        born.retain(|key, born| {
            let held = sessions.check(&desk_limits(), MARK, &keyed(*key)) != Verdict::Run;
            let age = now.since(*born).as_secs();
            assert!(held || age >= 160, "key {key} lived {age} s");
            assert!(!held || age <= 180, "key {key} lives {age} s");
            held
        });
    }
    assert_eq!((sessions.keys_len(), sessions.bytes_len()), (0, 0));
}

fn desk_limits() -> Limits {
    Limits::default()
}

#[test]
fn a_crowded_partition_takes_its_clients_at_their_word() {
    let (mut sessions, session) = with_records(10, &[0; 100]);
    let mut desk = Desk::new(Limits { bytes_max: 3000, ..Limits::default() });
    desk.handle_acknowledged(seconds(1), &sessions, session, 9);
    let expiry = desk.plan_expiry(seconds(1), &sessions).unwrap();
    assert_eq!(expiry.answered, [(session, 9)]);
    sessions.apply(at(20), &Entry::Expire(expiry));
    assert_eq!(sessions.bytes_len(), 2 * (100 + Answer::OVERHEAD));
}

fn entries() -> impl Strategy<Value = Vec<Entry>> {
    let reply = || prop_oneof![Just(&b""[..]), Just(&b"one"[..]), Just(&b"seventeen"[..])];
    let session = || (1_u64..6).prop_map(|sequence| SessionId(at(sequence)));
    let request = || {
        prop_oneof![
            (session(), 1_u64..20, 0_u64..20).prop_map(|(s, number, gap)| numbered(
                s,
                number,
                number - gap.min(number - 1)
            )),
            (0_u64..6).prop_map(keyed),
        ]
    };
    let expiry = (proptest::collection::vec(session(), 0..2), session(), 1_u64..20, 0_u64..40).prop_map(
        |(sessions, one, lowest, through)| {
            Entry::Expire(Expiry { sessions, answered: vec![(one, lowest)], keys_through: at(through) })
        },
    );
    let entry = prop_oneof![
        3 => (0_u128..6).prop_map(|nonce| Entry::Open { nonce }),
        12 => (request(), reply()).prop_map(|(identity, reply)| record(identity, reply)),
        3 => request().prop_map(|identity| Entry::Step { identity, changes: Changes::default() }),
        1 => expiry,
    ];
    proptest::collection::vec(entry, 1..80)
}

proptest! {
    #[test]
    fn a_snapshot_in_the_middle_changes_nothing(entries in entries(), cut: prop::sample::Index) {
        let (mut one, mut other) = (Sessions::default(), Sessions::default());
        let cut = cut.index(entries.len());
        for (sequence, entry) in (1..).zip(&entries) {
            one.apply(at(sequence), entry);
            other.apply(at(sequence), &Entry::decode(entry.to_bytes()).unwrap());
            if sequence as usize == cut {
                let bytes = bincode::serialize(&other).unwrap();
                other = bincode::deserialize(&bytes).unwrap();
                let text = serde_json::to_string(&other).unwrap();
                other = serde_json::from_str(&text).unwrap();
            }
            prop_assert_eq!(&one, &other);
            prop_assert_eq!(one.digest(), other.digest());
            // What is counted is what is there: reading it back counts it anew.
            let recounted = Sessions::from(Image::from(one.clone()));
            prop_assert_eq!(one.bytes_len(), recounted.bytes_len());
        }
    }

    #[test]
    fn copies_that_differ_show_it(entries in entries(), reply in "[a-z]{1,5}") {
        let mut one = Sessions::default();
        (1..).zip(&entries).for_each(|(sequence, entry)| one.apply(at(sequence), entry));
        let mut other = one.clone();
        let key = Identity::Keyed(Keyed::new(b"another", MessageId(1), b"").unwrap());
        other.apply(at(100), &Entry::Record { identity: key, changes: Changes::default(), reply: Ok(reply.into()) });
        prop_assert_ne!(one.digest(), other.digest());
    }
}

fn client() -> SessionClient {
    let limits = Limits { window: 3, idle: Duration::from_secs(10), ..Limits::default() };
    SessionClient::new(limits, 100)
}

const S: SessionId = SessionId(Position { epoch: Epoch(1), sequence: 4 });

fn send(ticket: u64, number: u64, lowest: u64) -> Effect {
    Effect::Send { ticket: Ticket(ticket), numbered: Numbered { session: S, number, lowest } }
}

fn fail(ticket: u64, maybe_applied: bool) -> Effect {
    Effect::Fail { ticket: Ticket(ticket), failure: Failure::Timeout { maybe_applied } }
}

#[test]
fn requests_wait_for_their_session_and_for_the_window() {
    let mut client = client();
    assert_eq!(client.handle_request(seconds(1), Ticket(1)), [Effect::Open { nonce: 101 }]);
    (2..=5).for_each(|ticket| assert_eq!(client.handle_request(seconds(1), Ticket(ticket)), []));
    assert_eq!(client.handle_open_lost(101), [Effect::Open { nonce: 101 }]);
    assert_eq!(client.handle_opened(seconds(1), 101, S), [send(1, 1, 1), send(2, 2, 1), send(3, 3, 1)]);
    // The second answer moves nothing; the first moves the window past both.
    assert_eq!(client.handle_answered(seconds(1), Ticket(2), Attempt(1)), Some(vec![]));
    let moved = client.handle_answered(seconds(1), Ticket(1), Attempt(1));
    assert_eq!(moved, Some(vec![send(4, 4, 3), send(5, 5, 3)]));
    // An opening that was answered twice opened one session; one of another asking is not used.
    assert_eq!(client.handle_opened(seconds(1), 101, S), []);
    let stray = SessionId(at(77));
    assert_eq!(client.handle_opened(seconds(1), 99, stray), [Effect::End { session: stray }]);
}

#[test]
fn only_the_newest_try_is_believed() {
    let mut client = client();
    client.handle_request(seconds(1), Ticket(1));
    client.handle_opened(seconds(1), 101, S);
    let again = client.retry(seconds(2), Ticket(1));
    assert_eq!(again, Some((Attempt(2), Numbered { session: S, number: 1, lowest: 1 })));
    assert_eq!(client.handle_answered(seconds(2), Ticket(1), Attempt(1)), None);
    assert_eq!(client.handle_answered(seconds(2), Ticket(1), Attempt(2)), Some(vec![]));
    assert_eq!(client.retry(seconds(2), Ticket(1)), None);
}

#[test]
fn who_gives_up_is_told_whether_it_may_have_been_carried_out() {
    let mut client = client();
    (1..=5).for_each(|ticket| drop(client.handle_request(seconds(1), Ticket(ticket))));
    client.handle_opened(seconds(1), 101, S);
    assert_eq!(client.handle_given_up(seconds(1), Ticket(5)), [fail(5, false)]);
    client.handle_try_ended(Ticket(1), Attempt(1), TryEnd::NothingChanged);
    assert_eq!(client.handle_given_up(seconds(1), Ticket(1)), [fail(1, false), send(4, 4, 2)]);
    assert_eq!(client.handle_given_up(seconds(1), Ticket(2)), [fail(2, true)]);
    // Once unknown, a later refusal does not make it known.
    client.handle_try_ended(Ticket(3), Attempt(1), TryEnd::Unknown);
    client.retry(seconds(1), Ticket(3));
    client.handle_try_ended(Ticket(3), Attempt(2), TryEnd::NothingChanged);
    assert_eq!(client.handle_given_up(seconds(1), Ticket(3)), [fail(3, true)]);
    assert_eq!(client.handle_given_up(seconds(1), Ticket(3)), []);
}

#[test]
fn an_expired_session_ends_what_was_sent_in_it_and_takes_the_rest_along() {
    let mut client = client();
    (1..=4).for_each(|ticket| drop(client.handle_request(seconds(1), Ticket(ticket))));
    client.handle_opened(seconds(1), 101, S);
    let effects = client.handle_expired(seconds(2), S);
    assert_eq!(effects, [fail(1, true), fail(2, true), fail(3, true), Effect::Open { nonce: 102 }]);
    assert_eq!(client.handle_expired(seconds(2), S), []);
    let next = SessionId(at(9));
    let sent = Effect::Send { ticket: Ticket(4), numbered: Numbered { session: next, number: 1, lowest: 1 } };
    assert_eq!(client.handle_opened(seconds(2), 102, next), [sent]);
}

#[test]
fn a_session_is_left_before_it_can_expire() {
    let mut client = client();
    client.handle_request(seconds(1), Ticket(1));
    client.handle_opened(seconds(1), 101, S);
    client.handle_answered(seconds(1), Ticket(1), Attempt(1));
    let told = Effect::Acknowledge { session: S, lowest: 2 };
    assert_eq!(client.handle_tick(seconds(3)), [told]);
    assert_eq!(client.handle_tick(seconds(4)), []);
    let renewed = [Effect::End { session: S }, Effect::Open { nonce: 102 }];
    assert_eq!(client.handle_request(seconds(7), Ticket(2)), renewed);
}

#[test]
fn an_opening_that_is_refused_refuses_whoever_waits_for_it() {
    let mut client = client();
    client.handle_request(seconds(1), Ticket(1));
    let refused = Effect::Fail { ticket: Ticket(1), failure: Failure::Overloaded };
    assert_eq!(client.handle_open_refused(101, &Failure::Overloaded), [refused]);
    assert_eq!(client.handle_request(seconds(2), Ticket(2)), [Effect::Open { nonce: 102 }]);
    let stopped = Effect::Fail { ticket: Ticket(2), failure: Failure::NotReady };
    assert_eq!(client.handle_end(), [stopped]);
}
