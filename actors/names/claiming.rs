//! Names of this node's own actors: claimed, said something else of, given back.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;
use tumen_core::names::directory::Refused;
use tumen_core::names::request::{Done, Request};
use tumen_core::names::{ClaimNumber, Holder, Name, Reason};

use super::registry::{Claiming, RegistryMsg};
use super::{NameFailure, Names, SEND_WITHIN};

impl Names {
    /// Claims a name for an actor of this node.
    ///
    /// # Errors
    /// Somebody else holds it, or the directory could not be asked; see [`NameFailure`].
    pub async fn claim(
        &self,
        actor: u64,
        name: &Name,
        value: Bytes,
        within: Duration,
    ) -> Result<ClaimNumber, NameFailure> {
        let deadline = Instant::now() + within;
        let _claiming = self.begin_claim(deadline).await?;
        let wants_newly = self
            .shared
            .registry
            .want(name, actor, self.shared.clock.unix())
            .ok_or(NameFailure::NoSuchActor)?;
        let holder = Holder { node: self.shared.me.clone(), actor };
        let request = Request::Claim { name: name.clone(), holder, value };
        match self.ask(&request, deadline).await {
            Ok(Done { number: Some(number) }) => {
                if self.shared.registry.holds(name, actor) {
                    return Ok(number);
                }
                // It ended meanwhile, or gave the name back: whoever heard of that may have come before the claim.
                drop(self.give_back(name, actor, Reason::Normal, SEND_WITHIN).await);
                Err(NameFailure::NoSuchActor)
            }
            Ok(Done { number: None }) => Err(NameFailure::NoSuchActor),
            Err(NameFailure::NotVisible) => Err(NameFailure::NotVisible),
            Err(failure) => {
                if wants_newly {
                    self.shared.registry.want_no_more(name, actor);
                    if matches!(&failure, NameFailure::Call(call) if call.maybe_changed()) {
                        self.shared.ports.registry.cast(RegistryMsg::GiveBack { actor, name: name.clone() });
                    }
                }
                Err(failure)
            }
        }
    }

    /// A claim begins, as soon as this node is a member again where it just joined another cluster.
    async fn begin_claim(&self, deadline: Instant) -> Result<Claiming, NameFailure> {
        let mut moves = self.shared.bringing.moves.subscribe();
        drop(tokio::time::timeout_at(deadline, moves.wait_for(|moves| moves.arrived)).await);
        let refused = || NameFailure::Refused(Refused::NoMember(self.shared.me.clone()));
        self.shared.registry.begin_claim().ok_or_else(refused)
    }

    /// Gives a name back that an actor of this node holds. Nothing to do where it does not hold it.
    ///
    /// # Errors
    /// The directory could not be asked. It frees the name once it has asked this node.
    pub async fn release(&self, actor: u64, name: &Name, within: Duration) -> Result<(), NameFailure> {
        self.shared.registry.want_no_more(name, actor);
        self.give_back(name, actor, Reason::Normal, within).await
    }

    pub(super) async fn give_back(
        &self,
        name: &Name,
        actor: u64,
        reason: Reason,
        within: Duration,
    ) -> Result<(), NameFailure> {
        let holder = Holder { node: self.shared.me.clone(), actor };
        let request = Request::Release { name: name.clone(), holder, reason };
        self.ask(&request, Instant::now() + within).await.map(drop)
    }

    /// Says something else of an actor of this node that holds a name, or is the child of that name.
    ///
    /// # Errors
    /// It does not hold the name, or the directory could not be asked.
    pub async fn update(
        &self,
        actor: u64,
        name: &Name,
        value: Bytes,
        within: Duration,
    ) -> Result<(), NameFailure> {
        let holder = Holder { node: self.shared.me.clone(), actor };
        let request = Request::Update { name: name.clone(), holder, value };
        self.ask(&request, Instant::now() + within).await.map(drop)
    }

    /// The names that an actor of this node holds, or is about to, sorted.
    pub fn names_of(&self, actor: u64) -> Vec<Name> {
        self.shared.registry.names_of(actor)
    }
}
