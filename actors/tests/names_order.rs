//! What one node sends to one name, over the simulated network: it arrives in the order in which it was sent, whatever becomes
//! of the holder; no more waits than may; and whatever does not arrive was told so.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends there")]

mod nodes;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use nodes::teller::{kind, named, spec};
use nodes::{kinds, until};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tumen_actors::names::NameFailure;
use tumen_actors::names::child::{ChildHost, ChildKinds, ChildPlace, NotMade};
use tumen_actors::node::Runtime;
use tumen_actors::partitions::router::CallOptions;
use tumen_actors::transport::simulated::{Weather, World};
use tumen_core::names::line::WAITING_MAX;
use tumen_core::names::{ClaimNumber, Name};
use tumen_core::partitions::request::{Failure, MessageId, Reply};
use tumen_core::supervision::Restart;

const WITHIN: Duration = Duration::from_secs(40);

/// What arrived: at which instance, and which message.
type Log = Arc<Mutex<Vec<(ClaimNumber, u64)>>>;

struct Recorder {
    place: ChildPlace,
    log: Log,
}

impl ChildHost for Recorder {
    fn handle(&mut self, _: MessageId, body: Bytes) -> BoxFuture<'_, Reply> {
        Box::pin(async move {
            assert_ne!(body.as_ref(), b"panic", "told to");
            let number = u64::from_le_bytes(body.as_ref().try_into().unwrap());
            self.log.lock().unwrap().push((self.place.number, number));
            Ok(body)
        })
    }
}

/// Children that write down what they are told. Later instances start as their arguments say: after three seconds, never,
/// or not.
fn recorders(log: &Log, first: &Arc<Mutex<BTreeSet<Name>>>) -> ChildKinds {
    let (log, first) = (Arc::clone(log), Arc::clone(first));
    let start = move |place: ChildPlace| -> BoxFuture<'static, Result<Box<dyn ChildHost>, NotMade>> {
        let log = Arc::clone(&log);
        let is_first = first.lock().unwrap().insert(place.name.clone());
        Box::pin(async move {
            match place.args.as_ref() {
                b"slow" if !is_first => tokio::time::sleep(Duration::from_secs(3)).await,
                b"hangs" if !is_first => std::future::pending().await,
                b"once" if !is_first => return Err(NotMade::Failed("once is enough".into())),
                _ => {}
            }
            Ok(Box::new(Recorder { place, log }) as Box<dyn ChildHost>)
        })
    };
    ChildKinds::new(vec![(kind(), Arc::new(start))]).unwrap()
}

async fn cluster(world: &World, n: usize) -> (Vec<Runtime>, Log) {
    nodes::show_logs();
    let (mut nodes, log, first) = (Vec::new(), Log::default(), Arc::default());
    for at in 1..=n {
        let (seeds, min_nodes) = if at == 1 { (&[][..], n) } else { (&[1][..], 1) };
        let mut settings = named(world, at, seeds, min_nodes);
        settings.children = recorders(&log, &first);
        nodes.push(Runtime::start(settings, kinds()).await.unwrap());
    }
    nodes::all_ready(&nodes).await;
    (nodes, log)
}

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn options(within: Duration) -> CallOptions {
    CallOptions { within, ..CallOptions::default() }
}

fn cast(node: &Runtime, text: &str, number: u64) -> Result<(), NameFailure> {
    let body = Bytes::copy_from_slice(&number.to_le_bytes());
    node.names().cast(&name(text), MessageId::of("record"), body, options(WITHIN))
}

/// Sends a call now, and has somebody wait for its answer.
async fn begin_call(node: &Runtime, text: &str, number: u64, within: Duration) -> JoinHandle<Told> {
    let (node, name) = (node.clone(), name(text));
    let mut calling = Box::pin(async move {
        let body = Bytes::copy_from_slice(&number.to_le_bytes());
        node.names().call_with(&name, MessageId::of("record"), body, options(within)).await
    });
    match futures_util::poll!(calling.as_mut()) {
        std::task::Poll::Ready(told) => tokio::spawn(async move { told }),
        std::task::Poll::Pending => tokio::spawn(calling),
    }
}

type Told = Result<Bytes, NameFailure>;

async fn start(node: &Runtime, text: &str, args: &str) -> tumen_actors::names::Found {
    node.names().start(&name(text), spec(args, Restart::Permanent), Bytes::new(), WITHIN).await.unwrap()
}

async fn make_it_panic(node: &Runtime, text: &str) {
    let body = Bytes::from_static(b"panic");
    let told = node.names().call(&name(text), MessageId::of("record"), body, WITHIN).await;
    assert!(matches!(told, Err(NameFailure::Call(Failure::WorkerFailed(_)))), "{told:?}");
}

fn arrived(log: &Log) -> Vec<u64> {
    log.lock().unwrap().iter().map(|(_, number)| *number).collect()
}

/// Sends messages, each third of them a call, and does something in their midst. Who was told what.
async fn send_all(
    node: &Runtime,
    text: &str,
    count: u64,
    mut between: impl FnMut(u64),
) -> (Vec<(u64, Result<(), NameFailure>)>, Vec<(u64, Told)>) {
    let (mut casts, mut calls) = (Vec::new(), Vec::new());
    for number in 0..count {
        between(number);
        if number % 3 == 0 {
            calls.push((number, begin_call(node, text, number, WITHIN).await));
        } else {
            casts.push((number, cast(node, text, number)));
        }
        if number % 10 == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    let mut told = Vec::new();
    for (number, call) in calls {
        told.push((number, call.await.unwrap()));
    }
    (casts, told)
}

#[tokio::test(start_paused = true)]
async fn what_is_sent_while_the_holders_node_is_killed_arrives_in_order_and_never_twice() {
    for seed in 0..4 {
        let world = World::new(700 + seed, Weather::default());
        let (nodes, log) = cluster(&world, 3).await;
        let first = start(&nodes[0], "one", "").await;
        let sender = nodes.iter().find(|node| *node.id() != first.holder.node).unwrap();
        // From then on the sender knows that nobody answers: all that is sent waits.
        let known = Arc::new(Mutex::new(None));
        let (casts, calls) = send_all(sender, "one", 3000, |number| {
            if number == 500 + 7 * seed {
                world.crash(&first.holder.node);
            }
            let found = sender.names().lookup(&name("one"));
            if found.is_none_or(|found| found.number != first.number) {
                known.lock().unwrap().get_or_insert(number);
            }
        })
        .await;
        until("the last has arrived", || arrived(&log).last() == Some(&2999)).await;
        let known = known.lock().unwrap().expect("the crash was seen while messages were sent");
        let log = log.lock().unwrap().clone();
        assert!(
            log.is_sorted_by(|one, other| one.0 <= other.0),
            "seed {seed}: an instance after a later one"
        );
        assert!(log.is_sorted_by(|one, other| one.1 < other.1), "seed {seed}: not in order, or twice");
        let there: BTreeSet<u64> = log.iter().map(|(_, number)| *number).collect();
        assert_eq!(log.iter().map(|(number, _)| number).collect::<BTreeSet<_>>().len(), 2, "two instances");
        for (number, told) in &calls {
            match told {
                Ok(_) => assert!(there.contains(number), "seed {seed}: {number} was answered"),
                Err(NameFailure::Call(failure)) if failure.maybe_changed() => {
                    assert!(*number < known, "seed {seed}: {number} waited, and {failure}");
                }
                Err(why) => assert!(!there.contains(number), "seed {seed}: {number} was told {why}"),
            }
        }
        let mut lost = 0;
        for (number, told) in &casts {
            match told {
                Ok(()) if *number >= known => assert!(there.contains(number), "seed {seed}: {number} waited"),
                Ok(()) => lost += u64::from(!there.contains(number)),
                Err(why) => panic!("seed {seed}: {number}: {why}"),
            }
        }
        // Only what was on its way when the node died is lost.
        assert!(lost < 200, "seed {seed}: {lost}");
        assert_eq!(sender.names().waiting(), 0);
        world.end();
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_sent_while_a_child_moves_and_moves_again_arrives_all_of_it_in_order() {
    let world = World::new(711, Weather::default());
    let (nodes, log) = cluster(&world, 3).await;
    start(&nodes[0], "one", "").await;
    let mover = nodes[1].clone();
    let (casts, calls) = send_all(&nodes[0], "one", 3000, |number| {
        if number % 500 == 250 {
            let mover = mover.clone();
            tokio::spawn(async move { mover.names().relocate(&name("one"), WITHIN).await });
        }
    })
    .await;
    until("the last has arrived", || arrived(&log).last() == Some(&2999)).await;
    assert!(casts.iter().all(|(_, told)| told.is_ok()));
    for (number, told) in &calls {
        assert!(told.is_ok(), "{number}: {told:?}");
    }
    assert_eq!(arrived(&log), (0..3000).collect::<Vec<_>>());
    let instances: BTreeSet<_> = log.lock().unwrap().iter().map(|(number, _)| *number).collect();
    assert!(instances.len() > 2, "it moved: {instances:?}");
}

#[tokio::test(start_paused = true)]
async fn a_full_line_says_so_at_once_and_holds_up_no_other_name() {
    let world = World::new(712, Weather::default());
    let (nodes, log) = cluster(&world, 2).await;
    start(&nodes[0], "one", "slow").await;
    start(&nodes[0], "other", "").await;
    make_it_panic(&nodes[0], "one").await;
    until("nobody answers", || nodes[0].names().lookup(&name("one")).is_none()).await;
    let begun = Instant::now();
    for number in 0..WAITING_MAX as u64 {
        cast(&nodes[0], "one", number).unwrap();
    }
    let full = NameFailure::QueueFull(name("one"));
    assert_eq!(cast(&nodes[0], "one", 9999), Err(full.clone()));
    assert_eq!(begin_call(&nodes[0], "one", 9999, WITHIN).await.await.unwrap(), Err(full.clone()));
    assert_eq!(begun.elapsed(), Duration::ZERO, "at once");
    assert!(full.to_string().contains("nothing changed"), "{full}");
    assert_eq!(nodes[0].names().waiting(), WAITING_MAX);
    // Another name, and another node, know nothing of it.
    begin_call(&nodes[0], "other", 7, WITHIN).await.await.unwrap().unwrap();
    assert!(begun.elapsed() < Duration::from_millis(100), "{:?}", begun.elapsed());
    let patient = begin_call(&nodes[1], "one", 10_000, WITHIN).await;
    // Each has its own deadline, and does not hold up the others.
    let hurried = begin_call(&nodes[1], "one", 8888, Duration::from_millis(300)).await.await.unwrap();
    assert_eq!(hurried, Err(Failure::NotReady.into()));
    let late = begun.elapsed();
    assert!((300..500).contains(&late.as_millis()), "{late:?}");
    assert!(patient.await.unwrap().is_ok());
    until("all have arrived", || arrived(&log).len() == WAITING_MAX + 2).await;
    let mine: Vec<u64> = arrived(&log).into_iter().filter(|number| *number < 4096 && *number != 7).collect();
    let expected: Vec<u64> = (0..WAITING_MAX as u64).filter(|number| *number != 7).collect();
    assert_eq!(mine, expected);
    assert!(
        !arrived(&log).iter().any(|number| [8888, 9999].contains(number)),
        "they were told that it was not"
    );
    cast(&nodes[0], "one", 20_000).unwrap();
    until("and it goes on", || arrived(&log).last() == Some(&20_000)).await;
}

#[tokio::test(start_paused = true)]
async fn who_waits_is_told_when_the_name_is_free_for_good() {
    let world = World::new(713, Weather::default());
    let (nodes, log) = cluster(&world, 2).await;
    start(&nodes[0], "one", "once").await;
    make_it_panic(&nodes[0], "one").await;
    until("nobody answers", || nodes[1].names().lookup(&name("one")).is_none()).await;
    let waits = begin_call(&nodes[1], "one", 1, 1000 * WITHIN).await;
    cast(&nodes[1], "one", 2).unwrap();
    let begun = Instant::now();
    let told = waits.await.unwrap();
    assert!(matches!(told, Err(NameFailure::Call(Failure::NoPartition(_)))), "{told:?}");
    assert!(begun.elapsed() < WITHIN, "{:?}", begun.elapsed());
    assert!(matches!(cast(&nodes[1], "one", 3), Err(NameFailure::Call(Failure::NoPartition(_)))));
    assert_eq!((nodes[1].names().waiting(), arrived(&log)), (0, vec![]));
}

#[tokio::test(start_paused = true)]
async fn who_waits_is_told_when_its_node_stops() {
    let world = World::new(714, Weather::default());
    let (nodes, log) = cluster(&world, 3).await;
    let started = start(&nodes[0], "one", "hangs").await;
    let node = nodes.iter().find(|node| *node.id() != started.holder.node).unwrap();
    make_it_panic(node, "one").await;
    until("nobody answers", || node.names().lookup(&name("one")).is_none()).await;
    let waits = begin_call(node, "one", 1, 1000 * WITHIN).await;
    node.stop().await;
    let told = tokio::time::timeout(Duration::from_secs(1), waits).await.unwrap().unwrap();
    let answered = matches!(&told, Err(NameFailure::Call(Failure::NoPartition(why))) if why.contains("left"));
    assert!(answered && arrived(&log).is_empty(), "{told:?}");
}
