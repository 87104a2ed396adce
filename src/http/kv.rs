//! `PUT`, `GET` and `DELETE /kv/{key}`: the bytes as they were put, never wrapped.
//!
//! Each value has a tag of its own (`ETag`), which no other value of its key ever has. `PUT` and `DELETE` with `If-Match`,
//! and `PUT` with `If-None-Match: *`, change only what is still as the caller knows it; else they answer 412.
//!
//! Every success says where in its partition's log it stands (`x-tumen-epoch`, `x-tumen-sequence`): a write at its own
//! entry or a later one, a read behind the last entry that it saw. A write that is sent again with its `Idempotency-Key`
//! stands where it stood the first time.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::extract::{Request, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, IF_MATCH};
use axum::http::header::{HeaderMap, HeaderName, HeaderValue, IF_NONE_MATCH, X_CONTENT_TYPE_OPTIONS};
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use tokio::sync::OwnedSemaphorePermit;

use super::answers;
use super::refusal::Refusal;
use super::routes::App;
use crate::kv::{CONTENT_TYPE_DEFAULT, CONTENT_TYPE_LEN_MAX, VALUE_LEN_MAX, check_key};
use crate::kv::{CompareAndSet, Compared, Delete, Expected, Get, Kept, Kv, Put, Stored, Value};
use crate::worker::Worker;
use crate::{CallOptions, Epoch, IdempotencyKey, Placed};

/// What stands before the key.
const PREFIX: &str = "/kv/";

/// Where in the partition's log an answer stands, and how old it may be.
pub(crate) const EPOCH: HeaderName = HeaderName::from_static("x-tumen-epoch");
const SEQUENCE: HeaderName = HeaderName::from_static("x-tumen-sequence");
const AGE_MS: HeaderName = HeaderName::from_static("x-tumen-age-ms");

/// By what a change is known again that is sent a second time, through whichever node: 1 to 255 bytes. What came of it
/// is remembered for an hour at least. The same key with another change, or another body, is refused with 422, as
/// draft-ietf-httpapi-idempotency-key-header has it.
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// How long a request's body may take to come.
const BODY_WITHIN: Duration = Duration::from_secs(30);

pub(super) async fn put(State(app): State<App>, request: Request) -> Result<Response, Refusal> {
    let key = key(&app, request.uri())?;
    let content_type = content_type(request.headers())?;
    let options = options(&app, request.headers())?;
    let expected = expected(request.headers())?;
    let (bytes, room) = read(&app, request.into_body(), VALUE_LEN_MAX, "a value").await?;
    let value = Value { bytes, content_type };
    let (Stored { new, version }, place) = match expected {
        None => placed(app.node.call_placed(key.clone(), Put { key, value }, options).await?),
        Some(expected) => {
            let asked = CompareAndSet { key: key.clone(), expected, value: Some(value) };
            match placed(app.node.call_placed(key, asked, options).await?) {
                (Compared::Stored(stored), place) => (stored, place),
                (Compared::Differs(version), _) => return Err(differs(version)),
                (Compared::Removed, _) => return Err(nothing()),
            }
        }
    };
    drop(room);
    let status = if new { StatusCode::CREATED } else { StatusCode::NO_CONTENT };
    Ok((status, place, [(ETAG, tag(version))]).into_response())
}

pub(super) async fn get(State(app): State<App>, headers: HeaderMap, uri: Uri) -> Result<Response, Refusal> {
    let key = key(&app, &uri)?;
    let (found, place) = match max_age(&uri)? {
        None => {
            let options = app.node.call_options();
            placed(app.node.call_placed(key.clone(), Get { key }, options).await?)
        }
        Some(max_age) => {
            let read = app.node.read_replica(key.clone(), Get { key }, max_age).await?;
            let mut place = place(read.epoch, read.sequence);
            let age = u64::try_from(read.age.as_millis()).unwrap_or(u64::MAX);
            place.insert(AGE_MS, HeaderValue::from(age));
            (read.value, place)
        }
    };
    let Some(Kept { value, version }) = found else { return Err(nothing()) };
    let Value { bytes, content_type } = value;
    let content_type =
        HeaderValue::from_str(&content_type).unwrap_or(HeaderValue::from_static(CONTENT_TYPE_DEFAULT));
    let etag = tag(version);
    // Whoever may put a value could else put a page that acts for whoever looks at it.
    let harmless = [
        (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (CONTENT_SECURITY_POLICY, HeaderValue::from_static("default-src 'none'; sandbox")),
        (CACHE_CONTROL, HeaderValue::from_static("no-store")),
        (ETAG, etag.clone()),
    ];
    if headers.get_all(IF_NONE_MATCH).iter().any(|known| answers::names(known, &etag)) {
        return Ok((StatusCode::NOT_MODIFIED, harmless, place).into_response());
    }
    Ok((harmless, place, [(CONTENT_TYPE, content_type)], Body::from(bytes)).into_response())
}

pub(super) async fn delete(
    State(app): State<App>,
    headers: HeaderMap,
    uri: Uri,
) -> Result<Response, Refusal> {
    let key = key(&app, &uri)?;
    let options = options(&app, &headers)?;
    let (existed, place) = match expected(&headers)? {
        None => placed(app.node.call_placed(key.clone(), Delete { key }, options).await?),
        Some(Expected::Nothing) => {
            return Err(Refusal::bad_request(
                "what is not there cannot be deleted: if-none-match makes no sense",
            ));
        }
        Some(expected) => {
            let asked = CompareAndSet { key: key.clone(), expected, value: None };
            match placed(app.node.call_placed(key, asked, options).await?) {
                (Compared::Differs(version), _) => return Err(differs(version)),
                (Compared::Stored(_) | Compared::Removed, place) => (true, place),
            }
        }
    };
    if existed { Ok((StatusCode::NO_CONTENT, place).into_response()) } else { Err(nothing()) }
}

/// A reply, and the headers that say where it stands.
fn placed<R>(told: Placed<R>) -> (R, HeaderMap) {
    let Placed { value, epoch, sequence } = told;
    (value, place(epoch, sequence))
}

fn place(epoch: Epoch, sequence: u64) -> HeaderMap {
    let place = [(EPOCH, HeaderValue::from(epoch.0)), (SEQUENCE, HeaderValue::from(sequence))];
    place.into_iter().collect()
}

/// How old the answer may be, if any copy may give it: `?read=replica&max_age_ms=200`, without an age as old as it is.
fn max_age(uri: &Uri) -> Result<Option<Duration>, Refusal> {
    let (mut replica, mut max_age) = (false, None);
    for pair in uri.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=').unwrap_or((pair, "")) {
            ("read", "replica") => replica = true,
            ("read", "primary") => replica = false,
            ("max_age_ms", text) => {
                let millis = text.parse().map_err(|_| {
                    Refusal::bad_request("max_age_ms is a whole number of milliseconds, such as 200")
                })?;
                max_age = Some(Duration::from_millis(millis));
            }
            (name, value) => {
                let message =
                    format!("expected read=primary, read=replica or max_age_ms=N, not {name}={value}");
                return Err(Refusal::bad_request(message));
            }
        }
    }
    if max_age.is_some() && !replica {
        return Err(Refusal::bad_request(
            "max_age_ms goes with read=replica: the primary's answer has no age",
        ));
    }
    Ok(replica.then(|| max_age.unwrap_or(Duration::MAX)))
}

/// How a change is carried out: known again by its `Idempotency-Key`, if it has one.
fn options(app: &App, headers: &HeaderMap) -> Result<CallOptions, Refusal> {
    let mut given = headers.get_all(IDEMPOTENCY_KEY).iter();
    let key = given.next().map(|key| IdempotencyKey::new(key.as_bytes())).transpose();
    let idempotency_key = key.map_err(|why| Refusal::bad_request(why.to_string()))?;
    if given.next().is_some() {
        return Err(Refusal::bad_request("a request has one Idempotency-Key at most"));
    }
    Ok(CallOptions { idempotency_key, ..app.node.call_options() })
}

/// The tag of a value of this version.
pub(super) fn tag(version: u64) -> HeaderValue {
    HeaderValue::from_str(&format!("\"{version}\"")).expect("a tag is digits")
}

/// What has to be under the key, if the caller says so.
pub(super) fn expected(headers: &HeaderMap) -> Result<Option<Expected>, Refusal> {
    let one = |name| {
        let mut all = headers.get_all(&name).iter();
        match (all.next(), all.next()) {
            (one, None) => Ok(one.map(|one| one.to_str().unwrap_or_default().trim())),
            _ => Err(Refusal::bad_request(format!("{name} is said once"))),
        }
    };
    match (one(IF_MATCH)?, one(IF_NONE_MATCH)?) {
        (None, None) => Ok(None),
        (Some("*"), None) => Ok(Some(Expected::Anything)),
        (None, Some("*")) => Ok(Some(Expected::Nothing)),
        (Some(list), None) if list.contains(',') => {
            Err(Refusal::bad_request("if-match takes one tag here, or *"))
        }
        (Some(tag), None) => {
            let version = tag.strip_prefix('"').and_then(|tag| tag.strip_suffix('"')?.parse().ok());
            // Versions begin at 1: a tag that is none of ours is no value's.
            Ok(Some(Expected::Version(version.unwrap_or(0))))
        }
        _ => Err(Refusal::bad_request("a change takes if-match with one tag or *, or if-none-match with *")),
    }
}

fn differs(version: Option<u64>) -> Refusal {
    let there =
        version.map_or_else(|| "nothing".to_owned(), |version| format!("a value with the tag \"{version}\""));
    let message = format!("there is {there} under this key, not what was expected: read it, and try again");
    Refusal::new(StatusCode::PRECONDITION_FAILED, "precondition_failed", message)
}

pub(super) fn nothing() -> Refusal {
    Refusal::not_found("there is nothing under this key")
}

/// The key: whatever stands behind the prefix, with `%XX` as the byte that it means.
fn key(app: &App, uri: &Uri) -> Result<Bytes, Refusal> {
    if !app.node.hosts(Kv::KIND) {
        return Err(Refusal::not_found("this node does not host kv: its builder did not say .kv()"));
    }
    let encoded = uri.path().strip_prefix(PREFIX).unwrap_or_default();
    let key = percent_decoded(encoded.as_bytes(), false);
    let key =
        key.ok_or_else(|| Refusal::bad_request("the key holds a % without two hexadecimal digits after it"))?;
    check_key(&key)?;
    Ok(key)
}

/// Text with `%XX` replaced, and in queries `+` too. `None`: a `%` stands alone.
pub(super) fn percent_decoded(encoded: &[u8], query: bool) -> Option<Bytes> {
    let mut decoded = Vec::with_capacity(encoded.len());
    let mut rest = encoded;
    while let Some((&first, after)) = rest.split_first() {
        rest = after;
        decoded.push(match first {
            b'%' => {
                let (digits, after) = rest.split_at_checked(2)?;
                rest = after;
                let digit = |byte: u8| char::from(byte).to_digit(16);
                u8::try_from(digit(digits[0])? * 16 + digit(digits[1])?).ok()?
            }
            b'+' if query => b' ',
            other => other,
        });
    }
    Some(decoded.into())
}

fn content_type(headers: &HeaderMap) -> Result<String, Refusal> {
    let Some(given) = headers.get(CONTENT_TYPE) else { return Ok(CONTENT_TYPE_DEFAULT.to_owned()) };
    match given.to_str() {
        Ok(text) if text.len() <= CONTENT_TYPE_LEN_MAX => Ok(text.to_owned()),
        _ => Err(Refusal::bad_request(format!(
            "a content type is at most {CONTENT_TYPE_LEN_MAX} bytes of plain text"
        ))),
    }
}

/// A request's body, bounded in length and time, with the room that it takes until it is dropped.
pub(super) async fn read(
    app: &App,
    body: Body,
    len_max: usize,
    what: &str,
) -> Result<(Bytes, OwnedSemaphorePermit), Refusal> {
    let too_long = || {
        let message = format!("{what} has at most {len_max} bytes");
        Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", message)
    };
    // What announces itself as too long is refused before it is sent.
    if body.size_hint().lower() > len_max as u64 {
        return Err(too_long());
    }
    let len = body.size_hint().upper().map_or(len_max, |len| usize::try_from(len).unwrap_or(len_max));
    let kib = u32::try_from(len.min(len_max).div_ceil(1 << 10)).unwrap_or(u32::MAX);
    let room = Arc::clone(&app.bodies).try_acquire_many_owned(kib).map_err(|_| {
        let message = "too many large requests are under way: try again later";
        Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded", message)
    })?;
    let reading = async {
        let mut chunks = body.into_data_stream();
        let mut bytes = BytesMut::new();
        while let Some(chunk) = chunks.next().await {
            let chunk =
                chunk.map_err(|why| Refusal::bad_request(format!("the body cannot be read: {why}")))?;
            if bytes.len() + chunk.len() > len_max {
                return Err(too_long());
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok((bytes.freeze(), room))
    };
    let late = || Refusal::new(StatusCode::REQUEST_TIMEOUT, "timeout", "the body did not come in time");
    tokio::time::timeout(BODY_WITHIN, reading).await.map_err(|_| late())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_decoded_byte_by_byte() {
        let path = |text: &str| percent_decoded(text.as_bytes(), false).map(|bytes| bytes.to_vec());
        assert_eq!(path("user:1001").unwrap(), b"user:1001");
        assert_eq!(path("a%2Fb/c%2f+%25%00%FF").unwrap(), b"a/b/c/+%\0\xff");
        assert_eq!(path("%E2%82%AC").unwrap(), "€".as_bytes());
        assert_eq!(path("").unwrap(), b"");
        for bad in ["%", "%1", "%zz", "a%+1", "%%20"] {
            assert_eq!(path(bad), None, "{bad}");
        }
        assert_eq!(percent_decoded(b"a+b%2B", true).unwrap(), "a b+");
    }
}
