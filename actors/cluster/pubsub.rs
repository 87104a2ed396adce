//! Publish and subscribe over the transport's control lane.
//!
//! ```text
//!  publish ─▶ Topics (core's law, under one lock) ─▶ own subscribers' queues
//!                 ▲                    └───────────▶ Transport, all sessions
//!                 ├── Transport: packets, sessions
//!                 └── PubSub, the actor: the view, the timer
//! ```
//!
//! [`Hub`] belongs to the node: subscriptions and retained values outlive a crash of the actor, and nothing that is said
//! waits in a mailbox, where nobody bounds it. Everything is sent and handed on under the law's lock, so that what is said first
//! arrives first.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::task::AbortHandle;
use tumen_core::cluster::topics::{
    Config, Effect, Keep, Message, Overflow, Presence, PublishError, Pushed, SubscriberId, Topic, Topics,
};
use tumen_core::ids::{NodeBoot, NodeName};
use tumen_core::time::Moment;

use super::membership::Members;
use crate::clock::Clock;
use crate::port::Port;
use crate::subscription::{self, Unsubscribe, Waiting};
use crate::transport::{Channel, Event, Session, Transport};

/// What a subscriber gets.
pub type News = subscription::News<Message>;
/// Listens to one topic until it is dropped.
pub type Subscription = subscription::Subscription<Message>;

/// Where a node publishes and subscribes. Cheap to clone; it belongs to the node.
#[derive(Clone)]
pub struct Hub {
    inner: Arc<Mutex<Inner>>,
    transport: Transport,
    clock: Clock,
    port: Port<PubSubMsg>,
}

struct Inner {
    law: Topics,
    queues: BTreeMap<SubscriberId, Arc<Waiting<Message>>>,
    subscribed: u64,
    closed: bool,
}

impl Hub {
    /// The hub of a node that has said nothing yet.
    pub fn new(config: Config, this: NodeBoot, transport: Transport, clock: Clock) -> Self {
        // Of two hubs in one run of a node the later has the later clock.
        let law = Topics::new(config, this, clock.now().as_nanos());
        let inner = Inner { law, queues: BTreeMap::new(), subscribed: 0, closed: false };
        Self { inner: Arc::new(Mutex::new(inner)), transport, clock, port: Port::default() }
    }

    /// Says `body` to all who listen, on all nodes that have a session with this one; how many listen here.
    ///
    /// # Errors
    /// See [`PublishError`].
    pub fn publish(&self, topic: &Topic, body: Bytes) -> Result<usize, PublishError> {
        self.say(topic, Keep::No, body)
    }

    /// Says `body` to all who listen on this node; how many do.
    ///
    /// # Errors
    /// See [`PublishError`].
    pub fn publish_local(&self, topic: &Topic, body: Bytes) -> Result<usize, PublishError> {
        let mut inner = self.lock();
        let effects = inner.law.handle_publish_local(topic, body)?;
        self.run(&mut inner, effects);
        Ok(inner.law.subscribers(topic))
    }

    /// Makes `body` this node's current value: it is said to all who listen, and first to all who come later, until the
    /// next one, until [`Self::release`], or until this node is gone. How many listen here.
    ///
    /// # Errors
    /// See [`PublishError`].
    pub fn retain(&self, topic: &Topic, body: Bytes) -> Result<usize, PublishError> {
        self.say(topic, Keep::Own, body)
    }

    /// Makes `body` the cluster's current value, in place of all with a lower rank. How many listen here.
    ///
    /// # Errors
    /// See [`PublishError`]; one with this rank or a higher one may be current already.
    pub fn retain_ranked(&self, topic: &Topic, rank: u64, body: Bytes) -> Result<usize, PublishError> {
        self.say(topic, Keep::Ranked(rank), body)
    }

    /// This node has no current value on `topic` any more.
    pub fn release(&self, topic: &Topic) {
        let mut inner = self.lock();
        let effects = inner.law.handle_release(topic);
        self.run(&mut inner, effects);
    }

    /// Listens: to the current values first, and then to all that is said, in order. Of what it does not take in time at most
    /// `queue_len_max` messages wait, at least one; `overflow` says what becomes of more.
    pub fn subscribe(&self, topic: &Topic, queue_len_max: usize, overflow: Overflow) -> Subscription {
        let mut inner = self.lock();
        inner.subscribed += 1;
        let id = SubscriberId(inner.subscribed);
        let waiting = Arc::new(Waiting::new(queue_len_max, overflow));
        if inner.closed {
            waiting.close();
        } else {
            inner.queues.insert(id, Arc::clone(&waiting));
            let effects = inner.law.handle_subscribe(id, topic);
            self.run(&mut inner, effects);
        }
        Subscription::new(self.clone(), id, topic.clone(), waiting)
    }

    /// The current values on `topic`, without listening.
    pub fn current(&self, topic: &Topic) -> Vec<Message> {
        self.lock().law.current(topic).cloned().collect()
    }

    /// How many listen to `topic` on this node.
    pub fn subscribers(&self, topic: &Topic) -> usize {
        self.lock().law.subscribers(topic)
    }

    /// The node stops: each subscription gets what waits for it, and then its end.
    pub fn close(&self) {
        let mut inner = self.lock();
        inner.closed = true;
        let queues = std::mem::take(&mut inner.queues);
        for (id, queue) in queues {
            queue.close();
            inner.law.handle_unsubscribe(id);
        }
    }

    fn say(&self, topic: &Topic, keep: Keep, body: Bytes) -> Result<usize, PublishError> {
        let mut inner = self.lock();
        let effects = inner.law.handle_publish(topic, keep, body)?;
        self.run(&mut inner, effects);
        Ok(inner.law.subscribers(topic))
    }

    fn look_who_is_gone(&self, members: &Members) {
        let view = members.view();
        let presence = |node: &NodeName| match view.node(node) {
            Some(seen) if seen.state.is_alive() => Presence::Alive,
            Some(_) => Presence::Gone,
            None => Presence::Unknown,
        };
        self.lock().law.handle_view(presence);
    }

    fn tell(&self, news: impl FnOnce(&mut Topics) -> Vec<Effect>) {
        let mut inner = self.lock();
        let effects = news(&mut inner.law);
        self.run(&mut inner, effects);
    }

    fn run(&self, inner: &mut Inner, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Deliver { to, event } => {
                    let pushed = inner.queues.get(&to).map(|queue| queue.push(event));
                    if pushed == Some(Pushed::Closed) {
                        inner.queues.remove(&to);
                        inner.law.handle_unsubscribe(to);
                    }
                }
                Effect::Send { to, topic, packet } => self.send(inner, &to, topic.as_ref(), &packet),
                Effect::Broadcast { topic, packet } => {
                    let peers: Vec<_> = inner.law.peers().cloned().collect();
                    peers.iter().for_each(|to| self.send(inner, to, Some(&topic), &packet));
                }
                // Without an actor nothing is under way; the next one is told of all sessions anew.
                Effect::WakeAt(moment) => {
                    self.port.cast(PubSubMsg::WakeAt(moment));
                }
            }
        }
    }

    fn send(&self, inner: &mut Inner, to: &NodeName, topic: Option<&Topic>, packet: &Bytes) {
        let Err(error) = self.transport.cast(to, Channel::Topic, packet) else { return };
        tracing::debug!(%to, %error, "a message is not sent");
        if let Some(topic) = topic {
            let effects = inner.law.handle_unsent(self.clock.now(), to, topic);
            // What is not sent asks for a later try, and sends nothing now.
            self.run(inner, effects);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // The law's handlers leave no half-made state that the next one could not live with.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Unsubscribe for Hub {
    fn unsubscribe(&self, id: SubscriberId) {
        let mut inner = self.lock();
        inner.queues.remove(&id);
        inner.law.handle_unsubscribe(id);
    }
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hub").field("subscriptions", &self.lock().queues.len()).finish_non_exhaustive()
    }
}

/// What the actor is told.
#[derive(Debug)]
pub enum PubSubMsg {
    /// The view changed.
    ViewChanged,
    /// The law wants to be woken then.
    WakeAt(Moment),
    /// That moment has come.
    Wake,
}

impl ractor::Message for PubSubMsg {}

/// The actor. It takes its place behind [`Hub`] by itself.
pub struct PubSub {
    hub: Hub,
    members: Members,
}

impl PubSub {
    /// Runs `hub` among `members`.
    pub fn new(hub: Hub, members: Members) -> Self {
        Self { hub, members }
    }

    /// Lets the hub hear of packets and sessions, those that are up first.
    fn listen(&self) {
        let hub = self.hub.clone();
        let handler = move |session: &Session, packet: Bytes| {
            hub.tell(|law| {
                law.handle_packet(&session.peer, &packet).unwrap_or_else(|error| {
                    tracing::debug!(from = %session.peer, %error, "a message is dropped");
                    Vec::new()
                })
            });
        };
        self.hub.transport.on_control(Channel::Topic, Arc::new(handler));
        let (hub, members) = (self.hub.clone(), self.members.clone());
        let listener = move |event| match event {
            Event::SessionUp { peer, .. } => hub.tell(|law| law.handle_session_up(&peer.info.id)),
            Event::SessionDown { peer, .. } => {
                hub.lock().law.handle_session_down(&peer);
                hub.look_who_is_gone(&members);
            }
            Event::Refused { .. } | Event::DialFailed { .. } => {}
        };
        self.hub.lock().law.handle_sessions_lost();
        self.members.sessions().subscribe("pubsub", Arc::new(listener));
    }
}

/// What the actor holds.
#[derive(Debug)]
pub struct PubSubState {
    waking: Option<AbortHandle>,
    watching: AbortHandle,
}

impl Actor for PubSub {
    type Msg = PubSubMsg;
    type State = PubSubState;
    type Arguments = ();

    async fn pre_start(
        &self,
        myself: ActorRef<PubSubMsg>,
        (): (),
    ) -> Result<PubSubState, ActorProcessingErr> {
        self.hub.port.lead_to(myself.clone());
        self.listen();
        let mut views = self.members.subscribe();
        let watching = tokio::spawn(async move {
            while views.changed().await.is_ok() && myself.cast(PubSubMsg::ViewChanged).is_ok() {}
        });
        Ok(PubSubState { waking: None, watching: watching.abort_handle() })
    }

    async fn handle(
        &self,
        myself: ActorRef<PubSubMsg>,
        message: PubSubMsg,
        state: &mut PubSubState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            PubSubMsg::ViewChanged => self.hub.look_who_is_gone(&self.members),
            PubSubMsg::WakeAt(moment) => {
                state.waking.take().inspect(AbortHandle::abort);
                let wait = self.hub.clock.until(moment);
                let waking = tokio::spawn(async move {
                    tokio::time::sleep(wait).await;
                    // If the actor has ended, the next one starts over.
                    drop(myself.cast(PubSubMsg::Wake));
                });
                state.waking = Some(waking.abort_handle());
            }
            PubSubMsg::Wake => {
                let now = self.hub.clock.now();
                self.hub.tell(|law| law.handle_timer(now));
            }
        }
        Ok(())
    }

    async fn post_stop(
        &self,
        _myself: ActorRef<PubSubMsg>,
        state: &mut PubSubState,
    ) -> Result<(), ActorProcessingErr> {
        state.waking.take().inspect(AbortHandle::abort);
        state.watching.abort();
        Ok(())
    }
}
