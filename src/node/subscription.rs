//! Plans as they come: the present one first, then each in its order.

use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::stream::{self, Stream, StreamExt};
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use tumen_actors::node::Event;
use tumen_core::cluster::snapshot::Snapshot;
use tumen_core::{ClusterId, Version};

use super::Node;

/// A plan is in force.
#[derive(Clone, Debug)]
pub struct AssignmentsUpdated {
    /// The plan.
    pub snapshot: Arc<Snapshot>,
    /// How many plans lie between the one told before and this one, and were not told: this node was cut off when they
    /// held, or this subscriber was too slow for them. 0 on an undisturbed node.
    pub skipped: u64,
}

/// A kind of news that [`Node::subscribe`] knows.
pub trait News: Sized + Send + sealed::Source {}

pub(super) mod sealed {
    use super::{Node, Subscription};

    pub trait Source: Sized {
        fn subscribe(node: &Node) -> Subscription<Self>;
    }
}

/// News of one kind, in order. It ends when the node does.
pub struct Subscription<T> {
    news: Pin<Box<dyn Stream<Item = T> + Send>>,
}

impl<T> Subscription<T> {
    pub(super) fn new(news: impl Stream<Item = T> + Send + 'static) -> Self {
        Self { news: Box::pin(news) }
    }

    /// The next piece of news, once there is one. `None`: the node ended.
    pub async fn next(&mut self) -> Option<T> {
        poll_fn(|cx| self.news.poll_next_unpin(cx)).await
    }
}

impl<T> Stream for Subscription<T> {
    type Item = T;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<T>> {
        self.news.poll_next_unpin(cx)
    }
}

impl<T> fmt::Debug for Subscription<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Subscription")
    }
}

impl Node {
    /// News of one kind, from now on.
    ///
    /// ```no_run
    /// # use tumen::prelude::*;
    /// # async fn follow(node: Node) {
    /// let mut plans = node.subscribe::<AssignmentsUpdated>(); // the present one first, then each in order
    /// while let Some(AssignmentsUpdated { snapshot, .. }) = plans.next().await {
    ///     println!("version {}", snapshot.version);
    /// }
    /// # }
    /// ```
    pub fn subscribe<T: News>(&self) -> Subscription<T> {
        T::subscribe(self)
    }
}

impl News for AssignmentsUpdated {}

impl sealed::Source for AssignmentsUpdated {
    fn subscribe(node: &Node) -> Subscription<Self> {
        // First the ear, then the look: a plan that comes in between is heard, and recognised where it was seen already.
        let events = node.runtime().events();
        let plans = Plans { first: node.snapshot(), events, last: None };
        let news = stream::unfold(plans, |mut plans| async move { Some((plans.next().await?, plans)) });
        Subscription::new(news)
    }
}

struct Plans {
    first: Option<Arc<Snapshot>>,
    events: broadcast::Receiver<Event>,
    last: Option<(ClusterId, Version)>,
}

impl Plans {
    async fn next(&mut self) -> Option<AssignmentsUpdated> {
        loop {
            let snapshot = match self.first.take() {
                Some(first) => first,
                None => match self.events.recv().await {
                    Ok(Event::Plan { plan, .. }) => plan,
                    // What was missed shows in the next plan's number.
                    Ok(_) | Err(RecvError::Lagged(_)) => continue,
                    Err(RecvError::Closed) => return None,
                },
            };
            if let Some(skipped) = skipped(self.last, (snapshot.cluster, snapshot.version)) {
                self.last = Some((snapshot.cluster, snapshot.version));
                return Some(AssignmentsUpdated { snapshot, skipped });
            }
        }
    }
}

/// How many plans were left out before this one. `None`: it was told already.
fn skipped(last: Option<(ClusterId, Version)>, next: (ClusterId, Version)) -> Option<u64> {
    match last {
        // A founder that met an elder cluster begins anew with that one's plans.
        Some((cluster, version)) if cluster == next.0 => next.1.0.checked_sub(version.0)?.checked_sub(1),
        _ => Some(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plans_are_told_once_and_gaps_are_counted() {
        let at = |cluster, version| (ClusterId(cluster), Version(version));
        assert_eq!(skipped(None, at(1, 7)), Some(0));
        assert_eq!(skipped(Some(at(1, 7)), at(1, 7)), None);
        assert_eq!(skipped(Some(at(1, 7)), at(1, 6)), None);
        assert_eq!(skipped(Some(at(1, 7)), at(1, 8)), Some(0));
        assert_eq!(skipped(Some(at(1, 7)), at(1, 10)), Some(2));
        assert_eq!(skipped(Some(at(1, 7)), at(2, 3)), Some(0), "another cluster");
    }
}
