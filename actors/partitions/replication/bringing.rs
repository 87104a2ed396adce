//! What this node's copies hold that can be merged into what another cluster holds.
//!
//! ```text
//!  copies here, primaries and others ─▶ states ─▶ dropped with their cluster ─▶ Router::bring_states, in the next one
//! ```

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;
use tumen_core::ids::{GroupId, Kind, PartitionId};

use super::Replication;

/// How long writing them may take for all copies together.
const WRITTEN_WITHIN: Duration = Duration::from_secs(30);

impl Replication {
    /// What each copy of the users' partitions on this node holds, of each kind that merges: as its snapshot writes it, as far as it is
    /// surely applied here. What is as a new one begins is left out. To be taken once nothing of the cluster that is left is
    /// answered any more, and before its copies are dropped; [`Router::bring_states`](crate::partitions::Router::bring_states)
    /// has it merged into the next one.
    ///
    /// A copy that cannot write its state is left out, with a warning in the log; so are those that half a minute is not
    /// enough for. All states are in memory together, each once.
    pub async fn states_to_bring(&self) -> Vec<(PartitionId, Kind, Bytes)> {
        let mut states = Vec::new();
        if !self.shared.makers.of(GroupId::Users).any_merges() {
            return states;
        }
        let deadline = Instant::now() + WRITTEN_WITHIN;
        for cell in self.cells() {
            let partition = cell.partition;
            if partition.group != GroupId::Users {
                continue;
            }
            let taken = Arc::clone(&cell);
            let writing = tokio::task::spawn_blocking(move || taken.states_to_bring());
            let written = match tokio::time::timeout_at(deadline, writing).await {
                Ok(Ok(Ok(written))) => written,
                Ok(Ok(Err(why))) => {
                    tracing::warn!(%partition, %why, "a copy is of no use: its state is not brought along");
                    continue;
                }
                Ok(Err(why)) => {
                    tracing::warn!(%partition, %why, "a copy's state is not brought along");
                    continue;
                }
                Err(_) => {
                    tracing::warn!(%partition, "no time is left: a copy's state is not brought along");
                    continue;
                }
            };
            for (kind, state) in written {
                match state {
                    Ok(state) => states.push((partition, kind, state)),
                    Err(why) => {
                        tracing::warn!(%partition, %kind, %why, "a state cannot be written: it is not brought along");
                    }
                }
            }
        }
        states
    }
}
