//! What a node says of itself, and what the cluster committed about it.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::ids::{Boot, NodeBoot, NodeName};

/// A failure domain: a rack, a hall, a cloud's zone. Copies of one partition are kept in different zones.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Zone(pub Arc<str>);

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// The most that a node's weight may be; the least is 0 (a witness: it votes and holds nothing).
pub const WEIGHT_MAX: u32 = 1_000_000;

/// The weight of a node that was told none.
pub const WEIGHT_DEFAULT: u32 = 100;

/// What a node says of itself. Gossip carries it, and the cluster commits it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct NodeInfo {
    /// Which run of which node speaks.
    pub id: NodeBoot,
    /// Where its cluster port is reached, as `host:port`.
    pub address: String,
    /// Where its HTTP interface is reached, as `host:port`, if it has one.
    pub http: Option<String>,
    /// Its failure domain, if it was told one.
    pub zone: Option<Zone>,
    /// Its share of the work beside the others' weights. Zero: it holds no partition.
    pub weight: u32,
    /// The kinds of worker that it hosts, sorted.
    pub services: Vec<String>,
    /// The newest protocol version that it speaks.
    pub protocol: u16,
}

impl NodeInfo {
    /// The node's name.
    pub const fn name(&self) -> &NodeName {
        &self.id.node
    }

    /// The run of the node's process.
    pub const fn boot(&self) -> Boot {
        self.id.boot
    }
}

/// How the cluster holds a member.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// It takes its share.
    #[default]
    Up,
    /// It is being drained, or about to stop: what it serves is handed over, and it is given nothing new.
    Leaving,
    /// It stopped in good order and is expected back: it keeps its copies, and is primary of nothing.
    Away,
    /// It vanished, and its copies are not made anew until `rebuild_after`: it is primary of nothing.
    Lost,
}

impl Status {
    /// Whether such a member may hold a lease: be primary, and hold names and children.
    pub const fn may_serve(self) -> bool {
        matches!(self, Self::Up | Self::Leaving)
    }

    /// Whether such a member may be *made* primary, and be given names and children.
    pub const fn may_lead(self) -> bool {
        matches!(self, Self::Up)
    }
}

/// One member of the committed list.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Member {
    /// What the node says of itself.
    pub info: NodeInfo,
    /// How the cluster holds it.
    pub status: Status,
}

impl Member {
    /// The node's name.
    pub const fn name(&self) -> &NodeName {
        &self.info.id.node
    }

    /// Which run of which node this is.
    pub const fn id(&self) -> &NodeBoot {
        &self.info.id
    }
}
