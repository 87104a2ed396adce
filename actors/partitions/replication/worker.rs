//! What one worker of a primary has to do with its partition's log.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Bytes, BytesMut};
use futures_util::future::BoxFuture;
use tokio::sync::oneshot;
use tumen_core::partitions::entry::{Changes, Entry, KindIndex};
use tumen_core::partitions::fence::Fence;
use tumen_core::partitions::identity::{Identity, Position, SessionId};
use tumen_core::partitions::replication::Phase;
use tumen_core::partitions::request::{Failure, Reply};
use tumen_core::partitions::session::ask::Ask;
use tumen_core::time::Moment;

use super::Replication;
use super::cell::{Cell, Out};
use crate::codec;
use crate::partitions::delivery::{Delivery, Told};
use crate::partitions::machine::{Durable, Journal, Machine};

/// A worker's place at its partition's log, under one fence.
#[derive(Clone)]
pub struct Led {
    replication: Replication,
    cell: Arc<Cell>,
    fence: Fence,
    kind: KindIndex,
    handled: Arc<Mutex<Handled>>,
}

/// The request that is being handled.
#[derive(Clone, Copy, Default)]
struct Handled {
    identity: Option<Identity>,
    /// Whether something that it changed is in the log.
    stepped: bool,
}

/// A request whose handler runs. Dropped, the handler will never return.
#[derive(Debug)]
pub struct Handling<'a> {
    led: &'a Led,
    /// What the desk takes for being handled.
    identity: Option<Identity>,
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

    /// A request's turn has come; `now` may be a moment ago.
    ///
    /// # Errors
    /// What to tell without running its handler.
    pub fn begin(&self, now: Moment, identity: Option<Identity>) -> Result<Handling<'_>, Told> {
        self.cell.begin(now, &self.fence, identity.as_ref())?;
        self.set_handled(Handled { identity, stepped: false });
        Ok(Handling { led: self, identity })
    }

    fn set_handled(&self, handled: Handled) -> Handled {
        let mut now = self.handled.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *now, handled)
    }

    /// What requests logged since the last time goes to the other copies, and replies that wait for none of them leave. To
    /// be called once the requests at hand are through: what they logged then travels together.
    pub fn send_on(&self) {
        let mut out = Out::default();
        self.cell.send_on(self.replication.now(), &self.fence, &mut out);
        self.replication.perform(&self.cell, out);
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

    /// A client asks about its session.
    pub fn handle_ask(&self, mut delivery: Delivery) {
        let Ok(ask) = codec::decode_body::<Ask>(&delivery.begin()) else {
            let why = "what is asked of sessions cannot be read";
            return delivery.answer(Err(Failure::Rejected(why.into())));
        };
        let (now, mut out) = (self.replication.now(), Out::default());
        match ask {
            Ask::Open { nonce } => {
                let encode = |position| {
                    let mut bytes = BytesMut::new();
                    let id = SessionId(position);
                    codec::encode_body_into(&id, &mut bytes).expect("a number is small and encodable");
                    Ok(bytes.freeze())
                };
                self.cell.open_session(now, &self.fence, nonce, delivery, encode, &mut out);
            }
            Ask::Acknowledge { session, lowest } => {
                self.cell.acknowledge(now, &self.fence, session, lowest);
                delivery.answer(Ok(Bytes::new()));
            }
            Ask::End { session } => {
                self.cell.end_session(now, &self.fence, session, &mut out);
                delivery.answer(Ok(Bytes::new()));
            }
        }
        self.replication.perform(&self.cell, out);
    }
}

impl Handling<'_> {
    /// The handler returned. The reply leaves once what it rests on surely holds; [`Led::send_on`] has to follow.
    ///
    /// # Errors
    /// Nothing could be logged; the delivery was answered. If there were changes, the worker is ahead of the log, and has
    /// to begin anew.
    pub fn finish(mut self, delivery: Delivery, changes: Changes, reply: Reply) -> Result<(), Failure> {
        let led = self.led;
        let stepped = led.handled.lock().unwrap_or_else(PoisonError::into_inner).stepped;
        let reply = if stepped || !changes.is_empty() { honest(reply) } else { reply };
        let now = led.replication.now();
        let done = led.cell.finish(now, (&led.fence, led.kind), delivery, (stepped, changes), reply);
        if done.is_ok() {
            self.identity = None;
        }
        done.map_err(|refused| {
            let (delivery, why) = *refused;
            let told = if stepped { Failure::Timeout { maybe_applied: true } } else { why.clone() };
            delivery.answer(Err(told));
            why
        })
    }
}

impl Drop for Handling<'_> {
    fn drop(&mut self) {
        self.led.set_handled(Handled::default());
        if let Some(identity) = &self.identity {
            self.led.cell.abandon(&self.led.fence, identity);
        }
    }
}

/// An error of a handler that changed something says so.
fn honest(reply: Reply) -> Reply {
    reply.map_err(|failure| match failure {
        failure if failure.maybe_changed() => failure,
        failure => Failure::WorkerFailed(format!("it failed after it had changed something: {failure}")),
    })
}

impl Durable for Led {
    fn make_durable(&self, changes: Changes) -> BoxFuture<'_, Result<(), Failure>> {
        Box::pin(async move {
            if !changes.is_empty() {
                let identity = self.handled.lock().unwrap_or_else(PoisonError::into_inner).identity;
                self.append(&match identity {
                    Some(identity) => Entry::Step { identity, changes },
                    None => Entry::Changes(changes),
                })?;
                self.handled.lock().unwrap_or_else(PoisonError::into_inner).stepped = true;
            }
            let (done, held) = oneshot::channel();
            let mut out = Out::default();
            self.cell.wait((&self.fence, self.kind), done, &mut out);
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
