//! The three-terminal demonstration of the ClusterKit seed: NODE_ID, HTTP_ADDR and KNOWN_NODES, and nothing else.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends there")]

mod harness;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use harness::ports;
use harness::{Cluster, Options, PATIENCE, belief, check, wait_until};

/// Three nodes that are told of each other by their HTTP addresses only, node-1 of nobody.
fn three_terminals() -> Cluster {
    let mut cluster = Cluster::prepare(3, Options::default().alone());
    let http: Vec<String> = (0..3).map(|_| ports::take_pair()).collect();
    for number in 0..3 {
        let node = cluster.node_mut(number);
        node.by_flags = false;
        node.http = http[number].clone();
        node.envs = vec![("NODE_ID".into(), node.name.clone()), ("HTTP_ADDR".into(), node.http.clone())];
        if number > 0 {
            node.envs.push(("KNOWN_NODES".into(), http[..number].join(",")));
        }
    }
    cluster
}

#[test]
fn three_terminals_make_one_cluster() {
    let mut cluster = three_terminals();
    for number in 0..3 {
        cluster.launch(number);
    }
    cluster.wait_until_settled();
    let stats = cluster.get(1, "/partitions/stats");
    let sum =
        |field: &str| stats[field].as_object().unwrap().values().map(|n| n.as_u64().unwrap()).sum::<u64>();
    let total = stats["total_partitions"].as_u64().unwrap();
    assert_eq!((sum("partitions_per_node"), sum("replicas_per_node")), (total, 2 * total));
    let shown: Vec<_> = (0..3).map(|number| cluster.get(number, "/partitions/key?key=user:1001")).collect();
    assert!(shown[0]["primary_node"].is_string());
    assert!(shown.iter().all(|other| *other == shown[0]), "{shown:?}");
    belief::check(&cluster);
}

#[test]
fn the_first_node_started_again_without_seeds_does_not_end_in_two_clusters() {
    let mut cluster = three_terminals();
    for number in 0..3 {
        cluster.launch(number);
    }
    let before = cluster.wait_until_settled();
    cluster.kill9(0);
    let without = cluster.wait_until_settled();
    assert_eq!(without["id"], before["id"]);
    // It is told of nobody, so it founds a cluster of its own, until it meets the others, who remember it.
    cluster.launch(0);
    let after = cluster.wait_until_settled();
    assert_eq!(after["id"], before["id"], "the elder cluster is the one that stays");
    assert!(after["version"].as_u64() > without["version"].as_u64());
}

#[test]
fn the_others_started_before_the_first_wait_for_it() {
    let mut cluster = three_terminals();
    for number in [2, 1, 0] {
        cluster.launch(number);
    }
    cluster.wait_until_settled();
    belief::check(&cluster);
}

/// The script's process. Told to end, it ends its nodes; they are ended with it also where the test fails.
struct Script(Child);

impl Drop for Script {
    fn drop(&mut self) {
        let id = self.0.id().to_string();
        drop(Command::new("kill").args(["-TERM", &id]).status());
        drop(self.0.wait());
    }
}

#[test]
fn the_example_in_one_command_shows_three_nodes_that_agree() {
    let ports: Vec<String> =
        (0..3).map(|_| ports::take_pair().rsplit(':').next().unwrap().to_owned()).collect();
    let built = Path::new(env!("CARGO_BIN_EXE_tumen")).with_file_name("examples").join("partitions_demo");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/partitions_demo.sh");
    let mut command = Command::new(script);
    command.args(&ports).env("PARTITIONS_DEMO", built).stdout(Stdio::piped());
    let mut script = Script(command.spawn().unwrap());
    let mut lines = BufReader::new(script.0.stdout.take().unwrap()).lines();
    // Each node shows where four keys go, and then what it holds.
    let mut shown: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut done = BTreeSet::new();
    for line in lines.by_ref() {
        let line = line.unwrap();
        let (node, said) = line.split_once(" | ").unwrap();
        if said.contains(" primary node-") {
            shown.entry(node.to_owned()).or_default().insert(said.to_owned());
        }
        if said.contains("is primary of") {
            done.insert(node.to_owned());
        }
        if done.len() == 3 {
            break;
        }
    }
    assert_eq!(done.len(), 3, "the script ended by itself: {shown:?}");
    assert!(shown.values().all(|keys| keys.len() == 4 && *keys == shown["node-1"]), "{shown:?}");
    drop(script);
    for port in ports {
        wait_until("no node is left", PATIENCE, || {
            let there = std::net::TcpStream::connect(format!("127.0.0.1:{port}")).is_ok();
            check(!there, || format!("somebody listens at {port}"))
        });
    }
}
