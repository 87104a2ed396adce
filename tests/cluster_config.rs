//! The cluster's own configuration on real processes: frozen and restarted ones, over HTTP and the command line.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends there")]

mod harness;

use std::io::{BufRead, BufReader};
use std::process::{Output, Stdio};

use harness::http::Answer;
use harness::node::bare;
use harness::{Cluster, Options, PATIENCE, check, wait_until};
use serde_json::{Value as Json, json};

fn put(cluster: &Cluster, number: usize, key: &str, value: &str) -> Answer {
    cluster.http.put(&cluster.node(number).http, &format!("/config/{key}"), value).unwrap()
}

/// Until it is done: after an error it is looked first whether it was done all the same.
fn put_at_last(cluster: &Cluster, number: usize, key: &str, value: &str) {
    wait_until("the value is set", PATIENCE, || {
        let put = put(cluster, number, key, value);
        check(put.status == 200 || read(cluster, number, key).as_deref() == Some(value), || put.text())
    });
}

fn read(cluster: &Cluster, number: usize, key: &str) -> Option<String> {
    let answer = cluster.http.get(&cluster.node(number).http, &format!("/config/{key}")).unwrap();
    match answer.status {
        200 => Some(answer.text()),
        404 => None,
        _ => panic!("{}", answer.text()),
    }
}

fn wait_until_all_read(cluster: &Cluster, key: &str, value: &str) {
    wait_until(&format!("all read {key}"), PATIENCE, || {
        cluster.awake().into_iter().try_for_each(|number| {
            let found = read(cluster, number, key);
            check(found.as_deref() == Some(value), || format!("{}: {found:?}", cluster.node(number).name))
        })
    });
}

/// What each node knows, once it is the same.
fn wait_until_all_agree(cluster: &Cluster) -> Json {
    wait_until("all nodes know the same", PATIENCE, || {
        let mut first: Option<Json> = None;
        for number in cluster.awake() {
            let shown = cluster.try_get(number, "/config/")?;
            check(first.as_ref().is_none_or(|first| *first == shown), || format!("{first:?}, {shown}"))?;
            first = Some(shown);
        }
        first.ok_or_else(|| "no node runs".to_owned())
    })
}

fn wait_until_five_vote(cluster: &Cluster) {
    wait_until("five vote", PATIENCE, || {
        let shown = cluster.try_get(0, "/cluster")?;
        let voting = shown["nodes"].as_array().unwrap().iter().filter(|node| node["votes"] == true).count();
        check(voting == 5, || shown.to_string())
    });
}

#[test]
fn frozen_processes_leave_three_of_five_that_agree_or_two_that_are_told_the_truth() {
    let mut cluster = Cluster::start(5, Options::default());
    wait_until_five_vote(&cluster);
    let leader = cluster.leader(0);
    let frozen = [(leader + 1) % 5, (leader + 2) % 5];
    frozen.iter().for_each(|number| cluster.freeze(*number));
    for number in cluster.awake() {
        let (key, value) = (format!("three/{number}"), format!("[{number},\"ü\"]"));
        let put = put(&cluster, number, &key, &value);
        assert_eq!(put.status, 200, "{}", put.text());
        assert_eq!(put.etag, Some(format!("\"{}\"", put.json()["version"])));
        assert_eq!(read(&cluster, number, &key), Some(value.clone()), "at once, where it was set");
        wait_until_all_read(&cluster, &key, &value);
    }
    frozen.iter().for_each(|number| cluster.thaw(*number));
    cluster.wait_until_settled();
    assert_eq!(wait_until_all_agree(&cluster)["count"], 3, "those that were away have everything");

    // Three of five, the leader among them: from the first moment on, and until all know that no majority is there.
    let leader = cluster.leader(0);
    let frozen = [leader, (leader + 1) % 5, (leader + 2) % 5];
    frozen.iter().for_each(|number| cluster.freeze(*number));
    let mut refused = Vec::new();
    for number in cluster.awake() {
        wait_until("it is told that no majority is there", PATIENCE, || {
            let key = format!("two/{number}/{}", refused.len());
            let put = put(&cluster, number, &key, "true");
            let (code, changed) = (put.code(), put.json()["error"]["changed"].clone());
            match (put.status, code.as_str()) {
                (503, "no_quorum") => assert_eq!(changed, false, "{}", put.text()),
                (504, "timeout") => assert_eq!(changed, Json::Null, "{}", put.text()),
                _ => panic!("{} {}", put.status, put.text()),
            }
            assert_eq!(read(&cluster, number, &key), None, "nothing is there that no majority has");
            refused.push((key, put.status == 503));
            check(put.status == 503, || put.text())
        });
    }
    frozen.iter().for_each(|number| cluster.thaw(*number));
    cluster.wait_until_settled();
    put_at_last(&cluster, 0, "after", "1");
    wait_until_all_read(&cluster, "after", "1");
    wait_until_all_agree(&cluster);
    for (key, surely) in refused {
        if surely {
            assert_eq!(read(&cluster, 0, &key), None, "{key}: nothing changed, and nothing did later");
        }
    }
}

#[test]
fn a_full_restart_with_disks_keeps_it() {
    let mut cluster = Cluster::start(4, Options::default().disks());
    // Enough for a snapshot, and entries behind it.
    for number in 0..150 {
        put_at_last(&cluster, number % 4, &format!("key/{}", number % 40), &number.to_string());
    }
    let before = wait_until_all_agree(&cluster);
    (0..4).for_each(|number| cluster.kill9(number));
    cluster.start_all();
    cluster.wait_until_settled();
    assert_eq!(wait_until_all_agree(&cluster), before, "the same values of the same versions");
    put_at_last(&cluster, 3, "key/0", "\"again\"");
    wait_until_all_read(&cluster, "key/0", "\"again\"");
    assert_eq!(wait_until_all_agree(&cluster)["version"], before["version"].as_u64().unwrap() + 1);
    for number in 0..4 {
        cluster.terminate(number);
    }
    cluster.start_all();
    cluster.wait_until_settled();
    wait_until_all_read(&cluster, "key/0", "\"again\"");
}

fn tumen(cluster: &Cluster, number: usize, args: &[&str]) -> (i32, String, String) {
    let mut command = bare();
    command.args(["config"]).args(args).args(["--http", &cluster.node(number).http]);
    told(command.output().unwrap())
}

fn told(output: Output) -> (i32, String, String) {
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[test]
fn it_is_read_and_changed_over_http_and_by_the_command_line() {
    let cluster = Cluster::start(3, Options::default());
    let http = &cluster.node(1).http;
    let ask =
        |method, path: &str, header, body| cluster.http.ask_with(method, http, path, header, body).unwrap();

    // The node's own configuration is where it was.
    assert_eq!(cluster.get(1, "/config")["name"], cluster.node(1).name.as_str());
    let put = cluster.http.put(http, "/config/limits/a%20b", " {\"b\": 1, \"a\": null}\n").unwrap();
    assert_eq!((put.status, put.etag.as_deref()), (200, Some("\"1\"")), "{}", put.text());
    assert_eq!(put.json(), json!({"key": "limits/a b", "version": 1}));
    let got = cluster.http.get(http, "/config/limits/a%20b").unwrap();
    assert_eq!((got.etag.as_deref(), got.text().as_str()), (Some("\"1\""), "{\"b\": 1, \"a\": null}"));
    assert_eq!(got.content_type.as_deref(), Some("application/json"));
    assert_eq!(ask("GET", "/config/limits/a%20b", ("if-none-match", "\"1\""), "").status, 304);

    // Compared, and set.
    let differs = ask("PUT", "/config/limits/a%20b", ("if-match", "\"2\""), "2");
    assert_eq!((differs.status, differs.code().as_str()), (412, "precondition_failed"));
    assert_eq!(differs.json()["error"]["changed"], false);
    assert_eq!(ask("PUT", "/config/new", ("if-match", "*"), "2").status, 412);
    assert_eq!(ask("PUT", "/config/new", ("if-none-match", "*"), "2").status, 200);
    assert_eq!(ask("PUT", "/config/new", ("if-none-match", "*"), "3").status, 412);
    assert_eq!(ask("PUT", "/config/limits/a%20b", ("if-match", "\"1\""), "[3]").json()["version"], 3);
    let all = cluster.get(1, "/config?prefix=");
    let values = json!([
        {"key": "limits/a b", "version": 3, "value": [3]},
        {"key": "new", "version": 2, "value": 2},
    ]);
    assert_eq!(all, json!({"values": values, "count": 2, "version": 3}));
    assert_eq!(cluster.get(1, "/config?prefix=limits%2F")["count"], 1);
    assert_eq!(ask("DELETE", "/config/new", ("if-match", "\"1\""), "").status, 412);
    assert_eq!(cluster.http.delete(http, "/config/new").unwrap().json()["version"], 4);
    let gone = cluster.http.delete(http, "/config/new").unwrap();
    assert_eq!((gone.status, gone.code().as_str()), (404, "not_found"));

    // What is no key, or no value.
    let long = format!("\"{}\"", "x".repeat(64 << 10));
    for (path, body, status, code) in [
        ("/config/a", "{", 400, "bad_value"),
        ("/config/a", "", 400, "bad_value"),
        ("/config/a", &*long, 413, "too_large"),
        ("/config/a%0Ab", "1", 400, "bad_key"),
        ("/config/%FF", "1", 400, "bad_request"),
        (&*format!("/config/{}", "k".repeat(256)), "1", 400, "bad_key"),
    ] {
        let refused = cluster.http.put(http, path, body).unwrap();
        assert_eq!((refused.status, refused.code().as_str()), (status, code), "{path}: {}", refused.text());
        assert_eq!(refused.json()["error"]["changed"], false);
    }
    assert_eq!(cluster.http.get(http, "/config?all").unwrap().status, 400);

    // The same by the command line, at any node. Whoever follows the changes hears first what is there.
    let run = |number, args: &[&str]| tumen(&cluster, number, args);
    assert_eq!(run(0, &["set", "cli/a", "true"]), (0, "cli/a is set by version 5\n".into(), String::new()));
    let mut watch = {
        let mut command = bare();
        command.args(["config", "watch", "--json", "--count", "4", "--prefix", "cli/"]);
        command.args(["--http", &cluster.node(0).http]).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().unwrap()
    };
    let mut told_by_watch = BufReader::new(watch.stdout.take().unwrap()).lines().map(Result::unwrap);
    let first = told_by_watch.next();
    assert_eq!(run(1, &["set", "cli/b", "blue", "--text", "--if-absent"]).0, 0);
    let (code, stdout, stderr) = run(1, &["set", "cli/b", "2", "--if-absent"]);
    assert_eq!((code, stdout.as_str()), (1, ""));
    assert!(stderr.contains("there is a value of version 6 under this key"), "{stderr}");
    assert_eq!(run(2, &["set", "cli/b", "-7", "--if-version", "6", "--json"]).0, 0);
    wait_until_all_read(&cluster, "cli/b", "-7");
    assert_eq!(run(0, &["get", "cli/b"]), (0, "-7\n".into(), String::new()));
    let (code, stdout, _) = run(0, &["list", "--prefix", "cli/"]);
    let words: Vec<Vec<&str>> = stdout.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(code, 0);
    assert_eq!(
        words,
        [vec!["KEY", "VERSION", "VALUE"], vec!["cli/a", "5", "true"], vec!["cli/b", "7", "-7"]]
    );
    assert_eq!(run(0, &["delete", "cli/a"]), (0, "cli/a is gone by version 8\n".into(), String::new()));
    let (code, _, stderr) = run(0, &["set", "cli/a", "blue"]);
    assert_eq!(code, 1);
    assert!(stderr.contains("the value is no JSON"), "{stderr}");
    assert_eq!(run(0, &["get", "nowhere"]).0, 1);
    let heard: Vec<Json> =
        first.into_iter().chain(told_by_watch).map(|line| serde_json::from_str(&line).unwrap()).collect();
    let (code, _, stderr) = told(watch.wait_with_output().unwrap());
    assert_eq!(code, 0, "{stderr}");
    let updated = |version, key, value: Json| {
        let mut told = json!({"event": "config_updated", "version": version, "key": key});
        if value != json!("gone") {
            told["value"] = value;
        }
        told
    };
    let wanted = [
        updated(5, "cli/a", json!(true)),
        updated(6, "cli/b", json!("blue")),
        updated(7, "cli/b", json!(-7)),
        updated(8, "cli/a", json!("gone")),
    ];
    assert_eq!(heard, wanted, "each once, in order");
}
