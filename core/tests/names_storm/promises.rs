//! What must hold: at every moment, and once trouble has ended.

use std::collections::BTreeMap;
use std::time::Duration;

use tumen_core::ids::{NodeBoot, Version};
use tumen_core::names::claim::{Held, Stage};
use tumen_core::names::crew::InstanceId;
use tumen_core::names::name::Name;
use tumen_core::supervision::Exit;

use super::network::Message;
use super::nodes::leaves;
use super::{DIRECTORY, NODES, World};

impl World {
    pub(super) fn check(&self) -> Result<(), String> {
        let mut answering: BTreeMap<&Name, Vec<(&NodeBoot, InstanceId)>> = BTreeMap::new();
        for node in self.nodes.iter().filter(|node| node.leased) {
            for (id, instance) in node.instances.iter().filter(|(_, instance)| instance.actor.is_some()) {
                answering.entry(&instance.name).or_default().push((&node.id, *id));
            }
        }
        match answering.into_iter().find(|(_, instances)| instances.len() > 1) {
            Some((name, instances)) => Err(format!("{name} answers twice: {instances:?}")),
            None => Ok(()),
        }
    }

    /// Trouble ends: all nodes come back, nothing is lost any more, and time passes.
    pub(super) fn rest(&mut self) -> Result<(), String> {
        self.former = None;
        for round in 0..4_000 {
            self.now += Duration::from_millis(50);
            for at in 0..NODES {
                self.nodes[at].frozen = false;
                (0..50).for_each(|_| self.learn_plan(at));
                let ids: Vec<InstanceId> = self.nodes[at].instances.keys().copied().collect();
                for id in ids {
                    let instance = self.nodes[at].instances[&id].clone();
                    let node = &mut self.nodes[at];
                    let effects = match (instance.actor, instance.ending) {
                        (None, _) => {
                            node.actors += 1;
                            let actor = node.actors;
                            node.instances.get_mut(&id).unwrap().actor = Some(actor);
                            node.crew.handle_started(id, actor)
                        }
                        (Some(_), true) => {
                            node.instances.remove(&id);
                            node.crew.handle_ended(id, Exit::Normal, None)
                        }
                        (Some(_), false) => Vec::new(),
                    };
                    self.perform_crew(at, effects);
                }
                let plan = self.plans.last().unwrap().clone();
                let node = &mut self.nodes[at];
                if plan.get(&node.id) != Some(&true) && node.instances.is_empty() {
                    let mut plan = plan;
                    node.leased = true;
                    plan.retain(|id, _| id.node != node.id.node);
                    plan.insert(node.id.clone(), true);
                    self.plans.push(plan);
                }
                let effects = self.nodes[at].crew.handle_tick();
                self.perform_crew(at, effects);
            }
            for message in std::mem::take(&mut self.network) {
                match message {
                    Message::Orders(to, frame) => {
                        if let Some(at) = self.nodes.iter().position(|node| node.id == to) {
                            self.give_orders(at, frame);
                        }
                    }
                    Message::Answer(from, answer) => {
                        let now = self.now;
                        let primary = self.primary.as_mut().unwrap();
                        let effects = primary.orders.handle_answer(now, &primary.held, &from, answer);
                        self.perform(effects, false);
                    }
                    Message::Claim(..) => {}
                }
                self.check()?;
            }
            let newest = self.plans.len() - 1;
            let (now, members) = (self.now, self.members(newest));
            let primary = self.primary.as_mut().unwrap();
            let effects = primary.orders.handle_members(now, &primary.held, Version(newest as u64), members);
            self.perform(effects, false);
            while self.mark < self.log.len() {
                self.mark += 1;
                self.tell_up_to(self.mark);
            }
            let primary = self.primary.as_mut().unwrap();
            let effects = primary.orders.handle_tick(now, &primary.held);
            self.perform(effects, false);
            self.check()?;
            if round % 40 == 39 && self.is_whole().is_ok() {
                return Ok(());
            }
        }
        self.is_whole()
    }

    pub(super) fn is_whole(&self) -> Result<(), String> {
        let held = &self.primary.as_ref().unwrap().held;
        let mut running = 0;
        for (name, claim) in held.iter() {
            match &claim.held {
                Held::Child(child) => {
                    let Stage::Running { holder } = &child.stage else {
                        return Err(format!("{name} does not run: {claim:?}"));
                    };
                    let id = InstanceId { directory: DIRECTORY, number: claim.number };
                    let there = self.nodes.iter().find(|node| node.id == holder.node);
                    let there = there
                        .and_then(|node| node.instances.get(&id))
                        .ok_or_else(|| format!("{name} is said to run as {holder}, and does not"))?;
                    if there.actor != Some(holder.actor) {
                        return Err(format!("{name} is said to run as {holder}, and is {there:?}"));
                    }
                    let newest = self.plans.len() - 1;
                    let other = self.members(newest).iter().any(|it| it.takes);
                    if other && leaves(newest, &holder.node) {
                        return Err(format!("{name} runs on {holder}, which is about to go"));
                    }
                    running += 1;
                }
                Held::Plain(holder) => {
                    let node = self.nodes.iter().find(|node| node.id == holder.node);
                    if node.and_then(|node| node.held.get(name)) != Some(&holder.actor) {
                        return Err(format!("{name} is said to be held by {holder}, who does not"));
                    }
                }
            }
        }
        let all: usize = self.nodes.iter().map(|node| node.instances.len()).sum();
        if all != running {
            return Err(format!("{all} instances run, {running} should"));
        }
        if self.nodes.iter().any(|node| node.crew.len() != node.instances.len()) {
            return Err("a node counts other instances than it has".into());
        }
        Ok(())
    }
}
