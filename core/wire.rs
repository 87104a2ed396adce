//! Every value that crosses nodes, versioned; and the hash that is the same everywhere and for ever.

use std::collections::BTreeSet;
use std::hash::Hasher;

use twox_hash::XxHash3_64;

use serde::{Deserialize, Serialize};

use crate::cluster::greeting::Belonging;
use crate::cluster::lease;
use crate::ids::{ClusterId, NodeName, Term};

/// What travels on the lease channel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LeaseFrame {
    /// A node asks whom it takes for the leader.
    Request(lease::Request),
    /// The leader's answer, or the word of a node that does not lead.
    Reply(lease::Reply),
}

/// What travels on the coordinator's channel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CoordinatorFrame {
    /// The leader wants these partitions back.
    AskRelease(Vec<lease::Release>),
    /// A node was elected: leases are to be asked of it from now on.
    Leads {
        /// Of which cluster, once that is founded: terms of two say nothing of each other.
        cluster: Option<ClusterId>,
        /// Who.
        leader: NodeName,
        /// In which term.
        term: Term,
    },
    /// The leader says who votes, for people who ask any node. Nothing is decided by it.
    Voting {
        /// Of which cluster.
        cluster: Option<ClusterId>,
        /// In which term.
        term: Term,
        /// The nodes.
        nodes: BTreeSet<NodeName>,
    },
    /// To which side of its cluster a node belongs by now, where availability goes first.
    Belongs {
        /// To which, if to any.
        to: Option<Belonging>,
        /// Whether the plan that it acts by still has whom it tells this for one who may serve.
        counts_you: bool,
    },
}

/// The protocol version that this build speaks. A peer with another one is refused, with both named.
pub const PROTOCOL: u16 = 1;

/// XXH3-64 over a sequence of fields, each framed by its length, so that no two sequences look alike.
pub struct StableHasher(XxHash3_64);

impl StableHasher {
    /// An empty hash.
    #[expect(clippy::new_without_default, reason = "an empty hash is never wanted by default")]
    pub fn new() -> Self {
        Self(XxHash3_64::new())
    }

    /// Takes a number, little-endian.
    pub fn write_u64(&mut self, number: u64) {
        self.0.write(&number.to_le_bytes());
    }

    /// Takes a text with its length.
    pub fn write_str(&mut self, text: &str) {
        self.write_u64(text.len() as u64);
        self.0.write(text.as_bytes());
    }

    /// Takes a text that may be missing; missing and empty differ.
    pub fn write_option_str(&mut self, text: Option<&str>) {
        self.write_u64(u64::from(text.is_some()));
        self.write_str(text.unwrap_or_default());
    }

    /// The hash of all that was taken.
    pub fn finish(&self) -> u64 {
        self.0.finish()
    }
}

/// XXH3-64 of some bytes.
pub fn stable_hash(bytes: &[u8]) -> u64 {
    XxHash3_64::oneshot(bytes)
}
