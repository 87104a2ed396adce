//! The search for one order that explains the operations on one key.
//!
//! ```text
//! placed: write 1, read 1          ┌─ write 2 ─▶ …
//! state:  1                      ──┤                       of those called before any that is not placed was answered
//! not placed: write 2, write 3 …   └─ write 3 ─▶ …
//! ```
//!
//! The search is Wing and Gong's (1993), with Lowe's memory of what was tried (2017): two partial orders that placed the
//! same operations and left the same state have the same future. Four things keep it small:
//!
//! * What changes nothing and is right now is placed at once: it can do no harm here, and might not fit later.
//! * An operation that was never answered is placed only where something that was answered needs it. Anywhere else it
//!   would be overwritten unseen, or could as well come later.
//! * The memory holds 128 bits for each partial order, whatever its length. That two of them share these bits is less
//!   likely than a fault of the machine.
//! * A value that must still be seen is not overwritten once nothing can bring it back.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::{Answer, Call, Operation};
use crate::time::Moment;

/// Why operations count as not explained.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding<V> {
    /// No order explains them.
    Contradiction {
        /// How many could be placed, at most, before none fitted any more.
        placed: usize,
        /// The operations of which one had to come next, and none could; or that still had to see a value that nothing
        /// could bring back.
        blocked: Vec<Operation<V>>,
    },
    /// The search was given up. Nothing is known.
    TooHard {
        /// How many partial orders were looked at.
        effort: u64,
    },
}

impl<V: fmt::Debug> fmt::Display for Finding<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Contradiction { placed, blocked } => {
                write!(f, "no order explains it: after {placed} operations, none of these is right:")?;
                blocked.iter().try_for_each(|operation| write!(f, "\n  {operation}"))
            }
            Self::TooHard { effort } => write!(f, "given up after {effort} partial orders: nothing is known"),
        }
    }
}

/// Whether one order explains operations on a key whose value was `initial`. How much work it was, in partial orders
/// looked at; at most `effort_max`.
pub fn explain<V: Ord + Clone>(
    initial: Option<&V>,
    operations: &[Operation<V>],
    effort_max: u64,
) -> Result<u64, Finding<V>> {
    let values = Values::of(operations);
    let mut search = Search::new(values.number(initial), &values, operations);
    match search.run(effort_max) {
        Outcome::Explained { effort } => Ok(effort),
        Outcome::TooHard { effort } => Err(Finding::TooHard { effort }),
        Outcome::Contradiction { placed, blocked } => Err(Finding::Contradiction {
            placed,
            blocked: blocked.into_iter().map(|at| operations[at].clone()).collect(),
        }),
    }
}

/// The state of one key: the number of its value.
type State = u32;

/// There is no value.
const ABSENT: State = 0;

/// There is one that nothing asks for: which of them makes no difference.
const UNASKED: State = 1;

/// The values that some operation asks for, numbered from 2.
struct Values<'a, V>(BTreeMap<&'a V, State>);

impl<'a, V: Ord> Values<'a, V> {
    fn of(operations: &'a [Operation<V>]) -> Self {
        let mut values = BTreeMap::new();
        for operation in operations {
            let asked = match (&operation.call, &operation.answer) {
                (Call::Swap { from, .. }, _) => from.as_ref(),
                (_, Some((_, Answer::Value(value)))) => value.as_ref(),
                _ => None,
            };
            if let Some(value) = asked {
                let next = values.len() as State + UNASKED + 1;
                values.entry(value).or_insert(next);
            }
        }
        Self(values)
    }

    fn number(&self, value: Option<&V>) -> State {
        value.map_or(ABSENT, |value| self.0.get(value).copied().unwrap_or(UNASKED))
    }
}

/// What the state must be for an operation to be right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Needs {
    Anything,
    Just(State),
    Not(State),
}

impl Needs {
    fn allows(self, state: State) -> bool {
        match self {
            Self::Anything => true,
            Self::Just(wanted) => state == wanted,
            Self::Not(unwanted) => state != unwanted,
        }
    }
}

/// An operation that was answered.
#[derive(Clone, Copy, Debug)]
struct Known {
    called: Moment,
    answered: Moment,
    needs: Needs,
    /// What it leaves. None: what it found.
    sets: Option<State>,
    /// Where it stands among the operations.
    at: usize,
}

/// An operation that was never answered, and has an effect if it has any.
#[derive(Clone, Copy, Debug)]
struct Unknown {
    called: Moment,
    needs: Needs,
    sets: State,
}

/// What may come next: some that were never answered, each needed by the one after it, and one that was answered.
struct Choice {
    unknown: Vec<usize>,
    known: usize,
}

/// A partial order, and what was not yet tried after it.
struct Frame {
    choices: Vec<Choice>,
    next: usize,
    /// What to take back to get here, from what is placed at present.
    placed: usize,
    used: usize,
    front: usize,
    state: State,
    key: u128,
}

/// What came of trying the next choice.
enum Tried {
    Placed,
    /// Others need this state, and nothing can bring it back.
    Starved(State),
    /// Everything was tried.
    Nothing,
}

enum Outcome {
    Explained { effort: u64 },
    TooHard { effort: u64 },
    Contradiction { placed: usize, blocked: Vec<usize> },
}

struct Search {
    /// Sorted by when they were called.
    known: Vec<Known>,
    /// Sorted by when they were called.
    unknown: Vec<Unknown>,
    is_placed: Vec<bool>,
    is_used: Vec<bool>,
    /// In the order in which they were placed.
    placed: Vec<usize>,
    used: Vec<usize>,
    /// All before it are placed.
    front: usize,
    state: State,
    /// Stands for the set of those that are placed.
    key: u128,
    /// For each set of the answered that were placed and state after it: the sets of the unanswered that were used.
    tried: BTreeMap<u128, Vec<Box<[usize]>>>,
    /// For each state, how many of the answered that are not placed need just that one.
    needers: Vec<usize>,
    /// For each state, how many operations could still bring it about.
    sources: Vec<usize>,
}

impl Search {
    fn new<V: Ord>(initial: State, values: &Values<'_, V>, operations: &[Operation<V>]) -> Self {
        let (mut known, mut unknown) = (Vec::new(), Vec::new());
        let number = |value: &Option<V>| values.number(value.as_ref());
        for (at, Operation { call, called, answer }) in operations.iter().enumerate() {
            let (needs, sets) = match (call, answer.as_ref().map(|(_, answer)| answer)) {
                (Call::Read, Some(Answer::Value(value))) => (Needs::Just(number(value)), None),
                (Call::Read, _) => continue,
                (Call::Write(value), _) => (Needs::Anything, Some(values.number(Some(value)))),
                (Call::Swap { from, .. }, Some(Answer::Swapped(false))) => (Needs::Not(number(from)), None),
                (Call::Swap { from, to }, _) => {
                    let (from, to) = (number(from), number(to));
                    (Needs::Just(from), Some(to).filter(|to| *to != from))
                }
                (Call::Delete, Some(Answer::Existed(true))) => (Needs::Not(ABSENT), Some(ABSENT)),
                (Call::Delete, Some(Answer::Existed(false))) => (Needs::Just(ABSENT), None),
                (Call::Delete, _) => (Needs::Anything, Some(ABSENT)),
            };
            match (answer, sets) {
                (Some((answered, _)), _) => {
                    known.push(Known { called: *called, answered: *answered, needs, sets, at });
                }
                (None, Some(sets)) => unknown.push(Unknown { called: *called, needs, sets }),
                (None, None) => {}
            }
        }
        let states = values.0.len() + 2;
        let (mut needers, mut sources) = (vec![0; states], vec![0; states]);
        for known in &known {
            if let Needs::Just(state) = known.needs {
                needers[state as usize] += 1;
            }
            if let Some(state) = known.sets {
                sources[state as usize] += 1;
            }
        }
        unknown.iter().for_each(|unknown: &Unknown| sources[unknown.sets as usize] += 1);
        known.sort_by_key(|known| (known.called, known.answered, known.at));
        unknown.sort_by_key(|unknown| unknown.called);
        Self {
            is_placed: vec![false; known.len()],
            is_used: vec![false; unknown.len()],
            known,
            unknown,
            placed: Vec::new(),
            used: Vec::new(),
            front: 0,
            state: initial,
            key: 0,
            tried: BTreeMap::new(),
            needers,
            sources,
        }
    }

    fn run(&mut self, effort_max: u64) -> Outcome {
        if let Some(starved) = (0..).zip(&self.needers).find_map(|(state, _)| self.is_starved(state)) {
            return Outcome::Contradiction { placed: 0, blocked: self.needers_of(starved) };
        }
        let mut frames: Vec<Frame> = Vec::new();
        let mut effort = 0;
        let mut furthest = None;
        loop {
            self.place_what_changes_nothing();
            if self.placed.len() == self.known.len() {
                return Outcome::Explained { effort };
            }
            if self.is_new() {
                if effort == effort_max {
                    return Outcome::TooHard { effort };
                }
                effort += 1;
                let choices = self.choices();
                if choices.is_empty() {
                    self.note_end(&mut furthest, self.candidates().map(|at| self.known[at].at).collect());
                }
                frames.push(self.frame(choices));
            }
            loop {
                match self.try_next(&mut frames) {
                    Tried::Placed => break,
                    Tried::Starved(state) => {
                        let needers = self.needers_of(state);
                        self.note_end(&mut furthest, needers);
                    }
                    Tried::Nothing => {
                        let (placed, blocked) = furthest.unwrap_or_default();
                        return Outcome::Contradiction { placed, blocked };
                    }
                }
            }
        }
    }

    /// Whether nothing like this was tried: the same placed, the same state, and no more of the unanswered used up. What
    /// failed with some of them left fails with fewer left.
    fn is_new(&mut self) -> bool {
        let tried = self.tried.entry(self.key ^ mix(u64::from(self.state) | 1 << 63)).or_default();
        let mut used: Box<[usize]> = self.used.as_slice().into();
        used.sort_unstable();
        if tried.iter().any(|less| is_subset(less, &used)) {
            return false;
        }
        tried.push(used);
        true
    }

    /// Keeps the longest of the partial orders after which nothing fits.
    fn note_end(&self, furthest: &mut Option<(usize, Vec<usize>)>, blocked: Vec<usize>) {
        if furthest.as_ref().is_none_or(|(placed, _)| *placed < self.placed.len()) {
            *furthest = Some((self.placed.len(), blocked));
        }
    }

    fn frame(&self, choices: Vec<Choice>) -> Frame {
        let (placed, used) = (self.placed.len(), self.used.len());
        Frame { choices, next: 0, placed, used, front: self.front, state: self.state, key: self.key }
    }

    /// Goes back to the last partial order after which something was not tried, and tries it.
    fn try_next(&mut self, frames: &mut Vec<Frame>) -> Tried {
        while let Some(frame) = frames.last_mut() {
            self.go_back_to(frame);
            let Some(choice) = frame.choices.get(frame.next) else {
                frames.pop();
                continue;
            };
            frame.next += 1;
            for at in &choice.unknown {
                if let Some(starved) = self.leave_for(self.unknown[*at].sets) {
                    return Tried::Starved(starved);
                }
                self.is_used[*at] = true;
                self.used.push(*at);
                self.sources[self.unknown[*at].sets as usize] -= 1;
            }
            return match self.place(choice.known) {
                Some(starved) => Tried::Starved(starved),
                None => Tried::Placed,
            };
        }
        Tried::Nothing
    }

    fn go_back_to(&mut self, frame: &Frame) {
        for at in self.placed.drain(frame.placed..) {
            self.is_placed[at] = false;
            let Known { needs, sets, .. } = self.known[at];
            if let Needs::Just(state) = needs {
                self.needers[state as usize] += 1;
            }
            if let Some(state) = sets {
                self.sources[state as usize] += 1;
            }
        }
        for at in self.used.drain(frame.used..) {
            self.is_used[at] = false;
            self.sources[self.unknown[at].sets as usize] += 1;
        }
        (self.front, self.state, self.key) = (frame.front, frame.state, frame.key);
    }

    /// Places one of the answered. The state that is now out of reach for others that need it, if there is one.
    fn place(&mut self, at: usize) -> Option<State> {
        let Known { needs, sets, .. } = self.known[at];
        self.is_placed[at] = true;
        self.placed.push(at);
        self.key ^= mix(at as u64);
        while self.is_placed.get(self.front) == Some(&true) {
            self.front += 1;
        }
        if let Needs::Just(state) = needs {
            self.needers[state as usize] -= 1;
        }
        let sets = sets?;
        self.sources[sets as usize] -= 1;
        self.leave_for(sets)
    }

    /// The state becomes another one. The former one, if others need it and nothing can bring it back.
    fn leave_for(&mut self, next: State) -> Option<State> {
        let former = std::mem::replace(&mut self.state, next);
        self.is_starved(former)
    }

    fn is_starved(&self, state: State) -> Option<State> {
        let at = state as usize;
        (state != self.state && self.needers[at] > 0 && self.sources[at] == 0).then_some(state)
    }

    fn needers_of(&self, state: State) -> Vec<usize> {
        let needs = |at: &usize| !self.is_placed[*at] && self.known[*at].needs == Needs::Just(state);
        (self.front..self.known.len()).filter(needs).map(|at| self.known[at].at).collect()
    }

    /// Those of the answered that may come next: called before any that is not placed was answered.
    fn candidates(&self) -> impl Iterator<Item = usize> {
        let mut first_answer = Moment::MAX;
        (self.front..self.known.len()).filter(|at| !self.is_placed[*at]).take_while(move |at| {
            let comes_too_late = self.known[*at].called > first_answer;
            first_answer = first_answer.min(self.known[*at].answered);
            !comes_too_late
        })
    }

    /// Places what is right now and changes nothing, whatever it is, until there is none.
    fn place_what_changes_nothing(&mut self) {
        loop {
            let fits =
                |at: &usize| self.known[*at].sets.is_none() && self.known[*at].needs.allows(self.state);
            let Some(at) = self.candidates().find(fits) else { return };
            // It leaves the state as it is, and so starves nobody.
            let starved = self.place(at);
            debug_assert_eq!(starved, None);
        }
    }

    /// What may come next. First what needs nothing that was never answered, and of that what had to be answered first:
    /// most often that is the right one.
    fn choices(&self) -> Vec<Choice> {
        let mut candidates: Vec<usize> = self.candidates().collect();
        candidates.sort_by_key(|at| self.known[*at].answered);
        let first_answer = candidates.first().map_or(Moment::MAX, |at| self.known[*at].answered);
        let callable = self.unknown.partition_point(|unknown| unknown.called <= first_answer);
        let mut choices = Vec::new();
        for known in candidates {
            let needs = self.known[known].needs;
            if needs.allows(self.state) {
                choices.push(Choice { unknown: Vec::new(), known });
            } else {
                let mut chain = Vec::new();
                self.chains(callable, needs, &mut chain, &mut |chain| {
                    let unknown = chain.iter().rev().copied().collect();
                    choices.push(Choice { unknown, known });
                });
            }
        }
        choices.sort_by_key(|choice: &Choice| choice.unknown.len());
        choices
    }

    /// All ways to come from the present state to one that is needed, by operations that were never answered: `chain`
    /// holds them from the last to the first. Of two that do the same, one is enough.
    fn chains(
        &self,
        callable: usize,
        needs: Needs,
        chain: &mut Vec<usize>,
        found: &mut impl FnMut(&[usize]),
    ) {
        let mut seen = BTreeSet::new();
        for at in 0..callable {
            let unknown = &self.unknown[at];
            let Unknown { needs: first, sets, .. } = unknown;
            let wanted = match first {
                Needs::Just(state) => Some(*state),
                Needs::Anything | Needs::Not(_) => None,
            };
            let free = !self.is_used[at] && !chain.contains(&at);
            if !free || !needs.allows(*sets) || !seen.insert((*sets, wanted)) {
                continue;
            }
            chain.push(at);
            if first.allows(self.state) {
                found(chain);
            } else {
                self.chains(callable, *first, chain, found);
            }
            chain.pop();
        }
    }
}

/// Whether all of the sorted `part` are in the sorted `whole`.
fn is_subset(part: &[usize], whole: &[usize]) -> bool {
    let mut rest = whole.iter();
    part.len() <= whole.len() && part.iter().all(|one| rest.any(|other| other == one))
}

/// 128 bits that look random (SplitMix64, twice): the same everywhere and for ever.
fn mix(number: u64) -> u128 {
    let half = |number: u64| {
        let mut z = number.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    let low = half(number);
    u128::from(half(low ^ 0x5851_f42d_4c95_7f2d)) << 64 | u128::from(low)
}
