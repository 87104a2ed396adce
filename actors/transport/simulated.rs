//! The simulated network: many nodes in one process, on tokio's clock and from one seed.
//!
//! ```text
//!   node ─cast, request─▶ link: latency, in order ─▶ agenda (by time) ─▶ driver ─▶ handler, server, caller
//!                          │cut: swallowed until healed, or until silence ends the session
//!                          │frozen: held until thawed
//! ```
//!
//! Every handler runs in one task, the driver, so on a paused clock in a single-threaded runtime a run is the same each time.
//! It keeps the promises of the real lanes: what is sent arrives in order, or the session ends. A lost
//! packet is no lost message there, so there are none here: a link delays, or is cut, or breaks.

mod agenda;
mod driver;
mod link;
mod meeting;
mod node;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use tokio::sync::Notify;
use tokio::time::Instant;
use tumen_core::cluster::transport::dialling::Dialling;
use tumen_core::ids::{NodeBoot, NodeName};

use self::agenda::State;
use self::node::Node;
use super::copy::{BulkSink, ServeBulk};
use super::{
    Channel, Cookie, Counts, Deadline, Done, Greet, Handler, LaneError, Port, Probe, SendError, Serve,
    Service, Session, Settings, Subscriber, Transport,
};

/// How a simulated network behaves while nobody cuts it.
#[derive(Clone, Debug)]
pub struct Weather {
    /// How long a message travels: drawn from this range for each, later ones never overtaking. Default 50 µs to
    /// 500 µs.
    pub latency: Range<Duration>,
    /// How many of a million messages break their session instead of arriving. Default none.
    pub breaks_per_million: u32,
}

impl Default for Weather {
    fn default() -> Self {
        Self { latency: Duration::from_micros(50)..Duration::from_micros(500), breaks_per_million: 0 }
    }
}

/// A network of simulated nodes. Cheap to clone; it ends with the last of its handles and nodes.
#[derive(Clone)]
pub struct World {
    inner: Arc<Inner>,
}

pub(super) struct Inner {
    state: Mutex<State>,
    wake: Arc<Notify>,
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        // A handler's panic is caught, so a poisoned lock means a panic of ours, which a test shows anyway.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state, and has the driver look at it.
    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = change(&mut self.lock());
        self.wake.notify_one();
        result
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.wake.notify_one();
    }
}

impl World {
    /// A network in this weather, whose chance comes from `seed`.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn new(seed: u64, weather: Weather) -> Self {
        let state = State {
            rng: SmallRng::seed_from_u64(seed),
            weather,
            origin: Instant::now(),
            agenda: BTreeMap::new(),
            planned: 0,
            nodes: Vec::new(),
            addresses: BTreeMap::new(),
            links: BTreeMap::new(),
            linked: 0,
            cuts: BTreeSet::new(),
            calls: Vec::new(),
        };
        let wake = Arc::new(Notify::new());
        let inner = Arc::new(Inner { state: Mutex::new(state), wake: Arc::clone(&wake) });
        tokio::spawn(driver::drive(Arc::downgrade(&inner), wake));
        Self { inner }
    }

    /// A new node, or a new run of one, that listens on the address that its greeting names. Whoever listened there
    /// before is no longer found.
    pub fn node(&self, greet: Greet, cookie: Cookie, settings: Settings) -> Transport {
        let greeting = greet();
        let local = greeting.info.id;
        let dialling = Dialling::new(local.node.clone(), settings.backoff, settings.patience);
        let index = self.inner.change(|state| {
            let index = state.nodes.len();
            state.addresses.insert(greeting.info.address.clone(), index);
            let node = Node::new(local.clone(), greeting.info.address, greet, cookie, settings, dialling);
            state.nodes.push(node);
            index
        });
        Transport::new(Arc::new(Simulated { world: Arc::clone(&self.inner), index, local }))
    }

    /// Changes the weather for what is sent from now on.
    pub fn set_weather(&self, weather: Weather) {
        self.inner.change(|state| state.weather = weather);
    }

    /// Cuts both directions between each of `some` and each of `others`. What is sent is swallowed; if the cut heals
    /// before silence ends the session, it arrives late.
    pub fn cut(&self, some: &[NodeName], others: &[NodeName]) {
        self.cut_one_way(some, others);
        self.cut_one_way(others, some);
    }

    /// Cuts the direction from each of `from` to each of `to`.
    pub fn cut_one_way(&self, from: &[NodeName], to: &[NodeName]) {
        self.inner.change(|state| {
            for (from, to) in pairs(from, to) {
                state.cuts.insert((from, to));
            }
            state.handle_paths_changed();
        });
    }

    /// Heals both directions between each of `some` and each of `others`.
    pub fn heal(&self, some: &[NodeName], others: &[NodeName]) {
        self.inner.change(|state| {
            for (from, to) in pairs(some, others) {
                state.cuts.remove(&(from.clone(), to.clone()));
                state.cuts.remove(&(to, from));
            }
            state.handle_paths_changed();
        });
    }

    /// Heals every cut.
    pub fn heal_all(&self) {
        self.inner.change(|state| {
            state.cuts.clear();
            state.handle_paths_changed();
        });
    }

    /// Freezes a node, as SIGSTOP does: nothing reaches it and nothing leaves it, and dials to it are accepted and
    /// never answered. Its own tasks go on, but what they send waits.
    pub fn freeze(&self, node: &NodeName) {
        self.inner.change(|state| state.freeze(node));
    }

    /// Lets a frozen node go on: what waited for it and from it goes its way, late.
    pub fn thaw(&self, node: &NodeName) {
        self.inner.change(|state| state.thaw(node));
    }

    /// Ends one run of a node, as `kill -9` does: its sessions end at once, dials to it are refused, and its
    /// transport does nothing ever after.
    pub fn crash(&self, node: &NodeBoot) {
        // Whoever still waits for a reply in the crashed node is woken outside the lock.
        drop(self.inner.change(|state| state.crash(node)));
    }

    /// Ends every node. Nodes whose handlers hold their transports live until then.
    pub fn end(&self) {
        drop(self.inner.change(State::end_all));
    }

    /// Breaks the session between two nodes, if there is one; they find each other again.
    pub fn break_session(&self, one: &NodeName, other: &NodeName) {
        self.inner.change(|state| state.break_session(one, other));
    }
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("World")
    }
}

fn pairs(some: &[NodeName], others: &[NodeName]) -> Vec<(NodeName, NodeName)> {
    let with = |one: &NodeName| others.iter().map(|other| (one.clone(), other.clone())).collect::<Vec<_>>();
    some.iter().flat_map(with).collect()
}

/// One node's port to the world.
struct Simulated {
    world: Arc<Inner>,
    index: usize,
    local: NodeBoot,
}

impl Port for Simulated {
    fn local(&self) -> &NodeBoot {
        &self.local
    }

    fn start(&self) {
        self.world.change(|state| {
            state.nodes[self.index].started = true;
            state.plan_dials(self.index);
        });
    }

    fn stop(&self) -> BoxFuture<'_, ()> {
        let waiting = self.world.change(|state| state.stop(self.index));
        drop(waiting);
        async {}.boxed()
    }

    fn subscribe(&self, subscriber: Subscriber) {
        self.world.change(|state| state.subscribe(self.index, subscriber));
    }

    fn sessions(&self) -> Vec<Session> {
        self.world.lock().sessions(self.index)
    }

    fn on_control(&self, channel: Channel, handler: Handler) {
        self.world.lock().nodes[self.index].handlers[channel as usize] = Some(handler);
    }

    fn cast(&self, to: &NodeName, channel: Channel, body: &[u8]) -> Result<(), SendError> {
        self.world.change(|state| state.cast(self.index, to, channel, body))
    }

    fn serve(&self, service: Service, server: Arc<dyn Serve>) {
        self.world.lock().nodes[self.index].servers[service as usize] = Some(server);
    }

    fn request(
        &self,
        to: &NodeName,
        service: Service,
        deadline: Deadline,
        encode: &mut dyn FnMut(&mut BytesMut),
        done: Done,
    ) {
        let mut body = BytesMut::new();
        encode(&mut body);
        let within = deadline.within();
        let refused =
            self.world.change(|state| state.request(self.index, to, service, within, body.freeze(), done));
        if let Err((error, done)) = refused {
            done.complete(Err(error.into()));
        }
    }

    fn serve_bulk(&self, service: Service, server: Arc<dyn ServeBulk>) {
        self.world.lock().nodes[self.index].bulk_servers[service as usize] = Some(server);
    }

    fn open_bulk(
        &self,
        to: &NodeName,
        service: Service,
        header: Bytes,
    ) -> BoxFuture<'_, Result<BulkSink, LaneError>> {
        let opened = driver::open_bulk(&self.world, self.index, to, service, header);
        async move { opened }.boxed()
    }

    fn meet(&self, address: &str) {
        self.world.change(|state| {
            let now = state.moment();
            state.nodes[self.index].dialling.handle_meet(now, address);
            state.plan_dials(self.index);
        });
    }

    fn remember(&self, node: &NodeName, address: &str) {
        self.world.change(|state| {
            let now = state.moment();
            state.nodes[self.index].dialling.handle_remember(now, node, address);
            state.plan_dials(self.index);
        });
    }

    fn unmeet(&self, address: &str) {
        self.world.lock().nodes[self.index].dialling.handle_unmeet(address);
    }

    fn forget(&self, node: &NodeName) {
        self.world.lock().nodes[self.index].dialling.handle_forget(node);
    }

    fn disconnect(&self, peer: &NodeBoot) {
        self.world.change(|state| state.disconnect(self.index, peer));
    }

    fn probe(&self, address: String, within: Duration) -> BoxFuture<'_, Probe> {
        let (found, after) = self.world.lock().probe(self.index, &address, within);
        async move {
            tokio::time::sleep(after).await;
            found
        }
        .boxed()
    }

    fn counts(&self) -> Counts {
        self.world.lock().nodes[self.index].counts
    }
}
