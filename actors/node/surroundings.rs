//! What the coordinator and the manager act upon: Raft, and this node's own partitions and lease.

use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tumen_core::cluster::asks::{Answered, Ask};
use tumen_core::cluster::control::{Command, ControlState};
use tumen_core::cluster::lease::{Release, Reply};
use tumen_core::cluster::snapshot::Snapshot;
use tumen_core::ids::NodeName;

use super::acting::By;
use super::parts::Parts;
use crate::cluster::assignment_coordinator::{Proposed, Surroundings};
use crate::cluster::consensus::CommitError;
use crate::cluster::lease_keeper::LeaseKeeperMsg;
use crate::partitions::partition_manager::{PartitionManagerMsg, Reports};

/// The coordinator's surroundings: Raft, and this node's own partitions and lease.
pub(super) struct Around {
    pub(super) parts: Weak<Parts>,
}

impl Surroundings for Around {
    fn commit(&self, command: Command, within: Duration) -> BoxFuture<'static, Proposed> {
        let parts = self.parts.upgrade();
        Box::pin(async move {
            let Some(parts) = parts else { return Proposed::Unknown };
            let deadline = parts.clock.now() + within;
            match parts.consensus().commit(command, deadline).await {
                Ok(outcome) => Proposed::Agreed(outcome),
                Err(CommitError::TooLong { len, max }) => Proposed::TooLong { len, max },
                Err(error) => {
                    tracing::debug!(%error, "a proposal did not come through");
                    Proposed::Unknown
                }
            }
        })
    }

    fn control(&self) -> Arc<ControlState> {
        self.parts
            .upgrade()
            .map(|parts| Arc::clone(&parts.consensus().state().borrow().state))
            .unwrap_or_default()
    }

    fn ask_node(&self, to: NodeName, ask: Ask, within: Duration) -> BoxFuture<'static, Option<Answered>> {
        let parts = self.parts.upgrade();
        Box::pin(async move {
            let parts = parts?;
            parts.asking.ask_node(&parts.transport, &to, ask, within).await
        })
    }

    fn release_here(&self, partitions: Vec<Release>) {
        if let Some(parts) = self.parts.upgrade() {
            parts.ports.manager.cast(PartitionManagerMsg::AskRelease(partitions));
        }
    }

    fn reply_here(&self, reply: Reply) {
        if let Some(parts) = self.parts.upgrade() {
            parts.ports.lease_keeper.cast(LeaseKeeperMsg::Reply(reply));
        }
    }
}

impl Reports for Around {
    fn acted_on(&self, plan: &Arc<Snapshot>) {
        if let Some(parts) = self.parts.upgrade() {
            parts.acted_on.note(By::Partitions, plan, &parts.ports.lease_keeper);
        }
    }

    fn released(&self, releases: Vec<Release>) {
        if let Some(parts) = self.parts.upgrade() {
            parts.lease.note_released(parts.clock.now(), releases);
            parts.ports.lease_keeper.cast(LeaseKeeperMsg::Wake);
        }
    }

    fn standing(&self) -> Vec<Release> {
        self.parts.upgrade().map(|parts| parts.lease.releases()).unwrap_or_default()
    }
}
