//! Exact shares, pool by pool: the certificate's own way, which is not the solver's.
//!
//! A pool is filled by asking its nodes in the order in which they would overflow. A zone is a pool that overflows
//! at a level of its own; zones drop out in the order of those levels, until the next one would not overflow.

/// Copies per unit of weight, as numerator and denominator; a denominator of nought is without end.
type Level = (u64, u64);

/// What each node should hold: `floor`, and one more for some of those that have a rest.
pub(super) struct Shares {
    pub(super) floor: Vec<u32>,
    has_rest: Vec<bool>,
    zones: Vec<usize>,
    zone_cap: u64,
    total: u64,
}

impl Shares {
    /// Shares by weight under a cap per node and one per zone.
    pub(super) fn of_zones(weights: &[u32], cap: u32, zones: &[usize], zone_cap: u64, total: u64) -> Self {
        let caps = vec![cap; weights.len()];
        let count = zones.iter().max().map_or(0, |last| last + 1);
        let mut pools = vec![Vec::new(); count];
        (0..).zip(zones).for_each(|(node, zone)| pools[*zone].push(node));
        let mut full: Vec<(Level, usize)> = (pools.iter().enumerate())
            .filter(|(_, pool)| pool.len() as u64 * u64::from(cap) > zone_cap)
            .map(|(zone, pool)| (level(weights, &caps, pool.clone(), zone_cap), zone))
            .collect();
        full.sort_by(|a, b| compare(a.0, b.0).then(a.1.cmp(&b.1)));
        let mut levels = vec![(0, 1); count];
        let (mut rest, mut left): (Vec<usize>, u64) = ((0..weights.len()).collect(), total);
        let mut common = level(weights, &caps, rest.clone(), left);
        for (own, zone) in full {
            if compare(own, common).is_ge() {
                break;
            }
            levels[zone] = own;
            rest.retain(|node| zones[*node] != zone);
            left = left.saturating_sub(zone_cap);
            common = level(weights, &caps, rest.clone(), left);
        }
        rest.iter().for_each(|node| levels[zones[*node]] = common);
        let own: Vec<Level> = zones.iter().map(|zone| levels[*zone]).collect();
        Self { zones: zones.to_vec(), zone_cap, ..Self::at(weights, &caps, &own, total) }
    }

    /// Shares by weight under a cap for each node.
    pub(super) fn of_pool(weights: &[u32], caps: &[u32], total: u64) -> Self {
        let common = level(weights, caps, (0..weights.len()).collect(), total);
        Self::at(weights, caps, &vec![common; weights.len()], total)
    }

    fn at(weights: &[u32], caps: &[u32], levels: &[Level], total: u64) -> Self {
        let (mut floor, mut has_rest) = (Vec::new(), Vec::new());
        for ((weight, cap), level) in weights.iter().zip(caps).zip(levels) {
            let share = u128::from(level.0) * u128::from(*weight);
            let denominator = u128::from(level.1);
            if share >= u128::from(*cap) * denominator {
                floor.push(*cap);
                has_rest.push(false);
            } else {
                floor.push(u32::try_from(share / denominator).unwrap_or(*cap));
                has_rest.push(!share.is_multiple_of(denominator));
            }
        }
        // Without zones every node is in a zone of its own that is never full.
        let zones = (0..floor.len()).collect();
        Self { floor, has_rest, zones, zone_cap: u64::MAX, total }
    }

    pub(super) fn ceil(&self, node: usize) -> u32 {
        self.floor[node] + u32::from(self.has_rest[node])
    }

    /// How many nodes hold one more than their floor.
    pub(super) fn rounded_up(&self) -> u64 {
        self.total.saturating_sub(self.floor.iter().map(|floor| u64::from(*floor)).sum())
    }

    /// Whatever holds `held` must give and take to hold these shares: total − Σ min(a, floor) − those that may keep
    /// one more because they have it. As many of those as zones and the total leave room for can be chosen.
    pub(super) fn moves_at_least(&self, held: &[u32]) -> u64 {
        let count = self.zones.iter().max().map_or(0, |last| last + 1);
        let (mut room, mut keen) = (vec![self.zone_cap; count], vec![0; count]);
        let mut kept = 0;
        for (node, zone) in self.zones.iter().enumerate() {
            room[*zone] = room[*zone].saturating_sub(u64::from(self.floor[node]));
            keen[*zone] += u64::from(self.has_rest[node] && held[node] > self.floor[node]);
            kept += u64::from(held[node].min(self.floor[node]));
        }
        let more: u64 = room.iter().zip(&keen).map(|(room, keen)| *room.min(keen)).sum();
        self.total.saturating_sub(kept + more.min(self.rounded_up()))
    }
}

/// The level at which a pool's nodes hold `total` together.
fn level(weights: &[u32], caps: &[u32], mut pool: Vec<usize>, total: u64) -> Level {
    pool.retain(|node| weights[*node] > 0);
    // Those that overflow at the lowest level first: cap ÷ weight.
    pool.sort_by(|a, b| {
        let full = |x: usize, y: usize| u64::from(caps[x]) * u64::from(weights[y]);
        full(*a, *b).cmp(&full(*b, *a)).then(a.cmp(b))
    });
    let (mut left, mut weight) = (total, pool.iter().map(|node| u64::from(weights[*node])).sum::<u64>());
    for node in pool {
        let (own, cap) = (u128::from(weights[node]), u128::from(caps[node]));
        if u128::from(left) * own < cap * u128::from(weight) {
            break;
        }
        left = left.saturating_sub(u64::from(caps[node]));
        weight -= u64::from(weights[node]);
    }
    if weight == 0 { (1, 0) } else { (left, weight) }
}

fn compare(a: Level, b: Level) -> std::cmp::Ordering {
    (u128::from(a.0) * u128::from(b.1)).cmp(&(u128::from(b.0) * u128::from(a.1)))
}
