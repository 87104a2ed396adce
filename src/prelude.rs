//! Everything that most users need: `use tumen::prelude::*;`.

pub use serde::{Deserialize, Serialize};

pub use crate::error::{Error, Result};
pub use crate::names::{Child, ChildContext, ChildRef, Receive};
pub use crate::node::{AssignmentsUpdated, Node};
pub use crate::worker::{Context, Handle, Merge, Message, Query, Replicated, Worker};
pub use tumen_core::cluster::snapshot::Mode;
pub use tumen_core::partitions::request::Failure;
