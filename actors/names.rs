//! Names, supervised children and singletons, on the network: who holds which, in a directory that is replicated as any
//! partition is.
//!
//! ```text
//!  claim, start_child ─▶ DirectoryWorker (primary) ─ log ─▶ copies ─▶ NameTable, on every node ◀─ lookup, meta
//!                              ▲ Commit                                  │ each step
//!                        DirectoryAgent ◀────────────────────────────────┘
//!                              │ orders          ▲ answers
//!                              ▼                 │
//!                        DistributedSupervisor of a node ─▶ ChildActor × n ◀─ call by name
//! ```

mod bringing;
pub mod calling;
pub mod child;
mod claiming;
pub mod conflicts;
pub mod directory_agent;
pub mod directory_worker;
pub mod distributed_supervisor;
mod failure;
pub mod figures;
mod gathering;
pub mod line;
mod meta;
mod questions;
pub mod registry;
mod starting;
pub mod table;
mod tail;
mod watching;
mod wire;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dashmap::DashMap;
use ractor::ActorRef;
use tokio::sync::{broadcast, watch};
use tokio::time::Instant;
use tumen_core::cluster::snapshot::Snapshot;
use tumen_core::ids::{NodeBoot, PartitionId};
use tumen_core::names::crew::Crew;
use tumen_core::names::directory::{News, Refused};
use tumen_core::names::placements::Placements;
use tumen_core::names::request::{Answered, Done, Request};
use tumen_core::names::{Claim, Holder, Name, Reason, directory_of};
use tumen_core::partitions::identity::Position;
use tumen_core::partitions::request::Failure;

use self::bringing::Bringing;
use self::child::ChildKinds;
use self::directory_agent::DirectoryAgentMsg;
use self::directory_worker::{body_of, request_message};
use self::distributed_supervisor::DistributedSupervisorMsg;
pub use self::failure::NameFailure;
use self::line::Rooms;
use self::questions::{Question, Told};
use self::registry::{Registry, RegistryMsg};
pub use self::table::{Found, NameTable, Standing};
use self::watching::Watched;
use self::wire::Supervision;
pub(crate) use self::wire::child_service;
use crate::clock::Clock;
use crate::cluster::plans::Plans;
use crate::codec;
use crate::partitions::router::CallOptions;
use crate::partitions::{Gate, ReadTable, Router};
use crate::port::Port;
use crate::transport::{Deadline, Incoming, Serve, Service, Transport};

/// How long orders and answers may be on their way.
const SEND_WITHIN: Duration = Duration::from_secs(2);
/// How long a node that is a member by its own plan, and not by the directory's, waits before it asks again.
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(20);
/// How long a node that is no member of this one's side is given to come to be one.
const GONE_AFTER: Duration = Duration::from_millis(500);
/// The longest message between directories and nodes.
const SUPERVISION_LEN_MAX: usize = 8 << 20;

/// Told when this node acted on a plan, as far as names go.
pub(crate) type Acted = Arc<dyn Fn(&Arc<Snapshot>) + Send + Sync>;

/// The names of a cluster, on one node. Cheap to clone.
#[derive(Clone)]
pub struct Names {
    shared: Arc<Shared>,
}

struct Shared {
    me: NodeBoot,
    table: NameTable,
    registry: Registry,
    kinds: ChildKinds,
    placements: Placements,
    crew: Mutex<Crew>,
    agents: DashMap<PartitionId, ActorRef<DirectoryAgentMsg>>,
    plans: Plans,
    router: Router,
    seats: ReadTable,
    gate: Gate,
    transport: Transport,
    clock: Clock,
    ports: Ports,
    acted: Acted,
    rooms: Arc<Rooms>,
    bringing: Bringing,
    /// Whether each side of a split goes on.
    sides: bool,
    /// A plan came; `true`: nothing waits for a name any more, for this node stops.
    stirred: watch::Sender<bool>,
    /// Where to look after what waits: a message may come back on a thread of nobody's.
    runtime: tokio::runtime::Handle,
    watched: Watched,
}

/// Where each actor is reached.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ports {
    pub(crate) registry: Port<RegistryMsg>,
    pub(crate) supervisor: Port<DistributedSupervisorMsg>,
}

/// What names stand on.
pub(crate) struct Ground {
    pub(crate) me: NodeBoot,
    pub(crate) table: NameTable,
    pub(crate) kinds: ChildKinds,
    pub(crate) placements: Placements,
    pub(crate) plans: Plans,
    pub(crate) router: Router,
    pub(crate) seats: ReadTable,
    pub(crate) gate: Gate,
    pub(crate) transport: Transport,
    pub(crate) clock: Clock,
    pub(crate) acted: Acted,
    pub(crate) sides: bool,
}

impl Names {
    /// The names of this node. Orders, answers and calls of other nodes are taken from now on.
    pub(crate) fn new(ground: Ground) -> Self {
        let Ground {
            me,
            table,
            kinds,
            placements,
            plans,
            router,
            seats,
            gate,
            transport,
            clock,
            acted,
            sides,
        } = ground;
        let shared = Shared {
            me,
            table,
            registry: Registry::default(),
            kinds,
            placements,
            crew: Mutex::default(),
            agents: DashMap::new(),
            plans,
            router,
            seats,
            gate,
            transport,
            clock,
            ports: Ports::default(),
            acted,
            rooms: Arc::default(),
            bringing: Bringing::default(),
            sides,
            stirred: watch::Sender::new(false),
            runtime: tokio::runtime::Handle::current(),
            watched: Watched::default(),
        };
        let names = Self { shared: Arc::new(shared) };
        names.shared.transport.serve(Service::Supervision, Arc::new(names.clone()));
        names.shared.transport.serve(Service::Directory, Arc::new(questions::Telling::new(names.clone())));
        names.shared.transport.serve(Service::Application, Arc::new(calling::Answering::new(names.clone())));
        names
    }

    pub(crate) fn ports(&self) -> &Ports {
        &self.shared.ports
    }

    /// A plan was committed: who is no member answers under no name any more.
    pub(crate) fn handle_plan(&self, plan: &Arc<Snapshot>) {
        self.shared.table.handle_plan(plan);
        self.shared.stirred.send_if_modified(|stops| !*stops);
        self.shared.ports.registry.cast(RegistryMsg::Plan(Arc::clone(plan)));
        self.shared.ports.supervisor.cast(DistributedSupervisorMsg::Plan(Arc::clone(plan)));
    }

    /// This node stops: whatever waits for a name is told so.
    pub(crate) fn handle_stopped(&self) {
        self.shared.stirred.send_replace(true);
    }

    /// What runs here is as the plan says, but for claims on their way: once these are answered the plan is acted on.
    fn note_acted(&self, plan: &Arc<Snapshot>) {
        let (names, plan) = (self.clone(), Arc::clone(plan));
        let serves = plan
            .member(self.shared.me.node.as_str())
            .is_some_and(|member| *member.id() == self.shared.me && member.status.may_serve());
        if serves {
            return (self.shared.acted)(&plan);
        }
        tokio::spawn(async move {
            names.shared.registry.claims_ended().await;
            (names.shared.acted)(&plan);
        });
    }

    /// Sends something to the supervisor, or the agents, of a node. It may be lost.
    fn send(&self, to: &NodeBoot, what: Supervision) {
        if *to == self.shared.me {
            return self.take(&self.shared.me.clone(), what);
        }
        let deadline = Deadline::after(SEND_WITHIN);
        let frame = match codec::try_pack(&what, SUPERVISION_LEN_MAX) {
            Ok(frame) => frame,
            Err(error) => return tracing::error!(%to, %error, "orders or answers are not sent"),
        };
        let encode = |buffer: &mut bytes::BytesMut| buffer.extend_from_slice(&frame);
        drop(self.shared.transport.ask(&to.node, Service::Supervision, deadline, encode));
    }

    fn take(&self, from: &NodeBoot, what: Supervision) {
        match what {
            // Those that this node left behind do not know it yet.
            Supervision::Orders { cluster, .. } | Supervision::Answers { cluster, .. }
                if self.shared.plans.cluster() != Some(cluster) => {}
            Supervision::Orders { to, frame, .. } => {
                if to == self.shared.me {
                    self.shared.ports.supervisor.cast(DistributedSupervisorMsg::Orders(frame));
                }
            }
            Supervision::Answers { said, .. } => {
                for (directory, said) in said {
                    if let Some(agent) = self.shared.agents.get(&directory) {
                        // One that just stopped needs none.
                        drop(agent.cast(DirectoryAgentMsg::Answers(from.clone(), said)));
                    }
                }
            }
        }
    }

    /// What this node knows of all names.
    pub fn table(&self) -> &NameTable {
        &self.shared.table
    }

    /// What becomes known of names from now on.
    pub fn news(&self) -> broadcast::Receiver<Arc<News>> {
        self.shared.table.news()
    }

    /// Who answers under a name. A local read.
    pub fn lookup(&self, name: &Name) -> Option<Found> {
        self.shared.table.lookup(name)
    }

    /// Asks the directory of a name, and waits until this node has seen what came of it.
    async fn ask(&self, request: &Request, deadline: Instant) -> Result<Done, NameFailure> {
        let directory = directory_of(request.name());
        let body = body_of(request);
        loop {
            let left = self.shared.bringing.left();
            let place = Mutex::new(Position::ZERO);
            let within = deadline.saturating_duration_since(Instant::now());
            let options = CallOptions { within, ..CallOptions::default() };
            let reply = self
                .shared
                .router
                .call_partition_placed(directory, request_message(), body.clone(), options, &place)
                .await;
            let reply = match reply {
                // Whatever it came to, it came to that in a cluster that is no more.
                Err(_) if self.shared.bringing.left() != left && Instant::now() < deadline => continue,
                reply => reply?,
            };
            let answered: Answered = codec::decode_body(&reply).map_err(|why| {
                Failure::WorkerFailed(format!("a directory's answer cannot be read: {why}"))
            })?;
            match answered {
                Ok(done) => {
                    let at = *place.lock().unwrap_or_else(PoisonError::into_inner);
                    tokio::select! {
                        reached = self.reached(directory, at, deadline) => reached?,
                        () = self.leaves(left) => continue,
                    }
                    // What was answered in a cluster that was dropped meanwhile holds nowhere.
                    if self.shared.bringing.left() != left {
                        continue;
                    }
                    return Ok(done);
                }
                // The directory's node is behind this one: it knows a plan that is older. Or this one is about to be a member.
                Err(Refused::NoMember(node))
                    if node == self.shared.me
                        && (self.shared.table.is_member(&node) || !self.shared.bringing.has_arrived())
                        && Instant::now() + ASK_AGAIN_AFTER < deadline =>
                {
                    tokio::time::sleep(ASK_AGAIN_AFTER).await;
                }
                Err(refused) => return Err(refused.into()),
            }
        }
    }

    /// Waits until this node leaves a cluster again, after it did so many times.
    async fn leaves(&self, left: u64) {
        let mut moves = self.shared.bringing.moves.subscribe();
        // The sender is as long there as this.
        drop(moves.wait_for(|moves| moves.left != left).await);
    }

    /// Waits until this node knows a directory up to here.
    async fn reached(
        &self,
        directory: PartitionId,
        position: Position,
        deadline: Instant,
    ) -> Result<(), NameFailure> {
        let Some(mut positions) = self.shared.table.positions(directory) else { return Ok(()) };
        let reached = positions.wait_for(|known| *known >= position);
        match tokio::time::timeout_at(deadline, reached).await {
            Ok(_) => Ok(()),
            Err(_) => Err(NameFailure::NotVisible),
        }
    }

    /// Waits until every member sees what this node knows of a name by now.
    ///
    /// # Errors
    /// [`NameFailure::NotVisible`]: some member did not say so in time.
    pub async fn await_visible(&self, name: &Name, within: Duration) -> Result<(), NameFailure> {
        let directory = directory_of(name);
        let at = self.shared.table.position(directory);
        let deadline = Instant::now() + within;
        let members = self.shared.plans.newest().map(|plan| plan.members.clone()).unwrap_or_default();
        let others = members.into_iter().filter(|member| *member.id() != self.shared.me);
        let seen = others.filter(|member| member.status.may_serve()).map(|member| async move {
            let question = Question::Reached { directory, at };
            while !matches!(self.question(member.name(), &question).await, Some(Told::Reached)) {
                // Of one that goes nothing is waited for.
                if !self.shared.table.is_member(member.id()) {
                    return;
                }
                tokio::time::sleep(ASK_AGAIN_AFTER).await;
            }
        });
        let all = futures_util::future::join_all(seen);
        tokio::time::timeout_at(deadline, all).await.map(drop).map_err(|_| NameFailure::NotVisible)
    }

    /// Waits until an actor has ended, wherever it is, and tells how: [`Reason::NodeDown`] where its node, or that run of it,
    /// is no member any more.
    pub async fn monitor(&self, holder: &Holder) -> Reason {
        let gone = || Reason::Crashed("it is gone, and nobody remembers how it ended".into());
        if holder.node == self.shared.me {
            return self.shared.registry.ended(holder.actor).await.unwrap_or_else(gone);
        }
        let question = Question::Watch { boot: holder.node.boot, actor: holder.actor };
        loop {
            if self.is_gone(&holder.node) {
                return Reason::NodeDown;
            }
            let told = tokio::select! {
                told = self.question(&holder.node.node, &question) => told,
                () = self.member_gone(&holder.node) => {
                    if !self.shared.sides {
                        return Reason::NodeDown;
                    }
                    // It may be on its way from one side to another, as this one.
                    tokio::time::sleep(GONE_AFTER).await;
                    continue;
                }
            };
            match told {
                Some(Told::Ended(reason)) => return reason.unwrap_or_else(gone),
                Some(_) => {}
                None => tokio::time::sleep(ASK_AGAIN_AFTER).await,
            }
        }
    }

    /// Whether a run of a node is gone, as far as this node knows.
    fn is_gone(&self, node: &NodeBoot) -> bool {
        let may_come = self.shared.sides && self.reaches(node);
        !self.shared.table.is_member(node) && !may_come
    }

    /// Whether there is a session with that run of a node.
    fn reaches(&self, node: &NodeBoot) -> bool {
        self.shared.transport.sessions().iter().any(|session| session.peer == *node)
    }

    /// Waits until a run of a node is no member any more.
    async fn member_gone(&self, node: &NodeBoot) {
        let mut plans = self.shared.plans.subscribe();
        let is_there = |plan: &Snapshot| {
            let member = plan.member(node.node.as_str());
            member.is_some_and(|member| member.id() == node && member.status.may_serve())
        };
        // Without plans to come there is nobody to say so.
        drop(plans.wait_for(|plan| plan.as_deref().is_some_and(|plan| !is_there(plan))).await);
    }

    /// The names that begin so and what stands there, in order, at most so many of them.
    pub fn select(&self, prefix: &[u8], limit: usize) -> Vec<(Name, Claim)> {
        self.shared.table.select(prefix, limit, |_, _| true)
    }

    /// The children whose names begin so, in order, at most so many of them.
    pub fn children(&self, prefix: &[u8], limit: usize) -> Vec<(Name, Claim)> {
        self.shared.table.select(prefix, limit, |_, standing| standing.child().is_some())
    }
}

impl Serve for Names {
    fn serve(&self, batch: &mut Vec<Incoming>) {
        for incoming in batch.drain(..) {
            match codec::decode::<Supervision>(&incoming.body, SUPERVISION_LEN_MAX) {
                Ok(what) => {
                    let from = incoming.from().clone();
                    self.take(&from, what);
                }
                Err(error) => {
                    tracing::warn!(from = %incoming.from(), %error, "orders or answers are dropped");
                }
            }
            incoming.reply.send(&[]);
        }
    }
}

impl fmt::Debug for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Names").field("me", &self.shared.me).finish_non_exhaustive()
    }
}
