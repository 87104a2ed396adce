//! Names, supervised children, singletons: what the cluster keeps running, exactly once, and how it is asked by its name.
//!
//! ```text
//!  start_child::<Billing>("billing", args) ─▶ the name is claimed ─▶ a node is chosen ─▶ Billing::start, there
//!  call(Charge { .. }) ─▶ name ─▶ wherever it runs ─▶ Receives<Billing> ─▶ Receive<Charge>::receive
//!       Result<Receipt> ◀── bytes ◀──────────────────────────┘ one message at a time
//! ```
//!
//! A child has one name, and one instance at most that can answer: the name is claimed before anything runs under it, and no
//! other node starts it before the last one surely runs it no more. A node that is cut off from the majority pauses: what runs
//! there answers nothing. A *singleton* is a child that is always started again.

use std::future::Future;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::Result;
use crate::worker::Message;

mod child_ref;
mod context;
pub mod echo;
mod hosted;
mod receives;
mod spec;

pub use child_ref::ChildRef;
pub use context::ChildContext;
pub use hosted::{Hosted, RemoteRef};
pub use receives::{ChildError, Receives};
pub(crate) use receives::{HostedChild, ReadArgs, hosting};
pub use spec::ChildSpec;
/// For [`Error::Name`](crate::Error::Name): why a name was not claimed, or a child not started.
pub use tumen_actors::names::NameFailure;
/// How long a child has to start, and for its last words.
pub use tumen_actors::names::child::{START_WITHIN, STOP_WITHIN};
#[doc(inline)]
pub use tumen_actors::names::conflicts::Lost;
/// How many messages wait on one node at most, for all names together, and how many bytes of theirs.
pub use tumen_actors::names::line::{WAITING_ON_NODE_BYTES_MAX, WAITING_ON_NODE_MAX};
pub use tumen_core::names::conflict::{Conflict, Contender, Rule, Winner};
pub use tumen_core::names::directory::{Refused, VALUE_LEN_MAX};
pub use tumen_core::names::line::{WAITING_BYTES_MAX, WAITING_MAX};
pub use tumen_core::names::name::NAME_LEN_MAX;
pub use tumen_core::names::placement::{Candidate, Choice, Placement, Placing};
pub use tumen_core::names::{ClaimNumber, Holder, Name, NameLenError, Reason, Spec, Stage};
pub use tumen_core::supervision::Restart;

/// A kind of child: something of which the cluster runs one instance under each name that it is started by.
///
/// Its state lives and dies with the instance. The next one begins with [`Child::start`], with the same arguments, and, after
/// a move in good order, with what this one handed over.
///
/// ```
/// # use tumen::prelude::*;
/// # #[derive(Serialize, Deserialize)]
/// # struct Charge { cents: u64 }
/// # impl Message for Charge { type Reply = u64; }
/// struct Billing {
///     currency: String,
///     total: u64,
/// }
///
/// impl Child for Billing {
///     const KIND: &'static str = "billing";
///     type Args = String;
///
///     async fn start(currency: String, cx: &mut ChildContext<Self>) -> Result<Self> {
///         println!("{} runs on {} under the fence {}", cx.name(), cx.node(), cx.fence());
///         Ok(Self { currency, total: 0 })
///     }
/// }
///
/// impl Receive<Charge> for Billing {
///     async fn receive(&mut self, charge: Charge, _: &mut ChildContext<Self>) -> Result<u64> {
///         self.total += charge.cents;
///         Ok(self.total)
///     }
/// }
/// ```
pub trait Child: Sized + Send + 'static {
    /// Its name in the whole cluster, such as `billing`: 1 to 128 letters, digits and `._-@:`. Nodes that are to run it say
    /// [`Builder::child`](crate::Builder::child).
    const KIND: &'static str;

    /// What it is started with: the same each time. It goes over the wire as messages do, and has at most
    /// [`VALUE_LEN_MAX`] bytes there.
    type Args: Serialize + DeserializeOwned + Send + 'static;

    /// Begins an instance. It has [`START_WITHIN`]; others start meanwhile.
    ///
    /// # Errors
    /// [`Error::ignore`](crate::Error::ignore) says that the child is not to run: then its name is free again. Anything else, and
    /// a panic, is a start that failed. The first start of a child is not tried again; later ones are, as failures are.
    fn start(args: Self::Args, cx: &mut ChildContext<Self>) -> impl Future<Output = Result<Self>> + Send;

    /// The child moves to another node in good order: somebody said so, or this node stops. What is returned the next
    /// instance finds in [`ChildContext::handed`]; at most [`VALUE_LEN_MAX`] bytes, more are dropped. It is followed by
    /// [`Child::on_stop`], and both together have [`STOP_WITHIN`].
    ///
    /// It is not called where the child failed, or its node died: the next instance then finds what this one was handed.
    fn on_handover(&mut self, cx: &mut ChildContext<Self>) -> impl Future<Output = Option<Bytes>> + Send {
        let _ = cx;
        async { None }
    }

    /// The child ends in good order: it said so itself, or it was terminated, or it moves. It is not called where it
    /// failed, or its process died.
    fn on_stop(&mut self, cx: &mut ChildContext<Self>) -> impl Future<Output = ()> + Send {
        let _ = cx;
        async {}
    }
}

/// A message that a child answers. One is carried out at a time, so `&mut self` is all the locking there is.
///
/// See [`Child`] for an example.
pub trait Receive<M: Message>: Child {
    /// Carries the message out, or refuses it.
    ///
    /// # Errors
    /// [`Error::rejected`](crate::Error::rejected) says that nothing was changed and why; the caller is shown it, and the child
    /// goes on. A panic answers [`Failure::WorkerFailed`](crate::Failure::WorkerFailed), and the child has failed: whether it is
    /// started again is told by its [`Restart`].
    fn receive(
        &mut self,
        message: M,
        cx: &mut ChildContext<Self>,
    ) -> impl Future<Output = Result<M::Reply>> + Send;
}

/// A name as text: as it is where it is UTF-8, otherwise with `\xNN` for each byte that is no plain text.
pub(crate) fn text_of(bytes: &[u8]) -> String {
    std::str::from_utf8(bytes).map_or_else(|_| bytes.escape_ascii().to_string(), str::to_owned)
}

#[cfg(test)]
mod tests;
