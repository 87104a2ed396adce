//! Reads from copies: what was a moment ago, on every node, and also where nobody can write any more. One copy that is left
//! is enough to read; how many are needed to write is another matter.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends there")]

mod harness;

use std::thread;
use std::time::Duration;

use harness::http::Answer;
use harness::{Cluster, Options, PATIENCE, check, wait_until};

fn replica(cluster: &Cluster, number: usize, key: &str, max_age_ms: Option<u64>) -> Result<Answer, String> {
    let age = max_age_ms.map_or_else(String::new, |age| format!("&max_age_ms={age}"));
    let path = format!("/kv/{key}?read=replica{age}");
    cluster.http.get_within(Duration::from_secs(8), &cluster.node(number).http, &path)
}

fn number(answer: &Answer, header: &str) -> u64 {
    answer.own.get(header).unwrap_or_else(|| panic!("no {header}")).parse().unwrap()
}

#[test]
fn every_copy_answers_with_its_place_and_its_age_and_the_last_one_left_still_does() {
    let mut cluster = Cluster::start(3, Options::default().flags(&["--partitions", "4", "--mode", "sync"]));
    cluster.put(0, "a", "1");
    let mut places = Vec::new();
    for at in 0..3 {
        // A copy hears of what holds a little after the writer does.
        let read = wait_until("a copy has it", PATIENCE, || {
            let read = replica(&cluster, at, "a", Some(2_000))?;
            check(read.status == 200, || read.text())?;
            Ok::<_, String>(read)
        });
        assert_eq!(read.text(), "1");
        assert!(number(&read, "x-tumen-age-ms") <= 2_000);
        places.push((number(&read, "x-tumen-epoch"), number(&read, "x-tumen-sequence")));
    }
    assert!(places.iter().all(|place| *place == places[0] && place.1 >= 1), "{places:?}");

    for (query, status) in [("max_age_ms=5", 400), ("read=anybody", 400), ("read=replica&max_age_ms=x", 400)]
    {
        let answer = cluster.http.get(&cluster.node(0).http, &format!("/kv/a?{query}")).unwrap();
        assert_eq!(answer.status, status, "{query}: {}", answer.text());
    }
    let other = replica(&cluster, 1, "nothing", None).unwrap();
    assert_eq!(other.status, 404);

    // Two of three are gone: nobody can write, or read what is surely the newest; but what was is still there to be read.
    let left = 2;
    [0, 1].into_iter().for_each(|number| cluster.kill9(number));
    wait_until("writes are refused", PATIENCE, || {
        let put = cluster.http.put(&cluster.node(left).http, "/kv/a", "2")?;
        check(put.status == 503, || format!("{} {}", put.status, put.text()))
    });
    let read = replica(&cluster, left, "a", None).unwrap();
    assert_eq!((read.status, read.text().as_str()), (200, "1"));
    wait_until("it grows old", PATIENCE, || {
        let read = replica(&cluster, left, "a", None)?;
        check(number(&read, "x-tumen-age-ms") > 1_000, || read.text())
    });
    let young = replica(&cluster, left, "a", Some(100)).unwrap();
    assert_eq!(young.status, 503, "{}", young.text());
}

/// Of so many copies of a partition all but one are gone, its primary among them; and then the last one too.
fn all_but_one_gone(copies: usize) {
    // Five nodes: the voters have a majority with two of them gone. New copies come later, so that none is there yet.
    let replication = copies.to_string();
    let flags =
        ["--partitions", "10", "--mode", "sync", "--replication", &replication, "--rebuild-after", "10m"];
    let mut cluster = Cluster::start(5, Options::default().flags(&flags));
    let keys = cluster.key_of_each(0);
    keys.keys().for_each(|key| cluster.put(0, key, "1"));
    for (key, holders) in &keys {
        assert_eq!(holders.len(), copies);
        for holder in holders {
            wait_until("a copy has it", PATIENCE, || {
                let read = replica(&cluster, *holder, key, Some(2_000))?;
                check(read.status == 200 && read.text() == "1", || read.text())
            });
        }
    }

    let (bereft, holders) = keys.iter().next().unwrap();
    let (gone, last) = (&holders[..copies - 1], holders[copies - 1]);
    let asked = (0..5).find(|number| !holders.contains(number)).unwrap();
    gone.iter().for_each(|number| cluster.kill9(*number));
    // Everything can still be read: from the copy itself, and through a node that has none.
    for (key, holders) in &keys {
        let left = holders.iter().find(|holder| !gone.contains(holder)).unwrap();
        for number in [*left, asked] {
            wait_until("what is left is read", PATIENCE, || {
                let read = replica(&cluster, number, key, None)?;
                assert_ne!(read.status, 404, "{key} was written");
                check(read.status == 200, || read.text())?;
                assert_eq!(read.text(), "1");
                check(read.own.contains_key("x-tumen-age-ms"), || "it has no age".to_owned())
            });
        }
    }
    // To write, W of those that count are needed: of two the one that is left, of three two.
    thread::scope(|scope| {
        for (key, holders) in &keys {
            let left = holders.iter().filter(|holder| !gone.contains(holder)).count();
            let writes = if copies == 3 { left >= 2 } else { left >= 1 };
            let cluster = &cluster;
            scope.spawn(move || {
                if writes {
                    return cluster.put(asked, key, "2");
                }
                let put = cluster.http.put(&cluster.node(asked).http, &format!("/kv/{key}"), "2").unwrap();
                assert!(matches!(put.status, 503 | 504), "{key}: {} {}", put.status, put.text());
            });
        }
    });
    let is_served = copies < 3;
    wait_until("the last copy tells what it has", PATIENCE, || {
        let read = replica(&cluster, last, bereft, is_served.then_some(2_000))?;
        check(read.status == 200, || read.text())?;
        let told = (read.text(), number(&read, "x-tumen-age-ms") > 1_000);
        let expected = if is_served { ("2".to_owned(), false) } else { ("1".to_owned(), true) };
        check(told == expected, || format!("{told:?}"))
    });

    // One more than may be gone: there is an error, and never an empty answer.
    cluster.kill9(last);
    let read = wait_until("somebody answers", PATIENCE, || replica(&cluster, asked, bereft, None));
    assert_eq!(read.status, 503, "{}", read.text());
}

#[test]
fn one_copy_may_not_be_gone() {
    all_but_one_gone(1);
}

#[test]
fn of_two_copies_the_one_left_is_read_and_written() {
    all_but_one_gone(2);
}

#[test]
fn of_three_copies_the_one_left_is_read_and_not_written() {
    all_but_one_gone(3);
}
