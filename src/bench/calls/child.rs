//! What a child process of `bench calls`, `write`, `names`, `children`, `config`, `pubsub` and `handover` is, and how it does what it is told.

use std::fmt;
use std::io::{self, BufRead, Write};

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::{load, ours, plain, raw};
use crate::bench::{config, handover, names, pubsub, write};

/// Which way calls go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Contestant {
    /// Two nodes: key, route, fence, worker, reply.
    Tumen,
    /// A bare RPC over one connection.
    Raw,
    /// One remotable actor of `ractor_cluster`.
    RactorCluster,
    /// The built-in key-value worker of three nodes.
    Kv,
    /// The names of three nodes.
    Names,
    /// The cluster's own configuration, of three nodes with disks.
    Config,
    /// The topics and groups of three nodes.
    Topics,
    /// The process groups of `ractor_cluster`.
    Pg,
    /// The topic `control` between two nodes, one of which hands over to the other.
    Handover,
}

/// Which end of the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Part {
    /// Calls.
    Caller,
    /// Answers.
    Echo,
    /// Hands on to others, and answers when the first of them has.
    Relay,
}

impl fmt::Display for Contestant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tumen => "tumen",
            Self::Raw => "raw",
            Self::RactorCluster => "ractor-cluster",
            Self::Kv => "kv",
            Self::Names => "names",
            Self::Config => "config",
            Self::Topics => "topics",
            Self::Pg => "pg",
            Self::Handover => "handover",
        })
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Caller => "caller",
            Self::Echo => "echo",
            Self::Relay => "relay",
        })
    }
}

/// What a caller is told to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::bench) enum Order {
    /// Wait until calls arrive.
    Connect,
    /// Keep so many calls under way for so long, and tell how long they took if that is asked.
    Load { outstanding: usize, millis: u64, timed: bool },
    /// Keep so many calls under way until so many were answered. For kv only.
    Many { outstanding: usize, count: u64 },
    /// Watch the control lane, alone and while so many bytes are copied. For tumen only.
    Control { copied: u64 },
    /// Call a frozen node for so long. For tumen only.
    Flood { millis: u64 },
    /// Register so many names, numbered from here, so many at once. For names only, as all below.
    Register { from: u64, count: u64, outstanding: usize },
    /// Wait until so many names are known here.
    Await { names: usize },
    /// Wait until so many nodes serve and vote, and every partition has all the copies that it should have.
    Whole { nodes: usize },
    /// Look so many times for one of so many names.
    LookUp { names: u64, times: u64 },
    /// Start so many children, numbered from here, so many at once.
    Start { from: u64, count: u64, outstanding: usize },
    /// Tell on which node the first of these children runs, and that its directory's primary is on.
    Where { child: u64 },
    /// Kill the process, and wait until so many children, numbered from here, that ran on that node answer elsewhere.
    Kill { process: u32, from: u64, count: u64 },
    /// Move one child, and ask it all the while: the longest wait for an answer.
    Move { child: u64 },
    /// Set a value of the cluster's own configuration so often, one after the other. For config only, as all below.
    Set { count: u64 },
    /// The same, so many at once.
    SetMany { count: u64, outstanding: usize },
    /// Read one of so many keys so often: as a value of its type, or as it is kept.
    ReadConfig { keys: u64, times: u64, parsed: bool },
    /// Say so many messages. For topics and pg only, as all below.
    Publish { count: u64 },
    /// Wait until each subscriber here has heard, or lost, so many messages since the start: how many were lost.
    AwaitHeard { count: u64 },
    /// Ask all members so often, one time after the other.
    AskAll { count: u64 },
    /// Say so many messages, one after the other, and wait each time until all nodes say that it was handed on. For topics only.
    Confirm { count: u64 },
    /// Found a cluster of so many partitions, and put so much into each of them. For handover only, as all below.
    Fill { partitions: u32, partition_bytes: u64 },
    /// Join a cluster of so many partitions.
    Join { partitions: u32 },
    /// Watch the topic `control` from when another node joins until it has all copies, and half of the primaries.
    WatchHandover,
    /// Watch it while nothing else goes on.
    WatchAlone,
}

/// Runs one child process: it says where it is, then does what it is told until its input ends.
///
/// # Errors
/// When it cannot begin. What goes wrong later is told to whoever gave the order.
pub(crate) async fn run(contestant: Contestant, part: Part, to: Option<String>) -> Result<(), String> {
    let orders = orders().map_err(|why| why.to_string())?;
    match (contestant, part, to) {
        (Contestant::Tumen, Part::Caller, None) => ours::call(orders).await,
        (Contestant::Tumen, Part::Echo, Some(to)) => ours::echo(&to, orders).await,
        (Contestant::Kv, Part::Caller, Some(to)) => write::client::call(&to, orders).await,
        (Contestant::Names, Part::Caller | Part::Echo, to) => names::client::obey(to, orders).await,
        (Contestant::Config, Part::Caller | Part::Echo, to) => config::client::obey(to, orders).await,
        (Contestant::Topics, Part::Caller | Part::Echo, to) => pubsub::ours::obey(to, orders).await,
        (Contestant::Pg, Part::Echo, None) => pubsub::pg::listen(orders).await,
        (Contestant::Pg, Part::Caller, Some(to)) => pubsub::pg::publish(&to, orders).await,
        (Contestant::Handover, Part::Caller, None) => handover::control::watch(orders).await,
        (Contestant::Handover, Part::Echo, Some(to)) => handover::control::echo(&to, orders).await,
        (Contestant::Raw, Part::Echo, None) => raw::echo(orders).await,
        (Contestant::Raw, Part::Relay, Some(to)) => raw::relay(&to, orders).await,
        (Contestant::Raw, Part::Caller, Some(to)) => {
            load::obey(&raw::Client::connect(&to).await?, orders).await
        }
        (Contestant::RactorCluster, Part::Echo, None) => plain::echo(orders).await,
        (Contestant::RactorCluster, Part::Caller, Some(to)) => {
            load::obey(&plain::Client::connect(&to).await?, orders).await
        }
        (contestant, part, to) => Err(format!("the {part} of {contestant} is not told {to:?}")),
    }
}

/// The orders as they come. Their end is this process's end, whatever it is at: its parent is gone.
fn orders() -> io::Result<mpsc::UnboundedReceiver<Order>> {
    let (give, orders) = mpsc::unbounded_channel();
    let read = move || {
        for line in io::stdin().lock().lines() {
            let Ok(order) = line.map_err(drop).and_then(|line| serde_json::from_str(&line).map_err(drop))
            else {
                break;
            };
            // Whoever carries orders out has ended with an error, and the process is about to end.
            let _ = give.send(order);
        }
        std::process::exit(0);
    };
    std::thread::Builder::new().name("stdin".into()).spawn(read)?;
    Ok(orders)
}

/// Says one line: what came of an order.
pub(in crate::bench) fn answer<T: Serialize>(outcome: &Result<T, String>) -> Result<(), String> {
    let line = serde_json::to_string(outcome).map_err(|why| why.to_string())?;
    let mut out = io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).map_err(|why| why.to_string())
}

/// Says where this process is found, and does nothing else until its input ends.
pub(super) async fn rest(address: &str, mut orders: mpsc::UnboundedReceiver<Order>) -> Result<(), String> {
    answer(&Ok(address))?;
    while let Some(order) = orders.recv().await {
        answer::<()>(&Err(format!("{order:?} is not for this process")))?;
    }
    Ok(())
}
