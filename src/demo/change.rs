//! What a change of the cluster cost, computed from what its HTTP interface shows before and after.

use std::fmt;

use serde::Serialize;
use tumen_core::NodeName;
use tumen_core::assignment::{Candidate, Certificate, Layout, Problem, certify};
use tumen_core::cluster::member::Zone;

use super::asking::Asker;
use crate::http::shapes::{Cluster, Partition, Partitions};

/// The cluster as one node shows it, all of one version.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) cluster: Cluster,
    pub(crate) partitions: Vec<Partition>,
}

impl Seen {
    /// Asks a node.
    ///
    /// # Errors
    /// Why there is no answer, or that another plan came in between.
    pub(crate) fn at(asker: &Asker, node: &str) -> Result<Self, String> {
        let before: Cluster = asker.json(node, "/cluster")?;
        let Partitions { partitions, .. } = asker.json(node, "/partitions")?;
        let cluster: Cluster = asker.json(node, "/cluster")?;
        if before.version != cluster.version {
            return Err(format!("version {} came after {}", cluster.version, before.version));
        }
        Ok(Self { cluster, partitions })
    }

    /// How many partitions a node is primary of, and of how many it holds another copy.
    pub(crate) fn load_of(&self, node: &str) -> (usize, usize) {
        let led = self.partitions.iter().filter(|p| p.primary_node.as_deref() == Some(node)).count();
        let held = self.partitions.iter().filter(|p| p.replica_nodes.iter().any(|r| r == node)).count();
        (led, held)
    }

    fn layout(&self) -> Result<Layout, String> {
        let name = |name: &String| NodeName::new(name).map_err(|why| format!("{name:?}: {why}"));
        let rows: Vec<Vec<NodeName>> = (self.partitions.iter())
            .map(|p| p.primary_node.iter().chain(&p.replica_nodes).map(name).collect())
            .collect::<Result<_, _>>()?;
        Ok(Layout::from_names(&rows))
    }
}

/// What happened, between which plans, and at what price.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Change {
    /// What happened.
    pub(crate) what: String,
    /// The plan before; 0 before the first.
    pub(crate) from_version: u64,
    /// The plan after.
    pub(crate) to_version: u64,
    /// The price, beside the lowest that there is.
    #[serde(flatten)]
    pub(crate) certificate: Certificate,
}

impl Change {
    /// Compares two plans of a cluster that wants so many copies of each partition.
    ///
    /// # Errors
    /// If a node shows something that is no plan.
    pub(crate) fn between(
        what: String,
        before: Option<&Seen>,
        after: &Seen,
        replication: u32,
    ) -> Result<Self, String> {
        let candidates = after.cluster.nodes.iter().filter(|node| node.state != "joining").map(|node| {
            let name = NodeName::new(&node.name).map_err(|why| format!("{:?}: {why}", node.name))?;
            let zone = node.zone.as_deref().map(|zone| Zone(zone.into()));
            let copies_only = (node.state != "up").then(|| name.clone());
            Ok((Candidate { name, zone, weight: node.weight }, copies_only))
        });
        let candidates: Vec<_> = candidates.collect::<Result<_, String>>()?;
        let copies_only: Vec<NodeName> = candidates.iter().filter_map(|(_, away)| away.clone()).collect();
        let nodes: Vec<Candidate> = candidates.into_iter().map(|(candidate, _)| candidate).collect();
        let count = u32::try_from(after.partitions.len()).map_err(|why| why.to_string())?;
        let previous = before.map(Seen::layout).transpose()?;
        let mut problem = Problem::new(&nodes, count, replication);
        problem.previous = previous.as_ref();
        problem.copies_only = &copies_only;
        Ok(Self {
            what,
            from_version: before.map_or(0, |before| before.cluster.version),
            to_version: after.cluster.version,
            certificate: certify(&problem, &after.layout()?),
        })
    }

    /// Whether nothing was moved that did not have to be.
    pub(crate) const fn is_minimal(&self) -> bool {
        self.certificate.moved == self.certificate.lower_bound
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, from_version, to_version, certificate } = self;
        let Certificate { moved, lower_bound, primary_changes, .. } = certificate;
        write!(
            f,
            "{what}: version {from_version} → {to_version}, {moved} copies moved (at least {lower_bound} had to), {primary_changes} primaries changed"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::shapes::Node;

    fn seen(version: u64, nodes: &[(&str, &str)], rows: &[&[&str]]) -> Seen {
        let node = |(name, state): &(&str, &str)| Node {
            name: (*name).into(),
            state: (*state).into(),
            votes: true,
            boot: "1".into(),
            address: "127.0.0.1:1".into(),
            http: None,
            zone: None,
            weight: 100,
            services: Vec::new(),
        };
        let partition = |(index, row): (usize, &&[&str])| Partition {
            id: format!("partition-{index}"),
            primary_node: row.first().map(|name| (*name).into()),
            replica_nodes: row.iter().skip(1).map(|name| (*name).into()).collect(),
            epoch: 1,
            lost: false,
        };
        let cluster = Cluster {
            name: "c".into(),
            id: Some("1".into()),
            version,
            term: 1,
            leader: None,
            mode: "async".into(),
            nodes: nodes.iter().map(node).collect(),
        };
        Seen { cluster, partitions: rows.iter().enumerate().map(partition).collect() }
    }

    #[test]
    fn a_change_is_weighed_by_what_two_nodes_show() {
        let one = seen(1, &[("a", "up")], &[&["a"], &["a"]]);
        let two = seen(3, &[("a", "up"), ("b", "up")], &[&["b", "a"], &["a", "b"]]);
        let founded = Change::between("founded".into(), None, &one, 2).unwrap();
        assert_eq!((founded.from_version, founded.certificate.moved, founded.is_minimal()), (0, 2, true));
        let joined = Change::between("b joined".into(), Some(&one), &two, 2).unwrap();
        assert_eq!((joined.certificate.moved, joined.certificate.lower_bound), (2, 2));
        assert_eq!(joined.certificate.primary_changes, 1);
        let lost = seen(4, &[("a", "up"), ("b", "lost")], &[&["a", "b"], &["a", "b"]]);
        let lost = Change::between("b lost".into(), Some(&two), &lost, 2).unwrap();
        assert_eq!((lost.certificate.moved, lost.certificate.lower_bound), (0, 0));
        assert_eq!(two.load_of("b"), (1, 1));
    }
}
