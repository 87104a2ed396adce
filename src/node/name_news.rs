//! News of names: who answers under them from now on, who does not any more, and why.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use tumen_core::NodeBoot;
use tumen_core::names::directory::News as Told;
use tumen_core::names::{ClaimNumber, Holder, Name, Reason};

use super::subscription::{News, Subscription, sealed};
use super::{Node, Registered};

/// What became known of a name, from when it was subscribed to on. For what is there before see [`Node::registered`].
///
/// Each node tells the same of one name, in the same order. A node that was behind and caught up with a whole directory tells
/// what differs, with [`Reason::Normal`] for what went.
///
/// ```no_run
/// # use tumen::prelude::*;
/// # use tumen::NameEvent;
/// # async fn follow(node: Node) {
/// let mut news = node.subscribe::<NameEvent>();
/// while let Some(event) = news.next().await {
///     if let NameEvent::Unregistered { name, reason, .. } = event {
///         println!("{name} is gone: {reason}");
///     }
/// }
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NameEvent {
    /// Somebody answers under a name.
    Registered {
        /// Which name.
        name: Name,
        /// By which claim; of a child, its fence.
        fence: ClaimNumber,
        /// On which run of which node.
        node: NodeBoot,
        /// The actor's number on that run of the node.
        actor: u64,
    },
    /// Something else is said of whoever answers.
    Updated {
        /// Which name.
        name: Name,
        /// By which claim.
        fence: ClaimNumber,
        /// What is said now, as far as this node knows; `None` if nobody answers any more.
        value: Option<Bytes>,
    },
    /// Nobody answers under a name any more.
    Unregistered {
        /// Which name.
        name: Name,
        /// Whose claim it was.
        fence: ClaimNumber,
        /// Where, if anybody had answered.
        node: Option<NodeBoot>,
        /// Why.
        reason: Reason,
        /// Whether somebody else is to, for the child goes on.
        goes_on: bool,
    },
    /// This subscriber was too slow: so many pieces of news were left out. Ask [`Node::registered`] anew.
    Missed {
        /// How many.
        count: u64,
    },
}

impl News for NameEvent {}

impl sealed::Source for NameEvent {
    fn subscribe(node: &Node) -> Subscription<Self> {
        let (node, told) = (node.clone(), node.names().news());
        Subscription::new(stream::unfold((node, told), |(node, mut told)| async move {
            let event = next(&node, &mut told).await?;
            Some((event, (node, told)))
        }))
    }
}

async fn next(node: &Node, told: &mut broadcast::Receiver<Arc<Told>>) -> Option<NameEvent> {
    let heard = tokio::select! {
        biased;
        heard = told.recv() => heard,
        _ = node.ended() => return None,
    };
    match heard {
        Ok(piece) => Some(event(node, &piece)),
        Err(RecvError::Lagged(count)) => Some(NameEvent::Missed { count }),
        Err(RecvError::Closed) => None,
    }
}

fn event(node: &Node, told: &Told) -> NameEvent {
    match told {
        Told::Registered { name, number, holder, .. } => {
            let Holder { node, actor } = holder.clone();
            NameEvent::Registered { name: name.clone(), fence: *number, node, actor }
        }
        Told::Updated { name, number } => {
            let value = node.lookup(name.as_bytes()).map(|Registered { value, .. }| value);
            NameEvent::Updated { name: name.clone(), fence: *number, value }
        }
        Told::Unregistered { name, number, holder, reason, goes_on, .. } => NameEvent::Unregistered {
            name: name.clone(),
            fence: *number,
            node: holder.as_ref().map(|holder| holder.node.clone()),
            reason: reason.clone(),
            goes_on: *goes_on,
        },
    }
}
