//! What others see of consensus, and what they are told when it does not do what they want.

use std::collections::BTreeMap;
use std::sync::Arc;

use tumen_core::cluster::control::ControlState;
use tumen_core::cluster::voters::Voters;
use tumen_core::ids::{Life, NodeName, Term};
use tumen_core::time::Moment;

use super::exchange::Refusal;
use super::types::LogId;

/// Who leads, as this voter knows it. A voter that is cut off goes on believing what it knew last: act on an [`Ack`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leadership {
    /// The node that leads. `None`: unknown, or this node is no voter.
    pub leader: Option<NodeName>,
    /// The term that it leads, or that an election is held for.
    pub term: Term,
    /// Whether this node leads. It may have been replaced and not know it yet.
    pub i_lead: bool,
    /// Whether this node leads and has applied its own term's first entry: all that was agreed on before is in its state.
    pub first_entry_applied: bool,
    /// Whether this node leads and is handing over: it commits nothing more.
    pub yielding: bool,
}

/// The last moment at which a majority surely held this node for their leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ack {
    /// By this node's clock, taken before the majority was asked.
    pub at: Moment,
    /// In which term.
    pub term: Term,
}

/// The control state as far as this node applied it.
#[derive(Clone, Debug, Default)]
pub struct Applied {
    /// The state. It never goes back while the process runs.
    pub state: Arc<ControlState>,
    pub(super) last: Option<LogId>,
}

impl Applied {
    /// How many entries of the log it took.
    pub fn index(&self) -> u64 {
        self.last.map_or(0, |last| last.index + 1)
    }
}

/// Figures for people and for whoever plans voters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metrics {
    /// Whether this node takes part at all.
    pub running: bool,
    /// The term.
    pub term: Term,
    /// The last entry of the log.
    pub last_log_index: Option<u64>,
    /// The last entry that the state took.
    pub last_applied: Option<u64>,
    /// The last entry that the snapshot has.
    pub snapshot: Option<u64>,
    /// Who votes; in the midst of a change, who is to vote after it.
    pub voters: Voters,
    /// Whether a change of voters is under way.
    pub joint: bool,
    /// On the leader: the last entry that each other voter and learner is known to have.
    pub replication: BTreeMap<Life, Option<u64>>,
    /// How many leaders this node has seen come, itself among them.
    pub elections: u64,
    /// How often this node stood for election.
    pub candidacies: u64,
    /// Why consensus gave up on this node, if it did: its store failed.
    pub failure: Option<String>,
}

/// Why nothing was agreed on, as far as is known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommitError {
    /// Another node leads, or nobody does. Nothing changed. Ask `hint`, or wait for a leader.
    #[error("this node does not lead{}", hint.as_ref().map(|node| format!(": ask {node}")).unwrap_or_default())]
    NotLeader {
        /// The node that leads, or will.
        hint: Option<NodeName>,
    },
    /// The deadline passed.
    #[error("no majority answered in time; {}", if *maybe_applied { "it may yet be agreed on" } else { "nothing changed" })]
    Timeout {
        /// Whether it may have happened, or happen yet. Look at the state, once there is a leader.
        maybe_applied: bool,
    },
    /// The command is too large. Nothing changed.
    #[error("a command of {len} bytes, at most {max} are taken")]
    TooLong {
        /// Its size.
        len: usize,
        /// The most that is taken.
        max: usize,
    },
    /// A node that is to vote cannot yet. The voters are as they were.
    #[error("{node} is not ready to vote: {why}")]
    NotReady {
        /// The node.
        node: NodeName,
        /// What it said.
        why: NotReady,
    },
    /// These voters are none: there must be one, three, five and so on. Nothing changed.
    #[error("{0} voters: it must be an odd number")]
    Even(usize),
    /// Consensus stopped on this node.
    #[error("consensus stopped on this node; {}", if *maybe_applied { "it may yet be agreed on" } else { "nothing changed" })]
    Stopped {
        /// Whether it may have happened, or happen yet.
        maybe_applied: bool,
    },
}

/// Why a node cannot vote yet.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotReady {
    /// It could not be asked, or did not answer.
    #[error("it does not answer")]
    Silent,
    /// It refused.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// It did not catch up within the deadline.
    #[error("it did not catch up in time")]
    Behind,
    /// It is no voter, so it cannot lead.
    #[error("it is no voter")]
    NoVoter,
}
