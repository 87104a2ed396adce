//! What holds, and is yet worth a line in the log.

use std::path::PathBuf;

use super::Address;

/// One thing worth logging about a configuration that holds.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Warning {
    /// There is no cookie.
    #[error(
        "no cookie: this node talks to nodes on this machine only; give all nodes the same --cookie-file to go further"
    )]
    LoopbackOnly,
    /// A port was asked for on every address, and there is no secret to protect it.
    #[error("{subject} is taken as {taken}: without {secret} only this machine is served")]
    Narrowed {
        /// The knob and its value, as they were given.
        subject: String,
        /// Where the node listens.
        taken: Address,
        /// The knob that opens it.
        secret: String,
    },
    /// There are fewer nodes than copies wanted.
    #[error(
        "replication {replication} needs as many nodes, and there are {nodes}: until more join, each partition has only as many copies"
    )]
    CopiesExceedNodes {
        /// The copies wanted.
        replication: u32,
        /// The nodes expected, or there.
        nodes: u32,
    },
    /// There are too few partitions to share out evenly.
    #[error(
        "{partitions} partitions share out unevenly over {nodes} nodes; choose at least {} for a new cluster",
        u64::from(*nodes) * 4
    )]
    FewPartitions {
        /// The partitions.
        partitions: u32,
        /// The nodes expected, or there.
        nodes: u32,
    },
    /// A secret is short enough to be guessed.
    #[error(
        "the {what} has only {len} bytes and could be guessed: take at least {}",
        super::value::SECRET_LEN_GOOD
    )]
    ShortSecret {
        /// Which secret.
        what: &'static str,
        /// How many bytes it has.
        len: usize,
    },
    /// A file of a secret can be read by others.
    #[error("{} can be read by other users of this machine: chmod 600 it", path.display())]
    ReadableSecret {
        /// The file.
        path: PathBuf,
    },
    /// A knob does nothing as long as another is missing.
    #[error("{subject} has no effect without {other}")]
    NoEffect {
        /// The knob and its value, as they were given.
        subject: String,
        /// The knob that it needs.
        other: String,
    },
    /// An environment variable looks like one of ours and is none.
    #[error("the environment variable {name} is unknown{}", nearest.as_ref().map(|n| format!("; did you mean {n}?")).unwrap_or_default())]
    UnknownVariable {
        /// Its name.
        name: String,
        /// The known variable that is most like it.
        nearest: Option<String>,
    },
}
