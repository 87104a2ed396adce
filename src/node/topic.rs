//! Topics of the users' own: what one node says, all that listen hear, in the order in which it was said.
//!
//! ```text
//!  Topic::publish ──▶ every node that listens ──▶ each TopicSubscription's queue ──▶ next()
//!  publish_retained ▶ the same, and first of all to whoever subscribes later
//! ```

use std::fmt;
use std::future::poll_fn;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{Stream, StreamExt};
use ractor::ActorRef;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tumen_actors::codec;
use tumen_actors::exchange::{Confirmed, Exchange, News};
use tumen_core::NodeBoot;
use tumen_core::cluster::topics::{self, MESSAGE_LEN_MAX, Overflow, PublishError, TOPIC_LEN_MAX};
use tumen_core::exchange::{Published, TopicSeen};

use super::Node;
use crate::error::{Error, Result};

/// The most bytes that the name of a topic may have.
pub const TOPIC_NAME_LEN_MAX: usize = TOPIC_LEN_MAX;

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
    /// So many messages of one node were lost on the way here: a session broke, or too much waited for this node.
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

/// Listens to a [`Topic`] until it is dropped. It ends when the node does, or, with [`Overflow::Close`], when it was too slow.
pub struct TopicSubscription<T> {
    news: Pin<Box<dyn Stream<Item = News> + Send>>,
    hears: PhantomData<fn() -> T>,
}

/// What an actor holds as long as it is at work on something that it heard: dropped, it makes room for more.
#[derive(Debug)]
pub struct Taken {
    _place: OwnedSemaphorePermit,
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
    /// let published = prices.publish(&Price { item: "tea".into(), cents: 250 }).await?;
    /// println!("on its way to {} here and {} elsewhere", published.local, published.remote);
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
        Ok(Topic { node: self.clone(), name: named(name)?, says: PhantomData })
    }

    /// The topics that anybody is known to listen to, or to retain a value on, sorted: as this node sees them.
    pub fn topics(&self) -> Vec<TopicSeen> {
        self.runtime().exchange().topics()
    }

    /// Says JSON, which every [`Topic`] reads as a value of its type.
    pub(crate) async fn publish_json(&self, name: &str, json: Bytes, how: Say) -> Result<Published> {
        let (name, exchange) = (named(name)?, self.exchange()?);
        if how == Say::Local {
            let local = exchange.publish_local(&name, json).map_err(refused)?;
            return Ok(Published { local, ..Published::default() });
        }
        exchange.publish(&name, how == Say::Retained, json).await.map_err(refused)
    }

    pub(super) fn exchange(&self) -> Result<&Exchange> {
        if self.inner.stopping.is_cancelled() { Err(Error::Stopped) } else { Ok(self.runtime().exchange()) }
    }
}

/// To whom something is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Say {
    All,
    Retained,
    Local,
}

impl<T: Serialize + DeserializeOwned> Topic<T> {
    /// Says `value` to all who listen, on all nodes, and tells how many that are. It does not wait until they have it: who
    /// listens later, or is cut off, does not hear it. What one node says on a topic arrives in that order, each at
    /// most once. Only where much waits already for a node that takes it, this waits for that, a fifth of a second at most.
    ///
    /// # Errors
    /// The value cannot be written or has more than about 1 MiB, or the node stopped. Nothing was said.
    pub fn publish(&self, value: &T) -> impl Future<Output = Result<Published>> + Send + use<T> {
        self.say(value, false)
    }

    /// Says `value`, and keeps it as this node's current value: whoever subscribes later, on any node, hears it first.
    /// It is replaced by the next one, and gone with [`Topic::release`] or with this node.
    ///
    /// # Errors
    /// As [`Topic::publish`]; a node retains values on at most 1,024 topics, and 64 MiB in all.
    pub fn publish_retained(&self, value: &T) -> impl Future<Output = Result<Published>> + Send + use<T> {
        self.say(value, true)
    }

    fn say(&self, value: &T, retain: bool) -> impl Future<Output = Result<Published>> + Send + use<T> {
        let (written, node, name) = (write(value), self.node.clone(), self.name.clone());
        async move {
            let published = node.exchange()?.publish(&name, retain, written?).await;
            published.map_err(refused)
        }
    }

    /// Says `value` to all who listen, and waits until every node that has such says to how many it handed it: which nodes
    /// did not say so within this time is told too.
    ///
    /// # Errors
    /// As [`Topic::publish`].
    pub fn publish_confirmed(
        &self,
        value: &T,
        within: Duration,
    ) -> impl Future<Output = Result<Confirmed>> + Send + use<T> {
        let (written, node, name) = (write(value), self.node.clone(), self.name.clone());
        async move {
            let confirmed = node.exchange()?.publish_confirmed(&name, written?, within).await;
            confirmed.map_err(refused)
        }
    }

    /// Says `value` to those who listen on this node, and tells how many that are.
    ///
    /// # Errors
    /// As [`Topic::publish`].
    pub fn publish_local(&self, value: &T) -> Result<usize> {
        self.node.exchange()?.publish_local(&self.name, write(value)?).map_err(refused)
    }

    /// This node has no current value any more. Those who listen are not told.
    pub fn release(&self) {
        self.node.runtime().exchange().release(&self.name);
    }

    /// Listens: to the current value of each node that has one first, then to all that is said from now on, this node's
    /// own words too. Up to 1,024 messages wait; the oldest make room for more.
    pub fn subscribe(&self) -> TopicSubscription<T> {
        self.subscribe_with(QUEUE_LEN, Overflow::DropOldest)
    }

    /// The same with room for so many messages that wait, at least one. What becomes of more is said:
    /// [`Overflow::DropOldest`] drops the oldest and tells how many ([`Heard::Lagged`]), [`Overflow::Close`] ends the
    /// subscription after what waits. A slow subscriber holds up nobody.
    pub fn subscribe_with(&self, queue_len_max: usize, overflow: Overflow) -> TopicSubscription<T> {
        let subscription = self.node.runtime().exchange().subscribe(&self.name, queue_len_max, overflow);
        TopicSubscription { news: Box::pin(subscription.into_stream()), hears: PhantomData }
    }

    /// Has an actor hear what is said, until it ends: `into` makes its message of what was heard. At most so many of these are
    /// in its mailbox or in its hands, at least one, each as long as its [`Taken`] is not dropped; up to 1,024 more wait, and
    /// the oldest of them make room.
    pub fn subscribe_actor<A: ractor::Message>(
        &self,
        actor: &ActorRef<A>,
        at_once_max: usize,
        into: impl Fn(Heard<T>, Taken) -> A + Send + Sync + 'static,
    ) where
        T: Send + 'static,
    {
        let (mut heard, actor) = (self.subscribe(), actor.clone());
        let places = Arc::new(Semaphore::new(at_once_max.clamp(1, Semaphore::MAX_PERMITS)));
        tokio::spawn(async move {
            let cell = actor.get_cell();
            let hand_on = async {
                while let Ok(place) = Arc::clone(&places).acquire_owned().await
                    && let Some(news) = heard.next().await
                    && actor.cast(into(news, Taken { _place: place })).is_ok()
                {}
            };
            tokio::select! {
                () = hand_on => {}
                _ = cell.wait(None) => {}
            }
        });
    }
}

impl<T> Topic<T> {
    /// The topic's name.
    pub fn name(&self) -> &str {
        self.name.as_str()
    }
}

impl<T: DeserializeOwned> TopicSubscription<T> {
    /// What is heard next, once there is something. `None`: it is over.
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
        News::Said(message) => match read(&message.body) {
            Ok(value) => Heard::Said { from: message.publisher.clone(), value },
            Err(why) => Heard::Unreadable { from: message.publisher.clone(), why },
        },
        News::Missed { publisher, count } => Heard::Missed { from: publisher, count },
        News::Overflowed { count } => Heard::Lagged(count),
    }
}

/// What Rust says is a frame; what comes over HTTP is JSON, which never begins like one.
fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, String> {
    if body.starts_with(b"tm") {
        codec::decode(body, MESSAGE_LEN_MAX).map_err(|why| why.to_string())
    } else {
        serde_json::from_slice(body).map_err(|why| why.to_string())
    }
}

fn write<T: Serialize>(value: &T) -> Result<Bytes> {
    codec::try_pack(value, MESSAGE_LEN_MAX - codec::HEADER_LEN).map_err(|why| {
        Error::Topic(format!("the value cannot be said: {why} (at most {MESSAGE_LEN_MAX} bytes)"))
    })
}

fn named(name: &str) -> Result<topics::Topic> {
    topics::Topic::new(name).map_err(refused)
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
