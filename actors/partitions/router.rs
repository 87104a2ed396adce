//! Finds whoever serves a key, here or elsewhere, and brings the answer back.
//!
//! ```text
//!  call ─▶ table ─┬─ served here ─▶ seat ─▶ mailbox ─────────────────┐
//!                 └─ elsewhere ───▶ data lane ─▶ their seat ─▶ mailbox ┴─▶ reply
//!                       ▲                                   │
//!                       └── Stale, NotReady: wait for a newer plan, ask again, within the deadline
//! ```
//!
//! The table is swapped whole. A request carries the fence that its sender believes in, and the receiver checks
//! it: so a table may be out of date, and nothing is ever answered by the wrong worker.
//!
//! What a replicated worker is to do once carries an identity, by which its partition knows it again ([`once`]).

mod bringing;
mod conversation;
mod once;
mod router_actor;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::{BufMut, Bytes};
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;
use tumen_core::cluster::snapshot::Snapshot;
use tumen_core::ids::{GroupId, NodeBoot, NodeName, PartitionId, Version};
use tumen_core::partitions::fence::Fence;
use tumen_core::partitions::identity::{Identity, KeyDigest, KeyLenError, Position};
use tumen_core::partitions::request::{BODY_LEN_MAX, Failure, Header, MessageId, Reply};
use tumen_core::partitions::routing::{RouteError, RoutingTable};

use self::bringing::Bringing;
pub use self::bringing::Brought;
use self::conversation::Conversations;
pub use self::router_actor::{RouterActor, RouterMsg};
use super::delivery::{self, Delivery, Told};
use super::gate::Gate;
use super::host::{Effect, KindsByGroup};
use super::read_table::{Mailbox, ReadTable};
use crate::transport::{Deadline, Incoming, LaneError, Serve, Service, Transport};

/// The first wait before a call is tried again; it doubles up to [`RETRY_WAIT_MAX`]. A newer plan ends it.
const RETRY_WAIT: Duration = Duration::from_millis(1);
/// The longest wait before a call is tried again.
const RETRY_WAIT_MAX: Duration = Duration::from_millis(50);
/// How often sessions are looked after.
const TICK_EVERY: Duration = Duration::from_secs(1);

/// How a call is sent.
#[derive(Clone, Copy, Debug)]
pub struct CallOptions {
    /// How long the caller waits, over all tries. Default 5 s.
    pub within: Duration,
    /// Whether the message may be carried out twice without harm. Then it is sent again also where a first
    /// try may have been carried out, as when its node died. What replicated workers do is sent again in any case: they
    /// know it, and do it once.
    pub idempotent: bool,
    /// By what a replicated worker knows the message again, from whichever node it comes. Without one, what this node
    /// sends again by itself is known all the same.
    pub idempotency_key: Option<IdempotencyKey>,
}

impl Default for CallOptions {
    fn default() -> Self {
        Self { within: Duration::from_secs(5), idempotent: false, idempotency_key: None }
    }
}

/// A name for one message, of its sender's choosing: sent again with it, the message takes effect once, and is answered
/// the same. It is remembered for an hour at least. Another message with the same key is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
// As bytes, for a number would widen every call that is under way.
pub struct IdempotencyKey([u8; 16]);

impl IdempotencyKey {
    /// A key of 1 to 255 bytes.
    ///
    /// # Errors
    /// It has another length.
    pub fn new(key: impl AsRef<[u8]>) -> Result<Self, KeyLenError> {
        Ok(Self(KeyDigest::of(key.as_ref())?.0.to_le_bytes()))
    }

    const fn digest(self) -> KeyDigest {
        KeyDigest(u128::from_le_bytes(self.0))
    }
}

/// The way to every worker. Cheap to clone.
#[derive(Clone)]
pub struct Router {
    shared: Arc<Shared>,
}

struct Shared {
    me: NodeBoot,
    table: ArcSwap<RoutingTable>,
    version: watch::Sender<Version>,
    seats: ReadTable,
    kinds: KindsByGroup,
    gate: Gate,
    transport: Transport,
    conversations: Conversations,
    bringing: Bringing,
}

impl Router {
    /// A router that knows no plan yet. It serves other nodes' calls from now on.
    pub fn new(
        me: NodeBoot,
        seats: ReadTable,
        kinds: KindsByGroup,
        gate: Gate,
        transport: Transport,
    ) -> Self {
        let shared = Shared {
            me,
            table: ArcSwap::default(),
            version: watch::Sender::new(Version::ZERO),
            seats,
            kinds,
            gate,
            transport,
            conversations: Conversations::default(),
            bringing: Bringing::default(),
        };
        let router = Self { shared: Arc::new(shared) };
        router.shared.transport.serve(Service::Partition, Arc::new(router.clone()));
        router.shared.transport.serve_bulk(Service::Partition, Arc::new(router.clone()));
        router
    }

    /// The table in force.
    pub fn table(&self) -> arc_swap::Guard<Arc<RoutingTable>> {
        self.shared.table.load()
    }

    /// The table in force, for readers that keep an [`arc_swap::Cache`] of it.
    pub fn table_cell(&self) -> &ArcSwap<RoutingTable> {
        &self.shared.table
    }

    /// The version of the table in force, as it changes.
    pub fn versions(&self) -> watch::Receiver<Version> {
        self.shared.version.subscribe()
    }

    /// Puts the plan's table in force, unless a newer one is.
    fn swap(&self, plan: &Snapshot) {
        if plan.version <= self.shared.table.load().version() {
            return;
        }
        self.shared.table.store(Arc::new(RoutingTable::new(plan)));
        self.shared.version.send_replace(plan.version);
    }

    fn clear(&self) {
        self.shared.table.store(Arc::default());
        // Another cluster numbers its sessions anew. One that begins after this cannot be opened in the cluster that was left,
        // which the table does not show any more; one that is being opened there is over before it is told its number.
        self.shared.conversations.end_all();
        self.shared.version.send_replace(Version::ZERO);
    }

    /// Calls the worker that serves `key` in the users' group.
    ///
    /// # Errors
    /// See [`Failure`]: each says what to do next, and whether anything may have changed.
    pub fn call<'a>(
        &'a self,
        key: &'a [u8],
        message: MessageId,
        body: Bytes,
        options: CallOptions,
    ) -> impl Future<Output = Reply> + Send + use<'a> {
        self.carry_out(Call { target: Target::Key(key), message, body, options, place: None })
    }

    /// The same, and notes in `place` where the last entry stands that the reply rests on, if its worker is replicated.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub fn call_placed<'a>(
        &'a self,
        key: &'a [u8],
        message: MessageId,
        body: Bytes,
        options: CallOptions,
        place: &'a Mutex<Position>,
    ) -> impl Future<Output = Reply> + Send + use<'a> {
        self.carry_out(Call { target: Target::Key(key), message, body, options, place: Some(place) })
    }

    /// Calls the worker of a partition.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub fn call_partition(
        &self,
        partition: PartitionId,
        message: MessageId,
        body: Bytes,
        options: CallOptions,
    ) -> impl Future<Output = Reply> + Send + use<'_> {
        self.carry_out(Call { target: Target::Partition(partition), message, body, options, place: None })
    }

    /// The same of the worker of a partition.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub fn call_partition_placed<'a>(
        &'a self,
        partition: PartitionId,
        message: MessageId,
        body: Bytes,
        options: CallOptions,
        place: &'a Mutex<Position>,
    ) -> impl Future<Output = Reply> + Send + use<'a> {
        self.carry_out(Call {
            target: Target::Partition(partition),
            message,
            body,
            options,
            place: Some(place),
        })
    }

    /// Carries a call out. Its future is kept small, which is why it is no `async fn` (one would keep its arguments twice)
    /// and why what is rare has a place of its own: a thousand calls under way are to fit into a core's cache.
    #[expect(clippy::manual_async_fn, reason = "see above: it makes the future smaller")]
    fn carry_out<'a>(&'a self, call: Call<'a>) -> impl Future<Output = Reply> + Send + use<'a> {
        async move {
            if call.body.len() > BODY_LEN_MAX {
                let len = call.body.len();
                return Err(Failure::Rejected(format!(
                    "a message has at most {BODY_LEN_MAX} bytes, this one has {len}"
                )));
            }
            if self.effect_of(&call) == Effect::Once {
                return self.carry_out_once(call).await;
            }
            if call.options.idempotency_key.is_some() {
                return Err(unknowing());
            }
            let deadline = Deadline::after(call.options.within);
            let (version, asked) = self.ask(&call, None, deadline);
            let failure = match asked {
                Ok(asked) => match call.reply(asked.told(deadline).await) {
                    Ok(reply) => return Ok(reply),
                    Err(failure) => failure,
                },
                Err(failure) => failure,
            };
            Box::pin(self.ask_again(&call, deadline.instant(), version, failure)).await
        }
    }

    /// The first try failed: whether to try again, when, and what to say in the end.
    async fn ask_again(
        &self,
        call: &Call<'_>,
        deadline: Instant,
        mut version: Version,
        mut failure: Failure,
    ) -> Reply {
        let mut pause = Pause::new(deadline);
        let reads = self.effect_of(call) == Effect::None;
        let idempotent = call.options.idempotent || reads;
        // Whether an earlier try of an idempotent call may have been carried out, and changed anything.
        let mut maybe_applied = false;
        loop {
            maybe_applied |= failure.maybe_changed() && !reads;
            let again = match &failure {
                Failure::Stale { .. } | Failure::NotReady | Failure::Fenced { changed: false } => true,
                Failure::Fenced { .. } | Failure::Timeout { maybe_applied: true } => idempotent,
                // The other node is cut off and this one is not: somebody else is about to be primary.
                Failure::NoQuorum => self.shared.gate.is_open(),
                _ => false,
            };
            if !again {
                return Err(failure);
            }
            if self.is_cut_off(version) {
                return Err(if maybe_applied { expired(failure, true) } else { Failure::NoQuorum });
            }
            let Some(left) = pause.wait(self, version, &failure).await else {
                return Err(expired(failure, maybe_applied));
            };
            let (known, asked) = self.ask(call, None, left);
            version = known;
            failure = match asked {
                Ok(asked) => match call.reply(asked.told(left).await) {
                    Ok(reply) => return Ok(reply),
                    Err(failure) => failure,
                },
                Err(failure) => failure,
            };
        }
    }

    /// Whether this node has been cut off for long enough to say so: it waits a little, as for an election.
    fn is_cut_off(&self, version: Version) -> bool {
        let gate = &self.shared.gate;
        !gate.is_open() && gate.refusal() == Failure::NoQuorum && version > Version::ZERO
    }

    /// Asks whoever serves the target by the table in force, here and now, and tells which table that was. The reply is
    /// waited for without the table: a guard of it is cheap only as long as nobody keeps it.
    fn ask(
        &self,
        call: &Call<'_>,
        identity: Option<Identity>,
        deadline: Deadline,
    ) -> (Version, Result<Asked, Failure>) {
        let table = self.shared.table.load();
        let partition = match call.target {
            Target::Key(key) => table.partition_of(GroupId::Users, key),
            Target::Partition(partition) => Ok(partition),
        };
        let (fence, primary) =
            match partition.and_then(|p| Ok((table.fence_of(p)?, table.primary_of(p)?.primary))) {
                Ok(found) => found,
                // There may be a plan, or a primary, before the deadline.
                Err(RouteError::NoPlan | RouteError::NoPrimary(_)) => {
                    return (table.version(), Err(Failure::NotReady));
                }
                Err(error) => return (table.version(), Err(Failure::NoPartition(error.to_string()))),
            };
        let header = Header { fence, message: call.message, identity };
        let asked = if *primary == self.shared.me {
            self.ask_here(header, call.body.clone(), deadline)
        } else {
            self.ask_there(&primary.node, header, &call.body, deadline)
        };
        (table.version(), Ok(asked))
    }

    fn ask_here(&self, header: Header, body: Bytes, deadline: Deadline) -> Asked {
        let (to, reply) = oneshot::channel();
        let delivery = Delivery::local(header.message, body, deadline.instant(), header.identity, to);
        match self.admit(&header) {
            Ok(mailbox) => mailbox.deliver(vec![delivery]).into_iter().for_each(refuse),
            Err(failure) => delivery.answer(Err(failure)),
        }
        Asked::Here(reply)
    }

    fn ask_there(&self, node: &NodeName, header: Header, body: &Bytes, deadline: Deadline) -> Asked {
        let encode = |buffer: &mut bytes::BytesMut| {
            header.encode(buffer);
            buffer.put_slice(body);
        };
        Asked::There(self.shared.transport.ask(node, Service::Partition, deadline, encode))
    }

    /// Whether a call may come in under its fence, and to whom.
    fn admit(&self, header: &Header) -> Result<Mailbox, Failure> {
        self.admit_kind(header.fence, self.kind_for(header.fence.partition.group, header.message)?)
    }

    /// What carrying a call out twice would come to.
    fn effect_of(&self, call: &Call<'_>) -> Effect {
        let group = match call.target {
            Target::Key(_) => GroupId::Users,
            Target::Partition(partition) => partition.group,
        };
        self.shared.kinds.of(group).effect_of(call.message)
    }

    /// Which of the kinds that are hosted here handles messages of this type.
    fn kind_for(&self, group: GroupId, message: MessageId) -> Result<usize, Failure> {
        self.shared
            .kinds
            .of(group)
            .index_for(message)
            .ok_or_else(|| Failure::Rejected(format!("no worker here handles messages of type {message}")))
    }

    fn admit_kind(&self, fence: Fence, kind: usize) -> Result<Mailbox, Failure> {
        let seat = self.shared.seats.seat(fence.partition).filter(|seat| seat.is_open());
        let Some(seat) = seat.filter(|seat| seat.fence() == fence) else {
            // Whoever asks under an older fence than this node knows is to catch up; under a newer one, or
            // the same, this node is not there yet.
            let table = self.shared.table.load();
            let known = table.fence_of(fence.partition).ok();
            let elsewhere = table.primary_of(fence.partition).is_ok_and(|l| *l.primary != self.shared.me);
            let behind = known.is_some_and(|known| known.supersedes(&fence) || (elsewhere && known == fence));
            return Err(if behind { Failure::Stale { version: table.version() } } else { Failure::NotReady });
        };
        if !self.shared.gate.is_open() {
            return Err(self.shared.gate.refusal());
        }
        seat.workers().get(kind).cloned().ok_or(Failure::NotReady)
    }
}

impl std::fmt::Debug for Router {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Router(version {})", self.table().version())
    }
}

/// What somebody wants to be carried out.
struct Call<'a> {
    target: Target<'a>,
    message: MessageId,
    body: Bytes,
    options: CallOptions,
    /// Where to note what the reply rests on, if anybody wants to know.
    place: Option<&'a Mutex<Position>>,
}

impl Call<'_> {
    fn note(&self, told: &Told) {
        if let Some((place, at)) = self.place.zip(told.place()) {
            *place.lock().unwrap_or_else(PoisonError::into_inner) = at;
        }
    }

    fn reply(&self, told: Told) -> Reply {
        self.note(&told);
        told.into_reply()
    }
}

enum Target<'a> {
    Key(&'a [u8]),
    Partition(PartitionId),
}

/// The wait before a call is tried again.
struct Pause {
    deadline: Instant,
    next: Duration,
}

impl Pause {
    const fn new(deadline: Instant) -> Self {
        Self { deadline, next: RETRY_WAIT }
    }

    /// Waits, less long if a newer plan comes meanwhile than that by which the last try failed. `None`: no time is left.
    async fn wait(&mut self, router: &Router, version: Version, failure: &Failure) -> Option<Deadline> {
        // A plan that the receiver has is on its way to this node as well.
        let (newer, longest) = match failure {
            Failure::Stale { version: theirs } if *theirs > version => (*theirs, RETRY_WAIT_MAX),
            _ => (version.next(), self.next),
        };
        let until = self.deadline.min(Instant::now() + longest);
        drop(tokio::time::timeout_at(until, router.versions().wait_for(|known| *known >= newer)).await);
        self.next = (self.next * 2).min(RETRY_WAIT_MAX);
        let left = Deadline::at(self.deadline);
        (!left.within().is_zero()).then_some(left)
    }
}

/// A call that was sent, and where its reply comes.
enum Asked {
    Here(oneshot::Receiver<Told>),
    There(oneshot::Receiver<Result<Bytes, LaneError>>),
}

impl Asked {
    async fn told(self, deadline: Deadline) -> Told {
        match self {
            // A timer is large, and calls under way are to be small: only where it is needed, and in a place of its own.
            Self::Here(told) => match Box::pin(tokio::time::timeout_at(deadline.instant(), told)).await {
                Ok(told) => told.unwrap_or(Told::Reply(Err(Failure::NotReady))),
                Err(_) => Told::Reply(Err(Failure::Timeout { maybe_applied: true })),
            },
            // The lane keeps the deadline, for all its callers together.
            Self::There(reply) => match reply.await.unwrap_or(Err(LaneError::Lost { maybe_delivered: true }))
            {
                Ok(reply) => delivery::read(reply),
                Err(error) => Told::Reply(Err(lane_failure(&error))),
            },
        }
    }
}

/// A key was given for a message whose worker remembers nothing.
fn unknowing() -> Failure {
    let why = "the worker of this message keeps no state, so it cannot know the message again by its idempotency key";
    Failure::Rejected(why.into())
}

fn refuse(delivery: Delivery) {
    delivery.answer(Err(Failure::Overloaded));
}

fn expired(last: Failure, maybe_applied: bool) -> Failure {
    match last {
        // What kept the call from being carried out says more than that time ran out.
        failure if !maybe_applied => match failure {
            Failure::Fenced { .. } | Failure::Stale { .. } => Failure::NotReady,
            // It only reads.
            Failure::Timeout { .. } => Failure::Timeout { maybe_applied: false },
            other => other,
        },
        _ => Failure::Timeout { maybe_applied: true },
    }
}

pub(crate) fn lane_failure(error: &LaneError) -> Failure {
    match error {
        LaneError::PeerOverloaded | LaneError::NotSent(crate::transport::SendError::Overloaded) => {
            Failure::Overloaded
        }
        LaneError::NotSent(crate::transport::SendError::TooLong { .. }) => {
            Failure::Rejected(error.to_string())
        }
        error if error.maybe_delivered() => Failure::Timeout { maybe_applied: true },
        _ => Failure::NotReady,
    }
}

/// What one read brought for one worker.
struct Group {
    admitted: Result<Mailbox, Failure>,
    deliveries: Vec<Delivery>,
}

impl Serve for Router {
    /// Hands all calls of one read on, those for one worker together and in order: the mailbox is the dearest hop, and
    /// whether one may come in is the same for all of them. That it may still answer is seen after the handler ran.
    fn serve(&self, batch: &mut Vec<Incoming>) {
        // By a number first: to compare fences is dear, and is done where they are most likely the same.
        let mut groups: BTreeMap<(u64, Fence), Group> = BTreeMap::new();
        for Incoming { mut body, deadline, reply } in batch.drain(..) {
            let refuse = |to, failure| delivery::send(to, &Told::Reply(Err(failure)));
            let Some(Header { fence, message, identity }) = Header::decode(&mut body) else {
                refuse(reply, Failure::Rejected("the request cannot be read".into()));
                continue;
            };
            let kind = match self.kind_for(fence.partition.group, message) {
                Ok(kind) => kind,
                Err(failure) => {
                    refuse(reply, failure);
                    continue;
                }
            };
            let group = groups
                .entry((u64::from(fence.partition.index) << 32 | kind as u64, fence))
                .or_insert_with(|| Group { admitted: self.admit_kind(fence, kind), deliveries: Vec::new() });
            match &group.admitted {
                Ok(_) => group.deliveries.push(Delivery::remote(message, body, deadline, identity, reply)),
                Err(failure) => refuse(reply, failure.clone()),
            }
        }
        for Group { admitted, deliveries } in groups.into_values() {
            if let Ok(mailbox) = admitted {
                mailbox.deliver(deliveries).into_iter().for_each(refuse);
            }
        }
    }
}
