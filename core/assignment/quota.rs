//! How much each node should hold: water-filling by weight, under a cap per node and a cap per zone.
//!
//! ```text
//!   level ──────────────┐ a node's share is level × weight, unless
//!   ▓▓▓ ▓▓▓ ░░░ ▓▓▓     │   · it reaches the node's own cap (it cannot hold a partition twice), or
//!   ▓▓▓ ▓▓▓ ▓▓▓ ▓▓▓     │   · its zone reaches the zone's cap: then the zone has a lower level of its own
//! ```
//!
//! Shares are exact fractions; a map holds whole copies, so each node gets its share rounded down or up.
//!
//! **Rounding needs no search.** The sets of nodes that may be rounded up together (at most as many per zone as
//! the zone's cap leaves room for, and no more than are missing in all) are the independent sets of a laminar
//! matroid, so taking the most wanted node that still fits, one by one, gives the most wanted set, and always a
//! full one: the exact shares are themselves a fractional solution. Only shares that were rounded too early can
//! leave a remainder.

use crate::assignment::roster::FREE;

/// One node's claim.
#[derive(Clone, Copy, Debug)]
pub(in crate::assignment) struct Claim {
    /// Above zero, or the node gets nothing.
    pub(in crate::assignment) weight: u32,
    /// The most that it can hold.
    pub(in crate::assignment) cap: u32,
    /// Its zone's number, or [`FREE`].
    pub(in crate::assignment) zone: u32,
}

/// Each node's exact share.
#[derive(Clone, Debug)]
pub(in crate::assignment) struct Quota {
    /// The share, rounded down.
    pub(in crate::assignment) floor: Vec<u32>,
    /// The share, rounded up.
    pub(in crate::assignment) ceil: Vec<u32>,
    /// What rounding down leaves out, as numerator and denominator.
    rest: Vec<(u64, u64)>,
    total: u64,
    zone_caps: Vec<u64>,
    zones: Vec<u32>,
}

impl Quota {
    /// Shares `total` out. What exceeds the sum of all caps is not shared out.
    pub(in crate::assignment) fn fill(claims: &[Claim], zone_caps: &[u64], total: u64) -> Self {
        let mut fill = Fill {
            claims,
            quota: Self {
                floor: vec![0; claims.len()],
                ceil: vec![0; claims.len()],
                rest: vec![(0, 1); claims.len()],
                total,
                zone_caps: zone_caps.to_vec(),
                zones: claims.iter().map(|claim| claim.zone).collect(),
            },
        };
        let active = (0..claims.len()).filter(|at| claims[*at].weight > 0).collect();
        fill.all(active, total, zone_caps.to_vec());
        fill.quota
    }

    /// Whole numbers with the same total: every share rounded down or up, up first where a node already `held`
    /// that much (so that nothing has to move), then by the larger rest, then by the order of names.
    pub(in crate::assignment) fn round(&self, held: &[u32]) -> Vec<u32> {
        let mut whole = self.floor.clone();
        let mut missing = self.total.saturating_sub(whole.iter().map(|share| u64::from(*share)).sum());
        let mut room = self.zone_caps.clone();
        for (at, zone) in self.zones.iter().enumerate().filter(|(_, zone)| **zone != FREE) {
            room[*zone as usize] = room[*zone as usize].saturating_sub(u64::from(whole[at]));
        }
        let mut order: Vec<usize> = (0..whole.len()).filter(|at| self.rest[*at].0 > 0).collect();
        order.sort_by(|a, b| {
            let holds = |at: usize| held[at] > self.floor[at];
            let (rest_a, rest_b) = (self.rest[*a], self.rest[*b]);
            let cross = |a: (u64, u64), b: (u64, u64)| u128::from(a.0) * u128::from(b.1);
            holds(*b)
                .cmp(&holds(*a))
                .then_with(|| cross(rest_b, rest_a).cmp(&cross(rest_a, rest_b)))
                .then_with(|| a.cmp(b))
        });
        for at in order {
            if missing == 0 {
                break;
            }
            let zone = self.zones[at];
            if zone != FREE {
                if room[zone as usize] == 0 {
                    continue;
                }
                room[zone as usize] -= 1;
            }
            whole[at] += 1;
            missing -= 1;
        }
        whole
    }
}

/// The filling under way.
struct Fill<'a> {
    claims: &'a [Claim],
    quota: Quota,
}

impl Fill<'_> {
    /// Raises one level for all of `active`, and lets zones and nodes drop out as they reach their caps. The
    /// level only rises as they do, so whoever is over a cap now is over it at the end. Zones are asked first:
    /// a zone that overflows fills its own nodes at its own level, which may spare them their own caps.
    fn all(&mut self, mut active: Vec<usize>, mut total: u64, mut zone_left: Vec<u64>) {
        loop {
            let level = self.level(&active, total);
            let mut sums = vec![0_u128; zone_left.len()];
            for at in &active {
                if let Some(sum) = sums.get_mut(self.claims[*at].zone as usize) {
                    *sum += self.capped(*at, level);
                }
            }
            let full = |zone: usize| sums[zone] > u128::from(zone_left[zone]) * u128::from(level.1);
            let full: Vec<bool> = (0..zone_left.len()).map(full).collect();
            if full.contains(&true) {
                for zone in (0..full.len()).filter(|zone| full[*zone]) {
                    let inside = |at: &usize| self.claims[*at].zone as usize == zone;
                    let members: Vec<usize> = active.iter().copied().filter(inside).collect();
                    active.retain(|at| !inside(at));
                    total -= zone_left[zone];
                    self.alone(members, zone_left[zone]);
                }
                continue;
            }
            let over: Vec<usize> = active.iter().copied().filter(|at| self.is_over(*at, level)).collect();
            if over.is_empty() {
                return self.settle(&active, level);
            }
            for at in &over {
                let cap = self.claims[*at].cap;
                self.fix(*at, cap);
                total = total.saturating_sub(u64::from(cap));
                if let Some(left) = zone_left.get_mut(self.claims[*at].zone as usize) {
                    *left = left.saturating_sub(u64::from(cap));
                }
            }
            active.retain(|at| !over.contains(at));
        }
    }

    /// The same for nodes that share a cap of their own.
    fn alone(&mut self, active: Vec<usize>, total: u64) {
        self.all(active, total, Vec::new());
    }

    /// Copies per unit of weight, as a fraction.
    fn level(&self, active: &[usize], total: u64) -> (u64, u64) {
        let weight: u64 = active.iter().map(|at| u64::from(self.claims[*at].weight)).sum();
        (total, weight.max(1))
    }

    /// A node's share at a level, times the level's denominator.
    fn share(&self, at: usize, level: (u64, u64)) -> u128 {
        u128::from(level.0) * u128::from(self.claims[at].weight)
    }

    fn capped(&self, at: usize, level: (u64, u64)) -> u128 {
        self.share(at, level).min(u128::from(self.claims[at].cap) * u128::from(level.1))
    }

    fn is_over(&self, at: usize, level: (u64, u64)) -> bool {
        self.share(at, level) > u128::from(self.claims[at].cap) * u128::from(level.1)
    }

    fn fix(&mut self, at: usize, share: u32) {
        self.quota.floor[at] = share;
        self.quota.ceil[at] = share;
    }

    fn settle(&mut self, active: &[usize], level: (u64, u64)) {
        for at in active {
            let share = self.share(*at, level);
            let denominator = u128::from(level.1);
            // No share here exceeds its node's cap, so both fit.
            let floor = u32::try_from(share / denominator).unwrap_or(u32::MAX);
            let rest = u64::try_from(share % denominator).unwrap_or(0);
            self.quota.floor[*at] = floor;
            self.quota.ceil[*at] = floor + u32::from(rest > 0);
            self.quota.rest[*at] = (rest, level.1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(weight: u32, cap: u32, zone: u32) -> Claim {
        Claim { weight, cap, zone }
    }

    #[test]
    fn equal_weights_share_to_within_one() {
        let quota = Quota::fill(&[claim(100, 16, FREE); 3], &[], 16);
        assert_eq!((quota.floor.clone(), quota.ceil.clone()), (vec![5; 3], vec![6; 3]));
        assert_eq!(quota.round(&[0, 0, 0]), [6, 5, 5]);
        assert_eq!(quota.round(&[5, 5, 6]), [5, 5, 6]);
    }

    #[test]
    fn nobody_gets_more_than_it_can_hold() {
        let quota =
            Quota::fill(&[claim(1_000_000, 10, FREE), claim(1, 10, FREE), claim(3, 10, FREE)], &[], 18);
        assert_eq!(quota.round(&[0; 3]), [10, 2, 6]);
    }

    #[test]
    fn a_full_zone_has_a_level_of_its_own() {
        // Two zones of one copy each: the small zone's single node must hold everything.
        let claims = [claim(1, 10, 0), claim(1, 10, 0), claim(1, 10, 0), claim(1, 10, 1)];
        let quota = Quota::fill(&claims, &[10, 10], 20);
        assert_eq!(quota.round(&[0; 4]), [4, 3, 3, 10]);
        // A heavy node in a full zone is spared its own cap by the zone's.
        let quota = Quota::fill(&[claim(8, 10, 0), claim(2, 10, 0), claim(1, 10, FREE)], &[10], 20);
        assert_eq!(quota.round(&[0; 3]), [8, 2, 10]);
    }

    #[test]
    fn rounding_never_passes_a_zones_cap() {
        let claims = [claim(1, 7, 0), claim(1, 7, 0), claim(1, 7, 0), claim(1, 7, 1), claim(1, 7, 1)];
        let quota = Quota::fill(&claims, &[7, 7], 11);
        // 2.2 each; the first zone may hold seven, so only one of its three is rounded up.
        assert_eq!(quota.round(&[0; 5]).iter().sum::<u32>(), 11);
        assert_eq!(quota.round(&[3, 3, 3, 0, 0]), [3, 2, 2, 2, 2]);
    }
}
