//! What openraft is told to work with: our commands, our lives, our seats.

use std::io::Cursor;
use std::sync::Arc;

use openraft::EntryPayload;
use serde::{Deserialize, Serialize};
use tumen_core::cluster::control::{Command, Outcome};
use tumen_core::cluster::voters::Voters;
use tumen_core::ids::{Life, NodeName};

openraft::declare_raft_types!(
    /// A voter's id is the life of its store, so that bytes that were lost never vote again.
    pub(crate) TypeConfig:
        D = Proposal,
        R = Outcome,
        NodeId = u64,
        Node = Seat,
        Entry = openraft::Entry<TypeConfig>,
        SnapshotData = Cursor<Vec<u8>>,
        AsyncRuntime = openraft::TokioRuntime,
);

pub(crate) type Raft = openraft::Raft<TypeConfig>;
pub(crate) type Entry = openraft::Entry<TypeConfig>;
pub(crate) type LogId = openraft::LogId<u64>;
pub(crate) type Vote = openraft::Vote<u64>;
pub(crate) type StorageError = openraft::StorageError<u64>;
pub(crate) type StoredMembership = openraft::StoredMembership<u64, Seat>;
pub(crate) type Membership = openraft::Membership<u64, Seat>;
pub(crate) type RaftMetrics = openraft::RaftMetrics<u64, Seat>;

/// A command on its way to being agreed on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Proposal {
    /// Which call proposed it: that call learns by it whether the command ever reached the log.
    pub(crate) id: u64,
    /// What is to be agreed on.
    pub(crate) command: Arc<Command>,
}

/// A voter's seat: which node's store has the life that votes. openraft wants an empty one to exist.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seat {
    /// The node. `None` only where openraft made the seat up.
    pub node: Option<NodeName>,
}

impl Seat {
    pub(crate) const fn of(node: NodeName) -> Self {
        Self { node: Some(node) }
    }
}

/// The voters that a membership aims at: in the middle of a joint change, those it changes to.
pub(crate) fn voters_of(membership: &Membership) -> Voters {
    let aimed = membership.get_joint_config().last();
    let seat = |life: &u64| {
        let node = membership.get_node(life)?.node.clone()?;
        Some((Life(*life), node))
    };
    aimed.into_iter().flatten().filter_map(seat).collect()
}

/// What an entry of the log asks the control state to do.
pub(crate) fn command_of(entry: &Entry) -> Option<&Command> {
    match &entry.payload {
        EntryPayload::Normal(proposal) => Some(&proposal.command),
        EntryPayload::Blank | EntryPayload::Membership(_) => None,
    }
}
