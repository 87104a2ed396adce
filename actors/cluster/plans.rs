//! The newest committed plan that this node knows, from wherever it comes first.
//!
//! ```text
//!  own Raft ──┐
//!  topic ─────┼─▶ Plans ─▶ PartitionManager · Router · LeaseKeeper · whoever subscribes
//!  pulled ────┘    newer ones only
//! ```

use std::sync::Arc;

use tokio::sync::watch;
use tumen_core::cluster::snapshot::Snapshot;
use tumen_core::ids::{ClusterId, Version};

/// The newest plan. Cheap to clone; all clones show the same.
#[derive(Clone, Debug)]
pub struct Plans {
    newest: Arc<watch::Sender<Option<Arc<Snapshot>>>>,
}

impl Default for Plans {
    fn default() -> Self {
        Self { newest: Arc::new(watch::Sender::new(None)) }
    }
}

impl Plans {
    /// Takes a plan, if it is newer than the newest known one of the same cluster. Says whether it was.
    pub fn take(&self, plan: Arc<Snapshot>) -> bool {
        self.newest.send_if_modified(|newest| {
            let newer = newest.as_ref().is_none_or(|known| {
                let same = known.cluster == plan.cluster;
                same && (known.generation, known.version) < (plan.generation, plan.version)
            });
            if newer {
                *newest = Some(plan);
            }
            newer
        })
    }

    /// Forgets everything: this node leaves the cluster that it was in.
    pub fn clear(&self) {
        self.newest.send_replace(None);
    }

    /// The newest plan, if there is one.
    pub fn newest(&self) -> Option<Arc<Snapshot>> {
        self.newest.borrow().clone()
    }

    /// The newest plan's version; zero before the first.
    pub fn version(&self) -> Version {
        self.newest.borrow().as_ref().map_or(Version::ZERO, |plan| plan.version)
    }

    /// The cluster that the newest plan is of.
    pub fn cluster(&self) -> Option<ClusterId> {
        self.newest.borrow().as_ref().map(|plan| plan.cluster)
    }

    /// The newest plan, as it changes. Who falls behind sees the newest only.
    pub fn subscribe(&self) -> watch::Receiver<Option<Arc<Snapshot>>> {
        self.newest.subscribe()
    }
}
