//! What a child may ask and say while it handles a message: under which name it runs, where, by what right; that it is over.

use std::fmt::{self, Display};
use std::marker::PhantomData;

use bytes::Bytes;
use tumen_actors::names::child::ChildPlace;
use tumen_core::NodeName;
use tumen_core::names::{ClaimNumber, Name};

/// Where one instance of a child stands. The same from its start to its end.
pub struct ChildContext<C> {
    place: ChildPlace,
    over: Option<Result<(), String>>,
    child: PhantomData<fn() -> C>,
}

impl<C> ChildContext<C> {
    pub(super) const fn new(place: ChildPlace) -> Self {
        Self { place, over: None, child: PhantomData }
    }

    /// The child is to end in good order, once it has answered this message; [`Child::on_stop`](super::Child::on_stop) is called
    /// before the answer leaves. A permanent child is started again, others are not. In
    /// [`Child::start`](super::Child::start) it says that the child is not to run.
    pub fn stop(&mut self) {
        self.over.get_or_insert(Ok(()));
    }

    /// The child failed, and ends once it has answered this message. A temporary child is not started again, others are.
    pub fn fail(&mut self, why: impl Display) {
        self.over = Some(Err(why.to_string()));
    }

    pub(super) const fn is_stopped(&self) -> bool {
        matches!(self.over, Some(Ok(())))
    }

    pub(super) const fn take_over(&mut self) -> Option<Result<(), String>> {
        self.over.take()
    }

    /// The name that it runs under.
    pub const fn name(&self) -> &Name {
        &self.place.name
    }

    /// Its fence: larger for each later start under this name. Show it to whatever outside the cluster the child writes to, and
    /// let that refuse a lower one: then an instance that was replaced without knowing it does no harm there.
    pub const fn fence(&self) -> ClaimNumber {
        self.place.number
    }

    /// The node that it runs on.
    pub const fn node(&self) -> &NodeName {
        &self.place.node.node
    }

    /// What an earlier instance handed over as it moved: the last one that moved in good order. `None`: none did, or it had
    /// nothing to hand over.
    pub fn handed(&self) -> Option<&Bytes> {
        Some(&self.place.handed).filter(|handed| !handed.is_empty())
    }
}

impl<C> fmt::Debug for ChildContext<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Never the arguments, nor what was handed over.
        f.debug_struct("ChildContext")
            .field("name", &self.place.name)
            .field("fence", &self.place.number)
            .field("node", &self.place.node)
            .finish_non_exhaustive()
    }
}
