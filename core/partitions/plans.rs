//! Plans for the tests of what is made of a plan.

use crate::cluster::member::{Member, NodeInfo, Status};
use crate::cluster::snapshot::{Assignment, GroupPlan, GroupSpec, Mode, Snapshot};
use crate::ids::*;
use crate::partitioner::Partitioner;
use crate::time::UnixMillis;

pub(super) fn boot(node: &str, boot: u64) -> NodeBoot {
    NodeBoot::new(NodeName::new(node).unwrap(), Boot(boot))
}

/// A group, and for each of its partitions the copies, by their members' places, and the epoch.
pub(super) type Placed = (GroupId, Vec<(Vec<u32>, u64)>);

/// A plan of these members, sorted by name, and of these groups.
pub(super) fn plan(version: u64, members: &[(NodeBoot, Status)], groups: &[Placed]) -> Snapshot {
    let member = |(id, status): &(NodeBoot, Status)| {
        let info = NodeInfo {
            id: id.clone(),
            address: "127.0.0.1:1".into(),
            http: None,
            zone: None,
            weight: 100,
            services: vec![],
            protocol: 1,
        };
        Member { info, status: *status }
    };
    let assignment = |(copies, epoch): &(Vec<u32>, u64)| Assignment {
        epoch: Epoch(*epoch),
        copies: copies.clone(),
        ..Assignment::default()
    };
    let group = |(id, partitions): &(GroupId, Vec<_>)| {
        let spec = GroupSpec {
            partitions: partitions.len() as u32,
            replication: 1,
            strategy: "balanced".into(),
            mode: Mode::Async,
            partitioner: Partitioner::Hash,
            replicated: false,
        };
        GroupPlan { id: *id, spec, assignments: partitions.iter().map(assignment).collect() }
    };
    let snapshot = Snapshot {
        cluster: ClusterId(1),
        name: ClusterName::new("test").unwrap(),
        generation: Generation(3),
        version: Version(version),
        steps: 0,
        term: Term(1),
        leader: members[0].0.node.clone(),
        members: members.iter().map(member).collect(),
        groups: groups.iter().map(group).collect(),
        computed_at: UnixMillis(0),
        hash: 0,
    }
    .sealed();
    assert_eq!(snapshot.validate(), Ok(()));
    snapshot
}
