//! What a copy says to the primary that asked, once what it says is on disk.
//!
//! ```text
//!  frame: Append 3, Append 7, Seal 9 ─▶ Acked 3 · Acked 7 · Sealed 9 ─ the last of them is on disk ─▶ answered, together
//! ```

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tokio::sync::oneshot;
use tumen_core::partitions::replication::wire::Reply as CopyReply;

use super::encoding;
use crate::transport::Responder;

/// Where one answer goes.
#[derive(Debug)]
pub(super) enum Slot {
    /// Among others.
    Frame(Arc<Frame>, usize),
    /// Alone.
    Alone(oneshot::Sender<CopyReply<Bytes>>),
}

impl Slot {
    /// What it says is on disk.
    pub(super) fn fill(self, reply: CopyReply<Bytes>) {
        match self {
            Self::Frame(frame, at) => frame.fill(at, reply),
            // Whoever stopped waiting needs no answer.
            Self::Alone(waiting) => drop(waiting.send(reply)),
        }
    }
}

/// Answers that travel together. Where one of them is never known, none leaves: they are asked for again.
#[derive(Debug)]
pub(super) struct Frame(Mutex<Option<Gathering>>);

#[derive(Debug)]
struct Gathering {
    replies: Vec<Option<CopyReply<Bytes>>>,
    missing: usize,
    to: Responder,
}

impl Frame {
    /// Answers of which some are still missing.
    pub(super) fn new(replies: Vec<Option<CopyReply<Bytes>>>, to: Responder) -> Arc<Self> {
        let missing = replies.iter().filter(|reply| reply.is_none()).count();
        Arc::new(Self(Mutex::new(Some(Gathering { replies, missing, to }))))
    }

    fn fill(&self, at: usize, reply: CopyReply<Bytes>) {
        let mut guard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(gathering) = guard.as_mut() else { return };
        gathering.replies[at] = Some(reply);
        gathering.missing -= 1;
        if gathering.missing > 0 {
            return;
        }
        let whole = guard.take();
        drop(guard);
        if let Some(Gathering { replies, to, .. }) = whole {
            send(to, &replies.into_iter().flatten().collect::<Vec<_>>());
        }
    }
}

/// Answers a frame.
pub(super) fn send(to: Responder, replies: &[CopyReply<Bytes>]) {
    to.send_with(|buffer| replies.iter().for_each(|reply| encoding::put_reply(buffer, reply)));
}
