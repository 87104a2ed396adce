//! `bench calls`: a call from one process to another and back, beside a bare multiplexed RPC and plain `ractor_cluster`.
//!
//! ```text
//!  this process ─orders─▶ caller ══64 bytes══▶ echo      three pairs of processes, one at work at a time:
//!       ▲                   │                            tumen, bare tokio, ractor_cluster
//!       └────── figures ────┘
//! ```
//!
//! The three are measured in turns of a fraction of a second, and a ratio is the median of the rounds' ratios: what else
//! this machine does hits all alike.

pub(super) mod child;
mod control;
mod flood;
pub(super) mod load;
mod ours;
pub(super) mod peers;
pub(super) mod plain;
mod raw;

use std::fs;
use std::io::{self, Write};
use std::time::Duration;

use serde::Serialize;

use self::child::Order;
pub(crate) use self::child::{Contestant, Part, run};
use self::control::Control;
use self::flood::Flood;
use self::load::Run;
pub(crate) use self::peers::CallsError;
use self::peers::{Pair, Peer};

/// How long one contestant is measured before it is the next one's turn.
const TURN: Duration = Duration::from_millis(500);
/// How long each runs before anything is measured.
const WARM_UP: Duration = Duration::from_millis(300);
/// What is copied while the control lane is watched.
const COPY_LEN: u64 = 1 << 30;
/// How long a frozen node is flooded: longer than a session survives silence, and than a lease.
const FLOOD: Duration = Duration::from_secs(5);

/// What was measured. `per_s` are calls a second, by how many are under way at once; medians of the rounds.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Figures {
    /// Rounds, in each of which all three are measured.
    pub(crate) rounds: usize,
    /// Worker threads of each process.
    pub(crate) threads: usize,
    /// How busy the machine was before: processes that want to run, over the last minute.
    pub(crate) load_average: Option<f64>,
    /// Bytes of a message, and of its reply.
    pub(crate) message_len: usize,
    /// tumen's calls a second beside the bare RPC's, 1,024 under way.
    pub(crate) ratio_to_raw_1024: f64,
    /// The same, 64 under way.
    pub(crate) ratio_to_raw_64: f64,
    /// tumen's calls a second beside `ractor_cluster`'s, 1,024 under way.
    pub(crate) ratio_to_ractor_cluster_1024: f64,
    /// The same, 64 under way.
    pub(crate) ratio_to_ractor_cluster_64: f64,
    /// tumen's round trip beside the bare RPC's, one call after the other.
    pub(crate) ratio_rtt_to_raw: f64,
    /// One call after the other: the median, in microseconds.
    pub(crate) rtt_us: f64,
    /// The bare RPC's.
    pub(crate) rtt_raw_us: f64,
    /// `ractor_cluster`'s.
    pub(crate) rtt_ractor_cluster_us: f64,
    /// tumen: from key and message to reply.
    pub(crate) per_s_64: f64,
    /// tumen.
    pub(crate) per_s_1024: f64,
    /// The bare RPC.
    pub(crate) raw_per_s_64: f64,
    /// The bare RPC.
    pub(crate) raw_per_s_1024: f64,
    /// `ractor_cluster`.
    pub(crate) ractor_cluster_per_s_64: f64,
    /// `ractor_cluster`.
    pub(crate) ractor_cluster_per_s_1024: f64,
    /// The control lane's round trips, alone and during a copy.
    #[serde(flatten)]
    pub(crate) control: Control,
    /// What became of calls to a frozen node.
    #[serde(flatten)]
    pub(crate) flood: Flood,
}

/// Measures all of it, in `rounds` rounds, in processes with so many worker `threads`.
///
/// # Errors
/// When a child process cannot be started, or does not do as it is told.
pub(crate) fn measure(rounds: usize, threads: usize) -> Result<Figures, CallsError> {
    let load_average = load_average();
    say("processes are started");
    let (raw, plain) =
        (Pair::start(Contestant::Raw, threads)?, Pair::start(Contestant::RactorCluster, threads)?);
    let mut pairs = [Pair::start(Contestant::Tumen, threads)?, raw, plain];
    let mut figures = Figures { rounds, threads, load_average, message_len: 64, ..Figures::default() };

    let alone = compare(&mut pairs, 1, rounds)?;
    let middle = |runs: &Vec<Run>| hundredths(median(runs.iter().map(|run| run.p50_us)));
    let [ours, raw, plain] = alone.each_ref().map(middle);
    (figures.rtt_us, figures.rtt_raw_us, figures.rtt_ractor_cluster_us) = (ours, raw, plain);
    figures.ratio_rtt_to_raw = ratio(&alone[0], &alone[1], |run| run.p50_us);

    for outstanding in [64, 1024] {
        let runs = compare(&mut pairs, outstanding, rounds)?;
        let rates = runs.each_ref().map(|runs| median(runs.iter().map(Run::rate)).round());
        let to_raw = ratio(&runs[0], &runs[1], Run::rate);
        let to_plain = ratio(&runs[0], &runs[2], Run::rate);
        if outstanding == 64 {
            [figures.per_s_64, figures.raw_per_s_64, figures.ractor_cluster_per_s_64] = rates;
            (figures.ratio_to_raw_64, figures.ratio_to_ractor_cluster_64) = (to_raw, to_plain);
        } else {
            [figures.per_s_1024, figures.raw_per_s_1024, figures.ractor_cluster_per_s_1024] = rates;
            (figures.ratio_to_raw_1024, figures.ratio_to_ractor_cluster_1024) = (to_raw, to_plain);
        }
    }

    let [mut ours, ..] = pairs;
    say("a gigabyte is copied, and the control lane is watched");
    figures.control = ours.caller.tell(&Order::Control { copied: COPY_LEN })?;
    say("a frozen node is flooded");
    ours.echo.freeze()?;
    figures.flood = ours.caller.tell(&Order::Flood { millis: millis(FLOOD) })?;
    Ok(figures)
}

/// Measures all pairs in turns, round by round.
fn compare(pairs: &mut [Pair; 3], outstanding: usize, rounds: usize) -> Result<[Vec<Run>; 3], CallsError> {
    say(&format!("{outstanding} at once: {rounds} rounds"));
    let timed = outstanding == 1;
    let turn =
        |peer: &mut Peer, time| peer.tell::<Run>(&Order::Load { outstanding, millis: millis(time), timed });
    for pair in &mut *pairs {
        turn(&mut pair.caller, WARM_UP)?;
    }
    let mut runs: [Vec<Run>; 3] = Default::default();
    for round in 0..rounds {
        // Each is the first as often as the others: a turn leaves warm caches, and heat.
        for step in 0..pairs.len() {
            let which = (round + step) % pairs.len();
            runs[which].push(turn(&mut pairs[which].caller, TURN)?);
        }
    }
    Ok(runs)
}

/// The median of the rounds' ratios.
pub(super) fn ratio(ours: &[Run], theirs: &[Run], of: impl Fn(&Run) -> f64) -> f64 {
    hundredths(median(ours.iter().zip(theirs).map(|(ours, theirs)| of(ours) / of(theirs))))
}

pub(super) fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

pub(super) fn hundredths(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

pub(super) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Half of the cores for each of the two processes that are at work, but at least one.
pub(crate) fn threads_usual() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| (cores.get() / 2).max(1))
}

pub(super) fn load_average() -> Option<f64> {
    fs::read_to_string("/proc/loadavg").ok()?.split_whitespace().next()?.parse().ok()
}

/// How much time whoever runs this machine gave to others while it wanted to run, on all its processors together, since it
/// was started. In whole ticks, which are noted late. `None`: it does not tell.
pub(super) fn stolen() -> Option<Duration> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    let ticks: u64 = stat.lines().next()?.split_whitespace().nth(8)?.parse().ok()?;
    Some(Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64))
}

/// What is under way, for people who wait.
pub(super) fn say(what: &str) {
    // Where stderr is closed there is nobody left to tell.
    drop(writeln!(io::stderr(), "{what}"));
}
