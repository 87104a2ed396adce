//! What people ask of the leader.

use tumen_core::cluster::coordinator::{AskError, Departure, LossOutcome};
use tumen_core::ids::{NodeName, PartitionId};

use super::World;

impl World {
    pub(crate) fn depart(&mut self, node: &NodeName, how: Departure) {
        let now = self.clock();
        let Some(leader) = self.leader.clone() else { return };
        let effects = self.nodes.get_mut(&leader).unwrap().law.handle_departure(now, node, how);
        self.run(&leader, effects.unwrap_or_default());
    }

    /// The leader is asked to accept that a partition is lost.
    pub(crate) fn accept_loss(&mut self, partition: PartitionId) -> Result<(), AskError> {
        let now = self.clock();
        let leader = self.leader.clone().ok_or(AskError::NotLeader { leader: None })?;
        let effects = self.nodes.get_mut(&leader).unwrap().law.handle_loss_asked(now, partition)?;
        self.run(&leader, effects);
        Ok(())
    }

    /// What became of the losses that the leader was asked to accept.
    pub(crate) fn take_losses(&mut self) -> Vec<(PartitionId, LossOutcome)> {
        let Some(leader) = self.leader.clone() else { return Vec::new() };
        self.nodes.get_mut(&leader).unwrap().law.take_losses()
    }

    /// The leader is asked to create the partitions; whether it is this question that does it.
    pub(crate) fn create(&mut self) -> Result<bool, AskError> {
        let now = self.clock();
        let leader = self.leader.clone().ok_or(AskError::NotLeader { leader: None })?;
        let (effects, first) = self.nodes.get_mut(&leader).unwrap().law.handle_create_asked(now)?;
        self.run(&leader, effects);
        Ok(first)
    }

    /// The leader is asked for balance.
    pub(crate) fn rebalance(&mut self) -> Result<(), AskError> {
        let now = self.clock();
        let leader = self.leader.clone().ok_or(AskError::NotLeader { leader: None })?;
        let effects = self.nodes.get_mut(&leader).unwrap().law.handle_rebalance_asked(now)?;
        self.run(&leader, effects);
        Ok(())
    }
}
