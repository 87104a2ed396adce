//! Transport: how nodes find, know and hear each other. A port with two adapters.
//!
//! ```text
//!                    Transport (this file: a cheap handle, the same over both)
//!                    │
//!          ┌─────────┴──────────┐
//!       network             simulated        one process, tokio's clock, a seed
//!       │
//!       ├ listener      one port: preface, mutual proof of the cookie, greeting, limits
//!       ├ dialer        meets seeds, calls known nodes back, waits longer each time
//!       ├ control lane  ractor_cluster: gossip, leases, Raft, topics       small, in order, casts
//!       ├ data lane     framed TCP: calls, the users' topics               answered, or failed
//!       └ bulk          a connection each: copies                          chunks, credits
//! ```
//!
//! Two nodes that know each other share one *session*: a control lane and a data lane. It begins when both
//! are ready ([`Event::SessionUp`]) and ends when either ends ([`Event::SessionDown`]). Whatever a peer sends in
//! a session arrives between those two events, in order within a lane, at most once. A session that ended
//! never comes back: the next one has a larger number.

mod bulk;
mod control_lane;
pub mod copy;
mod data_lane;
mod dialler;
mod link;
mod listener;
pub mod network;
mod outbox;
mod preface;
pub mod request;
pub mod settings;
pub mod simulated;
mod socket;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::future::BoxFuture;
use tokio::sync::oneshot;
use tumen_core::cluster::greeting::{Greeting, Refusal};
use tumen_core::ids::{NodeBoot, NodeName};

pub use copy::{BulkSink, BulkStream, ServeBulk};
pub use request::{Deadline, Done, Failure, Incoming, LaneError, ReplyTo, Responder, Serve};
pub use settings::{Cookie, Settings, SettingsError};

/// What a message on the control lane is about: which handler gets it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Channel {
    /// Discovery and suspicion.
    Gossip = 1,
    /// Leases: requests, grants, releases.
    Lease = 2,
    /// Consensus.
    Raft = 3,
    /// Publish and subscribe.
    Topic = 4,
    /// News and orders between the leader and the nodes.
    Coordinator = 5,
    /// Catching up with committed plans.
    Sync = 6,
    /// Names, children and singletons.
    Names = 7,
    /// What the users' own code sends.
    Application = 8,
}

/// How many channels there are, counting the one that is the transport's own.
pub(crate) const CHANNELS: usize = 9;

impl Channel {
    pub(crate) const fn from_wire(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Gossip,
            2 => Self::Lease,
            3 => Self::Raft,
            4 => Self::Topic,
            5 => Self::Coordinator,
            6 => Self::Sync,
            7 => Self::Names,
            8 => Self::Application,
            _ => return None,
        })
    }
}

/// What a request or a copy is for: which server gets it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Service {
    /// Calls to partition workers.
    Partition = 1,
    /// Questions to the leader, and plans pulled by version.
    Coordinator = 2,
    /// Consensus messages that want an answer or are too long for the control lane.
    Raft = 3,
    /// A primary's log to its replicas.
    Replication = 4,
    /// Tails of the directories.
    Directory = 5,
    /// A partition's move.
    Handover = 6,
    /// Orders to supervisors on other nodes.
    Supervision = 7,
    /// What the users' own code asks.
    Application = 8,
    /// Reads that any copy may answer.
    Replica = 9,
    /// The cluster's own configuration: writes, and what a node that lags lacks of it.
    Configuration = 10,
    /// The users' own topics and groups: announcements and messages.
    Exchange = 11,
}

/// One more than the largest number of a service.
pub(crate) const SERVICES: usize = 12;

impl Service {
    pub(crate) const fn from_wire(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Partition,
            2 => Self::Coordinator,
            3 => Self::Raft,
            4 => Self::Replication,
            5 => Self::Directory,
            6 => Self::Handover,
            7 => Self::Supervision,
            8 => Self::Application,
            9 => Self::Replica,
            10 => Self::Configuration,
            11 => Self::Exchange,
            _ => return None,
        })
    }
}

/// The most bytes that one message on the control lane may have. What is longer goes over the data lane.
pub const CONTROL_LEN_MAX: usize = 1 << 20;
/// The most bytes that one request or reply on the data lane may have. What is longer goes as a copy.
pub const DATA_LEN_MAX: usize = 16 << 20;
/// The most bytes that one chunk of a copy may have, so that nothing waits long behind it.
pub const CHUNK_LEN_MAX: usize = 256 << 10;

/// Two nodes' time together, as one of them counts it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// The other node, and which run of it.
    pub peer: NodeBoot,
    /// Which session: this node's own count over all peers, so that old news is recognised.
    pub number: u64,
}

/// What happened to this node's sessions. One subscriber hears it, in order.
#[derive(Clone, Debug)]
pub enum Event {
    /// Both lanes to a peer are ready. Nothing from it was handed on before this.
    SessionUp {
        /// Who the peer is, as it said itself.
        peer: Box<Greeting>,
        /// This node's number of the session.
        session: u64,
    },
    /// The session is over, both lanes. Nothing of it is handed on after this.
    SessionDown {
        /// Who the peer was.
        peer: NodeBoot,
        /// This node's number of the session.
        session: u64,
        /// Why it ended.
        reason: DownReason,
    },
    /// Two nodes spoke and do not become peers.
    Refused {
        /// The address that was dialled, or that the caller called from.
        address: String,
        /// Why.
        refusal: Refusal,
        /// Whether this node refused the other; else it was refused.
        by_us: bool,
    },
    /// Nobody could be spoken to at this address. It is dialled again later.
    DialFailed {
        /// The address that was dialled.
        address: String,
        /// The node that is expected there, if one is.
        node: Option<NodeName>,
        /// What became of the dial.
        probe: Probe,
        /// How often in a row this has failed.
        attempt: u32,
    },
}

/// Why a session ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DownReason {
    /// The peer's side closed: its process stopped, crashed, or ended this session for a reason of its own.
    Closed,
    /// Nothing was heard for [`Settings::silent_after`]. That is a suspicion, not a proof.
    Silence,
    /// A newer session with the same peer took over.
    Replaced,
    /// This node asked for it.
    Disconnected,
    /// This node's transport stopped.
    Stopped,
    /// The peer broke the protocol.
    Broken(String),
}

impl fmt::Display for DownReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => f.write_str("closed by the peer"),
            Self::Silence => f.write_str("nothing was heard"),
            Self::Replaced => f.write_str("replaced by a newer session"),
            Self::Disconnected => f.write_str("disconnected by this node"),
            Self::Stopped => f.write_str("this node's transport stopped"),
            Self::Broken(why) => write!(f, "the peer broke the protocol: {why}"),
        }
    }
}

/// What a dial found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Probe {
    /// The dial was refused at once: nobody listens there.
    Refused,
    /// Somebody listens there. It may be frozen, or somebody else.
    Accepted,
    /// No answer within the deadline, or no way there: nothing is known.
    Silent,
}

/// Why nothing was sent. Nothing changed anywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// There is no session with that node.
    #[error("there is no session with that node: wait until it is up, or ask another")]
    NoSession,
    /// As much as is allowed is under way to that node.
    #[error("too much is under way to that node: try again later")]
    Overloaded,
    /// The message is too long for this lane.
    #[error("a message of {len} bytes, at most {max} are taken here")]
    TooLong {
        /// The message's length.
        len: usize,
        /// The most that is taken.
        max: usize,
    },
}

/// Gets what arrives on one channel: in order per session, on the transport's own thread of work, so it
/// must be quick and must not block: hand it on to an actor. If it panics, the message is lost, no more.
pub type Handler = Arc<dyn Fn(&Session, Bytes) + Send + Sync>;

/// Gets this node's session events, in order. The same manners as for a [`Handler`].
pub type Subscriber = Arc<dyn Fn(Event) + Send + Sync>;

/// Says what this node is at the present moment: the first words to every peer.
pub type Greet = Arc<dyn Fn() -> Greeting + Send + Sync>;

/// What the transport counted since it started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Connections that were closed because of what they sent, or because they sent nothing.
    pub hostile: u64,
    /// Connections that were refused with a reason.
    pub refused: u64,
    /// Messages of the control lane that nobody here handles.
    pub unhandled: u64,
    /// Messages and requests that were not sent because too much was under way.
    pub overloaded: u64,
}

/// What an adapter does. [`Transport`] is what everybody else holds.
pub trait Port: Send + Sync + 'static {
    /// This node, and which run of it.
    fn local(&self) -> &NodeBoot;
    /// See [`Transport::start`].
    fn start(&self);
    /// See [`Transport::stop`].
    fn stop(&self) -> BoxFuture<'_, ()>;
    /// See [`Transport::subscribe`].
    fn subscribe(&self, subscriber: Subscriber);
    /// See [`Transport::sessions`].
    fn sessions(&self) -> Vec<Session>;
    /// See [`Transport::on_control`].
    fn on_control(&self, channel: Channel, handler: Handler);
    /// See [`Transport::cast`].
    fn cast(&self, to: &NodeName, channel: Channel, body: &[u8]) -> Result<(), SendError>;
    /// See [`Transport::serve`].
    fn serve(&self, service: Service, server: Arc<dyn Serve>);
    /// See [`Transport::request`].
    fn request(
        &self,
        to: &NodeName,
        service: Service,
        deadline: Deadline,
        encode: &mut dyn FnMut(&mut BytesMut),
        done: Done,
    );
    /// See [`Transport::serve_bulk`].
    fn serve_bulk(&self, service: Service, server: Arc<dyn ServeBulk>);
    /// See [`Transport::open_bulk`].
    fn open_bulk(
        &self,
        to: &NodeName,
        service: Service,
        header: Bytes,
    ) -> BoxFuture<'_, Result<BulkSink, LaneError>>;
    /// See [`Transport::meet`].
    fn meet(&self, address: &str);
    /// See [`Transport::unmeet`].
    fn unmeet(&self, address: &str);
    /// See [`Transport::remember`].
    fn remember(&self, node: &NodeName, address: &str);
    /// See [`Transport::forget`].
    fn forget(&self, node: &NodeName);
    /// See [`Transport::disconnect`].
    fn disconnect(&self, peer: &NodeBoot);
    /// See [`Transport::probe`].
    fn probe(&self, address: String, within: Duration) -> BoxFuture<'_, Probe>;
    /// See [`Transport::counts`].
    fn counts(&self) -> Counts;
}

/// One node's way to the others. Cheap to clone.
#[derive(Clone)]
pub struct Transport {
    port: Arc<dyn Port>,
}

impl Transport {
    /// A transport over this adapter.
    pub fn new(port: Arc<dyn Port>) -> Self {
        Self { port }
    }

    /// Begins to accept and to dial. Until then handlers and servers can be put in place; callers wait.
    pub fn start(&self) {
        self.port.start();
    }

    /// Ends every session and dials no more. What was cast before still reaches every peer that listens. The
    /// listening socket stays with its owner.
    pub async fn stop(&self) {
        self.port.stop().await;
    }

    /// This node, and which run of it.
    pub fn local(&self) -> &NodeBoot {
        self.port.local()
    }

    /// Makes `subscriber` the one that hears of sessions. It is told first of every session that is up.
    pub fn subscribe(&self, subscriber: Subscriber) {
        self.port.subscribe(subscriber);
    }

    /// The sessions that are up, sorted by peer.
    pub fn sessions(&self) -> Vec<Session> {
        self.port.sessions()
    }

    /// Makes `handler` the one that gets what arrives on `channel`. A later one replaces it.
    pub fn on_control(&self, channel: Channel, handler: Handler) {
        self.port.on_control(channel, handler);
    }

    /// Sends `body` to `to` over the control lane: in order, at most once, and never waiting. `Ok` means that
    /// it is under way, not that it arrived: whoever needs to know numbers its messages and gets answers.
    pub fn cast(&self, to: &NodeName, channel: Channel, body: &[u8]) -> Result<(), SendError> {
        if body.len() > CONTROL_LEN_MAX {
            return Err(SendError::TooLong { len: body.len(), max: CONTROL_LEN_MAX });
        }
        self.port.cast(to, channel, body)
    }

    /// Makes `server` the one that serves `service`. A later one replaces it.
    pub fn serve(&self, service: Service, server: Arc<dyn Serve>) {
        self.port.serve(service, server);
    }

    /// Asks `to`. `encode` appends the request to the connection's buffer, under its lock; `done` runs exactly
    /// once: in the connection's reader with the reply, or wherever it becomes known that there will be none, which
    /// may be here and now. So it must be quick, must not block, and must take no lock that the caller holds.
    pub fn request(
        &self,
        to: &NodeName,
        service: Service,
        within: Duration,
        encode: impl FnOnce(&mut BytesMut),
        done: impl FnOnce(Result<Bytes, LaneError>) + Send + 'static,
    ) {
        let mut encode = Some(encode);
        let mut encode = |buffer: &mut BytesMut| {
            if let Some(encode) = encode.take() {
                encode(buffer);
            }
        };
        self.port.request(to, service, Deadline::after(within), &mut encode, Done::Run(Box::new(done)));
    }

    /// Asks `to` and waits for the reply, at most for `within`.
    pub async fn call(
        &self,
        to: &NodeName,
        service: Service,
        within: Duration,
        encode: impl FnOnce(&mut BytesMut),
    ) -> Result<Bytes, LaneError> {
        let reply = self.ask(to, service, Deadline::after(within), encode);
        reply.await.unwrap_or(Err(LaneError::Lost { maybe_delivered: true }))
    }

    /// Asks `to`, here and now, and gives back where the reply will come. Something always comes; should the sender be
    /// dropped all the same, that is [`LaneError::Lost`].
    pub fn ask(
        &self,
        to: &NodeName,
        service: Service,
        deadline: Deadline,
        encode: impl FnOnce(&mut BytesMut),
    ) -> oneshot::Receiver<Result<Bytes, LaneError>> {
        let (caller, reply) = oneshot::channel();
        let mut encode = Some(encode);
        let mut encode = |buffer: &mut BytesMut| {
            if let Some(encode) = encode.take() {
                encode(buffer);
            }
        };
        self.port.request(to, service, deadline, &mut encode, Done::Wake(caller));
        reply
    }

    /// Makes `server` the one that takes copies for `service`. A later one replaces it.
    pub fn serve_bulk(&self, service: Service, server: Arc<dyn ServeBulk>) {
        self.port.serve_bulk(service, server);
    }

    /// Begins a copy to `to`. `header`, at most [`CHUNK_LEN_MAX`] bytes, says what it is.
    pub async fn open_bulk(
        &self,
        to: &NodeName,
        service: Service,
        header: Bytes,
    ) -> Result<BulkSink, LaneError> {
        if header.len() > CHUNK_LEN_MAX {
            return Err(SendError::TooLong { len: header.len(), max: CHUNK_LEN_MAX }.into());
        }
        self.port.open_bulk(to, service, header).await
    }

    /// Dials `address` again and again, waiting longer each time, until some node is known there.
    pub fn meet(&self, address: &str) {
        self.port.meet(address);
    }

    /// Knows that `node` is found at `address`, and dials it whenever there is no session with it. Of two nodes that
    /// remember each other the one with the smaller name dials first; the other one only after
    /// [`Settings::patience`], because a node that was restarted may remember nobody.
    pub fn remember(&self, node: &NodeName, address: &str) {
        self.port.remember(node, address);
    }

    /// Nobody is to be met at `address` any more: it is dialled no more. Sessions go on, and so does what is dialled under
    /// a node's name.
    pub fn unmeet(&self, address: &str) {
        self.port.unmeet(address);
    }

    /// Dials `node` no more. A session with it goes on.
    pub fn forget(&self, node: &NodeName) {
        self.port.forget(node);
    }

    /// Ends the session with this run of a node, if there is one.
    pub fn disconnect(&self, peer: &NodeBoot) {
        self.port.disconnect(peer);
    }

    /// Dials `address` once, says nothing, and tells what it found. [`Probe::Refused`] from the address that a process
    /// listened on, opened first and closed last, proves that it is gone, where the network does not lie.
    pub async fn probe(&self, address: &str, within: Duration) -> Probe {
        self.port.probe(address.to_owned(), within).await
    }

    /// What was counted since the start.
    pub fn counts(&self) -> Counts {
        self.port.counts()
    }
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Transport({})", self.port.local())
    }
}
