//! What the voters agree on, and the commands that change it.
//!
//! ```text
//!             Found                  Publish v1            Publish v2
//! nothing ─────────────▶ founded ─────────────▶ plan 1 ─────────────▶ plan 2 ─ ·· ─▶
//!                           │ Found                 │ Publish based on 0
//!                           └─▶ AlreadyFounded      │ └─▶ Conflict { version: 1 }
//!                                                   └ Step: which copies count ─▶ plan 1, the next revision
//!                                                     AcceptLoss: a lost partition goes on with what is left ─▶ plan 2
//! ```
//!
//! Every voter applies the same commands in the same order and gets the same state: nothing here looks at
//! anything but the state and the command. A command that is refused changes nothing, and is answered with why.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::cluster::configuration::{self, Configuration, Written};
use crate::cluster::outline::Outline;
use crate::cluster::snapshot::{self, GroupPlan, GroupSpec, Snapshot};
use crate::ids::{ClusterId, ClusterName, Epoch, Generation, GroupId, PartitionId, Revision, Version};
use crate::partitions::record::{self, Change, CopyId};
use crate::time::UnixMillis;

/// What the voters agree on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControlState {
    /// How the cluster began. `None`: nobody founded it yet.
    pub founding: Option<Founding>,
    /// The plan in force. `None`: none was published yet.
    pub snapshot: Option<Arc<Snapshot>>,
    /// The cluster's own configuration.
    pub configuration: Arc<Configuration>,
}

/// How a cluster began: said once, by whoever founds it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Founding {
    /// The cluster's random identity.
    pub id: ClusterId,
    /// The name that its nodes are configured with.
    pub name: ClusterName,
    /// When it was founded.
    pub founded_at: UnixMillis,
    /// Raised when an operator forces the cluster on without a quorum.
    pub generation: Generation,
    /// What all agree on about each group, sorted by group; the users' group is always there.
    pub groups: Vec<(GroupId, GroupSpec)>,
}

/// A change that somebody wants the voters to agree on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Found the cluster. Answered by [`Outcome::Founded`], or [`Outcome::AlreadyFounded`] with the one that is.
    Found(Founding),
    /// Put a plan in force, if the version in force is still `based_on`. Answered by
    /// [`Outcome::Published`], or by [`Outcome::Conflict`] or [`Outcome::Invalid`], and then nothing changed.
    Publish {
        /// The version in force when the snapshot was computed; [`Version::ZERO`] before the first.
        based_on: Version,
        /// The plan to put in force. Its version is the one after `based_on`; which copies count stays as it is.
        outline: Outline,
    },
    /// Change which copies of some partitions count, inside the plan in force. Each is judged by itself. Answered by
    /// [`Outcome::Stepped`].
    Step(Vec<Step>),
    /// By an operator's word a lost partition goes on with what is left of it: put the plan in force, if the version in
    /// force is still `based_on`. Answered as [`Command::Publish`].
    AcceptLoss {
        /// The version in force when the snapshot was computed.
        based_on: Version,
        /// The plan to put in force: the partition has its next epoch there, and of it the survivors count, and nobody else.
        outline: Outline,
        /// Which partition is lost.
        partition: PartitionId,
        /// The copies that it goes on with, sorted. None: it begins anew, empty.
        survivors: Vec<CopyId>,
    },
    /// Change the cluster's own configuration. Answered by [`Outcome::Configured`].
    Configure(configuration::Write),
    /// Begin with this piece of another cluster's configuration: for whoever founds a cluster that goes on for that one,
    /// before it does. Answered by [`Outcome::Inherited`], or by [`Outcome::AlreadyFounded`] or [`Outcome::Invalid`], and
    /// then nothing changed.
    Inherit(configuration::Inherited),
}

/// One change of which copies of a partition count: asked for by its epoch's primary.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Step {
    /// Which partition.
    pub partition: PartitionId,
    /// The epoch in force when it was asked for.
    pub epoch: Epoch,
    /// The revision in force when it was asked for.
    pub revision: Revision,
    /// What is to change.
    pub change: Change,
}

/// What became of a [`Command`], the same on every voter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// There was nothing to decide: an entry of the log that carries no command.
    Nothing,
    /// The cluster is founded.
    Founded,
    /// The cluster was founded before. Nothing changed.
    AlreadyFounded {
        /// The cluster that is. The same as the command's, if the command was sent twice.
        id: ClusterId,
    },
    /// The plan is in force.
    Published {
        /// Its version.
        version: Version,
    },
    /// Those steps were taken that fitted; the others changed nothing. In the order in which they were given.
    Stepped(Vec<Result<(), StepRefused>>),
    /// Another plan came first. Nothing changed; compute anew from the one in force.
    Conflict {
        /// The version in force.
        version: Version,
    },
    /// The command makes no sense here, and never will. Nothing changed.
    Invalid(Invalid),
    /// The write was carried out, or it says why not, and then nothing changed.
    Configured(Result<Written, configuration::Refused>),
    /// The piece is taken.
    Inherited,
}

/// Why a command was refused for good.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum Invalid {
    /// A plan and a configuration need a founded cluster.
    #[error("the cluster is not founded yet: found it first")]
    NotFounded,
    /// The founding's groups are not as they must be.
    #[error(
        "the founding's groups are not sorted and unique, have no partitions or copies, or lack the users' group"
    )]
    Groups,
    /// The plan is broken in itself, or does not continue the one in force.
    #[error("the plan is refused: {0}")]
    Snapshot(#[from] snapshot::Invalid),
    /// The plan belongs to another cluster, or differs from what was agreed on at the founding.
    #[error("the plan does not fit the founding: {0} differs")]
    Unfit(String),
    /// What the cluster was to begin with is more than its configuration may hold.
    #[error("what the cluster is to begin with is larger than its configuration may be")]
    Inherited,
}

/// Why a step was not taken. Nothing changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum StepRefused {
    /// The plan in force has no such partition.
    #[error("no plan has {0}")]
    NoPartition(PartitionId),
    /// Another primary's epoch, or another step, came first.
    #[error("epoch {epoch} revision {revision} is in force")]
    Outdated {
        /// The epoch in force.
        epoch: Epoch,
        /// The revision in force.
        revision: Revision,
    },
    /// It makes no sense here.
    #[error(transparent)]
    Illegal(#[from] record::Illegal),
}

impl ControlState {
    /// The version in force; [`Version::ZERO`] if none was published yet.
    pub fn version(&self) -> Version {
        self.snapshot.as_ref().map_or(Version::ZERO, |snapshot| snapshot.version)
    }

    /// Carries out one agreed command. Every voter calls it with the same commands in the same order.
    pub fn apply(&mut self, command: &Command) -> Outcome {
        match command {
            Command::Found(founding) => self.apply_found(founding),
            Command::Publish { based_on, outline } => self.apply_publish(*based_on, outline, None),
            Command::Step(steps) => self.apply_steps(steps),
            Command::AcceptLoss { based_on, outline, partition, survivors } => {
                self.apply_publish(*based_on, outline, Some((*partition, survivors)))
            }
            Command::Configure(_) if self.founding.is_none() => Outcome::Invalid(Invalid::NotFounded),
            Command::Configure(write) => {
                Outcome::Configured(Arc::make_mut(&mut self.configuration).write(write))
            }
            Command::Inherit(piece) => self.apply_inherit(piece),
        }
    }

    fn apply_inherit(&mut self, piece: &configuration::Inherited) -> Outcome {
        if let Some(first) = &self.founding {
            return Outcome::AlreadyFounded { id: first.id };
        }
        match Arc::make_mut(&mut self.configuration).inherit(piece) {
            true => Outcome::Inherited,
            false => Outcome::Invalid(Invalid::Inherited),
        }
    }

    fn apply_found(&mut self, founding: &Founding) -> Outcome {
        if let Some(first) = &self.founding {
            return Outcome::AlreadyFounded { id: first.id };
        }
        if let Err(why) = founding.validate() {
            return Outcome::Invalid(why);
        }
        self.founding = Some(founding.clone());
        Outcome::Founded
    }

    fn apply_publish(
        &mut self,
        based_on: Version,
        outline: &Outline,
        loss: Option<(PartitionId, &[CopyId])>,
    ) -> Outcome {
        let (version, previous) = (self.version(), self.snapshot.as_deref());
        // Steps that were taken since it was computed changed who counts: the same plan can be made again.
        if based_on != version || previous.is_some_and(|previous| previous.steps != outline.steps()) {
            return Outcome::Conflict { version };
        }
        let judged = match (previous, loss) {
            (Some(previous), Some((partition, survivors))) => {
                self.judge_loss(outline, previous, partition, survivors)
            }
            (None, Some((partition, _))) => Err(snapshot::Invalid::Members { partition }.into()),
            (previous, None) => self.judge(outline.completed(previous)),
        };
        match judged {
            Ok(snapshot) => {
                let version = snapshot.version;
                self.snapshot = Some(Arc::new(snapshot));
                Outcome::Published { version }
            }
            Err(why) => Outcome::Invalid(why),
        }
    }

    fn apply_steps(&mut self, steps: &[Step]) -> Outcome {
        let Some(plan) = &self.snapshot else {
            let refused = |step: &Step| Err(StepRefused::NoPartition(step.partition));
            return Outcome::Stepped(steps.iter().map(refused).collect());
        };
        let mut next = Snapshot::clone(plan);
        let outcomes: Vec<_> = steps.iter().map(|step| take(&mut next, step)).collect();
        if outcomes.iter().any(Result::is_ok) {
            next.steps += 1;
            self.snapshot = Some(Arc::new(next.sealed()));
        }
        Outcome::Stepped(outcomes)
    }

    /// The plan, if it may be the next one.
    fn judge(&self, snapshot: Snapshot) -> Result<Snapshot, Invalid> {
        let founding = self.founding.as_ref().ok_or(Invalid::NotFounded)?;
        snapshot.validate()?;
        founding.judge(&snapshot)?;
        match &self.snapshot {
            Some(previous) => snapshot.validate_after(previous)?,
            None => founding.judge_first(&snapshot)?,
        }
        Ok(snapshot)
    }

    /// The plan, if it may be the next one with this partition's loss accepted: it follows the one in force as if of the
    /// partition only the survivors had ever counted, and gives it another epoch.
    fn judge_loss(
        &self,
        outline: &Outline,
        previous: &Snapshot,
        partition: PartitionId,
        survivors: &[CopyId],
    ) -> Result<Snapshot, Invalid> {
        let founding = self.founding.as_ref().ok_or(Invalid::NotFounded)?;
        let given_up = previous.with_loss_accepted(partition, survivors)?;
        let snapshot = outline.completed(Some(&given_up));
        snapshot.validate()?;
        founding.judge(&snapshot)?;
        if snapshot.epoch_of(partition) == given_up.epoch_of(partition) {
            return Err(snapshot::Invalid::Members { partition }.into());
        }
        snapshot.validate_after(&given_up)?;
        Ok(snapshot)
    }
}

/// Takes one step, if it fits.
fn take(plan: &mut Snapshot, step: &Step) -> Result<(), StepRefused> {
    let assignment = plan.assignment_mut(step.partition).ok_or(StepRefused::NoPartition(step.partition))?;
    let (epoch, revision) = (assignment.epoch, assignment.revision);
    if (step.epoch, step.revision) != (epoch, revision) {
        return Err(StepRefused::Outdated { epoch, revision });
    }
    let next = assignment.record().changed(&step.change)?;
    assignment.revision = next.revision;
    assignment.members = next.members;
    assignment.high = next.high;
    Ok(())
}

impl Founding {
    /// Whether the founding is whole in itself.
    pub fn validate(&self) -> Result<(), Invalid> {
        let sorted = self.groups.windows(2).all(|pair| pair[0].0 < pair[1].0);
        let users = self.groups.iter().any(|(id, _)| *id == GroupId::Users);
        let sized = self.groups.iter().all(|(_, spec)| spec.partitions > 0 && spec.replication > 0);
        if sorted && users && sized { Ok(()) } else { Err(Invalid::Groups) }
    }

    /// Whether `snapshot` is a plan of this cluster.
    fn judge(&self, snapshot: &Snapshot) -> Result<(), Invalid> {
        let unfit = |what: &str| Err(Invalid::Unfit(what.to_owned()));
        if snapshot.cluster != self.id {
            return unfit("the cluster's id");
        }
        if snapshot.name != self.name {
            return unfit("the cluster's name");
        }
        if snapshot.generation != self.generation {
            return unfit("the generation");
        }
        Ok(())
    }

    /// Whether `snapshot` may be the first plan: it has the groups agreed on, and everything begins.
    fn judge_first(&self, snapshot: &Snapshot) -> Result<(), Invalid> {
        let unfit = |what: &str| Err(Invalid::Unfit(what.to_owned()));
        if snapshot.order() != (Version::ZERO.next(), 0) {
            return unfit("the first version");
        }
        let agreed =
            |(plan, (id, spec)): (&GroupPlan, &(GroupId, GroupSpec))| plan.id == *id && plan.spec == *spec;
        let counted = snapshot.groups.len() == self.groups.len();
        if !counted || !snapshot.groups.iter().zip(&self.groups).all(agreed) {
            return unfit("a group's specification");
        }
        for (partition, assignment) in snapshot.partitions() {
            let served = !assignment.copies.is_empty();
            if assignment.epoch != (if served { Epoch::ZERO.next() } else { Epoch::ZERO }) {
                return unfit(&format!("the first epoch of {partition}"));
            }
            if !assignment.members.is_empty() || assignment.high != 0 {
                return unfit(&format!("that nothing of {partition} counts yet"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
