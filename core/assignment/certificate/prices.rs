//! A proof that no map as even moves fewer copies: prices at which every row would choose no better.
//!
//! Let a copy on node n cost `y(n)` less for the row that takes it, and let n pay that back for every copy of its
//! share. For a map that gives every node its share the two cancel. So whatever the prices are, the sum of what each
//! row would choose *by itself* and of what the shares pay back is never above the cost of any such map
//! (Lagrange; weak duality). Good prices make it equal. They are read off the map that is to be proved: the least
//! cost at which one copy more on a node could be passed on from anywhere, found by sweeps until nothing changes.
//! Bad prices only make a weak bound, never a false one.

use std::cmp::Reverse;

use crate::assignment::certificate::Field;
use crate::assignment::certificate::shares::Shares;

/// Sweeps after which the prices are taken as they are. A map that is not minimal has none that fit.
const SWEEPS_MAX: usize = 64;

/// Single looks at a node from a partition, over all sweeps, after which the prices are taken as they are.
const LOOKS_MAX: u64 = 1 << 28;

/// The best bound that the prices of `new` give, for maps that start from `old`.
pub(super) fn bound(field: &Field<'_>, shares: &Shares, old: &[Vec<usize>], new: &[Vec<usize>]) -> u64 {
    let prices = sweep(field, shares, old, new);
    let chosen: i64 = Choice::new(field, &prices).all(old);
    let mut paid: i64 =
        (prices.iter().zip(&shares.floor)).map(|(price, floor)| price * i64::from(*floor)).sum();
    // Who is rounded up is for the best map to say; the cheapest are assumed.
    let mut rest: Vec<i64> = (0..prices.len())
        .filter(|node| shares.ceil(*node) > shares.floor[*node])
        .map(|node| prices[node])
        .collect();
    rest.sort_unstable();
    paid += rest.iter().take(usize::try_from(shares.rounded_up()).unwrap_or(usize::MAX)).sum::<i64>();
    u64::try_from(chosen + paid).unwrap_or(0)
}

/// A new copy costs one.
fn cost(old: &[usize], node: usize) -> i64 {
    i64::from(!old.contains(&node))
}

/// Prices start at nought and only fall.
fn sweep(field: &Field<'_>, shares: &Shares, old: &[Vec<usize>], new: &[Vec<usize>]) -> Vec<i64> {
    let nodes = field.zones.len();
    let mut prices = vec![0_i64; nodes];
    let mut loads = vec![0_u32; nodes];
    new.iter().flatten().for_each(|node| loads[*node] += 1);
    let mut looks = 0;
    for _ in 0..SWEEPS_MAX {
        let before = prices.clone();
        let mut highest = prices.iter().copied().max().unwrap_or(0);
        for (old, row) in old.iter().zip(new) {
            looks += pass_on(field, &mut prices, old, row, &mut highest);
        }
        // A node that holds its rounded-up share could hold one less, if another holds one more.
        let above =
            (0..nodes).filter(|node| loads[*node] < shares.ceil(*node)).map(|node| prices[node]).min();
        if let Some(above) = above {
            for node in (0..nodes).filter(|node| loads[*node] > shares.floor[*node]) {
                prices[node] = prices[node].min(above);
            }
        }
        if prices == before || looks > LOOKS_MAX {
            break;
        }
    }
    prices
}

/// Lets one row pass copies on: it drops one of its members and takes another node instead. Says how many nodes
/// were looked at.
fn pass_on(field: &Field<'_>, prices: &mut [i64], old: &[usize], row: &[usize], highest: &mut i64) -> u64 {
    let in_zone = |zone: usize| row.iter().filter(|node| field.zones[**node] == zone).count();
    let is_full = |zone: usize| in_zone(zone) >= field.zone_cap as usize;
    let dropped = |node: &usize| prices[*node] - cost(old, *node);
    let Some(any) = row.iter().map(dropped).min() else { return 0 };
    // Into a zone that is full only a member of that zone makes room.
    let from = |zone: usize, dropped: &dyn Fn(&usize) -> i64| {
        if is_full(zone) {
            row.iter().filter(|node| field.zones[**node] == zone).map(dropped).min().unwrap_or(any)
        } else {
            any
        }
    };
    let better = |node: usize| {
        let price = from(field.zones[node], &dropped) + cost(old, node);
        (price < prices[node] && !row.contains(&node)).then_some((node, price))
    };
    let mut falls: Vec<(usize, i64)> = old.iter().filter_map(|node| better(*node)).collect();
    let mut looks = 0;
    if any + 1 < *highest {
        falls.extend((0..prices.len()).filter_map(better));
        looks = prices.len() as u64;
    }
    falls.into_iter().for_each(|(node, price)| prices[node] = price);
    if looks > 0 {
        *highest = prices.iter().copied().max().unwrap_or(0);
    }
    looks
}

/// What rows choose by themselves at given prices.
struct Choice<'a> {
    field: &'a Field<'a>,
    prices: &'a [i64],
    /// The nodes of each zone, those that take most off the cost first. Zones that cannot be crowded are one pool.
    pools: Vec<(usize, Vec<usize>)>,
    /// Which pool each node is in.
    of_node: Vec<usize>,
}

impl<'a> Choice<'a> {
    fn new(field: &'a Field<'_>, prices: &'a [i64]) -> Self {
        let mut pools: Vec<(usize, Vec<usize>)> =
            vec![(field.zone_cap as usize, Vec::new()); field.zone_sizes.len()];
        pools.push((field.copies as usize, Vec::new()));
        let last = pools.len() - 1;
        for (node, zone) in field.zones.iter().enumerate() {
            let crowds = field.zone_sizes[*zone] > field.zone_cap;
            pools[if crowds { *zone } else { last }].1.push(node);
        }
        pools.retain(|(_, pool)| !pool.is_empty());
        let mut of_node = vec![0; prices.len()];
        for (at, (_, pool)) in pools.iter().enumerate() {
            pool.iter().for_each(|node| of_node[*node] = at);
        }
        pools.iter_mut().for_each(|(_, pool)| pool.sort_by_key(|node| (Reverse(prices[*node]), *node)));
        Self { field, prices, pools, of_node }
    }

    /// The least that all rows can pay, each choosing freely: distinct nodes, no zone crowded, nothing else.
    fn all(&self, old: &[Vec<usize>]) -> i64 {
        let (mut best, mut total) = (Vec::new(), 0);
        for old in old {
            best.clear();
            for (at, (cap, pool)) in self.pools.iter().enumerate() {
                let start = best.len();
                let fresh = pool.iter().filter(|node| !old.contains(node)).take(*cap);
                best.extend(fresh.map(|node| 1 - self.prices[*node]));
                let kept = old.iter().filter(|node| self.of_node[**node] == at);
                best.extend(kept.map(|node| -self.prices[*node]));
                best[start..].sort_unstable();
                best.truncate(start + cap);
            }
            best.sort_unstable();
            total += best.iter().take(self.field.copies as usize).sum::<i64>();
        }
        total
    }
}
