//! A directory told in parts, to a node that has no copy of it: in the order of names, and behind them the metadata.
//!
//! ```text
//!  have p, up to m ─▶ steps p..q ─┬─ all of them fit ─▶ and what stands behind m at q, up to n ─▶ have q, up to n
//!                                 ├─ not all ────────▶ have q, up to m
//!                                 └─ kept no more ───▶ begins anew
//! ```
//!
//! So what was gathered is at each moment the directory of one position, as far as it goes; writes meanwhile hold nothing up.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};

use serde::{Deserialize, Serialize};
use tumen_core::ids::PartitionId;
use tumen_core::names::directory::News;
use tumen_core::names::{Child, Claim, ClaimNumber, Meta, Name, Reason};
use tumen_core::partitions::identity::Position;

use super::{Inner, NameTable, Standing, Step, Steps};

/// About how many bytes the steps of one answer have, and about how many of what stands there.
const PART_LEN: usize = 384 << 10;
/// A step that is longer than this is not told: the directory is told anew, in parts.
const STEP_LEN_MAX: usize = 4 << 20;
/// What a claim, or a piece of news, has beside what is counted.
const OVERHEAD: usize = 160;

/// Up to where a directory is told: all up to this name; or all names, and the metadata up to this key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Mark {
    /// In the names.
    Name(Name),
    /// All names; of the metadata nothing, or all up to this key.
    Meta(Option<Name>),
}

/// Names, metadata, and up to where that is.
type Behind = (Vec<(Name, Claim)>, Vec<(Name, Meta)>, Option<Mark>);

/// One part of a directory.
#[derive(Debug)]
pub struct Part {
    /// What it goes on behind. `None`: it begins anew, and what was told before is of no use.
    pub after: Option<Mark>,
    /// What happened since the position of the part before, in all of the directory.
    pub steps: Steps,
    /// At which position this is what stands there.
    pub position: Position,
    /// The newest number that was given by then.
    pub last: ClaimNumber,
    /// What stands behind `after`, in order.
    pub claims: Vec<(Name, Claim)>,
    /// The same of the metadata.
    pub meta: Vec<(Name, Meta)>,
    /// Up to where. `None`: that is all.
    pub upto: Option<Mark>,
}

impl NameTable {
    /// What comes after what somebody knows. `None`: it is kept no more, or there is too much of it.
    pub fn after(&self, directory: PartitionId, have: Position) -> Option<Steps> {
        self.read(directory, |shard| shard.steps_after(have).map(|(steps, _)| steps))?
    }

    /// The next part of a directory, for somebody who has it up to a mark, as it was at a position; or the first, of all of it.
    pub fn part(&self, directory: PartitionId, told: Option<(Position, &Mark)>) -> Part {
        let empty = Inner::default();
        let Some(shard) = self.shard(directory) else { return empty.part(None) };
        shard.inner.read().unwrap_or_else(PoisonError::into_inner).part(told)
    }
}

impl Inner {
    /// The steps after a position, as many as fit, and whether these are all. `None`: they are kept no more, or one is too long.
    fn steps_after(&self, have: Position) -> Option<(Steps, bool)> {
        if have == self.position {
            return Some((Steps::new(), true));
        }
        let from = self.recent.iter().position(|(previous, ..)| *previous == have)?;
        let (mut steps, mut len) = (Steps::new(), 0);
        for (_, last, step) in self.recent.iter().skip(from) {
            len += len_of_step(step);
            if len > PART_LEN {
                if len > STEP_LEN_MAX && steps.is_empty() {
                    return None;
                }
                if !steps.is_empty() {
                    return Some((steps, false));
                }
            }
            steps.push((*last, Arc::clone(step)));
        }
        Some((steps, true))
    }

    fn part(&self, told: Option<(Position, &Mark)>) -> Part {
        let since = told.and_then(|(have, mark)| Some((self.steps_after(have)?, mark.clone())));
        let (steps, mark) = match since {
            Some(((steps, true), mark)) => (steps, Some(mark)),
            Some(((steps, false), mark)) => {
                let (last, newest) =
                    steps.last().map_or((self.last, self.position), |(last, step)| (*last, step.position));
                let (after, upto) = (Some(mark.clone()), Some(mark));
                return Part {
                    after,
                    steps,
                    position: newest,
                    last,
                    claims: Vec::new(),
                    meta: Vec::new(),
                    upto,
                };
            }
            None => (Steps::new(), None),
        };
        let (claims, meta, upto) = self.behind(mark.as_ref());
        Part { after: mark, steps, position: self.position, last: self.last, claims, meta, upto }
    }

    /// What stands behind a mark, as much as fits, and up to where that is.
    fn behind(&self, mark: Option<&Mark>) -> Behind {
        let from = match mark {
            None => None,
            Some(Mark::Name(name)) => Some(name),
            Some(Mark::Meta(key)) => {
                let (meta, upto) = self.meta_behind(key.as_ref(), PART_LEN);
                return (Vec::new(), meta, upto);
            }
        };
        let (claims, len, all) = self.claims_behind(from);
        if !all {
            let upto = claims.last().map(|(name, _)| Mark::Name(name.clone()));
            return (claims, Vec::new(), upto);
        }
        let (meta, upto) = self.meta_behind(None, PART_LEN.saturating_sub(len));
        (claims, meta, upto)
    }

    /// The first names behind one, which stand in no order here; how long they are, and whether these are all.
    fn claims_behind(&self, from: Option<&Name>) -> (Vec<(Name, Claim)>, usize, bool) {
        let mut first: BTreeMap<&Name, (usize, &Standing)> = BTreeMap::new();
        let (mut len, mut all) = (0, true);
        for (name, standing) in self.entries.iter().filter(|(name, _)| from.is_none_or(|from| *name > from)) {
            if !all && first.last_key_value().is_some_and(|(last, _)| *last < name) {
                continue;
            }
            let own = len_of(name, standing.value(), standing.child());
            first.insert(name, (own, standing));
            len += own;
            while len > PART_LEN && first.len() > 1 {
                let Some((_, (left, _))) = first.pop_last() else { break };
                len -= left;
                all = false;
            }
        }
        let claims = first.into_iter().map(|(name, (_, standing))| (name.clone(), standing.claim()));
        (claims.collect(), len, all)
    }

    fn meta_behind(&self, key: Option<&Name>, room: usize) -> (Vec<(Name, Meta)>, Option<Mark>) {
        use std::ops::Bound::{Excluded, Unbounded};
        let (mut told, mut len) = (Vec::new(), 0);
        let from = key.map_or(Unbounded, Excluded);
        for (next, meta) in self.meta.range::<Name, _>((from, Unbounded)) {
            len += OVERHEAD + next.as_bytes().len() + meta.value.len();
            if len > room {
                let upto: Option<&Name> = told.last().map(|(last, _): &(Name, Meta)| last).or(key);
                let upto = Mark::Meta(upto.cloned());
                return (told, Some(upto));
            }
            told.push((next.clone(), meta.clone()));
        }
        (told, None)
    }
}

fn len_of(name: &Name, said: &[u8], child: Option<&Child>) -> usize {
    let child = child.map_or(0, |child| OVERHEAD + child.spec.args.len() + child.handed.len());
    OVERHEAD + name.as_bytes().len() + said.len() + child
}

fn len_of_step(step: &Step) -> usize {
    let now = step.now.iter().map(|(name, claim)| {
        let said: &[u8] = claim.as_ref().map_or(&[], |claim| &claim.value);
        len_of(name, said, claim.as_ref().and_then(Claim::child))
    });
    let meta = step.meta.iter().map(|(key, meta)| {
        OVERHEAD + key.as_bytes().len() + meta.as_ref().map_or(0, |meta| meta.value.len())
    });
    let news = step.news.iter().map(|news| match news {
        News::Registered { name, .. } | News::Updated { name, .. } => OVERHEAD + name.as_bytes().len(),
        News::Unregistered { name, reason, .. } => {
            let why = match reason {
                Reason::Crashed(why) | Reason::StartFailed(why) | Reason::GivenUp(why) => why.len(),
                Reason::Conflict(_) => OVERHEAD,
                Reason::Normal | Reason::Ignored | Reason::NodeDown | Reason::Moved | Reason::Dropped => 0,
            };
            OVERHEAD + name.as_bytes().len() + why
        }
    });
    OVERHEAD + now.chain(meta).chain(news).sum::<usize>()
}
