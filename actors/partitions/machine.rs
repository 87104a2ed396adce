//! A replicated worker as the runtime holds it: its state on any copy, and what it writes while it handles a message.
//!
//! ```text
//!  every copy   log ─▶ Machine::apply                       snapshot ◀─▶ restore
//!  primary      message ─▶ Host::handle ─ commit ─▶ Journal ─▶ log ─▶ the other copies
//! ```

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tumen_core::ids::PartitionId;
use tumen_core::partitions::entry::{Changes, KindIndex, TooManyChanges};
use tumen_core::partitions::identity::Position;
use tumen_core::partitions::request::{Failure, MessageId, Reply};

use super::host::{Host, Place};

/// One replicated worker of one copy of a partition. On the primary it becomes a [`Host`].
pub trait Machine: Send + 'static {
    /// Carries out a change that another run of the same worker committed. The error says why its bytes cannot be read:
    /// the copy is broken then, or the nodes run different programs.
    fn apply(&mut self, change: &[u8]) -> Result<(), String>;

    /// Another worker with the same state, which goes its own way from here.
    fn fork(&self) -> Result<Box<dyn Machine>, String>;

    /// The whole state as bytes.
    fn snapshot(&self) -> Result<Bytes, String>;

    /// Becomes what a snapshot says. After an error nothing changed.
    fn restore(&mut self, snapshot: &[u8]) -> Result<(), String>;

    /// From now on it is what a copy of this partition has up to the mark, not a fork that runs ahead.
    fn follow(&mut self, partition: PartitionId) {
        let _ = partition;
    }

    /// What it has is what the log up to here comes to, and surely holds. Only where it follows a copy.
    fn settled(&mut self, position: Position) {
        let _ = position;
    }

    /// Answers a message that only reads. Others are refused.
    fn query(&self, message: MessageId, body: Bytes) -> Reply;

    /// The same worker, from now on primary: it handles messages, and commits what it changes to this journal.
    fn into_host(self: Box<Self>, place: Place, journal: Journal) -> Box<dyn Host>;
}

/// How an empty replicated worker is made. The same on every copy.
pub type MakeMachine = Arc<dyn Fn() -> Box<dyn Machine> + Send + Sync>;

/// What waits until changes hold.
pub trait Durable: Send + Sync + 'static {
    /// Logs these changes of the request that is being handled, and waits until they hold.
    ///
    /// # Errors
    /// Why they may not: this copy is not primary any more, or too few others are there.
    fn make_durable(&self, changes: Changes) -> BoxFuture<'_, Result<(), Failure>>;
}

/// Where one worker's changes gather until they are logged.
#[derive(Clone)]
pub struct Journal {
    kind: KindIndex,
    changes: Changes,
    durable: Arc<dyn Durable>,
}

impl Journal {
    /// A journal of the worker with this place among the group's kinds.
    pub fn new(kind: KindIndex, durable: Arc<dyn Durable>) -> Self {
        Self { kind, changes: Changes::default(), durable }
    }

    /// Takes one change, and has it applied.
    ///
    /// A change whose `apply` panics is not taken: in the log it would have every other copy panic too.
    pub fn commit(&mut self, change: Bytes, apply: impl FnOnce()) -> Result<(), TooManyChanges> {
        if !self.changes.has_room(change.len()) {
            return Err(TooManyChanges);
        }
        apply();
        self.changes.push(self.kind, change)
    }

    /// What was committed since the last time.
    pub fn take(&mut self) -> Changes {
        std::mem::take(&mut self.changes)
    }

    /// Waits until everything that was committed so far, here or before, holds as the mode promises.
    pub async fn durable(&mut self) -> Result<(), Failure> {
        let changes = self.take();
        let durable = Arc::clone(&self.durable);
        durable.make_durable(changes).await
    }
}

impl fmt::Debug for Journal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Journal").field("kind", &self.kind).finish_non_exhaustive()
    }
}
