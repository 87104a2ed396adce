//! What this node brings along where it leaves its cluster: a founder that drops its own for another one of the same name, or, where
//! availability goes first, a node that goes from one side to another.
//!
//! ```text
//!  left ─▶ what stood in the table: Dropped ─▶ a member again ─▶ claimed, or asked for, anew ─┬─ free, or the same child: kept
//!            │ children end                                                                  └─ taken: lost, and who has it
//!            └ what waits for a name waits on ─▶ until it is kept, or lost
//! ```
//!
//! Names are held by actors of this very node, which live on, and of a child it is known what is to run: so nothing has to be
//! relied on in the cluster that is dropped. What a child's instance had in memory ends with it, and the next cluster's
//! directories number what they give out anew. A node that goes to another side keeps its children running, and they are adopted:
//! so who keeps a name that both sides have can be either of the two.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use tokio::sync::watch;
use tokio::time::Instant;
use tumen_core::ids::{NodeBoot, PartitionId};
use tumen_core::names::directory::{News, Refused, goes_on_without_node};
use tumen_core::names::request::{self, Done, Request};
use tumen_core::names::{Claim, ClaimNumber, Held, Holder, Name, Reason, Spec};
use tumen_core::partitions::request::Failure;

use super::conflicts::Lost;
use super::distributed_supervisor::DistributedSupervisorMsg;
use super::registry::RegistryMsg;
use super::{ASK_AGAIN_AFTER, NameFailure, Names};

/// How many names are claimed anew at once.
const AT_ONCE_MAX: usize = 256;
/// How long one try may take.
const TRY_WITHIN: Duration = Duration::from_secs(5);
/// The wait before the next one.
const TRY_AGAIN_AFTER: Duration = Duration::from_millis(100);
/// How long a child that another node of this side runs is left to that one to bring along.
const LEFT_TO_OTHERS: Duration = Duration::from_secs(3);
/// The most that the cluster may be told and a node brings along.
const META_MAX: usize = 1 << 18;

/// How often this node left a cluster, and whether it is a member of the next one by now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Moves {
    pub(super) left: u64,
    pub(super) arrived: bool,
}

/// What is on its way to the next cluster.
#[derive(Debug)]
pub(super) struct Bringing {
    pub(super) moves: watch::Sender<Moves>,
    /// The names, each with how often it is brought: a node may leave again before it is done.
    names: Mutex<BTreeMap<Name, u32>>,
}

impl Default for Bringing {
    fn default() -> Self {
        // Nothing is on its way where nothing was left.
        let moves = watch::Sender::new(Moves { left: 0, arrived: true });
        Self { moves, names: Mutex::default() }
    }
}

impl Bringing {
    fn names(&self) -> MutexGuard<'_, BTreeMap<Name, u32>> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How often this node left a cluster so far.
    pub(super) fn left(&self) -> u64 {
        self.moves.borrow().left
    }

    /// Whether a name is on its way, so that nothing standing under it says nothing.
    pub(super) fn is_coming(&self, name: &Name) -> bool {
        // Almost never is there anything.
        self.left() > 0 && self.names().contains_key(name)
    }

    /// Whether this node is a member of the cluster that it is on its way to, or is on its way to none.
    pub(super) fn has_arrived(&self) -> bool {
        self.moves.borrow().arrived
    }

    /// This node is a member that may serve.
    pub(super) fn handle_arrived(&self) {
        self.moves.send_if_modified(|moves| !std::mem::replace(&mut moves.arrived, true));
    }
}

/// Something that is claimed anew.
#[derive(Debug)]
struct Piece {
    name: Name,
    /// By which claim it was held in the cluster that was left.
    number: ClaimNumber,
    value: Bytes,
    what: What,
}

#[derive(Debug)]
enum What {
    Name { actor: u64 },
    Child { spec: Arc<Spec>, ran_on: Option<NodeBoot> },
    Meta,
}

impl Names {
    /// This node left its cluster, and nothing of that writes here any more: it knows no names, and claims anew what its
    /// actors hold and its children are.
    pub(crate) fn handle_left(&self) {
        self.shared.bringing.moves.send_modify(|moves| {
            *moves = Moves { left: moves.left + 1, arrived: false };
        });
        let meta = if self.shared.sides { self.meta_pieces(|_| true) } else { Vec::new() };
        let pieces: Vec<Piece> = {
            let mut coming = self.shared.bringing.names();
            let pieces = self.shared.table.standing().into_iter().filter_map(|(name, claim)| {
                let one = self.piece(&name, &claim);
                self.say_left(&name, &claim, one.is_some());
                one
            });
            let pieces: Vec<Piece> = pieces.collect();
            for one in &pieces {
                *coming.entry(one.name.clone()).or_default() += 1;
            }
            // Cleared under the lock: whoever finds nothing under a name finds it among those that come.
            self.shared.table.clear();
            pieces
        };
        self.shared.stirred.send_if_modified(|stops| !*stops);
        self.shared.ports.registry.cast(RegistryMsg::Left);
        self.shared.ports.supervisor.cast(DistributedSupervisorMsg::Left);
        self.bring_all(pieces.into_iter().chain(meta).collect());
    }

    /// A directory lost too many of its copies, and begins anew with what is left of it: what this node knows of it is claimed
    /// anew, once it serves.
    pub(crate) fn handle_directory_lost(&self, directory: PartitionId) {
        let of_it = |(name, _): &(Name, Claim)| tumen_core::names::directory_of(name) == directory;
        let standing = self.shared.table.standing().into_iter().filter(of_it);
        let pieces = standing.filter_map(|(name, claim)| self.piece(&name, &claim));
        let meta = self.meta_pieces(|key| tumen_core::names::directory_of(key) == directory);
        let pieces: Vec<Piece> = pieces.chain(meta).collect();
        let mut coming = self.shared.bringing.names();
        for one in pieces.iter().filter(|one| !matches!(one.what, What::Meta)) {
            *coming.entry(one.name.clone()).or_default() += 1;
        }
        drop(coming);
        self.shared.ports.supervisor.cast(DistributedSupervisorMsg::DirectoryLost(directory));
        self.bring_all(pieces);
    }

    /// What the cluster was told under such keys.
    fn meta_pieces(&self, fits: impl Fn(&Name) -> bool) -> Vec<Piece> {
        let told = self.shared.table.select_meta(b"", META_MAX).into_iter().filter(|(key, _)| fits(key));
        told.map(|(name, meta)| Piece { name, number: meta.number, value: meta.value, what: What::Meta })
            .collect()
    }

    fn bring_all(&self, pieces: Vec<Piece>) {
        if pieces.is_empty() {
            return;
        }
        tracing::info!(names = pieces.len(), "claimed anew");
        let names = self.clone();
        self.shared.runtime.spawn(async move {
            let mut stops = names.shared.stirred.subscribe();
            tokio::select! {
                () = names.bring(pieces) => {}
                _ = stops.wait_for(|stops| *stops) => {}
            }
        });
    }

    /// What is claimed anew of what stood under a name; `None`: nothing.
    fn piece(&self, name: &Name, claim: &Claim) -> Option<Piece> {
        let what = match &claim.held {
            Held::Plain(Holder { node, actor }) => {
                let holds = *node == self.shared.me && self.shared.registry.holds(name, *actor);
                holds.then_some(What::Name { actor: *actor })
            }
            Held::Child(child) => {
                let ran_on = child.stage.node().cloned();
                // A temporary child that runs here runs on, where it may.
                let runs_on = self.shared.sides && ran_on.as_ref() == Some(&self.shared.me);
                let goes_on = goes_on_without_node(child) || runs_on;
                goes_on.then(|| What::Child { spec: Arc::clone(&child.spec), ran_on })
            }
        }?;
        Some(Piece { name: name.clone(), number: claim.number, value: claim.value.clone(), what })
    }

    fn say_left(&self, name: &Name, claim: &Claim, goes_on: bool) {
        let Some(holder) = claim.holder() else { return };
        let reason = if !self.shared.sides {
            Reason::Dropped
        } else if holder.node == self.shared.me || self.reaches(&holder.node) {
            // It is about to be claimed anew by its own node.
            return;
        } else {
            Reason::NodeDown
        };
        self.shared.table.say(News::Unregistered {
            name: name.clone(),
            number: claim.number,
            holder: Some(holder.clone()),
            kind: claim.kind().cloned(),
            reason,
            goes_on,
        });
    }

    async fn bring(&self, pieces: Vec<Piece>) {
        self.arrived().await;
        // What is left to others for a while takes no room from what runs or is held here.
        let (own, others): (Vec<Piece>, Vec<Piece>) = pieces.into_iter().partition(|one| match &one.what {
            What::Child { ran_on, .. } => ran_on.as_ref() == Some(&self.shared.me),
            What::Name { .. } | What::Meta => true,
        });
        tokio::join!(self.bring_some(own), self.bring_some(others));
    }

    async fn bring_some(&self, pieces: Vec<Piece>) {
        futures_util::stream::iter(pieces)
            .for_each_concurrent(AT_ONCE_MAX, |one| async move {
                self.bring_one(&one).await;
                if matches!(one.what, What::Meta) {
                    return;
                }
                let mut coming = self.shared.bringing.names();
                if let Some(count) = coming.get_mut(&one.name) {
                    *count -= 1;
                    if *count == 0 {
                        coming.remove(&one.name);
                    }
                }
            })
            .await;
    }

    /// Waits until this node is a member again.
    async fn arrived(&self) {
        // The sender is as long there as this.
        drop(self.shared.bringing.moves.subscribe().wait_for(|moves| moves.arrived).await);
    }

    /// The actor of a child that runs on here without a directory, if one does.
    fn kept(&self, name: &Name) -> Option<u64> {
        self.shared.crew.lock().unwrap_or_else(PoisonError::into_inner).kept(name)
    }

    /// What is asked of the directory. `None`: nothing is to be claimed any more.
    fn request(&self, one: &Piece) -> Option<Request> {
        let (name, value) = (one.name.clone(), one.value.clone());
        let holder = |actor| Holder { node: self.shared.me.clone(), actor };
        let brought = |actor, spec| {
            let since = self.shared.registry.since(&one.name, actor);
            let (name, value) = (one.name.clone(), one.value.clone());
            Request::Bring(request::Brought { name, holder: holder(actor), value, spec, since })
        };
        Some(match &one.what {
            What::Name { actor } if !self.shared.registry.holds(&one.name, *actor) => return None,
            What::Name { actor } if self.shared.sides => brought(*actor, None),
            What::Name { actor } => Request::Claim { name, holder: holder(*actor), value },
            What::Child { spec, .. } => match self.kept(&one.name) {
                Some(actor) => brought(actor, Some(Arc::clone(spec))),
                // It ended on the way, and is not to run again.
                None if spec.restart == tumen_core::supervision::Restart::Temporary => return None,
                None => Request::Start { name, spec: Arc::clone(spec), value },
            },
            What::Meta => Request::BringMeta { key: name, value },
        })
    }

    async fn bring_one(&self, one: &Piece) {
        if !self.is_to_bring(one).await {
            return;
        }
        while let Some(request) = self.request(one) {
            match self.ask(&request, Instant::now() + TRY_WITHIN).await {
                Ok(Done { number: Some(number) }) if matches!(one.what, What::Child { .. }) => {
                    // Where it was started, and not brought, nothing runs on here under that name.
                    let adopted = DistributedSupervisorMsg::Adopted(one.name.clone(), number);
                    self.shared.ports.supervisor.cast(adopted);
                    return;
                }
                Ok(_) | Err(NameFailure::NotVisible) => return self.look_after(one),
                Err(NameFailure::Refused(Refused::NoMember(_))) => self.arrived().await,
                Err(NameFailure::Refused(why)) => return self.lose(one, &why),
                Err(why) => {
                    if !matches!(why, NameFailure::Call(Failure::NotReady | Failure::NoQuorum)) {
                        tracing::warn!(name = %one.name, %why, "not claimed anew yet; tried again");
                    }
                }
            }
            tokio::time::sleep(TRY_AGAIN_AFTER).await;
        }
    }

    /// Whether this node is to bring it: what another node of this side runs is left to that for a while.
    async fn is_to_bring(&self, one: &Piece) -> bool {
        let What::Child { ran_on: Some(node), .. } = &one.what else { return true };
        if !self.shared.sides || *node == self.shared.me {
            return true;
        }
        let until = Instant::now() + LEFT_TO_OTHERS;
        while self.reaches(node) && Instant::now() < until {
            if self.shared.table.claim(&one.name).is_some_and(|claim| claim.number != one.number) {
                return false;
            }
            tokio::time::sleep(ASK_AGAIN_AFTER).await;
        }
        true
    }

    /// An actor that ended, or gave its name back, while it was claimed anew does not hold it.
    fn look_after(&self, one: &Piece) {
        if let What::Name { actor } = one.what
            && !self.shared.registry.holds(&one.name, actor)
        {
            let name = one.name.clone();
            self.shared.ports.registry.cast(RegistryMsg::GiveBack { actor, name });
        }
    }

    /// Something else stands under the name.
    fn lose(&self, one: &Piece, why: &Refused) {
        if self.shared.sides {
            // There may be many, and each is told to whom it concerns.
            tracing::debug!(name = %one.name, %why, "lost to another side");
        } else {
            tracing::warn!(name = %one.name, %why, "lost to the cluster that was joined");
        }
        let to = match why {
            Refused::AlreadyRegistered { holder, .. } => Some(holder.clone()),
            _ => None,
        };
        let reason = to.clone().map_or(Reason::Dropped, Reason::Conflict);
        let me = |actor| Holder { node: self.shared.me.clone(), actor };
        let (holder, kind) = match &one.what {
            What::Name { actor } => {
                let lost = Lost { name: one.name.clone(), to: to.flatten() };
                self.shared.registry.lose(&lost, *actor);
                (Some(me(*actor)), None)
            }
            What::Child { spec, .. } => {
                let kept = self.kept(&one.name);
                if kept.is_some() {
                    let forsaken = DistributedSupervisorMsg::Forsaken(one.name.clone(), reason.clone());
                    self.shared.ports.supervisor.cast(forsaken);
                }
                (kept.map(me), Some(spec.kind.clone()))
            }
            What::Meta => return,
        };
        // Of a child that ran elsewhere, and is another one now, that node tells.
        if self.shared.sides && holder.is_none() {
            return;
        }
        let (name, number) = (one.name.clone(), one.number);
        self.shared.table.say(News::Unregistered { name, number, holder, kind, reason, goes_on: false });
    }

    /// Waits until it is known what became of a name that is brought along, for as long as anybody waits for that.
    pub(super) async fn is_brought(&self, name: &Name, deadline: Instant) {
        while self.shared.bringing.is_coming(name)
            && self.shared.table.reach(name).is_none()
            && Instant::now() < deadline
        {
            tokio::time::sleep(ASK_AGAIN_AFTER).await;
        }
    }
}
