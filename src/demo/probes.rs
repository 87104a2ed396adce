//! From a node's death to the first answer for each of its keys, as clients of the other nodes see it.

use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::asking::{Answer, Asker};

/// The most clients that ask at once; each takes a part of the keys.
const PROBES_MAX: usize = 32;
/// How long an answer is waited for.
const GIVE_UP_AFTER: Duration = Duration::from_secs(60);

/// Clients with open connections, each with keys to ask for, waiting for the signal.
#[derive(Debug)]
pub(crate) struct Probes {
    go: Vec<Sender<Instant>>,
    answers: Receiver<Option<Duration>>,
    threads: Vec<JoinHandle<()>>,
    keys: usize,
}

impl Probes {
    /// Opens connections to these nodes, and asks for each key once.
    ///
    /// # Errors
    /// If the system has no threads left.
    pub(crate) fn prepare(nodes: &[String], keys: &[String]) -> std::io::Result<Self> {
        let count = keys.len().min(PROBES_MAX);
        let (tell, answers) = mpsc::channel();
        let (ready, all_ready) = mpsc::channel();
        let (mut go, mut threads) = (Vec::new(), Vec::new());
        for number in 0..count {
            let keys: Vec<String> = keys.iter().skip(number).step_by(count).cloned().collect();
            let (signal, signalled) = mpsc::channel();
            let probe = Probe {
                asker: Asker::new(),
                node: nodes[number % nodes.len()].clone(),
                keys,
                tell: tell.clone(),
            };
            let ready = ready.clone();
            let run = move || {
                // An open connection, and a node that knows the way, or the first answer is late for another reason.
                probe.keys.iter().for_each(|key| drop(probe.asker.get(&probe.node, key)));
                drop(ready);
                if let Ok(since) = signalled.recv() {
                    probe.run(since);
                }
            };
            threads.push(std::thread::Builder::new().name(format!("probe-{number}")).spawn(run)?);
            go.push(signal);
        }
        drop(ready);
        // It ends when the last of them is ready.
        let _: Result<(), _> = all_ready.recv();
        Ok(Self { go, answers, threads, keys: keys.len() })
    }

    /// The keys' node died, or froze, at `since`: ask for each key until it is answered, and tell how long each took, the
    /// quickest first. `None` where one of them is never answered.
    pub(crate) fn run(self, since: Instant) -> Option<Vec<Duration>> {
        for go in &self.go {
            // A client that panicked gives no answers, which is noticed below.
            let _: Result<(), _> = go.send(since);
        }
        let told: Option<Vec<Duration>> = self.answers.iter().collect();
        for thread in self.threads {
            thread.join().ok()?;
        }
        let mut answered = told.filter(|told| told.len() == self.keys)?;
        answered.sort_unstable();
        Some(answered)
    }
}

struct Probe {
    asker: Asker,
    node: String,
    keys: Vec<String>,
    tell: Sender<Option<Duration>>,
}

impl Probe {
    fn run(&self, since: Instant) {
        for key in &self.keys {
            let answered = loop {
                match self.asker.get(&self.node, key) {
                    Answer::Done => break Some(since.elapsed()),
                    _ if since.elapsed() > GIVE_UP_AFTER => break None,
                    Answer::Again | Answer::Gone | Answer::Refused(_) => std::thread::yield_now(),
                }
            };
            // Nobody waits for it any more where another key was not answered.
            let _: Result<(), _> = self.tell.send(answered);
        }
    }
}
