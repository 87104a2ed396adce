//! What a node finds on its disk when it starts: its copies as they were, or less.
//!
//! ```text
//!  copies.redb ─ opens ─▶ copy by copy: record, log, state, checksums ─ right ─▶ the copy goes on, under its life or a new one
//!      │                                                              └ wrong ─▶ forgotten, and made anew from the others
//!      └─ does not open ─▶ moved aside: all copies are made anew from the others
//! ```

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use tumen_core::ids::{ClusterId, GroupId, NodeName, PartitionId};
use tumen_core::partitions::replication::{Acks, Config, LocalCopy};

use super::cell::Cell;
use super::disk::Disk;
use super::records::{self, Found, ReadError};
use super::state::{MakersByGroup, State};
use crate::clock::{self, Clock};
use crate::codec;
use crate::partitions::host::KindsByGroup;
use crate::store::{self, Batch, COPIES_FILE_NAME, Previous, Space, Store, StoreError};

/// What [`super::Replication`] begins with.
#[derive(Default)]
pub struct Copies {
    pub(super) disk: Option<Disk>,
    pub(super) cells: BTreeMap<PartitionId, Arc<Cell>>,
    /// The cluster whose copies these are.
    pub(super) cluster: Option<ClusterId>,
    /// Copies that were not what was written.
    pub(super) rebuilt: u64,
}

impl std::fmt::Debug for Copies {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Copies").field("cells", &self.cells.len()).finish_non_exhaustive()
    }
}

/// Where the cluster's id is kept.
const CLUSTER_KEY: &[u8] = b"cluster";

/// Why the copies were not read.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct LoadError(String);

impl Copies {
    /// Reads the copies in `data_dir`, if this node has replicated workers. What is damaged is forgotten, loudly; what
    /// this program cannot read although it is as it was written, is an error.
    ///
    /// # Errors
    /// Why the node may not start so. Nothing is lost then.
    pub async fn load(
        data_dir: Option<&Path>,
        node: &NodeName,
        kinds: &KindsByGroup,
        config: &Config,
        clock: Clock,
    ) -> Result<Self, LoadError> {
        let makers = MakersByGroup::new(kinds);
        let Some(data_dir) = data_dir.filter(|_| !makers.is_empty()) else { return Ok(Self::default()) };
        let (dir, name, config) = (data_dir.to_owned(), node.clone(), config.clone());
        let blocking = tokio::task::spawn_blocking(move || read(&dir, &name, &makers, &config, clock));
        let why = match blocking.await {
            Ok(Ok(copies)) => return Ok(copies),
            Ok(Err(Trouble::Fatal(why))) => return Err(LoadError(why)),
            Ok(Err(Trouble::Damaged(why))) => why,
            // The database tripped over what it found.
            Err(panicked) => panicked.to_string(),
        };
        set_aside(data_dir, &why)?;
        let store = Store::open_copies(data_dir, node, &clock);
        let store = store.map_err(|error| LoadError(error.to_string()))?;
        Ok(Self { disk: Some(Disk::new(store, 0)), rebuilt: 1, ..Self::default() })
    }
}

/// Remembers whose copies these are.
pub(super) fn put_cluster(cluster: ClusterId, batch: Batch) -> Batch {
    batch.put(Space::Node, CLUSTER_KEY, codec::encode(&cluster))
}

/// Moves a file aside that is of no use, so that people can look at it.
fn set_aside(data_dir: &Path, why: &str) -> Result<(), LoadError> {
    let file = data_dir.join(COPIES_FILE_NAME);
    let aside = store::set_aside(&file)
        .map_err(|error| LoadError(format!("{} cannot be moved aside: {error}", file.display())))?;
    tracing::warn!(
        file = %file.display(), aside = %aside.display(), %why,
        "the file with this node's copies is damaged: it is moved aside, and all of them are made anew from the others"
    );
    Ok(())
}

enum Trouble {
    Fatal(String),
    Damaged(String),
}

impl From<StoreError> for Trouble {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Damaged { reason, .. } => Self::Damaged(reason),
            other => Self::Fatal(other.to_string()),
        }
    }
}

fn read(
    data_dir: &Path,
    node: &NodeName,
    makers: &MakersByGroup,
    config: &Config,
    clock: Clock,
) -> Result<Copies, Trouble> {
    let store = Store::open_copies(data_dir, node, &clock)?;
    let previous = store.previous();
    if previous == Previous::RolledBack {
        tracing::warn!(
            data_dir = %data_dir.display(),
            "the newest state of the file with this node's copies was torn: they go on from the one before, as new lives"
        );
    }
    let (mut cells, mut newest, mut damaged) = (BTreeMap::new(), 0, Vec::new());
    for partition in records::partitions(&store)? {
        let found = match records::read(&store, partition) {
            Ok(Some(found)) => found,
            Ok(None) => continue,
            Err(ReadError::Damaged(why)) => {
                tracing::warn!(
                    %partition, %why,
                    "this node's copy is damaged: it is forgotten, and made anew from the others under a new life"
                );
                damaged.push(partition);
                continue;
            }
            Err(ReadError::Foreign(partition, why)) => {
                return Err(Trouble::Fatal(foreign(partition, &why)));
            }
            Err(ReadError::Store(error)) => return Err(error.into()),
        };
        newest = newest.max(found.kept.newest());
        let fresh = clock::new_life(&clock);
        let cell = restore(partition, found, previous, fresh, makers, config);
        cells.insert(partition, Arc::new(cell.map_err(|why| Trouble::Fatal(foreign(partition, &why)))?));
    }
    let rebuilt = damaged.len() as u64;
    if rebuilt > 0 {
        let forget = |batch, partition| records::forget(partition, batch);
        store.write_blocking(&damaged.into_iter().fold(Batch::new(), forget)).map_err(|error| {
            // What was damaged cannot even be removed.
            Trouble::Damaged(error.to_string())
        })?;
    }
    let cluster = store.read(Space::Node, CLUSTER_KEY)?;
    let cluster = cluster.and_then(|bytes| codec::decode(&bytes, 64).ok());
    tracing::info!(copies = cells.len(), rebuilt, ?previous, "read this node's copies");
    Ok(Copies { disk: Some(Disk::new(store, newest)), cells, cluster, rebuilt })
}

fn foreign(partition: PartitionId, why: &str) -> String {
    format!(
        "this node's copy of {partition} is as it was written, and this program cannot read it ({why}): nothing was changed. \
         Start the program that wrote it; or, if the other nodes have the data, move {COPIES_FILE_NAME} away and start again"
    )
}

fn restore(
    partition: PartitionId,
    found: Found,
    previous: Previous,
    fresh: tumen_core::ids::Life,
    makers: &MakersByGroup,
    config: &Config,
) -> Result<Cell, String> {
    let Found { saved, acks, kept, state } = found;
    let makers = makers.of(partition.group);
    let state = match state {
        Some(bytes) => State::restore(makers.clone(), partition, bytes),
        None => Ok(State::new(makers.clone(), partition)),
    };
    let state = state.map_err(|why| why.to_string())?;
    if state.applied() != saved.snapshot {
        return Err(format!("the state is of {}, not of {}", state.applied(), saved.snapshot));
    }
    // What was taken back may have had what this life said that it has.
    let keeps = if previous == Previous::RolledBack { Acks::BeforeDisk } else { acks };
    let copy = LocalCopy::restore(saved, keeps, previous == Previous::Clean, fresh);
    let config = Config { tells_at_once: partition.group == GroupId::Names, ..config.clone() };
    Cell::restored(partition, copy, state, kept, config, makers.clone())
}
