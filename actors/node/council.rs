//! This node's part in consensus, life by life: openraft, its store, and what follows its news.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes};
use futures_util::future::BoxFuture;
use ractor::{Actor, ActorRef};
use tokio_util::sync::CancellationToken;
use tumen_core::ids::NodeName;

use super::assembly::StartError;
use super::greeter::Greeter;
use super::leading;
use super::parts::{Parts, until_stopping};
use crate::clock::Clock;
use crate::cluster::consensus;
use crate::store::{self, FILE_NAME, Space, Store, StoreError};
use crate::transport::{self, Channel, Transport};

/// How long openraft may take to end.
const COUNCIL_STOP_WITHIN: Duration = Duration::from_secs(5);

/// One life of this node's part in consensus.
pub(super) struct Council {
    pub(super) handle: consensus::Handle,
    actor: ActorRef<consensus::ConsensusMsg>,
    store: Store,
    over: CancellationToken,
}

impl Council {
    pub(super) async fn start(
        settings: &consensus::Settings,
        store: Store,
        transport: &Transport,
        clock: Clock,
        greeter: &Arc<Greeter>,
    ) -> Result<Self, StartError> {
        let failed = |why: String| StartError::Actor { actor: "Consensus", why };
        let port = Arc::new(RaftOver { transport: transport.clone(), greeter: Arc::clone(greeter) });
        let handle = consensus::Handle::new(settings.clone(), store.clone(), port, clock)
            .map_err(|error| failed(error.to_string()))?;
        let (actor, _) = consensus::Consensus::spawn(None, consensus::Consensus, handle.clone())
            .await
            .map_err(|error| failed(error.to_string()))?;
        Ok(Self { handle, actor, store, over: CancellationToken::new() })
    }

    /// Ends it: openraft first, then its store.
    async fn stop(&self) {
        self.over.cancel();
        if self.actor.stop_and_wait(None, Some(COUNCIL_STOP_WITHIN)).await.is_err() {
            drop(self.actor.kill_and_wait(Some(COUNCIL_STOP_WITHIN)).await);
        }
        if let Err(error) = self.store.close().await {
            tracing::warn!(%error, "the store was not closed in good order");
        }
    }
}

impl Parts {
    /// Takes no part in consensus any more.
    pub(super) async fn stop_council(&self) {
        self.council.load_full().stop().await;
    }

    /// Forgets what this node agreed on, bytes and all, and is a new life that agreed on nothing.
    pub(super) async fn renew_council(self: &Arc<Self>) -> Result<(), StartError> {
        let former = self.council.load_full();
        former.stop().await;
        if let Some(file) = former.store.path() {
            std::fs::remove_file(file).map_err(|error| {
                StartError::Store(format!("{} cannot be removed: {error}", file.display()))
            })?;
        }
        let store = open_store(self.data_dir.as_deref(), &self.id.node, &self.clock, IfDamaged::Refuse)?;
        let (settings, greeter) = (&self.consensus_settings, &self.greeter);
        let council = Council::start(settings, store, &self.transport, self.clock, greeter).await?;
        self.council.store(Arc::new(council));
        follow(self);
        Ok(())
    }
}

/// Starts what waits for Raft's news; it ends with this council.
pub(super) fn follow(parts: &Arc<Parts>) {
    let council = parts.council.load_full();
    let works: [BoxFuture<'static, ()>; 5] = [
        Box::pin(leading::follow_consensus(Arc::clone(parts), council.handle.clone())),
        Box::pin(leading::follow_acks(Arc::clone(parts), council.handle.clone())),
        Box::pin(leading::keep_voters(Arc::clone(parts), council.handle.clone())),
        Box::pin(leading::retire_when_unseated(Arc::clone(parts), council.handle.clone())),
        Box::pin(fail_with(Arc::clone(parts), Arc::clone(&council))),
    ];
    for work in works {
        let over = council.over.clone();
        parts.tasks.spawn(until_stopping(parts, async move {
            tokio::select! {
                () = over.cancelled() => {}
                () = work => {}
            }
        }));
    }
}

/// Waits for the end of a council that nobody ended, and has the node end too.
///
/// Consensus fails where the store failed: what it was told to keep may be lost, and nothing more is taken until the store
/// is opened anew. A node that went on without it would hold its seat as a voter who never answers, and whoever looks at
/// it would see a node that is well. So the process ends with its reason, and its next run reads what is truly there.
async fn fail_with(parts: Arc<Parts>, council: Arc<Council>) {
    if council.actor.wait(None).await.is_ok() && !council.over.is_cancelled() {
        let failure = council.handle.metrics().borrow().failure.clone();
        let why = failure.unwrap_or_else(|| "its actor ended".to_owned());
        let failing = Arc::clone(&parts);
        // A task of its own, for stopping the node ends this one.
        tokio::spawn(async move { failing.fail(format!("consensus failed: {why}")).await });
    }
}

/// Raft's messages over the control lane. Where each side of a split goes on, they say of which they are: nobody learns from another
/// one's leader, as whose word would stand in the midst of its own.
struct RaftOver {
    transport: Transport,
    greeter: Arc<Greeter>,
}

impl Parts {
    /// A peer's Raft says something.
    pub(super) fn handle_raft(&self, from: &NodeName, mut body: Bytes) {
        if self.sides.is_available() {
            let Ok(theirs) = body.try_get_u64_le() else { return };
            let ours = self.belonging().map_or(0, |ours| ours.id.0);
            if theirs != 0 && ours != 0 && theirs != ours {
                return;
            }
        }
        self.consensus().deliver(from, &body);
    }
}

impl consensus::RaftPort for RaftOver {
    fn send(&self, to: &NodeName, body: Bytes) -> Result<(), consensus::PortError> {
        let body = if self.greeter.consistency.is_available() {
            let side = self.greeter.belonging().map_or(0, |ours| ours.id.0);
            [&side.to_le_bytes()[..], &body].concat().into()
        } else {
            body
        };
        self.transport.cast(to, Channel::Raft, &body).map_err(|error| match error {
            transport::SendError::NoSession => consensus::PortError::Unreachable,
            transport::SendError::Overloaded | transport::SendError::TooLong { .. } => {
                consensus::PortError::Overloaded
            }
        })
    }
}

/// What becomes of a file with votes that is not as it was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum IfDamaged {
    /// It is left for an operator: nobody else may have what it had.
    Refuse,
    /// It is moved aside, and this node is a new life, which learns all there is from the others. It never votes as the one
    /// that may have forgotten something.
    BeginAnew,
}

pub(super) fn open_store(
    data_dir: Option<&Path>,
    name: &NodeName,
    clock: &Clock,
    if_damaged: IfDamaged,
) -> Result<Store, StartError> {
    let Some(dir) = data_dir else { return Ok(Store::memory(name, clock)) };
    let opened = match open_whole(dir, name, clock) {
        Err(StoreError::Damaged { path, reason }) if if_damaged == IfDamaged::BeginAnew => {
            let aside = store::set_aside(&path).map_err(|error| {
                StartError::Store(format!("{} cannot be moved aside: {error}", path.display()))
            })?;
            tracing::warn!(
                file = %path.display(), aside = %aside.display(), %reason,
                "the file with this node's votes is damaged: it is moved aside, and this node joins the others as a new life"
            );
            Store::open(dir, name, clock)
        }
        opened => opened,
    };
    opened.map_err(|error| StartError::Store(error.to_string()))
}

/// Opens the file, and reads all of it: what is damaged is to be found now, and not in the midst of an election.
fn open_whole(dir: &Path, name: &NodeName, clock: &Clock) -> Result<Store, StoreError> {
    let open = || -> Result<Store, StoreError> {
        let store = Store::open(dir, name, clock)?;
        store.check(Space::Raft)?;
        store.check(Space::RaftLog)?;
        Ok(store)
    };
    // The database may trip over what it finds.
    let opened = std::panic::catch_unwind(std::panic::AssertUnwindSafe(open));
    opened.unwrap_or_else(|_| {
        let (path, reason) = (dir.join(FILE_NAME), "the database gave up on it".to_owned());
        Err(StoreError::Damaged { path, reason })
    })
}
