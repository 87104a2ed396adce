//! Questions and answers between voters, over a port that only throws bytes.
//!
//! ```text
//! ask() ─ Request{id} ─▶ port ─▶ peer's deliver() ─▶ its openraft
//!   ▲                                                   │
//!   └── the id's waiter ◀─ deliver() ◀─ port ◀─ Reply{id}┘        or the deadline
//! ```
//!
//! A message may be lost, late, or answered twice: an id that nobody waits for any more is dropped. Every request is
//! answered, if only by why not.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use openraft::error::SnapshotMismatch;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse,
    VoteRequest, VoteResponse,
};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use tumen_core::ids::{Life, NodeName};

use super::types::{LogId, TypeConfig};
use crate::codec;

/// The most bytes that one message has.
pub const MESSAGE_LEN_MAX: usize = 1 << 20;
/// Questions that may be open at once.
const OPEN_MAX: usize = 1024;

/// How messages get to the other voters. Whoever implements it hands what arrives to `Handle::deliver`.
pub trait RaftPort: Send + Sync + 'static {
    /// Sends `body`, at most [`MESSAGE_LEN_MAX`] bytes, without waiting. It may be lost; that is noticed by a deadline.
    ///
    /// # Errors
    /// Where it is known at once that the message does not arrive.
    fn send(&self, to: &NodeName, body: Bytes) -> Result<(), PortError>;
}

/// Why a message was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PortError {
    /// There is no session with that node.
    #[error("the node is not connected")]
    Unreachable,
    /// Too much waits for that node already.
    #[error("too much waits for the node")]
    Overloaded,
}

/// What one node says to another about consensus.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Message {
    /// Answered by a [`Message::Reply`] with the same `id`.
    Request {
        id: u64,
        /// Whom it is for. A node whose store has another life refuses. `None`: whoever is there.
        life: Option<Life>,
        request: Request,
    },
    Reply {
        id: u64,
        reply: Reply,
    },
}

/// What is wanted of a voter.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Request {
    /// Raft's. Answered by [`Reply::Append`].
    Append(AppendEntriesRequest<TypeConfig>),
    /// Raft's. Answered by [`Reply::Vote`].
    Vote(VoteRequest<u64>),
    /// Raft's: one chunk of a snapshot. Answered by [`Reply::Snapshot`] or [`Reply::Mismatch`].
    Snapshot(InstallSnapshotRequest<TypeConfig>),
    /// Would you vote for me? Answered by [`Reply::WouldVote`]; nothing changes.
    WouldVote {
        /// The asker's last entry.
        last: Option<LogId>,
    },
    /// I lead, and want you to lead next. Answered by [`Reply::Done`].
    TakeOver,
    /// Which life has your store? With `prepare`, start taking part. Answered by [`Reply::Life`].
    Life {
        /// Whether the node is to be ready to learn.
        prepare: bool,
    },
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Reply {
    Append(AppendEntriesResponse<u64>),
    Vote(VoteResponse<u64>),
    Snapshot(InstallSnapshotResponse<u64>),
    Mismatch(SnapshotMismatch),
    WouldVote(bool),
    Done,
    Life(Life),
    Refused(Refusal),
}

/// Why a voter does not do what is wanted. Nothing changed there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// The life that was meant is gone for ever: the node lost those bytes.
    #[error("the node lost the bytes of that life, and has life {0} now")]
    OtherLife(Life),
    /// The node does not take part at the moment.
    #[error("the node takes no part in consensus at the moment")]
    Idle,
    /// Too much is asked of the node at once.
    #[error("too much is asked of the node at once")]
    Busy,
    /// The node's store or openraft gave up.
    #[error("the node's consensus failed: {0}")]
    Failed(String),
    /// The request is larger than what is taken.
    #[error("the request is larger than what is taken")]
    TooLong,
}

/// Why a question has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum AskError {
    #[error(transparent)]
    Port(#[from] PortError),
    #[error("no answer in time")]
    Timeout,
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("too many questions are open")]
    Crowded,
    #[error("the answer does not fit the question")]
    Unfit,
}

/// The open questions, and the port they went out by.
pub(super) struct Exchange {
    port: Arc<dyn RaftPort>,
    open: Mutex<BTreeMap<u64, Open>>,
    next: AtomicU64,
}

struct Open {
    asked: NodeName,
    answer: oneshot::Sender<Reply>,
}

impl Exchange {
    pub(super) fn new(port: Arc<dyn RaftPort>) -> Self {
        // A run after this one must not take this one's answers for its own.
        Self { port, open: Mutex::default(), next: AtomicU64::new(crate::clock::draw()) }
    }

    /// Asks a node, and waits for its answer until the deadline.
    pub(super) async fn ask(
        &self,
        node: &NodeName,
        life: Option<Life>,
        request: Request,
        deadline: Duration,
    ) -> Result<Reply, AskError> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let body = encode(&Message::Request { id, life, request }).ok_or(Refusal::TooLong)?;
        let (answer, answered) = oneshot::channel();
        {
            let mut open = self.lock();
            if open.len() >= OPEN_MAX {
                return Err(AskError::Crowded);
            }
            open.insert(id, Open { asked: node.clone(), answer });
        }
        let _closes = Closes { exchange: self, id };
        self.port.send(node, body)?;
        match tokio::time::timeout(deadline, answered).await {
            Ok(Ok(Reply::Refused(why))) => Err(AskError::Refused(why)),
            Ok(Ok(reply)) => Ok(reply),
            Ok(Err(_)) | Err(_) => Err(AskError::Timeout),
        }
    }

    /// Sends an answer. Where it cannot be sent, the asker's deadline tells it.
    pub(super) fn reply(&self, node: &NodeName, id: u64, reply: Reply) {
        let body = encode(&Message::Reply { id, reply });
        if let Some(Err(error)) = body.map(|body| self.port.send(node, body)) {
            tracing::debug!(%node, %error, "an answer could not be sent");
        }
    }

    /// Takes an answer in.
    pub(super) fn handle_reply(&self, from: &NodeName, id: u64, reply: Reply) {
        let mut open = self.lock();
        if open.get(&id).is_some_and(|open| open.asked == *from)
            && let Some(open) = open.remove(&id)
        {
            // The asker may have given up this very moment.
            let _ = open.answer.send(reply);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<u64, Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whoever stops waiting takes the question back.
struct Closes<'a> {
    exchange: &'a Exchange,
    id: u64,
}

impl Drop for Closes<'_> {
    fn drop(&mut self) {
        self.exchange.lock().remove(&self.id);
    }
}

/// A message's bytes; `None` if it is too long to be sent.
fn encode(message: &Message) -> Option<Bytes> {
    let mut body = BytesMut::new();
    codec::encode_into(message, &mut body).ok()?;
    (body.len() <= MESSAGE_LEN_MAX).then(|| body.freeze())
}

/// Reads a message.
pub(super) fn decode(body: &[u8]) -> Result<Message, codec::DecodeError> {
    codec::decode(body, MESSAGE_LEN_MAX)
}
