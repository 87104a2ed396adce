//! Who holds what: answers from the newest plan that this node knows. None of them waits or asks anybody.

use std::collections::BTreeMap;
use std::sync::Arc;

use tumen_core::cluster::member::NodeInfo;
use tumen_core::cluster::snapshot::{Mode, Snapshot};
use tumen_core::partitions::invariants::Report as InvariantReport;
use tumen_core::partitions::ledger::Ledger;
use tumen_core::partitions::routing::RouteError;
use tumen_core::{Epoch, GroupId, NodeName, PartitionId, Version};

use super::Node;
use crate::error::{Error, Result};
use crate::kv::check_key;

/// One partition and who holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    /// Which one. [`Node::call_partition`] takes it.
    pub id: PartitionId,
    /// What it is called: `partition-3`, or `p-00500-00999` where keys map by ranges.
    pub name: String,
    /// The node that writes it; `None` while nobody is left to.
    pub primary_node: Option<NodeName>,
    /// The nodes that hold its other copies.
    pub replica_nodes: Vec<NodeName>,
    /// One more each time that its primary changed.
    pub epoch: Epoch,
}

/// How partitions are shared out. Nodes that hold nothing are listed with 0.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PartitionStats {
    /// How many partitions there are.
    pub total_partitions: u32,
    /// By node: of how many it is the primary.
    pub partitions_per_node: BTreeMap<NodeName, u32>,
    /// By node: of how many it holds a copy without being the primary.
    pub replicas_per_node: BTreeMap<NodeName, u32>,
}

/// Who holds one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replicas {
    /// The node that writes it; `None` while nobody is left to.
    pub primary_node: Option<NodeName>,
    /// The nodes that hold its other copies.
    pub replica_nodes: Vec<NodeName>,
    /// Whether there is no plan yet, so that this node answers itself. Nothing can be written until there is one.
    pub provisional: bool,
}

impl Partition {
    /// One of the users' partitions, by its index.
    pub(crate) fn of(plan: &Snapshot, index: u32) -> Option<Self> {
        let spec = &plan.users().spec;
        Self::placed(plan, PartitionId::user(index), spec.partitioner.name(index, spec.partitions))
    }

    fn placed(plan: &Snapshot, id: PartitionId, name: String) -> Option<Self> {
        let assignment = plan.assignment(id)?;
        Some(Self {
            id,
            name,
            primary_node: plan.primary(assignment).map(|member| member.name().clone()),
            replica_nodes: plan.replicas(assignment).map(|member| member.name().clone()).collect(),
            epoch: assignment.epoch,
        })
    }

    /// All of the users' partitions, by index.
    pub(crate) fn all(plan: &Snapshot) -> Vec<Self> {
        (0..plan.users().spec.partitions).filter_map(|index| Self::of(plan, index)).collect()
    }

    /// All partitions of names, by index: each has a directory of its own.
    pub(crate) fn of_names(plan: &Snapshot) -> Vec<Self> {
        let count = plan.group(GroupId::Names).map_or(0, |group| group.spec.partitions);
        let ids = (0..count).map(|index| PartitionId { group: GroupId::Names, index });
        ids.filter_map(|id| Self::placed(plan, id, id.to_string())).collect()
    }

    /// Those of which the node holds a copy, by index. `None`: there is no such member.
    pub(crate) fn on(plan: &Snapshot, node: &str) -> Option<Vec<Self>> {
        let member = u32::try_from(plan.member_index(node)?).ok()?;
        let held = (0..).zip(&plan.users().assignments).filter(|(_, a)| a.copies.contains(&member));
        Some(held.filter_map(|(index, _)| Self::of(plan, index)).collect())
    }

    /// The one with this name, or with this id where ranges have names of their own.
    pub(crate) fn named(plan: &Snapshot, name: &str) -> Result<Self> {
        let spec = &plan.users().spec;
        let by_name = spec.partitioner.parse_name(name, spec.partitions);
        let users = |id: &PartitionId| id.group == GroupId::Users;
        let by_id = || name.parse().ok().filter(users).map(|id| id.index);
        let index = by_name.or_else(|unknown| by_id().ok_or(unknown));
        let index = index.map_err(|unknown| Error::NotFound(unknown.to_string()))?;
        Self::of(plan, index).ok_or_else(|| {
            let last = spec.partitions.saturating_sub(1);
            let known = [0, last].map(|index| spec.partitioner.name(index, spec.partitions));
            Error::NotFound(format!("there is no partition {name:?}: expected {} to {}", known[0], known[1]))
        })
    }

    /// The one that the key belongs to.
    pub(crate) fn for_key(plan: &Snapshot, key: &[u8]) -> Result<Self> {
        check_key(key)?;
        let spec = &plan.users().spec;
        let index = spec.partitioner.partition_of(key, spec.partitions).map_err(RouteError::from)?;
        Self::of(plan, index).ok_or_else(|| RouteError::NoPlan.into())
    }
}

impl PartitionStats {
    /// Counts the users' partitions.
    pub(crate) fn of(plan: &Snapshot) -> Self {
        let mut counts = vec![(0, 0); plan.members.len()];
        for assignment in &plan.users().assignments {
            for (at, copy) in assignment.copies.iter().enumerate() {
                if let Some((primaries, replicas)) = counts.get_mut(*copy as usize) {
                    *(if at == 0 { primaries } else { replicas }) += 1;
                }
            }
        }
        let names = || plan.members.iter().map(|member| member.name().clone());
        Self {
            total_partitions: plan.users().spec.partitions,
            partitions_per_node: names().zip(counts.iter().map(|count| count.0)).collect(),
            replicas_per_node: names().zip(counts.iter().map(|count| count.1)).collect(),
        }
    }
}

impl Node {
    /// The plan in force, as far as this node knows. `None` before the first.
    pub fn snapshot(&self) -> Option<Arc<Snapshot>> {
        self.runtime().plans().newest()
    }

    fn plan(&self) -> Result<Arc<Snapshot>> {
        self.snapshot().ok_or(Error::Route(RouteError::NoPlan))
    }

    /// The number of the plan in force, which is what the whole cluster moves by; zero before the first. A partition's
    /// own [`Partition::epoch`] counts its primaries.
    pub fn current_epoch(&self) -> Version {
        self.runtime().plans().version()
    }

    /// The partition that a key belongs to.
    ///
    /// # Errors
    /// There is no plan yet, or the key is empty, too long, or outside of the ranges.
    pub fn partition_for_key(&self, key: impl AsRef<[u8]>) -> Result<Partition> {
        check_key(key.as_ref())?;
        Partition::for_key(&*self.plan()?, key.as_ref())
    }

    /// The partition of this name, such as `partition-0`.
    ///
    /// # Errors
    /// There is none, or no plan yet.
    pub fn partition(&self, name: &str) -> Result<Partition> {
        Partition::named(&*self.plan()?, name)
    }

    /// The partitions of which a node holds a copy, as primary or replica, by index.
    ///
    /// # Errors
    /// No member has this name, or there is no plan yet.
    pub fn partitions_for_node(&self, node: &str) -> Result<Vec<Partition>> {
        Partition::on(&*self.plan()?, node)
            .ok_or_else(|| Error::NotFound(format!("no member is named {node:?}")))
    }

    /// All partitions, by index; none before the first plan.
    pub fn list_partitions(&self) -> Vec<Partition> {
        self.snapshot().map(|plan| Partition::all(&plan)).unwrap_or_default()
    }

    /// How the partitions are shared out; all zero before the first plan.
    pub fn partition_stats(&self) -> PartitionStats {
        self.snapshot().map(|plan| PartitionStats::of(&plan)).unwrap_or_default()
    }

    /// Who holds the partition with this index. Before the first plan that is this node, provisionally.
    ///
    /// # Errors
    /// There is no such partition.
    pub fn get_replicas(&self, index: u32) -> Result<Replicas> {
        let partitions = self.config().partitions;
        let missing = || Error::NotFound(format!("there is no partition {}", PartitionId::user(index)));
        let Some(plan) = self.snapshot() else {
            let primary_node = Some(self.name().clone());
            let alone = Replicas { primary_node, replica_nodes: Vec::new(), provisional: true };
            return if index < partitions { Ok(alone) } else { Err(missing()) };
        };
        let Partition { primary_node, replica_nodes, .. } =
            Partition::of(&plan, index).ok_or_else(missing)?;
        Ok(Replicas { primary_node, replica_nodes, provisional: false })
    }

    /// The nodes that this node holds for alive, sorted. This node is always among them.
    pub fn live_nodes(&self) -> Vec<NodeName> {
        self.runtime().members().live_nodes()
    }

    /// What the nodes say of themselves that this node holds for alive, sorted by name. This node is always among them.
    pub(crate) fn seen(&self) -> Vec<NodeInfo> {
        self.runtime().members().view().alive().map(|seen| (*seen.info).clone()).collect()
    }

    /// What became of the requests that came to this node's partitions since it was started: each that a worker took up
    /// ends once. Other nodes' are merged into it with [`Ledger::merge`].
    pub fn ledger(&self) -> Ledger {
        self.runtime().ledger()
    }

    /// What this node saw, since it was started, of the promises that must hold at every moment. Violations are faults of
    /// this program: please report them, with what was [`seen`](InvariantReport::seen).
    pub fn invariants(&self) -> InvariantReport {
        self.runtime().invariants()
    }

    /// What a write's acknowledgement promises in this cluster.
    pub fn replication_mode(&self) -> Mode {
        self.snapshot().map_or(self.config().mode, |plan| plan.users().spec.mode)
    }
}

#[cfg(test)]
mod tests {
    use tumen_core::partitioner::Partitioner;

    use super::*;
    use crate::http::testing::plan;

    fn names(partition: &Partition) -> (Option<&str>, Vec<&str>) {
        let replicas = partition.replica_nodes.iter().map(NodeName::as_str).collect();
        (partition.primary_node.as_ref().map(NodeName::as_str), replicas)
    }

    #[test]
    fn a_plan_answers_the_seeds_questions() {
        let plan = plan(Partitioner::Hash);
        let all = Partition::all(&plan);
        assert_eq!(all.len(), 4);
        assert_eq!(names(&all[0]), (Some("node-1"), vec!["node-2"]));
        assert_eq!(names(&all[3]), (None, vec![]), "nobody is left to serve it");
        let on =
            |node| Partition::on(&plan, node).map(|held| held.iter().map(|p| p.id.index).collect::<Vec<_>>());
        assert_eq!(on("node-2"), Some(vec![0, 1]));
        assert_eq!(on("node-4"), Some(vec![]), "a member that holds nothing");
        assert_eq!(on("node-9"), None);
        assert_eq!(Partition::named(&plan, "partition-1").unwrap(), all[1]);
        for unknown in ["partition-4", "partition-01", "names-1", "", "p-0-1"] {
            let Err(Error::NotFound(why)) = Partition::named(&plan, unknown) else { panic!("{unknown}") };
            assert!(why.ends_with("expected partition-0 to partition-3"), "{why}");
        }
    }

    #[test]
    fn stats_list_every_member_and_add_up() {
        let stats = PartitionStats::of(&plan(Partitioner::Hash));
        let counts = |by: &BTreeMap<NodeName, u32>| by.values().copied().collect::<Vec<_>>();
        assert_eq!(stats.total_partitions, 4);
        assert_eq!(counts(&stats.partitions_per_node), [1, 1, 1, 0]);
        assert_eq!(counts(&stats.replicas_per_node), [1, 1, 1, 0]);
    }

    #[test]
    fn keys_find_their_partition_or_hear_why_not() {
        let plan_by_range = plan(Partitioner::Range { low: 0, high: 399 });
        let of = |key: &str| Partition::for_key(&plan_by_range, key.as_bytes());
        assert_eq!(of("100").unwrap().name, "p-00100-00199");
        assert_eq!(Partition::named(&plan_by_range, "p-00100-00199").unwrap().id.index, 1);
        assert_eq!(Partition::named(&plan_by_range, "partition-1").unwrap().id.index, 1);
        for (key, code) in
            [("", "bad_key"), ("400", "bad_key"), ("x", "bad_key"), (&*"1".repeat(1 << 20), "bad_key")]
        {
            assert_eq!(of(key).unwrap_err().code(), code);
        }
    }
}
