//! Partitions of which too few copies are left, and the operator's word that gives up what is gone.

use std::time::Duration;

use tokio::time::Instant;
use tumen_core::cluster::asks::{Answer, Ask, LossAccepted};
use tumen_core::cluster::coordinator::AskError;
use tumen_core::partitions::replication::Report;
use tumen_core::partitions::request::Reply;
use tumen_core::{GroupId, PartitionId};

use super::Node;
use super::orders::strange;
use super::partitions::Partition;
use crate::error::{Error, Result};

/// How long the leader may take to accept a loss: its primary is asked, gives the partition back, and a plan is agreed on.
const ACCEPT_WITHIN: Duration = Duration::from_secs(14);
/// How long to wait before a loss that another plan came in between of is asked for again.
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(200);
/// How long a primary may take to say how its partition is.
const REPORT_WITHIN: Duration = Duration::from_secs(2);

impl Node {
    /// The partitions that are lost, by index, as far as this node was told: fewer of their copies are left than can tell
    /// what was written. None of them is served until a copy returns, or [`Node::accept_loss`] is said.
    pub fn lost_partitions(&self) -> Vec<Partition> {
        let (Some(plan), lost) = (self.snapshot(), self.runtime().lost()) else { return Vec::new() };
        let users = lost.keys().filter(|partition| partition.group == GroupId::Users);
        users.filter_map(|partition| Partition::of(&plan, partition.index)).collect()
    }

    /// Gives up what is gone of a lost partition, for good: it goes on with what is left, or begins anew, empty, if nothing
    /// is. What was acknowledged and is on no copy that is left is lost, and stays so if a copy returns later that has it.
    ///
    /// The partition's primary says which copies are left; the leader checks that by the committed members too few can
    /// answer. Answers what was given up, once the plan is in force. Saying it twice is the same as once: the second time
    /// the partition is not lost any more.
    ///
    /// # Errors
    /// The partition is not lost, or somebody who is there has not said yet what it has: nothing is given up. Nobody leads,
    /// or the partition has no primary that could be asked. [`Error::NoAnswer`]: it may be given up yet.
    pub async fn accept_loss(&self, partition: PartitionId) -> Result<LossAccepted> {
        let deadline = Instant::now() + ACCEPT_WITHIN;
        loop {
            let within = deadline.saturating_duration_since(Instant::now());
            match self.ask(Ask::AcceptLoss { partition }, within).await {
                Ok(Answer::LossAccepted(accepted)) => return Ok(accepted),
                Ok(other) => return Err(strange(&other)),
                // Another plan came in between, and nothing was given up: the partition may be lost under that one too.
                Err(Error::Refused(AskError::Overtaken(_)))
                    if Instant::now() + ASK_AGAIN_AFTER < deadline =>
                {
                    tokio::time::sleep(ASK_AGAIN_AFTER).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// How a partition is, as its primary sees it. `None`: it has none, it keeps no copies, or did not answer in time.
    pub(crate) async fn report(&self, partition: PartitionId) -> Option<Report> {
        self.runtime().report(partition, REPORT_WITHIN).await
    }

    /// The error for a call to a partition, if that is lost.
    pub(super) fn check_not_lost(&self, partition: impl FnOnce() -> Result<PartitionId>) -> Result<()> {
        if !self.runtime().any_lost() {
            return Ok(());
        }
        match partition() {
            Ok(partition) if self.runtime().lost().contains_key(&partition) => {
                let name = self.snapshot().and_then(|plan| Partition::of(&plan, partition.index));
                Err(Error::Lost(name.map_or_else(|| partition.to_string(), |partition| partition.name)))
            }
            // What is wrong with the key is told where it is looked up.
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// Where a call failed and nothing changed, for the partition is lost by now, that is the reason.
    pub(super) fn explained(
        &self,
        reply: &Reply,
        partition: impl FnOnce() -> Result<PartitionId>,
    ) -> Result<()> {
        match reply {
            Err(failure) if !failure.maybe_changed() => self.check_not_lost(partition),
            Ok(_) | Err(_) => Ok(()),
        }
    }
}
