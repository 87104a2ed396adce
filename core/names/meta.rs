//! What the whole cluster is told under a key, such as which schema is in force: no name, held by nobody, and there until it is
//! taken back.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::names::claim::ClaimNumber;

/// The most keys in one directory. All directories hold 262,144. Names have room of their own.
pub const META_MAX: usize = 1 << 14;

/// What is told under one key. A key is as a name is, in a space of its own.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Meta {
    /// Larger for each later time that it was told.
    pub number: ClaimNumber,
    /// What.
    pub value: Bytes,
}
