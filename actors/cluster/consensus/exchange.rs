//! Questions and answers between voters, over a port that only throws bytes.
//!
//! ```text
//! ask() ─ Request{id} ─▶ port ─▶ peer's deliver() ─▶ its openraft
//!   ▲                                                   │
//!   └── the id's waiter ◀─ deliver() ◀─ port ◀─ Reply{id}┘        or the deadline
//! ```
//!
//! A message may be lost, late, or answered twice: an id that nobody waits for any more is dropped. Every request is
//! answered, if only by why not.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use openraft::error::SnapshotMismatch;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse,
    VoteRequest, VoteResponse,
};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use tumen_core::ids::{Life, NodeName};

use super::types::{LogId, TypeConfig};
use crate::codec;

/// The most bytes that one message has: what the control lane takes. A plan has to fit into one, with numbers as short as
/// they are: 65,536 partitions with three copies take some 530 KB at first, and 660 KB once each changed its primary 250
/// times. Where workers have state that is kept on all copies, each copy that counts adds its node's name and nine bytes:
/// then some 16,000 partitions with three copies fit.
pub const MESSAGE_LEN_MAX: usize = 1 << 20;
/// Questions that may be open at once.
const OPEN_MAX: usize = 1024;

/// How messages get to the other voters. Whoever implements it hands what arrives to `Handle::deliver`.
pub trait RaftPort: Send + Sync + 'static {
    /// Sends `body`, at most [`MESSAGE_LEN_MAX`] bytes, without waiting. It may be lost; that is noticed by a deadline.
    ///
    /// # Errors
    /// Where it is known at once that the message does not arrive.
    fn send(&self, to: &NodeName, body: Bytes) -> Result<(), PortError>;
}

/// Why a message was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PortError {
    /// There is no session with that node.
    #[error("the node is not connected")]
    Unreachable,
    /// Too much waits for that node already.
    #[error("too much waits for the node")]
    Overloaded,
}

/// What one node says to another about consensus.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Message {
    /// Answered by a [`Message::Reply`] with the same `id`.
    Request {
        id: u64,
        /// Whom it is for. A node whose store has another life refuses. `None`: whoever is there.
        life: Option<Life>,
        request: Request,
    },
    Reply {
        id: u64,
        reply: Reply,
    },
}

/// What is wanted of a voter.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Request {
    /// Raft's. Answered by [`Reply::Append`].
    Append(AppendEntriesRequest<TypeConfig>),
    /// Raft's. Answered by [`Reply::Vote`].
    Vote(VoteRequest<u64>),
    /// Raft's: one chunk of a snapshot. Answered by [`Reply::Snapshot`] or [`Reply::Mismatch`].
    Snapshot(InstallSnapshotRequest<TypeConfig>),
    /// Would you vote for me? Answered by [`Reply::WouldVote`]; nothing changes.
    WouldVote {
        /// The asker's last entry.
        last: Option<LogId>,
    },
    /// I lead, and want you to lead next. Answered by [`Reply::Done`].
    TakeOver,
    /// Which life has your store? With `prepare`, start taking part. Answered by [`Reply::Life`].
    Life {
        /// Whether the node is to be ready to learn.
        prepare: bool,
    },
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Reply {
    Append(AppendEntriesResponse<u64>),
    Vote(VoteResponse<u64>),
    Snapshot(InstallSnapshotResponse<u64>),
    Mismatch(SnapshotMismatch),
    WouldVote(bool),
    Done,
    Life(Life),
    Refused(Refusal),
}

/// Why a voter does not do what is wanted. Nothing changed there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// The life that was meant is gone for ever: the node lost those bytes.
    #[error("the node lost the bytes of that life, and has life {0} now")]
    OtherLife(Life),
    /// The node does not take part at the moment.
    #[error("the node takes no part in consensus at the moment")]
    Idle,
    /// Too much is asked of the node at once.
    #[error("too much is asked of the node at once")]
    Busy,
    /// The node's store or openraft gave up.
    #[error("the node's consensus failed: {0}")]
    Failed(String),
    /// The request is larger than what is taken.
    #[error("the request is larger than what is taken")]
    TooLong,
}

/// Why a question has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum AskError {
    #[error(transparent)]
    Port(#[from] PortError),
    #[error("no answer in time")]
    Timeout,
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("too many questions are open")]
    Crowded,
    #[error("the answer does not fit the question")]
    Unfit,
}

/// The open questions, and the port they went out by.
pub(super) struct Exchange {
    port: Arc<dyn RaftPort>,
    open: Mutex<BTreeMap<u64, Open>>,
    next: AtomicU64,
}

struct Open {
    asked: NodeName,
    answer: oneshot::Sender<Reply>,
}

impl Exchange {
    pub(super) fn new(port: Arc<dyn RaftPort>) -> Self {
        // A run after this one must not take this one's answers for its own.
        Self { port, open: Mutex::default(), next: AtomicU64::new(crate::clock::draw()) }
    }

    /// Asks a node, and waits for its answer until the deadline.
    pub(super) async fn ask(
        &self,
        node: &NodeName,
        life: Option<Life>,
        request: Request,
        deadline: Duration,
    ) -> Result<Reply, AskError> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let body = encode(&Message::Request { id, life, request }).ok_or(Refusal::TooLong)?;
        let (answer, answered) = oneshot::channel();
        {
            let mut open = self.lock();
            if open.len() >= OPEN_MAX {
                return Err(AskError::Crowded);
            }
            open.insert(id, Open { asked: node.clone(), answer });
        }
        let _closes = Closes { exchange: self, id };
        self.port.send(node, body)?;
        match tokio::time::timeout(deadline, answered).await {
            Ok(Ok(Reply::Refused(why))) => Err(AskError::Refused(why)),
            Ok(Ok(reply)) => Ok(reply),
            Ok(Err(_)) | Err(_) => Err(AskError::Timeout),
        }
    }

    /// Sends an answer. Where it cannot be sent, the asker's deadline tells it.
    pub(super) fn reply(&self, node: &NodeName, id: u64, reply: Reply) {
        let body = encode(&Message::Reply { id, reply });
        if let Some(Err(error)) = body.map(|body| self.port.send(node, body)) {
            tracing::debug!(%node, %error, "an answer could not be sent");
        }
    }

    /// Takes an answer in.
    pub(super) fn handle_reply(&self, from: &NodeName, id: u64, reply: Reply) {
        let mut open = self.lock();
        if open.get(&id).is_some_and(|open| open.asked == *from)
            && let Some(open) = open.remove(&id)
        {
            // The asker may have given up this very moment.
            let _ = open.answer.send(reply);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<u64, Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whoever stops waiting takes the question back.
struct Closes<'a> {
    exchange: &'a Exchange,
    id: u64,
}

impl Drop for Closes<'_> {
    fn drop(&mut self) {
        self.exchange.lock().remove(&self.id);
    }
}

/// A message's bytes; `None` if it is too long to be sent.
fn encode(message: &Message) -> Option<Bytes> {
    codec::try_pack(message, MESSAGE_LEN_MAX - codec::HEADER_LEN).ok()
}

/// Reads a message.
pub(super) fn decode(body: &[u8]) -> Result<Message, codec::DecodeError> {
    codec::decode(body, MESSAGE_LEN_MAX)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use openraft::{CommittedLeaderId, EntryPayload};
    use tumen_core::cluster::control::Command;
    use tumen_core::cluster::lease::Release;
    use tumen_core::cluster::member::{Member, NodeInfo, Status, Zone};
    use tumen_core::cluster::outline::Outline;
    use tumen_core::cluster::snapshot::{Assignment, GroupPlan, GroupSpec, Mode, Snapshot};
    use tumen_core::ids::{
        Boot, ClusterId, ClusterName, Epoch, Generation, GroupId, NodeBoot, PartitionId, Revision, Term,
        Version,
    };
    use tumen_core::partitioner::Partitioner;
    use tumen_core::partitions::record::CopyId;
    use tumen_core::time::UnixMillis;
    use tumen_core::wire::CoordinatorFrame;

    use super::super::handle::COMMAND_LEN_MAX;
    use super::super::types::{Entry, Proposal, Vote};
    use super::*;
    use crate::transport::CONTROL_LEN_MAX;

    /// The most partitions that may be configured.
    const PARTITIONS: u32 = 65_536;

    fn member(n: u64) -> Member {
        let name = NodeName::new(&format!("node-{n:04}")).unwrap();
        let info = NodeInfo {
            id: NodeBoot::new(name, Boot(u64::MAX - n)),
            address: format!("10.11.{}.{}:17100", n / 250, n % 250),
            http: Some(format!("10.11.{}.{}:18100", n / 250, n % 250)),
            zone: Some(Zone("hall-a".into())),
            weight: 100,
            services: vec!["carts".into(), "kv".into()],
            protocol: 1,
        };
        Member { info, status: Status::Up }
    }

    fn holders(index: u32, members: u32, copies: u32) -> impl Iterator<Item = u32> {
        (0..copies).map(move |copy| (members - 1 + index + copy) % members)
    }

    /// Each copy with a life as long as they come.
    fn counting(index: u32, members: u32, copies: u32) -> Vec<CopyId> {
        let copy = |at| CopyId {
            node: member(u64::from(at)).name().clone(),
            life: Life(u64::MAX - u64::from(index)),
        };
        let mut all: Vec<CopyId> = holders(index, members, copies).map(copy).collect();
        all.sort_unstable();
        all
    }

    fn plan(members: u32, copies: u32, epoch: u64) -> Snapshot {
        let assignment = |index: u32| Assignment {
            epoch: Epoch(epoch),
            revision: Revision::ZERO,
            members: counting(index, members, copies),
            high: copies,
            copies: holders(index, members, copies).collect(),
        };
        let spec = GroupSpec {
            partitions: PARTITIONS,
            replication: copies,
            strategy: "balanced".into(),
            mode: Mode::Sync,
            partitioner: Partitioner::Hash,
            replicated: true,
        };
        let assignments = (0..PARTITIONS).map(assignment).collect();
        let snapshot = Snapshot {
            cluster: ClusterId(u64::MAX),
            name: ClusterName::new("shop").unwrap(),
            generation: Generation::ZERO,
            version: Version(u64::MAX),
            term: Term(u64::MAX),
            leader: NodeName::new("node-0001").unwrap(),
            members: (0..u64::from(members)).map(member).collect(),
            groups: vec![GroupPlan { id: GroupId::Users, spec, assignments }],
            steps: 0,
            computed_at: UnixMillis(u64::MAX),
            hash: 0,
        };
        snapshot.sealed()
    }

    fn append(command: Command) -> Message {
        let log_id = LogId::new(CommittedLeaderId::new(u64::MAX, u64::MAX), u64::MAX);
        let payload = EntryPayload::Normal(Proposal { id: u64::MAX, command: Arc::new(command) });
        let request = AppendEntriesRequest {
            vote: Vote::new_committed(u64::MAX, u64::MAX),
            prev_log_id: Some(log_id),
            entries: vec![Entry { log_id, payload }],
            leader_commit: Some(log_id),
        };
        Message::Request { id: u64::MAX, life: Some(Life(u64::MAX)), request: Request::Append(request) }
    }

    #[test]
    fn the_largest_plan_with_three_copies_that_count_fits_a_message() {
        // 250 nodes are more than a full mesh is meant for.
        for (members, epoch, len_max) in [(3, 1, 530 << 10), (250, 60_000, 690 << 10)] {
            let command = Command::Publish {
                based_on: Version(u64::MAX - 1),
                outline: Outline::of(plan(members, 3, epoch)),
            };
            let len = codec::packed_len(&command);
            assert!(len <= COMMAND_LEN_MAX.min(len_max), "{members} members: {len} bytes");
            let message = append(command.clone());
            let body = encode(&message).expect("a command that fits is sent");
            assert!(body.len() <= MESSAGE_LEN_MAX && MESSAGE_LEN_MAX <= CONTROL_LEN_MAX);
            let Message::Request { request: Request::Append(read), .. } = decode(&body).unwrap() else {
                panic!("another message")
            };
            let EntryPayload::Normal(proposal) = &read.entries[0].payload else { panic!("another entry") };
            assert_eq!(*proposal.command, command);
        }
    }

    #[test]
    fn whatever_command_is_taken_is_sent() {
        let command = Command::Publish { based_on: Version(1), outline: Outline::of(plan(1000, 4, 1)) };
        assert!(codec::packed_len(&command) > COMMAND_LEN_MAX, "four copies on so many nodes are refused");
        let padding = COMMAND_LEN_MAX
            - codec::packed_len(&Command::Publish {
                based_on: Version(u64::MAX),
                outline: Outline::of(Snapshot { members: Vec::new(), groups: Vec::new(), ..plan(1, 1, 1) }),
            });
        let mut full = Snapshot { groups: Vec::new(), ..plan(1, 1, 1) };
        full.members[0].info.services.push("x".repeat(padding - 100));
        let command = Command::Publish { based_on: Version(u64::MAX), outline: Outline::of(full) };
        let len = codec::packed_len(&command);
        assert!((COMMAND_LEN_MAX - 200..=COMMAND_LEN_MAX).contains(&len), "{len}");
        assert!(encode(&append(command)).is_some(), "what surrounds it finds room");
    }

    #[test]
    fn all_partitions_can_be_asked_back_in_one_message() {
        let release = |index| Release { partition: PartitionId::user(index), epoch: Epoch(60_000) };
        let frame = CoordinatorFrame::AskRelease((0..PARTITIONS).map(release).collect());
        assert!(codec::pack(&frame).len() <= CONTROL_LEN_MAX / 2);
        let names: BTreeSet<NodeName> = (0..1000).map(|n| member(n).name().clone()).collect();
        let voting = CoordinatorFrame::Voting {
            cluster: Some(ClusterId(u64::MAX)),
            term: Term(u64::MAX),
            nodes: names,
        };
        assert!(codec::pack(&voting).len() <= CONTROL_LEN_MAX);
    }
}
