//! Why what was asked of names was not done.

use tumen_core::ids::Kind;
use tumen_core::names::Name;
use tumen_core::names::directory::Refused;
use tumen_core::partitions::request::Failure;

/// Why a name was not claimed, or a child not started. Each says whether anything changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameFailure {
    /// The directory refused: nothing changed.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The directory could not be asked, or nobody knows what it did.
    #[error("the directory did not answer: {0}")]
    Call(#[from] Failure),
    /// No member has a factory for this kind of child: nothing was tracked.
    #[error("no node can start a child of the kind {kind}{}", .known.is_empty().then(String::new).unwrap_or_else(|| format!(": there are {}", list(.known))))]
    NoSuchKind {
        /// The kind.
        kind: Kind,
        /// The kinds that some node has a factory for.
        known: Vec<Kind>,
    },
    /// The child was not started: nothing is tracked.
    #[error("the child was not started: {0}")]
    StartFailed(String),
    /// The child's own start said that it is not to run: nothing is tracked.
    #[error("the child says that it is not to run: nothing is tracked")]
    Ignored,
    /// As many messages wait for whoever will answer under the name as may. This one was not sent.
    #[error(
        "as many messages wait for whoever will answer under {0} as may: this one was not sent, nothing changed; send it \
             again a little later"
    )]
    QueueFull(Name),
    /// The message could not be delivered when it was sent, and later ones have been delivered since: to send it again would
    /// change their order. It was not carried out.
    #[error(
        "later messages to {0} were delivered before this one could be: it was not carried out, nothing changed; send it \
             again if it still counts"
    )]
    Overtaken(Name),
    /// The child did not start in time. It is still being tried.
    #[error("the child did not start in time; it is still being tried: terminate it if it is not to run")]
    StartTimeout,
    /// The claim stands, and this node has not seen it yet.
    #[error("it is done, and this node has not seen it within the deadline")]
    NotVisible,
    /// There is no such actor on this node.
    #[error("that actor has ended: nothing changed")]
    NoSuchActor,
}

fn list(kinds: &[Kind]) -> String {
    kinds.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
