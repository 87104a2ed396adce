//! openraft's network, made of questions and answers; one line per voter that it sends to.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use openraft::error::{
    InstallSnapshotError, NetworkError, PayloadTooLarge, RPCError, RaftError, RemoteError, Unreachable,
};
use openraft::network::{Backoff, RPCOption, RaftNetwork, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse,
    VoteRequest, VoteResponse,
};
use tokio::sync::Notify;
use tumen_core::ids::Life;

use super::exchange::{AskError, Exchange, Refusal, Reply, Request};
use super::types::{Seat, TypeConfig};

/// After a voter could not be reached it is tried again after this, then after twice as long, up to eight times. A link
/// that failed for a moment must be back well within an election's time.
const BACKOFF: Duration = Duration::from_millis(20);

/// Makes the lines.
#[derive(Clone)]
pub(super) struct RaftLines {
    pub(super) exchange: Arc<Exchange>,
    /// Told when a voter that was asked for its vote has entries that this one lacks.
    pub(super) behind: Arc<Notify>,
}

/// The way to one voter.
pub(super) struct RaftLine {
    lines: RaftLines,
    life: u64,
    seat: Seat,
}

type Failure<E> = RPCError<u64, Seat, RaftError<u64, E>>;

impl RaftNetworkFactory<TypeConfig> for RaftLines {
    type Network = RaftLine;

    async fn new_client(&mut self, life: u64, seat: &Seat) -> RaftLine {
        RaftLine { lines: self.clone(), life, seat: seat.clone() }
    }
}

impl RaftLine {
    async fn ask<E: std::error::Error>(
        &self,
        request: Request,
        option: &RPCOption,
    ) -> Result<Reply, Failure<E>> {
        let Some(node) = &self.seat.node else {
            return Err(unreachable(&io::Error::other("a seat without a node")));
        };
        let asked = self.lines.exchange.ask(node, Some(Life(self.life)), request, option.hard_ttl());
        asked.await.map_err(|error| match error {
            AskError::Timeout | AskError::Unfit => RPCError::Network(NetworkError::new(&error)),
            AskError::Refused(Refusal::TooLong) => PayloadTooLarge::new_entries_hint(1).into(),
            // openraft repeats at once what failed otherwise: to wait a moment keeps that from spinning.
            AskError::Port(_) | AskError::Refused(_) | AskError::Crowded => unreachable(&error),
        })
    }
}

fn unreachable<E: std::error::Error>(error: &(impl std::error::Error + 'static)) -> Failure<E> {
    RPCError::Unreachable(Unreachable::new(error))
}

fn unfit<T, E: std::error::Error>() -> Result<T, Failure<E>> {
    Err(unreachable(&AskError::Unfit))
}

impl RaftNetwork<TypeConfig> for RaftLine {
    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<u64>, Failure<openraft::error::Infallible>> {
        match self.ask(Request::Append(rpc), &option).await? {
            Reply::Append(response) => Ok(response),
            _ => unfit(),
        }
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<u64>,
        option: RPCOption,
    ) -> Result<VoteResponse<u64>, Failure<openraft::error::Infallible>> {
        let last = rpc.last_log_id;
        match self.ask(Request::Vote(rpc), &option).await? {
            Reply::Vote(response) => {
                if response.last_log_id > last {
                    self.lines.behind.notify_one();
                }
                Ok(response)
            }
            _ => unfit(),
        }
    }

    async fn install_snapshot(
        &mut self,
        rpc: InstallSnapshotRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<InstallSnapshotResponse<u64>, Failure<InstallSnapshotError>> {
        match self.ask(Request::Snapshot(rpc), &option).await? {
            Reply::Snapshot(response) => Ok(response),
            Reply::Mismatch(mismatch) => {
                let error = RaftError::APIError(InstallSnapshotError::SnapshotMismatch(mismatch));
                Err(RPCError::RemoteError(RemoteError::new(self.life, error)))
            }
            _ => unfit(),
        }
    }

    fn backoff(&self) -> Backoff {
        Backoff::new((0..).map(|attempt: u32| BACKOFF * 2_u32.pow(attempt.min(3))))
    }
}
