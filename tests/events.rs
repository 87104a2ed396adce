//! The stream of events of real processes: what a script does to a cluster is what each node tells, in order, without a gap.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends there")]

mod harness;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::sync::{Arc, Mutex};

use harness::{Cluster, Options, PATIENCE, check, wait_until};
use serde_json::{Value as Json, json};

/// What one run of one node tells, from its first event on.
#[derive(Clone)]
struct Stream {
    told: Arc<Mutex<Vec<(String, Json)>>>,
}

impl Stream {
    fn open(cluster: &Cluster, number: usize) -> Self {
        let told: Arc<Mutex<Vec<(String, Json)>>> = Arc::default();
        let (into, node) = (Arc::clone(&told), cluster.node(number).http.clone());
        let opened = wait_until("its events can be read", PATIENCE, || {
            ureq::get(format!("http://{node}/events?from=1")).call().map_err(|why| why.to_string())
        });
        std::thread::spawn(move || {
            let body = opened.into_body().into_with_config().limit(u64::MAX).reader();
            let (mut id, mut data) = (String::new(), Json::Null);
            for line in BufReader::new(body).lines().map_while(Result::ok) {
                if let Some(text) = line.strip_prefix("id:") {
                    text.trim().clone_into(&mut id);
                } else if let Some(text) = line.strip_prefix("data:") {
                    data = serde_json::from_str(text.trim()).unwrap();
                } else if line.is_empty() && data != Json::Null {
                    into.lock().unwrap().push((std::mem::take(&mut id), data.take()));
                }
            }
        });
        Self { told }
    }

    fn all(&self) -> Vec<Json> {
        self.told.lock().unwrap().iter().map(|(_, event)| event.clone()).collect()
    }

    fn of(&self, names: &[&str]) -> Vec<Json> {
        self.all().into_iter().filter(|event| names.contains(&event["event"].as_str().unwrap())).collect()
    }

    /// The numbers are those of one run, from 1 on, without a gap.
    fn check_numbers(&self) {
        let told = self.told.lock().unwrap();
        let boot = told[0].0.split_once('-').unwrap().0.to_owned();
        for (at, (id, event)) in told.iter().enumerate() {
            assert_eq!(*id, format!("{boot}-{}", at + 1), "{event}");
            assert_ne!(event["event"], "missed");
        }
    }
}

/// Who came and went, and what was configured: `came node-1`, `came back node-1`, `lost node-1`, `set key`.
fn story(stream: &Stream) -> Vec<String> {
    let told = stream.of(&["node_up", "node_down", "node_removed", "config_updated"]);
    let line = |event: &Json| {
        let node = event["node"].as_str().unwrap_or_default();
        match event["event"].as_str().unwrap() {
            "node_up" if event["rejoined"].is_object() => format!("came back {node}"),
            "node_up" => format!("came {node}"),
            "node_down" => format!("{} {node}", event["reason"].as_str().unwrap()),
            "node_removed" => format!("removed {node}"),
            _ => format!("set {}", event["key"].as_str().unwrap()),
        }
    };
    told.iter().map(line).collect()
}

fn wait_for(streams: &BTreeMap<usize, Stream>, expected: &str) {
    for (number, stream) in streams {
        wait_until(&format!("node {number} tells: {expected}"), PATIENCE, || {
            let told = story(stream);
            check(told.last().is_some_and(|last| last == expected), || format!("{told:?}"))
        });
    }
}

fn wait_until_healthy(cluster: &Cluster) {
    for number in cluster.awake() {
        wait_until(&format!("node {number} is healthy"), PATIENCE, || {
            let shown = cluster.try_get(number, "/health/cluster")?;
            check(shown["status"] == "healthy", || shown.to_string())
        });
    }
}

/// Waits until all serve by one plan, every node is healthy, and no rebalance is under way as far as one tells.
fn quiet(cluster: &Cluster, stream: &Stream) {
    cluster.wait_until_settled();
    wait_until_healthy(cluster);
    wait_until("every rebalance is over", PATIENCE, || {
        let told = stream.of(&["rebalance_started", "rebalance_completed"]);
        let over = told.last().is_none_or(|last| last["event"] == "rebalance_completed");
        check(over, || format!("{told:?}"))
    });
}

#[test]
fn each_node_tells_what_was_done_in_order_and_without_a_gap() {
    let flags = ["--mode", "strong", "--partitions", "8", "--replication", "3", "--rebuild-after", "10m"];
    let options = Options::default().disks().flags(&flags).flags(&["--health-interval", "500ms"]);
    let mut cluster = Cluster::start(3, options);
    wait_until_healthy(&cluster);
    let mut streams: BTreeMap<usize, Stream> =
        (0..3).map(|number| (number, Stream::open(&cluster, number))).collect();
    let first = cluster.leader(0);
    let (killed, stopped) = ((first + 1) % 3, (first + 2) % 3);
    let name = |number: usize| format!("node-{}", number + 1);
    let mut expected: Vec<String> = Vec::new();
    let mut done = |what: &[String], streams: &BTreeMap<usize, Stream>| {
        wait_for(streams, what.last().unwrap());
        expected.extend_from_slice(what);
    };

    // Set something, kill a node, and start it again.
    let set = cluster.http.put(&cluster.node(first).http, "/config/feature", "true").unwrap();
    assert!(set.status < 300, "{}", set.text());
    done(&["set feature".into()], &streams);
    cluster.kill9(killed);
    streams.remove(&killed);
    done(&[format!("lost {}", name(killed))], &streams);
    cluster.launch(killed);
    done(&[format!("came back {}", name(killed))], &streams);
    quiet(&cluster, &streams[&first]);
    // One joins, gives everything away again, and leaves.
    let fourth = cluster.add(&[first]);
    // It says that it does not come back.
    cluster.node_mut(fourth).flag(&["--rejoin-grace", "0s"]);
    cluster.launch(fourth);
    done(&[format!("came {}", name(fourth))], &streams);
    quiet(&cluster, &streams[&first]);
    let rebalanced =
        cluster.http.post(&cluster.node(first).http, "/partitions/rebalance", &json!({})).unwrap();
    assert_eq!(rebalanced.status, 200, "{}", rebalanced.text());
    quiet(&cluster, &streams[&first]);
    let path = format!("/nodes/{}/drain", name(fourth));
    let drained = cluster.http.post(&cluster.node(first).http, &path, &json!({})).unwrap();
    assert_eq!(drained.status, 200, "{}", drained.text());
    wait_until("it gave everything away", PATIENCE, || {
        let told = streams[&first].of(&["rebalance_started", "rebalance_completed"]);
        let last = told.last().unwrap();
        let over = last["trigger"] == "drain" && last["event"] == "rebalance_completed";
        check(over, || format!("{told:?}"))
    });
    cluster.terminate(fourth);
    done(&[format!("away {}", name(fourth)), format!("removed {}", name(fourth))], &streams);
    quiet(&cluster, &streams[&first]);
    // One stops in good order, and comes back.
    cluster.terminate(stopped);
    streams.remove(&stopped);
    done(&[format!("away {}", name(stopped))], &streams);
    cluster.launch(stopped);
    done(&[format!("came back {}", name(stopped))], &streams);
    quiet(&cluster, &streams[&first]);

    let stream = &streams[&first];
    // Those that were started again told it all since, too.
    let back: Vec<Stream> = [killed, stopped].map(|number| Stream::open(&cluster, number)).into();
    stream.check_numbers();
    let told = story(stream);
    let began = told.len() - expected.len();
    assert_eq!(told[began..], expected, "{told:?}");
    let mut came = told[..began].to_vec();
    came.sort();
    assert_eq!(came, ["came node-1", "came node-2", "came node-3"], "what was there before the script");

    // Who came back is told of with how long it was away, and what it had held.
    let rejoined = stream.of(&["node_up"]).into_iter().filter(|event| event["rejoined"].is_object());
    for event in rejoined {
        let about = &event["rejoined"];
        let held = about["primaries_held"].as_u64().unwrap() + about["replicas_held"].as_u64().unwrap();
        assert!(about["away_ms"].as_u64().unwrap() > 0 && held == 8, "{event}");
    }
    // Rebalances begin and end by turns, and what began one is told.
    let rebalances = stream.of(&["rebalance_started", "rebalance_completed"]);
    for pair in rebalances.chunks(2) {
        assert_eq!(
            (&pair[0]["event"], &pair[1]["event"]),
            (&json!("rebalance_started"), &json!("rebalance_completed"))
        );
        assert_eq!(pair[0]["trigger"], pair[1]["trigger"]);
        assert!(pair[1]["moves"].as_u64() >= pair[0]["moves"].as_u64(), "{pair:?}");
    }
    let triggers: Vec<&str> =
        rebalances.iter().step_by(2).map(|event| event["trigger"].as_str().unwrap()).collect();
    for trigger in ["node_down", "node_up", "drain"] {
        assert!(triggers.contains(&trigger), "{trigger}: {triggers:?}");
    }
    // Each partition's primaries follow each other, and the last of them is the present one.
    let mut primaries: BTreeMap<String, Json> = BTreeMap::new();
    for event in stream.of(&["partition_moved"]) {
        let id = event["partition"].as_str().unwrap().to_owned();
        if let Some(was) = primaries.insert(id, event["to"].clone()) {
            assert_eq!(was, event["from"], "{event}");
        }
        assert!(event["reason"].is_string() && event["copies_from"].is_array(), "{event}");
    }
    let shown = cluster.get(first, "/partitions");
    for partition in shown["partitions"].as_array().unwrap() {
        if let Some(last) = primaries.get(partition["id"].as_str().unwrap()) {
            assert_eq!(*last, partition["primary_node"], "{partition}");
        }
    }
    // Health went and came back with each of them.
    let health: Vec<Json> =
        stream.of(&["health"]).into_iter().filter(|event| event["node"].is_null()).collect();
    assert!(health.iter().any(|event| event["status"] == "degraded"), "{health:?}");
    assert_eq!(health.last().unwrap()["status"], "healthy");
    let leaders = stream.of(&["leader"]);
    assert!(leaders.is_sorted_by_key(|event| event["term"].as_u64().unwrap()), "{leaders:?}");

    // The ones that came back number anew, and tell what came after.
    for stream in &back {
        wait_until("it tells of a plan", PATIENCE, || {
            check(!stream.of(&["snapshot"]).is_empty(), || format!("{:?}", stream.all()))
        });
        stream.check_numbers();
    }
    assert_eq!(story(&back[0]).last(), expected.last(), "{:?}", story(&back[0]));

    // One reads on by number, and is told where what is not there begins.
    let node = &cluster.node(first).http;
    for bad in ["0", "99999999", "1f-7"] {
        let refused = cluster.http.get(node, &format!("/events?from={bad}")).unwrap();
        assert_eq!((refused.status, &*refused.code()), (410, "not_kept"), "{bad}: {}", refused.text());
        assert_eq!(refused.own["x-tumen-events-oldest"], "1", "{bad}");
        assert!(refused.text().contains("from=1"), "{}", refused.text());
    }
    assert_eq!(cluster.http.get(node, "/events?from=x").unwrap().status, 400);
}
