//! What a primary knows of one other copy.

use std::time::Duration;

use super::log::{Log, Payload};
use super::wire::Request;
use super::{CopyId, Position, Record};
use crate::ids::{Life, NodeName};
use crate::partitions::fence::Fence;
use crate::time::Moment;

/// How a copy is brought to where the primary is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Stage {
    /// It has not said yet what it has, or nothing fits it at present.
    Greeting,
    /// Entries follow what it has.
    Streaming,
    /// What it lacks was cut off here: a snapshot is under way to it.
    Snapshot(Position),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Peer {
    pub(super) node: NodeName,
    /// Which life of it answered last.
    pub(super) id: Option<CopyId>,
    /// Lives whose disk that one read.
    pub(super) former: Vec<Life>,
    /// Whether that life takes nothing older than this epoch any more.
    pub(super) sealed: bool,
    /// Its log's last entry, and the last that surely held, when it said so.
    pub(super) last: Position,
    pub(super) mark: Position,
    pub(super) stage: Stage,
    /// It surely has our log up to here.
    pub(super) acked: u64,
    /// The first entry that was not sent to it.
    pub(super) next: u64,
    /// The mark that it was told.
    told: u64,
    /// When something was sent to it whose answer moves something here.
    pub(super) sent: Option<Moment>,
    /// When anything was sent to it.
    pub(super) spoken: Option<Moment>,
}

impl Peer {
    pub(super) fn new(node: NodeName) -> Self {
        Self {
            node,
            id: None,
            former: Vec::new(),
            sealed: false,
            last: Position::ZERO,
            mark: Position::ZERO,
            stage: Stage::Greeting,
            acked: 0,
            next: 1,
            told: 0,
            sent: None,
            spoken: None,
        }
    }

    /// It said which copy it is, and what it has.
    pub(super) fn meet(&mut self, by: CopyId, former: Vec<Life>, last: Position, mark: Position) {
        if self.id.as_ref() != Some(&by) {
            let sent = self.sent;
            *self = Self { id: Some(by), sent, ..Self::new(self.node.clone()) };
        }
        self.former = former;
        self.sealed = true;
        (self.last, self.mark) = (last, mark);
    }

    /// Whether this copy is the one that counts, or read the disk of it.
    pub(super) fn continues(&self, member: &CopyId) -> bool {
        self.id.as_ref() == Some(member) || (self.node == member.node && self.former.contains(&member.life))
    }

    /// Finds what it shares with this log, and streams from there. Whether anything was found.
    pub(super) fn stream_from<E>(&mut self, log: &Log<E>) -> bool {
        let Some(shared) = [self.last, self.mark].into_iter().find(|at| log.holds(*at)) else {
            self.stage = Stage::Greeting;
            return false;
        };
        // It sealed our epoch, so it keeps what it shares with us: two entries with one position are one.
        self.stage = Stage::Streaming;
        self.acked = self.acked.max(shared.sequence);
        self.next = self.acked + 1;
        true
    }

    /// It answered that it has everything up to `end`. Whether that is news.
    pub(super) fn acknowledge<E>(&mut self, end: u64, log: &Log<E>) -> bool {
        if end <= self.acked || end > log.end() {
            return false;
        }
        self.acked = end;
        if self.stage != Stage::Streaming {
            self.stage = Stage::Streaming;
            self.next = end + 1;
        }
        self.next = self.next.max(end + 1);
        true
    }

    /// It said that what follows `prev` does not fit, and what it has instead. Whether that is news: of many messages under
    /// way the first one is enough.
    pub(super) fn turn_back(&mut self, prev: Position, last: Position, mark: Position) -> bool {
        let news = match self.stage {
            Stage::Greeting => false,
            Stage::Streaming => prev.sequence < self.next,
            Stage::Snapshot(position) => prev >= position,
        };
        if news {
            (self.stage, self.last, self.mark) = (Stage::Greeting, last, mark);
        }
        news
    }

    /// Whether nothing was said to it for so long.
    pub(super) fn is_idle(&self, now: Moment, tell_every: Duration) -> bool {
        self.stage == Stage::Streaming && self.spoken.is_none_or(|spoken| now.since(spoken) >= tell_every)
    }

    pub(super) fn is_due(&self, now: Moment, retry_every: Duration) -> bool {
        self.sent.is_none_or(|sent| now.since(sent) >= retry_every)
    }

    /// What was sent and not answered is sent again.
    pub(super) fn go_back(&mut self) {
        self.next = self.acked + 1;
    }

    /// How many entries are under way to it.
    pub(super) const fn under_way(&self) -> u64 {
        self.next - 1 - self.acked
    }

    /// A message with these entries behind the last one sent, and the mark. None: what is before them was cut off.
    pub(super) fn append<E: Payload>(
        &mut self,
        (now, fence): (Moment, Fence),
        (log, mark): (&Log<E>, u64),
        record: &Record,
        (entries_max, bytes_max): (usize, usize),
    ) -> Option<Request<E>> {
        let to = self.id.as_ref()?.life;
        let prev = log.position_at(self.next - 1)?;
        let entries = log.batch(self.next, u64::MAX, entries_max, bytes_max);
        if self.under_way() == 0 {
            self.sent = Some(now);
        }
        self.spoken = Some(now);
        self.next += entries.len() as u64;
        self.told = mark;
        Some(Request::Append { fence, to, counts: record.life_on(&self.node), prev, entries, mark })
    }

    /// Up to where it was told that W members have the log.
    pub(super) const fn told(&self) -> u64 {
        self.told
    }

    /// Whether it was told less than this.
    pub(super) const fn lacks_mark(&self, mark: u64) -> bool {
        self.told < mark
    }
}
