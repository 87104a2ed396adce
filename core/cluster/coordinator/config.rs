//! What the leader's law is told beforehand: when partitions come into being and move, what proves a crash, how long things take.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::roster::WindowConfig;
use crate::cluster::lease;

/// When partitions come into being.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Create {
    /// As soon as enough nodes are there.
    #[default]
    Auto,
    /// When somebody asks for it, and enough nodes are there.
    Manual,
}

/// When partitions move for the sake of balance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Rebalance {
    /// Whenever members come or go.
    #[default]
    Auto,
    /// When somebody asks for it. Lost primaries are replaced all the same.
    Manual,
}

/// Where a refused dial of a node's own address proves that its process is gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CrashProof {
    /// On loopback addresses only: elsewhere a firewall, or a service without endpoints, refuses for the living.
    #[default]
    Loopback,
    /// Everywhere: only where nothing but the node itself can answer at its address.
    Always,
    /// Nowhere: a crashed node's lease is waited out.
    Never,
}

impl CrashProof {
    /// Whether a refused dial of `address` (`host:port`) proves anything.
    pub fn holds_for(self, address: &str) -> bool {
        match self {
            Self::Always => true,
            Self::Never => false,
            Self::Loopback => {
                let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
                let host = host.trim_start_matches('[').trim_end_matches(']');
                host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
            }
        }
    }
}

/// What the coordinator needs to know beforehand.
#[derive(Clone, Debug)]
pub struct Config {
    /// How many nodes must be there before partitions come into being. Default 1.
    pub min_nodes: usize,
    /// When partitions come into being.
    pub create: Create,
    /// When partitions move for the sake of balance.
    pub rebalance: Rebalance,
    /// What a refused dial proves.
    pub crash_proof: CrashProof,
    /// How a burst of joins becomes one change.
    pub window: WindowConfig,
    /// How long a lost node's copies are waited for before they are made anew elsewhere. Default 30 s.
    pub rebuild_after: Duration,
    /// How long a primary that was asked for a release may take. Default 2 s; then the partition stays.
    pub release_within: Duration,
    /// Leases.
    pub lease: lease::Config,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            min_nodes: 1,
            create: Create::Auto,
            rebalance: Rebalance::Auto,
            crash_proof: CrashProof::Loopback,
            window: WindowConfig::default(),
            rebuild_after: Duration::from_secs(30),
            release_within: Duration::from_secs(2),
            lease: lease::Config::default(),
        }
    }
}
