//! Changing who votes: new voters learn first, then all seats change at once.
//!
//! ```text
//! A B C' ── C learns ──▶ caught up ──▶ {A B C'} and {A B C} both decide ──▶ A B C decide
//!                                      joint: a leader that finds one left over finishes it
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use openraft::ChangeMembers;
use tumen_core::cluster::voters::Voters;
use tumen_core::ids::{Life, NodeName};
use tumen_core::time::Moment;

use super::handle::{Handle, changed};
use super::shared::Shared;
use super::status::{CommitError, NotReady};
use super::types::{Membership, Raft, Seat, voters_of};

impl Handle {
    /// Makes `next` the voters, in one joint change, once those who are new have caught up. Only the leader can.
    ///
    /// A voter that is not among them votes no more from then on, and may [`Handle::retire`].
    ///
    /// # Errors
    /// [`CommitError::Timeout`] with `maybe_applied` where the change was begun: it is then finished by whoever leads.
    pub async fn set_voters(&self, next: &Voters, deadline: Moment) -> Result<(), CommitError> {
        if next.len().is_multiple_of(2) {
            return Err(CommitError::Even(next.len()));
        }
        let _turn = self.within(deadline, self.shared.changing.lock()).await?;
        let raft = self.leading()?;
        let present = membership(&raft);
        if voters_of(&present) == *next && !is_joint(&present) && learners(&present).is_empty() {
            return Ok(());
        }
        let new = next.iter().filter(|(life, _)| present.get_node(&life.0).is_none());
        let new: Voters = new.map(|(life, node)| (*life, node.clone())).collect();
        self.prepare(&new, deadline).await?;
        self.teach(&raft, next, &new, deadline).await?;
        // Not bound to this caller's patience: a joint change that was begun is better finished.
        let lives: BTreeSet<u64> = next.keys().map(|life| life.0).collect();
        let change = tokio::spawn(async move { seat(&raft, lives).await });
        match self.within(deadline, change).await {
            Err(_) => Err(CommitError::Timeout { maybe_applied: true }),
            Ok(Err(_)) => Err(CommitError::Stopped { maybe_applied: true }),
            Ok(Ok(result)) => result,
        }
    }

    /// Has new lives learn all there is.
    async fn teach(
        &self,
        raft: &Raft,
        next: &Voters,
        new: &Voters,
        deadline: Moment,
    ) -> Result<(), CommitError> {
        for (life, node) in new {
            let learns = raft.add_learner(life.0, Seat::of(node.clone()), false);
            self.within(deadline, learns).await?.map_err(changed)?;
        }
        let voting: BTreeSet<u64> = membership(raft).voter_ids().collect();
        for (life, node) in next.iter().filter(|(life, _)| !voting.contains(&life.0)) {
            let behind = |_| CommitError::NotReady { node: NodeName::clone(node), why: NotReady::Behind };
            self.within(deadline, self.caught_up(*life)).await.map_err(behind)??;
        }
        Ok(())
    }
}

/// Gives the seats to these lives, and has nobody else learn any more.
async fn seat(raft: &Raft, lives: BTreeSet<u64>) -> Result<(), CommitError> {
    raft.change_membership(lives, false).await.map_err(changed)?;
    let left = learners(&membership(raft));
    if !left.is_empty() {
        raft.change_membership(ChangeMembers::RemoveNodes(left), false).await.map_err(changed)?;
    }
    Ok(())
}

fn membership(raft: &Raft) -> Membership {
    raft.metrics().borrow().membership_config.membership().clone()
}

fn is_joint(membership: &Membership) -> bool {
    membership.get_joint_config().len() > 1
}

fn learners(membership: &Membership) -> BTreeSet<u64> {
    let voting: BTreeSet<u64> = membership.voter_ids().collect();
    let all: BTreeMap<&u64, &Seat> = membership.nodes().collect();
    all.into_keys().copied().filter(|life| !voting.contains(life)).collect()
}

/// Finishes joint changes that were left in the middle, for as long as this node leads.
pub(super) async fn run_finish(shared: Arc<Shared>, raft: Arc<Raft>) {
    let mut metrics = shared.metrics.subscribe();
    let mut leadership = shared.leadership.subscribe();
    loop {
        let joint = metrics.borrow_and_update().joint;
        if joint && leadership.borrow_and_update().i_lead {
            // Whoever is at it finishes it; only what is left over is ours.
            let turn = shared.changing.lock().await;
            let present = membership(&raft);
            if is_joint(&present) {
                let aimed: BTreeSet<u64> = voters_of(&present).into_keys().map(|Life(life)| life).collect();
                let patience = shared.settings.election_timeout_max * 4;
                let finished = tokio::time::timeout(patience, seat(&raft, aimed)).await;
                tracing::info!(?finished, "finished a change of voters that was left in the middle");
            }
            drop(turn);
            pause(&shared).await;
            continue;
        }
        let changed = tokio::select! {
            changed = metrics.changed() => changed,
            changed = leadership.changed() => changed,
        };
        if changed.is_err() {
            return;
        }
    }
}

/// What was just tried is tried again after a while, not at once.
async fn pause(shared: &Shared) {
    tokio::time::sleep(Duration::max(shared.settings.heartbeat, Duration::from_millis(10))).await;
}
