//! How a message is carried out once, however often it has to be sent.
//!
//! ```text
//!  identity ─▶ ask ─┬─ answered ──────────────────────────────────────▶ reply
//!     ▲             ├─ moved, not ready, lost, nobody knows ─▶ pause ─┐
//!     │             └─ its session has ended ─▶ another one, if nothing was carried out
//!     └────────────────────── the same identity ◀─────────────────────┘
//! ```

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::future::BoxFuture;
use tokio::runtime::Handle;
use tumen_core::Moment;
use tumen_core::ids::{GroupId, PartitionId};
use tumen_core::partitions::identity::{Identity, Keyed, Numbered};
use tumen_core::partitions::request::{Failure, Reply};
use tumen_core::partitions::routing::RouteError;
use tumen_core::partitions::session::ask::Ask;
use tumen_core::partitions::session::client::TryEnd;

use super::conversation::{Conversation, Order, Turn};
use super::{Call, CallOptions, Deadline, Pause, Router, Target, Told, expired};
use crate::codec;

/// How long an opening is asked for before it is looked whether anybody still waits for it.
const OPEN_WITHIN: Duration = Duration::from_secs(2);

/// By what a call is known again, and how it is kept track of.
enum Known<'a> {
    Keyed(Keyed),
    Numbered(Turn<'a>, Numbered),
}

/// How one identity's tries ended.
enum Outcome {
    Reply(Reply),
    /// Its session has ended, and nothing was carried out.
    Anew,
}

impl Router {
    /// Carries out a message of a replicated worker that may change something. What is rare has a place of its own: calls
    /// under way are to be small.
    pub(super) fn carry_out_once<'a>(&'a self, call: Call<'a>) -> BoxFuture<'a, Reply> {
        Box::pin(async move {
            let deadline = Deadline::after(call.options.within);
            if let Some(key) = call.options.idempotency_key {
                let known = Known::Keyed(Keyed::under(key.digest(), call.message, &call.body));
                return match self.ask_until_known(&call, known, deadline).await {
                    Outcome::Reply(reply) => reply,
                    Outcome::Anew => Err(Failure::NotReady),
                };
            }
            let partition = self.partition_of(&call, deadline).await?;
            loop {
                let (turn, numbered) = self.take_turn(partition, deadline).await?;
                let left = Deadline::at(deadline.instant());
                match self.ask_until_known(&call, Known::Numbered(turn, numbered), left).await {
                    Outcome::Reply(reply) => return reply,
                    Outcome::Anew => {}
                }
            }
        })
    }

    pub(super) fn now(&self) -> Moment {
        self.shared.gate.now()
    }

    /// The partition that a call is for; waits for the first plan.
    async fn partition_of(&self, call: &Call<'_>, deadline: Deadline) -> Result<PartitionId, Failure> {
        let key = match call.target {
            Target::Partition(partition) => return Ok(partition),
            Target::Key(key) => key,
        };
        let mut pause = Pause::new(deadline.instant());
        loop {
            let (version, found) = {
                let table = self.shared.table.load();
                (table.version(), table.partition_of(GroupId::Users, key))
            };
            match found {
                Ok(partition) => return Ok(partition),
                Err(RouteError::NoPlan) => {}
                Err(error) => return Err(Failure::NoPartition(error.to_string())),
            }
            if Box::pin(pause.wait(self, version, &Failure::NotReady)).await.is_none() {
                return Err(Failure::NotReady);
            }
        }
    }

    /// Waits for a number in the partition's session.
    async fn take_turn(
        &self,
        partition: PartitionId,
        deadline: Deadline,
    ) -> Result<(Turn<'_>, Numbered), Failure> {
        let (mut turn, numbered) = loop {
            let now = self.now();
            let conversation = self.shared.conversations.with(partition, now).ok_or(Failure::Overloaded)?;
            if let Some(begun) = conversation.begin(self, now) {
                break begun;
            }
        };
        match numbered {
            Some(numbered) => Ok((turn, numbered)),
            None => match Box::pin(turn.numbered(deadline.instant())).await {
                Ok(numbered) => Ok((turn, numbered)),
                Err(Failure::Timeout { maybe_applied: false }) => Err(Failure::NotReady),
                Err(failure) => Err(failure),
            },
        }
    }

    /// Asks until it is known what became of the call, or nobody waits any more.
    async fn ask_until_known(&self, call: &Call<'_>, mut known: Known<'_>, deadline: Deadline) -> Outcome {
        let mut left = deadline;
        let mut pause = Pause::new(deadline.instant());
        // Whether an earlier try may have been carried out.
        let mut maybe_applied = false;
        loop {
            let (version, asked) = self.ask(call, Some(known.identity()), left);
            let told = match asked {
                Ok(asked) => asked.told(left).await,
                Err(failure) => Told::Reply(Err(failure)),
            };
            call.note(&told);
            let failure = match told {
                Told::Reply(Ok(reply)) | Told::Placed { body: reply, .. } => {
                    return known.answered(Ok(reply));
                }
                Told::Reply(Err(failure @ (Failure::Rejected(_) | Failure::WorkerFailed(_))))
                | Told::Settled(failure) => return known.answered(Err(failure)),
                Told::Expired => return known.expired(),
                Told::Running => {
                    maybe_applied = true;
                    Failure::NotReady
                }
                Told::Reply(Err(failure)) => failure,
            };
            maybe_applied |= failure.maybe_changed();
            known.try_ended(&failure);
            let again = match &failure {
                Failure::Stale { .. }
                | Failure::NotReady
                | Failure::Fenced { .. }
                | Failure::Timeout { .. } => true,
                // The other node is cut off and this one is not: somebody else is about to be primary.
                Failure::NoQuorum => self.shared.gate.is_open(),
                // It was not looked at. If it may have been carried out before, its answer is worth some waiting.
                Failure::Overloaded => maybe_applied,
                Failure::NoPartition(_) | Failure::Rejected(_) | Failure::WorkerFailed(_) => false,
            };
            if self.is_cut_off(version) {
                return known.given_up(Failure::NoQuorum, maybe_applied);
            }
            if !again {
                return known.given_up(failure, maybe_applied);
            }
            match Box::pin(pause.wait(self, version, &failure)).await {
                Some(more) => left = more,
                None => return known.given_up(failure, maybe_applied),
            }
            if let Some(outcome) = known.retry() {
                return outcome;
            }
        }
    }

    /// Sends what a session's law wants sent.
    pub(super) fn run_orders(&self, conversation: &Arc<Conversation>, orders: Vec<Order>) {
        for order in orders {
            match order {
                Order::Tell(ask) => self.tell(conversation.partition, &ask),
                Order::Open { nonce } => {
                    // Without a runtime there is nobody left to wait for it.
                    let Ok(runtime) = Handle::try_current() else { continue };
                    runtime.spawn(open(self.clone(), Arc::clone(conversation), nonce));
                }
            }
        }
    }

    /// Tells a partition's primary something about a session. It may be lost.
    fn tell(&self, partition: PartitionId, ask: &Ask) {
        let options = CallOptions { within: OPEN_WITHIN, ..CallOptions::default() };
        let call = Call {
            target: Target::Partition(partition),
            message: Ask::message(),
            body: body_of(ask),
            options,
            place: None,
        };
        drop(self.ask(&call, None, Deadline::after(options.within)));
    }

    /// A second has passed: tells primaries what they do not know yet.
    pub(super) fn tick(&self) {
        for (partition, ask) in self.shared.conversations.handle_tick(self.now()) {
            self.tell(partition, &ask);
        }
    }

    /// Ends the sessions that nobody waits for: primaries need not remember them any longer.
    pub fn end_sessions(&self) {
        for (partition, ask) in self.shared.conversations.end_unused() {
            self.tell(partition, &ask);
        }
    }
}

/// Opens a session, for as long as anybody waits for it.
async fn open(router: Router, conversation: Arc<Conversation>, first: u128) {
    let mut nonce = Some(first);
    while let Some(asked) = nonce.take() {
        let options = CallOptions { within: OPEN_WITHIN, idempotent: true, ..CallOptions::default() };
        let body = body_of(&Ask::Open { nonce: asked });
        let reply = router.call_partition(conversation.partition, Ask::message(), body, options).await;
        let opened = reply.and_then(|bytes| {
            let broken = |_| Failure::WorkerFailed("the session's number cannot be read".into());
            codec::decode_body(&bytes).map_err(broken)
        });
        for order in conversation.handle_opening(router.now(), asked, opened) {
            match order {
                Order::Open { nonce: next } => nonce = Some(next),
                Order::Tell(ask) => router.tell(conversation.partition, &ask),
            }
        }
    }
}

fn body_of(ask: &Ask) -> Bytes {
    let mut body = BytesMut::new();
    codec::encode_body_into(ask, &mut body).expect("it is small and encodable");
    body.freeze()
}

impl Known<'_> {
    const fn identity(&self) -> Identity {
        match self {
            Self::Keyed(keyed) => Identity::Keyed(*keyed),
            Self::Numbered(_, numbered) => Identity::Numbered(*numbered),
        }
    }

    fn answered(self, reply: Reply) -> Outcome {
        Outcome::Reply(match self {
            Self::Keyed(_) => reply,
            Self::Numbered(turn, _) => turn.handle_answered(reply),
        })
    }

    fn expired(self) -> Outcome {
        match self {
            // Keys know no sessions.
            Self::Keyed(_) => Outcome::Reply(Err(Failure::Timeout { maybe_applied: true })),
            Self::Numbered(mut turn, numbered) => match turn.handle_expired(numbered.session) {
                Failure::Timeout { maybe_applied: false } => Outcome::Anew,
                failure => Outcome::Reply(Err(failure)),
            },
        }
    }

    fn try_ended(&self, failure: &Failure) {
        if let Self::Numbered(turn, _) = self {
            let unknown = failure.maybe_changed();
            turn.handle_try_ended(if unknown { TryEnd::Unknown } else { TryEnd::NothingChanged });
        }
    }

    fn given_up(self, failure: Failure, maybe_applied: bool) -> Outcome {
        let maybe_applied = match self {
            Self::Keyed(_) => maybe_applied,
            Self::Numbered(mut turn, _) => turn.give_up().maybe_changed() || maybe_applied,
        };
        Outcome::Reply(Err(expired(failure, maybe_applied)))
    }

    /// Takes what the next try carries. With how the call ended, if it has ended meanwhile.
    fn retry(&mut self) -> Option<Outcome> {
        let Self::Numbered(turn, numbered) = self else { return None };
        match turn.retry() {
            Ok(next) => {
                *numbered = next;
                None
            }
            Err(Failure::Timeout { maybe_applied: false }) => Some(Outcome::Anew),
            Err(failure) => Some(Outcome::Reply(Err(failure))),
        }
    }
}
