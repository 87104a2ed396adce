//! The tasks that run beside openraft: they show what it says, and ask the majority again and again.

use std::sync::Arc;

use openraft::ServerState;
use tokio::task::JoinHandle;
use tumen_core::ids::Term;

use super::ConsensusMsg;
use super::shared::{Shared, electorate};
use super::status::Ack;
use super::types::{Raft, Vote};

/// A task that ends when this is dropped.
#[derive(Debug)]
pub(super) struct Task(JoinHandle<()>);

impl Task {
    pub(super) fn spawn(future: impl Future<Output = ()> + Send + 'static) -> Self {
        Self(tokio::spawn(future))
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Shows what openraft says of itself, and tells the actor where it stands.
pub(super) async fn run_watch(shared: Arc<Shared>, raft: Arc<Raft>) {
    let mut metrics = raft.metrics();
    let mut told = None;
    loop {
        let seen = metrics.borrow_and_update().clone();
        if let Err(fatal) = &seen.running_state {
            return shared.cast(ConsensusMsg::Failed { why: fatal.to_string() });
        }
        shared.publish(&seen);
        let standing = (electorate(&seen), seen.state == ServerState::Leader, seen.vote);
        if told.as_ref() != Some(&standing) {
            let membership = Arc::clone(&seen.membership_config);
            let (electorate, leading, vote) = standing.clone();
            shared.cast(ConsensusMsg::StandingChanged { electorate, leading, vote, membership });
            told = Some(standing);
        }
        if metrics.changed().await.is_err() {
            // Whoever ends openraft in good order ends this task first.
            return shared.cast(ConsensusMsg::Failed { why: "openraft ended by itself".to_owned() });
        }
    }
}

/// Asks the majority whether it still holds this node for their leader, one question at a time.
///
/// openraft itself would tell how long ago a majority answered, but by a clock that stops while the process or the
/// machine is frozen. So the moment is taken before the question, by a clock that does not.
pub(super) async fn run_acks(shared: Arc<Shared>, raft: Arc<Raft>) {
    let mut leadership = shared.leadership.subscribe();
    loop {
        if leadership.wait_for(|leadership| leadership.i_lead && !leadership.yielding).await.is_err() {
            return;
        }
        let before = leading_vote(&raft);
        let at = shared.clock.now();
        // A leader that is cut off never gets an answer.
        let patience = shared.settings.election_timeout_max;
        let asked = tokio::time::timeout(patience, raft.ensure_linearizable()).await;
        // The answer is for the term in which it was asked.
        let vote =
            before.filter(|_| matches!(asked, Ok(Ok(_)))).filter(|vote| leading_vote(&raft) == Some(*vote));
        let Some(vote) = vote else {
            tokio::time::sleep(shared.settings.heartbeat / 2).await;
            continue;
        };
        shared.acks.send_replace(Some(Ack { at, term: Term(vote.leader_id.term) }));
        tokio::select! {
            () = tokio::time::sleep(shared.settings.ack_every) => {}
            () = shared.ack_wanted.notified() => {}
        }
    }
}

/// The vote by which this node leads.
fn leading_vote(raft: &Raft) -> Option<Vote> {
    let metrics = raft.metrics();
    let seen = metrics.borrow();
    (seen.state == ServerState::Leader && seen.running_state.is_ok()).then_some(seen.vote)
}

/// Tells the actor when another voter turned out to have more entries.
pub(super) async fn run_behind(shared: Arc<Shared>) {
    loop {
        shared.behind.notified().await;
        shared.cast(ConsensusMsg::Behind);
    }
}
