//! What this node asks of the cluster's names: who answers under them, what runs, what shall run, and what shall not.

use std::sync::Arc;

use bytes::Bytes;
use tumen_actors::names::{Found, NameFailure, Names, Standing};
use tumen_core::names::{Claim, ClaimNumber, Held, Name, Spec, Stage};
use tumen_core::partitions::request::Failure;
use tumen_core::{Kind, NodeBoot};

use super::{Node, allowing, envelope, opened};
use crate::error::{Error, Result};
use crate::names::{Child, ChildRef, ChildSpec};
use crate::worker::Message;

/// Who answers under a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registered {
    /// The name.
    pub name: Name,
    /// The number of its claim: of a child, of this start of it, which is its fence.
    pub fence: ClaimNumber,
    /// On which run of which node.
    pub node: NodeBoot,
    /// The actor's number on that run of the node, never given twice.
    pub actor: u64,
    /// The kind, of a child.
    pub kind: Option<Kind>,
    /// What is said of it.
    pub value: Bytes,
}

/// A supervised child, whether it runs at present or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChildInfo {
    /// Its name.
    pub name: Name,
    /// The number of its newest start, which is its fence; of one that never was started, of its claim.
    pub fence: ClaimNumber,
    /// How far it is, and where.
    pub stage: Stage,
    /// How it is to be run.
    pub spec: Arc<Spec>,
    /// How often it was started after the first time.
    pub restarts: u32,
    /// What is said of it.
    pub value: Bytes,
}

/// How many children there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChildCounts {
    /// In all.
    pub children: usize,
    /// Of these, how many run.
    pub running: usize,
}

impl ChildInfo {
    /// What stands under the name, if it is a child.
    pub(crate) fn of((name, claim): (Name, Claim)) -> Option<Self> {
        let Held::Child(child) = claim.held else { return None };
        let (stage, spec, restarts) = (child.stage, child.spec, child.restarts);
        Some(Self { name, fence: claim.number, stage, spec, restarts, value: claim.value })
    }
}

impl Node {
    pub(crate) fn names(&self) -> &Names {
        self.runtime().names()
    }

    /// Has the cluster run a child of the kind `C` under a name, on whichever node is chosen for it, and waits until it runs. It is
    /// always started again when it ended: see [`ChildSpec`]. The same child asked for twice, from any nodes, is the same
    /// as once.
    ///
    /// ```no_run
    /// # use tumen::prelude::*;
    /// # struct Billing;
    /// # impl Child for Billing {
    /// #     const KIND: &'static str = "billing";
    /// #     type Args = String;
    /// #     async fn start(_: String, _: &mut ChildContext<Self>) -> Result<Self> { Ok(Self) }
    /// # }
    /// # #[derive(Serialize, Deserialize)]
    /// # struct Charge { cents: u64 }
    /// # impl Message for Charge { type Reply = u64; }
    /// # impl Receive<Charge> for Billing {
    /// #     async fn receive(&mut self, charge: Charge, _: &mut ChildContext<Self>) -> Result<u64> { Ok(charge.cents) }
    /// # }
    /// # async fn bill(node: &Node) -> Result<()> {
    /// let billing = node.start_child::<Billing>("billing/eu", "EUR".into()).await?;
    /// let total = billing.call(node, Charge { cents: 250 }).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::BadName`]; [`Error::Name`] where something else stands under the name, no node can start it, or its start
    /// failed, or said that it is not to run ([`NameFailure::Ignored`]): then nothing is tracked. It has
    /// [`Config::start_deadline`](crate::config::Config); after a [`NameFailure::StartTimeout`] it is
    /// still being tried.
    pub async fn start_child<C: Child>(&self, name: impl AsRef<[u8]>, args: C::Args) -> Result<ChildRef<C>> {
        self.start_child_with(name, args, ChildSpec::new()).await
    }

    /// The same, where it is said how it is to be run.
    ///
    /// # Errors
    /// As [`Node::start_child`].
    pub async fn start_child_with<C: Child>(
        &self,
        name: impl AsRef<[u8]>,
        args: C::Args,
        spec: ChildSpec,
    ) -> Result<ChildRef<C>> {
        let name = Name::new(name)?;
        let (spec, value) = spec.of_child::<C>(&args)?;
        drop(args);
        self.start_named(&name, spec, value).await?;
        Ok(ChildRef::of(name))
    }

    /// Has the cluster run a child of which there is one, always: the same as [`Node::start_child`], by the name that people
    /// look for. Concurrent starts from any nodes give one instance.
    ///
    /// # Errors
    /// As [`Node::start_child`].
    pub async fn start_singleton<C: Child>(
        &self,
        name: impl AsRef<[u8]>,
        args: C::Args,
    ) -> Result<ChildRef<C>> {
        self.start_child(name, args).await
    }

    /// The child or singleton of this name. Whether there is one is not looked at; calls wait while it moves.
    ///
    /// # Errors
    /// [`Error::BadName`].
    pub fn singleton<C: Child>(&self, name: impl AsRef<[u8]>) -> Result<ChildRef<C>> {
        ChildRef::named(name)
    }

    pub(crate) async fn start_named(&self, name: &Name, spec: Spec, value: Bytes) -> Result<Registered> {
        let config = self.config();
        let (asked, started) = (config.call_deadline, config.start_deadline);
        let found = self.names().start_patiently(name, spec, value, asked, started).await?;
        Ok(registered(name.clone(), found))
    }

    /// Ends a child for good, and waits until it runs no more. It is not started again, and its name is free.
    ///
    /// # Errors
    /// There is no child of that name, or its directory could not be asked.
    pub async fn terminate_child(&self, name: impl AsRef<[u8]>) -> Result<()> {
        let name = Name::new(name)?;
        Ok(self.names().terminate(&name, self.config().call_deadline).await?)
    }

    /// Has a child run on another node than it does, if there is one that can; it may hand something over
    /// ([`Child::on_handover`]). Its calls wait meanwhile. Returns once that is decided, not once it is done.
    ///
    /// # Errors
    /// There is no child of that name, or its directory could not be asked.
    pub async fn move_child(&self, name: impl AsRef<[u8]>) -> Result<()> {
        let name = Name::new(name)?;
        self.names().relocate(&name, self.config().call_deadline).await?;
        // This node knows the directory as it was when it answered, or as it is since.
        match self.child(&name) {
            Some(_) => Ok(()),
            None => Err(Error::NotFound(format!("there is no child {name}"))),
        }
    }

    /// The children whose names begin so, in the order of their names, at most so many. A local read.
    pub fn which_children(&self, prefix: impl AsRef<[u8]>, limit: usize) -> Vec<ChildInfo> {
        self.children_where(prefix.as_ref(), limit, |_| true)
    }

    pub(crate) fn children_where(
        &self,
        prefix: &[u8],
        limit: usize,
        wanted: impl Fn(&Spec) -> bool,
    ) -> Vec<ChildInfo> {
        let wanted =
            |_: &Name, standing: &Standing| standing.child().is_some_and(|child| wanted(&child.spec));
        let found = self.names().table().select(prefix, limit, wanted);
        found.into_iter().filter_map(ChildInfo::of).collect()
    }

    /// The child of this name.
    pub(crate) fn child(&self, name: &Name) -> Option<ChildInfo> {
        ChildInfo::of((name.clone(), self.names().table().claim(name)?))
    }

    /// How many children there are in the cluster. A local read.
    pub fn count_children(&self) -> ChildCounts {
        let table = self.names().table();
        let runs = |_: &Name, it: &Standing| it.child().is_some_and(|child| child.stage.holder().is_some());
        ChildCounts {
            children: table.count(b"", |_, standing| standing.child().is_some()),
            running: table.count(b"", runs),
        }
    }

    /// Who answers under a name at present; `None` if nobody does, or it is no name. A local read: what this node was told is done
    /// shows here at once, what others did a moment later. Nobody is found on a node that is no member any more.
    pub fn lookup(&self, name: impl AsRef<[u8]>) -> Option<Registered> {
        self.names().table().look(name.as_ref(), |name, found| registered(name.clone(), found))
    }

    /// Who answers under the names that begin so, in the order of the names, at most so many. A local read.
    pub fn registered(&self, prefix: impl AsRef<[u8]>, limit: usize) -> Vec<Registered> {
        let answers = |_: &Name, standing: &Standing| standing.held_on().is_some();
        let found = self.names().table().select(prefix.as_ref(), limit, answers);
        found.into_iter().filter_map(|(name, _)| self.lookup(name.as_bytes())).collect()
    }

    /// Waits until every member of the cluster sees what this node knows of a name by now. Members that go are not waited for.
    ///
    /// # Errors
    /// [`Error::BadName`]; [`Error::Name`] with [`NameFailure::NotVisible`] where some member did
    /// not say so within [`Config::call_deadline`](crate::config::Config).
    pub async fn await_visible(&self, name: impl AsRef<[u8]>) -> Result<()> {
        let name = Name::new(name)?;
        Ok(self.names().await_visible(&name, self.config().call_deadline).await?)
    }

    /// Asks whoever answers under a name, wherever that is, and waits for the answer.
    ///
    /// While a child moves, or is started again, the message waits for the next instance, within
    /// [`Config::call_deadline`](crate::config::Config): on each node up to [`WAITING_MAX`](crate::names::WAITING_MAX) messages for
    /// one name. What one sender sends to one name, calls and casts, is delivered in the order in which it was sent; a call is
    /// sent when its future is first polled.
    ///
    /// # Errors
    /// [`Error::NotFound`]: nothing stands under the name. [`Error::Name`] with
    /// [`NameFailure::QueueFull`]: as many wait as may; with
    /// [`NameFailure::Overtaken`]: it could not be delivered, and later ones were; either way
    /// nothing changed. [`Error::Call`] with a [`Failure`], which says whether anything may
    /// have changed: a call that may have been carried out is sent again only where that does no harm
    /// ([`Message::IDEMPOTENT`]); such a one may be carried out after later ones.
    pub async fn call_name<M: Message>(&self, name: impl AsRef<[u8]>, message: M) -> Result<M::Reply> {
        let name = Name::new(name)?;
        self.call_named(&name, message).await
    }

    pub(crate) async fn call_named<M: Message>(&self, name: &Name, message: M) -> Result<M::Reply> {
        let (id, body) = envelope(&message)?;
        drop(message);
        let options = allowing::<M>(self.call_options());
        let reply = match self.names().call_with(name, id, body, options).await {
            Ok(body) => Ok(body),
            Err(NameFailure::Call(failure)) if !matches!(failure, Failure::NoPartition(_)) => Err(failure),
            Err(failure) => return Err(of_call(failure)),
        };
        opened::<M>(reply)
    }

    /// Sends a message to whoever answers under a name, wherever that is, and does not wait for an answer: `Ok` says that it is on
    /// its way to their node, or, while a child moves or is started again, that it waits for the next instance, within
    /// [`Config::call_deadline`](crate::config::Config). Order is kept as by [`Node::call_name`]. What becomes of it there is not
    /// told: one that is lost with its node is lost, unless it does no harm twice ([`Message::IDEMPOTENT`]).
    ///
    /// # Errors
    /// It was not sent. [`Error::NotFound`]: nothing stands under the name. [`Error::Name`] with
    /// [`NameFailure::QueueFull`]: as many wait as may. [`Error::Call`] with
    /// [`Failure::Overloaded`]: as much is on its way there as may be.
    pub fn cast_name<M: Message>(&self, name: impl AsRef<[u8]>, message: M) -> Result<()> {
        self.cast_named(&Name::new(name)?, message)
    }

    pub(crate) fn cast_named<M: Message>(&self, name: &Name, message: M) -> Result<()> {
        let (id, body) = envelope(&message)?;
        drop(message);
        self.names().cast(name, id, body, allowing::<M>(self.call_options())).map_err(of_call)
    }
}

/// Why a message by name has no reply, for callers.
fn of_call(failure: NameFailure) -> Error {
    match failure {
        NameFailure::Call(Failure::NoPartition(why)) => Error::NotFound(why),
        NameFailure::Call(failure) => Error::Call(failure),
        other => Error::Name(other),
    }
}

fn registered(name: Name, found: Found) -> Registered {
    let Found { number, holder, kind, value } = found;
    Registered { name, fence: number, node: holder.node, actor: holder.actor, kind, value }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callers_by_name_are_told_what_callers_by_key_are() {
        let name = Name::new("a").unwrap();
        assert!(matches!(of_call(Failure::Overloaded.into()), Error::Call(Failure::Overloaded)));
        assert!(matches!(of_call(Failure::NoPartition("no".into()).into()), Error::NotFound(_)));
        let full = of_call(NameFailure::QueueFull(name));
        assert_eq!((full.code(), full.changed(), full.is_safe_to_retry()), ("queue_full", Some(false), true));
    }
}
