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

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use bytes::BytesMut;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use tumen_core::cluster::configuration::{
    CatchUp, Change, Configuration, Expected, Followed, Invalid, Json, Key, Refused, Write, Written,
};
use tumen_core::cluster::control::{Command, ControlState, Outcome};
use tumen_core::cluster::topics::{Message, Overflow, Topic};
use tumen_core::ids::{ClusterId, ConfigVersion, NodeName};
use tumen_core::partitions::request;

use super::parts::Parts;
use crate::clock;
use crate::cluster::config_store::ConfigStore;
use crate::cluster::consensus::CommitError;
use crate::cluster::pubsub::{News, Subscription};
use crate::codec;
use crate::transport::{self, DATA_LEN_MAX, Failure, Incoming, LaneError, Serve, Service};

/// How long to wait before the leader is looked for again.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// How long one node may take to answer a write, before it is asked again, or whoever leads by then.
const TRY_WITHIN: Duration = Duration::from_secs(2);
/// How long a leader that no majority answered lately waits for one before it says that there is none.
const QUORUM_WITHIN: Duration = Duration::from_secs(1);
/// How long a change may take to come here after a majority has it, should the caller's patience end before.
const VISIBLE_WITHIN: Duration = Duration::from_millis(500);
/// How long one node may take to say what came since.
const PULL_WITHIN: Duration = Duration::from_secs(2);
/// After what came since could not be pulled it is tried again.
const PULL_AGAIN: Duration = Duration::from_millis(250);
/// The most announcements that wait. What is dropped is pulled.
const ANNOUNCEMENTS_MAX: usize = 64;
/// The most reports that wait to be acknowledged, and the most that are remembered to be.
const REPORTS_MAX: usize = 1024;
/// The most bytes of changes that are announced whole. Whoever lacks more pulls them.
const ANNOUNCED_SIZE_MAX: usize = transport::CONTROL_LEN_MAX / 4;

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

/// This node's part in it.
#[derive(Debug, Default)]
pub(super) struct Configuring {
    pub(super) store: ConfigStore,
    /// Whether this node has had all that a leader announced, since it was started.
    told: AtomicBool,
    /// The last change that this node announced as the leader. `None`: it does not lead.
    announced: Mutex<Option<ConfigVersion>>,
    /// Writes that were reported, and that this voter has not carried out yet.
    asked: Mutex<VecDeque<u64>>,
}

/// What the leader retains on the topic `config`.
#[derive(Serialize, Deserialize)]
struct Announcement {
    cluster: ClusterId,
    /// The last change.
    version: ConfigVersion,
    /// The changes up to it that were not announced before, unless they are too large.
    changes: Vec<Change>,
}

/// What one node asks another.
#[derive(Serialize, Deserialize)]
enum Question {
    /// The leader: carry this out. Answered by [`Answer::Written`], or by why not.
    Write(Write),
    /// Any node: what came after this? Answered by [`Answer::CatchUp`].
    Since(ConfigVersion),
}

#[derive(Serialize, Deserialize)]
enum Answer {
    Written(Result<Written, Refused>),
    /// Another node leads, or none. Nothing changed.
    NotLeader(Option<NodeName>),
    /// This one leads, and no majority answers it. Nothing changed.
    NoQuorum,
    /// Nobody knows what became of it, or will.
    Unknown,
    CatchUp(Option<ClusterId>, CatchUp),
}

fn config() -> Topic {
    Topic::new("config").expect("a short name")
}

fn control() -> Topic {
    Topic::new("control").expect("a short name")
}

impl Parts {
    /// Writes, and waits until a majority of the voters and this node have it.
    pub(super) async fn configure(
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
                Answer::NotLeader(leader) => {
                    hint = leader;
                    tokio::time::sleep_until(deadline.min(Instant::now() + LOOK_AGAIN)).await;
                }
                Answer::NoQuorum | Answer::CatchUp(..) => tokio::time::sleep(LOOK_AGAIN).await,
            }
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
    async fn decide(&self, write: Write, deadline: Instant) -> Answer {
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

    async fn ask_configuration(
        &self,
        to: &NodeName,
        question: &Question,
        deadline: Instant,
    ) -> Result<Answer, LaneError> {
        let within = deadline.saturating_duration_since(Instant::now());
        let encode = |buffer: &mut BytesMut| {
            codec::encode_into(question, buffer).expect("a question is small and encodable");
        };
        let reply = self.transport.call(to, Service::Configuration, within, encode).await?;
        codec::decode(&reply, DATA_LEN_MAX).map_err(|error| {
            tracing::warn!(%to, %error, "an answer about the configuration cannot be read");
            LaneError::Unanswered
        })
    }

    fn report(&self, report: &ControlReport) {
        // Nobody depends on it.
        if let Err(error) = self.hub.publish(&control(), codec::pack(report)) {
            tracing::debug!(%error, "a report was not said");
        }
    }

    /// What is said on `control`, for whoever wants to see it: at most so many reports wait.
    pub(super) fn control_reports(&self, queue_len_max: usize) -> Subscription {
        self.hub.subscribe(&control(), queue_len_max, Overflow::DropOldest)
    }

    /// Raft's state changed: this node has what it says, and says so where it was asked or leads.
    pub(super) fn handle_configured(&self, state: &ControlState) {
        let Some(founding) = &state.founding else { return };
        let all = &state.configuration;
        self.configuration.store.take(founding.id, all);
        self.ack_asked(all);
        let mut announced = self.configuration.announced();
        if announced.is_some_and(|announced| announced < all.version()) {
            self.announce_configuration(founding.id, all, &mut announced);
        }
    }

    /// This node was elected, and has all that was agreed on before: everybody is told how far that is.
    pub(super) fn lead_configuration(&self) {
        let state = Arc::clone(&self.consensus().state().borrow().state);
        let Some(founding) = &state.founding else { return };
        self.configuration.store.take(founding.id, &state.configuration);
        self.configuration.told.store(true, Ordering::Relaxed);
        let mut announced = self.configuration.announced();
        self.announce_configuration(founding.id, &state.configuration, &mut announced);
    }

    /// This node does not lead: what it announced when it did is not for late subscribers any more.
    pub(super) fn withdraw_configuration(&self) {
        *self.configuration.announced() = None;
        self.hub.release(&config());
    }

    fn announce_configuration(
        &self,
        cluster: ClusterId,
        all: &Configuration,
        announced: &mut Option<ConfigVersion>,
    ) {
        let version = all.version();
        let since = announced.replace(version).unwrap_or(version);
        let changes: Vec<Change> = all.changes_since(since).into_iter().flatten().cloned().collect();
        let mut frame = codec::pack(&Announcement { cluster, version, changes });
        if frame.len() > ANNOUNCED_SIZE_MAX {
            frame = codec::pack(&Announcement { cluster, version, changes: Vec::new() });
        }
        if let Err(error) = self.hub.retain(&config(), frame) {
            tracing::error!(%version, %error, "a change of the configuration could not be announced");
        }
    }

    /// Answers the reports whose writes this voter has carried out.
    fn ack_asked(&self, all: &Configuration) {
        let mut done = Vec::new();
        self.configuration.asked().retain(|id| {
            let version = all.version_of(*id);
            done.extend(version.map(|version| ControlReport::Acked { id: *id, version }));
            version.is_none()
        });
        done.iter().for_each(|report| self.report(report));
    }

    /// Somebody reports a write. Voters answer once they have it, which may have been before.
    fn handle_report(&self, report: &ControlReport) {
        let ControlReport::Requested { id, .. } = report else { return };
        let consensus = self.consensus();
        let votes = {
            let metrics = consensus.metrics();
            let metrics = metrics.borrow();
            metrics.running && metrics.voters.contains_key(&consensus.life())
        };
        if !votes {
            return;
        }
        {
            let mut asked = self.configuration.asked();
            if asked.len() >= REPORTS_MAX {
                asked.pop_front();
            }
            asked.push_back(*id);
        }
        let state = Arc::clone(&consensus.state().borrow().state);
        self.ack_asked(&state.configuration);
    }

    /// The cluster that this node belongs to, as far as it knows.
    fn own_cluster(&self) -> Option<ClusterId> {
        let founded =
            || self.consensus().state().borrow().state.founding.as_ref().map(|founding| founding.id);
        self.belonging().map(|belonging| belonging.id).or_else(founded)
    }

    /// Takes in what a leader announced. How far it says that there is more, if there is.
    fn handle_announced(&self, message: &Message) -> Option<ConfigVersion> {
        let said: Announcement = match codec::decode(&message.body, transport::CONTROL_LEN_MAX) {
            Ok(said) => said,
            Err(error) => {
                tracing::warn!(from = %message.publisher, %error, "a change of the configuration is dropped");
                return None;
            }
        };
        if self.own_cluster() != Some(said.cluster) {
            // This node may be about to join that cluster: what is current there is looked at again then.
            return None;
        }
        let store = &self.configuration.store;
        store.follow(said.cluster, &said.changes);
        if said.version == ConfigVersion::ZERO {
            store.take_empty(said.cluster);
        }
        if store.cluster() == Some(said.cluster) && store.version() >= said.version {
            self.configuration.told.store(true, Ordering::Relaxed);
            return None;
        }
        Some(said.version)
    }

    /// Asks for what came since: the leader first, then whoever is there.
    async fn pull_configuration(&self, wanted: ConfigVersion) {
        let Some(cluster) = self.own_cluster() else { return };
        let store = &self.configuration.store;
        let leader = self.leader.borrow().1.clone();
        let others = self.transport.sessions().into_iter().map(|session| session.peer.node);
        let asked = leader.iter().cloned().chain(others.filter(|node| leader.as_ref() != Some(node)));
        for node in asked.filter(|node| *node != self.id.node).collect::<Vec<_>>() {
            let question = Question::Since(store.version());
            let answer = self.ask_configuration(&node, &question, Instant::now() + PULL_WITHIN).await;
            match answer {
                Ok(Answer::CatchUp(Some(theirs), news)) if theirs == cluster => match news {
                    CatchUp::Nothing => {}
                    CatchUp::Changes(changes) => {
                        if store.follow(cluster, &changes) == Followed::Gap {
                            tracing::warn!(%node, "changes of the configuration do not follow on what is here");
                        }
                    }
                    CatchUp::Whole(all) => {
                        store.take(cluster, &all);
                    }
                },
                Ok(_) => {}
                Err(error) => tracing::debug!(%node, %error, "the configuration could not be pulled"),
            }
            if store.version() >= wanted {
                return;
            }
        }
    }
}

impl Configuring {
    /// Whether this node has had all that a leader of this cluster announced, since it was started.
    pub(super) fn is_told(&self, cluster: ClusterId) -> bool {
        self.told.load(Ordering::Relaxed) && self.store.cluster() == Some(cluster)
    }

    /// This node leaves the cluster that it was in.
    pub(super) fn forget(&self) {
        self.told.store(false, Ordering::Relaxed);
        self.store.clear();
    }

    fn announced(&self) -> std::sync::MutexGuard<'_, Option<ConfigVersion>> {
        // Nothing panics while it is locked.
        self.announced.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn asked(&self) -> std::sync::MutexGuard<'_, VecDeque<u64>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a refusal stands although the same write may lie before another node yet: a version that is past never comes back.
fn is_final(refused: &Refused, expected: Expected) -> bool {
    matches!((refused, expected), (Refused::Differs { found: Some(found) }, Expected::Version(wanted)) if wanted < *found)
}

/// Takes in what leaders announce, and pulls what is missing.
pub(super) async fn follow(parts: Arc<Parts>) {
    let mut announcements = parts.hub.subscribe(&config(), ANNOUNCEMENTS_MAX, Overflow::DropOldest);
    let mut plans = parts.plans.subscribe();
    let mut missing = None;
    loop {
        let again = async move {
            match missing {
                Some(_) => tokio::time::sleep(PULL_AGAIN).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            news = announcements.recv() => match news {
                Some(News::Said(message)) => missing = missing.max(parts.handle_announced(&message)),
                // What was dropped shows in the next one, or in what is current.
                Some(_) => missing = missing.max(look(&parts)),
                None => return,
            },
            changed = plans.changed() => {
                if changed.is_err() {
                    return;
                }
                missing = missing.max(look(&parts));
            }
            () = again => {}
        }
        if let Some(wanted) = missing {
            parts.pull_configuration(wanted).await;
            // A new cluster may have fewer changes than what was missing in the former one.
            missing = look(&parts);
        }
    }
}

/// Takes in what is current on the topic. How far this node lags, if it does.
fn look(parts: &Parts) -> Option<ConfigVersion> {
    let current = parts.hub.current(&config());
    current.iter().filter_map(|message| parts.handle_announced(message)).max()
}

/// Hears the reports of writes, and answers them where this node votes.
pub(super) async fn follow_reports(parts: Arc<Parts>) {
    let mut reports = parts.control_reports(REPORTS_MAX);
    while let Some(news) = reports.recv().await {
        let News::Said(message) = news else { continue };
        if let Some(report) = ControlReport::read(&message) {
            parts.handle_report(&report);
        }
    }
}

/// Answers what other nodes ask about the configuration.
struct Here(Weak<Parts>);

impl Serve for Here {
    fn serve(&self, batch: &mut Vec<Incoming>) {
        for incoming in batch.drain(..) {
            let Some(parts) = self.0.upgrade() else {
                incoming.reply.fail(Failure::NotServed);
                continue;
            };
            match codec::decode(&incoming.body, DATA_LEN_MAX) {
                Ok(Question::Since(known)) => {
                    let view = parts.configuration.store.view();
                    answer(
                        incoming,
                        &Answer::CatchUp(view.cluster(), Configuration::catch_up(view.all(), known)),
                    );
                }
                Ok(Question::Write(write)) => {
                    tokio::spawn(async move {
                        let decided = parts.decide(write, incoming.deadline).await;
                        answer(incoming, &decided);
                    });
                }
                Err(error) => {
                    tracing::warn!(from = %incoming.from(), %error, "a question cannot be read");
                    incoming.reply.fail(Failure::NotServed);
                }
            }
        }
    }
}

fn answer(incoming: Incoming, answer: &Answer) {
    match codec::try_pack(answer, DATA_LEN_MAX - codec::HEADER_LEN) {
        Ok(answer) => incoming.reply.send(&answer),
        Err(error) => {
            tracing::warn!(%error, "an answer does not fit a frame");
            incoming.reply.fail(Failure::ReplyLost);
        }
    }
}

/// Serves what other nodes ask about the configuration.
pub(super) fn serve(parts: &Arc<Parts>) {
    parts.transport.serve(Service::Configuration, Arc::new(Here(Arc::downgrade(parts))));
}
