//! What this node believes that it may serve, and until when, as it tells its log.
//!
//! All processes of a machine share the boot-time clock. So whoever has the logs of all nodes of a machine can check
//! that no two of them ever believed at one moment that they serve a partition:
//!
//! ```text
//! serving            partition epoch at          ├──────────────────────────┤ no longer serving
//! leased             at until               ├──────────┤
//!                                                 ├──────────┤               believes: both at once
//! ```

use tumen_core::Moment;
use tumen_core::ids::NodeBoot;
use tumen_core::partitions::fence::Fence;

use crate::clock::Clock;

/// One boot's belief. Its lines have the target `tumen::belief`; times are nanoseconds of the boot-time clock.
#[derive(Clone, Debug)]
pub struct Belief {
    me: NodeBoot,
    clock: Clock,
}

impl Belief {
    /// What this boot believes.
    pub const fn new(me: NodeBoot, clock: Clock) -> Self {
        Self { me, clock }
    }

    /// A partition's workers are about to be let answer, under the lease.
    pub(super) fn serving(&self, fence: Fence) {
        let Fence { partition, epoch, .. } = fence;
        let (node, boot, at) = (self.me.node.as_str(), self.me.boot.0, self.now());
        tracing::debug!(target: "tumen::belief", node, boot, %partition, epoch = epoch.0, at, "serving");
    }

    /// A partition's workers can answer nobody any more.
    pub(super) fn stopped(&self, fence: Fence) {
        let Fence { partition, epoch, .. } = fence;
        let (node, boot, at) = (self.me.node.as_str(), self.me.boot.0, self.now());
        tracing::debug!(target: "tumen::belief", node, boot, %partition, epoch = epoch.0, at, "no longer serving");
    }

    /// Until then this node is about to be let answer; what it was told before does not count any more.
    pub(super) fn leased(&self, until: Moment) {
        let (node, boot, at) = (self.me.node.as_str(), self.me.boot.0, self.now());
        tracing::trace!(target: "tumen::belief", node, boot, at, until = until.as_nanos(), "leased");
    }

    fn now(&self) -> u64 {
        self.clock.now().as_nanos()
    }
}
