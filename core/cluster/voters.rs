//! Which nodes vote: one below three members, three from three, five from five; never an even number.
//!
//! ```text
//! members   1  2  3  4  5  6 ··        A B C  ──B's life ends──▶  A B' C   the same node with a new life, or
//! voters    1  1  3  3  5  5 ··                                   A C D    a live member that did not vote yet
//! ```
//!
//! A voter is a *life*: bytes that remember what they voted. A node that lost them is a new voter, which replaces
//! its old life in one joint change and is never counted for it. A voter that died keeps its seat until
//! somebody living can take it: a seat that is merely struck off would let fewer nodes than a majority decide.

use std::collections::{BTreeMap, BTreeSet};

use crate::cluster::member::{Member, Status, Zone};
use crate::ids::{Life, NodeName};

/// The voters: each one's life, and the node that has it.
pub type Voters = BTreeMap<Life, NodeName>;

/// How one committed member stands, as the leader sees it when it plans.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The member's name.
    pub name: NodeName,
    /// How the cluster holds it.
    pub status: Status,
    /// Its failure domain, if it was told one.
    pub zone: Option<Zone>,
    /// The life of its Raft store as it last told; `None` if it has not told yet.
    pub life: Option<Life>,
    /// Whether it is connected right now. Only such a member is newly picked; one that votes
    /// already keeps its seat until the cluster holds it for lost, so a hiccup changes nothing.
    pub reachable: bool,
}

impl Standing {
    /// How `member` stands.
    pub fn new(member: &Member, life: Option<Life>, reachable: bool) -> Self {
        let (name, zone) = (member.name().clone(), member.info.zone.clone());
        Self { name, status: member.status, zone, life, reachable }
    }
}

/// How many voters `members` members have.
pub const fn wanted(members: usize) -> usize {
    match members {
        0..=2 => 1,
        3..=4 => 3,
        _ => 5,
    }
}

/// The voters that should be, or `None` if they are.
///
/// `leader` is the life that plans; it keeps its seat before all others, since a change without it would cost
/// an election. The result is never empty and never even.
pub fn plan(members: &[Standing], present: &Voters, leader: Life) -> Option<Voters> {
    let candidates = rank(members, present, leader);
    let living = candidates.iter().filter(|candidate| candidate.claim <= Claim::Ready).count();
    // Seats are added for the living only, and taken away only when the members became fewer.
    let seats = odd(living).max(odd(present.len())).min(wanted(members.len()));
    let next = pick(&candidates, seats);
    (!next.is_empty() && next != *present).then_some(next)
}

/// The nodes that vote as they run now. One that lost its memory keeps its name, and not its vote: it does so
/// again once its new life has a seat.
pub fn voting(members: &[Standing], present: &Voters) -> BTreeSet<NodeName> {
    let votes = |(life, name): &(&Life, &NodeName)| {
        let told = members.iter().find(|member| member.name == **name).and_then(|member| member.life);
        // A member that has not told its life yet may well still have the one that votes.
        told.is_none_or(|told| told == **life)
    };
    present.iter().filter(votes).map(|(_, name)| name.clone()).collect()
}

/// Whether a voter that stops in good order had better wait for a change of voters: without it the others could not decide
/// now, and could once somebody living who does not vote yet has the seat that it gives up.
///
/// `joint`: a change is under way, so a majority of those who voted before it is needed too. A node that the cluster takes
/// for one that stays is not voted out, and waits for nothing.
pub fn waits_for_successors(
    members: &[Standing],
    present: &Voters,
    leaving: &NodeName,
    life: Life,
    joint: bool,
) -> bool {
    let goes = members.iter().any(|member| member.name == *leaving && member.status != Status::Up);
    if !goes || !(joint || present.contains_key(&life)) {
        return false;
    }
    let living =
        |member: &&Standing| member.name != *leaving && member.status == Status::Up && member.reachable;
    let votes = |member: &Standing| present.values().any(|name| *name == member.name);
    let (voting, others): (Vec<_>, Vec<_>) = members.iter().filter(living).partition(|member| votes(member));
    joint || (2 * voting.len() <= present.len() && !others.is_empty())
}

/// The largest odd number up to `count`, and zero for none.
const fn odd(count: usize) -> usize {
    if count.is_multiple_of(2) { count.saturating_sub(1) } else { count }
}

/// How much a seat is deserved, the best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Claim {
    /// It leads, and is to go on voting.
    Leads,
    /// It votes, and is to go on voting.
    Votes,
    /// It could vote.
    Ready,
    /// It votes, but is leaving; until another can vote, it still does.
    Leaving,
    /// It votes, and is expected back.
    Away,
    /// It votes, and vanished.
    Lost,
    /// It votes, and is no member any more, or its node lives on with another life.
    Gone,
}

#[derive(Debug)]
struct Candidate<'a> {
    claim: Claim,
    life: Life,
    name: &'a NodeName,
    zone: Option<&'a Zone>,
}

/// Everybody who may have a seat, with the claim to it.
fn rank<'a>(members: &'a [Standing], present: &'a Voters, leader: Life) -> Vec<Candidate<'a>> {
    let mut candidates = Vec::new();
    let mut seen = BTreeSet::new();
    for member in members {
        let Some(life) = member.life else { continue };
        let claim = match (present.contains_key(&life), member.status) {
            (true, Status::Up) if life == leader => Claim::Leads,
            (true, Status::Up) => Claim::Votes,
            (true, Status::Leaving) => Claim::Leaving,
            (true, Status::Away) => Claim::Away,
            (true, Status::Lost) => Claim::Lost,
            (false, Status::Up) if member.reachable => Claim::Ready,
            (false, _) => continue,
        };
        if seen.insert(life) {
            candidates.push(Candidate { claim, life, name: &member.name, zone: member.zone.as_ref() });
        }
    }
    for (life, name) in present.iter().filter(|(life, _)| !seen.contains(life)) {
        let member = members.iter().find(|member| member.name == *name);
        // A member that has not told its life yet may well still have the one that votes.
        let claim = match member.filter(|member| member.life.is_none()).map(|member| member.status) {
            Some(Status::Up) if *life == leader => Claim::Leads,
            Some(Status::Up) => Claim::Votes,
            Some(Status::Leaving) => Claim::Leaving,
            Some(Status::Away) => Claim::Away,
            Some(Status::Lost) => Claim::Lost,
            None => Claim::Gone,
        };
        let zone = member.and_then(|member| member.zone.as_ref());
        candidates.push(Candidate { claim, life: *life, name, zone });
    }
    candidates
}

/// Takes the best claim each time, among equals the zone with the fewest seats so far, then the first name.
fn pick(candidates: &[Candidate<'_>], seats: usize) -> Voters {
    let mut voters = Voters::new();
    let mut zones: BTreeMap<&Zone, usize> = BTreeMap::new();
    while voters.len() < seats {
        let crowd = |zone: Option<&Zone>| zone.and_then(|zone| zones.get(zone)).copied().unwrap_or(0);
        let best = candidates
            .iter()
            .filter(|candidate| !voters.contains_key(&candidate.life))
            .min_by_key(|c| (c.claim, crowd(c.zone), c.name, c.life));
        let Some(best) = best else { break };
        voters.insert(best.life, best.name.clone());
        if let Some(zone) = best.zone {
            *zones.entry(zone).or_default() += 1;
        }
    }
    voters
}

#[cfg(test)]
mod tests;
