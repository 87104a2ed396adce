//! What is on its way: lost, doubled and late.

use bytes::Bytes;
use rand::Rng;
use tumen_core::ids::NodeBoot;
use tumen_core::names::claim::Holder;
use tumen_core::names::crew::{Answer, Frame};
use tumen_core::names::name::Name;

use super::World;

#[derive(Clone)]
pub(super) enum Message {
    Orders(NodeBoot, Frame),
    Answer(NodeBoot, Answer),
    /// A claim on its way: who, and for which actor.
    Claim(Holder, Name),
}

impl World {
    pub(super) fn deliver(&mut self) {
        if self.network.is_empty() {
            return;
        }
        let at = self.rng.random_range(0..self.network.len());
        let message = if self.chance(10) { self.network[at].clone() } else { self.network.swap_remove(at) };
        if self.chance(12) {
            return;
        }
        match message {
            Message::Orders(to, frame) => {
                let Some(at) = self.nodes.iter().position(|node| node.id == to && !node.frozen) else {
                    return;
                };
                self.give_orders(at, frame);
            }
            Message::Answer(from, answer) => {
                let now = self.now;
                let primary = self.primary.as_mut().unwrap();
                let effects = primary.orders.handle_answer(now, &primary.held, &from, answer);
                self.perform(effects, false);
            }
            Message::Claim(holder, name) => {
                let plan = self.plans.last().unwrap();
                let is_member = |node: &NodeBoot| plan.get(node) == Some(&true);
                let judged = self.working.judge_claim(&name, &holder, &Bytes::new(), is_member);
                if let Ok(changes) = judged {
                    changes.into_iter().for_each(|change| self.append(change));
                    // Told at once: an actor that is told late is as one that is asked late.
                    if let Some(node) = self.nodes.iter_mut().find(|node| node.id == holder.node) {
                        node.held.insert(name, holder.actor);
                    }
                }
            }
        }
    }
}
