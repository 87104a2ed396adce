//! Consensus of several nodes in one process, on tokio's paused clock: what it promises through cuts and restarts.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends there")]

#[path = "consensus/world.rs"]
mod world;

use std::time::Duration;

use tumen_actors::cluster::consensus::{CommitError, NotReady};
use tumen_actors::store::Store;
use tumen_core::cluster::control::{Command, Outcome};
use tumen_core::ids::{NodeName, Version};
use world::{World, eventually, founding, next_plan, not_leader};

const MS: Duration = Duration::from_millis(1);

fn name(name: &str) -> NodeName {
    NodeName::new(name).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_lone_voter_founds_and_commits_at_once() {
    let mut world = World::simulated();
    let before = world.clock.now();
    world.found(&["n1"]).await;
    let handle = world.handle("n1");
    assert_eq!(
        handle.commit(next_plan(&handle), world.soon()).await,
        Ok(Outcome::Published { version: Version(1) })
    );
    assert!(world.clock.now().since(before) < 50 * MS, "nobody had to be waited for");
    let led = handle.leadership().borrow().clone();
    assert!(led.i_lead && led.first_entry_applied && led.leader == Some(name("n1")));
    assert!(handle.acks().borrow().is_some_and(|ack| ack.term == led.term));
    let again = handle.found(founding(), &Default::default(), &Default::default(), world.soon()).await;
    assert_eq!(again, Ok(Outcome::AlreadyFounded { id: founding().id }));
    assert_eq!(handle.state().borrow().state.version(), Version(1));
}

#[tokio::test(start_paused = true)]
async fn what_three_agree_on_all_three_show() {
    let mut world = World::simulated();
    let all = ["n1", "n2", "n3"];
    world.found(&all).await;
    let leader = world.leader_among(&all).await;
    assert_eq!(leader, "n1", "the founder stands first");
    for version in 1..=5 {
        assert_eq!(world.publish(&all).await, Version(version));
    }
    world.all_show(&all, Version(5)).await;
    for follower in ["n2", "n3"] {
        let handle = world.handle(follower);
        let refused = handle.commit(next_plan(&handle), world.soon()).await;
        assert_eq!(refused, Err(CommitError::NotLeader { hint: Some(name("n1")) }));
        assert_eq!(handle.state().borrow().state.founding, Some(founding()));
        assert_eq!(handle.metrics().borrow().voters, world.seats(&all));
        assert_eq!(handle.metrics().borrow().elections, 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_is_cut_off_gets_nothing_agreed_on_and_is_replaced() {
    let mut world = World::simulated();
    let all = ["n1", "n2", "n3"];
    world.found(&all).await;
    world.publish(&all).await;
    let old = world.handle("n1");
    world.cut_off("n1");
    let cut = world.clock.now();
    // At first it does not know, and begins what it cannot finish; then it does not even begin.
    let first = old.commit(next_plan(&old), cut + 200 * MS).await;
    assert_eq!(first, Err(CommitError::Timeout { maybe_applied: true }));
    assert_eq!(old.quorum_ack(cut + 2000 * MS).await, Err(CommitError::Timeout { maybe_applied: false }));
    let second = old.commit(next_plan(&old), cut + 4000 * MS).await;
    assert_eq!(second, Err(CommitError::Timeout { maybe_applied: false }));
    let acked = *old.acks().borrow();
    assert!(acked.is_none_or(|ack| ack.at <= cut), "a majority that cannot be asked does not answer");
    let leader = world.leader_among(&["n2", "n3"]).await;
    assert_eq!(world.publish(&["n2", "n3"]).await, Version(2));
    assert_eq!(old.state().borrow().state.version(), Version(1));
    world.heal();
    world.all_show(&all, Version(2)).await;
    eventually("the old leader follows", || old.leadership().borrow().leader == Some(name(&leader))).await;
    assert_eq!(*old.acks().borrow(), None);
    assert!(not_leader(&old.commit(next_plan(&old), world.soon()).await));
    assert_eq!(world.publish(&all).await, Version(3));
}

#[tokio::test(start_paused = true)]
async fn a_voter_that_was_cut_off_comes_back_without_disturbing_anybody() {
    let mut world = World::simulated();
    let all = ["n1", "n2", "n3"];
    world.found(&all).await;
    world.cut_off("n3");
    let version = world.publish(&["n1", "n2"]).await;
    tokio::time::sleep(5000 * MS).await;
    world.heal();
    world.all_show(&all, version).await;
    tokio::time::sleep(2000 * MS).await;
    for node in all {
        let metrics = world.handle(node).metrics().borrow().clone();
        assert_eq!((metrics.elections, metrics.candidacies), (1, 0), "{node}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_leader_is_followed_within_four_hundred_milliseconds() {
    for round in 0..20 {
        let mut world = World::simulated();
        let all = ["n1", "n2", "n3", "n4", "n5"];
        world.found(&all).await;
        world.publish(&all).await;
        // Somewhere between two heartbeats.
        tokio::time::sleep(MS * (500 + 7 * round)).await;
        world.cut_off("n1");
        let cut = world.clock.now();
        world.leader_among(&all[1..]).await;
        let took = world.clock.now().since(cut);
        assert!(took <= 400 * MS, "round {round}: {took:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_proven_crash_of_the_leader_is_followed_in_a_few_round_trips() {
    for round in 0..20 {
        let mut world = World::simulated();
        let all = ["n1", "n2", "n3", "n4", "n5"];
        world.found(&all).await;
        world.publish(&all).await;
        tokio::time::sleep(MS * (500 + 7 * round)).await;
        world.stop("n1", false).await;
        let crashed = world.clock.now();
        for node in &all[1..] {
            world.handle(node).leader_crashed(&name("n1"));
        }
        world.leader_among(&all[1..]).await;
        let took = world.clock.now().since(crashed);
        assert!(took <= 100 * MS, "round {round}: {took:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_false_alarm_costs_an_election_and_no_promise() {
    let mut world = World::simulated();
    let all = ["n1", "n2", "n3"];
    world.found(&all).await;
    let version = world.publish(&all).await;
    world.handle("n2").leader_crashed(&name("n1"));
    eventually("there was an election", || world.handle("n1").metrics().borrow().term.0 > 1).await;
    assert_eq!(world.publish(&all).await, version.next());
    world.handle("n3").leader_crashed(&name("somebody"));
    world.all_show(&all, version.next()).await;
}

#[tokio::test(start_paused = true)]
async fn a_voter_without_its_memory_is_a_new_voter_and_never_the_old_one() {
    let mut world = World::simulated();
    let all = ["n1", "n2", "n3"];
    world.found(&all).await;
    let version = world.publish(&all).await;
    let old = world.handle("n3").life();
    world.stop("n3", true).await;
    let handle = world.start("n3").await;
    let new = handle.life();
    assert_ne!(old, new);
    assert_eq!(world.handle("n1").life_of(&name("n3"), world.soon()).await, Ok(new));
    // Its old life counts as dead: with one more away, two of three lives are gone, and nothing is agreed on.
    world.cut_off("n2");
    let soon = world.clock.now() + 3000 * MS;
    let alone = world.handle("n1").commit(next_plan(&world.handle("n1")), soon).await;
    assert!(matches!(alone, Err(CommitError::Timeout { .. } | CommitError::NotLeader { .. })), "{alone:?}");
    assert!(!handle.metrics().borrow().running, "nobody calls the new life yet");
    world.heal();
    let leader = world.leader_among(&["n1", "n2"]).await;
    let next = world.seats(&all);
    assert_eq!(world.handle(&leader).set_voters(&next, world.soon()).await, Ok(()));
    world.all_show(&["n3"], version).await;
    // Now it counts: with n2 away, n1 and the new life of n3 agree.
    world.cut_off("n2");
    assert_eq!(world.publish(&["n1", "n3"]).await, version.next().next());
}

#[tokio::test(start_paused = true)]
async fn a_dead_voter_is_replaced_in_one_change() {
    let mut world = World::simulated();
    world.found(&["n1", "n2", "n3"]).await;
    world.publish(&["n1", "n2", "n3"]).await;
    world.start("n4").await;
    world.stop("n3", false).await;
    let leader = world.handle("n1");
    let missing = [(world.handle("n4").life(), name("n5"))].into();
    let mut bad = world.seats(&["n1", "n2"]);
    bad.extend::<tumen_core::cluster::voters::Voters>(missing);
    let refused = leader.set_voters(&bad, world.clock.now() + 500 * MS).await;
    assert!(matches!(refused, Err(CommitError::NotReady { why: NotReady::Silent, .. })), "{refused:?}");
    assert_eq!(leader.set_voters(&world.seats(&["n1", "n2"]), world.soon()).await, Err(CommitError::Even(2)));
    let next = world.seats(&["n1", "n2", "n4"]);
    assert_eq!(leader.set_voters(&next, world.soon()).await, Ok(()));
    assert_eq!(leader.set_voters(&next, world.soon()).await, Ok(()), "nothing to do");
    assert_eq!(leader.metrics().borrow().voters, next);
    world.stop("n2", false).await;
    let version = world.publish(&["n1", "n4"]).await;
    world.all_show(&["n1", "n4"], version).await;
}

#[tokio::test(start_paused = true)]
async fn voters_grow_to_five_and_shrink_to_one() {
    let mut world = World::simulated();
    let all = ["n1", "n2", "n3", "n4", "n5"];
    world.found(&["n1"]).await;
    world.start_all(&all[1..]).await;
    let leader = world.handle("n1");
    for count in [1, 3, 5, 3, 1] {
        let voters = world.seats(&all[..count]);
        assert_eq!(leader.set_voters(&voters, world.soon()).await, Ok(()), "{count}");
        let version = world.publish(&all[..count]).await;
        world.all_show(&all[..count], version).await;
        assert_eq!(leader.metrics().borrow().voters, voters);
    }
    let retired = world.handle("n2");
    retired.retire(world.soon()).await.unwrap();
    assert!(!retired.metrics().borrow().running);
    assert_eq!(leader.set_voters(&world.seats(&all[..3]), world.soon()).await, Ok(()), "it is called back");
    assert_eq!(leader.metrics().borrow().elections, 1);
}

#[tokio::test(start_paused = true)]
async fn leadership_is_handed_over_to_the_one_that_is_wanted() {
    let mut world = World::simulated();
    let all = ["n1", "n2", "n3"];
    world.found(&all).await;
    let mut version = world.publish(&all).await;
    for (from, to) in [("n1", "n3"), ("n3", "n2"), ("n2", "n1")] {
        let before = world.clock.now();
        assert_eq!(world.handle(from).step_down(&name(to), world.soon()).await, Ok(()));
        assert!(world.clock.now().since(before) < 450 * MS);
        assert_eq!(world.leader_among(&all).await, to);
        assert!(not_leader(&world.handle(from).commit(next_plan(&world.handle(from)), world.soon()).await));
        version = version.next();
        assert_eq!(world.publish(&all).await, version);
    }
    let refused = world.handle("n1").step_down(&name("n9"), world.soon()).await;
    assert!(matches!(refused, Err(CommitError::NotReady { why: NotReady::NoVoter, .. })));
    // Who does not answer cannot follow; the leader goes on.
    world.cut_off("n3");
    let refused = world.handle("n1").step_down(&name("n3"), world.clock.now() + 200 * MS).await;
    assert!(matches!(refused, Err(CommitError::NotReady { .. })), "{refused:?}");
    assert_eq!(world.publish(&["n1", "n2"]).await, version.next());
}

#[tokio::test(start_paused = true)]
async fn a_change_of_voters_that_was_left_in_the_middle_is_finished() {
    let mut world = World::simulated();
    let all = ["n1", "n2", "n3", "n4", "n5"];
    world.found(&all[..3]).await;
    world.start_all(&all[3..]).await;
    let leader = world.handle("n1");
    let next = world.seats(&["n1", "n4", "n5"]);
    let change = {
        let (leader, next, soon) = (leader.clone(), next.clone(), world.soon());
        tokio::spawn(async move { leader.set_voters(&next, soon).await })
    };
    // The moment the joint change stands in the log, its leader is gone.
    let mut metrics = leader.metrics();
    metrics.wait_for(|metrics| metrics.joint).await.unwrap();
    world.stop("n1", false).await;
    assert!(change.await.unwrap().is_err());
    let rest = &all[1..];
    let leader = world.leader_among(rest).await;
    let version = world.publish(rest).await;
    let metrics = world.handle(&leader).metrics();
    eventually("no joint change is left", || !metrics.borrow().joint).await;
    let voters = metrics.borrow().voters.clone();
    assert!(voters == next || voters.len() == 3, "{voters:?}");
    let names: Vec<&str> =
        rest.iter().copied().filter(|node| voters.values().any(|v| v.as_str() == *node)).collect();
    world.all_show(&names, version).await;
}

#[tokio::test(start_paused = true)]
async fn a_voter_far_behind_gets_a_snapshot_in_chunks() {
    let mut world = World::simulated();
    world.settings.snapshot_after = 8;
    world.found(&["n1"]).await;
    let leader = world.handle("n1");
    for _ in 0..100 {
        leader.commit(next_plan(&leader), world.soon()).await.unwrap();
    }
    eventually("a snapshot was made", || leader.metrics().borrow().snapshot.is_some()).await;
    world.start_all(&["n2", "n3"]).await;
    let next = world.seats(&["n1", "n2", "n3"]);
    assert_eq!(leader.set_voters(&next, world.soon()).await, Ok(()));
    world.all_show(&["n2", "n3"], Version(100)).await;
}

#[tokio::test(start_paused = true)]
async fn what_makes_no_sense_is_dropped_or_refused() {
    let mut world = World::simulated();
    world.found(&["n1", "n2", "n3"]).await;
    let handle = world.handle("n2");
    for byte in 0..=255_u8 {
        handle.deliver(&name("n1"), &vec![byte; byte as usize]);
    }
    handle.deliver(&name("n1"), &vec![0; 2 << 20]);
    let Command::Found(mut huge) = Command::Found(founding()) else { unreachable!() };
    huge.groups[0].1.strategy = "x".repeat(2 << 20);
    let refused = world.handle("n1").commit(Command::Found(huge), world.soon()).await;
    assert!(matches!(refused, Err(CommitError::TooLong { .. })), "{refused:?}");
    let past = world.handle("n1").commit(next_plan(&handle), tumen_core::Moment::ZERO).await;
    assert_eq!(past, Err(CommitError::Timeout { maybe_applied: false }));
    world.publish(&["n1", "n2", "n3"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_restarted_actor_goes_on_with_the_same_life() {
    let mut world = World::simulated();
    let all = ["n1", "n2", "n3"];
    world.found(&all).await;
    let version = world.publish(&all).await;
    for node in ["n2", "n1"] {
        let store: Store = world.nodes[node].store.clone();
        world.stop(node, false).await;
        world.start_with(store).await;
        world.publish(&all).await;
    }
    world.all_show(&all, version.next().next()).await;
    assert_eq!(world.handle("n1").metrics().borrow().voters, world.seats(&all));
}
