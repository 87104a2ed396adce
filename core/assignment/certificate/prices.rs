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
    let mut market = Market::of(field);
    market.sweep_all(shares, old, new);
    let chosen = market.choose_all(old);
    let prices = &market.prices;
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

/// Nodes that crowd each other: those of one zone, or all that are in no zone that can be crowded.
#[derive(Default)]
struct Pool {
    /// The most copies of one partition.
    cap: usize,
    /// Sorted by price, dearest first, when it was last sorted.
    members: Vec<(i64, usize)>,
}

/// Prices, and who is offered at them.
struct Market<'a> {
    field: &'a Field<'a>,
    /// Start at nought and only fall.
    prices: Vec<i64>,
    pools: Vec<Pool>,
    pool_of: Vec<usize>,
    looks: u64,
}

impl<'a> Market<'a> {
    fn of(field: &'a Field<'_>) -> Self {
        let nodes = field.zones.len();
        let mut pools: Vec<Pool> = field.zone_sizes.iter().map(|_| Pool::default()).collect();
        pools.push(Pool { cap: field.copies as usize, ..Pool::default() });
        let last = pools.len() - 1;
        let crowds = |node: usize| field.zone_sizes[field.zones[node]] > field.zone_cap;
        for node in 0..nodes {
            let pool = &mut pools[if crowds(node) { field.zones[node] } else { last }];
            pool.cap = if crowds(node) { field.zone_cap as usize } else { pool.cap };
            pool.members.push((0, node));
        }
        pools.retain(|pool| !pool.members.is_empty());
        let mut pool_of = vec![0; nodes];
        for (at, pool) in pools.iter().enumerate() {
            pool.members.iter().for_each(|(_, node)| pool_of[*node] = at);
        }
        Self { field, prices: vec![0; nodes], pools, pool_of, looks: 0 }
    }

    /// Lets prices fall until they stay.
    fn sweep_all(&mut self, shares: &Shares, old: &[Vec<usize>], new: &[Vec<usize>]) {
        let nodes = self.prices.len();
        let mut loads = vec![0_u32; nodes];
        new.iter().flatten().for_each(|node| loads[*node] += 1);
        for _ in 0..SWEEPS_MAX {
            let before = self.prices.clone();
            for (old, row) in old.iter().zip(new) {
                self.pass_on(old, row);
            }
            // A node that holds its rounded-up share could hold one less, if another holds one more.
            let above = |node: &usize| loads[*node] < shares.ceil(*node);
            if let Some(least) = (0..nodes).filter(above).map(|node| self.prices[node]).min() {
                for node in (0..nodes).filter(|node| loads[*node] > shares.floor[*node]) {
                    self.prices[node] = self.prices[node].min(least);
                }
            }
            if self.prices == before || self.looks > LOOKS_MAX {
                break;
            }
            (0..self.pools.len()).for_each(|pool| self.sort(pool));
        }
        (0..self.pools.len()).for_each(|pool| self.sort(pool));
    }

    fn sort(&mut self, pool: usize) {
        let members = &mut self.pools[pool].members;
        members.iter_mut().for_each(|(price, node)| *price = self.prices[*node]);
        members.sort_unstable_by_key(|(price, node)| (Reverse(*price), *node));
    }

    /// Lets one row pass a copy on: it drops one of its members and takes another node instead.
    fn pass_on(&mut self, old: &[usize], row: &[usize]) {
        let dropped = |node: &usize| self.prices[*node] - cost(old, *node);
        let Some(any) = row.iter().map(dropped).min() else { return };
        // Into a pool that is full only a member of that pool makes room.
        let offers: Vec<i64> = (self.pools.iter().enumerate())
            .map(|(at, pool)| {
                let inside = || row.iter().filter(|node| self.pool_of[**node] == at);
                if inside().count() < pool.cap { any } else { inside().map(dropped).min().unwrap_or(any) }
            })
            .collect();
        for node in old {
            let offer = offers[self.pool_of[*node]];
            if offer < self.prices[*node] && !row.contains(node) {
                self.prices[*node] = offer;
            }
        }
        for (at, offer) in offers.into_iter().enumerate() {
            let mut fell = false;
            for (stale, node) in &self.pools[at].members {
                if *stale <= offer + 1 {
                    break;
                }
                self.looks += 1;
                if self.prices[*node] > offer + 1 && !row.contains(node) && !old.contains(node) {
                    self.prices[*node] = offer + 1;
                    fell = true;
                }
            }
            if fell {
                self.sort(at);
            }
        }
    }

    /// The least that all rows can pay, each choosing freely: distinct nodes, no zone crowded, nothing else.
    fn choose_all(&self, old: &[Vec<usize>]) -> i64 {
        let (mut best, mut total) = (Vec::new(), 0);
        for old in old {
            best.clear();
            for (at, pool) in self.pools.iter().enumerate() {
                let start = best.len();
                let fresh = pool.members.iter().filter(|(_, node)| !old.contains(node));
                best.extend(fresh.take(pool.cap).map(|(_, node)| 1 - self.prices[*node]));
                let kept = old.iter().filter(|node| self.pool_of[**node] == at);
                best.extend(kept.map(|node| -self.prices[*node]));
                best[start..].sort_unstable();
                best.truncate(start + pool.cap);
            }
            best.sort_unstable();
            total += best.iter().take(self.field.copies as usize).sum::<i64>();
        }
        total
    }
}
