//! What a worker may ask while it handles a message: where it runs, and by what right.

use std::fmt;
use std::marker::PhantomData;

use tumen_actors::partitions::{Journal, Place};
use tumen_core::partitions::fence::Fence;
use tumen_core::{Epoch, NodeName, PartitionId};

/// Where one run of a worker stands. The same from its start to its end: a partition that moves, even away and back,
/// gets a new worker with a new epoch.
pub struct Context<W> {
    place: Place,
    /// Where a replicated worker's changes go.
    pub(super) journal: Option<Journal>,
    worker: PhantomData<fn() -> W>,
}

impl<W> Context<W> {
    pub(super) const fn new(place: Place) -> Self {
        Self { place, journal: None, worker: PhantomData }
    }

    pub(super) const fn journalled(place: Place, journal: Journal) -> Self {
        Self { place, journal: Some(journal), worker: PhantomData }
    }

    /// The partition that the worker serves.
    pub const fn partition(&self) -> PartitionId {
        self.place.partition()
    }

    /// The partition's name for people, such as `partition-3` or `p-00500-00999`.
    pub fn partition_name(&self) -> &str {
        &self.place.partition_name
    }

    /// The right to write under which the worker runs. Show it to whatever outside the cluster the worker writes to,
    /// and let that refuse a lower one: then a worker that was replaced without knowing it does no harm there.
    pub const fn fence(&self) -> Fence {
        self.place.fence
    }

    /// One more each time that the partition's primary changed.
    pub const fn epoch(&self) -> Epoch {
        self.place.fence.epoch
    }

    /// The node that the worker runs on.
    pub const fn node(&self) -> &NodeName {
        &self.place.node
    }
}

impl<W> fmt::Debug for Context<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context").field("place", &self.place).finish_non_exhaustive()
    }
}
