//! How simulated nodes find each other: dials, what becomes of them, and who becomes whose peer.

use std::time::Duration;

use tokio::time::Instant;
use tumen_core::cluster::greeting::Refusal;
use tumen_core::cluster::transport::dialling::{Dial, Target};

use super::agenda::{Action, State, epoch};
use super::link::{End, Lane, Link, Stage, Way};
use crate::transport::{DownReason, Event, Probe, Session};

/// What two nodes are to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// They become peers.
    Peers,
    /// They are peers, by a session that both hold.
    PeersAlready,
    /// Another run of the same name holds the place, and may be dead.
    Wait,
}

impl State {
    pub(super) fn plan_dials(&mut self, node: usize) {
        let (origin, now) = (self.origin, Instant::now());
        let it = &mut self.nodes[node];
        let Some(due) = it.dialling.next_due().filter(|_| it.started && it.alive) else { return };
        let at = (origin + due.since(epoch())).max(now);
        if it.dials_at.is_none_or(|planned| at < planned || planned < now) {
            it.dials_at = Some(at);
            self.plan_at(at, Action::Dials { node, at });
        }
    }

    pub(super) fn dial(&mut self, node: usize, at: Instant) {
        if self.nodes[node].dials_at != Some(at) {
            return;
        }
        self.nodes[node].dials_at = None;
        let now = self.moment();
        for dial in self.nodes[node].dialling.plan_dials(now) {
            let within = self.nodes[node].settings.preface_within;
            let (found, after) = self.probe(node, &dial.address, self.nodes[node].settings.dial_within);
            match (found, self.addresses.get(&dial.address)) {
                (Probe::Accepted, Some(other)) if self.nodes[*other].frozen => {
                    self.plan(within, Action::DialFailed { node, dial, probe: found });
                }
                (Probe::Accepted, _) => {
                    let after = after + self.latency() * 2;
                    self.plan(after, Action::Speak { node, dial });
                }
                (Probe::Refused | Probe::Silent, _) => {
                    self.plan(after, Action::DialFailed { node, dial, probe: found });
                }
            }
        }
        self.plan_dials(node);
    }

    /// What a dial by `node` would find, and after what time it would know.
    pub(super) fn probe(&mut self, node: usize, address: &str, within: Duration) -> (Probe, Duration) {
        let round_trip = (self.latency() + self.latency()).min(within);
        let Some(other) = self.addresses.get(address).copied() else { return (Probe::Refused, round_trip) };
        if !self.reaches(node, other) || !self.reaches(other, node) {
            (Probe::Silent, within)
        } else if self.nodes[other].alive {
            (Probe::Accepted, round_trip)
        } else {
            (Probe::Refused, round_trip)
        }
    }

    pub(super) fn handle_dial_failed(&mut self, node: usize, dial: Dial, probe: Probe) {
        let now = self.moment();
        let attempt = self.nodes[node].dialling.handle_failed(now, &dial.target);
        let expected = match dial.target {
            Target::Seed(_) => None,
            Target::Node(name) => Some(name),
        };
        self.tell(node, Event::DialFailed { address: dial.address, node: expected, probe, attempt });
        self.plan_dials(node);
    }

    pub(super) fn speak(&mut self, node: usize, dial: Dial) {
        let other = self.addresses.get(&dial.address).copied();
        let reached = |other: &usize| self.reaches(node, *other) && self.reaches(*other, node);
        let speaks = |other: &usize| self.nodes[*other].alive && self.nodes[*other].started;
        let Some(other) = other.filter(reached).filter(speaks).filter(|other| !self.nodes[*other].frozen)
        else {
            self.handle_dial_failed(node, dial, Probe::Silent);
            return;
        };
        match self.judge(node, other) {
            Ok(verdict @ (Verdict::Peers | Verdict::PeersAlready)) => {
                if verdict == Verdict::Peers {
                    self.link(node, other);
                }
                let (now, met) = (self.moment(), self.nodes[other].local.node.clone());
                self.nodes[node].dialling.handle_met(now, &dial.target, &met);
            }
            Ok(Verdict::Wait) => self.handle_dial_failed(node, dial, Probe::Accepted),
            Err((refusal, by_dialler)) => self.refuse(node, other, dial, refusal, by_dialler),
        }
        self.plan_dials(node);
    }

    fn refuse(&mut self, node: usize, other: usize, dial: Dial, refusal: Refusal, by_dialler: bool) {
        let now = self.moment();
        if refusal == Refusal::Itself {
            self.nodes[node].dialling.handle_itself(&dial.target);
            self.tell(node, Event::Refused { address: dial.address, refusal, by_us: true });
            return;
        }
        self.nodes[node].dialling.handle_failed(now, &dial.target);
        let theirs = self.nodes[node].address.clone();
        self.nodes[if by_dialler { node } else { other }].counts.refused += 1;
        self.tell(other, Event::Refused { address: theirs, refusal: refusal.clone(), by_us: !by_dialler });
        self.tell(node, Event::Refused { address: dial.address, refusal, by_us: by_dialler });
    }

    /// Whether two nodes become peers; if not, why, and whether it is the dialler who refuses.
    fn judge(&mut self, dialler: usize, other: usize) -> Result<Verdict, (Refusal, bool)> {
        let (ours, theirs) = ((self.nodes[other].greet)(), (self.nodes[dialler].greet)());
        if dialler == other {
            return Err((Refusal::Itself, true));
        }
        if self.nodes[dialler].cookie.as_bytes() != self.nodes[other].cookie.as_bytes() {
            return Err((Refusal::Cookie, false));
        }
        ours.judge(&theirs).map_err(|refusal| (refusal, false))?;
        theirs.judge(&ours).map_err(|refusal| (refusal, true))?;
        for (at, peer, by_dialler) in [(other, dialler, false), (dialler, other, true)] {
            match self.clear(at, peer) {
                Verdict::Peers => {}
                Verdict::PeersAlready if !by_dialler => {
                    // Does the dialler hold the same session still? If not, it knows that it is over.
                    if self.clear(dialler, other) == Verdict::PeersAlready {
                        return Ok(Verdict::PeersAlready);
                    }
                    let link = self.nodes[other].links[&self.nodes[dialler].local.node.clone()];
                    self.close_end_of(link, other, DownReason::Closed);
                }
                Verdict::PeersAlready => {
                    let link = self.nodes[dialler].links[&self.nodes[other].local.node.clone()];
                    self.close_end_of(link, dialler, DownReason::Closed);
                }
                Verdict::Wait if self.heard(at, peer) => {
                    let name = self.nodes[peer].local.node.clone();
                    return Err((Refusal::NameTaken(name), by_dialler));
                }
                Verdict::Wait => return Ok(Verdict::Wait),
            }
        }
        Ok(Verdict::Peers)
    }

    /// Makes room at `at` for a session with `peer`: a ghost of its name goes, if it is known to be dead.
    fn clear(&mut self, at: usize, peer: usize) -> Verdict {
        let name = self.nodes[peer].local.node.clone();
        let Some(link) = self.nodes[at].links.get(&name).copied() else { return Verdict::Peers };
        let ends = &self.links[&link].ends;
        let old = if ends[0].node == at { ends[1].node } else { ends[0].node };
        if old == peer {
            return Verdict::PeersAlready;
        }
        if self.nodes[old].alive || !self.reaches(old, at) {
            return Verdict::Wait;
        }
        self.close_end_of(link, at, DownReason::Closed);
        Verdict::Peers
    }

    /// Whether `at` hears from whoever holds the name of `peer` in its sessions.
    fn heard(&self, at: usize, peer: usize) -> bool {
        let link = self.nodes[at].links.get(&self.nodes[peer].local.node);
        let Some(link) = link.and_then(|link| self.links.get(link)) else { return false };
        link.ends.iter().any(|end| end.node == at && end.silent_since.is_none())
    }

    fn link(&mut self, dialler: usize, other: usize) {
        let now = Instant::now();
        let id = self.linked;
        self.linked += 1;
        let greetings = [(self.nodes[other].greet)(), (self.nodes[dialler].greet)()];
        let mut end = |node: usize, peer: usize, greeting, stage| {
            let peer = self.nodes[peer].local.clone();
            let it = &mut self.nodes[node];
            it.numbered += 1;
            it.links.insert(peer.node.clone(), id);
            let session = Session { peer, number: it.numbered };
            End::new(node, session, greeting, stage, it.settings.control_window, now)
        };
        let [of_other, of_dialler] = greetings;
        let ends =
            [end(dialler, other, of_other, Stage::Pending), end(other, dialler, of_dialler, Stage::Pending)];
        self.links.insert(id, Link { ends });
        self.handle_up(id, 0);
        self.transmit(Way { link: id, to: 1, lane: Lane::Both }, Action::Up { link: id, end: 1 });
        self.handle_paths_changed();
    }

    pub(super) fn handle_up(&mut self, link: u64, end: usize) {
        let Some(it) = self.links.get_mut(&link) else { return };
        let it = &mut it.ends[end];
        it.stage = Stage::Up;
        let (node, peer, session) = (it.node, it.peer.clone(), it.session.clone());
        self.nodes[node].dialling.handle_session_up(&session.peer.node);
        self.tell(node, Event::SessionUp { peer, session: session.number });
    }
}
