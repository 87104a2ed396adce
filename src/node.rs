//! One node of a cluster, as users hold it.
//!
//! ```text
//!  Node::builder ─▶ Config ─▶ ports bound ─▶ runtime ─▶ HTTP ─▶ Node
//!                                                                │ call · partitions · names · subscribe · stop
//!                                                                ▼
//!                                                         drop: nothing stops, `stop` does
//! ```

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio_util::sync::CancellationToken;
use tumen_actors::codec;
use tumen_actors::node::{NotReady, Runtime};
use tumen_actors::partitions::router::CallOptions;
use tumen_core::cluster::asks::{Answer, Ask};
use tumen_core::cluster::coordinator::Create;
use tumen_core::partitions::request::{Failure, MessageId};
use tumen_core::{Kind, NodeBoot, NodeName, PartitionId};

use crate::config::Config;
use crate::error::{Error, Result};
use crate::http::Server;
use crate::kv::check_key;
use crate::names::ReadArgs;
use crate::worker::{Message, encode};

mod builder;
mod cluster_wide;
mod comparing;
mod discover;
mod events;
mod group;
mod health;
mod losses;
mod meta;
mod name_news;
mod names;
mod orders;
mod partitions;
mod reading;
mod settings;
mod singletons;
mod start;
mod subscription;
mod topic;

pub use builder::{Builder, Knobs};
pub use cluster_wide::{ConfigEvent, ConfigValue, Reported};
pub use comparing::{Comparison, FullSync};
pub(crate) use events::NotKept;
pub use events::Told;
pub use group::{Gathered, Group, Sent};
pub use name_news::NameEvent;
pub use names::{ChildCounts, ChildInfo, Registered};
pub use orders::{Created, Rebalanced};
pub use partitions::{Partition, PartitionStats, Replicas};
pub use reading::{Placed, ReplicaRead};
pub use subscription::{AssignmentsUpdated, News, Subscription};
pub(crate) use topic::Say;
pub use topic::{Heard, TOPIC_NAME_LEN_MAX, Taken, Topic, TopicSubscription};

/// How often readiness is looked at while it is waited for.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// The least time that HTTP answers under way have to end, however long the node took to hand over.
const HTTP_STOP_MIN: Duration = Duration::from_millis(500);

/// A running node. Cheap to clone. It runs until [`Node::stop`], not until its last handle is dropped.
///
/// A process has at most one node on the real network.
#[derive(Clone)]
pub struct Node {
    inner: Arc<Inner>,
}

struct Inner {
    config: Config,
    runtime: Runtime,
    /// How the arguments of each kind of child that this node has a factory for are read.
    read_args: BTreeMap<Kind, ReadArgs>,
    /// Ends what the doors do beside the runtime.
    stopping: CancellationToken,
    /// The cluster port: opened first and closed last, so that an address that refuses proves that its process is gone.
    listener: Mutex<Option<std::net::TcpListener>>,
    http: OnceLock<Server>,
    /// What happens, numbered.
    news: events::News,
}

impl Node {
    /// A node of the cluster `cluster` that is called `name`. The name survives restarts; no two living nodes of a
    /// cluster have the same. What is wrong with either is told by [`Builder::start`], as with all knobs.
    ///
    /// ```no_run
    /// # use tumen::prelude::*;
    /// # #[tokio::main]
    /// # async fn main() -> Result<()> {
    /// let node = Node::builder("shop", "node-1").listen("127.0.0.1:7100").partitions(64).start().await?;
    /// node.ready().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn builder(cluster: impl Into<String>, name: impl Into<String>) -> Builder {
        Builder::new(cluster.into(), name.into())
    }

    /// A node whose configuration was resolved elsewhere. Only its workers are left to be told.
    pub const fn configured(config: Config) -> Builder<Config> {
        Builder::configured(config)
    }

    /// Which run of which node this is.
    pub fn id(&self) -> &NodeBoot {
        self.inner.runtime.id()
    }

    /// The node's name.
    pub fn name(&self) -> &NodeName {
        &self.id().node
    }

    /// Everything that was set about this node.
    pub fn config(&self) -> &Config {
        &self.inner.config
    }

    /// Where other nodes reach its cluster port, as `host:port`.
    pub fn address(&self) -> &str {
        &self.inner.runtime.info().address
    }

    /// Where its HTTP interface listens, if it has one.
    pub fn http_address(&self) -> Option<SocketAddr> {
        self.inner.http.get().map(Server::address)
    }

    /// Whether the node hosts workers of this kind.
    pub fn hosts(&self, kind: &str) -> bool {
        self.runtime().info().services.iter().any(|hosted| hosted == kind)
    }

    /// How the arguments of a kind of child are read, if this node has a factory for it.
    pub(crate) fn read_args(&self, kind: &Kind) -> Option<ReadArgs> {
        self.inner.read_args.get(kind).copied()
    }

    /// What happens, numbered and kept for a while.
    pub(crate) fn news(&self) -> &events::News {
        &self.inner.news
    }

    pub(crate) fn runtime(&self) -> &Runtime {
        &self.inner.runtime
    }

    /// Waits until the node is a member, has a plan and a lease, and runs all its partitions. There is no deadline: a
    /// node that was told of seeds waits for them. [`Node::not_ready`] tells what it waits for.
    ///
    /// # Errors
    /// When the node stops meanwhile, or ends by itself: as one does that every seed has refused for ten seconds, for a
    /// reason that does not pass, such as another cookie.
    pub async fn ready(&self) -> Result<()> {
        let ready = async {
            let mut progress = self.runtime().progress();
            loop {
                match self.runtime().ready() {
                    Ok(()) => return Ok(()),
                    Err(NotReady::Stopping) => return Err(Error::Stopped),
                    // Whatever is missing may come without progress of the partitions, such as the lease.
                    Err(_) => drop(tokio::time::timeout(LOOK_EVERY, progress.changed()).await),
                }
            }
        };
        tokio::select! {
            ready = ready => ready,
            ended = self.ended() => ended.and(Err(Error::Stopped)),
        }
    }

    /// Why the node does not serve all that it should, if so. It goes on trying by itself.
    pub fn not_ready(&self) -> Option<NotReady> {
        self.runtime().ready().err()
    }

    /// The same for people, with what has to happen first.
    pub(crate) fn waits_for(&self) -> Option<String> {
        let why = self.not_ready()?;
        let (there, wanted) = (self.live_nodes().len(), self.config().min_nodes as usize);
        Some(match why {
            NotReady::NoPlan(_) if there < wanted => {
                format!("no partitions exist yet: {there} of {wanted} nodes are there (--min-nodes {wanted})")
            }
            NotReady::NoPlan(why) if self.config().create == Create::Manual => {
                format!("no partitions exist yet: they are created by POST /partitions ({why})")
            }
            why => why.to_string(),
        })
    }

    /// Asks the worker that serves `key`, wherever it runs, and waits for its answer.
    ///
    /// The message's type names the worker's kind. The call is sent again by itself, within
    /// [`Config::call_deadline`](crate::config::Config), as long as it surely was not carried out, or carrying it out
    /// twice does no harm ([`Message::IDEMPOTENT`]).
    ///
    /// # Errors
    /// [`Error::Call`] with a [`Failure`], which says what to do next; [`Error::changed`] says whether anything may have
    /// changed. [`Error::Key`] if the key is empty or longer than 64 KiB.
    pub fn call<M: Message>(
        &self,
        key: impl AsRef<[u8]>,
        message: M,
    ) -> impl Future<Output = Result<M::Reply>> {
        self.call_with(key, message, self.call_options())
    }

    /// The same with a deadline of its own, or sent again where it may have been carried out.
    ///
    /// # Errors
    /// As [`Node::call`].
    pub fn call_with<M: Message>(
        &self,
        key: impl AsRef<[u8]>,
        message: M,
        options: CallOptions,
    ) -> impl Future<Output = Result<M::Reply>> {
        // Nothing is sent before the future is polled. The message is bytes before, for an `async fn` would carry it along
        // twice, and what many calls under way carry does not fit into a core's cache.
        let told = check_key(key.as_ref()).and_then(|()| envelope(&message));
        drop(message);
        async move {
            let (id, body) = told?;
            self.check_not_lost(|| self.partition_of(key.as_ref()))?;
            let reply = self.runtime().router().call(key.as_ref(), id, body, allowing::<M>(options)).await;
            self.explained(&reply, || self.partition_of(key.as_ref()))?;
            opened::<M>(reply)
        }
    }

    /// Asks the worker of one partition: for what concerns all its keys.
    ///
    /// # Errors
    /// As [`Node::call`]; a partition that does not exist is [`Error::NotFound`].
    pub async fn call_partition<M: Message>(&self, partition: PartitionId, message: M) -> Result<M::Reply> {
        self.check_partition(partition)?;
        let (id, body) = envelope(&message)?;
        self.check_not_lost(|| Ok(partition))?;
        let options = allowing::<M>(self.call_options());
        let reply = self.runtime().router().call_partition(partition, id, body, options).await;
        self.explained(&reply, || Ok(partition))?;
        opened::<M>(reply)
    }

    /// Whether there may be such a partition.
    fn check_partition(&self, partition: PartitionId) -> Result<()> {
        if self.snapshot().is_some_and(|plan| plan.assignment(partition).is_none()) {
            return Err(Error::NotFound(format!("there is no partition {partition}")));
        }
        Ok(())
    }

    fn partition_of(&self, key: &[u8]) -> Result<PartitionId> {
        Ok(self.partition_for_key(key)?.id)
    }

    /// What [`Node::call`] uses: the configured deadline.
    pub fn call_options(&self) -> CallOptions {
        CallOptions { within: self.config().call_deadline, ..CallOptions::default() }
    }

    /// Stops in good order: hands over what the node serves and leads, gives its lease back, and ends. Others know at
    /// once. What is not handed over within [`Config::stop_deadline`](crate::config::Config) they take over after it.
    pub async fn stop(&self) {
        let begun = Instant::now();
        self.inner.stopping.cancel();
        // HTTP goes on meanwhile: `GET /ready` says no, and everything else is still answered, by others' workers.
        self.runtime().stop().await;
        if let Some(http) = self.inner.http.get() {
            let left = self.config().stop_deadline.saturating_sub(begun.elapsed());
            http.stop(left.max(HTTP_STOP_MIN)).await;
        }
        drop(self.inner.listener.lock().unwrap_or_else(PoisonError::into_inner).take());
    }

    /// Waits until the node has ended: because it was stopped, or, which is an error, because an actor of it failed again
    /// and again.
    ///
    /// # Errors
    /// [`Error::Ended`] tells what failed. Others take over what the node served once its lease has run out.
    pub async fn ended(&self) -> Result<()> {
        self.runtime().ended().await.map_or(Ok(()), |why| Err(Error::Ended(why)))
    }

    /// Waits for Ctrl-C or SIGTERM, and stops in good order. A second signal meanwhile ends the process at once.
    ///
    /// # Errors
    /// If signals cannot be waited for, or the node ended by itself; see [`Node::ended`].
    pub async fn run_until_signal(&self) -> Result<()> {
        let mut signals =
            Signals::new().map_err(|why| Error::System { what: "signals cannot be received", why })?;
        tokio::select! {
            () = signals.next() => {}
            ended = self.ended() => {
                self.stop().await;
                return ended;
            }
        }
        tracing::info!(node = %self.id(), "stopping");
        tokio::select! {
            () = self.stop() => Ok(()),
            () = signals.next() => {
                tracing::warn!("stopped at once");
                std::process::exit(130)
            }
        }
    }

    /// Asks the cluster's leader.
    pub(crate) async fn ask(&self, ask: Ask, within: Duration) -> Result<Answer> {
        Ok(self.runtime().ask(ask, within).await?)
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Node({})", self.id())
    }
}

/// A message's id and bytes.
pub(crate) fn envelope<M: Message>(message: &M) -> Result<(MessageId, Bytes)> {
    let name = M::name();
    let body = encode(message).map_err(|why| Error::rejected(format!("the message {name:?} {why}")))?;
    Ok((MessageId::of(name), body))
}

fn allowing<M: Message>(options: CallOptions) -> CallOptions {
    CallOptions { idempotent: options.idempotent || M::IDEMPOTENT, ..options }
}

/// A reply as a value.
pub(crate) fn opened<M: Message>(reply: Result<Bytes, Failure>) -> Result<M::Reply> {
    let name = M::name();
    let body = reply.map_err(|failure| match failure {
        // The receiver knows the number only.
        Failure::Rejected(why) => Failure::Rejected(why.replace(&MessageId::of(name).to_string(), name)),
        other => other,
    })?;
    codec::decode_body(&body)
        .map_err(|why| Error::failed(format!("its reply to {name:?} cannot be read: {why}")))
}

/// Ctrl-C and SIGTERM.
struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
