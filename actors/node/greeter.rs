//! What a node says first to others, at any moment of its life.

use std::sync::{Arc, Mutex, PoisonError};

use tumen_core::UnixMillis;
use tumen_core::cluster::greeting::{Belonging, Greeting};
use tumen_core::cluster::lease;
use tumen_core::cluster::member::NodeInfo;
use tumen_core::cluster::snapshot::{GroupSpec, Mode};
use tumen_core::ids::{ClusterId, ClusterName, GroupId, Kind, Version};
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
        }
    }

    /// The cluster that this node founded, or is a member of. One of which it knows no more than a plan is not its own.
    pub(super) fn belonging(&self) -> Option<Belonging> {
        let founded = *self.founded.lock().unwrap_or_else(PoisonError::into_inner);
        let plan = self.plans.newest();
        if founded.is_none() && !plan.as_ref().is_some_and(|plan| plan.names(&self.info.id)) {
            return None;
        }
        let id = plan.as_ref().map(|plan| plan.cluster).or(founded.map(|(id, _)| id))?;
        Some(Belonging {
            id,
            founded_at: founded.map_or(UnixMillis(0), |(_, at)| at),
            version: plan.as_ref().map_or(Version::ZERO, |plan| plan.version),
            members: plan.as_ref().map_or(1, |plan| plan.members.len() as u32),
            // Who did not found it, or was not alone in it, cannot tell what others were answered in it, or an earlier run.
            acknowledged: founded.is_none() || self.gate.is_relied_on() || self.configuration.is_relied_on(),
        })
    }
}
