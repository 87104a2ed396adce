//! Calm: from any state, a period in which every message arrives and nothing fails must bring every
//! partition back. What was in the net before is lost.

use crate::mutant::Mutant;
use crate::plan::partition;
use crate::world::{Action, Budget, LENGTH, Message, State, World};

/// Long enough for two leases to run out, and for each partition to be placed once or twice.
const ROUNDS: u64 = 4 * LENGTH;

impl World {
    /// Whether the calm period heals this state.
    pub fn heals(&self, mut state: State) -> bool {
        state.net.clear();
        let plenty = u8::MAX;
        state.left =
            Budget { ticks: plenty, asks: plenty, grants: plenty, acks: plenty, elections: 1, ..state.left };
        state.left.proposals = plenty;
        (0..ROUNDS).any(|_| {
            self.lead(&mut state);
            self.renew(&mut state);
            self.mend(&mut state);
            self.renew(&mut state);
            let served: std::collections::BTreeSet<_> = state.answering().map(|(_, p, _)| p).collect();
            self.step(&mut state, &Action::Tick(None));
            served.len() == self.partitions as usize
        })
    }

    /// Somebody leads, knows the newest plan and who is gone, and is confirmed by a majority.
    fn lead(&self, state: &mut State) {
        let settled = |state: &State| state.settled == state.term;
        let leads =
            state.nodes[state.leader as usize].grantor.term().is_some_and(|term| term.0 == state.term);
        if !leads || state.nodes[state.leader as usize].proposed.is_some() && state.pending.is_none() {
            state.left.elections = 1;
            self.step(state, &Action::Elect(0));
        }
        let leader = state.leader;
        if !settled(state) {
            self.step(state, &Action::FirstEntry { leader, keeps: true });
        }
        self.step(state, &Action::Commit);
        self.step(state, &Action::Apply(leader));
        self.step(state, &Action::Ack(leader));
        self.step(state, &Action::AckSeen(leader));
        for at in (0..self.nodes).filter(|at| state.nodes[*at as usize].stopped).collect::<Vec<_>>() {
            state.left.crashes = 1;
            self.step(state, &Action::Crash(at));
        }
        for dead in state.dead.clone() {
            self.step(state, &Action::Proof(leader, dead));
        }
    }

    /// Everybody acts on the newest plan, asks, and hears the answer.
    fn renew(&self, state: &mut State) {
        for at in 0..self.nodes {
            self.step(state, &Action::Act(at, state.newest()));
            state.net.clear();
            self.step(state, &Action::Ask(at));
            for to in [state.leader, at] {
                if let Some(message) = state.net.pop_first() {
                    self.step(state, &Action::Deliver(message, to));
                    state.net.retain(|message| matches!(message, Message::Reply(_)));
                }
            }
        }
        state.net.clear();
    }

    /// The coordinator answers every standing release, and places anew what a dead run had.
    fn mend(&self, state: &mut State) {
        for at in 0..self.partitions as usize {
            let plan = state.log.last().expect("there is always a plan");
            let (primary, _) = plan.primaries[at];
            let gone = plan.members[primary as usize] != state.nodes[primary as usize].run;
            let grantor = &state.nodes[state.leader as usize].grantor;
            let released = self.mutant != Mutant::LeavesReleasesUnanswered
                && grantor.standing_releases().any(|(_, release)| release.partition == partition(at));
            if gone || released {
                self.step(state, &Action::Propose { leader: state.leader, partition: at, to: primary });
                self.step(state, &Action::Commit);
                self.step(state, &Action::Apply(state.leader));
            }
        }
    }
}
