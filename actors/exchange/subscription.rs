//! A subscriber's end: it waits for what is said.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::stream::{self, Stream};
use tokio::sync::Notify;
use tumen_core::cluster::topics::{Overflow, Pushed, Queue, SubscriberId, Topic};
use tumen_core::exchange::{Event, Message};
use tumen_core::ids::NodeBoot;

use super::Exchange;

/// What a subscriber gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// Something was said.
    Said(Arc<Message>),
    /// So many messages of `publisher` did not arrive on this node.
    Missed {
        /// Whose messages.
        publisher: NodeBoot,
        /// How many.
        count: u64,
    },
    /// So many messages were dropped because this subscriber was too slow, before what comes next.
    Overflowed {
        /// How many.
        count: u64,
    },
}

/// Listens to one topic until it is dropped.
pub struct Subscription {
    exchange: Exchange,
    id: SubscriberId,
    topic: Topic,
    waiting: Arc<Waiting>,
}

/// There will be no more news.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closed;

impl Subscription {
    pub(super) const fn new(
        exchange: Exchange,
        id: SubscriberId,
        topic: Topic,
        waiting: Arc<Waiting>,
    ) -> Self {
        Self { exchange, id, topic, waiting }
    }

    /// Waits for the next news. `None`: there will be no more, for the node stopped, or the queue closed because this subscriber
    /// was too slow. Losing this future loses no news.
    pub async fn recv(&mut self) -> Option<News> {
        loop {
            match self.try_recv() {
                Ok(Some(news)) => return Some(news),
                // What is pushed in between leaves a permit.
                Ok(None) => self.waiting.pushed.notified().await,
                Err(Closed) => return None,
            }
        }
    }

    /// The next news if it is there already.
    ///
    /// # Errors
    /// There will be no more.
    pub fn try_recv(&mut self) -> Result<Option<News>, Closed> {
        let mut queue = self.waiting.lock();
        let count = queue.take_missed();
        if count > 0 {
            return Ok(Some(News::Overflowed { count }));
        }
        match queue.pop() {
            Some(Event::Said(message)) => Ok(Some(News::Said(message))),
            Some(Event::Missed { publisher, count }) => Ok(Some(News::Missed { publisher, count })),
            None if queue.is_closed() => Err(Closed),
            None => Ok(None),
        }
    }

    /// The topic.
    pub const fn topic(&self) -> &Topic {
        &self.topic
    }

    /// How much waits.
    pub fn len(&self) -> usize {
        self.waiting.lock().len()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The news as a stream, until there will be no more.
    pub fn into_stream(self) -> impl Stream<Item = News> + Send {
        stream::unfold(self, async |mut subscription| Some((subscription.recv().await?, subscription)))
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.exchange.unsubscribe(self.id);
    }
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Subscription({})", self.topic)
    }
}

/// What waits for one subscriber.
pub(super) struct Waiting {
    queue: Mutex<Queue<Event>>,
    pushed: Notify,
}

impl Waiting {
    pub(super) fn new(queue_len_max: usize, overflow: Overflow) -> Self {
        Self { queue: Mutex::new(Queue::new(queue_len_max, overflow)), pushed: Notify::new() }
    }

    pub(super) fn push(&self, event: Event) -> Pushed {
        let pushed = self.lock().push(event);
        self.pushed.notify_one();
        pushed
    }

    pub(super) fn close(&self) {
        self.lock().close();
        self.pushed.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Queue<Event>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
