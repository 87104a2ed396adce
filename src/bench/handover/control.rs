//! Whether what is said on the topic `control` waits behind a handover: round trips between the two nodes of a cluster, while
//! one of them takes half of the other's partitions over, each with its whole state.
//!
//! ```text
//!  founder: ping ──── topic `control` ────▶ newcomer: pong ──▶ founder       one after the other, a millisecond between
//!           1 GB ════ whole copies ═══════▶ then half of the primaries
//! ```

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tumen_actors::cluster::pubsub::{News, Subscription};
use tumen_core::cluster::topics::{Overflow, Topic};

use super::Size;
use super::writers::{VALUE_LEN, keys, value};
use crate::Partition;
use crate::bench::calls::child::{Contestant, Order, Part, answer};
use crate::bench::calls::load::each;
use crate::bench::calls::peers::Peer;
use crate::bench::calls::{CallsError, hundredths, stolen};
use crate::kv::{Put, Value};
use crate::node::{Builder, Node};

/// Worker threads of each process.
const THREADS: usize = 2;
/// How long the topic is watched alone.
const ALONE: Duration = Duration::from_secs(2);
/// How late it may be noted that the machine was held up.
const NOTED_WITHIN: Duration = Duration::from_millis(20);
/// How long it rests between two round trips.
const REST: Duration = Duration::from_millis(1);
/// How long a round trip may take at all.
const PONG_WITHIN: Duration = Duration::from_secs(10);
/// How long the handover may take.
const WITHIN: Duration = Duration::from_secs(600);
/// A cluster whose plan has not changed for so long is settled.
const SETTLED_AFTER: Duration = Duration::from_secs(1);
/// How many values are put at once.
const FILLERS: usize = 8;
/// What is waited for by whoever listens.
const QUEUE_LEN: usize = 1_024;
const PING: &[u8] = b"bench ping ";
const PONG: &[u8] = b"bench pong ";
/// What ends a pong of a node that has all copies that it should have.
const READY: &[u8] = b" ready";

/// Round trips on the topic `control`, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Control {
    /// While all partitions are copied to the other node, and half of the primaries move there: the median.
    pub(crate) control_p50_ms: f64,
    /// The same: of a hundred one is longer.
    pub(crate) control_p99_ms: f64,
    /// The same: the slowest of all.
    pub(crate) control_worst_ms: f64,
    /// The same: the slowest of those during which whoever runs this machine gave none of its time to others.
    pub(crate) control_worst_undisturbed_ms: f64,
    /// How many round trips that were.
    pub(crate) control_round_trips: usize,
    /// Of how many it cannot be ruled out that they waited for the machine itself.
    pub(crate) control_disturbed: usize,
    /// How much time the machine was held up for meanwhile, all its processors together, in milliseconds.
    pub(crate) control_stolen_ms: f64,
    /// How long the handover took, in seconds.
    pub(crate) control_handover_s: f64,
    /// How many MB of state were copied.
    pub(crate) control_handover_mb: f64,
    /// How many primaries moved.
    pub(crate) control_moves: usize,
    /// Where nothing else goes on: the median.
    pub(crate) control_alone_p50_ms: f64,
    /// The same: of a hundred one is longer.
    pub(crate) control_alone_p99_ms: f64,
    /// The same: the slowest of all.
    pub(crate) control_alone_worst_ms: f64,
}

/// One round trip.
#[derive(Clone, Copy, Debug)]
struct Trip {
    sent: Instant,
    took: Duration,
    /// How long the machine had been held up by its end, since it was started.
    stolen: Duration,
}

/// What the founder saw.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct Trips {
    p50_ms: f64,
    p99_ms: f64,
    worst_ms: f64,
    worst_undisturbed_ms: f64,
    count: usize,
    disturbed: usize,
    stolen_ms: f64,
    seconds: f64,
    moves: usize,
}

/// Measures it, in two processes of its own.
///
/// # Errors
/// When a process cannot be started, or does not do as it is told.
pub(super) fn measure(size: Size) -> Result<Control, CallsError> {
    let start = |part, to| Peer::start(Contestant::Handover, part, THREADS, to);
    let mut founder = start(Part::Caller, None)?;
    let _: String = founder.hear()?;
    let Size { partitions, partition_bytes } = size;
    let address: String = founder.tell(&Order::Fill { partitions, partition_bytes })?;
    founder.give(&Order::WatchHandover)?;
    let mut newcomer = start(Part::Echo, Some(&address))?;
    let _: String = newcomer.hear()?;
    let _: String = newcomer.tell(&Order::Join { partitions })?;
    let during: Trips = founder.hear()?;
    let alone: Trips = founder.tell(&Order::WatchAlone)?;
    Ok(Control {
        control_p50_ms: during.p50_ms,
        control_p99_ms: during.p99_ms,
        control_worst_ms: during.worst_ms,
        control_worst_undisturbed_ms: during.worst_undisturbed_ms,
        control_round_trips: during.count,
        control_disturbed: during.disturbed,
        control_stolen_ms: during.stolen_ms,
        control_handover_s: during.seconds,
        control_handover_mb: super::megabytes(partition_bytes.saturating_mul(partitions.into())),
        control_moves: during.moves,
        control_alone_p50_ms: alone.p50_ms,
        control_alone_p99_ms: alone.p99_ms,
        control_alone_worst_ms: alone.worst_ms,
    })
}

fn control() -> Topic {
    Topic::new("control").expect("a short name")
}

/// The founder: fills its partitions, and watches.
pub(in crate::bench) async fn watch(mut orders: mpsc::UnboundedReceiver<Order>) -> Result<(), String> {
    answer(&Ok("ready"))?;
    let mut founded = None;
    while let Some(order) = orders.recv().await {
        match (order, &founded) {
            (Order::Fill { partitions, partition_bytes }, None) => {
                let node = found(Size { partitions, partition_bytes }).await;
                answer(&node.as_ref().map(Node::address).map_err(Clone::clone))?;
                founded = node.ok();
            }
            (Order::WatchHandover, Some(node)) => answer(&handover(node).await)?,
            (Order::WatchAlone, Some(node)) => answer(&alone(node).await)?,
            (other, _) => answer::<()>(&Err(format!("{other:?} is not for this process")))?,
        }
    }
    Ok(())
}

/// The newcomer: joins, takes over what it is given, and answers.
pub(in crate::bench) async fn echo(
    to: &str,
    mut orders: mpsc::UnboundedReceiver<Order>,
) -> Result<(), String> {
    answer(&Ok("ready"))?;
    let mut joined = None;
    while let Some(order) = orders.recv().await {
        match (order, &joined) {
            (Order::Join { partitions }, None) => {
                let node = builder("newcomer", partitions).join([to]).start().await;
                let node = node.map_err(|why| why.to_string());
                answer(&node.as_ref().map(Node::address).map_err(Clone::clone))?;
                joined = node.ok();
                if let Some(node) = &joined {
                    tokio::spawn(pong(node.clone()));
                }
            }
            (other, _) => answer::<()>(&Err(format!("{other:?} is not for this process")))?,
        }
    }
    Ok(())
}

/// Both say the same of the partitions, or neither takes the other in.
fn builder(name: &str, partitions: u32) -> Builder {
    let builder = Node::builder("bench", name).listen("127.0.0.1:0").partitions(partitions);
    builder.replication(2).rebuild_after(Duration::ZERO).kv()
}

async fn pong(node: Node) {
    let hub = node.runtime().hub();
    let mut pings = hub.subscribe(&control(), QUEUE_LEN, Overflow::DropOldest);
    while let Some(news) = pings.recv().await {
        let News::Said(message) = news else { continue };
        if let Some(number) = message.body.strip_prefix(PING) {
            let ready: &[u8] = if node.not_ready().is_none() { READY } else { b"" };
            // Whoever waits for it says that it did not come.
            let _ = hub.publish(&control(), [PONG, number, ready].concat().into());
        }
    }
}

/// A node alone that holds all of it.
async fn found(size: Size) -> Result<Node, String> {
    let node = builder("founder", size.partitions).start().await.map_err(|why| why.to_string())?;
    node.ready().await.map_err(|why| why.to_string())?;
    let each_has = usize::try_from(size.partition_bytes / VALUE_LEN as u64).unwrap_or(usize::MAX).max(1);
    let keys: Arc<[String]> = keys("fill", size.partitions, each_has).into_iter().flatten().collect();
    let count = keys.len() as u64;
    let put = |(node, keys): (Node, Arc<[String]>), number: u64| async move {
        let bytes = value(number).into();
        let value = Value { bytes, content_type: String::new() };
        let key = &keys[number as usize];
        let put = Put { key: Bytes::copy_from_slice(key.as_bytes()), value };
        node.call(key, put).await.map(drop).map_err(|why| format!("{key} cannot be filled: {why}"))
    };
    each(&(node.clone(), keys), 0..count, FILLERS, put).await?;
    Ok(node)
}

/// Round trips from when the other node is there until it has all copies and its share of the primaries.
async fn handover(node: &Node) -> Result<Trips, String> {
    let mut pongs = node.runtime().hub().subscribe(&control(), QUEUE_LEN, Overflow::DropOldest);
    let begun = Instant::now();
    while trip(node, &mut pongs, 0, Duration::from_millis(5)).await?.is_none() {
        if begun.elapsed() > WITHIN {
            return Err("the other node does not come".into());
        }
    }
    let begun = Instant::now();
    let shown = || node.snapshot().map(|plan| (plan.version, plan.steps));
    let mut settled = (shown(), Instant::now());
    let mut trips = Vec::new();
    for number in 1.. {
        let sent = Instant::now();
        let (took, whole) = trip(node, &mut pongs, number, PONG_WITHIN).await?.ok_or("no pong came back")?;
        trips.push(Trip { sent, took, stolen: stolen().unwrap_or_default() });
        let now = Instant::now();
        // Copies that move no primary are no part of the plan.
        if settled.0 != shown() || !whole {
            settled = (shown(), now);
        }
        if now - settled.1 > SETTLED_AFTER && led_by_newcomer(node) > 0 {
            break;
        }
        if now - begun > WITHIN {
            return Err("the other node does not get all copies".into());
        }
        tokio::time::sleep(REST).await;
    }
    // What came after the last step is not during the handover.
    trips.retain(|trip: &Trip| trip.sent <= settled.1);
    let seconds = hundredths((settled.1 - begun).as_secs_f64());
    Ok(Trips { seconds, moves: led_by_newcomer(node), ..Trips::of(&trips) })
}

async fn alone(node: &Node) -> Result<Trips, String> {
    let mut pongs = node.runtime().hub().subscribe(&control(), QUEUE_LEN, Overflow::DropOldest);
    let (begun, mut trips) = (Instant::now(), Vec::new());
    for number in 0.. {
        if begun.elapsed() > ALONE {
            break;
        }
        let sent = Instant::now();
        let (took, _) = trip(node, &mut pongs, number, PONG_WITHIN).await?.ok_or("no pong came back")?;
        trips.push(Trip { sent, took, stolen: stolen().unwrap_or_default() });
        tokio::time::sleep(REST).await;
    }
    Ok(Trips { seconds: hundredths(begun.elapsed().as_secs_f64()), ..Trips::of(&trips) })
}

/// How many primaries the newcomer has.
fn led_by_newcomer(node: &Node) -> usize {
    let of = |partition: &Partition| {
        partition.primary_node.as_ref().is_some_and(|node| node.as_str() == "newcomer")
    };
    node.list_partitions().iter().filter(|partition| of(partition)).count()
}

/// Says something, and waits for the answer: how long, and whether the other node has all that it should have. `None`: it did not
/// come in time.
async fn trip(
    node: &Node,
    pongs: &mut Subscription,
    number: u64,
    within: Duration,
) -> Result<Option<(Duration, bool)>, String> {
    let (sent, number) = (Instant::now(), number.to_string());
    let ping = [PING, number.as_bytes()].concat();
    node.runtime().hub().publish(&control(), ping.into()).map_err(|why| why.to_string())?;
    let answered = async {
        loop {
            match pongs.recv().await {
                Some(News::Said(message)) => {
                    let Some(said) = message.body.strip_prefix(PONG) else { continue };
                    let ready = said.strip_suffix(READY);
                    if ready.unwrap_or(said) == number.as_bytes() {
                        return Ok(Some((sent.elapsed(), ready.is_some())));
                    }
                }
                Some(_) => {}
                None => return Err("the node ends".to_owned()),
            }
        }
    };
    tokio::time::timeout(within, answered).await.unwrap_or(Ok(None))
}

impl Trips {
    fn of(trips: &[Trip]) -> Self {
        let mut times: Vec<Duration> = trips.iter().map(|trip| trip.took).collect();
        times.sort_unstable();
        let at = |percent| super::percentile(&times, percent);
        // What held the machine up before a trip was sent is told after the one before it.
        let before = |of: usize| trips[of.saturating_sub(1)].stolen;
        let noted = |of: &Trip| {
            let later = trips.partition_point(|trip| trip.sent < of.sent + of.took + NOTED_WITHIN);
            trips[later.min(trips.len() - 1)].stolen
        };
        let is_disturbed = |of: usize| before(of) < noted(&trips[of]);
        let disturbed = (0..trips.len()).filter(|of| is_disturbed(*of)).count();
        let undisturbed = (0..trips.len()).filter(|of| !is_disturbed(*of)).map(|of| trips[of].took);
        let stolen = trips.last().map_or(Duration::ZERO, |last| last.stolen.saturating_sub(trips[0].stolen));
        Self {
            p50_ms: at(50),
            p99_ms: at(99),
            worst_ms: at(100),
            worst_undisturbed_ms: super::percentile(&undisturbed.max().into_iter().collect::<Vec<_>>(), 100),
            count: times.len(),
            disturbed,
            stolen_ms: hundredths(stolen.as_secs_f64() * 1e3),
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_machine_was_held_up_for_is_told_apart() {
        let begun = Instant::now();
        let ms = Duration::from_millis;
        let trip = |at, took, stolen| Trip { sent: begun + ms(at), took: ms(took), stolen: ms(stolen) };
        let trips = Trips::of(&[
            trip(0, 1, 40),
            trip(10, 6, 40),
            trip(50, 30, 40),
            // It is noted by now.
            trip(85, 2, 70),
            trip(120, 3, 70),
            trip(160, 5, 70),
        ]);
        assert_eq!((trips.worst_ms, trips.worst_undisturbed_ms), (30.0, 6.0));
        assert_eq!((trips.count, trips.disturbed, trips.stolen_ms), (6, 2, 30.0));
        assert_eq!(Trips::of(&[]).worst_undisturbed_ms, 0.0);
    }
}
