//! The law of replication in a small world of delays, losses, freezes, crashes and slow disks: nothing that was promised is
//! ever lost or undone. Each rule broken on its own is caught.
//!
//! Each world is explored to its end, with the law as it is and with the broken rule. `TUMEN_MODEL_DEPTH` lets the law's
//! wider worlds be explored to that depth; storms go further (`replication_storm`).

#![allow(clippy::unwrap_used, reason = "a panic is how a test says no")]
#![allow(
    unreachable_pub,
    dead_code,
    reason = "a test has no readers outside; its parts say what is theirs alone"
)]

#[path = "replication_model/check.rs"]
mod check;
#[path = "replication_model/mutant.rs"]
mod mutant;
#[path = "replication_model/step.rs"]
mod step;
#[path = "replication_model/world.rs"]
mod world;

use stateright::{Checker, HasDiscoveries, Model};
use tumen_core::cluster::snapshot::Mode;
use tumen_core::partitions::replication::Acks;

use mutant::Mutant;
use world::{Budget, NOTHING_LOST, NOTHING_UNDONE, ONE_ENTRY, ONE_PER_EPOCH, World};

#[test]
fn a_copy_that_lost_its_memory_does_not_count_in_a_seal() {
    let budget = Budget { appends: 1, promotions: 1, crashes: 2, ..NONE };
    let world = World { heirs: vec![2], ..three(budget) };
    catches(Mutant::KeepsItsLifeWithoutItsBytes, &LOST, world);
}

#[test]
fn no_new_epoch_while_the_former_primary_may_answer() {
    let budget = Budget { appends: 1, promotions: 1, lapses: 1, ..NONE };
    catches(Mutant::PromotesOverALease, &LOST, three(budget));
}

#[test]
fn the_newest_last_entry_is_adopted_and_not_the_longest_log() {
    let budget = Budget { appends: 2, promotions: 2, lapses: 2, ..NONE };
    catches(Mutant::AdoptsTheLongest, &LOST, World { heirs: vec![0, 1], ..three(budget) });
}

#[test]
fn what_was_adopted_is_served_once_w_have_it() {
    let budget = Budget { appends: 1, promotions: 2, lapses: 2, ..NONE };
    catches(Mutant::ServesWhatItAdopted, &LOST, three(budget));
}

#[test]
fn only_members_are_sealed() {
    let budget = Budget { appends: 1, promotions: 1, lapses: 1, wishes: 1, changes: 1, ..NONE };
    let world = World { nodes: 4, wishes: vec![vec![0, 1], vec![2, 3]], heirs: vec![2], ..two(budget) };
    catches(Mutant::SealsAmongJoiners, &LOST, world);
}

#[test]
fn no_member_is_swapped_before_the_primary_has_what_was_acknowledged() {
    let budget = Budget { appends: 1, promotions: 1, lapses: 1, wishes: 1, ..NONE };
    let world = World { nodes: 4, heirs: vec![1], ..three(budget) };
    catches(Mutant::SwapsBeforeAdoption, &LOST, world);
}

#[test]
fn no_lease_returns_before_the_plan_that_deposed_its_holder() {
    let budget = Budget { appends: 1, promotions: 1, lapses: 1, ..NONE };
    catches(Mutant::LeaseReturnsFirst, &LOST, three(budget));
}

#[test]
fn a_new_boot_does_not_serve_under_its_old_epoch() {
    let budget = Budget { appends: 2, crashes: 1, late: 1, ..NONE };
    catches(Mutant::ServesUnderItsOldEpoch, &[ONE_PER_EPOCH, ONE_ENTRY], three(budget));
}

#[test]
fn a_copy_takes_nothing_older_than_what_it_sealed() {
    let budget = Budget { appends: 1, promotions: 1, ..NONE };
    let world = World { leases: false, heirs: vec![1], ..three(budget) };
    catches(Mutant::TakesAnyFence, &LOST, world);
}

#[test]
fn in_strong_an_answer_waits_for_the_disk() {
    let budget = Budget { appends: 1, promotions: 1, crashes: 2, ..NONE };
    let world = World { mode: Mode::Strong, acks: Acks::AfterDisk, heirs: vec![2], ..three(budget) };
    catches(Mutant::AnswersBeforeTheDisk, &LOST, world);
}

#[test]
fn both_quorums_count_until_a_change_is_known() {
    let budget = Budget { appends: 1, promotions: 1, lapses: 1, wishes: 1, changes: 1, ..NONE };
    let world = World { nodes: 3, wishes: vec![vec![0, 1], vec![0, 2]], heirs: vec![1], ..two(budget) };
    catches(Mutant::TakesTheChangeForGranted, &LOST, world);
}

const LOST: [&str; 2] = [NOTHING_LOST, NOTHING_UNDONE];

const NONE: Budget = Budget {
    appends: 0,
    promotions: 0,
    crashes: 0,
    lapses: 0,
    releases: 0,
    wishes: 0,
    gone: 0,
    snapshots: 0,
    wakes: 0,
    changes: 0,
    late: 0,
};

/// Three members, of which the first is primary.
fn three(budget: Budget) -> World {
    World {
        nodes: 3,
        members: 3,
        wishes: vec![vec![0, 1, 2]],
        mode: Mode::Sync,
        acks: Acks::WithoutDisk,
        budget,
        heirs: vec![1, 2],
        mortals: vec![0, 1],
        leases: true,
        marks: false,
        survivors: true,
        mutant: Mutant::None,
    }
}

/// Two members, of which the first is primary.
fn two(budget: Budget) -> World {
    World { members: 2, ..three(budget) }
}

/// Explores the whole world: the broken rule must show in one of `properties`, and the law as it is in none.
fn catches(mutant: Mutant, properties: &[&str], world: World) {
    let began = std::time::Instant::now();
    let broken = World { mutant, survivors: false, ..world.clone() };
    let broken = broken
        .checker()
        .finish_when(HasDiscoveries::AnyFailures)
        .timeout(std::time::Duration::from_secs(60))
        .threads(2)
        .spawn_bfs()
        .join();
    let found = broken.discoveries();
    let caught = began.elapsed();
    let law = world.checker().threads(2).timeout(std::time::Duration::from_secs(60)).spawn_bfs().join();
    let (states, steps, depth) = (law.unique_state_count(), law.state_count(), law.max_depth());
    eprintln!(
        "{mutant:?}: {} states, {caught:?} until caught; the law: {states} states, {steps} steps, depth {depth}, {:?}",
        broken.unique_state_count(),
        began.elapsed() - caught
    );
    law.assert_properties();
    assert!(
        properties.iter().any(|property| found.contains_key(property)),
        "{mutant:?} was not caught by {properties:?}, but by {:?}",
        found.keys()
    );
}
