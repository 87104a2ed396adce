//! Some nodes with what they run: they start and fail, freeze and thaw, are removed and come back.

use std::collections::BTreeMap;

use bytes::Bytes;
use rand::Rng;
use tumen_core::ids::{Epoch, NodeBoot, NodeName, Version};
use tumen_core::names::crew::{self, Crew, Frame, InstanceId, NotStarted, Stamp};
use tumen_core::names::name::Name;
use tumen_core::names::orders::MemberFacts;
use tumen_core::supervision::Exit;

use super::network::Message;
use super::{Flaw, NODES, World, kind};

#[derive(Clone, Debug)]
pub(super) struct Instance {
    pub(super) name: Name,
    pub(super) actor: Option<u64>,
    pub(super) ending: bool,
}

pub(super) struct Node {
    pub(super) id: NodeBoot,
    pub(super) crew: Crew,
    pub(super) instances: BTreeMap<InstanceId, Instance>,
    /// Names that its actors hold, as far as they know.
    pub(super) held: BTreeMap<Name, u64>,
    /// Whether what runs here may answer.
    pub(super) leased: bool,
    pub(super) frozen: bool,
    /// The newest plan that it knows.
    pub(super) plan: Version,
    pub(super) actors: u64,
}

impl World {
    pub(super) fn give_orders(&mut self, at: usize, mut frame: Frame) {
        if self.flaw == Flaw::StampsIgnored {
            self.boots += 1;
            frame.stamp = Stamp { epoch: Epoch(u64::MAX), number: self.boots };
        }
        let node = &mut self.nodes[at];
        let held = node.held.clone();
        let effects = node.crew.handle_orders(frame, |name, actor| held.get(name) == Some(&actor));
        self.perform_crew(at, effects);
    }

    pub(super) fn perform_crew(&mut self, at: usize, effects: Vec<crew::Effect>) {
        for effect in effects {
            let node = &mut self.nodes[at];
            match effect {
                crew::Effect::Spawn { instance, name, .. } => {
                    node.instances.insert(instance, Instance { name, actor: None, ending: false });
                }
                crew::Effect::Kill { instance, .. } => {
                    if let Some(instance) = node.instances.get_mut(&instance) {
                        instance.ending = true;
                    }
                }
                crew::Effect::Tell { answer, .. } => {
                    let from = node.id.clone();
                    self.network.push(Message::Answer(from, answer));
                }
                crew::Effect::Rename { .. } => unreachable!("nobody goes to another side here"),
                crew::Effect::Cleared => {}
            }
        }
    }

    /// An instance starts, fails, or ends as it was told to.
    pub(super) fn instance_goes_on(&mut self) {
        let at = self.pick();
        if self.nodes[at].frozen || self.nodes[at].instances.is_empty() {
            return;
        }
        let nth = self.rng.random_range(0..self.nodes[at].instances.len());
        let (id, instance) =
            self.nodes[at].instances.iter().nth(nth).map(|(id, i)| (*id, i.clone())).unwrap();
        let fails = self.chance(8);
        let node = &mut self.nodes[at];
        let effects = match (instance.actor, instance.ending) {
            (None, _) if fails => {
                node.instances.remove(&id);
                node.crew.handle_not_started(id, NotStarted::Failed("by chance".into()))
            }
            (None, _) => {
                node.actors += 1;
                let actor = node.actors;
                node.instances.get_mut(&id).unwrap().actor = Some(actor);
                self.seen.started += 1;
                node.crew.handle_started(id, actor)
            }
            (Some(_), true) => {
                node.instances.remove(&id);
                node.crew.handle_ended(id, Exit::Normal, Some(Bytes::from_static(b"state")))
            }
            (Some(_), false) if fails => {
                node.instances.remove(&id);
                self.seen.failed += 1;
                node.crew.handle_ended(id, Exit::Failed("by chance".into()), None)
            }
            (Some(_), false) => Vec::new(),
        };
        self.perform_crew(at, effects);
    }

    pub(super) fn freeze_or_thaw(&mut self) {
        let at = self.pick();
        self.nodes[at].frozen = !self.nodes[at].frozen;
    }

    /// A frozen node loses its lease, and a plan removes it; or a node that ended all that it ran is a member again.
    pub(super) fn remove_or_return(&mut self) {
        let at = self.pick();
        let mut plan = self.plans.last().unwrap().clone();
        let keeps = self.flaw == Flaw::KeepsWhenRemoved;
        let node = &mut self.nodes[at];
        if node.frozen && node.leased && plan.values().filter(|serves| **serves).count() > 1 {
            node.leased = false;
            plan.insert(node.id.clone(), false);
            self.plans.push(plan);
            self.seen.removed += 1;
        } else if !node.frozen && !node.leased && (plan.get(&node.id) != Some(&true)) {
            let acted = !plan.contains_key(&node.id) || node.plan.0 as usize == self.plans.len() - 1;
            if acted && (node.instances.is_empty() || keeps) {
                node.leased = true;
                plan.retain(|id, _| id.node != node.id.node);
                plan.insert(node.id.clone(), true);
                self.plans.push(plan);
                self.seen.returned += 1;
            }
        }
    }

    pub(super) fn crash(&mut self) {
        let at = self.pick();
        let id = self.next_boot(at);
        let former = std::mem::replace(&mut self.nodes[at].id, id);
        let node = &mut self.nodes[at];
        node.crew = Crew::default();
        node.instances.clear();
        node.held.clear();
        (node.leased, node.frozen, node.plan) = (false, false, Version::ZERO);
        self.seen.crashes += 1;
        let mut plan = self.plans.last().unwrap().clone();
        if plan.insert(former, false) == Some(true) {
            self.plans.push(plan);
        }
    }

    pub(super) fn learn_plan(&mut self, at: usize) {
        let newest = self.plans.len() - 1;
        let node = &mut self.nodes[at];
        if node.frozen || node.plan.0 as usize >= newest {
            return;
        }
        // Each plan between, in order, as the node's own log of them has it; what it skips it may not act on.
        let keeps = self.flaw == Flaw::KeepsWhenRemoved;
        let next = if keeps { newest } else { node.plan.0 as usize + 1 };
        node.plan = Version(next as u64);
        let serves = self.plans[next].get(&node.id) == Some(&true);
        if !serves && !keeps {
            node.held.clear();
        }
        if serves || !keeps {
            let effects = node.crew.handle_membership(Version(next as u64), serves);
            self.perform_crew(at, effects);
        }
    }
}

/// Whether a node is about to go by this plan: one of them by every third.
pub(super) fn leaves(plan: usize, node: &NodeBoot) -> bool {
    plan.is_multiple_of(3) && node.node.as_str() == format!("n{}", plan / 3 % NODES)
}

impl World {
    pub(super) fn members(&self, plan: usize) -> Vec<MemberFacts> {
        let facts = |(node, serves): (&NodeBoot, &bool)| MemberFacts {
            node: node.clone(),
            weight: 100,
            kinds: vec![kind()],
            serves: *serves,
            takes: *serves && !leaves(plan, node),
        };
        // A node's newest run is its member.
        let newest: BTreeMap<&NodeName, (&NodeBoot, &bool)> =
            self.plans[plan].iter().map(|(node, serves)| (&node.node, (node, serves))).collect();
        newest.into_values().map(facts).collect()
    }
}
