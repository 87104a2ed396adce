//! The users' own topics and groups on whole nodes, over the simulated network.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends there")]

mod nodes;

use std::time::Duration;

use bytes::Bytes;
use nodes::teller::{named_cluster, start_named};
use nodes::until;
use tumen_actors::exchange::{News, Subscription};
use tumen_actors::node::Runtime;
use tumen_actors::partitions::delivery::Delivery;
use tumen_actors::transport::Service;
use tumen_actors::transport::simulated::{Weather, World};
use tumen_core::NodeBoot;
use tumen_core::cluster::topics::{MESSAGE_LEN_MAX, Overflow, PublishError, Topic};
use tumen_core::names::{Holder, Name, Reason};
use tumen_core::partitions::request::{Failure, MessageId};

fn topic(name: &str) -> Topic {
    Topic::new(name).unwrap()
}

fn body(number: u64) -> Bytes {
    Bytes::copy_from_slice(&number.to_le_bytes())
}

/// What a subscriber hears, in short.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Told {
    Said(NodeBoot, u64),
    Missed(NodeBoot, u64),
    Overflowed(u64),
}

fn short(news: &News) -> Told {
    match news {
        News::Said(said) => {
            Told::Said(said.publisher.clone(), u64::from_le_bytes(said.body[..8].try_into().unwrap()))
        }
        News::Missed { publisher, count } => Told::Missed(publisher.clone(), *count),
        News::Overflowed { count } => Told::Overflowed(*count),
    }
}

async fn next(heard: &mut Subscription) -> Told {
    let news = tokio::time::timeout(Duration::from_secs(60), heard.recv()).await;
    short(&news.expect("in time").expect("the node runs"))
}

fn listen(node: &Runtime, name: &str) -> Subscription {
    node.exchange().subscribe(&topic(name), 10_000, Overflow::DropOldest)
}

async fn publish(node: &Runtime, name: &str, number: u64) -> (usize, usize) {
    let published = node.exchange().publish(&topic(name), false, body(number)).await.unwrap();
    (published.local, published.remote)
}

/// Waits until a node knows that so many listen elsewhere.
async fn heard_elsewhere(node: &Runtime, name: &str, count: u32) {
    let remote = || {
        let seen = node.exchange().topics().into_iter().find(|seen| seen.topic == topic(name));
        seen.map_or(0, |seen| seen.remote.iter().map(|(_, count)| count).sum::<u32>())
    };
    until("it knows who listens", || remote() == count).await;
}

#[tokio::test(start_paused = true)]
async fn all_subscribers_are_reached_or_only_local_ones_and_they_are_counted() {
    let world = World::new(201, Weather::default());
    let nodes = named_cluster(&world, 3).await;
    let mut all: Vec<Subscription> =
        [0, 1, 1, 2, 2, 2].map(|node: usize| listen(&nodes[node], "prices")).into_iter().collect();
    let mut other = listen(&nodes[1], "news");
    heard_elsewhere(&nodes[0], "prices", 5).await;
    for number in 1..=100 {
        assert_eq!(publish(&nodes[0], "prices", number).await, (1, 5));
    }
    for heard in &mut all {
        for number in 1..=100 {
            assert_eq!(next(heard).await, Told::Said(nodes[0].id().clone(), number));
        }
    }
    let local = nodes[2].exchange().publish_local(&topic("prices"), body(101)).unwrap();
    assert_eq!(local, 3);
    for heard in &mut all[3..] {
        assert_eq!(next(heard).await, Told::Said(nodes[2].id().clone(), 101));
    }
    assert_eq!(publish(&nodes[0], "nobody listens", 1).await, (0, 0));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(all[..3].iter().all(Subscription::is_empty) && other.try_recv().unwrap().is_none());
    // Only nodes that listen are sent to.
    assert_eq!(nodes[1].exchange().figures().counts.received, 100);
    let told = nodes[0].exchange().publish_confirmed(&topic("news"), body(1), Duration::from_secs(5)).await;
    let told = told.unwrap();
    assert_eq!((told.local, told.remote, told.nodes, told.silent), (0, 1, 1, Vec::new()));
    assert_eq!(nodes[2].exchange().figures().counts.received, 100);
    drop(all);
    heard_elsewhere(&nodes[0], "prices", 0).await;
    let too_long = Bytes::from(vec![0; MESSAGE_LEN_MAX + 1]);
    let refused = nodes[0].exchange().publish(&topic("prices"), false, too_long).await;
    assert_eq!(refused, Err(PublishError::TooLong { len: MESSAGE_LEN_MAX + 1 }));
}

#[tokio::test(start_paused = true)]
async fn a_retained_value_is_heard_first_by_whoever_listens_later_until_its_node_is_gone() {
    let world = World::new(202, Weather::default());
    let nodes = named_cluster(&world, 3).await;
    for number in [1, 2] {
        let _ = nodes[2].exchange().publish(&topic("state"), true, body(number)).await.unwrap();
    }
    publish(&nodes[2], "state", 3).await;
    let mut first = listen(&nodes[0], "state");
    assert_eq!(next(&mut first).await, Told::Said(nodes[2].id().clone(), 2));
    let mut second = listen(&nodes[0], "state");
    assert_eq!(next(&mut second).await, Told::Said(nodes[2].id().clone(), 2));
    let mut own = listen(&nodes[2], "state");
    assert_eq!(next(&mut own).await, Told::Said(nodes[2].id().clone(), 2));
    // A subscription that ends and begins again hears it again.
    drop((first, second));
    let mut again = listen(&nodes[0], "state");
    assert_eq!(next(&mut again).await, Told::Said(nodes[2].id().clone(), 2));
    world.crash(nodes[2].id());
    let retained = || nodes[0].exchange().topics().first().is_some_and(|seen| !seen.retained_by.is_empty());
    until("what it retained is gone with it", || !retained()).await;
    let mut late = listen(&nodes[0], "state");
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(late.try_recv().unwrap(), None);
}

#[tokio::test(start_paused = true)]
async fn a_slow_subscriber_is_told_how_much_it_lost_or_is_closed_and_nobody_waits_for_it() {
    let world = World::new(203, Weather::default());
    let nodes = named_cluster(&world, 2).await;
    let exchange = nodes[1].exchange();
    let mut slow = exchange.subscribe(&topic("a"), 10, Overflow::DropOldest);
    let mut closes = exchange.subscribe(&topic("a"), 10, Overflow::Close);
    let mut quick = listen(&nodes[1], "a");
    heard_elsewhere(&nodes[0], "a", 3).await;
    for number in 1..=100 {
        publish(&nodes[0], "a", number).await;
    }
    let from = nodes[0].id().clone();
    for number in 1..=100 {
        assert_eq!(next(&mut quick).await, Told::Said(from.clone(), number));
    }
    assert_eq!(next(&mut slow).await, Told::Overflowed(90));
    for number in 91..=100 {
        assert_eq!(next(&mut slow).await, Told::Said(from.clone(), number));
    }
    for number in 1..=10 {
        assert_eq!(next(&mut closes).await, Told::Said(from.clone(), number));
    }
    assert_eq!(closes.recv().await, None, "it was too slow");
    heard_elsewhere(&nodes[0], "a", 2).await;
    assert_eq!(exchange.figures().overflowed, 91);
}

#[tokio::test(start_paused = true)]
async fn who_gives_up_waiting_for_a_confirmation_leaves_nothing_behind() {
    let world = World::new(208, Weather::default());
    let nodes = named_cluster(&world, 3).await;
    let _heard = listen(&nodes[2], "a");
    heard_elsewhere(&nodes[0], "a", 1).await;
    world.freeze(&nodes[2].id().node);
    let exchange = nodes[0].exchange();
    let topic = topic("a");
    let asking = exchange.publish_confirmed(&topic, body(1), Duration::from_secs(60));
    let gave_up = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(exchange.figures().asks, 1);
    };
    tokio::select! {
        told = asking => panic!("{told:?}"),
        () = gave_up => {}
    }
    assert_eq!(exchange.figures().asks, 0);
}

#[tokio::test(start_paused = true)]
async fn a_frozen_node_costs_a_bounded_buffer_and_hears_how_much_it_missed() {
    let world = World::new(204, Weather::default());
    let nodes = named_cluster(&world, 3).await;
    let (mut frozen, mut lives) = (listen(&nodes[2], "a"), listen(&nodes[1], "a"));
    heard_elsewhere(&nodes[0], "a", 2).await;
    publish(&nodes[0], "a", 1).await;
    let from = nodes[0].id().clone();
    assert_eq!(next(&mut frozen).await, Told::Said(from.clone(), 1));
    assert_eq!(next(&mut lives).await, Told::Said(from.clone(), 1));
    world.freeze(&nodes[2].id().node);
    // Before it is known to be frozen, and after.
    let began = tokio::time::Instant::now();
    let mut number = 1_u64;
    while began.elapsed() < Duration::from_secs(5) {
        number += 1;
        let mut large = number.to_le_bytes().to_vec();
        large.resize(100_000, 0);
        let _ = nodes[0].exchange().publish(&topic("a"), false, large.into()).await.unwrap();
        assert_eq!(next(&mut lives).await, Told::Said(from.clone(), number), "nobody else loses anything");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(nodes[0].exchange().figures().counts.lost > 0, "no more than a few MB wait for it");
    world.thaw(&nodes[2].id().node);
    heard_elsewhere(&nodes[0], "a", 2).await;
    number += 1;
    publish(&nodes[0], "a", number).await;
    let (mut last, mut missed) = (1, 0);
    while last + missed < number {
        match next(&mut frozen).await {
            Told::Said(by, said) => {
                assert_eq!((by, said), (from.clone(), last + missed + 1), "in order, and exactly counted");
                (last, missed) = (said, 0);
            }
            Told::Missed(_, count) => missed += count,
            Told::Overflowed(_) => panic!("it has room"),
        }
    }
    assert!(nodes[2].exchange().figures().counts.missed > 0);
}

#[tokio::test(start_paused = true)]
async fn a_broken_session_loses_nothing_uncounted_and_another_life_of_a_node_is_told_anew() {
    let world = World::new(205, Weather::default());
    let nodes = named_cluster(&world, 3).await;
    let mut heard = listen(&nodes[1], "a");
    heard_elsewhere(&nodes[0], "a", 1).await;
    let from = nodes[0].id().clone();
    let mut number = 0;
    for _ in 0..20 {
        for _ in 0..10 {
            number += 1;
            publish(&nodes[0], "a", number).await;
            tokio::time::sleep(Duration::from_micros(300)).await;
        }
        world.break_session(&nodes[0].id().node, &nodes[1].id().node);
    }
    heard_elsewhere(&nodes[0], "a", 1).await;
    number += 1;
    publish(&nodes[0], "a", number).await;
    let (mut last, mut missed) = (0, 0);
    while last + missed < number {
        match next(&mut heard).await {
            Told::Said(by, said) => {
                // What was said before the first message that arrived was said to nobody here.
                assert_eq!((by, said), (from.clone(), last + missed + 1));
                (last, missed) = (said, 0);
            }
            Told::Missed(_, count) => missed += count,
            Told::Overflowed(_) => panic!("it has room"),
        }
    }
    // Another life of the listener's node listens to nothing until it says so.
    world.crash(nodes[1].id());
    heard_elsewhere(&nodes[0], "a", 0).await;
    until("it is a member no more", || nodes[0].plans().newest().unwrap().members.len() == 2).await;
    let next_life = start_named(&world, 2, &[1], 1).await;
    until("it is ready", || next_life.ready().is_ok()).await;
    assert_eq!(publish(&nodes[0], "a", 1000).await, (0, 0));
    let mut heard = listen(&next_life, "a");
    heard_elsewhere(&nodes[0], "a", 1).await;
    publish(&nodes[0], "a", 1001).await;
    assert_eq!(next(&mut heard).await, Told::Said(from, 1001));
}

/// An actor that says where it is, if it answers at all.
fn member(node: &Runtime, silent: bool) -> Holder {
    let me = node.id().node.clone();
    node.names().host(move |mut delivery: Delivery| {
        if silent {
            drop(delivery.begin());
            // It is kept, and never answered.
            std::mem::forget(delivery);
        } else {
            delivery.answer(Ok(Bytes::from(me.to_string())));
        }
    })
}

#[tokio::test(start_paused = true)]
async fn all_members_of_a_group_are_asked_and_it_is_told_who_did_not_answer() {
    let world = World::new(206, Weather::default());
    let nodes = named_cluster(&world, 3).await;
    let crew = Name::new("crew").unwrap();
    let members = |node: usize| nodes[node].exchange().members(&crew);
    let join = |node: usize, silent: bool| {
        let holder = member(&nodes[node], silent);
        assert!(nodes[node].exchange().join(nodes[node].names(), &crew, holder.actor));
        assert!(!nodes[node].exchange().join(nodes[node].names(), &crew, holder.actor), "twice is once");
        holder
    };
    let (a, b, c, silent) = (join(0, false), join(1, false), join(2, false), join(2, true));
    let mut all = vec![a.clone(), b.clone(), c.clone(), silent.clone()];
    all.sort();
    for node in 0..3 {
        until("all know all", || members(node) == all).await;
    }
    assert_eq!(nodes[1].exchange().local_members(&crew), std::slice::from_ref(&b));
    let within = Duration::from_secs(2);
    let ask = || nodes[0].exchange().ask(nodes[0].names(), &crew, MessageId::of("who"), Bytes::new(), within);
    let began = tokio::time::Instant::now();
    let told = ask().await;
    assert!(began.elapsed() < within + Duration::from_millis(100), "one that is silent costs the deadline");
    assert_eq!(told.iter().map(|(member, _)| member.clone()).collect::<Vec<_>>(), all);
    for (member, reply) in told {
        if member == silent {
            assert!(matches!(reply, Err(Failure::Timeout { maybe_applied: true })), "{reply:?}");
        } else {
            assert_eq!(reply.unwrap(), Bytes::from(member.node.node.to_string()));
        }
    }
    // Who leaves, ends, or goes with its node is no member any more.
    assert!(nodes[0].exchange().leave(&crew, a.actor) && !nodes[0].exchange().leave(&crew, a.actor));
    nodes[2].names().unhost(silent.actor, Reason::Normal);
    for node in 0..3 {
        until("two are left", || members(node) == [b.clone(), c.clone()]).await;
    }
    assert_eq!(ask().await.len(), 2);
    world.crash(nodes[2].id());
    for node in 0..2 {
        until("one is left", || members(node) == std::slice::from_ref(&b)).await;
    }
    assert_eq!(nodes[0].exchange().groups().len(), 1);
    assert!(nodes[1].exchange().leave(&crew, b.actor));
    until("a group without members is none", || nodes[0].exchange().groups().is_empty()).await;
}

/// What is said on topics, and a whole gigabyte of nothing, go on the data lane: the runtime's own topics wait for none of it.
#[tokio::test(start_paused = true)]
async fn the_clusters_own_topics_do_not_wait_for_the_users() {
    let world = World::new(207, Weather::default());
    let nodes = named_cluster(&world, 2).await;
    let mut users = listen(&nodes[1], "bulk");
    let control = Topic::new("control").unwrap();
    let mut own = nodes[1].hub().subscribe(&control, 100, Overflow::DropOldest);
    heard_elsewhere(&nodes[0], "bulk", 1).await;
    // The other node takes nothing of the users' topics.
    nodes[1].transport().serve(Service::Exchange, std::sync::Arc::new(Stuck::default()));
    let from = nodes[0].id().clone();
    for number in 1..=200_u64 {
        let large = Bytes::from(vec![1; 200_000]);
        let _ = nodes[0].exchange().publish(&topic("bulk"), false, large).await.unwrap();
        nodes[0].hub().publish(&control, body(number)).unwrap();
        let told = tokio::time::timeout(Duration::from_secs(1), own.recv()).await.expect("at once").unwrap();
        let tumen_actors::cluster::pubsub::News::Said(said) = told else { panic!("{told:?}") };
        assert_eq!((said.publisher, said.body), (from.clone(), body(number)));
    }
    assert_eq!(users.try_recv().unwrap(), None);
    assert!(nodes[0].exchange().figures().counts.lost > 0, "more than it may has piled up");
}

/// Keeps what comes, and answers nothing.
#[derive(Default)]
struct Stuck {
    kept: std::sync::Mutex<Vec<tumen_actors::transport::Incoming>>,
}

impl tumen_actors::transport::Serve for Stuck {
    fn serve(&self, batch: &mut Vec<tumen_actors::transport::Incoming>) {
        self.kept.lock().unwrap().append(batch);
    }
}
