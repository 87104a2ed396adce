//! What a node must not forget: one file in `data_dir`, or memory without one.
//!
//! ```text
//! raft ──┐            ┌ batch ┐
//! copy ──┼─ write() ─▶│ batch │─▶ one transaction ─ fsync ─▶ every waiting write() returns
//! copy ──┘            └ batch ┘
//! ```
//!
//! The file is opened once per node and shared by all who keep something. One thread writes it: while it waits
//! for the disk, further batches gather, and the next transaction takes them all (*group commit*). A batch is
//! taken whole or not at all, and batches take effect in the order they were given.
//!
//! Every record carries a checksum of its place and its bytes, so that a record that the disk changed, or that
//! stands where it was not written, is an error and never an answer.
//!
//! The store also knows the node's *boot* (this run) and the *life* of its bytes. With a file the life goes on
//! over restarts and crashes, since nothing is promised before it is on disk; a file that is gone, and memory
//! after a restart, is a new life.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use tumen_core::ids::{Boot, Life, NodeName};

use crate::clock::{self, Clock};
use crate::codec;

mod disk;
mod memory;
mod record;

/// Which records belong together. Each space is a table of its own in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Space {
    /// What the store knows of its node.
    Node,
    /// Raft's vote, positions and state-machine snapshot.
    Raft,
    /// Raft's log, by index.
    RaftLog,
    /// What each copy is: its life, its promise, its mark.
    Copies,
    /// The copies' logs, by partition and sequence.
    CopyLogs,
    /// The copies' states at some position of their logs, in chunks.
    CopyStates,
}

impl Space {
    /// The table's name in the file. Never changes.
    const fn name(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::Raft => "raft",
            Self::RaftLog => "raft-log",
            Self::Copies => "copies",
            Self::CopyLogs => "copy-logs",
            Self::CopyStates => "copy-states",
        }
    }
}

/// A batch that was given and may not be on disk yet.
#[derive(Debug)]
pub struct Written(Waits);

#[derive(Debug)]
enum Waits {
    Over(Result<(), StoreError>),
    For(oneshot::Receiver<Result<(), StoreError>>),
}

impl Written {
    /// Waits until the batch, and all given before it, are on disk.
    ///
    /// # Errors
    /// As [`Store::write`].
    pub async fn done(self) -> Result<(), StoreError> {
        match self.0 {
            Waits::Over(result) => result,
            Waits::For(written) => written.await.map_err(|_| StoreError::Closed)?,
        }
    }
}

/// A record that a scan found: its key, and its bytes unless they are damaged.
pub type Found = (Vec<u8>, Option<Bytes>);

/// Changes that take effect together.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    changes: Vec<Change>,
    size: usize,
}

#[derive(Clone, Debug)]
enum Change {
    Put { space: Space, key: Vec<u8>, value: Bytes },
    Remove { space: Space, keys: Range<Vec<u8>> },
}

impl Batch {
    /// No changes.
    pub const fn new() -> Self {
        Self { changes: Vec::new(), size: 0 }
    }

    /// About how many bytes it has.
    pub const fn size(&self) -> usize {
        self.size
    }

    /// Whether it changes nothing.
    pub const fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// Sets a record.
    #[must_use]
    pub fn put(mut self, space: Space, key: &[u8], value: Bytes) -> Self {
        self.size += key.len() + value.len();
        self.changes.push(Change::Put { space, key: key.to_vec(), value });
        self
    }

    /// Removes the records whose keys are in the range, the end not included.
    #[must_use]
    pub fn remove(mut self, space: Space, keys: Range<Vec<u8>>) -> Self {
        self.size += keys.start.len() + keys.end.len();
        self.changes.push(Change::Remove { space, keys });
        self
    }
}

/// Why something could not be kept, or read back.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process, or another node in this one, has the file open.
    #[error(
        "{path} is open already: does another node run with this --data-dir? Stop it, or give each node its own"
    )]
    Locked {
        /// The file.
        path: PathBuf,
    },
    /// The file or its directory may not be read and written.
    #[error(
        "{path} may not be read and written: give the node's user access to it, or choose another --data-dir"
    )]
    Permission {
        /// The file or directory.
        path: PathBuf,
    },
    /// The file is none of ours, or torn, or changed behind our back.
    #[error(
        "{path} is damaged or no file of tumen ({reason}). Nothing was changed. \
         Restore it; or, if the other nodes hold the data, move it away and start again: the node then joins anew"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was found.
        reason: String,
    },
    /// The file belongs to a node of another name.
    #[error("{path} belongs to the node {theirs}, not to {ours}: check --name and --data-dir")]
    OtherNode {
        /// The file.
        path: PathBuf,
        /// The name of the node that opens it.
        ours: NodeName,
        /// The name of the node that wrote it.
        theirs: NodeName,
    },
    /// The file was written by a build that keeps its records otherwise.
    #[error("{path} is written in format {theirs}, this build reads {ours}: start the build that wrote it")]
    Format {
        /// The file.
        path: PathBuf,
        /// What this build reads.
        ours: u32,
        /// What the file has.
        theirs: u32,
    },
    /// The disk failed. Nothing that waited was promised; the store takes nothing more until it is reopened.
    #[error("{path} cannot be used ({reason}): check the disk, then restart the node")]
    Failed {
        /// The file or directory.
        path: PathBuf,
        /// What the operating system or the database said.
        reason: String,
    },
    /// The store was closed. Nothing changed.
    #[error("the store is closed: the node is stopping")]
    Closed,
}

/// What the store knows of its node; the first record of every file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct NodeRecord {
    format: u32,
    node: NodeName,
    life: Life,
    boot: Boot,
    /// Whether the run that wrote this ended in good order.
    clean: bool,
}

/// How records are kept. Raised when a build could not read what another wrote.
const FORMAT: u32 = 1;
const NODE_KEY: &[u8] = b"node";
/// How many bytes are read at once by whoever reads everything.
const CHECKED_AT_ONCE: usize = 1 << 20;
/// The file's name in `data_dir`.
pub const FILE_NAME: &str = "tumen.redb";
/// The name of the file that has the partitions' copies: one of its own, so that what befalls it costs copies, which
/// others have too, and not this node's votes; and so that votes do not wait behind megabytes of state.
pub const COPIES_FILE_NAME: &str = "copies.redb";

/// How a file's transactions come to disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Commits {
    /// With one fsync. A power cut in the midst of it leaves a torn state, and the one before counts; so a state that the
    /// disk changed later looks as if it had never been promised.
    InOnePhase,
    /// With two: the new state is on disk before anything says that it counts. Then no power cut tears it, and one that is
    /// torn was promised.
    InTwoPhases,
}

/// How the run before this one ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Previous {
    /// There was none, or it left nothing.
    None,
    /// In good order: all that was written is here.
    Clean,
    /// By a crash: all that was *promised* is here.
    Crashed,
    /// By a crash, and the newest state of a file that commits in one phase was torn: it was taken back to the one before.
    /// After a power cut nothing that was promised is missing then; where the disk changed bytes, it may be.
    RolledBack,
}

/// What a node must not forget. Cheap to clone; all clones are the same store.
#[derive(Clone, Debug)]
pub struct Store {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    backing: Backing,
    node: NodeRecord,
    previous: Previous,
    /// Whoever works as this life's voter holds it, so that there is never a second one at work.
    voter: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Debug)]
enum Backing {
    Memory(memory::Memory),
    Disk(disk::Disk),
}

impl Store {
    /// A store in memory: a new life.
    pub fn memory(node: &NodeName, clock: &Clock) -> Self {
        let (boot, life) = (clock::new_boot(clock), clock::new_life(clock));
        let node = NodeRecord { format: FORMAT, node: node.clone(), life, boot, clean: false };
        Self::new(Backing::Memory(memory::Memory::default()), node, Previous::None)
    }

    /// Opens the file with this node's votes in `data_dir`, or makes it and the directory. It blocks for as long as the
    /// disk does, which after a crash means reading the whole file. What it has is all that was ever promised, or it is
    /// an error: its life goes on, and a vote that was taken back would be given twice.
    ///
    /// # Errors
    /// Every [`StoreError`] but [`StoreError::Closed`]. Nothing is changed then.
    pub fn open(data_dir: &Path, node: &NodeName, clock: &Clock) -> Result<Self, StoreError> {
        Self::open_with(data_dir, FILE_NAME, Commits::InTwoPhases, node, clock)
    }

    /// The same with the file of this node's copies, which says by [`Self::previous`] that it may have been taken back.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_copies(data_dir: &Path, node: &NodeName, clock: &Clock) -> Result<Self, StoreError> {
        Self::open_with(data_dir, COPIES_FILE_NAME, Commits::InOnePhase, node, clock)
    }

    fn open_with(
        data_dir: &Path,
        file: &str,
        commits: Commits,
        node: &NodeName,
        clock: &Clock,
    ) -> Result<Self, StoreError> {
        let disk = disk::Disk::open(data_dir, file, commits)?;
        let path = disk.path().to_owned();
        let found = match disk.read(Space::Node, NODE_KEY)? {
            Some(bytes) => Some(read_node(&path, &bytes, node)?),
            None => None,
        };
        let drawn = clock::new_boot(clock);
        let (life, boot, previous) = match found {
            None => (clock::new_life(clock), drawn, Previous::None),
            Some(last) => {
                let previous = match (last.clean, disk.was_rolled_back()) {
                    (_, true) => Previous::RolledBack,
                    (true, false) => Previous::Clean,
                    (false, false) => Previous::Crashed,
                };
                // A wall clock that was set back must not give a boot that is older than the last.
                (last.life, drawn.max(last.boot.next()), previous)
            }
        };
        let record = NodeRecord { format: FORMAT, node: node.clone(), life, boot, clean: false };
        disk.write_blocking(&node_batch(&record))?;
        Ok(Self::new(Backing::Disk(disk), record, previous))
    }

    fn new(backing: Backing, node: NodeRecord, previous: Previous) -> Self {
        Self { inner: Arc::new(Inner { backing, node, previous, voter: Arc::default() }) }
    }

    /// This run of the node's process.
    pub fn boot(&self) -> Boot {
        self.inner.node.boot
    }

    /// The life of these bytes, as Raft's voters know them.
    pub fn life(&self) -> Life {
        self.inner.node.life
    }

    /// The node whose store this is.
    pub fn node(&self) -> &NodeName {
        &self.inner.node.node
    }

    /// How the run before this one ended.
    pub fn previous(&self) -> Previous {
        self.inner.previous
    }

    /// The file, if there is one.
    pub fn path(&self) -> Option<&Path> {
        match &self.inner.backing {
            Backing::Memory(_) => None,
            Backing::Disk(disk) => Some(disk.path()),
        }
    }

    /// Keeps a batch. When it returns `Ok`, the batch is on disk, and so are all given before it.
    ///
    /// # Errors
    /// [`StoreError::Failed`] or [`StoreError::Closed`]. Whether the batch is kept is then unknown until the store
    /// is opened again.
    pub async fn write(&self, batch: Batch) -> Result<(), StoreError> {
        self.submit(batch).await.done().await
    }

    /// Gives a batch to be kept, and returns as soon as there is room for it: what is given after it takes effect after
    /// it.
    pub async fn submit(&self, batch: Batch) -> Written {
        Written(match &self.inner.backing {
            Backing::Memory(memory) => Waits::Over(memory.write(batch)),
            Backing::Disk(disk) => match disk.submit(batch).await {
                Ok(written) => Waits::For(written),
                Err(error) => Waits::Over(Err(error)),
            },
        })
    }

    /// Keeps a batch, and blocks the thread until it is on disk. Before anybody else uses the store.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub fn write_blocking(&self, batch: &Batch) -> Result<(), StoreError> {
        match &self.inner.backing {
            Backing::Memory(memory) => memory.write(batch.clone()),
            Backing::Disk(disk) => disk.write_blocking(batch),
        }
    }

    /// Keeps a batch without waiting for it: a crash may lose it. It is dropped where too much is waiting.
    pub fn write_soon(&self, batch: Batch) {
        match &self.inner.backing {
            // A closed store keeps nothing, which is what may happen to such a batch anyway.
            Backing::Memory(memory) => drop(memory.write(batch)),
            Backing::Disk(disk) => disk.write_soon(batch),
        }
    }

    /// One record, as the last batch that took effect left it.
    pub fn read(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        match &self.inner.backing {
            Backing::Memory(memory) => memory.read(space, key),
            Backing::Disk(disk) => disk.read(space, key),
        }
    }

    /// The records whose keys are in the range, the end not included, in order: until they sum up to `size_max`
    /// bytes, but at least one.
    pub fn scan(
        &self,
        space: Space,
        keys: Range<Vec<u8>>,
        size_max: usize,
    ) -> Result<Vec<(Vec<u8>, Bytes)>, StoreError> {
        match &self.inner.backing {
            Backing::Memory(memory) => memory.scan(space, keys, size_max),
            Backing::Disk(disk) => disk.scan(space, keys, size_max),
        }
    }

    /// As [`Self::scan`], but a record that the disk changed is one without a value, and not the end of all reading.
    pub fn scan_damaged(
        &self,
        space: Space,
        keys: Range<Vec<u8>>,
        size_max: usize,
    ) -> Result<Vec<Found>, StoreError> {
        match &self.inner.backing {
            Backing::Memory(memory) => {
                let found = memory.scan(space, keys, size_max)?;
                Ok(found.into_iter().map(|(key, value)| (key, Some(value))).collect())
            }
            Backing::Disk(disk) => disk.scan_damaged(space, keys, size_max),
        }
    }

    /// Reads every record of a space, to see whether all are as they were written.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] where one is not.
    pub fn check(&self, space: Space) -> Result<(), StoreError> {
        let mut from = Vec::new();
        loop {
            // No key of ours is as long.
            let found = self.scan(space, from..vec![0xff; 64], CHECKED_AT_ONCE)?;
            let Some((last, _)) = found.last() else { return Ok(()) };
            // The key after it.
            from = [last.as_slice(), &[0]].concat();
        }
    }

    /// The record with the greatest key.
    pub fn last(&self, space: Space) -> Result<Option<(Vec<u8>, Bytes)>, StoreError> {
        match &self.inner.backing {
            Backing::Memory(memory) => memory.last(space),
            Backing::Disk(disk) => disk.last(space),
        }
    }

    /// Waits until nobody else works as this life's voter, and keeps everybody else from it.
    pub async fn claim_voter(&self) -> tokio::sync::OwnedMutexGuard<()> {
        Arc::clone(&self.inner.voter).lock_owned().await
    }

    /// Ends the store in good order: everything given is on disk, and the file says so. Later writes are refused.
    pub async fn close(&self) -> Result<(), StoreError> {
        match &self.inner.backing {
            Backing::Memory(memory) => {
                memory.close();
                Ok(())
            }
            Backing::Disk(disk) => {
                let record = NodeRecord { clean: true, ..self.inner.node.clone() };
                disk.close(node_batch(&record)).await
            }
        }
    }
}

/// Moves a damaged file aside, so that people can look at it, and tells where it is now.
///
/// # Errors
/// What the operating system says. The file is where it was then.
pub fn set_aside(file: &Path) -> std::io::Result<PathBuf> {
    let aside = file.with_extension("damaged");
    std::fs::rename(file, &aside)?;
    Ok(aside)
}

fn node_batch(record: &NodeRecord) -> Batch {
    Batch::new().put(Space::Node, NODE_KEY, codec::encode(record))
}

fn read_node(path: &Path, bytes: &[u8], node: &NodeName) -> Result<NodeRecord, StoreError> {
    let damaged = |reason: String| StoreError::Damaged { path: path.to_owned(), reason };
    let record: NodeRecord = codec::decode(bytes, 4096).map_err(|e| damaged(format!("node record: {e}")))?;
    if record.format != FORMAT {
        return Err(StoreError::Format { path: path.to_owned(), ours: FORMAT, theirs: record.format });
    }
    if record.node != *node {
        let (ours, theirs) = (node.clone(), record.node);
        return Err(StoreError::OtherNode { path: path.to_owned(), ours, theirs });
    }
    Ok(record)
}

#[cfg(test)]
mod tests;
