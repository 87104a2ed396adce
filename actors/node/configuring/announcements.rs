//! How a change comes to nodes that do not vote: announced by the leader, and pulled by whoever lacks what came before.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::join_all;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use tumen_core::cluster::configuration::{CatchUp, Change, Configuration, Followed};
use tumen_core::cluster::topics::{Message, Overflow, Topic};
use tumen_core::ids::{ClusterId, ConfigVersion, NodeName};

use super::questions::{Answer, Question};
use crate::cluster::pubsub::News;
use crate::codec;
use crate::node::parts::Parts;
use crate::transport;

/// How long one node may take to say what came since.
const PULL_WITHIN: Duration = Duration::from_secs(2);
/// How long all may take that are asked before a side of the cluster goes on by itself.
const PULL_FROM_PEERS_WITHIN: Duration = Duration::from_millis(500);
/// After what came since could not be pulled it is tried again.
const PULL_AGAIN: Duration = Duration::from_millis(250);
/// The most announcements that wait. What is dropped is pulled.
const ANNOUNCEMENTS_MAX: usize = 64;
/// The most bytes of changes that are announced whole. Whoever lacks more pulls them.
const ANNOUNCED_SIZE_MAX: usize = transport::CONTROL_LEN_MAX / 4;

/// What the leader retains on the topic `config`.
#[derive(Serialize, Deserialize)]
struct Announcement {
    cluster: ClusterId,
    /// The last change.
    version: ConfigVersion,
    /// The changes up to it that were not announced before, unless they are too large.
    changes: Vec<Change>,
}

pub(super) fn config() -> Topic {
    Topic::new("config").expect("a short name")
}

impl Parts {
    /// Tells everybody of the changes that this node, as the leader, did not announce before.
    pub(super) fn announce_configuration(
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
        self.configuration.told.store(true, Ordering::Relaxed);
    }

    /// The cluster that this node belongs to, as far as it knows.
    fn own_cluster(&self) -> Option<ClusterId> {
        self.belonging().map(|belonging| belonging.id).or_else(|| self.consensus().cluster())
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
            self.pull_from(&node, cluster, PULL_WITHIN).await;
            if store.version() >= wanted {
                return;
            }
        }
    }

    /// Asks one node for what came since.
    async fn pull_from(&self, node: &NodeName, cluster: ClusterId, within: Duration) {
        let store = &self.configuration.store;
        let question = Question::Since(store.version());
        match self.ask_configuration(node, &question, Instant::now() + within).await {
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
    }

    /// Asks everybody who can be reached, at once, for what came since: one of them may have heard more of this cluster.
    pub(in crate::node) async fn pull_configuration_from_peers(&self, cluster: ClusterId) {
        let peers: Vec<NodeName> =
            self.transport.sessions().into_iter().map(|session| session.peer.node).collect();
        join_all(peers.iter().map(|peer| self.pull_from(peer, cluster, PULL_FROM_PEERS_WITHIN))).await;
    }
}

/// Takes in what leaders announce, and pulls what is missing.
pub(in crate::node) async fn follow(parts: Arc<Parts>) {
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
