//! Topics and groups of the users' own. A name that is no UTF-8 is shown with `\xNN` for each byte that is no plain text.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// One topic, as the answering node sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Topic {
    /// Its name.
    pub name: String,
    /// Subscribers on the answering node.
    pub local: usize,
    /// Subscribers on all other nodes.
    pub remote: u64,
    /// The same by node.
    pub nodes: BTreeMap<String, u32>,
    /// Nodes with a current value, as far as the answering node knows.
    pub retained_by: Vec<String>,
}

/// `GET /topics`: those that anybody is known to listen to, or to retain a value on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Topics {
    /// By name.
    pub topics: Vec<Topic>,
    /// How many there are.
    pub count: usize,
}

/// The answer to `POST /topics/{name}`, whose body is said as JSON; with `?retain=true` it is kept for who listens later, with
/// `?local=true` only those hear it who listen on the answering node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Said {
    /// Subscribers on the answering node, each of which has it in its queue.
    pub local: usize,
    /// Subscribers elsewhere to which it is on its way.
    pub remote: usize,
    /// On how many nodes.
    pub nodes: usize,
    /// Subscribers elsewhere to which it was not sent, for too much waits for their nodes.
    pub lost: usize,
}

/// One group, as the answering node knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// Its name.
    pub name: String,
    /// How many members it has, on all nodes.
    pub members: usize,
    /// How many of them are on the answering node.
    pub local: usize,
}

/// `GET /groups`: those that have members.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Groups {
    /// By name, in byte order.
    pub groups: Vec<Group>,
    /// How many there are.
    pub count: usize,
}

/// `GET /groups/{name}`: its members. A group that nobody is a member of is an empty one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupMembers {
    /// Its name.
    pub name: String,
    /// By node and number.
    pub members: Vec<GroupMember>,
    /// How many there are.
    pub count: usize,
}

/// One member of a group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupMember {
    /// The node that it runs on.
    pub node: String,
    /// Which run of that node's process, in hexadecimal.
    pub boot: String,
    /// Its number on that run of the node.
    pub actor: u64,
}
