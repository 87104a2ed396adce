//! What is asked of the leader, by any node, or of a partition's primary, and what they answer.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::assignment::Certificate;
use crate::cluster::control::Step;
use crate::cluster::coordinator::{AskError, Departure, Preview};
use crate::cluster::snapshot::Snapshot;
use crate::ids::{Epoch, NodeName, PartitionId, Version};
use crate::partitions::record::{CopyId, Record};
use crate::partitions::replication::{NotLost, Position, Report, Standing};

/// A question to the leader, or an order. A node that does not lead answers [`AskError::NotLeader`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ask {
    /// Let partitions come into being. Answered by [`Answer::Created`], also where they exist already.
    Create,
    /// Balance now. Answered by [`Answer::Rebalanced`] once it is done.
    Rebalance,
    /// What would move? Answered by [`Answer::Preview`].
    Preview {
        /// How many nodes of the default weight are imagined to join.
        add: u32,
        /// Which nodes are imagined to leave.
        remove: Vec<NodeName>,
    },
    /// A node goes in good order. Answered by [`Answer::Plan`] once it is primary of nothing.
    Depart {
        /// Which node.
        node: NodeName,
        /// How it goes.
        how: Departure,
    },
    /// Let other copies of these partitions count. Answered by [`Answer::Records`] once it is known what became of it.
    Step(Vec<Step>),
    /// By an operator's word a lost partition goes on with what is left of it. Answered by [`Answer::LossAccepted`] once it
    /// is in force.
    AcceptLoss {
        /// Which partition.
        partition: PartitionId,
    },
    /// How is this partition? The node that is its primary answers it, by [`Answer::Report`].
    Report {
        /// Which partition.
        partition: PartitionId,
    },
    /// The leader asks a partition's primary: it is to be given up for lost. If it is, give the epoch back. Answered by
    /// [`Answer::Surrendered`].
    Surrender {
        /// Which partition.
        partition: PartitionId,
        /// The epoch that is to be given back.
        epoch: Epoch,
    },
    /// The plan in force, if it is newer than this. Every node answers it, by [`Answer::Newer`].
    Pull {
        /// The plan that the asker has.
        known: Version,
    },
}

/// The leader's answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// It is so by this plan.
    Plan {
        /// The version in force.
        version: Version,
    },
    /// The partitions are there.
    Created {
        /// The version in force.
        version: Version,
        /// Whether this question let them come into being. Of those who ask at once, one is told so at most: none, where
        /// the leader changed in the middle, or they came by themselves.
        changed: bool,
    },
    /// Balance is as good as it gets.
    Rebalanced {
        /// The version in force.
        version: Version,
        /// Whether anything had to be changed.
        changed: bool,
        /// What it cost.
        certificate: Certificate,
    },
    /// What would move.
    Preview(Preview),
    /// Which copies of these partitions count now.
    Records(Vec<(PartitionId, Record)>),
    /// The loss is accepted.
    LossAccepted(LossAccepted),
    /// How the partition is; `None` if the node that was asked is not its primary.
    Report(Option<Report>),
    /// What is left of the partition, whose epoch was given back; or why it was not.
    Surrendered(Result<Standing, NotLost>),
    /// The plan in force; `None` if the asker has it already, or there is none.
    Newer(Option<Arc<Snapshot>>),
}

/// What became of a partition whose loss was accepted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LossAccepted {
    /// The plan that says so.
    pub version: Version,
    /// Which partition.
    pub partition: PartitionId,
    /// Its epoch from now on.
    pub epoch: Epoch,
    /// The copies that it goes on with, and what their last entry is. None: it begins anew, empty.
    pub survivors: Vec<(CopyId, Position)>,
    /// The copies that counted and count no more. What they have and the survivors have not is given up.
    pub given_up: Vec<CopyId>,
}

/// What comes back.
pub type Answered = Result<Answer, AskError>;
