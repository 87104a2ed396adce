//! How long promotions took on this node: from a plan that names it primary until its workers serve.
//!
//! ```text
//!  a plan names this boot ─▶ sealed ─▶ best log here ─▶ open ─▶ workers have their state, and start ─▶ serves
//!            └─────────────────────────────── took so long ──────────────────────────────────────────────┘
//! ```
//!
//! How long it was before the plan came, until somebody noticed that a primary was gone, only the leader could tell.

use std::sync::Arc;
use std::time::Duration;

use tumen_core::ids::Epoch;

use super::meter::{Meter, PLACES, Took};

/// How long a promotion took, in microseconds: up to each of these, and longer.
pub static TOOK_US: [u64; PLACES] = [
    1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 5_000_000,
    10_000_000, 30_000_000,
];

/// The promotions on this node since it was started, planned moves included. Cheap to clone; all clones count together.
#[derive(Clone, Debug)]
pub struct Promotions(Arc<Meter>);

impl Default for Promotions {
    fn default() -> Self {
        Self(Arc::new(Meter::new(&TOOK_US)))
    }
}

impl Promotions {
    /// Whether serving under this epoch takes over from a former primary. A partition's first one begins with nothing.
    pub fn is_one(epoch: Epoch) -> bool {
        epoch > Epoch::ZERO.next()
    }

    /// This node serves a partition, so long after it was named.
    pub fn note(&self, took: Duration) {
        self.0.note(took);
    }

    /// What was counted so far, by [`TOOK_US`].
    pub fn read(&self) -> Took {
        self.0.read()
    }
}
