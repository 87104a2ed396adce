//! What people see while the demonstration runs: a table that is redrawn in place, or lines where there is no terminal.

use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use comfy_table::{Table, presets};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::asking::Asker;
use super::change::Seen;
use super::fleet::Fleet;
use super::load::{Counts, Load};

/// How often the table is drawn anew.
const TABLE_EVERY: Duration = Duration::from_millis(200);
/// How often there is a line where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(1);

/// Shows how the cluster fares until it is dropped.
#[derive(Debug)]
pub(crate) struct Screen {
    table: Option<ProgressBar>,
    stopping: Arc<AtomicBool>,
    painter: Option<JoinHandle<()>>,
}

impl Screen {
    /// A table on a terminal. Otherwise lines on stderr: stdout is for the summary then.
    pub(crate) fn new(json: bool) -> Self {
        let table = (!json && io::stdout().is_terminal()).then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stdout());
            bar.set_style(ProgressStyle::with_template("{msg}").expect("the template is well-formed"));
            bar
        });
        Self { table, stopping: Arc::default(), painter: None }
    }

    /// Something happened.
    pub(crate) fn say(&self, what: &str) {
        match &self.table {
            Some(table) => table.println(what),
            None => line(what),
        }
    }

    /// Shows the cluster from now on.
    pub(crate) fn watch(&mut self, fleet: &Arc<Fleet>, load: &Arc<Load>) {
        let (fleet, load) = (Arc::clone(fleet), Arc::clone(load));
        let (table, stopping) = (self.table.clone(), Arc::clone(&self.stopping));
        let paint = move || {
            let asker = Asker::new();
            let mut pace = Pace { at: Instant::now(), counts: load.counts() };
            let mut shown = Instant::now();
            while !stopping.load(Ordering::Relaxed) {
                std::thread::sleep(TABLE_EVERY);
                let every = if table.is_some() { TABLE_EVERY } else { LINE_EVERY };
                if shown.elapsed() < every {
                    continue;
                }
                shown = Instant::now();
                let seen = look(&asker, &fleet);
                let (rate, counts) = pace.step(&load);
                match &table {
                    Some(table) => table.set_message(drawn(&fleet, seen.as_ref(), rate, &counts)),
                    None => line(&told(&fleet, seen.as_ref(), rate, &counts)),
                }
            }
        };
        // Without it the demonstration runs all the same.
        self.painter = std::thread::Builder::new().name("screen".into()).spawn(paint).ok();
    }

    /// Shows no more. What was drawn last stays.
    pub(crate) fn end(&mut self) {
        self.stopping.store(true, Ordering::Relaxed);
        if let Some(painter) = self.painter.take() {
            drop(painter.join());
        }
        if let Some(table) = self.table.take() {
            table.abandon();
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.end();
    }
}

fn line(what: &str) {
    // Where stderr is closed there is nobody left to tell.
    drop(writeln!(io::stderr(), "{what}"));
}

/// The cluster as the first node shows it that answers.
fn look(asker: &Asker, fleet: &Fleet) -> Option<Seen> {
    let running = fleet.nodes().iter().enumerate().filter(|(node, _)| fleet.is_running(*node));
    running.map(|(_, node)| Seen::at(asker, &node.http)).find_map(Result::ok)
}

/// Requests per second since the last look.
struct Pace {
    at: Instant,
    counts: Counts,
}

impl Pace {
    fn step(&mut self, load: &Load) -> (f64, Counts) {
        let counts = load.counts();
        let seconds = self.at.elapsed().as_secs_f64().max(0.001);
        let answered = counts.ok - self.counts.ok;
        self.at = Instant::now();
        self.counts = counts.clone();
        (answered as f64 / seconds, counts)
    }
}

fn drawn(fleet: &Fleet, seen: Option<&Seen>, rate: f64, counts: &Counts) -> String {
    let mut table = Table::new();
    table.load_style(presets::UTF8_BORDERS_ONLY);
    table.set_header(["node", "state", "primaries", "copies", "http"]);
    for node in fleet.nodes() {
        let (state, (led, held)) = shown(seen, &node.name);
        table.add_row([
            node.name.clone(),
            state,
            led.to_string(),
            (led + held).to_string(),
            node.http.clone(),
        ]);
    }
    let version = seen.map_or_else(|| "-".into(), |seen| seen.cluster.version.to_string());
    format!("{table}\nversion {version}   {}", numbers(rate, counts))
}

fn told(fleet: &Fleet, seen: Option<&Seen>, rate: f64, counts: &Counts) -> String {
    let nodes: Vec<String> = (fleet.nodes().iter())
        .map(|node| {
            let (state, (led, _)) = shown(seen, &node.name);
            format!("{} {state} {led}", node.name)
        })
        .collect();
    format!("  {}   {}", nodes.join(", "), numbers(rate, counts))
}

fn numbers(rate: f64, counts: &Counts) -> String {
    let Counts { ok, failed, repeated, redirected, .. } = counts;
    format!(
        "{rate:.0} requests/s, {ok} answered, {repeated} repeated, {redirected} redirected, {failed} failed"
    )
}

/// A node's state, its primaries and its other copies.
fn shown(seen: Option<&Seen>, name: &str) -> (String, (usize, usize)) {
    let state = seen.and_then(|seen| seen.cluster.nodes.iter().find(|node| node.name == name));
    let mut state = state.map_or_else(|| "-".to_owned(), |node| node.state.clone());
    if seen.is_some_and(|seen| seen.cluster.leader.as_deref() == Some(name)) {
        state.push_str(", leads");
    }
    (state, seen.map_or((0, 0), |seen| seen.load_of(name)))
}
