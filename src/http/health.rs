//! `GET /health/cluster`, `/health/nodes`, `/health/partitions`: how all of it is, as this node saw it when it looked last.

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use tumen_core::GroupId;
use tumen_core::cluster::health::{About, Assessment, NodeHealth, PartitionHealth, Reason, Status};
use tumen_core::cluster::snapshot::Snapshot;

use super::answers::state;
use super::handovers::name_of;
use super::refusal::Refusal;
use super::routes::App;
use super::shapes;

pub(super) async fn cluster(State(app): State<App>) -> Json<shapes::ClusterHealth> {
    let (health, ago) = app.node.last_health();
    let plan = app.node.snapshot();
    let millis = |time: std::time::Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let interval_ms = millis(app.node.runtime().health().interval());
    let timing = (millis(ago), interval_ms);
    Json(cluster_shape(plan.as_deref(), &health, timing))
}

pub(super) async fn nodes(State(app): State<App>) -> Json<shapes::NodesHealth> {
    let (health, plan) = (app.node.health(), app.node.snapshot());
    let nodes: Vec<_> = health.nodes.iter().map(|node| node_shape(plan.as_deref(), node)).collect();
    let status = nodes.iter().map(|node| node.status).max().unwrap_or_default();
    Json(shapes::NodesHealth { status, count: nodes.len(), nodes })
}

pub(super) async fn partitions(
    State(app): State<App>,
    query: Result<Query<shapes::PartitionsQuery>, QueryRejection>,
) -> Result<Json<shapes::PartitionsHealth>, Refusal> {
    let Query(query) = query.map_err(|why| Refusal::bad_request(why.body_text()))?;
    let (health, plan) = (app.node.health(), app.node.snapshot());
    let wanted = |one: &&PartitionHealth| !query.lost || one.status() == Status::Critical;
    let partitions: Vec<_> = (health.partitions_of(query.group).filter(wanted))
        .map(|one| partition_shape(plan.as_deref(), one))
        .collect();
    let (healthy_replicas, total_replicas) = health.replicas(query.group);
    Ok(Json(shapes::PartitionsHealth {
        status: partitions.iter().map(|one| one.status).max().unwrap_or_default(),
        total_replicas,
        healthy_replicas,
        count: partitions.len(),
        partitions,
    }))
}

fn cluster_shape(
    plan: Option<&Snapshot>,
    health: &Assessment,
    (looked_ms_ago, interval_ms): (u64, u64),
) -> shapes::ClusterHealth {
    let users = || health.partitions_of(GroupId::Users);
    let mut nodes = [0; 3];
    health.nodes.iter().for_each(|node| nodes[node.status as usize] += 1);
    let worst = users().filter(|one| one.behind > 0).max_by_key(|one| one.behind);
    let (healthy, total) = health.replicas(GroupId::Users);
    let balance = health.balance.iter().find(|(group, _)| *group == GroupId::Users);
    let balance = balance.map(|(_, balance)| *balance).unwrap_or_default();
    shapes::ClusterHealth {
        status: health.status,
        reasons: health.reasons.iter().map(|reason| reason_shape(plan, reason)).collect(),
        version: health.version.0,
        looked_ms_ago,
        interval_ms,
        nodes: tally(health.status_of(About::Nodes), nodes),
        partitions: tally(health.status_of(About::Partitions), health.tally(GroupId::Users)),
        replicas: shapes::ReplicaHealth { total, healthy },
        lag: shapes::LagHealth {
            status: health.status_of(About::Lag),
            entries: worst.map_or(0, |one| one.behind),
            partition: worst.map(|one| name_of(plan, one.id)),
            waiting: users().map(|one| one.waiting).max().unwrap_or(0),
            limit: health.lag_limit,
        },
        balance: shapes::BalanceHealth {
            status: health.status_of(About::Balance),
            judged: balance.judged,
            primary_moves: balance.primary_moves,
            copy_moves: balance.copy_moves,
            imbalance_primaries: balance.imbalance_primaries,
            imbalance_copies: balance.imbalance_copies,
            zone_violations: balance.zone_violations,
        },
    }
}

fn tally(status: Status, [healthy, degraded, critical]: [u64; 3]) -> shapes::HealthTally {
    shapes::HealthTally { status, total: healthy + degraded + critical, healthy, degraded, critical }
}

/// A reason with its numbers.
pub(super) fn reason_shape(plan: Option<&Snapshot>, reason: &Reason) -> shapes::HealthReason {
    shapes::HealthReason {
        code: reason.code().to_owned(),
        status: reason.status(),
        message: reason.to_string(),
        node: reason.node().map(ToString::to_string),
        partition: reason.partition().map(|partition| name_of(plan, partition)),
        numbers: reason.numbers().into_iter().map(|(name, number)| (name.to_owned(), number)).collect(),
    }
}

fn node_shape(plan: Option<&Snapshot>, node: &NodeHealth) -> shapes::NodeHealth {
    shapes::NodeHealth {
        name: node.id.node.to_string(),
        status: node.status,
        state: state(node.membership).to_owned(),
        boot: format!("{:x}", node.id.boot.0),
        reasons: node.reasons.iter().map(|reason| reason_shape(plan, reason)).collect(),
        primaries: node.primaries,
        replicas: node.replicas,
    }
}

fn partition_shape(plan: Option<&Snapshot>, one: &PartitionHealth) -> shapes::PartitionHealth {
    shapes::PartitionHealth {
        id: name_of(plan, one.id),
        status: one.status(),
        state: one.standing.name().to_owned(),
        total_replicas: one.total,
        healthy_replicas: one.healthy,
        lag_entries: one.behind,
    }
}
