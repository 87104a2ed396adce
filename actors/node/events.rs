//! What happens to a node and its cluster, for people and programs that watch.

use std::sync::Arc;

use tumen_core::cluster::greeting::Refusal;
use tumen_core::cluster::health::Change;
use tumen_core::cluster::snapshot::Snapshot;
use tumen_core::ids::{Epoch, NodeBoot, NodeName, PartitionId, Term};

/// One piece of news. Who listens too slowly misses the oldest, and is told how many.
#[derive(Clone, Debug)]
pub enum Event {
    /// A session with a node is up.
    NodeUp {
        /// Which run of which node.
        node: NodeBoot,
    },
    /// The session with a node ended.
    NodeDown {
        /// Which run of which node.
        node: NodeBoot,
        /// Why.
        reason: String,
    },
    /// Two nodes spoke and do not become peers.
    Refused {
        /// The address.
        address: String,
        /// Why.
        refusal: Refusal,
        /// Whether this node refused the other; else it was refused.
        by_us: bool,
    },
    /// A plan is in force.
    Plan {
        /// The plan.
        plan: Arc<Snapshot>,
        /// The one that this node knew before.
        previous: Option<Arc<Snapshot>>,
    },
    /// Too few copies of a partition are left: it is not served until one returns, or an operator accepts the loss.
    PartitionLost {
        /// Which.
        partition: PartitionId,
        /// Under which epoch.
        epoch: Epoch,
    },
    /// A partition is not lost any more.
    PartitionFound {
        /// Which.
        partition: PartitionId,
    },
    /// The cluster's health changed, as this node sees it.
    Health {
        /// What changed.
        change: Change,
    },
    /// Somebody leads, or nobody does.
    Leader {
        /// Who.
        leader: Option<NodeName>,
        /// In which term.
        term: Term,
    },
}
