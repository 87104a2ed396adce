//! A copy: many chunks on a connection of their own, so that nothing else waits behind them.

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use tumen_core::ids::NodeBoot;

use super::{CHUNK_LEN_MAX, LaneError, SendError, Session};

/// Serves copies.
pub trait ServeBulk: Send + Sync + 'static {
    /// Takes a copy that begins. It must not block: spawn what reads the stream.
    fn serve_bulk(&self, stream: BulkStream);
}

impl<F: Fn(BulkStream) + Send + Sync + 'static> ServeBulk for F {
    fn serve_bulk(&self, stream: BulkStream) {
        self(stream);
    }
}

/// What goes through a copy's queues.
#[derive(Debug)]
pub(crate) enum Chunk {
    /// The next bytes.
    Data(Bytes),
    /// That was all. A queue that ends without this was cut off.
    End,
}

/// The sending end of a copy: chunks on a connection of their own. Dropped before [`BulkSink::finish`], it
/// tells the receiver that something is missing.
#[derive(Debug)]
pub struct BulkSink {
    chunks: mpsc::Sender<Chunk>,
    outcome: oneshot::Receiver<Result<Bytes, LaneError>>,
}

impl BulkSink {
    pub(crate) const fn new(
        chunks: mpsc::Sender<Chunk>,
        outcome: oneshot::Receiver<Result<Bytes, LaneError>>,
    ) -> Self {
        Self { chunks, outcome }
    }

    /// Sends one chunk of at most [`CHUNK_LEN_MAX`] bytes. It waits while the receiver is behind. After an error the
    /// copy is over.
    pub async fn send(&mut self, chunk: Bytes) -> Result<(), LaneError> {
        if chunk.len() > CHUNK_LEN_MAX {
            return Err(SendError::TooLong { len: chunk.len(), max: CHUNK_LEN_MAX }.into());
        }
        match self.chunks.send(Chunk::Data(chunk)).await {
            Ok(()) => Ok(()),
            Err(_) => Err(self.failure().await),
        }
    }

    /// Says that this was all, and waits for the receiver's answer.
    pub async fn finish(mut self) -> Result<Bytes, LaneError> {
        match self.chunks.send(Chunk::End).await {
            Ok(()) => self.outcome.await.unwrap_or(Err(LaneError::Lost { maybe_delivered: true })),
            Err(_) => Err(self.failure().await),
        }
    }

    async fn failure(&mut self) -> LaneError {
        match (&mut self.outcome).await {
            Ok(Err(error)) => error,
            Ok(Ok(_)) => LaneError::Unanswered,
            Err(_) => LaneError::Lost { maybe_delivered: true },
        }
    }
}

/// The receiving end of a copy. Dropped before [`BulkStream::answer`], it tells the sender so.
#[derive(Debug)]
pub struct BulkStream {
    from: Session,
    header: Bytes,
    chunks: mpsc::Receiver<Chunk>,
    answer: oneshot::Sender<Bytes>,
    ended: bool,
}

impl BulkStream {
    pub(crate) const fn new(
        from: Session,
        header: Bytes,
        chunks: mpsc::Receiver<Chunk>,
        answer: oneshot::Sender<Bytes>,
    ) -> Self {
        Self { from, header, chunks, answer, ended: false }
    }

    /// Who sends.
    pub const fn from(&self) -> &NodeBoot {
        &self.from.peer
    }

    /// What the sender said of the copy.
    pub const fn header(&self) -> &Bytes {
        &self.header
    }

    /// The next chunk; `None` after the last one. An error ends the copy: what came is a part of it.
    pub async fn next(&mut self) -> Option<Result<Bytes, LaneError>> {
        if self.ended {
            return None;
        }
        match self.chunks.recv().await {
            Some(Chunk::Data(bytes)) => Some(Ok(bytes)),
            Some(Chunk::End) => {
                self.ended = true;
                None
            }
            None => {
                self.ended = true;
                Some(Err(LaneError::Lost { maybe_delivered: true }))
            }
        }
    }

    /// Answers the sender, after the last chunk.
    pub fn answer(self, answer: Bytes) {
        // A sender that is gone needs no answer.
        drop(self.answer.send(answer));
    }
}
