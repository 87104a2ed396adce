//! An entry as bytes: small, for a partition writes a hundred thousand of them a second, and read without copying.
//!
//! ```text
//! tag │ identity                                    │ changes                     │ reply
//! 1 B │ 1 B, then epoch sequence number gap         │ count, then kind len bytes  │ 1 B, then len bytes
//!     │      or   key (16 B) fingerprint (8 B)      │                             │
//! ```
//!
//! Numbers are LEB128; a record of 64 bytes with an empty reply takes about 80. What comes from a disk or a peer is
//! checked as it is read: nothing here panics, and nothing is reserved before the bytes for it were seen.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::{CHANGES_MAX, Change, Changes, ENTRY_LEN_MAX, EXPIRED_MAX, Entry, Expiry, KindIndex};
use crate::ids::{Epoch, Version};
use crate::partitions::identity::{Fingerprint, Identity, KeyDigest, Keyed, Numbered, Position, SessionId};
use crate::partitions::request::{Failure, Reply};

/// Why some bytes are no entry. Nothing was applied; the copy that holds them is damaged, or newer than this build.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// They end too soon.
    #[error("a log entry ends too soon")]
    Short,
    /// More bytes follow than the entry says.
    #[error("a log entry is followed by {0} bytes that do not belong to it")]
    Trailing(usize),
    /// A tag that this build does not know.
    #[error("a log entry has the unknown {what} {found}: it is damaged, or written by a newer version")]
    Tag {
        /// What the tag stands for.
        what: &'static str,
        /// The tag.
        found: u8,
    },
    /// A number that no entry can have.
    #[error("a log entry has a {what} that is out of bounds")]
    Bounds {
        /// What the number stands for.
        what: &'static str,
    },
    /// A text that is not UTF-8.
    #[error("a log entry has a text that is not UTF-8")]
    Text,
}

const OPEN: u8 = 1;
const EXPIRE: u8 = 2;
const STEP: u8 = 3;
const RECORD: u8 = 4;
const CHANGES: u8 = 5;

const NUMBERED: u8 = 1;
const KEYED: u8 = 2;

impl Entry {
    /// Appends the entry's bytes.
    pub fn encode(&self, into: &mut BytesMut) {
        match self {
            Self::Open { nonce } => {
                into.put_u8(OPEN);
                into.put_u128_le(*nonce);
            }
            Self::Expire(expiry) => {
                into.put_u8(EXPIRE);
                put_expiry(into, expiry);
            }
            Self::Step { identity, changes } => {
                into.put_u8(STEP);
                identity.encode(into);
                put_changes(into, changes);
            }
            Self::Record { identity, changes, reply } => {
                into.reserve(changes.bytes_len() + reply.as_ref().map_or(64, Bytes::len) + 64);
                into.put_u8(RECORD);
                identity.encode(into);
                put_changes(into, changes);
                put_reply(into, reply);
            }
            Self::Changes(changes) => {
                into.put_u8(CHANGES);
                put_changes(into, changes);
            }
        }
    }

    /// The entry's bytes.
    pub fn to_bytes(&self) -> Bytes {
        let mut bytes = BytesMut::new();
        self.encode(&mut bytes);
        bytes.freeze()
    }

    /// Reads one entry, and all of `bytes`. What it holds shares their memory.
    pub fn decode(mut bytes: Bytes) -> Result<Self, DecodeError> {
        if bytes.len() > ENTRY_LEN_MAX {
            return Err(DecodeError::Bounds { what: "length" });
        }
        let entry = match u8(&mut bytes)? {
            OPEN => Self::Open { nonce: u128(&mut bytes)? },
            EXPIRE => Self::Expire(expiry(&mut bytes)?),
            STEP => Self::Step { identity: Identity::decode(&mut bytes)?, changes: changes(&mut bytes)? },
            RECORD => Self::Record {
                identity: Identity::decode(&mut bytes)?,
                changes: changes(&mut bytes)?,
                reply: reply(&mut bytes)?,
            },
            CHANGES => Self::Changes(changes(&mut bytes)?),
            found => return Err(DecodeError::Tag { what: "kind", found }),
        };
        if bytes.has_remaining() { Err(DecodeError::Trailing(bytes.len())) } else { Ok(entry) }
    }
}

impl Identity {
    /// Appends the identity's bytes, as they stand in an entry and before a call's body.
    pub fn encode(&self, into: &mut BytesMut) {
        match self {
            Self::Numbered(Numbered { session, number, lowest }) => {
                into.put_u8(NUMBERED);
                put_position(into, session.0);
                put_number(into, *number);
                put_number(into, number.saturating_sub(*lowest));
            }
            Self::Keyed(Keyed { key, fingerprint }) => {
                into.put_u8(KEYED);
                into.put_u128_le(key.0);
                into.put_u64_le(fingerprint.0);
            }
        }
    }

    /// Reads an identity at the beginning of `bytes`, and takes it off.
    pub fn decode(bytes: &mut Bytes) -> Result<Self, DecodeError> {
        match u8(bytes)? {
            NUMBERED => {
                let session = SessionId(position(bytes)?);
                let number = number(bytes)?;
                let gap = self::number(bytes)?;
                let lowest = number.checked_sub(gap).ok_or(DecodeError::Bounds { what: "lowest number" })?;
                Ok(Self::Numbered(Numbered { session, number, lowest }))
            }
            KEYED => {
                let key = KeyDigest(u128(bytes)?);
                let fingerprint = Fingerprint(bytes.try_get_u64_le().map_err(|_| DecodeError::Short)?);
                Ok(Self::Keyed(Keyed { key, fingerprint }))
            }
            found => Err(DecodeError::Tag { what: "identity", found }),
        }
    }
}

fn put_expiry(into: &mut BytesMut, Expiry { sessions, answered, keys_through }: &Expiry) {
    put_number(into, sessions.len() as u64);
    sessions.iter().for_each(|session| put_position(into, session.0));
    put_number(into, answered.len() as u64);
    for (session, lowest) in answered {
        put_position(into, session.0);
        put_number(into, *lowest);
    }
    put_position(into, *keys_through);
}

fn expiry(from: &mut Bytes) -> Result<Expiry, DecodeError> {
    let sessions = list(from, EXPIRED_MAX, "number of sessions", |from| position(from).map(SessionId))?;
    let pair = |from: &mut Bytes| Ok((SessionId(position(from)?), number(from)?));
    let answered = list(from, EXPIRED_MAX, "number of sessions", pair)?;
    Ok(Expiry { sessions, answered, keys_through: position(from)? })
}

fn put_changes(into: &mut BytesMut, changes: &Changes) {
    put_number(into, changes.as_slice().len() as u64);
    for Change { kind, bytes } in changes {
        put_number(into, u64::from(kind.0));
        put_bytes(into, bytes);
    }
}

fn changes(from: &mut Bytes) -> Result<Changes, DecodeError> {
    let count = number(from)?;
    if count > CHANGES_MAX as u64 {
        return Err(DecodeError::Bounds { what: "number of changes" });
    }
    let mut changes = Changes::default();
    for _ in 0..count {
        let kind = u16::try_from(number(from)?).map_err(|_| DecodeError::Bounds { what: "kind" })?;
        let bytes = bytes(from)?;
        changes
            .push(KindIndex(kind), bytes)
            .map_err(|_| DecodeError::Bounds { what: "length of changes" })?;
    }
    Ok(changes)
}

const OK: u8 = 0;
const STALE: u8 = 1;
const NOT_READY: u8 = 2;
const NO_QUORUM: u8 = 3;
const FENCED: u8 = 4;
const FENCED_CHANGED: u8 = 5;
const OVERLOADED: u8 = 6;
const NO_PARTITION: u8 = 7;
const TIMEOUT: u8 = 8;
const TIMEOUT_MAYBE_APPLIED: u8 = 9;
const REJECTED: u8 = 10;
const WORKER_FAILED: u8 = 11;

pub(in crate::partitions) fn put_reply(into: &mut BytesMut, reply: &Reply) {
    let mut tagged = |tag, bytes: &[u8]| {
        into.put_u8(tag);
        put_bytes(into, bytes);
    };
    match reply {
        Ok(bytes) => tagged(OK, bytes),
        Err(Failure::NoPartition(text)) => tagged(NO_PARTITION, text.as_bytes()),
        Err(Failure::Rejected(text)) => tagged(REJECTED, text.as_bytes()),
        Err(Failure::WorkerFailed(text)) => tagged(WORKER_FAILED, text.as_bytes()),
        Err(Failure::Stale { version }) => {
            into.put_u8(STALE);
            put_number(into, version.0);
        }
        Err(Failure::NotReady) => into.put_u8(NOT_READY),
        Err(Failure::NoQuorum) => into.put_u8(NO_QUORUM),
        Err(Failure::Fenced { changed: false }) => into.put_u8(FENCED),
        Err(Failure::Fenced { changed: true }) => into.put_u8(FENCED_CHANGED),
        Err(Failure::Overloaded) => into.put_u8(OVERLOADED),
        Err(Failure::Timeout { maybe_applied: false }) => into.put_u8(TIMEOUT),
        Err(Failure::Timeout { maybe_applied: true }) => into.put_u8(TIMEOUT_MAYBE_APPLIED),
    }
}

fn reply(from: &mut Bytes) -> Result<Reply, DecodeError> {
    Ok(match u8(from)? {
        OK => Ok(bytes(from)?),
        STALE => Err(Failure::Stale { version: Version(number(from)?) }),
        NOT_READY => Err(Failure::NotReady),
        NO_QUORUM => Err(Failure::NoQuorum),
        FENCED => Err(Failure::Fenced { changed: false }),
        FENCED_CHANGED => Err(Failure::Fenced { changed: true }),
        OVERLOADED => Err(Failure::Overloaded),
        NO_PARTITION => Err(Failure::NoPartition(text(from)?)),
        TIMEOUT => Err(Failure::Timeout { maybe_applied: false }),
        TIMEOUT_MAYBE_APPLIED => Err(Failure::Timeout { maybe_applied: true }),
        REJECTED => Err(Failure::Rejected(text(from)?)),
        WORKER_FAILED => Err(Failure::WorkerFailed(text(from)?)),
        found => return Err(DecodeError::Tag { what: "reply", found }),
    })
}

fn list<T>(
    from: &mut Bytes,
    max: usize,
    what: &'static str,
    read: impl Fn(&mut Bytes) -> Result<T, DecodeError>,
) -> Result<Vec<T>, DecodeError> {
    let count = number(from)?;
    if count > max as u64 {
        return Err(DecodeError::Bounds { what });
    }
    (0..count).map(|_| read(from)).collect()
}

fn put_position(into: &mut BytesMut, position: Position) {
    put_number(into, position.epoch.0);
    put_number(into, position.sequence);
}

fn position(from: &mut Bytes) -> Result<Position, DecodeError> {
    Ok(Position { epoch: Epoch(number(from)?), sequence: number(from)? })
}

fn put_bytes(into: &mut BytesMut, bytes: &[u8]) {
    put_number(into, bytes.len() as u64);
    into.put_slice(bytes);
}

fn bytes(from: &mut Bytes) -> Result<Bytes, DecodeError> {
    let len = usize::try_from(number(from)?).map_err(|_| DecodeError::Short)?;
    if len > from.len() { Err(DecodeError::Short) } else { Ok(from.split_to(len)) }
}

fn text(from: &mut Bytes) -> Result<String, DecodeError> {
    let bytes = bytes(from)?;
    std::str::from_utf8(&bytes).map(str::to_owned).map_err(|_| DecodeError::Text)
}

fn u8(from: &mut Bytes) -> Result<u8, DecodeError> {
    from.try_get_u8().map_err(|_| DecodeError::Short)
}

fn u128(from: &mut Bytes) -> Result<u128, DecodeError> {
    from.try_get_u128_le().map_err(|_| DecodeError::Short)
}

/// LEB128: seven bits a byte, the lowest first.
fn put_number(into: &mut BytesMut, mut number: u64) {
    while number >= 0x80 {
        into.put_u8(number as u8 | 0x80);
        number >>= 7;
    }
    into.put_u8(number as u8);
}

fn number(from: &mut Bytes) -> Result<u64, DecodeError> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let byte = u8(from)?;
        let bits = u64::from(byte & 0x7f);
        number |= bits << shift;
        // Each number has one encoding: no bits lost at the top, no zeros added there.
        let last = byte & 0x80 == 0;
        if (bits << shift) >> shift != bits || (last && byte == 0 && shift > 0) {
            break;
        }
        if last {
            return Ok(number);
        }
    }
    Err(DecodeError::Bounds { what: "number" })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn positions() -> impl Strategy<Value = Position> {
        (any::<u64>(), any::<u64>()).prop_map(|(epoch, sequence)| Position::new(Epoch(epoch), sequence))
    }

    fn identities() -> impl Strategy<Value = Identity> {
        let numbered = (positions(), any::<u64>(), any::<u64>()).prop_map(|(session, a, b)| {
            Identity::Numbered(Numbered { session: SessionId(session), number: a.max(b), lowest: a.min(b) })
        });
        let keyed = (any::<u128>(), any::<u64>()).prop_map(|(key, fingerprint)| {
            Identity::Keyed(Keyed { key: KeyDigest(key), fingerprint: Fingerprint(fingerprint) })
        });
        prop_oneof![numbered, keyed]
    }

    fn blobs() -> impl Strategy<Value = Bytes> {
        proptest::collection::vec(any::<u8>(), 0..200).prop_map(Bytes::from)
    }

    fn many_changes() -> impl Strategy<Value = Changes> {
        proptest::collection::vec((any::<u16>(), blobs()), 0..5).prop_map(|list| {
            let mut changes = Changes::default();
            list.into_iter().for_each(|(kind, bytes)| changes.push(KindIndex(kind), bytes).unwrap());
            changes
        })
    }

    fn replies() -> impl Strategy<Value = Reply> {
        prop_oneof![
            4 => blobs().prop_map(Ok),
            1 => any::<u64>().prop_map(|version| Err(Failure::Stale { version: Version(version) })),
            1 => any::<bool>().prop_map(|changed| Err(Failure::Fenced { changed })),
            1 => any::<bool>().prop_map(|maybe_applied| Err(Failure::Timeout { maybe_applied })),
            1 => any::<String>().prop_map(|text| Err(Failure::Rejected(text))),
            1 => any::<String>().prop_map(|text| Err(Failure::WorkerFailed(text))),
            1 => any::<String>().prop_map(|text| Err(Failure::NoPartition(text))),
            1 => Just(Err(Failure::NotReady)),
            1 => Just(Err(Failure::NoQuorum)),
            1 => Just(Err(Failure::Overloaded)),
        ]
    }

    fn expiries() -> impl Strategy<Value = Expiry> {
        let sessions = proptest::collection::vec(positions().prop_map(SessionId), 0..4);
        let answered = proptest::collection::vec((positions().prop_map(SessionId), any::<u64>()), 0..4);
        (sessions, answered, positions()).prop_map(|(sessions, answered, keys_through)| Expiry {
            sessions,
            answered,
            keys_through,
        })
    }

    fn entries() -> impl Strategy<Value = Entry> {
        prop_oneof![
            any::<u128>().prop_map(|nonce| Entry::Open { nonce }),
            expiries().prop_map(Entry::Expire),
            (identities(), many_changes()).prop_map(|(identity, changes)| Entry::Step { identity, changes }),
            (identities(), many_changes(), replies()).prop_map(|(identity, changes, reply)| Entry::Record {
                identity,
                changes,
                reply
            }),
            many_changes().prop_map(Entry::Changes),
        ]
    }

    proptest! {
        #[test]
        fn an_entry_reads_back_and_no_part_of_it_does(entry in entries(), cut: prop::sample::Index, more: u8) {
            let bytes = entry.to_bytes();
            prop_assert_eq!(Entry::decode(bytes.clone()), Ok(entry));
            prop_assert!(Entry::decode(bytes.slice(..cut.index(bytes.len()))).is_err());
            let mut longer = BytesMut::from(&bytes[..]);
            longer.put_u8(more);
            prop_assert!(Entry::decode(longer.freeze()).is_err());
        }

        #[test]
        fn what_reads_at_all_reads_as_its_only_encoding(mut bytes in proptest::collection::vec(any::<u8>(), 1..60)) {
            bytes[0] %= 7;
            let bytes = Bytes::from(bytes);
            if let Ok(entry) = Entry::decode(bytes.clone()) {
                prop_assert_eq!(entry.to_bytes(), bytes);
            }
        }

        #[test]
        fn a_damaged_entry_never_panics(entry in entries(), at: prop::sample::Index, bit in 0_u8..8) {
            let mut bytes = entry.to_bytes().to_vec();
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            drop(Entry::decode(bytes.into()));
        }
    }

    #[test]
    fn a_small_record_stays_small() {
        let session = SessionId(Position::new(Epoch(12), 1_000_000));
        let identity = Identity::Numbered(Numbered { session, number: 5_000_000, lowest: 4_999_000 });
        let mut changes = Changes::default();
        changes.push(KindIndex(0), Bytes::from_static(&[7; 64])).unwrap();
        let record = Entry::Record { identity, changes, reply: Ok(Bytes::new()) };
        assert!(record.to_bytes().len() <= 82, "{}", record.to_bytes().len());
    }

    #[test]
    fn a_promise_of_much_that_is_not_there_is_refused_at_once() {
        for count in [CHANGES_MAX as u64, u64::MAX] {
            let mut bytes = BytesMut::new();
            bytes.put_u8(CHANGES);
            put_number(&mut bytes, count);
            assert!(Entry::decode(bytes.freeze()).is_err());
        }
    }
}
