//! What each node believed that it may serve, and when, read from its logs: no two may ever have believed it at once.
//!
//! A boot believes in a partition while the partition's workers may answer *and* its lease lasts. A process that was
//! killed believes nothing from then on; one that is frozen believes on until its lease ends, for it may be let go at
//! any moment. Times are nanoseconds of the boot-time clock, which all processes of a machine share.

use std::collections::BTreeMap;

use serde_json::Value as Json;

use super::node::boot_time;
use super::{Cluster, PATIENCE, wait_until};

/// One boot's belief in one partition: from the first moment to the last, the last excluded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    pub from: u64,
    pub to: u64,
    pub epoch: u64,
    pub boot: u64,
    pub node: String,
}

/// What all boots believed, by partition, in order of time.
pub fn spans(cluster: &Cluster) -> BTreeMap<String, Vec<Span>> {
    let mut all: BTreeMap<String, Vec<Span>> = BTreeMap::new();
    for number in 0..cluster.len() {
        for run in cluster.node(number).runs() {
            let end = run.killed_at.unwrap_or_else(boot_time);
            let log = std::fs::read(&run.log).unwrap();
            for (partition, spans) in spans_of_run(&String::from_utf8_lossy(&log), end) {
                all.entry(partition).or_default().extend(spans);
            }
        }
    }
    for spans in all.values_mut() {
        spans.sort_by_key(|span| (span.from, span.to));
    }
    all
}

/// Checks that no two boots ever believed in a partition at once, and that epochs rise with time.
///
/// # Panics
/// If they did, or nobody ever believed in anything.
pub fn check(cluster: &Cluster) {
    check_spans(&spans(cluster));
    check_invariants(cluster);
}

/// Checks that no node that is awake saw a promise broken that must hold at every moment.
///
/// # Panics
/// If one did, with what it saw.
pub fn check_invariants(cluster: &Cluster) {
    for number in cluster.awake() {
        let shown =
            wait_until("a node tells what it saw", PATIENCE, || cluster.try_get(number, "/invariants"));
        assert_eq!(shown["violations"], 0, "{}: {shown}", cluster.node(number).name);
    }
}

/// The same of what was read already.
///
/// # Panics
/// As [`check`].
pub fn check_spans(all: &BTreeMap<String, Vec<Span>>) {
    assert!(all.values().any(|spans| !spans.is_empty()), "nobody ever served anything, or no log says so");
    for (partition, spans) in all {
        for (at, one) in spans.iter().enumerate() {
            let mut others = spans[at + 1..].iter().take_while(|other| other.from < one.to);
            if let Some(other) = others.find(|other| other.boot != one.boot) {
                let both = one.to.min(other.to) - other.from;
                panic!("two boots believed for {both} ns that they serve {partition}:\n{one:?}\n{other:?}");
            }
        }
        for pair in spans.windows(2).filter(|pair| pair[0].boot != pair[1].boot) {
            assert!(pair[0].epoch < pair[1].epoch, "{partition} passed on under an older epoch: {pair:?}");
        }
    }
}

/// How often any boot began to serve this partition under this epoch.
pub fn begun(cluster: &Cluster, partition: &str, epoch: u64) -> usize {
    let logs = cluster.logs().into_iter().map(|log| std::fs::read(log).unwrap());
    let begun = |line: &str| {
        let line = serde_json::from_str::<Json>(line).unwrap_or_default();
        line["message"] == "serving" && line["partition"] == partition && line["epoch"] == epoch
    };
    let count = |log: Vec<u8>| {
        let log = String::from_utf8_lossy(&log);
        log.lines().filter(|line| line.contains("tumen::belief")).filter(|line| begun(line)).count()
    };
    logs.map(count).sum()
}

/// One run's belief in each partition, by its log. It had ended by `end`.
pub fn spans_of_run(text: &str, end: u64) -> BTreeMap<String, Vec<Span>> {
    let mut leases: Vec<(u64, u64)> = Vec::new();
    let mut open: BTreeMap<String, Span> = BTreeMap::new();
    let mut served: BTreeMap<String, Vec<Span>> = BTreeMap::new();
    for line in text.lines().filter(|line| line.contains("tumen::belief")) {
        // The last line may have been cut short by a kill.
        let Ok(line) = serde_json::from_str::<Json>(line) else { continue };
        let number = |field: &str| line[field].as_u64().unwrap_or_else(|| panic!("no {field} in {line}"));
        let at = number("at");
        match line["message"].as_str() {
            Some("leased") => {
                // What a node was told before does not count any more.
                if let Some(last) = leases.last_mut() {
                    last.1 = last.1.min(at);
                }
                leases.push((at, number("until")));
            }
            Some("serving") => {
                let node = line["node"].as_str().unwrap().to_owned();
                let span =
                    Span { from: at, to: u64::MAX, epoch: number("epoch"), boot: number("boot"), node };
                let before = open.insert(line["partition"].as_str().unwrap().to_owned(), span);
                assert!(before.is_none(), "served twice at once: {line}");
            }
            Some("no longer serving") => {
                let partition = line["partition"].as_str().unwrap();
                if let Some(mut span) = open.remove(partition) {
                    assert_eq!(
                        span.epoch,
                        number("epoch"),
                        "another epoch was stopped than was served: {line}"
                    );
                    span.to = at;
                    served.entry(partition.to_owned()).or_default().push(span);
                }
            }
            other => panic!("a line of belief that says {other:?}: {line}"),
        }
    }
    for (partition, span) in open {
        served.entry(partition).or_default().push(span);
    }
    for spans in served.values_mut() {
        let leased = |span: &Span| {
            let parts = leases.iter().map(|(from, to)| (span.from.max(*from), span.to.min(*to).min(end)));
            let parts = parts.filter(|(from, to)| from < to);
            parts.map(|(from, to)| Span { from, to, ..span.clone() }).collect::<Vec<_>>()
        };
        *spans = spans.iter().flat_map(leased).collect();
    }
    served
}
