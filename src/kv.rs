//! The built-in worker `kv`: bytes by key, so that a cluster is of use before anybody writes Rust.
//!
//! ```text
//!  PUT /kv/{key}  ─▶ Put    ─┐
//!  GET /kv/{key}  ─▶ Get    ─┼─▶ the key's partition ─▶ Kv
//!  DELETE ..      ─▶ Delete ─┘
//! ```
//!
//! A node hosts it if its builder says [`kv()`](crate::Builder::kv); the command `tumen node` does.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tumen_core::partitions::routing::KEY_LEN_MAX;

use crate::error::{Error, Result};
use crate::worker::{Context, Handle, Handlers, Message, Query, Replicated, Worker};

/// The largest value, in bytes.
pub const VALUE_LEN_MAX: usize = 4 << 20;
/// The longest content type, in bytes.
pub const CONTENT_TYPE_LEN_MAX: usize = 256;
/// What a value is where nobody said what it is.
pub const CONTENT_TYPE_DEFAULT: &str = "application/octet-stream";

/// Keep these bytes under this key. Answers whether there was nothing under it before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Put {
    /// The key: 1 to [`KEY_LEN_MAX`] bytes. The same as the call's.
    pub key: Bytes,
    /// The value.
    pub value: Value,
}

/// A value with what it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Value {
    /// The bytes, at most [`VALUE_LEN_MAX`].
    pub bytes: Bytes,
    /// What they are, as a media type; at most [`CONTENT_TYPE_LEN_MAX`] bytes.
    pub content_type: String,
}

/// What is under this key?
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Get {
    /// The key.
    pub key: Bytes,
}

/// Forget what is under this key. Answers whether there was anything.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delete {
    /// The key.
    pub key: Bytes,
}

impl Message for Put {
    type Reply = bool;
    // As an HTTP client may send a PUT again. The second one finds the first one's value, and answers so.
    const IDEMPOTENT: bool = true;

    fn name() -> &'static str {
        "tumen.kv.put"
    }
}

impl Message for Get {
    type Reply = Option<Value>;
    const IDEMPOTENT: bool = true;

    fn name() -> &'static str {
        "tumen.kv.get"
    }
}

impl Message for Delete {
    // Not idempotent: a second one would answer that there was nothing, where the first one deleted it.
    type Reply = bool;

    fn name() -> &'static str {
        "tumen.kv.delete"
    }
}

/// One partition's keys and values.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Kv {
    values: BTreeMap<Bytes, Value>,
}

impl Kv {
    /// What it handles.
    pub(crate) fn handlers(handlers: Handlers<Self>) -> Handlers<Self> {
        handlers.handles::<Put>().queries::<Get>().handles::<Delete>()
    }
}

impl Worker for Kv {
    const KIND: &'static str = "kv";
}

/// What changes a partition's keys and values.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// This value is under this key from now on.
    Set(Bytes, Value),
    /// Nothing is under this key from now on.
    Unset(Bytes),
}

impl Replicated for Kv {
    type Change = Change;

    fn apply(&mut self, change: Change) {
        match change {
            Change::Set(key, value) => {
                self.values.insert(key, value);
            }
            Change::Unset(key) => {
                self.values.remove(&key);
            }
        }
    }

    fn fork(&self) -> Result<Self> {
        Ok(self.clone())
    }
}

impl Handle<Put> for Kv {
    async fn handle(&mut self, put: Put, cx: &mut Context<Self>) -> Result<bool> {
        check_key(&put.key)?;
        put.value.check()?;
        let new = !self.values.contains_key(&put.key);
        cx.commit(self, Change::Set(put.key, put.value))?;
        Ok(new)
    }
}

impl Query<Get> for Kv {
    fn query(&self, get: Get) -> Result<Option<Value>> {
        check_key(&get.key)?;
        Ok(self.values.get(&get.key).cloned())
    }
}

impl Handle<Delete> for Kv {
    async fn handle(&mut self, delete: Delete, cx: &mut Context<Self>) -> Result<bool> {
        check_key(&delete.key)?;
        let there = self.values.contains_key(&delete.key);
        if there {
            cx.commit(self, Change::Unset(delete.key))?;
        }
        Ok(there)
    }
}

impl Value {
    fn check(&self) -> Result<()> {
        let (len, type_len) = (self.bytes.len(), self.content_type.len());
        if len > VALUE_LEN_MAX {
            return Err(Error::rejected(format!(
                "a value has at most {VALUE_LEN_MAX} bytes, this one has {len}"
            )));
        }
        if type_len > CONTENT_TYPE_LEN_MAX {
            let max = CONTENT_TYPE_LEN_MAX;
            return Err(Error::rejected(format!(
                "a content type has at most {max} bytes, this one has {type_len}"
            )));
        }
        Ok(())
    }
}

/// Whether anything can be kept under this key.
///
/// # Errors
/// It is empty, or longer than [`KEY_LEN_MAX`].
pub(crate) fn check_key(key: &[u8]) -> Result<()> {
    match key.len() {
        1..=KEY_LEN_MAX => Ok(()),
        len => Err(Error::Key { len }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::testing::Lone;

    fn key(text: &'static str) -> Bytes {
        Bytes::from_static(text.as_bytes())
    }

    fn value(text: &'static str) -> Value {
        Value { bytes: Bytes::from_static(text.as_bytes()), content_type: "text/plain".into() }
    }

    async fn lone() -> Lone {
        Lone::start(crate::worker::replicating(Kv::handlers)).await
    }

    #[tokio::test]
    async fn a_value_is_kept_replaced_and_forgotten() {
        let mut kv = lone().await;
        assert_eq!(kv.call(&Get { key: key("a") }).await, Ok(None));
        assert_eq!(kv.call(&Put { key: key("a"), value: value("1") }).await, Ok(true));
        assert_eq!(kv.call(&Put { key: key("a"), value: value("2") }).await, Ok(false));
        assert_eq!(kv.call(&Get { key: key("a") }).await, Ok(Some(value("2"))));
        assert_eq!(kv.call(&Delete { key: key("a") }).await, Ok(true));
        assert_eq!(kv.call(&Delete { key: key("a") }).await, Ok(false));
        assert_eq!(kv.call(&Get { key: key("a") }).await, Ok(None));
    }

    #[tokio::test]
    async fn bounds_are_exact_and_said() {
        let mut kv = lone().await;
        let put = |key_len: usize, value_len: usize, type_len: usize| Put {
            key: vec![b'k'; key_len].into(),
            value: Value { bytes: vec![0; value_len].into(), content_type: "t".repeat(type_len) },
        };
        for fits in [put(1, 0, 0), put(KEY_LEN_MAX, 1, 1), put(1, VALUE_LEN_MAX, CONTENT_TYPE_LEN_MAX)] {
            assert!(kv.call(&fits).await.is_ok());
        }
        for (too_much, says) in [
            (put(0, 1, 1), "1 to 65536 bytes, this one has 0"),
            (put(1 << 20, 1, 1), "1 to 65536 bytes, this one has 1048576"),
            (put(1, VALUE_LEN_MAX + 1, 1), "at most 4194304 bytes, this one has 4194305"),
            (put(1, 1, CONTENT_TYPE_LEN_MAX + 1), "at most 256 bytes"),
        ] {
            let refused = kv.call(&too_much).await.unwrap_err();
            assert!(!refused.maybe_changed() && refused.to_string().contains(says), "{refused}");
        }
        assert!(kv.call(&Get { key: Bytes::new() }).await.is_err());
        assert!(kv.call(&Delete { key: Bytes::new() }).await.is_err());
    }
}
