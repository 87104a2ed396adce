//! This node's sessions, one for each partition that it has asked to do something.
//!
//! ```text
//!  call ─ begin ─▶ Turn ── number ─▶ tries, the same number ─▶ told ─┬─ answered ─▶ next ones get their numbers
//!                   └─ waits for the session, or for the window      └─ dropped: given up
//! ```
//!
//! The law is [`SessionClient`]; here callers meet it. Its lock is never held while anything is waited for, and what is to
//! be sent is given to whoever called.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use tokio::sync::oneshot;
use tokio::time::Instant;
use tumen_core::Moment;
use tumen_core::ids::PartitionId;
use tumen_core::partitions::identity::{Numbered, SessionId};
use tumen_core::partitions::request::{Failure, Reply};
use tumen_core::partitions::session::Limits;
use tumen_core::partitions::session::ask::Ask;
use tumen_core::partitions::session::client::{Attempt, Effect, SessionClient, Ticket, TryEnd};

use super::Router;
use crate::clock;

/// The most sessions that a node has. Further partitions are answered `Overloaded` until one has been idle for long enough.
const CONVERSATIONS_MAX: usize = 1 << 14;

/// All sessions of this node.
#[derive(Default)]
pub(super) struct Conversations {
    by_partition: RwLock<BTreeMap<PartitionId, Arc<Conversation>>>,
}

/// One session, and who waits for it.
pub(super) struct Conversation {
    pub(super) partition: PartitionId,
    inner: Mutex<Inner>,
}

struct Inner {
    client: SessionClient,
    next: u64,
    /// Who waits for a number.
    waiting: BTreeMap<Ticket, oneshot::Sender<Result<Numbered, Failure>>>,
    /// Requests that were ended by something else than their own answers, until their callers look.
    ended: BTreeMap<Ticket, Failure>,
    /// How many callers there are.
    callers: usize,
    used: Moment,
    /// It was taken away: callers look for the next one.
    over: bool,
}

/// What is to be sent, without waiting for it.
pub(super) enum Order {
    /// Open the session. [`Conversation::handle_opening`] wants to know how that ended.
    Open { nonce: u128 },
    /// Nobody waits for the answer.
    Tell(Ask),
}

/// One request, from its ticket to its end. Dropped, its caller does not wait any more.
pub(super) struct Turn<'a> {
    router: &'a Router,
    conversation: Arc<Conversation>,
    ticket: Ticket,
    attempt: Attempt,
    number: Option<oneshot::Receiver<Result<Numbered, Failure>>>,
    over: bool,
}

impl Conversations {
    /// The session with this partition, new if there is none. `None`: there are too many.
    pub(super) fn with(&self, partition: PartitionId, now: Moment) -> Option<Arc<Conversation>> {
        let found = self.by_partition.read().unwrap_or_else(PoisonError::into_inner).get(&partition).cloned();
        if found.is_some() {
            return found;
        }
        let mut all = self.by_partition.write().unwrap_or_else(PoisonError::into_inner);
        if !all.contains_key(&partition) && all.len() >= CONVERSATIONS_MAX {
            return None;
        }
        Some(Arc::clone(all.entry(partition).or_insert_with(|| Arc::new(Conversation::new(partition, now)))))
    }

    /// Time has passed: what the primaries are to be told. Sessions that nobody has used for long end.
    pub(super) fn handle_tick(&self, now: Moment) -> Vec<(PartitionId, Ask)> {
        let mut asks = Vec::new();
        let mut idle = Vec::new();
        for conversation in self.all() {
            let mut inner = conversation.lock();
            let effects = if inner.callers == 0 && now.since(inner.used) >= Limits::default().idle / 2 {
                idle.push(conversation.partition);
                inner.end()
            } else {
                inner.client.handle_tick(now)
            };
            asks.extend(told(conversation.partition, inner.carry_out(effects)));
        }
        if !idle.is_empty() {
            let mut all = self.by_partition.write().unwrap_or_else(PoisonError::into_inner);
            idle.iter().for_each(|partition| drop(all.remove(partition)));
        }
        asks
    }

    /// Ends all sessions that nobody waits for: what the primaries are to be told.
    pub(super) fn end_unused(&self) -> Vec<(PartitionId, Ask)> {
        let mut all = self.by_partition.write().unwrap_or_else(PoisonError::into_inner);
        let unused = all.extract_if(.., |_, conversation| conversation.lock().callers == 0);
        let unused: Vec<_> = unused.collect();
        drop(all);
        end(unused)
    }

    /// Ends all sessions, whoever waits. Nobody is to be told.
    pub(super) fn end_all(&self) {
        let all = std::mem::take(&mut *self.by_partition.write().unwrap_or_else(PoisonError::into_inner));
        drop(end(all));
    }

    fn all(&self) -> Vec<Arc<Conversation>> {
        self.by_partition.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }
}

fn end(all: impl IntoIterator<Item = (PartitionId, Arc<Conversation>)>) -> Vec<(PartitionId, Ask)> {
    let mut asks = Vec::new();
    for (partition, conversation) in all {
        let mut inner = conversation.lock();
        let effects = inner.end();
        asks.extend(told(partition, inner.carry_out(effects)));
    }
    asks
}

fn told(partition: PartitionId, orders: Vec<Order>) -> impl Iterator<Item = (PartitionId, Ask)> {
    orders.into_iter().filter_map(move |order| match order {
        Order::Tell(ask) => Some((partition, ask)),
        // Nobody waits for it any more.
        Order::Open { .. } => None,
    })
}

impl Conversation {
    fn new(partition: PartitionId, now: Moment) -> Self {
        let seed = u128::from(clock::draw()) << 64 | u128::from(clock::draw());
        let inner = Inner {
            client: SessionClient::new(Limits::default(), seed),
            next: 0,
            waiting: BTreeMap::new(),
            ended: BTreeMap::new(),
            callers: 0,
            used: now,
            over: false,
        };
        Self { partition, inner: Mutex::new(inner) }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A caller wants something done once. `None`: look for this partition's session again. With its number, if it has one
    /// at once.
    pub(super) fn begin<'a>(
        self: &Arc<Self>,
        router: &'a Router,
        now: Moment,
    ) -> Option<(Turn<'a>, Option<Numbered>)> {
        let mut inner = self.lock();
        if inner.over {
            return None;
        }
        let ticket = Ticket(inner.next);
        (inner.next, inner.callers, inner.used) = (inner.next + 1, inner.callers + 1, now);
        let effects = inner.client.handle_request(now, ticket);
        let conversation = Arc::clone(self);
        let mut turn = Turn { router, conversation, ticket, attempt: Attempt(1), number: None, over: false };
        if let [Effect::Send { ticket: sent, numbered }] = effects[..]
            && sent == ticket
        {
            return Some((turn, Some(numbered)));
        }
        let (to, number) = oneshot::channel();
        inner.waiting.insert(ticket, to);
        turn.number = Some(number);
        let orders = inner.carry_out(effects);
        drop(inner);
        router.run_orders(self, orders);
        Some((turn, None))
    }

    /// An opening came to an end: with the session's number, or why there is none.
    pub(super) fn handle_opening(
        &self,
        now: Moment,
        nonce: u128,
        opened: Result<SessionId, Failure>,
    ) -> Vec<Order> {
        let mut inner = self.lock();
        let effects = match opened {
            Ok(id) => inner.client.handle_opened(now, nonce, id),
            Err(
                Failure::Stale { .. } | Failure::NotReady | Failure::Fenced { .. } | Failure::Timeout { .. },
            ) => inner.client.handle_open_lost(nonce),
            Err(failure) => inner.client.handle_open_refused(nonce, &failure),
        };
        inner.carry_out(effects)
    }
}

impl Inner {
    fn end(&mut self) -> Vec<Effect> {
        self.over = true;
        self.client.handle_end()
    }

    /// Tells callers what concerns them; what is to be sent is left over.
    fn carry_out(&mut self, effects: Vec<Effect>) -> Vec<Order> {
        let mut orders = Vec::new();
        for effect in effects {
            match effect {
                Effect::Open { nonce } => orders.push(Order::Open { nonce }),
                Effect::Acknowledge { session, lowest } => {
                    orders.push(Order::Tell(Ask::Acknowledge { session, lowest }));
                }
                Effect::End { session } => orders.push(Order::Tell(Ask::End { session })),
                Effect::Send { ticket, numbered } => {
                    if let Some(waiting) = self.waiting.remove(&ticket) {
                        // A caller who has gone says so by dropping its turn.
                        drop(waiting.send(Ok(numbered)));
                    }
                }
                Effect::Fail { ticket, failure } => match self.waiting.remove(&ticket) {
                    Some(waiting) => drop(waiting.send(Err(failure))),
                    None => drop(self.ended.insert(ticket, failure)),
                },
            }
        }
        orders
    }

    /// How a request ended that its own answer did not end.
    fn end_of(&mut self, ticket: Ticket) -> Failure {
        self.ended.remove(&ticket).unwrap_or(Failure::Timeout { maybe_applied: true })
    }
}

impl Turn<'_> {
    /// Waits for a number. The error is how the request ended before it had one.
    pub(super) async fn numbered(&mut self, deadline: Instant) -> Result<Numbered, Failure> {
        let Some(number) = &mut self.number else { return Err(Failure::NotReady) };
        match tokio::time::timeout_at(deadline, number).await {
            Ok(told) => told.unwrap_or(Err(Failure::NotReady)),
            Err(_) => {
                // No try has left: not even if a number has just come.
                self.handle_try_ended(TryEnd::NothingChanged);
                Err(self.give_up())
            }
        }
    }

    /// A try brought no answer.
    pub(super) fn handle_try_ended(&self, end: TryEnd) {
        self.conversation.lock().client.handle_try_ended(self.ticket, self.attempt, end);
    }

    /// What the next try carries. The error is how the request ended meanwhile.
    pub(super) fn retry(&mut self) -> Result<Numbered, Failure> {
        let now = self.router.now();
        let mut inner = self.conversation.lock();
        match inner.client.retry(now, self.ticket) {
            Some((attempt, numbered)) => {
                self.attempt = attempt;
                Ok(numbered)
            }
            None => Err(inner.end_of(self.ticket)),
        }
    }

    /// The session has ended, says the primary: how the request ended with it.
    pub(super) fn handle_expired(&mut self, session: SessionId) -> Failure {
        // This try was not carried out. Of those before it nobody knows.
        self.handle_try_ended(TryEnd::NothingChanged);
        let effects = |client: &mut SessionClient, now| client.handle_expired(now, session);
        self.conclude(effects)
    }

    /// The request is answered: the answer, if it is to be believed.
    pub(super) fn handle_answered(mut self, reply: Reply) -> Reply {
        let mut believed = false;
        let (ticket, attempt) = (self.ticket, self.attempt);
        let failure = self.conclude(|client, now| match client.handle_answered(now, ticket, attempt) {
            Some(effects) => {
                believed = true;
                effects
            }
            None => Vec::new(),
        });
        if believed { reply } else { Err(failure) }
    }

    /// Nobody waits any longer: what is to be said then.
    pub(super) fn give_up(&mut self) -> Failure {
        let ticket = self.ticket;
        self.conclude(|client, now| client.handle_given_up(now, ticket))
    }

    /// The request's end, whatever it is.
    fn conclude(&mut self, act: impl FnOnce(&mut SessionClient, Moment) -> Vec<Effect>) -> Failure {
        let now = self.router.now();
        let mut inner = self.conversation.lock();
        inner.callers -= usize::from(!std::mem::replace(&mut self.over, true));
        inner.waiting.remove(&self.ticket);
        let effects = act(&mut inner.client, now);
        let orders = inner.carry_out(effects);
        let failure = inner.end_of(self.ticket);
        drop(inner);
        self.router.run_orders(&self.conversation, orders);
        failure
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if !self.over {
            self.give_up();
        }
    }
}
