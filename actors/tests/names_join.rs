//! Two clusters of one name that meet, each of one node: names, children and singletons of the one that yields are claimed anew
//! in the other. What stands there already stays, and whoever lost something to it is told why.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends there")]

mod nodes;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use nodes::teller::{spec, start_named};
use nodes::{all_ready, until};
use tokio::sync::broadcast::Receiver;
use tumen_actors::names::NameFailure;
use tumen_actors::node::{Event, Runtime};
use tumen_actors::partitions::delivery::Delivery;
use tumen_actors::transport::simulated::{Weather, World};
use tumen_core::names::directory::{News, Refused};
use tumen_core::names::{Holder, Name, Reason};
use tumen_core::partitions::request::{Failure, MessageId};
use tumen_core::supervision::Restart;

const WITHIN: Duration = Duration::from_secs(40);

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

/// Two nodes, each with a cluster of its own, of which the first one's is the elder.
async fn two_founders(world: &World) -> Vec<Runtime> {
    nodes::show_logs();
    let mut nodes = vec![start_named(world, 1, &[], 1).await];
    all_ready(&nodes).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    nodes.push(start_named(world, 2, &[], 1).await);
    all_ready(&nodes).await;
    assert_ne!(nodes[0].plans().cluster(), nodes[1].plans().cluster());
    nodes
}

/// The second is told of the first.
fn meet(nodes: &[Runtime]) {
    nodes[1].node_up("127.0.0.1:7001");
}

fn are_one(nodes: &[Runtime]) -> bool {
    let of = |node: &Runtime| node.plans().newest().map(|plan| (plan.cluster, plan.version));
    of(&nodes[0]) == of(&nodes[1])
        && nodes[0].plans().newest().is_some_and(|plan| plan.members.len() == 2)
        && nodes.iter().all(|node| node.ready().is_ok())
}

async fn become_one(nodes: &[Runtime]) {
    until("both are one cluster", || are_one(nodes)).await;
}

fn host(node: &Runtime) -> Holder {
    let me = node.id().node.to_string();
    node.names().host(move |delivery: Delivery| delivery.answer(Ok(Bytes::from(me.clone()))))
}

async fn claim(node: &Runtime, holder: &Holder, text: &str) -> Result<(), NameFailure> {
    let value = Bytes::from(format!("of {}", node.id().node));
    node.names().claim(holder.actor, &name(text), value, WITHIN).await.map(drop)
}

/// Who answers under a name, as asked from this node.
async fn ask(node: &Runtime, text: &str) -> Result<String, NameFailure> {
    let told = node.names().call(&name(text), MessageId::of("tell"), Bytes::new(), WITHIN).await?;
    Ok(String::from_utf8(told.to_vec()).unwrap())
}

/// The instance: its node and its fence.
async fn instance(node: &Runtime, text: &str) -> String {
    let told = ask(node, text).await.unwrap();
    told.rsplit_once(' ').unwrap().0.to_owned()
}

/// What was heard of a name so far: its end, with whether it goes on, or whoever it was registered to.
fn heard(news: &mut Receiver<Arc<News>>, text: &str) -> Vec<Result<Holder, (Reason, bool)>> {
    let mut heard = Vec::new();
    while let Ok(piece) = news.try_recv() {
        match &*piece {
            News::Registered { name: of, holder, .. } if *of == name(text) => heard.push(Ok(holder.clone())),
            News::Unregistered { name: of, reason, goes_on, .. } if *of == name(text) => {
                heard.push(Err((reason.clone(), *goes_on)));
            }
            _ => {}
        }
    }
    heard
}

#[tokio::test(start_paused = true)]
async fn two_clusters_that_run_the_same_singleton_join_split_and_heal_and_one_remains_seen_from_both() {
    for seed in 0..3 {
        let world = World::new(700 + seed, Weather::default());
        let nodes = two_founders(&world).await;
        let start = |node: &Runtime| {
            let names = node.names().clone();
            async move { names.start(&name("one"), spec("", Restart::Permanent), Bytes::new(), WITHIN).await }
        };
        let (stays, goes) = (start(&nodes[0]).await.unwrap(), start(&nodes[1]).await.unwrap());
        assert_eq!((&stays.holder.node, &goes.holder.node), (nodes[0].id(), nodes[1].id()));
        let mut news = nodes[1].names().news();
        let (names, loser) = (nodes[1].names().clone(), goes.holder.clone());
        let watch = tokio::spawn(async move { names.monitor(&loser).await });
        meet(&nodes);
        become_one(&nodes).await;
        until("both see the same", || {
            nodes.iter().all(|node| node.names().lookup(&name("one")).as_ref() == Some(&stays))
        })
        .await;
        assert_eq!(watch.await.unwrap(), Reason::Dropped, "who watched it was told why it ended");
        let told = heard(&mut news, "one");
        assert_eq!(told, [Err((Reason::Dropped, true)), Ok(stays.holder.clone())], "seed {seed}");
        // Whoever asks for it again is given the one that is.
        let again = start(&nodes[1]).await.unwrap();
        assert_eq!((again.number, again.holder), (stays.number, stays.holder));
        let each = [instance(&nodes[0], "one").await, instance(&nodes[1], "one").await];
        assert_eq!(each[0], each[1]);

        let of = |at: usize| vec![nodes[at].id().node.clone()];
        world.cut(&of(0), &of(1));
        tokio::time::sleep(Duration::from_secs(20)).await;
        world.heal_all();
        become_one(&nodes).await;
        until("both know the same one", || {
            let known: Vec<_> = nodes.iter().map(|node| node.names().lookup(&name("one"))).collect();
            known[0].is_some() && known[0] == known[1]
        })
        .await;
        let each = [instance(&nodes[0], "one").await, instance(&nodes[1], "one").await];
        assert_eq!(each[0], each[1], "seed {seed}");
        assert!(nodes.iter().all(|node| node.names().select(b"", 10).len() == 1));
        world.end();
    }
}

#[tokio::test(start_paused = true)]
async fn names_are_claimed_anew_where_they_are_free_and_lost_with_the_holder_where_they_are_not() {
    let world = World::new(710, Weather::default());
    let nodes = two_founders(&world).await;
    let holders = [host(&nodes[0]), host(&nodes[1])];
    for (at, own) in [(0, "first"), (1, "second")] {
        claim(&nodes[at], &holders[at], own).await.unwrap();
        claim(&nodes[at], &holders[at], "both").await.unwrap();
    }
    for n in 0..300 {
        claim(&nodes[1], &holders[1], &format!("many/{n}")).await.unwrap();
    }
    let (mut there, mut here) = (nodes[0].names().news(), nodes[1].names().news());
    let mut of_second = nodes[1].names().news();
    meet(&nodes);
    become_one(&nodes).await;
    until("all of them are settled", || nodes[1].names().names_of(holders[1].actor).len() == 301).await;
    for node in &nodes {
        let holds = |text: &str, at: usize| {
            let found = node.names().lookup(&name(text));
            found.is_some_and(|it| it.holder == holders[at] && it.value == format!("of node-{}", at + 1))
        };
        until("all is seen", || {
            node.names().table().count(b"many/", |_, _| true) == 300
                && holds("first", 0)
                && holds("second", 1)
                && holds("both", 0)
        })
        .await;
        for (text, by) in
            [("first", "node-1"), ("second", "node-2"), ("both", "node-1"), ("many/7", "node-2")]
        {
            assert_eq!(ask(node, text).await.unwrap(), by, "{text}");
        }
    }
    let mut kept = vec![name("second")];
    kept.extend((0..300).map(|n| name(&format!("many/{n}"))));
    kept.sort();
    assert_eq!(nodes[1].names().names_of(holders[1].actor), kept, "what it lost it does not want any more");
    let lost = heard(&mut here, "both");
    // The directory of the other cluster tells of its holder at some time between.
    let ends: Vec<_> = lost.iter().filter_map(|one| one.clone().err()).collect();
    let conflict = Reason::Conflict(Some(holders[0].clone()));
    assert_eq!(ends, [(Reason::Dropped, true), (conflict, false)]);
    let kept = heard(&mut of_second, "second");
    assert_eq!(kept, [Err((Reason::Dropped, true)), Ok(holders[1].clone())]);
    assert_eq!(heard(&mut there, "second"), [Ok(holders[1].clone())], "it is heard of there too");
    // It is as any other: given back it is free, and so is what an actor held that ended.
    nodes[1].names().release(holders[1].actor, &name("second"), WITHIN).await.unwrap();
    claim(&nodes[0], &holders[0], "second").await.unwrap();
    nodes[1].names().unhost(holders[1].actor, Reason::Normal);
    until("they are free", || nodes.iter().all(|it| it.names().table().count(b"many/", |_, _| true) == 0))
        .await;
}

#[tokio::test(start_paused = true)]
async fn children_run_in_the_cluster_that_is_joined_but_for_temporary_ones() {
    let world = World::new(720, Weather::default());
    let nodes = two_founders(&world).await;
    let start = |text: &'static str, args: &'static str, restart| {
        let names = nodes[1].names().clone();
        async move { names.start(&name(text), spec(args, restart), Bytes::new(), WITHIN).await.unwrap() }
    };
    for n in 0..20 {
        start(["a", "b", "c", "d"][n % 4], "", Restart::Permanent).await;
    }
    let passing = start("passing", "", Restart::Temporary).await;
    let of_another = start("mixed", "this", Restart::Permanent).await;
    let there =
        nodes[0].names().start(&name("mixed"), spec("that", Restart::Permanent), Bytes::new(), WITHIN).await;
    let there = there.unwrap();
    let (mut news, mut mixed) = (nodes[1].names().news(), nodes[1].names().news());
    meet(&nodes);
    become_one(&nodes).await;
    for text in ["a", "b", "c", "d"] {
        let each = [instance(&nodes[0], text).await, instance(&nodes[1], text).await];
        assert_eq!(each[0], each[1]);
    }
    assert_eq!(nodes[1].names().monitor(&passing.holder).await, Reason::Dropped);
    assert_eq!(heard(&mut news, "passing"), [Err((Reason::Dropped, false))]);
    assert_eq!(nodes[1].names().monitor(&of_another.holder).await, Reason::Dropped);
    let told = || heard(&mut mixed, "mixed");
    let ends: Vec<_> = {
        let mut told = told;
        let mut ends = Vec::new();
        until("it is told who has it", || {
            ends.extend(told().into_iter().filter_map(Result::err));
            ends.len() == 2
        })
        .await;
        ends
    };
    let conflict = Reason::Conflict(Some(there.holder.clone()));
    assert_eq!(ends, [(Reason::Dropped, true), (conflict, false)], "another child has the name");
    until("nothing else is there", || nodes.iter().all(|node| node.names().select(b"", 20).len() == 5)).await;
    assert_eq!(nodes[1].names().lookup(&name("mixed")), Some(there));
}

/// Calls, starts and claims that are under way when the clusters meet come to their end in the one that remains.
#[tokio::test(start_paused = true)]
async fn what_is_under_way_as_they_meet_comes_to_its_end_in_the_cluster_that_remains() {
    for seed in 0..8 {
        let world = World::new(730 + seed, Weather::default());
        let nodes = two_founders(&world).await;
        let joins = &nodes[1];
        let one = spec("", Restart::Permanent);
        joins.names().start(&name("one"), one, Bytes::new(), WITHIN).await.unwrap();
        let holder = host(joins);
        let meets = async {
            tokio::time::sleep(Duration::from_millis(3 * seed)).await;
            meet(&nodes);
        };
        // It takes five seconds, in which the clusters meet.
        let of_slow = (name("slow"), spec("slow", Restart::Permanent));
        let slow = joins.names().start(&of_slow.0, of_slow.1.clone(), Bytes::new(), WITHIN);
        let claims = async {
            for n in 0..200 {
                claim(joins, &holder, &format!("n/{n}")).await.unwrap_or_else(|why| panic!("{n}: {why}"));
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let calls = async {
            for n in 0..200 {
                let told = ask(joins, "one").await;
                // Of one that its instance was in the middle of nobody knows.
                let unknown = Failure::Timeout { maybe_applied: true };
                let fine = told.is_ok() || told == Err(NameFailure::Call(unknown));
                assert!(fine, "seed {seed}, {n}: {told:?}");
                tokio::time::sleep(Duration::from_millis(7)).await;
            }
        };
        let (found, (), (), ()) = tokio::join!(slow, claims, calls, meets);
        let found = found.unwrap_or_else(|why| panic!("seed {seed}: {why}"));
        become_one(&nodes).await;
        until("both know it", || {
            nodes.iter().all(|node| node.names().lookup(&name("slow")).as_ref() == Some(&found))
        })
        .await;
        for node in &nodes {
            until("all claims stand", || {
                let of_it = node.names().select(b"n/", 300);
                of_it.len() == 200 && of_it.iter().all(|(_, claim)| claim.holder() == Some(&holder))
            })
            .await;
        }
        assert_eq!(instance(&nodes[0], "one").await, instance(&nodes[1], "one").await);
        world.end();
    }
}

#[tokio::test(start_paused = true)]
async fn who_told_the_cluster_something_relies_on_it_and_who_holds_names_does_not() {
    let world = World::new(740, Weather::default());
    let nodes = two_founders(&world).await;
    // The elder has names only, the younger one has metadata: so the elder yields.
    let holder = host(&nodes[0]);
    claim(&nodes[0], &holder, "mine").await.unwrap();
    nodes[1].names().put_meta(&name("key"), Bytes::from_static(b"told"), WITHIN).await.unwrap();
    let stays = nodes[1].plans().cluster();
    meet(&nodes);
    become_one(&nodes).await;
    assert_eq!(nodes[0].plans().cluster(), stays);
    until("all is there", || {
        nodes.iter().all(|node| {
            node.names().meta(&name("key")).is_some_and(|meta| meta.value == "told")
                && node.names().lookup(&name("mine")).is_some_and(|found| found.holder == holder)
        })
    })
    .await;
    // A third that somebody relies on refuses, and is refused.
    let third = start_named(&world, 3, &[], 1).await;
    until("it is ready", || third.ready().is_ok()).await;
    third.names().put_meta(&name("key"), Bytes::from_static(b"otherwise"), WITHIN).await.unwrap();
    let own = third.plans().cluster();
    let mut events = third.events();
    third.node_up("127.0.0.1:7001");
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!((third.plans().cluster(), nodes[0].plans().cluster()), (own, stays));
    assert_eq!(third.names().meta(&name("key")).unwrap().value, "otherwise");
    let refused = std::iter::from_fn(|| events.try_recv().ok());
    assert!(refused.into_iter().any(|event| matches!(event, Event::Refused { .. })), "both say so");
    // It was alone, and is told of: who was not cannot tell what others were answered.
    let claimed = claim(&third, &host(&third), "mine").await;
    claimed.unwrap();
}

/// A cluster that had another member is not dropped by whoever is left of it, whatever that one itself was asked.
#[tokio::test(start_paused = true)]
async fn who_was_not_alone_does_not_drop_its_cluster() {
    let world = World::new(750, Weather::default());
    let nodes = two_founders(&world).await;
    let other = start_named(&world, 4, &[2], 1).await;
    until("it joined", || other.ready().is_ok() && other.plans().cluster() == nodes[1].plans().cluster())
        .await;
    other.names().put_meta(&name("key"), Bytes::from_static(b"told"), WITHIN).await.unwrap();
    other.stop().await;
    until("it is alone again", || nodes[1].plans().newest().is_some_and(|plan| plan.members.len() == 1))
        .await;
    let stays = nodes[1].plans().cluster();
    meet(&nodes);
    become_one(&nodes).await;
    assert_eq!(nodes[0].plans().cluster(), stays, "the elder yields, which nobody relied on");
    until("what was told is there", || {
        nodes.iter().all(|node| node.names().meta(&name("key")).is_some_and(|meta| meta.value == "told"))
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn who_drops_its_cluster_for_one_that_is_gone_then_founds_another_and_keeps_its_names() {
    let world = World::new(760, Weather::default());
    let nodes = two_founders(&world).await;
    let (left, holder) = (nodes[1].plans().cluster(), host(&nodes[1]));
    claim(&nodes[1], &holder, "mine").await.unwrap();
    let one = spec("", Restart::Permanent);
    nodes[1].names().start(&name("one"), one, Bytes::new(), WITHIN).await.unwrap();
    meet(&nodes);
    while nodes[1].plans().cluster() == left {
        tokio::time::sleep(Duration::from_micros(100)).await;
    }
    world.crash(nodes[0].id());
    until("it has a cluster again", || nodes[1].ready().is_ok()).await;
    assert_ne!(nodes[1].plans().cluster(), left);
    until("it holds what it held", || {
        nodes[1].names().lookup(&name("mine")).is_some_and(|found| found.holder == holder)
    })
    .await;
    assert!(instance(&nodes[1], "one").await.starts_with("node-2"));
}

/// Clusters that meet at any moment of what is done on both sides, in any weather: in the end each name has one holder, whom both
/// see; and whoever was told that it holds a name holds it, or was told that it lost it.
#[tokio::test(start_paused = true)]
async fn whenever_they_meet_each_name_has_one_holder_in_the_end() {
    let runs = if std::env::var_os("TUMEN_TROUBLES").is_some() { 60 } else { 8 };
    for seed in 0..runs {
        let world = World::new(7000 + seed, Weather::default());
        let nodes = two_founders(&world).await;
        let holders = [host(&nodes[0]), host(&nodes[1])];
        let mut news = [nodes[0].names().news(), nodes[1].names().news()];
        let work = |at: usize| {
            let (node, holder) = (&nodes[at], &holders[at]);
            async move {
                let mut held = Vec::new();
                for n in 0..60 {
                    let text = format!("x/{}", n % 20);
                    if n % 7 == 3 {
                        node.names().release(holder.actor, &name(&text), WITHIN).await.unwrap();
                        held.retain(|known| *known != text);
                    } else {
                        match claim(node, holder, &text).await {
                            Ok(()) => held.push(text),
                            Err(NameFailure::Refused(Refused::AlreadyRegistered { .. })) => {}
                            Err(why) => panic!("seed {seed}: {text} on {}: {why}", node.id()),
                        }
                    }
                    let pause = 1 + (seed * 13 + n * 7) % 17;
                    tokio::time::sleep(Duration::from_millis(pause)).await;
                }
                held
            }
        };
        let meets = async {
            tokio::time::sleep(Duration::from_millis(seed * 29 % 500)).await;
            meet(&nodes);
        };
        let (first, second, ()) = tokio::join!(work(0), work(1), meets);
        become_one(&nodes).await;
        until("both see the same", || {
            let known: Vec<_> = nodes.iter().map(|node| node.names().select(b"x/", 50)).collect();
            let wanted = (0..2).all(|at| {
                let wants = nodes[at].names().names_of(holders[at].actor);
                let has = known[at].iter().filter(|(_, claim)| claim.holder() == Some(&holders[at]));
                has.map(|(name, _)| name.clone()).eq(wants)
            });
            known[0] == known[1] && wanted
        })
        .await;
        let mut lost = BTreeMap::new();
        for heard in &mut news {
            while let Ok(piece) = heard.try_recv() {
                if let News::Unregistered {
                    name, holder: Some(holder), reason: Reason::Conflict(_), ..
                } = &*piece
                {
                    lost.insert((name.clone(), holder.clone()), ());
                }
            }
        }
        for (at, held) in [(0, first), (1, second)] {
            for text in held {
                let holds = nodes[at].names().lookup(&name(&text)).is_some_and(|it| it.holder == holders[at]);
                let told = lost.contains_key(&(name(&text), holders[at].clone()));
                assert!(holds || told, "seed {seed}: {text} of {}", holders[at]);
            }
        }
        world.end();
    }
}
