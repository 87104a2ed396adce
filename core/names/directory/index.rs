//! Which names are on which node. Whoever leads a directory asks that all the time; its copies do when a node goes, and do
//! without.

use std::collections::{BTreeMap, BTreeSet};

use crate::ids::NodeBoot;
use crate::names::claim::Claim;
use crate::names::name::Name;

/// The names of a directory, by node.
#[derive(Clone, Debug, Default)]
pub(super) struct Index {
    /// Which names may have something running on a node.
    by_node: BTreeMap<NodeBoot, BTreeSet<Name>>,
    /// Children that nobody was told to run.
    waiting: BTreeSet<Name>,
}

impl Index {
    pub(super) fn add(&mut self, name: &Name, claim: &Claim) {
        let there = match claim.node() {
            None => &mut self.waiting,
            Some(node) => self.by_node.entry(node.clone()).or_default(),
        };
        there.insert(name.clone());
    }

    pub(super) fn remove(&mut self, name: &Name, claim: &Claim) {
        let Some(node) = claim.node() else {
            self.waiting.remove(name);
            return;
        };
        if let Some(there) = self.by_node.get_mut(node) {
            there.remove(name);
            if there.is_empty() {
                self.by_node.remove(node);
            }
        }
    }

    pub(super) fn on_node(&self, node: &NodeBoot) -> Option<&BTreeSet<Name>> {
        self.by_node.get(node)
    }

    pub(super) fn nodes(&self) -> impl Iterator<Item = &NodeBoot> {
        self.by_node.keys()
    }

    pub(super) fn waiting(&self) -> impl Iterator<Item = &Name> {
        self.waiting.iter()
    }
}

impl<'a> FromIterator<(&'a Name, &'a Claim)> for Index {
    fn from_iter<I: IntoIterator<Item = (&'a Name, &'a Claim)>>(names: I) -> Self {
        let mut index = Self::default();
        names.into_iter().for_each(|(name, claim)| index.add(name, claim));
        index
    }
}
