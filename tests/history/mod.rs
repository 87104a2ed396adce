//! What clients asked of a few keys, and were told, while nodes were in trouble; and whether it can be explained.
//!
//! ```text
//!  Client × n ── GET, PUT, If-Match, DELETE ──▶ any node       each answer: certain, certainly nothing, or unknown
//!       │                                          ▲
//!       └──▶ History ──▶ check                     │ kills, freezes, restarts, cuts: Nemesis, from a seed
//! ```

// Every test file takes of this what it needs.
#![allow(dead_code, unreachable_pub)]

pub mod client;
pub mod nemesis;
pub mod wire;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use tumen_core::Moment;
use tumen_core::history::{Explained, History};

use super::harness::Cluster;
use super::harness::node::boot_time;

/// Values are numbers that are never written twice; a key is known by its name.
pub type Recorded = History<String, u64>;

/// How much work a key's history may be: far more than any took so far.
const EFFORT_MAX: u64 = 4_000_000;

/// The clock of all clients.
pub fn now() -> Moment {
    Moment::from_nanos(boot_time())
}

/// SplitMix64: a seed says what happens, as far as a test of real processes can.
#[derive(Clone, Debug)]
pub struct Chance(u64);

impl Chance {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        let at = self.below(of.len() as u64) as usize;
        &of[at]
    }
}

/// How clients are let loose.
#[derive(Clone, Debug)]
pub struct Load {
    /// How many.
    pub clients: usize,
    /// On which keys.
    pub keys: Vec<String>,
    /// What they think of between calls, at most, in microseconds.
    pub think_max_us: u64,
    /// How many of them stay at one node, come what may, and at which.
    pub staying: (usize, usize),
    /// From what they draw.
    pub seed: u64,
}

/// What came of a run, by outcome.
#[derive(Clone, Debug, Default)]
pub struct Told {
    /// By what was asked and what was told.
    pub counts: BTreeMap<(&'static str, String), u64>,
    /// The longest that a call took that was answered at last, in milliseconds.
    pub slowest_ms: u64,
}

impl Told {
    pub fn merge(&mut self, other: Self) {
        for (what, count) in other.counts {
            *self.counts.entry(what).or_default() += count;
        }
        self.slowest_ms = self.slowest_ms.max(other.slowest_ms);
    }
}

impl std::fmt::Display for Told {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for ((asked, told), count) in &self.counts {
            write!(f, "{asked} {told}: {count}, ")?;
        }
        write!(f, "slowest {} ms", self.slowest_ms)
    }
}

/// Lets clients loose on a cluster while `trouble` goes on, then reads every key at every node, and gives back all that
/// was asked and told. All nodes run again, and serve, when `trouble` returns.
pub fn record(cluster: &mut Cluster, load: &Load, trouble: impl FnOnce(&mut Cluster)) -> (Recorded, Told) {
    let nodes: Vec<String> = (0..cluster.len()).map(|number| cluster.node(number).http.clone()).collect();
    let (stop, values) = (AtomicBool::new(false), AtomicU64::new(1));
    let (mut history, mut told) = (Recorded::new(), Told::default());
    thread::scope(|scope| {
        let clients: Vec<_> = (0..load.clients)
            .map(|number| {
                let seed = load.seed.wrapping_mul(1_000_003).wrapping_add(number as u64);
                let stays = number < load.staying.0;
                let at = if stays { load.staying.1 } else { number };
                let mut client = client::Client::new(&nodes, at, seed, &values);
                client.stays = stays;
                let (stop, load) = (&stop, &load);
                scope.spawn(move || {
                    client.run(stop, &load.keys, load.think_max_us);
                    client.into_parts()
                })
            })
            .collect();
        trouble(cluster);
        stop.store(true, Ordering::SeqCst);
        for client in clients {
            let (recorded, said) = client.join().expect("a client does not fail");
            history.merge(recorded);
            told.merge(said);
        }
    });
    // What was acknowledged, and not written over, is there at the end; at whichever node one asks.
    for at in 0..nodes.len() {
        let mut client = client::Client::new(&nodes, at, load.seed, &values);
        load.keys.iter().for_each(|key| client.read_surely(key, at));
        let (recorded, said) = client.into_parts();
        history.merge(recorded);
        told.merge(said);
    }
    (history, told)
}

/// # Panics
/// If the history cannot be explained, with the operations on the key around those that cannot.
pub fn explain(history: &Recorded, seed: u64) -> Explained {
    history.check(EFFORT_MAX).unwrap_or_else(|violation| {
        let key = violation.key.clone();
        let mut operations: Vec<_> = history.operations(&key).cloned().collect();
        operations.sort_by_key(|operation| operation.called);
        let file = std::env::temp_dir().join(format!("tumen-history-{}-{key}.txt", std::process::id()));
        let all: Vec<String> = operations.iter().map(ToString::to_string).collect();
        std::fs::write(&file, all.join("\n")).expect("the operations are kept");
        panic!("seed {seed}: {violation}\nall operations on it: {}", file.display())
    })
}
