//! Plans, small enough to be explored, and as the laws see them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock};

use tumen_core::cluster::member::{Member, NodeInfo, Status};
use tumen_core::cluster::snapshot::{Assignment, GroupPlan, GroupSpec, Mode, Snapshot};
use tumen_core::partitioner::Partitioner;
use tumen_core::{
    ClusterId, ClusterName, Epoch, Generation, GroupId, NodeName, PartitionId, Term, UnixMillis, Version,
};

use crate::mutant::Mutant;
use crate::world::World;

/// A committed plan, or one that may be.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Plan {
    pub version: u64,
    /// Which run of each node is a member.
    pub members: Vec<u8>,
    /// The primary of each partition and its epoch.
    pub primaries: Vec<(u8, u64)>,
}

pub fn partition(at: usize) -> PartitionId {
    PartitionId::user(u32::try_from(at).unwrap())
}

pub fn name(node: u8) -> NodeName {
    static NAMES: OnceLock<Vec<NodeName>> = OnceLock::new();
    NAMES.get_or_init(|| (0..8).map(|n| NodeName::new(&format!("n{n}")).unwrap()).collect())[node as usize]
        .clone()
}

impl World {
    /// The plan as the laws see it.
    pub fn snapshot(&self, plan: &Plan) -> Arc<Snapshot> {
        static CACHE: Mutex<BTreeMap<(bool, Plan), Arc<Snapshot>>> = Mutex::new(BTreeMap::new());
        let key = (self.mutant == Mutant::RestartsUnderTheSameBoot, plan.clone());
        let mut cache = CACHE.lock().unwrap();
        Arc::clone(cache.entry(key).or_insert_with(|| Arc::new(self.build(plan))))
    }

    fn build(&self, plan: &Plan) -> Snapshot {
        let member = |(at, run): (u8, &u8)| Member {
            info: NodeInfo {
                id: self.boot(at, *run),
                address: String::new(),
                http: None,
                zone: None,
                weight: 1,
                services: vec![],
                protocol: 1,
            },
            status: Status::Up,
        };
        let assignment = |(primary, epoch): &(u8, u64)| Assignment {
            epoch: Epoch(*epoch),
            copies: vec![u32::from(*primary)],
            ..Assignment::default()
        };
        Snapshot {
            cluster: ClusterId(1),
            name: ClusterName::new("c").unwrap(),
            generation: Generation::ZERO,
            version: Version(plan.version),
            term: Term::ZERO,
            leader: name(0),
            members: (0..).zip(&plan.members).map(member).collect(),
            groups: vec![GroupPlan {
                id: GroupId::Users,
                spec: GroupSpec {
                    partitions: self.partitions,
                    replication: 1,
                    strategy: String::new(),
                    mode: Mode::Async,
                    partitioner: Partitioner::Hash,
                    replicated: false,
                },
                assignments: plan.primaries.iter().map(assignment).collect(),
            }],
            steps: 0,
            computed_at: UnixMillis(0),
            hash: 0,
        }
    }
}
