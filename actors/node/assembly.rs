//! Wires one node together, in the order in which its parts stand on each other.

use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{broadcast, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tumen_core::cluster::member::NodeInfo;
use tumen_core::cluster::refusals::Refusals;
use tumen_core::cluster::topics;
use tumen_core::exchange;
use tumen_core::ids::NodeBoot;
use tumen_core::partitions::replication;
use tumen_core::wire::PROTOCOL;

use super::acting::{ActedOn, By};
use super::announcing;
use super::asking::Asking;
use super::configuring::{self, Configuring};
use super::council::{self, Council, IfDamaged};
use super::founding::{self, Founder};
use super::greeter::Greeter;
use super::health::LastSaid;
use super::losses::{self, Losses};
use super::parts::{EVENTS_MAX, Parts, Ports, until_stopping};
use super::sessions;
use super::settings::Settings;
use super::sides::{self, Sides};
use super::stepping;
use super::supervision;
use super::watching;
use crate::cluster::health_monitor::Health;
use crate::cluster::lease_keeper::Lease;
use crate::cluster::membership::{Members, Seeds};
use crate::cluster::plans::Plans;
use crate::cluster::pubsub::Hub;
use crate::exchange::Exchange;
use crate::names::child::ChildKinds;
use crate::names::{Acted, Ground, NameTable, Names, child_service, directory_worker};
use crate::partitions::replication::Copies;
use crate::partitions::{
    Belief, Gate, Kinds, KindsByGroup, ReadTable, ReplicaReads, Replication, Router, Witness,
};

/// After how many entries a copy's log is cut: early, for where the state is in memory that costs nothing.
const CUT_EVERY: u64 = 1024;

/// Why a node did not start. Nothing of it runs.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// What must survive a restart cannot be read or written.
    #[error("{0}")]
    Store(String),
    /// The node has no way to others.
    #[error("{0}")]
    Transport(String),
    /// The actors did not start.
    #[error("{0}")]
    Actors(String),
    /// An actor did not start.
    #[error("{actor} did not start: {why}")]
    Actor {
        /// Which.
        actor: &'static str,
        /// Why.
        why: String,
    },
}

/// Starts a node's parts. What was started before an error is stopped again.
pub(super) async fn start(settings: Settings, kinds: Kinds) -> Result<Arc<Parts>, StartError> {
    let clock = settings.clock;
    // Whoever was told of others finds there what it lost; a node of its own has nobody to learn it from.
    let told_of_others = !settings.founds || settings.bootstrap_expect > 1;
    let if_damaged = if told_of_others { IfDamaged::BeginAnew } else { IfDamaged::Refuse };
    let store = council::open_store(settings.data_dir.as_deref(), &settings.name, &clock, if_damaged)?;
    let config = replication::Config { snapshot_every_entries: CUT_EVERY, ..replication::Config::default() };
    let id = NodeBoot::new(settings.name.clone(), store.boot());
    let belief = Belief::new(id.clone(), clock);
    let gate = Gate::closed(clock, belief.clone());
    let names = NameTable::default();
    let of_sides = settings.consistency.is_available();
    let of_sides = of_sides.then(|| directory_worker::Sides { clock, resolver: settings.resolver.clone() });
    let directories = Kinds::new(vec![directory_worker::hosted(&names, &gate, of_sides)])
        .expect("one kind, with names of its own");
    let kinds = KindsByGroup { users: kinds, names: directories };
    let copies = Copies::load(settings.data_dir.as_deref(), &settings.name, &kinds, &config, clock).await;
    let copies = copies.map_err(|error| StartError::Store(error.to_string()))?;
    let info = NodeInfo {
        id: id.clone(),
        address: settings.address.clone(),
        http: settings.http.clone(),
        zone: settings.zone.clone(),
        weight: settings.weight,
        services: services(&kinds.users, &settings.children),
        protocol: PROTOCOL,
    };
    let has_disk = settings.data_dir.is_some();
    let plans = Plans::default();
    let configuration = Arc::new(Configuring::default());
    let greeter = Arc::new(Greeter {
        info: info.clone(),
        cluster: settings.cluster.clone(),
        groups: settings.groups.clone(),
        modes: kinds.users.modes(),
        lease: settings.coordinator.lease,
        plans: plans.clone(),
        gate: gate.clone(),
        configuration: Arc::clone(&configuration),
        founded: Mutex::default(),
        consistency: settings.consistency,
        stranded: AtomicBool::new(false),
        bound: Mutex::default(),
    });
    let greet = Arc::clone(&greeter);
    let connecting = (settings.connect)(Arc::new(move || greet.greeting()));
    let transport = connecting.await.map_err(StartError::Transport)?;
    let council = Council::start(&settings.consensus, store, &transport, clock, &greeter).await?;
    // Where seeds are discovered there may always be another one.
    let refusing = if settings.discover.is_some() { Vec::new() } else { settings.seeds.clone() };
    // Nodes that wait for the same founder may find each other first, and must go on looking for it.
    let known = plans.clone();
    let seeds = Seeds {
        discover: settings.discover,
        still_alone: Some(Arc::new(move || known.newest().is_none())),
        ..Seeds::fixed(settings.seeds)
    };
    let members = Members::new(info.clone(), &clock, seeds);
    let hub = Hub::new(topics::Config::default(), id.clone(), transport.clone(), clock);
    let exchange = Exchange::new(exchange::Config::default(), id.clone(), transport.clone(), clock);
    let ports = Ports::default();
    let witness = Witness::start(id.clone());
    let table = ReadTable::new(belief, witness.clone());
    let replication = Replication::new(
        id.node.clone(),
        &kinds,
        (config, settings.pace),
        clock,
        (gate.clone(), witness.clone()),
        transport.clone(),
        copies,
    );
    let router = Router::new(id.clone(), table.clone(), kinds.clone(), gate.clone(), transport.clone());
    let reads = ReplicaReads::new(replication.clone(), plans.clone(), transport.clone());
    let acted_on = ActedOn::default();
    let acted: Acted = {
        let (acted_on, keeper) = (acted_on.clone(), ports.lease_keeper.clone());
        Arc::new(move |plan| acted_on.note(By::Names, plan, &keeper))
    };
    let names = Names::new(Ground {
        me: id.clone(),
        table: names,
        kinds: settings.children,
        placements: settings.placements,
        plans: plans.clone(),
        router: router.clone(),
        seats: table.clone(),
        gate: gate.clone(),
        transport: transport.clone(),
        clock,
        acted,
        sides: settings.consistency.is_available(),
    });
    let sides = Sides::new(settings.consistency, settings.cluster.clone());
    let parts = Arc::new(Parts {
        names,
        configuration,
        acted_on,
        lease: Lease::new(id.clone(), settings.coordinator.lease),
        asking: Asking {
            coordinator: ports.coordinator.clone(),
            replication: replication.clone(),
            plans: plans.clone(),
        },
        losses: Losses::default(),
        health: Health::new(id.clone(), settings.health, clock),
        health_said: LastSaid::default(),
        founder: settings.founds.then_some(Founder {
            cluster: settings.cluster,
            groups: settings.groups,
            expect: settings.bootstrap_expect,
        }),
        turn: Mutex::default(),
        refusals: Mutex::new(Refusals::new(refusing)),
        id,
        info,
        clock,
        transport,
        plans,
        gate,
        table,
        witness,
        replication,
        reads,
        router,
        progress: watch::Sender::default(),
        council: ArcSwap::from_pointee(council),
        connected: Mutex::default(),
        belonging: Mutex::default(),
        sides,
        members,
        hub,
        exchange,
        supervisor: OnceLock::new(),
        consensus_settings: settings.consensus,
        data_dir: settings.data_dir,
        crash_proof: settings.coordinator.crash_proof,
        ports,
        leader: watch::Sender::default(),
        voting: watch::Sender::default(),
        events: broadcast::Sender::new(EVENTS_MAX),
        tasks: TaskTracker::new(),
        stopping: CancellationToken::new(),
        stop_within: settings.stop_within,
        // Without a disk there is nothing to come back with.
        rejoin_grace: if has_disk { settings.rejoin_grace } else { Duration::ZERO },
        stop_begun: AtomicBool::new(false),
        failure: OnceLock::new(),
        behind: AtomicU64::new(0),
        greeter,
    });
    let rebalance = settings.coordinator.rebalance;
    sessions::wire(&parts);
    let spec = supervision::Actors {
        coordinator: settings.coordinator,
        membership: settings.membership,
        strategies: settings.strategies,
        kinds,
        supervisor: settings.supervisor,
    };
    let supervisor = match supervision::start(&parts, spec).await {
        Ok(supervisor) => supervisor,
        Err(error) => {
            parts.stop_council().await;
            return Err(StartError::Actors(error.to_string()));
        }
    };
    // It was not set before.
    drop(parts.supervisor.set(supervisor));
    follow(&parts);
    parts.tasks.spawn(until_stopping(&parts, watching::watch(Arc::clone(&parts), rebalance)));
    parts.transport.start();
    if parts.founder.is_some() {
        parts.tasks.spawn(until_stopping(&parts, founding::found(Arc::clone(&parts))));
    }
    Ok(parts)
}

/// What a node says that it hosts: kinds of workers, and of children, sorted.
fn services(kinds: &Kinds, children: &ChildKinds) -> Vec<String> {
    let workers = kinds.iter().map(|hosted| hosted.kind.to_string());
    let mut services: Vec<String> = workers.chain(children.iter().map(child_service)).collect();
    services.sort();
    services
}

/// Starts what waits for news beside the actors.
fn follow(parts: &Arc<Parts>) {
    parts.replication.start(stepping::ask(parts), stepping::give_back(parts));
    parts.tasks.spawn(until_stopping(parts, losses::follow(Arc::clone(parts))));
    if parts.sides.is_available() {
        parts.tasks.spawn(until_stopping(parts, sides::follow(Arc::clone(parts))));
        parts.tasks.spawn(until_stopping(parts, parts.names.clone().follow_conflicts()));
    }
    let failing = Arc::clone(parts);
    parts.tasks.spawn(until_stopping(parts, async move {
        let why = failing.replication.disk_failed().await;
        // A task of its own, for stopping the node ends this one.
        tokio::spawn(async move { failing.fail(format!("its copies cannot be kept: {why}")).await });
    }));
    parts.tasks.spawn(until_stopping(parts, announcing::follow_plans(Arc::clone(parts))));
    parts.tasks.spawn(until_stopping(parts, announcing::follow_announcements(Arc::clone(parts))));
    parts.tasks.spawn(until_stopping(parts, configuring::follow(Arc::clone(parts))));
    parts.tasks.spawn(until_stopping(parts, parts.exchange.clone().follow(parts.members.clone())));
    parts.tasks.spawn(until_stopping(parts, configuring::follow_reports(Arc::clone(parts))));
    council::follow(parts);
}
