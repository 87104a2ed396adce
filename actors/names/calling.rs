//! Messages to an actor by its name, or by the number that it has on its node.
//!
//! ```text
//!  call(name) ─▶ NameTable ─┬─ here ──────────────────▶ Local ─▶ mailbox ─┐
//!     ▲                     └─ elsewhere ─▶ data lane ─▶ Local ─▶ mailbox ┴─▶ reply
//!     └── it moves, or is about to run: wait for the next holder, within the deadline
//! ```

use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use tokio::sync::oneshot;
use tumen_core::names::{Holder, Name};
use tumen_core::partitions::request::{BODY_LEN_MAX, Failure, MessageId, Reply};

use super::Names;
use super::registry::{Local, RegistryMsg};
use super::table::Found;
use super::wire::ActorHeader;
use crate::partitions::delivery::{self, Delivery};
use crate::partitions::router::{CallOptions, lane_failure};
use crate::transport::{Deadline, Incoming, LaneError, Serve, Service};
use tumen_core::names::Reason;

impl Names {
    /// Gives an actor of this node a number, by which others reach it. `deliver` hands it a message, and answers what it
    /// cannot hand over. What the actor answers leaves only while this node has its lease.
    pub fn host(&self, deliver: impl Fn(Delivery) + Send + Sync + 'static) -> Holder {
        let actor = self.shared.registry.next_number();
        let gate = self.shared.gate.clone();
        let gated = move |mut delivery: Delivery| {
            let (to, told) = oneshot::channel();
            let body = delivery.begin();
            deliver(Delivery::local(delivery.message, body, delivery.deadline, delivery.identity, to));
            let gate = gate.clone();
            tokio::spawn(async move {
                // Dropped without an answer, the delivery answers for itself.
                let Ok(told) = told.await else { return };
                let maybe_applied = told.clone().into_reply().map_or_else(|it| it.maybe_changed(), |_| true);
                if gate.is_open() || !maybe_applied {
                    delivery.tell(told);
                } else {
                    delivery.answer(Err(Failure::Timeout { maybe_applied }));
                }
            });
        };
        self.shared.registry.add(actor, Local::new(Arc::new(gated)));
        Holder { node: self.shared.me.clone(), actor }
    }

    /// An actor of this node ended: its names are given back.
    pub fn unhost(&self, actor: u64, reason: Reason) {
        self.shared.ports.registry.cast(RegistryMsg::Gone { actor, reason });
    }

    /// Asks whoever answers under a name, wherever that is. While a child moves, or is about to run, it is waited for.
    ///
    /// # Errors
    /// [`Failure::NoPartition`]: nothing stands under the name. Otherwise see [`Failure`].
    pub async fn call(&self, name: &Name, message: MessageId, body: Bytes, within: Duration) -> Reply {
        self.call_with(name, message, body, CallOptions { within, ..CallOptions::default() }).await
    }

    /// The same, sent again where a first try may have been carried out, if the options say that it does no harm.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub async fn call_with(
        &self,
        name: &Name,
        message: MessageId,
        body: Bytes,
        options: CallOptions,
    ) -> Reply {
        let deadline = Deadline::after(options.within);
        let mut maybe_applied = false;
        loop {
            let left = Deadline::at(deadline.instant());
            let failure = match self.lookup(name) {
                Some(Found { holder, .. }) => {
                    match self.call_actor(&holder, message, body.clone(), left).await {
                        Err(failure) if failure.is_safe_to_retry() => failure,
                        Err(
                            failure @ (Failure::Timeout { maybe_applied: true } | Failure::Fenced { .. }),
                        ) if options.idempotent && !left.within().is_zero() => {
                            maybe_applied = true;
                            failure
                        }
                        // The other node is cut off and this one is not: the child is about to run elsewhere.
                        Err(Failure::NoQuorum) if self.shared.gate.is_open() => Failure::NoQuorum,
                        reply => return reply,
                    }
                }
                None if self.shared.table.claim(name).is_none() => {
                    return Err(Failure::NoPartition(format!("nothing is registered under {name}")));
                }
                None => Failure::NotReady,
            };
            if tokio::time::timeout_at(deadline.instant(), self.changed(name)).await.is_err() {
                return Err(match failure {
                    _ if maybe_applied => Failure::Timeout { maybe_applied },
                    Failure::Fenced { .. } | Failure::Stale { .. } => Failure::NotReady,
                    other => other,
                });
            }
        }
    }

    /// Asks one actor on one run of one node: never one of a later run.
    ///
    /// # Errors
    /// [`Failure::Fenced`]: it is no more, and nothing changed. Otherwise see [`Failure`].
    pub async fn call_actor(
        &self,
        holder: &Holder,
        message: MessageId,
        body: Bytes,
        deadline: Deadline,
    ) -> Reply {
        if body.len() > BODY_LEN_MAX {
            let len = body.len();
            return Err(Failure::Rejected(format!(
                "a message has at most {BODY_LEN_MAX} bytes, this one has {len}"
            )));
        }
        if holder.node == self.shared.me {
            let (to, told) = oneshot::channel();
            let delivery = Delivery::local(message, body, deadline.instant(), None, to);
            self.deliver(holder.actor, delivery);
            return match tokio::time::timeout_at(deadline.instant(), told).await {
                Ok(Ok(told)) => told.into_reply(),
                Ok(Err(_)) => Err(Failure::NotReady),
                Err(_) => Err(Failure::Timeout { maybe_applied: true }),
            };
        }
        let header = ActorHeader { boot: holder.node.boot, actor: holder.actor, message };
        let encode = |buffer: &mut BytesMut| {
            header.encode(buffer);
            buffer.put_slice(&body);
        };
        let asked = self.shared.transport.ask(&holder.node.node, Service::Application, deadline, encode);
        match asked.await.unwrap_or(Err(LaneError::Lost { maybe_delivered: true })) {
            Ok(reply) => delivery::read(reply).into_reply(),
            Err(error) => Err(lane_failure(&error)),
        }
    }

    fn deliver(&self, actor: u64, delivery: Delivery) {
        if !self.shared.gate.is_open() {
            return delivery.answer(Err(self.shared.gate.refusal()));
        }
        self.shared.registry.deliver(actor, delivery);
    }
}

/// Takes other nodes' messages to actors of this one.
pub(super) struct Answering {
    names: Names,
}

impl Answering {
    pub(super) const fn new(names: Names) -> Self {
        Self { names }
    }
}

impl Serve for Answering {
    fn serve(&self, batch: &mut Vec<Incoming>) {
        for Incoming { mut body, deadline, reply } in batch.drain(..) {
            let refuse = |to, failure| delivery::send(to, &delivery::Told::Reply(Err(failure)));
            let Some(ActorHeader { boot, actor, message }) = ActorHeader::decode(&mut body) else {
                refuse(reply, Failure::Rejected("the request cannot be read".into()));
                continue;
            };
            if boot != self.names.shared.me.boot {
                refuse(reply, Failure::Fenced { changed: false });
                continue;
            }
            self.names.deliver(actor, Delivery::remote(message, body, deadline, None, reply));
        }
    }
}
