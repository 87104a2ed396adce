//! One session between two simulated nodes: two ends, and what is under way to each.

use std::collections::BTreeMap;

use tokio::sync::watch;
use tokio::time::Instant;
use tumen_core::cluster::greeting::Greeting;
use tumen_core::cluster::transport::Window;

use super::agenda::Action;
use crate::transport::{Done, Session};

/// Which lane something travels on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lane {
    Control,
    Data,
    /// Behind everything on both.
    Both,
}

/// Where something travels: to one end of a link, on a lane.
#[derive(Clone, Copy, Debug)]
pub(super) struct Way {
    pub(super) link: u64,
    /// Which end it is for: 0 is the node that dialled.
    pub(super) to: usize,
    pub(super) lane: Lane,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// The peer may be sending already, but this end's node does not know of the session yet.
    Pending,
    Up,
    Closed,
}

pub(super) struct End {
    pub(super) node: usize,
    pub(super) session: Session,
    /// What the peer said of itself.
    pub(super) peer: Box<Greeting>,
    pub(super) stage: Stage,
    /// Since when nothing can reach this end.
    pub(super) silent_since: Option<Instant>,
    /// What travels to this end arrives no earlier, so that nothing overtakes: by lane.
    pub(super) arrives: [Instant; 2],
    /// What was sent to this end over a cut.
    pub(super) swallowed: Vec<(Way, Action)>,
    /// The bytes of control messages that this end has under way.
    pub(super) window: Window,
    /// How many of this end's bytes its peer has taken.
    pub(super) taken: u64,
    /// What this end waits for.
    pub(super) requests: BTreeMap<u64, (Done, usize)>,
    pub(super) request_bytes: usize,
    pub(super) requested: u64,
    /// Tells copies that the session is over.
    pub(super) closed: watch::Sender<bool>,
}

impl End {
    pub(super) fn new(
        node: usize,
        session: Session,
        peer: Greeting,
        stage: Stage,
        window: usize,
        now: Instant,
    ) -> Self {
        Self {
            node,
            session,
            peer: Box::new(peer),
            stage,
            silent_since: None,
            arrives: [now; 2],
            swallowed: Vec::new(),
            window: Window::new(window as u64),
            taken: 0,
            requests: BTreeMap::new(),
            request_bytes: 0,
            requested: 0,
            closed: watch::Sender::new(false),
        }
    }

    /// When something that arrives at `at` on its own is let in on `lane`.
    pub(super) fn let_in(&mut self, lane: Lane, at: Instant) -> Instant {
        let [control, data] = &mut self.arrives;
        match lane {
            Lane::Control => {
                *control = at.max(*control);
                *control
            }
            Lane::Data => {
                *data = at.max(*data);
                *data
            }
            Lane::Both => {
                let last = at.max(*control).max(*data);
                (*control, *data) = (last, last);
                last
            }
        }
    }
}

pub(super) struct Link {
    pub(super) ends: [End; 2],
}
