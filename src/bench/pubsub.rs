//! `bench pubsub`: what one process says to eight subscribers in two others, beside the process groups of `ractor_cluster`.
//!
//! ```text
//!  publisher ══64 bytes══▶ node, 4 subscribers        three processes: the two ways take turns
//!       └════════════════▶ node, 4 subscribers
//! ```
//!
//! A turn ends when each subscriber has each message in its hands. *All acked* is one message at a time to eight actors, each of
//! which answers.

pub(in crate::bench) mod ours;
pub(in crate::bench) mod pg;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::calls::child::{Contestant, Order, Part};
use super::calls::peers::Peer;
use super::calls::{CallsError, hundredths, load_average, median, say};
use super::config::Times;

/// How many processes listen.
const LISTENERS: usize = 2;
/// How many subscribers each of them has.
pub(in crate::bench) const SUBSCRIBERS: usize = 4;
/// Worker threads of each process.
const THREADS: usize = 1;
/// Messages of one turn.
const MESSAGES: u64 = 300_000;
/// The same where each subscriber is sent its own.
const MESSAGES_PG: u64 = 20_000;
/// How often all of them are asked, one time after the other.
const ASKS: u64 = 1_000;
/// How long all subscribers have for what was said.
const HEARD_WITHIN: Duration = Duration::from_secs(120);

/// What was measured.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Figures {
    /// Rounds, in each of which both are measured.
    pub(crate) rounds: usize,
    /// Worker threads of each process.
    pub(crate) threads: usize,
    /// How busy the machine was before: processes that want to run, over the last minute.
    pub(crate) load_average: Option<f64>,
    /// Bytes of a message.
    pub(crate) message_len: usize,
    /// Subscribers, all of them in other processes.
    pub(crate) subscribers: usize,
    /// Messages a second, each heard by every subscriber: the median of the rounds.
    pub(crate) broadcasts_per_s: f64,
    /// The same in the slowest round.
    pub(crate) broadcasts_per_s_worst: f64,
    /// Messages to the groups of `ractor_cluster` a second.
    pub(crate) pg_broadcasts_per_s: f64,
    /// tumen's messages a second beside the groups' of `ractor_cluster`: the median of the rounds' ratios.
    pub(crate) ratio_to_pg: f64,
    /// Messages that were lost to some subscriber.
    pub(crate) lost: u64,
    /// A group asked, until all eight members have answered: the median, in microseconds.
    pub(crate) all_acked_p50_us: f64,
    /// What one of a hundred of these takes longer than.
    pub(crate) all_acked_p99_us: f64,
    /// The same of the groups of `ractor_cluster`.
    pub(crate) pg_all_acked_p50_us: f64,
    /// What one of a hundred of these takes longer than.
    pub(crate) pg_all_acked_p99_us: f64,
    /// Said on a topic, until both nodes say that all subscribers have it in their queues: the median, in microseconds.
    pub(crate) confirmed_p50_us: f64,
}

/// The publisher's process and the listeners'.
struct Nodes {
    publisher: Peer,
    listeners: Vec<Peer>,
    said: u64,
    lost: u64,
}

impl Nodes {
    /// tumen's: the publisher founds the cluster, so that whoever listens serves nothing beside.
    fn ours() -> Result<Self, CallsError> {
        let mut publisher = Peer::start(Contestant::Topics, Part::Caller, THREADS, None)?;
        let address: String = publisher.hear()?;
        let mut listeners = Vec::new();
        for _ in 0..LISTENERS {
            let mut listener = Peer::start(Contestant::Topics, Part::Echo, THREADS, Some(&address))?;
            let _: String = listener.hear()?;
            listeners.push(listener);
        }
        Self { publisher, listeners, said: 0, lost: 0 }.connected()
    }

    /// `ractor_cluster`'s: whoever calls dials.
    fn pg() -> Result<Self, CallsError> {
        let (mut listeners, mut addresses) = (Vec::new(), Vec::new());
        for _ in 0..LISTENERS {
            let mut listener = Peer::start(Contestant::Pg, Part::Echo, THREADS, None)?;
            addresses.push(listener.hear::<String>()?);
            listeners.push(listener);
        }
        let to = addresses.join(",");
        let mut publisher = Peer::start(Contestant::Pg, Part::Caller, THREADS, Some(&to))?;
        let _: String = publisher.hear()?;
        Self { publisher, listeners, said: 0, lost: 0 }.connected()
    }

    fn connected(mut self) -> Result<Self, CallsError> {
        self.listeners.iter_mut().try_for_each(|listener| listener.tell::<()>(&Order::Connect))?;
        self.publisher.tell::<()>(&Order::Connect)?;
        Ok(self)
    }

    /// How many messages a second, of so many.
    fn turn(&mut self, count: u64) -> Result<f64, CallsError> {
        let begun = Instant::now();
        self.publisher.tell::<()>(&Order::Publish { count })?;
        self.said += count;
        let mut lost = 0;
        for listener in &mut self.listeners {
            lost += listener.tell::<u64>(&Order::AwaitHeard { count: self.said })?;
        }
        self.lost = lost;
        Ok(count as f64 / begun.elapsed().as_secs_f64())
    }
}

/// Measures all of it, in `rounds` rounds.
///
/// # Errors
/// When a child process cannot be started, or does not do as it is told.
pub(crate) fn measure(rounds: usize) -> Result<Figures, CallsError> {
    let mut figures = Figures {
        rounds,
        threads: THREADS,
        load_average: load_average(),
        message_len: 64,
        subscribers: LISTENERS * SUBSCRIBERS,
        ..Figures::default()
    };
    say("processes are started");
    let (mut ours, mut pg) = (Nodes::ours()?, Nodes::pg()?);
    ours.turn(MESSAGES / 10)?;
    pg.turn(MESSAGES_PG / 10)?;
    let (mut rates, mut pg_rates, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for round in 1..=rounds {
        say(&format!("round {round} of {rounds}"));
        let (rate, pg_rate) = (ours.turn(MESSAGES)?, pg.turn(MESSAGES_PG)?);
        rates.push(rate);
        pg_rates.push(pg_rate);
        ratios.push(rate / pg_rate);
    }
    figures.broadcasts_per_s_worst = rates.iter().copied().fold(f64::INFINITY, f64::min).round();
    figures.broadcasts_per_s = median(rates.into_iter()).round();
    figures.pg_broadcasts_per_s = median(pg_rates.into_iter()).round();
    figures.ratio_to_pg = hundredths(median(ratios.into_iter()));
    figures.lost = ours.lost;
    say("one at a time");
    let (mut all, mut pg_all) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        all.push(ours.publisher.tell::<Times>(&Order::AskAll { count: ASKS })?);
        pg_all.push(pg.publisher.tell::<Times>(&Order::AskAll { count: ASKS })?);
    }
    let of = |times: &[Times], of: fn(&Times) -> f64| hundredths(median(times.iter().map(of)));
    (figures.all_acked_p50_us, figures.all_acked_p99_us) =
        (of(&all, |it| it.p50_us), of(&all, |it| it.p99_us));
    figures.pg_all_acked_p50_us = of(&pg_all, |it| it.p50_us);
    figures.pg_all_acked_p99_us = of(&pg_all, |it| it.p99_us);
    figures.confirmed_p50_us = ours.publisher.tell::<Times>(&Order::Confirm { count: ASKS })?.p50_us;
    Ok(figures)
}

/// What the subscribers of one process have heard, and what was lost to them.
#[derive(Clone)]
pub(in crate::bench) struct Ears {
    ears: Vec<Arc<Ear>>,
}

#[derive(Default)]
pub(in crate::bench) struct Ear {
    pub(in crate::bench) heard: AtomicU64,
    pub(in crate::bench) lost: AtomicU64,
}

impl Ears {
    pub(in crate::bench) fn new() -> Self {
        Self { ears: (0..SUBSCRIBERS).map(|_| Arc::default()).collect() }
    }

    pub(in crate::bench) fn each(&self) -> impl Iterator<Item = &Arc<Ear>> {
        self.ears.iter()
    }

    /// Waits until each has heard, or lost, so many messages since the start: how many were lost.
    pub(in crate::bench) async fn have_heard(&self, count: u64) -> Result<u64, String> {
        let begun = Instant::now();
        let lost = |ear: &Arc<Ear>| ear.lost.load(Ordering::Relaxed);
        let so_far = |ear: &Arc<Ear>| ear.heard.load(Ordering::Relaxed) + lost(ear);
        while self.each().any(|ear| so_far(ear) < count) {
            if begun.elapsed() > HEARD_WITHIN {
                let all: Vec<u64> = self.each().map(so_far).collect();
                return Err(format!("of {count} messages the subscribers heard or lost {all:?}"));
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(self.each().map(lost).sum())
    }
}

/// Does something so often, one time after the other, and tells how long it took each time.
pub(in crate::bench) async fn timed(
    count: u64,
    mut one: impl AsyncFnMut(u64) -> Result<(), String>,
) -> Result<Times, String> {
    let mut times = Vec::new();
    for number in 0..count {
        let begun = Instant::now();
        one(number).await?;
        times.push(begun.elapsed().as_secs_f64() * 1e6);
    }
    Ok(Times::of(times))
}
