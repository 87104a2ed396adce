//! Groups of actors, known on every node: who is a member, and all of them asked at once.
//!
//! ```text
//!  join ─▶ this node's members ─ announced ─▶ every node's
//!            ▲ it ended, it left
//!  ask ─▶ members ─▶ each in its mailbox, wherever it is ─▶ replies · who gave none, and why
//! ```

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use tumen_core::names::{Holder, Name};
use tumen_core::partitions::request::{MessageId, Reply};

use super::Exchange;
use crate::names::Names;
use crate::transport::Deadline;

/// How many members a group has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Members {
    /// The group's name.
    pub group: Name,
    /// On all nodes.
    pub all: usize,
    /// On this node.
    pub local: usize,
}

impl Exchange {
    /// An actor of this node that [`Names::host`] gave this number is a member of a group from now on, until it leaves or
    /// ends. This node knows at once, the others a moment later. `false`: it was one before.
    pub fn join(&self, names: &Names, group: &Name, actor: u64) -> bool {
        self.act(|inner, later| {
            if inner.closed {
                return false;
            }
            let (news, effects) = inner.law.handle_join(group, actor);
            self.run(inner, effects, later);
            if news {
                let holder = Holder { node: self.shared.transport.local().clone(), actor };
                let (exchange, names, of) = (self.clone(), names.clone(), group.clone());
                // What it does at the end waits for the lock that is held here.
                let watching = self.shared.runtime.spawn(async move {
                    names.monitor(&holder).await;
                    exchange.leave(&of, actor);
                });
                inner.joined.insert((group.clone(), actor), watching.abort_handle());
            }
            news
        })
    }

    /// An actor of this node is a member of a group no more. `false`: it was none.
    pub fn leave(&self, group: &Name, actor: u64) -> bool {
        self.act(|inner, later| {
            inner.joined.remove(&(group.clone(), actor)).inspect(|watching| watching.abort());
            let (news, effects) = inner.law.handle_leave(group, actor);
            self.run(inner, effects, later);
            news
        })
    }

    /// The members of a group on all nodes that this one has a session with, sorted by node and number.
    pub fn members(&self, group: &Name) -> Vec<Holder> {
        self.lock().law.members(group).cloned().collect()
    }

    /// The members of a group on this node, sorted by number.
    pub fn local_members(&self, group: &Name) -> Vec<Holder> {
        let this = self.shared.transport.local();
        self.lock().law.members(group).filter(|member| member.node == *this).cloned().collect()
    }

    /// The groups that have members, sorted.
    pub fn groups(&self) -> Vec<Members> {
        let this = self.shared.transport.local();
        let inner = self.lock();
        let groups = inner.law.groups().map(|(group, members)| {
            let local = members.iter().filter(|member| member.node == *this).count();
            Members { group: group.clone(), all: members.len(), local }
        });
        groups.collect()
    }

    /// Asks all members of a group at once, and waits until each has answered, or the time is over: what each said, in the order
    /// of [`Self::members`].
    pub async fn ask(
        &self,
        names: &Names,
        group: &Name,
        message: MessageId,
        body: Bytes,
        within: Duration,
    ) -> Vec<(Holder, Reply)> {
        let deadline = Deadline::after(within);
        let asked = self.members(group).into_iter().map(|member| {
            let body = body.clone();
            async move {
                let reply = names.call_actor(&member, message, body, deadline).await;
                (member, reply)
            }
        });
        join_all(asked).await
    }
}
