//! What is said, to whom it goes, and how much of it is allowed.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::cluster::topics::{SubscriberId, Topic};
use crate::ids::{NodeBoot, NodeName};

/// What was said on a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// About what.
    pub topic: Topic,
    /// By which run of which node.
    pub publisher: NodeBoot,
    /// Whether its publisher keeps it for those who come late.
    pub retained: bool,
    /// What.
    pub body: Bytes,
}

/// What a subscriber gets: all subscribers of one node share each message.
pub type Event = crate::cluster::topics::Event<Arc<Message>>;

/// How many subscribers a message went to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Published {
    /// Subscribers of this node: each has it in its queue.
    pub local: usize,
    /// Subscribers of other nodes, as these last said, to which it is on its way.
    pub remote: usize,
    /// How many other nodes that are.
    pub nodes: usize,
    /// Subscribers of other nodes to which it is not sent, because too much waits for their node. They are told.
    pub lost: usize,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Hand `event` to a local subscriber.
    Deliver {
        /// Who gets it.
        to: SubscriberId,
        /// What it gets.
        event: Event,
    },
    /// There is a batch for this node: see [`Exchange::take_batch`](super::Exchange::take_batch).
    Ship(NodeName),
    /// Tell [`Exchange::handle_retry`](super::Exchange::handle_retry) of this node so much later.
    RetryAfter(NodeName, Duration),
    /// Whoever asked what became of a message is told what one node says.
    Told {
        /// The number that the message was given.
        ask: u64,
        /// Which node.
        node: NodeBoot,
        /// To how many subscribers it handed it. `None`: nothing is known, for it was lost on the way, or the node is gone.
        count: Option<u32>,
    },
}

/// A topic, as one node sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicSeen {
    /// Its name.
    pub topic: Topic,
    /// Subscribers here.
    pub local: usize,
    /// Subscribers elsewhere, by node, as these last said.
    pub remote: Vec<(NodeName, u32)>,
    /// Nodes with a current value, as far as it is known here, sorted.
    pub retained_by: Vec<NodeName>,
}

/// What was counted since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Messages that this node said, to all or to its own subscribers.
    pub published: u64,
    /// Messages that came from other nodes.
    pub received: u64,
    /// Messages that were handed to subscribers here: one that two of them hear counts twice.
    pub delivered: u64,
    /// Messages that were not sent to a node because too much waited for it: one for each node.
    pub lost: u64,
    /// Messages of other nodes that did not arrive here.
    pub missed: u64,
    /// How often what is sent to a node had to begin anew.
    pub restarts: u64,
}

/// The knobs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The most topics that this node retains a value on. Default 1,024.
    pub retained_topics_max: usize,
    /// The most bytes that it retains in all. Default 64 MiB.
    pub retained_bytes_max: usize,
    /// The most topics that this node says something on before it loses count of those that nobody listens to. Default
    /// 16,384. Others then take its next message there for a first one.
    pub counted_max: usize,
    /// With so many bytes that wait for a node, whoever publishes waits, as long as that node takes something. Default 2 MiB.
    pub wait_at: usize,
    /// With so many nothing more is taken for that node. Default 8 MiB; more than `wait_at` by a message's length at least.
    pub full_at: usize,
    /// About how many bytes go together. Default 256 KiB.
    pub batch_len: usize,
    /// A node that has not answered for so long is not waited for. Default 200 ms.
    pub stalled_after: Duration,
    /// How soon a batch that a node did not take is sent again. Default 10 ms.
    pub retry_after: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            retained_topics_max: 1024,
            retained_bytes_max: 64 << 20,
            counted_max: 16_384,
            wait_at: 2 << 20,
            full_at: 8 << 20,
            batch_len: 256 << 10,
            stalled_after: Duration::from_millis(200),
            retry_after: Duration::from_millis(10),
        }
    }
}
