//! One request and its answer: what servers get, how they answer, and what callers are told.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::sync::oneshot;
use tokio::time::Instant;
use tumen_core::ids::NodeBoot;

use super::{SendError, Session};

/// How far off the end of a wait is at most: whoever waits "for ever" still fits into the clock.
const FOR_EVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// How long a caller waits: until when, and how long that is from now.
///
/// It is made once for each try, with one look at the clock, which is dear where calls take half a microsecond.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadline {
    at: Instant,
    within: Duration,
}

impl Deadline {
    /// So long from now.
    pub fn after(within: Duration) -> Self {
        let within = within.min(FOR_EVER);
        Self { at: Instant::now() + within, within }
    }

    /// At this moment: at once, if it has passed.
    pub fn at(at: Instant) -> Self {
        Self { at, within: at.saturating_duration_since(Instant::now()) }
    }

    /// When the wait ends.
    pub const fn instant(self) -> Instant {
        self.at
    }

    /// How long the wait was when this was made.
    pub const fn within(self) -> Duration {
        self.within
    }
}

/// Serves requests.
pub trait Serve: Send + Sync + 'static {
    /// Takes all requests of one service that came with one read, so that they can be handed on grouped.
    /// It runs in the connection's reader: it must be quick and must not block. What it leaves in `batch`
    /// is dropped, and so answered with [`LaneError::Unanswered`].
    fn serve(&self, batch: &mut Vec<Incoming>);
}

impl<F: Fn(&mut Vec<Incoming>) + Send + Sync + 'static> Serve for F {
    fn serve(&self, batch: &mut Vec<Incoming>) {
        self(batch);
    }
}

/// One request, on the serving side.
#[derive(Debug)]
pub struct Incoming {
    /// The bytes that the caller encoded.
    pub body: Bytes,
    /// When the caller stops waiting, by this node's clock. An answer after that is wasted.
    pub deadline: Instant,
    /// Where the reply goes.
    pub reply: Responder,
}

impl Incoming {
    /// Who asks.
    pub fn from(&self) -> &NodeBoot {
        &self.reply.to.session().peer
    }
}

/// Where replies go. [`Responder`] is what servers hold; this is what a lane implements for it.
pub trait ReplyTo: Send + Sync {
    /// The session that the requests came in.
    fn session(&self) -> &Session;
    /// Sends the reply to request `id`.
    fn reply(&self, id: u64, encode: &mut dyn FnMut(&mut BytesMut));
    /// Answers request `id` with an error.
    fn fail(&self, id: u64, failure: Failure);
}

/// How a server answers if it does not reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Failure {
    /// Nobody serves this here.
    NotServed = 1,
    /// Too much waits here; the request was not looked at.
    Overloaded = 2,
    /// The request was dropped.
    Dropped = 3,
    /// The reply is too long.
    ReplyLost = 4,
}

impl Failure {
    pub(crate) const fn from_wire(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::NotServed,
            2 => Self::Overloaded,
            3 => Self::Dropped,
            4 => Self::ReplyLost,
            _ => return None,
        })
    }
}

impl From<Failure> for LaneError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::NotServed => Self::NotServed,
            Failure::Overloaded => Self::PeerOverloaded,
            Failure::Dropped => Self::Unanswered,
            Failure::ReplyLost => Self::ReplyLost,
        }
    }
}

/// The right to answer one request, once. Dropped unused, it answers with [`LaneError::Unanswered`].
pub struct Responder {
    to: Arc<dyn ReplyTo>,
    id: u64,
    open: bool,
}

impl Responder {
    /// A responder for the request that `to` knows as `id`.
    pub fn new(to: Arc<dyn ReplyTo>, id: u64) -> Self {
        Self { to, id, open: true }
    }

    /// Replies with `body`.
    pub fn send(self, body: &[u8]) {
        self.send_with(|buffer| buffer.extend_from_slice(body));
    }

    /// Replies with what `encode` appends: it writes straight into the connection's buffer, under its
    /// lock, and must not look at or shorten what is there already.
    pub fn send_with(mut self, encode: impl FnOnce(&mut BytesMut)) {
        self.open = false;
        let mut encode = Some(encode);
        self.to.reply(self.id, &mut |buffer| {
            if let Some(encode) = encode.take() {
                encode(buffer);
            }
        });
    }

    /// Answers with an error: [`Failure::Overloaded`] promises that the request was not looked at.
    pub fn fail(mut self, failure: Failure) {
        self.open = false;
        self.to.fail(self.id, failure);
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        if self.open {
            self.to.fail(self.id, Failure::Dropped);
        }
    }
}

impl fmt::Debug for Responder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Responder({} of {})", self.id, self.to.session().peer)
    }
}

/// What is to be done with a reply. It is done exactly once.
pub enum Done {
    /// Wakes a caller who waits.
    Wake(oneshot::Sender<Result<Bytes, LaneError>>),
    /// Runs in the connection's reader: quick, and without blocking.
    Run(Box<dyn FnOnce(Result<Bytes, LaneError>) + Send>),
}

impl Done {
    /// Hands over the outcome.
    pub fn complete(self, outcome: Result<Bytes, LaneError>) {
        match self {
            // A caller who stopped waiting has dropped its end, and wants to know nothing.
            Self::Wake(caller) => drop(caller.send(outcome)),
            Self::Run(run) => run(outcome),
        }
    }
}

impl fmt::Debug for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Done")
    }
}

/// Why a request has no reply. [`LaneError::maybe_delivered`] says whether the peer may have acted on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LaneError {
    /// It was not sent.
    #[error("not sent: {0}")]
    NotSent(#[from] SendError),
    /// The peer has nobody who serves this, and did not look at it.
    #[error("that node does not serve this (yet): try again later")]
    NotServed,
    /// The peer is over its limits, and did not look at it.
    #[error("that node is overloaded: try again later")]
    PeerOverloaded,
    /// The peer took it and dropped it without a reply.
    #[error("that node took the request and dropped it: what it did is unknown")]
    Unanswered,
    /// The peer acted on it, and its reply was too long for the lane or for its buffer.
    #[error("that node's reply could not be sent: what it did stands")]
    ReplyLost,
    /// The session ended first.
    #[error("the session ended before the reply came (maybe delivered: {maybe_delivered})")]
    Lost {
        /// Whether the peer may have got it.
        maybe_delivered: bool,
    },
    /// The reply did not come in time.
    #[error("no reply in time: what that node did is unknown")]
    Timeout,
}

impl LaneError {
    /// Whether the peer may have acted on the request.
    pub const fn maybe_delivered(&self) -> bool {
        match self {
            Self::NotSent(_) | Self::NotServed | Self::PeerOverloaded => false,
            Self::Unanswered | Self::ReplyLost | Self::Timeout => true,
            Self::Lost { maybe_delivered } => *maybe_delivered,
        }
    }
}
