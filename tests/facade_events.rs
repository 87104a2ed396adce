//! Listeners that a builder is given: one that panics and one that sleeps harm neither the node nor each other.
//!
//! One test, for one node runs in a process at a time.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends there")]

mod harness;

use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use harness::PATIENCE;
use tumen::prelude::*;
use tumen::{Event, Told};

/// The next event that is such.
fn until(heard: &mpsc::Receiver<Told>, mut is_it: impl FnMut(&Told) -> bool) -> Told {
    loop {
        let told = heard.recv_timeout(PATIENCE).unwrap();
        if is_it(&told) {
            return told;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn listeners_that_panic_or_sleep_harm_nobody() {
    let (tell, heard) = mpsc::channel();
    let (tell_panicking, panicked) = mpsc::channel();
    let (wake, sleeping) = mpsc::channel::<()>();
    let slept: Arc<Mutex<Vec<Told>>> = Arc::default();
    let sleeper = Arc::clone(&slept);
    let node = Node::builder("events", "node-1")
        .listen("127.0.0.1:0")
        .partitions(4)
        .replication(1)
        .kv()
        .echo()
        .on_event(move |told| drop(tell.send(told.clone())))
        .on_event(move |told| {
            drop(tell_panicking.send(told.clone()));
            assert!(told.number.is_none_or(|number| number % 100 != 1), "told to, from the first event on");
        })
        .on_event(move |told| {
            sleeper.lock().unwrap().push(told.clone());
            // It blocks its own thread until the test lets it go on.
            let _ = sleeping.recv();
        })
        .start()
        .await
        .unwrap();
    tokio::time::timeout(PATIENCE, node.ready()).await.unwrap().unwrap();

    // More than are kept, while one of them sleeps.
    let (mut number, mut numbers) = (0_u32, Vec::new());
    while numbers.last().is_none_or(|last| *last < 4_200) {
        let sets = (0..50).map(|more| node.set_cluster_wide("number", number + more));
        for set in futures_util::future::join_all(sets).await {
            set.unwrap();
        }
        number += 50;
        numbers.extend(heard.try_iter().filter_map(|told: Told| told.number));
    }
    let expected: Vec<u64> = (1..=numbers.len() as u64).collect();
    assert_eq!(numbers, expected, "each once, in order, without a gap");
    // The one that panics hears the same.
    let last = *numbers.last().unwrap();
    let mut all = 0;
    until(&panicked, |told| {
        all += u64::from(told.number.is_some());
        told.number == Some(last)
    });
    assert_eq!(all, last);

    // What happens to names is told too, and has no number.
    node.start_child::<tumen::names::echo::Echo>("greeter", String::new()).await.unwrap();
    let started = until(&heard, |told| matches!(told.event, Event::ChildStarted { .. }));
    assert_eq!(started.number, None);

    // The one that slept is told how many it missed, and goes on with the oldest that is kept.
    assert_eq!(slept.lock().unwrap().len(), 1);
    drop(wake);
    let begun = Instant::now();
    loop {
        let heard = slept.lock().unwrap().clone();
        let missed = heard.iter().find_map(|told| match told.event {
            Event::Missed { count } => Some(count),
            _ => None,
        });
        if let (Some(count), Some(next)) = (missed, heard.iter().filter_map(|told| told.number).nth(1)) {
            assert_eq!(next, 1 + count + 1, "after the first and those that were missed");
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "{} heard", heard.len());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    tokio::time::timeout(PATIENCE, node.stop()).await.unwrap();
}
