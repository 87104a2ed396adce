//! Ports of this machine that are given to one test only.
//!
//! A port that is looked for, closed and opened again later may be somebody else's by then. So each process of tests
//! locks blocks of ports for as long as it lives, and gives each port of them once.

use std::fs::File;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::{Mutex, PoisonError};

/// How far above its HTTP port a node's cluster port is, if it is told the first one only.
const CLUSTER_ABOVE_HTTP: u16 = 10_000;

/// The lower port of each pair: with those above them they lie below what systems give to outgoing connections, so
/// that a node that is started again finds its port as it left it.
const FIRST: u16 = 11_000;

/// How many pairs are locked at once, and how often there are so many.
const BLOCK: u16 = 50;
const BLOCKS: u16 = 200;

static GIVER: Mutex<Giver> = Mutex::new(Giver { locks: Vec::new(), pairs: 0..0, spare: None });

struct Giver {
    /// The locked blocks: until this process ends.
    locks: Vec<File>,
    /// The lower ports that are left of the newest one.
    pairs: std::ops::Range<u16>,
    /// The upper one of a pair whose lower one was given.
    spare: Option<u16>,
}

impl Giver {
    fn pair(&mut self) -> u16 {
        loop {
            if let Some(port) = self.pairs.next() {
                if is_free(port) && is_free(port + CLUSTER_ABOVE_HTTP) {
                    return port;
                }
                continue;
            }
            self.lock_block();
        }
    }

    fn lock_block(&mut self) {
        let dir = std::env::temp_dir().join("tumen-test-ports");
        std::fs::create_dir_all(&dir).unwrap();
        // Each process begins somewhere else: what a process that just ended had may not be free yet.
        let begin = u16::try_from(std::process::id() % u32::from(BLOCKS)).unwrap();
        for block in (0..BLOCKS).map(|nth| (begin + nth) % BLOCKS) {
            let lock = File::create(dir.join(format!("{block}.lock"))).unwrap();
            if lock.try_lock().is_ok() {
                self.locks.push(lock);
                let first = FIRST + block * BLOCK;
                self.pairs = first..first + BLOCK;
                return;
            }
        }
        panic!("all {BLOCKS} blocks of ports are taken by processes of tests: are some left over?");
    }
}

fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

fn address(port: u16) -> String {
    format!("{}:{port}", Ipv4Addr::LOCALHOST)
}

/// An address of this machine that nobody else is given.
pub fn take() -> String {
    let mut giver = GIVER.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(spare) = giver.spare.take().filter(|port| is_free(*port)) {
        return address(spare);
    }
    let port = giver.pair();
    giver.spare = Some(port + CLUSTER_ABOVE_HTTP);
    address(port)
}

/// An address for HTTP, above which the port that follows from it for the cluster is nobody else's as well.
pub fn take_pair() -> String {
    address(GIVER.lock().unwrap_or_else(PoisonError::into_inner).pair())
}

/// A listener on a port that nobody else is given.
pub fn listen() -> TcpListener {
    TcpListener::bind(take()).expect("a port of this process's own is free")
}
