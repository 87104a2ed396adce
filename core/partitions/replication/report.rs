//! How one partition is, as its primary sees it: for people.

use serde::{Deserialize, Serialize};

use super::log::Payload;
use super::{CopyId, Phase, Position, Primary, Record, Standing};
use crate::ids::NodeName;

/// What a primary tells of its partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// How far it is.
    pub state: State,
    /// Which copies count, as far as it knows.
    pub record: Record,
    /// W: how many of them must hold a write.
    pub write_quorum: usize,
    /// S: how many of them a new primary must hear.
    pub seal_quorum: usize,
    /// Each copy that counts.
    pub copies: Vec<CopyReport>,
}

/// How far a partition is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum State {
    /// Its primary waits for other copies before it serves, and they may come.
    Opening,
    /// It is served.
    Serving,
    /// It is served, and yet nothing is acknowledged: fewer than W of the copies that count are there.
    Stalled,
    /// Its primary gives it back.
    Releasing,
    /// Fewer copies are left than a new primary must hear, and nobody who is there can change that.
    Lost,
}

/// One copy that counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyReport {
    /// Which copy.
    pub id: CopyId,
    /// What is known of it.
    pub state: CopyState,
    /// Up to which sequence it surely has the log; what it said to have, where the partition is not open.
    pub sequence: Option<u64>,
}

/// What a primary knows of a copy that counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum CopyState {
    /// It answered.
    Here,
    /// Its node is there, and has not answered yet.
    Awaited,
    /// Its node is away.
    Away,
    /// Its node answered as another copy: its bytes, or some of them, are gone.
    Gone,
}

impl<E: Payload> Primary<E> {
    /// How the partition is, if only the nodes that are `alive` may answer.
    pub fn report(&self, alive: impl Fn(&NodeName) -> bool) -> Report {
        let (record, standing) = (self.record(), self.standing());
        let copy = |id: &CopyId| {
            let there = id.node == self.copy().id().node || alive(&id.node);
            let state = match () {
                () if standing.gone.contains(id) => CopyState::Gone,
                () if !there => CopyState::Away,
                () if standing.awaited.contains(id) => CopyState::Awaited,
                () => CopyState::Here,
            };
            CopyReport { id: id.clone(), state, sequence: self.sequence_of(id, &standing) }
        };
        let copies: Vec<CopyReport> = record.members.iter().map(copy).collect();
        let here = copies.iter().filter(|copy| copy.state == CopyState::Here).count();
        let (write_quorum, seal_quorum) = (record.write_quorum(), record.seal_quorum());
        let state = match self.phase() {
            Phase::Sealing if standing.is_lost(&alive) => State::Lost,
            Phase::Sealing | Phase::Adopting | Phase::Opening => State::Opening,
            Phase::Serving if here < write_quorum => State::Stalled,
            Phase::Serving => State::Serving,
            Phase::Releasing | Phase::Released | Phase::Deposed => State::Releasing,
        };
        Report { state, record: record.clone(), write_quorum, seal_quorum, copies }
    }

    /// Up to where a copy has the log, as far as that is known.
    fn sequence_of(&self, id: &CopyId, standing: &Standing) -> Option<u64> {
        if id == self.copy().id() {
            return Some(self.copy().last().sequence);
        }
        if self.phase() >= Phase::Opening {
            return self.acked_by(id);
        }
        let said = |(copy, last): &(CopyId, Position)| (copy == id).then_some(last.sequence);
        standing.survivors.iter().find_map(said)
    }
}
