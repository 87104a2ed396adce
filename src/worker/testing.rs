//! One worker alone, driven as the runtime drives it.

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tumen_actors::codec;
use tumen_actors::partitions::machine::Durable;
use tumen_actors::partitions::{Begin, Host, Hosted, Journal, Place};
use tumen_core::partitions::entry::{Changes, KindIndex};
use tumen_core::partitions::fence::Fence;
use tumen_core::partitions::request::{Failure, MessageId, Reply};
use tumen_core::{Epoch, Generation, NodeName, PartitionId};

use super::{Hosting, Message, encode};

pub(crate) fn place() -> Place {
    let fence = Fence { generation: Generation(1), partition: PartitionId::user(3), epoch: Epoch(7) };
    Place { fence, partition_name: "partition-3".into(), node: NodeName::new("node-1").unwrap() }
}

/// What is committed by a worker that is alone holds at once.
struct Alone;

impl Durable for Alone {
    fn make_durable(&self, _: Changes) -> BoxFuture<'_, Result<(), Failure>> {
        Box::pin(async { Ok(()) })
    }
}

/// Starts a worker.
pub(crate) async fn started(hosted: Hosted) -> Result<Box<dyn Host>, String> {
    match hosted.begin {
        Begin::Start(start) => start(place()).await,
        Begin::Replicated(make) => {
            let journal = Journal::new(KindIndex(0), std::sync::Arc::new(Alone));
            Ok(make().into_host(place(), journal))
        }
    }
}

pub(crate) struct Lone {
    host: Box<dyn Host>,
}

impl Lone {
    pub(crate) async fn start(hosting: Hosting) -> Self {
        Self { host: started(hosting.unwrap()).await.unwrap() }
    }

    pub(crate) async fn call<M: Message>(&mut self, message: &M) -> Result<M::Reply, Failure> {
        let reply = self.send(MessageId::of(M::name()), encode(message).unwrap()).await?;
        Ok(codec::decode_body(&reply).unwrap())
    }

    pub(crate) async fn send(&mut self, message: MessageId, body: Bytes) -> Reply {
        self.host.handle(message, body).await
    }

    pub(crate) async fn stop(&mut self) {
        self.host.stop().await;
    }
}
