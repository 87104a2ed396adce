//! How a committed plan reaches every node: announced by the leader, pulled by whoever missed it, taken to those who act on it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::broadcast::error::RecvError;
use tumen_core::cluster::asks::{Answer, Ask};
use tumen_core::cluster::snapshot::Snapshot;
use tumen_core::cluster::topics::{Overflow, Topic};
use tumen_core::ids::Version;

use super::asking;
use super::events::Event;
use super::founding;
use super::parts::Parts;
use super::sides;
use crate::cluster::pubsub::News;
use crate::codec;
use crate::partitions::partition_manager::PartitionManagerMsg;
use crate::partitions::router::RouterMsg;
use crate::transport;

/// How long a plan may take to be pulled from another node.
const PULL_WITHIN: Duration = Duration::from_secs(2);

/// The most announced plans that wait. Only the newest matters.
const ANNOUNCEMENTS_MAX: usize = 64;

impl Parts {
    /// A plan came from another node.
    pub(super) fn take_plan(&self, plan: Arc<Snapshot>) {
        match plan.validate() {
            Ok(()) => self.take_valid(plan),
            Err(error) => tracing::warn!(version = %plan.version, %error, "a plan is dropped"),
        }
    }

    fn take_valid(&self, plan: Arc<Snapshot>) {
        if self.is_of_another_side(plan.cluster) {
            return;
        }
        founding::adopt(self, &plan);
        self.witness.told_of(&plan);
        self.plans.take(plan);
    }

    /// The version of the plan that this node acts by; zero where it knows one only of a cluster that it is no member of.
    fn version_here(&self) -> Version {
        let plan = self.plans.newest();
        plan.filter(|plan| plan.names(&self.id)).map_or(Version::ZERO, |plan| plan.version)
    }

    /// Tells everybody of a plan, late subscribers too: whole where it is small, and where it is large by its version only.
    pub(super) fn announce(&self, plan: &Arc<Snapshot>) {
        if let Err(error) = self.hub.retain(&assignments(), announcement(plan)) {
            tracing::error!(version = %plan.version, %error, "a plan could not be announced; nodes pull it instead");
        }
    }

    /// This node does not lead: what it announced when it did is not for late subscribers any more.
    pub(super) fn withdraw(&self) {
        self.hub.release(&assignments());
        self.withdraw_configuration();
    }

    /// Pulls the newest plan from whoever may have it, one pull at a time.
    pub(super) fn catch_up(self: &Arc<Self>, version: Version) {
        if version <= self.version_here() || self.behind.fetch_max(version.0, Ordering::SeqCst) >= version.0 {
            return;
        }
        let parts = Arc::clone(self);
        self.tasks.spawn(async move {
            parts.pull(version).await;
            parts.behind.store(0, Ordering::SeqCst);
        });
    }

    async fn pull(&self, version: Version) {
        let leader = self.leader.borrow().1.clone();
        let others = self.transport.sessions().into_iter().map(|session| session.peer.node);
        for node in leader.into_iter().chain(others).filter(|node| *node != self.id.node) {
            let deadline = tokio::time::Instant::now() + PULL_WITHIN;
            let ask = Ask::Pull { known: self.version_here() };
            if let Ok(Ok(Answer::Newer(Some(plan)))) =
                asking::ask_there(&self.transport, &node, (None, &ask), deadline).await
            {
                self.take_valid(plan);
            }
            if self.version_here() >= version {
                return;
            }
        }
    }
}

/// What travels on the channel for catching up.
#[derive(serde::Serialize, serde::Deserialize)]
enum PlanFrame {
    /// The whole plan.
    Whole(Arc<Snapshot>),
    /// There is a plan of this version: ask for it.
    Version(Version),
}

fn announcement(plan: &Arc<Snapshot>) -> Bytes {
    let whole = codec::pack(&PlanFrame::Whole(Arc::clone(plan)));
    if whole.len() <= transport::CONTROL_LEN_MAX / 4 {
        whole
    } else {
        codec::pack(&PlanFrame::Version(plan.version))
    }
}

/// The topic on which the leader retains the plan in force.
fn assignments() -> Topic {
    Topic::new("assignments").expect("a short name")
}

/// Takes in what leaders announce.
pub(super) async fn follow_announcements(parts: Arc<Parts>) {
    let mut announcements = parts.hub.subscribe(&assignments(), ANNOUNCEMENTS_MAX, Overflow::DropOldest);
    while let Some(news) = announcements.recv().await {
        // A plan that was missed is replaced by the next, or pulled when a lease names it.
        let News::Said(message) = news else { continue };
        match codec::decode(&message.body, transport::CONTROL_LEN_MAX) {
            Ok(PlanFrame::Whole(plan)) => parts.take_plan(plan),
            Ok(PlanFrame::Version(version)) => parts.catch_up(version),
            Err(error) => tracing::warn!(from = %message.publisher, %error, "a plan is dropped"),
        }
    }
}

/// Takes each new plan to those who act on it: the router and the manager see the same one.
pub(super) async fn follow_plans(parts: Arc<Parts>) {
    let mut plans = parts.plans.each();
    let mut previous: Option<Arc<Snapshot>> = None;
    loop {
        let plan = match plans.recv().await {
            Ok(plan) => plan,
            // Those that were lost show in the next one's number.
            Err(RecvError::Lagged(_)) => continue,
            Err(RecvError::Closed) => return,
        };
        // This node may have left the cluster that this one is of, or that the former one was of.
        previous = previous.filter(|previous| previous.cluster == plan.cluster);
        let turn = parts.take_turn();
        if parts.plans.cluster() != Some(plan.cluster) || parts.plans.is_forsaken(plan.cluster) {
            continue;
        }
        if sides::is_evicted(&parts, previous.as_deref(), &plan) {
            sides::handle_evicted(&parts, &plan);
            // It has nothing of this one by which the same could be taken from it again.
            previous = None;
            continue;
        }
        if plan.members.len() > 1 {
            parts.is_not_alone();
        }
        if plan.names(&parts.id) {
            parts.greeter.arrived();
        }
        if parts.leader.borrow().1.is_none() {
            parts.learn_leader(Some(&plan.leader), plan.term);
        }
        tracing::info!(version = %plan.version, leader = %plan.leader, members = plan.members.len(), "a plan is in force");
        parts.witness.acts_on(&plan);
        parts.ports.router.cast(RouterMsg::Plan(Arc::clone(&plan)));
        parts.ports.manager.cast(PartitionManagerMsg::Plan(Arc::clone(&plan)));
        parts.names.handle_plan(&plan);
        drop(turn);
        for member in plan.members.iter().filter(|member| *member.name() != parts.id.node) {
            parts.transport.remember(member.name(), &member.info.address);
        }
        parts.tell(Event::Plan { plan: Arc::clone(&plan), previous: previous.replace(plan) });
        parts.health.look_soon();
    }
}
