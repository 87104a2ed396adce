use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;

use super::world::{CUT_NOTICED, World, info, name};
use super::*;

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// A world of `count` nodes that were told of one seed, converged and settled.
fn settled(seed: u64, count: usize) -> World {
    let mut world = World::new(seed);
    (0..count).for_each(|at| world.start(at, 1, &[0]));
    world.run_until(ms(5000), World::converged).expect("converges");
    world.run_for(ms(3000));
    assert!(world.alarms.is_empty(), "{:?}", world.alarms);
    world
}

fn state(world: &World, of: usize, at: usize) -> (State, Source) {
    let seen = world.view(at).node(&name(of)).expect("known");
    (seen.state, seen.source)
}

#[test]
fn few_and_many_converge_from_one_seed() {
    for count in [1, 2, 3, 5, 50] {
        for seed in 0..3 {
            let mut world = World::new(seed);
            (0..count).for_each(|at| world.start(at, 1, &[0]));
            let took = world.run_until(ms(5000), World::converged);
            assert!(took.is_some_and(|took| took < ms(200)), "{count} nodes, seed {seed}: {took:?}");
        }
    }
}

#[test]
fn a_cold_start_of_three_hundred_takes_less_than_half_a_second() {
    let mut world = World::new(7);
    (0..300).for_each(|at| world.start(at, 1, &[0]));
    let took = world.run_until(ms(5000), World::converged);
    assert!(took.is_some_and(|took| took < ms(500)), "{took:?}");
    world.run_for(ms(20));
    assert_eq!(world.sessions(), 300 * 299 / 2, "a full mesh");
    assert!(world.alarms.is_empty(), "{:?}", world.alarms);
    assert!(world.packets < 150_000, "{} packets", world.packets);
}

#[test]
fn a_node_started_before_its_seed_is_alone_and_joins_later() {
    let mut world = World::new(1);
    world.start(1, 1, &[0]);
    world.run_for(ms(10_000));
    assert_eq!(world.view(1).live_nodes(), [name(1)], "an unreachable peer is not added");
    world.start(0, 1, &[]);
    assert!(world.run_until(ms(300), World::converged).is_some());
}

#[test]
fn a_killed_node_is_down_everywhere_once_the_suspicion_has_run_out() {
    for count in [2, 3, 5, 50] {
        let mut world = settled(11, count);
        world.kill(1);
        world.run_for(ms(10));
        assert_eq!(state(&world, 1, 0), (State::Suspected, Source::Session));
        let took = world.run_until(ms(5000), World::converged).expect("noticed");
        assert!(took < world.config.suspicion + ms(50), "{count} nodes: {took:?}");
        assert!(world.alarms.iter().all(|(.., who)| who.node == name(1)), "{:?}", world.alarms);
    }
}

#[test]
fn a_frozen_node_is_down_within_the_time_stated_and_back_when_it_thaws() {
    for (count, seed) in [(2, 0), (3, 1), (3, 2), (3, 3), (5, 4), (5, 5), (50, 6)] {
        let mut world = settled(seed, count);
        let (frozen, start) = (count - 1, world.now);
        world.freeze(frozen, start + ms(12_000));
        let limit = world.config.detection_max(count);
        let noticed = |world: &World| (0..count - 1).all(|at| !state(world, frozen, at).0.is_alive());
        let took = world.run_until(limit, noticed);
        assert!(took.is_some(), "{count} nodes, seed {seed}: not within {limit:?}");
        assert!((0..count - 1).all(|at| world.view(at).alive().count() == count - 1), "only the frozen one");

        world.run_until(ms(20_000), |world| world.now.since(start) >= ms(12_000));
        let took = world.run_until(ms(5000), World::converged);
        assert!(took.is_some_and(|took| took < ms(500)), "{count} nodes, seed {seed}: back after {took:?}");
        world.run_for(ms(3000));
        assert!(world.converged());
        let accused = |(.., who): &(Moment, usize, NodeBoot)| who.node != name(frozen);
        assert!(!world.alarms.iter().any(accused), "who slept accuses nobody: {:?}", world.alarms);
    }
}

#[test]
fn a_restarted_node_is_seen_as_its_new_run() {
    // Noticed before, and not noticed before it is back.
    for pause in [5, 2000] {
        let mut world = settled(21, 5);
        for boot in 2..12 {
            world.kill(3);
            world.run_for(ms(pause));
            world.start(3, boot, &[0]);
            let took = world.run_until(ms(5000), World::converged);
            assert!(took.is_some_and(|took| took < ms(300)), "boot {boot}: {took:?}");
            assert_eq!(world.view(1).node(&name(3)).unwrap().info.boot(), Boot(boot));
        }
        world.run_for(ms(5000));
        assert!(world.converged());
    }
}

#[test]
fn five_percent_of_loss_raise_no_false_alarm() {
    for (count, seed) in [(3, 31), (5, 32), (20, 33)] {
        let mut world = settled(seed, count);
        world.loss = 50;
        world.run_for(ms(30_000));
        assert!(world.alarms.is_empty(), "{count} nodes: {:?}", world.alarms);
        world.loss = 0;
        world.run_for(ms(3000));
        let calm = |seen: &Seen| seen.state == State::Alive;
        assert!((0..count).all(|at| world.view(at).nodes.iter().all(calm)), "all suspicions are refuted");
    }
}

#[test]
fn a_cut_between_two_raises_no_alarm_while_a_third_vouches_for_both() {
    let mut world = settled(41, 4);
    world.cut(1, 2);
    world.run_for(CUT_NOTICED + ms(30));
    world.run_for(ms(20_000));
    assert!(world.alarms.is_empty(), "{:?}", world.alarms);
    assert!(world.converged());
}

#[test]
fn both_sides_of_a_split_see_themselves_and_heal() {
    for (count, side) in [(3, 1), (6, 3)] {
        let mut world = settled(51, count);
        for a in 0..side {
            (side..count).for_each(|b| world.cut(a, b));
        }
        let left: Vec<_> = (0..side).map(name).collect();
        let right: Vec<_> = (side..count).map(name).collect();
        let apart =
            |world: &World| world.view(0).live_nodes() == left && world.view(count - 1).live_nodes() == right;
        let took = world.run_until(ms(5000), apart);
        assert!(took.is_some_and(|took| took < CUT_NOTICED + world.config.detection_max(count)), "{took:?}");
        world.run_for(ms(60_000));
        assert!(apart(&world));
        world.heal();
        let took = world.run_until(ms(5000), World::converged);
        assert!(took.is_some_and(|took| took < ms(1500)), "{count} nodes: {took:?}");
    }
}

#[test]
fn two_clusters_that_meet_become_one_list() {
    let mut world = World::new(61);
    (0..8).for_each(|at| world.start(at, 1, &[if at < 4 { 0 } else { 4 }]));
    world.run_for(ms(2000));
    assert_eq!(world.view(7).alive().count(), 4);
    let effects = {
        let now = world.now;
        world.law(2).handle_told_up(now, &name(6), Some("10.0.0.6:7100".into()))
    };
    assert_eq!(effects, [Effect::Dial { node: name(6), address: "10.0.0.6:7100".into() }]);
    world.effects(2, effects);
    let took = world.run_until(ms(5000), World::converged);
    assert!(took.is_some_and(|took| took < ms(1000)), "{took:?}");
}

#[test]
fn who_says_goodbye_has_left_at_once_and_is_not_dialled() {
    let mut world = settled(71, 5);
    world.leave(2);
    world.run_for(ms(20));
    assert!([0, 1, 3, 4].iter().all(|at| state(&world, 2, *at) == (State::Left, Source::Itself)));
    assert!(world.alarms.is_empty(), "{:?}", world.alarms);
    world.kill(2);
    world.run_for(ms(2000));
    world.start(2, 2, &[0]);
    assert!(world.run_until(ms(300), World::converged).is_some());
}

#[test]
fn an_operator_takes_a_node_out_and_puts_it_back_and_saying_it_twice_changes_nothing() {
    let mut world = settled(81, 3);
    let now = world.now;
    let law = world.law(0);
    let effects = law.handle_told_down(now, &name(2));
    assert_eq!(law.view().live_nodes(), [name(0), name(1)]);
    assert_eq!(effects, [Effect::Forget { node: name(2) }, Effect::ViewChanged(law.view().clone())]);
    assert_eq!(law.handle_told_down(now, &name(2)), []);
    assert_eq!(law.handle_told_down(now, &name(0)), [], "a node stays in its own view");
    assert_eq!(law.handle_told_down(now, &name(9)), [], "a stranger cannot be taken out");
    world.run_for(ms(5000));
    assert_eq!(world.law(0).view().live_nodes(), [name(0), name(1)], "whatever others say");
    assert_eq!(world.view(1).live_nodes().len(), 3, "here only");

    let now = world.now;
    let law = world.law(0);
    let effects = law.handle_told_up(now, &name(2), None);
    assert_eq!(effects, [Effect::ViewChanged(law.view().clone())]);
    assert_eq!(law.handle_told_up(now, &name(2), None), []);
    assert_eq!(law.view().live_nodes().len(), 3);

    let now = world.now;
    let effects = world.law(0).handle_told_down(now, &name(2));
    world.effects(0, effects);
    world.kill(2);
    world.start(2, 2, &[1]);
    assert!(world.run_until(ms(1000), World::converged).is_some(), "a newer run is not held down");
}

#[test]
fn the_same_seed_takes_the_same_course() {
    let course = |seed| {
        let mut world = settled(seed, 7);
        world.loss = 100;
        world.kill(1);
        world.run_for(ms(4000));
        world.start(1, 2, &[0, 2]);
        world.run_for(ms(4000));
        (world.packets, world.alarms.clone(), world.view(0).clone(), world.view(6).clone())
    };
    assert_eq!(course(5), course(5));
    assert_ne!(course(5).0, course(6).0);
}

#[test]
fn a_membership_that_starts_anew_in_the_same_run_is_taken_for_the_newer() {
    let (mut a, _) = Membership::new(Config::default(), info(0, 1), None, 1, at(0)).unwrap();
    let (mut b, _) = Membership::new(Config::default(), info(1, 1), None, 2, at(0)).unwrap();
    meet(at(1), &mut a, &mut b);
    // It was held for down, and came back, as often as it likes.
    for second in 0..3 {
        b.handle_session_down(at(second * 1000 + 10), &a.view().this.clone());
        run_timers(&mut b, second * 1000 + 10, second * 1000 + 900);
        assert_eq!(b.view().live_nodes(), [name(1)]);
        meet(at(second * 1000 + 901), &mut a, &mut b);
        assert_eq!(b.view().live_nodes().len(), 2);
    }
    let former = a.view().clone();
    let (mut a, effects) =
        Membership::new(Config::default(), info(0, 1), Some(&former), 3, at(4000)).unwrap();
    assert_eq!(a.view().live_nodes(), former.live_nodes(), "who was there is there still");
    assert!(a.view().number > former.number && effects.contains(&Effect::ViewChanged(a.view().clone())));
    meet(at(4001), &mut a, &mut b);
    run_timers(&mut a, 4001, 4500);
    assert_eq!(
        (a.view().live_nodes(), b.view().live_nodes()),
        (vec![name(0), name(1)], vec![name(0), name(1)])
    );
}

#[test]
fn two_processes_of_one_name_are_told_apart_and_the_older_hears_of_it() {
    let newcomer = NodeBoot::new(name(1), Boot(9));
    let law = |info: NodeInfo| Membership::new(Config::default(), info, None, 3, at(0)).unwrap().0;
    let (mut old, mut new, mut b, mut c) =
        (law(info(1, 1)), law(info(1, 9)), law(info(2, 1)), law(info(3, 1)));
    meet(at(1), &mut old, &mut b);
    meet(at(1), &mut new, &mut c);
    meet(at(200), &mut b, &mut c);
    let asked = packets_to(&name(3), &b.handle_timer(at(300)));
    let lists: Vec<_> =
        asked.iter().flat_map(|packet| c.handle_packet(at(300), &name(2), packet).unwrap()).collect();
    packets(&lists).iter().for_each(|packet| drop(b.handle_packet(at(300), &name(3), packet).unwrap()));
    let told = packets_to(&name(1), &b.handle_timer(at(320)));
    told.iter().for_each(|packet| drop(old.handle_packet(at(320), &name(2), packet).unwrap()));
    assert_eq!(b.view().node(&name(1)).unwrap().info.boot(), Boot(9));
    assert_eq!(old.view().superseded_by, Some(newcomer));
    assert_eq!(new.view().superseded_by, None);
}

#[test]
fn the_dead_are_forgotten_and_make_room() {
    let mut world = World::new(5);
    world.config = Config { forget_after: ms(20_000), ..Config::default() };
    (0..3).for_each(|at| world.start(at, 1, &[0]));
    world.run_for(ms(1000));
    world.kill(2);
    world.run_for(ms(10_000));
    assert_eq!(state(&world, 2, 0).0, State::Down);
    world.run_for(ms(15_000));
    assert_eq!((world.view(0).nodes.len(), world.view(1).nodes.len()), (2, 2));

    let config = Config { nodes_max: 3, ..Config::default() };
    let (mut law, _) = Membership::new(config, info(0, 1), None, 1, at(0)).unwrap();
    for peer in 1..3 {
        let (mut other, _) = Membership::new(Config::default(), info(peer, 1), None, 1, at(0)).unwrap();
        meet(at(1), &mut law, &mut other);
    }
    let (mut third, _) = Membership::new(Config::default(), info(3, 1), None, 1, at(0)).unwrap();
    let hello = packets(&third.handle_session_up(at(2), &info(0, 1)));
    law.handle_session_up(at(2), &info(3, 1));
    assert_eq!(law.handle_packet(at(2), &name(3), &hello[0]), Err(PacketError::TooManyNodes { max: 3 }));
    assert_eq!(law.view().nodes.len(), 3);
    law.handle_session_down(at(3), &NodeBoot::new(name(1), Boot(1)));
    run_timers(&mut law, 3, 600);
    let effects = law.handle_packet(at(601), &name(3), &hello[0]).unwrap();
    assert!(effects.contains(&Effect::Forget { node: name(1) }), "the dead make room");
    assert_eq!(law.view().live_nodes(), [name(0), name(2), name(3)]);
}

#[test]
fn impostors_strangers_and_chatterers_are_refused() {
    let (mut a, _) = Membership::new(Config::default(), info(0, 1), None, 1, at(0)).unwrap();
    let (mut b, _) = Membership::new(Config::default(), info(1, 1), None, 2, at(0)).unwrap();
    let hello = packets(&b.handle_session_up(at(1), &info(0, 1)));
    assert_eq!(a.handle_packet(at(1), &name(1), &hello[0]), Err(PacketError::NoSession(name(1))));
    a.handle_session_up(at(1), &info(2, 1));
    let from = NodeBoot::new(name(2), Boot(1));
    assert_eq!(a.handle_packet(at(1), &name(2), &hello[0]), Err(PacketError::Impostor { from }));
    assert_eq!(a.view().nodes.len(), 1);

    let sync = packet::sync(0);
    let refused = (0..1000).filter(|_| a.handle_packet(at(2), &name(2), &sync).is_err()).count();
    assert!((495..=505).contains(&refused), "{refused} of 1000 at once");
    assert!(a.handle_packet(at(1003), &name(2), &sync).is_ok(), "a second later it may speak again");

    let long = vec![2; PACKET_LEN_MAX + 1];
    assert_eq!(a.handle_packet(at(5000), &name(2), &long), Err(PacketError::TooLong { len: long.len() }));
    let fat = NodeInfo { services: vec!["x".repeat(100); 50], ..info(0, 1) };
    assert!(Membership::new(Config::default(), fat, None, 1, at(0)).is_err(), "too much to say");
}

fn at(millis: u64) -> Moment {
    Moment::from_millis(3_600_000 + millis)
}

fn packets(effects: &[Effect]) -> Vec<Bytes> {
    let packet = |effect: &Effect| match effect {
        Effect::Send { packet, .. } => Some(packet.clone()),
        _ => None,
    };
    effects.iter().filter_map(packet).collect()
}

fn packets_to(node: &NodeName, effects: &[Effect]) -> Vec<Bytes> {
    let is_for = |effect: &&Effect| matches!(effect, Effect::Send { to, .. } if to == node);
    packets(&effects.iter().filter(is_for).cloned().collect::<Vec<_>>())
}

fn run_timers(law: &mut Membership, from: u64, until: u64) {
    (from..until).step_by(10).for_each(|millis| drop(law.handle_timer(at(millis))));
}

/// Two memberships get a session, and talk until they have nothing more to say.
fn meet(now: Moment, a: &mut Membership, b: &mut Membership) {
    let infos = [a, b].map(|law| (law.swim.identity().info().as_ref().clone(), law));
    let [(a_info, a), (b_info, b)] = infos;
    let mut to_b = packets(&a.handle_session_up(now, &b_info));
    let mut to_a = packets(&b.handle_session_up(now, &a_info));
    while !(to_a.is_empty() && to_b.is_empty()) {
        let hears = |law: &mut Membership, from: &NodeInfo, packets: Vec<Bytes>| -> Vec<Bytes> {
            let mut said = Vec::new();
            for packet in packets {
                said.extend(self::packets(&law.handle_packet(now, from.name(), &packet).unwrap()));
            }
            said
        };
        let from_b = hears(b, &a_info, std::mem::take(&mut to_b));
        let from_a = hears(a, &b_info, std::mem::take(&mut to_a));
        (to_a, to_b) = (from_b, from_a);
    }
}

/// A node among others, and packets that the others sent it.
fn talk() -> (Membership, Vec<Bytes>) {
    let mut a = Membership::new(Config::default(), info(0, 1), None, 1, at(0)).unwrap().0;
    let mut heard = Vec::new();
    for peer in 1..4 {
        let mut b = Membership::new(Config::default(), info(peer, 1), None, 2, at(0)).unwrap().0;
        meet(at(1), &mut a, &mut b);
        for millis in [50, 120, 251, 400, 502, 760] {
            heard.extend(packets(&b.handle_timer(at(millis))));
        }
        heard.extend(packets(&b.handle_session_up(at(800), &info(0, 1))));
        heard.extend(packets(&b.handle_leave(at(801))));
    }
    (a, heard)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), kind in 0_u8..5) {
        let mut law = Membership::new(Config::default(), info(0, 1), None, 1, at(0)).unwrap().0;
        law.handle_session_up(at(0), &info(1, 1));
        let _ = law.handle_packet(at(1), &name(1), &bytes);
        let packet = [&[kind][..], &bytes].concat();
        let _ = law.handle_packet(at(1), &name(1), &packet);
        law.handle_timer(at(10_000));
    }

    #[test]
    fn garbled_packets_never_panic(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        which in any::<prop::sample::Index>(),
        cut in any::<prop::sample::Index>(),
    ) {
        let (mut law, heard) = talk();
        let mut packet = heard[which.index(heard.len())].to_vec();
        changes.iter().for_each(|(place, byte)| { let place = place.index(packet.len()); packet[place] = *byte; });
        for from in 1..4 {
            let _ = law.handle_packet(at(900), &name(from), &packet);
            let _ = law.handle_packet(at(900), &name(from), &packet[..cut.index(packet.len())]);
        }
        for millis in [1000, 1500, 2500, 9000] {
            law.handle_timer(at(millis));
        }
        prop_assert!(law.view().is_alive(&NodeBoot::new(name(0), Boot(1))));
    }
}
