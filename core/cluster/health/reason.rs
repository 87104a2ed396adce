//! Why something is not as it should be, with numbers.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Config;
use crate::ids::{NodeName, PartitionId};

/// How good or bad something is. The worse is the greater.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// It is as it should be.
    #[default]
    Healthy,
    /// It serves, and something that it should have is missing: the next trouble may be one too many.
    Degraded,
    /// Something is not served, or soon will not be.
    Critical,
}

impl Status {
    /// Its name, for people and programs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Degraded => "degraded",
            Self::Critical => "critical",
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What a reason is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum About {
    /// The members, this node among them.
    Nodes,
    /// Partitions, and how many of their copies are there.
    Partitions,
    /// How far copies lag behind.
    Lag,
    /// How evenly everything is shared out.
    Balance,
}

/// Partitions in the same trouble.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Troubled {
    /// How many.
    pub partitions: u64,
    /// The first of them; where some are worse than others, the worst.
    pub first: PartitionId,
}

/// How far copies lag behind their primaries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lag {
    /// Where.
    pub troubled: Troubled,
    /// The most entries by which one lags.
    pub entries: u64,
    /// Where writes are refused.
    pub limit: u64,
}

/// One reason why the cluster, as a node knows it, is not healthy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// This node knows no plan: it has not joined a cluster yet, or its cluster has not enough nodes yet.
    NoPlan,
    /// This boot is no member of the newest plan that it knows.
    NotMember,
    /// This node knows of no leader: nothing is planned anew.
    NoLeader,
    /// This node has no lease: it hears no majority of the voters, and what it leads is not served.
    NoLease,
    /// A member vanished.
    NodeLost {
        /// Which.
        node: NodeName,
    },
    /// A member stopped in good order and is expected back.
    NodeAway {
        /// Which.
        node: NodeName,
    },
    /// A member that counts as up has no session with this node.
    NodeUnreachable {
        /// Which.
        node: NodeName,
    },
    /// Too few copies of these are left to tell what was written.
    PartitionsLost(Troubled),
    /// Nobody is left to be primary of these.
    PartitionsUnserved(Troubled),
    /// Primaries of these are there, and too few other copies for a write.
    PartitionsStalled(Troubled),
    /// The primaries of these wait for other copies before they serve.
    PartitionsOpening(Troubled),
    /// These have fewer copies on nodes that are there than are wanted.
    CopiesMissing {
        /// Of which partitions.
        troubled: Troubled,
        /// How many copies are missing, of all of them.
        copies: u64,
        /// How many are wanted, of all partitions.
        wanted: u64,
    },
    /// Copies of these are to be on nodes that are there, and do not count yet.
    CopiesJoining {
        /// Of which partitions.
        troubled: Troubled,
        /// How many copies do not count yet, of all of them.
        copies: u64,
        /// How many are wanted, of all partitions.
        wanted: u64,
    },
    /// A copy lags by half of what may wait at most, or more.
    CopiesBehind(Lag),
    /// As much waits for other copies as may: writes are refused as overloaded.
    WritesRefused(Lag),
    /// Nodes lead more or fewer partitions than their share.
    PrimariesUneven {
        /// How many partitions have to change their primary, at least, before they are even.
        moves: u64,
    },
    /// Nodes have more or fewer copies than their share.
    CopiesUneven {
        /// How many copies have to move, at least, before they are even.
        moves: u64,
    },
    /// Copies of one partition are in one zone though there is another.
    ZonesShared {
        /// Of how many partitions.
        partitions: u64,
    },
}

impl Reason {
    /// Its name for programs.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::NoPlan => "no_plan",
            Self::NotMember => "not_member",
            Self::NoLeader => "no_leader",
            Self::NoLease => "no_lease",
            Self::NodeLost { .. } => "node_lost",
            Self::NodeAway { .. } => "node_away",
            Self::NodeUnreachable { .. } => "node_unreachable",
            Self::PartitionsLost(_) => "partitions_lost",
            Self::PartitionsUnserved(_) => "partitions_unserved",
            Self::PartitionsStalled(_) => "partitions_stalled",
            Self::PartitionsOpening(_) => "partitions_opening",
            Self::CopiesMissing { .. } => "copies_missing",
            Self::CopiesJoining { .. } => "copies_joining",
            Self::CopiesBehind(_) => "copies_behind",
            Self::WritesRefused(_) => "writes_refused",
            Self::PrimariesUneven { .. } => "primaries_uneven",
            Self::CopiesUneven { .. } => "copies_uneven",
            Self::ZonesShared { .. } => "zones_shared",
        }
    }

    /// How bad that is for the cluster. A node that is lost is worse off than the cluster that goes on without it.
    pub const fn status(&self) -> Status {
        match self {
            Self::NoLease
            | Self::PartitionsLost(_)
            | Self::PartitionsUnserved(_)
            | Self::PartitionsStalled(_)
            | Self::WritesRefused(_) => Status::Critical,
            _ => Status::Degraded,
        }
    }

    /// What it is about.
    pub const fn about(&self) -> About {
        match self {
            Self::NoPlan
            | Self::NotMember
            | Self::NoLeader
            | Self::NoLease
            | Self::NodeLost { .. }
            | Self::NodeAway { .. }
            | Self::NodeUnreachable { .. } => About::Nodes,
            Self::PartitionsLost(_)
            | Self::PartitionsUnserved(_)
            | Self::PartitionsStalled(_)
            | Self::PartitionsOpening(_)
            | Self::CopiesMissing { .. }
            | Self::CopiesJoining { .. } => About::Partitions,
            Self::CopiesBehind(_) | Self::WritesRefused(_) => About::Lag,
            Self::PrimariesUneven { .. } | Self::CopiesUneven { .. } | Self::ZonesShared { .. } => {
                About::Balance
            }
        }
    }

    /// The node that it is about, if it is about one.
    pub const fn node(&self) -> Option<&NodeName> {
        match self {
            Self::NodeLost { node } | Self::NodeAway { node } | Self::NodeUnreachable { node } => Some(node),
            _ => None,
        }
    }

    /// The partition that it names, if it names one.
    pub const fn partition(&self) -> Option<PartitionId> {
        match self {
            Self::PartitionsLost(troubled)
            | Self::PartitionsUnserved(troubled)
            | Self::PartitionsStalled(troubled)
            | Self::PartitionsOpening(troubled)
            | Self::CopiesMissing { troubled, .. }
            | Self::CopiesJoining { troubled, .. }
            | Self::CopiesBehind(Lag { troubled, .. })
            | Self::WritesRefused(Lag { troubled, .. }) => Some(troubled.first),
            _ => None,
        }
    }

    /// Its numbers by name.
    pub fn numbers(&self) -> Vec<(&'static str, u64)> {
        match self {
            Self::PartitionsLost(troubled)
            | Self::PartitionsUnserved(troubled)
            | Self::PartitionsStalled(troubled)
            | Self::PartitionsOpening(troubled) => vec![("partitions", troubled.partitions)],
            Self::CopiesMissing { troubled, copies, wanted }
            | Self::CopiesJoining { troubled, copies, wanted } => {
                vec![("copies", *copies), ("partitions", troubled.partitions), ("wanted", *wanted)]
            }
            Self::CopiesBehind(lag) | Self::WritesRefused(lag) => {
                vec![("entries", lag.entries), ("limit", lag.limit), ("partitions", lag.troubled.partitions)]
            }
            Self::PrimariesUneven { moves } | Self::CopiesUneven { moves } => vec![("moves", *moves)],
            Self::ZonesShared { partitions } => vec![("partitions", *partitions)],
            Self::NoPlan
            | Self::NotMember
            | Self::NoLeader
            | Self::NoLease
            | Self::NodeLost { .. }
            | Self::NodeAway { .. }
            | Self::NodeUnreachable { .. } => Vec::new(),
        }
    }

    /// How long it has to be seen without a pause before it counts. What comes and goes by itself while partitions move, or
    /// in a slow moment, has to stand; what the voters agreed on counts at once.
    pub(super) fn raised_after(&self, config: &Config) -> Duration {
        match self {
            Self::NoLeader
            | Self::NoLease
            | Self::NodeUnreachable { .. }
            | Self::PartitionsStalled(_)
            | Self::PartitionsOpening(_)
            | Self::CopiesJoining { .. }
            | Self::CopiesBehind(_)
            | Self::WritesRefused(_) => config.settled_after(),
            Self::PrimariesUneven { .. } | Self::CopiesUneven { .. } | Self::ZonesShared { .. } => {
                config.uneven_after.max(config.settled_after())
            }
            _ => Duration::ZERO,
        }
    }

    /// How long it must not have been seen before it counts no more.
    pub(super) fn cleared_after(&self, config: &Config) -> Duration {
        match self {
            Self::NodeUnreachable { .. } | Self::CopiesBehind(_) | Self::WritesRefused(_) => {
                config.settled_after()
            }
            _ => Duration::ZERO,
        }
    }

    /// What tells it from others: its numbers may change, and it is the same reason.
    pub(super) fn key(&self) -> Key {
        Key { code: self.code(), node: self.node().cloned() }
    }
}

/// What tells one reason from another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) code: &'static str,
    pub(super) node: Option<NodeName>,
}

impl fmt::Display for Reason {
    /// For people: what is so, and by how much.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = |f: &mut fmt::Formatter<'_>, one: &Troubled| match one.partitions {
            1 => write!(f, "{}", one.first),
            count => write!(f, "{count} partitions, {} among them,", one.first),
        };
        let of = |f: &mut fmt::Formatter<'_>, one: &Troubled| match one.partitions {
            1 => write!(f, "{}", one.first),
            count => write!(f, "{count} partitions, {} among them", one.first),
        };
        let are = |one: &Troubled| if one.partitions == 1 { "is" } else { "are" };
        match self {
            Self::NoPlan => f.write_str("this node knows no plan yet"),
            Self::NotMember => f.write_str("this node is no member yet"),
            Self::NoLeader => f.write_str("nobody leads"),
            Self::NoLease => f.write_str("this node has no lease: it hears no majority of the voters"),
            Self::NodeLost { node } => write!(f, "{node} is lost"),
            Self::NodeAway { node } => write!(f, "{node} is away, and expected back"),
            Self::NodeUnreachable { node } => write!(f, "{node} cannot be reached from here"),
            Self::PartitionsLost(one) => {
                named(f, one)?;
                write!(f, " {} lost: too few copies are left", are(one))
            }
            Self::PartitionsUnserved(one) => {
                named(f, one)?;
                write!(f, " {} without a primary", are(one))
            }
            Self::PartitionsStalled(one) => {
                named(f, one)?;
                write!(f, " {} stalled: too few copies are there for a write", are(one))
            }
            Self::PartitionsOpening(one) => {
                named(f, one)?;
                write!(f, " {} not open yet: other copies are waited for", are(one))
            }
            Self::CopiesMissing { troubled, copies, wanted } => {
                let is = if *copies == 1 { "is" } else { "are" };
                write!(f, "{copies} of {wanted} copies {is} missing, of ")?;
                of(f, troubled)
            }
            Self::CopiesJoining { troubled, copies, wanted } => {
                let count = if *copies == 1 { "does" } else { "do" };
                write!(f, "{copies} of {wanted} copies {count} not count yet, of ")?;
                of(f, troubled)
            }
            Self::CopiesBehind(Lag { troubled, entries, limit }) => {
                let first = troubled.first;
                write!(f, "a copy of {first} is {entries} entries behind, and {limit} may wait at most")
            }
            Self::WritesRefused(Lag { troubled, entries, .. }) => {
                let first = troubled.first;
                write!(f, "{entries} entries of {first} wait for other copies: writes are refused")
            }
            Self::PrimariesUneven { moves } => write!(f, "primaries are uneven: {moves} have to move"),
            Self::CopiesUneven { moves } => write!(f, "copies are uneven: {moves} have to move"),
            Self::ZonesShared { partitions } => {
                write!(f, "{partitions} partitions have copies in one zone that could be apart")
            }
        }
    }
}
