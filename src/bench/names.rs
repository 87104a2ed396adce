//! `bench names`: what names cost on three nodes.
//!
//! ```text
//!  caller ══ claim, 1,024 at once ══▶ 16 directories on three nodes ══▶ read table of each node      three processes
//!  caller ── lookup ▶ its own table           others ── how many are there? ▶ their own tables
//! ```
//!
//! The names are of one actor of one node, which claims all of them: two thirds of its claims leave the node.

pub(in crate::bench) mod client;

use std::time::Instant;

use serde::Serialize;

use super::calls::child::{Contestant, Order, Part};
use super::calls::peers::Peer;
use super::calls::{CallsError, hundredths, say};
use super::write::resident_mb;
use crate::demo::millis;

/// How many nodes there are.
pub(super) const NODES: usize = 3;
/// Worker threads of each process.
const THREADS: usize = 2;
/// How many claims are under way at once.
const OUTSTANDING: usize = 1024;
/// How many lookups are timed.
const LOOKUPS: u64 = 2_000_000;

/// What was measured.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Figures {
    /// How many nodes.
    pub(crate) nodes: usize,
    /// How many names there were in the end.
    pub(crate) names: u64,
    /// A lookup of one of 10,000 names, in nanoseconds.
    pub(crate) lookup_ns: f64,
    /// The same of one of all names.
    pub(crate) lookup_ns_many: f64,
    /// In the same run, one in a plain map of 10,000 names, by the standard library.
    pub(crate) map_ns: f64,
    /// The same of all names.
    pub(crate) map_ns_many: f64,
    /// Registrations a second, of the first 10,000.
    pub(crate) registrations_per_s: f64,
    /// The same of the 100,000 after these.
    pub(crate) registrations_per_s_100k: f64,
    /// The same of the last 100,000.
    pub(crate) registrations_per_s_many: f64,
    /// From the last reply until both other nodes see all of the first 10,000, in milliseconds.
    pub(crate) visible_ms_10k: f64,
    /// The same of the 100,000 after these.
    pub(crate) visible_ms_100k: f64,
    /// What a name costs in memory, in all, on each node: bytes.
    pub(crate) bytes_per_name: f64,
}

/// Three nodes, one of which is told what to do; the others say what they see.
pub(super) struct Nodes {
    pub(super) caller: Peer,
    /// Where the caller is found.
    pub(super) address: String,
    pub(super) others: Vec<Peer>,
}

impl Nodes {
    pub(super) fn start() -> Result<Self, CallsError> {
        let mut caller = Peer::start(Contestant::Names, Part::Caller, THREADS, None)?;
        let address: String = caller.hear()?;
        let mut others = Vec::new();
        for _ in 1..NODES {
            others.push(Self::join(&address)?);
        }
        let mut nodes = Self { caller, address, others };
        nodes.connect()?;
        Ok(nodes)
    }

    /// One more node.
    pub(super) fn join(address: &str) -> Result<Peer, CallsError> {
        let mut other = Peer::start(Contestant::Names, Part::Echo, THREADS, Some(address))?;
        let _: String = other.hear()?;
        Ok(other)
    }

    /// Waits until all of them serve, and nothing is short of a copy.
    pub(super) fn connect(&mut self) -> Result<(), CallsError> {
        self.others.iter_mut().try_for_each(|other| other.tell::<()>(&Order::Connect))?;
        self.caller.tell::<()>(&Order::Connect)?;
        self.caller.tell::<()>(&Order::Whole { nodes: NODES })
    }

    /// Registers names: how many a second, and after how many milliseconds more the others saw all.
    fn register(&mut self, from: u64, count: u64) -> Result<(f64, f64), CallsError> {
        let order = Order::Register { from, count, outstanding: OUTSTANDING };
        let took: f64 = self.caller.tell(&order)?;
        let answered = Instant::now();
        let names = (from + count) as usize;
        self.others.iter_mut().try_for_each(|other| other.tell::<()>(&Order::Await { names }))?;
        Ok(((count as f64 / took).round(), hundredths(millis(answered.elapsed()))))
    }

    fn memory(&self) -> f64 {
        let all = std::iter::once(&self.caller).chain(&self.others);
        all.map(|peer| resident_mb(peer.id()).unwrap_or_default()).sum()
    }
}

/// Measures all of it, with so many names in the end.
///
/// # Errors
/// When a process cannot be started, or does not do as it is told.
pub(crate) fn measure(names: u64) -> Result<Figures, CallsError> {
    let mut figures = Figures { nodes: NODES, names, ..Figures::default() };
    say("processes are started");
    let mut nodes = Nodes::start()?;
    let look = |caller: &mut Peer, names| {
        let looked: (f64, f64) = caller.tell(&Order::LookUp { names, times: LOOKUPS })?;
        Ok::<_, CallsError>((hundredths(looked.0), hundredths(looked.1)))
    };
    let before = nodes.memory();
    (figures.registrations_per_s, figures.visible_ms_10k) = nodes.register(0, 10_000)?;
    (figures.lookup_ns, figures.map_ns) = look(&mut nodes.caller, 10_000)?;
    (figures.registrations_per_s_100k, figures.visible_ms_100k) = nodes.register(10_000, 100_000)?;
    let (mut there, last) = (110_000, names - 100_000);
    while there < last {
        say(&format!("{there} of {names} names"));
        let more = (last - there).min(200_000);
        nodes.register(there, more)?;
        there += more;
    }
    (figures.registrations_per_s_many, _) = nodes.register(there, names - there)?;
    (figures.lookup_ns_many, figures.map_ns_many) = look(&mut nodes.caller, names)?;
    let grown = (nodes.memory() - before) * f64::from(1 << 20);
    figures.bytes_per_name = (grown / names as f64 / NODES as f64).round();
    Ok(figures)
}
