//! What a node knows of the cluster's health, and what it tells others of the partitions that it leads.
//!
//! ```text
//!  copies here ─ not as the plan shows ─▶ topic `health`, retained ─▶ every node: those whose primary by its plan says so
//!  plan, leader, lease, sessions, losses ───────────────────────────────┴─▶ Known ─▶ HealthMonitor
//! ```
//!
//! Only a partition's primary knows how many of its copies are up to date: a plan does not say, for steps come after it. What
//! is as the plan shows is not told, so that a cluster at rest says nothing.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::PoisonError;

use serde::{Deserialize, Serialize};
use tumen_core::cluster::health::{Change, Told};
use tumen_core::cluster::snapshot::Snapshot;
use tumen_core::cluster::topics::{Message, Topic};
use tumen_core::ids::{NodeBoot, PartitionId};
use tumen_core::partitions::replication::State;

use super::events::Event;
use super::parts::Parts;
use crate::cluster::health_monitor::Known;
use crate::codec;
use crate::transport;

/// The most partitions that one node tells of. What is in the worst state is told first.
const TOLD_MAX: usize = 8_192;

/// What a node says on the topic.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Said {
    /// At most [`TOLD_MAX`].
    told: Vec<(PartitionId, Told)>,
}

/// What this node said last.
#[derive(Debug, Default)]
pub(super) struct LastSaid(Mutex<Said>);

fn topic() -> Topic {
    Topic::new("health").expect("a short name")
}

impl Parts {
    /// What this node knows of the cluster's health. Others are told what only this one can know. `None`: it stops.
    pub(super) fn look_at_health(&self) -> Option<Known> {
        if self.is_stopping() {
            return None;
        }
        let plan = self.plans.newest();
        let told = match &plan {
            Some(plan) => {
                let own = self.replication.told(plan);
                self.say_health(plan, &own);
                self.hear_health(plan, own)
            }
            None => BTreeMap::new(),
        };
        Some(Known {
            plan,
            led: self.leader.borrow().1.is_some(),
            leased: self.gate.is_open(),
            reached: self.transport.sessions().into_iter().map(|session| session.peer).collect(),
            lost: self.losses.now(),
            told,
            lag_limit: self.replication.lag_max(),
        })
    }

    /// Something changed: whoever listens is told.
    pub(super) fn tell_health(&self, change: Change) {
        self.tell(Event::Health { change });
    }

    fn say_health(&self, plan: &Snapshot, own: &BTreeMap<PartitionId, Told>) {
        let limit = self.replication.lag_max();
        let news = |(id, told): &(&PartitionId, &Told)| !told.is_as_planned(plan, **id, limit);
        let mut told: Vec<(PartitionId, Told)> =
            own.iter().filter(news).map(|(id, told)| (*id, *told)).collect();
        if told.len() > TOLD_MAX {
            told.sort_by_key(|(id, told)| (rank(told.state), *id));
            told.truncate(TOLD_MAX);
        }
        let said = Said { told };
        let mut last = self.health_said.0.lock().unwrap_or_else(PoisonError::into_inner);
        if *last == said {
            return;
        }
        if said.told.is_empty() {
            self.hub.release(&topic());
        } else if let Err(error) = self.hub.retain(&topic(), codec::pack(&said)) {
            // It is tried again at the next look.
            return tracing::error!(%error, "how this node's partitions are could not be told to other nodes");
        }
        *last = said;
    }

    /// What primaries say, this node's own word first.
    fn hear_health(&self, plan: &Snapshot, own: BTreeMap<PartitionId, Told>) -> BTreeMap<PartitionId, Told> {
        let mut told = BTreeMap::new();
        for message in self.hub.current(&topic()).iter().filter(|message| message.publisher != self.id) {
            if let Some(said) = read(message) {
                take_in(plan, &message.publisher, said.told, &mut told);
            }
        }
        take_in(plan, &self.id, own, &mut told);
        told
    }
}

/// What is worse comes first.
const fn rank(state: State) -> u8 {
    match state {
        State::Lost => 0,
        State::Stalled => 1,
        State::Opening => 2,
        State::Releasing | State::Serving => 3,
    }
}

fn read(message: &Message) -> Option<Said> {
    match codec::decode::<Said>(&message.body, transport::CONTROL_LEN_MAX) {
        Ok(said) if said.told.len() <= TOLD_MAX => Some(said),
        Ok(_) => None,
        Err(error) => {
            tracing::warn!(from = %message.publisher, %error, "how partitions are there cannot be read");
            None
        }
    }
}

/// Of what a node says that counts of which it is primary.
fn take_in(
    plan: &Snapshot,
    by: &NodeBoot,
    said: impl IntoIterator<Item = (PartitionId, Told)>,
    told: &mut BTreeMap<PartitionId, Told>,
) {
    let leads = |(id, told): &(PartitionId, Told)| plan.primary_of(*id) == Some((by, told.epoch));
    told.extend(said.into_iter().filter(leads));
}
