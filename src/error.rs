//! The one error that users meet: what happened, whether anything changed, and what to do next.

use std::fmt::{self, Display};
use std::io;

use tumen_actors::names::NameFailure;
use tumen_actors::node::{AskFailure, ConfigFailure, StartError};
use tumen_actors::partitions::host::KindsError;
use tumen_core::cluster::configuration::{Invalid, Refused as NotWritten};
use tumen_core::cluster::coordinator::AskError;
use tumen_core::names::NameLenError;
use tumen_core::names::directory::Refused;
use tumen_core::partitions::request::Failure;
use tumen_core::partitions::routing::{KEY_LEN_MAX, RouteError};

use crate::config::ConfigErrors;
use crate::names::ChildError;
use crate::worker::WorkerError;

/// What comes back from almost everything here.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why something was not done. [`Error::changed`] tells whether anything may have changed all the same.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A call has no reply.
    #[error(transparent)]
    Call(#[from] Failure),
    /// The key is empty or too long. Nothing was sent.
    #[error("a key has 1 to {KEY_LEN_MAX} bytes, this one has {len}")]
    Key {
        /// How many bytes it has.
        len: usize,
    },
    /// A key leads nowhere. Nothing was sent.
    #[error(transparent)]
    Route(#[from] RouteError),
    /// Too few copies of the key's partition are left to tell what was written: it is not served until one returns, or an
    /// operator accepts the loss. Nothing changed.
    #[error(
        "{0} is lost: too few of its copies are left, and it can be neither read nor written until one returns, or an \
             operator accepts the loss (`tumen partition accept-loss {0}`): nothing changed. Old values can be read of a copy"
    )]
    Lost(String),
    /// What was asked for does not exist. Nothing changed.
    #[error("{0}")]
    NotFound(String),
    /// The cluster's leader refused. Nothing changed.
    #[error(transparent)]
    Refused(#[from] AskError),
    /// Nobody leads the cluster at present, or the leader cannot be reached. Nothing changed.
    #[error("nobody leads the cluster at present, as far as this node can reach: nothing changed, ask again")]
    NoLeader,
    /// The cluster's leader was asked, and did not answer in time.
    #[error("the leader did not answer in time; it may carry the order out yet: look before you ask again")]
    NoAnswer,
    /// This node stops, or has stopped.
    #[error("this node is stopping")]
    Stopped,
    /// This node ended by itself. Start it again; others take over what it served.
    #[error("this node ended by itself: {0}")]
    Ended(String),
    /// Sides of a cluster that split could not be made one again: these kinds of worker keep a state and do not say how two are merged.
    /// The node did not start.
    #[error(
        "with consistency available a worker has no state, or says how two states are merged (`.merges()`): {} do not; or choose \
         consistency majority", .kinds.join(", ")
    )]
    Unmergeable {
        /// Which kinds.
        kinds: Vec<String>,
    },
    /// A name is empty or too long. Nothing was sent.
    #[error("{0}; nothing was changed")]
    BadName(#[from] NameLenError),
    /// A name was not claimed, or a child not started, ended or moved: it says why, and [`Error::changed`] whether anything
    /// changed.
    #[error(transparent)]
    Name(#[from] NameFailure),
    /// For [`Child::start`](crate::Child::start): the child is not to run. See [`Error::ignore`].
    #[error("the child is not to run: nothing is tracked")]
    Ignore,
    /// The cluster's own configuration was not changed, or a value of it cannot be read: it says why, and [`Error::changed`]
    /// whether anything changed.
    #[error(transparent)]
    ClusterConfig(#[from] ConfigFailure),
    /// A topic does not take this. Nothing was said.
    #[error("{0}")]
    Topic(String),
    /// The configuration is refused, for all these reasons. Nothing was started.
    #[error(transparent)]
    Config(#[from] ConfigErrors),
    /// A worker cannot be hosted. Nothing was started.
    #[error("{0}; nothing was started")]
    Worker(#[from] WorkerError),
    /// A kind of child, a singleton, or a placement cannot be had. Nothing was started.
    #[error("{0}; nothing was started")]
    Child(#[from] ChildError),
    /// The kinds of worker cannot live on one node. Nothing was started.
    #[error("{0}; nothing was started")]
    Kinds(#[from] KindsError),
    /// A port cannot be listened at. Nothing was started.
    #[error("{what} {address} cannot be listened at: {why}; nothing was started")]
    Bind {
        /// Which port.
        what: &'static str,
        /// Where it was to be.
        address: String,
        /// What the system says.
        why: io::Error,
    },
    /// The runtime did not start. Nothing runs.
    #[error("the node did not start: {0}")]
    Start(#[from] StartError),
    /// The system refused something.
    #[error("{what}: {why}")]
    System {
        /// What.
        what: &'static str,
        /// What the system says.
        why: io::Error,
    },
}

impl From<AskFailure> for Error {
    fn from(failure: AskFailure) -> Self {
        match failure {
            AskFailure::Refused(why) => Self::Refused(why),
            AskFailure::NoLeader => Self::NoLeader,
            AskFailure::Timeout => Self::NoAnswer,
        }
    }
}

impl fmt::Debug for Error {
    /// As `Display`, with the code before it: it is what a `main` that returns an error prints.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {self}", self.code())
    }
}

impl Error {
    /// For handlers: the message is refused for this reason, and nothing was changed. The caller reads it as
    /// [`Failure::Rejected`].
    ///
    /// ```
    /// # use tumen::prelude::*;
    /// fn parse(text: &str) -> Result<u32> {
    ///     text.parse().map_err(Error::rejected)
    /// }
    /// assert!(parse("seven").is_err());
    /// ```
    pub fn rejected(why: impl Display) -> Self {
        Self::Call(Failure::Rejected(why.to_string()))
    }

    /// For handlers: this went wrong, and something may have been changed. The caller reads it as
    /// [`Failure::WorkerFailed`]. The worker goes on; a panic would start it anew.
    pub fn failed(why: impl Display) -> Self {
        Self::Call(Failure::WorkerFailed(why.to_string()))
    }

    /// For [`Child::start`](crate::Child::start): the child is not to run, and its name is to be free again. Whoever started it
    /// is told so, by [`NameFailure::Ignored`].
    ///
    /// ```
    /// # use tumen::prelude::*;
    /// fn for_whom(customer: Option<String>) -> Result<String> {
    ///     customer.ok_or_else(Error::ignore)
    /// }
    /// assert!(for_whom(None).is_err());
    /// ```
    pub const fn ignore() -> Self {
        Self::Ignore
    }

    /// Whether what was asked for changed anything. `None`: that cannot be known from here.
    pub const fn changed(&self) -> Option<bool> {
        match self {
            Self::Call(failure)
            | Self::Name(NameFailure::Call(failure))
            | Self::ClusterConfig(ConfigFailure::Call(failure))
                if failure.maybe_changed() =>
            {
                None
            }
            Self::NoAnswer => None,
            Self::Name(NameFailure::StartTimeout | NameFailure::NotVisible)
            | Self::ClusterConfig(ConfigFailure::NotVisible(_)) => Some(true),
            _ => Some(false),
        }
    }

    /// Whether asking the same again, a little later, may succeed and cannot be carried out twice.
    pub const fn is_safe_to_retry(&self) -> bool {
        match self {
            // What stands under a name is the same however often it is asked for.
            Self::Name(NameFailure::StartTimeout | NameFailure::Refused(Refused::NoMember(_))) => true,
            // Surely not carried out.
            Self::Name(NameFailure::QueueFull(_) | NameFailure::Overtaken(_)) => true,
            Self::Call(failure)
            | Self::Name(NameFailure::Call(failure))
            | Self::ClusterConfig(ConfigFailure::Call(failure)) => {
                let waits = matches!(
                    failure,
                    Failure::NoQuorum | Failure::Overloaded | Failure::Timeout { maybe_applied: false }
                );
                waits || failure.is_safe_to_retry()
            }
            Self::Route(why) => matches!(why, RouteError::NoPlan | RouteError::NoPrimary(_)),
            Self::NoLeader | Self::Lost(_) => true,
            Self::Refused(why) => matches!(why, AskError::NotLeader { .. } | AskError::TooFewNodes { .. }),
            _ => false,
        }
    }

    /// The error's name for programs, as it stands in the HTTP interface.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Call(failure)
            | Self::Name(NameFailure::Call(failure))
            | Self::ClusterConfig(ConfigFailure::Call(failure)) => failure.code(),
            Self::ClusterConfig(ConfigFailure::Invalid(Invalid::KeyLen(_) | Invalid::KeyCharacter(_))) => {
                "bad_key"
            }
            Self::ClusterConfig(ConfigFailure::Invalid(Invalid::ValueLen(_))) => "too_large",
            Self::ClusterConfig(ConfigFailure::Invalid(Invalid::ValueJson(_) | Invalid::OtherType(_))) => {
                "bad_value"
            }
            Self::ClusterConfig(ConfigFailure::Refused(NotWritten::Differs { .. })) => "precondition_failed",
            Self::ClusterConfig(ConfigFailure::Refused(NotWritten::Full)) => "config_full",
            Self::ClusterConfig(ConfigFailure::Refused(NotWritten::Outdated { .. })) => "outdated",
            Self::ClusterConfig(ConfigFailure::NotVisible(_)) => "not_visible",
            Self::Route(RouteError::NoPlan) | Self::Refused(AskError::NoPlan) => "no_plan",
            Self::Route(RouteError::NoPrimary(_)) => "no_primary",
            Self::Key { .. } | Self::Route(RouteError::Key(_) | RouteError::KeyTooLong(_)) => "bad_key",
            Self::NotFound(_)
            | Self::Refused(AskError::NoSuchNode(_) | AskError::NoSuchPartition(_))
            | Self::Name(NameFailure::Refused(Refused::NotFound(_))) => "not_found",
            Self::BadName(_) => "bad_name",
            Self::Name(NameFailure::Refused(Refused::AlreadyRegistered { .. })) => "already_registered",
            Self::Name(NameFailure::Refused(Refused::NotTheHolder { .. })) => "not_the_holder",
            Self::Name(NameFailure::Refused(Refused::NoMember(_))) => "no_member",
            Self::Name(NameFailure::Refused(Refused::TooLong(_))) => "too_large",
            Self::Name(NameFailure::Refused(Refused::Full | Refused::MetaFull)) => "overloaded",
            Self::Name(NameFailure::NoSuchKind { .. }) => "no_such_kind",
            Self::Name(NameFailure::StartFailed(_)) => "start_failed",
            Self::Name(NameFailure::Ignored) | Self::Ignore => "ignored",
            Self::Name(NameFailure::QueueFull(_)) => "queue_full",
            Self::Name(NameFailure::Overtaken(_)) => "overtaken",
            Self::Name(NameFailure::StartTimeout) => "start_timeout",
            Self::Name(NameFailure::NotVisible) => "not_visible",
            Self::Name(NameFailure::NoSuchActor) => "no_such_actor",
            Self::Lost(_) => "lost",
            Self::Refused(AskError::NotLost { .. }) => "not_lost",
            Self::Refused(AskError::Unserved(_) | AskError::Unanswered { .. }) => "no_primary",
            Self::Refused(AskError::Overtaken(_)) => "overtaken",
            Self::Refused(AskError::TooManyLosses(_)) => "overloaded",
            Self::Refused(AskError::NotLeader { .. }) | Self::NoLeader => "no_leader",
            Self::NoAnswer => "timeout",
            Self::Stopped | Self::Ended(_) => "stopping",
            Self::Refused(AskError::TooFewNodes { .. }) => "too_few_nodes",
            Self::Refused(AskError::Strategy { .. }) => "strategy",
            Self::Refused(AskError::PlanTooLong { .. }) => "plan_too_long",
            Self::Topic(_) => "topic",
            Self::Config(_) => "config",
            Self::Worker(_) | Self::Kinds(_) | Self::Unmergeable { .. } => "workers",
            Self::Child(_) => "children",
            Self::Bind { .. } => "bind",
            Self::Start(_) => "start",
            Self::System { .. } => "system",
        }
    }

    /// What a handler's error is for whoever called it.
    ///
    /// A failure of a call that the handler made itself becomes text: passed on as it is, `NotReady` would make the
    /// runtime send the outer message again, which has been carried out in part.
    pub(crate) fn into_failure(self) -> Failure {
        match self {
            Self::Call(failure @ (Failure::Rejected(_) | Failure::WorkerFailed(_))) => failure,
            other if other.changed() == Some(false) => Failure::Rejected(other.to_string()),
            other => Failure::WorkerFailed(other.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use tumen_core::ConfigVersion;

    use super::*;

    #[test]
    fn a_handlers_own_calls_do_not_pass_for_the_handler() {
        let inner = |failure: Failure| Error::Call(failure).into_failure();
        assert!(matches!(inner(Failure::NotReady), Failure::Rejected(_)));
        assert!(matches!(inner(Failure::Timeout { maybe_applied: true }), Failure::WorkerFailed(_)));
        assert!(matches!(Error::NoAnswer.into_failure(), Failure::WorkerFailed(_)));
        assert_eq!(Error::rejected("no").into_failure(), Failure::Rejected("no".into()));
        assert_eq!(Error::failed("half").into_failure(), Failure::WorkerFailed("half".into()));
    }

    #[test]
    fn an_error_says_whether_anything_changed_and_whether_to_ask_again() {
        for (error, changed, again) in [
            (Error::rejected("no"), Some(false), false),
            (Error::failed("half"), None, false),
            (Failure::NoQuorum.into(), Some(false), true),
            (Failure::Overloaded.into(), Some(false), true),
            (Failure::Fenced { changed: true }.into(), None, false),
            (Failure::Fenced { changed: false }.into(), Some(false), true),
            (Failure::Timeout { maybe_applied: false }.into(), Some(false), true),
            (RouteError::NoPlan.into(), Some(false), true),
            (Error::NoLeader, Some(false), true),
            (Error::NoAnswer, None, false),
            (AskError::TooFewNodes { present: 1, wanted: 3 }.into(), Some(false), true),
            (NameFailure::StartTimeout.into(), Some(true), true),
            (NameFailure::StartFailed("no".into()).into(), Some(false), false),
            (NameFailure::Ignored.into(), Some(false), false),
            (NameFailure::Call(Failure::Timeout { maybe_applied: true }).into(), None, false),
            (NameFailure::Call(Failure::NoQuorum).into(), Some(false), true),
            (ConfigFailure::Call(Failure::NoQuorum).into(), Some(false), true),
            (ConfigFailure::Call(Failure::Timeout { maybe_applied: true }).into(), None, false),
            (ConfigFailure::Refused(NotWritten::Differs { found: None }).into(), Some(false), false),
            (ConfigFailure::NotVisible(ConfigVersion(1)).into(), Some(true), false),
        ] {
            assert_eq!((error.changed(), error.is_safe_to_retry()), (changed, again), "{error}");
        }
    }
}
