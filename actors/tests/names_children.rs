//! Supervised children on whole nodes, over the simulated network: one instance of each, and it comes back.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends there")]

mod nodes;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use nodes::teller::{named_cluster, spec, start_named};
use nodes::until;
use tumen_actors::names::{Found, NameFailure, Standing};
use tumen_actors::node::Runtime;
use tumen_actors::partitions::router::CallOptions;
use tumen_actors::transport::simulated::{Weather, World};
use tumen_core::names::directory::{News, Refused};
use tumen_core::names::placement::{Choice, Placement, Placing};
use tumen_core::names::placements::Placements;
use tumen_core::names::{ClaimNumber, Name, Reason, Spec, directory_of};
use tumen_core::partitions::request::{Failure, MessageId, Reply};
use tumen_core::supervision::Restart;

const WITHIN: Duration = Duration::from_secs(40);

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

async fn start(node: &Runtime, text: &str, args: &str, restart: Restart) -> Result<Found, NameFailure> {
    node.names().start(&name(text), spec(args, restart), Bytes::new(), WITHIN).await
}

async fn tell(node: &Runtime, text: &str, what: &str) -> Reply {
    let body = Bytes::copy_from_slice(what.as_bytes());
    node.names().call(&name(text), MessageId::of("tell"), body, WITHIN).await.map_err(nodes::of_call)
}

/// Where it runs, under which number, and how often it was asked. Asked again where nobody knows whether it was.
async fn told(node: &Runtime, text: &str) -> (String, u64, u64) {
    let options = CallOptions { within: WITHIN, idempotent: true, ..CallOptions::default() };
    let reply = node.names().call_with(&name(text), MessageId::of("tell"), Bytes::new(), options).await;
    let reply = reply.unwrap_or_else(|why| panic!("{text}: {why}"));
    let reply = String::from_utf8(reply.to_vec()).unwrap();
    let mut parts = reply.split(' ');
    let mut next = || parts.next().unwrap().to_owned();
    (next(), next().parse().unwrap(), next().parse().unwrap())
}

fn at<'a>(nodes: &'a [Runtime], node: &str) -> &'a Runtime {
    nodes.iter().find(|it| it.id().node.as_str() == node).unwrap()
}

#[tokio::test(start_paused = true)]
async fn ten_children_land_on_more_than_one_node_and_are_listed_and_ended_from_any() {
    let world = World::new(201, Weather::default());
    let nodes = named_cluster(&world, 3).await;
    let mut used = BTreeMap::<String, usize>::new();
    for n in 0..10 {
        let started = start(&nodes[n % 3], &format!("child/{n}"), "", Restart::Permanent).await.unwrap();
        *used.entry(started.holder.node.node.to_string()).or_default() += 1;
        assert_eq!(told(&nodes[(n + 1) % 3], &format!("child/{n}")).await.1, started.number.0);
    }
    assert!(used.len() > 1, "{used:?}");
    for node in &nodes {
        until("all are listed", || node.names().children(b"child/", 100).len() == 10).await;
    }
    nodes[1].names().terminate(&name("child/3"), WITHIN).await.unwrap();
    assert!(matches!(tell(&nodes[1], "child/3", "").await, Err(Failure::NoPartition(_))));
    for node in &nodes {
        until("nine are left", || node.names().children(b"", 100).len() == 9).await;
    }
    let missing = nodes[0].names().terminate(&name("child/3"), WITHIN).await.unwrap_err();
    assert!(matches!(missing, NameFailure::Refused(Refused::NotFound(_))), "{missing}");
}

#[tokio::test(start_paused = true)]
async fn a_hundred_starts_at_once_of_one_singleton_give_one_instance_and_equal_handles() {
    let world = World::new(202, Weather::default());
    let nodes = named_cluster(&world, 5).await;
    let starts = (0..100).map(|n| start(&nodes[n % 5], "one", "", Restart::Permanent));
    let ended = futures_util::future::join_all(starts).await;
    let handles: BTreeSet<_> =
        ended.into_iter().map(|got| got.unwrap()).map(|found| (found.number, found.holder)).collect();
    assert_eq!(handles.len(), 1, "{handles:?}");
    let others =
        nodes[0].names().start(&name("one"), spec("other", Restart::Permanent), Bytes::new(), WITHIN).await;
    assert!(matches!(others, Err(NameFailure::Refused(Refused::AlreadyRegistered { .. }))), "{others:?}");
}

#[tokio::test(start_paused = true)]
async fn a_child_that_fails_is_started_again_as_its_restart_says() {
    let world = World::new(203, Weather::default());
    let nodes = named_cluster(&world, 3).await;
    for (text, restart) in [("p", Restart::Permanent), ("t", Restart::Transient), ("x", Restart::Temporary)] {
        start(&nodes[0], text, "", restart).await.unwrap();
    }
    let before = told(&nodes[0], "p").await;
    assert!(matches!(tell(&nodes[1], "p", "panic").await, Err(Failure::WorkerFailed(_))));
    let after = told(&nodes[1], "p").await;
    assert!(after.1 > before.1 && after.2 == 1, "{before:?} {after:?}");
    assert_eq!(after.0, before.0, "local first");
    assert!(tell(&nodes[1], "p", "stop").await.is_ok());
    assert!(told(&nodes[2], "p").await.1 > after.1, "a permanent one always");

    let before = told(&nodes[0], "t").await;
    assert!(tell(&nodes[0], "t", "fail").await.is_ok());
    until("it runs again", || nodes[0].names().lookup(&name("t")).is_some_and(|it| it.number.0 > before.1))
        .await;
    assert!(tell(&nodes[0], "t", "stop").await.is_ok());
    until("a transient one that ended is gone", || nodes[0].names().table().claim(&name("t")).is_none())
        .await;

    assert!(matches!(tell(&nodes[2], "x", "panic").await, Err(Failure::WorkerFailed(_))));
    until("a temporary one is gone", || nodes[0].names().table().claim(&name("x")).is_none()).await;
}

#[tokio::test(start_paused = true)]
async fn too_many_failures_in_a_row_are_given_up() {
    let world = World::new(204, Weather::default());
    let nodes = named_cluster(&world, 2).await;
    start(&nodes[0], "p", "", Restart::Permanent).await.unwrap();
    for _ in 0..6 {
        until("it runs", || nodes[0].names().lookup(&name("p")).is_some()).await;
        let number = nodes[0].names().lookup(&name("p")).unwrap().number;
        drop(tell(&nodes[0], "p", "panic").await);
        let over = |node: &Runtime| node.names().lookup(&name("p")).is_none_or(|it| it.number > number);
        until("that instance is over", || over(&nodes[0])).await;
    }
    until("it is given up", || nodes[0].names().table().claim(&name("p")).is_none()).await;
    // Its name is free.
    start(&nodes[1], "p", "", Restart::Permanent).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_factory_that_refuses_fails_panics_or_never_returns_leaves_nothing() {
    let world = World::new(205, Weather::default());
    let nodes = named_cluster(&world, 3).await;
    for args in ["ignore", "fail", "panic", "never"] {
        let began = start(&nodes[0], args, args, Restart::Permanent);
        let other = format!("beside {args}");
        let beside = start(&nodes[1], &other, "", Restart::Permanent);
        let (failed, beside) = tokio::join!(began, beside);
        beside.expect("a slow start of one child holds up no other");
        match args {
            "ignore" => assert!(matches!(failed, Err(NameFailure::Ignored)), "{failed:?}"),
            args => assert!(matches!(failed, Err(NameFailure::StartFailed(_))), "{args}: {failed:?}"),
        }
        assert!(nodes[0].names().table().claim(&name(args)).is_none());
    }
    let none = spec("", Restart::Permanent);
    let none = Spec { kind: tumen_core::ids::Kind::new("none").unwrap(), ..none };
    let unknown = nodes[0].names().start(&name("u"), none, Bytes::new(), WITHIN).await.unwrap_err();
    assert!(matches!(&unknown, NameFailure::NoSuchKind { known, .. } if known.len() == 1), "{unknown}");
    assert!(unknown.to_string().ends_with("there are teller"), "{unknown}");
    assert!(nodes[0].names().table().claim(&name("u")).is_none());
}

#[tokio::test(start_paused = true)]
async fn a_slow_start_is_waited_for_as_long_as_was_said_and_goes_on_after_that() {
    let world = World::new(212, Weather::default());
    let nodes = named_cluster(&world, 3).await;
    let (names, second) = (nodes[0].names(), Duration::from_secs(1));
    let slow = || spec("slow", Restart::Permanent);
    let patient = names.start_patiently(&name("patient"), slow(), Bytes::new(), second, 6 * second).await;
    patient.expect("it takes five seconds, and was waited for six");
    let hurried = names.start_patiently(&name("hurried"), slow(), Bytes::new(), second, 2 * second).await;
    assert_eq!(hurried, Err(NameFailure::StartTimeout));
    until("it runs all the same", || names.lookup(&name("hurried")).is_some()).await;
}

#[tokio::test(start_paused = true)]
async fn children_of_a_crashed_node_run_again_elsewhere_and_only_there() {
    let world = World::new(206, Weather::default());
    let nodes = named_cluster(&world, 3).await;
    let names: Vec<String> = (0..60).map(|n| format!("child/{n}")).collect();
    let mut before = BTreeMap::new();
    for text in &names {
        before.insert(text.clone(), start(&nodes[0], text, "", Restart::Permanent).await.unwrap());
    }
    let victim = 2;
    world.crash(nodes[victim].id());
    let gone = nodes[victim].id().node.to_string();
    let mut moved = 0;
    for text in &names {
        let (node, number, _) = told(&nodes[0], text).await;
        let was = &before[text];
        if was.holder.node == *nodes[victim].id() {
            moved += 1;
            assert!(
                node != gone && ClaimNumber(number) > was.number,
                "{text}: {node} {number} after {was:?}"
            );
        } else {
            assert_eq!(
                (node, ClaimNumber(number)),
                (was.holder.node.node.to_string(), was.number),
                "{text} stays"
            );
        }
        assert_eq!(told(&nodes[1], text).await.1, number);
    }
    assert!(moved > 5, "{moved}");
}

#[tokio::test(start_paused = true)]
async fn a_frozen_nodes_child_runs_elsewhere_and_the_old_one_never_answers_again() {
    let world = World::new(207, Weather::default());
    let nodes = named_cluster(&world, 3).await;
    let started = start(&nodes[0], "one", "", Restart::Permanent).await.unwrap();
    let holder = started.holder.node.node.to_string();
    world.freeze(&started.holder.node.node);
    let asking = nodes.iter().find(|node| node.id().node.as_str() != holder).unwrap();
    let (node, number, _) = told(asking, "one").await;
    assert!(node != holder && number > started.number.0);
    world.thaw(&started.holder.node.node);
    let thawed = at(&nodes, &holder);
    until("the thawed node knows", || {
        thawed.names().lookup(&name("one")).is_some_and(|found| found.number.0 >= number)
    })
    .await;
    assert_eq!(told(thawed, "one").await.1, number);
    // And the new holder goes too.
    let next = at(&nodes, &node);
    world.crash(next.id());
    let asking = nodes.iter().find(|it| it.id() != next.id()).unwrap();
    let (last, newest, _) = told(asking, "one").await;
    assert!(last != node && newest > number, "{last} {newest}");
}

#[tokio::test(start_paused = true)]
async fn a_child_that_is_moved_hands_its_state_over_when_it_has_ended() {
    let world = World::new(208, Weather::default());
    let nodes = named_cluster(&world, 3).await;
    let started = start(&nodes[0], "one", "", Restart::Permanent).await.unwrap();
    for _ in 0..4 {
        told(&nodes[1], "one").await;
    }
    nodes[1].names().relocate(&name("one"), WITHIN).await.unwrap();
    let (_, number, count) = told(&nodes[2], "one").await;
    assert!(number > started.number.0);
    assert_eq!(count, 5, "it goes on where it was");
}

#[tokio::test(start_paused = true)]
async fn a_node_that_stops_hands_its_children_over() {
    let world = World::new(209, Weather::default());
    let nodes = named_cluster(&world, 3).await;
    let mut there = Vec::new();
    for n in 0..12 {
        let text = format!("child/{n}");
        let started = start(&nodes[0], &text, "", Restart::Permanent).await.unwrap();
        told(&nodes[0], &text).await;
        if started.holder.node == *nodes[2].id() {
            there.push(text);
        }
    }
    assert!(!there.is_empty());
    nodes[2].stop().await;
    for text in &there {
        let (node, _, count) = told(&nodes[0], text).await;
        assert!(node != nodes[2].id().node.as_str());
        assert_eq!(count, 2, "{text} goes on where it was");
    }
}

#[tokio::test(start_paused = true)]
async fn a_kind_that_comes_with_a_later_node_is_waited_for_by_nobody_but_can_be_started_then() {
    let world = World::new(210, Weather::default());
    let mut settings = nodes::teller::named(&world, 1, &[], 1);
    settings.children = tumen_actors::names::child::ChildKinds::default();
    let first = Runtime::start(settings, nodes::kinds()).await.unwrap();
    until("it is ready", || first.ready().is_ok()).await;
    let none = start(&first, "one", "", Restart::Permanent).await.unwrap_err();
    assert!(matches!(none, NameFailure::NoSuchKind { .. }), "{none}");
    let second = start_named(&world, 2, &[1], 1).await;
    until("both are ready", || second.ready().is_ok() && first.names().child_kinds().len() == 1).await;
    let started = start(&first, "one", "", Restart::Permanent).await.unwrap();
    assert_eq!(started.holder.node, *second.id());
    assert_eq!(told(&first, "one").await.0, second.id().node.to_string());
}

#[tokio::test(start_paused = true)]
async fn on_a_join_those_who_belong_there_move_and_passive_ones_stay() {
    let world = World::new(211, Weather::default());
    let mut nodes = named_cluster(&world, 2).await;
    let mut before = BTreeMap::new();
    for n in 0..40 {
        let text = format!("child/{n}");
        let placing = if n % 2 == 0 { Placing::UniformActive } else { Placing::Uniform };
        let spec = Spec { placing, ..spec("", Restart::Permanent) };
        let found = nodes[0].names().start(&name(&text), spec, Bytes::new(), WITHIN).await.unwrap();
        before.insert(text, (n % 2 == 0, found));
    }
    let mut news = nodes[0].names().news();
    let third = start_named(&world, 3, &[1], 1).await;
    nodes.push(third);
    nodes::all_ready(&nodes).await;
    let newcomer = nodes[2].id().node.to_string();
    until("those who belong there have moved", || {
        let there = |_: &Name, standing: &Standing| standing.held_on() == Some(nodes[2].id());
        nodes[0].names().table().count(b"", there) >= 3
    })
    .await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    for (text, (active, was)) in &before {
        let (node, number, _) = told(&nodes[0], text).await;
        let stayed = ClaimNumber(number) == was.number;
        assert_eq!(stayed, node == was.holder.node.node.as_str(), "{text}");
        assert!(stayed || (*active && node == newcomer), "{text}: {was:?} {node}");
    }
    while let Ok(piece) = news.try_recv() {
        if let News::Unregistered { name, reason, goes_on, .. } = &*piece {
            assert_eq!((reason, goes_on), (&Reason::Moved, &true), "{name}");
        }
    }
}

/// The last of the nodes; it panics over names that begin with p, and chooses what is not there for those with f.
struct Last;

impl Placement for Last {
    fn pick(&self, choice: &Choice<'_>) -> Option<usize> {
        match choice.name.as_bytes()[0] {
            b'p' => panic!("told to"),
            b'f' => Some(choice.candidates.len()),
            b'n' => None,
            _ => choice.candidates.len().checked_sub(1),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_users_own_placement_is_asked_wherever_the_directory_is_led_and_a_fault_of_it_starts_nothing() {
    let world = World::new(212, Weather::default());
    let mut nodes = Vec::new();
    for at in 1..=4 {
        let mut settings =
            nodes::teller::named(&world, at, if at == 1 { &[] } else { &[1] }, if at == 1 { 4 } else { 1 });
        // The last node was forgotten.
        if at < 4 {
            let own = (tumen_core::PlacementName::new("last").unwrap(), Arc::new(Last) as Arc<dyn Placement>);
            settings.placements = Placements::new(vec![own]).unwrap();
        }
        nodes.push(Runtime::start(settings, nodes::kinds()).await.unwrap());
    }
    nodes::all_ready(&nodes).await;
    let own = || Spec { placing: "last".parse().unwrap(), ..spec("", Restart::Permanent) };
    let plan = nodes[0].plans().newest().unwrap();
    let leads = |text: &str| plan.primary_of(directory_of(&name(text))).unwrap().0.clone();
    let (mut ran, mut refused) = (0, 0);
    for n in 0..24 {
        let text = format!("c/{n}");
        let started = nodes[n % 4].names().start(&name(&text), own(), Bytes::new(), WITHIN).await;
        if leads(&text) == *nodes[3].id() {
            let Err(NameFailure::StartFailed(why)) = started else { panic!("{text}: {started:?}") };
            assert!(why.contains("has no placement named last (it has none of its user's own)"), "{why}");
            assert!(nodes[n % 4].names().table().claim(&name(&text)).is_none(), "nothing is tracked");
            refused += 1;
        } else {
            assert_eq!(started.unwrap().holder.node, *nodes[3].id(), "{text}");
            ran += 1;
        }
    }
    assert!(ran > 0 && refused > 0, "{ran} {refused}");
    for (text, says) in [
        ("panics", "the placement last panicked: told to"),
        ("far", "the placement last chose number 4"),
        ("nobody", "no node can be chosen for it: last chose none of 4"),
    ] {
        // By a name that is led where the placement is.
        let text = (0..).map(|n| format!("{text}/{n}")).find(|text| leads(text) != *nodes[3].id()).unwrap();
        let failed = nodes[1].names().start(&name(&text), own(), Bytes::new(), WITHIN).await;
        let Err(NameFailure::StartFailed(why)) = failed else { panic!("{text}: {failed:?}") };
        assert!(why.contains(says), "{why}");
        assert!(nodes[1].names().table().claim(&name(&text)).is_none(), "nothing is tracked");
    }
    until("nothing else is there", || nodes[0].names().figures().known == ran).await;
}

#[tokio::test(start_paused = true)]
async fn without_a_node_that_takes_children_a_start_is_refused_and_nothing_is_tracked() {
    let world = World::new(213, Weather::default());
    let mut nodes = Vec::new();
    for at in 1..=3 {
        let mut settings =
            nodes::teller::named(&world, at, if at == 1 { &[] } else { &[1] }, if at == 1 { 3 } else { 1 });
        if at == 3 {
            settings.weight = 0;
        } else {
            settings.children = tumen_actors::names::child::ChildKinds::default();
        }
        nodes.push(Runtime::start(settings, nodes::kinds()).await.unwrap());
    }
    nodes::all_ready(&nodes).await;
    for placing in Placing::BUILT_IN {
        let spec = Spec { placing: placing.clone(), ..spec("", Restart::Permanent) };
        let failed = nodes[0].names().start(&name("one"), spec, Bytes::new(), WITHIN).await;
        let Err(NameFailure::StartFailed(why)) = failed else { panic!("{placing}: {failed:?}") };
        assert!(why.contains("no member that can start a teller takes children"), "{placing}: {why}");
        assert!(nodes[0].names().table().claim(&name("one")).is_none());
    }
}

#[tokio::test(start_paused = true)]
async fn two_hundred_children_of_a_killed_node_all_run_again_within_two_seconds() {
    let world = World::new(214, Weather::default());
    let nodes = named_cluster(&world, 3).await;
    let all: Vec<String> = (0..200).map(|n| format!("child/{n}")).collect();
    let starts = all.iter().map(|text| start(&nodes[0], text, "", Restart::Permanent));
    let began = futures_util::future::join_all(starts).await;
    let victim = began[0].as_ref().unwrap().holder.node.clone();
    let lost = began.iter().filter(|it| it.as_ref().unwrap().holder.node == victim).count();
    assert!(lost > 20, "{lost}");
    let left = nodes.iter().find(|node| *node.id() != victim).unwrap();
    world.crash(&victim);
    let killed = tokio::time::Instant::now();
    until("all of them run", || {
        let runs = |_: &Name, standing: &Standing| standing.held_on().is_some_and(|it| *it != victim);
        left.names().table().count(b"child/", runs) == 200
    })
    .await;
    assert!(killed.elapsed() < Duration::from_secs(2), "{:?}", killed.elapsed());
    for text in all.iter().step_by(20) {
        assert_ne!(told(left, text).await.0, victim.node.to_string());
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_start_of_one_child_holds_up_no_restart_of_another() {
    let world = World::new(215, Weather::default());
    let nodes = named_cluster(&world, 1).await;
    let before = start(&nodes[0], "one", "", Restart::Permanent).await.unwrap();
    let slow = start(&nodes[0], "slow", "slow", Restart::Permanent);
    let restarted = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        drop(tell(&nodes[0], "one", "panic").await);
        let again = told(&nodes[0], "one").await;
        (again, nodes[0].names().lookup(&name("slow")).is_none())
    };
    let (slow, (again, still_starts)) = tokio::join!(slow, restarted);
    assert!(again.1 > before.number.0 && still_starts);
    assert_eq!(slow.unwrap().holder.node, *nodes[0].id());
}
