//! What a node needs to be told before it starts, resolved and checked.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use ractor::ActorCell;
use tumen_core::ClusterName;
use tumen_core::assignment::Strategy;
use tumen_core::cluster::coordinator;
use tumen_core::cluster::health;
use tumen_core::cluster::member::Zone;
use tumen_core::cluster::membership;
use tumen_core::cluster::sides::Consistency;
use tumen_core::cluster::snapshot::GroupSpec;
use tumen_core::ids::{GroupId, NodeName};
use tumen_core::names::placements::Placements;

use crate::clock::Clock;
use crate::cluster::consensus;
use crate::names::child::ChildKinds;
use crate::names::conflicts::Resolver;
use crate::partitions::replication::Pace;
use crate::transport::{Greet, Transport};

pub use crate::cluster::membership::Discover;

/// Makes the node's transport, once it is known how the node greets others.
pub type Connect = Box<dyn FnOnce(Greet) -> BoxFuture<'static, Result<Transport, String>> + Send>;

/// A strategy of the user's own, beside those in the box.
pub type MakeStrategies = Arc<dyn Fn() -> Vec<Box<dyn Strategy>> + Send + Sync>;

/// Everything about one node.
pub struct Settings {
    /// Its name.
    pub name: NodeName,
    /// Its cluster's name.
    pub cluster: ClusterName,
    /// Where others reach its cluster port, as `host:port`.
    pub address: String,
    /// Where others reach its HTTP interface, if it has one.
    pub http: Option<String>,
    /// Its failure domain.
    pub zone: Option<Zone>,
    /// Its share of the work.
    pub weight: u32,
    /// Under whom the node's own supervisor runs, if it is to be part of somebody's tree: that one is told when it ends.
    pub supervisor: Option<ActorCell>,
    /// What all nodes must agree on about each group, sorted by group.
    pub groups: Vec<(GroupId, GroupSpec)>,
    /// Cluster ports of other nodes.
    pub seeds: Vec<String>,
    /// Finds more of them, as where only HTTP interfaces are known.
    pub discover: Option<Discover>,
    /// Whether this node may found a cluster: never, where it was told of seeds or discovers them.
    pub founds: bool,
    /// What goes first where nodes cannot reach each other.
    pub consistency: Consistency,
    /// Who keeps a name that two sides have, where availability goes first.
    pub resolver: Resolver,
    /// How many nodes found the cluster together.
    pub bootstrap_expect: usize,
    /// The leader's law.
    pub coordinator: coordinator::Config,
    /// Discovery and suspicion.
    pub membership: membership::Config,
    /// Raft.
    pub consensus: consensus::Settings,
    /// Where what must survive a restart is kept.
    pub data_dir: Option<PathBuf>,
    /// How long a node that stopped in good order keeps its place, where it has a disk.
    pub rejoin_grace: Duration,
    /// How long a stop may take before it is cut short.
    pub stop_within: Duration,
    /// How many copies are made at once, and how fast.
    pub pace: Pace,
    /// The user's own strategies.
    pub strategies: MakeStrategies,
    /// The kinds of children that it has factories for.
    pub children: ChildKinds,
    /// The user's own placements of children.
    pub placements: Placements,
    /// Time.
    pub clock: Clock,
    /// How often it is looked how the cluster is.
    pub health: health::Config,
    /// The transport.
    pub connect: Connect,
}
