//! The strategies in the box, by name.

use std::sync::Arc;

use crate::assignment::{Balanced, ConsistentHash, Rendezvous, Rotation, Strategy};

/// The names of all strategies in the box; the first is the default.
pub const NAMES: [&str; 4] = ["balanced", "rotation", "consistent-hash", "rendezvous"];

/// There is no strategy of this name. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown strategy {0:?}: expected one of balanced, rotation, consistent-hash, rendezvous")]
pub struct UnknownStrategy(pub String);

/// The strategy of this name.
///
/// # Errors
/// When there is none in the box; the error lists those that are.
pub fn by_name(name: &str) -> Result<Arc<dyn Strategy>, UnknownStrategy> {
    Ok(match name {
        "balanced" => Arc::new(Balanced),
        "rotation" => Arc::new(Rotation),
        "consistent-hash" => Arc::new(ConsistentHash::default()),
        "rendezvous" => Arc::new(Rendezvous),
        other => return Err(UnknownStrategy(other.to_owned())),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_strategy_answers_to_its_own_name() {
        for name in NAMES {
            assert_eq!(by_name(name).unwrap().name(), name);
        }
        let refused = by_name("magic").err().unwrap().to_string();
        assert!(NAMES.iter().all(|name| refused.contains(name)), "{refused}");
    }
}
