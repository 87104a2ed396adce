//! Real processes that found a cluster each, all of one name, and meet: of a singleton that each of them runs one remains.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends there")]

mod harness;

use std::collections::BTreeSet;
use std::time::Duration;

use harness::{Cluster, Options, check, wait_until};
use serde_json::{Value as Json, json};

/// How long anything may take.
const WITHIN: Duration = Duration::from_secs(60);

/// Has a node's cluster run a singleton, and tells what it shows of it.
fn start(cluster: &Cluster, number: usize, name: &str) -> Json {
    let http = &cluster.node(number).http;
    wait_until(&format!("{name} is started"), WITHIN, || {
        let answer = cluster.http.post(http, "/singletons", &json!({ "name": name, "kind": "echo" }))?;
        check(matches!(answer.status, 200 | 201), || answer.text()).map(|()| answer.json())
    })
}

/// Where the instance runs that a node reaches, and its fence.
fn instance(cluster: &Cluster, number: usize, name: &str) -> Result<(String, u64), String> {
    let http = &cluster.node(number).http;
    let answer = cluster.http.post_text(http, &format!("/children/{name}/echo"), "hello")?;
    check(answer.status == 200, || answer.text())?;
    let told = answer.json();
    Ok((told["node"].as_str().unwrap().to_owned(), told["fence"].as_u64().unwrap()))
}

#[test]
fn two_clusters_that_run_the_same_singleton_join_and_one_remains_seen_from_both() {
    let options = Options::default().alone().flags(&["--partitions", "8", "--lease", "5s"]).proxies();
    let mut cluster = Cluster::prepare(3, options);
    // The first is told of nobody, and founds a cluster.
    for number in 1..3 {
        let seed = cluster.node(0).advertise.clone();
        cluster.node_mut(number).flag(&["--join", &seed]);
    }
    cluster.start_all();
    let elder = cluster.wait_until_settled()["id"].clone();
    cluster.kill9(0);
    cluster.wait_until_settled();
    // It comes back with nothing, and meets nobody: so it founds another one. The others remember it.
    cluster.cut(0, &[1, 2]);
    cluster.launch(0);
    wait_until("it serves a cluster of its own", WITHIN, || {
        let shown = cluster.try_get(0, "/cluster")?;
        cluster.try_get(0, "/ready")?;
        check(shown["id"].is_string() && shown["id"] != elder, || shown.to_string())
    });
    for name in ["one", "of-elder"] {
        assert_eq!(start(&cluster, 1, name)["state"], "running");
    }
    for name in ["one", "of-lone"] {
        assert_eq!(start(&cluster, 0, name)["state"], "running");
        let (node, _) = instance(&cluster, 0, name).unwrap();
        assert_eq!(node, "node-1", "it runs its own");
    }
    let before = wait_until("the elder's answers", WITHIN, || instance(&cluster, 1, "one"));
    assert_ne!(before.0, "node-1");
    cluster.heal();
    let shown = cluster.wait_until_settled();
    assert_eq!((&shown["id"], cluster.awake().len()), (&elder, 3), "the elder cluster is the one that stays");
    for name in ["one", "of-elder", "of-lone"] {
        wait_until(&format!("one {name} answers from everywhere"), WITHIN, || {
            let each = cluster.awake().into_iter().map(|number| instance(&cluster, number, name));
            let each = each.collect::<Result<BTreeSet<_>, _>>()?;
            check(each.len() == 1, || format!("{each:?}"))
        });
        assert_eq!(start(&cluster, 0, name)["state"], "running", "asked for again it is the one that is");
    }
    for number in 0..3 {
        wait_until("each is there once", WITHIN, || {
            let listed = cluster.try_get(number, "/singletons")?;
            check(listed["count"] == 3, || listed.to_string())
        });
    }
    let after = instance(&cluster, 0, "one").unwrap();
    assert!(after.1 >= before.1, "what ran in the cluster that stays went on: {before:?}, {after:?}");
    assert!(cluster.node(0).log().contains("drops its own"), "the lone one says so");
}
