//! Three nodes in a network that is cut into two and one.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends there")]

mod harness;

use harness::{Cluster, Options, PATIENCE, belief, check, state_of, wait_until};

/// Cuts one node off, looks at both sides, and heals the cut.
fn split(cluster: &Cluster, lone: usize) {
    let others: Vec<usize> = (0..3).filter(|number| *number != lone).collect();
    let name = cluster.node(lone).name.clone();
    let own_key = cluster.key_of(lone);
    let their_key = cluster.key_where(lone, |primary| primary != name);
    let before = cluster.version(lone);
    let id = cluster.get(lone, "/cluster")["id"].clone();

    cluster.cut(lone, &others);
    let after = wait_until("the majority goes on without it", PATIENCE, || {
        let shown = cluster.try_get(others[0], "/cluster")?;
        let version = shown["version"].as_u64().unwrap_or_default();
        let lost = state_of(&shown, &name) == Some("lost") && shown["leader"].is_string();
        check(version > before && lost, || shown.to_string())?;
        cluster.try_get(others[0], "/ready")?;
        cluster.try_get(others[1], "/ready")?;
        Ok::<_, String>(version)
    });

    // The majority serves everything, and takes writes.
    for key in [&own_key, &their_key] {
        for other in &others {
            cluster.put(*other, key, "majority");
        }
    }
    // The lone node knows what it is, and takes none, wherever they belong.
    let http = &cluster.node(lone).http;
    let ready = cluster.http.get(http, "/ready").unwrap();
    assert_eq!((ready.status, ready.code().as_str()), (503, "not_ready"), "{}", ready.text());
    for key in [&own_key, &their_key] {
        // What is sent into the cut before silence ended the session is answered truthfully: nobody knows what became of it.
        let put = wait_until("the lone node says that it is cut off", PATIENCE, || {
            let put = cluster.http.put(http, &format!("/kv/{key}"), "lone").unwrap();
            assert!(matches!(put.status, 503 | 504), "{}", put.text());
            check(put.code() == "no_quorum", || put.text()).map(|()| put)
        });
        assert_eq!(put.json()["error"]["changed"], false);
    }
    let shown = cluster.get(lone, "/cluster");
    assert_eq!(
        (&shown["id"], shown["version"].as_u64().unwrap()),
        (&id, before),
        "its version does not advance"
    );

    cluster.heal();
    let healed = cluster.wait_until_settled();
    assert_eq!(healed["id"], id);
    assert!(healed["version"].as_u64().unwrap() > after);
    for key in [&own_key, &their_key] {
        cluster.put(lone, key, "healed");
    }
    belief::check(cluster);
}

#[test]
fn a_node_that_does_not_lead_is_cut_off() {
    let cluster = Cluster::start(3, Options::default().proxies());
    let leader = cluster.leader(0);
    split(&cluster, (0..3).find(|number| *number != leader).unwrap());
    split(&cluster, (0..3).rfind(|number| *number != leader).unwrap());
}

#[test]
fn the_leader_is_cut_off() {
    let cluster = Cluster::start(3, Options::default().proxies());
    split(&cluster, cluster.leader(0));
}

#[test]
fn two_that_cannot_reach_each_other_both_serve_through_the_third() {
    let cluster = Cluster::start(3, Options::default().proxies());
    let leader = cluster.leader(0);
    let cut: Vec<usize> = (0..3).filter(|number| *number != leader).collect();
    cluster.cut(cut[0], &cut[1..]);
    // Whoever the leader hears of keeps its lease: nobody is deposed because two cannot see each other.
    let leased = |number: usize| cluster.try_get(number, "/ready");
    wait_until("all are leased", PATIENCE, || cut.iter().try_for_each(|number| leased(*number).map(drop)));
    let own = cluster.key_of(cut[0]);
    cluster.put(cut[0], &own, "own");
    cluster.heal();
    cluster.wait_until_settled();
    belief::check(&cluster);
}
