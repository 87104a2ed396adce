//! From a typed kind of child to what the runtime hosts: bytes in, bytes out.
//!
//! ```text
//!  receives::<Charge>() ─┐
//!  receives::<Report>() ─┴▶ table, sorted by message id ─▶ decode ─▶ Receive::receive ─▶ encode
//! ```

use std::any::{TypeId, type_name};
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tumen_actors::codec;
use tumen_actors::names::child::{ChildHost, ChildPlace, ChildTwice, NotMade, STOP_WITHIN, StartChild};
use tumen_core::Kind;
use tumen_core::ids::NameError;
use tumen_core::names::placements::NameTaken;
use tumen_core::partitions::request::{Failure, MessageId, Reply};

use super::{Child, ChildContext, Receive};
use crate::error::Error;
use crate::worker::{Message, encode, read};

/// Carries out one message of one type. A plain function pointer: what it needs to know is in its type.
type Run<C> = for<'a> fn(&'a mut C, &'a mut ChildContext<C>, Bytes) -> BoxFuture<'a, Reply>;

/// Which messages a child answers. Made in the builder's closure: `.child::<Billing>(|c| c.receives::<Charge>())`.
pub struct Receives<C> {
    table: Vec<Receiver<C>>,
}

struct Receiver<C> {
    id: MessageId,
    name: &'static str,
    message: TypeId,
    type_name: &'static str,
    run: Run<C>,
}

impl<C: Child> Receives<C> {
    const fn none() -> Self {
        Self { table: Vec::new() }
    }

    /// The child answers messages of type `M`. Saying it twice is the same as once.
    #[must_use]
    pub fn receives<M: Message>(mut self) -> Self
    where
        C: Receive<M>,
    {
        let (name, message) = (M::name(), TypeId::of::<M>());
        if !self.table.iter().any(|receiver| receiver.message == message) {
            let (id, type_name) = (MessageId::of(name), type_name::<M>());
            self.table.push(Receiver { id, name, message, type_name, run: run::<C, M> });
        }
        self
    }

    /// The table, sorted, with each id once.
    fn sorted(mut self) -> Result<Arc<[Receiver<C>]>, ChildError> {
        self.table.sort_by_key(|receiver| receiver.id);
        if let Some([one, other]) = self.table.windows(2).find(|pair| pair[0].id == pair[1].id) {
            let (first, second) = (one.type_name, other.type_name);
            return Err(ChildError::Message { kind: C::KIND, name: one.name, first, second });
        }
        Ok(self.table.into())
    }
}

impl<C> fmt::Debug for Receives<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.table.iter().map(|receiver| receiver.name)).finish()
    }
}

/// Why a kind of child, a singleton or a placement cannot be had. The node does not start.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChildError {
    /// Its `KIND` is no name.
    #[error("the child {child} has a KIND that cannot be taken: {why}")]
    Kind {
        /// The child's type.
        child: &'static str,
        /// What is wrong with the name.
        why: NameError,
    },
    /// Two of its message types have one name on the wire.
    #[error(
        "{kind} receives {first} and {second}, which are both called {name:?}: give one of them another Message::name"
    )]
    Message {
        /// The child's kind.
        kind: &'static str,
        /// The name.
        name: &'static str,
        /// One message type.
        first: &'static str,
        /// The other.
        second: &'static str,
    },
    /// Two kinds have one name.
    #[error(transparent)]
    Twice(#[from] ChildTwice),
    /// A placement of one's own has a name that is none.
    #[error("the placement {name:?} has a name that cannot be taken: {why}")]
    PlacementName {
        /// The name.
        name: String,
        /// What is wrong with it.
        why: NameError,
    },
    /// A placement of one's own has a name that is another one's.
    #[error(transparent)]
    Placement(#[from] NameTaken),
}

/// Arguments of a kind, from JSON to what its start is given; or what is wrong with them.
pub(crate) type ReadArgs = fn(serde_json::Value) -> Result<Bytes, String>;

/// A kind of child as the runtime hosts it.
pub(crate) struct HostedChild {
    pub(crate) kind: Kind,
    pub(crate) start: StartChild,
    pub(crate) read_args: ReadArgs,
}

impl fmt::Debug for HostedChild {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HostedChild({})", self.kind)
    }
}

/// The kind's name, checked.
pub(crate) fn kind_of<C: Child>() -> Result<Kind, ChildError> {
    Kind::new(C::KIND).map_err(|why| ChildError::Kind { child: type_name::<C>(), why })
}

/// Erases a kind of child: its start, and what it receives.
pub(crate) fn hosting<C: Child>(
    receives: impl FnOnce(Receives<C>) -> Receives<C>,
) -> Result<HostedChild, ChildError> {
    let kind = kind_of::<C>()?;
    let table = receives(Receives::none()).sorted()?;
    let start = move |place: ChildPlace| -> BoxFuture<'static, Result<Box<dyn ChildHost>, NotMade>> {
        Box::pin(begin::<C>(Arc::clone(&table), place))
    };
    Ok(HostedChild { kind, start: Arc::new(start), read_args: read_args::<C> })
}

async fn begin<C: Child>(
    table: Arc<[Receiver<C>]>,
    place: ChildPlace,
) -> Result<Box<dyn ChildHost>, NotMade> {
    let args = codec::decode_body::<C::Args>(&place.args)
        .map_err(|why| NotMade::Failed(format!("its arguments cannot be read: {why}")))?;
    let mut cx = ChildContext::new(place);
    let child = C::start(args, &mut cx).await.map_err(|why| match why {
        Error::Ignore => NotMade::Ignored,
        why => NotMade::Failed(why.to_string()),
    })?;
    match cx.take_over() {
        None => Ok(Box::new(Running { child, cx, table })),
        Some(Ok(())) => Err(NotMade::Ignored),
        Some(Err(why)) => Err(NotMade::Failed(why)),
    }
}

fn read_args<C: Child>(json: serde_json::Value) -> Result<Bytes, String> {
    let args: C::Args = serde_json::from_value(json).map_err(|why| why.to_string())?;
    encode(&args)
}

/// One running child.
struct Running<C> {
    child: C,
    cx: ChildContext<C>,
    table: Arc<[Receiver<C>]>,
}

impl<C: Child> ChildHost for Running<C> {
    fn handle<'a>(&'a mut self, message: MessageId, body: Bytes) -> BoxFuture<'a, Reply> {
        match self.table.binary_search_by_key(&message, |receiver| receiver.id) {
            Ok(at) => (self.table[at].run)(&mut self.child, &mut self.cx, body),
            Err(_) => {
                let why = format!("{} does not receive messages of type {message}", C::KIND);
                Box::pin(async { Err(Failure::Rejected(why)) })
            }
        }
    }

    fn over(&mut self) -> Option<Result<(), String>> {
        self.cx.take_over()
    }

    fn stop(&mut self, moves: bool) -> BoxFuture<'_, Option<Bytes>> {
        Box::pin(async move {
            let handed = if moves { self.child.on_handover(&mut self.cx).await } else { None };
            self.child.on_stop(&mut self.cx).await;
            handed
        })
    }
}

fn run<'a, C: Receive<M>, M: Message>(
    child: &'a mut C,
    cx: &'a mut ChildContext<C>,
    body: Bytes,
) -> BoxFuture<'a, Reply> {
    Box::pin(async move {
        let message = read::<M>(&body)?;
        drop(body);
        let answered = child.receive(message, cx).await;
        if cx.is_stopped() && tokio::time::timeout(STOP_WITHIN, child.on_stop(cx)).await.is_err() {
            tracing::warn!(name = %cx.name(), "a child did not come to an end within {STOP_WITHIN:?}");
        }
        let reply = answered.map_err(|error| error.into_failure())?;
        // What was done is done: that the reply cannot be told is no refusal.
        encode(&reply).map_err(|why| Failure::WorkerFailed(format!("its reply to {:?} {why}", M::name())))
    })
}
