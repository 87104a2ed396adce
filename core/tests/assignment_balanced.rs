//! What `Balanced` promises, on random clusters and random previous maps.

use proptest::prelude::*;
use tumen_core::NodeName;
use tumen_core::assignment::{Balanced, Candidate, Layout, Problem, Strategy as _, check};

fn nodes(count: usize) -> Vec<Candidate> {
    (0..count).map(|n| Candidate::new(NodeName::new(&format!("n{n}")).unwrap())).collect()
}

fn spread(counts: &[u32]) -> u32 {
    counts.iter().max().unwrap_or(&0) - counts.iter().min().unwrap_or(&0)
}

proptest! {
    #[test]
    fn equal_nodes_are_even_to_within_one(
        count in 1_usize..9,
        partitions in 0_u32..40,
        replication in 1_u32..5,
        seed in prop::collection::vec(prop::collection::vec(0_u32..10, 0..5), 0..40),
    ) {
        let nodes = nodes(count);
        let mut previous = Layout::new((0..10).map(|n| format!("n{n}").parse().unwrap()).collect());
        seed.iter().for_each(|row| previous.push_row(row));
        let problem = Problem::new(&nodes, partitions, replication).after(&previous);
        let layout = Balanced.assign(&problem).unwrap();
        prop_assert_eq!(check(&problem, &layout), Ok(()));
        prop_assert!(spread(&layout.copies_per_node()) <= 1);
        prop_assert!(spread(&layout.primaries_per_node()) <= 1);
    }
}
