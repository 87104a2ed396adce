//! Reads from copies: what was a moment ago, on every node, and also where nobody can write any more.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends there")]

mod harness;

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
