//! The process that writes: a fourth node of the cluster, which has no copies, so that every call leaves it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::bench::calls::child::{Order, answer};
use crate::bench::calls::load::{self, Caller};
use crate::kv::{Put, Value};
use crate::node::Node;

/// How many keys are written, so that all partitions are, and memory has a bound.
pub(super) const KEYS: usize = 16_384;
/// How long a value is, in bytes.
pub(super) const VALUE_LEN: usize = 64;

/// The calling node, and what it writes.
#[derive(Clone)]
struct Writer {
    node: Node,
    keys: Arc<[Bytes]>,
}

/// Joins the node at `to`, and writes as it is told.
pub(in crate::bench) async fn call(
    to: &str,
    mut orders: mpsc::UnboundedReceiver<Order>,
) -> Result<(), String> {
    let node = Node::builder("bench", "client").listen("127.0.0.1:0").join([to]).weight(0).kv();
    let node = node.start().await.map_err(|why| why.to_string())?;
    let keys = (0..KEYS).map(|number| Bytes::from(format!("user:{number:05}"))).collect();
    let writer = Writer { node, keys };
    answer(&Ok(writer.node.address()))?;
    while let Some(order) = orders.recv().await {
        match order {
            Order::Connect => answer(&load::connect(&writer).await)?,
            Order::Load { outstanding, millis, timed } => {
                let time = Duration::from_millis(millis);
                answer(&load::load(&writer, outstanding, time, timed).await)?;
            }
            Order::Many { outstanding, count } => answer(&many(&writer, outstanding, count).await)?,
            other => answer::<()>(&Err(format!("{other:?} is not for this process")))?,
        }
    }
    Ok(())
}

impl Caller for Writer {
    async fn call(&self, number: u64) -> Result<(), String> {
        let key = &self.keys[number as usize % self.keys.len()];
        let mut bytes = [7; VALUE_LEN];
        bytes[..8].copy_from_slice(&number.to_le_bytes());
        let value = Value { bytes: Bytes::copy_from_slice(&bytes), content_type: String::new() };
        let put = Put { key: key.clone(), value };
        self.node.call(key, put).await.map(drop).map_err(|why| why.to_string())
    }
}

/// Writes `count` times: how many seconds that took.
async fn many(writer: &Writer, outstanding: usize, count: u64) -> Result<f64, String> {
    let write = |writer: Writer, number| async move { writer.call(number).await };
    load::each(writer, 0..count, outstanding, write).await
}
