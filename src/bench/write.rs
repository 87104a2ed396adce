//! `bench write`: what a write costs that is on several copies before it is acknowledged.
//!
//! ```text
//!  client ══ put of 64 bytes ══▶ primary ══ entries ══▶ two other copies       three nodes and a client, each a process
//!  caller ══════════════════════▶ relay  ═════════════▶ two echoes             the bare RPC, beside it
//! ```
//!
//! The two take turns of a fraction of a second, and a ratio is the median of the rounds' ratios: what else this machine
//! does hits both alike. The client is a process of its own, a node without copies: every call leaves it, which costs more
//! than calls from a node that is primary of a third of the keys. Each process has one worker thread, for there are more
//! processes than most machines have cores.

mod bare;
pub(in crate::bench) mod client;
mod steady;

use std::fmt;
use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;
use tumen_core::cluster::snapshot::Mode;

use self::bare::Bare;
pub(crate) use self::steady::Steady;
use super::calls::child::{Contestant, Order, Part};
use super::calls::load::Run;
use super::calls::peers::Peer;
use super::calls::{CallsError, hundredths, load_average, median, millis, ratio, say};
use crate::config::Value;
use crate::demo::DemoError;
use crate::demo::fleet::Fleet;

/// How many nodes a cluster has, the client not counted.
const NODES: u32 = 3;
/// How many partitions.
const PARTITIONS: u32 = 64;
/// Worker threads of each process.
const THREADS: usize = 1;
/// How long one contestant is measured before it is the other one's turn.
const TURN: Duration = Duration::from_millis(500);
/// How long each runs before anything is measured.
const WARM_UP: Duration = Duration::from_millis(500);
/// How long the disk is asked how often it can say that something is on it.
const FSYNCS: Duration = Duration::from_millis(500);

/// What was measured. `per_s` are writes a second, by how many are under way at once; medians of the rounds.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Figures {
    /// Rounds, in each of which both contestants are measured.
    pub(crate) rounds: usize,
    /// Worker threads of each process.
    pub(crate) threads: usize,
    /// How busy the machine was before: processes that want to run, over the last minute.
    pub(crate) load_average: Option<f64>,
    /// Bytes of a value.
    pub(crate) value_len: usize,
    /// How many keys are written.
    pub(crate) keys: usize,
    /// How many partitions they are in.
    pub(crate) partitions: u32,
    /// How often a second 4 KiB can be written to the disk and waited for, one after the other: the median.
    pub(crate) fsync_per_s: f64,
    /// One cluster after the other.
    pub(crate) modes: Vec<Row>,
    /// Memory over many writes, if that was asked for instead.
    pub(crate) steady: Vec<Steady>,
}

/// How a cluster is replicated.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Setting {
    /// What an acknowledgement promises.
    pub(crate) mode: String,
    /// How many copies there are.
    pub(crate) copies: u32,
    /// Whether the copies are on disks.
    pub(crate) disks: bool,
}

/// One cluster's figures, and those of the bare RPC: over one hop where no other copy is waited for, over two otherwise.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Row {
    /// How it was replicated.
    #[serde(flatten)]
    pub(crate) setting: Setting,
    /// One write after the other: the median, in microseconds.
    pub(crate) p50_us_1: f64,
    /// Of 64 at once: the median, in microseconds.
    pub(crate) p50_us_64: f64,
    /// Of 64 at once: what one of a hundred takes longer than, in microseconds.
    pub(crate) p99_us_64: f64,
    /// With 64 at once.
    pub(crate) per_s_64: f64,
    /// With 1,024 at once.
    pub(crate) per_s_1024: f64,
    /// The bare RPC, one call after the other: the median, in microseconds.
    pub(crate) bare_p50_us_1: f64,
    /// The bare RPC, of 64 at once: the median, in microseconds.
    pub(crate) bare_p50_us_64: f64,
    /// The bare RPC's calls a second, 64 at once.
    pub(crate) bare_per_s_64: f64,
    /// The bare RPC's calls a second, 1,024 at once.
    pub(crate) bare_per_s_1024: f64,
    /// The writes beside the bare RPC's calls, one after the other: how many times as long.
    pub(crate) ratio_p50_1: f64,
    /// The writes beside the bare RPC's calls, 64 at once.
    pub(crate) ratio_per_s_64: f64,
    /// The same, 1,024 at once.
    pub(crate) ratio_per_s_1024: f64,
    /// How often a second the disk could say that something is on it, just before; `null` without disks.
    pub(crate) fsync_per_s: Option<f64>,
    /// What each process held before the first write, in MB; the client is the last.
    pub(crate) rss_mb_before: Vec<f64>,
    /// The same after the last one.
    pub(crate) rss_mb_after: Vec<f64>,
}

/// Why writes could not be measured. The child processes are gone.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WriteError {
    /// The client, or the bare RPC.
    #[error(transparent)]
    Calls(#[from] CallsError),
    /// The nodes.
    #[error(transparent)]
    Nodes(#[from] DemoError),
    /// The disk.
    #[error("the disk's own rate cannot be measured: {0}")]
    Disk(#[from] std::io::Error),
}

/// Measures all modes, or one, in `rounds` rounds; or, if `steady` says how many, memory over so many writes.
///
/// # Errors
/// When a process cannot be started, or does not do as it is told.
pub(crate) fn measure(rounds: usize, mode: Option<Mode>, steady: Option<u64>) -> Result<Figures, WriteError> {
    let mut figures = Figures {
        rounds,
        threads: THREADS,
        load_average: load_average(),
        value_len: client::VALUE_LEN,
        keys: client::KEYS,
        partitions: PARTITIONS,
        ..Figures::default()
    };
    if let Some(writes) = steady {
        (figures.rounds, figures.fsync_per_s) = (0, fsyncs()?);
        figures.steady = steady::measure(writes, mode)?;
        return Ok(figures);
    }
    say("processes are started");
    let (mut one_hop, mut two_hops) = (Bare::one_hop()?, Bare::two_hops()?);
    for setting in settings(mode) {
        let waits = setting.copies > 1 && setting.mode != Mode::Async.show();
        let bare = if waits { &mut two_hops } else { &mut one_hop };
        figures.modes.push(row(setting, rounds, bare)?);
    }
    let fsyncs = figures.modes.iter().filter_map(|row| row.fsync_per_s);
    figures.fsync_per_s = if fsyncs.clone().next().is_some() { median(fsyncs) } else { self::fsyncs()? };
    Ok(figures)
}

/// The clusters that are measured.
fn settings(mode: Option<Mode>) -> Vec<Setting> {
    let all = [(Mode::Async, false), (Mode::Sync, false), (Mode::Sync, true), (Mode::Strong, true)];
    let wanted = all.into_iter().filter(|(this, _)| mode.is_none_or(|mode| mode == *this));
    let setting = |copies, mode: Mode, disks| Setting { mode: mode.show(), copies, disks };
    wanted.flat_map(|(mode, disks)| [NODES, 1].map(|copies| setting(copies, mode, disks))).collect()
}

fn row(setting: Setting, rounds: usize, bare: &mut Bare) -> Result<Row, WriteError> {
    say(&format!("{setting}: {rounds} rounds"));
    let fsync_per_s = if setting.disks { Some(fsyncs()?) } else { None };
    let mut cluster = Cluster::start(setting.clone())?;
    let mut row = Row { setting, fsync_per_s, rss_mb_before: cluster.memory(), ..Row::default() };
    let middle = |runs: &[Run], of: fn(&Run) -> f64| hundredths(median(runs.iter().map(of)));
    let rate = |runs: &[Run]| median(runs.iter().map(Run::rate)).round();
    for outstanding in [1, 64, 1024] {
        let (ours, theirs) = compare(&mut cluster.client, &mut bare.caller, outstanding, rounds)?;
        match outstanding {
            1 => {
                row.p50_us_1 = middle(&ours, |run| run.p50_us);
                row.bare_p50_us_1 = middle(&theirs, |run| run.p50_us);
                row.ratio_p50_1 = ratio(&ours, &theirs, |run| run.p50_us);
            }
            64 => {
                row.p50_us_64 = middle(&ours, |run| run.p50_us);
                row.p99_us_64 = middle(&ours, |run| run.p99_us);
                row.bare_p50_us_64 = middle(&theirs, |run| run.p50_us);
                (row.per_s_64, row.bare_per_s_64) = (rate(&ours), rate(&theirs));
                row.ratio_per_s_64 = ratio(&ours, &theirs, Run::rate);
            }
            _ => {
                (row.per_s_1024, row.bare_per_s_1024) = (rate(&ours), rate(&theirs));
                row.ratio_per_s_1024 = ratio(&ours, &theirs, Run::rate);
            }
        }
    }
    row.rss_mb_after = cluster.memory();
    cluster.forget();
    Ok(row)
}

/// Measures both in turns, round by round.
fn compare(
    ours: &mut Peer,
    theirs: &mut Peer,
    outstanding: usize,
    rounds: usize,
) -> Result<(Vec<Run>, Vec<Run>), CallsError> {
    let timed = outstanding <= 64;
    let turn =
        |peer: &mut Peer, time| peer.tell::<Run>(&Order::Load { outstanding, millis: millis(time), timed });
    turn(ours, WARM_UP)?;
    turn(theirs, WARM_UP)?;
    let (mut of_ours, mut of_theirs) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        // Each is the first as often as the other: a turn leaves warm caches, and heat.
        if round % 2 == 0 {
            of_ours.push(turn(ours, TURN)?);
        }
        of_theirs.push(turn(theirs, TURN)?);
        if round % 2 == 1 {
            of_ours.push(turn(ours, TURN)?);
        }
    }
    Ok((of_ours, of_theirs))
}

/// Three nodes, and a client that found them.
struct Cluster {
    fleet: Fleet,
    client: Peer,
    disks: bool,
}

impl Cluster {
    fn start(setting: Setting) -> Result<Self, WriteError> {
        let Setting { mode, copies, disks } = setting;
        let (copies, nodes, partitions) = (copies.to_string(), NODES.to_string(), PARTITIONS.to_string());
        let flags = [
            ["--cluster", "bench"],
            ["--partitions", &partitions],
            ["--replication", &copies],
            ["--min-nodes", &nodes],
            ["--mode", &mode],
        ];
        let flags = flags.into_iter().flatten().map(str::to_owned).collect();
        let mut fleet = Fleet::new(NODES, flags, Arc::default())?.with_threads(THREADS);
        if disks {
            fleet = fleet.with_disks();
        }
        fleet.start()?;
        let to = Some(fleet.nodes()[0].cluster.as_str());
        let mut client = Peer::start(Contestant::Kv, Part::Caller, THREADS, to)?;
        let _: String = client.hear()?;
        client.tell::<()>(&Order::Connect)?;
        // Every partition has its session, and every copy counts.
        client.tell::<Run>(&Order::Load { outstanding: 64, millis: millis(WARM_UP), timed: false })?;
        Ok(Self { fleet, client, disks })
    }

    /// What each process holds in memory, in MB; the client is the last. Zero where the system does not tell.
    fn memory(&self) -> Vec<f64> {
        let nodes = (0..NODES as usize).filter_map(|node| self.fleet.id(node));
        nodes.chain([self.client.id()]).map(|id| resident_mb(id).unwrap_or_default()).collect()
    }

    /// Where the nodes keep what is to survive.
    fn data_dirs(&self) -> impl Iterator<Item = PathBuf> {
        let nodes = self.fleet.nodes().iter().filter(|_| self.disks);
        nodes.map(|node| self.fleet.dir().join(&node.name))
    }

    fn forget(self) {
        drop(self.client);
        self.fleet.forget();
    }
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let disks = if self.disks { ", on disks" } else { "" };
        let copies = if self.copies == 1 { "copy" } else { "copies" };
        write!(f, "{}, {} {copies}{disks}", self.mode, self.copies)
    }
}

/// How often a second something can be written to the disk and waited for, in the directory where the nodes' disks are.
fn fsyncs() -> Result<f64, std::io::Error> {
    let path = std::env::temp_dir().join(format!("tumen-fsync-{}", std::process::id()));
    let mut file = fs::File::create(&path)?;
    let (begun, mut count) = (Instant::now(), 0_u32);
    while begun.elapsed() < FSYNCS {
        file.write_all(&[0x5a; 4096])?;
        file.sync_data()?;
        count += 1;
    }
    let rate = f64::from(count) / begun.elapsed().as_secs_f64();
    fs::remove_file(&path)?;
    Ok(rate.round())
}

/// What a process holds in memory, in MB.
pub(super) fn resident_mb(id: u32) -> Option<f64> {
    let status = fs::read_to_string(format!("/proc/{id}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    Some(hundredths(line.split_whitespace().nth(1)?.parse::<f64>().ok()? / 1024.0))
}
