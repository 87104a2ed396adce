//! What survives when nodes, or all of them, stop and start again: with disks, and without.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends there")]

mod harness;

use std::collections::BTreeMap;

use harness::{Cluster, Options, PATIENCE, belief, check, wait_until};
use serde_json::Value as Json;

/// Each partition's epoch, by id.
fn epochs(cluster: &Cluster) -> BTreeMap<String, u64> {
    let shown = cluster.get(0, "/partitions");
    let one = |partition: &Json| {
        (partition["id"].as_str().unwrap().to_owned(), partition["epoch"].as_u64().unwrap())
    };
    shown["partitions"].as_array().unwrap().iter().map(one).collect()
}

/// Who holds copies of each partition, whatever their roles.
fn holders(cluster: &Cluster) -> BTreeMap<String, Vec<String>> {
    let shown = cluster.get(0, "/partitions");
    let one = |partition: &Json| {
        let replicas = partition["replica_nodes"].as_array().unwrap().iter();
        let names = replicas.chain([&partition["primary_node"]]).filter_map(Json::as_str);
        let mut names: Vec<String> = names.map(str::to_owned).collect();
        names.sort_unstable();
        (partition["id"].as_str().unwrap().to_owned(), names)
    };
    shown["partitions"].as_array().unwrap().iter().map(one).collect()
}

/// How many values are written before a restart.
const VALUES: usize = 64;

/// Writes values, at every node some.
fn write_values(cluster: &Cluster) {
    for value in 0..VALUES {
        cluster.put(value % cluster.len(), &format!("kept-{value}"), &format!("value-{value}"));
    }
}

/// Reads them back, at every node some others.
fn check_values(cluster: &Cluster) {
    for value in 0..VALUES {
        let node = cluster.node((value + 1) % cluster.len());
        let read = wait_until(&format!("{} answers for kept-{value}", node.name), PATIENCE, || {
            let read = cluster.http.get(&node.http, &format!("/kv/kept-{value}"))?;
            check(matches!(read.status, 200 | 404), || read.text()).map(|()| read)
        });
        assert_eq!((read.status, read.text()), (200, format!("value-{value}")), "kept-{value}");
    }
}

/// Stops everything, starts everything, and compares.
fn restart_all(mode: &str, stop: impl Fn(&mut Cluster, usize)) {
    let mut cluster = Cluster::start(3, Options::default().disks().flags(&["--mode", mode]));
    write_values(&cluster);
    let (before, epochs_before) = (cluster.wait_until_settled(), epochs(&cluster));
    let holders_before = holders(&cluster);
    for number in 0..3 {
        stop(&mut cluster, number);
    }
    cluster.start_all();
    let after = cluster.wait_until_settled();
    assert_eq!(after["id"], before["id"], "it is the same cluster");
    let version = |shown: &Json| shown["version"].as_u64().unwrap();
    assert!(
        version(&after) > version(&before),
        "{} does not go on from {}",
        version(&after),
        version(&before)
    );
    assert!(after["term"].as_u64() > before["term"].as_u64());
    for (partition, epoch) in epochs(&cluster) {
        assert!(epoch > epochs_before[&partition], "{partition} is served by new boots under an old epoch");
    }
    assert_eq!(holders(&cluster), holders_before, "each partition is where it was");
    check_values(&cluster);
    belief::check(&cluster);
}

#[test]
fn with_disks_the_version_goes_on_after_all_were_killed() {
    restart_all("strong", Cluster::kill9);
}

#[test]
fn with_disks_the_version_goes_on_after_all_stopped_in_good_order() {
    restart_all("sync", Cluster::terminate);
}

#[test]
fn a_long_log_is_cut_and_the_state_is_there_after_all_were_killed() {
    let mut cluster = Cluster::start(3, Options::default().disks().flags(&["--mode", "strong"]));
    let large = |number: usize| format!("{number:08}").repeat(16 << 10);
    cluster.put(0, "small", "written before");
    for number in 0..80 {
        cluster.put(number % 3, "large", &large(number));
    }
    wait_until("a node has cut its log", PATIENCE, || {
        let cut = (0..3).any(|number| cluster.node(number).log().contains("wrote a state"));
        check(cut, || "none has".into())
    });
    for number in 80..100 {
        cluster.put(number % 3, "large", &large(number));
    }
    for number in 0..3 {
        cluster.kill9(number);
    }
    cluster.start_all();
    cluster.wait_until_settled();
    for (key, value) in [("large", large(99)), ("small", "written before".to_owned())] {
        let read = cluster.http.get(&cluster.node(1).http, &format!("/kv/{key}")).unwrap();
        assert!(read.status == 200 && read.text() == value, "{key}: {}", read.status);
    }
    belief::check(&cluster);
}

#[test]
fn with_disks_a_rolling_restart_moves_no_copies() {
    let mut cluster = Cluster::start(4, Options::default().disks());
    let before = holders(&cluster);
    for number in 0..4 {
        cluster.terminate(number);
        cluster.wait_until_settled();
        cluster.launch(number);
        cluster.wait_until_settled();
        assert_eq!(holders(&cluster), before);
    }
    belief::check(&cluster);
}

#[test]
fn without_disks_a_cluster_that_stopped_is_gone_and_another_is_founded() {
    let mut cluster = Cluster::start(3, Options::default());
    let before = cluster.wait_until_settled();
    for number in 0..3 {
        cluster.kill9(number);
    }
    cluster.start_all();
    let after = cluster.wait_until_settled();
    assert_ne!(after["id"], before["id"]);
}

#[test]
fn without_a_disk_a_voter_comes_back_as_a_new_life() {
    let mut cluster = Cluster::start(3, Options::default());
    let leader = cluster.leader(0);
    let victim = (0..3).find(|number| *number != leader).unwrap();
    wait_until("all three vote", PATIENCE, || {
        check(voters(&cluster, leader).len() == 3, || "not yet".into())
    });
    let before = voters(&cluster, leader);
    cluster.restart(victim);
    cluster.wait_until_settled();
    let name = cluster.node(victim).name.clone();
    let after = wait_until("the new life votes, and the old one does not", PATIENCE, || {
        let now = voters(&cluster, leader);
        check(now.len() == 3 && now.get(&name) != before.get(&name), || format!("{now:?}")).map(|()| now)
    });
    for (other, life) in before.iter().filter(|(other, _)| **other != name) {
        assert_eq!(after.get(other), Some(life), "a voter that was there all the time keeps its life");
    }
}

/// Who votes, each with its life, as the leader last said in its log.
fn voters(cluster: &Cluster, leader: usize) -> BTreeMap<String, String> {
    let log = cluster.node(leader).log();
    let mut said = log.lines().filter_map(|line| serde_json::from_str::<Json>(line).ok());
    let Some(last) = said.rfind(|line| line["message"] == "changing the voters") else {
        return BTreeMap::new();
    };
    // As in {Life(1): node-1, Life(2): node-2}.
    let to = last["to"].as_str().unwrap().trim_matches(['{', '}']).to_owned();
    let seats = to.split(", ").filter_map(|seat| seat.split_once(": "));
    seats.map(|(life, name)| (name.to_owned(), life.to_owned())).collect()
}

#[test]
fn a_boot_serves_nothing_until_a_newer_epoch_names_it() {
    // Where a refused connection proves nothing, the former boot's lease is waited out.
    let mut cluster =
        Cluster::start(3, Options::default().flags(&["--crash-proof", "never", "--lease", "3s"]));
    let leader = cluster.leader(0);
    let victim = (0..3).find(|number| *number != leader).unwrap();
    let key = cluster.key_of(victim);
    let http = cluster.node(victim).http.clone();
    cluster.restart(victim);
    let mut waited = 0;
    let answer = wait_until("the restarted node answers for a key", PATIENCE, || {
        let ready = cluster.http.get(&http, "/ready")?;
        waited += u32::from(ready.status == 503);
        let shown = cluster.http.get(&http, &format!("/kv/{key}"))?;
        check(matches!(shown.status, 200 | 404), || shown.text()).map(|()| shown)
    });
    assert_eq!(answer.status, 404, "it came back without what the former boot knew");
    assert!(waited > 0, "it was not ready at first");
    cluster.wait_until_settled();
    // Each boot's first epoch is above all of the former boot's: checked with the rest of what they believed.
    belief::check(&cluster);
}
