//! Names on whole nodes, over the simulated network: who claims what, who finds whom, and what frees a name.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends there")]

mod nodes;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use nodes::teller::named_cluster;
use nodes::until;
use tumen_actors::names::NameFailure;
use tumen_actors::node::Runtime;
use tumen_actors::partitions::delivery::Delivery;
use tumen_actors::transport::simulated::{Weather, World};
use tumen_core::names::directory::{News, Refused};
use tumen_core::names::{Holder, Name, Reason};
use tumen_core::partitions::request::{Failure, MessageId};

const WITHIN: Duration = Duration::from_secs(20);

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

/// An actor that answers with its number.
fn actor(node: &Runtime) -> Holder {
    let me = node.id().node.clone();
    node.names().host(move |delivery: Delivery| delivery.answer(Ok(Bytes::from(me.to_string()))))
}

async fn ask(node: &Runtime, text: &str) -> Result<Bytes, Failure> {
    let told = node.names().call(&name(text), MessageId::of("who"), Bytes::new(), WITHIN).await;
    told.map_err(nodes::of_call)
}

#[tokio::test(start_paused = true)]
async fn whoever_got_ok_finds_it_at_once_and_a_second_claim_is_told_who_holds_it() {
    let world = World::new(101, Weather::default());
    let nodes = named_cluster(&world, 3).await;
    let mut holders = Vec::new();
    for (at, node) in nodes.iter().enumerate() {
        let holder = actor(node);
        for n in 0..40 {
            let text = format!("user/{at}/{n}");
            let number =
                node.names().claim(holder.actor, &name(&text), Bytes::from_static(b"hi"), WITHIN).await;
            let found = node.names().lookup(&name(&text)).expect("whoever got Ok finds it at once");
            assert_eq!((found.number, &found.holder), (number.unwrap(), &holder));
            assert_eq!(found.value, b"hi"[..]);
        }
        holders.push(holder);
    }
    for (at, holder) in holders.iter().enumerate() {
        let text = format!("user/{at}/7");
        for node in &nodes {
            let other = actor(node);
            let refused =
                node.names().claim(other.actor, &name(&text), Bytes::new(), WITHIN).await.unwrap_err();
            let expected = |there: &NameFailure| matches!(there, NameFailure::Refused(Refused::AlreadyRegistered { holder: Some(held), .. }) if held == holder);
            assert!(expected(&refused), "{refused}");
            assert_eq!(ask(node, &text).await.unwrap(), Bytes::from(holder.node.node.to_string()));
        }
        let own = nodes[at].names().names_of(holder.actor);
        assert_eq!(own.len(), 40);
    }
    until("all nodes see all names", || {
        nodes.iter().all(|node| node.names().table().count(b"user/", |_, _| true) == 120)
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn of_claims_at_once_exactly_one_succeeds() {
    let world = World::new(102, Weather::default());
    let nodes = named_cluster(&world, 3).await;
    for round in 0..20 {
        let wanted = name(&format!("round/{round}"));
        let claims = nodes.iter().flat_map(|node| [node, node]).map(|node| {
            let (names, holder, wanted) = (node.names().clone(), actor(node), wanted.clone());
            async move { (holder.clone(), names.claim(holder.actor, &wanted, Bytes::new(), WITHIN).await) }
        });
        let ended = futures_util::future::join_all(claims).await;
        let won: Vec<&Holder> =
            ended.iter().filter(|(_, got)| got.is_ok()).map(|(holder, _)| holder).collect();
        assert_eq!(won.len(), 1, "{ended:?}");
        for (_, lost) in ended.iter().filter(|(_, got)| got.is_err()) {
            assert!(
                matches!(lost, Err(NameFailure::Refused(Refused::AlreadyRegistered { holder: Some(by), .. })) if by == won[0])
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_name_is_free_once_it_was_given_back_or_its_actor_ended_and_listeners_hear_why() {
    let world = World::new(103, Weather::default());
    let nodes = named_cluster(&world, 3).await;
    let mut news = nodes[2].names().news();
    let holder = actor(&nodes[0]);
    for text in ["a", "b", "c"] {
        nodes[0].names().claim(holder.actor, &name(text), Bytes::new(), WITHIN).await.unwrap();
    }
    nodes[0].names().release(holder.actor, &name("a"), WITHIN).await.unwrap();
    assert!(nodes[0].names().lookup(&name("a")).is_none());
    let refused = nodes[1].names().update(9, &name("b"), Bytes::new(), WITHIN).await.unwrap_err();
    assert!(matches!(refused, NameFailure::Refused(Refused::NotTheHolder { .. })), "{refused}");
    nodes[0].names().update(holder.actor, &name("b"), Bytes::from_static(b"new"), WITHIN).await.unwrap();
    nodes[0].names().unhost(holder.actor, Reason::Crashed("told to".into()));
    for node in &nodes {
        until("its names are free", || node.names().table().count(b"", |_, _| true) == 0).await;
    }
    assert!(matches!(ask(&nodes[1], "b").await, Err(Failure::NoPartition(_))));
    let next = actor(&nodes[1]);
    nodes[1].names().claim(next.actor, &name("b"), Bytes::new(), WITHIN).await.unwrap();
    let mut heard: Vec<(String, Option<Reason>)> = Vec::new();
    while heard.len() < 8 {
        let piece = tokio::time::timeout(Duration::from_secs(30), news.recv()).await.unwrap().unwrap();
        heard.push(match Arc::unwrap_or_clone(piece) {
            News::Registered { name, .. } => (format!("+{name}"), None),
            News::Updated { name, .. } => (format!("={name}"), None),
            News::Unregistered { name, reason, .. } => (format!("-{name}"), Some(reason)),
        });
    }
    let of =
        |name: &str| -> Vec<_> { heard.iter().filter(|(text, _)| text.ends_with(name)).cloned().collect() };
    let crashed = Some(Reason::Crashed("told to".into()));
    assert_eq!(of("a"), [("+a".into(), None), ("-a".into(), Some(Reason::Normal))]);
    assert_eq!(
        of("b"),
        [("+b".into(), None), ("=b".into(), None), ("-b".into(), crashed.clone()), ("+b".into(), None)]
    );
    assert_eq!(of("c"), [("+c".into(), None), ("-c".into(), crashed)]);
}

#[tokio::test(start_paused = true)]
async fn the_names_of_a_node_that_went_vanish_on_the_others_and_can_be_claimed() {
    let world = World::new(104, Weather::default());
    let nodes = named_cluster(&world, 3).await;
    let (here, gone) = (actor(&nodes[0]), actor(&nodes[2]));
    for n in 0..30 {
        nodes[2].names().claim(gone.actor, &name(&format!("gone/{n}")), Bytes::new(), WITHIN).await.unwrap();
        nodes[0].names().claim(here.actor, &name(&format!("here/{n}")), Bytes::new(), WITHIN).await.unwrap();
    }
    world.crash(nodes[2].id());
    for node in &nodes[..2] {
        until("its names are gone", || node.names().table().count(b"gone/", |_, _| true) == 0).await;
        assert_eq!(node.names().table().count(b"here/", |_, _| true), 30);
    }
    let next = actor(&nodes[1]);
    for n in 0..30 {
        let wanted = name(&format!("gone/{n}"));
        nodes[1].names().claim(next.actor, &wanted, Bytes::new(), WITHIN).await.unwrap();
        assert_eq!(nodes[1].names().lookup(&wanted).unwrap().holder, next);
    }
}

#[tokio::test(start_paused = true)]
async fn a_frozen_holder_blocks_no_lookup_and_answers_nothing_once_others_took_over() {
    let world = World::new(105, Weather::default());
    let nodes = named_cluster(&world, 3).await;
    let frozen = actor(&nodes[2]);
    nodes[2].names().claim(frozen.actor, &name("x"), Bytes::new(), WITHIN).await.unwrap();
    until("the others see it", || nodes[..2].iter().all(|node| node.names().lookup(&name("x")).is_some()))
        .await;
    world.freeze(&nodes[2].id().node);
    let began = tokio::time::Instant::now();
    assert_eq!(nodes[0].names().lookup(&name("x")).unwrap().holder, frozen);
    assert_eq!(began.elapsed(), Duration::ZERO, "a lookup is a local read");
    until("it is a member no more", || nodes[0].names().lookup(&name("x")).is_none()).await;
    let next = actor(&nodes[0]);
    nodes[0].names().claim(next.actor, &name("x"), Bytes::new(), WITHIN).await.unwrap();
    world.thaw(&nodes[2].id().node);
    until("it knows the new holder", || {
        nodes[2].names().lookup(&name("x")).is_some_and(|found| found.holder == next)
    })
    .await;
    assert_eq!(ask(&nodes[2], "x").await.unwrap(), Bytes::from(nodes[0].id().node.to_string()));
}

#[tokio::test(start_paused = true)]
async fn whoever_wants_all_to_see_a_name_can_wait_for_that_also_where_nobody_has_a_copy() {
    let world = World::new(106, Weather::default());
    let nodes = named_cluster(&world, 5).await;
    for (at, node) in nodes.iter().enumerate() {
        let holder = actor(node);
        for n in 0..10 {
            let text = format!("{at}/{n}");
            node.names().claim(holder.actor, &name(&text), Bytes::new(), WITHIN).await.unwrap();
            node.names().await_visible(&name(&text), WITHIN).await.unwrap();
            for other in &nodes {
                assert_eq!(other.names().lookup(&name(&text)).unwrap().holder, holder);
            }
        }
    }
    world.cut(&[nodes[0].id().node.clone()], &[nodes[1].id().node.clone()]);
    let holder = actor(&nodes[0]);
    nodes[0].names().claim(holder.actor, &name("x"), Bytes::new(), WITHIN).await.unwrap();
    let seen = nodes[0].names().await_visible(&name("x"), Duration::from_millis(300)).await;
    assert!(matches!(seen, Err(NameFailure::NotVisible)), "{seen:?}");
}

#[tokio::test(start_paused = true)]
async fn whoever_monitors_an_actor_hears_how_it_ended_and_never_mistakes_a_later_run_for_it() {
    let world = World::new(107, Weather::default());
    let nodes = named_cluster(&world, 3).await;
    let (ends, stays, unknown) = (actor(&nodes[1]), actor(&nodes[2]), actor(&nodes[1]));
    let watch = |node: &Runtime, holder: &Holder| {
        let (names, holder) = (node.names().clone(), holder.clone());
        tokio::spawn(async move { names.monitor(&holder).await })
    };
    let watched = [watch(&nodes[0], &ends), watch(&nodes[1], &ends), watch(&nodes[2], &ends)];
    let gone = [watch(&nodes[0], &stays), watch(&nodes[1], &stays)];
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert!(
        watched.iter().chain(&gone).all(|watched| !watched.is_finished()),
        "as long as it is there nothing is said"
    );
    let why = Reason::Crashed("told to".into());
    nodes[1].names().unhost(ends.actor, why.clone());
    for watched in watched {
        assert_eq!(watched.await.unwrap(), why);
    }
    world.crash(nodes[2].id());
    for gone in gone {
        assert_eq!(gone.await.unwrap(), Reason::NodeDown);
    }
    nodes[1].names().unhost(unknown.actor, Reason::Normal);
    until("it ended", || nodes[1].names().names_of(unknown.actor).is_empty()).await;
    assert!(matches!(nodes[0].names().monitor(&unknown).await, Reason::Crashed(_) | Reason::Normal));
    let former = Holder {
        node: tumen_core::NodeBoot { boot: tumen_core::ids::Boot(1), ..unknown.node.clone() },
        ..unknown
    };
    assert_eq!(nodes[0].names().monitor(&former).await, Reason::NodeDown);
}
