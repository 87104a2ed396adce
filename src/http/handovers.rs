//! `GET /moves`: what is being copied. `POST /partitions/full-sync`, `POST /partitions/{id}/push`: bring copies up to date, and
//! compare them.

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use tumen_core::PartitionId;
use tumen_core::cluster::snapshot::Snapshot;
use tumen_core::partitions::equality::{CopyReport, PartitionReport};
use tumen_core::partitions::handover::asks::Shown;

use super::refusal::Refusal;
use super::routes::{App, no_plan};
use super::shapes;
use crate::node::{Comparison, Partition};

pub(super) async fn moves(State(app): State<App>) -> Json<shapes::Moves> {
    let plan = app.node.snapshot();
    let (moves, silent) = app.node.moves().await;
    let moves: Vec<_> = moves.iter().map(|shown| copying(plan.as_deref(), shown)).collect();
    let unreachable = silent.iter().map(ToString::to_string).collect();
    Json(shapes::Moves { count: moves.len(), moves, unreachable })
}

pub(super) async fn full_sync(State(app): State<App>) -> Result<Json<shapes::FullSync>, Refusal> {
    let plan = app.node.snapshot();
    Ok(Json(compared(plan.as_deref(), app.node.full_sync_everywhere().await?)))
}

pub(super) async fn push(
    State(app): State<App>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Json<shapes::FullSync>, Refusal> {
    let Path(id) = id.map_err(|why| Refusal::bad_request(why.body_text()))?;
    let plan = app.node.snapshot().ok_or_else(no_plan)?;
    let partition = Partition::named(&plan, &id)?;
    Ok(Json(compared(Some(&plan), app.node.push_partition(partition.id).await?)))
}

/// A partition's name for people.
pub(super) fn name_of(plan: Option<&Snapshot>, partition: PartitionId) -> String {
    plan.map_or_else(|| partition.to_string(), |plan| plan.name_of(partition))
}

fn copying(plan: Option<&Snapshot>, shown: &Shown) -> shapes::Copying {
    shapes::Copying {
        partition: name_of(plan, shown.handover.partition),
        from: shown.handover.from.to_string(),
        to: shown.handover.to.to_string(),
        state: if shown.waits { "waiting" } else { "copying" }.to_owned(),
        bytes_done: shown.bytes_done,
        bytes_total: shown.bytes_total,
        age_ms: shown.age_ms,
    }
}

fn compared(plan: Option<&Snapshot>, comparison: Comparison) -> shapes::FullSync {
    let Comparison { report, unreachable } = comparison;
    shapes::FullSync {
        equal: unreachable.is_empty() && report.is_equal(),
        differs: report.partitions.iter().any(PartitionReport::differs),
        partitions: report.partitions.iter().map(|report| one(plan, report)).collect(),
        unreachable: unreachable.iter().map(ToString::to_string).collect(),
    }
}

fn one(plan: Option<&Snapshot>, report: &PartitionReport) -> shapes::Compared {
    let copy = |copy: &CopyReport| shapes::ComparedCopy {
        node: copy.node.to_string(),
        state: copy.verdict,
        epoch: copy.position.map(|position| position.epoch.0),
        sequence: copy.position.map(|position| position.sequence),
        hash: copy.hash.map(hexadecimal),
    };
    shapes::Compared {
        id: name_of(plan, report.partition),
        primary_node: report.primary.to_string(),
        epoch: report.position.epoch.0,
        sequence: report.position.sequence,
        hash: report.hash.map(hexadecimal),
        equal: report.is_equal(),
        copies: report.copies.iter().map(copy).collect(),
    }
}

fn hexadecimal(hash: u64) -> String {
    format!("{hash:016x}")
}
