//! Proofs of a crash: which members are silent, when they are dialled, and what a refused dial means.
//!
//! ```text
//!  session ends ─▶ dial ─ not refused ─▶ dial again, later and later
//!                   └──── refused ─────▶ its lease is over: the process is gone
//! ```

use std::time::Duration;

use super::{Coordinator, Effect, Now};
use crate::cluster::member::{Member, Status};
use crate::cluster::snapshot::Snapshot;
use crate::ids::NodeBoot;
use crate::time::Moment;

/// How soon a member is dialled again whose session ended, but who did not refuse the first dial. A dying process closes
/// its listener last, a little after its sessions, so that the first dial often comes too early. Doubles up to a
/// third of the lease.
const PROBE_AGAIN_AFTER: Duration = Duration::from_micros(500);

/// When a silent member was dialled, and how long to wait before it is dialled again.
#[derive(Clone, Copy, Debug)]
pub(super) struct Probed {
    at: Moment,
    wait: Duration,
}

impl Probed {
    pub(super) fn again_at(self) -> Moment {
        self.at + self.wait
    }
}

impl Coordinator {
    /// A node's own address was dialled: `refused` tells whether the dial was refused at once.
    pub fn handle_probed(&mut self, now: Now, id: &NodeBoot, refused: bool) -> Vec<Effect> {
        let seen = self.roster.get(&id.node).filter(|seen| seen.info.id == *id);
        let proven = seen.is_some_and(|s| !s.connected && self.config.crash_proof.holds_for(&s.info.address));
        if refused && proven {
            self.handle_dead(id);
        }
        self.decide(now)
    }

    pub(super) fn handle_dead(&mut self, id: &NodeBoot) {
        self.roster.bury(id);
        self.grantor.handle_crash_proof(id.clone());
    }

    /// A new term's grantor is told of the deaths that were proven before it.
    pub(super) fn bury_known_dead(&mut self) {
        let Some(snapshot) = self.control.snapshot.clone() else { return };
        for member in &snapshot.members {
            if self.roster.get(member.name()).is_some_and(|seen| seen.is_dead(member.info.boot())) {
                self.grantor.handle_crash_proof(member.id().clone());
            }
        }
    }

    pub(super) fn probe_the_silent(&mut self, now: Moment) -> Vec<Effect> {
        let Some(snapshot) = self.control.snapshot.clone() else { return Vec::new() };
        let silent: Vec<Member> = self.silent(&snapshot).cloned().collect();
        let mut effects = Vec::new();
        for member in silent {
            let last = self.probed.get(member.id());
            if last.is_some_and(|last| now < last.again_at()) {
                continue;
            }
            let longest = self.config.lease.length / 3;
            let wait = last.map_or(PROBE_AGAIN_AFTER, |last| last.wait * 2).min(longest);
            self.probed.insert(member.id().clone(), Probed { at: now, wait });
            effects.push(Effect::Probe { node: member.id().clone(), address: member.info.address.clone() });
        }
        effects
    }

    /// The members that may be gone, and of which a refused dial would prove it.
    pub(super) fn silent<'a>(&'a self, snapshot: &'a Snapshot) -> impl Iterator<Item = &'a Member> {
        let others =
            snapshot.members.iter().filter(|m| m.status != Status::Lost && m.name() != self.me.name());
        others.filter(|member| {
            self.roster.get(member.name()).is_some_and(|seen| {
                let there = seen.connected && seen.info.id == *member.id();
                !there && !seen.is_dead(member.info.boot())
            }) && self.config.crash_proof.holds_for(&member.info.address)
        })
    }
}
