//! Nodes that are killed, frozen, stopped and started again: others take over, they come back, and never do two
//! believe that they serve the same.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends there")]

mod harness;

use std::thread;
use std::time::Duration;

use harness::{Cluster, Http, Options, PATIENCE, belief, check, wait_until};

/// Waits until the nodes that are awake serve everything, and says by which version.
fn wait_until_taken_over(cluster: &Cluster) -> u64 {
    let shown = cluster.wait_until_settled();
    let names: Vec<&str> =
        cluster.awake().into_iter().map(|number| cluster.node(number).name.as_str()).collect();
    let partitions = cluster.get(cluster.awake()[0], "/partitions");
    for partition in partitions["partitions"].as_array().unwrap() {
        let primary = partition["primary_node"].as_str().unwrap_or_default();
        assert!(names.contains(&primary), "nobody who is there serves {partition}");
    }
    shown["version"].as_u64().unwrap()
}

/// One that leads, and one that does not.
fn leader_and_another(cluster: &Cluster) -> [usize; 2] {
    let leader = cluster.leader(0);
    [leader, (0..cluster.len()).find(|number| *number != leader).unwrap()]
}

/// Waits until a key is answered at a node.
fn wait_for_key(cluster: &Cluster, asked: usize, key: &str) {
    wait_until("a key is answered", PATIENCE, || {
        let answer = cluster.http.get(&cluster.node(asked).http, &format!("/kv/{key}"))?;
        check(matches!(answer.status, 200 | 404), || answer.text())
    });
}

#[test]
fn the_killed_are_replaced_and_come_back() {
    let mut cluster = Cluster::start(3, Options::default());
    for victim in leader_and_another(&cluster) {
        let before = cluster.version(victim);
        let key = cluster.key_of(victim);
        cluster.kill9(victim);
        let survivor = cluster.awake()[0];
        wait_for_key(&cluster, survivor, &key);
        assert!(wait_until_taken_over(&cluster) > before);
        cluster.launch(victim);
        cluster.wait_until_settled();
        belief::check(&cluster);
    }
}

#[test]
fn the_frozen_are_replaced_and_answer_nothing_old_when_they_thaw() {
    let mut cluster = Cluster::start(3, Options::default());
    for victim in leader_and_another(&cluster) {
        let key = cluster.key_of(victim);
        let path = format!("/kv/{key}");
        let frozen_http = cluster.node(victim).http.clone();
        cluster.put(victim, &key, "old");
        cluster.freeze(victim);
        wait_until_taken_over(&cluster);
        cluster.put(cluster.awake()[0], &key, "new");
        // These wait in the frozen node's sockets: they are the first thing that it sees when it thaws.
        let early: Vec<_> = (0..4)
            .map(|_| {
                let (http, path) = (frozen_http.clone(), path.clone());
                thread::spawn(move || Http::new().get(&http, &path))
            })
            .collect();
        wait_until("the requests wait for the frozen node", PATIENCE, || {
            check(waiting_at(&frozen_http) >= early.len(), || "they are on their way".into())
        });
        cluster.thaw(victim);
        for answer in early {
            let answer = answer.join().unwrap().unwrap();
            assert!(
                answer.text() == "new" || answer.status >= 500,
                "a node that slept answered {} {}",
                answer.status,
                answer.text()
            );
        }
        cluster.wait_until_settled();
        wait_for_key(&cluster, victim, &key);
        belief::check(&cluster);
    }
}

/// How many connections a listening socket holds of which its process did not take anything yet.
fn waiting_at(address: &str) -> usize {
    let port: u16 = address.rsplit(':').next().unwrap().parse().unwrap();
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let local = format!("0100007F:{port:04X}");
    // Established, at this end, with bytes that nobody read.
    let waiting = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>()).filter(|fields| {
        fields.get(1) == Some(&local.as_str())
            && fields.get(3) == Some(&"01")
            && fields.get(4).is_some_and(|queues| !queues.ends_with(":00000000"))
    });
    waiting.count()
}

#[test]
fn those_who_stop_in_good_order_hand_over_and_nobody_notices() {
    let mut cluster = Cluster::start(3, Options::default());
    for victim in leader_and_another(&cluster) {
        let keys: Vec<String> = (0..cluster.len()).map(|number| cluster.key_of(number)).collect();
        let others: Vec<String> = (0..3)
            .filter(|number| *number != victim)
            .map(|number| cluster.node(number).http.clone())
            .collect();
        let before = cluster.version(victim);
        let stop = std::sync::atomic::AtomicBool::new(false);
        thread::scope(|scope| {
            let clients: Vec<_> = (others.iter())
                .map(|node| {
                    let (keys, stop) = (&keys, &stop);
                    scope.spawn(move || {
                        let http = Http::new();
                        let mut asked = 0;
                        while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                            for key in keys {
                                let got = http.get(node, &format!("/kv/{key}")).unwrap();
                                assert!(
                                    matches!(got.status, 200 | 404),
                                    "{key}: {} {}",
                                    got.status,
                                    got.text()
                                );
                                asked += 1;
                            }
                        }
                        asked
                    })
                })
                .collect();
            cluster.terminate(victim);
            wait_until_taken_over(&cluster);
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
            for client in clients {
                assert!(client.join().unwrap() > 0);
            }
        });
        assert!(cluster.version(cluster.awake()[0]) > before);
        cluster.launch(victim);
        cluster.wait_until_settled();
        belief::check(&cluster);
    }
}

#[test]
fn ten_restarts_in_a_row_of_a_node_that_does_not_lead() {
    let mut cluster = Cluster::start(3, Options::default());
    let [_, victim] = leader_and_another(&cluster);
    for _ in 0..10 {
        cluster.restart(victim);
        cluster.wait_until_settled();
    }
    belief::check(&cluster);
}

#[test]
fn ten_restarts_in_a_row_of_whoever_leads() {
    let mut cluster = Cluster::start(3, Options::default());
    let id = cluster.get(0, "/cluster")["id"].clone();
    for _ in 0..10 {
        let leader = cluster.leader(0);
        cluster.restart(leader);
        let shown = cluster.wait_until_settled();
        assert_eq!(shown["id"], id, "it is still the same cluster");
    }
    belief::check(&cluster);
}

#[test]
fn restarts_faster_than_anybody_can_notice() {
    let mut cluster = Cluster::start(3, Options::default());
    let [_, victim] = leader_and_another(&cluster);
    for _ in 0..10 {
        cluster.restart(victim);
        // As soon as it says anything at all.
        let http = cluster.node(victim).http.clone();
        wait_until("the node is alive", PATIENCE, || {
            cluster.http.get_within(Duration::from_secs(5), &http, "/health").map(drop)
        });
    }
    cluster.wait_until_settled();
    belief::check(&cluster);
}

/// What a run's log would say, from lines of words.
fn log(lines: &[&str]) -> String {
    let line = |line: &&str| {
        let words: Vec<&str> = line.split(' ').collect();
        let message = if words[0] == "stopped" { "no longer serving" } else { words[0] };
        let rest = match words[..] {
            ["leased", at, until] => format!(r#""at":{at},"until":{until}"#),
            [_, at, partition, epoch] => format!(r#""at":{at},"partition":"{partition}","epoch":{epoch}"#),
            _ => panic!("{line}"),
        };
        let (node, boot) = (r#""node":"a""#, lines.len());
        format!(r#"{{"message":"{message}",{node},"boot":{boot},{rest},"target":"tumen::belief"}}"#)
    };
    lines.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[test]
fn two_who_believe_the_same_at_once_would_be_found() {
    let believe = |runs: &[(&str, u64)]| {
        let mut all = std::collections::BTreeMap::<String, Vec<belief::Span>>::new();
        for (text, end) in runs {
            for (partition, spans) in belief::spans_of_run(text, *end) {
                all.entry(partition).or_default().extend(spans);
            }
        }
        all.values_mut().for_each(|spans| spans.sort_by_key(|span| span.from));
        std::panic::catch_unwind(|| belief::check_spans(&all)).is_ok()
    };
    let first = log(&["leased 10 50", "serving 20 p 1", "leased 30 70"]);
    // It serves while its lease lasts, and no longer than it lives.
    let after = |at: u64| log(&[&format!("serving {at} p 2"), &format!("leased {at} 200")]);
    assert!(believe(&[(&first, 100), (&after(70), 100)]));
    assert!(!believe(&[(&first, 100), (&after(69), 100)]));
    assert!(believe(&[(&first, 40), (&after(40), 100)]));
    // A lease that was replaced by a shorter one counts no more.
    let paused = log(&["leased 10 90", "serving 20 p 1", "leased 30 0"]);
    assert!(believe(&[(&paused, 100), (&after(30), 100)]));
    // What was given back is believed in no more; another partition never was.
    let released = log(&["leased 10 90", "serving 20 p 1", "serving 20 q 1", "stopped 35 p 1"]);
    assert!(believe(&[(&released, 100), (&after(35), 100)]));
    assert!(!believe(&[(&released, 100), (&after(34), 100)]));
    // Nobody passes it on under the same epoch.
    let same = log(&["leased 70 200", "serving 75 p 1"]);
    assert!(!believe(&[(&first, 100), (&same, 100)]));
    assert!(!believe(&[("", 100)]), "logs that say nothing prove nothing");
}
