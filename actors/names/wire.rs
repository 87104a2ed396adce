//! What travels between directories and the nodes that run their children, and to an actor by its number.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};
use tumen_core::ids::{Boot, ClusterId, Kind, NodeBoot, PartitionId};
use tumen_core::names::crew::{Answer, Frame};
use tumen_core::partitions::request::MessageId;

/// What stands before a kind of child among a node's services.
const CHILD: &str = "child:";

/// How a node says that it has a factory for this kind of child.
pub(crate) fn child_service(kind: &Kind) -> String {
    format!("{CHILD}{kind}")
}

/// The kind of child that a service is.
pub(super) fn child_kind(service: &str) -> Option<Kind> {
    Kind::new(service.strip_prefix(CHILD)?).ok()
}

/// Between a directory's primary and a node.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Supervision {
    /// The primary tells this run of a node what to run.
    Orders {
        /// Of which cluster.
        cluster: ClusterId,
        /// Which run: a later one is not told what was meant for this one.
        to: NodeBoot,
        /// What.
        frame: Frame,
    },
    /// A node says what became of it, to each directory its own.
    Answers {
        /// Of which cluster they are.
        cluster: ClusterId,
        /// What is said.
        said: Vec<(PartitionId, Vec<Answer>)>,
    },
}

/// To which actor a message goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ActorHeader {
    /// On which run of the node.
    pub(super) boot: Boot,
    /// Its number there.
    pub(super) actor: u64,
    /// The message's type.
    pub(super) message: MessageId,
}

impl ActorHeader {
    pub(super) fn encode(&self, into: &mut BytesMut) {
        into.put_u64_le(self.boot.0);
        into.put_u64_le(self.actor);
        into.put_u64_le(self.message.0);
    }

    pub(super) fn decode(bytes: &mut Bytes) -> Option<Self> {
        let boot = Boot(bytes.try_get_u64_le().ok()?);
        let actor = bytes.try_get_u64_le().ok()?;
        Some(Self { boot, actor, message: MessageId(bytes.try_get_u64_le().ok()?) })
    }
}
