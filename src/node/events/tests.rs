//! One node's events: what plans come to, what is kept, and who is told what.

use std::time::Duration;

use futures_util::FutureExt;
use tumen_core::cluster::health::{Balance, PartitionHealth, Standing};
use tumen_core::cluster::member::Status;
use tumen_core::partitioner::Partitioner;

use super::plans::Moves;
use super::*;
use crate::http::testing::{member, plan};

/// The plan after a change, with the next number.
fn next(before: &Snapshot, change: impl FnOnce(&mut Snapshot)) -> Snapshot {
    let mut after = before.clone();
    after.version = after.version.next();
    change(&mut after);
    after.sealed()
}

fn names(events: &[Event]) -> Vec<&str> {
    events.iter().map(Event::name).collect()
}

fn between(before: Option<&Snapshot>, after: &Snapshot) -> (Vec<Event>, Moves) {
    differences(before, after, &mut Absent::default(), Instant::now())
}

#[tokio::test(start_paused = true)]
async fn a_plan_is_told_by_what_it_changed() {
    let first = plan(Partitioner::Hash);
    let (told, moves) = between(None, &first);
    assert_eq!(names(&told), ["node_up", "node_up", "node_up", "node_up", "snapshot"]);
    assert_eq!(moves.count, 0, "the first plan is what there is");
    let same = next(&first, |_| {});
    assert_eq!(names(&between(Some(&first), &same).0), ["snapshot"]);
    let lost = next(&first, |plan| {
        plan.members[1].status = Status::Lost;
        let assignment = &mut plan.groups[0].assignments[1];
        assignment.copies = vec![2, 1];
        assignment.epoch = assignment.epoch.next();
    });
    let mut absent = Absent::default();
    let (told, moves) = differences(Some(&first), &lost, &mut absent, Instant::now());
    assert_eq!(names(&told), ["node_down", "snapshot", "partition_moved"]);
    let moved = Event::PartitionMoved {
        partition: "partition-1".into(),
        from: Some("node-2".into()),
        to: Some("node-3".into()),
        epoch: 2,
        version: 8,
        copies_from: vec!["node-3".into()],
        reason: "node_lost".into(),
    };
    assert_eq!(told[2], moved);
    assert!(matches!(&told[0], Event::NodeDown { reason, .. } if reason == "lost"), "{told:?}");
    assert_eq!((moves.count, moves.trigger, &*moves.nodes), (1, "node_down", &["node-2".to_owned()][..]));
    // It comes back as another run: what it held is remembered, and for how long it was away.
    tokio::time::advance(Duration::from_secs(7)).await;
    let back = next(&lost, |plan| plan.members[1] = member("node-2", 77, Status::Up));
    let (told, _) = differences(Some(&lost), &back, &mut absent, Instant::now());
    let Event::NodeUp { rejoined: Some(rejoined), .. } = &told[0] else { panic!("{told:?}") };
    assert_eq!((rejoined.away_ms, &*rejoined.primaries), (7_000, &["partition-1".to_owned()][..]));
    assert_eq!((&*rejoined.replicas, rejoined.replicas_held), (&["partition-0".to_owned()][..], 1));
    let removed = next(&lost, |plan| {
        let _ = plan.members.remove(1);
        plan.groups[0].assignments.iter_mut().for_each(|one| one.copies.clear());
    });
    assert_eq!(names(&between(Some(&lost), &removed).0)[..1], ["node_removed"]);
    let reborn = next(&first, |plan| plan.members[3] = member("node-4", 99, Status::Up));
    let (told, _) = between(Some(&first), &reborn);
    assert_eq!(names(&told), ["node_down", "node_up", "snapshot"]);
    assert!(matches!(&told[0], Event::NodeDown { reason, .. } if reason == "restarted"), "{told:?}");
    // Copies that move without their primary.
    let copied = next(&first, |plan| plan.groups[0].assignments[0].copies = vec![0, 3]);
    let (told, moves) = between(Some(&first), &copied);
    let copies = Event::PartitionCopies {
        partition: "partition-0".into(),
        added: vec!["node-4".into()],
        removed: vec!["node-2".into()],
        copies_from: vec!["node-1".into(), "node-2".into()],
        version: 8,
    };
    assert_eq!((names(&told)[0], &told[1], moves.count), ("snapshot", &copies, 1));
}

#[tokio::test(start_paused = true)]
async fn a_rebalance_is_over_once_all_is_there_and_even() {
    let mut rebalancing = Rebalancing::default();
    let moves = |count| Moves { count, trigger: "node_up", nodes: vec!["node-4".into()] };
    let version = tumen_core::Version;
    assert_eq!(rebalancing.handle_plan(Instant::now(), version(2), moves(0)), None);
    let started = rebalancing.handle_plan(Instant::now(), version(3), moves(6)).unwrap();
    assert!(matches!(started, Event::RebalanceStarted { moves: 6, version: 3, .. }), "{started:?}");
    let one = PartitionHealth {
        id: PartitionId::user(0),
        standing: Standing::Serving,
        total: 3,
        planned: 3,
        healthy: 2,
        behind: 0,
        waiting: 0,
    };
    let mut seen = Assessment { version: version(3), partitions: vec![one], ..Assessment::default() };
    assert_eq!(rebalancing.handle_health(Instant::now(), &seen), None, "a copy is on its way");
    seen.partitions[0].healthy = 3;
    seen.balance = vec![(GroupId::Users, Balance { primary_moves: 2, judged: true, ..Balance::default() })];
    assert_eq!(rebalancing.handle_health(Instant::now(), &seen), None, "primaries follow");
    assert_eq!(rebalancing.handle_plan(Instant::now(), version(4), moves(2)), None, "it is the same");
    seen.balance.clear();
    assert_eq!(rebalancing.handle_health(Instant::now(), &seen), None, "that was before");
    tokio::time::advance(Duration::from_secs(2)).await;
    seen.version = version(4);
    let over = rebalancing.handle_health(Instant::now(), &seen).unwrap();
    assert!(
        matches!(over, Event::RebalanceCompleted { moves: 8, version: 4, took_ms: 2_000, .. }),
        "{over:?}"
    );
    assert_eq!(rebalancing.handle_health(Instant::now(), &seen), None);
}

#[tokio::test]
async fn a_listener_hears_the_present_and_then_everything_in_order() {
    let news = News::new();
    let first = plan(Partitioner::Hash);
    news.handle_plan(Arc::new(first.clone()));
    let mut listener = news.listen(None);
    assert_eq!(listener.next().await.unwrap(), (5, snapshot_event(&first)));
    assert!(listener.next().now_or_never().is_none(), "nothing happened yet");
    news.handle_leader(Some(NodeName::new("node-2").unwrap()), Term(3));
    news.handle_leader(Some(NodeName::new("node-2").unwrap()), Term(3));
    let second = next(&first, |_| {});
    news.handle_plan(Arc::new(second.clone()));
    news.handle_plan(Arc::new(first));
    assert_eq!(listener.next().await.unwrap().1.name(), "leader");
    assert_eq!(listener.next().await.unwrap(), (7, snapshot_event(&second)));
    assert!(listener.next().now_or_never().is_none(), "old news is recognised");
}

#[tokio::test]
async fn a_listener_that_comes_back_reads_on_where_it_was() {
    let news = News::new();
    news.handle_plan(Arc::new(plan(Partitioner::Hash)));
    let mut back = news.listen(Some(4));
    assert_eq!(back.next().await.unwrap().0, 5);
    let mut stranger = news.listen(Some(1_000));
    assert!(stranger.next().now_or_never().is_none());
}

#[tokio::test]
async fn a_slow_listener_is_told_how_many_it_missed() {
    let news = News::new();
    let mut slow = news.listen(None);
    for term in 0..KEPT_MIN as u64 + 10 {
        news.handle_leader(None, Term(term));
    }
    assert_eq!(slow.next().await.unwrap(), (10, Event::Missed { count: 10 }));
    assert_eq!(slow.next().await.unwrap(), (11, Event::Leader { leader: None, term: 10 }));
    assert_eq!(news.kept().kept.len(), KEPT_MIN);
}

#[tokio::test]
async fn who_asks_for_what_is_not_kept_is_told_from_where_one_can_go_on() {
    let news = News::new();
    assert_eq!(news.listen_from(0).unwrap_err(), NotKept { oldest: 1, newest: 0 });
    assert!(news.listen_from(1).unwrap().next().now_or_never().is_none(), "it is the next one");
    assert_eq!(news.listen_from(2).unwrap_err(), NotKept { oldest: 1, newest: 0 });
    for term in 0..KEPT_MIN as u64 + 10 {
        news.handle_leader(None, Term(term));
    }
    let newest = KEPT_MIN as u64 + 10;
    assert_eq!(news.listen_from(10).unwrap_err(), NotKept { oldest: 11, newest });
    assert_eq!(news.listen_from(11).unwrap().next().await.unwrap().0, 11);
    assert_eq!(news.listen_from(newest).unwrap().next().await.unwrap().0, newest);
}
