//! A child by its name: a handle that can be kept, compared, and sent to other nodes.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::marker::PhantomData;

use serde::{Deserialize, Serialize};
use tumen_core::names::Name;

use super::{Child, Receive};
use crate::error::Result;
use crate::node::Node;
use crate::worker::Message;

/// A child of the kind `C`, by its name, whichever instance of it runs, and wherever. Cheap to clone; it can stand in
/// messages. Two are equal if their names are.
#[derive(Serialize, Deserialize)]
#[serde(transparent, bound = "")]
pub struct ChildRef<C> {
    name: Name,
    #[serde(skip)]
    child: PhantomData<fn() -> C>,
}

impl<C: Child> ChildRef<C> {
    /// The child of this name. Whether there is one is not looked at.
    ///
    /// # Errors
    /// The name is empty or too long.
    pub fn named(name: impl AsRef<[u8]>) -> Result<Self> {
        Ok(Self::of(Name::new(name)?))
    }

    pub(crate) const fn of(name: Name) -> Self {
        Self { name, child: PhantomData }
    }

    /// Asks the child, through `node`, and waits for its answer. While it moves, or is started again, it is waited for, within
    /// [`Config::call_deadline`](crate::config::Config), and in order: what one sender sends reaches it as it was sent, or not
    /// at all.
    ///
    /// # Errors
    /// As [`Node::call_name`].
    pub async fn call<M: Message>(&self, node: &Node, message: M) -> Result<M::Reply>
    where
        C: Receive<M>,
    {
        node.call_named(&self.name, message).await
    }

    /// Sends the child a message, through `node`, and does not wait for an answer.
    ///
    /// ```no_run
    /// # use tumen::prelude::*;
    /// # struct Billing;
    /// # impl Child for Billing {
    /// #     const KIND: &'static str = "billing";
    /// #     type Args = String;
    /// #     async fn start(_: String, _: &mut ChildContext<Self>) -> Result<Self> { Ok(Self) }
    /// # }
    /// # #[derive(Serialize, Deserialize)]
    /// # struct Charge { cents: u64 }
    /// # impl Message for Charge { type Reply = u64; }
    /// # impl Receive<Charge> for Billing {
    /// #     async fn receive(&mut self, charge: Charge, _: &mut ChildContext<Self>) -> Result<u64> { Ok(charge.cents) }
    /// # }
    /// # async fn bill(node: &Node) -> Result<()> {
    /// let billing = node.singleton::<Billing>("billing")?;
    /// billing.cast(node, Charge { cents: 250 })?;
    /// let total = billing.call(node, Charge { cents: 1 }).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Node::cast_name`].
    pub fn cast<M: Message>(&self, node: &Node, message: M) -> Result<()>
    where
        C: Receive<M>,
    {
        node.cast_named(&self.name, message)
    }
}

impl<C> ChildRef<C> {
    /// The child's name.
    pub const fn name(&self) -> &Name {
        &self.name
    }
}

impl<C> Clone for ChildRef<C> {
    fn clone(&self) -> Self {
        Self { name: self.name.clone(), child: PhantomData }
    }
}

impl<C> PartialEq for ChildRef<C> {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl<C> Eq for ChildRef<C> {}

impl<C> Hash for ChildRef<C> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name.hash(state);
    }
}

impl<C> fmt::Debug for ChildRef<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ChildRef({})", self.name)
    }
}
