//! tumen's two nodes: the one that calls founds the cluster and serves nothing, the other serves every partition.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tumen_actors::partitions::router::CallOptions;
use tumen_actors::transport::{BulkStream, Channel, Service, Session};

use super::child::{Order, answer, rest};
use super::load::{self, Caller};
use super::{control, flood};
use crate::error::Result as Outcome;
use crate::node::Node;
use crate::worker::{Context, Handle, Message, Worker};

/// How many keys are called, so that all partitions are.
const KEYS: usize = 4096;
/// The name of the node that answers.
pub(super) const ECHO: &str = "echo";

/// 64 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Echo(pub(super) [u64; 8]);

impl Message for Echo {
    type Reply = Self;
}

/// As many bytes as one likes, of which only the number comes back.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Swallow(pub(super) Bytes);

impl Message for Swallow {
    type Reply = u64;
}

#[derive(Default)]
struct Echoes;

impl Worker for Echoes {
    const KIND: &'static str = "echoes";
}

impl Handle<Echo> for Echoes {
    async fn handle(&mut self, echo: Echo, _: &mut Context<Self>) -> Outcome<Echo> {
        Ok(echo)
    }
}

impl Handle<Swallow> for Echoes {
    async fn handle(&mut self, Swallow(bytes): Swallow, _: &mut Context<Self>) -> Outcome<u64> {
        Ok(bytes.len() as u64)
    }
}

/// The node that answers: calls by its workers, casts on the control lane, and copies.
pub(super) async fn echo(to: &str, orders: mpsc::UnboundedReceiver<Order>) -> Result<(), String> {
    let node = Node::builder("bench", ECHO).join([to]);
    let node = start(node).await?;
    let transport = node.runtime().transport().clone();
    let pong = move |from: &Session, body: Bytes| {
        // The caller notices that a pong is missing.
        let _ = transport.cast(&from.peer.node, Channel::Application, &body);
    };
    node.runtime().transport().on_control(Channel::Application, Arc::new(pong));
    let copied = |mut stream: BulkStream| {
        tokio::spawn(async move {
            let mut len = 0_u64;
            while let Some(Ok(chunk)) = stream.next().await {
                len += chunk.len() as u64;
            }
            stream.answer(Bytes::from(len.to_string()));
        });
    };
    node.runtime().transport().serve_bulk(Service::Application, Arc::new(copied));
    rest(node.address(), orders).await
}

/// The node that calls.
pub(super) async fn call(mut orders: mpsc::UnboundedReceiver<Order>) -> Result<(), String> {
    let node = start(Node::builder("bench", "caller").weight(0)).await?;
    let keys = (0..KEYS).map(|number| format!("user:{number:04}")).collect();
    let caller = Nodes { node, keys };
    answer(&Ok(caller.node.address()))?;
    while let Some(order) = orders.recv().await {
        match order {
            Order::Connect => answer(&load::connect(&caller).await)?,
            Order::Load { outstanding, millis, timed } => {
                answer(&load::load(&caller, outstanding, Duration::from_millis(millis), timed).await)?;
            }
            Order::Control { copied } => answer(&control::watch(&caller.node, copied).await)?,
            Order::Flood { millis } => {
                answer(&flood::flood(&caller, Duration::from_millis(millis)).await)?;
            }
            other => answer::<()>(&Err(format!("{other:?} is not for this process")))?,
        }
    }
    Ok(())
}

async fn start(builder: crate::node::Builder) -> Result<Node, String> {
    let builder = builder.listen("127.0.0.1:0").partitions(64).replication(1).min_nodes(2);
    let builder = builder.worker::<Echoes>(|w| w.handles::<Echo>().handles::<Swallow>());
    builder.start().await.map_err(|why| why.to_string())
}

/// The calling node, and what it calls.
#[derive(Clone)]
pub(super) struct Nodes {
    pub(super) node: Node,
    keys: Arc<[String]>,
}

impl Nodes {
    /// One key of all.
    pub(super) fn key(&self, number: u64) -> &str {
        &self.keys[number as usize % self.keys.len()]
    }

    /// Calls with a deadline of its own, and never twice.
    pub(super) async fn call_within<M: Message>(
        &self,
        number: u64,
        message: M,
        within: Duration,
    ) -> Outcome<M::Reply> {
        let options = CallOptions { within, ..CallOptions::default() };
        self.node.call_with(self.key(number), message, options).await
    }
}

impl Caller for Nodes {
    async fn call(&self, number: u64) -> Result<(), String> {
        let sent = Echo([number; 8]);
        match self.node.call(self.key(number), sent).await {
            Ok(echo) if echo == sent => Ok(()),
            Ok(_) => Err("another reply".into()),
            Err(why) => Err(why.to_string()),
        }
    }
}
