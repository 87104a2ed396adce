//! `/config/{key}`: the cluster's own configuration. `GET` answers the JSON as it was put, with its version as tag; `PUT` and
//! `DELETE` with `If-Match`, and `PUT` with `If-None-Match: *`, change only what is still as the caller knows it.
//!
//! `GET /config?prefix=P` lists what is under keys that begin so, and with `watch=true` tells each change as it comes.
//! `GET /config` alone is how the answering node itself is configured.

use std::convert::Infallible;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, HeaderMap, HeaderValue, IF_NONE_MATCH};
use axum::http::{StatusCode, Uri};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use tumen_actors::node::ConfigFailure;
use tumen_core::ConfigVersion;
use tumen_core::cluster::configuration::{Invalid, Json as Text, VALUE_LEN_MAX, Written};

use super::answers::{by_contents, names};
use super::events::{KEEP_ALIVE, slot};
use super::kv;
use super::refusal::Refusal;
use super::routes::App;
use super::shapes::{self, ConfigNews};
use crate::error::Error;
use crate::kv as store;
use crate::node::{ConfigEvent, ConfigValue};
use crate::{Expected, Subscription};

/// What stands before the key.
const PREFIX: &str = "/config/";

/// `GET /config`, `GET /config?prefix=P`, `GET /config?prefix=P&watch=true`.
pub(super) async fn all(State(app): State<App>, uri: Uri, headers: HeaderMap) -> Result<Response, Refusal> {
    match wanted(&uri)? {
        None => Ok(by_contents(&headers, &app.node.config().effective())),
        Some((prefix, false)) => Ok(by_contents(&headers, &entries(&app, &prefix))),
        Some((prefix, true)) => watch(app, prefix, &headers),
    }
}

pub(super) async fn get(State(app): State<App>, uri: Uri, headers: HeaderMap) -> Result<Response, Refusal> {
    let found = app.node.config_value(&key(&uri)?).ok_or_else(kv::nothing)?;
    let etag = kv::tag(found.version().0);
    let keep = [(ETAG, etag.clone()), (CACHE_CONTROL, HeaderValue::from_static("no-cache"))];
    if headers.get_all(IF_NONE_MATCH).iter().any(|known| names(known, &etag)) {
        return Ok((StatusCode::NOT_MODIFIED, keep).into_response());
    }
    let json = HeaderValue::from_static("application/json");
    Ok((keep, [(CONTENT_TYPE, json)], found.json().to_owned()).into_response())
}

pub(super) async fn put(State(app): State<App>, request: Request) -> Result<Response, Refusal> {
    let key = key(request.uri())?;
    let expected = expected(request.headers())?;
    let (body, _room) = kv::read(&app, request.into_body(), VALUE_LEN_MAX, "a value").await?;
    let value = text(&body).map_err(|why| Error::from(ConfigFailure::from(why)))?;
    let written = app.node.write_cluster_wide(&key, expected, Some(value)).await?;
    Ok(done(key, written))
}

pub(super) async fn delete(
    State(app): State<App>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let (key, expected) = (key(&uri)?, expected(&headers)?);
    if expected == Expected::Nothing {
        return Err(Refusal::bad_request(
            "what is not there cannot be deleted: if-none-match makes no sense",
        ));
    }
    let written = app.node.write_cluster_wide(&key, expected, None).await?;
    if written.changed { Ok(done(key, written)) } else { Err(kv::nothing()) }
}

fn done(key: String, written: Written) -> Response {
    let version = written.version.0;
    ([(ETAG, kv::tag(version))], Json(shapes::ConfigWritten { key, version })).into_response()
}

/// What is put, if it is JSON.
fn text(body: &[u8]) -> Result<Text, Invalid> {
    let wrong = Invalid::ValueJson;
    serde_json::from_slice::<serde_json::Value>(body).map_err(|why| wrong(why.to_string()))?;
    let text = std::str::from_utf8(body).map_err(|why| wrong(why.to_string()))?;
    Text::new(text.trim())
}

/// What has to be under the key, if the caller says so.
fn expected(headers: &HeaderMap) -> Result<Expected, Refusal> {
    Ok(match kv::expected(headers)? {
        None => Expected::Anything,
        Some(store::Expected::Anything) => Expected::Something,
        Some(store::Expected::Nothing) => Expected::Nothing,
        Some(store::Expected::Version(version)) => Expected::Version(ConfigVersion(version)),
    })
}

/// The key: whatever stands behind the prefix, with `%XX` as the byte that it means.
fn key(uri: &Uri) -> Result<String, Refusal> {
    decoded(uri.path().strip_prefix(PREFIX).unwrap_or_default(), false)
}

fn decoded(encoded: &str, query: bool) -> Result<String, Refusal> {
    let bytes = kv::percent_decoded(encoded.as_bytes(), query)
        .ok_or_else(|| Refusal::bad_request("there is a % without two hexadecimal digits after it"))?;
    String::from_utf8(bytes.to_vec()).map_err(|_| Refusal::bad_request("a key is text in UTF-8"))
}

/// How the keys begin that are asked for, and whether they are to be watched. `None`: nothing is asked about keys.
fn wanted(uri: &Uri) -> Result<Option<(String, bool)>, Refusal> {
    let (mut prefix, mut watches) = (None, false);
    for pair in uri.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=').unwrap_or((pair, "")) {
            ("prefix", encoded) => prefix = Some(decoded(encoded, true)?),
            ("watch", "true") => watches = true,
            ("watch", "false") => watches = false,
            (other, value) => {
                let message = format!("expected prefix=P or watch=true, not {other}={value}");
                return Err(Refusal::bad_request(message));
            }
        }
    }
    Ok(if watches { Some((prefix.unwrap_or_default(), true)) } else { prefix.map(|prefix| (prefix, false)) })
}

fn shown((key, value): (String, ConfigValue)) -> shapes::ConfigEntry {
    shapes::ConfigEntry { key, version: value.version().0, value: json(&value) }
}

/// A value as JSON in JSON.
fn json(value: &ConfigValue) -> serde_json::Value {
    value.read().unwrap_or_else(|_| value.json().into())
}

fn watch(app: App, prefix: String, headers: &HeaderMap) -> Result<Response, Refusal> {
    let slot = slot(&app)?;
    let cluster = app.node.snapshot().map(|plan| plan.cluster.to_string()).unwrap_or_default();
    let changes = match last_heard(headers, &cluster) {
        Some(seen) => app.node.watch_cluster_wide_after(prefix, seen),
        None => app.node.watch_cluster_wide(prefix),
    };
    let (stopping, cluster) = (app.stopping, Arc::<str>::from(cluster));
    // The slot is given back with the stream.
    let told = stream::unfold((changes, slot), move |(mut changes, slot): (Subscription<_>, _)| {
        let (stopping, cluster) = (stopping.clone(), Arc::clone(&cluster));
        async move {
            let event = stopping.run_until_cancelled(changes.next()).await??;
            Some((Ok::<_, Infallible>(sent(&cluster, event)), (changes, slot)))
        }
    });
    Ok(Sse::new(told).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response())
}

/// The change after which a client that comes back wants to read on. Another cluster's numbers say nothing here.
fn last_heard(headers: &HeaderMap, cluster: &str) -> Option<ConfigVersion> {
    let (of, number) = headers.get("last-event-id")?.to_str().ok()?.split_once('-')?;
    number.parse().ok().filter(|_| of == cluster).map(ConfigVersion)
}

fn sent(cluster: &str, event: ConfigEvent) -> Event {
    let (sent, news) = match event {
        ConfigEvent::Updated { version, key, value } => {
            let sent = Event::default().id(format!("{cluster}-{version}"));
            (sent, ConfigNews::ConfigUpdated { version: version.0, key, value: value.as_ref().map(json) })
        }
        ConfigEvent::Missed { count } => (Event::default(), ConfigNews::Missed { count }),
    };
    let data = serde_json::to_string(&news).expect("news are plain text, numbers and JSON");
    sent.event(news.name()).data(data)
}

/// `GET /config/`: all there is.
pub(super) async fn list(State(app): State<App>, headers: HeaderMap) -> Response {
    by_contents(&headers, &entries(&app, ""))
}

fn entries(app: &App, prefix: &str) -> shapes::ConfigEntries {
    let version = app.node.config_version().0;
    let values: Vec<_> = app.node.config_values(prefix).into_iter().map(shown).collect();
    shapes::ConfigEntries { count: values.len(), values, version }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_json_is_taken_as_it_stands() {
        assert_eq!(text(b" {\"b\": 1, \"a\": [true]}\n").unwrap().as_str(), "{\"b\": 1, \"a\": [true]}");
        for wrong in [&b""[..], b"true false", b"{", b"\xff", b"tru", b"NaN"] {
            assert!(matches!(text(wrong), Err(Invalid::ValueJson(_))), "{wrong:?}");
        }
        let long = format!("\"{}\"", "x".repeat(VALUE_LEN_MAX));
        assert_eq!(text(long.as_bytes()), Err(Invalid::ValueLen(long.len())));
    }

    #[test]
    fn keys_and_queries_are_read_as_they_are_meant() {
        let uri = |text: &str| text.parse::<Uri>().unwrap();
        assert_eq!(key(&uri("/config/limits/a%20b")).unwrap(), "limits/a b");
        assert!(key(&uri("/config/%FF")).is_err() && key(&uri("/config/%2")).is_err());
        let wanted = |text| wanted(&uri(text)).ok();
        assert_eq!(wanted("/config"), Some(None));
        assert_eq!(wanted("/config?prefix="), Some(Some((String::new(), false))));
        assert_eq!(wanted("/config?prefix=a%2Fb&watch=true"), Some(Some(("a/b".into(), true))));
        assert_eq!(wanted("/config?watch=true"), Some(Some((String::new(), true))));
        assert_eq!(wanted("/config?pretty"), None);
    }
}
