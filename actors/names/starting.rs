//! Children: started somewhere, moved, ended.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::broadcast;
use tokio::time::Instant;
use tumen_core::ids::{Kind, NodeName};
use tumen_core::names::directory::News;
use tumen_core::names::request::Request;
use tumen_core::names::{ClaimNumber, Name, Reason, Spec, directory_of};

use super::wire::{child_kind, child_service};
use super::{ASK_AGAIN_AFTER, Found, NameFailure, Names, Standing};

impl Names {
    /// Has the cluster run a child under a name, and waits until it runs. The same child asked for twice is the same as once.
    ///
    /// # Errors
    /// As [`Self::start_patiently`].
    pub async fn start(
        &self,
        name: &Name,
        spec: Spec,
        value: Bytes,
        within: Duration,
    ) -> Result<Found, NameFailure> {
        self.start_patiently(name, spec, value, within, within).await
    }

    /// The same where the directory is waited for within `asked_within`, and the child `within`, the time for the directory
    /// included.
    ///
    /// # Errors
    /// See [`NameFailure`]: something else stands under the name, no node can start it, its factory failed or said that it is not
    /// to run, or no time is left.
    pub async fn start_patiently(
        &self,
        name: &Name,
        spec: Spec,
        value: Bytes,
        asked_within: Duration,
        within: Duration,
    ) -> Result<Found, NameFailure> {
        let deadline = Instant::now() + within;
        let known = self.child_kinds();
        if !known.contains(&spec.kind) {
            return Err(NameFailure::NoSuchKind { kind: spec.kind, known });
        }
        let mut news = self.news();
        let request = Request::Start { name: name.clone(), spec: Arc::new(spec), value };
        let asked_until = deadline.min(Instant::now() + asked_within);
        let mut left = self.shared.bringing.left();
        let mut asked = self.ask(&request, asked_until).await?;
        loop {
            if let Some(found) = self.lookup(name) {
                return Ok(found);
            }
            if self.shared.bringing.left() != left {
                // It was asked for in a cluster that is no more.
                left = self.shared.bringing.left();
                asked = self.ask(&request, deadline).await?;
                continue;
            }
            if self.shared.table.claim(name).is_none() {
                return Err(match news_of_end(&mut news, name, asked.number) {
                    Some(Reason::Ignored) => NameFailure::Ignored,
                    Some(Reason::StartFailed(why)) => NameFailure::StartFailed(why),
                    Some(other) => NameFailure::StartFailed(other.to_string()),
                    None => NameFailure::StartFailed("it ended at once".to_owned()),
                });
            }
            match tokio::time::timeout_at(deadline, self.changed(name)).await {
                Ok(()) => {}
                Err(_) => return Err(NameFailure::StartTimeout),
            }
        }
    }

    /// Waits until anything changes in the directory of a name.
    pub(super) async fn changed(&self, name: &Name) {
        if let Some(mut positions) = self.shared.table.positions(directory_of(name)) {
            // What changed just before is looked at once more soon, so that nothing is missed.
            drop(tokio::time::timeout(ASK_AGAIN_AFTER, positions.changed()).await);
        }
    }

    /// Ends a child for good, and waits until it runs no more.
    ///
    /// # Errors
    /// There is none of that name, or the directory could not be asked.
    pub async fn terminate(&self, name: &Name, within: Duration) -> Result<(), NameFailure> {
        let deadline = Instant::now() + within;
        let done = self.ask(&Request::Terminate { name: name.clone() }, deadline).await?;
        let Some(number) = done.number else { return Ok(()) };
        while self.shared.table.claim(name).is_some_and(|claim| claim.number <= number) {
            tokio::time::timeout_at(deadline, self.changed(name))
                .await
                .map_err(|_| NameFailure::NotVisible)?;
        }
        Ok(())
    }

    /// Has a child run on another node than it does, if there is one; it may hand something over. Does not wait for it.
    ///
    /// # Errors
    /// The directory could not be asked.
    pub async fn relocate(&self, name: &Name, within: Duration) -> Result<(), NameFailure> {
        self.ask(&Request::Move { name: name.clone() }, Instant::now() + within).await.map(drop)
    }

    /// The kinds of children that some member has a factory for, sorted.
    pub fn child_kinds(&self) -> Vec<Kind> {
        let Some(plan) = self.shared.plans.newest() else {
            return self.shared.kinds.iter().cloned().collect();
        };
        let mut kinds: Vec<Kind> = plan
            .members
            .iter()
            .flat_map(|member| &member.info.services)
            .filter_map(|it| child_kind(it))
            .collect();
        kinds.sort();
        kinds.dedup();
        kinds
    }

    /// The members that have a factory for a kind of child.
    pub fn hosts_of(&self, kind: &Kind) -> Vec<NodeName> {
        let Some(plan) = self.shared.plans.newest() else { return Vec::new() };
        let has = child_service(kind);
        let hosts = plan.members.iter().filter(|member| member.info.services.contains(&has));
        hosts.map(|member| member.name().clone()).collect()
    }

    /// Whether a child runs here, or is about to, that another node could run.
    pub(crate) fn has_children_for_others(&self) -> bool {
        let (me, Some(plan)) = (&self.shared.me, self.shared.plans.newest()) else { return false };
        let others: Vec<_> = plan.members.iter().filter(|it| it.id() != me && it.status.may_lead()).collect();
        let movable = |_: &Name, standing: &Standing| {
            let kind = standing.child().filter(|_| standing.node() == Some(me));
            let kind = kind.map(|it| child_service(&it.spec.kind));
            kind.is_some_and(|kind| others.iter().any(|it| it.info.services.contains(&kind)))
        };
        !self.shared.table.select(b"", 1, movable).is_empty()
    }
}

/// Why a child of this name is no more, if the news say so.
fn news_of_end(
    news: &mut broadcast::Receiver<Arc<News>>,
    of: &Name,
    since: Option<ClaimNumber>,
) -> Option<Reason> {
    let mut why = None;
    loop {
        match news.try_recv() {
            Ok(piece) => {
                if let News::Unregistered { name, number, reason, goes_on: false, .. } = &*piece
                    && name == of
                    && Some(*number) >= since
                {
                    why = Some(reason.clone());
                }
            }
            Err(broadcast::error::TryRecvError::Lagged(_)) => {}
            Err(_) => return why,
        }
    }
}
