//! Everything that most users need: `use tumen::prelude::*;`.

pub use serde::{Deserialize, Serialize};

pub use crate::error::{Error, Result};
pub use crate::worker::{Context, Handle, Message, Worker};
