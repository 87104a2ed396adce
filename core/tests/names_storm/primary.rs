//! The directory's primary, and whoever still believes to be it: how far the log is held, and what is told of it.

use rand::Rng;
use tumen_core::ids::Version;
use tumen_core::names::claim::Reason;
use tumen_core::names::directory::{Change, Directory};
use tumen_core::names::orders::{self, Orders};
use tumen_core::names::placements::Placements;

use super::network::Message;
use super::{DIRECTORY, Flaw, World, config};

/// Everybody who believes to be primary: the last one is.
pub(super) struct Primary {
    pub(super) orders: Orders,
    /// How much of the log it knows to be held.
    pub(super) held: Directory,
    pub(super) held_len: usize,
}

impl World {
    pub(super) fn fail_over(&mut self) {
        self.seen.failovers += 1;
        // What is behind the mark may be lost, or not.
        let kept = self.rng.random_range(self.mark..=self.log.len());
        self.seen.cut_off += usize::from(kept < self.log.len());
        self.log.truncate(kept);
        self.epoch = self.epoch.next();
        self.working = replay(&self.log);
        // A new primary serves once W copies hold what it adopted.
        self.mark = kept;
        let held = self.working.clone();
        let orders = Orders::new(self.now, (DIRECTORY, self.epoch), config(), Placements::default(), &held);
        let new = Primary { orders, held, held_len: kept };
        self.former = self.primary.replace(new);
        // A plan named it: it knows that one, and whatever its predecessors acted on.
        let plan = self.plans.last().unwrap().clone();
        self.plans.push(plan);
        self.primary_learns(self.plans.len() - 1);
    }

    pub(super) fn primary_learns_plan(&mut self) {
        let newest = self.plans.len() - 1;
        let plan = if self.chance(3) { self.rng.random_range(1..=newest) } else { newest };
        self.primary_learns(plan);
    }

    pub(super) fn primary_learns(&mut self, plan: usize) {
        let members = self.members(plan);
        let now = self.now;
        let primary = self.primary.as_mut().unwrap();
        let effects = primary.orders.handle_members(now, &primary.held, Version(plan as u64), members);
        self.perform(effects, false);
    }

    pub(super) fn advance_mark(&mut self) {
        if self.flaw == Flaw::ToldBeforeHeld {
            // It is told all that the worker has, while the mark is where it is.
            self.tell_up_to(self.log.len());
        }
        if self.mark < self.log.len() {
            self.mark += 1;
            self.tell_up_to(self.mark);
        }
    }

    pub(super) fn tell_up_to(&mut self, end: usize) {
        loop {
            let now = self.now;
            let primary = self.primary.as_mut().unwrap();
            if primary.held_len >= end {
                return;
            }
            let change = self.log[primary.held_len].clone();
            primary.held_len += 1;
            primary.held.apply(&change);
            let effects = primary.orders.handle_applied(now, &primary.held, &change);
            self.perform(effects, false);
        }
    }

    pub(super) fn tick(&mut self) {
        let now = self.now;
        if self.chance(4) {
            // A former primary goes on, by what it knew.
            if let Some(mut former) = self.former.take() {
                let effects = former.orders.handle_tick(now, &former.held);
                self.former = Some(former);
                self.perform(effects, true);
            }
            return;
        }
        let primary = self.primary.as_mut().unwrap();
        let effects = primary.orders.handle_tick(now, &primary.held);
        self.perform(effects, false);
        let at = self.pick();
        if !self.nodes[at].frozen {
            let effects = self.nodes[at].crew.handle_tick();
            self.perform_crew(at, effects);
        }
    }

    pub(super) fn perform(&mut self, effects: Vec<orders::Effect>, former: bool) {
        for effect in effects {
            match effect {
                orders::Effect::Commit(_) if former => {}
                orders::Effect::Commit(change) => {
                    if self.chance(12) {
                        let now = self.now;
                        self.primary.as_mut().unwrap().orders.handle_not_logged(now, &change);
                    } else {
                        self.append(change);
                    }
                }
                orders::Effect::Send { to, frame } => self.network.push(Message::Orders(to, frame)),
                orders::Effect::WakeAt(_) | orders::Effect::PlacedByName { .. } => {}
            }
        }
    }

    pub(super) fn append(&mut self, change: Change) {
        self.seen.moved += usize::from(matches!(change, Change::Freed { reason: Reason::Moved, .. }));
        self.working.apply(&change);
        self.log.push(change);
    }
}

fn replay(log: &[Change]) -> Directory {
    let mut directory = Directory::default();
    for change in log {
        directory.apply(change);
    }
    directory
}
