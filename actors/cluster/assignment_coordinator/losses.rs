//! A partition whose loss an operator accepts: its primary is asked what is left, and who asked is told what came of it.

use std::time::Duration;

use ractor::ActorRef;
use tumen_core::cluster::asks::{Answer, Ask};
use tumen_core::cluster::coordinator::LossOutcome;
use tumen_core::ids::{Epoch, NodeBoot, PartitionId};

use super::{AssignmentCoordinator, AssignmentCoordinatorMsg, AssignmentCoordinatorState, Wanted};

/// How long a primary may take to say what is left.
const SURRENDER_WITHIN: Duration = Duration::from_secs(5);

impl AssignmentCoordinator {
    pub(super) fn ask_surrender(
        &self,
        myself: &ActorRef<AssignmentCoordinatorMsg>,
        to: &NodeBoot,
        partition: PartitionId,
        epoch: Epoch,
    ) {
        let ask = Ask::Surrender { partition, epoch };
        let (asking, myself) =
            (self.surroundings.ask_node(to.node.clone(), ask, SURRENDER_WITHIN), myself.clone());
        tokio::spawn(async move {
            let answer = match asking.await {
                Some(Ok(Answer::Surrendered(answer))) => Some(answer),
                _ => None,
            };
            drop(myself.cast(AssignmentCoordinatorMsg::Surrendered { partition, epoch, answer }));
        });
    }
}

/// Tells those who asked what became of losses.
pub(super) fn answer(state: &mut AssignmentCoordinatorState) {
    for (partition, outcome) in state.law.take_losses() {
        tracing::warn!(%partition, ?outcome, "a loss was to be accepted");
        let asked = |what: &Wanted| matches!(what, Wanted::LossAccepted(lost) if *lost == partition);
        for waiting in state.waiting.extract_if(.., |waiting| asked(&waiting.what)) {
            let answer = match &outcome {
                LossOutcome::Accepted(accepted) => Ok(Answer::LossAccepted(accepted.clone())),
                LossOutcome::Refused(why) => Err(why.clone()),
                // Dropped without an answer: who asked learns that it is not known.
                LossOutcome::Unknown => continue,
            };
            drop(waiting.to.send(answer));
        }
    }
}
