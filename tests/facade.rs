//! One node alone, through its facade and its HTTP interface: what it answers, and what bad input gets.
//!
//! A process has one node, so the tests share it, and a runtime that outlives each of them.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/http.rs"]
mod http;

use std::io::{BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tumen::kv::{Get, Put};
use tumen::prelude::*;
use tumen::{CallOptions, PartitionId};

use crate::http::{Answer, PATIENCE, listen, next_event, read_answer};

#[derive(Serialize, Deserialize)]
struct Add(u32);

impl Message for Add {
    type Reply = u32;
}

/// Ends the worker.
#[derive(Serialize, Deserialize)]
struct Panic;

impl Message for Panic {
    type Reply = ();
}

/// Answers only once the worker is told to stop.
#[derive(Serialize, Deserialize)]
struct Hang;

impl Message for Hang {
    type Reply = ();
}

/// Nobody handles it.
#[derive(Serialize, Deserialize)]
struct Stray;

impl Message for Stray {
    type Reply = ();
}

#[derive(Default)]
struct Counter(u32);

impl Worker for Counter {
    const KIND: &'static str = "counter";
}

impl Handle<Add> for Counter {
    async fn handle(&mut self, Add(n): Add, _: &mut Context<Self>) -> Result<u32> {
        self.0 = self.0.checked_add(n).ok_or_else(|| Error::rejected("the counter is full"))?;
        Ok(self.0)
    }
}

impl Handle<Panic> for Counter {
    async fn handle(&mut self, _: Panic, _: &mut Context<Self>) -> Result<()> {
        panic!("as it was told")
    }
}

impl Handle<Hang> for Counter {
    async fn handle(&mut self, _: Hang, _: &mut Context<Self>) -> Result<()> {
        std::future::pending().await
    }
}

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().unwrap());

static NODE: LazyLock<Node> = LazyLock::new(|| {
    RUNTIME.block_on(async {
        let started = Node::builder("shop", "node-1")
            .listen("127.0.0.1:0")
            .http("127.0.0.1:0")
            .partitions(16)
            .mode(Mode::Sync)
            .worker::<Counter>(|w| w.handles::<Add>().handles::<Panic>().handles::<Hang>())
            .kv()
            .start()
            .await;
        let node = started.unwrap();
        let ready = tokio::time::timeout(PATIENCE, node.ready()).await;
        ready.unwrap_or_else(|_| panic!("{:?}", node.not_ready())).unwrap();
        node
    })
});

fn address() -> SocketAddr {
    NODE.http_address().unwrap()
}

/// One request to the node.
fn ask(method: &str, path: &str, headers: &str, body: &[u8]) -> Answer {
    http::ask(address(), method, path, headers, body)
}

fn send(head: &str, body: &[u8]) -> Answer {
    http::send(address(), head, body)
}

fn get(path: &str) -> Answer {
    ask("GET", path, "", b"")
}

fn put(path: &str, headers: &str, body: &[u8]) -> u16 {
    ask("PUT", path, headers, body).status
}

#[test]
fn typed_calls_are_answered_or_say_why_not() {
    let node = &*NODE;
    RUNTIME.block_on(async {
        assert_eq!(node.call("calls", Add(2)).await.unwrap(), 2);
        assert_eq!(node.call("calls", Add(40)).await.unwrap(), 42);
        let partition = node.partition_for_key("calls").unwrap();
        assert_eq!(node.call_partition(partition.id, Add(0)).await.unwrap(), 42);

        let full = node.call("calls", Add(u32::MAX)).await.unwrap_err();
        assert!(
            matches!(&full, Error::Call(Failure::Rejected(why)) if why == "the counter is full"),
            "{full}"
        );
        assert_eq!(full.changed(), Some(false));

        let stray = node.call("calls", Stray).await.unwrap_err();
        assert!(stray.to_string().contains("Stray"), "{stray}");
        assert!(matches!(node.call("", Add(1)).await, Err(Error::Key { len: 0 })));
        assert!(matches!(node.call(vec![b'k'; 1 << 20], Add(1)).await, Err(Error::Key { .. })));
        let missing = node.call_partition(PartitionId::user(16), Add(1)).await;
        assert!(matches!(missing, Err(Error::NotFound(_))));

        let options = CallOptions { within: Duration::from_millis(50), ..node.call_options() };
        let late = node.call_with("hangs", Hang, options).await.unwrap_err();
        assert!(matches!(late, Error::Call(Failure::Timeout { maybe_applied: true })), "{late}");
        assert_eq!(late.changed(), None);
    });
}

#[test]
fn a_worker_that_panics_is_started_anew_and_others_do_not_notice() {
    let node = &*NODE;
    RUNTIME.block_on(async {
        let partition = |key| node.partition_for_key(key).unwrap().id;
        assert_ne!(partition("panics"), partition("bystander"));
        assert_eq!(node.call("panics", Add(7)).await.unwrap(), 7);
        let before = node.call("bystander", Add(1)).await.unwrap();
        let failed = node.call("panics", Panic).await.unwrap_err();
        assert!(
            matches!(&failed, Error::Call(Failure::WorkerFailed(why)) if why.contains("as it was told")),
            "{failed}"
        );
        assert_eq!(node.call("panics", Add(1)).await.unwrap(), 1, "it began anew");
        assert_eq!(node.call("bystander", Add(1)).await.unwrap(), before + 1);
    });
}

#[test]
fn the_seeds_questions_are_answered() {
    let node = &*NODE;
    assert_eq!(node.list_partitions().len(), 16);
    let partition = node.partition_for_key("user:1001").unwrap();
    assert_eq!(node.partition(&partition.name).unwrap(), partition);
    assert_eq!(partition.primary_node.as_ref(), Some(node.name()));
    assert_eq!(node.partitions_for_node("node-1").unwrap().len(), 16);
    assert!(matches!(node.partitions_for_node("node-2"), Err(Error::NotFound(_))));
    assert!(matches!(node.partition("partition-16"), Err(Error::NotFound(_))));
    let stats = node.partition_stats();
    assert_eq!((stats.total_partitions, stats.partitions_per_node[node.name()]), (16, 16));
    let replicas = node.get_replicas(3).unwrap();
    assert_eq!((replicas.primary_node.as_ref(), replicas.provisional), (Some(node.name()), false));
    assert!(node.get_replicas(16).is_err());
    assert_eq!(node.live_nodes(), [node.name().clone()]);
    node.node_down(node.name());
    assert_eq!(node.live_nodes(), [node.name().clone()], "of itself a node does not believe it");
    assert_eq!(node.replication_mode(), Mode::Sync);
    assert_eq!(node.current_epoch(), node.snapshot().unwrap().version);
    RUNTIME.block_on(async {
        let version = node.current_epoch();
        let again = node.create_partitions().await.unwrap();
        assert_eq!((again.version, again.changed), (version, false), "they are there already");
        let done = node.rebalance_partitions().await.unwrap();
        assert_eq!((done.changed, done.version, done.certificate.moved), (false, version, 0));
        let preview = node.preview(2, Vec::new()).await.unwrap();
        assert_eq!(preview.certificate.moved, preview.certificate.lower_bound);
        assert!(!preview.moves.is_empty());
        let mut plans = node.subscribe::<AssignmentsUpdated>();
        let first = tokio::time::timeout(PATIENCE, plans.next()).await.unwrap().unwrap();
        assert_eq!((first.snapshot.version, first.skipped), (version, 0), "the present one comes first");
    });
}

#[test]
fn values_are_kept_as_they_were_put() {
    assert_eq!(get("/kv/color").refused(), "not_found");
    assert_eq!(put("/kv/color", "content-type: text/plain; charset=utf-8\r\n", "blåu\0".as_bytes()), 201);
    let answer = get("/kv/color");
    assert_eq!((answer.status, &*answer.body), (200, "blåu\0".as_bytes()));
    assert_eq!(answer.header("content-type"), Some("text/plain; charset=utf-8"));
    assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
    assert_eq!(put("/kv/color", "", b"\x01\x02"), 204);
    let answer = get("/kv/color");
    assert_eq!(
        (&*answer.body, answer.header("content-type")),
        (&b"\x01\x02"[..], Some("application/octet-stream"))
    );
    assert_eq!(ask("HEAD", "/kv/color", "", b"").header("content-length"), Some("2"));
    assert_eq!(ask("DELETE", "/kv/color", "", b"").status, 204);
    assert_eq!(ask("DELETE", "/kv/color", "", b"").refused(), "not_found");
    assert_eq!(get("/kv/color").status, 404);
    assert_eq!(put("/kv/empty", "content-length: 0\r\n", b""), 201);
    assert_eq!((get("/kv/empty").status, get("/kv/empty").body.len()), (200, 0));
    let large = vec![7; tumen::kv::VALUE_LEN_MAX];
    assert_eq!(put("/kv/large", "", &large), 201);
    assert_eq!(get("/kv/large").body, large);
}

#[test]
fn a_value_is_changed_only_if_it_is_still_the_one_that_was_read() {
    let put = |headers: &str| ask("PUT", "/kv/compared", headers, b"x");
    let tag = |answer: &Answer| answer.header("etag").unwrap().to_owned();
    assert_eq!(put("if-match: *\r\n").refused(), "precondition_failed");
    assert_eq!(put("if-match: \"1\"\r\n").status, 412);
    let first = put("if-none-match: *\r\n");
    assert_eq!(first.status, 201);
    assert_eq!(put("if-none-match: *\r\n").refused(), "precondition_failed");
    let first = tag(&first);
    assert_eq!(tag(&get("/kv/compared")), first);
    let known = ask("GET", "/kv/compared", &format!("if-none-match: {first}\r\n"), b"");
    assert_eq!((known.status, tag(&known)), (304, first.clone()));
    let second = put(&format!("if-match: {first}\r\n"));
    assert_eq!(second.status, 204);
    let second = tag(&second);
    assert_ne!(first, second);
    for stale in [first.as_str(), "W/\"1\"", "\"x\"", "x"] {
        assert_eq!(put(&format!("if-match: {stale}\r\n")).refused(), "precondition_failed", "{stale}");
        let deleted = ask("DELETE", "/kv/compared", &format!("if-match: {stale}\r\n"), b"");
        assert_eq!(deleted.refused(), "precondition_failed", "{stale}");
    }
    for senseless in
        ["if-match: \"1\", \"2\"\r\n", "if-none-match: \"1\"\r\n", "if-match: *\r\nif-none-match: *\r\n"]
    {
        assert_eq!(put(senseless).refused(), "bad_request", "{senseless}");
    }
    let deleted = ask("DELETE", "/kv/compared", &format!("if-match: {second}\r\n"), b"");
    assert_eq!(deleted.status, 204);
    // It comes back as something else than it ever was.
    let third = tag(&put(""));
    assert!(third != first && third != second);
}

#[test]
fn keys_may_hold_anything() {
    for (encoded, same) in [
        ("a%2Fb", "a/b"),
        ("%E2%82%AC", "%e2%82%ac"),
        ("user:1001", "user%3A1001"),
        ("%00%FF%25", "%00%ff%25"),
        ("a+b", "a%2Bb"),
        ("..%2F..", "%2E%2E%2F%2E%2E"),
        ("%20", "%20"),
        ("/", "%2F"),
    ] {
        assert_eq!(put(&format!("/kv/{encoded}"), "", encoded.as_bytes()), 201, "{encoded}");
        assert_eq!(get(&format!("/kv/{same}")).text(), encoded);
    }
    assert_eq!(get("/kv/%E2%82").status, 404, "a part of a character is another key");
    let longest = "k".repeat(65_000);
    assert_eq!(put(&format!("/kv/{longest}"), "", b"long"), 201);
    assert_eq!(get(&format!("/kv/{longest}")).text(), "long");
    // Keys are the same for Rust and for HTTP.
    let kept = RUNTIME.block_on(NODE.call("€", Get { key: "€".into() })).unwrap().unwrap();
    assert_eq!(kept.value.bytes, "%E2%82%AC".as_bytes());
    let value = tumen::kv::Value { bytes: "from Rust".into(), content_type: "text/x\r\nevil: 1".into() };
    RUNTIME.block_on(NODE.call("rust", Put { key: "rust".into(), value })).unwrap();
    let answer = get("/kv/rust");
    assert_eq!((&*answer.text(), answer.header("evil")), ("from Rust", None));
}

#[test]
fn bad_input_gets_a_clear_error() {
    for (answer, status, code) in [
        (get("/kv/"), 400, "bad_key"),
        (get("/kv"), 400, "bad_key"),
        (ask("PUT", "/kv/", "", b"x"), 400, "bad_key"),
        (get("/kv/%"), 400, "bad_request"),
        (get("/kv/%4"), 400, "bad_request"),
        (get(&format!("/kv/{}", "k".repeat(1 << 20))), 431, "too_long"),
        (get(&format!("/kv/{}", "k".repeat(65_536))), 414, "too_long"),
        (get(&format!("/partitions/key?key={}", "k".repeat(65_500))), 200, ""),
        (get("/partitions/key"), 400, "bad_request"),
        (get("/partitions/key?other=1"), 400, "bad_request"),
        (get("/partitions/key?key="), 400, "bad_key"),
        (get("/partitions/key?key=%zz"), 400, "bad_request"),
        (get("/partitions/partition-16"), 404, "not_found"),
        (get("/partitions/%FF"), 400, "bad_request"),
        (get("/nodes/node-2/partitions"), 404, "not_found"),
        (ask("POST", "/nodes/node-2/drain", "", b""), 404, "not_found"),
        (ask("POST", "/nodes/a%20b/drain", "", b""), 404, "not_found"),
        (ask("POST", "/nodes/node-1/drain", "", b"{"), 400, "bad_request"),
        (ask("POST", "/nodes/node-1/drain", "", b"{\"leave\":1}"), 400, "bad_request"),
        (get("/plan?add=-1"), 400, "bad_request"),
        (get("/plan?remove=node-9"), 404, "not_found"),
        (get("/nowhere"), 404, "not_found"),
        (get("/"), 404, "not_found"),
        (ask("PUT", "/kv/big", "content-length: 4194305\r\n", b""), 413, "too_large"),
        (
            ask("PUT", "/kv/typed", &format!("content-type: {}\r\n", "t".repeat(257)), b"x"),
            400,
            "bad_request",
        ),
        (send("GET /cluster HTTP/1.1\r\nhost: evil.example\r\n\r\n", b""), 403, "foreign"),
        (ask("POST", "/partitions/rebalance", "origin: http://evil.example\r\n", b""), 403, "foreign"),
        (send("not http at all\r\n\r\n", b""), 400, "bad_request"),
    ] {
        assert_eq!(answer.status, status, "{code}: {}", answer.text());
        if status >= 400 {
            assert_eq!(answer.refused(), code);
        }
    }
    let sent = "PUT /kv/big HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n";
    let mut chunks = Vec::new();
    for _ in 0..5 {
        chunks.extend_from_slice(b"100000\r\n");
        chunks.resize(chunks.len() + (1 << 20), b'x');
        chunks.extend_from_slice(b"\r\n");
    }
    assert_eq!(send(sent, &chunks).refused(), "too_large");
    assert_eq!(get("/kv/big").status, 404);
}

#[test]
fn a_wrong_method_is_told_the_right_ones() {
    for (method, path, allowed) in [
        ("POST", "/cluster", "GET"),
        ("PUT", "/partitions", "GET"),
        ("GET", "/partitions/rebalance", "POST"),
        ("GET", "/partitions/full-sync", "POST"),
        ("GET", "/partitions/partition-0/push", "POST"),
        ("POST", "/moves", "GET"),
        ("POST", "/kv/a", "PUT"),
        ("OPTIONS", "/health", "GET"),
    ] {
        let answer = ask(method, path, "", b"");
        assert_eq!((answer.status, &*answer.refused()), (405, "method_not_allowed"));
        assert!(answer.header("allow").is_some_and(|allow| allow.contains(allowed)), "{method} {path}");
    }
}

#[test]
fn shapes_are_exact() {
    let boot = format!("{:x}", NODE.id().boot.0);
    assert_eq!(get("/health").json(), json!({"status": "alive", "name": "node-1", "boot": boot}));
    // Another test's worker may be starting anew at this moment.
    let begun = Instant::now();
    while get("/ready").status != 200 {
        assert!(begun.elapsed() < PATIENCE, "the node is never ready: {:?}", NODE.not_ready());
        std::thread::yield_now();
    }
    assert_eq!(get("/ready").json(), json!({"ready": true}));
    let partition = |index: u32| {
        let epoch = NODE.partition(&format!("partition-{index}")).unwrap().epoch.0;
        json!({"id": format!("partition-{index}"), "primary_node": "node-1", "replica_nodes": [], "epoch": epoch})
    };
    let all: Vec<Value> = (0..16).map(partition).collect();
    assert_eq!(get("/partitions").json(), json!({"partitions": all, "count": 16}));
    assert_eq!(get("/nodes/node-1/partitions").json(), json!({"partitions": all, "count": 16}));
    // What its primary tells of it stands beside what the plan says.
    let told = get("/partitions/partition-3").json();
    for (field, value) in partition(3).as_object().unwrap() {
        assert_eq!(told[field], *value, "{field} in {told}");
    }
    assert_eq!((&told["state"], told["copies"].as_array().map(Vec::len)), (&json!("serving"), Some(1)));
    let stats = json!({"total_partitions": 16, "partitions_per_node": {"node-1": 16}, "replicas_per_node": {"node-1": 0}});
    assert_eq!(get("/partitions/stats").json(), stats);
    for key in ["user:1001", "€", "a/b", " "] {
        let encoded: String = key.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let index = NODE.partition_for_key(key).unwrap().id.index;
        assert_eq!(get(&format!("/partitions/key?key={encoded}")).json(), partition(index));
    }
    let plan = NODE.snapshot().unwrap();
    let cluster = json!({
        "name": "shop",
        "id": plan.cluster.to_string(),
        "version": plan.version.0,
        "term": plan.term.0,
        "leader": "node-1",
        "mode": "sync",
        "nodes": [{
            "name": "node-1", "state": "up", "votes": true, "boot": boot, "address": NODE.address(), "http": address().to_string(),
            "zone": null, "weight": 100, "services": ["counter", "kv"],
        }],
    });
    assert_eq!(get("/cluster").json(), cluster);
    let config = get("/config").json();
    assert_eq!((&config["partitions"], &config["name"]), (&json!(16), &json!("node-1")));
    let version = plan.version.0;
    assert_eq!(
        ask("POST", "/partitions", "", b"").json(),
        json!({"version": version, "count": 16, "changed": false})
    );
    let nothing = json!({"version": version, "moved": 0, "lower_bound": 0, "changed": false});
    assert_eq!(ask("POST", "/partitions/rebalance", "", b"{}").json(), nothing);
    let preview = get("/plan?add=1").json();
    assert_eq!(preview["moved"], preview["lower_bound"]);
    assert!(preview["moves"][0]["partition"].as_str().unwrap().starts_with("partition-"));
}

#[test]
fn answers_carry_tags() {
    let hash = format!("\"{:016x}\"", NODE.snapshot().unwrap().hash);
    let by_plan = ["/partitions", "/partitions/stats", "/partitions/key?key=a", "/nodes/node-1/partitions"];
    for path in by_plan {
        let first = get(path);
        assert_eq!(first.header("etag"), Some(&*hash), "{path}");
        let again = ask("GET", path, &format!("if-none-match: {hash}\r\n"), b"");
        assert_eq!((again.status, again.body.len()), (304, 0), "{path}");
        assert_eq!(ask("GET", path, "if-none-match: \"0\"\r\n", b"").status, 200, "{path}");
    }
    for path in ["/cluster", "/config"] {
        let tag = get(path).header("etag").unwrap().to_owned();
        assert_eq!(ask("GET", path, &format!("if-none-match: {tag}\r\n"), b"").status, 304, "{path}");
    }
}

#[test]
fn events_are_numbered_and_begin_with_the_plan_in_force() {
    let (id, data) = next_event(&mut listen(address()));
    assert_eq!((&data["event"], &data["version"]), (&json!("snapshot"), &json!(NODE.current_epoch().0)));
    assert!(id.starts_with(&format!("{:x}-", NODE.id().boot.0)));
}

#[test]
fn connections_are_kept_for_more_requests() {
    let mut stream = TcpStream::connect(address()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let since = Instant::now();
    for _ in 0..20 {
        stream.write_all(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
        let answer = read_answer(&mut BufReader::new(&stream), false);
        assert_eq!(answer.status, 200);
    }
    assert!(since.elapsed() < PATIENCE);
}

#[test]
fn a_second_node_in_one_process_is_refused() {
    assert!(NODE.not_ready().is_none());
    let second = Node::builder("shop", "node-2").listen("127.0.0.1:0").start();
    let refused = RUNTIME.block_on(second).unwrap_err();
    assert!(refused.to_string().contains("this process has a node on the network already"), "{refused}");
}

#[test]
fn a_port_in_use_is_told_with_its_address() {
    let taken = address().to_string();
    let refused = RUNTIME.block_on(Node::builder("shop", "node-2").listen(&taken).start()).unwrap_err();
    assert!(matches!(&refused, Error::Bind { address, .. } if *address == taken), "{refused}");
    let refused = Node::builder("shop", "node-2").listen("127.0.0.1:0").http(&taken).start();
    let refused = RUNTIME.block_on(refused).unwrap_err();
    assert!(
        refused.to_string().starts_with(&format!("the HTTP port {taken} cannot be listened at")),
        "{refused}"
    );
}

#[test]
fn all_that_is_wrong_is_told_at_once() {
    let wrong =
        Node::builder("shop", "a b").partitions(0).lease(Duration::from_millis(100)).set("heartbeat", "soon");
    let refused = RUNTIME.block_on(wrong.start()).unwrap_err();
    let Error::Config(errors) = &refused else { panic!("{refused}") };
    assert!(errors.problems().len() >= 3, "{refused}");
    let twice = Node::builder("shop", "node-2").kv().kv();
    let refused = RUNTIME.block_on(twice.start()).unwrap_err();
    assert!(refused.to_string().contains("kv is registered twice"), "{refused}");
    // What sides of a split cluster kept of it could not be made one.
    let keeps = Node::builder("shop", "node-2").consistency(tumen::Consistency::Available).kv();
    let refused = RUNTIME.block_on(keeps.start()).unwrap_err();
    assert!(matches!(&refused, Error::Unmergeable { kinds } if *kinds == ["kv"]), "{refused}");
    assert_eq!((refused.code(), refused.to_string().contains(".merges()")), ("workers", true), "{refused}");
}
