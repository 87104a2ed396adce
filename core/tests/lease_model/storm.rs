//! Storms: long random walks through a world of three nodes and two partitions, each with its seed.

use std::mem::discriminant;
use std::ops::Range;

use stateright::Model;

use crate::mutant::Mutant;
use crate::world::{Action, Budget, State, World};

/// More messages than this are under way only for a moment: one of them is lost.
const NET_LEN_MAX: usize = 8;

/// What came of some walks.
#[derive(Debug, Default)]
pub struct Storm {
    pub steps: u64,
    /// The first walk that broke a property: its seed, which property, and the way there.
    pub broken: Option<(u64, &'static str, Vec<Action>)>,
}

/// Everything at once.
pub fn world(mutant: Mutant) -> World {
    let all = u8::MAX / 2;
    World {
        nodes: 3,
        partitions: 2,
        askers: &[0, 1, 2],
        budget: Budget {
            ticks: all,
            drifts: 1,
            asks: all,
            grants: all,
            acks: all,
            elections: 60,
            proposals: all,
            releases: 30,
            crashes: 20,
            stops: 5,
            reads: all,
        },
        slow_acks: true,
        slow_applies: true,
        heals: true,
        mutant,
    }
}

/// Walks once per seed, and stops at the first property that breaks. Healing is tried where a walk ends.
pub fn run(world: &World, seeds: Range<u64>, steps_max: u32) -> Storm {
    let mut storm = Storm::default();
    for seed in seeds {
        let (steps, broken) = walk(world, seed, steps_max);
        storm.steps += steps.len() as u64;
        if let Some(property) = broken {
            storm.broken = Some((seed, property, steps));
            break;
        }
    }
    storm
}

/// How often each kind of step is taken: leases mostly run, and trouble comes now and then. Each walk has its
/// mood, in which some kinds are rare and others frequent: what needs a rare thing often is found that way
/// (swarm testing, after Groce and others).
fn weight(action: &Action, mood: &[usize; 8]) -> usize {
    let (usual, factor) = match action {
        Action::Deliver(..) => (60, 4),
        Action::Ask(_) => (30, mood[0]),
        Action::Act(..) => (30, mood[1]),
        Action::Commit | Action::Apply(_) | Action::FirstEntry { .. } => (30, mood[2]),
        Action::Ack(_) | Action::AckSeen(_) => (20, mood[3]),
        Action::Propose { .. } | Action::Proof(..) => (20, mood[4]),
        Action::Tick(_) => (15, mood[5]),
        Action::Read(..) | Action::Answer(_) => (10, 4),
        Action::Release(..) | Action::Unrelease(..) => (4, mood[6]),
        Action::Elect(_) | Action::Crash(_) => (3, mood[7]),
        Action::Stop(_) => (1, 4),
    };
    usual * factor
}

fn walk(world: &World, seed: u64, steps_max: u32) -> (Vec<Action>, Option<&'static str>) {
    let mut chance = seed;
    let mut draw = move |of: usize| {
        // SplitMix64, as Vigna gives it.
        chance = chance.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = chance;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % of as u64).unwrap()
    };
    let mood = std::array::from_fn(|_| [1, 4, 16][draw(3)]);
    let mut state: State = world.init_states().remove(0);
    let (mut steps, mut actions) = (Vec::new(), Vec::new());
    let properties = world.properties();
    for _ in 0..steps_max {
        actions.clear();
        world.actions(&state, &mut actions);
        // First a kind of step, then one of that kind: there are many more ways to deliver than to tick.
        let mut kinds: Vec<_> = actions.iter().map(|a| (discriminant(a), weight(a, &mood))).collect();
        kinds.dedup_by_key(|(kind, _)| *kind);
        let mut drawn = draw(kinds.iter().map(|(_, weight)| weight).sum());
        let kind =
            kinds.iter().find(|(_, weight)| drawn.checked_sub(*weight).map(|rest| drawn = rest).is_none());
        let kind = kind.expect("what is drawn is less than all weights").0;
        actions.retain(|action| discriminant(action) == kind);
        let action = actions.swap_remove(draw(actions.len()));
        let Some(next) = world.next_state(&state, action.clone()) else { continue };
        state = next;
        if let Action::Tick(_) = action
            && state.nodes[0].clock.is_multiple_of(8)
        {
            state.left.drifts = 1;
        }
        while state.net.len() > NET_LEN_MAX {
            let lost = state.net.iter().nth(draw(state.net.len())).cloned();
            state.net.remove(&lost.expect("there is one"));
        }
        steps.push(action);
        let safe = |p: &&stateright::Property<World>| p.name != crate::world::HEALS;
        let broken = properties.iter().filter(safe).find(|p| !(p.condition)(world, &state));
        if let Some(property) = broken {
            return (steps, Some(property.name));
        }
    }
    let broken = properties.iter().find(|p| !(p.condition)(world, &state));
    (steps, broken.map(|p| p.name))
}
