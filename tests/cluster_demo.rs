//! `tumen demo`, as people and programs run it; nothing of it is left, however it ends.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends there")]

mod harness;

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use harness::{PATIENCE, check, node, wait_until};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value as Json;

/// The nodes of a demonstration: processes whose command lines name its cluster.
fn nodes_of(demo: u32) -> Vec<String> {
    let cluster = format!("demo-{demo}");
    let lines = std::fs::read_dir("/proc").unwrap().flatten();
    let lines = lines.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    let lines = lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " "));
    lines.filter(|line| line.split(' ').any(|word| word == cluster)).collect()
}

fn assert_nothing_is_left(demo: u32) {
    wait_until("no node of the demonstration is left", PATIENCE, || {
        let left = nodes_of(demo);
        check(left.is_empty(), || format!("{left:#?}"))
    });
}

fn demo(flags: &[&str]) -> Command {
    let mut command = node::bare();
    command.arg("demo").args(flags).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn once(nodes: &str, partitions: &str) -> Json {
    let child = demo(&["--once", "--json", "--nodes", nodes, "--partitions", partitions]).spawn().unwrap();
    let id = child.id();
    let output = child.wait_with_output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{}\n{told}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout)
    );
    assert_nothing_is_left(id);
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn once_it_ends_by_itself_and_all_is_well() {
    let summary = once("3", "64");
    assert_eq!((&summary["nodes"], &summary["partitions"]), (&Json::from(3), &Json::from(64)));
    let number = |field: &str| summary[field].as_f64().unwrap_or_else(|| panic!("no {field} in {summary}"));
    assert!(number("requests_sent") > 100.0, "{summary}");
    assert_eq!(number("requests_failed"), 0.0, "{summary}");
    assert_eq!(number("requests_ok"), number("requests_sent"), "{summary}");
    assert!(number("failover_ms") > 0.0 && number("failover_worst_ms") >= number("failover_ms"), "{summary}");
    assert_eq!(number("moved"), number("lower_bound"), "{summary}");
    let changes = summary["changes"].as_array().unwrap();
    assert_eq!(changes.len(), 3, "{summary}");
    for change in changes {
        assert_eq!(change["moved"], change["lower_bound"], "{change}");
    }
}

#[test]
fn one_node_alone_and_five_do_well_too() {
    let alone = once("1", "16");
    assert_eq!((&alone["killed"], &alone["requests_failed"]), (&Json::Null, &Json::from(0)), "{alone}");
    let five = once("5", "100");
    assert_eq!(five["requests_failed"], 0, "{five}");
}

/// A demonstration that has come to where it would run on until somebody ends it.
fn lingering() -> (Child, u32) {
    let mut child = demo(&["--nodes", "2", "--partitions", "8"]).spawn().unwrap();
    let id = child.id();
    let lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let ready = lines.map_while(Result::ok).find(|line| line.contains("all ready"));
    assert!(ready.is_some(), "it ended before its nodes were ready");
    assert_eq!(nodes_of(id).iter().filter(|line| line.contains(" node ")).count(), 2);
    (child, id)
}

#[test]
fn nothing_is_left_of_it_when_it_is_interrupted() {
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        let (mut child, id) = lingering();
        kill_process(Pid::from_child(&child), signal).unwrap();
        child.wait().unwrap();
        assert_nothing_is_left(id);
    }
}

#[test]
fn nothing_is_left_of_it_when_it_is_killed() {
    let (mut child, id) = lingering();
    child.kill().unwrap();
    child.wait().unwrap();
    assert_nothing_is_left(id);
}
