//! Who a gossiping node is: its name, which run of it, and how often that run has come back to life.

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

use crate::cluster::member::NodeInfo;
use crate::ids::{Boot, NodeBoot, NodeName};
use crate::wire::{StableHasher, stable_hash};

/// One life of one node in the gossip. Cheap to clone.
///
/// SWIM's *down* is final for an identity, and a run of a process cannot change its boot. So a node that was
/// held for down by mistake (it was frozen, or cut off) comes back with a higher `revival`.
#[derive(Clone)]
pub(super) struct Identity(Arc<Inner>);

struct Inner {
    info: Arc<NodeInfo>,
    revival: u64,
    /// How it looks in a packet: news that is known already is recognised by its bytes.
    bytes: Box<[u8]>,
    /// Its part of the hash over a list of nodes.
    hash: u64,
    /// The hash of the name: most names that differ are told apart by it.
    place: u64,
}

impl Identity {
    pub(super) fn new(info: Arc<NodeInfo>, revival: u64) -> Self {
        let bytes = super::packet::identity_bytes(&info, revival);
        let mut hash = StableHasher::new();
        hash.write_str(info.name().as_str());
        hash.write_u64(info.boot().0);
        hash.write_u64(revival);
        let place = stable_hash(info.name().as_str().as_bytes());
        Self(Arc::new(Inner { info, revival, bytes, hash: hash.finish(), place }))
    }

    pub(super) fn info(&self) -> &Arc<NodeInfo> {
        &self.0.info
    }

    pub(super) fn id(&self) -> &NodeBoot {
        &self.0.info.id
    }

    pub(super) fn name(&self) -> &NodeName {
        &self.0.info.id.node
    }

    pub(super) fn boot(&self) -> Boot {
        self.0.info.id.boot
    }

    pub(super) fn revival(&self) -> u64 {
        self.0.revival
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0.bytes
    }

    pub(super) fn hash(&self) -> u64 {
        self.0.hash
    }

    /// The hash of its name.
    pub(super) fn place(&self) -> u64 {
        self.0.place
    }

    /// The same run, come back to life after the `revival` given.
    pub(super) fn revived_after(&self, revival: u64) -> Self {
        Self::new(self.0.info.clone(), revival.saturating_add(1))
    }

    /// Which of two lives of one name is the newer.
    pub(super) fn cmp_age(&self, other: &Self) -> Ordering {
        (self.boot(), self.revival()).cmp(&(other.boot(), other.revival()))
    }
}

/// What a run says of itself does not change, so metadata takes no part.
impl PartialEq for Identity {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || (self.revival() == other.revival() && self.id() == other.id())
    }
}

impl Eq for Identity {}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{}", self.id(), self.revival())
    }
}

/// What two lives of one node share: its name. foca searches its list by it.
pub(super) struct Place(Identity);

impl PartialEq for Place {
    fn eq(&self, other: &Self) -> bool {
        self.0.place() == other.0.place() && self.0.name() == other.0.name()
    }
}

impl foca::Identity for Identity {
    type Addr = Place;

    fn renew(&self) -> Option<Self> {
        (self.revival() < u64::MAX).then(|| self.revived_after(self.revival()))
    }

    fn addr(&self) -> Place {
        Place(self.clone())
    }

    fn win_addr_conflict(&self, adversary: &Self) -> bool {
        self.cmp_age(adversary).is_gt()
    }
}
