//! The newest committed plan that this node knows, from wherever it comes first.
//!
//! ```text
//!  own Raft ──┐
//!  topic ─────┼─▶ Plans ─▶ PartitionManager · Router · LeaseKeeper · whoever subscribes
//!  pulled ────┘    newer ones only
//! ```

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{broadcast, watch};
use tumen_core::cluster::snapshot::Snapshot;
use tumen_core::ids::{ClusterId, Version};

/// The most plans that wait for somebody who wants each of them.
const EACH_MAX: usize = 64;

/// The newest plan. Cheap to clone; all clones show the same.
#[derive(Clone, Debug)]
pub struct Plans {
    newest: Arc<watch::Sender<Option<Arc<Snapshot>>>>,
    each: broadcast::Sender<Arc<Snapshot>>,
    /// The clusters that this node left last.
    forsaken: Arc<Mutex<Vec<Forsaken>>>,
}

/// How many clusters that it left a node remembers. Of one that it left before as many others it hears nothing any more.
const FORSAKEN_MAX: usize = 1024;

/// A cluster that this node left.
#[derive(Clone, Copy, Debug)]
struct Forsaken {
    cluster: ClusterId,
    /// The newest plan that was known then, or by which the node may be a member again.
    version: Version,
    /// Whether it may be one.
    welcome: bool,
}

impl Default for Plans {
    fn default() -> Self {
        let (newest, each) = (Arc::new(watch::Sender::new(None)), broadcast::Sender::new(EACH_MAX));
        Self { newest, each, forsaken: Arc::default() }
    }
}

impl Plans {
    /// Takes a plan, if it is newer than the newest known one of the same cluster. Says whether it was.
    pub fn take(&self, plan: Arc<Snapshot>) -> bool {
        self.newest.send_if_modified(|newest| {
            let left = self.forsaken().iter().find(|left| left.cluster == plan.cluster).copied();
            let newer = left.is_none_or(|left| left.welcome && left.version <= plan.version)
                && newest.as_ref().is_none_or(|known| {
                    let same = known.cluster == plan.cluster;
                    same && (known.generation, known.version) < (plan.generation, plan.version)
                });
            if newer {
                // Told under the lock, so that the order is the same for all; nobody may be listening.
                let _ = self.each.send(Arc::clone(&plan));
                *newest = Some(plan);
            }
            newer
        })
    }

    /// This node leaves a cluster: no plan of that is taken any more. The newest stays until [`Self::clear`].
    pub fn forsake(&self, cluster: ClusterId) {
        self.newest.send_if_modified(|newest| {
            let version = newest.as_ref().filter(|plan| plan.cluster == cluster);
            let version = version.map_or(Version::ZERO, |plan| plan.version);
            let mut forsaken = self.forsaken();
            forsaken.retain(|left| left.cluster != cluster);
            if forsaken.len() >= FORSAKEN_MAX {
                forsaken.remove(0);
            }
            forsaken.push(Forsaken { cluster, version, welcome: false });
            false
        });
    }

    /// This node may be a member of a cluster again that it left: by this plan, and the next ones, nobody there counts with what
    /// it was.
    pub fn welcome(&self, cluster: ClusterId, version: Version) {
        for left in self.forsaken().iter_mut().filter(|left| left.cluster == cluster) {
            *left = Forsaken { cluster, version, welcome: true };
        }
    }

    /// The newest plan that this node knew of a cluster when it left that, if it did, and may not be a member again.
    pub fn forsaken_at(&self, cluster: ClusterId) -> Option<Version> {
        self.forsaken().iter().find(|left| left.cluster == cluster && !left.welcome).map(|left| left.version)
    }

    /// Whether this node left that cluster, or leaves it.
    pub fn is_forsaken(&self, cluster: ClusterId) -> bool {
        self.forsaken_at(cluster).is_some()
    }

    fn forsaken(&self) -> MutexGuard<'_, Vec<Forsaken>> {
        self.forsaken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets everything: this node has left the cluster that it was in.
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

    /// Each plan from now on, in order. Who falls behind by more than 64 is told how many it lost.
    pub fn each(&self) -> broadcast::Receiver<Arc<Snapshot>> {
        self.each.subscribe()
    }

    /// The newest plan, as it changes. Who falls behind sees the newest only.
    pub fn subscribe(&self) -> watch::Receiver<Option<Arc<Snapshot>>> {
        self.newest.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::broadcast::error::TryRecvError;
    use tumen_core::cluster::snapshot::GroupPlan;
    use tumen_core::ids::{ClusterName, Generation, NodeName, Term};
    use tumen_core::time::UnixMillis;

    use super::*;

    fn plan(version: u64) -> Arc<Snapshot> {
        Arc::new(Snapshot {
            cluster: ClusterId(1),
            name: ClusterName::new("shop").unwrap(),
            generation: Generation::ZERO,
            version: Version(version),
            steps: 0,
            term: Term(1),
            leader: NodeName::new("node-1").unwrap(),
            members: Vec::new(),
            groups: Vec::<GroupPlan>::new(),
            computed_at: UnixMillis(0),
            hash: 0,
        })
    }

    #[test]
    fn of_a_cluster_that_is_left_no_plan_is_taken_any_more() {
        let plans = Plans::default();
        assert!(plans.take(plan(3)));
        plans.forsake(ClusterId(1));
        assert!(!plans.take(plan(4)) && plans.version() == Version(3));
        plans.clear();
        assert!(!plans.take(plan(5)) && plans.newest().is_none());
        let other = Arc::new(Snapshot { cluster: ClusterId(2), ..(*plan(1)).clone() });
        assert!(plans.take(other));
        assert_eq!(plans.forsaken_at(ClusterId(1)), Some(Version(3)));
        plans.clear();
        plans.welcome(ClusterId(1), Version(6));
        assert!(!plans.take(plan(5)), "by that it may be what it was");
        assert!(plans.take(plan(6)) && plans.forsaken_at(ClusterId(1)).is_none(), "it is a member again");
    }

    #[test]
    fn whoever_wants_each_gets_each_in_order_and_is_told_what_it_lost() {
        let plans = Plans::default();
        let mut each = plans.each();
        for version in [1, 2, 2, 1, 3, 5] {
            plans.take(plan(version));
        }
        let told: Vec<u64> = std::iter::from_fn(|| each.try_recv().ok()).map(|plan| plan.version.0).collect();
        assert_eq!(told, [1, 2, 3, 5], "the newer ones only, each once");
        let lost = 7;
        assert!((6..6 + EACH_MAX as u64 + lost).all(|version| plans.take(plan(version))));
        assert_eq!(each.try_recv().unwrap_err(), TryRecvError::Lagged(lost));
        assert_eq!(each.try_recv().unwrap().version, Version(6 + lost));
        let late = plans.each();
        assert!(late.is_empty() && plans.newest().is_some());
    }
}
