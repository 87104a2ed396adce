//! Lost partitions: shown as such on every node, refused with that reason, and taken up again only once an operator accepts
//! the loss: with what is left, or anew. Who comes back with what was given up takes a copy of the rest.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends there")]

mod harness;

use std::collections::BTreeMap;
use std::process::{Command, Output, Stdio};

use harness::{Cluster, Options, PATIENCE, check, wait_until};
use serde_json::{Value as Json, json};

/// Five nodes: with two of them gone the voters still have a majority, and what is missing are copies; which nobody makes
/// anew elsewhere meanwhile.
fn start(copies: &str, disks: bool) -> Cluster {
    let flags = ["--mode", "sync", "--partitions", "8", "--replication", copies, "--rebuild-after", "10m"];
    Cluster::start(5, Options { disks, ..Options::default() }.flags(&flags))
}

/// By partition: a key of it.
fn keys(cluster: &Cluster) -> BTreeMap<String, String> {
    let mut keys = BTreeMap::new();
    for number in 0..10_000 {
        let key = format!("key-{number}");
        let shown = cluster.get(0, &format!("/partitions/key?key={key}"));
        keys.entry(shown["id"].as_str().unwrap().to_owned()).or_insert(key);
        if keys.len() == 8 {
            break;
        }
    }
    keys
}

/// Who has the copies of a partition that count.
fn copies(cluster: &Cluster, asked: usize, id: &str) -> Vec<usize> {
    let shown = cluster.get(asked, &format!("/partitions/{id}"));
    let nodes = shown["copies"].as_array().unwrap().iter();
    nodes.map(|copy| cluster.number_of(copy["node"].as_str().unwrap())).collect()
}

fn lost(cluster: &Cluster, asked: usize) -> Vec<String> {
    let shown = cluster.get(asked, "/partitions?lost=true");
    let ids = shown["partitions"].as_array().unwrap().iter();
    ids.map(|partition| partition["id"].as_str().unwrap().to_owned()).collect()
}

fn wait_until_lost(cluster: &Cluster, asked: usize, id: &str) {
    wait_until(&format!("{id} is lost"), PATIENCE, || {
        let shown = cluster.try_get(asked, &format!("/partitions/{id}"))?;
        check(shown["state"] == "lost" && shown["lost"] == true, || shown.to_string())?;
        let lost = lost(cluster, asked);
        check(lost.contains(&id.to_owned()), || format!("it is not among {lost:?}"))
    });
}

fn accept(cluster: &Cluster, asked: usize, id: &str) -> Json {
    let node = &cluster.node(asked).http;
    let answer = cluster.http.post(node, &format!("/partitions/{id}/accept-loss"), &json!({})).unwrap();
    assert_eq!(answer.status, 200, "{id}: {}", answer.text());
    answer.json()
}

fn tumen(cluster: &Cluster, asked: usize, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tumen"));
    command.args(args).args(["--http", &cluster.node(asked).http, "--timeout", "30s"]);
    command.env_clear().stdin(Stdio::null()).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Every copy that counts answers this of a key, and there are so many.
fn wait_until_all_have(cluster: &Cluster, asked: usize, id: &str, key: &str, count: usize, value: &str) {
    wait_until(&format!("{count} copies of {id} have {value:?}"), PATIENCE, || {
        let shown = cluster.try_get(asked, &format!("/partitions/{id}"))?;
        let all = shown["copies"].as_array().unwrap();
        let here = all.iter().all(|copy| copy["state"] == "here");
        check(all.len() == count && here && shown["state"] == "serving", || shown.to_string())?;
        for copy in copies(cluster, asked, id) {
            let path = format!("/kv/{key}?read=replica");
            let read = cluster.http.get(&cluster.node(copy).http, &path)?;
            check(read.status == 200 && read.text() == value, || format!("{copy}: {}", read.text()))?;
        }
        Ok::<_, String>(())
    });
}

#[test]
fn what_is_left_goes_on_once_the_loss_is_accepted_and_not_before() {
    let mut cluster = start("3", false);
    let keys = keys(&cluster);
    for key in keys.values() {
        cluster.put(0, key, "1");
    }
    // Two of the copies of the first partition go, its primary among them; and whatever else they have.
    let (id, key) = keys.iter().next().unwrap();
    let all = copies(&cluster, 0, id);
    let first = cluster.get(0, &format!("/partitions/{id}"));
    assert_eq!(
        (&first["state"], &first["write_quorum"], &first["seal_quorum"]),
        (&json!("serving"), &json!(2), &json!(2))
    );
    assert_eq!(all.len(), 3, "{first}");
    wait_until_all_have(&cluster, 0, id, key, 3, "1");
    let primary = cluster.number_of(first["primary_node"].as_str().unwrap());
    let survivor = *all.iter().find(|copy| **copy != primary).unwrap();
    let gone: Vec<usize> = all.into_iter().filter(|copy| *copy != survivor).collect();
    let asked = (0..5).find(|number| !gone.contains(number) && *number != survivor).unwrap();

    // Nothing is given up of what is not lost.
    let path = format!("/partitions/{id}/accept-loss");
    let refused = cluster.http.post(&cluster.node(asked).http, &path, &json!({})).unwrap();
    assert_eq!((refused.status, &*refused.code()), (409, "not_lost"), "{}", refused.text());
    assert_eq!(refused.json()["error"]["changed"], false);
    let nothing = "/partitions/partition-99/accept-loss";
    assert_eq!(cluster.http.post(&cluster.node(asked).http, nothing, &json!({})).unwrap().status, 404);
    assert_eq!(cluster.get(asked, "/partitions?lost=true")["count"], 0);
    cluster.put(asked, key, "1");

    let told = cluster.dir().join("told.json");
    let mut watching = Command::new(env!("CARGO_BIN_EXE_tumen"))
        .args(["watch", "--json", "--http", &cluster.node(asked).http])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .stdout(std::fs::File::create(&told).unwrap())
        .spawn()
        .unwrap();
    wait_until("events are followed", PATIENCE, || {
        let told = std::fs::read_to_string(&told).unwrap_or_default();
        check(told.contains("snapshot"), || told)
    });

    gone.iter().for_each(|number| cluster.freeze(*number));
    gone.iter().for_each(|number| cluster.kill9(*number));
    wait_until_lost(&cluster, asked, id);
    let shown = cluster.get(asked, &format!("/partitions/{id}"));
    assert_eq!(shown["waits_for"].as_array().unwrap().len(), 2, "{shown}");
    for number in cluster.awake() {
        wait_until("every node knows of it", PATIENCE, || {
            let shown = cluster.try_get(number, "/partitions")?;
            let rows = shown["partitions"].as_array().unwrap();
            let row = rows.iter().find(|row| row["id"] == **id).unwrap();
            check(row["lost"] == true, || row.to_string())
        });
    }
    // Whoever writes is told so, at once; and what a copy has is still there to be read.
    let put = cluster.http.put(&cluster.node(asked).http, &format!("/kv/{key}"), "vain").unwrap();
    assert_eq!((put.status, &*put.code()), (503, "lost"), "{}", put.text());
    assert_eq!(put.json()["error"]["changed"], false);
    let read = cluster.http.get(&cluster.node(survivor).http, &format!("/kv/{key}?read=replica")).unwrap();
    assert_eq!((read.status, &*read.text()), (200, "1"));
    assert!(read.own.contains_key("x-tumen-age-ms"));
    // So is whoever asks by the command line.
    let table = text(&tumen(&cluster, asked, &["partitions", "--lost"]).stdout);
    assert!(table.contains(&**id) && table.contains("LOST"), "{table}");
    let status = text(&tumen(&cluster, asked, &["status"]).stdout);
    assert!(status.contains("LOST: "), "{status}");
    let doctor = tumen(&cluster, asked, &["doctor"]);
    assert!(!doctor.status.success() && text(&doctor.stdout).starts_with("Lost: "), "{doctor:?}");
    let show = text(&tumen(&cluster, asked, &["partition", "show", id]).stdout);
    assert!(show.contains("is lost, waits for"), "{show}");
    let unsure = tumen(&cluster, asked, &["partition", "accept-loss", id]);
    assert!(!unsure.status.success() && text(&unsure.stderr).contains("--yes"), "{unsure:?}");
    wait_until_lost(&cluster, asked, id);

    let done = tumen(&cluster, asked, &["partition", "accept-loss", id, "--yes", "--json"]);
    assert!(done.status.success(), "{done:?}");
    let done: Json = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!(done["survivors"].as_array().unwrap().len(), 1, "{done}");
    assert_eq!(done["survivors"][0]["node"], *cluster.node(survivor).name, "{done}");
    assert_eq!(done["given_up"].as_array().unwrap().len(), 2, "{done}");
    assert!(done["epoch"].as_u64() > first["epoch"].as_u64() && done["empty"] == false, "{done}");
    wait_until("it goes on with what is left", PATIENCE, || {
        let read = cluster.http.get(&cluster.node(asked).http, &format!("/kv/{key}"))?;
        check(read.status == 200 && read.text() == "1", || read.text())
    });
    cluster.put(asked, key, "2");
    wait_until("it is told that it is found", PATIENCE, || {
        let told = std::fs::read_to_string(&told).unwrap_or_default();
        let lost = format!(r#""event":"partition_lost","partition":"{id}""#);
        let found = format!(r#""event":"partition_found","partition":"{id}""#);
        check(told.contains(&lost) && told.contains(&found), || told)
    });
    watching.kill().unwrap();
    watching.wait().unwrap();

    // Whoever returns, and remembers nothing, takes copies. Of other partitions that are lost too the loss is accepted now.
    gone.iter().for_each(|number| cluster.launch(*number));
    wait_until("nothing is lost any more", PATIENCE, || {
        for other in lost(&cluster, asked) {
            let path = format!("/partitions/{other}/accept-loss");
            let answer = cluster.http.post(&cluster.node(asked).http, &path, &json!({}))?;
            eprintln!("{other}: {} {}", answer.status, answer.text());
        }
        let lost = lost(&cluster, asked);
        check(lost.is_empty(), || format!("{lost:?}"))?;
        cluster.try_get(asked, "/ready")
    });
    wait_until_all_have(&cluster, asked, id, key, 3, "2");
    for key in keys.values() {
        cluster.put(asked, key, "3");
    }
}

#[test]
fn where_nothing_is_left_a_partition_begins_anew_and_says_so() {
    let mut cluster = start("1", false);
    let keys = keys(&cluster);
    let (id, key) = keys.iter().next().unwrap();
    cluster.put(0, key, "1");
    let only = copies(&cluster, 0, id);
    assert_eq!(only.len(), 1);
    let asked = (only[0] + 1) % 5;
    cluster.kill9(only[0]);
    wait_until_lost(&cluster, asked, id);
    // It does not help that the node comes back without its memory.
    cluster.launch(only[0]);
    wait_until("its copy is gone", PATIENCE, || {
        let shown = cluster.try_get(asked, &format!("/partitions/{id}"))?;
        check(shown["state"] == "lost" && shown["copies"][0]["state"] == "gone", || shown.to_string())
    });
    let done = accept(&cluster, asked, id);
    assert_eq!((&done["empty"], &done["survivors"]), (&json!(true), &json!([])), "{done}");
    wait_until("there is nothing", PATIENCE, || {
        let read = cluster.http.get(&cluster.node(asked).http, &format!("/kv/{key}"))?;
        check(read.status == 404, || format!("{} {}", read.status, read.text()))
    });
    cluster.put(asked, key, "2");
}

#[test]
fn who_comes_back_with_what_was_given_up_takes_a_copy_of_the_rest() {
    let mut cluster = start("2", true);
    let keys = keys(&cluster);
    for key in keys.values() {
        cluster.put(0, key, "1");
    }
    // The copies that lag count no more; then those that do not are gone, with their disks for now.
    let (id, _) = keys.iter().next().unwrap();
    let pair = copies(&cluster, 0, id);
    let primary = cluster.get(0, &format!("/partitions/{id}"))["primary_node"].as_str().unwrap().to_owned();
    let primary = cluster.number_of(&primary);
    let lagging = *pair.iter().find(|copy| **copy != primary).unwrap();
    let asked = (0..5).find(|number| *number != primary && *number != lagging).unwrap();
    cluster.freeze(lagging);
    for key in keys.values() {
        cluster.put(asked, key, "2");
    }
    wait_until("it counts no more", PATIENCE, || {
        let copies = copies(&cluster, asked, id);
        check(copies == [primary], || format!("{copies:?}"))
    });
    cluster.freeze(primary);
    cluster.kill9(primary);
    cluster.thaw(lagging);
    wait_until("the one that lags is back", PATIENCE, || {
        let shown = cluster.try_get(asked, "/cluster")?;
        check(harness::up(&shown).len() == 4, || shown.to_string())
    });
    wait_until_lost(&cluster, asked, id);
    let mut given_up = Vec::new();
    wait_until("nothing is lost any more", PATIENCE, || {
        for id in lost(&cluster, asked) {
            let shown = cluster.try_get(asked, &format!("/partitions/{id}"))?;
            let answer = cluster.http.post(
                &cluster.node(asked).http,
                &format!("/partitions/{id}/accept-loss"),
                &json!({}),
            )?;
            check(answer.status == 200, || answer.text())?;
            let leads = shown["primary_node"] == *cluster.node(lagging).name;
            eprintln!("{id} (led by the copy that lags: {leads}): {}", answer.text());
            given_up.push(id);
        }
        let lost = lost(&cluster, asked);
        check(lost.is_empty(), || format!("{lost:?}"))
    });
    assert!(given_up.contains(id), "{given_up:?}");
    // Nobody tells what was given up, neither of the two values.
    for id in &given_up {
        let key = &keys[id];
        wait_until("it begins anew", PATIENCE, || {
            let read = cluster.http.get(&cluster.node(asked).http, &format!("/kv/{key}"))?;
            assert_ne!(read.status, 200, "{key} of {id} is {}", read.text());
            check(read.status == 404, || read.text())
        });
        cluster.put(asked, key, "3");
    }
    cluster.launch(primary);
    wait_until("all are members again", PATIENCE, || {
        let shown = cluster.try_get(asked, "/cluster")?;
        check(harness::up(&shown).len() == 5, || shown.to_string())
    });
    for id in &given_up {
        wait_until_all_have(&cluster, asked, id, &keys[id], 2, "3");
    }
    let logs: String = cluster.logs().iter().map(|log| std::fs::read_to_string(log).unwrap()).collect();
    let forgotten = logs.matches("its bytes are forgotten, and it begins anew").count();
    eprintln!("{} partitions were given up, {forgotten} copies began anew to lead", given_up.len());
}
