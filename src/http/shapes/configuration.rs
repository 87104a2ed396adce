//! The JSON of the cluster's own configuration.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// One value: an element of [`ConfigEntries`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigEntry {
    /// Under which key.
    pub key: String,
    /// The change that put it there.
    pub version: u64,
    /// The value.
    pub value: Value,
}

/// `GET /config?prefix=P` and `GET /config/`: what the answering node knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigEntries {
    /// In the order of the keys' bytes.
    pub values: Vec<ConfigEntry>,
    /// How many there are.
    pub count: usize,
    /// The last change that the answering node knows, of whichever key.
    pub version: u64,
}

/// `PUT` and `DELETE /config/{key}`: it is done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigWritten {
    /// Under which key.
    pub key: String,
    /// The change that it was.
    pub version: u64,
}

/// What `GET /config?watch=true` tells, one after the other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum ConfigNews {
    /// A value is under a key, or none any more.
    ConfigUpdated {
        /// By which change.
        version: u64,
        /// Under which key.
        key: String,
        /// The value; not said where there is none any more, for `null` is one.
        #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "there")]
        value: Option<Value>,
    },
    /// So many changes, of any keys, were not told before this: what they left behind is told.
    Missed {
        /// How many.
        count: u64,
    },
}

/// A value that is said, if only `null`.
fn there<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

impl ConfigNews {
    /// The event's name, as it stands in its JSON.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::ConfigUpdated { .. } => "config_updated",
            Self::Missed { .. } => "missed",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn null_is_a_value_and_nothing_is_none() {
        for (value, text) in [(Some(Value::Null), r#","value":null"#), (None, "")] {
            let news = ConfigNews::ConfigUpdated { version: 7, key: "a".into(), value };
            let json = format!(r#"{{"event":"config_updated","version":7,"key":"a"{text}}}"#);
            assert_eq!(serde_json::to_string(&news).unwrap(), json);
            assert_eq!(serde_json::from_str::<ConfigNews>(&json).unwrap(), news);
        }
    }
}
