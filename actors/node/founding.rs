//! How a node comes to belong to a cluster: it founds one, or it joins one, and two that meet become one.
//!
//! ```text
//!  told of seeds ───────────────▶ never founds: asks for its lease until somebody takes it in
//!  --bootstrap-expect N ────────▶ waits for N; the first by name founds, unless one of them has a cluster already
//!  neither ─────────────────────▶ founds at once; meets an elder cluster of its name ─▶ drops its own, joins
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::MissedTickBehavior;
use tumen_core::cluster::control::Founding;
use tumen_core::cluster::greeting::{Greeting, Meeting};
use tumen_core::cluster::snapshot::GroupSpec;
use tumen_core::ids::{ClusterId, ClusterName, Generation, GroupId};

use super::events::Event;
use super::parts::Parts;
use crate::clock;
use crate::cluster::assignment_coordinator::AssignmentCoordinatorMsg;
use crate::cluster::lease_keeper::LeaseKeeperMsg;
use crate::partitions::partition_manager::PartitionManagerMsg;
use crate::partitions::router::RouterMsg;

/// How often a node that waits for others to found a cluster with looks who is there.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// How long founding may take.
const FOUND_WITHIN: Duration = Duration::from_secs(10);

/// What a founder needs to know.
pub(super) struct Founder {
    pub(super) cluster: ClusterName,
    pub(super) groups: Vec<(GroupId, GroupSpec)>,
    /// How many nodes found it together; 1 for a node alone.
    pub(super) expect: usize,
}

/// Founds a cluster, once enough nodes are there and this one is the first of them; unless one is found before.
pub(super) async fn found(parts: Arc<Parts>, founder: Founder) {
    let mut ticks = tokio::time::interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if parts.belongs_somewhere() {
            return;
        }
        if parts.meets_members() {
            // This node was told to found a cluster with others, and these have one already: it was started again.
            continue;
        }
        let sessions = parts.transport.sessions();
        let first = sessions.iter().all(|session| parts.id.node < session.peer.node);
        if first && sessions.len() + 1 >= founder.expect {
            break;
        }
    }
    let founding = Founding {
        id: ClusterId(clock::draw()),
        name: founder.cluster,
        founded_at: parts.clock.unix(),
        generation: Generation::ZERO,
        groups: founder.groups,
    };
    tracing::info!(cluster = %founding.name, id = %founding.id, "founding a cluster");
    parts.founded(founding.id, founding.founded_at);
    let deadline = parts.clock.now() + FOUND_WITHIN;
    if let Err(error) = parts.consensus().found(founding, &BTreeMap::new(), deadline).await {
        tracing::error!(%error, "the cluster could not be founded");
    }
}

/// Two nodes know each other now: if they belong to two clusters, one of these may have to go.
pub(super) fn handle_met(parts: &Arc<Parts>, peer: &Greeting) {
    let (Some(ours), Some(theirs)) = (parts.belonging(), &peer.belongs) else { return };
    match ours.meet(theirs) {
        Meeting::Together | Meeting::TheyYield => {}
        Meeting::Yield if !parts.configuration.begin_leaving() => {
            // Somebody wrote at this very moment, and relies on it: they know so when they meet again.
            parts.transport.disconnect(&peer.info.id);
        }
        Meeting::Yield => {
            tracing::warn!(
                ours = %ours.id, theirs = %theirs.id, node = %peer.info.id,
                "met an elder cluster of this name: this node drops its own, on which nobody relied, and joins"
            );
            let parts = Arc::clone(parts);
            let tasks = parts.tasks.clone();
            tasks.spawn(async move { leave_own(&parts).await });
        }
        Meeting::Conflict => {
            let refusal = tumen_core::cluster::greeting::Refusal::TwoClusters {
                name: peer.cluster.clone(),
                ours: ours.id,
                theirs: theirs.id,
            };
            tracing::error!(node = %peer.info.id, %refusal, "two clusters of one name");
            parts.transport.disconnect(&peer.info.id);
            let address = peer.info.address.clone();
            parts.tell(Event::Refused { address, refusal, by_us: true });
        }
    }
}

/// Forgets the cluster that this node founded, and asks to be taken into the one that it met.
async fn leave_own(parts: &Arc<Parts>) {
    parts.ports.lease_keeper.cast(LeaseKeeperMsg::Left);
    parts.ports.manager.cast(PartitionManagerMsg::Left);
    parts.names.handle_left();
    parts.acted_on.clear();
    if let Err(error) = parts.renew_council().await {
        return parts.fail(format!("this node's own cluster could not be dropped: {error}")).await;
    }
    parts.withdraw();
    parts.forget_cluster();
    parts.ports.router.cast(RouterMsg::Left);
    parts.ports.coordinator.cast(AssignmentCoordinatorMsg::Left);
}
