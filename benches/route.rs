//! From a key to its partition, primary and epoch, as every call does it: through the table as a node holds it.
//!
//! `cargo bench --bench route`. `tumen bench route` tells the same in one line, with allocations.

#![allow(missing_docs, reason = "criterion's macro makes a function")]

use std::hint::black_box;
use std::sync::Arc;

use arc_swap::{ArcSwap, Cache};
use criterion::{Criterion, criterion_group, criterion_main};
use tumen_core::ids::GroupId;
use tumen_core::partitions::routing::RoutingTable;

/// The plan is the same as that of `tumen bench route`.
#[path = "../src/bench/route.rs"]
#[allow(dead_code, unreachable_pub, reason = "only the plan is wanted here")]
mod route;

fn lookups(criterion: &mut Criterion) {
    let cell = Arc::new(ArcSwap::from_pointee(RoutingTable::new(&route::plan(1024, 3))));
    let keys: Vec<String> = (0..4096).map(|n| format!("user:{n:011}")).collect();
    let mut turn = 0;
    let mut key = || {
        turn = (turn + 1) % keys.len();
        black_box(keys[turn].as_bytes())
    };
    let mut group = criterion.benchmark_group("a 16-byte key");
    group.bench_function("its partition", |bencher| {
        let table = cell.load_full();
        bencher.iter(|| table.partition_of(GroupId::Users, key()).expect("every key has a partition"));
    });
    group.bench_function("its partition, primary and epoch", |bencher| {
        let mut cache = Cache::new(Arc::clone(&cell));
        bencher.iter(|| {
            let table: &Arc<RoutingTable> = cache.load();
            let located = table.locate(key()).expect("every key has a primary");
            black_box((located.partition, located.epoch, located.primary));
        });
    });
    group.finish();
}

fn publishing(criterion: &mut Criterion) {
    let plan = route::plan(1024, 3);
    criterion
        .bench_function("a table of 1,024 partitions", |bencher| bencher.iter(|| RoutingTable::new(&plan)));
}

criterion_group!(benches, lookups, publishing);
criterion_main!(benches);
