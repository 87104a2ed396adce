//! What is asked of a directory's primary, and what it answers.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::names::claim::{ClaimNumber, Holder, Reason, Spec};
use crate::names::directory::Refused;
use crate::names::name::Name;
use crate::time::UnixMillis;

/// What comes from another side of the cluster: who holds a name there, or a child that runs.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Brought {
    /// Which name.
    pub name: Name,
    /// Who holds it, or runs it.
    pub holder: Holder,
    /// What it says of itself.
    pub value: Bytes,
    /// What runs, of a child.
    pub spec: Option<Arc<Spec>>,
    /// Since when it holds the name.
    pub since: UnixMillis,
}

/// What somebody wants to be changed in a directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// An actor claims a name. Asked twice it is the same as once.
    Claim {
        /// Which name.
        name: Name,
        /// Who.
        holder: Holder,
        /// What it says of itself.
        value: Bytes,
    },
    /// An actor gives its name back, or is gone. Nothing to do where it does not hold it.
    Release {
        /// Which name.
        name: Name,
        /// Whose.
        holder: Holder,
        /// Why.
        reason: Reason,
    },
    /// A holder says something else of itself.
    Update {
        /// Which name.
        name: Name,
        /// Whose.
        holder: Holder,
        /// What it says now.
        value: Bytes,
    },
    /// A child is to run under a name. Asked twice with the same specification it is the same as once.
    Start {
        /// Under which name.
        name: Name,
        /// What is to run.
        spec: Arc<Spec>,
        /// What is to be said of it.
        value: Bytes,
    },
    /// A child is to end, for good.
    Terminate {
        /// Which.
        name: Name,
    },
    /// A child is to run on another node than it does.
    Move {
        /// Which.
        name: Name,
    },
    /// A node comes from another side of the cluster, with somebody who holds a name, or a child that runs. Asked twice it is
    /// the same as once.
    Bring(Brought),
    /// The same with what that side was told under a key: it is, where nothing is told there.
    BringMeta {
        /// Under which key.
        key: Name,
        /// What.
        value: Bytes,
    },
    /// The cluster is to be told something. Asked twice it is the same as once.
    PutMeta {
        /// Under which key, which is no name.
        key: Name,
        /// What.
        value: Bytes,
    },
    /// The cluster is to be told nothing more.
    RemoveMeta {
        /// Under which key.
        key: Name,
    },
}

impl Request {
    /// The name, or key, that it is about, by which the directory is found.
    pub const fn name(&self) -> &Name {
        match self {
            Self::Claim { name, .. }
            | Self::Release { name, .. }
            | Self::Update { name, .. }
            | Self::Start { name, .. }
            | Self::Terminate { name }
            | Self::Move { name }
            | Self::Bring(Brought { name, .. })
            | Self::BringMeta { key: name, .. }
            | Self::PutMeta { key: name, .. }
            | Self::RemoveMeta { key: name } => name,
        }
    }
}

/// What stands under the name, or key, after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// By which number. `None`: nothing stands there.
    pub number: Option<ClaimNumber>,
}

/// What a directory answers.
pub type Answered = Result<Done, Refused>;
