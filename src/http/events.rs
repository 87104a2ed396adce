//! `GET /events`: the news as server-sent events. `?names=true&prefix=P` tells of names and children too.
//!
//! ```text
//!  plans, leaders, copies ─▶ News, numbered and kept ──▶ ┬ id: boot-number ─▶ listener
//!  names, children ───────▶ asked for only, unnumbered ─▶ ┘ no id
//! ```
//!
//! A storm of names reaches only those who asked for names, and pushes nothing else out: each of the two has room of its own.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use tokio::sync::OwnedSemaphorePermit;

use super::name_news::{self, NameNews};
use super::refusal::Refusal;
use super::routes::App;
use super::shapes;

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
    let slot = slot(&app)?;
    let boot = format!("{:x}", app.node.id().boot.0);
    let listener = app.news.listen(last_heard(&headers, &boot));
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
