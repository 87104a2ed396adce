//! Which plan this node acted on: the newest that all who act on plans have acted on.

use std::sync::{Arc, Mutex, PoisonError};

use tumen_core::cluster::snapshot::Snapshot;

use crate::cluster::lease_keeper::LeaseKeeperMsg;
use crate::port::Port;

/// Who acts on plans, each by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum By {
    /// Partitions that were taken away let nothing out any more.
    Partitions,
    /// So do children and names, where this boot is no member.
    Names,
}

/// What each of them acted on last. Cheap to clone; all clones see the same.
#[derive(Clone, Default)]
pub(super) struct ActedOn {
    last: Arc<Mutex<[Option<Arc<Snapshot>>; 2]>>,
}

impl ActedOn {
    /// One of them acted on a plan. Tells the keeper of the lease what both have.
    pub(super) fn note(&self, by: By, plan: &Arc<Snapshot>, keeper: &Port<LeaseKeeperMsg>) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let newer = |known: &Arc<Snapshot>| known.cluster != plan.cluster || known.version < plan.version;
        if last[by as usize].as_ref().is_none_or(newer) {
            last[by as usize] = Some(Arc::clone(plan));
        }
        if let [Some(one), Some(other)] = &*last
            && one.cluster == other.cluster
        {
            let both = if one.version <= other.version { one } else { other };
            keeper.cast(LeaseKeeperMsg::ActedOn(Arc::clone(both)));
        }
    }

    /// This node left its cluster.
    pub(super) fn clear(&self) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = [None, None];
    }
}
