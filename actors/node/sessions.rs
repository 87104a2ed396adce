//! What arrives from other nodes: sessions that come and go, and messages, each taken to whom it is for.

use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use tumen_core::cluster::greeting::Refusal;
use tumen_core::cluster::refusals::Refusals;
use tumen_core::ids::NodeBoot;
use tumen_core::wire::{CoordinatorFrame, LeaseFrame};

use super::asking;
use super::configuring;
use super::events::Event;
use super::founding;
use super::parts::Parts;
use super::sides;
use crate::cluster::assignment_coordinator::AssignmentCoordinatorMsg;
use crate::cluster::lease_keeper::{self, LeaseKeeperMsg};
use crate::codec;
use crate::partitions::partition_manager::PartitionManagerMsg;
use crate::transport::{self, Channel};

/// How long a dial may take that is to prove a crash. A refusal comes at once.
const PROBE_WITHIN: Duration = Duration::from_millis(500);

/// How soon a leader is dialled again that did not refuse the dial before, at first; it doubles each time.
const PROBE_AGAIN_AFTER: Duration = Duration::from_millis(2);
/// After this the voters elect another leader without any proof.
const PROBE_AGAIN_MAX: Duration = Duration::from_millis(300);

/// Puts everything in place that takes what arrives, before anything can arrive.
pub(super) fn wire(parts: &Arc<Parts>) {
    let transport = &parts.transport;
    let here = Arc::downgrade(parts);
    let listener = Arc::new(move |event| {
        if let Some(parts) = here.upgrade() {
            handle_session(&parts, event);
        }
    });
    parts.members.sessions().subscribe("node", listener);
    parts.members.sessions().follow(transport);
    let (ports, here) = (parts.ports.clone(), Arc::downgrade(parts));
    transport.on_control(
        Channel::Lease,
        Arc::new(move |session, body| {
            match lease_keeper::read_frame(&session.peer, &body) {
                // Who asks is who speaks: nobody asks in another's name.
                Some(LeaseFrame::Request(request)) if request.from == session.peer => {
                    // One of another side that is not told of yet leaves that first.
                    let strange =
                        |parts: Arc<Parts>| parts.sides.is_available() && parts.is_of_another(&session.peer);
                    if !here.upgrade().is_some_and(strange) {
                        ports.coordinator.cast(AssignmentCoordinatorMsg::LeaseRequest(request));
                    }
                }
                Some(LeaseFrame::Reply(reply)) => {
                    ports.lease_keeper.cast(LeaseKeeperMsg::Reply(reply));
                }
                Some(LeaseFrame::Request(_)) | None => {}
            }
        }),
    );
    let here = Arc::downgrade(parts);
    transport.on_control(
        Channel::Coordinator,
        Arc::new(move |session, body| {
            let Some(parts) = here.upgrade() else { return };
            match codec::decode(&body, transport::CONTROL_LEN_MAX) {
                // It leads another cluster, whose epochs say nothing of this one's.
                Ok(CoordinatorFrame::AskRelease(_)) if parts.is_of_another(&session.peer) => {}
                Ok(CoordinatorFrame::AskRelease(releases)) => {
                    parts.ports.manager.cast(PartitionManagerMsg::AskRelease(releases));
                }
                // Two founders lead, each its own cluster, in terms that say nothing of each other.
                Ok(CoordinatorFrame::Leads { cluster, .. } | CoordinatorFrame::Voting { cluster, .. })
                    if parts.is_of_another(&session.peer)
                        || cluster.is_some_and(|cluster| parts.is_of_another_side(cluster)) => {}
                Ok(CoordinatorFrame::Leads { leader, term, .. }) => {
                    parts.learn_leader(Some(&leader), term);
                    parts.ports.lease_keeper.cast(LeaseKeeperMsg::Leader(leader));
                }
                Ok(CoordinatorFrame::Voting { term, nodes, .. }) => {
                    parts.learn_voting(term, nodes);
                }
                Ok(CoordinatorFrame::Belongs { to, counts_you }) => {
                    if parts.sides.is_available() {
                        sides::handle_told(&parts, &session.peer, to, counts_you);
                    }
                }
                Err(error) => tracing::warn!(from = %session.peer, %error, "a message is dropped"),
            }
        }),
    );
    let here = Arc::downgrade(parts);
    transport.on_control(
        Channel::Raft,
        Arc::new(move |session, body| {
            if let Some(parts) = here.upgrade() {
                parts.handle_raft(&session.peer.node, body);
            }
        }),
    );
    asking::serve(transport, &parts.asking);
    configuring::serve(parts);
    parts.exchange.wire(&parts.members);
}

fn handle_session(parts: &Arc<Parts>, event: transport::Event) {
    use transport::Event as Session;
    match event {
        Session::SessionUp { peer, .. } => {
            let node = peer.info.id.clone();
            tracing::info!(%node, address = %peer.info.address, "a node is there");
            parts.lock_refusals().handle_taken_in();
            parts.note_session(&node, true);
            parts.note_belonging(&node, peer.belongs.clone());
            parts.transport.remember(&node.node, &peer.info.address);
            if parts.sides.is_available() {
                parts.handle_peer_up(&peer.info, peer.belongs.clone());
            } else {
                founding::handle_met(parts, &peer);
                parts.ports.coordinator.cast(AssignmentCoordinatorMsg::PeerUp(peer.info.clone()));
            }
            parts.greet_as_leader(&node.node);
            parts.tell(Event::NodeUp { node });
        }
        Session::SessionDown { peer, reason, .. } => {
            tracing::info!(node = %peer, %reason, "a node is gone");
            parts.note_session(&peer, false);
            parts.note_belonging(&peer, None);
            parts.handle_peer_down(&peer);
            parts.ports.coordinator.cast(AssignmentCoordinatorMsg::PeerDown(peer.clone()));
            parts.look_for_crash(peer.clone());
            parts.tell(Event::NodeDown { node: peer, reason: reason.to_string() });
        }
        Session::Refused { address, refusal, by_us } => {
            tracing::warn!(%address, %refusal, by_us, "refused");
            parts.handle_refused(&address, &refusal);
            parts.tell(Event::Refused { address, refusal, by_us });
        }
        Session::DialFailed { address, attempt, .. } => {
            parts.lock_refusals().handle_not_refused(&address);
            tracing::debug!(%address, attempt, "nobody could be spoken to; tried again");
        }
    }
}

impl Parts {
    fn lock_refusals(&self) -> MutexGuard<'_, Refusals> {
        self.refusals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Other seeds are told: what those before them said is no matter.
    pub(super) fn hope_anew(&self, seeds: Vec<String>) {
        *self.lock_refusals() = Refusals::new(seeds);
    }

    /// A dial ended with a refusal. Where no seed will ever take this node in, it ends with the reason: to go on would look
    /// like a node that waits for others. One that belonged to a cluster once may have members to find.
    fn handle_refused(self: &Arc<Self>, address: &str, refusal: &Refusal) {
        let now = self.clock.now();
        let hopeless = {
            let mut refusals = self.lock_refusals();
            refusals.handle_refused(now, address, refusal);
            refusals.hopeless(now)
        };
        let Some(why) = hopeless.filter(|_| !self.belongs_somewhere() && !self.is_stopping()) else { return };
        let parts = Arc::clone(self);
        // A task of its own, for stopping the node ends those that it keeps.
        tokio::spawn(async move { parts.fail(why).await });
    }

    /// The leader's session ended: if its process is surely gone, this voter need not wait for its silence.
    fn look_for_crash(self: &Arc<Self>, node: NodeBoot) {
        let Some(plan) = self.plans.newest() else { return };
        let Some(member) = plan.member(node.node.as_str()).filter(|member| *member.id() == node) else {
            return;
        };
        let address = member.info.address.clone();
        let leads = self.consensus().leadership().borrow().leader.as_ref() == Some(&node.node);
        if !leads || !self.crash_proof.holds_for(&address) {
            return;
        }
        let parts = Arc::clone(self);
        self.tasks.spawn(async move {
            // A dying process closes its listener last, a little after its sessions: the first dial may be too early.
            let mut wait = PROBE_AGAIN_AFTER;
            while parts.transport.probe(&address, PROBE_WITHIN).await != transport::Probe::Refused {
                tokio::time::sleep(wait).await;
                wait *= 2;
                let leads = parts.consensus().leadership().borrow().leader.as_ref() == Some(&node.node);
                if !leads || parts.is_connected(&node) || wait > PROBE_AGAIN_MAX {
                    return;
                }
            }
            tracing::info!(leader = %node, "the leader's process is gone");
            parts.consensus().leader_crashed(&node.node);
        });
    }
}
