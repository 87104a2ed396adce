//! One write on its way: to whoever leads, as often as it takes, until it is known what became of it.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tumen_core::cluster::configuration::{Expected, Invalid, Json, Key, Refused, Write, Written};
use tumen_core::cluster::control::{Command, Outcome};
use tumen_core::ids::{ConfigVersion, NodeName};
use tumen_core::partitions::request;

use super::questions::{Answer, Question};
use super::reports::ControlReport;
use crate::clock;
use crate::cluster::consensus::CommitError;
use crate::node::parts::Parts;

/// How long to wait before the leader is looked for again.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// How long one node may take to answer a write, before it is asked again, or whoever leads by then.
const TRY_WITHIN: Duration = Duration::from_secs(2);
/// How long a leader that no majority answered lately waits for one before it says that there is none.
const QUORUM_WITHIN: Duration = Duration::from_secs(1);
/// How long a change may take to come here after a majority has it, should the caller's patience end before.
const VISIBLE_WITHIN: Duration = Duration::from_millis(500);

/// Why a write has no version.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigFailure {
    /// It is no key, or no value. Nothing was sent.
    #[error("{0}; nothing was changed")]
    Invalid(#[from] Invalid),
    /// It was judged, and not carried out. Nothing changed.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// `NoQuorum`: surely nothing changed. `Timeout`: it may have been carried out, or may be yet.
    #[error(transparent)]
    Call(#[from] request::Failure),
    /// It was carried out, and this node does not have it yet.
    #[error("it was carried out as version {0}, and this node has not heard of it yet")]
    NotVisible(ConfigVersion),
}

impl Parts {
    /// Writes, and waits until a majority of the voters and this node have it.
    pub(in crate::node) async fn configure(
        self: &Arc<Self>,
        key: Key,
        expected: Expected,
        value: Option<Json>,
        within: Duration,
    ) -> Result<Written, ConfigFailure> {
        let deadline = Instant::now() + within;
        let store = &self.configuration.store;
        let mut write = Write { id: clock::draw(), known: store.version(), key, expected, value };
        self.report(&ControlReport::Requested { id: write.id, key: write.key.clone() });
        // Whether anything may come yet of what was sent before.
        let mut unknown = false;
        let mut hint = None;
        while Instant::now() < deadline {
            match self.try_write(&write, hint.take(), deadline).await {
                Answer::Written(Ok(written)) => {
                    let visible = deadline.max(Instant::now() + VISIBLE_WITHIN);
                    let reached = tokio::time::timeout_at(visible, store.reached(written.version)).await;
                    return reached.map(|()| written).map_err(|_| ConfigFailure::NotVisible(written.version));
                }
                Answer::Written(Err(Refused::Outdated { version })) if !unknown => {
                    // It was answered, so nothing will come of it. Under another id it is another write.
                    drop(tokio::time::timeout_at(deadline, store.reached(version)).await);
                    (write.id, write.known) = (clock::draw(), version);
                }
                Answer::Written(Err(refused)) if !unknown || is_final(&refused, write.expected) => {
                    return Err(refused.into());
                }
                Answer::Written(Err(_)) => break,
                Answer::NoQuorum if !unknown => return Err(request::Failure::NoQuorum.into()),
                Answer::Unknown => unknown = true,
                Answer::NotLeader(leader) => hint = leader,
                Answer::NoQuorum | Answer::CatchUp(..) => {}
            }
            // Whoever is asked may answer at once, and the same each time.
            tokio::time::sleep_until(deadline.min(Instant::now() + LOOK_AGAIN)).await;
        }
        let failure = if unknown {
            request::Failure::Timeout { maybe_applied: true }
        } else {
            request::Failure::NoQuorum
        };
        Err(failure.into())
    }

    /// Asks whoever leads, once.
    async fn try_write(self: &Arc<Self>, write: &Write, hint: Option<NodeName>, deadline: Instant) -> Answer {
        let deadline = deadline.min(Instant::now() + TRY_WITHIN);
        let Some(to) = hint.or_else(|| self.leader.borrow().1.clone()) else {
            return Answer::NotLeader(None);
        };
        if to == self.id.node {
            return self.decide(write.clone(), deadline).await;
        }
        match self.ask_configuration(&to, &Question::Write(write.clone()), deadline).await {
            Ok(answer) => answer,
            Err(error) if error.maybe_delivered() => Answer::Unknown,
            Err(_) => Answer::NotLeader(None),
        }
    }

    /// Has a write agreed on, if this node leads.
    ///
    /// A majority that has not answered for a while is asked first: where there is none, nothing even begins.
    pub(super) async fn decide(&self, write: Write, deadline: Instant) -> Answer {
        let consensus = self.consensus();
        let news = consensus.leadership().borrow().clone();
        if !news.first_entry_applied || news.yielding {
            return Answer::NotLeader(news.leader.filter(|leader| *leader != self.id.node));
        }
        let now = self.clock.now();
        let deadline = now + deadline.saturating_duration_since(Instant::now());
        let settings = &self.consensus_settings;
        let recent = settings.ack_every * 2 + settings.heartbeat;
        if consensus.acks().borrow().is_none_or(|ack| now.since(ack.at) >= recent) {
            match consensus.quorum_ack(deadline.min(now + QUORUM_WITHIN)).await {
                Ok(_) => {}
                Err(CommitError::NotLeader { hint }) => return Answer::NotLeader(hint),
                Err(_) => return Answer::NoQuorum,
            }
        }
        if !self.configuration.begin_write() {
            return Answer::NotLeader(None);
        }
        match consensus.commit(Command::Configure(write), deadline).await {
            Ok(Outcome::Configured(outcome)) => Answer::Written(outcome),
            // The cluster is not founded yet.
            Ok(_) => Answer::NotLeader(None),
            Err(CommitError::NotLeader { hint }) => Answer::NotLeader(hint),
            Err(
                CommitError::Timeout { maybe_applied: true } | CommitError::Stopped { maybe_applied: true },
            ) => Answer::Unknown,
            Err(error) => {
                tracing::debug!(%error, "a write to the configuration did not begin");
                Answer::NoQuorum
            }
        }
    }
}

/// Whether a refusal stands although the same write may lie before another node yet: a version that is past never comes back.
fn is_final(refused: &Refused, expected: Expected) -> bool {
    matches!((refused, expected), (Refused::Differs { found: Some(found) }, Expected::Version(wanted)) if wanted < *found)
}
