//! Two nodes in two processes: a worker has its last word before its partition moves, and copies are compared.
//!
//! The second process runs this very test binary, which becomes a node where the environment says so.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tumen::equality::Verdict;
use tumen::prelude::*;

/// Set for a process that is to be a node: where to join.
const JOIN: &str = "FACADE_HANDOVER_JOIN";
/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(40);

/// What happened in a partition.
#[derive(Default, Serialize, Deserialize)]
struct Diary(Vec<String>);

#[derive(Serialize, Deserialize)]
struct Write(String);

impl Message for Write {
    type Reply = usize;
}

#[derive(Serialize, Deserialize)]
struct Read;

impl Message for Read {
    type Reply = Vec<String>;
    const IDEMPOTENT: bool = true;
}

impl Worker for Diary {
    const KIND: &'static str = "diary";
}

impl Replicated for Diary {
    type Change = String;

    fn apply(&mut self, line: String) {
        self.0.push(line);
    }

    async fn on_handover(&mut self, cx: &mut Context<Self>) {
        let line = format!("{} handed over {} in epoch {}", cx.node(), cx.partition_name(), cx.epoch());
        cx.commit(self, line).unwrap();
    }
}

impl Handle<Write> for Diary {
    async fn handle(&mut self, Write(line): Write, cx: &mut Context<Self>) -> Result<usize> {
        cx.commit(self, line)?;
        Ok(self.0.len())
    }
}

impl Handle<Read> for Diary {
    async fn handle(&mut self, _: Read, _: &mut Context<Self>) -> Result<Vec<String>> {
        Ok(self.0.clone())
    }
}

async fn start(name: &str, join: Option<String>, min_nodes: u32) -> Node {
    let builder = Node::builder("diaries", name).listen("127.0.0.1:0").partitions(8).replication(2);
    builder
        .mode(Mode::Sync)
        .min_nodes(min_nodes)
        .join(join)
        .replicated::<Diary>(|w| w.handles::<Write>().handles::<Read>())
        .start()
        .await
        .unwrap()
}

#[test]
fn a_process_becomes_a_node() {
    let Ok(join) = std::env::var(JOIN) else { return };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async { start("node-2", Some(join), 1).await.run_until_signal().await }).unwrap();
}

/// Another process. Nothing of it survives the test.
struct Process(Child);

impl Process {
    fn start(join: &str) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "a_process_becomes_a_node"]).stdout(Stdio::null()).stderr(Stdio::inherit());
        Self(command.env(JOIN, join).spawn().unwrap())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_has_its_last_word_and_copies_are_compared() {
    let node = start("node-1", None, 2).await;
    let _other = Process::start(node.address());
    tokio::time::timeout(PATIENCE, node.ready()).await.unwrap().unwrap();
    let led_by = |name: &str| -> Vec<tumen::Partition> {
        let leads = |p: &tumen::Partition| p.primary_node.as_ref().is_some_and(|n| n.as_str() == name);
        node.list_partitions().into_iter().filter(leads).collect()
    };
    for partition in node.list_partitions() {
        assert_eq!(node.call_partition(partition.id, Write("begun".into())).await.unwrap(), 1);
    }
    // All copies count before primaries move to them.
    let begun = Instant::now();
    while node.not_ready().is_some() || led_by("node-2").is_empty() {
        assert!(begun.elapsed() < PATIENCE, "{:?}", node.not_ready());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }

    let found = tokio::time::timeout(PATIENCE, node.full_sync_everywhere()).await.unwrap().unwrap();
    assert!(found.is_equal(), "{found:?}");
    assert_eq!(found.report.partitions.len(), 8);
    let own = node.full_sync().await.unwrap();
    assert_eq!(own.partitions.len(), led_by("node-1").len(), "what this node leads");
    let moving = led_by("node-2");
    let pushed = node.push_partition(moving[0].id).await.unwrap();
    let copies: Vec<_> =
        pushed.report.partitions[0].copies.iter().map(|c| (c.node.as_str(), c.verdict)).collect();
    assert_eq!(copies, [("node-1", Verdict::Equal)]);
    assert!(matches!(node.push_partition(tumen::PartitionId::user(8)).await, Err(Error::NotFound(_))));
    assert_eq!(node.moves().await, (vec![], vec![]));

    node.drain_node("node-2".parse().unwrap(), false).await.unwrap();
    for before in moving {
        let lines = node.call_partition(before.id, Read).await.unwrap();
        let said = format!("node-2 handed over {} in epoch {}", before.name, before.epoch);
        assert_eq!(lines, ["begun".to_owned(), said]);
    }
    node.stop().await;
}
