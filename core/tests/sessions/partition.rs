//! One partition: a log, a replica that has what is safe, and a primary that runs handlers one at a time.

use std::collections::{BTreeMap, VecDeque};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tumen_core::Moment;
use tumen_core::ids::Epoch;
use tumen_core::partitions::entry::{Changes, Entry, KindIndex};
use tumen_core::partitions::identity::{Identity, Position, SessionId};
use tumen_core::partitions::request::{Failure, Reply};
use tumen_core::partitions::session::client::Attempt;
use tumen_core::partitions::session::desk::{Desk, Opening};
use tumen_core::partitions::session::{Limits, Sessions, Verdict};

/// What is broken in this build.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flaw {
    None,
    ChangesBeforeReply,
    Interleaved,
    RepliesBeforeMark,
    UnchangedForgotten,
    UnchangedKeysUnlogged,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    /// Adds one, answers the total.
    Add,
    /// Adds one, waits until that is durable, adds another one.
    AddSlowly,
    /// Adds one, and refuses all the same.
    AddAndRefuse,
    /// Sets the register if it is `from`. Answers "yes" or "no".
    Swap { from: u64, to: u64 },
    /// Answers the total.
    Read,
}

/// What one caller wants done once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Job {
    pub(crate) id: u64,
    pub(crate) work: Work,
}

#[derive(Clone, Debug)]
pub(crate) struct Try {
    pub(crate) job: Job,
    pub(crate) identity: Identity,
    pub(crate) epoch: Epoch,
    pub(crate) from: usize,
    pub(crate) attempt: Attempt,
    /// The network delivers it twice.
    pub(crate) doubled: bool,
}

/// The worker's state, and how often each part of each job was applied to it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) total: u64,
    register: u64,
    pub(crate) applied: BTreeMap<(u64, u8), u32>,
    /// A compare-and-set that was applied to something else than it had compared with.
    pub(crate) torn: Option<u64>,
}

impl State {
    fn apply(&mut self, mut change: Bytes) {
        let (job, part) = (change.get_u64(), change.get_u8());
        *self.applied.entry((job, part)).or_default() += 1;
        if change.has_remaining() {
            if change.get_u64() != self.register {
                self.torn = Some(job);
            }
            self.register = change.get_u64();
        } else {
            self.total += 1;
        }
    }
}

fn addition(job: u64, part: u8) -> Bytes {
    let mut bytes = BytesMut::new();
    bytes.put_u64(job);
    bytes.put_u8(part);
    bytes.freeze()
}

fn swap(job: u64, from: u64, to: u64) -> Bytes {
    let mut bytes = BytesMut::from(&addition(job, 0)[..]);
    bytes.put_u64(from);
    bytes.put_u64(to);
    bytes.freeze()
}

/// What a copy has applied.
#[derive(Clone, Debug, Default)]
pub(crate) struct Replica {
    pub(crate) state: State,
    pub(crate) sessions: Sessions,
    applied: usize,
}

impl Replica {
    fn apply(&mut self, position: Position, bytes: &Bytes) {
        let entry = Entry::decode(bytes.clone()).unwrap();
        entry.changes().iter().for_each(|change| self.state.apply(change.bytes.clone()));
        self.sessions.apply(position, &entry);
        self.applied += 1;
    }
}

/// A handler that has decided, and not returned.
struct Handler {
    request: Try,
    /// Committed, and not logged.
    changes: Changes,
    /// With [`Flaw::Interleaved`]: decided, and not committed.
    decided: Vec<Bytes>,
    reply: Reply,
    /// The step that has to be durable before it goes on.
    step: Option<Position>,
}

pub(crate) struct Primary {
    flaw: Flaw,
    limits: Limits,
    epoch: Epoch,
    log: Vec<(Position, Bytes)>,
    mark: usize,
    /// The working state: everything in the log, and what the handler at work has committed.
    working: Replica,
    pub(crate) replica: Replica,
    desk: Desk,
    queue: VecDeque<Try>,
    handlers: VecDeque<Handler>,
    held: Vec<(Position, Try, Reply)>,
    joined: Vec<Try>,
    replies: Vec<(Try, Reply)>,
    pub(crate) seen: Vec<Verdict>,
}

impl Primary {
    /// A primary that begins with an adopted log, of which `replica` has applied a part. Its own opening entry is safe
    /// before it serves.
    pub(crate) fn adopt(
        flaw: Flaw,
        limits: Limits,
        epoch: Epoch,
        replica: Replica,
        log: Vec<(Position, Bytes)>,
    ) -> Self {
        let mut working = replica.clone();
        // The new primary's state comes out of a snapshot, of either kind.
        let json = serde_json::to_string(&working.sessions).unwrap();
        working.sessions = serde_json::from_str(&json).unwrap();
        let binary = bincode::serialize(&working.sessions).unwrap();
        working.sessions = bincode::deserialize(&binary).unwrap();
        assert_eq!(working.sessions, replica.sessions);
        log[working.applied..].iter().for_each(|(position, bytes)| working.apply(*position, bytes));
        let mut primary = Self {
            flaw,
            limits: limits.clone(),
            epoch,
            mark: replica.applied,
            log,
            working,
            replica,
            desk: Desk::new(limits),
            queue: VecDeque::new(),
            handlers: VecDeque::new(),
            held: Vec::new(),
            joined: Vec::new(),
            replies: Vec::new(),
            seen: Vec::new(),
        };
        primary.append(&Entry::Changes(Changes::default()), true);
        primary.advance_mark(usize::MAX);
        primary
    }

    /// The primary is gone, with everything that was not in the log. Of what is in the log and not safe, the next one
    /// finds `kept` entries.
    pub(crate) fn crash(self, kept: usize) -> Self {
        let mut log = self.log;
        log.truncate(self.mark.saturating_add(kept));
        Self::adopt(self.flaw, self.limits, self.epoch.next(), self.replica, log)
    }

    pub(crate) const fn epoch(&self) -> Epoch {
        self.epoch
    }

    pub(crate) const fn total(&self) -> u64 {
        self.working.state.total
    }

    pub(crate) const fn state(&self) -> &State {
        &self.working.state
    }

    pub(crate) const fn sessions(&self) -> &Sessions {
        &self.working.sessions
    }

    pub(crate) fn unsafe_len(&self) -> usize {
        self.log.len() - self.mark
    }

    fn end(&self) -> Position {
        self.log.last().map_or(Position::ZERO, |(position, _)| *position)
    }

    pub(crate) fn safe(&self) -> Position {
        self.mark.checked_sub(1).map_or(Position::ZERO, |last| self.log[last].0)
    }

    /// Appends an entry; its changes may be in the working state already.
    fn append(&mut self, entry: &Entry, with_changes: bool) -> Position {
        let position = Position::new(self.epoch, self.log.len() as u64 + 1);
        let bytes = entry.to_bytes();
        if with_changes {
            self.working.apply(position, &bytes);
        } else {
            self.working.sessions.apply(position, entry);
            self.working.applied += 1;
        }
        self.log.push((position, bytes));
        position
    }

    /// The session, whose number must not be told before it is safe.
    pub(crate) fn open(&mut self, now: Moment, nonce: u128) -> Option<SessionId> {
        match self.desk.check_open(now, &self.working.sessions, nonce) {
            Opening::Open => Some(SessionId(self.append(&Entry::Open { nonce }, true))),
            Opening::Held(session) => Some(session),
            Opening::Overloaded => None,
        }
    }

    pub(crate) fn end_session(&mut self, session: SessionId) {
        if let Some(expiry) = self.desk.handle_end(&self.working.sessions, session) {
            self.append(&Entry::Expire(expiry), true);
        }
    }

    pub(crate) fn acknowledge(&mut self, now: Moment, session: SessionId, lowest: u64) {
        self.desk.handle_acknowledged(now, &self.working.sessions, session, lowest);
    }

    pub(crate) fn tick(&mut self, now: Moment) {
        if let Some(expiry) = self.desk.plan_expiry(now, &self.working.sessions) {
            self.append(&Entry::Expire(expiry), true);
        }
    }

    /// A try arrives. It is refused if it was sent to another epoch's primary.
    pub(crate) fn enqueue(&mut self, request: Try) {
        if request.epoch == self.epoch {
            self.queue.push_back(request);
        } else {
            let stale = Failure::Stale { version: Default::default() };
            self.replies.push((request, Err(stale)));
        }
    }

    /// One step of work: a handler returns, or the next request begins.
    pub(crate) fn work(&mut self, now: Moment) {
        let at_once = if self.flaw == Flaw::Interleaved { 2 } else { 1 };
        let may_begin = self.handlers.len() < at_once && !self.queue.is_empty();
        if !may_begin {
            return self.finish();
        }
        let Some(request) = self.queue.pop_front() else { return };
        let mark = self.safe();
        let verdict = self.desk.check(now, &self.working.sessions, mark, &request.identity);
        self.seen.push(verdict.clone());
        match verdict {
            Verdict::Run => self.begin(request),
            Verdict::Running => self.joined.push(request),
            other => {
                let reply = other.into_reply().unwrap();
                self.hold(request, reply);
            }
        }
    }

    fn begin(&mut self, request: Try) {
        let Job { id, work } = request.job;
        let state = &self.working.state;
        let total = |more: u64| Ok(Bytes::from((state.total + more).to_string()));
        let (decided, reply) = match work {
            Work::Add | Work::AddSlowly => (vec![addition(id, 0)], total(1)),
            Work::AddAndRefuse => (vec![addition(id, 0)], Err(Failure::Rejected("no".into()))),
            Work::Swap { from, to } if state.register == from => {
                (vec![swap(id, from, to)], Ok(Bytes::from_static(b"yes")))
            }
            Work::Swap { .. } => (vec![], Ok(Bytes::from_static(b"no"))),
            Work::Read => (vec![], total(0)),
        };
        let mut handler = Handler { request, changes: Changes::default(), decided, reply, step: None };
        if self.flaw != Flaw::Interleaved {
            self.commit(&mut handler);
        }
        if work == Work::AddSlowly {
            self.commit(&mut handler);
            let changes = std::mem::take(&mut handler.changes);
            let identity = handler.request.identity;
            handler.step = Some(self.append(&Entry::Step { identity, changes }, false));
            handler.decided = vec![addition(id, 1)];
        }
        self.handlers.push_back(handler);
    }

    /// `cx.commit`: applied to the working state at once, logged when the handler returns.
    fn commit(&mut self, handler: &mut Handler) {
        for change in handler.decided.drain(..) {
            self.working.state.apply(change.clone());
            handler.changes.push(KindIndex(0), change).unwrap();
        }
        if self.flaw == Flaw::ChangesBeforeReply && !handler.changes.is_empty() {
            let changes = std::mem::take(&mut handler.changes);
            self.append(&Entry::Changes(changes), false);
        }
    }

    /// The oldest handler returns, unless it waits for its step.
    fn finish(&mut self) {
        let safe = self.safe();
        let waits = |handler: &Handler| handler.step.is_some_and(|step| step > safe);
        let Some(mut handler) = self.handlers.pop_front_if(|handler| !waits(handler)) else { return };
        self.commit(&mut handler);
        let Handler { request, changes, reply, .. } = handler;
        let identity = request.identity;
        let mut logged = self.desk.is_logged(&self.working.sessions, &identity, !changes.is_empty());
        logged |= self.flaw == Flaw::ChangesBeforeReply;
        let unchanged = changes.is_empty() && self.flaw == Flaw::UnchangedKeysUnlogged;
        if logged && !unchanged {
            self.append(&Entry::Record { identity, changes, reply: reply.clone() }, false);
            self.desk.handle_logged(&identity);
        } else if self.flaw == Flaw::UnchangedForgotten {
            self.desk.handle_logged(&identity);
        } else {
            self.desk.handle_unchanged(self.end(), &identity, &reply);
        }
        self.hold(request, reply);
    }

    /// A reply waits until everything is safe that it was decided on.
    fn hold(&mut self, request: Try, reply: Reply) {
        self.held.push((self.end(), request, reply));
        if self.flaw == Flaw::RepliesBeforeMark {
            self.release(Position::new(Epoch(u64::MAX), u64::MAX));
        } else {
            self.release(self.safe());
        }
    }

    fn release(&mut self, mark: Position) {
        for (_, request, reply) in self.held.extract_if(.., |(position, ..)| *position <= mark) {
            let joins = |other: &mut Try| same(&other.identity, &request.identity);
            let joined: Vec<_> = self.joined.extract_if(.., joins).collect();
            self.replies.extend(joined.into_iter().map(|other| (other, reply.clone())));
            self.replies.push((request, reply));
        }
    }

    /// Up to `more` further entries are safe: replicas apply them, replies leave.
    pub(crate) fn advance_mark(&mut self, more: usize) {
        self.mark = self.mark.saturating_add(more).min(self.log.len());
        for at in self.replica.applied..self.mark {
            let (position, bytes) = self.log[at].clone();
            self.replica.apply(position, &bytes);
        }
        self.release(self.safe());
    }

    pub(crate) fn take_replies(&mut self) -> Vec<(Try, Reply)> {
        std::mem::take(&mut self.replies)
    }
}

fn same(one: &Identity, other: &Identity) -> bool {
    match (one, other) {
        (Identity::Numbered(one), Identity::Numbered(other)) => {
            (one.session, one.number) == (other.session, other.number)
        }
        (one, other) => one == other,
    }
}
