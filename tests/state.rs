//! A cluster's state goes into a file, and from there into another cluster with another number of partitions.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends there")]

mod harness;

use std::path::Path;
use std::process::Command;

use harness::{Cluster, Options};
use serde_json::Value as Json;

/// Runs `tumen state` at a node: whether it succeeded, and what it said.
fn state(cluster: &Cluster, args: &[&str]) -> (bool, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tumen"));
    command.arg("state").args(args).args(["--http", &cluster.node(0).http]);
    let output = command.output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(said).unwrap())
}

fn alone(partitions: &str) -> Cluster {
    let flags = ["--partitions", partitions, "--mode", "sync"];
    Cluster::start(1, Options::default().flags(&flags))
}

#[test]
fn what_one_cluster_keeps_another_can_keep() {
    let from = Cluster::start(3, Options::default().flags(&["--partitions", "4", "--mode", "sync"]));
    // One partition's values need more than one piece.
    let large = "x".repeat(700 << 10);
    let value = |number: usize| if number < 8 { large.clone() } else { format!("value {number}") };
    for number in 0..40 {
        from.put(number % 3, &format!("key-{number}"), &value(number));
    }
    from.put(0, "%ff%00", "a key that is no text");
    let path = from.dir().join("state.json");
    let path = path.to_str().unwrap();
    let (done, said) = state(&from, &["export", "--file", path]);
    assert!(done && said.contains("41 keys of 4 partitions"), "{said}");
    let file: Json = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    assert_eq!((&file["format"], file["nodes"].as_array().unwrap().len()), (&Json::from(1), 3));
    for partition in file["kv"].as_array().unwrap() {
        assert!(
            partition["sequence"].as_u64().unwrap() > 0 && partition["exact"] == true,
            "{}",
            partition["partition"]
        );
    }
    assert!(!Path::new(&format!("{path}.partial")).exists());

    let into = alone("7");
    into.put(0, "key-9", "was there");
    let (done, said) = state(&into, &["import", path]);
    assert!(
        !done && said.contains("1 of the keys are there already") && said.contains("nothing was changed"),
        "{said}"
    );
    let found = |cluster: &Cluster, key: &str| {
        let answer = cluster.http.get(&cluster.node(0).http, &format!("/kv/{key}")).unwrap();
        (answer.status, answer.text())
    };
    assert_eq!(found(&into, "key-10").0, 404, "nothing was written");
    let (done, said) = state(&into, &["import", path, "--overwrite", "--json"]);
    assert!(done, "{said}");
    let told: Json = serde_json::from_str(&said).unwrap();
    assert_eq!(told, serde_json::json!({"written": 41, "overwritten": 1, "changed": true}));
    for number in 0..40 {
        assert_eq!(found(&into, &format!("key-{number}")), (200, value(number)), "{number}");
    }
    assert_eq!(found(&into, "%ff%00").1, "a key that is no text");

    let (done, said) = state(&into, &["import", path, "--dry-run"]);
    assert!(!done && said.contains("of the keys are there already"), "{said}");
    let newer = from.dir().join("newer.json");
    std::fs::write(&newer, r#"{"format":99}"#).unwrap();
    let (done, said) = state(&into, &["import", newer.to_str().unwrap()]);
    assert!(!done && said.contains("form 99"), "{said}");
    harness::belief::check(&from);
}
