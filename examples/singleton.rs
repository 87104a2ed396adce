//! A singleton of your own: one machine that gives out tickets, in the whole cluster. No ticket is ever given twice.
//!
//! ```sh
//! cargo run --example singleton -- node-1 127.0.0.1:7101
//! cargo run --example singleton -- node-2 127.0.0.1:7102 127.0.0.1:7101
//! cargo run --example singleton -- node-3 127.0.0.1:7103 127.0.0.1:7101
//! ```
//!
//! Stop the node that has it with Ctrl-C, and the tickets go on elsewhere, where they were. Kill it with `kill -9`, and they
//! begin at 1 again, but under a larger fence.
#![expect(clippy::print_stdout, reason = "an example speaks to whoever runs it")]

use std::time::Duration;

use bytes::Bytes;
use tumen::prelude::*;

/// The machine. What it remembers is its own: nothing of it is replicated.
struct Tickets {
    given: u64,
}

#[derive(Serialize, Deserialize)]
struct Draw;

/// A later one is larger: by its fence, or by its number under the same fence.
#[derive(Debug, Serialize, Deserialize)]
struct Ticket {
    fence: u64,
    number: u64,
    from: String,
}

impl Message for Draw {
    type Reply = Ticket;
}

impl Child for Tickets {
    const KIND: &'static str = "tickets";
    type Args = ();

    async fn start((): (), cx: &mut ChildContext<Self>) -> Result<Self> {
        let handed = cx.handed().and_then(|bytes| bytes.as_ref().try_into().ok());
        Ok(Self { given: handed.map_or(0, u64::from_le_bytes) })
    }

    async fn on_handover(&mut self, _: &mut ChildContext<Self>) -> Option<Bytes> {
        Some(Bytes::copy_from_slice(&self.given.to_le_bytes()))
    }
}

impl Receive<Draw> for Tickets {
    async fn receive(&mut self, Draw: Draw, cx: &mut ChildContext<Self>) -> Result<Ticket> {
        self.given += 1;
        Ok(Ticket { fence: cx.fence().0, number: self.given, from: cx.node().to_string() })
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let name = args.next().unwrap_or_else(|| "node-1".into());
    let listen = args.next().unwrap_or_else(|| "127.0.0.1:7101".into());
    let node = Node::builder("tickets", name)
        .listen(listen)
        .join(args)
        .child::<Tickets>(|c| c.receives::<Draw>())
        .singleton::<Tickets>("tickets", ())
        .env()
        .start()
        .await?;
    node.ready().await?;

    let tickets = node.singleton::<Tickets>("tickets")?;
    let drawing = async {
        let mut ticks = tokio::time::interval(Duration::from_secs(1));
        loop {
            ticks.tick().await;
            // Wherever the machine is, and while it moves.
            match tickets.call(&node, Draw).await {
                Ok(Ticket { fence, number, from }) => {
                    println!("ticket {fence}.{number}, given out on {from}");
                }
                Err(error) => println!("no ticket: {error}"),
            }
        }
    };
    tokio::select! {
        stopped = node.run_until_signal() => stopped,
        () = drawing => Ok(()),
    }
}
