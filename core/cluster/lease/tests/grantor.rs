//! Stories of the leader's side.

use super::*;

#[test]
fn who_does_not_lead_says_who_does() {
    let mut grantor = Grantor::new(Config::default());
    grantor.handle_follows(Some(name("a")));
    let refusal = answer(&mut grantor, at(0), &request(boot("b", 1), 1), &plan(1, [1, 1], "b", 1));
    assert_eq!(refusal, Answer::Refused(Refusal::NotLeader { leader: Some(name("a")) }));
    assert!(!grantor.is_over(Moment::MAX, &boot("b", 1)));
}

#[test]
fn a_leader_grants_what_its_acknowledgement_has_left() {
    let mut grantor = leading();
    let now = plan(1, [1, 1], "b", 1);
    let granted = Answer::Granted { term: Term(1), length: ms(1400), newest: plan_id(1) };
    assert_eq!(answer(&mut grantor, at(100), &request(boot("b", 1), 1), &now), granted);
    assert_eq!(grantor.lease_end(&boot("b", 1)), Some(at(100) + ms(1400) + ms(140)));
    let refusal = answer(&mut grantor, at(1500), &request(boot("b", 1), 1), &now);
    assert_eq!(refusal, Answer::Refused(Refusal::NoQuorum));
}

#[test]
fn acknowledgements_of_other_terms_and_older_ones_change_nothing() {
    let mut grantor = leading();
    let now = plan(1, [1, 1], "b", 1);
    grantor.handle_quorum_ack(Term(2), at(1000));
    grantor.handle_quorum_ack(Term(1), Moment::from_millis(5));
    let granted = Answer::Granted { term: Term(1), length: ms(1400), newest: plan_id(1) };
    assert_eq!(answer(&mut grantor, at(100), &request(boot("b", 1), 1), &now), granted);
}

#[test]
fn a_new_leader_settles_first_and_takes_everybody_for_leased() {
    let mut grantor = leading();
    let known = plan(1, [1, 1], "b", 1);
    grantor.handle_elected(at(0), Term(2));
    grantor.handle_quorum_ack(Term(2), at(10));
    let ask = request(boot("b", 1), 1);
    let settling = Answer::Refused(Refusal::Settling);
    assert_eq!(answer(&mut grantor, at(20), &ask, &known), settling);
    grantor.handle_first_entry_applied(Term(1), plan_id(1));
    assert_eq!(answer(&mut grantor, at(21), &ask, &known), settling, "another term's entry");
    grantor.handle_first_entry_applied(Term(2), plan_id(2));
    assert_eq!(answer(&mut grantor, at(22), &ask, &known), settling, "a plan older than the entry");
    assert_eq!(grantor.handle_request(at(23), &ask, None).reply.answer, settling, "no plan");
    assert!(matches!(
        answer(&mut grantor, at(24), &ask, &plan(2, [1, 1], "b", 1)),
        Answer::Granted { term: Term(2), .. }
    ));
    assert!(!grantor.is_over(at(1649), &boot("a", 1)));
    assert!(grantor.is_over(at(1650), &boot("a", 1)));
    assert!(!grantor.is_over(at(1650), &boot("b", 1)), "granted by itself");
}

#[test]
fn the_same_election_heard_twice_forgets_nothing() {
    let mut grantor = leading();
    grantor.handle_elected(at(50), Term(1));
    let now = plan(1, [1, 1], "b", 1);
    assert!(matches!(answer(&mut grantor, at(60), &request(boot("b", 1), 1), &now), Answer::Granted { .. }));
}

#[test]
fn only_members_are_leased_and_only_their_boots() {
    let mut grantor = leading();
    let now = plan(1, [1, 1], "b", 1);
    for stranger in [boot("b", 2), boot("z", 1)] {
        let refusal = answer(&mut grantor, at(1), &request(stranger, 1), &now);
        assert_eq!(refusal, Answer::Refused(Refusal::NotMember));
    }
}

#[test]
fn who_is_counted_out_waits_until_the_plan_is_committed_and_acted_on() {
    let mut grantor = leading();
    let (before, after) = (plan(1, [1, 1], "b", 1), plan(2, [1, 1], "a", 2));
    answer(&mut grantor, at(0), &request(boot("b", 1), 1), &before);
    let held = StillHeld::Partition { holder: boot("b", 1), partition: P, epoch: Epoch(1) };
    assert_eq!(grantor.handle_proposed(at(1649), &before, &after), Err(held));
    grantor.handle_proposed(at(1650), &before, &after).unwrap();
    grantor.handle_quorum_ack(Term(1), at(1660));
    let ended = Answer::Refused(Refusal::Ended { after: Some(plan_id(2)) });
    assert_eq!(answer(&mut grantor, at(1670), &request(boot("b", 1), 1), &before), ended, "not known");
    assert!(matches!(
        answer(&mut grantor, at(1670), &request(boot("a", 1), 1), &before),
        Answer::Granted { .. }
    ));
    assert_eq!(answer(&mut grantor, at(1680), &request(boot("b", 1), 1), &after), ended, "not acted on");
    assert!(matches!(
        answer(&mut grantor, at(1690), &request(boot("b", 1), 2), &after),
        Answer::Granted { .. }
    ));
    assert!(!grantor.is_over(at(1690), &boot("b", 1)));
}

#[test]
fn a_proposal_that_came_to_nothing_frees_whom_it_counted_out() {
    let mut grantor = leading();
    let (before, after) = (plan(1, [1, 1], "b", 1), plan(2, [1, 1], "a", 2));
    let first = grantor.handle_proposed(at(1650), &before, &after).unwrap();
    let second = grantor.handle_proposed(at(1651), &before, &after).unwrap();
    grantor.handle_quorum_ack(Term(1), at(1660));
    // The second was refused since the first is in; that the first came to nothing is not said.
    grantor.handle_dropped(second);
    let ended = Answer::Refused(Refusal::Ended { after: Some(plan_id(2)) });
    assert_eq!(answer(&mut grantor, at(1670), &request(boot("b", 1), 1), &before), ended);
    grantor.handle_dropped(first);
    assert!(matches!(
        answer(&mut grantor, at(1671), &request(boot("b", 1), 1), &before),
        Answer::Granted { .. }
    ));
}

#[test]
fn a_release_frees_one_epoch_of_one_boot() {
    let mut grantor = leading();
    let now = plan(1, [1, 1], "b", 3);
    let mut ask = request(boot("b", 1), 1);
    ask.releases = vec![release(2), release(4)];
    assert!(!grantor.handle_request(at(1), &ask, Some(&now)).news, "other epochs");
    ask.releases = vec![release(3)];
    let mut other = ask.clone();
    other.from = boot("a", 1);
    assert!(!grantor.handle_request(at(2), &other, Some(&now)).news, "another node");
    assert!(!grantor.is_free(at(3), &boot("b", 1), P, Epoch(3)));
    assert!(grantor.handle_request(at(3), &ask, Some(&now)).news);
    assert!(!grantor.handle_request(at(4), &ask, Some(&now)).news, "known");
    assert!(grantor.is_free(at(5), &boot("b", 1), P, Epoch(3)));
    assert!(!grantor.is_free(at(5), &boot("b", 1), P, Epoch(2)));
    assert!(!grantor.is_free(Moment::from_millis(2), &boot("a", 1), P, Epoch(3)), "it was not its word");
    assert!(!grantor.is_over(at(5), &boot("b", 1)), "its lease goes on");
    let standing: Vec<_> = grantor.standing_releases().collect();
    assert_eq!(standing, [(&boot("b", 1), release(3))]);
    // Answered with a newer epoch for the same node.
    let answered = plan(2, [1, 1], "b", 4);
    grantor.handle_proposed(at(6), &now, &answered).unwrap();
    assert!(
        matches!(answer(&mut grantor, at(7), &ask, &now), Answer::Granted { .. }),
        "it holds other partitions"
    );
    grantor.handle_applied(&answered);
    assert_eq!(grantor.standing_releases().count(), 0);
    assert!(!grantor.handle_request(at(8), &ask, Some(&answered)).news, "a late repetition");
    assert!(!grantor.is_free(at(8), &boot("b", 1), P, Epoch(4)));
}

#[test]
fn a_member_is_removed_or_marked_lost_only_when_its_lease_is_over() {
    let mut grantor = leading();
    let now = plan(1, [1, 1], "a", 1);
    answer(&mut grantor, at(0), &request(boot("b", 1), 1), &now);
    let held = Err(StillHeld::Member { holder: boot("b", 1) });
    let mut lost = plan(2, [1, 1], "a", 1);
    lost.members[1].status = Status::Lost;
    assert_eq!(grantor.handle_proposed(at(100), &now, &lost), held);
    assert_eq!(
        grantor.handle_proposed(at(100), &now, &plan(2, [1, 2], "a", 1)),
        held,
        "replaced by its next boot"
    );
    let mut leaving = plan(2, [1, 1], "a", 1);
    leaving.members[1].status = Status::Leaving;
    assert!(grantor.handle_proposed(at(100), &now, &leaving).is_ok());
    grantor.handle_crash_proof(boot("b", 1));
    assert!(grantor.handle_proposed(at(100), &now, &lost).is_ok());
}

#[test]
fn a_lease_given_back_or_a_proven_crash_is_over_for_good() {
    let mut grantor = leading();
    let now = plan(1, [1, 1], "b", 1);
    let ask = request(boot("b", 1), 1);
    answer(&mut grantor, at(0), &ask, &now);
    let back = Request { returned: true, ..ask.clone() };
    assert!(grantor.handle_request(at(1), &back, Some(&now)).news);
    assert!(!grantor.handle_request(at(2), &back, Some(&now)).news);
    assert!(grantor.is_free(at(2), &boot("b", 1), P, Epoch(1)));
    let ended = Answer::Refused(Refusal::Ended { after: None });
    assert_eq!(answer(&mut grantor, at(3), &ask, &now), ended);
    grantor.handle_crash_proof(boot("a", 1));
    assert_eq!(answer(&mut grantor, at(4), &request(boot("a", 1), 1), &now), ended);
    assert_eq!(grantor.ended(at(4), &now).collect::<Vec<_>>(), [&boot("a", 1), &boot("b", 1)]);
}

#[test]
fn a_leader_knows_when_to_look_again() {
    let mut grantor = leading();
    let now = plan(1, [1, 1], "b", 1);
    answer(&mut grantor, at(0), &request(boot("a", 1), 1), &now);
    answer(&mut grantor, at(100), &request(boot("b", 1), 1), &now);
    assert_eq!(grantor.next_end(at(200), &now), Some(at(1640)));
    assert_eq!(grantor.next_end(at(1650), &now), None);
    assert_eq!(grantor.ended(at(1645), &now).collect::<Vec<_>>(), [&boot("b", 1)]);
}

#[test]
fn nobody_is_free_before_a_leader_has_settled() {
    let mut grantor = Grantor::new(Config::default());
    let (before, after) = (plan(1, [1, 1], "b", 1), plan(2, [1, 1], "a", 2));
    grantor.handle_elected(at(0), Term(3));
    assert!(!grantor.is_free(at(90_000), &boot("b", 1), P, Epoch(1)));
    let founding = Snapshot { members: vec![], groups: vec![], ..plan(0, [1, 1], "", 0) };
    assert_eq!(grantor.handle_proposed(at(90_000), &founding, &before), Err(StillHeld::NotSettled));
    grantor.handle_first_entry_applied(Term(3), plan_id(0));
    assert!(grantor.handle_proposed(at(1), &founding, &before).is_ok(), "nobody was there before");
    assert!(grantor.handle_proposed(at(90_000), &before, &after).is_ok());
    grantor.handle_follows(None);
    assert!(!grantor.is_free(at(90_000), &boot("b", 1), P, Epoch(1)));
}

#[test]
fn an_earlier_grant_may_end_later() {
    let mut grantor = leading();
    let now = plan(1, [1, 1], "b", 1);
    let ask = request(boot("b", 1), 1);
    answer(&mut grantor, at(100), &ask, &now);
    answer(&mut grantor, at(1400), &ask, &now);
    assert_eq!(grantor.lease_end(&boot("b", 1)), Some(at(1640)));
    // And one of an earlier leader later still.
    grantor.handle_elected(at(2000), Term(2));
    grantor.handle_first_entry_applied(Term(2), plan_id(1));
    grantor.handle_quorum_ack(Term(2), at(2010));
    answer(&mut grantor, at(3400), &ask, &now);
    assert_eq!(grantor.lease_end(&boot("b", 1)), Some(at(2000 + 1650)));
}

#[test]
fn who_is_removed_waits_for_the_outcome_too() {
    let mut grantor = leading();
    let now = plan(1, [1, 1], "a", 1);
    answer(&mut grantor, at(0), &request(boot("a", 1), 1), &now);
    let mut lost = plan(2, [1, 1], "a", 1);
    lost.members[1].status = Status::Lost;
    grantor.handle_proposed(at(1), &now, &lost).unwrap();
    let ended = Answer::Refused(Refusal::Ended { after: Some(plan_id(2)) });
    assert_eq!(answer(&mut grantor, at(2), &request(boot("b", 1), 1), &now), ended);
    assert!(matches!(answer(&mut grantor, at(2), &request(boot("a", 1), 1), &now), Answer::Granted { .. }));
}

#[test]
fn a_newer_epoch_for_the_same_primary_needs_its_release_too() {
    let mut grantor = leading();
    let now = plan(1, [1, 1], "b", 1);
    answer(&mut grantor, at(0), &request(boot("b", 1), 1), &now);
    let held = StillHeld::Partition { holder: boot("b", 1), partition: P, epoch: Epoch(1) };
    assert_eq!(grantor.handle_proposed(at(1), &now, &plan(2, [1, 1], "b", 2)), Err(held));
}

#[test]
fn a_release_of_another_generation_is_none() {
    let mut grantor = leading();
    let forced = Snapshot { generation: Generation(1), ..plan(1, [1, 1], "b", 1) };
    let ask = Request { releases: vec![release(1)], ..request(boot("b", 1), 7) };
    assert!(!grantor.handle_request(at(1), &ask, Some(&forced)).news);
    assert_eq!(grantor.standing_releases().count(), 0);
}
