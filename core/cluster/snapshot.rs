//! One committed plan: the members, and for each partition its epoch and its copies.
//!
//! ```text
//! version 7 ──follows──▶ version 8        same primary (node and boot)  →  same epoch
//!                                         another one                   →  epoch + 1
//! ```

use serde::{Deserialize, Serialize};

use crate::cluster::member::Member;
use crate::ids::{
    ClusterId, ClusterName, Epoch, Generation, GroupId, NodeBoot, NodeName, PartitionId, Revision, Term,
    Version,
};
use crate::partitioner::Partitioner;
use crate::partitions::record::{CopyId, Record};
use crate::time::UnixMillis;

/// What a write's acknowledgement promises. One default for the whole cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// The primary has it. What was not yet shipped is lost with the primary.
    #[default]
    Async,
    /// A majority of the copies has it.
    Sync,
    /// A majority of the copies has it in its log, on disk where there is one.
    Strong,
}

impl std::fmt::Display for Mode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Async => "async",
            Self::Sync => "sync",
            Self::Strong => "strong",
        })
    }
}

impl std::str::FromStr for Mode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "async" => Ok(Self::Async),
            "sync" => Ok(Self::Sync),
            "strong" => Ok(Self::Strong),
            other => Err(format!("unknown mode {other:?}: expected async, sync or strong")),
        }
    }
}

/// What all nodes of a cluster agree on about one group of partitions.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct GroupSpec {
    /// How many partitions. Fixed for the group's life.
    pub partitions: u32,
    /// How many copies of each are wanted.
    pub replication: u32,
    /// The name of the strategy that places them.
    pub strategy: String,
    /// What a write's acknowledgement promises.
    pub mode: Mode,
    /// How keys map to partitions. Fixed for the group's life.
    pub partitioner: Partitioner,
    /// Whether its workers have state that is kept on all copies. Then only a copy that counts is made primary as long
    /// as one is left, and a partition moves after its state did.
    pub replicated: bool,
}

/// One partition's part of the plan.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Assignment {
    /// One more each time the primary changes. Zero: it never had one.
    pub epoch: Epoch,
    /// Steps inside this plan.
    pub revision: Revision,
    /// Indices into [`Snapshot::members`], the primary first. Where the first may not serve, nobody is
    /// primary at present: all who have a copy are away or lost.
    pub copies: Vec<u32>,
    /// The copies that count, sorted: with the next two the partition's committed [`Record`]. None: it never opened.
    pub members: Vec<CopyId>,
    /// How many members it had at most.
    pub high: u32,
}

impl Assignment {
    /// The partition's committed record.
    pub fn record(&self) -> Record {
        Record { epoch: self.epoch, revision: self.revision, members: self.members.clone(), high: self.high }
    }

    /// Whether a copy on this node counts.
    pub fn is_in_sync(&self, node: &NodeName) -> bool {
        self.members.iter().any(|copy| copy.node == *node)
    }
}

/// The partitions of one group.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct GroupPlan {
    /// Which group.
    pub id: GroupId,
    /// What all agree on about it.
    pub spec: GroupSpec,
    /// One per partition, by index.
    pub assignments: Vec<Assignment>,
}

/// One committed plan. Immutable; the next one has the next version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Which cluster, of all that have its name.
    pub cluster: ClusterId,
    /// The cluster's name.
    pub name: ClusterName,
    /// Raised when an operator forces the cluster on without a quorum.
    pub generation: Generation,
    /// One more for each plan.
    pub version: Version,
    /// How often steps were taken since the cluster began: of two states of one plan the one with more is the newer.
    pub steps: u64,
    /// The term of the leader that computed it.
    pub term: Term,
    /// The leader that computed it.
    pub leader: NodeName,
    /// Sorted by name; no name twice.
    pub members: Vec<Member>,
    /// Sorted by id; the users' group is always there.
    pub groups: Vec<GroupPlan>,
    /// When it was computed, for people to read.
    pub computed_at: UnixMillis,
    /// XXH3-64 of all of the above: two nodes that show the same hash hold the same plan.
    pub hash: u64,
}

/// Why a snapshot is refused. The one before it stays in force.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum Invalid {
    /// Members are not sorted by name, or one is there twice.
    #[error("members are not sorted and unique")]
    Nodes,
    /// The groups are not sorted and unique, or the users' group is missing.
    #[error("groups are not sorted and unique, or the users' group is missing")]
    Groups,
    /// A group has not as many assignments as its specification says.
    #[error("{group:?} has {found} assignments, not {wanted}")]
    Count {
        /// Which group.
        group: GroupId,
        /// How many its specification says.
        wanted: u32,
        /// How many there are.
        found: usize,
    },
    /// A copy is no member, or stands twice.
    #[error("{partition} has a copy that is no member, or stands twice")]
    Copies {
        /// Which partition.
        partition: PartitionId,
    },
    /// Steps were taken since the plan before it was looked at: the same plan can be made again.
    #[error("steps were taken since it was computed")]
    Outdated,
    /// Which copies of a partition count is no plan's to change: that is what steps are for.
    #[error("{partition} has other copies that count than the plan before it")]
    Members {
        /// Which partition.
        partition: PartitionId,
    },
    /// The hash does not fit the contents.
    #[error("the hash does not fit the contents")]
    Hash,
    /// It does not continue the one before.
    #[error("it does not continue the snapshot before it: {0}")]
    Follows(String),
}

impl Snapshot {
    /// Where it stands in the order of all states of all plans.
    pub const fn order(&self) -> (Version, u64) {
        (self.version, self.steps)
    }

    /// Whether this run of a node is a member.
    pub fn names(&self, boot: &NodeBoot) -> bool {
        self.member(boot.node.as_str()).is_some_and(|member| member.id() == boot)
    }

    /// The member with this name.
    pub fn member(&self, name: &str) -> Option<&Member> {
        self.member_index(name).map(|at| &self.members[at])
    }

    /// Where in [`Self::members`] this name stands.
    pub fn member_index(&self, name: &str) -> Option<usize> {
        self.members.binary_search_by(|m| m.name().as_str().cmp(name)).ok()
    }

    /// The plan of one group.
    pub fn group(&self, id: GroupId) -> Option<&GroupPlan> {
        self.groups.iter().find(|group| group.id == id)
    }

    /// The users' partitions.
    ///
    /// # Panics
    /// Never for a snapshot that passed [`Self::validate`].
    pub fn users(&self) -> &GroupPlan {
        self.group(GroupId::Users).expect("a valid snapshot has the users' group")
    }

    /// One partition's part of the plan.
    pub fn assignment(&self, partition: PartitionId) -> Option<&Assignment> {
        self.group(partition.group)?.assignments.get(partition.index as usize)
    }

    /// The same, to take a step in. The hash has to be computed anew after.
    pub(super) fn assignment_mut(&mut self, partition: PartitionId) -> Option<&mut Assignment> {
        let group = self.groups.iter_mut().find(|group| group.id == partition.group)?;
        group.assignments.get_mut(partition.index as usize)
    }

    /// The plan as if of this partition only these copies ever counted, under the same epoch: what a plan that accepts the
    /// partition's loss has to follow.
    pub(super) fn with_loss_accepted(
        &self,
        partition: PartitionId,
        survivors: &[CopyId],
    ) -> Result<Self, Invalid> {
        let mut given_up = self.clone();
        let assignment = given_up.assignment_mut(partition).ok_or(Invalid::Members { partition })?;
        let record = assignment.record().with_loss_accepted(survivors.to_vec());
        let record = record.map_err(|_| Invalid::Members { partition })?;
        assignment.members = record.members;
        assignment.high = record.high;
        Ok(given_up)
    }

    /// What a partition is called: a user's as its partitioner says, such as `partition-3` or `p-00500-00999`.
    pub fn name_of(&self, partition: PartitionId) -> String {
        match (partition.group, self.group(partition.group)) {
            (GroupId::Users, Some(group)) => {
                group.spec.partitioner.name(partition.index, group.spec.partitions)
            }
            (GroupId::Names, _) | (GroupId::Users, None) => partition.to_string(),
        }
    }

    /// A partition's epoch.
    pub fn epoch_of(&self, partition: PartitionId) -> Option<Epoch> {
        self.assignment(partition).map(|assignment| assignment.epoch)
    }

    /// The member that is primary of an assignment, if anybody is: its first copy, as long as that may serve.
    pub fn primary(&self, assignment: &Assignment) -> Option<&Member> {
        let first = assignment.copies.first().map(|at| &self.members[*at as usize]);
        first.filter(|member| member.status.may_serve())
    }

    /// Which boot of which node is primary of `partition`, and since which epoch.
    pub fn primary_of(&self, partition: PartitionId) -> Option<(&NodeBoot, Epoch)> {
        let assignment = self.assignment(partition)?;
        Some((self.primary(assignment)?.id(), assignment.epoch))
    }

    /// The members that hold replicas of an assignment, in order.
    pub fn replicas<'a>(&'a self, assignment: &'a Assignment) -> impl Iterator<Item = &'a Member> {
        let primary = usize::from(self.primary(assignment).is_some());
        assignment.copies.iter().skip(primary).map(|at| &self.members[*at as usize])
    }

    /// Every partition of every group with its assignment, in order.
    pub fn partitions(&self) -> impl Iterator<Item = (PartitionId, &Assignment)> {
        self.groups.iter().flat_map(|group| {
            (0..).zip(&group.assignments).map(|(index, a)| (PartitionId { group: group.id, index }, a))
        })
    }

    /// Computes the hash over everything else, and keeps it.
    #[must_use]
    pub fn sealed(mut self) -> Self {
        self.hash = self.contents_hash();
        self
    }

    fn contents_hash(&self) -> u64 {
        let mut hash = crate::wire::StableHasher::new();
        hash.write_u64(self.cluster.0);
        hash.write_str(self.name.as_str());
        for number in [self.generation.0, self.version.0, self.steps, self.term.0, self.computed_at.0] {
            hash.write_u64(number);
        }
        hash.write_str(self.leader.as_str());
        hash.write_u64(self.members.len() as u64);
        for Member { info, status } in &self.members {
            hash.write_str(info.name().as_str());
            hash.write_u64(info.boot().0);
            hash.write_str(&info.address);
            hash.write_option_str(info.http.as_deref());
            hash.write_option_str(info.zone.as_ref().map(|zone| &*zone.0));
            hash.write_u64(u64::from(info.weight));
            hash.write_u64(info.services.len() as u64);
            info.services.iter().for_each(|service| hash.write_str(service));
            hash.write_u64(u64::from(info.protocol));
            hash.write_u64(*status as u64);
        }
        for group in &self.groups {
            hash.write_u64(group.id as u64);
            hash.write_u64(u64::from(group.spec.partitions));
            hash.write_u64(u64::from(group.spec.replication));
            hash.write_str(&group.spec.strategy);
            hash.write_u64(group.spec.mode as u64);
            hash.write_str(&group.spec.partitioner.to_string());
            hash.write_u64(u64::from(group.spec.replicated));
            for assignment in &group.assignments {
                hash.write_u64(assignment.epoch.0);
                hash.write_u64(assignment.revision.0);
                hash.write_u64(assignment.copies.len() as u64);
                assignment.copies.iter().for_each(|copy| hash.write_u64(u64::from(*copy)));
                hash.write_u64(u64::from(assignment.high));
                hash.write_u64(assignment.members.len() as u64);
                for copy in &assignment.members {
                    hash.write_str(copy.node.as_str());
                    hash.write_u64(copy.life.0);
                }
            }
        }
        hash.finish()
    }

    /// Whether the snapshot is whole in itself.
    pub fn validate(&self) -> Result<(), Invalid> {
        if !self.members.windows(2).all(|pair| pair[0].name() < pair[1].name()) {
            return Err(Invalid::Nodes);
        }
        let sorted = self.groups.windows(2).all(|pair| pair[0].id < pair[1].id);
        if !sorted || self.group(GroupId::Users).is_none() {
            return Err(Invalid::Groups);
        }
        for group in &self.groups {
            if group.assignments.len() != group.spec.partitions as usize {
                let (wanted, found) = (group.spec.partitions, group.assignments.len());
                return Err(Invalid::Count { group: group.id, wanted, found });
            }
        }
        for (partition, assignment) in self.partitions() {
            self.validate_copies(assignment).ok_or(Invalid::Copies { partition })?;
        }
        if self.hash != self.contents_hash() {
            return Err(Invalid::Hash);
        }
        Ok(())
    }

    fn validate_copies(&self, assignment: &Assignment) -> Option<()> {
        for (at, copy) in assignment.copies.iter().enumerate() {
            self.members.get(*copy as usize)?;
            let once = !assignment.copies[..at].contains(copy);
            once.then_some(())?;
        }
        Some(())
    }

    /// Whether the snapshot may come after `previous`: the next version, and an epoch more exactly where
    /// the primary is another node or another boot.
    pub fn validate_after(&self, previous: &Self) -> Result<(), Invalid> {
        let refuse = |why: String| Err(Invalid::Follows(why));
        if (self.cluster, self.generation) != (previous.cluster, previous.generation) {
            return refuse("another cluster or generation".into());
        }
        if self.version != previous.version.next() {
            return refuse(format!("version {} after {}", self.version, previous.version));
        }
        if self.steps != previous.steps {
            return Err(Invalid::Outdated);
        }
        if self.term < previous.term {
            return refuse(format!("term {} after {}", self.term, previous.term));
        }
        for group in &previous.groups {
            let same = |new: &GroupPlan| {
                new.spec.partitions == group.spec.partitions && new.spec.partitioner == group.spec.partitioner
            };
            if !self.group(group.id).is_some_and(same) {
                return refuse(format!("the group {:?} changed its partitions", group.id));
            }
        }
        for (partition, new) in self.partitions() {
            let Some(old) = previous.assignment(partition) else { continue };
            let (was, is) = (previous.primary(old).map(Member::id), self.primary(new).map(Member::id));
            // A partition that nobody serves keeps its epoch: the next primary gets the next one. It gets it
            // even if it is the boot that served before, for that boot has stopped in the meantime.
            let wanted = if is.is_some() && is != was { old.epoch.next() } else { old.epoch };
            let renewed = is.is_some() && new.epoch == old.epoch.next();
            if new.epoch != wanted && !renewed {
                return refuse(format!("{partition} has epoch {} after {}", new.epoch, old.epoch));
            }
            let revision = if new.epoch == old.epoch { old.revision } else { Revision::ZERO };
            if (&new.members, new.high, new.revision) != (&old.members, old.high, revision) {
                return Err(Invalid::Members { partition });
            }
        }
        Ok(())
    }
}
