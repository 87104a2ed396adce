//! What waits on this node for whoever will answer under a name: bounded, in order, each with its own deadline.
//!
//! ```text
//!  call, cast ─ somebody answers, nobody waits ─▶ straight on
//!     └─ otherwise ─▶ NameLine ─ one task for each name, while something waits ─▶ the next instance
//!                        └─ full · too late · overtaken · the name is free · this node leaves ─▶ told so
//! ```

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;
use tumen_core::ids::NodeBoot;
use tumen_core::names::line::{Line, Next, Pass, Patience, Refused, Waiting};
use tumen_core::names::{ClaimNumber, Holder, Name};
use tumen_core::partitions::request::{Failure, MessageId, Reply};

use super::calling::Way;
use super::{ASK_AGAIN_AFTER, NameFailure, Names};
use crate::partitions::router::CallOptions;

/// The most messages that wait on one node, for all names together.
pub const WAITING_ON_NODE_MAX: usize = 65_536;
/// The most bytes of theirs.
pub const WAITING_ON_NODE_BYTES_MAX: usize = 64 << 20;

/// How long the next instance is sent nothing because what was sent to the last one may still come back. A node that is no
/// member any more sends nothing back that counts.
const SETTLED_WITHIN: Duration = Duration::from_millis(100);
/// The longest pause between two tries with somebody who sends messages back. Each is twice as long as the one before.
const TRIES_AGAIN_AFTER_MAX: Duration = Duration::from_millis(320);
/// How often what waits is looked at though nothing is heard.
const LOOKS_EVERY: Duration = Duration::from_millis(250);
/// After how many messages others may run.
const YIELDS_AFTER: u32 = 64;

/// Why nothing waits for a name any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Over {
    /// The name is free.
    Free,
    /// This node stops.
    Stops,
    /// This node left its cluster: what waits goes on with whoever has the name in the next one.
    Moved,
}

/// What one node sends to one name.
#[derive(Default)]
pub(super) struct NameLine {
    inner: Mutex<Inner>,
    /// Whoever looks after it is to look again.
    stirred: Notify,
}

#[derive(Default)]
struct Inner {
    law: Line<Item>,
    /// Where whoever something was sent to last is.
    node: Option<NodeBoot>,
    over: Option<Over>,
}

impl Inner {
    /// Something goes there.
    fn note(&mut self, holder: &Holder) {
        if self.node.as_ref() != Some(&holder.node) {
            self.node = Some(holder.node.clone());
        }
    }
}

impl NameLine {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something changed about the name.
    pub(super) fn stir(&self) {
        self.stirred.notify_one();
    }

    /// Nobody will answer any more.
    pub(super) fn close(&self, why: Over) {
        let mut inner = self.lock();
        inner.law.close();
        inner.over.get_or_insert(why);
        drop(inner);
        self.stir();
    }

    /// A message may go straight on, if none waits.
    pub(super) fn enter(self: &Arc<Self>, number: ClaimNumber, holder: &Holder) -> Option<UnderWay> {
        let mut inner = self.lock();
        let others = inner.law.last_to() != number;
        let pass = inner.law.enter(number)?;
        if others {
            inner.note(holder);
        }
        drop(inner);
        Some(UnderWay { line: Arc::clone(self), pass: Some(pass) })
    }

    fn too_late(&self, names: &Names) -> Option<Item> {
        self.lock().law.expire(names.shared.clock.now())
    }
}

/// A message on its way. Dropped, it may have been carried out.
pub(super) struct UnderWay {
    line: Arc<NameLine>,
    pass: Option<Pass>,
}

impl UnderWay {
    pub(super) const fn line(&self) -> &Arc<NameLine> {
        &self.line
    }

    /// It came to an end, with this.
    pub(super) fn ended(mut self, reply: &Reply) {
        let maybe_done = match reply {
            Ok(_) | Err(Failure::Rejected(_)) => true,
            Err(failure) => failure.maybe_changed(),
        };
        self.give_back(maybe_done);
    }

    fn give_back(&mut self, maybe_done: bool) {
        let Some(pass) = self.pass.take() else { return };
        if self.line.lock().law.passed(pass, maybe_done) {
            self.line.stir();
        }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.give_back(true);
    }
}

/// One message, and who is told what became of it.
pub(super) struct Item {
    message: MessageId,
    body: Bytes,
    deadline: Instant,
    idempotent: bool,
    /// Nobody waits for the answer.
    is_cast: bool,
    /// It has waited, and whoever sent it knows that.
    waited: bool,
    maybe_applied: bool,
    /// Why it was not carried out when it was tried last.
    last: Failure,
    told: oneshot::Sender<Result<Bytes, NameFailure>>,
    room: Option<Room>,
}

impl Item {
    pub(super) const fn new(
        message: MessageId,
        body: Bytes,
        (deadline, options): (Instant, &CallOptions),
        is_cast: bool,
        told: oneshot::Sender<Result<Bytes, NameFailure>>,
    ) -> Self {
        let (idempotent, last) = (options.idempotent, Failure::NotReady);
        Self {
            message,
            body,
            deadline,
            idempotent,
            is_cast,
            waited: false,
            maybe_applied: false,
            last,
            told,
            room: None,
        }
    }

    /// It came back so.
    pub(super) fn with(mut self, again: Again) -> Self {
        self.maybe_applied |= again.maybe_applied;
        self.last = again.why;
        self
    }

    fn tell(self, name: &Name, outcome: Result<Bytes, NameFailure>) {
        let failed = outcome.as_ref().err().map(ToString::to_string);
        let unheard = self.told.send(outcome).is_err();
        if let Some(why) = failed.filter(|_| unheard && self.is_cast) {
            tracing::warn!(%name, message = %self.message, %why, "a message that was cast is dropped");
        }
    }

    /// Its deadline passed while it waited.
    fn tell_late(self, name: &Name) {
        let failure = match &self.last {
            _ if self.maybe_applied => Failure::Timeout { maybe_applied: true },
            Failure::Fenced { .. } | Failure::Stale { .. } | Failure::Overloaded => Failure::NotReady,
            other => other.clone(),
        };
        self.tell(name, Err(failure.into()));
    }

    fn refuse(self, name: &Name, why: Refused, over: Option<Over>) {
        let failure = match why {
            _ if self.maybe_applied => Failure::Timeout { maybe_applied: true }.into(),
            Refused::Full => NameFailure::QueueFull(name.clone()),
            Refused::Overtaken => NameFailure::Overtaken(name.clone()),
            Refused::Over => match over {
                Some(Over::Stops) => Failure::NoPartition(format!(
                    "this node left its cluster, and nothing was sent to {name}"
                ))
                .into(),
                Some(Over::Free | Over::Moved) | None => nothing_there(name),
            },
        };
        self.tell(name, Err(failure));
    }
}

pub(super) fn nothing_there(name: &Name) -> NameFailure {
    Failure::NoPartition(format!("nothing is registered under {name}")).into()
}

/// A message is to be sent again.
#[derive(Debug)]
pub(super) struct Again {
    why: Failure,
    maybe_applied: bool,
}

/// How many messages wait on this node.
#[derive(Debug, Default)]
pub(super) struct Rooms {
    messages: AtomicUsize,
    bytes: AtomicUsize,
}

/// One message among them.
struct Room {
    rooms: Arc<Rooms>,
    bytes: usize,
}

impl Room {
    fn take(rooms: &Arc<Rooms>, bytes: usize) -> Option<Self> {
        let room = Self { rooms: Arc::clone(rooms), bytes };
        let messages = rooms.messages.fetch_add(1, Ordering::Relaxed);
        let before = rooms.bytes.fetch_add(bytes, Ordering::Relaxed);
        let fits =
            messages < WAITING_ON_NODE_MAX && before.saturating_add(bytes) <= WAITING_ON_NODE_BYTES_MAX;
        fits.then_some(room)
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.rooms.messages.fetch_sub(1, Ordering::Relaxed);
        self.rooms.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Names {
    /// How many messages of this node wait for whoever will answer under their names.
    pub fn waiting(&self) -> usize {
        self.shared.rooms.messages.load(Ordering::Relaxed)
    }

    /// Whether a message that came back so is sent again. Otherwise that is its end.
    pub(super) fn judge(&self, reply: Reply, idempotent: bool, deadline: Instant) -> Result<Again, Reply> {
        let again = |why, maybe_applied| Ok(Again { why, maybe_applied });
        match reply {
            Err(why) if why.is_safe_to_retry() => again(why, false),
            Err(why @ (Failure::Timeout { maybe_applied: true } | Failure::Fenced { .. }))
                if idempotent && Instant::now() < deadline =>
            {
                again(why, true)
            }
            // The other node is cut off and this one is not: the child is about to run elsewhere.
            Err(Failure::NoQuorum) if self.shared.gate.is_open() => again(Failure::NoQuorum, false),
            reply => Err(reply),
        }
    }

    /// A message waits. What it came back from, if it was on its way.
    pub(super) fn wait_in_line(
        &self,
        name: &Name,
        line: &Arc<NameLine>,
        under_way: Option<UnderWay>,
        mut item: Item,
    ) {
        item.waited = true;
        if item.room.is_none() {
            item.room = Room::take(&self.shared.rooms, item.body.len());
        }
        if item.room.is_none() {
            if let Some(mut under_way) = under_way {
                under_way.give_back(false);
            }
            return item.refuse(name, Refused::Full, None);
        }
        let left = item.deadline.saturating_duration_since(Instant::now());
        let (bytes, out_of_order) = (item.body.len(), item.idempotent);
        let waiting = Waiting { bytes, due: self.shared.clock.now() + left, out_of_order, item };
        let mut inner = line.lock();
        let put = match under_way.and_then(|mut under_way| under_way.pass.take()) {
            Some(pass) => inner.law.came_back(pass, waiting),
            None => inner.law.wait(waiting),
        };
        let over = inner.over;
        drop(inner);
        match put {
            Ok((_, true)) => {
                let tending = tend(self.clone(), name.clone(), Arc::clone(line));
                self.shared.runtime.spawn(tending);
            }
            Ok((_, false)) => line.stir(),
            Err((waiting, why)) => {
                line.stir();
                match why {
                    Refused::Over => self.give_up(name, vec![waiting.item], over),
                    why => waiting.item.refuse(name, why, over),
                }
            }
        }
    }

    /// Nobody will answer what waited in a line. Where this node left its cluster the name may stand in the next one: then it
    /// waits there, in order.
    fn give_up(&self, name: &Name, items: Vec<Item>, over: Option<Over>) {
        if over != Some(Over::Moved) {
            return items.into_iter().for_each(|item| item.refuse(name, Refused::Over, over));
        }
        let (names, name) = (self.clone(), name.clone());
        self.shared.runtime.spawn(async move { names.send_anew(&name, items).await });
    }

    /// Sends these, one after the other, once it is known who has the name in the cluster that this node joined.
    pub(super) async fn send_anew(&self, name: &Name, items: Vec<Item>) {
        for item in items {
            let mut stops = self.shared.stirred.subscribe();
            tokio::select! {
                () = self.is_brought(name, item.deadline) => {}
                _ = stops.wait_for(|stops| *stops) => {
                    item.refuse(name, Refused::Over, Some(Over::Stops));
                    continue;
                }
            }
            match self.way(name) {
                _ if Instant::now() >= item.deadline => item.tell_late(name),
                Some(Way::Straight(under_way, holder)) => self.send_one(name, under_way, &holder, item),
                Some(Way::Waits(line)) => self.wait_in_line(name, &line, None, item),
                None => item.refuse(name, Refused::Over, None),
            }
        }
    }

    /// Sends a message, and has whoever is told hear what became of it.
    pub(super) fn send_one(&self, name: &Name, under_way: UnderWay, holder: &Holder, mut item: Item) {
        item.room = None;
        let (message, body, deadline) = (item.message, item.body.clone(), item.deadline);
        let (names, name) = (self.clone(), name.clone());
        self.send_actor(holder, message, body, deadline, move |reply| {
            let reply = match reply {
                // It is known to wait: it waits on.
                Err(Failure::Overloaded) if item.waited => Err(Failure::NotReady),
                reply => reply,
            };
            match names.judge(reply, item.idempotent, deadline) {
                Ok(again) => {
                    let line = Arc::clone(&under_way.line);
                    names.wait_in_line(&name, &line, Some(under_way), item.with(again));
                }
                Err(reply) => {
                    under_way.ended(&reply);
                    item.tell(&name, reply.map_err(NameFailure::from));
                }
            }
        });
    }
}

/// Looks after what waits for one name, until nothing does.
async fn tend(names: Names, name: Name, line: Arc<NameLine>) {
    let mut stirred = names.shared.stirred.subscribe();
    let mut pause = ASK_AGAIN_AFTER;
    let mut tries_at = Instant::now() + pause;
    let mut answers: Option<ClaimNumber> = None;
    // Since when so many are waited for that are on their way.
    let mut blocked: Option<(Instant, usize)> = None;
    let mut sent = 0;
    loop {
        if *stirred.borrow_and_update() {
            line.close(Over::Stops);
        }
        while let Some(item) = line.too_late(&names) {
            item.tell_late(&name);
        }
        let now = Instant::now();
        let holder = names.shared.table.reach(&name).and_then(|reach| reach.holder);
        let next = match &holder {
            Some((number, holder)) => {
                if answers != Some(*number) {
                    (answers, pause, blocked) = (Some(*number), ASK_AGAIN_AFTER, None);
                }
                let for_order = blocked.is_none_or(|(since, _)| now - since < SETTLED_WITHIN);
                take(&names, &line, *number, holder, Patience { for_order, tries_again: now >= tries_at })
            }
            None => {
                blocked = None;
                nobody_answers(&line)
            }
        };
        match (next, holder) {
            (Next::Rest, _) => return,
            (Next::Over, _) => {
                let mut inner = line.lock();
                let (left, over) = (inner.law.end(), inner.over);
                drop(inner);
                names.give_up(&name, left.into_iter().collect(), over);
                return;
            }
            (Next::Overtaken(item), _) => item.refuse(&name, Refused::Overtaken, None),
            (Next::Send(pass, item), Some((number, holder))) => {
                let mut under_way = UnderWay { line: Arc::clone(&line), pass: Some(pass) };
                // Nobody waits for the answer of a call whose caller went.
                if !item.is_cast && item.told.is_closed() {
                    under_way.give_back(false);
                    continue;
                }
                if line.lock().law.is_refused_by(number) {
                    pause = (2 * pause).min(TRIES_AGAIN_AFTER_MAX);
                    tries_at = now + pause;
                }
                blocked = None;
                names.send_one(&name, under_way, &holder, item);
                sent += 1;
                if sent % YIELDS_AFTER == 0 {
                    tokio::task::yield_now().await;
                }
            }
            (Next::Later | Next::Send(..), _) => {
                let (due, under_way) = {
                    let inner = line.lock();
                    (inner.law.next_due(), inner.law.under_way())
                };
                if answers.is_some() && under_way > 0 && blocked.is_none_or(|(_, known)| known != under_way) {
                    blocked = Some((now, under_way));
                }
                let due = due.map(|due| now + names.shared.clock.until(due));
                let settled = blocked.map(|(since, _)| since + SETTLED_WITHIN);
                let wakes = [due, settled, Some(tries_at)].into_iter().flatten().filter(|at| *at > now);
                let wakes = wakes.min().unwrap_or(now + LOOKS_EVERY).min(now + LOOKS_EVERY);
                tokio::select! {
                    () = line.stirred.notified() => {}
                    _ = stirred.changed() => {}
                    () = tokio::time::sleep_until(wakes) => {}
                }
            }
        }
    }
}

fn nobody_answers(line: &NameLine) -> Next<Item> {
    let mut inner = line.lock();
    if inner.over.is_some() {
        return Next::Over;
    }
    if inner.law.rests() { Next::Rest } else { Next::Later }
}

fn take(
    names: &Names,
    line: &NameLine,
    number: ClaimNumber,
    holder: &Holder,
    patience: Patience,
) -> Next<Item> {
    let mut inner = line.lock();
    let others = inner.law.last_to() != number;
    // A node that is gone may have carried out what was sent to it, and says nothing of it any more.
    let is_gone = others && inner.node.as_ref().is_some_and(|node| !names.shared.table.is_member(node));
    let for_order = patience.for_order && !is_gone;
    let next = inner.law.take(number, Patience { for_order, ..patience });
    if others && matches!(next, Next::Send(..)) {
        inner.note(holder);
    }
    next
}
