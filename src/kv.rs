//! The built-in worker `kv`: bytes by key, so that a cluster is of use before anybody writes Rust.
//!
//! ```text
//!  PUT /kv/{key}  ─▶ Put, or CompareAndSet where it says If-Match ─┐
//!  GET /kv/{key}  ─▶ Get                                           ─┼─▶ the key's partition ─▶ Kv
//!  DELETE ..      ─▶ Delete, or CompareAndSet                      ─┘
//! ```
//!
//! A node hosts it if its builder says [`kv()`](crate::Builder::kv); the command `tumen node` does.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Unbounded};

use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use smallvec::SmallVec;
use tumen_core::partitions::routing::KEY_LEN_MAX;

use crate::error::{Error, Result};
use crate::worker::{Context, Handle, Handlers, Message, Query, Replicated, Worker};

/// A key up to this length, in bytes, takes no memory of its own.
const KEY_LEN_USUAL: usize = 24;
/// The largest value, in bytes.
pub const VALUE_LEN_MAX: usize = 4 << 20;
/// The longest content type, in bytes.
pub const CONTENT_TYPE_LEN_MAX: usize = 256;
/// About how many bytes of keys and values one [`Page`] has at most, if it has more than one key.
pub const PAGE_LEN_MAX: usize = 1 << 20;
/// What a value is where nobody said what it is.
pub const CONTENT_TYPE_DEFAULT: &str = "application/octet-stream";

/// Keep these bytes under this key, whatever is there.
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

/// What came of keeping a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stored {
    /// Whether there was nothing under the key before.
    pub new: bool,
    /// The value's version: no two values of a key ever have the same one, also if it was deleted in between.
    pub version: u64,
}

/// A value as it is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// The value.
    pub value: Value,
    /// Its version: see [`Stored::version`].
    pub version: u64,
}

/// Keep this value under this key, or none, but only if what is there is what the caller thinks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompareAndSet {
    /// The key.
    pub key: Bytes,
    /// What has to be there.
    pub expected: Expected,
    /// What shall be there. `None`: nothing.
    pub value: Option<Value>,
}

/// What has to be under a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Expected {
    /// Nothing.
    Nothing,
    /// Any value.
    Anything,
    /// The value with this version.
    Version(u64),
}

/// What came of a [`CompareAndSet`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Compared {
    /// The value is kept.
    Stored(Stored),
    /// Nothing is there any more, if anything was.
    Removed,
    /// Something else is there, of this version, or nothing. Nothing was changed.
    Differs(Option<u64>),
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

/// What is kept in a partition, in the order of its keys? Asked of the partition, not of a key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scan {
    /// Only what comes after this key. `None`: from the first on.
    pub after: Option<Bytes>,
}

/// Some of what is kept in a partition.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page {
    /// Keys in their order, with their values: about [`PAGE_LEN_MAX`] bytes at most, but one of them at least.
    pub entries: Vec<(Bytes, Value)>,
    /// Whether there are more.
    pub more: bool,
}

impl Message for Put {
    type Reply = Stored;
    // As an HTTP client may send a PUT again. The second one finds the first one's value, and answers so.
    const IDEMPOTENT: bool = true;

    fn name() -> &'static str {
        "tumen.kv.put"
    }
}

impl Message for Get {
    type Reply = Option<Kept>;
    const IDEMPOTENT: bool = true;

    fn name() -> &'static str {
        "tumen.kv.get"
    }
}

impl Message for Scan {
    type Reply = Page;
    const IDEMPOTENT: bool = true;

    fn name() -> &'static str {
        "tumen.kv.scan"
    }
}

impl Message for CompareAndSet {
    // Not idempotent: a second one would find what the first one set.
    type Reply = Compared;

    fn name() -> &'static str {
        "tumen.kv.compare_and_set"
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
    values: BTreeMap<Key, Kept>,
    /// The newest version of any of them. Kept for all keys together: a key that comes again has a later one.
    version: u64,
}

/// A key in its place among the others. Where it is short it lies there itself, and to find it looks nowhere else.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key(SmallVec<[u8; KEY_LEN_USUAL]>);

impl Key {
    fn new(bytes: &[u8]) -> Self {
        Self(SmallVec::from_slice(bytes))
    }
}

impl Borrow<[u8]> for Key {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

impl Serialize for Key {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Bytes::deserialize(from).map(|bytes| Self::new(&bytes))
    }
}

impl Kv {
    /// What it handles.
    pub(crate) fn handlers(handlers: Handlers<Self>) -> Handlers<Self> {
        handlers
            .handles::<Put>()
            .handles::<CompareAndSet>()
            .queries::<Get>()
            .queries::<Scan>()
            .handles::<Delete>()
    }
}

impl Kv {
    fn set(&mut self, key: Bytes, value: Value, cx: &mut Context<Self>) -> Result<Stored> {
        let before = self.values.len();
        cx.commit(self, Change::Set(key, value))?;
        Ok(Stored { new: self.values.len() > before, version: self.version })
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
                self.version += 1;
                let kept = Kept { value, version: self.version };
                match self.values.get_mut(&*key) {
                    Some(there) => *there = kept,
                    None => drop(self.values.insert(Key::new(&key), kept)),
                }
            }
            Change::Unset(key) => {
                self.values.remove(&*key);
            }
        }
    }

    fn fork(&self) -> Result<Self> {
        Ok(self.clone())
    }
}

impl Handle<Put> for Kv {
    async fn handle(&mut self, put: Put, cx: &mut Context<Self>) -> Result<Stored> {
        check_key(&put.key)?;
        put.value.check()?;
        self.set(put.key, put.value, cx)
    }
}

impl Handle<CompareAndSet> for Kv {
    async fn handle(&mut self, asked: CompareAndSet, cx: &mut Context<Self>) -> Result<Compared> {
        let CompareAndSet { key, expected, value } = asked;
        check_key(&key)?;
        value.as_ref().map_or(Ok(()), Value::check)?;
        let version = self.values.get(&*key).map(|kept| kept.version);
        let is_expected = match expected {
            Expected::Nothing => version.is_none(),
            Expected::Anything => version.is_some(),
            Expected::Version(wanted) => version == Some(wanted),
        };
        if !is_expected {
            return Ok(Compared::Differs(version));
        }
        match value {
            Some(value) => self.set(key, value, cx).map(Compared::Stored),
            None => {
                if version.is_some() {
                    cx.commit(self, Change::Unset(key))?;
                }
                Ok(Compared::Removed)
            }
        }
    }
}

impl Query<Get> for Kv {
    fn query(&self, get: Get) -> Result<Option<Kept>> {
        check_key(&get.key)?;
        Ok(self.values.get(&*get.key).cloned())
    }
}

impl Query<Scan> for Kv {
    fn query(&self, Scan { after }: Scan) -> Result<Page> {
        let mut page = Page::default();
        let mut room = PAGE_LEN_MAX;
        let from = after.as_deref().map_or(Unbounded, Excluded);
        for (Key(key), Kept { value, .. }) in self.values.range::<[u8], _>((from, Unbounded)) {
            let len = key.len() + value.bytes.len() + value.content_type.len();
            if len > room && !page.entries.is_empty() {
                page.more = true;
                break;
            }
            room = room.saturating_sub(len);
            page.entries.push((Bytes::copy_from_slice(key), value.clone()));
        }
        Ok(page)
    }
}

impl Handle<Delete> for Kv {
    async fn handle(&mut self, delete: Delete, cx: &mut Context<Self>) -> Result<bool> {
        check_key(&delete.key)?;
        let there = self.values.contains_key(&*delete.key);
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
        let put = |text| Put { key: key("a"), value: value(text) };
        assert_eq!(kv.call(&Get { key: key("a") }).await, Ok(None));
        assert_eq!(kv.call(&put("1")).await, Ok(Stored { new: true, version: 1 }));
        assert_eq!(kv.call(&put("2")).await, Ok(Stored { new: false, version: 2 }));
        let kept = Kept { value: value("2"), version: 2 };
        assert_eq!(kv.call(&Get { key: key("a") }).await, Ok(Some(kept)));
        assert_eq!(kv.call(&Delete { key: key("a") }).await, Ok(true));
        assert_eq!(kv.call(&Delete { key: key("a") }).await, Ok(false));
        assert_eq!(kv.call(&Get { key: key("a") }).await, Ok(None));
    }

    #[tokio::test]
    async fn what_is_not_as_expected_is_left_alone() {
        let mut kv = lone().await;
        let set = |expected, text: &'static str| {
            let value = Some(text).filter(|text| !text.is_empty()).map(value);
            CompareAndSet { key: key("a"), expected, value }
        };
        for expected in [Expected::Anything, Expected::Version(0), Expected::Version(1)] {
            assert_eq!(kv.call(&set(expected, "1")).await, Ok(Compared::Differs(None)));
            assert_eq!(kv.call(&set(expected, "")).await, Ok(Compared::Differs(None)));
        }
        let stored = |new, version| Ok(Compared::Stored(Stored { new, version }));
        assert_eq!(kv.call(&set(Expected::Nothing, "1")).await, stored(true, 1));
        assert_eq!(kv.call(&set(Expected::Nothing, "2")).await, Ok(Compared::Differs(Some(1))));
        assert_eq!(kv.call(&set(Expected::Version(1), "2")).await, stored(false, 2));
        assert_eq!(kv.call(&set(Expected::Version(1), "3")).await, Ok(Compared::Differs(Some(2))));
        assert_eq!(kv.call(&set(Expected::Anything, "3")).await, stored(false, 3));
        assert_eq!(kv.call(&set(Expected::Version(2), "")).await, Ok(Compared::Differs(Some(3))));
        assert_eq!(kv.call(&set(Expected::Version(3), "")).await, Ok(Compared::Removed));
        assert_eq!(kv.call(&set(Expected::Nothing, "")).await, Ok(Compared::Removed));
        // It comes back as something else than it ever was.
        assert_eq!(kv.call(&set(Expected::Nothing, "1")).await, stored(true, 4));
    }

    #[tokio::test]
    async fn a_partition_is_read_page_by_page_in_order() {
        let mut kv = lone().await;
        let value = Value { bytes: vec![7; 400 << 10].into(), content_type: "t".into() };
        for text in ["c", "a", "d", "b", "e"] {
            kv.call(&Put { key: key(text), value: value.clone() }).await.unwrap();
        }
        let (mut after, mut keys, mut pages) = (None, Vec::new(), 0);
        loop {
            let page = kv.call(&Scan { after: after.clone() }).await.unwrap();
            keys.extend(page.entries.iter().map(|(key, _)| key.clone()));
            pages += 1;
            after = keys.last().cloned();
            if !page.more {
                break;
            }
        }
        assert_eq!((keys, pages), (["a", "b", "c", "d", "e"].map(key).to_vec(), 3));
        let beyond = kv.call(&Scan { after: Some(key("e")) }).await.unwrap();
        assert_eq!(beyond, Page::default());
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
