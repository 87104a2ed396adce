//! Leases: who may serve, and until when. What makes "one writer" true between two plans.
//!
//! ```text
//!  Holder (every node, the leader too)                       Grantor (the leader)
//!
//!  sent ──── Request { number, acted_on, releases } ───────▶ arrival
//!   │                                                          │ length = quorum ack + L − now
//!   │        Granted { term, length, newest } ◀────────────────┤
//!   │ counts once the node has acted on plan `newest`          │
//!   ▼                                                          ▼
//!  until = sent + length      always before      end = arrival + length + drift ──▶ is_free: a new epoch
//! ```
//!
//! A holder counts from a moment *before* the grantor's, the grantor adds what clocks may drift, and both
//! lengths hang on a quorum that answered before any newer leader was elected. So no epoch is committed
//! over a primary that could still answer. The idea is Gray and Cheriton's ("Leases", 1989); that a grant
//! names a plan, and that releases stand until they are answered, closes what remains.

mod grantor;
mod holder;
#[cfg(test)]
mod tests;

use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use grantor::{Answered, Grantor, Proposal, StillHeld};
pub use holder::{Effect, Holder};

use crate::cluster::snapshot::Snapshot;
use crate::ids::{Epoch, Generation, NodeBoot, NodeName, PartitionId, Term, Version};

/// Which committed plan. Ordered: a later generation is later whatever its version.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PlanId {
    /// The cluster's generation.
    pub generation: Generation,
    /// The plan's version.
    pub version: Version,
}

impl PlanId {
    /// Before the first plan.
    pub const ZERO: Self = Self { generation: Generation::ZERO, version: Version::ZERO };
}

impl From<&Snapshot> for PlanId {
    fn from(plan: &Snapshot) -> Self {
        Self { generation: plan.generation, version: plan.version }
    }
}

impl std::fmt::Display for PlanId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.generation, self.version)
    }
}

/// A former primary's word that it does not serve a partition under this epoch any more. It is final for
/// the boot that gave it, whatever becomes of the plan that asked for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Release {
    /// Which partition.
    pub partition: PartitionId,
    /// Under which epoch it was served.
    pub epoch: Epoch,
}

/// "Let me serve on." Answered by a [`Reply`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Request {
    /// Who asks. A lease is one boot's; a restarted node asks anew.
    pub from: NodeBoot,
    /// Which of that boot's requests this is, from 1.
    pub number: u64,
    /// The plan that the node has acted on: what it took away is stopped.
    pub acted_on: PlanId,
    /// Every release that no plan has answered yet.
    pub releases: Vec<Release>,
    /// The node stops for good and gives its lease back: this boot serves nothing ever again.
    pub returned: bool,
}

/// What the leader answers to a [`Request`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Reply {
    /// Who asked. A later boot numbers its requests anew, and must not take an earlier one's grant for its own.
    pub to: NodeBoot,
    /// The request's number.
    pub number: u64,
    /// The answer.
    pub answer: Answer,
}

/// Granted, or why not.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Answer {
    /// The node may serve for `length`, counted from when it sent the request, once it has acted on `newest`.
    Granted {
        /// The term of the leader that grants.
        term: Term,
        /// How long.
        length: Duration,
        /// The newest plan.
        newest: PlanId,
    },
    /// No lease. One that the node still holds runs on to its end.
    Refused(Refusal),
}

/// Why the leader, or a node that is none, grants no lease. Nothing changed; the holder asks again by itself.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// Another node leads.
    #[error("not the leader{}", leader.as_ref().map(|l| format!(": ask {l}")).unwrap_or_default())]
    NotLeader {
        /// Who does, if that is known.
        leader: Option<NodeName>,
    },
    /// No majority of the voters has answered the leader lately.
    #[error("no majority of the voters answers the leader")]
    NoQuorum,
    /// The leader was elected just now and does not know yet which plan is the newest.
    #[error("the leader was just elected and is not ready")]
    Settling,
    /// The newest plan does not name this boot of this node as a member.
    #[error("this boot is no member of the newest plan")]
    NotMember,
    /// This boot's lease was counted as ended.
    #[error("the lease was counted as ended{}", after.map(|p| format!(": act on plan {p} first")).unwrap_or_default())]
    Ended {
        /// The plan that was made of it: once it is committed, act on it and ask again. None: this boot
        /// gave its lease back or was proven to be gone, and gets none any more.
        after: Option<PlanId>,
    },
    /// It is to leave the cluster, and has given everything away.
    #[error("this node leaves the cluster, and holds nothing any more")]
    Leaves,
}

/// How long leases last. The same on all nodes of a cluster: a new leader waits out what any earlier one granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Config {
    /// How long a lease lasts from the quorum's acknowledgement. Default 1.5 s.
    ///
    /// Must exceed twice `election_timeout_max`, or an ordinary election pauses the whole cluster.
    /// It is also how long a frozen node's partitions wait for another primary.
    pub length: Duration,
    /// By how many millionths two nodes' clocks may run apart. Default 100,000 (a tenth).
    ///
    /// A tenth is more than a time service slews a clock by (chrony: at most 83,333), and costs 150 ms,
    /// only where a lease has to run out.
    pub drift_ppm: u32,
    /// The longest that a follower waits before it stands for election. Default 300 ms.
    pub election_timeout_max: Duration,
}

/// The largest `drift_ppm` that makes sense.
pub const DRIFT_PPM_MAX: u32 = 500_000;

/// The longest lease, in seconds. What is frozen stays unserved for about as long.
pub const LENGTH_SECONDS_MAX: u64 = 3600;

impl Default for Config {
    fn default() -> Self {
        Self {
            length: Duration::from_millis(1500),
            drift_ppm: 100_000,
            election_timeout_max: Duration::from_millis(300),
        }
    }
}

/// Two settings that do not fit together. The node does not start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Leases would run out during an ordinary election.
    #[error(
        "lease length is {length:?} and must be more than twice election_timeout_max ({election_timeout_max:?}): raise the lease above {:?}, or lower election_timeout_max", *election_timeout_max * 2
    )]
    Short {
        /// The lease's length.
        length: Duration,
        /// The longest election timeout.
        election_timeout_max: Duration,
    },
    /// A frozen node's partitions would wait for hours.
    #[error("lease length is {length:?}, at most {LENGTH_SECONDS_MAX} seconds make sense")]
    Long {
        /// The lease's length.
        length: Duration,
    },
    /// No clock is that bad.
    #[error("lease drift_ppm is {drift_ppm} millionths, at most {DRIFT_PPM_MAX} make sense")]
    Drift {
        /// The allowance, in millionths.
        drift_ppm: u32,
    },
}

impl Config {
    /// Whether the settings fit together.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let Self { length, drift_ppm, election_timeout_max } = *self;
        if length.as_secs() >= LENGTH_SECONDS_MAX {
            return Err(ConfigError::Long { length });
        }
        if length <= election_timeout_max.saturating_mul(2) {
            return Err(ConfigError::Short { length, election_timeout_max });
        }
        if drift_ppm > DRIFT_PPM_MAX {
            return Err(ConfigError::Drift { drift_ppm });
        }
        Ok(())
    }

    /// How often a holder renews: a third of a lease, so that one lost message pauses nobody.
    pub fn renew_every(&self) -> Duration {
        (self.length / 3).max(Duration::from_nanos(1))
    }

    /// How soon a holder asks again that was refused or not answered, and whose lease runs short.
    pub fn retry_every(&self) -> Duration {
        (self.length / 30).max(Duration::from_nanos(1))
    }

    /// How often a leader has itself confirmed by a majority, so that grants are nearly as long as a lease.
    pub fn ack_every(&self) -> Duration {
        (self.length / 10).max(Duration::from_nanos(1))
    }

    /// `length` by the slowest clock, as the fastest one counts it.
    pub(crate) fn with_drift(&self, length: Duration) -> Duration {
        let nanos = length.as_nanos();
        let drift = (nanos * u128::from(self.drift_ppm)).div_ceil(1_000_000);
        length + Duration::from_nanos(u64::try_from(drift).unwrap_or(u64::MAX))
    }
}
