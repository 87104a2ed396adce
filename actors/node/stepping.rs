//! Takes the primaries' steps to the leader, and has epochs given back that nobody here serves under.

use std::sync::Arc;

use tumen_core::cluster::asks::{Answer, Ask};
use tumen_core::cluster::lease::Release;

use super::parts::Parts;
use crate::partitions::partition_manager::PartitionManagerMsg;
use crate::partitions::replication::{AskSteps, GiveBack};

/// Asks whoever leads. Where nobody answers nothing is known, and the primaries ask again.
pub(super) fn ask(parts: &Arc<Parts>) -> AskSteps {
    let parts = Arc::downgrade(parts);
    Arc::new(move |steps, within| {
        let parts = parts.upgrade();
        Box::pin(async move {
            let Some(parts) = parts.filter(|parts| parts.plans.cluster().is_some()) else {
                return Vec::new();
            };
            let leader = || parts.leader.borrow().1.clone();
            match parts.asking.ask(&parts.transport, leader, Ask::Step(steps), within).await {
                Ok(Answer::Records(records)) => records,
                Ok(other) => {
                    tracing::warn!(?other, "the leader answered something else");
                    Vec::new()
                }
                Err(error) => {
                    tracing::debug!(%error, "steps were not taken");
                    Vec::new()
                }
            }
        })
    })
}

/// Has the manager give an epoch back, as if the leader had asked for it.
pub(super) fn give_back(parts: &Arc<Parts>) -> GiveBack {
    let manager = parts.ports.manager.clone();
    Arc::new(move |partition, epoch| {
        // Where there is no manager just now it is said again.
        manager.cast(PartitionManagerMsg::AskRelease(vec![Release { partition, epoch }]));
    })
}
