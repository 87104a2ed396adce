use proptest::prelude::*;

use super::*;

fn node(n: u32) -> NodeName {
    NodeName::new(&format!("node-{n}")).unwrap()
}

fn handover(partition: u32, from: u32, to: u32) -> Handover {
    Handover { partition: PartitionId::user(partition), from: node(from), to: node(to) }
}

fn at(millis: u64) -> Moment {
    Moment::from_millis(millis)
}

fn handovers(from_node_max: u32, to_node_max: u32, total_max: u32) -> Handovers {
    Handovers::new(Limits { from_node_max, to_node_max, total_max })
}

#[test]
fn the_oldest_that_can_run_runs() {
    let mut law = handovers(1, 1, 3);
    assert_eq!(law.handle_asked(at(1), handover(1, 1, 2)), [handover(1, 1, 2)]);
    assert_eq!(law.handle_asked(at(2), handover(2, 1, 3)), []);
    assert_eq!(law.handle_asked(at(2), handover(2, 1, 3)), []);
    assert_eq!(law.handle_asked(at(3), handover(3, 2, 3)), [handover(3, 2, 3)]);
    assert_eq!(law.handle_asked(at(4), handover(4, 3, 2)), []);
    assert_eq!((law.running_len(), law.waiting_len()), (2, 2));
    // The first frees node 1 as a source and node 2 as a target; but node 3 still receives.
    assert_eq!(law.handle_ended(at(5), &handover(1, 1, 2)), [handover(4, 3, 2)]);
    assert_eq!(law.handle_ended(at(6), &handover(3, 2, 3)), [handover(2, 1, 3)]);
}

#[test]
fn one_that_was_passed_over_often_has_its_turn() {
    let mut law = handovers(1, 1, 10);
    law.handle_asked(at(0), handover(0, 1, 9));
    law.handle_asked(at(0), handover(1, 8, 2));
    // It needs node 1 and node 2 at one moment; others want one of them each, all the time.
    law.handle_asked(at(1), handover(100, 1, 2));
    let (mut left, mut right) = (handover(0, 1, 9), handover(1, 8, 2));
    for round in 1..=2 * PASSED_MAX {
        law.handle_asked(at(1), handover(10 + 2 * round, 1, 9));
        law.handle_asked(at(1), handover(11 + 2 * round, 8, 2));
        let mut started = law.handle_ended(at(1), &left);
        started.extend(law.handle_ended(at(1), &right));
        if started.contains(&handover(100, 1, 2)) {
            return assert!(round >= PASSED_MAX / 2);
        }
        left = started.iter().find(|h| h.from == node(1)).cloned().unwrap_or(left);
        right = started.iter().find(|h| h.to == node(2)).cloned().unwrap_or(right);
    }
    panic!("it starved");
}

#[test]
fn a_node_that_is_gone_takes_its_copies_with_it() {
    let mut law = handovers(1, 1, 1);
    law.handle_asked(at(1), handover(1, 1, 2));
    law.handle_asked(at(1), handover(2, 2, 1));
    law.handle_asked(at(1), handover(3, 3, 4));
    assert_eq!(law.handle_node_gone(at(2), &node(2)), [handover(3, 3, 4)]);
    assert_eq!((law.running_len(), law.waiting_len()), (1, 0));
}

#[test]
fn people_see_how_far_it_is() {
    let mut law = handovers(1, 1, 1);
    law.handle_asked(at(1), handover(1, 1, 2));
    law.handle_asked(at(2), handover(2, 1, 2));
    law.handle_progress(&handover(1, 1, 2), 10, Some(40));
    law.handle_progress(&handover(1, 1, 2), 5, None);
    let progress: Vec<_> = law.progress().collect();
    assert_eq!((progress[0].percent(), progress[0].began), (Some(25), Some(at(1))));
    assert_eq!((progress[1].percent(), progress[1].began, progress[1].asked), (None, None, at(2)));
    law.handle_progress(&handover(1, 1, 2), 99, Some(0));
    assert_eq!(law.progress().next().unwrap().percent(), Some(100));
}

#[test]
fn nodes_share_out_what_the_cluster_may_do_at_once() {
    let limits = Limits { from_node_max: 4, to_node_max: 4, total_max: 12 };
    let from = |nodes| limits.share_of(nodes).from_node_max;
    assert_eq!([0, 1, 3, 4, 5, 12, 13, 200].map(from), [4, 4, 4, 3, 2, 1, 1, 1]);
    assert_eq!(limits.share_of(100).to_node_max, 4, "who receives is counted where it receives");
}

#[test]
fn a_bucket_says_when_to_come_back_and_means_it() {
    let mut bucket = Bucket::new(at(0), Some(1000), 100);
    assert_eq!(bucket.take(at(0), 80), Allowance::Now(80));
    // Twenty are left, and half a burst is due: thirty more, at one a millisecond.
    assert_eq!(bucket.take(at(0), 80), Allowance::At(at(30)));
    assert_eq!(bucket.take(at(30), 80), Allowance::Now(50));
    assert_eq!(bucket.take(at(31), 1), Allowance::Now(1));
    // What was not used is not saved up.
    assert_eq!(bucket.take(at(100_000), 1000), Allowance::Now(100));
    // A clock that seems to go back gives nothing.
    assert_eq!(bucket.take(at(50), 1), Allowance::At(at(51)));
    bucket.handle_rate(at(100_000), None);
    assert_eq!(bucket.take(at(100_000), 1 << 40), Allowance::Now(1 << 40));
}

#[derive(Clone, Debug)]
enum Step {
    Ask(u32, u32, u32),
    End(prop::sample::Index),
    Gone(u32),
}

proptest! {
    #[test]
    fn limits_hold_and_nothing_waits_for_nothing(
        steps in proptest::collection::vec(prop_oneof![
            5 => (0_u32..40, 0_u32..6, 0_u32..6).prop_map(|(p, from, to)| Step::Ask(p, from, to)),
            4 => any::<prop::sample::Index>().prop_map(Step::End),
            1 => (0_u32..6).prop_map(Step::Gone),
        ], 1..200),
        limits in (1_u32..4, 1_u32..4, 1_u32..8),
    ) {
        let mut law = handovers(limits.0, limits.1, limits.2);
        let mut running: Vec<Handover> = Vec::new();
        for step in steps {
            let started = match step {
                Step::Ask(partition, from, to) => law.handle_asked(at(0), handover(partition, from, to)),
                Step::End(_) if running.is_empty() => continue,
                Step::End(which) => {
                    let ended = running.remove(which.index(running.len()));
                    law.handle_ended(at(0), &ended)
                }
                Step::Gone(gone) => {
                    running.retain(|h| h.from != node(gone) && h.to != node(gone));
                    law.handle_node_gone(at(0), &node(gone))
                }
            };
            running.extend(started);
            prop_assert_eq!(running.len(), law.running_len());
            prop_assert!(running.len() <= limits.2 as usize);
            for n in 0..6 {
                prop_assert!(running.iter().filter(|h| h.from == node(n)).count() <= limits.0 as usize);
                prop_assert!(running.iter().filter(|h| h.to == node(n)).count() <= limits.1 as usize);
            }
        }
        // Everything that was asked for is copied in the end.
        while let Some(ended) = running.pop() {
            running.extend(law.handle_ended(at(0), &ended));
        }
        prop_assert_eq!(law.waiting_len(), 0);
    }

    #[test]
    fn a_bucket_keeps_its_rate(
        rate in 1_u64..5_000_000_000,
        burst in 1_u64..1_000_000,
        steps in proptest::collection::vec((0_u64..200_000_000, 1_u64..300_000), 1..200),
    ) {
        let mut now = Moment::from_nanos(5);
        let mut bucket = Bucket::new(now, Some(rate), burst);
        let (begin, mut sent) = (now, 0_u128);
        for (wait, wanted) in steps {
            now += Duration::from_nanos(wait);
            match bucket.take(now, wanted) {
                Allowance::Now(bytes) => {
                    prop_assert!(bytes >= 1 && bytes <= wanted);
                    sent += u128::from(bytes);
                }
                Allowance::At(then) => {
                    prop_assert!(then > now);
                    now = then;
                    let Allowance::Now(bytes) = bucket.take(now, wanted) else {
                        return Err(TestCaseError::fail("it was told to come back, and came back too early"));
                    };
                    sent += u128::from(bytes);
                }
            }
            let allowed = u128::from(burst) + now.since(begin).as_nanos() * u128::from(rate) / NANOS;
            prop_assert!(sent <= allowed, "{} of {}", sent, allowed);
        }
    }
}
