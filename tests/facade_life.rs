//! A node's life: before there are partitions, their creation, news of it, its end, and another one after it.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/http.rs"]
mod http;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::json;
use tumen::assignment::{AssignError, Layout, Problem, Strategy};
use tumen::kv::Get;
use tumen::prelude::*;
use tumen::{CallOptions, Create};

use crate::http::{PATIENCE, ask, listen, next_event};

const TOKEN: &str = "swordfish-swordfish";

fn builder(name: &str) -> tumen::Builder {
    Node::builder("life", name)
        .listen("127.0.0.1:0")
        .http("127.0.0.1:0")
        .partitions(8)
        .create(Create::Manual)
        .kv()
}

/// What blocks goes where it may.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_lives_and_another_may_follow() {
    let node = builder("node-1").start().await.unwrap();
    let http = node.http_address().unwrap();
    let get = move |path: &'static str| blocking(move || ask(http, "GET", path, "", b""));

    // Nothing exists yet: what can be answered is answered, provisionally; what cannot says so.
    assert!(node.not_ready().is_some());
    let unready = get("/ready").await;
    assert_eq!(unready.refused(), "not_ready");
    assert!(unready.text().contains("POST /partitions"), "{}", unready.text());
    assert_eq!(get("/health").await.status, 200);
    let replicas = node.get_replicas(7).unwrap();
    assert_eq!((replicas.primary_node.as_ref(), replicas.provisional), (Some(node.name()), true));
    assert!(node.get_replicas(8).is_err());
    assert_eq!(node.live_nodes(), [node.name().clone()]);
    assert!(node.list_partitions().is_empty() && node.snapshot().is_none());
    assert_eq!(node.partition_for_key("a").unwrap_err().code(), "no_plan");
    assert_eq!(get("/partitions").await.json(), json!({"partitions": [], "count": 0}));
    assert_eq!(get("/partitions/key?key=a").await.refused(), "no_plan");
    assert_eq!(get("/partitions/partition-0").await.refused(), "no_plan");
    let cluster = get("/cluster").await.json();
    assert_eq!((&cluster["version"], &cluster["nodes"][0]["state"]), (&json!(0), &json!("joining")));
    let soon = CallOptions { within: Duration::from_millis(50), ..node.call_options() };
    let early = node.call_with("a", Get { key: "a".into() }, soon).await.unwrap_err();
    assert!(matches!(early, Error::Call(Failure::NotReady)) && early.is_safe_to_retry(), "{early}");

    // They are created once, however often it is asked for, and whoever listens hears of it.
    let mut plans = node.subscribe::<AssignmentsUpdated>();
    let mut events = blocking(move || listen(http)).await;
    // Right after the start nobody leads yet: such an error says that it may be asked again.
    let created = loop {
        let answer = blocking(move || ask(http, "POST", "/partitions", "", b"")).await;
        if answer.status == 200 {
            break answer.json();
        }
        assert_eq!(answer.status, 503, "{}", answer.text());
    };
    assert_eq!((&created["count"], &created["changed"]), (&json!(8), &json!(true)));
    tokio::time::timeout(PATIENCE, node.ready()).await.unwrap().unwrap();
    let again = blocking(move || ask(http, "POST", "/partitions", "", b"")).await.json();
    assert_eq!(again, json!({"version": created["version"], "count": 8, "changed": false}));
    let first = tokio::time::timeout(PATIENCE, plans.next()).await.unwrap().unwrap();
    assert_eq!((json!(first.snapshot.version.0), first.skipped), (created["version"].clone(), 0));
    let told = blocking(move || {
        let mut told = vec![next_event(&mut events)];
        while told.last().unwrap().1["event"] != "snapshot" {
            told.push(next_event(&mut events));
        }
        (told, events)
    });
    let (told, mut events) = told.await;
    let numbers: Vec<u64> =
        told.iter().map(|(id, _)| id.split_once('-').unwrap().1.parse().unwrap()).collect();
    assert!(numbers.windows(2).all(|pair| pair[0] + 1 == pair[1]), "{told:?}");
    assert!(told.iter().any(|(_, data)| data["event"] == "node_up" && data["node"] == "node-1"), "{told:?}");

    // It ends in good order: streams end, the ports are free, a call says that nothing changed.
    tokio::time::timeout(PATIENCE, node.stop()).await.unwrap();
    let ended = blocking(move || {
        let mut rest = String::new();
        std::io::Read::read_to_string(&mut events, &mut rest).map(|_| rest)
    });
    assert!(ended.await.is_ok());
    assert!(std::net::TcpStream::connect(http).is_err());
    assert!(std::net::TcpStream::connect(node.address()).is_err());
    assert!(matches!(node.ready().await, Err(Error::Stopped)));
    let late = node.call_with("a", Get { key: "a".into() }, soon).await.unwrap_err();
    assert_eq!(late.changed(), Some(false), "{late}");
    tokio::time::timeout(PATIENCE, node.stop()).await.expect("to stop twice is the same as once");

    // Another one, with a token and without kv.
    let next = Node::builder("life", "node-2").listen("127.0.0.1:0").http("127.0.0.1:0").http_token(TOKEN);
    let next = next.start().await.unwrap();
    let http = next.http_address().unwrap();
    tokio::time::timeout(PATIENCE, next.ready()).await.unwrap().unwrap();
    blocking(move || {
        let (right, wrong) =
            (format!("authorization: Bearer {TOKEN}\r\n"), "authorization: Bearer other\r\n");
        let get = |path, headers: &str| ask(http, "GET", path, headers, b"");
        for path in ["/cluster", "/config", "/kv/a", "/events", "/nowhere"] {
            let refused = get(path, wrong);
            assert_eq!((refused.status, refused.header("www-authenticate")), (401, Some("Bearer")), "{path}");
            assert_eq!(refused.refused(), "unauthorized");
            assert_eq!(get(path, "").status, 401);
        }
        assert_eq!((get("/health", "").status, get("/ready", "").status), (200, 200));
        assert_eq!(get("/cluster", &right).status, 200);
        let config = get("/config", &right);
        assert!(config.status == 200 && !config.text().contains(TOKEN), "{}", config.text());
        assert!(get("/kv/a", &right).text().contains("does not host kv"));
    })
    .await;
    next.stop().await;

    // One with a strategy of its own. A map that breaks the rules is refused, with the reason, and nothing is changed.
    let lawless = Arc::new(AtomicBool::new(false));
    let last = builder("node-3").own_strategy(Own { lawless: Arc::clone(&lawless) }).start().await.unwrap();
    let version = loop {
        match last.create_partitions().await {
            Err(error) if error.is_safe_to_retry() => {}
            created => break created.unwrap().version,
        }
    };
    assert_eq!(last.snapshot().unwrap().users().spec.strategy, "own");
    lawless.store(true, Ordering::SeqCst);
    let refused = last.rebalance_partitions().await.unwrap_err();
    assert!(refused.code() == "strategy" && refused.to_string().contains("own"), "{refused}");
    assert_eq!((refused.changed(), last.current_epoch()), (Some(false), version));
    last.stop().await;
}

/// One copy of each partition, on the first node; two on it where it is lawless.
struct Own {
    lawless: Arc<AtomicBool>,
}

impl Strategy for Own {
    fn name(&self) -> &str {
        "own"
    }

    fn assign(&self, problem: &Problem<'_>) -> Result<Layout, AssignError> {
        let row: &[u32] = if self.lawless.load(Ordering::SeqCst) { &[0, 0] } else { &[0] };
        let mut layout = Layout::new(problem.live()?.iter().map(|node| node.name.clone()).collect());
        (0..problem.partitions).for_each(|_| layout.push_row(row));
        Ok(layout)
    }
}
