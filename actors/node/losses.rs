//! Which partitions are lost, as every node of the cluster knows it.
//!
//! ```text
//!  copies here ─ lost: too few are left ─▶ topic `lost`, retained ─▶ every node: those whose primary by its plan says so
//!                                                                      └─▶ PartitionLost, PartitionFound
//! ```
//!
//! Only a partition's primary knows how it is. What it says counts as long as the plan names it under the same epoch.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;
use tumen_core::Moment;
use tumen_core::cluster::snapshot::Snapshot;
use tumen_core::cluster::topics::{Message, Topic};
use tumen_core::ids::{Epoch, NodeBoot, PartitionId};

use super::events::Event;
use super::parts::Parts;
use crate::codec;
use crate::transport;

/// How often it is looked which partitions are lost.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// The most lost partitions that one node names.
const NAMED_MAX: usize = 16_384;
/// How long a partition must not have been lost before it counts as found: one that is lost under the next epoch too is
/// not found in between.
const FOUND_AFTER: Duration = Duration::from_secs(2);

/// Partitions with the epochs under which they are lost.
pub(super) type Lost = BTreeMap<PartitionId, Epoch>;

/// What is lost at present.
pub(super) struct Losses {
    /// Looked at before anything else, for there is almost never anything.
    any: AtomicBool,
    lost: watch::Sender<Arc<Lost>>,
}

impl Default for Losses {
    fn default() -> Self {
        Self { any: AtomicBool::new(false), lost: watch::Sender::new(Arc::default()) }
    }
}

impl Losses {
    /// What is lost at present.
    pub(super) fn now(&self) -> Arc<Lost> {
        Arc::clone(&self.lost.borrow())
    }

    /// Whether anything is.
    pub(super) fn any(&self) -> bool {
        self.any.load(Ordering::Relaxed)
    }

    /// Whether that is news.
    fn set(&self, lost: Lost) -> bool {
        self.any.store(!lost.is_empty(), Ordering::Relaxed);
        self.lost.send_if_modified(|shown| {
            let news = **shown != lost;
            if news {
                *shown = Arc::new(lost);
            }
            news
        })
    }
}

/// What a node says on the topic.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Said {
    /// At most [`NAMED_MAX`].
    lost: Vec<(PartitionId, Epoch)>,
}

fn topic() -> Topic {
    Topic::new("lost").expect("a short name")
}

/// Says what is lost of this node's partitions, hears what others say, and tells what changed.
pub(super) async fn follow(parts: Arc<Parts>) {
    let (mut own, mut told) = (Vec::new(), BTreeMap::new());
    let mut ticks = tokio::time::interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Some(plan) = parts.plans.newest() else {
            parts.losses.set(Lost::new());
            continue;
        };
        let mut here = parts.replication.lost(&plan);
        here.truncate(NAMED_MAX);
        if here != own {
            parts.say_lost(&plan, &own, &here);
            own = here;
        }
        let others = parts.hub.current(&topic());
        let mut lost = Lost::new();
        take_in(&plan, &parts.id, &own, &mut lost);
        for message in others.iter().filter(|message| message.publisher != parts.id) {
            if let Some(said) = read(message) {
                take_in(&plan, &message.publisher, &said.lost, &mut lost);
            }
        }
        for event in changes(parts.clock.now(), &lost, &mut told) {
            parts.tell(event);
        }
        if parts.losses.set(lost) {
            parts.health.look_soon();
        }
    }
}

fn read(message: &Message) -> Option<Said> {
    match codec::decode::<Said>(&message.body, transport::CONTROL_LEN_MAX) {
        Ok(said) if said.lost.len() <= NAMED_MAX => Some(said),
        Ok(_) => None,
        Err(error) => {
            tracing::warn!(from = %message.publisher, %error, "what is lost there cannot be read");
            None
        }
    }
}

/// Of what a node says that counts of which it is primary.
fn take_in(plan: &Snapshot, by: &NodeBoot, said: &[(PartitionId, Epoch)], lost: &mut Lost) {
    let leads =
        |(partition, epoch): &&(PartitionId, Epoch)| plan.primary_of(*partition) == Some((by, *epoch));
    lost.extend(said.iter().filter(leads).copied());
}

/// What is to be told. `told` holds what was told to be lost, and until when it was so.
fn changes(now: Moment, lost: &Lost, told: &mut BTreeMap<PartitionId, Moment>) -> Vec<Event> {
    let mut events = Vec::new();
    for (partition, epoch) in lost {
        if told.insert(*partition, now).is_none() {
            events.push(Event::PartitionLost { partition: *partition, epoch: *epoch });
        }
    }
    told.retain(|partition, until| {
        let found = now.since(*until) >= FOUND_AFTER;
        if found {
            events.push(Event::PartitionFound { partition: *partition });
        }
        !found
    });
    events
}

impl Parts {
    /// Other partitions than before are lost of those that this node should serve.
    fn say_lost(&self, plan: &Snapshot, before: &[(PartitionId, Epoch)], now: &[(PartitionId, Epoch)]) {
        for (partition, epoch) in now.iter().filter(|one| !before.contains(one)) {
            let copies = self.replication.report(plan, *partition).map(|report| report.copies);
            tracing::error!(
                %partition, %epoch, ?copies,
                "a partition is lost: too few of its copies are left to tell what was written, and it is not served. It goes on \
                 by itself once one returns that has its data; or say `tumen partition accept-loss`, which gives the rest up"
            );
        }
        for (partition, epoch) in before.iter().filter(|one| !now.contains(one)) {
            tracing::info!(%partition, %epoch, "a partition is not lost any more");
        }
        if now.is_empty() {
            return self.hub.release(&topic());
        }
        if let Err(error) = self.hub.retain(&topic(), codec::pack(&Said { lost: now.to_vec() })) {
            tracing::error!(%error, "what is lost could not be told to other nodes");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lost_again_at_once_was_not_found_in_between() {
        let (at, partition) = (Moment::from_millis, PartitionId::user(3));
        let (lost, none) = (Lost::from([(partition, Epoch(2))]), Lost::new());
        let mut told = BTreeMap::new();
        let events = changes(at(0), &lost, &mut told);
        assert!(matches!(events[..], [Event::PartitionLost { epoch: Epoch(2), .. }]), "{events:?}");
        assert!(changes(at(1_000), &lost, &mut told).is_empty(), "it is known");
        assert!(changes(at(2_000), &none, &mut told).is_empty(), "it may be lost under the next epoch too");
        assert!(changes(at(2_500), &Lost::from([(partition, Epoch(3))]), &mut told).is_empty());
        assert!(changes(at(4_000), &none, &mut told).is_empty());
        let events = changes(at(4_500), &none, &mut told);
        assert!(matches!(events[..], [Event::PartitionFound { .. }]), "{events:?}");
        assert!(changes(at(9_000), &none, &mut told).is_empty());
    }
}
