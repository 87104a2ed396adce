//! What one session's control lane has to send: many small messages in one frame, within a window of credit.
//!
//! ```text
//! batch: connection's number (u64) · bytes taken so far (u64) · messages: channel (u8) · length (u32) · body
//! ```

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::{Buf, Bytes};
use tokio::sync::Notify;
use tumen_core::cluster::transport::{Taken, Window};

use super::SendError;

/// A batch is sealed at this length, so that no frame takes long. A single message may be longer.
const BATCH_LEN: usize = 128 << 10;
/// Connection's number and bytes taken.
const BATCH_HEADER_LEN: usize = 16;
/// Channel and length.
const MESSAGE_HEADER_LEN: usize = 5;
/// The longest frame that a peer may send: one message of the greatest length behind an almost full batch.
pub(super) const FRAME_LEN_MAX: u64 = (super::CONTROL_LEN_MAX + 2 * BATCH_LEN) as u64;
/// The channel of the transport itself. It needs no credit, or credit could never be given back.
pub(super) const SYSTEM: u8 = 0;

/// What waits to be sent, and how much the peer has taken.
pub(super) struct Outbox {
    connection: u64,
    state: Mutex<State>,
    pub(super) wake: Notify,
}

struct State {
    sealed: VecDeque<Vec<u8>>,
    open: Vec<u8>,
    /// The peer is to be told something, if only how much was taken.
    speak: bool,
    window: Window,
    taken: Taken,
}

impl Outbox {
    pub(super) fn new(connection: u64, window: usize) -> Self {
        let state = State {
            sealed: VecDeque::new(),
            open: Vec::new(),
            speak: false,
            window: Window::new(window as u64),
            taken: Taken::new(window as u64),
        };
        Self { connection, state: Mutex::new(state), wake: Notify::new() }
    }

    /// Queues a message.
    pub(super) fn push(&self, channel: u8, body: &[u8]) -> Result<(), SendError> {
        let mut state = self.lock();
        let cost = (MESSAGE_HEADER_LEN + body.len()) as u64;
        if channel != SYSTEM && !state.window.reserve(cost) {
            return Err(SendError::Overloaded);
        }
        if state.open.len() + body.len() > BATCH_LEN && !state.open.is_empty() {
            let full = std::mem::take(&mut state.open);
            state.sealed.push_back(full);
        }
        let idle = state.open.is_empty() && !state.speak;
        if state.open.is_empty() {
            state.open.reserve(BATCH_HEADER_LEN + MESSAGE_HEADER_LEN + body.len());
            state.open.resize(BATCH_HEADER_LEN, 0);
        }
        state.open.push(channel);
        state.open.extend_from_slice(&u32::try_from(body.len()).unwrap_or(u32::MAX).to_le_bytes());
        state.open.extend_from_slice(body);
        drop(state);
        if idle {
            self.wake.notify_one();
        }
        Ok(())
    }

    /// Sends something, so that the peer hears from this node.
    pub(super) fn beat(&self) {
        self.lock().speak = true;
        self.wake.notify_one();
    }

    /// The next batch to send, if there is anything to say.
    pub(super) fn next(&self) -> Option<Vec<u8>> {
        let mut state = self.lock();
        let mut batch = match state.sealed.pop_front() {
            Some(sealed) => sealed,
            None if !state.open.is_empty() => std::mem::take(&mut state.open),
            None if state.speak => vec![0; BATCH_HEADER_LEN],
            None => return None,
        };
        state.speak = false;
        batch[..8].copy_from_slice(&self.connection.to_le_bytes());
        let taken = state.taken.tell();
        batch[8..BATCH_HEADER_LEN].copy_from_slice(&taken.to_le_bytes());
        Some(batch)
    }

    /// Hears what the peer has taken; false if that cannot be.
    pub(super) fn handle_taken(&self, total: u64) -> bool {
        self.lock().window.handle_taken(total)
    }

    /// Has taken messages of the peer.
    pub(super) fn take(&self, len: u64) {
        let speak = {
            let mut state = self.lock();
            let due = state.taken.take(len);
            state.speak |= due;
            due
        };
        if speak {
            self.wake.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A batch that arrived.
pub(super) struct Batch {
    /// Whose it is.
    pub(super) connection: u64,
    /// How much the peer has taken of what this node sent.
    pub(super) taken: u64,
    rest: Bytes,
}

impl Batch {
    /// Opens a batch; `None` if it is none.
    pub(super) fn open(bytes: Vec<u8>) -> Option<Self> {
        let mut rest = Bytes::from(bytes);
        if rest.len() < BATCH_HEADER_LEN {
            return None;
        }
        Some(Self { connection: rest.get_u64_le(), taken: rest.get_u64_le(), rest })
    }
}

impl Iterator for Batch {
    /// Channel, body, and what it cost the sender; or an error if the rest is no message.
    type Item = Result<(u8, Bytes, u64), &'static str>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        if self.rest.len() < MESSAGE_HEADER_LEN {
            self.rest.clear();
            return Some(Err("a truncated message"));
        }
        let (channel, len) = (self.rest.get_u8(), self.rest.get_u32_le() as usize);
        if len > self.rest.len() {
            self.rest.clear();
            return Some(Err("a message longer than its batch"));
        }
        let cost = if channel == SYSTEM { 0 } else { (MESSAGE_HEADER_LEN + len) as u64 };
        Some(Ok((channel, self.rest.split_to(len), cost)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn messages_travel_together_in_order_and_credit_comes_back() {
        let (ours, theirs) = (Outbox::new(7, 100), Outbox::new(7, 100));
        for body in ["one", "two", "three"] {
            ours.push(3, body.as_bytes()).unwrap();
        }
        assert_eq!(ours.push(3, &[0; 90]), Err(SendError::Overloaded));
        ours.push(SYSTEM, b"free").unwrap();
        let batch = Batch::open(ours.next().unwrap()).unwrap();
        assert_eq!((batch.connection, batch.taken), (7, 0));
        let mut bodies = Vec::new();
        for message in batch {
            let (channel, body, cost) = message.unwrap();
            theirs.take(cost);
            bodies.push((channel, body));
        }
        assert_eq!(bodies.len(), 4);
        assert_eq!(bodies[2], (3, Bytes::from_static(b"three")));
        assert!(ours.next().is_none());
        let answer = Batch::open(theirs.next().expect("a quarter of the window was taken")).unwrap();
        assert!(ours.handle_taken(answer.taken));
        assert_eq!(ours.push(3, &[0; 90]), Ok(()));
    }

    #[test]
    fn long_batches_are_sealed() {
        let outbox = Outbox::new(1, 1 << 30);
        for _ in 0..10 {
            outbox.push(1, &[0; 50_000]).unwrap();
        }
        outbox.push(1, &vec![0; super::super::CONTROL_LEN_MAX]).unwrap();
        let mut batches = Vec::new();
        while let Some(batch) = outbox.next() {
            batches.push(batch.len());
        }
        assert!(batches.len() > 4 && batches.iter().all(|len| *len as u64 <= FRAME_LEN_MAX), "{batches:?}");
    }

    proptest! {
        #[test]
        fn hostile_batches_end(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let len = bytes.len();
            if let Some(batch) = Batch::open(bytes) {
                prop_assert!(batch.count() <= len);
            }
        }
    }
}
