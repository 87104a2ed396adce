//! Actors of your own that other nodes can reach: by the names that they hold, or by a reference that travels.
//!
//! ```text
//!  node.host(&actor, into) ─▶ Hosted ─ register("carts/7") ─▶ call_name("carts/7", Add { .. }), from any node
//!                               └ remote() ─▶ RemoteRef, in a message ─▶ call, monitor, from any node
//! ```

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use ractor::concurrency::oneshot;
use ractor::{ActorRef, RpcReplyPort};
use serde::{Deserialize, Serialize};
use tumen_actors::names::child::MAILBOX_LEN_MAX;
use tumen_actors::partitions::delivery::Delivery;
use tumen_actors::transport::Deadline;
use tumen_core::NodeBoot;
use tumen_core::names::{ClaimNumber, Holder, Name, Reason};
use tumen_core::partitions::request::{Failure, MessageId, Reply};

use crate::error::Result;
use crate::node::{Node, envelope, opened};
use crate::worker::{Message, encode, read};

/// An actor of this node that answers messages of type `M` from anywhere, until it ends. Cheap to clone; the actor lives on
/// when all clones are dropped.
pub struct Hosted<M> {
    node: Node,
    holder: Holder,
    takes: PhantomData<fn(M)>,
}

/// An actor on one run of one node, from anywhere: never one of a later run. Cheap to clone; it can stand in messages.
#[derive(Serialize, Deserialize)]
#[serde(transparent, bound = "")]
pub struct RemoteRef<M> {
    holder: Holder,
    #[serde(skip)]
    takes: PhantomData<fn(M)>,
}

impl Node {
    /// Makes an actor of this process one that all nodes can ask: `into` makes its own message of one that comes. When it ends,
    /// its names are given back, and those who [`monitor`](RemoteRef::monitor) it are told how.
    ///
    /// Up to 16,384 messages wait for its answers; more are answered [`Failure::Overloaded`].
    ///
    /// ```no_run
    /// # use tumen::prelude::*;
    /// use tumen::ractor::{self, ActorRef, RpcReplyPort};
    ///
    /// #[derive(Serialize, Deserialize)]
    /// struct Add { n: u64 }
    /// impl Message for Add { type Reply = u64; }
    ///
    /// enum CartMsg {
    ///     Add(u64, RpcReplyPort<u64>),
    /// }
    /// impl ractor::Message for CartMsg {}
    ///
    /// async fn publish(node: &Node, cart: &ActorRef<CartMsg>) -> Result<()> {
    ///     let hosted = node.host(cart, |Add { n }, reply| CartMsg::Add(n, reply));
    ///     hosted.register("carts/7", "").await?;
    ///     let total = node.call_name("carts/7", Add { n: 2 }).await?;
    ///     Ok(())
    /// }
    /// ```
    pub fn host<M: Message, T: ractor::Message>(
        &self,
        actor: &ActorRef<T>,
        into: impl Fn(M, RpcReplyPort<M::Reply>) -> T + Send + Sync + 'static,
    ) -> Hosted<M> {
        let (to, under_way) = (actor.clone(), Arc::new(AtomicUsize::new(0)));
        let holder = self.names().host(move |delivery| deliver(&to, &into, &under_way, delivery));
        // Its names end with the node.
        let node = self.clone();
        self.names().watch(&actor.get_cell(), holder.actor, async move { drop(node.ended().await) });
        Hosted { node: self.clone(), holder, takes: PhantomData }
    }
}

fn deliver<M: Message, T: ractor::Message>(
    to: &ActorRef<T>,
    into: &impl Fn(M, RpcReplyPort<M::Reply>) -> T,
    under_way: &Arc<AtomicUsize>,
    mut delivery: Delivery,
) {
    if delivery.message != MessageId::of(M::name()) {
        let why = format!("it takes no messages of type {}", delivery.message);
        return delivery.answer(Err(Failure::Rejected(why)));
    }
    let message = match read::<M>(&delivery.body) {
        Ok(message) => message,
        Err(failure) => return delivery.answer(Err(failure)),
    };
    let Some(place) = Place::take(under_way) else { return delivery.answer(Err(Failure::Overloaded)) };
    let (port, answered) = oneshot();
    if to.cast(into(message, port.into())).is_err() {
        return delivery.answer(Err(Failure::Fenced { changed: false }));
    }
    drop(delivery.begin());
    tokio::spawn(async move {
        let reply = match tokio::time::timeout_at(delivery.deadline, answered).await {
            Ok(Ok(reply)) => written::<M>(&reply),
            Ok(Err(_)) => Err(Failure::WorkerFailed("it ended, or gave no answer".into())),
            Err(_) => Err(Failure::Timeout { maybe_applied: true }),
        };
        drop(place);
        delivery.answer(reply);
    });
}

fn written<M: Message>(reply: &M::Reply) -> Reply {
    // What was done is done: that the reply cannot be told is no refusal.
    encode(reply).map_err(|why| Failure::WorkerFailed(format!("its reply to {:?} {why}", M::name())))
}

/// One of the messages that may be under way to an actor.
struct Place(Arc<AtomicUsize>);

impl Place {
    fn take(under_way: &Arc<AtomicUsize>) -> Option<Self> {
        let place = Self(Arc::clone(under_way));
        (under_way.fetch_add(1, Ordering::Relaxed) < MAILBOX_LEN_MAX).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl<M: Message> Hosted<M> {
    /// Claims a name for the actor, with what is to be said of it. Of concurrent claims one succeeds; once it has, the name is found
    /// on this node at once, and on the others a moment later. Claimed twice it is the same as once.
    ///
    /// # Errors
    /// [`Error::Name`](crate::Error::Name): somebody else holds it, or the actor has ended. [`Error::BadName`](crate::Error::BadName).
    pub async fn register(&self, name: impl AsRef<[u8]>, value: impl Into<Bytes>) -> Result<ClaimNumber> {
        let (name, value) = (Name::new(name)?, value.into());
        let within = self.node.config().call_deadline;
        Ok(self.node.names().claim(self.holder.actor, &name, value, within).await?)
    }

    /// Gives a name back. Nothing to do where the actor does not hold it.
    ///
    /// # Errors
    /// The name's directory could not be asked: it frees the name later, by itself.
    pub async fn unregister(&self, name: impl AsRef<[u8]>) -> Result<()> {
        let name = Name::new(name)?;
        let within = self.node.config().call_deadline;
        Ok(self.node.names().release(self.holder.actor, &name, within).await?)
    }

    /// Says something else of the actor to whoever looks its name up.
    ///
    /// # Errors
    /// It does not hold the name, or says more than [`VALUE_LEN_MAX`](super::VALUE_LEN_MAX) bytes.
    pub async fn update(&self, name: impl AsRef<[u8]>, value: impl Into<Bytes>) -> Result<()> {
        let (name, value) = (Name::new(name)?, value.into());
        let within = self.node.config().call_deadline;
        Ok(self.node.names().update(self.holder.actor, &name, value, within).await?)
    }

    /// The names that the actor loses from now on to others, where each side of a split cluster goes on and both gave out a name:
    /// the actor itself goes on, and holds the rest of its names until it ends. Who listens no more, or not fast enough (1,024
    /// wait), misses some; [`Self::names`] has what is left.
    ///
    /// # Errors
    /// [`Error::Name`](crate::Error::Name): the actor has ended.
    pub fn lost_names(&self) -> Result<tokio::sync::broadcast::Receiver<super::Lost>> {
        let losses = self.node.names().losses_of(self.holder.actor);
        Ok(losses.ok_or(super::NameFailure::NoSuchActor)?)
    }

    /// The names that the actor holds, or is about to, sorted.
    pub fn names(&self) -> Vec<Name> {
        self.node.names().names_of(self.holder.actor)
    }

    pub(crate) const fn node(&self) -> &Node {
        &self.node
    }

    /// Its number on its node.
    pub(crate) const fn number(&self) -> u64 {
        self.holder.actor
    }

    /// The actor, for whoever is to reach it without a name.
    pub fn remote(&self) -> RemoteRef<M> {
        RemoteRef { holder: self.holder.clone(), takes: PhantomData }
    }
}

impl<M: Message> RemoteRef<M> {
    /// Asks the actor, through `node`, and waits for its answer, within [`Config::call_deadline`](crate::config::Config).
    ///
    /// # Errors
    /// [`Failure::Fenced`]: it is no more, and nothing changed. Otherwise see [`Failure`].
    pub async fn call(&self, node: &Node, message: M) -> Result<M::Reply> {
        let (id, body) = envelope(&message)?;
        drop(message);
        let deadline = Deadline::after(node.config().call_deadline);
        opened::<M>(node.names().call_actor(&self.holder, id, body, deadline).await)
    }

    /// Sends the actor a message, and does not wait for an answer: `Ok` says that it is on its way to the actor's node. Messages
    /// of one sender keep their order, with those that it asks. What becomes of it there is not told.
    ///
    /// # Errors
    /// It was not sent: that node cannot be reached at present, or as much is on its way there as may be; of an actor of this
    /// node, that it has ended, or its mailbox is full.
    pub fn cast(&self, node: &Node, message: M) -> Result<()> {
        let (id, body) = envelope(&message)?;
        drop(message);
        Ok(node.names().cast_actor(&self.holder, id, body, node.config().call_deadline)?)
    }

    /// Waits until the actor has ended, wherever it is, and tells how: [`Reason::Normal`] where it was stopped,
    /// [`Reason::Crashed`] with what it said where it failed, panicked or was killed, and
    /// [`Reason::NodeDown`] where that run of its node is no member of the cluster any more. How the last 1,024 actors of a node
    /// ended is remembered; of an older one it is said that nobody does.
    pub async fn monitor(&self, node: &Node) -> Reason {
        node.names().monitor(&self.holder).await
    }
}

impl<M> RemoteRef<M> {
    pub(crate) const fn of(holder: Holder) -> Self {
        Self { holder, takes: PhantomData }
    }

    /// Which run of which node it is on.
    pub const fn node(&self) -> &NodeBoot {
        &self.holder.node
    }
}

impl<M> Clone for Hosted<M> {
    fn clone(&self) -> Self {
        Self { node: self.node.clone(), holder: self.holder.clone(), takes: PhantomData }
    }
}

impl<M> fmt::Debug for Hosted<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hosted({})", self.holder)
    }
}

impl<M> Clone for RemoteRef<M> {
    fn clone(&self) -> Self {
        Self { holder: self.holder.clone(), takes: PhantomData }
    }
}

impl<M> PartialEq for RemoteRef<M> {
    fn eq(&self, other: &Self) -> bool {
        self.holder == other.holder
    }
}

impl<M> Eq for RemoteRef<M> {}

impl<M> fmt::Debug for RemoteRef<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RemoteRef({})", self.holder)
    }
}
