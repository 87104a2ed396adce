//! Replies that say where in their partition's log they stand; and reads from any copy: what was a moment ago, without
//! asking the primary, and also where nobody can write.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tumen_core::partitions::identity::Position;
use tumen_core::{Epoch, PartitionId};

use super::{CallOptions, Node, allowing, envelope, opened};
use crate::error::Result;
use crate::kv::check_key;
use crate::worker::Message;

/// What a copy answered, and how far it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaRead<R> {
    /// The answer.
    pub value: R,
    /// The epoch of the newest change that it rests on. With [`Self::sequence`] it orders the answers of one partition.
    pub epoch: Epoch,
    /// That change's place in the partition's log.
    pub sequence: u64,
    /// How long ago the answer was surely the newest. It may still be.
    pub age: Duration,
}

/// A primary's reply, and where in its partition's log that stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed<R> {
    /// The reply.
    pub value: R,
    /// The epoch of the last change that it rests on: of a write, of its own one or a later one. With [`Self::sequence`] it
    /// orders the replies of one partition.
    pub epoch: Epoch,
    /// That change's place in the partition's log. Zero where the worker is not replicated and so has no log.
    pub sequence: u64,
}

impl Node {
    /// As [`Node::call_with`], and tells where in the partition's log the reply stands: whoever reads a copy that is as far
    /// sees what was written. A call that is known again and was carried out before is told where that was.
    ///
    /// # Errors
    /// As [`Node::call`].
    pub async fn call_placed<M: Message>(
        &self,
        key: impl AsRef<[u8]>,
        message: M,
        options: CallOptions,
    ) -> Result<Placed<M::Reply>> {
        let key = key.as_ref();
        check_key(key)?;
        let (id, body) = envelope(&message)?;
        drop(message);
        self.check_not_lost(|| self.partition_of(key))?;
        let place = Mutex::new(Position::ZERO);
        let options = allowing::<M>(options);
        let reply = self.runtime().router().call_placed(key, id, body, options, &place).await;
        self.explained(&reply, || self.partition_of(key))?;
        let Position { epoch, sequence } = *place.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(Placed { value: opened::<M>(reply)?, epoch, sequence })
    }

    /// The same of the worker of one partition: see [`Node::call_partition`].
    ///
    /// # Errors
    /// As [`Node::call`]; a partition that does not exist is [`Error::NotFound`](crate::Error::NotFound).
    pub async fn call_partition_placed<M: Message>(
        &self,
        partition: PartitionId,
        message: M,
        options: CallOptions,
    ) -> Result<Placed<M::Reply>> {
        self.check_partition(partition)?;
        let (id, body) = envelope(&message)?;
        drop(message);
        self.check_not_lost(|| Ok(partition))?;
        let place = Mutex::new(Position::ZERO);
        let options = allowing::<M>(options);
        let reply = self.runtime().router().call_partition_placed(partition, id, body, options, &place).await;
        self.explained(&reply, || Ok(partition))?;
        let Position { epoch, sequence } = *place.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(Placed { value: opened::<M>(reply)?, epoch, sequence })
    }

    /// Asks a copy of the key's partition, this node's before others, that is at most `max_age` old. The message is one of
    /// those that the worker [`queries`](crate::Handlers::queries).
    ///
    /// What it answers surely holds, and may have been replaced since. A copy that hears nothing of its primary grows old;
    /// with a large `max_age` it still answers, on either side of a split.
    ///
    /// # Errors
    /// [`Failure::NotReady`](crate::Failure::NotReady): no copy that is that young was found. Else as [`Node::call`].
    pub async fn read_replica<M: Message>(
        &self,
        key: impl AsRef<[u8]>,
        message: M,
        max_age: Duration,
    ) -> Result<ReplicaRead<M::Reply>> {
        let key = key.as_ref();
        check_key(key)?;
        let (id, body) = envelope(&message)?;
        let within = self.config().call_deadline;
        let reply = self.runtime().reads().read(key, id, body, max_age, within).await?;
        let (epoch, sequence, age) = (reply.position.epoch, reply.position.sequence, reply.age);
        Ok(ReplicaRead { value: opened::<M>(Ok(reply.body))?, epoch, sequence, age })
    }
}
