//! The way to one other node's copies: what all partitions have for it travels together.
//!
//! ```text
//!  partition 3 ─ entries ─┐                 ┌ frame ┐
//!  partition 7 ─ entries ─┼─▶ yield, gather ─▶ frame ─┼─▶ data lane ─▶ the node ─▶ answers, together
//!  partition 9 ─ a seal ──┘                 └ frame ┘   at most so many under way
//! ```

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tokio::sync::{Notify, Semaphore};
use tumen_core::ids::{NodeName, PartitionId};
use tumen_core::partitions::replication::wire::Request;

use super::cell::Cell;

/// How many frames may be under way to one node.
const FRAMES_MAX: usize = 16;
/// The most messages that wait for one node. What does not fit is sent again by the law.
const WAITING_MAX: usize = 1 << 16;

pub(super) struct Lane {
    pub(super) node: NodeName,
    waiting: Mutex<Waiting>,
    wake: Notify,
    pub(super) frames: Arc<Semaphore>,
}

#[derive(Default)]
struct Waiting {
    requests: Vec<Request<Bytes>>,
    ready: BTreeMap<PartitionId, Arc<Cell>>,
}

impl Lane {
    pub(super) fn new(node: NodeName) -> Self {
        let frames = Arc::new(Semaphore::new(FRAMES_MAX));
        Self { node, waiting: Mutex::default(), wake: Notify::new(), frames }
    }

    fn with<T>(&self, act: impl FnOnce(&mut Waiting) -> T) -> T {
        act(&mut self.waiting.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Has one message sent.
    pub(super) fn send(&self, request: Request<Bytes>) {
        self.with(|waiting| {
            if waiting.requests.len() < WAITING_MAX {
                waiting.requests.push(request);
            }
        });
        self.wake.notify_one();
    }

    /// Entries of this partition wait for the node.
    pub(super) fn ready(&self, cell: &Arc<Cell>) {
        let new = self.with(|waiting| waiting.ready.insert(cell.partition, Arc::clone(cell)).is_none());
        if new {
            self.wake.notify_one();
        }
    }

    /// Waits until there is something to send.
    pub(super) async fn woken(&self) {
        self.wake.notified().await;
    }

    /// What waits now.
    pub(super) fn take(&self) -> (Vec<Request<Bytes>>, BTreeMap<PartitionId, Arc<Cell>>) {
        self.with(|waiting| (std::mem::take(&mut waiting.requests), std::mem::take(&mut waiting.ready)))
    }
}
