//! The JSON that goes over the HTTP interface, as the server writes it and the command line reads it.
//!
//! Field names and their order are a promise to other programs. Readers ignore fields that they do not
//! know, so that an older command line understands a newer node; nothing here refuses unknown fields.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use tumen_core::GroupId;

use crate::state::KvEntry;

mod configuration;
mod events;
mod exchange;
mod health;
mod names;

/// The answer to `POST /children/{name}/echo`: what a child of the built-in kind `echo` says.
pub use crate::names::echo::Echoed;
pub use configuration::{ConfigEntries, ConfigEntry, ConfigNews, ConfigWritten};
pub use events::{Event, Rejoined};
pub use exchange::{Group, GroupMember, GroupMembers, Groups, Said, Topic, Topics};
pub use health::{
    BalanceHealth, ClusterHealth, HealthReason, HealthTally, LagHealth, NodeHealth, NodesHealth,
    PartitionHealth, PartitionsHealth, ReplicaHealth,
};
pub use names::{AllMeta, Child, Children, Meta, Moving, Registered, Registry, StartChild};

/// `GET /ledger`: what became of the requests that came to the answering node's partitions since it was started, those of
/// sessions included. `sent = answered + rejected + expired + open`, in total and for each partition that it has served;
/// at rest nothing is open.
pub use tumen_core::partitions::ledger::Ledger;

/// How a copy compares with its primary's.
pub use tumen_core::partitions::equality::Verdict;
/// `GET /invariants`: what the answering node saw, since it was started, of the promises that must hold at every moment.
/// `violations` is 0, or there is a fault in tumen; each promise is named, and the first violations are told in words.
pub use tumen_core::partitions::invariants::Report as Invariants;

/// One partition: `GET /partitions/{id}`, `GET /partitions/key?key=K`, and an element of [`Partitions`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Partition {
    /// Its id, such as `partition-7`.
    pub id: String,
    /// The node that writes it; `null` while nobody is left to serve it.
    pub primary_node: Option<String>,
    /// The nodes that hold its other copies.
    pub replica_nodes: Vec<String>,
    /// One more each time its primary changed.
    pub epoch: u64,
    /// Whether it is lost: too few of its copies are left to tell what was written. Not said where it is not.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub lost: bool,
}

/// `GET /partitions/{id}`: the partition, and how it is, as its primary says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionDetail {
    /// What every list says of it.
    #[serde(flatten)]
    pub partition: Partition,
    /// `serving`; `opening` (its primary waits for copies that may come); `stalled` (it is served, and fewer than
    /// `write_quorum` copies are there: nothing is acknowledged); `releasing` (it is on its way to another primary); `lost`;
    /// `unserved` (nobody is left to be its primary); `unknown` (its primary did not say).
    pub state: String,
    /// The nodes whose copies it waits for, where it waits.
    pub waits_for: Vec<String>,
    /// How often its copies changed in this epoch.
    pub revision: u64,
    /// How many copies counted at most.
    pub high: u32,
    /// How many copies must hold a write before it is acknowledged; 0 where nothing is replicated.
    pub write_quorum: usize,
    /// How many copies a new primary must hear; 0 where nothing is replicated.
    pub seal_quorum: usize,
    /// The copies that count.
    pub copies: Vec<CopyDetail>,
}

/// One copy that counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyDetail {
    /// The node that has it.
    pub node: String,
    /// Which memory of that node, in hexadecimal: another one where its bytes were lost.
    pub life: String,
    /// `here`; `awaited` (its node is there, and has not answered); `away` (its node is not there); `gone` (its node came
    /// back without it); `unknown`.
    pub state: String,
    /// Up to which entry it surely has the log; `null` where that is not known.
    pub sequence: Option<u64>,
}

/// The query of `GET /partitions`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionsQuery {
    /// Only those that are lost.
    #[serde(default)]
    pub lost: bool,
    /// `users`, which is what it is without, or `names`: the partitions that names belong to.
    #[serde(default)]
    pub group: GroupId,
}

/// The answer to `POST /partitions/{id}/accept-loss`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LossAccepted {
    /// The partition's id.
    pub partition: String,
    /// The plan that says so.
    pub version: u64,
    /// The partition's epoch from now on.
    pub epoch: u64,
    /// The copies that it goes on with.
    pub survivors: Vec<CopyDetail>,
    /// The copies that counted and count no more: what only they have is given up.
    pub given_up: Vec<CopyDetail>,
    /// Whether nothing was left, so that it begins anew.
    pub empty: bool,
    /// Always `true`.
    pub changed: bool,
}

/// `GET /partitions`, and `GET /nodes/{name}/partitions` for those of which the node holds a copy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Partitions {
    /// By index.
    pub partitions: Vec<Partition>,
    /// How many there are in the list.
    pub count: usize,
}

impl Partitions {
    /// The list with its count.
    pub fn new(partitions: Vec<Partition>) -> Self {
        Self { count: partitions.len(), partitions }
    }
}

/// `GET /partitions/stats`. Nodes that hold nothing are listed with 0.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionStats {
    /// How many partitions there are.
    pub total_partitions: u32,
    /// By node: of how many it is the primary. The sum is the number of partitions that are served.
    pub partitions_per_node: BTreeMap<String, u32>,
    /// By node: of how many it holds a copy without being the primary.
    pub replicas_per_node: BTreeMap<String, u32>,
}

/// `GET /cluster`, as the answering node knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cluster {
    /// The name that all its nodes are configured with.
    pub name: String,
    /// Its random identity, 16 hexadecimal digits: tells two clusters of one name apart. `null` before the first plan.
    pub id: Option<String>,
    /// The number of the newest plan that this node knows; 0 before the first.
    pub version: u64,
    /// The term of the leader that this node follows.
    pub term: u64,
    /// The leader's name; `null` while there is none.
    pub leader: Option<String>,
    /// What a write's acknowledgement promises: `async`, `sync` or `strong`.
    pub mode: String,
    /// By name, in byte order.
    pub nodes: Vec<Node>,
}

/// One node of [`Cluster`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Its name, which survives restarts.
    pub name: String,
    /// How the cluster holds it: `up`, `leaving`, `away`, `lost`; `joining` before it is committed.
    pub state: String,
    /// Whether it votes on plans and on who leads, as the leader last said.
    pub votes: bool,
    /// Which run of its process, in hexadecimal (a JSON number would lose digits in many readers).
    pub boot: String,
    /// Where its cluster port is reached, as `host:port`.
    pub address: String,
    /// Where its HTTP interface is reached, as `host:port`; `null` if it has none.
    pub http: Option<String>,
    /// Its failure domain; `null` if it was told none.
    pub zone: Option<String>,
    /// Its share of the work beside the others' weights.
    pub weight: u32,
    /// The kinds of worker that it hosts, sorted.
    pub services: Vec<String>,
}

/// The answer to `POST /partitions`. Asking twice, or at two nodes at once, is the same as asking once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Created {
    /// The plan that holds the partitions.
    pub version: u64,
    /// How many partitions there are.
    pub count: u32,
    /// Whether this request created them; `false` if they were there already.
    pub changed: bool,
}

/// The answer to `POST /partitions/rebalance`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rebalanced {
    /// The plan now in force.
    pub version: u64,
    /// How many copies got a new place.
    pub moved: u32,
    /// The fewest that any plan with the same balance could have moved.
    pub lower_bound: u32,
    /// Whether there is a new plan; `false` if nothing was to be done.
    pub changed: bool,
}

/// `GET /plan?add=N&remove=NODE`: what would move. Nothing is changed by asking.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The partitions whose copies would change, by index.
    pub moves: Vec<Move>,
    /// How many copies would get a new place.
    pub moved: u32,
    /// The fewest that any plan with the same balance would move.
    pub lower_bound: u32,
}

/// One partition of a [`Plan`]. The first name of each list is the primary.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Move {
    /// The partition's id.
    pub partition: String,
    /// Who holds it now.
    pub from: Vec<String>,
    /// Who would hold it.
    pub to: Vec<String>,
}

/// The query of `GET /plan`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanQuery {
    /// How many nodes to imagine added; none if missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub add: Option<u32>,
    /// Which node to imagine gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remove: Option<String>,
}

/// The query of `GET /partitions/key`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyQuery {
    /// The key; a request without one is answered 400.
    pub key: Option<String>,
}

/// The body of `POST /nodes/{name}/drain`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drain {
    /// Whether the node shall leave once its copies have moved away.
    #[serde(default)]
    pub leave: bool,
}

/// The body of `POST /state`: a piece of a state, of at most 12 MiB. The answer is an [`Imported`](crate::state::Imported).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Import {
    /// The form of the state that it is a piece of.
    #[serde(default)]
    pub format: u32,
    /// What to put into the cluster.
    pub entries: Vec<KvEntry>,
    /// Whether to replace keys that are there already. Else nothing of the piece is written if any is, and the answer is
    /// 409 with the code `exists`.
    #[serde(default)]
    pub overwrite: bool,
    /// Only look whether any is there.
    #[serde(default)]
    pub dry_run: bool,
}

/// The answer to `POST /nodes/{name}/drain`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Draining {
    /// The plan in which the node gives its copies away.
    pub version: u64,
}

/// `GET /moves`: the whole copies that are being made in the cluster, and those that wait for their turn.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moves {
    /// By partition.
    pub moves: Vec<Copying>,
    /// How many there are in the list.
    pub count: usize,
    /// Members that did not say what they copy.
    pub unreachable: Vec<String>,
}

/// One whole copy that is being made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Copying {
    /// The partition's id.
    pub partition: String,
    /// Who sends it.
    pub from: String,
    /// Who is to have it.
    pub to: String,
    /// `waiting` for its turn, or `copying`.
    pub state: String,
    /// Bytes that have been sent.
    pub bytes_done: u64,
    /// Bytes in all; `null` while it waits.
    pub bytes_total: Option<u64>,
    /// Milliseconds since it was asked for.
    pub age_ms: u64,
}

/// The answer to `POST /partitions/full-sync`, and to `POST /partitions/{id}/push` for one partition: every copy was brought
/// up to date, and compared with its primary's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FullSync {
    /// Whether every copy was compared and holds the same.
    pub equal: bool,
    /// Whether a copy holds something else than the primary at the same position: one of them is wrong.
    pub differs: bool,
    /// By partition; one that nobody serves is missing.
    pub partitions: Vec<Compared>,
    /// Members that did not answer: what they lead was not looked at.
    pub unreachable: Vec<String>,
}

/// One partition of [`FullSync`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compared {
    /// Its id.
    pub id: String,
    /// Who leads it, and compared.
    pub primary_node: String,
    /// Where in its log all copies were looked at: the epoch.
    pub epoch: u64,
    /// The same: the sequence.
    pub sequence: u64,
    /// XXH3-64 of the primary's state there, 16 hexadecimal digits; `null` if it could not be taken.
    pub hash: Option<String>,
    /// Whether every copy was compared and holds the same.
    pub equal: bool,
    /// The other copies, by node.
    pub copies: Vec<ComparedCopy>,
}

/// One copy of [`Compared`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ComparedCopy {
    /// Whose.
    pub node: String,
    /// `equal`, `differs`, `behind` (not there in time, which says nothing of what it holds), `missing` or `unreachable`.
    pub state: Verdict,
    /// How far it is: the epoch; `null` if that is not known.
    pub epoch: Option<u64>,
    /// The same: the sequence.
    pub sequence: Option<u64>,
    /// The hash of its state, if it was taken.
    pub hash: Option<String>,
}

/// `GET /health`: the process is there. It says nothing about the cluster; see [`Ready`] and [`ClusterHealth`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// Always `alive`.
    pub status: String,
    /// The node's name.
    pub name: String,
    /// Which run of its process, in hexadecimal.
    pub boot: String,
}

/// `GET /ready` with status 200. Else 503 with an [`ErrorBody`] of code `not_ready` that says why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready {
    /// Always `true`.
    pub ready: bool,
}

/// Every answer that is no success.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// What went wrong.
    pub error: Error,
}

/// What went wrong, whether anything changed, and (in the message) what to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Error {
    /// For programs: `no_quorum`, `not_found`, `not_ready`, ...
    pub code: String,
    /// For people: what happened and what to do next.
    pub message: String,
    /// Whether the request changed anything; `null` where the node cannot know.
    pub changed: Option<bool>,
}

impl ErrorBody {
    /// An error after which nothing is changed.
    pub fn unchanged(code: &str, message: impl Into<String>) -> Self {
        Self { error: Error { code: code.to_owned(), message: message.into(), changed: Some(false) } }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let changed = match self.changed {
            Some(false) => "nothing was changed",
            Some(true) => "something was changed",
            None => "whether anything was changed is not known",
        };
        write!(f, "{}: {} ({changed})", self.code, self.message)
    }
}

#[cfg(test)]
mod tests;
