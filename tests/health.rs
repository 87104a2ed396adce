//! How healthy a cluster of real processes is, as each node says: over HTTP, in its log, by the command line's exit status.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends there")]

mod harness;

use std::process::{Command, Output, Stdio};

use harness::{Cluster, Options, PATIENCE, check, wait_until};
use serde_json::{Value as Json, json};

fn codes(shown: &Json) -> Vec<&str> {
    shown["reasons"].as_array().unwrap().iter().map(|reason| reason["code"].as_str().unwrap()).collect()
}

fn wait_until_all(cluster: &Cluster, status: &str, expected: &[&str]) {
    for number in cluster.awake() {
        wait_until(&format!("node {number} says {status} for {expected:?}"), PATIENCE, || {
            let shown = cluster.try_get(number, "/health/cluster")?;
            check(shown["status"] == status && codes(&shown) == expected, || shown.to_string())
        });
    }
}

fn tumen(asked: &str, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tumen"));
    command.args(args).args(["--http", asked, "--timeout", "30s"]);
    command.env_clear().stdin(Stdio::null()).output().unwrap()
}

/// What the command says, and its exit status.
fn says(asked: &str, args: &[&str]) -> (String, Option<i32>) {
    let output = tumen(asked, args);
    (String::from_utf8_lossy(&output.stdout).into_owned(), output.status.code())
}

/// The messages of the log at this level that tell of health.
fn logged(cluster: &Cluster, number: usize, level: &str) -> Vec<String> {
    let log = cluster.node(number).log();
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Json>(line).ok());
    lines
        .filter(|line| line["target"] == "tumen_actors::cluster::health_monitor" && line["level"] == level)
        .map(|line| line["message"].as_str().unwrap_or_default().to_owned())
        .collect()
}

#[test]
fn each_node_says_how_the_cluster_is_and_tells_each_change_once() {
    let flags = ["--mode", "sync", "--partitions", "8", "--replication", "3", "--rebuild-after", "10m"];
    let options = Options::default().flags(&flags).flags(&["--health-interval", "500ms"]);
    let mut cluster = Cluster::start(3, options);
    wait_until_all(&cluster, "healthy", &[]);
    for number in cluster.awake() {
        // What lasts for a moment is counted, and is no reason: primaries may move yet.
        wait_until(&format!("node {number} counts all as healthy"), PATIENCE, || {
            let shown = cluster.try_get(number, "/health/cluster")?;
            let (nodes, partitions, balance) = (&shown["nodes"], &shown["partitions"], &shown["balance"]);
            let whole = nodes["healthy"] == 3
                && (&partitions["total"], &partitions["healthy"]) == (&json!(8), &json!(8))
                && shown["replicas"] == json!({"total": 24, "healthy": 24})
                && (&shown["lag"]["status"], &balance["status"]) == (&json!("healthy"), &json!("healthy"))
                && (&balance["judged"], &balance["primary_moves"]) == (&json!(true), &json!(0))
                && shown["interval_ms"] == 500;
            check(whole, || shown.to_string())
        });
        let partitions = cluster.get(number, "/health/partitions");
        assert_eq!((&partitions["count"], &partitions["healthy_replicas"]), (&json!(8), &json!(24)));
        let one = &partitions["partitions"][0];
        assert_eq!(
            (&one["total_replicas"], &one["healthy_replicas"], &one["state"]),
            (&json!(3), &json!(3), &json!("serving"))
        );
        let (text, code) = says(&cluster.node(number).http, &["health"]);
        assert_eq!(code, Some(0), "{text}");
        assert!(text.starts_with("cluster     healthy (plan "), "{text}");
    }
    // Liveness is what it was.
    assert_eq!(cluster.get(0, "/health")["status"], "alive");

    let leader = cluster.leader(0);
    let victim = (0..3).find(|number| *number != leader).unwrap();
    let name = cluster.node(victim).name.clone();
    cluster.kill9(victim);
    wait_until_all(&cluster, "degraded", &["copies_missing", "node_lost"]);
    for number in cluster.awake() {
        let shown = cluster.get(number, "/health/cluster");
        let lost = &shown["reasons"][1];
        assert_eq!((&lost["node"], &lost["status"]), (&json!(name), &json!("degraded")), "{shown}");
        assert_eq!(
            shown["reasons"][0]["numbers"]["wanted"],
            24 + 16 * 3,
            "names' copies are wanted too: {shown}"
        );
        assert_eq!(shown["replicas"], json!({"total": 24, "healthy": 16}));
        let nodes = cluster.get(number, "/health/nodes");
        let one = nodes["nodes"].as_array().unwrap().iter().find(|node| node["name"] == *name).unwrap();
        assert_eq!((&one["status"], &one["state"]), (&json!("critical"), &json!("lost")), "{nodes}");
        let http = cluster.node(number).http.clone();
        let (text, code) = says(&http, &["health"]);
        assert_eq!(code, Some(1), "{text}");
        assert!(text.contains(&format!("{name} is lost")), "{text}");
        let (text, code) = says(&http, &["health", "--nodes"]);
        assert!(code == Some(1) && text.contains("critical"), "{text}");
        let (text, code) = says(&http, &["health", "--partitions", "--json"]);
        assert_eq!(code, Some(1), "{text}");
        let parsed: Json = serde_json::from_str(&text).unwrap();
        assert_eq!(parsed["healthy_replicas"], 16);
        let metrics = cluster.http.get(&http, "/metrics").unwrap().text();
        assert!(metrics.contains("\ntumen_health 1\n"), "{metrics}");
        let reason =
            format!("tumen_health_reasons{{code=\"node_lost\",status=\"degraded\",node=\"{name}\"}} 1");
        assert!(metrics.contains(&reason), "{metrics}");
    }

    cluster.launch(victim);
    cluster.wait_until_settled();
    wait_until_all(&cluster, "healthy", &[]);
    // Each change stands in the log once: a node that is lost at error level.
    for number in (0..3).filter(|number| *number != victim) {
        let errors = logged(&cluster, number, "ERROR");
        assert_eq!(errors, [format!("{name} is critical, it was healthy: {name} is lost")], "node {number}");
        let degraded = logged(&cluster, number, "WARN");
        let lost = degraded.iter().filter(|line| line.contains("the cluster is degraded, it was healthy"));
        assert_eq!(lost.count(), 1, "{degraded:?}");
    }

    // Two of three are gone: no majority is left, and who is left says so.
    let left = leader;
    for number in (0..3).filter(|number| *number != left) {
        cluster.kill9(number);
    }
    wait_until("the one that is left has no lease", PATIENCE, || {
        let shown = cluster.try_get(left, "/health/cluster")?;
        let critical = shown["status"] == "critical" && codes(&shown).contains(&"no_lease");
        check(critical, || shown.to_string())
    });
    let (text, code) = says(&cluster.node(left).http, &["health"]);
    assert_eq!(code, Some(2), "{text}");
    let (text, code) = says(&cluster.node(victim).http, &["health"]);
    assert_eq!((text.as_str(), code), ("", Some(3)), "nobody answers there");
}
