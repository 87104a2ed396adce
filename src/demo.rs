//! `tumen demo`: a cluster of child processes that loses a node and heals, under a stream of requests.
//!
//! ```text
//!  start ─▶ all ready ─▶ requests ─▶ kill -9 one that does not lead ─▶ others answer ─▶ start it again ─▶ balanced
//!                          └────────── clients ask all the time ──────────────────────────────────────┘
//! ```
//!
//! Everything goes over the command line and the HTTP interface, as it would from outside.

pub(crate) mod asking;
pub(crate) mod change;
pub(crate) mod fleet;
pub(crate) mod load;
pub(crate) mod probes;
mod screen;
mod summary;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::{ExitCode, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tumen_core::partitioner::Partitioner;

use self::asking::Asker;
use self::change::{Change, Seen};
use self::fleet::Fleet;
use self::load::Load;
use self::probes::Probes;
use self::screen::Screen;
use self::summary::Summary;

/// How long each act is shown to a program, which needs no time to see it.
const ACT_ONCE: Duration = Duration::from_millis(700);
/// How long each act is shown to people.
const ACT: Duration = Duration::from_secs(4);
/// How many copies of each partition there are, if there are as many nodes.
const REPLICATION: u32 = 3;
/// How long the story may take to notice that somebody ended it.
const END_WITHIN: Duration = Duration::from_secs(1);
/// The exit code of what Ctrl-C ended, as shells have it.
const INTERRUPTED: u8 = 130;
/// The most keys that are looked for until each of the killed node's partitions has one.
const KEYS_MAX: u32 = 1 << 20;

/// What the demonstration is told.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Options {
    /// How many nodes to start.
    pub(crate) nodes: u32,
    /// How many partitions the cluster has.
    pub(crate) partitions: u32,
    /// Whether to end by itself.
    pub(crate) once: bool,
    /// Whether to print the summary as JSON.
    pub(crate) json: bool,
}

/// Why the demonstration ended early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DemoError {
    /// There is no place for the nodes' logs.
    #[error("the nodes' logs cannot be kept in {}: {why}", path.display())]
    Logs { path: PathBuf, why: io::Error },
    /// There are no free ports.
    #[error("no free ports are found on this machine: {0}")]
    Ports(io::Error),
    /// A process could not be started.
    #[error("{node} cannot be started: {why}")]
    Spawn { node: String, why: io::Error },
    /// No thread could be started.
    #[error("no thread can be started: {0}")]
    Threads(#[from] io::Error),
    /// A node ended though nobody told it to.
    #[error("{node} ended by itself ({status}); it last said:\n{tail}")]
    Ended { node: String, status: ExitStatus, tail: String },
    /// Something did not happen in time.
    #[error("in vain it was waited for {within:?} until {what}: {missing}")]
    Late { what: &'static str, within: Duration, missing: String },
    /// A node shows something that cannot be.
    #[error("a node shows what cannot be: {0}")]
    Strange(String),
    /// The summary cannot be written.
    #[error("the summary cannot be written: {0}")]
    Output(io::Error),
    /// A broken invariant.
    #[error("the demonstration panicked; its nodes are ended")]
    Panicked,
    /// Somebody pressed Ctrl-C.
    #[error("interrupted")]
    Interrupted,
}

/// Runs the demonstration until it ends, or somebody ends it.
pub(crate) async fn run(options: Options) -> ExitCode {
    let interrupted = Arc::new(AtomicBool::new(false));
    let (tell, mut told) = oneshot::channel();
    let story = Story { options, interrupted: Arc::clone(&interrupted) };
    // A thread of its own, which nobody waits for when the process ends; the nodes end with the process.
    let thread = std::thread::Builder::new().name("demo".into()).spawn(move || {
        // Where nobody listens any more, the process ends.
        drop(tell.send(story.tell()));
    });
    if let Err(why) = thread {
        return end(Err(DemoError::Threads(why)));
    }
    tokio::select! {
        outcome = &mut told => end(outcome.unwrap_or(Err(DemoError::Panicked))),
        () = asked_to_end() => {
            interrupted.store(true, Ordering::Relaxed);
            let outcome = tokio::time::timeout(END_WITHIN, told).await;
            end(outcome.ok().and_then(Result::ok).unwrap_or(Err(DemoError::Interrupted)))
        }
    }
}

/// Ctrl-C, or a polite kill.
async fn asked_to_end() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let (Ok(mut terminate), Ok(mut hang_up)) =
            (signal(SignalKind::terminate()), signal(SignalKind::hangup()))
        {
            tokio::select! {
                interrupted = tokio::signal::ctrl_c() => drop(interrupted),
                _ = terminate.recv() => {}
                _ = hang_up.recv() => {}
            }
            return;
        }
    }
    drop(tokio::signal::ctrl_c().await);
}

fn end(outcome: Result<bool, DemoError>) -> ExitCode {
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(DemoError::Interrupted) => ExitCode::from(INTERRUPTED),
        Err(error) => {
            // Where stderr is closed there is nobody left to tell.
            drop(writeln!(io::stderr(), "tumen: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// The demonstration, act by act.
struct Story {
    options: Options,
    interrupted: Arc<AtomicBool>,
}

impl Story {
    /// Tells it to its end: whether all went well.
    fn tell(self) -> Result<bool, DemoError> {
        let Options { nodes, partitions, once, json } = self.options;
        let mut screen = Screen::new(json);
        screen.say(&format!("starting {nodes} nodes with {partitions} partitions"));
        let mut fleet = Fleet::new(nodes, self.flags(), Arc::clone(&self.interrupted))?;
        let logs = fleet.dir().to_owned();
        let outcome = fleet.start().and_then(|boot| {
            let fleet = Arc::new(fleet);
            let summary = self.acts(&fleet, boot, &mut screen)?;
            screen.end();
            say(&if json { to_json(&summary)? } else { summary.to_string() })?;
            if !once {
                linger(&fleet)?;
            }
            Ok(summary.is_well())
        });
        match &outcome {
            // The logs lie where temporary files lie, which the system tidies too.
            Ok(true) | Err(DemoError::Interrupted) => drop(std::fs::remove_dir_all(logs)),
            Ok(false) | Err(_) => screen.say(&format!("the nodes' logs are in {}", logs.display())),
        }
        outcome
    }

    fn flags(&self) -> Vec<String> {
        let Options { nodes, partitions, .. } = self.options;
        let flags = [
            ("--cluster", format!("demo-{}", std::process::id())),
            ("--partitions", partitions.to_string()),
            ("--replication", self.replication().to_string()),
            ("--min-nodes", nodes.to_string()),
        ];
        flags.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]).collect()
    }

    fn replication(&self) -> u32 {
        self.options.nodes.min(REPLICATION)
    }

    fn acts(&self, fleet: &Arc<Fleet>, boot: Duration, screen: &mut Screen) -> Result<Summary, DemoError> {
        let Options { nodes, partitions, once, .. } = self.options;
        let act = if once { ACT_ONCE } else { ACT };
        let mut summary = Summary { nodes, partitions, boot_ms: millis(boot), ..Summary::default() };
        let founded = self.seen(fleet)?;
        screen.say(&format!("all ready in {:.0} ms; {} leads", millis(boot), leader(&founded)));
        summary.note_change(self.change("founded", None, &founded)?);

        let load = Arc::new(Load::start(fleet.nodes().iter().map(|node| node.http.clone()))?);
        screen.watch(fleet, &load);
        fleet.wait(act)?;

        let before = self.seen(fleet)?;
        if let Some(victim) = victim(fleet, &before) {
            let name = fleet.nodes()[victim].name.clone();
            let killed = self.kill(fleet, victim, &before, &mut summary, screen)?;
            fleet.wait(act)?;
            self.bring_back(fleet, victim, &killed, &load, &mut summary, screen)?;
            fleet.wait(act)?;
            summary.killed = Some(name);
        } else {
            screen.say("a node alone has nobody to take over from it: it is not killed");
        }
        screen.end();
        summary.note_counts(load.stop());
        Ok(summary)
    }

    /// Kills a node, and waits until its partitions are served by others.
    fn kill(
        &self,
        fleet: &Fleet,
        victim: usize,
        before: &Seen,
        summary: &mut Summary,
        screen: &Screen,
    ) -> Result<Seen, DemoError> {
        let name = &fleet.nodes()[victim].name;
        let keys = keys_of(before, name);
        let others: Vec<String> = (fleet.nodes().iter().enumerate())
            .filter(|(node, _)| *node != victim)
            .map(|(_, node)| node.http.clone())
            .collect();
        let probes = Probes::prepare(&others, &keys)?;
        let killed_at = fleet.kill(victim).unwrap_or_else(Instant::now);
        screen.say(&format!("{name} is killed: it was primary of {} partitions", keys.len()));
        let answered = probes.run(killed_at).unwrap_or_default();
        if let (Some(median), Some(worst)) = (answered.get(answered.len() / 2), answered.last()) {
            let (median, worst) = (millis(*median), millis(*worst));
            summary.failover_ms = Some(median);
            summary.failover_worst_ms = Some(worst);
            summary.failover_keys = answered.len();
            screen.say(&format!(
                "its keys are answered by others after {median:.1} ms (median), {worst:.1} ms (slowest)"
            ));
        } else if !keys.is_empty() {
            screen.say("some of its keys are never answered");
        }
        fleet.wait_until_ready()?;
        let after = self.seen(fleet)?;
        summary.note_change(self.change(&format!("{name} was killed"), Some(before), &after)?);
        Ok(after)
    }

    /// Starts a node again, and waits until all is in balance.
    fn bring_back(
        &self,
        fleet: &Fleet,
        victim: usize,
        before: &Seen,
        load: &Load,
        summary: &mut Summary,
        screen: &Screen,
    ) -> Result<(), DemoError> {
        let name = &fleet.nodes()[victim].name;
        screen.say(&format!("{name} is started again"));
        let begun = Instant::now();
        fleet.launch(victim)?;
        fleet.wait_until_ready()?;
        let after = fleet.wait_until("primaries are in balance", || {
            let seen = self.look(fleet)?;
            let change = self.weigh("", Some(before), &seen)?;
            let balanced = change.certificate.imbalance_primaries <= 1;
            if balanced { Ok(seen) } else { Err(format!("{}", change.certificate)) }
        })?;
        let took = millis(begun.elapsed());
        load.welcome(victim);
        summary.return_ms = Some(took);
        screen.say(&format!("{name} is back, and all in balance, after {took:.0} ms"));
        summary.note_change(self.change(&format!("{name} came back"), Some(before), &after)?);
        Ok(())
    }

    fn change(&self, what: &str, before: Option<&Seen>, after: &Seen) -> Result<Change, DemoError> {
        self.weigh(what, before, after).map_err(DemoError::Strange)
    }

    fn weigh(&self, what: &str, before: Option<&Seen>, after: &Seen) -> Result<Change, String> {
        Change::between(what.to_owned(), before, after, self.replication())
    }

    /// The cluster as its first running node shows it.
    fn seen(&self, fleet: &Fleet) -> Result<Seen, DemoError> {
        fleet.wait_until("a node shows its plan", || self.look(fleet))
    }

    fn look(&self, fleet: &Fleet) -> Result<Seen, String> {
        let running = fleet.nodes().iter().enumerate().find(|(node, _)| fleet.is_running(*node));
        let (_, node) = running.ok_or("no node runs")?;
        Seen::at(&Asker::new(), &node.http)
    }
}

/// The node to kill: the last that does not lead.
fn victim(fleet: &Fleet, seen: &Seen) -> Option<usize> {
    let led_by = seen.cluster.leader.as_deref();
    (0..fleet.nodes().len()).rev().find(|node| led_by != Some(fleet.nodes()[*node].name.as_str()))
}

/// One key in each partition of which this node is primary.
pub(crate) fn keys_of(seen: &Seen, node: &str) -> Vec<String> {
    let count = u32::try_from(seen.partitions.len()).unwrap_or(u32::MAX);
    let mut wanted: Vec<bool> =
        seen.partitions.iter().map(|partition| partition.primary_node.as_deref() == Some(node)).collect();
    let mut left = wanted.iter().filter(|wanted| **wanted).count();
    let mut keys = Vec::with_capacity(left);
    for number in 0..KEYS_MAX {
        if left == 0 {
            break;
        }
        let key = format!("key-{number}");
        let Ok(partition) = Partitioner::Hash.partition_of(key.as_bytes(), count) else { continue };
        if std::mem::take(&mut wanted[partition as usize]) {
            keys.push(key);
            left -= 1;
        }
    }
    keys
}

fn leader(seen: &Seen) -> &str {
    seen.cluster.leader.as_deref().unwrap_or("nobody")
}

/// Leaves the cluster running until somebody ends it.
fn linger(fleet: &Fleet) -> Result<(), DemoError> {
    let node = &fleet.nodes()[0].http;
    say(&format!(
        "\nthe cluster runs until Ctrl-C; try:\n  tumen status --http http://{node}\n  tumen watch --http http://{node}\n  \
         curl -X PUT -d hello http://{node}/kv/greeting; curl http://{node}/kv/greeting"
    ))?;
    loop {
        match fleet.wait(Duration::from_secs(1)) {
            Ok(()) => {}
            Err(DemoError::Interrupted) => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

fn to_json(summary: &Summary) -> Result<String, DemoError> {
    serde_json::to_string_pretty(summary).map_err(|why| DemoError::Strange(why.to_string()))
}

fn say(what: &str) -> Result<(), DemoError> {
    writeln!(io::stdout(), "{what}").map_err(DemoError::Output)
}

/// Milliseconds with one place behind the point: more would pretend to be known.
pub(crate) fn millis(time: Duration) -> f64 {
    (time.as_secs_f64() * 10_000.0).round() / 10.0
}
