//! How healthy a cluster is, as each of its nodes sees it: on the simulated network and tokio's paused clock.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends there")]

mod nodes;

use std::sync::Arc;
use std::time::Duration;

use nodes::{adder, all_ready, replicate, settings, show_logs, start_replicated, until};
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::TryRecvError;
use tumen_actors::node::{Event, Runtime};
use tumen_actors::transport::simulated::{Weather, World};
use tumen_core::cluster::health::{Assessment, Change, Reason, Standing, Status};
use tumen_core::cluster::snapshot::Mode;
use tumen_core::ids::GroupId;

fn seen(node: &Runtime) -> Arc<Assessment> {
    node.health().last().map(|(assessment, _)| assessment).unwrap_or_default()
}

fn codes(node: &Runtime) -> Vec<&'static str> {
    seen(node).reasons.iter().map(Reason::code).collect()
}

async fn all_see(nodes: &[&Runtime], status: Status, expected: &[&str]) {
    let so = |node: &&Runtime| {
        let looked = node.health().last().is_some();
        looked && seen(node).status == status && codes(node) == expected
    };
    for _ in 0..24_000 {
        if nodes.iter().all(so) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let all: Vec<_> = nodes.iter().map(|node| (node.id().to_string(), codes(node))).collect();
    panic!("not {status} for {expected:?}: {all:?}");
}

/// What was told of the cluster, as statuses and codes.
fn told(events: &mut broadcast::Receiver<Event>) -> Vec<(Status, Vec<&'static str>, Vec<&'static str>)> {
    let mut told = Vec::new();
    loop {
        match events.try_recv() {
            Ok(Event::Health { change: Change::Cluster { to, raised, cleared, .. } }) => {
                let codes = |reasons: &[Reason]| reasons.iter().map(Reason::code).collect();
                told.push((to, codes(&raised), codes(&cleared)));
            }
            Ok(_) => {}
            Err(TryRecvError::Empty | TryRecvError::Closed) => return told,
            Err(TryRecvError::Lagged(count)) => panic!("{count} events were missed"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_cluster_that_loses_a_node_is_degraded_until_it_is_back() {
    let world = World::new(81, Weather::default());
    let mut nodes = nodes::replicated(&world, 3, Mode::Sync).await;
    all_see(&nodes.iter().collect::<Vec<_>>(), Status::Healthy, &[]).await;
    for node in &nodes {
        let seen = seen(node);
        assert_eq!(seen.tally(GroupId::Users), [16, 0, 0], "{seen:?}");
        assert_eq!(seen.replicas(GroupId::Users), (48, 48));
        assert!(seen.nodes.iter().all(|node| node.status == Status::Healthy), "{seen:?}");
    }
    let leader = nodes[0].leader().unwrap();
    let victim = nodes.iter().position(|node| node.id().node != leader).unwrap();
    let gone = nodes.remove(victim);
    let mut events: Vec<_> = nodes.iter().map(Runtime::events).collect();
    world.crash(gone.id());
    let survivors: Vec<&Runtime> = nodes.iter().collect();
    all_see(&survivors, Status::Degraded, &["copies_missing", "node_lost"]).await;
    for node in &survivors {
        let seen = seen(node);
        let lost = seen.nodes.iter().find(|node| node.id.node == gone.id().node).unwrap();
        assert_eq!((lost.status, lost.reasons.len()), (Status::Critical, 1), "{seen:?}");
        assert_eq!(seen.replicas(GroupId::Users), (32, 48));
    }
    // It comes back, as another run without a memory.
    let number = gone.id().node.as_str().strip_prefix("node-").unwrap().parse().unwrap();
    let others: Vec<usize> = (1..=3).filter(|n| *n != number).collect();
    let back = start_replicated(&world, number, &others, 1, Mode::Sync).await;
    nodes.push(back);
    all_ready(&nodes).await;
    all_see(&nodes.iter().collect::<Vec<_>>(), Status::Healthy, &[]).await;
    for events in &mut events {
        let told = told(events);
        let (first, last) = (told.first().unwrap(), told.last().unwrap());
        assert_eq!((first.0, last.0), (Status::Degraded, Status::Healthy), "{told:?}");
        let mut known = Vec::new();
        for (_, raised, cleared) in &told {
            known.retain(|code| !cleared.contains(code));
            assert!(raised.iter().all(|code| !known.contains(code)), "told twice: {told:?}");
            known.extend(raised);
        }
        assert!(known.is_empty(), "{told:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_lost_partition_is_critical_on_every_node_and_healed_is_healthy() {
    let world = World::new(82, Weather::default());
    show_logs();
    let mut nodes = Vec::new();
    for at in 1..=5 {
        let (seeds, min_nodes) = if at == 1 { (&[][..], 5) } else { (&[1][..], 1) };
        let mut settings = settings(&world, at, seeds, min_nodes);
        replicate(&mut settings, Mode::Sync);
        // Nobody makes copies anew meanwhile.
        settings.coordinator.rebuild_after = Duration::from_secs(3_600);
        nodes.push(Runtime::start(settings, adder::kinds()).await.unwrap());
    }
    all_ready(&nodes).await;
    until("all vote", || nodes.iter().all(|node| node.voting().len() == 5)).await;
    all_see(&nodes.iter().collect::<Vec<_>>(), Status::Healthy, &[]).await;
    // Two of the three copies of a partition go, and neither of their nodes leads.
    let leader = nodes[0].leader().unwrap();
    let plan = nodes[0].plans().newest().unwrap();
    let (partition, gone) = plan
        .partitions()
        .find_map(|(partition, assignment)| {
            let copies = assignment.copies.iter().map(|at| plan.members[*at as usize].id().clone());
            let others: Vec<_> = copies.filter(|id| id.node != leader).take(2).collect();
            let primary = plan.primary_of(partition)?.0;
            (others.len() == 2 && others.contains(primary)).then_some((partition, others))
        })
        .unwrap();
    let name = |node: &Runtime| node.id().node.clone();
    let (away, rest): (Vec<&Runtime>, Vec<&Runtime>) =
        nodes.iter().partition(|node| gone.contains(node.id()));
    let named = |nodes: &[&Runtime]| nodes.iter().map(|node| name(node)).collect::<Vec<_>>();
    world.cut(&named(&away), &named(&rest));
    let survivors: Vec<&Runtime> = nodes.iter().filter(|node| !gone.contains(node.id())).collect();
    let critical = |node: &&Runtime| {
        let seen = seen(node);
        let at = seen.partitions.iter().find(|one| one.id == partition);
        seen.status == Status::Critical
            && codes(node).contains(&"partitions_lost")
            && at.is_some_and(|one| one.standing == Standing::Lost && one.status() == Status::Critical)
    };
    until("it is critical", || survivors.iter().all(critical)).await;
    // Who is cut off says so too.
    let cut_off = nodes.iter().find(|node| gone.contains(node.id())).unwrap();
    until("it has no lease", || codes(cut_off).contains(&"no_lease")).await;
    assert_eq!(seen(cut_off).status, Status::Critical);
    world.heal_all();
    all_see(&nodes.iter().collect::<Vec<_>>(), Status::Healthy, &[]).await;
}

#[tokio::test(start_paused = true)]
async fn a_node_alone_lacks_copies_and_one_that_waits_knows_no_plan() {
    let world = World::new(83, Weather::default());
    let alone = start_replicated(&world, 1, &[], 1, Mode::Sync).await;
    all_see(&[&alone], Status::Degraded, &["copies_missing"]).await;
    assert_eq!(seen(&alone).replicas(GroupId::Users), (16, 48));
    let waits = start_replicated(&world, 2, &[3], 1, Mode::Sync).await;
    all_see(&[&waits], Status::Degraded, &["no_plan"]).await;
}
