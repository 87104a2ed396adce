//! How long keys go unanswered when their node is killed, when the leader is, and when a node freezes; with it how fast a
//! cluster boots, what a node weighs, and whether leaders fall under load for nothing.
//!
//! ```text
//!  real processes ─▶ kill -9, SIGSTOP ─▶ clients of the other nodes ask for one key of each of its partitions
//!                                          └─▶ until each is answered: median and slowest of all rounds
//! ```

use std::fs;
use std::io::{self, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;
use tumen_core::cluster::snapshot::Mode;

use crate::config::Value;
use crate::demo::asking::Asker;
use crate::demo::change::Seen;
use crate::demo::fleet::Fleet;
use crate::demo::load::Load;
use crate::demo::probes::Probes;
use crate::demo::{DemoError, keys_of, millis};

/// How many nodes the clusters have.
const NODES: u32 = 3;
/// How many partitions they have.
const PARTITIONS: u32 = 64;
/// How often a node that does not lead is killed.
const KILLS: usize = 10;
/// How often the leader is killed.
const LEADER_KILLS: usize = 6;
/// How often a node is frozen.
const FREEZES: usize = 3;
/// How often a cluster is started anew.
const BOOTS: usize = 5;
/// How many partitions the node has whose memory is looked at.
const IDLE_PARTITIONS: u32 = 1_024;
/// How often something small is written to the disk and waited for.
const SYNCS: usize = 200;

/// What was measured. Times are in milliseconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Figures {
    /// What a write's acknowledgement promises.
    pub(crate) mode: String,
    /// How many nodes, each with a disk for what must survive.
    pub(crate) nodes: u32,
    /// How many partitions.
    pub(crate) partitions: u32,
    /// How long a lease lasts, which is what bounds `freeze`.
    pub(crate) lease_ms: f64,
    /// A write of 4 KiB that is waited for until it is on the disk: the median.
    pub(crate) fsync_ms: f64,
    /// From the first process to all nodes ready: the median.
    pub(crate) boot_ms: f64,
    /// The same: the slowest.
    pub(crate) boot_worst_ms: f64,
    /// From the kill of a node that does not lead to the first answer for each of its keys: the median.
    pub(crate) kill_ms: f64,
    /// The same: the slowest.
    pub(crate) kill_worst_ms: f64,
    /// The same for the leader: the median.
    pub(crate) leader_ms: f64,
    /// The same: the slowest.
    pub(crate) leader_worst_ms: f64,
    /// From the freeze of a node that does not lead to the first answer for each of its keys: the median.
    pub(crate) freeze_ms: f64,
    /// The same: the slowest.
    pub(crate) freeze_worst_ms: f64,
    /// What a node with 1,024 partitions that nobody uses holds in memory, in MB; `null` where the system does not tell.
    pub(crate) memory_mb: Option<f64>,
    /// How long the cluster was under load.
    pub(crate) load_seconds: f64,
    /// How many requests were answered in that time.
    pub(crate) load_requests: u64,
    /// How many of them failed.
    pub(crate) load_failed: u64,
    /// How many elections there were in that time, for which nobody gave cause.
    pub(crate) elections: u64,
}

/// Measures all of it, with copies in this `mode`. `load` is how long to watch for elections.
///
/// # Errors
/// When a node ends that should not, or something does not come about in time.
pub(crate) fn measure(load: Duration, mode: Mode) -> Result<Figures, DemoError> {
    let lease = tumen_core::cluster::lease::Config::default().length;
    let mut figures = Figures {
        mode: mode.show(),
        nodes: NODES,
        partitions: PARTITIONS,
        lease_ms: millis(lease),
        fsync_ms: fsync()?,
        memory_mb: memory()?,
        ..Figures::default()
    };
    let mut boots = Vec::new();
    for _ in 1..BOOTS {
        say("a cluster is started");
        let (fleet, boot) = cluster(mode)?;
        boots.push(boot);
        fleet.forget();
    }
    let (fleet, boot) = cluster(mode)?;
    boots.push(boot);
    (figures.boot_ms, figures.boot_worst_ms) = summed_up(boots);

    say(&format!("the cluster is under load for {load:?}"));
    under_load(&fleet, load, &mut figures)?;
    (figures.kill_ms, figures.kill_worst_ms) =
        outages(&fleet, "a node that does not lead is killed", KILLS, kill(false))?;
    (figures.leader_ms, figures.leader_worst_ms) =
        outages(&fleet, "the leader is killed", LEADER_KILLS, kill(true))?;
    (figures.freeze_ms, figures.freeze_worst_ms) = outages(&fleet, "a node is frozen", FREEZES, freeze)?;
    fleet.forget();
    Ok(figures)
}

fn cluster(mode: Mode) -> Result<(Fleet, Duration), DemoError> {
    let mode = mode.show();
    let flags = ["--cluster", "bench", "--partitions", "64", "--replication", "3", "--min-nodes", "3"];
    let flags = flags.into_iter().chain(["--mode", &mode]).map(str::to_owned).collect();
    let mut fleet = Fleet::new(NODES, flags, Arc::default())?.with_disks();
    let boot = fleet.start()?;
    Ok((fleet, boot))
}

/// Sees whether somebody else is elected while nobody gives cause to.
fn under_load(fleet: &Fleet, load: Duration, figures: &mut Figures) -> Result<(), DemoError> {
    let before = seen(fleet)?.cluster.term;
    let clients = Load::start(fleet.nodes().iter().map(|node| node.http.clone()))?;
    let begun = Instant::now();
    fleet.wait(load)?;
    figures.load_seconds = (begun.elapsed().as_secs_f64() * 10.0).round() / 10.0;
    let counts = clients.stop();
    (figures.load_requests, figures.load_failed) = (counts.ok, counts.failed);
    figures.elections = seen(fleet)?.cluster.term.saturating_sub(before);
    Ok(())
}

/// Strikes a node some times, and heals it again: the median and the slowest of all its keys' outages.
fn outages(
    fleet: &Fleet,
    what: &str,
    rounds: usize,
    strike: impl Fn(&Fleet, &Seen) -> Result<Vec<Duration>, DemoError>,
) -> Result<(f64, f64), DemoError> {
    let mut times = Vec::new();
    for round in 1..=rounds {
        say(&format!("{what} ({round} of {rounds})"));
        let before = seen(fleet)?;
        times.extend(strike(fleet, &before)?);
        fleet.wait_until_ready()?;
        fleet.wait_until("primaries are in balance", || {
            let seen = look(fleet)?;
            let led = fleet.nodes().iter().map(|node| seen.load_of(&node.name).0);
            let (most, fewest) = (led.clone().max().unwrap_or(0), led.min().unwrap_or(0));
            if most - fewest <= 1 { Ok(()) } else { Err(format!("one leads {most}, one {fewest}")) }
        })?;
    }
    Ok(summed_up(times))
}

fn kill(the_leader: bool) -> impl Fn(&Fleet, &Seen) -> Result<Vec<Duration>, DemoError> {
    move |fleet, before| {
        let victim = pick(fleet, before, the_leader)?;
        let probes = probes(fleet, before, victim)?;
        let since = fleet.kill(victim).unwrap_or_else(Instant::now);
        let answered = probes.run(since).ok_or_else(unanswered)?;
        fleet.wait_until_ready()?;
        fleet.launch(victim)?;
        Ok(answered)
    }
}

fn freeze(fleet: &Fleet, before: &Seen) -> Result<Vec<Duration>, DemoError> {
    let victim = pick(fleet, before, false)?;
    let probes = probes(fleet, before, victim)?;
    let since = Instant::now();
    fleet.freeze(victim, true)?;
    let answered = probes.run(since).ok_or_else(unanswered);
    fleet.freeze(victim, false)?;
    answered
}

fn pick(fleet: &Fleet, seen: &Seen, the_leader: bool) -> Result<usize, DemoError> {
    let leader = seen.cluster.leader.as_deref();
    let found = fleet.nodes().iter().rposition(|node| (leader == Some(node.name.as_str())) == the_leader);
    found.ok_or_else(|| DemoError::Strange("nobody leads".into()))
}

fn probes(fleet: &Fleet, seen: &Seen, victim: usize) -> Result<Probes, DemoError> {
    let others: Vec<String> = (fleet.nodes().iter().enumerate())
        .filter(|(node, _)| *node != victim)
        .map(|(_, node)| node.http.clone())
        .collect();
    Ok(Probes::prepare(&others, &keys_of(seen, &fleet.nodes()[victim].name))?)
}

fn unanswered() -> DemoError {
    DemoError::Strange("a key is never answered".into())
}

fn seen(fleet: &Fleet) -> Result<Seen, DemoError> {
    fleet.wait_until("a node shows its plan", || look(fleet))
}

fn look(fleet: &Fleet) -> Result<Seen, String> {
    Seen::at(&Asker::new(), &fleet.nodes()[0].http)
}

/// The median and the largest.
fn summed_up(mut times: Vec<Duration>) -> (f64, f64) {
    times.sort_unstable();
    let at = |index: usize| times.get(index).copied().map_or(0.0, millis);
    (at(times.len() / 2), at(times.len().saturating_sub(1)))
}

/// What one write that is waited for takes, in the directory where the nodes' disks are.
fn fsync() -> Result<f64, DemoError> {
    let path = std::env::temp_dir().join(format!("tumen-fsync-{}", std::process::id()));
    let mut file = fs::File::create(&path)?;
    let mut times = Vec::with_capacity(SYNCS);
    for _ in 0..SYNCS {
        let begun = Instant::now();
        file.write_all(&[0x5a; 4096])?;
        file.sync_data()?;
        times.push(begun.elapsed());
    }
    fs::remove_file(&path)?;
    Ok(summed_up(times).0)
}

/// What a node alone holds in memory that serves many partitions, none of which is used.
fn memory() -> Result<Option<f64>, DemoError> {
    say(&format!("a node with {IDLE_PARTITIONS} idle partitions is weighed"));
    let flags = ["--cluster", "bench", "--partitions", &IDLE_PARTITIONS.to_string(), "--replication", "1"];
    let mut fleet = Fleet::new(1, flags.map(str::to_owned).to_vec(), Arc::default())?;
    fleet.start()?;
    let status = fleet.id(0).and_then(|id| fs::read_to_string(format!("/proc/{id}/status")).ok());
    let resident = status.as_deref().and_then(|status| {
        let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
        line.split_whitespace().nth(1)?.parse::<f64>().ok()
    });
    fleet.forget();
    Ok(resident.map(|kilobytes| (kilobytes / 102.4).round() / 10.0))
}

/// What is under way, for people who wait.
fn say(what: &str) {
    // Where stderr is closed there is nobody left to tell.
    drop(writeln!(io::stderr(), "{what}"));
}
