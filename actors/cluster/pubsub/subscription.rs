//! A subscriber's end: it waits for what is said.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::stream::{self, Stream};
use tokio::sync::Notify;
use tumen_core::cluster::topics::{Event, Message, Overflow, Pushed, Queue, SubscriberId, Topic};
use tumen_core::ids::NodeBoot;

use super::Hub;

/// What a subscriber gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// Something was said.
    Said(Message),
    /// So many messages of `publisher` did not arrive on this node. What is retained is not counted: only its newest
    /// form is owed.
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
    hub: Hub,
    id: SubscriberId,
    topic: Topic,
    shared: Arc<Shared>,
}

impl Subscription {
    pub(super) fn new(hub: Hub, id: SubscriberId, topic: Topic, shared: Arc<Shared>) -> Self {
        Self { hub, id, topic, shared }
    }

    /// Waits for the next news. `None`: there will be no more, for the node stopped, or the queue closed because this subscriber
    /// was too slow. Losing this future loses no news.
    pub async fn recv(&mut self) -> Option<News> {
        loop {
            match self.try_recv() {
                Ok(Some(news)) => return Some(news),
                // What is pushed in between leaves a permit.
                Ok(None) => self.shared.pushed.notified().await,
                Err(Closed) => return None,
            }
        }
    }

    /// The next news if it is there already.
    ///
    /// # Errors
    /// There will be no more.
    pub fn try_recv(&mut self) -> Result<Option<News>, Closed> {
        let mut queue = self.shared.lock();
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
    pub fn topic(&self) -> &Topic {
        &self.topic
    }

    /// How much waits.
    pub fn len(&self) -> usize {
        self.shared.lock().len()
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
        self.hub.unsubscribe(self.id);
    }
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription")
            .field("topic", &self.topic)
            .field("waiting", &self.len())
            .finish_non_exhaustive()
    }
}

/// A subscription ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the subscription ended: the node stopped, or this subscriber was too slow")]
pub struct Closed;

/// The queue between the hub and one subscription.
pub(super) struct Shared {
    queue: Mutex<Queue<Event>>,
    pushed: Notify,
}

impl Shared {
    pub(super) fn new(len_max: usize, overflow: Overflow) -> Self {
        Self { queue: Mutex::new(Queue::new(len_max, overflow)), pushed: Notify::new() }
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
        // Nothing panics while a queue is locked.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
