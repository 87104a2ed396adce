//! Reads that are content with what was a moment ago: answered by any copy, also where nobody can write.
//!
//! ```text
//!  read(key, at most 200 ms old) ─┬─ a copy here, young enough ─▶ its answer, with place and age
//!                                 └─ others' copies, one after the other ─▶ the first that is young enough
//! ```

use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::time::Instant;
use tumen_core::ids::{Epoch, GroupId, NodeName, PartitionId};
use tumen_core::partitions::identity::Position;
use tumen_core::partitions::request::{Failure, MessageId};

use super::replication::Replication;
use crate::cluster::plans::Plans;
use crate::codec;
use crate::transport::{Incoming, Serve, Service, Transport};

/// What a copy answered, and how far it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaReply {
    /// The answer.
    pub body: Bytes,
    /// The last entry of the log that it knows of.
    pub position: Position,
    /// How long ago that was all that surely held. It may still be.
    pub age: Duration,
}

/// The way to every copy, for reading. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ReplicaReads {
    replication: Replication,
    plans: Plans,
    transport: Transport,
}

const ANSWERED: u8 = 0;
const FAILED: u8 = 1;
/// The bytes before the message's own.
const HEAD_LEN: usize = 13;

impl ReplicaReads {
    /// Other nodes are served from now on.
    pub fn new(replication: Replication, plans: Plans, transport: Transport) -> Self {
        let reads = Self { replication, plans, transport };
        reads.transport.serve(Service::Replica, Arc::new(reads.clone()));
        reads
    }

    /// Asks copies of the key's partition until one answers that is at most `max_age` old.
    ///
    /// # Errors
    /// [`Failure::NotReady`]: no copy that is that young could be asked in time. Others are the copy's own.
    pub async fn read(
        &self,
        key: &[u8],
        message: MessageId,
        body: Bytes,
        max_age: Duration,
        within: Duration,
    ) -> Result<ReplicaReply, Failure> {
        let deadline = Instant::now() + within;
        let (partition, nodes) = self.copies_of(key)?;
        let me = self.transport.local().node.clone();
        let mut best = Failure::NotReady;
        for node in nodes {
            let answered = if node == me {
                self.read_here(partition, message, body.clone())
            } else {
                self.read_there(&node, partition, message, &body, deadline).await
            };
            match answered {
                Ok(reply) if reply.age <= max_age => return Ok(reply),
                Ok(_) | Err(Failure::NotReady | Failure::NoPartition(_) | Failure::Timeout { .. }) => {}
                Err(failure) => best = failure,
            }
        }
        Err(best)
    }

    /// The key's partition, and who has copies of it: this node first, the primary before others.
    fn copies_of(&self, key: &[u8]) -> Result<(PartitionId, Vec<NodeName>), Failure> {
        let plan = self.plans.newest().ok_or(Failure::NotReady)?;
        let spec = &plan.users().spec;
        let index = spec.partitioner.partition_of(key, spec.partitions);
        let index = index.map_err(|why| Failure::NoPartition(why.to_string()))?;
        let partition = PartitionId { group: GroupId::Users, index };
        let Some(assignment) = plan.assignment(partition) else { return Err(Failure::NotReady) };
        let wanted = assignment.copies.iter().map(|at| plan.members[*at as usize].name());
        let counts = assignment.members.iter().map(|copy| &copy.node);
        let mut nodes: Vec<NodeName> = Vec::new();
        for node in wanted.chain(counts) {
            if !nodes.contains(node) {
                nodes.push(node.clone());
            }
        }
        let me = &self.transport.local().node;
        nodes.sort_by_key(|node| node != me);
        Ok((partition, nodes))
    }

    fn read_here(
        &self,
        partition: PartitionId,
        message: MessageId,
        body: Bytes,
    ) -> Result<ReplicaReply, Failure> {
        let (reply, position, age) = self.replication.query(partition, message, body);
        let (body, age) = (reply?, age.ok_or(Failure::NotReady)?);
        Ok(ReplicaReply { body, position, age })
    }

    async fn read_there(
        &self,
        node: &NodeName,
        partition: PartitionId,
        message: MessageId,
        body: &Bytes,
        deadline: Instant,
    ) -> Result<ReplicaReply, Failure> {
        let asked = Instant::now();
        let encode = |buffer: &mut BytesMut| {
            buffer.put_u8(partition.group as u8);
            buffer.put_u32_le(partition.index);
            buffer.put_u64_le(message.0);
            buffer.put_slice(body);
        };
        let within = deadline.saturating_duration_since(asked);
        let reply = self.transport.call(node, Service::Replica, within, encode).await;
        let mut reply = reply.map_err(|_| Failure::NotReady)?;
        let unreadable = || Failure::WorkerFailed("the other node sent a reply that cannot be read".into());
        match reply.try_get_u8().map_err(|_| unreadable())? {
            ANSWERED if reply.len() >= 24 => {
                let position = Position::new(Epoch(reply.get_u64_le()), reply.get_u64_le());
                // It grew older on the way.
                let age = Duration::from_nanos(reply.get_u64_le()) + asked.elapsed();
                Ok(ReplicaReply { body: reply, position, age })
            }
            FAILED => Err(codec::decode_body(&reply).unwrap_or_else(|_| unreadable())),
            _ => Err(unreadable()),
        }
    }

    fn answer(&self, incoming: Incoming) {
        let mut body = incoming.body;
        let group = match body.first() {
            Some(0) => GroupId::Users,
            Some(1) => GroupId::Names,
            _ => return,
        };
        if body.len() < HEAD_LEN {
            return;
        }
        body.advance(1);
        let partition = PartitionId { group, index: body.get_u32_le() };
        let message = MessageId(body.get_u64_le());
        let read = self.read_here(partition, message, body);
        incoming.reply.send_with(|buffer| match read {
            Ok(reply) => {
                buffer.put_u8(ANSWERED);
                buffer.put_u64_le(reply.position.epoch.0);
                buffer.put_u64_le(reply.position.sequence);
                buffer.put_u64_le(u64::try_from(reply.age.as_nanos()).unwrap_or(u64::MAX));
                buffer.put_slice(&reply.body);
            }
            Err(failure) => {
                buffer.put_u8(FAILED);
                codec::encode_body_into(&failure, buffer).expect("a failure is small and encodable");
            }
        });
    }
}

impl Serve for ReplicaReads {
    fn serve(&self, batch: &mut Vec<Incoming>) {
        batch.drain(..).for_each(|incoming| self.answer(incoming));
    }
}
