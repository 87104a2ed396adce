//! What one node holds for true about all nodes, at one moment.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::cluster::member::NodeInfo;
use crate::ids::{NodeBoot, NodeName};
use crate::time::Moment;

/// Whether a node is held for alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It answers.
    Alive,
    /// It did not answer, or its session ended. It counts as alive until the suspicion runs out.
    Suspected,
    /// It is held for dead, or an operator said so. It is dialled still, and is back as soon as it answers.
    Down,
    /// It said goodbye.
    Left,
}

impl State {
    /// Whether a node in this state belongs to the view.
    pub const fn is_alive(self) -> bool {
        matches!(self, Self::Alive | Self::Suspected)
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Alive => "alive",
            Self::Suspected => "suspected",
            Self::Down => "down",
            Self::Left => "left",
        })
    }
}

/// How a state was learned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// From the node itself.
    Itself,
    /// Another node told.
    Gossip,
    /// Probes stayed without an answer.
    Probe,
    /// The session with it ended.
    Session,
    /// A person, or a program for one, said so on this node.
    Operator,
}

/// One node, as another sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// What the node says of itself.
    pub info: Arc<NodeInfo>,
    /// Whether it is held for alive.
    pub state: State,
    /// When that was learned, on the seeing node's clock.
    pub since: Moment,
    /// How that was learned.
    pub source: Source,
}

impl Seen {
    /// The node's name.
    pub fn name(&self) -> &NodeName {
        self.info.name()
    }

    /// Which run of which node.
    pub fn id(&self) -> &NodeBoot {
        &self.info.id
    }
}

/// All nodes that one node knows, sorted by name. The node itself is always among those alive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// Whose view this is.
    pub this: NodeBoot,
    /// One more for each view of this node's membership; says nothing about another node's.
    pub number: u64,
    /// The nodes known, those that are down included, sorted and unique by name.
    pub nodes: Vec<Seen>,
    /// A newer run of this very node, if one was seen: two processes have this one's name, and this is the
    /// older one.
    pub superseded_by: Option<NodeBoot>,
}

impl View {
    /// The view of a node that knows nobody: itself.
    pub fn alone(info: Arc<NodeInfo>, now: Moment) -> Self {
        let this = info.id.clone();
        let me = Seen { info, state: State::Alive, since: now, source: Source::Itself };
        Self { this, number: 0, nodes: vec![me], superseded_by: None }
    }

    /// The nodes held for alive, sorted by name. Never empty: the node itself is among them.
    pub fn alive(&self) -> impl Iterator<Item = &Seen> {
        self.nodes.iter().filter(|seen| seen.state.is_alive())
    }

    /// The names of the nodes held for alive, sorted. Never empty.
    pub fn live_nodes(&self) -> Vec<NodeName> {
        self.alive().map(|seen| seen.name().clone()).collect()
    }

    /// What is known about a node.
    pub fn node(&self, name: &NodeName) -> Option<&Seen> {
        let at = self.nodes.binary_search_by(|seen| seen.name().cmp(name)).ok()?;
        self.nodes.get(at)
    }

    /// Whether this very run of this node is held for alive.
    pub fn is_alive(&self, id: &NodeBoot) -> bool {
        self.node(&id.node).is_some_and(|seen| seen.id() == id && seen.state.is_alive())
    }
}
