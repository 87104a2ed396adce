//! The users' own topics and groups, on the data lane: nothing of the cluster's own ever waits behind them.
//!
//! ```text
//!  publish ─▶ core's law, under one lock ─▶ own subscribers' queues
//!                 ▲        └─▶ a batch for each node that listens ─▶ data lane ─▶ that node's law ─▶ queues
//!                 │                        ◀── answered: the next batch
//!                 └── sessions, the view
//! ```
//!
//! One batch is under way to a node at a time, and carries all that was said while the last one was: so a node that is slow, or
//! gone, costs a bounded buffer and nothing else. It belongs to the node and has no actor: what is said is handed on where it is said,
//! and where it comes in.

mod groups;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::{Notify, mpsc};
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tumen_core::cluster::topics::{Overflow, Presence, PublishError, Pushed, SubscriberId, Topic};
use tumen_core::exchange::{self as law, Batch, Config, Counts, Effect, Message, Published, TopicSeen};
use tumen_core::ids::{NodeBoot, NodeName};
use tumen_core::names::Name;

pub use self::groups::Members;
use crate::clock::Clock;
use crate::cluster::membership;
use crate::subscription::{self, Unsubscribe, Waiting};
use crate::transport::{Event, Incoming, LaneError, Service, Transport};

/// How long an answer to a batch is waited for. A node that is gone is known to be so before.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// What a node is answered whose batch makes no sense: it begins anew.
const ANEW: &[u8] = &[1];

/// What a subscriber gets.
pub type News = subscription::News<Arc<Message>>;
/// Listens to one topic until it is dropped.
pub type Subscription = subscription::Subscription<Arc<Message>>;

/// A node's part in the users' topics and groups. Cheap to clone.
#[derive(Clone)]
pub struct Exchange {
    shared: Arc<Shared>,
}

struct Shared {
    inner: Mutex<Inner>,
    transport: Transport,
    clock: Clock,
    /// Some node has taken a batch.
    room: Notify,
    /// Messages that were dropped because a subscriber was too slow.
    overflowed: AtomicU64,
    /// Where to wait before something is sent again: what became of a batch may be told on a thread of nobody's.
    runtime: Handle,
}

struct Inner {
    law: law::Exchange,
    queues: BTreeMap<SubscriberId, Arc<Waiting<Arc<Message>>>>,
    subscribed: u64,
    asks: BTreeMap<u64, mpsc::UnboundedSender<(NodeBoot, Option<u32>)>>,
    asked: u64,
    /// Who sees how a member of this node ends.
    joined: BTreeMap<(Name, u64), AbortHandle>,
    closed: bool,
}

/// What became of a message, as every node says that listens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Confirmed {
    /// Subscribers of this node that it was handed to.
    pub local: usize,
    /// Subscribers of other nodes that it was handed to, as these say.
    pub remote: usize,
    /// How many other nodes said so.
    pub nodes: usize,
    /// Those that listen, as far as this node knows, and did not say so in time. What they did is unknown.
    pub silent: Vec<NodeBoot>,
}

/// What is counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Topics that somebody is known to listen to, or to retain a value on.
    pub topics: usize,
    /// Subscribers here.
    pub subscribers: usize,
    /// Groups that have members.
    pub groups: usize,
    /// Members here.
    pub members: usize,
    /// Messages whose publisher waits for what became of them.
    pub asks: usize,
    /// What the law counts.
    pub counts: Counts,
    /// Messages that were dropped because a subscriber here was too slow.
    pub overflowed: u64,
}

/// What is to be done once the lock is free.
#[derive(Default)]
struct Later {
    batches: Vec<(NodeName, Arc<Batch>)>,
    retries: Vec<(NodeName, Duration)>,
}

impl Exchange {
    /// The part of a node that has said nothing yet.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn new(config: Config, this: NodeBoot, transport: Transport, clock: Clock) -> Self {
        let inner = Inner {
            law: law::Exchange::new(config, this),
            queues: BTreeMap::new(),
            subscribed: 0,
            asks: BTreeMap::new(),
            asked: 0,
            joined: BTreeMap::new(),
            closed: false,
        };
        let shared = Shared {
            inner: Mutex::new(inner),
            transport,
            clock,
            room: Notify::new(),
            overflowed: AtomicU64::new(0),
            runtime: Handle::current(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Takes its place on the transport, and hears of sessions from now on.
    pub(crate) fn wire(&self, members: &membership::Members) {
        let here = Arc::downgrade(&self.shared);
        let serve = move |batch: &mut Vec<Incoming>| {
            if let Some(exchange) = Self::of(&here) {
                batch.drain(..).for_each(|incoming| exchange.take(incoming));
            }
        };
        self.shared.transport.serve(Service::Exchange, Arc::new(serve));
        let (here, known) = (Arc::downgrade(&self.shared), members.clone());
        let listener = move |event| {
            let Some(exchange) = Self::of(&here) else { return };
            match event {
                Event::SessionUp { peer, session } => {
                    exchange.tell(|law| law.handle_session_up(&peer.info.id, session));
                }
                Event::SessionDown { peer, session, .. } => {
                    exchange.tell(|law| law.handle_session_down(&peer, session));
                    exchange.look_who_is_gone(&known);
                    exchange.shared.room.notify_waiters();
                }
                Event::Refused { .. } | Event::DialFailed { .. } => {}
            }
        };
        members.sessions().subscribe("exchange", Arc::new(listener));
    }

    fn of(here: &Weak<Shared>) -> Option<Self> {
        here.upgrade().map(|shared| Self { shared })
    }

    /// Lets go of what nodes retained that are gone, as the view tells it.
    pub(crate) async fn follow(self, members: membership::Members) {
        let mut views = members.subscribe();
        while views.changed().await.is_ok() {
            self.look_who_is_gone(&members);
        }
    }

    fn look_who_is_gone(&self, members: &membership::Members) {
        let view = members.view();
        self.lock().law.handle_view(|id| match view.node(&id.node) {
            Some(seen) if seen.id() != id => Presence::Unknown,
            Some(seen) if seen.state.is_alive() => Presence::Alive,
            Some(_) => Presence::Gone,
            None => Presence::Unknown,
        });
    }

    /// Says `body` to all who listen on all nodes, and does not wait until they have it: only where much waits already for a node
    /// that takes it, for that. `retain`: it is this node's current value from now on, and the first that is heard by whoever listens
    /// later.
    ///
    /// # Errors
    /// See [`PublishError`]. Nothing was said.
    pub async fn publish(&self, topic: &Topic, retain: bool, body: Bytes) -> Result<Published, PublishError> {
        self.has_room(topic).await;
        self.act(|inner, later| {
            let (published, effects) = inner.law.handle_publish(topic, retain, body, None)?;
            self.run(inner, effects, later);
            Ok(published)
        })
    }

    /// Says `body` to all who listen on all nodes, and waits until each node says to how many it was handed.
    ///
    /// # Errors
    /// See [`PublishError`]. Nothing was said.
    pub async fn publish_confirmed(
        &self,
        topic: &Topic,
        body: Bytes,
        within: Duration,
    ) -> Result<Confirmed, PublishError> {
        let deadline = Instant::now() + within;
        self.has_room(topic).await;
        let (to, mut told) = mpsc::unbounded_channel();
        let (ask, local, listeners) = self.act(|inner, later| {
            inner.asked += 1;
            let ask = inner.asked;
            let listeners = inner.law.listeners(topic);
            let (published, effects) = inner.law.handle_publish(topic, false, body, Some(ask))?;
            inner.asks.insert(ask, to);
            self.run(inner, effects, later);
            Ok((ask, published.local, listeners))
        })?;
        let _asking = Asking { exchange: self, ask };
        let mut confirmed = Confirmed { local, silent: listeners, ..Confirmed::default() };
        let mut unknown = 0;
        while confirmed.silent.len() > unknown {
            let Ok(Some((node, count))) = tokio::time::timeout_at(deadline, told.recv()).await else { break };
            match count {
                Some(count) => {
                    confirmed.silent.retain(|silent| *silent != node);
                    confirmed.remote += count as usize;
                    confirmed.nodes += 1;
                }
                None => unknown += 1,
            }
        }
        Ok(confirmed)
    }

    /// Says `body` to those who listen on this node: how many.
    ///
    /// # Errors
    /// See [`PublishError`]. Nothing was said.
    pub fn publish_local(&self, topic: &Topic, body: Bytes) -> Result<usize, PublishError> {
        self.act(|inner, later| {
            let (count, effects) = inner.law.handle_publish_local(topic, body)?;
            self.run(inner, effects, later);
            Ok(count)
        })
    }

    /// This node has no current value on `topic` any more.
    pub fn release(&self, topic: &Topic) {
        self.tell(|law| law.handle_release(topic));
    }

    /// Listens: to the current values first, and then to all that is said, in each publisher's order. At most `queue_len_max`
    /// messages wait, at least one; `overflow` says what becomes of more.
    pub fn subscribe(&self, topic: &Topic, queue_len_max: usize, overflow: Overflow) -> Subscription {
        let waiting = Arc::new(Waiting::new(queue_len_max, overflow));
        let id = self.act(|inner, later| {
            inner.subscribed += 1;
            let id = SubscriberId(inner.subscribed);
            if inner.closed {
                waiting.close();
            } else {
                inner.queues.insert(id, Arc::clone(&waiting));
                let effects = inner.law.handle_subscribe(id, topic);
                self.run(inner, effects, later);
            }
            id
        });
        Subscription::new(self.clone(), id, topic.clone(), waiting)
    }

    /// The topics that anybody is known to listen to, or to retain a value on, sorted.
    pub fn topics(&self) -> Vec<TopicSeen> {
        self.lock().law.topics().collect()
    }

    /// What is counted.
    pub fn figures(&self) -> Figures {
        let inner = self.lock();
        Figures {
            topics: inner.law.topics().count(),
            subscribers: inner.queues.len(),
            groups: inner.law.groups().count(),
            members: inner.joined.len(),
            asks: inner.asks.len(),
            counts: inner.law.counts(),
            overflowed: self.shared.overflowed.load(Ordering::Relaxed),
        }
    }

    /// The node stops: each subscription gets what waits for it, and then its end.
    pub(crate) fn close(&self) {
        let mut inner = self.lock();
        inner.closed = true;
        std::mem::take(&mut inner.queues).into_values().for_each(|queue| queue.close());
        std::mem::take(&mut inner.joined).into_values().for_each(|watching| watching.abort());
        inner.asks.clear();
    }

    /// Waits while much waits for some node that listens to `topic`, and that takes it.
    async fn has_room(&self, topic: &Topic) {
        // Whoever says much is to let others run, those too that send it.
        tokio::task::coop::consume_budget().await;
        loop {
            let room = self.shared.room.notified();
            tokio::pin!(room);
            room.as_mut().enable();
            let Some(until) = self.lock().law.crowded_until(topic) else { return };
            let wait = self.shared.clock.until(until);
            if wait.is_zero() {
                return;
            }
            // Too late: it is looked at anew.
            drop(tokio::time::timeout(wait, room).await);
        }
    }

    /// A batch came from another node.
    fn take(&self, incoming: Incoming) {
        let from = incoming.from().clone();
        let Incoming { body, reply, .. } = incoming;
        let answer = self.act(|inner, later| {
            let taken = inner.law.handle_batch(&from, body);
            taken.map(|(answer, effects)| {
                self.run(inner, effects, later);
                answer
            })
        });
        match answer {
            Ok(answer) => reply.send(&answer),
            Err(error) => {
                tracing::warn!(%from, %error, "a batch of topics and groups is dropped");
                reply.send(ANEW);
            }
        }
    }

    fn tell(&self, news: impl FnOnce(&mut law::Exchange) -> Vec<Effect>) {
        self.act(|inner, later| {
            let effects = news(&mut inner.law);
            self.run(inner, effects, later);
        });
    }

    /// Does something under the lock, and what it gives rise to after it: sending may be told at once what became of it.
    fn act<T>(&self, what: impl FnOnce(&mut Inner, &mut Later) -> T) -> T {
        let mut later = Later::default();
        let done = what(&mut self.lock(), &mut later);
        self.finish(later);
        done
    }

    fn finish(&self, later: Later) {
        for (to, batch) in later.batches {
            self.ship(&to, &batch);
        }
        for (to, after) in later.retries {
            let here = Arc::downgrade(&self.shared);
            self.shared.runtime.spawn(async move {
                tokio::time::sleep(after).await;
                if let Some(exchange) = Self::of(&here) {
                    exchange.retry(&to);
                }
            });
        }
    }

    fn retry(&self, to: &NodeName) {
        let now = self.shared.clock.now();
        let batch = self.lock().law.handle_retry(now, to);
        if let Some(batch) = batch {
            self.ship(to, &batch);
        }
    }

    fn run(&self, inner: &mut Inner, effects: Vec<Effect>, later: &mut Later) {
        let mut left: Vec<SubscriberId> = Vec::new();
        for effect in effects {
            match effect {
                Effect::Deliver { to, event } => match inner.queues.get(&to).map(|queue| queue.push(event)) {
                    Some(Pushed::Stored) | None => {}
                    Some(Pushed::DroppedOldest) => {
                        self.shared.overflowed.fetch_add(1, Ordering::Relaxed);
                    }
                    Some(Pushed::Closed) => {
                        self.shared.overflowed.fetch_add(1, Ordering::Relaxed);
                        inner.queues.remove(&to);
                        left.push(to);
                    }
                },
                Effect::Ship(to) => {
                    let batch = inner.law.take_batch(self.shared.clock.now(), &to);
                    later.batches.extend(batch.map(|batch| (to, batch)));
                }
                Effect::RetryAfter(to, after) => later.retries.push((to, after)),
                Effect::Told { ask, node, count } => {
                    if let Some(asked) = inner.asks.get(&ask) {
                        // Whoever asked may have gone.
                        drop(asked.send((node, count)));
                    }
                }
            }
        }
        for subscriber in left {
            let effects = inner.law.handle_unsubscribe(subscriber);
            self.run(inner, effects, later);
        }
    }

    fn ship(&self, to: &NodeName, batch: &Batch) {
        let (here, id) = (Arc::downgrade(&self.shared), batch.id());
        let node = to.clone();
        let encode = |buffer: &mut bytes::BytesMut| {
            batch.pieces().for_each(|piece| buffer.extend_from_slice(piece));
        };
        self.shared.transport.request(to, Service::Exchange, ANSWER_WITHIN, encode, move |answer| {
            if let Some(exchange) = Self::of(&here) {
                exchange.answered(&node, id, &answer);
            }
        });
    }

    fn answered(&self, to: &NodeName, batch: (u64, u64), answer: &Result<Bytes, LaneError>) {
        match answer {
            Ok(answer) => self.tell(|law| law.handle_answered(to, batch, answer)),
            Err(error) => {
                tracing::debug!(%to, %error, "a batch of topics and groups has no answer");
                self.tell(|law| law.handle_failed(to, batch, error.maybe_delivered()));
            }
        }
        self.shared.room.notify_waiters();
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // The law's handlers leave no half-made state that the next one could not live with.
        self.shared.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Somebody waits for what became of a message; dropped, nobody does any more, also where the wait was given up.
struct Asking<'a> {
    exchange: &'a Exchange,
    ask: u64,
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.exchange.lock().asks.remove(&self.ask);
    }
}

impl Unsubscribe for Exchange {
    fn unsubscribe(&self, id: SubscriberId) {
        self.act(|inner, later| {
            inner.queues.remove(&id);
            let effects = inner.law.handle_unsubscribe(id);
            self.run(inner, effects, later);
        });
    }
}

impl fmt::Debug for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exchange").field("subscriptions", &self.lock().queues.len()).finish_non_exhaustive()
    }
}
