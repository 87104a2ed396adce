//! Nodes as processes: this very test binary, started anew, takes orders on its standard input and ends with it.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tumen_actors::clock::{Clock, new_boot};
use tumen_actors::transport::{Cookie, Settings, network};

use super::lab::{Lab, Start, TestNode, greeting};

const ORDERS: &str = "TUMEN_TRANSPORT_TEST_NODE";
/// What the test harness prints is not ours.
const PREFIX: &str = "» ";

/// Runs nodes as processes. They end with it, however it ends.
#[derive(Default)]
pub struct Processes {
    nodes: BTreeMap<String, Process>,
    addresses: BTreeMap<String, String>,
}

struct Process {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Processes {
    /// The process of a node, for what only the operating system can tell of it.
    #[allow(dead_code, reason = "not every test asks")]
    pub fn id(&self, node: &str) -> u32 {
        self.nodes[node].child.id()
    }

    fn signal(&self, node: &str, signal: Signal) {
        let id = i32::try_from(self.nodes[node].child.id()).expect("a process id");
        kill_process(Pid::from_raw(id).expect("a process id"), signal).expect("it runs");
    }
}

impl Lab for Processes {
    async fn start_as(&mut self, label: &str, start: Start) -> String {
        let address = self.addresses.entry(label.to_owned()).or_insert_with(free_address).clone();
        let Start { node, cluster, cookie, protocol } = &start;
        let orders = format!("{node} {cluster} {cookie} {protocol} {address}");
        let mut child = Command::new(std::env::current_exe().expect("a binary"))
            .args(["--exact", "node_process", "--nocapture", "--test-threads=1"])
            .env(ORDERS, orders)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts");
        let (input, output) = (child.stdin.take().expect("piped"), child.stdout.take().expect("piped"));
        let process = Process { child, input, output: BufReader::new(output) };
        if let Some(mut former) = self.nodes.insert(label.to_owned(), process) {
            former.end();
        }
        assert_eq!(self.nodes.get_mut(label).expect("just started").answer(), "ready");
        address
    }

    async fn order(&mut self, node: &str, order: &str) -> String {
        let process = self.nodes.get_mut(node).expect("it was started");
        writeln!(process.input, "{order}").expect("it runs");
        process.answer()
    }

    async fn kill(&mut self, node: &str) {
        self.nodes.get_mut(node).expect("it was started").end();
    }

    async fn freeze(&mut self, node: &str) {
        self.signal(node, Signal::STOP);
    }

    async fn thaw(&mut self, node: &str) {
        self.signal(node, Signal::CONT);
    }
}

impl Process {
    fn answer(&mut self) -> String {
        loop {
            let mut line = String::new();
            let len = self.output.read_line(&mut line).expect("it runs");
            assert!(len > 0, "the node's process ended");
            if let Some((_, answer)) = line.trim_end_matches('\n').split_once(PREFIX) {
                return answer.to_owned();
            }
        }
    }

    fn end(&mut self) {
        // It may have ended already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

/// An address on loopback that nobody uses now; each process of this test takes its ports from another range, so that
/// a restarted node finds its own still free.
fn free_address() -> String {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let range = 20_000 + u16::try_from(std::process::id() % 240).expect("small") * 50;
    loop {
        let port = range + NEXT.fetch_add(1, Ordering::Relaxed) % 50;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return format!("127.0.0.1:{port}");
        }
    }
}

/// The other end: a node that takes orders until its input ends.
pub fn run_if_asked() {
    let Ok(orders) = std::env::var(ORDERS) else { return };
    // A stopped process does not see its input end.
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).expect("Linux");
    let words: Vec<&str> = orders.split(' ').collect();
    let [node, cluster, cookie, protocol, address] = words[..] else { panic!("unknown orders {orders:?}") };
    let listener = TcpListener::bind(address).expect("the address is free");
    let boot = new_boot(&Clock::system()).0;
    let hello = greeting(cluster, node, boot, address, protocol.parse().expect("a number"));
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let settings = Settings::default();
        let cookie = Cookie::new(cookie.as_bytes());
        let transport = network::open(&listener, Arc::new(move || hello.clone()), cookie, settings).await;
        let node = TestNode::new(transport.expect("it opens"));
        say("ready");
        // A thread reads: an input that ends is to end this process, whatever the runtime does.
        let (orders, mut queue) = tokio::sync::mpsc::unbounded_channel();
        std::thread::spawn(move || {
            for order in std::io::stdin().lines() {
                let Ok(order) = order else { break };
                if orders.send(order).is_err() {
                    break;
                }
            }
            std::process::exit(0);
        });
        while let Some(order) = queue.recv().await {
            say(&node.order(&order).await);
        }
    });
    runtime.shutdown_timeout(Duration::from_millis(100));
}

fn say(what: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{PREFIX}{what}").and_then(|()| out.flush()).expect("somebody reads");
}
