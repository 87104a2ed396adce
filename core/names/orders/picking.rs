//! Which node is to run a child.
//!
//! ```text
//!  it failed there, and may stay ─▶ that node
//!  else its placement ─┬▶ a node
//!                      ├▶ nobody ──▶ the first start: refused, after a while; a later one waits
//!                      └▶ a fault ─▶ the first start: refused, at once; a later one goes by its name
//! ```

use super::{Effect, MemberFacts, Orders, Task};
use crate::ids::NodeBoot;
use crate::names::claim::{Child, Reason};
use crate::names::directory::{Change, Directory};
use crate::names::name::Name;
use crate::names::placement::{Candidate, Choice, Placing};
use crate::names::placements::Fault;
use crate::time::Moment;

/// What came of looking for a node.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Picked {
    /// This one.
    Node(NodeBoot),
    /// None can at present.
    Nobody(String),
    /// The user's own placement cannot be relied on.
    Faulty(Fault),
}

impl Orders {
    /// What is logged of a child that waits for a node; or when to look again.
    pub(super) fn place(
        &self,
        now: Moment,
        directory: &Directory,
        name: &Name,
        task: Task,
        effects: &mut Vec<Effect>,
    ) -> Result<Change, Moment> {
        let Some((number, child)) =
            directory.get(name).and_then(|claim| Some((claim.number, claim.child()?)))
        else {
            return Err(Moment::MAX);
        };
        let ordered = |node| Change::Ordered { name: name.clone(), number, node };
        let refused = |why: String| {
            let reason = Reason::StartFailed(why);
            Change::Released { name: name.clone(), number, reason }
        };
        let is_first = child.restarts == 0;
        match self.pick(directory, name, child, &child.spec.placing) {
            Picked::Node(node) => Ok(ordered(node)),
            // Whoever asked for it waits: it is told, and nothing is tracked.
            Picked::Faulty(fault) if is_first => Ok(refused(fault.to_string())),
            Picked::Faulty(fault) => {
                let picked = self.pick(directory, name, child, &Placing::Uniform);
                let Picked::Node(node) = picked else { return Err(Moment::MAX) };
                effects.push(Effect::PlacedByName { name: name.clone(), why: fault });
                Ok(ordered(node))
            }
            Picked::Nobody(why) if is_first && now >= task.since + self.config.choose_within => {
                Ok(refused(format!("no node can be chosen for it: {why}")))
            }
            Picked::Nobody(_) if is_first => Err(task.since + self.config.choose_within),
            // What a placement of the user's own goes by may be others than the members.
            Picked::Nobody(_) if matches!(child.spec.placing, Placing::Own(_)) => {
                Err(now + self.config.choose_within)
            }
            // Somebody may come who can.
            Picked::Nobody(_) => Err(Moment::MAX),
        }
    }

    /// A node for a child that has to go, if there is any: by its name, where its placement cannot be relied on.
    pub(super) fn pick_anyhow(&self, directory: &Directory, name: &Name) -> (Option<NodeBoot>, Vec<Effect>) {
        let Some(child) = directory.get(name).and_then(|claim| claim.child()) else {
            return (None, Vec::new());
        };
        match self.pick(directory, name, child, &child.spec.placing) {
            Picked::Node(node) => (Some(node), Vec::new()),
            Picked::Nobody(_) => (None, Vec::new()),
            Picked::Faulty(why) => match self.pick(directory, name, child, &Placing::Uniform) {
                Picked::Node(node) => (Some(node), vec![Effect::PlacedByName { name: name.clone(), why }]),
                Picked::Nobody(_) | Picked::Faulty(_) => (None, Vec::new()),
            },
        }
    }

    /// A node for a child: the one on which it failed, at first.
    fn pick(&self, directory: &Directory, name: &Name, child: &Child, placing: &Placing) -> Picked {
        let failures = self.failures.get(name);
        let fit = |member: &&MemberFacts| {
            let unfit = failures.is_some_and(|failures| failures.unfit.contains(&member.node));
            member.takes
                && self.serves(&member.node)
                && member.kinds.binary_search(&child.spec.kind).is_ok()
                && !unfit
        };
        if let Some(failures) = failures.filter(|it| (1..=self.config.local_restarts).contains(&it.in_a_row))
            && let Some(node) = &failures.node
            && self.members.iter().filter(fit).any(|member| member.node == *node)
        {
            return Picked::Node(node.clone());
        }
        let failed = failures.filter(|it| it.in_a_row > 0).and_then(|it| it.node.as_ref());
        let candidates: Vec<Candidate<'_>> = (self.members.iter().filter(fit))
            .filter(|member| member.weight > 0)
            .map(|member| Candidate {
                node: &member.node,
                weight: member.weight,
                children: directory.count_on(&member.node),
            })
            .collect();
        let left = failures.and_then(|it| it.moved_from.as_ref());
        let other = |it: &&Candidate<'_>| Some(it.node) != failed && Some(it.node) != left;
        let others: Vec<Candidate<'_>> = candidates.iter().filter(other).cloned().collect();
        let candidates = if others.is_empty() { candidates } else { others };
        if candidates.is_empty() {
            let kind = &child.spec.kind;
            return Picked::Nobody(format!("no member that can start a {kind} takes children at present"));
        }
        let there = self.members.iter().filter(|member| member.serves).count();
        let number = directory.get(name).map_or(0, |claim| claim.number.0);
        let members = self.members.len();
        let choice = Choice { name, number, candidates: &candidates, there, members };
        match self.placements.pick(placing, &choice) {
            Ok(Some(at)) => match candidates.get(at) {
                Some(candidate) => Picked::Node(candidate.node.clone()),
                None => Picked::Nobody(format!("{placing} chose nobody who is there")),
            },
            Ok(None) => {
                let count = candidates.len();
                Picked::Nobody(format!(
                    "{placing} chose none of {count}, with {there} of {members} members there"
                ))
            }
            Err(fault) => Picked::Faulty(fault),
        }
    }

    /// Whether a node may be told something. One that is back is not told to go on with what the log is about to free.
    pub(super) fn serves(&self, node: &NodeBoot) -> bool {
        self.is_member(node) && !self.leaving.contains(node)
    }

    pub(super) fn is_member(&self, node: &NodeBoot) -> bool {
        let at = self.members.binary_search_by(|member| member.node.node.cmp(&node.node));
        at.is_ok_and(|at| self.members[at].node == *node && self.members[at].serves)
    }
}
