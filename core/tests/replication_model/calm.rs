//! Calm: after whatever happened, a period in which every message arrives and nothing fails must bring the partition back,
//! with the copies that are wanted, unless it is lost.

use tumen_core::partitions::replication::Phase;

use crate::mutant::Mutant;
use crate::world::{Action, Budget, State, World, place};

const ROUNDS: u32 = 60;

impl World {
    /// Whether the calm period heals this state.
    pub fn heals(&self, state: &mut State) -> Result<(), String> {
        state.net.clear();
        state.register.gone.clear();
        state.register.version += 1;
        for _ in 0..ROUNDS {
            let plenty = u8::MAX;
            state.left = Budget { promotions: plenty, wakes: plenty, changes: plenty, ..state.left };
            for at in 0..self.nodes {
                self.step(state, &Action::Learn(at));
                self.step(state, &Action::Wake(at));
                for to in 0..self.nodes {
                    self.step(state, &Action::SnapshotFails(at, to));
                }
            }
            self.settle(state);
            if let Some(broken) = state.broken {
                return Err(broken.to_owned());
            }
            if self.is_well(state) || self.is_lost(state) {
                return Ok(());
            }
            self.mend(state);
        }
        let roles: Vec<_> = state.nodes.iter().filter_map(|node| node.primary()).collect();
        let copies: Vec<_> =
            state.nodes.iter().map(|n| (n.copy().id(), n.copy().last(), n.copy().mark_position())).collect();
        Err(format!(
            "not healed: {:?}, wanted {:?}, {copies:?}, {roles:?}",
            state.register,
            self.wanted(&state.register)
        ))
    }

    /// The coordinator names another primary where the present one's process is gone, or it gave its epoch back.
    fn mend(&self, state: &mut State) {
        let (at, run) = state.register.primary;
        if state.nodes[at as usize].primary().is_some_and(|primary| primary.phase() == Phase::Releasing) {
            self.step(state, &Action::GiveUp(at));
        }
        let node = &state.nodes[at as usize];
        let released = node.released == Some(state.register.record.epoch)
            && self.mutant != Mutant::LeavesReleasesUnanswered;
        if node.run != run || released {
            let present = |copy: &&_| state.nodes.iter().any(|node| node.copy().id() == *copy);
            let heir = state.register.record.members.iter().find(present).map_or(0, |copy| place(&copy.node));
            self.step(state, &Action::Promote(heir));
        }
    }

    /// Whether it is served, and exactly the wanted copies count, and have all there is.
    fn is_well(&self, state: &State) -> bool {
        let record = &state.register.record;
        let wanted = &self.wishes[state.register.wish as usize];
        let serves = |at: &u8| {
            let primary = state.nodes[*at as usize].primary();
            primary.is_some_and(|p| p.phase() == Phase::Serving && p.fence().epoch == record.epoch)
        };
        let Some(primary) = (0..self.nodes).find(serves) else { return false };
        let end = state.nodes[primary as usize].copy().last();
        let whole = |at: &u8| {
            let copy = state.nodes[*at as usize].copy();
            record.contains(copy.id()) && copy.last() == end
        };
        // A primary that is not wanted itself stays until another one is named.
        let others = record
            .members
            .iter()
            .all(|copy| wanted.contains(&place(&copy.node)) || place(&copy.node) == primary);
        wanted.iter().all(whole) && others
    }

    /// Whether too few of the members' bytes are left, and not all of their disks speak.
    fn is_lost(&self, state: &State) -> bool {
        let record = &state.register.record;
        let left = state.nodes.iter().filter(|node| record.contains(node.copy().id())).count();
        let continues = |member: &&tumen_core::partitions::replication::CopyId| {
            let copy = state.nodes[place(&member.node) as usize].copy();
            copy.id() == *member || copy.former().contains(&member.life)
        };
        let lost = left < record.seal_quorum() && !record.members.iter().all(|member| continues(&member));
        let standing = state.nodes[state.register.primary.0 as usize].primary().map(|p| p.standing());
        lost && standing.is_none_or(|standing| standing.is_lost(|_| true))
    }
}
