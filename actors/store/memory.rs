//! The store of a node without `data_dir`.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::{Batch, Change, Space, StoreError};

#[derive(Debug, Default)]
pub(super) struct Memory {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    spaces: BTreeMap<Space, BTreeMap<Vec<u8>, Bytes>>,
    closed: bool,
}

impl Memory {
    pub(super) fn write(&self, batch: Batch) -> Result<(), StoreError> {
        let mut state = self.open()?;
        for change in batch.changes {
            match change {
                Change::Put { space, key, value } => {
                    state.spaces.entry(space).or_default().insert(key, value);
                }
                Change::Remove { space, keys } if keys.start < keys.end => {
                    let records = state.spaces.entry(space).or_default();
                    let mut rest = records.split_off(&keys.start);
                    records.append(&mut rest.split_off(&keys.end));
                }
                Change::Remove { .. } => {}
            }
        }
        Ok(())
    }

    pub(super) fn read(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        Ok(self.open()?.spaces.get(&space).and_then(|records| records.get(key)).cloned())
    }

    pub(super) fn scan(
        &self,
        space: Space,
        keys: Range<Vec<u8>>,
        size_max: usize,
    ) -> Result<Vec<(Vec<u8>, Bytes)>, StoreError> {
        let state = self.open()?;
        let mut found = Vec::new();
        let mut size = 0;
        let Some(records) = state.spaces.get(&space).filter(|_| keys.start < keys.end) else {
            return Ok(found);
        };
        for (key, value) in records.range(keys) {
            size += value.len();
            if size > size_max && !found.is_empty() {
                break;
            }
            found.push((key.clone(), value.clone()));
        }
        Ok(found)
    }

    pub(super) fn last(&self, space: Space) -> Result<Option<(Vec<u8>, Bytes)>, StoreError> {
        let state = self.open()?;
        let last = state.spaces.get(&space).and_then(|records| records.last_key_value());
        Ok(last.map(|(key, value)| (key.clone(), value.clone())))
    }

    pub(super) fn close(&self) {
        self.lock().closed = true;
    }

    fn open(&self) -> Result<MutexGuard<'_, State>, StoreError> {
        let state = self.lock();
        if state.closed { Err(StoreError::Closed) } else { Ok(state) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
