//! What is wrong is told clearly or closed within seconds, and disturbs nothing else.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends there")]

mod harness;

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use harness::{Cluster, Options, PATIENCE, check, node, ports, wait_until};

/// Within how long a connection that says nothing sensible is closed.
const CLOSED_WITHIN: Duration = Duration::from_secs(60);

/// Runs `tumen node` with flags that it must not take.
fn refused(flags: &[&str]) -> Output {
    let mut command = node::bare();
    command.args(["node", "--name", "a"]).args(flags);
    for missing in ["--listen", "--http"].iter().filter(|flag| !flags.contains(flag)) {
        command.args([missing, "127.0.0.1:0"]);
    }
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let begun = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if begun.elapsed() > PATIENCE {
            child.kill().unwrap();
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let output = child.wait_with_output().unwrap();
    assert!(output.status.code().is_some_and(|code| code != 0), "{flags:?}: {output:?}");
    assert!(output.stdout.is_empty(), "{flags:?}: {output:?}");
    output
}

fn assert_told(output: &Output, words: &[&str]) {
    let told = String::from_utf8_lossy(&output.stderr);
    for word in words {
        assert!(told.contains(word), "{word:?} is not told: {told}");
    }
}

/// A node that works, to see that it goes on working.
fn bystander() -> Cluster {
    Cluster::start(1, Options::default().alone())
}

fn assert_undisturbed(cluster: &Cluster) {
    for number in 0..cluster.len() {
        if cluster.node(number).is_awake() {
            assert_eq!(cluster.get(number, "/ready")["ready"], true);
        }
    }
    cluster.put(0, "undisturbed", "yes");
    let node = &cluster.node(0).http;
    wait_until("what was written is read", PATIENCE, || {
        let read = cluster.http.get(node, "/kv/undisturbed")?;
        check(read.status == 200 && read.text() == "yes", || read.text())
    });
}

#[test]
fn flags_that_cannot_be_taken() {
    assert_told(&refused(&["--no-such-flag", "1"]), &["--no-such-flag"]);
    assert_told(&refused(&["--partitions", "0"]), &["--partitions", "0"]);
    assert_told(&refused(&["--partitions=-1"]), &["--partitions", "-1"]);
    assert_told(&refused(&["--replication", "0"]), &["--replication", "0"]);
    assert_told(&refused(&["--lease", "soon"]), &["--lease", "soon"]);
    assert_told(&refused(&["--strategy", "magic"]), &["--strategy", "magic"]);
    assert_told(&refused(&["--cookie-file", "/no/such/file"]), &["cookie", "/no/such/file"]);
    assert_told(&refused(&["--listen", "10.1.2.3:7000"]), &["cookie"]);
}

#[test]
fn ports_that_are_taken() {
    let held = ports::listen();
    let taken = held.local_addr().unwrap().to_string();
    assert_told(&refused(&["--listen", &taken]), &[&taken, "in use"]);
    assert_told(&refused(&["--http", &taken]), &[&taken, "in use"]);
}

/// A second node that must not become a member: what both say of it.
fn turned_away(cluster: &mut Cluster, change: impl FnOnce(&mut harness::Node)) -> usize {
    let stranger = cluster.add(&[0]);
    change(cluster.node_mut(stranger));
    cluster.launch(stranger);
    stranger
}

/// Waits until a node's log, or its `/ready`, says one of these.
fn wait_for_reason(cluster: &Cluster, stranger: usize, words: &[&str]) {
    wait_until(&format!("the stranger is told {words:?}"), PATIENCE, || {
        let log = cluster.node(stranger).log();
        check(words.iter().all(|word| log.contains(word)), || {
            log.lines().last().unwrap_or_default().to_owned()
        })
    });
    let shown = cluster.get(0, "/cluster");
    assert_eq!(shown["nodes"].as_array().unwrap().len(), 1, "{shown}");
}

#[test]
fn strangers_are_turned_away_with_the_reason() {
    let mut cluster = Cluster::start(1, Options::default().alone().flags(&["--partitions", "32"]));
    let other_cluster = turned_away(&mut cluster, |node| {
        node.forget_flags(&["--cluster"]);
        node.flag(&["--cluster", "another"]);
    });
    wait_for_reason(&cluster, other_cluster, &["another"]);
    let other_count = turned_away(&mut cluster, |node| {
        node.forget_flags(&["--partitions"]);
        node.flag(&["--partitions", "48"]);
    });
    wait_for_reason(&cluster, other_count, &["48", "32"]);
    let same_name = turned_away(&mut cluster, |node| node.name = "node-1".into());
    wait_for_reason(&cluster, same_name, &["node-1", "name"]);
    // None of that passes by itself, so they do not look like nodes that wait for others.
    for stranger in [other_cluster, other_count, same_name] {
        assert_eq!(cluster.node_mut(stranger).wait_for_end(PATIENCE).code(), Some(1), "of its own");
    }
    for (stranger, word) in [(other_cluster, "another"), (other_count, "48")] {
        let log = cluster.node(stranger).log();
        let last = log.lines().last().unwrap_or_default();
        assert!(last.contains("no seed takes it in") && last.contains(word), "{last}");
    }
    assert_undisturbed_but_for(&cluster, 0);
}

fn assert_undisturbed_but_for(cluster: &Cluster, number: usize) {
    assert_eq!(cluster.get(number, "/ready")["ready"], true);
    cluster.put(number, "undisturbed", "yes");
}

#[test]
fn a_wrong_cookie_is_turned_away() {
    let mut cluster = Cluster::prepare(1, Options::default().alone());
    let write = |path: &Path, text: &str| std::fs::write(path, text).unwrap();
    let (right, wrong) = (cluster.dir().join("right"), cluster.dir().join("wrong"));
    write(&right, "a secret that is long enough, of course\n");
    write(&wrong, "another secret that is long enough, too\n");
    cluster.node_mut(0).flag(&["--cookie-file", right.to_str().unwrap()]);
    cluster.launch(0);
    cluster.wait_until_settled();
    let stranger = turned_away(&mut cluster, |node| {
        node.forget_flags(&["--cookie-file"]);
        node.flag(&["--cookie-file", wrong.to_str().unwrap()]);
    });
    wait_for_reason(&cluster, stranger, &["cookie"]);
    let without = turned_away(&mut cluster, |node| node.forget_flags(&["--cookie-file"]));
    wait_for_reason(&cluster, without, &["cookie"]);
    let friend = turned_away(&mut cluster, |_| {});
    for number in [friend, 0] {
        // Both have copies from now on, and each is ready once its own count.
        wait_until("the one with the right cookie is a member", PATIENCE, || {
            cluster.try_get(number, "/ready")
        });
    }
    assert_undisturbed_but_for(&cluster, 0);
}

#[test]
fn keys_that_are_none_and_keys_that_are_too_long() {
    let cluster = bystander();
    let http = &cluster.node(0).http;
    for answer in [cluster.http.get(http, "/kv/").unwrap(), cluster.http.put(http, "/kv/", "value").unwrap()]
    {
        assert!((400..500).contains(&answer.status), "{} {}", answer.status, answer.text());
        assert!(!answer.code().is_empty(), "{}", answer.text());
    }
    let long = "k".repeat(1 << 20);
    for method in ["GET", "PUT", "DELETE"] {
        let request = format!("{method} /kv/{long} HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n");
        let said = String::from_utf8_lossy(&until_closed(http, request.as_bytes())).into_owned();
        assert!(said.starts_with("HTTP/1.1 4") && said.contains(r#""code""#), "{said:?}");
    }
    let missing = cluster.http.get(http, "/partitions/key").unwrap();
    assert_eq!(missing.status, 400, "{}", missing.text());
    for key in ["%00", "%2F", "a%20b%2Fc%3Fd%23e%25", "%D0%BA%D0%BB%D1%8E%D1%87"] {
        let path = format!("/kv/{key}");
        assert_eq!(cluster.http.put(http, &path, key).unwrap().status, 201, "{key}");
        assert_eq!(cluster.http.get(http, &path).unwrap().text(), key);
    }
    assert_undisturbed(&cluster);
}

/// Sends bytes and waits until the other side closes: what it said before.
fn until_closed(address: &str, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(CLOSED_WITHIN)).unwrap();
    // The other side may close in the middle of it.
    drop(stream.write_all(bytes));
    let begun = Instant::now();
    let mut said = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        match stream.read(&mut chunk) {
            Ok(0) => return said,
            Ok(len) => said.extend_from_slice(&chunk[..len]),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return said,
            Err(error) => panic!("{error} after {:?}: {said:?}", begun.elapsed()),
        }
        assert!(begun.elapsed() < CLOSED_WITHIN, "it talks for ever: {said:?}");
    }
}

#[test]
fn garbage_and_silence_on_the_cluster_port() {
    let cluster = bystander();
    let port = &cluster.node(0).listen;
    let hostile = |len: u32| [&len.to_be_bytes()[..], &[0x7f; 4096]].concat();
    let mut inputs = vec![
        Vec::new(),
        b"\n".to_vec(),
        b"GET / HTTP/1.1\r\nhost: a\r\n\r\n".to_vec(),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
        vec![0; 100_000],
        vec![0xff; 100_000],
        hostile(u32::MAX),
        hostile(0),
        hostile(16 << 20),
        b"tumen".to_vec(),
        [b"tumen".to_vec(), vec![0xff; 1000]].concat(),
    ];
    inputs.extend((0..16_u64).map(|seed| {
        let step = |state: &mut u64| {
            *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            Some((*state >> 56) as u8)
        };
        std::iter::repeat(()).scan(seed, |state, ()| step(state)).take(2_000).collect()
    }));
    std::thread::scope(|scope| {
        for input in &inputs {
            scope.spawn(move || until_closed(port, input));
        }
    });
    assert_undisturbed(&cluster);
}

#[test]
fn what_a_node_says_first_cut_short_and_repeated() {
    // What a real node sends to begin with, recorded: sent in part, and sent again.
    let mut cluster = bystander();
    let recorder = ports::listen();
    let address = recorder.local_addr().unwrap().to_string();
    let caller = cluster.add(&[]);
    cluster.node_mut(caller).flag(&["--join", &address]);
    cluster.launch(caller);
    let (mut stream, _) = recorder.accept().unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut said = vec![0; 65_536];
    let len = stream.read(&mut said).unwrap();
    said.truncate(len);
    assert!(!said.is_empty());
    cluster.kill9(caller);
    let port = &cluster.node(0).listen;
    std::thread::scope(|scope| {
        for end in [1, said.len() / 4, said.len() / 2, said.len().saturating_sub(1), said.len()] {
            let part = &said[..end];
            scope.spawn(move || until_closed(port, part));
        }
        for at in 0..said.len().min(24) {
            let mut broken = said.clone();
            broken[at] ^= 0x55;
            scope.spawn(move || until_closed(port, &broken));
        }
    });
    assert_undisturbed(&cluster);
}

#[test]
fn garbage_and_silence_on_the_http_port() {
    let cluster = bystander();
    let http = &cluster.node(0).http;
    let inputs: [&[u8]; 5] = [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"GET /\xff HTTP/9.9\r\n\r\n",
        b"NOT A REQUEST\r\n\r\n",
        b"GET / HT",
        b"",
    ];
    std::thread::scope(|scope| {
        for input in inputs {
            scope.spawn(move || until_closed(http, input));
        }
    });
    assert_undisturbed(&cluster);
}

#[test]
fn what_is_unwise_is_done_and_said() {
    let mut cluster =
        Cluster::start(2, Options::default().flags(&["--partitions", "4", "--replication", "5"]));
    let shown = cluster.get(0, "/partitions");
    for partition in shown["partitions"].as_array().unwrap() {
        assert_eq!(
            partition["replica_nodes"].as_array().unwrap().len(),
            1,
            "as many copies as nodes: {partition}"
        );
    }
    for words in [["WARN", "replication"], ["WARN", "partitions"]] {
        wait_until("a warning is logged", PATIENCE, || {
            let log = cluster.node(0).log();
            let said = log.lines().any(|line| words.iter().all(|word| line.contains(word)));
            check(said, || format!("{words:?} in no line"))
        });
    }
    cluster.kill9(1);
}
