//! `bench config`: what it costs to set a value for the whole cluster, beside the disk's fsync, and to read one.
//!
//! ```text
//!  leader   ══ set_cluster_wide ══▶ own log and two others', each on a disk ══▶ read here
//!  follower ── the leader ═════════▶ the same ════════════════════════════════▶ read there     three processes
//!  get_cluster_wide ▶ the node's own table
//! ```
//!
//! The disk is asked before and after, with 4 KiB each time, in the directory where the nodes' disks are.

pub(in crate::bench) mod client;

use std::fs::File;
use std::io::Write;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::calls::child::{Contestant, Order, Part};
use super::calls::peers::Peer;
use super::calls::{CallsError, hundredths, load_average, say};

/// How many nodes there are. All of them vote.
const NODES: usize = 3;
/// Worker threads of each process.
const THREADS: usize = 2;
/// How many sets are timed, one after the other, of each node.
const SETS: u64 = 500;
/// How many sets are timed that are under way together.
const MANY: u64 = 2_000;
/// How many of them at once.
const OUTSTANDING: usize = 32;
/// How often the disk is asked, each time.
const FSYNCS: usize = 300;
/// How many reads are timed together.
const READS: u64 = 1_000_000;

/// What was measured.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Figures {
    /// How many nodes, all of which vote, with a disk each.
    pub(crate) nodes: usize,
    /// How busy the machine was before: processes that want to run, over the last minute.
    pub(crate) load_average: Option<f64>,
    /// Writing 4 KiB to the disk and waiting for it: the median, in microseconds.
    pub(crate) fsync_p50_us: f64,
    /// What one of a hundred of these takes longer than.
    pub(crate) fsync_p99_us: f64,
    /// Setting a value on the leader, until it is read there: the median, in microseconds.
    pub(crate) set_p50_us: f64,
    /// What one of a hundred of these takes longer than.
    pub(crate) set_p99_us: f64,
    /// The same on another node.
    pub(crate) set_elsewhere_p50_us: f64,
    /// The same on another node.
    pub(crate) set_elsewhere_p99_us: f64,
    /// How many fsyncs a set on the leader takes as long as: medians.
    pub(crate) set_in_fsyncs: f64,
    /// Sets a second, 32 under way at once on the leader.
    pub(crate) sets_per_s_32: f64,
    /// `get_cluster_wide::<bool>` of one of 100 keys, in nanoseconds: the middle one of seven rounds.
    pub(crate) read_ns: f64,
    /// The same of one of 1,000 keys.
    pub(crate) read_ns_1000: f64,
    /// `config_value` of one of 100 keys, with its version, in nanoseconds.
    pub(crate) value_ns: f64,
}

/// Median, and what one of a hundred is longer than, in microseconds.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(in crate::bench) struct Times {
    pub(in crate::bench) p50_us: f64,
    pub(in crate::bench) p99_us: f64,
}

impl Times {
    /// Of single times, in microseconds.
    pub(in crate::bench) fn of(mut times: Vec<f64>) -> Self {
        times.sort_by(f64::total_cmp);
        let at = |part: usize| times.get((times.len() * part / 100).min(times.len().saturating_sub(1)));
        let one = |part| hundredths(at(part).copied().unwrap_or_default());
        Self { p50_us: one(50), p99_us: one(99) }
    }
}

/// Why it could not be measured. The child processes are gone.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    /// A node.
    #[error(transparent)]
    Calls(#[from] CallsError),
    /// The disk.
    #[error("the disk's own fsyncs cannot be measured: {0}")]
    Disk(#[from] std::io::Error),
}

/// Measures all of it.
///
/// # Errors
/// When a process cannot be started, or does not do as it is told, or the disk refuses.
pub(crate) fn measure() -> Result<Figures, ConfigError> {
    let mut figures = Figures { nodes: NODES, load_average: load_average(), ..Figures::default() };
    say("processes are started");
    let mut leader = Disked::start(None)?;
    let address: String = leader.peer.hear()?;
    let mut others = Vec::new();
    for _ in 1..NODES {
        let mut other = Disked::start(Some(&address))?;
        let _: String = other.peer.hear()?;
        others.push(other);
    }
    for node in others.iter_mut().chain([&mut leader]) {
        node.peer.tell::<()>(&Order::Connect)?;
    }
    let mut fsyncs = fsyncs()?;
    let set = |node: &mut Disked| node.peer.tell::<Times>(&Order::Set { count: SETS });
    // Each once before, so that nothing is measured that happens once.
    others.iter_mut().chain([&mut leader]).try_for_each(|node| set(node).map(drop))?;
    let here = set(&mut leader)?;
    let elsewhere = set(&mut others[0])?;
    fsyncs.extend(self::fsyncs()?);
    let fsync = Times::of(fsyncs);
    (figures.fsync_p50_us, figures.fsync_p99_us) = (fsync.p50_us, fsync.p99_us);
    (figures.set_p50_us, figures.set_p99_us) = (here.p50_us, here.p99_us);
    (figures.set_elsewhere_p50_us, figures.set_elsewhere_p99_us) = (elsewhere.p50_us, elsewhere.p99_us);
    figures.set_in_fsyncs = hundredths(here.p50_us / fsync.p50_us);
    let took: f64 = leader.peer.tell(&Order::SetMany { count: MANY, outstanding: OUTSTANDING })?;
    figures.sets_per_s_32 = (MANY as f64 / took).round();
    let mut read = |keys, parsed| leader.peer.tell::<f64>(&Order::ReadConfig { keys, times: READS, parsed });
    figures.read_ns = hundredths(read(100, true)?);
    figures.value_ns = hundredths(read(100, false)?);
    figures.read_ns_1000 = hundredths(read(1_000, true)?);
    Ok(figures)
}

/// A node with a disk, which is emptied when it goes.
struct Disked {
    peer: Peer,
}

impl Disked {
    fn start(to: Option<&str>) -> Result<Self, CallsError> {
        let part = if to.is_some() { Part::Echo } else { Part::Caller };
        Ok(Self { peer: Peer::start(Contestant::Config, part, THREADS, to)? })
    }
}

impl Drop for Disked {
    fn drop(&mut self) {
        let id = self.peer.id();
        self.peer.end();
        // It may not have got so far as to make it.
        let _ = std::fs::remove_dir_all(client::disk_of(id));
    }
}

/// How long it takes each time to write something to the disk and wait for it, in microseconds.
fn fsyncs() -> Result<Vec<f64>, std::io::Error> {
    let path = std::env::temp_dir().join(format!("tumen-fsync-{}", std::process::id()));
    let mut file = File::create(&path)?;
    let mut times = Vec::with_capacity(FSYNCS);
    for _ in 0..FSYNCS {
        let begun = Instant::now();
        file.write_all(&[0x5a; 4096])?;
        file.sync_data()?;
        times.push(begun.elapsed().as_secs_f64() * 1e6);
    }
    std::fs::remove_file(&path)?;
    Ok(times)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hundredth_is_longer_than_the_ninety_ninth() {
        let times = Times::of((1..=200).rev().map(f64::from).collect());
        assert_eq!((times.p50_us, times.p99_us), (101.0, 199.0));
        assert_eq!(Times::of(Vec::new()).p99_us, 0.0);
        assert_eq!(Times::of(vec![3.0]).p99_us, 3.0);
    }
}
