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
    /// [`Config::call_deadline`](crate::config::Config).
    ///
    /// # Errors
    /// [`Error::NotFound`](crate::Error::NotFound): nothing stands under the name. [`Error::Call`](crate::Error::Call) with a
    /// [`Failure`](crate::Failure), which says whether anything may have changed.
    pub async fn call<M: Message>(&self, node: &Node, message: M) -> Result<M::Reply>
    where
        C: Receive<M>,
    {
        node.call_named(&self.name, message).await
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
