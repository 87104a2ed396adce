//! The largest plan that may be configured, agreed on, announced and acted on by whole nodes on virtual time; and one that is
//! too large to be agreed on.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends there")]

mod nodes;

use std::time::Duration;

use nodes::{kinds, settings, three_vote, until};
use tumen_actors::node::{AskFailure, Runtime, Settings};
use tumen_actors::partitions::Kinds;
use tumen_actors::transport::simulated::{Weather, World};
use tumen_core::cluster::asks::Ask;
use tumen_core::cluster::coordinator::{AskError, Create};
use tumen_core::ids::{GroupId, Version};

fn with(mut settings: Settings, partitions: u32, replication: u32) -> Settings {
    let spec = &mut settings.groups[0].1;
    (spec.partitions, spec.replication) = (partitions, replication);
    settings
}

#[tokio::test(start_paused = true)]
async fn three_nodes_share_65_536_partitions_with_three_copies_each() {
    nodes::show_logs();
    const PARTITIONS: u32 = 65_536;
    let world = World::new(1, Weather::default());
    let mut running = Vec::new();
    for n in 1..=3 {
        let seeds: &[usize] = if n == 1 { &[] } else { &[1] };
        let settings = with(settings(&world, n, seeds, 3), PARTITIONS, 3);
        running.push(Runtime::start(settings, kinds()).await.unwrap());
    }
    until("all nodes are ready", || running.iter().all(|node| node.ready().is_ok())).await;
    three_vote(&running).await;
    let first = running[0].plans().newest().unwrap();
    assert_eq!(first.users().assignments.len(), PARTITIONS as usize);
    assert!(first.users().assignments.iter().all(|assignment| assignment.copies.len() == 3));
    assert_eq!(nodes::call_all(&running[1]).await.len(), 50);

    // A node more, which does not vote and pulls the plan: a quarter of them all is given back, and goes to it.
    let settings = with(settings(&world, 4, &[1], 1), PARTITIONS, 3);
    running.push(Runtime::start(settings, kinds()).await.unwrap());
    until("the fourth serves its share", || {
        running.iter().all(|node| node.ready().is_ok())
            && running[3].progress().borrow().running == PARTITIONS as usize / 4
    })
    .await;
    assert_eq!(nodes::call_all(&running[3]).await.len(), 50);

    // A node less: its partitions, a quarter of them all, go to the others in one plan.
    let victim = running.iter().position(|node| Some(node.id().node.clone()) != node.leader()).unwrap();
    world.crash(running[victim].id());
    let victim = running.remove(victim);
    until("others serve what it served", || {
        running.iter().all(|node| {
            node.ready().is_ok()
                && node.plans().newest().is_some_and(|plan| {
                    let at = plan.member_index(victim.id().node.as_str()).map(|at| at as u32);
                    plan.version > first.version
                        && plan.users().assignments.iter().all(|a| a.copies.first().copied() != at)
                })
        })
    })
    .await;
    assert_eq!(nodes::call_all(&running[0]).await.len(), 50);
}

#[tokio::test(start_paused = true)]
async fn a_plan_that_is_too_large_is_refused_with_its_size() {
    nodes::show_logs();
    let world = World::new(2, Weather::default());
    let mut running = Vec::new();
    for n in 1..=5 {
        let seeds: &[usize] = if n == 1 { &[] } else { &[1] };
        let mut settings = with(settings(&world, n, seeds, 5), 65_536, 5);
        let users = settings.groups[0].1.clone();
        settings.groups.push((GroupId::Names, users));
        settings.coordinator.create = Create::Manual;
        running.push(Runtime::start(settings, Kinds::default()).await.unwrap());
    }
    let node = &running[1];
    until("somebody leads", || node.leader().is_some()).await;
    until("all are there", || node.members().live_nodes().len() == 5).await;
    for _ in 0..2 {
        let asked = node.ask(Ask::Create, Duration::from_secs(10)).await;
        let Err(AskFailure::Refused(error @ AskError::PlanTooLong { len, max })) = asked else {
            panic!("{asked:?}")
        };
        assert!(len > max && error.to_string().contains("fewer partitions"), "{error}");
        assert_eq!(node.plans().version(), Version::ZERO);
        tokio::time::sleep(Duration::from_secs(6)).await;
    }
}
