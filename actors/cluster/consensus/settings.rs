//! How fast consensus beats, and which of its numbers bind each other.

use std::sync::Arc;
use std::time::Duration;

use openraft::SnapshotPolicy;
use tumen_core::cluster::election::Timing;

/// The numbers of consensus. All voters should have the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// A candidate without an outcome tries again after half of this to all of it. Default 150 ms. Must exceed
    /// `heartbeat`, and be less than `election_timeout_max`.
    pub election_timeout_min: Duration,
    /// For so long after a leader's last word the voters refuse everybody else; a leader that falls silent is followed
    /// by another within this and a fifth. Default 300 ms. At least six heartbeats, so that some may be late;
    /// less than half of a lease's length (which is checked where leases are set up).
    pub election_timeout_max: Duration,
    /// How long openraft waits for the answer to a heartbeat or an entry: a round trip with an fsync must fit in.
    /// Idle leaders beat every one and a half of these. Default 50 ms.
    pub heartbeat: Duration,
    /// How often a leader makes sure that a majority still holds it for theirs. Default 250 ms: a sixth of a lease.
    pub ack_every: Duration,
    /// After so many entries the log is replaced by a snapshot of the state. Default 128. A quarter as many are kept for
    /// voters that lag a little.
    pub snapshot_after: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            election_timeout_min: Duration::from_millis(150),
            election_timeout_max: Duration::from_millis(300),
            heartbeat: Duration::from_millis(50),
            ack_every: Duration::from_millis(250),
            snapshot_after: 128,
        }
    }
}

/// Settings that do not go together. Nothing was started.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// Elections would be tried again before a heartbeat can be answered.
    #[error("heartbeat ({heartbeat:?}) must be at least 1 ms and less than election_timeout_min ({min:?})")]
    Heartbeat {
        /// As set.
        heartbeat: Duration,
        /// As set.
        min: Duration,
    },
    /// The two bounds are the wrong way round.
    #[error("election_timeout_min ({min:?}) must be less than election_timeout_max ({max:?})")]
    Order {
        /// As set.
        min: Duration,
        /// As set.
        max: Duration,
    },
    /// A few late heartbeats would depose a leader.
    #[error("election_timeout_max ({max:?}) must be at least six heartbeats ({heartbeat:?} each)")]
    Late {
        /// As set.
        max: Duration,
        /// As set.
        heartbeat: Duration,
    },
    /// A number that must not be zero is.
    #[error("ack_every and snapshot_after must not be zero")]
    Zero,
}

/// One chunk of a snapshot, in bytes: small enough that nothing waits long behind it.
const CHUNK_LEN: u64 = 128 << 10;
/// How long the other side may take to keep a chunk, in milliseconds.
const CHUNK_TIMEOUT_MS: u64 = 2_000;

impl Settings {
    /// Whether the numbers go together.
    pub fn check(&self) -> Result<(), SettingsError> {
        let (min, max, heartbeat) = (self.election_timeout_min, self.election_timeout_max, self.heartbeat);
        if heartbeat < Duration::from_millis(1) || heartbeat >= min {
            return Err(SettingsError::Heartbeat { heartbeat, min });
        }
        if min >= max {
            return Err(SettingsError::Order { min, max });
        }
        if max < heartbeat * 6 {
            return Err(SettingsError::Late { max, heartbeat });
        }
        if self.ack_every.is_zero() || self.snapshot_after == 0 {
            return Err(SettingsError::Zero);
        }
        Ok(())
    }

    /// How the election law counts.
    pub(super) fn timing(&self) -> Timing {
        Timing {
            // openraft counts from when it took a heartbeat in, we from when it had answered.
            lease: self.election_timeout_max + Duration::from_millis(2),
            spread: self.election_timeout_max / 6,
            retry: self.election_timeout_min / 2,
            retry_proven: Duration::from_millis(15),
        }
    }

    /// openraft's own.
    pub(super) fn openraft(&self) -> Arc<openraft::Config> {
        let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        Arc::new(openraft::Config {
            cluster_name: "tumen".to_owned(),
            election_timeout_min: millis(self.election_timeout_min),
            election_timeout_max: millis(self.election_timeout_max),
            heartbeat_interval: millis(self.heartbeat),
            install_snapshot_timeout: CHUNK_TIMEOUT_MS,
            snapshot_max_chunk_size: CHUNK_LEN,
            max_payload_entries: 64,
            snapshot_policy: SnapshotPolicy::LogsSinceLast(self.snapshot_after),
            max_in_snapshot_log_to_keep: self.snapshot_after / 4,
            // A voter that lags more than the log has gets a snapshot anyway.
            replication_lag_threshold: self.snapshot_after * 4,
            // When to stand is decided by our own law, which asks the others first.
            enable_elect: false,
            ..openraft::Config::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_go_together_and_pairs_that_do_not_are_named() {
        let ms = Duration::from_millis;
        let good = Settings::default();
        assert_eq!(good.check(), Ok(()));
        assert!(good.openraft().as_ref().clone().validate().is_ok());
        let bad = |settings: Settings| settings.check().unwrap_err();
        assert!(matches!(bad(Settings { heartbeat: ms(150), ..good }), SettingsError::Heartbeat { .. }));
        assert!(matches!(bad(Settings { heartbeat: ms(0), ..good }), SettingsError::Heartbeat { .. }));
        let order = Settings { election_timeout_min: ms(300), ..good };
        assert!(matches!(bad(order), SettingsError::Order { .. }));
        let late = Settings { heartbeat: ms(60), ..good };
        assert!(matches!(bad(late), SettingsError::Late { .. }));
        assert_eq!(bad(Settings { ack_every: ms(0), ..good }), SettingsError::Zero);
    }
}
