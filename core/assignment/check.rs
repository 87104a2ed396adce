//! Whether a map may be acted on: asked of every strategy's answer, a user's too.

use crate::assignment::{Layout, Problem};
use crate::ids::NodeName;

/// Why a map is refused. Nothing was committed; the map in force stays in force.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Illegal {
    /// Too many or too few partitions.
    #[error("the map has {found} partitions, not {wanted}")]
    Partitions {
        /// How many there should be.
        wanted: u32,
        /// How many there are.
        found: usize,
    },
    /// Too many or too few copies of a partition.
    #[error("partition {partition} has {found} copies, not {wanted}")]
    Copies {
        /// Which partition.
        partition: u32,
        /// How many copies it should have.
        wanted: u32,
        /// How many it has.
        found: usize,
    },
    /// Two copies on one node.
    #[error("partition {partition} has two copies on {node}")]
    Twice {
        /// Which partition.
        partition: u32,
        /// Which node.
        node: NodeName,
    },
    /// A copy on a node that is no candidate: it is dead, or was never there.
    #[error("partition {partition} has a copy on {node}, which is no live member")]
    Dead {
        /// Which partition.
        partition: u32,
        /// Which node.
        node: NodeName,
    },
    /// A copy on a node that is drained.
    #[error("partition {partition} has a copy on {node}, which has weight 0 and takes none")]
    Drained {
        /// Which partition.
        partition: u32,
        /// Which node.
        node: NodeName,
    },
    /// A row points past the end of the map's own list of nodes.
    #[error("partition {partition} has a copy on node number {index}, and the map lists only {nodes}")]
    Unlisted {
        /// Which partition.
        partition: u32,
        /// The index that the row holds.
        index: u32,
        /// How many nodes the map lists.
        nodes: usize,
    },
    /// The primary may hold copies only, though another member may serve.
    #[error("partition {partition} has {node} as its primary, which may only keep copies")]
    Primary {
        /// Which partition.
        partition: u32,
        /// Which node.
        node: NodeName,
    },
}

/// What may be done with a node that a map lists.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Standing {
    Dead,
    Drained,
    CopiesOnly,
    Full,
}

/// Whether `layout` answers `problem`: every partition has the right number of copies, on different live nodes.
///
/// Balance, zones and movement are not asked here; see [`certify`](crate::assignment::certify).
///
/// # Errors
/// The first fault found, in the partitions' order.
pub fn check(problem: &Problem<'_>, layout: &Layout) -> Result<(), Illegal> {
    if layout.len() != problem.partitions as usize {
        return Err(Illegal::Partitions { wanted: problem.partitions, found: layout.len() });
    }
    let standings = standings(problem, layout);
    let wanted = problem.copies();
    for (partition, row) in (0..).zip(layout.rows()) {
        if row.len() != wanted as usize {
            return Err(Illegal::Copies { partition, wanted, found: row.len() });
        }
        for (at, index) in row.iter().enumerate() {
            let Some(standing) = standings.get(*index as usize) else {
                return Err(Illegal::Unlisted { partition, index: *index, nodes: standings.len() });
            };
            let node = || layout.nodes()[*index as usize].clone();
            match standing {
                Standing::Dead => return Err(Illegal::Dead { partition, node: node() }),
                Standing::Drained => return Err(Illegal::Drained { partition, node: node() }),
                Standing::CopiesOnly | Standing::Full => {}
            }
            if row[..at].contains(index) {
                return Err(Illegal::Twice { partition, node: node() });
            }
        }
        let standing = |index: &u32| standings[*index as usize];
        if let Some(first) = row.first()
            && standing(first) == Standing::CopiesOnly
            && row.iter().any(|member| standing(member) == Standing::Full)
        {
            return Err(Illegal::Primary { partition, node: layout.nodes()[*first as usize].clone() });
        }
    }
    Ok(())
}

fn standings(problem: &Problem<'_>, layout: &Layout) -> Vec<Standing> {
    let mut standings = vec![Standing::Dead; layout.nodes().len()];
    for candidate in problem.nodes {
        if let Some(at) = layout.index_of(&candidate.name) {
            standings[at as usize] = if candidate.weight == 0 { Standing::Drained } else { Standing::Full };
        }
    }
    for name in problem.copies_only {
        if let Some(at) = layout.index_of(name)
            && standings[at as usize] == Standing::Full
        {
            standings[at as usize] = Standing::CopiesOnly;
        }
    }
    standings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::assignment::Candidate;

    fn name(name: &str) -> NodeName {
        name.parse().unwrap()
    }

    fn verdict(rows: &[&[u32]]) -> Result<(), Illegal> {
        let nodes: Vec<_> = ["a", "b", "c", "d", "idle"]
            .into_iter()
            .map(|n| Candidate { weight: u32::from(n != "idle"), ..Candidate::new(name(n)) })
            .collect();
        let away = [name("d")];
        let problem = Problem { copies_only: &away, ..Problem::new(&nodes, 1, 2) };
        let mut layout = Layout::new(["a", "b", "c", "d", "gone", "idle"].map(name).to_vec());
        rows.iter().for_each(|row| layout.push_row(row));
        check(&problem, &layout)
    }

    #[test]
    fn a_legal_map_passes_and_each_fault_is_named() {
        assert_eq!(verdict(&[&[0, 1]]), Ok(()));
        assert_eq!(verdict(&[&[0, 3]]), Ok(()));
        assert_eq!(verdict(&[]), Err(Illegal::Partitions { wanted: 1, found: 0 }));
        assert_eq!(verdict(&[&[0]]), Err(Illegal::Copies { partition: 0, wanted: 2, found: 1 }));
        assert_eq!(verdict(&[&[0, 1, 2]]), Err(Illegal::Copies { partition: 0, wanted: 2, found: 3 }));
        assert_eq!(verdict(&[&[1, 1]]), Err(Illegal::Twice { partition: 0, node: name("b") }));
        assert_eq!(verdict(&[&[0, 4]]), Err(Illegal::Dead { partition: 0, node: name("gone") }));
        assert_eq!(verdict(&[&[0, 5]]), Err(Illegal::Drained { partition: 0, node: name("idle") }));
        assert_eq!(verdict(&[&[0, 6]]), Err(Illegal::Unlisted { partition: 0, index: 6, nodes: 6 }));
        assert_eq!(verdict(&[&[3, 0]]), Err(Illegal::Primary { partition: 0, node: name("d") }));
    }
}
