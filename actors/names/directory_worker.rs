//! The worker of the names' partitions: one directory, replicated like any other worker's state.
//!
//! ```text
//!  any node ─ Request ─▶ Host: judge, commit ─▶ log ─▶ every copy: apply up to the mark ─▶ NameTable
//!  agent ──── Log ─────▶        commit
//! ```

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::future::BoxFuture;
use tumen_core::ids::{Kind, PartitionId};
use tumen_core::names::conflict::Winner;
use tumen_core::names::directory::{Bringing, Change, Refused};
use tumen_core::names::request::{Answered, Brought, Done, Request};
use tumen_core::names::{ClaimNumber, Directory, Name};
use tumen_core::partitions::identity::Position;
use tumen_core::partitions::request::{Failure, MessageId, Reply};

use super::conflicts::Resolver;
use super::table::{NameTable, Step};
use crate::clock::Clock;
use crate::codec;
use crate::partitions::machine::{Journal, Machine};
use crate::partitions::{Begin, Gate, Host, Hosted, Place};

/// How often the time is noted at most, in milliseconds, where something is changed.
const CLOCK_EVERY_MS: u64 = 100;

/// What its messages are called.
const REQUEST: &str = "tumen.names.request";
const LOG: &str = "tumen.names.log";

/// The message that asks for something. See [`Request`].
pub(super) fn request_message() -> MessageId {
    MessageId::of(REQUEST)
}

/// The message by which the agent has changes logged.
pub(super) fn log_message() -> MessageId {
    MessageId::of(LOG)
}

/// The one kind of worker that the names' partitions have.
///
/// Whoever tells the cluster something relies on it from then on, as the gate is told. Nobody else here does: who holds a name
/// claims it anew where its node joins another cluster.
pub(crate) fn hosted(table: &NameTable, gate: &Gate, sides: Option<Sides>) -> Hosted {
    let surroundings = Surroundings { table: table.clone(), gate: gate.clone(), sides };
    let make = move || -> Box<dyn Machine> {
        let (directory, around) = (Directory::default(), surroundings.clone());
        Box::new(DirectoryWorker { directory, around, followed: None })
    };
    Hosted {
        kind: Kind::new("directory").expect("a short name"),
        messages: vec![(request_message(), REQUEST), (log_message(), LOG)],
        queries: Vec::new(),
        mode: None,
        merges: false,
        begin: Begin::Replicated(Arc::new(make)),
    }
}

/// What a directory needs where each side of a split goes on.
#[derive(Clone, Debug)]
pub(crate) struct Sides {
    /// Since when something is held is noted by it.
    pub(crate) clock: Clock,
    /// Says who keeps a name that two have.
    pub(crate) resolver: Resolver,
}

/// What a directory's worker stands on.
#[derive(Clone)]
struct Surroundings {
    table: NameTable,
    gate: Gate,
    sides: Option<Sides>,
}

/// One directory, on any copy.
struct DirectoryWorker {
    directory: Directory,
    around: Surroundings,
    /// Where it is what a copy has up to the mark.
    followed: Option<Followed>,
}

struct Followed {
    partition: PartitionId,
    position: Position,
    /// What the next position brings; `None` where all of it is news.
    step: Option<Step>,
}

impl Followed {
    const fn whole(partition: PartitionId) -> Self {
        Self { partition, position: Position::ZERO, step: None }
    }
}

fn empty_step() -> Step {
    Step {
        position: Position::ZERO,
        changes: Vec::new(),
        now: Vec::new(),
        meta: Vec::new(),
        news: Vec::new(),
    }
}

impl Machine for DirectoryWorker {
    fn apply(&mut self, change: &[u8]) -> Result<(), String> {
        let change: Change = codec::decode_body(change).map_err(|why| why.to_string())?;
        let Some(step) = self.followed.as_mut().and_then(|followed| followed.step.as_mut()) else {
            self.directory.apply(&change);
            return Ok(());
        };
        let touched: Vec<Name> = match &change {
            Change::NodeGone { node } => self.directory.on_node(node).cloned().collect(),
            Change::MetaPut { .. } | Change::MetaRemoved { .. } | Change::Clock { .. } => Vec::new(),
            Change::Brought { brought, .. } => vec![brought.name.clone()],
            Change::Claimed { name, .. }
            | Change::Updated { name, .. }
            | Change::Released { name, .. }
            | Change::Added { name, .. }
            | Change::Ordered { name, .. }
            | Change::Started { name, .. }
            | Change::Stopping { name, .. }
            | Change::Freed { name, .. } => vec![name.clone()],
        };
        step.news.extend(self.directory.apply(&change));
        if let Change::MetaPut { key, .. } | Change::MetaRemoved { key, .. } = &change {
            step.meta.push((key.clone(), self.directory.meta(key).cloned()));
        }
        step.changes.push(change);
        for name in touched {
            let claim = self.directory.get(&name).cloned();
            step.now.push((name, claim));
        }
        Ok(())
    }

    fn follow(&mut self, partition: PartitionId) {
        self.followed = Some(Followed { step: Some(empty_step()), ..Followed::whole(partition) });
    }

    fn settled(&mut self, position: Position) {
        let Some(followed) = &mut self.followed else { return };
        let (partition, previous) = (followed.partition, std::mem::replace(&mut followed.position, position));
        let taken = match followed.step.replace(empty_step()) {
            Some(step) => {
                let step = Step { position, ..step };
                self.around.table.take(partition, previous, self.directory.last_number(), step)
            }
            None => false,
        };
        if !taken {
            self.around.table.take_whole(partition, position, &self.directory);
        }
    }

    fn fork(&self) -> Result<Box<dyn Machine>, String> {
        let (directory, around) = (self.directory.clone(), self.around.clone());
        Ok(Box::new(Self { directory, around, followed: None }))
    }

    fn snapshot(&self) -> Result<Bytes, String> {
        let mut bytes = BytesMut::new().writer();
        codec::write_state(&self.directory, &mut bytes).map_err(|why| why.to_string())?;
        Ok(bytes.into_inner().freeze())
    }

    fn restore(&mut self, snapshot: &[u8]) -> Result<(), String> {
        self.directory = codec::read_state(snapshot).map_err(|why| why.to_string())?;
        if let Some(followed) = &mut self.followed {
            *followed = Followed::whole(followed.partition);
        }
        Ok(())
    }

    fn query(&self, message: MessageId, _: Bytes) -> Reply {
        Err(Failure::Rejected(format!("a directory answers no messages of type {message} on a replica")))
    }

    fn into_host(self: Box<Self>, _: Place, journal: Journal) -> Box<dyn Host> {
        Box::new(Primary { directory: self.directory, around: self.around, journal })
    }
}

/// One directory on its primary.
struct Primary {
    directory: Directory,
    around: Surroundings,
    journal: Journal,
}

impl Primary {
    fn answer(&mut self, message: MessageId, body: &[u8]) -> Reply {
        let unreadable = |why: codec::DecodeError| {
            Failure::Rejected(format!("what is asked of a directory cannot be read: {why}"))
        };
        if message == log_message() {
            let changes: Vec<Change> = codec::decode_body(body).map_err(unreadable)?;
            self.commit_all(&changes)?;
            return Ok(Bytes::new());
        }
        let request: Request = codec::decode_body(body).map_err(unreadable)?;
        let answered: Answered = match self.judge(&request) {
            Ok(changes) => {
                if matches!(request, Request::PutMeta { .. }) && !self.around.gate.rely() {
                    return Err(Failure::NotReady);
                }
                self.commit_all(&changes)?;
                Ok(Done { number: self.number(&request) })
            }
            Err((changes, refused)) => {
                self.around.table.tallies().note_refused();
                self.commit_all(&changes)?;
                Err(refused)
            }
        };
        Ok(body_of(&answered))
    }

    /// What is to be changed, also where what was asked for is refused.
    fn judge(&self, request: &Request) -> Result<Vec<Change>, (Vec<Change>, Refused)> {
        match request {
            Request::Bring(brought) => self.judge_bring(brought),
            other => self.judge_other(other).map_err(|refused| (Vec::new(), refused)),
        }
    }

    fn judge_bring(&self, brought: &Brought) -> Result<Vec<Change>, (Vec<Change>, Refused)> {
        let is_member = |node: &_| self.around.table.is_member(node);
        match self.directory.judge_bring(brought, is_member).map_err(|refused| (Vec::new(), refused))? {
            Bringing::Stands(changes) => Ok(changes),
            Bringing::Contested(conflict) => {
                let sides = self.around.sides.as_ref();
                let winner = sides.map_or(Some(Winner::Here), |sides| sides.resolver.decide(&conflict));
                tracing::debug!(name = %conflict.name, ?winner, "two sides of the cluster gave out a name");
                self.directory.settle_bring(brought, winner)
            }
        }
    }

    fn judge_other(&self, request: &Request) -> Result<Vec<Change>, Refused> {
        let directory = &self.directory;
        let is_member = |node: &_| self.around.table.is_member(node);
        Ok(match request {
            Request::Claim { name, holder, value } => {
                directory.judge_claim(name, holder, value, is_member)?
            }
            Request::Release { name, holder, reason } => {
                directory.judge_release(name, holder, reason).into_iter().collect()
            }
            Request::Update { name, holder, value } => vec![directory.judge_update(name, holder, value)?],
            Request::Start { name, spec, value } => {
                directory.judge_start(name, spec, value)?.into_iter().collect()
            }
            Request::Terminate { name } => directory.judge_terminate(name)?.into_iter().collect(),
            Request::Move { name } => directory.judge_move(name).into_iter().collect(),
            Request::Bring(_) => Vec::new(),
            Request::BringMeta { key, .. } if directory.meta(key).is_some() => Vec::new(),
            Request::PutMeta { key, value } | Request::BringMeta { key, value } => {
                directory.judge_put_meta(key, value)?.into_iter().collect()
            }
            Request::RemoveMeta { key } => vec![directory.judge_remove_meta(key)?],
        })
    }

    /// By which number it stands there now.
    fn number(&self, request: &Request) -> Option<ClaimNumber> {
        match request {
            Request::PutMeta { key, .. } | Request::BringMeta { key, .. } | Request::RemoveMeta { key } => {
                self.directory.meta(key).map(|meta| meta.number)
            }
            Request::Bring(Brought { name, .. })
            | Request::Claim { name, .. }
            | Request::Release { name, .. }
            | Request::Update { name, .. }
            | Request::Start { name, .. }
            | Request::Terminate { name }
            | Request::Move { name } => self.directory.get(name).map(|claim| claim.number),
        }
    }

    fn commit_all(&mut self, changes: &[Change]) -> Result<(), Failure> {
        if let Some(sides) = self.around.sides.as_ref().filter(|_| !changes.is_empty()) {
            let at = sides.clock.unix();
            if at.0 >= self.directory.clock().0 + CLOCK_EVERY_MS {
                self.commit(&Change::Clock { at })?;
            }
        }
        changes.iter().try_for_each(|change| self.commit(change))
    }

    fn commit(&mut self, change: &Change) -> Result<(), Failure> {
        let directory = &mut self.directory;
        self.journal
            .commit(body_of(change), || drop(directory.apply(change)))
            .map_err(|why| Failure::Rejected(why.to_string()))
    }
}

impl Host for Primary {
    fn handle<'a>(&'a mut self, message: MessageId, body: Bytes) -> BoxFuture<'a, Reply> {
        Box::pin(std::future::ready(self.answer(message, &body)))
    }

    fn journal(&mut self) -> Option<&mut Journal> {
        Some(&mut self.journal)
    }
}

/// A value as the body of a message.
pub(super) fn body_of<T: serde::Serialize>(value: &T) -> Bytes {
    let mut body = BytesMut::with_capacity(64);
    codec::encode_body_into(value, &mut body).expect("plain data, and not too long");
    body.freeze()
}
