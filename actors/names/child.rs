//! One running child: an actor around what a factory made, which takes messages one at a time.
//!
//! ```text
//!  StartChild ─▶ ChildHost ◀─ Deliver ─ in time? leased? ─▶ handle ─▶ still leased? ─▶ reply
//!                    └─ Stop{moves} ─▶ stop ─▶ what the next instance is given
//! ```

use std::collections::BTreeMap;
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::time::Instant;
use tumen_core::ids::{Kind, NodeBoot};
use tumen_core::names::crew::NotStarted;
use tumen_core::names::directory::VALUE_LEN_MAX;
use tumen_core::names::{ClaimNumber, Name};
use tumen_core::partitions::request::{Failure, MessageId, Reply};

use crate::partitions::Gate;
use crate::partitions::delivery::Delivery;

/// How long a factory may take.
pub const START_WITHIN: Duration = Duration::from_secs(20);
/// How long a child that is to end may take for its last words.
pub const STOP_WITHIN: Duration = Duration::from_secs(5);
/// The most messages that wait for one child. More are answered `Overloaded`.
pub const MAILBOX_LEN_MAX: usize = 16_384;

/// Where, and by what right, a child runs.
#[derive(Clone, Debug)]
pub struct ChildPlace {
    /// Under which name.
    pub name: Name,
    /// Which start this is: its fence. Whatever it writes to outside of the cluster can refuse a lower one.
    pub number: ClaimNumber,
    /// On which run of which node.
    pub node: NodeBoot,
    /// What it was started with.
    pub args: Bytes,
    /// What the last instance handed over; empty if it handed over nothing.
    pub handed: Bytes,
}

/// One running child, from the runtime's side: bytes in, bytes out.
pub trait ChildHost: Send + 'static {
    /// Handles one message to its end. One runs at a time.
    fn handle<'a>(&'a mut self, message: MessageId, body: Bytes) -> BoxFuture<'a, Reply>;

    /// Whether it wants to run no more, after what it handled last: `Ok` in good order, `Err` with why it failed.
    fn over(&mut self) -> Option<Result<(), String>> {
        None
    }

    /// It is to end; where it `moves`, what it returns is given to the next instance.
    fn stop(&mut self, moves: bool) -> BoxFuture<'_, Option<Bytes>> {
        let _ = moves;
        Box::pin(async { None })
    }
}

/// Why a factory made nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotMade {
    /// The child is not to run: nothing is tracked.
    Ignored,
    /// It failed.
    Failed(String),
}

/// Makes children of one kind.
pub type StartChild =
    Arc<dyn Fn(ChildPlace) -> BoxFuture<'static, Result<Box<dyn ChildHost>, NotMade>> + Send + Sync>;

/// The kinds of children that a node has factories for.
#[derive(Clone, Default)]
pub struct ChildKinds {
    kinds: Arc<BTreeMap<Kind, StartChild>>,
}

/// A kind of child is registered twice. The node does not start.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the kind of child {0} is registered twice: give one of them another name")]
pub struct ChildTwice(pub Kind);

impl ChildKinds {
    /// These kinds.
    ///
    /// # Errors
    /// One of them is there twice.
    pub fn new(kinds: Vec<(Kind, StartChild)>) -> Result<Self, ChildTwice> {
        let mut by_kind = BTreeMap::new();
        for (kind, start) in kinds {
            if by_kind.insert(kind.clone(), start).is_some() {
                return Err(ChildTwice(kind));
            }
        }
        Ok(Self { kinds: Arc::new(by_kind) })
    }

    /// The kinds, sorted.
    pub fn iter(&self) -> impl Iterator<Item = &Kind> {
        self.kinds.keys()
    }

    pub(super) fn get(&self, kind: &Kind) -> Option<StartChild> {
        self.kinds.get(kind).cloned()
    }
}

impl fmt::Debug for ChildKinds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// What a child's mailbox takes.
#[derive(Debug)]
pub enum ChildMsg {
    /// A message. It is answered exactly once.
    Deliver(Delivery),
    /// It is to end.
    Stop {
        /// Whether it goes on elsewhere.
        moves: bool,
    },
}

impl ractor::Message for ChildMsg {}

/// What a child leaves behind.
#[derive(Clone, Debug, Default)]
pub(super) struct Legacy(Arc<Mutex<Option<Bytes>>>);

impl Legacy {
    fn leave(&self, bytes: Bytes) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(bytes);
    }

    pub(super) fn take(&self) -> Option<Bytes> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// One running child.
pub(super) struct ChildActor {
    pub(super) gate: Gate,
    pub(super) waiting: Arc<AtomicUsize>,
    pub(super) legacy: Legacy,
    pub(super) start: StartChild,
    /// Why it did not start, for its supervisor: an actor's own error is text.
    pub(super) not_started: Arc<Mutex<Option<NotStarted>>>,
}

impl ChildActor {
    fn fail(&self, why: NotStarted) -> ActorProcessingErr {
        let text = why.to_string();
        *self.not_started.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
        text.into()
    }

    async fn handle_delivery(
        &self,
        host: &mut Box<dyn ChildHost>,
        mut delivery: Delivery,
    ) -> Result<(), ActorProcessingErr> {
        if Instant::now() >= delivery.deadline {
            delivery.answer(Err(Failure::Timeout { maybe_applied: false }));
            return Ok(());
        }
        if !self.gate.is_open() {
            delivery.answer(Err(self.gate.refusal()));
            return Ok(());
        }
        let (message, body) = (delivery.message, delivery.begin());
        match AssertUnwindSafe(host.handle(message, body)).catch_unwind().await {
            // The value first, the right to let it out after.
            Ok(reply) if self.gate.is_open() => {
                delivery.answer(reply);
                Ok(())
            }
            Ok(reply) => {
                let maybe_applied = reply.as_ref().map_or_else(Failure::maybe_changed, |_| true);
                delivery.answer(Err(Failure::Timeout { maybe_applied }));
                Ok(())
            }
            Err(panic) => {
                let why = crate::partitions::partition_worker::panic_text(&*panic);
                delivery.answer(Err(Failure::WorkerFailed(format!("it panicked: {why}"))));
                Err(why.into())
            }
        }
    }
}

impl Actor for ChildActor {
    type Msg = ChildMsg;
    type State = Box<dyn ChildHost>;
    type Arguments = ChildPlace;

    async fn pre_start(
        &self,
        _: ActorRef<Self::Msg>,
        place: ChildPlace,
    ) -> Result<Self::State, ActorProcessingErr> {
        let made = AssertUnwindSafe(async { (self.start)(place).await }).catch_unwind();
        match tokio::time::timeout(START_WITHIN, made).await {
            Ok(Ok(Ok(host))) => Ok(host),
            Ok(Ok(Err(NotMade::Ignored))) => Err(self.fail(NotStarted::Ignored)),
            Ok(Ok(Err(NotMade::Failed(why)))) => Err(self.fail(NotStarted::Failed(why))),
            Ok(Err(panic)) => {
                let why = crate::partitions::partition_worker::panic_text(&*panic);
                Err(self.fail(NotStarted::Failed(format!("it panicked: {why}"))))
            }
            Err(_) => Err(self.fail(NotStarted::TimedOut)),
        }
    }

    async fn handle(
        &self,
        myself: ActorRef<Self::Msg>,
        message: Self::Msg,
        host: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            ChildMsg::Deliver(delivery) => {
                self.waiting.fetch_sub(1, Ordering::Relaxed);
                self.handle_delivery(host, delivery).await?;
                match host.over() {
                    None => {}
                    Some(Ok(())) => myself.stop(None),
                    Some(Err(why)) => return Err(why.into()),
                }
            }
            ChildMsg::Stop { moves } => {
                let last = AssertUnwindSafe(host.stop(moves)).catch_unwind();
                match tokio::time::timeout(STOP_WITHIN, last).await {
                    Ok(Ok(Some(handed))) if moves && handed.len() <= VALUE_LEN_MAX => {
                        self.legacy.leave(handed);
                    }
                    Ok(Ok(Some(handed))) if moves => {
                        let len = handed.len();
                        tracing::warn!(
                            len,
                            max = VALUE_LEN_MAX,
                            "what a child hands over is too long: it is dropped"
                        );
                    }
                    Ok(Ok(_)) => {}
                    Ok(Err(_)) => tracing::warn!("a child panicked as it was stopped"),
                    Err(_) => tracing::warn!("a child did not come to an end within {STOP_WITHIN:?}"),
                }
                myself.stop(None);
            }
        }
        Ok(())
    }
}
