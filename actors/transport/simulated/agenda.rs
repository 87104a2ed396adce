//! What is to happen in the simulated world, by time, and what each thing does when its time has come.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use rand::Rng;
use rand::rngs::SmallRng;
use tokio::time::Instant;
use tumen_core::Moment;
use tumen_core::cluster::transport::dialling::Dial;
use tumen_core::ids::{NodeBoot, NodeName};

use super::Weather;
use super::driver::Call;
use super::link::{Lane, Link, Stage, Way};
use super::node::Node;
use crate::transport::{
    Channel, DATA_LEN_MAX, Done, DownReason, Event, LaneError, Probe, SendError, Service, Session, Subscriber,
};

/// One thing that is to happen.
pub(super) enum Action {
    /// A node looks whom to dial, if this is still the time for it.
    Dials { node: usize, at: Instant },
    /// A dial has come through: the two speak.
    Speak { node: usize, dial: Dial },
    /// A dial came to nothing.
    DialFailed { node: usize, dial: Dial, probe: Probe },
    /// The session reaches the end that was dialled.
    Up { link: u64, end: usize },
    /// A message arrives at an end.
    Control { link: u64, end: usize, channel: Channel, body: Bytes },
    /// A request arrives at an end.
    Request { link: u64, end: usize, service: Service, id: u64, within: Duration, body: Bytes },
    /// A reply arrives at the end that asked.
    Reply { link: u64, end: usize, id: u64, outcome: Result<Bytes, LaneError> },
    /// The end that asked has waited long enough.
    Expire { link: u64, end: usize, id: u64 },
    /// The peer's end has closed.
    Closed { link: u64, end: usize },
    /// Nothing could reach an end since `since`.
    Silence { link: u64, end: usize, since: Instant },
}

pub(super) struct State {
    pub(super) rng: SmallRng,
    pub(super) weather: Weather,
    pub(super) origin: Instant,
    /// By time, and what was planned first comes first.
    pub(super) agenda: BTreeMap<(Instant, u64), Action>,
    pub(super) planned: u64,
    pub(super) nodes: Vec<Node>,
    pub(super) addresses: BTreeMap<String, usize>,
    pub(super) links: BTreeMap<u64, Link>,
    pub(super) linked: u64,
    /// From whom to whom nothing gets through.
    pub(super) cuts: BTreeSet<(NodeName, NodeName)>,
    /// What the driver is to call, in this order, once it holds no lock.
    pub(super) calls: Vec<Call>,
}

impl State {
    /// Lets one thing happen.
    pub(super) fn handle(&mut self, action: Action) {
        let node = match &action {
            Action::Dials { node, .. } | Action::Speak { node, .. } | Action::DialFailed { node, .. } => {
                *node
            }
            Action::Up { link, end }
            | Action::Control { link, end, .. }
            | Action::Request { link, end, .. }
            | Action::Reply { link, end, .. }
            | Action::Expire { link, end, .. }
            | Action::Closed { link, end }
            | Action::Silence { link, end, .. } => match self.links.get(link) {
                Some(link) if link.ends[*end].stage != Stage::Closed => link.ends[*end].node,
                _ => return,
            },
        };
        if !self.nodes[node].alive {
            return;
        }
        if self.nodes[node].frozen {
            self.nodes[node].missed.push(action);
            return;
        }
        match action {
            Action::Dials { node, at } => self.dial(node, at),
            Action::Speak { node, dial } => self.speak(node, dial),
            Action::DialFailed { node, dial, probe } => self.handle_dial_failed(node, dial, probe),
            Action::Up { link, end } => self.handle_up(link, end),
            Action::Control { link, end, channel, body } => self.handle_control(link, end, channel, body),
            Action::Request { link, end, service, id, within, body } => {
                let now = Instant::now();
                self.handle_request(link, end, service, id, now + within, body);
            }
            Action::Reply { link, end, id, outcome } => self.complete(link, end, id, outcome),
            Action::Expire { link, end, id } => self.complete(link, end, id, Err(LaneError::Timeout)),
            Action::Closed { link, end } => self.close(link, end, DownReason::Closed),
            Action::Silence { link, end, since } => {
                if self.links[&link].ends[end].silent_since == Some(since) {
                    self.close(link, end, DownReason::Silence);
                }
            }
        }
    }

    // Sending and arriving.

    /// The link's id and this node's end of it, if the session with `to` is up.
    pub(super) fn session(&self, node: usize, to: &NodeName) -> Option<(u64, usize)> {
        let link = *self.nodes[node].links.get(to)?;
        let end = self.links.get(&link)?.ends.iter().position(|end| end.node == node)?;
        (self.links[&link].ends[end].stage == Stage::Up).then_some((link, end))
    }

    pub(super) fn cast(
        &mut self,
        node: usize,
        to: &NodeName,
        channel: Channel,
        body: &[u8],
    ) -> Result<(), SendError> {
        let (link, end) = self.session(node, to).ok_or(SendError::NoSession)?;
        let window = self.links.get_mut(&link).map(|link| &mut link.ends[end].window);
        if !window.is_some_and(|window| window.reserve(body.len() as u64)) {
            self.nodes[node].counts.overloaded += 1;
            return Err(SendError::Overloaded);
        }
        let body = Bytes::copy_from_slice(body);
        let way = Way { link, to: 1 - end, lane: Lane::Control };
        self.transmit(way, Action::Control { link, end: 1 - end, channel, body });
        Ok(())
    }

    fn handle_control(&mut self, link: u64, end: usize, channel: Channel, body: Bytes) {
        let Some(ends) = self.links.get_mut(&link).map(|link| &mut link.ends) else { return };
        let sender = &mut ends[1 - end];
        sender.taken += body.len() as u64;
        sender.window.handle_taken(sender.taken);
        let (node, session) = (ends[end].node, ends[end].session.clone());
        match self.nodes[node].handlers[channel as usize].clone() {
            Some(handler) => self.calls.push(Call::Handle(handler, session, body)),
            None => self.nodes[node].counts.unhandled += 1,
        }
    }

    pub(super) fn request(
        &mut self,
        node: usize,
        to: &NodeName,
        service: Service,
        within: Duration,
        body: Bytes,
        done: Done,
    ) -> Result<(), (SendError, Done)> {
        let Some((link, end)) = self.session(node, to) else { return Err((SendError::NoSession, done)) };
        if body.len() > DATA_LEN_MAX {
            return Err((SendError::TooLong { len: body.len(), max: DATA_LEN_MAX }, done));
        }
        let settings = &self.nodes[node].settings;
        let Some(it) = self.links.get_mut(&link).map(|link| &mut link.ends[end]) else {
            return Err((SendError::NoSession, done));
        };
        let full = it.requests.len() >= settings.requests_max
            || it.request_bytes + body.len() > settings.data_window;
        if full {
            self.nodes[node].counts.overloaded += 1;
            return Err((SendError::Overloaded, done));
        }
        let id = it.requested;
        it.requested += 1;
        it.request_bytes += body.len();
        it.requests.insert(id, (done, body.len()));
        self.plan(within, Action::Expire { link, end, id });
        let way = Way { link, to: 1 - end, lane: Lane::Data };
        self.transmit(way, Action::Request { link, end: 1 - end, service, id, within, body });
        Ok(())
    }

    fn handle_request(
        &mut self,
        link: u64,
        end: usize,
        service: Service,
        id: u64,
        deadline: Instant,
        body: Bytes,
    ) {
        let it = &self.links[&link].ends[end];
        let (node, session) = (it.node, it.session.clone());
        match self.nodes[node].servers[service as usize].clone() {
            Some(server) => {
                self.calls.push(Call::Serve { server, service, link, end, session, id, deadline, body });
            }
            None => self.reply(link, end, id, Err(LaneError::NotServed)),
        }
    }

    /// Sends an answer from `end` to the other one.
    pub(super) fn reply(&mut self, link: u64, end: usize, id: u64, outcome: Result<Bytes, LaneError>) {
        let way = Way { link, to: 1 - end, lane: Lane::Data };
        self.transmit(way, Action::Reply { link, end: 1 - end, id, outcome });
    }

    fn complete(&mut self, link: u64, end: usize, id: u64, outcome: Result<Bytes, LaneError>) {
        let Some(it) = self.links.get_mut(&link).map(|link| &mut link.ends[end]) else { return };
        let Some((done, len)) = it.requests.remove(&id) else { return };
        it.request_bytes -= len;
        self.calls.push(Call::Complete(done, outcome));
    }

    /// Sends something along its way.
    pub(super) fn transmit(&mut self, way: Way, action: Action) {
        let Some(link) = self.links.get(&way.link) else { return };
        let (from, to) = (link.ends[1 - way.to].node, link.ends[way.to].node);
        if self.nodes[from].frozen {
            self.nodes[from].unsent.push((way, action));
            return;
        }
        let (breaks, latency) = (self.weather.breaks_per_million, self.latency());
        if breaks > 0 && self.rng.random_range(0..1_000_000) < breaks {
            self.break_link(way.link);
            return;
        }
        let cut = !self.reaches(from, to);
        let Some(end) = self.links.get_mut(&way.link).map(|link| &mut link.ends[way.to]) else { return };
        if cut {
            end.swallowed.push((way, action));
        } else {
            let at = end.let_in(way.lane, Instant::now() + latency);
            self.plan_at(at, action);
        }
    }

    pub(super) fn reaches(&self, from: usize, to: usize) -> bool {
        let (from, to) = (self.nodes[from].local.node.clone(), self.nodes[to].local.node.clone());
        !self.cuts.contains(&(from, to))
    }

    pub(super) fn latency(&mut self) -> Duration {
        let range = self.weather.latency.clone();
        if range.is_empty() { range.start } else { self.rng.random_range(range) }
    }

    // Ending.

    pub(super) fn close(&mut self, link: u64, end: usize, reason: DownReason) {
        let Some(it) = self.links.get_mut(&link).map(|link| &mut link.ends[end]) else { return };
        let before = std::mem::replace(&mut it.stage, Stage::Closed);
        if before == Stage::Closed {
            return;
        }
        it.closed.send_replace(true);
        let requests = std::mem::take(&mut it.requests);
        let (node, session) = (it.node, it.session.clone());
        for (_, (done, _)) in requests {
            self.calls.push(Call::Complete(done, Err(LaneError::Lost { maybe_delivered: true })));
        }
        let (now, it) = (self.moment(), &mut self.nodes[node]);
        it.links.remove(&session.peer.node);
        it.dialling.handle_session_down(now, &session.peer.node);
        if before == Stage::Up {
            self.tell(node, Event::SessionDown { peer: session.peer, session: session.number, reason });
        }
        self.plan_dials(node);
        if self.links[&link].ends.iter().all(|end| end.stage == Stage::Closed) {
            self.links.remove(&link);
        } else {
            let way = Way { link, to: 1 - end, lane: Lane::Both };
            self.transmit(way, Action::Closed { link, end: 1 - end });
        }
    }

    pub(super) fn close_end_of(&mut self, link: u64, node: usize, reason: DownReason) {
        let Some(it) = self.links.get(&link) else { return };
        if let Some(end) = it.ends.iter().position(|end| end.node == node) {
            self.close(link, end, reason);
        }
    }

    pub(super) fn break_link(&mut self, link: u64) {
        self.close(link, 0, DownReason::Closed);
        self.close(link, 1, DownReason::Closed);
    }

    /// Looks anew which ends can be reached: after a cut, a healing, a freeze or a thaw.
    pub(super) fn handle_paths_changed(&mut self) {
        let now = Instant::now();
        let ids: Vec<u64> = self.links.keys().copied().collect();
        for (link, end) in ids.into_iter().flat_map(|link| [(link, 0), (link, 1)]) {
            let ends = &self.links[&link].ends;
            let (node, peer) = (ends[end].node, ends[1 - end].node);
            let reached = self.reaches(peer, node);
            let silent = !reached || self.nodes[peer].frozen;
            let Some(it) = self.links.get_mut(&link).map(|link| &mut link.ends[end]) else { continue };
            let swallowed = if reached { std::mem::take(&mut it.swallowed) } else { Vec::new() };
            if !silent {
                it.silent_since = None;
            } else if it.silent_since.is_none() && it.stage != Stage::Closed {
                it.silent_since = Some(now);
                let after = self.nodes[node].settings.silent_after;
                self.plan(after, Action::Silence { link, end, since: now });
            }
            for (way, action) in swallowed {
                self.transmit(way, action);
            }
        }
    }

    // Telling and planning.

    pub(super) fn tell(&mut self, node: usize, event: Event) {
        let it = &self.nodes[node];
        if let Some(subscriber) = it.subscriber.clone().filter(|_| it.alive) {
            self.calls.push(Call::Tell(subscriber, event));
        }
    }

    pub(super) fn subscribe(&mut self, node: usize, subscriber: Subscriber) {
        self.nodes[node].subscriber = Some(subscriber);
        for link in self.nodes[node].links.values().copied().collect::<Vec<_>>() {
            let Some(link) = self.links.get(&link) else { continue };
            for end in link.ends.iter().filter(|end| end.node == node && end.stage == Stage::Up) {
                let event = Event::SessionUp { peer: end.peer.clone(), session: end.session.number };
                let subscriber = self.nodes[node].subscriber.clone();
                self.calls.extend(subscriber.map(|subscriber| Call::Tell(subscriber, event)));
            }
        }
    }

    pub(super) fn sessions(&self, node: usize) -> Vec<Session> {
        let of = |name: &NodeName| {
            let (link, end) = self.session(node, name)?;
            Some(self.links[&link].ends[end].session.clone())
        };
        self.nodes[node].links.keys().filter_map(of).collect()
    }

    pub(super) fn disconnect(&mut self, node: usize, peer: &NodeBoot) {
        if let Some((link, end)) = self.session(node, &peer.node)
            && self.links[&link].ends[end].session.peer == *peer
        {
            self.close(link, end, DownReason::Disconnected);
        }
    }

    pub(super) fn plan(&mut self, after: Duration, action: Action) {
        self.plan_at(Instant::now() + after, action);
    }

    pub(super) fn plan_at(&mut self, at: Instant, action: Action) {
        self.agenda.insert((at, self.planned), action);
        self.planned += 1;
    }

    pub(super) fn moment(&self) -> Moment {
        epoch() + self.origin.elapsed()
    }
}

/// An hour ahead of zero, so that "a while ago" is never before the origin.
pub(super) const fn epoch() -> Moment {
    Moment::from_millis(3_600_000)
}
