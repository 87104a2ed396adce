//! How the cluster is, as the answering node sees it: `GET /health/cluster`, `/health/nodes`, `/health/partitions`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tumen_core::cluster::health::Status;

/// `GET /health/cluster`. Its status is the worst of its reasons'.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterHealth {
    /// `healthy`, `degraded` or `critical`.
    pub status: Status,
    /// Why it is not healthy.
    pub reasons: Vec<HealthReason>,
    /// The plan that it is about; 0 where none is known.
    pub version: u64,
    /// How many milliseconds ago the node looked last.
    pub looked_ms_ago: u64,
    /// How often it looks where nothing happens, in milliseconds.
    pub interval_ms: u64,
    /// The members.
    pub nodes: HealthTally,
    /// The users' partitions.
    pub partitions: HealthTally,
    /// Their copies.
    pub replicas: ReplicaHealth,
    /// How far copies lag behind their primaries.
    pub lag: LagHealth,
    /// How evenly partitions are shared out.
    pub balance: BalanceHealth,
}

/// One reason why something is not healthy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthReason {
    /// For programs: `node_lost`, `partitions_lost`, `copies_missing`, ...
    pub code: String,
    /// `degraded` or `critical`: how bad that is for the cluster.
    pub status: Status,
    /// For people.
    pub message: String,
    /// The node that it is about; not said where it is about none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// A partition that it is about, of several the first or the worst; not said where it is about none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partition: Option<String>,
    /// Its numbers by name: `partitions`, `copies`, `wanted`, `entries`, `limit`, `moves`.
    pub numbers: BTreeMap<String, u64>,
}

/// How many are how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthTally {
    /// The worst of the reasons that are about them.
    pub status: Status,
    /// How many there are.
    pub total: u64,
    /// How many of them are healthy.
    pub healthy: u64,
    /// How many are degraded.
    pub degraded: u64,
    /// How many are critical.
    pub critical: u64,
}

/// Copies of partitions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaHealth {
    /// How many are wanted.
    pub total: u64,
    /// How many of them count and are there.
    pub healthy: u64,
}

/// How far copies lag. What primaries elsewhere said is as old as their last look.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LagHealth {
    /// How bad that is.
    pub status: Status,
    /// The most entries by which one lags that is there.
    pub entries: u64,
    /// Of which partition; `null` where none lags.
    pub partition: Option<String>,
    /// The most entries of one partition that fewer copies have than a write needs.
    pub waiting: u64,
    /// How many of those there may be: beyond that writes are refused as overloaded.
    pub limit: u64,
}

/// How evenly the users' partitions are shared out, by the certificate of the assignment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BalanceHealth {
    /// How bad that is. What is uneven counts after a while only, for moves take their time.
    pub status: Status,
    /// Whether the strategy promises evenness. Else it is counted, and not judged.
    pub judged: bool,
    /// How many primaries have to move, at least, before every node leads its share.
    pub primary_moves: u64,
    /// How many copies have to move, at least, before every node has its share.
    pub copy_moves: u64,
    /// Most primaries on a node, less the fewest.
    pub imbalance_primaries: u32,
    /// Most copies on a node, less the fewest.
    pub imbalance_copies: u32,
    /// Partitions with more copies in one zone than they must have.
    pub zone_violations: u32,
}

/// `GET /health/nodes`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodesHealth {
    /// The worst of the members.
    pub status: Status,
    /// The members, by name.
    pub nodes: Vec<NodeHealth>,
    /// How many there are in the list.
    pub count: usize,
}

/// One member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeHealth {
    /// Its name.
    pub name: String,
    /// How it is: `critical` where it is lost, or, of the answering node, where it has no lease.
    pub status: Status,
    /// How the cluster holds it: `up`, `leaving`, `away` or `lost`.
    pub state: String,
    /// Which run of its process, in hexadecimal.
    pub boot: String,
    /// Why it is not healthy.
    pub reasons: Vec<HealthReason>,
    /// Of how many partitions of all groups it is the primary.
    pub primaries: u64,
    /// Of how many it has another copy.
    pub replicas: u64,
}

/// `GET /health/partitions`, and `?group=names` for those that names belong to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionsHealth {
    /// The worst of the partitions.
    pub status: Status,
    /// How many copies are wanted, of all of them.
    pub total_replicas: u64,
    /// How many of those count and are there.
    pub healthy_replicas: u64,
    /// By index.
    pub partitions: Vec<PartitionHealth>,
    /// How many there are in the list.
    pub count: usize,
}

/// One partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionHealth {
    /// Its id.
    pub id: String,
    /// How it was at the last look.
    pub status: Status,
    /// `serving`, `releasing`, `opening`, `stalled`, `unserved` or `lost`; see `GET /partitions/{id}`.
    pub state: String,
    /// How many copies are wanted.
    pub total_replicas: u32,
    /// How many of those count and are there.
    pub healthy_replicas: u32,
    /// By how many entries the copy that is there and lags most lags, as far as its primary said.
    pub lag_entries: u64,
}
