//! One partition's worker: takes messages one at a time, and lets nothing out that it may not.
//!
//! ```text
//!  Deliver ─▶ seat open? ─▶ in time? ─▶ leased? ─▶ handle ─▶ seat still open? still leased? ─▶ reply
//! ```

mod merging;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use futures_util::FutureExt;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::oneshot;
use tokio::time::Instant;
use tumen_core::Moment;
use tumen_core::ids::{Kind, PartitionId};
use tumen_core::partitions::entry::KindIndex;
use tumen_core::partitions::ledger::Ending;
use tumen_core::partitions::request::{Failure, MessageId, Reply};
use tumen_core::partitions::session::ask::Ask;

use super::books::Batch;
use super::delivery::Delivery;
use super::gate::Gate;
use super::host::{Begin, Host, Hosted, Place};
use super::machine::Journal;
use super::merging::{self as merges, Merges};
use super::read_table::Seat;
use super::replication::{Handling, Led, Replication};

/// How long a worker's last word before a planned move may take: it is part of the pause in which nobody serves. Less
/// than half of what a leader waits for a release (2 s), so that the rest has its time too.
pub const HAND_OVER_WITHIN: Duration = Duration::from_millis(750);

/// How many answers are let out together at most, where handlers do not wait: the first waits for the last.
const TOGETHER_MAX: usize = 8;

/// What a worker's mailbox takes.
#[derive(Debug)]
pub enum PartitionWorkerMsg {
    /// Messages that came together. Each is answered exactly once.
    Deliver(Vec<Delivery>),
    /// The seat that the worker answers from. The first message of all.
    Sit(Arc<Seat>),
    /// The partition is about to move to another node, as planned. Answered, by whatever is dropped or sent, once the
    /// worker had its last word.
    HandOver(oneshot::Sender<()>),
}

impl ractor::Message for PartitionWorkerMsg {}

/// One partition's worker of one kind.
#[derive(Debug)]
pub struct PartitionWorker {
    hosted: Hosted,
    waiting: Arc<AtomicUsize>,
    gate: Gate,
    replication: Replication,
    place: KindIndex,
    merges: Merges,
    sessions: MessageId,
    merge: MessageId,
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
    pub fn new(
        hosted: Hosted,
        waiting: Arc<AtomicUsize>,
        gate: Gate,
        replication: Replication,
        place: KindIndex,
        merges: Merges,
    ) -> Self {
        let (sessions, merge) = (Ask::message(), merges::message());
        Self { hosted, waiting, gate, replication, place, merges, sessions, merge }
    }

    /// The name that its actor is known by in logs.
    pub fn label(kind: &Kind, partition: PartitionId) -> String {
        format!("{kind}/{partition}")
    }

    /// Has the worker say its last word, and logs what it commits. Whatever becomes of it, the partition moves.
    async fn hand_over(&self, state: &mut PartitionWorkerState) -> Result<(), String> {
        let hook = AssertUnwindSafe(state.host.hand_over()).catch_unwind();
        let ended = tokio::time::timeout(HAND_OVER_WITHIN, hook).await;
        let changes = state.host.journal().map(Journal::take).unwrap_or_default();
        if let Some(led) = state.led.as_ref().filter(|_| !changes.is_empty()) {
            led.log(changes).map_err(|why| format!("what it committed at the end is not logged: {why}"))?;
        }
        match ended {
            Ok(Ok(())) => Ok(()),
            Ok(Err(panic)) => Err(format!("it panicked at the end: {}", panic_text(&*panic))),
            Err(_) => Err(format!("it did not come to an end within {HAND_OVER_WITHIN:?}")),
        }
    }

    /// Has a worker without a log handle what came with one read.
    async fn handle_batch(
        &self,
        host: &mut Box<dyn Host>,
        seat: &Seat,
        batch: &mut [Delivery],
        watch: &mut Watch,
    ) -> Result<(), String> {
        let mut left = batch.len();
        let mut ready = Vec::with_capacity(left.min(TOGETHER_MAX));
        for together in batch.chunks_mut(TOGETHER_MAX) {
            left -= together.len();
            self.waiting.fetch_sub(together.len(), Ordering::Relaxed);
            let handled = self.handle_together(host, seat, together, &mut ready, watch).await;
            self.let_out(seat, together, &mut ready, watch);
            if let Err((at, why)) = handled {
                let failed = Failure::WorkerFailed(format!("it panicked: {why}"));
                watch.answer(&mut together[at], Err(failed));
                self.waiting.fetch_sub(left, Ordering::Relaxed);
                return Err(why);
            }
        }
        Ok(())
    }

    /// The same of a few of them. The error is which one the worker panicked at, and how.
    ///
    /// The value first, the right to let it out after: a process that froze in the handler, or lost the partition
    /// meanwhile, answers nothing that somebody else may already have answered differently. Answers that are there at once
    /// are let out together, with one look at the clock; none waits for a handler that waits.
    async fn handle_together(
        &self,
        host: &mut Box<dyn Host>,
        seat: &Seat,
        together: &mut [Delivery],
        ready: &mut Vec<(usize, Reply)>,
        watch: &mut Watch,
    ) -> Result<(), (usize, String)> {
        for at in 0..together.len() {
            if let Err(refusal) = self.admit(seat, &together[at], watch) {
                watch.answer(&mut together[at], Err(refusal));
                continue;
            }
            watch.batch.begin();
            let body = together[at].begin();
            let mut handler = AssertUnwindSafe(host.handle(together[at].message, body)).catch_unwind();
            let handled = match futures_util::poll!(&mut handler) {
                Poll::Ready(handled) => handled,
                Poll::Pending => {
                    self.let_out(seat, together, ready, watch);
                    watch.batch.begin();
                    let handled = handler.await;
                    watch.now = self.gate.now();
                    handled
                }
            };
            ready.push((at, handled.map_err(|panic| (at, panic_text(&*panic)))?));
        }
        Ok(())
    }

    /// Whether a message is to be handled.
    fn admit(&self, seat: &Seat, delivery: &Delivery, watch: &Watch) -> Result<(), Failure> {
        if !seat.is_open() {
            return Err(Failure::Fenced { changed: false });
        }
        if watch.instant() >= delivery.deadline {
            return Err(Failure::Timeout { maybe_applied: false });
        }
        if !self.gate.is_open_at(watch.now) {
            return Err(self.gate.refusal());
        }
        Ok(())
    }

    /// Lets the replies out that are there, if they may still leave.
    fn let_out(
        &self,
        seat: &Seat,
        deliveries: &mut [Delivery],
        ready: &mut Vec<(usize, Reply)>,
        watch: &mut Watch,
    ) {
        if ready.is_empty() {
            return;
        }
        watch.now = self.gate.now();
        let seated = seat.is_open();
        let leased = self.gate.is_open_at(watch.now) && (!seated || self.gate.rely());
        for (at, reply) in ready.drain(..) {
            let changed = reply.as_ref().map_or_else(Failure::maybe_changed, |_| true);
            let reply = match reply {
                _ if !seated => Err(Failure::Fenced { changed }),
                _ if !leased => Err(Failure::Timeout { maybe_applied: changed }),
                reply => reply,
            };
            watch.answer(&mut deliveries[at], reply);
        }
    }

    /// Has a replicated worker handle one message.
    async fn handle_delivery(
        &self,
        host: &mut Box<dyn Host>,
        (seat, led): (&Seat, &Led),
        mut delivery: Delivery,
        watch: &mut Watch,
    ) -> Result<(), String> {
        if let Err(refusal) = self.admit(seat, &delivery, watch) {
            watch.answer(&mut delivery, Err(refusal));
            return Ok(());
        }
        // It may be told long after this batch is done.
        delivery.count_at(watch.batch.hand_on());
        if delivery.message == self.sessions {
            led.handle_ask(delivery);
            return Ok(());
        }
        if delivery.message == self.merge {
            let merged = self.merge(host, (seat, led), delivery).await;
            watch.now = self.gate.now();
            return merged;
        }
        match led.begin(watch.now, delivery.identity) {
            Ok(handling) => {
                let handled = handle_logged(host, led, handling, delivery).await;
                watch.now = self.gate.now();
                handled
            }
            Err(told) => {
                delivery.tell(told);
                Ok(())
            }
        }
    }
}

/// Has a replicated worker handle a message. An error ends the worker: it begins anew, from what is in the log.
///
/// What it logs is sent on with what else the batch logs. But nobody waits for a handler that waits for something.
async fn handle_logged(
    host: &mut Box<dyn Host>,
    led: &Led,
    handling: Handling<'_>,
    mut delivery: Delivery,
) -> Result<(), String> {
    let body = delivery.begin();
    let handled = {
        let mut handler = AssertUnwindSafe(host.handle(delivery.message, body)).catch_unwind();
        match futures_util::poll!(&mut handler) {
            Poll::Ready(handled) => handled,
            Poll::Pending => {
                led.send_on();
                handler.await
            }
        }
    };
    let changes = host.journal().map(Journal::take).unwrap_or_default();
    let changed = !changes.is_empty();
    let (reply, failed) = match handled {
        Ok(reply) => (reply, Ok(())),
        // What it did before stays, and whoever asks again is told the same: it is not run twice.
        Err(panic) => {
            let why = panic_text(&*panic);
            (Err(Failure::WorkerFailed(format!("it panicked: {why}"))), Err(why))
        }
    };
    match handling.finish(delivery, changes, reply) {
        // What it changed is not in the log.
        Err(why) if changed => Err(why.to_string()),
        Ok(()) | Err(_) => failed,
    }
}

/// What the clock said last: at the beginning of a batch, and after each handler. Nothing but handlers takes time here, so
/// it is not asked again before the next one. And what became of the batch so far.
struct Watch {
    batch: Batch,
    begun: Instant,
    begun_at: Moment,
    now: Moment,
}

impl Watch {
    fn start(gate: &Gate, batch: Batch) -> Self {
        let now = gate.now();
        Self { batch, begun: Instant::now(), begun_at: now, now }
    }

    fn answer(&mut self, delivery: &mut Delivery, reply: Reply) {
        self.batch.end(Ending::of(&reply));
        delivery.answer_in_place(reply);
    }

    /// The same on the clock of deadlines.
    fn instant(&self) -> Instant {
        self.begun + self.now.since(self.begun_at)
    }
}

pub(crate) fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
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
            PartitionWorkerMsg::HandOver(done) => {
                if let Err(why) = self.hand_over(state).await {
                    tracing::warn!(kind = %self.hosted.kind, %why, "a worker was handed over all the same");
                }
                // Whoever waits may have given up.
                let _: Result<(), ()> = done.send(());
            }
            PartitionWorkerMsg::Deliver(mut batch) => {
                // The first message of all was the seat.
                let Some(seat) = &state.seat else {
                    self.waiting.fetch_sub(batch.len(), Ordering::Relaxed);
                    return Ok(());
                };
                let taken = Batch::accept(Arc::clone(seat.tally()), batch.len());
                let mut watch = Watch::start(&self.gate, taken);
                let Some(led) = &state.led else {
                    return Ok(self.handle_batch(&mut state.host, seat, &mut batch, &mut watch).await?);
                };
                let mut batch = batch.into_iter();
                let mut handled = Ok(());
                while handled.is_ok()
                    && let Some(delivery) = batch.next()
                {
                    self.waiting.fetch_sub(1, Ordering::Relaxed);
                    handled = self.handle_delivery(&mut state.host, (seat, led), delivery, &mut watch).await;
                }
                self.waiting.fetch_sub(batch.len(), Ordering::Relaxed);
                led.send_on();
                handled?;
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
