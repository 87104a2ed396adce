//! What could not be logged.

use super::super::*;
use crate::ids::{Boot, GroupId, NodeName};
use crate::names::claim::{Holder, Spec};
use crate::supervision::Restart;
use std::sync::Arc;

fn node(n: u64) -> NodeBoot {
    NodeBoot::new(NodeName::new(&format!("node-{n}")).unwrap(), Boot(n))
}

fn facts(nodes: &[u64], leaving: Option<u64>) -> Vec<MemberFacts> {
    let facts = nodes.iter().map(|n| MemberFacts {
        node: node(*n),
        weight: 100,
        kinds: vec![Kind::new("echo").unwrap()],
        serves: true,
        takes: leaving != Some(*n),
    });
    facts.collect()
}

fn at(millis: u64) -> Moment {
    Moment::ZERO + Duration::from_millis(millis)
}

fn commits(effects: &[Effect]) -> Vec<Change> {
    let commit = |effect: &Effect| match effect {
        Effect::Commit(change) => Some(change.clone()),
        Effect::Send { .. } | Effect::WakeAt(_) | Effect::PlacedByName { .. } => None,
    };
    effects.iter().filter_map(commit).collect()
}

fn wake(effects: &[Effect]) -> Option<Moment> {
    effects.iter().find_map(|effect| match effect {
        Effect::WakeAt(at) => Some(*at),
        Effect::Commit(_) | Effect::Send { .. } | Effect::PlacedByName { .. } => None,
    })
}

fn orders(directory: &Directory) -> Orders {
    let id = PartitionId { group: GroupId::Names, index: 0 };
    Orders::new(at(0), (id, Epoch(1)), Config::default(), Placements::default(), directory)
}

/// A log that refuses at once, as that of a paused primary does, must not be asked over and over.
#[test]
fn what_a_log_refused_rests_until_it_is_said_again() {
    let mut directory = Directory::default();
    let (name, holder) = (Name::new("one").unwrap(), Holder { node: node(2), actor: 7 });
    directory.apply(&Change::Claimed { name, holder, value: bytes::Bytes::new() });
    let mut orders = orders(&directory);
    let gone = Change::NodeGone { node: node(2) };
    let effects = orders.handle_members(at(1), &directory, Version(1), facts(&[1, 3], None));
    assert_eq!(commits(&effects), std::slice::from_ref(&gone));

    orders.handle_not_logged(at(2), &gone);
    let effects = orders.handle_tick(at(2), &directory);
    assert_eq!((commits(&effects), wake(&effects)), (vec![], Some(at(22))));
    assert_eq!(commits(&orders.handle_tick(at(21), &directory)), []);
    assert_eq!(commits(&orders.handle_tick(at(22), &directory)), [gone]);
}

#[test]
fn a_move_away_from_a_leaving_node_that_was_not_logged_is_said_again() {
    let mut directory = Directory::default();
    let name = Name::new("one").unwrap();
    let spec = Arc::new(Spec {
        kind: Kind::new("echo").unwrap(),
        args: bytes::Bytes::new(),
        restart: Restart::Permanent,
        restarts_max: 5,
        window: Duration::from_secs(30),
        placing: Placing::Uniform,
    });
    directory.apply(&Change::Added { name: name.clone(), spec, value: bytes::Bytes::new() });
    directory.apply(&Change::Ordered { name: name.clone(), number: ClaimNumber(1), node: node(2) });
    let number = ClaimNumber(2);
    directory.apply(&Change::Started { name: name.clone(), number, actor: 1 });
    let mut orders = orders(&directory);
    let stopping = Change::Stopping { name, number, moves: true };
    let effects = orders.handle_members(at(1), &directory, Version(1), facts(&[1, 2], Some(2)));
    assert_eq!(commits(&effects), std::slice::from_ref(&stopping));
    orders.handle_not_logged(at(2), &stopping);
    let effects = orders.handle_tick(at(2), &directory);
    assert_eq!((commits(&effects), wake(&effects)), (vec![], Some(at(22))));
    assert_eq!(commits(&orders.handle_tick(at(22), &directory)), [stopping]);
}
