//! What is sent again takes effect once, and is answered the same: by whoever sends it, and by nodes of themselves.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends there")]

mod harness;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use harness::{Cluster, Options, wait_until};
use ureq::Agent;

fn agent() -> Agent {
    let config = Agent::config_builder().http_status_as_error(false).proxy(None).max_idle_connections(0);
    Agent::new_with_config(config.timeout_global(Some(Duration::from_secs(20))).build())
}

/// A `PUT` of this body, or without one a `DELETE`: the status, and the error's code.
fn change(agent: &Agent, node: &str, path: &str, body: Option<&str>, key: Option<&str>) -> (u16, String) {
    let url = format!("http://{node}{path}");
    let answer = match body {
        Some(body) => {
            let request = agent.put(url);
            key.into_iter().fold(request, |request, key| request.header("idempotency-key", key)).send(body)
        }
        None => {
            let request = agent.delete(url);
            key.into_iter().fold(request, |request, key| request.header("idempotency-key", key)).call()
        }
    };
    let mut answer = answer.unwrap();
    let text = answer.body_mut().read_to_string().unwrap();
    let told: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
    (answer.status().as_u16(), told["error"]["code"].as_str().unwrap_or_default().to_owned())
}

fn options() -> Options {
    Options::default().flags(&["--partitions", "16", "--replication", "3", "--mode", "sync"])
}

#[test]
fn a_key_is_known_through_any_node() {
    let mut cluster = Cluster::start(3, options());
    let agent = agent();
    let at = |node: usize| cluster.node(node).http.clone();
    let (first, second, third) = (at(0), at(1), at(2));
    let put = |node: &str, body: &str, key: Option<&str>| change(&agent, node, "/kv/order", Some(body), key);
    let delete = |node: &str, key: Option<&str>| change(&agent, node, "/kv/order", None, key);
    assert_eq!(put(&first, "one", Some("a")).0, 201);
    assert_eq!(put(&second, "one", Some("a")).0, 201, "the first one's answer");
    assert_eq!(put(&third, "two", None).0, 204);
    assert_eq!(put(&third, "one", Some("a")).0, 201, "and it is not carried out again");
    assert_eq!(cluster.http.get(&first, "/kv/order").unwrap().text(), "two");
    for (refused, body) in
        [(put(&second, "three", Some("a")), "another body"), (delete(&first, Some("a")), "another order")]
    {
        assert_eq!(refused, (422, "rejected".to_owned()), "{body}");
    }
    assert_eq!(delete(&second, Some("b")).0, 204);
    assert_eq!(delete(&third, Some("b")).0, 204);
    assert_eq!(delete(&third, None).0, 404);
    for bad in [String::new(), "k".repeat(256)] {
        assert_eq!(put(&first, "x", Some(&bad)), (400, "bad_request".to_owned()), "{} bytes", bad.len());
    }
    // Known by the copies, too.
    cluster.wait_until_settled();
    cluster.kill9(0);
    assert_eq!(put(&second, "one", Some("a")).0, 201);
    assert_eq!(delete(&third, Some("b")).0, 204);
    assert_eq!(cluster.http.get(&second, "/kv/order").unwrap().status, 404);
}

/// Each key is put where nothing was, and deleted where it was: whoever is told otherwise was carried out twice.
#[test]
fn what_a_node_sends_again_by_itself_takes_effect_once() {
    let mut cluster = Cluster::start(4, options());
    cluster.wait_until_settled();
    let node = cluster.node(0).http.clone();
    let (done, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        for writer in 0..16 {
            let (node, done, stop) = (node.clone(), &done, &stop);
            scope.spawn(move || {
                let agent = agent();
                for n in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let path = format!("/kv/{writer}-{n}");
                    assert_eq!(change(&agent, &node, &path, Some("x"), None).0, 201, "{path}");
                    assert_eq!(change(&agent, &node, &path, None, None).0, 204, "{path}");
                    done.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let more = |count: usize| {
            let wanted = done.load(Ordering::Relaxed) + count;
            wait_until("more is written", harness::PATIENCE, || {
                harness::check(done.load(Ordering::Relaxed) >= wanted, || format!("{done:?} of {wanted}"))
            });
        };
        more(200);
        cluster.kill9(2);
        more(200);
        stop.store(true, Ordering::Relaxed);
    });
    // Nothing is lost in the books either: whatever was taken up has ended, once.
    for node in cluster.awake() {
        let rest = wait_until("the ledger is closed", harness::PATIENCE, || {
            let ledger = cluster.get(node, "/ledger");
            harness::check(ledger["closed"] == true, || ledger["total"].to_string()).map(|()| ledger)
        });
        let (total, sum) = (&rest["total"], |of: &serde_json::Value| of.as_u64().unwrap());
        let rejected: u64 = total["rejected"].as_object().unwrap().values().map(sum).sum();
        let ended = sum(&total["answered"]) + rejected + sum(&total["expired"]);
        assert_eq!((sum(&total["sent"]), sum(&total["open"])), (ended, 0), "{total}");
        assert!(sum(&total["answered"]) > 0, "{total}");
    }
}
