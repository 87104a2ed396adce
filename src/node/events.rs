//! What happens to a node and its cluster, as one stream: numbered, and kept for a while for those who listen slowly or come
//! back.
//!
//! ```text
//!  plans, members, moves ─┐                          ┌─▶ listener at 17
//!  leaders, losses ───────┤                          │
//!  health, rebalances ────┼▶ 12 13 14 15 16 17 ──────┼─▶ listener at 14: reads on
//!  copies, configuration ─┘   └ kept for a while     └─▶ listener at 3:  told that it missed 8
//! ```
//!
//! Each node numbers by itself, from 1 on and without a gap, and anew when it is started. Nobody waits for a listener: each
//! keeps its place, and reads on from there. What comes from one source is told in the order in which it came.

mod listening;
mod plans;
mod rebalancing;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::stream;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tumen_actors::node::Event as NodeEvent;
use tumen_actors::partitions::replication::News as TransferNews;
use tumen_core::cluster::health::{Assessment, Change, Reason};
use tumen_core::cluster::snapshot::Snapshot;
use tumen_core::partitions::handover::Handover;
use tumen_core::{GroupId, NodeName, PartitionId, Term};

pub(crate) use self::listening::{Callbacks, start};
use self::plans::{Absent, differences, snapshot_event};
use self::rebalancing::Rebalancing;
use super::subscription::{self, Subscription, sealed};
use crate::http::shapes::Event;
use crate::node::{ConfigEvent, Node, Partition};

/// How many events are kept at least.
const KEPT_MIN: usize = 4_096;

/// One event of a node, as [`Builder::on_event`](crate::Builder::on_event) and [`Node::subscribe`] tell it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// Its number on this run of this node: from 1 on, without a gap. `None` where it is none of those that are kept: what
    /// happens to names and children, and how much was missed.
    pub number: Option<u64>,
    /// What happened.
    pub event: Event,
}

impl subscription::News for Told {}

impl sealed::Source for Told {
    /// From now on; without what happens to names and children, which [`NameEvent`](super::NameEvent) tells.
    fn subscribe(node: &Node) -> Subscription<Self> {
        let (node, listener) = (node.clone(), node.news().listen_after(node.news().newest()));
        Subscription::new(stream::unfold((node, listener), |(node, mut listener)| async move {
            let (number, event) = tokio::select! {
                biased;
                told = listener.next() => told?,
                _ = node.ended() => return None,
            };
            let number = Some(number).filter(|_| !matches!(event, Event::Missed { .. }));
            Some((Self { number, event }, (node, listener)))
        }))
    }
}

/// The numbers that somebody asks for are not kept any more, or were never given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NotKept {
    /// The oldest that is kept: one can go on from here. One more than the newest where none is.
    pub(crate) oldest: u64,
    /// The newest that was given; 0: none was.
    pub(crate) newest: u64,
}

/// The news of one node. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct News {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    kept: Mutex<Kept>,
    /// The number of the newest event, as it changes.
    newest: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Kept {
    /// How many events there ever were: the number of the newest.
    count: u64,
    kept: VecDeque<Event>,
    plan: Option<Arc<Snapshot>>,
    leader: Option<(Option<NodeName>, Term)>,
    absent: Absent,
    rebalancing: Rebalancing,
}

impl News {
    /// News of nothing yet.
    pub(crate) fn new() -> Self {
        Self { shared: Arc::new(Shared { kept: Mutex::default(), newest: watch::Sender::new(0) }) }
    }

    /// Takes in what happens to a node, until it stops.
    pub(crate) fn follow(&self, node: &Node, stopping: CancellationToken) {
        let (writer, node, mut events) = (self.clone(), node.clone(), node.runtime().events());
        let mut transfers = node.runtime().replication().transfers();
        let mut looks = node.runtime().health().looks();
        let mut configured = node.watch_cluster_wide("");
        tokio::spawn(stopping.run_until_cancelled_owned(async move {
            if let Some(plan) = node.snapshot() {
                writer.handle_plan(plan);
            }
            if let Some(leader) = node.runtime().leader() {
                writer.handle_leader(Some(leader), node.runtime().term());
            }
            loop {
                let event = tokio::select! {
                    event = events.recv() => event,
                    transfer = transfers.recv() => {
                        // Those that were missed are shown by what follows them.
                        transfer.into_iter().for_each(|news| writer.handle_transfer(&node, news));
                        continue;
                    }
                    Ok(()) = looks.changed() => {
                        let seen = looks.borrow_and_update().clone();
                        seen.into_iter().for_each(|(_, seen)| writer.handle_look(&seen));
                        continue;
                    }
                    Some(change) = configured.next() => {
                        writer.handle_configured(change);
                        continue;
                    }
                };
                match event {
                    Ok(event) => writer.handle(event),
                    // What was missed shows in the difference to the plan in force.
                    Err(RecvError::Lagged(_)) => {
                        node.snapshot().into_iter().for_each(|plan| writer.handle_plan(plan));
                    }
                    Err(RecvError::Closed) => return,
                }
            }
        }));
    }

    fn handle(&self, event: NodeEvent) {
        match event {
            NodeEvent::Plan { plan, .. } => self.handle_plan(plan),
            NodeEvent::Leader { leader, term } => self.handle_leader(leader, term),
            NodeEvent::PartitionLost { partition, epoch } => {
                let event = |partition| Event::PartitionLost { partition, epoch: epoch.0 };
                self.handle_partition(partition, event);
            }
            NodeEvent::PartitionFound { partition } => {
                self.handle_partition(partition, |partition| Event::PartitionFound { partition });
            }
            NodeEvent::Health { change } => self.tell(self.kept(), vec![health_event(&change)], KEPT_MIN),
            // Sessions come and go; what counts is in the plans.
            NodeEvent::NodeUp { .. } | NodeEvent::NodeDown { .. } | NodeEvent::Refused { .. } => {}
        }
    }

    fn handle_plan(&self, plan: Arc<Snapshot>) {
        let mut kept = self.kept();
        let before = kept.plan.clone().filter(|known| known.cluster == plan.cluster);
        if before.as_ref().is_some_and(|known| known.version >= plan.version) {
            return;
        }
        if before.is_none() {
            kept.absent = Absent::default();
            kept.rebalancing.forget();
        }
        let now = Instant::now();
        let (mut events, moves) = differences(before.as_deref(), &plan, &mut kept.absent, now);
        if let Some(started) = kept.rebalancing.handle_plan(now, plan.version, moves) {
            // What it moves comes after it.
            let at = events.iter().position(|event| matches!(event, Event::Snapshot { .. })).unwrap_or(0);
            events.insert(at + 1, started);
        }
        // A plan that moves every partition is told whole to whoever reads at all.
        let kept_max = KEPT_MIN.max(2 * plan.users().assignments.len());
        kept.plan = Some(plan);
        self.tell(kept, events, kept_max);
    }

    fn handle_leader(&self, leader: Option<NodeName>, term: Term) {
        let mut kept = self.kept();
        if kept.leader.as_ref().is_some_and(|known| (&known.0, known.1) == (&leader, term)) {
            return;
        }
        kept.leader = Some((leader.clone(), term));
        let event = Event::Leader { leader: leader.map(|name| name.to_string()), term: term.0 };
        self.tell(kept, vec![event], KEPT_MIN);
    }

    fn handle_look(&self, seen: &Assessment) {
        let mut kept = self.kept();
        if let Some(completed) = kept.rebalancing.handle_health(Instant::now(), seen) {
            self.tell(kept, vec![completed], KEPT_MIN);
        }
    }

    fn handle_configured(&self, change: ConfigEvent) {
        let event = match change {
            // Not the value: who may see events need not be one who may read all of it.
            ConfigEvent::Updated { key, version, value } => {
                Event::ConfigUpdated { key, version: version.0, deleted: value.is_none() }
            }
            ConfigEvent::Missed { count } => Event::ConfigMissed { count },
        };
        self.tell(self.kept(), vec![event], KEPT_MIN);
    }

    fn handle_transfer(&self, node: &Node, news: TransferNews) {
        let plan = node.snapshot();
        let of = |handover: Handover| {
            let id = handover.partition;
            let name = plan.as_ref().map_or_else(|| id.to_string(), |plan| plan.name_of(id));
            (name, handover.from.to_string(), handover.to.to_string())
        };
        let event = match news {
            TransferNews::Started { handover, bytes } => {
                let (partition, from, to) = of(handover);
                Event::HandoverStarted { partition, from, to, bytes }
            }
            TransferNews::Finished { handover, bytes, took, failed } => {
                let (partition, from, to) = of(handover);
                let took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
                Event::HandoverFinished { partition, from, to, bytes, took_ms, failed }
            }
        };
        self.tell(self.kept(), vec![event], KEPT_MIN);
    }

    /// Something happened to one of the users' partitions.
    fn handle_partition(&self, id: PartitionId, event: impl FnOnce(String) -> Event) {
        let kept = self.kept();
        let named = kept.plan.as_deref().filter(|_| id.group == GroupId::Users);
        let Some(partition) = named.and_then(|plan| Partition::of(plan, id.index)) else { return };
        self.tell(kept, vec![event(partition.name)], KEPT_MIN);
    }

    fn tell(&self, mut kept: MutexGuard<'_, Kept>, events: Vec<Event>, kept_max: usize) {
        kept.count += events.len() as u64;
        kept.kept.extend(events);
        let over = kept.kept.len().saturating_sub(kept_max);
        kept.kept.drain(..over);
        self.shared.newest.send_replace(kept.count);
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.shared.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number of the newest event; 0: there was none.
    pub(crate) fn newest(&self) -> u64 {
        self.kept().count
    }

    /// A listener that reads on after the event of this number; without one, from now on, and is told the plan in force
    /// first.
    pub(crate) fn listen(&self, after: Option<u64>) -> Listener {
        let kept = self.kept();
        let present = kept.plan.as_deref().map(snapshot_event).filter(|_| after.is_none());
        // A number that was never given is another boot's: such a listener begins anew.
        let at = after.filter(|after| *after <= kept.count).unwrap_or(kept.count);
        Listener { news: self.clone(), newest: self.shared.newest.subscribe(), at, present }
    }

    /// A listener that reads on after the event of this number, or is told that it missed some.
    pub(crate) fn listen_after(&self, after: u64) -> Listener {
        self.listen(Some(after))
    }

    /// A listener that is told the event of this number first: at once, or once there is one.
    ///
    /// # Errors
    /// It is not kept any more, or further ahead than the next one that will be given.
    pub(crate) fn listen_from(&self, from: u64) -> Result<Listener, NotKept> {
        let kept = self.kept();
        let (newest, oldest) = (kept.count, kept.count - kept.kept.len() as u64 + 1);
        if from < oldest || from > newest + 1 {
            return Err(NotKept { oldest, newest });
        }
        let newest = self.shared.newest.subscribe();
        Ok(Listener { news: self.clone(), newest, at: from - 1, present: None })
    }
}

/// One who listens.
#[derive(Debug)]
pub(crate) struct Listener {
    news: News,
    newest: watch::Receiver<u64>,
    /// The number of the event that was told last.
    at: u64,
    present: Option<Event>,
}

impl Listener {
    /// The next event with its number, once there is one. `None`: there are no more.
    pub(crate) async fn next(&mut self) -> Option<(u64, Event)> {
        if let Some(present) = self.present.take() {
            return Some((self.at, present));
        }
        let at = self.at;
        self.newest.wait_for(|newest| *newest > at).await.ok()?;
        let kept = self.news.kept();
        let forgotten = kept.count - kept.kept.len() as u64;
        if self.at < forgotten {
            let count = forgotten - self.at;
            self.at = forgotten;
            return Some((self.at, Event::Missed { count }));
        }
        let event = kept.kept.get(usize::try_from(self.at - forgotten).ok()?).cloned()?;
        self.at += 1;
        Some((self.at, event))
    }
}

fn health_event(change: &Change) -> Event {
    let codes = |reasons: &[Reason]| reasons.iter().map(|reason| reason.code().to_owned()).collect();
    match change {
        Change::Cluster { from, to, raised, cleared } => Event::Health {
            node: None,
            status: Some(*to),
            was: *from,
            reasons: codes(raised),
            cleared: codes(cleared),
        },
        Change::Node { node, from, to, reasons } => Event::Health {
            node: Some(node.to_string()),
            status: *to,
            was: Some(*from),
            reasons: codes(reasons),
            cleared: Vec::new(),
        },
    }
}

#[cfg(test)]
mod tests;
