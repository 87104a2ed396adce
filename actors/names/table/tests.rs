use tumen_core::ids::{Boot, Epoch};
use tumen_core::names::Held;

use super::*;

fn node(n: u64) -> NodeBoot {
    NodeBoot::new(NodeName::new(&format!("n{n}")).unwrap(), Boot(n))
}

fn claim(number: u64, node: NodeBoot) -> Claim {
    let holder = Holder { node, actor: number };
    Claim {
        number: ClaimNumber(number),
        value: Bytes::from_static(b"v"),
        held: Held::Plain(holder),
        since: tumen_core::UnixMillis(0),
    }
}

fn step(sequence: u64, now: Vec<(Name, Option<Claim>)>) -> Step {
    Step { position: at(sequence), changes: Vec::new(), now, meta: Vec::new(), news: Vec::new() }
}

fn at(sequence: u64) -> Position {
    Position::new(Epoch(1), sequence)
}

fn table_of(members: &[NodeBoot]) -> NameTable {
    let table = NameTable::default();
    let mut peers = table.shared.peers.lock().unwrap();
    peers.members = members.iter().map(|id| (id.node.clone(), id.clone())).collect();
    drop(peers);
    table
}

#[test]
fn steps_come_in_order_and_the_whole_replaces_only_what_is_older() {
    let table = table_of(&[node(1)]);
    let name = Name::new("a").unwrap();
    let directory = directory_of(&name);
    let put = |number| vec![(name.clone(), Some(claim(number, node(1))))];
    assert!(table.take(directory, Position::ZERO, ClaimNumber(1), step(1, put(1))));
    assert_eq!(table.lookup(&name).unwrap().number, ClaimNumber(1));
    assert!(!table.take(directory, at(2), ClaimNumber(3), step(3, put(3))), "the second is missing");
    assert!(
        table.take(directory, Position::ZERO, ClaimNumber(1), step(1, vec![(name.clone(), None)])),
        "old news"
    );
    assert_eq!(table.lookup(&name).unwrap().number, ClaimNumber(1));
    let whole = Directory::of([(name.clone(), claim(3, node(1)))], [], ClaimNumber(3));
    let mut news = table.news();
    table.take_whole(directory, at(3), &whole);
    assert_eq!(table.lookup(&name).unwrap().number, ClaimNumber(3));
    assert!(matches!(&*news.try_recv().unwrap(), News::Unregistered { number: ClaimNumber(1), .. }));
    assert!(matches!(&*news.try_recv().unwrap(), News::Registered { number: ClaimNumber(3), .. }));
    table.take_whole(directory, at(2), &Directory::default());
    assert_eq!(table.position(directory), at(3));
    let (followed, position) = table.follow(directory, Box::new(|_| ControlFlow::Continue(()))).unwrap();
    assert_eq!((followed, position), (whole, at(3)));
}

#[test]
fn nobody_answers_on_a_node_that_is_no_member_nor_on_its_next_run() {
    let table = table_of(&[node(1)]);
    let (here, gone) = (Name::new("here").unwrap(), Name::new("gone").unwrap());
    for (name, holder) in [(&here, node(1)), (&gone, node(2))] {
        let now = vec![(name.clone(), Some(claim(1, holder)))];
        assert!(table.take(directory_of(name), Position::ZERO, ClaimNumber(1), step(1, now)));
    }
    assert!(table.lookup(&here).is_some() && table.lookup(&gone).is_none());
    let shown: Vec<Name> = table.select(b"", 10, |_, _| true).into_iter().map(|(name, _)| name).collect();
    assert_eq!(shown, [here]);
    assert_eq!(table.count(b"", |_, _| true), 1);
}

#[test]
fn a_selection_has_the_first_names_in_order() {
    let table = table_of(&[node(1)]);
    for at in 0..100 {
        let name = Name::new(format!("user/{at:03}")).unwrap();
        let directory = directory_of(&name);
        let position = table.position(directory);
        let next = Position::new(Epoch(1), position.sequence + 1);
        let put = Step { position: next, ..step(0, vec![(name, Some(claim(1, node(1))))]) };
        assert!(table.take(directory, position, ClaimNumber(1), put));
    }
    let found = table.select(b"user/", 3, |name, _| name.as_bytes() > b"user/009".as_slice());
    let names: Vec<String> = found.iter().map(|(name, _)| name.to_string()).collect();
    assert_eq!(names, ["user/010", "user/011", "user/012"]);
    assert_eq!(table.count(b"user/09", |_, _| true), 10);
    assert!(table.select(b"other", 10, |_, _| true).is_empty());
}

#[test]
fn metadata_shows_in_no_list_of_names_and_comes_with_steps_and_with_the_whole() {
    let table = table_of(&[node(1)]);
    let key = Name::new("a").unwrap();
    let directory = directory_of(&key);
    let told = |number, value| Meta { number: ClaimNumber(number), value: Bytes::from_static(value) };
    let put = |meta| vec![(key.clone(), meta)];
    let first = Step { meta: put(Some(told(1, b"one"))), ..step(1, Vec::new()) };
    assert!(table.take(directory, Position::ZERO, ClaimNumber(1), first));
    assert_eq!(table.meta(&key), Some(told(1, b"one")));
    assert_eq!((table.lookup(&key), table.claim(&key)), (None, None));
    assert!(table.select(b"", 10, |_, _| true).is_empty() && table.is_empty());
    assert_eq!(table.select_meta(b"a", 10), [(key.clone(), told(1, b"one"))]);
    assert!(table.select_meta(b"b", 10).is_empty() && table.select_meta(b"", 0).is_empty());
    let whole = Directory::of([], [(key.clone(), told(2, b"two"))], ClaimNumber(2));
    table.take_whole(directory, at(2), &whole);
    assert_eq!(table.meta(&key), Some(told(2, b"two")));
    let gone = Step { meta: put(None), ..step(3, Vec::new()) };
    assert!(table.take(directory, at(2), ClaimNumber(2), gone));
    assert_eq!(table.meta(&key), None);
}

#[test]
fn a_whole_purges_what_it_no_longer_has() {
    let table = table_of(&[node(1)]);
    let all = (0..).map(|n| Name::new(format!("n/{n}")).unwrap());
    let directory = directory_of(&Name::new("n/0").unwrap());
    let names: Vec<Name> = all.filter(|name| directory_of(name) == directory).take(20).collect();
    let some = |range: std::ops::Range<usize>| {
        Directory::of(range.map(|n| (names[n].clone(), claim(n as u64 + 1, node(1)))), [], ClaimNumber(20))
    };
    table.take_whole(directory, at(1), &some(0..15));
    let mut news = table.news();
    table.take_whole(directory, at(2), &some(5..20));
    let known: Vec<Name> = table.select(b"", 100, |_, _| true).into_iter().map(|(name, _)| name).collect();
    let mut expected = names[5..].to_vec();
    expected.sort();
    assert_eq!(known, expected);
    let (mut gone, mut came) = (0, 0);
    while let Ok(piece) = news.try_recv() {
        match &*piece {
            News::Unregistered { .. } => gone += 1,
            News::Registered { .. } => came += 1,
            News::Updated { .. } => panic!("{piece:?}"),
        }
    }
    assert_eq!((gone, came), (5, 5));
}
