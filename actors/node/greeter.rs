//! What a node says first to others, at any moment of its life.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tumen_core::UnixMillis;
use tumen_core::cluster::greeting::{Belonging, Greeting};
use tumen_core::cluster::lease;
use tumen_core::cluster::member::NodeInfo;
use tumen_core::cluster::sides::Consistency;
use tumen_core::cluster::snapshot::{GroupSpec, Mode};
use tumen_core::ids::{ClusterId, ClusterName, Generation, GroupId, Kind, Version};
use tumen_core::wire::PROTOCOL;

use super::configuring::Configuring;
use crate::cluster::plans::Plans;
use crate::partitions::Gate;

/// What a node says first to others, at any moment of its life.
pub(super) struct Greeter {
    pub(super) info: NodeInfo,
    pub(super) cluster: ClusterName,
    pub(super) groups: Vec<(GroupId, GroupSpec)>,
    /// The replicated kinds that are hosted here, with their modes.
    pub(super) modes: Vec<(Kind, Option<Mode>)>,
    pub(super) lease: lease::Config,
    pub(super) plans: Plans,
    pub(super) gate: Gate,
    pub(super) configuration: Arc<Configuring>,
    /// The cluster that this run of the node founded, as long as it has been alone in it.
    pub(super) founded: Mutex<Option<(ClusterId, UnixMillis)>>,
    pub(super) consistency: Consistency,
    /// Whether this node has served nobody for long, where availability goes first.
    pub(super) stranded: AtomicBool,
    /// The side of its cluster that it is on its way to, until a plan of that names it.
    pub(super) bound: Mutex<Option<Belonging>>,
}

impl Greeter {
    pub(super) fn greeting(&self) -> Greeting {
        Greeting {
            protocol: PROTOCOL,
            cluster: self.cluster.clone(),
            belongs: self.belonging(),
            info: self.info.clone(),
            groups: self.groups.clone(),
            modes: self.modes.clone(),
            lease: self.lease,
            consistency: self.consistency,
        }
    }

    /// This node is on its way to another side of its cluster.
    pub(super) fn go_to(&self, side: Belonging) {
        self.stranded.store(false, Ordering::SeqCst);
        *self.bound.lock().unwrap_or_else(PoisonError::into_inner) = Some(side);
    }

    /// A plan names this node.
    pub(super) fn arrived(&self) {
        *self.bound.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn bound(&self) -> Option<Belonging> {
        let bound = self.bound.lock().unwrap_or_else(PoisonError::into_inner).clone()?;
        Some(Belonging { stranded: self.stranded.load(Ordering::SeqCst), ..bound })
    }

    /// The cluster that this node founded, is a member of, or is on its way to. One of which it knows no more than a plan is not
    /// its own.
    pub(super) fn belonging(&self) -> Option<Belonging> {
        if self.gate.is_leaving()
            && let Some(bound) = self.bound()
        {
            return Some(bound);
        }
        let founded = *self.founded.lock().unwrap_or_else(PoisonError::into_inner);
        let plan = self.plans.newest();
        if founded.is_none() && !plan.as_ref().is_some_and(|plan| plan.names(&self.info.id)) {
            return self.bound();
        }
        let id = plan.as_ref().map(|plan| plan.cluster).or(founded.map(|(id, _)| id))?;
        Some(Belonging {
            id,
            founded_at: founded.map_or(UnixMillis(0), |(_, at)| at),
            generation: plan.as_ref().map_or(Generation::ZERO, |plan| plan.generation),
            version: plan.as_ref().map_or(Version::ZERO, |plan| plan.version),
            members: plan.as_ref().map_or(1, |plan| plan.members.len() as u32),
            stranded: self.stranded.load(Ordering::SeqCst),
            // Who did not found it, or was not alone in it, cannot tell what others were answered in it, or an earlier run.
            acknowledged: founded.is_none() || self.gate.is_relied_on() || self.configuration.is_relied_on(),
        })
    }
}
