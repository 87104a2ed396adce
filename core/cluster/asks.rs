//! What is asked of the leader, by any node, and what it answers.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::assignment::Certificate;
use crate::cluster::control::Step;
use crate::cluster::coordinator::{AskError, Departure, Preview};
use crate::cluster::snapshot::Snapshot;
use crate::ids::{NodeName, PartitionId, Version};
use crate::partitions::record::Record;

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
    /// The plan in force; `None` if the asker has it already, or there is none.
    Newer(Option<Arc<Snapshot>>),
}

/// What comes back.
pub type Answered = Result<Answer, AskError>;
