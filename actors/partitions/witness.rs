//! What this node sees of the promises that must hold at every moment.
//!
//! ```text
//!  plans ───────────────────▶ ┐
//!  seats that open ─────────▶ ├─ a bounded queue ─▶ Invariants (core) ─▶ GET /invariants · GET /metrics · the log
//!  what primaries send here ▶ │
//!  books ───────────────────▶ ┘
//! ```
//!
//! Whoever sees something says so and goes on: nobody waits for it to be judged. Where the queue is full it is left out,
//! for a promise that does not hold is seen more than once.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::mpsc;
use tumen_core::cluster::snapshot::Snapshot;
use tumen_core::ids::{ClusterId, NodeBoot, PartitionId};
use tumen_core::partitions::fence::Fence;
use tumen_core::partitions::invariants::{Invariants, Report, is_at_rest};
use tumen_core::partitions::ledger::Counts;

/// The most that waits to be judged.
const NEWS_MAX: usize = 16_384;

/// Something that was seen.
#[derive(Debug)]
enum News {
    /// This node acts on a plan from now on.
    Acts(Arc<Snapshot>),
    /// Another node told of a plan.
    Told(Arc<Snapshot>),
    /// Nothing happened for a while, and the copies are as in this plan.
    Rests(Arc<Snapshot>),
    /// A boot serves, or says so.
    Serves(Fence, NodeBoot),
    /// What became of the requests of partitions so far.
    Counted(Vec<(PartitionId, Counts)>),
    /// All workers of a partition ended here, and nothing of it waits.
    Ended(PartitionId, Counts),
    /// This node left its cluster.
    Left,
}

/// Takes what is seen on this node. Cheap to clone; all clones tell the same.
#[derive(Clone, Debug)]
pub struct Witness {
    me: NodeBoot,
    news: mpsc::Sender<News>,
    seen: Arc<Mutex<Invariants>>,
}

impl Witness {
    /// A witness on this boot. What it is told is judged until it is dropped, with all its clones.
    pub fn start(me: NodeBoot) -> Self {
        let (news, told) = mpsc::channel(NEWS_MAX);
        let seen = Arc::default();
        tokio::spawn(judge(me.clone(), Arc::clone(&seen), told));
        Self { me, news, seen }
    }

    /// This node acts on a plan from now on.
    pub fn acts_on(&self, plan: &Arc<Snapshot>) {
        self.say(News::Acts(Arc::clone(plan)));
    }

    /// Another node told of a plan, whatever comes of it.
    pub fn told_of(&self, plan: &Arc<Snapshot>) {
        self.say(News::Told(Arc::clone(plan)));
    }

    /// No plan came for a while, and which copies count is as this one says.
    pub fn rests_by(&self, plan: &Arc<Snapshot>) {
        self.say(News::Rests(Arc::clone(plan)));
    }

    /// A seat opens here.
    pub(super) fn serves(&self, fence: Fence) {
        self.say(News::Serves(fence, self.me.clone()));
    }

    /// Another boot speaks as the primary under this fence.
    pub(super) fn heard(&self, fence: Fence, boot: &NodeBoot) {
        self.say(News::Serves(fence, boot.clone()));
    }

    /// So much became of the requests of all partitions that were served here.
    pub fn counted(&self, counts: Vec<(PartitionId, Counts)>) {
        self.say(News::Counted(counts));
    }

    /// All workers of a partition ended here, and whoever waited for one was told so.
    pub(super) fn ended(&self, partition: PartitionId, counts: Counts) {
        self.say(News::Ended(partition, counts));
    }

    /// This node left its cluster.
    pub fn left(&self) {
        self.say(News::Left);
    }

    /// What was seen so far.
    pub fn report(&self) -> Report {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).report()
    }

    fn say(&self, news: News) {
        if self.news.try_send(news).is_err() {
            tracing::debug!("so much is seen at once that some of it is not judged");
        }
    }
}

async fn judge(me: NodeBoot, seen: Arc<Mutex<Invariants>>, mut news: mpsc::Receiver<News>) {
    let mut cluster = None;
    while let Some(one) = news.recv().await {
        let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        let before = seen.seen().len();
        take(&me, &mut cluster, &mut seen, one);
        for violation in &seen.seen()[before..] {
            tracing::error!(
                invariant = %violation.invariant, seen = %violation.seen,
                "a promise does not hold: this is a fault of tumen, please report it"
            );
        }
    }
}

fn take(me: &NodeBoot, cluster: &mut Option<ClusterId>, seen: &mut Invariants, news: News) {
    match news {
        News::Acts(plan) => {
            if cluster.replace(plan.cluster) != Some(plan.cluster) {
                seen.handle_moved();
            }
            seen.handle_plan(&me.node, &plan, false);
            seen.handle_primaries(&plan);
        }
        News::Told(plan) if *cluster == Some(plan.cluster) => seen.handle_told(&me.node, &plan),
        News::Rests(plan) if *cluster == Some(plan.cluster) => {
            seen.handle_assignments(&plan, is_at_rest(&plan));
        }
        // Without a plan nobody knows which cluster it is that they serve.
        News::Serves(fence, boot) if cluster.is_some() => seen.handle_serving(fence, &boot, None),
        News::Told(_) | News::Rests(_) | News::Serves(..) => {}
        News::Counted(counts) => {
            counts.iter().for_each(|(partition, counts)| seen.handle_counts(*partition, counts, false));
        }
        News::Ended(partition, counts) => seen.handle_counts(partition, &counts, true),
        News::Left => {
            *cluster = None;
            seen.handle_moved();
        }
    }
}

#[cfg(test)]
mod tests {
    use tumen_core::ids::{Boot, Epoch, Generation, NodeName};
    use tumen_core::partitions::ledger::Ending;

    use super::*;

    fn boot(node: &str) -> NodeBoot {
        NodeBoot::new(NodeName::new(node).unwrap(), Boot(1))
    }

    #[test]
    fn what_is_said_before_any_plan_is_of_no_cluster_and_counts_are_of_all() {
        let (me, mut cluster, mut seen) = (boot("a"), None, Invariants::new());
        let fence = Fence { generation: Generation(0), partition: PartitionId::user(0), epoch: Epoch(1) };
        take(&me, &mut cluster, &mut seen, News::Serves(fence, boot("a")));
        take(&me, &mut cluster, &mut seen, News::Serves(fence, boot("b")));
        assert_eq!(seen.violations(), 0);
        cluster = Some(ClusterId(1));
        take(&me, &mut cluster, &mut seen, News::Serves(fence, boot("a")));
        take(&me, &mut cluster, &mut seen, News::Serves(fence, boot("b")));
        assert_eq!(seen.violations(), 1);
        take(&me, &mut cluster, &mut seen, News::Left);
        let mut counts = Counts::default();
        counts.accept();
        take(&me, &mut cluster, &mut seen, News::Counted(vec![(PartitionId::user(0), counts)]));
        assert_eq!(seen.violations(), 1, "one is open, and may be");
        take(&me, &mut cluster, &mut seen, News::Ended(PartitionId::user(0), counts));
        assert_eq!(seen.violations(), 2, "nobody is left to answer it");
        counts.end(Ending::Answered);
        take(&me, &mut cluster, &mut seen, News::Ended(PartitionId::user(0), counts));
        assert_eq!(seen.violations(), 2);
    }
}
