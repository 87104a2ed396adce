//! Brings all copies of what this node leads up to date, and compares them, one partition after the other.
//!
//! ```text
//!  partition ─▶ copies have the log up to its end ─▶ hold ─▶ the furthest place ─▶ hashes there ─▶ report
//!                 └ not in time: behind               └ one was beyond it: once more
//! ```
//!
//! Writes go on meanwhile: what stops for a moment is how far each copy applies its log.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tumen_core::ids::{GroupId, NodeName, PartitionId};
use tumen_core::partitions::equality::{CopyReport, Found, PartitionReport, Report, pick_position};
use tumen_core::partitions::handover::asks::{Answer, Ask};
use tumen_core::partitions::identity::Position;

use super::Replication;
use super::cell::Out;

/// How long a partition's copies are waited for whose nodes are there.
const UP_TO_DATE_WITHIN: Duration = Duration::from_secs(30);
/// How often they are looked at meanwhile.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How long a copy stops where it is.
pub(super) const HELD_FOR: Duration = Duration::from_secs(4);
/// How long it may take to come to the place where it is looked at. Less than [`HELD_FOR`].
pub(super) const HASH_WITHIN: Duration = Duration::from_secs(2);
/// How long another node may take to answer.
const ASK_WITHIN: Duration = Duration::from_secs(3);
/// How long one may take for all that it leads.
const REPORT_WITHIN: Duration = Duration::from_secs(600);
/// How often a partition is looked at again where a copy was beyond the place.
const TRIES_MAX: u32 = 3;
/// The most reports that are made, or wait for the one that is being made.
const REPORTS_MAX: u32 = 4;

impl Replication {
    /// Brings the copies of the users' partitions that this node leads up to date, or of one partition, and compares them. Other reports that are
    /// being made are waited for: one partition at a time is looked at. `None`: too many wait already.
    pub async fn full_sync(&self, only: Option<PartitionId>) -> Option<Report> {
        let waiting = Waiting::new(self)?;
        let _one_at_a_time = self.shared.comparing.lock().await;
        let mut report = Report::default();
        for cell in self.cells() {
            let users = cell.partition.group == GroupId::Users;
            if only.map_or(users, |only| only == cell.partition) && cell.reach().is_some() {
                report.partitions.extend(self.sync_partition(cell.partition).await);
            }
        }
        drop(waiting);
        Some(report)
    }

    /// The same of all these nodes, each of what it leads; and those that did not answer.
    pub async fn full_sync_of(
        &self,
        nodes: &[NodeName],
        only: Option<PartitionId>,
    ) -> (Report, Vec<NodeName>) {
        let asked = nodes.iter().map(|node| async move {
            if *node == self.shared.me {
                return (node, self.full_sync(only).await);
            }
            let ask = only.map_or(Ask::FullSync, Ask::Push);
            match self.ask_copy(node, ask, REPORT_WITHIN).await {
                Ok(Answer::Report(report)) => (node, Some(report)),
                Ok(_) | Err(_) => (node, None),
            }
        });
        let mut all = Report::default();
        let mut silent = Vec::new();
        for (node, report) in futures_util::future::join_all(asked).await {
            match report {
                Some(report) => all.merge(report),
                None => silent.push(node.clone()),
            }
        }
        (all, silent)
    }

    /// `None`: it is not led by this node any more.
    async fn sync_partition(&self, partition: PartitionId) -> Option<PartitionReport> {
        let late = self.bring_up_to_date(partition).await?;
        let mut tries = 0;
        loop {
            tries += 1;
            let (report, passed) = self.compare(partition, &late).await?;
            if !passed || tries >= TRIES_MAX {
                return Some(report);
            }
        }
    }

    /// Waits until every copy has the log up to where it ends now. Those that do not in time, and where they are.
    async fn bring_up_to_date(&self, partition: PartitionId) -> Option<Vec<(NodeName, u64)>> {
        let begun = self.cell(partition)?.reach()?;
        let deadline = self.now() + UP_TO_DATE_WITHIN;
        loop {
            let reach = self.cell(partition)?.reach().filter(|reach| reach.fence == begun.fence)?;
            let late: Vec<_> = reach.copies.into_iter().filter(|(_, acked)| *acked < begun.end).collect();
            // A node that is not there is not waited for.
            let coming = late.iter().any(|(node, _)| self.is_there(node));
            if !coming || self.now() >= deadline {
                return Some(late);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    fn is_there(&self, node: &NodeName) -> bool {
        self.shared.transport.sessions().iter().any(|session| session.peer.node == *node)
    }

    /// Looks at all copies at one place. Whether one of them was beyond it.
    async fn compare(
        &self,
        partition: PartitionId,
        late: &[(NodeName, u64)],
    ) -> Option<(PartitionReport, bool)> {
        let cell = self.cell(partition)?;
        let reach = cell.reach()?;
        let is_late = |node: &NodeName| late.iter().find(|(late, _)| late == node).map(|(_, acked)| *acked);
        let nodes: Vec<NodeName> = reach.copies.into_iter().map(|(node, _)| node).collect();
        let up_to_date = nodes.iter().filter(|node| is_late(node).is_none());
        let holding = up_to_date.map(|node| async move {
            match self.ask_copy(node, Ask::Hold(partition), ASK_WITHIN).await {
                Ok(Answer::Stands(position)) => position,
                Ok(_) | Err(_) => None,
            }
        });
        let stand = futures_util::future::join_all(holding).await;
        let own = self.hold_here(partition, HELD_FOR);
        let at = pick_position(stand.into_iter().flatten().chain(own))?;
        // They learn at once how far all holds.
        let mut out = Out::default();
        cell.handle_wake(self.now(), &mut out);
        self.perform(&cell, out);
        let looking = nodes.iter().map(|node| async move {
            if !self.is_there(node) {
                return None;
            }
            if let Some(acked) = is_late(node) {
                return Some(Found::Behind(Position::new(at.epoch, acked)));
            }
            match self.ask_copy(node, Ask::Hash { partition, at }, ASK_WITHIN).await {
                Ok(Answer::Found(found)) => Some(found),
                Ok(_) | Err(_) => None,
            }
        });
        let (own, others) =
            tokio::join!(self.hash_here(partition, at, HASH_WITHIN), futures_util::future::join_all(looking));
        let passed = others.iter().flatten().chain([&own]).any(|found| matches!(found, Found::Passed(_)));
        let hash = match own {
            Found::Hash(hash) => Some(hash),
            Found::Behind(_) | Found::Passed(_) | Found::Missing => None,
        };
        let copies = nodes.into_iter().zip(others);
        let copies = copies.map(|(node, found)| CopyReport::of(node, at, hash, found)).collect();
        let primary = self.shared.me.clone();
        Some((PartitionReport { partition, primary, position: at, hash, copies }, passed))
    }
}

/// One report that is being made, or waits.
struct Waiting<'a>(&'a Replication);

impl<'a> Waiting<'a> {
    fn new(replication: &'a Replication) -> Option<Self> {
        let before = replication.shared.reports.fetch_add(1, Ordering::SeqCst);
        let waiting = Self(replication);
        (before < REPORTS_MAX).then_some(waiting)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.shared.reports.fetch_sub(1, Ordering::SeqCst);
    }
}
