//! Who is there and who wants to be: what the leader saw of each node, and what follows for the member list.
//!
//! ```text
//!            window closes            proof, or lease surely over             rebuild_after
//!  waiting ───────────────▶ Up ──────────────────────────────────▶ Lost ─────────────────────▶ gone
//!                           │ ▲                                      │
//!             stops, drains │ └────────── heard again ───────────────┤
//!                           ▼                                        │
//!                      Away / Leaving ───── rejoin_grace over, or copies moved away ──────▶ gone
//! ```

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::cluster::lease::PlanId;
use crate::cluster::member::{Member, NodeInfo, Status};
use crate::ids::{Boot, NodeBoot, NodeName};
use crate::time::Moment;

/// How a node goes in good order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Departure {
    /// Its process stops. It keeps its copies, and its place for `grace` (zero: it is not expected back).
    Stop {
        /// How long its place is kept.
        grace: Duration,
    },
    /// It is primary of nothing from now on, and keeps running.
    Drain {
        /// Whether its copies move away too, after which it is no member any more.
        leave: bool,
    },
}

/// What the leader saw of one node.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    /// What the node says of itself, as its newest boot said it.
    pub(super) info: NodeInfo,
    /// Whether a session with that boot is open.
    pub(super) connected: bool,
    /// When that boot last asked for a lease; `None` if it never did.
    pub(super) heard: Option<Moment>,
    /// The newest plan that that boot acted on.
    pub(super) acted_on: PlanId,
    /// Older boots up to this one are surely dead.
    pub(super) dead: Option<Boot>,
    /// How it goes, if it goes.
    pub(super) departure: Option<Departure>,
    /// Since when it has been gone, while it is.
    pub(super) gone_since: Option<Moment>,
}

impl Seen {
    fn new(info: NodeInfo) -> Self {
        Self {
            info,
            connected: false,
            heard: None,
            acted_on: PlanId::ZERO,
            dead: None,
            departure: None,
            gone_since: None,
        }
    }

    /// Whether this boot of the node is surely dead.
    pub(super) fn is_dead(&self, boot: Boot) -> bool {
        self.dead.is_some_and(|dead| boot <= dead)
    }
}

/// All nodes that the leader saw.
#[derive(Clone, Debug, Default)]
pub(super) struct Roster {
    seen: BTreeMap<NodeName, Seen>,
}

impl Roster {
    pub(super) fn get(&self, name: &NodeName) -> Option<&Seen> {
        self.seen.get(name)
    }

    /// The entry of a node whose boot is at least as new as what is known of it.
    pub(super) fn current(&mut self, id: &NodeBoot) -> Option<&mut Seen> {
        self.seen.get_mut(&id.node).filter(|seen| seen.info.boot() == id.boot)
    }

    /// The entry for what a node says of itself; a newer boot replaces an older one, and an older one is old news.
    pub(super) fn learn(&mut self, info: &NodeInfo) -> Option<&mut Seen> {
        let seen = self.seen.entry(info.name().clone()).or_insert_with(|| Seen::new(info.clone()));
        if info.boot() < seen.info.boot() {
            return None;
        }
        if info.boot() > seen.info.boot() {
            let kept = Seen { dead: seen.dead, gone_since: seen.gone_since, ..Seen::new(info.clone()) };
            *seen = kept;
        }
        seen.info = info.clone();
        Some(seen)
    }

    /// A boot is surely dead.
    pub(super) fn bury(&mut self, id: &NodeBoot) {
        if let Some(seen) = self.seen.get_mut(&id.node) {
            seen.dead = seen.dead.max(Some(id.boot));
            if seen.info.boot() <= id.boot {
                seen.connected = false;
            }
        }
    }

    /// Nodes that are connected and asked for a lease, sorted by name.
    pub(super) fn present(&self) -> impl Iterator<Item = &Seen> {
        self.seen.values().filter(|seen| seen.connected && !seen.is_dead(seen.info.boot()))
    }

    /// Forgets how long nodes have been gone: a new leader counts anew.
    pub(super) fn start_term(&mut self) {
        for seen in self.seen.values_mut() {
            seen.gone_since = None;
            seen.heard = None;
        }
    }

    /// Forgets nodes that are neither members nor connected, so that the roster stays as small as the cluster.
    pub(super) fn forget_strangers(&mut self, members: &[Member]) {
        let is_member = |name: &NodeName| members.binary_search_by(|m| m.name().cmp(name)).is_ok();
        self.seen.retain(|name, seen| seen.connected || is_member(name));
    }

    /// Marks since when each member that is not `Up` has been so.
    pub(super) fn note_statuses(&mut self, now: Moment, members: &[Member]) {
        for member in members {
            let Some(seen) = self.learn_member(member) else { continue };
            match member.status {
                Status::Up => seen.gone_since = None,
                Status::Leaving | Status::Away | Status::Lost => {
                    seen.gone_since.get_or_insert(now);
                }
            }
        }
    }

    fn learn_member(&mut self, member: &Member) -> Option<&mut Seen> {
        if !self.seen.contains_key(member.name()) {
            self.seen.insert(member.name().clone(), Seen::new(member.info.clone()));
        }
        self.seen.get_mut(member.name())
    }
}

/// Joins a burst of changes into one: closed a quiet time after the last, and a longest time after the first.
#[derive(Clone, Debug, Default)]
pub(super) struct Window {
    waiting: Vec<NodeBoot>,
    opened: Option<Moment>,
    changed: Option<Moment>,
    /// When the last window closed with a change.
    closed: Option<Moment>,
}

/// How long a [`Window`] stays open.
#[derive(Clone, Copy, Debug)]
pub struct WindowConfig {
    /// Quiet time after the last join before the plan changes. Default 100 ms. Not above `quiet_again`.
    pub quiet: Duration,
    /// The same where the last such change is less than `recent` ago. Default 600 ms. Not above `longest`.
    pub quiet_again: Duration,
    /// How long a change counts as recent. Default 5 s.
    pub recent: Duration,
    /// The longest that a join waits, however many follow it. Default 3 s.
    pub longest: Duration,
}

impl Default for WindowConfig {
    fn default() -> Self {
        Self {
            quiet: Duration::from_millis(100),
            quiet_again: Duration::from_millis(600),
            recent: Duration::from_secs(5),
            longest: Duration::from_secs(3),
        }
    }
}

impl Window {
    /// Takes who waits now; says when the window closes, if anybody waits.
    pub(super) fn observe(
        &mut self,
        now: Moment,
        waiting: Vec<NodeBoot>,
        config: &WindowConfig,
    ) -> Option<Moment> {
        if waiting.is_empty() {
            self.waiting.clear();
            self.opened = None;
            return None;
        }
        if waiting != self.waiting {
            self.waiting = waiting;
            self.changed = Some(now);
        }
        self.opened.get_or_insert(now);
        self.closes(config)
    }

    /// Whether anybody waits.
    pub(super) const fn is_open(&self) -> bool {
        self.opened.is_some()
    }

    /// When the window closes, as far as is known now.
    pub(super) fn closes(&self, config: &WindowConfig) -> Option<Moment> {
        let opened = self.opened?;
        let again = self.closed.is_some_and(|closed| opened.since(closed) < config.recent);
        let quiet = if again { config.quiet_again } else { config.quiet };
        Some((self.changed.unwrap_or(opened) + quiet).min(opened + config.longest))
    }

    /// The change was carried out.
    pub(super) fn close(&mut self, now: Moment) {
        if self.opened.take().is_some() {
            self.closed = Some(now);
        }
        self.waiting.clear();
    }
}
