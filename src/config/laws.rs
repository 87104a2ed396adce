//! The configuration as the laws want to be told of it.

use std::time::Duration;

use tumen_actors::partitions::replication::Pace;
use tumen_core::cluster::coordinator::{self, WindowConfig};
use tumen_core::cluster::snapshot::GroupSpec;
use tumen_core::cluster::{health, lease, membership};
use tumen_core::partitions::handover::Limits;

use super::Config;

impl Config {
    /// What all nodes must agree on about the users' partitions.
    pub fn group_spec(&self) -> GroupSpec {
        GroupSpec {
            partitions: self.partitions,
            replication: self.replication,
            strategy: self.strategy.clone(),
            mode: self.mode,
            partitioner: self.partitioner.clone(),
            replicated: false,
        }
    }

    /// When to plan anew.
    pub fn coordinator(&self) -> coordinator::Config {
        let unsaid = coordinator::Config::default();
        coordinator::Config {
            min_nodes: self.min_nodes as usize,
            create: self.create,
            rebalance: self.rebalance,
            crash_proof: self.crash_proof,
            window: WindowConfig {
                quiet: self.join_window,
                quiet_again: self.join_window_busy,
                longest: self.join_window_max,
                ..unsaid.window
            },
            rebuild_after: self.rebuild_after,
            lease: self.lease(),
            ..unsaid
        }
    }

    /// How often it is looked how the cluster is.
    pub fn health(&self) -> health::Config {
        health::Config { interval: self.health_interval, ..health::Config::default() }
    }

    /// How much is copied at once, and how fast.
    pub fn pace(&self) -> Pace {
        let at_once = self.handover_max;
        let limits = Limits { from_node_max: at_once, to_node_max: at_once, total_max: self.handover_total };
        Pace { limits, bytes_per_second: self.handover_bytes_per_second }
    }

    /// How long leases last.
    pub fn lease(&self) -> lease::Config {
        let election_timeout_max = self.election_timeout_max;
        lease::Config { length: self.lease, election_timeout_max, ..lease::Config::default() }
    }

    /// How nodes find and suspect each other.
    pub fn membership(&self) -> membership::Config {
        let unsaid = membership::Config::default();
        membership::Config {
            probe_interval: self.probe_interval,
            probe_rtt: self.probe_rtt,
            suspicion: self.suspicion,
            gossip_interval: self.gossip_interval,
            // A newcomer's arrival is told at once where news is passed on faster than it would wait.
            news_window: unsaid.news_window.min(self.gossip_interval).max(Duration::from_millis(1)),
            ..unsaid
        }
    }
}
