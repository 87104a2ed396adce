//! Workers without a cluster: started and called as the runtime does it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tumen_actors::partitions::host::KindsError;
use tumen_core::partitions::request::{BODY_LEN_MAX, Failure, MessageId};

use super::testing::{Lone, started};
use super::{
    Context, Handle, Handlers, Merge, Message, Replicated, Worker, WorkerError, hosting, replicating,
};
use crate::error::{Error, Result};

#[derive(Serialize, Deserialize)]
struct Add(u32);

impl Message for Add {
    type Reply = u32;
}

#[derive(Serialize, Deserialize)]
struct Where;

impl Message for Where {
    type Reply = (String, String, u64);
    const IDEMPOTENT: bool = true;

    fn name() -> &'static str {
        "where"
    }
}

/// Asks for a reply of so many bytes.
#[derive(Serialize, Deserialize)]
struct Fill(usize);

impl Message for Fill {
    type Reply = String;
}

#[derive(Default)]
struct Counter {
    total: u32,
    stopped: Arc<AtomicU32>,
}

impl Worker for Counter {
    const KIND: &'static str = "counter";

    async fn on_stop(&mut self, cx: &mut Context<Self>) {
        assert_eq!(cx.partition_name(), "partition-3");
        self.stopped.store(self.total, Ordering::SeqCst);
    }
}

impl Handle<Add> for Counter {
    async fn handle(&mut self, Add(n): Add, _: &mut Context<Self>) -> Result<u32> {
        tokio::task::yield_now().await;
        self.total = self.total.checked_add(n).ok_or_else(|| Error::rejected("full"))?;
        Ok(self.total)
    }
}

impl Handle<Where> for Counter {
    async fn handle(&mut self, _: Where, cx: &mut Context<Self>) -> Result<(String, String, u64)> {
        assert_eq!(cx.partition(), cx.fence().partition);
        Ok((cx.partition_name().to_owned(), cx.node().to_string(), cx.epoch().0))
    }
}

impl Handle<Fill> for Counter {
    async fn handle(&mut self, Fill(len): Fill, _: &mut Context<Self>) -> Result<String> {
        self.total += 1;
        Ok("x".repeat(len))
    }
}

fn all(handlers: Handlers<Counter>) -> Handlers<Counter> {
    handlers.handles::<Add>().handles::<Where>().handles::<Fill>()
}

async fn counter() -> Lone {
    Lone::start(hosting(|_| async { Ok(Counter::default()) }, all)).await
}

#[tokio::test]
async fn typed_calls_reach_their_handlers() {
    let mut counter = counter().await;
    assert_eq!(counter.call(&Add(2)).await, Ok(2));
    assert_eq!(counter.call(&Add(3)).await, Ok(5));
    assert_eq!(counter.call(&Where).await, Ok(("partition-3".into(), "node-1".into(), 7)));
    assert_eq!(counter.call(&Add(u32::MAX)).await, Err(Failure::Rejected("full".into())));
    assert_eq!(counter.call(&Add(1)).await, Ok(6), "what was refused changed nothing");
}

#[tokio::test]
async fn bad_bytes_are_refused_with_the_messages_name() {
    let mut counter = counter().await;
    let add = MessageId::of(Add::name());
    for bad in [&b""[..], b"\x01", b"\x01\0\0\0\0"] {
        let Err(Failure::Rejected(why)) = counter.send(add, Bytes::from_static(bad)).await else { panic!() };
        assert!(why.contains(Add::name()), "{why}");
    }
    let unknown = counter.send(MessageId::of("unknown"), Bytes::new()).await;
    assert!(matches!(unknown, Err(Failure::Rejected(why)) if why.starts_with("counter does not handle")));
    assert_eq!(counter.call(&Add(1)).await, Ok(1));
}

#[tokio::test]
async fn a_reply_that_is_too_long_is_no_refusal() {
    let mut counter = counter().await;
    let fits = BODY_LEN_MAX - size_of::<u64>();
    assert_eq!(counter.call(&Fill(fits)).await.map(|text| text.len()), Ok(fits));
    let failure = counter.call(&Fill(fits + 1)).await.unwrap_err();
    assert!(failure.maybe_changed(), "{failure}");
    assert_eq!(counter.call(&Add(0)).await, Ok(2), "both were carried out");
}

#[tokio::test]
async fn a_worker_is_told_that_it_stops() {
    let stopped = Arc::new(AtomicU32::new(0));
    let shown = Arc::clone(&stopped);
    let start = move |_| {
        let stopped = Arc::clone(&shown);
        async move { Ok(Counter { total: 40, stopped }) }
    };
    let mut counter = Lone::start(hosting(start, all)).await;
    assert_eq!(counter.call(&Add(2)).await, Ok(42));
    counter.stop().await;
    assert_eq!(stopped.load(Ordering::SeqCst), 42);
}

#[tokio::test]
async fn a_start_that_fails_says_why() {
    let start = |place: super::Place| async move {
        Err::<Counter, _>(Error::rejected(format!("no room for {}", place.partition_name)))
    };
    let hosted = hosting(start, all).unwrap();
    let why = started(hosted).await.err().unwrap();
    assert!(why.contains("no room for partition-3"), "{why}");
}

#[test]
fn a_kind_is_listed_with_its_messages() {
    let hosted = hosting(|_| async { Ok(Counter::default()) }, |w| all(all(w))).unwrap();
    assert_eq!(hosted.kind.as_str(), "counter");
    let mut names: Vec<_> = hosted.messages.iter().map(|(_, name)| *name).collect();
    names.sort_unstable();
    let mut expected = [Add::name(), Fill::name(), "where"];
    expected.sort_unstable();
    assert_eq!(names, expected);
    assert!(hosted.messages.is_sorted());
}

#[derive(Serialize, Deserialize)]
struct Elsewhere;

impl Message for Elsewhere {
    type Reply = ();

    fn name() -> &'static str {
        "where"
    }
}

impl Handle<Elsewhere> for Counter {
    async fn handle(&mut self, _: Elsewhere, _: &mut Context<Self>) -> Result<()> {
        Ok(())
    }
}

#[derive(Default)]
struct Nameless;

impl Worker for Nameless {
    const KIND: &'static str = "no name";
}

#[test]
fn a_worker_that_cannot_be_hosted_is_refused_with_the_reason() {
    let refused = hosting(|_| async { Ok(Counter::default()) }, |w| all(w).handles::<Elsewhere>());
    let Err(WorkerError::Message { kind: "counter", name: "where", first, second }) = refused else {
        panic!()
    };
    assert!(first.ends_with("::Where") ^ second.ends_with("::Where"), "{first} {second}");
    let refused = hosting(|_| async { Ok(Nameless) }, |w| w).unwrap_err();
    assert!(refused.to_string().contains("Nameless has a KIND that cannot be taken"), "{refused}");
}

/// A set that only grows.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct Seen(std::collections::BTreeSet<u32>);

impl Worker for Seen {
    const KIND: &'static str = "seen";
}

impl Replicated for Seen {
    type Change = u32;

    fn apply(&mut self, n: u32) {
        self.0.insert(n);
    }
}

impl Merge for Seen {
    fn merge(&self, other: Self) -> Vec<u32> {
        assert!(!other.0.contains(&13), "thirteen");
        other.0.difference(&self.0).copied().collect()
    }
}

impl Handle<Add> for Seen {
    async fn handle(&mut self, Add(n): Add, cx: &mut Context<Self>) -> Result<u32> {
        cx.commit(self, n)?;
        Ok(self.0.len() as u32)
    }
}

fn written(seen: impl IntoIterator<Item = u32>) -> Bytes {
    Seen(seen.into_iter().collect()).snapshot().unwrap()
}

#[tokio::test]
async fn a_worker_that_merges_says_what_is_missing_and_takes_it() {
    let hosted = replicating::<Seen>(|w| w.handles::<Add>().merges()).unwrap();
    assert!(hosted.merges);
    let mut host = started(hosted).await.unwrap();
    let add = |n| (MessageId::of(Add::name()), super::encode(&Add(n)).unwrap());
    let (message, body) = add(1);
    host.handle(message, body).await.unwrap();
    let changes = host.plan_merge(&written([1, 2, 3])).unwrap();
    assert_eq!(changes.len(), 2, "one was there");
    assert!(!host.journal().unwrap().take().is_empty(), "what the handler did; planning changes nothing");
    assert!(host.journal().unwrap().take().is_empty());
    for change in changes {
        host.make_change(change).unwrap();
    }
    assert_eq!(host.journal().unwrap().take().as_slice().len(), 2);
    assert_eq!(host.plan_merge(&written([3, 2])).unwrap(), Vec::<Bytes>::new());
    let unreadable = host.plan_merge(b"no set").unwrap_err();
    assert!(unreadable.starts_with("it cannot be read"), "{unreadable}");
    assert!(host.make_change(Bytes::from_static(b"?")).is_err());
    assert!(host.journal().unwrap().take().is_empty());
    let (message, body) = add(4);
    let count: u32 = tumen_actors::codec::decode_body(&host.handle(message, body).await.unwrap()).unwrap();
    assert_eq!(count, 4);
}

#[tokio::test]
async fn a_worker_that_does_not_merge_says_so() {
    let hosted = replicating::<Seen>(|w| w.handles::<Add>()).unwrap();
    assert!(!hosted.merges);
    let mut host = started(hosted).await.unwrap();
    let add = |n| (MessageId::of(Add::name()), super::encode(&Add(n)).unwrap());
    let (message, body) = add(1);
    host.handle(message, body).await.unwrap();
    assert_eq!(host.plan_merge(&written([2])).unwrap_err(), "seen does not merge");

    let kinds = |hosted: Vec<_>| tumen_actors::partitions::Kinds::new(hosted).unwrap();
    let stateless = || hosting(|_| async { Ok(Counter::default()) }, |w| w).unwrap();
    let unmergeable = kinds(vec![stateless(), replicating::<Seen>(|w| w).unwrap()]);
    assert_eq!(unmergeable.unmergeable().map(|kind| kind.as_str()).collect::<Vec<_>>(), ["seen"]);
    let mergeable = kinds(vec![stateless(), replicating::<Seen>(|w| w.merges()).unwrap()]);
    assert_eq!(mergeable.unmergeable().count(), 0);
}

#[test]
fn only_what_keeps_copies_can_merge_and_its_message_is_nobody_elses() {
    let refused = hosting(|_| async { Ok(Seen::default()) }, |w: Handlers<Seen>| w.merges()).unwrap_err();
    assert_eq!(refused, WorkerError::Merges { kind: "seen" });
    assert!(refused.to_string().contains("Builder::replicated"), "{refused}");

    #[derive(Serialize, Deserialize)]
    struct Forged;
    impl Message for Forged {
        type Reply = ();
        fn name() -> &'static str {
            tumen_actors::partitions::merging::NAME
        }
    }
    impl Handle<Forged> for Counter {
        async fn handle(&mut self, _: Forged, _: &mut Context<Self>) -> Result<()> {
            Ok(())
        }
    }
    let forged = hosting(|_| async { Ok(Counter::default()) }, |w| w.handles::<Forged>()).unwrap();
    let refused = tumen_actors::partitions::Kinds::new(vec![forged]).unwrap_err();
    assert!(matches!(refused, KindsError::Reserved { .. }), "{refused}");
}
