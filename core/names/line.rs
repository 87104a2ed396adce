//! The order in which one node's messages reach whoever answers under one name: which go straight on, which wait for the next
//! instance, and which were overtaken meanwhile.
//!
//! ```text
//!  enter ─ somebody answers, nobody waits ─▶ Pass ─▶ sent ─ passed ─▶ over
//!    └─ otherwise ─▶ wait ─▶ waiting, by number ─ take ─▶ Pass ─▶ sent ─┤
//!                              ▲                                        │
//!                              └──────── came back, nothing changed ◀───┘
//! ```
//!
//! Each message has a number from when it came. What was not sent yet leaves in that order, and once something waits all that
//! comes later waits too. What came back unchanged stands where it stood, unless something later was carried out meanwhile, or
//! is about to be elsewhere: then whoever sent it is told, for to send it again would change the order. As long as nothing
//! waits a message costs two additions here.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use crate::names::claim::ClaimNumber;
use crate::time::Moment;

/// The most messages that wait on one node for whoever will answer under one name.
pub const WAITING_MAX: usize = 4096;
/// The most bytes of theirs: one message of the greatest length fits, where nothing else waits.
pub const WAITING_BYTES_MAX: usize = 8 << 20;

/// A message is on its way. Given back with [`Line::passed`] or [`Line::came_back`].
#[derive(Debug, PartialEq, Eq)]
#[must_use = "what is sent is waited for until it is given back"]
pub struct Pass {
    number: u64,
    to: ClaimNumber,
}

/// One message that waits.
#[derive(Clone, Debug)]
pub struct Waiting<T> {
    /// What is to be sent.
    pub item: T,
    /// How many bytes it counts for.
    pub bytes: usize,
    /// When it is too late for it.
    pub due: Moment,
    /// Whether it may be sent though something later was carried out: to carry it out at any time does no harm.
    pub out_of_order: bool,
}

/// Why a message does not wait. It was not carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// As many wait as may.
    Full,
    /// A later one was carried out, or is on its way to the next instance.
    Overtaken,
    /// Nobody will answer any more.
    Over,
}

/// What is to be done with what waits.
#[derive(Debug)]
pub enum Next<T> {
    /// Send this one there.
    Send(Pass, T),
    /// Tell whoever sent this one that it was overtaken.
    Overtaken(T),
    /// Ask again when something came to an end, or after a while.
    Later,
    /// Nothing waits: messages go straight on from now on, and nobody has to look after them.
    Rest,
    /// Nobody will answer any more: [`Line::end`] tells to whom that is to be said.
    Over,
}

/// How far whoever looks after the line goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// What is on its way is waited for, where order depends on it.
    pub for_order: bool,
    /// Whoever sent a message back is tried once more, with one.
    pub tries_again: bool,
}

/// What goes, and waits, from one node to one name.
#[derive(Debug)]
pub struct Line<T> {
    /// The number of the message that came last.
    last: u64,
    /// To whom something was sent last, of those who answered under the name.
    to: ClaimNumber,
    /// The highest number that was sent to them; 0: none yet.
    sent_there: u64,
    /// The highest number that was sent since nothing was on its way.
    sent: u64,
    /// The highest number that was, or may have been, carried out.
    carried_out: u64,
    /// How many are on their way.
    under_way: usize,
    waiting: BTreeMap<u64, (Waiting<T>, CameBack)>,
    bytes: usize,
    due: BTreeSet<(Moment, u64)>,
    /// Somebody looks after what waits.
    tended: bool,
    /// They sent something back, and have not answered since.
    refuses: Option<ClaimNumber>,
    over: bool,
}

/// Whether a message was sent before.
type CameBack = bool;

impl<T> Default for Line<T> {
    fn default() -> Self {
        Self {
            last: 0,
            to: ClaimNumber::default(),
            sent_there: 0,
            sent: 0,
            carried_out: 0,
            under_way: 0,
            waiting: BTreeMap::new(),
            bytes: 0,
            due: BTreeSet::new(),
            tended: false,
            refuses: None,
            over: false,
        }
    }
}

impl<T> Line<T> {
    /// A message comes while this one answers. `None`: it has to wait, see [`Self::wait`].
    pub fn enter(&mut self, to: ClaimNumber) -> Option<Pass> {
        let others_first = to != self.to && self.under_way > 0;
        if self.tended || self.over || others_first || to < self.to {
            return None;
        }
        self.last += 1;
        Some(self.send(self.last, to))
    }

    fn send(&mut self, number: u64, to: ClaimNumber) -> Pass {
        if to != self.to {
            self.to = to;
            self.sent_there = 0;
        }
        self.sent_there = self.sent_there.max(number);
        self.sent = self.sent.max(number);
        self.under_way += 1;
        Pass { number, to }
    }

    const fn is_back(&mut self) {
        self.under_way = self.under_way.saturating_sub(1);
        if self.under_way == 0 {
            self.sent = 0;
        }
    }

    /// A message waits, behind all that came before. Says its number, and whether somebody is to begin to look after the line.
    ///
    /// # Errors
    /// It is given back, with why it does not wait.
    pub fn wait(&mut self, message: Waiting<T>) -> Result<(u64, bool), (Waiting<T>, Refused)> {
        self.last += 1;
        let number = self.last;
        Ok((number, self.put(number, message, false)?))
    }

    /// A message came back, and nothing changed. It waits where it stood. Says whether somebody is to begin to look after
    /// the line.
    ///
    /// # Errors
    /// It is given back, with why it does not wait.
    #[allow(clippy::needless_pass_by_value, reason = "a pass is given back once")]
    pub fn came_back(
        &mut self,
        pass: Pass,
        message: Waiting<T>,
    ) -> Result<(u64, bool), (Waiting<T>, Refused)> {
        let Pass { number, to } = pass;
        self.is_back();
        let elsewhere = to < self.to && number < self.sent_there;
        if !message.out_of_order && (number < self.carried_out || elsewhere) {
            return Err((message, Refused::Overtaken));
        }
        let begins = self.put(number, message, true)?;
        if to == self.to {
            self.refuses = Some(to);
        }
        Ok((number, begins))
    }

    fn put(
        &mut self,
        number: u64,
        message: Waiting<T>,
        came_back: CameBack,
    ) -> Result<bool, (Waiting<T>, Refused)> {
        if self.over {
            return Err((message, Refused::Over));
        }
        if self.waiting.len() >= WAITING_MAX || self.bytes.saturating_add(message.bytes) > WAITING_BYTES_MAX {
            return Err((message, Refused::Full));
        }
        self.bytes += message.bytes;
        self.due.insert((message.due, number));
        self.waiting.insert(number, (message, came_back));
        Ok(!std::mem::replace(&mut self.tended, true))
    }

    /// A message came to an end: it was carried out, or may have been, or (not `maybe_done`) surely was not, and is not sent
    /// again. Says whether somebody waits for that.
    #[allow(clippy::needless_pass_by_value, reason = "a pass is given back once")]
    pub fn passed(&mut self, pass: Pass, maybe_done: bool) -> bool {
        let Pass { number, to } = pass;
        self.is_back();
        if maybe_done {
            self.carried_out = self.carried_out.max(number);
        }
        if self.refuses == Some(to) {
            self.refuses = None;
        }
        self.tended
    }

    /// What to do next, while this one answers.
    pub fn take(&mut self, to: ClaimNumber, patience: Patience) -> Next<T> {
        if self.over {
            return Next::Over;
        }
        let Some((&number, (_, came_back))) = self.waiting.first_key_value() else {
            return self.rest();
        };
        let refuses = self.refuses == Some(to);
        if to < self.to || refuses && !patience.tries_again {
            return Next::Later;
        }
        // What came back goes after what stood before it, not after what stood behind.
        let later_first = *came_back && self.sent > number;
        if self.under_way > 0 && (to != self.to || later_first || refuses) {
            if patience.for_order {
                return Next::Later;
            }
            // Nobody knows what becomes of these: whatever stood before them is not to come after them.
            self.carried_out = self.carried_out.max(self.sent);
            self.refuses = None;
        }
        let Some(Waiting { item, out_of_order, .. }) = self.leave(number) else { return Next::Later };
        if !out_of_order && number < self.carried_out {
            return Next::Overtaken(item);
        }
        Next::Send(self.send(number, to), item)
    }

    /// Whether nothing waits: then messages go straight on from now on, and nobody has to look after them.
    fn rest(&mut self) -> Next<T> {
        self.tended = false;
        self.refuses = None;
        Next::Rest
    }

    /// The same where nobody answers at present.
    pub fn rests(&mut self) -> bool {
        self.waiting.is_empty() && matches!(self.rest(), Next::Rest)
    }

    /// Takes a message out that waits. `None`: it does not.
    pub fn leave(&mut self, number: u64) -> Option<Waiting<T>> {
        let (message, _) = self.waiting.remove(&number)?;
        self.due.remove(&(message.due, number));
        self.bytes = self.bytes.saturating_sub(message.bytes);
        Some(message)
    }

    /// Takes one out for which it is too late.
    pub fn expire(&mut self, now: Moment) -> Option<T> {
        let (_, number) = self.due.first().filter(|(due, _)| *due <= now).copied()?;
        self.leave(number).map(|message| message.item)
    }

    /// When it is too late for the next one.
    pub fn next_due(&self) -> Option<Moment> {
        self.due.first().map(|(due, _)| *due)
    }

    /// Nobody will answer any more: nothing waits from now on. What waits is taken out with [`Self::end`].
    pub const fn close(&mut self) {
        self.over = true;
    }

    /// All that waits, in order, once nobody will answer any more.
    pub fn end(&mut self) -> Vec<T> {
        self.over = true;
        self.tended = false;
        self.bytes = 0;
        self.due.clear();
        std::mem::take(&mut self.waiting).into_values().map(|(message, _)| message.item).collect()
    }

    /// How many are on their way.
    pub const fn under_way(&self) -> usize {
        self.under_way
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether none does.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Whether they sent something back, and have not answered since.
    pub fn is_refused_by(&self, to: ClaimNumber) -> bool {
        self.refuses == Some(to)
    }

    /// To whom something was sent last.
    pub const fn last_to(&self) -> ClaimNumber {
        self.to
    }
}
