//! A directory as it comes, part after part, at a node that has no copy of it: nobody sees it before it is whole.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tumen_core::names::{Claim, ClaimNumber, Directory, Meta, Name};
use tumen_core::partitions::identity::Position;

use super::questions::TailStep;
use super::table::{Mark, Part};

/// One part, as it travels. See [`Part`].
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct TailPart {
    after: Option<Mark>,
    steps: Vec<TailStep>,
    position: Position,
    last: ClaimNumber,
    claims: Vec<(Name, Claim)>,
    meta: Vec<(Name, Meta)>,
    upto: Option<Mark>,
}

impl TailPart {
    pub(super) fn of(part: Part) -> Self {
        let Part { after, steps, position, last, claims, meta, upto } = part;
        let steps = steps.iter().map(|(last, step)| TailStep::of(*last, step)).collect();
        Self { after, steps, position, last, claims, meta, upto }
    }
}

/// What has come of a directory: all of it up to a mark, as it was at one position.
#[derive(Debug)]
pub(super) struct Gathering {
    claims: BTreeMap<Name, Claim>,
    meta: BTreeMap<Name, Meta>,
    position: Position,
    upto: Mark,
}

/// What came of a part.
#[derive(Debug)]
pub(super) enum Gathered {
    /// There is more to come.
    Part(Gathering),
    /// That is all of it, at this position.
    Whole(Directory, Position),
}

impl Gathering {
    /// What is asked for next.
    pub(super) const fn told(&self) -> (Position, &Mark) {
        (self.position, &self.upto)
    }

    /// The next part, behind what came before. `None`: it does not go on from there, and all of it has to be asked for anew.
    pub(super) fn take(former: Option<Self>, part: TailPart) -> Option<Gathered> {
        let TailPart { after, steps, position, last, claims, meta, upto } = part;
        let (mut all, mut all_meta) = match (former, after) {
            (_, None) => Default::default(),
            (Some(former), Some(after)) if former.upto == after => (former.claims, former.meta),
            (Some(_) | None, Some(_)) => return None,
        };
        for TailStep { now, meta, .. } in steps {
            for (name, claim) in now {
                put(&mut all, name, claim);
            }
            for (key, told) in meta {
                put(&mut all_meta, key, told);
            }
        }
        all.extend(claims);
        all_meta.extend(meta);
        Some(match upto {
            Some(upto) => Gathered::Part(Self { claims: all, meta: all_meta, position, upto }),
            None => Gathered::Whole(Directory::of(all, all_meta, last), position),
        })
    }
}

/// What is behind the mark is put too: it is as it will be told, or as a later step has it.
fn put<T>(all: &mut BTreeMap<Name, T>, name: Name, now: Option<T>) {
    match now {
        Some(now) => drop(all.insert(name, now)),
        None => drop(all.remove(&name)),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use tumen_core::ids::{Boot, Epoch, NodeBoot, NodeName, PartitionId};
    use tumen_core::names::{Held, Holder, directory_of};

    use super::super::table::{NameTable, Step};
    use super::*;

    fn directory() -> PartitionId {
        directory_of(&Name::new("a").unwrap())
    }

    fn claim(number: u64, len: usize) -> Claim {
        let holder = Holder { node: NodeBoot::new(NodeName::new("n").unwrap(), Boot(1)), actor: number };
        let value = Bytes::from(vec![b'v'; len]);
        Claim {
            number: ClaimNumber(number),
            value,
            held: Held::Plain(holder),
            since: tumen_core::UnixMillis(0),
        }
    }

    fn meta(number: u64, len: usize) -> Meta {
        Meta { number: ClaimNumber(number), value: Bytes::from(vec![b'm'; len]) }
    }

    fn name(at: usize) -> Name {
        Name::new(format!("name/{at:05}")).unwrap()
    }

    /// A table with so many names of one directory, with long values, and so much metadata.
    fn table(names: usize, keys: usize) -> NameTable {
        let table = NameTable::default();
        table.keep_steps();
        let claims = (0..names).map(|at| (name(at), claim(at as u64, 16 << 10)));
        let told = (0..keys).map(|at| (name(at), meta(at as u64, 16 << 10)));
        let whole = Directory::of(claims, told, ClaimNumber(names as u64));
        table.take_whole(directory(), Position::new(Epoch(1), 1), &whole);
        table
    }

    fn write(table: &NameTable, now: Vec<(Name, Option<Claim>)>, meta: Vec<(Name, Option<Meta>)>) {
        let previous = table.position(directory());
        let position = Position::new(previous.epoch, previous.sequence + 1);
        let last = ClaimNumber(1_000_000 + position.sequence);
        let step = Step { position, changes: Vec::new(), now, meta, news: Vec::new() };
        assert!(table.take(directory(), previous, last, step));
    }

    fn next(table: &NameTable, former: Option<Gathering>) -> Option<Gathered> {
        let part = table.part(directory(), former.as_ref().map(Gathering::told));
        Gathering::take(former, TailPart::of(part))
    }

    fn whole(table: &NameTable) -> (Directory, Position) {
        table.follow(directory(), Box::new(|_| std::ops::ControlFlow::Break(()))).unwrap()
    }

    #[test]
    fn a_long_directory_comes_in_many_parts_and_in_the_end_is_the_same() {
        let table = table(300, 60);
        let (mut former, mut parts) = (None, 0);
        let (got, at) = loop {
            parts += 1;
            match next(&table, former.take()).unwrap() {
                Gathered::Part(more) => former = Some(more),
                Gathered::Whole(got, at) => break (got, at),
            }
        };
        assert_eq!((got, at), whole(&table));
        assert!(parts > 14, "{parts}");
    }

    #[test]
    fn what_is_written_meanwhile_is_there_in_the_end_and_what_is_gone_is_not() {
        let table = table(300, 40);
        let (mut former, mut round) = (None, 0_usize);
        let (got, at) = loop {
            match next(&table, former.take()).unwrap() {
                Gathered::Part(more) => former = Some(more),
                Gathered::Whole(got, at) => break (got, at),
            }
            round += 1;
            let far = (round * 37) % 300;
            let fresh = Name::new(format!("name/{far:05}/{round}")).unwrap();
            write(&table, vec![(name(far), None), (fresh, Some(claim(7_000 + round as u64, 3)))], vec![]);
            write(
                &table,
                vec![(name(round), Some(claim(9_000, 3)))],
                vec![(name(round), None), (name(200 + round), Some(meta(9, 9)))],
            );
        };
        assert_eq!((got, at), whole(&table));
        assert!(round > 10, "{round}");
    }

    #[test]
    fn more_steps_than_fit_come_before_the_next_part_and_more_than_are_kept_begin_it_anew() {
        let table = table(100, 0);
        let Some(Gathered::Part(first)) = next(&table, None) else { panic!("it is long") };
        for round in 0..100 {
            write(&table, vec![(name(round), Some(claim(9_000, 16 << 10)))], vec![]);
        }
        let (_, mark) = first.told();
        let mark = mark.clone();
        let Some(Gathered::Part(second)) = next(&table, Some(first)) else { panic!("it is long") };
        assert_eq!(second.told().1, &mark, "steps alone");
        for round in 0..600 {
            write(&table, vec![(name(round % 100), Some(claim(9_000, 1)))], vec![]);
        }
        let part = table.part(directory(), Some(second.told()));
        assert!(part.after.is_none() && part.steps.is_empty(), "it begins anew");
        let Some(Gathered::Whole(got, at)) = Gathering::take(Some(second), TailPart::of(part)) else {
            panic!("it is short by now")
        };
        assert_eq!((got, at), whole(&table));
    }

    #[test]
    fn a_part_that_does_not_go_on_from_what_came_is_not_taken() {
        let table = table(100, 0);
        let Some(Gathered::Part(first)) = next(&table, None) else { panic!("it is long") };
        let part = table.part(directory(), Some(first.told()));
        assert!(Gathering::take(None, TailPart::of(part)).is_none());
    }
}
