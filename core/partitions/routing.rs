//! Key → partition, primary, epoch: the table that every node reads without waiting.
//!
//! One table is built from one snapshot and then swapped whole, so that a reader never sees half of two plans.

use crate::cluster::snapshot::{GroupPlan, Snapshot};
use crate::ids::{Epoch, Generation, GroupId, NodeBoot, PartitionId, Version};
use crate::partitioner::{KeyError, Partitioner};
use crate::partitions::fence::Fence;

/// The largest key that is routed, in bytes.
pub const KEY_LEN_MAX: usize = 64 << 10;

/// Why a key has no route. Nothing was sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// No plan is known yet, or the group has none.
    #[error("no partitions exist yet: the cluster has no committed plan")]
    NoPlan,
    /// The key does not map to a partition.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The key is longer than [`KEY_LEN_MAX`].
    #[error("a key has at most {KEY_LEN_MAX} bytes, this one has {0}")]
    KeyTooLong(usize),
    /// Nobody serves the partition at present.
    #[error("{0} has no primary at present")]
    NoPrimary(PartitionId),
}

/// Where a partition is served, in one machine word and a half.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// The primary's place in [`RoutingTable::nodes`].
    pub primary: u32,
    /// The epoch under which it serves.
    pub epoch: Epoch,
}

/// Who served nothing.
const NOBODY: u32 = u32::MAX;

/// Where every partition of one plan is served. Immutable.
#[derive(Clone, Debug)]
pub struct RoutingTable {
    version: Version,
    generation: Generation,
    nodes: Box<[NodeBoot]>,
    groups: Box<[GroupRoutes]>,
}

#[derive(Clone, Debug)]
struct GroupRoutes {
    id: GroupId,
    partitioner: Partitioner,
    routes: Box<[Route]>,
}

/// A key's way: which partition, under which epoch, on which node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Located<'a> {
    /// Which partition the key belongs to.
    pub partition: PartitionId,
    /// The epoch under which the primary serves it.
    pub epoch: Epoch,
    /// The primary.
    pub primary: &'a NodeBoot,
}

impl Default for RoutingTable {
    /// The table before the first plan: it routes nothing.
    fn default() -> Self {
        Self { version: Version::ZERO, generation: Generation::ZERO, nodes: [].into(), groups: [].into() }
    }
}

impl RoutingTable {
    /// The table of one plan.
    pub fn new(snapshot: &Snapshot) -> Self {
        let routes = |group: &GroupPlan| GroupRoutes {
            id: group.id,
            partitioner: group.spec.partitioner.clone(),
            routes: (group.assignments.iter())
                .map(|a| {
                    let primary = snapshot.primary(a).and(a.copies.first()).copied().unwrap_or(NOBODY);
                    Route { primary, epoch: a.epoch }
                })
                .collect(),
        };
        Self {
            version: snapshot.version,
            generation: snapshot.generation,
            nodes: snapshot.members.iter().map(|member| member.id().clone()).collect(),
            groups: snapshot.groups.iter().map(routes).collect(),
        }
    }

    /// The plan's version; zero before the first.
    pub const fn version(&self) -> Version {
        self.version
    }

    /// The plan's members, sorted by name.
    pub fn nodes(&self) -> &[NodeBoot] {
        &self.nodes
    }

    /// How many partitions a group has; none before the first plan.
    pub fn partitions(&self, group: GroupId) -> Option<u32> {
        self.group(group).ok().map(|g| g.routes.len() as u32)
    }

    #[inline]
    fn group(&self, id: GroupId) -> Result<&GroupRoutes, RouteError> {
        self.groups.iter().find(|group| group.id == id).ok_or(RouteError::NoPlan)
    }

    /// Which partition of `group` the key belongs to.
    #[inline]
    pub fn partition_of(&self, group: GroupId, key: &[u8]) -> Result<PartitionId, RouteError> {
        if key.len() > KEY_LEN_MAX {
            return Err(RouteError::KeyTooLong(key.len()));
        }
        let routes = self.group(group)?;
        let index = routes.partitioner.partition_of(key, routes.routes.len() as u32)?;
        Ok(PartitionId { group, index })
    }

    /// The users' partition, primary and epoch of a key. No wait, no allocation.
    #[inline]
    pub fn locate(&self, key: &[u8]) -> Result<Located<'_>, RouteError> {
        self.primary_of(self.partition_of(GroupId::Users, key)?)
    }

    /// The primary and epoch of a partition.
    #[inline]
    pub fn primary_of(&self, partition: PartitionId) -> Result<Located<'_>, RouteError> {
        let routes = &self.group(partition.group)?.routes;
        let route = routes.get(partition.index as usize).ok_or(RouteError::NoPrimary(partition))?;
        let primary = self.nodes.get(route.primary as usize).ok_or(RouteError::NoPrimary(partition))?;
        Ok(Located { partition, epoch: route.epoch, primary })
    }

    /// The fence that a partition's primary holds.
    pub fn fence_of(&self, partition: PartitionId) -> Result<Fence, RouteError> {
        let epoch = self.primary_of(partition)?.epoch;
        Ok(Fence { generation: self.generation, epoch, partition })
    }
}

#[cfg(test)]
mod tests;
