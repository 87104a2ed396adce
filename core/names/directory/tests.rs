use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::ids::{Boot, Kind, NodeName};
use crate::names::placement::Placing;
use crate::supervision::Restart;

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn node(number: u64) -> NodeBoot {
    NodeBoot::new(NodeName::new(&format!("n{number}")).unwrap(), Boot(number))
}

fn holder(on: u64, actor: u64) -> Holder {
    Holder { node: node(on), actor }
}

fn spec(restart: Restart) -> Arc<Spec> {
    Arc::new(Spec {
        kind: Kind::new("child").unwrap(),
        args: Bytes::new(),
        restart,
        restarts_max: 5,
        window: Duration::from_secs(30),
        placing: Placing::Uniform,
    })
}

fn claim(directory: &mut Directory, text: &str, holder: &Holder) -> Result<Vec<News>, Refused> {
    let changes = directory.judge_claim(&name(text), holder, &Bytes::new(), |_| true)?;
    Ok(changes.iter().flat_map(|change| directory.apply(change)).collect())
}

#[test]
fn a_key_is_unique_and_a_second_claim_is_told_who_holds_it() {
    let mut directory = Directory::default();
    let (first, second) = (holder(1, 1), holder(2, 1));
    assert_eq!(claim(&mut directory, "a", &first).unwrap().len(), 1);
    let refused = claim(&mut directory, "a", &second).unwrap_err();
    let number = ClaimNumber(1);
    assert_eq!(refused, Refused::AlreadyRegistered { name: name("a"), holder: Some(first.clone()), number });
    // Whoever holds it may say so again.
    assert_eq!(claim(&mut directory, "a", &first).unwrap(), []);
    assert_eq!(directory.len(), 1);
}

#[test]
fn a_value_is_updated_by_its_owner_only() {
    let mut directory = Directory::default();
    claim(&mut directory, "a", &holder(1, 1)).unwrap();
    let value = Bytes::from_static(b"new");
    let refused = directory.judge_update(&name("a"), &holder(1, 2), &value).unwrap_err();
    assert_eq!(refused, Refused::NotTheHolder { name: name("a"), asker: holder(1, 2) });
    let change = directory.judge_update(&name("a"), &holder(1, 1), &value).unwrap();
    directory.apply(&change);
    assert_eq!(directory.get(&name("a")).unwrap().value, value);
    let long = Bytes::from(vec![0; VALUE_LEN_MAX + 1]);
    assert_eq!(directory.judge_update(&name("a"), &holder(1, 1), &long), Err(Refused::TooLong(long.len())));
}

#[test]
fn the_names_of_a_node_that_went_are_free_and_its_children_wait() {
    let mut directory = Directory::default();
    for (text, restart) in [("permanent", Restart::Permanent), ("temporary", Restart::Temporary)] {
        let added = directory.judge_start(&name(text), &spec(restart), &Bytes::new()).unwrap().unwrap();
        directory.apply(&added);
        let number = directory.get(&name(text)).unwrap().number;
        directory.apply(&Change::Ordered { name: name(text), number, node: node(1) });
        let number = directory.get(&name(text)).unwrap().number;
        directory.apply(&Change::Started { name: name(text), number, actor: 9 });
    }
    claim(&mut directory, "plain", &holder(1, 1)).unwrap();
    claim(&mut directory, "elsewhere", &holder(2, 1)).unwrap();
    let news = directory.apply(&Change::NodeGone { node: node(1) });
    assert_eq!(news.len(), 3);
    let down = |news: &News| matches!(news, News::Unregistered { reason: Reason::NodeDown, .. });
    assert!(news.iter().all(down), "{news:?}");
    let left: Vec<String> = directory.iter().map(|(name, _)| name.to_string()).collect();
    assert_eq!(left, ["elsewhere", "permanent"]);
    assert_eq!(directory.waiting().collect::<Vec<_>>(), [&name("permanent")]);
    assert_eq!(directory.apply(&Change::NodeGone { node: node(1) }), []);
}

#[test]
fn a_claim_takes_the_place_of_one_whose_node_is_no_member() {
    let mut directory = Directory::default();
    claim(&mut directory, "a", &holder(1, 1)).unwrap();
    let there = |node: &NodeBoot| node.node.as_str() != "n1";
    let refused = directory.judge_claim(&name("b"), &holder(1, 2), &Bytes::new(), there).unwrap_err();
    assert_eq!(refused, Refused::NoMember(node(1)));
    let changes = directory.judge_claim(&name("a"), &holder(2, 1), &Bytes::new(), there).unwrap();
    let news: Vec<News> = changes.iter().flat_map(|change| directory.apply(change)).collect();
    assert_eq!((news.len(), directory.get(&name("a")).unwrap().holder()), (2, Some(&holder(2, 1))));
}

#[test]
fn the_same_child_asked_for_twice_is_one_and_terminate_is_final() {
    let mut directory = Directory::default();
    let spec = spec(Restart::Permanent);
    let added = directory.judge_start(&name("a"), &spec, &Bytes::new()).unwrap().unwrap();
    directory.apply(&added);
    assert_eq!(directory.judge_start(&name("a"), &spec, &Bytes::new()), Ok(None));
    directory.apply(&Change::Ordered { name: name("a"), number: ClaimNumber(1), node: node(1) });
    let stopping = directory.judge_terminate(&name("a")).unwrap().unwrap();
    directory.apply(&stopping);
    assert_eq!(directory.judge_terminate(&name("a")), Ok(None));
    assert!(directory.judge_start(&name("a"), &spec, &Bytes::new()).is_err());
    // Where its node goes in the midst of it, it does not go on elsewhere.
    directory.apply(&Change::NodeGone { node: node(1) });
    assert_eq!(directory.judge_terminate(&name("a")), Err(Refused::NotFound(name("a"))));
}

#[test]
fn queries_by_prefix_are_in_order() {
    let mut directory = Directory::default();
    for text in ["b", "a/2", "a/1", "a", "a0"] {
        claim(&mut directory, text, &holder(1, 1)).unwrap();
    }
    let found: Vec<String> = directory.with_prefix(b"a/").map(|(name, _)| name.to_string()).collect();
    assert_eq!(found, ["a/1", "a/2"]);
    assert_eq!(directory.with_prefix(b"").count(), 5);
}

fn changes() -> impl Strategy<Value = Change> {
    let which = || (0..3_u8).prop_map(|n| name(&format!("x{n}")));
    let number = || (0..12_u64).prop_map(ClaimNumber);
    let on = || (1..4_u64).prop_map(node);
    let value = || (0..2_u8).prop_map(|byte| Bytes::from(vec![byte]));
    let restart = prop_oneof![Just(Restart::Permanent), Just(Restart::Temporary)];
    prop_oneof![
        (which(), on(), 0..3_u64, value()).prop_map(|(name, node, actor, value)| Change::Claimed {
            name,
            holder: Holder { node, actor },
            value
        }),
        (which(), number(), value()).prop_map(|(name, number, value)| Change::Updated {
            name,
            number,
            value
        }),
        (which(), number()).prop_map(|(name, number)| Change::Released {
            name,
            number,
            reason: Reason::Normal
        }),
        (which(), restart, value()).prop_map(|(name, restart, value)| Change::Added {
            name,
            spec: spec(restart),
            value
        }),
        (which(), number(), on()).prop_map(|(name, number, node)| Change::Ordered { name, number, node }),
        (which(), number(), 0..3_u64).prop_map(|(name, number, actor)| Change::Started {
            name,
            number,
            actor
        }),
        (which(), number(), any::<bool>()).prop_map(|(name, number, moves)| Change::Stopping {
            name,
            number,
            moves
        }),
        (which(), number(), proptest::option::of(value())).prop_map(|(name, number, handed)| Change::Freed {
            name,
            number,
            reason: Reason::Moved,
            handed
        }),
        on().prop_map(|node| Change::NodeGone { node }),
        (0..9_u64).prop_map(|at| Change::Clock { at: UnixMillis(at) }),
        (which(), on(), proptest::option::of(number()), any::<bool>()).prop_map(
            |(name, node, in_place_of, child)| {
                let (value, since) = (Bytes::new(), UnixMillis(3));
                let spec = child.then(|| spec(Restart::Permanent));
                let brought = Brought { name, holder: Holder { node, actor: 5 }, value, spec, since };
                Change::Brought { brought: Box::new(brought), in_place_of }
            }
        ),
        (which(), value()).prop_map(|(key, value)| Change::MetaPut { key, value }),
        (which(), number()).prop_map(|(key, number)| Change::MetaRemoved { key, number }),
    ]
}

proptest! {
    /// Whatever is applied, what can be computed fits what stands there, and all of it survives as bytes.
    #[test]
    fn indexes_fit_and_a_directory_is_read_back_as_it_was(changes in proptest::collection::vec(changes(), 0..60)) {
        let (mut directory, mut indexed) = (Directory::default(), Directory::default().indexed());
        for change in &changes {
            let before = directory.last_number();
            prop_assert_eq!(indexed.apply(change), directory.apply(change));
            prop_assert!(directory.last_number() >= before);
            let mut numbers: Vec<ClaimNumber> = directory.iter().map(|(_, claim)| claim.number).collect();
            numbers.sort();
            prop_assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]), "a number stands twice: {numbers:?}");
            prop_assert!(numbers.last().is_none_or(|last| *last <= directory.last_number()));
        }
        let bytes = bincode::serialize(&directory).unwrap();
        let read: Directory = bincode::deserialize(&bytes).unwrap();
        prop_assert_eq!(&read, &directory);
        prop_assert_eq!(&indexed, &directory);
        for indexed in [indexed, read.indexed()] {
            let on_nodes: usize = indexed.nodes().map(|node| indexed.count_on(node)).sum();
            prop_assert_eq!(on_nodes + indexed.waiting().count(), indexed.len());
            prop_assert!(indexed.nodes().eq(directory.nodes()) && indexed.waiting().eq(directory.waiting()));
            for node in directory.nodes() {
                prop_assert!(indexed.on_node(node).eq(directory.on_node(node)));
                prop_assert_eq!(indexed.count_on(node), directory.count_on(node));
                let half = directory.on_node(node).nth(directory.count_on(node) / 2).cloned().unwrap();
                let behind = |directory: &Directory| -> Vec<Name> {
                    directory.on_node_from(node, Bound::Excluded(half.clone())).cloned().collect()
                };
                prop_assert_eq!(behind(&indexed), behind(&directory));
            }
        }
    }
}

#[test]
fn what_the_cluster_is_told_stands_in_a_space_of_its_own() {
    let mut directory = Directory::default();
    claim(&mut directory, "a", &holder(1, 1)).unwrap();
    let put = |directory: &mut Directory, value: &'static [u8]| {
        let change = directory.judge_put_meta(&name("a"), &Bytes::from_static(value)).unwrap();
        change.iter().flat_map(|change| directory.apply(change)).collect::<Vec<News>>()
    };
    assert_eq!(put(&mut directory, b"one"), [], "no name is registered by it");
    let first = directory.meta(&name("a")).unwrap().clone();
    put(&mut directory, b"two");
    let second = directory.meta(&name("a")).unwrap().clone();
    assert!(second.number > first.number && second.value == b"two"[..]);
    assert_eq!(directory.judge_put_meta(&name("a"), &second.value), Ok(None), "twice is the same as once");
    assert_eq!((directory.len(), directory.with_prefix(b"").count()), (1, 1));
    assert_eq!(directory.get(&name("a")).unwrap().holder(), Some(&holder(1, 1)));
    // Its node goes, and with it its names: what was told stays.
    directory.apply(&Change::NodeGone { node: node(1) });
    assert!(directory.is_empty() && directory.all_meta().count() == 1);
    let read: Directory = bincode::deserialize(&bincode::serialize(&directory).unwrap()).unwrap();
    assert_eq!(read, directory);
    directory.apply(&Change::MetaRemoved { key: name("a"), number: first.number });
    assert!(directory.meta(&name("a")).is_some(), "what was told later is not taken back by this");
    let removed = directory.judge_remove_meta(&name("a")).unwrap();
    directory.apply(&removed);
    assert_eq!(directory.meta(&name("a")), None);
    assert_eq!(directory.judge_remove_meta(&name("a")), Err(Refused::NotFound(name("a"))));
    let long = Bytes::from(vec![0; VALUE_LEN_MAX + 1]);
    assert_eq!(directory.judge_put_meta(&name("a"), &long), Err(Refused::TooLong(long.len())));
}

#[test]
fn metadata_has_room_for_so_many_keys_and_takes_none_from_names() {
    let key = |n: usize| name(&format!("k{n}"));
    let told = (0..crate::names::meta::META_MAX)
        .map(|n| (key(n), Meta { number: ClaimNumber(n as u64), value: Bytes::new() }));
    let mut directory = Directory::of([], told, ClaimNumber(1 << 20));
    let value = Bytes::from_static(b"v");
    assert_eq!(directory.judge_put_meta(&name("another"), &value), Err(Refused::MetaFull));
    assert!(directory.judge_put_meta(&key(7), &value).unwrap().is_some());
    assert_eq!(claim(&mut directory, "a", &holder(1, 1)).unwrap().len(), 1);
}
