//! From what people set to what the runtime is told.

use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use tumen_actors::clock::Clock;
use tumen_actors::cluster::consensus;
use tumen_actors::names::child::ChildKinds;
use tumen_actors::names::conflicts::Resolver;
use tumen_actors::node::{Connect, Settings};
use tumen_actors::transport::{self, Cookie};
use tumen_core::GroupId;
use tumen_core::assignment::Strategy;
use tumen_core::cluster::snapshot::GroupSpec;
use tumen_core::names;
use tumen_core::names::placements::Placements;

use super::builder::{Shared, Surroundings};
use crate::config::{Config, Value};

/// How often during a lease a majority is asked whether it still follows.
const ACKS_PER_LEASE: u32 = 6;
/// The knobs on which all nodes of a cluster must agree.
const AGREED: [&str; 5] = ["partitions", "replication", "strategy", "mode", "partitioner"];

/// Where a node's two ports are, as it tells others.
pub(super) struct Addresses {
    pub(super) cluster: String,
    pub(super) http: Option<String>,
}

/// What it runs beside partitions without a state of their own.
pub(super) struct Runs {
    /// Whether a kind of worker has state on all copies.
    pub(super) replicated: bool,
    /// The kinds of children that it has factories for.
    pub(super) children: ChildKinds,
    /// The user's own ways to choose nodes for them.
    pub(super) placements: Placements,
    /// Who keeps a name that two sides of the cluster have.
    pub(super) resolver: Resolver,
}

/// The runtime's settings. `discover` finds other nodes by every way there is; `listener` is the cluster port, bound already.
pub(super) fn settings(
    config: &Config,
    addresses: Addresses,
    Surroundings { discover, supervisor, .. }: Surroundings,
    listener: TcpListener,
    strategies: Vec<Arc<dyn Strategy>>,
    Runs { replicated, children, placements, resolver }: Runs,
) -> Settings {
    let told_of_others = !config.join.is_empty() || discover.is_some();
    let founds = !told_of_others || config.bootstrap_expect.is_some();
    Settings {
        name: config.name.clone(),
        cluster: config.cluster.clone(),
        address: addresses.cluster,
        http: addresses.http,
        zone: config.zone.clone(),
        weight: config.weight,
        supervisor,
        groups: groups(config, founds, replicated),
        seeds: config.join.iter().map(Value::show).collect(),
        discover,
        founds,
        consistency: config.consistency,
        resolver,
        bootstrap_expect: config.bootstrap_expect.map_or(1, |expect| expect as usize),
        coordinator: config.coordinator(),
        membership: config.membership(),
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
        pace: config.pace(),
        strategies: Arc::new(move || {
            strategies.iter().map(|own| Box::new(Shared(Arc::clone(own))) as Box<dyn Strategy>).collect()
        }),
        children,
        placements,
        health: config.health(),
        clock: Clock::system(),
        connect: connect(config, listener),
    }
}

/// What the cluster is founded with, and what it is compared with later. A node that joins and was told nothing about it
/// takes what the others have.
fn groups(config: &Config, founds: bool, replicated: bool) -> Vec<(GroupId, GroupSpec)> {
    if !founds && !AGREED.iter().any(|knob| config.is_given(knob)) {
        return Vec::new();
    }
    let users = GroupSpec { replicated, ..config.group_spec() };
    vec![(GroupId::Users, users), (GroupId::Names, names::group_spec(config.mode))]
}

fn connect(config: &Config, listener: TcpListener) -> Connect {
    let cookie =
        config.cookie.as_ref().map_or_else(Cookie::none, |secret| Cookie::new(secret.expose().as_bytes()));
    Box::new(move |greet| {
        Box::pin(async move {
            let settings = transport::Settings::default();
            transport::network::open(&listener, greet, cookie, settings).await.map_err(|why| why.to_string())
        })
    })
}
