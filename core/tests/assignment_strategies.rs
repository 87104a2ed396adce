//! What holds for every strategy in the box, and the maps that every platform must compute.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends there")]

use proptest::prelude::*;
use tumen_core::assignment::scenarios::{self, Event, SMALL, Size};
use tumen_core::assignment::{Candidate, Problem, certify, check, strategies};
use tumen_core::cluster::member::Zone;
use tumen_core::wire::stable_hash;

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_strategy_answers_legally_and_in_any_order_alike(
        nodes in prop::collection::vec((0..6_u8, 0..4_u32), 0..9),
        partitions in 0..20_u32,
        replication in 1..5_u32,
        away in any::<u8>(),
    ) {
        let mut nodes: Vec<Candidate> = (0..).zip(nodes).map(|(number, (zone, weight))| Candidate {
            name: format!("n{number}").parse().unwrap(),
            zone: (zone < 4).then(|| Zone(format!("z{zone}").into())),
            weight: weight * 100,
        }).collect();
        let away: Vec<_> = (0..8).filter(|n| away & (1 << n) != 0).map(|n| format!("n{n}").parse().unwrap()).collect();
        for name in strategies::NAMES {
            let strategy = strategies::by_name(name).unwrap();
            let problem = Problem { copies_only: &away, ..Problem::new(&nodes, partitions, replication) };
            let layout = strategy.assign(&problem).unwrap();
            prop_assert_eq!(check(&problem, &layout), Ok(()), "{}", name);
            if name != "rotation" {
                prop_assert_eq!(certify(&problem, &layout).zone_violations, 0, "{}", name);
            }
            nodes.reverse();
            let turned = Problem { copies_only: &away, ..Problem::new(&nodes, partitions, replication) };
            prop_assert_eq!(strategy.assign(&turned).unwrap(), layout, "{}", name);
        }
    }
}

/// Rings and draws follow weights only on average.
#[test]
fn hashing_strategies_follow_weights_roughly() {
    let nodes: Vec<Candidate> = [100, 100, 200, 400, 800]
        .into_iter()
        .zip(0..)
        .map(|(weight, number)| Candidate { weight, ..Candidate::new(format!("n{number}").parse().unwrap()) })
        .collect();
    for name in ["consistent-hash", "rendezvous"] {
        let layout = strategies::by_name(name).unwrap().assign(&Problem::new(&nodes, 32_768, 1)).unwrap();
        for (node, load) in nodes.iter().zip(layout.copies_per_node()) {
            let share = 32_768 * node.weight / 1_600;
            // A ring of 128 points for the lightest is off by a quarter; draws are off by chance only.
            let slack = if name == "rendezvous" { share / 12 } else { share / 3 };
            assert!(load.abs_diff(share) < slack, "{name}: {} holds {load} instead of {share}", node.name);
        }
    }
}

/// The same input gives the same bytes on every node and platform. A strategy may be improved, for what is committed
/// is the map; but never by accident.
#[test]
fn maps_are_the_same_on_every_platform() {
    let plain = Size { nodes: 7, partitions: 64, ..SMALL };
    let mixed = Size { zones: 3, weights: 2, ..plain };
    let golden = [
        (
            "balanced",
            [0x856d_c9eb_aefd_2370, 0x74d6_9866_a5b0_03b6, 0x4755_a9a5_e8ef_d29f, 0xd10b_f2bd_be7f_0bf2],
        ),
        (
            "rotation",
            [0xae0d_808c_c125_b290, 0x1f74_0969_7a24_a5a1, 0x0945_4e28_185d_3a9e, 0xae0d_808c_c125_b290],
        ),
        (
            "consistent-hash",
            [0xfe79_bb0b_93d8_d027, 0x4776_1cbe_b9ed_aabf, 0x6d05_0cdf_a472_98e5, 0xcbb0_7fce_3505_7f48],
        ),
        (
            "rendezvous",
            [0x1001_2340_44be_ed14, 0x6710_d177_a057_87d7, 0x011a_f989_ad9c_4a40, 0x2cab_dd3f_d7f2_7c3c],
        ),
    ];
    for (name, hashes) in golden {
        let strategy = strategies::by_name(name).unwrap();
        let cases = [
            (plain, Event::Fresh),
            (plain, Event::Replace),
            (mixed, Event::Join),
            (mixed, Event::ImportRandom),
        ];
        let found = cases.map(|(size, event)| {
            let scenario = scenarios::scenario(&*strategy, size, event).unwrap();
            let layout = strategy.assign(&scenario.problem()).unwrap();
            stable_hash(serde_json::to_string(&layout).unwrap().as_bytes())
        });
        assert_eq!(found, hashes, "{name}: {found:#018x?}");
    }
}
