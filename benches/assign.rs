//! How long it takes to place all copies anew when nodes come and go.
//!
//! `cargo bench --bench assign`. What is moved, beside what must be, is told by `tumen bench assign`, and for more cases by
//! `cargo bench -p tumen-core --bench assign`.

#![allow(missing_docs, reason = "criterion's macro makes a function")]

use criterion::{Criterion, criterion_group, criterion_main};
use tumen::assignment::scenarios::{self, Event, LARGE, SMALL, Size};
use tumen::assignment::strategies;

fn every_strategy(criterion: &mut Criterion) {
    for name in strategies::NAMES {
        place(criterion, name, SMALL, &Event::ALL);
    }
}

/// The usual strategy once more, at the largest size that a cluster is meant for.
fn a_thousand_nodes(criterion: &mut Criterion) {
    place(criterion, "balanced", LARGE, &[Event::Join, Event::Leave]);
}

fn place(criterion: &mut Criterion, name: &str, size: Size, events: &[Event]) {
    let strategy = strategies::by_name(name).expect("a strategy of the box");
    let mut group =
        criterion.benchmark_group(format!("{name}, {} partitions, {} nodes", size.partitions, size.nodes));
    group.sample_size(10);
    for event in events {
        let scenario = scenarios::scenario(&*strategy, size, *event).expect("a legal problem");
        group.bench_function(event.name(), |bencher| {
            bencher.iter(|| strategy.assign(&scenario.problem()).expect("an answer"));
        });
    }
    group.finish();
}

criterion_group!(benches, every_strategy, a_thousand_nodes);
criterion_main!(benches);
