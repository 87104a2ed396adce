//! From typed handlers to what the runtime hosts: bytes in, bytes out.
//!
//! ```text
//!  handles::<Add>() ─┐
//!  handles::<Get>() ─┴▶ table, sorted by message id ─▶ decode ─▶ Handle::handle ─▶ encode
//! ```

use std::any::{TypeId, type_name};
use std::fmt;
use std::future::Future;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures_util::future::BoxFuture;
use serde::Serialize;
use tumen_actors::codec;
use tumen_actors::partitions::{Begin, Host, Hosted, Place};
use tumen_core::Kind;
use tumen_core::ids::NameError;
use tumen_core::partitions::request::{BODY_LEN_MAX, Failure, MessageId, Reply};

use super::merge::{Merge, PlanMerge, plan_merge};
use super::{Context, Handle, Message, Query, Worker};
use crate::error::Result;

/// Room that most messages and replies fit into.
const BODY_LEN_USUAL: usize = 64;

/// Carries out one message of one type. A plain function pointer: what it needs to know is in its type.
type Run<W> = for<'a> fn(&'a mut W, &'a mut Context<W>, Bytes) -> BoxFuture<'a, Reply>;

/// Answers one message of one type that only reads.
type Ask<W> = fn(&W, Bytes) -> Reply;

/// What a kind handles, sorted by message id.
pub(super) type Table<W> = Arc<[Handler<W>]>;

/// Which messages a worker handles. Made in the builder's closure: `.worker::<Carts>(|w| w.handles::<Add>())`.
pub struct Handlers<W> {
    table: Vec<Handler<W>>,
    merge: Option<PlanMerge<W>>,
}

pub(super) struct Handler<W> {
    pub(super) id: MessageId,
    name: &'static str,
    message: TypeId,
    type_name: &'static str,
    run: Run<W>,
    /// Where it only reads.
    pub(super) query: Option<Ask<W>>,
}

impl<W> Clone for Handler<W> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<W> Copy for Handler<W> {}

impl<W: Worker> Handlers<W> {
    const fn none() -> Self {
        Self { table: Vec::new(), merge: None }
    }

    /// The worker handles messages of type `M`. Saying it twice is the same as once.
    #[must_use]
    pub fn handles<M: Message>(mut self) -> Self
    where
        W: Handle<M>,
    {
        self.add::<M>(run::<W, M>, None);
        self
    }

    /// The worker answers messages of type `M` without changing anything: the primary does, and so can any other copy.
    #[must_use]
    pub fn queries<M: Message>(mut self) -> Self
    where
        W: Query<M>,
    {
        self.add::<M>(run_query::<W, M>, Some(query::<W, M>));
        self
    }

    /// What the worker's state became apart, in two clusters that found each other again, is merged: see [`Merge`].
    #[must_use]
    pub fn merges(mut self) -> Self
    where
        W: Merge,
    {
        self.merge = Some(plan_merge::<W>);
        self
    }

    fn add<M: Message>(&mut self, run: Run<W>, query: Option<Ask<W>>) {
        let (name, message) = (M::name(), TypeId::of::<M>());
        if !self.table.iter().any(|handler| handler.message == message) {
            let (id, type_name) = (MessageId::of(name), type_name::<M>());
            self.table.push(Handler { id, name, message, type_name, run, query });
        }
    }

    /// The table, sorted, with each id once.
    fn sorted(mut self) -> Result<Table<W>, WorkerError> {
        self.table.sort_by_key(|handler| handler.id);
        if let Some([one, other]) = self.table.windows(2).find(|pair| pair[0].id == pair[1].id) {
            let (first, second) = (one.type_name, other.type_name);
            return Err(WorkerError::Message { kind: W::KIND, name: one.name, first, second });
        }
        Ok(self.table.into())
    }
}

impl<W> fmt::Debug for Handlers<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.table.iter().map(|handler| handler.name)).finish()
    }
}

/// Why a kind of worker cannot be hosted. The node does not start.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WorkerError {
    /// Its `KIND` is no name.
    #[error("the worker {worker} has a KIND that cannot be taken: {why}")]
    Kind {
        /// The worker's type.
        worker: &'static str,
        /// What is wrong with the name.
        why: NameError,
    },
    /// Two of its message types have one name on the wire.
    #[error(
        "{kind} handles {first} and {second}, which are both called {name:?}: give one of them another Message::name"
    )]
    Message {
        /// The worker's kind.
        kind: &'static str,
        /// The name.
        name: &'static str,
        /// One message type.
        first: &'static str,
        /// The other.
        second: &'static str,
    },
    /// It is to merge, and keeps no copies that could.
    #[error("{kind} merges, but is not hosted as a replicated worker: register it with Builder::replicated")]
    Merges {
        /// The worker's kind.
        kind: &'static str,
    },
}

/// A kind of worker as the runtime hosts it, or why it cannot.
pub(crate) type Hosting = Result<Hosted, WorkerError>;

/// Erases a kind of worker: its start, and its handlers.
pub(crate) fn hosting<W, S, F>(start: S, handlers: impl FnOnce(Handlers<W>) -> Handlers<W>) -> Hosting
where
    W: Worker,
    S: Fn(Place) -> F + Send + Sync + 'static,
    F: Future<Output = Result<W>> + Send + 'static,
{
    let Prepared { kind, messages, queries, table, merge } = prepared(handlers)?;
    if merge.is_some() {
        return Err(WorkerError::Merges { kind: W::KIND });
    }
    let start = move |place: Place| -> BoxFuture<'static, Result<Box<dyn Host>, String>> {
        let (table, cx, started) = (Arc::clone(&table), Context::new(place.clone()), start(place));
        Box::pin(async move {
            let worker = started.await.map_err(|why| why.to_string())?;
            Ok(Box::new(Running { worker, cx, table }) as Box<dyn Host>)
        })
    };
    let begin = Begin::Start(Arc::new(start));
    Ok(Hosted { kind, messages, queries, mode: None, merges: false, begin })
}

/// What is common to all kinds.
pub(super) struct Prepared<W> {
    pub(super) kind: Kind,
    pub(super) messages: Vec<(MessageId, &'static str)>,
    pub(super) queries: Vec<MessageId>,
    pub(super) table: Table<W>,
    pub(super) merge: Option<PlanMerge<W>>,
}

/// Checks what is common to all kinds.
pub(super) fn prepared<W: Worker>(
    handlers: impl FnOnce(Handlers<W>) -> Handlers<W>,
) -> Result<Prepared<W>, WorkerError> {
    let kind = Kind::new(W::KIND).map_err(|why| WorkerError::Kind { worker: type_name::<W>(), why })?;
    let handlers = handlers(Handlers::none());
    let merge = handlers.merge;
    let table = handlers.sorted()?;
    let messages = table.iter().map(|handler| (handler.id, handler.name)).collect();
    let queries = table.iter().filter(|handler| handler.query.is_some()).map(|handler| handler.id).collect();
    Ok(Prepared { kind, messages, queries, table, merge })
}

/// One running worker.
pub(super) struct Running<W> {
    pub(super) worker: W,
    pub(super) cx: Context<W>,
    pub(super) table: Table<W>,
}

impl<W: Worker> Host for Running<W> {
    fn handle<'a>(&'a mut self, message: MessageId, body: Bytes) -> BoxFuture<'a, Reply> {
        match self.table.binary_search_by_key(&message, |handler| handler.id) {
            Ok(at) => (self.table[at].run)(&mut self.worker, &mut self.cx, body),
            Err(_) => {
                let why = format!("{} does not handle messages of type {message}", W::KIND);
                Box::pin(async { Err(Failure::Rejected(why)) })
            }
        }
    }

    fn stop(&mut self) -> BoxFuture<'_, ()> {
        Box::pin(self.worker.on_stop(&mut self.cx))
    }
}

fn run_query<'a, W: Query<M>, M: Message>(
    worker: &'a mut W,
    _: &'a mut Context<W>,
    body: Bytes,
) -> BoxFuture<'a, Reply> {
    Box::pin(std::future::ready(query::<W, M>(worker, body)))
}

#[allow(clippy::needless_pass_by_value, reason = "as all handlers take it")]
fn query<W: Query<M>, M: Message>(worker: &W, body: Bytes) -> Reply {
    let reply = worker.query(read::<M>(&body)?).map_err(|error| error.into_failure())?;
    encode(&reply).map_err(|why| Failure::WorkerFailed(format!("its reply to {:?} {why}", M::name())))
}

/// A message from its bytes.
pub(crate) fn read<M: Message>(body: &[u8]) -> Result<M, Failure> {
    codec::decode_body::<M>(body)
        .map_err(|why| Failure::Rejected(format!("the message {:?} cannot be read: {why}", M::name())))
}

fn run<'a, W: Handle<M>, M: Message>(
    worker: &'a mut W,
    cx: &'a mut Context<W>,
    body: Bytes,
) -> BoxFuture<'a, Reply> {
    Box::pin(async move {
        let message = read::<M>(&body)?;
        drop(body);
        let reply = worker.handle(message, cx).await.map_err(|error| error.into_failure())?;
        // What the handler did is done: that its reply cannot be told is no refusal.
        encode(&reply).map_err(|why| Failure::WorkerFailed(format!("its reply to {:?} {why}", M::name())))
    })
}

/// A message's or a reply's bytes. The error continues a sentence that begins with what it is.
pub(crate) fn encode<T: Serialize>(value: &T) -> Result<Bytes, String> {
    let mut body = BytesMut::with_capacity(BODY_LEN_USUAL);
    codec::encode_body_into(value, &mut body).map_err(|why| format!("cannot be written: {why}"))?;
    if body.len() > BODY_LEN_MAX {
        return Err(format!("has {} bytes; {BODY_LEN_MAX} are the most", body.len()));
    }
    Ok(body.freeze())
}
