//! The lease law in a small world of delays, losses, freezes, drift, elections and restarts: never two who
//! would answer, and never a partition that nobody can bring back. Each rule broken on its own is caught.
//!
//! Each world is explored to its end, with the law as it is and with the broken rule; a storm of random walks
//! goes further. `LEASE_MODEL_WIDER=n` allows `n` more of everything, and storms that are longer by `n` times.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a test may be told by its environment how long to go on"
)]
#![allow(clippy::unwrap_used, reason = "a panic is how a test says no")]
#![allow(unreachable_pub, reason = "a test has no readers outside; its parts say what is theirs alone")]

#[path = "lease_model/calm.rs"]
mod calm;
#[path = "lease_model/mutant.rs"]
mod mutant;
#[path = "lease_model/plan.rs"]
mod plan;
#[path = "lease_model/step.rs"]
mod step;
#[path = "lease_model/storm.rs"]
mod storm;
#[path = "lease_model/world.rs"]
mod world;

use stateright::{Checker, HasDiscoveries, Model};

use mutant::Mutant;
use world::{Budget, FRESH_READS, HEALS, ONE_PRIMARY, World};

#[test]
fn a_grant_counts_from_when_its_request_was_sent() {
    let budget = Budget { ticks: 5, asks: 1, grants: 1, proposals: 1, ..NONE };
    catches(Mutant::CountsFromReceipt, ONE_PRIMARY, small(budget));
}

#[test]
fn a_grant_to_an_earlier_boot_is_nothing_to_the_next_one() {
    let budget = Budget { asks: 1, crashes: 1, proposals: 2, ..NONE };
    catches(Mutant::TakesRepliesToOtherBoots, ONE_PRIMARY, small(budget));
}

#[test]
fn a_grant_is_shorter_by_the_age_of_the_acknowledgement() {
    let budget = Budget { ticks: 4, asks: 1, grants: 1, elections: 1, proposals: 1, ..NONE };
    catches(Mutant::GrantsFullLength, ONE_PRIMARY, small(budget));
}

#[test]
fn an_acknowledgement_counts_from_before_the_question() {
    let budget = Budget { ticks: 4, asks: 1, grants: 1, acks: 1, elections: 1, proposals: 1, ..NONE };
    catches(Mutant::StampsAfterTheFreeze, ONE_PRIMARY, World { slow_acks: true, ..small(budget) });
}

#[test]
fn a_leader_grants_nothing_before_its_own_first_entry() {
    let budget = Budget { ticks: 4, asks: 1, grants: 1, acks: 1, elections: 1, proposals: 1, ..NONE };
    catches(Mutant::GrantsBeforeItsFirstEntry, ONE_PRIMARY, small(budget));
}

#[test]
fn a_new_leader_waits_for_what_others_granted() {
    let budget = Budget { ticks: 5, elections: 1, proposals: 1, ..NONE };
    catches(Mutant::DoesNotWaitAsNewLeader, ONE_PRIMARY, small(budget));
}

#[test]
fn a_new_leader_waits_for_slow_clocks_too() {
    let budget = Budget { ticks: 5, drifts: 1, elections: 1, proposals: 1, ..NONE };
    catches(Mutant::IgnoresDriftAsNewLeader, ONE_PRIMARY, small(budget));
}

#[test]
fn a_leader_adds_what_clocks_may_drift() {
    let budget = Budget { ticks: 5, drifts: 1, asks: 1, grants: 1, proposals: 1, ..NONE };
    catches(Mutant::IgnoresDrift, ONE_PRIMARY, small(budget));
}

#[test]
fn a_grant_counts_only_once_its_plan_was_acted_on() {
    let budget = Budget { ticks: 4, asks: 1, grants: 1, acks: 1, elections: 1, proposals: 1, ..NONE };
    catches(Mutant::IgnoresNewest, ONE_PRIMARY, small(budget));
}

#[test]
fn who_was_counted_out_waits_for_the_outcome() {
    let budget = Budget { ticks: 5, asks: 1, grants: 1, acks: 1, proposals: 1, ..NONE };
    catches(Mutant::GrantsBeforeTheOutcome, ONE_PRIMARY, World { slow_applies: true, ..small(budget) });
}

#[test]
fn a_new_boot_does_not_serve_under_an_old_epoch() {
    let budget = Budget { ticks: 1, asks: 1, grants: 1, crashes: 1, proposals: 1, ..NONE };
    catches(Mutant::RestartsUnderTheSameBoot, ONE_PRIMARY, small(budget));
}

#[test]
fn a_release_of_an_old_epoch_is_old_news() {
    let budget = Budget { asks: 1, grants: 2, releases: 1, proposals: 2, ..NONE };
    catches(Mutant::TakesReleasesOfOldEpochs, ONE_PRIMARY, small(budget));
}

#[test]
fn a_release_is_final_whatever_comes_of_it() {
    let budget = Budget { ticks: 2, asks: 1, grants: 1, releases: 1, elections: 1, proposals: 1, ..NONE };
    catches(Mutant::TakesReleasesBack, ONE_PRIMARY, small(budget));
}

#[test]
fn moved_away_and_back_counts_as_moved() {
    let budget = Budget { ticks: 4, asks: 1, grants: 1, acks: 1, proposals: 2, ..NONE };
    catches(Mutant::MissesMovesAwayAndBack, ONE_PRIMARY, small(budget));
}

#[test]
fn a_read_takes_the_value_first_and_checks_the_lease_after() {
    let budget = Budget { ticks: 5, reads: 1, proposals: 1, ..NONE };
    catches(Mutant::ChecksBeforeItReads, FRESH_READS, small(budget));
}

#[test]
fn releases_are_repeated_until_they_are_answered() {
    let budget = Budget { ticks: 1, asks: 1, grants: 1, releases: 1, elections: 1, proposals: 1, ..NONE };
    catches(Mutant::SendsReleasesOnce, HEALS, World { heals: true, ..small(budget) });
}

#[test]
fn every_release_is_answered_with_a_newer_epoch() {
    let budget = Budget { ticks: 1, releases: 1, elections: 1, proposals: 1, ..NONE };
    catches(Mutant::LeavesReleasesUnanswered, HEALS, World { heals: true, ..small(budget) });
}

#[test]
fn the_law_stands_in_storms() {
    let walks = 500 * (1 + u64::from(wider()));
    let storm = storm::run(&storm::world(Mutant::None), 0..walks, 300);
    eprintln!("{walks} walks, {} steps", storm.steps);
    assert_eq!(storm.broken, None);
}

const NONE: Budget = Budget {
    ticks: 0,
    drifts: 0,
    asks: 0,
    grants: 0,
    acks: 0,
    elections: 0,
    proposals: 0,
    releases: 0,
    crashes: 0,
    stops: 0,
    reads: 0,
};

/// Two nodes, one partition, and whatever the budget allows.
fn small(budget: Budget) -> World {
    World {
        nodes: 2,
        partitions: 1,
        askers: &[1],
        budget: budget.wider(wider()),
        slow_acks: false,
        slow_applies: false,
        heals: false,
        mutant: Mutant::None,
    }
}

fn wider() -> u8 {
    std::env::var("LEASE_MODEL_WIDER").map_or(0, |n| n.parse().expect("LEASE_MODEL_WIDER is a small number"))
}

/// Explores the whole world: the broken rule must show in `property`, and the law as it is in none.
fn catches(mutant: Mutant, property: &str, world: World) {
    let broken = World { mutant, ..world };
    let broken = broken.checker().finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    let found = broken.discoveries();
    let law = world.checker().spawn_bfs().join();
    let (states, steps, depth) = (law.unique_state_count(), law.state_count(), law.max_depth());
    eprintln!(
        "{mutant:?}: {} states until caught; the law: {states} states, {steps} steps, depth {depth}",
        broken.unique_state_count()
    );
    law.assert_properties();
    assert!(
        found.contains_key(property),
        "{mutant:?} was not caught by {property:?}, but by {:?}",
        found.keys()
    );
}
