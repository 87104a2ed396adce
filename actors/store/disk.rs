//! The store of a node with `data_dir`: one redb file, written by one thread.
//!
//! ```text
//!             ┌─ waits for the disk ─┐
//! thread:  ── take all that waits ─ one transaction ─ fsync ─ answer them all ── take all that waits ─ ··
//! ```

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::thread::JoinHandle;

use bytes::Bytes;
use redb::{
    Database, DatabaseError, Durability, ReadTransaction, ReadableDatabase, ReadableTable, StorageError,
    TableDefinition, TableError,
};
use tokio::sync::{mpsc, oneshot};

use super::{Batch, Change, Commits, Found, Space, StoreError, record};

/// Batches that may wait for the thread; whoever brings a further one waits too.
const WAITING_MAX: usize = 1024;
/// Bytes that one transaction takes at most, unless a single batch has more.
const TRANSACTION_SIZE_MAX: usize = 8 << 20;
/// Pages of the file that are kept in memory, in bytes.
const CACHE_SIZE: usize = 16 << 20;
/// How far a repair says that it has come when it found the newest state torn, and looks at the one before: it begins at
/// zero, and where the newest one is whole it goes on beyond this.
const TORN: std::ops::RangeInclusive<f64> = 0.1..=0.5;

fn table(space: Space) -> TableDefinition<'static, &'static [u8], &'static [u8]> {
    TableDefinition::new(space.name())
}

#[derive(Debug)]
pub(super) struct Disk {
    path: PathBuf,
    jobs: mpsc::Sender<Job>,
    /// `None` once the store is closed.
    database: Arc<RwLock<Option<Database>>>,
    commits: Commits,
    rolled_back: bool,
    thread: std::sync::Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug)]
enum Job {
    /// Keep the batch; if somebody waits, tell once it is on disk.
    Write { batch: Batch, done: Option<oneshot::Sender<Result<(), StoreError>>> },
    /// Keep the batch, then close the file.
    Close { batch: Batch, done: oneshot::Sender<Result<(), StoreError>> },
}

impl Disk {
    pub(super) fn open(data_dir: &Path, file: &str, commits: Commits) -> Result<Self, StoreError> {
        fs::create_dir_all(data_dir).map_err(|e| io_error(data_dir, &e))?;
        let path = data_dir.join(file);
        let (database, rolled_back) = open_database(&path, commits)?;
        // The file's name must survive a power cut as its contents do.
        fs::File::open(data_dir).and_then(|dir| dir.sync_all()).map_err(|e| io_error(data_dir, &e))?;
        let database = Arc::new(RwLock::new(Some(database)));
        let (jobs, waiting) = mpsc::channel(WAITING_MAX);
        let writer = Writer { path: path.clone(), database: Arc::clone(&database), commits, failed: None };
        let thread = std::thread::Builder::new()
            .name("tumen-store".into())
            .spawn(move || writer.run(waiting))
            .map_err(|e| io_error(&path, &e))?;
        Ok(Self { path, jobs, database, commits, rolled_back, thread: std::sync::Mutex::new(Some(thread)) })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the newest state of the file was torn when it was opened, and an older one was taken instead.
    pub(super) const fn was_rolled_back(&self) -> bool {
        self.rolled_back
    }

    pub(super) async fn submit(
        &self,
        batch: Batch,
    ) -> Result<oneshot::Receiver<Result<(), StoreError>>, StoreError> {
        let (done, written) = oneshot::channel();
        let job = Job::Write { batch, done: Some(done) };
        self.jobs.send(job).await.map_err(|_| StoreError::Closed)?;
        Ok(written)
    }

    /// For the opening of the store, before anything async is about.
    pub(super) fn write_blocking(&self, batch: &Batch) -> Result<(), StoreError> {
        let guard = self.database.read().unwrap_or_else(PoisonError::into_inner);
        let database = guard.as_ref().ok_or(StoreError::Closed)?;
        commit(database, [batch], Durability::Immediate, self.commits).map_err(|e| self.error(e))
    }

    pub(super) fn write_soon(&self, batch: Batch) {
        // Full or closed: such a batch may be dropped.
        let _ = self.jobs.try_send(Job::Write { batch, done: None });
    }

    pub(super) async fn close(&self, last: Batch) -> Result<(), StoreError> {
        let (done, closed) = oneshot::channel();
        if self.jobs.send(Job::Close { batch: last, done }).await.is_err() {
            return Ok(());
        }
        let result = closed.await.unwrap_or(Err(StoreError::Closed));
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // It has answered, and only has to return.
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        }
        result
    }

    pub(super) fn read(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.with(space, |table| {
            let Some(found) = table.get(key)? else { return Ok(None) };
            Ok(Some(self.unseal(space, key, found.value())?))
        })
    }

    pub(super) fn scan(
        &self,
        space: Space,
        keys: Range<Vec<u8>>,
        size_max: usize,
    ) -> Result<Vec<(Vec<u8>, Bytes)>, StoreError> {
        self.scan_with(space, keys, size_max, |key, bytes| self.unseal(space, key, bytes))
    }

    pub(super) fn scan_damaged(
        &self,
        space: Space,
        keys: Range<Vec<u8>>,
        size_max: usize,
    ) -> Result<Vec<Found>, StoreError> {
        let unseal =
            |key: &[u8], bytes: &[u8]| Ok(record::unseal(space, key, bytes).map(Bytes::copy_from_slice));
        self.scan_with(space, keys, size_max, unseal)
    }

    fn scan_with<T>(
        &self,
        space: Space,
        keys: Range<Vec<u8>>,
        size_max: usize,
        unseal: impl Fn(&[u8], &[u8]) -> Result<T, Fault>,
    ) -> Result<Vec<(Vec<u8>, T)>, StoreError> {
        if keys.start >= keys.end {
            return Ok(Vec::new());
        }
        let found = self.with(space, |table| {
            let mut found = Vec::new();
            let mut size = 0;
            for entry in table.range(keys.start.as_slice()..keys.end.as_slice())? {
                let (key, value) = entry?;
                size += value.value().len().saturating_sub(record::CHECKSUM_LEN);
                if size > size_max && !found.is_empty() {
                    break;
                }
                found.push((key.value().to_vec(), unseal(key.value(), value.value())?));
            }
            Ok(Some(found))
        })?;
        Ok(found.unwrap_or_default())
    }

    pub(super) fn last(&self, space: Space) -> Result<Option<(Vec<u8>, Bytes)>, StoreError> {
        self.with(space, |table| {
            let Some((key, value)) = table.last()? else { return Ok(None) };
            Ok(Some((key.value().to_vec(), self.unseal(space, key.value(), value.value())?)))
        })
    }

    /// Reads from one table; `None` where the table is not there yet.
    fn with<T>(
        &self,
        space: Space,
        read: impl FnOnce(redb::ReadOnlyTable<&'static [u8], &'static [u8]>) -> Result<Option<T>, Fault>,
    ) -> Result<Option<T>, StoreError> {
        let guard = self.database.read().unwrap_or_else(PoisonError::into_inner);
        let database = guard.as_ref().ok_or(StoreError::Closed)?;
        let opened = || -> Result<_, Fault> {
            let transaction: ReadTransaction = database.begin_read()?;
            match transaction.open_table(table(space)) {
                Ok(table) => Ok(Some(table)),
                Err(TableError::TableDoesNotExist(_)) => Ok(None),
                Err(error) => Err(error.into()),
            }
        };
        let Some(table) = opened().map_err(|e| self.error(e))? else { return Ok(None) };
        read(table).map_err(|e| self.error(e))
    }

    fn unseal(&self, space: Space, key: &[u8], bytes: &[u8]) -> Result<Bytes, Fault> {
        let value = record::unseal(space, key, bytes)
            .ok_or_else(|| Fault::Damaged(format!("a record of {} has a wrong checksum", space.name())))?;
        Ok(Bytes::copy_from_slice(value))
    }

    fn error(&self, fault: Fault) -> StoreError {
        fault.at(&self.path)
    }
}

struct Writer {
    path: PathBuf,
    database: Arc<RwLock<Option<Database>>>,
    commits: Commits,
    /// Set once the disk failed: what a failed fsync left behind is unknown, so nothing is promised any more.
    failed: Option<StoreError>,
}

impl Writer {
    fn run(mut self, mut waiting: mpsc::Receiver<Job>) {
        while let Some(first) = waiting.blocking_recv() {
            let jobs = gather(first, &mut waiting);
            if self.carry_out(jobs) {
                break;
            }
        }
        // Closing the file writes to it, too: it is done here, where nobody waits for a lock.
        drop(self.database.write().unwrap_or_else(PoisonError::into_inner).take());
    }

    /// Keeps the jobs' batches in one transaction. Whether the store is to be closed.
    fn carry_out(&mut self, jobs: Vec<Job>) -> bool {
        let closing = jobs.iter().any(|job| matches!(job, Job::Close { .. }));
        let awaited = closing || jobs.iter().any(|job| matches!(job, Job::Write { done: Some(_), .. }));
        let durability = if awaited { Durability::Immediate } else { Durability::None };
        let result = self.commit(&jobs, durability);
        if closing {
            drop(self.database.write().unwrap_or_else(PoisonError::into_inner).take());
        }
        for job in jobs {
            let done = match job {
                Job::Write { done, .. } => done,
                Job::Close { done, .. } => Some(done),
            };
            if let Some(done) = done {
                // Whoever does not wait any more does not need the answer.
                let _ = done.send(result.clone());
            }
        }
        closing
    }

    fn commit(&mut self, jobs: &[Job], durability: Durability) -> Result<(), StoreError> {
        if let Some(failed) = &self.failed {
            return Err(failed.clone());
        }
        let guard = self.database.read().unwrap_or_else(PoisonError::into_inner);
        let database = guard.as_ref().ok_or(StoreError::Closed)?;
        let batches = jobs.iter().map(|job| match job {
            Job::Write { batch, .. } | Job::Close { batch, .. } => batch,
        });
        let result = commit(database, batches, durability, self.commits).map_err(|e| e.at(&self.path));
        drop(guard);
        if let Err(error) = &result {
            tracing::error!(%error, "the store failed");
            self.failed = Some(error.clone());
        }
        result
    }
}

/// All that waits, within limits. A closing job is the last.
fn gather(first: Job, waiting: &mut mpsc::Receiver<Job>) -> Vec<Job> {
    let mut size = 0;
    let mut jobs = Vec::new();
    let mut next = Some(first);
    while let Some(job) = next {
        let (Job::Write { batch, .. } | Job::Close { batch, .. }) = &job;
        size += batch.size;
        let last = matches!(job, Job::Close { .. }) || size >= TRANSACTION_SIZE_MAX;
        jobs.push(job);
        next = if last { None } else { waiting.try_recv().ok() };
    }
    jobs
}

fn commit<'a>(
    database: &Database,
    batches: impl IntoIterator<Item = &'a Batch>,
    durability: Durability,
    commits: Commits,
) -> Result<(), Fault> {
    let mut transaction = database.begin_write()?;
    transaction.set_two_phase_commit(commits == Commits::InTwoPhases);
    transaction.set_durability(durability).map_err(|e| Fault::Failed(e.to_string()))?;
    let mut tables = BTreeMap::new();
    for change in batches.into_iter().flat_map(|batch| &batch.changes) {
        let (Change::Put { space, .. } | Change::Remove { space, .. }) = change;
        let table = match tables.entry(*space) {
            Entry::Occupied(open) => open.into_mut(),
            Entry::Vacant(new) => new.insert(transaction.open_table(table(*space))?),
        };
        match change {
            Change::Put { space, key, value } => {
                table.insert(key.as_slice(), &*record::seal(*space, key, value))?;
            }
            Change::Remove { keys, .. } if keys.start < keys.end => {
                table.retain_in(keys.start.as_slice()..keys.end.as_slice(), |_, _| false)?;
            }
            Change::Remove { .. } => {}
        }
    }
    drop(tables);
    transaction.commit().map_err(|e| Fault::Failed(e.to_string()))
}

/// Opens the file, and says whether it had to be taken back to the state before its newest one. One that commits in two
/// phases is not taken back, and stays as it is.
fn open_database(path: &Path, commits: Commits) -> Result<(Database, bool), StoreError> {
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE_SIZE);
    let shown = path.to_owned();
    let rolled_back = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&rolled_back);
    builder.set_repair_callback(move |session| {
        if TORN.contains(&session.progress()) {
            seen.store(true, Ordering::SeqCst);
            if commits == Commits::InTwoPhases {
                return session.abort();
            }
        }
        tracing::info!(path = %shown.display(), progress = session.progress(), "checking the store after a crash");
    });
    // A torn file may make the database trip over itself instead of saying so.
    let opened = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| builder.create(path)));
    let damaged = |reason: String| StoreError::Damaged { path: path.to_owned(), reason };
    match opened {
        Ok(Ok(database)) => Ok((database, rolled_back.load(Ordering::SeqCst))),
        Ok(Err(DatabaseError::DatabaseAlreadyOpen)) => Err(StoreError::Locked { path: path.to_owned() }),
        Ok(Err(DatabaseError::Storage(StorageError::Io(error)))) => Err(io_error(path, &error)),
        Ok(Err(DatabaseError::Storage(StorageError::Corrupted(reason)))) => Err(damaged(reason)),
        Ok(Err(DatabaseError::RepairAborted)) => Err(damaged("its newest state is torn".into())),
        Ok(Err(other)) => Err(damaged(other.to_string())),
        Err(_panic) => Err(damaged("the database gave up on it".into())),
    }
}

fn io_error(path: &Path, error: &io::Error) -> StoreError {
    let path = path.to_owned();
    match error.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            StoreError::Permission { path }
        }
        io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => {
            StoreError::Damaged { path, reason: error.to_string() }
        }
        _ => StoreError::Failed { path, reason: error.to_string() },
    }
}

/// What went wrong, before it is said of which file.
enum Fault {
    Damaged(String),
    Failed(String),
}

impl Fault {
    fn at(self, path: &Path) -> StoreError {
        let path = path.to_owned();
        match self {
            Self::Damaged(reason) => StoreError::Damaged { path, reason },
            Self::Failed(reason) => StoreError::Failed { path, reason },
        }
    }
}

impl<E: Into<redb::Error>> From<E> for Fault {
    fn from(error: E) -> Self {
        match error.into() {
            redb::Error::Corrupted(reason) => Self::Damaged(reason),
            other => Self::Failed(other.to_string()),
        }
    }
}
