//! Where availability goes first: how the cluster is configured, on both sides of a split and once they are one again.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends there")]

mod nodes;

use std::collections::BTreeMap;
use std::time::Duration;

use nodes::sides::{are_one, become_one, cluster, names_of};
use nodes::until;
use tumen_actors::node::Runtime;
use tumen_actors::transport::simulated::{Weather, World};
use tumen_core::cluster::configuration::{Expected, Json, Key, News};
use tumen_core::ids::ConfigVersion;

const WITHIN: Duration = Duration::from_secs(5);

async fn write(node: &Runtime, key: &str, value: Option<&str>) -> ConfigVersion {
    let value = value.map(|value| Json::new(value).unwrap());
    let written = node.configure(Key::new(key).unwrap(), Expected::Anything, value, WITHIN).await;
    written.unwrap_or_else(|why| panic!("{key} at {}: {why}", node.id())).version
}

fn shown(node: &Runtime) -> (ConfigVersion, BTreeMap<String, (u64, String)>) {
    let view = node.configuration().view();
    let one = |(key, entry): (&Key, &tumen_core::cluster::configuration::Entry)| {
        (key.to_string(), (entry.version.0, entry.value.to_string()))
    };
    (view.all().version(), view.all().under("").map(one).collect())
}

async fn until_shown(nodes: &[Runtime], expected: &[(&str, u64, String)], version: u64) {
    let one = |(key, version, value): &(&str, u64, String)| ((*key).to_owned(), (*version, value.clone()));
    let expected: BTreeMap<_, _> = expected.iter().map(one).collect();
    let same = || nodes.iter().all(|node| shown(node) == (ConfigVersion(version), expected.clone()));
    if tokio::time::timeout(Duration::from_secs(50), until("all show the same", same)).await.is_err() {
        panic!("{:?}", nodes.iter().map(|node| (node.id(), shown(node).0)).collect::<Vec<_>>());
    }
}

#[tokio::test(start_paused = true)]
async fn each_side_begins_with_how_the_cluster_was_configured_and_in_the_end_one_of_both_holds() {
    for (seed, at, all) in [(1, 2, 4), (2, 1, 2), (3, 1, 4)] {
        let world = World::new(seed, Weather::default());
        let nodes = cluster(&world, all).await;
        // More than one message can carry: a side begins with it in pieces.
        let large = |n: u32| format!("\"{}\"", n.to_string().repeat(50_000));
        write(&nodes[0], "gone", Some("1")).await;
        for n in 0..6 {
            write(&nodes[n % nodes.len()], &format!("large/{n}"), Some(&large(n as u32))).await;
        }
        write(&nodes[0], "limit", Some("1")).await;
        write(&nodes[0], "gone", None).await;
        let mut expected: Vec<_> = (0..6)
            .map(|n| {
                (
                    ["large/0", "large/1", "large/2", "large/3", "large/4", "large/5"][n],
                    n as u64 + 2,
                    large(n as u32),
                )
            })
            .collect();
        expected.push(("limit", 8, "1".to_owned()));
        until_shown(&nodes, &expected, 9).await;
        let (some, others) = nodes.split_at(at);
        world.cut(&names_of(some), &names_of(others));
        until("both sides are whole", || are_one(some) && are_one(others)).await;
        for side in [some, others] {
            until_shown(side, &expected, 9).await;
        }
        // Each goes on from there, by itself.
        let mut watch = nodes[0].configuration().watch_after("limit".into(), ConfigVersion(9));
        for (side, value) in [(some, "2"), (others, "3")] {
            assert_eq!(write(&side[0], "limit", Some(value)).await, ConfigVersion(10));
            let last = expected.len() - 1;
            expected[last] = ("limit", 10, value.to_owned());
            until_shown(side, &expected, 10).await;
        }
        let heard = watch.next().await;
        assert!(matches!(&heard[..], [News::Changed { version: ConfigVersion(10), .. }]), "{heard:?}");
        world.heal_all();
        become_one(&nodes).await;
        until("all show one of both", || {
            let first = shown(&nodes[0]);
            first.0 == ConfigVersion(10) && nodes.iter().all(|node| shown(node) == first)
        })
        .await;
        let held = &shown(&nodes[0]).1["limit"];
        assert!([(10, "2".to_owned()), (10, "3".to_owned())].contains(held), "{held:?}");
        if 2 * at < all {
            assert_eq!(held.1, "3", "the side that kept the majority stays");
        }
        assert_eq!(write(&nodes[at], "limit", Some("4")).await, ConfigVersion(11));
        let last = expected.len() - 1;
        expected[last] = ("limit", 11, "4".to_owned());
        until_shown(&nodes, &expected, 11).await;
        world.end();
    }
}

#[tokio::test(start_paused = true)]
async fn a_side_begins_with_the_last_change_that_any_of_its_nodes_heard_of() {
    for seed in 1..=3 {
        let world = World::new(seed, Weather::default());
        let nodes = cluster(&world, 4).await;
        write(&nodes[0], "limit", Some("1")).await;
        until_shown(&nodes, &[("limit", 1, "1".to_owned())], 1).await;
        // Of two nodes that are no majority of the voters the first, who is to found their side, hears of no change any more.
        until("three vote", || nodes.iter().all(|node| node.voting().len() == 3)).await;
        let (leads, votes) = (nodes[0].leader().unwrap(), nodes[0].voting());
        let voter = (0..4).find(|at| nodes[*at].id().node != leads && votes.contains(&nodes[*at].id().node));
        let bystander = (0..4).find(|at| !votes.contains(&nodes[*at].id().node));
        let mut with = [voter.unwrap(), bystander.unwrap()];
        with.sort_unstable();
        let names: Vec<_> = with.iter().map(|at| nodes[*at].id().node.clone()).collect();
        let others: Vec<_> = names_of(&nodes).into_iter().filter(|name| !names.contains(name)).collect();
        world.cut(&names[..1], &others);
        let writer = nodes.iter().find(|node| node.id().node == leads).unwrap();
        write(writer, "limit", Some("2")).await;
        until("the second heard of it", || shown(&nodes[with[1]]).0 == ConfigVersion(2)).await;
        assert_eq!(shown(&nodes[with[0]]).0, ConfigVersion(1), "nobody told it");
        world.cut(&names[1..], &others);
        let side: Vec<Runtime> = with.iter().map(|at| nodes[*at].clone()).collect();
        until("the side is whole", || are_one(&side)).await;
        until_shown(&side, &[("limit", 2, "2".to_owned())], 2).await;
        world.end();
    }
}
