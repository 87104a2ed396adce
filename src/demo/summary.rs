//! What the demonstration found out, for people and for programs.

use std::fmt;

use serde::Serialize;

use super::change::Change;
use super::load::Counts;

/// The summary. As JSON its names are a promise to other programs.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Summary {
    /// How many nodes there are.
    pub(crate) nodes: u32,
    /// How many partitions the cluster has.
    pub(crate) partitions: u32,
    /// From the start of the first process until all nodes served, in milliseconds.
    pub(crate) boot_ms: f64,
    /// Requests that clients made.
    pub(crate) requests_sent: u64,
    /// Requests that were carried out.
    pub(crate) requests_ok: u64,
    /// Requests that came to nothing.
    pub(crate) requests_failed: u64,
    /// How often a request was asked again after `NotReady` or `Stale`, by which nothing had changed.
    pub(crate) requests_repeated: u64,
    /// How often a request was asked elsewhere because the node that was asked was gone.
    pub(crate) requests_redirected: u64,
    /// What the last failed request was told.
    pub(crate) last_failure: Option<String>,
    /// Which node was killed; `null` where it was the only one.
    pub(crate) killed: Option<String>,
    /// From the kill to the first answer for each of its keys, in milliseconds: the median.
    pub(crate) failover_ms: Option<f64>,
    /// The same: the slowest.
    pub(crate) failover_worst_ms: Option<f64>,
    /// How many keys that was measured for: one in each partition of which the killed node was primary.
    pub(crate) failover_keys: usize,
    /// From the new start of the killed node until all nodes served again by one plan, in milliseconds.
    pub(crate) return_ms: Option<f64>,
    /// Copies that got a new place, in all changes together.
    pub(crate) moved: u64,
    /// The fewest that any equally even plans could have moved, in all changes together.
    pub(crate) lower_bound: u64,
    /// Each change.
    pub(crate) changes: Vec<Change>,
}

impl Summary {
    /// Adds a change.
    pub(crate) fn note_change(&mut self, change: Change) {
        self.moved += change.certificate.moved;
        self.lower_bound += change.certificate.lower_bound;
        self.changes.push(change);
    }

    /// Adds what became of the requests.
    pub(crate) fn note_counts(&mut self, counts: Counts) {
        let Counts { sent, ok, failed, repeated, redirected, last_failure } = counts;
        self.requests_sent = sent;
        self.requests_ok = ok;
        self.requests_failed = failed;
        self.requests_repeated = repeated;
        self.requests_redirected = redirected;
        self.last_failure = last_failure;
    }

    /// Whether every request was answered, and nothing was moved that did not have to be.
    pub(crate) fn is_well(&self) -> bool {
        self.requests_failed == 0 && self.changes.iter().all(Change::is_minimal)
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} nodes, {} partitions, ready in {:.0} ms", self.nodes, self.partitions, self.boot_ms)?;
        if let (Some(killed), Some(median), Some(worst)) =
            (&self.killed, self.failover_ms, self.failover_worst_ms)
        {
            writeln!(
                f,
                "{killed} was killed: its {} keys were answered by others after {median:.1} ms (median), {worst:.1} ms (slowest)",
                self.failover_keys
            )?;
        }
        if let Some(back) = self.return_ms {
            writeln!(f, "it was back, and all in balance, {back:.0} ms after it was started again")?;
        }
        self.changes.iter().try_for_each(|change| writeln!(f, "{change}"))?;
        write!(
            f,
            "{} requests: {} answered, {} failed; {} times one was repeated, {} times one was redirected",
            self.requests_sent,
            self.requests_ok,
            self.requests_failed,
            self.requests_repeated,
            self.requests_redirected
        )?;
        self.last_failure.iter().try_for_each(|why| write!(f, "\nthe last failure: {why}"))
    }
}
