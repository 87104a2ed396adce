//! A replicated worker for tests: it adds up, and remembers what was added by whom.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tumen_actors::codec;
use tumen_actors::partitions::machine::{Journal, Machine};
use tumen_actors::partitions::{Begin, Host, Hosted, Kinds, Place};
use tumen_core::cluster::snapshot::Mode;
use tumen_core::ids::Kind;
use tumen_core::partitions::request::{Failure, MessageId, Reply};

/// What is added by a primary that is about to hand over.
pub const HANDED_OVER: &str = "handed over";
/// Where this was added, handing over never ends.
pub const HANGS: &str = "hangs at the end";

/// How often each name was added.
type Counts = BTreeMap<String, u64>;

#[derive(Default)]
struct Adder(Counts);

pub fn add() -> MessageId {
    MessageId::of("add")
}

pub fn count() -> MessageId {
    MessageId::of("count")
}

/// How often the name was added, as a reply says it.
pub fn number(reply: Reply) -> Result<u64, Failure> {
    reply.map(|bytes| codec::decode_body(&bytes).expect("a number"))
}

/// The same of the other kind, which promises what `async` does.
pub fn add_loosely() -> MessageId {
    MessageId::of("add loosely")
}

pub fn kinds() -> Kinds {
    let make = || -> Box<dyn Machine> { Box::new(Adder::default()) };
    let hosted = Hosted {
        kind: Kind::new("adder").expect("valid"),
        messages: vec![(add(), "add"), (count(), "count")],
        queries: vec![count()],
        mode: None,
        merges: false,
        begin: Begin::Replicated(Arc::new(make)),
    };
    let loose = Hosted {
        kind: Kind::new("loose").expect("valid"),
        messages: vec![(add_loosely(), "add loosely")],
        queries: Vec::new(),
        mode: Some(Mode::Async),
        merges: false,
        begin: Begin::Replicated(Arc::new(make)),
    };
    Kinds::new(vec![hosted, loose]).expect("valid")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn encoded(count: u64) -> Bytes {
    let mut bytes = bytes::BytesMut::new();
    codec::encode_body_into(&count, &mut bytes).expect("encodable");
    bytes.freeze()
}

impl Adder {
    fn count(&self, name: &[u8]) -> Bytes {
        encoded(self.0.get(&text(name)).copied().unwrap_or(0))
    }
}

impl Machine for Adder {
    fn apply(&mut self, change: &[u8]) -> Result<(), String> {
        *self.0.entry(text(change)).or_default() += 1;
        Ok(())
    }

    fn fork(&self) -> Result<Box<dyn Machine>, String> {
        Ok(Box::new(Self(self.0.clone())))
    }

    fn snapshot(&self) -> Result<Bytes, String> {
        let mut bytes = Vec::new();
        codec::write_state(&self.0, &mut bytes).map_err(|why| why.to_string())?;
        Ok(bytes.into())
    }

    fn restore(&mut self, snapshot: &[u8]) -> Result<(), String> {
        self.0 = codec::read_state(snapshot).map_err(|why| why.to_string())?;
        Ok(())
    }

    fn query(&self, _: MessageId, body: Bytes) -> Reply {
        Ok(self.count(&body))
    }

    fn into_host(self: Box<Self>, _: Place, journal: Journal) -> Box<dyn Host> {
        Box::new(Primary { adder: *self, journal })
    }
}

struct Primary {
    adder: Adder,
    journal: Journal,
}

impl Primary {
    fn add(&mut self, name: &Bytes) {
        let adder = &mut self.adder;
        let apply = || drop(adder.apply(name));
        self.journal.commit(name.clone(), apply).expect("small");
    }
}

impl Host for Primary {
    fn handle(&mut self, message: MessageId, body: Bytes) -> BoxFuture<'_, Reply> {
        Box::pin(async move {
            if message == count() {
                return self.adder.query(message, body);
            }
            self.add(&body);
            let name = text(&body);
            if name.starts_with("slow") {
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            if name.starts_with("panic") {
                panic!("told to");
            }
            if name.starts_with("refuse") {
                return Err(Failure::Rejected("told to".into()));
            }
            Ok(self.adder.count(&body))
        })
    }

    fn journal(&mut self) -> Option<&mut Journal> {
        Some(&mut self.journal)
    }

    fn hand_over(&mut self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            self.add(&Bytes::from_static(HANDED_OVER.as_bytes()));
            if self.adder.0.contains_key(HANGS) {
                std::future::pending::<()>().await;
            }
        })
    }
}
