//! Asks for this node's lease, and opens and closes its gate by it.
//!
//! The lease itself belongs to the node, not to this actor: an actor that crashed comes back to the releases
//! that it gave, for a release is final.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::task::AbortHandle;
use tumen_core::Moment;
use tumen_core::cluster::lease::{Config, Effect, Holder, Refusal, Release, Reply, Request};
use tumen_core::cluster::snapshot::Snapshot;
use tumen_core::ids::{NodeBoot, NodeName, Version};
use tumen_core::wire::LeaseFrame;

use crate::clock::Clock;
use crate::codec;
use crate::partitions::Gate;
use crate::transport::{Channel, Transport};

/// Takes the requests that this node sends to itself, while it leads.
pub type ToSelf = Arc<dyn Fn(Request) + Send + Sync>;

/// This node's lease, shared between those who must know of it. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Lease {
    holder: Arc<Mutex<Holder>>,
}

impl Lease {
    /// The lease of a boot that has just started.
    pub fn new(me: NodeBoot, config: Config) -> Self {
        Self { holder: Arc::new(Mutex::new(Holder::new(me, config))) }
    }

    /// These were stopped for good. Noted at once, not by a message: whoever reads [`Self::releases`] after this sees
    /// them, even if an actor crashes in between.
    pub fn note_released(&self, now: Moment, releases: Vec<Release>) {
        self.with(|holder| holder.note_released(now, releases));
    }

    fn with<T>(&self, act: impl FnOnce(&mut Holder) -> T) -> T {
        // A panic while the lock was held left the law in a state that it had; it holds no half-made ones.
        act(&mut self.holder.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The releases that no plan has answered yet.
    pub fn releases(&self) -> Vec<Release> {
        self.with(|holder| holder.releases().collect())
    }

    /// Why the last request was refused, if it was.
    pub fn refusal(&self) -> Option<Refusal> {
        self.with(|holder| holder.refusal().cloned())
    }

    /// The newest plan that this node acted on.
    pub fn acted_on(&self) -> Version {
        self.with(|holder| holder.acted_on().version)
    }
}

/// What the keeper's mailbox takes.
#[derive(Debug)]
pub enum LeaseKeeperMsg {
    /// The time that the law asked to be woken at has come.
    Wake,
    /// Somebody leads.
    Leader(NodeName),
    /// A reply came.
    Reply(Reply),
    /// What `0` took away lets nothing out any more.
    ActedOn(Arc<Snapshot>),
    /// This node left its cluster.
    Left,
}

impl ractor::Message for LeaseKeeperMsg {}

/// The actor.
pub struct LeaseKeeper {
    me: NodeName,
    lease: Lease,
    gate: Gate,
    clock: Clock,
    transport: Transport,
    to_self: ToSelf,
    /// Told of the newest plan that a grant named, so that a node that missed it can ask for it.
    behind: Arc<dyn Fn(Version) + Send + Sync>,
    /// Whether the node stops for good.
    stopping: Arc<dyn Fn() -> bool + Send + Sync>,
    /// Whether a node may be one that can let this one serve.
    askable: Askable,
}

/// Says of a node whether it may be one that can let this one serve.
pub type Askable = Arc<dyn Fn(&NodeBoot) -> bool + Send + Sync>;

/// What the keeper remembers.
#[derive(Debug, Default)]
pub struct LeaseKeeperState {
    wake: Option<AbortHandle>,
    /// Whom to ask next while nobody is known to lead.
    turn: usize,
}

impl LeaseKeeper {
    /// The keeper of `lease`.
    pub fn new(
        lease: Lease,
        gate: Gate,
        clock: Clock,
        transport: Transport,
        to_self: ToSelf,
        behind: Arc<dyn Fn(Version) + Send + Sync>,
        (stopping, askable): (Arc<dyn Fn() -> bool + Send + Sync>, Askable),
    ) -> Self {
        let me = transport.local().node.clone();
        Self { me, lease, gate, clock, transport, to_self, behind, stopping, askable }
    }

    fn run(&self, myself: &ActorRef<LeaseKeeperMsg>, state: &mut LeaseKeeperState, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Ask { to, request } => self.ask(state, to, request),
                Effect::Publish { until } => self.gate.publish(until),
                Effect::Pause => {
                    tracing::warn!(node = %self.me, "paused: no lease, nothing leaves this node");
                }
                Effect::Resume => tracing::info!(node = %self.me, "leased: serving"),
            }
        }
        let at = self.lease.with(|holder| holder.wake_at());
        if let Some(former) = state.wake.take() {
            former.abort();
        }
        // A law that wants to be woken at once is woken soon: the mailbox comes first.
        let wait = self.clock.until(at).max(Duration::from_millis(1));
        let myself = myself.clone();
        let waking = tokio::spawn(async move {
            tokio::time::sleep(wait).await;
            drop(myself.cast(LeaseKeeperMsg::Wake));
        });
        state.wake = Some(waking.abort_handle());
    }

    fn ask(&self, state: &mut LeaseKeeperState, to: Option<NodeName>, request: Request) {
        // Whoever were to take this node in would count on what it is about to forget.
        if self.gate.is_leaving() {
            return;
        }
        let to = to.or_else(|| {
            let mut sessions = self.transport.sessions();
            sessions.retain(|session| (self.askable)(&session.peer));
            state.turn = state.turn.wrapping_add(1);
            // This node is asked too: it may be the leader of itself alone.
            let at = state.turn % (sessions.len() + 1);
            sessions.get(at).map(|session| session.peer.node.clone())
        });
        match to {
            Some(to) if to != self.me => {
                let frame = codec::pack(&LeaseFrame::Request(request));
                if let Err(error) = self.transport.cast(&to, Channel::Lease, &frame) {
                    tracing::trace!(%to, %error, "the lease request was not sent");
                }
            }
            _ => (self.to_self)(request),
        }
    }
}

/// Reads a lease frame that a peer sent. Broken ones are dropped with a word in the log.
pub fn read_frame(from: &NodeBoot, body: &Bytes) -> Option<LeaseFrame> {
    match codec::decode(body, crate::transport::CONTROL_LEN_MAX) {
        Ok(frame) => Some(frame),
        Err(error) => {
            tracing::warn!(%from, %error, "a lease message cannot be read and is dropped");
            None
        }
    }
}

impl Actor for LeaseKeeper {
    type Msg = LeaseKeeperMsg;
    type State = LeaseKeeperState;
    type Arguments = ();

    async fn pre_start(
        &self,
        myself: ActorRef<Self::Msg>,
        (): (),
    ) -> Result<Self::State, ActorProcessingErr> {
        drop(myself.cast(LeaseKeeperMsg::Wake));
        Ok(LeaseKeeperState::default())
    }

    async fn handle(
        &self,
        myself: ActorRef<Self::Msg>,
        message: Self::Msg,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        let now = self.clock.now();
        if matches!(message, LeaseKeeperMsg::Left) {
            self.gate.handle_left();
        }
        if let LeaseKeeperMsg::Reply(Reply { answer, .. }) = &message {
            use tumen_core::cluster::lease::Answer;
            let newest = match answer {
                Answer::Granted { newest, .. } => Some(newest.version),
                Answer::Refused(Refusal::Ended { after: Some(plan) }) => Some(plan.version),
                Answer::Refused(_) => None,
            };
            if let Some(newest) = newest.filter(|newest| *newest > self.lease.acted_on()) {
                (self.behind)(newest);
            }
        }
        let effects = self.lease.with(|holder| match message {
            LeaseKeeperMsg::Wake => holder.handle_wake(now),
            LeaseKeeperMsg::Left => holder.handle_left(now),
            LeaseKeeperMsg::Leader(leader) => holder.handle_leader(now, leader),
            LeaseKeeperMsg::Reply(reply) => holder.handle_reply(now, reply),
            LeaseKeeperMsg::ActedOn(plan) => holder.handle_acted(now, &plan),
        });
        self.run(&myself, state, effects);
        Ok(())
    }

    async fn post_stop(
        &self,
        _: ActorRef<Self::Msg>,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        if let Some(wake) = state.wake.take() {
            wake.abort();
        }
        if (self.stopping)() {
            // Of the node's actors this one stops last: nothing is served any more, and the lease goes back.
            let now = self.clock.now();
            for effect in self.lease.with(|holder| holder.handle_stopping(now)) {
                match effect {
                    Effect::Ask { to, request } => self.ask(state, to, request),
                    Effect::Publish { until } => self.gate.publish(until),
                    Effect::Pause | Effect::Resume => {}
                }
            }
        }
        Ok(())
    }
}
