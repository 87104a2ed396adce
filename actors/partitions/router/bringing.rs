//! States that this node kept in a cluster that it left, brought to those who serve their partitions in the next one.
//!
//! ```text
//!  states ─ a few at once ─▶ table ─┬─ served here ─▶ mailbox ────────────────────────────────────┬─▶ merged, so many changes
//!             ▲                     └─ elsewhere ─▶ chunks, on a connection of their own ─▶ mailbox ┘
//!             └──────────── not ready, moved, cut off, overloaded, lost: a while later, again ◀────┘
//! ```
//!
//! To merge a state twice does nothing the second time, so whatever nobody knows the end of is simply brought again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::{Instant, timeout};
use tumen_core::ids::{Kind, NodeName, PartitionId, Version};
use tumen_core::partitions::fence::Fence;
use tumen_core::partitions::request::Failure;

use super::{Router, Told, lane_failure, refuse};
use crate::codec::{self, STATE_LEN_MAX};
use crate::partitions::delivery::Delivery;
use crate::partitions::merging;
use crate::partitions::replication::compress::{self, Packed};
use crate::transport::{BulkStream, CHUNK_LEN_MAX, ServeBulk, Service};

/// How many states one node brings at once.
const BRINGS_MAX: usize = 4;
/// How many come to one node at once: those beyond are brought again later.
const COMES_MAX: usize = 8;
/// How long the next chunk of a state may take.
const CHUNK_WITHIN: Duration = Duration::from_secs(10);
/// How long a state may wait for its turn with its worker.
const TURN_WITHIN: Duration = Duration::from_secs(30);
/// How long its sender waits for the answer, once all of it is sent.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);
/// The first wait before a state is brought again; it doubles up to [`AGAIN_AFTER_MAX`]. A newer plan ends it.
const AGAIN_AFTER: Duration = Duration::from_millis(50);
/// The longest wait before a state is brought again.
const AGAIN_AFTER_MAX: Duration = Duration::from_secs(2);

/// What stands before a state's first byte: whose it is to be merged into, how many bytes follow, and, if they are packed, how
/// many the state has.
type Head = (Fence, Kind, u64, Option<u64>);

/// What is answered: how many changes it took.
type Answer = Result<u64, Failure>;

/// What became of states that were brought.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Brought {
    /// How many were taken: all that they held is there.
    pub taken: usize,
    /// How many changes that took in all.
    pub changes: u64,
    /// How many nobody will ever take: each is told at error level.
    pub dropped: usize,
}

/// What a router needs for it.
pub(super) struct Bringing {
    /// Room for states that come here.
    comes: Arc<Semaphore>,
    packed: Packed,
}

impl Default for Bringing {
    fn default() -> Self {
        Self { comes: Arc::new(Semaphore::new(COMES_MAX)), packed: Packed::default() }
    }
}

/// One state, ready to be sent.
struct Parcel {
    kind: Kind,
    state: Bytes,
    /// The same as it is sent, made where it is for the first time; and how many bytes it has, if it is packed.
    packed: Option<(Bytes, Option<u64>)>,
}

impl Router {
    /// Brings these states, which [`Replication::states_to_bring`](crate::partitions::Replication::states_to_bring) wrote in a cluster
    /// that this node left, to their partitions' primaries in the cluster that it is in now, and has them merged there: what is
    /// changed for that is logged, and held as the mode promises, before a state counts as taken.
    ///
    /// Each is brought until it is taken, so this may take for ever: drop it when the node stops. What a primary
    /// refuses for good (its kind does not merge there, it cannot be read, its `merge` panics, there is no such partition) is dropped,
    /// with an error in the log. The partitions of both clusters must be the same: as many, by the same partitioner.
    pub async fn bring_states(&self, states: Vec<(PartitionId, Kind, Bytes)>) -> Brought {
        let (taken, changes, dropped) = (AtomicUsize::new(0), AtomicU64::new(0), AtomicUsize::new(0));
        futures_util::stream::iter(states)
            .for_each_concurrent(BRINGS_MAX, |(partition, kind, state)| {
                let (taken, changes, dropped) = (&taken, &changes, &dropped);
                async move {
                    let answer = self.bring_state(partition, kind.clone(), state).await;
                    self.shared.seats.merges().note_brought(answer.is_ok());
                    match answer {
                        Ok(count) => {
                            tracing::debug!(%partition, %kind, changes = count, "a state was brought along");
                            taken.fetch_add(1, Ordering::Relaxed);
                            changes.fetch_add(count, Ordering::Relaxed);
                        }
                        Err(why) => {
                            tracing::error!(%partition, %kind, %why, "a state cannot be brought along: it is dropped");
                            dropped.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                }
            })
            .await;
        Brought { taken: taken.into_inner(), changes: changes.into_inner(), dropped: dropped.into_inner() }
    }

    /// Brings one state until it is taken, or never will be.
    async fn bring_state(&self, partition: PartitionId, kind: Kind, state: Bytes) -> Answer {
        let mut parcel = Parcel { kind, state, packed: None };
        let mut wait = AGAIN_AFTER;
        loop {
            let (version, answer) = self.try_bring(partition, &mut parcel).await;
            match answer {
                Err(
                    why @ (Failure::Stale { .. }
                    | Failure::NotReady
                    | Failure::NoQuorum
                    | Failure::Fenced { .. }
                    | Failure::Overloaded
                    | Failure::Timeout { .. }),
                ) => {
                    tracing::debug!(%partition, kind = %parcel.kind, %why, "a state is not taken yet: it is brought again");
                }
                answer => return answer,
            }
            // A newer plan may say who takes it; but not each of a storm of plans is worth a try at once.
            tokio::time::sleep(AGAIN_AFTER).await;
            let mut versions = self.versions();
            drop(timeout(wait, versions.wait_for(|known| *known > version)).await);
            wait = (wait * 2).min(AGAIN_AFTER_MAX);
        }
    }

    /// Brings it to whoever serves its partition by the table in force. Tells which table that was.
    async fn try_bring(&self, partition: PartitionId, parcel: &mut Parcel) -> (Version, Answer) {
        let (version, found) = {
            let table = self.shared.table.load();
            let is_none = table.partitions(partition.group).is_some_and(|count| partition.index >= count);
            let found = table.fence_of(partition).and_then(|fence| {
                let primary = table.primary_of(partition)?.primary;
                Ok((fence, (*primary != self.shared.me).then(|| primary.node.clone())))
            });
            (
                table.version(),
                if is_none { Err(no_partition(partition)) } else { found.map_err(|_| Failure::NotReady) },
            )
        };
        let answer = match found {
            Ok((fence, None)) => self.merge_here(fence, &parcel.kind, parcel.state.clone()).await,
            Ok((fence, Some(node))) => self.send_state(&node, fence, parcel).await,
            Err(why) => Err(why),
        };
        (version, answer)
    }

    async fn send_state(&self, node: &NodeName, fence: Fence, parcel: &mut Parcel) -> Answer {
        let late = |_| Failure::Timeout { maybe_applied: true };
        let (mut bytes, unpacked) = match &parcel.packed {
            Some(packed) => packed.clone(),
            None => {
                let packed = compress::pack(parcel.state.clone(), &self.shared.bringing.packed).await;
                parcel.packed.insert(packed).clone()
            }
        };
        let head: Head = (fence, parcel.kind.clone(), bytes.len() as u64, unpacked);
        let opening = self.shared.transport.open_bulk(node, Service::Partition, codec::encode(&head));
        let opened = timeout(CHUNK_WITHIN, opening).await.map_err(late)?;
        let mut sink = opened.map_err(|why| lane_failure(&why))?;
        while !bytes.is_empty() {
            let chunk = bytes.split_to(bytes.len().min(CHUNK_LEN_MAX));
            let sent = timeout(CHUNK_WITHIN, sink.send(chunk)).await.map_err(late)?;
            sent.map_err(|why| lane_failure(&why))?;
        }
        let answer = timeout(ANSWER_WITHIN, sink.finish()).await.map_err(late)?;
        let answer = answer.map_err(|why| lane_failure(&why))?;
        codec::decode_body(&answer).unwrap_or_else(|why| {
            Err(Failure::WorkerFailed(format!("the other node sent an answer that cannot be read: {why}")))
        })
    }

    /// Has a worker here merge a state, in its turn.
    async fn merge_here(&self, fence: Fence, kind: &Kind, state: Bytes) -> Answer {
        let index = self.index_merging(fence, kind)?;
        let mailbox = self.admit_kind(fence, index)?;
        let (to, told) = oneshot::channel();
        let deadline = Instant::now() + TURN_WITHIN;
        let delivery = Delivery::local(merging::message(), state, deadline, None, to);
        mailbox.deliver(vec![delivery]).into_iter().for_each(refuse);
        // It is always told: whoever drops a delivery answers it so.
        let told = told.await.unwrap_or(Told::Reply(Err(Failure::NotReady)));
        let reply = told.into_reply()?;
        codec::decode_body(&reply).map_err(|why| Failure::WorkerFailed(why.to_string()))
    }

    fn index_merging(&self, fence: Fence, kind: &Kind) -> Result<usize, Failure> {
        let kinds = self.shared.kinds.of(fence.partition.group);
        kinds.index_merging(kind).ok_or_else(|| {
            Failure::Rejected(format!("no worker of the kind {kind} merges here: nothing changed"))
        })
    }

    /// Takes in a state that another node brings.
    async fn receive_state(&self, stream: &mut BulkStream) -> Answer {
        let unreadable = |why: String| Failure::Rejected(format!("what was sent is no state: {why}"));
        let (fence, kind, len, unpacked): Head =
            codec::decode(stream.header(), CHUNK_LEN_MAX).map_err(|why| unreadable(why.to_string()))?;
        let index = self.index_merging(fence, &kind)?;
        if len > STATE_LEN_MAX as u64 {
            return Err(unreadable(format!("{len} bytes are announced; {STATE_LEN_MAX} are the most")));
        }
        let mut bytes = BytesMut::new();
        loop {
            // A partition that moves away meanwhile takes nothing any more.
            self.admit_kind(fence, index)?;
            let lost = Failure::Timeout { maybe_applied: false };
            match timeout(CHUNK_WITHIN, stream.next()).await {
                Ok(None) => break,
                Ok(Some(Ok(chunk))) if bytes.len() + chunk.len() <= len as usize => {
                    bytes.extend_from_slice(&chunk);
                }
                Ok(Some(Ok(_))) => return Err(unreadable("more bytes came than were announced".into())),
                Ok(Some(Err(_))) | Err(_) => return Err(lost),
            }
        }
        if bytes.len() as u64 != len {
            return Err(unreadable(format!("{} of {len} bytes came", bytes.len())));
        }
        let state = compress::unpack(bytes.freeze(), unpacked).await.map_err(unreadable)?;
        self.merge_here(fence, &kind, state).await
    }
}

fn no_partition(partition: PartitionId) -> Failure {
    Failure::NoPartition(format!("this cluster has no {partition}: nothing changed"))
}

impl ServeBulk for Router {
    fn serve_bulk(&self, mut stream: BulkStream) {
        // Without an answer it is brought again later.
        let Ok(room) = Arc::clone(&self.shared.bringing.comes).try_acquire_owned() else { return };
        let router = self.clone();
        tokio::spawn(async move {
            let answer = router.receive_state(&mut stream).await;
            if let Err(Failure::Rejected(why)) = &answer {
                tracing::warn!(from = %stream.from(), %why, "a state that was brought here is not taken");
                // Whoever brings it hears an answer at the end only.
                while let Ok(Some(Ok(_))) = timeout(CHUNK_WITHIN, stream.next()).await {}
            }
            drop(room);
            let mut bytes = BytesMut::new();
            codec::encode_body_into(&answer, &mut bytes).expect("an answer is small and encodable");
            stream.answer(bytes.freeze());
        });
    }
}
