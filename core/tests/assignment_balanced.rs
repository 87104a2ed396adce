//! What `Balanced` promises, on random clusters, random events and random previous maps, beside an exact optimum.
//!
//! `TUMEN_PROPTEST_CASES` sets how many cases each property sees (default 400).

#[path = "assignment_balanced/oracle.rs"]
mod oracle;

use oracle::Oracle;
use proptest::prelude::*;
use tumen_core::NodeName;
use tumen_core::assignment::{Balanced, Candidate, Layout, Problem, Strategy as _, certify, check};
use tumen_core::cluster::member::Zone;

fn config() -> ProptestConfig {
    let cases =
        std::env::var("TUMEN_PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(400);
    ProptestConfig { cases, failure_persistence: None, max_shrink_iters: 4_000, ..ProptestConfig::default() }
}

fn name(number: usize) -> NodeName {
    NodeName::new(&format!("n{number}")).unwrap()
}

fn spread(counts: &[u32]) -> u32 {
    counts.iter().max().unwrap_or(&0) - counts.iter().min().unwrap_or(&0)
}

/// A cluster before an event and after it.
#[derive(Clone, Debug)]
struct Event {
    partitions: u32,
    replication: u32,
    before: Vec<Candidate>,
    after: Vec<Candidate>,
}

#[derive(Clone, Copy, Debug)]
struct Kind {
    zones: bool,
    weights: bool,
}

const EQUAL: Kind = Kind { zones: false, weights: false };

fn candidates(kind: Kind, count: std::ops::Range<usize>) -> impl Strategy<Value = Vec<Candidate>> {
    let zone = if kind.zones { 0..5_usize } else { 4..5 };
    let weight = if kind.weights { 0..6_u32 } else { 1..2 };
    prop::collection::vec((zone, weight), count).prop_map(move |nodes| {
        (0..)
            .zip(nodes)
            .map(|(at, (zone, weight))| Candidate {
                zone: (zone < 4).then(|| Zone(format!("z{zone}").into())),
                weight,
                ..Candidate::new(name(at))
            })
            .collect()
    })
}

/// Some nodes leave and some join at once; others change zone and weight.
fn events(kind: Kind) -> impl Strategy<Value = Event> {
    let nodes = || candidates(kind, 1..11);
    (nodes(), nodes(), any::<u16>(), any::<u16>(), 1..14_u32, 1..5_u32).prop_map(
        |(before, other, stay, change, partitions, replication)| {
            let (mut was, mut is) = (before.clone(), before);
            was.retain(|node| stay & (1 << number(node)) != 0 || number(node) % 3 == 0);
            for new in other {
                match is.iter_mut().find(|node| node.name == new.name) {
                    Some(old) if change & (3 << number(&new)) == 0 => *old = new,
                    Some(_) => {}
                    None => is.push(new),
                }
            }
            is.retain(|node| change & (1 << number(node)) != 0 || number(node) % 2 == 0);
            Event { partitions, replication, before: was, after: is }
        },
    )
}

fn number(node: &Candidate) -> usize {
    node.name.as_str()[1..].parse().unwrap()
}

/// Any map, with duplicates, unknown nodes, rows too long, too short, too many or too few.
fn any_layout() -> impl Strategy<Value = Layout> {
    prop::collection::vec(prop::collection::vec(0..13_u32, 0..6), 0..16).prop_map(|rows| {
        let mut layout = Layout::new((0..12).map(name).collect());
        rows.iter().for_each(|row| layout.push_row(row));
        layout
    })
}

/// All that must hold of every answer.
fn assert_sound(problem: &Problem<'_>, layout: &Layout) -> Oracle {
    assert_eq!(check(problem, layout), Ok(()));
    let oracle = Oracle::of(problem);
    for partition in 0..problem.partitions {
        let mut in_zone = vec![0; oracle.zones.len()];
        for name in layout.names(partition) {
            in_zone[oracle.zones[oracle.number(name)]] += 1;
        }
        assert!(in_zone.iter().all(|count| *count <= oracle.zone_cap), "zones of partition {partition}");
    }
    for (at, load) in layout.copies_per_node().into_iter().enumerate() {
        assert!(
            (oracle.low[at]..=oracle.high[at]).contains(&load),
            "node {at} holds {load}: {:?} {:?}",
            oracle.low,
            oracle.high
        );
    }
    assert_eq!(moved(problem, layout), oracle.moved, "moved, beside the optimum");
    let certificate = certify(problem, layout);
    assert_eq!((certificate.moved, certificate.lower_bound), (oracle.moved, oracle.moved));
    assert!(certificate.is_minimal());
    oracle
}

fn moved(problem: &Problem<'_>, layout: &Layout) -> u64 {
    let was = |partition, name: &NodeName| {
        problem.previous.is_some_and(|previous| previous.names(partition).any(|old| old == name))
    };
    (0..problem.partitions).map(|p| layout.names(p).filter(|name| !was(p, name)).count() as u64).sum()
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn events_without_zones_move_the_optimum(event in events(EQUAL)) {
        event.check();
    }

    #[test]
    fn events_with_weights_move_the_optimum(event in events(Kind { weights: true, ..EQUAL })) {
        event.check();
    }

    #[test]
    fn events_with_zones_move_the_optimum(event in events(Kind { zones: true, ..EQUAL })) {
        event.check();
    }

    #[test]
    fn events_with_zones_and_weights_move_the_optimum(event in events(Kind { zones: true, weights: true })) {
        event.check();
    }

    #[test]
    fn any_map_is_imported_at_the_optimum(
        nodes in candidates(Kind { zones: true, weights: true }, 0..10),
        previous in any_layout(),
        partitions in 0..14_u32,
        replication in 1..5_u32,
    ) {
        let problem = Problem::new(&nodes, partitions, replication).after(&previous);
        let layout = Balanced.assign(&problem).unwrap();
        assert_sound(&problem, &layout);
    }
}

impl Event {
    fn check(&self) {
        let fresh = Problem::new(&self.before, self.partitions, self.replication);
        let before = Balanced.assign(&fresh).unwrap();
        assert_sound(&fresh, &before);
        let problem = Problem::new(&self.after, self.partitions, self.replication).after(&before);
        let after = Balanced.assign(&problem).unwrap();
        assert_sound(&problem, &after);
    }
}
