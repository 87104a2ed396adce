//! What follows from Raft's news: the coordinator hears of it, and a leader's duties beside its plans.
//!
//! ```text
//!  leadership ─▶ Coordinator, LeaseKeeper; "I lead" to every session
//!  state ──────▶ Coordinator, Plans ─▶ every session
//!  while leading: a majority's confirmation every L/10 · the right voters
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::MissedTickBehavior;
use tumen_core::cluster::control::ControlState;
use tumen_core::cluster::snapshot::Snapshot;
use tumen_core::cluster::voters::{self, Standing};
use tumen_core::ids::{Life, NodeName};
use tumen_core::wire::CoordinatorFrame;

use super::assembly::Parts;
use super::events::Event;
use crate::cluster::assignment_coordinator::AssignmentCoordinatorMsg;
use crate::cluster::consensus::Leadership;
use crate::cluster::lease_keeper::LeaseKeeperMsg;
use crate::codec;
use crate::transport::Channel;

/// How often a leader looks whether the right nodes vote.
const VOTERS_EVERY: Duration = Duration::from_millis(200);

/// Takes Raft's news to those who need it, until the node stops.
pub(super) async fn follow_consensus(parts: Arc<Parts>) {
    let mut leadership = parts.consensus.leadership();
    let mut state = parts.consensus.state();
    leadership.mark_changed();
    state.mark_changed();
    loop {
        tokio::select! {
            // The state first: the coordinator must know all that was applied before it hears that it may act.
            biased;
            changed = state.changed() => {
                if changed.is_err() {
                    return;
                }
                let control = state.borrow_and_update().clone();
                handle_state(&parts, &control);
            }
            changed = leadership.changed() => {
                if changed.is_err() {
                    return;
                }
                // What was applied before the leadership was announced is there by now.
                if state.has_changed().unwrap_or(false) {
                    let control = state.borrow_and_update().clone();
                    handle_state(&parts, &control);
                }
                let news = leadership.borrow_and_update().clone();
                handle_leadership(&parts, &news);
            }
        }
    }
}

fn handle_state(parts: &Parts, control: &Arc<ControlState>) {
    parts.ports.coordinator.cast(AssignmentCoordinatorMsg::Control(Arc::clone(control)));
    if let Some(plan) = &control.snapshot {
        let news = parts.plans.take(Arc::clone(plan));
        if news && parts.consensus.leadership().borrow().i_lead {
            parts.announce(plan);
        }
    }
}

fn handle_leadership(parts: &Parts, news: &Leadership) {
    tracing::info!(leader = ?news.leader, term = %news.term, "leadership");
    parts.ports.coordinator.cast(AssignmentCoordinatorMsg::Leadership {
        leader: news.leader.clone(),
        term: news.term,
        settled: news.first_entry_applied,
    });
    parts.learn_leader(news.leader.as_ref(), news.term);
    if news.i_lead && news.first_entry_applied {
        let frame = CoordinatorFrame::Leads { leader: parts.id.node.clone(), term: news.term };
        parts.cast_all(Channel::Coordinator, &codec::encode(&frame));
        if let Some(plan) = parts.plans.newest() {
            parts.announce(&plan);
        }
    }
    if let Some(leader) = &news.leader {
        parts.ports.lease_keeper.cast(LeaseKeeperMsg::Leader(leader.clone()));
    }
    parts.tell(Event::Leader { leader: news.leader.clone(), term: news.term });
}

/// While this node leads: has itself confirmed by a majority, so that leases can be granted.
pub(super) async fn keep_confirmed(parts: Arc<Parts>, every: Duration) {
    let mut leadership = parts.consensus.leadership();
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        if leadership.wait_for(|news| news.i_lead).await.is_err() {
            return;
        }
        if let Ok((term, stamp)) = parts.consensus.quorum_ack().await {
            parts.ports.coordinator.cast(AssignmentCoordinatorMsg::QuorumAck { term, stamp });
        }
        ticks.tick().await;
    }
}

/// While this node leads: sees to it that as many nodes vote as should, and the right ones.
pub(super) async fn keep_voters(parts: Arc<Parts>) {
    let mut leadership = parts.consensus.leadership();
    let mut ticks = tokio::time::interval(VOTERS_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        if leadership.wait_for(|news| news.i_lead && news.first_entry_applied).await.is_err() {
            return;
        }
        ticks.tick().await;
        let Some(plan) = parts.plans.newest() else { continue };
        let Some(own) = parts.consensus.life() else { continue };
        let present = parts.consensus.voters();
        let standings = standings(&parts, &plan).await;
        if let Some(next) = voters::plan(&standings, &present, own) {
            tracing::info!(from = ?present, to = ?next, "changing the voters");
            if let Err(error) = parts.consensus.set_voters(next).await {
                tracing::warn!(%error, "the voters were not changed; tried again");
                tokio::time::sleep(VOTERS_EVERY).await;
            }
        }
    }
}

/// How each member stands as a voter, as this node sees it.
async fn standings(parts: &Parts, plan: &Snapshot) -> Vec<Standing> {
    let sessions = parts.transport.sessions();
    let lives: BTreeMap<NodeName, Life> = parts.consensus.lives().await;
    let standing = |member: &tumen_core::cluster::member::Member| {
        let reachable = member.id() == &parts.id || sessions.iter().any(|session| session.peer == *member.id());
        Standing::new(member, lives.get(member.name()).copied(), reachable)
    };
    plan.members.iter().map(standing).collect()
}
