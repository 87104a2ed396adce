//! What stands under a name.
//!
//! ```text
//!  Name:   held by one actor until it ends, or its node goes
//!  Child:  Waiting ─ Ordered ─▶ Starting ─ Started ─▶ Running ─ ended, or its node went ─▶ Waiting, or gone
//!                                  └──────── Stopping ◀──┘  it is to end, or to move
//! ```

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::ids::{Kind, NodeBoot};
use crate::names::placement::Placing;
use crate::supervision::Restart;
use crate::time::UnixMillis;

/// Numbers what a directory gives out: each claim and each start of a child has one of its own, later ones larger ones.
/// An instance's number is its fence: whatever it writes to outside of the cluster can refuse a lower one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ClaimNumber(pub u64);

impl fmt::Display for ClaimNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// An actor on one run of one node: never confused with one of a later run.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Holder {
    /// Which run of which node.
    pub node: NodeBoot,
    /// Its number on that run, never given twice.
    pub actor: u64,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.node, self.actor)
    }
}

/// What is to run under a name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Spec {
    /// By which a node finds the factory that was registered for it.
    pub kind: Kind,
    /// What the factory is given.
    pub args: Bytes,
    /// Whether it is started again after it ended.
    pub restart: Restart,
    /// The most restarts within `window`, on all nodes together. One more, and it is given up. Default 5.
    pub restarts_max: u32,
    /// The window. Default 30 s.
    pub window: Duration,
    /// How a node is chosen for it.
    pub placing: Placing,
}

/// How far a child is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Stage {
    /// Nobody runs it, and nobody was told to.
    Waiting,
    /// That node is told to start it; whether it did is not known.
    Starting {
        /// Which.
        node: NodeBoot,
    },
    /// It runs there.
    Running {
        /// Where.
        holder: Holder,
    },
    /// That node is told to end it, whether it started it or not.
    Stopping {
        /// Which.
        node: NodeBoot,
        /// Whether it is to run elsewhere then; otherwise its name is free.
        moves: bool,
    },
}

impl Stage {
    /// Whoever runs it, if it runs.
    pub const fn holder(&self) -> Option<&Holder> {
        match self {
            Self::Running { holder } => Some(holder),
            Self::Waiting | Self::Starting { .. } | Self::Stopping { .. } => None,
        }
    }

    /// The node that may run it.
    pub const fn node(&self) -> Option<&NodeBoot> {
        match self {
            Self::Waiting => None,
            Self::Starting { node } | Self::Stopping { node, .. } => Some(node),
            Self::Running { holder } => Some(&holder.node),
        }
    }
}

/// A supervised child.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Child {
    /// What is to run.
    pub spec: Arc<Spec>,
    /// How far it is.
    pub stage: Stage,
    /// How often it was started after the first time.
    pub restarts: u32,
    /// What the last instance handed to the next one, as a graceful move does.
    pub handed: Bytes,
}

/// Who holds a name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Held {
    /// An actor that registered itself.
    Plain(Holder),
    /// A child that the cluster keeps running. Boxed: a table of names has many more of the others, and each takes its room.
    Child(Box<Child>),
}

/// What stands under one name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Claim {
    /// Its number: of a child, that of its newest start.
    pub number: ClaimNumber,
    /// What the holder says of itself.
    pub value: Bytes,
    /// Who holds it.
    pub held: Held,
    /// Since when, by the directory's clock, to about a tenth of a second: of a child that runs, since when this instance does.
    /// Zero where nobody keeps time: in a cluster that is one or none, and in a read table.
    pub since: UnixMillis,
}

impl Claim {
    /// Whoever answers under the name, if anybody does.
    pub const fn holder(&self) -> Option<&Holder> {
        match &self.held {
            Held::Plain(holder) => Some(holder),
            Held::Child(child) => child.stage.holder(),
        }
    }

    /// The node on which something may run under the name.
    pub const fn node(&self) -> Option<&NodeBoot> {
        match &self.held {
            Held::Plain(holder) => Some(&holder.node),
            Held::Child(child) => child.stage.node(),
        }
    }

    /// Its kind, if it is a child.
    pub fn kind(&self) -> Option<&Kind> {
        self.child().map(|child| &child.spec.kind)
    }

    /// The child, if it is one.
    pub const fn child(&self) -> Option<&Child> {
        match &self.held {
            Held::Child(child) => Some(child),
            Held::Plain(_) => None,
        }
    }
}

/// Why a name is free, or its holder another one.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// Its holder ended, or gave it back, or it was to end.
    Normal,
    /// Its holder failed.
    Crashed(String),
    /// The node that it was on is no member any more.
    NodeDown,
    /// It moves to another node.
    Moved,
    /// It could not be started.
    StartFailed(String),
    /// It failed too often within its window.
    GivenUp(String),
    /// Its own start said that it is not to run.
    Ignored,
    /// The cluster that it was claimed in was dropped for another one of the same name.
    Dropped,
    /// Its side of the cluster met another, where this holder has the name, or a child that runs nowhere at present, or nobody,
    /// for it could not be told who should.
    Conflict(Option<Holder>),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Normal => f.write_str("normal"),
            Self::Crashed(why) => write!(f, "crashed: {why}"),
            Self::NodeDown => f.write_str("node down"),
            Self::Moved => f.write_str("moved"),
            Self::StartFailed(why) => write!(f, "not started: {why}"),
            Self::GivenUp(why) => write!(f, "given up: {why}"),
            Self::Ignored => f.write_str("not to run, as its own start said"),
            Self::Dropped => f.write_str("its cluster was dropped for another of the same name"),
            Self::Conflict(Some(holder)) => {
                write!(f, "conflict: held by {holder}, of another side of the cluster")
            }
            Self::Conflict(None) => {
                f.write_str("conflict: another side of the cluster gave the name to somebody else")
            }
        }
    }
}
