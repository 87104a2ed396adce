//! What two nodes tell each other before they become peers, and why one may refuse the other.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::cluster::lease;
use crate::cluster::member::NodeInfo;
use crate::cluster::sides::Consistency;
use crate::cluster::snapshot::{GroupSpec, Mode};
use crate::ids::{ClusterId, ClusterName, Generation, Kind, NodeName, Version};
use crate::time::UnixMillis;

/// The first words of each side of a new connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Greeting {
    /// The newest protocol version that the speaker knows.
    pub protocol: u16,
    /// The name that the speaker's cluster was configured with.
    pub cluster: ClusterName,
    /// The cluster that the speaker belongs to, once it belongs to one.
    pub belongs: Option<Belonging>,
    /// Who speaks.
    pub info: NodeInfo,
    /// What the speaker holds to be agreed on about each group; empty where it takes what the others have.
    pub groups: Vec<(crate::ids::GroupId, GroupSpec)>,
    /// The kinds of replicated worker that the speaker hosts, each with what an acknowledgement of its promises; `None`:
    /// what the cluster's do.
    pub modes: Vec<(Kind, Option<Mode>)>,
    /// How long leases last with the speaker: a new leader waits out what any other may have granted.
    pub lease: lease::Config,
    /// What goes first with the speaker where nodes cannot reach each other.
    pub consistency: Consistency,
}

/// A founded cluster, as one of its nodes tells of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Belonging {
    /// The cluster's random identity.
    pub id: ClusterId,
    /// When it was founded.
    pub founded_at: UnixMillis,
    /// In which generation: a side that founded itself anew has the next one.
    pub generation: Generation,
    /// The newest plan that the speaker knows.
    pub version: Version,
    /// How many members that plan has.
    pub members: u32,
    /// Whether the speaker has served nobody for long, cut off from those who could let it.
    pub stranded: bool,
    /// Whether somebody may rely on it: the speaker acknowledged a write in it, or cannot tell whether anybody did, for it did
    /// not found the cluster or was not alone in it. Names and children do not count: whoever holds them is on the speaker,
    /// and claims them anew where that joins another.
    pub acknowledged: bool,
}

/// What becomes of two nodes that belong, or do not belong, to clusters of one name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meeting {
    /// They belong together, or one of them to none yet.
    Together,
    /// This node drops its own cluster, which nobody relied on, and joins the other's.
    Yield,
    /// The other node does.
    TheyYield,
    /// Both clusters were relied on: neither can be dropped.
    Conflict,
}

impl Belonging {
    /// Whether this is a cluster of one node on which nobody relied yet.
    const fn is_lone(&self) -> bool {
        self.members <= 1 && !self.acknowledged
    }

    /// What becomes of a node that belongs to `self` when it meets one that belongs to `theirs`. Both come to the
    /// same answer: the elder of two lone clusters stays, by founding time and then by id.
    pub fn meet(&self, theirs: &Self) -> Meeting {
        match (self.is_lone(), theirs.is_lone()) {
            _ if self.id == theirs.id => Meeting::Together,
            (true, true) if (self.founded_at, self.id) < (theirs.founded_at, theirs.id) => Meeting::TheyYield,
            (true, _) => Meeting::Yield,
            (false, true) => Meeting::TheyYield,
            (false, false) => Meeting::Conflict,
        }
    }
}

/// Why a node does not take another as its peer. Nothing changed on either side.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// The two builds cannot talk.
    #[error("protocol {theirs} is not spoken here (this node speaks {ours}): upgrade one of the two")]
    Protocol {
        /// The refusing node's version.
        ours: u16,
        /// The refused node's version.
        theirs: u16,
    },
    /// The caller does not know the cookie.
    #[error("wrong cookie: both nodes need the same --cookie-file")]
    Cookie,
    /// The nodes are configured for different clusters.
    #[error("this node belongs to cluster {ours}, not {theirs}: check --cluster and the join addresses")]
    Cluster {
        /// The refusing node's cluster.
        ours: ClusterName,
        /// The refused node's cluster.
        theirs: ClusterName,
    },
    /// The nodes' configurations differ where they must agree.
    #[error("configured differently: {}", Divergence::list(.0))]
    Spec(Vec<Divergence>),
    /// A living node has this name.
    #[error("a living node is named {0} already: choose another --name")]
    NameTaken(NodeName),
    /// A node called itself.
    #[error("this is the caller's own address")]
    Itself,
    /// Two clusters of one name met, and somebody may rely on either.
    #[error(
        "two clusters are named {name}: {ours} here and {theirs} there, and somebody may rely on either; stop one and start its nodes anew with --join"
    )]
    TwoClusters {
        /// The name of both.
        name: ClusterName,
        /// The refusing node's.
        ours: ClusterId,
        /// The refused node's.
        theirs: ClusterId,
    },
    /// The node is shutting down.
    #[error("this node is shutting down: try another")]
    Stopping,
    /// Too many connections wait to be known.
    #[error("too many connections wait to be accepted: try again")]
    Busy,
}

/// One setting in which two nodes differ.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Divergence {
    /// The setting's name.
    pub setting: String,
    /// What the refusing node has.
    pub ours: String,
    /// What the refused node has.
    pub theirs: String,
}

impl Divergence {
    fn list(all: &[Self]) -> String {
        all.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
    }
}

impl fmt::Display for Divergence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is {} here and {} there", self.setting, self.ours, self.theirs)
    }
}

impl Greeting {
    /// Whether the node that speaks `self` may be a peer of the node that spoke `theirs`.
    ///
    /// Two clusters of one name may talk where one of them can yield: which does is decided once they know each other. Where
    /// availability goes first one always can.
    pub fn judge(&self, theirs: &Self) -> Result<(), Refusal> {
        if self.protocol != theirs.protocol {
            return Err(Refusal::Protocol { ours: self.protocol, theirs: theirs.protocol });
        }
        if self.cluster != theirs.cluster {
            return Err(Refusal::Cluster { ours: self.cluster.clone(), theirs: theirs.cluster.clone() });
        }
        if self.info.id == theirs.info.id {
            return Err(Refusal::Itself);
        }
        if self.info.name() == theirs.info.name() {
            return Err(Refusal::NameTaken(self.info.name().clone()));
        }
        match self.divergences(theirs) {
            none if none.is_empty() => {}
            some => return Err(Refusal::Spec(some)),
        }
        match (&self.belongs, &theirs.belongs) {
            (Some(ours), Some(others))
                if !self.consistency.is_available() && ours.meet(others) == Meeting::Conflict =>
            {
                Err(Refusal::TwoClusters { name: self.cluster.clone(), ours: ours.id, theirs: others.id })
            }
            _ => Ok(()),
        }
    }

    fn divergences(&self, theirs: &Self) -> Vec<Divergence> {
        let mut found = Vec::new();
        let mut compare = |setting: &str, ours: String, theirs: String| {
            if ours != theirs {
                found.push(Divergence { setting: setting.to_owned(), ours, theirs });
            }
        };
        compare("consistency", self.consistency.to_string(), theirs.consistency.to_string());
        compare("lease length", format!("{:?}", self.lease.length), format!("{:?}", theirs.lease.length));
        compare("lease drift", self.lease.drift_ppm.to_string(), theirs.lease.drift_ppm.to_string());
        for (id, a) in &self.groups {
            let Some((_, b)) = theirs.groups.iter().find(|(other, _)| other == id) else { continue };
            compare("partitions", a.partitions.to_string(), b.partitions.to_string());
            compare("replication", a.replication.to_string(), b.replication.to_string());
            compare("strategy", a.strategy.clone(), b.strategy.clone());
            compare("mode", a.mode.to_string(), b.mode.to_string());
            compare("partitioner", a.partitioner.to_string(), b.partitioner.to_string());
        }
        for (kind, ours) in &self.modes {
            let Some((_, theirs)) = theirs.modes.iter().find(|(other, _)| other == kind) else { continue };
            let shown =
                |mode: &Option<Mode>| mode.map_or_else(|| "the cluster's".into(), |mode| mode.to_string());
            compare(&format!("mode of {kind}"), shown(ours), shown(theirs));
        }
        found
    }
}

#[cfg(test)]
mod tests;
