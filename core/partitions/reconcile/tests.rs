use proptest::prelude::*;
use proptest::sample::Index;

use super::*;
use crate::cluster::member::Status;
use crate::ids::GroupId;
use crate::partitions::plans::{boot, plan};

fn me() -> NodeBoot {
    boot("a", 2)
}

/// Who is first among a partition's copies, as an index into the members of [`held`].
const ME: u32 = 0;
const B: u32 = 1;
const GONE: u32 = 3;

/// A plan that gives each of the users' partitions to a holder, under an epoch, and the last one as a partition of names.
fn held(version: u64, holders: &[(u32, u64)]) -> Snapshot {
    let members = [
        (me(), Status::Up),
        (boot("b", 1), Status::Up),
        (boot("c", 1), Status::Leaving),
        (boot("d", 1), Status::Lost),
    ];
    let mut users: Vec<_> = holders.iter().map(|(holder, epoch)| (vec![*holder], *epoch)).collect();
    let names = users.split_off(users.len() - 1);
    plan(version, &members, &[(GroupId::Users, users), (GroupId::Names, names)])
}

fn start(index: u32, epoch: u64) -> Effect {
    Effect::Start { partition: PartitionId::user(index), epoch: Epoch(epoch) }
}

fn stop(index: u32, epoch: u64) -> Effect {
    Effect::Stop { partition: PartitionId::user(index), epoch: Epoch(epoch) }
}

#[test]
fn the_newest_plan_wins_while_an_older_one_is_carried_out() {
    let mut law = Reconcile::new(me());
    let names = (B, 1);
    let v4 = held(4, &[(ME, 1), (ME, 1), (B, 1), names]);
    let v5 = held(5, &[(B, 2), (ME, 1), (ME, 2), names]);
    let v6 = held(6, &[(ME, 3), (B, 2), (ME, 2), names]);
    assert_eq!(law.handle_snapshot(&v4), [start(0, 1), start(1, 1)]);
    assert_eq!(law.handle_snapshot(&v5), [stop(0, 1), start(2, 2)]);
    // The first partition comes back before its worker has stopped: the new one waits for that.
    assert_eq!(law.handle_snapshot(&v6), [stop(1, 1)]);
    assert_eq!(law.handle_snapshot(&v5), []);
    assert!(!law.is_settled());
    assert_eq!(law.handle_stopped(PartitionId::user(0), Epoch(1)), [start(0, 3)]);
    assert_eq!(law.handle_snapshot(&v5), []);
    assert_eq!(law.handle_stopped(PartitionId::user(1), Epoch(1)), []);
    assert_eq!(law.handle_snapshot(&v5), []);
    assert_eq!(law.serving().collect::<BTreeMap<_, _>>(), local_assignments(&me(), &v6));
    assert!(law.is_settled());
    assert_eq!((law.version(), law.serving_len()), (Version(6), 2));
}

#[test]
fn what_another_boot_of_the_node_is_to_serve_is_not_this_ones() {
    let mut law = Reconcile::new(me());
    let of = |version, own: u64| {
        plan(version, &[(boot("a", own), Status::Up)], &[(GroupId::Users, vec![(vec![0], own)])])
    };
    assert_eq!(law.handle_snapshot(&of(1, 1)), []);
    assert_eq!(law.handle_snapshot(&of(2, 2)), [start(0, 2)]);
    assert_eq!(law.handle_snapshot(&of(3, 3)), [stop(0, 2)]);
}

/// What happens to a partition from one plan to the next.
#[derive(Clone, Copy, Debug)]
enum Fate {
    Stays,
    /// Its primary gave it back, and serves it again.
    Renewed,
    GoesTo(u32),
}

#[derive(Clone, Debug)]
enum Event {
    /// A plan is made. It is not heard of yet.
    Planned([Fate; PARTITIONS]),
    /// The newest plan comes.
    Newest,
    /// Some plan that was made comes, perhaps late, perhaps once more.
    Any(Index),
    /// The leader asks for a partition, under an epoch that is this far from the one that the newest plan has.
    Asked(usize, i64),
    /// One of the workers that were told to stop is gone.
    Stopped(Index),
}

const PARTITIONS: usize = 4;

fn event() -> impl Strategy<Value = Event> {
    let fate = prop_oneof![
        4 => Just(Fate::Stays),
        1 => Just(Fate::Renewed),
        3 => Just(Fate::GoesTo(ME)),
        3 => (B..=GONE).prop_map(Fate::GoesTo),
    ];
    prop_oneof![
        3 => proptest::array::uniform(fate).prop_map(Event::Planned),
        3 => Just(Event::Newest),
        1 => any::<Index>().prop_map(Event::Any),
        2 => (0..PARTITIONS, -1..=1_i64).prop_map(|(at, off)| Event::Asked(at, off)),
        4 => any::<Index>().prop_map(Event::Stopped),
    ]
}

/// The law, the plans there are, and what its effects have come to.
struct Story {
    law: Reconcile,
    plans: Vec<Snapshot>,
    holders: [(u32, u64); PARTITIONS],
    /// The newest plan that came.
    heard: usize,
    /// What runs, and whether it was told to stop.
    running: BTreeMap<PartitionId, (Epoch, bool)>,
    /// The newest epoch of each partition that was asked for.
    asked: BTreeMap<PartitionId, Epoch>,
}

impl Story {
    fn new() -> Self {
        let holders = [(B, 1); PARTITIONS];
        Self {
            law: Reconcile::new(me()),
            plans: vec![held(1, &holders)],
            holders,
            heard: 0,
            running: BTreeMap::new(),
            asked: BTreeMap::new(),
        }
    }

    fn handle(&mut self, event: &Event) {
        match event {
            Event::Planned(fates) => {
                for ((holder, epoch), fate) in self.holders.iter_mut().zip(fates) {
                    match fate {
                        Fate::GoesTo(other) if other != holder => (*holder, *epoch) = (*other, *epoch + 1),
                        Fate::Renewed => *epoch += 1,
                        Fate::Stays | Fate::GoesTo(_) => {}
                    }
                }
                self.plans.push(held(self.plans.len() as u64 + 1, &self.holders));
            }
            Event::Newest => self.hear(self.plans.len() - 1),
            Event::Any(which) => self.hear(which.index(self.plans.len())),
            Event::Asked(at, off) => {
                let (partition, now) = self.plans[self.plans.len() - 1].partitions().nth(*at).unwrap();
                let epoch = Epoch(now.epoch.0.saturating_add_signed(*off));
                let effects = self.law.handle_release_asked(partition, epoch);
                let asked = self.asked.entry(partition).or_default();
                *asked = epoch.max(*asked);
                self.carry_out(&effects);
            }
            Event::Stopped(which) => {
                let stopping: Vec<_> = self.stopping().collect();
                if !stopping.is_empty() {
                    self.answer(stopping[which.index(stopping.len())]);
                }
            }
        }
    }

    /// A plan comes: an old one changes nothing, and a new one nothing where primary and epoch are the same.
    fn hear(&mut self, at: usize) {
        let old = self.plans[at].version <= self.law.version();
        let effects = self.law.handle_snapshot(&self.plans[at]);
        assert!(effects.is_empty() || !old, "by an old plan: {effects:?}");
        let former = &self.plans[self.heard];
        for effect in &effects {
            let (Effect::Stop { partition, .. } | Effect::Start { partition, .. }) = effect else {
                panic!("a plan asks for no release: {effect:?}");
            };
            let (was, is) = (former.primary_of(*partition), self.plans[at].primary_of(*partition));
            assert_ne!(was, is, "{effect:?}, and nothing changed");
        }
        self.heard = self.heard.max(at);
        self.carry_out(&effects);
    }

    fn stopping(&self) -> impl Iterator<Item = (PartitionId, Epoch)> {
        self.running.iter().filter(|(_, (_, stops))| *stops).map(|(id, (epoch, _))| (*id, *epoch))
    }

    fn answer(&mut self, (partition, epoch): (PartitionId, Epoch)) {
        // What never ran is not taken for the worker that is awaited.
        assert_eq!(self.law.handle_stopped(partition, epoch.next()), []);
        self.running.remove(&partition);
        let effects = self.law.handle_stopped(partition, epoch);
        self.carry_out(&effects);
        assert_eq!(self.law.handle_stopped(partition, epoch), [], "it is gone once");
    }

    fn carry_out(&mut self, effects: &[Effect]) {
        assert!(effects.is_sorted_by_key(|effect| matches!(effect, Effect::Start { .. })), "{effects:?}");
        for effect in effects {
            match *effect {
                Effect::Start { partition, epoch } => {
                    assert_eq!(self.running.insert(partition, (epoch, false)), None, "{effect:?}");
                    assert!(self.asked.get(&partition).is_none_or(|asked| *asked < epoch), "{effect:?}");
                }
                Effect::Stop { partition, epoch } => {
                    assert_eq!(self.running.insert(partition, (epoch, true)), Some((epoch, false)));
                }
                Effect::Release { partition, epoch } => {
                    let runs = self.running.get(&partition);
                    assert!(runs.is_none_or(|(running, _)| *running > epoch), "{effect:?}: {runs:?}");
                    assert!(self.asked.get(&partition).is_some_and(|asked| *asked >= epoch), "{effect:?}");
                }
            }
        }
        let serving = self.running.iter().filter(|(_, (_, stops))| !stops);
        let serving: Vec<_> = serving.map(|(id, (epoch, _))| (*id, *epoch)).collect();
        assert_eq!(self.law.serving().collect::<Vec<_>>(), serving);
        assert_eq!(self.law.serving_len(), serving.len());
    }

    /// All workers that were told to stop do, and what is left is what the newest plan wants.
    fn end(mut self) {
        while let Some(stopping) = self.stopping().last() {
            self.answer(stopping);
        }
        let mut wanted = local_assignments(&me(), &self.plans[self.heard]);
        wanted.retain(|id, epoch| self.asked.get(id).is_none_or(|asked| *asked < *epoch));
        assert_eq!(self.law.serving().collect::<BTreeMap<_, _>>(), wanted);
        assert!(self.law.is_settled());
        // Whatever was asked for is released by now, and the leader that did not hear of it is told again.
        for (partition, epoch) in std::mem::take(&mut self.asked) {
            let told = self.law.handle_release_asked(partition, epoch);
            assert_eq!(told, [Effect::Release { partition, epoch }]);
        }
    }
}

proptest! {
    #[test]
    fn whatever_comes_in_whatever_order_ends_as_the_newest_plan_wants_it(
        events in proptest::collection::vec(event(), 0..60),
    ) {
        let mut story = Story::new();
        for event in &events {
            story.handle(event);
        }
        story.end();
    }
}
