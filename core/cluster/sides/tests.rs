use proptest::prelude::*;

use super::*;
use crate::cluster::member::{Member, NodeInfo};
use crate::ids::{Boot, ClusterName, Term, Version};
use crate::time::UnixMillis;

fn side(id: u64, generation: u64, members: u32, stranded: bool) -> Belonging {
    Belonging {
        id: ClusterId(id),
        founded_at: UnixMillis(0),
        generation: Generation(generation),
        version: Version(1),
        members,
        stranded,
        acknowledged: true,
    }
}

fn name(text: &str) -> NodeName {
    NodeName::new(text).unwrap()
}

fn neighbour(text: &str, belongs: Option<Belonging>) -> Neighbour {
    Neighbour { name: name(text), belongs }
}

#[test]
fn the_side_that_kept_the_majority_stays_and_who_serves_nobody_joins_whoever_does() {
    let kept = side(9, 0, 2, false);
    let cases = [
        (kept.clone(), side(1, 1, 2, false), Meeting::TheyYield),
        (kept.clone(), side(1, 1, 9, false), Meeting::TheyYield),
        (side(9, 0, 2, true), side(1, 1, 2, false), Meeting::Yield),
        (side(9, 0, 2, true), side(1, 1, 2, true), Meeting::Together),
        (side(9, 0, 1, false), side(1, 1, 2, false), Meeting::Yield),
        (side(3, 1, 2, false), side(4, 1, 2, false), Meeting::TheyYield),
        (kept, side(9, 0, 3, true), Meeting::Together),
    ];
    for (ours, theirs, meeting) in cases {
        assert_eq!(ours.meet_as_side(&theirs), meeting, "{ours:?} {theirs:?}");
    }
}

#[test]
fn the_first_of_a_side_that_serves_nobody_founds_and_the_others_wait_for_it() {
    let lost = Some(side(1, 0, 4, true));
    let (first, second) = (name("c"), name("d"));
    let look = |lookout: &mut Lookout, me: &NodeName, others: &[Neighbour]| {
        (0..STRANDED_AFTER_LOOKS).map(|_| lookout.look(me, false, lost.as_ref(), others)).last().unwrap()
    };
    assert_eq!(look(&mut Lookout::default(), &first, &[neighbour("d", lost.clone())]), Verdict::Found);
    let mut waits = Lookout::default();
    assert_eq!(look(&mut waits, &second, &[neighbour("c", lost.clone())]), Verdict::Stranded);
    // One that is new, and belongs nowhere, cannot found anything.
    assert_eq!(look(&mut Lookout::default(), &second, &[neighbour("a", None)]), Verdict::Found);
    // It is not waited for for ever.
    for _ in 0..3 {
        look(&mut waits, &second, &[neighbour("c", lost.clone())]);
    }
    assert_eq!(waits.look(&second, false, lost.as_ref(), &[neighbour("c", lost.clone())]), Verdict::Found);
    waits.handle_left();
    assert_eq!(waits.look(&second, false, lost.as_ref(), &[]), Verdict::Fine, "it looks anew");
}

#[test]
fn where_somebody_serves_nobody_founds_and_who_has_its_lease_is_fine() {
    let lost = Some(side(1, 0, 4, true));
    let serving = [neighbour("z", Some(side(2, 1, 1, false)))];
    let mut lookout = Lookout::default();
    for _ in 0..10 * STRANDED_AFTER_LOOKS {
        assert_ne!(lookout.look(&name("a"), false, lost.as_ref(), &serving), Verdict::Found);
    }
    assert_eq!(lookout.look(&name("a"), true, lost.as_ref(), &[]), Verdict::Fine);
    assert_eq!(lookout.look(&name("a"), false, lost.as_ref(), &[]), Verdict::Fine, "it counts anew");
    assert_eq!(lookout.look(&name("a"), false, None, &[]), Verdict::Fine, "it belongs nowhere");
}

#[test]
fn each_side_has_a_generation_of_its_own_that_is_later_than_the_one_that_it_was_of() {
    let first = next_generation(Generation::ZERO, ClusterId(7));
    let (second, other) =
        (next_generation(first, ClusterId(1)), next_generation(Generation::ZERO, ClusterId(8)));
    assert!(Generation::ZERO < first && first < second);
    assert!(first != other && other < second);
    assert!(next_generation(Generation::ZERO, ClusterId(u64::MAX)) < second, "what is drawn does not count");
}

#[test]
fn who_was_up_and_is_lost_or_no_member_is_evicted_and_nobody_else() {
    let me = NodeBoot::new(name("a"), Boot(3));
    let plan = |member: Option<(u64, Status)>| {
        let info = |boot| NodeInfo {
            id: NodeBoot::new(name("a"), Boot(boot)),
            address: "127.0.0.1:1".into(),
            http: None,
            zone: None,
            weight: 100,
            services: Vec::new(),
            protocol: 1,
        };
        Snapshot {
            cluster: ClusterId(1),
            name: ClusterName::new("shop").unwrap(),
            generation: Generation::ZERO,
            version: Version(1),
            steps: 0,
            term: Term(1),
            leader: name("b"),
            members: member.into_iter().map(|(boot, status)| Member { info: info(boot), status }).collect(),
            groups: Vec::new(),
            computed_at: UnixMillis(0),
            hash: 0,
        }
    };
    let up = plan(Some((3, Status::Up)));
    for gone in [plan(None), plan(Some((3, Status::Lost))), plan(Some((4, Status::Up)))] {
        assert!(is_evicted(&me, Some(&up), &gone));
        assert!(!is_evicted(&me, None, &gone) && !is_evicted(&me, Some(&gone), &gone), "it was none before");
    }
    for goes in [Status::Up, Status::Leaving, Status::Away] {
        assert!(!is_evicted(&me, Some(&up), &plan(Some((3, goes)))), "{goes:?}");
    }
    let drained = plan(Some((3, Status::Leaving)));
    assert!(!is_evicted(&me, Some(&drained), &plan(None)), "it was to go");
}

fn any_side() -> impl Strategy<Value = Belonging> {
    (0..4_u64).prop_flat_map(any_side_of)
}

fn any_side_of(id: u64) -> impl Strategy<Value = Belonging> {
    (0..3_u64, 0..4_u32, any::<bool>())
        .prop_map(move |(generation, members, stranded)| side(id, generation, members, stranded))
}

/// Three that are not the same: a side is told of in one way only.
fn three_sides() -> impl Strategy<Value = (Belonging, Belonging, Belonging)> {
    let ids = Just(vec![0, 1, 2, 3]).prop_shuffle();
    ids.prop_flat_map(|ids| (any_side_of(ids[0]), any_side_of(ids[1]), any_side_of(ids[2])))
}

proptest! {
    #[test]
    fn both_come_to_the_same_answer(a in any_side(), b in any_side()) {
        let opposite = match b.meet_as_side(&a) {
            Meeting::Yield => Meeting::TheyYield,
            Meeting::TheyYield => Meeting::Yield,
            other => other,
        };
        prop_assert_eq!(a.meet_as_side(&b), opposite);
    }

    #[test]
    fn no_three_sides_yield_in_a_circle((a, b, c) in three_sides()) {
        let yields = |one: &Belonging, other: &Belonging| one.meet_as_side(other) == Meeting::Yield;
        prop_assert!(!(yields(&a, &b) && yields(&b, &c) && yields(&c, &a)));
    }
}
