//! What the leader is asked: that other copies count. Of all partitions together, and behind what is more urgent.
//!
//! ```text
//!  partition 3 ─ nothing holds without it ─┐
//!  partition 7 ─ writes go on all the same ┴▶ gather ─▶ one question ─▶ the leader ─▶ what counts by then
//! ```

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tumen_core::cluster::control::Step;
use tumen_core::ids::PartitionId;

use super::cell::Out;
use super::{AskSteps, Replication};

/// How long the leader may take over steps.
const STEPS_WITHIN: Duration = Duration::from_secs(5);
/// How long steps may gather that nobody waits for. A node has gone just then, most likely, and what it led is to open
/// first: on disks and at the leader, both are in each other's way.
const LINGER: Duration = Duration::from_millis(30);

/// What a partition's primary wants to be changed.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) step: Step,
    /// Whether anybody waits for it.
    pub(super) hurried: bool,
}

/// Steps that are to be asked for.
#[derive(Debug, Default)]
pub(super) struct Steps {
    waiting: Mutex<Waiting>,
    wake: Notify,
    hurry: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    steps: BTreeMap<PartitionId, Step>,
    hurried: bool,
}

impl Steps {
    fn waiting<T>(&self, act: impl FnOnce(&mut Waiting) -> T) -> T {
        act(&mut self.waiting.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// These are wanted. Of one partition only the last.
    pub(super) fn want(&self, wanted: Vec<Wanted>) {
        if wanted.is_empty() {
            return;
        }
        let hurries = self.waiting(|waiting| {
            let hurried = wanted.iter().any(|wanted| wanted.hurried);
            waiting.steps.extend(wanted.into_iter().map(|wanted| (wanted.step.partition, wanted.step)));
            hurried && !std::mem::replace(&mut waiting.hurried, true)
        });
        self.wake.notify_one();
        if hurries {
            self.hurry.notify_one();
        }
    }

    /// This node left its cluster: what was wanted there is not wanted in the next one.
    pub(super) fn handle_left(&self) {
        drop(self.waiting(std::mem::take));
    }

    /// Waits until there is something to ask, and takes all of it.
    async fn taken(&self) -> Vec<Step> {
        self.wake.notified().await;
        let hurried = async {
            // It may have been told of what was taken since.
            while !self.waiting(|waiting| waiting.hurried) {
                self.hurry.notified().await;
            }
        };
        drop(tokio::time::timeout(LINGER, hurried).await);
        // Partitions that open together ask together.
        tokio::task::yield_now().await;
        self.waiting(std::mem::take).steps.into_values().collect()
    }
}

impl Replication {
    /// Takes steps to the leader, those of all partitions together.
    pub(super) async fn run_steps(&self, ask: AskSteps) {
        loop {
            let steps = self.shared.steps.taken().await;
            if steps.is_empty() {
                continue;
            }
            tracing::trace!(?steps, "asking that other copies count");
            let records = ask(steps, STEPS_WITHIN).await;
            tracing::trace!(?records, "which copies count");
            let now = self.now();
            for (partition, record) in records {
                let Some(cell) = self.cell(partition) else { continue };
                let mut out = Out::default();
                cell.handle_record(now, record, &mut out);
                self.perform(&cell, out);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tumen_core::ids::{Epoch, Life, NodeName, Revision};
    use tumen_core::partitions::record::{Change, CopyId};

    use super::*;

    fn wanted(partition: u32, epoch: u64, hurried: bool) -> Wanted {
        let gone = CopyId { node: NodeName::new("gone").unwrap(), life: Life(1) };
        let (epoch, revision) = (Epoch(epoch), Revision::ZERO);
        let step =
            Step { partition: PartitionId::user(partition), epoch, revision, change: Change::Drop(gone) };
        Wanted { step, hurried }
    }

    #[tokio::test(start_paused = true)]
    async fn what_nobody_waits_for_gathers_and_goes_along_with_what_is_urgent() {
        let steps = Steps::default();
        let begun = tokio::time::Instant::now();
        steps.want(vec![wanted(7, 1, false)]);
        steps.want(vec![wanted(7, 2, false), wanted(9, 1, false)]);
        let taken = steps.taken().await;
        assert_eq!(begun.elapsed(), LINGER);
        let seen: Vec<_> = taken.iter().map(|step| (step.partition.index, step.epoch.0)).collect();
        assert_eq!(seen, [(7, 2), (9, 1)], "of one partition the last");

        let begun = tokio::time::Instant::now();
        steps.want(vec![wanted(1, 1, false)]);
        let late = async {
            tokio::time::sleep(LINGER / 3).await;
            steps.want(vec![wanted(2, 1, true)]);
        };
        let (taken, ()) = tokio::join!(steps.taken(), late);
        assert_eq!((taken.len(), begun.elapsed()), (2, LINGER / 3));

        let begun = tokio::time::Instant::now();
        steps.want(vec![wanted(3, 1, true)]);
        assert_eq!(steps.taken().await.len(), 1);
        assert_eq!(begun.elapsed(), Duration::ZERO);
        steps.want(vec![wanted(4, 1, false)]);
        assert_eq!(steps.taken().await.len(), 1);
        assert_eq!(begun.elapsed(), LINGER);
    }
}
