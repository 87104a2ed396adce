//! What may be claimed, and by whom: asked on the primary, before anything is logged.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{Change, Directory, NAMES_MAX};
use crate::ids::NodeBoot;
use crate::names::claim::{Claim, ClaimNumber, Held, Holder, Reason, Spec, Stage};
use crate::names::meta::META_MAX;
use crate::names::name::Name;

/// The most bytes of a claim's value, of a child's arguments, and of what it hands to the next instance.
pub const VALUE_LEN_MAX: usize = 16 << 10;

/// Why nothing changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum Refused {
    /// Somebody else holds the name.
    #[error("{name} is held by {}", .holder.as_ref().map_or_else(|| "a child that runs nowhere at present".to_owned(), ToString::to_string))]
    AlreadyRegistered {
        /// Which name.
        name: Name,
        /// Who, if anybody answers under it at present.
        holder: Option<Holder>,
        /// By which claim.
        number: ClaimNumber,
    },
    /// Nothing stands under the name.
    #[error("nothing is registered under {0}")]
    NotFound(Name),
    /// Whoever asks does not hold the name.
    #[error("{name} is not held by {asker}")]
    NotTheHolder {
        /// Which name.
        name: Name,
        /// Who asked.
        asker: Holder,
    },
    /// Whoever asks is no member: what it held is free, or will be.
    #[error("{0} is no member of the cluster at present: nothing can be held there")]
    NoMember(NodeBoot),
    /// What it says of itself, or is given, is too long.
    #[error("a value, or a child's arguments, have at most {VALUE_LEN_MAX} bytes; these have {0}")]
    TooLong(usize),
    /// This partition of names is full.
    #[error("this partition of names holds {NAMES_MAX} names, which is all that it may")]
    Full,
    /// This partition has no room for more metadata.
    #[error("this partition of names holds metadata under {META_MAX} keys, which is all that it may")]
    MetaFull,
}

impl Directory {
    /// An actor claims a name. `None`: it holds it already.
    ///
    /// # Errors
    /// [`Refused`] says who holds it, or why nobody can.
    pub fn judge_claim(
        &self,
        name: &Name,
        holder: &Holder,
        value: &Bytes,
        is_member: impl Fn(&NodeBoot) -> bool,
    ) -> Result<Vec<Change>, Refused> {
        if !is_member(&holder.node) {
            return Err(Refused::NoMember(holder.node.clone()));
        }
        let claimed = || Change::Claimed { name: name.clone(), holder: holder.clone(), value: value.clone() };
        match self.get(name) {
            Some(Claim { held: Held::Plain(there), number, value: said, .. }) if there == holder => {
                let updated = Change::Updated { name: name.clone(), number: *number, value: value.clone() };
                check_len(value)?;
                Ok(if said == value { Vec::new() } else { vec![updated] })
            }
            // Its node is no member any more, which the directory was not told yet.
            Some(Claim { held: Held::Plain(there), number, .. }) if !is_member(&there.node) => {
                check_len(value)?;
                let (name, number, reason) = (name.clone(), *number, Reason::NodeDown);
                Ok(vec![Change::Released { name, number, reason }, claimed()])
            }
            Some(claim) => Err(already(name, claim)),
            None => {
                self.check_room()?;
                check_len(value)?;
                Ok(vec![claimed()])
            }
        }
    }

    /// A holder gives its name back, or is gone. Nothing to do where it does not hold it.
    pub fn judge_release(&self, name: &Name, holder: &Holder, reason: &Reason) -> Option<Change> {
        let claim =
            self.get(name).filter(|claim| matches!(&claim.held, Held::Plain(there) if there == holder))?;
        Some(Change::Released { name: name.clone(), number: claim.number, reason: reason.clone() })
    }

    /// A holder says something else of itself: an actor of its claim, or an instance of its child's.
    ///
    /// # Errors
    /// It does not hold the name, or says too much.
    pub fn judge_update(&self, name: &Name, holder: &Holder, value: &Bytes) -> Result<Change, Refused> {
        let claim = self.get(name).ok_or_else(|| Refused::NotFound(name.clone()))?;
        if claim.holder() != Some(holder) {
            return Err(Refused::NotTheHolder { name: name.clone(), asker: holder.clone() });
        }
        check_len(value)?;
        Ok(Change::Updated { name: name.clone(), number: claim.number, value: value.clone() })
    }

    /// A child is to run under a name. `None`: the very same one is to already.
    ///
    /// # Errors
    /// Something else stands there, or too much is said.
    pub fn judge_start(
        &self,
        name: &Name,
        spec: &Arc<Spec>,
        value: &Bytes,
    ) -> Result<Option<Change>, Refused> {
        match self.get(name) {
            Some(claim) => match claim.child() {
                Some(child)
                    if child.spec == *spec
                        && !matches!(child.stage, Stage::Stopping { moves: false, .. }) =>
                {
                    Ok(None)
                }
                _ => Err(already(name, claim)),
            },
            None => {
                self.check_room()?;
                check_len(&spec.args)?;
                check_len(value)?;
                Ok(Some(Change::Added { name: name.clone(), spec: Arc::clone(spec), value: value.clone() }))
            }
        }
    }

    /// A child is to end. `None`: it is about to already.
    ///
    /// # Errors
    /// No child stands under that name.
    pub fn judge_terminate(&self, name: &Name) -> Result<Option<Change>, Refused> {
        let claim = self.get(name).ok_or_else(|| Refused::NotFound(name.clone()))?;
        let child = claim.child().ok_or_else(|| Refused::NotFound(name.clone()))?;
        let (name, number) = (name.clone(), claim.number);
        Ok(match child.stage {
            Stage::Waiting => Some(Change::Released { name, number, reason: Reason::Normal }),
            Stage::Stopping { moves: false, .. } => None,
            Stage::Starting { .. } | Stage::Running { .. } | Stage::Stopping { moves: true, .. } => {
                Some(Change::Stopping { name, number, moves: false })
            }
        })
    }

    /// A child is to run on another node than it does, as far as it runs.
    pub fn judge_move(&self, name: &Name) -> Option<Change> {
        let claim = self.get(name)?;
        let runs = matches!(claim.child()?.stage, Stage::Starting { .. } | Stage::Running { .. });
        runs.then(|| Change::Stopping { name: name.clone(), number: claim.number, moves: true })
    }

    /// The cluster is to be told something under a key. `None`: it is already.
    ///
    /// # Errors
    /// It is too long, or there is no room.
    pub fn judge_put_meta(&self, key: &Name, value: &Bytes) -> Result<Option<Change>, Refused> {
        check_len(value)?;
        match self.meta(key) {
            Some(told) if told.value == *value => return Ok(None),
            None if self.meta.len() >= META_MAX => return Err(Refused::MetaFull),
            Some(_) | None => {}
        }
        Ok(Some(Change::MetaPut { key: key.clone(), value: value.clone() }))
    }

    /// The cluster is to be told nothing more under a key.
    ///
    /// # Errors
    /// It is told nothing there.
    pub fn judge_remove_meta(&self, key: &Name) -> Result<Change, Refused> {
        let told = self.meta(key).ok_or_else(|| Refused::NotFound(key.clone()))?;
        Ok(Change::MetaRemoved { key: key.clone(), number: told.number })
    }

    pub(super) fn check_room(&self) -> Result<(), Refused> {
        if self.len() < NAMES_MAX { Ok(()) } else { Err(Refused::Full) }
    }
}

pub(super) fn check_len(bytes: &Bytes) -> Result<(), Refused> {
    if bytes.len() > VALUE_LEN_MAX { Err(Refused::TooLong(bytes.len())) } else { Ok(()) }
}

pub(super) fn already(name: &Name, claim: &Claim) -> Refused {
    Refused::AlreadyRegistered { name: name.clone(), holder: claim.holder().cloned(), number: claim.number }
}
