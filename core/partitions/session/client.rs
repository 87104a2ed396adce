//! The client's half of a session: one for each caller and partition.
//!
//! ```text
//! request ─▶ waiting ──session open, window free──▶ sent ──answered──▶ done
//!               │                                    │  ▲
//!               │ too many: Overloaded               ▼  │ another try, same number
//!               ▼                                    lost or refused
//!            refused                                  │
//!                                                     └─ session expired, or given up ─▶ Timeout { maybe_applied }
//! ```
//!
//! A request that was sent once is never given another number: were it carried out under the first, it would be
//! carried out again. So when a session is gone, what was sent in it ends as unknown, and what still waits goes out
//! in the next one. Sessions are left in time for that to be rare: a client that was answered nothing for half of the
//! idle time opens a new one.
//!
//! Only the newest try's answer counts. A compare-and-set may have failed under one primary, and succeeded when it was
//! tried again under the next: whoever then believed the older answer, which came late, would be wrong.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::Limits;
use crate::partitions::identity::{Numbered, SessionId};
use crate::partitions::request::Failure;
use crate::time::Moment;

/// The most requests that wait for a session, or for the window to move.
pub const WAITING_MAX: usize = 1 << 14;

/// How long a client keeps answers to itself before it says that it has them, if no further request says so.
const ACKNOWLEDGE_AFTER: Duration = Duration::from_secs(1);

/// The caller's own name for one request; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// Which try of a request, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Attempt(pub u32);

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Ask the partition's primary for a session. Answered by [`SessionClient::handle_opened`],
    /// [`SessionClient::handle_open_lost`] or [`SessionClient::handle_open_refused`].
    Open {
        /// Says which asking it is: asked again with the same one, it is the same session.
        nonce: u128,
    },
    /// Send the request for the first time: that is [`Attempt`] 1. Further tries ask [`SessionClient::retry`] for what
    /// to carry.
    Send {
        /// Which request.
        ticket: Ticket,
        /// By what it is known again.
        numbered: Numbered,
    },
    /// Tell the caller.
    Fail {
        /// Which request.
        ticket: Ticket,
        /// Why, and whether anything may have changed.
        failure: Failure,
    },
    /// Tell the primary that all answers below `lowest` have come. Nobody answers that, and it may be lost.
    Acknowledge {
        /// In which session.
        session: SessionId,
        /// The lowest number that is still waited for.
        lowest: u64,
    },
    /// Tell the primary that the session is not used any more. Nobody answers that, and it may be lost.
    End {
        /// Which session.
        session: SessionId,
    },
}

/// How one try of a request ended that brought no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TryEnd {
    /// It was refused, or never left: it changed nothing, and will not. Only a lane that delivers a frame once at most
    /// can say so: of two copies, one may have been refused, and the other carried out.
    NothingChanged,
    /// Nobody knows whether it arrived, or may still.
    Unknown,
}

#[derive(Clone, Copy, Debug)]
struct Sent {
    number: u64,
    attempt: Attempt,
    /// When the last try went out.
    at: Moment,
    under_way: bool,
    /// Whether an earlier try may have been carried out.
    unknown: bool,
}

#[derive(Clone, Copy, Debug)]
struct Open {
    id: SessionId,
    /// The newest try that was answered went out then: the primary heard of this client at that moment or later.
    heard: Moment,
    next: u64,
    /// What the primary was told last.
    told: u64,
}

/// One caller's session with one partition.
#[derive(Debug)]
pub struct SessionClient {
    limits: Limits,
    nonce: u128,
    opening: Option<Moment>,
    open: Option<Open>,
    waiting: VecDeque<Ticket>,
    sent: BTreeMap<Ticket, Sent>,
    /// The same by number: the first is the lowest unanswered.
    numbers: BTreeMap<u64, Ticket>,
}

impl SessionClient {
    /// A client without a session. `seed` is random, and as good as never the same for two clients.
    pub const fn new(limits: Limits, seed: u128) -> Self {
        Self {
            limits,
            nonce: seed,
            opening: None,
            open: None,
            waiting: VecDeque::new(),
            sent: BTreeMap::new(),
            numbers: BTreeMap::new(),
        }
    }

    /// A caller wants something done once.
    pub fn handle_request(&mut self, now: Moment, ticket: Ticket) -> Vec<Effect> {
        if self.waiting.len() >= WAITING_MAX {
            return vec![Effect::Fail { ticket, failure: Failure::Overloaded }];
        }
        self.waiting.push_back(ticket);
        self.send_waiting(now)
    }

    /// Which try the next one is, and what it carries: the same number. The tries before it are void from now on.
    /// `None`: the request has ended.
    pub fn retry(&mut self, now: Moment, ticket: Ticket) -> Option<(Attempt, Numbered)> {
        let open = self.open.as_mut()?;
        let sent = self.sent.get_mut(&ticket)?;
        sent.unknown |= sent.under_way;
        (sent.at, sent.under_way, sent.attempt) = (now, true, Attempt(sent.attempt.0.saturating_add(1)));
        let lowest = self.numbers.first_key_value().map_or(open.next, |(lowest, _)| *lowest);
        open.told = open.told.max(lowest);
        Some((sent.attempt, Numbered { session: open.id, number: sent.number, lowest }))
    }

    /// A try ended without an answer. The request waits for another one, or for [`Self::handle_given_up`].
    pub fn handle_try_ended(&mut self, ticket: Ticket, attempt: Attempt, end: TryEnd) {
        if let Some(sent) = self.sent.get_mut(&ticket).filter(|sent| sent.attempt == attempt) {
            sent.under_way = false;
            sent.unknown |= end == TryEnd::Unknown;
        }
    }

    /// An answer has come, whatever it says. `None`: it answers a try that another one has replaced, or the request
    /// has ended; it must not reach the caller. Not for [`super::Verdict::Expired`]: that is [`Self::handle_expired`].
    pub fn handle_answered(&mut self, now: Moment, ticket: Ticket, attempt: Attempt) -> Option<Vec<Effect>> {
        let sent = *self.sent.get(&ticket).filter(|sent| sent.attempt == attempt)?;
        self.sent.remove(&ticket);
        self.numbers.remove(&sent.number);
        if let Some(open) = &mut self.open {
            open.heard = open.heard.max(sent.at);
        }
        Some(self.send_waiting(now))
    }

    /// The caller waits no longer: its deadline has passed. The caller is told.
    pub fn handle_given_up(&mut self, now: Moment, ticket: Ticket) -> Vec<Effect> {
        let maybe_applied = match self.sent.remove(&ticket) {
            Some(sent) => {
                self.numbers.remove(&sent.number);
                sent.unknown || sent.under_way
            }
            None if self.waiting.contains(&ticket) => {
                self.waiting.retain(|waiting| *waiting != ticket);
                false
            }
            None => return Vec::new(),
        };
        let mut effects = vec![Effect::Fail { ticket, failure: Failure::Timeout { maybe_applied } }];
        effects.extend(self.send_waiting(now));
        effects
    }

    /// The primary holds no such session. What was sent in it ends as unknown; what waits goes into the next one.
    pub fn handle_expired(&mut self, now: Moment, session: SessionId) -> Vec<Effect> {
        if self.open.is_none_or(|open| open.id != session) {
            return Vec::new();
        }
        self.open = None;
        let mut effects = self.fail_sent();
        effects.extend(self.send_waiting(now));
        effects
    }

    /// A session was opened.
    pub fn handle_opened(&mut self, now: Moment, nonce: u128, id: SessionId) -> Vec<Effect> {
        match self.opening {
            Some(asked) if nonce == self.nonce => {
                self.opening = None;
                self.open = Some(Open { id, heard: asked, next: 1, told: 1 });
                self.send_waiting(now)
            }
            // Its client asked twice, and uses it.
            _ if self.open.is_some_and(|open| open.id == id) => Vec::new(),
            _ => vec![Effect::End { session: id }],
        }
    }

    /// No answer came to an opening. It is asked for again, as the same one.
    pub fn handle_open_lost(&mut self, nonce: u128) -> Vec<Effect> {
        if self.opening.is_none() || nonce != self.nonce {
            return Vec::new();
        }
        if self.waiting.is_empty() {
            self.opening = None;
            return Vec::new();
        }
        vec![Effect::Open { nonce }]
    }

    /// An opening was refused, for good: whoever waits for it is told. The next request asks again.
    pub fn handle_open_refused(&mut self, nonce: u128, failure: &Failure) -> Vec<Effect> {
        if self.opening.is_none() || nonce != self.nonce {
            return Vec::new();
        }
        self.opening = None;
        self.fail_waiting(failure)
    }

    /// Time has passed: ask about once a second. Says what the primary does not know yet.
    pub fn handle_tick(&mut self, now: Moment) -> Vec<Effect> {
        let lowest = self.lowest();
        match &mut self.open {
            Some(open) if open.told < lowest && now.since(open.heard) >= ACKNOWLEDGE_AFTER => {
                open.told = lowest;
                vec![Effect::Acknowledge { session: open.id, lowest }]
            }
            Some(_) | None => Vec::new(),
        }
    }

    /// The caller is stopping. What was sent ends as unknown, what waits as unchanged.
    pub fn handle_end(&mut self) -> Vec<Effect> {
        let mut effects = self.fail_sent();
        effects.extend(self.fail_waiting(&Failure::NotReady));
        effects.extend(self.open.take().map(|open| Effect::End { session: open.id }));
        self.opening = None;
        effects
    }

    /// How many requests wait for a session, or for the window to move.
    pub fn waiting_len(&self) -> usize {
        self.waiting.len()
    }

    /// How many requests were sent and have not ended.
    pub fn sent_len(&self) -> usize {
        self.sent.len()
    }

    fn send_waiting(&mut self, now: Moment) -> Vec<Effect> {
        let mut effects = Vec::new();
        effects.extend(self.leave_if_stale(now));
        while let Some(ticket) = self.waiting.front().copied() {
            let Some(open) = self.open else {
                effects.extend(self.start_opening(now));
                break;
            };
            let lowest = self.lowest();
            if self.is_stale(now) || open.next - lowest >= self.limits.window {
                break;
            }
            self.waiting.pop_front();
            let numbered = Numbered { session: open.id, number: open.next, lowest };
            self.sent.insert(
                ticket,
                Sent { number: open.next, attempt: Attempt(1), at: now, under_way: true, unknown: false },
            );
            self.numbers.insert(open.next, ticket);
            self.open = Some(Open { next: open.next + 1, told: lowest, ..open });
            effects.push(Effect::Send { ticket, numbered });
        }
        effects
    }

    /// The lowest number that is still waited for; with none, the next one.
    fn lowest(&self) -> u64 {
        let next = self.open.map_or(1, |open| open.next);
        self.numbers.first_key_value().map_or(next, |(lowest, _)| *lowest)
    }

    /// Whether the session may soon be expired: nothing new is sent in it.
    fn is_stale(&self, now: Moment) -> bool {
        self.open.is_some_and(|open| now.since(open.heard) > self.limits.idle / 2)
    }

    fn leave_if_stale(&mut self, now: Moment) -> Option<Effect> {
        let leave = self.is_stale(now) && self.sent.is_empty() && !self.waiting.is_empty();
        let left = leave.then(|| self.open.take()).flatten()?;
        Some(Effect::End { session: left.id })
    }

    fn start_opening(&mut self, now: Moment) -> Option<Effect> {
        if self.opening.is_some() {
            return None;
        }
        self.nonce = self.nonce.wrapping_add(1);
        self.opening = Some(now);
        Some(Effect::Open { nonce: self.nonce })
    }

    fn fail_sent(&mut self) -> Vec<Effect> {
        self.numbers.clear();
        let fail = |(ticket, sent): (Ticket, Sent)| {
            let maybe_applied = sent.unknown || sent.under_way;
            Effect::Fail { ticket, failure: Failure::Timeout { maybe_applied } }
        };
        std::mem::take(&mut self.sent).into_iter().map(fail).collect()
    }

    fn fail_waiting(&mut self, failure: &Failure) -> Vec<Effect> {
        let fail = |ticket| Effect::Fail { ticket, failure: failure.clone() };
        self.waiting.drain(..).map(fail).collect()
    }
}
