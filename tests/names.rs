//! Children and singletons on real processes: one instance of each, found from every node, through crashes and stops.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends there")]

mod harness;

use std::collections::BTreeSet;
use std::thread;
use std::time::Duration;

use harness::http::Answer;
use harness::{Cluster, Http, Options, check, node, wait_until};
use serde_json::{Value as Json, json};
use tumen_core::names::DIRECTORIES;

/// How long anything may take.
const WITHIN: Duration = Duration::from_secs(60);

/// On a busy machine a node may fall silent for longer than a short lease: its children would pause, as they should.
fn three() -> Cluster {
    Cluster::start(3, Options::default().flags(&["--partitions", "8", "--lease", "5s"]))
}

/// Where an instance runs, its fence, and how many messages it has answered.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Echoed {
    node: String,
    fence: u64,
    count: u64,
}

fn encoded(name: &str) -> String {
    name.replace('/', "%2F").replace(' ', "%20")
}

/// One answer that is no passing trouble.
fn settled(what: &str, ask: impl Fn() -> Result<Answer, String>) -> Answer {
    wait_until(what, WITHIN, || {
        let answer = ask()?;
        check(!matches!(answer.status, 503 | 504), || answer.text()).map(|()| answer)
    })
}

fn tell(cluster: &Cluster, number: usize, name: &str, text: &str) -> Answer {
    let (http, path) = (&cluster.node(number).http, format!("/children/{}/echo", encoded(name)));
    settled(&format!("{name} answers"), || cluster.http.post_text(http, &path, text))
}

fn echoed(cluster: &Cluster, number: usize, name: &str) -> Echoed {
    let answer = tell(cluster, number, name, "hello");
    assert_eq!(answer.status, 200, "{name} at {number}: {}", answer.text());
    let json = answer.json();
    assert_eq!((&json["name"], &json["text"]), (&json!(name), &json!("hello")));
    Echoed {
        node: json["node"].as_str().unwrap().to_owned(),
        fence: json["fence"].as_u64().unwrap(),
        count: json["count"].as_u64().unwrap(),
    }
}

/// Asks for it at every node that is awake: the same instance answers all.
fn same_everywhere(cluster: &Cluster, name: &str) -> Echoed {
    wait_until(&format!("one {name} answers all"), WITHIN, || {
        let answers: Vec<_> =
            cluster.awake().into_iter().map(|number| echoed(cluster, number, name)).collect();
        let instances: BTreeSet<_> = answers.iter().map(|one| (one.node.clone(), one.fence)).collect();
        check(instances.len() == 1, || format!("{answers:?}")).map(|()| answers.last().unwrap().clone())
    })
}

fn post(cluster: &Cluster, number: usize, path: &str, order: &Json) -> Answer {
    let http = &cluster.node(number).http;
    settled(&format!("{order} is answered"), || cluster.http.post(http, path, order))
}

fn start(cluster: &Cluster, number: usize, name: &str, more: &Json) -> Json {
    let mut order = json!({ "name": name, "kind": "echo", "args": "" });
    order.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let answer = post(cluster, number, "/children", &order);
    assert!(matches!(answer.status, 200 | 201), "{}", answer.text());
    answer.json()
}

fn gone_everywhere(cluster: &Cluster, name: &str) {
    for number in cluster.awake() {
        let http = &cluster.node(number).http;
        wait_until(&format!("{name} is gone"), WITHIN, || {
            let told = cluster.http.get(http, &format!("/children/{}", encoded(name)))?;
            check(told.status == 404, || told.text())
        });
        assert_eq!(tell(cluster, number, name, "").status, 404);
        assert_eq!(cluster.http.get(http, &format!("/registry/{}", encoded(name))).unwrap().status, 404);
    }
}

#[test]
fn singletons_are_found_from_every_node_and_end_for_good() {
    let cluster = three();
    let mut used = BTreeSet::new();
    for n in 0..12 {
        let name = format!("shop/{n}");
        let order = json!({ "name": name, "kind": "echo" });
        let started = post(&cluster, 0, "/singletons", &order);
        assert_eq!(started.status, 201, "{}", started.text());
        let shown = started.json();
        assert_eq!((&shown["state"], &shown["restart"]), (&json!("running"), &json!("permanent")));
        let again = post(&cluster, 0, "/singletons", &order);
        assert_eq!((again.status, &again.json()["fence"]), (200, &shown["fence"]), "{}", again.text());
        let one = same_everywhere(&cluster, &name);
        assert_eq!((json!(one.node), json!(one.fence)), (shown["node"].clone(), shown["fence"].clone()));
        used.insert(one.node);
    }
    assert!(used.len() > 1, "all of them run on {used:?}");
    start(&cluster, 1, "passing", &json!({ "restart": "temporary" }));
    for number in 0..3 {
        wait_until("all are listed", WITHIN, || {
            let listed = cluster.try_get(number, "/children")?;
            check(listed["count"] == 13 && listed["more"] == false, || listed.to_string())
        });
        assert_eq!(cluster.get(number, "/singletons")["count"], 12, "what is temporary is no singleton");
        assert_eq!(cluster.get(number, "/registry?prefix=shop%2F")["count"], 12);
        let some = cluster.get(number, "/registry?limit=5");
        assert_eq!((&some["count"], &some["more"]), (&json!(5), &json!(true)));
        let one = cluster.get(number, "/registry/shop%2F7");
        assert_eq!((&one["name"], &one["kind"]), (&json!("shop/7"), &json!("echo")));
        assert_eq!(cluster.get(number, "/partitions?group=names")["count"], DIRECTORIES);
        assert_eq!(cluster.get(number, "/partitions")["count"], 8, "they are hidden");
    }

    let http = &cluster.node(2).http;
    let ended = settled("it is ended", || cluster.http.delete(http, "/singletons/shop%2F7"));
    assert_eq!(ended.status, 204, "{}", ended.text());
    gone_everywhere(&cluster, "shop/7");
    let missing = settled("it is ended", || cluster.http.delete(http, "/singletons/shop%2F7"));
    assert_eq!((missing.status, &*missing.code()), (404, "not_found"));
    assert_eq!(cluster.get(2, "/singletons")["count"], 11);
    // Its name is free, and whoever has it next has a larger fence.
    start(&cluster, 2, "shop/7", &json!({ "args": "another" }));
    assert_eq!(same_everywhere(&cluster, "shop/7").count, 3);
}

#[test]
fn concurrent_starts_from_all_nodes_give_one_instance() {
    let cluster = three();
    let starts: Vec<Json> = thread::scope(|scope| {
        let starts: Vec<_> = (0..20)
            .map(|n| {
                let http = cluster.node(n % 3).http.clone();
                scope.spawn(move || {
                    let client = Http::new();
                    let order = json!({ "name": "one", "kind": "echo", "args": "same" });
                    let answer = settled("it is started", || client.post(&http, "/singletons", &order));
                    assert!(matches!(answer.status, 200 | 201), "{}", answer.text());
                    answer.json()
                })
            })
            .collect();
        starts.into_iter().map(|start| start.join().unwrap()).collect()
    });
    let fences: BTreeSet<_> = starts
        .iter()
        .map(|one| (one["fence"].as_u64(), one["node"].as_str(), one["boot"].as_str()))
        .collect();
    assert_eq!(fences.len(), 1, "{starts:?}");
    let one = same_everywhere(&cluster, "one");
    assert_eq!(one.count, 3, "nobody else answered: it was asked once from each node");
    assert_eq!(cluster.get(0, "/children")["count"], 1);
}

#[test]
fn bad_input_gets_an_answer_that_says_what_is_wrong() {
    let cluster = three();
    start(&cluster, 0, "one", &json!({}));
    let long = "n".repeat(1025);
    for (order, status, code) in [
        (json!({ "name": "one", "kind": "echo", "args": "other" }), 409, "already_registered"),
        (json!({ "name": "one", "kind": "echo", "restart": "temporary" }), 409, "already_registered"),
        (json!({ "name": "two", "kind": "nobody" }), 422, "no_such_kind"),
        (json!({ "name": "two", "kind": "no kind" }), 400, "bad_request"),
        (json!({ "name": "", "kind": "echo" }), 400, "bad_name"),
        (json!({ "name": long, "kind": "echo" }), 400, "bad_name"),
        (json!({ "name": "two", "kind": "echo", "args": 7 }), 400, "bad_request"),
        (json!({ "name": "two", "kind": "echo", "args": "a".repeat(20_000) }), 413, "too_large"),
        (json!({ "name": "two", "kind": "echo", "value": "a".repeat(20_000) }), 413, "too_large"),
        (json!({ "name": "two", "kind": "echo", "args": "a".repeat(70_000) }), 413, "too_large"),
        (json!({ "name": "two", "kind": "echo", "restart": "always" }), 400, "bad_request"),
        (json!({ "name": "two" }), 400, "bad_request"),
    ] {
        for number in 0..2 {
            let refused = post(&cluster, number, "/children", &order);
            assert_eq!((refused.status, &*refused.code()), (status, code), "{}", refused.text());
            assert_eq!(refused.json()["error"]["changed"], json!(false), "{}", refused.text());
        }
    }
    let temporary = json!({ "name": "two", "kind": "echo", "restart": "temporary" });
    assert_eq!(post(&cluster, 0, "/singletons", &temporary).status, 400);
    let http = &cluster.node(1).http;
    for (path, status) in [
        ("/registry/two", 404),
        ("/registry/%zz", 400),
        ("/registry?limit=10001", 400),
        ("/children/two", 404),
        ("/children?what=1", 400),
        ("/partitions?group=nobody", 400),
        (&*format!("/registry/{long}"), 400),
    ] {
        let refused = cluster.http.get(http, path).unwrap();
        assert_eq!(refused.status, status, "{path}: {}", refused.text());
    }
    let moved = settled("nothing moves", || cluster.http.post(http, "/children/two/move", &json!({})));
    assert_eq!(moved.status, 404, "{}", moved.text());
    assert_eq!(tell(&cluster, 1, "two", "hello").status, 404);
    assert_eq!(cluster.get(1, "/children")["count"], 1, "nothing is tracked of what was refused");
}

#[test]
fn a_child_that_ends_is_started_again_as_its_restart_says() {
    let cluster = three();
    start(&cluster, 0, "always", &json!({}));
    start(&cluster, 1, "after failures", &json!({ "restart": "transient" }));
    start(&cluster, 2, "never", &json!({ "restart": "temporary" }));
    let after = |name: &str, before: &Echoed| {
        let now = same_everywhere(&cluster, name);
        assert!(now.fence > before.fence && now.count <= 3, "{now:?} after {before:?}");
        now
    };
    let before = same_everywhere(&cluster, "always");
    let crashed = tell(&cluster, 1, "always", "crash");
    assert_eq!((crashed.status, &*crashed.code()), (500, "worker_failed"), "{}", crashed.text());
    let before = after("always", &before);
    assert_eq!(tell(&cluster, 2, "always", "stop").status, 200);
    after("always", &before);
    let shown = cluster.get(0, "/children/always");
    assert_eq!(shown["restarts"], 2, "{shown}");

    let before = same_everywhere(&cluster, "after failures");
    assert_eq!(tell(&cluster, 0, "after failures", "crash").status, 500);
    after("after failures", &before);
    assert_eq!(tell(&cluster, 0, "after failures", "stop").status, 200);
    gone_everywhere(&cluster, "after failures");

    same_everywhere(&cluster, "never");
    assert_eq!(tell(&cluster, 0, "never", "crash").status, 500);
    gone_everywhere(&cluster, "never");
}

#[test]
fn a_singleton_of_a_killed_node_runs_again_elsewhere_and_only_there() {
    let mut cluster = three();
    start(&cluster, 0, "one", &json!({}));
    let before = same_everywhere(&cluster, "one");
    cluster.kill9(cluster.number_of(&before.node));
    let asked = cluster.awake()[0];
    let first = echoed(&cluster, asked, "one");
    assert!(first.fence > before.fence && first.node != before.node, "{first:?} after {before:?}");
    assert_eq!(first.count, 1, "a killed one hands nothing over");
    let now = same_everywhere(&cluster, "one");
    assert_eq!((&now.node, now.fence), (&first.node, first.fence));
    // Whoever was killed comes back to nothing.
    cluster.start_all();
    cluster.wait_until_settled();
    let now = same_everywhere(&cluster, "one");
    assert_eq!((&now.node, now.fence), (&first.node, first.fence));
    assert_eq!(cluster.get(0, "/children")["count"], 1);
}

#[test]
fn a_singleton_of_a_frozen_node_runs_elsewhere_and_the_thawed_one_answers_no_more() {
    let mut cluster = Cluster::start(3, Options::default().flags(&["--partitions", "8", "--lease", "3s"]));
    start(&cluster, 0, "one", &json!({}));
    let before = same_everywhere(&cluster, "one");
    let holder = cluster.number_of(&before.node);
    cluster.freeze(holder);
    let other = cluster.awake()[0];
    let now = wait_until("another one answers", WITHIN, || {
        let path = "/children/one/echo";
        let told = cluster.http.post_text(&cluster.node(other).http, path, "hello")?;
        check(told.status == 200, || told.text()).map(|()| told.json())
    });
    let fence = now["fence"].as_u64().unwrap();
    assert!(fence > before.fence && now["node"] != json!(before.node), "{now} after {before:?}");
    // A lookup waits for nobody.
    assert_eq!(cluster.get(other, "/registry/one")["fence"], now["fence"]);
    cluster.thaw(holder);
    // Asked through the node that had it, and still believes so for a moment: it answers nothing that it may not.
    let told = tell(&cluster, holder, "one", "hello");
    assert!(told.status != 200 || told.json()["fence"].as_u64() >= Some(fence), "{}", told.text());
    cluster.wait_until_settled();
    let after = same_everywhere(&cluster, "one");
    assert_eq!((json!(after.node), after.fence), (now["node"].clone(), fence));
    assert_eq!(cluster.get(holder, "/children")["count"], 1);
}

#[test]
fn a_child_that_is_moved_takes_its_count_to_another_node() {
    let cluster = three();
    start(&cluster, 0, "one", &json!({}));
    same_everywhere(&cluster, "one");
    let before = same_everywhere(&cluster, "one");
    assert!(before.count >= 6, "{before:?}");
    let http = &cluster.node(0).http;
    let moved = settled("it moves", || cluster.http.post(http, "/children/one/move", &json!({})));
    assert_eq!((moved.status, &moved.json()["from"]), (202, &json!(before.node)), "{}", moved.text());
    let after = wait_until("it runs elsewhere", WITHIN, || {
        let now = echoed(&cluster, 0, "one");
        check(now.node != before.node, || format!("{now:?}")).map(|()| now)
    });
    assert!(after.fence > before.fence && after.count > before.count, "{after:?} after {before:?}");
}

#[test]
fn a_node_that_stops_in_good_order_hands_its_children_over() {
    let mut cluster = three();
    start(&cluster, 0, "one", &json!({}));
    same_everywhere(&cluster, "one");
    let before = same_everywhere(&cluster, "one");
    cluster.terminate(cluster.number_of(&before.node));
    let after = same_everywhere(&cluster, "one");
    assert!(after.node != before.node && after.fence > before.fence, "{after:?} after {before:?}");
    assert!(after.count > before.count, "{after:?} after {before:?}");
}

#[test]
fn the_command_line_starts_asks_moves_and_stops() {
    let cluster = three();
    let tumen = |args: &[&str]| {
        let mut command = node::bare();
        command.args(args).args(["--http", &cluster.node(1).http]);
        let done = command.output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (done.status.code().unwrap(), text(&done.stdout), text(&done.stderr))
    };
    let does = |args: &[&str]| {
        let (code, said, complained) = tumen(args);
        assert_eq!(code, 0, "{args:?}: {said}{complained}");
        said
    };
    assert_eq!(does(&["names"]), "none\n");
    let said =
        does(&["children", "start", "a b", "--args", "text", "--restart", "transient", "--value", "v"]);
    assert!(said.starts_with("a b, of the kind echo, is running on node-"), "{said}");
    does(&["singletons", "start", "one", "--placing", "least_loaded"]);
    let listed = does(&["children"]);
    assert!(
        listed.starts_with("NAME") && listed.contains("transient") && listed.contains("permanent"),
        "{listed}"
    );
    let listed = does(&["singletons", "list", "--prefix", "o"]);
    assert!(listed.contains("one") && listed.contains("least_loaded") && !listed.contains("a b"), "{listed}");
    let listed: Json = serde_json::from_str(&does(&["names", "--json"])).unwrap();
    assert_eq!((&listed["count"], &listed["names"][0]["value"]), (&json!(2), &json!("v")), "{listed}");
    assert!(does(&["children", "echo", "a b", "hello"]).ends_with("has answered 1 by now: hello\n"));
    let said = does(&["children", "move", "a b"]);
    assert!(said.starts_with("a b leaves node-"), "{said}");
    let said = does(&["children", "echo", "a b", "hello"]);
    assert!(said.ends_with("has answered 2 by now: hello\n"), "{said}");
    let said = does(&["singletons", "stop", "one"]);
    assert_eq!(said, "one runs no more, and is not started again\n");
    let (code, _, complained) = tumen(&["singletons", "stop", "one"]);
    assert!(code == 1 && complained.contains("not_found"), "{complained}");
    let (code, _, complained) = tumen(&["children", "start", "x", "--kind", "nobody"]);
    assert!(code == 1 && complained.contains("there are echo"), "{complained}");
    assert!(does(&["partitions", "--names"]).contains(&format!("names-{}", DIRECTORIES - 1)));
}

#[test]
fn what_the_cluster_is_told_is_put_read_and_deleted_from_every_node_and_by_hand() {
    let cluster = three();
    let ask = |what: &str, ask: &dyn Fn() -> Result<Answer, String>| settled(what, ask);
    let at = |number: usize| &cluster.node(number).http;
    let put = |number: usize, path: &str, body: &str| {
        ask("it is put", &|| cluster.http.put(at(number), path, body))
    };
    let told = put(0, "/meta/a%2Fb", r#"{"schema":7}"#);
    assert_eq!((told.status, &told.json()["key"]), (200, &json!("a/b")), "{}", told.text());
    for number in 0..3 {
        wait_until("all read it", WITHIN, || {
            let shown = cluster.try_get(number, "/meta/a%2Fb")?;
            check(shown["value"] == json!({ "schema": 7 }), || shown.to_string())
        });
        // A name of the same bytes there is not.
        assert_eq!(cluster.http.get(at(number), "/registry/a%2Fb").unwrap().status, 404);
        assert_eq!(cluster.get(number, "/registry")["count"], 0);
    }
    for (path, body, status) in [
        ("/meta/a", "no json", 400),
        ("/meta/a", &*format!("\"{}\"", "a".repeat(17_000)), 413),
        ("/meta/%zz", "1", 400),
    ] {
        let refused = put(1, path, body);
        assert_eq!(refused.status, status, "{}", refused.text());
    }
    let tumen = |args: &[&str]| {
        let done = node::bare().args(args).args(["--http", at(1)]).output().unwrap();
        let said = String::from_utf8_lossy(&done.stdout).into_owned();
        (done.status.code().unwrap(), said, String::from_utf8_lossy(&done.stderr).into_owned())
    };
    let (code, said, complained) = tumen(&["names", "meta", "put", "word", "hello"]);
    assert!(code == 0 && said.starts_with("the cluster is told so under word"), "{said}{complained}");
    assert_eq!(tumen(&["names", "meta", "put", "number", "--json-value", "7"]).0, 0);
    assert_eq!(tumen(&["names", "meta", "get", "word"]).1, "hello\n");
    assert_eq!(tumen(&["names", "meta", "get", "number"]).1, "7\n");
    let listed = tumen(&["names", "meta", "list", "--prefix", "w"]).1;
    assert!(listed.contains("word") && !listed.contains("number"), "{listed}");
    assert_eq!(tumen(&["names", "meta", "delete", "word"]).0, 0);
    let (code, _, complained) = tumen(&["names", "meta", "delete", "word"]);
    assert!(code == 1 && complained.contains("not_found"), "{complained}");
    assert_eq!(tumen(&["names"]).1, "none\n");
    let gone = ask("it is deleted", &|| cluster.http.delete(at(2), "/meta/a%2Fb"));
    assert_eq!(gone.status, 204, "{}", gone.text());
    wait_until("all know it", WITHIN, || {
        let status = cluster.http.get(at(0), "/meta/a%2Fb")?.status;
        check(status == 404, || status.to_string())
    });
}

#[test]
fn whoever_asks_is_told_of_names_and_children_and_they_are_counted() {
    use std::io::{BufRead, BufReader};
    use std::process::Stdio;

    let cluster = three();
    let refused = cluster.http.get(&cluster.node(0).http, "/events?names=perhaps").unwrap();
    assert_eq!(refused.status, 400, "{}", refused.text());
    let mut watching = node::bare()
        .args(["watch", "--names", "--prefix", "shop/", "--json", "--http", &cluster.node(2).http])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(watching.stdout.take().unwrap()).lines();
    let mut next = |wanted: &str| loop {
        let event: Json = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        assert_ne!(event["name"], "other", "it was asked for those that begin with shop/");
        if event["event"] == wanted {
            break event;
        }
    };
    next("snapshot");
    start(&cluster, 0, "other", &json!({}));
    let shown = start(&cluster, 0, "shop/1", &json!({}));
    let started = next("child_started");
    assert_eq!((&started["name"], &started["fence"]), (&json!("shop/1"), &shown["fence"]), "{started}");
    assert_eq!((&started["kind"], &started["node"]), (&json!("echo"), &shown["node"]));
    assert_eq!(tell(&cluster, 1, "shop/1", "crash").status, 500);
    let ended = next("child_ended");
    assert!(ended["reason"].as_str().unwrap().starts_with("crashed: "), "{ended}");
    assert_eq!(ended["goes_on"], true);
    next("child_started");
    let http = &cluster.node(1).http;
    settled("it moves", || cluster.http.post(http, "/children/shop%2F1/move", &json!({})));
    next("child_moving");
    next("child_started");
    settled("it is ended", || cluster.http.delete(http, "/children/shop%2F1"));
    let ended = next("child_ended");
    assert_eq!((&ended["reason"], &ended["goes_on"]), (&json!("normal"), &json!(false)), "{ended}");
    watching.kill().unwrap();
    watching.wait().unwrap();

    let taken = json!({ "name": "other", "kind": "echo", "args": "else" });
    assert_eq!(post(&cluster, 0, "/children", &taken).status, 409);
    let everywhere = |beginning: &str| cluster.counted_everywhere(beginning);
    wait_until("all is counted", WITHIN, || {
        let counted = [
            everywhere(r#"tumen_names_held{what="singleton"}"#),
            everywhere("tumen_directories_led "),
            everywhere("tumen_child_restarts_total "),
            everywhere("tumen_names_refused_total "),
        ];
        let expected = counted[..3] == [1, u64::from(DIRECTORIES), 1] && counted[3] >= 1;
        check(expected, || format!("{counted:?}"))
    });
    for number in 0..3 {
        assert_eq!(cluster.counted(number, "tumen_names "), 1);
    }
}
