//! A replicated worker for tests that merges: a set that grows. Beside it, another kind that does not merge.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tumen_actors::codec;
use tumen_actors::partitions::machine::{Journal, Machine};
use tumen_actors::partitions::{Begin, Host, Hosted, Kinds, Place};
use tumen_core::ids::Kind;
use tumen_core::partitions::request::{Failure, MessageId, Reply};

/// What each set holds.
pub type Set = BTreeSet<String>;

/// Whoever compares itself with a state that holds this, panics.
pub const PANICS: &str = "panics when it is merged";
/// Whoever takes this in, panics.
pub const PANICS_LATER: &str = "panics when it is taken in";
/// What holds this cannot be written.
pub const UNWRITABLE: &str = "cannot be written";

#[derive(Default)]
struct Gatherer(Set);

/// The kind that merges.
pub fn gatherer() -> Kind {
    Kind::new("gatherer").expect("valid")
}

/// The kind that does not.
pub fn hermit() -> Kind {
    Kind::new("hermit").expect("valid")
}

/// Adds a name, and tells how many there are.
pub fn gather() -> MessageId {
    MessageId::of("gather")
}

/// The same of the kind that does not merge.
pub fn keep() -> MessageId {
    MessageId::of("keep")
}

/// All names.
pub fn all() -> MessageId {
    MessageId::of("all")
}

/// How many there are.
pub fn size() -> MessageId {
    MessageId::of("size")
}

pub fn number(reply: Reply) -> Result<u64, Failure> {
    reply.map(|bytes| codec::decode_body(&bytes).expect("a number"))
}

pub fn set(reply: Reply) -> Result<Set, Failure> {
    reply.map(|bytes| codec::read_state(&bytes).expect("a set"))
}

/// What a copy with these names writes.
pub fn written(set: &Set) -> Bytes {
    let mut bytes = Vec::new();
    codec::write_state(set, &mut bytes).expect("encodable");
    bytes.into()
}

pub fn kinds() -> Kinds {
    let make = || -> Box<dyn Machine> { Box::new(Gatherer::default()) };
    let gatherer = Hosted {
        kind: gatherer(),
        messages: vec![(gather(), "gather"), (all(), "all"), (size(), "size")],
        queries: vec![all(), size()],
        mode: None,
        merges: true,
        begin: Begin::Replicated(Arc::new(make)),
    };
    let hermit = Hosted {
        kind: hermit(),
        messages: vec![(keep(), "keep")],
        queries: Vec::new(),
        mode: None,
        merges: false,
        begin: Begin::Replicated(Arc::new(make)),
    };
    Kinds::new(vec![gatherer, hermit]).expect("valid")
}

impl Gatherer {
    fn size(&self) -> Bytes {
        let mut bytes = bytes::BytesMut::new();
        codec::encode_body_into(&(self.0.len() as u64), &mut bytes).expect("encodable");
        bytes.freeze()
    }
}

impl Machine for Gatherer {
    fn apply(&mut self, change: &[u8]) -> Result<(), String> {
        self.0.insert(String::from_utf8_lossy(change).into_owned());
        Ok(())
    }

    fn fork(&self) -> Result<Box<dyn Machine>, String> {
        Ok(Box::new(Self(self.0.clone())))
    }

    fn snapshot(&self) -> Result<Bytes, String> {
        if self.0.contains(UNWRITABLE) {
            return Err("told not to".into());
        }
        Ok(written(&self.0))
    }

    fn restore(&mut self, snapshot: &[u8]) -> Result<(), String> {
        self.0 = codec::read_state(snapshot).map_err(|why| why.to_string())?;
        Ok(())
    }

    fn query(&self, message: MessageId, _: Bytes) -> Reply {
        Ok(if message == size() { self.size() } else { written(&self.0) })
    }

    fn into_host(self: Box<Self>, _: Place, journal: Journal) -> Box<dyn Host> {
        Box::new(Primary { gatherer: *self, journal })
    }
}

struct Primary {
    gatherer: Gatherer,
    journal: Journal,
}

impl Host for Primary {
    fn handle(&mut self, message: MessageId, body: Bytes) -> BoxFuture<'_, Reply> {
        Box::pin(async move {
            if message == all() || message == size() {
                return self.gatherer.query(message, body);
            }
            self.make_change(body).map_err(Failure::Rejected)?;
            Ok(self.gatherer.size())
        })
    }

    fn journal(&mut self) -> Option<&mut Journal> {
        Some(&mut self.journal)
    }

    fn plan_merge(&self, state: &[u8]) -> Result<Vec<Bytes>, String> {
        let mut other = Gatherer::default();
        other.restore(state)?;
        assert!(!other.0.contains(PANICS), "told to");
        Ok(other.0.difference(&self.gatherer.0).cloned().map(Bytes::from).collect())
    }

    fn make_change(&mut self, change: Bytes) -> Result<(), String> {
        assert!(change != PANICS_LATER.as_bytes(), "told to");
        let Self { gatherer, journal } = self;
        let apply = || drop(gatherer.apply(&change));
        journal.commit(change.clone(), apply).map_err(|why| why.to_string())
    }
}
