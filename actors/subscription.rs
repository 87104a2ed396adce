//! A subscriber's end of a topic, whichever lane the topic is on: it waits for what is said.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::stream::{self, Stream};
use tokio::sync::Notify;
use tumen_core::cluster::topics::{Event, Overflow, Pushed, Queue, SubscriberId, Topic};
use tumen_core::ids::NodeBoot;

/// What a subscriber gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News<M> {
    /// Something was said.
    Said(M),
    /// So many messages of `publisher` did not arrive on this node. On the control lane what is retained is not counted: only
    /// its newest form is owed.
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

/// Where one subscribes, and is to be forgotten.
pub(crate) trait Unsubscribe: Send + Sync {
    fn unsubscribe(&self, id: SubscriberId);
}

/// Listens to one topic until it is dropped.
pub struct Subscription<M> {
    at: Box<dyn Unsubscribe>,
    id: SubscriberId,
    topic: Topic,
    waiting: Arc<Waiting<M>>,
}

/// A subscription ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the subscription ended: the node stopped, or this subscriber was too slow")]
pub struct Closed;

impl<M> Subscription<M> {
    pub(crate) fn new(
        at: impl Unsubscribe + 'static,
        id: SubscriberId,
        topic: Topic,
        waiting: Arc<Waiting<M>>,
    ) -> Self {
        Self { at: Box::new(at), id, topic, waiting }
    }

    /// Waits for the next news. `None`: there will be no more, for the node stopped, or the queue closed because this subscriber
    /// was too slow. Losing this future loses no news.
    pub async fn recv(&mut self) -> Option<News<M>> {
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
    pub fn try_recv(&mut self) -> Result<Option<News<M>>, Closed> {
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
    pub fn into_stream(self) -> impl Stream<Item = News<M>> + Send
    where
        M: Send + 'static,
    {
        stream::unfold(self, async |mut subscription| Some((subscription.recv().await?, subscription)))
    }
}

impl<M> Drop for Subscription<M> {
    fn drop(&mut self) {
        self.at.unsubscribe(self.id);
    }
}

impl<M> fmt::Debug for Subscription<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription")
            .field("topic", &self.topic)
            .field("waiting", &self.len())
            .finish_non_exhaustive()
    }
}

/// What waits for one subscriber.
pub(crate) struct Waiting<M> {
    queue: Mutex<Queue<Event<M>>>,
    pushed: Notify,
}

impl<M> Waiting<M> {
    pub(crate) fn new(queue_len_max: usize, overflow: Overflow) -> Self {
        Self { queue: Mutex::new(Queue::new(queue_len_max, overflow)), pushed: Notify::new() }
    }

    pub(crate) fn push(&self, event: Event<M>) -> Pushed {
        let pushed = self.lock().push(event);
        self.pushed.notify_one();
        pushed
    }

    pub(crate) fn close(&self) {
        self.lock().close();
        self.pushed.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Queue<Event<M>>> {
        // Nothing panics while a queue is locked.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
