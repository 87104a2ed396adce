//! The law of replication in a small world of delays, losses, freezes, crashes and slow disks: nothing that was promised is
//! ever lost or undone. Each rule broken on its own is caught.
//!
//! The world of each broken rule is explored until the rule's breach shows. With the law as it is, it and the law's own,
//! wider worlds are explored to a depth that `TUMEN_MODEL_DEPTH` sets: by default to one at which all of them take some
//! seconds, and to their end in `.ci/full`. Storms go further (`replication_storm`).

#![allow(clippy::disallowed_methods, reason = "a test may be told by its environment how long to go on")]
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
use world::Action::{Append, Crash, Gone, Lapse, Promote, Wish};
use world::Prelude::{DeliverTo, Do, Forget, Settle};
use world::{Budget, NONE, NOTHING_LOST, NOTHING_UNDONE, ONE_ENTRY, ONE_PER_EPOCH, SAME_PREFIX, World};

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
    // Node 0 wrote two entries that nobody got; node 1 opens the next epoch with one.
    let alone = [Do(Append(0)), Do(Append(0)), Do(Lapse(0)), Do(Promote(1)), Forget];
    let budget = Budget { promotions: 1, lapses: 1, ..NONE };
    let world = World { heirs: vec![0], prelude: alone.into(), ..three(budget) };
    catches(Mutant::AdoptsTheLongest, &LOST, world);
}

#[test]
fn what_was_adopted_is_served_once_w_have_it() {
    let half = [Do(Append(0)), DeliverTo(1), Do(Lapse(0)), Do(Promote(1)), Forget];
    let budget = Budget { promotions: 1, lapses: 1, ..NONE };
    let world = World { heirs: vec![2], prelude: half.into(), ..three(budget) };
    catches(Mutant::ServesWhatItAdopted, &LOST, world);
}

#[test]
fn only_members_are_sealed() {
    let wish = [Do(Append(0)), Settle, Do(Wish), Do(Lapse(0))];
    let budget = Budget { promotions: 1, ..NONE };
    let wishes = vec![vec![0, 1], vec![2, 3]];
    let world = World { nodes: 4, wishes, heirs: vec![2], prelude: wish.into(), ..two(budget) };
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
    let budget = Budget { appends: 1, crashes: 1, ..NONE };
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
    let budget = Budget { promotions: 1, crashes: 1, lapses: 1, ..NONE };
    let prelude = vec![Do(Append(0))];
    let (heirs, mortals, slow_disks) = (vec![2], vec![1], vec![1]);
    let world = World {
        mode: Mode::Strong,
        acks: Acks::AfterDisk,
        heirs,
        mortals,
        slow_disks,
        prelude,
        ..three(budget)
    };
    catches(Mutant::AnswersBeforeTheDisk, &LOST, world);
}

#[test]
fn both_quorums_count_until_a_change_is_known() {
    let budget = Budget { appends: 1, promotions: 1, changes: 1, ..NONE };
    let wishes = vec![vec![0, 1], vec![0, 2]];
    let world = World { wishes, heirs: vec![1], leases: false, prelude: vec![Do(Wish)], ..two(budget) };
    catches(Mutant::TakesTheChangeForGranted, &LOST, world);
}

#[test]
fn a_partition_opens_for_the_first_time_with_whoever_is_named() {
    let budget = Budget { appends: 1, promotions: 1, lapses: 1, changes: 2, ..NONE };
    let world = World { members: 0, nodes: 2, wishes: vec![vec![0, 1]], heirs: vec![1], ..three(budget) };
    // Begun by hand: the prelude would open it.
    holds("genesis", World { begun: false, ..world });
}

#[test]
fn of_two_one_goes_on_and_the_other_comes_back_with_nothing() {
    let budget = Budget { appends: 1, promotions: 1, lapses: 1, changes: 2, ..NONE };
    let prelude = vec![Do(Append(0)), Settle, Do(Crash(1)), Do(Gone(1))];
    let world = World { nodes: 2, wishes: vec![vec![0, 1]], heirs: vec![1], prelude, ..two(budget) };
    holds("two of which one is gone", world);
}

#[test]
fn three_epochs_one_after_the_other() {
    let budget = Budget { promotions: 2, lapses: 2, ..NONE };
    let prelude = vec![Do(Append(0)), DeliverTo(1), Do(Append(0))];
    holds("three epochs", World { prelude, ..three(budget) });
}

#[test]
fn a_move_is_interrupted() {
    let budget = Budget { appends: 1, promotions: 1, releases: 1, lapses: 1, changes: 2, ..NONE };
    let prelude = vec![Do(Append(0)), Settle, Do(Wish)];
    let world = World { wishes: vec![vec![0, 1], vec![2, 1]], heirs: vec![2], prelude, ..two(budget) };
    holds("interrupted move", world);
}

#[test]
fn a_life_that_a_crash_ends_promises_before_its_disk_has_it() {
    let budget = Budget { appends: 1, promotions: 2, crashes: 1, lapses: 1, ..NONE };
    let world = World { acks: Acks::BeforeDisk, slow_disks: vec![1], mortals: vec![1], ..three(budget) };
    let prelude = vec![Do(Append(0)), Settle];
    holds("promises before the disk", World { prelude, ..world });
}

#[test]
fn a_snapshot_catches_up_who_lacks_what_was_cut_off() {
    let budget = Budget { appends: 1, promotions: 1, lapses: 1, snapshots: 2, changes: 1, ..NONE };
    let prelude = vec![Do(Append(0)), Do(Append(0)), DeliverTo(1), Do(Crash(2)), Forget];
    holds("snapshots", World { prelude, heirs: vec![1], ..three(budget) });
}

/// A world that is not explored by then is left, and what was seen of it counts.
const TIME_MAX: std::time::Duration = std::time::Duration::from_secs(120);

const LOST: [&str; 3] = [NOTHING_LOST, NOTHING_UNDONE, SAME_PREFIX];

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
        begun: true,
        leases: true,
        slow_disks: Vec::new(),
        prelude: Vec::new(),
        marks: false,
        survivors: true,
        mutant: Mutant::None,
    }
}

/// Two members, of which the first is primary.
fn two(budget: Budget) -> World {
    World { members: 2, ..three(budget) }
}

/// Explores the whole world, or as much of it as time allows.
fn holds(what: &str, world: World) {
    let law = explored(world, depth());
    let (states, steps, depth) = (law.unique_state_count(), law.state_count(), law.max_depth());
    eprintln!("{what}: {states} states, {steps} steps, depth {depth}");
    law.assert_properties();
}

fn explored(world: World, depth: usize) -> impl Checker<World> {
    world.checker().threads(2).timeout(TIME_MAX).target_max_depth(depth).spawn_bfs().join()
}

/// How deep the worlds are explored with the law as it is.
fn depth() -> usize {
    std::env::var("TUMEN_MODEL_DEPTH").map_or(10, |n| n.parse().expect("TUMEN_MODEL_DEPTH is a number"))
}

/// Explores the world: the broken rule must show in one of `properties`, and the law as it is in none.
fn catches(mutant: Mutant, properties: &[&str], world: World) {
    let broken = World { mutant, survivors: false, ..world.clone() };
    let broken = broken
        .checker()
        .finish_when(HasDiscoveries::AnyFailures)
        .timeout(TIME_MAX)
        .threads(2)
        .spawn_bfs()
        .join();
    let found = broken.discoveries();
    let law = explored(world, depth());
    let (states, steps, depth) = (law.unique_state_count(), law.state_count(), law.max_depth());
    eprintln!(
        "{mutant:?}: {} states until caught; the law: {states} states, {steps} steps, depth {depth}",
        broken.unique_state_count()
    );
    law.assert_properties();
    assert!(
        properties.iter().any(|property| found.contains_key(property)),
        "{mutant:?} was not caught by {properties:?}, but by {:?}",
        found.keys()
    );
}
