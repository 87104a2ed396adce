//! The stories of the laboratory on the real network: every node is a process of its own, on loopback.

#![allow(missing_docs, unreachable_pub, reason = "a test")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends there")]

#[path = "transport_lab/lab.rs"]
mod lab;
#[path = "transport_lab/processes.rs"]
mod processes;

use std::time::{Duration, Instant};

use lab::{Lab, Start};
use processes::Processes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tumen_actors::transport::{Cookie, Settings, network};
use tumen_core::wire::PROTOCOL;

/// No test: what the other processes run. Without its orders in the environment it does nothing.
#[test]
fn node_process() {
    processes::run_if_asked();
}

macro_rules! stories {
    ($($story:ident),* $(,)?) => { $(
        #[tokio::test]
        async fn $story() {
            lab::$story(&mut Processes::default()).await;
        }
    )* };
}

stories! {
    two_nodes_meet_talk_and_keep_order,
    every_request_ends,
    a_copy_arrives_whole,
    what_is_said_and_asked_never_waits_behind_a_copy,
    nodes_that_dial_each_other_at_once_share_one_session,
    a_killed_node_is_noticed_and_its_address_refuses,
    a_node_restarted_ten_times_is_found_each_time,
    a_frozen_node_is_suspected_bounds_what_waits_and_comes_back,
    strangers_are_refused_with_the_reason_on_both_sides,
    a_living_node_keeps_its_name,
    a_session_that_was_ended_is_followed_by_a_new_one,
    who_stops_is_heard_to_the_last_word,
}

/// What the listener is: one node, and a client that says whatever it likes.
async fn one_node() -> (Processes, String) {
    let mut lab = Processes::default();
    let address = lab.start(Start::new("a")).await;
    (lab, address)
}

/// Says `bytes` to an address, and waits until the other side closes; returns what it answered.
async fn say(address: &str, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).await.expect("somebody listens");
    // The other side may close before it has read everything.
    drop(stream.write_all(bytes).await);
    let mut answer = Vec::new();
    let closed = tokio::time::timeout(Duration::from_secs(30), stream.read_to_end(&mut answer)).await;
    drop(closed.expect("it is closed within seconds"));
    answer
}

/// The first bytes of a good dialler.
fn opening(lane: u8) -> Vec<u8> {
    let mut bytes = b"tumen\n".to_vec();
    bytes.extend_from_slice(&PROTOCOL.to_le_bytes());
    bytes.extend_from_slice(&[lane, 0]);
    bytes.extend_from_slice(&[9; 40]);
    bytes
}

#[tokio::test]
async fn hostile_bytes_close_the_connection_and_disturb_nobody() {
    let (mut lab, address) = one_node().await;
    lab.start(Start::new("b")).await;
    lab.order("b", &format!("meet {address}")).await;
    lab.connected("a", &["b"]).await;
    let statement = |len: u32, bytes: &[u8]| [&opening(1)[..], &len.to_le_bytes(), bytes].concat();
    let offences = [
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(),
        vec![0xff; 100_000],
        opening(9),
        // A data lane and a copy without a pass.
        opening(2),
        opening(3),
        statement(u32::MAX, b""),
    ];
    for offence in &offences {
        let begun = Instant::now();
        say(&address, offence).await;
        // At once, where nobody else wants the machine; who is silent is heard for longer than this.
        assert!(begun.elapsed() < Duration::from_secs(10), "closed late: {offence:?}");
    }
    lab.until("a", "counts", |counts| counts.contains(&format!("hostile: {}", offences.len()))).await;
    // Without the cookie nobody's greeting is read; but whoever asks is told why.
    let refused = say(&address, &statement(3, &[0; 35])).await;
    assert!(refused.len() > 50, "a refusal came back");
    lab.until("a", "log", |log| log.ends_with("refused Cookie by us")).await;
    // A port scan, and a dial that was given up, are no offence.
    for part in [0, 20] {
        let mut stream = TcpStream::connect(&address).await.expect("somebody listens");
        stream.write_all(&opening(1)[..part]).await.expect("it is read");
    }
    assert_eq!(lab.order("a", "call b hello").await, "hello");
    lab.until("a", "counts", |counts| counts.contains(&format!("hostile: {}", offences.len()))).await;
}

#[tokio::test]
async fn idle_strangers_are_few_and_are_closed_within_seconds() {
    let (mut lab, address) = one_node().await;
    lab.start(Start::new("b")).await;
    lab.order("b", &format!("meet {address}")).await;
    lab.connected("a", &["b"]).await;
    let begun = Instant::now();
    let idle: Vec<_> = (0..300)
        .map(|number| {
            let address = address.clone();
            // Some say nothing, some stop in the middle.
            tokio::spawn(async move { say(&address, &opening(1)[..number % 50]).await })
        })
        .collect();
    assert_eq!(lab.order("a", "call b hello").await, "hello");
    for stranger in idle {
        stranger.await.expect("it was closed");
    }
    assert!(begun.elapsed() < Duration::from_secs(30), "closed late");
    assert_eq!(lab.order("a", "call b hello").await, "hello");
    // Whoever was turned away before may come now.
    lab.start(Start::new("c")).await;
    lab.order("c", &format!("meet {address}")).await;
    lab.connected("a", &["b", "c"]).await;
}

#[tokio::test]
async fn flooding_a_frozen_node_takes_bounded_memory() {
    let (mut lab, address) = one_node().await;
    lab.start(Start::new("b")).await;
    lab.order("b", &format!("meet {address}")).await;
    lab.connected("a", &["b"]).await;
    let before = resident(&lab, "a");
    lab.freeze("b").await;
    for _ in 0..20 {
        let flood = lab.order("a", "flood b 20000").await;
        if flood.ends_with("Err(NoSession)") {
            break;
        }
    }
    let grown = resident(&lab, "a").saturating_sub(before);
    assert!(grown < 160 << 20, "grown by {} MiB", grown >> 20);
    lab.until("a", "log", |log| log.contains("down b 1 Silence")).await;
    lab.thaw("b").await;
}

/// The bytes of memory that a node's process holds.
fn resident(lab: &Processes, node: &str) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", lab.id(node))).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("Linux");
    line.trim().trim_end_matches(" kB").parse::<usize>().expect("a number") << 10
}

#[tokio::test]
async fn a_process_has_one_node_on_the_network_and_another_one_after_it() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound").to_string();
    let open = || {
        let greeting = lab::greeting("lab", "z", 1, &address, PROTOCOL);
        let greet = std::sync::Arc::new(move || greeting.clone());
        network::open(&listener, greet, Cookie::new(b"secret"), Settings::default())
    };
    let first = open().await.expect("it opens");
    let second = open().await.expect_err("one in a process");
    assert!(second.to_string().contains("start another process"), "{second}");
    let mut lab = Processes::default();
    lab.start(Start::new("a")).await;
    first.start();
    lab.order("a", &format!("meet {address}")).await;
    lab.connected("a", &["z"]).await;
    first.stop().await;
    lab.until("a", "log", |log| log.contains("down z 1 Closed")).await;
    // The socket is the caller's: it still listens, and nobody speaks.
    assert_eq!(lab.order("a", &format!("probe {address} 1000")).await, "Accepted");
    let third = open().await.expect("it opens again");
    third.stop().await;
}
