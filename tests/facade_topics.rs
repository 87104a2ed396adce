//! The users' own topics: between two nodes in two processes, within one, and what becomes of bad input.
//!
//! The other process runs this very test binary, which becomes a node where the environment says so.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tumen::prelude::*;
use tumen::{Heard, Overflow, Topic, TopicSubscription};

/// The cluster port of the node that the other process is to join.
const JOIN: &str = "FACADE_TOPICS_JOIN";
/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Price {
    item: String,
    cents: u64,
}

fn price(cents: u64) -> Price {
    Price { item: "tea".into(), cents }
}

async fn next<T: for<'a> Deserialize<'a>>(heard: &mut TopicSubscription<T>) -> Heard<T> {
    tokio::time::timeout(PATIENCE, heard.next()).await.expect("in time").expect("the node runs")
}

async fn until(is_so: impl Fn() -> bool) {
    let waiting = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.expect("in time");
}

/// The other process: says back each price that it hears with a cent more, and keeps a greeting for who comes late.
#[test]
fn a_process_becomes_a_node() {
    let Some(join) = std::env::var_os(JOIN) else { return };
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let builder = Node::builder("topics", "node-2").listen("127.0.0.1:0").partitions(4);
        let node = builder.join([join.to_str().unwrap()]).start().await.unwrap();
        let (asked, said) = (node.topic::<Price>("asked").unwrap(), node.topic::<Price>("said").unwrap());
        let mut heard = asked.subscribe();
        node.topic::<String>("greeting").unwrap().publish_retained(&"hello".to_owned()).await.unwrap();
        while let Some(news) = heard.next().await {
            let Heard::Said { value, .. } = news else { panic!("{news:?}") };
            said.publish(&price(value.cents + 1)).await.unwrap();
        }
    });
}

struct Other(Child);

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn nodes_hear_each_other_on_topics_of_the_users_own() {
    if std::env::var_os(JOIN).is_some() {
        return;
    }
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let node = Node::builder("topics", "node-1").listen("127.0.0.1:0").partitions(4);
        let node = node.start().await.unwrap();
        alone(&node).await;
        let other = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "a_process_becomes_a_node"])
            .env(JOIN, node.address())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let _other = Other(other);
        two(&node).await;
        node.stop().await;
        let late = node.topic::<Price>("late").unwrap();
        assert!(matches!(late.publish(&price(1)).await, Err(Error::Stopped)));
        let ended = tokio::time::timeout(PATIENCE, late.subscribe().next()).await.unwrap();
        assert_eq!(ended, None, "the node ended");
    });
}

/// What one node hears of itself.
async fn alone(node: &Node) {
    let prices: Topic<Price> = node.topic("prices").unwrap();
    let mut heard = prices.subscribe();
    let mut slow = prices.subscribe_with(3, Overflow::DropOldest);
    let mut closes = prices.subscribe_with(3, Overflow::Close);
    for cents in 1..=10 {
        let listening = if cents < 5 { 3 } else { 2 };
        let published = prices.publish(&price(cents)).await.unwrap();
        assert_eq!((published.local, published.remote), (listening, 0), "one is gone once it was too slow");
    }
    for cents in 1..=10 {
        assert_eq!(next(&mut heard).await, Heard::Said { from: node.id().clone(), value: price(cents) });
    }
    assert_eq!(next(&mut slow).await, Heard::Lagged(7), "it holds up nobody");
    assert_eq!(next(&mut slow).await, Heard::Said { from: node.id().clone(), value: price(8) });

    for cents in 1..=3 {
        assert_eq!(next(&mut closes).await, Heard::Said { from: node.id().clone(), value: price(cents) });
    }
    assert_eq!(tokio::time::timeout(PATIENCE, closes.next()).await.unwrap(), None, "it was too slow");
    assert_eq!(prices.publish_local(&price(11)).unwrap(), 2);
    assert_eq!(next(&mut heard).await, Heard::Said { from: node.id().clone(), value: price(11) });

    // The current value comes first to whoever subscribes later, until it is released.
    let (current, later) = (price(77), price(78));
    prices.publish_retained(&current).await.unwrap();
    let mut late = prices.subscribe();
    prices.clone().publish(&later).await.unwrap();
    for value in [current, later] {
        assert_eq!(next(&mut late).await, Heard::Said { from: node.id().clone(), value });
    }
    prices.release();
    let mut none = prices.subscribe();
    prices.publish(&price(79)).await.unwrap();
    assert_eq!(next(&mut none).await, Heard::Said { from: node.id().clone(), value: price(79) });

    // Another type under the same name, names that do not do, and a value that is too large.
    let mut others = node.topic::<(String, String, String)>("prices").unwrap().subscribe();
    prices.publish(&price(80)).await.unwrap();
    assert!(matches!(next(&mut others).await, Heard::Unreadable { .. }));
    for bad in ["", &*"x".repeat(256)] {
        let refused = node.topic::<Price>(bad).unwrap_err();
        assert_eq!((refused.code(), refused.changed()), ("topic", Some(false)), "{refused}");
    }
    assert!(node.topic::<Price>(&"x".repeat(255)).is_ok());
    let large = Price { item: "x".repeat(2 << 20), cents: 1 };
    let refused = prices.publish(&large).await.unwrap_err();
    assert!(refused.code() == "topic" && refused.to_string().contains("at most"), "{refused}");
    // The runtime's own topics are others, whatever the name.
    let mut plans = node.topic::<Price>("assignments").unwrap().subscribe();
    tokio::time::timeout(PATIENCE, node.ready()).await.unwrap().unwrap();
    node.topic::<Price>("assignments").unwrap().publish(&price(1)).await.unwrap();
    assert_eq!(next(&mut plans).await, Heard::Said { from: node.id().clone(), value: price(1) });
}

/// What two nodes hear of each other.
async fn two(node: &Node) {
    let mut greeting = node.topic::<String>("greeting").unwrap().subscribe();
    let Heard::Said { from, value } = next(&mut greeting).await else { panic!("it greets") };
    assert_eq!((from.node.as_str(), &*value), ("node-2", "hello"));
    let mut late = node.topic::<String>("greeting").unwrap().subscribe();
    assert_eq!(next(&mut late).await, Heard::Said { from: from.clone(), value }, "kept for who comes late");

    let (asked, mut said) =
        (node.topic::<Price>("asked").unwrap(), node.topic::<Price>("said").unwrap().subscribe());
    until(|| node.topics().iter().any(|seen| seen.topic.as_str() == "asked" && !seen.remote.is_empty()))
        .await;
    let confirmed = asked.publish_confirmed(&price(1000), PATIENCE).await.unwrap();
    assert_eq!((confirmed.local, confirmed.remote, confirmed.nodes, confirmed.silent), (0, 1, 1, Vec::new()));
    assert_eq!(next(&mut said).await, Heard::Said { from: from.clone(), value: price(1001) });
    for cents in 0..500 {
        let published = asked.publish(&price(cents)).await.unwrap();
        assert_eq!((published.local, published.remote, published.nodes, published.lost), (0, 1, 1, 0));
    }
    for cents in 1..=500 {
        assert_eq!(next(&mut said).await, Heard::Said { from: from.clone(), value: price(cents) });
    }
}
