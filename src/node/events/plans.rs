//! What a plan changed: who came, who went, the plan itself, and what moved.

use std::collections::BTreeMap;

use tokio::time::Instant;
use tumen_core::cluster::member::{Member, Status};
use tumen_core::cluster::snapshot::{Assignment, Snapshot};
use tumen_core::{NodeBoot, NodeName, PartitionId};

use crate::http::shapes::{Event, Rejoined};
use crate::node::Partition;

/// The most nodes that went of which it is remembered what they held.
const REMEMBERED_MAX: usize = 1_024;
/// The most partitions that are named of what a node held.
const NAMED_MAX: usize = 256;

/// The nodes that went, and what each held.
#[derive(Debug, Default)]
pub(super) struct Absent(BTreeMap<NodeName, Gone>);

#[derive(Debug)]
struct Gone {
    since: Instant,
    primaries: Vec<String>,
    replicas: Vec<String>,
}

impl Absent {
    /// A node went: what it held by the last plan in which it was there is remembered.
    fn note(&mut self, now: Instant, name: &NodeName, before: &Snapshot) {
        let held = Partition::on(before, name.as_str()).unwrap_or_default();
        let (primaries, replicas): (Vec<Partition>, Vec<Partition>) =
            held.into_iter().partition(|one| one.primary_node.as_ref() == Some(name));
        let names = |all: Vec<Partition>| all.into_iter().map(|one| one.name).collect();
        let gone = Gone { since: now, primaries: names(primaries), replicas: names(replicas) };
        self.0.insert(name.clone(), gone);
        if self.0.len() > REMEMBERED_MAX
            && let Some(oldest) =
                self.0.iter().min_by_key(|(_, gone)| gone.since).map(|(name, _)| name.clone())
        {
            self.0.remove(&oldest);
        }
    }

    /// A node is there: how long it was away, and what it had held, if this node knows.
    fn take(&mut self, now: Instant, name: &NodeName) -> Option<Rejoined> {
        let Gone { since, mut primaries, mut replicas } = self.0.remove(name)?;
        let away_ms = u64::try_from(now.duration_since(since).as_millis()).unwrap_or(u64::MAX);
        let (primaries_held, replicas_held) = (primaries.len() as u64, replicas.len() as u64);
        primaries.truncate(NAMED_MAX);
        replicas.truncate(NAMED_MAX);
        Some(Rejoined { away_ms, primaries_held, replicas_held, primaries, replicas })
    }
}

/// What moves because of one plan, and why.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Moves {
    /// How many copies get another place, and how many partitions another primary.
    pub(super) count: u64,
    /// `node_up`, `node_down`, `drain` or `balance`.
    pub(super) trigger: &'static str,
    /// The nodes that it is about.
    pub(super) nodes: Vec<String>,
}

/// What a plan changed, in the order in which it is told, and what it moves.
pub(super) fn differences(
    before: Option<&Snapshot>,
    after: &Snapshot,
    absent: &mut Absent,
    now: Instant,
) -> (Vec<Event>, Moves) {
    let (mut events, mut moves) = (Vec::new(), Moves { trigger: "balance", ..Moves::default() });
    let (mut came, mut went) = (Vec::new(), Vec::new());
    for member in before.iter().flat_map(|before| &before.members) {
        if let Some(event) = gone(member, after) {
            if member.status.may_serve() {
                went.push(member.name().to_string());
                before.into_iter().for_each(|before| absent.note(now, member.name(), before));
            }
            events.push(event);
        }
    }
    for id in serving(after).filter(|id| !before.is_some_and(|before| serves(before, id))) {
        came.push(id.node.to_string());
        let rejoined = absent.take(now, &id.node);
        events.push(Event::NodeUp { node: id.node.to_string(), boot: format!("{:x}", id.boot.0), rejoined });
    }
    events.push(snapshot_event(after));
    // The first plan moves nothing: it is what there is.
    let Some(before) = before else { return (events, moves) };
    for (id, is) in after.partitions().filter(|(id, _)| id.group == tumen_core::GroupId::Users) {
        let Some(was) = before.assignment(id) else { continue };
        let (event, count) = moved(before, after, id, (was, is));
        moves.count += count;
        events.extend(event);
    }
    let leaving = |member: &&Member| {
        let was = before.member(member.name().as_str());
        member.status == Status::Leaving && was.is_some_and(|was| was.status == Status::Up)
    };
    let drained: Vec<String> =
        after.members.iter().filter(leaving).map(|member| member.name().to_string()).collect();
    let triggers = [("node_down", went), ("drain", drained), ("node_up", came)];
    if let Some((trigger, nodes)) = triggers.into_iter().find(|(_, nodes)| !nodes.is_empty()) {
        (moves.trigger, moves.nodes) = (trigger, nodes);
    }
    (events, moves)
}

pub(super) fn snapshot_event(plan: &Snapshot) -> Event {
    Event::Snapshot { version: plan.version.0, term: plan.term.0, leader: plan.leader.to_string() }
}

fn serving(plan: &Snapshot) -> impl Iterator<Item = &NodeBoot> {
    plan.members.iter().filter(|member| member.status.may_serve()).map(Member::id)
}

fn serves(plan: &Snapshot, id: &NodeBoot) -> bool {
    plan.member(id.node.as_str()).is_some_and(|member| member.id() == id && member.status.may_serve())
}

/// A member that served serves no more, or one that did not is no member any more.
fn gone(was: &Member, after: &Snapshot) -> Option<Event> {
    let (node, boot) = (was.name().to_string(), format!("{:x}", was.id().boot.0));
    let is = after.member(was.name().as_str());
    if !was.status.may_serve() {
        return is.is_none().then_some(Event::NodeRemoved { node, boot });
    }
    let reason = match is {
        Some(is) if is.id() != was.id() => "restarted",
        Some(is) if is.status == Status::Lost => "lost",
        Some(is) if is.status == Status::Away => "away",
        Some(_) => return None,
        None => "left",
    };
    Some(Event::NodeDown { node, boot, reason: reason.to_owned() })
}

/// A partition that has another primary, or other copies; and how many of these are in new places.
fn moved(
    before: &Snapshot,
    after: &Snapshot,
    id: PartitionId,
    (was, is): (&Assignment, &Assignment),
) -> (Option<Event>, u64) {
    let names = |plan: &Snapshot, of: &Assignment| -> Vec<NodeName> {
        of.copies.iter().map(|at| plan.members[*at as usize].name().clone()).collect()
    };
    let (had, has) = (names(before, was), names(after, is));
    let texts = |all: &mut dyn Iterator<Item = &NodeName>| all.map(ToString::to_string).collect::<Vec<_>>();
    let added = texts(&mut has.iter().filter(|name| !had.contains(name)));
    let removed = texts(&mut had.iter().filter(|name| !has.contains(name)));
    // Whoever may serve and had a copy is where the others get it from.
    let there = |name: &&NodeName| after.member(name.as_str()).is_some_and(|one| one.status.may_serve());
    let copies_from = texts(&mut had.iter().filter(there));
    let partition = after.name_of(id);
    let primary = |plan: &Snapshot, of: &Assignment| plan.primary(of).map(|one| one.name().clone());
    let (from, to) = (primary(before, was), primary(after, is));
    let version = after.version.0;
    let count = added.len() as u64;
    // The same node may come back under a new epoch: its worker is another.
    if from != to || was.epoch != is.epoch {
        let reason = reason(before, after, was, to.is_some()).to_owned();
        let shown = |name: Option<NodeName>| name.map(|name| name.to_string());
        let (from, to, epoch) = (shown(from), shown(to), is.epoch.0);
        let event = Event::PartitionMoved { partition, from, to, epoch, version, copies_from, reason };
        return (Some(event), count + 1);
    }
    if added.is_empty() && removed.is_empty() {
        return (None, 0);
    }
    (Some(Event::PartitionCopies { partition, added, removed, copies_from, version }), count)
}

/// Why a partition has another primary: by what became of the one that it had.
fn reason(before: &Snapshot, after: &Snapshot, was: &Assignment, served: bool) -> &'static str {
    let Some(old) = before.primary(was) else { return if served { "served_again" } else { "unserved" } };
    match after.member(old.name().as_str()) {
        None => "node_left",
        Some(is) if is.id() != old.id() => "node_restarted",
        Some(is) => match is.status {
            Status::Lost => "node_lost",
            Status::Away => "node_away",
            Status::Leaving => "drain",
            Status::Up => "balance",
        },
    }
}
