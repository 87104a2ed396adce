//! A proxy before each node, which knows who calls, and can be cut between any two.
//!
//! ```text
//!  node-1 ──▶ proxy of node-2 ──▶ node-2        cut(1, 2): nothing passes, nothing ends, nobody is told
//!  node-3 ──▶ proxy of node-2 ──▶ node-2        heal: what was held back arrives, as it does in a real network
//! ```

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

use super::ports;

/// The proxies of all nodes of a cluster.
pub struct Proxies {
    addresses: Vec<String>,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Pairs between which nothing passes, the smaller number first.
    cut: BTreeSet<(usize, usize)>,
    /// Each node's process.
    processes: Vec<Option<u32>>,
    streams: Vec<TcpStream>,
    ended: bool,
}

impl Proxies {
    /// A proxy before each of these cluster ports.
    pub fn start(nodes: impl Iterator<Item = String>) -> Self {
        let shared = Arc::new(Shared::default());
        let addresses = nodes.enumerate().map(|(to, target)| {
            let listener = ports::listen();
            let address = listener.local_addr().unwrap().to_string();
            let shared = Arc::clone(&shared);
            thread::spawn(move || shared.accept(&listener, to, &target));
            address
        });
        Self { addresses: addresses.collect(), shared }
    }

    /// Where a node is reached through its proxy.
    pub fn address(&self, node: usize) -> String {
        self.addresses[node].clone()
    }

    /// A node's process was started.
    pub fn know(&self, node: usize, process: u32) {
        let mut state = self.shared.state.lock().unwrap();
        if state.processes.len() <= node {
            state.processes.resize(node + 1, None);
        }
        state.processes[node] = Some(process);
    }

    /// Lets nothing pass between two nodes.
    pub fn cut(&self, a: usize, b: usize) {
        self.shared.state.lock().unwrap().cut.insert((a.min(b), a.max(b)));
    }

    /// Lets everything pass.
    pub fn heal(&self) {
        self.shared.state.lock().unwrap().cut.clear();
        self.shared.changed.notify_all();
    }
}

impl Drop for Proxies {
    fn drop(&mut self) {
        let mut state = self.shared.state.lock().unwrap();
        state.ended = true;
        for stream in state.streams.drain(..) {
            drop(stream.shutdown(Shutdown::Both));
        }
        drop(state);
        self.shared.changed.notify_all();
        for address in &self.addresses {
            // Wakes the one that accepts.
            drop(TcpStream::connect(address));
        }
    }
}

impl Shared {
    fn accept(self: Arc<Self>, listener: &TcpListener, to: usize, target: &str) {
        for stream in listener.incoming() {
            if self.state.lock().unwrap().ended {
                return;
            }
            let Ok(stream) = stream else { continue };
            let shared = Arc::clone(&self);
            let target = target.to_owned();
            thread::spawn(move || shared.relay(stream, to, &target));
        }
    }

    /// Carries one connection, both ways.
    fn relay(self: Arc<Self>, near: TcpStream, to: usize, target: &str) {
        let from = self.caller(&near);
        let pair = from.map(|from| (from.min(to), from.max(to)));
        if !self.wait_until_open(pair) {
            return;
        }
        // Where the node does not listen, the caller is refused too, as far as a proxy can.
        let Ok(far) = TcpStream::connect(target) else { return };
        let clones = [near.try_clone(), far.try_clone(), near.try_clone(), far.try_clone()];
        let [Ok(near_in), Ok(far_in), Ok(near_kept), Ok(far_kept)] = clones else { return };
        for stream in [&near, &far] {
            drop(stream.set_nodelay(true));
        }
        self.state.lock().unwrap().streams.extend([near_kept, far_kept]);
        let back = Arc::clone(&self);
        thread::spawn(move || back.pump(far_in, near, pair));
        self.pump(near_in, far, pair);
    }

    fn pump(&self, mut from: TcpStream, mut to: TcpStream, pair: Option<(usize, usize)>) {
        let mut chunk = vec![0; 1 << 16];
        loop {
            let read = from.read(&mut chunk).unwrap_or(0);
            // That a connection ended does not pass either.
            if !self.wait_until_open(pair) || read == 0 || to.write_all(&chunk[..read]).is_err() {
                break;
            }
        }
        drop(to.shutdown(Shutdown::Write));
        drop(from.shutdown(Shutdown::Read));
    }

    /// `false`: the proxies ended.
    fn wait_until_open(&self, pair: Option<(usize, usize)>) -> bool {
        let state = self.state.lock().unwrap();
        let is_cut = |state: &mut State| !state.ended && pair.is_some_and(|pair| state.cut.contains(&pair));
        !self.changed.wait_while(state, is_cut).unwrap().ended
    }

    /// Which node's process holds the other end.
    fn caller(&self, stream: &TcpStream) -> Option<usize> {
        let sockets = sockets_of(stream.peer_addr().ok()?.port());
        let processes = self.state.lock().unwrap().processes.clone();
        let owns = |process: &Option<u32>| process.is_some_and(|process| owns_any(process, &sockets));
        processes.iter().position(owns)
    }
}

/// What the system calls the sockets that are bound to this port of 127.0.0.1, as it names them among a process's files.
fn sockets_of(port: u16) -> Vec<String> {
    let local = format!(": 0100007F:{port:04X} ");
    let Ok(table) = File::open("/proc/net/tcp") else { return Vec::new() };
    // There may be thousands of lines, for what tests left behind.
    let lines = BufReader::with_capacity(1 << 18, table).lines().map_while(Result::ok);
    let inodes = lines.filter(|line| line.contains(&local));
    inodes.filter_map(|line| Some(format!("socket:[{}]", line.split_whitespace().nth(9)?))).collect()
}

fn owns_any(process: u32, sockets: &[String]) -> bool {
    let Ok(files) = std::fs::read_dir(format!("/proc/{process}/fd")) else { return false };
    let mut names = files.flatten().filter_map(|file| std::fs::read_link(file.path()).ok());
    names.any(|name| sockets.iter().any(|socket| name.as_os_str() == socket.as_str()))
}
