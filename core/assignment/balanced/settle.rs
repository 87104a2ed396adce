//! Settle: what was moved in vain is moved back, until no map as even moves fewer copies.
//!
//! A map is a flow, and a flow is as cheap as can be if and only if no circle of changes makes it cheaper
//! (Klein, 1967). A copy costs one if it is new, nothing if it was there before:
//!
//! ```text
//!   node ──drops its copy of p (−cost)──▶ p in that zone ──▶ p ──takes another node (+cost)──▶ node
//!     └────────────── a node rounded down becomes one rounded up, another the reverse ──────────┘
//! ```
//!
//! The circles are found by labels that only fall (Bellman and Ford), over the whole graph of partitions, zones
//! and nodes, so the result is exact with zones too. Labels start at nought, so only what is reached from a new
//! copy is ever looked at.

use crate::assignment::balanced::board::Board;
use crate::assignment::roster::FREE;

/// Steps, per copy, after which the search gives up: the map is far from the minimum, and planning anew is quicker.
const STEPS_PER_COPY: u64 = 12;

/// Cancels circles until there is none left, or nothing is left to win. Says whether that point was reached.
pub(super) fn settle(board: &mut Board<'_>) -> bool {
    let bound = bound(board);
    let mut left =
        STEPS_PER_COPY * (u64::from(board.partitions) * board.width as u64 + u64::from(board.roster.len()));
    while moved(board) > bound {
        let mut search = Search::new(board, left);
        let circles = search.run();
        if search.steps >= left {
            return false;
        }
        left -= search.steps;
        if circles.is_empty() {
            return true;
        }
        for change in circles {
            board.replace(change.partition, change.from, change.to);
        }
    }
    true
}

/// New copies in the map so far.
fn moved(board: &Board<'_>) -> u64 {
    (0..board.partitions)
        .map(|p| board.row(p).iter().filter(|node| !board.old.row(p).contains(node)).count() as u64)
        .sum()
}

/// What must move at least: each node's share, rounded in favour of what it holds, less what it held.
fn bound(board: &Board<'_>) -> u64 {
    let mut held = vec![0; board.load.len()];
    for partition in 0..board.partitions {
        board.old.row(partition).iter().for_each(|node| held[*node as usize] += 1);
    }
    let share = board.quota.round(&held);
    share.iter().zip(&held).map(|(share, held)| u64::from(share.saturating_sub(*held))).sum()
}

/// One copy's way to another node.
struct Change {
    partition: u32,
    from: u32,
    to: u32,
}

const NONE: u32 = u32::MAX;

/// One search for circles. Vertices are numbered: nodes, the pivot between rounded-up and rounded-down nodes,
/// partitions, then each row's places (one stands for the zone that is full in this row).
struct Search<'b, 'a> {
    board: &'b Board<'a>,
    label: Vec<i32>,
    parent: Vec<u32>,
    queued: Vec<bool>,
    queue: Vec<u32>,
    /// How many nodes have each label, by its distance from nought; the first that is not empty is the highest.
    heights: Vec<u32>,
    highest: usize,
    steps: u64,
    steps_max: u64,
}

impl<'b, 'a> Search<'b, 'a> {
    fn new(board: &'b Board<'a>, steps_max: u64) -> Self {
        let places = if board.roster.zone_count > 0 { board.partitions as usize * board.width } else { 0 };
        let vertices = board.load.len() + 1 + board.partitions as usize + places;
        Self {
            board,
            label: vec![0; vertices],
            parent: vec![NONE; vertices],
            queued: vec![false; vertices],
            queue: Vec::new(),
            heights: vec![board.roster.len()],
            highest: 0,
            steps: 0,
            steps_max,
        }
    }

    fn run(&mut self) -> Vec<Change> {
        for partition in 0..self.board.partitions {
            let old = self.board.old.row(partition);
            for node in self.board.row(partition).iter().filter(|node| !old.contains(node)) {
                let vertex = self.vertex_of_drop(partition, *node);
                self.relax(vertex, -1, *node);
            }
        }
        while !self.queue.is_empty() && self.steps < self.steps_max {
            for vertex in std::mem::take(&mut self.queue) {
                self.queued[vertex as usize] = false;
                self.spread(vertex);
            }
            let circles = self.circles();
            if !circles.is_empty() {
                return circles;
            }
        }
        Vec::new()
    }

    const fn pivot(&self) -> u32 {
        self.board.roster.nodes.len() as u32
    }

    fn partition_vertex(&self, partition: u32) -> u32 {
        self.pivot() + 1 + partition
    }

    /// The partition that a vertex beyond the pivot stands for, and the place if it stands for a full zone.
    fn partition_at(&self, vertex: u32) -> (u32, Option<u32>) {
        let at = vertex - self.pivot() - 1;
        match at.checked_sub(self.board.partitions) {
            None => (at, None),
            Some(place) => (place / self.board.width as u32, Some(place % self.board.width as u32)),
        }
    }

    /// Where a dropped copy leaves from: the full zone that it was in, or else the partition.
    fn vertex_of_drop(&self, partition: u32, node: u32) -> u32 {
        let zones = &self.board.roster.zones;
        let zone = zones[node as usize];
        if zone == FREE || self.board.in_zone(partition, zone) < self.board.roster.zone_cap {
            return self.partition_vertex(partition);
        }
        let first = self.board.row(partition).iter().position(|other| zones[*other as usize] == zone);
        let place = partition * self.board.width as u32 + first.unwrap_or(0) as u32;
        self.pivot() + 1 + self.board.partitions + place
    }

    fn spread(&mut self, vertex: u32) {
        let label = self.label[vertex as usize];
        let board = self.board;
        match vertex.cmp(&self.pivot()) {
            std::cmp::Ordering::Less => {
                self.steps += board.held[vertex as usize].len() as u64;
                if board.load[vertex as usize] < board.quota.ceil[vertex as usize] {
                    self.relax(self.pivot(), label, vertex);
                }
                for partition in &board.held[vertex as usize] {
                    let cost = i32::from(!board.old.row(*partition).contains(&vertex));
                    self.relax(self.vertex_of_drop(*partition, vertex), label - cost, vertex);
                }
            }
            std::cmp::Ordering::Equal => {
                self.steps += u64::from(board.roster.len());
                for node in 0..board.roster.len() {
                    if board.load[node as usize] > board.quota.floor[node as usize] {
                        self.relax(node, label, vertex);
                    }
                }
            }
            std::cmp::Ordering::Greater => {
                let (partition, place) = self.partition_at(vertex);
                if place.is_some() {
                    self.relax(self.partition_vertex(partition), label, vertex);
                }
                let zone =
                    place.map(|place| board.roster.zones[board.row(partition)[place as usize] as usize]);
                for node in board.old.row(partition) {
                    self.take(partition, zone, *node, label, vertex);
                }
                if label + 1 < self.highest() {
                    self.steps += u64::from(board.roster.len());
                    for node in 0..board.roster.len() {
                        self.take(partition, zone, node, label, vertex);
                    }
                }
            }
        }
    }

    /// A partition with a copy to place takes `node`, from the full zone that the copy was in if there is one.
    fn take(&mut self, partition: u32, zone: Option<u32>, node: u32, label: i32, vertex: u32) {
        let board = self.board;
        let cost = i32::from(!board.old.row(partition).contains(&node));
        if label + cost >= self.label[node as usize] {
            return;
        }
        let legal = match zone {
            Some(zone) => board.roster.zones[node as usize] == zone && !board.row(partition).contains(&node),
            None => board.is_legal(partition, node),
        };
        if legal {
            self.relax(node, label + cost, vertex);
        }
    }

    fn relax(&mut self, vertex: u32, label: i32, parent: u32) {
        let at = vertex as usize;
        if label >= self.label[at] {
            return;
        }
        if vertex < self.pivot() {
            self.heights[(-self.label[at]) as usize] -= 1;
            let height = (-label) as usize;
            if self.heights.len() <= height {
                self.heights.resize(height + 1, 0);
            }
            self.heights[height] += 1;
        }
        self.label[at] = label;
        self.parent[at] = parent;
        if !std::mem::replace(&mut self.queued[at], true) {
            self.queue.push(vertex);
        }
    }

    /// The highest label of any node.
    fn highest(&mut self) -> i32 {
        while self.heights.get(self.highest) == Some(&0) {
            self.highest += 1;
        }
        -(self.highest as i32)
    }

    /// All circles among the parents: no vertex is in two of them, so all may be cancelled at once.
    fn circles(&self) -> Vec<Change> {
        let mut walked = vec![NONE; self.label.len()];
        let mut changes = Vec::new();
        for start in 0..self.pivot() {
            let mut vertex = start;
            while vertex != NONE && walked[vertex as usize] == NONE {
                walked[vertex as usize] = start;
                vertex = self.parent[vertex as usize];
            }
            if vertex != NONE && walked[vertex as usize] == start {
                self.cancel(vertex, &mut changes);
            }
        }
        changes
    }

    /// The changes that one circle stands for.
    fn cancel(&self, start: u32, changes: &mut Vec<Change>) {
        let mut vertex = start;
        let (mut drops, mut takes) = (Vec::new(), Vec::new());
        loop {
            let parent = self.parent[vertex as usize];
            if parent > self.pivot() && vertex < self.pivot() {
                takes.push((self.partition_at(parent).0, vertex));
            } else if parent < self.pivot() && vertex > self.pivot() {
                drops.push((self.partition_at(vertex).0, parent));
            }
            vertex = parent;
            if vertex == start {
                break;
            }
        }
        // A partition drops as many copies as it takes. Which goes with which makes no difference to the row.
        drops.sort_unstable();
        takes.sort_unstable();
        changes.extend(drops.iter().zip(&takes).map(|(drop, take)| Change {
            partition: drop.0,
            from: drop.1,
            to: take.1,
        }));
    }
}
