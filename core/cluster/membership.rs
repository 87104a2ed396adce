//! Membership: which nodes there are, and which of them seem to live. It discovers and suspects; it decides nothing.
//!
//! ```text
//!  session up ──▶ Hello ⇄ Hello ──▶ unknown here? the newcomer gets the whole list at once,
//!                                   and all others get the newcomer
//!  SWIM (foca)    probe ──no answer──▶ Suspected ──`suspicion`──▶ Down ──`forget_after`──▶ forgotten
//!  session down ─────────────────────▶ Suspected ──`suspicion`──▶ Down
//!                                          └──the node refutes──▶ Alive
//!  every `sync_interval`: is your list the same as mine? (a hash; the lists follow if not)
//! ```
//!
//! A false alarm restarts nothing: only the committed member list lets anyone promote, place anew, or free a
//! name. A node that was held for down by mistake hears of it, takes a new *revival*, and is back.
//!
//! SWIM with suspicion: Das, Gupta, Motivala 2002; comparing lists: Hashicorp's memberlist.

mod codec;
mod config;
mod hearing;
mod identity;
mod packet;
mod swim;
mod telling;
mod view;

#[cfg(test)]
mod tests;
#[cfg(test)]
mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use foca::Member;

use self::identity::Identity;
use self::packet::Packet;
use self::swim::{Chance, Swim};
use crate::cluster::member::NodeInfo;
use crate::ids::{Boot, NodeBoot, NodeName};
use crate::time::Moment;

pub use self::config::{Config, ConfigError, PACKET_LEN_MAX};
pub use self::packet::{IDENTITY_LEN_MAX, PacketError};
pub use self::view::{Seen, Source, State, View};

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Send `packet` over the session with `to`. If that session is gone, drop it.
    Send {
        /// The node it is for.
        to: NodeName,
        /// Answered, if at all, by a packet to [`Membership::handle_packet`].
        packet: Bytes,
    },
    /// Call [`Membership::handle_timer`] then. It replaces the moment asked for before.
    WakeAt(Moment),
    /// What this node holds for true has changed.
    ViewChanged(Arc<View>),
    /// See to it that there is a session with `node`, which listens at `address`: dial it, again and again,
    /// until [`Effect::Forget`].
    Dial {
        /// The node.
        node: NodeName,
        /// Where it says that it listens, as `host:port`.
        address: String,
    },
    /// Dial `node` no more.
    Forget {
        /// The node.
        node: NodeName,
    },
}

/// A node's membership: news goes in by `handle_*`, effects come out.
pub struct Membership {
    config: Config,
    swim: Swim,
    chance: Chance,
    /// All others that are known, those that are down included.
    known: BTreeMap<NodeName, Known>,
    sessions: BTreeMap<NodeName, Session>,
    /// Nodes that an operator took out of this node's view, until a newer run of them appears.
    told_down: BTreeMap<NodeName, Boot>,
    /// Nodes of which all others are to hear at once.
    news: BTreeSet<NodeName>,
    timers: BTreeMap<(Moment, u64), Timer>,
    timers_made: u64,
    /// A [`Timer::Compare`] is set.
    comparing: bool,
    /// The wake that was asked for last.
    wake: Option<Moment>,
    superseded_by: Option<NodeBoot>,
    left: bool,
    /// The hash over the lives of the nodes held for alive, this one included, and how many they are.
    digest: (u64, u32),
    /// The next view's nodes, this one included.
    nodes: Vec<Seen>,
    changed: bool,
    view: Arc<View>,
    effects: Vec<Effect>,
}

/// One other node, in step with what foca holds of it.
#[derive(Clone, Debug)]
struct Known {
    identity: Identity,
    incarnation: u16,
    state: State,
    since: Moment,
    source: Source,
    dialled: bool,
}

#[derive(Clone, Debug)]
struct Session {
    boot: Boot,
    /// When the sender has used up what it may send (the generic cell rate algorithm, ITU-T I.371).
    busy_until: Moment,
    /// When the whole list was last sent, which is large.
    listed_at: Option<Moment>,
}

#[derive(Clone, Debug)]
enum Timer {
    Swim(foca::Timer<Identity>),
    /// The session with this identity ended, and nobody vouched for it since.
    SessionLost {
        identity: Identity,
        incarnation: u16,
    },
    News,
    /// Compare lists with a stranger that knows as many nodes as this one: perhaps two clusters met.
    Compare {
        with: NodeName,
    },
    Sync,
}

/// Where news comes from, for [`Seen::source`].
#[derive(Clone, Copy)]
enum Cause<'a> {
    Packet { from: &'a str },
    Timer,
    Session,
}

impl Membership {
    /// The membership of a node that knows nobody yet; its view is the node itself.
    ///
    /// Of the same run's membership, one that is made later is the newer: `now` must not go back. It takes over the nodes that
    /// `former`, the last view of the one before it, held for alive, until they say otherwise or stay silent; and those that an
    /// operator took out stay out.
    ///
    /// # Errors
    /// A knob is out of range, or `info` has more than [`IDENTITY_LEN_MAX`] bytes.
    pub fn new(
        config: Config,
        info: NodeInfo,
        former: Option<&View>,
        seed: u64,
        now: Moment,
    ) -> Result<(Self, Vec<Effect>), ConfigError> {
        config.check()?;
        let texts = [Some(&*info.address), info.http.as_deref(), info.zone.as_ref().map(|zone| &*zone.0)];
        let services = info.services.iter().map(|service| service.len() + 2).sum::<usize>();
        let len = texts.into_iter().flatten().map(str::len).sum::<usize>() + services + 256;
        if len > IDENTITY_LEN_MAX {
            let must = format!("at most {IDENTITY_LEN_MAX} bytes in all: addresses, zone and services");
            return Err(ConfigError { knob: "node", value: format!("{len} bytes long"), must });
        }
        let info = Arc::new(info);
        let mut chance = Chance(seed);
        let view = View::alone(info.clone(), now);
        let swim = Swim::new(Identity::new(info, now.as_nanos()), &config, chance.draw());
        let mut law = Self {
            config,
            swim,
            chance,
            known: BTreeMap::new(),
            sessions: BTreeMap::new(),
            told_down: BTreeMap::new(),
            news: BTreeSet::new(),
            timers: BTreeMap::new(),
            timers_made: 0,
            comparing: false,
            wake: None,
            superseded_by: None,
            left: false,
            digest: (0, 1),
            nodes: view.nodes.clone(),
            changed: false,
            view: Arc::new(view),
            effects: Vec::new(),
        };
        law.digest.0 = law.swim.identity().hash();
        law.schedule_sync(now);
        if let Some(former) = former {
            law.take_over(now, former);
        }
        let effects = law.finish(now);
        Ok((law, effects))
    }

    /// A session with `peer` stands.
    pub fn handle_session_up(&mut self, now: Moment, peer: &NodeInfo) -> Vec<Effect> {
        let (name, boot) = (peer.name(), peer.boot());
        if self.left || name == self.name() {
            return self.finish(now);
        }
        // Two runs of one process may both have a session for a while: the newer counts.
        if self.sessions.get(name).is_some_and(|session| session.boot > boot) {
            return self.finish(now);
        }
        self.sessions.insert(name.clone(), Session { boot, busy_until: now, listed_at: None });
        self.say_hello(name.clone());
        self.finish(now)
    }

    /// The session with `peer` is gone. The node is suspected: its process may be.
    pub fn handle_session_down(&mut self, now: Moment, peer: &NodeBoot) -> Vec<Effect> {
        if self.left || self.sessions.get(&peer.node).is_none_or(|session| session.boot != peer.boot) {
            return self.finish(now);
        }
        self.sessions.remove(&peer.node);
        if let Some(known) = self.known.get(&peer.node)
            && known.identity.boot() == peer.boot
            && known.state.is_alive()
        {
            let (identity, incarnation) = (known.identity.clone(), known.incarnation);
            let suspect = Member::new(identity.clone(), incarnation, foca::State::Suspect);
            let _ = self.swim.apply(vec![suspect], true);
            self.spread(now, peer.node.clone());
            self.schedule(now + self.config.suspicion, Timer::SessionLost { identity, incarnation });
            self.follow_swim(now, Cause::Session);
        }
        self.finish(now)
    }

    /// A packet came over the session with `from`.
    ///
    /// # Errors
    /// The packet was dropped and nothing changed.
    pub fn handle_packet(
        &mut self,
        now: Moment,
        from: &NodeName,
        packet: &[u8],
    ) -> Result<Vec<Effect>, PacketError> {
        if self.left {
            return Ok(self.finish(now));
        }
        self.admit(now, from)?;
        match Packet::read(packet)? {
            Packet::Swim(gossip) => self.take_gossip(now, from, &gossip)?,
            Packet::Hello(hello) => self.take_hello(now, from, &hello)?,
            Packet::Members { answer, members } => {
                self.take_members(now, from, &members)?;
                if answer {
                    self.hand_list(now, from, false);
                }
            }
            Packet::Sync { digest } => {
                if digest != self.digest.0 {
                    self.hand_list(now, from, true);
                }
            }
            Packet::Leave(raw) => self.take_leave(now, from, raw)?,
        }
        Ok(self.finish(now))
    }

    /// The moment of an [`Effect::WakeAt`] has come. Too early, or once too often, does no harm.
    pub fn handle_timer(&mut self, now: Moment) -> Vec<Effect> {
        // If it came too early, it is asked for again.
        self.wake = None;
        self.thaw(now);
        while let Some(entry) = self.timers.first_entry()
            && entry.key().0 <= now
        {
            match entry.remove() {
                Timer::Swim(timer) => {
                    self.swim.handle_timer(timer);
                    self.follow_swim(now, Cause::Timer);
                }
                Timer::SessionLost { identity, incarnation } => self.end_wait(now, identity, incarnation),
                Timer::News => self.tell_news(),
                Timer::Compare { with } => {
                    self.comparing = false;
                    self.compare_lists(with);
                }
                Timer::Sync => {
                    self.forget_old(now);
                    let at =
                        usize::try_from(self.chance.below(self.sessions.len() as u64)).unwrap_or_default();
                    if let Some(with) = self.sessions.keys().nth(at).cloned() {
                        self.compare_lists(with);
                    }
                    self.schedule_sync(now);
                }
            }
        }
        self.finish(now)
    }

    /// An operator says that `node` is up, and where, if `address` is given. What [`Self::handle_told_down`]
    /// did is undone. Saying it twice changes nothing.
    pub fn handle_told_up(&mut self, now: Moment, node: &NodeName, address: Option<String>) -> Vec<Effect> {
        if self.left || node == self.name() {
            return self.finish(now);
        }
        let was_down = self.told_down.remove(node).is_some();
        let known = self.known.get(node).map(|known| known.identity.info().address.clone());
        if let Some(address) = address.or(known.filter(|_| was_down))
            && !self.sessions.contains_key(node)
        {
            self.effects.push(Effect::Dial { node: node.clone(), address });
        }
        self.show(node);
        self.finish(now)
    }

    /// An operator says that `node` is down: it leaves this node's view, whatever others say, until
    /// [`Self::handle_told_up`] or until a newer run of it appears. A node does not take itself out of its own view, and
    /// a name that is not known cannot be taken out. Saying it twice changes nothing.
    pub fn handle_told_down(&mut self, now: Moment, node: &NodeName) -> Vec<Effect> {
        if let Some(known) = self.known.get(node) {
            let boot = known.identity.boot();
            if self.told_down.insert(node.clone(), boot) != Some(boot) {
                self.effects.push(Effect::Forget { node: node.clone() });
            }
        }
        self.show(node);
        self.finish(now)
    }

    /// This node leaves: all others are told, and nothing that comes later is listened to.
    pub fn handle_leave(&mut self, now: Moment) -> Vec<Effect> {
        if !self.left {
            let goodbye = packet::leave(self.swim.identity());
            self.swim.leave();
            // Everybody hears of it from this node itself, and not that it was found dead.
            self.swim.wishes.sends.clear();
            let to_all = self.sessions.keys().cloned();
            self.effects.extend(to_all.map(|to| Effect::Send { to, packet: goodbye.clone() }));
            self.left = true;
            self.timers.clear();
        }
        self.finish(now)
    }

    /// What this node holds for true now.
    pub fn view(&self) -> &Arc<View> {
        &self.view
    }

    fn name(&self) -> &NodeName {
        self.swim.identity().name()
    }
}
