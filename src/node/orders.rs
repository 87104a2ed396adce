//! What is asked of the cluster's leader, through any node.

use std::time::Duration;

use tumen_core::assignment::Certificate;
use tumen_core::cluster::asks::{Answer, Ask};
use tumen_core::cluster::coordinator::{Departure, Preview};
use tumen_core::{NodeName, Version};

use super::Node;
use crate::config::{Address, Value};
use crate::error::{Error, Result};

/// How long the leader may take for what it has to commit.
const ORDER_WITHIN: Duration = Duration::from_secs(10);

/// How long a node may take to give away what it holds.
const DRAIN_WITHIN: Duration = Duration::from_secs(60);

/// What [`Node::create_partitions`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Created {
    /// The plan now in force, which holds the partitions.
    pub version: Version,
    /// Whether this call created them. Of all who ask at once, one is told so at most.
    pub changed: bool,
}

/// What [`Node::rebalance_partitions`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rebalanced {
    /// The plan now in force.
    pub version: Version,
    /// Whether there is a new plan; `false` if nothing was to be done.
    pub changed: bool,
    /// What it cost, and what it had to cost at least.
    pub certificate: Certificate,
}

impl Node {
    /// Lets the partitions come into being, where [`Config::create`](crate::config::Config::create) leaves it to you.
    /// Saying it twice, or on two nodes at once, is the same as once. Answers the plan that holds them, and whether it was this
    /// call that created them.
    ///
    /// # Errors
    /// Fewer nodes than [`Config::min_nodes`](crate::config::Config::min_nodes) are there, or nobody leads.
    pub async fn create_partitions(&self) -> Result<Created> {
        match self.ask(Ask::Create, ORDER_WITHIN).await? {
            Answer::Created { version, changed } => Ok(Created { version, changed }),
            other => Err(strange(&other)),
        }
    }

    /// Gives every node its share again, with the fewest moves, and waits until it is done. Where nothing is to be moved
    /// nothing changes.
    ///
    /// # Errors
    /// There are no partitions yet, the strategy failed, or nobody leads.
    pub async fn rebalance_partitions(&self) -> Result<Rebalanced> {
        match self.ask(Ask::Rebalance, ORDER_WITHIN).await? {
            Answer::Rebalanced { version, changed, certificate } => {
                Ok(Rebalanced { version, changed, certificate })
            }
            other => Err(strange(&other)),
        }
    }

    /// What would move if `add` nodes came and `remove` went. Nothing is changed by asking.
    ///
    /// # Errors
    /// There are no partitions yet, no member has such a name, or nobody leads.
    pub async fn preview(&self, add: u32, remove: Vec<NodeName>) -> Result<Preview> {
        match self.ask(Ask::Preview { add, remove }, ORDER_WITHIN).await? {
            Answer::Preview(preview) => Ok(preview),
            other => Err(strange(&other)),
        }
    }

    /// This node gives away what it is primary of, keeps its copies, and is given nothing new. It goes on running.
    /// Answers the plan by which it is so.
    ///
    /// # Errors
    /// Nobody leads, or the others did not take everything in time; then some of it has been given away.
    pub async fn drain(&self) -> Result<Version> {
        self.drain_node(self.name().clone(), false).await
    }

    /// Another node, or this one, gives away what it is primary of; to `leave`, its copies too, after which it is no
    /// member any more.
    ///
    /// # Errors
    /// As [`Node::drain`]; no member has this name.
    pub async fn drain_node(&self, node: NodeName, leave: bool) -> Result<Version> {
        let ask = Ask::Depart { node, how: Departure::Drain { leave } };
        match self.ask(ask, DRAIN_WITHIN).await? {
            Answer::Plan { version } => Ok(version),
            other => Err(strange(&other)),
        }
    }

    /// A node is to be found at this address of a cluster port, as `host:port`. Nodes find each other by themselves: this is
    /// for who knows better. Saying it twice is the same as once.
    pub fn node_up(&self, address: &str) {
        self.runtime().node_up(address);
    }

    /// Looks for other nodes at these addresses from now on, in place of those that the node was told before; what it
    /// discovers it goes on to discover. Nodes that are known stay known.
    ///
    /// # Errors
    /// One of them is no address: nothing changes.
    pub fn set_seeds<S: AsRef<str>>(&self, seeds: impl IntoIterator<Item = S>) -> Result<()> {
        let checked = seeds.into_iter().map(|seed| {
            let seed = seed.as_ref();
            let wrong = |why| Error::rejected(format!("{seed:?} is no address of a cluster port: {why}"));
            Address::parse(seed).map(|address| address.show()).map_err(wrong)
        });
        self.runtime().set_seeds(checked.collect::<Result<_>>()?);
        Ok(())
    }

    /// A node is taken for gone by this node. If it lives, it comes back by itself. Of this node itself it is not believed.
    pub fn node_down(&self, node: &NodeName) {
        self.runtime().node_down(node);
    }
}

/// The leader runs another build and answered something else.
pub(super) fn strange(answer: &Answer) -> Error {
    tracing::error!(?answer, "the leader gave an answer to another question");
    Error::NoAnswer
}
