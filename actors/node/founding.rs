//! How a node comes to belong to a cluster: it founds one, or it joins one, and two that meet become one.
//!
//! ```text
//!  told of seeds ───────────────▶ never founds: asks for its lease until somebody takes it in
//!  --bootstrap-expect N ────────▶ waits for N; the first by name founds, unless one of them has a cluster already
//!  neither ─────────────────────▶ founds at once; meets an elder cluster of its name ─▶ drops its own, joins
//! ```
//!
//! Who drops its cluster goes through it from the inside out, while nobody is answered: its Raft, its partitions, its names,
//! its table, and at last its lease, so that it asks to be taken in with nothing left of what it was. Names and children are
//! claimed anew then ([`crate::names`]). All that can be relied on otherwise keeps a cluster from being dropped.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, MissedTickBehavior};
use tumen_core::cluster::configuration::Configuration;
use tumen_core::cluster::control::Founding;
use tumen_core::cluster::greeting::{Greeting, Meeting};
use tumen_core::cluster::snapshot::{GroupSpec, Snapshot};
use tumen_core::ids::{ClusterId, ClusterName, Generation, GroupId, NodeBoot};

use super::events::Event;
use super::parts::{Parts, until_stopping};
use crate::clock;
use crate::cluster::assignment_coordinator::AssignmentCoordinatorMsg;
use crate::cluster::lease_keeper::LeaseKeeperMsg;
use crate::partitions::partition_manager::PartitionManagerMsg;
use crate::partitions::router::RouterMsg;

/// How often a node that waits for others to found a cluster with looks who is there.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// How long founding may take.
const FOUND_WITHIN: Duration = Duration::from_secs(10);

/// How long a node without a cluster, that founded one before, sees nobody who belongs to one before it founds another.
const FOUND_ANEW_AFTER: Duration = Duration::from_secs(5);

/// How long a node that is to drop its cluster for this one may take until it is a member, before it is looked at anew.
const TAKEN_IN_WITHIN: Duration = Duration::from_secs(5);

/// What a founder needs to know.
pub(super) struct Founder {
    pub(super) cluster: ClusterName,
    pub(super) groups: Vec<(GroupId, GroupSpec)>,
    /// How many nodes found it together; 1 for a node alone.
    pub(super) expect: usize,
}

/// Founds a cluster, once enough nodes are there and this one is the first of them; unless one is found before.
pub(super) async fn found(parts: Arc<Parts>) {
    let Some(founder) = &parts.founder else { return };
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
        name: founder.cluster.clone(),
        founded_at: parts.clock.unix(),
        generation: Generation::ZERO,
        groups: founder.groups.clone(),
    };
    tracing::info!(cluster = %founding.name, id = %founding.id, "founding a cluster");
    parts.founded(founding.id, founding.founded_at);
    let deadline = parts.clock.now() + FOUND_WITHIN;
    if let Err(error) =
        parts.consensus().found(founding, &Configuration::default(), &BTreeMap::new(), deadline).await
    {
        tracing::error!(%error, "the cluster could not be founded");
    }
}

/// Two nodes know each other now: if they belong to two clusters, one of these may have to go.
pub(super) fn handle_met(parts: &Arc<Parts>, peer: &Greeting) {
    let (Some(ours), Some(theirs)) = (parts.belonging(), &peer.belongs) else { return };
    match ours.meet(theirs) {
        Meeting::Together => {}
        Meeting::TheyYield => {
            let (parts, node) = (Arc::clone(parts), peer.info.id.clone());
            let tasks = parts.tasks.clone();
            tasks
                .spawn(until_stopping(&Arc::clone(&parts), async move { see_taken_in(&parts, &node).await }));
        }
        // What was greeted with is old news by now where it leaves already.
        Meeting::Yield | Meeting::Conflict if parts.gate.is_leaving() => {}
        Meeting::Yield if !begin_leaving(parts) => {
            // Somebody was answered at this very moment, and relies on it: they know so when they meet again.
            parts.transport.disconnect(&peer.info.id);
        }
        Meeting::Yield => {
            tracing::warn!(
                ours = %ours.id, theirs = %theirs.id, node = %peer.info.id,
                "met an elder cluster of this name: this node drops its own, on which nobody relied, and joins"
            );
            let parts = Arc::clone(parts);
            let tasks = parts.tasks.clone();
            tasks.spawn(async move { leave_own(&parts, ours.id).await });
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

/// This node leaves its cluster, if nobody relies on it. From now on nobody is answered in it.
fn begin_leaving(parts: &Parts) -> bool {
    if !parts.gate.begin_leaving() {
        return false;
    }
    let begun = parts.configuration.begin_leaving();
    if !begun {
        // Its lease opens the gate again with the next grant.
        parts.gate.stay();
        return false;
    }
    // At once: whoever leads the other cluster says so next.
    parts.forget_leader();
    true
}

/// A node was to drop its cluster for this one. What each knew of the other when they met may have been old by then, so that
/// nobody drops anything: where it was not taken in they meet anew.
async fn see_taken_in(parts: &Arc<Parts>, node: &NodeBoot) {
    tokio::time::sleep(TAKEN_IN_WITHIN).await;
    let plan = parts.plans.newest();
    let is_member = plan.and_then(|plan| plan.member(node.node.as_str()).map(|it| it.id() == node));
    if is_member != Some(true) && parts.is_connected(node) {
        tracing::info!(%node, "it did not join: it is met anew");
        parts.transport.disconnect(node);
    }
}

/// Forgets the cluster that this node founded, or a side of it that it was in, and asks to be taken into the one that it met.
pub(super) async fn leave_own(parts: &Arc<Parts>, cluster: ClusterId) {
    {
        // No plan of it comes to anybody from here on.
        let _turn = parts.take_turn();
        parts.plans.forsake(cluster);
        parts.acted_on.handle_left(cluster);
    }
    if let Err(error) = parts.renew_council().await {
        return parts.fail(format!("this node's own cluster could not be dropped: {error}")).await;
    }
    let states = parts.take_states().await;
    // What its partitions write comes before what the next one's do.
    let (done, idle) = oneshot::channel();
    parts.ports.manager.cast(PartitionManagerMsg::Left(done));
    // A manager that failed meanwhile has nothing that runs.
    drop(idle.await);
    {
        let _turn = parts.take_turn();
        parts.withdraw();
        parts.names.handle_left();
        parts.ports.router.cast(RouterMsg::Left);
        // A side goes on with whoever is there.
        let anyhow = parts.sides.is_available();
        parts.ports.coordinator.cast(AssignmentCoordinatorMsg::Left { anyhow });
        parts.forget_cluster();
        parts.ports.lease_keeper.cast(LeaseKeeperMsg::Left);
    }
    if parts.sides.is_available() {
        return parts.bring_states(states);
    }
    let task = found_anew(Arc::clone(parts));
    parts.tasks.spawn(until_stopping(parts, task));
}

/// A plan of another cluster names this node, that knew one only of a cluster which never took it in, as of one that was dropped
/// before it did. It forgets that one.
pub(super) fn adopt(parts: &Parts, plan: &Snapshot) {
    let is_other = |known: &Arc<Snapshot>| {
        known.cluster != plan.cluster && !known.names(&parts.id) && plan.names(&parts.id)
    };
    let _turn = parts.take_turn();
    let founds = parts.greeter.founded.lock().unwrap_or_else(PoisonError::into_inner).is_some();
    let Some(known) = parts.plans.newest().filter(is_other).filter(|_| !founds) else { return };
    if parts.gate.is_leaving() || parts.plans.is_forsaken(plan.cluster) {
        return;
    }
    tracing::info!(from = %known.cluster, to = %plan.cluster, "another cluster took this node in");
    parts.plans.forsake(known.cluster);
    parts.acted_on.handle_left(known.cluster);
    // Nothing of it ran here: nobody has to be waited for.
    parts.ports.manager.cast(PartitionManagerMsg::Left(oneshot::channel().0));
    parts.names.handle_left();
    parts.ports.router.cast(RouterMsg::Left);
    parts.configuration.forget();
    parts.witness.left();
    parts.plans.clear();
    parts.leader.send_replace((plan.term, Some(plan.leader.clone())));
    parts.ports.lease_keeper.cast(LeaseKeeperMsg::Left);
}

/// The cluster that was met may be gone before it took this node in: who was to found one founds another then.
async fn found_anew(parts: Arc<Parts>) {
    let (mut ticks, mut alone) = (tokio::time::interval(LOOK_EVERY), Instant::now());
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !parts.belongs_somewhere() {
        ticks.tick().await;
        if parts.meets_members() {
            alone = Instant::now();
        } else if alone.elapsed() >= FOUND_ANEW_AFTER {
            return found(parts).await;
        }
    }
}
