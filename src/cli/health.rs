//! `tumen health`: how the cluster is, as the asked node sees it. Its exit status says so too.

use std::process::ExitCode;

use clap::Args;
use tumen_core::cluster::health::Status;

use super::client::{Ask, Client, Failure};
use super::operator::{show, table};
use crate::http::shapes::{ClusterHealth, HealthReason, HealthTally, NodesHealth, PartitionsHealth};

/// The exit status where nobody could be asked: none of those that say how the cluster is.
pub(super) const UNKNOWN: u8 = 3;

/// What is to be shown.
#[derive(Debug, Args)]
pub(super) struct HealthArgs {
    /// Show each node, with its reasons.
    #[arg(long)]
    nodes: bool,
    /// Show each partition that is not healthy, with its copies.
    #[arg(long, conflicts_with = "nodes")]
    partitions: bool,
    /// The same of the partitions that names belong to.
    #[arg(long, conflicts_with_all = ["nodes", "partitions"])]
    names: bool,
    #[command(flatten)]
    ask: Ask,
}

impl HealthArgs {
    pub(super) const fn ask(&self) -> &Ask {
        &self.ask
    }
}

/// Asks, shows, and answers with the exit status.
pub(super) fn run(client: &Client, args: &HealthArgs) -> Result<ExitCode, Failure> {
    let json = args.ask.json;
    let cluster = client.get::<ClusterHealth>("/health/cluster")?;
    match args {
        HealthArgs { nodes: true, .. } => show(&client.get("/health/nodes")?, json, node_table)?,
        HealthArgs { partitions: true, .. } => {
            show(&client.get("/health/partitions")?, json, partition_table)?;
        }
        HealthArgs { names: true, .. } => {
            show(&client.get("/health/partitions?group=names")?, json, partition_table)?;
        }
        _ => show(&cluster, json, sentences)?,
    }
    Ok(ExitCode::from(cluster.value.status as u8))
}

fn sentences(health: &ClusterHealth) -> String {
    let ClusterHealth { status, reasons, version, nodes, partitions, replicas, lag, balance, .. } = health;
    let mut lines = vec![format!("{:<12}{status} (plan {version})", "cluster")];
    lines.extend(reasons.iter().map(|reason| format!("{:<12}{}: {}", "", reason.status, reason.message)));
    lines.push(format!("{:<12}{}", "nodes", counted(nodes)));
    lines.push(format!("{:<12}{}", "partitions", counted(partitions)));
    lines.push(format!("{:<12}{} of {} count and are there", "copies", replicas.healthy, replicas.total));
    let of = lag.partition.as_ref().map_or_else(String::new, |partition| format!(" ({partition})"));
    lines.push(format!("{:<12}{}: {} of {} entries{of}", "lag", lag.status, lag.entries, lag.limit));
    let judged = if balance.judged { "" } else { ", which this strategy does not promise to avoid" };
    lines.push(format!(
        "{:<12}{}: {} primaries and {} copies have to move{judged}",
        "balance", balance.status, balance.primary_moves, balance.copy_moves
    ));
    lines.join("\n")
}

fn counted(tally: &HealthTally) -> String {
    let HealthTally { status, total, healthy, degraded, critical } = tally;
    format!("{status}: {healthy} of {total} healthy, {degraded} degraded, {critical} critical")
}

fn node_table(health: &NodesHealth) -> String {
    let rows = health.nodes.iter().map(|node| {
        [
            node.name.clone(),
            node.status.to_string(),
            node.state.clone(),
            node.primaries.to_string(),
            node.replicas.to_string(),
            messages(&node.reasons),
        ]
    });
    table(["NODE", "HEALTH", "STATE", "PRIMARIES", "REPLICAS", "WHY"], rows)
}

fn messages(reasons: &[HealthReason]) -> String {
    match reasons {
        [] => "-".to_owned(),
        reasons => reasons.iter().map(|reason| reason.message.as_str()).collect::<Vec<_>>().join("; "),
    }
}

fn partition_table(health: &PartitionsHealth) -> String {
    let troubled = || health.partitions.iter().filter(|one| one.status != Status::Healthy);
    let copies =
        format!("{} of {} copies count and are there", health.healthy_replicas, health.total_replicas);
    let healthy = health.count - troubled().count();
    let head = format!("{healthy} of {} partitions are healthy; {copies}", health.count);
    if troubled().next().is_none() {
        return head;
    }
    let rows = troubled().map(|one| {
        [
            one.id.clone(),
            one.status.to_string(),
            one.state.clone(),
            format!("{} of {}", one.healthy_replicas, one.total_replicas),
            one.lag_entries.to_string(),
        ]
    });
    format!("{head}\n{}", table(["PARTITION", "HEALTH", "STATE", "COPIES", "LAG"], rows))
}
