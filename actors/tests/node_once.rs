//! What a replicated worker is told to do takes effect once: on whole nodes, over the simulated network.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends there")]

mod nodes;

use std::time::Duration;

use bytes::{BufMut, Bytes};
use nodes::adder::{add, add_loosely, count, number};
use nodes::{replicated, three_of_them_vote};
use tumen_actors::node::Runtime;
use tumen_actors::partitions::router::{CallOptions, IdempotencyKey};
use tumen_actors::transport::simulated::{Weather, World};
use tumen_actors::transport::{Deadline, Service};
use tumen_core::cluster::snapshot::Mode;
use tumen_core::ids::{GroupId, PartitionId};
use tumen_core::partitions::identity::{Identity, Numbered, SessionId};
use tumen_core::partitions::request::{Failure, Header, MessageId, Reply};
use tumen_core::partitions::session::ask::Ask;

fn options() -> CallOptions {
    CallOptions { within: Duration::from_secs(20), ..CallOptions::default() }
}

async fn send(node: &Runtime, message: MessageId, name: &str, options: CallOptions) -> Result<u64, Failure> {
    let body = Bytes::copy_from_slice(name.as_bytes());
    number(node.router().call(name.as_bytes(), message, body, options).await)
}

async fn counted(node: &Runtime, name: &str) -> u64 {
    send(node, count(), name, options()).await.unwrap()
}

/// Which node is primary of the name's partition.
fn primary_of<'a>(nodes: &'a [Runtime], name: &str) -> &'a Runtime {
    let table = nodes[0].router().table();
    let primary = table.locate(name.as_bytes()).unwrap().primary.clone();
    nodes.iter().find(|node| *node.id() == primary).unwrap()
}

/// A name that one node is primary of.
fn name_on(nodes: &[Runtime], primary: &Runtime, prefix: &str) -> String {
    let mut names = (0..1000).map(|n| format!("{prefix}:{n}"));
    names.find(|name| primary_of(nodes, name).id() == primary.id()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn calls_of_replicated_workers_are_numbered_and_answered() {
    let world = World::new(11, Weather::default());
    let nodes = replicated(&world, 3, Mode::Sync).await;
    for round in 1..=3 {
        for node in &nodes {
            for n in 0..20 {
                send(node, add(), &format!("user:{n}"), options()).await.unwrap();
            }
        }
        for n in 0..20 {
            assert_eq!(counted(&nodes[0], &format!("user:{n}")).await, round * 3);
        }
    }
    for node in &nodes {
        node.stop().await;
    }
}

/// One frame, as the data lane carries it.
async fn frame(from: &Runtime, to: &Runtime, header: Header, body: &[u8]) -> Bytes {
    let encode = |buffer: &mut bytes::BytesMut| {
        header.encode(buffer);
        buffer.put_slice(body);
    };
    let within = Deadline::after(Duration::from_secs(5));
    from.transport().ask(&to.id().node, Service::Partition, within, encode).await.unwrap().unwrap()
}

async fn open_session(from: &Runtime, partition: PartitionId, nonce: u128) -> SessionId {
    let mut body = bytes::BytesMut::new();
    tumen_actors::codec::encode_body_into(&Ask::Open { nonce }, &mut body).unwrap();
    let reply = from.router().call_partition(partition, Ask::message(), body.freeze(), options()).await;
    tumen_actors::codec::decode_body(&reply.unwrap()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_frame_that_comes_twice_takes_effect_once_and_is_answered_the_same() {
    let world = World::new(12, Weather::default());
    let nodes = replicated(&world, 3, Mode::Sync).await;
    let name = name_on(&nodes, &nodes[1], "twice");
    let table = nodes[0].router().table().clone();
    let partition = table.partition_of(GroupId::Users, name.as_bytes()).unwrap();
    let fence = table.fence_of(partition).unwrap();
    let session = open_session(&nodes[0], partition, 7).await;
    assert_eq!(open_session(&nodes[2], partition, 7).await, session, "asked twice, it is the same");
    let identity = Some(Identity::Numbered(Numbered { session, number: 1, lowest: 1 }));
    let header = Header { fence, message: add(), identity };
    let first = frame(&nodes[0], &nodes[1], header, name.as_bytes()).await;
    let again = frame(&nodes[0], &nodes[1], header, name.as_bytes()).await;
    assert_eq!(first, again);
    assert_eq!(counted(&nodes[0], &name).await, 1);
    // At once, while the first is being handled: the second is told to come again, and finds the answer.
    let identity = Some(Identity::Numbered(Numbered { session, number: 2, lowest: 1 }));
    let header = Header { identity, ..header };
    let name = name_on(&nodes, &nodes[1], "slow");
    let both = (
        frame(&nodes[0], &nodes[1], header, name.as_bytes()),
        frame(&nodes[0], &nodes[1], header, name.as_bytes()),
    );
    let (one, other) = tokio::join!(both.0, both.1);
    assert_eq!(&other[..], [2], "come again");
    assert_eq!(frame(&nodes[0], &nodes[1], header, name.as_bytes()).await, one);
    let seen = nodes[0].router().call_partition(partition, count(), name.clone().into(), options()).await;
    assert_eq!(number(seen), Ok(1));
    // A session that is not there is said to have ended.
    let session = SessionId(tumen_core::partitions::identity::Position { sequence: 999_999, ..session.0 });
    let identity = Some(Identity::Numbered(Numbered { session, number: 1, lowest: 1 }));
    let expired = frame(&nodes[0], &nodes[1], Header { identity, ..header }, name.as_bytes()).await;
    assert_eq!(&expired[..], [4]);
}

#[tokio::test(start_paused = true)]
async fn increments_count_once_while_primaries_are_killed() {
    // Slow enough for much to be under way at any moment, and now and then a session breaks with all that is in it.
    let latency = Duration::from_millis(1)..Duration::from_millis(9);
    for (seed, mode) in [(13, Mode::Sync), (14, Mode::Sync), (15, Mode::Strong)] {
        let weather = Weather { latency: latency.clone(), breaks_per_million: 200 };
        let world = World::new(seed, weather);
        let mut nodes = replicated(&world, 4, mode).await;
        three_of_them_vote(&nodes).await;
        let client = nodes.remove(0);
        let victim = nodes.remove(usize::try_from(seed).unwrap() % 3);
        let names: Vec<String> = (0..40).map(|n| format!("k:{n}")).collect();
        let rounds = 100;
        let run = async |name: String| {
            let mut acknowledged = 0;
            for _ in 0..rounds {
                match send(&client, add(), &name, options()).await {
                    Ok(total) => {
                        acknowledged += 1;
                        assert_eq!(total, acknowledged, "{name} counts each once");
                    }
                    Err(failure) => panic!("{name}: {failure}"),
                }
            }
        };
        // In the midst of it: some of what it acknowledged to nobody is on the other copies.
        let kill = async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            world.crash(victim.id());
        };
        let all = futures_util::future::join_all(names.iter().cloned().map(run));
        tokio::join!(all, kill);
        for name in &names {
            assert_eq!(counted(&client, name).await, rounds, "{name}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_key_is_known_through_any_node_and_across_a_failover() {
    let world = World::new(16, Weather::default());
    let nodes = replicated(&world, 4, Mode::Sync).await;
    three_of_them_vote(&nodes).await;
    let name = name_on(&nodes, &nodes[2], "keyed");
    let keyed = CallOptions { idempotency_key: Some(IdempotencyKey::new("order 7").unwrap()), ..options() };
    assert_eq!(send(&nodes[0], add(), &name, keyed).await, Ok(1));
    assert_eq!(send(&nodes[1], add(), &name, keyed).await, Ok(1));
    assert_eq!(send(&nodes[0], add(), &name, options()).await, Ok(2));
    assert_eq!(send(&nodes[1], add(), &name, keyed).await, Ok(1), "the first one's answer");
    // Another message under this key.
    let partition = nodes[0].router().table().locate(name.as_bytes()).unwrap().partition;
    let other = nodes[1].router().call_partition(partition, add(), Bytes::from_static(b"other"), keyed).await;
    assert!(matches!(&other, Err(Failure::Rejected(why)) if why.contains("another request")), "{other:?}");
    world.crash(nodes[2].id());
    assert_eq!(send(&nodes[3], add(), &name, keyed).await, Ok(1));
    assert_eq!(counted(&nodes[0], &name).await, 2);
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_panics_after_a_commit_is_not_run_again() {
    let world = World::new(17, Weather::default());
    let nodes = replicated(&world, 3, Mode::Sync).await;
    let name = name_on(&nodes, &nodes[1], "panic");
    let keyed = CallOptions { idempotency_key: Some(IdempotencyKey::new("once").unwrap()), ..options() };
    let failed = |reply: &Result<u64, Failure>| matches!(reply, Err(Failure::WorkerFailed(_)));
    for node in &nodes {
        let reply = send(node, add(), &name, keyed).await;
        assert!(failed(&reply), "{reply:?}");
    }
    assert_eq!(counted(&nodes[0], &name).await, 1);
    // What refuses after it changed something does not claim that nothing changed.
    let name = name_on(&nodes, &nodes[1], "refuse");
    let reply = send(&nodes[0], add(), &name, options()).await;
    assert!(failed(&reply), "{reply:?}");
    assert_eq!(counted(&nodes[0], &name).await, 1);
}

#[tokio::test(start_paused = true)]
async fn a_duplicate_of_what_is_being_handled_is_answered_soon_after() {
    let world = World::new(18, Weather::default());
    let nodes = replicated(&world, 3, Mode::Sync).await;
    let name = name_on(&nodes, &nodes[1], "slow");
    let keyed = CallOptions { idempotency_key: Some(IdempotencyKey::new("once").unwrap()), ..options() };
    assert_eq!(counted(&nodes[0], &name).await, 0);
    let began = tokio::time::Instant::now();
    let (one, other) =
        tokio::join!(send(&nodes[0], add(), &name, keyed), send(&nodes[2], add(), &name, keyed));
    assert_eq!((one, other), (Ok(1), Ok(1)));
    assert!(began.elapsed() < Duration::from_millis(300), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_goes_away_leaves_no_gap() {
    let world = World::new(19, Weather::default());
    let nodes = replicated(&world, 3, Mode::Sync).await;
    let name = name_on(&nodes, &nodes[1], "slow");
    assert_eq!(send(&nodes[0], add(), &name, options()).await, Ok(1));
    for _ in 0..20 {
        let gone = send(&nodes[0], add(), &name, options());
        assert!(tokio::time::timeout(Duration::from_millis(1), gone).await.is_err());
    }
    let within = CallOptions { within: Duration::from_secs(60), ..options() };
    assert_eq!(send(&nodes[0], add(), &name, within).await, Ok(22), "what left is carried out all the same");
}

#[tokio::test(start_paused = true)]
async fn a_key_for_a_worker_that_remembers_nothing_is_refused() {
    let world = World::new(20, Weather::default());
    let nodes = nodes::cluster(&world, 1).await;
    let keyed = CallOptions { idempotency_key: Some(IdempotencyKey::new("once").unwrap()), ..options() };
    let reply: Reply = nodes[0].router().call(b"a", nodes::message(), Bytes::new(), keyed).await;
    assert!(matches!(reply, Err(Failure::Rejected(_))), "{reply:?}");
}

#[tokio::test(start_paused = true)]
async fn a_kind_that_promises_less_than_the_others_waits_for_no_copy() {
    let world = World::new(16, Weather::default());
    let nodes = replicated(&world, 3, Mode::Sync).await;
    let name = name_on(&nodes, &nodes[0], "mode");
    assert_eq!(send(&nodes[0], add_loosely(), &name, options()).await, Ok(1));
    assert_eq!(send(&nodes[0], add(), &name, options()).await, Ok(1));
    world.crash(nodes[1].id());
    world.crash(nodes[2].id());
    // Nobody is left to hold anything, and the lease has not run out yet.
    let soon = CallOptions { within: Duration::from_millis(300), ..CallOptions::default() };
    let strict = send(&nodes[0], add(), &name, soon);
    let loose = send(&nodes[0], add_loosely(), &name, soon);
    let (strict, loose) = tokio::join!(strict, loose);
    assert_eq!(loose, Ok(2));
    assert!(strict.is_err_and(|why| why.maybe_changed()), "what it changed is held by too few");
}
