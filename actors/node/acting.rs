//! Which plan this node acted on: the newest that all who act on plans have acted on.

use std::sync::{Arc, Mutex, PoisonError};

use tumen_core::cluster::snapshot::Snapshot;
use tumen_core::ids::{ClusterId, Version};

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
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    last: [Option<Arc<Snapshot>>; 2],
    /// The cluster that this node left last, and from which plan on it is a member of it again: that it still acts on an older one
    /// concerns nobody.
    left: Option<(ClusterId, Version)>,
}

impl ActedOn {
    /// One of them acted on a plan. Tells the keeper of the lease what both have.
    pub(super) fn note(&self, by: By, plan: &Arc<Snapshot>, keeper: &Port<LeaseKeeperMsg>) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.left.is_some_and(|(left, back)| left == plan.cluster && plan.version < back) {
            return;
        }
        let last = &mut inner.last;
        let newer = |known: &Arc<Snapshot>| known.cluster != plan.cluster || known.version < plan.version;
        if last[by as usize].as_ref().is_none_or(newer) {
            last[by as usize] = Some(Arc::clone(plan));
        }
        // Told under the lock: what comes after it has left comes before nothing of this.
        if let [Some(one), Some(other)] = &*last
            && one.cluster == other.cluster
        {
            let both = if one.version <= other.version { one } else { other };
            keeper.cast(LeaseKeeperMsg::ActedOn(Arc::clone(both)));
        }
    }

    /// This node leaves a cluster.
    pub(super) fn handle_left(&self, cluster: ClusterId) {
        let left = Inner { last: [None, None], left: Some((cluster, Version(u64::MAX))) };
        *self.inner.lock().unwrap_or_else(PoisonError::into_inner) = left;
    }

    /// By this plan, and later ones, this node may be a member again of the cluster that it left last.
    pub(super) fn handle_back(&self, cluster: ClusterId, version: Version) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((left, back)) = &mut inner.left
            && *left == cluster
        {
            *back = version;
        }
    }
}
