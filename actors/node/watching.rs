//! Looks at this node every few seconds for what must hold at every moment, and is not looked at as it happens.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::MissedTickBehavior;
use tumen_core::Moment;
use tumen_core::cluster::coordinator::Rebalance;
use tumen_core::cluster::snapshot::Snapshot;
use tumen_core::ids::Version;

use super::parts::Parts;

/// How often it is looked at what became of requests.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// So long after the last plan copies are expected to be where they should: it is several times what a leader lets pass
/// before it tries again what did not come through.
const AT_REST_AFTER: Duration = Duration::from_secs(30);

/// Looks until the node stops.
pub(super) async fn watch(parts: Arc<Parts>, rebalance: Rebalance) {
    let mut looks = tokio::time::interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut known, mut since) = (Version::ZERO, Moment::ZERO);
    loop {
        looks.tick().await;
        parts.witness.counted(parts.table.books().counts());
        let Some(plan) = parts.plans.newest() else { continue };
        let now = parts.clock.now();
        if plan.version != known {
            (known, since) = (plan.version, now);
        } else if rebalance == Rebalance::Auto && now.since(since) >= AT_REST_AFTER {
            parts.witness.rests_by(&as_stepped(&parts, plan));
            // Looked at again as long later, should nothing change.
            since = now;
        }
    }
}

/// The plan with all steps that were taken since, where this node knows of them: a voter does.
fn as_stepped(parts: &Parts, plan: Arc<Snapshot>) -> Arc<Snapshot> {
    let stepped = parts.consensus().state().borrow().state.snapshot.clone();
    let same = |other: &Arc<Snapshot>| other.cluster == plan.cluster && other.version == plan.version;
    stepped.filter(same).unwrap_or(plan)
}
