//! Copies of partitions: which are being made, and whether those that are there hold the same.

use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::task::JoinHandle;
use tumen_core::partitions::equality::Report;
use tumen_core::partitions::handover::asks::Shown;
use tumen_core::partitions::request::Failure;
use tumen_core::{NodeName, PartitionId};

use super::Node;
use crate::error::{Error, Result};

/// Whether the copies of partitions hold the same, as their primaries found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Comparison {
    /// What was found, by partition. A partition that nobody serves is missing.
    pub report: Report,
    /// Members that did not answer: what they lead was not looked at.
    pub unreachable: Vec<NodeName>,
}

impl Comparison {
    /// Whether everybody answered, and every copy was compared and holds the same.
    pub fn is_equal(&self) -> bool {
        self.unreachable.is_empty() && self.report.is_equal()
    }
}

/// Copies that are being brought up to date and compared. Await it for the report; dropped, the work goes on.
#[derive(Debug)]
pub struct FullSync(JoinHandle<Option<Report>>);

impl Future for FullSync {
    type Output = Result<Report>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx).map(|report| match report {
            Ok(Some(report)) => Ok(report),
            Ok(None) => Err(Error::Call(Failure::Overloaded)),
            Err(_) => Err(Error::Stopped),
        })
    }
}

impl Node {
    /// Begins to bring every copy of each partition that this node leads up to date, and to compare them. Returns at once;
    /// what comes back can be awaited.
    ///
    /// Copies are looked at one partition after the other, at one place of its log, while writes go on. The hash is that of
    /// the state as [`Replicated::snapshot`](crate::Replicated::snapshot) writes it, together with which requests were
    /// carried out: it means something where equal states are written the same.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    ///
    /// # Errors
    /// When it is awaited: [`Failure::Overloaded`], where too many others wait for theirs; [`Error::Stopped`].
    pub fn full_sync(&self) -> FullSync {
        let replication = self.runtime().replication().clone();
        FullSync(tokio::spawn(async move { replication.full_sync(None).await }))
    }

    /// The same of all members, each of what it leads, and waits for it.
    ///
    /// # Errors
    /// There is no plan yet.
    pub async fn full_sync_everywhere(&self) -> Result<Comparison> {
        self.compare(self.members()?, None).await
    }

    /// Brings every copy of one partition up to date, whoever leads it, and compares them.
    ///
    /// # Errors
    /// There is no such partition, or no plan yet; nobody leads it at present, or who does not answer.
    pub async fn push_partition(&self, partition: PartitionId) -> Result<Comparison> {
        let missing = || Error::NotFound(format!("there is no partition {partition}"));
        let plan = self.snapshot().ok_or_else(missing)?;
        let assignment = plan.assignment(partition).ok_or_else(missing)?;
        let primary = plan.primary(assignment).map(|member| member.name().clone());
        let found = self.compare(primary.into_iter().collect(), Some(partition)).await?;
        match found.report.partitions.is_empty() {
            true => Err(Error::Call(Failure::NotReady)),
            false => Ok(found),
        }
    }

    /// The whole copies that are being made in the cluster or wait for their turn, and the members that did not say.
    pub async fn moves(&self) -> (Vec<Shown>, Vec<NodeName>) {
        let members = self.members().unwrap_or_else(|_| vec![self.name().clone()]);
        self.runtime().replication().moves(&members).await
    }

    async fn compare(&self, nodes: Vec<NodeName>, only: Option<PartitionId>) -> Result<Comparison> {
        let (report, unreachable) = self.runtime().replication().full_sync_of(&nodes, only).await;
        Ok(Comparison { report, unreachable })
    }

    fn members(&self) -> Result<Vec<NodeName>> {
        let plan = self.snapshot();
        let plan = plan.ok_or(Error::Route(tumen_core::partitions::routing::RouteError::NoPlan))?;
        let there = plan.members.iter().filter(|member| member.status.may_serve());
        Ok(there.map(|member| member.name().clone()).collect())
    }
}
