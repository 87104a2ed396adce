//! What a table keeps of one name: as little as may be, for there may be a million of them on each node, and a lookup costs
//! what it has to fetch from memory.
//!
//! ```text
//!  name 24 · number 8 · actor 8 · peer 8 ─▶ shared by all names of one run of a node: who it is, and whether it is a member
//!           └─ more 16 ─▶ only where something is said of it, or this node sent something there
//! ```

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use tumen_core::UnixMillis;
use tumen_core::ids::NodeBoot;
use tumen_core::names::{Child, Claim, ClaimNumber, Held, Holder};

use crate::names::line::NameLine;

/// A run of a node that holds names.
#[derive(Debug)]
pub(super) struct Peer {
    node: NodeBoot,
    serves: AtomicBool,
}

impl Peer {
    pub(super) const fn new(node: NodeBoot, serves: bool) -> Self {
        Self { node, serves: AtomicBool::new(serves) }
    }

    pub(super) const fn node(&self) -> &NodeBoot {
        &self.node
    }

    pub(super) fn set_serves(&self, serves: bool) {
        self.serves.store(serves, Ordering::Release);
    }
}

/// What stands under a name, as a table keeps it.
pub struct Standing {
    /// By which claim.
    pub(super) number: ClaimNumber,
    held: Keeper,
    more: OnceLock<Box<More>>,
}

/// Who holds it.
enum Keeper {
    Plain { peer: Arc<Peer>, actor: u64 },
    Child { peer: Option<Arc<Peer>>, child: Box<Child> },
}

/// What most names have not.
#[derive(Default)]
struct More {
    value: Bytes,
    /// What this node sends there, once it sent anything.
    line: OnceLock<Arc<NameLine>>,
}

/// Said of most names.
static NOTHING: Bytes = Bytes::new();

impl Standing {
    /// What a claim is here. `peer`: of the node on which something may run under the name.
    pub(super) fn new(claim: &Claim, peer: Option<Arc<Peer>>) -> Self {
        let held = match (&claim.held, peer) {
            (Held::Plain(Holder { actor, .. }), Some(peer)) => Keeper::Plain { peer, actor: *actor },
            // An actor is on a node, always.
            (Held::Plain(Holder { node, actor }), None) => {
                Keeper::Plain { peer: Arc::new(Peer::new(node.clone(), false)), actor: *actor }
            }
            (Held::Child(child), peer) => Keeper::Child { peer, child: child.clone() },
        };
        let more = OnceLock::new();
        if !claim.value.is_empty() {
            let said = More { value: claim.value.clone(), line: OnceLock::new() };
            drop(more.set(Box::new(said)));
        }
        Self { number: claim.number, held, more }
    }

    /// What is said of it.
    pub fn value(&self) -> &Bytes {
        self.more.get().map_or(&NOTHING, |more| &more.value)
    }

    /// The child, if it is one.
    pub fn child(&self) -> Option<&Child> {
        match &self.held {
            Keeper::Plain { .. } => None,
            Keeper::Child { child, .. } => Some(child),
        }
    }

    /// The node on which something may run under the name.
    pub fn node(&self) -> Option<&NodeBoot> {
        match &self.held {
            Keeper::Plain { peer, .. } => Some(&peer.node),
            Keeper::Child { child, .. } => child.stage.node(),
        }
    }

    /// The node on which somebody holds the name, and answers as long as that node is a member.
    pub fn held_on(&self) -> Option<&NodeBoot> {
        match &self.held {
            Keeper::Plain { peer, .. } => Some(&peer.node),
            Keeper::Child { child, .. } => child.stage.holder().map(|holder| &holder.node),
        }
    }

    /// Who answers, if anybody does: never somebody on a node that is no member any more.
    pub(super) fn answers(&self) -> Option<Holder> {
        if !self.serves() {
            return None;
        }
        match &self.held {
            Keeper::Plain { peer, actor } => Some(Holder { node: peer.node.clone(), actor: *actor }),
            Keeper::Child { child, .. } => child.stage.holder().cloned(),
        }
    }

    fn serves(&self) -> bool {
        let peer = match &self.held {
            Keeper::Plain { peer, .. } => Some(peer),
            Keeper::Child { peer, .. } => peer.as_ref(),
        };
        peer.is_some_and(|peer| peer.serves.load(Ordering::Acquire))
    }

    /// An actor's name ends with its node; a child's stands until it is over.
    pub(super) fn may_be_shown(&self) -> bool {
        matches!(self.held, Keeper::Child { .. }) || self.serves()
    }

    /// The claim as it is in the directory.
    pub(super) fn claim(&self) -> Claim {
        let held = match &self.held {
            Keeper::Plain { peer, actor } => Held::Plain(Holder { node: peer.node.clone(), actor: *actor }),
            Keeper::Child { child, .. } => Held::Child(child.clone()),
        };
        Claim { number: self.number, value: self.value().clone(), held, since: UnixMillis(0) }
    }

    /// What this node sends there.
    pub(super) fn line(&self) -> &Arc<NameLine> {
        self.more.get_or_init(Box::default).line.get_or_init(Arc::default)
    }

    /// What this node sends to whoever is next, once this is over.
    pub(super) fn into_line(self) -> Option<Arc<NameLine>> {
        self.more.into_inner()?.line.into_inner()
    }

    /// Goes on with what this node sends there.
    pub(super) fn keep_line(&self, line: Arc<NameLine>) {
        drop(self.more.get_or_init(Box::default).line.set(line));
    }
}

#[cfg(test)]
mod tests {
    use tumen_core::names::Name;

    use super::*;

    #[test]
    fn a_name_takes_little_room() {
        assert!(size_of::<(Name, Standing)>() <= 72, "{}", size_of::<(Name, Standing)>());
    }
}
