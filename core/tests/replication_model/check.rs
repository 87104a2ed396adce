//! What must hold after every step.

use tumen_core::partitions::replication::{Acks, Position};

use crate::world::{
    NOTHING_LOST, NOTHING_UNDONE, Node, ONE_ENTRY, ONE_PER_EPOCH, Role, SAME_PREFIX, STAYS_LOST, SURVIVES,
    State, Value, World,
};
use tumen_core::cluster::snapshot::Mode;
use tumen_core::partitions::replication::{Entry, Phase};

impl World {
    /// Takes down what could be read now, and what is broken.
    pub fn judge(&self, state: &mut State) {
        if state.broken.is_some() {
            return;
        }
        state.broken = self.read(state).or_else(|| one_log(state));
        if state.broken.is_none() && self.survivors && !state.renewed && !survives(state) {
            state.broken = Some(SURVIVES);
        }
    }

    /// Everybody who would answer a read is asked at once.
    fn read(&self, state: &mut State) -> Option<&'static str> {
        for (at, node) in (0..).zip(&state.nodes) {
            let Some(mark) = node.readable(self.mutant).filter(|_| node.lease || !self.leases) else {
                continue;
            };
            let epoch = node.copy().sealed().epoch;
            if let Some(primary) = node.primary().filter(|primary| primary.phase() == Phase::Serving) {
                let server = *state.served.entry(primary.fence().epoch).or_insert((at, node.run));
                if server != (at, node.run) {
                    return Some(ONE_PER_EPOCH);
                }
            }
            let told = |(sequence, entry): &(u64, Entry<Value>)| {
                *sequence <= mark && node.entry(*sequence) == Some(entry)
            };
            // One that served before, and does not know of it yet, has what it had. And where all lives were lost after that,
            // what a disk kept of it is better there than nowhere.
            let serves = epoch == state.register.record.epoch && !state.renewed;
            if serves && state.given_up.iter().any(told) {
                return Some(STAYS_LOST);
            }
            // `async` promises nothing that outlives its primary.
            if self.mode == Mode::Async || state.renewed {
                continue;
            }
            // Without leases a former primary may answer, and does not know of what came after it.
            let former = !self.leases && state.served.keys().any(|served| *served > epoch);
            for (sequence, promised) in state.promised.iter().filter(|_| !former) {
                match node.entry(*sequence) {
                    Some(entry) if *sequence <= mark && entry == promised => {}
                    Some(_) if *sequence <= mark => return Some(NOTHING_UNDONE),
                    _ => return Some(NOTHING_LOST),
                }
            }
            for sequence in state.promised.len() as u64 + 1..=mark {
                if let Some(entry) = node.entry(sequence) {
                    state.promised.insert(sequence, entry.clone());
                }
            }
            let other = |(sequence, promised): (&u64, &Entry<Value>)| {
                *sequence <= mark && node.entry(*sequence).is_some_and(|entry| entry != promised)
            };
            if state.promised.iter().any(other) {
                return Some(NOTHING_UNDONE);
            }
        }
        None
    }
}

/// Positions name entries, and what holds is the same everywhere.
fn one_log(state: &State) -> Option<&'static str> {
    for (at, one) in state.nodes.iter().enumerate() {
        for other in &state.nodes[at + 1..] {
            let end = one.copy().last().sequence.min(other.copy().last().sequence);
            let mark = one.copy().mark_position().sequence.min(other.copy().mark_position().sequence);
            for sequence in 1..=end {
                let (Some(left), Some(right)) = (one.entry(sequence), other.entry(sequence)) else {
                    continue;
                };
                // What was given up is here and there until its copy begins anew.
                let counts = |node: &Node| state.register.record.contains(node.copy().id());
                let same = state.accepted == 0 || (counts(one) && counts(other));
                if sequence <= mark && left != right && same && !state.renewed {
                    return Some(SAME_PREFIX);
                }
                if left.epoch == right.epoch && left != right {
                    return Some(ONE_ENTRY);
                }
            }
        }
    }
    None
}

/// Whether the best log of any S members whose bytes are still there has all that was promised.
fn survives(state: &State) -> bool {
    let record = &state.register.record;
    let left: Vec<&Node> = state.nodes.iter().filter(|node| record.contains(node.copy().id())).collect();
    let seal = record.seal_quorum();
    (0_u32..1 << left.len()).filter(|set| set.count_ones() as usize == seal).all(|set| {
        let chosen = left.iter().enumerate().filter(|(at, _)| set & (1 << at) != 0);
        let best = chosen.map(|(_, node)| (last(node), *node)).max_by_key(|(last, _)| *last);
        best.is_none_or(|(last, node)| {
            state.promised.iter().all(|(sequence, promised)| {
                *sequence <= last.sequence && kept(node, *sequence) == Some(promised)
            })
        })
    })
}

/// The last entry that a copy cannot lose.
fn last(node: &Node) -> Position {
    let on_disk = node.disk.as_ref().filter(|_| node.copy().acks() == Acks::AfterDisk);
    match (&node.role, on_disk) {
        (_, None) => node.copy().last(),
        (_, Some((saved, _))) => {
            let epoch = saved.entries.last().map_or(saved.start.epoch, |entry| entry.epoch);
            Position::new(epoch, saved.start.sequence + saved.entries.len() as u64)
        }
    }
}

fn kept(node: &Node, sequence: u64) -> Option<&Entry<Value>> {
    match node.disk.as_ref().filter(|_| node.copy().acks() == Acks::AfterDisk) {
        None => node.entry(sequence),
        Some((saved, snapshot)) => {
            let behind = sequence.checked_sub(saved.start.sequence + 1);
            let logged = behind.and_then(|at| saved.entries.get(usize::try_from(at).unwrap()));
            logged.or_else(|| snapshot.get(&sequence))
        }
    }
}

impl Role {
    pub const fn is_primary(&self) -> bool {
        matches!(self, Self::Primary(_))
    }
}
