//! What follows from Raft's news: the coordinator hears of it, and a leader's duties beside its plans.
//!
//! ```text
//!  leadership ─▶ Coordinator, LeaseKeeper; "I lead" to every session
//!  state ──────▶ Coordinator, Plans ─▶ every session
//!  while leading: a majority's confirmation every L/10 · the right voters
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::broadcast::error::TryRecvError;
use tokio::time::MissedTickBehavior;
use tumen_core::cluster::control::ControlState;
use tumen_core::cluster::snapshot::Snapshot;
use tumen_core::cluster::voters::{self, Standing};
use tumen_core::ids::{Life, NodeBoot, NodeName};
use tumen_core::wire::CoordinatorFrame;

use super::founding;
use super::parts::Parts;
use crate::cluster::assignment_coordinator::AssignmentCoordinatorMsg;
use crate::cluster::consensus::{self, Leadership};
use crate::cluster::lease_keeper::LeaseKeeperMsg;
use crate::codec;
use crate::transport::Channel;

/// How often a leader looks whether the right nodes vote.
const VOTERS_EVERY: Duration = Duration::from_millis(100);
/// How often a node looks whether it still has a seat.
const LOOK_FOR_SEAT_EVERY: Duration = Duration::from_secs(1);
/// After so many looks without a seat, and without a leader's word, it takes no part any more.
const RETIRE_AFTER_LOOKS: u32 = 10;
/// How long a change of voters may take.
const CHANGE_WITHIN: Duration = Duration::from_secs(5);
/// How long a node may take to say which life it has.
const LIFE_WITHIN: Duration = Duration::from_millis(500);

/// Takes Raft's news to those who need it.
pub(super) async fn follow_consensus(parts: Arc<Parts>, consensus: consensus::Handle) {
    let mut leadership = consensus.leadership();
    let mut each = consensus.plans();
    let mut state = consensus.state();
    let mut known = None;
    loop {
        // The leadership is read first: what was applied by then is in the state that is read after it, and the
        // coordinator must know all of that before it hears that it may act.
        let news = leadership.borrow_and_update().clone();
        let control = Arc::clone(&state.borrow_and_update().state);
        // Two plans may have been agreed on since: whoever follows them wants to hear of both.
        loop {
            match each.try_recv() {
                Ok(plan) => handle_plan(&parts, &consensus, &plan),
                // Those that were lost show in the next one's number.
                Err(TryRecvError::Lagged(_)) => {}
                Err(TryRecvError::Empty | TryRecvError::Closed) => break,
            }
        }
        handle_state(&parts, &consensus, &control);
        if known.as_ref() != Some(&news) {
            handle_leadership(&parts, &consensus, &news);
            known = Some(news);
        }
        let changed = tokio::select! {
            changed = state.changed() => changed,
            changed = leadership.changed() => changed,
        };
        if changed.is_err() {
            return;
        }
    }
}

fn handle_state(parts: &Parts, consensus: &consensus::Handle, control: &Arc<ControlState>) {
    parts.ports.coordinator.cast(AssignmentCoordinatorMsg::Control(Arc::clone(control)));
    parts.handle_configured(control);
    if let Some(plan) = &control.snapshot {
        handle_plan(parts, consensus, plan);
    }
}

fn handle_plan(parts: &Parts, consensus: &consensus::Handle, plan: &Arc<Snapshot>) {
    founding::adopt(parts, plan);
    let news = parts.plans.take(Arc::clone(plan));
    if news && consensus.leadership().borrow().i_lead {
        parts.announce(plan);
    }
}

fn handle_leadership(parts: &Parts, consensus: &consensus::Handle, news: &Leadership) {
    tracing::info!(leader = ?news.leader, term = %news.term, "leadership");
    parts.ports.coordinator.cast(AssignmentCoordinatorMsg::Leadership {
        leader: news.leader.clone(),
        term: news.term,
        settled: news.first_entry_applied,
    });
    // Whoever leads the cluster that is joined may have said so already.
    if !parts.gate.is_leaving() {
        parts.learn_leader(news.leader.as_ref(), news.term);
    }
    if !news.i_lead {
        parts.withdraw();
    }
    if news.i_lead && news.first_entry_applied && !parts.gate.is_leaving() {
        let (cluster, leader) = (consensus.cluster(), parts.id.node.clone());
        let frame = CoordinatorFrame::Leads { cluster, leader, term: news.term };
        parts.cast_all(Channel::Coordinator, &codec::pack(&frame));
        if let Some(plan) = parts.plans.newest() {
            parts.announce(&plan);
        }
        parts.lead_configuration();
    }
    if let Some(leader) = &news.leader {
        parts.ports.lease_keeper.cast(LeaseKeeperMsg::Leader(leader.clone()));
    }
}

/// While this node leads: takes each confirmation by a majority to the coordinator, so that leases can be granted.
pub(super) async fn follow_acks(parts: Arc<Parts>, consensus: consensus::Handle) {
    let mut acks = consensus.acks();
    acks.mark_changed();
    while acks.changed().await.is_ok() {
        let Some(ack) = *acks.borrow_and_update() else { continue };
        parts.ports.coordinator.cast(AssignmentCoordinatorMsg::QuorumAck { term: ack.term, stamp: ack.at });
    }
}

/// While this node leads: sees to it that as many nodes vote as should, and the right ones; and that
/// everybody can tell who they are.
pub(super) async fn keep_voters(parts: Arc<Parts>, consensus: consensus::Handle) {
    let mut leadership = consensus.leadership();
    let mut plans = parts.plans.subscribe();
    let mut lives = Lives::default();
    let mut ticks = tokio::time::interval(VOTERS_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        if leadership.wait_for(|news| news.first_entry_applied && !news.yielding).await.is_err() {
            return;
        }
        // A new plan is looked at without delay: until its members vote, the cluster hangs on those that did before.
        tokio::select! {
            _ = ticks.tick() => {}
            _ = plans.changed() => {}
        }
        let plan = plans.borrow_and_update().clone();
        let present = consensus.metrics().borrow().voters.clone();
        let standings = match &plan {
            Some(plan) => lives.standings(&parts, &consensus, plan).await,
            None => Vec::new(),
        };
        tell_who_votes(&parts, &consensus, voters::voting(&standings, &present));
        if plan.is_none() {
            continue;
        }
        let Some(next) = voters::plan(&standings, &present, consensus.life()) else { continue };
        tracing::info!(from = ?present, to = ?next, "changing the voters");
        let deadline = parts.clock.now() + CHANGE_WITHIN;
        if let Err(error) = consensus.set_voters(&next, deadline).await {
            tracing::warn!(%error, "the voters were not changed; tried again");
            tokio::time::sleep(VOTERS_EVERY).await;
        }
    }
}

/// Ends openraft on a node that voted once and does not any more: nobody sends it anything, so it would miss a leader and
/// ask for votes for ever.
///
/// It has lost its seat where its own log says so, and the leader too, and no leader has spoken to it for a while: one
/// that learns in order to vote is spoken to all the time. A mistake costs a moment: what it voted stays in its store, and
/// the first word of a leader starts it again.
pub(super) async fn retire_when_unseated(parts: Arc<Parts>, consensus: consensus::Handle) {
    let mut ticks = tokio::time::interval(LOOK_FOR_SEAT_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut looks, mut heard) = (0, consensus.heard());
    loop {
        ticks.tick().await;
        let unseated = !has_seat(&parts, &consensus);
        let silent = std::mem::replace(&mut heard, consensus.heard()) == heard;
        looks = if unseated && silent { looks + 1 } else { 0 };
        if looks < RETIRE_AFTER_LOOKS {
            continue;
        }
        looks = 0;
        let deadline = parts.clock.now() + CHANGE_WITHIN;
        match consensus.retire(deadline).await {
            Ok(()) => tracing::info!(life = %consensus.life(), "this node votes no more"),
            Err(error) => tracing::debug!(%error, "not retired; tried again"),
        }
    }
}

/// Whether this node has a seat, or it cannot be said for sure that it has none, or it takes no part anyway.
fn has_seat(parts: &Parts, consensus: &consensus::Handle) -> bool {
    let metrics = consensus.metrics();
    let metrics = metrics.borrow();
    let (term, told) = parts.voting.borrow().clone();
    let told_otherwise = term >= metrics.term && !told.is_empty() && !told.contains(&parts.id.node);
    !metrics.running || metrics.voters.contains_key(&consensus.life()) || !told_otherwise
}

/// Says who votes to every node, where it has changed.
fn tell_who_votes(parts: &Parts, consensus: &consensus::Handle, nodes: BTreeSet<NodeName>) {
    let leadership = consensus.leadership().borrow().clone();
    let term = leadership.term;
    if leadership.i_lead && !parts.gate.is_leaving() && parts.learn_voting(term, nodes.clone()) {
        let cluster = consensus.cluster();
        parts
            .cast_all(Channel::Coordinator, &codec::pack(&CoordinatorFrame::Voting { cluster, term, nodes }));
    }
}

/// The lives of the members' stores, as each boot told it once.
#[derive(Default)]
struct Lives(BTreeMap<NodeBoot, Life>);

impl Lives {
    /// How each member stands as a voter, as this node sees it.
    async fn standings(
        &mut self,
        parts: &Parts,
        consensus: &consensus::Handle,
        plan: &Snapshot,
    ) -> Vec<Standing> {
        // One that goes from side to side has another life there, and is the same boot.
        let may_stay = !parts.sides.is_available();
        self.0.retain(|id, _| may_stay && plan.members.iter().any(|member| member.id() == id));
        let mut standings = Vec::with_capacity(plan.members.len());
        for member in &plan.members {
            let left = parts.sides.is_available() && parts.is_of_another(member.id());
            let reachable = *member.id() == parts.id || (parts.is_connected(member.id()) && !left);
            if reachable && !self.0.contains_key(member.id()) {
                let deadline = parts.clock.now() + LIFE_WITHIN;
                if let Ok(life) = consensus.life_of(member.name(), deadline).await {
                    self.0.insert(member.id().clone(), life);
                }
            }
            standings.push(Standing::new(member, self.0.get(member.id()).copied(), reachable));
        }
        standings
    }
}
