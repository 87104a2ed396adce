//! Which path answers what.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::middleware::from_fn_with_state;
use axum::response::Response;
use axum::routing::{get, post};
use axum::{Json, Router};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tumen_core::partitions::replication::State as PartitionState;
use tumen_core::{GroupId, NodeName, Term};

use super::answers::{self, Known, by_contents, by_plan, by_plan_and_losses, count};
use super::children;
use super::cluster_config;
use super::events::{self, LISTENERS_MAX};
use super::exchange;
use super::guard::{Guard, guard};
use super::handovers;
use super::health;
use super::kv;
use super::meta;
use super::metrics;
use super::refusal::Refusal;
use super::registry;
use super::shapes;
use super::state;
use crate::error::Error;
use crate::node::{Node, Partition, PartitionStats};

/// The longest JSON that is read.
pub(super) const JSON_LEN_MAX: usize = 64 << 10;

/// The most KiB of requests' bodies that are being read or carried out at once: 64 MiB.
const BODIES_KIB_MAX: usize = 64 << 10;

/// What every route may use.
#[derive(Clone)]
pub(super) struct App {
    pub(super) node: Node,
    pub(super) stopping: CancellationToken,
    pub(super) listeners: Arc<Semaphore>,
    /// Room for requests' bodies, in KiB.
    pub(super) bodies: Arc<Semaphore>,
}

/// All routes of a node.
pub(super) fn routes(node: Node, stopping: CancellationToken) -> Router {
    let who_may = Guard::new(node.config().http_token.clone());
    let listeners = Arc::new(Semaphore::new(LISTENERS_MAX));
    let bodies = Arc::new(Semaphore::new(BODIES_KIB_MAX));
    let kv = || get(kv::get).put(kv::put).delete(kv::delete);
    Router::new()
        .route("/health", get(alive))
        .route("/health/cluster", get(health::cluster))
        .route("/health/nodes", get(health::nodes))
        .route("/health/partitions", get(health::partitions))
        .route("/ready", get(ready))
        .route("/cluster", get(cluster))
        .route("/config", get(cluster_config::all))
        .route("/config/", get(cluster_config::list))
        .route(
            "/config/{*key}",
            get(cluster_config::get).put(cluster_config::put).delete(cluster_config::delete),
        )
        .route("/plan", get(plan))
        .route("/partitions", get(partitions).post(create))
        .route("/partitions/stats", get(stats))
        .route("/partitions/key", get(partition_for_key))
        .route("/partitions/rebalance", post(rebalance))
        .route("/partitions/full-sync", post(handovers::full_sync))
        .route("/partitions/{id}/push", post(handovers::push))
        .route("/moves", get(handovers::moves))
        .route("/partitions/{id}", get(partition))
        .route("/partitions/{id}/accept-loss", post(accept_loss))
        .route("/nodes/{name}/partitions", get(partitions_for_node))
        .route("/nodes/{name}/drain", post(drain))
        .route("/ledger", get(ledger))
        .route("/invariants", get(invariants))
        .route("/metrics", get(metrics::metrics))
        .route("/state", get(state::state).post(state::import))
        .route("/state/kv/{partition}", get(state::page))
        .route("/events", get(events::events))
        .route("/topics", get(exchange::topics))
        .route("/topics/{name}", post(exchange::publish))
        .route("/groups", get(exchange::groups))
        .route("/groups/{name}", get(exchange::group))
        .route("/registry", get(registry::list))
        .route("/registry/{name}", get(registry::show))
        .route("/meta", get(meta::list))
        .route("/meta/{key}", get(meta::show).put(meta::put).delete(meta::delete))
        .route("/children", get(children::list).post(children::start))
        .route("/children/{name}", get(children::show).delete(children::terminate))
        .route("/children/{name}/move", post(children::relocate))
        .route("/children/{name}/echo", post(children::echo))
        .route("/singletons", get(children::list_singletons).post(children::start_singleton))
        .route("/singletons/{name}", get(children::show).delete(children::terminate))
        .route("/singletons/{name}/move", post(children::relocate))
        .route("/singletons/{name}/echo", post(children::echo))
        .route("/kv", kv())
        .route("/kv/", kv())
        .route("/kv/{*key}", kv())
        .fallback(unknown)
        .method_not_allowed_fallback(wrong_method)
        .layer(from_fn_with_state(who_may, guard))
        .with_state(App { node, stopping, listeners, bodies })
}

async fn alive(State(app): State<App>) -> Json<shapes::Health> {
    let id = app.node.id();
    let (name, boot) = (id.node.to_string(), format!("{:x}", id.boot.0));
    Json(shapes::Health { status: "alive".into(), name, boot })
}

async fn ready(State(app): State<App>) -> Result<Json<shapes::Ready>, Refusal> {
    match app.node.waits_for() {
        None => Ok(Json(shapes::Ready { ready: true })),
        Some(why) => Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "not_ready", why)),
    }
}

async fn cluster(State(app): State<App>, headers: HeaderMap) -> Response {
    let (runtime, plan) = (app.node.runtime(), app.node.snapshot());
    let known = Known {
        name: app.node.config().cluster.as_str(),
        plan: plan.as_deref(),
        seen: &app.node.seen(),
        leader: runtime.leader(),
        term: plan.as_ref().map_or(Term::ZERO, |plan| plan.term).max(runtime.term()),
        voting: &runtime.voting(),
        mode: app.node.replication_mode(),
    };
    by_contents(&headers, &answers::cluster(&known))
}

async fn plan(
    State(app): State<App>,
    query: Result<Query<shapes::PlanQuery>, QueryRejection>,
) -> Result<Json<shapes::Plan>, Refusal> {
    let Query(query) = query.map_err(|why| Refusal::bad_request(why.body_text()))?;
    let remove = query.remove.as_deref().map(node_name).transpose()?;
    let preview = app.node.preview(query.add.unwrap_or(0), remove.into_iter().collect()).await?;
    let spec = app.node.snapshot().map(|plan| plan.users().spec.clone());
    let (partitioner, partitions) = spec.map_or_else(
        || (app.node.config().partitioner.clone(), 0),
        |spec| (spec.partitioner, spec.partitions),
    );
    Ok(Json(answers::plan(preview, &partitioner, partitions)))
}

async fn ledger(State(app): State<App>) -> Json<shapes::Ledger> {
    Json(app.node.ledger())
}

async fn invariants(State(app): State<App>) -> Json<shapes::Invariants> {
    Json(app.node.invariants())
}

async fn partitions(
    State(app): State<App>,
    query: Result<Query<shapes::PartitionsQuery>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let Query(query) = query.map_err(|why| Refusal::bad_request(why.body_text()))?;
    let (plan, lost) = (app.node.snapshot(), app.node.runtime().lost());
    if query.group == GroupId::Names {
        let mut named = plan.as_deref().map(Partition::of_names).unwrap_or_default();
        named.retain(|partition| !query.lost || lost.contains_key(&partition.id));
        return Ok(by_contents(&headers, &answers::partitions(named, &lost)));
    }
    if query.lost {
        return Ok(by_contents(&headers, &answers::partitions(app.node.lost_partitions(), &lost)));
    }
    Ok(by_plan_and_losses(plan.as_deref(), &lost, &headers, || {
        answers::partitions(plan.as_deref().map(Partition::all).unwrap_or_default(), &lost)
    }))
}

async fn stats(State(app): State<App>, headers: HeaderMap) -> Response {
    let plan = app.node.snapshot();
    by_plan(plan.as_deref(), &headers, || -> shapes::PartitionStats {
        plan.as_deref().map(PartitionStats::of).unwrap_or_default().into()
    })
}

async fn partition_for_key(
    State(app): State<App>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let pairs = uri.query().unwrap_or_default().split('&');
    let Some(encoded) = pairs.filter_map(|pair| pair.strip_prefix("key=")).next() else {
        return Err(Refusal::bad_request("which key? Ask for /partitions/key?key=KEY"));
    };
    let key = kv::percent_decoded(encoded.as_bytes(), true)
        .ok_or_else(|| Refusal::bad_request("the key holds a % without two hexadecimal digits after it"))?;
    let partition = app.node.partition_for_key(&key)?;
    let lost = app.node.runtime().lost();
    Ok(by_plan_and_losses(app.node.snapshot().as_deref(), &lost, &headers, || {
        answers::partition(partition, &lost)
    }))
}

async fn partition(
    State(app): State<App>,
    id: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let Path(id) = id.map_err(|why| Refusal::bad_request(why.body_text()))?;
    let plan = app.node.snapshot().ok_or_else(no_plan)?;
    let partition = Partition::named(&plan, &id)?;
    let (id, replicated) = (partition.id, plan.users().spec.replicated);
    let report = if replicated { app.node.report(id).await } else { None };
    let mut shown = answers::partition(partition, &app.node.runtime().lost());
    if let Some(report) = &report {
        // Its primary knows before others are told.
        shown.lost = report.state == PartitionState::Lost;
    }
    Ok(by_contents(&headers, &answers::partition_detail(shown, &plan, id, report.as_ref())))
}

async fn accept_loss(
    State(app): State<App>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Json<shapes::LossAccepted>, Refusal> {
    let Path(id) = id.map_err(|why| Refusal::bad_request(why.body_text()))?;
    let plan = app.node.snapshot().ok_or_else(no_plan)?;
    let partition = Partition::named(&plan, &id)?;
    let accepted = app.node.accept_loss(partition.id).await?;
    Ok(Json(answers::loss_accepted(partition.name, &accepted)))
}

async fn partitions_for_node(
    State(app): State<App>,
    name: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let Path(name) = name.map_err(|why| Refusal::bad_request(why.body_text()))?;
    let plan = app.node.snapshot().ok_or_else(no_plan)?;
    let held = Partition::on(&plan, &name).ok_or_else(|| no_member(&name))?;
    let lost = app.node.runtime().lost();
    Ok(by_plan_and_losses(Some(&plan), &lost, &headers, || answers::partitions(held, &lost)))
}

async fn create(State(app): State<App>) -> Result<Json<shapes::Created>, Refusal> {
    let created = app.node.create_partitions().await?;
    let count = app.node.snapshot().map_or(app.node.config().partitions, |plan| plan.users().spec.partitions);
    Ok(Json(shapes::Created { version: created.version.0, count, changed: created.changed }))
}

async fn rebalance(State(app): State<App>) -> Result<Json<shapes::Rebalanced>, Refusal> {
    let done = app.node.rebalance_partitions().await?;
    Ok(Json(shapes::Rebalanced {
        version: done.version.0,
        moved: count(done.certificate.moved),
        lower_bound: count(done.certificate.lower_bound),
        changed: done.changed,
    }))
}

async fn drain(
    State(app): State<App>,
    name: Result<Path<String>, PathRejection>,
    body: Body,
) -> Result<Json<shapes::Draining>, Refusal> {
    let Path(name) = name.map_err(|why| Refusal::bad_request(why.body_text()))?;
    let (body, _room) = kv::read(&app, body, JSON_LEN_MAX, "this order").await?;
    let shapes::Drain { leave } = if body.is_empty() {
        shapes::Drain::default()
    } else {
        serde_json::from_slice(&body)
            .map_err(|why| Refusal::bad_request(format!("the body is not as {{\"leave\":false}}: {why}")))?
    };
    let version = app.node.drain_node(node_name(&name)?, leave).await?.0;
    Ok(Json(shapes::Draining { version }))
}

fn node_name(name: &str) -> Result<NodeName, Refusal> {
    NodeName::new(name).map_err(|_| no_member(name))
}

fn no_member(name: &str) -> Refusal {
    Error::NotFound(format!("no member is named {name:?}")).into()
}

pub(super) fn no_plan() -> Refusal {
    Error::Route(tumen_core::partitions::routing::RouteError::NoPlan).into()
}

async fn unknown(uri: Uri) -> Refusal {
    let path: String = uri.path().chars().take(64).collect();
    Refusal::not_found(format!("there is no {path}"))
}

async fn wrong_method(method: Method, uri: Uri) -> Refusal {
    let path: String = uri.path().chars().take(64).collect();
    let message = format!("{path} does not take {method}: the header Allow lists what it takes");
    Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message)
}
