//! From what people set to what the runtime is told.

use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use tumen_actors::clock::Clock;
use tumen_actors::cluster::consensus;
use tumen_actors::node::{Connect, Settings};
use tumen_actors::transport::{self, Cookie};
use tumen_core::GroupId;
use tumen_core::assignment::Strategy;
use tumen_core::cluster::coordinator::{self, Create, CrashProof, Rebalance, WindowConfig};
use tumen_core::cluster::snapshot::GroupSpec;
use tumen_core::cluster::{lease, membership};

use super::builder::Shared;
use super::discover;
use crate::config::{self, Config, Trigger};

/// How many times `lease` a majority is asked whether it still follows.
const ACKS_PER_LEASE: u32 = 6;
/// How many times gossip is passed on while a suspicion lasts.
const GOSSIP_PER_SUSPICION: u32 = 3;

/// The knobs on which all nodes of a cluster must agree.
const AGREED: [&str; 5] = ["partitions", "replication", "strategy", "mode", "partitioner"];

/// Where a node's two ports are, as it tells others.
pub(super) struct Addresses {
    pub(super) cluster: String,
    pub(super) http: Option<String>,
}

/// The runtime's settings. `listener` is the cluster port, bound already.
pub(super) fn settings(
    config: &Config,
    addresses: Addresses,
    listener: TcpListener,
    strategies: Vec<Arc<dyn Strategy>>,
) -> Settings {
    let discover = discover::discover(config, addresses.http.as_deref());
    let told_of_others = !config.join.is_empty() || discover.is_some();
    let founds = !told_of_others || config.bootstrap_expect.is_some();
    Settings {
        name: config.name.clone(),
        cluster: config.cluster.clone(),
        address: addresses.cluster,
        http: addresses.http,
        zone: config.zone.clone(),
        weight: config.weight,
        groups: groups(config, founds),
        seeds: config.join.iter().map(config::Value::show).collect(),
        discover,
        founds,
        bootstrap_expect: config.bootstrap_expect.map_or(1, |expect| expect as usize),
        coordinator: coordinator(config),
        membership: membership(config),
        consensus: consensus::Settings {
            election_timeout_min: config.election_timeout_min,
            election_timeout_max: config.election_timeout_max,
            heartbeat: config.heartbeat,
            ack_every: (config.lease / ACKS_PER_LEASE).max(Duration::from_millis(1)),
            ..consensus::Settings::default()
        },
        data_dir: config.data_dir.clone(),
        rejoin_grace: config.rejoin_grace,
        stop_within: config.stop_deadline,
        strategies: Arc::new(move || {
            strategies.iter().map(|own| Box::new(Shared(Arc::clone(own))) as Box<dyn Strategy>).collect()
        }),
        clock: Clock::system(),
        connect: connect(config, listener),
    }
}

/// What the cluster is founded with, and what it is compared with later. A node that joins and was told nothing about it
/// takes what the others have.
fn groups(config: &Config, founds: bool) -> Vec<(GroupId, GroupSpec)> {
    if !founds && !AGREED.iter().any(|knob| config.is_given(knob)) {
        return Vec::new();
    }
    let users = GroupSpec {
        partitions: config.partitions,
        replication: config.replication,
        strategy: config.strategy.clone(),
        mode: config.mode,
        partitioner: config.partitioner.clone(),
    };
    vec![(GroupId::Users, users)]
}

fn coordinator(config: &Config) -> coordinator::Config {
    coordinator::Config {
        min_nodes: config.min_nodes as usize,
        create: match config.create {
            Trigger::Auto => Create::Auto,
            Trigger::Manual => Create::Manual,
        },
        rebalance: match config.rebalance {
            Trigger::Auto => Rebalance::Auto,
            Trigger::Manual => Rebalance::Manual,
        },
        crash_proof: match config.crash_proof {
            config::CrashProof::Loopback => CrashProof::Loopback,
            config::CrashProof::Always => CrashProof::Always,
            config::CrashProof::Never => CrashProof::Never,
        },
        window: WindowConfig {
            quiet: config.join_window,
            quiet_again: config.join_window_busy,
            longest: config.join_window_max,
            ..WindowConfig::default()
        },
        rebuild_after: config.rebuild_after,
        lease: lease::Config {
            length: config.lease,
            election_timeout_max: config.election_timeout_max,
            ..lease::Config::default()
        },
        ..coordinator::Config::default()
    }
}

fn membership(config: &Config) -> membership::Config {
    let preset = membership::Config::default();
    let gossip_interval = preset.gossip_interval.min(config.gossip_suspect / GOSSIP_PER_SUSPICION);
    membership::Config {
        probe_interval: config.gossip_period,
        probe_rtt: config.gossip_rtt,
        suspicion: config.gossip_suspect,
        news_window: preset.news_window.min(gossip_interval),
        gossip_interval,
        ..preset
    }
}

fn connect(config: &Config, listener: TcpListener) -> Connect {
    let cookie = config.cookie.as_ref().map_or_else(Cookie::none, |secret| Cookie::new(secret.expose().as_bytes()));
    Box::new(move |greet| {
        Box::pin(async move {
            let settings = transport::Settings::default();
            transport::network::open(&listener, greet, cookie, settings).await.map_err(|why| why.to_string())
        })
    })
}
