//! What the primary alone knows about requests: which are being handled, which changed nothing, who was heard when.
//!
//! ```text
//! check ──Run──▶ being handled ──┬─ committed ─────────▶ Record in the log: Sessions remembers it
//!                                ├─ committed nothing ─▶ remembered here, until the client says that it has it
//!                                └─ with a key ────────▶ Record in the log, whatever it did
//! ```
//!
//! A handler that committed nothing leaves no trace on the copies. The primary must still not run it twice: a
//! compare-and-set that failed, and whose second copy was under way for long, would succeed after its caller was told
//! that it had not. So the primary remembers, for as long as its epoch lasts; after that the fence refuses whatever
//! was sent to it. A request with a key may come through another node, under any epoch: it is always logged.
//!
//! A desk therefore lives as long as its epoch: a worker that is started again under the same epoch keeps the desk.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use super::{Answer, Limits, Sessions, Verdict};
use crate::partitions::entry::{EXPIRED_MAX, Expiry};
use crate::partitions::identity::{Identity, Numbered, Position, SessionId};
use crate::partitions::request::Reply;
use crate::time::Moment;

/// What one session's client was last heard to say, and its requests that left no trace in the log.
#[derive(Clone, Debug)]
struct Caller {
    heard: Moment,
    lowest: u64,
    /// Requests whose handlers committed nothing.
    unchanged: BTreeMap<u64, Unchanged>,
    bytes: usize,
}

impl Caller {
    const fn new(now: Moment) -> Self {
        Self { heard: now, lowest: 0, unchanged: BTreeMap::new(), bytes: 0 }
    }
}

/// What a handler answered that committed nothing.
#[derive(Clone, Debug)]
struct Unchanged {
    /// The end of the log when it answered: what it saw may be lost until the mark is there.
    seen: Position,
    /// None: it was too large to be kept.
    reply: Option<Reply>,
}

impl Unchanged {
    fn bytes_len(&self) -> usize {
        Answer::OVERHEAD + self.reply.as_ref().and_then(|reply| reply.as_ref().ok()).map_or(0, Bytes::len)
    }

    fn verdict(&self, mark: Position) -> Verdict {
        match &self.reply {
            _ if self.seen > mark => Verdict::Running,
            Some(reply) => Verdict::Answered { at: self.seen, reply: reply.clone() },
            None => Verdict::Dropped,
        }
    }
}

/// What the primary of one epoch knows, beside the replicated [`Sessions`].
#[derive(Clone, Debug)]
pub struct Desk {
    limits: Limits,
    /// The requests whose handlers have not returned: about one per kind of worker.
    handled: Vec<Identity>,
    callers: BTreeMap<SessionId, Caller>,
    /// How far keys had come at some moments, the oldest first: what they say is older than the newest of them that
    /// is a key's age ago.
    keys_seen: VecDeque<(Moment, Position)>,
}

/// How many times during its age a key is looked at.
const KEY_SAMPLES: u32 = 16;

/// What becomes of an opening that is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opening {
    /// Log it.
    Open,
    /// It is open: this is its number. Say so as soon as the mark has reached it.
    Held(SessionId),
    /// There are too many. Nothing changed.
    Overloaded,
}

impl Desk {
    /// The desk of a primary that has just adopted its log.
    pub const fn new(limits: Limits) -> Self {
        Self { limits, handled: Vec::new(), callers: BTreeMap::new(), keys_seen: VecDeque::new() }
    }

    /// A session is asked for.
    pub fn check_open(&mut self, now: Moment, sessions: &Sessions, nonce: u128) -> Opening {
        match sessions.opened(nonce) {
            Some(id) => {
                self.heard(now, id, 0);
                Opening::Held(id)
            }
            None if sessions.len() >= self.limits.sessions_max => Opening::Overloaded,
            None => Opening::Open,
        }
    }

    /// A request's turn has come, as the log is safe up to `mark`. After [`Verdict::Run`] it counts as being handled,
    /// until [`Self::handle_logged`] or [`Self::handle_unchanged`].
    ///
    /// Ask only for requests that were sent under this primary's fence: what was sent under an older one is refused
    /// before it comes here.
    pub fn check(
        &mut self,
        now: Moment,
        sessions: &Sessions,
        mark: Position,
        identity: &Identity,
    ) -> Verdict {
        let verdict = match identity {
            Identity::Numbered(numbered) => self.check_numbered(now, sessions, mark, numbered),
            Identity::Keyed(keyed) => match self.handled.iter().find(|handled| same(handled, identity)) {
                Some(Identity::Keyed(handled)) if handled.fingerprint != keyed.fingerprint => Verdict::Reused,
                Some(_) => Verdict::Running,
                None => sessions.check(&self.limits, mark, identity),
            },
        };
        if verdict == Verdict::Run {
            self.handled.push(*identity);
        }
        verdict
    }

    fn check_numbered(
        &mut self,
        now: Moment,
        sessions: &Sessions,
        mark: Position,
        numbered: &Numbered,
    ) -> Verdict {
        if !sessions.is_open(numbered.session) {
            return Verdict::Expired;
        }
        let identity = Identity::Numbered(*numbered);
        let handled = self.handled.iter().any(|handled| same(handled, &identity));
        let caller = self.heard(now, numbered.session, numbered.lowest);
        if numbered.number < caller.lowest {
            return Verdict::Forgotten;
        }
        if handled {
            return Verdict::Running;
        }
        match caller.unchanged.get(&numbered.number) {
            Some(unchanged) => unchanged.verdict(mark),
            None => sessions.check(&self.limits, mark, &identity),
        }
    }

    /// Notes that a session's client lives, and what it still waits for.
    fn heard(&mut self, now: Moment, session: SessionId, lowest: u64) -> &mut Caller {
        let caller = self.callers.entry(session).or_insert_with(|| Caller::new(now));
        caller.heard = caller.heard.max(now);
        caller.lowest = caller.lowest.max(lowest);
        while let Some(first) = caller.unchanged.first_entry().filter(|first| *first.key() < caller.lowest) {
            caller.bytes -= first.remove().bytes_len();
        }
        caller
    }

    /// Whether the handler's answer is to be logged: if it changed something, or the request has a key.
    pub fn is_logged(&self, sessions: &Sessions, identity: &Identity, committed: bool) -> bool {
        committed || matches!(identity, Identity::Keyed(_)) || self.has_steps(sessions, identity)
    }

    /// Whether the request was logged in part: then its answer must follow.
    fn has_steps(&self, sessions: &Sessions, identity: &Identity) -> bool {
        match identity {
            Identity::Numbered(Numbered { session, number, .. }) => (sessions.sessions.get(session))
                .is_some_and(|session| session.answers.get(*number) == Some(&Answer::InDoubt)),
            Identity::Keyed(keyed) => {
                sessions.keys.get(&keyed.key).is_some_and(|key| key.answer == Answer::InDoubt)
            }
        }
    }

    /// The handler returned, and its answer was appended to the log and applied: [`Sessions`] knows it now.
    pub fn handle_logged(&mut self, identity: &Identity) {
        if let Some(at) = self.handled.iter().position(|handled| same(handled, identity)) {
            self.handled.swap_remove(at);
        }
    }

    /// The handler will never return, and nobody was answered. Steps of it that were logged say so; of what was not,
    /// nothing is left: then it may be run.
    pub fn handle_abandoned(&mut self, identity: &Identity) {
        self.handle_logged(identity);
    }

    /// The handler returned, committed nothing, and its answer was not logged. `seen` is the end of the log at that
    /// moment; the answer leaves when the mark has reached it, as every reply does.
    ///
    /// What it answered stays known here until the client has it. If the changes of others that it saw are lost, this
    /// primary is lost with them.
    pub fn handle_unchanged(&mut self, seen: Position, identity: &Identity, reply: &Reply) {
        self.handle_logged(identity);
        let Identity::Numbered(Numbered { session, number, .. }) = identity else { return };
        let Some(caller) = self.callers.get_mut(session) else { return };
        if *number < caller.lowest {
            return;
        }
        let fits = caller.bytes < self.limits.session_bytes_max;
        let unchanged = Unchanged { seen, reply: fits.then(|| reply.clone()) };
        caller.bytes += unchanged.bytes_len();
        caller.unchanged.insert(*number, unchanged);
    }

    /// A client says that it lives, and has its answers below `lowest`.
    pub fn handle_acknowledged(&mut self, now: Moment, sessions: &Sessions, session: SessionId, lowest: u64) {
        if sessions.is_open(session) {
            self.heard(now, session, lowest);
        }
    }

    /// A client ends its session. What to log, if anything: not while a request of it is being handled.
    pub fn handle_end(&self, sessions: &Sessions, session: SessionId) -> Option<Expiry> {
        let may_end = sessions.is_open(session) && !self.is_busy(session);
        may_end.then(|| Expiry { sessions: vec![session], ..Expiry::default() })
    }

    /// What has become too old, or is known to be answered while room is short. Log it, if anything; ask about once a
    /// second.
    pub fn plan_expiry(&mut self, now: Moment, sessions: &Sessions) -> Option<Expiry> {
        self.callers.retain(|id, _| sessions.is_open(*id));
        // Of a session that this primary has heard nothing of, it counts the silence from now on.
        for session in sessions.open_sessions() {
            self.callers.entry(session).or_insert_with(|| Caller::new(now));
        }
        let idle =
            |id: &SessionId| now.since(self.callers[id].heard) >= self.limits.idle && !self.is_busy(*id);
        let ended = sessions.open_sessions().filter(idle).take(EXPIRED_MAX).collect();
        let answered = self.plan_forgetting(sessions);
        let expiry =
            Expiry { sessions: ended, answered, keys_through: self.plan_keys_through(now, sessions) };
        (!expiry.is_empty()).then_some(expiry)
    }

    /// With half of the room used up, clients that have more answers than the log says are taken at their word.
    fn plan_forgetting(&self, sessions: &Sessions) -> Vec<(SessionId, u64)> {
        if sessions.bytes_len() < self.limits.bytes_max / 2 {
            return Vec::new();
        }
        let ahead = |(id, caller): (&SessionId, &Caller)| {
            let session = sessions.sessions.get(id)?;
            let frees = session.answers.below(caller.lowest).next().is_some();
            frees.then_some((*id, caller.lowest))
        };
        self.callers.iter().filter_map(ahead).take(EXPIRED_MAX).collect()
    }

    /// Up to where keys are old enough to be forgotten; [`Position::ZERO`] if none is.
    fn plan_keys_through(&mut self, now: Moment, sessions: &Sessions) -> Position {
        let newest = sessions.keys_by_age.last_key_value().map(|(newest, _)| *newest);
        let due = self.limits.key_age / KEY_SAMPLES;
        let sampled = self.keys_seen.back();
        if let Some(newest) = newest
            && sampled.is_none_or(|(at, through)| now.since(*at) >= due && *through < newest)
        {
            self.keys_seen.push_back((now, newest));
        }
        let mut through = Position::ZERO;
        while let Some((_, old)) =
            self.keys_seen.pop_front_if(|(at, _)| now.since(*at) >= self.limits.key_age)
        {
            through = old;
        }
        let oldest = sessions.keys_by_age.first_key_value().map(|(oldest, _)| *oldest);
        if oldest.is_some_and(|oldest| oldest <= through) { through } else { Position::ZERO }
    }

    fn is_busy(&self, session: SessionId) -> bool {
        let of = |identity: &Identity| matches!(identity, Identity::Numbered(numbered) if numbered.session == session);
        self.handled.iter().any(of)
    }
}

/// Whether two identities are of one request, or claim to be: a retry may carry a newer lowest number.
fn same(one: &Identity, other: &Identity) -> bool {
    match (one, other) {
        (Identity::Numbered(one), Identity::Numbered(other)) => {
            (one.session, one.number) == (other.session, other.number)
        }
        (Identity::Keyed(one), Identity::Keyed(other)) => one.key == other.key,
        (Identity::Numbered(_), Identity::Keyed(_)) | (Identity::Keyed(_), Identity::Numbered(_)) => false,
    }
}
