//! What users write: messages, workers, and who handles what.
//!
//! ```text
//!  node.call(key, Add { .. }) ─▶ bytes ─▶ the partition's primary ─▶ Handlers<Carts> ─▶ Handle<Add>::handle
//!        Result<u32>          ◀─ bytes ◀──────────────────────────────────┘ one message at a time
//! ```
//!
//! Plain serde types, plain `async fn`; no macro, and nothing of the runtime shows.

use std::future::Future;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::Result;

mod context;
mod handlers;
mod merge;
mod replicated;

pub use context::Context;
pub use handlers::{Handlers, WorkerError};
pub(crate) use handlers::{Hosting, encode, hosting, read};
pub use merge::Merge;
pub(crate) use replicated::replicating;
pub use replicated::{Query, Replicated};
pub use tumen_actors::partitions::Place;

/// Something that is asked of a worker, and what it answers.
///
/// Messages and replies go over the wire in `bincode`, which writes fields in order and without names. So serde's
/// `flatten`, `untagged`, `tag = ".."` and `skip_serializing_if` do not work in them, and the nodes of one cluster must
/// agree on a message's fields: give a message that changes a new name. A message, and a reply, has at most 8 MiB.
///
/// ```
/// # use tumen::prelude::*;
/// #[derive(Serialize, Deserialize)]
/// struct Add { user: String, n: u32 }
///
/// impl Message for Add {
///     type Reply = u32;
/// }
/// ```
pub trait Message: Serialize + DeserializeOwned + Send + 'static {
    /// What the worker answers if it does not refuse.
    type Reply: Serialize + DeserializeOwned + Send + 'static;

    /// Whether carrying it out twice does the same as once. Then a call is sent again by itself even where its first try
    /// may have been carried out, as when the node died that had it. Default: no.
    const IDEMPOTENT: bool = false;

    /// What the type is called on the wire; two types that one node handles never share a name.
    ///
    /// Default: the type's path in your code. Give it a name of its own before you move the type, or run nodes of two
    /// builds in one cluster.
    fn name() -> &'static str {
        std::any::type_name::<Self>()
    }
}

/// A kind of worker. Every partition runs one of each kind, on its primary.
///
/// What it handles is told by [`Handle`]. Its state lives and dies with the run of it, and a partition that moves begins
/// with a new one; one whose state is to survive is [`Replicated`] too.
pub trait Worker: Sized + Send + 'static {
    /// Its name in the whole cluster, such as `carts`: 1 to 128 letters, digits and `._-@:`.
    const KIND: &'static str;

    /// The worker stops in good order: its partition moves, or its node stops. It is not called where the worker
    /// panicked or its process died. Two seconds, then it is cut off.
    fn on_stop(&mut self, cx: &mut Context<Self>) -> impl Future<Output = ()> + Send {
        let _ = cx;
        async {}
    }
}

/// A message that a worker handles. One handler runs at a time, so `&mut self` is all the locking there is.
///
/// ```
/// # use tumen::prelude::*;
/// # #[derive(Serialize, Deserialize)]
/// # struct Add { n: u32 }
/// # impl Message for Add { type Reply = u32; }
/// #[derive(Default)]
/// struct Counter(u32);
///
/// impl Worker for Counter {
///     const KIND: &'static str = "counter";
/// }
///
/// impl Handle<Add> for Counter {
///     async fn handle(&mut self, add: Add, _: &mut Context<Self>) -> Result<u32> {
///         self.0 = self.0.checked_add(add.n).ok_or_else(|| Error::rejected("the counter is full"))?;
///         Ok(self.0)
///     }
/// }
/// ```
pub trait Handle<M: Message>: Worker {
    /// Carries the message out, or refuses it.
    ///
    /// # Errors
    /// [`Error::rejected`](crate::Error::rejected) says that nothing was changed and why; the caller is shown it. An
    /// error of a call that the handler made itself is passed on as text: it does not make the runtime send again.
    /// A panic answers [`Failure::WorkerFailed`](crate::Failure::WorkerFailed), and the worker is started anew.
    fn handle(&mut self, message: M, cx: &mut Context<Self>)
    -> impl Future<Output = Result<M::Reply>> + Send;
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
