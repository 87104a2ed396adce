//! What one worker of a primary has to do with its partition's log.

use std::sync::{Arc, Mutex, PoisonError};

use futures_util::future::BoxFuture;
use tokio::sync::oneshot;
use tumen_core::partitions::entry::{Changes, Entry, KindIndex};
use tumen_core::partitions::fence::Fence;
use tumen_core::partitions::identity::{Identity, Position};
use tumen_core::partitions::replication::Phase;
use tumen_core::partitions::request::{Failure, Reply};

use super::Replication;
use super::cell::{Cell, Out};
use crate::partitions::machine::{Durable, Journal, Machine};
use crate::partitions::partition_worker::Delivery;

/// A worker's place at its partition's log, under one fence.
#[derive(Clone)]
pub struct Led {
    replication: Replication,
    cell: Arc<Cell>,
    fence: Fence,
    kind: KindIndex,
    /// The request that is being handled.
    handled: Arc<Mutex<Option<Identity>>>,
}

impl Replication {
    /// Waits until the partition is open under this fence.
    ///
    /// # Errors
    /// It was given back, or a newer primary is there.
    pub async fn opened(&self, fence: Fence, kind: KindIndex) -> Result<Led, Failure> {
        let cell = self.cell(fence.partition).ok_or(Failure::NotReady)?;
        let mut standing = cell.standing();
        let seen = standing
            .wait_for(|standing| {
                standing.fence != Some(fence) || standing.phase.is_none_or(|phase| phase >= Phase::Serving)
            })
            .await
            .map_err(|_| Failure::NotReady)?;
        let open = seen.fence == Some(fence) && seen.phase == Some(Phase::Serving);
        drop(seen);
        if !open {
            return Err(Failure::Fenced { changed: false });
        }
        Ok(Led { replication: self.clone(), cell, fence, kind, handled: Arc::default() })
    }
}

impl Led {
    /// The worker's state, as the whole log makes it.
    pub fn machine(&self) -> Result<Box<dyn Machine>, Failure> {
        self.cell.worker(&self.fence, self.kind)
    }

    /// Where the worker commits its changes.
    pub fn journal(&self) -> Journal {
        Journal::new(self.kind, Arc::new(self.clone()))
    }

    /// A request's turn has come.
    ///
    /// # Errors
    /// How to answer it without running its handler.
    pub fn begin(&self, identity: Option<Identity>) -> Result<(), Reply> {
        self.cell.begin(self.replication.now(), &self.fence, identity.as_ref())?;
        self.set_handled(identity);
        Ok(())
    }

    fn set_handled(&self, identity: Option<Identity>) {
        *self.handled.lock().unwrap_or_else(PoisonError::into_inner) = identity;
    }

    /// The handler returned. The reply leaves once what it rests on surely holds.
    ///
    /// # Errors
    /// Nothing could be logged; the delivery was answered. If there were changes, the worker is ahead of the log, and has
    /// to begin anew.
    pub fn finish(&self, delivery: Delivery, changes: Changes, reply: Reply) -> Result<(), Failure> {
        self.set_handled(None);
        let mut out = Out::default();
        let done = self.cell.finish(self.replication.now(), &self.fence, delivery, changes, reply, &mut out);
        self.replication.perform(&self.cell, out);
        done.map_err(|refused| {
            let (delivery, why) = *refused;
            delivery.answer(Err(why.clone()));
            why
        })
    }

    /// Logs what was changed outside of any request.
    ///
    /// # Errors
    /// Nothing was logged: the worker is ahead of the log, and has to begin anew.
    pub fn log(&self, changes: Changes) -> Result<Position, Failure> {
        self.append(&Entry::Changes(changes))
    }

    fn append(&self, entry: &Entry) -> Result<Position, Failure> {
        let mut out = Out::default();
        let logged = self.cell.log(self.replication.now(), &self.fence, entry, &mut out);
        self.replication.perform(&self.cell, out);
        logged
    }

    /// A session is asked for.
    pub fn open_session(&self, nonce: u128, delivery: Delivery, encode: impl FnOnce(Position) -> Reply) {
        let mut out = Out::default();
        let now = self.replication.now();
        self.cell.open_session(now, &self.fence, nonce, delivery, encode, &mut out);
        self.replication.perform(&self.cell, out);
    }
}

impl Durable for Led {
    fn make_durable(&self, changes: Changes) -> BoxFuture<'_, Result<(), Failure>> {
        Box::pin(async move {
            if !changes.is_empty() {
                let handled = *self.handled.lock().unwrap_or_else(PoisonError::into_inner);
                self.append(&match handled {
                    Some(identity) => Entry::Step { identity, changes },
                    None => Entry::Changes(changes),
                })?;
            }
            let (done, held) = oneshot::channel();
            let mut out = Out::default();
            self.cell.wait(&self.fence, done, &mut out);
            self.replication.perform(&self.cell, out);
            let unknown = Failure::Fenced { changed: true };
            held.await.map_err(|_| unknown.clone())?;
            if self.replication.shared.gate.is_open() { Ok(()) } else { Err(unknown) }
        })
    }
}

impl std::fmt::Debug for Led {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Led").field("fence", &self.fence).field("kind", &self.kind).finish_non_exhaustive()
    }
}
