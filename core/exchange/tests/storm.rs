//! Whatever may happen, at random.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Do {
    Subscribe(usize, bool),
    Unsubscribe(usize),
    Join(usize, u64),
    Leave(usize, u64),
    Say(usize, bool),
    Step(usize, u8),
    Down(usize, usize),
    Up(usize, usize),
    Reboot(usize),
    Rested,
}

fn action() -> impl Strategy<Value = Do> {
    let node = 0..3_usize;
    prop_oneof![
        3 => (node.clone(), any::<bool>()).prop_map(|(node, first)| Do::Subscribe(node, first)),
        2 => (0..20_usize).prop_map(Do::Unsubscribe),
        1 => (node.clone(), 0..3_u64).prop_map(|(node, actor)| Do::Join(node, actor)),
        1 => (node.clone(), 0..3_u64).prop_map(|(node, actor)| Do::Leave(node, actor)),
        8 => (node.clone(), any::<bool>()).prop_map(|(node, first)| Do::Say(node, first)),
        8 => (0..9_usize, prop_oneof![8 => Just(0_u8), 1 => Just(1), 1 => Just(2)])
            .prop_map(|(which, fate)| Do::Step(which, fate)),
        1 => (node.clone(), node.clone()).prop_map(|(a, b)| Do::Down(a, b)),
        2 => (node.clone(), node.clone()).prop_map(|(a, b)| Do::Up(a, b)),
        1 => node.prop_map(Do::Reboot),
        2 => Just(Do::Rested),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whatever is lost, delayed or begins anew: each subscriber hears each publisher in order, nothing twice, and exactly how
    /// much it missed; and in the end all nodes know who listens and who is a member.
    #[test]
    fn all_agree_in_the_end_and_what_is_heard_is_in_order_and_counted(
        actions in proptest::collection::vec(action(), 1..120),
        narrow in any::<bool>(),
    ) {
        let config = if narrow {
            Config { wait_at: 60, full_at: 150, batch_len: 80, ..Config::default() }
        } else {
            Config::default()
        };
        let mut world = World::new(3, &config);
        let names = ["a", "b"];
        // Each is a subscriber of one life of its node.
        let mut subscribers: BTreeMap<u64, (usize, &str)> = BTreeMap::new();
        let mut members: BTreeSet<(usize, u64)> = BTreeSet::new();
        // What a node said last in this life; a life's numbers begin at its boot times a thousand.
        let mut last = BTreeMap::new();
        for action in actions {
            match action {
                Do::Subscribe(node, first) => {
                    let name = names[usize::from(first)];
                    let subscriber = world.subscribe(node, name);
                    subscribers.insert(subscriber, (node, name));
                }
                Do::Unsubscribe(nth) => {
                    if let Some((&subscriber, &(node, _))) = subscribers.iter().nth(nth) {
                        world.unsubscribe(node, subscriber);
                        subscribers.remove(&subscriber);
                    }
                }
                Do::Join(node, actor) => {
                    let (_, effects) = world.nodes[node].1.handle_join(&group("g"), actor);
                    world.run(node, effects);
                    members.insert((node, actor));
                }
                Do::Leave(node, actor) => {
                    let (_, effects) = world.nodes[node].1.handle_leave(&group("g"), actor);
                    world.run(node, effects);
                    members.remove(&(node, actor));
                }
                Do::Say(node, first) => {
                    let name = names[usize::from(first)];
                    let boot = world.nodes[node].0.boot.0;
                    let next = last.get(&(node, name)).map_or(boot * 1000, |last| last + 1_u64);
                    let next = next.max(boot * 1000);
                    last.insert((node, name), next);
                    world.say(node, name, false, next);
                }
                Do::Step(which, fate) => world.step(which, fate),
                Do::Down(a, b) if a != b => world.down(a, b),
                Do::Up(a, b) => world.up(a, b),
                Do::Down(..) => {}
                Do::Reboot(node) => {
                    world.reboot(node);
                    subscribers.retain(|_, (at, _)| *at != node);
                    members.retain(|(at, _)| *at != node);
                }
                Do::Rested => {
                    for (from, to) in std::mem::take(&mut world.resting) {
                        let (name, id) = (world.nodes[to].0.node.clone(), world.nodes[from].0.clone());
                        if let Some(batch) = world.nodes[from].1.handle_retry(NOW, &name) {
                            world.under_way.push((from, to, id, batch));
                        }
                    }
                }
            }
        }
        world.meet_all();
        world.settle();
        for (at, (_, law)) in world.nodes.iter().enumerate() {
            for name in names {
                let state = law.topics.get(&topic(name));
                for (other, (id, _)) in world.nodes.iter().enumerate().filter(|(other, _)| *other != at) {
                    let listen = subscribers.values().filter(|(node, of)| (*node, *of) == (other, name));
                    let known = state.and_then(|state| state.listening.get(&id.node));
                    prop_assert_eq!(known.map_or(0, |it| it.count as usize), listen.count());
                }
            }
            let expected: Vec<Holder> = members
                .iter()
                .map(|(node, actor)| Holder { node: world.nodes[*node].0.clone(), actor: *actor })
                .collect();
            prop_assert_eq!(law.members(&group("g")).cloned().collect::<Vec<_>>(), expected);
        }
        for ((node, subscriber), told) in &world.told {
            let mut heard: BTreeMap<&NodeName, u64> = BTreeMap::new();
            let mut gaps: BTreeMap<&NodeName, u64> = BTreeMap::new();
            for piece in told {
                match piece {
                    Told::Missed(by, count) => *gaps.entry(by).or_default() += count,
                    Told::Said(by, value) => {
                        let gap = gaps.remove(by).unwrap_or_default();
                        if let Some(before) = heard.insert(by, *value).filter(|it| it / 1000 == value / 1000) {
                            prop_assert_eq!(before + gap + 1, *value, "{} {} {:?}", node, subscriber, told);
                        }
                    }
                }
            }
        }
        // Whoever listens still, and heard a node's present life, knows exactly how far that one has come.
        for (subscriber, (node, name)) in &subscribers {
            for (publisher, (id, _)) in world.nodes.iter().enumerate() {
                let told = world.heard(*node, *subscriber);
                let of = |piece: &&Told| matches!(piece, Told::Said(by, _) | Told::Missed(by, _) if *by == id.node);
                let pieces: Vec<&Told> = told.iter().filter(of).collect();
                let at = pieces.iter().rposition(|it| matches!(it, Told::Said(..)));
                let Some(at) = at else { continue };
                let Told::Said(_, value) = pieces[at] else { continue };
                let missed: u64 = pieces[at..].iter().map(|it| if let Told::Missed(_, count) = it { *count } else { 0 }).sum();
                if value / 1000 == id.boot.0 {
                    prop_assert_eq!(Some(value + missed), last.get(&(publisher, *name)).copied(), "{:?}", told);
                }
            }
        }
    }
}
