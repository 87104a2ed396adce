//! The example of a key-value store, as three processes at whose terminals somebody types: the primary of what is being
//! written is killed, and nothing is lost that was said to be stored.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends there")]

mod harness;

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use harness::ports;
use harness::{PATIENCE, check, wait_until};

/// A node of the example, and whoever types there. Nothing of it survives the test.
struct Terminal {
    name: String,
    process: Child,
    typing: ChildStdin,
    lines: Receiver<String>,
}

impl Terminal {
    fn open(name: &str, addresses: &[String], mode: &str, data: Option<PathBuf>) -> Self {
        let built = Path::new(env!("CARGO_BIN_EXE_tumen")).with_file_name("examples").join("kv_store");
        let mut command = Command::new(built);
        command.arg(name).args(addresses).stdin(Stdio::piped()).stdout(Stdio::piped());
        // On a busy machine whoever is well may be silent for longer than a short lease.
        command.env("TUMEN_MODE", mode).env("TUMEN_LEASE", "5s");
        if let Some(data) = data {
            command.env("TUMEN_DATA_DIR", data);
        }
        let mut process = command.spawn().unwrap();
        let (typing, told) = (process.stdin.take().unwrap(), process.stdout.take().unwrap());
        let (to, lines) = channel();
        // Ends with the process.
        thread::spawn(move || {
            BufReader::new(told).lines().map_while(Result::ok).all(|line| to.send(line).is_ok())
        });
        Self { name: name.to_owned(), process, typing, lines }
    }

    /// The next line that is said.
    fn hear(&self) -> String {
        self.lines.recv_timeout(PATIENCE).unwrap_or_else(|why| panic!("{} says nothing: {why}", self.name))
    }

    /// Types a line, and waits for the answer.
    fn ask(&mut self, line: &str) -> String {
        writeln!(self.typing, "{line}").unwrap();
        self.hear()
    }

    /// Kills it as `kill -9` does, and waits until nothing is left of it.
    fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // It may have been killed.
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

/// Tells whoever writes to stop, when it is dropped.
struct Stops<'a>(&'a AtomicBool);

impl Drop for Stops<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Stores one value after the other until it is told to stop: those that it was told are stored.
fn store_on(at: &mut Terminal, stored: &AtomicU64, stop: &AtomicBool) -> Vec<String> {
    let mut keys = Vec::new();
    for number in 0.. {
        if stop.load(Ordering::SeqCst) {
            break;
        }
        let key = format!("{}-{number}", at.name);
        let told = at.ask(&format!("put {key} value of {key}"));
        if told.starts_with("stored ") {
            keys.push(key);
            stored.fetch_add(1, Ordering::SeqCst);
        } else {
            assert!(told.starts_with("error: "), "{told}");
        }
    }
    keys
}

fn nothing_stored_is_lost(mode: &str, with_disks: bool) {
    let addresses: Vec<String> = (0..3).map(|_| ports::take()).collect();
    let dir = tempfile::tempdir().unwrap();
    let open = |number: usize| {
        let name = format!("node-{}", number + 1);
        let data = with_disks.then(|| dir.path().join(&name));
        // Its own address, and where the first one is.
        let told = if number == 0 { vec![] } else { vec![addresses[0].clone()] };
        Terminal::open(&name, &[vec![addresses[number].clone()], told].concat(), mode, data)
    };
    let (mut first, mut second, mut third) = (open(0), open(1), open(2));
    for terminal in [&first, &second, &third] {
        assert_eq!(terminal.hear(), format!("{} is ready", terminal.name));
    }
    assert_eq!(first.ask("put apple green"), "stored apple, which was nothing");
    assert_eq!(second.ask("put apple red and green"), "stored apple, which was green");
    assert_eq!(third.ask("get apple"), "apple is red and green");
    assert_eq!(third.ask("get pear"), "pear is nothing");
    assert_eq!(third.ask("eat apple"), "put KEY VALUE, get KEY or where KEY");

    // Two write, and the third, which is primary of some of what they write, is killed meanwhile.
    let (stored, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let wait_for_more = |more: u64| {
        let before = stored.load(Ordering::SeqCst);
        wait_until("more is stored", PATIENCE, || {
            let now = stored.load(Ordering::SeqCst);
            check(now >= before + more, || format!("{} are", now - before))
        });
    };
    let keys: Vec<String> = thread::scope(|scope| {
        let stops = Stops(&stop);
        let writers = [&mut first, &mut second].map(|terminal| {
            let (stored, stop) = (&stored, &stop);
            scope.spawn(move || store_on(terminal, stored, stop))
        });
        wait_for_more(200);
        let served = (0..).map(|number| third.ask(&format!("where node-1-{number}")));
        assert!(served.take(100).any(|told| told.ends_with("at node-3")), "it is primary of none of them");
        third.kill();
        wait_for_more(200);
        drop(stops);
        writers.into_iter().flat_map(|writer| writer.join().unwrap()).collect()
    });
    for key in &keys {
        assert_eq!(first.ask(&format!("get {key}")), format!("{key} is value of {key}"));
    }
    assert!(!first.ask("where apple").ends_with("at node-3"));
    eprintln!("{mode}: {} values, all of them there", keys.len());
}

#[test]
fn the_key_value_store_loses_nothing_in_sync() {
    nothing_stored_is_lost("sync", false);
}

#[test]
fn the_key_value_store_loses_nothing_in_strong() {
    nothing_stored_is_lost("strong", true);
}
