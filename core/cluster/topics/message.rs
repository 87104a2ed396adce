//! What is said, on what, and how much of it is allowed.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::ids::NodeBoot;

/// What messages are about. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Topic(pub(super) Arc<str>);

/// The most bytes that a topic's name may have.
pub const TOPIC_LEN_MAX: usize = 255;

/// The most bytes that a message may have.
pub const MESSAGE_LEN_MAX: usize = (1 << 20) - 1024;

impl Topic {
    /// Takes a name of 1 to [`TOPIC_LEN_MAX`] bytes.
    ///
    /// # Errors
    /// It is empty, or longer.
    pub fn new(name: &str) -> Result<Self, PublishError> {
        if name.is_empty() || name.len() > TOPIC_LEN_MAX {
            return Err(PublishError::TopicName { len: name.len() });
        }
        Ok(Self(name.into()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for Topic {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// What was said on a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// About what.
    pub topic: Topic,
    /// By which run of which node.
    pub publisher: NodeBoot,
    /// The how-manieth of its publisher on its topic, from 1; 0 if it was said to this node only. It begins anew with
    /// the publisher, or where the publisher had nothing to say on this topic for very long.
    pub number: u64,
    /// Whether it is kept for late subscribers, and with which rank.
    pub keep: Keep,
    /// What.
    pub body: Bytes,
}

/// Whether a message is kept for those who come late.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Keep {
    /// No: who does not listen misses it.
    No,
    /// As its publisher's current value, until its next one, or until the publisher is gone: without a session, and
    /// not held for alive.
    Own,
    /// As the cluster's current value, until one with a higher rank, even if the publisher goes.
    Ranked(u64),
}

/// Whether a node is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Presence {
    /// It is held for alive.
    Alive,
    /// It is not.
    Gone,
    /// Nothing is known of it any more.
    Unknown,
}

/// One local subscriber, numbered by whoever drives the law.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SubscriberId(pub u64);

/// Why nothing was published. Nothing changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// The topic's name does not do.
    #[error("a topic's name has 1 to {TOPIC_LEN_MAX} bytes, not {len}")]
    TopicName {
        /// How many bytes it has.
        len: usize,
    },
    /// The message is too long.
    #[error("a message has at most {MESSAGE_LEN_MAX} bytes, not {len}: publish where to get it instead")]
    TooLong {
        /// How many bytes it has.
        len: usize,
    },
    /// This node retains as much as it may.
    #[error("at most {topics} topics with {bytes} bytes are retained by one node: release some")]
    Full {
        /// How many topics may be retained.
        topics: usize,
        /// How many bytes may be retained.
        bytes: usize,
    },
    /// A value with this rank or a higher one is current already.
    #[error("a value of rank {current} is current already: nothing older may follow it")]
    Outranked {
        /// The current value's rank.
        current: u64,
    },
}

/// The knobs of topics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The most topics that one publisher may retain values on. Default 1,024.
    pub retained_topics_max: usize,
    /// The most bytes that one publisher may retain in all. Default 64 MiB, at least [`MESSAGE_LEN_MAX`].
    pub retained_bytes_max: usize,
    /// The most topics that this node says something on before it loses count of those on which nothing is retained.
    /// Default 16,384. Others then take its next message there for a first one.
    pub counted_max: usize,
    /// How soon a retained value that could not be sent is tried again. Default 20 ms.
    pub retry_every: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            retained_topics_max: 1024,
            retained_bytes_max: 64 << 20,
            counted_max: 16_384,
            retry_every: Duration::from_millis(20),
        }
    }
}
