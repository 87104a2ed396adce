//! Messages to an actor by its name, or by the number that it has on its node.
//!
//! ```text
//!  call(name) ─▶ NameTable ─┬─ here ──────────────────▶ Local ─▶ mailbox ─┐
//!  cast(name)               ├─ elsewhere ─▶ data lane ─▶ Local ─▶ mailbox ┴─▶ reply
//!                           └─ it moves, or is about to run ─▶ NameLine: waits for the next holder, in order
//! ```

use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use tokio::sync::oneshot;
use tokio::time::Instant;
use tumen_core::names::{Holder, Name};
use tumen_core::partitions::request::{BODY_LEN_MAX, Failure, MessageId, Reply};

use super::line::{Item, NameLine, UnderWay, nothing_there};
use super::registry::{Local, RegistryMsg};
use super::table::Reach;
use super::wire::ActorHeader;
use super::{NameFailure, Names};
use crate::partitions::delivery::{self, Delivery, Told};
use crate::partitions::router::{CallOptions, lane_failure};
use crate::transport::{Deadline, Incoming, LaneError, Serve, Service};
use tumen_core::names::Reason;

/// How much later than its deadline a call that waited is answered at most.
const TOLD_WITHIN: Duration = Duration::from_millis(20);

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
        self.shared.registry.add(actor, Local::new(Arc::new(gated), self.shared.clock.unix()));
        Holder { node: self.shared.me.clone(), actor }
    }

    /// An actor of this node ended: its names are given back.
    pub fn unhost(&self, actor: u64, reason: Reason) {
        self.shared.ports.registry.cast(RegistryMsg::Gone { actor, reason });
    }

    /// Asks whoever answers under a name, wherever that is. While a child moves, or is about to run, it is waited for, in order:
    /// what was asked, or cast, before from this node comes first.
    ///
    /// # Errors
    /// As [`Self::call_with`].
    pub async fn call(
        &self,
        name: &Name,
        message: MessageId,
        body: Bytes,
        within: Duration,
    ) -> Result<Bytes, NameFailure> {
        self.call_with(name, message, body, CallOptions { within, ..CallOptions::default() }).await
    }

    /// The same, sent again where a first try may have been carried out, if the options say that it does no harm: such a
    /// message may be carried out after later ones.
    ///
    /// # Errors
    /// [`Failure::NoPartition`]: nothing stands under the name. [`NameFailure::QueueFull`] and [`NameFailure::Overtaken`]: nothing
    /// changed. Otherwise see [`Failure`].
    pub async fn call_with(
        &self,
        name: &Name,
        message: MessageId,
        body: Bytes,
        options: CallOptions,
    ) -> Result<Bytes, NameFailure> {
        let deadline = Deadline::after(options.within);
        let (to, told) = oneshot::channel();
        let item = |body| Item::new(message, body, (deadline.instant(), &options), false, to);
        check_len(&body)?;
        match self.way(name) {
            Some(Way::Straight(under_way, holder)) => {
                let reply = self.call_actor(&holder, message, body.clone(), deadline).await;
                match self.judge(reply, options.idempotent, deadline.instant()) {
                    Ok(again) => {
                        let line = Arc::clone(under_way.line());
                        self.wait_in_line(name, &line, Some(under_way), item(body).with(again));
                    }
                    Err(reply) => {
                        under_way.ended(&reply);
                        return Ok(reply?);
                    }
                }
            }
            Some(Way::Waits(line)) => self.wait_in_line(name, &line, None, item(body)),
            None if self.shared.bringing.is_coming(name) => self.send_anew(name, vec![item(body)]).await,
            None => return Err(nothing_there(name)),
        }
        // Whoever looks after what waits tells it when it is too late.
        match tokio::time::timeout_at(deadline.instant() + TOLD_WITHIN, told).await {
            Ok(Ok(reply)) => reply,
            Ok(Err(_)) | Err(_) => Err(Failure::Timeout { maybe_applied: true }.into()),
        }
    }

    /// Sends a message to whoever answers under a name, and does not wait for an answer: `Ok` says that it is on its way to their
    /// node, or waits for the next instance, within the options' time. Messages of one sender keep their order, with those
    /// that it asks too. Nobody is told what becomes of it there.
    ///
    /// # Errors
    /// As [`Self::call_with`], as far as it is known at once. It was not sent.
    pub fn cast(
        &self,
        name: &Name,
        message: MessageId,
        body: Bytes,
        options: CallOptions,
    ) -> Result<(), NameFailure> {
        let deadline = Instant::now() + options.within;
        check_len(&body)?;
        let (to, mut told) = oneshot::channel();
        let item = Item::new(message, body, (deadline, &options), true, to);
        match self.way(name) {
            Some(Way::Straight(under_way, holder)) => self.send_one(name, under_way, &holder, item),
            Some(Way::Waits(line)) => self.wait_in_line(name, &line, None, item),
            None if self.shared.bringing.is_coming(name) => {
                let (names, name) = (self.clone(), name.clone());
                self.shared.runtime.spawn(async move { names.send_anew(&name, vec![item]).await });
            }
            None => return Err(nothing_there(name)),
        }
        match told.try_recv() {
            Ok(Err(failure)) => Err(failure),
            Ok(Ok(_)) | Err(_) => Ok(()),
        }
    }

    /// The way to whoever answers under a name. `None`: nothing stands there.
    pub(super) fn way(&self, name: &Name) -> Option<Way> {
        let Reach { line, holder } = self.shared.table.reach(name)?;
        let straight = holder.and_then(|(number, holder)| Some((line.enter(number, &holder)?, holder)));
        Some(straight.map_or(Way::Waits(line), |(under_way, holder)| Way::Straight(under_way, holder)))
    }

    /// Sends a message to one actor on one run of one node, and does not wait for an answer.
    ///
    /// # Errors
    /// It was not sent; see [`Failure`].
    pub fn cast_actor(
        &self,
        holder: &Holder,
        message: MessageId,
        body: Bytes,
        within: Duration,
    ) -> Result<(), Failure> {
        let (to, mut told) = oneshot::channel();
        // Nobody may want to know any more.
        self.send_actor(holder, message, body, Instant::now() + within, move |reply| drop(to.send(reply)));
        match told.try_recv() {
            Ok(Err(failure)) => Err(failure),
            Ok(Ok(_)) | Err(_) => Ok(()),
        }
    }

    /// Sends a message to one actor, and does something with the answer, where it comes: quick, and without blocking.
    pub(super) fn send_actor(
        &self,
        holder: &Holder,
        message: MessageId,
        body: Bytes,
        deadline: Instant,
        told: impl FnOnce(Reply) + Send + Sync + 'static,
    ) {
        if let Err(failure) = check_len(&body) {
            return told(Err(failure));
        }
        if holder.node == self.shared.me {
            let told = Box::new(|what: Told| told(what.into_reply()));
            return self.deliver(holder.actor, Delivery::run(message, body, deadline, told));
        }
        let header = ActorHeader { boot: holder.node.boot, actor: holder.actor, message };
        let encode = |buffer: &mut BytesMut| {
            header.encode(buffer);
            buffer.put_slice(&body);
        };
        let within = deadline.saturating_duration_since(Instant::now());
        self.shared.transport.request(&holder.node.node, Service::Application, within, encode, |reply| {
            told(match reply {
                Ok(reply) => delivery::read(reply).into_reply(),
                Err(error) => Err(lane_failure(&error)),
            });
        });
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
        check_len(&body)?;
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

/// How a message reaches whoever answers.
pub(super) enum Way {
    Straight(UnderWay, Holder),
    Waits(Arc<NameLine>),
}

fn check_len(body: &Bytes) -> Result<(), Failure> {
    let len = body.len();
    if len <= BODY_LEN_MAX {
        return Ok(());
    }
    Err(Failure::Rejected(format!("a message has at most {BODY_LEN_MAX} bytes, this one has {len}")))
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
            let refuse = |to, failure| delivery::send(to, &Told::Reply(Err(failure)));
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
