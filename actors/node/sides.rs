//! Sides of a split cluster, where availability goes before consistency: who is cut off founds a cluster of its own, and sides that
//! meet become one.
//!
//! ```text
//!  looks around ─ served nobody for long, and is the first of its side ─▶ leaves, founds the next generation
//!  each node tells each which side it is of ─ the lesser of two ─▶ leaves ─▶ asks the other for its lease
//!                                           ─ of another side ───▶ no candidate for this one's plans
//!  leads ─ a partition is lost for a while ─▶ its loss is accepted: what is left goes on
//! ```
//!
//! A node that leaves goes through it as a lone founder does ([`super::founding`]), and takes its names, children and what can be
//! merged along.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::MissedTickBehavior;
use tumen_core::Moment;
use tumen_core::cluster::asks::Ask;
use tumen_core::cluster::configuration::Configuration;
use tumen_core::cluster::control::Founding;
use tumen_core::cluster::greeting::{Belonging, Meeting};
use tumen_core::cluster::member::NodeInfo;
use tumen_core::cluster::sides::{self, Consistency, LOOK_EVERY_MS, Lookout, Neighbour, Verdict};
use tumen_core::cluster::snapshot::{GroupSpec, Snapshot};
use tumen_core::ids::{ClusterId, ClusterName, Epoch, GroupId, Kind, NodeBoot, PartitionId, Version};
use tumen_core::wire::CoordinatorFrame;

use super::founding;
use super::parts::{Parts, until_stopping};
use crate::clock;
use crate::cluster::assignment_coordinator::AssignmentCoordinatorMsg;
use crate::codec;
use crate::transport::Channel;

/// After how many looks each node is told again which side this one is of.
const TELL_AGAIN_LOOKS: u32 = 10;
/// How long founding may take.
const FOUND_WITHIN: Duration = Duration::from_secs(10);
/// How long a partition is lost before what is gone of it is given up: a member may be about to return.
const ACCEPT_LOSS_AFTER: Duration = Duration::from_secs(2);
/// How long that may take.
const ACCEPT_WITHIN: Duration = Duration::from_secs(10);

/// What a node knows of sides.
#[derive(Debug)]
pub(super) struct Sides {
    pub(super) consistency: Consistency,
    cluster: ClusterName,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// What the cluster that this node was in last agreed on about each group: a side of it is founded with the same.
    groups: Vec<(GroupId, GroupSpec)>,
    /// How that cluster was configured, as this node knew it last: a side of it begins with the same.
    configuration: Arc<Configuration>,
    /// Whether that is still to be compared with how the next one is configured.
    compares: bool,
    /// The peers, each with whether the coordinator counts with it.
    peers: BTreeMap<NodeBoot, (NodeInfo, bool)>,
}

impl Sides {
    pub(super) fn new(consistency: Consistency, cluster: ClusterName) -> Self {
        Self { consistency, cluster, inner: Mutex::default() }
    }

    pub(super) const fn is_available(&self) -> bool {
        self.consistency.is_available()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing panics while it is locked.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A peer is of this side by now, or of none.
pub(super) fn handle_told(parts: &Arc<Parts>, node: &NodeBoot, to: Option<Belonging>, counts_me: bool) {
    parts.note_belonging(node, to.clone());
    parts.offer_peers();
    let Some(theirs) = to.filter(|_| !parts.gate.is_leaving()) else { return };
    if let Some(left_at) = parts.plans.forsaken_at(theirs.id) {
        // Of the members of a side that it left a node is one until that side has noticed. What it was there is over then.
        if counts_me || theirs.version < left_at {
            return;
        }
        parts.acted_on.handle_back(theirs.id, theirs.version);
        parts.plans.welcome(theirs.id, theirs.version);
    }
    let Some(ours) = parts.belonging() else { return };
    if ours.meet_as_side(&theirs) != Meeting::Yield {
        return;
    }
    tracing::warn!(
        me = %parts.id, ours = %ours.id, theirs = %theirs.id, node = %node, serves = !ours.stranded,
        "met another side of this cluster: this node leaves its own, and joins that one with what it has"
    );
    let (parts, leaves) = (Arc::clone(parts), begin_leaving(parts, theirs));
    if let Some(cluster) = leaves {
        let tasks = parts.tasks.clone();
        tasks.spawn(async move { founding::leave_own(&parts, cluster).await });
    }
}

/// Whether a plan takes from this node what the one before it gave it, and nobody asked for that.
pub(super) fn is_evicted(parts: &Parts, before: Option<&Snapshot>, plan: &Snapshot) -> bool {
    let may_be = parts.sides.is_available() && !parts.gate.is_leaving() && !parts.is_stopping();
    may_be && sides::is_evicted(&parts.id, before, plan)
}

/// This node is no member of its side by this plan. It begins anew there, with what it has.
pub(super) fn handle_evicted(parts: &Arc<Parts>, plan: &Arc<Snapshot>) {
    let Some(ours) = parts.belonging() else { return };
    tracing::warn!(
        me = %parts.id, cluster = %plan.cluster, version = %plan.version,
        "this node's side took it for gone: it begins anew there, with what it has"
    );
    let (parts, version) = (Arc::clone(parts), plan.version);
    if let Some(cluster) = begin_leaving(&parts, ours) {
        let tasks = parts.tasks.clone();
        tasks.spawn(async move {
            founding::leave_own(&parts, cluster).await;
            parts.acted_on.handle_back(cluster, version);
            parts.plans.welcome(cluster, version);
        });
    }
}

/// From now on this node is on its way to another side. The cluster that it leaves; `None`: it leaves already.
fn begin_leaving(parts: &Parts, to: Belonging) -> Option<ClusterId> {
    let plan = parts.plans.newest();
    // Without a plan it may have begun to learn from the side that it was on its way to.
    let cluster = plan.as_ref().map(|plan| plan.cluster).or(parts.belonging().map(|ours| ours.id))?;
    if !parts.gate.begin_leaving_anyhow() {
        return None;
    }
    {
        let configured = parts.configuration.of(cluster);
        let mut inner = parts.sides.lock();
        if let Some(plan) = &plan {
            inner.groups = plan.groups.iter().map(|group| (group.id, group.spec.clone())).collect();
        }
        if let Some(configuration) = configured {
            (inner.configuration, inner.compares) = (configuration, true);
        }
    }
    parts.greeter.go_to(to);
    parts.configuration.begin_leaving_anyhow();
    // At once: whoever leads the other side says so next.
    parts.forget_leader();
    parts.tell_side();
    parts.offer_peers();
    Some(cluster)
}

/// Founds a cluster of this node's side: the next generation of the one that it is cut off from.
async fn found(parts: &Arc<Parts>) {
    let Some(ours) = parts.belonging() else { return };
    let (id, founded_at) = (ClusterId(clock::draw()), parts.clock.unix());
    let generation = sides::next_generation(ours.generation, id);
    let side = Belonging {
        id,
        founded_at,
        generation,
        version: Version::ZERO,
        members: 1,
        stranded: false,
        acknowledged: true,
    };
    tracing::warn!(
        me = %parts.id, from = %ours.id, to = %id, %generation,
        "cut off from all who could let this node serve: its side goes on as a cluster of its own"
    );
    parts.pull_configuration_from_peers(ours.id).await;
    if parts.gate.is_open() || parts.belonging().map(|now| now.id) != Some(ours.id) {
        // Meanwhile it was let serve after all, or went elsewhere.
        return;
    }
    let Some(cluster) = begin_leaving(parts, side) else { return };
    founding::leave_own(parts, cluster).await;
    let (groups, configuration) = {
        let inner = parts.sides.lock();
        (inner.groups.clone(), Arc::clone(&inner.configuration))
    };
    let founding = Founding { id, name: parts.sides.cluster.clone(), founded_at, generation, groups };
    let deadline = parts.clock.now() + FOUND_WITHIN;
    if let Err(error) = parts.consensus().found(founding, &configuration, &BTreeMap::new(), deadline).await {
        tracing::error!(%error, "a cluster of this node's side could not be founded; tried again");
    }
}

/// Looks around, for as long as the node runs.
pub(super) async fn follow(parts: Arc<Parts>) {
    let (mut lookout, mut losses) = (Lookout::default(), Giving::default());
    let (mut told, mut looks) = (None, 0_u32);
    let mut ticks = tokio::time::interval(Duration::from_millis(LOOK_EVERY_MS));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if parts.gate.is_leaving() {
            lookout.handle_left();
            continue;
        }
        let ours = parts.belonging();
        let verdict = lookout.look(&parts.id.node, parts.gate.is_open(), ours.as_ref(), &parts.neighbours());
        parts.greeter.stranded.store(verdict != Verdict::Fine, Ordering::SeqCst);
        if verdict == Verdict::Found {
            found(&parts).await;
            lookout.handle_left();
        }
        let ours = parts.belonging().map(|ours| (ours.id, ours.stranded, ours.members));
        looks += 1;
        if told != ours || looks >= TELL_AGAIN_LOOKS {
            (told, looks) = (ours, 0);
            parts.tell_side();
        }
        parts.offer_peers();
        parts.compare_configurations();
        losses.look(&parts);
    }
}

impl Parts {
    /// Whether a plan is of another side than this node's.
    pub(super) fn is_of_another_side(&self, cluster: ClusterId) -> bool {
        self.sides.is_available() && self.belonging().is_some_and(|ours| ours.id != cluster)
    }

    /// What this node's copies hold that can be merged on another side.
    pub(super) async fn take_states(&self) -> Vec<(PartitionId, Kind, Bytes)> {
        if self.sides.is_available() { self.replication.states_to_bring().await } else { Vec::new() }
    }

    /// Has that merged, once this node is a member of the other side.
    pub(super) fn bring_states(self: &Arc<Self>, states: Vec<(PartitionId, Kind, Bytes)>) {
        if states.is_empty() {
            return;
        }
        let parts = Arc::clone(self);
        self.tasks.spawn(until_stopping(self, async move {
            let mut plans = parts.plans.subscribe();
            let named =
                |plan: &Option<Arc<Snapshot>>| plan.as_ref().is_some_and(|plan| plan.names(&parts.id));
            if plans.wait_for(named).await.is_ok() {
                let count = states.len();
                let brought = parts.router.bring_states(states).await;
                tracing::info!(count, ?brought, "what this node's copies held was brought along");
            }
        }));
    }

    /// Once this node knows how the side that it is of now is configured, it says what of its former configuration does not hold
    /// any more.
    fn compare_configurations(&self) {
        let now = self.belonging().filter(|ours| self.configuration.is_told(ours.id));
        let Some(now) = now.and_then(|ours| self.configuration.of(ours.id)) else { return };
        let former = {
            let mut inner = self.sides.lock();
            if !std::mem::take(&mut inner.compares) {
                return;
            }
            Arc::clone(&inner.configuration)
        };
        let differing: Vec<_> = former.differing(&now).collect();
        if let Some(first) = differing.first() {
            tracing::warn!(
                me = %self.id, keys = differing.len(), %first, version = %now.version(),
                "the cluster's configuration on the side that this node joined is another than it was on its own: what that side \
                 has under these keys holds. Set again what is missed"
            );
        }
    }

    /// Those whom this node can reach, and of which side they are.
    fn neighbours(&self) -> Vec<Neighbour> {
        let belonging = self.belonging.lock().unwrap_or_else(PoisonError::into_inner);
        let sessions = self.transport.sessions().into_iter();
        let neighbour = |peer: NodeBoot| {
            let belongs = belonging.get(&peer).cloned();
            Neighbour { name: peer.node, belongs }
        };
        sessions.map(|session| neighbour(session.peer)).collect()
    }

    /// Tells every peer of which side this node is.
    pub(super) fn tell_side(&self) {
        for session in self.transport.sessions() {
            self.tell_side_to(&session.peer);
        }
    }

    /// Tells one of them.
    pub(super) fn tell_side_to(&self, peer: &NodeBoot) {
        if !self.sides.is_available() {
            return;
        }
        let plan = self.plans.newest().filter(|plan| plan.names(&self.id));
        let counts = |plan: &Arc<Snapshot>| {
            let member = plan.member(peer.node.as_str());
            member.is_some_and(|member| member.id() == peer && member.status.may_serve())
        };
        let counts_you = plan.as_ref().is_some_and(counts);
        let frame = CoordinatorFrame::Belongs { to: self.belonging(), counts_you };
        if let Err(error) = self.transport.cast(&peer.node, Channel::Coordinator, &codec::pack(&frame)) {
            tracing::debug!(to = %peer, %error, "not told of which side this node is");
        }
    }

    /// The coordinator counts with the peers of this node's own side, and with those of none.
    pub(super) fn offer_peers(&self) {
        if !self.sides.is_available() {
            return;
        }
        for (id, (info, offered)) in &mut self.sides.lock().peers {
            let fits = !self.is_of_another(id);
            if std::mem::replace(offered, fits) == fits {
                continue;
            }
            self.ports.coordinator.cast(if fits {
                AssignmentCoordinatorMsg::PeerUp(info.clone())
            } else {
                AssignmentCoordinatorMsg::PeerDown(id.clone())
            });
        }
    }

    /// A session with a peer is up.
    pub(super) fn handle_peer_up(self: &Arc<Self>, info: &NodeInfo, belongs: Option<Belonging>) {
        self.sides.lock().peers.insert(info.id.clone(), (info.clone(), false));
        handle_told(self, &info.id, belongs, true);
        self.tell_side_to(&info.id);
    }

    /// The session with a peer ended.
    pub(super) fn handle_peer_down(&self, peer: &NodeBoot) {
        self.sides.lock().peers.remove(peer);
    }
}

/// Lost partitions that this node, as the leader, is about to give up.
#[derive(Debug, Default)]
struct Giving {
    since: BTreeMap<(PartitionId, Epoch), Moment>,
    asked: Option<tokio::task::JoinHandle<()>>,
}

impl Giving {
    fn look(&mut self, parts: &Arc<Parts>) {
        let now = parts.clock.now();
        let lost = parts.losses.now();
        self.since.retain(|(partition, epoch), _| lost.get(partition) == Some(epoch));
        for (partition, epoch) in lost.iter() {
            let Entry::Vacant(news) = self.since.entry((*partition, *epoch)) else { continue };
            news.insert(now);
            if partition.group == GroupId::Names {
                parts.names.handle_directory_lost(*partition);
            }
        }
        let leads = parts.consensus().leadership().borrow().i_lead;
        if !leads || self.asked.as_ref().is_some_and(|asked| !asked.is_finished()) {
            return;
        }
        let due = |(_, since): &(_, &Moment)| now.since(**since) >= ACCEPT_LOSS_AFTER;
        let due: Vec<PartitionId> =
            self.since.iter().filter(due).map(|((partition, _), _)| *partition).collect();
        if due.is_empty() {
            return;
        }
        let parts = Arc::clone(parts);
        let tasks = parts.tasks.clone();
        self.asked = Some(tasks.spawn(async move {
            let leader = || parts.leader.borrow().1.clone();
            for partition in due {
                let ask = Ask::AcceptLoss { partition };
                match parts.asking.ask(&parts.transport, leader, ask, ACCEPT_WITHIN).await {
                    Ok(_) => {
                        tracing::warn!(%partition, "too few of its copies are left: it goes on with these");
                    }
                    Err(error) => tracing::info!(%partition, %error, "its loss is not accepted yet"),
                }
            }
        }));
    }
}
