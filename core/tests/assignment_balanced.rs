//! What `Balanced` promises, on random clusters, random events and random previous maps, beside an exact optimum.
//!
//! `TUMEN_PROPTEST_CASES` sets how many cases each property sees (default 400).

#![allow(clippy::disallowed_methods, reason = "a test may be told by its environment how long to go on")]
#![expect(clippy::unwrap_used, reason = "a test that cannot be set up fails")]

#[path = "assignment_balanced/oracle.rs"]
mod oracle;

use oracle::Oracle;
use proptest::prelude::*;
use tumen_core::NodeName;
use tumen_core::assignment::{
    Balanced, Candidate, Layout, Problem, Strategy as _, certify, check, strategies,
};
use tumen_core::cluster::member::Zone;

fn config() -> ProptestConfig {
    let cases =
        std::env::var("TUMEN_PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(400);
    ProptestConfig { cases, failure_persistence: None, max_shrink_iters: 4_000, ..ProptestConfig::default() }
}

fn name(number: usize) -> NodeName {
    NodeName::new(&format!("n{number}")).unwrap()
}

fn number(node: &Candidate) -> usize {
    node.name.as_str()[1..].parse().unwrap()
}

fn spread(counts: &[u32]) -> u32 {
    counts.iter().max().unwrap_or(&0) - counts.iter().min().unwrap_or(&0)
}

fn assign(problem: &Problem<'_>) -> Layout {
    Balanced.assign(problem).unwrap()
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
const ANY: Kind = Kind { zones: true, weights: true };

fn candidates(kind: Kind, count: std::ops::Range<usize>) -> impl Strategy<Value = Vec<Candidate>> {
    let zone = if kind.zones { 0..5_usize } else { 4..5 };
    let weight = if kind.weights { 0..6_u32 } else { 1..2 };
    prop::collection::vec((zone, weight), count).prop_map(move |nodes| {
        let candidate = |(at, (zone, weight))| Candidate {
            zone: (zone < 4).then(|| Zone(format!("z{zone}").into())),
            weight,
            ..Candidate::new(name(at))
        };
        (0..).zip(nodes).map(candidate).collect()
    })
}

/// Some nodes leave and some join at once; others change zone and weight.
fn events(kind: Kind) -> impl Strategy<Value = Event> {
    let nodes = || candidates(kind, 1..11);
    (nodes(), nodes(), any::<u16>(), any::<u16>(), 1..14_u32, 1..5_u32).prop_map(
        |(before, other, stay, change, partitions, replication)| {
            let (mut was, mut is) = (before.clone(), before);
            was.retain(|node| stay & (1 << number(node)) != 0 || number(node).is_multiple_of(3));
            for new in other {
                match is.iter_mut().find(|node| node.name == new.name) {
                    Some(old) if change & (3 << number(&new)) == 0 => *old = new,
                    Some(_) => {}
                    None => is.push(new),
                }
            }
            is.retain(|node| change & (1 << number(node)) != 0 || number(node).is_multiple_of(2));
            Event { partitions, replication, before: was, after: is }
        },
    )
}

/// Any map, with duplicates, unknown nodes, rows too long, too short, too many or too few.
fn any_layout() -> impl Strategy<Value = Layout> {
    prop::collection::vec(prop::collection::vec(0..13_u32, 0..6), 0..16).prop_map(|rows| {
        let mut layout = Layout::new((0..12).map(name).collect());
        rows.iter().for_each(|row| layout.push_row(row));
        layout
    })
}

impl Event {
    fn fresh(&self) -> Problem<'_> {
        Problem::new(&self.before, self.partitions, self.replication)
    }

    fn problem<'a>(&'a self, before: &'a Layout) -> Problem<'a> {
        Problem::new(&self.after, self.partitions, self.replication).after(before)
    }

    fn check(&self) {
        let before = assign(&self.fresh());
        assert_sound(&self.fresh(), &before);
        let after = assign(&self.problem(&before));
        assert_sound(&self.problem(&before), &after);
    }
}

/// All that must hold of every answer, warm-only ones excepted.
fn assert_sound(problem: &Problem<'_>, layout: &Layout) {
    let oracle = Oracle::of(problem);
    assert_placed(problem, layout, &oracle);
    assert_led(problem, layout, &oracle);
}

/// Distinct live nodes, zones apart, shares kept, and no more moved than by the best of all maps; and the
/// certificate proves just that.
fn assert_placed(problem: &Problem<'_>, layout: &Layout, oracle: &Oracle) {
    assert_eq!(check(problem, layout), Ok(()));
    for partition in 0..problem.partitions {
        let mut in_zone = vec![0; oracle.zones.len()];
        for name in layout.names(partition) {
            in_zone[oracle.zones[oracle.number(name)]] += 1;
        }
        assert!(in_zone.iter().all(|count| *count <= oracle.zone_cap), "zones of partition {partition}");
    }
    let loads = layout.copies_per_node();
    for (at, load) in loads.iter().enumerate() {
        let share = oracle.low[at]..=oracle.high[at];
        assert!(share.contains(load), "node {at} holds {load}, its share is {share:?}");
    }
    if is_plain(&oracle.nodes) {
        assert!(spread(&loads) <= 1, "{loads:?}");
    }
    let certificate = certify(problem, layout);
    assert_eq!(certificate.moved, oracle.moved, "moved, beside the optimum");
    assert!(certificate.is_minimal(), "{certificate}");
}

/// Primaries even wherever these rows allow it, with as few cold ones and changes as the best choice has.
fn assert_led(problem: &Problem<'_>, layout: &Layout, oracle: &Oracle) {
    if oracle.nodes.is_empty() {
        return;
    }
    let leads = layout.primaries_per_node();
    if is_plain(&oracle.nodes) {
        assert!(spread(&leads) <= 1, "{leads:?}");
    }
    let (low, high) = oracle.lead_shares(layout, problem.partitions);
    let cost = |partition: u32, name: &NodeName| {
        let held = problem.previous.is_some_and(|previous| previous.names(partition).any(|old| old == name));
        let led = problem.previous.is_some_and(|previous| previous.primary(partition) == Some(name));
        i64::from(!held) * 1_000 + i64::from(!led)
    };
    let Some(best) = oracle::cheapest_primaries(layout, &low, &high, |p, name| Some(cost(p, name))) else {
        return;
    };
    for (at, led) in leads.iter().enumerate() {
        assert!(
            (low[at]..=high[at]).contains(led),
            "node {at} leads {led}, its share is {}..={}",
            low[at],
            high[at]
        );
    }
    let paid: i64 = (0..problem.partitions).map(|p| cost(p, layout.primary(p).unwrap())).sum();
    assert_eq!(paid, best, "thousands: cold primaries; ones: changes");
    let certificate = certify(problem, layout);
    assert!(certificate.primary_bound <= certificate.primary_changes, "{certificate}");
}

/// Equal weights, no zones.
fn is_plain(nodes: &[Candidate]) -> bool {
    nodes.iter().all(|node| node.zone.is_none() && node.weight == nodes[0].weight)
}

/// New copies on a node.
fn gained(before: &Layout, after: &Layout, name: &NodeName) -> usize {
    let holds = |layout: &Layout, partition| layout.names(partition).any(|held| held == name);
    (0..after.len() as u32).filter(|p| holds(after, *p) && !holds(before, *p)).count()
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
    fn events_with_zones_and_weights_move_the_optimum(event in events(ANY)) {
        event.check();
    }

    #[test]
    fn any_map_is_imported_at_the_optimum(
        nodes in candidates(ANY, 0..10),
        previous in any_layout(),
        partitions in 0..14_u32,
        replication in 1..5_u32,
    ) {
        let problem = Problem::new(&nodes, partitions, replication).after(&previous);
        assert_sound(&problem, &assign(&problem));
    }

    #[test]
    fn a_newcomer_gets_its_share_and_nobody_else_gets_anything(
        count in 1_usize..10, partitions in 0..40_u32, replication in 1..5_u32,
    ) {
        let nodes: Vec<_> = (0..=count).map(|n| Candidate::new(name(n))).collect();
        let fresh = Problem::new(&nodes[..count], partitions, replication);
        let before = assign(&fresh);
        let after = assign(&Problem::new(&nodes, partitions, replication).after(&before));
        let newcomer = gained(&before, &after, &name(count)) as u32;
        if count as u32 >= replication {
            prop_assert_eq!(newcomer, partitions * replication / (count as u32 + 1));
            for old in 0..count {
                prop_assert_eq!(gained(&before, &after, &name(old)), 0);
            }
        } else {
            prop_assert_eq!(newcomer, partitions);
        }
    }

    #[test]
    fn when_a_node_leaves_the_others_lose_nothing(
        count in 2_usize..10, leaver in 0_usize..10, partitions in 0..40_u32, replication in 1..5_u32,
    ) {
        let nodes: Vec<_> = (0..count).map(|n| Candidate::new(name(n))).collect();
        let before = assign(&Problem::new(&nodes, partitions, replication));
        let mut left = nodes;
        let leaver = left.remove(leaver % count);
        let problem = Problem::new(&left, partitions, replication).after(&before);
        let after = assign(&problem);
        let certificate = certify(&problem, &after);
        prop_assert!(certificate.is_minimal());
        // Rarely the only node with room already holds the partition: then the proven minimum is higher.
        let lost = gained(&Layout::default(), &before, &leaver.name) as u64;
        if certificate.lower_bound == lost {
            for node in &left {
                prop_assert_eq!(gained(&after, &before, &node.name), 0, "{} lost copies", node.name);
            }
        } else if left.len() >= replication as usize {
            prop_assert!(certificate.lower_bound > lost);
        } else {
            prop_assert_eq!(certificate.lower_bound, 0);
        }
    }

    #[test]
    fn a_second_look_changes_nothing(event in events(ANY)) {
        let before = assign(&event.fresh());
        let after = assign(&event.problem(&before));
        prop_assert_eq!(&assign(&event.problem(&after)), &after);
    }

    #[test]
    fn order_and_encoding_of_the_input_change_nothing(event in events(ANY), turn in 0_usize..10) {
        let before = assign(&event.fresh());
        let after = assign(&event.problem(&before));
        let mut turned = event;
        let length = turned.after.len().max(1);
        turned.after.rotate_left(turn % length);
        turned.after.reverse();
        let mut wider = Layout::new((0..12).map(name).chain([NodeName::new("aaa").unwrap()]).collect());
        for partition in 0..before.len() as u32 {
            let row: Vec<u32> = before.names(partition).map(|name| wider.index_of(name).unwrap()).collect();
            wider.push_row(&row);
        }
        prop_assert_eq!(&assign(&turned.problem(&wider)), &after);
    }

    #[test]
    fn warm_only_never_leads_cold_and_a_later_look_evens_it_out(event in events(EQUAL)) {
        let before = assign(&event.fresh());
        let problem = Problem { warm_only: true, ..event.problem(&before) };
        let after = assign(&problem);
        assert_placed(&problem, &after, &Oracle::of(&problem));
        for partition in 0..event.partitions {
            let warm: Vec<_> = after.names(partition).filter(|n| before.names(partition).any(|b| b == *n)).collect();
            if let Some(primary) = after.primary(partition) {
                prop_assert!(warm.is_empty() || warm.contains(&primary), "partition {partition}");
            }
        }
        // Now everybody has the bytes: roles move, copies do not.
        let problem = Problem { warm_only: true, ..event.problem(&after) };
        let settled = assign(&problem);
        let certificate = certify(&problem, &settled);
        prop_assert_eq!((certificate.moved, certificate.cold_primaries), (0, 0));
        prop_assert!(certificate.imbalance_primaries <= 1, "{}", certificate);
        prop_assert_eq!(assign(&Problem { warm_only: true, ..event.problem(&settled) }), settled);
    }

    #[test]
    fn only_members_in_sync_lead_where_there_is_one(event in events(ANY), in_sync in any_layout()) {
        let before = assign(&event.fresh());
        let problem = Problem { in_sync: Some(&in_sync), warm_only: true, ..event.problem(&before) };
        let after = assign(&problem);
        assert_placed(&problem, &after, &Oracle::of(&problem));
        for partition in 0..event.partitions {
            let holds = |layout: &Layout, name: &NodeName| layout.names(partition).any(|held| held == name);
            let fit = |name: &&NodeName| holds(&before, name) && holds(&in_sync, name);
            let fits: Vec<_> = after.names(partition).filter(fit).collect();
            if let Some(primary) = after.primary(partition) {
                prop_assert!(fits.is_empty() || fits.contains(&primary), "partition {partition}");
            }
        }
    }

    #[test]
    fn nodes_that_only_keep_copies_keep_them_and_lead_nothing(event in events(ANY), away in any::<u16>()) {
        let before = assign(&event.fresh());
        let away: Vec<_> = (0..12).filter(|n| away & (1 << n) != 0).map(name).collect();
        let problem = Problem { copies_only: &away, ..event.problem(&before) };
        let after = assign(&problem);
        // The check refuses a primary that only keeps copies wherever another member may lead.
        assert_placed(&problem, &after, &Oracle::of(&problem));
        prop_assert_eq!(&assign(&Problem { copies_only: &away, ..event.problem(&after) }), &after);
    }

    /// Whatever map it is asked about, its bound is one that the best of all maps keeps.
    #[test]
    fn a_certificate_never_claims_too_much(event in events(ANY), other in any_layout(), own in 0..3_usize) {
        let before = assign(&event.fresh());
        let problem = event.problem(&before);
        let layout = match own {
            0 => other,
            1 => strategies::by_name("rendezvous").unwrap().assign(&problem).unwrap(),
            _ => assign(&Problem { previous: None, ..problem }),
        };
        let certificate = certify(&problem, &layout);
        prop_assert!(certificate.lower_bound <= Oracle::of(&problem).moved, "{}", certificate);
    }

    #[test]
    fn ghosts_are_a_preference_and_nothing_more(event in events(ANY), ghosts in any_layout()) {
        let before = assign(&event.fresh());
        let problem = Problem { ghosts: Some(&ghosts), ..event.problem(&before) };
        assert_sound(&problem, &assign(&problem));
    }
}

#[test]
fn a_node_that_comes_back_gets_back_what_it_had() {
    let nodes: Vec<_> = (0..16).map(|n| Candidate::new(name(n))).collect();
    let before = assign(&Problem::new(&nodes, 256, 3));
    let gone = &nodes[7].name;
    let fewer: Vec<_> = nodes.iter().filter(|node| node.name != *gone).cloned().collect();
    let without = assign(&Problem::new(&fewer, 256, 3).after(&before));
    let back = assign(&Problem { ghosts: Some(&before), ..Problem::new(&nodes, 256, 3).after(&without) });
    assert_eq!((gained(&without, &back, gone), gained(&before, &back, gone)), (48, 0));
}

#[test]
fn a_hundred_joins_and_leaves_in_a_row_move_the_bound_each_time() {
    let mut nodes: Vec<_> = (0..24).map(|n| Candidate::new(name(n))).collect();
    let mut layout = assign(&Problem::new(&nodes, 256, 3));
    let mut chance = 1_u64;
    for event in 0..100 {
        chance = chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let lot = (chance >> 33) as usize;
        if lot.is_multiple_of(2) && nodes.len() > 8 {
            nodes.remove(lot / 2 % nodes.len());
        } else {
            nodes.push(Candidate::new(name(100 + event)));
        }
        let problem = Problem::new(&nodes, 256, 3).after(&layout);
        let next = assign(&problem);
        let certificate = certify(&problem, &next);
        assert!(certificate.is_minimal() && certificate.imbalance_primaries <= 1, "{event}: {certificate}");
        layout = next;
    }
}

#[test]
fn extremes_are_answered_or_refused_and_never_panic() {
    let nodes: Vec<_> =
        (0..3).map(|n| Candidate { weight: u32::MAX - n, ..Candidate::new(name(n as usize)) }).collect();
    let layout = assign(&Problem::new(&nodes, 65_536, 2));
    assert!(spread(&layout.copies_per_node()) <= 1);
    assert!(assign(&Problem::new(&[], 5, 3)).rows().all(<[u32]>::is_empty));
    let idle = [Candidate { weight: 0, ..Candidate::new(name(0)) }];
    assert!(assign(&Problem::new(&idle, 5, 3)).rows().all(<[u32]>::is_empty));
    assert_eq!(assign(&Problem::new(&nodes, 0, 3)).len(), 0);
    for (partitions, replication) in [(65_537, 3), (u32::MAX, 3), (5, 0), (5, 65), (5, u32::MAX)] {
        let refused =
            Balanced.assign(&Problem::new(&nodes, partitions, replication)).unwrap_err().to_string();
        assert!(refused.contains("nothing was changed"), "{refused}");
    }
    let twice = [nodes[0].clone(), nodes[1].clone(), nodes[0].clone()];
    assert!(Balanced.assign(&Problem::new(&twice, 5, 3)).unwrap_err().to_string().contains("n0"));
}

/// Too large for the oracle; the certificate proves each step.
#[test]
fn upheavals_of_a_larger_cluster_move_the_proven_minimum() {
    let zoned = |count: usize, zones: usize, weights: u32| -> Vec<Candidate> {
        let candidate = |n: usize| Candidate {
            zone: (zones > 0).then(|| Zone(format!("z{}", n * n % 97 % zones.max(1)).into())),
            weight: 1 + (n as u32).wrapping_mul(2_654_435_761) % weights,
            ..Candidate::new(name(n))
        };
        (0..count).map(candidate).collect()
    };
    let mut layout = Layout::default();
    for (count, zones, weights, replication) in [
        (60, 0, 1, 3),
        (60, 2, 1, 3),
        (60, 3, 1_000, 3),
        (50, 3, 1_000, 3),
        (60, 5, 7, 2),
        (60, 5, 900, 5),
        (24, 4, 30, 3),
        (60, 0, 1, 3),
    ] {
        let nodes = zoned(count, zones, weights);
        let problem = Problem::new(&nodes, 700, replication).after(&layout);
        let next = assign(&problem);
        let certificate = certify(&problem, &next);
        assert_eq!(check(&problem, &next), Ok(()));
        assert!(certificate.is_minimal(), "{count} nodes, {zones} zones, {weights} weights: {certificate}");
        layout = next;
    }
}
