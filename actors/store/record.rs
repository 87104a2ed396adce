//! A record's bytes: a checksum of its place and its value, then the value.

use bytes::{BufMut, Bytes, BytesMut};
use tumen_core::wire::StableHasher;

use super::Space;

pub(super) const CHECKSUM_LEN: usize = 8;

/// The bytes that are kept for `value` at `key`.
pub(super) fn seal(space: Space, key: &[u8], value: &[u8]) -> Bytes {
    let mut bytes = BytesMut::with_capacity(CHECKSUM_LEN + value.len());
    bytes.put_u64_le(checksum(space, key, value));
    bytes.put_slice(value);
    bytes.freeze()
}

/// The value in bytes that were kept at `key`; `None` if they are not what was written there.
pub(super) fn unseal<'a>(space: Space, key: &[u8], bytes: &'a [u8]) -> Option<&'a [u8]> {
    let (sum, value) = bytes.split_first_chunk::<CHECKSUM_LEN>()?;
    (u64::from_le_bytes(*sum) == checksum(space, key, value)).then_some(value)
}

fn checksum(space: Space, key: &[u8], value: &[u8]) -> u64 {
    let mut hash = StableHasher::new();
    hash.write_str(space.name());
    for part in [key, value] {
        hash.write_u64(part.len() as u64);
        hash.write_u64(tumen_core::wire::stable_hash(part));
    }
    hash.finish()
}
