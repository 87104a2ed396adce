//! Assignment: members and the previous map in, the next map out.
//!
//! ```text
//!   candidates ─┐                     ┌─▶ check        refuses an illegal map, a user's too
//!   previous ───┼─▶ Problem ─▶ Strategy ─▶ Layout
//!   ghosts ─────┘                     └─▶ certificate  moved, lower bound, balance
//! ```
//!
//! A strategy is a pure function: no clock, no chance, no floats, and the order in which the candidates are
//! given changes nothing. What is committed is the map, not the formula, so a strategy may be changed later.

mod balanced;
pub mod certificate;
mod check;
mod consistent_hash;
mod layout;
mod quota;
mod rendezvous;
mod roster;
mod rotation;
pub mod scenarios;
pub mod strategies;

use crate::cluster::member::{WEIGHT_DEFAULT, Zone};
use crate::ids::NodeName;
use crate::partitioner::PARTITIONS_MAX;

pub use balanced::Balanced;
pub use certificate::{Certificate, certify};
pub use check::{Illegal, check};
pub use consistent_hash::ConsistentHash;
pub use layout::{Layout, LayoutError};
pub use rendezvous::Rendezvous;
pub use rotation::Rotation;

/// The most copies of a partition that may be wanted.
pub const REPLICATION_MAX: u32 = 64;

/// A way to place partitions on nodes. Implement it to bring your own.
///
/// ```
/// use tumen_core::assignment::{AssignError, Layout, Problem, Strategy};
///
/// /// Everything on the first nodes of the list.
/// struct First;
///
/// impl Strategy for First {
///     fn name(&self) -> &str {
///         "first"
///     }
///
///     fn assign(&self, problem: &Problem<'_>) -> Result<Layout, AssignError> {
///         let nodes = problem.live()?;
///         let row: Vec<u32> = (0..problem.replication.min(nodes.len() as u32)).collect();
///         let mut layout = Layout::new(nodes.iter().map(|node| node.name.clone()).collect());
///         (0..problem.partitions).for_each(|_| layout.push_row(&row));
///         Ok(layout)
///     }
/// }
/// ```
pub trait Strategy: Send + Sync {
    /// What configuration calls it.
    fn name(&self) -> &str;

    /// The next map. It must be a pure function of `problem`, or two leaders would disagree; its answer is
    /// passed through [`check`] before anybody acts on it.
    fn assign(&self, problem: &Problem<'_>) -> Result<Layout, AssignError>;
}

/// A node that may hold copies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The node's name.
    pub name: NodeName,
    /// Its failure domain. A node without one is a failure domain of its own.
    pub zone: Option<Zone>,
    /// Its share of the work beside the others' weights. Zero: it holds nothing, and what it held moves away.
    pub weight: u32,
}

impl Candidate {
    /// A node of the default weight, in no zone.
    pub const fn new(name: NodeName) -> Self {
        Self { name, zone: None, weight: WEIGHT_DEFAULT }
    }
}

/// What a strategy is asked.
#[derive(Clone, Copy, Debug)]
pub struct Problem<'a> {
    /// The members that may hold copies, in any order; no name twice.
    pub nodes: &'a [Candidate],
    /// How many partitions, 0 to [`PARTITIONS_MAX`].
    pub partitions: u32,
    /// How many copies of each are wanted, 1 to [`REPLICATION_MAX`]. Fewer nodes give fewer copies.
    pub replication: u32,
    /// The committed map before this one. It may name nodes that are gone, and have another length.
    pub previous: Option<&'a Layout>,
    /// Who held copies some time ago, and may still have most of the bytes: preferred where all else is equal.
    pub ghosts: Option<&'a Layout>,
    /// Who holds all of a partition's state. Without it, whoever is in `previous` counts as in sync.
    pub in_sync: Option<&'a Layout>,
    /// Nodes that keep their copies and are primary of nothing: away, or lost and not yet replaced.
    pub copies_only: &'a [NodeName],
    /// Whether only a member that already holds the state may be made primary, as long as there is one.
    /// Balance of primaries then waits until the newcomers have their copies.
    pub warm_only: bool,
}

impl<'a> Problem<'a> {
    /// A first placement: nobody holds anything yet.
    pub const fn new(nodes: &'a [Candidate], partitions: u32, replication: u32) -> Self {
        Self {
            nodes,
            partitions,
            replication,
            previous: None,
            ghosts: None,
            in_sync: None,
            copies_only: &[],
            warm_only: false,
        }
    }

    /// The same, starting from a map that is in force.
    #[must_use]
    pub const fn after(mut self, previous: &'a Layout) -> Self {
        self.previous = Some(previous);
        self
    }

    /// The candidates that may hold something, sorted by name.
    ///
    /// # Errors
    /// When a knob is out of its bounds, or a name is given twice.
    pub fn live(&self) -> Result<Vec<&'a Candidate>, AssignError> {
        if self.partitions > PARTITIONS_MAX {
            return Err(AssignError::Partitions(self.partitions));
        }
        if self.replication == 0 || self.replication > REPLICATION_MAX {
            return Err(AssignError::Replication(self.replication));
        }
        let mut nodes: Vec<&Candidate> = self.nodes.iter().collect();
        nodes.sort_by(|a, b| a.name.cmp(&b.name));
        if let Some(pair) = nodes.windows(2).find(|pair| pair[0].name == pair[1].name) {
            return Err(AssignError::Twice(pair[0].name.clone()));
        }
        nodes.retain(|node| node.weight > 0);
        Ok(nodes)
    }

    /// How many copies each partition gets: as many as wanted, at most one on each node of weight above zero.
    pub fn copies(&self) -> u32 {
        let live = self.nodes.iter().filter(|node| node.weight > 0).count();
        self.replication.min(u32::try_from(live).unwrap_or(u32::MAX))
    }
}

/// Why nothing was placed. The map in force stays in force.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AssignError {
    /// Too many partitions.
    #[error("partitions is {0}, expected at most {PARTITIONS_MAX}; nothing was changed")]
    Partitions(u32),
    /// No copies, or too many.
    #[error("replication is {0}, expected 1 to {REPLICATION_MAX} copies; nothing was changed")]
    Replication(u32),
    /// Two candidates have one name.
    #[error("the node {0} is given twice; nothing was changed")]
    Twice(NodeName),
    /// A user's strategy found no answer.
    #[error("the strategy found no placement: {0}; nothing was changed")]
    Refused(String),
}
