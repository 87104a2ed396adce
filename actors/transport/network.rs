//! The real network: one node's sessions, and the tables by which its lanes find each other.

mod port;

use std::collections::{BTreeMap, HashMap};
use std::net::TcpListener;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};

use arc_swap::ArcSwap;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tumen_core::Moment;
use tumen_core::cluster::greeting::Greeting;
use tumen_core::cluster::transport::Connection;
use tumen_core::cluster::transport::dialling::Dialling;
use tumen_core::ids::{NodeBoot, NodeName};

use super::control_lane::ControlLane;
use super::data_lane::{DataLane, Servers};
use super::link::{self, Link};
use super::listener;
use super::preface::{Lane, Opening, PrefaceError, Secret, draw_secret, pass_proof, same};
use super::socket::Socket;
use super::{
    CHANNELS, Channel, Cookie, DownReason, Event, Greet, Handler, SERVICES, SendError, Serve, ServeBulk,
    Service, Session, Settings, SettingsError, Transport,
};

/// Why a node could not get onto the network. Nothing was started.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The process has a node on the network already.
    #[error(
        "this process has a node on the network already: ractor_cluster's tables are the process's, so start another process, or simulate"
    )]
    SecondNode,
    /// The settings do not fit together.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The listening socket cannot be used.
    #[error("the listening socket cannot be used: {0}")]
    Listener(#[from] std::io::Error),
    /// ractor's node did not start.
    #[error("ractor's node did not start: {0}")]
    Start(String),
}

/// Gets this process's one node onto the network. `listener` is bound already and stays the caller's: opened first and
/// closed last, so that an address that refuses proves that its process is gone.
///
/// # Panics
/// Outside a tokio runtime.
pub async fn open(
    listener: &TcpListener,
    greet: Greet,
    cookie: Cookie,
    settings: Settings,
) -> Result<Transport, OpenError> {
    settings.check()?;
    let listener = listener.try_clone()?;
    listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let local = greet().info.id;
    let dialling = Dialling::new(local.node.clone(), settings.backoff, settings.patience);
    let network = Arc::new(Network {
        local,
        greet,
        cookie,
        settings,
        origin: Instant::now(),
        handlers: RwLock::default(),
        servers: RwLock::default(),
        bulk_servers: RwLock::default(),
        links: Mutex::default(),
        routes: ArcSwap::default(),
        passes: Mutex::default(),
        dialling: Mutex::new(dialling),
        dial_wake: Notify::new(),
        control: OnceLock::new(),
        listener: Mutex::new(Some(listener)),
        counts: Counters::default(),
        connections: AtomicU64::new(0),
        stopping: CancellationToken::new(),
    });
    let control = ControlLane::open(&network).await?;
    // It was not set before.
    drop(network.control.set(control));
    Ok(Transport::new(Arc::new(network)))
}

/// One node on the network.
pub(super) struct Network {
    pub(super) local: NodeBoot,
    pub(super) greet: Greet,
    pub(super) cookie: Cookie,
    pub(super) settings: Settings,
    origin: Instant,
    handlers: RwLock<[Option<Handler>; CHANNELS]>,
    servers: RwLock<[Option<Arc<dyn Serve>>; SERVICES]>,
    bulk_servers: RwLock<[Option<Arc<dyn ServeBulk>>; SERVICES]>,
    links: Mutex<Links>,
    /// The sessions that are up: read by every cast and request, swapped whole.
    routes: ArcSwap<HashMap<NodeName, Arc<Link>>>,
    passes: Mutex<Passes>,
    pub(super) dialling: Mutex<Dialling>,
    pub(super) dial_wake: Notify,
    control: OnceLock<ControlLane>,
    listener: Mutex<Option<tokio::net::TcpListener>>,
    pub(super) counts: Counters,
    connections: AtomicU64,
    pub(super) stopping: CancellationToken,
}

/// Every session that is not yet gone.
#[derive(Default)]
struct Links {
    /// The one that holds each name.
    by_name: BTreeMap<NodeName, Arc<Link>>,
    by_connection: HashMap<u64, Arc<Link>>,
    by_label: HashMap<String, Arc<Link>>,
    /// The last session of each name, until it is gone: the next one waits for it.
    last: BTreeMap<NodeName, Arc<Link>>,
    numbered: u64,
}

/// Passes that were given and not yet used.
#[derive(Default)]
struct Passes {
    numbered: u64,
    given: BTreeMap<u64, Given>,
}

struct Given {
    link: Arc<Link>,
    lane: Lane,
    token: Secret,
    until: Instant,
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) hostile: AtomicU64,
    pub(super) refused: AtomicU64,
    unhandled: AtomicU64,
    overloaded: AtomicU64,
}

/// Who holds the name of a node that wants to become a peer.
pub(super) enum Holder {
    Nobody,
    /// The same run, by this session.
    Itself(Arc<Link>),
    /// Another run, which may be dead.
    Another(Arc<Link>),
}

impl Network {
    /// ractor's side of this node.
    ///
    /// # Panics
    /// Before [`open`] is done, when nobody has this network yet.
    pub(super) fn control(&self) -> &ControlLane {
        self.control.get().expect("a network that was opened has its control lane")
    }

    pub(super) fn now(&self) -> Moment {
        Moment::ZERO + self.origin.elapsed()
    }

    pub(super) fn instant(&self, moment: Moment) -> Instant {
        self.origin + moment.since(Moment::ZERO)
    }

    pub(super) fn tell(&self, event: Event) {
        self.control().tell(event);
    }

    /// A number for a connection that this node dials: larger than those before it, and unlike other nodes'.
    pub(super) fn draw_connection(&self) -> u64 {
        let count = self.connections.fetch_add(1, Ordering::Relaxed) + 1;
        (count << 32) | (crate::clock::draw() & 0xffff_ffff)
    }

    // Sessions.

    pub(super) fn holder(&self, peer: &NodeBoot) -> Holder {
        match self.links().by_name.get(&peer.node) {
            None => Holder::Nobody,
            Some(link) if link.session.peer == *peer => Holder::Itself(Arc::clone(link)),
            Some(link) => Holder::Another(Arc::clone(link)),
        }
    }

    /// Makes a connection that both nodes have decided for the session with that peer, unless another one that
    /// was decided for at the same time stays. `replaces` is a session that the peer is known not to hold any more.
    pub(super) fn admit(self: &Arc<Self>, admission: Admission, replaces: Option<&Connection>) -> bool {
        let Admission { socket, greeting, connection, key, dialled } = admission;
        let peer = greeting.info.id.clone();
        let mut links = self.links();
        let held = links.by_name.get(&peer.node).cloned();
        if let Some(held) = &held {
            let same_run = held.session.peer == peer;
            let yields = replaces == Some(&held.connection) || connection.outranks(&held.connection);
            if !(same_run && yields) {
                return false;
            }
        }
        if links.by_connection.contains_key(&connection.id) || self.stopping.is_cancelled() {
            return false;
        }
        links.numbered += 1;
        let session = Session { peer: peer.clone(), number: links.numbered };
        let window = self.settings.control_window;
        let link = Arc::new(Link::new(session, connection, greeting, key, dialled, socket, window));
        links.by_name.insert(peer.node.clone(), Arc::clone(&link));
        links.by_connection.insert(link.connection.id, Arc::clone(&link));
        links.by_label.insert(link.label(), Arc::clone(&link));
        let predecessor = links.last.insert(peer.node, Arc::clone(&link));
        drop(links);
        if let Some(held) = held {
            held.close(DownReason::Replaced);
        }
        tokio::spawn(link::run(Arc::clone(self), link, predecessor));
        true
    }

    /// The session with this number on the wire, unless it is over.
    pub(super) fn link(&self, connection: u64) -> Option<Arc<Link>> {
        let link = self.links().by_connection.get(&connection).cloned();
        link.filter(|link| !link.closing.is_cancelled())
    }

    pub(super) fn labelled(&self, label: &str) -> Option<Arc<Link>> {
        self.links().by_label.get(label).cloned()
    }

    pub(super) fn handle_up(&self, link: &Arc<Link>) {
        let node = link.session.peer.node.clone();
        self.dialling().handle_session_up(&node);
        self.change_routes(|routes| drop(routes.insert(node.clone(), Arc::clone(link))));
        if link.closing.is_cancelled() {
            self.handle_closing(link);
        }
    }

    pub(super) fn handle_closing(&self, link: &Arc<Link>) {
        let node = &link.session.peer.node;
        let mut links = self.links();
        if links.by_name.get(node).is_some_and(|held| Arc::ptr_eq(held, link)) {
            links.by_name.remove(node);
        }
        drop(links);
        self.change_routes(|routes| {
            if routes.get(node).is_some_and(|routed| Arc::ptr_eq(routed, link)) {
                routes.remove(node);
            }
        });
        self.passes().given.retain(|_, given| !Arc::ptr_eq(&given.link, link));
    }

    pub(super) fn handle_gone(&self, link: &Arc<Link>) {
        let node = &link.session.peer.node;
        let mut links = self.links();
        links.by_connection.remove(&link.connection.id);
        links.by_label.remove(&link.label());
        if links.last.get(node).is_some_and(|last| Arc::ptr_eq(last, link)) {
            links.last.remove(node);
        }
        let held = links.by_name.contains_key(node);
        drop(links);
        if !held {
            self.dialling().handle_session_down(self.now(), node);
            self.dial_wake.notify_one();
        }
    }

    // Further connections of a session.

    /// Gives the peer a pass for one connection of this session.
    pub(super) fn issue_pass(&self, link: &Arc<Link>, lane: Lane) -> (u64, Secret) {
        let (now, token) = (Instant::now(), draw_secret());
        let mut passes = self.passes();
        passes.given.retain(|_, given| given.until > now);
        passes.numbered += 1;
        let number = passes.numbered;
        let given = Given { link: Arc::clone(link), lane, token, until: now + self.settings.preface_within };
        passes.given.insert(number, given);
        (number, token)
    }

    /// The session that a pass was given for. It is good once.
    pub(super) fn take_pass(&self, opening: &Opening) -> Option<Arc<Link>> {
        let given = self.passes().given.remove(&opening.pass)?;
        let proof = pass_proof(&given.link.key, given.lane, opening.pass, &given.token);
        let good = given.lane == opening.lane && same(&proof, &opening.secret);
        (good && !given.link.closing.is_cancelled()).then_some(given.link)
    }

    /// Opens a further connection of a session with a pass that the peer gave.
    pub(super) async fn dial_lane(
        &self,
        link: &Link,
        lane: Lane,
        pass: u64,
        token: &Secret,
    ) -> Result<Socket, PrefaceError> {
        let address = link.dialled.as_ref().unwrap_or(&link.greeting.info.address);
        let dial = async {
            let mut socket = Socket::new(tokio::net::TcpStream::connect(address).await?)?;
            let secret = pass_proof(&link.key, lane, pass, token);
            let protocol = link.greeting.protocol;
            Opening { protocol, lane, pass, secret }.write(&mut socket).await?;
            listener::hear_welcome(&mut socket).await?;
            Ok(socket)
        };
        match tokio::time::timeout(self.settings.preface_within, dial).await {
            Ok(dialled) => dialled,
            Err(_) => Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()),
        }
    }

    /// Makes this connection the session's data lane.
    pub(super) fn attach(&self, link: &Link, socket: Socket) {
        link.adopt(&socket);
        let (requests_max, window) = (self.settings.requests_max, self.settings.data_window);
        // A second one would need a second pass, which is not given.
        drop(link.lane.set(Arc::new(DataLane::new(link.session.clone(), socket, requests_max, window))));
    }

    // What others registered.

    pub(super) fn handler(&self, channel: Channel) -> Option<Handler> {
        self.handlers.read().unwrap_or_else(PoisonError::into_inner)[channel as usize].clone()
    }

    pub(super) fn bulk_server(&self, service: Service) -> Option<Arc<dyn ServeBulk>> {
        self.bulk_servers.read().unwrap_or_else(PoisonError::into_inner)[service as usize].clone()
    }

    pub(super) fn count_unhandled(&self) {
        self.counts.unhandled.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn dialling(&self) -> MutexGuard<'_, Dialling> {
        self.dialling.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change_dialling(&self, change: impl FnOnce(&mut Dialling, Moment)) {
        change(&mut self.dialling(), self.now());
        self.dial_wake.notify_one();
    }

    fn change_routes(&self, change: impl Fn(&mut HashMap<NodeName, Arc<Link>>)) {
        self.routes.rcu(|routes| {
            let mut routes = HashMap::clone(routes);
            change(&mut routes);
            routes
        });
    }

    fn route(&self, to: &NodeName) -> Option<Arc<Link>> {
        self.routes.load().get(to).cloned()
    }

    fn links(&self) -> MutexGuard<'_, Links> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn passes(&self) -> MutexGuard<'_, Passes> {
        self.passes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count_overload(&self, error: SendError) {
        if error == SendError::Overloaded {
            self.counts.overloaded.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Servers for Network {
    fn server(&self, service: Service) -> Option<Arc<dyn Serve>> {
        self.servers.read().unwrap_or_else(PoisonError::into_inner)[service as usize].clone()
    }
}

/// A connection that two nodes have decided for.
pub(super) struct Admission {
    pub(super) socket: Socket,
    pub(super) greeting: Box<Greeting>,
    pub(super) connection: Connection,
    pub(super) key: Secret,
    pub(super) dialled: Option<String>,
}

impl Network {
    pub(super) fn close_all(&self) -> Vec<Arc<Link>> {
        let links: Vec<_> = self.links().by_connection.values().cloned().collect();
        for link in &links {
            link.close(DownReason::Stopped);
        }
        links
    }
}
