//! Real processes in which availability goes first: cut in halves, both go on with all names, and healed there is one of each.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends there")]

mod harness;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use harness::{Cluster, Options, check, up, wait_until};
use serde_json::{Value as Json, json};

/// How long anything may take.
const WITHIN: Duration = Duration::from_secs(90);
/// How many names there are.
const NAMES: usize = 1_000;

/// On which node each child runs, and by which actor, as a node shows it.
fn shown(cluster: &Cluster, number: usize) -> Result<BTreeMap<String, (String, u64)>, String> {
    let listed = cluster.try_get(number, "/registry?prefix=n-&limit=10000")?;
    let names = listed["names"].as_array().ok_or("no list")?;
    let of = |one: &Json| {
        let node = one["node"].as_str()?.to_owned();
        Some((one["name"].as_str()?.to_owned(), (node, one["fence"].as_u64()?)))
    };
    names.iter().map(|one| of(one).ok_or_else(|| one.to_string())).collect()
}

fn all_on(cluster: &Cluster, number: usize, side: &[usize]) {
    let nodes: BTreeSet<String> = side.iter().map(|at| cluster.node(*at).name.clone()).collect();
    wait_until("all names are held on this side", WITHIN, || {
        let shown = shown(cluster, number)?;
        let elsewhere = shown.values().filter(|(node, _)| !nodes.contains(node)).count();
        check(shown.len() == NAMES && elsewhere == 0, || {
            format!("{} names, {elsewhere} elsewhere", shown.len())
        })
    });
}

/// Asks a child, which says where it runs, and how many messages it has answered.
fn echoed(cluster: &Cluster, number: usize, name: &str) -> (String, u64) {
    let http = &cluster.node(number).http;
    let told = wait_until(&format!("{name} answers"), WITHIN, || {
        let answer = cluster.http.post_text(http, &format!("/children/{name}/echo"), "hello")?;
        check(answer.status == 200, || answer.text()).map(|()| answer.json())
    });
    (told["node"].as_str().unwrap().to_owned(), told["count"].as_u64().unwrap())
}

fn is_whole(cluster: &Cluster, side: &[usize]) -> Result<(), String> {
    let mut names: Vec<&str> = side.iter().map(|at| cluster.node(*at).name.as_str()).collect();
    names.sort_unstable();
    let mut ids = BTreeSet::new();
    for number in side {
        cluster.try_get(*number, "/ready")?;
        let shown = cluster.try_get(*number, "/cluster")?;
        check(up(&shown) == names, || shown.to_string())?;
        ids.insert(shown["id"].as_str().unwrap_or_default().to_owned());
    }
    check(ids.len() == 1, || format!("{ids:?}"))
}

#[test]
fn four_nodes_split_in_halves_each_resolve_a_thousand_names_and_healed_there_is_one_of_each() {
    let flags = ["--consistency", "available", "--partitions", "8", "--lease", "5s"];
    let mut cluster = Cluster::prepare(4, Options::default().flags(&flags).proxies());
    cluster.start_all();
    let before = cluster.wait_until_settled()["id"].clone();
    std::thread::scope(|scope| {
        for at in 0..4 {
            let cluster = &cluster;
            scope.spawn(move || {
                for n in (at..NAMES).step_by(4) {
                    let order = json!({ "name": format!("n-{n}"), "kind": "echo", "args": "" });
                    wait_until("it is started", WITHIN, || {
                        let answer = cluster.http.post(&cluster.node(at).http, "/children", &order)?;
                        check(matches!(answer.status, 200 | 201), || answer.text())
                    });
                }
            });
        }
    });
    for number in 0..4 {
        all_on(&cluster, number, &[0, 1, 2, 3]);
    }
    let sample: Vec<String> = (0..NAMES).step_by(50).map(|n| format!("n-{n}")).collect();
    let first: Vec<(String, u64)> = sample.iter().map(|name| echoed(&cluster, 0, name)).collect();

    for number in 0..2 {
        cluster.cut(number, &[2, 3]);
    }
    for side in [[0, 1], [2, 3]] {
        wait_until("a side is whole", WITHIN, || is_whole(&cluster, &side));
        for number in side {
            all_on(&cluster, number, &side);
        }
        let nodes = side.map(|at| cluster.node(at).name.clone());
        for (name, (node, count)) in sample.iter().zip(&first) {
            let now = echoed(&cluster, side[0], name);
            assert!(nodes.contains(&now.0), "{name} answers on this side: {now:?}");
            assert!(
                !nodes.contains(node) || now == (node.clone(), count + 1),
                "what ran here runs on: {name}"
            );
        }
    }
    let ids = [0, 2].map(|number| cluster.get(number, "/cluster")["id"].clone());
    assert_ne!(ids[0], ids[1]);
    assert!(ids.contains(&before), "the side with the majority of the voters is what it was");

    cluster.heal();
    wait_until("they are one again", WITHIN, || is_whole(&cluster, &[0, 1, 2, 3]));
    assert_eq!(cluster.get(3, "/cluster")["id"], before);
    wait_until("all agree on who holds each name", WITHIN, || {
        let each = (0..4).map(|number| shown(&cluster, number)).collect::<Result<Vec<_>, _>>()?;
        let same = each.iter().all(|shown| *shown == each[0]);
        check(same && each[0].len() == NAMES, || {
            format!("{:?}", each.iter().map(BTreeMap::len).collect::<Vec<_>>())
        })
    });
    // The instance from before the split has run for longest, and remains.
    for (name, (node, count)) in sample.iter().zip(&first) {
        assert_eq!(echoed(&cluster, 1, name), (node.clone(), count + 2), "{name}");
    }
    wait_until("nothing runs twice", WITHIN, || {
        let mut running = 0.0;
        for number in 0..4 {
            let page = cluster.http.get(&cluster.node(number).http, "/metrics")?.text();
            for what in ["child", "singleton"] {
                let start = format!("tumen_names_held{{what=\"{what}\"}} ");
                let figure = page.lines().find_map(|line| line.strip_prefix(&start)?.parse::<f64>().ok());
                running += figure.ok_or("no such figure")?;
            }
        }
        check((running - NAMES as f64).abs() < 0.5, || format!("{running} run"))
    });
}

#[test]
fn what_does_not_go_with_it_is_refused_before_anything_runs() {
    let flags = ["--consistency", "available"];
    for (more, why) in [
        (&["--mode", "sync"][..], "needs mode async"),
        (&["--data-dir", "somewhere"][..], "does not go with consistency available"),
        (&["--consistency", "both"][..], "majority|available"),
    ] {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_tumen"))
            .args(["node", "--name", "a", "--listen", "127.0.0.1:0", "--http", "off"])
            .args(if more[0] == "--consistency" { &[][..] } else { &flags[..] })
            .args(more)
            .output()
            .unwrap();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && told.contains(why), "{told}");
    }
}
