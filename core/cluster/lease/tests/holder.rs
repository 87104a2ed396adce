//! Stories of a node's own lease.

use super::*;

#[test]
fn a_lease_lasts_from_the_sending_of_its_request() {
    let mut holder = acted();
    let request = asked(&holder.handle_wake(at(0)));
    let effects = holder.handle_reply(at(900), granted(&request, 1, ms(1000), 1));
    assert_eq!(effects, [Effect::Publish { until: at(1000) }, Effect::Resume]);
    assert!(holder.holds(at(999)));
    assert!(!holder.holds(at(1000)));
    assert_eq!(holder.until(), at(1000));
}

#[test]
fn a_grant_longer_than_a_lease_is_cut() {
    let mut holder = acted();
    let request = asked(&holder.handle_wake(at(0)));
    holder.handle_reply(at(1), granted(&request, 1, ms(90_000), 1));
    assert_eq!(holder.until(), at(1500));
}

#[test]
fn a_lease_that_runs_out_pauses_and_one_that_returns_resumes() {
    let mut holder = holding();
    let effects = holder.handle_wake(at(1500));
    assert_eq!(effects[0], Effect::Pause);
    let effects = holder.handle_reply(at(1510), granted(&asked(&effects), 1, ms(1500), 1));
    assert_eq!(effects, [Effect::Publish { until: at(3000) }, Effect::Resume]);
}

#[test]
fn a_thawed_primary_gets_its_lease_back_only_with_the_plan_that_deposed_it() {
    let mut holder = holding();
    let woken = holder.handle_wake(at(9000));
    assert_eq!(woken[0], Effect::Pause);
    assert_eq!(holder.handle_reply(at(9001), granted(&asked(&woken), 1, ms(1500), 2)), []);
    let deposed = plan(2, [1, 1], "a", 2);
    assert_eq!(holder.duty(&deposed, P), None);
    let effects = holder.handle_acted(at(9002), &deposed);
    assert_eq!(effects, [Effect::Publish { until: at(10_500) }, Effect::Resume]);
}

#[test]
fn old_news_grants_nothing() {
    let mut holder = holding();
    let request = asked(&holder.handle_wake(at(500)));
    let lease = |holder: &mut Holder, reply| {
        holder.handle_reply(at(501), reply);
        holder.until()
    };
    let unasked = Request { number: 77, ..request.clone() };
    assert_eq!(lease(&mut holder, granted(&unasked, 1, ms(1500), 1)), at(1500));
    let former = Request { from: boot("b", 0), ..request.clone() };
    assert_eq!(lease(&mut holder, granted(&former, 1, ms(1500), 1)), at(1500));
    assert_eq!(lease(&mut holder, granted(&request, 2, ms(1500), 1)), at(2000));
    let next = asked(&holder.handle_wake(at(1000)));
    assert_eq!(lease(&mut holder, granted(&next, 1, ms(1500), 1)), at(2000), "from an older term");
    assert_eq!(lease(&mut holder, granted(&request, 2, ms(1500), 1)), at(2000), "for the second time");
}

#[test]
fn a_release_stands_until_a_newer_epoch_is_seen() {
    let mut holder = holding();
    let now = plan(1, [1, 1], "b", 1);
    assert_eq!(holder.duty(&now, P), Some(Epoch(1)));
    assert_eq!(asked(&holder.handle_released(at(10), [release(1)])).releases, [release(1)]);
    assert_eq!(holder.duty(&now, P), None);
    // Nothing came of the move: the next plan is about something else. The word stands.
    let unmoved = plan(2, [1, 1], "b", 1);
    holder.handle_acted(at(20), &unmoved);
    assert_eq!(holder.duty(&unmoved, P), None);
    assert_eq!(asked(&holder.handle_wake(at(1000))).releases, [release(1)]);
    let answered = plan(3, [1, 1], "b", 2);
    assert_eq!(holder.duty(&answered, P), Some(Epoch(2)), "while it is being acted on");
    holder.handle_acted(at(1010), &answered);
    assert_eq!(holder.duty(&answered, P), Some(Epoch(2)));
    assert_eq!(asked(&holder.handle_wake(at(2000))).releases, []);
}

#[test]
fn an_older_plan_undoes_nothing() {
    let mut holder = holding();
    holder.handle_acted(at(10), &plan(3, [1, 1], "b", 2));
    holder.handle_released(at(11), [release(2)]);
    assert_eq!(holder.handle_acted(at(12), &plan(2, [1, 1], "a", 9)), []);
    assert_eq!(holder.acted_on(), plan_id(3));
    assert_eq!(holder.releases().collect::<Vec<_>>(), [release(2)]);
}

#[test]
fn moved_away_and_back_is_another_epoch() {
    let holder = holding();
    assert_eq!(holder.duty(&plan(3, [1, 1], "b", 3), P), Some(Epoch(3)));
}

#[test]
fn a_new_boot_has_no_duty_until_a_plan_names_it() {
    let reborn = Holder::new(boot("b", 2), Config::default());
    assert_eq!(reborn.duty(&plan(1, [1, 1], "b", 1), P), None);
    assert_eq!(reborn.duty(&plan(2, [1, 2], "b", 2), P), Some(Epoch(2)));
}

#[test]
fn a_lease_given_back_never_returns() {
    let mut holder = holding();
    let pending = asked(&holder.handle_wake(at(500)));
    let effects = holder.handle_stopping(at(510));
    assert_eq!(effects[..2], [Effect::Publish { until: Moment::ZERO }, Effect::Pause]);
    assert!(asked(&effects).returned);
    assert_eq!(holder.handle_reply(at(520), granted(&pending, 1, ms(1500), 1)), []);
    assert!(!holder.holds(at(520)));
    assert_eq!(holder.duty(&plan(2, [1, 1], "b", 2), P), None);
    assert!(asked(&holder.handle_wake(at(600))).returned);
}

#[test]
fn a_holder_renews_at_a_third_and_hurries_when_it_runs_short() {
    let mut holder = holding();
    assert_eq!(holder.wake_at(), at(500));
    assert_eq!(holder.handle_wake(at(499)), []);
    let lost = asked(&holder.handle_wake(at(500)));
    assert_eq!(lost.number, 2);
    assert_eq!(holder.wake_at(), at(1000), "more than half is left");
    holder.handle_wake(at(1000));
    assert_eq!(holder.wake_at(), at(1050), "less than half is left");
    let refused_for = asked(&holder.handle_wake(at(1050)));
    holder.handle_reply(at(1060), refused(&refused_for, Refusal::NoQuorum));
    assert_eq!(holder.refusal(), Some(&Refusal::NoQuorum));
    assert_eq!(holder.wake_at(), at(1100));
}

#[test]
fn a_holder_turns_to_a_new_leader_at_once() {
    let mut holder = holding();
    let effects = holder.handle_leader(at(100), name("a"));
    let [Effect::Ask { to, request }] = &effects[..] else { panic!("it asks once: {effects:?}") };
    assert_eq!(to.as_ref(), Some(&name("a")));
    assert_eq!(holder.handle_leader(at(101), name("a")), [], "the same again");
    holder.handle_reply(at(102), refused(request, Refusal::NotLeader { leader: Some(name("b")) }));
    let effects = holder.handle_wake(holder.wake_at());
    assert!(matches!(&effects[..], [Effect::Ask { to: Some(to), .. }] if *to == name("b")), "{effects:?}");
}

#[test]
fn whoever_acts_on_a_plan_without_a_lease_asks_at_once() {
    let mut holder = holding();
    let request = asked(&holder.handle_wake(at(2000)));
    holder.handle_reply(at(2001), refused(&request, Refusal::Ended { after: Some(plan_id(2)) }));
    holder.handle_acted(at(2002), &plan(2, [1, 1], "a", 2));
    assert_eq!(holder.wake_at(), at(2002));
    assert_eq!(asked(&holder.handle_wake(at(2002))).acted_on, plan_id(2));
}

#[test]
fn a_forced_generation_is_newer_whatever_its_version() {
    let mut holder = holding();
    holder.handle_acted(at(10), &plan(9, [1, 1], "b", 4));
    holder.handle_released(at(11), [release(4)]);
    let forced = Snapshot { generation: Generation(1), ..plan(2, [1, 1], "b", 4) };
    assert_eq!(holder.duty(&forced, P), Some(Epoch(4)), "epochs of another generation are other epochs");
    holder.handle_acted(at(12), &forced);
    assert_eq!(holder.acted_on(), PlanId::from(&forced));
    assert_eq!(holder.releases().count(), 0);
}

#[test]
fn unanswered_requests_are_remembered_for_a_lease_at_most() {
    let mut holder = acted();
    let first = asked(&holder.handle_wake(at(0)));
    for millis in 1..1000 {
        holder.handle_released(at(millis), [release(millis)]);
    }
    holder.handle_reply(at(1000), granted(&first, 1, ms(1500), 1));
    assert!(!holder.holds(at(1000)), "long forgotten, and as if lost");
}

#[test]
fn a_release_is_known_before_it_is_sent() {
    let mut holder = holding();
    holder.note_released(at(10), [release(1)]);
    assert_eq!(holder.duty(&plan(1, [1, 1], "b", 1), P), None);
    assert_eq!(holder.wake_at(), at(10));
    assert_eq!(asked(&holder.handle_wake(at(11))).releases, [release(1)]);
}

#[test]
fn what_is_released_while_a_request_is_under_way_is_told_as_soon_as_it_was_answered() {
    let mut holder = holding();
    holder.note_released(at(100), [release(1)]);
    let first = asked(&holder.handle_wake(at(100)));
    let other = Release { partition: PartitionId::user(9), epoch: Epoch(1) };
    holder.note_released(at(101), [other]);
    // The answer to the first request is handled before the word that there is more to tell.
    holder.handle_reply(at(102), granted(&first, 1, ms(1500), 1));
    assert_eq!(holder.wake_at(), at(101));
    let second = asked(&holder.handle_wake(at(102)));
    assert_eq!((first.releases, second.releases.clone()), (vec![release(1)], vec![release(1), other]));
    holder.handle_reply(at(103), granted(&Request { releases: Vec::new(), ..second }, 1, ms(1500), 1));
    assert!(holder.wake_at() > at(500), "all is told");
}

#[test]
fn a_late_grant_of_a_cluster_that_was_left_grants_nothing() {
    let mut holder = holding();
    let late = asked(&holder.handle_wake(at(500)));
    let effects = holder.handle_left(at(510));
    assert_eq!(effects[..2], [Effect::Publish { until: Moment::ZERO }, Effect::Pause]);
    let first = asked(&effects);
    assert_eq!((first.number, first.acted_on), (late.number + 1, PlanId::ZERO));
    assert_eq!(holder.handle_acted(at(515), &plan(1, [1, 1], "a", 1)), []);
    assert_eq!(holder.handle_reply(at(520), granted(&late, 9, ms(1500), 1)), []);
    // The other cluster's terms and versions start where they like.
    let effects = holder.handle_reply(at(530), granted(&first, 1, ms(1500), 1));
    assert_eq!(effects, [Effect::Publish { until: at(2010) }, Effect::Resume]);
}
