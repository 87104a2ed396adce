//! Workers whose state survives: it is kept on all copies of their partition, and changed only through changes.
//!
//! ```text
//!  primary   handle ─ cx.commit(change) ─▶ apply ─▶ log ─▶ the copies ─▶ apply
//!                                           └ the reply leaves when the mode's promise holds
//! ```

use std::future::Future;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tumen_actors::codec;
use tumen_actors::partitions::machine::{Journal, Machine};
use tumen_actors::partitions::{Begin, Host, Hosted, Place};
use tumen_core::cluster::snapshot::Mode;
use tumen_core::partitions::request::{Failure, MessageId, Reply};

use super::handlers::{Handlers, Hosting, Prepared, Running, Table, encode, prepared};
use super::merge::PlanMerge;
use super::{Context, Message, Worker};
use crate::error::{Error, Result};

/// A worker whose state is kept on all copies of its partition.
///
/// It decides where it is primary, in [`Handle`](super::Handle), and changes its state through changes only:
/// [`Context::commit`] applies one here and has every other copy apply it too. A copy that takes over has applied all that
/// was ever acknowledged.
///
/// ```
/// # use tumen::prelude::*;
/// #[derive(Default, Serialize, Deserialize)]
/// struct Counter(u32);
///
/// impl Worker for Counter {
///     const KIND: &'static str = "counter";
/// }
///
/// impl Replicated for Counter {
///     type Change = u32;
///
///     fn apply(&mut self, to: u32) {
///         self.0 = to;
///     }
/// }
///
/// # #[derive(Serialize, Deserialize)]
/// # struct Add { n: u32 }
/// # impl Message for Add { type Reply = u32; }
/// impl Handle<Add> for Counter {
///     async fn handle(&mut self, add: Add, cx: &mut Context<Self>) -> Result<u32> {
///         let to = self.0.checked_add(add.n).ok_or_else(|| Error::rejected("the counter is full"))?;
///         cx.commit(self, to)?;
///         Ok(self.0)
///     }
/// }
/// ```
pub trait Replicated: Worker + Default + Serialize + DeserializeOwned + Sync {
    /// What changes the state. It goes over the wire as messages do.
    type Change: Serialize + DeserializeOwned + Send + 'static;

    /// What an acknowledgement of this kind promises, where that is not what the cluster's mode does. All nodes must say
    /// the same: one that joins and does not is refused.
    ///
    /// All kinds of a partition share one log, which is kept as surely as the strictest of them wants. So a kind that is
    /// [`Mode::Async`](crate::Mode) among stricter ones saves itself the wait for other copies, and nothing else; and one that is
    /// stricter than the others has them wait for the disk too where it does.
    const MODE: Option<Mode> = None;

    /// Changes the state. Called on every copy with the same changes in the same order, so it must come to the same: no
    /// clock, no chance, no iteration over a `HashMap`, nothing from outside.
    fn apply(&mut self, change: Self::Change);

    /// The state as bytes, for a copy that begins. Default: as serde writes it.
    ///
    /// Equal states should be written the same, whichever copy writes: copies are compared by the hash of these bytes
    /// ([`Node::full_sync`](crate::Node::full_sync)). What is kept in a `BTreeMap` is, what is kept in a `HashMap` is not.
    ///
    /// # Errors
    /// What cannot be written. The copies that there are go on; no new one can be made.
    fn snapshot(&self) -> Result<Bytes> {
        let mut bytes = BytesMut::new().writer();
        codec::write_state(self, &mut bytes).map_err(|why| Error::rejected(why.to_string()))?;
        Ok(bytes.into_inner().freeze())
    }

    /// The state that [`Self::snapshot`] wrote.
    ///
    /// # Errors
    /// What cannot be read: the copy is not made.
    fn restore(snapshot: &[u8]) -> Result<Self> {
        codec::read_state(snapshot).map_err(|why| Error::rejected(why.to_string()))
    }

    /// Another worker with the same state: what a primary runs ahead on. Default: by [`Self::snapshot`] and
    /// [`Self::restore`], which takes its time where the state is large; a type that can be cloned does better to say so.
    ///
    /// # Errors
    /// What cannot be written or read: the partition does not open.
    fn fork(&self) -> Result<Self> {
        Self::restore(&self.snapshot()?)
    }

    /// The worker became primary and handles messages from now on. What it commits is logged.
    ///
    /// # Errors
    /// It cannot serve: it is tried again, later and later.
    fn on_promote(&mut self, cx: &mut Context<Self>) -> impl Future<Output = Result<()>> + Send {
        let _ = cx;
        async { Ok(()) }
    }

    /// The partition moves to another node, as planned, or this one stops in good order; nothing is handled here any more.
    /// What it commits goes along. Nobody serves the partition meanwhile, so it is given 750 ms, after which it is dropped
    /// where it waits; what it committed until then goes along all the same. Not called where the node dies, or a plan takes
    /// the partition away after its lease ran out.
    fn on_handover(&mut self, cx: &mut Context<Self>) -> impl Future<Output = ()> + Send {
        let _ = cx;
        async {}
    }

    /// The worker is primary no more, in good order. Its state here is dropped. It is followed by
    /// [`Worker::on_stop`].
    fn on_demote(&mut self, cx: &mut Context<Self>) -> impl Future<Output = ()> + Send {
        let _ = cx;
        async {}
    }
}

/// A message that only reads: answered by the primary, or by any copy where the caller is content with what was a moment
/// ago.
pub trait Query<M: Message>: Replicated {
    /// Answers, or refuses.
    ///
    /// # Errors
    /// [`Error::rejected`](crate::Error::rejected) says why.
    fn query(&self, message: M) -> Result<M::Reply>;
}

impl<W: Replicated> Context<W> {
    /// Changes the worker's state: at once here, and on every other copy in the same order. The reply, and every later
    /// one, leaves when the mode's promise holds for it.
    ///
    /// # Errors
    /// The change cannot be written, or is one too many for one message: it was not made. Those before it were.
    pub fn commit(&mut self, worker: &mut W, change: W::Change) -> Result<()> {
        let bytes = encode(&change).map_err(|why| Error::rejected(format!("a change {why}")))?;
        let journal =
            self.journal.as_mut().ok_or_else(|| Error::rejected("nothing can be committed here"))?;
        journal.commit(bytes, || worker.apply(change)).map_err(|why| Error::rejected(why.to_string()))
    }

    /// Waits until everything that was committed so far holds as the mode promises: before something is done outside of
    /// the cluster that cannot be undone.
    ///
    /// # Errors
    /// It may not hold: this node is primary no more, or too few copies are there. Return the error.
    pub async fn durable(&mut self) -> Result<()> {
        match &mut self.journal {
            Some(journal) => Ok(journal.durable().await?),
            None => Ok(()),
        }
    }
}

/// Erases a kind of replicated worker.
pub(crate) fn replicating<W: Replicated>(handlers: impl FnOnce(Handlers<W>) -> Handlers<W>) -> Hosting {
    let Prepared { kind, messages, queries, table, merge } = prepared(handlers)?;
    let make = move || -> Box<dyn Machine> {
        Box::new(State { worker: W::default(), table: Arc::clone(&table), merge })
    };
    let begin = Begin::Replicated(Arc::new(make));
    Ok(Hosted { kind, messages, queries, mode: W::MODE, merges: merge.is_some(), begin })
}

/// The worker on any copy.
struct State<W> {
    worker: W,
    table: Table<W>,
    merge: Option<PlanMerge<W>>,
}

impl<W: Replicated> Machine for State<W> {
    fn apply(&mut self, change: &[u8]) -> Result<(), String> {
        let change = codec::decode_body(change).map_err(|why| why.to_string())?;
        self.worker.apply(change);
        Ok(())
    }

    fn fork(&self) -> Result<Box<dyn Machine>, String> {
        let worker = self.worker.fork().map_err(|why| why.to_string())?;
        Ok(Box::new(Self { worker, table: Arc::clone(&self.table), merge: self.merge }))
    }

    fn snapshot(&self) -> Result<Bytes, String> {
        self.worker.snapshot().map_err(|why| why.to_string())
    }

    fn restore(&mut self, snapshot: &[u8]) -> Result<(), String> {
        self.worker = W::restore(snapshot).map_err(|why| why.to_string())?;
        Ok(())
    }

    fn query(&self, message: MessageId, body: Bytes) -> Reply {
        let found = self.table.iter().find(|handler| handler.id == message);
        match found.and_then(|handler| Some((handler, handler.query?))) {
            Some((_, query)) => query(&self.worker, body),
            None => Err(Failure::Rejected(format!(
                "{} does not answer messages of type {message} on a replica: ask the primary",
                W::KIND
            ))),
        }
    }

    fn into_host(self: Box<Self>, place: Place, journal: Journal) -> Box<dyn Host> {
        let cx = Context::journalled(place, journal);
        let running = Running { worker: self.worker, cx, table: self.table };
        Box::new(Primary { running, merge: self.merge })
    }
}

/// The worker on the primary.
struct Primary<W> {
    running: Running<W>,
    merge: Option<PlanMerge<W>>,
}

impl<W: Replicated> Host for Primary<W> {
    fn handle<'a>(&'a mut self, message: MessageId, body: Bytes) -> BoxFuture<'a, Reply> {
        self.running.handle(message, body)
    }

    fn journal(&mut self) -> Option<&mut Journal> {
        self.running.cx.journal.as_mut()
    }

    fn promote(&mut self) -> BoxFuture<'_, Result<(), String>> {
        let Running { worker, cx, .. } = &mut self.running;
        worker.on_promote(cx).map(|result| result.map_err(|why| why.to_string())).boxed()
    }

    fn hand_over(&mut self) -> BoxFuture<'_, ()> {
        let Running { worker, cx, .. } = &mut self.running;
        worker.on_handover(cx).boxed()
    }

    fn plan_merge(&self, state: &[u8]) -> Result<Vec<Bytes>, String> {
        match self.merge {
            Some(plan) => plan(&self.running.worker, state),
            None => Err(format!("{} does not merge", W::KIND)),
        }
    }

    fn make_change(&mut self, change: Bytes) -> Result<(), String> {
        let Running { worker, cx, .. } = &mut self.running;
        // Read back from what the other copies will read.
        let read =
            codec::decode_body(&change).map_err(|why| format!("a change cannot be read back: {why}"))?;
        let journal = cx.journal.as_mut().ok_or("nothing can be committed here")?;
        journal.commit(change, || worker.apply(read)).map_err(|why| why.to_string())
    }

    fn stop(&mut self) -> BoxFuture<'_, ()> {
        let Running { worker, cx, .. } = &mut self.running;
        async {
            worker.on_demote(cx).await;
            worker.on_stop(cx).await;
        }
        .boxed()
    }
}
