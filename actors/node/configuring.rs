//! How the cluster's own configuration is changed, and how each change comes to every node.
//!
//! ```text
//!  write ─▶ topic `control`: asked ─▶ the leader ─ by majority ─▶ Raft's state ─▶ ConfigStore      on voters
//!                      acked ◀─ each voter that was told ◀─────────┤
//!                                                                  └▶ topic `config`, retained ─▶ ConfigStore, everywhere
//!  answered: once a majority has it, and this node               a gap ─▶ the changes since, or the whole, pulled
//! ```
//!
//! What is said on `control` reports and decides nothing. A write is sent again by itself where its outcome is unknown: by its
//! id it is known again, so that it is carried out once.

mod announcements;
mod questions;
mod reports;
mod writes;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tumen_core::cluster::configuration::Configuration;
use tumen_core::cluster::control::ControlState;
use tumen_core::ids::{ClusterId, ConfigVersion};

pub(super) use self::announcements::follow;
pub(super) use self::questions::serve;
use self::reports::Asked;
pub use self::reports::ControlReport;
pub(super) use self::reports::follow_reports;
pub use self::writes::ConfigFailure;
use super::parts::Parts;
use crate::cluster::config_store::ConfigStore;

/// This node's part in it.
#[derive(Debug, Default)]
pub(super) struct Configuring {
    pub(super) store: ConfigStore,
    /// Whether this node has had all that a leader announced, since it was started.
    told: AtomicBool,
    /// The last change that this node announced as the leader. `None`: it does not lead.
    announced: Mutex<Option<ConfigVersion>>,
    /// The writes that were reported, and that this voter has not carried out yet.
    asked: Mutex<Asked>,
    standing: Mutex<Standing>,
}

/// Whether somebody relies on the cluster that this node is in, as far as its configuration goes. A founder that writes and a
/// founder that drops its cluster for an elder one exclude each other, and the first of the two stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Standing {
    /// Nobody wrote by this node.
    #[default]
    Unwritten,
    /// Somebody may have been answered.
    Written,
    /// The node leaves its cluster: nothing more is written in it.
    Leaving,
}

impl Parts {
    /// Raft's state changed: this node has what it says, and says so where it was asked or leads.
    pub(super) fn handle_configured(&self, state: &ControlState) {
        let Some(founding) = &state.founding else { return };
        let all = &state.configuration;
        self.configuration.store.take(founding.id, all);
        self.ack_asked(all);
        let mut announced = self.configuration.announced();
        let is_news = |announced| announced < all.version() || !self.configuration.is_told(founding.id);
        if announced.is_some_and(is_news) {
            self.announce_configuration(founding.id, all, &mut announced);
        }
    }

    /// This node was elected, and has all that was agreed on before: everybody is told how far that is.
    pub(super) fn lead_configuration(&self) {
        let state = Arc::clone(&self.consensus().state().borrow().state);
        let all = &state.configuration;
        let mut announced = self.configuration.announced();
        match &state.founding {
            Some(founding) => {
                self.configuration.store.take(founding.id, all);
                self.announce_configuration(founding.id, all, &mut announced);
            }
            // A founder leads before its cluster is founded: it announces once it is.
            None => *announced = Some(all.version()),
        }
    }

    /// This node does not lead: what it announced when it did is not for late subscribers any more.
    pub(super) fn withdraw_configuration(&self) {
        *self.configuration.announced() = None;
        self.hub.release(&announcements::config());
    }
}

impl Configuring {
    /// All of it, if this node knows how this cluster is configured.
    pub(super) fn of(&self, cluster: ClusterId) -> Option<Arc<Configuration>> {
        let view = self.store.view();
        (view.cluster() == Some(cluster)).then(|| Arc::clone(view.all()))
    }

    /// Whether this node has had all that a leader of this cluster announced, since it was started.
    pub(super) fn is_told(&self, cluster: ClusterId) -> bool {
        self.told.load(Ordering::Relaxed) && self.store.cluster() == Some(cluster)
    }

    /// Whether somebody relies on it that this node stays in its cluster.
    pub(super) fn is_relied_on(&self) -> bool {
        *self.standing() == Standing::Written || self.store.version() > ConfigVersion::ZERO
    }

    /// A write begins, if the node does not leave its cluster.
    fn begin_write(&self) -> bool {
        self.stand(Standing::Written)
    }

    /// The node leaves its cluster, if nothing was written in it.
    pub(super) fn begin_leaving(&self) -> bool {
        self.stand(Standing::Leaving)
    }

    /// The node leaves its cluster, whatever was written in it.
    pub(super) fn begin_leaving_anyhow(&self) {
        *self.standing() = Standing::Leaving;
    }

    fn stand(&self, next: Standing) -> bool {
        let mut standing = self.standing();
        let fits = [Standing::Unwritten, next].contains(&*standing);
        if fits {
            *standing = next;
        }
        fits
    }

    /// This node has left the cluster that it was in.
    pub(super) fn forget(&self) {
        self.told.store(false, Ordering::Relaxed);
        self.store.clear();
        *self.standing() = Standing::Unwritten;
    }

    fn announced(&self) -> MutexGuard<'_, Option<ConfigVersion>> {
        // Nothing panics while it is locked.
        self.announced.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn asked(&self) -> MutexGuard<'_, Asked> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn standing(&self) -> MutexGuard<'_, Standing> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_wrote_does_not_leave_and_who_leaves_writes_nothing_until_it_has_left() {
        let configuring = Configuring::default();
        assert!(!configuring.is_relied_on());
        assert!(configuring.begin_leaving() && configuring.begin_leaving());
        assert!(!configuring.begin_write() && !configuring.is_relied_on());
        configuring.forget();
        assert!(configuring.begin_write() && configuring.begin_write());
        assert!(!configuring.begin_leaving() && configuring.is_relied_on());
    }
}
