use std::time::Duration;

use futures_util::StreamExt;

use super::*;
use crate::cluster::membership::Seeds;
use crate::cluster::membership::lab::{Lab, address, name, until};

fn topic(name: &str) -> Topic {
    Topic::new(name).unwrap()
}

/// Starts nodes that know each other, each with its hub.
async fn nodes(
    seed: u64,
    names: &[&'static str],
) -> (Lab, BTreeMap<&'static str, (Hub, ActorRef<PubSubMsg>)>) {
    let mut lab = Lab::new(seed);
    let mut hubs = BTreeMap::new();
    for node in names {
        hubs.insert(*node, start(&mut lab, node, 1).await);
    }
    lab.agree(names).await;
    for (hub, _) in hubs.values() {
        until("all sessions are up", || hub.lock().law.peers().count() == names.len() - 1).await;
    }
    (lab, hubs)
}

async fn start(lab: &mut Lab, node: &'static str, boot: u64) -> (Hub, ActorRef<PubSubMsg>) {
    lab.start(node, boot, Seeds::fixed([address("a")])).await;
    let it = &lab.nodes[node];
    let hub = Hub::new(Config::default(), it.id.clone(), it.transport.clone(), lab.clock);
    let actor = PubSub::new(hub.clone(), it.members.clone());
    (hub, PubSub::spawn(None, actor, ()).await.unwrap().0)
}

async fn heard(subscription: &mut Subscription) -> String {
    match tokio::time::timeout(Duration::from_secs(10), subscription.recv()).await {
        Ok(Some(News::Said(message))) => String::from_utf8(message.body.to_vec()).unwrap(),
        Ok(Some(News::Missed { count, .. })) => format!("~{count}"),
        Ok(Some(News::Overflowed { count })) => format!("overflowed {count}"),
        Ok(None) => "the end".into(),
        Err(_) => "silence".into(),
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_said_is_heard_on_all_nodes_in_order() {
    let (_lab, hubs) = nodes(1, &["a", "b", "c"]).await;
    let mut subscriptions: Vec<_> =
        hubs.values().map(|(hub, _)| hub.subscribe(&topic("t"), 1000, Overflow::default())).collect();
    for number in 0..100 {
        let heard_here = hubs["b"].0.publish(&topic("t"), number.to_string().into()).unwrap();
        assert_eq!(heard_here, 1);
    }
    assert_eq!(hubs["a"].0.publish_local(&topic("t"), "here".into()), Ok(1));
    for (at, subscription) in subscriptions.iter_mut().enumerate() {
        let (mut numbers, mut others) = (Vec::new(), Vec::new());
        while numbers.len() < 100 {
            let text = heard(subscription).await;
            if text == "here" { others.push(text) } else { numbers.push(text) }
        }
        assert!(numbers.iter().enumerate().all(|(at, number)| at.to_string() == *number), "{numbers:?}");
        assert_eq!(others.len(), usize::from(at == 0));
    }
}

#[tokio::test(start_paused = true)]
async fn who_comes_late_gets_the_current_value_first_on_every_node() {
    let (mut lab, mut hubs) = nodes(2, &["a", "b"]).await;
    hubs["a"].0.retain(&topic("t"), "old".into()).unwrap();
    hubs["a"].0.retain(&topic("t"), "current".into()).unwrap();
    until("it has arrived", || hubs["b"].0.current(&topic("t")).len() == 1).await;
    let mut late = hubs["b"].0.subscribe(&topic("t"), 10, Overflow::default());
    hubs["a"].0.retain(&topic("t"), "next".into()).unwrap();
    assert_eq!((heard(&mut late).await, heard(&mut late).await), ("current".into(), "next".into()));

    // A node that comes later still is told at once.
    hubs.insert("c", start(&mut lab, "c", 1).await);
    let mut newcomer = hubs["c"].0.subscribe(&topic("t"), 10, Overflow::default());
    assert_eq!(heard(&mut newcomer).await, "next");

    // The publisher goes, and its value with it.
    lab.kill("a").await;
    until("it is gone", || hubs["c"].0.current(&topic("t")).is_empty()).await;
}

#[tokio::test(start_paused = true)]
async fn plans_are_ranked_and_outlive_their_leader() {
    let (mut lab, hubs) = nodes(3, &["a", "b", "c"]).await;
    let plans = topic("assignments");
    let mut follower = hubs["c"].0.subscribe(&plans, 10, Overflow::default());
    hubs["a"].0.retain_ranked(&plans, 1, "one by a".into()).unwrap();
    assert_eq!(heard(&mut follower).await, "one by a");
    // Cut off, the former leader goes on; the new one does too.
    lab.world.cut(&[name("a")], &[name("b"), name("c")]);
    tokio::time::sleep(Duration::from_secs(5)).await;
    hubs["a"].0.retain_ranked(&plans, 2, "two by a, that nobody hears".into()).unwrap();
    hubs["b"].0.retain_ranked(&plans, 3, "three by b".into()).unwrap();
    lab.world.heal_all();
    until("a hears of it", || hubs["a"].0.current(&plans)[0].keep == Keep::Ranked(3)).await;
    assert_eq!(
        hubs["a"].0.retain_ranked(&plans, 3, "late".into()),
        Err(PublishError::Outranked { current: 3 })
    );
    let mut ranks = Vec::new();
    while let Ok(Some(News::Said(message))) = follower.try_recv() {
        ranks.push(message.keep);
    }
    assert!(ranks.is_sorted() && ranks.last() == Some(&Keep::Ranked(3)), "{ranks:?}");
    lab.kill("b").await;
    lab.sees("c", &["a", "c"]).await;
    let mut late = hubs["c"].0.subscribe(&plans, 10, Overflow::default());
    assert_eq!(heard(&mut late).await, "three by b");
}

#[tokio::test(start_paused = true)]
async fn what_is_lost_while_a_session_is_broken_is_counted_and_the_newest_value_comes_anyway() {
    let (lab, hubs) = nodes(4, &["a", "b"]).await;
    let mut said = hubs["b"].0.subscribe(&topic("said"), 1000, Overflow::default());
    let mut kept = hubs["b"].0.subscribe(&topic("kept"), 1000, Overflow::default());
    let both = |text: &'static str| {
        hubs["a"].0.publish(&topic("said"), text.into()).unwrap();
        hubs["a"].0.retain(&topic("kept"), text.into()).unwrap();
    };
    both("one");
    assert_eq!((heard(&mut said).await, heard(&mut kept).await), ("one".into(), "one".into()));
    lab.world.cut(&[name("a")], &[name("b")]);
    until("the session ends", || hubs["a"].0.lock().law.peers().count() == 0).await;
    both("two");
    both("three");
    lab.world.heal_all();
    until("they met again", || hubs["a"].0.lock().law.peers().count() == 1).await;
    both("four");
    let mut values = vec![heard(&mut kept).await];
    while values.last().unwrap() != "four" {
        values.push(heard(&mut kept).await);
    }
    assert!(values == ["three", "four"] || values == ["four"], "{values:?}");
    assert_eq!(heard(&mut said).await, "~2");
    assert_eq!(heard(&mut said).await, "four");
}

#[tokio::test(start_paused = true)]
async fn a_crash_of_the_actor_loses_no_subscription_and_no_value() {
    let (lab, mut hubs) = nodes(5, &["a", "b"]).await;
    let mut subscription = hubs["b"].0.subscribe(&topic("t"), 10, Overflow::default());
    hubs["a"].0.retain(&topic("t"), "before".into()).unwrap();
    assert_eq!(heard(&mut subscription).await, "before");
    for node in ["a", "b"] {
        let (hub, actor) = hubs.remove(node).unwrap();
        actor.kill_and_wait(None).await.unwrap();
        hub.publish(&topic("t"), format!("while {node}'s is gone").into()).unwrap();
        let again = PubSub::new(hub.clone(), lab.members(node).clone());
        hubs.insert(node, (hub, PubSub::spawn(None, again, ()).await.unwrap().0));
        assert_eq!(heard(&mut subscription).await, format!("while {node}'s is gone"));
    }
    hubs["a"].0.publish(&topic("t"), "after".into()).unwrap();
    assert_eq!(heard(&mut subscription).await, "after");
    assert_eq!(hubs["b"].0.current(&topic("t")).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_slow_subscriber_is_told_what_it_missed_or_closed_and_slows_nobody() {
    let (_lab, hubs) = nodes(6, &["a"]).await;
    let hub = &hubs["a"].0;
    let mut oldest = hub.subscribe(&topic("t"), 2, Overflow::DropOldest);
    let mut closing = hub.subscribe(&topic("t"), 2, Overflow::Close);
    let quick = hub.subscribe(&topic("t"), 100, Overflow::DropOldest);
    for number in 1..=5 {
        hub.publish(&topic("t"), number.to_string().into()).unwrap();
    }
    assert_eq!(heard(&mut oldest).await, "overflowed 3");
    assert_eq!((heard(&mut oldest).await, heard(&mut oldest).await), ("4".into(), "5".into()));
    assert_eq!(heard(&mut oldest).await, "silence");
    assert_eq!((heard(&mut closing).await, heard(&mut closing).await), ("1".into(), "2".into()));
    assert_eq!(heard(&mut closing).await, "the end");
    assert_eq!(hub.subscribers(&topic("t")), 2);
    hub.close();
    assert_eq!(quick.into_stream().count().await, 5, "what waits, and then the end");
    assert_eq!(heard(&mut hub.subscribe(&topic("t"), 2, Overflow::Close)).await, "the end");
    drop(oldest);
    assert_eq!(hub.subscribers(&topic("t")), 0);
}

#[tokio::test(start_paused = true)]
async fn a_flooded_link_sends_the_newest_value_in_the_end() {
    let (_lab, hubs) = nodes(7, &["a", "b"]).await;
    let mut subscription = hubs["b"].0.subscribe(&topic("t"), 1000, Overflow::default());
    let body = |number: u8| Bytes::from(vec![number; 512 << 10]);
    for number in 0..100 {
        hubs["a"].0.retain(&topic("t"), body(number)).unwrap();
    }
    let mut numbers = Vec::new();
    while numbers.last() != Some(&99) {
        match subscription.recv().await {
            Some(News::Said(message)) => numbers.push(message.body[0]),
            other => panic!("{other:?} after {numbers:?}"),
        }
    }
    assert!(numbers.is_sorted() && numbers.len() < 100, "{numbers:?}");
}
