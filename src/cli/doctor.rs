//! `tumen doctor`: the usual troubles, each with what to do about it.

use std::process::ExitCode;

use serde::{Deserialize, Serialize};

use super::client::{Client, Failure};
use super::operator::{lost_partitions, named, unready, violations};
use super::say;
use crate::http::shapes::{Cluster, Invariants, Partition, PartitionStats};

/// What the doctor reads of `GET /config`.
#[derive(Debug, Deserialize)]
struct Told {
    partitions: u32,
    replication: u32,
    min_nodes: u32,
    create: String,
}

/// One trouble.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Finding {
    /// For programs.
    code: &'static str,
    /// What is wrong.
    what: String,
    /// What to do about it.
    advice: &'static str,
}

/// Asks the node for everything, and says what looks wrong.
pub(super) fn run(client: &Client, json: bool) -> Result<ExitCode, Failure> {
    let cluster = client.get::<Cluster>("/cluster")?.value;
    let stats = client.get::<PartitionStats>("/partitions/stats")?.value;
    let told = client.get::<Told>("/config")?.value;
    let lost = lost_partitions(client)?;
    let mut found = findings(&cluster, &stats, &told, unready(client)?);
    found.extend(broken(&violations(client)?));
    if !lost.is_empty() {
        // Nothing else is as urgent.
        found.insert(0, losses(&lost));
    }
    if json {
        say(serde_json::json!({ "findings": found }))?;
    } else if found.is_empty() {
        say("nothing wrong was found")?;
    } else {
        for Finding { what, advice, .. } in &found {
            say(format_args!("{what}\n  {advice}"))?;
        }
    }
    Ok(if found.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn losses(lost: &[Partition]) -> Finding {
    let what = format!("Lost: {}. Too few of their copies are left to tell what was written.", named(lost));
    let advice = "Start the nodes again that have their data (`tumen partition show ID` names them); if those are gone for \
                  good, `tumen partition accept-loss ID` goes on with what is left.";
    Finding { code: "lost", what, advice }
}

fn findings(cluster: &Cluster, stats: &PartitionStats, told: &Told, unready: Option<String>) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut find = |code, what, advice| found.push(Finding { code, what, advice });
    // Before the first plan nobody is a member yet, and whoever is there is joining.
    let up = cluster.nodes.iter().filter(|node| matches!(node.state.as_str(), "up" | "joining"));
    let weights: Vec<u32> = up.clone().map(|node| node.weight).filter(|weight| *weight > 0).collect();
    let nodes = u32::try_from(up.count()).unwrap_or(u32::MAX);
    if cluster.leader.is_none() {
        let advice =
            "Start the missing voters again; plans and writes wait until a majority of them is back.";
        find("no_leader", "There is no leader.".into(), advice);
    }
    if stats.total_partitions == 0 && nodes < told.min_nodes {
        let what =
            format!("There are no partitions: {nodes} nodes are up, and min_nodes is {}.", told.min_nodes);
        find("too_few_nodes", what, "Start more nodes, or lower --min-nodes.");
    } else if stats.total_partitions == 0 && told.create == "manual" {
        let what = "There are no partitions: they are created on demand.".into();
        find("not_created", what, "POST /partitions to any node.");
    } else if stats.total_partitions == 0 {
        find("not_created", "There are no partitions yet.".into(), "Wait for a leader; see the nodes' logs.");
    }
    let served: u32 = stats.partitions_per_node.values().sum();
    if served < stats.total_partitions {
        let what = format!("{} partitions have no primary.", stats.total_partitions - served);
        find("unserved", what, "See `tumen partitions`; bring back a node that held them.");
    }
    let holders = u32::try_from(weights.len()).unwrap_or(u32::MAX);
    if told.replication > holders {
        let what = format!("{} copies are wanted, and only {holders} nodes can hold them.", told.replication);
        find("too_few_copies", what, "Start more nodes, or lower --replication for a new cluster.");
    }
    if u64::from(told.partitions) < 4 * u64::from(holders) {
        let what = format!("{} partitions share out unevenly over {holders} nodes.", told.partitions);
        find("few_partitions", what, "Take four for each node at least when you found the next cluster.");
    }
    let equals = weights.windows(2).all(|pair| pair[0] == pair[1]);
    let counts = || stats.partitions_per_node.values().filter(|_| equals);
    if let (Some(least), Some(most)) = (counts().min(), counts().max())
        && most - least > 1
        && stats.partitions_per_node.len() == weights.len()
    {
        let what = format!("Primaries are uneven: one node has {least}, another {most}.");
        find("uneven", what, "Wait for moves under way; then `tumen rebalance`.");
    }
    for node in cluster.nodes.iter().filter(|node| matches!(node.state.as_str(), "lost" | "away")) {
        let what = format!("{} is {}.", node.name, node.state);
        find("node_missing", what, "Start it again; its copies are made anew elsewhere after a while.");
    }
    if let Some(why) = unready {
        find(
            "not_ready",
            format!("The asked node is not ready: {why}."),
            "Ask it again in a moment; see its log.",
        );
    }
    found
}

/// A promise that must hold at every moment did not, by what the asked node saw.
fn broken(seen: &Invariants) -> Option<Finding> {
    let first = seen.seen.first().filter(|_| seen.violations > 0)?;
    let what = format!(
        "{} violations of what must always hold, the first of them {}: {}.",
        seen.violations, first.invariant, first.seen
    );
    let advice = "This is a fault of tumen: keep GET /invariants and the nodes' logs, and report it.";
    Some(Finding { code: "violations", what, advice })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::shapes::Node;

    fn node(name: &str, state: &str) -> Node {
        let boot = "1".into();
        let address = "127.0.0.1:1".into();
        Node {
            name: name.into(),
            state: state.into(),
            votes: true,
            boot,
            address,
            http: None,
            zone: None,
            weight: 100,
            services: vec![],
        }
    }

    fn cluster(states: &[&str]) -> Cluster {
        let nodes = states.iter().enumerate().map(|(at, state)| node(&format!("node-{at}"), state)).collect();
        let (name, id, mode) = ("c".into(), Some("0".into()), "async".into());
        Cluster { name, id, version: 1, term: 1, leader: Some("node-0".into()), mode, nodes }
    }

    fn stats(primaries: &[u32]) -> PartitionStats {
        let per = |counts: &[u32]| (0..).zip(counts).map(|(at, n)| (format!("node-{at}"), *n)).collect();
        PartitionStats {
            total_partitions: 16,
            partitions_per_node: per(primaries),
            replicas_per_node: per(&[]),
        }
    }

    fn told() -> Told {
        Told { partitions: 16, replication: 3, min_nodes: 1, create: "auto".into() }
    }

    fn codes(found: &[Finding]) -> Vec<&'static str> {
        found.iter().map(|finding| finding.code).collect()
    }

    #[test]
    fn a_healthy_cluster_has_nothing_wrong() {
        assert_eq!(findings(&cluster(&["up"; 3]), &stats(&[5, 6, 5]), &told(), None), []);
    }

    #[test]
    fn what_must_always_hold_and_does_not_is_said() {
        use tumen_core::partitions::invariants::{Invariant, Violation};
        assert_eq!(broken(&Invariants::default()), None);
        let violation = Violation { invariant: Invariant::OnePrimary, seen: "two of them".into() };
        let seen = Invariants { violations: 3, seen: vec![violation], ..Invariants::default() };
        let found = broken(&seen).unwrap();
        assert_eq!((found.code, found.what.contains("one_primary: two of them")), ("violations", true));
    }

    #[test]
    fn what_is_lost_is_named_up_to_a_few() {
        let lost = |index| Partition {
            id: format!("partition-{index}"),
            primary_node: None,
            replica_nodes: vec![],
            epoch: 2,
            lost: true,
        };
        let all: Vec<Partition> = (0..12).map(lost).collect();
        assert!(losses(&all[..2]).what.starts_with("Lost: partition-0, partition-1. "));
        assert!(losses(&all).what.contains("partition-7 and 4 more"), "{}", losses(&all).what);
    }

    #[test]
    fn each_trouble_is_named() {
        let none = PartitionStats::default();
        let waiting = Told { min_nodes: 3, ..told() };
        let found = findings(&cluster(&["up", "up"]), &none, &waiting, Some("no plan yet".into()));
        assert_eq!(codes(&found), ["too_few_nodes", "too_few_copies", "not_ready"]);
        assert_eq!(found[0].what, "There are no partitions: 2 nodes are up, and min_nodes is 3.");

        let found = findings(&cluster(&["joining", "joining"]), &none, &waiting, None);
        assert_eq!(found[0].what, "There are no partitions: 2 nodes are up, and min_nodes is 3.");
        assert_eq!(found[1].what, "3 copies are wanted, and only 2 nodes can hold them.");

        let manual = Told { create: "manual".into(), ..told() };
        assert_eq!(codes(&findings(&cluster(&["up"; 3]), &none, &manual, None)), ["not_created"]);

        let found = findings(&cluster(&["up"; 3]), &stats(&[9, 3, 3]), &told(), None);
        assert_eq!(codes(&found), ["unserved", "uneven"]);

        let mut five = cluster(&["up", "up", "up", "up", "up", "lost"]);
        five.leader = None;
        let found = findings(&five, &stats(&[4, 3, 3, 3, 3]), &told(), None);
        assert_eq!(codes(&found), ["no_leader", "few_partitions", "node_missing"]);
    }
}
