//! How long the strategies take, and what they move beside what they must.
//!
//! `cargo bench -p tumen-core --bench assign` prints a table first, then criterion's figures.

#![expect(
    clippy::print_stdout,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a benchmark measures"
)]

use std::time::Instant;

use criterion::{Criterion, criterion_group};
use tumen_core::assignment::scenarios::{self, Event, LARGE, SMALL};
use tumen_core::assignment::{certify, strategies};

fn table() {
    println!(
        "{:15} {:>6} {:15} {:>9} {:>9} {:>8} {:>8} {:>7} {:>5} {:>5}",
        "strategy", "nodes", "event", "ms", "moved", "bound", "changed", "cold", "prim", "copy"
    );
    let zoned = |size| scenarios::Size { zones: 5, weights: 3, ..size };
    for size in [SMALL, LARGE, zoned(SMALL), zoned(LARGE)] {
        for name in strategies::NAMES {
            if std::env::args().any(|arg| arg == "--only-balanced") && name != "balanced" {
                continue;
            }
            let strategy = strategies::by_name(name).expect("a strategy of the box");
            for event in Event::ALL {
                let scenario = scenarios::scenario(&*strategy, size, event).expect("a legal problem");
                let mut best = f64::MAX;
                let mut layout = None;
                for _ in 0..if size.nodes < 100 { 50 } else { 5 } {
                    let start = Instant::now();
                    layout = Some(strategy.assign(&scenario.problem()).expect("an answer"));
                    best = best.min(start.elapsed().as_secs_f64() * 1e3);
                }
                let start = Instant::now();
                let c = certify(&scenario.problem(), &layout.expect("it ran"));
                let certified = start.elapsed().as_secs_f64() * 1e3;
                println!(
                    "{name:15} {:6} {:15} {best:9.3} {:9} {:8} {:8} {:7} {:5} {:5} {certified:9.3}",
                    size.nodes,
                    event.name(),
                    c.moved,
                    c.lower_bound,
                    c.primary_changes,
                    c.cold_primaries,
                    c.imbalance_primaries,
                    c.imbalance_copies
                );
            }
        }
    }
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

criterion_group!(benches, assign);

fn main() {
    table();
    benches();
    Criterion::default().configure_from_args().final_summary();
}
