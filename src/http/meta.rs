//! `GET`, `PUT` and `DELETE /meta/{key}`: what the whole cluster is told, as JSON. No key is a name, nor a name a key.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::Response;
use serde_json::Value;
use tumen_core::names::{self, Name};

use super::answers::by_contents;
use super::kv;
use super::refusal::Refusal;
use super::registry::{name, wanted};
use super::routes::App;
use super::shapes;
use crate::names::{VALUE_LEN_MAX, text_of};

pub(super) async fn list(State(app): State<App>, uri: Uri, headers: HeaderMap) -> Result<Response, Refusal> {
    let (prefix, limit) = wanted(&uri)?;
    let found = app.node.names().select_meta(&prefix, limit + 1);
    let more = found.len() > limit;
    let meta: Vec<_> = found.iter().take(limit).map(|(key, meta)| shown(key, meta)).collect();
    Ok(by_contents(&headers, &shapes::AllMeta { count: meta.len(), meta, more }))
}

pub(super) async fn show(State(app): State<App>, uri: Uri) -> Result<Json<shapes::Meta>, Refusal> {
    let key = name(&uri)?;
    let meta = app.node.names().meta(&key).ok_or_else(|| nothing(&key))?;
    Ok(Json(shown(&key, &meta)))
}

pub(super) async fn put(State(app): State<App>, uri: Uri, body: Body) -> Result<Json<shapes::Meta>, Refusal> {
    let key = name(&uri)?;
    let (body, _room) = kv::read(&app, body, VALUE_LEN_MAX, "metadata").await?;
    let value: Value = serde_json::from_slice(&body)
        .map_err(|why| Refusal::bad_request(format!("metadata is any JSON, such as \"text\" or 7: {why}")))?;
    let number = app.node.put_meta(key.as_bytes(), &value).await?.0;
    Ok(Json(shapes::Meta { key: text_of(key.as_bytes()), number, value }))
}

pub(super) async fn delete(State(app): State<App>, uri: Uri) -> Result<StatusCode, Refusal> {
    let key = name(&uri)?;
    if app.node.delete_meta(key.as_bytes()).await? { Ok(StatusCode::NO_CONTENT) } else { Err(nothing(&key)) }
}

fn shown(key: &Name, names::Meta { number, value }: &names::Meta) -> shapes::Meta {
    // Whoever put it there by another way may have put other bytes.
    let json = serde_json::from_slice(value).unwrap_or_else(|_| Value::String(text_of(value)));
    shapes::Meta { key: text_of(key.as_bytes()), number: number.0, value: json }
}

fn nothing(key: &Name) -> Refusal {
    Refusal::not_found(format!("the cluster is told nothing under {key}"))
}
