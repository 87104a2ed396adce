//! What is otherwise than it was at the look before.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Assessment, NodeHealth, Reason, Status};
use crate::ids::NodeName;

/// Something is better or worse than before. Numbers that change are no change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// Of the whole cluster.
    Cluster {
        /// How it was; `None` at the first look.
        from: Option<Status>,
        /// How it is.
        to: Status,
        /// Reasons that count from now on.
        raised: Vec<Reason>,
        /// Reasons that count no more, as they were last.
        cleared: Vec<Reason>,
    },
    /// Of one member.
    Node {
        /// Which.
        node: NodeName,
        /// How it was.
        from: Status,
        /// How it is; `None`: it is no member any more.
        to: Option<Status>,
        /// Why.
        reasons: Vec<Reason>,
    },
}

impl Change {
    /// How bad it is now.
    pub fn status(&self) -> Status {
        match self {
            Self::Cluster { to, .. } => *to,
            Self::Node { to, .. } => to.unwrap_or_default(),
        }
    }
}

impl fmt::Display for Change {
    /// One line for people.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |f: &mut fmt::Formatter<'_>, before: &str, reasons: &[Reason]| {
            for (at, reason) in reasons.iter().enumerate() {
                write!(f, "{}{reason}", if at == 0 { before } else { "; " })?;
            }
            Ok(())
        };
        match self {
            Self::Cluster { from, to, raised, cleared } => {
                match from {
                    Some(from) if from != to => write!(f, "the cluster is {to}, it was {from}")?,
                    _ => write!(f, "the cluster is {to}")?,
                }
                list(f, ": ", raised)?;
                list(f, "; no more: ", cleared)
            }
            Self::Node { node, from, to: Some(to), reasons } => {
                write!(f, "{node} is {to}, it was {from}")?;
                list(f, ": ", reasons)
            }
            Self::Node { node, from, to: None, .. } => {
                write!(f, "{node} is no member any more, it was {from}")
            }
        }
    }
}

/// What changed from one look to the next.
pub(super) fn between(before: Option<&Assessment>, after: &Assessment) -> Vec<Change> {
    let mut changes: Vec<Change> = before.map(|before| nodes(before, after)).unwrap_or_default();
    let of = |assessment: &Assessment| {
        assessment
            .reasons
            .iter()
            .map(|reason| (reason.code(), reason.node().cloned()))
            .collect::<BTreeSet<_>>()
    };
    let none = Assessment::default();
    let (was, is) = (of(before.unwrap_or(&none)), of(after));
    let key = |reason: &Reason| (reason.code(), reason.node().cloned());
    let without = |reasons: &[Reason], known: &BTreeSet<_>| -> Vec<Reason> {
        reasons.iter().filter(|reason| !known.contains(&key(reason))).cloned().collect()
    };
    let raised = without(&after.reasons, &was);
    let cleared = without(&before.unwrap_or(&none).reasons, &is);
    let from = before.map(|before| before.status);
    if from != Some(after.status) || !raised.is_empty() || !cleared.is_empty() {
        changes.push(Change::Cluster { from, to: after.status, raised, cleared });
    }
    changes
}

/// Members that are better or worse than before, and those that are gone. One that comes is news of the plan's.
fn nodes(before: &Assessment, after: &Assessment) -> Vec<Change> {
    let now = |name: &NodeName| {
        let at = after.nodes.binary_search_by(|node| node.id.node.cmp(name));
        at.ok().map(|at| &after.nodes[at])
    };
    let change = |was: &NodeHealth| {
        let (node, from) = (was.id.node.clone(), was.status);
        match now(&node) {
            Some(is) if is.status == from => None,
            Some(is) => Some(Change::Node { node, from, to: Some(is.status), reasons: is.reasons.clone() }),
            None if from == Status::Healthy => None,
            None => Some(Change::Node { node, from, to: None, reasons: Vec::new() }),
        }
    };
    before.nodes.iter().filter_map(change).collect()
}
