//! How long the strategies take, and what they move beside what they must.
//!
//! `cargo bench -p tumen-core --bench assign` prints a table first (the best of several runs each), then criterion's
//! figures. `-- --table` prints the table only.

#![expect(
    clippy::print_stdout,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a benchmark looks at the clock and prints"
)]

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group};
use tumen_core::assignment::scenarios::{self, Event, LARGE, SMALL, Size};
use tumen_core::assignment::strategies;
use tumen_core::partitioner::Partitioner;

fn table() {
    println!(
        "{:15} {:>5} {:>5} {:>14} {:>9} {:>8} {:>8} {:>8} {:>8} {:>6} {:>5} {:>5}",
        "strategy",
        "nodes",
        "zones",
        "event",
        "ms",
        "moved",
        "bound",
        "must",
        "changed",
        "cold",
        "prim",
        "copy"
    );
    let mixed = |size| Size { zones: 5, weights: 3, ..size };
    for size in [SMALL, LARGE, mixed(SMALL), mixed(LARGE)] {
        for name in strategies::NAMES {
            Event::ALL.into_iter().for_each(|event| row(name, size, event));
        }
    }
}

fn row(name: &str, size: Size, event: Event) {
    let strategy = strategies::by_name(name).expect("a strategy of the box");
    let scenario = scenarios::scenario(&*strategy, size, event).expect("a legal problem");
    let mut best = Duration::MAX;
    let mut layout = None;
    for _ in 0..if size.nodes < 100 { 50 } else { 7 } {
        let start = Instant::now();
        layout = Some(strategy.assign(&scenario.problem()).expect("an answer"));
        best = best.min(start.elapsed());
    }
    let figures = scenario.figures(&layout.expect("it ran"));
    let must = figures.unavoidable.map_or_else(|| "-".to_owned(), |must| must.to_string());
    let c = figures.certificate;
    println!(
        "{name:15} {:5} {:5} {:>14} {:9.3} {:8} {:8} {must:>8} {:8} {:6} {:5} {:5}",
        size.nodes,
        size.zones,
        event.name(),
        best.as_secs_f64() * 1e3,
        c.moved,
        c.lower_bound,
        c.primary_changes,
        c.cold_primaries,
        c.imbalance_primaries,
        c.imbalance_copies,
    );
}

fn assign(criterion: &mut Criterion) {
    for (size, label) in [(SMALL, "1024x3 on 64"), (LARGE, "65536x3 on 1000")] {
        let mut group = criterion.benchmark_group(label);
        group.sample_size(10);
        for name in strategies::NAMES {
            let strategy = strategies::by_name(name).expect("a strategy of the box");
            for event in [Event::Fresh, Event::Join, Event::Leave] {
                let scenario = scenarios::scenario(&*strategy, size, event).expect("a legal problem");
                group.bench_function(format!("{name}/{}", event.name()), |bencher| {
                    bencher.iter(|| strategy.assign(&scenario.problem()));
                });
            }
        }
        group.finish();
    }
}

fn partition_of(criterion: &mut Criterion) {
    let range = Partitioner::Range { low: 0, high: 10_000 };
    criterion.bench_function("partition of a 16-byte key, hash", |bencher| {
        bencher.iter(|| Partitioner::Hash.partition_of(black_box(b"user:00000001001"), black_box(64)));
    });
    criterion.bench_function("partition of a number, range", |bencher| {
        bencher.iter(|| range.partition_of(black_box(b"5120"), black_box(20)));
    });
}

criterion_group!(benches, partition_of, assign);

fn main() {
    table();
    if !std::env::args().any(|argument| argument == "--table") {
        benches();
        Criterion::default().configure_from_args().final_summary();
    }
}
