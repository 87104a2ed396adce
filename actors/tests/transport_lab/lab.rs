//! A laboratory for transports: nodes that do as they are told, and the stories that both adapters live through.
//!
//! A node takes orders as lines of text, so that it makes no difference whether it lives in this process or in another.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;
use tumen_actors::transport::{
    BulkStream, CHUNK_LEN_MAX, Channel, Event, Incoming, SendError, Service, Session, Transport,
};
use tumen_core::cluster::greeting::Greeting;
use tumen_core::cluster::member::NodeInfo;
use tumen_core::ids::{Boot, ClusterName, NodeBoot, NodeName};
use tumen_core::wire::PROTOCOL;

pub fn name(text: &str) -> NodeName {
    NodeName::new(text).expect("a name")
}

/// What a test node says of itself.
pub fn greeting(cluster: &str, node: &str, boot: u64, address: &str, protocol: u16) -> Greeting {
    Greeting {
        modes: Vec::new(),
        protocol,
        cluster: ClusterName::new(cluster).expect("a name"),
        belongs: None,
        info: NodeInfo {
            id: NodeBoot::new(name(node), Boot(boot)),
            address: address.to_owned(),
            http: None,
            zone: None,
            weight: 100,
            services: Vec::new(),
            protocol,
        },
        groups: Vec::new(),
        lease: tumen_core::cluster::lease::Config::default(),
        consistency: tumen_core::cluster::sides::Consistency::Majority,
    }
}

/// How a node of the laboratory is started.
#[derive(Clone, Debug)]
pub struct Start {
    pub node: String,
    pub cluster: String,
    pub cookie: String,
    pub protocol: u16,
}

impl Start {
    pub fn new(node: &str) -> Self {
        Self { node: node.into(), cluster: "lab".into(), cookie: "secret".into(), protocol: PROTOCOL }
    }
}

/// Runs nodes of one kind of transport.
pub trait Lab {
    /// Starts a node, or a new run of one, and returns its address, the same for every run. The laboratory
    /// calls it `label`, which is its name unless two have the same.
    async fn start_as(&mut self, label: &str, start: Start) -> String;
    /// Has a node carry out an order.
    async fn order(&mut self, node: &str, order: &str) -> String;
    /// `kill -9`.
    async fn kill(&mut self, node: &str);
    /// SIGSTOP.
    async fn freeze(&mut self, node: &str);
    /// SIGCONT.
    async fn thaw(&mut self, node: &str);

    async fn start(&mut self, start: Start) -> String {
        let label = start.node.clone();
        self.start_as(&label, start).await
    }

    /// Gives an order again and again until the answer is as wanted.
    async fn until(&mut self, node: &str, order: &str, wanted: impl Fn(&str) -> bool) -> String {
        let begin = tokio::time::Instant::now();
        loop {
            let answer = self.order(node, order).await;
            if wanted(&answer) {
                return answer;
            }
            assert!(begin.elapsed() < Duration::from_secs(20), "{node} {order}: still {answer:?}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    async fn connected(&mut self, node: &str, peers: &[&str]) {
        self.until(node, "sessions", |answer| answer == peers.join(" ")).await;
    }
}

/// A node that does as it is told.
pub struct TestNode {
    transport: Transport,
    log: Arc<Mutex<Vec<String>>>,
    /// Whether copies that are to be held are taken by now.
    taking: watch::Sender<bool>,
}

impl TestNode {
    pub fn new(transport: Transport) -> Self {
        let log: Arc<Mutex<Vec<String>>> = Arc::default();
        let write = {
            let log = Arc::clone(&log);
            move |line: String| log.lock().expect("no panic").push(line)
        };
        transport.subscribe({
            let write = write.clone();
            Arc::new(move |event| write(describe(&event)))
        });
        transport.on_control(Channel::Application, {
            let write = write.clone();
            Arc::new(move |from: &Session, body: Bytes| {
                write(format!("heard {} {}", from.peer.node, String::from_utf8_lossy(&body)));
            })
        });
        transport.on_control(Channel::Topic, Arc::new(|_: &Session, _: Bytes| {}));
        // An echo that measures the control lane: a ping goes back as a pong.
        transport.on_control(Channel::Gossip, {
            let transport = transport.clone();
            Arc::new(move |from: &Session, body: Bytes| {
                if body.starts_with(b"ping") {
                    let _ = transport.cast(&from.peer.node, Channel::Gossip, b"pong");
                } else {
                    write(format!("pong {}", from.peer.node));
                }
            })
        });
        transport.serve(Service::Application, Arc::new(|batch: &mut Vec<Incoming>| answer(batch)));
        let taking = watch::Sender::new(false);
        transport.serve_bulk(Service::Application, {
            let taking = taking.clone();
            Arc::new(move |stream: BulkStream| drop(tokio::spawn(take(stream, taking.subscribe()))))
        });
        transport.start();
        Self { transport, log, taking }
    }

    #[allow(dead_code, reason = "only a world that is simulated wants to know")]
    pub fn local(&self) -> &NodeBoot {
        self.transport.local()
    }

    /// Carries out one order.
    pub async fn order(&self, order: &str) -> String {
        let words: Vec<&str> = order.split(' ').collect();
        match words[..] {
            ["meet", address] => self.transport.meet(address),
            ["remember", node, address] => self.transport.remember(&name(node), address),
            ["forget", node] => self.transport.forget(&name(node)),
            ["sessions"] => {
                let sessions = self.transport.sessions();
                return sessions.iter().map(|s| s.peer.node.to_string()).collect::<Vec<_>>().join(" ");
            }
            ["log"] => return self.log.lock().expect("no panic").join(", "),
            ["clear"] => self.log.lock().expect("no panic").clear(),
            ["cast", to, text] => {
                let sent = self.transport.cast(&name(to), Channel::Application, text.as_bytes());
                return sent.map_or_else(|e| e.to_string(), |()| "ok".to_owned());
            }
            ["casts", to, count] => {
                for number in 0..count.parse::<u32>().expect("a number") {
                    let body = number.to_string();
                    while self.transport.cast(&name(to), Channel::Application, body.as_bytes())
                        == Err(SendError::Overloaded)
                    {
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                }
            }
            ["call", to, text] => return self.call(to, text, Duration::from_secs(10)).await,
            ["call", to, text, millis] => {
                let within = Duration::from_millis(millis.parse().expect("a number"));
                return self.call(to, text, within).await;
            }
            ["flood", to, len] => return self.flood(&name(to), len.parse().expect("a number")),
            ["ping", to] => {
                let sent = self.transport.cast(&name(to), Channel::Gossip, b"ping");
                return sent.map_or_else(|e| e.to_string(), |()| "ok".to_owned());
            }
            ["copy", to, chunks] => {
                return copy(&self.transport, to, "a copy", chunks.parse().expect("a number")).await;
            }
            // In the background; it is told in the log.
            ["copy", "held", to, chunks] => {
                let (transport, to, log) = (self.transport.clone(), to.to_owned(), Arc::clone(&self.log));
                let chunks = chunks.parse().expect("a number");
                tokio::spawn(async move {
                    let answer = copy(&transport, &to, "a held copy", chunks).await;
                    log.lock().expect("no panic").push(answer);
                });
            }
            ["take", "held"] => drop(self.taking.send_replace(true)),
            ["probe", address, millis] => {
                let within = Duration::from_millis(millis.parse().expect("a number"));
                return format!("{:?}", self.transport.probe(address, within).await);
            }
            ["disconnect", to] => {
                let sessions = self.transport.sessions();
                for session in sessions.iter().filter(|session| session.peer.node.as_str() == to) {
                    self.transport.disconnect(&session.peer);
                }
            }
            ["counts"] => return format!("{:?}", self.transport.counts()),
            ["stop"] => self.transport.stop().await,
            _ => panic!("unknown order {order:?}"),
        }
        "ok".to_owned()
    }

    async fn call(&self, to: &str, text: &str, within: Duration) -> String {
        let encode = |buffer: &mut bytes::BytesMut| buffer.extend_from_slice(text.as_bytes());
        match self.transport.call(&name(to), Service::Application, within, encode).await {
            Ok(reply) => String::from_utf8_lossy(&reply).into_owned(),
            Err(error) => format!("{error:?}"),
        }
    }

    /// Sends until nothing more is taken, on both lanes; tells how many bytes were.
    fn flood(&self, to: &NodeName, len: usize) -> String {
        let body = vec![7_u8; len];
        let (mut casts, mut requests) = (0, 0);
        while self.transport.cast(to, Channel::Topic, &body).is_ok() {
            casts += 1;
        }
        let refused = Arc::new(Mutex::new(None));
        while refused.lock().expect("no panic").is_none() {
            let refused = Arc::clone(&refused);
            let encode = |buffer: &mut bytes::BytesMut| buffer.extend_from_slice(&body);
            let within = Duration::from_secs(60);
            self.transport.request(to, Service::Application, within, encode, move |outcome| {
                if let Err(error) = outcome {
                    *refused.lock().expect("no panic") = Some(error);
                }
            });
            requests += 1;
        }
        let why = self.transport.cast(to, Channel::Topic, &body);
        format!("{} {} {why:?}", casts * len, requests * len)
    }
}

async fn copy(transport: &Transport, to: &str, header: &'static str, chunks: usize) -> String {
    let copy = async {
        let header = Bytes::from_static(header.as_bytes());
        let mut sink = transport.open_bulk(&name(to), Service::Application, header).await?;
        let chunk = Bytes::from(vec![1_u8; CHUNK_LEN_MAX]);
        for _ in 0..chunks {
            sink.send(chunk.clone()).await?;
        }
        sink.finish().await
    };
    match copy.await {
        Ok(answer) => String::from_utf8_lossy(&answer).into_owned(),
        Err(error) => format!("{error:?}"),
    }
}

fn answer(batch: &mut Vec<Incoming>) {
    for incoming in batch.drain(..) {
        match incoming.body.as_ref() {
            b"drop" => drop(incoming),
            b"hold" => std::mem::forget(incoming),
            body if body.starts_with(b"late") => drop(tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(300)).await;
                incoming.reply.send(b"late");
            })),
            body => {
                let body = body.to_vec();
                incoming.reply.send(&body);
            }
        }
    }
}

async fn take(mut stream: BulkStream, mut taking: watch::Receiver<bool>) {
    if stream.header().as_ref() == b"a held copy" {
        // Where the sender is gone the node is, too.
        drop(taking.wait_for(|taking| *taking).await);
    }
    let mut len = 0;
    while let Some(chunk) = stream.next().await {
        let Ok(chunk) = chunk else { return };
        len += chunk.len();
    }
    let header = String::from_utf8_lossy(stream.header()).into_owned();
    stream.answer(Bytes::from(format!("{header} of {len}")));
}

fn describe(event: &Event) -> String {
    match event {
        Event::SessionUp { peer, session } => format!("up {} {session}", peer.info.id.node),
        Event::SessionDown { peer, session, reason } => format!("down {} {session} {reason:?}", peer.node),
        Event::Refused { refusal, by_us, .. } => {
            let kind = format!("{refusal:?}");
            let kind = kind.split([' ', '(']).next().unwrap_or_default().to_owned();
            format!("refused {kind} {}", if *by_us { "by us" } else { "by them" })
        }
        Event::DialFailed { probe, .. } => format!("failed {probe:?}"),
    }
}

// The stories.

pub async fn two_nodes_meet_talk_and_keep_order(lab: &mut impl Lab) {
    let a = lab.start(Start::new("a")).await;
    lab.start(Start::new("b")).await;
    // The larger name was told of the smaller one: the seed's own direction stays.
    lab.order("b", &format!("meet {a}")).await;
    lab.connected("a", &["b"]).await;
    lab.connected("b", &["a"]).await;
    assert_eq!(lab.order("a", "call b hello").await, "hello");
    assert_eq!(lab.order("b", "call a hello").await, "hello");
    lab.order("a", "clear").await;
    assert_eq!(lab.order("b", "casts a 1000").await, "ok");
    let wanted = (0..1000).map(|number| format!("heard b {number}")).collect::<Vec<_>>().join(", ");
    lab.until("a", "log", |log| log == wanted).await;
    assert_eq!(lab.order("a", "cast c hello").await, SendError::NoSession.to_string());
    assert_eq!(lab.order("a", "call c hello").await, "NotSent(NoSession)");
}

pub async fn every_request_ends(lab: &mut impl Lab) {
    let a = lab.start(Start::new("a")).await;
    lab.start(Start::new("b")).await;
    lab.order("b", &format!("meet {a}")).await;
    lab.connected("a", &["b"]).await;
    assert_eq!(lab.order("a", "call b late").await, "late");
    assert_eq!(lab.order("a", "call b drop").await, "Unanswered");
    assert_eq!(lab.order("a", "call b hold 100").await, "Timeout");
    // The lane is none the worse for it.
    assert_eq!(lab.order("a", "call b hello").await, "hello");
}

pub async fn a_copy_arrives_whole(lab: &mut impl Lab) {
    let a = lab.start(Start::new("a")).await;
    lab.start(Start::new("b")).await;
    lab.order("b", &format!("meet {a}")).await;
    lab.connected("a", &["b"]).await;
    lab.connected("b", &["a"]).await;
    let wanted = format!("a copy of {}", 40 * CHUNK_LEN_MAX);
    assert_eq!(lab.order("a", "copy b 40").await, wanted);
    assert_eq!(lab.order("b", "copy a 40").await, wanted);
    assert_eq!(lab.order("b", "copy a 0").await, "a copy of 0");
}

/// A copy that nobody takes never ends: what came behind it would never arrive.
pub async fn what_is_said_and_asked_never_waits_behind_a_copy(lab: &mut impl Lab) {
    let a = lab.start(Start::new("a")).await;
    lab.start(Start::new("b")).await;
    lab.order("b", &format!("meet {a}")).await;
    lab.connected("a", &["b"]).await;
    lab.connected("b", &["a"]).await;
    lab.order("a", "clear").await;
    for number in 1..=3 {
        lab.order("a", "copy held b 64").await;
        lab.order("a", "ping b").await;
        let wanted = vec!["pong b"; number].join(", ");
        lab.until("a", "log", |log| log == wanted).await;
        assert_eq!(lab.order("a", "call b hello").await, "hello");
        assert_eq!(lab.order("b", "call a hello").await, "hello");
    }
    lab.order("b", "take held").await;
    let copied = vec![format!("a held copy of {}", 64 * CHUNK_LEN_MAX); 3].join(", ");
    lab.until("a", "log", |log| log == format!("pong b, pong b, pong b, {copied}")).await;
}

pub async fn nodes_that_dial_each_other_at_once_share_one_session(lab: &mut impl Lab) {
    let a = lab.start(Start::new("a")).await;
    let b = lab.start(Start::new("b")).await;
    for (node, address) in [("a", &b), ("b", &a)] {
        lab.order(node, &format!("meet {address}")).await;
        lab.order(node, &format!("meet {}", address.replace("127.0.0.1", "localhost"))).await;
        lab.order(node, &format!("remember {} {address}", if node == "a" { "b" } else { "a" })).await;
    }
    lab.connected("a", &["b"]).await;
    lab.connected("b", &["a"]).await;
    assert_eq!(lab.order("a", "call b hello").await, "hello");
    assert_eq!(lab.order("b", "call a hello").await, "hello");
}

pub async fn a_killed_node_is_noticed_and_its_address_refuses(lab: &mut impl Lab) {
    let a = lab.start(Start::new("a")).await;
    let b = lab.start(Start::new("b")).await;
    lab.order("b", &format!("meet {a}")).await;
    lab.connected("a", &["b"]).await;
    assert_eq!(lab.order("a", &format!("probe {b} 1000")).await, "Accepted");
    lab.kill("b").await;
    lab.until("a", "log", |log| log.contains("down b 1 Closed")).await;
    assert_eq!(lab.order("a", &format!("probe {b} 1000")).await, "Refused");
    assert_eq!(lab.order("a", "call b hello").await, "NotSent(NoSession)");
    lab.connected("a", &[]).await;
}

pub async fn a_node_restarted_ten_times_is_found_each_time(lab: &mut impl Lab) {
    let a = lab.start(Start::new("a")).await;
    let b = lab.start(Start::new("b")).await;
    let c = lab.start(Start::new("c")).await;
    for (node, address) in [("a", &a), ("b", &b), ("c", &c)] {
        for other in ["a", "b", "c"].into_iter().filter(|other| *other != node) {
            lab.order(other, &format!("remember {node} {address}")).await;
        }
    }
    for round in 0..10 {
        // Once the seed of all, which forgets everybody, once the last in the alphabet.
        let (node, others) = if round % 2 == 0 { ("a", ["b", "c"]) } else { ("c", ["a", "b"]) };
        lab.kill(node).await;
        lab.start(Start::new(node)).await;
        let begun = tokio::time::Instant::now();
        lab.connected(node, &others).await;
        assert!(begun.elapsed() < Duration::from_secs(3), "{node} was found late: {:?}", begun.elapsed());
        for other in others {
            let all: Vec<&str> = ["a", "b", "c"].into_iter().filter(|name| *name != other).collect();
            lab.connected(other, &all).await;
            assert_eq!(lab.order(other, &format!("call {node} hello")).await, "hello");
        }
        for other in others {
            let address = if other == "a" {
                &a
            } else if other == "b" {
                &b
            } else {
                &c
            };
            lab.order(node, &format!("remember {other} {address}")).await;
        }
    }
}

pub async fn a_frozen_node_is_suspected_bounds_what_waits_and_comes_back(lab: &mut impl Lab) {
    let a = lab.start(Start::new("a")).await;
    let b = lab.start(Start::new("b")).await;
    lab.order("a", &format!("remember b {b}")).await;
    lab.order("b", &format!("remember a {a}")).await;
    lab.connected("a", &["b"]).await;
    lab.connected("b", &["a"]).await;
    lab.freeze("b").await;
    let flood = lab.order("a", "flood b 65536").await;
    let sent: Vec<usize> = flood.split(' ').take(2).map(|n| n.parse().expect("a number")).collect();
    assert!(sent[0] <= 4 << 20 && sent[1] <= (32 << 20) + 65_536, "unbounded: {flood}");
    assert!(flood.ends_with("Err(Overloaded)"), "{flood}");
    assert_eq!(lab.order("a", &format!("probe {b} 200")).await, "Accepted");
    lab.until("a", "log", |log| log.contains("down b 1 Silence")).await;
    lab.thaw("b").await;
    lab.connected("a", &["b"]).await;
    lab.until("b", "log", |log| log.contains("up a 2")).await;
    assert_eq!(lab.order("a", "call b hello").await, "hello");
}

pub async fn strangers_are_refused_with_the_reason_on_both_sides(lab: &mut impl Lab) {
    let a = lab.start(Start::new("a")).await;
    let strangers = [
        (Start { cookie: "wrong".into(), ..Start::new("b") }, "Cookie"),
        (Start { cluster: "other".into(), ..Start::new("c") }, "Cluster"),
        (Start { protocol: PROTOCOL + 1, ..Start::new("d") }, "Protocol"),
        (Start::new("a"), "NameTaken"),
    ];
    for (stranger, refusal) in strangers {
        let node = if stranger.node == "a" { "a2".to_owned() } else { stranger.node.clone() };
        lab.start_as(&node, stranger).await;
        lab.order(&node, &format!("meet {a}")).await;
        lab.until(&node, "log", |log| log.contains(&format!("refused {refusal} by them"))).await;
        lab.until("a", "log", |log| log.contains(&format!("refused {refusal} by us"))).await;
        lab.kill(&node).await;
    }
    lab.order("a", &format!("meet {a}")).await;
    lab.until("a", "log", |log| log.contains("refused Itself")).await;
    lab.connected("a", &[]).await;
}

pub async fn a_living_node_keeps_its_name(lab: &mut impl Lab) {
    let a = lab.start(Start::new("a")).await;
    lab.start(Start::new("b")).await;
    lab.order("b", &format!("meet {a}")).await;
    lab.connected("a", &["b"]).await;
    lab.start_as("b2", Start::new("b")).await;
    lab.order("b2", &format!("meet {a}")).await;
    lab.until("b2", "log", |log| log.contains("refused NameTaken by them")).await;
    assert_eq!(lab.order("a", "call b hello").await, "hello");
    // Once it is gone, the name is free.
    lab.kill("b").await;
    lab.connected("b2", &["a"]).await;
}

pub async fn a_session_that_was_ended_is_followed_by_a_new_one(lab: &mut impl Lab) {
    let a = lab.start(Start::new("a")).await;
    let b = lab.start(Start::new("b")).await;
    lab.order("a", &format!("remember b {b}")).await;
    lab.order("b", &format!("remember a {a}")).await;
    lab.connected("b", &["a"]).await;
    lab.order("b", "disconnect a").await;
    lab.until("b", "log", |log| log.contains("up a 1") && log.contains("down a 1 Disconnected, up a 2"))
        .await;
    lab.until("a", "log", |log| log.contains("down b 1 Closed, up b 2")).await;
}

pub async fn who_stops_is_heard_to_the_last_word(lab: &mut impl Lab) {
    let a = lab.start(Start::new("a")).await;
    lab.start(Start::new("b")).await;
    lab.order("b", &format!("meet {a}")).await;
    lab.connected("b", &["a"]).await;
    lab.order("b", "casts a 500").await;
    lab.order("b", "stop").await;
    lab.until("a", "log", |log| log.ends_with("heard b 499, down b 1 Closed")).await;
    assert_eq!(lab.order("b", "cast a more").await, SendError::NoSession.to_string());
}
