//! Takes the primaries' steps to the leader.

use std::sync::Arc;

use tumen_core::cluster::asks::{Answer, Ask};

use super::parts::Parts;
use crate::partitions::replication::AskSteps;

/// Asks whoever leads. Where nobody answers nothing is known, and the primaries ask again.
pub(super) fn ask(parts: &Arc<Parts>) -> AskSteps {
    let parts = Arc::downgrade(parts);
    Arc::new(move |steps, within| {
        let parts = parts.upgrade();
        Box::pin(async move {
            let Some(parts) = parts else { return Vec::new() };
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
