//! What a copy's log comes to: the workers' states, and which requests they carried out.
//!
//! ```text
//!  log   1 2 3 4 5 6 7 8            every copy applies up to the mark; the primary's workers run ahead, on states of
//!        ───── state ▲ ▲ end        their own that were forked from this one
//!                 mark └ workers
//! ```

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tumen_core::cluster::snapshot::Mode;
use tumen_core::ids::{GroupId, Kind, PartitionId};
use tumen_core::partitions::entry::encoding::DecodeError;
use tumen_core::partitions::entry::{Entry, KindIndex};
use tumen_core::partitions::identity::Position;
use tumen_core::partitions::request::{Failure, MessageId, Reply};
use tumen_core::partitions::session::Sessions;

use crate::codec;
use crate::partitions::host::{Begin, Kinds, KindsByGroup};
use crate::partitions::machine::{Machine, MakeMachine};
use crate::partitions::partition_worker::panic_text;

/// The replicated kinds of a node, sorted by name: the same list on every node of a group.
#[derive(Clone, Default)]
pub(super) struct Makers(Arc<[Maker]>);

/// The same for each group.
#[derive(Clone, Default)]
pub(super) struct MakersByGroup {
    users: Makers,
    names: Makers,
}

impl MakersByGroup {
    pub(super) fn of(&self, group: GroupId) -> &Makers {
        match group {
            GroupId::Users => &self.users,
            GroupId::Names => &self.names,
        }
    }

    pub(super) fn new(kinds: &KindsByGroup) -> Self {
        Self { users: Makers::of(&kinds.users), names: Makers::of(&kinds.names) }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.users.is_empty() && self.names.is_empty()
    }
}

struct Maker {
    kind: Kind,
    merges: bool,
    make: MakeMachine,
    messages: Box<[MessageId]>,
    mode: Option<Mode>,
}

impl Makers {
    pub(super) fn of(kinds: &Kinds) -> Self {
        let makers = kinds.iter().filter_map(|hosted| match &hosted.begin {
            Begin::Replicated(make) => {
                let messages = hosted.messages.iter().map(|(id, _)| *id).collect();
                let (kind, merges, mode) = (hosted.kind.clone(), hosted.merges, hosted.mode);
                Some(Maker { kind, merges, make: Arc::clone(make), messages, mode })
            }
            Begin::Start(_) => None,
        });
        Self(makers.collect())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether any of them merges.
    pub(super) fn any_merges(&self) -> bool {
        self.0.iter().any(|maker| maker.merges)
    }

    /// Which kind handles a message.
    fn kind_of(&self, message: MessageId) -> Option<usize> {
        self.0.iter().position(|maker| maker.messages.contains(&message))
    }

    /// What an acknowledgement of this kind promises, in a group of this mode.
    pub(super) fn mode_of(&self, kind: KindIndex, group: Mode) -> Mode {
        self.0.get(usize::from(kind.0)).and_then(|maker| maker.mode).unwrap_or(group)
    }

    /// What the log promises that all kinds share: as much as any of them does.
    pub(super) fn mode_of_log(&self, group: Mode) -> Mode {
        self.0.iter().map(|maker| maker.mode.unwrap_or(group)).max().unwrap_or(group)
    }
}

/// Why a copy's state cannot be made. The copy is of no use until it is made anew from another one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Broken {
    /// An entry, or a change in it, cannot be read.
    #[error("the entry at {position} cannot be applied: {why}")]
    Entry {
        /// Where it stands.
        position: Position,
        /// What is wrong with it.
        why: String,
    },
    /// A snapshot cannot be read.
    #[error("a snapshot cannot be read: {0}")]
    Snapshot(String),
    /// The state cannot be written.
    #[error("the state cannot be written: {0}")]
    Unwritable(String),
}

/// One worker's state as bytes; or why there are none.
pub(super) type Written = (Kind, Result<Bytes, String>);

/// The state at one position of the log.
pub(super) struct State {
    makers: Makers,
    machines: Vec<Box<dyn Machine>>,
    sessions: Sessions,
    applied: Position,
}

impl State {
    /// A partition's, before the first entry.
    pub(super) fn new(makers: Makers, partition: PartitionId) -> Self {
        let make = |maker: &Maker| {
            let mut machine = (maker.make)();
            machine.follow(partition);
            machine
        };
        let machines = makers.0.iter().map(make).collect();
        Self { makers, machines, sessions: Sessions::default(), applied: Position::ZERO }
    }

    /// Up to where the log was applied.
    pub(super) const fn applied(&self) -> Position {
        self.applied
    }

    /// Which requests were carried out.
    pub(super) const fn sessions(&self) -> &Sessions {
        &self.sessions
    }

    /// Applies the next entry. `None`: it has nothing to apply.
    pub(super) fn apply(&mut self, position: Position, data: Option<&Bytes>) -> Result<(), Broken> {
        if let Some(data) = data {
            let broken = |why: String| Broken::Entry { position, why };
            let entry = read_entry(data).map_err(|why| broken(why.to_string()))?;
            for change in entry.changes() {
                let machine = self.machines.get_mut(usize::from(change.kind.0));
                let machine =
                    machine.ok_or_else(|| broken("it is of a kind that is not hosted here".into()))?;
                machine.apply(&change.bytes).map_err(broken)?;
            }
            self.sessions.apply(position, &entry);
        }
        self.applied = position;
        self.announce();
        Ok(())
    }

    /// Tells the workers that what they have is a copy's, up to here.
    pub(super) fn announce(&mut self) {
        let applied = self.applied;
        self.machines.iter_mut().for_each(|machine| machine.settled(applied));
    }

    /// A worker's state of its own, to run ahead from.
    pub(super) fn fork(&self, kind: KindIndex) -> Result<Box<dyn Machine>, Broken> {
        self.machines[usize::from(kind.0)].fork().map_err(Broken::Unwritable)
    }

    /// Answers a message that only reads.
    pub(super) fn query(&self, message: MessageId, body: Bytes) -> Reply {
        match self.makers.kind_of(message) {
            Some(kind) => self.machines[kind].query(message, body),
            None => {
                Err(Failure::Rejected(format!("no replicated worker handles messages of type {message}")))
            }
        }
    }

    /// All of it as bytes: position, sessions, each worker's state.
    pub(super) fn snapshot(&self) -> Result<Bytes, Broken> {
        let unwritable = |why: String| Broken::Unwritable(why);
        let mut bytes = BytesMut::new();
        let mut sessions = BytesMut::new().writer();
        codec::write_state(&(self.applied, &self.sessions), &mut sessions)
            .map_err(|why| unwritable(why.to_string()))?;
        put_part(&mut bytes, &sessions.into_inner());
        bytes.put_u16_le(u16::try_from(self.machines.len()).unwrap_or(u16::MAX));
        for machine in &self.machines {
            put_part(&mut bytes, &machine.snapshot().map_err(unwritable)?);
        }
        Ok(bytes.freeze())
    }

    /// What each worker that merges holds, if it is anything that a new one does not; or why it cannot be written.
    pub(super) fn to_bring(&self) -> Vec<Written> {
        let merging = self.makers.0.iter().zip(&self.machines).filter(|(maker, _)| maker.merges);
        let written = merging.filter_map(|(maker, machine)| {
            let writing = || {
                let (bytes, empty) = (machine.snapshot()?, (maker.make)().snapshot()?);
                Ok((bytes != empty).then_some(bytes))
            };
            let panicked =
                |panic: Box<dyn std::any::Any + Send>| Err(format!("it panicked: {}", panic_text(&*panic)));
            let written = catch_unwind(AssertUnwindSafe(writing)).unwrap_or_else(panicked);
            Some((maker.kind.clone(), written.transpose()?))
        });
        written.collect()
    }

    /// The state that [`Self::snapshot`] wrote.
    pub(super) fn restore(makers: Makers, partition: PartitionId, mut bytes: Bytes) -> Result<Self, Broken> {
        let short = || Broken::Snapshot("it ends too early".into());
        let unreadable = |why: String| Broken::Snapshot(why);
        let mut state = Self::new(makers, partition);
        let sessions = take_part(&mut bytes).ok_or_else(short)?;
        (state.applied, state.sessions) =
            codec::read_state(&sessions).map_err(|why| unreadable(why.to_string()))?;
        let kinds = bytes.try_get_u16_le().map_err(|_| short())?;
        if usize::from(kinds) != state.machines.len() {
            let here = state.machines.len();
            return Err(unreadable(format!("it has {kinds} kinds of workers, this node {here}")));
        }
        for machine in &mut state.machines {
            machine.restore(&take_part(&mut bytes).ok_or_else(short)?).map_err(unreadable)?;
        }
        if bytes.has_remaining() {
            return Err(unreadable(format!("{} bytes follow it", bytes.len())));
        }
        Ok(state)
    }
}

/// Reads an entry whose reply may be remembered for longer than the entry is: it has memory of its own.
pub(super) fn read_entry(data: &Bytes) -> Result<Entry, DecodeError> {
    let mut entry = Entry::decode(data.clone())?;
    if let Entry::Record { reply: Ok(reply), .. } = &mut entry {
        *reply = Bytes::copy_from_slice(reply);
    }
    Ok(entry)
}

fn put_part(bytes: &mut BytesMut, part: &[u8]) {
    bytes.put_u64_le(part.len() as u64);
    bytes.put_slice(part);
}

fn take_part(bytes: &mut Bytes) -> Option<Bytes> {
    let len = usize::try_from(bytes.try_get_u64_le().ok()?).ok()?;
    (len <= bytes.len()).then(|| bytes.split_to(len))
}
