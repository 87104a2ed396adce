//! Runs the law of membership over the transport, and shows everybody who is there.
//!
//! ```text
//!  Transport ─ sessions, gossip ─▶ Membership (core's law) ─▶ Members: the view, the sessions
//!      ▲                              │        ▲
//!      └── packets, whom to dial ─────┘        └── seeds: a list, a function asked again and again, or both
//! ```
//!
//! [`Members`] belongs to the node: a membership that crashed comes back to its view, and the view never is empty.

mod seeds;
mod sessions;

#[cfg(test)]
pub(crate) mod lab;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::{oneshot, watch};
use tokio::task::AbortHandle;
use tumen_core::Moment;
use tumen_core::cluster::member::NodeInfo;
use tumen_core::cluster::membership::{Config, ConfigError, Effect, Membership as Law, View};
use tumen_core::ids::NodeName;
use tumen_core::wire::stable_hash;

pub use self::seeds::{Discover, SEEDS_MAX, Seeds, StillAlone};
pub use self::sessions::Sessions;
use crate::clock::Clock;
use crate::port::Port;
use crate::transport::{Channel, Event, SendError, Transport};

/// The most packets that wait in the mailbox. More are dropped, as gossip allows.
const WAITING_MAX: usize = 4096;

/// Who is there: the view, the sessions, and the ways to change them. Cheap to clone; it belongs to the node.
#[derive(Clone)]
pub struct Members {
    info: Arc<NodeInfo>,
    view: Arc<watch::Sender<Arc<View>>>,
    seeds: Arc<watch::Sender<Seeds>>,
    /// Where the transport was told that somebody is to be met.
    meeting: Arc<Mutex<BTreeSet<String>>>,
    sessions: Sessions,
    port: Port<MembershipMsg>,
}

impl Members {
    /// A node that knows nobody yet: its view is itself.
    pub fn new(info: NodeInfo, clock: &Clock, seeds: Seeds) -> Self {
        let info = Arc::new(info);
        let view = Arc::new(View::alone(info.clone(), clock.now()));
        Self {
            info,
            view: Arc::new(watch::Sender::new(view)),
            seeds: Arc::new(watch::Sender::new(seeds)),
            meeting: Arc::default(),
            sessions: Sessions::default(),
            port: Port::default(),
        }
    }

    /// What this node holds for true now.
    pub fn view(&self) -> Arc<View> {
        self.view.borrow().clone()
    }

    /// The view, now and whenever it changes.
    pub fn subscribe(&self) -> watch::Receiver<Arc<View>> {
        self.view.subscribe()
    }

    /// The names of the nodes held for alive, sorted. This node is always among them.
    pub fn live_nodes(&self) -> Vec<NodeName> {
        self.view.borrow().live_nodes()
    }

    /// The sessions that are up, for whoever must hear of each.
    pub fn sessions(&self) -> &Sessions {
        &self.sessions
    }

    /// `node` is up, and found at `address`, if one is given. It undoes [`Self::node_down`]; twice is the same as once.
    pub fn node_up(&self, node: &NodeName, address: Option<String>) {
        self.port.cast(MembershipMsg::NodeUp { node: node.clone(), address });
    }

    /// `node` is down: it leaves this node's view, until [`Self::node_up`] or until a newer run of it appears. The other
    /// nodes' views stay as they are. This node stays in its own view; twice is the same as once.
    pub fn node_down(&self, node: &NodeName) {
        self.port.cast(MembershipMsg::NodeDown { node: node.clone() });
    }

    /// Looks for others by these seeds from now on, and no more by those that are not among them. Nodes that are known already
    /// stay known.
    pub fn set_seeds(&self, seeds: Seeds) {
        self.seeds.send_replace(seeds);
        self.port.cast(MembershipMsg::SeedsChanged);
    }

    fn lock_meeting(&self) -> MutexGuard<'_, BTreeSet<String>> {
        // Nothing panics while it is locked.
        self.meeting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where this node looks for others.
    pub fn seeds(&self) -> Seeds {
        self.seeds.borrow().clone()
    }

    /// Says goodbye to all others. From then on nothing is heard, and the view stays as it is.
    pub async fn leave(&self) {
        let (done, told) = oneshot::channel();
        if self.port.cast(MembershipMsg::Leave { done }) {
            // If the actor ended meanwhile, there is nobody left to say goodbye.
            drop(told.await);
        }
    }
}

impl fmt::Debug for Members {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.live_nodes()).finish()
    }
}

/// What membership is told.
#[derive(Debug)]
pub enum MembershipMsg {
    /// A packet came over the session with `from`.
    Packet {
        /// Whose session.
        from: NodeName,
        /// The packet.
        packet: Bytes,
    },
    /// Something happened to a session.
    Session(Event),
    /// A moment that the law asked for has come. Old news, if it asked for another one since.
    Wake {
        /// Which one.
        wake: u64,
    },
    /// It is time to look for others. Old news, if the seeds changed since.
    Look {
        /// Which look.
        look: u64,
    },
    /// A look for others has found these.
    Found {
        /// Which look.
        look: u64,
        /// The addresses of their cluster ports.
        addresses: Vec<String>,
    },
    /// There are other seeds.
    SeedsChanged,
    /// See [`Members::node_up`].
    NodeUp {
        /// Which node.
        node: NodeName,
        /// Where it is found.
        address: Option<String>,
    },
    /// See [`Members::node_down`].
    NodeDown {
        /// Which node.
        node: NodeName,
    },
    /// Say goodbye to all others.
    Leave {
        /// Told when that is under way.
        done: oneshot::Sender<()>,
    },
}

impl ractor::Message for MembershipMsg {}

/// The actor. It takes its place behind [`Members`] by itself.
pub struct Membership {
    config: Config,
    members: Members,
    transport: Transport,
    clock: Clock,
}

impl Membership {
    /// Runs `members` over `transport`.
    ///
    /// # Errors
    /// A knob is out of its range.
    pub fn new(
        config: Config,
        members: Members,
        transport: Transport,
        clock: Clock,
    ) -> Result<Self, ConfigError> {
        config.check()?;
        Ok(Self { config, members, transport, clock })
    }

    /// Hands what arrives on to whichever run of the actor is there.
    fn listen(&self, waiting: &Arc<AtomicUsize>) {
        let (port, waiting) = (self.members.port.clone(), Arc::clone(waiting));
        let handler = move |session: &crate::transport::Session, packet: Bytes| {
            if waiting.fetch_add(1, Ordering::Relaxed) >= WAITING_MAX {
                waiting.fetch_sub(1, Ordering::Relaxed);
                return;
            }
            if !port.cast(MembershipMsg::Packet { from: session.peer.node.clone(), packet }) {
                waiting.fetch_sub(1, Ordering::Relaxed);
            }
        };
        self.transport.on_control(Channel::Gossip, Arc::new(handler));
        let port = self.members.port.clone();
        let listener = move |event| {
            port.cast(MembershipMsg::Session(event));
        };
        self.members.sessions.subscribe("membership", Arc::new(listener));
    }
}

/// What the actor holds.
pub struct MembershipState {
    law: Law,
    /// How many packets wait in the mailbox.
    waiting: Arc<AtomicUsize>,
    wakes: u64,
    waking: Option<AbortHandle>,
    looks: u64,
    looking: Option<AbortHandle>,
    /// How often it looked since it was not alone.
    looks_alone: u32,
    found: Vec<String>,
}

impl Actor for Membership {
    type Msg = MembershipMsg;
    type State = MembershipState;
    type Arguments = ();

    async fn pre_start(
        &self,
        myself: ActorRef<MembershipMsg>,
        (): (),
    ) -> Result<MembershipState, ActorProcessingErr> {
        let info = self.members.info.as_ref().clone();
        let seed = stable_hash(info.name().as_str().as_bytes()) ^ info.boot().0;
        let former = self.members.view();
        let (law, effects) = Law::new(self.config.clone(), info, Some(&former), seed, self.clock.now())?;
        let waiting = Arc::default();
        let mut state = MembershipState {
            law,
            waiting,
            wakes: 0,
            waking: None,
            looks: 0,
            looking: None,
            looks_alone: 0,
            found: Vec::new(),
        };
        self.members.view.send_replace(state.law.view().clone());
        self.run_effects(&myself, &mut state, effects);
        self.members.port.lead_to(myself.clone());
        self.listen(&state.waiting);
        self.look(&myself, &mut state);
        Ok(state)
    }

    async fn handle(
        &self,
        myself: ActorRef<MembershipMsg>,
        message: MembershipMsg,
        state: &mut MembershipState,
    ) -> Result<(), ActorProcessingErr> {
        let now = self.clock.now();
        let effects = match message {
            MembershipMsg::Packet { from, packet } => {
                state.waiting.fetch_sub(1, Ordering::Relaxed);
                state.law.handle_packet(now, &from, &packet).unwrap_or_else(|error| {
                    tracing::debug!(%from, %error, "a packet is dropped");
                    Vec::new()
                })
            }
            MembershipMsg::Session(event) => self.handle_session(now, event, state),
            MembershipMsg::Wake { wake } if wake == state.wakes => state.law.handle_timer(now),
            MembershipMsg::Wake { .. } => Vec::new(),
            MembershipMsg::Look { look } => {
                if look == state.looks {
                    self.look(&myself, state);
                }
                Vec::new()
            }
            MembershipMsg::Found { look, addresses } => {
                if look == state.looks {
                    self.meet(&myself, state, addresses);
                }
                Vec::new()
            }
            MembershipMsg::SeedsChanged => {
                state.found.clear();
                self.look(&myself, state);
                Vec::new()
            }
            MembershipMsg::NodeUp { node, address } => state.law.handle_told_up(now, &node, address),
            MembershipMsg::NodeDown { node } => state.law.handle_told_down(now, &node),
            MembershipMsg::Leave { done } => {
                let effects = state.law.handle_leave(now);
                self.run_effects(&myself, state, effects);
                // Whoever asked may have gone.
                let _ = done.send(());
                Vec::new()
            }
        };
        self.run_effects(&myself, state, effects);
        Ok(())
    }

    async fn post_stop(
        &self,
        _myself: ActorRef<MembershipMsg>,
        state: &mut MembershipState,
    ) -> Result<(), ActorProcessingErr> {
        state.waking.take().inspect(AbortHandle::abort);
        state.looking.take().inspect(AbortHandle::abort);
        Ok(())
    }
}

impl Membership {
    fn handle_session(&self, now: Moment, event: Event, state: &mut MembershipState) -> Vec<Effect> {
        match event {
            Event::SessionUp { peer, .. } => state.law.handle_session_up(now, &peer.info),
            Event::SessionDown { peer, .. } => state.law.handle_session_down(now, &peer),
            Event::Refused { address, refusal, by_us } => {
                tracing::debug!(%address, %refusal, by_us, "no peer");
                Vec::new()
            }
            Event::DialFailed { address, attempt, .. } => {
                tracing::debug!(%address, attempt, "nobody could be spoken to");
                Vec::new()
            }
        }
    }

    fn run_effects(
        &self,
        myself: &ActorRef<MembershipMsg>,
        state: &mut MembershipState,
        effects: Vec<Effect>,
    ) {
        for effect in effects {
            match effect {
                Effect::Send { to, packet } => match self.transport.cast(&to, Channel::Gossip, &packet) {
                    // A probe that is lost is made good by the next, and a list by comparing lists.
                    Ok(()) | Err(SendError::NoSession | SendError::Overloaded) => {}
                    Err(error @ SendError::TooLong { .. }) => {
                        tracing::error!(%to, %error, "a packet is dropped");
                    }
                },
                Effect::WakeAt(moment) => self.wake_at(myself, state, moment),
                Effect::ViewChanged(view) => {
                    if let Some(newer) = &view.superseded_by {
                        tracing::error!(%newer, "a newer process has this node's name: stop one of the two");
                    }
                    tracing::debug!(number = view.number, alive = view.alive().count(), "the view changed");
                    self.members.view.send_replace(view);
                }
                Effect::Dial { node, address } => self.transport.remember(&node, &address),
                Effect::Forget { node } => self.transport.forget(&node),
            }
        }
    }

    fn wake_at(&self, myself: &ActorRef<MembershipMsg>, state: &mut MembershipState, moment: Moment) {
        state.waking.take().inspect(AbortHandle::abort);
        state.wakes += 1;
        let (myself, wake, wait) = (myself.clone(), state.wakes, self.clock.until(moment));
        let waking = tokio::spawn(async move {
            tokio::time::sleep(wait).await;
            // If the actor has ended, nobody needs to be woken.
            drop(myself.cast(MembershipMsg::Wake { wake }));
        });
        state.waking = Some(waking.abort_handle());
    }

    /// Meets whoever is known by the seeds, and asks for more if somebody can be asked.
    fn look(&self, myself: &ActorRef<MembershipMsg>, state: &mut MembershipState) {
        state.looks += 1;
        state.looking.take().inspect(AbortHandle::abort);
        let seeds = self.members.seeds();
        let Some(discover) = seeds.discover.clone() else {
            return self.meet(myself, state, Vec::new());
        };
        self.meet_all(state);
        let (myself, look, within) = (myself.clone(), state.looks, seeds.refresh.max(Duration::from_secs(5)));
        let looking = tokio::spawn(async move {
            // It is the user's code: if it panics or hangs, the next look is another chance.
            let asked = std::panic::AssertUnwindSafe(async { discover().await }).catch_unwind();
            let addresses = match tokio::time::timeout(within, asked).await {
                Ok(Ok(addresses)) => addresses,
                Ok(Err(_)) => {
                    tracing::error!("the look for other nodes panicked");
                    Vec::new()
                }
                Err(_) => {
                    tracing::warn!(?within, "the look for other nodes took too long");
                    Vec::new()
                }
            };
            // If the actor has ended, nobody is to be met.
            drop(myself.cast(MembershipMsg::Found { look, addresses }));
        });
        state.looking = Some(looking.abort_handle());
    }

    fn meet(&self, myself: &ActorRef<MembershipMsg>, state: &mut MembershipState, found: Vec<String>) {
        if !found.is_empty() {
            state.found = found;
        }
        self.meet_all(state);
        let seeds = self.members.seeds();
        let alone =
            self.members.sessions.up().is_empty() || seeds.still_alone.as_ref().is_some_and(|is| is());
        let wait = seeds.wait(alone.then_some(state.looks_alone));
        state.looks_alone = if alone { state.looks_alone.saturating_add(1) } else { 0 };
        let (myself, look) = (myself.clone(), state.looks);
        let looking = tokio::spawn(async move {
            tokio::time::sleep(wait).await;
            // If the actor has ended, nobody is to be met.
            drop(myself.cast(MembershipMsg::Look { look }));
        });
        state.looking = Some(looking.abort_handle());
    }

    fn meet_all(&self, state: &MembershipState) {
        let peers = self.members.sessions.up();
        let met: BTreeSet<_> = peers.iter().map(|peer| peer.info.address.as_str()).collect();
        let addresses = self.members.seeds().addresses(&state.found, &self.members.info.address);
        let former = std::mem::replace(&mut *self.members.lock_meeting(), addresses.clone());
        former.difference(&addresses).for_each(|address| self.transport.unmeet(address));
        // Who is dialled already is dialled on; the transport waits longer each time.
        addresses
            .iter()
            .filter(|address| !met.contains(address.as_str()))
            .for_each(|address| self.transport.meet(address));
    }
}
