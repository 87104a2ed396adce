//! When a node that nobody takes in stops trying: every seed it was told of refuses it, for a reason that does not pass.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::cluster::greeting::Refusal;
use crate::time::Moment;

/// How long every seed has refused before the node gives up. A name that is taken may belong to this node's former run,
/// which others believe in until its lease is over.
pub const REFUSED_FOR: Duration = Duration::from_secs(10);

/// What became of the dials to a node's seeds, until one of them took it in.
#[derive(Clone, Debug, Default)]
pub struct Refusals {
    seeds: Vec<String>,
    refused: BTreeMap<String, (Moment, Refusal)>,
}

impl Refusals {
    /// Of a node that was told of these seeds. One without seeds never gives up.
    pub fn new(seeds: Vec<String>) -> Self {
        Self { seeds, refused: BTreeMap::new() }
    }

    /// Whoever is at this address refused the node, or was refused by it.
    pub fn handle_refused(&mut self, now: Moment, address: &str, refusal: &Refusal) {
        if !passes(refusal) && self.seeds.iter().any(|seed| seed == address) {
            let since = self.refused.get(address).map_or(now, |(since, _)| *since);
            self.refused.insert(address.to_owned(), (since, refusal.clone()));
        } else {
            self.handle_not_refused(address);
        }
    }

    /// A dial to this address ended otherwise.
    pub fn handle_not_refused(&mut self, address: &str) {
        self.refused.remove(address);
    }

    /// Somebody took the node in: from now on it waits for others as long as it must.
    pub fn handle_taken_in(&mut self) {
        *self = Self::default();
    }

    /// Why there is no hope, if there is none.
    pub fn hopeless(&self, now: Moment) -> Option<String> {
        let long =
            |seed: &String| self.refused.get(seed).is_some_and(|(since, _)| now.since(*since) >= REFUSED_FOR);
        if self.seeds.is_empty() || !self.seeds.iter().all(long) {
            return None;
        }
        let reasons = self.refused.iter().map(|(address, (_, refusal))| format!("{address}: {refusal}"));
        Some(format!("no seed takes it in: {}", reasons.collect::<Vec<_>>().join("; ")))
    }
}

/// Whether a refusal may be gone the next time, though nobody changes a setting.
const fn passes(refusal: &Refusal) -> bool {
    match refusal {
        Refusal::Protocol { .. }
        | Refusal::Cookie
        | Refusal::Cluster { .. }
        | Refusal::Spec(_)
        | Refusal::NameTaken(_) => false,
        Refusal::Itself | Refusal::TwoClusters { .. } | Refusal::Stopping | Refusal::Busy => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(1);

    fn refusals() -> Refusals {
        Refusals::new(vec!["a:1".into(), "b:1".into()])
    }

    fn at(seconds: u64) -> Moment {
        Moment::ZERO + SOON * u32::try_from(seconds).unwrap()
    }

    #[test]
    fn only_when_all_seeds_refuse_for_long() {
        let mut refusals = refusals();
        refusals.handle_refused(at(1), "a:1", &Refusal::Cookie);
        refusals.handle_refused(at(11), "a:1", &Refusal::Cookie);
        refusals.handle_refused(at(5), "c:1", &Refusal::Cookie);
        assert_eq!(refusals.hopeless(at(30)), None, "the other seed may be on its way");
        refusals.handle_refused(at(30), "b:1", &Refusal::Cookie);
        assert_eq!(refusals.hopeless(at(39)), None);
        let why = refusals.hopeless(at(40)).unwrap();
        assert!(why.contains("a:1: wrong cookie") && why.contains("b:1: wrong cookie"), "{why}");
    }

    #[test]
    fn what_passes_is_waited_for() {
        for end in [
            |r: &mut Refusals| r.handle_not_refused("a:1"),
            |r: &mut Refusals| {
                r.handle_refused(at(8), "a:1", &Refusal::Stopping);
            },
        ] {
            let mut refusals = refusals();
            for seed in ["a:1", "b:1"] {
                refusals.handle_refused(at(1), seed, &Refusal::Cookie);
            }
            end(&mut refusals);
            refusals.handle_refused(at(9), "a:1", &Refusal::Cookie);
            assert_eq!(refusals.hopeless(at(18)), None, "it began anew");
            assert!(refusals.hopeless(at(19)).is_some());
        }
    }

    #[test]
    fn who_was_taken_in_once_or_has_no_seeds_never_gives_up() {
        let mut refusals = refusals();
        for seed in ["a:1", "b:1"] {
            refusals.handle_refused(at(1), seed, &Refusal::Cookie);
        }
        refusals.handle_taken_in();
        refusals.handle_refused(at(2), "a:1", &Refusal::Cookie);
        assert_eq!(refusals.hopeless(at(100)), None);
        assert_eq!(Refusals::default().hopeless(at(100)), None);
    }
}
