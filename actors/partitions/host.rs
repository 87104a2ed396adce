//! What a partition's worker looks like from the runtime's side: bytes in, bytes out.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tumen_core::cluster::snapshot::Mode;
use tumen_core::ids::{GroupId, Kind, NodeName, PartitionId};
use tumen_core::partitions::fence::Fence;
use tumen_core::partitions::request::{MessageId, Reply};
use tumen_core::partitions::session::ask::Ask;

use super::machine::{Journal, MakeMachine};
use super::merging;

/// Where, and by what right, a worker runs.
#[derive(Clone, Debug)]
pub struct Place {
    /// The right to write that this run of the worker holds.
    pub fence: Fence,
    /// The partition's name for people, such as `partition-3` or `p-00500-00999`.
    pub partition_name: Arc<str>,
    /// The node that it runs on.
    pub node: NodeName,
}

impl Place {
    /// Which partition.
    pub const fn partition(&self) -> PartitionId {
        self.fence.partition
    }
}

/// One running worker of one partition.
pub trait Host: Send + 'static {
    /// Handles one message to its end. One runs at a time.
    fn handle<'a>(&'a mut self, message: MessageId, body: Bytes) -> BoxFuture<'a, Reply>;

    /// The journal that its handlers commit to; `None` for a worker without replicated state.
    fn journal(&mut self) -> Option<&mut Journal> {
        None
    }

    /// It became primary, and has handled nothing yet. What it commits is logged.
    fn promote(&mut self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async { Ok(()) })
    }

    /// The partition is about to move to another node, as planned: the last chance to commit something.
    fn hand_over(&mut self) -> BoxFuture<'_, ()> {
        Box::pin(async {})
    }

    /// What has to change for its state to hold as well what this one holds, which [`Machine::snapshot`] of the same kind
    /// wrote elsewhere. Each change is as its log has it. Nothing is changed yet. It may take its time where states are large.
    ///
    /// The error says why there is nothing to be had of that state.
    ///
    /// [`Machine::snapshot`]: super::machine::Machine::snapshot
    fn plan_merge(&self, state: &[u8]) -> Result<Vec<Bytes>, String> {
        let _ = state;
        Err("its kind of worker does not merge".into())
    }

    /// Makes one of these changes, and commits it to the journal. An error: it was not made.
    fn make_change(&mut self, change: Bytes) -> Result<(), String> {
        let _ = change;
        Err("its kind of worker does not merge".into())
    }

    /// The worker stops in good order: its partition moved, or its node stops.
    fn stop(&mut self) -> BoxFuture<'_, ()> {
        Box::pin(async {})
    }
}

/// Starts a worker. The error says why it could not be started; it is tried again with back-off.
pub type Start = Arc<dyn Fn(Place) -> BoxFuture<'static, Result<Box<dyn Host>, String>> + Send + Sync>;

/// A kind of worker that a node hosts.
#[derive(Clone)]
pub struct Hosted {
    /// Its name.
    pub kind: Kind,
    /// The messages that it handles, with their names for people.
    pub messages: Vec<(MessageId, &'static str)>,
    /// Those of its messages that only read.
    pub queries: Vec<MessageId>,
    /// What an acknowledgement of its promises, if it is replicated. `None`: what the cluster's mode does.
    pub mode: Option<Mode>,
    /// Whether what its state was in another cluster can be merged into what it is here ([`Host::plan_merge`]). Only of one
    /// that is replicated.
    pub merges: bool,
    /// How one begins.
    pub begin: Begin,
}

/// How a worker begins.
#[derive(Clone)]
pub enum Begin {
    /// Anew with each primary: its state lives and dies with the run of it.
    Start(Start),
    /// From what the partition's copies hold.
    Replicated(MakeMachine),
}

impl Hosted {
    /// Whether its state is kept on all copies of a partition.
    pub const fn is_replicated(&self) -> bool {
        matches!(self.begin, Begin::Replicated(_))
    }
}

impl fmt::Debug for Hosted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hosted").field("kind", &self.kind).finish_non_exhaustive()
    }
}

/// Two kinds that cannot live on one node. The node does not start.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KindsError {
    /// A kind is registered twice.
    #[error("the worker kind {0} is registered twice: give one of them another KIND")]
    Twice(Kind),
    /// Two kinds handle one message type.
    #[error(
        "the message {message:?} is handled by both {first} and {second}: a message's type names its worker"
    )]
    Message {
        /// The message's name.
        message: &'static str,
        /// The kind that was registered first.
        first: Kind,
        /// The other one.
        second: Kind,
    },
    /// A message type has a name that the runtime uses itself.
    #[error(
        "{kind} handles {message:?}, which is a name of the runtime's own: give the message another name"
    )]
    Reserved {
        /// The message's name.
        message: &'static str,
        /// The kind that handles it.
        kind: Kind,
    },
}

/// What carrying a message out twice would come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nobody remembers that it was carried out.
    Forgotten,
    /// It only reads: nothing.
    None,
    /// Its partition remembers it: it takes effect once, and is answered the same again.
    Once,
}

/// All kinds of worker that a node hosts. A partition runs one of each.
#[derive(Clone, Debug, Default)]
pub struct Kinds {
    kinds: Vec<Hosted>,
    by_message: BTreeMap<MessageId, (usize, Effect)>,
}

impl Kinds {
    /// These kinds, checked against each other and sorted by name.
    pub fn new(mut kinds: Vec<Hosted>) -> Result<Self, KindsError> {
        kinds.sort_by(|a, b| a.kind.cmp(&b.kind));
        if let Some(pair) = kinds.windows(2).find(|pair| pair[0].kind == pair[1].kind) {
            return Err(KindsError::Twice(pair[0].kind.clone()));
        }
        let mut by_message = BTreeMap::new();
        for (at, hosted) in kinds.iter().enumerate() {
            for (id, message) in &hosted.messages {
                let effect = match &hosted.begin {
                    _ if hosted.queries.contains(id) => Effect::None,
                    Begin::Start(_) => Effect::Forgotten,
                    Begin::Replicated(_) => Effect::Once,
                };
                if *id == Ask::message() || *id == merging::message() {
                    return Err(KindsError::Reserved { message, kind: hosted.kind.clone() });
                }
                if let Some((first, _)) = by_message.insert(*id, (at, effect)).filter(|first| first.0 != at) {
                    let (first, second) = (kinds[first].kind.clone(), hosted.kind.clone());
                    return Err(KindsError::Message { message, first, second });
                }
            }
        }
        // What concerns sessions concerns the whole partition: any worker at its log will do.
        if let Some(first) = kinds.iter().position(Hosted::is_replicated) {
            by_message.insert(Ask::message(), (first, Effect::None));
        }
        Ok(Self { kinds, by_message })
    }

    /// The kinds, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = &Hosted> {
        self.kinds.iter()
    }

    /// The replicated kinds, and what an acknowledgement of each promises where it says so itself.
    pub fn modes(&self) -> Vec<(Kind, Option<Mode>)> {
        let replicated = self.kinds.iter().filter(|hosted| hosted.is_replicated());
        replicated.map(|hosted| (hosted.kind.clone(), hosted.mode)).collect()
    }

    /// The replicated kinds that do not merge: what these kept apart cannot be brought together again.
    pub fn unmergeable(&self) -> impl Iterator<Item = &Kind> {
        let kinds = self.kinds.iter().filter(|hosted| hosted.is_replicated() && !hosted.merges);
        kinds.map(|hosted| &hosted.kind)
    }

    /// Where a kind of this name that merges stands, in the order of [`Self::iter`].
    pub fn index_merging(&self, kind: &Kind) -> Option<usize> {
        self.kinds.iter().position(|hosted| hosted.merges && hosted.is_replicated() && hosted.kind == *kind)
    }

    /// Which of the kinds, in the order of [`Self::iter`], handles a message.
    pub fn index_for(&self, message: MessageId) -> Option<usize> {
        self.by_message.get(&message).map(|(kind, _)| *kind)
    }

    /// What carrying out a message twice would come to.
    pub fn effect_of(&self, message: MessageId) -> Effect {
        self.by_message.get(&message).map_or(Effect::Forgotten, |(_, effect)| *effect)
    }

    /// How many kinds there are.
    pub fn len(&self) -> usize {
        self.kinds.len()
    }

    /// Whether the node hosts nothing.
    pub fn is_empty(&self) -> bool {
        self.kinds.is_empty()
    }
}

/// The kinds of worker that a node hosts, for each group of partitions.
#[derive(Clone, Debug, Default)]
pub struct KindsByGroup {
    /// The users' own.
    pub users: Kinds,
    /// Those of the names.
    pub names: Kinds,
}

impl KindsByGroup {
    /// The kinds of one group.
    pub const fn of(&self, group: GroupId) -> &Kinds {
        match group {
            GroupId::Users => &self.users,
            GroupId::Names => &self.names,
        }
    }
}
