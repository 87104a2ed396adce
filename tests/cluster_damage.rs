//! What becomes of copies whose disk changed them, lost them, or takes nothing more.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends there")]

mod harness;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use harness::node::bare;
use harness::ports;
use harness::{Cluster, Http, Options, PATIENCE, belief, check, wait_until};
use rustix::process::{Pid, Resource, Rlimit, prlimit};

/// How many values are written.
const VALUES: usize = 48;

/// A value that is found again among the bytes of a file.
fn value(of: usize) -> String {
    format!("<{of:04}>").repeat(50)
}

fn write_values(cluster: &Cluster) {
    for at in 0..VALUES {
        cluster.put(at % cluster.len(), &format!("kept-{at}"), &value(at));
    }
}

/// Reads every value at every node: as the primary has it, and as the node's own copy does.
fn check_values(cluster: &Cluster) {
    for at in 0..VALUES {
        for node in (0..cluster.len()).map(|number| cluster.node(number)) {
            for query in ["", "?read=replica&max_age_ms=60000"] {
                let path = format!("/kv/kept-{at}{query}");
                wait_until(&format!("{} answers {path}", node.name), PATIENCE, || {
                    let read = cluster.http.get(&node.http, &path)?;
                    let right = read.status == 200 && read.text() == value(at);
                    check(right, || format!("{} {}", read.status, read.text()))
                });
            }
        }
    }
}

fn copies_file(cluster: &Cluster, number: usize) -> PathBuf {
    cluster.node(number).data_dir().join("copies.redb")
}

/// Flips a bit in the midst of every value in a node's file. How many places were struck.
fn flip(cluster: &Cluster, number: usize, values: impl Iterator<Item = usize>) -> usize {
    let file = copies_file(cluster, number);
    let mut bytes = std::fs::read(&file).unwrap();
    let mut struck = 0;
    for at in values {
        let value = value(at);
        let places: Vec<usize> = (bytes.windows(value.len()).enumerate())
            .filter_map(|(place, here)| (here == value.as_bytes()).then_some(place))
            .collect();
        for place in places {
            bytes[place + value.len() / 2] ^= 0x20;
            struck += 1;
        }
    }
    std::fs::write(&file, bytes).unwrap();
    struck
}

/// What a node's last run warned of.
fn warned(cluster: &Cluster, number: usize, of: &str) -> usize {
    let log = cluster.node(number).log();
    log.lines().filter(|line| line.contains("\"WARN\"") && line.contains(of)).count()
}

#[test]
fn copies_that_a_disk_changed_are_found_out_and_made_anew_from_the_others() {
    let mut cluster = Cluster::start(3, Options::default().disks().flags(&["--mode", "sync"]));
    write_values(&cluster);
    cluster.wait_until_settled();
    cluster.terminate(1);
    let struck = flip(&cluster, 1, 0..4);
    assert!(struck >= 4, "the values were not found in the file");
    cluster.launch(1);
    cluster.wait_until_settled();
    let told = warned(&cluster, 1, "this node's copy is damaged");
    assert!((1..=4).contains(&told), "{told} copies are said to be damaged");
    check_values(&cluster);
    belief::check(&cluster);
}

#[test]
fn a_file_of_copies_that_is_none_any_more_is_moved_aside_and_they_are_made_anew() {
    let mut cluster = Cluster::start(3, Options::default().disks().flags(&["--mode", "strong"]));
    write_values(&cluster);
    cluster.wait_until_settled();
    cluster.terminate(2);
    let file = copies_file(&cluster, 2);
    let len = std::fs::metadata(&file).unwrap().len();
    std::fs::write(&file, vec![0xa5; usize::try_from(len).unwrap()]).unwrap();
    cluster.launch(2);
    cluster.wait_until_settled();
    assert_eq!(warned(&cluster, 2, "is moved aside"), 1);
    assert!(file.with_extension("damaged").exists());
    check_values(&cluster);
    belief::check(&cluster);
}

#[test]
fn a_voter_whose_file_was_damaged_joins_as_a_new_life_and_never_votes_as_the_old_one() {
    let mut cluster = Cluster::start(3, Options::default().disks().flags(&["--mode", "sync"]));
    write_values(&cluster);
    let leader = cluster.leader(0);
    let victim = (0..3).find(|number| *number != leader).unwrap();
    cluster.kill9(victim);
    let file = cluster.node(victim).data_dir().join("tumen.redb");
    let mut bytes = std::fs::read(&file).unwrap();
    // Whatever is not empty is changed, behind the header by which the file is known.
    for page in bytes.chunks_mut(4096).skip(1) {
        page.iter_mut().filter(|byte| **byte != 0).take(64).for_each(|byte| *byte ^= 0x11);
    }
    std::fs::write(&file, bytes).unwrap();
    cluster.launch(victim);
    cluster.wait_until_settled();
    assert_eq!(warned(&cluster, victim, "joins the others as a new life"), 1);
    assert!(file.with_extension("damaged").exists());
    wait_until("all three vote", PATIENCE, || {
        let shown = cluster.get(leader, "/cluster");
        let voters = shown["nodes"].as_array().unwrap().iter().filter(|node| node["votes"] == true).count();
        check(voters == 3, || shown.to_string())
    });
    check_values(&cluster);
    belief::check(&cluster);
}

#[test]
fn a_node_of_its_own_whose_votes_are_damaged_does_not_begin_anew_but_says_what_to_do() {
    let mut cluster = Cluster::start(1, Options::default().disks());
    cluster.terminate(0);
    let file = cluster.node(0).data_dir().join("tumen.redb");
    std::fs::write(&file, vec![0xa5; 100_000]).unwrap();
    cluster.launch(0);
    let ended =
        wait_until("the process ends", PATIENCE, || cluster.node(0).ended_by_itself().ok_or("it runs"));
    let said = cluster.node(0).log();
    assert_eq!(ended.code(), Some(1), "{said}");
    assert!(said.contains("is damaged") && said.contains("move it away"), "{said}");
    assert!(file.exists(), "it was left where it is");
}

#[test]
fn after_all_were_killed_and_one_disk_changed_bytes_nothing_acknowledged_is_missing() {
    let mut cluster = Cluster::start(3, Options::default().disks().flags(&["--mode", "strong"]));
    write_values(&cluster);
    for number in 0..3 {
        cluster.kill9(number);
    }
    assert!(flip(&cluster, 0, 0..VALUES) > 0, "the values were not found in the file");
    cluster.start_all();
    cluster.wait_until_settled();
    let told: usize = ["is damaged", "was torn"].map(|of| warned(&cluster, 0, of)).iter().sum();
    assert!(told > 0, "nobody was told");
    check_values(&cluster);
    belief::check(&cluster);
}

#[test]
fn after_all_were_killed_under_sync_what_the_disks_had_is_served() {
    let mut cluster = Cluster::start(3, Options::default().disks().flags(&["--mode", "sync"]));
    write_values(&cluster);
    // Everything was written long enough ago once the nodes have settled, and were asked for all of it.
    cluster.wait_until_settled();
    check_values(&cluster);
    for number in 0..3 {
        cluster.kill9(number);
    }
    cluster.start_all();
    cluster.wait_until_settled();
    check_values(&cluster);
    belief::check(&cluster);
}

/// A value of which a few hundred fill a small disk.
fn large(at: usize) -> String {
    value(at).repeat(4_000)
}

/// A node of its own.
struct Alone {
    process: Child,
    http: String,
}

impl Alone {
    /// A node that ignores the signal by which a process is told, and ended, that its file may grow no more: so that a
    /// write fails as it does on a disk that is full.
    fn start(dir: &std::path::Path, listen: &str, http: &str, stderr: Stdio) -> Self {
        let process = Command::new("sh")
            .args(["-c", r#"trap "" XFSZ; exec "$@""#, "sh"])
            .arg(bare().get_program())
            .args(["node", "--name", "node-1", "--listen", listen, "--http", http, "--mode", "strong"])
            .args(["--data-dir", dir.to_str().unwrap(), "--log", "json"])
            .stdout(Stdio::null())
            .stderr(stderr)
            .spawn()
            .unwrap();
        Self { process, http: http.to_owned() }
    }

    fn put(&self, http: &Http, at: usize) -> Result<u16, String> {
        Ok(http.put(&self.http, &format!("/kv/full-{at}"), large(at))?.status)
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

#[test]
fn a_full_disk_ends_the_node_with_its_reason_and_nothing_acknowledged_is_missing_after() {
    let dir = tempfile::tempdir().unwrap();
    let (listen, address) = (ports::take(), ports::take());
    let log = dir.path().join("log");
    let data = dir.path().join("data");
    let http = Http::new();
    let mut node = Alone::start(&data, &listen, &address, std::fs::File::create(&log).unwrap().into());
    wait_until("it serves", PATIENCE, || {
        let status = node.put(&http, 0)?;
        check(matches!(status, 201 | 204), || status.to_string())
    });
    // There is room for what the voters still have to write about the cluster's first plan: it is the copies that fill the disk.
    let len = |file: &str| std::fs::metadata(data.join(file)).unwrap().len();
    let len = 4 * len("copies.redb").max(len("tumen.redb"));
    let pid = Pid::from_raw(i32::try_from(node.process.id()).unwrap());
    prlimit(pid, Resource::Fsize, Rlimit { current: Some(len), maximum: Some(len) }).unwrap();
    let mut acknowledged = BTreeMap::from([(0, true)]);
    let mut refused = None;
    for at in 1..100_000 {
        match node.put(&http, at) {
            Ok(201 | 204) => drop(acknowledged.insert(at, true)),
            other => {
                refused = Some(other);
                break;
            }
        }
    }
    assert!(refused.is_some(), "the file never grew: {} were taken", acknowledged.len());
    let status =
        wait_until("the process ends", PATIENCE, || node.process.try_wait().unwrap().ok_or("it runs"));
    let said = std::fs::read_to_string(&log).unwrap();
    assert_eq!(status.code(), Some(1), "{status}: {said}");
    assert!(said.contains("this node ended by itself") && said.contains("copies cannot be kept"), "{said}");
    drop(node);
    let node = Alone::start(&data, &listen, &address, Stdio::null());
    for at in acknowledged.into_keys() {
        wait_until(&format!("full-{at} is there"), PATIENCE, || {
            let read = http.get(&node.http, &format!("/kv/full-{at}"))?;
            check(read.status == 200 && read.text() == large(at), || read.status.to_string())
        });
    }
}
