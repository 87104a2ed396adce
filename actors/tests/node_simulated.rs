//! Whole nodes, actors and all, in one process: the simulated network on tokio's paused clock.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends there")]

mod nodes;

use std::time::Duration;

use bytes::Bytes;
use nodes::{call, call_all, cluster, kinds, message, settings, start, three_vote, until};
use tumen_actors::node::Runtime;
use tumen_actors::partitions::router::CallOptions;
use tumen_actors::transport::simulated::{Weather, World};
use tumen_core::cluster::asks::Ask;
use tumen_core::cluster::coordinator::Departure;
use tumen_core::ids::NodeName;
use tumen_core::partitions::request::{Failure, Reply};

#[tokio::test(start_paused = true)]
async fn one_node_serves_all_its_partitions() {
    let world = World::new(1, Weather::default());
    let nodes = cluster(&world, 1).await;
    assert_eq!(call_all(&nodes[0]).await.len(), 50);
    nodes[0].stop().await;
}

#[tokio::test(start_paused = true)]
async fn three_nodes_route_each_others_keys() {
    let world = World::new(2, Weather::default());
    let nodes = cluster(&world, 3).await;
    for node in &nodes {
        call_all(node).await;
    }
    let plan = nodes[0].plans().newest().unwrap();
    assert_eq!(plan.members.len(), 3);
    three_vote(&nodes).await;
    for node in &nodes {
        node.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_crashed_followers_partitions_are_answered_by_others() {
    let world = World::new(3, Weather::default());
    let nodes = cluster(&world, 3).await;
    three_vote(&nodes).await;
    let leader = nodes[0].leader().unwrap();
    let victim = nodes.iter().position(|node| node.id().node != leader).unwrap();
    let other = nodes.iter().position(|node| node.id().node == leader).unwrap();
    world.crash(nodes[victim].id());
    let began = tokio::time::Instant::now();
    call_all(&nodes[other]).await;
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_crashed_leaders_partitions_are_answered_by_others() {
    let world = World::new(4, Weather::default());
    let nodes = cluster(&world, 3).await;
    three_vote(&nodes).await;
    let leader = nodes[0].leader().unwrap();
    let victim = nodes.iter().position(|node| node.id().node == leader).unwrap();
    world.crash(nodes[victim].id());
    let began = tokio::time::Instant::now();
    call_all(&nodes[(victim + 1) % 3]).await;
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_panics_is_started_again_and_others_do_not_notice() {
    let world = World::new(5, Weather::default());
    let nodes = cluster(&world, 1).await;
    call_all(&nodes[0]).await;
    let options = CallOptions::default();
    let reply = nodes[0].router().call(b"user:1", message(), Bytes::from_static(b"panic"), options).await;
    assert!(matches!(reply, Err(Failure::WorkerFailed(_))), "{reply:?}");
    let again = call(&nodes[0], "user:1").await.unwrap();
    assert!(again.ends_with(b" 1"), "a fresh worker: {again:?}");
    let partition = |key: &str| nodes[0].router().table().locate(key.as_bytes()).unwrap().partition;
    let other =
        (0..50).map(|n| format!("user:{n}")).find(|key| partition(key) != partition("user:1")).unwrap();
    let count = call(&nodes[0], &other).await.unwrap();
    assert!(!count.ends_with(b" 1"), "another worker kept its state: {count:?}");
}

/// Calls a worker of another node with all of these at once, so that they come there together: each reply, and when it came.
async fn call_together(nodes: &[Runtime], bodies: &[&'static str]) -> Vec<(Reply, Duration)> {
    let me = nodes[0].id();
    let elsewhere = |key: &String| nodes[0].router().table().locate(key.as_bytes()).unwrap().primary != me;
    let key = (0..50).map(|n| format!("user:{n}")).find(elsewhere).unwrap();
    let begun = tokio::time::Instant::now();
    let calls = bodies.iter().map(|body| {
        let body = Bytes::from_static(body.as_bytes());
        let reply = nodes[0].router().call(key.as_bytes(), message(), body, CallOptions::default());
        async move { (reply.await, begun.elapsed()) }
    });
    futures_util::future::join_all(calls).await
}

#[tokio::test(start_paused = true)]
async fn what_is_answered_is_not_held_back_by_a_handler_that_waits() {
    let world = World::new(8, Weather::default());
    let nodes = cluster(&world, 2).await;
    let bodies: Vec<_> = (0..20).map(|n| if n == 2 { "wait" } else { "" }).collect();
    let replies = call_together(&nodes, &bodies).await;
    for (n, (reply, when)) in replies.iter().enumerate() {
        assert!(reply.as_ref().unwrap().ends_with(format!(" {}", n + 1).as_bytes()), "{n}: {reply:?}");
        assert_eq!(*when >= Duration::from_secs(1), n >= 2, "{n}: {when:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_panic_among_many_fails_one_call_only() {
    let world = World::new(9, Weather::default());
    let nodes = cluster(&world, 2).await;
    let bodies: Vec<_> = (0..20).map(|n| if n == 11 { "panic" } else { "" }).collect();
    let replies = call_together(&nodes, &bodies).await;
    for (n, (reply, _)) in replies.iter().enumerate() {
        match n {
            11 => assert!(matches!(reply, Err(Failure::WorkerFailed(_))), "{n}: {reply:?}"),
            // Those after it are asked again, and answered by a fresh worker.
            _ => assert!(reply.is_ok(), "{n}: {reply:?}"),
        }
    }
    assert!(replies[10].0.as_ref().unwrap().ends_with(b" 11"), "{:?}", replies[10]);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_stops_hands_over_and_nothing_fails() {
    let world = World::new(6, Weather::default());
    let nodes = cluster(&world, 3).await;
    three_vote(&nodes).await;
    nodes[0].stop().await;
    call_all(&nodes[1]).await;
    until("two members", || nodes[1].plans().newest().is_some_and(|plan| plan.members.len() == 2)).await;
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_stops_as_the_only_voter_leaves_others_that_decide() {
    nodes::show_logs();
    for (seed, millis) in [(61, 1), (62, 5), (63, 20)] {
        let latency = Duration::from_millis(millis)..Duration::from_millis(2 * millis);
        let world = World::new(seed, Weather { latency: latency.clone(), ..Weather::default() });
        let start = async |n, seeds: &[usize]| {
            let mut settings = settings(&world, n, seeds, 1);
            if 2 * latency.end > settings.consensus.heartbeat {
                // A round trip has to fit in a heartbeat.
                settings.consensus.heartbeat *= 2;
                settings.consensus.election_timeout_min *= 2;
                settings.consensus.election_timeout_max *= 2;
            }
            Runtime::start(settings, kinds()).await.expect("valid")
        };
        let mut running = vec![start(1, &[]).await];
        until("the first serves alone", || running[0].ready().is_ok()).await;
        for n in 2..=4 {
            running.push(start(n, &[1]).await);
        }
        let all_are = |node: &Runtime| node.plans().newest().is_some_and(|plan| plan.members.len() == 4);
        until("all are members", || all_are(&running[0])).await;
        // The others are to vote now, and do not yet.
        running.remove(0).stop().await;
        // Until one of them made a plan they may live on leases of the leader that stopped, which run out.
        until("one of the others has decided, and they serve everything", || {
            let one_of_them = |leader: &NodeName| running.iter().any(|other| other.id().node == *leader);
            running.iter().all(|node| {
                node.ready().is_ok()
                    && node.leader().is_some_and(|leader| one_of_them(&leader))
                    && node.plans().newest().is_some_and(|plan| one_of_them(&plan.leader))
            })
        })
        .await;
        call_all(&running[0]).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_alone_yields_to_the_cluster_that_it_meets() {
    let world = World::new(7, Weather::default());
    let nodes = cluster(&world, 2).await;
    let lone = start(&world, 3, &[], 1).await;
    until("it founded its own", || lone.ready().is_ok()).await;
    lone.node_up("127.0.0.1:7001");
    let cluster = nodes[0].plans().cluster();
    until("it joined the other", || lone.plans().cluster() == cluster && lone.ready().is_ok()).await;
    call_all(&lone).await;
}

#[tokio::test(start_paused = true)]
async fn every_plan_is_told_to_every_node_in_order() {
    let world = World::new(8, Weather::default());
    let mut nodes = cluster(&world, 1).await;
    let mut told: Vec<_> = vec![nodes[0].plans().each()];
    for n in 2..=5 {
        let node = start(&world, n, &[1], 1).await;
        told.push(node.plans().each());
        until("it serves", || node.ready().is_ok()).await;
        nodes.push(node);
    }
    let victim = nodes.iter().position(|node| node.leader() != Some(node.id().node.clone())).unwrap();
    world.crash(nodes[victim].id());
    until("the crashed one is gone", || {
        let gone = |node: &Runtime| node.plans().newest().is_some_and(|plan| plan.members.len() == 4);
        nodes.iter().enumerate().all(|(at, node)| at == victim || gone(node))
    })
    .await;
    for (at, plans) in told.iter_mut().enumerate().filter(|(at, _)| *at != victim) {
        let versions: Vec<u64> =
            std::iter::from_fn(|| plans.try_recv().ok()).map(|plan| plan.version.0).collect();
        assert!(versions.windows(2).all(|pair| pair[0] + 1 == pair[1]), "node {at}: {versions:?}");
        assert_eq!(versions.last().copied(), nodes[at].plans().newest().map(|plan| plan.version.0));
        assert!(versions.len() > 2, "node {at}: {versions:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_that_lost_its_seat_takes_no_part_any_more() {
    let world = World::new(9, Weather::default());
    let nodes = cluster(&world, 4).await;
    let three = |node: &Runtime| node.voting().len() == 3;
    until("three vote", || nodes.iter().all(three)).await;
    let leader = nodes.iter().find(|node| node.leader().as_ref() == Some(&node.id().node)).unwrap();
    let votes = |node: &&Runtime| leader.voting().contains(&node.id().node);
    let idle = nodes.iter().find(|node| !votes(node)).unwrap();
    let unseated = nodes.iter().filter(votes).find(|node| node.id() != leader.id()).unwrap();
    let how = Departure::Drain { leave: false };
    let ask = Ask::Depart { node: unseated.id().node.clone(), how };
    leader.ask(ask, Duration::from_secs(20)).await.unwrap();
    until("another has its seat", || {
        nodes.iter().all(|node| {
            let voting = node.voting();
            voting.contains(&idle.id().node) && !voting.contains(&unseated.id().node)
        })
    })
    .await;
    assert!(unseated.consensus().borrow().running);
    until("it takes no part any more", || !unseated.consensus().borrow().running).await;
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(!unseated.consensus().borrow().running, "nobody calls it back");
        assert!(idle.consensus().borrow().running && nodes.iter().all(|node| node.ready().is_ok()));
    }
    assert_eq!(call_all(unseated).await.len(), 50);
}
