//! A key-value store: each key has one primary in the cluster, which writes, and copies that take over with all of it.
//!
//! ```sh
//! cargo run --example kv_store -- node-1 127.0.0.1:7101
//! cargo run --example kv_store -- node-2 127.0.0.1:7102 127.0.0.1:7101
//! cargo run --example kv_store -- node-3 127.0.0.1:7103 127.0.0.1:7101
//! ```
//!
//! Once all three say that they are ready, type at any of them: `put apple green`, `get apple`, `where apple`. Then kill the
//! node that the apple is at, as rudely as you like, and ask another one.
#![expect(clippy::print_stdout, reason = "an example speaks to whoever runs it")]

use std::collections::BTreeMap;

use tokio::sync::mpsc;
use tumen::prelude::*;

/// The keys of one partition, on each of its copies.
#[derive(Default, Serialize, Deserialize)]
struct Store(BTreeMap<String, String>);

#[derive(Serialize, Deserialize)]
struct Put {
    key: String,
    value: String,
}

#[derive(Serialize, Deserialize)]
struct Get {
    key: String,
}

impl Message for Put {
    type Reply = Option<String>; // what was there before
}

impl Message for Get {
    type Reply = Option<String>;
    const IDEMPOTENT: bool = true;
}

impl Worker for Store {
    const KIND: &'static str = "store";
}

impl Replicated for Store {
    type Change = Put;

    fn apply(&mut self, Put { key, value }: Put) {
        self.0.insert(key, value); // on every copy, in the same order
    }
}

impl Handle<Put> for Store {
    async fn handle(&mut self, put: Put, cx: &mut Context<Self>) -> Result<Option<String>> {
        let before = self.0.get(&put.key).cloned();
        cx.commit(self, put)?; // the reply leaves once a majority of the copies has it
        Ok(before)
    }
}

impl Query<Get> for Store {
    fn query(&self, Get { key }: Get) -> Result<Option<String>> {
        Ok(self.0.get(&key).cloned())
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let name = args.next().unwrap_or_else(|| "node-1".into());
    let listen = args.next().unwrap_or_else(|| "127.0.0.1:7101".into());
    let node = Node::builder("kv-store", name)
        .listen(listen)
        .join(args)
        .partitions(16)
        .replication(3)
        .min_nodes(3)
        .mode(Mode::Sync)
        .replicated::<Store>(|w| w.handles::<Put>().queries::<Get>())
        .env() // TUMEN_MODE=strong TUMEN_DATA_DIR=/tmp/node-1, and every other knob
        .start()
        .await?;
    tokio::select! {
        stopped = node.run_until_signal() => return stopped,
        told = serve(&node) => told?,
    }
    node.stop().await; // no more is typed: its partitions move in good order
    Ok(())
}

/// Does what is typed, line by line, until no more is.
async fn serve(node: &Node) -> Result<()> {
    node.ready().await?;
    println!("{} is ready", node.name());
    let mut lines = typed();
    while let Some(line) = lines.recv().await {
        match answer(node, &line).await {
            Ok(answer) => println!("{answer}"),
            Err(error) => println!("error: {error}"),
        }
    }
    Ok(())
}

/// Whichever node is asked: the call finds the key's primary, and after a failover the next one.
async fn answer(node: &Node, line: &str) -> Result<String> {
    let words: Vec<&str> = line.splitn(3, ' ').collect();
    Ok(match words[..] {
        ["put", key, value] => {
            let before = node.call(key, Put { key: key.into(), value: value.into() }).await?;
            format!("stored {key}, which was {}", before.as_deref().unwrap_or("nothing"))
        }
        ["get", key] => {
            let value = node.call(key, Get { key: key.into() }).await?;
            format!("{key} is {}", value.as_deref().unwrap_or("nothing"))
        }
        ["where", key] => {
            let partition = node.partition_for_key(key)?;
            let primary = partition.primary_node.map_or_else(|| "nobody".into(), |node| node.to_string());
            format!("{key} is in {} at {primary}", partition.name)
        }
        _ => "put KEY VALUE, get KEY or where KEY".into(),
    })
}

/// The lines of the standard input, which only a thread of its own can wait for.
fn typed() -> mpsc::Receiver<String> {
    let (to, lines) = mpsc::channel(1);
    std::thread::spawn(move || {
        let lines = std::io::stdin().lines().map_while(|line| line.ok());
        lines.map(|line| to.blocking_send(line)).all(|sent| sent.is_ok())
    });
    lines
}
