//! One partition's worker: takes messages one at a time, and lets nothing out that it may not.
//!
//! ```text
//!  Deliver ─▶ seat open? ─▶ in time? ─▶ leased? ─▶ handle ─▶ seat still open? still leased? ─▶ reply
//! ```

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::{BufMut, Bytes};
use futures_util::FutureExt;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::oneshot;
use tokio::time::Instant;
use tumen_core::Moment;
use tumen_core::ids::{Kind, PartitionId};
use tumen_core::partitions::entry::KindIndex;
use tumen_core::partitions::identity::Identity;
use tumen_core::partitions::request::{Failure, MessageId, Reply};

use super::gate::Gate;
use super::host::{Begin, Host, Hosted, Place};
use super::machine::Journal;
use super::read_table::Seat;
use super::replication::{Led, Replication};
use crate::codec;
use crate::transport::Responder;

/// What a worker's mailbox takes.
#[derive(Debug)]
pub enum PartitionWorkerMsg {
    /// Messages that came together. Each is answered exactly once.
    Deliver(Vec<Delivery>),
    /// The seat that the worker answers from. The first message of all.
    Sit(Arc<Seat>),
}

impl ractor::Message for PartitionWorkerMsg {}

/// One message for one worker, and where its answer goes. Dropped before it is begun, it answers
/// [`Failure::NotReady`]: nothing changed.
#[derive(Debug)]
pub struct Delivery {
    /// The message's type.
    pub message: MessageId,
    /// The message.
    pub body: Bytes,
    /// After this nobody waits for the answer.
    pub deadline: Instant,
    /// By what it is known again when it comes a second time.
    pub identity: Option<Identity>,
    answer: Option<Answer>,
}

#[derive(Debug)]
enum Answer {
    Local(oneshot::Sender<Reply>),
    Remote(Responder),
}

impl Delivery {
    /// A message of a caller on this node.
    pub const fn local(
        message: MessageId,
        body: Bytes,
        deadline: Instant,
        to: oneshot::Sender<Reply>,
    ) -> Self {
        Self { message, body, deadline, identity: None, answer: Some(Answer::Local(to)) }
    }

    /// A message that another node sent.
    pub const fn remote(message: MessageId, body: Bytes, deadline: Instant, to: Responder) -> Self {
        Self { message, body, deadline, identity: None, answer: Some(Answer::Remote(to)) }
    }

    /// Answers it.
    pub fn answer(mut self, reply: Reply) {
        self.answer_once(reply);
    }

    fn answer_once(&mut self, reply: Reply) {
        match self.answer.take() {
            // A caller that stopped waiting is answered in vain.
            Some(Answer::Local(to)) => drop(to.send(reply)),
            Some(Answer::Remote(to)) => send_reply(to, &reply),
            None => {}
        }
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        self.answer_once(Err(Failure::NotReady));
    }
}

/// A reply that succeeded begins with this byte, a failure with the other.
const REPLIED: u8 = 0;
const FAILED: u8 = 1;

/// Writes a reply straight into the connection's buffer.
pub(super) fn send_reply(to: Responder, reply: &Reply) {
    to.send_with(|buffer| match reply {
        Ok(body) => {
            buffer.put_u8(REPLIED);
            buffer.put_slice(body);
        }
        Err(failure) => {
            buffer.put_u8(FAILED);
            codec::encode_body_into(failure, buffer).expect("a failure is small and encodable");
        }
    });
}

/// Reads what [`send_reply`] wrote.
pub(super) fn read_reply(mut bytes: Bytes) -> Reply {
    let broken = || Failure::WorkerFailed("the other node sent a reply that cannot be read".into());
    match bytes.first() {
        Some(&REPLIED) => Ok(bytes.split_off(1)),
        Some(&FAILED) => Err(codec::decode_body(&bytes[1..]).unwrap_or_else(|_| broken())),
        _ => Err(broken()),
    }
}

/// One partition's worker of one kind.
#[derive(Debug)]
pub struct PartitionWorker {
    hosted: Hosted,
    waiting: Arc<AtomicUsize>,
    gate: Gate,
    replication: Replication,
    place: KindIndex,
}

/// What a running worker holds.
#[allow(missing_debug_implementations, reason = "the host is the user's")]
pub struct PartitionWorkerState {
    host: Box<dyn Host>,
    seat: Option<Arc<Seat>>,
    /// Where its changes are logged, if it is replicated.
    led: Option<Led>,
}

impl PartitionWorker {
    /// A worker of this kind. `waiting` counts what its mailbox holds.
    ///
    /// `place` is where a replicated kind stands among the node's.
    pub const fn new(
        hosted: Hosted,
        waiting: Arc<AtomicUsize>,
        gate: Gate,
        replication: Replication,
        place: KindIndex,
    ) -> Self {
        Self { hosted, waiting, gate, replication, place }
    }

    /// The name that its actor is known by in logs.
    pub fn label(kind: &Kind, partition: PartitionId) -> String {
        format!("{kind}/{partition}")
    }

    async fn handle_delivery(
        &self,
        state: &mut PartitionWorkerState,
        mut delivery: Delivery,
        watch: &mut Watch,
    ) -> Result<(), String> {
        let Some(seat) = state.seat.as_ref().filter(|seat| seat.is_open()) else {
            delivery.answer(Err(Failure::Fenced { changed: false }));
            return Ok(());
        };
        if watch.instant() >= delivery.deadline {
            delivery.answer(Err(Failure::Timeout { maybe_applied: false }));
            return Ok(());
        }
        if !self.gate.is_open_at(watch.now) {
            delivery.answer(Err(self.gate.refusal()));
            return Ok(());
        }
        if let Some(led) = &state.led
            && let Err(reply) = led.begin(delivery.identity)
        {
            delivery.answer(reply);
            return Ok(());
        }
        let body = std::mem::take(&mut delivery.body);
        let handled = AssertUnwindSafe(state.host.handle(delivery.message, body)).catch_unwind().await;
        let reply = match handled {
            Ok(reply) => reply,
            Err(panic) => {
                let why = panic_text(&*panic);
                delivery.answer(Err(Failure::WorkerFailed(format!("it panicked: {why}"))));
                return Err(why);
            }
        };
        if let Some(led) = &state.led {
            let changes = state.host.journal().map(Journal::take).unwrap_or_default();
            let changed = !changes.is_empty();
            return match led.finish(delivery, changes, reply) {
                // What it changed is not in the log: it begins anew, from what is.
                Err(why) if changed => Err(why.to_string()),
                Ok(()) | Err(_) => Ok(()),
            };
        }
        // The value first, the right to let it out after: a process that froze in the handler, or lost the
        // partition meanwhile, answers nothing that somebody else may already have answered differently.
        watch.now = self.gate.now();
        let changed = reply.as_ref().map_or_else(Failure::maybe_changed, |_| true);
        delivery.answer(if !seat.is_open() {
            Err(Failure::Fenced { changed })
        } else if !self.gate.is_open_at(watch.now) {
            Err(Failure::Timeout { maybe_applied: changed })
        } else {
            self.gate.note_answer();
            reply
        });
        Ok(())
    }
}

/// What the clock said last: at the beginning of a batch, and after each handler. Nothing but handlers takes time here, so
/// it is not asked again before the next one.
struct Watch {
    begun: Instant,
    begun_at: Moment,
    now: Moment,
}

impl Watch {
    fn start(gate: &Gate) -> Self {
        let now = gate.now();
        Self { begun: Instant::now(), begun_at: now, now }
    }

    /// The same on the clock of deadlines.
    fn instant(&self) -> Instant {
        self.begun + self.now.since(self.begun_at)
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "(no message)".to_owned())
}

impl Actor for PartitionWorker {
    type Msg = PartitionWorkerMsg;
    type State = PartitionWorkerState;
    type Arguments = Place;

    async fn pre_start(
        &self,
        _: ActorRef<Self::Msg>,
        place: Place,
    ) -> Result<Self::State, ActorProcessingErr> {
        match &self.hosted.begin {
            Begin::Start(start) => {
                Ok(PartitionWorkerState { host: start(place).await?, seat: None, led: None })
            }
            Begin::Replicated(_) => {
                let led = self.replication.opened(place.fence, self.place).await?;
                let mut host = led.machine()?.into_host(place, led.journal());
                host.promote().await?;
                let changes = host.journal().map(Journal::take).unwrap_or_default();
                if !changes.is_empty() {
                    led.log(changes)?;
                }
                Ok(PartitionWorkerState { host, seat: None, led: Some(led) })
            }
        }
    }

    async fn handle(
        &self,
        _: ActorRef<Self::Msg>,
        message: Self::Msg,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            PartitionWorkerMsg::Sit(seat) => state.seat = Some(seat),
            PartitionWorkerMsg::Deliver(batch) => {
                let mut batch = batch.into_iter();
                let mut watch = Watch::start(&self.gate);
                while let Some(delivery) = batch.next() {
                    self.waiting.fetch_sub(1, Ordering::Relaxed);
                    if let Err(why) = self.handle_delivery(state, delivery, &mut watch).await {
                        self.waiting.fetch_sub(batch.len(), Ordering::Relaxed);
                        return Err(why.into());
                    }
                }
            }
        }
        Ok(())
    }

    async fn post_stop(
        &self,
        _: ActorRef<Self::Msg>,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        state.host.stop().await;
        Ok(())
    }
}
