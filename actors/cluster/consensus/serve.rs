//! What a node does when another node's consensus wants something of it.

use std::sync::Arc;

use openraft::error::{InstallSnapshotError, RaftError};
use openraft::raft::AppendEntriesResponse;
use tokio::sync::oneshot;
use tumen_core::ids::{Life, NodeName};

use super::ConsensusMsg;
use super::exchange::{self, Message, Refusal, Reply, Request};
use super::shared::Shared;
use super::types::Raft;
use crate::codec::FRAME_LEN_MAX;

/// Takes in a message. Never waits.
pub(super) fn deliver(shared: &Arc<Shared>, from: &NodeName, body: &[u8]) {
    match exchange::decode(body) {
        Err(error) => tracing::debug!(%from, %error, "a message about consensus makes no sense"),
        Ok(Message::Reply { id, reply }) => shared.exchange.handle_reply(from, id, reply),
        Ok(Message::Request { id, life, request }) => {
            let Ok(place) = Arc::clone(&shared.serving).try_acquire_owned() else {
                return shared.exchange.reply(from, id, Reply::Refused(Refusal::Busy));
            };
            let (shared, from) = (Arc::clone(shared), from.clone());
            tokio::spawn(async move {
                let reply = serve(&shared, &from, life, request).await.unwrap_or_else(Reply::Refused);
                shared.exchange.reply(&from, id, reply);
                drop(place);
            });
        }
    }
}

async fn serve(
    shared: &Shared,
    from: &NodeName,
    life: Option<Life>,
    request: Request,
) -> Result<Reply, Refusal> {
    let mine = shared.store.life();
    if life.is_some_and(|life| life != mine) {
        return Err(Refusal::OtherLife(mine));
    }
    if let Request::Life { prepare } = request {
        if prepare {
            shared.start().await.ok_or(Refusal::Idle)?;
        }
        return Ok(Reply::Life(mine));
    }
    let Some(raft) = shared.raft.load_full() else {
        // Somebody holds this node for a voter or a learner. openraft asks again soon.
        shared.cast(ConsensusMsg::Start { done: None });
        return Err(Refusal::Idle);
    };
    match request {
        Request::Append(rpc) => {
            let response = raft.append_entries(rpc).await.map_err(|error| failed(&error))?;
            if !matches!(response, AppendEntriesResponse::HigherVote(_)) {
                shared.leader_heard();
            }
            Ok(Reply::Append(response))
        }
        Request::Vote(rpc) => raft.vote(rpc).await.map(Reply::Vote).map_err(|error| failed(&error)),
        Request::Snapshot(rpc) => {
            let end = rpc.offset.saturating_add(rpc.data.len() as u64);
            if end > FRAME_LEN_MAX as u64 {
                return Err(Refusal::TooLong);
            }
            install(shared, &raft, rpc).await
        }
        Request::WouldVote { last } => {
            let (answer, answered) = oneshot::channel();
            shared.cast(ConsensusMsg::WouldVote { last, answer });
            answered.await.map(Reply::WouldVote).map_err(|_| Refusal::Idle)
        }
        Request::TakeOver => {
            if shared.leadership.borrow().leader.as_ref() != Some(from) {
                return Err(Refusal::Failed(format!("{from} is not held for the leader here")));
            }
            shared.cast(ConsensusMsg::TakeOver);
            Ok(Reply::Done)
        }
        Request::Life { .. } => Ok(Reply::Life(mine)),
    }
}

async fn install(
    shared: &Shared,
    raft: &Raft,
    rpc: openraft::raft::InstallSnapshotRequest<super::types::TypeConfig>,
) -> Result<Reply, Refusal> {
    let vote = rpc.vote;
    match raft.install_snapshot(rpc).await {
        Ok(response) => {
            if response.vote <= vote {
                shared.leader_heard();
            }
            Ok(Reply::Snapshot(response))
        }
        Err(RaftError::APIError(InstallSnapshotError::SnapshotMismatch(mismatch))) => {
            Ok(Reply::Mismatch(mismatch))
        }
        Err(RaftError::Fatal(fatal)) => Err(failed(&fatal)),
    }
}

fn failed(error: &impl std::error::Error) -> Refusal {
    Refusal::Failed(error.to_string())
}
