//! Groups of actors: joined where they run, known on every node, and asked all at once.
//!
//! ```text
//!  node.host(&actor, into) ─▶ Hosted ─ group.join ─▶ members(), on every node
//!  group.ask(Report {}) ─▶ all members ─▶ Gathered { replies, silent }
//! ```

use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use tumen_actors::exchange::Members;
use tumen_core::names::Name;

use super::{Node, envelope, opened};
use crate::error::{Error, Result};
use crate::names::{Hosted, RemoteRef};
use crate::worker::Message;

/// A group of actors that take messages of type `M`, by its name. Cheap to clone.
pub struct Group<M> {
    node: Node,
    name: Name,
    takes: PhantomData<fn(M)>,
}

/// What the members of a group said, each under its reference, in the order of [`Group::members`].
pub struct Gathered<M: Message> {
    /// What those said that answered.
    pub replies: Vec<(RemoteRef<M>, M::Reply)>,
    /// Those that did not answer in time, or refused, each with the reason: [`Error::changed`] says whether they may have
    /// carried it out.
    pub silent: Vec<(RemoteRef<M>, Error)>,
}

/// To how many members a message is on its way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// To so many.
    pub sent: usize,
    /// To so many others it was not sent: they have ended, their node cannot be reached, or too much waits for them.
    pub not_sent: usize,
}

impl Node {
    /// A group by its name, of 1 to 1,024 bytes. It is there as long as it has members; an actor that ends, or whose node
    /// goes, is a member no more.
    ///
    /// ```no_run
    /// # use tumen::prelude::*;
    /// use tumen::ractor::{self, ActorRef, RpcReplyPort};
    ///
    /// #[derive(Serialize, Deserialize)]
    /// struct Load;
    /// impl Message for Load { type Reply = u32; }
    ///
    /// enum SensorMsg {
    ///     Load(RpcReplyPort<u32>),
    /// }
    /// impl ractor::Message for SensorMsg {}
    ///
    /// async fn total(node: &Node, sensor: &ActorRef<SensorMsg>) -> Result<u32> {
    ///     let sensors = node.group::<Load>("sensors")?;
    ///     sensors.join(&node.host(sensor, |_: Load, reply| SensorMsg::Load(reply)))?;
    ///     let told = sensors.ask(Load).await?; // all of them, on all nodes
    ///     for (sensor, why) in &told.silent {
    ///         println!("{sensor:?} did not answer: {why}");
    ///     }
    ///     Ok(told.replies.iter().map(|(_, load)| load).sum())
    /// }
    /// ```
    ///
    /// # Errors
    /// The name is empty or too long.
    pub fn group<M: Message>(&self, name: impl AsRef<[u8]>) -> Result<Group<M>> {
        Ok(Group { node: self.clone(), name: Name::new(name)?, takes: PhantomData })
    }

    /// The groups that have members, as this node knows them, sorted.
    pub fn groups(&self) -> Vec<Members> {
        self.runtime().exchange().groups()
    }
}

impl<M: Message> Group<M> {
    /// Makes an actor a member, on the node where it is hosted, until it leaves or ends. That node knows at once, the others a
    /// moment later. `false`: it was one before.
    ///
    /// # Errors
    /// The node stopped.
    pub fn join(&self, actor: &Hosted<M>) -> Result<bool> {
        let node = actor.node();
        Ok(node.exchange()?.join(node.names(), &self.name, actor.number()))
    }

    /// The actor is a member no more. `false`: it was none.
    pub fn leave(&self, actor: &Hosted<M>) -> bool {
        actor.node().runtime().exchange().leave(&self.name, actor.number())
    }

    /// The members on all nodes that this one has a session with, sorted by node.
    pub fn members(&self) -> Vec<RemoteRef<M>> {
        let members = self.node.runtime().exchange().members(&self.name);
        members.into_iter().map(RemoteRef::of).collect()
    }

    /// The members on this node.
    pub fn local_members(&self) -> Vec<RemoteRef<M>> {
        let members = self.node.runtime().exchange().local_members(&self.name);
        members.into_iter().map(RemoteRef::of).collect()
    }

    /// Asks all members at once, and waits until each has answered, within [`Config::call_deadline`](crate::config::Config).
    ///
    /// # Errors
    /// The message cannot be written, or the node stopped. That a member does not answer is no error: see
    /// [`Gathered::silent`].
    pub async fn ask(&self, message: M) -> Result<Gathered<M>> {
        let within = self.node.config().call_deadline;
        self.ask_within(message, within).await
    }

    /// The same within another time.
    ///
    /// # Errors
    /// As [`Group::ask`].
    pub async fn ask_within(&self, message: M, within: Duration) -> Result<Gathered<M>> {
        let (id, body) = envelope(&message)?;
        drop(message);
        let told = self.node.exchange()?.ask(self.node.names(), &self.name, id, body, within).await;
        let mut gathered = Gathered { replies: Vec::new(), silent: Vec::new() };
        for (member, reply) in told {
            let member = RemoteRef::of(member);
            match opened::<M>(reply) {
                Ok(reply) => gathered.replies.push((member, reply)),
                Err(why) => gathered.silent.push((member, why)),
            }
        }
        Ok(gathered)
    }

    /// Sends all members a message, and does not wait for answers. To each, messages of one sender keep their order.
    ///
    /// # Errors
    /// The message cannot be written, or the node stopped.
    pub fn cast(&self, message: M) -> Result<Sent> {
        let (id, body) = envelope(&message)?;
        drop(message);
        let mut sent = Sent::default();
        let within = self.node.config().call_deadline;
        for member in self.node.exchange()?.members(&self.name) {
            match self.node.names().cast_actor(&member, id, body.clone(), within) {
                Ok(()) => sent.sent += 1,
                Err(_) => sent.not_sent += 1,
            }
        }
        Ok(sent)
    }
}

impl<M> Group<M> {
    /// The group's name.
    pub const fn name(&self) -> &Name {
        &self.name
    }
}

impl<M: Message<Reply: fmt::Debug>> fmt::Debug for Gathered<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gathered").field("replies", &self.replies).field("silent", &self.silent).finish()
    }
}

impl<M> Clone for Group<M> {
    fn clone(&self) -> Self {
        Self { node: self.node.clone(), name: self.name.clone(), takes: PhantomData }
    }
}

impl<M> fmt::Debug for Group<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Group({})", self.name)
    }
}
