//! What happens to names and children, for a listener of `GET /events` that asked for it.

use std::sync::Arc;

use axum::http::Uri;
use bytes::Bytes;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use tumen_core::NodeBoot;
use tumen_core::names::directory::News;
use tumen_core::names::{Name, Reason};

use super::refusal::Refusal;
use super::registry::decoded;
use super::shapes::Event;
use crate::names::text_of;
use crate::node::Node;

/// The news of the names that begin so, from when it was asked for on.
#[derive(Debug)]
pub(super) struct NameNews {
    news: broadcast::Receiver<Arc<News>>,
    prefix: Bytes,
}

/// Which names' news are wanted, if any: `?names=true&prefix=P`.
pub(super) fn wanted(uri: &Uri) -> Result<Option<Bytes>, Refusal> {
    let (mut names, mut prefix) = (false, None);
    for pair in uri.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=').unwrap_or((pair, "")) {
            // Where to read on is read by others.
            ("from", _) => {}
            ("names", "true") => names = true,
            ("names", "false") => names = false,
            ("prefix", encoded) => prefix = Some(decoded(encoded, true)?),
            (other, value) => {
                let message =
                    format!("expected from=N, names=true, names=false or prefix=P, not {other}={value}");
                return Err(Refusal::bad_request(message));
            }
        }
    }
    if prefix.is_some() && !names {
        return Err(Refusal::bad_request("a prefix goes with names=true"));
    }
    Ok(names.then(|| prefix.unwrap_or_default()))
}

/// The next piece, once there is one. `None`: there are no more. Without a listener it never comes.
pub(super) async fn next(names: &mut Option<NameNews>) -> Option<Event> {
    match names {
        Some(names) => names.next().await,
        None => std::future::pending().await,
    }
}

impl NameNews {
    pub(super) fn listen(node: &Node, prefix: Bytes) -> Self {
        Self { news: node.names().news(), prefix }
    }

    async fn next(&mut self) -> Option<Event> {
        loop {
            match self.news.recv().await {
                Ok(news) if name_of(&news).as_bytes().starts_with(&self.prefix) => return Some(told(&news)),
                Ok(_) => {}
                Err(RecvError::Lagged(count)) => return Some(Event::NamesMissed { count }),
                Err(RecvError::Closed) => return None,
            }
        }
    }
}

const fn name_of(news: &News) -> &Name {
    match news {
        News::Registered { name, .. } | News::Updated { name, .. } | News::Unregistered { name, .. } => name,
    }
}

/// One piece as an event.
pub(crate) fn told(news: &News) -> Event {
    let (name, shown) = (text_of(name_of(news).as_bytes()), |node: &NodeBoot| node.node.to_string());
    match news {
        News::Registered { number, holder, kind, .. } => {
            let (node, boot) = (shown(&holder.node), format!("{:x}", holder.node.boot.0));
            match kind {
                Some(kind) => {
                    Event::ChildStarted { name, kind: kind.to_string(), node, boot, fence: number.0 }
                }
                None => Event::NameRegistered { name, node, boot, actor: holder.actor, fence: number.0 },
            }
        }
        News::Updated { number, .. } => Event::NameUpdated { name, fence: number.0 },
        News::Unregistered { number, holder, kind, reason, goes_on, .. } => {
            let (node, fence) = (holder.as_ref().map(|holder| shown(&holder.node)), number.0);
            match kind.as_ref().map(ToString::to_string) {
                Some(kind) if *goes_on && *reason == Reason::Moved => {
                    Event::ChildMoving { name, kind, from: node, fence }
                }
                Some(kind) => {
                    let (reason, goes_on) = (reason.to_string(), *goes_on);
                    Event::ChildEnded { name, kind, node, fence, reason, goes_on }
                }
                None => Event::NameUnregistered { name, node, fence, reason: reason.to_string() },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tumen_core::ids::Boot;
    use tumen_core::names::{ClaimNumber, Holder};
    use tumen_core::{Kind, NodeName};

    use super::*;

    fn holder() -> Holder {
        Holder { node: NodeBoot::new(NodeName::new("node-1").unwrap(), Boot(0xa1)), actor: 3 }
    }

    fn registered(name: &str, kind: Option<&str>) -> News {
        let kind = kind.map(|kind| Kind::new(kind).unwrap());
        News::Registered { name: Name::new(name).unwrap(), number: ClaimNumber(7), holder: holder(), kind }
    }

    #[test]
    fn names_are_told_of_only_where_that_is_asked_for() {
        let of = |query: &str| wanted(&format!("/events{query}").parse().unwrap());
        assert_eq!((of("").unwrap(), of("?names=false").unwrap()), (None, None));
        assert_eq!(of("?names=true").unwrap(), Some(Bytes::new()));
        assert_eq!(of("?names=true&prefix=shop%2F").unwrap(), Some(Bytes::from_static(b"shop/")));
        for bad in ["?prefix=a", "?names", "?names=true&prefix=%", "?what=1"] {
            assert!(of(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_child_that_moves_is_told_as_such_and_one_that_ends_with_why() {
        let unregistered = |kind: Option<&str>, reason, goes_on| {
            told(&News::Unregistered {
                name: Name::new("a").unwrap(),
                number: ClaimNumber(7),
                holder: Some(holder()),
                kind: kind.map(|kind| Kind::new(kind).unwrap()),
                reason,
                goes_on,
            })
        };
        assert_eq!(told(&registered("a", None)).name(), "name_registered");
        assert_eq!(told(&registered("a", Some("echo"))).name(), "child_started");
        assert_eq!(unregistered(None, Reason::NodeDown, false).name(), "name_unregistered");
        assert_eq!(unregistered(Some("echo"), Reason::Moved, true).name(), "child_moving");
        let crashed = unregistered(Some("echo"), Reason::Crashed("why".into()), true);
        let expected = Event::ChildEnded {
            name: "a".into(),
            kind: "echo".into(),
            node: Some("node-1".into()),
            fence: 7,
            reason: "crashed: why".into(),
            goes_on: true,
        };
        assert_eq!(crashed, expected);
    }

    #[tokio::test]
    async fn a_slow_listener_is_told_how_much_it_missed_and_others_names_are_left_out() {
        let (tell, news) = broadcast::channel(4);
        let mut names = Some(NameNews { news, prefix: Bytes::from_static(b"mine/") });
        for name in ["mine/1", "other", "mine/2"] {
            tell.send(Arc::new(registered(name, None))).unwrap();
        }
        for expected in ["mine/1", "mine/2"] {
            let Some(Event::NameRegistered { name, .. }) = next(&mut names).await else {
                panic!("{expected}")
            };
            assert_eq!(name, expected);
        }
        for _ in 0..10 {
            tell.send(Arc::new(registered("mine/3", None))).unwrap();
        }
        assert_eq!(next(&mut names).await, Some(Event::NamesMissed { count: 6 }));
        drop(tell);
        while next(&mut names).await.is_some() {}
    }
}
