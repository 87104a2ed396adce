//! Topics and groups through the facade, HTTP and the command line, between two nodes in two processes.
//!
//! The other process runs this very test binary, which becomes a node where the environment says so.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/http.rs"]
mod http;

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::json;
use tumen::Heard;
use tumen::node::Sent;
use tumen::prelude::*;
use tumen::ractor::{self, Actor, ActorProcessingErr, ActorRef, RpcReplyPort};

/// The cluster port of the node that the other process is to join.
const JOIN: &str = "FACADE_PUBSUB_JOIN";
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

#[derive(Serialize, Deserialize)]
struct Load;

impl Message for Load {
    type Reply = u64;
}

/// An actor that hears prices, and says how many cents it heard of.
struct Sensor {
    silent: bool,
}

enum SensorMsg {
    Heard(Heard<Price>, tumen::Taken),
    Load(RpcReplyPort<u64>),
}

impl ractor::Message for SensorMsg {}

impl Actor for Sensor {
    type Msg = SensorMsg;
    type State = (u64, Vec<RpcReplyPort<u64>>);
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<SensorMsg>, (): ()) -> Result<Self::State, ActorProcessingErr> {
        Ok((0, Vec::new()))
    }

    async fn handle(
        &self,
        _: ActorRef<SensorMsg>,
        message: SensorMsg,
        (cents, kept): &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            SensorMsg::Heard(Heard::Said { value, .. }, _taken) => *cents += value.cents,
            SensorMsg::Heard(..) => {}
            SensorMsg::Load(reply) if self.silent => kept.push(reply),
            SensorMsg::Load(reply) => reply.send(*cents)?,
        }
        Ok(())
    }
}

async fn sensor(silent: bool) -> ActorRef<SensorMsg> {
    Actor::spawn(None, Sensor { silent }, ()).await.unwrap().0
}

fn builder(name: &str) -> tumen::Builder {
    Node::builder("pubsub", name).listen("127.0.0.1:0").partitions(4)
}

/// The other process: a sensor that hears prices, and one that answers nothing.
#[test]
fn a_process_becomes_a_node() {
    let Some(join) = std::env::var_os(JOIN) else { return };
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let node = builder("node-2").join([join.to_str().unwrap()]).start().await.unwrap();
        let (hears, silent) = (sensor(false).await, sensor(true).await);
        node.topic("prices").unwrap().subscribe_actor(&hears, 2, SensorMsg::Heard);
        let sensors = node.group::<Load>("sensors").unwrap();
        for sensor in [&hears, &silent] {
            let hosted = node.host(sensor, |_: Load, reply| SensorMsg::Load(reply));
            assert!(sensors.join(&hosted).unwrap());
        }
        std::future::pending::<()>().await;
    });
}

struct Other(Child);

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = std::time::Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < PATIENCE, "still not so: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[test]
fn topics_and_groups_reach_other_processes_by_code_http_and_by_hand() {
    if std::env::var_os(JOIN).is_some() {
        return;
    }
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let node = builder("node-1").http("127.0.0.1:0").start().await.unwrap();
        node.ready().await.unwrap();
        let sensors = node.group::<Load>("sensors").unwrap();
        assert!(sensors.members().is_empty() && node.groups().is_empty() && node.topics().is_empty());
        assert_eq!(sensors.ask(Load).await.unwrap().replies.len(), 0, "nobody is asked");
        let other = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "a_process_becomes_a_node"])
            .env(JOIN, node.address())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let other = Other(other);
        let own = sensor(false).await;
        let hosted = node.host(&own, |_: Load, reply| SensorMsg::Load(reply));
        assert!(sensors.join(&hosted).unwrap() && !sensors.join(&hosted).unwrap());
        assert_eq!(sensors.local_members(), [hosted.remote()]);
        until("all members are known", || sensors.members().len() == 3).await;

        // By code: heard by the other process's actor, and counted.
        let prices = node.topic::<Price>("prices").unwrap();
        until("it is known who listens", || node.topics().iter().any(|seen| !seen.remote.is_empty())).await;
        let mut heard = prices.subscribe();
        for cents in 1..=100 {
            let published = prices.publish(&price(cents)).await.unwrap();
            assert_eq!((published.local, published.remote, published.nodes, published.lost), (1, 1, 1, 0));
        }
        // By HTTP: JSON is read as what the subscribers take.
        let at = node.http_address().unwrap();
        let post = |path: &str, body: &str| {
            let len = body.len();
            let head = format!(
                "POST {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {len}\r\n\r\n"
            );
            http::send(at, &head, body.as_bytes())
        };
        let answer = tokio::task::block_in_place(|| post("/topics/prices", r#"{"item":"tea","cents":1000}"#));
        assert_eq!(answer.json(), json!({"local": 1, "remote": 1, "nodes": 1, "lost": 0}));
        let local =
            tokio::task::block_in_place(|| post("/topics/prices?local=true", r#"{"item":"tea","cents":0}"#));
        assert_eq!(local.json(), json!({"local": 1, "remote": 0, "nodes": 0, "lost": 0}));
        for (path, body) in [("/topics/prices", "{"), ("/topics/prices?loud=true", "1"), ("/topics/%FF", "1")]
        {
            let refused = tokio::task::block_in_place(|| post(path, body));
            assert_eq!((refused.status, refused.refused()), (400, "bad_request".to_owned()), "{path}");
        }
        let name = "x".repeat(256);
        let refused = tokio::task::block_in_place(|| post(&format!("/topics/{name}"), "1"));
        assert_eq!((refused.status, refused.refused()), (400, "topic".to_owned()));
        for cents in (1..=100).chain([1000, 0]) {
            let news = tokio::time::timeout(PATIENCE, heard.next()).await.unwrap().unwrap();
            assert_eq!(news, Heard::Said { from: node.id().clone(), value: price(cents) });
        }

        // All members are asked; one of them is silent. What it hears and what it is asked come on two ways.
        let mut total = 0;
        let begun = std::time::Instant::now();
        while total != 5050 + 1000 {
            assert!(begun.elapsed() < PATIENCE, "{total}");
            let gathered = sensors.ask_within(Load, Duration::from_millis(500)).await.unwrap();
            assert_eq!(gathered.replies.len() + gathered.silent.len(), 3);
            // What runs on a node that has no lease yet answers nothing.
            if let [(member, why)] = &gathered.silent[..] {
                let told = (member.node().node.as_str(), why.code(), why.changed());
                assert_eq!(told, ("node-2", "timeout", None));
                total = gathered.replies.iter().map(|(_, cents)| cents).sum();
            }
        }
        assert_eq!(sensors.cast(Load).unwrap(), Sent { sent: 3, not_sent: 0 });

        by_hand(at.to_string()).await;

        drop(other);
        until("members of a process that is gone are none", || sensors.members() == [hosted.remote()]).await;
        until("nobody is sent to", || node.topics().iter().all(|seen| seen.remote.is_empty())).await;
        own.stop(None);
        until("who ended is no member", || node.groups().is_empty()).await;
        node.stop().await;
        assert!(matches!(sensors.ask(Load).await, Err(Error::Stopped)));
        assert!(matches!(sensors.join(&hosted), Err(Error::Stopped)));
    });
}

/// What a person sees of it.
async fn by_hand(at: String) {
    let tumen = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tumen"));
        let told = command.args(args).args(["--http", &at]).output().unwrap();
        assert!(told.status.success(), "{args:?}: {}", String::from_utf8_lossy(&told.stderr));
        String::from_utf8(told.stdout).unwrap()
    };
    tokio::task::block_in_place(|| {
        assert!(tumen(&["topics"]).contains("node-2 (1)"), "{}", tumen(&["topics"]));
        let said = tumen(&["publish", "prices", r#"{"item":"tea","cents":0}"#]);
        assert_eq!(said.trim(), "said to 1 here and 1 on 1 other nodes");
        assert!(tumen(&["publish", "state", "--retain", "--text", "open"]).contains("said to 0 here"));
        assert!(tumen(&["topics"]).lines().any(|line| line.contains("state") && line.contains("node-1")));
        let groups: serde_json::Value = serde_json::from_str(&tumen(&["groups", "--json"])).unwrap();
        assert_eq!(groups["groups"], json!([{"name": "sensors", "members": 3, "local": 1}]));
        let members = tumen(&["groups", "sensors"]);
        assert_eq!(members.lines().filter(|line| line.contains("node-")).count(), 3, "{members}");
        let head = "GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
        let metrics = http::send(at.parse().unwrap(), head, b"").text();
        for line in ["tumen_topic_published_total 104", "tumen_groups 1", "tumen_group_members 1"] {
            assert!(metrics.lines().any(|there| there == line), "{line}: {metrics}");
        }
    });
}
