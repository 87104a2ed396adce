//! What `GET /events` tells, and callbacks hear.

use serde::{Deserialize, Serialize};
use tumen_core::cluster::health::Status;

/// What a node that came back had held, and for how long it was away, as another one saw it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rejoined {
    /// How many milliseconds it was away.
    pub away_ms: u64,
    /// Of how many partitions it had been the primary.
    pub primaries_held: u64,
    /// Of how many it had had another copy.
    pub replicas_held: u64,
    /// Of which partitions it had been the primary: the first 256.
    pub primaries: Vec<String>,
    /// Of which it had had another copy: the first 256.
    pub replicas: Vec<String>,
}

/// One of `GET /events`, as the `data:` of a server-sent event; [`Event::name`] is its `event:`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// A node became a member that takes its share.
    NodeUp {
        /// Its name.
        node: String,
        /// Which run of its process, in hexadecimal.
        boot: String,
        /// Where it was a member before, as far as the answering node saw: how long it was away, and what it had held. Else it is
        /// not said.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        rejoined: Option<Rejoined>,
    },
    /// A node is no longer a member that takes its share.
    NodeDown {
        /// Its name.
        node: String,
        /// Which run of its process, in hexadecimal.
        boot: String,
        /// Why: `lost` (it vanished), `away` (it stopped in good order and is expected back), `left`, or `restarted` (another run of it
        /// is there). A node of an older version does not say.
        #[serde(default)]
        reason: String,
    },
    /// A node that was lost or away is no member any more: what it held is made anew elsewhere.
    NodeRemoved {
        /// Its name.
        node: String,
        /// Which run of its process, in hexadecimal.
        boot: String,
    },
    /// There is a new plan. The current one is told first to whoever begins to listen.
    Snapshot {
        /// Its number.
        version: u64,
        /// The term of the leader that computed it.
        term: u64,
        /// The leader that computed it.
        leader: String,
    },
    /// A partition has another primary.
    PartitionMoved {
        /// Its id.
        partition: String,
        /// Who had been its primary; `null` if nobody.
        from: Option<String>,
        /// Who is now; `null` if nobody is left.
        to: Option<String>,
        /// Its epoch now.
        epoch: u64,
        /// The plan that moved it.
        version: u64,
        /// The nodes that had copies of it before and are there: where others get it from.
        #[serde(default)]
        copies_from: Vec<String>,
        /// Why, by what became of its former primary: `node_lost`, `node_away`, `node_left`, `node_restarted`, `drain`, `balance`,
        /// `served_again` or `unserved`.
        #[serde(default)]
        reason: String,
    },
    /// A partition is to have other copies, and keeps its primary.
    PartitionCopies {
        /// Its id.
        partition: String,
        /// The nodes that are to have one from now on.
        added: Vec<String>,
        /// The nodes that are to have none any more.
        removed: Vec<String>,
        /// The nodes that had copies of it before and are there: where others get it from.
        copies_from: Vec<String>,
        /// The plan that says so.
        version: u64,
    },
    /// A plan moves copies or primaries: what follows until `rebalance_completed` belongs to it, other plans too.
    RebalanceStarted {
        /// What it began with: `node_up`, `node_down`, `drain`, or `balance` where no member changed.
        trigger: String,
        /// The nodes that it began with.
        nodes: Vec<String>,
        /// How many copies get another place, and how many partitions another primary.
        moves: u64,
        /// The plan.
        version: u64,
    },
    /// All that was to move is there, as the answering node sees it.
    RebalanceCompleted {
        /// What it began with.
        trigger: String,
        /// How many moves there were, of all its plans.
        moves: u64,
        /// The last of its plans.
        version: u64,
        /// How many milliseconds it took.
        took_ms: u64,
    },
    /// The cluster's own configuration changed. What is there when a node starts is told too. `GET /config/{key}` has the value.
    ConfigUpdated {
        /// The key.
        key: String,
        /// Which change it was.
        version: u64,
        /// Whether the key is gone.
        deleted: bool,
    },
    /// So many changes of the configuration came too fast to be told one by one. Ask for `GET /config?prefix=` anew.
    ConfigMissed {
        /// How many.
        count: u64,
    },
    /// A whole copy begins to leave the answering node, or to come to it.
    HandoverStarted {
        /// The partition's id.
        partition: String,
        /// Who sends it.
        from: String,
        /// Who is to have it.
        to: String,
        /// Its length in bytes.
        bytes: u64,
    },
    /// It is over. Where it failed it is tried again for as long as it is wanted.
    HandoverFinished {
        /// The partition's id.
        partition: String,
        /// Who sent it.
        from: String,
        /// Who was to have it.
        to: String,
        /// How many bytes were sent, or came.
        bytes: u64,
        /// How many milliseconds it took.
        took_ms: u64,
        /// Why it came to nothing; `null` if it is there.
        failed: Option<String>,
    },
    /// Too few copies of a partition are left: it is not served until one returns, or an operator accepts the loss.
    PartitionLost {
        /// Its id.
        partition: String,
        /// Its epoch.
        epoch: u64,
    },
    /// A partition is not lost any more.
    PartitionFound {
        /// Its id.
        partition: String,
    },
    /// The cluster, or one member, is better or worse than before, as the answering node sees it: each change once.
    Health {
        /// The member; `null`: the cluster.
        node: Option<String>,
        /// How it is; `null`: the member is none any more.
        status: Option<Status>,
        /// How it was; `null`: nobody had looked.
        was: Option<Status>,
        /// The codes of the reasons that count from now on; of a member, of all.
        reasons: Vec<String>,
        /// The codes of the reasons that count no more.
        cleared: Vec<String>,
    },
    /// There is another leader.
    Leader {
        /// Its name; `null` while there is none.
        leader: Option<String>,
        /// Its term.
        term: u64,
    },
    /// The listener was too slow: so many events were left out. Ask for `GET /cluster` anew.
    Missed {
        /// How many events were left out.
        count: u64,
    },
    /// An actor holds a name. This and what follows is told only to those who ask for it (`?names=true`).
    NameRegistered {
        /// The name.
        name: String,
        /// The node that the actor is on.
        node: String,
        /// Which run of that node's process, in hexadecimal.
        boot: String,
        /// The actor's number on that run of the node.
        actor: u64,
        /// The number of its claim.
        fence: u64,
    },
    /// Something else is said of an actor that holds a name, or of a child.
    NameUpdated {
        /// The name.
        name: String,
        /// The number of its claim.
        fence: u64,
    },
    /// A name is free.
    NameUnregistered {
        /// The name.
        name: String,
        /// Where the actor was that held it.
        node: Option<String>,
        /// The number of the claim.
        fence: u64,
        /// Why: `normal`, `crashed: ...`, `node down`, ...
        reason: String,
    },
    /// A child runs.
    ChildStarted {
        /// Its name.
        name: String,
        /// Its kind.
        kind: String,
        /// The node that it runs on.
        node: String,
        /// Which run of that node's process, in hexadecimal.
        boot: String,
        /// The fence of this start.
        fence: u64,
    },
    /// A child runs no more, for it is to run elsewhere: `child_started` follows from there.
    ChildMoving {
        /// Its name.
        name: String,
        /// Its kind.
        kind: String,
        /// The node that it leaves.
        from: Option<String>,
        /// The fence of the start that is over.
        fence: u64,
    },
    /// A child runs no more, or was not started.
    ChildEnded {
        /// Its name.
        name: String,
        /// Its kind.
        kind: String,
        /// Where it ran, if it did.
        node: Option<String>,
        /// The fence of the start that is over.
        fence: u64,
        /// Why: `normal`, `crashed: ...`, `node down`, `given up: ...`, ...
        reason: String,
        /// Whether it is started again.
        goes_on: bool,
    },
    /// The listener was too slow for the names: so much of theirs was left out, and nothing else. Ask for `GET /registry` and
    /// `GET /children` anew.
    NamesMissed {
        /// How much.
        count: u64,
    },
}

impl Event {
    /// What stands in the `event:` line, and in the field `event` of the data.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::NodeUp { .. } => "node_up",
            Self::NodeDown { .. } => "node_down",
            Self::NodeRemoved { .. } => "node_removed",
            Self::Snapshot { .. } => "snapshot",
            Self::PartitionMoved { .. } => "partition_moved",
            Self::PartitionCopies { .. } => "partition_copies",
            Self::RebalanceStarted { .. } => "rebalance_started",
            Self::RebalanceCompleted { .. } => "rebalance_completed",
            Self::ConfigUpdated { .. } => "config_updated",
            Self::ConfigMissed { .. } => "config_missed",
            Self::HandoverStarted { .. } => "handover_started",
            Self::HandoverFinished { .. } => "handover_finished",
            Self::PartitionLost { .. } => "partition_lost",
            Self::PartitionFound { .. } => "partition_found",
            Self::Health { .. } => "health",
            Self::Leader { .. } => "leader",
            Self::Missed { .. } => "missed",
            Self::NameRegistered { .. } => "name_registered",
            Self::NameUpdated { .. } => "name_updated",
            Self::NameUnregistered { .. } => "name_unregistered",
            Self::ChildStarted { .. } => "child_started",
            Self::ChildMoving { .. } => "child_moving",
            Self::ChildEnded { .. } => "child_ended",
            Self::NamesMissed { .. } => "names_missed",
        }
    }
}
