//! How a node goes: what it serves first, then what it leads, then its lease, then its sessions.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tumen_core::cluster::asks::Ask;
use tumen_core::cluster::coordinator::Departure;
use tumen_core::cluster::member::Member;
use tumen_core::cluster::snapshot::Snapshot;
use tumen_core::cluster::voters::{self, Standing};

use super::parts::Parts;

/// How long the last lease request may be on its way before the sessions end.
const LAST_WORD: Duration = Duration::from_millis(50);

/// How often it is looked whether children still run here.
const CHILDREN_EVERY: Duration = Duration::from_millis(10);

/// How often a node that waits for others to vote looks who is there.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Stops a node's parts in the reverse order of their start.
pub(super) async fn stop(parts: &Arc<Parts>) {
    let deadline = Instant::now() + parts.stop_within;
    if !parts.begin_stopping() {
        parts.tasks.wait().await;
        return;
    }
    tracing::info!(node = %parts.id, "stopping: handing over");
    if parts.failure.get().is_some() {
        // It serves nothing any more, and can ask for nothing to be agreed on.
        return close(parts, deadline).await;
    }
    hand_over(parts, deadline).await;
    hand_over_children(parts, deadline).await;
    hand_over_vote(parts, deadline).await;
    if hand_over_leadership(parts, deadline).await {
        // The new leader does not know yet that this node is on its way.
        hand_over(parts, deadline).await;
    }
    close(parts, deadline).await;
}

/// Ends what runs, the last that was started first.
async fn close(parts: &Arc<Parts>, deadline: Instant) {
    tracing::debug!("stopping: closing");
    parts.router.end_sessions();
    parts.names.handle_stopped();
    // Nothing leaves from here on, and only then does the lease go back.
    parts.table.close_all();
    parts.members.leave().await;
    parts.stop_actors().await;
    tokio::time::sleep(LAST_WORD).await;
    tracing::debug!("stopping: leaving consensus");
    parts.stopping.cancel();
    parts.stop_council().await;
    parts.replication.stop();
    parts.hub.close();
    parts.exchange.close();
    tracing::debug!("stopping: ending the sessions");
    parts.transport.stop().await;
    // Nobody can ask anything any more: what the copies have now is what they said.
    parts.replication.close().await;
    parts.tasks.close();
    drop(tokio::time::timeout_at(deadline, parts.tasks.wait()).await);
    tracing::info!(node = %parts.id, "stopped");
}

/// Asks the leader to take this node's partitions away, and waits until it has.
async fn hand_over(parts: &Arc<Parts>, deadline: Instant) {
    let Some(plan) = parts.plans.newest() else { return };
    if !others_can_serve(parts, &plan) {
        tracing::info!("nobody is left to hand over to");
        return;
    }
    let how = Departure::Stop { grace: parts.rejoin_grace };
    let ask = Ask::Depart { node: parts.id.node.clone(), how };
    let within = deadline.saturating_duration_since(Instant::now());
    let leader = || parts.leader.borrow().1.clone();
    if let Err(error) = parts.asking.ask(&parts.transport, leader, ask, within).await {
        tracing::warn!(%error, "partitions were not handed over; others take them over after this node");
    }
}

/// Waits until the children of this node run elsewhere, as far as they can.
async fn hand_over_children(parts: &Arc<Parts>, deadline: Instant) {
    // The time that is left after it is for the rest of the way.
    let patience = deadline.saturating_duration_since(Instant::now()) / 2;
    let waiting = async {
        while parts.names.has_children_for_others() {
            tokio::time::sleep(CHILDREN_EVERY).await;
        }
    };
    if tokio::time::timeout(patience, waiting).await.is_err() {
        tracing::warn!("children were not handed over in time; others start them again after this node");
    }
}

/// Waits until the others can decide without this node, where that takes a change of voters which is not through yet: a
/// leader that went as the only voter would take the quorum along until it returns.
async fn hand_over_vote(parts: &Arc<Parts>, deadline: Instant) {
    let consensus = parts.consensus();
    let (mut metrics, mut plans) = (consensus.metrics(), parts.plans.subscribe());
    let waiting = async {
        loop {
            let seats = metrics.borrow_and_update().clone();
            let plan = plans.borrow_and_update().clone();
            let standings: Vec<Standing> =
                plan.iter().flat_map(|plan| &plan.members).map(standing(parts)).collect();
            let (name, life) = (&parts.id.node, consensus.life());
            if !voters::waits_for_successors(&standings, &seats.voters, name, life, seats.joint) {
                return;
            }
            tracing::debug!(voters = ?seats.voters, joint = seats.joint, "stopping: others are to vote first");
            // Who is connected is no news of these: it is looked at again after a while.
            let looked = tokio::time::timeout(LOOK_EVERY, async {
                tokio::select! {
                    changed = metrics.changed() => changed,
                    changed = plans.changed() => changed,
                }
            });
            if let Ok(Err(_closed)) = looked.await {
                return;
            }
        }
    };
    // The time that is left after it is for the rest of the way.
    let patience = deadline.saturating_duration_since(Instant::now()) / 2;
    if tokio::time::timeout(patience, waiting).await.is_err() {
        tracing::warn!(
            "this node stops although the others cannot decide without it: no other voter came in time"
        );
    }
}

/// How a member stands, as far as this node sees it.
fn standing(parts: &Parts) -> impl Fn(&Member) -> Standing {
    move |member| Standing::new(member, None, *member.id() == parts.id || parts.is_connected(member.id()))
}

/// Has another voter lead, if this node does. Whether it now does.
async fn hand_over_leadership(parts: &Arc<Parts>, deadline: Instant) -> bool {
    let consensus = parts.consensus();
    if !consensus.leadership().borrow().i_lead {
        return false;
    }
    let voters = consensus.metrics().borrow().voters.clone();
    let connected = parts.transport.sessions();
    let successor =
        voters.into_values().find(|voter| connected.iter().any(|session| session.peer.node == *voter));
    let Some(successor) = successor else { return false };
    let within = deadline.saturating_duration_since(Instant::now());
    if let Err(error) = consensus.step_down(&successor, parts.clock.now() + within).await {
        tracing::info!(%error, "Raft leadership was not handed over; the others elect a leader");
        return false;
    }
    true
}

fn others_can_serve(parts: &Parts, plan: &Snapshot) -> bool {
    let sessions = parts.transport.sessions();
    plan.members.iter().any(|member| {
        *member.id() != parts.id
            && member.status.may_lead()
            && member.info.weight > 0
            && sessions.iter().any(|session| session.peer == *member.id())
    })
}
