//! One node of `bench config`, which does as it is told.

use std::hint::black_box;
use std::path::PathBuf;
use std::time::Instant;

use tokio::sync::mpsc;

use super::Times;
use crate::bench::calls::child::{Order, answer};
use crate::bench::calls::load::each;
use crate::node::Node;

/// How often reads are measured.
const READ_ROUNDS: usize = 7;

/// Where the node of this process keeps what survives a restart.
pub(in crate::bench) fn disk_of(process: u32) -> PathBuf {
    std::env::temp_dir().join(format!("tumen-bench-config-{process}"))
}

/// Founds a cluster, or joins the node at `to`, and obeys.
pub(in crate::bench) async fn obey(
    to: Option<String>,
    mut orders: mpsc::UnboundedReceiver<Order>,
) -> Result<(), String> {
    let name = to.as_ref().map_or_else(|| "node-1".to_owned(), |_| format!("node-{}", std::process::id()));
    let builder = Node::builder("bench", name).listen("127.0.0.1:0").data_dir(disk_of(std::process::id()));
    let builder = match to {
        Some(to) => builder.join([to]),
        None => builder,
    };
    let node = builder.start().await.map_err(|why| why.to_string())?;
    answer(&Ok(node.address()))?;
    while let Some(order) = orders.recv().await {
        match order {
            Order::Connect => answer(&node.ready().await.map_err(|why| why.to_string()))?,
            Order::Set { count } => answer(&set(&node, count).await)?,
            Order::SetMany { count, outstanding } => {
                let set = |node: Node, number| async move { set_one(&node, number).await };
                answer(&each(&node, 0..count, outstanding, set).await)?;
            }
            Order::ReadConfig { keys, times, parsed } => answer(&read(&node, keys, times, parsed).await)?,
            other => answer::<()>(&Err(format!("{other:?} is not for this process")))?,
        }
    }
    Ok(())
}

async fn set_one(node: &Node, number: u64) -> Result<(), String> {
    node.set_cluster_wide("bench/set", number).await.map(drop).map_err(|why| why.to_string())
}

/// Sets a value so often, one after the other.
async fn set(node: &Node, count: u64) -> Result<Times, String> {
    let mut times = Vec::new();
    for number in 0..count {
        let begun = Instant::now();
        set_one(node, number).await?;
        times.push(begun.elapsed().as_secs_f64() * 1e6);
    }
    Ok(Times::of(times))
}

/// How many nanoseconds it takes to read one of so many keys: the middle one of some rounds.
async fn read(node: &Node, keys: u64, times: u64, parsed: bool) -> Result<f64, String> {
    let all: Vec<String> = (0..keys).map(|number| format!("bench/switch/{number:04}")).collect();
    for (number, key) in all.iter().enumerate() {
        if node.config_value(key).is_none() {
            node.set_cluster_wide(key, number % 2 == 0).await.map_err(|why| why.to_string())?;
        }
    }
    let mut rounds = Vec::new();
    for _ in 0..READ_ROUNDS {
        rounds.push(read_round(node, &all, times, parsed)?);
    }
    rounds.sort_by(f64::total_cmp);
    Ok(rounds[READ_ROUNDS / 2])
}

fn read_round(node: &Node, all: &[String], times: u64, parsed: bool) -> Result<f64, String> {
    let (begun, mut at, mut found) = (Instant::now(), 0, 0_u64);
    for _ in 0..times {
        // A stride that visits all of them in no order that a cache likes.
        at = (at + 79) % all.len();
        let key = black_box(&*all[at]);
        found += if parsed {
            u64::from(matches!(node.get_cluster_wide::<bool>(key), Ok(Some(_))))
        } else {
            u64::from(black_box(node.config_value(key)).is_some())
        };
    }
    let took = begun.elapsed().as_nanos() as f64 / times as f64;
    if found == times { Ok(took) } else { Err(format!("{} of {times} reads found nothing", times - found)) }
}
