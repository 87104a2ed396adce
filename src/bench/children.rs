//! `bench children`: starts, and how long children are silent when their node dies, or they are moved.
//!
//! ```text
//!  caller ══ start_child, 1,024 at once ══▶ three nodes
//!  caller ── kill -9 ▶ a node;  ══ say? ══▶ each child that ran there, until it answers elsewhere
//! ```

use serde::Serialize;

use super::calls::child::Order;
use super::calls::{CallsError, hundredths, median, say};
use super::names::{NODES, Nodes};

/// How many singletons there are, of which one is looked at as its node is killed.
const SINGLETONS: u64 = 48;
/// About how many children run on a node that is killed for all of them.
const CHILDREN: u64 = 1_000;
/// How many starts are timed.
const STARTS: u64 = 10_000;
/// How many starts are under way at once.
const OUTSTANDING: usize = 1024;
/// How often a node is killed for one singleton, in each of both cases.
const KILLS: usize = 7;
/// How often a node is killed that runs about a thousand children.
const MANY_KILLS: usize = 5;
/// How often a child is moved.
const MOVES: u64 = 20;

/// What was measured. Times are in milliseconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Figures {
    /// Starts a second.
    pub(crate) starts_per_s: f64,
    /// From the kill of a singleton's node until it answers elsewhere: the median.
    pub(crate) singleton_ms: f64,
    /// The same: the slowest.
    pub(crate) singleton_worst_ms: f64,
    /// The same where the primary of its directory died with it: the median.
    pub(crate) with_directory_ms: f64,
    /// The same: the slowest.
    pub(crate) with_directory_worst_ms: f64,
    /// How many children ran on a node of three that was killed.
    pub(crate) children: u64,
    /// From the kill until all of them answer elsewhere: the median.
    pub(crate) children_ms: f64,
    /// The same: the slowest.
    pub(crate) children_worst_ms: f64,
    /// A child that is moved in good order: the longest wait for an answer, the median of all moves.
    pub(crate) move_ms: f64,
    /// The same: the longest.
    pub(crate) move_worst_ms: f64,
}

/// Measures all of it.
///
/// # Errors
/// When a process cannot be started, or does not do as it is told.
pub(crate) fn measure() -> Result<Figures, CallsError> {
    let mut figures = Figures::default();
    say("processes are started");
    let mut nodes = Nodes::start()?;
    let start = |nodes: &mut Nodes, from, count| {
        nodes.caller.tell::<f64>(&Order::Start { from, count, outstanding: OUTSTANDING })
    };
    say("children are started");
    start(&mut nodes, 0, SINGLETONS)?;
    let mut moves = Vec::new();
    for child in 0..MOVES {
        moves.push(nodes.caller.tell::<f64>(&Order::Move { child })?);
    }
    (figures.move_ms, figures.move_worst_ms) = summed_up(&moves);
    let (mut alone, mut with) = (Vec::new(), Vec::new());
    for _ in 0..20 * KILLS {
        if alone.len() >= KILLS && with.len() >= KILLS {
            break;
        }
        let Some((child, victim, dies)) = candidate(&mut nodes, alone.len() < KILLS, with.len() < KILLS)?
        else {
            break;
        };
        say(if dies {
            "a singleton's node is killed, and its directory with it"
        } else {
            "a singleton's node is killed"
        });
        let (_, ms): (u64, f64) = kill(&mut nodes, victim, child, 1)?;
        if dies { with.push(ms) } else { alone.push(ms) }
    }
    (figures.singleton_ms, figures.singleton_worst_ms) = summed_up(&alone);
    (figures.with_directory_ms, figures.with_directory_worst_ms) = summed_up(&with);
    drop(nodes);
    let mut all = Vec::new();
    for _ in 0..MANY_KILLS {
        // Each on nodes of its own: what was killed before would have left the others more than their part.
        let mut nodes = Nodes::start()?;
        start(&mut nodes, 0, NODES as u64 * CHILDREN)?;
        let (there, ms): (u64, f64) = kill(&mut nodes, 0, 0, NODES as u64 * CHILDREN)?;
        say(&format!("{there} children answer again after {ms:.1} ms"));
        all.push((ms, there as f64));
    }
    figures.children = median(all.iter().map(|(_, there)| *there)) as u64;
    let all: Vec<f64> = all.into_iter().map(|(ms, _)| ms).collect();
    (figures.children_ms, figures.children_worst_ms) = summed_up(&all);
    let mut nodes = Nodes::start()?;
    let took = start(&mut nodes, 0, STARTS)?;
    figures.starts_per_s = (STARTS as f64 / took).round();
    Ok(figures)
}

/// A child on a node that can be killed, that node, and whether the primary of its directory is there too.
fn candidate(nodes: &mut Nodes, alone: bool, with: bool) -> Result<Option<(u64, usize, bool)>, CallsError> {
    for child in 0..SINGLETONS {
        let (runs, directory): (String, String) = nodes.caller.tell(&Order::Where { child })?;
        let victim = nodes.others.iter().position(|other| runs == format!("node-{}", other.id()));
        let dies = runs == directory;
        if let Some(victim) = victim.filter(|_| if dies { with } else { alone }) {
            return Ok(Some((child, victim, dies)));
        }
    }
    Ok(None)
}

/// Kills a node, waits for what ran there to answer elsewhere, and has another one take its place.
fn kill(nodes: &mut Nodes, victim: usize, from: u64, count: u64) -> Result<(u64, f64), CallsError> {
    let process = nodes.others[victim].id();
    let told = nodes.caller.tell(&Order::Kill { process, from, count })?;
    let address = nodes.address.clone();
    nodes.others[victim] = Nodes::join(&address)?;
    nodes.connect()?;
    Ok(told)
}

fn summed_up(times: &[f64]) -> (f64, f64) {
    if times.is_empty() {
        return (0.0, 0.0);
    }
    (hundredths(median(times.iter().copied())), hundredths(times.iter().copied().fold(0.0, f64::max)))
}
