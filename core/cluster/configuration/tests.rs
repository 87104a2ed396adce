use proptest::prelude::*;

use super::*;
use crate::wire::stable_hash;

fn key(key: &str) -> Key {
    Key::new(key).unwrap()
}

fn json(json: &str) -> Json {
    Json::new(json).unwrap()
}

fn set(id: u64, at: &str, value: &str) -> Write {
    let (known, expected) = (ConfigVersion(u64::MAX), Expected::Anything);
    Write { id, known, key: key(at), expected, value: Some(json(value)) }
}

fn delete(id: u64, at: &str) -> Write {
    Write { value: None, ..set(id, at, "") }
}

fn done(version: u64) -> Result<Written, Refused> {
    Ok(Written { version: ConfigVersion(version), changed: true })
}

fn differs(found: Option<u64>) -> Result<Written, Refused> {
    Err(Refused::Differs { found: found.map(ConfigVersion) })
}

fn shown(configuration: &Configuration) -> Vec<(&str, u64, &str)> {
    let all = configuration.under("");
    all.map(|(key, entry)| (key.as_str(), entry.version.0, entry.value.as_str())).collect()
}

#[test]
fn there_is_one_order_for_all_keys() {
    let mut all = Configuration::default();
    assert_eq!(all.write(&set(1, "b", "1")), done(1));
    assert_eq!(all.write(&set(2, "a", "2")), done(2));
    assert_eq!(all.write(&set(3, "b", "3")), done(3));
    assert_eq!(shown(&all), [("a", 2, "2"), ("b", 3, "3")]);
    assert_eq!(all.write(&delete(4, "a")), done(4));
    let nothing_there = all.write(&delete(5, "a"));
    assert_eq!(nothing_there, Ok(Written { version: ConfigVersion(4), changed: false }));
    assert_eq!((shown(&all), all.version()), (vec![("b", 3, "3")], ConfigVersion(4)));
}

#[test]
fn who_expects_something_else_changes_nothing() {
    let mut all = Configuration::default();
    let expecting = |id, expected| Write { expected, ..set(id, "a", "true") };
    assert_eq!(all.write(&expecting(1, Expected::Something)), differs(None));
    assert_eq!(all.write(&expecting(2, Expected::Version(ConfigVersion(1)))), differs(None));
    assert_eq!(all.write(&expecting(3, Expected::Nothing)), done(1));
    assert_eq!(all.write(&expecting(4, Expected::Nothing)), differs(Some(1)));
    assert_eq!(all.write(&expecting(5, Expected::Version(ConfigVersion(2)))), differs(Some(1)));
    assert_eq!(all.write(&expecting(6, Expected::Version(ConfigVersion(1)))), done(2));
    assert_eq!(all.write(&expecting(7, Expected::Something)), done(3));
    let gone = Write { value: None, ..expecting(8, Expected::Version(ConfigVersion(2))) };
    assert_eq!(all.write(&gone), differs(Some(3)));
    assert_eq!(all.version(), ConfigVersion(3));
}

#[test]
fn what_is_sent_twice_is_carried_out_once() {
    let mut all = Configuration::default();
    let first = Write { known: ConfigVersion::ZERO, ..set(7, "a", "1") };
    assert_eq!(all.write(&first), done(1));
    assert_eq!(all.write(&set(8, "a", "2")), done(2));
    let before = all.clone();
    assert_eq!(all.write(&first), done(1), "it is known again, though another came since");
    assert_eq!(all, before);
    // A compare-and-set that is asked again is answered as it was, not that it differs.
    let compared = Write { expected: Expected::Version(ConfigVersion(2)), ..set(9, "a", "3") };
    assert_eq!((all.write(&compared), all.write(&compared)), (done(3), done(3)));
}

#[test]
fn what_may_have_been_forgotten_is_not_carried_out_again() {
    let mut all = Configuration::default();
    let first = Write { known: ConfigVersion::ZERO, ..set(1, "a", "1") };
    assert_eq!(all.write(&first), done(1));
    for id in 2..=REMEMBERED_MAX as u64 {
        all.write(&set(id, "b", "0")).unwrap();
    }
    assert_eq!(all.write(&first), done(1), "the last that is remembered");
    all.write(&set(1 << 20, "b", "0")).unwrap();
    let version = all.version();
    assert_eq!(all.write(&first), Err(Refused::Outdated { version }));
    let known = Write { known: ConfigVersion(1), ..set(1 << 21, "a", "1") };
    assert_eq!(all.write(&known), done(version.0 + 1), "who knows the first may write");
}

#[test]
fn it_is_bounded_whatever_is_written() {
    assert_eq!(Key::new(""), Err(Invalid::KeyLen(0)));
    assert_eq!(Key::new(&"k".repeat(256)), Err(Invalid::KeyLen(256)));
    assert_eq!(Key::new("a\nb"), Err(Invalid::KeyCharacter('\n')));
    assert_eq!(Json::new(&"1".repeat(VALUE_LEN_MAX + 1)), Err(Invalid::ValueLen(VALUE_LEN_MAX + 1)));
    let large = "1".repeat(VALUE_LEN_MAX);
    let mut all = Configuration::default();
    let mut id = 0;
    let refused = loop {
        id += 1;
        if let Err(refused) = all.write(&set(id, &format!("large/{id}"), &large)) {
            break refused;
        }
    };
    assert_eq!((refused, all.len()), (Refused::Full, 63));
    assert!(all.size() <= SIZE_MAX && all.changes_size <= CHANGES_SIZE_MAX);
    assert_eq!(all.write(&set(1 << 20, "large/1", "1")), done(64), "in place of another there is room");
    for number in 0..KEYS_MAX as u64 {
        all.write(&delete((1 << 21) + number, &format!("large/{number}"))).unwrap();
    }
    assert_eq!((all.size(), all.len()), (0, 0));
    for number in 0..KEYS_MAX as u64 {
        all.write(&set((1 << 22) + number, &format!("{number}"), "0")).unwrap();
    }
    assert_eq!(all.write(&set(1 << 23, "one more", "0")), Err(Refused::Full));
    assert!(all.write(&set(1 << 24, "17", "1")).is_ok());
    assert_eq!((all.changes.len(), all.remembered.len()), (CHANGES_MAX, REMEMBERED_MAX));
}

#[test]
fn who_lags_a_little_gets_the_changes_and_who_lags_more_gets_all() {
    let mut all = Configuration::default();
    for id in 1..=2 * CHANGES_MAX as u64 {
        all.write(&set(id, &format!("{}", id % 10), "0")).unwrap();
    }
    let all = Arc::new(all);
    let newest = all.version();
    assert_eq!(Configuration::catch_up(&all, newest), CatchUp::Nothing);
    assert_eq!(Configuration::catch_up(&all, newest.next()), CatchUp::Nothing, "nobody goes back");
    let CatchUp::Changes(changes) = Configuration::catch_up(&all, ConfigVersion(newest.0 - 2)) else {
        panic!("it lags by two")
    };
    let versions: Vec<u64> = changes.iter().map(|change| change.version.0).collect();
    assert_eq!(versions, [newest.0 - 1, newest.0]);
    let oldest = ConfigVersion(newest.0 - CHANGES_MAX as u64);
    assert!(
        matches!(Configuration::catch_up(&all, oldest), CatchUp::Changes(all) if all.len() == CHANGES_MAX)
    );
    let before = ConfigVersion(oldest.0 - 1);
    assert_eq!(Configuration::catch_up(&all, before), CatchUp::Whole(Arc::clone(&all)));
}

#[test]
fn a_prefix_ends_where_it_does() {
    let mut all = Configuration::default();
    for (id, at) in (1..).zip(["a", "ab", "ab/c", "ac", "b", "aö"]) {
        all.write(&set(id, at, "0")).unwrap();
    }
    let under = |prefix| all.under(prefix).map(|(key, _)| key.as_str()).collect::<Vec<_>>();
    assert_eq!(under("ab"), ["ab", "ab/c"]);
    assert_eq!(under("a").len(), 5);
    assert_eq!((under("").len(), under("c").len()), (6, 0));
}

#[test]
fn the_same_writes_make_the_same_bytes_for_ever() {
    let mut all = Configuration::default();
    for id in 1..=40_u64 {
        let at = format!("key/{}", id * 7 % 12);
        let write = if id % 5 == 0 { delete(id, &at) } else { set(id, &at, &format!("[{id},\"ü\"]")) };
        all.write(&write).unwrap();
    }
    let bytes = bincode::serialize(&all).unwrap();
    assert_eq!(bincode::deserialize::<Configuration>(&bytes).unwrap(), all);
    assert_eq!((bytes.len(), stable_hash(&bytes)), (GOLDEN.0, GOLDEN.1));
}

/// Length and hash of what the test above writes, computed by other code. Voters of two builds must agree on it.
const GOLDEN: (usize, u64) = (2376, 0x6be8_a6cb_5500_52e0);

#[test]
fn a_watcher_hears_what_is_there_then_each_change_once() {
    let mut all = Configuration::default();
    all.write(&set(1, "x/b", "1")).unwrap();
    all.write(&set(2, "x/a", "2")).unwrap();
    all.write(&set(3, "y", "3")).unwrap();
    let mut watcher = Watcher::new("x/".into());
    let told = |news: Vec<News>| -> Vec<String> {
        let one = |news: News| match news {
            News::Changed { version, key, value: Some(value) } => format!("{version} {key}={value}"),
            News::Changed { version, key, value: None } => format!("{version} {key}"),
            News::Missed { count } => format!("missed {count}"),
        };
        news.into_iter().map(one).collect()
    };
    assert_eq!(told(watcher.hear(&all)), ["1 x/b=1", "2 x/a=2"], "as they came");
    assert!(watcher.hear(&all).is_empty());
    all.write(&set(4, "y", "4")).unwrap();
    all.write(&delete(5, "x/a")).unwrap();
    all.write(&set(6, "x/a", "6")).unwrap();
    assert_eq!(told(watcher.hear(&all)), ["5 x/a", "6 x/a=6"]);
    for id in 7..=1000 + CHANGES_MAX as u64 {
        let at = ["x/a", "x/c", "y"][usize::try_from(id % 3).unwrap()];
        all.write(&set(id, if id < 20 { at } else { "y" }, &id.to_string())).unwrap();
    }
    // The changes 7 to 1000 are forgotten; what stands of them is told all the same.
    assert_eq!(told(watcher.hear(&all)), ["missed 994", "18 x/a=18", "19 x/c=19"]);
    assert_eq!(watcher.seen(), all.version());
}

/// What is done to one of two keys and a third.
fn writes() -> impl Strategy<Value = Vec<Write>> {
    let one = (0..3_usize, 0..4_u64, any::<bool>(), 0..40_u64);
    prop::collection::vec(one, 1..80).prop_map(|all| {
        let write = |(id, (at, expected, removes, version)): (u64, (usize, u64, bool, u64))| Write {
            expected: match expected {
                0 => Expected::Nothing,
                1 => Expected::Version(ConfigVersion(version)),
                2 => Expected::Something,
                _ => Expected::Anything,
            },
            value: (!removes).then(|| json(&id.to_string())),
            ..set(id, ["a", "b", "c/d"][at], "0")
        };
        (1..).zip(all).map(write).collect()
    })
}

proptest! {
    /// In whatever order announcements come, with gaps and twice, and whatever is pulled in between: nobody holds what was
    /// not so at that version, all end with the same, and whoever watches there hears each change once and in order.
    #[test]
    fn every_order_of_announcements_ends_in_the_same(
        writes in writes(),
        heard in prop::collection::vec((0..80_usize, 0..6_u8), 0..200),
    ) {
        let mut leader = Configuration::default();
        let mut history = vec![leader.clone()];
        for write in &writes {
            let before = leader.version();
            let outcome = leader.write(write);
            let changed = matches!(outcome, Ok(Written { changed: true, .. }));
            prop_assert_eq!(leader.version().0 - before.0, u64::from(changed));
            if changed {
                history.push(leader.clone());
            }
        }
        let leader = Arc::new(leader);
        let all: Vec<Change> = leader.changes.iter().cloned().collect();
        let mut node = Configuration::default();
        let mut watcher = Watcher::new(String::new());
        let mut told = Vec::new();
        let pull = |node: &mut Configuration, whole: bool| match Configuration::catch_up(&leader, node.version()) {
            CatchUp::Changes(changes) if !whole => changes.iter().for_each(|change| { node.follow(change); }),
            CatchUp::Nothing => {}
            CatchUp::Changes(_) | CatchUp::Whole(_) => *node = Configuration::clone(&leader),
        };
        for (at, how) in heard {
            match how {
                0 => pull(&mut node, at % 2 == 0),
                1 => told.extend(watcher.hear(&node)),
                _ => {
                    let Some(change) = all.get(at % all.len().max(1)) else { continue };
                    let before = node.version();
                    let followed = node.follow(change);
                    prop_assert_eq!(followed == Followed::Taken, node.version() != before);
                }
            }
            prop_assert_eq!(&node, &history[usize::try_from(node.version().0).unwrap()]);
        }
        pull(&mut node, false);
        told.extend(watcher.hear(&node));
        prop_assert_eq!(&node, &*leader);
        let versions: Vec<u64> = told.iter().map(|news| match news {
            News::Changed { version, .. } => version.0,
            News::Missed { .. } => 0,
        }).collect();
        prop_assert!(versions.windows(2).all(|pair| pair[0] < pair[1]), "{versions:?}");
        prop_assert!(!versions.contains(&0), "nothing is forgotten so soon");
    }

    /// A watcher that was there from the first change on rebuilds the map from what it hears.
    #[test]
    fn what_a_watcher_hears_makes_the_map(writes in writes(), pauses in prop::collection::vec(any::<bool>(), 80)) {
        let (mut all, mut watcher) = (Configuration::default(), Watcher::new(String::new()));
        let (mut map, mut count) = (BTreeMap::new(), 0);
        prop_assert!(watcher.hear(&all).is_empty());
        for (write, pause) in writes.iter().zip(pauses.iter().chain(std::iter::repeat(&false))) {
            // What is refused changes nothing.
            let _ = all.write(write);
            if *pause {
                continue;
            }
            for news in watcher.hear(&all) {
                let News::Changed { version, key, value } = news else { panic!("nothing is missed") };
                count += 1;
                prop_assert_eq!(version.0, count, "each once, in order");
                match value {
                    Some(value) => drop(map.insert(key, value)),
                    None => drop(map.remove(&key)),
                }
            }
        }
        for news in watcher.hear(&all) {
            let News::Changed { key, value, .. } = news else { panic!("nothing is missed") };
            match value {
                Some(value) => drop(map.insert(key, value)),
                None => drop(map.remove(&key)),
            }
        }
        let there: BTreeMap<Key, Json> =
            all.under("").map(|(key, entry)| (key.clone(), entry.value.clone())).collect();
        prop_assert_eq!(map, there);
    }
}
