//! Whom to dial, and when.
//!
//! ```text
//!  seed:  Due ─dial─▶ Dialling ─met somebody─▶ session with that node ─▶ forgotten
//!          ▲              │                     or none after a while: Due again
//!          └──── wait ────┘ failed: each wait twice the last
//!
//!  known: Connected ─session ends─▶ Due ─dial─▶ Dialling ─session─▶ Connected
//!                    the smaller name at once, the larger after its patience
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::Backoff;
use crate::ids::NodeName;
use crate::time::Moment;
use crate::wire::StableHasher;

/// Who is dialled.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    /// Whoever is found at an address that this node was told of.
    Seed(String),
    /// A node that this one knows.
    Node(NodeName),
}

/// One dial that is to be made now. [`Dialling::handle_met`] or [`Dialling::handle_failed`] answers it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dial {
    /// Who is dialled.
    pub target: Target,
    /// Where.
    pub address: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// There is a session: nothing to do.
    Connected,
    /// To be dialled at this moment.
    Due(Moment),
    /// Being dialled.
    Dialling,
}

#[derive(Clone, Debug)]
struct Entry {
    address: String,
    failures: u32,
    state: State,
    /// Who was met there last, for seeds.
    met: Option<NodeName>,
}

impl Entry {
    fn new(address: &str, state: State) -> Self {
        Self { address: address.to_owned(), failures: 0, state, met: None }
    }
}

/// What one node knows of whom to dial.
#[derive(Clone, Debug)]
pub struct Dialling {
    me: NodeName,
    backoff: Backoff,
    patience: Duration,
    entries: BTreeMap<Target, Entry>,
    connected: BTreeSet<NodeName>,
}

impl Dialling {
    /// A node named `me` that knows nobody. Of two nodes that know each other the larger name leaves it to the
    /// smaller one to dial, for `patience`.
    pub const fn new(me: NodeName, backoff: Backoff, patience: Duration) -> Self {
        Self { me, backoff, patience, entries: BTreeMap::new(), connected: BTreeSet::new() }
    }

    /// Somebody is to be met at `address`.
    pub fn handle_meet(&mut self, now: Moment, address: &str) {
        let seed = || Entry::new(address, State::Due(now));
        self.entries.entry(Target::Seed(address.to_owned())).or_insert_with(seed);
    }

    /// Nobody is to be met at `address` any more. A node that was met there stays known.
    pub fn handle_unmeet(&mut self, address: &str) {
        self.entries.remove(&Target::Seed(address.to_owned()));
    }

    /// `node` is known to be at `address`.
    pub fn handle_remember(&mut self, now: Moment, node: &NodeName, address: &str) {
        if *node == self.me {
            return;
        }
        let target = Target::Node(node.clone());
        if self.entries.get(&target).is_some_and(|entry| entry.address == address) {
            return;
        }
        let state = if self.connected.contains(node) {
            State::Connected
        } else {
            State::Due(self.first_dial(now, node))
        };
        self.entries.insert(target, Entry::new(address, state));
    }

    /// `node` is of no interest any more.
    pub fn handle_forget(&mut self, node: &NodeName) {
        self.entries.remove(&Target::Node(node.clone()));
    }

    /// There is a session with `node`.
    pub fn handle_session_up(&mut self, node: &NodeName) {
        self.connected.insert(node.clone());
        // Their part is done. Who the node is, is known now.
        self.entries.retain(|_, entry| entry.met.as_ref() != Some(node));
        if let Some(entry) = self.entries.get_mut(&Target::Node(node.clone())) {
            (entry.state, entry.failures) = (State::Connected, 0);
        }
    }

    /// The session with `node` is over.
    pub fn handle_session_down(&mut self, now: Moment, node: &NodeName) {
        self.connected.remove(node);
        let due = self.first_dial(now, node);
        if let Some(entry) = self.entries.get_mut(&Target::Node(node.clone())) {
            entry.state = State::Due(due);
        }
    }

    /// A dial found `node`, which is, or is becoming, a peer. A seed has done its part once there is a session; if there is
    /// none after a while, or for a node that was expected elsewhere, it is dialled again.
    pub fn handle_met(&mut self, now: Moment, target: &Target, node: &NodeName) {
        match target {
            Target::Seed(_) if self.connected.contains(node) => drop(self.entries.remove(target)),
            Target::Seed(_) => {
                if let Some(entry) = self.entries.get_mut(target) {
                    entry.met = Some(node.clone());
                }
                self.retry(target, now + self.patience);
            }
            Target::Node(_) => self.retry(target, now + self.patience),
        }
    }

    /// A dial found this very node. A list of seeds may name it; once is enough to know.
    pub fn handle_itself(&mut self, target: &Target) {
        self.entries.remove(target);
    }

    /// A dial came to nothing. Returns how often in a row.
    pub fn handle_failed(&mut self, now: Moment, target: &Target) -> u32 {
        let Some(entry) = self.entries.get_mut(target) else { return 1 };
        entry.failures = entry.failures.saturating_add(1);
        let failures = entry.failures;
        // Every node hashes differently, so that they do not all dial in step.
        let mut chance = StableHasher::new();
        chance.write_str(self.me.as_str());
        chance.write_str(&entry.address);
        chance.write_u64(u64::from(failures));
        let wait = self.backoff.delay(failures, chance.finish());
        self.retry(target, now + wait);
        failures
    }

    /// The dials to make now.
    pub fn plan_dials(&mut self, now: Moment) -> Vec<Dial> {
        let mut dials = Vec::new();
        for (target, entry) in &mut self.entries {
            if matches!(entry.state, State::Due(due) if due <= now) {
                entry.state = State::Dialling;
                dials.push(Dial { target: target.clone(), address: entry.address.clone() });
            }
        }
        dials
    }

    /// When [`Dialling::plan_dials`] has something to say next.
    pub fn next_due(&self) -> Option<Moment> {
        let due = |entry: &Entry| match entry.state {
            State::Due(due) => Some(due),
            State::Connected | State::Dialling => None,
        };
        self.entries.values().filter_map(due).min()
    }

    fn first_dial(&self, now: Moment, node: &NodeName) -> Moment {
        if self.me < *node { now } else { now + self.patience }
    }

    fn retry(&mut self, target: &Target, at: Moment) {
        if let Some(entry) = self.entries.get_mut(target)
            && entry.state == State::Dialling
        {
            entry.state = State::Due(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Moment {
        Moment::from_millis(millis)
    }

    fn name(name: &str) -> NodeName {
        NodeName::new(name).unwrap()
    }

    fn dialling(me: &str) -> Dialling {
        Dialling::new(name(me), Backoff::default(), Duration::from_millis(300))
    }

    fn addresses(dials: &[Dial]) -> Vec<&str> {
        dials.iter().map(|dial| dial.address.as_str()).collect()
    }

    #[test]
    fn a_seed_is_dialled_until_somebody_is_known_there() {
        let mut law = dialling("b");
        law.handle_meet(at(0), "x:1");
        let dials = law.plan_dials(at(0));
        assert_eq!(addresses(&dials), ["x:1"]);
        assert!(law.plan_dials(at(10_000)).is_empty(), "one dial at a time");
        assert_eq!(law.handle_failed(at(0), &dials[0].target), 1);
        assert!(law.next_due().unwrap() <= at(10));
        assert_eq!(law.plan_dials(at(10)).len(), 1);
        assert_eq!(law.handle_failed(at(10), &dials[0].target), 2);
        assert_eq!(law.plan_dials(at(30)).len(), 1);
        law.handle_met(at(30), &dials[0].target, &name("a"));
        assert_eq!(law.next_due(), Some(at(330)), "whoever was met may vanish before there is a session");
        law.handle_session_up(&name("a"));
        assert_eq!(law.next_due(), None);
    }

    #[test]
    fn a_seed_that_was_removed_is_dialled_no_more() {
        let mut law = dialling("b");
        law.handle_meet(at(0), "x:1");
        law.handle_meet(at(0), "y:1");
        let dials = law.plan_dials(at(0));
        law.handle_unmeet("x:1");
        law.handle_unmeet("z:1");
        assert!(dials.iter().all(|dial| law.handle_failed(at(0), &dial.target) == 1));
        assert_eq!(
            addresses(&law.plan_dials(at(100_000))),
            ["y:1"],
            "a dial under way comes to nothing more"
        );
    }

    #[test]
    fn the_smaller_name_dials_a_known_node_at_once_and_the_larger_after_its_patience() {
        for (me, due) in [("a", 5), ("c", 305)] {
            let mut law = dialling(me);
            law.handle_session_up(&name("b"));
            law.handle_remember(at(0), &name("b"), "b:1");
            assert_eq!(law.next_due(), None);
            law.handle_session_down(at(5), &name("b"));
            assert_eq!(law.next_due(), Some(at(due)));
            let dials = law.plan_dials(at(due));
            law.handle_met(at(due), &dials[0].target, &name("b"));
            law.handle_session_up(&name("b"));
            assert_eq!(law.next_due(), None);
        }
    }

    #[test]
    fn who_is_forgotten_or_moved_is_not_dialled_at_the_old_address() {
        let mut law = dialling("a");
        law.handle_remember(at(0), &name("b"), "b:1");
        law.handle_remember(at(0), &name("b"), "b:2");
        assert_eq!(addresses(&law.plan_dials(at(0))), ["b:2"]);
        law.handle_forget(&name("b"));
        law.handle_failed(at(0), &Target::Node(name("b")));
        assert!(law.plan_dials(at(100_000)).is_empty());
        law.handle_remember(at(0), &name("a"), "a:1");
        assert!(law.plan_dials(at(100_000)).is_empty(), "nobody dials itself");
    }
}
