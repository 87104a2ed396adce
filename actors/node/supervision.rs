//! The node's actors, in the order in which they stand on each other; the supervisor starts one again that failed, and those
//! after it.

use std::sync::Arc;

use ractor::{Actor, ActorCell, ActorProcessingErr};
use tumen_core::cluster::coordinator::{self, Coordinator};
use tumen_core::cluster::membership;
use tumen_core::ids::NodeBoot;

use super::parts::Parts;
use super::settings::MakeStrategies;
use super::surroundings::Around;
use crate::cluster::assignment_coordinator::{AssignmentCoordinator, AssignmentCoordinatorMsg};
use crate::cluster::health_monitor::{HealthMonitor, Look, Tell};
use crate::cluster::lease_keeper::{Askable, LeaseKeeper, LeaseKeeperMsg};
use crate::cluster::membership::Membership;
use crate::cluster::pubsub::PubSub;
use crate::names::distributed_supervisor::DistributedSupervisor;
use crate::names::registry::RegistryActor;
use crate::node_supervisor::{Child, NodeSupervisor, Spec, StartError};
use crate::partitions::KindsByGroup;
use crate::partitions::partition_manager::{PartitionManager, PartitionManagerMsg};
use crate::partitions::router::{RouterActor, RouterMsg};

/// What the actors are made from.
pub(super) struct Actors {
    pub(super) coordinator: coordinator::Config,
    pub(super) membership: membership::Config,
    pub(super) strategies: MakeStrategies,
    pub(super) kinds: KindsByGroup,
    /// Under whom all of it runs.
    pub(super) supervisor: Option<ActorCell>,
}

type Started = Result<ActorCell, ActorProcessingErr>;

/// Starts them all. Each takes its place behind its port, and is fed what it must know, at every start anew.
pub(super) async fn start(parts: &Arc<Parts>, actors: Actors) -> Result<NodeSupervisor, StartError> {
    let actors = Arc::new(actors);
    macro_rules! child {
        ($name:literal, $start:ident) => {{
            let (parts, actors) = (Arc::clone(parts), Arc::clone(&actors));
            Child::new($name, move |supervisor| $start(Arc::clone(&parts), Arc::clone(&actors), supervisor))
        }};
    }
    let children = vec![
        child!("LeaseKeeper", start_lease_keeper),
        child!("Membership", start_membership),
        child!("PubSub", start_pubsub),
        child!("AssignmentCoordinator", start_coordinator),
        child!("PartitionManager", start_manager),
        child!("Router", start_router),
        child!("Registry", start_registry),
        child!("DistributedSupervisor", start_distributed_supervisor),
        child!("HealthMonitor", start_health_monitor),
    ];
    let (stop_within, under) = (parts.stop_within, actors.supervisor.clone());
    NodeSupervisor::start_under(under, Spec { stop_within, ..Spec::new(parts.clock, children) }).await
}

async fn start_lease_keeper(parts: Arc<Parts>, _: Arc<Actors>, supervisor: ActorCell) -> Started {
    let coordinator = parts.ports.coordinator.clone();
    let to_self = Arc::new(move |request| {
        coordinator.cast(AssignmentCoordinatorMsg::LeaseRequest(request));
    });
    let here = Arc::downgrade(&parts);
    let behind = Arc::new(move |version| {
        if let Some(parts) = here.upgrade() {
            parts.catch_up(version);
        }
    });
    let (lease, gate, transport) = (parts.lease.clone(), parts.gate.clone(), parts.transport.clone());
    let here = Arc::downgrade(&parts);
    let stopping: Arc<dyn Fn() -> bool + Send + Sync> =
        Arc::new(move || here.upgrade().is_none_or(|parts| parts.is_stopping()));
    let here = Arc::downgrade(&parts);
    let askable: Askable = Arc::new(move |node| {
        here.upgrade().is_some_and(|parts| !parts.sides.is_available() || !parts.is_of_another(node))
    });
    let stopping = (stopping, askable);
    let keeper = LeaseKeeper::new(lease, gate, parts.clock, transport, to_self, behind, stopping);
    let (keeper, _) = LeaseKeeper::spawn_linked(None, keeper, (), supervisor).await?;
    parts.ports.lease_keeper.lead_to(keeper.clone());
    let leader = parts.leader.borrow().1.clone();
    if let Some(leader) = leader {
        parts.ports.lease_keeper.cast(LeaseKeeperMsg::Leader(leader));
    }
    Ok(keeper.get_cell())
}

async fn start_membership(parts: Arc<Parts>, actors: Arc<Actors>, supervisor: ActorCell) -> Started {
    let (config, transport) = (actors.membership.clone(), parts.transport.clone());
    let membership = Membership::new(config, parts.members.clone(), transport, parts.clock)?;
    let (membership, _) = Membership::spawn_linked(None, membership, (), supervisor).await?;
    Ok(membership.get_cell())
}

async fn start_pubsub(parts: Arc<Parts>, _: Arc<Actors>, supervisor: ActorCell) -> Started {
    let pubsub = PubSub::new(parts.hub.clone(), parts.members.clone());
    let (pubsub, _) = PubSub::spawn_linked(None, pubsub, (), supervisor).await?;
    Ok(pubsub.get_cell())
}

async fn start_coordinator(parts: Arc<Parts>, actors: Arc<Actors>, supervisor: ActorCell) -> Started {
    let (info, config) = (parts.info.clone(), actors.coordinator.clone());
    let strategies = Arc::clone(&actors.strategies);
    let make_law = Arc::new(move || Coordinator::new(info.clone(), config.clone(), strategies()));
    let around = Arc::new(Around { parts: Arc::downgrade(&parts) });
    let coordinator = AssignmentCoordinator::new(parts.clock, parts.transport.clone(), around, make_law);
    let (coordinator, _) = AssignmentCoordinator::spawn_linked(None, coordinator, (), supervisor).await?;
    parts.ports.coordinator.lead_to(coordinator.clone());
    let up = parts.members.sessions().up().into_iter();
    let fits = |id: &NodeBoot| !parts.sides.is_available() || !parts.is_of_another(id);
    for peer in up.filter(|peer| fits(&peer.info.id)) {
        parts.ports.coordinator.cast(AssignmentCoordinatorMsg::PeerUp(peer.info));
    }
    let consensus = parts.consensus();
    let leadership = consensus.leadership().borrow().clone();
    let control = Arc::clone(&consensus.state().borrow().state);
    parts.ports.coordinator.cast(AssignmentCoordinatorMsg::Control(control));
    parts.ports.coordinator.cast(AssignmentCoordinatorMsg::Leadership {
        leader: leadership.leader,
        term: leadership.term,
        settled: leadership.first_entry_applied,
    });
    Ok(coordinator.get_cell())
}

async fn start_manager(parts: Arc<Parts>, actors: Arc<Actors>, supervisor: ActorCell) -> Started {
    let (id, kinds) = (parts.id.clone(), actors.kinds.clone());
    let around = Arc::new(Around { parts: Arc::downgrade(&parts) });
    let (table, gate, progress) = (parts.table.clone(), parts.gate.clone(), parts.progress.clone());
    let manager = PartitionManager::new(id, kinds, table, gate, around, progress, parts.replication.clone());
    let (manager, _) = PartitionManager::spawn_linked(None, manager, (), supervisor).await?;
    parts.ports.manager.lead_to(manager.clone());
    if let Some(plan) = parts.plans.newest() {
        parts.ports.manager.cast(PartitionManagerMsg::Plan(plan));
    }
    Ok(manager.get_cell())
}

async fn start_router(parts: Arc<Parts>, _: Arc<Actors>, supervisor: ActorCell) -> Started {
    let router = RouterActor::new(parts.router.clone());
    let (router, _) = RouterActor::spawn_linked(None, router, (), supervisor).await?;
    parts.ports.router.lead_to(router.clone());
    if let Some(plan) = parts.plans.newest() {
        parts.ports.router.cast(RouterMsg::Plan(plan));
    }
    Ok(router.get_cell())
}

async fn start_registry(parts: Arc<Parts>, _: Arc<Actors>, supervisor: ActorCell) -> Started {
    let registry = RegistryActor::new(parts.names.clone());
    let (registry, _) = RegistryActor::spawn_linked(None, registry, (), supervisor).await?;
    parts.names.ports().registry.lead_to(registry.clone());
    if let Some(plan) = parts.plans.newest() {
        parts.names.handle_plan(&plan);
    }
    Ok(registry.get_cell())
}

async fn start_distributed_supervisor(parts: Arc<Parts>, _: Arc<Actors>, supervisor: ActorCell) -> Started {
    let names = DistributedSupervisor::new(parts.names.clone());
    let (names, _) = DistributedSupervisor::spawn_linked(None, names, (), supervisor).await?;
    parts.names.ports().supervisor.lead_to(names.clone());
    if let Some(plan) = parts.plans.newest() {
        parts.names.handle_plan(&plan);
    }
    Ok(names.get_cell())
}

async fn start_health_monitor(parts: Arc<Parts>, _: Arc<Actors>, supervisor: ActorCell) -> Started {
    let (here, there) = (Arc::downgrade(&parts), Arc::downgrade(&parts));
    let look: Look = Arc::new(move || here.upgrade()?.look_at_health());
    let tell: Tell = Arc::new(move |change| {
        if let Some(parts) = there.upgrade() {
            parts.tell_health(change);
        }
    });
    let monitor = HealthMonitor::new(parts.health.clone(), look, tell);
    let (monitor, _) = HealthMonitor::spawn_linked(None, monitor, (), supervisor).await?;
    Ok(monitor.get_cell())
}
