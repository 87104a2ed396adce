//! What stands under each name, as far as this node knows: read without waiting, by every lookup.
//!
//! ```text
//!  a copy's log up to the mark ──┐
//!  tail of a directory ──────────┼─▶ shard: name → claim, key → metadata, at a position ─▶ lookup · select · await
//!  plans ─▶ who is a member ─────┘       └─▶ news, for listeners · each step, for who follows
//! ```
//!
//! Only what surely holds comes here, in the order of the directory's log: what is newer replaces, what is older is ignored.

mod part;
mod standing;

use std::collections::{BTreeMap, HashMap, VecDeque, hash_map};
use std::ops::{Bound, ControlFlow};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use bytes::Bytes;
use tokio::sync::{broadcast, watch};
use tumen_core::cluster::snapshot::Snapshot;
use tumen_core::ids::{Kind, NodeBoot, NodeName, PartitionId};
use tumen_core::names::directory::{Change, News};
use tumen_core::names::{
    Claim, ClaimNumber, DIRECTORIES, DIRECTORY_COPIES, Directory, Holder, Meta, Name, Reason, directory_of,
    directory_of_bytes,
};
use tumen_core::partitions::identity::Position;

use self::standing::Peer;
pub use self::standing::Standing;
use super::figures::Tallies;
use super::line::{NameLine, Over};
pub use part::{Mark, Part};

/// The most news that wait for a slow listener.
const NEWS_MAX: usize = 8192;

/// How many steps of a directory are kept for those who follow it.
const RECENT_MAX: usize = 512;

/// One entry of a directory's log, and what it came to.
#[derive(Clone, Debug)]
pub struct Step {
    /// Where it stands.
    pub position: Position,
    /// What was changed.
    pub changes: Vec<Change>,
    /// What stands under each name that it touched.
    pub now: Vec<(Name, Option<Claim>)>,
    /// What is told under each key that it touched.
    pub meta: Vec<(Name, Option<Meta>)>,
    /// What that is for listeners.
    pub news: Vec<News>,
}

/// Steps that came after something that is known, each with the newest number that was given by then.
pub type Steps = Vec<(ClaimNumber, Arc<Step>)>;

/// Whoever wants each step of one directory, in order. Called under a lock: be quick. Once it breaks it is called no more.
pub type Follower = Box<dyn FnMut(&Arc<Step>) -> ControlFlow<()> + Send + Sync>;

/// Who answers under a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// By which claim. Of a child: the number of its start, which is its fence.
    pub number: ClaimNumber,
    /// Who.
    pub holder: Holder,
    /// The kind, of a child.
    pub kind: Option<Kind>,
    /// What it says of itself.
    pub value: Bytes,
}

/// What this node knows of all names. Cheap to clone; all clones see the same.
#[derive(Clone)]
pub struct NameTable {
    shared: Arc<Shared>,
}

struct Shared {
    shards: Box<[Shard]>,
    peers: Mutex<Peers>,
    news: broadcast::Sender<Arc<News>>,
    tallies: Tallies,
    /// Whether there are nodes without copies, which ask for steps.
    keeps: AtomicBool,
}

struct Shard {
    inner: RwLock<Inner>,
    position: watch::Sender<Position>,
}

#[derive(Default)]
struct Inner {
    /// Hashed by a seed of its own: who names things cannot know which names meet.
    entries: HashMap<Name, Standing, foldhash::fast::RandomState>,
    meta: BTreeMap<Name, Meta>,
    last: ClaimNumber,
    position: Position,
    followers: Vec<Follower>,
    /// The node of the claim that came last: that of the next one is often the same.
    newest: Option<Arc<Peer>>,
    /// The last steps, each with the position before it, for nodes without a copy.
    recent: VecDeque<(Position, ClaimNumber, Arc<Step>)>,
}

/// What stands under a name, for whoever sends something there.
pub(super) struct Reach {
    /// Who answers, if anybody does, and by which claim.
    pub(super) holder: Option<(ClaimNumber, Holder)>,
    /// What this node sends there.
    pub(super) line: Arc<NameLine>,
}

/// Which runs of which nodes may hold names, by the newest plan.
#[derive(Default)]
struct Peers {
    members: BTreeMap<NodeName, NodeBoot>,
    known: BTreeMap<NodeBoot, Arc<Peer>>,
}

impl Peers {
    fn serves(&self, node: &NodeBoot) -> bool {
        self.members.get(&node.node) == Some(node)
    }

    fn get(&mut self, node: &NodeBoot) -> Arc<Peer> {
        if let Some(peer) = self.known.get(node) {
            return Arc::clone(peer);
        }
        let peer = Arc::new(Peer::new(node.clone(), self.serves(node)));
        self.known.insert(node.clone(), Arc::clone(&peer));
        peer
    }
}

impl Default for NameTable {
    fn default() -> Self {
        let shard = |_| Shard { inner: RwLock::default(), position: watch::Sender::new(Position::ZERO) };
        let shards = (0..DIRECTORIES).map(shard).collect();
        Self {
            shared: Arc::new(Shared {
                shards,
                peers: Mutex::default(),
                news: broadcast::Sender::new(NEWS_MAX),
                tallies: Tallies::default(),
                keeps: AtomicBool::new(false),
            }),
        }
    }
}

impl NameTable {
    fn shard(&self, directory: PartitionId) -> Option<&Shard> {
        self.shared.shards.get(directory.index as usize)
    }

    fn read<T>(&self, directory: PartitionId, look: impl FnOnce(&Inner) -> T) -> Option<T> {
        let shard = self.shard(directory)?;
        Some(look(&shard.inner.read().unwrap_or_else(PoisonError::into_inner)))
    }

    /// Who answers under a name, if anybody does: never somebody on a node that is no member any more.
    pub fn lookup(&self, name: &Name) -> Option<Found> {
        self.look(name.as_bytes(), |_, found| found)
    }

    /// The same by a name's bytes, of which no name has to be made: what is made of the name that stands there and of who answers.
    pub fn look<T>(&self, name: &[u8], make: impl FnOnce(&Name, Found) -> T) -> Option<T> {
        self.read(directory_of_bytes(name), |shard| {
            let (name, standing) = shard.entries.get_key_value(name)?;
            let holder = standing.answers()?;
            let kind = standing.child().map(|child| child.spec.kind.clone());
            let (number, value) = (standing.number, standing.value().clone());
            Some(make(name, Found { number, holder, kind, value }))
        })?
    }

    /// The same for whoever sends something there, whether anybody answers at present or not. `None`: nothing stands there.
    pub(super) fn reach(&self, name: &Name) -> Option<Reach> {
        self.read(directory_of(name), |shard| {
            let standing = shard.entries.get(name)?;
            let holder = standing.answers().map(|holder| (standing.number, holder));
            Some(Reach { holder, line: Arc::clone(standing.line()) })
        })?
    }

    /// What stands under a name, whether anybody answers at present or not.
    pub fn claim(&self, name: &Name) -> Option<Claim> {
        self.read(directory_of(name), |shard| shard.entries.get(name).map(Standing::claim))?
    }

    /// Who answers under a name by a later claim than this one, if a later one stands there.
    pub(super) fn after_claim(&self, name: &Name, number: ClaimNumber) -> Option<Option<Holder>> {
        self.read(directory_of(name), |shard| {
            let standing = shard.entries.get(name).filter(|standing| standing.number > number)?;
            Some(standing.claim().holder().cloned())
        })?
    }

    /// What the cluster is told under a key.
    pub fn meta(&self, key: &Name) -> Option<Meta> {
        self.read(directory_of(key), |shard| shard.meta.get(key).cloned())?
    }

    /// The keys that begin so and what is told there, in order, at most so many of them.
    pub fn select_meta(&self, prefix: &[u8], limit: usize) -> Vec<(Name, Meta)> {
        let mut found = BTreeMap::new();
        for shard in &self.shared.shards {
            let shard = shard.inner.read().unwrap_or_else(PoisonError::into_inner);
            let behind = shard.meta.range::<[u8], _>((Bound::Included(prefix), Bound::Unbounded));
            let like = behind.take_while(|(key, _)| key.as_bytes().starts_with(prefix));
            found.extend(like.take(limit).map(|(key, meta)| (key.clone(), meta.clone())));
        }
        found.into_iter().take(limit).collect()
    }

    /// The names that begin so and what stands there, in order, at most so many of them.
    pub fn select(
        &self,
        prefix: &[u8],
        limit: usize,
        wanted: impl Fn(&Name, &Standing) -> bool,
    ) -> Vec<(Name, Claim)> {
        let mut found = BTreeMap::new();
        for shard in &self.shared.shards {
            let shard = shard.inner.read().unwrap_or_else(PoisonError::into_inner);
            for (name, standing) in &shard.entries {
                let full = found.len() >= limit;
                let comes_in = !full || found.last_key_value().is_some_and(|(last, _)| name < last);
                if comes_in
                    && name.as_bytes().starts_with(prefix)
                    && standing.may_be_shown()
                    && wanted(name, standing)
                {
                    if full {
                        found.pop_last();
                    }
                    found.insert(name.clone(), standing.claim());
                }
            }
        }
        found.into_iter().collect()
    }

    /// How many names begin so.
    pub fn count(&self, prefix: &[u8], wanted: impl Fn(&Name, &Standing) -> bool) -> usize {
        let count = |shard: &Shard| {
            let shard = shard.inner.read().unwrap_or_else(PoisonError::into_inner);
            let counts = |(name, standing): &(&Name, &Standing)| {
                name.as_bytes().starts_with(prefix) && standing.may_be_shown() && wanted(name, standing)
            };
            shard.entries.iter().filter(counts).count()
        };
        self.shared.shards.iter().map(count).sum()
    }

    /// How many names are known, those whose nodes just went included. Costs next to nothing.
    pub fn len(&self) -> usize {
        let len = |shard: &Shard| shard.inner.read().unwrap_or_else(PoisonError::into_inner).entries.len();
        self.shared.shards.iter().map(len).sum()
    }

    /// Whether none is known.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Up to where this node knows a directory.
    pub fn position(&self, directory: PartitionId) -> Position {
        self.read(directory, |shard| shard.position).unwrap_or_default()
    }

    /// The same, as it changes.
    pub fn positions(&self, directory: PartitionId) -> Option<watch::Receiver<Position>> {
        Some(self.shard(directory)?.position.subscribe())
    }

    /// What becomes known from now on.
    pub fn news(&self) -> broadcast::Receiver<Arc<News>> {
        self.shared.news.subscribe()
    }

    /// A directory as it is known here, and from then on each step of it.
    pub fn follow(&self, directory: PartitionId, follower: Follower) -> Option<(Directory, Position)> {
        let shard = self.shard(directory)?;
        let mut inner = shard.inner.write().unwrap_or_else(PoisonError::into_inner);
        inner.followers.push(follower);
        let claims = inner.entries.iter().map(|(name, standing)| (name.clone(), standing.claim()));
        let meta = inner.meta.iter().map(|(key, meta)| (key.clone(), meta.clone()));
        Some((Directory::of(claims, meta, inner.last), inner.position))
    }

    /// The next step of a directory's log after `previous`. `false`: steps before it are missing here, and the whole is needed.
    pub fn take(&self, directory: PartitionId, previous: Position, last: ClaimNumber, step: Step) -> bool {
        let Some(shard) = self.shard(directory) else { return true };
        let mut inner = shard.inner.write().unwrap_or_else(PoisonError::into_inner);
        if step.position <= inner.position {
            return true;
        }
        if inner.position != previous {
            return false;
        }
        for (name, claim) in &step.now {
            self.put(&mut inner, name, claim.as_ref());
        }
        for (key, meta) in &step.meta {
            match meta {
                Some(meta) => drop(inner.meta.insert(key.clone(), meta.clone())),
                None => drop(inner.meta.remove(key)),
            }
        }
        inner.last = last;
        let step = Arc::new(step);
        if self.shared.keeps.load(Ordering::Relaxed) {
            if inner.recent.len() >= RECENT_MAX {
                inner.recent.pop_front();
            }
            inner.recent.push_back((previous, last, Arc::clone(&step)));
        }
        self.advance(shard, &mut inner, step.position, &step.news);
        inner.followers.retain_mut(|follower| follower(&step).is_continue());
        true
    }

    /// All of a directory at this position, if that is newer than what is known here. Whoever follows it has to begin anew.
    pub fn take_whole(&self, directory: PartitionId, position: Position, whole: &Directory) {
        let Some(shard) = self.shard(directory) else { return };
        let mut inner = shard.inner.write().unwrap_or_else(PoisonError::into_inner);
        if position <= inner.position {
            return;
        }
        let mut news = Vec::new();
        let gone: Vec<Name> =
            inner.entries.keys().filter(|name| whole.get(name).is_none()).cloned().collect();
        for name in gone {
            let former = inner.entries.get(&name).map(Standing::claim);
            news.extend(former.and_then(|former| unregistered(&name, &former)));
            self.put(&mut inner, &name, None);
        }
        for (name, claim) in whole.iter() {
            let former = inner.entries.get(name).map(Standing::claim);
            let moved = former.as_ref().map(|claim| (claim.number, claim.holder().cloned()))
                != Some((claim.number, claim.holder().cloned()));
            if moved {
                news.extend(former.and_then(|former| unregistered(name, &former)));
                news.extend(claim.holder().map(|holder| News::Registered {
                    name: name.clone(),
                    number: claim.number,
                    holder: holder.clone(),
                    kind: claim.kind().cloned(),
                }));
            }
            self.put(&mut inner, name, Some(claim));
        }
        inner.meta = whole.all_meta().map(|(key, meta)| (key.clone(), meta.clone())).collect();
        inner.last = whole.last_number();
        inner.followers.clear();
        inner.recent.clear();
        self.advance(shard, &mut inner, position, &news);
    }

    /// Keeps steps for nodes without copies, as where there are some.
    #[cfg(test)]
    pub(super) fn keep_steps(&self) {
        self.shared.keeps.store(true, Ordering::Relaxed);
    }

    /// What this node counts of names.
    pub(super) fn tallies(&self) -> &Tallies {
        &self.shared.tallies
    }

    fn advance(&self, shard: &Shard, inner: &mut Inner, position: Position, news: &[News]) {
        inner.position = position;
        for piece in news {
            // Nobody may be listening.
            drop(self.shared.news.send(Arc::new(piece.clone())));
        }
        shard.position.send_replace(position);
    }

    fn put(&self, inner: &mut Inner, name: &Name, claim: Option<&Claim>) {
        let Some(claim) = claim else {
            if let Some(line) = inner.entries.remove(name).and_then(Standing::into_line) {
                line.close(Over::Free);
            }
            return;
        };
        let peer = claim.node().map(|node| self.peer(inner, node));
        let standing = Standing::new(claim, peer);
        match inner.entries.entry(name.clone()) {
            hash_map::Entry::Vacant(free) => drop(free.insert(standing)),
            // What waits for the name waits for whoever is next.
            hash_map::Entry::Occupied(mut taken) => {
                let former = std::mem::replace(taken.get_mut(), standing);
                if let Some(line) = former.into_line() {
                    line.stir();
                    taken.get_mut().keep_line(line);
                }
            }
        }
    }

    fn peer(&self, inner: &mut Inner, node: &NodeBoot) -> Arc<Peer> {
        match &inner.newest {
            Some(peer) if peer.node() == node => Arc::clone(peer),
            _ => {
                let peer = self.shared.peers.lock().unwrap_or_else(PoisonError::into_inner).get(node);
                inner.newest = Some(Arc::clone(&peer));
                peer
            }
        }
    }

    /// A plan says who is a member: on others nobody answers any more.
    pub fn handle_plan(&self, plan: &Snapshot) {
        let serves = plan.members.iter().filter(|member| member.status.may_serve());
        let copies = DIRECTORY_COPIES as usize;
        self.shared.keeps.store(plan.members.len() > copies, Ordering::Relaxed);
        let members = serves.map(|member| (member.name().clone(), member.id().clone())).collect();
        let mut peers = self.shared.peers.lock().unwrap_or_else(PoisonError::into_inner);
        peers.members = members;
        let Peers { members, known } = &mut *peers;
        known.retain(|node, peer| {
            peer.set_serves(members.get(&node.node) == Some(node));
            Arc::strong_count(peer) > 1
        });
    }

    /// Whether a run of a node may hold names, by the newest plan.
    pub fn is_member(&self, node: &NodeBoot) -> bool {
        self.shared.peers.lock().unwrap_or_else(PoisonError::into_inner).serves(node)
    }

    /// All names, and what stands there.
    pub(super) fn standing(&self) -> Vec<(Name, Claim)> {
        let mut all = Vec::new();
        for shard in &self.shared.shards {
            let shard = shard.inner.read().unwrap_or_else(PoisonError::into_inner);
            all.extend(shard.entries.iter().map(|(name, standing)| (name.clone(), standing.claim())));
        }
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all
    }

    /// Tells listeners what no directory says.
    pub(super) fn say(&self, news: News) {
        // Nobody may be listening.
        drop(self.shared.news.send(Arc::new(news)));
    }

    /// This node left its cluster: it knows no names.
    pub(super) fn clear(&self) {
        for shard in &self.shared.shards {
            let mut inner = shard.inner.write().unwrap_or_else(PoisonError::into_inner);
            let former = std::mem::take(&mut *inner);
            for line in former.entries.into_values().filter_map(Standing::into_line) {
                line.close(Over::Moved);
            }
            shard.position.send_replace(Position::ZERO);
        }
        *self.shared.peers.lock().unwrap_or_else(PoisonError::into_inner) = Peers::default();
    }
}

fn unregistered(name: &Name, former: &Claim) -> Option<News> {
    let holder = former.holder()?.clone();
    Some(News::Unregistered {
        name: name.clone(),
        number: former.number,
        holder: Some(holder),
        kind: former.kind().cloned(),
        reason: Reason::Normal,
        goes_on: former.child().is_some(),
    })
}

impl std::fmt::Debug for NameTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NameTable").field("names", &self.len()).finish()
    }
}

#[cfg(test)]
mod tests;
