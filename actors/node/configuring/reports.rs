//! What is said of writes on the topic `control`: that one is asked for, and by each voter that it has it.

use std::collections::VecDeque;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tumen_core::cluster::configuration::{Configuration, Key};
use tumen_core::cluster::topics::{Message, Overflow, Topic};
use tumen_core::ids::ConfigVersion;

use crate::cluster::pubsub::{News, Subscription};
use crate::codec;
use crate::node::parts::Parts;
use crate::transport;

/// The most reports that wait to be acknowledged, and the most that are remembered to be.
const REPORTS_MAX: usize = 1024;

/// What is said on the topic `control` about a write. It reports and decides nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ControlReport {
    /// The publisher asks the voters to agree on a write.
    Requested {
        /// By which it is known.
        id: u64,
        /// Under which key.
        key: Key,
    },
    /// The publisher votes, and has carried it out.
    Acked {
        /// Which write.
        id: u64,
        /// Which change it is.
        version: ConfigVersion,
    },
}

impl ControlReport {
    /// What a message on the topic says, if it is one of these.
    pub fn read(message: &Message) -> Option<Self> {
        codec::decode(&message.body, transport::CONTROL_LEN_MAX).ok()
    }
}

/// The writes that were reported to a voter, and that it has not carried out yet.
#[derive(Debug, Default)]
pub(super) struct Asked {
    /// Their ids, the oldest report first: at most [`REPORTS_MAX`].
    ids: VecDeque<u64>,
    /// The last change at which was looked.
    seen: ConfigVersion,
}

fn control() -> Topic {
    Topic::new("control").expect("a short name")
}

impl Parts {
    pub(super) fn report(&self, report: &ControlReport) {
        // Nobody depends on it.
        if let Err(error) = self.hub.publish(&control(), codec::pack(report)) {
            tracing::debug!(%error, "a report was not said");
        }
    }

    /// What is said on `control`, for whoever wants to see it: at most so many reports wait.
    pub(in crate::node) fn control_reports(&self, queue_len_max: usize) -> Subscription {
        self.hub.subscribe(&control(), queue_len_max, Overflow::DropOldest)
    }

    /// Answers the reports of the writes that this voter has carried out since it looked last.
    pub(super) fn ack_asked(&self, all: &Configuration) {
        let done = self.configuration.asked().take_done(all);
        done.iter().for_each(|report| self.report(report));
    }

    /// Somebody reports a write. Voters answer once they have it, which may have been before.
    fn handle_report(&self, report: &ControlReport) {
        let ControlReport::Requested { id, .. } = *report else { return };
        let consensus = self.consensus();
        let votes = {
            let metrics = consensus.metrics();
            let metrics = metrics.borrow();
            metrics.running && metrics.voters.contains_key(&consensus.life())
        };
        if !votes {
            return;
        }
        self.configuration.asked().push(id);
        // It is carried out before it is looked for here, or looked at after it: both at once answer once.
        let state = Arc::clone(&consensus.state().borrow().state);
        if let Some(version) = state.configuration.version_of(id)
            && self.configuration.asked().remove(id)
        {
            self.report(&ControlReport::Acked { id, version });
        }
    }
}

impl Asked {
    fn push(&mut self, id: u64) {
        if self.ids.len() >= REPORTS_MAX {
            self.ids.pop_front();
        }
        self.ids.push_back(id);
    }

    fn remove(&mut self, id: u64) -> bool {
        let at = self.ids.iter().position(|asked| *asked == id);
        at.is_some_and(|at| self.ids.remove(at).is_some())
    }

    /// Of the changes that came since it was looked last, those that were asked for. Ones that are not kept any more stay
    /// unanswered: nobody depends on it.
    fn take_done(&mut self, all: &Configuration) -> Vec<ControlReport> {
        let seen = std::mem::replace(&mut self.seen, all.version());
        let new = all.changes_since(seen).into_iter().flatten();
        let done = new.filter(|change| self.remove(change.id));
        done.map(|change| ControlReport::Acked { id: change.id, version: change.version }).collect()
    }
}

/// Hears the reports of writes, and answers them where this node votes.
pub(in crate::node) async fn follow_reports(parts: Arc<Parts>) {
    let mut reports = parts.control_reports(REPORTS_MAX);
    while let Some(news) = reports.recv().await {
        let News::Said(message) = news else { continue };
        if let Some(report) = ControlReport::read(&message) {
            parts.handle_report(&report);
        }
    }
}
