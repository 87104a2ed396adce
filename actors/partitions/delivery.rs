//! One message on its way to one worker, and what its sender is told.
//!
//! ```text
//!  Delivery ─▶ mailbox ─▶ begin ─▶ handler ─▶ tell ─▶ here: a channel · there: the connection's buffer ─▶ Told
//!                │          └ dropped: who knows
//!                └ dropped: not carried out
//! ```

use std::fmt;
use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes};
use tokio::sync::oneshot;
use tokio::time::Instant;
use tumen_core::ids::Epoch;
use tumen_core::partitions::identity::{Identity, Position};
use tumen_core::partitions::ledger::Ending;
use tumen_core::partitions::request::{Failure, MessageId, Reply};
use tumen_core::partitions::session::Verdict;

use super::books::Tally;
use crate::codec;
use crate::transport::Responder;

/// What one try of a call came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// The worker's reply, or why it was not asked.
    Reply(Reply),
    /// A replicated worker's reply, and the last entry of its partition's log that it rests on.
    Placed {
        /// The reply.
        body: Bytes,
        /// Where that entry stands.
        at: Position,
    },
    /// An earlier try is being carried out, or its answer does not surely hold yet. Asked again, it will be there.
    Running,
    /// What became of the call is known, or never will be: asking again brings nothing else.
    Settled(Failure),
    /// The session that the call was sent in has ended.
    Expired,
}

impl Told {
    /// The reply of a replicated worker that rests on the log up to here.
    pub fn resting(reply: Reply, at: Position) -> Self {
        match reply {
            Ok(body) => Self::Placed { body, at },
            Err(failure) => Self::Reply(Err(failure)),
        }
    }

    /// What is told of a request that is not to be run; `None` if it is.
    pub fn of(verdict: Verdict) -> Option<Self> {
        Some(match verdict {
            Verdict::Run => return None,
            Verdict::Running => Self::Running,
            Verdict::Expired => Self::Expired,
            Verdict::Overloaded => Self::Reply(Err(Failure::Overloaded)),
            Verdict::Answered { at, reply: Ok(body) } => Self::Placed { body, at },
            verdict => match verdict.into_reply()? {
                Ok(reply) => Self::Reply(Ok(reply)),
                Err(failure) => Self::Settled(failure),
            },
        })
    }

    /// How the try ended, for the ledger.
    pub const fn ending(&self) -> Ending {
        match self {
            Self::Reply(reply) => Ending::of(reply),
            Self::Placed { .. } => Ending::Answered,
            Self::Running => Ending::of_failure(&Failure::NotReady),
            Self::Settled(failure) => Ending::of_failure(failure),
            Self::Expired => Ending::Expired,
        }
    }

    /// What the reply rests on, if it is one that rests on a log.
    pub const fn place(&self) -> Option<Position> {
        match self {
            Self::Placed { at, .. } => Some(*at),
            Self::Reply(_) | Self::Running | Self::Settled(_) | Self::Expired => None,
        }
    }

    /// The same for a caller that asks once only.
    pub fn into_reply(self) -> Reply {
        match self {
            Self::Reply(reply) => reply,
            Self::Placed { body, .. } => Ok(body),
            Self::Running => Err(Failure::NotReady),
            Self::Settled(failure) => Err(failure),
            Self::Expired => Err(Failure::Timeout { maybe_applied: true }),
        }
    }
}

/// One message for one worker, and where its answer goes. Dropped before it is begun, it answers
/// [`Failure::NotReady`]: nothing changed; dropped after, that nobody knows.
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
    begun: bool,
    /// Where its end is counted, if it is not by whoever took it.
    tally: Option<Arc<Tally>>,
}

enum Answer {
    Local(oneshot::Sender<Told>),
    Run(WhenTold),
    Remote(Responder),
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Local(_) => "Local",
            Self::Run(_) => "Run",
            Self::Remote(_) => "Remote",
        })
    }
}

/// What is to be done with what became of a message. Runs where it is answered: quick, and without blocking.
pub(crate) type WhenTold = Box<dyn FnOnce(Told) + Send + Sync>;

impl Delivery {
    /// A message of a caller on this node.
    pub const fn local(
        message: MessageId,
        body: Bytes,
        deadline: Instant,
        identity: Option<Identity>,
        to: oneshot::Sender<Told>,
    ) -> Self {
        Self { message, body, deadline, identity, answer: Some(Answer::Local(to)), begun: false, tally: None }
    }

    /// A message of this node for whose answer nobody waits: something is done with it instead.
    pub(crate) fn run(message: MessageId, body: Bytes, deadline: Instant, when_told: WhenTold) -> Self {
        let answer = Some(Answer::Run(when_told));
        Self { message, body, deadline, identity: None, answer, begun: false, tally: None }
    }

    /// A message that another node sent.
    pub const fn remote(
        message: MessageId,
        body: Bytes,
        deadline: Instant,
        identity: Option<Identity>,
        to: Responder,
    ) -> Self {
        Self {
            message,
            body,
            deadline,
            identity,
            answer: Some(Answer::Remote(to)),
            begun: false,
            tally: None,
        }
    }

    /// Takes the message out, for its handler.
    pub fn begin(&mut self) -> Bytes {
        self.begun = true;
        std::mem::take(&mut self.body)
    }

    /// Counts its end there.
    pub fn count_at(&mut self, tally: Arc<Tally>) {
        self.tally = Some(tally);
    }

    /// Answers it.
    pub fn answer(mut self, reply: Reply) {
        self.answer_in_place(reply);
    }

    /// The same where it lies, among others that came with it.
    pub fn answer_in_place(&mut self, reply: Reply) {
        self.tell_in_place(Told::Reply(reply));
    }

    /// Says what became of it.
    pub fn tell(mut self, told: Told) {
        self.tell_in_place(told);
    }

    fn tell_in_place(&mut self, told: Told) {
        if let Some(tally) = self.tally.take() {
            tally.end(told.ending());
        }
        self.tell_once(told);
    }

    fn tell_once(&mut self, told: Told) {
        match self.answer.take() {
            // A caller that stopped waiting is answered in vain.
            Some(Answer::Local(to)) => drop(to.send(told)),
            Some(Answer::Run(run)) => run(told),
            Some(Answer::Remote(to)) => send(to, &told),
            None => {}
        }
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        if let Some(tally) = self.tally.take() {
            tally.lose();
        }
        if self.answer.is_some() {
            let unknown = Failure::Timeout { maybe_applied: true };
            self.tell_once(Told::Reply(Err(if self.begun { unknown } else { Failure::NotReady })));
        }
    }
}

/// With which byte each begins.
const REPLIED: u8 = 0;
const FAILED: u8 = 1;
const RUNNING: u8 = 2;
const SETTLED: u8 = 3;
const EXPIRED: u8 = 4;
const PLACED: u8 = 5;

/// Writes what became of a call straight into the connection's buffer.
pub(crate) fn send(to: Responder, told: &Told) {
    to.send_with(|buffer| {
        let mut failed = |tag, failure: &Failure| {
            buffer.put_u8(tag);
            codec::encode_body_into(failure, buffer).expect("a failure is small and encodable");
        };
        match told {
            Told::Reply(Ok(body)) => {
                buffer.put_u8(REPLIED);
                buffer.put_slice(body);
            }
            Told::Reply(Err(failure)) => failed(FAILED, failure),
            Told::Settled(failure) => failed(SETTLED, failure),
            Told::Placed { body, at } => {
                buffer.put_u8(PLACED);
                buffer.put_u64_le(at.epoch.0);
                buffer.put_u64_le(at.sequence);
                buffer.put_slice(body);
            }
            Told::Running => buffer.put_u8(RUNNING),
            Told::Expired => buffer.put_u8(EXPIRED),
        }
    });
}

/// Reads what [`send`] wrote.
pub(crate) fn read(mut bytes: Bytes) -> Told {
    let failure = |bytes: &[u8]| codec::decode_body(bytes).ok();
    let told = match bytes.first() {
        Some(&REPLIED) => Some(Told::Reply(Ok(bytes.split_off(1)))),
        Some(&FAILED) => failure(&bytes[1..]).map(|failure| Told::Reply(Err(failure))),
        Some(&SETTLED) => failure(&bytes[1..]).map(Told::Settled),
        Some(&PLACED) => placed(bytes.split_off(1)),
        Some(&RUNNING) => Some(Told::Running),
        Some(&EXPIRED) => Some(Told::Expired),
        _ => None,
    };
    told.unwrap_or_else(|| {
        Told::Settled(Failure::WorkerFailed("the other node sent a reply that cannot be read".into()))
    })
}

fn placed(mut body: Bytes) -> Option<Told> {
    let (epoch, sequence) = (body.try_get_u64_le().ok()?, body.try_get_u64_le().ok()?);
    Some(Told::Placed { body, at: Position::new(Epoch(epoch), sequence) })
}
