//! Where availability goes first: both sides of a split go on, and become one again.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends there")]

mod nodes;

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use nodes::gatherer;
use nodes::sides::{are_one, become_one, cluster, names_of, show};
use nodes::teller::{named, spec};
use nodes::{all_ready, call_all, kinds, until};
use tumen_actors::names::conflicts::{Lost, Resolver};
use tumen_actors::node::Runtime;
use tumen_actors::partitions::delivery::Delivery;
use tumen_actors::partitions::router::CallOptions;
use tumen_actors::transport::simulated::{Weather, World};
use tumen_core::cluster::sides::Consistency;
use tumen_core::ids::{NodeName, PartitionId};
use tumen_core::names::conflict::{Conflict, Rule, Winner};
use tumen_core::names::directory::News;
use tumen_core::names::{Holder, Name, Reason};
use tumen_core::partitions::request::{MessageId, Reply};
use tumen_core::supervision::Restart;

/// Whether all answers come from these nodes.
async fn answered_by(node: &Runtime, by: &[NodeName]) {
    let answers = call_all(node).await;
    let nodes: BTreeSet<&str> = answers.iter().map(|told| told.split(' ').next().unwrap()).collect();
    assert!(nodes.iter().all(|name| by.iter().any(|it| it.as_str() == *name)), "{nodes:?} {by:?}");
}

#[expect(clippy::print_stderr, reason = "what is shown where a test fails")]
fn show_names(node: &Runtime, holder: &Holder) {
    let wants = node.names().names_of(holder.actor);
    eprintln!("{} wants {wants:?}, and knows", node.id());
    for (name, claim) in node.names().select(b"", 100) {
        eprintln!("  {name} {} {:?}", claim.number, claim.held);
    }
}

#[tokio::test(start_paused = true)]
async fn both_sides_of_a_split_serve_all_partitions_and_become_one_again() {
    for (seed, at, all) in [(1, 2, 4), (2, 3, 4), (3, 1, 4), (4, 2, 5), (5, 1, 2)] {
        let world = World::new(seed, Weather::default());
        let nodes = cluster(&world, all).await;
        let (some, others) = nodes.split_at(at);
        let sides = [names_of(some), names_of(others)];
        world.cut(&sides[0], &sides[1]);
        until("both sides are whole", || are_one(some) && are_one(others)).await;
        assert_ne!(some[0].plans().cluster(), others[0].plans().cluster());
        for (side, names) in [(some, &sides[0]), (others, &sides[1])] {
            for node in side {
                answered_by(node, names).await;
            }
        }
        world.heal_all();
        become_one(&nodes).await;
        for node in &nodes {
            answered_by(node, &names_of(&nodes)).await;
        }
        world.end();
    }
}

const WITHIN: Duration = Duration::from_secs(40);

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

async fn start_child(node: &Runtime, text: &str) -> Holder {
    let started = node.names().start(&name(text), spec("", Restart::Permanent), Bytes::new(), WITHIN).await;
    started.unwrap_or_else(|why| panic!("{text}: {why}")).holder
}

/// Who answers under a name: its node and number, and how often it was asked.
async fn ask(node: &Runtime, text: &str) -> (String, u64) {
    let told = node.names().call(&name(text), MessageId::of("tell"), Bytes::new(), WITHIN).await;
    let told = told.unwrap_or_else(|why| panic!("{text} from {}: {why}", node.id()));
    let told = String::from_utf8(told.to_vec()).unwrap();
    let (instance, count) = told.rsplit_once(' ').unwrap();
    (instance.to_owned(), count.parse().unwrap())
}

/// Whether this node knows of so many names that begin so, all of them held on these nodes.
fn holds(node: &Runtime, prefix: &str, count: usize, on: &[NodeName]) -> bool {
    let known = node.names().select(prefix.as_bytes(), 2 * count);
    let there = |holder: &Holder| on.contains(&holder.node.node);
    known.len() == count && known.iter().all(|(_, claim)| claim.holder().is_some_and(there))
}

#[tokio::test(start_paused = true)]
async fn split_in_halves_each_side_resolves_a_thousand_names_to_live_actors_and_healed_they_are_unique() {
    let world = World::new(11, Weather::default());
    let nodes = cluster(&world, 4).await;
    for n in 0..1_000 {
        start_child(&nodes[n % 4], &format!("n/{n}")).await;
    }
    let all = names_of(&nodes);
    until("all know all", || nodes.iter().all(|node| holds(node, "n/", 1_000, &all))).await;
    let before: Vec<(String, u64)> = {
        let mut before = Vec::new();
        for n in 0..1_000 {
            before.push(ask(&nodes[0], &format!("n/{n}")).await);
        }
        before
    };
    let (some, others) = nodes.split_at(2);
    let sides = [names_of(some), names_of(others)];
    world.cut(&sides[0], &sides[1]);
    until("both sides are whole", || are_one(some) && are_one(others)).await;
    for (side, names) in [(some, &sides[0]), (others, &sides[1])] {
        for node in side {
            until("each resolves all to its own side", || holds(node, "n/", 1_000, names)).await;
        }
        let mut gone_on = 0;
        for (n, (instance, count)) in before.iter().enumerate() {
            let now = ask(&side[n % 2], &format!("n/{n}")).await;
            let ran_here = names.iter().any(|name| instance.starts_with(&format!("{name} ")));
            if ran_here {
                assert_eq!((&now.0, now.1), (instance, count + 1), "what ran on this side runs on");
                gone_on += 1;
            }
        }
        assert!(gone_on > 100, "{gone_on}");
    }
    let mut news: Vec<_> = nodes.iter().map(|node| node.names().news()).collect();
    world.heal_all();
    become_one(&nodes).await;
    until("all agree", || {
        let first = nodes[0].names().select(b"n/", 2_000);
        let holder = |known: &[(Name, tumen_core::names::Claim)]| -> Vec<_> {
            known.iter().map(|(name, claim)| (name.clone(), claim.holder().cloned())).collect()
        };
        holds(&nodes[0], "n/", 1_000, &all)
            && nodes.iter().all(|node| holder(&node.names().select(b"n/", 2_000)) == holder(&first))
    })
    .await;
    // Of each name the instance that ran for longest is the one that remains: the one from before the split.
    for (n, (instance, count)) in before.iter().enumerate() {
        let now = ask(&nodes[n % 4], &format!("n/{n}")).await;
        assert_eq!((&now.0, now.1), (instance, count + 2), "n/{n}");
    }
    let mut told = BTreeSet::new();
    for heard in &mut news {
        while let Ok(piece) = heard.try_recv() {
            if let News::Unregistered { name, reason: Reason::Conflict(Some(_)), .. } = &*piece {
                told.insert(name.clone());
            }
        }
    }
    assert_eq!(told.len(), 1_000, "the loser of each name was told");
    world.end();
}

fn host(node: &Runtime) -> Holder {
    let me = node.id().node.to_string();
    node.names().host(move |delivery: Delivery| delivery.answer(Ok(Bytes::from(format!("{me} 0 0")))))
}

async fn claim(node: &Runtime, holder: &Holder, text: &str, value: &str) {
    let value = Bytes::copy_from_slice(value.as_bytes());
    node.names().claim(holder.actor, &name(text), value, WITHIN).await.unwrap();
}

/// A cluster of four, split in halves, each of which serves.
async fn halves(world: &World, resolver: impl Fn() -> Resolver) -> Vec<Runtime> {
    nodes::show_logs();
    let mut nodes = Vec::new();
    for n in 1..=4 {
        let (seeds, min_nodes) = if n == 1 { (&[][..], 4) } else { (&[1][..], 1) };
        let mut settings = named(world, n, seeds, min_nodes);
        (settings.consistency, settings.resolver) = (Consistency::Available, resolver());
        nodes.push(Runtime::start(settings, kinds()).await.unwrap());
    }
    all_ready(&nodes).await;
    world.cut(&names_of(&nodes[..2]), &names_of(&nodes[2..]));
    until("both sides are whole", || are_one(&nodes[..2]) && are_one(&nodes[2..])).await;
    nodes
}

/// Who holds a name, once all nodes agree on it.
async fn agreed(nodes: &[Runtime], text: &str) -> Option<Holder> {
    let holder = |node: &Runtime| node.names().lookup(&name(text)).map(|found| found.holder);
    until("they agree", || nodes.iter().all(|node| holder(node) == holder(&nodes[0]))).await;
    holder(&nodes[0])
}

#[tokio::test(start_paused = true)]
async fn of_two_that_hold_a_name_the_rule_says_who_keeps_it_and_the_other_is_told_and_goes_on() {
    for (rule, elder_keeps) in [(Rule::Oldest, true), (Rule::Newest, false)] {
        for elder_on in [0, 2] {
            let world = World::new(20 + elder_on as u64, Weather::default());
            let nodes = halves(&world, || rule.into()).await;
            let (elder, younger) = (&nodes[elder_on], &nodes[2 - elder_on]);
            let holders = [host(elder), host(younger)];
            claim(elder, &holders[0], "both", "elder").await;
            tokio::time::sleep(Duration::from_secs(1)).await;
            claim(younger, &holders[1], "both", "younger").await;
            claim(elder, &holders[0], "mine", "").await;
            claim(younger, &holders[1], "own", "").await;
            elder.names().put_meta(&name("key"), Bytes::from_static(b"of elder"), WITHIN).await.unwrap();
            younger
                .names()
                .put_meta(&name("other"), Bytes::from_static(b"of younger"), WITHIN)
                .await
                .unwrap();
            let mut losses = [
                elder.names().losses_of(holders[0].actor).unwrap(),
                younger.names().losses_of(holders[1].actor).unwrap(),
            ];
            world.heal_all();
            become_one(&nodes).await;
            let (keeps, loses) = if elder_keeps { (0, 1) } else { (1, 0) };
            let lost = losses[loses].recv().await.unwrap();
            assert_eq!(lost, Lost { name: name("both"), to: Some(holders[keeps].clone()) });
            assert_eq!(agreed(&nodes, "both").await, Some(holders[keeps].clone()));
            assert!(losses[keeps].try_recv().is_err(), "whoever keeps it loses nothing");
            for (text, at) in [("mine", 0), ("own", 1)] {
                until("what only one of them holds stays its own", || {
                    nodes.iter().all(|node| {
                        node.names().lookup(&name(text)).is_some_and(|it| it.holder == holders[at])
                    })
                })
                .await;
            }
            until("all that was told is told everywhere", || {
                let told = |node: &Runtime, key: &str| node.names().meta(&name(key)).map(|meta| meta.value);
                let all = |key: &str, value: &'static str| {
                    nodes.iter().all(|node| told(node, key) == Some(Bytes::from_static(value.as_bytes())))
                };
                all("key", "of elder") && all("other", "of younger")
            })
            .await;
            // If the loser stops, the rest of what it holds is free.
            let loser = [elder, younger][loses];
            loser.names().unhost(holders[loses].actor, Reason::Normal);
            let rest = ["mine", "own"][loses];
            until("it is free", || nodes.iter().all(|node| node.names().lookup(&name(rest)).is_none())).await;
            world.end();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_users_resolver_decides_by_what_both_say_and_one_that_panics_frees_the_name_and_kills_nobody() {
    let world = World::new(30, Weather::default());
    let decide = |conflict: &Conflict| {
        assert_ne!(conflict.here.node, conflict.comes.node);
        assert!(!conflict.name.as_bytes().starts_with(b"panic"), "told to");
        if conflict.comes.value > conflict.here.value { Winner::Comes } else { Winner::Here }
    };
    let nodes = halves(&world, || Resolver::new(decide)).await;
    let holders = [host(&nodes[1]), host(&nodes[3])];
    for (text, values) in [("a", ["1", "2"]), ("b", ["2", "1"]), ("panic", ["1", "2"])] {
        claim(&nodes[1], &holders[0], text, values[0]).await;
        claim(&nodes[3], &holders[1], text, values[1]).await;
    }
    let children = [start_child(&nodes[1], "panics").await, start_child(&nodes[3], "panics").await];
    world.heal_all();
    become_one(&nodes).await;
    until("all is settled", || nodes[1].names().names_of(holders[0].actor) == [name("b")]).await;
    until("all is settled", || nodes[3].names().names_of(holders[1].actor) == [name("a")]).await;
    assert_eq!(agreed(&nodes, "a").await, Some(holders[1].clone()));
    assert_eq!(agreed(&nodes, "b").await, Some(holders[0].clone()));
    assert_eq!(agreed(&nodes, "panic").await, None, "the name is free");
    // Both live on, and either may claim it.
    claim(&nodes[3], &holders[1], "panic", "again").await;
    assert_eq!(ask(&nodes[0], "panic").await.0, "node-4 0");
    assert_eq!(ask(&nodes[0], "b").await.0, "node-2 0");
    // A child has no life without its name.
    let remains = agreed(&nodes, "panics").await;
    assert!(children.iter().any(|child| Some(child) == remains.as_ref()), "{remains:?} {children:?}");
    world.end();
}

/// Splits of all kinds at any moment: in the end there is one cluster, each child runs once, each actor holds its name or was told
/// that it does not.
#[tokio::test(start_paused = true)]
async fn however_often_it_splits_in_the_end_each_name_has_one_holder_whom_all_see() {
    let runs = if std::env::var_os("TUMEN_TROUBLES").is_some() { 40 } else { 3 };
    let only: Option<u64> = std::env::var("TUMEN_SEED").ok().and_then(|seed| seed.parse().ok());
    for seed in only.map_or(0..runs, |seed| seed..seed + 1) {
        let world = World::new(9_000 + seed, Weather::default());
        let count = 3 + seed as usize % 4;
        let nodes = cluster(&world, count).await;
        let holders: Vec<Holder> = nodes.iter().map(host).collect();
        for round in 0..4_u64 {
            let cut = 1 + (seed + round) as usize % (count - 1);
            let all = names_of(&nodes);
            // Each round another part is cut off, not always the last ones.
            let turned: Vec<NodeName> =
                (0..count).map(|at| all[(at + (seed + 3 * round) as usize) % count].clone()).collect();
            world.cut(&turned[..cut], &turned[cut..]);
            tokio::time::sleep(Duration::from_millis(700 + (seed * 977 + round * 1_913) % 9_000)).await;
            for (at, node) in nodes.iter().enumerate() {
                let text = format!("x/{}", (at as u64 + round) % 3);
                let within = Duration::from_millis(300);
                // It may be held, or nobody may be there to give it.
                drop(node.names().claim(holders[at].actor, &name(&text), Bytes::new(), within).await);
                let child = format!("c/{}", (at as u64 + seed) % 5);
                let spec = spec("", Restart::Permanent);
                drop(node.names().start(&name(&child), spec, Bytes::new(), within).await);
            }
            world.heal_all();
            tokio::time::sleep(Duration::from_millis((seed * 331 + round * 677) % 5_000)).await;
        }
        world.heal_all();
        become_one(&nodes).await;
        let mut looks = 0;
        until(&format!("seed {seed}: all see the same, and who holds what wants it"), || {
            looks += 1;
            if looks == 11_000 {
                for (at, node) in nodes.iter().enumerate() {
                    show(node);
                    show_names(node, &holders[at]);
                }
            }
            let known = |node: &Runtime| -> Vec<_> {
                let known = node.names().select(b"", 100).into_iter();
                known.map(|(name, claim)| (name, claim.holder().cloned())).collect()
            };
            let first = known(&nodes[0]);
            let wants = |(at, node): (usize, &Runtime)| {
                let mine = first.iter().filter(|(_, holder)| holder.as_ref() == Some(&holders[at]));
                mine.map(|(name, _)| name.clone()).eq(node.names().names_of(holders[at].actor))
            };
            let runs = |(_, holder): &(Name, Option<Holder>)| holder.is_some();
            nodes.iter().all(|node| known(node) == first)
                && nodes.iter().enumerate().all(wants)
                && first.iter().all(runs)
        })
        .await;
        for (child, _) in nodes[0].names().children(b"c/", 10) {
            let text = std::str::from_utf8(child.as_bytes()).unwrap();
            let mut counts = Vec::new();
            for node in &nodes {
                counts.push(ask(node, text).await);
            }
            assert!(counts.windows(2).all(|two| two[0].0 == two[1].0), "seed {seed}: {text} {counts:?}");
        }
        until(&format!("seed {seed}: nothing else runs"), || {
            let running: usize = nodes.iter().map(|node| node.names().figures().children).sum();
            running == nodes[0].names().children(b"", 100).len()
        })
        .await;
        // What goes on in a world that has ended takes time from the next one.
        futures_util::future::join_all(nodes.iter().map(Runtime::stop)).await;
        world.end();
    }
}

async fn tell_all(node: &Runtime, text: &str) {
    for index in 0..8 {
        let reply = gather_at(node, index, gatherer::gather(), text).await;
        reply.unwrap_or_else(|why| panic!("{text} at {}: {why}", node.id()));
    }
}

async fn gather_at(node: &Runtime, index: u32, message: MessageId, text: &str) -> Reply {
    let options = CallOptions { within: WITHIN, ..CallOptions::default() };
    let body = Bytes::copy_from_slice(text.as_bytes());
    node.router().call_partition(PartitionId::user(index), message, body, options).await
}

async fn gathered(node: &Runtime) -> Vec<gatherer::Set> {
    let mut all = Vec::new();
    for index in 0..8 {
        all.push(gatherer::set(gather_at(node, index, gatherer::all(), "").await).unwrap());
    }
    all
}

fn set_of(texts: &[&str]) -> gatherer::Set {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

#[tokio::test(start_paused = true)]
async fn what_workers_that_merge_were_told_on_either_side_is_there_in_the_end() {
    for at in [2, 3] {
        let world = World::new(40 + at as u64, Weather::default());
        nodes::show_logs();
        let mut nodes = Vec::new();
        for n in 1..=4 {
            let (seeds, min_nodes) = if n == 1 { (&[][..], 4) } else { (&[1][..], 1) };
            let mut settings = named(&world, n, seeds, min_nodes);
            settings.consistency = Consistency::Available;
            let users = &mut settings.groups[0].1;
            (users.replication, users.replicated, users.partitions) = (3, true, 8);
            nodes.push(Runtime::start(settings, gatherer::kinds()).await.unwrap());
        }
        all_ready(&nodes).await;
        tell_all(&nodes[0], "before").await;
        // By then all copies have it: the mode is `async`.
        tokio::time::sleep(Duration::from_secs(3)).await;
        let (some, others) = nodes.split_at(at);
        world.cut(&names_of(some), &names_of(others));
        until("both sides are whole", || are_one(some) && are_one(others)).await;
        tell_all(&some[0], "some").await;
        tell_all(&others[0], "others").await;
        for (side, told) in [(some, "some"), (others, "others")] {
            let mut last = Vec::new();
            for _ in 0..200 {
                last = gathered(&side[0]).await;
                if last.iter().all(|set| *set == set_of(&["before", told])) {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            let has = |set: &gatherer::Set| set.contains(told);
            assert!(last.iter().all(has), "{last:?}");
            // Where a side has no copy, what was told before is there once they are one again.
            let most = last.iter().filter(|set| set.contains("before")).count();
            assert!(side.len() < 2 || most == 8, "{last:?}");
        }
        world.heal_all();
        become_one(&nodes).await;
        let union = set_of(&["before", "some", "others"]);
        let mut last = Vec::new();
        for _ in 0..400 {
            last = gathered(&nodes[3]).await;
            if last.iter().all(|set| *set == union) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert!(last.iter().all(|set| *set == union), "{last:?}");
        world.end();
    }
}
