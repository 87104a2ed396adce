//! Nodes that start in any number and any order become one cluster.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends there")]

mod harness;

use std::collections::BTreeSet;

use harness::{Cluster, Options, belief, check, up, wait_until};

/// Waits until every partition is served by somebody, has as many copies as there can be, and all nodes show the same: a copy
/// that makes way for another one goes once the other has everything.
fn check_partitions(cluster: &Cluster, copies: usize) {
    wait_until(&format!("each partition has {copies} copies, and all nodes know"), harness::PATIENCE, || {
        let shown = cluster.try_get(cluster.awake()[0], "/partitions")?;
        let partitions = shown["partitions"].as_array().unwrap();
        assert_eq!(shown["count"].as_u64().unwrap() as usize, partitions.len());
        for partition in partitions {
            let primary = partition["primary_node"].as_str();
            let primary = primary.ok_or_else(|| format!("nobody serves {partition}"))?;
            let replicas = partition["replica_nodes"].as_array().unwrap();
            let all: BTreeSet<&str> =
                replicas.iter().map(|name| name.as_str().unwrap()).chain([primary]).collect();
            assert_eq!(all.len(), replicas.len() + 1, "a node has two copies: {partition}");
            check(all.len() == copies, || partition.to_string())?;
        }
        cluster.awake().into_iter().try_for_each(|number| {
            let theirs = cluster.try_get(number, "/partitions")?;
            check(theirs == shown, || format!("{} shows {theirs}", cluster.node(number).name))
        })
    });
}

/// Each node answers for keys of every other.
fn check_routes(cluster: &Cluster) {
    for served_by in cluster.awake() {
        let key = cluster.key_of(served_by);
        for asked in cluster.awake() {
            let node = cluster.node(asked);
            let put =
                cluster.http.put(&node.http, &format!("/kv/{key}"), format!("by {}", node.name)).unwrap();
            assert!(matches!(put.status, 201 | 204), "{}: {} {}", node.name, put.status, put.text());
            for reader in cluster.awake() {
                let got = cluster.http.get(&cluster.node(reader).http, &format!("/kv/{key}")).unwrap();
                assert_eq!((got.status, got.text()), (200, format!("by {}", node.name)));
            }
        }
    }
}

fn start_in_order(order: &[usize]) {
    let mut cluster = Cluster::prepare(order.len(), Options::default());
    for number in order {
        cluster.launch(*number);
    }
    let shown = cluster.wait_until_settled();
    assert_eq!(up(&shown).len(), order.len());
    check_partitions(&cluster, order.len().min(3));
    check_routes(&cluster);
    belief::check(&cluster);
}

#[test]
fn one_node_is_a_cluster() {
    start_in_order(&[0]);
    let mut cluster = Cluster::start(1, Options::default().alone());
    check_partitions(&cluster, 1);
    check_routes(&cluster);
    let said = cluster.node(0).stdout();
    assert_eq!(said.lines().count(), 1, "one line when it is ready: {said:?}");
    assert!(said.contains(&cluster.node(0).http) && said.contains("node-1"), "{said:?}");
    cluster.terminate(0);
}

#[test]
fn two_nodes_start_in_any_order() {
    start_in_order(&[0, 1]);
    start_in_order(&[1, 0]);
}

#[test]
fn three_nodes_start_in_any_order() {
    start_in_order(&[0, 1, 2]);
    start_in_order(&[2, 0, 1]);
}

#[test]
fn five_nodes_start_in_any_order() {
    start_in_order(&[4, 1, 3, 0, 2]);
}

#[test]
fn nodes_that_wait_for_their_seed_join_when_it_comes() {
    let mut cluster = Cluster::prepare(1, Options::default().alone());
    let late = [cluster.add(&[0]), cluster.add(&[0])];
    for number in late {
        cluster.launch(number);
    }
    // A node that was told of seeds founds nothing because they are silent: it says what it waits for.
    wait_until("a node without a cluster says so", harness::PATIENCE, || {
        let node = cluster.node(late[0]);
        let answer = cluster.http.get(&node.http, "/ready")?;
        check(answer.status == 503 && answer.code() == "not_ready", || answer.text())
    });
    cluster.launch(0);
    cluster.wait_until_settled();
    check_partitions(&cluster, 3);
    belief::check(&cluster);
}

#[test]
fn a_burst_of_five_joins_gives_at_most_two_versions() {
    // Five processes that start on a busy machine take longer than people do to start them: so the windows are longer.
    let windows =
        ["--join-window", "1s", "--join-window-busy", "4s", "--join-window-max", "30s", "--lease", "8s"];
    let mut cluster = Cluster::start(1, Options::default().alone().flags(&windows));
    let before = cluster.version(0);
    for _ in 0..5 {
        cluster.add(&[0]);
    }
    cluster.start_all();
    let shown = cluster.wait_until_settled();
    assert_eq!(up(&shown).len(), 6);
    let after = shown["version"].as_u64().unwrap();
    assert!(after - before <= 2, "five joins made {} versions", after - before);
    check_partitions(&cluster, 3);
    belief::check(&cluster);
}

#[test]
fn partitions_are_made_once_enough_nodes_are_there() {
    let mut cluster = Cluster::prepare(1, Options::default().alone().flags(&["--min-nodes", "3"]));
    cluster.add(&[0]);
    cluster.launch(0);
    cluster.launch(1);
    let too_few = wait_until("the node says how many are missing", harness::PATIENCE, || {
        let answer = cluster.http.get(&cluster.node(0).http, "/ready")?;
        check(answer.status == 503 && answer.text().contains('3'), || answer.text()).map(|()| answer)
    });
    assert_eq!(too_few.code(), "not_ready");
    assert_eq!(cluster.get(0, "/cluster")["version"], 0);
    let third = cluster.add(&[0]);
    cluster.launch(third);
    cluster.wait_until_settled();
    check_partitions(&cluster, 3);
}

/// Waits until every node that is awake says the same of who votes, and that it is these.
fn wait_until_vote(cluster: &Cluster, is_so: impl Fn(&BTreeSet<String>) -> bool) -> BTreeSet<String> {
    wait_until("all say the same of who votes", harness::PATIENCE, || {
        let mut same: Option<BTreeSet<String>> = None;
        for number in cluster.awake() {
            let shown = cluster.try_get(number, "/cluster")?;
            let nodes = shown["nodes"].as_array().unwrap();
            let voting = nodes.iter().filter(|node| node["votes"].as_bool().unwrap());
            let voting: BTreeSet<String> =
                voting.map(|node| node["name"].as_str().unwrap().to_owned()).collect();
            check(is_so(&voting), || format!("{} says {voting:?}", cluster.node(number).name))?;
            check(same.as_ref().is_none_or(|same| *same == voting), || {
                format!("{voting:?} is not {same:?}")
            })?;
            same = Some(voting);
        }
        same.ok_or_else(|| "no node runs".to_owned())
    })
}

#[test]
fn every_node_says_who_votes_and_a_dead_voters_seat_is_given_away() {
    let mut cluster = Cluster::start(4, Options::default());
    let voting = wait_until_vote(&cluster, |voting| voting.len() == 3);
    let leader = cluster.leader(0);
    let dead = voting.iter().map(|name| cluster.number_of(name)).find(|number| *number != leader).unwrap();
    let dead_name = cluster.node(dead).name.clone();
    cluster.kill9(dead);
    wait_until_vote(&cluster, |voting| voting.len() == 3 && !voting.contains(&dead_name));
    cluster.launch(dead);
    cluster.wait_until_settled();
    wait_until_vote(&cluster, |voting| voting.len() == 3 && !voting.contains(&dead_name));
}

#[test]
fn partitions_that_are_created_from_every_node_at_once_are_created_by_one() {
    let options = Options::default().flags(&["--create", "manual", "--min-nodes", "3"]);
    let mut cluster = Cluster::prepare(3, options);
    cluster.start_all();
    wait_until("all know who leads", harness::PATIENCE, || {
        for number in 0..3 {
            let shown = cluster.try_get(number, "/cluster")?;
            check(shown["leader"].is_string(), || format!("nobody leads: {shown}"))?;
            check(shown["nodes"].as_array().unwrap().len() == 3, || format!("not all are there: {shown}"))?;
        }
        Ok::<_, String>(())
    });
    let create = |number: usize| {
        let node = &cluster.node(number).http;
        wait_until("partitions are there", harness::PATIENCE, || {
            let answer = cluster.http.post(node, "/partitions", &serde_json::json!({}))?;
            check(answer.status == 200, || answer.text())?;
            Ok::<_, String>(answer.json())
        })
    };
    let answers: Vec<_> = std::thread::scope(|scope| {
        let asking: Vec<_> = [0, 1, 2, 0, 1, 2].map(|number| scope.spawn(move || create(number))).into();
        asking.into_iter().map(|asked| asked.join().unwrap()).collect()
    });
    let created = answers.iter().filter(|answer| answer["changed"].as_bool().unwrap()).count();
    assert_eq!(created, 1, "{answers:?}");
    assert!(answers.iter().all(|answer| answer["count"] == answers[0]["count"]), "{answers:?}");
    cluster.wait_until_settled();
}
