//! The cluster's own configuration on whole nodes, over the simulated network: one order everywhere, whatever happens to the
//! nodes, and errors that are true about whether anything may change.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends there")]

mod nodes;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::join_all;
use nodes::{all_ready, cluster, start, three_vote, until};
use tumen_actors::cluster::pubsub;
use tumen_actors::node::{ConfigFailure, ControlReport, NotReady, Runtime};
use tumen_actors::transport::simulated::{Weather, World};
use tumen_core::cluster::configuration::{Expected, Json, Key, News, Refused, Written};
use tumen_core::ids::{ConfigVersion, NodeName};
use tumen_core::partitions::request::Failure;

const WITHIN: Duration = Duration::from_secs(5);

async fn write(
    node: &Runtime,
    key: &str,
    expected: Expected,
    value: Option<&str>,
) -> Result<Written, ConfigFailure> {
    let value = value.map(|value| Json::new(value).unwrap());
    node.configure(Key::new(key).unwrap(), expected, value, WITHIN).await
}

async fn set(node: &Runtime, key: &str, value: &str) -> Result<ConfigVersion, ConfigFailure> {
    write(node, key, Expected::Anything, Some(value)).await.map(|written| written.version)
}

/// Until it is done: whoever does not know what became of a write reads, and decides.
async fn set_at_last(node: &Runtime, key: &str, value: &str) -> ConfigVersion {
    for _ in 0..100 {
        match set(node, key, value).await {
            Ok(version) => return version,
            Err(ConfigFailure::NotVisible(version)) => return version,
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
    panic!("{key} cannot be set");
}

fn read(node: &Runtime, key: &str) -> Option<(u64, String)> {
    let entry = node.configuration().get(key)?;
    Some((entry.version.0, entry.value.as_str().to_owned()))
}

fn shown(node: &Runtime) -> BTreeMap<String, (u64, String)> {
    let view = node.configuration().view();
    let one = |(key, entry): (&Key, &tumen_core::cluster::configuration::Entry)| {
        (key.to_string(), (entry.version.0, entry.value.to_string()))
    };
    view.all().under("").map(one).collect()
}

async fn until_all_agree(nodes: &[&Runtime]) {
    until("all hold the same", || {
        let first = (nodes[0].configuration().version(), shown(nodes[0]));
        nodes.iter().all(|node| (node.configuration().version(), shown(node)) == first)
    })
    .await;
}

async fn five() -> (World, Vec<Runtime>) {
    let world = World::new(71, Weather::default());
    let nodes = cluster(&world, 5).await;
    until("five vote", || nodes.iter().all(|node| node.voting().len() == 5)).await;
    (world, nodes)
}

fn leader_of(nodes: &[Runtime]) -> usize {
    nodes.iter().position(|node| node.leader().as_ref() == Some(&node.id().node)).unwrap()
}

/// Everything that a node hears, as long as the test runs.
fn heard_by(node: &Runtime) -> Arc<Mutex<Vec<News>>> {
    let heard = Arc::new(Mutex::new(Vec::new()));
    let (mut watch, to) = (node.configuration().watch(String::new()), Arc::clone(&heard));
    tokio::spawn(async move {
        loop {
            let news = watch.next().await;
            to.lock().unwrap().extend(news);
        }
    });
    heard
}

/// The versions that were heard, if nothing was missed.
fn versions(heard: &Mutex<Vec<News>>) -> Vec<u64> {
    let version = |news: &News| match news {
        News::Changed { version, .. } => version.0,
        News::Missed { count } => panic!("{count} are missed"),
    };
    heard.lock().unwrap().iter().map(version).collect()
}

#[tokio::test(start_paused = true)]
async fn one_node_alone_is_configured() {
    let world = World::new(70, Weather::default());
    let nodes = cluster(&world, 1).await;
    assert_eq!(set(&nodes[0], "feature", "true").await, Ok(ConfigVersion(1)));
    assert_eq!(read(&nodes[0], "feature"), Some((1, "true".into())));
    let gone = write(&nodes[0], "feature", Expected::Something, None).await;
    assert_eq!(gone, Ok(Written { version: ConfigVersion(2), changed: true }));
    assert_eq!(read(&nodes[0], "feature"), None);
    let not_there = write(&nodes[0], "feature", Expected::Anything, None).await;
    assert_eq!(not_there, Ok(Written { version: ConfigVersion(2), changed: false }));
    nodes[0].stop().await;
}

#[tokio::test(start_paused = true)]
async fn three_of_five_agree_and_whoever_was_away_catches_up() {
    let (world, nodes) = five().await;
    let leader = leader_of(&nodes);
    let away = [(leader + 1) % 5, (leader + 2) % 5];
    away.iter().for_each(|at| world.freeze(&nodes[*at].id().node));
    let awake: Vec<&Runtime> = (0..5).filter(|at| !away.contains(at)).map(|at| &nodes[at]).collect();
    for (number, node) in awake.iter().enumerate() {
        let key = format!("key/{number}");
        let version = set(node, &key, "[1]").await.unwrap();
        assert_eq!(read(node, &key), Some((version.0, "[1]".into())), "at once, where it was set");
        for other in &awake {
            tokio::time::timeout(WITHIN, other.configuration().reached(version)).await.unwrap();
            assert_eq!(read(other, &key), Some((version.0, "[1]".into())));
        }
    }
    away.iter().for_each(|at| world.thaw(&nodes[*at].id().node));
    until_all_agree(&nodes.iter().collect::<Vec<_>>()).await;
    assert_eq!(shown(&nodes[away[0]]).len(), 3);
}

/// Freezes three of five, lets the two others try, and looks afterwards whether what they were told is true.
async fn two_of_five(freeze_leader: bool, wait: Duration) {
    let (world, nodes) = five().await;
    set(&nodes[0], "before", "0").await.unwrap();
    let leader = leader_of(&nodes);
    let first = if freeze_leader { 0 } else { 1 };
    let frozen: Vec<usize> = (first..first + 3).map(|step| (leader + step) % 5).collect();
    frozen.iter().for_each(|at| world.freeze(&nodes[*at].id().node));
    let awake: Vec<&Runtime> = (0..5).filter(|at| !frozen.contains(at)).map(|at| &nodes[at]).collect();
    tokio::time::sleep(wait).await;
    let tries = awake.iter().enumerate().map(|(number, node)| async move {
        let key = format!("try/{number}");
        (set(node, &key, "1").await, key)
    });
    let outcomes = join_all(tries).await;
    for (outcome, key) in &outcomes {
        let told = matches!(
            outcome,
            Err(ConfigFailure::Call(Failure::NoQuorum | Failure::Timeout { maybe_applied: true }))
        );
        assert!(told, "{key}: {outcome:?}");
        // Nobody has it as long as no majority is there.
        assert!(awake.iter().all(|node| read(node, key).is_none()));
    }
    if wait > Duration::from_secs(3) {
        let none = Err(ConfigFailure::Call(Failure::NoQuorum));
        assert!(outcomes.iter().all(|(outcome, _)| *outcome == none), "{outcomes:?}");
    }
    frozen.iter().for_each(|at| world.thaw(&nodes[*at].id().node));
    all_ready(&nodes).await;
    // Whatever was on its way has come, or never will.
    tokio::time::sleep(Duration::from_secs(10)).await;
    let last = set_at_last(awake[0], "after", "2").await;
    until("all have it", || nodes.iter().all(|node| node.configuration().version() >= last)).await;
    until_all_agree(&nodes.iter().collect::<Vec<_>>()).await;
    for (outcome, key) in outcomes {
        if outcome == Err(ConfigFailure::Call(Failure::NoQuorum)) {
            assert_eq!(read(&nodes[0], &key), None, "surely nothing changed");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn two_of_five_are_told_the_truth_whenever_they_try() {
    for freeze_leader in [true, false] {
        for wait in [Duration::ZERO, Duration::from_millis(700), Duration::from_secs(10)] {
            two_of_five(freeze_leader, wait).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn who_comes_back_or_joins_has_everything_once_it_is_ready() {
    let (world, mut nodes) = five().await;
    let leader = leader_of(&nodes);
    // As long as their plans are the same the one that is cut off may vote again; one that comes anew never did.
    let away = (leader + 1) % 5;
    let others: Vec<NodeName> =
        (0..5).filter(|at| *at != away).map(|at| nodes[at].id().node.clone()).collect();
    let own = [nodes[away].id().node.clone()];
    world.cut(&own, &others);
    // More than the changes that are kept.
    for batch in 0..25 {
        let sets = (0..50).map(|n| {
            let node = &nodes[(leader + 2 + n % 3) % 5];
            async move { set_at_last(node, &format!("key/{}", n * batch % 200), &n.to_string()).await }
        });
        join_all(sets).await;
    }
    assert!(nodes[leader].configuration().version() > ConfigVersion(1200));
    assert_eq!(nodes[away].configuration().version(), ConfigVersion::ZERO);
    world.heal_all();
    until_all_agree(&nodes.iter().collect::<Vec<_>>()).await;
    // Another boot of it, and two that are new.
    world.crash(nodes[away].id());
    let again = start(&world, away + 1, &[leader + 1], 1).await;
    nodes.push(start(&world, 6, &[leader + 1], 1).await);
    nodes.push(start(&world, 7, &[leader + 1], 1).await);
    nodes[away] = again;
    let (newest, all) = (nodes[leader].configuration().version(), shown(&nodes[leader]));
    for at in [away, 5, 6] {
        let node = &nodes[at];
        until("it is ready", || {
            let ready = node.ready();
            if ready.is_ok() {
                assert_eq!((node.configuration().version(), shown(node)), (newest, all.clone()));
            }
            ready.is_ok()
        })
        .await;
    }
    // Those who do not vote hear of each change, and change things like everybody.
    let version = set(&nodes[6], "by/7", "7").await.unwrap();
    assert_eq!(read(&nodes[6], "by/7"), Some((version.0, "7".into())));
    until_all_agree(&nodes.iter().collect::<Vec<_>>()).await;
}

#[tokio::test(start_paused = true)]
async fn who_sets_the_same_key_at_once_has_one_order_everywhere() {
    let (_world, nodes) = five().await;
    let heard: Vec<_> = nodes.iter().map(heard_by).collect();
    for round in 0..20 {
        let sets = nodes.iter().enumerate().map(|(at, node)| async move {
            let value = format!("[{round},{at}]");
            (set(node, "same", &value).await.unwrap().0, value)
        });
        let told = join_all(sets).await;
        let last = told.iter().max().unwrap().clone();
        until_all_agree(&nodes.iter().collect::<Vec<_>>()).await;
        assert_eq!(read(&nodes[0], "same"), Some(last), "the last in the order is what stands");
        let each: BTreeSet<u64> = told.iter().map(|(version, _)| *version).collect();
        assert_eq!(each, (5 * round + 1..=5 * round + 5).collect::<BTreeSet<u64>>(), "each its own place");
    }
    until("all have heard", || heard.iter().all(|heard| heard.lock().unwrap().len() == 100)).await;
    let first = heard[0].lock().unwrap().clone();
    assert!(heard.iter().all(|heard| *heard.lock().unwrap() == first), "the same, in the same order");
    assert_eq!(versions(&heard[0]), (1..=100).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn of_those_who_compare_and_set_at_once_one_wins() {
    let (_world, nodes) = five().await;
    let mut there = Expected::Nothing;
    for round in 1..=20 {
        let races = (0..10).map(|n| {
            let node = &nodes[n % 5];
            async move { write(node, "counter", there, Some(&format!("{round}"))).await }
        });
        let outcomes = join_all(races).await;
        let won: Vec<ConfigVersion> = outcomes.iter().flatten().map(|written| written.version).collect();
        assert_eq!(won, [ConfigVersion(round)], "{outcomes:?}");
        let lost = Err(ConfigFailure::Refused(Refused::Differs { found: Some(won[0]) }));
        assert_eq!(outcomes.iter().filter(|outcome| **outcome == lost).count(), 9, "{outcomes:?}");
        there = Expected::Version(won[0]);
    }
}

/// While leaders are lost one after the other: all that was acknowledged stands, and whoever watches hears each change once.
#[tokio::test(start_paused = true)]
async fn each_watcher_hears_each_version_once_over_changes_of_the_leader() {
    let (world, nodes) = five().await;
    let heard: Vec<_> = nodes.iter().map(heard_by).collect();
    let acknowledged = Arc::new(Mutex::new(Vec::new()));
    let stopping = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let writers: Vec<_> = (0..5)
        .map(|at| {
            let (node, acknowledged, stopping) =
                (nodes[at].clone(), Arc::clone(&acknowledged), Arc::clone(&stopping));
            tokio::spawn(async move {
                let mut number = 0;
                while !stopping.load(std::sync::atomic::Ordering::Relaxed) {
                    number += 1;
                    let (key, value) = (format!("of/{at}"), number.to_string());
                    match set(&node, &key, &value).await {
                        Ok(version) => acknowledged.lock().unwrap().push((version.0, key, value)),
                        Err(error) => assert!(
                            matches!(
                                error,
                                ConfigFailure::NotVisible(_)
                                    | ConfigFailure::Call(
                                        Failure::NoQuorum | Failure::Timeout { maybe_applied: true }
                                    )
                            ),
                            "{error}"
                        ),
                    }
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            })
        })
        .collect();
    for round in 0..6 {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let leader = leader_of(&nodes);
        let name = nodes[leader].id().node.clone();
        if round % 2 == 0 {
            world.freeze(&name);
        } else {
            let others: Vec<NodeName> =
                nodes.iter().map(|node| node.id().node.clone()).filter(|other| *other != name).collect();
            world.cut(std::slice::from_ref(&name), &others);
        }
        until("another one leads", || {
            nodes.iter().enumerate().any(|(at, node)| {
                at != leader && node.leader().is_some_and(|now| now != name && node.id().node == now)
            })
        })
        .await;
        tokio::time::sleep(Duration::from_secs(2)).await;
        world.thaw(&name);
        world.heal_all();
        all_ready(&nodes).await;
    }
    stopping.store(true, std::sync::atomic::Ordering::Relaxed);
    for writer in writers {
        writer.await.unwrap();
    }
    tokio::time::sleep(Duration::from_secs(10)).await;
    until_all_agree(&nodes.iter().collect::<Vec<_>>()).await;
    let newest = nodes[0].configuration().version().0;
    until("all have heard", || heard.iter().all(|heard| heard.lock().unwrap().len() as u64 == newest)).await;
    let first = heard[0].lock().unwrap().clone();
    assert_eq!(versions(&heard[0]), (1..=newest).collect::<Vec<_>>(), "each once, in order");
    assert!(heard.iter().all(|heard| *heard.lock().unwrap() == first), "the same everywhere");
    // Each acknowledged write is where it was said to be, and none is there twice.
    let told: BTreeMap<u64, (String, String)> = first
        .iter()
        .map(|news| match news {
            News::Changed { version, key, value: Some(value) } => {
                (version.0, (key.to_string(), value.to_string()))
            }
            other => panic!("{other:?}"),
        })
        .collect();
    let acknowledged = acknowledged.lock().unwrap().clone();
    assert!(acknowledged.len() > 100, "{}", acknowledged.len());
    for (version, key, value) in acknowledged {
        assert_eq!(told[&version], (key, value));
    }
    let each: BTreeSet<&(String, String)> = told.values().collect();
    assert_eq!(each.len(), told.len(), "what was sent again was carried out once");
}

#[tokio::test(start_paused = true)]
async fn sessions_that_break_lose_and_double_nothing() {
    let world = World::new(72, Weather { breaks_per_million: 2_000, ..Weather::default() });
    let nodes = cluster(&world, 5).await;
    let heard: Vec<_> = nodes.iter().map(heard_by).collect();
    for number in 0..60 {
        let node = &nodes[number % 5];
        // What becomes of it may not be known; it is never told wrongly.
        if let Ok(version) = set(node, "same", &number.to_string()).await {
            assert!(node.configuration().version() >= version);
        }
    }
    world.set_weather(Weather::default());
    tokio::time::sleep(Duration::from_secs(10)).await;
    until_all_agree(&nodes.iter().collect::<Vec<_>>()).await;
    let newest = nodes[0].configuration().version().0;
    until("all have heard", || heard.iter().all(|heard| heard.lock().unwrap().len() as u64 == newest)).await;
    let first = heard[0].lock().unwrap().clone();
    assert_eq!(versions(&heard[0]), (1..=newest).collect::<Vec<_>>());
    assert!(heard.iter().all(|heard| *heard.lock().unwrap() == first));
    let values = |news: &News| match news {
        News::Changed { value: Some(value), .. } => value.to_string(),
        other => panic!("{other:?}"),
    };
    let each: BTreeSet<String> = first.iter().map(values).collect();
    assert_eq!(each.len(), first.len(), "none is carried out twice");
}

#[tokio::test(start_paused = true)]
async fn requests_and_acks_are_told_on_control_and_decide_nothing() {
    let world = World::new(73, Weather::default());
    let nodes = cluster(&world, 4).await;
    nodes::three_of_them_vote(&nodes).await;
    let voting = nodes[0].voting();
    let observer = nodes.iter().find(|node| !voting.contains(&node.id().node)).unwrap();
    let mut reports: Vec<_> = nodes.iter().map(|node| node.control_reports(64)).collect();
    let version = set(observer, "feature", "true").await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    for reports in &mut reports {
        let (mut asked, mut acked) = (Vec::new(), BTreeSet::new());
        while let Ok(Some(pubsub::News::Said(message))) = reports.try_recv() {
            match ControlReport::read(&message).unwrap() {
                ControlReport::Requested { id, key } => {
                    assert_eq!(
                        (key.as_str(), &message.publisher),
                        ("feature", observer.id()),
                        "who wants it says so"
                    );
                    asked.push(id);
                }
                ControlReport::Acked { id, version: at } => {
                    assert_eq!((id, at), (asked[0], version), "the answer to what was asked");
                    acked.insert(message.publisher.node.clone());
                }
            }
        }
        assert_eq!(asked.len(), 1);
        assert_eq!(acked, voting, "each voter says that it has it, and nobody else");
    }
    // Said by somebody who makes things up, it changes nothing.
    let key = Key::new("made/up").unwrap();
    let topic = tumen_core::cluster::topics::Topic::new("control").unwrap();
    for report in
        [ControlReport::Requested { id: 1, key }, ControlReport::Acked { id: 1, version: ConfigVersion(99) }]
    {
        nodes[0].hub().publish(&topic, tumen_actors::codec::pack(&report)).unwrap();
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(nodes.iter().all(|node| node.configuration().version() == version));
}

#[tokio::test(start_paused = true)]
async fn a_lone_founder_that_was_configured_is_not_dropped_for_an_elder_cluster() {
    let world = World::new(74, Weather::default());
    let nodes = cluster(&world, 3).await;
    three_vote(&nodes).await;
    set(&nodes[0], "of", "\"the elder\"").await.unwrap();
    let lone = start(&world, 4, &[], 1).await;
    until("it founded its own", || lone.ready().is_ok()).await;
    set(&lone, "of", "\"the lone\"").await.unwrap();
    lone.node_up("127.0.0.1:7001");
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!(read(&lone, "of"), Some((1, "\"the lone\"".into())), "somebody relies on it");
    assert_ne!(lone.plans().cluster(), nodes[0].plans().cluster());
    // One on which nobody relied yields, and is configured as the elder is.
    let other = start(&world, 5, &[], 1).await;
    until("it founded its own", || other.ready().is_ok()).await;
    other.node_up("127.0.0.1:7001");
    let joined =
        |node: &Runtime| node.plans().cluster() == nodes[0].plans().cluster() && node.ready().is_ok();
    until("it joined", || joined(&other)).await;
    assert_eq!(read(&other, "of"), read(&nodes[0], "of"));
}

#[tokio::test(start_paused = true)]
async fn a_node_that_was_told_nothing_is_not_ready() {
    let world = World::new(75, Weather::default());
    let node = start(&world, 1, &[9], 1).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(matches!(node.ready(), Err(NotReady::NoPlan(_))));
    assert_eq!(set(&node, "a", "1").await, Err(ConfigFailure::Call(Failure::NoQuorum)));
    assert_eq!(node.configuration().version(), ConfigVersion::ZERO);
}
