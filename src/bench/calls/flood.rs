//! What calls to a frozen node cost: how much memory, and whether each of them ends, and as what.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex, watch};
use tumen_core::partitions::request::Failure;

use super::ours::{Echo, Nodes, Swallow};
use crate::error::Error;

/// How many call at once: twice as many as a lane takes.
const CALLERS: u64 = 32_768;
/// One caller of so many sends long messages.
const LONG_ONE_OF: u64 = 16;
/// How long those are, in bytes.
const LONG: usize = 16 << 10;
/// How long each call waits.
const CALL_WITHIN: Duration = Duration::from_secs(1);
/// How long a caller rests that was refused: it is to fill queues, not a core.
const REST: Duration = Duration::from_millis(10);
/// How often memory is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What became of calls to a frozen node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Flood {
    /// How much more memory the calling process held at its worst than before, in MB; zero where the system does not tell.
    pub(crate) flood_rss_growth_mb: f64,
    /// How many calls were made.
    pub(crate) flood_calls: u64,
    /// How many ended in `Overloaded`.
    pub(crate) flood_overloaded: u64,
    /// How many ended in `Timeout`.
    pub(crate) flood_timeout: u64,
    /// How many ended in `NotReady`.
    pub(crate) flood_not_ready: u64,
    /// How many ended in anything else; there should be none.
    pub(crate) flood_ended_otherwise: u64,
    /// How long the slowest waited for its end, in milliseconds; they were given a second.
    pub(crate) flood_slowest_ms: f64,
}

/// How one call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    Overloaded,
    Timeout,
    NotReady,
    Otherwise,
}

#[derive(Default)]
struct Ends {
    counts: BTreeMap<End, u64>,
    slowest: Duration,
}

/// Calls for `time`, as many at once as there are callers, whatever comes back.
pub(super) async fn flood(nodes: &Nodes, time: Duration) -> Result<Flood, String> {
    let stopping = Arc::new(AtomicBool::new(false));
    let all = Arc::new(Mutex::new(Ends::default()));
    let (go, going) = watch::channel(false);
    let callers: Vec<_> = (0..CALLERS)
        .map(|number| {
            let (nodes, stopping, all, mut going) =
                (nodes.clone(), Arc::clone(&stopping), Arc::clone(&all), going.clone());
            tokio::spawn(async move {
                let mut ends = Ends::default();
                // The flood begins when all callers are there: what they themselves weigh is not counted.
                drop(going.wait_for(|go| *go).await);
                while !stopping.load(Ordering::Relaxed) {
                    let begun = Instant::now();
                    let end = call(&nodes, number).await;
                    ends.slowest = ends.slowest.max(begun.elapsed());
                    *ends.counts.entry(end).or_default() += 1;
                    tokio::time::sleep(REST).await;
                }
                let mut all = all.lock().await;
                ends.counts.into_iter().for_each(|(end, count)| *all.counts.entry(end).or_default() += count);
                all.slowest = all.slowest.max(ends.slowest);
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(200)).await;
    let before = resident();
    go.send_replace(true);
    let (begun, mut most) = (Instant::now(), before);
    while begun.elapsed() < time {
        tokio::time::sleep(LOOK_EVERY).await;
        most = most.max(resident());
    }
    stopping.store(true, Ordering::Relaxed);
    for caller in callers {
        caller.await.map_err(|why| why.to_string())?;
    }
    let all = all.lock().await;
    let count = |end| all.counts.get(&end).copied().unwrap_or_default();
    Ok(Flood {
        flood_rss_growth_mb: ((most - before) * 10.0).round() / 10.0,
        flood_calls: all.counts.values().sum(),
        flood_overloaded: count(End::Overloaded),
        flood_timeout: count(End::Timeout),
        flood_not_ready: count(End::NotReady),
        flood_ended_otherwise: count(End::Otherwise),
        flood_slowest_ms: (all.slowest.as_secs_f64() * 1e3).round(),
    })
}

async fn call(nodes: &Nodes, number: u64) -> End {
    let ended = if number.is_multiple_of(LONG_ONE_OF) {
        let message = Swallow(Bytes::from(vec![7; LONG]));
        nodes.call_within(number, message, CALL_WITHIN).await.map(drop)
    } else {
        nodes.call_within(number, Echo([number; 8]), CALL_WITHIN).await.map(drop)
    };
    match ended {
        Err(Error::Call(Failure::Overloaded)) => End::Overloaded,
        Err(Error::Call(Failure::Timeout { .. })) => End::Timeout,
        Err(Error::Call(Failure::NotReady)) => End::NotReady,
        Ok(()) | Err(_) => End::Otherwise,
    }
}

/// The memory that this process holds, in MB.
fn resident() -> f64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<f64>().ok());
    kilobytes.unwrap_or_default() / 1024.0
}
