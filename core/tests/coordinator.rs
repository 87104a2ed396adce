//! The leader's law among several nodes: stories, and storms of seeded trouble.
#![allow(clippy::disallowed_methods, reason = "a test may be told by its environment how long to go on")]
#![allow(missing_docs)]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends there")]

mod world;

use std::collections::BTreeMap;
use std::time::Duration;

use tumen_core::cluster::coordinator::{AskError, Config, Create, Departure, LossOutcome, Rebalance};
use tumen_core::cluster::member::Status;
use tumen_core::ids::{Epoch, NodeBoot, NodeName, PartitionId, Version};
use world::{World, name};

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn cluster_of(nodes: usize, seed: u64) -> World {
    let mut world = World::new(seed, 16, 3, Config { min_nodes: nodes, ..Config::default() });
    let boots: Vec<_> = (1..=nodes).map(|n| world.start(n)).collect();
    world.pass(ms(10));
    world.lead(&boots[0]);
    world.pass(ms(2500));
    world
}

#[test]
fn three_nodes_come_to_serve_everything_once() {
    let world = cluster_of(3, 1);
    assert_eq!(world.plan().version, Version(1));
    assert_eq!(world.served().len(), 16);
}

#[test]
fn partitions_that_are_asked_for_at_once_are_created_by_one_question() {
    let config = Config { min_nodes: 2, create: Create::Manual, ..Config::default() };
    let mut world = World::new(11, 16, 3, config);
    let first = world.start(1);
    world.pass(ms(10));
    world.lead(&first);
    world.pass(ms(100));
    assert_eq!(world.create(), Err(AskError::TooFewNodes { present: 1, wanted: 2 }));
    world.start(2);
    world.pass(ms(100));
    assert_eq!([world.create(), world.create()], [Ok(true), Ok(false)]);
    world.pass(ms(2500));
    assert_eq!((world.create(), world.plan().version), (Ok(false), Version(1)));
    assert_eq!(world.served().len(), 16);
}

#[test]
fn partitions_that_were_asked_for_once_come_although_a_proposal_is_lost() {
    for seed in 0..20 {
        let config = Config { create: Create::Manual, ..Config::default() };
        let mut world = World::new(seed, 16, 3, config);
        world.unknown_outcomes = 900;
        let first = world.start(1);
        world.pass(ms(10));
        world.lead(&first);
        world.pass(ms(100));
        assert_eq!(world.create(), Ok(true));
        world.pass(Duration::from_secs(30));
        assert_eq!(world.served().len(), 16, "seed {seed}");
    }
}

#[test]
fn a_burst_of_joins_is_one_change_or_two() {
    let mut world = World::new(2, 16, 3, Config::default());
    let first = world.start(1);
    world.lead(&first);
    world.pass(ms(2500));
    let before = world.plan().version;
    for n in 2..=6 {
        world.start(n);
        world.pass(ms(200));
    }
    world.pass(ms(5000));
    let plan = world.plan();
    assert_eq!(plan.members.len(), 6);
    assert!(plan.version.0 - before.0 <= 2, "{} plans", plan.version.0 - before.0);
    assert_eq!(world.served().len(), 16);
}

/// Three nodes that move nothing for the sake of balance until somebody asks for it.
fn cluster_by_hand(seed: u64, replicated: bool) -> World {
    let config = Config { min_nodes: 3, rebalance: Rebalance::Manual, ..Config::default() };
    let make = if replicated { World::replicated } else { World::new };
    let mut world = make(seed, 16, 2, config);
    let boots: Vec<_> = (1..=3).map(|n| world.start(n)).collect();
    world.pass(ms(10));
    world.lead(&boots[0]);
    world.pass(ms(4000));
    world
}

/// Who is primary of each partition, under which epoch, and who has its copies in which order.
fn places(world: &World) -> BTreeMap<PartitionId, (NodeBoot, Epoch, Vec<NodeName>)> {
    let plan = world.plan();
    let places = plan.partitions().map(|(partition, assignment)| {
        let (primary, epoch) = plan.primary_of(partition).unwrap();
        let copies = assignment.copies.iter().map(|at| plan.members[*at as usize].name().clone());
        (partition, (primary.clone(), epoch, copies.collect()))
    });
    places.collect()
}

#[test]
fn where_balance_is_by_hand_a_join_moves_nothing_until_it_is_asked_for() {
    for replicated in [false, true] {
        let mut world = cluster_by_hand(12, replicated);
        let before = places(&world);
        assert_eq!(world.served().len(), 16);
        // One that sorts before all others, and one after them.
        let joined = [world.start(0), world.start(4)];
        world.pass(Duration::from_secs(20));
        assert_eq!(world.plan().members.len(), 5, "they are members");
        assert_eq!(places(&world), before);
        // Nor does whoever leads next look after balance.
        let next = world.boot_of(&name(2)).unwrap();
        world.lead(&next);
        world.pass(Duration::from_secs(20));
        assert_eq!(places(&world), before);
        assert_eq!(world.served().len(), 16);

        world.rebalance().unwrap();
        world.pass(Duration::from_secs(20));
        assert_eq!((world.served().len(), world.primaries()), (16, (3, 4)));
        for node in &joined {
            assert!(places(&world).values().any(|(_, _, copies)| copies.contains(&node.node)));
        }
        // It was asked for once.
        let after = places(&world);
        world.start(5);
        world.pass(Duration::from_secs(20));
        assert_eq!((world.plan().members.len(), places(&world)), (6, after));
        // A restarted node's copies come to count again: nobody asked for balance by that.
        let victim = world.boot_of(&name(3)).unwrap();
        world.kill(&victim);
        world.start(3);
        world.pass(Duration::from_secs(20));
        assert_eq!((world.served().len(), world.plan().members.len()), (16, 6));
        assert!(!places(&world).values().any(|(_, _, copies)| copies.contains(&name(5))));
    }
}

#[test]
fn where_balance_is_by_hand_a_lost_primary_is_replaced_all_the_same() {
    for replicated in [false, true] {
        let mut world = cluster_by_hand(13, replicated);
        world.start(4);
        world.pass(Duration::from_secs(10));
        let before = places(&world);
        let victim = world.boot_of(&name(2)).unwrap();
        world.kill(&victim);
        world.pass(ms(20));
        assert_eq!(world.plan().member("node-2").unwrap().status, Status::Lost);
        assert_eq!(world.served().len(), 16);
        for (partition, (primary, epoch, copies)) in places(&world) {
            let (former, old, held) = &before[&partition];
            if *former == victim {
                assert!(held.contains(&primary.node), "{partition} goes to one that has a copy of it");
                assert_eq!(epoch, old.next());
            } else {
                assert_eq!((&primary, epoch, &copies), (former, *old, held));
            }
        }
        assert!(before.values().any(|(former, ..)| *former == victim));
    }
}

#[test]
fn a_crashed_node_is_replaced_at_once_and_its_copies_wait() {
    let mut world = cluster_of(4, 3);
    let victim = world.boot_of(&name(3)).unwrap();
    world.kill(&victim);
    world.pass(ms(20));
    assert_eq!(world.plan().member("node-3").unwrap().status, Status::Lost);
    assert_eq!(world.served().len(), 16);
    world.pass(Duration::from_secs(31));
    assert!(world.plan().member("node-3").is_none(), "its copies are made anew");
    assert_eq!(world.served().len(), 16);
}

#[test]
fn a_crashed_leader_is_replaced_without_waiting_for_its_lease() {
    let mut world = cluster_of(3, 4);
    let victim = world.boot_of(&name(1)).unwrap();
    world.kill(&victim);
    world.pass(ms(5));
    world.elect();
    world.pass(ms(30));
    assert!(
        world
            .plan()
            .users()
            .assignments
            .iter()
            .all(|a| { world.plan().primary(a).is_some_and(|m| m.name() != &name(1)) })
    );
    world.pass(ms(200));
    assert_eq!(world.served().len(), 16);
}

#[test]
fn a_frozen_node_is_replaced_after_its_lease_and_serves_again_after_the_thaw() {
    let mut world = cluster_of(3, 5);
    let sleeper = world.boot_of(&name(2)).unwrap();
    world.freeze(&sleeper, Duration::from_secs(10));
    world.pass(ms(2600));
    assert_eq!(world.served().len(), 16);
    assert_eq!(world.plan().member("node-2").unwrap().status, Status::Lost);
    world.pass(Duration::from_secs(12));
    assert_eq!(world.plan().member("node-2").unwrap().status, Status::Up);
    assert!(world.served().values().any(|boot| *boot == sleeper));
}

#[test]
fn a_restarted_node_keeps_its_copies_and_serves_only_under_newer_epochs() {
    let mut world = cluster_of(3, 6);
    let (before, victim) = (world.plan().clone(), world.boot_of(&name(2)).unwrap());
    world.kill(&victim);
    let back = world.start(2);
    world.pass(ms(5000));
    let plan = world.plan();
    assert_eq!(plan.member("node-2").unwrap().id(), &back);
    for (partition, assignment) in plan.partitions() {
        let copies: std::collections::BTreeSet<_> = assignment.copies.iter().collect();
        assert_eq!(copies.len(), 3, "no copy moved");
        if plan.primary(assignment).unwrap().id() == &back {
            assert!(assignment.epoch > before.assignment(partition).unwrap().epoch);
        }
    }
    assert!(world.served().values().any(|boot| *boot == back));
}

#[test]
fn a_node_that_stops_hands_over_first_and_keeps_its_place() {
    let mut world = cluster_of(3, 7);
    let goer = world.boot_of(&name(2)).unwrap();
    world.depart(&name(2), Departure::Stop { grace: Duration::from_secs(60) });
    world.pass(ms(100));
    assert!(!world.served().values().any(|boot| *boot == goer), "it serves nothing any more");
    assert_eq!(world.served().len(), 16, "and nothing is unserved");
    world.kill(&goer);
    world.pass(ms(2000));
    assert_eq!(world.plan().member("node-2").unwrap().status, Status::Away);
    let copies: usize = world.plan().users().assignments.iter().map(|a| a.copies.len()).sum();
    assert_eq!(copies, 48, "no copy moved");
    world.start(2);
    world.pass(ms(4000));
    assert_eq!(world.plan().member("node-2").unwrap().status, Status::Up);
    let copies: usize = world.plan().users().assignments.iter().map(|a| a.copies.len()).sum();
    assert_eq!(copies, 48);
}

#[test]
fn a_drained_node_that_leaves_gives_its_copies_away_and_is_no_member() {
    let mut world = cluster_of(4, 8);
    world.depart(&name(4), Departure::Drain { leave: true });
    world.pass(ms(8000));
    assert!(world.plan().member("node-4").is_none());
    assert_eq!(world.served().len(), 16);
}

#[test]
fn storms_never_make_two_primaries_and_always_clear() {
    let storms: u64 = std::env::var("TUMEN_STORMS").ok().and_then(|n| n.parse().ok()).unwrap_or(20);
    for seed in 0..storms {
        storm(seed);
    }
}

fn storm(seed: u64) {
    let mut world = World::new(seed, 12, 2, Config { min_nodes: 3, ..Config::default() });
    world.unknown_outcomes = 100;
    for n in 1..=5 {
        world.start(n);
    }
    world.pass(ms(10));
    world.elect();
    world.pass(ms(2000));
    let mut going = std::collections::BTreeSet::new();
    for _ in 0..40 {
        let n = 1 + world.chance(5) as usize;
        let running = world.boot_of(&name(n));
        match (world.chance(10), running) {
            (0 | 1, Some(boot)) if world.running().len() > 1 => world.kill(&boot),
            (2 | 3, Some(boot)) if world.running().len() > 1 => {
                let lasts = ms(u64::from(world.chance(6000)));
                world.freeze(&boot, lasts);
            }
            (4, Some(boot)) => {
                world.depart(&name(n), Departure::Stop { grace: ms(20_000) });
                going.insert(boot);
            }
            (5, Some(_)) => world.elect(),
            (_, None) => {
                world.start(n);
            }
            _ => {}
        }
        let pause = u64::from(world.chance(1500));
        world.pass(ms(pause / 2));
        if world.leader.is_none() {
            world.elect();
        }
        world.pass(ms(pause / 2));
    }
    // The trouble ends: everybody is restarted that is gone or was told to go, and all is served.
    for n in 1..=5 {
        // Whoever announced that it stops does stop.
        if let Some(boot) = world.boot_of(&name(n)).filter(|boot| going.contains(boot)) {
            world.kill(&boot);
        }
        if world.boot_of(&name(n)).is_none() {
            world.start(n);
        }
    }
    world.pass(Duration::from_secs(8));
    world.elect();
    world.pass(Duration::from_secs(40));
    assert_eq!(world.served().len(), 12, "seed {seed}: unserved after the storm: plan {:#?}", world.plan());
    let members = &world.plan().members;
    assert!(members.iter().all(|m| m.status != Status::Lost), "seed {seed}: {members:#?}");
}

fn replicated_cluster_of(nodes: usize, seed: u64) -> World {
    let mut world = World::replicated(seed, 16, 3, Config { min_nodes: nodes, ..Config::default() });
    let boots: Vec<_> = (1..=nodes).map(|n| world.start(n)).collect();
    world.pass(ms(10));
    world.lead(&boots[0]);
    world.pass(ms(4000));
    world
}

#[test]
fn state_moves_before_primaries_do() {
    for seed in 0..20 {
        let mut world = replicated_cluster_of(3, seed);
        assert_eq!(world.plan().version, Version(1));
        world.check_copies();
        world.start(4);
        world.pass(ms(6000));
        // One plan for the copies, one or two for the primaries that follow them.
        assert!((3..=4).contains(&world.plan().version.0), "{}", world.plan().version);
        world.check_copies();
        assert_eq!((world.served().len(), world.primaries()), (16, (4, 4)));
    }
}

#[test]
fn a_copy_that_counts_takes_over_and_a_node_that_drains_waits_for_one() {
    let mut world = replicated_cluster_of(4, 3);
    let victim = world.boot_of(&name(3)).unwrap();
    world.kill(&victim);
    world.pass(ms(20));
    assert_eq!(world.served().len(), 16);
    world.pass(Duration::from_secs(36));
    world.check_copies();
    world.depart(&name(2), Departure::Drain { leave: true });
    world.pass(ms(8000));
    assert!(world.plan().member("node-2").is_none(), "it has nothing that counts any more");
    assert_eq!(world.served().len(), 16);
    world.check_copies();
}

#[test]
fn a_single_copy_moves_only_with_its_state() {
    let config = Config { min_nodes: 2, ..Config::default() };
    let mut world = World::replicated(9, 16, 1, config);
    let boots: Vec<_> = (1..=2).map(|n| world.start(n)).collect();
    world.pass(ms(10));
    world.lead(&boots[0]);
    world.pass(ms(3000));
    world.start(3);
    world.pass(ms(6000));
    world.check_copies();
    assert_eq!(world.served().len(), 16);
    world.depart(&name(2), Departure::Drain { leave: true });
    world.pass(ms(6000));
    assert!(world.plan().member("node-2").is_none());
    world.check_copies();
    assert_eq!(world.served().len(), 16);
}

#[test]
fn storms_over_replicated_partitions_end_in_copies_that_count() {
    let storms: u64 = std::env::var("TUMEN_STORMS").ok().and_then(|text| text.parse().ok()).unwrap_or(12);
    let given_up: usize = (0..storms).map(storm_of_replicated_partitions).sum();
    assert!(given_up > 0, "nothing was ever lost");
}

/// In this storm steps change which copies count while a plan waits for releases.
#[test]
fn a_plan_that_waited_goes_by_the_copies_that_count_when_it_is_told() {
    storm_of_replicated_partitions(671);
}

/// Nodes die, freeze, leave and come back; in the end all is served, and exactly the copies that are wanted count.
///
/// Returns how many partitions were given up for lost.
fn storm_of_replicated_partitions(seed: u64) -> usize {
    eprintln!("seed {seed}");
    let mut world = replicated_cluster_of(5, seed);
    world.unknown_outcomes = 100;
    for _ in 0..8 {
        let node = name(1 + world.chance(5) as usize);
        match (world.chance(6), world.boot_of(&node)) {
            (0 | 1, Some(boot)) => world.kill(&boot),
            (2, Some(boot)) => {
                let lasts = ms(u64::from(world.chance(6000)));
                world.freeze(&boot, lasts);
            }
            (3, _) => world.elect(),
            (4, Some(_)) => world.depart(&node, Departure::Drain { leave: false }),
            _ => {}
        }
        if world.boot_of(&node).is_none() {
            world.start(node.as_str()[5..].parse().unwrap());
        }
        if world.leader.is_none() {
            world.elect();
        }
        let pause = ms(u64::from(world.chance(3000)));
        world.pass(pause);
    }
    world.unknown_outcomes = 0;
    world.pass(ms(8000));
    world.elect();
    world.pass(Duration::from_secs(60));
    for (partition, assignment) in world.plan().partitions() {
        assert!(!assignment.members.is_empty(), "seed {seed}: {partition}");
    }
    // What is lost stays so until an operator accepts it, and then goes on with what is left, or begins anew.
    let lost = world.lost();
    let mut left = lost.clone();
    for _ in 0..=lost.len() {
        for partition in &left {
            world.accept_loss(*partition).unwrap();
        }
        world.pass(ms(8000));
        let outcomes = world.take_losses();
        assert_eq!(outcomes.len(), left.len(), "seed {seed}: {outcomes:?}");
        // One plan for each: whoever is told that another plan came between asks again.
        left = (outcomes.into_iter())
            .filter_map(|(partition, outcome)| match outcome {
                LossOutcome::Accepted(_) => None,
                LossOutcome::Refused(AskError::Overtaken(_)) => Some(partition),
                other => panic!("seed {seed}: {partition}: {other:?}"),
            })
            .collect();
    }
    assert_eq!(left, [], "seed {seed}");
    world.pass(Duration::from_secs(20));
    assert_eq!((world.served().len(), world.lost()), (16, vec![]), "seed {seed}");
    world.check_copies();
    lost.len()
}

#[test]
fn a_loss_is_accepted_only_where_fewer_copies_can_answer_than_must() {
    let mut world = replicated_cluster_of(3, 5);
    let partition = PartitionId::user(0);
    let refusal = |world: &mut World| {
        world.accept_loss(partition).unwrap();
        world.pass(ms(200));
        match world.take_losses().as_slice() {
            [(_, LossOutcome::Refused(why))] => why.to_string(),
            other => panic!("{other:?}"),
        }
    };
    assert!(refusal(&mut world).contains("not lost"));
    assert_eq!(
        world.accept_loss(PartitionId::user(99)),
        Err(AskError::NoSuchPartition(PartitionId::user(99)))
    );

    // Two of three forget everything.
    for node in [2, 3] {
        let boot = world.boot_of(&name(node)).unwrap();
        world.kill(&boot);
    }
    let lead = world.boot_of(&name(1)).unwrap();
    world.lead(&lead);
    world.pass(ms(100));
    for node in [2, 3] {
        world.start(node);
    }
    world.pass(ms(5000));
    assert_eq!(world.lost().len(), 16);
    let before = world.plan().assignment(partition).unwrap().clone();
    world.accept_loss(partition).unwrap();
    world.accept_loss(partition).expect("saying it twice is the same as once");
    world.pass(ms(5000));
    let losses = world.take_losses();
    let [(_, LossOutcome::Accepted(accepted))] = losses.as_slice() else { panic!("{losses:?}") };
    assert_eq!((accepted.partition, accepted.epoch), (partition, before.epoch.next()));
    assert_eq!((accepted.survivors.len(), accepted.given_up.len()), (1, 2));
    assert_eq!(accepted.survivors[0].0.node, name(1));
    assert!(refusal(&mut world).contains("not lost"), "it goes on, and has three copies again");
    assert_eq!(world.plan().assignment(partition).unwrap().members.len(), 3);
    assert_eq!(world.lost().len(), 15, "nobody else's loss was accepted");
}
