//! What people ask of the leader: that partitions come into being, that they balance, that a node goes.

use serde::{Deserialize, Serialize};

use super::{Coordinator, Departure, Effect, Now};
use crate::cluster::control::Step;
use crate::ids::{NodeName, PartitionId, Term};

/// Why a request to the coordinator was not carried out. Nothing changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum AskError {
    /// Another node leads.
    #[error("this node does not lead the cluster: ask {}", .leader.as_ref().map_or("again later", |l| l.as_str()))]
    NotLeader {
        /// Who leads, if that is known.
        leader: Option<NodeName>,
    },
    /// Fewer nodes are there than `--min-nodes` wants.
    #[error("{present} of {wanted} nodes are there (--min-nodes {wanted}): {} more needed", .wanted - .present)]
    TooFewNodes {
        /// How many are there.
        present: usize,
        /// How many are wanted.
        wanted: usize,
    },
    /// There are no partitions yet.
    #[error("no partitions exist yet: create them first")]
    NoPlan,
    /// No member has this name.
    #[error("no member is named {0}")]
    NoSuchNode(NodeName),
    /// The plan has no such partition.
    #[error("no plan has {0}")]
    NoSuchPartition(PartitionId),
    /// The partition is not lost, and so nothing of it is given up.
    #[error("nothing of {partition} is given up: {why}")]
    NotLost {
        /// Which partition.
        partition: PartitionId,
        /// Why not.
        why: String,
    },
    /// No node may serve the partition.
    #[error("no node is there that could serve {0}: start one that may, and ask again")]
    Unserved(PartitionId),
    /// The node that should serve the partition did not say how it is.
    #[error(
        "{node} should serve {partition}, and did not say in time what is left of it: nothing is given up, ask again"
    )]
    Unanswered {
        /// Which partition.
        partition: PartitionId,
        /// Who was asked.
        node: NodeName,
    },
    /// The partition has another primary by now, or other copies.
    #[error("{0} has another primary by now: nothing is given up, look how it is and ask again")]
    Overtaken(PartitionId),
    /// More losses are to be accepted at once than can be.
    #[error("the loss of {0} partitions is being accepted already: ask again in a moment")]
    TooManyLosses(usize),
    /// The plan is too large to be agreed on.
    #[error(
        "the plan has {len} bytes, and at most {max} can be agreed on: fewer partitions, copies or members are needed"
    )]
    PlanTooLong {
        /// Its size.
        len: usize,
        /// The most that is taken.
        max: usize,
    },
    /// The strategy failed, or what it made was refused.
    #[error("the strategy {strategy:?} made no valid plan: {why}")]
    Strategy {
        /// The strategy's name.
        strategy: String,
        /// What is wrong.
        why: String,
    },
}

impl Coordinator {
    /// A node announced how it goes, or an operator asked that it go.
    pub fn handle_departure(
        &mut self,
        now: Now,
        node: &NodeName,
        how: Departure,
    ) -> Result<Vec<Effect>, AskError> {
        self.check_leading()?;
        let member = self.control.snapshot.as_ref().and_then(|s| s.member(node.as_str()));
        let Some(id) = member.map(|member| member.id().clone()) else {
            return Err(AskError::NoSuchNode(node.clone()));
        };
        if let Some(seen) = self.roster.current(&id) {
            seen.departure = Some(how);
        }
        self.resting_until = now.moment;
        Ok(self.decide(now))
    }

    /// Somebody asks that partitions come into being. Where they exist already this changes nothing. Also tells
    /// whether it is this question that lets them: nobody asked before, and they were not on their way.
    pub fn handle_create_asked(&mut self, now: Now) -> Result<(Vec<Effect>, bool), AskError> {
        self.check_leading()?;
        let first = self.control.snapshot.is_none() && !self.creation_asked && self.committing.is_none();
        if self.control.snapshot.is_none() {
            let present = self.present_members();
            let wanted = self.config.min_nodes;
            if present.len() < wanted {
                return Err(AskError::TooFewNodes { present: present.len(), wanted });
            }
            if let Some(founding) = self.control.founding.clone() {
                // Tried once here, so that a strategy that fails is answered and not only logged.
                self.first_snapshot(&founding, present, Term::ZERO, now.unix)?;
            }
            self.creation_asked = true;
            self.resting_until = now.moment;
        }
        Ok((self.decide(now), first))
    }

    /// Somebody asks for balance now.
    pub fn handle_rebalance_asked(&mut self, now: Now) -> Result<Vec<Effect>, AskError> {
        self.check_leading()?;
        let snapshot = self.control.snapshot.clone().ok_or(AskError::NoPlan)?;
        // Tried once here, so that a strategy that fails is answered and not only logged.
        self.balanced(&snapshot, snapshot.members.clone())?;
        self.rebalance_asked = true;
        self.resting_until = now.moment;
        Ok(self.decide(now))
    }

    /// A partition's primary asks that other copies of it count. Of two steps for one partition the later stands.
    pub fn handle_steps_asked(&mut self, now: Now, steps: Vec<Step>) -> Result<Vec<Effect>, AskError> {
        self.check_leading()?;
        self.steps.extend(steps.into_iter().map(|step| (step.partition, step)));
        Ok(self.decide(now))
    }

    pub(super) fn check_leading(&self) -> Result<(), AskError> {
        match self.leading {
            Some(_) => Ok(()),
            None => Err(AskError::NotLeader { leader: self.leader.clone() }),
        }
    }
}
