//! Handovers under load, some of them with a kill in the midst: every acknowledged increment counts once, the books close,
//! and all copies come out equal.
//!
//! `TUMEN_HANDOVERS` says how many handovers are forced; each moves several partitions.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends there")]

mod harness;
#[path = "history/wire.rs"]
#[allow(dead_code, unreachable_pub, reason = "this test takes of it what it needs")]
mod wire;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use harness::{Cluster, Options, PATIENCE, belief, check, wait_until};
use serde_json::Value as Json;
use wire::{Answer, Lost, Wire};

/// Clients at once. Several share each counter, so that they get in each other's way.
const CLIENTS: usize = 8;
const COUNTERS: usize = 12;

fn handovers() -> u64 {
    std::env::var("TUMEN_HANDOVERS").map_or(6, |text| text.parse().unwrap())
}

/// One client: adds one to this counter and that, each time for certain.
struct Client {
    number: usize,
    nodes: Vec<Wire>,
    at: usize,
    /// How often it was told that it had added one, by counter.
    added: BTreeMap<usize, u64>,
    asked_again: u64,
}

impl Client {
    fn run(&mut self, stop: &AtomicBool, done: &AtomicU64) {
        let mut turn = self.number;
        while !stop.load(Ordering::SeqCst) {
            turn = turn.wrapping_mul(31).wrapping_add(7);
            let counter = turn % COUNTERS;
            if self.increment(counter, turn) {
                *self.added.entry(counter).or_default() += 1;
                done.fetch_add(1, Ordering::SeqCst);
            }
        }
    }

    /// Whether one was added; else somebody else was quicker.
    fn increment(&mut self, counter: usize, turn: usize) -> bool {
        let path = format!("/kv/counter-{counter}");
        let read = self.surely("GET", &path, "", b"");
        let (value, tag) = match read.status {
            200 => (String::from_utf8(read.body).unwrap().parse().unwrap(), read.etag),
            _ => (0_u64, None),
        };
        let condition = match tag {
            Some(tag) => format!("if-match: {tag}\r\n"),
            None => "if-none-match: *\r\n".to_owned(),
        };
        // By this it is known again, however often and wherever it is sent.
        let key = format!("idempotency-key: {}-{turn}-{value}\r\n", self.number);
        let put = self.surely("PUT", &path, &(condition + &key), (value + 1).to_string().as_bytes());
        matches!(put.status, 201 | 204)
    }

    /// Asks until it is told for certain what became of it.
    fn surely(&mut self, method: &str, path: &str, headers: &str, body: &[u8]) -> Answer {
        let begun = Instant::now();
        loop {
            let asked = self.nodes[self.at].ask(Duration::from_secs(7), method, path, headers, body);
            match asked {
                Ok(answer) if matches!(answer.status, 200 | 201 | 204 | 404 | 412) => return answer,
                Ok(answer) if matches!(answer.status, 503 | 504) => {}
                Ok(answer) => {
                    panic!("{method} {path}: {} {}", answer.status, String::from_utf8_lossy(&answer.body))
                }
                Err(Lost::Unsent | Lost::Sent(_)) => {}
            }
            assert!(begun.elapsed() < PATIENCE, "{method} {path} is never answered");
            self.asked_again += 1;
            self.at = (self.at + 1) % self.nodes.len();
            thread::sleep(Duration::from_millis(2));
        }
    }
}

/// `POST path` at a node, whatever is answered.
fn post(cluster: &Cluster, at: usize, path: &str) -> Result<Answer, Lost> {
    Wire::new(&cluster.node(at).http).ask(Duration::from_secs(60), "POST", path, "", b"")
}

/// Has a node hand everything over, in one of several ways, and come back. Says which.
fn force(cluster: &mut Cluster, round: u64) -> &'static str {
    let victim = (round % 3) as usize;
    let asked = (victim + 1) % 3;
    let drain = format!("/nodes/{}/drain", cluster.node(victim).name);
    let what = match round % 4 {
        0 => {
            assert_eq!(post(cluster, asked, &drain).unwrap().status, 200);
            cluster.terminate(victim);
            "drained and stopped"
        }
        1 => {
            cluster.terminate(victim);
            "stopped in good order"
        }
        2 => {
            // In the midst of it, sooner or later.
            let http = cluster.node(asked).http.clone();
            thread::scope(|scope| {
                scope.spawn(move || {
                    // Nobody knows what becomes of it.
                    drop(Wire::new(&http).ask(Duration::from_secs(20), "POST", &drain, "", b""));
                });
                thread::sleep(Duration::from_millis(round * 7 % 40));
                cluster.kill9(victim);
            });
            "killed while it was drained"
        }
        _ => {
            // The one that is given partitions, while it is given them.
            cluster.restart(victim);
            wait_until("it is given copies or leads", PATIENCE, || {
                let stats = cluster.try_get(victim, "/partitions/stats")?;
                let led = stats["partitions_per_node"][&cluster.node(victim).name].as_u64().unwrap_or(0);
                check(led > 0, || stats.to_string())
            });
            cluster.kill9(victim);
            "killed when it had just come back"
        }
    };
    if !cluster.node(victim).is_running() {
        cluster.launch(victim);
    }
    what
}

#[test]
fn increments_count_once_and_the_books_close_however_partitions_move() {
    let options = Options::default().flags(&["--mode", "sync", "--partitions", "12", "--min-nodes", "3"]);
    let mut cluster = Cluster::start(3, options);
    let nodes: Vec<String> = (0..3).map(|number| cluster.node(number).http.clone()).collect();
    let (stop, done) = (AtomicBool::new(false), AtomicU64::new(0));
    let rounds = handovers();
    let clients: Vec<Client> = thread::scope(|scope| {
        let running: Vec<_> = (0..CLIENTS)
            .map(|number| {
                let nodes = nodes.iter().map(|node| Wire::new(node)).collect();
                let (stop, done) = (&stop, &done);
                scope.spawn(move || {
                    let added = BTreeMap::new();
                    let mut client = Client { number, nodes, at: number % 3, added, asked_again: 0 };
                    client.run(stop, done);
                    client
                })
            })
            .collect();
        for round in 0..rounds {
            let before = done.load(Ordering::SeqCst);
            wait_until("something is added", PATIENCE, || {
                check(done.load(Ordering::SeqCst) >= before + 20, || "too little".to_owned())
            });
            let what = force(&mut cluster, round);
            cluster.wait_until_settled();
            cluster.wait_until_balanced();
            eprintln!("{round}: {what}; {} added so far", done.load(Ordering::SeqCst));
        }
        stop.store(true, Ordering::SeqCst);
        running.into_iter().map(|client| client.join().unwrap()).collect()
    });

    let mut reader = Wire::new(&nodes[0]);
    for counter in 0..COUNTERS {
        let told: u64 = clients.iter().filter_map(|client| client.added.get(&counter)).sum();
        let answer = wait_until("a counter is read", PATIENCE, || {
            let read = reader.ask(Duration::from_secs(7), "GET", &format!("/kv/counter-{counter}"), "", b"");
            let read = read.map_err(|why| format!("{why:?}"))?;
            check(matches!(read.status, 200 | 404), || read.status.to_string()).map(|()| read)
        });
        let there = String::from_utf8(answer.body).unwrap().parse().unwrap_or(0_u64);
        assert_eq!(there, told, "counter-{counter} holds what its clients were told, no more and no less");
    }
    let again: u64 = clients.iter().map(|client| client.asked_again).sum();
    eprintln!("{} added in {rounds} handovers; {again} times asked again", done.load(Ordering::SeqCst));

    let mut moved = 0;
    for number in 0..3 {
        let ledger = wait_until("the books are closed", PATIENCE, || {
            let ledger = cluster.try_get(number, "/ledger")?;
            check(ledger["closed"] == true, || ledger["total"].to_string()).map(|()| ledger)
        });
        let (total, sum) = (&ledger["total"], |of: &Json| of.as_u64().unwrap());
        let rejected: u64 = total["rejected"].as_object().unwrap().values().map(sum).sum();
        let ended = sum(&total["answered"]) + rejected + sum(&total["expired"]);
        assert_eq!((sum(&total["sent"]), sum(&total["open"])), (ended, 0), "{total}");
        assert_eq!(ledger["balanced"], true, "{ledger}");
        let accounts = ledger["partitions"].as_object().unwrap().values();
        moved += accounts.map(|account| sum(&account["handovers_total"])).sum::<u64>();
    }
    eprintln!("{moved} partitions were handed over by those that live");

    // Every copy holds the same, whichever node is asked.
    let sync = post(&cluster, 1, "/partitions/full-sync").unwrap();
    let shown: Json = serde_json::from_slice(&sync.body).unwrap();
    assert_eq!((sync.status, &shown["equal"]), (200, &Json::from(true)), "{shown}");
    assert_eq!(shown["partitions"].as_array().map(Vec::len), Some(12), "{shown}");
    assert_eq!(cluster.get(2, "/moves")["count"], 0);
    belief::check(&cluster);
}
