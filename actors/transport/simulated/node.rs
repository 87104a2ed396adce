//! One simulated node: what it registered, whom it knows, and what waits while it is frozen.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::time::Instant;
use tumen_core::cluster::transport::dialling::Dialling;
use tumen_core::ids::{NodeBoot, NodeName};

use super::agenda::Action;
use super::link::Way;
use crate::transport::{
    CHANNELS, Cookie, Counts, Greet, Handler, SERVICES, Serve, ServeBulk, Settings, Subscriber,
};

pub(super) struct Node {
    pub(super) local: NodeBoot,
    pub(super) address: String,
    pub(super) greet: Greet,
    pub(super) cookie: Cookie,
    pub(super) settings: Settings,
    /// Its process runs (or is frozen).
    pub(super) alive: bool,
    pub(super) started: bool,
    pub(super) frozen: bool,
    /// What happened to it while it was frozen.
    pub(super) missed: Vec<Action>,
    /// What it sent while it was frozen.
    pub(super) unsent: Vec<(Way, Action)>,
    pub(super) handlers: [Option<Handler>; CHANNELS],
    pub(super) servers: [Option<Arc<dyn Serve>>; SERVICES],
    pub(super) bulk_servers: [Option<Arc<dyn ServeBulk>>; SERVICES],
    pub(super) subscriber: Option<Subscriber>,
    /// The link to each peer, also one that is not yet up.
    pub(super) links: BTreeMap<NodeName, u64>,
    /// How many sessions it has had.
    pub(super) numbered: u64,
    pub(super) dialling: Dialling,
    /// When it is next asked whom to dial.
    pub(super) dials_at: Option<Instant>,
    pub(super) counts: Counts,
}

impl Node {
    pub(super) fn new(
        local: NodeBoot,
        address: String,
        greet: Greet,
        cookie: Cookie,
        settings: Settings,
        dialling: Dialling,
    ) -> Self {
        Self {
            local,
            address,
            greet,
            cookie,
            settings,
            alive: true,
            started: false,
            frozen: false,
            missed: Vec::new(),
            unsent: Vec::new(),
            handlers: Default::default(),
            servers: Default::default(),
            bulk_servers: Default::default(),
            subscriber: None,
            links: BTreeMap::new(),
            numbered: 0,
            dialling,
            dials_at: None,
            counts: Counts::default(),
        }
    }
}
