//! How a child is to be run: whether it is started again, how often, and where.

use std::time::Duration;

use bytes::Bytes;
use tumen_core::Kind;
use tumen_core::ids::NameError;
use tumen_core::names::Spec;
use tumen_core::names::placement::Placing;
use tumen_core::supervision::Restart;

use crate::error::{Error, Result};
use crate::names::{Child, ChildError, Refused, VALUE_LEN_MAX};
use crate::worker::encode;

/// How a child is to be run. [`Node::start_child_with`](crate::Node::start_child_with) takes it.
///
/// ```
/// # use std::time::Duration;
/// use tumen::names::{ChildSpec, Placing, Restart};
///
/// let spec = ChildSpec::new()
///     .restart(Restart::Transient)
///     .restarts_max(3)
///     .window(Duration::from_secs(10))
///     .placing(Placing::LeastLoaded);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "it says how a child is to be run, and starts none"]
pub struct ChildSpec {
    restart: Restart,
    restarts_max: u32,
    window: Duration,
    placing: Result<Placing, NameError>,
    value: Bytes,
}

impl Default for ChildSpec {
    fn default() -> Self {
        Self::new()
    }
}

impl ChildSpec {
    /// The most restarts within [`Self::WINDOW`], if nothing else is said.
    pub const RESTARTS_MAX: u32 = 5;
    /// The window, if nothing else is said.
    pub const WINDOW: Duration = Duration::from_secs(30);

    /// Always started again, wherever its name leads it.
    pub const fn new() -> Self {
        Self {
            restart: Restart::Permanent,
            restarts_max: Self::RESTARTS_MAX,
            window: Self::WINDOW,
            placing: Ok(Placing::Uniform),
            value: Bytes::new(),
        }
    }

    /// Whether it is started again once it ended. Default: always.
    pub const fn restart(mut self, restart: Restart) -> Self {
        self.restart = restart;
        self
    }

    /// The most restarts within the window, on all nodes together. One more, and it is given up: its name is free then.
    /// Default 5; 0 gives up at the first.
    pub const fn restarts_max(mut self, restarts_max: u32) -> Self {
        self.restarts_max = restarts_max;
        self
    }

    /// The window. Default 30 s.
    pub const fn window(mut self, window: Duration) -> Self {
        self.window = window;
        self
    }

    /// How a node is chosen for it. Default: by its name, so that the same nodes give the same one.
    pub fn placing(mut self, placing: Placing) -> Self {
        self.placing = Ok(placing);
        self
    }

    /// By a placement of your own: the one that nodes were given under this name
    /// ([`Builder::placement`](crate::Builder::placement)); or, by its word, by one of those in the box. A name that is none is told
    /// when the child is started.
    pub fn placed_by(mut self, name: impl AsRef<str>) -> Self {
        self.placing = name.as_ref().parse();
        self
    }

    /// What is said of it to whoever looks its name up: at most [`VALUE_LEN_MAX`] bytes. Default: nothing. It counts for
    /// nothing where a child is started that is there already.
    pub fn value(mut self, value: impl Into<Bytes>) -> Self {
        self.value = value.into();
        self
    }

    /// The same with a kind and its arguments, for the runtime; and the value.
    pub(crate) fn of(self, kind: Kind, args: Bytes) -> Result<(Spec, Bytes)> {
        let Self { restart, restarts_max, window, placing, value } = self;
        let placing = placing.map_err(|why| Error::rejected(format!("the child's placement: {why}")))?;
        for len in [args.len(), value.len()] {
            if len > VALUE_LEN_MAX {
                return Err(Error::Name(Refused::TooLong(len).into()));
            }
        }
        Ok((Spec { kind, args, restart, restarts_max, window, placing }, value))
    }

    /// The same with the kind `C` and these arguments.
    pub(crate) fn of_child<C: Child>(self, args: &C::Args) -> Result<(Spec, Bytes)> {
        let kind = super::receives::kind_of::<C>().map_err(|why: ChildError| Error::rejected(why))?;
        let args = encode(args).map_err(|why| Error::rejected(format!("the child's arguments {why}")))?;
        self.of(kind, args)
    }
}
