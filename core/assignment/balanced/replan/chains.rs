//! The second half of a phase: chains along the labels, until a search from every excess finds no more.
//!
//! Labels count steps beside cost, and no circle costs less than nothing: so no chain runs in circles, and whatever
//! leads nowhere once leads nowhere for the rest of the phase.

use crate::assignment::balanced::replan::{FAR, Label, NEW, Plan, STEP, Vertex};

/// One phase's walk along the labels.
struct Walk {
    /// On the path, or found to lead nowhere.
    seen: Vec<bool>,
    /// The next of what it holds that each node is asked for; the pivot's is the last.
    at: Vec<usize>,
    /// The nodes that may still lead somewhere, by zone and label, and where on its list each stands.
    alive: Vec<Vec<u32>>,
    place: Vec<u32>,
    /// The labels that nodes have, sorted.
    levels: Vec<Label>,
}

impl Walk {
    fn of(plan: &Plan<'_, '_>) -> Self {
        let mut levels: Vec<Label> =
            plan.labels.nodes.iter().copied().filter(|label| *label != FAR).collect();
        levels.sort_unstable();
        levels.dedup();
        let nodes = plan.within.len();
        let mut walk = Self {
            seen: vec![false; plan.vertices()],
            at: vec![0; nodes + 1],
            alive: vec![Vec::new(); plan.members.len() * levels.len()],
            place: vec![0; nodes],
            levels,
        };
        for (node, label) in (0..).zip(&plan.labels.nodes) {
            if let Some(list) = walk.list(plan.list_of(node), *label) {
                walk.place[node as usize] = walk.alive[list].len() as u32;
                walk.alive[list].push(node);
            }
        }
        walk
    }

    /// The list of the nodes of a zone with this label.
    fn list(&self, zone: usize, label: Label) -> Option<usize> {
        Some(zone * self.levels.len() + self.levels.binary_search(&label).ok()?)
    }
}

impl Plan<'_, '_> {
    /// Uses chains along the labels until no excess finds one. Says whether there was any.
    pub(super) fn use_chains(&mut self) -> bool {
        let mut walk = Walk::of(self);
        let mut used = false;
        for source in self.sources() {
            while self.excess(source) > 0 && self.use_chain(&mut walk, source) {
                used = true;
            }
        }
        used
    }

    fn use_chain(&mut self, walk: &mut Walk, source: Vertex) -> bool {
        if walk.seen[self.index(source)] {
            return false;
        }
        walk.seen[self.index(source)] = true;
        let mut path = vec![source];
        while let Some(vertex) = path.last().copied() {
            if self.excess(vertex) < 0 {
                path.iter().for_each(|vertex| walk.seen[self.index(*vertex)] = false);
                self.shift(walk, &path);
                return true;
            }
            match self.next(walk, vertex) {
                Some(next) => {
                    walk.seen[self.index(next)] = true;
                    path.push(next);
                }
                None => {
                    path.pop();
                    if let Vertex::Node(node) = vertex {
                        self.bury(walk, node);
                    }
                }
            }
        }
        false
    }

    /// Strikes a node that leads nowhere.
    fn bury(&self, walk: &mut Walk, node: u32) {
        let Some(list) = walk.list(self.list_of(node), self.labels.nodes[node as usize]) else { return };
        let list = &mut walk.alive[list];
        let at = walk.place[node as usize];
        list.swap_remove(at as usize);
        if let Some(moved) = list.get(at as usize) {
            walk.place[*moved as usize] = at;
        }
    }

    /// The next vertex along the labels that was not seen.
    fn next(&mut self, walk: &mut Walk, vertex: Vertex) -> Option<Vertex> {
        let label = self.label_of(vertex);
        let fits = |walk: &Walk, plan: &Self, next: Vertex, cost: Label| {
            plan.label_of(next) == label + STEP + cost && !walk.seen[plan.index(next)]
        };
        self.steps += 1;
        match vertex {
            Vertex::Node(node) => {
                let spare = self.within[node as usize] < self.board.quota.ceil[node as usize];
                if spare && fits(walk, self, Vertex::Pivot, 0) {
                    return Some(Vertex::Pivot);
                }
                while let Some(partition) = self.board.held[node as usize].get(walk.at[node as usize]) {
                    let next = self.drop_of(*partition, node);
                    if fits(walk, self, next, -self.cost(*partition, node)) {
                        return Some(next);
                    }
                    walk.at[node as usize] += 1;
                }
                None
            }
            Vertex::Pivot => {
                let last = self.within.len();
                while walk.at[last] < last {
                    let node = walk.at[last] as u32;
                    let spare = self.within[node as usize] > self.board.quota.floor[node as usize];
                    if spare && fits(walk, self, Vertex::Node(node), 0) {
                        return Some(Vertex::Node(node));
                    }
                    walk.at[last] += 1;
                }
                None
            }
            Vertex::Row(partition) => (0..self.members.len())
                .filter(|list| !self.is_full(partition, *list))
                .find_map(|list| self.next_member(walk, partition, list, label)),
            Vertex::Zone(partition, slot) => {
                if fits(walk, self, Vertex::Row(partition), 0) {
                    return Some(Vertex::Row(partition));
                }
                self.next_member(walk, partition, self.zone_at(partition, slot), label)
            }
        }
    }

    fn next_member(&self, walk: &Walk, partition: u32, list: usize, label: Label) -> Option<Vertex> {
        let row = self.board.row(partition);
        let fits = |node: &&u32| {
            self.labels.nodes[**node as usize] == label + STEP + self.cost(partition, **node)
                && !walk.seen[**node as usize]
                && !row.contains(node)
        };
        let old = self.board.old.row(partition).iter().filter(|node| self.list_of(**node) == list).find(fits);
        let fresh = || walk.alive[walk.list(list, label + STEP + NEW)?].iter().find(fits);
        old.or_else(fresh).map(|node| Vertex::Node(*node))
    }

    /// Hands one copy on along a path.
    fn shift(&mut self, walk: &mut Walk, path: &[Vertex]) {
        // What is being placed: the partition, and the node that dropped it, if one did.
        let mut placing: Option<(u32, Option<u32>)> = None;
        for (at, vertex) in path.iter().enumerate() {
            let before = at.checked_sub(1).map(|before| path[before]);
            match (before, *vertex) {
                (Some(Vertex::Node(node)), Vertex::Row(partition) | Vertex::Zone(partition, _)) => {
                    placing = Some((partition, Some(node)));
                    self.board.held[node as usize].swap_remove(walk.at[node as usize]);
                }
                (None, Vertex::Row(partition)) => placing = Some((partition, None)),
                (Some(Vertex::Row(_) | Vertex::Zone(..)), Vertex::Node(node)) => match placing.take() {
                    Some((partition, Some(from))) => self.board.hand_over(partition, from, node),
                    Some((partition, None)) => self.board.place(partition, node),
                    None => {}
                },
                (Some(Vertex::Node(node)), Vertex::Pivot) => self.within[node as usize] += 1,
                (Some(Vertex::Pivot), Vertex::Node(node)) => self.within[node as usize] -= 1,
                _ => {}
            }
        }
        self.pivot_excess += i64::from(path.last() == Some(&Vertex::Pivot));
        self.pivot_excess -= i64::from(path.first() == Some(&Vertex::Pivot));
    }
}
