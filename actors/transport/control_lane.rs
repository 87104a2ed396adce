//! The control lane: ractor_cluster, held so that it keeps the cluster together.
//!
//! ```text
//!  cast ─▶ outbox ─batch─▶ proxy of the peer's gateway ─▶ NodeSession ─▶ socket ─▶ … ─▶ gateway ─▶ handler
//! ```
//!
//! How version 0.16.5 has to be held, each line the result of a bad night:
//! - One remotable actor, the gateway: every remotable actor is told to every peer and has a proxy of 12 KB there.
//! - Sessions are elected by name, then by a random number: a restarted node lost to its own ghost. So the name
//!   carries the boot, and a session is handed over only when its predecessor is gone on this side.
//! - A forced close can leak a blocked socket: it gets a stream that we can shut ourselves.
//! - Names, pids and groups are statics of the process: one networked node in each.
//! - Its `BytesConvertable` panics on bad bytes, and cannot answer: the gateway takes opaque bytes.
//! - It advertises its own listener's port; that one stays on loopback and is told to nobody.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use ractor::message::{BoxedDowncastErr, SerializedMessage};
use ractor::{Actor, ActorCell, ActorId, ActorProcessingErr, ActorRef};
use ractor_cluster::node::{NodeConnectionMode, NodeServerSessionInformation};
use ractor_cluster::{
    BoxRead, BoxWrite, ClusterBidiStream, NodeEventSubscription, NodeServer, NodeServerMessage,
};
use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;
use tumen_core::ids::NodeName;

use super::link::{Link, Pass};
use super::network::{Network, OpenError};
use super::outbox::{Batch, FRAME_LEN_MAX, SYSTEM};
use super::preface::{Lane, derive};
use super::socket::Socket;
use super::{Channel, DownReason, Event, Subscriber};
use crate::codec;

const SCOPE: &str = "tumen";
const GROUP: &str = "gateways";

/// ractor's tables are the process's, so only one node of a process can be on the network.
static TAKEN: AtomicBool = AtomicBool::new(false);

/// What two transports say to each other on the control lane.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum System {
    /// Asks for a pass to open a connection for a copy. Answered by [`System::Pass`].
    Ask { ask: u64 },
    /// A pass; none if the peer takes no more connections now.
    Pass { ask: u64, pass: Pass },
    /// The dialler's end of both lanes is ready.
    Ready,
    /// The speaker stops. This was the last that it had to say.
    Goodbye,
}

/// What the gateway takes: batches from other nodes, and news from this one.
pub(super) enum GatewayMsg {
    /// A batch of messages from a peer.
    Batch(Vec<u8>),
    /// Something that ractor delivers and nobody of ours has sent.
    Foreign,
    /// Both lanes of a session are ready.
    Up(Arc<Link>),
    /// A session is over.
    Down(Arc<Link>),
    /// Something to tell the subscriber.
    Tell(Event),
    /// Somebody wants to be told from now on.
    Subscribe(Subscriber),
}

impl ractor::Message for GatewayMsg {
    fn serializable() -> bool {
        true
    }

    fn serialize(self) -> Result<SerializedMessage, BoxedDowncastErr> {
        match self {
            Self::Batch(args) => Ok(SerializedMessage::Cast { variant: String::new(), args, metadata: None }),
            _ => Err(BoxedDowncastErr),
        }
    }

    fn deserialize(message: SerializedMessage) -> Result<Self, BoxedDowncastErr> {
        Ok(match message {
            SerializedMessage::Cast { args, .. } => Self::Batch(args),
            SerializedMessage::Call { .. } | SerializedMessage::CallReply(..) => Self::Foreign,
        })
    }
}

/// The one actor of this node that others can reach. All that is handed on from the control lane, and all that is told of
/// sessions, goes through it, and so has one order.
struct Gateway;

struct GatewayState {
    network: Weak<Network>,
    subscriber: Option<Subscriber>,
    /// The sessions that the subscriber knows of.
    known: BTreeMap<NodeName, Arc<Link>>,
}

impl Actor for Gateway {
    type Msg = GatewayMsg;
    type State = GatewayState;
    type Arguments = Weak<Network>;

    async fn pre_start(
        &self,
        myself: ActorRef<GatewayMsg>,
        network: Weak<Network>,
    ) -> Result<GatewayState, ActorProcessingErr> {
        ractor::pg::join_scoped(SCOPE.to_owned(), GROUP.to_owned(), vec![myself.get_cell()]);
        Ok(GatewayState { network, subscriber: None, known: BTreeMap::new() })
    }

    async fn handle(
        &self,
        _: ActorRef<GatewayMsg>,
        message: GatewayMsg,
        state: &mut GatewayState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            GatewayMsg::Batch(bytes) => state.handle_batch(bytes),
            GatewayMsg::Foreign => tracing::debug!("something that no node of tumen sends was dropped"),
            GatewayMsg::Up(link) => state.handle_up(&link),
            GatewayMsg::Down(link) => state.handle_down(&link),
            GatewayMsg::Tell(event) => state.tell(event),
            GatewayMsg::Subscribe(subscriber) => state.handle_subscribe(subscriber),
        }
        Ok(())
    }
}

impl GatewayState {
    fn handle_batch(&mut self, bytes: Vec<u8>) {
        let Some(network) = self.network.upgrade() else { return };
        let Some(batch) = Batch::open(bytes) else { return };
        // Old news: a session that is over.
        let Some(link) = network.link(batch.connection) else { return };
        if !link.outbox.handle_taken(batch.taken) {
            return link.close(DownReason::Broken("it took more than it was sent".to_owned()));
        }
        for message in batch {
            match message {
                Ok((SYSTEM, body, _)) => self.handle_system(&network, &link, &body),
                Ok((channel, body, cost)) => {
                    self.handle_message(&network, &link, channel, body);
                    link.outbox.take(cost);
                }
                Err(why) => return link.close(DownReason::Broken(why.to_owned())),
            }
        }
    }

    fn handle_message(&self, network: &Network, link: &Arc<Link>, channel: u8, body: Bytes) {
        if !self.known.get(&link.session.peer.node).is_some_and(|known| Arc::ptr_eq(known, link)) {
            return;
        }
        let handler = Channel::from_wire(channel).and_then(|channel| network.handler(channel));
        let Some(handler) = handler else { return network.count_unhandled() };
        if catch_unwind(AssertUnwindSafe(|| handler(&link.session, body))).is_err() {
            tracing::error!(peer = %link.session.peer, channel, "a handler panicked: its message is lost");
        }
    }

    fn handle_system(&mut self, network: &Arc<Network>, link: &Arc<Link>, body: &[u8]) {
        match codec::decode(body, body.len()) {
            Ok(System::Ask { ask }) => {
                let free = link.copies.load(Ordering::Relaxed) < network.settings.bulks_max;
                let pass = free.then(|| network.issue_pass(link, Lane::Bulk));
                link.say(&System::Pass { ask, pass });
            }
            Ok(System::Pass { ask, pass }) => link.handle_pass(ask, pass),
            // The dialler says so only once this side has taken its data connection.
            Ok(System::Ready) if link.dialled.is_none() && link.lane.get().is_some() => self.handle_up(link),
            Ok(System::Goodbye) => link.close(DownReason::Closed),
            Ok(System::Ready) => link.close(DownReason::Broken("it was ready too early".to_owned())),
            Err(error) => link.close(DownReason::Broken(error.to_string())),
        }
    }

    fn handle_up(&mut self, link: &Arc<Link>) {
        let Some(network) = self.network.upgrade() else { return };
        if link.closing.is_cancelled() || link.up.is_cancelled() {
            return;
        }
        self.known.insert(link.session.peer.node.clone(), Arc::clone(link));
        network.handle_up(link);
        tracing::info!(peer = %link.session.peer, session = link.session.number, "a session is up");
        self.tell(up(link));
        link.up.cancel();
    }

    fn handle_down(&mut self, link: &Arc<Link>) {
        let peer = link.session.peer.clone();
        if !self.known.get(&peer.node).is_some_and(|known| Arc::ptr_eq(known, link)) {
            return;
        }
        self.known.remove(&peer.node);
        let (session, reason) = (link.session.number, link.reason());
        tracing::info!(%peer, session, %reason, "a session is over");
        self.tell(Event::SessionDown { peer, session, reason });
    }

    fn handle_subscribe(&mut self, subscriber: Subscriber) {
        self.subscriber = Some(subscriber);
        for event in self.known.values().map(|link| up(link)).collect::<Vec<_>>() {
            self.tell(event);
        }
    }

    fn tell(&self, event: Event) {
        let Some(subscriber) = &self.subscriber else { return };
        if catch_unwind(AssertUnwindSafe(|| subscriber(event))).is_err() {
            tracing::error!("the subscriber to sessions panicked: an event is lost");
        }
    }
}

fn up(link: &Link) -> Event {
    Event::SessionUp { peer: link.greeting.clone(), session: link.session.number }
}

/// ractor's side of this node.
pub(super) struct ControlLane {
    gateway: ActorRef<GatewayMsg>,
    gateway_handle: Mutex<Option<JoinHandle<()>>>,
    server: ActorRef<NodeServerMessage>,
    server_handle: Mutex<Option<JoinHandle<()>>>,
}

impl ControlLane {
    /// Starts ractor's node and the gateway, in the one process that they can have.
    pub(super) async fn open(network: &Arc<Network>) -> Result<Self, OpenError> {
        if TAKEN.swap(true, Ordering::AcqRel) {
            return Err(OpenError::SecondNode);
        }
        Self::spawn(network).await.inspect_err(|_| TAKEN.store(false, Ordering::Release))
    }

    async fn spawn(network: &Arc<Network>) -> Result<Self, OpenError> {
        let failed = |error: ractor::SpawnErr| OpenError::Start(error.to_string());
        let cookie = hex(&derive(&network.cookie, b"ractor"));
        // The host's place is taken by the boot: ractor compares sessions by `name@host`, and takes two nodes of one
        // `host:port` for the same.
        let (name, boot) =
            (network.local.node.to_string(), format!("{:x}.{}", network.local.boot.0, network.local.node));
        let server = NodeServer::new(0, cookie, name, boot, None, Some(NodeConnectionMode::Isolated))
            .with_listen_addr(std::net::Ipv4Addr::LOCALHOST.into())
            .with_max_inbound_frame_size(FRAME_LEN_MAX);
        let (gateway, gateway_handle) =
            Actor::spawn(None, Gateway, Arc::downgrade(network)).await.map_err(failed)?;
        let (server, server_handle) = match Actor::spawn(None, server, ()).await {
            Ok(server) => server,
            Err(error) => {
                gateway.stop(None);
                return Err(failed(error));
            }
        };
        let subscription = Box::new(Sessions { network: Arc::downgrade(network) });
        let subscribe = NodeServerMessage::SubscribeToEvents { id: "tumen".to_owned(), subscription };
        server.cast(subscribe).map_err(|error| OpenError::Start(error.to_string()))?;
        Ok(Self {
            gateway,
            gateway_handle: Mutex::new(Some(gateway_handle)),
            server,
            server_handle: Mutex::new(Some(server_handle)),
        })
    }

    /// Waits until ractor's node or the gateway ends, which is right only after [`ControlLane::stop`].
    pub(super) async fn ended(&self) {
        while self.server.get_status() < ractor::ActorStatus::Stopping
            && self.gateway.get_status() < ractor::ActorStatus::Stopping
        {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    pub(super) async fn stop(&self) {
        self.server.stop(None);
        let handles = [&self.server_handle, &self.gateway_handle];
        let [server, gateway] = handles.map(|it| it.lock().unwrap_or_else(PoisonError::into_inner).take());
        for (handle, after) in [(server, Some(&self.gateway)), (gateway, None)] {
            if let Some(handle) = handle {
                // It was asked to stop, and does, unless the runtime is stopping as well.
                drop(tokio::time::timeout(Duration::from_secs(2), handle).await);
            }
            if let Some(after) = after {
                after.stop(None);
            }
        }
        TAKEN.store(false, Ordering::Release);
    }

    pub(super) fn up(&self, link: &Arc<Link>) {
        self.note(GatewayMsg::Up(Arc::clone(link)));
    }

    pub(super) fn down(&self, link: &Arc<Link>) {
        self.note(GatewayMsg::Down(Arc::clone(link)));
    }

    pub(super) fn tell(&self, event: Event) {
        self.note(GatewayMsg::Tell(event));
    }

    pub(super) fn subscribe(&self, subscriber: Subscriber) {
        self.note(GatewayMsg::Subscribe(subscriber));
    }

    fn note(&self, message: GatewayMsg) {
        // A gateway that has stopped has nobody to tell.
        drop(self.gateway.cast(message));
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Gives a session's connection to ractor's node. False if that takes none any more.
pub(super) fn give(network: &Network, link: &Link) -> bool {
    let stream = Box::new(Stream { socket: link.socket.clone(), label: link.label() });
    let is_server = link.dialled.is_none();
    let given =
        network.control().server.cast(NodeServerMessage::ConnectionOpenedExternal { stream, is_server });
    if given.is_err() {
        link.close(DownReason::Stopped);
    }
    given.is_ok()
}

/// Sends what the session's outbox holds, batch by batch, until the session ends.
pub(super) async fn send(link: Arc<Link>) {
    let Some(gateway) = link.gateway.get() else { return };
    loop {
        tokio::select! {
            () = link.outbox.wake.notified() => {}
            () = link.closing.cancelled() => return,
        }
        // Whoever is about to send more may do so first: one batch instead of many.
        tokio::task::yield_now().await;
        while let Some(args) = link.outbox.next() {
            let batch = SerializedMessage::Cast { variant: String::new(), args, metadata: None };
            if gateway.send_serialized(batch).is_err() {
                return link.close(DownReason::Closed);
            }
        }
    }
}

/// A connection as ractor takes it.
struct Stream {
    socket: Socket,
    label: String,
}

impl ClusterBidiStream for Stream {
    fn split(self: Box<Self>) -> (BoxRead, BoxWrite) {
        (Box::new(self.socket.clone()), Box::new(self.socket))
    }

    fn peer_label(&self) -> Option<String> {
        Some(self.label.clone())
    }
}

/// Hears from ractor's node what becomes of the connections that it was given.
struct Sessions {
    network: Weak<Network>,
}

impl Sessions {
    fn link(&self, session: &NodeServerSessionInformation) -> Option<Arc<Link>> {
        self.network.upgrade()?.labelled(&session.peer_addr)
    }
}

impl NodeEventSubscription for Sessions {
    fn node_session_opened(&self, session: NodeServerSessionInformation) {
        match self.link(&session) {
            // It is set once for each label.
            Some(link) => drop(link.actor.set(session.actor)),
            // It came in by ractor's own listener, which nobody was told of.
            None => session.actor.stop(Some("not a session of tumen".to_owned())),
        }
    }

    fn node_session_authenticated(&self, _: NodeServerSessionInformation) {}

    fn node_session_ready(&self, session: NodeServerSessionInformation) {
        let Some(link) = self.link(&session) else { return };
        match gateway_of(session.node_id) {
            Some(gateway) => {
                drop(link.gateway.set(gateway));
                link.gateway_found.cancel();
            }
            None => link.close(DownReason::Broken("it has no gateway".to_owned())),
        }
    }

    fn node_session_disconnected(&self, session: NodeServerSessionInformation) {
        if let Some(link) = self.link(&session) {
            link.actor_gone.cancel();
            link.close(DownReason::Closed);
        }
    }
}

/// The proxy of the gateway on the node that ractor numbers so.
fn gateway_of(node: u64) -> Option<ActorCell> {
    let members = ractor::pg::get_scoped_members(&SCOPE.to_owned(), &GROUP.to_owned());
    members
        .into_iter()
        .find(|member| matches!(member.get_id(), ActorId::Remote { node_id, .. } if node_id == node))
}
