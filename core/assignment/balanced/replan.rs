//! Replan: the exact minimum from the kept rows on, where direct moves went too far astray.
//!
//! What was kept costs nothing, so no circle of changes can make it cheaper: as a flow it is as cheap as can be, only
//! not whole yet. Handing copies on along cheapest chains keeps it so until it is whole (successive shortest paths).
//!
//! ```text
//!   rows with holes, nodes above their share                      nodes below their share
//!        └──▶ partition ──takes (+1 if new)──▶ node ──drops (−1 if new)──▶ partition ──▶ … ──▶ node
//! ```
//!
//! Each phase labels everything with its distance from the nearest excess (Bellman and Ford), then uses chains along
//! the labels until a search finds no more (Dinic). A partition may take nearly every node, so those arcs are never
//! written down: a zone whose highest label cannot fall is skipped, and a node that leads nowhere is struck from its
//! list for the rest of the phase.

mod chains;

use std::collections::VecDeque;

use crate::assignment::balanced::board::Board;
use crate::assignment::roster::FREE;

/// Steps after which the search stops and direct moves do the rest: some seconds. Counted, not timed, so that all
/// leaders agree. The hardest of 65,536 × 3 copies on 1,000 nodes that was found takes a seventh of them.
const STEPS_MAX: u64 = 1 << 27;

/// A distance: what a chain costs, then how long it is. Without its length chains would wander.
type Label = i64;

/// What a new copy adds to a distance.
const NEW: Label = 1 << 32;

/// What a step adds to it.
const STEP: Label = 1;

/// Not reached.
const FAR: Label = Label::MAX;

const NONE: u32 = u32::MAX;

/// Brings a board of kept rows within every node's bounds at the least cost. Says whether it got there.
pub(super) fn replan(board: &mut Board<'_>) -> bool {
    let mut plan = Plan::of(board);
    while plan.is_open() {
        plan.label();
        if plan.steps >= STEPS_MAX || !plan.use_chains() {
            return false;
        }
    }
    true
}

/// A vertex of the flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Vertex {
    Node(u32),
    /// Between nodes that are rounded up and nodes that are rounded down.
    Pivot,
    /// A partition with a copy to place.
    Row(u32),
    /// The same, in one zone: the slot of [`Labels::zone_keys`] that names it.
    Zone(u32, u32),
}

/// Distances from the nearest excess.
struct Labels {
    nodes: Vec<Label>,
    pivot: Label,
    rows: Vec<Label>,
    /// Per row and slot the label of a zone in which the row has copies; the slots' zones are in `zone_keys`.
    zones: Vec<Label>,
    zone_keys: Vec<u32>,
    /// Per zone (the last: none) no node's label is above this.
    heights: Vec<Label>,
}

struct Plan<'p, 'a> {
    board: &'p mut Board<'a>,
    /// Copies that each node holds within its bounds; the rest is excess.
    within: Vec<u32>,
    pivot_excess: i64,
    /// The nodes of each numbered zone; the last list is of those in none.
    members: Vec<Vec<u32>>,
    labels: Labels,
    steps: u64,
}

impl<'p, 'a> Plan<'p, 'a> {
    fn of(board: &'p mut Board<'a>) -> Self {
        let zones = board.roster.zone_count as usize;
        let mut members = vec![Vec::new(); zones + 1];
        for (node, zone) in (0..).zip(&board.roster.zones) {
            members[if *zone == FREE { zones } else { *zone as usize }].push(node);
        }
        let within: Vec<u32> = (0..board.load.len())
            .map(|node| board.load[node].clamp(board.quota.floor[node], board.quota.ceil[node]))
            .collect();
        let total = i64::from(board.partitions) * board.width as i64;
        let pivot_excess = within.iter().map(|within| i64::from(*within)).sum::<i64>() - total;
        let slots = if zones > 0 { board.partitions as usize * board.width } else { 0 };
        let labels = Labels {
            nodes: vec![FAR; board.load.len()],
            pivot: FAR,
            rows: vec![FAR; board.partitions as usize],
            zones: vec![FAR; slots],
            zone_keys: vec![NONE; slots],
            heights: vec![FAR; zones + 1],
        };
        Self { board, within, pivot_excess, members, labels, steps: 0 }
    }

    /// Whether a row has holes, or a node's load is out of its bounds.
    fn is_open(&self) -> bool {
        let off = |node: usize| self.within[node] != self.board.load[node];
        self.pivot_excess != 0
            || (0..self.within.len()).any(off)
            || (0..self.board.partitions).any(|partition| self.board.holes(partition) > 0)
    }

    fn excess(&self, vertex: Vertex) -> i64 {
        match vertex {
            Vertex::Node(node) => {
                i64::from(self.board.load[node as usize]) - i64::from(self.within[node as usize])
            }
            Vertex::Pivot => self.pivot_excess,
            Vertex::Row(partition) => self.board.holes(partition) as i64,
            Vertex::Zone(..) => 0,
        }
    }

    /// Everything that has too much.
    fn sources(&self) -> Vec<Vertex> {
        let rows = (0..self.board.partitions).map(Vertex::Row);
        let nodes = (0..self.board.roster.len()).map(Vertex::Node);
        rows.chain(nodes).chain([Vertex::Pivot]).filter(|vertex| self.excess(*vertex) > 0).collect()
    }

    fn list_of(&self, node: u32) -> usize {
        let zone = self.board.roster.zones[node as usize];
        if zone == FREE { self.members.len() - 1 } else { zone as usize }
    }

    fn is_numbered(&self, list: usize) -> bool {
        list + 1 < self.members.len()
    }

    fn is_full(&self, partition: u32, list: usize) -> bool {
        self.is_numbered(list) && self.board.in_zone(partition, list as u32) >= self.board.roster.zone_cap
    }

    /// What it costs that a partition has a copy on this node.
    fn cost(&self, partition: u32, node: u32) -> Label {
        NEW * Label::from(!self.board.old.row(partition).contains(&node))
    }

    /// Where a copy that `node` drops goes to.
    fn drop_of(&self, partition: u32, node: u32) -> Vertex {
        let zone = self.board.roster.zones[node as usize];
        if zone == FREE {
            return Vertex::Row(partition);
        }
        let slots = &self.labels.zone_keys[partition as usize * self.board.width..][..self.board.width];
        match slots.iter().position(|key| *key == zone) {
            Some(slot) => Vertex::Zone(partition, slot as u32),
            // The zone was empty when labels were given: nothing but the row leads into it.
            None => Vertex::Row(partition),
        }
    }

    fn zone_at(&self, partition: u32, slot: u32) -> usize {
        self.labels.zone_keys[partition as usize * self.board.width + slot as usize] as usize
    }

    fn label_of(&self, vertex: Vertex) -> Label {
        match vertex {
            Vertex::Node(node) => self.labels.nodes[node as usize],
            Vertex::Pivot => self.labels.pivot,
            Vertex::Row(partition) => self.labels.rows[partition as usize],
            Vertex::Zone(partition, slot) => {
                self.labels.zones[partition as usize * self.board.width + slot as usize]
            }
        }
    }
}

/// Vertices whose label fell and was not passed on yet, each at most once.
struct Queue {
    next: VecDeque<Vertex>,
    queued: Vec<bool>,
}

impl Plan<'_, '_> {
    /// A number for each vertex.
    fn index(&self, vertex: Vertex) -> usize {
        let nodes = self.within.len();
        let rows = self.board.partitions as usize;
        match vertex {
            Vertex::Node(node) => node as usize,
            Vertex::Pivot => nodes,
            Vertex::Row(partition) => nodes + 1 + partition as usize,
            Vertex::Zone(partition, slot) => {
                nodes + 1 + rows + partition as usize * self.board.width + slot as usize
            }
        }
    }

    fn vertices(&self) -> usize {
        self.within.len() + 1 + self.labels.rows.len() + self.labels.zones.len()
    }

    /// Gives every vertex its distance from the nearest excess.
    fn label(&mut self) {
        self.clear_labels();
        let mut queue = Queue { next: VecDeque::new(), queued: vec![false; self.vertices()] };
        for source in self.sources() {
            self.relax(&mut queue, source, 0);
        }
        while self.steps < STEPS_MAX
            && let Some(vertex) = queue.next.pop_front()
        {
            queue.queued[self.index(vertex)] = false;
            self.pass_on(&mut queue, vertex);
        }
    }

    fn clear_labels(&mut self) {
        let labels = &mut self.labels;
        labels.pivot = FAR;
        for list in [&mut labels.nodes, &mut labels.rows, &mut labels.zones, &mut labels.heights] {
            list.fill(FAR);
        }
        labels.zone_keys.fill(NONE);
        if self.board.roster.zone_count == 0 {
            return;
        }
        for partition in 0..self.board.partitions {
            let slots = &mut labels.zone_keys[partition as usize * self.board.width..][..self.board.width];
            let mut used = 0;
            for node in self.board.row(partition) {
                let zone = self.board.roster.zones[*node as usize];
                if zone != FREE && !slots[..used].contains(&zone) {
                    slots[used] = zone;
                    used += 1;
                }
            }
        }
    }

    fn relax(&mut self, queue: &mut Queue, vertex: Vertex, label: Label) {
        if label >= self.label_of(vertex) {
            return;
        }
        match vertex {
            Vertex::Node(node) => self.labels.nodes[node as usize] = label,
            Vertex::Pivot => self.labels.pivot = label,
            Vertex::Row(partition) => self.labels.rows[partition as usize] = label,
            Vertex::Zone(partition, slot) => {
                self.labels.zones[partition as usize * self.board.width + slot as usize] = label;
            }
        }
        let index = self.index(vertex);
        if !std::mem::replace(&mut queue.queued[index], true) {
            queue.next.push_back(vertex);
        }
    }

    fn pass_on(&mut self, queue: &mut Queue, vertex: Vertex) {
        let label = self.label_of(vertex);
        self.steps += 1;
        match vertex {
            Vertex::Node(node) => {
                if self.within[node as usize] < self.board.quota.ceil[node as usize] {
                    self.relax(queue, Vertex::Pivot, label + STEP);
                }
                self.steps += self.board.held[node as usize].len() as u64;
                for at in 0..self.board.held[node as usize].len() {
                    let partition = self.board.held[node as usize][at];
                    self.relax(
                        queue,
                        self.drop_of(partition, node),
                        label + STEP - self.cost(partition, node),
                    );
                }
            }
            Vertex::Pivot => {
                self.steps += self.within.len() as u64;
                for node in 0..self.board.roster.len() {
                    if self.within[node as usize] > self.board.quota.floor[node as usize] {
                        self.relax(queue, Vertex::Node(node), label + STEP);
                    }
                }
            }
            Vertex::Row(partition) => {
                for list in 0..self.members.len() {
                    if !self.is_full(partition, list) {
                        self.label_members(queue, partition, list, label);
                    }
                }
                // A zone that is not full is as near as its row.
                for slot in 0..if self.labels.zones.is_empty() { 0 } else { self.board.width } {
                    let zone = self.zone_at(partition, slot as u32);
                    if zone != NONE as usize && !self.is_full(partition, zone) {
                        self.relax(queue, Vertex::Zone(partition, slot as u32), label + STEP);
                    }
                }
            }
            Vertex::Zone(partition, slot) => {
                self.relax(queue, Vertex::Row(partition), label + STEP);
                self.label_members(queue, partition, self.zone_at(partition, slot), label);
            }
        }
    }

    /// Passes a row's label on to the nodes of one zone that it may take.
    fn label_members(&mut self, queue: &mut Queue, partition: u32, list: usize, label: Label) {
        for at in 0..self.board.old.row(partition).len() {
            let node = self.board.old.row(partition)[at];
            if self.list_of(node) == list && !self.board.row(partition).contains(&node) {
                self.relax(queue, Vertex::Node(node), label + STEP);
            }
        }
        if label + STEP + NEW >= self.labels.heights[list] {
            return;
        }
        self.steps += self.members[list].len() as u64;
        let mut height = Label::MIN;
        for at in 0..self.members[list].len() {
            let node = self.members[list][at];
            if self.labels.nodes[node as usize] > label + STEP && !self.board.row(partition).contains(&node) {
                self.relax(queue, Vertex::Node(node), label + STEP + self.cost(partition, node));
            }
            height = height.max(self.labels.nodes[node as usize]);
        }
        self.labels.heights[list] = height;
    }
}
