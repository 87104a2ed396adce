//! A worker of your own: counters by name, each with one writer in the whole cluster.
//!
//! ```sh
//! cargo run --example counter -- node-1 127.0.0.1:7101
//! cargo run --example counter -- node-2 127.0.0.1:7102 127.0.0.1:7101
//! ```
#![expect(clippy::print_stdout, reason = "an example speaks to whoever runs it")]

use std::collections::BTreeMap;
use std::time::Duration;

use tumen::prelude::*;

/// The counters of one partition.
#[derive(Default)]
struct Counters(BTreeMap<String, u64>);

#[derive(Serialize, Deserialize)]
struct Add {
    counter: String,
    n: u64,
}

impl Message for Add {
    type Reply = u64;
}

impl Worker for Counters {
    const KIND: &'static str = "counters";
}

impl Handle<Add> for Counters {
    async fn handle(&mut self, add: Add, _: &mut Context<Self>) -> Result<u64> {
        let total = self.0.entry(add.counter).or_default();
        *total = total.checked_add(add.n).ok_or_else(|| Error::rejected("the counter is full"))?;
        Ok(*total)
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let name = args.next().unwrap_or_else(|| "node-1".into());
    let listen = args.next().unwrap_or_else(|| "127.0.0.1:7101".into());
    let node = Node::builder("counters", name)
        .listen(listen)
        .join(args)
        .worker::<Counters>(|w| w.handles::<Add>())
        .start()
        .await?;
    node.ready().await?;

    let counting = async {
        let mut ticks = tokio::time::interval(Duration::from_secs(1));
        loop {
            ticks.tick().await;
            // Whichever node serves the key: the call finds it, and every node counts on.
            match node.call("visits", Add { counter: "visits".into(), n: 1 }).await {
                Ok(total) => println!("{} counted {total}", node.name()),
                Err(error) => println!("{} did not count: {error}", node.name()),
            }
        }
    };
    tokio::select! {
        stopped = node.run_until_signal() => stopped,
        () = counting => Ok(()),
    }
}
