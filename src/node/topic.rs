//! Topics of the users' own: what one node says, all that listen hear, in the order in which it was said.
//!
//! ```text
//!  Topic::publish ──▶ every node with a session ──▶ each TopicSubscription's queue ──▶ next()
//!  publish_retained ▶ the same, and first of all to whoever subscribes later
//! ```

use std::fmt;
use std::future::poll_fn;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::stream::{Stream, StreamExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tumen_actors::cluster::pubsub::{Hub, News};
use tumen_actors::codec;
use tumen_core::NodeBoot;
use tumen_core::cluster::topics::{self, MESSAGE_LEN_MAX, Overflow, PublishError, TOPIC_LEN_MAX};

use super::Node;
use crate::error::{Error, Result};

/// Keeps the users' topics apart from the runtime's own.
const PREFIX: &str = "app/";

/// The most bytes that the name of a topic may have.
pub const TOPIC_NAME_LEN_MAX: usize = TOPIC_LEN_MAX - PREFIX.len();

/// How many messages wait for a subscriber that is busy, unless it says otherwise.
const QUEUE_LEN: usize = 1024;

/// A topic on which values of one type are said. Cheap to clone. All nodes are to use the same type for a name.
pub struct Topic<T> {
    node: Node,
    name: topics::Topic,
    says: PhantomData<fn(T) -> T>,
}

/// What a subscriber of a [`Topic`] hears.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard<T> {
    /// Something was said.
    Said {
        /// By which run of which node.
        from: NodeBoot,
        /// What.
        value: T,
    },
    /// This subscriber was too slow: before what comes next, so many messages were dropped, the oldest first. Nobody
    /// else waited for it.
    Lagged(u64),
    /// So many messages of one node were lost on the way here: a session broke, or a link was full. A retained value is
    /// not counted, for its newest form arrives yet.
    Missed {
        /// Whose messages.
        from: NodeBoot,
        /// How many.
        count: u64,
    },
    /// Something was said that is no value of this type: that node runs another build.
    Unreadable {
        /// By which run of which node.
        from: NodeBoot,
        /// What is wrong with it.
        why: String,
    },
}

/// Listens to a [`Topic`] until it is dropped. It ends when the node does.
pub struct TopicSubscription<T> {
    news: Pin<Box<dyn Stream<Item = News> + Send>>,
    hears: PhantomData<fn() -> T>,
}

impl Node {
    /// A topic by its name, of 1 to [`TOPIC_NAME_LEN_MAX`] bytes, on which values of type `T` are said.
    ///
    /// ```no_run
    /// # use tumen::prelude::*;
    /// # use tumen::Heard;
    /// # async fn follow(node: Node) -> Result<()> {
    /// #[derive(Serialize, Deserialize)]
    /// struct Price { item: String, cents: u64 }
    ///
    /// let prices = node.topic::<Price>("prices")?;
    /// let mut heard = prices.subscribe();
    /// prices.publish(&Price { item: "tea".into(), cents: 250 })?;
    /// while let Some(news) = heard.next().await {
    ///     match news {
    ///         Heard::Said { from, value } => println!("{from}: {} costs {}", value.item, value.cents),
    ///         Heard::Lagged(count) => println!("{count} prices went by unheard"),
    ///         Heard::Missed { from, count } => println!("{count} prices of {from} were lost"),
    ///         Heard::Unreadable { from, why } => println!("{from} speaks otherwise: {why}"),
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// The name is empty or too long.
    pub fn topic<T: Serialize + DeserializeOwned>(&self, name: &str) -> Result<Topic<T>> {
        let len = name.len();
        if !(1..=TOPIC_NAME_LEN_MAX).contains(&len) {
            return Err(Error::Topic(format!(
                "a topic's name has 1 to {TOPIC_NAME_LEN_MAX} bytes, this one has {len}"
            )));
        }
        let name = topics::Topic::new(&format!("{PREFIX}{name}")).map_err(refused)?;
        Ok(Topic { node: self.clone(), name, says: PhantomData })
    }
}

impl<T: Serialize + DeserializeOwned> Topic<T> {
    /// Says `value` to all who listen, on this node and on every node that it has a session with. It does not wait: who
    /// listens later, or is cut off, does not hear it. What one node says on a topic arrives in that order, each at
    /// most once.
    ///
    /// # Errors
    /// The value cannot be written or has more than about 1 MiB, or the node stopped. Nothing was said.
    pub fn publish(&self, value: &T) -> Result<()> {
        self.hub()?.publish(&self.name, write(value)?).map(drop).map_err(refused)
    }

    /// Says `value`, and keeps it as this node's current value: whoever subscribes later, on any node, hears it first.
    /// It is replaced by the next one, and gone with [`Topic::release`] or with this node.
    ///
    /// # Errors
    /// As [`Topic::publish`]; a node retains values on at most 1,024 topics, and 64 MiB in all.
    pub fn publish_retained(&self, value: &T) -> Result<()> {
        self.hub()?.retain(&self.name, write(value)?).map(drop).map_err(refused)
    }

    /// This node has no current value any more. Those who listen are not told.
    pub fn release(&self) {
        self.node.runtime().hub().release(&self.name);
    }

    /// Listens: to the current value of each node that has one first, then to all that is said from now on, this node's
    /// own words too. Up to 1,024 messages wait.
    pub fn subscribe(&self) -> TopicSubscription<T> {
        self.subscribe_with(QUEUE_LEN)
    }

    /// The same with room for so many messages that wait, at least one. The oldest make room for more, and
    /// [`Heard::Lagged`] counts them: a slow subscriber holds up nobody.
    pub fn subscribe_with(&self, queue_len_max: usize) -> TopicSubscription<T> {
        let hub = self.node.runtime().hub();
        let subscription = hub.subscribe(&self.name, queue_len_max, Overflow::DropOldest);
        TopicSubscription { news: Box::pin(subscription.into_stream()), hears: PhantomData }
    }

    fn hub(&self) -> Result<&Hub> {
        if self.node.inner.stopping.is_cancelled() {
            Err(Error::Stopped)
        } else {
            Ok(self.node.runtime().hub())
        }
    }
}

impl<T> Topic<T> {
    /// The topic's name.
    pub fn name(&self) -> &str {
        self.name.as_str().strip_prefix(PREFIX).unwrap_or_default()
    }
}

impl<T: DeserializeOwned> TopicSubscription<T> {
    /// What is heard next, once there is something. `None`: the node ended.
    pub async fn next(&mut self) -> Option<Heard<T>> {
        poll_fn(|cx| self.poll_next_unpin(cx)).await
    }
}

impl<T: DeserializeOwned> Stream for TopicSubscription<T> {
    type Item = Heard<T>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Heard<T>>> {
        self.news.poll_next_unpin(cx).map(|news| news.map(heard))
    }
}

fn heard<T: DeserializeOwned>(news: News) -> Heard<T> {
    match news {
        News::Said(message) => match codec::decode(&message.body, MESSAGE_LEN_MAX) {
            Ok(value) => Heard::Said { from: message.publisher, value },
            Err(why) => Heard::Unreadable { from: message.publisher, why: why.to_string() },
        },
        News::Missed { publisher, count } => Heard::Missed { from: publisher, count },
        News::Overflowed { count } => Heard::Lagged(count),
    }
}

fn write<T: Serialize>(value: &T) -> Result<bytes::Bytes> {
    codec::try_pack(value, MESSAGE_LEN_MAX - codec::HEADER_LEN).map_err(|why| {
        Error::Topic(format!("the value cannot be said: {why} (at most {MESSAGE_LEN_MAX} bytes)"))
    })
}

fn refused(why: PublishError) -> Error {
    Error::Topic(why.to_string())
}

impl<T> Clone for Topic<T> {
    fn clone(&self) -> Self {
        Self { node: self.node.clone(), name: self.name.clone(), says: PhantomData }
    }
}

impl<T> fmt::Debug for Topic<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Topic({:?})", self.name())
    }
}

impl<T> fmt::Debug for TopicSubscription<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TopicSubscription")
    }
}
