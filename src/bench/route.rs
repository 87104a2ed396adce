//! `bench route`: from a 16-byte key to its partition, primary and epoch, through the table as a node reads it.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use arc_swap::{ArcSwap, Cache};
use serde::Serialize;
use tumen_core::UnixMillis;
use tumen_core::cluster::member::{Member, NodeInfo, Status, WEIGHT_DEFAULT};
use tumen_core::cluster::snapshot::{Assignment, GroupPlan, GroupSpec, Mode, Snapshot};
use tumen_core::ids::{
    Boot, ClusterId, ClusterName, Epoch, Generation, GroupId, NodeBoot, NodeName, Revision, Term, Version,
};
use tumen_core::partitioner::Partitioner;
use tumen_core::partitions::routing::RoutingTable;

/// Different keys, so that the branch predictor learns none by heart.
const KEYS: usize = 4096;
/// Lookups a run.
const LOOKUPS: usize = 2_000_000;
/// Runs, of which the median is told.
const RUNS: usize = 9;

/// What was seen.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Figures {
    /// Partitions in the table.
    pub(crate) partitions: u32,
    /// Bytes of a key.
    pub(crate) key_len: usize,
    /// Nanoseconds of one lookup, the median of the runs.
    pub(crate) ns_per_lookup: f64,
    /// The fastest run's.
    pub(crate) ns_best: f64,
    /// The slowest run's.
    pub(crate) ns_worst: f64,
    /// Allocations in all runs together.
    pub(crate) allocations: u64,
    /// Milliseconds to build the table of a plan of 1,024 partitions and swap it in.
    pub(crate) publish_ms_1024: f64,
}

/// Measures on this thread. `allocations` tells how often it has allocated so far.
pub(crate) fn measure(allocations: fn() -> u64) -> Figures {
    let partitions = 1024;
    let table = Arc::new(ArcSwap::from_pointee(RoutingTable::new(&plan(partitions, 3))));
    let keys: Vec<[u8; 16]> =
        (0..KEYS).map(|n| *format!("user:{n:011}").as_bytes().first_chunk().expect("16 bytes")).collect();
    let mut cache = Cache::new(Arc::clone(&table));
    let mut runs: Vec<f64> = Vec::with_capacity(RUNS);
    let before = allocations();
    for _ in 0..RUNS {
        let start = Instant::now();
        for turn in 0..LOOKUPS {
            let table: &Arc<RoutingTable> = cache.load();
            let located = table.locate(black_box(&keys[turn % KEYS])).expect("every key has a primary");
            black_box((located.partition, located.epoch, located.primary));
        }
        runs.push(start.elapsed().as_secs_f64() * 1e9 / LOOKUPS as f64);
    }
    let allocations = allocations() - before;
    runs.sort_by(f64::total_cmp);
    let next = plan(1024, 3);
    let start = Instant::now();
    table.store(Arc::new(RoutingTable::new(&next)));
    let publish_ms_1024 = start.elapsed().as_secs_f64() * 1e3;
    Figures {
        partitions,
        key_len: 16,
        ns_per_lookup: runs[RUNS / 2],
        ns_best: runs[0],
        ns_worst: runs[RUNS - 1],
        allocations,
        publish_ms_1024,
    }
}

/// A plan by which every partition has a primary.
pub(crate) fn plan(partitions: u32, nodes: u32) -> Snapshot {
    let name = |n: u32| NodeName::new(&format!("node-{n}")).expect("a valid name");
    let member = |n: u32| Member {
        info: NodeInfo {
            id: NodeBoot::new(name(n), Boot(u64::from(n))),
            address: format!("127.0.0.1:{}", 7000 + n),
            http: None,
            zone: None,
            weight: WEIGHT_DEFAULT,
            services: Vec::new(),
            protocol: tumen_core::wire::PROTOCOL,
        },
        status: Status::Up,
    };
    let assignment = |p: u32| Assignment {
        epoch: Epoch(1),
        revision: Revision::ZERO,
        copies: vec![p % nodes, (p + 1) % nodes],
        ..Assignment::default()
    };
    let spec = GroupSpec {
        partitions,
        replication: 2,
        strategy: "rotation".to_owned(),
        mode: Mode::Async,
        partitioner: Partitioner::Hash,
        replicated: false,
    };
    let users =
        GroupPlan { id: GroupId::Users, spec, assignments: (0..partitions).map(assignment).collect() };
    Snapshot {
        cluster: ClusterId(1),
        name: ClusterName::new("bench").expect("a valid name"),
        generation: Generation::ZERO,
        version: Version(1),
        term: Term(1),
        leader: name(0),
        members: (0..nodes).map(member).collect(),
        groups: vec![users],
        steps: 0,
        computed_at: UnixMillis(0),
        hash: 0,
    }
    .sealed()
}
