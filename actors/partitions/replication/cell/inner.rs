//! What is behind the lock: the law's effects, and the state that follows the mark.

use std::collections::VecDeque;
use std::sync::{PoisonError, TryLockError};

use bytes::Bytes;
use tokio::sync::oneshot;
use tumen_core::cluster::control::Step;
use tumen_core::ids::PartitionId;
use tumen_core::partitions::fence::Fence;
use tumen_core::partitions::identity::Position;
use tumen_core::partitions::replication::{Body, Effect, LocalCopy, Phase};
use tumen_core::partitions::request::Failure;
use tumen_core::time::Moment;

use super::{Inner, Lead, Out, Role};
use crate::partitions::replication::phases::Reached;
use crate::partitions::replication::state::read_entry;
use crate::partitions::replication::steps::Wanted;

impl Inner {
    /// The primary under this fence, if it is open.
    pub(super) fn serving(&self, fence: &Fence) -> Result<&Lead, Failure> {
        match &self.role {
            Role::Primary(lead) if lead.law.may_serve(fence) => Ok(lead),
            Role::Primary(lead) if lead.law.fence() == fence && lead.law.phase() < Phase::Serving => {
                Err(Failure::NotReady)
            }
            _ => Err(Failure::Fenced { changed: false }),
        }
    }

    pub(super) fn serving_mut(&mut self, fence: &Fence) -> Result<&mut Lead, Failure> {
        self.serving(fence)?;
        match &mut self.role {
            Role::Primary(lead) => Ok(lead),
            Role::Copy(_) | Role::Changing => Err(Failure::Fenced { changed: false }),
        }
    }

    /// Is no primary any more.
    pub(super) fn step_down(&mut self) {
        match std::mem::replace(&mut self.role, Role::Changing) {
            Role::Primary(mut lead) => {
                lead.held.give_up();
                self.role = Role::Copy(Box::new(lead.law.into_copy()));
            }
            role => self.role = role,
        }
    }

    pub(super) fn copy(&self) -> &LocalCopy<Bytes> {
        match &self.role {
            Role::Copy(copy) => copy,
            Role::Primary(lead) => lead.law.copy(),
            Role::Changing => unreachable!("seen from outside the lock"),
        }
    }

    pub(super) fn run(&mut self, partition: PartitionId, effects: Vec<Effect<Bytes>>, out: &mut Out) {
        let mut effects = VecDeque::from(effects);
        while let Some(effect) = effects.pop_front() {
            match effect {
                Effect::Send { to, request } => out.sends.push((to, request)),
                Effect::SendSnapshot { to, header } => out.snapshots.push((to, header)),
                Effect::SaveSnapshot => match &mut self.keeping {
                    // It is saved once its bytes are on disk.
                    Some(keeping) => {
                        out.writes_state |= !std::mem::replace(&mut keeping.writes_state, true);
                    }
                    None => effects.extend(self.save_snapshot()),
                },
                Effect::Ask { epoch, revision, change } => {
                    let hurried = matches!(&self.role, Role::Primary(lead) if lead.law.waits_for(&change));
                    let step = Step { partition, epoch, revision, change };
                    out.steps.push(Wanted { step, hurried });
                }
                Effect::Opened { opening } => {
                    tracing::trace!(%partition, %opening, "opened");
                    self.handle_opened();
                }
                Effect::Renewing { lost } => {
                    tracing::warn!(%partition, ?lost, "opens with what the disks kept: what was not on any is lost");
                }
                Effect::Discard => {
                    if let Role::Primary(lead) = &self.role {
                        out.discards = Some(*lead.law.fence());
                    }
                }
                Effect::Released { last } => tracing::trace!(%partition, %last, "given back"),
                Effect::Deposed => {
                    tracing::trace!(%partition, "a newer primary is there");
                    self.step_down();
                }
            }
        }
    }

    /// The log is complete: which requests were carried out is known up to its end.
    pub(super) fn handle_opened(&mut self) {
        self.apply_up_to_mark();
        let Role::Primary(lead) = &mut self.role else { return };
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut sessions, applied) = (state.sessions().clone(), state.applied().sequence);
        drop(state);
        let copy = lead.law.copy();
        for sequence in applied + 1..=copy.last().sequence {
            let Some(at) = copy.entry(sequence) else { continue };
            if let Body::Data(data) = &at.body
                && let Ok(entry) = read_entry(data)
            {
                sessions.apply(Position::new(at.epoch, sequence), &entry);
            }
        }
        lead.sessions = Some(sessions);
        lead.reached = Some(Reached::at(lead.law.held()));
    }

    pub(super) fn save_snapshot(&mut self) -> Vec<Effect<Bytes>> {
        self.apply_up_to_mark();
        let (now, applied) = (Moment::ZERO, self.applied);
        match &mut self.role {
            Role::Primary(lead) => lead.law.handle_snapshot_saved(now, applied).unwrap_or_default(),
            Role::Copy(_) | Role::Changing => Vec::new(),
        }
    }

    /// Applies what surely holds.
    pub(super) fn apply_up_to_mark(&mut self) {
        if self.broken.is_some() {
            return;
        }
        let copy = match &self.role {
            Role::Copy(copy) => copy,
            Role::Primary(lead) => lead.law.copy(),
            Role::Changing => return,
        };
        let held = self.hold.map_or(u64::MAX, |hold| hold.until);
        let mark = copy.mark_position().sequence.min(held);
        if self.applied.sequence >= mark {
            return;
        }
        let mut state = match self.state.try_lock() {
            Ok(state) => state,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            // It is being written down, or read: it follows at the next occasion.
            Err(TryLockError::WouldBlock) => return,
        };
        let before = state.applied().sequence;
        for sequence in before + 1..=mark {
            let Some(entry) = copy.entry(sequence) else { break };
            let data = match &entry.body {
                Body::Data(data) => Some(data),
                Body::Opening => None,
            };
            if let Err(why) = state.apply(Position::new(entry.epoch, sequence), data) {
                tracing::error!(%why, "a copy is broken");
                self.broken = Some(why);
                break;
            }
        }
        self.applied = state.applied();
        if matches!(self.role, Role::Copy(_)) {
            self.phases.applied += self.applied.sequence - before;
        }
    }

    /// What follows from anything that happened: state follows the mark, replies leave, the log is cut.
    pub(super) fn settle(&mut self, out: &mut Out) {
        self.apply_up_to_mark();
        self.keep(out);
        if self.keeping.is_none() && self.copy().wants_snapshot(&self.config) {
            match &mut self.role {
                Role::Copy(copy) => {
                    copy.handle_snapshot_saved(self.applied, self.config.keep_entries);
                }
                Role::Primary(_) => {
                    let effects = self.save_snapshot();
                    debug_assert!(
                        effects.iter().all(|effect| matches!(effect, Effect::Send { .. })),
                        "{effects:?}"
                    );
                }
                Role::Changing => {}
            }
        }
        if let Role::Primary(lead) = &mut self.role {
            let mark = lead.law.mark();
            lead.held.take_up_to(mark, &mut out.replies);
            let holds = |wait: &mut (u64, oneshot::Sender<()>)| wait.0 <= mark;
            out.woken.extend(lead.waits.extract_if(.., holds).map(|(_, done)| done));
            out.ready.extend(lead.law.ready_peers().cloned());
        }
    }
}
