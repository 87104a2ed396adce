//! Which states are on their way, and how far they are: those that leave this node, and those that come.
//!
//! ```text
//!  a copy lacks too much ─▶ waiting ─ its turn here ─▶ may it come? ─┬─ welcome ─▶ written down, sent ─▶ finished
//!                              ▲                                     ├─ busy: later again
//!                              └─────────────────────────────────────┘  moot: the primary looks anew
//! ```
//!
//! A sender counts what leaves it, a receiver what comes to it; nobody counts for the whole cluster. A state is written
//! down only once both have room: so no more states than that are in a node's memory for it.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::broadcast;
use tumen_core::ids::NodeName;
use tumen_core::partitions::handover::asks::{Admission, Shown};
use tumen_core::partitions::handover::{Allowance, Bucket, Handover, Handovers, Limits};
use tumen_core::partitions::replication::wire::SnapshotHeader;
use tumen_core::time::Moment;

use crate::transport::CHUNK_LEN_MAX;

/// How long a place is kept for a state that was admitted and has not begun to come.
const KEPT_FOR: Duration = Duration::from_secs(5);
/// The most pieces of news that wait for a slow listener.
const NEWS_MAX: usize = 1024;
/// The most bytes that leave at once after a pause.
const BURST_MAX: u64 = 1 << 20;
/// The least, or every byte would be waited for on its own.
const BURST_MIN: u64 = 16 << 10;

/// How much is copied at once, and how fast.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pace {
    /// How many copies at once.
    pub limits: Limits,
    /// How many bytes leave this node per second for copies, all together. `None`: as many as will go.
    pub bytes_per_second: Option<u64>,
}

/// What becomes of states on their way, told by the node that sends and by the one that receives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// The first byte leaves, or has come.
    Started {
        /// Which.
        handover: Handover,
        /// Its length in bytes.
        bytes: u64,
    },
    /// It is over.
    Finished {
        /// Which.
        handover: Handover,
        /// How many bytes were sent, or came.
        bytes: u64,
        /// How long it took.
        took: Duration,
        /// Why it came to nothing, if it did. It is tried again for as long as it is wanted.
        failed: Option<String>,
    },
}

/// One that is wanted.
#[derive(Clone, Copy, Debug)]
struct Job {
    header: SnapshotHeader,
    asked: Moment,
}

/// What leaves this node.
#[derive(Debug)]
struct Sending {
    law: Handovers,
    /// All that wait, or run, or rest because the receiver had no room.
    jobs: BTreeMap<Handover, Job>,
}

/// What comes to it.
#[derive(Debug)]
struct Receiving {
    law: Handovers,
    /// Admitted, and not here yet.
    kept: BTreeMap<Handover, Moment>,
}

/// States on their way. Nobody holds a lock here while waiting for anything.
#[derive(Debug)]
pub(super) struct Transfers {
    me: NodeName,
    pace: Pace,
    sending: Mutex<Sending>,
    receiving: Mutex<Receiving>,
    bucket: Mutex<Bucket>,
    news: broadcast::Sender<News>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Transfers {
    pub(super) fn new(now: Moment, me: NodeName, pace: Pace) -> Self {
        let unbounded = Limits { from_node_max: u32::MAX, to_node_max: u32::MAX, total_max: u32::MAX };
        // Each law counts one side: the other one is counted where it is.
        let leaves = Limits { from_node_max: pace.limits.from_node_max, ..unbounded };
        let comes = Limits { to_node_max: pace.limits.to_node_max, ..unbounded };
        let burst = pace.bytes_per_second.map_or(BURST_MAX, |rate| (rate / 4).clamp(BURST_MIN, BURST_MAX));
        Self {
            me,
            pace,
            sending: Mutex::new(Sending { law: Handovers::new(leaves), jobs: BTreeMap::new() }),
            receiving: Mutex::new(Receiving { law: Handovers::new(comes), kept: BTreeMap::new() }),
            bucket: Mutex::new(Bucket::new(now, pace.bytes_per_second, burst)),
            news: broadcast::Sender::new(NEWS_MAX),
        }
    }

    pub(super) fn news(&self) -> broadcast::Receiver<News> {
        self.news.subscribe()
    }

    pub(super) fn tell(&self, news: News) {
        // Nobody may be listening.
        drop(self.news.send(news));
    }

    /// The cluster has so many members now. Those that may begin.
    pub(super) fn handle_members(&self, now: Moment, nodes: u32) -> Vec<Handover> {
        let share = self.pace.limits.share_of(nodes);
        let unbounded = Limits { from_node_max: u32::MAX, to_node_max: u32::MAX, total_max: u32::MAX };
        let leaves = Limits { from_node_max: share.from_node_max, ..unbounded };
        lock(&self.sending).law.handle_limits(now, leaves)
    }

    /// A state is to be sent. Those that may begin now.
    pub(super) fn handle_asked(&self, now: Moment, to: NodeName, header: SnapshotHeader) -> Vec<Handover> {
        let handover = Handover { partition: header.fence.partition, from: self.me.clone(), to };
        let mut sending = lock(&self.sending);
        let asked = sending.jobs.get(&handover).map_or(now, |job| job.asked);
        sending.jobs.insert(handover.clone(), Job { header, asked });
        sending.law.handle_asked(now, handover)
    }

    /// One that rested wants its turn again, if it is wanted still. Those that may begin now.
    pub(super) fn handle_rested(&self, now: Moment, handover: &Handover) -> Vec<Handover> {
        let mut sending = lock(&self.sending);
        match sending.jobs.contains_key(handover) {
            true => sending.law.handle_asked(now, handover.clone()),
            false => Vec::new(),
        }
    }

    /// What is to stand before a state, as it was asked for last.
    pub(super) fn header(&self, handover: &Handover) -> Option<SnapshotHeader> {
        lock(&self.sending).jobs.get(handover).map(|job| job.header)
    }

    /// So much of one has left.
    pub(super) fn handle_sent(&self, handover: &Handover, done: u64, total: u64) {
        lock(&self.sending).law.handle_progress(handover, done, Some(total));
    }

    /// One gives its place up: it rests, or it is over, unless it was asked for again with another header in the
    /// meantime. Those that may begin now.
    pub(super) fn handle_ended(
        &self,
        now: Moment,
        handover: &Handover,
        header: &SnapshotHeader,
        rests: bool,
    ) -> Vec<Handover> {
        let mut sending = lock(&self.sending);
        let asked_anew = sending.jobs.get(handover).is_some_and(|job| job.header != *header);
        let mut started = sending.law.handle_ended(now, handover);
        if asked_anew {
            started.extend(sending.law.handle_asked(now, handover.clone()));
        } else if !rests {
            sending.jobs.remove(handover);
        }
        started
    }

    /// Forgets those that wait and are not wanted any more.
    pub(super) fn retain(&self, now: Moment, is_wanted: impl Fn(&Handover, &SnapshotHeader) -> bool) {
        let mut sending = lock(&self.sending);
        let Sending { law, jobs } = &mut *sending;
        let gone = jobs
            .extract_if(.., |handover, job| !law.is_running(handover) && !is_wanted(handover, &job.header));
        for (handover, _) in gone.collect::<Vec<_>>() {
            // It did not run: nobody else may begin for it.
            law.handle_ended(now, &handover);
        }
    }

    /// How many of these bytes may leave now; or when to ask again.
    pub(super) fn take(&self, now: Moment, wanted: usize) -> Allowance {
        lock(&self.bucket).take(now, wanted.min(CHUNK_LEN_MAX) as u64)
    }

    /// Another node wants to send a state here.
    pub(super) fn admit(&self, now: Moment, from: NodeName, header: &SnapshotHeader) -> Admission {
        let handover = Handover { partition: header.fence.partition, from, to: self.me.clone() };
        let mut receiving = lock(&self.receiving);
        let Receiving { law, kept } = &mut *receiving;
        let late = |_: &Handover, since: &mut Moment| now.since(*since) >= KEPT_FOR;
        for (late, _) in kept.extract_if(.., late).collect::<Vec<_>>() {
            law.handle_ended(now, &late);
        }
        if kept.contains_key(&handover) {
            // The answer was lost.
            return Admission::Welcome;
        }
        if law.handle_asked(now, handover.clone()).contains(&handover) {
            kept.insert(handover, now);
            return Admission::Welcome;
        }
        if !law.is_running(&handover) {
            law.handle_ended(now, &handover);
        }
        Admission::Busy
    }

    /// A state begins to come. One that nobody admitted is what this node asked for itself, to lead its partition.
    pub(super) fn handle_coming(&self, now: Moment, handover: &Handover) {
        let mut receiving = lock(&self.receiving);
        if receiving.kept.remove(handover).is_none() {
            receiving.law.handle_asked(now, handover.clone());
        }
    }

    /// So much of it has come.
    pub(super) fn handle_received(&self, handover: &Handover, done: u64, total: u64) {
        lock(&self.receiving).law.handle_progress(handover, done, Some(total));
    }

    /// It has come, or will not.
    pub(super) fn handle_arrived(&self, now: Moment, handover: &Handover) {
        lock(&self.receiving).law.handle_ended(now, handover);
    }

    /// Everything that is on its way from this node and to it, for people.
    pub(super) fn shown(&self, now: Moment) -> Vec<Shown> {
        let mut shown = Vec::new();
        let sending = lock(&self.sending);
        let running: BTreeMap<_, _> = (sending.law.progress())
            .filter(|progress| progress.began.is_some())
            .map(|progress| (progress.handover.clone(), progress))
            .collect();
        for (handover, job) in &sending.jobs {
            let progress = running.get(handover);
            shown.push(Shown {
                handover: handover.clone(),
                waits: progress.is_none_or(|progress| progress.bytes_total.is_none()),
                age_ms: millis(now.since(job.asked)),
                bytes_done: progress.map_or(0, |progress| progress.bytes_done),
                bytes_total: progress.and_then(|progress| progress.bytes_total),
            });
        }
        drop(sending);
        let receiving = lock(&self.receiving);
        shown.extend(receiving.law.progress().filter(|progress| progress.bytes_total.is_some()).map(
            |progress| Shown {
                handover: progress.handover,
                waits: false,
                age_ms: millis(now.since(progress.asked)),
                bytes_done: progress.bytes_done,
                bytes_total: progress.bytes_total,
            },
        ));
        shown
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use tumen_core::ids::{Epoch, Generation, Life, PartitionId};
    use tumen_core::partitions::fence::Fence;
    use tumen_core::partitions::identity::Position;

    use super::*;

    fn node(n: u32) -> NodeName {
        NodeName::new(&format!("node-{n}")).unwrap()
    }

    fn header(partition: u32, epoch: u64) -> SnapshotHeader {
        let partition = PartitionId::user(partition);
        let fence = Fence { generation: Generation::ZERO, epoch: Epoch(epoch), partition };
        SnapshotHeader { fence, to: Life(1), counts: None, position: Position::ZERO }
    }

    fn transfers(at_once: u32) -> Transfers {
        let limits = Limits { from_node_max: at_once, to_node_max: at_once, total_max: 100 };
        Transfers::new(at(0), node(1), Pace { limits, bytes_per_second: None })
    }

    fn at(millis: u64) -> Moment {
        Moment::from_millis(millis)
    }

    #[test]
    fn what_rests_gives_its_place_up_and_is_still_shown() {
        let law = transfers(1);
        let first = law.handle_asked(at(0), node(2), header(1, 1));
        assert_eq!(first.len(), 1);
        assert_eq!(law.handle_asked(at(1), node(3), header(2, 1)), []);
        let next = law.handle_ended(at(2), &first[0], &header(1, 1), true);
        assert_eq!(next[0].to, node(3));
        assert_eq!(law.shown(at(5)).iter().map(|shown| shown.waits).collect::<Vec<_>>(), [true, true]);
        law.handle_sent(&next[0], 10, 20);
        assert_eq!(law.shown(at(5))[1].bytes_total, Some(20));
        assert_eq!(law.handle_rested(at(9), &first[0]), []);
        assert_eq!(law.handle_ended(at(10), &next[0], &header(2, 1), false), first);
        assert_eq!(law.handle_ended(at(11), &first[0], &header(1, 1), false), []);
        assert_eq!(law.shown(at(12)), []);
        assert_eq!(law.handle_rested(at(13), &first[0]), [], "nobody wants it any more");
    }

    #[test]
    fn what_is_asked_for_anew_while_it_runs_has_another_turn() {
        let law = transfers(1);
        let first = law.handle_asked(at(0), node(2), header(1, 1));
        assert_eq!(law.handle_asked(at(1), node(2), header(1, 2)), [], "it runs");
        assert_eq!(law.handle_ended(at(2), &first[0], &header(1, 1), false), first);
        assert_eq!(law.header(&first[0]), Some(header(1, 2)));
    }

    #[test]
    fn what_is_not_wanted_any_more_does_not_wait() {
        let law = transfers(1);
        let first = law.handle_asked(at(0), node(2), header(1, 1));
        law.handle_asked(at(0), node(2), header(2, 1));
        law.handle_asked(at(0), node(2), header(3, 1));
        law.retain(at(1), |handover, _| handover.partition == PartitionId::user(3));
        assert_eq!(law.shown(at(1)).len(), 2, "what runs looks for itself");
        let next = law.handle_ended(at(2), &first[0], &header(1, 1), false);
        assert_eq!(next[0].partition, PartitionId::user(3));
    }

    #[test]
    fn a_receiver_admits_so_many_and_keeps_no_place_for_ever() {
        let law = transfers(2);
        let admit = |now, from, partition| law.admit(at(now), node(from), &header(partition, 1));
        assert_eq!((admit(0, 2, 1), admit(0, 3, 2)), (Admission::Welcome, Admission::Welcome));
        assert_eq!((admit(1, 2, 1), admit(1, 3, 3)), (Admission::Welcome, Admission::Busy));
        let coming = Handover { partition: PartitionId::user(1), from: node(2), to: node(1) };
        law.handle_coming(at(2), &coming);
        law.handle_received(&coming, 1, 2);
        assert_eq!(law.shown(at(2)).len(), 1);
        assert_eq!((admit(3, 2, 1), admit(3, 3, 3)), (Admission::Busy, Admission::Busy), "it comes already");
        // The one of node 3 never came; the other one runs on.
        assert_eq!((admit(5000, 4, 4), admit(5000, 4, 5)), (Admission::Welcome, Admission::Busy));
        law.handle_arrived(at(5001), &coming);
        assert_eq!(admit(5002, 4, 5), Admission::Welcome);
    }
}
