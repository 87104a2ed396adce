//! Who votes, told as stories and as storms of members that come, go and forget.

use std::sync::Arc;

use proptest::prelude::*;

use super::*;

fn name(name: &str) -> NodeName {
    NodeName::new(name).unwrap()
}

/// A member that is up, connected, and has told its life.
fn up(node: &str, life: u64) -> Standing {
    let (status, life) = (Status::Up, Some(Life(life)));
    Standing { name: name(node), status, zone: None, life, reachable: true }
}

fn in_zone(standing: Standing, zone: &str) -> Standing {
    Standing { zone: Some(Zone(Arc::from(zone))), ..standing }
}

fn with(standing: Standing, status: Status) -> Standing {
    Standing { status, ..standing }
}

fn voters(present: &[(u64, &str)]) -> Voters {
    present.iter().map(|(life, node)| (Life(*life), name(node))).collect()
}

#[test]
fn a_node_that_lost_its_memory_does_not_vote_until_it_has_a_seat() {
    let present = voters(&[(1, "n1"), (2, "n2"), (3, "n3")]);
    let silent = Standing { life: None, ..up("n3", 3) };
    let members = [up("n1", 1), up("n2", 22), silent, up("n4", 4)];
    assert_eq!(voting(&members, &present), [name("n1"), name("n3")].into());
    assert_eq!(voting(&[], &present), [name("n1"), name("n2"), name("n3")].into(), "before the first plan");
}

#[test]
fn one_three_five_and_never_an_even_number() {
    assert_eq!([0, 1, 2, 3, 4, 5, 6, 100].map(wanted), [1, 1, 1, 3, 3, 5, 5, 5]);
}

#[test]
fn a_cluster_grows_from_one_to_five_voters_and_back() {
    let members: Vec<_> = (1..=6).map(|life| up(&format!("n{life}"), life)).collect();
    let mut present = voters(&[(1, "n1")]);
    let mut sizes = Vec::new();
    for count in [1, 2, 3, 4, 5, 6, 4, 3, 2, 1] {
        present = plan(&members[..count], &present, Life(1)).unwrap_or(present);
        sizes.push(present.len());
        assert!(present.contains_key(&Life(1)), "the leader keeps its seat");
    }
    assert_eq!(sizes, [1, 1, 3, 3, 5, 5, 3, 3, 1, 1]);
}

#[test]
fn a_lost_voter_is_replaced_by_a_living_member_and_otherwise_keeps_its_seat() {
    let present = voters(&[(1, "a"), (2, "b"), (3, "c")]);
    let mut members = vec![up("a", 1), up("b", 2), with(up("c", 3), Status::Lost)];
    assert_eq!(plan(&members, &present, Life(1)), None);
    members.push(up("d", 4));
    assert_eq!(plan(&members, &present, Life(1)), Some(voters(&[(1, "a"), (2, "b"), (4, "d")])));
    let without = [up("a", 1), up("b", 2)];
    assert_eq!(plan(&without, &present, Life(2)), Some(voters(&[(2, "b")])), "only two members are left");
}

#[test]
fn a_voter_that_lost_its_memory_is_replaced_by_its_new_life() {
    let present = voters(&[(1, "a"), (2, "b"), (3, "c")]);
    let members = [up("a", 1), up("b", 2), up("c", 9)];
    assert_eq!(plan(&members, &present, Life(1)), Some(voters(&[(1, "a"), (2, "b"), (9, "c")])));
}

#[test]
fn a_hiccup_replaces_nobody_and_nobody_silent_is_picked() {
    let present = voters(&[(1, "a"), (2, "b"), (3, "c")]);
    let silent = |standing: Standing| Standing { reachable: false, ..standing };
    let untold = |standing: Standing| Standing { life: None, ..standing };
    let members = [up("a", 1), silent(up("b", 2)), untold(up("c", 3)), up("d", 4)];
    assert_eq!(plan(&members, &present, Life(1)), None);
    let members =
        [up("a", 1), up("b", 2), with(up("c", 3), Status::Lost), silent(up("d", 4)), untold(up("e", 5))];
    assert_eq!(plan(&members, &present, Life(1)), None);
}

#[test]
fn whoever_leaves_or_stopped_is_not_picked_but_votes_until_another_can() {
    let present = voters(&[(1, "a")]);
    let away = with(up("b", 2), Status::Away);
    let members = [up("a", 1), away.clone(), up("c", 3)];
    assert_eq!(plan(&members, &present, Life(1)), None, "two can vote, and two is even");
    let present = voters(&[(1, "a"), (2, "b"), (3, "c")]);
    let members = [up("a", 1), away, with(up("c", 3), Status::Leaving)];
    assert_eq!(plan(&members, &present, Life(1)), None);
    let members = [up("a", 1), up("b", 2), with(up("c", 3), Status::Leaving), up("d", 4)];
    assert_eq!(plan(&members, &present, Life(1)), Some(voters(&[(1, "a"), (2, "b"), (4, "d")])));
}

#[test]
fn a_voter_that_stops_waits_until_the_others_can_decide_without_it() {
    let waits = |members: &[Standing], present: &[(u64, &str)], joint| {
        waits_for_successors(members, &voters(present), &name("a"), Life(1), joint)
    };
    let leaving = with(up("a", 1), Status::Leaving);
    let four = [leaving.clone(), up("b", 2), up("c", 3), up("d", 4)];
    let three = [(1, "a"), (2, "b"), (3, "c")];
    assert!(waits(&four, &[(1, "a")], false), "it is the only voter");
    assert!(waits(&four, &[(2, "b"), (3, "c"), (4, "d")], true), "it still decides with the others");
    assert!(!waits(&four, &[(2, "b"), (3, "c"), (4, "d")], false), "it votes no more");
    assert!(!waits(&four, &three, false), "two of three go on");
    let dead = |standing: Standing| with(Standing { reachable: false, ..standing }, Status::Lost);
    let one_dead = [leaving.clone(), dead(up("b", 2)), up("c", 3), up("d", 4)];
    assert!(waits(&one_dead, &three, false), "the fourth can take a seat");
    assert!(!waits(&one_dead[..3], &three, false), "nobody else is left to take one");
    assert!(!waits(&[leaving], &[(1, "a")], false), "nobody else is there");
    let stays = [up("a", 1), up("b", 2), up("c", 3)];
    assert!(!waits(&stays, &[(1, "a")], false), "nobody knows that it stops: nothing will change");
}

#[test]
fn seats_are_not_added_for_the_dead() {
    // Five members want five voters, but only four of them can vote: three it stays, all of them living.
    let present = voters(&[(1, "a"), (2, "gone"), (3, "c")]);
    let untold = Standing { life: None, ..up("f", 6) };
    let members = [up("a", 1), up("c", 3), up("d", 4), up("e", 5), untold];
    assert_eq!(plan(&members, &present, Life(1)), Some(voters(&[(1, "a"), (3, "c"), (4, "d")])));
}

#[test]
fn zones_are_kept_apart_where_seats_are_free() {
    let members = [
        in_zone(up("a", 1), "x"),
        in_zone(up("b", 2), "x"),
        in_zone(up("c", 3), "y"),
        in_zone(up("d", 4), "z"),
    ];
    let grown = plan(&members, &voters(&[(1, "a")]), Life(1)).unwrap();
    assert_eq!(grown, voters(&[(1, "a"), (3, "c"), (4, "d")]));
    let kept = voters(&[(1, "a"), (2, "b"), (3, "c")]);
    assert_eq!(plan(&members, &kept, Life(1)), None, "a seat that is well held is not moved for a zone");
}

fn standings() -> impl Strategy<Value = Vec<Standing>> {
    let status = prop_oneof![
        4 => Just(Status::Up),
        1 => Just(Status::Leaving),
        1 => Just(Status::Away),
        1 => Just(Status::Lost)
    ];
    // Three lives per node: the one that votes at first, and two later ones.
    let one = (status, proptest::option::of(0_u64..3), proptest::option::of(0_u8..3), any::<bool>());
    proptest::collection::vec(one, 1..9).prop_map(|all| {
        let standing =
            |(index, (status, life, zone, reachable)): (u64, (Status, Option<u64>, Option<u8>, bool))| {
                let life = life.map(|life| Life(index * 3 + life + 1));
                let zone = zone.map(|zone| Zone(Arc::from(zone.to_string())));
                Standing { name: name(&format!("n{index}")), status, zone, life, reachable }
            };
        (0..).zip(all).map(standing).collect()
    })
}

proptest! {
    #[test]
    fn the_next_voters_are_odd_living_where_they_can_be_and_final(
        members in standings(),
        present in proptest::sample::select(vec![1_u64, 3, 5]),
    ) {
        let present: Voters = (0..present).map(|i| (Life(i * 3 + 1), name(&format!("n{i}")))).collect();
        let leader = Life(1);
        let Some(next) = plan(&members, &present, leader) else { return Ok(()) };
        prop_assert_eq!(next.len() % 2, 1);
        prop_assert!(next.len() <= wanted(members.len()));
        prop_assert!(next.len() >= present.len().min(wanted(members.len())), "never shrunk away");
        for (life, node) in next.iter().filter(|(life, _)| !present.contains_key(life)) {
            let member = members.iter().find(|member| member.name == *node).unwrap();
            prop_assert!(member.status == Status::Up && member.reachable && member.life == Some(*life));
        }
        // Nobody living is left out while somebody who cannot go on voting has a seat.
        let living = |life: &Life| {
            members.iter().any(|m| m.life == Some(*life) && m.status == Status::Up && (m.reachable || present.contains_key(life)))
                || members.iter().any(|m| m.life.is_none() && m.status == Status::Up && present.get(life) == Some(&m.name))
        };
        if !next.keys().all(living) {
            for member in &members {
                let out = member.life.filter(|life| living(life) && !next.contains_key(life));
                prop_assert_eq!(out, None);
            }
        }
        if living(&leader) {
            prop_assert!(next.contains_key(&leader));
        }
        prop_assert_eq!(plan(&members, &next, leader), None, "what was planned is what should be");
    }
}
