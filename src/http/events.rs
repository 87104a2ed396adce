//! `GET /events`: the news as server-sent events.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use tokio::sync::OwnedSemaphorePermit;

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

pub(super) async fn events(State(app): State<App>, headers: HeaderMap) -> Result<Response, Refusal> {
    let slot = slot(&app)?;
    let boot = format!("{:x}", app.node.id().boot.0);
    let listener = app.news.listen(last_heard(&headers, &boot));
    // The slot is given back with the stream.
    let stream = stream::unfold((listener, slot), move |(mut listener, slot)| {
        let (stopping, boot) = (app.stopping.clone(), boot.clone());
        async move {
            let (number, event) = stopping.run_until_cancelled(listener.next()).await??;
            Some((Ok::<_, Infallible>(sent(&boot, number, &event)), (listener, slot)))
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
    let data = serde_json::to_string(event).expect("an event is plain text and numbers");
    Event::default().id(format!("{boot}-{number}")).event(event.name()).data(data)
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
