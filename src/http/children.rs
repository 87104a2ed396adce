//! `/children` and `/singletons`: what the cluster keeps running, and orders to start, end and move it. A singleton is a child
//! that is always started again, so that both lists show it.

use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::Response;
use serde_json::Value;
use tumen_core::Kind;
use tumen_core::names::{Name, Spec, Stage};
use tumen_core::supervision::Restart;

use super::answers::by_contents;
use super::refusal::Refusal;
use super::registry::{name, wanted};
use super::routes::{App, JSON_LEN_MAX};
use super::{kv, shapes};
use crate::error::Error;
use crate::names::echo::Say;
use crate::names::{ChildSpec, NameFailure, text_of};
use crate::node::{ChildInfo, Registered};

/// The longest text that an echo is sent.
const TEXT_LEN_MAX: usize = 64 << 10;

pub(super) async fn list(State(app): State<App>, uri: Uri, headers: HeaderMap) -> Result<Response, Refusal> {
    listed(&app, &uri, &headers, |_| true)
}

pub(super) async fn list_singletons(
    State(app): State<App>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    listed(&app, &uri, &headers, |spec| spec.restart == Restart::Permanent)
}

fn listed(app: &App, uri: &Uri, headers: &HeaderMap, is_one: fn(&Spec) -> bool) -> Result<Response, Refusal> {
    let (prefix, limit) = wanted(uri)?;
    let found = app.node.children_where(&prefix, limit + 1, is_one);
    let more = found.len() > limit;
    let children: Vec<_> = found.iter().take(limit).map(shown).collect();
    Ok(by_contents(headers, &shapes::Children { count: children.len(), children, more }))
}

pub(super) async fn show(State(app): State<App>, uri: Uri) -> Result<Json<shapes::Child>, Refusal> {
    let name = name(&uri)?;
    let found = app.node.child(&name).ok_or_else(|| no_child(&name))?;
    Ok(Json(shown(&found)))
}

pub(super) async fn start(
    State(app): State<App>,
    body: Body,
) -> Result<(StatusCode, Json<shapes::Child>), Refusal> {
    let wanted = order(&app, body).await?;
    started(&app, wanted).await
}

pub(super) async fn start_singleton(
    State(app): State<App>,
    body: Body,
) -> Result<(StatusCode, Json<shapes::Child>), Refusal> {
    let wanted = order(&app, body).await?;
    if wanted.restart.is_some_and(|restart| restart != Restart::Permanent) {
        return Err(Refusal::bad_request("a singleton is permanent: start another one as a child"));
    }
    started(&app, wanted).await
}

async fn order(app: &App, body: Body) -> Result<shapes::StartChild, Refusal> {
    let (body, _room) = kv::read(app, body, JSON_LEN_MAX, "this order").await?;
    serde_json::from_slice(&body).map_err(|why| {
        let like = r#"{"name":"a","kind":"echo","args":""}"#;
        Refusal::bad_request(format!("the body is not as {like}: {why}"))
    })
}

async fn started(
    app: &App,
    wanted: shapes::StartChild,
) -> Result<(StatusCode, Json<shapes::Child>), Refusal> {
    let name = Name::new(&wanted.name).map_err(Error::from)?;
    let (spec, value) = spec(app, wanted)?;
    let before = app.node.lookup(name.as_bytes());
    let found = app.node.start_named(&name, spec, value.into()).await?;
    let ran = before.is_some_and(|before| before.fence == found.fence);
    let status = if ran { StatusCode::OK } else { StatusCode::CREATED };
    let child = app.node.child(&name).ok_or_else(|| ended_at_once(&found))?;
    Ok((status, Json(shown(&child))))
}

/// What is to run, and what is to be said of it.
fn spec(app: &App, wanted: shapes::StartChild) -> Result<(Spec, String), Refusal> {
    let shapes::StartChild { kind, args, restart, restarts_max, window_ms, placing, value, .. } = wanted;
    let kind = Kind::new(&kind).map_err(|why| Refusal::bad_request(format!("the kind {kind:?}: {why}")))?;
    let value = value.unwrap_or_default();
    let args = read_args(app, &kind, args)?;
    let spec = ChildSpec::new()
        .restart(restart.unwrap_or_default())
        .restarts_max(restarts_max.unwrap_or(ChildSpec::RESTARTS_MAX))
        .window(window_ms.map_or(ChildSpec::WINDOW, Duration::from_millis))
        .placing(placing.unwrap_or_default())
        .value(value.clone());
    Ok((spec.of(kind, args)?.0, value))
}

/// The arguments as the kind's start takes them. Only a node that has the kind knows how that is.
fn read_args(app: &App, kind: &Kind, args: Value) -> Result<bytes::Bytes, Refusal> {
    if let Some(read) = app.node.read_args(kind) {
        let bytes = match args {
            // What takes text takes none where nothing is said.
            Value::Null => read(Value::Null).or_else(|why| read("".into()).map_err(|_| why)),
            said => read(said),
        };
        return bytes.map_err(|why| {
            let message = format!("children of the kind {kind} are started with other args: {why}");
            Refusal::bad_request(message)
        });
    }
    let known = app.node.names().child_kinds();
    if !known.contains(kind) {
        return Err(Error::Name(NameFailure::NoSuchKind { kind: kind.clone(), known }).into());
    }
    let hosts: Vec<_> = app.node.names().hosts_of(kind).iter().map(ToString::to_string).collect();
    let message = format!(
        "this node does not know how the args of {kind} are read: ask one that does ({})",
        hosts.join(", ")
    );
    Err(Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, "no_such_kind", message))
}

pub(super) async fn terminate(State(app): State<App>, uri: Uri) -> Result<StatusCode, Refusal> {
    app.node.terminate_child(name(&uri)?.as_bytes()).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn relocate(
    State(app): State<App>,
    uri: Uri,
) -> Result<(StatusCode, Json<shapes::Moving>), Refusal> {
    let name = name(&uri)?;
    let from = app.node.lookup(name.as_bytes()).map(|found| found.node.node.to_string());
    app.node.move_child(name.as_bytes()).await?;
    Ok((StatusCode::ACCEPTED, Json(shapes::Moving { name: text_of(name.as_bytes()), from })))
}

pub(super) async fn echo(
    State(app): State<App>,
    uri: Uri,
    body: Body,
) -> Result<Json<shapes::Echoed>, Refusal> {
    let name = name(&uri)?;
    let (body, _room) = kv::read(&app, body, TEXT_LEN_MAX, "a text").await?;
    let text = String::from_utf8(body.to_vec())
        .map_err(|_| Refusal::bad_request("the text that an echo is sent is UTF-8"))?;
    Ok(Json(app.node.call_named(&name, Say { text }).await?))
}

fn shown(child: &ChildInfo) -> shapes::Child {
    let ChildInfo { name, fence, stage, spec, restarts, value } = child;
    let state = match stage {
        Stage::Waiting => "waiting",
        Stage::Starting { .. } => "starting",
        Stage::Running { .. } => "running",
        Stage::Stopping { moves: true, .. } => "moving",
        Stage::Stopping { moves: false, .. } => "stopping",
    };
    shapes::Child {
        name: text_of(name.as_bytes()),
        kind: spec.kind.to_string(),
        state: state.to_owned(),
        node: stage.node().map(|node| node.node.to_string()),
        boot: stage.node().map(|node| format!("{:x}", node.boot.0)),
        fence: fence.0,
        restarts: *restarts,
        restart: spec.restart,
        restarts_max: spec.restarts_max,
        window_ms: u64::try_from(spec.window.as_millis()).unwrap_or(u64::MAX),
        placing: spec.placing.clone(),
        value: text_of(value),
    }
}

fn no_child(name: &Name) -> Refusal {
    Refusal::not_found(format!("there is no child {name}"))
}

fn ended_at_once(found: &Registered) -> Error {
    let Registered { name, node, .. } = found;
    Error::Name(NameFailure::StartFailed(format!("{name} ran on {node}, and has ended since")))
}
