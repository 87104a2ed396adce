//! What the whole cluster is told: put and removed by the directory of its key, read on every node from its own table.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;
use tumen_core::names::directory::Refused;
use tumen_core::names::request::{Done, Request};
use tumen_core::names::{ClaimNumber, Meta, Name};

use super::{NameFailure, Names};

impl Names {
    /// What the cluster is told under a key, which is no name. A local read.
    pub fn meta(&self, key: &Name) -> Option<Meta> {
        self.shared.table.meta(key)
    }

    /// The keys that begin so and what is told there, in order, at most so many of them. A local read.
    pub fn select_meta(&self, prefix: &[u8], limit: usize) -> Vec<(Name, Meta)> {
        self.shared.table.select_meta(prefix, limit)
    }

    /// Tells the cluster something. Once it is done this node reads it, and the others a moment later: [`Self::await_visible`]
    /// waits for all of them. Done twice it is the same as once.
    ///
    /// # Errors
    /// It is too long, or there is no room, or the directory could not be asked.
    pub async fn put_meta(
        &self,
        key: &Name,
        value: Bytes,
        within: Duration,
    ) -> Result<ClaimNumber, NameFailure> {
        let request = Request::PutMeta { key: key.clone(), value };
        let Done { number } = self.ask(&request, Instant::now() + within).await?;
        Ok(number.unwrap_or_default())
    }

    /// Tells the cluster nothing more under a key; whether it was told something.
    ///
    /// # Errors
    /// The directory could not be asked.
    pub async fn remove_meta(&self, key: &Name, within: Duration) -> Result<bool, NameFailure> {
        let request = Request::RemoveMeta { key: key.clone() };
        match self.ask(&request, Instant::now() + within).await {
            Ok(_) => Ok(true),
            Err(NameFailure::Refused(Refused::NotFound(_))) => Ok(false),
            Err(failure) => Err(failure),
        }
    }
}
