//! Roles change hands along chains, cheapest first, until every node leads as much as it should.
//!
//! ```text
//!   a leads too much ──gives p──▶ b ──gives q──▶ c leads too little         cost(p,b) − cost(p,a) + cost(q,c) − …
//!                └── pivot: a node may lead one more of its bounds, another one less ──┘
//! ```
//!
//! A min-cost flow by successive shortest paths with prices: prices (Johnson's potentials) keep every change's
//! reduced cost at or above nought, a search by distance (Dijkstra) finds how far the nearest need is, and then all
//! chains of that length are used at once (Dinic's blocking flow). One search per chain would be a hundred times
//! slower on a map that is far from even.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::assignment::balanced::board::Board;
use crate::assignment::balanced::primaries::FORBIDDEN;

/// Why not every node could be brought within its bounds.
pub(super) struct Stuck {
    /// Nodes that what is too much somewhere could still get to.
    pub(super) reached: Vec<bool>,
    /// The same for each group's pivot.
    pub(super) pivots: Vec<bool>,
    /// Groups in which something is too much.
    pub(super) groups: Vec<bool>,
}

/// The exchange under way. Vertices are the nodes, then a pivot for each group.
pub(super) struct Exchange<'b> {
    board: &'b Board<'b>,
    costs: &'b [i64],
    group: &'b [u32],
    low: &'b [u32],
    high: &'b [u32],
    /// Which member of each row leads.
    pub(super) places: Vec<u8>,
    led: Vec<Vec<u32>>,
    members: Vec<Vec<u32>>,
    /// What each node leads within its bounds; the rest is excess.
    within: Vec<u32>,
    /// Above nought: leads too much. Below: too little.
    excess: Vec<i64>,
    price: Vec<i64>,
}

/// A partition and the place in its row of who takes it over. None for a step from or to a pivot.
type Role = Option<(u32, u8)>;

impl<'b> Exchange<'b> {
    /// An exchange that starts from each row's cheapest leader, so that all reduced costs are at or above nought
    /// with all prices at nought.
    pub(super) fn new(
        board: &'b Board<'b>,
        costs: &'b [i64],
        places: Vec<u8>,
        group: &'b [u32],
        low: &'b [u32],
        high: &'b [u32],
    ) -> Self {
        let nodes = board.load.len();
        let groups = group.iter().max().map_or(0, |last| *last as usize + 1);
        let mut led = vec![Vec::new(); nodes];
        for (partition, place) in (0..).zip(&places) {
            led[board.row(partition)[usize::from(*place)] as usize].push(partition);
        }
        let mut members = vec![Vec::new(); groups];
        (0..).zip(group).for_each(|(node, group)| members[*group as usize].push(node));
        let count = |node: usize| led[node].len() as u32;
        let within: Vec<u32> = (0..nodes).map(|node| count(node).clamp(low[node], high[node])).collect();
        let mut excess: Vec<i64> =
            (0..nodes).map(|node| i64::from(count(node)) - i64::from(within[node])).collect();
        let balance = |members: &Vec<u32>| members.iter().map(|node| -excess[*node as usize]).sum();
        let pivots: Vec<i64> = members.iter().map(balance).collect();
        excess.extend(pivots);
        let price = vec![0; nodes + groups];
        Self { board, costs, group, low, high, places, led, members, within, excess, price }
    }

    /// Exchanges until all is as it should be; if that cannot be, says what stands in the way.
    pub(super) fn run(&mut self) -> Option<Stuck> {
        loop {
            if self.excess.iter().all(|excess| *excess <= 0) {
                return None;
            }
            let distances = self.distances();
            let Some(nearest) = distances.nearest else { return Some(self.stuck(&distances.to)) };
            for (price, distance) in self.price.iter_mut().zip(&distances.to) {
                *price += distance.min(&nearest);
            }
            self.use_chains();
        }
    }

    fn is_pivot(&self, vertex: u32) -> bool {
        vertex as usize >= self.group.len()
    }

    fn pivot_of(&self, node: u32) -> u32 {
        self.group.len() as u32 + self.group[node as usize]
    }

    /// All that can be done from a vertex: each step, where it leads, and its reduced cost.
    fn steps(&self, from: u32, mut each: impl FnMut(u32, i64)) {
        let price = self.price[from as usize];
        let mut step = |to: u32, cost: i64| each(to, cost + price - self.price[to as usize]);
        if self.is_pivot(from) {
            for node in &self.members[from as usize - self.group.len()] {
                if self.within[*node as usize] > self.low[*node as usize] {
                    step(*node, 0);
                }
            }
            return;
        }
        if self.within[from as usize] < self.high[from as usize] {
            step(self.pivot_of(from), 0);
        }
        for partition in &self.led[from as usize] {
            let costs = self.row(*partition);
            let own = costs[usize::from(self.places[*partition as usize])];
            for (node, cost) in self.board.row(*partition).iter().zip(costs) {
                if *cost != FORBIDDEN && *node != from {
                    step(*node, cost - own);
                }
            }
        }
    }

    fn row(&self, partition: u32) -> &'b [i64] {
        &self.costs[partition as usize * self.board.width..][..self.board.width]
    }

    /// How far every vertex is from the nearest excess, and how far the nearest lack is. Vertices further away
    /// than that have some distance at or above it.
    fn distances(&self) -> Distances {
        let mut to = vec![i64::MAX; self.excess.len()];
        let mut heap = BinaryHeap::new();
        for (vertex, excess) in (0..).zip(&self.excess) {
            if *excess > 0 {
                to[vertex as usize] = 0;
                heap.push(Reverse((0, vertex)));
            }
        }
        while let Some(Reverse((distance, vertex))) = heap.pop() {
            if distance > to[vertex as usize] {
                continue;
            }
            if self.excess[vertex as usize] < 0 {
                return Distances { to, nearest: Some(distance) };
            }
            self.steps(vertex, |next, cost| {
                if distance + cost < to[next as usize] {
                    to[next as usize] = distance + cost;
                    heap.push(Reverse((distance + cost, next)));
                }
            });
        }
        Distances { to, nearest: None }
    }

    /// Uses chains that cost nothing at the present prices, until a search from every excess finds no more.
    fn use_chains(&mut self) {
        let vertices = self.excess.len();
        let mut walk =
            Walk { at: vec![(0, 0); vertices], seen: vec![false; vertices], came: vec![None; vertices] };
        for start in 0..vertices as u32 {
            while self.excess[start as usize] > 0 && self.use_chain(&mut walk, start) {}
        }
    }

    /// Depth first from `start` to a lack. Vertices without a way are not asked again in this walk.
    fn use_chain(&mut self, walk: &mut Walk, start: u32) -> bool {
        if walk.seen[start as usize] {
            return false;
        }
        walk.seen[start as usize] = true;
        let mut path = vec![start];
        while let Some(vertex) = path.last().copied() {
            if self.excess[vertex as usize] < 0 {
                self.shift(walk, &path);
                path.iter().for_each(|vertex| walk.seen[*vertex as usize] = false);
                return true;
            }
            match self.next(walk, vertex) {
                Some((next, role)) => {
                    walk.seen[next as usize] = true;
                    walk.came[next as usize] = role;
                    path.push(next);
                }
                None => drop(path.pop()),
            }
        }
        false
    }

    /// The next step from a vertex that costs nothing and leads to a vertex not yet seen.
    fn next(&self, walk: &mut Walk, from: u32) -> Option<(u32, Role)> {
        let price = |vertex: u32| self.price[vertex as usize];
        let (index, place) = &mut walk.at[from as usize];
        if self.is_pivot(from) {
            let members = &self.members[from as usize - self.group.len()];
            while let Some(node) = members.get(*index).copied() {
                let spare = self.within[node as usize] > self.low[node as usize];
                if spare && !walk.seen[node as usize] && price(from) == price(node) {
                    return Some((node, None));
                }
                *index += 1;
            }
            return None;
        }
        let pivot = self.pivot_of(from);
        let spare = self.within[from as usize] < self.high[from as usize];
        if spare && !walk.seen[pivot as usize] && price(from) == price(pivot) {
            return Some((pivot, None));
        }
        while let Some(partition) = self.led[from as usize].get(*index).copied() {
            let (row, costs) = (self.board.row(partition), self.row(partition));
            let own = costs[usize::from(self.places[partition as usize])];
            while let Some(node) = row.get(usize::from(*place)).copied() {
                let cost = costs[usize::from(*place)];
                if cost != FORBIDDEN && !walk.seen[node as usize] && cost - own + price(from) == price(node) {
                    return Some((node, Some((partition, *place))));
                }
                *place += 1;
            }
            (*index, *place) = (*index + 1, 0);
        }
        None
    }

    /// Hands the roles on along a path, by one each.
    fn shift(&mut self, walk: &mut Walk, path: &[u32]) {
        for pair in path.windows(2) {
            let (from, to) = (pair[0], pair[1]);
            match walk.came[to as usize] {
                Some((partition, place)) => {
                    let at = &mut walk.at[from as usize];
                    self.led[from as usize].swap_remove(at.0);
                    at.1 = 0;
                    self.led[to as usize].push(partition);
                    self.places[partition as usize] = place;
                }
                None if self.is_pivot(to) => self.within[from as usize] += 1,
                None => self.within[to as usize] -= 1,
            }
        }
        if let (Some(first), Some(last)) = (path.first(), path.last()) {
            self.excess[*first as usize] -= 1;
            self.excess[*last as usize] += 1;
        }
    }

    fn stuck(&self, distances: &[i64]) -> Stuck {
        let nodes = self.group.len();
        let reached: Vec<bool> = distances.iter().map(|distance| *distance != i64::MAX).collect();
        let mut groups = vec![false; self.members.len()];
        for (vertex, excess) in self.excess.iter().enumerate().filter(|(_, excess)| **excess > 0) {
            let group = if vertex < nodes { self.group[vertex] as usize } else { vertex - nodes };
            groups[group] = *excess > 0;
        }
        Stuck { reached: reached[..nodes].to_vec(), pivots: reached[nodes..].to_vec(), groups }
    }
}

struct Distances {
    to: Vec<i64>,
    nearest: Option<i64>,
}

/// One walk's memory: the next step to try at each vertex, what was seen, and how it was reached.
struct Walk {
    at: Vec<(usize, u8)>,
    seen: Vec<bool>,
    came: Vec<Role>,
}
