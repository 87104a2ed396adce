//! Replication: how a partition's log is kept on its copies, so that what was acknowledged outlives its primary.
//!
//! ```text
//!  named by a plan                                          Append{prev, entries, mark}
//!  ──▶ sealing ──S answered──▶ adopting ──best log here──▶ opening ──W hold the opening entry──▶ serving ─▶ released
//!         │                                                                                        │
//!         └── fewer than S can ever answer: lost, until one returns or an operator accepts it       └─▶ deposed by a newer fence
//!
//!  Primary                                        LocalCopy (every copy, the primary's own too)
//!  append ─▶ log ─ take_batch ── Request ───────▶ fence, place and life checked ─▶ log ─ take_write ─▶ disk
//!    mark ◀─ W of the members ◀── Reply ─────────── leaves once what it says is on disk
//! ```
//!
//! Laws as Raft's log (Ongaro and Ousterhout, 2014) with a record of members kept elsewhere, as in Vertical Paxos (Lamport,
//! Malkhi and Zhou, 2009) and PacificA (Lin and others, 2008): who is primary, and whose copy counts, the voters decide; the
//! log is the copies' own. Two entries with one [`Position`] are one entry, and so is all before them.

mod copy;
mod log;
mod peer;
mod primary;
mod report;
#[cfg(test)]
mod tests;
pub mod wire;

use std::time::Duration;

pub use self::report::{CopyReport, CopyState, Report, State};
pub use copy::{Acks, Answer, LocalCopy, Saved, Ticket, Write};
pub use log::{Body, Entry, Payload};
pub use primary::{AppendError, Effect, NotLost, Phase, Primary, SnapshotRefused, Standing};

pub use super::identity::Position;
pub use super::record::{Change, CopyId, Record};
use crate::cluster::snapshot::Mode;

/// How a partition is replicated.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Config {
    /// What an acknowledgement promises.
    pub mode: Mode,
    /// How many entries may be under way to one copy, unanswered. Default 4,096.
    pub window_entries: u64,
    /// How many entries may wait for W copies before further ones are refused: it bounds what `async` can lose, and what
    /// a cut-off primary gathers. Default 16,384. At least `window_entries`.
    pub pending_entries_max: u64,
    /// How far behind the mark a joining copy may be when it is asked to count, in entries. Default 1,024.
    pub join_lag_entries: u64,
    /// The most entries of one batch that is sent by the law itself: a tail for a new primary. Default 1,024.
    pub tail_entries_max: usize,
    /// The most bytes of such a batch, beside its first entry. Default 256 KB.
    pub tail_bytes_max: usize,
    /// How long an answer is waited for before the question is sent again. Default 100 ms.
    pub retry_every: Duration,
    /// How often a copy to which nothing else goes is told the mark: how old a read there may be taken for, and how soon a
    /// copy that begins anew on an idle partition is noticed. Default 500 ms.
    pub tell_every: Duration,
    /// Whether a copy is told at once how far what it has surely holds, where nothing else goes to it. Default no: what is
    /// read there may be a little older, and each write costs a message less.
    pub tells_at_once: bool,
    /// How many entries before its newest snapshot a copy keeps, so that others catch up by tail. Default 4,096.
    pub keep_entries: u64,
    /// After how many entries since the last one a snapshot is wanted. Default 65,536.
    pub snapshot_every_entries: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            mode: Mode::Sync,
            window_entries: 4096,
            pending_entries_max: 16_384,
            join_lag_entries: 1024,
            tail_entries_max: 1024,
            tail_bytes_max: 256 << 10,
            retry_every: Duration::from_millis(100),
            tell_every: Duration::from_millis(500),
            tells_at_once: false,
            keep_entries: 4096,
            snapshot_every_entries: 65_536,
        }
    }
}
