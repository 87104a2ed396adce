//! One copy and its disk: what is written of it, and what follows once it is there.

use std::sync::{Arc, PoisonError};

use bytes::Bytes;
use tumen_core::cluster::snapshot::Mode;
use tumen_core::partitions::identity::Position;
use tumen_core::partitions::replication::wire::Reply as CopyReply;
use tumen_core::partitions::replication::{Acks, Phase, Ticket};
use tumen_core::time::Moment;

use super::{Cell, Inner, Out, Role, acks_of};
use crate::partitions::replication::answers::Slot;
use crate::partitions::replication::records::StateRecord;
use crate::partitions::replication::state::{Broken, Written};
use crate::store::Batch;

impl Cell {
    /// What has to go to disk is put into a batch.
    pub(in super::super) fn take_write(&self, batch: Batch) -> (Batch, Option<Ticket>) {
        let mut inner = self.lock();
        let Inner { role, keeping: Some(keeping), .. } = &mut *inner else { return (batch, None) };
        keeping.is_queued = false;
        let write = match role {
            _ if keeping.is_over() => None,
            Role::Copy(copy) => copy.take_write(),
            Role::Primary(lead) => lead.law.take_write(),
            Role::Changing => None,
        };
        let Some(write) = write else { return (batch, None) };
        let ticket = write.ticket;
        (keeping.put(self.partition, write, batch), Some(ticket))
    }

    /// A write, and all before it, are on disk.
    pub(in super::super) fn handle_written(&self, now: Moment, ticket: Ticket, out: &mut Out) {
        self.with(out, |inner, effects, out| {
            inner.now = now;
            match &mut inner.role {
                Role::Copy(copy) => copy.handle_written(ticket),
                Role::Primary(lead) => effects.extend(lead.law.handle_written(now, ticket)),
                Role::Changing => {}
            }
            if let Some(keeping) = &mut inner.keeping {
                keeping.handle_written(ticket, &mut out.answers);
            }
        });
    }

    /// Holds an answer back until a write is on disk. Gives it back if it is there already.
    pub(in super::super) fn hold(
        &self,
        after: Ticket,
        slot: Slot,
        reply: CopyReply<Bytes>,
    ) -> Option<(Slot, CopyReply<Bytes>)> {
        self.lock().keeping.as_mut()?.hold(after, slot, reply)
    }

    /// The state, as bytes, and its position. The log goes on meanwhile.
    pub(in super::super) fn state(&self, out: &mut Out) -> Result<(Position, Bytes), Broken> {
        let mut inner = self.lock();
        inner.apply_up_to_mark();
        if let Some(why) = &inner.broken {
            return Err(why.clone());
        }
        let shared = Arc::clone(&inner.state);
        drop(inner);
        let state = shared.lock().unwrap_or_else(PoisonError::into_inner);
        let (applied, bytes) = (state.applied(), state.snapshot());
        drop(state);
        self.with(out, |inner, _, _| {
            let bytes = bytes.inspect_err(|why| inner.broken = Some(why.clone()))?;
            Ok((applied, bytes))
        })
    }

    /// What the workers that merge hold, as all that holds here makes it; or, of each that cannot be written, why not. May take its
    /// time: not where others wait for the thread.
    pub(in super::super) fn states_to_bring(&self) -> Result<Vec<Written>, Broken> {
        loop {
            let mut inner = self.lock();
            // Who compares it with others finds that it went on, and looks again.
            inner.hold = None;
            inner.apply_up_to_mark();
            if let Some(why) = &inner.broken {
                return Err(why.clone());
            }
            let lags = inner.applied.sequence < inner.copy().mark_position().sequence;
            let shared = Arc::clone(&inner.state);
            drop(inner);
            let state = shared.lock().unwrap_or_else(PoisonError::into_inner);
            if !lags {
                return Ok(state.to_bring());
            }
            // Somebody read it, and is done by now.
        }
    }

    /// The state is about to be taken, to be written to disk.
    pub(in super::super) fn begin_state(&self) {
        if let Some(keeping) = &mut self.lock().keeping {
            keeping.begin_state();
        }
    }

    /// All bytes of the state at this position are on disk.
    pub(in super::super) fn handle_state_written(
        &self,
        now: Moment,
        position: Position,
        state: StateRecord,
        out: &mut Out,
    ) {
        self.with(out, |inner, effects, _| {
            let keep = inner.config.keep_entries;
            let taken = match &mut inner.role {
                Role::Copy(copy) => copy.handle_snapshot_saved(position, keep),
                Role::Primary(lead) => match lead.law.handle_snapshot_saved(now, position) {
                    Ok(more) => {
                        effects.extend(more);
                        true
                    }
                    Err(_) => false,
                },
                Role::Changing => false,
            };
            if let Some(keeping) = &mut inner.keeping {
                keeping.writes_state = false;
                keeping.handle_state(position, state, taken);
            }
        });
    }

    /// The state could not be written: it is tried again when the log has grown once more.
    pub(in super::super) fn handle_state_failed(&self) {
        if let Some(keeping) = &mut self.lock().keeping {
            keeping.writes_state = false;
        }
    }

    /// The disk takes nothing any more: nothing is logged from now on.
    pub(in super::super) fn end_writes(&self) {
        let mut inner = self.lock();
        if let Some(keeping) = &mut inner.keeping {
            keeping.end();
        }
        if let Role::Primary(lead) = &mut inner.role {
            lead.is_closed = true;
        }
    }
}

impl Inner {
    /// What has to go to disk.
    pub(super) fn keep(&mut self, out: &mut Out) {
        let (copy, opens) = match &self.role {
            Role::Copy(copy) => (&**copy, false),
            Role::Primary(lead) => {
                let copy = lead.law.copy();
                (copy, lead.law.phase() < Phase::Serving && copy.promises_after_disk())
            }
            Role::Changing => return,
        };
        let Some(keeping) = self.keeping.as_mut().filter(|keeping| !keeping.is_over()) else { return };
        let hurried = opens || copy.acks() == Acks::AfterDisk || keeping.is_awaited() || out.writes.is_some();
        if copy.has_writes() && !std::mem::replace(&mut keeping.is_queued, true) {
            out.writes = Some(hurried);
        }
        let behind = copy.mark_position().sequence.saturating_sub(copy.snapshot().sequence);
        if keeping.wants_state(behind) {
            keeping.writes_state = true;
            out.writes_state = true;
        }
    }

    /// The group's mode says when a copy that has a disk acknowledges.
    pub(super) fn set_mode(&mut self, mode: Mode, out: &mut Out) {
        let former = std::mem::replace(&mut self.config.mode, mode);
        if former != mode {
            out.counted = Some((former, std::mem::take(&mut self.phases)));
        }
        if self.keeping.is_none() {
            return;
        }
        let acks = acks_of(mode);
        match &mut self.role {
            Role::Copy(copy) => copy.set_acks(acks),
            Role::Primary(lead) => lead.law.set_acks(acks),
            Role::Changing => {}
        }
    }
}
