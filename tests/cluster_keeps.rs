//! A change of members touches only what it must: partitions that did not move keep their workers and what these hold.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends there")]

mod harness;

use std::collections::BTreeMap;

use harness::{Cluster, Options, PATIENCE, belief, check, wait_until};

/// By partition: a key of it, its primary and its epoch.
fn partitions(cluster: &Cluster) -> BTreeMap<String, (String, String, u64)> {
    let mut found = BTreeMap::new();
    let count = cluster.get(0, "/partitions")["count"].as_u64().unwrap() as usize;
    for number in 0.. {
        let key = format!("key-{number}");
        let shown = cluster.get(0, &format!("/partitions/key?key={key}"));
        let primary = shown["primary_node"].as_str().unwrap().to_owned();
        let epoch = shown["epoch"].as_u64().unwrap();
        found.entry(shown["id"].as_str().unwrap().to_owned()).or_insert((key, primary, epoch));
        if found.len() == count {
            return found;
        }
    }
    unreachable!()
}

#[test]
fn unmoved_partitions_keep_their_workers() {
    // On a busy machine a node may fall silent for longer than a short lease: its partitions would move, as they should.
    let mut cluster = Cluster::start(3, Options::default().flags(&["--partitions", "24", "--lease", "8s"]));
    let mut before = partitions(&cluster);
    let write = |cluster: &Cluster, partitions: &BTreeMap<String, (String, String, u64)>| {
        for (id, (key, primary, epoch)) in partitions {
            cluster.put(0, key, &format!("{id} {primary} {epoch}"));
        }
    };
    // Of the partitions, those that did not move: each was begun once under its epoch. All have what was written.
    let compare = |cluster: &Cluster, before: &BTreeMap<String, (String, String, u64)>| {
        let after = partitions(cluster);
        let mut kept = 0;
        for (id, (key, primary, epoch)) in &after {
            let (_, was, was_epoch) = &before[id];
            let got = wait_until(&format!("{id} answers"), PATIENCE, || {
                let got = cluster.http.get(&cluster.node(0).http, &format!("/kv/{key}"))?;
                check(matches!(got.status, 200 | 404), || got.text()).map(|()| got)
            });
            assert_eq!((got.status, got.text()), (200, format!("{id} {was} {was_epoch}")), "{id}");
            if (was, was_epoch) == (primary, epoch) {
                kept += 1;
                assert_eq!(belief::begun(cluster, id, *epoch), 1, "{id} has a new worker");
            } else {
                assert!(epoch > was_epoch, "{id} moved without a new epoch");
            }
        }
        (kept, after)
    };
    write(&cluster, &before);

    let joined = cluster.add(&[0, 1, 2]);
    cluster.launch(joined);
    // The state goes first, and only then who serves it.
    cluster.wait_until_balanced();
    let (kept, after) = compare(&cluster, &before);
    assert_eq!(kept, 18, "the newcomer takes its quarter of 24, and nothing else moves");

    before = after;
    write(&cluster, &before);
    cluster.kill9(joined);
    cluster.wait_until_settled();
    let (kept, _) = compare(&cluster, &before);
    assert_eq!(kept, 18, "only what the killed node served has new primaries");
}
