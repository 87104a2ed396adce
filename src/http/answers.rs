//! What the node knows, in the shapes of the HTTP interface; and the tags by which clients keep it.

use std::collections::{BTreeMap, BTreeSet};

use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, HeaderMap, HeaderValue, IF_NONE_MATCH};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use tumen_core::cluster::asks::LossAccepted;
use tumen_core::cluster::coordinator::Preview;
use tumen_core::cluster::member::{NodeInfo, Status};
use tumen_core::cluster::snapshot::{Assignment, Mode, Snapshot};
use tumen_core::partitioner::Partitioner;
use tumen_core::partitions::replication::{CopyId, CopyReport, CopyState, Position, Report, State};
use tumen_core::wire::{StableHasher, stable_hash};
use tumen_core::{Epoch, NodeName, PartitionId, Term};

use super::shapes;
use crate::node::{Partition, PartitionStats};

/// An answer that follows from the plan alone: its tag is the plan's hash, which is another after any change of
/// ownership. It is not even made for who has it already.
pub(super) fn by_plan<T: Serialize>(
    plan: Option<&Snapshot>,
    headers: &HeaderMap,
    answer: impl FnOnce() -> T,
) -> Response {
    tagged(plan.map_or(0, |plan| plan.hash), headers, || json(&answer()))
}

/// An answer that follows from more than the plan: its tag is its own hash.
pub(super) fn by_contents<T: Serialize>(headers: &HeaderMap, answer: &T) -> Response {
    let json = json(answer);
    tagged(stable_hash(&json), headers, || json)
}

fn json<T: Serialize>(answer: &T) -> Vec<u8> {
    serde_json::to_vec(answer).expect("our shapes have text keys and no failing parts")
}

fn tagged(tag: u64, headers: &HeaderMap, body: impl FnOnce() -> Vec<u8>) -> Response {
    let tag = format!("\"{tag:016x}\"");
    let etag = HeaderValue::from_str(&tag).expect("a tag is hexadecimal digits");
    let known = headers.get_all(IF_NONE_MATCH).iter().any(|known| names(known, &etag));
    // Kept by clients, and asked about each time.
    let keep = [(ETAG, etag), (CACHE_CONTROL, HeaderValue::from_static("no-cache"))];
    if known {
        return (StatusCode::NOT_MODIFIED, keep).into_response();
    }
    let json = HeaderValue::from_static("application/json");
    (keep, [(CONTENT_TYPE, json)], body()).into_response()
}

/// Whether a list of tags, as a client sends it, names this one. Ours are compared weakly, as is usual for this header.
pub(super) fn names(list: &HeaderValue, tag: &HeaderValue) -> bool {
    let Ok(list) = list.to_str() else { return false };
    list.split(',')
        .map(str::trim)
        .any(|known| known == "*" || known.strip_prefix("W/").unwrap_or(known).as_bytes() == tag.as_bytes())
}

impl From<Partition> for shapes::Partition {
    fn from(partition: Partition) -> Self {
        Self {
            id: partition.name,
            primary_node: partition.primary_node.map(|name| name.to_string()),
            replica_nodes: texts(&partition.replica_nodes),
            epoch: partition.epoch.0,
            lost: false,
        }
    }
}

/// The tag of an answer that follows from the plan, and from what is lost.
pub(super) fn by_plan_and_losses<T: Serialize>(
    plan: Option<&Snapshot>,
    lost: &BTreeMap<PartitionId, Epoch>,
    headers: &HeaderMap,
    answer: impl FnOnce() -> T,
) -> Response {
    let hash = plan.map_or(0, |plan| plan.hash);
    if lost.is_empty() {
        return tagged(hash, headers, || json(&answer()));
    }
    let mut all = StableHasher::new();
    all.write_u64(hash);
    for (partition, epoch) in lost {
        all.write_u64(u64::from(partition.index));
        all.write_u64(epoch.0);
    }
    tagged(all.finish(), headers, || json(&answer()))
}

/// A partition, and whether it is lost.
pub(super) fn partition(partition: Partition, lost: &BTreeMap<PartitionId, Epoch>) -> shapes::Partition {
    let lost = lost.contains_key(&partition.id);
    shapes::Partition { lost, ..partition.into() }
}

/// One partition with what its primary says of it. `None`: it did not say.
pub(super) fn partition_detail(
    partition: shapes::Partition,
    plan: &Snapshot,
    id: PartitionId,
    report: Option<&Report>,
) -> shapes::PartitionDetail {
    let replicated = plan.group(id.group).is_some_and(|group| group.spec.replicated);
    let committed = plan.assignment(id).map(Assignment::record).unwrap_or_default();
    let record = report.map_or(&committed, |report| &report.record);
    let state = match report {
        Some(report) => state_of(report.state),
        None if partition.primary_node.is_none() => "unserved",
        None if replicated => "unknown",
        None => "serving",
    };
    let copies: Vec<shapes::CopyDetail> = match report {
        Some(report) => report.copies.iter().map(copy_detail).collect(),
        None => record.members.iter().map(|id| copy_named(id, "unknown", None)).collect(),
    };
    let waits = matches!(state, "opening" | "stalled" | "lost");
    let waited_for = copies.iter().filter(|copy| waits && copy.state != "here");
    shapes::PartitionDetail {
        state: state.to_owned(),
        waits_for: waited_for.map(|copy| copy.node.clone()).collect(),
        revision: record.revision.0,
        high: record.high,
        write_quorum: if replicated { record.write_quorum() } else { 0 },
        seal_quorum: if replicated { record.seal_quorum() } else { 0 },
        copies,
        partition,
    }
}

const fn state_of(state: State) -> &'static str {
    match state {
        State::Opening => "opening",
        State::Serving => "serving",
        State::Stalled => "stalled",
        State::Releasing => "releasing",
        State::Lost => "lost",
    }
}

fn copy_detail(copy: &CopyReport) -> shapes::CopyDetail {
    let state = match copy.state {
        CopyState::Here => "here",
        CopyState::Awaited => "awaited",
        CopyState::Away => "away",
        CopyState::Gone => "gone",
    };
    copy_named(&copy.id, state, copy.sequence)
}

fn copy_named(id: &CopyId, state: &str, sequence: Option<u64>) -> shapes::CopyDetail {
    let (node, life) = (id.node.to_string(), format!("{:x}", id.life.0));
    shapes::CopyDetail { node, life, state: state.to_owned(), sequence }
}

/// What was given up with a partition.
pub(super) fn loss_accepted(name: String, accepted: &LossAccepted) -> shapes::LossAccepted {
    let survivor = |(id, last): &(CopyId, Position)| copy_named(id, "here", Some(last.sequence));
    let gone = |id: &CopyId| copy_named(id, "unknown", None);
    shapes::LossAccepted {
        partition: name,
        version: accepted.version.0,
        epoch: accepted.epoch.0,
        survivors: accepted.survivors.iter().map(survivor).collect(),
        given_up: accepted.given_up.iter().map(gone).collect(),
        empty: accepted.survivors.is_empty(),
        changed: true,
    }
}

pub(super) fn partitions(
    partitions: Vec<Partition>,
    lost: &BTreeMap<PartitionId, Epoch>,
) -> shapes::Partitions {
    shapes::Partitions::new(partitions.into_iter().map(|one| partition(one, lost)).collect())
}

impl From<PartitionStats> for shapes::PartitionStats {
    fn from(stats: PartitionStats) -> Self {
        Self {
            total_partitions: stats.total_partitions,
            partitions_per_node: stats
                .partitions_per_node
                .into_iter()
                .map(|(n, count)| (n.to_string(), count))
                .collect(),
            replicas_per_node: stats
                .replicas_per_node
                .into_iter()
                .map(|(n, count)| (n.to_string(), count))
                .collect(),
        }
    }
}

/// What `GET /cluster` is made of.
pub(super) struct Known<'a> {
    pub(super) name: &'a str,
    pub(super) plan: Option<&'a Snapshot>,
    /// Whom the node sees, itself among them.
    pub(super) seen: &'a [NodeInfo],
    pub(super) leader: Option<NodeName>,
    pub(super) term: Term,
    pub(super) voting: &'a BTreeSet<NodeName>,
    pub(super) mode: Mode,
}

/// The cluster: its members, and those whom this node sees and who are no members yet.
pub(super) fn cluster(known: &Known<'_>) -> shapes::Cluster {
    let members = known.plan.map(|plan| &plan.members[..]).unwrap_or_default();
    let committed: BTreeSet<&NodeName> = members.iter().map(|member| member.name()).collect();
    let joining = known.seen.iter().filter(|seen| !committed.contains(seen.name()));
    let node = |info: &NodeInfo, state| node(info, state, known.voting.contains(info.name()));
    let mut nodes: Vec<shapes::Node> =
        (members.iter().map(|member| node(&member.info, state(member.status))))
            .chain(joining.map(|seen| node(seen, "joining")))
            .collect();
    nodes.sort_by(|a, b| a.name.cmp(&b.name));
    shapes::Cluster {
        name: known.name.to_owned(),
        id: known.plan.map(|plan| plan.cluster.to_string()),
        version: known.plan.map_or(0, |plan| plan.version.0),
        term: known.term.0,
        leader: known.leader.as_ref().map(ToString::to_string),
        mode: known.mode.to_string(),
        nodes,
    }
}

pub(super) const fn state(status: Status) -> &'static str {
    match status {
        Status::Up => "up",
        Status::Leaving => "leaving",
        Status::Away => "away",
        Status::Lost => "lost",
    }
}

fn node(info: &NodeInfo, state: &str, votes: bool) -> shapes::Node {
    shapes::Node {
        name: info.name().to_string(),
        state: state.to_owned(),
        votes,
        boot: format!("{:x}", info.boot().0),
        address: info.address.clone(),
        http: info.http.clone(),
        zone: info.zone.as_ref().map(ToString::to_string),
        weight: info.weight,
        services: info.services.clone(),
    }
}

pub(super) fn plan(preview: Preview, partitioner: &Partitioner, partitions: u32) -> shapes::Plan {
    let moves = preview.moves.into_iter().map(|change| shapes::Move {
        partition: partitioner.name(change.partition.index, partitions),
        from: texts(&change.from),
        to: texts(&change.to),
    });
    shapes::Plan {
        moves: moves.collect(),
        moved: count(preview.certificate.moved),
        lower_bound: count(preview.certificate.lower_bound),
    }
}

/// As the shapes count: there are never as many copies as would not fit.
pub(super) fn count(copies: u64) -> u32 {
    u32::try_from(copies).unwrap_or(u32::MAX)
}

fn texts(names: &[NodeName]) -> Vec<String> {
    names.iter().map(ToString::to_string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::testing::{member, plan};

    fn headers(if_none_match: &str) -> HeaderMap {
        [(IF_NONE_MATCH, HeaderValue::from_str(if_none_match).unwrap())].into_iter().collect()
    }

    #[test]
    fn an_answer_that_is_known_is_not_sent_again() {
        let plan = plan(Partitioner::Hash);
        let tag = format!("\"{:016x}\"", plan.hash);
        let fresh = by_plan(Some(&plan), &HeaderMap::new(), || "answer");
        assert_eq!((fresh.status(), fresh.headers()[ETAG].to_str().unwrap()), (StatusCode::OK, &*tag));
        for known in [tag.clone(), format!("W/{tag}"), format!("\"a\", {tag}"), "*".into()] {
            let answer = by_plan(Some(&plan), &headers(&known), || -> &str { panic!("it is not even made") });
            assert_eq!(answer.status(), StatusCode::NOT_MODIFIED, "{known}");
            assert_eq!(answer.headers()[ETAG].to_str().unwrap(), tag);
        }
        for other in ["\"0000000000000000\"", "", "a", &tag[1..]] {
            assert_eq!(by_plan(Some(&plan), &headers(other), || "").status(), StatusCode::OK, "{other}");
        }
    }

    #[test]
    fn any_change_of_ownership_changes_the_tag() {
        let before = plan(Partitioner::Hash);
        let changes: [fn(&mut Assignment); 3] = [
            |assignment| assignment.copies.swap(0, 1),
            |assignment| assignment.copies[1] = 3,
            |assignment| assignment.copies.truncate(1),
        ];
        // The counts stay the same where two partitions swap: the hash does not.
        for change in changes {
            let mut after = before.clone();
            change(&mut after.groups[0].assignments[0]);
            assert_ne!(after.sealed().hash, before.hash);
        }
    }

    #[test]
    fn a_cluster_lists_members_and_newcomers() {
        let plan = plan(Partitioner::Hash);
        let seen = [member("node-11", 99, Status::Up).info, member("node-2", 12, Status::Up).info];
        let known = Known {
            name: "shop",
            plan: Some(&plan),
            seen: &seen,
            leader: None,
            term: Term(2),
            voting: &["node-1", "node-2", "node-3"].map(|name| NodeName::new(name).unwrap()).into(),
            mode: Mode::Sync,
        };
        let shown = cluster(&known);
        let listed: Vec<_> = shown.nodes.iter().map(|node| (&*node.name, &*node.state)).collect();
        let votes: Vec<_> = shown.nodes.iter().map(|node| node.votes).collect();
        assert_eq!(votes, [true, false, true, true, false]);
        let up = |name| (name, "up");
        assert_eq!(listed, [up("node-1"), ("node-11", "joining"), up("node-2"), up("node-3"), up("node-4")]);
        assert_eq!((shown.version, shown.id.as_deref(), &*shown.mode), (7, Some("0000000000000abc"), "sync"));
        let before = cluster(&Known { plan: None, ..known });
        assert_eq!((before.version, before.nodes.len(), &*before.nodes[1].state), (0, 2, "joining"));
    }
}
