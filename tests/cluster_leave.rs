//! A node that is drained, and leaves then: it gives everything away, and is no member any more, while it still runs.
#![allow(missing_docs)]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends there")]

mod harness;

use harness::{Cluster, Options, PATIENCE, check, state_of, up, wait_until};
use serde_json::json;

#[test]
fn a_drained_node_that_leaves_gives_everything_away_and_is_no_member() {
    let mut cluster = Cluster::start(3, Options::default().flags(&["--partitions", "16", "--mode", "sync"]));
    let leaver = cluster.add(&[0, 1, 2]);
    cluster.launch(leaver);
    cluster.wait_until_settled();
    for number in 0..40 {
        cluster.put(leaver, &format!("key-{number}"), "kept");
    }
    let name = cluster.node(leaver).name.clone();
    let drained =
        cluster.http.post(&cluster.node(0).http, &format!("/nodes/{name}/drain"), &json!({"leave": true}));
    assert_eq!(drained.unwrap().status, 200);
    wait_until("it has left", PATIENCE, || {
        let shown = cluster.try_get(0, "/cluster")?;
        // It runs still, and is seen; but a member it is no more.
        let state = state_of(&shown, &name).unwrap_or("gone");
        check(up(&shown).len() == 3 && ["gone", "joining"].contains(&state), || shown.to_string())
    });
    for number in 0..40 {
        let got = cluster.http.get(&cluster.node(1).http, &format!("/kv/key-{number}")).unwrap();
        assert_eq!((got.status, got.text().as_str()), (200, "kept"));
    }
}
