//! The exact optimum of small problems, found without any of the solver's code: shares by bisection in floats,
//! placement and primaries by a textbook min-cost flow over the explicit graph.

use std::collections::BTreeMap;

use tumen_core::NodeName;
use tumen_core::assignment::{Candidate, Layout, Problem};

/// What the best map of a problem looks like.
pub(crate) struct Oracle {
    /// Live nodes, sorted by name.
    pub(crate) nodes: Vec<Candidate>,
    /// Per node a zone number; nodes without a zone have one of their own.
    pub(crate) zones: Vec<usize>,
    pub(crate) zone_cap: u32,
    /// Bounds on what each node holds.
    pub(crate) low: Vec<u32>,
    pub(crate) high: Vec<u32>,
    /// The fewest copies that any map within the bounds makes.
    pub(crate) moved: u64,
}

impl Oracle {
    pub(crate) fn of(problem: &Problem<'_>) -> Self {
        let mut nodes: Vec<Candidate> = problem.nodes.iter().filter(|n| n.weight > 0).cloned().collect();
        nodes.sort_by(|a, b| a.name.cmp(&b.name));
        let copies = problem.replication.min(nodes.len() as u32);
        let zones = zones(&nodes);
        let count = zones.iter().max().map_or(0, |last| last + 1);
        let size = |zone: usize| zones.iter().filter(|z| **z == zone).count() as u32;
        let fits = |cap: u32| (0..count).map(|zone| size(zone).min(cap)).sum::<u32>() >= copies;
        let zone_cap = (1..).find(|cap| fits(*cap)).unwrap();
        let caps = vec![problem.partitions; nodes.len()];
        let weights: Vec<u32> = nodes.iter().map(|node| node.weight).collect();
        let total = problem.partitions * copies;
        let (low, high) = shares(&weights, &caps, &zones, zone_cap * problem.partitions, total);
        let moved = fewest(problem, &nodes, copies, &zones, zone_cap, &low, &high);
        Self { nodes, zones, zone_cap, low, high, moved }
    }

    /// How many partitions each node should lead at least and at most: by weight, and never more than it holds.
    pub(crate) fn lead_shares(&self, layout: &Layout, partitions: u32) -> (Vec<u32>, Vec<u32>) {
        let weights: Vec<u32> = self.nodes.iter().map(|node| node.weight).collect();
        let apart: Vec<usize> = (0..weights.len()).collect();
        shares(&weights, &layout.copies_per_node(), &apart, u32::MAX, partitions)
    }

    pub(crate) fn number(&self, name: &NodeName) -> usize {
        self.nodes.iter().position(|node| node.name == *name).unwrap()
    }
}

fn zones(nodes: &[Candidate]) -> Vec<usize> {
    let mut numbers = BTreeMap::new();
    (0..nodes.len())
        .map(|at| {
            let key =
                nodes[at].zone.as_ref().map_or_else(|| format!("own {at}"), |zone| format!("zone {zone}"));
            let next = numbers.len();
            *numbers.entry(key).or_insert(next)
        })
        .collect()
}

/// Water-filling: the level at which all is shared out, found by bisection, and inside each full zone again.
fn shares(weights: &[u32], caps: &[u32], zones: &[usize], zone_cap: u32, total: u32) -> (Vec<u32>, Vec<u32>) {
    let count = zones.iter().max().map_or(0, |last| last + 1);
    let share = |node: usize, level: f64| (level * f64::from(weights[node])).min(f64::from(caps[node]));
    let zone_sum = |zone: usize, level: f64| -> f64 {
        (0..weights.len()).filter(|n| zones[*n] == zone).map(|n| share(n, level)).sum()
    };
    let bisect = |sum: &dyn Fn(f64) -> f64, wanted: f64| {
        let (mut low, mut high) = (0.0, 1e9);
        for _ in 0..200 {
            let middle = (low + high) / 2.0;
            if sum(middle) < wanted { low = middle } else { high = middle }
        }
        high
    };
    let whole = |level: f64| (0..count).map(|z| zone_sum(z, level).min(f64::from(zone_cap))).sum();
    let level = bisect(&whole, f64::from(total));
    let (mut low, mut high) = (Vec::new(), Vec::new());
    for (node, zone) in zones.iter().copied().enumerate() {
        let own = if zone_sum(zone, level) > f64::from(zone_cap) + 1e-9 {
            bisect(&|level| zone_sum(zone, level), f64::from(zone_cap))
        } else {
            level
        };
        let exact = share(node, own);
        low.push((exact + 1e-5).floor() as u32);
        high.push((exact - 1e-5).ceil() as u32);
    }
    (low, high)
}

/// The fewest new copies of any legal map whose nodes are within their bounds.
fn fewest(
    problem: &Problem<'_>,
    nodes: &[Candidate],
    copies: u32,
    zones: &[usize],
    zone_cap: u32,
    low: &[u32],
    high: &[u32],
) -> u64 {
    if nodes.is_empty() {
        return 0;
    }
    let zone_count = zones.iter().max().unwrap() + 1;
    let mut flow = Flow::default();
    let (source, sink) = (flow.vertex(), flow.vertex());
    let node_vertices: Vec<usize> = nodes.iter().map(|_| flow.vertex()).collect();
    for (at, vertex) in node_vertices.iter().enumerate() {
        flow.bounded(*vertex, sink, low[at], high[at]);
    }
    for partition in 0..problem.partitions {
        let old: Vec<&NodeName> =
            problem.previous.map_or(vec![], |previous| previous.names(partition).collect());
        let row = flow.vertex();
        flow.arc(source, row, copies, 0);
        for zone in 0..zone_count {
            let spread = flow.vertex();
            flow.arc(row, spread, zone_cap, 0);
            for at in (0..nodes.len()).filter(|at| zones[*at] == zone) {
                flow.arc(spread, node_vertices[at], 1, i64::from(!old.contains(&&nodes[at].name)));
            }
        }
    }
    let total = problem.partitions * copies;
    let (sent, cost) = flow.cheapest(source, sink);
    assert_eq!(sent, total, "the shares must be realisable");
    let promised: i64 = low.iter().map(|low| i64::from(*low)).sum();
    u64::try_from(cost + PROMISE * promised).expect("all lower bounds must be reached")
}

/// The cheapest way to lead: how many cold primaries, then how many changes. None if the bounds cannot be kept.
/// `cost` is asked for each partition and member; none means that the member may not lead.
pub(crate) fn cheapest_primaries(
    layout: &Layout,
    low: &[u32],
    high: &[u32],
    cost: impl Fn(u32, &NodeName) -> Option<i64>,
) -> Option<i64> {
    let mut flow = Flow::default();
    let (source, sink) = (flow.vertex(), flow.vertex());
    let node_vertices: Vec<usize> = layout.nodes().iter().map(|_| flow.vertex()).collect();
    for (at, vertex) in node_vertices.iter().enumerate() {
        flow.bounded(*vertex, sink, low[at], high[at]);
    }
    for partition in 0..layout.len() as u32 {
        let row = flow.vertex();
        flow.arc(source, row, 1, 0);
        for name in layout.names(partition) {
            if let Some(cost) = cost(partition, name) {
                flow.arc(row, node_vertices[layout.index_of(name).unwrap() as usize], 1, cost);
            }
        }
    }
    let (sent, cost) = flow.cheapest(source, sink);
    let promised: i64 = low.iter().map(|low| i64::from(*low)).sum();
    let cost = cost + PROMISE * promised;
    (sent as usize == layout.len() && cost < PROMISE / 2).then_some(cost)
}

/// What using an arc's promised part saves: more than everything else could cost.
const PROMISE: i64 = 1_000_000_000;

/// A min-cost flow by successive shortest paths (Bellman and Ford), one unit and more at a time.
#[derive(Default)]
struct Flow {
    out: Vec<Vec<usize>>,
    /// To, room, cost; an arc's reverse is beside it.
    arcs: Vec<(usize, u32, i64)>,
}

impl Flow {
    fn vertex(&mut self) -> usize {
        self.out.push(Vec::new());
        self.out.len() - 1
    }

    fn arc(&mut self, from: usize, to: usize, room: u32, cost: i64) {
        for (from, to, room, cost) in [(from, to, room, cost), (to, from, 0, -cost)] {
            self.out[from].push(self.arcs.len());
            self.arcs.push((to, room, cost));
        }
    }

    /// An arc that should carry at least `low`, at most `high`.
    fn bounded(&mut self, from: usize, to: usize, low: u32, high: u32) {
        self.arc(from, to, low, -PROMISE);
        self.arc(from, to, high - low, 0);
    }

    fn cheapest(&mut self, source: usize, sink: usize) -> (u32, i64) {
        let (mut sent, mut total) = (0, 0);
        loop {
            let mut cost = vec![i64::MAX; self.out.len()];
            let mut via = vec![usize::MAX; self.out.len()];
            let mut queue = std::collections::VecDeque::from([source]);
            let mut queued = vec![false; self.out.len()];
            cost[source] = 0;
            while let Some(from) = queue.pop_front() {
                queued[from] = false;
                for arc in &self.out[from] {
                    let (to, room, price) = self.arcs[*arc];
                    if room > 0 && cost[from] + price < cost[to] {
                        (cost[to], via[to]) = (cost[from] + price, *arc);
                        if !std::mem::replace(&mut queued[to], true) {
                            queue.push_back(to);
                        }
                    }
                }
            }
            if cost[sink] == i64::MAX {
                return (sent, total);
            }
            let (mut at, mut room) = (sink, u32::MAX);
            while at != source {
                room = room.min(self.arcs[via[at]].1);
                at = self.arcs[via[at] ^ 1].0;
            }
            at = sink;
            while at != source {
                self.arcs[via[at]].1 -= room;
                self.arcs[via[at] ^ 1].1 += room;
                at = self.arcs[via[at] ^ 1].0;
            }
            sent += room;
            total += i64::from(room) * cost[sink];
        }
    }
}
