//! Rotation: the primary is `sorted[index mod N]`, the replicas are the next nodes of the circle.
//!
//! It needs no previous map, and moves nearly everything when a node joins or leaves: an event that touches
//! one node of a thousand moves about 965 times what it must.

use crate::assignment::roster::Roster;
use crate::assignment::{AssignError, Layout, Problem, Strategy};

/// Primary `sorted[index mod N]`, replicas the next `min(R − 1, N − 1)`, as SuperCache places them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rotation;

impl Strategy for Rotation {
    fn name(&self) -> &str {
        "rotation"
    }

    fn assign(&self, problem: &Problem<'_>) -> Result<Layout, AssignError> {
        let roster = Roster::of(problem)?;
        let nodes = roster.len();
        let mut row = Vec::with_capacity(roster.copies as usize);
        Ok(roster.layout(problem.partitions, |partition, layout| {
            row.clear();
            row.extend((0..roster.copies).map(|copy| (partition + copy) % nodes));
            roster.promote(&mut row);
            layout.push_row(&row);
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::assignment::Candidate;

    fn rotation(nodes: &[&str], partitions: u32, replication: u32) -> Layout {
        let nodes: Vec<_> = nodes.iter().map(|name| Candidate::new(name.parse().unwrap())).collect();
        Rotation.assign(&Problem::new(&nodes, partitions, replication)).unwrap()
    }

    #[test]
    fn sixteen_partitions_on_three_nodes_give_six_five_five() {
        let layout = rotation(&["node-2", "node-3", "node-1"], 16, 3);
        assert_eq!(layout.primaries_per_node(), [6, 5, 5]);
        assert_eq!(layout.copies_per_node(), [16, 16, 16]);
        for (index, row) in (0..).zip(layout.rows()) {
            assert_eq!(row, [index % 3, (index + 1) % 3, (index + 2) % 3]);
        }
    }

    #[test]
    fn one_node_has_no_replicas_and_more_copies_than_nodes_are_not_invented() {
        assert!(rotation(&["a"], 4, 3).rows().all(|row| row == [0]));
        assert!(rotation(&["a", "b"], 4, 3).rows().all(|row| row.len() == 2));
        let nobody = rotation(&[], 4, 3);
        assert_eq!((nobody.len(), nobody.row(0)), (4, &[][..]));
    }

    #[test]
    fn names_are_sorted_by_their_bytes() {
        let layout = rotation(&["node-2", "node-10"], 2, 1);
        assert_eq!(layout.primary(0).unwrap().as_str(), "node-10");
    }
}
