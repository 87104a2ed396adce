//! What becomes of a node whose disk takes nothing more: its process ends, with its reason.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends there")]

mod harness;

use std::io::Read;
use std::process::{Child, Command, Stdio};

use harness::ports;
use harness::{Http, PATIENCE, check, wait_until};
use rustix::process::{Pid, Resource, Rlimit, prlimit};

/// A node that ignores the signal by which a process is told, and ended, that its file may grow no more: so that a write
/// fails as it does on a disk that is full.
struct Node(Child);

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_node_whose_disk_fails_ends_with_its_reason() {
    let dir = tempfile::tempdir().unwrap();
    let (listen, address) = (ports::take(), ports::take());
    let child = Command::new("sh")
        .args(["-c", r#"trap "" XFSZ; exec "$@""#, "sh", env!("CARGO_BIN_EXE_tumen"), "node"])
        .args(["--name", "node-1", "--listen", &listen, "--http", &address, "--create", "manual"])
        .args(["--data-dir", dir.path().to_str().unwrap(), "--end-with-stdin"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut node = Node(child);
    let mut stderr = node.0.stderr.take().unwrap();
    let said = std::thread::spawn(move || {
        let mut said = String::new();
        stderr.read_to_string(&mut said).map(|_| said)
    });
    let http = Http::new();
    wait_until("it leads", PATIENCE, || {
        let shown = http.get(&address, "/cluster")?;
        check(shown.status == 200 && shown.json()["leader"].is_string(), || shown.text())
    });

    let pid = Pid::from_raw(i32::try_from(node.0.id()).unwrap());
    let full = Rlimit { current: Some(0), maximum: Some(0) };
    prlimit(pid, Resource::Fsize, full).unwrap();
    // The plan cannot be kept, so it must not be answered as if it were.
    if let Ok(answer) = http.post(&address, "/partitions", &serde_json::json!({})) {
        assert_ne!(answer.status, 200, "{}", answer.text());
    }
    let status = wait_until("the process ends", PATIENCE, || {
        node.0.try_wait().unwrap().ok_or_else(|| "it runs".to_owned())
    });
    let said = said.join().unwrap().unwrap();
    assert_eq!(status.code(), Some(1), "{status}: {said}");
    let last = said.lines().last().unwrap_or_default();
    assert!(last.contains("this node ended by itself") && last.contains("consensus failed"), "{said}");
}
