//! Three terminals, one cluster: who holds which partition, and where keys go.
//!
//! ```sh
//! NODE_ID=node-1 HTTP_ADDR=:8080 cargo run --example partitions_demo
//! NODE_ID=node-2 HTTP_ADDR=:8081 KNOWN_NODES=localhost:8080 cargo run --example partitions_demo
//! NODE_ID=node-3 HTTP_ADDR=:8082 KNOWN_NODES=localhost:8080 cargo run --example partitions_demo
//! ```
//!
//! `examples/partitions_demo.sh` is the three in one. The partitions are created once three nodes are there. Then kill one of them and see what moves, start it again and
//! see it come back, or ask any of them: `curl localhost:8081/partitions/key?key=user:1001`.
#![expect(clippy::print_stdout, reason = "an example speaks to whoever runs it")]

use std::time::Duration;

use tumen::prelude::*;
use tumen::{Create, Created, NodeName, Partition};

/// How long to wait before the partitions are asked for again.
const ASK_AGAIN: Duration = Duration::from_secs(1);

#[tokio::main]
async fn main() -> Result<()> {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_env_filter("warn,openraft=off,ractor_cluster=error")
        .init();
    let node = Node::builder("partitions-demo", "node-1")
        .partitions(16)
        .replication(3)
        .min_nodes(3)
        .create(Create::Manual)
        .kv()
        .env() // NODE_ID, HTTP_ADDR and KNOWN_NODES overrule what is said above
        .start()
        .await?;
    tokio::select! {
        stopped = node.run_until_signal() => stopped,
        shown = show(&node) => shown,
    }
}

async fn show(node: &Node) -> Result<()> {
    create(node).await?;
    node.ready().await?;
    for key in ["user:1001", "user:1002", "order:5001", "product:abc123"] {
        let Partition { name, primary_node, replica_nodes, .. } = node.partition_for_key(key)?;
        println!(
            "{key:<16} {name:<13} primary {} replicas {}",
            or_nobody(primary_node),
            list(&replica_nodes)
        );
    }
    let held = node.partitions_for_node(node.name().as_str())?;
    let primaries = held.iter().filter(|partition| partition.primary_node.as_ref() == Some(node.name()));
    println!("{} is primary of {} and replica of the rest of {}", node.name(), primaries.count(), held.len());

    let mut plans = node.subscribe::<AssignmentsUpdated>();
    while let Some(AssignmentsUpdated { snapshot, .. }) = plans.next().await {
        let stats = node.partition_stats();
        let counts: Vec<_> =
            stats.partitions_per_node.iter().map(|(name, count)| format!("{name}: {count}")).collect();
        println!("version {} by {}, primaries {}", snapshot.version, snapshot.leader, counts.join(", "));
    }
    Ok(())
}

/// Creates the partitions once enough nodes are there. All three nodes ask; it is done once.
async fn create(node: &Node) -> Result<()> {
    loop {
        match node.create_partitions().await {
            Ok(Created { version, changed }) => {
                let by = if changed { "by this node" } else { "already" };
                println!("the partitions are there, created {by}: version {version}");
                return Ok(());
            }
            Err(error) if error.is_safe_to_retry() => println!("waiting: {error}"),
            Err(error) => return Err(error),
        }
        tokio::time::sleep(ASK_AGAIN).await;
    }
}

fn or_nobody(name: Option<NodeName>) -> String {
    name.map_or_else(|| "nobody".into(), |name| name.to_string())
}

fn list(names: &[NodeName]) -> String {
    names.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
