//! Three nodes in three processes, told by the environment as in the three-terminal demo: one cluster, one map, and
//! what becomes of it when nodes are killed, come back, and stop.
//!
//! The processes run this very test binary, which becomes a node where the environment says so.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/http.rs"]
mod http;

use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Instant;

use serde_json::{Value, json};
use tumen::prelude::*;

use crate::http::{Answer, PATIENCE, ask, listen, next_event};

/// Set for a process that is to be a node.
const BE_A_NODE: &str = "FACADE_CLUSTER_NODE";

const PARTITIONS: usize = 16;

#[test]
fn a_process_becomes_a_node() {
    if std::env::var_os(BE_A_NODE).is_none() {
        return;
    }
    let filter = tracing_subscriber::EnvFilter::from_default_env();
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_env_filter(filter).init();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let lived = runtime.block_on(async {
        let partitions = u32::try_from(PARTITIONS).unwrap();
        let node = Node::builder("demo", "nameless")
            .partitions(partitions)
            .replication(2)
            .min_nodes(3)
            .kv()
            .env()
            .start();
        node.await?.run_until_signal().await
    });
    lived.unwrap();
}

/// A port that nobody listens at, and that the system gives to nobody who asks for any: a node that comes back needs it.
fn free() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = 20_000 + u16::try_from(std::process::id() % 1_000).unwrap() * 10;
    loop {
        let port = first + NEXT.fetch_add(1, Ordering::Relaxed);
        if let Ok(listener) = TcpListener::bind(("127.0.0.1", port)) {
            return listener.local_addr().unwrap();
        }
    }
}

/// Where one node is, and its process while it runs. Nothing survives the test.
struct Process {
    name: &'static str,
    http: SocketAddr,
    listen: SocketAddr,
    child: Option<Child>,
}

impl Process {
    fn new(name: &'static str) -> Self {
        Self { name, http: free(), listen: free(), child: None }
    }

    fn start(&mut self, known: &str) {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "a_process_becomes_a_node"]).stdout(Stdio::null()).stderr(Stdio::inherit());
        command.env(BE_A_NODE, "1").env("NODE_ID", self.name).env("KNOWN_NODES", known);
        command.env("HTTP_ADDR", self.http.to_string()).env("TUMEN_LISTEN", self.listen.to_string());
        // On a busy machine whoever is well may be silent for longer than a short lease.
        command.env("TUMEN_LEASE", "5s");
        self.child = Some(command.spawn().unwrap());
    }

    fn signal(&self, signal: &str) {
        let id = self.child.as_ref().unwrap().id().to_string();
        assert!(Command::new("kill").args([signal, &id]).status().unwrap().success());
    }

    fn wait(&mut self) -> std::process::ExitStatus {
        self.child.take().unwrap().wait().unwrap()
    }

    fn ask(&self, method: &str, path: &str, body: &[u8]) -> Answer {
        ask(self.http, method, path, "", body)
    }

    fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, b"")
    }

    /// Waits until an answer is as wanted.
    fn wait_for(&self, path: &str, wanted: impl Fn(&Answer) -> bool) -> Answer {
        let since = Instant::now();
        loop {
            // It may not listen yet.
            if std::net::TcpStream::connect(self.http).is_ok() {
                let answer = self.get(path);
                if wanted(&answer) {
                    return answer;
                }
                assert!(
                    since.elapsed() < PATIENCE,
                    "{} {path}: {} {}",
                    self.name,
                    answer.status,
                    answer.text()
                );
            }
            assert!(since.elapsed() < PATIENCE, "{} does not listen", self.name);
            std::thread::yield_now();
        }
    }

    fn wait_until_ready(&self) {
        self.wait_for("/ready", |answer| answer.status == 200);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

fn primaries(stats: &Answer) -> Vec<u64> {
    stats.json()["partitions_per_node"].as_object().unwrap().values().map(|n| n.as_u64().unwrap()).collect()
}

#[test]
fn three_processes_are_one_cluster() {
    if std::env::var_os(BE_A_NODE).is_some() {
        return;
    }
    let [mut one, mut two, mut three] = ["node-1", "node-2", "node-3"].map(Process::new);
    let known = one.http.to_string();
    // Those that were told of seeds wait for them.
    three.start(&known);
    two.start(&known);
    one.start("");
    [&one, &two, &three].iter().for_each(|node| node.wait_until_ready());

    // All answer alike.
    let map = one.get("/partitions");
    assert_eq!(map.json()["count"], json!(PARTITIONS));
    for node in [&two, &three] {
        let other = node.get("/partitions");
        assert_eq!((other.json(), other.header("etag")), (map.json(), map.header("etag")));
    }
    assert!(primaries(&one.get("/partitions/stats")).iter().all(|count| (5..=6).contains(count)));
    for n in 0..60 {
        let path = format!("/partitions/key?key=user:{n}");
        let answers = [&one, &two, &three].map(|node| node.get(&path).json());
        assert!(answers[0] == answers[1] && answers[1] == answers[2], "{answers:?}");
        let written =
            [&one, &two, &three][n % 3].ask("PUT", &format!("/kv/user:{n}"), n.to_string().as_bytes());
        assert_eq!(written.status, 201, "{}", written.text());
        assert_eq!([&two, &three, &one][n % 3].get(&format!("/kv/user:{n}")).text(), n.to_string());
    }

    // A key's partition is the same by whomever it is computed: by each node, and by whoever links the library.
    for n in 0..10_000 {
        let key = format!("any:{n}");
        let computed = tumen::Partitioner::Hash.partition_of(key.as_bytes(), PARTITIONS as u32).unwrap();
        let told = [&one, &two, &three][n % 3].get(&format!("/partitions/key?key={key}")).json();
        assert_eq!(told["id"], json!(format!("partition-{computed}")), "{key}");
    }
    // Each copy is listed with the node that has it, and with its one primary.
    let lists = ["node-1", "node-2", "node-3"].map(|name| {
        let list = two.get(&format!("/nodes/{name}/partitions")).json();
        let of = list["partitions"].as_array().unwrap().clone();
        for partition in &of {
            let replicas = partition["replica_nodes"].as_array().unwrap();
            assert!(
                partition["primary_node"] == json!(name) || replicas.contains(&json!(name)),
                "{partition}"
            );
        }
        (of.iter().filter(|partition| partition["primary_node"] == json!(name)).count(), of.len())
    });
    let (primaries_listed, copies): (Vec<_>, Vec<_>) = lists.into_iter().unzip();
    assert_eq!(primaries_listed.iter().sum::<usize>(), PARTITIONS);
    assert_eq!(copies.iter().sum::<usize>(), 2 * PARTITIONS);

    // Orders are taken to the leader, and what needs no change changes nothing.
    for node in [&one, &two, &three] {
        let done = node.ask("POST", "/partitions/rebalance", b"").json();
        assert_eq!((&done["changed"], &done["moved"]), (&json!(false), &json!(0)), "{done}");
        let created = node.ask("POST", "/partitions", b"").json();
        assert_eq!((&created["changed"], &created["version"]), (&json!(false), &done["version"]));
    }
    let version = |node: &Process| node.get("/cluster").json()["version"].as_u64().unwrap();
    let id = one.get("/cluster").json()["id"].clone();

    // A killed node's partitions are answered by others, who tell of it.
    let mut events = listen(two.http);
    assert_eq!(next_event(&mut events).1["version"], json!(version(&two)));
    one.signal("-KILL");
    one.wait();
    let until = |events: &mut _, wanted: &dyn Fn(&Value) -> bool| {
        loop {
            let (_, event) = next_event(events);
            if wanted(&event) {
                return event;
            }
        }
    };
    until(&mut events, &|event| event["event"] == "node_down" && event["node"] == "node-1");
    let moved = until(&mut events, &|event| event["event"] == "partition_moved");
    assert_eq!((&moved["from"], &moved["epoch"]), (&json!("node-1"), &json!(2)));
    let after = two.get("/partitions");
    assert_ne!(after.header("etag"), map.header("etag"));
    assert_eq!(primaries(&two.get("/partitions/stats")), [0, 8, 8]);
    for n in 0..60 {
        let status = three.ask("PUT", &format!("/kv/user:{n}"), b"again").status;
        assert!(status == 201 || status == 204, "{status}");
    }

    // It comes back as it was started first, without seeds, and finds its cluster all the same.
    one.start("");
    one.wait_for("/cluster", |answer| answer.json()["id"] == id);
    [&one, &two, &three].iter().for_each(|node| node.wait_until_ready());
    one.wait_for("/partitions/stats", |stats| primaries(stats).iter().all(|count| *count >= 5));

    // A node that is told to stop hands over and ends well.
    two.signal("-TERM");
    assert!(two.wait().success());
    // Without a disk it has nothing to come back with, and sooner or later is no member any more.
    let handed_over = |stats: &Answer| matches!(primaries(stats)[..], [8, 8] | [8, 0, 8]);
    one.wait_for("/partitions/stats", handed_over);
    for n in 0..60 {
        let status = one.ask("PUT", &format!("/kv/user:{n}"), b"still").status;
        assert!(status == 201 || status == 204, "{status}");
    }
    for node in [&mut three, &mut one] {
        node.signal("-INT");
        assert!(node.wait().success());
    }
}
