//! A plan to show: four members, four partitions, one of which nobody serves.

use tumen_core::cluster::member::{Member, NodeInfo, Status, WEIGHT_DEFAULT};
use tumen_core::cluster::snapshot::{Assignment, GroupPlan, GroupSpec, Mode, Snapshot};
use tumen_core::partitioner::Partitioner;
use tumen_core::{
    Boot, ClusterId, ClusterName, Epoch, Generation, GroupId, NodeBoot, NodeName, Revision, Term, UnixMillis,
    Version,
};

pub(crate) fn member(name: &str, boot: u64, status: Status) -> Member {
    let info = NodeInfo {
        id: NodeBoot::new(NodeName::new(name).unwrap(), Boot(boot)),
        address: "127.0.0.1:7101".into(),
        http: Some("127.0.0.1:8101".into()),
        zone: None,
        weight: WEIGHT_DEFAULT,
        services: vec!["kv".into()],
        protocol: 1,
    };
    Member { info, status }
}

pub(crate) fn plan(partitioner: Partitioner) -> Snapshot {
    let assignment = |epoch, copies: &[u32]| Assignment {
        epoch: Epoch(epoch),
        revision: Revision::ZERO,
        copies: copies.to_vec(),
        ..Assignment::default()
    };
    let spec = GroupSpec {
        partitions: 4,
        replication: 2,
        strategy: "balanced".into(),
        mode: Mode::Sync,
        partitioner,
        replicated: false,
    };
    let assignments =
        vec![assignment(1, &[0, 1]), assignment(1, &[1, 2]), assignment(2, &[2, 0]), assignment(3, &[])];
    let snapshot = Snapshot {
        cluster: ClusterId(0xabc),
        name: ClusterName::new("shop").unwrap(),
        generation: Generation::ZERO,
        version: Version(7),
        term: Term(2),
        leader: NodeName::new("node-1").unwrap(),
        members: (1..=4).map(|n| member(&format!("node-{n}"), 10 + n, Status::Up)).collect(),
        groups: vec![GroupPlan { id: GroupId::Users, spec, assignments }],
        steps: 0,
        computed_at: UnixMillis(0),
        hash: 0,
    };
    let snapshot = snapshot.sealed();
    snapshot.validate().unwrap();
    snapshot
}
