//! Newtyped identities, so that an epoch is never taken for a version.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Why a name was refused. Nothing changed; choose another name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The name is empty.
    #[error("a {what} must not be empty")]
    Empty {
        /// What was to be named.
        what: &'static str,
    },
    /// The name is too long.
    #[error("a {what} has at most {max} bytes, this one has {len}")]
    TooLong {
        /// What was to be named.
        what: &'static str,
        /// The most bytes allowed.
        max: usize,
        /// The bytes given.
        len: usize,
    },
    /// The name holds a character that is not allowed.
    #[error("a {what} consists of letters, digits, '.', '_', '-', '@' and ':', not {found:?}")]
    Character {
        /// What was to be named.
        what: &'static str,
        /// The offending character.
        found: char,
    },
}

/// The most bytes that a node's or a kind's name may have.
pub const NAME_LEN_MAX: usize = 128;

fn check_name(what: &'static str, name: &str) -> Result<(), NameError> {
    if name.is_empty() {
        return Err(NameError::Empty { what });
    }
    if name.len() > NAME_LEN_MAX {
        return Err(NameError::TooLong { what, max: NAME_LEN_MAX, len: name.len() });
    }
    let allowed = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'_' | b'-' | b'@' | b':');
    // What is not allowed begins with a byte that is not.
    match name.bytes().position(|byte| !allowed(byte)).and_then(|at| name[at..].chars().next()) {
        Some(found) => Err(NameError::Character { what, found }),
        None => Ok(()),
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $type(Arc<str>);

        impl $type {
            /// Checks and takes a name: 1 to [`NAME_LEN_MAX`] bytes of letters, digits and `._-@:`.
            pub fn new(name: &str) -> Result<Self, NameError> {
                check_name($what, name)?;
                Ok(Self(name.into()))
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = NameError;
            fn from_str(name: &str) -> Result<Self, NameError> {
                Self::new(name)
            }
        }

        crate::text::text!($type, $what);
    };
}

name! {
    /// A node's name: it survives restarts. Names are ordered by their bytes, so `node-10 < node-2`.
    NodeName, "node name"
}

name! {
    /// The kind of a worker: which of a partition's workers a message is for.
    Kind, "worker kind"
}

name! {
    /// By which a child's specification asks for a placement that its user wrote.
    PlacementName, "placement"
}

name! {
    /// The name that all nodes of a cluster are configured with.
    ClusterName, "cluster name"
}

macro_rules! number {
    ($(#[$doc:meta])* $type:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $type(pub u64);

        impl $type {
            /// Before the first.
            pub const ZERO: Self = Self(0);

            /// The one after this.
            ///
            /// # Panics
            /// When the 64 bits are used up, which takes 500 years at a billion a second.
            #[must_use]
            pub const fn next(self) -> Self {
                match self.0.checked_add(1) {
                    Some(next) => Self(next),
                    None => panic!("a 64-bit counter is used up"),
                }
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

number! {
    /// One run of a node's process, always new. Newer boots have larger numbers wherever clocks allow.
    Boot
}
number! {
    /// The number of a committed plan (snapshot). One more for each; never reset.
    Version
}
number! {
    /// Per partition; one more each time the partition's primary changes. Zero: never had one.
    Epoch
}
number! {
    /// Per partition; raised by steps inside one plan (in-sync and move steps).
    Revision
}
number! {
    /// Raised only by an operator who forces a cluster on whose majority of voters is gone for good.
    Generation
}
number! {
    /// Raft's term: which election a leader won.
    Term
}
number! {
    /// The number of a change of the cluster's own configuration. One more for each; never reset.
    ConfigVersion
}
number! {
    /// The continuity of bytes: of Raft's store, or of one copy. New whenever those bytes may be gone.
    Life
}

/// A cluster's random identity, given when it is founded: tells two clusters of one name apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ClusterId(pub u64);

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// One run of one node: what sessions, leases, releases and primaryship are tied to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NodeBoot {
    /// The node's name.
    pub node: NodeName,
    /// Which run of its process.
    pub boot: Boot,
}

impl NodeBoot {
    /// This run of this node.
    pub const fn new(node: NodeName, boot: Boot) -> Self {
        Self { node, boot }
    }
}

impl fmt::Display for NodeBoot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{:x}", self.node, self.boot.0)
    }
}

/// Partitions that share count, copies, mode and partitioner.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GroupId {
    /// The user's partitions.
    #[default]
    Users,
    /// tumen's own: the directories of names, children and singletons.
    Names,
}

impl GroupId {
    /// What a partition's id starts with.
    const fn prefix(self) -> &'static str {
        match self {
            Self::Users => "partition-",
            Self::Names => "names-",
        }
    }
}

/// One partition of one group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PartitionId {
    /// Which group it belongs to.
    pub group: GroupId,
    /// Its index in the group, from 0.
    pub index: u32,
}

impl PartitionId {
    /// The user's partition with this index.
    pub const fn user(index: u32) -> Self {
        Self { group: GroupId::Users, index }
    }
}

impl fmt::Display for PartitionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.group.prefix(), self.index)
    }
}

/// The text is no partition id such as `partition-7`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no partition id: expected \"partition-N\"")]
pub struct ParsePartitionIdError(String);

impl FromStr for PartitionId {
    type Err = ParsePartitionIdError;

    /// Reads exactly what `Display` writes: no sign, no leading zero.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        [GroupId::Users, GroupId::Names]
            .into_iter()
            .find_map(|group| {
                let index: u32 = text.strip_prefix(group.prefix())?.parse().ok()?;
                Some(Self { group, index }).filter(|id| id.to_string() == text)
            })
            .ok_or_else(|| ParsePartitionIdError(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked_and_ordered_by_bytes() {
        assert!(NodeName::new("").is_err());
        assert!(NodeName::new("a b").is_err());
        assert!(NodeName::new(&"x".repeat(NAME_LEN_MAX + 1)).is_err());
        assert!(NodeName::new("node-10").unwrap() < NodeName::new("node-2").unwrap());
    }

    #[test]
    fn partition_ids_read_back_exactly_what_they_print() {
        for id in [
            PartitionId::user(0),
            PartitionId::user(u32::MAX),
            PartitionId { group: GroupId::Names, index: 3 },
        ] {
            assert_eq!(id.to_string().parse(), Ok(id));
        }
        for bad in [
            "",
            "partition-",
            "partition-01",
            "partition-+1",
            "partition--1",
            "part-1",
            "partition-4294967296",
        ] {
            assert!(bad.parse::<PartitionId>().is_err(), "{bad}");
        }
    }
}
