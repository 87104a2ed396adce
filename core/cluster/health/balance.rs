//! How evenly a plan shares out, by the certificate of the assignment.

use serde::{Deserialize, Serialize};

use crate::assignment::{Candidate, Problem, certify};
use crate::cluster::coordinator::layout_of;
use crate::cluster::member::Status;
use crate::cluster::snapshot::{GroupPlan, Snapshot};
use crate::ids::{GroupId, NodeName};

/// The strategy that promises evenness. Others are measured, and not judged.
const EVEN: &str = "balanced";

/// How even one group of partitions is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Balance {
    /// How many primaries have to move, at least, before every node leads its share of what it has copies of.
    pub primary_moves: u64,
    /// How many copies have to move, at least, before every node has its share.
    pub copy_moves: u64,
    /// Most primaries on a node, less the fewest. Weights make it large by necessity.
    pub imbalance_primaries: u32,
    /// Most copies on a node, less the fewest. Weights and zones make it large by necessity.
    pub imbalance_copies: u32,
    /// Partitions with more copies in one zone than they must have.
    pub zone_violations: u32,
    /// Whether the strategy promises evenness, so that what is uneven is a reason.
    pub judged: bool,
}

impl Balance {
    /// How even each group of a plan is.
    pub(super) fn of(plan: &Snapshot) -> Vec<(GroupId, Self)> {
        plan.groups.iter().map(|group| (group.id, Self::of_group(plan, group))).collect()
    }

    fn of_group(plan: &Snapshot, group: &GroupPlan) -> Self {
        // Who leaves gives away what it has, and is given nothing.
        let nodes: Vec<Candidate> = (plan.members.iter())
            .map(|member| Candidate {
                name: member.name().clone(),
                zone: member.info.zone.clone(),
                weight: if member.status == Status::Leaving { 0 } else { member.info.weight },
            })
            .collect();
        let copies_only: Vec<NodeName> = (plan.members.iter())
            .filter(|member| !member.status.may_lead())
            .map(|member| member.name().clone())
            .collect();
        let layout = layout_of(plan, group);
        // The step from a map to itself moves nothing: what it would have to move at least is what is uneven.
        let mut problem = Problem::new(&nodes, group.spec.partitions, group.spec.replication).after(&layout);
        problem.copies_only = &copies_only;
        let certificate = certify(&problem, &layout);
        Self {
            primary_moves: certificate.primary_bound,
            copy_moves: certificate.lower_bound,
            imbalance_primaries: certificate.imbalance_primaries,
            imbalance_copies: certificate.imbalance_copies,
            zone_violations: certificate.zone_violations,
            judged: group.spec.strategy == EVEN,
        }
    }
}
