//! What moving partitions costs those who write to them: nodes that come back empty are given whole copies, and primaries
//! move there and away again, while every partition is written to.
//!
//! ```text
//!  fill ─▶ write to every partition, on and on
//!            node gone ─▶ back, empty ─▶ whole copies ─▶ primaries move to it ─▶ drained: primaries move away ─▶ gone ..
//!                            └ bytes/s ───────┘             └ longest gap between two acknowledged writes ┘
//! ```
//!
//! A pause is the time between the last write acknowledged in one epoch and the first in the next. The longest gap is
//! looked for over the whole time of copying, moving and draining; also where nothing moves.
//!
//! Then two nodes of their own tell whether the topic `control` waits behind a handover: see [`control`].
//!
//! Beside it a bare socket copies as much, from thread to thread of this process, while the writes go on.

pub(in crate::bench) mod control;
mod writers;

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;

use self::control::Control;
use self::writers::{Waited, Writers, fill};
use super::calls::CallsError;
use crate::demo::asking::Asker;
use crate::demo::change::Seen;
use crate::demo::fleet::Fleet;
use crate::demo::{DemoError, millis};
use crate::http::shapes::{Moves, Ready};

/// How many nodes the cluster has.
const NODES: u32 = 3;
/// How often a node comes back empty and is drained.
const ROUNDS: usize = 2;
/// How long the cluster rests before a window in which gaps are looked for.
const REST: Duration = Duration::from_secs(1);
/// How long the copies of one round may take.
const COPIES_WITHIN: Duration = Duration::from_secs(600);
/// How often to look at what is waited for.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// How many bytes are written to the bare socket at once.
const RAW_CHUNK: usize = 256 << 10;

/// How large the cluster is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    /// How many partitions there are.
    pub(crate) partitions: u32,
    /// How many bytes of values each of them holds.
    pub(crate) partition_bytes: u64,
}

/// What was measured. Times are in milliseconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Figures {
    /// How many nodes, without disks, each with a copy of every partition.
    pub(crate) nodes: u32,
    /// How many partitions.
    pub(crate) partitions: u32,
    /// What each of them holds, in MB.
    pub(crate) partition_mb: f64,
    /// How many primaries were moved as planned.
    pub(crate) moves: usize,
    /// How long writes to a partition paused as its primary moved, from the last acknowledgement of the one to the first
    /// of the other: the median.
    pub(crate) pause_p50_ms: f64,
    /// The same: of a hundred one is longer.
    pub(crate) pause_p99_ms: f64,
    /// The same: the longest of all.
    pub(crate) pause_worst_ms: f64,
    /// The longest time between any two acknowledged writes to such a partition, while copies were made and primaries
    /// moved: of a hundred one is longer.
    pub(crate) gap_p99_ms: f64,
    /// The same where nothing is moved or copied, for as long: what writers wait for anyway. Of a hundred one is longer.
    pub(crate) quiet_p99_ms: f64,
    /// How many bytes of whole copies came to the empty node per second.
    pub(crate) bytes_per_s: f64,
    /// What a bare socket copies per second, beside the same writes.
    pub(crate) raw_bytes_per_s: f64,
    /// The one beside the other.
    pub(crate) ratio: f64,
    /// How long all copies of one round took: the longest.
    pub(crate) copies_ms: f64,
    /// How many writes were acknowledged in all.
    pub(crate) writes: u64,
    /// How many writes failed.
    pub(crate) writes_failed: u64,
    /// Round trips on the topic `control` while as much is handed over.
    #[serde(flatten)]
    pub(crate) control: Control,
}

/// Why it could not be measured. The child processes are gone.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HandoverError {
    /// The cluster that is written to.
    #[error(transparent)]
    Fleet(#[from] DemoError),
    /// The two nodes that speak on the topic `control`.
    #[error(transparent)]
    Control(#[from] CallsError),
}

/// Measures it.
///
/// # Errors
/// When a node ends that should not, or something does not come about in time.
pub(crate) fn measure(size: Size) -> Result<Figures, HandoverError> {
    let figures = measure_fleet(size)?;
    say("the topic `control` is watched while as much is handed over");
    Ok(Figures { control: control::measure(size)?, ..figures })
}

fn measure_fleet(size: Size) -> Result<Figures, DemoError> {
    let partitions = size.partitions.to_string();
    let flags = ["--cluster", "bench", "--replication", "3", "--min-nodes", "3", "--mode", "sync"];
    let mut flags = flags.map(str::to_owned).to_vec();
    flags.extend(["--partitions".to_owned(), partitions]);
    let mut fleet = Fleet::new(NODES, flags, Arc::default())?;
    fleet.start()?;
    let measured = measure_on(&fleet, size);
    fleet.forget();
    measured
}

fn measure_on(fleet: &Fleet, size: Size) -> Result<Figures, DemoError> {
    let victim = pick(fleet)?;
    let others: Vec<String> = (fleet.nodes().iter().enumerate())
        .filter(|(node, _)| *node != victim)
        .map(|(_, node)| node.http.clone())
        .collect();
    say(&format!(
        "{} partitions are filled with {:.1} MB each",
        size.partitions,
        megabytes(size.partition_bytes)
    ));
    fill(&others, size).map_err(DemoError::Strange)?;
    let writers = Writers::start(&others, size.partitions)?;
    let (mut waited, mut rates, mut copies) = (Vec::new(), Vec::new(), Duration::ZERO);
    let mut window = Duration::ZERO;
    for round in 1..=ROUNDS {
        say(&format!("a node is gone, and comes back empty ({round} of {ROUNDS})"));
        fleet.kill(victim);
        fleet.wait_until_ready()?;
        fleet.wait(REST)?;
        let before = look_at(fleet, &others[0])?;
        writers.begin_window();
        let begun = Instant::now();
        fleet.launch(victim)?;
        let took = wait_for_copies(fleet, victim, &others)?;
        rates.push(size.partition_bytes as f64 * f64::from(size.partitions) / took.as_secs_f64());
        copies = copies.max(took);
        wait_until_led(fleet, victim, size.partitions / NODES)?;
        fleet.wait(REST)?;
        window = window.max(begun.elapsed());
        waited.extend(writers.end_window(&moved(&before, &look_at(fleet, &others[0])?)));

        say("it is drained");
        let before = look_at(fleet, &others[0])?;
        writers.begin_window();
        let drain = format!("/nodes/{}/drain", fleet.nodes()[victim].name);
        Asker::new().order(&others[0], &drain).map_err(DemoError::Strange)?;
        fleet.wait(REST)?;
        waited.extend(writers.end_window(&moved(&before, &look_at(fleet, &others[0])?)));
    }
    say("a bare socket copies as much");
    let raw = raw_copy(size.partition_bytes.saturating_mul(u64::from(size.partitions)))?;
    say("nothing is moved");
    writers.begin_window();
    fleet.wait(window.min(Duration::from_secs(20)))?;
    let all: Vec<usize> = (0..size.partitions as usize).collect();
    let quiet = writers.end_window(&all);
    let (writes, writes_failed) = writers.stop();
    rates.sort_by(f64::total_cmp);
    let rate = rates.get(rates.len() / 2).copied().unwrap_or(0.0);
    let pauses = sorted(&waited, |waited| waited.cut_over);
    let gaps = sorted(&waited, |waited| waited.longest);
    let quiet = sorted(&quiet, |waited| waited.longest);
    Ok(Figures {
        nodes: NODES,
        partitions: size.partitions,
        partition_mb: megabytes(size.partition_bytes),
        moves: pauses.len(),
        pause_p50_ms: percentile(&pauses, 50),
        pause_p99_ms: percentile(&pauses, 99),
        pause_worst_ms: percentile(&pauses, 100),
        gap_p99_ms: percentile(&gaps, 99),
        quiet_p99_ms: percentile(&quiet, 99),
        bytes_per_s: rate.round(),
        raw_bytes_per_s: raw.round(),
        ratio: ((rate / raw) * 1000.0).round() / 1000.0,
        copies_ms: millis(copies),
        writes,
        writes_failed,
        control: Control::default(),
    })
}

/// A node that does not lead: its absence costs the least.
fn pick(fleet: &Fleet) -> Result<usize, DemoError> {
    let seen = look_at(fleet, &fleet.nodes()[0].http)?;
    let leads = |name: &str| seen.cluster.leader.as_deref() == Some(name);
    let found = fleet.nodes().iter().rposition(|node| !leads(&node.name));
    found.ok_or_else(|| DemoError::Strange("every node leads".into()))
}

fn look_at(fleet: &Fleet, http: &str) -> Result<Seen, DemoError> {
    fleet.wait_until("a node shows its plan", || Seen::at(&Asker::new(), http))
}

/// The partitions whose primary is another one than before.
fn moved(before: &Seen, after: &Seen) -> Vec<usize> {
    let pairs = before.partitions.iter().zip(&after.partitions).enumerate();
    pairs.filter(|(_, (was, is))| was.primary_node != is.primary_node).map(|(index, _)| index).collect()
}

/// How long it took from the first copy under way, as far as anybody saw it, to the last one that counts.
fn wait_for_copies(fleet: &Fleet, victim: usize, others: &[String]) -> Result<Duration, DemoError> {
    let asker = Asker::new();
    let (mut begun, mut seen) = (Instant::now(), false);
    let until = begun + COPIES_WITHIN;
    while Instant::now() < until {
        fleet.wait(LOOK_EVERY)?;
        let moving = asker.json::<Moves>(&others[0], "/moves").is_ok_and(|moves| moves.count > 0);
        if moving && !std::mem::replace(&mut seen, true) {
            begun = Instant::now();
        }
        let elapsed = begun.elapsed();
        if !moving && asker.json::<Ready>(&fleet.nodes()[victim].http, "/ready").is_ok() {
            return Ok(elapsed);
        }
    }
    let missing = "its copies do not all count".to_owned();
    Err(DemoError::Late { what: "a node has its copies", within: COPIES_WITHIN, missing })
}

fn wait_until_led(fleet: &Fleet, victim: usize, wanted: u32) -> Result<(), DemoError> {
    let name = &fleet.nodes()[victim].name;
    fleet.wait_until("it leads its share", || {
        let led = Seen::at(&Asker::new(), &fleet.nodes()[victim].http)?.load_of(name).0;
        if led >= wanted as usize { Ok(()) } else { Err(format!("it leads {led} of {wanted}")) }
    })
}

/// Copies so many bytes through a socket of this machine: bytes per second.
fn raw_copy(bytes: u64) -> Result<f64, DemoError> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    let reading = std::thread::Builder::new().name("raw".into()).spawn(move || -> io::Result<u64> {
        let (mut socket, _) = listener.accept()?;
        let (mut buffer, mut read) = (vec![0; RAW_CHUNK], 0);
        loop {
            match socket.read(&mut buffer)? {
                0 => return Ok(read),
                len => read += len as u64,
            }
        }
    })?;
    let begun = Instant::now();
    let mut socket = TcpStream::connect(address)?;
    let chunk = vec![0x5a; RAW_CHUNK];
    let mut left = bytes;
    while left > 0 {
        let len = left.min(RAW_CHUNK as u64);
        socket.write_all(&chunk[..usize::try_from(len).unwrap_or(RAW_CHUNK)])?;
        left -= len;
    }
    drop(socket);
    let read = reading.join().map_err(|_| DemoError::Panicked)??;
    Ok(read as f64 / begun.elapsed().as_secs_f64())
}

/// What of these was waited for, the shortest first.
fn sorted(waited: &[Waited], of: impl Fn(&Waited) -> Duration) -> Vec<Duration> {
    let mut times: Vec<Duration> = waited.iter().map(of).collect();
    times.sort_unstable();
    times
}

/// Of sorted times, the one below which so many of a hundred are.
fn percentile(times: &[Duration], percent: usize) -> f64 {
    let at = (times.len() * percent).div_ceil(100).max(1) - 1;
    times.get(at).copied().map_or(0.0, millis)
}

fn megabytes(bytes: u64) -> f64 {
    (bytes as f64 / 104_857.6).round() / 10.0
}

/// What is under way, for people who wait.
fn say(what: &str) {
    // Where stderr is closed there is nobody left to tell.
    drop(writeln!(io::stderr(), "{what}"));
}
