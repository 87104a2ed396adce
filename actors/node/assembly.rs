//! Wires one node together, in the order in which its parts stand on each other.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use ractor::{Actor, ActorRef};
use tokio::sync::{broadcast, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tumen_core::UnixMillis;
use tumen_core::cluster::asks::{Answer, Ask};
use tumen_core::cluster::control::{Command, Outcome};
use tumen_core::cluster::coordinator::CrashProof;
use tumen_core::cluster::greeting::{Belonging, Greeting};
use tumen_core::cluster::lease::{self, Release, Reply};
use tumen_core::cluster::member::NodeInfo;
use tumen_core::cluster::snapshot::{GroupSpec, Snapshot};
use tumen_core::cluster::topics::{self, Overflow, Topic};
use tumen_core::ids::{ClusterId, ClusterName, GroupId, NodeBoot, NodeName, Term, Version};
use tumen_core::wire::{CoordinatorFrame, LeaseFrame, PROTOCOL};

use super::asking::{self, Asking};
use super::events::Event;
use super::founding::{self, Founder};
use super::leading;
use super::settings::Settings;
use super::supervision;
use crate::clock::Clock;
use crate::cluster::assignment_coordinator::{AssignmentCoordinatorMsg, Surroundings};
use crate::cluster::consensus;
use crate::cluster::lease_keeper::{self, Lease, LeaseKeeperMsg};
use crate::cluster::membership::{Members, Seeds};
use crate::cluster::plans::Plans;
use crate::cluster::pubsub::{Hub, News};
use crate::codec;
use crate::node_supervisor::{Ended, NodeSupervisor};
use crate::partitions::partition_manager::{PartitionManagerMsg, Progress, Reports};
use crate::partitions::router::RouterMsg;
use crate::partitions::{Belief, Gate, Kinds, ReadTable, Router};
use crate::port::Port;
use crate::store::Store;
use crate::transport::{self, Channel, Transport};

/// How long a plan may take to be pulled from another node.
const PULL_WITHIN: Duration = Duration::from_secs(2);
/// How long a dial may take that is to prove a crash. A refusal comes at once.
const PROBE_WITHIN: Duration = Duration::from_millis(500);
/// How long openraft may take to end.
const COUNCIL_STOP_WITHIN: Duration = Duration::from_secs(5);
/// How soon a leader is dialled again that did not refuse the dial before, at first; it doubles each time.
const PROBE_AGAIN_AFTER: Duration = Duration::from_millis(2);
/// After this the voters elect another leader without any proof.
const PROBE_AGAIN_MAX: Duration = Duration::from_millis(300);
/// The most events that wait for a slow listener.
const EVENTS_MAX: usize = 4096;
/// The most announced plans that wait. Only the newest matters.
const ANNOUNCEMENTS_MAX: usize = 64;

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

/// Where each actor is reached.
#[derive(Clone, Debug, Default)]
pub(super) struct Ports {
    pub(super) coordinator: Port<AssignmentCoordinatorMsg>,
    pub(super) manager: Port<PartitionManagerMsg>,
    pub(super) router: Port<RouterMsg>,
    pub(super) lease_keeper: Port<LeaseKeeperMsg>,
}

/// Everything that belongs to the node and outlives its actors.
pub(super) struct Parts {
    pub(super) id: NodeBoot,
    pub(super) info: NodeInfo,
    pub(super) clock: Clock,
    pub(super) transport: Transport,
    pub(super) plans: Plans,
    pub(super) gate: Gate,
    pub(super) lease: Lease,
    pub(super) table: ReadTable,
    pub(super) router: Router,
    pub(super) progress: watch::Sender<Progress>,
    council: ArcSwap<Council>,
    connected: Mutex<BTreeSet<NodeBoot>>,
    /// Of these, the ones that belonged to a cluster when they greeted.
    belonging: Mutex<BTreeSet<NodeBoot>>,
    pub(super) members: Members,
    pub(super) hub: Hub,
    supervisor: OnceLock<NodeSupervisor>,
    pub(super) ports: Ports,
    pub(super) asking: Asking,
    pub(super) leader: watch::Sender<(Term, Option<NodeName>)>,
    pub(super) events: broadcast::Sender<Event>,
    pub(super) tasks: TaskTracker,
    pub(super) stopping: CancellationToken,
    pub(super) stop_within: Duration,
    pub(super) rejoin_grace: Duration,
    stop_begun: AtomicBool,
    consensus_settings: consensus::Settings,
    data_dir: Option<PathBuf>,
    crash_proof: CrashProof,
    /// The newest plan that is being pulled.
    behind: AtomicU64,
    greeter: Arc<Greeter>,
}

impl Parts {
    /// Says that the node is to stop; `false` if it has been said before.
    pub(super) fn begin_stopping(&self) -> bool {
        !self.stop_begun.swap(true, Ordering::SeqCst)
    }

    /// Whether the node is stopping, or has stopped.
    pub(super) fn is_stopping(&self) -> bool {
        self.stop_begun.load(Ordering::SeqCst)
    }

    /// The cluster that this node belongs to, if it belongs to one.
    pub(super) fn belonging(&self) -> Option<Belonging> {
        self.greeter.belonging()
    }

    /// Whether this node belongs to a cluster, or carries the memory of one.
    pub(super) fn belongs_somewhere(&self) -> bool {
        let consensus = self.consensus();
        let remembers =
            consensus.state().borrow().state.founding.is_some() || consensus.metrics().borrow().running;
        remembers || self.greeter.belonging().is_some()
    }

    /// This node founded a cluster.
    pub(super) fn founded(&self, id: ClusterId, at: UnixMillis) {
        *self.greeter.founded.lock().unwrap_or_else(PoisonError::into_inner) = Some((id, at));
    }

    /// This node belongs to no cluster any more.
    pub(super) fn forget_cluster(&self) {
        *self.greeter.founded.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.plans.clear();
        self.leader.send_replace((Term::ZERO, None));
    }

    /// A plan came from another node.
    pub(super) fn take_plan(&self, plan: Arc<Snapshot>) {
        match plan.validate() {
            Ok(()) => drop(self.plans.take(plan)),
            Err(error) => tracing::warn!(version = %plan.version, %error, "a plan is dropped"),
        }
    }

    /// Tells a new peer that this node leads, if it does. Leader and term are read together: a former leader that thaws
    /// has heard of its successor's term before it knows that it is deposed.
    pub(super) fn greet_as_leader(&self, node: &NodeName) {
        let news = self.consensus().leadership().borrow().clone();
        if !news.first_entry_applied {
            return;
        }
        let frame = CoordinatorFrame::Leads { leader: self.id.node.clone(), term: news.term };
        if let Err(error) = self.transport.cast(node, Channel::Coordinator, &codec::encode(&frame)) {
            tracing::debug!(to = %node, %error, "not sent");
        }
    }

    /// This node's part in consensus.
    pub(super) fn consensus(&self) -> consensus::Handle {
        self.council.load().handle.clone()
    }

    /// Takes no part in consensus any more.
    pub(super) async fn stop_council(&self) {
        self.council.load_full().stop().await;
    }

    /// Forgets what this node agreed on, bytes and all, and is a new life that agreed on nothing.
    pub(super) async fn renew_council(self: &Arc<Self>) -> Result<(), StartError> {
        let former = self.council.load_full();
        former.stop().await;
        if let Some(file) = former.store.path() {
            std::fs::remove_file(file).map_err(|error| {
                StartError::Store(format!("{} cannot be removed: {error}", file.display()))
            })?;
        }
        let store = open_store(self.data_dir.as_deref(), &self.id.node, &self.clock)?;
        let council = Council::start(&self.consensus_settings, store, &self.transport, self.clock).await?;
        self.council.store(Arc::new(council));
        follow_council(self);
        Ok(())
    }

    /// Whether a session with this boot is open.
    pub(super) fn is_connected(&self, id: &NodeBoot) -> bool {
        self.connected.lock().unwrap_or_else(PoisonError::into_inner).contains(id)
    }

    /// Whether anybody who is connected belonged to a cluster when it greeted.
    pub(super) fn meets_members(&self) -> bool {
        !self.belonging.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    fn note_belonging(&self, id: &NodeBoot, belongs: bool) {
        let mut belonging = self.belonging.lock().unwrap_or_else(PoisonError::into_inner);
        if belongs {
            belonging.insert(id.clone());
        } else {
            belonging.remove(id);
        }
    }

    fn note_session(&self, id: &NodeBoot, up: bool) {
        let mut connected = self.connected.lock().unwrap_or_else(PoisonError::into_inner);
        if up {
            connected.insert(id.clone())
        } else {
            connected.remove(id)
        };
    }

    /// The leader's session ended: if its process is surely gone, this voter need not wait for its silence.
    fn look_for_crash(self: &Arc<Self>, node: NodeBoot) {
        let Some(plan) = self.plans.newest() else { return };
        let Some(member) = plan.member(node.node.as_str()).filter(|member| *member.id() == node) else {
            return;
        };
        let address = member.info.address.clone();
        let leads = self.consensus().leadership().borrow().leader.as_ref() == Some(&node.node);
        if !leads || !self.crash_proof.holds_for(&address) {
            return;
        }
        let parts = Arc::clone(self);
        self.tasks.spawn(async move {
            // A dying process closes its listener last, a little after its sessions: the first dial may be too early.
            let mut wait = PROBE_AGAIN_AFTER;
            while parts.transport.probe(&address, PROBE_WITHIN).await != transport::Probe::Refused {
                tokio::time::sleep(wait).await;
                wait *= 2;
                let leads = parts.consensus().leadership().borrow().leader.as_ref() == Some(&node.node);
                if !leads || parts.is_connected(&node) || wait > PROBE_AGAIN_MAX {
                    return;
                }
            }
            tracing::info!(leader = %node, "the leader's process is gone");
            parts.consensus().leader_crashed(&node.node);
        });
    }

    pub(super) fn tell(&self, event: Event) {
        // Nobody may be listening.
        drop(self.events.send(event));
    }

    /// Sends a small message to every peer.
    pub(super) fn cast_all(&self, channel: Channel, frame: &Bytes) {
        for session in self.transport.sessions() {
            if let Err(error) = self.transport.cast(&session.peer.node, channel, frame) {
                tracing::debug!(to = %session.peer, ?channel, %error, "not sent");
            }
        }
    }

    /// Tells everybody of a plan, late subscribers too: whole where it is small, and where it is large by its version only.
    pub(super) fn announce(&self, plan: &Arc<Snapshot>) {
        if let Err(error) = self.hub.retain(&assignments(), announcement(plan)) {
            tracing::error!(version = %plan.version, %error, "a plan could not be announced; nodes pull it instead");
        }
    }

    /// This node does not lead: what it announced when it did is not for late subscribers any more.
    pub(super) fn withdraw(&self) {
        self.hub.release(&assignments());
    }

    /// How the node's actors ended, once they have.
    pub(super) async fn actors_ended(&self) -> Option<Ended> {
        match self.supervisor.get() {
            Some(supervisor) => Some(supervisor.ended().await),
            None => None,
        }
    }

    /// Stops the actors, the last that was started first.
    pub(super) async fn stop_actors(&self) {
        if let Some(supervisor) = self.supervisor.get() {
            supervisor.stop().await;
        }
    }

    /// Somebody said who leads; the newest term is believed, and of two who lead in one term the later word: Raft lets the
    /// greater candidate of a term depose the lesser.
    pub(super) fn learn_leader(&self, leader: Option<&NodeName>, term: Term) {
        let news = self.leader.send_if_modified(|(known, who)| {
            let newer = term > *known || (term == *known && leader.is_some() && who.as_ref() != leader);
            if newer {
                *known = term;
                *who = leader.cloned();
            }
            newer
        });
        if news {
            self.tell(Event::Leader { leader: leader.cloned(), term });
        }
    }

    /// Pulls the newest plan from whoever may have it, one pull at a time.
    pub(super) fn catch_up(self: &Arc<Self>, version: Version) {
        if version <= self.plans.version() || self.behind.fetch_max(version.0, Ordering::SeqCst) >= version.0
        {
            return;
        }
        let parts = Arc::clone(self);
        self.tasks.spawn(async move {
            parts.pull(version).await;
            parts.behind.store(0, Ordering::SeqCst);
        });
    }

    async fn pull(&self, version: Version) {
        let leader = self.leader.borrow().1.clone();
        let others = self.transport.sessions().into_iter().map(|session| session.peer.node);
        for node in leader.into_iter().chain(others).filter(|node| *node != self.id.node) {
            let deadline = tokio::time::Instant::now() + PULL_WITHIN;
            let ask = Ask::Pull { known: self.plans.version() };
            if let Ok(Ok(Answer::Newer(Some(plan)))) =
                asking::ask_there(&self.transport, &node, &ask, deadline).await
            {
                self.plans.take(plan);
            }
            if self.plans.version() >= version {
                return;
            }
        }
    }
}

/// What travels on the channel for catching up.
#[derive(serde::Serialize, serde::Deserialize)]
enum PlanFrame {
    /// The whole plan.
    Whole(Arc<Snapshot>),
    /// There is a plan of this version: ask for it.
    Version(Version),
}

fn announcement(plan: &Arc<Snapshot>) -> Bytes {
    let whole = codec::encode(&PlanFrame::Whole(Arc::clone(plan)));
    if whole.len() <= transport::CONTROL_LEN_MAX / 4 {
        whole
    } else {
        codec::encode(&PlanFrame::Version(plan.version))
    }
}

/// Starts a node's parts. What was started before an error is stopped again.
pub(super) async fn start(settings: Settings, kinds: Kinds) -> Result<Arc<Parts>, StartError> {
    let clock = settings.clock;
    let store = open_store(settings.data_dir.as_deref(), &settings.name, &clock)?;
    let id = NodeBoot::new(settings.name.clone(), store.boot());
    let info = NodeInfo {
        id: id.clone(),
        address: settings.address.clone(),
        http: settings.http.clone(),
        zone: settings.zone.clone(),
        weight: settings.weight,
        services: kinds.iter().map(|hosted| hosted.kind.to_string()).collect(),
        protocol: PROTOCOL,
    };
    let has_disk = settings.data_dir.is_some();
    let plans = Plans::default();
    let belief = Belief::new(id.clone(), clock);
    let gate = Gate::closed(clock, belief.clone());
    let greeter = Arc::new(Greeter {
        info: info.clone(),
        cluster: settings.cluster.clone(),
        groups: settings.groups.clone(),
        lease: settings.coordinator.lease,
        plans: plans.clone(),
        gate: gate.clone(),
        founded: Mutex::default(),
    });
    let greet = Arc::clone(&greeter);
    let connecting = (settings.connect)(Arc::new(move || greet.greeting()));
    let transport = connecting.await.map_err(StartError::Transport)?;
    let council = Council::start(&settings.consensus, store, &transport, clock).await?;
    let seeds = Seeds { discover: settings.discover, ..Seeds::fixed(settings.seeds) };
    let members = Members::new(info.clone(), &clock, seeds);
    let hub = Hub::new(topics::Config::default(), id.clone(), transport.clone(), clock);
    let ports = Ports::default();
    let table = ReadTable::new(belief);
    let router = Router::new(id.clone(), table.clone(), kinds.clone(), gate.clone(), transport.clone());
    let parts = Arc::new(Parts {
        lease: Lease::new(id.clone(), settings.coordinator.lease),
        asking: Asking { coordinator: ports.coordinator.clone() },
        id,
        info,
        clock,
        transport,
        plans,
        gate,
        table,
        router,
        progress: watch::Sender::default(),
        council: ArcSwap::from_pointee(council),
        connected: Mutex::default(),
        belonging: Mutex::default(),
        members,
        hub,
        supervisor: OnceLock::new(),
        consensus_settings: settings.consensus,
        data_dir: settings.data_dir,
        crash_proof: settings.coordinator.crash_proof,
        ports,
        leader: watch::Sender::default(),
        events: broadcast::Sender::new(EVENTS_MAX),
        tasks: TaskTracker::new(),
        stopping: CancellationToken::new(),
        stop_within: settings.stop_within,
        // Without a disk there is nothing to come back with.
        rejoin_grace: if has_disk { settings.rejoin_grace } else { Duration::ZERO },
        stop_begun: AtomicBool::new(false),
        behind: AtomicU64::new(0),
        greeter,
    });
    wire_transport(&parts);
    let spec = supervision::Actors {
        coordinator: settings.coordinator,
        membership: settings.membership,
        strategies: settings.strategies,
        kinds,
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
    parts.transport.start();
    if settings.founds {
        let founder =
            Founder { cluster: settings.cluster, groups: settings.groups, expect: settings.bootstrap_expect };
        parts.tasks.spawn(until_stopping(&parts, founding::found(Arc::clone(&parts), founder)));
    }
    Ok(parts)
}

/// What a node says first to others, at any moment of its life.
struct Greeter {
    info: NodeInfo,
    cluster: ClusterName,
    groups: Vec<(GroupId, GroupSpec)>,
    lease: lease::Config,
    plans: Plans,
    gate: Gate,
    founded: Mutex<Option<(ClusterId, UnixMillis)>>,
}

impl Greeter {
    fn greeting(&self) -> Greeting {
        Greeting {
            protocol: PROTOCOL,
            cluster: self.cluster.clone(),
            belongs: self.belonging(),
            info: self.info.clone(),
            groups: self.groups.clone(),
            lease: self.lease,
        }
    }

    fn belonging(&self) -> Option<Belonging> {
        let founded = *self.founded.lock().unwrap_or_else(PoisonError::into_inner);
        let plan = self.plans.newest();
        let id = plan.as_ref().map(|plan| plan.cluster).or(founded.map(|(id, _)| id))?;
        Some(Belonging {
            id,
            founded_at: founded.map_or(UnixMillis(0), |(_, at)| at),
            version: plan.as_ref().map_or(Version::ZERO, |plan| plan.version),
            members: plan.as_ref().map_or(1, |plan| plan.members.len() as u32),
            acknowledged: self.gate.has_answered(),
        })
    }
}

/// Puts everything in place that takes what arrives, before anything can arrive.
fn wire_transport(parts: &Arc<Parts>) {
    let transport = &parts.transport;
    let here = Arc::downgrade(parts);
    let listener = Arc::new(move |event| {
        if let Some(parts) = here.upgrade() {
            handle_session(&parts, event);
        }
    });
    parts.members.sessions().subscribe("node", listener);
    parts.members.sessions().follow(transport);
    let ports = parts.ports.clone();
    transport.on_control(
        Channel::Lease,
        Arc::new(move |session, body| {
            match lease_keeper::read_frame(&session.peer, &body) {
                // Who asks is who speaks: nobody asks in another's name.
                Some(LeaseFrame::Request(request)) if request.from == session.peer => {
                    ports.coordinator.cast(AssignmentCoordinatorMsg::LeaseRequest(request));
                }
                Some(LeaseFrame::Reply(reply)) => {
                    ports.lease_keeper.cast(LeaseKeeperMsg::Reply(reply));
                }
                Some(LeaseFrame::Request(_)) | None => {}
            }
        }),
    );
    let here = Arc::downgrade(parts);
    transport.on_control(
        Channel::Coordinator,
        Arc::new(move |session, body| {
            let Some(parts) = here.upgrade() else { return };
            match codec::decode(&body, transport::CONTROL_LEN_MAX) {
                Ok(CoordinatorFrame::AskRelease(releases)) => {
                    parts.ports.manager.cast(PartitionManagerMsg::AskRelease(releases));
                }
                Ok(CoordinatorFrame::Leads { leader, term }) => {
                    parts.learn_leader(Some(&leader), term);
                    parts.ports.lease_keeper.cast(LeaseKeeperMsg::Leader(leader));
                }
                Err(error) => tracing::warn!(from = %session.peer, %error, "a message is dropped"),
            }
        }),
    );
    let here = Arc::downgrade(parts);
    transport.on_control(
        Channel::Raft,
        Arc::new(move |session, body| {
            if let Some(parts) = here.upgrade() {
                parts.consensus().deliver(&session.peer.node, &body);
            }
        }),
    );
    asking::serve(transport, &parts.asking);
}

fn handle_session(parts: &Arc<Parts>, event: transport::Event) {
    use transport::Event as Session;
    match event {
        Session::SessionUp { peer, .. } => {
            let node = peer.info.id.clone();
            tracing::info!(%node, address = %peer.info.address, "a node is there");
            parts.note_session(&node, true);
            parts.note_belonging(&node, peer.belongs.is_some());
            parts.transport.remember(&node.node, &peer.info.address);
            founding::handle_met(parts, &peer);
            parts.ports.coordinator.cast(AssignmentCoordinatorMsg::PeerUp(peer.info.clone()));
            parts.greet_as_leader(&node.node);
            parts.tell(Event::NodeUp { node });
        }
        Session::SessionDown { peer, reason, .. } => {
            tracing::info!(node = %peer, %reason, "a node is gone");
            parts.note_session(&peer, false);
            parts.note_belonging(&peer, false);
            parts.ports.coordinator.cast(AssignmentCoordinatorMsg::PeerDown(peer.clone()));
            parts.look_for_crash(peer.clone());
            parts.tell(Event::NodeDown { node: peer, reason: reason.to_string() });
        }
        Session::Refused { address, refusal, by_us } => {
            tracing::warn!(%address, %refusal, by_us, "refused");
            parts.tell(Event::Refused { address, refusal, by_us });
        }
        Session::DialFailed { address, attempt, .. } => {
            tracing::debug!(%address, attempt, "nobody could be spoken to; tried again");
        }
    }
}

/// Starts what waits for news beside the actors.
fn follow(parts: &Arc<Parts>) {
    parts.tasks.spawn(until_stopping(parts, follow_plans(Arc::clone(parts))));
    parts.tasks.spawn(until_stopping(parts, follow_announcements(Arc::clone(parts))));
    follow_council(parts);
}

/// Starts what waits for Raft's news; it ends with this council.
fn follow_council(parts: &Arc<Parts>) {
    let council = parts.council.load_full();
    let works: [BoxFuture<'static, ()>; 3] = [
        Box::pin(leading::follow_consensus(Arc::clone(parts), council.handle.clone())),
        Box::pin(leading::follow_acks(Arc::clone(parts), council.handle.clone())),
        Box::pin(leading::keep_voters(Arc::clone(parts), council.handle.clone())),
    ];
    for work in works {
        let over = council.over.clone();
        parts.tasks.spawn(until_stopping(parts, async move {
            tokio::select! {
                () = over.cancelled() => {}
                () = work => {}
            }
        }));
    }
}

/// One life of this node's part in consensus.
struct Council {
    handle: consensus::Handle,
    actor: ActorRef<consensus::ConsensusMsg>,
    store: Store,
    over: CancellationToken,
}

impl Council {
    async fn start(
        settings: &consensus::Settings,
        store: Store,
        transport: &Transport,
        clock: Clock,
    ) -> Result<Self, StartError> {
        let failed = |why: String| StartError::Actor { actor: "Consensus", why };
        let port = Arc::new(RaftOver(transport.clone()));
        let handle = consensus::Handle::new(settings.clone(), store.clone(), port, clock)
            .map_err(|error| failed(error.to_string()))?;
        let (actor, _) = consensus::Consensus::spawn(None, consensus::Consensus, handle.clone())
            .await
            .map_err(|error| failed(error.to_string()))?;
        Ok(Self { handle, actor, store, over: CancellationToken::new() })
    }

    /// Ends it: openraft first, then its store.
    async fn stop(&self) {
        self.over.cancel();
        if self.actor.stop_and_wait(None, Some(COUNCIL_STOP_WITHIN)).await.is_err() {
            drop(self.actor.kill_and_wait(Some(COUNCIL_STOP_WITHIN)).await);
        }
        if let Err(error) = self.store.close().await {
            tracing::warn!(%error, "the store was not closed in good order");
        }
    }
}

/// Raft's messages over the control lane.
struct RaftOver(Transport);

impl consensus::RaftPort for RaftOver {
    fn send(&self, to: &NodeName, body: Bytes) -> Result<(), consensus::PortError> {
        self.0.cast(to, Channel::Raft, &body).map_err(|error| match error {
            transport::SendError::NoSession => consensus::PortError::Unreachable,
            transport::SendError::Overloaded | transport::SendError::TooLong { .. } => {
                consensus::PortError::Overloaded
            }
        })
    }
}

fn open_store(data_dir: Option<&Path>, name: &NodeName, clock: &Clock) -> Result<Store, StartError> {
    match data_dir {
        Some(dir) => Store::open(dir, name, clock).map_err(|error| StartError::Store(error.to_string())),
        None => Ok(Store::memory(name, clock)),
    }
}

/// Runs something until the node stops.
fn until_stopping<W>(parts: &Parts, work: W) -> impl Future<Output = ()> + Send + use<W>
where
    W: Future<Output = ()> + Send + 'static,
{
    let stopping = parts.stopping.clone();
    async move {
        tokio::select! {
            () = stopping.cancelled() => {}
            () = work => {}
        }
    }
}

/// The topic on which the leader retains the plan in force.
fn assignments() -> Topic {
    Topic::new("assignments").expect("a short name")
}

/// Takes in what leaders announce.
async fn follow_announcements(parts: Arc<Parts>) {
    let mut announcements = parts.hub.subscribe(&assignments(), ANNOUNCEMENTS_MAX, Overflow::DropOldest);
    while let Some(news) = announcements.recv().await {
        // A plan that was missed is replaced by the next, or pulled when a lease names it.
        let News::Said(message) = news else { continue };
        match codec::decode(&message.body, transport::CONTROL_LEN_MAX) {
            Ok(PlanFrame::Whole(plan)) => parts.take_plan(plan),
            Ok(PlanFrame::Version(version)) => parts.catch_up(version),
            Err(error) => tracing::warn!(from = %message.publisher, %error, "a plan is dropped"),
        }
    }
}

/// Takes each new plan to those who act on it: the router and the manager see the same one.
async fn follow_plans(parts: Arc<Parts>) {
    let mut plans = parts.plans.subscribe();
    let mut previous: Option<Arc<Snapshot>> = None;
    while plans.changed().await.is_ok() {
        let Some(plan) = plans.borrow_and_update().clone() else {
            previous = None;
            continue;
        };
        tracing::info!(version = %plan.version, leader = %plan.leader, members = plan.members.len(), "a plan is in force");
        parts.ports.router.cast(RouterMsg::Plan(Arc::clone(&plan)));
        parts.ports.manager.cast(PartitionManagerMsg::Plan(Arc::clone(&plan)));
        for member in plan.members.iter().filter(|member| *member.name() != parts.id.node) {
            parts.transport.remember(member.name(), &member.info.address);
        }
        parts.tell(Event::Plan { plan: Arc::clone(&plan), previous: previous.replace(plan) });
    }
}

/// The coordinator's surroundings: Raft, and this node's own partitions and lease.
pub(super) struct Around {
    pub(super) parts: Weak<Parts>,
}

impl Surroundings for Around {
    fn commit(&self, command: Command, within: Duration) -> BoxFuture<'static, Option<Outcome>> {
        let parts = self.parts.upgrade();
        Box::pin(async move {
            let parts = parts?;
            let deadline = parts.clock.now() + within;
            match parts.consensus().commit(command, deadline).await {
                Ok(outcome) => Some(outcome),
                Err(error) => {
                    tracing::debug!(%error, "a proposal did not come through");
                    None
                }
            }
        })
    }

    fn release_here(&self, partitions: Vec<Release>) {
        if let Some(parts) = self.parts.upgrade() {
            parts.ports.manager.cast(PartitionManagerMsg::AskRelease(partitions));
        }
    }

    fn reply_here(&self, reply: Reply) {
        if let Some(parts) = self.parts.upgrade() {
            parts.ports.lease_keeper.cast(LeaseKeeperMsg::Reply(reply));
        }
    }
}

impl Reports for Around {
    fn acted_on(&self, plan: &Arc<Snapshot>) {
        if let Some(parts) = self.parts.upgrade() {
            parts.ports.lease_keeper.cast(LeaseKeeperMsg::ActedOn(Arc::clone(plan)));
        }
    }

    fn released(&self, releases: Vec<Release>) {
        if let Some(parts) = self.parts.upgrade() {
            parts.lease.note_released(parts.clock.now(), releases);
            parts.ports.lease_keeper.cast(LeaseKeeperMsg::Wake);
        }
    }

    fn standing(&self) -> Vec<Release> {
        self.parts.upgrade().map(|parts| parts.lease.releases()).unwrap_or_default()
    }
}
