//! `GET /events`: the node's events as server-sent events. `?from=N` reads on from a number, as the header `Last-Event-ID` does
//! after one; `?names=true&prefix=P` tells of names and children too.
//!
//! ```text
//!  the node's events, numbered and kept ─▶ ┬ id: boot-number ─▶ listener
//!  names, children: asked for only ──────▶ ┘ no id
//!  from a number that is not kept ───────▶ 410: from where one can go on
//! ```
//!
//! A storm of names reaches only those who asked for names, and pushes nothing else out: each of the two has room of its own.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use tokio::sync::OwnedSemaphorePermit;

use super::name_news::{self, NameNews};
use super::refusal::Refusal;
use super::routes::App;
use super::shapes;
use crate::node::NotKept;

/// From which number on one can read.
const OLDEST: HeaderName = HeaderName::from_static("x-tumen-events-oldest");

/// How often something is said where nothing happens, so that listeners and what lies between know that all is well.
pub(super) const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// The most listeners at once: fewer than connections, so that listeners cannot keep everybody else out.
pub(super) const LISTENERS_MAX: usize = 256;

/// Room for one more listener, until it is dropped.
pub(super) fn slot(app: &App) -> Result<OwnedSemaphorePermit, Refusal> {
    Arc::clone(&app.listeners).try_acquire_owned().map_err(|_| {
        let message = format!("{LISTENERS_MAX} clients listen already: try again later");
        Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded", message)
    })
}

pub(super) async fn events(
    State(app): State<App>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let names = name_news::wanted(&uri)?.map(|prefix| NameNews::listen(&app.node, prefix));
    let boot = format!("{:x}", app.node.id().boot.0);
    let listener = match from(&uri, &boot)? {
        None => app.node.news().listen(last_heard(&headers, &boot)),
        Some(from) => {
            // Numbers of another run are none of this one's.
            let number = from.unwrap_or(0);
            match app.node.news().listen_from(number) {
                Ok(listener) => listener,
                Err(why) => return Ok(not_kept(&why, &boot)),
            }
        }
    };
    let slot = slot(&app)?;
    // The slot is given back with the stream.
    let stream = stream::unfold((listener, names, slot), move |(mut listener, mut names, slot)| {
        let (stopping, boot) = (app.stopping.clone(), boot.clone());
        async move {
            let next = async {
                tokio::select! {
                    // Names may come without end: what there is of the rest goes first.
                    biased;
                    told = listener.next() => told.map(|(number, event)| sent(&boot, number, &event)),
                    told = name_news::next(&mut names) => told.map(|event| unnumbered(&event)),
                }
            };
            let event = stopping.run_until_cancelled(next).await??;
            Some((Ok::<_, Infallible>(event), (listener, names, slot)))
        }
    });
    Ok(Sse::new(stream).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response())
}

/// The number from which somebody wants to read on, `N` or `BOOT-N`, if it is told; of another run it is none.
fn from(uri: &Uri, boot: &str) -> Result<Option<Option<u64>>, Refusal> {
    let mut pairs = uri.query().unwrap_or_default().split('&');
    let Some(text) = pairs.find_map(|pair| pair.strip_prefix("from=")) else { return Ok(None) };
    let (of, number) = text.split_once('-').unwrap_or((boot, text));
    let number = number.parse().map_err(|_| {
        Refusal::bad_request(format!("from={text} is no number of an event: expected N, or the id of one"))
    })?;
    Ok(Some(Some(number).filter(|_| of == boot)))
}

/// What is asked for is not there; this is.
fn not_kept(why: &NotKept, boot: &str) -> Response {
    let NotKept { oldest, newest } = why;
    let message = format!(
        "this run of the node ({boot}) keeps its events from {oldest} to {newest}: go on with from={oldest}; what was before is \
         seen by GET /cluster and GET /partitions"
    );
    let mut response = Refusal::new(StatusCode::GONE, "not_kept", message).into_response();
    response.headers_mut().insert(OLDEST, HeaderValue::from(*oldest));
    response
}

/// The number after which a client that comes back wants to read on. A former boot's numbers say nothing here.
fn last_heard(headers: &HeaderMap, boot: &str) -> Option<u64> {
    let (of, number) = headers.get("last-event-id")?.to_str().ok()?.split_once('-')?;
    number.parse().ok().filter(|_| of == boot)
}

fn sent(boot: &str, number: u64, event: &shapes::Event) -> Event {
    unnumbered(event).id(format!("{boot}-{number}"))
}

/// One that is not kept: a client that comes back reads on after the last one that was numbered.
fn unnumbered(event: &shapes::Event) -> Event {
    let data = serde_json::to_string(event).expect("an event is plain text and numbers");
    Event::default().event(event.name()).data(data)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_reads_on_from_a_number_of_this_run_only() {
        let from = |query: &str| from(&format!("/events{query}").parse().unwrap(), "1f");
        assert_eq!((from("").unwrap(), from("?names=true").unwrap()), (None, None));
        assert_eq!((from("?from=7").unwrap(), from("?from=1f-7").unwrap()), (Some(Some(7)), Some(Some(7))));
        assert_eq!(from("?names=true&from=1e-7").unwrap(), Some(None), "another run's");
        for bad in ["?from=", "?from=x", "?from=1f-", "?from=-1f-7"] {
            assert!(from(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_client_reads_on_only_where_this_boot_numbered() {
        let heard = |id: &str| {
            let headers = [("last-event-id".parse().unwrap(), id.parse().unwrap())].into_iter().collect();
            last_heard(&headers, "1f")
        };
        assert_eq!(heard("1f-17"), Some(17));
        for other in ["", "17", "1e-17", "1f-", "1f-x", "1f--1"] {
            assert_eq!(heard(other), None, "{other}");
        }
    }
}
