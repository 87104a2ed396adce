//! Where an actor is reached, whichever run of it is there at the moment.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use ractor::{ActorRef, Message};

/// The address of an actor that may be started again. It belongs to the node, not to the actor. Cheap to clone.
pub struct Port<M: Message> {
    current: Arc<ArcSwapOption<ActorRef<M>>>,
}

impl<M: Message> Port<M> {
    /// Leads to this run of the actor from now on.
    pub fn lead_to(&self, actor: ActorRef<M>) {
        self.current.store(Some(Arc::new(actor)));
    }

    /// The run of the actor that is there, if one is.
    pub fn current(&self) -> Option<ActorRef<M>> {
        self.current.load().as_ref().map(|actor| ActorRef::clone(actor))
    }

    /// Sends a message. It is dropped, and `false` returned, while no run of the actor is there: whoever starts it
    /// again feeds it what it must know.
    pub fn cast(&self, message: M) -> bool {
        self.current.load().as_ref().is_some_and(|actor| actor.cast(message).is_ok())
    }
}

impl<M: Message> Clone for Port<M> {
    fn clone(&self) -> Self {
        Self { current: Arc::clone(&self.current) }
    }
}

impl<M: Message> Default for Port<M> {
    fn default() -> Self {
        Self { current: Arc::new(ArcSwapOption::empty()) }
    }
}

impl<M: Message> fmt::Debug for Port<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Port").field("reachable", &self.current.load().is_some()).finish()
    }
}
