//! What this node brings along where it drops its own cluster for another one of the same name.
//!
//! ```text
//!  left ─▶ what stood in the table: Dropped ─▶ a member again ─▶ claimed, or asked for, anew ─┬─ free, or the same child: kept
//!            │ children end                                                                  └─ taken: lost, and who has it
//!            └ what waits for a name waits on ─▶ until it is kept, or lost
//! ```
//!
//! Names are held by actors of this very node, which live on, and of a child it is known what is to run: so nothing has to be
//! relied on in the cluster that is dropped. What a child's instance had in memory ends with it, and the next cluster's
//! directories number what they give out anew.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use tokio::sync::watch;
use tokio::time::Instant;
use tumen_core::names::directory::{News, Refused, goes_on_without_node};
use tumen_core::names::request::Request;
use tumen_core::names::{Claim, ClaimNumber, Held, Holder, Name, Reason, Spec};
use tumen_core::partitions::request::Failure;

use super::{ASK_AGAIN_AFTER, NameFailure, Names};

/// How many names are claimed anew at once.
const AT_ONCE_MAX: usize = 256;
/// How long one try may take.
const TRY_WITHIN: Duration = Duration::from_secs(5);
/// The wait before the next one.
const TRY_AGAIN_AFTER: Duration = Duration::from_millis(100);

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

/// One name that is claimed anew.
#[derive(Debug)]
struct Brought {
    name: Name,
    /// By which claim it was held in the cluster that was dropped.
    number: ClaimNumber,
    value: Bytes,
    what: What,
}

#[derive(Debug)]
enum What {
    Name { actor: u64 },
    Child { spec: Arc<Spec> },
}

impl Names {
    /// This node left its cluster, and nothing of that writes here any more: it knows no names, and claims anew what its
    /// actors hold and its children are.
    pub(crate) fn handle_left(&self) {
        self.shared.bringing.moves.send_modify(|moves| {
            *moves = Moves { left: moves.left + 1, arrived: false };
        });
        let brought: Vec<Brought> = {
            let mut coming = self.shared.bringing.names();
            let brought = self.shared.table.standing().into_iter().filter_map(|(name, claim)| {
                let one = self.brought(&name, &claim);
                self.say_dropped(&name, &claim, one.is_some());
                one
            });
            let brought: Vec<Brought> = brought.collect();
            for one in &brought {
                *coming.entry(one.name.clone()).or_default() += 1;
            }
            // Cleared under the lock: whoever finds nothing under a name finds it among those that come.
            self.shared.table.clear();
            brought
        };
        self.shared.stirred.send_if_modified(|stops| !*stops);
        self.shared.ports.registry.cast(super::RegistryMsg::Left);
        self.shared.ports.supervisor.cast(super::DistributedSupervisorMsg::Left);
        if brought.is_empty() {
            return;
        }
        tracing::info!(names = brought.len(), "claimed anew in the cluster that is joined");
        let names = self.clone();
        self.shared.runtime.spawn(async move {
            let mut stops = names.shared.stirred.subscribe();
            tokio::select! {
                () = names.bring(brought) => {}
                _ = stops.wait_for(|stops| *stops) => {}
            }
        });
    }

    /// What is claimed anew of what stood under a name; `None`: nothing.
    fn brought(&self, name: &Name, claim: &Claim) -> Option<Brought> {
        let what = match &claim.held {
            Held::Plain(Holder { node, actor }) => {
                let holds = *node == self.shared.me && self.shared.registry.holds(name, *actor);
                holds.then_some(What::Name { actor: *actor })
            }
            Held::Child(child) => {
                goes_on_without_node(child).then(|| What::Child { spec: Arc::clone(&child.spec) })
            }
        }?;
        Some(Brought { name: name.clone(), number: claim.number, value: claim.value.clone(), what })
    }

    fn say_dropped(&self, name: &Name, claim: &Claim, goes_on: bool) {
        let Some(holder) = claim.holder() else { return };
        self.shared.table.say(News::Unregistered {
            name: name.clone(),
            number: claim.number,
            holder: Some(holder.clone()),
            kind: claim.kind().cloned(),
            reason: Reason::Dropped,
            goes_on,
        });
    }

    async fn bring(&self, brought: Vec<Brought>) {
        self.arrived().await;
        futures_util::stream::iter(brought)
            .for_each_concurrent(AT_ONCE_MAX, |one| async move {
                self.bring_one(&one).await;
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

    async fn bring_one(&self, one: &Brought) {
        loop {
            let request = match &one.what {
                What::Name { actor } if !self.shared.registry.holds(&one.name, *actor) => return,
                What::Name { actor } => Request::Claim {
                    name: one.name.clone(),
                    holder: Holder { node: self.shared.me.clone(), actor: *actor },
                    value: one.value.clone(),
                },
                What::Child { spec } => Request::Start {
                    name: one.name.clone(),
                    spec: Arc::clone(spec),
                    value: one.value.clone(),
                },
            };
            match self.ask(&request, Instant::now() + TRY_WITHIN).await {
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

    /// An actor that ended, or gave its name back, while it was claimed anew does not hold it.
    fn look_after(&self, one: &Brought) {
        if let What::Name { actor } = one.what
            && !self.shared.registry.holds(&one.name, actor)
        {
            let name = one.name.clone();
            self.shared.ports.registry.cast(super::RegistryMsg::GiveBack { actor, name });
        }
    }

    /// Something else stands under the name.
    fn lose(&self, one: &Brought, why: &Refused) {
        tracing::warn!(name = %one.name, %why, "lost to the cluster that was joined");
        let (holder, kind) = match &one.what {
            What::Name { actor } => {
                self.shared.registry.want_no_more(&one.name, *actor);
                (Some(Holder { node: self.shared.me.clone(), actor: *actor }), None)
            }
            What::Child { spec } => (None, Some(spec.kind.clone())),
        };
        let reason = match why {
            Refused::AlreadyRegistered { holder, .. } => Reason::Conflict(holder.clone()),
            _ => Reason::Dropped,
        };
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
