//! One copy while it leads: what its workers ask of it, and write to its log.

use std::sync::PoisonError;

use tokio::sync::oneshot;
use tumen_core::cluster::snapshot::Mode;
use tumen_core::partitions::entry::{Changes, Entry, KindIndex};
use tumen_core::partitions::fence::Fence;
use tumen_core::partitions::identity::{Identity, Position, SessionId};
use tumen_core::partitions::replication::{AppendError, Body};
use tumen_core::partitions::request::{Failure, Reply};
use tumen_core::time::Moment;

use super::{Cell, Inner, Lead, Out, Role, position_of};
use crate::partitions::delivery::{Delivery, Told};
use crate::partitions::machine::Machine;
use crate::partitions::replication::held::Held;

impl Cell {
    /// A worker's state, up to the log's end: what a primary that opened its epoch begins with.
    pub(in super::super) fn worker(
        &self,
        fence: &Fence,
        kind: KindIndex,
    ) -> Result<Box<dyn Machine>, Failure> {
        let inner = self.lock();
        let lead = inner.serving(fence)?;
        if let Some(why) = &inner.broken {
            return Err(Failure::WorkerFailed(why.to_string()));
        }
        let state = inner.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mut machine = state.fork(kind).map_err(|why| Failure::WorkerFailed(why.to_string()))?;
        let (copy, applied) = (lead.law.copy(), state.applied().sequence);
        for sequence in applied + 1..=copy.last().sequence {
            let Some(Body::Data(data)) = copy.entry(sequence).map(|entry| &entry.body) else { continue };
            let entry = Entry::decode(data.clone()).map_err(|why| Failure::WorkerFailed(why.to_string()))?;
            for change in entry.changes().iter().filter(|change| change.kind == kind) {
                machine.apply(&change.bytes).map_err(Failure::WorkerFailed)?;
            }
        }
        Ok(machine)
    }

    /// A request's turn has come: whether to run its handler.
    pub(in super::super) fn begin(
        &self,
        now: Moment,
        fence: &Fence,
        identity: Option<&Identity>,
    ) -> Result<(), Told> {
        let mut inner = self.lock();
        let room = inner.config.pending_entries_max;
        let lead = inner.serving_mut(fence).map_err(|why| Told::Reply(Err(why)))?;
        if lead.law.copy().last().sequence - lead.law.held() >= room {
            return Err(Told::Reply(Err(Failure::Overloaded)));
        }
        let (Some(identity), Some(sessions)) = (identity, &lead.sessions) else { return Ok(()) };
        let mark = position_of(lead.law.copy(), lead.law.mark());
        match Told::of(lead.desk.check(now, sessions, mark, identity)) {
            None => Ok(()),
            Some(told) => Err(told),
        }
    }

    /// The handler will never return.
    pub(in super::super) fn abandon(&self, fence: &Fence, identity: &Identity) {
        match &mut self.lock().role {
            Role::Primary(lead) if lead.law.fence() == fence => lead.desk.handle_abandoned(identity),
            Role::Primary(_) | Role::Copy(_) | Role::Changing => {}
        }
    }

    /// The handler returned: what it changed is logged with its reply, and the reply leaves once that surely holds.
    /// Gives the delivery back, with the reason, where nothing could be logged: the worker's state is ahead of the log then.
    ///
    /// Nothing leaves here before [`Self::send_on`], or whatever else happens to the copy.
    pub(in super::super) fn finish(
        &self,
        now: Moment,
        (fence, kind): (&Fence, KindIndex),
        delivery: Delivery,
        (stepped, changes): (bool, Changes),
        reply: Reply,
    ) -> Result<(), Box<(Delivery, Failure)>> {
        let mut inner = self.lock();
        let changed = !changes.is_empty();
        inner.now = now;
        let at_once = inner.promises_nothing(kind);
        let lead = match inner.serving_mut(fence) {
            Ok(lead) => lead,
            Err(why) => return Err(Box::new((delivery, why))),
        };
        let identity = delivery.identity;
        let logged = match (&identity, &lead.sessions) {
            (Some(identity), Some(sessions)) => lead.desk.is_logged(sessions, identity, changed),
            _ => changed,
        };
        if logged {
            let entry = match identity {
                Some(identity) => Entry::Record { identity, changes, reply: reply.clone() },
                None => Entry::Changes(changes),
            };
            match lead.append(fence, &entry) {
                Ok(position) => lead.note_appended(now, position),
                Err(why) => return Err(Box::new((delivery, why))),
            }
            if let Some(identity) = &identity {
                lead.desk.handle_logged(identity);
            }
        } else if let Some(identity) = &identity {
            lead.desk.handle_unchanged(lead.law.copy().last(), identity, &reply);
        }
        let rests_on = lead.law.copy().last();
        let held = Held { rests_on, delivery, reply, changed: logged || stepped };
        if at_once {
            lead.at_once.push(held);
        } else {
            lead.held.push(held);
        }
        Ok(())
    }

    /// What was logged since the last time goes out, and what waited for nobody else.
    pub(in super::super) fn send_on(&self, now: Moment, fence: &Fence, out: &mut Out) {
        self.with(out, |inner, effects, out| {
            if let Role::Primary(lead) = &mut inner.role
                && lead.law.fence() == fence
            {
                out.replies.append(&mut lead.at_once);
                effects.extend(lead.law.handle_appended(now));
            }
        });
    }

    /// Logs what a worker did outside of any request, or a step of one. Says up to where the log has to hold for it.
    pub(in super::super) fn log(
        &self,
        now: Moment,
        fence: &Fence,
        entry: &Entry,
        out: &mut Out,
    ) -> Result<Position, Failure> {
        self.with(out, |inner, effects, _| {
            let lead = inner.serving_mut(fence)?;
            let position = lead.append(fence, entry)?;
            effects.extend(lead.law.handle_appended(now));
            Ok(position)
        })
    }

    /// Tells when all that was logged so far holds as this kind promises. It is dropped where that will not be known.
    pub(in super::super) fn wait(
        &self,
        (fence, kind): (&Fence, KindIndex),
        done: oneshot::Sender<()>,
        out: &mut Out,
    ) {
        self.with(out, |inner, _, out| {
            let at_once = inner.promises_nothing(kind);
            if at_once && inner.serving(fence).is_ok() {
                out.woken.push(done);
            } else if let Ok(lead) = inner.serving_mut(fence) {
                lead.waits.push((lead.law.copy().last().sequence, done));
            }
        });
    }

    /// Opens a session for a client, or finds the one that was opened.
    pub(in super::super) fn open_session(
        &self,
        now: Moment,
        fence: &Fence,
        nonce: u128,
        delivery: Delivery,
        encode: impl FnOnce(Position) -> Reply,
        out: &mut Out,
    ) {
        self.with(out, |inner, effects, _| {
            use tumen_core::partitions::session::desk::Opening;
            let lead = match inner.serving_mut(fence) {
                Ok(lead) => lead,
                Err(why) => return delivery.answer(Err(why)),
            };
            let Some(sessions) = &lead.sessions else { return delivery.answer(Err(Failure::NotReady)) };
            let (position, changed) = match lead.desk.check_open(now, sessions, nonce) {
                Opening::Overloaded => return delivery.answer(Err(Failure::Overloaded)),
                Opening::Held(id) => (id.0, false),
                Opening::Open => match lead.append(fence, &Entry::Open { nonce }) {
                    Ok(position) => (position, true),
                    Err(why) => return delivery.answer(Err(why)),
                },
            };
            if changed {
                effects.extend(lead.law.handle_appended(now));
            }
            let rests_on = lead.law.copy().last();
            lead.held.push(Held { rests_on, delivery, reply: encode(position), changed });
        });
    }

    /// A client says that it lives, and has its answers below `lowest`.
    pub(in super::super) fn acknowledge(&self, now: Moment, fence: &Fence, session: SessionId, lowest: u64) {
        if let Ok(Lead { desk, sessions: Some(sessions), .. }) = self.lock().serving_mut(fence) {
            desk.handle_acknowledged(now, sessions, session, lowest);
        }
    }

    /// A client does not use a session any more.
    pub(in super::super) fn end_session(
        &self,
        now: Moment,
        fence: &Fence,
        session: SessionId,
        out: &mut Out,
    ) {
        self.with(out, |inner, effects, _| {
            if let Ok(lead) = inner.serving_mut(fence)
                && let Some(sessions) = &lead.sessions
                && let Some(expiry) = lead.desk.handle_end(sessions, session)
                && lead.append(fence, &Entry::Expire(expiry)).is_ok()
            {
                effects.extend(lead.law.handle_appended(now));
            }
        });
    }

    /// Forgets sessions and keys that are too old.
    pub(in super::super) fn expire(&self, now: Moment, out: &mut Out) {
        self.with(out, |inner, effects, _| {
            let Role::Primary(lead) = &mut inner.role else { return };
            let fence = *lead.law.fence();
            let Some(sessions) = lead.sessions.as_ref().filter(|_| lead.law.may_serve(&fence)) else {
                return;
            };
            if let Some(expiry) = lead.desk.plan_expiry(now, sessions)
                && lead.append(&fence, &Entry::Expire(expiry)).is_ok()
            {
                effects.extend(lead.law.handle_appended(now));
            }
        });
    }
}

impl Inner {
    /// Whether this kind's replies wait for no other copy, though the log is surer than that for other kinds' sake.
    fn promises_nothing(&self, kind: KindIndex) -> bool {
        match &self.role {
            Role::Primary(lead) => {
                self.config.mode != Mode::Async && self.makers.mode_of(kind, lead.mode) == Mode::Async
            }
            Role::Copy(_) | Role::Changing => false,
        }
    }
}

impl Lead {
    /// An entry's way through the phases begins.
    fn note_appended(&mut self, now: Moment, position: Position) {
        if let Some(reached) = &mut self.reached {
            reached.handle_appended(now, position.sequence);
        }
    }

    /// Appends an entry, and has the requests that were carried out know of it.
    fn append(&mut self, fence: &Fence, entry: &Entry) -> Result<Position, Failure> {
        if self.is_closed {
            // What the disk does not take is not begun.
            return Err(Failure::NotReady);
        }
        let position = self.law.append(fence, entry.to_bytes()).map_err(|why| match why {
            AppendError::Fenced(_) => Failure::Fenced { changed: false },
            AppendError::NotServing(_) => Failure::NotReady,
            AppendError::Overloaded(_) => Failure::Overloaded,
        })?;
        if let Some(sessions) = &mut self.sessions {
            sessions.apply(position, entry);
        }
        Ok(position)
    }
}
