//! What nodes ask each other about copies: questions to one node's, and the answers.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tumen_core::ids::{NodeName, PartitionId};
use tumen_core::partitions::equality::Found;
use tumen_core::partitions::handover::asks::{Admission, Answer, Ask, Shown};
use tumen_core::partitions::identity::Position;
use tumen_core::partitions::replication::wire::SnapshotHeader;

use super::Replication;
use super::cell::Out;
use super::equality::{HASH_WITHIN, HELD_FOR};
use crate::codec;
use crate::transport::{DATA_LEN_MAX, Failure, Incoming, LaneError, Serve, Service};

/// How long another node may take to say what is copied there.
const MOVES_WITHIN: Duration = Duration::from_secs(2);
/// The most questions of other nodes at once that take their time.
const SLOW_MAX: usize = 64;

impl Replication {
    /// Asks one other node about its copies.
    pub(super) async fn ask_copy(
        &self,
        to: &NodeName,
        ask: Ask,
        within: Duration,
    ) -> Result<Answer, LaneError> {
        let encode = |buffer: &mut bytes::BytesMut| {
            codec::encode_into(&ask, buffer).expect("a question is small and encodable");
        };
        let answer = self.shared.transport.call(to, Service::Handover, within, encode).await?;
        codec::decode(&answer, DATA_LEN_MAX).map_err(|error| {
            tracing::warn!(%to, %error, "what was answered about copies cannot be read");
            LaneError::Unanswered
        })
    }

    /// What is being copied from this node and to it.
    pub fn moves_here(&self) -> Vec<Shown> {
        self.shared.transfers.shown(self.now())
    }

    /// What is being copied between these nodes, each once, and the nodes that did not say.
    pub async fn moves(&self, nodes: &[NodeName]) -> (Vec<Shown>, Vec<NodeName>) {
        let asked = nodes.iter().map(|node| async move {
            if *node == self.shared.me {
                return (node, Some(self.moves_here()));
            }
            match self.ask_copy(node, Ask::Moves, MOVES_WITHIN).await {
                Ok(Answer::Moves(moves)) => (node, Some(moves)),
                Ok(_) | Err(_) => (node, None),
            }
        });
        let told = futures_util::future::join_all(asked).await;
        let silent: Vec<NodeName> =
            told.iter().filter(|(_, moves)| moves.is_none()).map(|(node, _)| (*node).clone()).collect();
        let mut all = Vec::new();
        for (node, moves) in told {
            // Who sends knows of those that wait, too; who receives is asked about senders that say nothing.
            let mut moves = moves.unwrap_or_default();
            moves.retain(|shown| shown.handover.from == *node || silent.contains(&shown.handover.from));
            all.extend(moves);
        }
        all.sort();
        (all, silent)
    }

    fn admit(&self, from: NodeName, header: SnapshotHeader) -> Admission {
        if !self.is_confirmed() || !self.is_of_this_side(&header.fence) {
            // It is not known yet which cluster this is, or it is another one.
            return Admission::Busy;
        }
        let cell = self.cell_or_new(header.fence.partition);
        if !cell.would_look_at(&header) {
            return Admission::Moot;
        }
        self.shared.transfers.admit(self.now(), from, &header)
    }

    /// Up to where a copy here is applied, from now on for a moment.
    pub(super) fn hold_here(&self, partition: PartitionId, within: Duration) -> Option<Position> {
        let cell = self.cell(partition)?;
        let mut out = Out::default();
        let position = cell.hold_state(self.now(), within, &mut out);
        self.perform(&cell, out);
        position
    }

    /// What a copy here holds at a place that it was held for.
    pub(super) async fn hash_here(&self, partition: PartitionId, at: Position, within: Duration) -> Found {
        let Some(cell) = self.cell(partition) else { return Found::Missing };
        let deadline = self.now() + within;
        loop {
            let (now, looked) = (self.now(), Arc::clone(&cell));
            // A large state takes its time.
            let looking = tokio::task::spawn_blocking(move || {
                let mut out = Out::default();
                let found = looked.hash_at(now, at, &mut out);
                (found, out)
            });
            let Ok((found, out)) = looking.await else { return Found::Missing };
            self.perform(&cell, out);
            match found {
                Found::Behind(_) if self.now() < deadline => tokio::time::sleep(LOOK_EVERY).await,
                found => return found,
            }
        }
    }

    async fn answer(&self, from: NodeName, ask: Ask) -> Answer {
        match ask {
            Ask::Admit(header) => Answer::Admission(self.admit(from, header)),
            Ask::Moves => Answer::Moves(self.moves_here()),
            Ask::Hold(partition) => Answer::Stands(self.hold_here(partition, HELD_FOR)),
            Ask::Hash { partition, at } => Answer::Found(self.hash_here(partition, at, HASH_WITHIN).await),
            Ask::FullSync => self.full_sync(None).await.map_or(Answer::Busy, Answer::Report),
            Ask::Push(partition) => {
                self.full_sync(Some(partition)).await.map_or(Answer::Busy, Answer::Report)
            }
        }
    }
}

/// How often a copy is looked at that is not where it should be yet.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Answers other nodes' questions about copies.
pub(super) struct Answering {
    replication: Replication,
    slow: Arc<Semaphore>,
}

impl Answering {
    pub(super) fn new(replication: Replication) -> Self {
        Self { replication, slow: Arc::new(Semaphore::new(SLOW_MAX)) }
    }
}

impl Serve for Answering {
    fn serve(&self, batch: &mut Vec<Incoming>) {
        for incoming in batch.drain(..) {
            let from = incoming.from().node.clone();
            let ask: Ask = match codec::decode(&incoming.body, DATA_LEN_MAX) {
                Ok(ask) => ask,
                Err(error) => {
                    tracing::warn!(%from, %error, "a question about copies cannot be read");
                    incoming.reply.fail(Failure::NotServed);
                    continue;
                }
            };
            let Ok(permit) = Arc::clone(&self.slow).try_acquire_owned() else {
                incoming.reply.fail(Failure::Overloaded);
                continue;
            };
            let this = self.replication.clone();
            let stopping = this.shared.stopping.clone();
            tokio::spawn(stopping.run_until_cancelled_owned(async move {
                let answer = this.answer(from, ask).await;
                drop(permit);
                match codec::try_pack(&answer, DATA_LEN_MAX - codec::HEADER_LEN) {
                    Ok(bytes) => incoming.reply.send(&bytes),
                    Err(error) => {
                        tracing::warn!(%error, "an answer about copies does not fit a frame");
                        incoming.reply.fail(Failure::ReplyLost);
                    }
                }
            }));
        }
    }
}
