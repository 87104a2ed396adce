//! What an operator gives up for lost: a partition goes on with what is left of it, and nobody else is counted.
//!
//! ```text
//!  asked ─▶ its primary: is it lost? ─ no ─▶ refused
//!                 │ yes: it gives its epoch back, and says what is left
//!                 ▼
//!           fewer than S can answer by the committed members too? ─ no ─▶ refused; it goes on under the next epoch
//!                 │ yes                                            (so it does where nothing comes of the rest)
//!                 ▼
//!           its release is known here ─▶ plan: the next epoch, the survivors count ─ majority ─▶ accepted
//! ```
//!
//! Who is left is said with the release, in one step: what comes back after that, and was acknowledged by it, cannot be
//! given up by mistake, for nothing was acknowledged under the epoch that was given back.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::{AskError, Coordinator, Effect, Leading, Now, PROPOSE_AGAIN};
use crate::cluster::asks::LossAccepted;
use crate::cluster::control::{Command, Outcome};
use crate::cluster::outline::Outline;
use crate::cluster::plan::Draft;
use crate::cluster::snapshot::Snapshot;
use crate::ids::{Epoch, NodeBoot, NodeName, PartitionId, Version};
use crate::partitions::record::CopyId;
use crate::partitions::replication::{NotLost, Standing};
use crate::time::Moment;

/// The most losses that are being accepted at once.
const LOSSES_MAX: usize = 1024;
/// How long it may take from the question to the plan.
const ACCEPT_WITHIN: Duration = Duration::from_secs(12);

/// What became of a wish that a loss be accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LossOutcome {
    /// It is in force.
    Accepted(LossAccepted),
    /// Nothing was given up.
    Refused(AskError),
    /// It was proposed, and nobody knows what came of it.
    Unknown,
}

/// Losses on their way.
#[derive(Debug, Default)]
pub(super) struct Losses {
    asked: BTreeMap<PartitionId, Loss>,
    /// The one that was proposed.
    proposed: Option<(PartitionId, Version)>,
    finished: Vec<(PartitionId, LossOutcome)>,
}

#[derive(Debug)]
struct Loss {
    from: NodeBoot,
    epoch: Epoch,
    until: Moment,
    /// The copies that count.
    members: Vec<CopyId>,
    /// What is left, once the primary said so.
    standing: Option<Standing>,
}

impl Losses {
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Whether the release of this partition is to be answered by a plan that accepts its loss.
    pub(super) fn contains(&self, partition: PartitionId, epoch: Epoch) -> bool {
        self.asked.get(&partition).is_some_and(|loss| loss.epoch == epoch)
    }

    pub(super) fn ends(&self) -> impl Iterator<Item = Moment> {
        self.asked.values().map(|loss| loss.until)
    }

    fn finish(&mut self, partition: PartitionId, outcome: LossOutcome) {
        self.asked.remove(&partition);
        self.finished.push((partition, outcome));
    }

    fn refuse(&mut self, partition: PartitionId, why: AskError) {
        self.finish(partition, LossOutcome::Refused(why));
    }
}

impl Coordinator {
    /// An operator accepts that a partition is lost. What comes of it: [`Self::take_losses`].
    pub fn handle_loss_asked(&mut self, now: Now, partition: PartitionId) -> Result<Vec<Effect>, AskError> {
        self.check_leading()?;
        let snapshot = self.control.snapshot.clone().ok_or(AskError::NoPlan)?;
        let (Some(group), Some(assignment)) =
            (snapshot.group(partition.group), snapshot.assignment(partition))
        else {
            return Err(AskError::NoSuchPartition(partition));
        };
        if !group.spec.replicated {
            let why = "its workers keep nothing that could be lost".to_owned();
            return Err(AskError::NotLost { partition, why });
        }
        let Some(primary) = snapshot.primary(assignment) else { return Err(AskError::Unserved(partition)) };
        if self.losses.contains(partition, assignment.epoch) {
            return Ok(Vec::new());
        }
        if self.losses.asked.len() >= LOSSES_MAX {
            return Err(AskError::TooManyLosses(LOSSES_MAX));
        }
        let (from, epoch, until) = (primary.id().clone(), assignment.epoch, now.moment + ACCEPT_WITHIN);
        let loss =
            Loss { from: from.clone(), epoch, until, members: assignment.members.clone(), standing: None };
        self.losses.asked.insert(partition, loss);
        Ok(vec![Effect::AskSurrender { to: from, partition, epoch }])
    }

    /// The partition's primary gave the epoch back for lost, or says why not. `None`: it said nothing.
    pub fn handle_surrendered(
        &mut self,
        now: Now,
        partition: PartitionId,
        epoch: Epoch,
        answer: Option<Result<Standing, NotLost>>,
    ) -> Vec<Effect> {
        // A plan that is being made may have had the primary give its epoch back just before.
        let changing = self.planned.is_some() || self.committing.is_some();
        let Some(loss) = self.losses.asked.get_mut(&partition).filter(|loss| loss.epoch == epoch) else {
            return Vec::new();
        };
        let snapshot = self.control.snapshot.as_deref();
        // The primary judged by the members that it knows, and this node by those that are committed.
        let alive = |node: &NodeName| {
            let member = snapshot.and_then(|snapshot| snapshot.member(node.as_str()));
            member.is_some_and(|member| member.status.may_serve())
        };
        let node = loss.from.node.clone();
        let judged = match answer {
            None => Err(AskError::Unanswered { partition, node }),
            Some(Err(NotLost::Opens)) if changing => Err(AskError::Overtaken(partition)),
            Some(Err(why)) => Err(AskError::NotLost { partition, why: why.to_string() }),
            Some(Ok(standing)) => match standing.check_lost(alive) {
                Ok(()) => Ok(standing),
                Err(why) => Err(AskError::NotLost { partition, why: why.to_string() }),
            },
        };
        match judged {
            Ok(standing) => loss.standing = Some(standing),
            Err(why) => self.losses.refuse(partition, why),
        }
        self.decide(now)
    }

    /// What became of losses that were to be accepted, since the last time.
    pub fn take_losses(&mut self) -> Vec<(PartitionId, LossOutcome)> {
        std::mem::take(&mut self.losses.finished)
    }

    /// The plan that accepts the next loss, if its primary gave the partition back.
    pub(super) fn accept_loss(&mut self, now: Now, leading: Leading, snapshot: &Snapshot) -> Vec<Effect> {
        self.drop_old_losses(now.moment, snapshot);
        // Its plan may be in force before the answer to it comes. One after the other, or an answer is taken for another's.
        if self.losses.proposed.is_some() {
            return Vec::new();
        }
        let ready = |(partition, loss): &(&PartitionId, &Loss)| {
            loss.standing.is_some() && self.grantor.is_free(now.moment, &loss.from, **partition, loss.epoch)
        };
        let Some(partition) = self.losses.asked.iter().find(ready).map(|(partition, _)| *partition) else {
            return Vec::new();
        };
        let standing = self.losses.asked.get(&partition).and_then(|loss| loss.standing.as_ref());
        let survivors = standing.map(Standing::heirs).unwrap_or_default();
        let Some(next) = self.plan_loss(now, leading, snapshot, partition, &survivors) else {
            self.losses.refuse(partition, AskError::Overtaken(partition));
            return Vec::new();
        };
        match self.grantor.handle_proposed(now.moment, snapshot, &next) {
            Ok(proposal) => {
                self.losses.proposed = Some((partition, next.version));
                self.committing = Some(((&next).into(), Some(proposal)));
                let (based_on, outline) = (self.control.version(), Outline::of(next));
                vec![Effect::Commit(Command::AcceptLoss { based_on, outline, partition, survivors })]
            }
            Err(held) => {
                self.last_error = Some(held.to_string());
                self.propose_from = now.moment + PROPOSE_AGAIN;
                Vec::new()
            }
        }
    }

    fn plan_loss(
        &self,
        now: Now,
        leading: Leading,
        snapshot: &Snapshot,
        partition: PartitionId,
        survivors: &[CopyId],
    ) -> Option<Snapshot> {
        let given_up = snapshot.with_loss_accepted(partition, survivors).ok()?;
        let mut draft = Draft::new(&given_up, snapshot.members.clone());
        draft.prefer(partition, &given_up, survivors);
        let renewed = BTreeSet::from([partition]);
        let next = Snapshot {
            version: snapshot.version.next(),
            term: leading.term,
            leader: self.me.name().clone(),
            groups: draft.groups(&given_up, &renewed),
            computed_at: now.unix,
            ..given_up
        };
        Some(next.sealed())
    }

    /// Raft answered the plan that accepts a loss.
    pub(super) fn note_loss(&mut self, outcome: Option<&Outcome>) {
        // The answer to a plan before it, which was in force when this one was proposed.
        let earlier =
            |version: Version| matches!(outcome, Some(Outcome::Published { version: v }) if *v < version);
        let Some((partition, version)) = self.losses.proposed.take_if(|(_, version)| !earlier(*version))
        else {
            return;
        };
        match outcome {
            Some(Outcome::Published { .. }) => {
                let Some(loss) = self.losses.asked.get(&partition) else { return };
                let standing = loss.standing.clone().unwrap_or_default();
                let heirs = standing.heirs();
                let epoch = loss.epoch.next();
                let given_up = loss.members.iter().filter(|copy| !heirs.contains(copy)).cloned().collect();
                let survivors = standing.survivors.into_iter().filter(|(copy, _)| heirs.contains(copy));
                let survivors = survivors.collect();
                let accepted = LossAccepted { version, partition, epoch, survivors, given_up };
                self.losses.finish(partition, LossOutcome::Accepted(accepted));
            }
            // It is tried again, upon whatever came first.
            Some(_) => {}
            None => self.losses.finish(partition, LossOutcome::Unknown),
        }
    }

    fn drop_old_losses(&mut self, now: Moment, snapshot: &Snapshot) {
        let proposed = self.losses.proposed.map(|(partition, _)| partition);
        let old = |(partition, loss): (&PartitionId, &Loss)| {
            let same = snapshot.epoch_of(*partition) == Some(loss.epoch);
            let why = match (same, now < loss.until) {
                (true, true) => return None,
                (true, false) => AskError::Unanswered { partition: *partition, node: loss.from.node.clone() },
                (false, _) => AskError::Overtaken(*partition),
            };
            (proposed != Some(*partition)).then_some((*partition, why))
        };
        let old: Vec<(PartitionId, AskError)> = self.losses.asked.iter().filter_map(old).collect();
        old.into_iter().for_each(|(partition, why)| self.losses.refuse(partition, why));
    }
}
