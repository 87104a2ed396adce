//! A stream of requests for keys, from several clients to all nodes, and what became of each.
//!
//! ```text
//!  client ─▶ a node ─▶ done
//!              ├─▶ NotReady, Stale: nothing changed, the same again
//!              ├─▶ the node is gone: the same at another node
//!              └─▶ anything else: failed
//! ```

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::asking::{Answer, Asker};

/// How many clients there are.
const CLIENTS: usize = 4;
/// How many keys they write and read.
const KEYS: usize = 1_000;
/// How long each client rests after a request: they show that a cluster answers, not how much it can.
const REST: Duration = Duration::from_millis(2);
/// How long a client waits before it asks the same again.
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(1);
/// How long a request may be asked again and again.
const GIVE_UP_AFTER: Duration = Duration::from_secs(20);

/// Running clients. Dropping it stops them.
#[derive(Debug)]
pub(crate) struct Load {
    shared: Arc<Shared>,
    clients: Mutex<Vec<JoinHandle<()>>>,
}

#[derive(Debug)]
struct Shared {
    /// The nodes' HTTP interfaces, and whether each is believed to be there.
    nodes: Vec<(String, AtomicBool)>,
    stopping: AtomicBool,
    sent: AtomicU64,
    ok: AtomicU64,
    failed: AtomicU64,
    repeated: AtomicU64,
    redirected: AtomicU64,
    last_failure: Mutex<Option<String>>,
}

/// What became of the requests so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Requests that clients made; one that is asked again is still one.
    pub(crate) sent: u64,
    /// Requests that were carried out.
    pub(crate) ok: u64,
    /// Requests that came to nothing.
    pub(crate) failed: u64,
    /// How often a request was asked again after `NotReady` or `Stale`.
    pub(crate) repeated: u64,
    /// How often a request was asked at another node because the one that was asked was gone.
    pub(crate) redirected: u64,
    /// What the last failure was.
    pub(crate) last_failure: Option<String>,
}

impl Load {
    /// Starts to send.
    ///
    /// # Errors
    /// If the system has no threads left.
    pub(crate) fn start(nodes: impl IntoIterator<Item = String>) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            nodes: nodes.into_iter().map(|node| (node, AtomicBool::new(true))).collect(),
            stopping: AtomicBool::new(false),
            sent: AtomicU64::new(0),
            ok: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            repeated: AtomicU64::new(0),
            redirected: AtomicU64::new(0),
            last_failure: Mutex::default(),
        });
        let start = |number| {
            let shared = Arc::clone(&shared);
            std::thread::Builder::new().name(format!("client-{number}")).spawn(move || shared.run(number))
        };
        let clients = (0..CLIENTS).map(start).collect::<std::io::Result<_>>()?;
        Ok(Self { shared, clients: Mutex::new(clients) })
    }

    /// A node is there again: clients may ask it.
    pub(crate) fn welcome(&self, node: usize) {
        self.shared.nodes[node].1.store(true, Ordering::Relaxed);
    }

    /// What became of the requests so far. Those under way are counted as sent only.
    pub(crate) fn counts(&self) -> Counts {
        let Shared { sent, ok, failed, repeated, redirected, last_failure, .. } = &*self.shared;
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let last_failure = last_failure.lock().unwrap_or_else(PoisonError::into_inner).clone();
        // What became of them first: nobody shall see more answers than requests.
        let (ok, failed) = (read(ok), read(failed));
        let (repeated, redirected) = (read(repeated), read(redirected));
        Counts { sent: read(sent), ok, failed, repeated, redirected, last_failure }
    }

    /// Stops sending, waits for the requests that are under way, and says what became of all.
    pub(crate) fn stop(&self) -> Counts {
        self.end();
        self.counts()
    }

    fn end(&self) {
        self.shared.stopping.store(true, Ordering::Relaxed);
        let clients = std::mem::take(&mut *self.clients.lock().unwrap_or_else(PoisonError::into_inner));
        for client in clients {
            if client.join().is_err() {
                self.shared.note_failure("a client panicked".into());
            }
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.end();
    }
}

impl Shared {
    fn run(&self, number: usize) {
        let asker = Asker::new();
        let mut turn = number;
        while !self.stopping.load(Ordering::Relaxed) {
            let key = format!("user-{}", (turn * CLIENTS + number) % KEYS);
            self.sent.fetch_add(1, Ordering::Relaxed);
            self.request(&asker, turn, &key);
            turn = turn.wrapping_add(1);
            std::thread::sleep(REST);
        }
    }

    /// One request, asked until it is answered. Writing the same bytes twice is the same as once, so that it may be
    /// asked elsewhere even where the first node went away in the middle of it.
    fn request(&self, asker: &Asker, turn: usize, key: &str) {
        let since = Instant::now();
        let mut at = self.next_there(turn % self.nodes.len());
        loop {
            let (node, there) = &self.nodes[at];
            let answer = if turn.is_multiple_of(2) {
                asker.put(node, key, &format!("value {turn} of {key}"))
            } else {
                asker.get(node, key)
            };
            let late = since.elapsed() > GIVE_UP_AFTER;
            match answer {
                Answer::Done => {
                    self.ok.fetch_add(1, Ordering::Relaxed);
                    return;
                }
                Answer::Again if !late => {
                    self.repeated.fetch_add(1, Ordering::Relaxed);
                    std::thread::sleep(ASK_AGAIN_AFTER);
                }
                Answer::Gone if !late => {
                    self.redirected.fetch_add(1, Ordering::Relaxed);
                    there.store(false, Ordering::Relaxed);
                    at = self.next_there((at + 1) % self.nodes.len());
                }
                Answer::Again => return self.note_failure(format!("{node} is not ready for {key} for ever")),
                Answer::Gone => return self.note_failure("no node can be reached".into()),
                Answer::Refused(why) => return self.note_failure(why),
            }
        }
    }

    /// This node if it is believed to be there, else the next that is; this one if none is.
    fn next_there(&self, at: usize) -> usize {
        let count = self.nodes.len();
        let mut all = (0..count).map(|step| (at + step) % count);
        all.find(|node| self.nodes[*node].1.load(Ordering::Relaxed)).unwrap_or(at)
    }

    fn note_failure(&self, why: String) {
        self.failed.fetch_add(1, Ordering::Relaxed);
        *self.last_failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
    }
}
