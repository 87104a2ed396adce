//! Clients that write to every partition, one each, and keep the longest time between two acknowledgements: of all, and
//! of those between which the partition's epoch is another, as it is after a cut-over.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tumen_core::partitioner::Partitioner;

use super::Size;
use crate::demo::asking::{Answer, Asker};

/// How long a client rests after a write: together they keep two cores busy.
const REST: Duration = Duration::from_millis(10);
/// How long it waits before it asks the same again.
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(1);
/// How large each value is that a partition is filled with.
pub(super) const VALUE_LEN: usize = 64 << 10;
/// How many clients fill.
const FILLERS: usize = 4;
/// How long a value may take to be taken.
const GIVE_UP_AFTER: Duration = Duration::from_secs(60);

/// Running clients. Dropping it stops them.
#[derive(Debug)]
pub(super) struct Writers {
    shared: Arc<Shared>,
    clients: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    stopping: AtomicBool,
    done: AtomicU64,
    failed: AtomicU64,
    /// By partition.
    gaps: Vec<Mutex<Gap>>,
}

#[derive(Clone, Copy, Debug)]
struct Gap {
    last: Instant,
    /// The epoch in which that was written.
    epoch: Option<u64>,
    longest: Duration,
    cut_over: Duration,
}

impl Gap {
    /// A time without acknowledgements that ends now, or goes on.
    fn stretch(&mut self, now: Instant) -> Duration {
        let gap = now.saturating_duration_since(self.last);
        self.longest = self.longest.max(gap);
        gap
    }

    fn end(&mut self, now: Instant, epoch: Option<u64>) {
        let gap = self.stretch(now);
        if epoch != self.epoch {
            self.cut_over = self.cut_over.max(gap);
        }
        (self.last, self.epoch) = (now, epoch);
    }
}

/// What the writer of one partition waited for, in a window.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waited {
    /// The longest time between two acknowledgements.
    pub(super) longest: Duration,
    /// The longest between two of different epochs.
    pub(super) cut_over: Duration,
}

impl Writers {
    /// Starts one for each partition; all ask these nodes.
    ///
    /// # Errors
    /// If the system has no threads left.
    pub(super) fn start(nodes: &[String], partitions: u32) -> std::io::Result<Self> {
        let gap = || {
            let (longest, cut_over) = (Duration::ZERO, Duration::ZERO);
            Mutex::new(Gap { last: Instant::now(), epoch: None, longest, cut_over })
        };
        let shared = Arc::new(Shared {
            stopping: AtomicBool::new(false),
            done: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            gaps: (0..partitions).map(|_| gap()).collect(),
        });
        let start = |(number, key): (usize, String)| {
            let (shared, node) = (Arc::clone(&shared), nodes[number % nodes.len()].clone());
            let run = move || shared.run(number, &node, &key);
            std::thread::Builder::new().name(format!("writer-{number}")).spawn(run)
        };
        let keys = keys("probe", partitions, 1).into_iter().flatten();
        let clients = keys.enumerate().map(start).collect::<std::io::Result<_>>()?;
        Ok(Self { shared, clients })
    }

    /// Gaps are looked for from now on.
    pub(super) fn begin_window(&self) {
        let now = Instant::now();
        for gap in &self.shared.gaps {
            let mut gap = gap.lock().unwrap_or_else(PoisonError::into_inner);
            (gap.longest, gap.cut_over) = (Duration::ZERO, Duration::ZERO);
            // What was before is nobody's.
            gap.last = gap.last.max(now.checked_sub(REST).unwrap_or(now));
        }
    }

    /// What the writers of these partitions waited for since then.
    pub(super) fn end_window(&self, partitions: &[usize]) -> Vec<Waited> {
        let now = Instant::now();
        let longest = |partition: &usize| {
            let mut gap = self.shared.gaps[*partition].lock().unwrap_or_else(PoisonError::into_inner);
            gap.stretch(now);
            Waited { longest: gap.longest, cut_over: gap.cut_over }
        };
        partitions.iter().map(longest).collect()
    }

    /// Stops them: how many writes were acknowledged, and how many failed.
    pub(super) fn stop(mut self) -> (u64, u64) {
        self.end();
        (self.shared.done.load(Ordering::Relaxed), self.shared.failed.load(Ordering::Relaxed))
    }

    fn end(&mut self) {
        self.shared.stopping.store(true, Ordering::Relaxed);
        for client in self.clients.drain(..) {
            if client.join().is_err() {
                self.shared.failed.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

impl Drop for Writers {
    fn drop(&mut self) {
        self.end();
    }
}

impl Shared {
    fn run(&self, partition: usize, node: &str, key: &str) {
        let asker = Asker::new();
        let mut number = 0_u64;
        while !self.stopping.load(Ordering::Relaxed) {
            number += 1;
            match asker.put_in_epoch(node, key, &number.to_string()) {
                (Answer::Done, epoch) => {
                    self.done.fetch_add(1, Ordering::Relaxed);
                    let now = Instant::now();
                    let mut gap = self.gaps[partition].lock().unwrap_or_else(PoisonError::into_inner);
                    gap.end(now, epoch);
                    drop(gap);
                    std::thread::sleep(REST);
                }
                (Answer::Again, _) => std::thread::sleep(ASK_AGAIN_AFTER),
                (Answer::Gone | Answer::Refused(_), _) => {
                    self.failed.fetch_add(1, Ordering::Relaxed);
                    std::thread::sleep(ASK_AGAIN_AFTER);
                }
            }
        }
    }
}

/// Puts so many bytes into each partition.
///
/// # Errors
/// Why a value was not taken.
pub(super) fn fill(nodes: &[String], size: Size) -> Result<(), String> {
    let each = usize::try_from(size.partition_bytes / VALUE_LEN as u64).unwrap_or(usize::MAX).max(1);
    let keys: Vec<String> = keys("fill", size.partitions, each).into_iter().flatten().collect();
    std::thread::scope(|scope| {
        let filling: Vec<_> = (0..FILLERS)
            .map(|number| {
                let mine: Vec<&String> = keys.iter().skip(number).step_by(FILLERS).collect();
                let node = &nodes[number % nodes.len()];
                scope.spawn(move || fill_with(node, &mine))
            })
            .collect();
        filling.into_iter().try_for_each(|one| one.join().map_err(|_| "a client panicked".to_owned())?)
    })
}

fn fill_with(node: &str, keys: &[&String]) -> Result<(), String> {
    let asker = Asker::new();
    for (number, key) in keys.iter().enumerate() {
        let value = value(number as u64);
        let begun = Instant::now();
        loop {
            match asker.put(node, key, &value) {
                Answer::Done => break,
                _ if begun.elapsed() < GIVE_UP_AFTER => std::thread::sleep(ASK_AGAIN_AFTER),
                refused => return Err(format!("{key} cannot be filled: {refused:?}")),
            }
        }
    }
    Ok(())
}

/// What is put there. No two values are the same.
pub(super) fn value(number: u64) -> String {
    format!("{number:016x}").repeat(VALUE_LEN / 16)
}

/// So many keys of each partition, by partition.
pub(super) fn keys(prefix: &str, partitions: u32, each: usize) -> Vec<Vec<String>> {
    let mut keys = vec![Vec::with_capacity(each); partitions as usize];
    let mut left = keys.len();
    for number in 0_u64.. {
        if left == 0 || each == 0 {
            break;
        }
        let key = format!("{prefix}-{number}");
        let Ok(partition) = Partitioner::Hash.partition_of(key.as_bytes(), partitions) else { continue };
        let of = &mut keys[partition as usize];
        if of.len() < each {
            of.push(key);
            left -= usize::from(of.len() == each);
        }
    }
    keys
}
