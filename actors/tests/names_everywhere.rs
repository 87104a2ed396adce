//! What every node knows of names and of what the cluster is told, over the simulated network: also a node that has no copy of any
//! directory, and was told it all at once.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends there")]

mod nodes;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use nodes::teller::{named, named_cluster, spec};
use nodes::{all_ready, kinds, until};
use tokio::sync::broadcast;
use tumen_actors::names::{NameFailure, Standing};
use tumen_actors::node::Runtime;
use tumen_actors::partitions::delivery::Delivery;
use tumen_actors::transport::simulated::{Weather, World};
use tumen_core::ids::NodeBoot;
use tumen_core::names::directory::{News, Refused, VALUE_LEN_MAX};
use tumen_core::names::{Holder, Name, Reason, directory_of};
use tumen_core::partitions::identity::Position;
use tumen_core::supervision::Restart;

const WITHIN: Duration = Duration::from_secs(20);

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn actor(node: &Runtime) -> Holder {
    node.names().host(|delivery: Delivery| delivery.answer(Ok(Bytes::new())))
}

async fn claim(node: &Runtime, actor: &Holder, text: &str, value: &[u8]) {
    let value = Bytes::copy_from_slice(value);
    node.names().claim(actor.actor, &name(text), value, WITHIN).await.unwrap();
}

/// A node that takes no copies: it follows every directory.
async fn witness(world: &World, n: usize) -> Runtime {
    let mut settings = named(world, n, &[1], 1);
    settings.weight = 0;
    Runtime::start(settings, kinds()).await.unwrap()
}

fn primary_of(node: &Runtime, name: &Name) -> NodeBoot {
    node.plans().newest().unwrap().primary_of(directory_of(name)).unwrap().0.clone()
}

#[tokio::test(start_paused = true)]
async fn metadata_is_put_read_and_deleted_from_any_node_and_is_no_name() {
    let world = World::new(701, Weather::default());
    let mut nodes = named_cluster(&world, 5).await;
    nodes.push(witness(&world, 6).await);
    all_ready(&nodes).await;
    for (at, node) in nodes.iter().enumerate() {
        let (key, value) = (name(&format!("key/{at}")), Bytes::from(format!("value {at}")));
        let number = node.names().put_meta(&key, value.clone(), WITHIN).await.unwrap();
        let told = node.names().meta(&key).expect("whoever told it reads it at once");
        assert_eq!((told.number, &told.value), (number, &value));
        assert_eq!(
            node.names().put_meta(&key, value.clone(), WITHIN).await.unwrap(),
            number,
            "twice is as once"
        );
        node.names().await_visible(&key, WITHIN).await.unwrap();
        assert!(nodes.iter().all(|other| other.names().meta(&key).is_some_and(|meta| meta.value == value)));
    }
    // A name of the same bytes is another thing: it is free, and shows alone.
    let holder = actor(&nodes[0]);
    claim(&nodes[0], &holder, "key/0", b"").await;
    for node in &nodes {
        until("the name is seen", || node.names().table().count(b"", |_, _| true) == 1).await;
        assert_eq!(node.names().select(b"", 10).len(), 1);
        assert_eq!(node.names().select_meta(b"key/", 4).len(), 4);
        assert_eq!(node.names().select_meta(b"", 10).len(), 6);
    }
    nodes[0].names().release(holder.actor, &name("key/0"), WITHIN).await.unwrap();
    // The last word of many, from all nodes, is the same everywhere.
    let key = name("key/1");
    let puts = (0..60).map(|n| {
        let (node, key) = (&nodes[n % 6], &key);
        async move { node.names().put_meta(key, Bytes::from(n.to_string()), WITHIN).await.unwrap() }
    });
    let newest = futures_util::future::join_all(puts).await.into_iter().max().unwrap();
    for node in &nodes {
        until("all have the last word", || node.names().meta(&key).is_some_and(|it| it.number == newest))
            .await;
    }
    let last: Vec<_> = nodes.iter().map(|node| node.names().meta(&key).unwrap().value).collect();
    assert!(last.iter().all(|value| *value == last[0]), "{last:?}");
    assert!(nodes[5].names().remove_meta(&key, WITHIN).await.unwrap());
    assert!(nodes[5].names().meta(&key).is_none());
    nodes[5].names().await_visible(&key, WITHIN).await.unwrap();
    assert!(nodes.iter().all(|node| node.names().meta(&key).is_none()));
    assert!(!nodes[2].names().remove_meta(&key, WITHIN).await.unwrap(), "there is nothing any more");
    let long = Bytes::from(vec![0; VALUE_LEN_MAX + 1]);
    let refused = nodes[3].names().put_meta(&key, long, WITHIN).await.unwrap_err();
    assert!(matches!(refused, NameFailure::Refused(Refused::TooLong(_))), "{refused}");
}

#[tokio::test(start_paused = true)]
async fn metadata_outlives_whoever_told_it_and_whoever_led_its_directory() {
    let world = World::new(702, Weather::default());
    let nodes = named_cluster(&world, 3).await;
    let key = name("schema");
    let primary = primary_of(&nodes[0], &key);
    let teller = nodes.iter().find(|node| *node.id() == primary).unwrap();
    teller.names().put_meta(&key, Bytes::from_static(b"7"), WITHIN).await.unwrap();
    world.crash(&primary);
    let left: Vec<&Runtime> = nodes.iter().filter(|node| *node.id() != primary).collect();
    left[0].names().put_meta(&name("other"), Bytes::new(), WITHIN).await.unwrap();
    until("another one leads", || primary_of(left[0], &key) != primary).await;
    assert!(left.iter().all(|node| node.names().meta(&key).is_some_and(|meta| meta.value == b"7"[..])));
    left[1].names().put_meta(&key, Bytes::from_static(b"8"), WITHIN).await.unwrap();
    until("both read it", || left.iter().all(|node| node.names().meta(&key).unwrap().value == b"8"[..]))
        .await;
}

/// More than any one answer may hold, to a node that comes later; nobody ever sees a part of it there.
async fn told_whole(seed: u64, crash: bool) {
    const NAMES: usize = 1_100;
    let world = World::new(seed, Weather::default());
    let mut nodes = named_cluster(&world, 5).await;
    let directory = directory_of(&name("big/0"));
    let of_it = |prefix: &'static str| {
        let all = (0..).map(move |n| format!("{prefix}/{n}"));
        all.filter(move |text| directory_of(&name(text)) == directory)
    };
    let primary = primary_of(&nodes[0], &name("big/0"));
    let holding = nodes.iter().find(|node| *node.id() != primary).unwrap().clone();
    let (holder, value) = (actor(&holding), vec![b'v'; VALUE_LEN_MAX]);
    let names: Vec<String> = of_it("big").take(NAMES).collect();
    for some in names.chunks(50) {
        futures_util::future::join_all(some.iter().map(|text| claim(&holding, &holder, text, &value))).await;
    }
    for key in names.iter().take(50) {
        holding.names().put_meta(&name(key), Bytes::from(value.clone()), WITHIN).await.unwrap();
    }
    const { assert!(NAMES * VALUE_LEN_MAX > 16 << 20) };

    let late = witness(&world, 6).await;
    nodes.push(late.clone());
    let more: Vec<String> = of_it("more").take(40).collect();
    let writing = async {
        for text in &more {
            claim(&holding, &holder, text, b"").await;
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
    };
    let crashing = async {
        if crash {
            tokio::time::sleep(Duration::from_millis(40)).await;
            world.crash(&primary);
        }
    };
    let watching = async {
        let table = late.names().table();
        let mut waited = 0;
        while table.position(directory) == Position::ZERO {
            assert!(table.is_empty() || table.claim(&name(&names[0])).is_none(), "half of it shows");
            waited += 1;
            assert!(waited < 60_000, "it is never told");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let all = names.iter().filter(|text| table.claim(&name(text)).is_some()).count();
        assert_eq!(all, NAMES, "all at once");
        assert_eq!(table.select_meta(b"big/", 100).len(), 50);
    };
    tokio::join!(writing, crashing, watching);
    let newest = more.last().unwrap();
    until("it follows from there", || late.names().lookup(&name(newest)).is_some()).await;
    let known = |node: &Runtime| node.names().select(b"", 2 * NAMES);
    until("it knows the same", || known(&late) == known(&holding)).await;
    assert_eq!(known(&late).len(), NAMES + more.len());
    world.end();
}

#[tokio::test(start_paused = true)]
async fn a_directory_longer_than_any_answer_is_told_in_parts_and_never_shows_half() {
    told_whole(703, false).await;
}

#[tokio::test(start_paused = true)]
async fn a_directory_that_is_being_told_goes_on_with_its_next_primary() {
    told_whole(704, true).await;
}

#[tokio::test(start_paused = true)]
async fn a_value_is_said_by_its_owner_only_and_seen_everywhere() {
    let world = World::new(705, Weather::default());
    let nodes = named_cluster(&world, 5).await;
    let (owner, other) = (actor(&nodes[0]), actor(&nodes[1]));
    for text in ["a", "b", "c"] {
        claim(&nodes[0], &owner, text, b"first").await;
    }
    assert_eq!(nodes[0].names().names_of(owner.actor), [name("a"), name("b"), name("c")]);
    let refused = nodes[1].names().update(other.actor, &name("a"), Bytes::new(), WITHIN).await.unwrap_err();
    assert!(matches!(refused, NameFailure::Refused(Refused::NotTheHolder { .. })), "{refused}");
    nodes[0].names().update(owner.actor, &name("a"), Bytes::from_static(b"second"), WITHIN).await.unwrap();
    nodes[0].names().await_visible(&name("a"), WITHIN).await.unwrap();
    for node in &nodes {
        let value = |text: &str| node.names().lookup(&name(text)).unwrap().value;
        assert_eq!(value("a"), b"second"[..]);
        until("the others are as they were", || node.names().lookup(&name("c")).is_some()).await;
        assert_eq!(value("c"), b"first"[..]);
    }
}

#[tokio::test(start_paused = true)]
async fn queries_are_answered_while_all_other_nodes_are_frozen() {
    let world = World::new(706, Weather::default());
    let nodes = named_cluster(&world, 3).await;
    for (at, node) in nodes.iter().enumerate() {
        let holder = actor(node);
        for n in 0..10 {
            claim(node, &holder, &format!("user/{at}/{n}"), &[at as u8]).await;
        }
    }
    until("all is seen", || nodes[0].names().table().count(b"user/", |_, _| true) == 30).await;
    nodes[1..].iter().for_each(|node| world.freeze(&node.id().node));
    let (began, table) = (tokio::time::Instant::now(), nodes[0].names().table());
    let first: Vec<String> =
        table.select(b"user/1/", 3, |_, _| true).iter().map(|(it, _)| it.to_string()).collect();
    assert_eq!(first, ["user/1/0", "user/1/1", "user/1/2"]);
    assert_eq!(table.count(b"user/", |_, standing: &Standing| *standing.value() == [2_u8][..]), 10);
    assert!(nodes[0].names().lookup(&name("user/2/7")).is_some());
    assert_eq!(began.elapsed(), Duration::ZERO);
}

/// Why each of these names became free, as this listener hears it first.
async fn heard(news: &mut broadcast::Receiver<Arc<News>>, of: &[&str]) -> BTreeMap<String, (Reason, bool)> {
    let mut heard = BTreeMap::new();
    while heard.len() < of.len() {
        let piece = tokio::time::timeout(Duration::from_secs(60), news.recv()).await.unwrap().unwrap();
        if let News::Unregistered { name, reason, goes_on, .. } = &*piece
            && of.contains(&&*name.to_string())
        {
            heard.entry(name.to_string()).or_insert((reason.clone(), *goes_on));
        }
    }
    heard
}

#[tokio::test(start_paused = true)]
async fn listeners_on_every_node_hear_what_became_of_a_name_and_why() {
    let world = World::new(707, Weather::default());
    let mut nodes = named_cluster(&world, 5).await;
    nodes.push(witness(&world, 6).await);
    all_ready(&nodes).await;
    let (here, gone) = (actor(&nodes[0]), actor(&nodes[4]));
    claim(&nodes[0], &here, "given_back", b"").await;
    claim(&nodes[0], &here, "crashed", b"").await;
    claim(&nodes[4], &gone, "node_down", b"").await;
    let started =
        nodes[0].names().start(&name("child"), spec("", Restart::Permanent), Bytes::new(), WITHIN).await;
    started.unwrap();
    let all = ["child", "crashed", "given_back", "node_down"];
    for text in all {
        nodes[0].names().await_visible(&name(text), WITHIN).await.unwrap();
    }
    let mut listeners: Vec<_> =
        [0, 1, 2, 3, 5].into_iter().map(|at: usize| nodes[at].names().news()).collect();
    nodes[0].names().release(here.actor, &name("given_back"), WITHIN).await.unwrap();
    nodes[0].names().unhost(here.actor, Reason::Crashed("told to".into()));
    nodes[0].names().relocate(&name("child"), WITHIN).await.unwrap();
    until("it has moved", || nodes[0].names().lookup(&name("child")).is_none()).await;
    world.crash(nodes[4].id());
    for news in &mut listeners {
        let heard = heard(news, &all).await;
        assert_eq!(heard["child"], (Reason::Moved, true));
        assert_eq!(heard["crashed"], (Reason::Crashed("told to".into()), false));
        assert_eq!(heard["given_back"], (Reason::Normal, false));
        assert_eq!(heard["node_down"], (Reason::NodeDown, false));
    }
}
