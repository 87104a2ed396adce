//! How the cluster is, as this node sees it.

use std::sync::Arc;
use std::time::Duration;

use tumen_core::cluster::health::{Assessment, Reason, Status};

use super::Node;

impl Node {
    /// How the cluster was when this node looked last: nodes, partitions, copies that lag, and how evenly all is shared out,
    /// with reasons and numbers. Reading it waits for nothing. It looks every [`Config::health_interval`], and after each plan
    /// and each loss; each change is logged once, and is an event.
    ///
    /// [`Config::health_interval`]: crate::config::Config::health_interval
    pub fn health(&self) -> Arc<Assessment> {
        self.last_health().0
    }

    /// The same, and how long ago that was. A node that has not looked yet knows no plan.
    pub(crate) fn last_health(&self) -> (Arc<Assessment>, Duration) {
        let unseen = || {
            let (status, reasons) = (Status::Degraded, vec![Reason::NoPlan]);
            (Arc::new(Assessment { status, reasons, ..Assessment::default() }), Duration::ZERO)
        };
        self.runtime().health().last().unwrap_or_else(unseen)
    }
}
