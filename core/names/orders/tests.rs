mod resting;

use std::sync::Arc;

use bytes::Bytes;

use super::*;
use crate::ids::{Boot, GroupId, NodeName, PlacementName};
use crate::names::claim::{Claim, Holder, Reason, Spec};
use crate::names::crew::Answer;
use crate::names::placement::{Choice, Placement};
use crate::supervision::{Exit, Restart};

const DIRECTORY: PartitionId = PartitionId { group: GroupId::Names, index: 0 };

fn at(millis: u64) -> Moment {
    Moment::from_millis(10_000 + millis)
}

fn node(number: u64) -> NodeBoot {
    NodeBoot::new(NodeName::new(&format!("n{number}")).unwrap(), Boot(number))
}

fn name() -> Name {
    Name::new("child").unwrap()
}

/// Chooses the node of this number; 98 is nobody, 99 panics.
struct Fixed(usize);

impl Placement for Fixed {
    fn pick(&self, _: &Choice<'_>) -> Option<usize> {
        assert!(self.0 != 99, "told to");
        Some(self.0).filter(|at| *at != 98)
    }
}

/// A primary, and what W copies hold, which is all that it logs.
struct Led {
    orders: Orders,
    directory: Directory,
    plan: u64,
    /// What was said of placements that cannot be relied on.
    said: Vec<Fault>,
    news: Vec<crate::names::directory::News>,
}

impl Led {
    fn new(own: &[(&str, usize)]) -> Self {
        let own = own.iter().map(|(name, at)| {
            (PlacementName::new(name).unwrap(), Arc::new(Fixed(*at)) as Arc<dyn Placement>)
        });
        let placements = Placements::new(own.collect()).unwrap();
        let directory = Directory::default();
        let orders = Orders::new(at(0), (DIRECTORY, Epoch(1)), Config::default(), placements, &directory);
        Self { orders, directory, plan: 0, said: Vec::new(), news: Vec::new() }
    }

    fn perform(&mut self, now: Moment, effects: Vec<Effect>) {
        let mut effects = VecDeque::from(effects);
        while let Some(effect) = effects.pop_front() {
            match effect {
                Effect::Commit(change) => {
                    self.news.extend(self.directory.apply(&change));
                    effects.extend(self.orders.handle_applied(now, &self.directory, &change));
                }
                Effect::PlacedByName { why, .. } => self.said.push(why),
                Effect::Send { .. } | Effect::WakeAt(_) => {}
            }
        }
    }

    /// So many nodes are there, of so many members; each takes children where its number is no more than `take`.
    fn members(&mut self, now: Moment, there: u64, members: u64, take: u64) {
        let facts = (1..=members).map(|number| MemberFacts {
            node: node(number),
            weight: 100,
            kinds: vec![Kind::new("child").unwrap()],
            serves: number <= there,
            takes: number <= there.min(take),
        });
        self.plan += 1;
        let effects = self.orders.handle_members(now, &self.directory, Version(self.plan), facts.collect());
        self.perform(now, effects);
    }

    fn start(&mut self, now: Moment, placing: &str) {
        let spec = Spec {
            kind: Kind::new("child").unwrap(),
            args: Bytes::new(),
            restart: Restart::Permanent,
            restarts_max: 5,
            window: Duration::from_secs(30),
            placing: placing.parse().unwrap(),
        };
        let change = self.directory.judge_start(&name(), &Arc::new(spec), &Bytes::new()).unwrap().unwrap();
        self.perform(now, vec![Effect::Commit(change)]);
    }

    fn runs(&mut self, now: Moment) -> NodeBoot {
        let claim = self.claim().expect("it is there").clone();
        let on = claim.node().expect("a node is told to start it").clone();
        let answer = Answer::Started { name: name(), number: claim.number, actor: 7 };
        let effects = self.orders.handle_answer(now, &self.directory, &on, answer);
        self.perform(now, effects);
        assert_eq!(self.claim().unwrap().holder(), Some(&Holder { node: on.clone(), actor: 7 }));
        on
    }

    fn ended(&mut self, now: Moment, exit: Exit) {
        let claim = self.claim().unwrap();
        let (on, number) = (claim.node().unwrap().clone(), claim.number);
        let answer = Answer::Ended { name: name(), number, exit: Some(exit), handed: None };
        let effects = self.orders.handle_answer(now, &self.directory, &on, answer);
        self.perform(now, effects);
    }

    fn tick(&mut self, now: Moment) {
        let effects = self.orders.handle_tick(now, &self.directory);
        self.perform(now, effects);
    }

    fn claim(&self) -> Option<&Claim> {
        self.directory.get(&name())
    }

    /// Why it was refused, after which nothing is tracked.
    fn refused(&self) -> String {
        assert_eq!(self.claim(), None, "nothing is tracked");
        match self.news.last() {
            Some(crate::names::directory::News::Unregistered {
                reason: Reason::StartFailed(why), ..
            }) => why.clone(),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn where_nobody_can_be_chosen_a_first_start_is_refused_whatever_the_strategy() {
    for placing in ["uniform", "uniform_active", "uniform_quorum", "least_loaded", "random", "nobody"] {
        let mut led = Led::new(&[("nobody", 98)]);
        // A member is there that takes no children: it leaves. Of a placement of one's own it is asked who would be chosen.
        let take = if placing == "nobody" { 3 } else { 0 };
        led.members(at(0), 3, 3, take);
        led.start(at(0), placing);
        led.tick(at(900));
        assert!(led.claim().is_some(), "{placing}: a plan may be on its way here");
        led.tick(at(1_000));
        let why = led.refused();
        assert!(why.starts_with("no node can be chosen for it: "), "{placing}: {why}");
    }
}

#[test]
fn with_quorum_the_half_that_is_none_may_not_place_and_the_other_may() {
    for (there, may) in [(2, false), (3, true)] {
        let mut led = Led::new(&[]);
        led.members(at(0), there, 5, 5);
        led.start(at(0), "uniform_quorum");
        led.tick(at(1_000));
        if may {
            assert!(led.claim().unwrap().node().is_some());
        } else {
            assert!(led.refused().ends_with("uniform_quorum chose none of 2, with 2 of 5 members there"));
        }
    }
}

#[test]
fn whoever_waits_for_a_node_gets_the_one_that_comes() {
    let mut led = Led::new(&[]);
    led.members(at(0), 1, 1, 0);
    led.start(at(0), "uniform");
    led.members(at(500), 2, 2, 2);
    assert!(led.claim().unwrap().node().is_some());
}

#[test]
fn a_users_own_placement_chooses_and_a_fault_of_it_refuses_the_start_at_once() {
    let mut led = Led::new(&[("last", 2), ("far", 3), ("wild", 99)]);
    led.members(at(0), 3, 3, 3);
    led.start(at(0), "last");
    assert_eq!(led.runs(at(1)), node(3));
    for (placing, says) in [
        ("far", "chose number 3"),
        ("wild", "panicked: told to"),
        ("near-data", "no placement named near-data (it has far, last, wild)"),
    ] {
        let mut led = Led::new(&[("last", 2), ("far", 3), ("wild", 99)]);
        led.members(at(0), 3, 3, 3);
        led.start(at(0), placing);
        assert!(led.refused().contains(says), "{}", led.refused());
    }
}

#[test]
fn a_child_that_runs_stays_where_it_is_though_its_placement_cannot_be_relied_on() {
    let mut led = Led::new(&[("last", 1)]);
    led.members(at(0), 2, 2, 2);
    led.start(at(0), "last");
    assert_eq!(led.runs(at(1)), node(2));
    // Another node leads its directory, on which there is no such placement.
    led.orders =
        Orders::new(at(2), (DIRECTORY, Epoch(2)), Config::default(), Placements::default(), &led.directory);
    led.members(at(2), 3, 3, 3);
    led.tick(at(5_000));
    assert_eq!(led.claim().unwrap().node(), Some(&node(2)));
    // It fails: there again, without a question.
    led.ended(at(6_000), Exit::Failed("told to".into()));
    led.tick(at(7_000));
    assert_eq!((led.runs(at(7_001)), led.said.len()), (node(2), 0));
    // Its node goes: it runs on, by its name, and that is said.
    led.members(at(8_000), 1, 3, 3);
    led.tick(at(8_100));
    assert_eq!((led.runs(at(8_101)), led.said.len()), (node(1), 1));
    assert!(matches!(led.said[0], Fault::Unknown { .. }));
}
