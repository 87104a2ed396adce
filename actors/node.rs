//! One running node: everything wired together, and the handle by which `src` holds it.
//!
//! ```text
//!  sessions ─▶ Membership ─▶ view                      questions ─▶ leader's AssignmentCoordinator
//!     │                                                                   │ plan, by majority
//!     ├─▶ LeaseKeeper ─▶ Gate                                             ▼
//!     └─▶ Consensus ─▶ leadership, state ─▶ Plans ─▶ PartitionManager ─▶ PartitionWorker × n
//!                                             └────▶ Router ◀─ calls
//! ```

mod asking;
mod assembly;
mod events;
mod founding;
mod leading;
mod settings;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{broadcast, watch};
use tumen_core::cluster::asks::{Answer, Ask};
use tumen_core::cluster::coordinator::{AskError, Departure};
use tumen_core::cluster::membership::View;
use tumen_core::ids::{NodeBoot, NodeName, Version};

pub use self::assembly::StartError;
pub use self::events::Event;
pub use self::settings::{Seeds, Settings};
use self::assembly::Parts;
use crate::assembly_prelude::*;
