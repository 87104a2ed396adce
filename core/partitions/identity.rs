//! By what a request is known again when it comes a second time.
//!
//! ```text
//! numbered   session 7 of node-1, request 42, lowest unanswered 40      tumen's own clients: forgotten as soon as answered
//! keyed      hash of an `Idempotency-Key`, fingerprint of the request   anybody, through any node: forgotten by age
//! ```

use std::fmt;

use serde::{Deserialize, Serialize};
use twox_hash::{XxHash3_64, XxHash3_128};

use crate::ids::Epoch;
use crate::partitions::request::MessageId;

/// A place in a partition's log: the epoch of the primary that wrote there, and how many entries stand before it.
///
/// Ordered by epoch first: of two entries with one sequence, that of the newer epoch replaced the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Position {
    /// The epoch whose primary wrote the entry.
    pub epoch: Epoch,
    /// The entry's place in the log, from 1. Zero: before the first.
    pub sequence: u64,
}

impl Position {
    /// Before the first entry.
    pub const ZERO: Self = Self { epoch: Epoch::ZERO, sequence: 0 };

    /// The place with this sequence, written in this epoch.
    pub const fn new(epoch: Epoch, sequence: u64) -> Self {
        Self { epoch, sequence }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.epoch, self.sequence)
    }
}

/// One client's conversation with one partition, numbered by the place of the entry that opened it.
///
/// The epoch is part of the number: in `async` mode an opening entry that was told to its client can be cut off, and
/// another one take its sequence. Two clients with one number would be given each other's answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SessionId(pub Position);

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// One request of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Numbered {
    /// Whose request.
    pub session: SessionId,
    /// Which of its requests, from 1. A retry has the same number.
    pub number: u64,
    /// The lowest number that the client still waits for: at most `number`. All below are answered or given up, and
    /// need not be remembered.
    pub lowest: u64,
}

/// The most bytes of an idempotency key.
pub const KEY_LEN_MAX: usize = 255;

/// XXH3-128 of an idempotency key. Two keys with one hash do not mix: the [`Fingerprint`] tells them apart, and the
/// later one is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KeyDigest(pub u128);

impl KeyDigest {
    /// The digest of a key.
    pub fn of(key: &[u8]) -> Result<Self, KeyLenError> {
        if key.is_empty() || key.len() > KEY_LEN_MAX {
            return Err(KeyLenError(key.len()));
        }
        Ok(Self(XxHash3_128::oneshot(key)))
    }
}

/// XXH3-64 of a request's type and body: the same key with another one is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Fingerprint(pub u64);

/// A request with an idempotency key of the caller's choosing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Keyed {
    /// Which key.
    pub key: KeyDigest,
    /// Which request.
    pub fingerprint: Fingerprint,
}

/// Why an idempotency key was refused. Nothing changed; choose another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "an idempotency key has 1 to {KEY_LEN_MAX} bytes, this one has {0}: nothing changed, choose another one"
)]
pub struct KeyLenError(pub usize);

impl Keyed {
    /// The identity of the request `message` with this body under this key.
    pub fn new(key: &[u8], message: MessageId, body: &[u8]) -> Result<Self, KeyLenError> {
        Ok(Self::under(KeyDigest::of(key)?, message, body))
    }

    /// The same, of a key that was looked at before.
    pub fn under(key: KeyDigest, message: MessageId, body: &[u8]) -> Self {
        Self { key, fingerprint: Fingerprint(XxHash3_64::oneshot_with_seed(message.0, body)) }
    }
}

/// By what a request is known again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Identity {
    /// By its number in a session.
    Numbered(Numbered),
    /// By a key that the caller chose.
    Keyed(Keyed),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_bounded_and_bound_to_its_request() {
        let put = MessageId::of("put");
        assert_eq!(Keyed::new(b"", put, b"x"), Err(KeyLenError(0)));
        assert_eq!(Keyed::new(&[7; 256], put, b"x"), Err(KeyLenError(256)));
        let one = Keyed::new(&[7; 255], put, b"x").unwrap();
        assert_eq!(Keyed::new(&[7; 255], put, b"x"), Ok(one));
        let other_body = Keyed::new(&[7; 255], put, b"y").unwrap();
        assert_eq!(other_body.key, one.key);
        assert_ne!(other_body.fingerprint, one.fingerprint);
        let other_message = Keyed::new(&[7; 255], MessageId::of("cas"), b"x").unwrap();
        assert_ne!(other_message.fingerprint, one.fingerprint);
    }

    #[test]
    fn a_newer_epoch_comes_after_every_sequence_of_the_older_one() {
        assert!(Position::new(Epoch(2), 1) > Position::new(Epoch(1), 9));
        assert_eq!(SessionId(Position::new(Epoch(3), 14)).to_string(), "3.14");
    }
}
