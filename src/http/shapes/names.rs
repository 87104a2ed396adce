//! Names, children and singletons. A name that is no UTF-8, and a value, is shown with `\xNN` for each byte that is no plain text.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tumen_core::names::placement::Placing;
use tumen_core::supervision::Restart;

/// Who answers under one name: `GET /registry/{name}`, and an element of [`Registry`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registered {
    /// The name.
    pub name: String,
    /// The kind, of a child; `null` of an actor that registered itself.
    pub kind: Option<String>,
    /// The node that it runs on.
    pub node: String,
    /// Which run of that node's process, in hexadecimal.
    pub boot: String,
    /// Its number on that run of the node.
    pub actor: u64,
    /// Its fence: larger for each later holder of the name.
    pub fence: u64,
    /// What is said of it.
    pub value: String,
}

/// `GET /registry?prefix=P&limit=N`, as the answering node knows it: who answers under the names that begin so.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registry {
    /// By name, in byte order.
    pub names: Vec<Registered>,
    /// How many there are in the list.
    pub count: usize,
    /// Whether there are more names, behind these.
    pub more: bool,
}

/// One child: `GET /children/{name}`, the answer to `POST /children`, and an element of [`Children`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Child {
    /// Its name.
    pub name: String,
    /// Its kind.
    pub kind: String,
    /// `running`; `starting` (its node was told to start it); `waiting` (nobody runs it: it is about to be started, or no node can);
    /// `moving` (it ends on its node, to go on elsewhere); `stopping` (it ends for good).
    pub state: String,
    /// The node that runs it, or was told to; `null` while it waits.
    pub node: Option<String>,
    /// Which run of that node's process, in hexadecimal.
    pub boot: Option<String>,
    /// The fence of its newest start: larger for each later one.
    pub fence: u64,
    /// How often it was started after the first time.
    pub restarts: u32,
    /// `permanent`, `transient` or `temporary`.
    pub restart: Restart,
    /// The most restarts within the window.
    pub restarts_max: u32,
    /// The window, in milliseconds.
    pub window_ms: u64,
    /// `uniform`, `uniform_active`, `uniform_quorum`, `least_loaded` or `random`; any other word is the name of a placement that the
    /// nodes' program has of its own.
    pub placing: Placing,
    /// What is said of it.
    pub value: String,
}

/// `GET /children?prefix=P&limit=N`, and `GET /singletons` for those that are permanent, as the answering node knows them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Children {
    /// By name, in byte order.
    pub children: Vec<Child>,
    /// How many there are in the list.
    pub count: usize,
    /// Whether there are more, behind these.
    pub more: bool,
}

/// The body of `POST /children` and `POST /singletons`. What is answered is the [`Child`] that runs: 201, or 200 if it ran already.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartChild {
    /// Its name: 1 to 1,024 bytes.
    pub name: String,
    /// Its kind: one that the asked node has a factory for.
    pub kind: String,
    /// What it is started with, as the kind's arguments are in JSON; of `echo`, a string. At most 16 KiB on the wire.
    #[serde(default)]
    pub args: Value,
    /// `permanent`, which it is without; `transient` or `temporary`, of a child.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart: Option<Restart>,
    /// The most restarts within the window; 5 without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restarts_max: Option<u32>,
    /// The window, in milliseconds; 30,000 without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window_ms: Option<u64>,
    /// `uniform`, which it is without; `uniform_active`, `uniform_quorum`, `least_loaded` or `random`; any other word is the name of a
    /// placement that the nodes' program has of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub placing: Option<Placing>,
    /// What is to be said of it; nothing without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
}

/// What the cluster is told under one key: `GET` and `PUT /meta/{key}`, and an element of [`AllMeta`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meta {
    /// The key, which is no name.
    pub key: String,
    /// Larger for each later time that it was told something else.
    pub number: u64,
    /// What: any JSON.
    pub value: Value,
}

/// `GET /meta?prefix=P&limit=N`, as the answering node knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AllMeta {
    /// By key, in byte order.
    pub meta: Vec<Meta>,
    /// How many there are in the list.
    pub count: usize,
    /// Whether there are more, behind these.
    pub more: bool,
}

/// The answer to `POST /children/{name}/move`, with 202: it was decided, and goes on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moving {
    /// The child's name.
    pub name: String,
    /// The node that it runs on, and is to leave; `null` where it runs nowhere at present.
    pub from: Option<String>,
}
