//! What happens in the cluster, numbered, and kept for a while for those who listen slowly or come back.
//!
//! ```text
//!  plans ──┐                       ┌─▶ listener at 17
//!  leaders ┴▶ 12 13 14 15 16 17 ───┼─▶ listener at 14: reads on
//!             └ kept for a while   └─▶ listener at 3:  told that it missed 8
//! ```
//!
//! Nobody waits for a listener: each keeps its place, and reads on from there.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::broadcast::error::RecvError;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tumen_actors::node::Event as NodeEvent;
use tumen_actors::partitions::replication::News as TransferNews;
use tumen_core::cluster::health::{Change, Reason};
use tumen_core::cluster::member::Member;
use tumen_core::cluster::snapshot::Snapshot;
use tumen_core::partitions::handover::Handover;
use tumen_core::{GroupId, NodeBoot, NodeName, PartitionId, Term};

use super::handovers;
use super::shapes::Event;
use crate::node::{Node, Partition};

/// How many events are kept at least.
const KEPT_MIN: usize = 4_096;

/// The news of one node. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct News {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    told: Mutex<Told>,
    /// The number of the newest event, as it changes.
    newest: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Told {
    /// How many events there ever were: the number of the newest.
    count: u64,
    kept: VecDeque<Event>,
    plan: Option<Arc<Snapshot>>,
    leader: Option<(Option<NodeName>, Term)>,
}

impl News {
    /// News of nothing yet.
    fn new() -> Self {
        Self { shared: Arc::new(Shared { told: Mutex::default(), newest: watch::Sender::new(0) }) }
    }

    /// The news of a node, until it stops.
    pub(super) fn follow(node: &Node, stopping: CancellationToken) -> Self {
        let (news, node, mut events) = (Self::new(), node.clone(), node.runtime().events());
        let mut transfers = node.runtime().replication().transfers();
        let writer = news.clone();
        tokio::spawn(stopping.run_until_cancelled_owned(async move {
            if let Some(plan) = node.snapshot() {
                writer.handle_plan(plan);
            }
            loop {
                let event = tokio::select! {
                    event = events.recv() => event,
                    transfer = transfers.recv() => {
                        // Those that were missed are shown by what follows them.
                        transfer.into_iter().for_each(|news| writer.handle_transfer(&node, news));
                        continue;
                    }
                };
                match event {
                    Ok(NodeEvent::Plan { plan, .. }) => writer.handle_plan(plan),
                    Ok(NodeEvent::Leader { leader, term }) => writer.handle_leader(leader, term),
                    Ok(NodeEvent::PartitionLost { partition, epoch }) => {
                        let event = |partition| Event::PartitionLost { partition, epoch: epoch.0 };
                        writer.handle_partition(partition, event);
                    }
                    Ok(NodeEvent::PartitionFound { partition }) => {
                        writer.handle_partition(partition, |partition| Event::PartitionFound { partition });
                    }
                    Ok(NodeEvent::Health { change }) => {
                        writer.tell(writer.told(), vec![health_event(&change)], KEPT_MIN);
                    }
                    Ok(_) => {}
                    // What was missed shows in the difference to the plan in force.
                    Err(RecvError::Lagged(_)) => {
                        node.snapshot().into_iter().for_each(|plan| writer.handle_plan(plan));
                    }
                    Err(RecvError::Closed) => return,
                }
            }
        }));
        news
    }

    fn handle_plan(&self, plan: Arc<Snapshot>) {
        let mut told = self.told();
        let known = told.plan.as_ref().filter(|known| known.cluster == plan.cluster);
        if known.is_some_and(|known| known.version >= plan.version) {
            return;
        }
        let events = differences(known.map(|known| &**known), &plan);
        // A plan that moves every partition is told whole to whoever reads at all.
        let kept_max = KEPT_MIN.max(2 * plan.users().assignments.len());
        told.plan = Some(plan);
        self.tell(told, events, kept_max);
    }

    fn handle_leader(&self, leader: Option<NodeName>, term: Term) {
        let mut told = self.told();
        if told.leader.as_ref().is_some_and(|known| (&known.0, known.1) == (&leader, term)) {
            return;
        }
        told.leader = Some((leader.clone(), term));
        let event = Event::Leader { leader: leader.map(|name| name.to_string()), term: term.0 };
        self.tell(told, vec![event], KEPT_MIN);
    }

    fn handle_transfer(&self, node: &Node, news: TransferNews) {
        let plan = node.snapshot();
        let of = |handover: Handover| {
            let name = handovers::name_of(plan.as_deref(), handover.partition);
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
        self.tell(self.told(), vec![event], KEPT_MIN);
    }

    /// Something happened to one of the users' partitions.
    fn handle_partition(&self, id: PartitionId, event: impl FnOnce(String) -> Event) {
        let told = self.told();
        let named = told.plan.as_deref().filter(|_| id.group == GroupId::Users);
        let Some(partition) = named.and_then(|plan| Partition::of(plan, id.index)) else { return };
        self.tell(told, vec![event(partition.name)], KEPT_MIN);
    }

    fn tell(&self, mut told: MutexGuard<'_, Told>, events: Vec<Event>, kept_max: usize) {
        told.count += events.len() as u64;
        told.kept.extend(events);
        let over = told.kept.len().saturating_sub(kept_max);
        told.kept.drain(..over);
        self.shared.newest.send_replace(told.count);
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.shared.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A listener that reads on after the event of this number; without one, from now on, and is told the plan in force
    /// first.
    pub(super) fn listen(&self, after: Option<u64>) -> Listener {
        let told = self.told();
        let present = told.plan.as_deref().map(snapshot_event).filter(|_| after.is_none());
        // A number that was never given is another boot's: such a listener begins anew.
        let at = after.filter(|after| *after <= told.count).unwrap_or(told.count);
        Listener { news: self.clone(), newest: self.shared.newest.subscribe(), at, present }
    }
}

/// One who listens.
#[derive(Debug)]
pub(super) struct Listener {
    news: News,
    newest: watch::Receiver<u64>,
    /// The number of the event that was told last.
    at: u64,
    present: Option<Event>,
}

impl Listener {
    /// The next event with its number, once there is one. `None`: there are no more.
    pub(super) async fn next(&mut self) -> Option<(u64, Event)> {
        if let Some(present) = self.present.take() {
            return Some((self.at, present));
        }
        let at = self.at;
        self.newest.wait_for(|newest| *newest > at).await.ok()?;
        let told = self.news.told();
        let forgotten = told.count - told.kept.len() as u64;
        if self.at < forgotten {
            let count = forgotten - self.at;
            self.at = forgotten;
            return Some((self.at, Event::Missed { count }));
        }
        let event = told.kept.get(usize::try_from(self.at - forgotten).ok()?).cloned()?;
        self.at += 1;
        Some((self.at, event))
    }
}

fn snapshot_event(plan: &Snapshot) -> Event {
    Event::Snapshot { version: plan.version.0, term: plan.term.0, leader: plan.leader.to_string() }
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

/// What a plan changed: who came, who went, the plan itself, and what moved.
fn differences(before: Option<&Snapshot>, after: &Snapshot) -> Vec<Event> {
    let mut events = Vec::new();
    let serves = |plan: &Snapshot, id: &NodeBoot| {
        plan.member(id.node.as_str()).is_some_and(|member| member.id() == id && member.status.may_serve())
    };
    let serving = |plan: &'_ Snapshot| -> Vec<NodeBoot> {
        plan.members
            .iter()
            .filter(|member| member.status.may_serve())
            .map(|member| Member::id(member).clone())
            .collect()
    };
    for id in before.map(serving).unwrap_or_default().into_iter().filter(|id| !serves(after, id)) {
        events.push(Event::NodeDown { node: id.node.to_string(), boot: format!("{:x}", id.boot.0) });
    }
    for id in serving(after).into_iter().filter(|id| !before.is_some_and(|before| serves(before, id))) {
        events.push(Event::NodeUp { node: id.node.to_string(), boot: format!("{:x}", id.boot.0) });
    }
    events.push(snapshot_event(after));
    // The first plan moves nothing: it is what there is.
    let Some(before) = before else { return events };
    for index in 0..after.users().spec.partitions {
        let (Some(was), Some(is)) = (Partition::of(before, index), Partition::of(after, index)) else {
            continue;
        };
        // The same node may come back under a new epoch: its worker is another.
        if was.primary_node != is.primary_node || was.epoch != is.epoch {
            events.push(Event::PartitionMoved {
                partition: is.name,
                from: was.primary_node.map(|name| name.to_string()),
                to: is.primary_node.map(|name| name.to_string()),
                epoch: is.epoch.0,
                version: after.version.0,
            });
        }
    }
    events
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use tumen_core::cluster::member::Status;
    use tumen_core::partitioner::Partitioner;

    use super::*;
    use crate::http::testing::{member, plan};

    /// The plan after a change, with the next number.
    fn next(before: &Snapshot, change: impl FnOnce(&mut Snapshot)) -> Snapshot {
        let mut after = before.clone();
        after.version = after.version.next();
        change(&mut after);
        after.sealed()
    }

    fn names(events: &[Event]) -> Vec<&str> {
        events.iter().map(Event::name).collect()
    }

    #[test]
    fn a_plan_is_told_by_what_it_changed() {
        let first = plan(Partitioner::Hash);
        assert_eq!(
            names(&differences(None, &first)),
            ["node_up", "node_up", "node_up", "node_up", "snapshot"]
        );
        let same = next(&first, |_| {});
        assert_eq!(names(&differences(Some(&first), &same)), ["snapshot"]);
        let lost = next(&first, |plan| {
            plan.members[1].status = Status::Lost;
            let assignment = &mut plan.groups[0].assignments[1];
            assignment.copies = vec![2, 1];
            assignment.epoch = assignment.epoch.next();
        });
        let told = differences(Some(&first), &lost);
        assert_eq!(names(&told), ["node_down", "snapshot", "partition_moved"]);
        let moved = Event::PartitionMoved {
            partition: "partition-1".into(),
            from: Some("node-2".into()),
            to: Some("node-3".into()),
            epoch: 2,
            version: 8,
        };
        assert_eq!(told[2], moved);
        let reborn = next(&first, |plan| plan.members[3] = member("node-4", 99, Status::Up));
        assert_eq!(names(&differences(Some(&first), &reborn)), ["node_down", "node_up", "snapshot"]);
    }

    #[tokio::test]
    async fn a_listener_hears_the_present_and_then_everything_in_order() {
        let news = News::new();
        let first = plan(Partitioner::Hash);
        news.handle_plan(Arc::new(first.clone()));
        let mut listener = news.listen(None);
        assert_eq!(listener.next().await.unwrap(), (5, snapshot_event(&first)));
        assert!(listener.next().now_or_never().is_none(), "nothing happened yet");
        news.handle_leader(Some(NodeName::new("node-2").unwrap()), Term(3));
        news.handle_leader(Some(NodeName::new("node-2").unwrap()), Term(3));
        let second = next(&first, |_| {});
        news.handle_plan(Arc::new(second.clone()));
        news.handle_plan(Arc::new(first));
        assert_eq!(listener.next().await.unwrap().1.name(), "leader");
        assert_eq!(listener.next().await.unwrap(), (7, snapshot_event(&second)));
        assert!(listener.next().now_or_never().is_none(), "old news is recognised");
    }

    #[tokio::test]
    async fn a_listener_that_comes_back_reads_on_where_it_was() {
        let news = News::new();
        news.handle_plan(Arc::new(plan(Partitioner::Hash)));
        let mut back = news.listen(Some(4));
        assert_eq!(back.next().await.unwrap().0, 5);
        let mut stranger = news.listen(Some(1_000));
        assert!(stranger.next().now_or_never().is_none());
    }

    #[tokio::test]
    async fn a_slow_listener_is_told_how_many_it_missed() {
        let news = News::new();
        let mut slow = news.listen(None);
        for term in 0..KEPT_MIN as u64 + 10 {
            news.handle_leader(None, Term(term));
        }
        assert_eq!(slow.next().await.unwrap(), (10, Event::Missed { count: 10 }));
        assert_eq!(slow.next().await.unwrap(), (11, Event::Leader { leader: None, term: 10 }));
        assert_eq!(news.told().kept.len(), KEPT_MIN);
    }
}
